"""Work over many patients from the command line: on a cluster, and clicks or scribbles for a whole catalog."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import click

from clicksim.cli.asked_runs import AskedRun
from clicksim.errors import SettingError, counted


@contextmanager
def open_scheduler(scheduler: str | None, workers: int) -> Iterator[Executor | None]:
    """The executor of a Dask cluster, or None where none is named.

    Raises:
        SettingError: Neither an address nor a file.
        CatalogError: Nobody answers there, or Dask is not installed.
    """
    if scheduler is None:
        yield None
        return
    if workers:
        raise click.UsageError("--workers starts processes here, and --scheduler has workers of its own; give one")
    if not scheduler.endswith(".json") and ":" not in scheduler:
        raise SettingError(
            "--scheduler takes an address, such as tcp://host:8786, or the file ending in .json that "
            f"dask scheduler --scheduler-file writes, got {scheduler!r}"
        )
    from clicksim.pipeline.cluster import dask_executor

    with dask_executor(scheduler) as executor:
        yield executor


def simulate_in_catalog(
    catalog: Path,
    runs: Sequence[AskedRun],
    source: str | None,
    out: str | None,
    layout: str,
    *,
    workers: int,
    scheduler: str | None,
    resume: bool,
) -> None:
    """One prompt run of the catalog per combination of settings; exit code 1 where a case was refused."""
    from clicksim.cli.progress import progress
    from clicksim.pipeline.prompts import PromptJob, simulate_catalog

    if any(run.keys["instances"] != "auto" for run in runs):
        raise SettingError("a catalog knows how the labels of each case are meant; leave --instances at auto")
    refused = 0
    with open_scheduler(scheduler, workers) as executor:
        for run in runs:
            folder = None if out is None else str((Path(out) / run.slug).resolve())
            protocol, seed = run.keys["protocol"], run.keys["seed"]
            job = PromptJob(str(catalog), protocol, seed, run.given, folder, layout, run.table, run.annotator)
            with progress(run.slug or "patients") as report:
                name, summary = simulate_catalog(
                    job, source=source, workers=workers, resume=resume, progress=report, executor=executor
                )
            click.echo(f"run {name}: {counted(summary.cases, 'case')}, {summary.rejected} refused")
            if summary.noted:
                where = f"{catalog}/runs/{name}.json"
                click.echo(
                    f"clicksim: notes on {summary.noted} of {counted(summary.cases, 'case')} stand in {where}", err=True
                )
            refused += summary.rejected
    if refused:
        click.echo(f"clicksim: the reasons stand in {catalog}/runs", err=True)
        raise click.exceptions.Exit(1)

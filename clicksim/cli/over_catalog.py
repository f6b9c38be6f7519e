"""Clicks or scribbles for all cases of a catalog, from the command line."""

from collections.abc import Sequence
from pathlib import Path

import click

from clicksim.cli.runs import Run
from clicksim.errors import SettingError


def simulate_in_catalog(
    catalog: Path,
    runs: Sequence[Run],
    source: str | None,
    out: str | None,
    layout: str,
    workers: int,
    *,
    resume: bool,
    person: str | None = None,
    table: str = "clicks",
) -> None:
    """One prompt run of the catalog per combination of settings; exit code 1 where a case was refused."""
    from clicksim.build.prompts import PromptJob, simulate_catalog
    from clicksim.cli.progress import progress

    annotator = None
    if person is not None:
        from clicksim.simulate.annotator_files import open_annotator

        annotator = open_annotator(person)
    refused = 0
    for run in runs:
        if run.keys["instances"] != "auto":
            raise SettingError("a catalog knows how the labels of each case are meant; leave --instances at auto")
        folder = None if out is None else str((Path(out) / run.slug).resolve())
        protocol, seed = run.keys["protocol"], run.keys["seed"]
        job = PromptJob(str(catalog), protocol, seed, run.given, folder, layout, table, annotator)
        with progress(run.slug or "patients") as report:
            name, summary = simulate_catalog(job, source=source, workers=workers, resume=resume, progress=report)
        click.echo(f"run {name}: {summary.cases} cases, {summary.rejected} refused")
        refused += summary.rejected
    if refused:
        click.echo(f"clicksim: the reasons stand in {catalog}/runs", err=True)
        raise click.exceptions.Exit(1)

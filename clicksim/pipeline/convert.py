"""From a publisher's folder to the catalog's tables."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clicksim import __version__
from clicksim.catalog import Context, Outcome, Source, Unit, create_catalog, open_catalog
from clicksim.catalog.lock import writing
from clicksim.catalog.schema import TABLES, rows_to_table
from clicksim.errors import CatalogError
from clicksim.files import check_space
from clicksim.pipeline.units import WORK, Parts, Progress, Tables, run_facts, tables_of


@dataclass(frozen=True)
class JobSummary:
    """How a run ended, by count of rows; `noted` are the cases of a prompt run that have notes."""

    cases: int
    rejected: int
    noted: int = 0


def convert_source(
    source: Source,
    folder: Path,
    catalog_path: Path,
    *,
    workers: int = 0,
    resume: bool = False,
    shard: tuple[int, int] = (0, 1),
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> JobSummary:
    """Bring a source into a catalog; its rows replace those of an earlier conversion.

    Args:
        source: From `clicksim.catalog.find_source`.
        folder: The publisher's folder or archive.
        catalog_path: A catalog, or where to make one.
        workers: Processes; 0 works in this one.
        resume: Take up the parts of a run that was interrupted.
        shard: `(I, N)` converts every N-th patient from the I-th on.
        options: Options of the source.
        progress: Told after each patient.
        executor: Runs the patients instead of processes of this machine; see `clicksim.pipeline.units.run_on`.

    Raises:
        StorageError: Too little space is free, from the beginning or later; or the catalog may not be written.
        CatalogError: Another process writes to the catalog; the folder is not there; parts of an interrupted run are,
            and `resume` was not asked for; or the source gives two units one key, or two cases one id.
    """
    if not folder.exists():
        raise CatalogError(f"{folder} does not exist; clicksim convert --list shows what it should hold")
    context = Context(folder.resolve(), catalog_path.resolve(), source.name, dict(options or {}))
    started = time.time()
    units, found = source.plan(context)  # before anything is written: it refuses a folder of another kind
    _check_keys(source, units)
    catalog = create_catalog(catalog_path)
    with writing(catalog.path):
        chosen = sorted(units, key=lambda unit: unit.key)[shard[0] :: shard[1]]
        if shard[0] > 0:
            found = Outcome()  # what the plan rejected belongs to the first shard
        job = {
            "version": __version__,
            "source": str(context.source),
            "options": {name: str(value) for name, value in context.options.items()},
            "shard": list(shard),
        }
        parts = Parts(catalog.path / WORK / f"convert-{source.name}", job, resume=resume)
        if source.least_bytes is not None:
            need = sum(source.least_bytes(context, unit) for unit in parts.left(chosen))
            check_space(catalog.path, need, f"the images of {source.name}")
        parts.run(
            chosen,
            partial(_convert_unit, source.convert, context),
            workers=workers,
            progress=progress,
            executor=executor,
        )
        tables = parts.gather(chosen, tables_of(found))
        catalog = open_catalog(catalog.path).with_root(source.name, folder)
        for name in ("links", "lesions", "rejected", "cases"):  # cases last: they are what a reader starts from
            catalog.write_part(name, source.name, tables[name])
        if source.prompt_runs:
            for run, table in source.prompt_runs(tables["cases"].to_pylist(), tables["lesions"].to_pylist()).items():
                catalog.write_part("prompts", run, table)
        catalog.write_sources(rows_to_table("sources", [{"source": source.name, **source.facts}]))
        summary = JobSummary(len(tables["cases"]), len(tables["rejected"]))
        about = {"cases": summary.cases, "rejected": summary.rejected, "workers": workers, "shard": list(shard)}
        catalog.write_run(f"convert-{source.name}", run_facts(started, about))
        parts.remove()
        _sweep(catalog.path, source.name)
        return summary


def _check_keys(source: Source, units: Sequence[Unit]) -> None:
    """Refuse units that could not be told apart: of two with one key the second would be lost."""
    twice = [key for key, count in Counter(unit.key for unit in units).items() if count > 1]
    if twice:
        raise CatalogError(
            f"source {source.name} plans several units of the key {', '.join(twice[:10])}; make one of them"
        )


def _sweep(catalog: Path, source: str) -> None:
    """Take away the half-written files of earlier runs that were killed."""
    for folder in (*(catalog / table / f"source={source}" for table in TABLES), catalog / "images" / source):
        for file in folder.rglob(".writing-*"):
            file.unlink(missing_ok=True)


def _convert_unit(convert: Callable[[Context, Unit], Outcome], context: Context, unit: Unit) -> Tables:
    return tables_of(convert(context, unit))

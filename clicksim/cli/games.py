"""What `clicksim rounds` does: plan, play in parts that survive a kill, gather, commit and draw."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.over_catalog import open_scheduler
from clicksim.cli.paths import making_folder, write_result
from clicksim.errors import CatalogError, counted, up_to_ten
from clicksim.files import make_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.catalog import Catalog, Unit
    from clicksim.pipeline.units import Parts
    from clicksim.rounds.jobs import RoundsJob, Tables
    from clicksim.rounds.replay import Recordings


@dataclass(frozen=True, kw_only=True)
class Games:
    """A run of `clicksim rounds`; the attributes are its options."""

    predictor: str
    protocol: str
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float = 600.0
    catalog: str | Path | None = None
    source: str | None = None
    label: Path | None = None
    pet: Path | None = None
    ct: Path | None = None
    case_id: str | None = None
    workers: int = 0
    resume: bool = False
    name: str | None = None
    out: Path | None = None
    keep_predictions: bool = False
    replay: tuple[str, ...] = ()
    gap: bool = False
    person: str | None = None
    scheduler: str | None = None

    def play(self) -> dict[str, Any]:
        """Play all, write all, and give the summary; nobody else writes to the catalog meanwhile.

        Finished patients are kept until the whole run is written, so that `resume` finds them.

        Raises:
            click.UsageError: Neither a catalog nor a label, or both.
            CatalogError: Somebody writes to the catalog.
        """
        from clicksim.catalog import lock, open_catalog

        with nullcontext() if self.catalog is None else lock.writing(open_catalog(self.catalog).path):
            return self._play()

    def _play(self) -> dict[str, Any]:
        from clicksim.rounds.jobs import rounds_run_id

        catalog, units, job, recorded = self._plan()
        run, started = self.name or rounds_run_id(job, units), time.time()
        with tempfile.TemporaryDirectory(prefix="clicksim-") as spare:
            home = (self.out or Path(spare)) if catalog is None else catalog.path
            tables, parts = self._run(job, catalog, units, run, home)
            played = [parts]
            summary = self._summary(tables, run, job)
            if recorded is not None:
                summary["replay_minus_recorded"] = _compare_common(recorded, tables["rounds"], self.seed)
            if self.gap:
                rest = [replace(unit, content=[e | {"recordings": None} for e in unit.content]) for unit in units]
                own, parts = self._run(replace(job, keep=None), catalog, rest, f"{run}-own", home)
                played.append(parts)
                summary["gap"] = _compare_common(tables["rounds"], own["rounds"], self.seed, by_case=True)
            facts = self._facts(started, tables, units)
            if catalog is not None:
                commit(catalog, run, tables, facts)
            if self.out is not None:
                write_outcome(self.out, tables, summary, facts)
            for parts in played:
                parts.remove()
        return summary

    def _plan(self) -> "tuple[Catalog | None, list[Unit], RoundsJob, pa.Table | None]":
        """The catalog, the patients with what was recorded of them, the job, and the rounds that were recorded.

        What cannot be played is refused here, before the work.
        """
        from clicksim.catalog.prompt_runs import check_names
        from clicksim.catalog.store import check_part
        from clicksim.predictors.spec import open_predictor
        from clicksim.rounds.jobs import with_recordings

        catalog, units = self._cases()
        check_names(units)
        if self.name is not None:
            check_part("rounds", self.name)
        if self.out is not None:
            make_folder(self.out)
        job = self._job()
        for sentence in job.rules.notes:
            click.echo(sentence, err=True)
        open_predictor(self.predictor, time_limit_s=self.time_limit)
        recordings, recorded = self._recordings(catalog)
        if recordings:
            units, absent = with_recordings(units, recordings)
            if absent:
                click.echo(f"not here: {counted(len(absent), 'recorded case')}, {up_to_ten(absent)}", err=True)
        return catalog, units, job, recorded

    def _job(self) -> "RoundsJob":
        from clicksim.cli.asked_runs import open_person
        from clicksim.rounds.jobs import RoundsJob

        keep = str((self.out / "predictions").resolve()) if self.keep_predictions and self.out else None
        annotator = open_person(self.person)
        return RoundsJob(self.predictor, self.protocol, self.seed, self.settings, self.time_limit, keep, annotator)

    def _cases(self) -> "tuple[Catalog | None, list[Unit]]":
        """The catalog, where one is played, and the patients."""
        from clicksim.catalog import open_catalog
        from clicksim.rounds.jobs import catalog_units, file_unit
        from clicksim.volumes import case_id_of

        if self.catalog is not None and self.label is None:
            catalog = open_catalog(self.catalog)
            return catalog, catalog_units(catalog, self.source)
        if self.label is not None and self.catalog is None:
            name = case_id_of(self.label) if self.case_id is None else self.case_id
            return None, [file_unit(self.label, pet=self.pet, ct=self.ct, case_id=name)]
        raise click.UsageError("give --catalog, or --label with --pet and --ct")

    def _recordings(self, catalog: "Catalog | None") -> "tuple[Recordings, pa.Table | None]":
        """Recorded prompts, and the rounds of the one run that made them, where it is known."""
        from clicksim.rounds.replay import add_recordings, make_recordings, read_recordings, read_rounds

        found: Recordings = {}
        rounds: list[pa.Table] = []
        files = []
        for name in self.replay:
            if catalog is not None and name in catalog.parts("prompts"):
                known = catalog.table("rounds", name) if name in catalog.parts("rounds") else None
                rounds += [] if known is None else [known.drop_columns(["run"])]
                prompts = catalog.table("prompts", name).replace_schema_metadata(catalog.part_metadata("prompts", name))
                made = make_recordings(prompts, [] if known is None else known.to_pylist(), where=name)
                add_recordings(found, made, where=name)
            elif Path(name).exists():
                files.append(name)
                beside = read_rounds(Path(name))
                rounds += [] if beside is None else [beside]
            else:
                raise CatalogError(f"--replay {name} is neither a run of the catalog nor a file")
        add_recordings(found, read_recordings(files), where=", ".join(files))
        if self.replay and not found:
            raise CatalogError(f"{', '.join(self.replay)}: no recorded case")
        return found, rounds[0] if len(rounds) == 1 and len(self.replay) == 1 else None

    def _run(
        self, job: "RoundsJob", catalog: "Catalog | None", units: "Sequence[Unit]", run: str, home: Path
    ) -> "tuple[Tables, Parts]":
        """Play the units in parts below `home` that survive a kill."""
        from clicksim.catalog.schema import table_schema
        from clicksim.cli.progress import progress
        from clicksim.pipeline.units import WORK, Parts
        from clicksim.rounds.jobs import finish_tables, play_unit, rounds_run_id

        parts = Parts(home / WORK / f"rounds-{run}", {"run": run, "id": rounds_run_id(job, units)}, resume=self.resume)
        # another machine may play, from another folder
        work = partial(play_unit, job, None if catalog is None else replace(catalog, home=catalog.path.resolve()))
        with progress("patients") as report, open_scheduler(self.scheduler, self.workers) as executor:
            parts.run(units, work, workers=self.workers, progress=report, executor=executor)
        empty = {name: table_schema(name).empty_table() for name in ("rounds", "prompts")}
        return finish_tables(job, units, parts.gather(units, empty)), parts

    def _summary(self, tables: "Tables", run: str, job: "RoundsJob") -> dict[str, Any]:
        from clicksim.rounds.statistics import summarise
        from clicksim.rounds.texts import failure_lines

        rows = tables["rounds"].to_pylist()
        for line in failure_lines(rows):
            click.echo(line, err=True)
        summary = {"run": run, **job.about(), **summarise(rows, seed=self.seed)}
        summary["failures"] = dict(Counter(row["failure"] for row in rows if row["failure"]))
        for name in ("agreement", "efforts", "notes"):
            if name in tables:
                summary[name] = tables[name].to_pylist()
        return summary

    def _facts(self, started: float, tables: "Tables", units: "Sequence[Unit]") -> dict[str, Any]:
        """Wall-clock facts, which stand in no table."""
        from clicksim.pipeline.units import run_facts

        timings = tables["timings"].to_pylist() if "timings" in tables else []
        about = {"cases": sum(len(unit.content) for unit in units), "workers": self.workers, "rounds": timings}
        return run_facts(started, about)


def compare_folders(catalog: str | Path | None, names: tuple[str, str], seed: int) -> dict[str, Any]:
    """The paired difference of two runs, by the names of their folders or, in a catalog, of the runs."""
    from clicksim.catalog import open_catalog
    from clicksim.rounds.replay import read_rounds
    from clicksim.rounds.statistics import compare_runs

    opened = None if catalog is None else open_catalog(catalog)
    tables = []
    for name in names:
        if opened is not None and name in opened.parts("rounds"):
            tables.append(opened.table("rounds", name))
            continue
        found = read_rounds(Path(name))
        if found is None:
            raise CatalogError(f"{name} is no folder with rounds.parquet{'' if opened is None else ', and no run'}")
        tables.append(found)
    rows = [table.to_pylist() for table in tables]
    return {"first": names[0], "second": names[1], **compare_runs(rows[0], rows[1], seed=seed)}


def commit(catalog: "Catalog", run: str, tables: "Tables", facts: Mapping[str, Any]) -> None:
    """Write the run into the catalog: prompts, then rounds, then what the clock says."""
    catalog.write_part("prompts", run, tables["prompts"])
    catalog.write_part("rounds", run, tables["rounds"])
    catalog.write_run(run, facts)


def write_outcome(out: Path, tables: "Tables", summary: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the tables, the scores of each case, the summary, the curve and what the clock says to a folder."""
    from clicksim.prompts.table import write_prompt_table
    from clicksim.report.curves import draw_curves
    from clicksim.report.mip import save_picture
    from clicksim.rounds.case_curves import curves_of, metric_scores

    for name in ("rounds", "prompts"):
        write_prompt_table(out / f"{name}.parquet", tables[name])
    scores = metric_scores(curves_of(tables["rounds"].to_pylist()))
    for name, content in (("metric_scores", scores), ("summary", summary), ("run", facts)):
        write_result(out / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    shown = {name: summary["all"]["rounds"][key] for name, key in (("Dice", "dice"), ("lesion F1", "dmm"))}
    title = f"{summary['protocol']}, {summary['predictor']}, {counted(summary['all']['cases'], 'case')}"
    with making_folder(out / "curve.png"):
        save_picture(draw_curves(shown, title=title, what="score"), out / "curve.png")


def _compare_common(first: "pa.Table", second: "pa.Table", seed: int, *, by_case: bool = False) -> dict[str, Any]:
    """The paired difference over what both have, cut to the shorter of two games.

    Args:
        first, second: Rounds.
        seed: Of the bootstrap.
        by_case: Compare every annotator of the first with the one game of the second.
    """
    from clicksim.rounds.statistics import compare_runs

    one, two = first.to_pylist(), second.to_pylist()
    if by_case:
        games: dict[str, list[dict[str, Any]]] = {}
        for row in two:
            games.setdefault(row["case_id"], []).append(row)
        keys = dict.fromkeys((row["case_id"], row["annotator"]) for row in one)
        two = [row | {"annotator": person} for case_id, person in keys for row in games.get(case_id, [])]
    lengths = [_lengths(rows) for rows in (one, two)]
    shared = {key: min(n, lengths[1][key]) for key, n in lengths[0].items() if key in lengths[1]}
    cut = [[row for row in rows if row["round"] < shared.get(_key(row), 0)] for rows in (one, two)]
    return compare_runs(cut[0], cut[1], seed=seed)


def _lengths(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        found[_key(row)] = max(found.get(_key(row), 0), row["round"] + 1)
    return found


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["case_id"], row["annotator"]

"""Clicks and scribbles for many cases: of a catalog, or of a folder of labels; one run or a sweep of several."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog import Catalog, Outcome, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.lock import writing
from clicksim.catalog.prompt_runs import check_names, hash_run
from clicksim.catalog.schema import rows_to_table, table_schema
from clicksim.catalog.store import CatalogCommit, check_part
from clicksim.errors import ClicksimError
from clicksim.files import PROMPT_ENDINGS, check_space
from clicksim.geometry.reuse import reusing_results
from clicksim.pipeline.cases import CaseEntry, catalog_units, folder_units, reason_of
from clicksim.pipeline.conversion import Summary
from clicksim.pipeline.job import REMEDY, RENAME, Job, check_record, run_job, with_version, write_record
from clicksim.pipeline.parts import DIED, Tables
from clicksim.pipeline.workers import Crew
from clicksim.prompts import Prompts
from clicksim.prompts.table import METADATA_KEY
from clicksim.protocols import (
    ProtocolName,
    effective_settings,
    freeze_protocol,
    load_protocol,
    protocol_facts,
    protocol_of,
)
from clicksim.protocols.strategy_registry import CLICK_STRATEGIES, STROKE_STRATEGIES

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.simulate.annotators.people import Annotator
    from clicksim.volumes.case import CaseImages

BLOCK = 4096
"""Bytes that a file takes on a disk at least."""
MOST_NOTES = 1000
"""How many notes on cases, such as that there is no PET, are in `runs/<id>.json`; `noted` there counts all cases."""
RUN = "run"
"""The column that says to which run of a sweep a row belongs, while the job runs."""


@dataclass(frozen=True)
class PromptRun:
    """What is simulated in every case.

    Attributes:
        protocol, seed: As `clicksim.simulate_clicks` takes them.
        settings: The settings that the user gave.
        table: The protocol's table: `clicks` or `scribbles`.
        annotator: A model of the person, who changes the prompts of the rule; None for the rule's own.
        instances: How values of labels become lesions; `auto` uses the value in the catalog for each case.
        round: The round of a correction.
        folder: The folder of this run's files in a sweep; empty without a sweep.
        text: The effective settings as TOML, written beside the files of a folder.
    """

    protocol: ProtocolName
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    table: str = "clicks"
    annotator: "Annotator | None" = None
    instances: str = "auto"
    round: int = 0
    folder: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", freeze_protocol(self.protocol))

    def about(self) -> dict[str, Any]:
        """The run's metadata; scribbles also have `table`, prompts of a person also `annotator_model`."""
        settings, _ = effective_settings(load_protocol(self.protocol), self.table, self.settings)
        about = {"version": __version__, **protocol_facts(self.protocol), "seed": self.seed, "settings": settings}
        if self.table != "clicks":
            about["table"] = self.table
        if self.annotator is not None:
            from clicksim.simulate.annotators.annotator_files import annotator_facts

            about["annotator_model"] = annotator_facts(self.annotator)
        strategies = CLICK_STRATEGIES if self.table == "clicks" else STROKE_STRATEGIES
        return about | strategies.made_by_others(*settings.values())

    @classmethod
    def of_metadata(cls, about: Mapping[str, Any]) -> "PromptRun":
        """Return the run that metadata describe; for imported files, the rule that was named at import."""
        own = {name: value for name, value in about["settings"].items() if name != "rule"}
        person = about.get("annotator_model")
        if person is not None:
            from clicksim.simulate.annotators.annotator_files import annotator_of

            person = annotator_of(person)
        return cls(protocol_of(about), about["seed"], own, table=about.get("table", "clicks"), annotator=person)

    def make(self, case: "CaseImages", entry: CaseEntry) -> Prompts:
        """Simulate the prompts of one case.

        Raises:
            ClicksimError: The images or the settings are refused.
        """
        from clicksim.simulate.from_files import click_case, scribble_case

        rules, own = self.about()["settings"], dict(self.settings)
        published = rules.get("rule") == "published"
        shared: dict[str, Any] = {
            "instances": entry.instances if self.instances == "auto" and not published else self.instances,
            "protocol": self.protocol,
            "seed": self.seed,
            "annotator": self.annotator,
        }
        if self.table == "scribbles":
            if case.prediction is not None:
                shared["instances"] = self.instances
            return scribble_case(case, round=self.round, **shared, **own)
        if rules.get("background") == "threshold" and entry.suv_threshold:
            own["suv"] = own.get("suv") or float(entry.suv_threshold)
        return click_case(case, **shared, **own)


def simulate_catalog(
    catalog: str | Path,
    runs: Sequence[PromptRun],
    *,
    source: str | None = None,
    out: Path | None = None,
    layout: str = "plain",
    name: str | None = None,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Summary]:
    """Simulate clicks or scribbles in every case of a catalog, and commit them as prompt runs.

    The unit of work is a patient, whose images are read once for all runs. A case that cannot be simulated is
    reported, and the others continue.

    Args:
        catalog: Its folder.
        runs: What to simulate.
        source: One source of the catalog, or all.
        out: A folder for one file per case as well, or None.
        layout: The layout of those files: `plain`, `grand-challenge` or `rows` (Parquet).
        name: The name of the only run; by default a hash of protocol, settings, seed and cases.
        crew: Who does the work; by default this process.
        resume: Continue a run that was interrupted.
        overwrite: Replace a run or files of the same name that were made in another way.

    Returns:
        For each run id, the numbers of cases that were simulated, refused and noted. `runs/<id>.json` has the refused
        cases, and the first `MOST_NOTES` notes, by case.

    Raises:
        CatalogError: There are no cases, cases of several sources have one id, or as `run_job`.
        SettingError: The protocol or a setting is unknown.
        StorageError: Too little space is free, or a folder cannot be written.
    """
    opened = open_catalog(catalog)
    opened.path  # noqa: B018 - a read-only catalog is rejected here
    roles = ("label", "pet", "organs")
    units = catalog_units(opened, source, roles=roles)
    names = [entry.case_id for unit in units for entry in unit.content]
    check_names(names if out is None else map(_file_name, names))
    ids = [name] if name is not None else [_run_id(run, units) for run in runs]
    for run_id in ids:
        check_part("prompts", run_id)
    files = replace(opened, home=opened.path.resolve())  # another machine may do it, from another folder
    named = dict(zip(ids, runs, strict=True))
    identities = {run_id: _identity(run) for run_id, run in named.items()}
    kind = runs[0].table
    job = Job(
        name=f"prompts-{_joint_id(ids)}",
        home=opened.path if out is None else out,
        identity={**identities, "layout": layout if out else None},
        units=units,
        work=partial(simulate_unit, files, named, roles, layout if out else None),
        finish=partial(_commit_runs, opened, units, named, kind if out else None),
        tables=_empty_tables(),
        commit=CatalogCommit if out is None else Commit,
        records=identities if out is None else {kind: {**identities, "layout": layout}},
        remedy=RENAME if out is None else REMEDY,
        begin=None if out is None else partial(_check_space, out, len(runs)),
    )
    if out is not None and not overwrite:  # `run_job` checks the folder alone
        for run_id, identity in identities.items():
            check_record(opened.path, run_id, identity, RENAME)
    with writing(opened.path):
        return run_job(job, crew, resume=resume, overwrite=overwrite)


def simulate_folder(
    labels: Path, runs: Sequence[PromptRun], out: Path, *, companions: Mapping[str, Path | None], **options: Any
) -> list[dict[str, Any]]:
    """Simulate clicks or scribbles for every label of a folder: one file for each case and run.

    Args:
        labels: The folder.
        runs, out, **options: As `simulate_cases` takes them.
        companions: The folder of images by role (`pet`, `organs`, `prediction`).

    Raises:
        ImageError: As `folder_units`.
        CatalogError, StorageError: As `run_job`.
    """
    roles = ("label", *(role for role, path in companions.items() if path is not None))
    return simulate_cases(folder_units(labels, companions), runs, out, roles=roles, **options)


def simulate_cases(
    units: Sequence[Unit],
    runs: Sequence[PromptRun],
    out: Path,
    *,
    roles: Sequence[str],
    layout: str = "plain",
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Simulate clicks or scribbles for cases that are files: one file for each case and run.

    Args:
        units: The cases, from `clicksim.pipeline.cases`.
        runs: What to simulate.
        out: The folder of the result; the files of a run are in its `folder` there.
        roles: The images that are read.
        layout: The layout of the files: `plain`, `grand-challenge` or `rows` (Parquet).
        crew: Who does the work; by default this process.
        resume: Continue a run that was interrupted.
        overwrite: Replace files that were made in another way.

    Returns:
        A row for each case of each run: its `run`, `case_id`, and the `notes` on it or why it was `refused`.

    Raises:
        CatalogError, StorageError: As `run_job`.
    """
    named = {run.folder: run for run in runs}
    job = Job(
        name=runs[0].table,
        home=out,
        identity={"layout": layout, **{run.folder or "run": _identity(run) for run in runs}},
        units=units,
        work=partial(simulate_unit, None, named, roles, layout),
        finish=partial(_finish_folder, units, named),
        tables=_empty_tables(),
        begin=partial(_check_space, out, len(runs)),
    )
    return run_job(job, crew, resume=resume, overwrite=overwrite)


def simulate_unit(
    catalog: Catalog | None,
    runs: Mapping[str, PromptRun],
    roles: Sequence[str],
    layout: str | None,
    unit: Unit,
    folder: Path,
) -> Tables:
    """Simulate the cases of one unit in every run; return rows and notes, and write a file for each if asked."""
    import pyarrow as pa

    rejected: list[dict[str, Any]] = []
    tables, notes = [], []
    for entry in unit.content:
        case: CaseImages | None = None
        with reusing_results():
            for run_id, run in runs.items():
                about = {RUN: run_id, "case_id": entry.case_id}
                try:
                    case = case or entry.open(catalog, roles)
                    prompts, said = _make(run, case, entry)
                except ClicksimError as error:
                    rejected.append({**about, "code": reason_of(error), "message": str(error)})
                    continue
                rows = prompts.to_table().replace_schema_metadata(None).cast(table_schema("prompts"))
                tables.append(rows.append_column(RUN, pa.array([run_id] * len(rows), pa.string())))
                notes += [{**about, "note": note} for note in said]
                if layout is not None:
                    write_prompt_file(folder / run.folder, prompts, layout, run.table)
    found = _empty_tables()
    for name, listed in (("refusals", rejected), ("notes", notes)):
        found[name] = pa.Table.from_pylist(listed, found[name].schema)
    found["prompts"] = pa.concat_tables([found["prompts"], *tables])
    if rejected:  # what progress counts
        outcome = Outcome()
        for row in rejected:
            outcome.reject(row["code"], row["message"], case_id=row["case_id"])
        found["rejected"] = rows_to_table("rejected", outcome.rejected)
    return found


def _check_space(out: Path, runs: int, units: Sequence[Unit]) -> None:
    """Reject a disk without space for the files of the remaining units."""
    check_space(out, BLOCK * sum(len(unit.content) for unit in units) * runs, "a file for each case")


def write_prompt_file(folder: Path, prompts: Prompts, layout: str, table: str) -> Path:
    """Write the file of one case to a folder, which is created; return the file."""
    file = folder / f"{_file_name(prompts.case_id)}{PROMPT_ENDINGS[layout].format(table)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts_as(file, prompts, layout)
    return file


def write_prompts_as(file: Path, prompts: Prompts, layout: str) -> None:
    """Write prompts to one file in one of the layouts."""
    if layout == "rows":
        from clicksim.prompts.table import write_prompt_table

        write_prompt_table(file, prompts.to_table())
    else:
        from clicksim.prompts.prompt_files import write_prompts

        write_prompts(file, prompts, layout)


def _make(run: PromptRun, case: "CaseImages", entry: CaseEntry) -> tuple[Prompts, list[str]]:
    """Simulate the prompts of one case; return them with the notes on them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        prompts = run.make(case, entry)
    notes = [*(str(warning.message) for warning in caught), *prompts.notes]
    return replace(prompts, settings=run.about()["settings"]), notes


def _empty_tables() -> Tables:
    import pyarrow as pa

    text = pa.string()
    columns = {
        "refusals": [(RUN, text), ("case_id", text), ("code", text), ("message", text)],
        "notes": [(RUN, text), ("case_id", text), ("note", text)],
    }
    empty = {name: pa.schema(fields).empty_table() for name, fields in columns.items()}
    prompts = table_schema("prompts").append(pa.field(RUN, text))
    return {**empty, "prompts": prompts.empty_table(), "rejected": table_schema("rejected").empty_table()}


def _identity(run: PromptRun) -> dict[str, Any]:
    return run.about() | {"instances": run.instances, "round": run.round}


def _run_id(run: PromptRun, units: Sequence[Unit]) -> str:
    """Hash of protocol, settings, seed and cases."""
    return hash_run(run.about(), {unit.key: [entry.case_id for entry in unit.content] for unit in units})


def _joint_id(ids: Sequence[str]) -> str:
    """Return one name for several runs; a single run keeps its own."""
    if len(ids) == 1:
        return ids[0]
    return hashlib.blake2b(json.dumps(list(ids)).encode(), digest_size=8).hexdigest()


def _refusals(units: Sequence[Unit], runs: Sequence[str], tables: Tables) -> list[dict[str, Any]]:
    """Return the refusals; if the process of a unit died, one for each of its cases in each run."""
    patients = {entry.case_id: entry.facts["patient_key"] for unit in units for entry in unit.content}
    found: list[dict[str, Any]] = tables["refusals"].to_pylist()
    contents = {unit.key: unit.content for unit in units}
    for row in tables["rejected"].to_pylist():
        if row["code"] == DIED:
            told = {"code": row["code"], "message": row["message"], "path": row["path"]}
            found += [{RUN: run, "case_id": entry.case_id, **told} for run in runs for entry in contents[row["path"]]]
    return [row | {"patient_key": patients[row["case_id"]]} for row in found]


def _commit_runs(
    catalog: Catalog,
    units: Sequence[Unit],
    runs: Mapping[str, PromptRun],
    files: str | None,
    tables: Tables,
    commit: Commit,
    facts: Mapping[str, Any],
) -> dict[str, Summary]:
    """Commit the runs to the catalog, then files to their folder; after a kill both are done again."""
    if isinstance(commit, CatalogCommit):
        return _write_runs(units, runs, tables, commit, facts)
    with catalog.commit() as own:
        summaries = _write_runs(units, runs, tables, own, facts)
    write_record(commit, str(files), {**facts, "catalog": str(catalog.home)})
    _write_settings(runs, commit)
    return summaries


def _write_runs(
    units: Sequence[Unit],
    runs: Mapping[str, PromptRun],
    tables: Tables,
    commit: CatalogCommit,
    facts: Mapping[str, Any],
) -> dict[str, Summary]:
    import pyarrow.compute as pc

    all_cases = [entry.case_id for unit in units for entry in unit.content]
    refusals = _refusals(units, list(runs), tables)
    summaries = {}
    for run_id, run in runs.items():
        mine = pc.field(RUN) == run_id
        refused = [{k: v for k, v in row.items() if k != RUN} for row in refusals if row[RUN] == run_id]
        done = sorted(set(all_cases) - {row["case_id"] for row in refused})
        prompts = tables["prompts"].filter(mine).drop_columns([RUN])
        commit_prompts(commit, run_id, prompts, run.about() | {"cases": done})
        notes = tables["notes"].filter(mine)
        noted = len(notes["case_id"].unique())
        told = {"cases": len(all_cases), "refused": refused, "noted": noted, "notes": _notes_by_case(notes)}
        write_record(commit, run_id, {**facts, "job": with_version(_identity(run)), **told})
        summaries[run_id] = Summary(len(done), len(refused), noted)
    return summaries


def commit_prompts(commit: CatalogCommit, run: str, table: "pa.Table", about: Mapping[str, Any]) -> None:
    """Write a prompt run; the values that all its rows share are in the metadata of the file."""
    metadata = {METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
    commit.write_part("prompts", run, table.replace_schema_metadata(metadata))


def _finish_folder(
    units: Sequence[Unit],
    runs: Mapping[str, PromptRun],
    tables: Tables,
    commit: Commit,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the result for each case of each run; the commit has the files already."""
    refused = {(row[RUN], row["case_id"]): row["message"] for row in _refusals(units, list(runs), tables)}
    notes: dict[tuple[str, str], list[str]] = {}
    for row in tables["notes"].to_pylist():
        notes.setdefault((row[RUN], row["case_id"]), []).append(row["note"])
    _write_settings(runs, commit)
    keys = [(run, entry.case_id) for run in runs for unit in units for entry in unit.content]
    write_record(commit, next(iter(runs.values())).table, {**facts, "cases": len(keys), "refused": len(refused)})
    return [{RUN: key[0], "case_id": key[1], "notes": notes.get(key, []), "refused": refused.get(key)} for key in keys]


def _write_settings(runs: Mapping[str, PromptRun], commit: Commit) -> None:
    """Write the settings of each run beside its files."""
    for run in runs.values():
        if run.text:
            commit.text(f"{run.folder}/settings.toml".lstrip("/"), run.text)


def _notes_by_case(table: "pa.Table") -> dict[str, list[str]]:
    """Return the first notes, by case."""
    found: dict[str, list[str]] = {}
    for row in table.slice(0, MOST_NOTES).to_pylist():
        found.setdefault(row["case_id"], []).append(row["note"])
    return found


def _file_name(case_id: str) -> str:
    return case_id.replace("/", "_")

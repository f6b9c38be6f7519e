"""Prompts for all cases of a catalog: simulated, and committed as one run."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog import Catalog, Outcome, Unit, open_catalog
from clicksim.catalog.lock import writing
from clicksim.catalog.prompt_runs import check_names, hash_run, read_patients
from clicksim.catalog.schema import rows_to_table, table_schema
from clicksim.errors import (
    CatalogError,
    ClicksimError,
    GeometryError,
    ImageError,
    LabelError,
    ReferenceAbortError,
    TruncatedError,
    UptakeError,
)
from clicksim.files import PROMPT_ENDINGS, check_space
from clicksim.pipeline.convert import JobSummary
from clicksim.pipeline.units import WORK, Parts, Progress, Tables, run_facts
from clicksim.prompts import Prompts
from clicksim.prompts.table import METADATA_KEY
from clicksim.protocols import effective_settings, load_protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.simulate.annotators.people import Annotator

BLOCK = 4096
"""Bytes that a file takes on a disk at the least."""
MOST_NOTES = 1000
"""Notes on cases, such as that there was no PET, that `runs/<id>.json` holds; `noted` there counts all such cases."""


@dataclass(frozen=True)
class PromptJob:
    """What is simulated in every case of a catalog.

    Attributes:
        catalog: Its folder.
        protocol, seed: As `clicksim.simulate_clicks` takes them.
        settings: The user's own.
        out: Where to write one JSON file per case as well, or None.
        layout: Of those files: `plain`, `grand-challenge` or `rows` (Parquet).
        table: The protocol's table: `clicks` or `scribbles`.
        annotator: A model of the person, who changes the prompts of the rule; None for the rule's own.
    """

    catalog: str
    protocol: str
    seed: int
    settings: Mapping[str, Any]
    out: str | None = None
    layout: str = "plain"
    table: str = "clicks"
    annotator: "Annotator | None" = None

    def about(self) -> dict[str, Any]:
        """What the run's metadata say: `table` for scribbles, `annotator_model` for those of a person, as well."""
        settings, _ = effective_settings(load_protocol(self.protocol), self.table, self.settings)
        about = {"version": __version__, "protocol": self.protocol, "seed": self.seed, "settings": settings}
        if self.table != "clicks":
            about["table"] = self.table
        if self.annotator is not None:
            from clicksim.simulate.annotators.annotator_files import annotator_facts

            about["annotator_model"] = annotator_facts(self.annotator)
        return about

    @classmethod
    def of_run(cls, catalog: str, about: Mapping[str, Any]) -> "PromptJob":
        """The job behind the metadata of a run; of an imported one, the one named at import."""
        own = {name: value for name, value in about["settings"].items() if name != "rule"}
        person = about.get("annotator_model")
        if person is not None:
            from clicksim.simulate.annotators.annotator_files import annotator_of

            person = annotator_of(person)
        table = about.get("table", "clicks")
        return cls(catalog, load_protocol(about["protocol"]).id, about["seed"], own, table=table, annotator=person)


def simulate_catalog(
    job: PromptJob,
    *,
    source: str | None = None,
    workers: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> tuple[str, JobSummary]:
    """Simulate clicks or scribbles in every case of a catalog, and commit them as one prompt run.

    The unit of work is a patient. A case that cannot be simulated is reported and the others go on.

    Args:
        job: What to simulate.
        source: One source of the catalog, or all.
        workers: Processes; 0 works in this one.
        resume: Take up a run that was interrupted.
        progress: Told after each patient.
        executor: Runs the patients instead of processes of this machine; see `clicksim.pipeline.units.run_on`.

    Returns:
        The id of the run, which is a hash of protocol, settings, seed and cases; and how many cases were
        simulated, refused and noted. The refused ones stand in `runs/<id>.json`, and so do the first `MOST_NOTES`
        notes, by case.

    Raises:
        CatalogError: No cases, cases of several sources with one id, or another process that writes to the catalog.
        SettingError: An unknown protocol or setting.
        StorageError: Too little space is free, or a folder may not be written.
    """
    catalog = open_catalog(job.catalog)
    with writing(catalog.path):
        units = patient_units(catalog, source)
        check_names(units, str if job.out is None else _file_name)
        run = prompt_run_id(job, units)
        cases = sum(len(unit.content) for unit in units)
        if job.out:
            check_space(Path(job.out), BLOCK * cases, "a file for each case")
        started = time.time()
        about = {"run": run, "version": __version__, "out": job.out, "layout": job.layout}
        parts = Parts(catalog.path / WORK / f"prompts-{run}", about, resume=resume)
        # another machine may do it, from another folder
        work = partial(_simulate_patient, replace(job, catalog=str(catalog.path.resolve())))
        parts.run(units, work, workers=workers, progress=progress, executor=executor)
        none = {name: table_schema(name).empty_table() for name in ("prompts", "rejected")}
        tables = parts.gather(units, {**none, "notes": _note_table([])})
        refused = _refused_cases(units, tables["rejected"].to_pylist())
        names = {row["case_id"] for unit in units for row in unit.content} - {row["case_id"] for row in refused}
        commit_prompts(catalog, run, tables["prompts"], job.about() | {"cases": sorted(names)})
        noted = len(tables["notes"]["case_id"].unique())
        facts = {"cases": cases, "workers": workers, "refused": refused, "noted": noted}
        catalog.write_run(run, run_facts(started, {**facts, "notes": _notes_by_case(tables["notes"])}))
        parts.remove()
        return run, JobSummary(cases - len(refused), len(refused), noted)


def _refused_cases(units: Sequence[Unit], rejected: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The refusals, one for each case of a patient whose process died."""
    contents = {unit.key: unit.content for unit in units}
    found = []
    for refusal in rejected:
        rows = contents[refusal["path"]] if refusal["code"] == "WorkerDied" else [refusal]
        found += [refusal | {name: row[name] for name in ("case_id", "patient_key")} for row in rows]
    return found


def _note_table(notes: Sequence[tuple[str, str]]) -> "pa.Table":
    """Pairs of a case and a sentence as a table."""
    import pyarrow as pa

    schema = pa.schema([("case_id", pa.string()), ("note", pa.string())])
    return pa.Table.from_pylist([{"case_id": case, "note": note} for case, note in notes], schema=schema)


def _notes_by_case(table: "pa.Table") -> dict[str, list[str]]:
    """The first notes, by case."""
    found: dict[str, list[str]] = {}
    for row in table.slice(0, MOST_NOTES).to_pylist():
        found.setdefault(row["case_id"], []).append(row["note"])
    return found


def commit_prompts(catalog: Catalog, run: str, table: "pa.Table", about: Mapping[str, Any]) -> None:
    """Write a prompt run; what all its rows share stands in the file's metadata."""
    metadata = {METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
    catalog.write_part("prompts", run, table.replace_schema_metadata(metadata))


def patient_units(catalog: Catalog, source: str | None = None) -> list[Unit]:
    """The patients of a catalog, each with its cases.

    Raises:
        CatalogError: There are none.
    """
    columns = ["label_path", "pet_path", "organs_path", "suv_threshold", "instances"]
    patients = read_patients(catalog, columns, source)
    if not patients:
        raise CatalogError(f"no cases{f' of {source}' if source else ''} in {catalog.home}")
    return [Unit(key, rows) for key, rows in patients.items()]


def prompt_run_id(job: PromptJob, units: Sequence[Unit]) -> str:
    """Hash of protocol, settings, seed and cases."""
    return hash_run(job.about(), {unit.key: [row["case_id"] for row in unit.content] for unit in units})


def simulate_row(catalog: Catalog, row: Mapping[str, Any], job: PromptJob) -> Prompts:
    """The clicks or scribbles of one case of a catalog.

    An instance map is one where the publisher's ids are the lesions; anything else is split into components, so
    that `lesion` in the prompts is `lesion_index` in the lesions.
    """
    from clicksim.simulate.from_files import scribble_case, simulate_case

    def file(column: str) -> Path | None:
        return None if row[column] is None else catalog.resolve(row[column])

    label = file("label_path")
    if label is None:
        raise ImageError(f"case {row['case_id']} has no label")
    rules, own = job.about()["settings"], dict(job.settings)
    if job.table == "clicks" and rules.get("background") == "threshold" and row["suv_threshold"]:
        own["suv"] = own.get("suv") or float(row["suv_threshold"])
    pet = file("pet_path") if rules.get("n_background", 0) or job.annotator else None
    shared: dict[str, Any] = {
        "case_id": row["case_id"],
        "instances": "auto" if rules.get("rule") == "published" else row["instances"],
        "protocol": job.protocol,
        "seed": job.seed,
        "annotator": job.annotator,
        **own,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # idle settings were named once, before the run
        if job.table == "scribbles":
            prompts = scribble_case(label, pet=pet, **shared)
        else:
            organs = file("organs_path") if rules.get("background") == "organ" else None
            prompts = simulate_case(label, pet=pet, organs=organs, **shared)
    return replace(prompts, settings=rules)


def _simulate_patient(job: PromptJob, unit: Unit) -> Tables:
    """The prompt rows of one patient's cases, with the notes on them."""
    import pyarrow as pa

    catalog, outcome = open_catalog(job.catalog), Outcome()
    tables, notes = [table_schema("prompts").empty_table()], []
    for row in unit.content:
        try:
            prompts = simulate_row(catalog, row, job)
        except ClicksimError as error:
            outcome.reject(reason_of(error), str(error), case_id=row["case_id"], patient_key=row["patient_key"])
            continue
        tables.append(prompts.to_table().replace_schema_metadata(None))
        notes += [(prompts.case_id, note) for note in prompts.notes]
        if job.out:
            _write_file(Path(job.out), prompts, job.layout, job.table)
    rows = pa.concat_tables([table.cast(table_schema("prompts")) for table in tables])
    rejected = rows_to_table("rejected", outcome.rejected)
    return {"prompts": rows, "rejected": rejected, "notes": _note_table(notes)}


def _write_file(folder: Path, prompts: Prompts, layout: str, table: str) -> None:
    """One file per case."""
    from clicksim.prompts.prompt_files import write_prompts
    from clicksim.prompts.table import write_prompt_table

    file = folder / f"{_file_name(prompts.case_id)}{PROMPT_ENDINGS[layout].format(table)}"
    if layout == "rows":
        write_prompt_table(file, prompts.to_table())
    else:
        write_prompts(file, prompts, layout)


def _file_name(case_id: str) -> str:
    return case_id.replace("/", "_")


def reason_of(error: ClicksimError) -> str:
    """The reason code of a refusal."""
    kinds: tuple[tuple[type[ClicksimError], str], ...] = (
        (TruncatedError, "TruncatedFile"),
        (LabelError, "BadLabel"),
        (UptakeError, "BadUptake"),
        (GeometryError, "GridMismatch"),
        (ReferenceAbortError, "ReferenceAborts"),
        (ImageError, "UnreadableFile"),
        (CatalogError, "UnreadableFile"),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), "SettingRefused")

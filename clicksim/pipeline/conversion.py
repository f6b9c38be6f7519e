"""From a publisher's folder to the catalog's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, Context, Outcome, Source, Unit, create_catalog
from clicksim.catalog.schema import rows_to_table, table_schema
from clicksim.catalog.source import Convert as ConvertUnit
from clicksim.catalog.source import made_by_others
from clicksim.catalog.store import CatalogCommit
from clicksim.errors import CatalogError, SettingError, counted, up_to_ten
from clicksim.files import check_space
from clicksim.pipeline.job import Job, check_unit_keys, run_job, tables_of, write_record
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "keep its cases with --add, or replace them with --replace"
TABLES = ("links", "lesions", "rejected", "cases")


@dataclass(frozen=True)
class Summary:
    """The result of a run, as counts of cases; `noted` are the cases of a prompt run with notes."""

    cases: int
    rejected: int
    noted: int = 0


def convert(
    source: Source,
    folder: Path,
    catalog_path: Path,
    *,
    crew: Crew | None = None,
    resume: bool = False,
    shard: tuple[int, int] = (0, 1),
    options: Mapping[str, Any] | None = None,
    add: bool = False,
    replace_rows: bool = False,
) -> Summary:
    """Convert a source into a catalog.

    Args:
        source: From `clicksim.catalog.find_source`.
        folder: The publisher's folder or archive.
        catalog_path: A catalog, or the folder for a new one.
        crew: Who converts the patients; by default this process.
        resume: Continue a run that was interrupted.
        shard: `(I, N)` converts every N-th patient from the I-th on.
        options: Options of the source.
        add: Keep cases of this source that are in the catalog but not in the folder.
        replace_rows: Replace all rows of this source in the catalog, whatever they were made from.

    Raises:
        StorageError: The disk is full, cannot be written, or fails.
        CatalogError: The folder does not exist; the catalog has cases of this source from another folder or with other
            options, or cases that the folder does not have, and neither `add` nor `replace_rows` is set; or as
            `run_job`.
    """
    if not folder.exists():
        raise CatalogError(f"{folder} does not exist; clicksim convert --list shows what it should contain")
    if add and replace_rows:
        raise SettingError("a conversion either adds to the cases of a source or replaces them; choose one of the two")
    context = Context(folder.resolve(), catalog_path.resolve(), source.name, dict(options or {}))
    units, found = source.plan(context)  # before anything is written: it refuses a folder of another kind
    check_unit_keys(source.name, units)
    chosen = sorted(units, key=lambda unit: unit.key)[shard[0] :: shard[1]]
    if shard[0] > 0:
        found = Outcome()  # what the plan rejected belongs to the first shard
    check_unit_keys(f"convert-{source.name}", chosen)
    catalog = create_catalog(catalog_path)
    job = Job(
        name=f"convert-{source.name}",
        home=catalog.path,
        identity={
            "source": str(context.source),
            "options": {name: str(value) for name, value in context.options.items()},
            "shard": list(shard),
            **made_by_others(source),
        },
        units=_with_inputs(chosen, context.source),
        work=partial(_convert_patient, source.convert, context),
        finish=partial(_commit_source, source, context, catalog, found, add=add, replace_rows=replace_rows),
        tables={name: table_schema(name).empty_table() for name in TABLES},
        commit=CatalogCommit,
        remedy=REMEDY,
        anew="--replace",
        begin=partial(_check_space, source, context, catalog),
    )
    return run_job(job, crew, resume=resume, overwrite=add or replace_rows)


def _with_inputs(units: list[Unit], source: Path) -> list[Unit]:
    """Give each unit inputs; if a source does not say which files a unit reads, all files of the source count."""
    if all(unit.inputs for unit in units):
        return units
    return [unit if unit.inputs else replace(unit, inputs=(source,)) for unit in units]


def _check_space(source: Source, context: Context, catalog: Catalog, units: Sequence[Unit]) -> None:
    """Reject a disk without space for the images of the remaining units.

    Raises:
        StorageError: Too little space is free.
    """
    if source.least_bytes is not None:
        need = sum(source.least_bytes(context, unit) for unit in units)
        check_space(catalog.path, need, f"the images of {source.name}")


def _convert_patient(convert_unit: ConvertUnit, context: Context, unit: Unit, folder: Path) -> Tables:
    """Convert one patient to rows; images are written to the folder of the part.

    Raises:
        CatalogError: The source gives no row at all, so that the patient would be dropped silently.
    """
    outcome = convert_unit(replace(context, catalog=folder), unit)
    if not (outcome.cases or outcome.rejected):
        raise CatalogError(f"the source {context.name} gives neither a case nor a rejection for {unit.key}")
    return tables_of(outcome)


def _commit_source(
    source: Source,
    context: Context,
    catalog: Catalog,
    found: Outcome,
    tables: Tables,
    commit: CatalogCommit,
    facts: Mapping[str, Any],
    *,
    add: bool,
    replace_rows: bool,
) -> Summary:
    """Write the rows of a source, with its images, its points and its facts, in one step."""
    import pyarrow as pa

    name = source.name
    new = {table: pa.concat_tables([tables[table], rows]) for table, rows in tables_of(found).items()}
    held = {table: _held_rows(catalog, table, name, needed=add) for table in TABLES}
    lost = sorted(set(held["cases"]["case_id"].to_pylist()) - set(new["cases"]["case_id"].to_pylist()))
    if lost and not (add or replace_rows):
        raise CatalogError(
            f"{counted(len(lost), 'case')} of {name} in {catalog.home} are not in {context.source}: {up_to_ten(lost)}; "
            f"{REMEDY}; converted cases are kept for --resume"
        )
    if add:
        new = _added(held, new)
    for image in sorted(_image_names(held["cases"]) - _image_names(new["cases"])):
        commit.remove(image)
    for table in TABLES:
        commit.write_part(table, name, new[table])
    if source.prompt_runs:
        runs = source.prompt_runs(new["cases"].to_pylist(), new["lesions"].to_pylist())
        for run, prompts in runs.items():
            commit.write_part("prompts", run, prompts)
    commit.write_sources(rows_to_table("sources", [{"source": name, **source.facts}]))
    commit.set_root(name, context.source)
    summary = Summary(len(new["cases"]), len(new["rejected"]))
    write_record(commit, f"convert-{name}", {**facts, "cases": summary.cases, "rejected": summary.rejected})
    return summary


def _held_rows(catalog: Catalog, table: str, source: str, *, needed: bool) -> "pa.Table":
    """Return the rows of a source in the catalog; a damaged file counts as empty unless its rows are needed."""
    if source not in catalog.parts(table):
        return table_schema(table).empty_table()
    try:
        return catalog.table(table, source).drop_columns(["source"]).replace_schema_metadata(None)
    except CatalogError:
        if needed:
            raise
        return table_schema(table).empty_table()


def _added(held: Tables, new: Tables) -> Tables:
    """Join the new rows and the held rows of all other patients."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def among(column: str, *tables: "pa.Table") -> "pc.Expression":
        values = {value for table in tables for value in table[column].to_pylist() if value is not None}
        return pc.field(column).isin(pa.array(sorted(values), pa.string()))

    others = pc.invert(among("patient_key", new["cases"], new["rejected"]))
    cases = held["cases"].filter(others)
    kept = {
        "cases": cases,
        "links": held["links"].filter(others),
        "lesions": held["lesions"].filter(among("case_id", cases)),
        "rejected": held["rejected"]
        .filter(pc.invert(among("path", new["rejected"])))
        .filter(pc.field("patient_key").is_null() | others),
    }
    return {table: pa.concat_tables([kept[table].cast(rows.schema), rows]) for table, rows in new.items()}


def _image_names(cases: "pa.Table") -> set[str]:
    """Return the files of cases that are in the catalog itself."""
    columns = [name for name in cases.column_names if name.endswith("_path")]
    locations = {location for name in columns for location in cases[name].to_pylist() if location is not None}
    return {location.removeprefix("catalog:") for location in locations if location.startswith("catalog:")}

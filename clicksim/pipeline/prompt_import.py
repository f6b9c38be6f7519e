"""Import prompt files of the organisers into a catalog as a run."""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.schema import table_schema
from clicksim.catalog.store import CatalogCommit, check_part
from clicksim.errors import CatalogError, ClicksimError, PromptFormatError, SettingError
from clicksim.files import LESION_CLICKS, MOST_BOUNDED, read_bounded, unpack
from clicksim.geometry import Grid
from clicksim.pipeline.job import RUNS, Job, read_record, run_job, write_record
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.simulation import commit_prompts
from clicksim.prompts import Prompts, Scribble
from clicksim.protocols import load_protocol

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (f"_{LESION_CLICKS}", "_clicks.json", "_scribbles.json", ".json")


@dataclass(frozen=True)
class Import:
    """The result of an import.

    Attributes:
        cases: Cases whose file was imported.
        unmatched: Files whose name is not a case of the catalog.
        refused: Files that could not be read, with the reason.
        missing: Cases of the catalog without a file.
    """

    cases: int
    unmatched: list[str]
    refused: list[str]
    missing: list[str]


def import_prompts(
    catalog_path: str | Path,
    files: Path,
    *,
    run: str,
    kind: str = "click",
    protocol: str = "",
    seed: int = 42,
    resume: bool = False,
    overwrite: bool = False,
) -> Import:
    """Import a zip or a folder of prompt files into a catalog as one run.

    A file belongs to the case whose id is its name without `_clicks.json`, `_scribbles.json`, `_lesion-clicks.json` or
    `.json`; a slash in an id is an underscore in the name, as `clicksim clicks --catalog --out` writes it.
    Both the plain and the Grand Challenge layout are read. The files do not say which voxels make a stroke, so
    scribbles become one stroke per polarity.

    Args:
        catalog_path: The catalog.
        files: A zip, or a folder that is searched with its subfolders.
        run: The name of the run.
        kind: `click` or `scribble`: what the voxels are.
        protocol: The rule that the files are said to follow, for `clicksim verify`.
        seed: The seed of that rule.
        resume: Continue an import that was interrupted.
        overwrite: Replace a run of this name.

    Raises:
        CatalogError: The name is taken or invalid, or `files` has no prompts of a case.
        SettingError: There is no such protocol.
    """
    catalog = open_catalog(catalog_path)
    check_part("prompts", run)
    if run in catalog.runs and not overwrite and "job" not in (read_record(catalog.path, run) or {}):
        raise CatalogError(f"the catalog has a run {run!r} already; choose another name, or use --overwrite")
    table = "scribbles" if kind == "scribble" else "clicks"
    rule = dict(load_protocol(protocol).tables.get(table, {})) if protocol else {}
    if protocol and not rule:
        raise SettingError(f"{protocol} has no rule for {table}")
    about = {"version": "published", "protocol": protocol, "seed": seed, "settings": rule}
    if kind == "scribble":
        about["table"] = table
    identity = {"files": str(files.resolve()), "kind": kind, **about}
    job = Job(
        name=f"import-{run}",
        home=catalog.path,
        identity=identity,
        units=[Unit("files", str(files), (files,))],
        work=partial(_read_files, catalog.path, _case_rows(catalog), files, kind),
        finish=partial(_commit_import, catalog, run, about),
        tables={"prompts": table_schema("prompts").empty_table(), "files": _file_schema().empty_table()},
        commit=CatalogCommit,
        records={run: identity},
        remedy="choose another name, or replace it with --overwrite",
    )
    return run_job(job, resume=resume, overwrite=overwrite)


def _case_rows(catalog: Catalog) -> list[dict[str, Any]]:
    return catalog.cases.select(["case_id", "shape_xyz", "spacing_xyz_mm", "affine_ras"]).to_pylist()


def _file_schema() -> "pa.Schema":
    """The result for each file: its case, and why it was refused if it was; neither if no case has its name."""
    import pyarrow as pa

    return pa.schema([("name", pa.string()), ("case_id", pa.string()), ("refused", pa.string())])


def _read_files(home: Path, rows: list[dict[str, Any]], files: Path, kind: str, _unit: Unit, _folder: Path) -> Tables:
    """Read the prompts of all files, and return them with the result for each file.

    Raises:
        CatalogError: No file could be imported.
    """
    import pyarrow as pa

    cases = {row["case_id"]: row for row in rows}
    several = {case for case, count in Counter(row["case_id"] for row in rows).items() if count > 1}
    by_file = {case.replace("/", "_"): case for case in cases} | {case: case for case in cases}
    tables, listed, taken = [table_schema("prompts").empty_table()], [], set()
    for name, content in _prompt_files(files):
        case, refused = by_file.get(_case_of(name)), None
        if case is not None:
            try:
                if case in several:
                    raise PromptFormatError(f"several sources have a case {case}")
                prompts = _read(content(), cases[case], kind, name)
                if case in taken:
                    raise PromptFormatError(f"case {case} has a file already")
                taken.add(case)
                tables.append(prompts.to_table().replace_schema_metadata(None))
            except ClicksimError as error:
                refused = f"{name}: {error}"
        listed.append({"name": name, "case_id": case, "refused": refused})
    if not taken:  # refused here, so that no finished work is left behind
        refusals = [str(row["refused"]) for row in listed if row["refused"]]
        if refusals:
            raise CatalogError(f"no file in {files} could be imported: {'; '.join(refusals[:10])}")
        there = ", ".join(str(row["name"]) for row in listed[:10]) or "no .json file"
        raise CatalogError(f"no file in {files} has the name of a case of {home}; there is: {there}")
    return {"prompts": pa.concat_tables(tables), "files": pa.Table.from_pylist(listed, _file_schema())}


def _commit_import(
    catalog: Catalog,
    run: str,
    about: Mapping[str, Any],
    tables: Tables,
    commit: CatalogCommit,
    facts: Mapping[str, Any],
) -> Import:
    listed = tables["files"].to_pylist()
    refused = [row["refused"] for row in listed if row["refused"]]
    unmatched = [row["name"] for row in listed if row["case_id"] is None]
    taken = {row["case_id"] for row in listed if row["case_id"] is not None and not row["refused"]}
    commit_prompts(commit, run, tables["prompts"], {**about, "cases": sorted(taken)})
    write_record(commit, run, {**facts, "cases": len(taken), "unmatched": unmatched, "refused": refused})
    missing = set(catalog.cases["case_id"].to_pylist()) - taken
    return Import(len(taken), sorted(unmatched), sorted(refused), sorted(missing))


def _prompt_files(files: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield names and readers of all JSON files of a zip or a folder, sorted by name."""
    if files.is_dir():
        for path in sorted(files.rglob("*.json")):
            inside = path.relative_to(files).parts
            if not any(part.startswith(".") for part in inside) and inside[0] != RUNS:  # records of how they were made
                yield path.name, partial(_file, path)
        return
    try:
        with zipfile.ZipFile(files) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                name = PurePosixPath(info.filename).name
                if name.endswith(".json") and not name.startswith("."):  # such as macOS puts beside each file
                    yield name, partial(_member, archive, info)
    except (zipfile.BadZipFile, OSError) as error:
        raise CatalogError(f"{files} is neither a folder nor a zip that can be read: {error}") from error


def _file(path: Path) -> bytes:
    try:
        return read_bounded(path)
    except OSError as error:
        raise PromptFormatError(f"cannot be read: {error.strerror}") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MOST_BOUNDED:
        raise PromptFormatError(f"it has {info.file_size} bytes; a prompt file has at most {MOST_BOUNDED}")
    try:
        return b"".join(unpack(archive, info))
    except zipfile.BadZipFile as error:
        raise PromptFormatError(f"cannot be unpacked: {error}") from error


def _case_of(name: str) -> str:
    for ending in ENDINGS:
        if name.endswith(ending):
            return name[: -len(ending)]
    return name


def _read(content: bytes, case: dict[str, Any], kind: str, name: str) -> Prompts:
    import numpy as np

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptFormatError(f"not UTF-8: {error}") from error
    grid = Grid(tuple(case["shape_xyz"]), tuple(case["spacing_xyz_mm"]), np.array(case["affine_ras"]).reshape(4, 4))
    prompts = replace(Prompts.from_json(text, grid, case_id=case["case_id"], where=name), annotator="published")
    if kind == "click":
        return prompts
    strokes = [(prompts.foreground, True), (prompts.background, False)]
    paths = [(tuple(map(tuple, voxels.tolist())), polarity) for voxels, polarity in strokes if len(voxels)]
    return replace(prompts, items=tuple(Scribble(path, polarity) for path, polarity in paths))

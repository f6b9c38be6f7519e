"""Merge several catalogs into one, such as the shards of a SLURM array."""

import filecmp
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, Unit, create_catalog, open_catalog
from clicksim.catalog.prompt_runs import Member, join_runs
from clicksim.catalog.remote.places import files_below, inside
from clicksim.catalog.schema import TABLES
from clicksim.catalog.store import CatalogCommit
from clicksim.errors import CatalogError
from clicksim.files import clear_abandoned, temporary_name
from clicksim.pipeline.job import Job, run_job
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew
from clicksim.prompts.table import METADATA_KEY

if TYPE_CHECKING:
    import pyarrow as pa

LEFT_OUT = ("sources", "folds")
"""Tables that are not joined by part: sources have one table, and a fold plan over some patients does not cover all."""


def merge_catalogs(
    out: str | Path,
    parts: Sequence[str | Path],
    *,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Catalog:
    """Merge catalogs into one.

    Rows of the same source or run are joined; a row that several catalogs have, equal in every column, is kept once.
    Prompt runs over all cases of each catalog, with the same settings, become one run, the same as one over all cases
    at once; see `prompt_runs.join_runs`. Images are linked if the disk allows it, else copied and compared. Fold plans
    are left out, because each was drawn over some of the patients. The tables, roots and images change in one step.

    Args:
        out: A new catalog, or one that gets the rows of the others as well.
        parts: The catalogs.
        crew: Who copies images; by default this process.
        resume: Continue a merge that was interrupted.
        overwrite: Drop the work of an interrupted merge.

    Raises:
        CatalogError: A case or a lesion has differing rows, an image differs, a root points to two folders, a part is
            read only, or `out` is one of the parts; as `run_job`.
        StorageError: The disk is full, cannot be written, or fails.
    """
    if Path(out).resolve() in {Path(part).resolve() for part in parts}:
        raise CatalogError(f"{out} cannot be merged into itself; name a new folder")
    opened = [open_catalog(part) for part in parts]
    for catalog in opened:
        catalog.path  # noqa: B018 - a read-only catalog is rejected before anything is made
    runs = join_runs(opened)
    target = create_catalog(out)
    links, copies = _plan_images(target, opened)
    job = Job(
        name="merge",
        home=target.path,
        identity={"parts": [[str(catalog.path.resolve()), catalog.digest()] for catalog in opened]},
        units=copies,
        work=_copy_images,
        finish=partial(_commit_merge, target, opened, runs, links),
        commit=CatalogCommit,
        records={},
    )
    run_job(job, crew, resume=resume, overwrite=overwrite)
    return open_catalog(target.path)


def _plan_images(target: Catalog, opened: Sequence[Catalog]) -> tuple[dict[str, Path], list[Unit]]:
    """Return the images to link by name, and units for images to copy, one for each folder of images.

    Raises:
        CatalogError: Two images of one name differ.
    """
    found: dict[str, Path] = {}
    for catalog in opened:
        for name in files_below(catalog.path, "images") if (catalog.path / "images").is_dir() else ():
            file = inside(catalog.path, name)
            known = found.get(name, target.path / name)
            if name in found or known.exists():
                if not _are_equal(known, file):
                    raise CatalogError(f"{file} and {known} differ; convert one of them again under another name")
            else:
                found[name] = file
    if all(_can_link(file, target.path) for file in {file.parent: file for file in found.values()}.values()):
        return found, []
    folders: dict[str, list[tuple[str, str]]] = {}
    for name, file in found.items():
        folders.setdefault(name.rpartition("/")[0], []).append((name, str(file)))
    units = [
        Unit(folder, tuple(files), tuple(Path(file) for _, file in files)) for folder, files in sorted(folders.items())
    ]
    return {}, units


def _are_equal(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _can_link(file: Path, folder: Path) -> bool:
    """Check whether a hard link to a file can be made in a folder."""
    clear_abandoned(folder / "link")
    probe = temporary_name(folder / "link")
    try:
        os.link(file, probe)
    except OSError:
        return False
    probe.unlink()
    return True


def _copy_images(unit: Unit, folder: Path) -> Tables:
    """Copy the images of one folder, and compare each copy with its original."""
    for name, file in unit.content:
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
        if not filecmp.cmp(file, copy, shallow=False):
            raise CatalogError(f"the copy of {file} differs from it: a program changes it, or the disk is failing")
    return {}


def _commit_merge(
    target: Catalog,
    opened: Sequence[Catalog],
    runs: Mapping[str, Sequence[Member]],
    links: Mapping[str, Path],
    _tables: Tables,
    commit: CatalogCommit,
    _facts: Mapping[str, Any],
) -> None:
    """Write all tables, roots and records, and link the images."""
    for name, file in links.items():
        commit.link(file, name)
    for name in (table for table in TABLES if table not in LEFT_OUT):
        for part in sorted({value for catalog in opened for value in catalog.parts(name)}):
            members = [(catalog, part) for catalog in opened if part in catalog.parts(name)]
            _merge_part(commit, target, name, part, members)
    for run, shards in runs.items():
        _merge_part(commit, target, "prompts", run, [(opened[n], own) for n, own in shards])
    _merge_sources(commit, opened)
    _merge_roots(commit, target, opened)
    _merge_records(commit, target, opened, runs)


def _merge_part(
    commit: CatalogCommit, target: Catalog, name: str, part: str, members: Sequence[tuple[Catalog, str]]
) -> None:
    """Write a source or run of the merged catalog, with the rows that it has already."""
    held = [(target, part)] if part in target.parts(name) else []
    tables = [catalog.table(name, own) for catalog, own in [*held, *members]]
    texts = [catalog.part_metadata(name, own).get(METADATA_KEY) for catalog, own in [*held, *members]]
    metadata = _metadata(part, texts)
    commit.write_part(name, part, _union(tables).replace_schema_metadata(metadata))


def _merge_sources(commit: CatalogCommit, opened: Sequence[Catalog]) -> None:
    """Write the rows of all sources; of several rows the last one is kept."""
    from clicksim.catalog.schema import rows_to_table

    rows = {row["source"]: row for catalog in opened for row in catalog.sources.to_pylist()}
    commit.write_sources(rows_to_table("sources", list(rows.values())))


def _merge_roots(commit: CatalogCommit, target: Catalog, opened: Sequence[Catalog]) -> None:
    roots = dict(target.roots)
    for name, folder in ((name, folder) for catalog in opened for name, folder in catalog.roots.items()):
        if name == "catalog":
            continue
        if roots.get(name, folder) != folder:
            raise CatalogError(f"root {name} is {roots[name]} and {folder}: relocate one of them first")
        if name not in roots:
            roots[name] = folder
            commit.set_root(name, folder)


def _merge_records(
    commit: CatalogCommit, target: Catalog, opened: Sequence[Catalog], runs: Mapping[str, Sequence[Member]]
) -> None:
    """Write the records of runs; those of shards are kept side by side, equal ones once."""
    held = {file.stem: file.read_text(encoding="utf-8") for file in (target.path / "runs").glob("*.json")}
    for n, catalog in enumerate(opened):
        for file in sorted((catalog.path / "runs").glob("*.json")):
            text = file.read_text(encoding="utf-8")
            for run in [run for run, members in runs.items() if (n, file.stem) in members] or [file.stem]:
                name, number = run, 0
                while held.get(name, text) != text:
                    number += 1
                    name = f"{run}-{number}"
                if name not in held:
                    commit.text(f"runs/{name}.json", text)
                held[name] = text


def _union(tables: list["pa.Table"]) -> "pa.Table":
    """Join the rows of all tables, equal ones once, without the column of the partition."""
    import pyarrow as pa

    rows = pa.concat_tables(table.select(table.column_names[:-1]) for table in tables)
    first: dict[str, int] = {}
    for n, row in enumerate(rows.to_pylist()):
        first.setdefault(repr(row), n)
    return rows.take(pa.array(first.values(), pa.int64()))


def _metadata(part: str, texts: Sequence[bytes | None]) -> dict[bytes, bytes] | None:
    """Join the metadata of a run: shards differ only in the cases that they cover."""
    found = [json.loads(text) for text in texts if text is not None]
    if not found:
        return None
    cases = sorted({case for about in found for case in about.pop("cases", [])})
    if any(about != found[0] for about in found):
        raise CatalogError(f"run {part} has different settings in the catalogs; simulate it again")
    about = found[0] | ({"cases": cases} if cases else {})
    return {METADATA_KEY: json.dumps(about, sort_keys=True).encode()}

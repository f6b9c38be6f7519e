"""Whole catalogs: merged from shards, moved, summed up, and cited."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from clicksim.catalog.lock import writing
from clicksim.catalog.prompt_runs import join_runs
from clicksim.catalog.remote.places import files_below, inside
from clicksim.catalog.schema import TABLES
from clicksim.catalog.store import Catalog, create_catalog, open_catalog
from clicksim.errors import CatalogError
from clicksim.prompts.table import METADATA_KEY

if TYPE_CHECKING:
    import pyarrow as pa


def merge_catalogs(out: str | Path, parts: Sequence[str | Path]) -> Catalog:
    """One catalog of several, such as the shards of a SLURM array.

    Rows of the same source or run are put together; a row that stands in several catalogs, equal in every
    column, is kept once. Prompt runs over all cases of each catalog, with the same settings, become one run, the
    same as one over all cases at once; see `prompt_runs.join_runs`. Written images are linked where the disk allows,
    else copied. Fold plans stay behind: each was drawn over a part of the patients.

    Raises:
        CatalogError: A case or a lesion with differing rows, a root that points to two folders, a part that is read
            only, or an `out` that is one of the parts.
    """
    if Path(out).resolve() in {Path(part).resolve() for part in parts}:
        raise CatalogError(f"{out} cannot be merged into itself; name a new folder")
    opened = [open_catalog(part) for part in parts]
    folders = [catalog.path for catalog in opened]
    runs = join_runs(opened)
    target = create_catalog(out)
    with writing(target.path):
        for catalog, folder in zip(opened, folders, strict=True):
            target = _with_roots(target, catalog)
            _link_images(folder, target.path)
        # folds are left out: a plan over a part of the patients is none over all of them
        for name in (table for table in TABLES if table not in ("sources", "folds")):
            for part in sorted({value for catalog in opened for value in catalog.parts(name)}):
                found = [catalog for catalog in opened if part in catalog.parts(name)]
                _merge_part(target, name, part, [(catalog, part) for catalog in found])
        for run, members in runs.items():
            _merge_part(target, "prompts", run, [(opened[n], own) for n, own in members])
        for n, (catalog, folder) in enumerate(zip(opened, folders, strict=True)):
            target.write_sources(catalog.sources)
            for file in sorted((folder / "runs").glob("*.json")):
                for run in [run for run, members in runs.items() if (n, file.stem) in members] or [file.stem]:
                    _copy_run(file, target.path / "runs", run)
        return target


def summarise_catalog(catalog: Catalog) -> list[dict[str, Any]]:
    """One row per source: cases, patients, lesions, volumes, tracers, folds, flags, rejections.

    What is null is not counted: a case with neither mask nor volume is none without lesions.
    """
    rows = []
    for source in catalog.parts("cases"):
        cases = catalog.table("cases", source).to_pylist()
        volumes = [case["lesion_volume_ml"] for case in cases if case["lesion_volume_ml"] is not None]
        rejected = catalog.table("rejected", source).num_rows if source in catalog.parts("rejected") else 0
        rows.append(
            {
                "source": source,
                "cases": len(cases),
                "patients": len({case["patient_key"] for case in cases}),
                "without_lesion": sum(case["lesion_present"] is False for case in cases),
                "lesions": sum(case["n_lesions"] or 0 for case in cases),
                "volume_ml": round(sum(volumes), 3),
                "median_volume_ml": round(median(volumes), 3) if volumes else None,
                "tracers": _count(cases, "tracer_class"),
                "folds": _count(cases, "official_fold"),
                "splits": _count(cases, "official_split"),
                "flags": _count([{"flag": f} for case in cases for f in case["quality_flags"] or []], "flag"),
                "rejected": rejected,
            }
        )
    return rows


def cite_sources(catalog: Catalog, *, bibtex: bool = False) -> str:
    """What a paper that uses the catalog's cases must cite, each source with its licence."""
    used = set(catalog.parts("cases"))
    rows = [row for row in catalog.sources.to_pylist() if row["source"] in used]
    if bibtex:
        return "\n\n".join(row["bibtex"] for row in rows if row["bibtex"])
    return "\n\n".join(_cite_source(row) for row in rows)


def _cite_source(row: dict[str, Any]) -> str:
    """Title, release and licence, how to cite it, its DOI; what a source does not state is left out."""
    release = f" ({row['release']})" if row["release"] else ""
    lines = (f"{row['title']}{release}. Licence: {row['licence']}.", row["citation"], row["doi"])
    return "\n".join(line for line in lines if line)


def _count(rows: Sequence[dict[str, Any]], column: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row[column] is not None:
            counts[str(row[column])] = counts.get(str(row[column]), 0) + 1
    return dict(sorted(counts.items()))


def _with_roots(target: Catalog, part: Catalog) -> Catalog:
    for name, folder in part.roots.items():
        if name == "catalog":
            continue
        if target.roots.get(name, folder) != folder:
            raise CatalogError(f"root {name} is {target.roots[name]} and {folder}: relocate one of them first")
        if name not in target.roots:
            target = target.with_root(name, folder)
    return target


def _merge_part(target: Catalog, name: str, part: str, members: Sequence[tuple[Catalog, str]]) -> None:
    """Write a source or run of the merged catalog, with what it has of it already."""
    held = [(target, part)] if part in target.parts(name) else []
    tables = [catalog.table(name, own) for catalog, own in [*held, *members]]
    texts = [catalog.part_metadata(name, own).get(METADATA_KEY) for catalog, own in [*held, *members]]
    metadata = _metadata(part, texts)
    target.write_part(name, part, _union(tables).replace_schema_metadata(metadata))


def _union(tables: list["pa.Table"]) -> "pa.Table":
    """The rows of all tables, equal ones once, without the column of the partition."""
    import pyarrow as pa

    rows = pa.concat_tables(table.select(table.column_names[:-1]) for table in tables)
    first: dict[str, int] = {}
    for n, row in enumerate(rows.to_pylist()):
        first.setdefault(repr(row), n)
    return rows.take(pa.array(first.values(), pa.int64()))


def _metadata(part: str, texts: Sequence[bytes | None]) -> dict[bytes, bytes] | None:
    """The metadata of a run: its shards share all but the cases that they cover, which are put together."""
    found = [json.loads(text) for text in texts if text is not None]
    if not found:
        return None
    cases = sorted({case for about in found for case in about.pop("cases", [])})
    if any(about != found[0] for about in found):
        raise CatalogError(f"run {part} has other settings in different catalogs; simulate it again")
    about = found[0] | ({"cases": cases} if cases else {})
    return {METADATA_KEY: json.dumps(about, sort_keys=True).encode()}


def _link_images(source: Path, target: Path) -> None:
    """Link or copy the images of one catalog into another that lacks them."""
    if not (source / "images").is_dir():
        return
    for name in files_below(source, "images"):
        file, place = inside(source, name), target / name
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)


def _copy_run(file: Path, folder: Path, run: str) -> None:
    """The facts of a run; those of shards stand side by side."""
    folder.mkdir(exist_ok=True)
    place, n = folder / f"{run}.json", 1
    while place.exists() and place.read_bytes() != file.read_bytes():
        place = folder / f"{run}-{n}.json"
        n += 1
    shutil.copy2(file, place)

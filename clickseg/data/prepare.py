"""Make a patch store from a catalog: read each case, resample it to one grid, find places to sample, write.

The unit of work is a patient. A case whose files and rules have not changed is not prepared again. A case that cannot
be prepared is listed in `rejected.parquet` with its reason, and the work continues.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickseg.data.model_grid import GridTransform
from clickseg.data.patch_store import FORMAT, Places, case_schema
from clickseg.training_settings import StoreRules
from clicksim import __version__
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.folds import Folds, choose_folds
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, ClicksimError, ImageError
from clicksim.files import LEAST_PACKED, check_space, slug
from clicksim.geometry import Spacing
from clicksim.lesions import find_lesions
from clicksim.lesions.hot import hot_voxels, join_voxels
from clicksim.pipeline.cases import local_files, reason_of
from clicksim.pipeline.job import Job, run_job, with_version, write_record
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew
from clicksim.streams import stream
from clicksim.volumes.case import CaseImages

ARRAYS, ROW = "arrays", "row.json"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class StoreSummary:
    """The result of a run.

    Attributes:
        cases: In the store.
        made: Cases of the store whose arrays were made in this run.
        rejected: Cases that could not be prepared.
        notes: A sentence for each case of the store whose files may have a problem.
    """

    cases: int
    made: int
    rejected: int
    notes: tuple[str, ...] = ()


def prepare_store(
    catalog_path: str | Path,
    out: str | Path,
    rules: StoreRules | None = None,
    *,
    sources: Sequence[str] = (),
    folds: str | None = None,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> StoreSummary:
    """Make or update the store of a catalog.

    Args:
        catalog_path: The catalog.
        out: The store's folder.
        rules: How arrays are made.
        sources: Names of the sources to take; empty for all.
        folds: The fold plan of the catalog that training uses; see `clicksim.catalog.folds.choose_folds`.
        crew: Workers; by default this process.
        resume: Continue an interrupted run.
        overwrite: Replace a store that was made by other rules or with other folds.

    Raises:
        CatalogError: There is no catalog, no case in it or in one of the sources, or no case that can be prepared; see
            also `run_job`.
        SettingError: The fold plan does not exist, or there are several and none is named.
        StorageError: The disk is full, cannot be written, or fails.
    """
    chosen, folder = rules or StoreRules(), Path(out)
    catalog = open_catalog(catalog_path)
    rows = [row for row in catalog.cases.to_pylist() if not sources or row["source"] in sources]
    absent = sorted(set(sources) - {row["source"] for row in rows})
    if absent or not rows:
        raise CatalogError(f"{catalog_path} has no case{' of ' + ', '.join(absent) if absent else ''}")
    plan = choose_folds(catalog, folds, sources=list(sources) or None)
    known = {path.name for path in (folder / "arrays").glob("*")}
    check_space(folder, _least_bytes(rows, known, chosen), "the patch store")
    made_by = {"rules": chosen.plain(), "folds": plan.about()}
    digest = catalog.digest()
    job = Job(
        name="prepare",
        home=folder,
        identity={**made_by, "catalog": digest, "sources": list(sources)},
        units=plan_store(catalog, rows, plan.folds),
        work=partial(prepare_patient, catalog, folder.resolve(), chosen),
        finish=partial(_commit_store, folder, {**_about(catalog, digest, chosen), "folds": plan.about()}, made_by),
        tables={"rejected": rows_to_table("rejected", []), "cases": case_schema().empty_table()},
        records={"prepare": made_by},
    )
    return run_job(job, crew, resume=resume, overwrite=overwrite)


def _least_bytes(rows: Sequence[Row], known: Collection[str], rules: StoreRules) -> float:
    """Estimate from the rows the bytes of cases without arrays: CT, uptake, and a label of one byte."""
    done, total = {name.rpartition("-")[0] for name in known}, 0.0
    for row in rows:
        shape, spacing = row["shape_xyz"], row["spacing_xyz_mm"]
        if shape and spacing and slug(f"{row['source']}-{row['case_id']}") not in done:
            change = np.prod(spacing) / np.prod(rules.spacing_mm) if rules.spacing_mm else 1.0
            voxel = np.dtype(np.int16).itemsize + 1 + (np.dtype(rules.pet_type).itemsize if row["pet_path"] else 0)
            total += float(np.prod(shape, dtype=np.float64) * change) * voxel
    return total * (LEAST_PACKED if rules.compressed else 1.0)


def plan_store(catalog: Catalog, rows: Sequence[Row], folds: Folds) -> list[Unit]:
    """Make one unit per patient: its cases with their folds; a case that the plan leaves out has no fold."""
    fold_of = folds.fold_of
    patients: dict[str, list[Row]] = {}
    for row in rows:
        fold = fold_of.get((row["source"], row["case_id"]))
        patients.setdefault(str(row["patient_key"]), []).append({**row, "fold": fold})
    return [Unit(key, cases, _inputs(catalog, cases)) for key, cases in sorted(patients.items())]


def prepare_patient(catalog: Catalog, store: Path, rules: StoreRules, unit: Unit, folder: Path) -> Tables:
    """Prepare the cases of one patient, in any process."""
    import pyarrow as pa

    done, rejected = [], []
    for row in unit.content:
        try:
            done.append(prepare_case(catalog, row, store / ARRAYS, folder / ARRAYS, rules))
        except ClicksimError as error:
            about = {"case_id": row["case_id"], "patient_key": unit.key, "path": row["label_path"] or ""}
            rejected.append({**about, "code": reason_of(error), "message": str(error)})
    return {"cases": pa.Table.from_pylist(done, case_schema()), "rejected": rows_to_table("rejected", rejected)}


def prepare_case(catalog: Catalog, row: Row, known: Path, target: Path, rules: StoreRules) -> dict[str, Any]:
    """Write the arrays of one case unless the store has them, and return its row.

    Args:
        catalog: The catalog of the case.
        row: The case.
        known: The folder of the arrays that the store has.
        target: The folder for new arrays.
        rules: How arrays are made.

    Raises:
        ClicksimError: A file is missing, cannot be read, or is on another grid than the label.
    """
    case_id = str(row["case_id"])
    named = {role: row[f"{role}_path"] for role in ("ct", "pet", "label") if row[f"{role}_path"]}
    for role in ("ct", "label"):
        if role not in named:
            raise ImageError(f"case {case_id} has no {role}; a model needs a CT and a label")
    files = {role: catalog.resolve(location) for role, location in named.items()}
    plain = slug(f"{row['source']}-{case_id}")
    name = f"{plain}-{_content_hash(files, rules, row)}"
    if (known / name / ROW).is_file():
        found: dict[str, Any] = json.loads((known / name / ROW).read_text(encoding="utf-8"))
    else:
        found = _write_case(CaseImages(files, case_id), row, target / name, rules)
    columns = ("source", "case_id", "patient_key", "tracer_class", "fold")
    return {**found, **{column: row[column] for column in columns}, "folder": name}


def _write_case(case: CaseImages, row: Row, target: Path, rules: StoreRules) -> dict[str, Any]:
    """Read, resample and write one case; return the content of its `row.json`."""
    label, density, uptake = case.label, case.ct, case.pet
    if density is None:
        raise ImageError(f"case {case.case_id} has no ct; a model needs a CT and a label")
    frame = GridTransform.of(label.grid, rules.spacing_mm)
    ct, pet = frame.ct(density.array), None if uptake is None else frame.pet(uptake.array)
    mask = frame.label(label.array)
    mask = mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16 if mask.max() < 65536 else np.int32)
    grid, spacing = frame.target, frame.target.known_spacing
    places, lesions = find_places(mask, ct, pet, spacing, rules, case.case_id, row["instances"])
    target.mkdir(parents=True)
    arrays: dict[str, NDArray[Any]] = {"ct": ct, "label": mask}
    if pet is not None:
        arrays["pet"] = pet.astype(rules.pet_type)
    for name, array in arrays.items():
        _write_array(target / name, np.ascontiguousarray(array), compressed=rules.compressed)
    np.savez(target / "places.npz", lesion=places.lesion, hot=places.hot, body=places.body)
    about = {
        "instances": row["instances"], "has_pet": pet is not None, "n_lesions": lesions,
        "shape": list(grid.shape), "spacing_mm": list(spacing), "affine_ras": grid.known_affine.ravel().tolist(),
        "note": "; ".join(case.notes) or None,
    }  # fmt: skip
    (target / ROW).write_text(json.dumps(about), encoding="utf-8")
    return about


def find_places(
    mask: NDArray[Any],
    ct: NDArray[np.int16],
    pet: NDArray[np.float32] | None,
    spacing: Spacing,
    rules: StoreRules,
    case_id: str,
    instances: str | None,
) -> tuple[Places, int]:
    """Find the voxels around which patches are taken, and count the lesions.

    Each lesion gives its deepest voxel and others drawn at random. Hot uptake gives one voxel of each component in
    turn, the largest first; without an uptake there is none. The body gives voxels drawn uniformly.
    """
    lesions = find_lesions(mask, instances="labels" if instances == "labels" else "components", where=case_id)
    share = max(1, rules.spots // max(1, len(lesions)))
    rows = []
    for lesion in lesions:
        draws = stream(rules.seed, case_id, "places", "lesion", lesion.key)
        voxels = lesion.voxels
        some = voxels[_pick(draws, len(voxels), share - 1)]
        deepest = np.array([lesion.deepest(spacing, closed=True)[0]], dtype=np.int64)
        rows += [np.column_stack([np.full(len(v), lesion.id), v]) for v in (deepest, some)]
    hot = np.empty((0, 3), dtype=np.int64)
    if pet is not None:
        memory, indices = hot_voxels(pet, lesions, percentile=rules.hot_percentile, where=case_id)
        hot = _spread([part.voxels for part in join_voxels(memory, indices)], rules, case_id)
    body = np.flatnonzero(((ct > rules.body_hu) & (mask == 0)).ravel())
    picked = body[_pick(stream(rules.seed, case_id, "places", "body"), len(body), rules.spots)]
    inside = np.column_stack(np.unravel_index(picked, mask.shape))
    table = np.concatenate(rows) if rows else np.empty((0, 4), dtype=np.int64)
    return Places(table.astype(np.int32), hot.astype(np.int32), inside.astype(np.int32)), len(lesions)


def _spread(parts: list[NDArray[np.int64]], rules: StoreRules, case_id: str) -> NDArray[np.int64]:
    """Draw one voxel of each part in turn, largest parts first, until there are enough."""
    draws = stream(rules.seed, case_id, "places", "hot")
    parts = sorted(parts, key=len, reverse=True)[: rules.spots]
    turns = max(1, -(-rules.spots // max(1, len(parts))))
    mixed = [part[_pick(draws, len(part), turns)] for part in parts]
    rows = [part[turn] for turn in range(turns) for part in mixed if turn < len(part)]
    return np.array(rows[: rules.spots], dtype=np.int64).reshape(-1, 3)


def _pick(draws: np.random.Generator, count: int, most: int) -> NDArray[np.int64]:
    """Draw up to `most` different numbers below `count`, in random order.

    `choice` would be a little faster, but other draws would change the training results that the documents show.
    """
    return draws.permutation(count)[:most]


def _write_array(file: Path, array: NDArray[Any], *, compressed: bool) -> None:
    if compressed:
        np.savez_compressed(file.with_suffix(".npz"), array=array)
    else:
        np.save(file.with_suffix(".npy"), array)


def _content_hash(files: Mapping[str, Path], rules: StoreRules, row: Row) -> str:
    """Hash the rules, the version of the store and the bytes of the files."""
    total = hashlib.sha256(json.dumps([FORMAT, rules.plain(), row["instances"]], sort_keys=True).encode())
    for name, file in sorted(files.items()):
        try:
            with file.open("rb") as stream_:
                total.update(f"{name}{hashlib.file_digest(stream_, 'sha256').hexdigest()}".encode())
        except OSError as error:
            raise ImageError(f"{name} of case {row['case_id']} cannot be read: {error.strerror} ({file})") from error
    return total.hexdigest()[:16]


def _about(catalog: Catalog, digest: str, rules: StoreRules) -> dict[str, Any]:
    columns = ("source", "title", "release", "doi", "licence", "citation")
    sources = [{name: row[name] for name in columns} for row in catalog.sources.to_pylist()]
    return {
        "format": FORMAT, "made_by": f"clickseg {__version__}", "rules": rules.plain(), "catalog_digest": digest,
        "sources": sources,
    }  # fmt: skip


def _inputs(catalog: Catalog, rows: Sequence[Row]) -> tuple[Path, ...]:
    """Return the local files of cases."""
    locations = [row[f"{role}_path"] for row in rows for role in ("ct", "pet", "label") if row[f"{role}_path"]]
    return local_files(catalog, locations)


def _commit_store(
    folder: Path,
    about: Mapping[str, Any],
    made_by: Mapping[str, Any],
    tables: Tables,
    commit: Commit,
    facts: Mapping[str, Any],
) -> StoreSummary:
    """Write the tables, then `store.json`; remove arrays that no case uses any more."""
    import pyarrow.parquet as pq

    cases = tables["cases"].sort_by([("source", "ascending"), ("case_id", "ascending")])
    if not len(cases):
        reasons = "; ".join(str(row["message"]) for row in tables["rejected"].slice(0, 3).to_pylist())
        raise CatalogError(f"no case of the catalog could be prepared: {reasons}")
    known = {path.name: path for path in (folder / ARRAYS).glob("*")}
    used = set(cases["folder"].to_pylist())
    for name in sorted(set(known) - used):
        for file in sorted(known[name].iterdir()):
            commit.remove(file.relative_to(folder).as_posix())
    for name, table in (("rejected", tables["rejected"]), ("cases", cases)):
        with commit.file(f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
    write_record(commit, "prepare", {**facts, "job": with_version(made_by), "cases": len(cases)})
    commit.text("store.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    notes = tuple(f"case {row['case_id']}: {row['note']}" for row in cases.to_pylist() if row["note"])
    return StoreSummary(len(cases), len(used - set(known)), len(tables["rejected"]), notes)

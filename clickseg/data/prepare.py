"""From a catalog to a patch store: read, put on one grid, find the places to sample, write; case by case.

The unit of work is a patient. A case whose files and rules are those of an earlier run is not made again. A case
that cannot be prepared stands in `rejected.parquet` with its reason, and the others go on.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickseg.data.model_grid import GridTransform
from clickseg.data.patch_store import FORMAT, Places, case_schema
from clickseg.training_settings import StoreRules, changes
from clicksim import __version__
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.lock import writing
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, ClicksimError, ImageError
from clicksim.files import LEAST_PACKED, check_space, make_folder, replacing, slug, storing, write_text
from clicksim.geometry import Spacing
from clicksim.lesions import find_lesions
from clicksim.lesions.hot import hot_voxels, join_voxels
from clicksim.pipeline.prompts import reason_of
from clicksim.pipeline.units import Parts, Progress, Tables
from clicksim.streams import stream
from clicksim.volumes import read_image, read_label
from clicksim.volumes.case import read_pet

FOLDS = 5
Row = Mapping[str, Any]


@dataclass(frozen=True)
class StoreSummary:
    """How a run ended.

    Attributes:
        cases: In the store.
        made: Of them, those whose arrays were not there before.
        rejected: Cases that could not be prepared.
        notes: A sentence for each case of the store whose files leave a doubt.
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
    workers: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> StoreSummary:
    """Make or renew the store of a catalog.

    Args:
        catalog_path: The catalog.
        out: The store's folder.
        rules: How arrays are made.
        sources: Names of the sources to take; empty for all.
        workers: Processes; 0 works in this one.
        resume: Take up an interrupted run.
        progress: Told after each patient.

    Raises:
        CatalogError: No catalog, no case in it or in a source of it, parts of an interrupted run, no case that could
            be prepared, or another process at work in the folder.
        StorageError: Too little space is free, or the folder may not be written.
    """
    chosen = rules or StoreRules()
    catalog = open_catalog(catalog_path)
    rows = [row for row in catalog.cases.to_pylist() if not sources or row["source"] in sources]
    absent = sorted(set(sources) - {row["source"] for row in rows})
    if absent or not rows:
        raise CatalogError(f"{catalog_path} has no case{' of ' + ', '.join(absent) if absent else ''}")
    units = plan_store(rows)
    folder = Path(out)
    known = {path.name for path in (folder / "arrays").glob("*")}
    check_space(folder, _least_bytes(rows, known, chosen), "the patch store")
    make_folder(folder / "arrays")
    with writing(folder):
        digest = catalog.digest()
        job = {"version": __version__, "rules": chosen.plain(), "catalog": digest, "sources": list(sources)}
        parts = Parts(folder / ".work" / "prepare", job, resume=resume)
        work = partial(prepare_patient, str(catalog.home), str(folder), chosen)
        parts.run(units, work, workers=workers, progress=progress)
        tables = parts.gather(units, {"rejected": rows_to_table("rejected", []), "cases": case_schema().empty_table()})
        cases = tables["cases"].sort_by([("source", "ascending"), ("case_id", "ascending")])
        if not len(cases):
            reasons = "; ".join(str(row["message"]) for row in tables["rejected"].slice(0, 3).to_pylist())
            raise CatalogError(f"no case of {catalog_path} could be prepared: {reasons}")
        _commit(folder, cases, tables["rejected"], _about(catalog, digest, chosen))
        parts.remove()
        made = sum(name not in known for name in cases["folder"].to_pylist())
        notes = tuple(f"case {row['case_id']}: {row['note']}" for row in cases.to_pylist() if row["note"])
        return StoreSummary(len(cases), made, len(tables["rejected"]), notes)


def changed_rules(out: str | Path, rules: StoreRules) -> list[str]:
    """How rules differ from those of the store in a folder, a phrase for each; none where there is no store yet."""
    try:
        before = json.loads((Path(out) / "store.json").read_text(encoding="utf-8"))["rules"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return changes(before, rules.plain())


def _least_bytes(rows: Sequence[Row], known: Collection[str], rules: StoreRules) -> float:
    """What the cases that have no arrays yet will take, by their rows alone: CT, uptake, and a label of one byte."""
    done, total = {name.rpartition("-")[0] for name in known}, 0.0
    for row in rows:
        shape, spacing = row["shape_xyz"], row["spacing_xyz_mm"]
        if shape and spacing and slug(f"{row['source']}-{row['case_id']}") not in done:
            change = np.prod(spacing) / np.prod(rules.spacing_mm) if rules.spacing_mm else 1.0
            voxel = np.dtype(np.int16).itemsize + 1 + (np.dtype(rules.pet_type).itemsize if row["pet_path"] else 0)
            total += float(np.prod(shape, dtype=np.float64) * change) * voxel
    return total * (LEAST_PACKED if rules.compressed else 1.0)


def plan_store(rows: Sequence[Row]) -> list[Unit]:
    """One unit for each patient, with its cases and their fold."""
    patients: dict[str, list[Row]] = {}
    for row in rows:
        patients.setdefault(str(row["patient_key"]), []).append(row)
    units = []
    for key, cases in sorted(patients.items()):
        official = [row["official_fold"] for row in cases if row["official_fold"] is not None]
        fold = int(official[0]) if official else draw_fold(key)
        units.append(Unit(key, [{**row, "fold": fold} for row in cases]))
    return units


def draw_fold(patient_key: str) -> int:
    """A fold that depends on the patient's name alone, so that other cases never move it."""
    return int.from_bytes(hashlib.blake2b(patient_key.encode(), digest_size=8).digest(), "little") % FOLDS


def prepare_patient(catalog_path: str, out: str, rules: StoreRules, unit: Unit) -> Tables:
    """Prepare the cases of one patient; runs in any process."""
    import pyarrow as pa

    catalog = open_catalog(catalog_path)
    done, rejected = [], []
    for row in unit.content:
        try:
            done.append(prepare_case(catalog, row, Path(out) / "arrays", rules))
        except ClicksimError as error:
            about = {"case_id": row["case_id"], "patient_key": unit.key, "path": row["label_path"] or ""}
            rejected.append({**about, "code": reason_of(error), "message": str(error)})
    return {"cases": pa.Table.from_pylist(done, case_schema()), "rejected": rows_to_table("rejected", rejected)}


def prepare_case(catalog: Catalog, row: Row, arrays: Path, rules: StoreRules) -> dict[str, Any]:
    """Write the arrays of one case, unless they are there; returns its row.

    Raises:
        ClicksimError: A file that is missing, cannot be read, or lies on another grid than the label.
    """
    named = {name: row[f"{name}_path"] for name in ("ct", "pet", "label") if row[f"{name}_path"]}
    for name in ("ct", "label"):
        if name not in named:
            raise ImageError(f"case {row['case_id']} has no {name}; a model needs a CT and a label")
    files = {name: catalog.resolve(location) for name, location in named.items()}
    name = slug(f"{row['source']}-{row['case_id']}")
    target = arrays / f"{name}-{_content_hash(files, rules, row)}"
    if not (target / "row.json").is_file():
        _write_case(files, row, target, rules)
    found: dict[str, Any] = json.loads((target / "row.json").read_text(encoding="utf-8"))
    columns = ("source", "case_id", "patient_key", "tracer_class", "fold")
    return {**found, **{column: row[column] for column in columns}, "folder": target.name}


def _write_case(files: Mapping[str, Path], row: Row, target: Path, rules: StoreRules) -> None:
    """Read, resample and write one case; its folder gets its name when all is there."""
    label, density = read_label(files["label"]), read_image(files["ct"])
    uptake, doubts = read_pet(files["pet"]) if "pet" in files else (None, ())
    for name, volume in (("CT", density), ("PET", uptake)):
        if volume is not None:
            label.grid.check_same(volume.grid, ("label", name), where=f"case {row['case_id']}")
    frame = GridTransform.of(label.grid, rules.spacing_mm)
    ct, pet = frame.ct(density.array), None if uptake is None else frame.pet(uptake.array)
    mask = frame.label(label.array)
    mask = mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16 if mask.max() < 65536 else np.int32)
    grid, spacing = frame.target, frame.target.known_spacing
    places, lesions = find_places(mask, ct, pet, spacing, rules, str(row["case_id"]), row["instances"])
    temporary = target.with_name(f".writing-{target.name}")
    with storing(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        arrays: dict[str, NDArray[Any]] = {"ct": ct, "label": mask}
        if pet is not None:
            arrays["pet"] = pet.astype(rules.pet_type)
        for name, array in arrays.items():
            _write_array(temporary / name, np.ascontiguousarray(array), compressed=rules.compressed)
        np.savez(temporary / "places.npz", lesion=places.lesion, hot=places.hot, body=places.body)
        about = {
            "instances": row["instances"], "has_pet": pet is not None, "n_lesions": lesions,
            "shape": list(grid.shape), "spacing_mm": list(spacing), "affine_ras": grid.known_affine.ravel().tolist(),
            "note": "; ".join(doubts) or None,
        }  # fmt: skip
        (temporary / "row.json").write_text(json.dumps(about), encoding="utf-8")
        temporary.rename(target)


def find_places(
    mask: NDArray[Any],
    ct: NDArray[np.int16],
    pet: NDArray[np.float32] | None,
    spacing: Spacing,
    rules: StoreRules,
    case_id: str,
    instances: str | None,
) -> tuple[Places, int]:
    """The places to put patches on, and the number of lesions.

    Of each lesion the deepest voxel and others drawn from it; of hot uptake one voxel of each component in turn,
    the largest first; of the body voxels drawn evenly. Without an uptake there is no hot place.
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
    """One voxel of each part in turn, largest parts first, until there are enough."""
    draws = stream(rules.seed, case_id, "places", "hot")
    parts = sorted(parts, key=len, reverse=True)[: rules.spots]
    turns = max(1, -(-rules.spots // max(1, len(parts))))
    mixed = [part[_pick(draws, len(part), turns)] for part in parts]
    rows = [part[turn] for turn in range(turns) for part in mixed if turn < len(part)]
    return np.array(rows[: rules.spots], dtype=np.int64).reshape(-1, 3)


def _pick(draws: np.random.Generator, count: int, most: int) -> NDArray[np.int64]:
    """As many different numbers below `count` as there are, at most `most`, in random order.

    `choice` would be a little quicker, but other draws would be another training than the one that the pages show.
    """
    return draws.permutation(count)[:most]


def _write_array(file: Path, array: NDArray[Any], *, compressed: bool) -> None:
    if compressed:
        np.savez_compressed(file.with_suffix(".npz"), array=array)
    else:
        np.save(file.with_suffix(".npy"), array)


def _content_hash(files: Mapping[str, Path], rules: StoreRules, row: Row) -> str:
    """Of the rules, the version of the store and the bytes of the files."""
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


def _commit(folder: Path, cases: Any, rejected: Any, about: Mapping[str, Any]) -> None:
    """The tables, then the head that makes them a store."""
    import pyarrow.parquet as pq

    for name, table in (("rejected", rejected), ("cases", cases)):
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
    write_text(folder / "store.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")

"""Write phantoms in the layout of the longitudinal CT of melanoma: two time points, with the identity of each lesion.

The changes of the lesions are painted: unchanged ones grow slightly, some disappear, two merge, a new one appears.
Between the time points, the body and the header move.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import EmptyMaskError, unknown_name
from clicksim.geometry import Grid
from clicksim.phantom import make_phantom
from clicksim.phantom.phantom_trees import (
    SMALL_SHAPE,
    SMALL_SPACING,
    SourceTree,
    Spoiler,
    cut_file,
    empty_file,
    leave_out,
    move_grid,
    put_value,
    to_lps,
    write_prose,
    write_table_csv,
)
from clicksim.prompts.formats import LesionPoint, dump_lesion_points
from clicksim.streams import stream
from clicksim.volumes import write_image

V1_COLUMNS = ("lesion_id", "cog_bl", "img_id_bl", "cog_propagated", "cog_fu", "img_id_fu", "lesion_type")
COLUMNS = (
    "lesion_id", "cog_bl", "cog_backpropagated", "img_id_bl", "cog_propagated", "cog_fu", "img_id_fu", "lesion_type",
    "topology_class", "merged_into", "volume_bl", "volume_fu", "target_lesion", "use_for_challenge", "linking_unclear",
)  # fmt: skip
RELEASES = ("v1", "v2", "v3")
SHIFT_VX = (1, 0, 2)
"""Movement of the body in the array between the time points."""
LESION_HU = 90
FIGURES = ((1, 5), (10, 15), (25, 51), (71, 79), (90, 91), (92, 117))
SITES = {1: "Spleen", 2: "Kidney", 3: "Kidney", 5: "Liver", 90: "CNS"}

# state of each lesion at baseline and at follow-up; 3 and 4 merge into 4
EVENTS = {1: "UNCHANGED", 2: "DISAPPEARING", 3: "MERGING", 4: "MERGING", 5: "NEWLYAPPEARING"}
RESPONSE = {1: "DISAPPEARING", 2: "DISAPPEARING"}
FURTHER = {6: "UNCHANGED", 7: "NEWLYAPPEARING"}

SPOILERS: tuple[tuple[str, str, Spoiler], ...] = (
    ("inputsTr/{}_BL_img_00.nii.gz", "MissingChannel", leave_out),
    ("inputsTr/{}_BL_mask_00.nii.gz", "TruncatedFile", empty_file),
    ("inputsTr/{}_BL_img_00.nii.gz", "TruncatedFile", cut_file),
    ("inputsTr/{}_BL_mask_00.nii.gz", "UnreadableFile", write_prose),
    ("inputsTr/{}_BL_mask_00.nii.gz", "GridMismatch", move_grid),
    ("inputsTr/{}_BL_mask_00.nii.gz", "BadLabel", put_value(1.5)),
)


@dataclass
class BodyRegion:
    """One body region of a patient at both time points; arrays are LAS, as in the phantom."""

    number: int
    grid: Grid
    ct: NDArray[np.int16]
    sites: dict[int, str] = field(default_factory=dict)
    bl: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    fu: dict[int, NDArray[np.bool_]] = field(default_factory=dict)


def write_longitudinal_ct(
    folder: str | Path,
    *,
    patients: int = 3,
    seed: int = 0,
    release: str = "v3",
    shape: Sequence[int] | None = SMALL_SHAPE,
    spacing: Sequence[float] = SMALL_SPACING,
    spoil: bool = False,
) -> SourceTree:
    """Write phantoms in the layout of the longitudinal CT data: CT, instance masks, a lesion table, points.

    Three kinds of patients take turns: one with every event, one with two body regions, a complete responder. The
    irregularities of the data are included: centroids half a voxel off, points that mix propagated and true
    centroids, tables with a byte order mark, a table without `linking_unclear`, images 00 and 02. The column names in
    `demographics.csv` (v3) are invented here.

    Args:
        folder: Where to write; created if it does not exist.
        patients: How many.
        seed: Seed of names, phantoms and lesions.
        release: `v1`, `v2` or `v3`: decides file names, columns and tables.
        shape: Voxels; None uses what the body needs at this spacing.
        spacing: Voxel size in mm.
        spoil: Add one broken image of each kind; the follow-up of those patients is valid.

    Raises:
        SettingError: The release is unknown.
        EmptyMaskError: The volume has no room for the lesions.
    """
    if release not in RELEASES:
        raise unknown_name("release", release, RELEASES)
    root = Path(folder)
    for name in ("inputsTr", "targetsTr"):
        (root / name).mkdir(parents=True, exist_ok=True)
    tree = SourceTree(root)
    pids = [stream(seed, "longitudinal_ct", number).bytes(5).hex() for number in range(patients)]
    for number, pid in enumerate(pids):
        events = [RESPONSE] if number % 3 == 2 else [EVENTS, FURTHER][: 1 + number % 3]
        regions = [
            _make_region(pid, 2 * n, own, 100 * seed + 2 * number + n, shape, spacing) for n, own in enumerate(events)
        ]
        for region in regions:
            _write_region(tree, pid, region, long=release == "v1")
        fates = {lesion: fate for own in events for lesion, fate in own.items()}
        rows = _table(regions, fates)
        columns = [c for c in COLUMNS if number % 3 != 2 or c != "linking_unclear"]
        write_table_csv(
            root / f"inputsTr/{pid}.csv", rows, V1_COLUMNS if release == "v1" else columns, bom=number % 3 == 1
        )
        _write_points(root, pid, regions, rows)
    if release != "v1":
        split = {"train": pids[:-2], "val": pids[-2:-1], "test": pids[-1:]}
        (root / "data_split.json").write_text(json.dumps(split, indent=1), encoding="utf-8")
    if release == "v3":
        people = [_person(pid) for pid in pids]
        write_table_csv(root / "demographics.csv", people, ("patient", "sex", "age", "interval_days"))
    if spoil:
        _write_spoiled(tree, seed)
    return tree


def _make_region(
    pid: str, number: int, events: dict[int, str], seed: int, shape: Sequence[int] | None, spacing: Sequence[float]
) -> BodyRegion:
    """Make a phantom's CT, and the lesions of both time points in it."""
    phantom = make_phantom(seed, shape=shape, spacing=spacing, n_lesions=0)
    region = BodyRegion(number, phantom.grid, phantom.ct)
    rng = stream(0, pid, "lesions", number)
    centres = _spots(phantom.ct, phantom.organs, len(events), rng)
    step = np.array(phantom.grid.spacing)
    for (lesion, fate), centre in zip(events.items(), centres, strict=True):
        radius = float(rng.uniform(1.6, 2.3) * step.max())
        organ = int(phantom.organs[tuple(centre)])
        region.sites[lesion] = _site(organ)
        if fate != "NEWLYAPPEARING":
            region.bl[lesion] = _ball(phantom.grid, centre, radius)
        if fate in ("UNCHANGED", "NEWLYAPPEARING"):
            region.fu[lesion] = _ball(phantom.grid, centre + SHIFT_VX, 1.15 * radius)
    _merge(region, events, centres)
    return region


def _merge(region: BodyRegion, events: dict[int, str], centres: NDArray[np.int64]) -> None:
    """Put the lesions of a merge side by side, with one lesion around both at follow-up."""
    merging = [place for place, fate in enumerate(events.values()) if fate == "MERGING"]
    if not merging:
        return
    step = np.array(region.grid.spacing)
    names = list(events)
    first, last = (names[place] for place in (merging[0], merging[-1]))
    radius = 1.6 * float(step.max())
    centre = centres[merging[0]]
    apart = np.array([np.ceil(2.6 * radius / step[0]), 0, 0]).astype(int)
    region.bl[first] = _ball(region.grid, centre, radius)
    region.bl[last] = _ball(region.grid, centre + apart, radius)
    region.sites[last] = region.sites[first]
    region.fu[last] = _ball(region.grid, centre + apart // 2 + SHIFT_VX, 2.4 * radius)


def _spots(ct: NDArray[np.int16], organs: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Voxels inside organs, far from each other and from the border of the image."""
    inside = np.zeros(organs.shape, bool)
    for first, last in FIGURES:
        inside |= (organs >= first) & (organs < last)
    places = np.argwhere(inside & (ct > -1000))
    margin = np.array([9, 6, 8])
    places = places[np.all((places >= margin) & (places < np.array(organs.shape) - margin), axis=1)]
    for apart in (14, 10, 8, 6):
        chosen: list[NDArray[np.int64]] = []
        for place in rng.permutation(places):
            if all(np.abs(place - other).max() >= apart for other in chosen):
                chosen.append(place)
            if len(chosen) == count:
                return np.array(chosen)
    raise EmptyMaskError(f"the body has no room for {count} lesions; make the volume larger")


def _ball(grid: Grid, centre: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    """A ball in mm, cut at the border of the image."""
    axes = [(np.arange(n) - c) * s for n, c, s in zip(grid.shape, centre, grid.known_spacing, strict=True)]
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(i**2 + j**2 + k**2 <= radius**2)


def _site(organ: int) -> str:
    if 10 <= organ < 15:
        return "Lung"
    if 25 <= organ < 51 or 71 <= organ < 79 or 91 < organ < 117:
        return "Skeleton"
    return SITES.get(organ, "Others")


def _write_region(tree: SourceTree, pid: str, region: BodyRegion, *, long: bool) -> None:
    """Write CT and mask of both time points."""
    for timepoint, lesions in (("BL", region.bl), ("FU", region.fu)):
        ct = region.ct.copy(order="F") if timepoint == "BL" else _moved(region.ct)
        mask = np.zeros(ct.shape, np.uint8, order="F")
        for lesion, voxels in lesions.items():
            mask[voxels] = lesion
        ct[mask > 0] = LESION_HU
        middle = f"{timepoint}_img_" if long else ""
        folder = "inputsTr" if timepoint == "BL" else "targetsTr"
        grid = region.grid if timepoint == "BL" else _shifted(region.grid)
        for kind, file, array in (("img", "inputsTr", ct), ("mask", folder, mask)):
            stored, lattice = to_lps(array, grid)
            write_image(
                tree.folder / f"{file}/{pid}_{timepoint}_{kind}_{middle}{region.number:02d}.nii.gz", stored, lattice
            )
        tree.cases.append(f"{pid}_{timepoint}_{region.number:02d}")


def _moved(ct: NDArray[np.int16]) -> NDArray[np.int16]:
    """Move the body by `SHIFT_VX`; the gap is filled with air."""
    out = np.full(ct.shape, -1000, ct.dtype, order="F")
    i, j, k = SHIFT_VX
    out[i:, j:, k:] = ct[: ct.shape[0] - i, : ct.shape[1] - j, : ct.shape[2] - k]
    return out


def _shifted(grid: Grid) -> Grid:
    """Move the origin, as for a scan on another day at another table height."""
    affine = grid.known_affine.copy()
    affine[:3, 3] += (3.0, -12.5, 40.0)
    return Grid(grid.shape, grid.spacing, affine)


def _cog(mask: NDArray[np.bool_] | None) -> NDArray[np.float64] | None:
    """The publisher's centre of gravity, on the stored array (LPS): the mean voxel index plus 0.5."""
    if mask is None:
        return None
    centre = np.argwhere(mask).mean(axis=0)
    centre[1] = mask.shape[1] - 1 - centre[1]
    return np.asarray(centre + 0.5)


def _text(cog: NDArray[np.float64] | None) -> str:
    return "" if cog is None else " ".join(f"{value:.3f}" for value in cog)


def _table(regions: Sequence[BodyRegion], fates: dict[int, str]) -> list[dict[str, Any]]:
    """The lesion table, with the columns of all releases."""
    rows = []
    for region in regions:
        into = max((lesion for lesion, fate in fates.items() if fate == "MERGING"), default=None)
        volume = region.grid.voxel_ml * 1000
        for lesion in sorted(region.sites):
            fate = fates[lesion]
            before = region.bl.get(lesion)
            after = region.fu.get(into) if fate == "MERGING" and into is not None else region.fu.get(lesion)
            own = _cog(before)
            shift = np.array(SHIFT_VX) * (1, -1, 1) + 0.2  # a registration is never quite right
            rows.append(
                {
                    "lesion_id": lesion,
                    "cog_bl": _text(own),
                    "img_id_bl": "" if before is None else region.number,
                    "cog_propagated": _text(None if own is None else own + shift),
                    "cog_backpropagated": "" if own is not None else _text(_cog(after)),
                    "cog_fu": _text(_cog(after)),
                    "img_id_fu": f"{region.number}.0",  # pandas writes integers so if other values are missing
                    "lesion_type": region.sites[lesion],
                    "topology_class": fate,
                    "merged_into": into if fate == "MERGING" else "",
                    "volume_bl": "" if before is None else f"{before.sum() * volume:.4f}",
                    "volume_fu": "" if after is None else f"{after.sum() * volume:.4f}",
                    "target_lesion": lesion % 2 == 1,
                    "use_for_challenge": True,
                    "linking_unclear": False,
                }
            )
    return rows


def _write_points(root: Path, pid: str, regions: Sequence[BodyRegion], rows: Sequence[dict[str, Any]]) -> None:
    """Write the published points: at follow-up, the propagated centroid if there is one, else the true one."""
    for region in regions:
        own = [row for row in rows if row["lesion_id"] in region.sites]
        chosen = {"BL": [(row, row["cog_bl"]) for row in own]}
        chosen["FU"] = [(row, row["cog_propagated"] or row["cog_fu"]) for row in own]
        for timepoint, cells in chosen.items():
            points = []
            for row, cell in cells:
                if cell:
                    x, y, z = (float(value) for value in cell.split())
                    points.append(LesionPoint(row["lesion_id"], str(row["lesion_id"]), (x, y, z)))
            file = root / f"inputsTr/{pid}_{timepoint}_{region.number:02d}.json"
            file.write_text(dump_lesion_points(points), encoding="utf-8")


def _person(pid: str) -> dict[str, Any]:
    rng = stream(0, pid, "person")
    age, days = (int(rng.integers(*limits)) for limits in ((30, 90), (40, 200)))
    return {"patient": pid, "sex": "FM"[int(rng.integers(2))], "age": age, "interval_days": days}


def _write_spoiled(tree: SourceTree, seed: int) -> None:
    """Write patients with one lesion and one broken baseline file each, a table that contradicts itself, a bad name."""
    region = _make_region("spoiled", 0, {1: "UNCHANGED"}, seed, SMALL_SHAPE, SMALL_SPACING)
    pids = [stream(seed, "spoiled", number).bytes(5).hex() for number in range(len(SPOILERS) + 2)]
    rows = _table([region], {1: "UNCHANGED"})
    for pid in pids:
        _write_region(tree, pid, region, long=False)
        write_table_csv(tree.folder / f"inputsTr/{pid}.csv", rows, COLUMNS)
    for pid, (name, code, spoil) in zip(pids, SPOILERS, strict=False):
        spoil(tree.folder / name.format(pid))
        tree.cases.remove(f"{pid}_BL_00")
        tree.spoiled[name.format(pid)] = code
    table, points = f"inputsTr/{pids[-2]}.csv", f"inputsTr/{pids[-1]}_BL_00.json"
    write_table_csv(tree.folder / table, [*rows, rows[0] | {"cog_bl": "1.5 2.5 3.5"}], COLUMNS)
    (tree.folder / points).write_text("no JSON", encoding="utf-8")
    bad = f"inputsTr/{pids[0]}_BASELINE.nii.gz"
    write_image(tree.folder / bad, region.ct, region.grid)
    tree.spoiled |= {table: "BadTable", points: "UnreadableFile", bad: "BadName"}

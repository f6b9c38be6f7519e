"""Outliers and contradictions: cases whose numbers are impossible, or unlike those of all others.

    geometry        voxel sizes, extents and affines that no whole-body scan has; outliers of their group
    uptake          SUV that points to a wrong unit or factor
    lesions         masks that are not lesions, or unlike those of all others
    diagnosis       masks that are empty although the table names a disease, and the reverse
    threshold       lesion voxels below the threshold that they were drawn with
    defaced         lesions where the face, and with it all uptake, was removed
    points          published centroids outside their volume
    prompts         prompt voxels outside their volume

A value is an outlier of its group (source and tracer, at least 20 cases) if its logarithm is more than eight robust
standard deviations from the median (1.4826 times the median absolute deviation, at least 0.05). The heavy tails of
lesion volumes do not reach this far.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from clicksim.catalog.store import Catalog
from clicksim.errors import counted
from clicksim.findings import Finding

FEWEST = 20
FAR, LEAST_SPREAD = 8.0, 0.05
VOXEL_MM = (0.2, 20.0)
EXTENT_MM = (100.0, 2600.0)
SUV_TOP = (0.5, 1000.0)  # g/ml, highest of a volume; the published lesions reach 393
LEAST_COVERED = 0.4  # of the PET by the CT; 500 mm of 700 mm within the slice cover half of it
FILLED = 0.2  # of the volume; a whole body fills about a third of its field of view
NO_SHAPE = (2**31, 2**31, 2**31)  # of an unknown case: no voxel is outside
PER_STUDY = {"NEGATIVE", "MELANOMA", "LYMPHOMA", "LUNG_CANCER"}
Row = Mapping[str, Any]
Values = Callable[[Row], float | None]


def check_geometry(catalog: Catalog) -> Iterator[Finding]:
    """Voxel sizes and extents within reason, affines that agree with them, even slices, CT that covers the PET."""
    columns = [
        "case_id", "source", "tracer_class", "shape_xyz", "spacing_xyz_mm", "affine_ras", "z_gap_min_mm",
        "z_gap_max_mm", "ct_coverage_fraction",
    ]  # fmt: skip
    rows = catalog.cases.select(columns).to_pylist()
    for row in rows:
        for severity, detail in _grid_faults(row):
            yield Finding(severity, "geometry", (row["case_id"],), detail)
    yield from _odd_ones(rows, "geometry", "slices of {:.4g} mm", lambda row: _at(row["spacing_xyz_mm"], 2))
    yield from _odd_ones(rows, "geometry", "voxels of {:.4g} mm in the slice", lambda r: _at(r["spacing_xyz_mm"], 0))


def check_uptake_outliers(catalog: Catalog) -> Iterator[Finding]:
    """Highest uptakes that are possible SUV, and none in a lesion above that of the volume."""
    columns = ["case_id", "source", "tracer_class", "suv_max", "suv_max_in_lesion", "suv_warnings"]
    rows = catalog.cases.select(columns).to_pylist()
    for row in rows:
        name, top, inside = (row["case_id"],), row["suv_max"], row["suv_max_in_lesion"]
        if top is not None and not SUV_TOP[0] <= top <= SUV_TOP[1]:
            yield Finding("error", "uptake", name, f"highest SUV {top:.4g}; is the unit Bq/ml, or counts?")
        if top is not None and inside is not None and inside > top * (1 + 1e-5):
            yield Finding("error", "uptake", name, f"SUV {inside:.4g} in a lesion, {top:.4g} in the volume")
        for code in row["suv_warnings"] or []:
            yield Finding("note", "uptake", name, f"SUV conversion warned: {code}")
    yield from _odd_ones(rows, "uptake", "highest SUV {:.4g}", lambda row: row["suv_max"])


def check_lesion_outliers(catalog: Catalog) -> Iterator[Finding]:
    """Lesions are inside their volume, do not fill it, and have no negative highest uptake."""
    columns = ["case_id", "source", "tracer_class", "shape_xyz", "spacing_xyz_mm", "lesion_volume_ml", "n_lesions"]
    rows = catalog.cases.select(columns).to_pylist()
    shapes = {(row["source"], row["case_id"]): row["shape_xyz"] for row in rows}
    for row in rows:
        total, size = row["lesion_volume_ml"], _volume_ml(row)
        if total and size and total > FILLED * size:
            detail = f"lesions fill {100 * total / size:.0f} % of the volume; is the mask inverted?"
            yield Finding("error", "lesions", (row["case_id"],), detail)
    for row in catalog.lesions.select(["case_id", "source", "lesion_index", "bbox_ijk", "suv_max"]).to_pylist():
        name, shape, box = f"lesion {row['lesion_index']}", shapes.get((row["source"], row["case_id"])), row["bbox_ijk"]
        if shape and box and not all(0 <= a <= b < n for a, b, n in zip(box[:3], box[3:], shape, strict=True)):
            detail = f"{name} is at {box}, outside {shape}"
            yield Finding("error", "lesions", (row["case_id"],), detail)
        if row["suv_max"] is not None and row["suv_max"] < 0:
            yield Finding("warning", "lesions", (row["case_id"],), f"{name}: highest SUV {row['suv_max']:.4g}")
    yield from _odd_ones(rows, "lesions", "lesions of {:.4g} ml together", lambda row: row["lesion_volume_ml"] or None)
    yield from _odd_ones(rows, "lesions", "{:.0f} lesions", lambda row: row["n_lesions"] or None)


def check_diagnosis(catalog: Catalog) -> Iterator[Finding]:
    """Masks that agree with the diagnosis of their study: empty if it is negative, and only then.

    One diagnosis for all studies, such as the publisher's of PSMA, says nothing about a study and is not used.
    """
    columns = ["case_id", "tracer_class", "diagnosis", "lesion_present"]
    for row in catalog.cases.select(columns).to_pylist():
        if row["tracer_class"] != "FDG" or row["diagnosis"] not in PER_STUDY or row["lesion_present"] is None:
            continue
        if row["diagnosis"] == "NEGATIVE" and row["lesion_present"]:
            detail = "the mask has lesions, the diagnosis is NEGATIVE"
            yield Finding("warning", "diagnosis", (row["case_id"],), detail)
        if row["diagnosis"] != "NEGATIVE" and not row["lesion_present"]:
            detail = f"the mask is empty, the diagnosis is {row['diagnosis']}"
            yield Finding("warning", "diagnosis", (row["case_id"],), detail)


def check_threshold(catalog: Catalog) -> Iterator[Finding]:
    """No lesion voxel below the threshold; more than one in a hundred is an error."""
    columns = ["case_id", "suv_threshold", "ttb_below_threshold_voxels", "lesion_volume_ml", "spacing_xyz_mm"]
    for row in catalog.cases.select(columns).to_pylist():
        below = row["ttb_below_threshold_voxels"]
        if not below:
            continue
        voxel = math.prod(row["spacing_xyz_mm"] or [math.nan]) / 1000
        share = below * voxel / row["lesion_volume_ml"] if row["lesion_volume_ml"] else math.nan
        detail = f"{below} lesion voxels ({100 * share:.2g} %) below SUV {row['suv_threshold'] or math.nan:.3g}"
        yield Finding("error" if share > 0.01 else "warning", "threshold", (row["case_id"],), detail)


def check_defaced(catalog: Catalog) -> Iterator[Finding]:
    """No lesion where de-facing has set the uptake to 0."""
    known: dict[str, str] = {}
    for row in catalog.lesions.select(["case_id", "lesion_index", "suv_max"]).to_pylist():
        if row["suv_max"] == 0:
            known.setdefault(row["case_id"], f"lesion {row['lesion_index']} has no uptake at all")
    for row in catalog.cases.select(["case_id", "quality_flags"]).to_pylist():
        if "LESION_IN_DEFACED" in (row["quality_flags"] or []):
            known.setdefault(row["case_id"], "lesion voxels with an uptake of exactly 0")
    for case, detail in known.items():
        yield Finding("warning", "defaced", (case,), f"{detail}: was the face removed there?")


def check_points(catalog: Catalog) -> Iterator[Finding]:
    """Published centroids inside the volume of their case."""
    columns = ["case_id", "source", "shape_xyz", "quality_flags"]
    rows = catalog.cases.select(columns).to_pylist()
    shapes = {(row["source"], row["case_id"]): row["shape_xyz"] for row in rows}
    found: dict[str, list[str]] = defaultdict(list)
    centroids = ["cog_csv_ijk", "cog_propagated_ijk"]
    for row in catalog.lesions.select(["case_id", "source", "lesion_index", *centroids]).to_pylist():
        shape = shapes.get((row["source"], row["case_id"]))
        for column in centroids:
            point = row[column]
            if shape and point and not all(-0.5 <= v < n - 0.5 for v, n in zip(point, shape, strict=True)):
                place = ", ".join(f"{v:.1f}" for v in point)
                found[row["case_id"]].append(f"{column} of lesion {row['lesion_index']} at ({place})")
    for row in rows:
        if "COG_OUTSIDE" in (row["quality_flags"] or []) and row["case_id"] not in found:
            found[row["case_id"]].append("the converter found a centroid outside")
    for case, faults in found.items():
        yield Finding("warning", "points", (case,), f"outside the volume: {'; '.join(faults[:10])}")


def check_prompt_outliers(catalog: Catalog) -> Iterator[Finding]:
    """Every prompt voxel inside the volume of its case; one finding for each run and case."""
    shapes = {row["case_id"]: row["shape_xyz"] for row in catalog.cases.select(["case_id", "shape_xyz"]).to_pylist()}
    for run in catalog.runs:
        table = catalog.table("prompts", run)
        voxels = np.stack([table[name].to_numpy() for name in "ijk"], axis=1)
        cases = table["case"].combine_chunks().dictionary_encode()
        known = [shapes.get(case) or NO_SHAPE for case in cases.dictionary.to_pylist()]
        limits = np.array(known, np.int64).reshape(-1, 3)[cases.indices.to_numpy()]
        outside = ((voxels < 0) | (voxels >= limits)).any(axis=1)
        found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        for n in np.flatnonzero(outside).tolist():
            found[cases[n].as_py()].append(tuple(voxels[n].tolist()))
        for case, places in sorted(found.items()):
            told = ", ".join(map(str, places[:10]))
            detail = f"run {run}: {counted(len(places), 'voxel')} outside {shapes.get(case) or 'any volume'}: {told}"
            yield Finding("error", "prompts", (case,), detail)


def _grid_faults(row: Row) -> Iterator[tuple[str, str]]:
    """What is wrong with the lattice of a case."""
    shape, spacing = row["shape_xyz"], row["spacing_xyz_mm"]
    if shape and spacing:
        extent = [n * s for n, s in zip(shape, spacing, strict=True)]
        size = " x ".join(f"{s:.4g}" for s in spacing)
        if not all(VOXEL_MM[0] <= s <= VOXEL_MM[1] for s in spacing):
            yield "error", f"voxels of {size} mm"
        if not all(EXTENT_MM[0] <= length <= EXTENT_MM[1] for length in extent):
            yield "error", f"a field of view of {' x '.join(f'{length:.0f}' for length in extent)} mm"
        if abs(spacing[0] - spacing[1]) > 1e-3 * spacing[0]:
            yield "warning", f"voxels are not square within the slice: {size} mm"
        if row["affine_ras"]:
            lengths = np.linalg.norm(np.array(row["affine_ras"]).reshape(4, 4)[:3, :3], axis=0)
            if not np.allclose(lengths, spacing, rtol=1e-3):
                stated = " x ".join(f"{s:.4g}" for s in lengths)
                yield "error", f"the affine has voxels of {stated} mm, the header says {size} mm"
    low, high = row["z_gap_min_mm"], row["z_gap_max_mm"]
    if low and high and high > low * 1.01 + 0.1:
        yield "warning", f"slices are {low:.4g} to {high:.4g} mm apart"
    covered = row["ct_coverage_fraction"]
    if covered is not None and covered < LEAST_COVERED:
        yield "warning", f"the CT covers {100 * covered:.0f} % of the PET"


def _odd_ones(rows: list[dict[str, Any]], check: str, words: str, value: Values) -> Iterator[Finding]:
    """Cases far from the median of their source and tracer, on a logarithmic scale."""
    groups: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        number = value(row)
        if number is not None and number > 0:
            groups[row["source"], row["tracer_class"] or "none"].append((row["case_id"], number))
    for (source, tracer), members in sorted(groups.items()):
        if len(members) < FEWEST:
            continue
        logs = np.log([number for _, number in members])
        middle = float(np.median(logs))
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), LEAST_SPREAD)
        for (case, number), log in zip(members, logs, strict=True):
            if abs(log - middle) > FAR * spread:
                usual = f"the median of {source} {tracer} is {math.exp(middle):.4g}"
                yield Finding("warning", check, (case,), f"{words.format(number)}; {usual}")


def _volume_ml(row: Row) -> float | None:
    shape, spacing = row["shape_xyz"], row["spacing_xyz_mm"]
    return math.prod(shape) * math.prod(spacing) / 1000 if shape and spacing else None


def _at(values: list[float] | None, place: int) -> float | None:
    return None if values is None else values[place]

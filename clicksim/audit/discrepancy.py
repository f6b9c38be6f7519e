"""The same study from two publishers: SUV, CT and mask voxel by voxel, and which rule explains a difference.

    compare_catalogs    compare the studies that two catalogs or sources both have, joined by `study_key`
    compare_cases       two rows of one study

Meant for a study converted from DICOM (`ours`) and the NIfTI that its publisher made of it (`theirs`). Arrays are
aligned by their affines, so that a file stored LAS can be compared with one stored LPS. A factor between two SUV
volumes is compared with what conversions do differently: the instant to which the injected dose is decayed, the
half-life, the order of bed positions, units. A rule is named only if it gives the factor.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, ClicksimError
from clicksim.geometry import Grid
from clicksim.volumes import read_image, read_label

SAME_FACTOR = 2e-4
"""Relative difference up to which a rule explains a factor."""

UPTAKE_FROM = 0.5
"""The factor is measured above this SUV; below it, quantisation dominates."""

SAME_SUV = 0.02
"""SUV difference that quantisation may leave between equal voxels."""

HALF_LIVES_S = (6586.2, 6588.0, 4057.74, 4062.6, 4080.0)
"""F-18 and Ga-68 as vendors write them."""

SAME_HU = 1.0
SHARPER = 0.5
"""Correlation with the negative Laplacian from which a CT counts as interpolated by a sharper kernel."""


@dataclass(frozen=True)
class ComparedPart:
    """The comparison of one image of a study.

    Attributes:
        name: `grid`, `suv`, `mask` or `ct`.
        equal: Nothing differs beyond rounding.
        rule: What explains the difference, in words.
        figures: What was measured.
    """

    name: str
    equal: bool
    rule: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CatalogComparison:
    """The comparison of one study."""

    study_key: str
    ours: str
    theirs: str
    parts: tuple[ComparedPart, ...]


Row = Mapping[str, Any]


def compare_catalogs(ours: Catalog, theirs: Catalog | None = None, *, study: str = "") -> Iterator[CatalogComparison]:
    """Compare every study that both catalogs have; within one catalog, a DICOM source with the other sources.

    Args:
        ours: The catalog of the conversion.
        theirs: The catalog to compare with; by default the same one.
        study: One study key; all by default.

    Raises:
        CatalogError: No study exists twice.
    """
    other = theirs or ours
    published = _by_study(other)
    pairs = [
        (mine, row)
        for key, rows in sorted(_by_study(ours).items())
        for mine in rows
        for row in published.get(key, [])
        if (not study or key == study) and _is_pair(mine, row, same_catalog=theirs is None)
    ]
    if not pairs:
        raise CatalogError(
            f"no study{f' {study}' if study else ''} exists twice; studies of two sources are matched by study_key: "
            "convert tcia-fdg or tcia-psma, and fdat"
        )
    for mine, row in pairs:
        yield compare_cases(ours, mine, other, row)


def _by_study(catalog: Catalog) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in catalog.cases.to_pylist():
        if row["study_key"]:
            found.setdefault(row["study_key"], []).append(row)
    return found


def _is_pair(mine: Row, row: Row, *, same_catalog: bool) -> bool:
    if not same_catalog:
        return True
    return str(mine["source"]).startswith("tcia_") and not str(row["source"]).startswith("tcia_")


def compare_cases(ours: Catalog, mine: Row, theirs: Catalog, row: Row) -> CatalogComparison:
    """Compare two rows of one study. An image that is missing or cannot be read is reported."""
    parts: list[ComparedPart] = []
    for name, column in (("suv", "pet_path"), ("mask", "label_path"), ("ct", "ct_path")):
        if mine[column] is None or row[column] is None:
            parts.append(ComparedPart(name, False, "missing on one side"))
            continue
        try:
            read = read_label if name == "mask" else read_image
            first, second = read(ours.resolve(mine[column])), read(theirs.resolve(row[column]))
        except ClicksimError as error:
            parts.append(ComparedPart(name, False, f"cannot be read: {error}"))
            continue
        turned, lattice = lay_over(first.grid, second.grid, second.array)
        if not any(part.name == "grid" for part in parts):
            parts.append(lattice)
        if turned is None:
            parts.append(ComparedPart(name, False, "the grids differ, so voxels cannot be compared"))
        elif name == "suv":
            parts.append(compare_suv(first.array, turned, mine, row))
        else:
            parts.append(compare_masks(first.array, turned) if name == "mask" else compare_ct(first.array, turned))
        del first, second, turned
    return CatalogComparison(str(mine["study_key"]), mine["case_id"], row["case_id"], tuple(parts))


def lay_over(grid: Grid, other: Grid, array: NDArray[Any]) -> tuple[NDArray[Any] | None, ComparedPart]:
    """Return an array as a view in the storage order of `grid`, or None if its lattice is another one.

    The corners may differ by half a voxel; the part reports it.
    """
    if grid.affine is None or other.affine is None:
        return None, ComparedPart("grid", False, "a grid without affine")
    change = np.linalg.inv(grid.affine) @ other.affine
    turn = np.rint(change[:3, :3])
    if np.abs(change[:3, :3] - turn).max() > 0.02 or abs(np.linalg.det(turn)) != 1 or np.abs(turn).sum() != 3:
        return None, ComparedPart("grid", False, f"voxels or axes differ: {grid} and {other}")
    axes = [int(np.abs(turn[a]).argmax()) for a in range(3)]
    turned = array.transpose(axes)
    moved = other.permute(axes)
    for axis in range(3):
        if turn[axis, axes[axis]] < 0:
            turned, moved = np.flip(turned, axis), moved.flip(axis)
    if turned.shape != grid.shape:
        return None, ComparedPart("grid", False, f"shapes differ: {grid} and {other}")
    ends = np.array([[0, 0, 0], [n - 1 for n in grid.shape]])
    apart = float(np.abs(grid.to_mm(ends) - moved.to_mm(ends)).max())
    figures = {"apart_mm": apart}
    if apart > 0.5 * min(grid.spacing or (1.0,)):
        return None, ComparedPart("grid", False, f"the same voxels and axes, but {apart:.3g} mm apart", figures)
    stored = "the same order" if axes == [0, 1, 2] and np.all(np.diag(turn) > 0) else "another order of the axes"
    return turned, ComparedPart("grid", apart <= 0.01, f"one lattice, stored in {stored}", figures)


def compare_suv(ours: NDArray[Any], theirs: NDArray[Any], mine: Row, row: Row) -> ComparedPart:
    """The factor between two SUV volumes, and what explains it."""
    chosen = ours > UPTAKE_FROM
    if not chosen.any():
        return ComparedPart("suv", bool(np.array_equal(ours, theirs)), f"no voxel above {UPTAKE_FROM} SUV")
    ratios = theirs[chosen].astype(np.float64) / ours[chosen]
    factor = float(np.median(ratios))
    low, high = (float(v) for v in np.quantile(ratios, [0.005, 0.995]))
    apart = np.abs(theirs - ours)
    figures = {"factor": factor, "factor_low": low, "factor_high": high, "largest_difference": float(apart.max())}
    if high - low > 2e-3 * abs(factor):
        return ComparedPart("suv", False, _by_slice(ours, theirs, chosen, mine), figures)
    if abs(factor - 1) <= SAME_FACTOR:
        odd = int(np.count_nonzero(apart > np.maximum(SAME_SUV, 2e-3 * ours)))
        rule = f"equal except for {odd} voxels, as if one image was changed after conversion" if odd else "equal"
        return ComparedPart("suv", not odd and high - low <= SAME_FACTOR, rule, figures)
    return ComparedPart("suv", False, explain_factor(factor, mine, row), figures)


def explain_factor(factor: float, mine: Row, row: Row) -> str:
    """Name the rules that give a factor, nearest first; if none does, name the nearest and how far it is off."""
    if not factor > 0:
        return f"unexplained factor {factor:.6g}"
    known = sorted((abs(math.log(factor / value)), text) for text, value in candidates(mine, row))
    hits = list(dict.fromkeys(text for away, text in known if away <= SAME_FACTOR))
    if hits:
        return "; or ".join(hits[:3])
    nearest = f"; nearest is {known[0][1]}, off by {100 * known[0][0]:.3g} %" if known else ""
    return f"unexplained factor {factor:.6g}{nearest}"


def candidates(mine: Row, row: Row) -> Iterator[tuple[str, float]]:
    """Rules in which conversions differ, each with the factor that it gives between their SUV and ours."""
    yield "weight in grams for kilograms", 1000.0
    yield "weight in kilograms for grams", 0.001
    if mine["suv_factor"]:
        yield "stored values, not SUV", 1 / mine["suv_factor"]
    life, uptake = mine["half_life_s"], mine["uptake_time_s"]
    if not life or uptake is None:
        return
    yield "the dose was not decayed to the scan", 2 ** (-uptake / life)
    if row.get("uptake_time_s") is not None:
        seconds = row["uptake_time_s"]
        yield f"their injection is {seconds:g} s before the scan, ours {uptake:g} s", 2 ** ((seconds - uptake) / life)
    for other in HALF_LIVES_S:
        if abs(other / life - 1) < 0.01 and other != life:
            yield f"half-life {other:g} s for {life:g} s", 2 ** (uptake / other - uptake / life)
    beds = mine["pet_bed_starts_s"] or []
    first = mine["pet_first_file_s"]
    for number, start in enumerate(beds, 1):
        if start == 0:
            continue
        named = ", that of the first file by name" if start == first else ""
        text = f"decayed to the acquisition of bed {number} of {len(beds)}{named} ({start:g} s after the reference)"
        yield text, 2 ** (start / life)
        for other in HALF_LIVES_S:
            if abs(other / life - 1) < 0.01 and other != life:
                yield f"{text}, half-life {other:g} s", 2 ** ((uptake + start) / other - uptake / life)


def _by_slice(ours: NDArray[Any], theirs: NDArray[Any], chosen: NDArray[np.bool_], mine: Row) -> str:
    """Explain a factor that is not one number: it may be one per slice, that of the slice's acquisition."""
    factors = []
    for k in range(ours.shape[2]):
        inside = chosen[:, :, k]
        if inside.sum() < 20:
            continue
        ratios = theirs[:, :, k][inside].astype(np.float64) / ours[:, :, k][inside]
        low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        if high - low > 2e-3 * abs(middle):
            return "no factor: the ratio differs from voxel to voxel within a slice"
        factors.append(float(middle))
    life, beds = mine["half_life_s"], mine["pet_bed_starts_s"] or []
    if life and beds and factors:
        allowed = np.array([2 ** (start / life) for start in beds])
        off = np.abs(np.array(factors)[:, None] / allowed - 1).min(axis=1)
        if off.max() <= SAME_FACTOR:
            return "each slice was decayed to its own acquisition"
    return f"a factor per slice, {min(factors, default=1):.5g} to {max(factors, default=1):.5g}"


def compare_masks(ours: NDArray[Any], theirs: NDArray[Any]) -> ComparedPart:
    """Two masks: equal, mirrored, shifted by a voxel, or how much they overlap."""
    mine, other = np.argwhere(ours > 0), np.argwhere(theirs > 0)
    keys, their_keys = _keys(mine, ours.shape), _keys(other, ours.shape)
    shared = np.intersect1d(keys, their_keys, assume_unique=True).size
    total = len(keys) + len(their_keys)
    figures = {
        "dice": 2 * shared / total if total else 1.0,
        "only_ours": float(len(keys) - shared),
        "only_theirs": float(len(their_keys) - shared),
    }
    if len(keys) == len(their_keys) == shared:
        return ComparedPart("mask", True, "equal", figures)
    if len(keys) == len(their_keys):
        for axis, name in enumerate("ijk"):
            turned = other.copy()
            turned[:, axis] = ours.shape[axis] - 1 - turned[:, axis]
            if np.array_equal(_keys(turned, ours.shape), keys):
                return ComparedPart("mask", False, f"mirrored along {name}", figures)
            for step in (-1, 1):
                turned = other.copy()
                turned[:, axis] += step
                if np.array_equal(_keys(turned, ours.shape), keys):
                    return ComparedPart("mask", False, f"shifted by one voxel along {name}", figures)
    if not len(keys) or not len(their_keys):
        return ComparedPart("mask", False, "one mask is empty", figures)
    if shared == min(len(keys), len(their_keys)):
        return ComparedPart("mask", False, "one mask contains the other", figures)
    return ComparedPart("mask", False, "the masks differ", figures)


def _keys(voxels: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Sorted linear indices; a voxel outside gets an index that no voxel inside has."""
    keys = (voxels[:, 0] * (shape[1] + 2) + voxels[:, 1]) * (shape[2] + 2) + voxels[:, 2]
    return np.sort(keys)


def compare_ct(ours: NDArray[Any], theirs: NDArray[Any]) -> ComparedPart:
    """Two CTs on one grid: the interpolation and the fill that explain how they differ."""
    apart = theirs.astype(np.float32) - ours.astype(np.float32)
    size = np.abs(apart)
    figures = {
        "largest_difference_hu": float(size.max()),
        "median_difference_hu": float(np.median(size)),
        "differing_fraction": float(np.count_nonzero(size > SAME_HU) / size.size),
        "their_lowest_hu": float(theirs.min()),
        "their_highest_hu": float(theirs.max()),
    }
    if figures["largest_difference_hu"] <= SAME_HU:
        return ComparedPart("ct", True, "equal to rounding", figures)
    rules = []
    shift = float(np.median(apart))
    if abs(shift) > SAME_HU and np.quantile(np.abs(apart - shift), 0.99) <= SAME_HU:
        return ComparedPart("ct", False, f"an offset of {shift:g} HU", figures)
    filled = (ours == ours.min()) & (size > SAME_HU)
    if filled.any():
        values, counts = np.unique(theirs[filled], return_counts=True)
        if counts.max() > 0.9 * counts.sum() and counts.sum() > 0.001 * size.size:
            rules.append(f"where the CT does not reach, {values[counts.argmax()]:g} HU instead of {ours.min():g} HU")
    likeness = sharpness_of(ours, apart)
    figures["likeness_to_sharpening"] = likeness
    over = int(np.count_nonzero(theirs < min(-1024.0, float(ours.min())) - SAME_HU))
    figures["voxels_below_ours"] = float(over)
    if likeness >= SHARPER:
        swings = f", with {over} voxels below {min(-1024.0, float(ours.min())):g} HU" if over else ""
        rules.append(f"a sharper interpolation than linear, like a cubic spline{swings}")
    elif likeness <= -SHARPER:
        rules.append("a smoother interpolation than linear")
    return ComparedPart("ct", False, "; ".join(rules) or "unexplained", figures)


def sharpness_of(ours: NDArray[Any], apart: NDArray[np.float32]) -> float:
    """Correlation of a difference with the negative Laplacian, over voxels at edges: 1 if theirs is sharper."""
    middle = ours.shape[2] // 2
    slab = slice(max(middle - 8, 0), middle + 9)
    values = ours[:, :, slab].astype(np.float32)
    if min(values.shape) < 3:
        return 0.0
    inner = values[1:-1, 1:-1, 1:-1]
    around = (
        values[2:, 1:-1, 1:-1] + values[:-2, 1:-1, 1:-1] + values[1:-1, 2:, 1:-1] + values[1:-1, :-2, 1:-1]
        + values[1:-1, 1:-1, 2:] + values[1:-1, 1:-1, :-2]
    )  # fmt: skip
    edges = (6 * inner - around).ravel()
    differences = apart[:, :, slab][1:-1, 1:-1, 1:-1].ravel()
    used = np.abs(differences) > SAME_HU
    if used.sum() < 10 or edges[used].std() == 0 or differences[used].std() == 0:
        return 0.0
    return float(np.corrcoef(edges[used], differences[used])[0, 1])

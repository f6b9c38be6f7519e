"""Measurements that are the same for every source: the lesions of a mask and their uptake, in one read of each."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.catalog.source import Row
from clicksim.errors import ImageError
from clicksim.geometry import Grid
from clicksim.lesions import Instances, find_lesions, measure_lesions
from clicksim.volumes import digest_voxels


def measure_case(
    labels: NDArray[Any], grid: Grid, uptake: NDArray[Any] | None, *, instances: Instances
) -> tuple[Row, list[Row]]:
    """Measure the columns of a case, and the rows of its lesions without `case_id`.

    Args:
        labels: `(I, J, K)`, a mask or an instance map.
        grid: Their grid, with an affine.
        uptake: On the same grid, or None.
        instances: `components` for masks, `labels` if the publisher gives ids.

    Returns:
        `shape_xyz`, `spacing_xyz_mm`, `affine_ras`, `instances`, `lesion_present`, `n_lesions`,
        `lesion_volume_ml`, `suv_max`, `suv_max_in_lesion`, `label_digest`, `pet_digest`; and for each lesion the
        columns that can be measured from a mask and an uptake.

    Raises:
        ImageError: The labels are invalid, or the uptake is not finite.
        GeometryError: The grid has no affine.
    """
    lesions = find_lesions(labels, instances=instances)
    table = measure_lesions(lesions, spacing=grid.known_spacing, uptake=uptake)
    top = None if uptake is None else highest(uptake)
    peaks = [value for value in table["suv_max"].to_pylist() if value is not None]
    case = {
        "shape_xyz": list(grid.shape),
        "spacing_xyz_mm": list(grid.known_spacing),
        "affine_ras": grid.known_affine.ravel().tolist(),
        "instances": instances,
        "lesion_present": len(lesions) > 0,
        "n_lesions": len(lesions),
        "lesion_volume_ml": float(lesions.sizes.sum()) * grid.voxel_ml,
        "suv_max": top,
        "suv_max_in_lesion": max(peaks, default=None),
        "label_digest": digest_voxels(labels),
        "pet_digest": None if uptake is None else digest_voxels(uptake),
    }
    native = instances == "labels"
    return case, [_lesion_row(row, grid, native) for row in table.to_pylist()]


def highest(uptake: NDArray[Any]) -> float:
    """The maximum of an uptake; all its values must be finite.

    Raises:
        ImageError: A value is NaN or infinite.
    """
    high, low = float(uptake.max()), float(uptake.min())  # both are NaN if one value is
    if not (np.isfinite(high) and np.isfinite(low)):
        bad = int(uptake.size - np.count_nonzero(np.isfinite(uptake)))
        raise ImageError(f"the uptake is NaN or infinite in {bad} of {uptake.size} voxels")
    return high


def uptake_flags(uptake: NDArray[Any], labels: NDArray[Any], lesions: Iterable[Row]) -> set[str]:
    """`NEGATIVE_UPTAKE`; `LESION_IN_DEFACED` if a lesion voxel has an uptake of exactly 0.

    Args:
        uptake: `(I, J, K)`, finite.
        labels: On the same grid, above 0 in lesions.
        lesions: Rows of `measure_case`; only their boxes are checked.
    """
    flags = {"NEGATIVE_UPTAKE"} if float(uptake.min()) < 0 else set()
    for lesion in lesions:
        box = lesion["bbox_ijk"]
        part = tuple(slice(first, last + 1) for first, last in zip(box[:3], box[3:], strict=True))
        if np.any((labels[part] > 0) & (uptake[part] == 0)):
            return flags | {"LESION_IN_DEFACED"}
    return flags


def _lesion_row(row: Row, grid: Grid, native: bool) -> Row:
    return {
        "lesion_index": row["lesion"],
        "id_is_native": native,
        "voxels": row["voxels"],
        "volume_ml": row["volume_ml"],
        "centroid_ijk": row["centroid"],
        "centroid_ras_mm": grid.to_mm([row["centroid"]])[0].tolist(),
        "deepest_ijk": row["deepest"],
        "depth_mm": row["depth_mm"],
        "bbox_ijk": [*row["box_first"], *row["box_last"]],
        "suv_max": row["suv_max"],
        "suv_mean": row["suv_mean"],
        "suv_peak": row["suv_peak"],
    }

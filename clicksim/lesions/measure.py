"""Lesion tables: size, position, depth and uptake of each lesion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, SettingError, UptakeError
from clicksim.geometry import Grid, check_spacing, steps_within
from clicksim.geometry.arrays import as_uptake
from clicksim.kernels import lesion_means as table_kernels
from clicksim.lesions.components import Components

if TYPE_CHECKING:
    import pyarrow as pa


def measure_lesions(
    lesions: Components, *, spacing: Sequence[float], uptake: ArrayLike | None = None, peak_ml: float = 1.0
) -> "pa.Table":
    """Make a table with one row per lesion: size, box, centroid, deepest voxel, and its uptake if given.

    Args:
        lesions: The result of `find_lesions`.
        spacing: Voxel size along `(I, J, K)`, in mm.
        uptake: `(I, J, K)`, such as SUV; the three SUV columns are null without it.
        peak_ml: Volume of the sphere used for `suv_peak`.

    Returns:
        `lesion` (id), `voxels`, `volume_ml`, `box_first`, `box_last` (voxels, both inside), `centroid` (voxels),
        `deepest` (voxel), `depth_mm` (border of the volume counted as outside), `suv_max`, `suv_mean`,
        `suv_peak`: the highest mean over a sphere of `peak_ml` centred on a voxel of the lesion and cut by the
        border of the volume; no smaller than one voxel.

    Raises:
        GeometryError: If the uptake is on another grid.
        UptakeError: If the uptake is not real, or not finite in or near a lesion.
        SettingError: If `peak_ml` is not positive and finite.
    """
    import pyarrow as pa

    sizes_mm = check_spacing(spacing)
    grid = Grid.from_spacing(lesions.memory.shape, sizes_mm)
    low, high = lesions.boxes
    deepest = [lesion.deepest(sizes_mm, closed=True) for lesion in lesions]
    empty: list[float | None] = [None] * len(lesions)
    top, mean, peak = (
        (empty, empty, empty) if uptake is None else _measure_uptake(lesions, as_uptake(uptake), grid, peak_ml)
    )
    triple, floats = pa.list_(pa.int32(), 3), pa.list_(pa.float64(), 3)
    columns = {
        "lesion": pa.array(lesions.ids, pa.int32()),
        "voxels": pa.array(lesions.sizes, pa.int64()),
        "volume_ml": pa.array(lesions.sizes * grid.voxel_ml, pa.float64()),
        "box_first": pa.array(low.tolist(), triple),
        "box_last": pa.array(high.tolist(), triple),
        "centroid": pa.array(lesions.centroids.tolist(), floats),
        "deepest": pa.array([voxel for voxel, _ in deepest], triple),
        "depth_mm": pa.array([depth for _, depth in deepest], pa.float64()),
        "suv_max": pa.array(top, pa.float32()),
        "suv_mean": pa.array(mean, pa.float32()),
        "suv_peak": pa.array(peak, pa.float32()),
    }
    return pa.table(columns)


def _measure_uptake(
    lesions: Components, uptake: NDArray[Any], grid: Grid, peak_ml: float
) -> tuple[list[float], list[float], list[float]]:
    """Compute the maximum, mean and peak of each lesion."""
    if uptake.shape != lesions.memory.shape:
        raise GeometryError(f"uptake and mask have different shapes: {uptake.shape} and {lesions.memory.shape}")
    if not 0 < peak_ml < np.inf:
        raise SettingError(f"peak_ml is the volume of a sphere, a positive number of ml, got {peak_ml}")
    sphere = steps_within(float(radius_mm(peak_ml)), grid.known_spacing)
    top, mean, peak = [], [], []
    for lesion in lesions:
        values = uptake[tuple(lesion.voxels.T)].astype(np.float64)
        top.append(float(values.max()))
        mean.append(float(values.mean()))
        peak.append(float(table_kernels.highest_mean(uptake, lesion.voxels, sphere)))
        if not (np.all(np.isfinite(values)) and np.isfinite(peak[-1])):
            raise UptakeError(f"uptake is not finite in or near lesion {lesion.id}; repair or mask it first")
    return top, mean, peak


def radius_mm(volume_ml: ArrayLike) -> NDArray[np.float64]:
    """The radius in mm of a sphere with the given volume."""
    return np.asarray((3000.0 * np.asarray(volume_ml, dtype=np.float64) / (4 * np.pi)) ** (1 / 3))

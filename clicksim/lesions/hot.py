"""Hot uptake outside lesions: a threshold, and the components above it.

The threshold is a percentile of the uptake over all voxels outside the lesions, air included, by linear
interpolation in float64, exactly as `numpy.percentile` gives it. A sample of the volume gives a lower
bound. One pass collects the voxels above the bound, a few thousandths of the volume, and the percentile and the hot
voxels are selected from these. If the bound fails (many equal values), a radix selection on the bit patterns is used.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import UptakeError, in_case
from clicksim.geometry.arrays import Memory, as_uptake, flat_view
from clicksim.geometry.reuse import reusable
from clicksim.kernels import uptake as uptake_kernels
from clicksim.kernels import voxel_runs as run_kernels
from clicksim.lesions.components import Components
from clicksim.lesions.find import connect

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SAMPLE = 1 << 16  # voxels; with this sample the bound is within about ten per cent of the wanted tail


@reusable
def hot_voxels(
    uptake: NDArray[Any], lesions: Components, *, percentile: float, suv: float = 0.0, where: str = ""
) -> tuple[Memory, Ints]:
    """Find the voxels of hot uptake outside the lesions.

    Args:
        uptake: `(I, J, K)`, the shape of the mask, any layout.
        lesions: Voxels to leave out, whatever their uptake.
        percentile: The threshold, as a percentile over all voxels outside the lesions.
        suv: A threshold in the unit of the uptake; 0 takes the percentile.
        where: A case to name in errors.

    Returns:
        The memory layout of the uptake, and the sorted flat indices of the voxels strictly above the threshold. The
        list is empty if lesions fill the volume or no voxel is above the threshold.

    Raises:
        UptakeError: If the uptake has NaN or infinite values.
    """
    flat, memory = flat_view(as_uptake(uptake))
    inside = lesion_indices(lesions, memory)
    if suv > 0:
        return memory, _collect(flat, memory, suv, inside, where)
    if len(inside) == flat.size:
        return memory, np.empty(0, np.int64)
    threshold, candidates = _select(flat, memory, inside, percentile, where)
    return memory, candidates[flat[candidates].astype(np.float64) > threshold]


def check_finite(uptake: NDArray[Any], *, where: str = "") -> None:
    """Raise an `UptakeError` that names up to ten NaN or infinite voxels. This takes one pass."""
    flat, memory = flat_view(as_uptake(uptake))
    _collect(flat, memory, math.inf, np.empty(0, np.int64), where)


def join_voxels(memory: Memory, indices: Ints) -> Components:
    """The 26-connected components of a sorted list of flat indices."""
    starts, stops = run_kernels.join_indices(indices, memory.lengths[2])
    return connect(memory, starts, stops, np.ones_like(starts), 26)


def lesion_indices(lesions: Components, memory: Memory) -> Ints:
    """Sorted flat indices of all lesion voxels, in the memory order of another volume."""
    indices: Ints = run_kernels.expand_runs(lesions.starts, lesions.stops)
    if memory != lesions.memory:
        indices = memory.indices(lesions.memory.coordinates(indices))
    indices.sort()
    return indices


def without(indices: Ints, excluded: Ints) -> Ints:
    """Indices without the excluded ones; both are sorted."""
    if not len(excluded):
        return indices
    place = np.minimum(np.searchsorted(excluded, indices), len(excluded) - 1)
    return indices[excluded[place] != indices]


def _select(flat: NDArray[Any], memory: Memory, inside: Ints, percentile: float, where: str) -> tuple[float, Ints]:
    """The percentile over the voxels outside the lesions, and the outside voxels that may be above it."""
    outside = flat.size - len(inside)
    position = (outside - 1) * (percentile / 100.0)
    rank = int(np.floor(position))
    ranks = [rank, min(rank + 1, outside - 1)]
    candidates = _collect(flat, memory, _bracket(flat, outside - rank), inside, where)
    values = flat[candidates]
    skipped = outside - len(values)  # all of them are at or below the bound
    if skipped <= rank:
        places = [r - skipped for r in ranks]
        lower, upper = np.partition(values, places)[places].astype(np.float64)
        return _interpolate(lower, upper, position - rank), candidates
    lower, upper = (_order_statistic(flat, inside, r) for r in ranks)
    threshold = _interpolate(lower, upper, position - rank)
    return threshold, _collect(flat, memory, threshold, inside, where)


def _bracket(flat: NDArray[Any], tail: int) -> float:
    """A lower bound from a sample: with high probability, somewhat more than `tail` voxels are above it."""
    step = max(1, flat.size // SAMPLE) | 1  # odd, so that the sample does not follow the columns of the grid
    sample = flat[::step]
    expected = tail / flat.size * len(sample)
    above = int(expected + 6 * np.sqrt(expected) + 8)
    if above >= len(sample):
        return -np.inf
    return float(np.partition(sample, len(sample) - 1 - above)[len(sample) - 1 - above])


def _collect(flat: NDArray[Any], memory: Memory, floor: float, inside: Ints, where: str) -> Ints:
    """Collect the sorted flat indices of the voxels above a floor and outside the lesions, in one pass."""
    kind = flat.dtype.type
    bound = kind(min(floor, float(np.finfo(kind).max)))  # below infinity, so that the kernel sees infinite values
    if float(bound) > floor:  # rounded up: one step down, so that nothing above the floor is missed
        bound = np.nextafter(bound, kind(-np.inf))
    found: Ints = uptake_kernels.collect_above(flat, bound, np.finfo(kind).min)
    values = flat[found]
    bad = found[~np.isfinite(values)]
    if len(bad):
        places = ", ".join(str(tuple(v)) for v in memory.coordinates(bad[:10]).tolist())
        raise UptakeError(
            f"uptake has {len(bad)} voxels that are not finite, at {places}{in_case(where)}; repair or mask them first"
        )
    return without(found[values.astype(np.float64) > floor], inside)


def _order_statistic(flat: NDArray[Any], inside: Ints, rank: int) -> np.float64:
    """The value of a given rank among the voxels outside the lesions."""
    kind = np.uint32 if flat.itemsize == 4 else np.uint64
    sign, digits = np.uint64(1 << (8 * flat.itemsize - 1)), flat.itemsize // 2
    pattern = uptake_kernels.order_statistic(flat.view(kind), sign, digits, inside, rank)
    return np.array([pattern], dtype=np.uint64).astype(kind).view(flat.dtype)[0].astype(np.float64)


def _interpolate(lower: np.float64, upper: np.float64, fraction: float) -> float:
    """Interpolate between two neighbours from the nearer end, with the rounding of `numpy.percentile`."""
    step = upper - lower
    return float(lower + step * fraction if fraction < 0.5 else upper - step * (1 - fraction))

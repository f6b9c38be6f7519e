"""Find the components of a mask or an instance map in one scan over its voxels."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, unknown_name
from clicksim.geometry.arrays import Memory, as_labels, as_mask, flat_view
from clicksim.geometry.reuse import reusable
from clicksim.kernels import voxel_runs as run_kernels
from clicksim.lesions.components import Components, Ints

Instances = Literal["auto", "labels", "components", "touching"]

INSTANCE_RULES = ("auto", "labels", "components", "touching")
CONNECTIVITIES = (6, 18, 26)
DENSE = 20  # if more than one voxel in 20 is set, re-order the whole volume


@reusable
def find_lesions(
    mask: ArrayLike, *, instances: Instances = "auto", connectivity: int = 26, where: str = ""
) -> Components:
    """Find the lesions of a mask or an instance map.

    Args:
        mask: `(I, J, K)`; 0 is background. Booleans, integers and whole-valued floats of any layout.
        instances: `components` splits the mask into connected components and ignores the values. `labels` takes
            each distinct value as one lesion with that id, even in several parts. `auto` is `labels` if
            there is more than one distinct non-zero value, otherwise `components`. `touching` is the published
            rule: voxels are connected if their values are equal, so touching instances are separate, and one
            value in two parts gives two components.
        connectivity: 6, 18 or 26.
        where: A case to name in errors.

    Returns:
        Components in the order k, then j, then i of their first voxel; with `labels` in ascending order of id.
        None for an empty mask.

    Raises:
        LabelError: If a value is not a valid label.
        GeometryError: If there are not three axes.
    """
    if instances not in INSTANCE_RULES:
        raise unknown_name("rule for instances", str(instances), INSTANCE_RULES)
    if connectivity not in CONNECTIVITIES:
        raise GeometryError(f"connectivity must be 6, 18 or 26, got {connectivity}")
    flat, memory = flat_view(as_labels(as_mask(mask, where=where), where=where))
    starts, stops, values = scan_labels(flat, memory)
    rule = instances
    if rule == "auto":
        rule = "labels" if len(np.unique(values)) > 1 else "components"
    if rule == "labels":
        return _group_by_value(memory, starts, stops, values)
    if rule == "components":
        values = np.ones_like(values)
        starts, stops = _close_gaps(starts, stops, int(memory.lengths[2]))
        values = values[: len(starts)]
    return connect(memory, starts, stops, values, connectivity)


def scan_labels(flat: NDArray[Any], memory: Memory) -> tuple[Ints, Ints, Ints]:
    """Find the runs of equal non-zero value in one pass: starts, stops, values."""
    per_word = 8 // flat.itemsize
    words = flat[: flat.size // per_word * per_word].view(np.uint64)
    found: tuple[Ints, Ints, Ints] = run_kernels.find_runs(flat, words, per_word, int(memory.lengths[2]))
    return found


def flat_in(array: NDArray[Any], memory: Memory) -> NDArray[Any]:
    """Return a label array as a flat array in a given memory order; a view if it already has that order.

    Otherwise only its non-zero voxels are moved, because re-ordering a whole volume costs about twenty times as much.
    An array that is not sparse is copied as a whole.

    Args:
        array: `(I, J, K)`, as returned by `as_labels`.
        memory: Layout of the result.
    """
    flat, own = flat_view(array)
    if own == memory:
        return flat
    starts, stops, values = scan_labels(flat, own)
    if DENSE * (stops - starts).sum() > flat.size:
        return np.ascontiguousarray(array.transpose(memory.axes)).reshape(-1)
    out = np.zeros(flat.size, dtype=flat.dtype)
    voxels = own.coordinates(run_kernels.expand_runs(starts, stops))
    out[memory.indices(voxels)] = np.repeat(values, stops - starts)
    return out


def connect(
    memory: Memory, starts: Ints, stops: Ints, values: Ints, connectivity: int, *, order: Literal["F", "C"] = "F"
) -> Components:
    """Find the components of runs: touching runs of equal value.

    Args:
        memory: Layout that the runs refer to.
        starts, stops, values: Runs, sorted by start.
        connectivity: 6, 18 or 26; 8 within slices across the slow axis.
        order: Numbers follow the first voxel in the order k, j, i (`F`) or i, j, k (`C`).
    """
    lengths = memory.lengths
    roots = run_kernels.connect_runs(starts, stops, values, lengths[1], lengths[2], connectivity)
    firsts, places = np.unique(roots, return_inverse=True)
    # the first voxel of a component is the start of one of its runs, in either order
    i, j, k = memory.coordinates(starts).T
    I, J, K = memory.shape
    keys = np.full(len(firsts), np.iinfo(np.int64).max)
    np.minimum.at(keys, places, (k * J + j) * I + i if order == "F" else (i * J + j) * K + k)
    ranks = np.argsort(np.argsort(keys))
    return _gather(memory, starts, stops, ranks[places], np.arange(1, len(firsts) + 1), np.sort(keys))


def _group_by_value(memory: Memory, starts: Ints, stops: Ints, values: Ints) -> Components:
    ids, places = np.unique(values, return_inverse=True)
    return _gather(memory, starts, stops, places, ids, ids)


def _gather(memory: Memory, starts: Ints, stops: Ints, places: Ints, ids: Ints, keys: Ints) -> Components:
    """Sort the runs by component, in memory order within each."""
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(len(ids) + 1))
    return Components(memory, ids.astype(np.int64), keys.astype(np.int64), starts[order], stops[order], bounds)


def _close_gaps(starts: Ints, stops: Ints, row: int) -> tuple[Ints, Ints]:
    """Join adjacent runs of one row, which differ only in value."""
    if not len(starts):
        return starts, stops
    opens = np.concatenate([[True], (starts[1:] != stops[:-1]) | (starts[1:] % row == 0)])
    return starts[opens], stops[np.concatenate([opens[1:], [True]])]

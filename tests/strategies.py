"""Hypothesis strategies: small volumes that hold every awkward case, in every layout and dtype.

Volumes have at most 9 voxels along an axis, so that the slow twins stay fast.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

DTYPES = (np.bool_, np.uint8, np.int16, np.int32, np.float32, np.float64)


def shapes(max_side: int = 9) -> st.SearchStrategy[tuple[int, int, int]]:
    """Three sides of 1 to `max_side`; one in three shapes has an axis of one voxel for certain."""
    side = st.integers(1, max_side)
    free = st.tuples(side, side, side)
    flat = st.tuples(free, st.integers(0, 2)).map(lambda pair: _with_one(*pair))
    return st.one_of(free, free, flat)


def spacings() -> st.SearchStrategy[tuple[float, float, float]]:
    """Isotropic, 1:1:8 along any axis, or anything between 0.5 and 8 mm."""
    length = st.sampled_from([0.5, 1.0, 2.0, 4.07]) | st.floats(0.5, 8.0)
    isotropic = length.map(lambda s: (s, s, s))
    slices = st.permutations([1.0, 1.0, 8.0]).map(lambda s: (s[0], s[1], s[2]))
    return st.one_of(isotropic, slices, st.tuples(length, length, length))


def dtypes() -> st.SearchStrategy[Any]:
    """One of the dtypes in which masks and labels come."""
    return st.sampled_from(DTYPES)


def blobs(shape: Sequence[int]) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Up to four boxes in a volume: they touch at faces, edges or corners, overlap, or lie at the border."""
    return st.lists(_boxes(shape), min_size=0, max_size=4).map(lambda found: _filled(shape, found) != 0)


def masks(shape: Sequence[int] | None = None) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Empty, full, one voxel, scattered voxels, or boxes; C-contiguous."""
    if shape is None:
        return shapes().flatmap(masks)
    sizes = (int(shape[0]), int(shape[1]), int(shape[2]))
    size = int(np.prod(sizes))
    one = st.integers(0, size - 1).map(lambda at: (np.arange(size) == at).reshape(sizes))
    scattered = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.2, 0.5, 0.9])).map(
        lambda drawn: np.random.default_rng(drawn[0]).random(sizes) < drawn[1]
    )
    plain = st.sampled_from([np.zeros(sizes, bool), np.ones(sizes, bool)]).map(np.copy)
    return st.one_of(plain, one, scattered, blobs(sizes), blobs(sizes), hnp.arrays(np.bool_, sizes))


def instances(shape: Sequence[int] | None = None) -> st.SearchStrategy[NDArray[np.int32]]:
    """Labels 0 to 3: touching lesions of unequal values, and one value in several parts; C-contiguous."""
    if shape is None:
        return shapes().flatmap(instances)
    sizes = (int(shape[0]), int(shape[1]), int(shape[2]))
    boxes = st.lists(_boxes(sizes), min_size=1, max_size=5).map(lambda found: _filled(sizes, found))
    scattered = st.integers(0, 2**32 - 1).map(lambda seed: _scattered_labels(sizes, seed))
    return st.one_of(boxes, scattered, masks(sizes).map(lambda mask: mask.astype(np.int32)))


def uptakes(shape: Sequence[int]) -> st.SearchStrategy[NDArray[np.float32]]:
    """Non-negative float32 uptakes: many ties, few hot voxels, one flat value, or all different."""
    sizes = (int(shape[0]), int(shape[1]), int(shape[2]))
    seed = st.integers(0, 2**32 - 1)
    flat = st.integers(0, 3).map(lambda value: np.full(sizes, value, np.float32))
    ties = st.tuples(seed, st.integers(1, 6)).map(
        lambda drawn: np.random.default_rng(drawn[0]).integers(0, drawn[1] + 1, sizes).astype(np.float32)
    )
    smooth = seed.map(lambda drawn: np.random.default_rng(drawn).random(sizes).astype(np.float32))
    few = st.lists(_boxes(sizes), min_size=1, max_size=2).map(lambda found: _filled(sizes, found) * np.float32(2.5))
    return st.one_of(flat, ties, smooth, few)


def hot_cases() -> st.SearchStrategy[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """A `(15, 15, 15)` label and an uptake with one to three hot components, so fewer than ten clicks need.

    Above the 99.75th percentile there is room for 8 voxels of 3,375: single voxels and rods (every voxel at
    depth 1), a plus of 7 voxels (one at depth 2), a cube of 8 in a corner (its corner voxel deeper still, as
    the border is no outside). The label is empty, a box, or half of the volume; a hot spot may lie inside it.
    """
    kind = st.sampled_from(["voxel", "voxel", "rod", "plus", "corner cube"])
    at = st.tuples(*[st.integers(1, 13)] * 3)
    spots = st.lists(st.tuples(kind, at), min_size=1, max_size=3)
    lesion = st.sampled_from(["empty", "box", "half"])
    return st.tuples(lesion, at, spots).map(lambda drawn: _hot_case(*drawn))


def layouts() -> st.SearchStrategy[Callable[[NDArray[Any]], NDArray[Any]]]:
    """A change of memory layout that leaves every value where it is."""
    return st.sampled_from([as_c, as_f, as_strided, as_reversed, as_middle])


def as_c(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous copy."""
    return np.array(array, order="C")


def as_f(array: NDArray[Any]) -> NDArray[Any]:
    """A Fortran-contiguous copy."""
    return np.array(array, order="F")


def as_strided(array: NDArray[Any]) -> NDArray[Any]:
    """A view of every second voxel of a larger array; what lies between is foreground if read."""
    larger = np.ones([2 * n for n in array.shape], dtype=array.dtype)
    larger[::2, ::2, ::2] = array
    return larger[::2, ::2, ::2]


def as_reversed(array: NDArray[Any]) -> NDArray[Any]:
    """A view with negative strides along all axes."""
    return np.array(array[::-1, ::-1, ::-1], order="C")[::-1, ::-1, ::-1]


def as_middle(array: NDArray[Any]) -> NDArray[Any]:
    """A C-ordered array whose second axis is the slowest in memory: neither C nor F."""
    return np.array(array.transpose(1, 0, 2), order="C").transpose(1, 0, 2)


def _with_one(shape: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    sides = list(shape)
    sides[axis] = 1
    return (sides[0], sides[1], sides[2])


def _boxes(shape: Sequence[int]) -> st.SearchStrategy[tuple[slice, ...]]:
    """A box with sides of one to five voxels, cut by the border where it reaches beyond."""
    sides = [st.tuples(st.integers(0, n - 1), st.integers(1, 5)) for n in shape]
    return st.tuples(*sides).map(lambda box: tuple(slice(a, a + n) for a, n in box))


def _filled(shape: Sequence[int], boxes: Sequence[tuple[slice, ...]]) -> NDArray[np.int32]:
    """Boxes painted one over the other with the values 1, 2, 3, 1, 2, ..."""
    labels = np.zeros(tuple(shape), dtype=np.int32)
    for number, box in enumerate(boxes):
        labels[box] = 1 + number % 3
    return labels


def _scattered_labels(shape: tuple[int, int, int], seed: int) -> NDArray[np.int32]:
    drawn = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 3], size=shape)
    return drawn.astype(np.int32)


def _hot_case(
    lesion: str, at: tuple[int, ...], spots: Sequence[tuple[str, tuple[int, ...]]]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    label = np.zeros((15, 15, 15), dtype=np.uint8)
    uptake = np.zeros((15, 15, 15), dtype=np.float32)
    if lesion == "half":
        label[:7] = 1
    elif lesion == "box":
        label[at[0] : at[0] + 2, at[1] : at[1] + 3, at[2] - 1] = 1
    for value, (kind, (i, j, k)) in enumerate(spots, start=3):
        if kind == "corner cube":
            uptake[13:, 13:, 13:] = value
        elif kind == "rod":
            uptake[i, j, k - 1 : k + 2] = value
        else:
            uptake[i, j, k] = value
        if kind == "plus":
            uptake[[i - 1, i + 1, i, i, i, i], [j, j, j - 1, j + 1, j, j], [k, k, k, k, k - 1, k + 1]] = value
    return label, uptake

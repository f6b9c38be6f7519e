"""Strokes in one slice, as the published rule (autopet-v) draws them.

Source: the scripts of autoPET V. A slice is `(rows, columns)`; pixels are listed row by row; a stroke is a list of
pixels. `random` and `boundary` begin their stream anew with each stroke, as published.
"""

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clicksim.kernels import strokes as kernels
from clicksim.kernels.voxel_runs import expand_runs
from clicksim.lesions import Component

Slice = NDArray[np.uint8]
Pixels = NDArray[np.int64]

TRIM = 0.1  # of a centre line, at each end
SHORT = 10  # nodes up to which a centre line is not trimmed
WALK = 0.2  # of the rim, the length of a boundary stroke


def _thinning_table() -> NDArray[np.uint8]:
    """In which subiterations a pixel is deleted, by the code of its neighbours.

    The textbook rule of Zhang and Suen, but for 25 codes, as common implementations have them: without those a
    square of 2 x 2 would vanish.
    """
    table = np.zeros(256, dtype=np.uint8)
    for code in range(256):
        nw, n, ne, e, se, s, sw, w = ((code >> bit) & 1 for bit in range(8))
        ring = [n, ne, e, se, s, sw, w, nw]
        count = sum(ring)
        changes = sum(a == 0 and b == 1 for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
        if 2 <= count <= 6 and changes == 1:
            first = n * e * s == 0 and e * s * w == 0
            second = n * e * w == 0 and n * s * w == 0
            table[code] = first + 2 * second
    table[[48, 129]] = 0
    table[[3, 6, 11, 12, 14, 131, 134, 161, 194, 198]] = 1
    table[[24, 26, 56, 96, 104, 108, 176, 192, 224]] = 2
    table[[10, 40, 130, 160]] = 3
    return table


THINNING = _thinning_table()


def fullest_slice(component: Component, axis: int) -> tuple[int, Pixels]:
    """The slice across an axis that holds most of a component, the first of such.

    Works on the runs, so that only the voxels of that slice are listed.

    Returns:
        Its place along the axis, and its `(n, 2)` pixels along the two other axes, row by row.
    """
    memory = component.memory
    first, lengths = memory.coordinates(component.starts), component.stops - component.starts
    begin = first[:, axis]
    counts = np.zeros(memory.shape[axis] + 1, np.int64)
    if axis == memory.axes[2]:  # runs cross slices
        np.add.at(counts, begin, 1)
        np.add.at(counts, begin + lengths, -1)
        place = int(np.argmax(np.cumsum(counts)))
        voxels = first[(begin <= place) & (place < begin + lengths)]
    else:
        np.add.at(counts, begin, lengths)
        place = int(np.argmax(counts))
        inside = begin == place
        voxels = memory.coordinates(expand_runs(component.starts[inside], component.stops[inside]))
    pixels = np.delete(voxels, axis, axis=1)
    return place, pixels[np.lexsort(pixels.T[::-1])]


def centerline(mask: Slice, seed: int) -> Pixels:  # noqa: ARG001 - all strokes take a seed
    """The longest way through the skeleton, a tenth trimmed off at each end.

    A mask without a skeleton of at least two pixels is its own stroke (quirk Q14 of the published rule).
    """
    skeleton = kernels.largest_part(kernels.thin(mask, THINNING))
    pixels = np.argwhere(skeleton)
    if len(pixels) < 2:
        return np.argwhere(mask)
    first, last = kernels.farthest_pair(pixels, np.ones(2))
    path = kernels.shortest_path(skeleton, pixels[first], pixels[last])
    if len(path) > SHORT:
        path = path[int(TRIM * len(path)) : int((1 - TRIM) * len(path))]
    return np.asarray(path[mask[path[:, 0], path[:, 1]] != 0])


def random_line(mask: Slice, seed: int) -> Pixels:
    """A straight line between two pixels drawn with replacement, as far as it lies in the mask."""
    pixels = np.argwhere(mask)
    if len(pixels) < 2:
        return pixels
    draws = random.Random(seed)
    start, stop = (pixels[draws.randint(0, len(pixels) - 1)] for _ in range(2))
    line = kernels.straight_line(*start, *stop)
    return np.asarray(line[mask[line[:, 0], line[:, 1]] != 0])


def boundary(mask: Slice, seed: int) -> Pixels:
    """A walk along the inner rim over a fifth of its pixels, from one drawn at random.

    A rim of less than two pixels gives the mask.
    """
    rim = kernels.inner_rim(mask)
    pixels = np.argwhere(rim)
    if len(pixels) < 2:
        return np.argwhere(mask)
    start = pixels[random.Random(seed).randint(0, len(pixels) - 1)]
    return np.asarray(kernels.walk(rim, start, max(2, int(WALK * len(pixels)))))


STROKES: dict[str, Callable[[Slice, int], Pixels]] = {
    "centerline": centerline,
    "random": random_line,
    "boundary": boundary,
}

"""Strokes of the published rule (autopet-v) in one slice.

Source: the scripts of autoPET V. A slice is `(rows, columns)`; pixels are listed row by row; a stroke is a list of
pixels. `random` and `boundary` restart their random stream for each stroke, as published.
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

TRIM = 0.1  # share of a centre line removed at each end
SHORT = 10  # centre lines with up to this many nodes are not trimmed
WALK = 0.2  # length of a boundary stroke as a share of the rim


def _thinning_table() -> NDArray[np.uint8]:
    """The subiterations that delete a pixel, by the code of its neighbours.

    This is the textbook rule of Zhang and Suen, except for 25 codes, as in common implementations. Without these
    exceptions, a square of 2 x 2 would vanish.
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
    """Find the first slice across an axis with most voxels of a component.

    It works on the runs, so only the voxels of that slice are listed.

    Returns:
        The index of the slice along the axis, and its `(n, 2)` pixels along the two other axes, row by row.
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
    """The longest path through the skeleton, with a tenth trimmed off at each end.

    If the skeleton has fewer than two pixels, the stroke is the whole mask (quirk Q14 of the published rule).
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
    """The part inside the mask of a straight line between two pixels, drawn with replacement."""
    pixels = np.argwhere(mask)
    if len(pixels) < 2:
        return pixels
    draws = random.Random(seed)
    start, stop = (pixels[draws.randint(0, len(pixels) - 1)] for _ in range(2))
    line = kernels.straight_line(*start, *stop)
    return np.asarray(line[mask[line[:, 0], line[:, 1]] != 0])


def boundary(mask: Slice, seed: int) -> Pixels:
    """A walk along the inner rim over a fifth of its pixels, from a random pixel.

    If the rim has fewer than two pixels, the stroke is the whole mask.
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

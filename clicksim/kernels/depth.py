"""Depth: the distance from each voxel of a component to the nearest voxel outside it.

The exact squared Euclidean distance is separable: along the fastest axis it follows from the run itself; along
the other two it is the minimum of `value(t steps away) + t**2 * weight` (Saito and Toriwaki, 1994). The search
along a line stops when the step alone is longer than the best distance so far, so the cost depends on the
depth of the component, and lesions are shallow. Only voxels of the component are visited.

If `closed`, voxels beyond the border of the volume count as outside. Otherwise they do not count, and a component
that fills the volume has infinite depth everywhere. Neighbours with the same label that belong to other components
count as outside, like any other voxel.
"""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def squared_depths(starts, stops, shape, low, high, weights, closed):
    """Compute the squared depth of each voxel of one component.

    Args:
        starts, stops: The runs of the component.
        shape: `(slow, middle, fast)` of the volume.
        low, high: First and last voxel of its box along (slow, middle, fast).
        weights: float64, squared voxel size along (slow, middle, fast).
        closed: Whether the border of the volume counts as outside.

    Returns:
        float64, one value per voxel in the order of the runs.
    """
    box = _two_axes(starts, stops, shape, low, high, weights, closed)
    total = 0
    for r in range(starts.size):
        total += stops[r] - starts[r]
    out = np.empty(total)
    n = 0
    for r in range(starts.size):
        line = starts[r] // shape[2]
        a, b = line // shape[1] - low[0] + 1, line % shape[1] - low[1] + 1
        first = starts[r] % shape[2] - low[2]
        for x in range(first, first + stops[r] - starts[r]):
            out[n] = _nearest_slow(box, a, b, x, weights[0], -1.0)
            n += 1
    return out


@kernel
def deepest_voxel(starts, stops, shape, low, high, weights, closed, ranks, tolerance):
    """Find the deepest voxel of one component.

    Among equally deep voxels, the one with the lowest rank wins. The tolerance absorbs the rounding of sums in a
    different order. Voxels that can no longer win are dropped before the search along the last axis ends.

    Args:
        starts, stops, shape, low, high, weights, closed: As in `squared_depths`.
        ranks: int64, the change of a voxel's rank for a step along (slow, middle, fast).
        tolerance: Relative difference below which squared depths are equal.

    Returns:
        The voxel's flat index and its squared depth.
    """
    box = _two_axes(starts, stops, shape, low, high, weights, closed)
    best, best_rank, best_index = -1.0, np.int64(0), np.int64(-1)
    for r in range(starts.size):
        line = starts[r] // shape[2]
        slow, mid, first = line // shape[1], line % shape[1], starts[r] % shape[2]
        for x in range(first, first + stops[r] - starts[r]):
            floor = best * (1.0 - tolerance)
            rank = slow * ranks[0] + mid * ranks[1] + x * ranks[2]
            depth = _nearest_slow(box, slow - low[0] + 1, mid - low[1] + 1, x - low[2], weights[0], floor)
            if depth < floor:
                continue
            if depth > best * (1.0 + tolerance) or rank < best_rank or best_index < 0:
                best_rank, best_index = rank, starts[r] + x - first
            best = max(best, depth)
    return best_index, best


@kernel
def is_rim(starts, stops, shape, low, high, closed):
    """Mark the voxels that have a 6-neighbour outside the component.

    A neighbour beyond the border of the volume counts as outside only if `closed`.

    Returns:
        bool, one value per voxel in the order of the runs.
    """
    inside = np.zeros((high[0] - low[0] + 3, high[1] - low[1] + 3, high[2] - low[2] + 1), np.uint8)
    total = 0
    for r in range(starts.size):
        line = starts[r] // shape[2]
        a, b = line // shape[1] - low[0] + 1, line % shape[1] - low[1] + 1
        first = starts[r] % shape[2] - low[2]
        inside[a, b, first : first + stops[r] - starts[r]] = 1
        total += stops[r] - starts[r]
    if not closed:
        if low[0] == 0:
            inside[0] = 1
        if high[0] == shape[0] - 1:
            inside[-1] = 1
        if low[1] == 0:
            inside[:, 0] = 1
        if high[1] == shape[1] - 1:
            inside[:, -1] = 1
    out = np.empty(total, np.bool_)
    n = 0
    for r in range(starts.size):
        line = starts[r] // shape[2]
        a, b = line // shape[1] - low[0] + 1, line % shape[1] - low[1] + 1
        first = starts[r] % shape[2]
        last = first + stops[r] - starts[r] - 1
        for x in range(first, last + 1):
            end = (x == first and (closed or first > 0)) or (x == last and (closed or last < shape[2] - 1))
            y = x - low[2]
            covered = inside[a - 1, b, y] + inside[a + 1, b, y] + inside[a, b - 1, y] + inside[a, b + 1, y]
            out[n] = end or covered < 4
            n += 1
    return out


@kernel
def _two_axes(starts, stops, shape, low, high, weights, closed):
    """Squared distance along the two faster axes, in a box with a margin of one on the two slower axes."""
    n0, n1, n2 = high[0] - low[0] + 3, high[1] - low[1] + 3, high[2] - low[2] + 1
    box = np.zeros((n0, n1, n2))
    plane = np.zeros((n1, n2))
    if not closed:
        if low[0] == 0:
            box[0] = np.inf
        if high[0] == shape[0] - 1:
            box[-1] = np.inf
        if low[1] == 0:
            plane[0] = np.inf
        if high[1] == shape[1] - 1:
            plane[-1] = np.inf
    r = 0
    while r < starts.size:
        slow = starts[r] // (shape[1] * shape[2])
        end = r
        while end < starts.size and starts[end] // (shape[1] * shape[2]) == slow:
            _fill_row(plane, starts[end], stops[end], shape, low, weights[2], closed)
            end += 1
        for q in range(r, end):
            b = (starts[q] // shape[2]) % shape[1] - low[1] + 1
            first = starts[q] % shape[2] - low[2]
            for x in range(first, first + stops[q] - starts[q]):
                box[slow - low[0] + 1, b, x] = _nearest_middle(plane, b, x, weights[1])
        plane[1:-1] = 0.0
        r = end
    return box


@kernel
def _fill_row(plane, start, stop, shape, low, weight, closed):
    """Squared distance along the fastest axis, from the ends of one run."""
    b = (start // shape[2]) % shape[1] - low[1] + 1
    first = start % shape[2]
    last = first + stop - start - 1
    left_open = first == 0 and not closed
    right_open = last == shape[2] - 1 and not closed
    for x in range(first, last + 1):
        distance = np.inf
        if not left_open:
            distance = x - first + 1.0
        if not right_open:
            distance = min(distance, last - x + 1.0)
        plane[b, x - low[2]] = distance * distance * weight


@kernel
def _nearest_middle(plane, b, x, weight):
    best = plane[b, x]
    t = 1
    while t * t * weight < best and (t <= b or b + t < plane.shape[0]):
        step = t * t * weight
        if t <= b:
            best = min(best, plane[b - t, x] + step)
        if b + t < plane.shape[0]:
            best = min(best, plane[b + t, x] + step)
        t += 1
    return best


@kernel
def _nearest_slow(box, a, b, x, weight, floor):
    """Like `_nearest_middle`, along the slowest axis; stop when the result must be below `floor`."""
    best = box[a, b, x]
    t = 1
    while best >= floor and t * t * weight < best and (t <= a or a + t < box.shape[0]):
        step = t * t * weight
        if t <= a:
            best = min(best, box[a - t, b, x] + step)
        if a + t < box.shape[0]:
            best = min(best, box[a + t, b, x] + step)
        t += 1
    return best

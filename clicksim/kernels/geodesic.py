"""Geodesic distance on an image by raster scan, 26-connected, exact on that graph.

A step between neighbours p and q costs `length(p, q) + contrast * |image(p) - image(q)|`; the distance of a voxel is
the cheapest path to any seed. Forward and backward sweeps (Toivanen, 1996) alternate until nothing changes, so the
result equals that of Dijkstra's algorithm, unlike that of a fixed number of scans. A row is visited only if a
neighbouring row has changed since its last visit. So the cost depends on the reached part of the box, and late
sweeps, which shorten a few detours, are cheap.
"""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def sweep_geodesic(distance, image, lengths, contrast, reach, limit):
    """Compute the final distances, in place.

    Args:
        distance: float64 `(n0, n1, n2)`, C-contiguous: 0 at seeds, infinite elsewhere.
        image: float64, of the same shape.
        lengths: float64 `(2, 2, 2)`, cost of a step by direction, such as `lengths[1, 0, 1]` for one voxel along the
            first and the last axis; `lengths[0, 0, 0]` is not read.
        contrast: Cost of a difference of 1 in the image.
        reach: Voxels farther than this stay infinite.
        limit: Maximum number of sweeps.

    Returns:
        The number of sweeps, including the last one, which changed nothing; or `limit`.
    """
    n0, n1 = distance.shape[0], distance.shape[1]
    changed = np.zeros((n0, n1), np.int64)  # the last sweep in which a row changed; 0 for never
    for a in range(n0):
        for b in range(n1):
            for x in range(distance.shape[2]):
                if distance[a, b, x] == 0.0:
                    changed[a, b] = 1
                    break
    for sweep in range(1, limit + 1):
        step = 1 if sweep % 2 == 1 else -1
        moved = False
        for s in range(n0):
            a = s if step == 1 else n0 - 1 - s
            for t in range(n1):
                b = t if step == 1 else n1 - 1 - t
                better = False
                for m in range(4):  # the rows behind: (-1, -1), (-1, 0), (-1, 1), (0, -1)
                    c, d = (a - step, b + (m - 1) * step) if m < 3 else (a, b - step)
                    if not (0 <= c < n0 and 0 <= d < n1) or changed[c, d] < max(1, sweep - 1):
                        continue
                    side = lengths[1 if m < 3 else 0, 0 if m == 1 else 1]
                    row, other = distance[a, b], distance[c, d]
                    if _relax_row(row, other, image[a, b], image[c, d], side, contrast, reach):
                        better = True
                if better or changed[a, b] >= max(1, sweep - 1):
                    along = _relax_along(distance[a, b], image[a, b], lengths[0, 0, 1], contrast, reach, step)
                    better = better or along
                if better:
                    changed[a, b] = sweep
                    moved = True
        if not moved and sweep > 1:
            return sweep
    return limit


@kernel
def _relax_row(row, other, values, beside, side, contrast, reach):
    """Take steps from another row, straight and to both sides; return whether any was cheaper.

    The loop has no branches, so it compiles to vector instructions: branches on noise cost more than the work.
    """
    n = row.size
    better = _relax_end(row, other, values, beside, side, contrast, reach, 0)
    if n > 1 and _relax_end(row, other, values, beside, side, contrast, reach, n - 1):
        better = True
    count = 0
    for x in range(1, n - 1):
        v = values[x]
        straight = other[x] + (side[0] + contrast * abs(v - beside[x]))
        left = other[x - 1] + (side[1] + contrast * abs(v - beside[x - 1]))
        right = other[x + 1] + (side[1] + contrast * abs(v - beside[x + 1]))
        cost = straight if straight < left else left
        cost = cost if cost < right else right
        cost = cost if cost <= reach else np.inf
        old = row[x]
        row[x] = cost if cost < old else old
        count += 1 if cost < old else 0
    return better or count > 0


@kernel
def _relax_end(row, other, values, beside, side, contrast, reach, x):
    """Like `_relax_row`, for the first or the last voxel of the row."""
    better = False
    for y in range(max(0, x - 1), min(row.size, x + 2)):
        cost = other[y] + (side[0 if y == x else 1] + contrast * abs(values[x] - beside[y]))
        if cost < row[x] and cost <= reach:
            row[x] = cost
            better = True
    return better


@kernel
def _relax_along(row, values, length, contrast, reach, step):
    """Take steps along the row, in the direction of the sweep; return whether any was cheaper."""
    count = 0
    x = 0 if step == 1 else row.size - 1
    before = row[x]
    for _ in range(1, row.size):
        x += step
        cost = before + (length + contrast * abs(values[x] - values[x - step]))
        cost = cost if cost <= reach else np.inf
        old = row[x]
        before = cost if cost < old else old
        row[x] = before
        count += 1 if cost < old else 0
    return count > 0

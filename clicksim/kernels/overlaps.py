"""Overlaps between two sets of runs."""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def overlap_runs(starts, stops, other_starts, other_stops):
    """List the pairs of runs that overlap. Each list is sorted by start and has no overlaps in itself.

    Returns:
        int64 `(n, 3)`: place in the first list, place in the second, shared voxels.
    """
    out = np.empty((starts.size + other_starts.size, 3), np.int64)
    count, a, b = 0, 0, 0
    while a < starts.size and b < other_starts.size:
        common = min(stops[a], other_stops[b]) - max(starts[a], other_starts[b])
        if common > 0:
            out[count, 0], out[count, 1], out[count, 2] = a, b, common
            count += 1
        if stops[a] <= other_stops[b]:
            a += 1
        else:
            b += 1
    return out[:count].copy()

"""Draw guidance: paint small templates and separable blobs into a large buffer at each prompt.

The buffer is any dense float32 memory, given as a flat view. The voxel `(a, b, x)` of the channel is at
`base + a * strides[0] + b * strides[1] + x * strides[2]`, axes in memory order, so no layout needs a copy.
Nothing is painted outside the channel.
"""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def stamp(flat, base, strides, shape, template, centre, places, weights, add):
    """Paint one template, times a weight, at each place.

    Args:
        flat: float32, the memory.
        base, strides, shape: int64, where the channel is in the memory; see the module.
        template: float32 `(t0, t1, t2)`, C-contiguous.
        centre: int64 `(3,)`, the cell of the template that is put on a place.
        places: int64 `(n, 3)`, may be outside the channel.
        weights: float64 `(n,)`.
        add: Whether values are summed; otherwise the maximum is kept, in any order of the places.
    """
    for n in range(places.shape[0]):
        a0, b0, x0 = places[n, 0] - centre[0], places[n, 1] - centre[1], places[n, 2] - centre[2]
        first, last = max(0, -x0), min(template.shape[2], shape[2] - x0)
        if first >= last:
            continue
        for a in range(max(0, -a0), min(template.shape[0], shape[0] - a0)):
            for b in range(max(0, -b0), min(template.shape[1], shape[1] - b0)):
                at = base + (a0 + a) * strides[0] + (b0 + b) * strides[1] + (x0 + first) * strides[2]
                _blend(flat, at, strides[2], template[a, b, first:last], weights[n], add)


@kernel
def paint_separable(flat, base, strides, shape, starts, counts, profiles, weights, add):
    """Paint the product of three profiles, times a weight, for each prompt.

    Args:
        flat, base, strides, shape, weights, add: See `stamp`.
        starts: int64 `(n, 3)`, voxel of the first value of each profile; the channel begins at 0.
        counts: int64 `(n, 3)`, values of each profile.
        profiles: float64 `(n, 3, longest)`.
    """
    for n in range(starts.shape[0]):
        first, last = max(0, -starts[n, 2]), min(counts[n, 2], shape[2] - starts[n, 2])
        if first >= last:
            continue
        for a in range(max(0, -starts[n, 0]), min(counts[n, 0], shape[0] - starts[n, 0])):
            slow = weights[n] * profiles[n, 0, a]
            for b in range(max(0, -starts[n, 1]), min(counts[n, 1], shape[1] - starts[n, 1])):
                both = slow * profiles[n, 1, b]
                at = base + (starts[n, 0] + a) * strides[0] + (starts[n, 1] + b) * strides[1]
                at += (starts[n, 2] + first) * strides[2]
                _blend(flat, at, strides[2], profiles[n, 2, first:last], both, add)


@kernel
def _blend(flat, at, step, values, factor, add):
    """Add a row of values to the memory, or take the maximum of both.

    Contiguous memory has a separate loop without branches, which compiles to vector instructions.
    """
    if step != 1:
        for x in range(values.size):
            value = np.float32(factor * values[x])
            old = flat[at + x * step]
            flat[at + x * step] = old + value if add else max(old, value)
        return
    row = flat[at : at + values.size]
    if add:
        for x in range(values.size):
            row[x] += np.float32(factor * values[x])
        return
    for x in range(values.size):
        value, old = np.float32(factor * values[x]), row[x]
        row[x] = value if value > old else old

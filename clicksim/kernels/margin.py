"""Which voxels are near a lesion."""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def is_near(labels, lengths, voxels, offsets):
    """Test whether any voxel of a neighbourhood is labelled.

    Args:
        labels: `(n,)` in memory order.
        lengths: `(slow, middle, fast)` of the labels' memory.
        voxels: int64 `(m, 3)`, along (slow, middle, fast).
        offsets: int64 `(o, 3)`, the neighbourhood; nearest first, because the search stops at a hit.

    Returns:
        bool `(m,)`; voxels beyond the border are not labelled.
    """
    out = np.zeros(voxels.shape[0], np.bool_)
    for n in range(voxels.shape[0]):
        for m in range(offsets.shape[0]):
            a, b, x = voxels[n, 0] + offsets[m, 0], voxels[n, 1] + offsets[m, 1], voxels[n, 2] + offsets[m, 2]
            if not (0 <= a < lengths[0] and 0 <= b < lengths[1] and 0 <= x < lengths[2]):
                continue
            if labels[(a * lengths[1] + b) * lengths[2] + x] != 0:
                out[n] = True
                break
    return out

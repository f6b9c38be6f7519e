"""The peak uptake of a lesion, for lesion tables."""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def highest_mean(uptake, voxels, offsets):
    """Find the highest mean over a neighbourhood centred on each given voxel, cut at the border.

    Args:
        uptake: `(I, J, K)`, any layout and float dtype.
        voxels: int64 `(n, 3)`, centres.
        offsets: int64 `(m, 3)`, the neighbourhood; it includes `(0, 0, 0)`.

    Returns:
        float64; the first non-finite mean, if there is one.
    """
    I, J, K = uptake.shape
    best = -np.inf
    for n in range(voxels.shape[0]):
        total, count = np.float64(0.0), 0
        for m in range(offsets.shape[0]):
            i, j, k = voxels[n, 0] + offsets[m, 0], voxels[n, 1] + offsets[m, 1], voxels[n, 2] + offsets[m, 2]
            if 0 <= i < I and 0 <= j < J and 0 <= k < K:
                total += uptake[i, j, k]
                count += 1
        mean = total / count
        if not np.isfinite(mean):
            return mean
        best = max(best, mean)
    return best

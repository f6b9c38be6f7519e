"""The content of an image, whatever file it is in."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 22
"""Voxels that are converted at a time."""


def digest_voxels(array: NDArray[Any]) -> str:
    """Digest the shape and the voxels of an image, by which it can be found again.

    The digest does not depend on the file format, compression, name, header, memory order, or on the type: values are
    compared as single-precision floats. The grid does not count. Axes do: see `clicksim.audit.find_image`.

    >>> digest_voxels(np.zeros((2, 3, 4), np.uint8)) == digest_voxels(np.zeros((2, 3, 4), np.float64, order="F"))
    True

    Args:
        array: `(I, J, K)`.

    Returns:
        The first 32 hexadecimal digits of the SHA-256 of the shape and of the values, `i` fastest.
    """
    total = hashlib.sha256(repr(tuple(map(int, array.shape))).encode())
    slices = max(1, BLOCK // max(1, array.shape[0] * array.shape[1]))
    for first in range(0, array.shape[2], slices):
        part = array[:, :, first : first + slices].T
        total.update(np.ascontiguousarray(part, dtype="<f4").data.cast("B"))
    return total.hexdigest()[:32]

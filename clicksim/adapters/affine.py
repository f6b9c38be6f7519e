"""Shared by the adapters: prompts follow an image through its affine.

Both MONAI and TorchIO keep the affine of an image up to date through crops, flips, rotations and resampling. So the
adapters need not know the transforms between loading and drawing: prompts have positions in mm, and the affine says
where the voxels are. Prompts do not follow deformations that an affine cannot describe.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError
from clicksim.geometry import Grid
from clicksim.guidance import encode
from clicksim.prompts import Prompts


def draw_on(prompts: Prompts, array: NDArray[Any], affine: Any, **settings: Any) -> NDArray[np.float32]:
    """Draw guidance for an image `(C, I, J, K)` with an RAS+ affine; the last channel is used as uptake if needed.

    Raises:
        GeometryError: If the image is not 4-D or the prompts have no affine.
    """
    if array.ndim != 4:
        raise GeometryError(f"the image must have the shape (C, I, J, K), got {array.shape}")
    _, i, j, k = array.shape
    grid = Grid((i, j, k), None, np.asarray(affine, dtype=np.float64))
    return encode(prompts.to_grid(grid), grid.shape, image=array[-1], **settings)


def to_numpy(data: Any) -> NDArray[Any]:
    """Convert a tensor of any library, on any device, to an array."""
    if isinstance(data, np.ndarray):
        return data
    return np.asarray(data.detach().cpu().numpy())


def like(array: NDArray[np.float32], data: Any) -> Any:
    """Return the array, or a tensor on the device of `data` with its dtype (float32 if that is an integer type)."""
    if isinstance(data, np.ndarray):
        return array
    return (data if data.is_floating_point() else data[:0].float()).new_tensor(array)

"""What the adapters share: prompts follow an image through the affine that it carries.

Both MONAI and TorchIO keep the affine of an image up to date through crops, flips, rotations and resampling. So
nothing has to be known of the transforms between loading and drawing: prompts have their place in mm, and the image
says where its voxels lie. Deformations that an affine cannot say are not followed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError
from clicksim.geometry import Grid
from clicksim.guidance import encode
from clicksim.prompts import Prompts


def draw_on(prompts: Prompts, array: NDArray[Any], affine: Any, **settings: Any) -> NDArray[np.float32]:
    """Guidance for an image `(C, I, J, K)`, by its affine, RAS+; the last channel is the uptake where one is read.

    Raises:
        GeometryError: An image that is not 4-D, prompts without an affine.
    """
    if array.ndim != 4:
        raise GeometryError(f"the image must have the shape (C, I, J, K), got {array.shape}")
    _, i, j, k = array.shape
    grid = Grid((i, j, k), None, np.asarray(affine, dtype=np.float64))
    return encode(prompts.to_grid(grid), grid.shape, image=array[-1], **settings)


def to_numpy(data: Any) -> NDArray[Any]:
    """A tensor of any library, on any device, as an array."""
    if isinstance(data, np.ndarray):
        return data
    return np.asarray(data.detach().cpu().numpy())


def like(array: NDArray[np.float32], data: Any) -> Any:
    """The array as it is, or as a tensor on the device of `data`: of its dtype, or float32 where that is whole."""
    if isinstance(data, np.ndarray):
        return array
    return (data if data.is_floating_point() else data[:0].float()).new_tensor(array)

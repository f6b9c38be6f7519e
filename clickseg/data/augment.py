"""Changes to patches that keep their prompts on the same tissue.

Flips and changes of grey values run in the loader, on the CPU: they cost one copy. Rotation and scaling interpolate,
so they run on the device, for the whole batch and its prompts. The loader makes all random draws, from the stream of
the sample; the device only applies them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clickseg.data.prompt_channels import put
from clickseg.training_settings import TrainSettings
from clicksim.geometry import Spacing
from clicksim.prompts import Prompts

GAMMA = (0.8, 1.25)  # exponent of SUV over the patch's own maximum
GAIN = 0.15  # standard deviation of the log of a factor: SUV differs so much between scanners and patients
SHIFT_HU = 20.0  # standard deviation
CONTRAST = (0.9, 1.1)
NEAR = 1  # voxels around a moved prompt that are searched for its tissue


def flip(arrays: Sequence[NDArray[Any]], prompts: Prompts, axes: Sequence[int]) -> tuple[list[NDArray[Any]], Prompts]:
    """Mirror the arrays and prompts of a patch along some axes; the arrays are views."""
    for axis in axes:
        prompts = prompts.flip(axis)
    return [np.flip(array, tuple(axes)) for array in arrays], prompts


def change_ct(ct: NDArray[np.float32], draws: np.random.Generator) -> NDArray[np.float32]:
    """Change contrast and offset of a CT, as scanners and contrast agents do; air stays the darkest value."""
    scale, shift = draws.uniform(*CONTRAST), draws.normal(0, SHIFT_HU)
    changed = ct * np.float32(scale)
    changed += np.float32(shift)
    return np.maximum(changed, ct.min(), out=changed)


def change_pet(pet: NDArray[np.float32], draws: np.random.Generator) -> NDArray[np.float32]:
    """Change gain and gamma of an uptake; 0 stays 0, and the order of values does not change."""
    gain, gamma = np.exp(draws.normal(0, GAIN)), draws.uniform(*GAMMA)
    top = float(pet.max(initial=0))
    if top <= 0:
        return pet
    changed = np.maximum(pet, np.float32(0))
    changed /= np.float32(top)
    np.power(changed, np.float32(gamma), out=changed)
    changed *= np.float32(top * gain)
    return changed


def draw_affine(draws: np.random.Generator, settings: TrainSettings, spacing: Spacing) -> NDArray[np.float32]:
    """Draw a rotation and scaling in mm about the centre of a patch, as a `(3, 3)` matrix of voxel offsets.

    The matrix maps an offset from the centre of the new patch to an offset in the old patch.
    """
    angles = np.deg2rad(draws.uniform(-settings.rotation_deg, settings.rotation_deg, size=3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    scale = 1 + draws.uniform(-settings.scaling, settings.scaling)
    size = np.asarray(spacing)
    return (matrix * size / size[:, None] / scale).astype(np.float32)


def warp(images: Tensor, label: Tensor, points: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate and scale a batch on the device.

    Images are interpolated linearly, the label takes the nearest voxel; outside the patch both repeat the border value.
    A prompt moves with its tissue: to the voxel nearest to its new centre, or to the nearest neighbour whose label
    fits its polarity. A prompt is switched off if no neighbour fits or if it leaves the patch.

    Args:
        images: float32 `(B, C, I, J, K)`.
        label: uint8 `(B, 1, I, J, K)`.
        points: int64 `(n, 5)`, as `clickseg.data.prompt_channels` takes them.
        matrices: float32 `(B, 3, 3)`, from `draw_affine`.

    Returns:
        The same three, changed.
    """
    batch, _, *shape = images.shape
    half = put([n / 2 for n in shape], images.device)
    normal = matrices * half[None, None, :] / half[None, :, None]  # offsets as fractions of half the patch
    theta = torch.zeros(batch, 3, 4, device=images.device)
    theta[:, :, :3] = normal.flip(1, 2)  # affine_grid counts axes from the last
    grid = functional.affine_grid(theta, [batch, 1, *shape], align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mask = functional.grid_sample(label.float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    mask = mask.to(label.dtype)
    if not len(points):
        return moved, mask, points
    inverse, _ = torch.linalg.inv_ex(matrices)  # `inv` would wait for the device, to check that the inverse exists
    return moved, mask, _move_points(points, mask, inverse)


def _move_points(points: Tensor, label: Tensor, inverse: Tensor) -> Tensor:
    """Move prompts with their patch; see `warp`."""
    shape = put(label.shape[2:], points.device)
    centre = (shape - 1).float() / 2
    sample = points[:, 0].clamp(min=0)
    place = (inverse[sample] @ (points[:, 2:].float() - centre)[..., None])[..., 0] + centre
    steps = torch.arange(-NEAR, NEAR + 1, device=points.device)
    around = torch.cartesian_prod(steps, steps, steps)
    nearest = torch.round(place).long()
    candidates = nearest[:, None] + around[None]  # (n, 27, 3)
    inside = ((candidates >= 0) & (candidates < shape)).all(dim=-1)
    safe = candidates.clamp(min=0).minimum(shape - 1)
    found = label[sample[:, None], 0, safe[..., 0], safe[..., 1], safe[..., 2]] != 0
    fits = inside & (found == (points[:, 1] == 0)[:, None])
    apart = ((candidates.float() - place[:, None]) ** 2).sum(dim=-1)
    best = torch.where(fits, apart, torch.full_like(apart, torch.inf)).argmin(dim=1)
    row = torch.arange(len(points), device=points.device)
    keep = fits[row, best] & (points[:, 0] >= 0)
    out = points.clone()
    out[:, 2:] = safe[row, best]
    out[:, 0] = torch.where(keep, points[:, 0], torch.full_like(sample, -1))
    return out

"""Prompts as dense channels, drawn on the device, for a whole batch at once.

Prompts are rows of one table of whole numbers, `(n, 5)`: sample in the batch, polarity (0 foreground, 1 background),
voxel `i, j, k` in patch coordinates. A scribble is one row for each of its voxels. A row with a negative sample is
no prompt: rows are switched off in place, so that nothing has to wait for the device to count.

Every encoding here has a finite support, so its values around one voxel are the same for all prompts: a stencil,
which the library itself draws once for a voxel size. Where stencils overlap the highest value counts (a scribble is
then a capsule around its path); those of `gaussian-sum` add up, but a voxel that is prompted twice counts once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clickseg.training_settings import ENCODINGS
from clicksim.errors import unknown_name
from clicksim.geometry import Grid, Shape, Spacing, check_spacing
from clicksim.prompts import Click, Prompts

LIBRARY = {
    "gaussian": ("gaussian", "sigma_mm"),
    "gaussian-sum": ("gaussian", "sigma_mm"),
    "ball": ("ball", "radius_mm"),
    "edt-ball": ("edt-ball", "radius_mm"),
    "distance": ("distance", "reach_mm"),
}
"""The library's name of each encoding, and of its length."""
GAUSSIAN_END = 4.0  # sigmas, along each axis, where a Gaussian ends
CHUNK = 1 << 22  # voxels drawn at once, so that long scribbles with a wide stencil fit into memory

FOREGROUND, BACKGROUND = 0, 1
COLUMNS = 5


@lru_cache(maxsize=64)
def stencil(encoding: str, size_mm: float, spacing: Spacing) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The values of an encoding around one voxel, as the library draws them (`clicksim.guidance.encodings`).

    Args:
        encoding: `gaussian` (peak 1), `gaussian-sum` (the values of one prompt sum to 1), `ball`, `edt-ball` or
            `distance`.
        size_mm: Sigma of a Gaussian, radius of a ball, reach of a distance.
        spacing: mm along `i, j, k`.

    Returns:
        `(m, 3)` offsets in voxels and `(m,)` values, none of them zero.

    Raises:
        SettingError: An unknown encoding.
    """
    from clicksim.guidance import encode as draw

    if encoding not in ENCODINGS:
        raise unknown_name("encoding", encoding, ENCODINGS)
    name, length = LIBRARY[encoding]
    reach = size_mm * (GAUSSIAN_END if name == "gaussian" else 1)
    half = [int(reach / s) + 2 for s in check_spacing(spacing)]
    grid = Grid.from_spacing([2 * n + 1 for n in half], spacing)
    prompts = Prompts((Click((half[0], half[1], half[2]), True),), grid)
    how: dict[str, Any] = {length: size_mm}
    if name == "gaussian":
        how["truncate"] = GAUSSIAN_END
    if encoding == "gaussian-sum":
        how |= {"scale": "sum", "merge": "add"}
    drawn = draw(prompts, grid.shape, encoding=name, **how)[0]
    voxels = np.argwhere(drawn)
    return voxels - half, drawn[tuple(voxels.T)]


def draw_channels(
    points: Tensor,
    batch: int,
    shape: Shape,
    *,
    encoding: str,
    size_mm: float,
    spacing: Sequence[Spacing] | Spacing,
) -> Tensor:
    """Draw the prompts of a batch.

    Args:
        points: `(n, 5)` int64 on the device; see above. Voxels outside the patch draw what reaches into it.
        batch: Samples.
        shape: Voxels of a patch.
        encoding, size_mm: As `stencil` takes them.
        spacing: Voxel size in mm, one for all samples or one for each.

    Returns:
        float32 `(batch, 2, I, J, K)` on the device of the points: foreground, background.

    Raises:
        SettingError: An unknown encoding.
        GeometryError: A spacing that is none.
    """
    each = [spacing] * batch if isinstance(spacing[0], int | float) else list(spacing)
    channels = torch.zeros((batch, 2, *shape), dtype=torch.float32, device=points.device)
    if len(points) == 0:
        return channels
    if encoding == "gaussian-sum":
        points = _without_repeats(points, shape)
    for one in dict.fromkeys(check_spacing(s) for s in each):  # type: ignore[arg-type]
        offsets, values = stencil(encoding, float(size_mm), one)
        at = torch.from_numpy(offsets).to(points.device, non_blocking=True)
        value = torch.from_numpy(values).to(points.device, non_blocking=True)
        here = put([check_spacing(s) == one for s in each], points.device)  # type: ignore[arg-type]
        step = max(1, CHUNK // len(at))
        for first in range(0, len(points), step):
            _draw(channels, points[first : first + step], here, at, value, add=encoding == "gaussian-sum")
    return channels


def _draw(channels: Tensor, points: Tensor, here: Tensor, at: Tensor, value: Tensor, *, add: bool) -> None:
    """Lay a stencil on each point of the samples that are `here`; what falls outside adds nothing to voxel 0."""
    shape = channels.shape[2:]
    limit = put(shape, points.device)
    sample = points[:, 0].clamp(min=0)
    on = (points[:, 0] >= 0) & here[sample]
    voxels = points[:, None, 2:] + at[None]  # (n, m, 3)
    inside = ((voxels >= 0) & (voxels < limit)).all(dim=-1) & on[:, None]
    voxels = voxels.clamp(min=0).minimum(limit - 1)
    index = (sample * 2 + points[:, 1].clamp(0, 1))[:, None]
    for axis, length in enumerate(shape):
        index = index * length + voxels[..., axis]
    drawn = torch.where(inside, value[None], value.new_zeros(())).reshape(-1)
    flat = channels.view(-1)
    if add:
        flat.index_put_((index.reshape(-1),), drawn, accumulate=True)
    else:
        flat.scatter_reduce_(0, index.reshape(-1), drawn, reduce="amax")


def _without_repeats(points: Tensor, shape: Shape) -> Tensor:
    """The points with all but one of equal rows switched off, without counting them."""
    span = 4 * max(shape)  # voxels outside the patch keep their own number
    key = points[:, 0] * 2 + points[:, 1]
    for axis in range(3):
        key = key * (3 * span) + (points[:, 2 + axis].clamp(-span, 2 * span - 1) + span)
    ordered, order = torch.sort(key, stable=True)
    again = torch.zeros_like(key, dtype=torch.bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    out = points.clone()
    out[:, 0] = torch.where(again, torch.full_like(out[:, 0], -1), out[:, 0])
    return out


def put(values: Sequence[float], device: torch.device) -> Tensor:
    """A few numbers on a device, without waiting for it, as `torch.tensor(values, device=device)` would."""
    return torch.tensor(values).to(device, non_blocking=True)


def channel_rows(prompts: Prompts, sample: int = 0) -> NDArray[np.int64]:
    """The rows of one sample's prompts, `(n, 5)`, foreground first."""
    parts = []
    for polarity, voxels in ((FOREGROUND, prompts.foreground), (BACKGROUND, prompts.background)):
        head = np.broadcast_to(np.array([sample, polarity], dtype=np.int64), (len(voxels), 2))
        parts.append(np.concatenate([head, voxels.astype(np.int64)], axis=1))
    return np.concatenate(parts)

"""Draw prompts as dense channels for a whole batch, with any encoding of `clicksim.guidance.ENCODINGS`.

Prompts are rows of one table of integers, `(n, 5)`: sample in the batch, polarity (0 foreground, 1 background),
voxel `i, j, k` in patch coordinates. A scribble has one row per voxel. A row with a negative sample is switched off.
Rows are switched off in place, so that no step waits for the device to count them.

An encoding whose values around a voxel are the same for all prompts is drawn on the device: clicksim draws it once per
voxel size, as a stencil, and the stencil is placed on every row. Where stencils overlap, the largest value is kept (so
a scribble becomes a capsule around its path). With `merge="add"` values are added, and a voxel that is prompted twice
counts once. clicksim draws every other encoding on the CPU, sample by sample. In both cases only the patch counts: the
image is that of the patch, `normalise` uses the patch, and `border` has no effect.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clicksim.geometry import Grid, Shape, Spacing, check_spacing
from clicksim.guidance import ENCODINGS, encode
from clicksim.guidance.encoding_settings import COMMON, DrawingPlan
from clicksim.prompts import Click, Prompts, Scribble

CHUNK = 1 << 22
"""Largest number of voxels drawn at once, so that long scribbles with a wide stencil fit into memory."""
LARGEST_STENCIL = 1 << 22
"""Largest stencil in voxels; above it the CPU draws, with one distance transform for all prompts."""
EVERYWHERE = 1 << 20
"""Reach in voxels of an encoding without an end."""

FOREGROUND, BACKGROUND = 0, 1
COLUMNS = 5


def stencil(plan: DrawingPlan, spacing: Spacing) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the values of an encoding around one voxel, as `clicksim.encode` draws them.

    Args:
        plan: An encoding that draws stencils, with its own settings; settings that all encodings share are not applied.
        spacing: mm along `i, j, k`.

    Returns:
        `(m, 3)` offsets in voxels and `(m,)` values that are not 0.
    """
    return _stencil(plan.encoding.name, tuple(sorted(_own_settings(plan).items())), check_spacing(spacing))


def reach_vx(plan: DrawingPlan, spacing: Spacing) -> tuple[int, int, int]:
    """Return how far a prompt reaches along each axis, in voxels; `EVERYWHERE` if the encoding has no end."""
    if _draws_stencil(plan, spacing):
        offsets, _ = stencil(plan, spacing)
        i, j, k = np.abs(offsets).max(axis=0)
    else:
        i, j, k = (EVERYWHERE if end == np.inf else int(np.ceil(end)) for end in plan.reach(spacing))
    return (int(i), int(j), int(k))


def draw_channels(
    points: Tensor,
    batch: int,
    shape: Shape,
    *,
    plan: DrawingPlan,
    spacing: Sequence[Spacing] | Spacing,
    image: Tensor | None = None,
) -> Tensor:
    """Draw the prompts of a batch.

    Args:
        points: `(n, 5)` int64 on the device, as described above. Voxels outside the patch also draw into it.
        batch: Number of samples.
        shape: Shape of a patch in voxels.
        plan: The encoding and its settings.
        spacing: Voxel size in mm, one for all samples or one for each.
        image: `(batch, 1, I, J, K)` SUV, for encodings that read the image; None means 0 everywhere.

    Returns:
        float32 `(batch, 2, I, J, K)` on the device of the points: foreground, background.

    Raises:
        GeometryError: The spacing is invalid.
    """
    sizes = [check_spacing(s) for s in ([spacing] * batch if isinstance(spacing[0], int | float) else spacing)]  # type: ignore[arg-type]
    if all(_draws_stencil(plan, size) for size in dict.fromkeys(sizes)):
        channels = _draw_stencils(points, batch, shape, plan, sizes)
    else:
        channels = _draw_on_host(points, batch, shape, plan, sizes, image)
    return _finish(channels, plan)


def _own_settings(plan: DrawingPlan) -> dict[str, Any]:
    return {name: value for name, value in plan.settings.items() if name not in COMMON}


def _draws_stencil(plan: DrawingPlan, spacing: Spacing) -> bool:
    """Check whether an encoding draws stencils that are small enough."""
    if not plan.encoding.stencil:
        return False
    return float(np.prod(2.0 * np.array(plan.reach(spacing)) + 1.0)) <= LARGEST_STENCIL


@lru_cache(maxsize=64)
def _stencil(
    name: str, settings: tuple[tuple[str, Any], ...], spacing: Spacing
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    own = dict(settings)
    half = [int(end) + 2 for end in DrawingPlan(ENCODINGS.find(name), own).reach(spacing)]
    grid = Grid.from_spacing([2 * n + 1 for n in half], spacing)
    prompts = Prompts((Click((half[0], half[1], half[2]), True),), grid)
    drawn = encode(prompts, grid.shape, encoding=name, **own)[0]
    voxels = np.argwhere(drawn)
    return voxels - half, drawn[tuple(voxels.T)]


def _draw_stencils(points: Tensor, batch: int, shape: Shape, plan: DrawingPlan, sizes: Sequence[Spacing]) -> Tensor:
    channels = torch.zeros((batch, 2, *shape), dtype=torch.float32, device=points.device)
    if len(points) == 0:
        return channels
    if plan.adds:
        points = _without_repeats(points, shape)
    for one in dict.fromkeys(sizes):
        offsets, values = stencil(plan, one)
        at = torch.from_numpy(offsets).to(points.device, non_blocking=True)
        value = torch.from_numpy(values).to(points.device, non_blocking=True)
        here = put([size == one for size in sizes], points.device)
        step = max(1, CHUNK // len(at))
        for first in range(0, len(points), step):
            _draw(channels, points[first : first + step], here, at, value, add=plan.adds)
    return channels


def _draw_on_host(
    points: Tensor, batch: int, shape: Shape, plan: DrawingPlan, sizes: Sequence[Spacing], image: Tensor | None
) -> Tensor:
    """Draw with clicksim, sample by sample; this waits for the device."""
    rows = points.cpu().numpy()
    uptake = np.zeros((batch, 1, *shape), np.float32) if image is None else image.detach().float().cpu().numpy()
    drawn = np.zeros((batch, 2, *shape), dtype=np.float32)
    for n in range(batch):
        mine = rows[rows[:, 0] == n]
        # the volume is larger than the patch, so that `border` has no effect and the image counts as the patch's own
        low = np.minimum(mine[:, 2:].min(axis=0, initial=0), 0) - 1
        high = np.maximum(mine[:, 2:].max(axis=0, initial=0) + 1, shape) + 1
        prompts = _prompts_of(mine, low, Grid.from_spacing((high - low).tolist(), sizes[n]))
        encode(
            prompts, shape, encoding=plan.encoding.name, out=drawn[n], origin=(-low).tolist(),
            image=uptake[n, 0] if plan.needs_image else None, **_own_settings(plan),
        )  # fmt: skip
    return torch.from_numpy(drawn).to(points.device)


def _prompts_of(rows: NDArray[np.int64], low: NDArray[np.int64], grid: Grid) -> Prompts:
    items = []
    for polarity in (FOREGROUND, BACKGROUND):
        voxels = rows[rows[:, 1] == polarity, 2:] - low
        if len(voxels):
            items.append(Scribble(tuple((i, j, k) for i, j, k in voxels.tolist()), polarity == FOREGROUND))
    return Prompts(tuple(items), grid)


def _finish(channels: Tensor, plan: DrawingPlan) -> Tensor:
    """Apply the settings that all encodings share."""
    if not plan["background"]:
        channels[:, BACKGROUND] = 0
    if plan["normalise"] == "minmax":
        low = channels.amin(dim=(2, 3, 4), keepdim=True)
        span = channels.amax(dim=(2, 3, 4), keepdim=True) - low
        varies = span > 0
        channels = torch.where(varies, (channels - low) / span.where(varies, torch.ones_like(span)), channels)
    if plan["threshold"] >= 0:
        channels = (channels > plan["threshold"]).float()
    return channels


def _draw(channels: Tensor, points: Tensor, here: Tensor, at: Tensor, value: Tensor, *, add: bool) -> None:
    """Place a stencil on each point of the samples that are `here`; drop what falls outside the patch."""
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
    """Switch off all but one of each set of equal rows, without counting them."""
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
    """Copy a few numbers to a device without waiting for it; `torch.tensor(values, device=device)` would wait."""
    return torch.tensor(values).to(device, non_blocking=True)


def channel_rows(prompts: Prompts, sample: int = 0) -> NDArray[np.int64]:
    """Return the prompts of one sample as rows, `(n, 5)`, foreground first."""
    parts = []
    for polarity, voxels in ((FOREGROUND, prompts.foreground), (BACKGROUND, prompts.background)):
        head = np.broadcast_to(np.array([sample, polarity], dtype=np.int64), (len(voxels), 2))
        parts.append(np.concatenate([head, voxels.astype(np.int64)], axis=1))
    return np.concatenate(parts)

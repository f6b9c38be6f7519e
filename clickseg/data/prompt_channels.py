"""Prompts as dense channels for a whole batch: any encoding that `clicksim.guidance.ENCODINGS` holds.

Prompts are rows of one table of whole numbers, `(n, 5)`: sample in the batch, polarity (0 foreground, 1 background),
voxel `i, j, k` in patch coordinates. A scribble is one row for each of its voxels. A row with a negative sample is
switched off: rows are switched off in place, so that nothing has to wait for the device to count.

An encoding whose values around a voxel are the same for all prompts is drawn on the device: clicksim draws it once for
a voxel size, as a stencil, and the stencil is laid on every row. Where stencils overlap the largest value is kept (a
scribble is then a capsule around its path); with `merge="add"` they add up, and a voxel that is prompted twice counts
once. Every other encoding is drawn by clicksim on the CPU, sample by sample. In both cases a patch knows of nothing
outside itself: an image is that of the patch, `normalise` looks at the patch, and `border` has no effect.
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
"""Voxels drawn at once, so that long scribbles with a wide stencil fit into memory."""
LARGEST_STENCIL = 1 << 22
"""Voxels of a stencil, above which the CPU draws: it then takes one distance transform for all prompts."""
EVERYWHERE = 1 << 20
"""Voxels that a prompt reaches where its encoding has no end."""

FOREGROUND, BACKGROUND = 0, 1
COLUMNS = 5


def stencil(plan: DrawingPlan, spacing: Spacing) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The values of an encoding around one voxel, as `clicksim.encode` draws them.

    Args:
        plan: An encoding that draws stencils, and its settings; those of all encodings are not applied.
        spacing: mm along `i, j, k`.

    Returns:
        `(m, 3)` offsets in voxels and `(m,)` values that are not 0.
    """
    return _stencil(plan.encoding.name, tuple(sorted(_own_settings(plan).items())), check_spacing(spacing))


def reach_vx(plan: DrawingPlan, spacing: Spacing) -> tuple[int, int, int]:
    """How many voxels along each axis a prompt reaches; `EVERYWHERE` if the encoding has no end."""
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
        points: `(n, 5)` int64 on the device, as described above. Voxels outside the patch draw what reaches into it.
        batch: Number of samples.
        shape: Voxels of a patch.
        plan: The encoding and its settings.
        spacing: Voxel size in mm, one for all samples or one for each.
        image: `(batch, 1, I, J, K)` SUV, for encodings that read the image; None is an image of 0.

    Returns:
        float32 `(batch, 2, I, J, K)` on the device of the points: foreground, background.

    Raises:
        GeometryError: An invalid spacing.
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
    """Whether an encoding draws stencils, of a size that is worth it."""
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
        # the volume is larger than the patch, so that the patch has no border and the image is known to be its own
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
    """Apply the settings that all encodings have."""
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
    """Lay a stencil on each point of the samples that are `here`; what falls outside the patch is dropped."""
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
    """Switch off all but one of equal rows, without counting them."""
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
    """Put a few numbers on a device without waiting for it; `torch.tensor(values, device=device)` would wait."""
    return torch.tensor(values).to(device, non_blocking=True)


def channel_rows(prompts: Prompts, sample: int = 0) -> NDArray[np.int64]:
    """The rows of one sample's prompts, `(n, 5)`, foreground first."""
    parts = []
    for polarity, voxels in ((FOREGROUND, prompts.foreground), (BACKGROUND, prompts.background)):
        head = np.broadcast_to(np.array([sample, polarity], dtype=np.int64), (len(voxels), 2))
        parts.append(np.concatenate([head, voxels.astype(np.int64)], axis=1))
    return np.concatenate(parts)

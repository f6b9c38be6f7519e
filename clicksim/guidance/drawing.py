"""`encode`: prompts to channels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid, Shape, Spacing, check_shape, check_spacing
from clicksim.guidance.canvas import ChannelCanvas, Seeds, crop_image, dense_buffer, find_seeds, whole_origin
from clicksim.guidance.encoding_settings import DrawingPlan, plan_encoding
from clicksim.prompts import Prompts
from clicksim.prompts.records import check_inside


def encode(
    prompts: Prompts,
    shape: Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
    encoding: str = "gaussian",
    out: NDArray[np.float32] | None = None,
    origin: Sequence[int] | None = None,
    image: NDArray[Any] | None = None,
    **settings: Any,
) -> NDArray[np.float32]:
    """Draw prompts as dense channels: foreground, then background.

    Lengths are in mm on the prompts' own grid; a setting whose name ends in `_vx` is in voxels. Clicks and the voxels
    of scribbles are points, boxes are solid. Where prompts of one polarity meet, the largest value is kept (unless
    `merge` is `add`), so neither order nor repetition matters. Without prompts a channel is zero.

    With `origin` only a patch is drawn. It equals the same part of the whole volume; beyond the volume it equals that
    of a padded volume. There are three exceptions: `normalise` uses the values of the patch; a reflecting border
    mirrors at the volume and leaves zero beyond it; with an `image` of the patch alone, encodings that read the image
    ignore prompts outside the patch, so give the whole image if that matters.

    Args:
        prompts: The prompts to draw.
        shape: Shape of the patch; without `origin`, that of the prompts' grid.
        spacing: Voxel size in mm, needed if the grid has none; it must agree with that of the grid.
        encoding: A name of `clicksim.guidance.ENCODINGS` or `PRESETS`; formulas in `clicksim.guidance.encodings`.
        out: float32 `(2, I, J, K)`, dense memory in any order of the axes; overwritten and returned.
        origin: The voxel of the prompts' grid at which the patch begins; it may be negative.
        image: The uptake, for encodings that read it; its shape shows whether it covers the volume or the patch.
        **settings: Settings of the encoding; those of all encodings are `channels`, `decay`, `decay_by`,
            `background`, `normalise` and `threshold`: see `clicksim.guidance.encoding_settings.COMMON`.

    Returns:
        float32 `(2, I, J, K)`, or `(1, I, J, K)` if `channels` asks for one signed channel.

    Raises:
        SettingError: The encoding or a setting is unknown, a value is not allowed, or the image is missing.
        GeometryError: A shape, the spacing or the buffer does not fit, or a prompt is outside its volume.
        ImageError: The image is not a real array with three axes, or is not finite where the encoding reads it.

    Examples:
        >>> from clicksim import Click, Grid, Prompts
        >>> prompts = Prompts((Click((1, 1, 1), True),), Grid.from_spacing((3, 3, 3), (2, 2, 2)))
        >>> encode(prompts, (3, 3, 3), encoding="distance", reach_mm=4)[0, 1, 1].tolist()
        [0.5, 1.0, 0.5]
    """
    plan = plan_encoding(encoding, settings)
    size, start = _check_patch(prompts.grid, shape, origin)
    known = _check_spacing(prompts.grid, spacing)
    check_inside(prompts, where=f"case {prompts.case_id}" if prompts.case_id else "")
    draw = _find_encoder(plan, image, prompts.grid.shape, size, start)
    two = plan["channels"] == "two"
    buffer = dense_buffer(out, (2 if two else 1, *size))
    channels = ChannelCanvas.channels(buffer, start)
    if not two:
        channels += ChannelCanvas.channels(np.zeros((1, *size), dtype=np.float32), start)
    weights = _weights(prompts, plan)
    # if values add up, a box is drawn from all its voxels; otherwise from its surface, and the inside is filled
    solid = plan.encoding.solid or plan.adds or plan.settings.get("scale") == "sum"
    for canvas, foreground in zip(channels, (True, False), strict=True):
        seeds = find_seeds(prompts, foreground=foreground, weights=weights, spacing=known, solid=solid)
        if not len(seeds.voxels) or not (foreground or plan["background"]):
            continue
        draw(canvas, seeds)
        if not solid:
            canvas.fill(seeds)
        _finish(canvas.view, plan)
    if not two:
        _sign(channels[0].view, channels[1].view, plan)
    return buffer


def _finish(view: NDArray[np.float32], plan: DrawingPlan) -> None:
    """Apply min-max and threshold, as some entries do."""
    if plan["normalise"] == "minmax":
        low, high = float(view.min()), float(view.max())
        if high > low:
            view -= np.float32(low)
            view /= np.float32(high - low)
    if plan["threshold"] >= 0:
        view[...] = view > plan["threshold"]


def _sign(foreground: NDArray[np.float32], background: NDArray[np.float32], plan: DrawingPlan) -> None:
    """Subtract the background from the foreground, in the memory of the foreground."""
    if plan["channels"] == "foreground-first":
        background[foreground > 0] = 0.0
    foreground -= background


def _weights(prompts: Prompts, plan: DrawingPlan) -> NDArray[np.float64]:
    """`decay` to the power of a prompt's age: the number of later rounds or, by prompt, of later prompts."""
    rounds = np.array([prompt.round for prompt in prompts], dtype=np.int64)
    age = rounds.max(initial=0) - rounds
    if plan["decay_by"] == "prompt":
        age = np.empty_like(rounds)
        age[np.argsort(rounds, kind="stable")] = np.arange(rounds.size)[::-1]
    return np.asarray(np.power(float(plan["decay"]), age), dtype=np.float64)


def _check_patch(grid: Grid, shape: Sequence[int], origin: Sequence[int] | None) -> tuple[Shape, NDArray[np.int64]]:
    size = check_shape(shape)
    if origin is None:
        if size != grid.shape:
            raise GeometryError(
                f"the volume of the prompts has shape {grid.shape}, but shape {size} was requested; "
                "a patch needs origin=, the voxel at which it begins"
            )
        return size, np.zeros(3, dtype=np.int64)
    return size, whole_origin(origin)


def _check_spacing(grid: Grid, spacing: Sequence[float] | None) -> Spacing | None:
    if spacing is None:
        return grid.spacing
    given = check_spacing(spacing)
    Grid(grid.shape, given).check_same(Grid(grid.shape, grid.spacing), ("spacing=", "the prompts"))
    return grid.spacing or given


def _find_encoder(
    plan: DrawingPlan, image: Any, volume: Shape, shape: Shape, origin: NDArray[np.int64]
) -> Callable[[ChannelCanvas, Seeds], None]:
    """The drawing function with its plan, and the image if it reads one; an unread image is not checked."""
    draw = plan.encoding.draw
    if not plan.needs_image:
        return lambda canvas, seeds: draw(canvas, seeds, plan)
    if image is None:
        raise SettingError(f"the encoding {plan.encoding.name} reads the image; give image=")
    placed = crop_image(image, volume, shape, origin)
    return lambda canvas, seeds: draw(canvas, seeds, plan, placed)

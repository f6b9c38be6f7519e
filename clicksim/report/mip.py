"""Pictures of a case: coronal and sagittal maximum projections, with lesions and prompts.

As is usual in nuclear medicine, the patient is upright, the patient's right is on the left, and high uptake is black.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.files import PICTURE_ENDINGS, replacing
from clicksim.geometry import Grid
from clicksim.prompts import Box, Click, Prompts, Scribble

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

HEIGHT_PX, WIDEST_VIEW_PX = 700, 620
MARGIN_PX, TITLE_PX, LEGEND_PX = 16, 44, 52
WINDOW_SUV = 10.0
GAMMA = 0.8
SUPERSAMPLE = 2
MOST_NUMBERS = 60
INK, PAPER, FAINT_INK = (30, 30, 30), (255, 255, 255), (110, 110, 110)
LESION, FOREGROUND, BACKGROUND = (30, 110, 235), (0, 158, 73), (222, 38, 38)


@dataclass(frozen=True)
class View:
    """The orientation of a projection in the picture.

    Attributes:
        name: `coronal` or `sagittal`.
        project: The stored axis that is projected.
        across: The stored axis along the width of the picture.
        up: The stored axis along the height of the picture.
        mirror: Whether the first voxel of `across` is at the right edge.
        upright: Whether the last voxel of `up` is at the top edge.
        sides: The letters at the left and the right edge; empty if the directions are unknown.
    """

    name: str
    project: int
    across: int
    up: int
    mirror: bool
    upright: bool
    sides: tuple[str, str]

    def lay(self, projection: NDArray[Any]) -> NDArray[Any]:
        """Turn a projection (its two axes in stored order) to rows and columns of the picture."""
        picture = projection.T if self.across < self.up else projection
        picture = picture[:, ::-1] if self.mirror else picture
        return picture[::-1] if self.upright else picture

    def place(self, voxels: ArrayLike, grid: Grid) -> NDArray[np.float64]:
        """Convert `(n, 3)` voxels to `(n, 2)` column and row, in voxels from the top left edge of the picture."""
        index = np.asarray(voxels, np.float64).reshape(-1, 3)
        column, row = index[:, self.across] + 0.5, index[:, self.up] + 0.5
        column = grid.shape[self.across] - column if self.mirror else column
        row = grid.shape[self.up] - row if self.upright else row
        return np.stack([column, row], axis=1)


def find_views(grid: Grid) -> tuple[View, View]:
    """Find the coronal and the sagittal view of a grid.

    The affine gives the patient axis of each stored axis, or the nearest one if the grid is oblique. Without an
    affine, `i` points right, `j` runs from front to back and `k` points up.
    """
    if grid.affine is None:
        return (
            View("coronal", 1, 0, 2, mirror=False, upright=True, sides=("", "")),
            View("sagittal", 0, 1, 2, mirror=True, upright=True, sides=("", "")),
        )
    from nibabel.orientations import io_orientation

    match = io_orientation(grid.affine)  # type: ignore[no-untyped-call]
    axis = {int(world): stored for stored, (world, _) in enumerate(match)}
    rises = {int(world): sign > 0 for world, sign in match}
    right, front, top = axis[0], axis[1], axis[2]
    return (
        View("coronal", front, right, top, mirror=rises[0], upright=rises[2], sides=("R", "L")),
        View("sagittal", right, front, top, mirror=rises[1], upright=rises[2], sides=("A", "P")),
    )


def draw_preview(
    uptake: NDArray[Any] | None,
    labels: NDArray[Any] | None,
    prompts: Prompts,
    *,
    grid: Grid,
    title: str = "",
    caption: str = "",
) -> "Image":
    """Draw a case from the front and from the side.

    Lesions are outlined. Foreground clicks are green discs, background clicks red crosses, numbered in the order in
    which they were made; more than 60 prompts get no numbers.

    Args:
        uptake: `(I, J, K)` SUV; None draws lesions and prompts on white. If the values cannot be SUV, the window
            ends at their 99th percentile instead of 10.
        labels: `(I, J, K)`, non-zero inside lesions; None if unknown.
        prompts: The prompts to draw; may be empty.
        grid: The grid of all of them.
        title: One line above the picture.
        caption: The meaning of the grey values, below the picture; by default the window of the uptake.

    Returns:
        An RGB picture with the same scale in both directions.

    Raises:
        GeometryError: If a shape differs from that of the grid.
    """
    from PIL import Image

    _check_shapes(uptake, labels, prompts, grid)
    views = find_views(grid)
    projections, masks = project(uptake, labels, views)
    top = find_window(projections[0])
    columns = [
        find_columns(projection, mask, view, prompts, grid)
        for projection, mask, view in zip(projections, masks, views, strict=True)
    ]
    scale = SUPERSAMPLE * pixels_per_voxel(views, columns, grid, high=HEIGHT_PX, wide=WIDEST_VIEW_PX)
    panels = [
        _draw_view(projection, mask, view, cut, prompts, grid, scale=scale, top=top)
        for projection, mask, view, cut in zip(projections, masks, views, columns, strict=True)
    ]
    margin, head, foot = (SUPERSAMPLE * px for px in (MARGIN_PX, TITLE_PX, LEGEND_PX))
    width = max(sum(panel.width for panel in panels) + 3 * margin, SUPERSAMPLE * 460)
    sheet = Image.new("RGB", (width, panels[0].height + head + foot), PAPER)
    x = (width - sum(panel.width for panel in panels) - margin) // 2
    for panel, view in zip(panels, views, strict=True):
        sheet.paste(panel, (x, head))
        _letter(sheet, view, x, panel.width, head)
        x += panel.width + margin
    _write_title(sheet, title)
    _write_legend(sheet, prompts, caption or _window_text(uptake, top), lesions=labels is not None)
    return sheet.reduce(SUPERSAMPLE)


def save_picture(image: "Image", path: str | Path) -> Path:
    """Write a picture as PNG or WebP, completely or not at all.

    Raises:
        SettingError: If the name ends neither in `.png` nor in `.webp`.
    """
    target = Path(path)
    if target.suffix.lower() not in PICTURE_ENDINGS:
        raise SettingError(f"a picture must be .png or .webp, got {target.name!r}")
    data = encode_picture(image, target.suffix[1:].lower())
    with replacing(target) as temporary:
        temporary.write_bytes(data)
    return target


def encode_picture(image: "Image", kind: str = "webp", *, height: int | None = None, quality: int = 82) -> bytes:
    """Encode a picture as `png` or `webp`, scaled down to a height in pixels if one is given."""
    from PIL import Image

    if height is not None and height < image.height:
        width = max(1, round(image.width * height / image.height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if kind == "webp":
        image.save(buffer, "WEBP", quality=quality, method=4)
    else:
        image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _check_shapes(uptake: NDArray[Any] | None, labels: NDArray[Any] | None, prompts: Prompts, grid: Grid) -> None:
    shapes = {"uptake": uptake, "labels": labels}
    for name, array in shapes.items():
        if array is not None and array.shape != grid.shape:
            raise GeometryError(
                f"{name} has shape {array.shape}, its grid {grid.shape}; pass the grid it was read with"
            )
    if prompts.grid.shape != grid.shape:
        raise GeometryError(f"the prompts have a grid of shape {prompts.grid.shape}, the image {grid.shape}")


def show_bone(ct: NDArray[Any]) -> NDArray[Any]:
    """Scale a CT like an uptake: -50 to 550 HU become 0 to 10, so that bone is dark and soft tissue light grey."""
    return np.clip((ct.astype(np.float32) + 50) / 60, 0, 10)


def project(
    uptake: NDArray[Any] | None, labels: NDArray[Any] | None, views: Sequence[View]
) -> tuple[list[NDArray[Any] | None], list[NDArray[np.bool_] | None]]:
    """For each view, the highest uptake behind each pixel, ignoring NaN, and where lesions project."""
    projections = [None if uptake is None else _highest(uptake, view.project) for view in views]
    masks = [None if labels is None else labels.max(axis=view.project) > 0 for view in views]
    return projections, masks


def _highest(uptake: NDArray[Any], axis: int) -> NDArray[Any]:
    """The maximum along an axis; 0 if there is no number."""
    found: NDArray[Any] = uptake.max(axis=axis)
    if np.isnan(found).any():
        found = np.fmax.reduce(uptake, axis=axis)
    return np.nan_to_num(found)


def find_window(projection: NDArray[Any] | None) -> float:
    """The value that is drawn black: 10 for SUV, else the 99th percentile of the projection."""
    warm = np.empty(0) if projection is None else projection[projection > 0]
    if not warm.size:
        return WINDOW_SUV
    high = float(np.percentile(warm, 99))
    return WINDOW_SUV if 1.0 <= high <= 150 else high


def find_columns(
    projection: NDArray[Any] | None, mask: NDArray[Any] | None, view: View, prompts: Prompts, grid: Grid
) -> tuple[int, int]:
    """First and last column to draw: the body, every lesion and every prompt, without the air beside them."""
    count = grid.shape[view.across]
    if projection is None or not projection.any():
        return 0, count
    picture = view.lay(projection)
    warm = picture > 0.015 * find_window(projection)
    used = np.mean(warm, axis=0) > 0.02
    if mask is not None:
        used |= view.lay(mask).any(axis=0)
    for prompt in prompts:
        used[np.clip(view.place(prompt.voxels, grid)[:, 0].astype(int), 0, count - 1)] = True
    if not used.any():
        return 0, count
    pad = 2 + int(15 / (grid.spacing or (1.0, 1.0, 1.0))[view.across])
    index = np.flatnonzero(used)
    return max(0, int(index[0]) - pad), min(count, int(index[-1]) + 1 + pad)


def pixels_per_voxel(
    views: Sequence[View], columns: Sequence[tuple[int, int]], grid: Grid, *, high: int, wide: int
) -> NDArray[np.float64]:
    """`(3,)`, pixels per voxel along the stored axes; a mm has the same number of pixels in each direction.

    Args:
        views: The views to draw.
        columns: First and last column of each view.
        grid: Grid of the volume; without a spacing, voxels count as cubes.
        high, wide: Largest size of a view, in pixels.
    """
    spacing = np.array(grid.spacing or (1.0, 1.0, 1.0))
    highest = max(grid.shape[view.up] * spacing[view.up] for view in views)
    widest = max((last - first) * spacing[view.across] for view, (first, last) in zip(views, columns, strict=True))
    return spacing * min(high / highest, wide / widest)


def _draw_view(
    projection: NDArray[Any] | None,
    mask: NDArray[Any] | None,
    view: View,
    columns: tuple[int, int],
    prompts: Prompts,
    grid: Grid,
    *,
    scale: NDArray[np.float64],
    top: float,
) -> "Image":
    """Draw one projection with its lesions and prompts."""
    from PIL import Image, ImageDraw

    first, last = columns
    step = scale[[view.across, view.up]]
    size = (max(1, round((last - first) * step[0])), max(1, round(grid.shape[view.up] * step[1])))
    if projection is None:
        panel = Image.new("RGB", size, PAPER)
    else:
        share = np.clip(view.lay(projection)[:, first:last] / np.float32(top), 0, 1) ** GAMMA
        grey = Image.fromarray(np.ascontiguousarray(255 - 255 * share).astype(np.uint8))
        panel = grey.resize(size, Image.Resampling.BICUBIC).convert("RGB")
    if mask is not None:
        _outline(panel, np.ascontiguousarray(view.lay(mask)[:, first:last]), filled=projection is None)
    pen = ImageDraw.Draw(panel)
    pen.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=(205, 205, 205))
    _draw_prompts(pen, prompts, lambda voxels: (view.place(voxels, grid) - (first, 0)) * step)
    return panel


def _outline(panel: "Image", mask: NDArray[np.bool_], *, filled: bool) -> None:
    """Colour the voxels just outside the lesions, so that the lesions stay visible."""
    from PIL import Image, ImageChops, ImageFilter

    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(panel.size, Image.Resampling.BICUBIC)
    inside = soft.point([255 * (level > 90) for level in range(256)])
    rim = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(2 * SUPERSAMPLE + 3)), inside)
    if filled:
        panel.paste((190, 214, 250), mask=inside)
    panel.paste(LESION, mask=rim)


def _draw_prompts(pen: "ImageDraw", prompts: Prompts, to_pixels: Any) -> None:
    """Draw background prompts first, so that foreground marks stay on top; each polarity is numbered separately."""
    numbered = len(prompts) <= MOST_NUMBERS
    font = _font(12)
    for foreground, colour in ((False, BACKGROUND), (True, FOREGROUND)):
        mine = [prompt for prompt in prompts if prompt.foreground == foreground]
        for order, prompt in enumerate(mine, start=1):
            points = to_pixels(prompt.voxels)
            _draw_prompt(pen, prompt, points, colour)
            if numbered:
                x, y = points[0]
                place = (x + 5 * SUPERSAMPLE, y - 15 * SUPERSAMPLE)
                pen.text(place, str(order), fill=colour, font=font, stroke_width=2 * SUPERSAMPLE, stroke_fill=PAPER)


def _draw_prompt(
    pen: "ImageDraw",
    prompt: Click | Scribble | Box,
    points: NDArray[np.float64],
    colour: tuple[int, int, int],
) -> None:
    """Draw a click as a disc or a cross, a scribble as dots, a box as a frame."""
    r = 4 * SUPERSAMPLE
    if isinstance(prompt, Box):
        low, high = points.min(axis=0), points.max(axis=0)
        pen.rectangle((*low, *high), outline=colour, width=2 * SUPERSAMPLE)
    elif isinstance(prompt, Scribble):
        for x, y in points:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    elif prompt.foreground:
        x, y = points[0]
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=PAPER, width=SUPERSAMPLE)
    else:
        x, y = points[0]
        _cross(pen, x, y, r, colour)


def _cross(pen: "ImageDraw", x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
    for ink, width in ((PAPER, 4 * SUPERSAMPLE), (colour, 2 * SUPERSAMPLE)):
        pen.line((x - r, y - r, x + r, y + r), fill=ink, width=width)
        pen.line((x - r, y + r, x + r, y - r), fill=ink, width=width)


def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size=size * SUPERSAMPLE)


def _letter(sheet: "Image", view: View, x: int, width: int, y: int) -> None:
    """Write the side letters in the upper corners of a view."""
    from PIL import ImageDraw

    pen, font, pad = ImageDraw.Draw(sheet), _font(13), 6 * SUPERSAMPLE
    pen.text((x + pad, y + pad), view.sides[0], fill=FAINT_INK, font=font)
    pen.text((x + width - pad, y + pad), view.sides[1], fill=FAINT_INK, font=font, anchor="ra")


def _write_title(sheet: "Image", title: str) -> None:
    """Write the title, shortened with dots if it is wider than the picture."""
    from PIL import ImageDraw

    pen, font = ImageDraw.Draw(sheet), _font(16)
    line = " ".join(title.split())
    room = sheet.width - 2 * SUPERSAMPLE * MARGIN_PX
    while line and pen.textlength(line, font=font) > room:
        line = line.rstrip("…")[:-1] + "…"
        if line == "…":
            break
    pen.text((SUPERSAMPLE * MARGIN_PX, SUPERSAMPLE * 12), line, fill=INK, font=font)


def _window_text(uptake: NDArray[Any] | None, top: float) -> str:
    unit = "SUV " if top == WINDOW_SUV else ""
    return "" if uptake is None else f"maximum projection, {unit}0 to {top:.3g}"


def _write_legend(sheet: "Image", prompts: Prompts, caption: str, *, lesions: bool) -> None:
    """Write the meaning of the colours and the range of the grey scale."""
    from PIL import ImageDraw

    pen, font = ImageDraw.Draw(sheet), _font(12)
    x, y, r = SUPERSAMPLE * MARGIN_PX, sheet.height - SUPERSAMPLE * 36, 4 * SUPERSAMPLE
    ahead = sum(prompt.foreground for prompt in prompts)
    entries = [("disc", f"foreground ({ahead})"), ("cross", f"background ({len(prompts) - ahead})")]
    if lesions:
        entries.append(("ring", "lesion outline"))
    for mark, text in entries:
        middle = (x + r, y + 8 * SUPERSAMPLE)
        if mark == "disc":
            pen.ellipse((middle[0] - r, middle[1] - r, middle[0] + r, middle[1] + r), fill=FOREGROUND)
        elif mark == "cross":
            _cross(pen, *middle, r, BACKGROUND)
        else:
            box = (middle[0] - r, middle[1] - r, middle[0] + r, middle[1] + r)
            pen.ellipse(box, outline=LESION, width=2 * SUPERSAMPLE)
        pen.text((x + 3 * r, y), text, fill=INK, font=font)
        x += int(3 * r + pen.textlength(text, font=font)) + 18 * SUPERSAMPLE
    if caption:
        pen.text((SUPERSAMPLE * MARGIN_PX, y + 17 * SUPERSAMPLE), caption, fill=FAINT_INK, font=font)

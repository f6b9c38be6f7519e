"""Draw curves over rounds: the mean of each run with its interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH_PX, HEIGHT_PX, LEFT_PX, MARGIN_PX, TOP_PX, BOTTOM_PX = 620, 420, 64, 24, 56, 64
SUPERSAMPLE = 2
INK, PAPER, FAINT_INK, GRID_LINE = (30, 30, 30), (255, 255, 255), (110, 110, 110), (225, 225, 225)
COLOURS = ((30, 110, 235), (222, 120, 20), (0, 140, 80), (160, 60, 180))
Entry = Mapping[str, Any]


def draw_curves(curves: Mapping[str, Sequence[Entry]], *, title: str = "", what: str = "Dice") -> "Image":
    """Draw means over rounds, with the interval as a band where it is known.

    Args:
        curves: By name, one entry per round with `mean`, `low` and `high`, from 0 to 1; None is left out.
        title: One line above the picture.
        what: Name of the score, for the axis.

    Returns:
        An RGB picture.
    """
    from PIL import Image, ImageDraw

    size = (WIDTH_PX * SUPERSAMPLE, HEIGHT_PX * SUPERSAMPLE)
    sheet = Image.new("RGB", size, PAPER)
    longest = max([len(entries) for entries in curves.values()], default=1)
    _draw_axes(ImageDraw.Draw(sheet), longest, title, what)
    for n, (name, entries) in enumerate(sorted(curves.items())):
        colour = COLOURS[n % len(COLOURS)]
        sheet = _draw_band(sheet, entries, longest, colour)
        pen = ImageDraw.Draw(sheet)
        _draw_line(pen, entries, longest, colour)
        _write_name(pen, name, n, colour)
    return sheet.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)


def _place(number: float, value: float, longest: int) -> tuple[float, float]:
    """Pixel position of a round and a value from 0 to 1."""
    span = WIDTH_PX - LEFT_PX - MARGIN_PX
    x = LEFT_PX + (span / 2 if longest < 2 else span * number / (longest - 1))
    y = TOP_PX + (HEIGHT_PX - TOP_PX - BOTTOM_PX) * (1 - min(max(value, 0.0), 1.0))
    return x * SUPERSAMPLE, y * SUPERSAMPLE


def _draw_axes(pen: "ImageDraw", longest: int, title: str, what: str) -> None:
    from PIL import ImageFont

    font, large = (ImageFont.load_default(size=size * SUPERSAMPLE) for size in (12, 15))
    left, right = _place(0, 0, max(longest, 2))[0], (WIDTH_PX - MARGIN_PX) * SUPERSAMPLE
    for step in range(6):
        _, y = _place(0, step / 5, longest)
        pen.line((left, y, right, y), fill=GRID_LINE, width=SUPERSAMPLE)
        pen.text((left - 8 * SUPERSAMPLE, y), f"{step / 5:.1f}", fill=FAINT_INK, font=font, anchor="rm")
    every = max(1, -(-longest // 12))
    for number in range(0, longest, every):
        x, y = _place(number, 0, longest)
        pen.text((x, y + 8 * SUPERSAMPLE), str(number), fill=FAINT_INK, font=font, anchor="ma")
    middle = (left + right) / 2
    pen.text((middle, (HEIGHT_PX - 34) * SUPERSAMPLE), "round", fill=INK, font=font, anchor="ma")
    pen.text((12 * SUPERSAMPLE, 34 * SUPERSAMPLE), f"mean {what}, 95 % interval", fill=INK, font=font)
    pen.text((12 * SUPERSAMPLE, 10 * SUPERSAMPLE), " ".join(title.split())[:70], fill=INK, font=large)


def _draw_band(sheet: "Image", entries: Sequence[Entry], longest: int, colour: tuple[int, int, int]) -> "Image":
    """Draw the interval as a transparent band."""
    from PIL import Image, ImageDraw

    known = [(n, entry) for n, entry in enumerate(entries) if entry["low"] is not None]
    if len(known) < 2:
        return sheet
    edge = [_place(n, entry["high"], longest) for n, entry in known]
    edge += [_place(n, entry["low"], longest) for n, entry in reversed(known)]
    mask = Image.new("L", sheet.size, 0)
    ImageDraw.Draw(mask).polygon(edge, fill=56)
    return Image.composite(Image.new("RGB", sheet.size, colour), sheet, mask)


def _draw_line(pen: "ImageDraw", entries: Sequence[Entry], longest: int, colour: tuple[int, int, int]) -> None:
    places = [_place(n, entry["mean"], longest) for n, entry in enumerate(entries) if entry["mean"] is not None]
    if len(places) > 1:
        pen.line(places, fill=colour, width=2 * SUPERSAMPLE, joint="curve")
    r = 3.5 * SUPERSAMPLE
    for x, y in places:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=PAPER, width=SUPERSAMPLE)


def _write_name(pen: "ImageDraw", name: str, n: int, colour: tuple[int, int, int]) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=12 * SUPERSAMPLE)
    x, y = (LEFT_PX + 150 * (n % 4)) * SUPERSAMPLE, (HEIGHT_PX - 16) * SUPERSAMPLE
    pen.line((x, y, x + 16 * SUPERSAMPLE, y), fill=colour, width=3 * SUPERSAMPLE)
    pen.text((x + 22 * SUPERSAMPLE, y), name[:20], fill=INK, font=font, anchor="lm")

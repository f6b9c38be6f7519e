"""The metrics of a run: rows of numbers in Parquet, and a plot of them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 300, 48  # pixels of one plot
SUPERSAMPLE = 2
TICKS = 5  # grid lines above 0, at most
INK = ("#3366aa", "#cc6633", "#339966", "#aa3377", "#888833", "#555555")
Point = tuple[float, float]


@dataclass
class Metrics:
    """The rows of a run.

    Attributes:
        folder: Where they are written.
        rows: `step`, `name` (loss, rate, dice), `prompts` (of a dice; else null), `value`.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, name: str, value: float, prompts: int | None = None) -> None:
        """Add a number."""
        self.rows.append({"step": step, "name": name, "prompts": prompts, "value": float(value)})

    def read(self, last: int) -> None:
        """Read the rows of an earlier run up to a step; later ones are measured again."""
        import pyarrow.parquet as pq

        file = self.folder / "metrics.parquet"
        rows = pq.read_table(file).to_pylist() if file.is_file() else []
        self.rows = [row for row in rows if row["step"] <= last]

    def table(self) -> "pa.Table":
        """Return the rows as an Arrow table."""
        import pyarrow as pa

        columns = [("step", pa.int64()), ("name", pa.string()), ("prompts", pa.int32()), ("value", pa.float64())]
        return pa.Table.from_pylist(self.rows, pa.schema(columns))

    def write(self) -> None:
        """Write rows and curve; each file is complete or missing."""
        import pyarrow.parquet as pq

        with replacing(self.folder / "metrics.parquet") as temporary:
            pq.write_table(self.table(), temporary, compression="zstd")
        draw_curve(self.rows, self.folder / "curve.png")


def draw_curve(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot the loss (top) and Dice on held-out patches by number of prompts (bottom), both over steps."""
    from PIL import Image, ImageDraw

    rows = [row for row in rows if math.isfinite(row["value"])]  # a loss in float16 may overflow
    loss = {"loss": [(row["step"], row["value"]) for row in rows if row["name"] == "loss"]}
    prompts = sorted({row["prompts"] for row in rows if row["name"] == "dice"})
    scores = {
        f"{n} prompt{'s' if n != 1 else ''}": [
            (row["step"], row["value"]) for row in rows if row["name"] == "dice" and row["prompts"] == n
        ]
        for n in prompts
    }
    plots = [("loss", loss)] + ([("Dice, held-out patches", scores)] if scores else [])
    last = max((row["step"] for row in rows), default=1)
    size = (WIDTH, HEIGHT * len(plots))
    image = Image.new("RGB", (SUPERSAMPLE * size[0], SUPERSAMPLE * size[1]), "white")
    pen = ImageDraw.Draw(image)
    for number, (title, lines) in enumerate(plots):
        _draw_plot(pen, number * HEIGHT, title, lines, last)
    with replacing(file) as temporary:
        image.resize(size, Image.Resampling.LANCZOS).save(temporary, format="PNG")


def _draw_plot(pen: "ImageDraw", top: int, title: str, lines: dict[str, list[Point]], last: int) -> None:
    """Draw one plot below `top`, with the line names in colour next to the title."""
    from PIL import ImageFont

    n, font = SUPERSAMPLE, ImageFont.load_default(size=12 * SUPERSAMPLE)
    most = max((value for line in lines.values() for _, value in line), default=1.0)
    step = _tick(most)
    ticks = max(1, math.ceil(most / step))
    high = ticks * step
    left, right, bottom = MARGIN, WIDTH - 12, top + HEIGHT - 28

    def place(point: Point) -> Point:
        x, y = left + point[0] / last * (right - left), bottom - point[1] / high * (bottom - top - 32)
        return n * x, n * y

    for tick in range(ticks + 1):
        _, y = place((0, tick * step))
        pen.line([(n * left, y), (n * right, y)], fill="#dddddd", width=n)
        pen.text((n * (left - 6), y), f"{tick * step:.3g}", fill="black", font=font, anchor="rm")
    pen.text((n * left, n * (bottom + 6)), "0", fill="black", font=font)
    pen.text((n * right, n * (bottom + 6)), f"step {last}", fill="black", font=font, anchor="ra")
    pen.text((n * left, n * (top + 6)), title, fill="black", font=font)
    x = n * left + pen.textlength(title, font=font) + 20 * n
    for number, (name, line) in enumerate(lines.items()):
        ink = INK[number % len(INK)]
        placed = [place(point) for point in line]
        if len(placed) > 1:
            pen.line(placed, fill=ink, width=2 * n, joint="curve")
        for a, b in placed if len(placed) < 30 else []:
            pen.ellipse([a - 3 * n, b - 3 * n, a + 3 * n, b + 3 * n], fill=ink)
        if len(lines) > 1:
            pen.text((x, n * (top + 6)), name, fill=ink, font=font)
            x += pen.textlength(name, font=font) + 14 * n


def _tick(most: float) -> float:
    """Return the distance between grid lines, at most `TICKS` of them: 1, 2, 2.5 or 5 times a power of ten."""
    least = max(most, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(share * power for share in (1, 2, 2.5, 5, 10) if share * power >= least * (1 - 1e-9))

"""What a run measured: rows of numbers in Parquet, and a picture of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 300, 48  # pixels of one plot
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
        """One more number."""
        self.rows.append({"step": step, "name": name, "prompts": prompts, "value": float(value)})

    def read(self, last: int) -> None:
        """Take up the rows of an earlier run up to a step; later ones are measured again."""
        import pyarrow.parquet as pq

        file = self.folder / "metrics.parquet"
        rows = pq.read_table(file).to_pylist() if file.is_file() else []
        self.rows = [row for row in rows if row["step"] <= last]

    def table(self) -> "pa.Table":
        """The rows as Arrow."""
        import pyarrow as pa

        columns = [("step", pa.int64()), ("name", pa.string()), ("prompts", pa.int32()), ("value", pa.float64())]
        return pa.Table.from_pylist(self.rows, pa.schema(columns))

    def write(self) -> None:
        """Rows and curve, each complete or not at all."""
        import pyarrow.parquet as pq

        with replacing(self.folder / "metrics.parquet") as temporary:
            pq.write_table(self.table(), temporary, compression="zstd")
        draw_curve(self.rows, self.folder / "curve.png")


def draw_curve(rows: list[dict[str, Any]], file: Path) -> None:
    """Loss above, Dice on held-out patches by number of prompts below, both over steps."""
    from PIL import Image, ImageDraw

    loss = {"loss": [(row["step"], row["value"]) for row in rows if row["name"] == "loss"]}
    prompts = sorted({row["prompts"] for row in rows if row["name"] == "dice"})
    scores = {
        f"{n} prompts": [(row["step"], row["value"]) for row in rows if row["name"] == "dice" and row["prompts"] == n]
        for n in prompts
    }
    plots = [("loss", loss)] + ([("Dice, held-out patches", scores)] if scores else [])
    image = Image.new("RGB", (WIDTH, HEIGHT * len(plots)), "white")
    pen = ImageDraw.Draw(image)
    for number, (title, lines) in enumerate(plots):
        _draw_plot(pen, number * HEIGHT, title, lines)
    with replacing(file) as temporary:
        image.save(temporary, format="PNG")


def _draw_plot(pen: "ImageDraw", top: int, title: str, lines: dict[str, list[Point]]) -> None:
    points = [point for line in lines.values() for point in line]
    last = max((step for step, _ in points), default=1)
    high = max(max((value for _, value in points), default=1.0), 1e-9) * 1.05
    left, right, bottom = MARGIN, WIDTH - 12, top + HEIGHT - 28

    def place(point: Point) -> Point:
        return left + point[0] / last * (right - left), bottom - point[1] / high * (bottom - top - 28)

    pen.text((left, top + 6), title, fill="black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = place((0, share * high))
        pen.line([(left, y), (right, y)], fill="#dddddd")
        pen.text((4, y - 6), f"{share * high:.3g}", fill="black")
    pen.text((left, bottom + 6), "0", fill="black")
    pen.text((right - 60, bottom + 6), f"step {last}", fill="black")
    for n, (name, line) in enumerate(lines.items()):
        ink = INK[n % len(INK)]
        placed = [place(point) for point in line]
        if len(placed) > 1:
            pen.line(placed, fill=ink, width=2)
        for x, y in placed if len(placed) < 30 else []:
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=ink)
        if len(lines) > 1:
            pen.text((right - 80, top + 6 + 12 * n), name, fill=ink)

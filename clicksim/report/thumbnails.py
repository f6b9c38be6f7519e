"""Draw small pictures of the cases of a catalog: projections as WebP, with lesion outlines and prompts as vectors.

With vectors, one small picture serves the list and the large view, and the reader can choose the run. Unless a body
is known to be defaced, its top is removed before projection.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.catalog import Unit, open_catalog
from clicksim.errors import ClicksimError, GeometryError
from clicksim.geometry import Grid
from clicksim.prompts import Prompts
from clicksim.report.mip import (
    GAMMA,
    View,
    encode_picture,
    find_columns,
    find_views,
    find_window,
    pixels_per_voxel,
    project,
    show_bone,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from clicksim.catalog import Catalog

HEAD_MM = 250.0
HEIGHT_PX, WIDEST_PX, GAP_PX = 440, 330, 8
QUALITY = 70
MOST_OUTLINE = 12_000
MOST_RUNS, MOST_PROMPTS, MOST_POINTS = 4, 300, 60
HIDDEN_GREY = 206
Stroke = dict[str, Any]


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a case and its overlay.

    Attributes:
        webp: The coronal and the sagittal projection side by side; empty if there is nothing to show.
        overlay: Plain data for the page: size, panels, outlines, strokes by run, and notes.
    """

    webp: bytes
    overlay: Mapping[str, Any]


@dataclass(frozen=True)
class ThumbnailJob:
    """Settings for the pictures of all cases.

    Attributes:
        catalog: The folder of the catalog.
        show_head: Draw the head of cases that are not known to be defaced.
    """

    catalog: str
    show_head: bool


def plan_thumbnails(catalog: "Catalog", keys: Sequence[tuple[str, str]], runs: Sequence[str]) -> list[Unit]:
    """Plan one unit of work per case: its files and its prompts, as plain data.

    Args:
        catalog: An open catalog.
        keys: Source and case id of the cases to draw.
        runs: Prompt runs to draw, by id.
    """
    columns = ["source", "case_id", "pet_path", "ct_path", "label_path", "defaced"]
    rows = {(row["source"], row["case_id"]): row for row in catalog.cases.select(columns).to_pylist()}
    listed = {case_id for _, case_id in keys}
    strokes = [_strokes_by_case(catalog, run, listed) for run in runs]
    units = []
    for key in keys:
        row = rows[key]
        having = [n for n, of_run in enumerate(strokes) if key[1] in of_run]
        row["strokes"] = {n: strokes[n][key[1]] for n in having[:MOST_RUNS]}
        row["more_runs"] = len(having[MOST_RUNS:])
        units.append(Unit("/".join(key), row))
    return units


def draw_unit(job: ThumbnailJob, unit: Unit, _folder: Path) -> "dict[str, pa.Table]":
    """Draw one case as a table of one row; a case that cannot be read gets a note instead."""
    import pyarrow as pa

    row = unit.content
    try:
        drawn = draw_case(open_catalog(job.catalog), row, show_head=job.show_head)
    except (ClicksimError, OSError):  # the message may have private text; `catalog check` shows it
        drawn = Thumbnail(b"", {"note": "its images cannot be read"})
    content = {
        "source": [row["source"]],
        "case_id": [row["case_id"]],
        "webp": pa.array([drawn.webp], pa.binary()),
        "overlay": [json.dumps(drawn.overlay, separators=(",", ":"))],
    }
    return {"thumbnails": pa.table(content)}


def draw_case(catalog: "Catalog", row: Mapping[str, Any], *, show_head: bool) -> Thumbnail:
    """Read and draw the images of a case; a case without PET shows its CT.

    Raises:
        ClicksimError: A file is missing or cannot be read.
    """
    from clicksim.volumes import read_image, read_label

    image = None
    if row["pet_path"] or row["ct_path"]:
        image = read_image(catalog.resolve(row["pet_path"] or row["ct_path"]))
    label = read_label(catalog.resolve(row["label_path"])) if row["label_path"] else None
    known = image or label
    if known is None:
        return Thumbnail(b"", {"note": "it has no images"})
    uptake = None if image is None else image.array if row["pet_path"] else show_bone(image.array)
    drawn = draw_thumbnail(
        uptake,
        None if label is None else label.array,
        row["strokes"],
        grid=known.grid,
        hide_head=not show_head and row["defaced"] is not True,
    )
    return Thumbnail(drawn.webp, {**drawn.overlay, "more_runs": row["more_runs"]})


def draw_thumbnail(
    uptake: NDArray[Any] | None,
    labels: NDArray[Any] | None,
    runs: Mapping[int, Sequence[Stroke]],
    *,
    grid: Grid,
    hide_head: bool,
) -> Thumbnail:
    """Draw the two projections of a case, with lines for lesions and marks for prompts.

    Args:
        uptake: `(I, J, K)` SUV, or None.
        labels: `(I, J, K)`, non-zero inside lesions, or None.
        runs: By number of a prompt run, its strokes: `foreground`, `kind`, `voxels`.
        grid: The grid of both.
        hide_head: Leave out uptake, lesions and prompts in the top 250 mm of the field of view. There is no picture
            if the grid does not say which way is up, or the field of view is not higher than that.
    """
    if hide_head and grid.affine is None:
        return Thumbnail(b"", {"note": f"which way is up is unknown, and the top {HEAD_MM:.0f} mm are not shown"})
    views = find_views(grid)
    covers = [_head_cover(view, grid) if hide_head else None for view in views]
    if covers[0] is not None and covers[0].all():
        return Thumbnail(b"", {"note": f"the field of view is no higher than the {HEAD_MM:.0f} mm that are not shown"})
    if hide_head:
        uptake, labels = (None if array is None else cut_head(array, grid) for array in (uptake, labels))
    projections, masks = project(uptake, labels, views)
    panels = _lay_panels(views, projections, masks, grid)
    top = find_window(projections[0])
    pictures = [
        _draw_panel(panel, projection, cover, top=top)
        for panel, projection, cover in zip(panels, projections, covers, strict=True)
    ]
    placed = {n: _place_strokes(strokes, panels, grid, hide_head=hide_head) for n, strokes in runs.items()}
    width = panels[1].x + panels[1].width
    overlay = {
        "w": width,
        "h": panels[0].height,
        "panels": [panel.describe(mask) for panel, mask in zip(panels, masks, strict=True)],
        "runs": {n: strokes for n, (strokes, _) in placed.items()},
        "left": {n: left for n, (_, left) in placed.items() if left},
        "hidden": hide_head,
    }
    return Thumbnail(_join(pictures, panels, width), overlay)


@dataclass(frozen=True)
class Panel:
    """The place of a projection in the picture.

    Attributes:
        view: Its axes.
        first, last: The columns to draw, in voxels.
        rows: Number of rows, in voxels.
        x: Its left edge, in pixels.
        width, height: In pixels.
    """

    view: View
    first: int
    last: int
    rows: int
    x: int
    width: int
    height: int

    @property
    def unit(self) -> tuple[float, float]:
        """Pixels per voxel, across and up."""
        return self.width / (self.last - self.first), self.height / self.rows

    def place(self, voxels: ArrayLike, grid: Grid) -> NDArray[np.float64]:
        """Convert `(n, 3)` voxels to `(n, 2)` pixels of the picture."""
        return (self.view.place(voxels, grid) - (self.first, 0)) * self.unit + (self.x, 0)

    def describe(self, mask: NDArray[Any] | None) -> dict[str, Any]:
        """The data that the page needs to draw the outlines of a projected mask."""
        path, step = _trace(None if mask is None else self.view.lay(mask)[:, self.first : self.last])
        unit = [round(u * step, 5) for u in self.unit]
        return {"x": self.x, "w": self.width, "unit": unit, "outline": path, "sides": self.view.sides}


def cut_head(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Set all voxels in the top 250 mm of the field of view to 0, in a copy.

    The top is the highest corner of the volume, whichever axis points up and however oblique the grid is. A voxel
    that reaches into the 250 mm is cut.

    Args:
        array: `(I, J, K)`.
        grid: Its grid.

    Raises:
        GeometryError: The grid has no affine.
    """
    zi, zj, zk, limit = _heights(grid)
    kept = np.array(array, order="K")
    for k, height in enumerate(zk):
        above = zi[:, None] + zj[None, :] > limit - height
        if above.all():
            kept[:, :, k] = 0
        elif above.any():
            kept[:, :, k][above] = 0
    return kept


def _heights(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """How much a voxel along each axis adds to the height, in mm, and the height above which voxels are cut."""
    if grid.affine is None:
        raise GeometryError(f"which way is up is unknown: the grid has no affine, {grid}")
    row = grid.affine[2]
    zi, zj, zk = (row[axis] * np.arange(n) for axis, n in enumerate(grid.shape))
    zk = zk + row[3]
    # the top of the field and the upper corner of a voxel are both half a voxel above a centre
    return zi, zj, zk, float(zi.max() + zj.max() + zk.max()) - HEAD_MM


def _head_cover(view: View, grid: Grid) -> NDArray[np.bool_]:
    """The pixels of a projection that show only cut voxels, in stored order."""
    *shares, limit = _heights(grid)
    first, second = sorted((view.across, view.up))
    lowest = shares[view.project].min()
    return np.asarray(shares[first][:, None] + shares[second][None, :] + lowest > limit)


def _lay_panels(
    views: Sequence[View],
    projections: Sequence[NDArray[Any] | None],
    masks: Sequence[NDArray[Any] | None],
    grid: Grid,
) -> list[Panel]:
    """Place the panels side by side, in one scale, without the air beside the patient."""
    nothing = Prompts((), grid)
    columns = [
        find_columns(projection, mask, view, nothing, grid)
        for projection, mask, view in zip(projections, masks, views, strict=True)
    ]
    scale = pixels_per_voxel(views, columns, grid, high=HEIGHT_PX, wide=WIDEST_PX)
    panels, x = [], 0
    for view, (first, last) in zip(views, columns, strict=True):
        width = max(1, round((last - first) * scale[view.across]))
        height = max(1, round(grid.shape[view.up] * scale[view.up]))
        panels.append(Panel(view, first, last, grid.shape[view.up], x, width, height))
        x += width + GAP_PX
    return panels


def _draw_panel(
    panel: Panel, projection: NDArray[Any] | None, cover: NDArray[np.bool_] | None, *, top: float
) -> "Image":
    """Draw one projection in grey; the cut part has an even grey."""
    from PIL import Image

    size, columns = (panel.width, panel.height), slice(panel.first, panel.last)
    if projection is None:
        share = np.zeros((panel.rows, panel.last - panel.first))
    else:
        share = np.clip(panel.view.lay(projection)[:, columns] / np.float32(top), 0, 1) ** GAMMA
    grey = np.ascontiguousarray(255 - 255 * share).astype(np.uint8)
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
    if cover is not None:
        cut = np.ascontiguousarray(panel.view.lay(cover)[:, columns])
        picture.paste(HIDDEN_GREY, mask=Image.fromarray(cut).resize(size, Image.Resampling.NEAREST))
    return picture


def _join(pictures: "Sequence[Image]", panels: Sequence[Panel], width: int) -> bytes:
    from PIL import Image

    sheet = Image.new("L", (width, panels[0].height), 255)
    for picture, panel in zip(pictures, panels, strict=True):
        sheet.paste(picture, (panel.x, 0))
    return encode_picture(sheet, "webp", quality=QUALITY)


def _trace(mask: NDArray[Any] | None) -> tuple[str, int]:
    """Convert the edges of a mask to an SVG path; also return the voxels per unit of the path.

    If the path would need more than 12 kB, the mask is halved in resolution until it does not.
    """
    if mask is None or not mask.any():
        return "", 1
    step = 1
    while len(path := _edges(mask)) > MOST_OUTLINE:
        padded = np.pad(mask, [(0, n % 2) for n in mask.shape])
        mask = padded[::2, ::2] | padded[1::2, ::2] | padded[::2, 1::2] | padded[1::2, 1::2]
        step *= 2
    return path, step


def _edges(mask: NDArray[Any]) -> str:
    """All edges between inside and outside, one stroke per straight run; rows point down."""
    padded = np.pad(np.asarray(mask, bool), 1)
    lines = []
    level = padded[1:, 1:-1] != padded[:-1, 1:-1]  # an edge above each row
    upright = (padded[1:-1, 1:] != padded[1:-1, :-1]).T  # an edge left of each column
    for edges, form in ((level, "M{1} {0}h{2}"), (upright, "M{0} {1}v{2}")):
        steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
        lines += [form.format(n, a, b - a) for (n, a), (_, b) in zip(starts, ends, strict=True)]
    return "".join(lines)


def _place_strokes(
    strokes: Sequence[Stroke], panels: Sequence[Panel], grid: Grid, *, hide_head: bool
) -> tuple[list[list[Any]], int]:
    """Strokes in pixels of the picture, and the number left out: in the head, or beyond 300."""
    placed: list[list[Any]] = []
    order = {True: 0, False: 0}
    for stroke in strokes:
        ahead, voxels = stroke["foreground"], np.asarray(stroke["voxels"], np.float64)
        order[ahead] += 1
        if len(placed) < MOST_PROMPTS and not (hide_head and _in_head(voxels, grid)):
            points = [_thin(panel.place(voxels, grid)) for panel in panels]
            placed.append([int(ahead), stroke["kind"], order[ahead], *points])
    return placed, len(strokes) - len(placed)


def _in_head(voxels: NDArray[np.float64], grid: Grid) -> bool:
    """Whether any voxel of a stroke is cut."""
    *_, limit = _heights(grid)
    return bool((grid.to_mm(voxels)[:, 2] > limit).any())


def _thin(points: NDArray[np.float64]) -> list[float]:
    """X and y in turn, in tenths of pixels; every n-th of many points, without repeated points."""
    step = -(-len(points) // MOST_POINTS)
    kept: list[float] = []
    for x, y in points[::step].round(1).tolist():
        if kept[-2:] != [x, y]:
            kept += [x, y]
    return kept


def _strokes_by_case(catalog: "Catalog", run: str, listed: Collection[str]) -> dict[str, list[Stroke]]:
    """The prompts of a run by listed case, each with its voxels, in their order."""
    import pyarrow.compute as pc

    columns = ["case", "round", "stroke", "annotator", "polarity", "kind", "i", "j", "k"]
    cases: dict[str, dict[tuple[Any, ...], Stroke]] = {}
    table = catalog.table("prompts", run).select(columns).filter(pc.field("case").isin(list(listed)))
    for case, *key, polarity, kind, i, j, k in zip(*(table[name].to_pylist() for name in columns), strict=True):
        first = {"foreground": polarity == "foreground", "kind": kind, "voxels": []}
        cases.setdefault(case, {}).setdefault((*key, polarity), first)["voxels"].append((i, j, k))
    return {case: list(strokes.values()) for case, strokes in cases.items()}

"""Strokes in mm: the mended ways to draw a line in a region, on any plane, with thickness and tremor.

A stroke is drawn in one slice of the region, the one with most of its voxels, and in the largest 8-connected part
of that slice. It never leaves that part: what thickness or tremor would carry outside is not drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Spacing, steps_within
from clicksim.kernels import strokes as kernels
from clicksim.lesions import Component
from clicksim.prompts.kinds import Voxel, as_path
from clicksim.simulate.scribbles.published_strokes import THINNING, fullest_slice

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TREMOR_SMOOTH_MM = 6.0  # distance along a stroke over which tremor is alike
SHORTEST_WALK_MM = 10.0  # of a boundary stroke, where the rim allows


@dataclass(frozen=True)
class StrokeSection:
    """The part of a region in which a stroke is drawn.

    Attributes:
        mask: uint8 `(rows, columns)` with a margin of one pixel of nothing.
        size: Pixel size along rows and columns, in mm.
        corner: Voxel `i, j, k` of the mask's first pixel.
        axes: Stored axes of rows and columns.
    """

    mask: NDArray[np.uint8]
    size: Floats
    corner: Ints
    axes: tuple[int, int]

    @property
    def pixels(self) -> Ints:
        """`(n, 2)`, row by row."""
        return np.argwhere(self.mask)

    def voxels(self, pixels: Ints) -> tuple[Voxel, ...]:
        """Pixels as voxels of the volume."""
        out = np.repeat(self.corner[None], len(pixels), axis=0)
        out[:, self.axes[0]] += pixels[:, 0]
        out[:, self.axes[1]] += pixels[:, 1]
        return as_path(out)


def draw_stroke(
    region: Component, spacing: Spacing, settings: Mapping[str, Any], draws: np.random.Generator
) -> tuple[Voxel, ...]:
    """The voxels of a stroke through a region, in drawing order.

    Args:
        region: Where the stroke lies.
        spacing: mm.
        settings: `strategy`, `axis`, `trim`, `walk`, `thickness_mm`, `tremor_mm` of a table `[scribbles]`.
        draws: Consumed by random and boundary strokes, and by tremor.

    Returns:
        At least one voxel, each once, all inside the region.
    """
    section = cut_section(region, spacing, settings["axis"])
    path = PATHS[settings["strategy"]](section, settings, draws)
    if settings["tremor_mm"] > 0 and len(path) > 1:
        path = _tremble(section, path, settings["tremor_mm"], draws)
    if settings["thickness_mm"] > 0:
        path = _thicken(section, path, settings["thickness_mm"])
    return section.voxels(path)


def cut_section(region: Component, spacing: Spacing, axis: int) -> StrokeSection:
    """The largest 8-connected part of the slice across an axis that holds most of the region."""
    k, flat = fullest_slice(region, axis)
    rows, columns = (a for a in range(3) if a != axis)
    low = flat.min(axis=0) - 1
    mask = np.zeros(flat.max(axis=0) - low + 2, dtype=np.uint8)
    mask[tuple((flat - low).T)] = 1
    corner = np.zeros(3, dtype=np.int64)
    corner[[rows, columns, axis]] = [*low, k]
    size = np.array([spacing[rows], spacing[columns]])
    return StrokeSection(kernels.largest_part(mask), size, corner, (rows, columns))


def _centre_line(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:  # noqa: ARG001
    """The way through the skeleton between its two points farthest apart in mm, trimmed by length.

    Of a way so short that nothing is left, the pixel nearest to its middle stays.
    """
    skeleton = kernels.largest_part(kernels.thin(section.mask, THINNING))
    pixels = np.argwhere(skeleton)
    if len(pixels) < 2:
        return pixels
    first, last = kernels.farthest_pair(pixels, section.size**2)
    path = kernels.shortest_path(skeleton, pixels[first], pixels[last])
    along = _arc_length(section, path)
    cut = settings["trim"] * along[-1]
    kept = (along >= cut) & (along <= along[-1] - cut)
    kept[np.argmin(np.abs(along - along[-1] / 2))] = True
    return np.asarray(path[kept])


def _random_line(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:  # noqa: ARG001
    """The first unbroken piece inside the region of a line between two different pixels."""
    pixels = section.pixels
    if len(pixels) == 1:
        return pixels
    start, stop = draws.choice(len(pixels), size=2, replace=False)
    return _first_piece(section, kernels.straight_line(*pixels[start], *pixels[stop]))


def _rim_walk(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:
    """A walk along the rim over a share of it, at least `SHORTEST_WALK_MM` where the rim has that."""
    rim = kernels.inner_rim(section.mask)
    pixels = np.argwhere(rim)
    steps = max(settings["walk"] * len(pixels), SHORTEST_WALK_MM / section.size.mean(), 1)
    return np.asarray(kernels.walk(rim, pixels[draws.integers(len(pixels))], int(min(steps, len(pixels)))))


PATHS = {"centerline": _centre_line, "random": _random_line, "boundary": _rim_walk}


def _arc_length(section: StrokeSection, path: Ints) -> Floats:
    """Length from the start to each pixel of a path, in mm."""
    steps = np.linalg.norm(np.diff(path, axis=0) * section.size, axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _first_piece(section: StrokeSection, line: Ints) -> Ints:
    outside = np.flatnonzero(section.mask[line[:, 0], line[:, 1]] == 0)
    return line[: outside[0]] if len(outside) else line


def _tremble(section: StrokeSection, path: Ints, amplitude: float, draws: np.random.Generator) -> Ints:
    """The path moved by noise that is alike over a few mm, joined by straight lines, as far as it stays inside."""
    along = _arc_length(section, path)
    noise = draws.standard_normal((len(path), 2))
    weights = np.exp(-0.5 * ((along[:, None] - along[None]) / TREMOR_SMOOTH_MM) ** 2)
    smooth = weights @ noise / np.sqrt((weights**2).sum(axis=1))[:, None]
    moved = np.rint(path + smooth * amplitude / section.size).astype(np.int64)
    lines = [kernels.straight_line(*a, *b) for a, b in pairwise(moved)]
    line = np.concatenate(lines)
    inside = np.all((line >= 0) & (line < section.mask.shape), axis=1)
    line = line[inside]
    line = _once(line[section.mask[line[:, 0], line[:, 1]] != 0])
    return line if len(line) else path


def _thicken(section: StrokeSection, path: Ints, thickness: float) -> Ints:
    """All pixels of the section within half the thickness of the path, in the order of the path."""
    wide = (path[:, None] + steps_within(thickness / 2, section.size)).reshape(-1, 2)
    wide = wide[np.all((wide >= 0) & (wide < section.mask.shape), axis=1)]
    return _once(wide[section.mask[wide[:, 0], wide[:, 1]] != 0])


def _once(pixels: Ints) -> Ints:
    """Each pixel once, where it came first."""
    _, first = np.unique(pixels, axis=0, return_index=True)
    return pixels[np.sort(first)]

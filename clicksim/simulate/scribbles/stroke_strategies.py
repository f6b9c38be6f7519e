"""Strategies for scribbles: the line to draw in a slice of a region.

A strategy is a function that takes the section of a region, the settings of the table `[scribbles]` and a random
stream, and returns the pixels of a line as `(n, 2)` rows and columns of the section, in drawing order. A strategy

- returns at least one pixel, only pixels of the section, and depends only on its arguments;
- draws only from the given stream, which belongs to this region and purpose.

Thickness and tremor are added afterwards. A package adds a strategy by naming it in its `pyproject.toml`; the setting
`strategy` then accepts its name:

    [project.entry-points."clicksim.strategies"]
    "scribbles.column" = "my_package:middle_column"

    def middle_column(section, settings, draws):
        "The longest column of the section."
        pixels = section.pixels
        return pixels[pixels[:, 1] == np.bincount(pixels[:, 1]).argmax()]

`clicksim.testing.check_stroke_strategy` tests it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.kernels import strokes as kernels
from clicksim.prompts.kinds import Voxel, as_path
from clicksim.simulate.scribbles.published_strokes import THINNING

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHORTEST_WALK_MM = 10.0
"""Minimum length of a boundary stroke, if the rim is long enough."""


@dataclass(frozen=True)
class StrokeSection:
    """The part of a region in which a stroke is drawn.

    Attributes:
        mask: uint8 `(rows, columns)`, 1 inside the region, with a margin of one pixel of 0.
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
        """`(n, 2)` pixels inside the region, row by row."""
        return np.argwhere(self.mask)

    def voxels(self, pixels: Ints) -> tuple[Voxel, ...]:
        """Convert pixels to voxels of the volume."""
        out = np.repeat(self.corner[None], len(pixels), axis=0)
        out[:, self.axes[0]] += pixels[:, 0]
        out[:, self.axes[1]] += pixels[:, 1]
        return as_path(out)

    def lengths(self, path: Ints) -> Floats:
        """The length in mm from the start of a path to each of its pixels."""
        steps = np.linalg.norm(np.diff(path, axis=0) * self.size, axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])


StrokeStrategy = Callable[[StrokeSection, Mapping[str, Any], np.random.Generator], Ints]


def centre_line(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:  # noqa: ARG001
    """The path through the skeleton between its two points farthest apart in mm, trimmed by length.

    If the path is so short that nothing is left, the pixel nearest to its middle is kept.
    """
    skeleton = kernels.largest_part(kernels.thin(section.mask, THINNING))
    pixels = np.argwhere(skeleton)
    if len(pixels) < 2:
        return pixels
    first, last = kernels.farthest_pair(pixels, section.size**2)
    path = kernels.shortest_path(skeleton, pixels[first], pixels[last])
    along = section.lengths(path)
    cut = settings["trim"] * along[-1]
    kept = (along >= cut) & (along <= along[-1] - cut)
    kept[np.argmin(np.abs(along - along[-1] / 2))] = True
    return np.asarray(path[kept])


def chord(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:  # noqa: ARG001
    """The first unbroken piece inside the region of a straight line between two different random pixels."""
    pixels = section.pixels
    if len(pixels) == 1:
        return pixels
    start, stop = draws.choice(len(pixels), size=2, replace=False)
    line = kernels.straight_line(*pixels[start], *pixels[stop])
    outside = np.flatnonzero(section.mask[line[:, 0], line[:, 1]] == 0)
    return line[: outside[0]] if len(outside) else line


def boundary_walk(section: StrokeSection, settings: Mapping[str, Any], draws: np.random.Generator) -> Ints:
    """A walk along a share of the rim, at least `SHORTEST_WALK_MM` if the rim is that long."""
    rim = kernels.inner_rim(section.mask)
    pixels = np.argwhere(rim)
    steps = max(settings["walk"] * len(pixels), SHORTEST_WALK_MM / section.size.mean(), 1)
    return np.asarray(kernels.walk(rim, pixels[draws.integers(len(pixels))], int(min(steps, len(pixels)))))

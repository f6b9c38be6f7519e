"""Strokes of the revised rule: in mm, in slices across any axis, with thickness and tremor.

A stroke is drawn in the slice with most voxels of its region, in the largest 8-connected part of that slice. Thickness
and tremor never draw outside that part.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from clicksim.geometry import Spacing, steps_within
from clicksim.kernels import strokes as kernels
from clicksim.lesions import Component
from clicksim.prompts.kinds import Voxel
from clicksim.protocols.strategy_registry import STROKE_STRATEGIES
from clicksim.simulate.scribbles.published_strokes import fullest_slice
from clicksim.simulate.scribbles.stroke_strategies import Ints, StrokeSection, StrokeStrategy

TREMOR_SMOOTH_MM = 6.0
"""Correlation length of the tremor along a stroke."""


def draw_stroke(
    region: Component, spacing: Spacing, settings: Mapping[str, Any], draws: np.random.Generator
) -> tuple[Voxel, ...]:
    """Draw a stroke through a region.

    Args:
        region: The region to draw in.
        spacing: Voxel size in mm.
        settings: `strategy`, `axis`, `trim`, `walk`, `thickness_mm`, `tremor_mm` of a table `[scribbles]`.
        draws: The random stream for the strategy and the tremor.

    Returns:
        Voxels in drawing order: at least one, each once, all inside the region.
    """
    section = cut_section(region, spacing, settings["axis"])
    draw: StrokeStrategy = STROKE_STRATEGIES.find(settings["strategy"])
    path = draw(section, settings, draws)
    if settings["tremor_mm"] > 0 and len(path) > 1:
        path = _tremble(section, path, settings["tremor_mm"], draws)
    if settings["thickness_mm"] > 0:
        path = _thicken(section, path, settings["thickness_mm"])
    return section.voxels(path)


def cut_section(region: Component, spacing: Spacing, axis: int) -> StrokeSection:
    """Find the largest 8-connected part of the slice across an axis with most voxels of the region."""
    k, flat = fullest_slice(region, axis)
    rows, columns = (a for a in range(3) if a != axis)
    low = flat.min(axis=0) - 1
    mask = np.zeros(flat.max(axis=0) - low + 2, dtype=np.uint8)
    mask[tuple((flat - low).T)] = 1
    corner = np.zeros(3, dtype=np.int64)
    corner[[rows, columns, axis]] = [*low, k]
    size = np.array([spacing[rows], spacing[columns]])
    return StrokeSection(kernels.largest_part(mask), size, corner, (rows, columns))


def _tremble(section: StrokeSection, path: Ints, amplitude: float, draws: np.random.Generator) -> Ints:
    """Move a path by noise that varies over a few mm, join it by straight lines, and keep the part inside."""
    along = section.lengths(path)
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
    """Add all pixels of the section within half the thickness of the path, in the order of the path."""
    wide = (path[:, None] + steps_within(thickness / 2, section.size)).reshape(-1, 2)
    wide = wide[np.all((wide >= 0) & (wide < section.mask.shape), axis=1)]
    return _once(wide[section.mask[wide[:, 0], wide[:, 1]] != 0])


def _once(pixels: Ints) -> Ints:
    """Keep the first occurrence of each pixel."""
    _, first = np.unique(pixels, axis=0, return_index=True)
    return pixels[np.sort(first)]

"""Geodesic distance on the image."""

from collections.abc import Callable
from itertools import product

import numpy as np

from clicksim.guidance.canvas import ChannelCanvas, Floats, Image, Seeds
from clicksim.guidance.encoding_settings import DrawingPlan
from clicksim.kernels import geodesic as kernels

MOST_SWEEPS = 100_000
"""Sweeps end when nothing changes; no path has that many turns."""


def draw_geodesic(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan, image: Image) -> None:
    """`max(0, 1 - g / reach)`, where `g` is the geodesic distance to the nearest prompt.

    A step from a voxel to one of its 26 neighbours costs
    `(1 - mix) * length + mix * contrast_mm * |difference of the image|`, and `g` is the cost of the cheapest path. With
    `mix` 0 it is the length of the path along the grid; `contrast_mm` is the length that a difference of 1 counts as.
    Sources: Toivanen, New geodesic distance transforms for gray-scale images (1996), for the raster scan; Wang et al.,
    DeepIGeoS (2018), for its use as guidance. FastGeodis takes the root of the sum of squares of both terms instead of
    their sum.
    """
    reach, spacing = plan.length("reach", seeds.spacing)
    _draw(canvas, seeds, plan, image, reach, spacing, lambda g: np.maximum(0.0, 1.0 - g / reach))


def draw_exp_geodesic(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan, image: Image) -> None:
    """`exp(-g / fall)`, and 0 beyond `truncate * fall`; `g` as in `draw_geodesic`.

    Source: the exponentiated geodesic maps of MIDeepSeg (Luo et al., 2021).
    """
    fall, spacing = plan.length("fall", seeds.spacing)
    _draw(canvas, seeds, plan, image, fall * plan["truncate"], spacing, lambda g: np.exp(-g / fall))


def geodesic_distance(
    image: Floats, seeds: np.ndarray, spacing: tuple[float, float, float], *, mix: float, contrast: float, reach: float
) -> Floats:
    """Compute the geodesic distance from every voxel of a box to the nearest seed; infinite beyond `reach`.

    Args:
        image: `(I, J, K)` float64, C-contiguous.
        seeds: `(n, 3)` voxels.
        spacing: Voxel size; the distance has its unit.
        mix, contrast: See `draw_geodesic`.
        reach: The largest distance of interest; may be infinite.
    """
    distance = np.full(image.shape, np.inf)
    distance[tuple(seeds.T)] = 0.0
    lengths = np.zeros((2, 2, 2))
    for step in product((0, 1), repeat=3):
        lengths[step] = (1.0 - mix) * float(np.linalg.norm(np.multiply(step, spacing)))
    kernels.sweep_geodesic(distance, image, lengths, mix * contrast, reach, MOST_SWEEPS)
    return distance


def _draw(
    canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan, image: Image, reach: float,
    spacing: tuple[float, float, float], value: Callable[[Floats], Floats],
) -> None:  # fmt: skip
    """Draw from the image around the patch: a path that costs `reach` is at most `reach / (1 - mix)` long."""
    far = np.minimum(reach / (1.0 - plan["mix"]) / np.array(spacing) + 1.0, 1e9).astype(np.int64)
    values, start = image.box(canvas.origin - far, canvas.origin + canvas.shape + far)
    for weight, voxels in seeds.near(start, start + values.shape).by_weight():
        distance = geodesic_distance(
            values, voxels - start, spacing, mix=plan["mix"], contrast=plan["contrast_mm"], reach=reach
        )
        drawn = np.where(distance <= reach, weight * value(np.minimum(distance, reach)), 0.0)
        canvas.raise_to(drawn.astype(np.float32), start)

"""Small templates that are stamped at each prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLACK = 1e-9
"""Tolerance in voxels: 6 mm are three voxels of 2 mm, whatever the rounding."""


def distance_template(
    end: float, spacing: Sequence[float], value: Callable[[NDArray[np.float64]], NDArray[Any]], *, flat: int = -1
) -> NDArray[np.float64]:
    """A function of the distance to the middle cell, in the box that holds all distances up to `end`.

    Args:
        end: The largest distance, in the unit of the spacing.
        spacing: Cell size along `i, j, k`.
        value: The function of the distances, elementwise.
        flat: An axis along which the box has one cell; -1 for none.

    Returns:
        float64, an odd number of cells along each axis.
    """
    radii = [0 if axis == flat else int(end / s + SLACK) for axis, s in enumerate(spacing)]
    steps = [np.arange(-r, r + 1) * s for r, s in zip(radii, spacing, strict=True)]
    squares = steps[0][:, None, None] ** 2 + steps[1][:, None] ** 2 + steps[2] ** 2
    # rounded to the last few bits, so that a cell at exactly `end` is inside whatever the order of the sum
    distance = np.round(np.sqrt(squares) / end, 12) * end if end > 0 else np.sqrt(squares)
    return np.asarray(value(distance), dtype=np.float64)


def edt_ball_template(ball: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """The distance from each cell of a ball to the nearest cell of the array outside it, divided by the largest.

    If the ball fills the array, all cells are 1.
    """
    from scipy.ndimage import distance_transform_edt

    if ball.all():
        return np.ones(ball.shape)
    depth = distance_transform_edt(ball, sampling=spacing)
    return np.asarray(depth / depth.max(), dtype=np.float64)


def resized_ball(radii: Sequence[float]) -> NDArray[np.bool_]:
    """The digital ball of the largest radius, resized to `round(2 r + 1)` cells along each axis, thresholded at 0.5.

    Resizing is trilinear with cell centres at halves; equal whole radii are not resized.
    """
    largest = max(radii)
    steps = np.arange(-largest, largest + 1.0)
    ball = steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= largest**2
    shape = [round(2 * r + 1) for r in radii]
    values = ball.astype(np.float64)
    for axis, n in enumerate(shape):
        values = _resized(values, axis, n)
    return values >= 0.5


def _resized(values: NDArray[np.float64], axis: int, n: int) -> NDArray[np.float64]:
    """Interpolate linearly along one axis; the outer faces stay, and the last value is kept beyond its centre."""
    old = values.shape[axis]
    if old == n:
        return values
    place = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, old - 1)
    share = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share

"""Grids: shape, spacing and affine, and what happens to points when an image is cropped, flipped or resampled.

Voxel axes `i, j, k` are the axes of the stored array; a whole number is the centre of a voxel. Millimetres
`x, y, z` are RAS+. Arrays are never re-oriented; the affine gives the position of a voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]

WITHIN = 1e-9  # relative; 6 mm are three voxels of 2 mm, despite rounding


def check_shape(shape: Sequence[int]) -> Shape:
    """Return the shape, or raise a `GeometryError` unless it is three positive whole numbers."""
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise GeometryError(f"a volume has three axes with at least one voxel each, got shape {tuple(shape)}")
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def check_spacing(spacing: Sequence[float]) -> Spacing:
    """Return the spacing, or raise a `GeometryError` unless it is three positive finite numbers in mm."""
    values = tuple(float(s) for s in spacing)
    if len(values) != 3 or not all(np.isfinite(s) and s > 0 for s in values):
        raise GeometryError(f"spacing must be three positive lengths in mm, got {values}")
    return (values[0], values[1], values[2])


def steps_within(distance: float, spacing: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `(n, axes)` steps in voxels up to a distance, in C order; the zero step is included.

    Args:
        distance: At least 0.
        spacing: Voxel size along each axis, in the unit of the distance.
    """
    reach = [int(distance / s * (1 + WITHIN)) for s in spacing]
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, len(reach))
    return steps[((steps * np.asarray(spacing)) ** 2).sum(1) <= distance**2 * (1 + WITHIN)]


@dataclass(frozen=True, eq=False)
class Grid:
    """The lattice of a volume.

    Attributes:
        shape: Voxels along `i, j, k`.
        spacing: Voxel size along `i, j, k` in mm, or None if unknown.
        affine: `(4, 4)`, voxel index to RAS+ mm, or None if unknown.
    """

    shape: Shape
    spacing: Spacing | None = None
    affine: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_shape(self.shape))
        if self.affine is not None:
            affine = np.array(self.affine, dtype=np.float64)  # a copy: the caller's stays writable
            if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
                raise GeometryError(f"affine must be a finite 4 x 4 matrix, got shape {affine.shape}")
            lengths = np.abs(affine[:3, :3]).max(axis=0)  # the largest part: squares of huge numbers overflow
            # after scaling axes to equal length: 1e17 mm of shear give a large determinant, but two equal axes
            if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
                raise GeometryError("affine is singular: an axis has no length or two axes coincide")
            affine.setflags(write=False)
            object.__setattr__(self, "affine", affine)
            if self.spacing is None:
                object.__setattr__(self, "spacing", tuple(np.linalg.norm(affine[:3, :3], axis=0)))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", check_spacing(self.spacing))

    @classmethod
    def from_spacing(cls, shape: Sequence[int], spacing: Sequence[float] | None) -> Self:
        """Make a grid along the world axes with its first voxel at the origin; without a spacing, only voxels."""
        if spacing is None:
            return cls(check_shape(shape))
        checked = check_spacing(spacing)
        return cls(check_shape(shape), checked, np.diag([*checked, 1.0]))

    @property
    def known_affine(self) -> NDArray[np.float64]:
        """Return the affine, or raise a `GeometryError` if there is none."""
        if self.affine is None:
            raise GeometryError(
                f"a place in mm needs an affine; this grid has none: {self}; Grid.from_spacing makes one with both"
            )
        return self.affine

    @property
    def known_spacing(self) -> Spacing:
        """Return the spacing, or raise a `GeometryError` if there is none."""
        if self.spacing is None:
            raise GeometryError(f"a length in mm needs a spacing; this grid has only a shape, {self.shape}")
        return self.spacing

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.known_spacing)) / 1000.0

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def to_mm(self, voxels: ArrayLike) -> NDArray[np.float64]:
        """Convert `(n, 3)` voxel indices to `(n, 3)` RAS+ millimetres."""
        affine = self.known_affine
        return np.asarray(voxels, dtype=np.float64).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]

    def to_voxel(self, points: ArrayLike) -> NDArray[np.float64]:
        """Convert `(n, 3)` RAS+ millimetres to `(n, 3)` fractional voxel indices."""
        inverse = np.linalg.inv(self.known_affine)
        return np.asarray(points, dtype=np.float64).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]

    def holds(self, voxels: ArrayLike) -> NDArray[np.bool_]:
        """Return `(n,)` booleans: which of `(n, 3)` voxel indices are inside the volume."""
        index = np.asarray(voxels, dtype=np.float64).reshape(-1, 3)
        return np.all((index >= -0.5) & (index < np.asarray(self.shape) - 0.5), axis=1)

    def same_as(self, other: "Grid", *, tolerance_mm: float = 1e-2) -> bool:
        """Whether two grids are the same lattice: equal shapes, and corners that agree within the tolerance.

        If one grid has no affine, the spacings are compared (to one part in a thousand, because headers of one study
        differ by that much). If one has no spacing either, only the shapes are compared.
        """
        if self.shape != other.shape:
            return False
        if self.affine is not None and other.affine is not None:
            return self._apart_mm(other) <= tolerance_mm
        if self.spacing is not None and other.spacing is not None:
            return all(abs(a - b) <= 1e-3 * max(a, b) for a, b in zip(self.spacing, other.spacing, strict=True))
        return True

    def check_same(self, other: "Grid", names: tuple[str, str], *, where: str = "") -> None:
        """Raise a `GeometryError` that names both grids unless they are the same lattice."""
        if not self.same_as(other):
            place = f" ({where})" if where else ""
            known = self.shape == other.shape and self.affine is not None and other.affine is not None
            apart = f", with corners up to {self._apart_mm(other):.3g} mm apart" if known else ""
            raise GeometryError(
                f"{names[0]} and {names[1]} are on different grids: {names[0]} {self}, {names[1]} {other}{apart}"
                f"{place}; resample one of them first"
            )

    def crop(self, start: Sequence[int], shape: Sequence[int]) -> "Grid":
        """The grid of `array[start[0]:start[0] + shape[0], ...]`; a negative start pads."""
        if len(start) != 3 or any(int(n) != n for n in start):
            raise GeometryError(f"a crop starts at three whole voxel indices, got {tuple(start)}")
        return self._moved(np.asarray(start, dtype=np.float64), np.eye(3), shape)

    def flip(self, axis: int) -> "Grid":
        """The grid of `numpy.flip(array, axis)`."""
        if axis not in range(-3, 3):
            raise GeometryError(f"axis must be 0, 1 or 2, or -3 to -1 from the last one, got {axis}")
        step = np.eye(3)
        step[axis, axis] = -1
        origin = np.zeros(3)
        origin[axis] = self.shape[axis] - 1
        return self._moved(origin, step, self.shape)

    def permute(self, axes: Sequence[int]) -> "Grid":
        """The grid of `numpy.transpose(array, axes)`."""
        if sorted(axes) != [0, 1, 2]:
            raise GeometryError(f"axes must be a permutation of 0, 1, 2, got {tuple(axes)}")
        return self._moved(np.zeros(3), np.eye(3)[:, list(axes)], [self.shape[a] for a in axes])

    def resample(self, shape: Sequence[int]) -> "Grid":
        """The grid of another shape over the same field of view: the outer faces do not move."""
        new = check_shape(shape)
        factor = np.asarray(self.shape) / np.asarray(new)
        return self._moved(factor / 2 - 0.5, np.diag(factor), new)

    def _apart_mm(self, other: "Grid") -> float:
        """The largest coordinate difference between the corners of two grids of equal shape."""
        corners = np.array(np.meshgrid(*([0, n - 1] for n in self.shape))).reshape(3, -1).T
        return float(np.max(np.abs(self.to_mm(corners) - other.to_mm(corners))))

    def _moved(self, origin: NDArray[np.float64], step: NDArray[np.float64], shape: Sequence[int]) -> "Grid":
        """The grid whose voxel `v` is at voxel `origin + step @ v` of this one."""
        checked = check_shape(shape)
        spacing = None if self.spacing is None else check_spacing(np.abs(step).T @ np.asarray(self.spacing))
        if self.affine is None:
            return Grid(checked, spacing)
        change = np.eye(4)
        change[:3, :3], change[:3, 3] = step, origin
        return Grid(checked, spacing, self.affine @ change)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Grid) and self.same_as(other, tolerance_mm=1e-6)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        size = "unknown spacing" if self.spacing is None else " x ".join(f"{s:.5g}" for s in self.spacing) + " mm"
        return f"{self.shape} at {size}"

"""A canvas in body coordinates, and the shapes that are painted on it.

Body coordinates are millimetres of a patient of 1.72 m: `u` towards the left, `v` towards anterior, `w`
towards superior with 0 at the vertex. Every shape is evaluated only in its own box, so its cost depends on its size.
Arrays are `(K, J, I)`, slices first: the memory order of `(I, J, K)` in Fortran order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Region = tuple[Box, Floats]
"""A box of the canvas, and the distance from the centre of a shape as a fraction of its radius, in that box."""

AIR_HU = -1000


@dataclass
class PhantomCanvas:
    """The arrays that the phantom is painted on: the box around the body.

    Attributes:
        axes: Body coordinates of the voxels along `(w, v, u)`, in mm.
        activity: `(K, J, I)` SUV before the scanner blurs it.
        hu: `(K, J, I)` Hounsfield units.
        organs: `(K, J, I)` TotalSegmentator v2 numbers, 0 where there is none.
        body: `(K, J, I)`, True inside the skin.
    """

    axes: tuple[Floats, Floats, Floats]
    activity: Floats
    hu: NDArray[np.int16]
    organs: NDArray[np.uint8]
    body: NDArray[np.bool_]

    @classmethod
    def empty(cls, axes: tuple[Floats, Floats, Floats]) -> "PhantomCanvas":
        """A canvas of air."""
        shape = (len(axes[0]), len(axes[1]), len(axes[2]))
        return cls(
            axes,
            np.zeros(shape, np.float32),
            np.full(shape, AIR_HU, np.int16),
            np.zeros(shape, np.uint8),
            np.zeros(shape, np.bool_),
        )

    def box(self, low: Sequence[float], high: Sequence[float]) -> tuple[Box, Floats, Floats, Floats]:
        """The voxels between two corners `(u, v, w)`, and their coordinates ready for broadcasting."""
        cuts = []
        for axis, coordinates in enumerate(self.axes):
            name = 2 - axis
            first = int(np.searchsorted(coordinates, low[name], side="left"))
            last = int(np.searchsorted(coordinates, high[name], side="right"))
            cuts.append(slice(first, max(first, last)))
        w, v, u = (coordinates[cut] for coordinates, cut in zip(self.axes, cuts, strict=True))
        return (cuts[0], cuts[1], cuts[2]), u[None, None, :], v[None, :, None], w[:, None, None]

    def at(self, region: Region) -> tuple[Floats, Floats, Floats]:
        """`w, v, u` of the voxels of a region, ready for broadcasting."""
        w, v, u = (axis[cut] for axis, cut in zip(self.axes, region[0], strict=True))
        return w[:, None, None], v[None, :, None], u[None, None, :]

    def fill(
        self,
        region: Region,
        organ: int | None,
        hu: float,
        suv: float | Floats,
        *,
        core: float = 0.0,
        part: NDArray[np.bool_] | None = None,
    ) -> None:
        """Paint the part of a shape that is inside the body.

        Args:
            region: The shape.
            organ: Its number in the organ map; None does not change the map.
            hu: Hounsfield units.
            suv: One value, or one for each voxel of the region's box.
            core: For shells, the fraction of the radius inside which nothing is painted.
            part: Paint only where this is True.
        """
        box, rho = region
        inside = (rho <= 1) & self.body[box]
        if core > 0:
            inside &= rho > core
        if part is not None:
            inside &= part
        np.copyto(self.activity[box], np.asarray(suv, np.float32), where=inside)
        np.copyto(self.hu[box], np.int16(hu), where=inside)
        if organ is not None:
            np.copyto(self.organs[box], np.uint8(organ), where=inside)


def waves(rng: np.random.Generator, u: Floats, v: Floats, w: Floats, *, length_mm: float, count: int = 6) -> Floats:
    """Smooth noise of about unit variance: plane waves in random directions.

    Args:
        rng: Source of directions and phases.
        u: Coordinates in mm; `u`, `v` and `w` are broadcast against each other.
        v: See `u`.
        w: See `u`.
        length_mm: Typical wavelength.
        count: Number of waves.
    """
    total = np.zeros(np.broadcast_shapes(u.shape, v.shape, w.shape), np.float32)
    for _ in range(count):
        direction = rng.standard_normal(3)
        direction *= 2 * np.pi / (length_mm * rng.uniform(0.7, 1.4) * np.linalg.norm(direction))
        a, b, c = direction.astype(np.float32)
        total += np.sin(a * u + (b * v + (c * w + np.float32(rng.uniform(0, 2 * np.pi)))))
    return total * np.float32(np.sqrt(2.0 / count))


def ellipsoid(
    canvas: PhantomCanvas,
    centre: Sequence[float],
    semi: Sequence[float],
    *,
    tilt: float = 0.0,
    pitch: float = 0.0,
    rng: np.random.Generator | None = None,
    wobble: float = 0.0,
) -> Region:
    """An ellipsoid, optionally with an uneven surface.

    Args:
        canvas: Where it will be painted.
        centre: `(u, v, w)` in mm.
        semi: Half axes along `(u, v, w)` in mm, before rotation.
        tilt: Rotation in the coronal plane, in degrees; positive leans the top to the left.
        pitch: Rotation in the sagittal plane, in degrees; positive leans the top forward.
        rng: Source of the surface noise.
        wobble: Height of the surface noise as a fraction of the radius.
    """
    reach = (max(semi) if tilt or pitch else 1.0) * (1 + 2 * wobble)
    extent = [reach] * 3 if tilt or pitch else [s * reach for s in semi]
    low = [c - e for c, e in zip(centre, extent, strict=True)]
    high = [c + e for c, e in zip(centre, extent, strict=True)]
    box, u, v, w = canvas.box(low, high)
    du, dv, dw = u - np.float32(centre[0]), v - np.float32(centre[1]), w - np.float32(centre[2])
    if tilt:
        cos, sin = np.float32(np.cos(np.radians(tilt))), np.float32(np.sin(np.radians(tilt)))
        du, dw = cos * du - sin * dw, sin * du + cos * dw
    if pitch:
        cos, sin = np.float32(np.cos(np.radians(pitch))), np.float32(np.sin(np.radians(pitch)))
        dv, dw = cos * dv - sin * dw, sin * dv + cos * dw
    square = (du / np.float32(semi[0])) ** 2 + (dv / np.float32(semi[1])) ** 2 + (dw / np.float32(semi[2])) ** 2
    rho = np.sqrt(square)
    if rng is not None and wobble > 0:
        rho *= 1 + np.float32(wobble) * waves(rng, u, v, w, length_mm=1.6 * min(semi))
    return box, rho


def tube(canvas: PhantomCanvas, points: Sequence[Sequence[float]], radii: float | Sequence[float]) -> Iterator[Region]:
    """A round tube along a polyline, one region per segment; the radius changes linearly along each segment."""
    thick = [float(radii)] * len(points) if isinstance(radii, int | float) else [float(r) for r in radii]
    path = np.asarray(points, np.float64)
    for start, end, r0, r1 in zip(path[:-1], path[1:], thick[:-1], thick[1:], strict=True):
        reach = max(r0, r1)
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        box, u, v, w = canvas.box(low.tolist(), high.tolist())
        step = end - start
        square = max(float(step @ step), 1e-6)
        du, dv, dw = (c - np.float32(s) for c, s in zip((u, v, w), start, strict=True))
        a, b, c = (step / square).astype(np.float32)
        along = np.clip(a * du + (b * dv + c * dw), 0, 1)
        p, q, r = step.astype(np.float32)
        gap = (du - along * p) ** 2 + (dv - along * q) ** 2 + (dw - along * r) ** 2
        yield box, np.sqrt(gap) / (np.float32(r0) + along * np.float32(r1 - r0))


def bend(points: Sequence[Sequence[float]], pieces: int) -> NDArray[np.float64]:
    """A smooth curve through points, divided into pieces."""
    from scipy.interpolate import CubicSpline

    path = np.asarray(points, np.float64)
    curve: NDArray[np.float64] = CubicSpline(np.arange(len(path)), path)(np.linspace(0, len(path) - 1, pieces + 1))
    return curve

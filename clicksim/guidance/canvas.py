"""The arguments of a drawing function: one channel of a buffer, the voxels of the prompts, and the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError, ImageError
from clicksim.geometry import Shape, Spacing
from clicksim.kernels import guidance as kernels
from clicksim.prompts import Box, Prompts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Seeds:
    """The prompt voxels of one polarity, each with a weight, and the volume that they are in.

    Attributes:
        voxels: `(n, 3)` without repetition; for a box its surface, or all of its voxels if the encoding is solid.
        weights: `(n,)`, above 0.
        boxes: First voxel, last voxel and weight of each box.
        volume: Shape of the whole volume.
        spacing: Voxel size in mm, or None if unknown.
        foreground: True for foreground prompts.
    """

    voxels: Ints
    weights: Floats
    boxes: tuple[tuple[Ints, Ints, float], ...]
    volume: Shape
    spacing: Spacing | None
    foreground: bool

    def near(self, low: Ints, high: Ints) -> "Seeds":
        """Keep the seeds from voxel `low` up to, not including, voxel `high`."""
        inside = np.all((self.voxels >= low) & (self.voxels < high), axis=1)
        return replace(self, voxels=self.voxels[inside], weights=self.weights[inside])

    def by_weight(self) -> list[tuple[float, Ints]]:
        """Group the voxels by weight."""
        return [(float(w), self.voxels[self.weights == w]) for w in np.unique(self.weights)]


@dataclass(frozen=True, eq=False)
class ChannelCanvas:
    """One channel of a buffer.

    Attributes:
        view: `(I, J, K)` float32.
        origin: The voxel of the volume that is `view[0, 0, 0]`.
        flat: The memory of the whole buffer.
        base: The index in it at which the channel begins.
    """

    view: NDArray[np.float32]
    origin: Ints
    flat: NDArray[np.float32]
    base: int

    @classmethod
    def channels(cls, out: NDArray[np.float32], origin: Ints) -> "list[ChannelCanvas]":
        """All channels of a dense buffer `(C, I, J, K)`."""
        flat = out.ravel(order="K")
        return [cls(view, origin, flat, n * out.strides[0] // out.itemsize) for n, view in enumerate(out)]

    @property
    def shape(self) -> Shape:
        """Shape of the channel."""
        a, b, c = self.view.shape
        return (a, b, c)

    def stamp(self, template: NDArray[Any], centre: Sequence[int], seeds: Seeds, *, add: bool = False) -> None:
        """Paint a template at each seed, with its cell `centre` on the seed; keep the larger value, or add."""
        order, strides, shape = self._memory()
        cells = np.ascontiguousarray(template.transpose(order), dtype=np.float32)
        places = np.ascontiguousarray((seeds.voxels - self.origin)[:, order])
        middle = np.array([centre[axis] for axis in order], dtype=np.int64)
        kernels.stamp(self.flat, self.base, strides, shape, cells, middle, places, seeds.weights, add)

    def paint(self, starts: Ints, counts: Ints, profiles: Floats, weights: Floats, *, add: bool) -> None:
        """Paint the products of three profiles for each seed.

        Args:
            starts: `(n, 3)` voxels of the volume at which the profiles begin.
            counts: `(n, 3)` lengths of the profiles.
            profiles: `(n, 3, longest)` values along `i, j, k`.
            weights: `(n,)`.
            add: Add the values; otherwise the larger one is kept.
        """
        order, strides, shape = self._memory()
        first = np.ascontiguousarray((starts - self.origin)[:, order])
        lengths, values = np.ascontiguousarray(counts[:, order]), np.ascontiguousarray(profiles[:, order])
        kernels.paint_separable(self.flat, self.base, strides, shape, first, lengths, values, weights, add)

    def raise_to(self, values: NDArray[Any], start: Ints) -> None:
        """Keep the larger of the present values and `values`, whose first voxel is the voxel `start` of the volume."""
        low = np.maximum(start, self.origin)
        high = np.minimum(start + values.shape, self.origin + self.shape)
        if np.any(low >= high):
            return
        target = self.view[_box(low - self.origin, high - self.origin)]
        np.maximum(target, values[_box(low - start, high - start)], out=target)

    def fill(self, seeds: Seeds) -> None:
        """Fill each box with its weight."""
        for low, high, weight in seeds.boxes:
            self.raise_to(np.broadcast_to(np.float32(weight), high - low + 1), low)

    def _memory(self) -> tuple[list[int], Ints, Ints]:
        """The axes from the slowest in memory to the fastest, their steps in values, and their lengths."""
        steps = [step // self.view.itemsize for step in self.view.strides]
        order = sorted(range(3), key=lambda axis: -steps[axis])
        return order, np.array([steps[a] for a in order]), np.array([self.view.shape[a] for a in order])


@dataclass(frozen=True, eq=False)
class Image:
    """The image that an encoding reads: of the whole volume, or only of the patch.

    Only the values that are read are checked, so that a small patch of a large image is cheap.

    Attributes:
        array: `(I, J, K)`.
        start: The voxel of the volume that is `array[0, 0, 0]`.
    """

    array: NDArray[Any]
    start: Ints

    @property
    def stop(self) -> Ints:
        """The voxel of the volume after the last one of the image."""
        return self.start + self.array.shape

    def box(self, low: Ints, high: Ints) -> tuple[Floats, Ints]:
        """A float64 copy from voxel `low` up to, not including, `high`, clipped to the image; and its first voxel.

        Raises:
            ImageError: A value there is NaN or infinite.
        """
        first, last = np.maximum(low, self.start), np.minimum(high, self.stop)
        last = np.maximum(first, last)
        values = np.array(self.array[_box(first - self.start, last - self.start)], dtype=np.float64, order="C")
        return _finite(values), first

    def at(self, voxels: Ints) -> Floats:
        """The values at `(n, 3)` voxels of the volume.

        In training and prediction the image covers only a patch, and prompts may be outside it; keep those inside with
        `seeds.near(image.start, image.stop)`.

        Raises:
            ImageError: A voxel is outside the image, or a value is NaN or infinite.
        """
        outside = np.any((voxels < self.start) | (voxels >= self.stop), axis=1)
        if outside.any():
            raise ImageError(
                f"voxel {tuple(voxels[outside][0].tolist())} is outside the image, which covers "
                f"{tuple(self.start.tolist())} to {tuple((self.stop - 1).tolist())}; keep the voxels inside it with "
                "seeds.near(image.start, image.stop)"
            )
        return _finite(self.array[tuple((voxels - self.start).T)].astype(np.float64))


def find_seeds(prompts: Prompts, *, foreground: bool, weights: Floats, spacing: Spacing | None, solid: bool) -> Seeds:
    """The voxels of one polarity; where prompts coincide the largest weight is kept."""
    found: dict[tuple[int, int, int], float] = {}
    boxes = []
    for prompt, weight in zip(prompts, weights.tolist(), strict=True):
        if prompt.foreground != foreground or weight == 0:
            continue
        voxels: Any = prompt.voxels
        if isinstance(prompt, Box):
            low, high = np.array(prompt.first, dtype=np.int64), np.array(prompt.last, dtype=np.int64)
            boxes.append((low, high, weight))
            voxels = map(tuple, _box_voxels(low, high, solid=solid).tolist())
        for voxel in voxels:
            found[voxel] = max(weight, found.get(voxel, 0.0))
    places = np.array(list(found), dtype=np.int64).reshape(-1, 3)
    strengths = np.array(list(found.values()), dtype=np.float64)
    return Seeds(places, strengths, tuple(boxes), prompts.grid.shape, spacing, foreground)


def dense_buffer(out: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A buffer of zeros: the caller's, or a new one.

    Raises:
        GeometryError: The buffer has another shape, or gaps between its values.
        TypeError: The buffer is not a float32 array.
    """
    if out is None:
        return np.zeros(shape, dtype=np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out must be a float32 array, got {kind}")
    if out.shape != shape:
        raise GeometryError(f"out must have the shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise GeometryError("out is read-only")
    if not np.shares_memory(out, out.ravel(order="K")) or min(out.strides) < 0:
        raise GeometryError(
            f"out must be dense memory, in any order of its axes; got shape {out.shape} with strides {out.strides}; "
            "np.empty(shape, np.float32) creates one"
        )
    out.fill(0.0)
    return out


def whole_origin(origin: Sequence[int]) -> Ints:
    """Check the voxel at which a patch begins.

    Raises:
        GeometryError: It is not three whole numbers.
    """
    if len(origin) != 3 or any(int(n) != n for n in origin):
        raise GeometryError(f"a patch begins at three whole voxel indices, got origin {tuple(origin)}")
    return np.array([int(n) for n in origin], dtype=np.int64)


def crop_image(image: Any, volume: Shape, shape: Shape, origin: Ints) -> Image:
    """Place the image by its shape, which is that of the whole volume or that of the patch.

    Raises:
        ImageError: It is not a real array with three axes.
        GeometryError: It has another shape, or one that could be either.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.dtype.kind not in "buif":
        raise ImageError(f"the image must be a real array with three axes, got {array.dtype} of shape {array.shape}")
    if array.shape == volume and (shape != volume or not origin.any()):
        return Image(array, np.zeros(3, dtype=np.int64))
    if array.shape == shape == volume:
        raise GeometryError(
            f"the image could be the prompts' volume or the patch, since both have the shape {shape}; crop the prompts "
            "to the patch, and draw them without origin="
        )
    if array.shape != shape:
        raise GeometryError(
            f"the image has shape {array.shape}; allowed: that of the prompts' volume, {volume}, or of the patch, "
            f"{shape}"
        )
    return Image(array, origin)


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise ImageError(
            "the image has NaN or infinite values near the prompts, so guidance that reads it is undefined there"
        )
    return values


def _box(low: Any, high: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _box_voxels(low: Ints, high: Ints, *, solid: bool) -> Ints:
    """All voxels of a box, or those of its surface."""
    whole = np.ones(high - low + 1, dtype=bool)
    if not solid:
        whole[1:-1, 1:-1, 1:-1] = False
    return np.argwhere(whole) + low

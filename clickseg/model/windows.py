"""Windows over a volume, and the blended output of all windows.

Windows lie on a regular lattice. Neighbours overlap by a given fraction; the outermost windows end at the faces of the
volume. Where windows overlap, logits are averaged with Gaussian weights around each window's centre, since predictions
are least reliable at the border. The weights are products over the axes, and so are their sums, so they need no volume.

Each voxel sums its windows in a fixed order, whichever of them were recomputed. So a partly updated volume is
bit-identical to one that was computed at once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError
from clicksim.geometry import Shape

SIGMA = 1 / 8  # standard deviation of the weights as a fraction of a window, along each axis
Floats = NDArray[np.float32]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Windows:
    """The windows of a volume.

    Attributes:
        shape: Shape of the volume.
        size: Shape of a window; it may be larger than the volume and then reaches beyond its end.
        overlap: Fraction of a window that the next one also covers, from 0 to below 1.
    """

    shape: Shape
    size: Shape
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise SettingError(f"the overlap of windows must be from 0 to below 1, got {self.overlap}")

    @cached_property
    def along(self) -> tuple[list[int], ...]:
        """The first voxels of the windows along each axis."""
        return tuple(_starts(n, size, self.overlap) for n, size in zip(self.shape, self.size, strict=True))

    @cached_property
    def starts(self) -> list[tuple[int, int, int]]:
        """The first voxel of each window, in order."""
        return [(i, j, k) for i, j, k in product(*self.along)]

    def __len__(self) -> int:
        return len(self.starts)

    def inside(self, number: int) -> Slices:
        """Return the part of the volume that a window covers."""
        i, j, k = (
            slice(a, min(a + size, n)) for a, size, n in zip(self.starts[number], self.size, self.shape, strict=True)
        )
        return (i, j, k)

    def touching(self, low: Sequence[int], high: Sequence[int]) -> set[int]:
        """Find the windows that share a voxel with a box; both corners belong to the box."""
        found = set()
        for number, start in enumerate(self.starts):
            if all(a <= h and a + size > b for a, size, b, h in zip(start, self.size, low, high, strict=True)):
                found.add(number)
        return found

    @cached_property
    def weights(self) -> tuple[Floats, ...]:
        """The weights of the voxels of a window along each axis."""
        centres = [np.arange(size) - (size - 1) / 2 for size in self.size]
        return tuple(
            np.exp(-0.5 * (c / (size * SIGMA)) ** 2).astype(np.float32)
            for c, size in zip(centres, self.size, strict=True)
        )

    @cached_property
    def totals(self) -> tuple[Floats, ...]:
        """The sum of the weights at each position along each axis."""
        found = []
        for n, starts, weight in zip(self.shape, self.along, self.weights, strict=True):
            total = np.zeros(n, np.float32)
            for start in starts:
                total[start : start + len(weight)] += weight[: n - start]
            found.append(total)
        return tuple(found)


class Blend:
    """The weighted mean over windows, updated where windows changed."""

    def __init__(self, windows: Windows) -> None:
        """Start empty."""
        self.windows = windows
        self._sum = np.zeros(windows.shape, np.float32)

    def clear(self, box: Slices) -> None:
        """Clear a part of the volume."""
        self._sum[box] = 0

    def add(self, number: int, logits: NDArray[np.float16], box: Slices | None = None) -> None:
        """Add one window, all of it or only within a box of the volume; windows must be added in order.

        Args:
            number: Number of the window.
            logits: Logits of the whole window.
            box: The box; None for the whole window.
        """
        inside = self.windows.inside(number)
        part = inside if box is None else _common(inside, box)
        if part is None:
            return
        own = [slice(p.start - a, p.stop - a) for p, a in zip(part, self.windows.starts[number], strict=True)]
        i, j, k = (weight[s] for weight, s in zip(self.windows.weights, own, strict=True))
        self._sum[part] += logits[tuple(own)].astype(np.float32) * (i[:, None, None] * j[:, None] * k)

    def mean(self) -> Floats:
        """Return the logits of the volume."""
        i, j, k = self.windows.totals
        return np.asarray(self._sum / (i[:, None, None] * j[:, None] * k))


def hull(boxes: Iterable[Slices]) -> Slices:
    """Return the smallest box that contains all boxes; there is at least one."""
    found = list(boxes)
    i, j, k = (slice(min(b[a].start for b in found), max(b[a].stop for b in found)) for a in range(3))
    return (i, j, k)


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """Return the first voxels of windows along one axis, at even distances."""
    if length <= size:
        return [0]
    step = max(1, int(size * (1 - overlap)))
    count = math.ceil((length - size) / step) + 1
    return [round(n * (length - size) / (count - 1)) for n in range(count)]


def _common(first: Slices, second: Slices) -> Slices | None:
    """Return the intersection of two boxes, or None."""
    i, j, k = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return None if any(s.start >= s.stop for s in (i, j, k)) else (i, j, k)

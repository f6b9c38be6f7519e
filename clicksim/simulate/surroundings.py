"""Margins and shells around lesions, in mm."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Spacing, steps_within
from clicksim.geometry.arrays import as_labels, flat_view
from clicksim.kernels.margin import is_near
from clicksim.lesions import Component

Ints = NDArray[np.int64]


class Surroundings:
    """The space around the lesions of one mask."""

    def __init__(self, labels: NDArray[Any], spacing: Spacing) -> None:
        self.labels = labels
        self.spacing = spacing
        self._flat, self._memory = flat_view(as_labels(labels))

    def near(self, voxels: Ints, margin_mm: float) -> NDArray[np.bool_]:
        """Mark which of `(n, 3)` voxels have a lesion voxel within a distance; with 0, which are lesion voxels."""
        axes = list(self._memory.axes)
        offsets = ball(margin_mm, self.spacing)[:, axes]
        along_memory = np.ascontiguousarray(np.asarray(voxels, dtype=np.int64)[:, axes])
        near: NDArray[np.bool_] = is_near(self._flat, self._memory.lengths, along_memory, np.ascontiguousarray(offsets))
        return near

    def shell(self, lesion: Component, nearest_mm: float, farthest_mm: float) -> Ints:
        """`(n, 3)` voxels around one lesion, in C order, whose distance to the nearest lesion is in a range.

        Both ends belong to the range. The search box is the lesion's box grown by the farthest distance; parts of
        other lesions inside it count.
        """
        import edt

        low, high = lesion.box
        reach = np.ceil(farthest_mm / np.asarray(self.spacing)).astype(int)
        seen = reach + np.ceil(nearest_mm / np.asarray(self.spacing)).astype(int)
        first, last = np.maximum(low - seen, 0), np.minimum(high + seen + 1, self.labels.shape)
        crop = np.ascontiguousarray(self.labels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] == 0)
        distance = edt.edt(crop, anisotropy=self.spacing, black_border=False, parallel=1)
        voxels = np.argwhere((distance >= nearest_mm) & (distance <= farthest_mm) & crop) + first
        return voxels[np.all((voxels >= low - reach) & (voxels <= high + reach), axis=1)]


@cache
def ball(radius_mm: float, spacing: Spacing) -> Ints:
    """`(n, 3)` offsets within a distance, nearest first; `(0, 0, 0)` is always included."""
    offsets = steps_within(radius_mm, spacing)
    return offsets[np.argsort(((offsets * np.asarray(spacing)) ** 2).sum(1), kind="stable")]

"""From the grid of a case to the grid of a model, and back.

The rule: axes are permuted and flipped to the order that is nearest to R, A, S (exact, no voxel changes), then the
volume is resampled to the wanted voxel size over the same field of view, so that its outer faces stay where they
are. CT and uptake are interpolated linearly, labels take the nearest voxel. Nothing is normalised here: stored
values are HU and SUV, and the model itself normalises them (`clickseg.model.network`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from clickseg.data.patch_store import AIR_HU
from clicksim.errors import GeometryError, ImageError
from clicksim.geometry import Grid, Shape
from clicksim.prompts import Prompts


@dataclass(frozen=True)
class GridTransform:
    """How a case lies on its own grid and on that of a model.

    Attributes:
        source: The grid of the case's files.
        axes: Stored axes that become R, A, S, as `numpy.transpose` takes them.
        flipped: Which of these are then flipped.
        oriented: The grid after both.
        target: The grid of the model.
    """

    source: Grid
    axes: tuple[int, int, int]
    flipped: tuple[int, ...]
    oriented: Grid
    target: Grid

    @classmethod
    def of(cls, source: Grid, spacing_mm: Sequence[float]) -> "GridTransform":
        """The frame of a case.

        Args:
            source: With an affine.
            spacing_mm: Of the target along R, A, S; empty keeps the voxel size.

        Raises:
            GeometryError: No affine, or not three sizes.
        """
        if source.affine is None or source.spacing is None:
            raise GeometryError(f"a model needs to know where a voxel lies; this grid has no affine: {source}")
        if len(spacing_mm) not in (0, 3):
            raise GeometryError(f"spacing_mm has three sizes or none, got {tuple(spacing_mm)}")
        axes, flipped = _to_ras(source.affine)
        oriented = source.permute(axes)
        for axis in flipped:
            oriented = oriented.flip(axis)
        target = oriented
        if len(spacing_mm):
            lengths = zip(oriented.shape, oriented.known_spacing, spacing_mm, strict=True)
            target = oriented.resample([max(1, round(n * old / new)) for n, old, new in lengths])
        return cls(source, axes, flipped, oriented, target)

    def image(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """A CT or an uptake on the target grid."""
        return resize(self._orient(array), self.target.shape)

    def ct(self, array: NDArray[Any]) -> NDArray[np.int16]:
        """A CT on the target grid in whole HU, nothing darker than air; an `ImageError` where it is not finite."""
        return np.clip(np.rint(self._finite(array, "CT")), AIR_HU, np.iinfo(np.int16).max).astype(np.int16)

    def pet(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """An uptake on the target grid; an `ImageError` where it is not finite."""
        return self._finite(array, "PET")

    def label(self, array: NDArray[Any]) -> NDArray[Any]:
        """A label on the target grid, in its own type."""
        oriented = self._orient(array)
        if self.target.shape == oriented.shape:
            return np.ascontiguousarray(oriented)
        picks = [_nearest(new, old) for new, old in zip(self.target.shape, oriented.shape, strict=True)]
        return np.ascontiguousarray(oriented[np.ix_(*picks)])

    def prompts(self, prompts: Prompts) -> Prompts:
        """Prompts on the target grid: each voxel becomes the target's voxel that holds its centre.

        Raises:
            GeometryError: Prompts of another grid.
        """
        self.source.check_same(prompts.grid, ("case", "prompts"))
        moved = prompts.permute(self.axes)
        for axis in self.flipped:
            moved = moved.flip(axis)
        return moved if self.target.shape == self.oriented.shape else moved.resample(self.target.shape)

    def back(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """The probabilities that a model gives, interpolated on the grid of the case's files, axes as stored there."""
        if tuple(array.shape) != self.target.shape:
            raise GeometryError(f"a result of this frame has shape {self.target.shape}, got {array.shape}")
        full = resize(array, self.oriented.shape)
        full = np.flip(full, self.flipped) if self.flipped else full
        return np.transpose(full, np.argsort(self.axes))

    def _orient(self, array: NDArray[Any]) -> NDArray[Any]:
        if tuple(array.shape) != self.source.shape:
            raise GeometryError(f"an array of this frame has shape {self.source.shape}, got {array.shape}")
        turned = np.transpose(array, self.axes)
        return np.flip(turned, self.flipped) if self.flipped else turned

    def _finite(self, array: NDArray[Any], what: str) -> NDArray[np.float32]:
        image = self.image(array)
        if not np.isfinite(image).all():
            raise ImageError(f"the {what} has values that are NaN or infinite")
        return image


def resize(array: NDArray[Any], shape: Shape) -> NDArray[np.float32]:
    """A volume with another number of voxels over the same field of view, interpolated linearly.

    Beyond the outermost centres it is flat.

    Args:
        array: `(I, J, K)`.
        shape: Of the result.
    """
    values = np.ascontiguousarray(array, dtype=np.float32)
    if values.shape == shape:
        return values
    image = torch.from_numpy(values)[None, None]
    return functional.interpolate(image, size=shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def _nearest(new: int, old: int) -> NDArray[np.int64]:
    """The old voxel that holds the centre of each new one."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def _to_ras(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Stored axes in the order R, A, S, each used once, the clearest first; and which of them point the other way."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    weight = np.abs(directions)
    axes = [0, 0, 0]
    for _ in range(3):
        world, stored = np.unravel_index(int(np.argmax(weight)), (3, 3))
        axes[world] = int(stored)
        weight[world, :] = -1
        weight[:, stored] = -1
    flipped = tuple(world for world in range(3) if directions[world, axes[world]] < 0)
    return (axes[0], axes[1], axes[2]), flipped

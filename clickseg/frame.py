"""From the grid of a case to the grid of a model, and back.

The rule: axes are permuted and flipped to the order that is nearest to R, A, S (exact, no voxel changes), then the
volume is resampled to the wanted voxel size over the same field of view, so that its outer faces stay where they
are. CT and uptake are interpolated linearly, labels take the nearest voxel. Nothing is normalised here: stored
values are HU and SUV, and the model itself normalises them (`clickseg.network`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from clicksim.errors import GeometryError
from clicksim.geometry import Grid, Shape, check_shape
from clicksim.prompts import Prompts


@dataclass(frozen=True)
class Frame:
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
    def of(cls, source: Grid, spacing_mm: Sequence[float]) -> "Frame":
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
            assert oriented.spacing is not None
            lengths = zip(oriented.shape, oriented.spacing, spacing_mm, strict=True)
            target = oriented.resample([max(1, round(n * old / new)) for n, old, new in lengths])
        return cls(source, axes, flipped, oriented, target)

    def image(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """A CT or an uptake on the target grid."""
        return resize(self._orient(array), self.target.shape, linear=True)

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

    def back(self, array: NDArray[Any], *, linear: bool = True) -> NDArray[Any]:
        """What a model gives, on the grid of the case's files, axes as stored there.

        Probabilities are interpolated (`linear`), and cut by the caller afterwards; masks take the nearest voxel.
        """
        if tuple(array.shape) != self.target.shape:
            raise GeometryError(f"a result of this frame has shape {self.target.shape}, got {array.shape}")
        if linear:
            full: NDArray[Any] = resize(array, self.oriented.shape, linear=True)
        else:
            picks = [_nearest(new, old) for new, old in zip(self.oriented.shape, array.shape, strict=True)]
            full = array[np.ix_(*picks)]
        full = np.flip(full, self.flipped) if self.flipped else full
        return np.transpose(full, np.argsort(self.axes))

    def _orient(self, array: NDArray[Any]) -> NDArray[Any]:
        if tuple(array.shape) != self.source.shape:
            raise GeometryError(f"an array of this frame has shape {self.source.shape}, got {array.shape}")
        turned = np.transpose(array, self.axes)
        return np.flip(turned, self.flipped) if self.flipped else turned


def resize(array: NDArray[Any], shape: Shape, *, linear: bool) -> NDArray[np.float32]:
    """A volume with another number of voxels over the same field of view; beyond the outermost centres it is flat.

    Args:
        array: `(I, J, K)`.
        shape: Of the result.
        linear: Between neighbours; else the nearest voxel.
    """
    new = check_shape(shape)
    values = np.ascontiguousarray(array, dtype=np.float32)
    if values.shape == new:
        return values
    image = torch.from_numpy(values)[None, None]
    if linear:
        out = functional.interpolate(image, size=new, mode="trilinear", align_corners=False)
    else:
        out = functional.interpolate(image, size=new, mode="nearest-exact")
    return out[0, 0].numpy()


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

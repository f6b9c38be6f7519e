"""Map a case from its grid to the grid of a model, and back.

The rule: axes are permuted and flipped to the order nearest to R, A, S (this is exact; no voxel changes). Then the
volume is resampled to the wanted voxel size over the same field of view, so its outer faces do not move. CT and uptake
are interpolated linearly, labels take the nearest voxel. Nothing is normalised here: stored values are HU and SUV, and
the model normalises them (`clickseg.model.network`).
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
    """The mapping between the grid of a case and the grid of a model.

    Attributes:
        source: The grid of the case's files.
        axes: Stored axes that become R, A, S, as `numpy.transpose` takes them.
        flipped: Which of these axes are then flipped.
        oriented: The grid after both steps.
        target: The grid of the model.
    """

    source: Grid
    axes: tuple[int, int, int]
    flipped: tuple[int, ...]
    oriented: Grid
    target: Grid

    @classmethod
    def of(cls, source: Grid, spacing_mm: Sequence[float]) -> "GridTransform":
        """Make the mapping for a case.

        Args:
            source: Grid of the case, with an affine.
            spacing_mm: Voxel size of the target along R, A, S; empty keeps that of the case.

        Raises:
            GeometryError: The grid has no affine, or `spacing_mm` does not have three sizes.
        """
        if source.affine is None or source.spacing is None:
            raise GeometryError(f"a model needs the position of each voxel, but this grid has no affine: {source}")
        if len(spacing_mm) not in (0, 3):
            raise GeometryError(f"spacing_mm must have three sizes or none, got {tuple(spacing_mm)}")
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
        """Resample a CT or an uptake to the target grid."""
        return resize(self._orient(array), self.target.shape)

    def ct(self, array: NDArray[Any]) -> NDArray[np.int16]:
        """Resample a CT to the target grid, in whole HU, not below air; NaN or infinity raise `ImageError`."""
        return np.clip(np.rint(self._finite(array, "CT")), AIR_HU, np.iinfo(np.int16).max).astype(np.int16)

    def pet(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Resample an uptake to the target grid; NaN or infinity raise `ImageError`."""
        return self._finite(array, "PET")

    def label(self, array: NDArray[Any]) -> NDArray[Any]:
        """Resample a label to the target grid; its type does not change."""
        oriented = self._orient(array)
        if self.target.shape == oriented.shape:
            return np.ascontiguousarray(oriented)
        picks = [_nearest(new, old) for new, old in zip(self.target.shape, oriented.shape, strict=True)]
        return np.ascontiguousarray(oriented[np.ix_(*picks)])

    def prompts(self, prompts: Prompts) -> Prompts:
        """Map prompts to the target grid: each voxel becomes the target voxel that contains its centre.

        Raises:
            GeometryError: The prompts are on another grid.
        """
        self.source.check_same(prompts.grid, ("case", "prompts"))
        moved = prompts.permute(self.axes)
        for axis in self.flipped:
            moved = moved.flip(axis)
        return moved if self.target.shape == self.oriented.shape else moved.resample(self.target.shape)

    def back(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Interpolate probabilities on the grid of the case's files, with axes as stored there."""
        if tuple(array.shape) != self.target.shape:
            raise GeometryError(f"a result must have shape {self.target.shape}, got {array.shape}")
        full = resize(array, self.oriented.shape)
        full = np.flip(full, self.flipped) if self.flipped else full
        return np.transpose(full, np.argsort(self.axes))

    def _orient(self, array: NDArray[Any]) -> NDArray[Any]:
        if tuple(array.shape) != self.source.shape:
            raise GeometryError(f"the array must have shape {self.source.shape}, got {array.shape}")
        turned = np.transpose(array, self.axes)
        return np.flip(turned, self.flipped) if self.flipped else turned

    def _finite(self, array: NDArray[Any], what: str) -> NDArray[np.float32]:
        image = self.image(array)
        if not np.isfinite(image).all():
            raise ImageError(f"the {what} has values that are NaN or infinite")
        return image


def resize(array: NDArray[Any], shape: Shape) -> NDArray[np.float32]:
    """Interpolate a volume linearly to another number of voxels over the same field of view.

    Beyond the outermost voxel centres the value is constant.

    Args:
        array: `(I, J, K)`.
        shape: Shape of the result.
    """
    values = np.ascontiguousarray(array, dtype=np.float32)
    if values.shape == shape:
        return values
    image = torch.from_numpy(values)[None, None]
    return functional.interpolate(image, size=shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def _nearest(new: int, old: int) -> NDArray[np.int64]:
    """Return the old voxel that contains the centre of each new one."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def _to_ras(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Assign stored axes to R, A, S, the clearest first, each once; also return which point the opposite way."""
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

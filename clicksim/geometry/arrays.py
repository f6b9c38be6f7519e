"""Prepare arrays for the kernels: flat views of their memory, in a dtype that needs no copy.

Whole volumes are not re-ordered or converted if this can be avoided: the code views the memory as it is, and `Memory`
says which voxel is where.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, LabelError, UptakeError, in_case
from clicksim.geometry.grid import check_shape

Ints = NDArray[np.int64]
WHOLE = 1e-3
"""How far a label may be from a whole number: masks stored with slope 1/255 read back as 1.0000000591."""


@dataclass(frozen=True)
class Memory:
    """The memory layout of a volume: which axis is slow, middle and fast.

    Attributes:
        shape: `(I, J, K)`.
        axes: The array's axes from slow to fast; `(2, 1, 0)` for a Fortran-ordered array.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]

    @property
    def lengths(self) -> Ints:
        """Voxels along (slow, middle, fast)."""
        return np.array([self.shape[a] for a in self.axes], dtype=np.int64)

    @property
    def ranks(self) -> Ints:
        """The change of a voxel's C-order index for a step along (slow, middle, fast)."""
        _, J, K = self.shape
        steps = (J * K, K, 1)
        return np.array([steps[a] for a in self.axes], dtype=np.int64)

    def coordinates(self, indices: Ints) -> Ints:
        """Convert `(n,)` flat indices in memory order to `(n, 3)` voxels `i, j, k`."""
        _, middle, fast = self.lengths
        out = np.empty((len(indices), 3), dtype=np.int64)
        line, out[:, self.axes[2]] = np.divmod(indices, fast)
        out[:, self.axes[0]], out[:, self.axes[1]] = np.divmod(line, middle)
        return out

    def indices(self, voxels: Ints) -> Ints:
        """Convert `(n, 3)` voxels `i, j, k` to flat indices in memory order."""
        _, middle, fast = self.lengths
        slow_axis, middle_axis, fast_axis = self.axes
        return (voxels[:, slow_axis] * middle + voxels[:, middle_axis]) * fast + voxels[:, fast_axis]


def flat_view(array: NDArray[Any]) -> tuple[NDArray[Any], Memory]:
    """Return a flat view of a volume's memory; copy only if the volume is not contiguous.

    Raises:
        GeometryError: If there are not three axes, or an axis has no voxels.
    """
    shape = check_shape(array.shape)
    order = sorted(range(3), key=lambda a: (-abs(array.strides[a]) if shape[a] > 1 else 0, -a))
    packed = array.transpose(order)
    if not (packed.flags.c_contiguous and packed.flags.aligned):
        order, packed = [2, 1, 0], np.ascontiguousarray(array.transpose(2, 1, 0))
    return packed.reshape(-1), Memory(shape, (order[0], order[1], order[2]))


def as_mask(mask: ArrayLike, *, where: str = "") -> NDArray[Any]:
    """Check that a mask or label array is a volume, and return it unchanged.

    Args:
        mask: `(I, J, K)`.
        where: A case to name in errors.

    Raises:
        GeometryError: If there are not three axes.
    """
    array = np.asarray(mask)
    if array.ndim != 3:
        raise GeometryError(f"a mask has three axes, got shape {array.shape}{in_case(where)}")
    return array


def check_pair(prediction: ArrayLike, truth: ArrayLike, *, where: str = "") -> list[NDArray[Any]]:
    """Convert prediction and truth to labels of one dtype.

    Args:
        prediction, truth: `(I, J, K)`.
        where: A case to name in errors.

    Raises:
        GeometryError: If the shapes differ or do not have three axes.
        LabelError: If a value is not a valid label.
    """
    masks = [np.asarray(prediction), np.asarray(truth)]
    if masks[0].shape != masks[1].shape or masks[0].ndim != 3:
        raise GeometryError(
            f"prediction and truth need the same three axes: prediction {masks[0].shape}, truth {masks[1].shape}"
            f"{in_case(where)}"
        )
    labels = [as_labels(mask, where=where) for mask in masks]
    return labels if labels[0].dtype == labels[1].dtype else [label.astype(np.int32, order="K") for label in labels]


def as_labels(mask: ArrayLike, *, where: str = "") -> NDArray[Any]:
    """Convert labels to a dtype that the kernels accept: uint8, int16 or int32, without a copy if possible.

    Args:
        mask: Any shape.
        where: A case to name in errors.

    Raises:
        LabelError: If a value is negative, not a whole number (within 0.001), or above 2**31 - 1.
    """
    array = np.asarray(mask)
    place = in_case(where)
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise LabelError(f"labels must be numbers, got {array.dtype}{place}")
    if array.size:
        low, high = array.min(), array.max()  # a NaN shows in both
        if not (float(low) >= 0 and float(high) < 2**31 - 0.5):
            raise LabelError(
                f"labels must be 0 for background and positive for lesions, got {low} to {high}{place}; "
                "set voxels to ignore to 0"
            )
    if array.dtype.kind == "f":
        whole = np.rint(array)
        odd = np.abs(array - whole) > WHOLE
        if odd.any():
            found = ", ".join(f"{value:.9g}" for value in np.unique(array[odd])[:10].tolist())
            raise LabelError(f"labels must be whole numbers, got {found}{place}; threshold the map first")
        return whole.astype(np.int32, order="K")
    if array.dtype == np.int8:
        return array.view(np.uint8)
    return array if array.dtype in (np.int16, np.int32) else array.astype(np.int32, order="K")


def as_uptake(uptake: ArrayLike) -> NDArray[Any]:
    """Convert the uptake to float32 or float64; copy only if needed. Integers convert exactly.

    Raises:
        UptakeError: If the values are not real numbers.
    """
    array = np.asarray(uptake)
    if array.dtype.kind not in "iuf":
        raise UptakeError(f"uptake must be real numbers, got {array.dtype}")
    if array.dtype.isnative and array.dtype in (np.float32, np.float64):
        return array
    small = array.dtype.itemsize <= 2
    return array.astype(np.float32 if small else np.float64, order="K")

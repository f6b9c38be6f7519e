"""Labels: whole numbers from 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ImageError

WHOLE = 1e-3  # masks stored with slope 1/255 read back as 1.0000000591


def whole_labels(array: NDArray[Any], where: str) -> NDArray[Any]:
    """The same labels as integers, or an `ImageError` that names up to ten values that are none."""
    if array.dtype.kind == "u":
        return array
    if array.dtype.kind == "i":
        if array.min() < 0:
            _refuse_labels(np.unique(array[array < 0]), where)
        return array
    largest = 0.0
    offenders: NDArray[np.float64] = np.empty(0)
    slices = range(array.shape[2])
    with np.errstate(invalid="ignore"):
        for k in slices:
            values = array[:, :, k]
            nearest = np.rint(values)
            good = (np.abs(values - nearest) <= WHOLE) & (nearest >= 0) & (nearest < 2**31)
            if not good.all():
                offenders = np.unique(np.concatenate([offenders, values[~good]]))
            largest = max(largest, float(nearest.max()))
    if len(offenders):
        _refuse_labels(offenders, where)
    dtype = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32
    labels = np.empty(array.shape, dtype, order="F")
    for k in slices:
        labels[:, :, k] = np.rint(array[:, :, k])
    return labels


def _refuse_labels(values: NDArray[Any], where: str) -> None:
    names = ", ".join(f"{v:.9g}" for v in values[:10].tolist())
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    raise ImageError(f"labels must be whole numbers from 0, found {names}{more} ({where}); is this a label image?")

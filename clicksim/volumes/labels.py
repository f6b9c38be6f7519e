"""Labels: whole numbers from 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import LabelError
from clicksim.geometry.arrays import WHOLE

NAMED = 10  # invalid values that a message lists


def whole_labels(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Convert labels to integers, or raise a `LabelError` that names up to ten invalid values."""
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
            if len(offenders) > NAMED:  # a PET has millions
                break
            largest = max(largest, float(nearest.max()))
    if len(offenders):
        _refuse_labels(offenders, where)
    dtype = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32
    labels = np.empty(array.shape, dtype, order="F")
    for k in slices:
        labels[:, :, k] = np.rint(array[:, :, k])
    return labels


def _refuse_labels(values: NDArray[Any], where: str) -> None:
    names = ", ".join(f"{v:.9g}" for v in values[:NAMED].tolist())
    more = " and more" if len(values) > NAMED else ""
    raise LabelError(f"labels must be whole numbers from 0, found {names}{more} ({where}); is this a label image?")

"""Fit a prediction to the uptake by a threshold: the DEEP-PSMA rule for predicted total tumour burden.

The organisers draw lesions at a threshold of the case's uptake. This rule moves a predicted border to that threshold:
it dilates the prediction and keeps the voxels at or above the threshold. In some organs with normal uptake above the
threshold, the prediction does not change. Predicted normal uptake is removed last.

Source: the refinement published with the baseline of DEEP-PSMA (the dilation there is 5 mm by default and 7 mm in
the baseline, and the liver is left unchanged). Use it on the native grid: after resampling, uptake and threshold no
longer match.
"""

import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, SettingError, UptakeError, in_case, unknown_name
from clicksim.geometry import Spacing, check_spacing
from clicksim.geometry.arrays import as_labels, as_uptake
from clicksim.lesions import find_lesions

Mask = NDArray[np.uint8]

DILATION_MM = 5.0
LEFT_ALONE = ("liver",)
ORGANS = {  # names and labels of TotalSegmentator v2, task total; only organs relevant for PSMA and FDG lesions
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "liver": 5,
    "urinary_bladder": 21,
    "prostate": 22,
    "brain": 90,
    "skull": 91,
}
WITHIN = 1e-9  # relative; voxels exactly at the dilation distance are included, despite rounding errors


def refine_prediction(
    prediction: ArrayLike,
    uptake: ArrayLike,
    *,
    threshold: float,
    spacing: Sequence[float],
    dilation_mm: float = DILATION_MM,
    organs: ArrayLike | None = None,
    keep: Iterable[str | int] = LEFT_ALONE,
    normal: ArrayLike | None = None,
    where: str = "",
) -> Mask:
    """Move the border of a prediction to the threshold of the case.

    An empty prediction stays empty. The dilation adds voxels whose centre is within `dilation_mm` of the centre of a
    predicted voxel.

    Args:
        prediction: `(I, J, K)`; non-zero is predicted lesion.
        uptake: `(I, J, K)`, on the native grid, in the unit of the threshold.
        threshold: The threshold of the case; voxels at or above it can be lesion.
        spacing: Voxel size in mm.
        dilation_mm: 0 for none.
        organs: `(I, J, K)` organ labels, such as those of TotalSegmentator; without them, all organs are refined.
        keep: Organs in which the prediction does not change: names of `ORGANS`, or labels.
        normal: `(I, J, K)`; non-zero is predicted normal uptake, which cannot be lesion.
        where: A case to name in errors.

    Returns:
        uint8 `(I, J, K)`, 1 in lesions, with `i` fastest in memory.

    Raises:
        SettingError: If the threshold or dilation is invalid, or an organ is unknown.
        GeometryError: If the shapes differ.
        ImageError: If a value is not a valid label, or the uptake is not real, or NaN near the prediction.
        TypeError: If an organ is neither a name nor a whole number.

    Examples:
        >>> prediction = np.zeros((7, 3, 3), np.uint8); prediction[3, 1, 1] = 1
        >>> uptake = np.zeros((7, 3, 3)); uptake[:, 1, 1] = [4, 4, 3, 3, 2.9, 4, 4]
        >>> refine_prediction(prediction, uptake, threshold=3.0, spacing=(2, 2, 2))[:, 1, 1].tolist()
        [0, 1, 1, 1, 0, 1, 0]
    """
    place = in_case(where)
    if not 0 < threshold < math.inf:
        raise SettingError(f"threshold must be a number above 0, got {threshold}{place}")
    if not 0 <= dilation_mm < math.inf:
        raise SettingError(f"dilation_mm must be at least 0, got {dilation_mm}{place}")
    size = check_spacing(spacing)
    values = as_organs(keep)
    predicted = as_labels(prediction, where=where)
    hot = as_uptake(uptake)
    others = {"uptake": hot, "organ mask": organs, "normal uptake": normal}
    for name, volume in others.items():
        if volume is not None and np.shape(volume) != predicted.shape:
            raise GeometryError(
                f"{name} and prediction are on different grids: {name} {np.shape(volume)}, prediction "
                f"{predicted.shape}{place}; the rule works on the native grid of the PET"
            )
    refined = np.zeros(predicted.shape, np.uint8, order="F")
    for box, near in _dilated(predicted, size, dilation_mm, where):
        found = hot[box]
        if np.isnan(found[near]).any():
            raise UptakeError(f"uptake is NaN beside the prediction{place}; repair the image first")
        refined[box][near & (found >= float(threshold))] = 1  # compared in the precision of the uptake
    if organs is not None and values:
        alone = np.isin(as_labels(organs, where=where), values)
        refined[alone] = predicted[alone] != 0
    if normal is not None:
        refined[as_labels(normal, where=where) != 0] = 0
    return refined


def as_organs(keep: Iterable[str | int]) -> list[int]:
    """Convert names of `ORGANS` and labels, such as `["liver", 3]` or `["5"]`, to labels.

    Raises:
        SettingError: If a name is unknown or a label is below 1.
        TypeError: If an entry is neither a name nor a whole number.
    """
    values = []
    for organ in keep:
        if isinstance(organ, str) and not organ.isdecimal():
            if organ not in ORGANS:
                raise unknown_name("organ", organ, ORGANS)
            values.append(ORGANS[organ])
        elif (label := int(organ) if isinstance(organ, str) else operator.index(organ)) < 1:
            raise SettingError(f"the label of an organ is at least 1, got {organ}")
        else:
            values.append(label)
    return values


def _dilated(
    predicted: NDArray[np.generic], spacing: Spacing, reach_mm: float, where: str
) -> Iterable[tuple[tuple[slice, ...], NDArray[np.bool_]]]:
    """For each component, yield a box and the voxels in it within reach of the component."""
    from scipy.ndimage import distance_transform_edt

    margin = np.floor(reach_mm / np.asarray(spacing) * (1 + WITHIN)).astype(int)
    for component in find_lesions(predicted, instances="components", where=where):
        low, high = component.box
        first = np.maximum(low - margin, 0)
        last = np.minimum(high + margin + 1, predicted.shape)
        outside = np.ones(last - first, dtype=bool)
        outside[tuple((component.voxels - first).T)] = False
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        if not margin.any():
            yield box, ~outside
            continue
        yield box, distance_transform_edt(outside, sampling=spacing) <= reach_mm * (1 + WITHIN)

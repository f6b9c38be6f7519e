"""The rivals of corrections, scribbles and scores: plain assemblies of scipy and cc3d.

All of them give the same voxels and numbers as clicksim. They draw the strokes in a slice with clicksim's own code, so
a row compares only the search for the slice.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clicksim.geometry import Spacing
from clicksim.simulate.scribbles.published_strokes import STROKES

Mask = NDArray[np.uint8]
Scores = Mapping[str, float]


def plain_click(prediction: Mask, truth: Mask, spacing: Spacing) -> tuple[tuple[int, ...], bool]:
    """The deepest voxel of the largest error, by a distance transform of the whole patch; and whether it is missed.

    Raises:
        ValueError: There is no error.
    """
    best: tuple[int, NDArray[Any], bool] | None = None
    for foreground, errors in _errors(prediction, truth):
        parts, count = ndimage.label(errors, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(order="K"), minlength=count + 1)[1:]
        if count and (best is None or sizes.max() > best[0]):
            best = (int(sizes.max()), parts == 1 + int(np.argmax(sizes)), foreground)
    if best is None:
        raise ValueError("there is no error to click in")
    depth = ndimage.distance_transform_edt(np.pad(best[1], 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    return tuple(int(v) for v in np.unravel_index(int(np.argmax(depth)), depth.shape)), best[2]


def plain_stroke(prediction: Mask, truth: Mask) -> tuple[bool, list[list[int]]]:
    """The longer of the strokes in the largest slices of both kinds of error, and whether it is foreground."""
    strokes = {kind: _stroke_in(_largest_slice(errors)) for kind, errors in _errors(prediction, truth)}
    foreground = len(strokes[False]) <= len(strokes[True])
    return foreground, strokes[foreground]


def _errors(prediction: Mask, truth: Mask) -> tuple[tuple[bool, NDArray[np.bool_]], ...]:
    """The missed voxels, as foreground, and the superfluous ones."""
    return (True, (truth != 0) & (prediction == 0)), (False, (prediction != 0) & (truth == 0))


def _largest_slice(errors: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The slice with the largest 8-connected part of any slice, and that part."""
    best = (0, 0, np.zeros(errors.shape[:2], dtype=bool))
    for k in range(errors.shape[2]):
        if not errors[:, :, k].any():
            continue
        parts, _ = ndimage.label(errors[:, :, k].T, np.ones((3, 3)))  # the first pixel with i fastest comes first
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > best[0]:
            best = (int(sizes.max()), k, (parts == 1 + int(np.argmax(sizes))).T)
    return best[1], best[2]


def _stroke_in(place: tuple[int, NDArray[np.bool_]]) -> list[list[int]]:
    k, mask = place
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    corner = np.maximum([rows[0] - 1, columns[0] - 1], 0)
    crop = mask[corner[0] : rows[-1] + 2, corner[1] : columns[-1] + 2]
    pixels = STROKES["centerline"](np.ascontiguousarray(crop, dtype=np.uint8), 42)
    return sorted([int(i), int(j), k] for i, j in pixels + corner)


def plain_scribbles(truth: Mask) -> tuple[list[list[int]], list[list[int]]]:
    """Voxels of strokes in five lesions, and in five parts of the shell around them."""
    lesions = cc3d.connected_components(truth, connectivity=26)
    shell = ndimage.binary_dilation(truth, iterations=2) & (truth == 0)
    around = cc3d.connected_components(np.ascontiguousarray(shell), connectivity=26)
    strokes = []
    for parts in (lesions, around):
        numbers = _by_first_voxel(parts, order="F" if parts is lesions else "C")
        chosen = random.Random(42).sample(range(len(numbers)), min(5, len(numbers)))
        boxes = ndimage.find_objects(parts)
        voxels: set[tuple[int, int, int]] = set()
        for n in chosen:
            voxels |= _fullest_stroke(parts, int(numbers[n]), boxes[int(numbers[n]) - 1])
        strokes.append([list(voxel) for voxel in sorted(voxels)])
    return strokes[0], strokes[1]


def _by_first_voxel(parts: NDArray[Any], order: Any) -> NDArray[np.int64]:
    """The numbers of the components in the order of their first voxels."""
    places = np.flatnonzero(parts.ravel(order=order))
    numbers, first = np.unique(parts.ravel(order=order)[places], return_index=True)
    return np.asarray(numbers[np.argsort(first)])


def _fullest_stroke(parts: NDArray[Any], number: int, box: tuple[slice, ...]) -> set[tuple[int, int, int]]:
    """The stroke in the slice that holds most of a component."""
    crop = parts[box] == number
    k = int(np.argmax(crop.sum(axis=(0, 1))))
    flat = np.zeros(parts.shape[:2], dtype=bool)
    flat[box[0], box[1]] = crop[:, :, k]
    return {(v[0], v[1], v[2]) for v in _stroke_in((box[2].start + k, flat))}


def plain_iv(prediction: Mask, truth: Mask, spacing: Spacing) -> Scores:
    """Dice and both volumes over the whole volume."""
    voxel_ml = math.prod(spacing) / 1000
    common = int(np.count_nonzero(prediction & truth))
    dice = 2 * common / (int(prediction.sum()) + int(truth.sum()))
    volumes = []
    for one, other in ((prediction, truth), (truth, prediction)):
        parts = cc3d.connected_components(one, connectivity=18)
        sizes = np.bincount(parts.ravel(order="K"))
        met = np.bincount(parts[other != 0], minlength=len(sizes)) > 0
        volumes.append(float(sizes[1:][~met[1:]].sum()) * voxel_ml)
    return {"dice": dice, "fpv_ml": volumes[0], "fnv_ml": volumes[1]}


def plain_scores(prediction: Mask, truth: Mask, spacing: Spacing) -> Scores:
    """The same in the joint box, and lesion F1 at an IoU of 0.1."""
    box = _joint_box(prediction, truth)
    predicted, true = (np.asfortranarray(mask[box]) for mask in (prediction, truth))
    parts = [cc3d.connected_components(mask, connectivity=18) for mask in (true, predicted)]
    sizes = [np.bincount(part.ravel(order="K")) for part in parts]
    both = (true != 0) & (predicted != 0)
    pairs, common = np.unique(np.stack([part[both] for part in parts]), axis=1, return_counts=True)
    union = sizes[0][pairs[0]] + sizes[1][pairs[1]] - common
    match = common / union >= 0.1
    tp = len(np.unique(pairs[0][match]))
    fn, fp = len(sizes[0]) - 1 - tp, len(sizes[1]) - 1 - len(np.unique(pairs[1][match]))
    voxel_ml = math.prod(spacing) / 1000
    alone = [
        float(size[1:].sum() - size[np.unique(pair)].sum()) * voxel_ml for size, pair in zip(sizes, pairs, strict=True)
    ]
    return {
        "dice": 2 * int(common.sum()) / int(sizes[0][1:].sum() + sizes[1][1:].sum()),
        "dmm": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "fpv_ml": alone[1],
        "fnv_ml": alone[0],
    }


def _joint_box(prediction: Mask, truth: Mask) -> tuple[slice, ...]:
    either = (prediction | truth) != 0
    box = []
    for axis in range(3):
        places = np.flatnonzero(either.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(places[0]) - 2, 0), int(places[-1]) + 3))
    return tuple(box)

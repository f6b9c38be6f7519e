"""Slow twins: the published rules in code so plain that a reader can check each by eye.

Whole volumes, no cropping, no compiled code of this project. Every function takes any memory order and any
real dtype; the layout of an array never changes an answer.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Voxel = tuple[int, int, int]


def components(labels: ArrayLike, connectivity: int = 26, order: str = "F") -> tuple[NDArray[np.int32], int]:
    """Number the connected components by flood fill.

    Neighbouring voxels belong together when their values are equal and not zero. Components count from 1 in
    the order in which a raster scan meets their first voxel.

    Args:
        labels: `(I, J, K)`; bool, integer or float values, compared for equality.
        connectivity: 6, 18 or 26.
        order: "F" scans with i fastest and k slowest (the published rule), "C" with k fastest.

    Returns:
        The numbers, `(I, J, K)` with 0 outside, and how many components there are.
    """
    values = np.asarray(labels)
    steps = _neighbour_steps(connectivity)
    numbers = np.zeros(values.shape, dtype=np.int32)
    count = 0
    for seed in _nonzero_voxels(values, order):
        if numbers[seed] != 0:
            continue
        count += 1
        numbers[seed] = count
        waiting = [seed]
        while waiting:
            voxel = waiting.pop()
            for step in steps:
                other = _add(voxel, step)
                if _inside(other, values.shape) and numbers[other] == 0 and values[other] == values[voxel]:
                    numbers[other] = count
                    waiting.append(other)
    return numbers, count


def squared_distance_inside(
    component_mask: ArrayLike, spacing: Sequence[float] = (1, 1, 1), border_is_outside: bool = False
) -> NDArray[np.float64]:
    """Squared distance from each voxel of a mask to the nearest voxel outside it, by trying all pairs.

    Voxels outside the mask get 0. Where there is no outside voxel at all, voxels inside get infinity.

    Args:
        component_mask: `(I, J, K)`, non-zero inside.
        spacing: Voxel size along `(I, J, K)`; the result has its unit, squared.
        border_is_outside: Put one layer of outside voxels around the volume first.
    """
    mask = np.asarray(component_mask) != 0
    padded = np.pad(mask, 1) if border_is_outside else mask
    scale = np.asarray(spacing, dtype=np.float64)
    outside = np.argwhere(~padded)
    squared = np.zeros(padded.shape, dtype=np.float64)
    for voxel in np.argwhere(padded):
        squared[tuple(voxel)] = min(np.sum(((outside - voxel) * scale) ** 2, axis=1), default=np.inf)
    return squared[1:-1, 1:-1, 1:-1] if border_is_outside else squared


def deepest_voxel(
    component_mask: ArrayLike, spacing: Sequence[float] = (1, 1, 1), border_is_outside: bool = False
) -> Voxel:
    """The voxel furthest from the outside; of equally deep ones the lowest (i, j, k), compared i first.

    A mask that fills the volume is equally deep everywhere: its first voxel. Arguments as in
    `squared_distance_inside`; an empty mask raises `ValueError`.
    """
    squared = squared_distance_inside(component_mask, spacing, border_is_outside)
    if not np.any(squared > 0):
        raise ValueError("an empty mask has no deepest voxel")
    return _first_maximum(squared)


def percentile_outside(uptake: ArrayLike, label: ArrayLike, q: float) -> float:
    """Linearly interpolated percentile, in float64, of the uptake where the label is 0; NaN for nowhere."""
    values = np.asarray(uptake).astype(np.float64)[np.asarray(label) == 0]
    return float(np.percentile(values, q)) if values.size else float("nan")


def autopet_iv_1(
    label: ArrayLike,
    uptake: ArrayLike | None = None,
    *,
    n_foreground: int = 10,
    n_background: int = 10,
    seed: int = 42,
    center_offset: int | None = None,
    edge_offset: int | None = None,
) -> dict[str, list[list[int]]]:
    """The clicks of autoPET IV: deepest voxels of drawn components first, then drawn voxels of the same ones.

    One NumPy stream serves both lists, foreground first. Draws from it, in order, and how the text is read:

    * An empty label draws nothing. Any other label draws one permutation of its components, also when
      `n_foreground` is 0 (the formula is `permutation(n)[:min(budget, n)]`), which shifts the background.
      The same holds for the hot components, where no later draw could show it.
    * Centre clicks draw nothing; each fill-up click draws one `randint`.
    * A component that fills the whole volume has no depth and no edge, so it qualifies for no click (the
      published code never returns). Where no component qualifies the list stays short, that is, empty. A
      label of several components that fill the volume together is an ordinary label.
    * Without an uptake, or with no voxel above the threshold, the background is empty.
    * A drawn background voxel inside a lesion raises `AssertionError`. The voxel is judged as drawn, before
      its offset.
    * Offsets come from a second stream, `random.Random(seed)`: three `randint(0, offset)` for i, j, k per
      click, in the order in which clicks are placed. An offset of None draws nothing, one of 0 draws.

    Args:
        label: `(I, J, K)`, non-zero in lesions; touching voxels of unequal values are separate components.
        uptake: `(I, J, K)`, finite.
        n_foreground: Foreground clicks wanted.
        n_background: Background clicks wanted.
        seed: Seed of both streams; the published files have 42.
        center_offset: Largest shift of a centre click along each axis, in voxels.
        edge_offset: Largest shift of a fill-up click along each axis, in voxels.

    Returns:
        `{"tumor": [[i, j, k], ...], "background": [[i, j, k], ...]}`, in the order in which they are placed.
    """
    label = np.asarray(label)
    lesion = label != 0
    numpy_stream = np.random.RandomState(seed)
    python_stream = random.Random(seed)

    def shifted(click: Voxel, offset: int | None, valid: NDArray[np.bool_]) -> Voxel:
        """Step 9: one attempt to move the click; where it is not valid the click stays."""
        if offset is None:
            return click
        i, j, k = (python_stream.randint(0, offset) for _ in range(3))
        candidate = _add(click, (i, j, k))
        return candidate if _inside(candidate, valid.shape) and valid[candidate] else click

    tumor: list[Voxel] = []
    if lesion.any():
        numbers, count = components(label)
        order = numpy_stream.permutation(count)[:n_foreground] + 1
        chosen = [number for number in order if not np.all(numbers == number)]
        edges = {}
        for number in chosen:
            depth = _depth(numbers == number)
            tumor.append(shifted(_first_maximum(depth), center_offset, lesion))
            edges[number] = depth == depth[depth > 0].min()
        while chosen and len(tumor) < n_foreground:
            for number in chosen:
                if len(tumor) == n_foreground:
                    break
                tumor.append(shifted(_draw(edges[number], numpy_stream), edge_offset, lesion))

    background: list[Voxel] = []
    if uptake is not None and not lesion.all():
        threshold = percentile_outside(uptake, label, 99.75)
        hot = (np.asarray(uptake).astype(np.float64) > threshold) & ~lesion
        numbers, count = components(hot)
        chosen = list(numpy_stream.permutation(count)[:n_background] + 1)
        has_inner_voxel = {}
        for number in chosen:
            depth = _depth(numbers == number)
            background.append(shifted(_first_maximum(depth), center_offset, ~lesion))
            has_inner_voxel[number] = depth.max() > 1
        while chosen and len(background) < n_background:
            for number in chosen:
                if len(background) == n_background:
                    break
                component = numbers == number
                candidates = component if has_inner_voxel[number] else ~component
                drawn = _draw(candidates, numpy_stream)
                if lesion[drawn]:
                    raise AssertionError(f"the background click {drawn} lies in a lesion")
                background.append(shifted(drawn, edge_offset, ~lesion))

    return {"tumor": [list(click) for click in tumor], "background": [list(click) for click in background]}


def longitudinal_ct_1(label: ArrayLike, *, n: int = 2, seed: int = 42) -> dict[str, list[list[int]]]:
    """The clicks of the longitudinal CT task: as `autopet_iv_1` with a budget of two and no background."""
    return autopet_iv_1(label, n_foreground=n, n_background=0, seed=seed)


def _depth(component: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the nearest voxel outside, in voxels; the border of the volume is not outside."""
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(component)
    return depth


def _first_maximum(values: NDArray[Any]) -> Voxel:
    """Where the largest value stands; of equal ones the first in C order, whatever the memory order."""
    i, j, k = np.unravel_index(np.argmax(values), values.shape)
    return (int(i), int(j), int(k))


def _draw(mask: NDArray[np.bool_], stream: np.random.RandomState) -> Voxel:
    """One voxel of a mask, its voxels listed in C order, by one `randint`."""
    flat = np.flatnonzero(mask)
    i, j, k = np.unravel_index(flat[stream.randint(0, len(flat))], mask.shape)
    return (int(i), int(j), int(k))


def _nonzero_voxels(values: NDArray[Any], order: str) -> list[Voxel]:
    """The voxels of non-zero value in raster order: "C" with k fastest, "F" with i fastest."""
    if order == "C":
        return [(int(i), int(j), int(k)) for i, j, k in np.argwhere(values != 0)]
    if order == "F":
        return [(int(i), int(j), int(k)) for k, j, i in np.argwhere(values.T != 0)]
    raise ValueError(f"order must be 'C' or 'F', got {order!r}")


def _neighbour_steps(connectivity: int) -> list[Voxel]:
    """Steps to the neighbours: 6 share a face, 18 at least an edge, 26 at least a corner."""
    axes = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))
    return [(i, j, k) for i, j, k in steps if 1 <= abs(i) + abs(j) + abs(k) <= axes]


def _add(voxel: Voxel, step: Voxel) -> Voxel:
    return (voxel[0] + step[0], voxel[1] + step[1], voxel[2] + step[2])


def _inside(voxel: Voxel, shape: Sequence[int]) -> bool:
    return all(0 <= v < n for v, n in zip(voxel, shape, strict=True))

"""The rivals of clicksim: the published approach, and the best plain assembly of well-known libraries.

Both place the clicks of `autopet-iv@1` and give the same voxels. The published approach works on whole volumes. It
computes one distance transform of the whole volume for each component, and one more for each extra click. The plain
assembly is what a good engineer writes with the available libraries: fast labelling, boxes, distances in the box plus
one voxel, and a partition instead of a sort. It uses the fastest of several ways.
"""

from collections.abc import Callable
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Voxel = list[int]
Clicks = dict[str, list[Voxel]]
Distance = Callable[[Array], Array]

PERCENTILE = 99.75
BUDGET = 10


def whole_volume(labels: Array, uptake: Array, *, seed: int = 42) -> Clicks:
    """The published approach, in numpy and scipy."""
    stream = np.random.RandomState(seed)
    tumor = _deal_whole(label(labels), stream, _edge)
    hot = label(hot_by_percentile(labels, uptake))
    return {"tumor": tumor, "background": _deal_whole(hot, stream, _stray)}


def plain_assembly(labels: Array, uptake: Array, *, distance: Distance | None = None, seed: int = 42) -> Clicks:
    """The best plain assembly; labels and uptake both in Fortran order.

    Args:
        labels: `(I, J, K)`.
        uptake: `(I, J, K)`, float32.
        distance: `by_edt` or `by_scipy`.
        seed: Of all draws.
    """
    depth = distance or by_edt
    stream = np.random.RandomState(seed)
    tumor = _deal_boxes(labels, stream, depth, _edge)
    background = _deal_boxes(hot_by_partition(labels, uptake), stream, depth, _stray)
    return {"tumor": tumor, "background": background}


def check_equal(ours: Any, theirs: Any, what: str) -> None:
    """Check that a rival gives the same prompts.

    Raises:
        RuntimeError: They differ.
    """
    if ours != theirs:
        raise RuntimeError(f"clicksim and its rival differ ({what}): {ours} and {theirs}")


def label(mask: Array) -> Array:
    """26-connected components, numbered from 1."""
    numbers: Array = cc3d.connected_components(mask, connectivity=26)
    return numbers


def whole_depth(component: Array) -> Array:
    """The distance transform of a whole volume, in float64."""
    from scipy.ndimage import distance_transform_edt

    depth: Array = distance_transform_edt(component)
    return depth


def by_edt(component: Array) -> Array:
    """Squared distance in a box, by edt."""
    import edt

    squared: Array = edt.edtsq(component, black_border=False, parallel=1)
    return squared


def by_scipy(component: Array) -> Array:
    """Distance in a box, by scipy."""
    return whole_depth(component)


def hot_by_percentile(labels: Array, uptake: Array) -> Array:
    """Voxels above the percentile, by `numpy.percentile` in float64 as published."""
    values = uptake.astype(np.float64)
    outside = labels == 0
    return (values > np.percentile(values[outside], PERCENTILE)) & outside


def hot_by_partition(labels: Array, uptake: Array) -> Array:
    """The same voxels by a partition of the float32 values, along the memory of the volumes."""
    outside = labels == 0
    values = uptake.ravel(order="K")[outside.ravel(order="K")]
    position = (len(values) - 1) * (PERCENTILE / 100)
    rank = int(position)
    values.partition(rank)  # one rank and a minimum: many times faster here than two ranks at once
    lower32 = values[rank]
    upper32 = values[rank + 1 :].min() if rank + 1 < len(values) else lower32
    lower, upper = float(lower32), float(upper32)
    step, fraction = upper - lower, position - rank
    threshold = lower + step * fraction if fraction < 0.5 else upper - step * (1 - fraction)
    # no value lies between two neighbours in rank, so the comparison can stay in float32
    return (uptake > (lower32 if threshold < upper else upper32)) & outside


def _deal(
    count: int, stream: np.random.RandomState, centre: Callable[[int], Voxel], extra: Callable[[int], Voxel]
) -> list[Voxel]:
    """Centres of drawn components, then extra clicks in the same order until the budget is spent."""
    order = (stream.permutation(count)[:BUDGET] + 1).tolist()
    clicks = [centre(number) for number in order]
    while order and len(clicks) < BUDGET:
        clicks.append(extra(order[len(clicks) % len(order)]))
    return clicks


def _deal_whole(
    numbers: Array, stream: np.random.RandomState, candidates: Callable[[Array, Array], Array]
) -> list[Voxel]:
    """Whole volumes throughout; each extra click computes its distance transform anew, as published."""

    def centre(number: int) -> Voxel:
        return _voxel(int(np.argmax(whole_depth(numbers == number))), numbers.shape)

    def extra(number: int) -> Voxel:
        component = numbers == number
        places = np.flatnonzero(candidates(component, whole_depth(component)))
        return _voxel(places[stream.randint(0, len(places))], numbers.shape)

    return _deal(int(numbers.max()), stream, centre, extra)


def _deal_boxes(
    mask: Array, stream: np.random.RandomState, distance: Distance, candidates: Callable[[Array, Array], Array]
) -> list[Voxel]:
    """Boxes throughout; depths are kept from the first click on a component to the next."""
    from scipy.ndimage import find_objects

    numbers, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    boxes = [box[::-1] for box in find_objects(numbers.T)]  # along memory; four times faster than cc3d.statistics
    known: dict[int, tuple[Array, Array, Array]] = {}

    def look(number: int) -> tuple[Array, Array, Array]:
        if number not in known:
            grown = [slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[number - 1]]
            component = numbers[tuple(grown)] == number
            known[number] = component, distance(component), np.array([s.start for s in grown])
        return known[number]

    def centre(number: int) -> Voxel:
        component, depth, first = look(number)
        return _moved(int(np.argmax(depth)), component.shape, first)

    def extra(number: int) -> Voxel:
        component, depth, first = look(number)
        chosen = candidates(component, depth)
        if chosen[component].any():
            places = np.flatnonzero(chosen)
            return _moved(places[stream.randint(0, len(places))], component.shape, first)
        places = np.flatnonzero(numbers != number)  # the published fault: anywhere outside the component
        return _voxel(places[stream.randint(0, len(places))], numbers.shape)

    return _deal(count, stream, centre, extra)


def _edge(component: Array, depth: Array) -> Array:
    """Where an extra foreground click may fall: the voxels of least depth."""
    return (depth == depth[component].min()) & component


def _stray(component: Array, depth: Array) -> Array:
    """Where an extra background click may fall: in a component with an inside, or anywhere outside a thin one."""
    return component if depth.max() > 1 else ~component


def _voxel(place: int, shape: tuple[int, ...]) -> Voxel:
    return [int(v) for v in np.unravel_index(place, shape)]


def _moved(place: int, shape: tuple[int, ...], first: Array) -> Voxel:
    return [int(v) for v in np.array(np.unravel_index(place, shape)) + first]

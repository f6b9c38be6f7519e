"""The rule behind the published clicks (autoPET IV), draw by draw.

Source: `simulate_clicks.py` of lab-midas/autoPETCTIV. Distances are in voxels, and the border of the volume
is not background. Components have equal values under 26-connectivity. All draws of a case come from one
`RandomState(seed)` in a fixed order: choice of lesions, extra lesion clicks, choice of hot components, extra
background clicks. Requested offsets come from `random.Random(seed)`; the published ones were unseeded.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ReferenceAbortError, in_case
from clicksim.lesions import Component, Components, find_lesions
from clicksim.lesions.hot import hot_voxels, join_voxels
from clicksim.prompts import Click
from clicksim.prompts.kinds import Voxel, as_voxel

Ints = NDArray[np.int64]
Draw = Callable[[Component], Voxel]


def published_clicks(
    mask: NDArray[Any], uptake: NDArray[Any] | None, settings: Mapping[str, Any], *, seed: int, where: str
) -> tuple[list[Click], list[str]]:
    """Place foreground clicks, then background clicks, as the published script does.

    An empty mask draws nothing for the foreground. Without an uptake, or if no background clicks are requested, there
    is no background. If the script would never end, because there is no component to click or one fills the volume,
    the list is empty.

    Returns:
        Clicks in their order, and notes for the user.

    Raises:
        ReferenceAbortError: If an extra background click is drawn on a lesion voxel, where the script aborts.
    """
    if settings.get("per_lesion"):
        lesions = find_lesions(mask, instances="labels", where=where)
        return [Click(_centre(lesion), True, lesion.id) for lesion in lesions], []
    stream, offsets = np.random.RandomState(seed), random.Random(seed)
    lesions = find_lesions(mask, instances="touching", where=where)
    labels = np.asarray(mask)
    moves = _Moves(offsets, settings["center_offset"], settings["edge_offset"])
    foreground = _place(
        lesions,
        settings["n_foreground"],
        stream,
        _rim_draw(stream),
        moves,
        lambda v: bool(labels[v] != 0),
        True,
    )
    if settings["n_background"] == 0:
        return foreground, []
    if uptake is None:
        return foreground, ["no uptake (PET) given: foreground clicks only"]
    hot = hot_voxels(uptake, lesions, percentile=settings["percentile"], where=where)
    background = _place(
        join_voxels(*hot),
        settings["n_background"],
        stream,
        _stray_draw(stream, labels, where),
        moves,
        lambda v: bool(labels[v] == 0),
        False,
    )
    notes = [] if background else ["no uptake above the threshold outside the lesions: no background clicks"]
    return foreground + background, notes


class _Moves:
    """Offsets of centre and edge clicks: 0 to the given number of voxels along each axis, one attempt."""

    def __init__(self, draws: random.Random, center: int, edge: int) -> None:
        self.draws, self.center, self.edge = draws, center, edge

    def __call__(self, voxel: Voxel, reach: int, shape: Sequence[int], valid: Callable[[Voxel], bool]) -> Voxel:
        if reach == 0:
            return voxel
        i, j, k = (v + self.draws.randint(0, reach) for v in voxel)
        inside = i < shape[0] and j < shape[1] and k < shape[2]
        return (i, j, k) if inside and valid((i, j, k)) else voxel


def _place(
    components: Components,
    budget: int,
    stream: np.random.RandomState,
    extra: Draw,
    moves: _Moves,
    valid: Callable[[Voxel], bool],
    foreground: bool,
) -> list[Click]:
    """Click the centres of randomly chosen components, then add clicks in the same order until the budget is spent."""
    shape = components.memory.shape
    if not len(components) or components.sizes[0] == math.prod(shape):
        return []
    chosen = [components[n] for n in stream.permutation(len(components))[:budget]]
    clicks = [
        Click(moves(_centre(component), moves.center, shape, valid), foreground, component.id) for component in chosen
    ]
    while len(clicks) < budget:
        component = chosen[len(clicks) % len(chosen)]
        clicks.append(Click(moves(extra(component), moves.edge, shape, valid), foreground, component.id))
    return clicks


def _centre(component: Component) -> Voxel:
    """The voxel farthest from the outside, in voxel units; if several, the first in C order."""
    voxel, _ = component.deepest(None, closed=False)
    return voxel


def _rim_draw(stream: np.random.RandomState) -> Draw:
    """Draw a voxel of least depth, with replacement."""
    rims: dict[int, Ints] = {}

    def draw(component: Component) -> Voxel:
        if component.id not in rims:
            rims[component.id] = component.rim(closed=False)
        rim = rims[component.id]
        return as_voxel(rim[stream.randint(0, len(rim))])

    return draw


def _stray_draw(stream: np.random.RandomState, labels: NDArray[Any], where: str) -> Draw:
    """The published boundary test for hot components, which finds no boundary.

    If a component has voxels of different depths, any of its voxels may be drawn. If all have the same depth, any
    voxel of the volume outside the component may be drawn, and the script aborts if that is a lesion voxel.
    """
    candidates: dict[int, tuple[bool, Ints]] = {}
    shape = labels.shape

    def draw(component: Component) -> Voxel:
        if component.id not in candidates:
            voxels = component.voxels
            candidates[component.id] = (len(component.rim(closed=False)) < len(voxels), voxels)
        thick, voxels = candidates[component.id]
        if thick:
            return as_voxel(voxels[stream.randint(0, len(voxels))])
        members = np.ravel_multi_index(tuple(voxels.T), shape)
        nth = stream.randint(0, labels.size - len(members))
        # the nth voxel outside: members with at most n outside voxels before them precede it
        nth += int(np.searchsorted(members - np.arange(len(members)), nth, side="right"))
        voxel = as_voxel(np.array(np.unravel_index(nth, shape)))
        if labels[voxel] != 0:
            raise ReferenceAbortError(
                f"the published script draws the extra background click {voxel} in a lesion and stops"
                f"{in_case(where)}; use autopet-iv@2, or fewer background clicks"
            )
        return voxel

    return draw

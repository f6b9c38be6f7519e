"""The rule behind the published scribbles (autoPET V): from a label, and from a prediction's errors.

Source: the scripts in `interactive/` of lab-midas/autoPETV. Strokes are drawn in one slice across the last axis.
From a label, five components are chosen by `random.Random(42)`; each gives one stroke in the slice with most
of its voxels. The background is the shell added by two steps of 6-neighbour dilation. From errors, the largest
8-connected part of any slice of the false positives and of the false negatives gives one stroke each; the one that
is not shorter is kept.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import unknown_name
from clicksim.geometry.arrays import as_labels
from clicksim.kernels.voxel_runs import join_indices
from clicksim.lesions import Component, Components, connect, find_lesions
from clicksim.lesions.hot import lesion_indices, without
from clicksim.prompts import Scribble
from clicksim.prompts.kinds import as_path
from clicksim.simulate.error_regions import ErrorRuns
from clicksim.simulate.scribbles.published_strokes import STROKES, Pixels, fullest_slice

Ints = NDArray[np.int64]

COMPONENT_SEED = 42  # the published seed for choosing components, for any seed of the strokes
SHELL_STEPS = 2


def published_scribbles(mask: NDArray[Any], settings: Mapping[str, Any], *, seed: int, where: str) -> list[Scribble]:
    """Draw one foreground and one background scribble, each with the voxels of all its strokes in the order x, y, z.

    The published files do not separate strokes. The label is first cast to eight bits, as published. An empty label
    gives no scribble.
    """
    labels = as_labels(mask, where=where).astype(np.uint8, order="K")
    lesions = find_lesions(labels, instances="touching", where=where)
    if not len(lesions):
        return []
    scribbles = []
    for components, foreground in ((lesions, True), (shell(lesions), False)):
        paths = [_stroke(component, settings["strategy"], seed) for component in _choose(components, settings)]
        if paths:
            voxels = np.unique(np.concatenate(paths), axis=0)
            scribbles.append(Scribble(as_path(voxels), foreground))
    return scribbles


def published_correction(
    errors: ErrorRuns, settings: Mapping[str, Any], *, seed: int, number: int
) -> tuple[list[Scribble], list[str]]:
    """Draw the scribble that the published loop adds in a round; if the loop fails, return none and a note."""
    if not errors.truth.any():
        return [], ["no lesion: the published loop adds no scribble"]
    strokes = {}
    for foreground in (False, True):
        region = largest_in_slice(errors, missed=foreground)
        if region is None:
            kind = "false negatives" if foreground else "false positives"
            return [], [f"no {kind}: the published loop fails here and adds no scribble"]
        strokes[foreground] = _stroke(region, settings["strategy"], seed)
    foreground = len(strokes[False]) <= len(strokes[True])
    voxels = strokes[foreground]
    order = np.lexsort(voxels.T[::-1])
    return [Scribble(as_path(voxels[order]), foreground, round=number)], []


def largest_in_slice(errors: ErrorRuns, *, missed: bool) -> Component | None:
    """Find the largest 8-connected part of any slice across the last axis, of the false negatives or positives.

    Among equally large parts, the first slice wins; within a slice, the part whose first pixel comes first with i
    fastest.
    """
    memory, starts, stops = errors.of(missed=missed)
    parts = connect(memory, starts, stops, np.ones_like(starts), 8)
    return parts[int(np.argmax(parts.sizes))] if len(parts) else None


def shell(lesions: Components) -> Components:
    """The components of the shell added by two dilation steps around lesions, numbered in C order as published."""
    memory = lesions.memory
    indices = _dilated(lesions, SHELL_STEPS)
    starts, stops = join_indices(without(indices, lesion_indices(lesions, memory)), memory.lengths[2])
    return connect(memory, starts, stops, np.ones_like(starts), 26, order="C")


def _choose(components: Components, settings: Mapping[str, Any]) -> list[Component]:
    count = len(components)
    chosen = random.Random(COMPONENT_SEED).sample(range(count), min(settings["n_components"], count))
    return [components[n] for n in chosen]


def _stroke(component: Component, strategy: str, seed: int) -> Ints:
    """Draw a stroke, `(n, 3)` voxels, in the first slice with most voxels of the component."""
    k, flat = fullest_slice(component, 2)
    # cropping with a margin of one pixel (if the image has one) changes no stroke
    low = np.maximum(flat.min(axis=0) - 1, 0)
    high = np.minimum(flat.max(axis=0) + 2, component.memory.shape[:2])
    mask = np.zeros(high - low, dtype=np.uint8)
    mask[tuple((flat - low).T)] = 1
    if strategy not in STROKES:
        raise unknown_name("strategy of the published rule", strategy, STROKES)
    pixels: Pixels = STROKES[strategy](mask, seed)
    return np.column_stack([pixels + low, np.full(len(pixels), k)])


def _dilated(lesions: Components, steps: int) -> Ints:
    """Sorted flat indices of all voxels within a city-block distance of the lesions.

    A run becomes one interval in each neighbouring row, shorter by the distance of that row.
    """
    slow, middle, row = (int(n) for n in lesions.memory.lengths)
    line, first = np.divmod(lesions.starts, row)
    last = first + lesions.stops - lesions.starts
    a, b = np.divmod(line, middle)
    intervals = []
    for da in range(-steps, steps + 1):
        for db in range(abs(da) - steps, steps - abs(da) + 1):
            reach = steps - abs(da) - abs(db)
            inside = (a + da >= 0) & (a + da < slow) & (b + db >= 0) & (b + db < middle)
            origin = ((a + da) * middle + b + db)[inside] * row
            begin = origin + np.maximum(first[inside] - reach, 0)
            end = origin + np.minimum(last[inside] + reach, row)
            intervals.append(np.stack([begin, end]))
    begin, end = np.concatenate(intervals, axis=1)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    fresh = np.maximum(begin, np.concatenate([[0], end[:-1]]))  # the part that earlier intervals do not cover
    length = np.maximum(end - fresh, 0)
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(fresh, length) + within

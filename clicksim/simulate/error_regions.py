"""Errors of a prediction: runs of false positives and false negatives, and the kind of each error region."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.geometry.arrays import Memory, check_pair, flat_view
from clicksim.kernels import voxel_runs as kernels
from clicksim.kernels.overlaps import overlap_runs
from clicksim.lesions import Component, Components, connect, flat_in, scan_labels

Ints = NDArray[np.int64]

FALSE_POSITIVE, FALSE_NEGATIVE = 1, 2


@dataclass(frozen=True)
class ErrorRuns:
    """Runs of wrong voxels, sorted by start.

    Attributes:
        prediction, truth: Both masks, flat, in one memory order.
        memory: Layout of the masks and the runs: that of the truth.
        starts, stops: The runs.
        kinds: `FALSE_POSITIVE` or `FALSE_NEGATIVE` of each.
    """

    prediction: NDArray[Any]
    truth: NDArray[Any]
    memory: Memory
    starts: Ints
    stops: Ints
    kinds: Ints

    def of(self, *, missed: bool) -> tuple[Memory, Ints, Ints]:
        """Layout and runs of the false negatives (missed) or of the false positives, with k slow and i fast.

        So a slice across the last axis is a block of rows.
        """
        keep = self.kinds == (FALSE_NEGATIVE if missed else FALSE_POSITIVE)
        starts, stops = self.starts[keep], self.stops[keep]
        memory = Memory(self.memory.shape, (2, 1, 0))
        if memory != self.memory:
            indices = memory.indices(self.memory.coordinates(kernels.expand_runs(starts, stops)))
            starts, stops = kernels.join_indices(np.sort(indices), memory.lengths[2])
        return memory, starts, stops


@dataclass(frozen=True)
class ErrorRegions:
    """The 26-connected components of the false positives and of the false negatives.

    Attributes:
        runs: The wrong voxels.
        components: Components of both kinds, numbered together in the order k, j, i of their first voxels.
    """

    runs: ErrorRuns
    components: Components

    @cached_property
    def missed(self) -> NDArray[np.bool_]:
        """`(n,)`, True for regions of false negatives."""
        first = self.components.starts[self.components.bounds[:-1]]
        return np.asarray(self.runs.kinds[np.searchsorted(self.runs.starts, first)] == FALSE_NEGATIVE)

    @cached_property
    def kinds(self) -> list[str]:
        """The kind of each region, from the overlaps of whole lesions and whole predicted components."""
        lesions = _Parts.of(self.runs.truth, self.runs.memory, instances=True)
        predicted = _Parts.of(self.runs.prediction, self.runs.memory, instances=False)
        shared = lesions.shared(predicted)
        found = np.isin(np.arange(lesions.count), shared[:, 0])
        joined = np.bincount(shared[:, 1], minlength=predicted.count)
        regions = _Parts.of_components(self.components)
        kinds = [""] * regions.count
        for region, lesion in regions.shared(lesions):  # a region of false positives overlaps no lesion
            if kinds[region] != "missed":
                kinds[region] = "under" if found[lesion] else "missed"
        for region, component in regions.shared(predicted):
            kinds[region] = ("false", "over", "merged")[min(joined[component], 2)]
        return kinds


@dataclass(frozen=True)
class _Parts:
    """The parts of a mask: its runs by start, and the part of each run, from 0."""

    starts: Ints
    stops: Ints
    places: Ints
    count: int

    @classmethod
    def of(cls, flat: NDArray[Any], memory: Memory, *, instances: bool) -> "_Parts":
        """The 26-connected components of a mask, or its distinct values if `instances` and there are several."""
        starts, stops, values = scan_labels(flat, memory)
        if np.any(values != values[:1]):
            if instances:
                ids, places = np.unique(values, return_inverse=True)
                return cls(starts, stops, places, len(ids))
            starts, stops, values = scan_labels((flat != 0).view(np.uint8), memory)
        return cls.of_components(connect(memory, starts, stops, values, 26))

    @classmethod
    def of_components(cls, components: Components) -> "_Parts":
        return cls(*components.runs_in_order, len(components))

    def shared(self, other: "_Parts") -> Ints:
        """`(n, 2)` unique pairs of parts that share a voxel."""
        found = overlap_runs(self.starts, self.stops, other.starts, other.stops)
        pairs = np.column_stack([self.places[found[:, 0]], other.places[found[:, 1]]])
        return np.asarray(np.unique(pairs, axis=0)) if len(pairs) else pairs


def find_errors(prediction: ArrayLike, truth: ArrayLike, *, where: str = "") -> ErrorRuns:
    """Find the wrong voxels of a prediction, in one pass over both masks that skips equal words.

    Args:
        prediction: `(I, J, K)`; non-zero is predicted lesion.
        truth: `(I, J, K)`; non-zero is lesion.
        where: A case to name in errors.

    Raises:
        GeometryError: If the shapes differ or do not have three axes.
        ImageError: If a value is not a valid label.
    """
    predicted, true = check_pair(prediction, truth, where=where)
    two, memory = flat_view(true)
    one = flat_in(predicted, memory)
    per_word = 8 // one.itemsize
    whole = one.size // per_word * per_word
    words = [flat[:whole].view(np.uint64) for flat in (one, two)]
    starts, stops, kinds = kernels.find_error_runs(one, two, *words, per_word, memory.lengths[2])
    return ErrorRuns(one, two, memory, starts, stops, kinds)


@dataclass(frozen=True)
class Region:
    """One error region.

    Attributes:
        regions: All error regions.
        place: Place of this one among them, from 0.
    """

    regions: ErrorRegions
    place: int

    @cached_property
    def component(self) -> Component:
        """The voxels of the region; the id counts all regions in the order k, j, i of their first voxel."""
        return self.regions.components[self.place]

    @property
    def key(self) -> int:
        """The place of its first voxel."""
        return int(self.regions.components.keys[self.place])

    @property
    def was_asked(self) -> bool:
        """Whether its component was used."""
        return "component" in vars(self)

    @property
    def size(self) -> int:
        """Voxels."""
        return int(self.regions.components.sizes[self.place])

    @property
    def foreground(self) -> bool:
        """True for a missed lesion part, which needs a foreground prompt."""
        return bool(self.regions.missed[self.place])

    @property
    def kind(self) -> str:
        """The kind of error.

        `missed` (it contains a lesion without any overlap), `under` (the missing part of a lesion that was found),
        `false` (a predicted component without any overlap), `over` (what a prediction adds to a lesion), or
        `merged` (the same, of a predicted component that joins several lesions).
        """
        return self.regions.kinds[self.place]


class KeptRegions:
    """Measurements of a case's error regions, kept between rounds for regions that do not change.

    A region is recognised only if all its voxels are the same; changed regions are forgotten. So keeping measurements
    never changes a result. It takes at most 8 bytes for each voxel of the regions that were used, and 16 for each run.
    """

    def __init__(self) -> None:
        self._components: list[Component] = []

    def meet(self, regions: Sequence[Region]) -> None:
        """Pass the measurements to equal regions of the next prediction."""
        for component in self._components:
            place = bisect_left(regions, component.key, key=lambda region: region.key)  # regions are in that order
            if place < len(regions) and regions[place].key == component.key:
                same = regions[place].component
                if same.same_voxels(component):
                    same.answers.update(component.answers)

    def keep(self, regions: Sequence[Region]) -> None:
        """Keep only the measurements of these regions."""
        asked = [region.component for region in regions if region.was_asked]
        # without voxel lists; copy the runs, because they are a view into the runs of all regions
        self._components = [
            replace(component, starts=component.starts.copy(), stops=component.stops.copy())
            for component in asked
            if component.answers
        ]


def find_regions(
    prediction: ArrayLike, truth: ArrayLike, *, errors: Sequence[str] = (), where: str = ""
) -> list[Region]:
    """Find the error regions of a prediction, in the order k, j, i of their first voxels.

    Args:
        prediction, truth: `(I, J, K)`; a truth of more than one distinct value is an instance map.
        errors: Kinds to return; empty for all.
        where: A case to name in errors.
    """
    runs = find_errors(prediction, truth, where=where)
    found = ErrorRegions(runs, connect(runs.memory, runs.starts, runs.stops, runs.kinds, 26))
    regions = [Region(found, n) for n in range(len(found.components))]
    return [region for region in regions if region.kind in errors] if errors else regions

"""Components as runs of voxels: sizes, boxes, depths and rims. Each value is computed once, on first use."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Spacing
from clicksim.geometry.arrays import Memory
from clicksim.kernels import depth as depth_kernels
from clicksim.kernels import voxel_runs as run_kernels

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Answer = TypeVar("Answer")

EQUAL_DEPTH = 1e-9  # relative; absorbs the rounding of sums of squares in a different order


@dataclass(frozen=True)
class Components:
    """The components of a volume, each as runs in memory order.

    Attributes:
        memory: Layout that the runs refer to.
        ids: `(n,)` the id of each component: its number from 1, or the stored label of an instance.
        keys: `(n,)` the keys of the random streams: the place of the component's first voxel in the order k, j, i, or
            the stored label. So a key does not depend on other components.
        starts, stops: Runs of all components, component by component.
        bounds: `(n + 1,)`, where each component begins and ends among the runs.
    """

    memory: Memory
    ids: Ints
    keys: Ints
    starts: Ints
    stops: Ints
    bounds: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator["Component"]:
        return (self[n] for n in range(len(self)))

    def __getitem__(self, n: int) -> "Component":
        runs = slice(int(self.bounds[n]), int(self.bounds[n + 1]))
        _, low, high, _ = self.measures
        return Component(
            self.memory, int(self.ids[n]), int(self.keys[n]), self.starts[runs], self.stops[runs], low[n], high[n]
        )

    @property
    def sizes(self) -> Ints:
        """`(n,)` voxels of each component."""
        sizes, _, _, _ = self.measures
        return sizes

    @property
    def boxes(self) -> tuple[Ints, Ints]:
        """`(n, 3)` first and `(n, 3)` last voxel `i, j, k` of each component's box."""
        _, low, high, _ = self.measures
        back = np.argsort(self.memory.axes)
        return low[:, back], high[:, back]

    @property
    def centroids(self) -> Floats:
        """`(n, 3)` mean voxel `i, j, k`; a whole number is the centre of a voxel."""
        sizes, _, _, sums = self.measures
        return (sums / sizes[:, None])[:, np.argsort(self.memory.axes)]

    @cached_property
    def numbers(self) -> Ints:
        """The place of the component of each run, from 0."""
        return np.repeat(np.arange(len(self)), np.diff(self.bounds))

    @cached_property
    def runs_in_order(self) -> tuple[Ints, Ints, Ints]:
        """Starts and stops of all runs in memory order, and the place of the component of each, from 0."""
        order = np.argsort(self.starts)
        return self.starts[order], self.stops[order], self.numbers[order]

    @cached_property
    def measures(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Sizes, boxes and coordinate sums along (slow, middle, fast)."""
        _, middle, fast = self.memory.lengths
        measured: tuple[Ints, Ints, Ints, Floats] = run_kernels.measure_runs(
            self.starts, self.stops, self.numbers, len(self), middle, fast
        )
        return measured

    def select(self, keep: NDArray[np.bool_] | Ints) -> "Components":
        """Select some components, in their order; ids do not change."""
        places = np.arange(len(self))[keep]
        runs = np.concatenate([np.arange(self.bounds[n], self.bounds[n + 1]) for n in places] or [places])
        bounds = np.concatenate([[0], np.cumsum(np.diff(self.bounds)[places])])
        return Components(self.memory, self.ids[places], self.keys[places], self.starts[runs], self.stops[runs], bounds)


@dataclass(frozen=True)
class Component:
    """One component: its voxels, depth and rim. Each value is computed once, on first use.

    Attributes:
        memory, id, key, starts, stops: See `Components`.
        low, high: First and last voxel of its box along (slow, middle, fast).
        answers: The values computed so far. An equal component that is found later may take them over.
    """

    memory: Memory
    id: int
    key: int
    starts: Ints
    stops: Ints
    low: Ints
    high: Ints
    answers: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def indices(self) -> Ints:
        """`(n,)` flat indices in memory order."""
        expanded: Ints = run_kernels.expand_runs(self.starts, self.stops)
        return expanded

    @property
    def box(self) -> tuple[Ints, Ints]:
        """First and last voxel `i, j, k` of the box."""
        back = np.argsort(self.memory.axes)
        return self.low[back], self.high[back]

    @cached_property
    def voxels(self) -> Ints:
        """`(n, 3)` voxels in C order of `(i, j, k)`."""
        return self.memory.coordinates(self.indices)[self._c_order]

    @cached_property
    def _c_order(self) -> Ints:
        """Places of the voxels in memory order, sorted in C order."""
        voxels = self.memory.coordinates(self.indices)
        _, J, K = self.memory.shape
        return np.argsort((voxels[:, 0] * J + voxels[:, 1]) * K + voxels[:, 2], kind="stable")

    def rim(self, *, closed: bool) -> Ints:
        """`(n, 3)` voxels with a 6-neighbour outside the component, in C order.

        These voxels have the least depth in voxel units. If the border of the volume does not count as outside and
        the component fills the volume, there is no rim: all voxels are equally deep, and all are returned.
        """
        geometry = (self.starts, self.stops, self.memory.lengths, self.low, self.high)
        mask = depth_kernels.is_rim(*geometry, closed)
        return self.voxels[mask[self._c_order]] if mask.any() else self.voxels

    def depths(self, spacing: Spacing | None, *, closed: bool) -> Floats:
        """`(n,)` distance of each voxel to the nearest voxel outside, in the order of `voxels`.

        Args:
            spacing: Voxel size in mm; None for voxel units.
            closed: Whether the border of the volume counts as outside. If it does not, a component without any
                voxel outside is infinitely deep.
        """
        return self._depths(spacing, closed)[self._c_order]

    def deepest(self, spacing: Spacing | None, *, closed: bool) -> tuple[tuple[int, int, int], float]:
        """The deepest voxel and its depth; among equally deep voxels, the first in C order of `(i, j, k)`."""

        def compute() -> tuple[tuple[int, int, int], float]:
            geometry = self._geometry(spacing)
            index, squared = depth_kernels.deepest_voxel(*geometry, closed, self.memory.ranks, EQUAL_DEPTH)
            i, j, k = self.memory.coordinates(np.array([index]))[0]
            return (int(i), int(j), int(k)), float(np.sqrt(squared))

        return self.once(("deepest", spacing, closed), compute)

    def deepest_but(
        self, used: Ints, spacing: Spacing | None, *, closed: bool
    ) -> tuple[tuple[int, int, int], float] | None:
        """The deepest unused voxel, chosen as in `deepest`; None if all are used.

        Args:
            used: `(n, 3)` voxels of the volume, also outside the component.
            spacing, closed: See `deepest`.
        """
        depths = self._depths(spacing, closed).copy()
        depths[self._places(used)] = -1.0
        most = depths.max()
        if most < 0:
            return None
        places = np.flatnonzero(depths >= most * (1.0 - EQUAL_DEPTH))
        run = np.searchsorted(self._ends, places, side="right")
        voxels = self.memory.coordinates(self.stops[run] - (self._ends[run] - places))
        i, j, k = min(voxels.tolist())
        return (i, j, k), float(most)

    def once(self, question: Hashable, compute: Callable[[], Answer]) -> Answer:
        """Return a value derived from the voxels; it is computed on first use. Do not change it."""
        if question not in self.answers:
            self.answers[question] = compute()
        answer: Answer = self.answers[question]
        return answer

    def same_voxels(self, other: "Component") -> bool:
        """Whether two components of one memory layout have the same voxels."""
        return (
            self.memory == other.memory
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.stops, other.stops)
        )

    def holds(self, voxel: Sequence[int]) -> bool:
        """Whether a voxel belongs to the component."""
        if not all(0 <= v < n for v, n in zip(voxel, self.memory.shape, strict=True)):
            return False
        return bool(len(self._own(np.array([voxel]))))

    def without(self, voxels: Ints) -> "Component | None":
        """The component without some voxels, with the same id; None if no voxel is left, itself if it has none of them.

        Args:
            voxels: `(n, 3)` of the volume, also outside the component.
        """
        cut = self._own(voxels)
        if not len(cut):
            return self
        starts = np.sort(np.concatenate([self.starts, cut + 1]))
        stops = np.sort(np.concatenate([self.stops, cut]))
        left = starts < stops
        if not left.any():
            return None
        starts, stops = starts[left], stops[left]
        _, middle, fast = self.memory.lengths
        _, low, high, _ = run_kernels.measure_runs(starts, stops, np.zeros_like(starts), 1, middle, fast)
        return Component(self.memory, self.id, self.key, starts, stops, low[0], high[0])

    @cached_property
    def _ends(self) -> Ints:
        """`(runs,)` voxels up to the end of each run."""
        return np.cumsum(self.stops - self.starts)

    def _own(self, voxels: Ints) -> Ints:
        """Sorted flat indices of the given voxels that belong to the component, without repeats."""
        indices = np.unique(self.memory.indices(np.asarray(voxels, dtype=np.int64).reshape(-1, 3)))
        run = np.searchsorted(self.starts, indices, side="right") - 1
        return indices[(run >= 0) & (indices < self.stops[run])]

    def _places(self, voxels: Ints) -> Ints:
        """Places, in memory order, of the given voxels that belong to the component."""
        indices = self._own(voxels)
        run = np.searchsorted(self.starts, indices, side="right") - 1
        return self._ends[run] - (self.stops[run] - indices)

    def _depths(self, spacing: Spacing | None, closed: bool) -> Floats:
        """`(n,)` depth of each voxel in memory order."""

        def compute() -> Floats:
            squared: Floats = depth_kernels.squared_depths(*self._geometry(spacing), closed)
            return np.sqrt(squared, out=squared)

        return self.once(("depths", spacing, closed), compute)

    def _geometry(self, spacing: Spacing | None) -> tuple[Any, ...]:
        """The arguments of the depth kernels."""
        size = np.ones(3) if spacing is None else np.asarray(spacing, dtype=np.float64)
        weights = size[list(self.memory.axes)] ** 2
        return self.starts, self.stops, self.memory.lengths, self.low, self.high, weights

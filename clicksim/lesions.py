"""Components and lesions: a mask in; sizes, boxes, depths, rims and uptake of each component out.

Everything works on the runs of the foreground (`clicksim.kernels.runs`), so its cost follows the lesions and
not the volume. Components are numbered from 1 by their first voxel in the order k, then j, then i (i runs
fastest), whatever the memory layout of the array: the order in which cc3d numbers a Fortran-ordered array, and
so the order behind the published clicks.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.arrays import Memory, as_labels, as_uptake, flat_view
from clicksim.errors import GeometryError, ImageError, unknown_name
from clicksim.geometry import Grid, Spacing, check_spacing
from clicksim.kernels import depth as depth_kernels
from clicksim.kernels import runs as run_kernels
from clicksim.kernels import tables as table_kernels

if TYPE_CHECKING:
    import pyarrow as pa

Instances = Literal["auto", "labels", "components", "touching"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Answer = TypeVar("Answer")

INSTANCE_RULES = ("auto", "labels", "components", "touching")
CONNECTIVITIES = (6, 18, 26)
DENSE = 20  # one voxel in so many, from which a volume is re-ordered as a whole
EQUAL_DEPTH = 1e-9  # relative; absorbs the rounding of sums of squares taken in another order


@dataclass(frozen=True)
class Components:
    """The components of a volume, each as runs in memory order.

    Attributes:
        memory: Layout that the runs refer to.
        ids: `(n,)` what each component is called: its number from 1, or the stored label of an instance.
        keys: `(n,)` what its random streams are keyed by: the place of its first voxel in the order k, j, i, or the
            stored label, so that other components change nothing.
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
        """For each run the place of its component, from 0."""
        return np.repeat(np.arange(len(self)), np.diff(self.bounds))

    @cached_property
    def measures(self) -> tuple[Ints, Ints, Ints, Floats]:
        """Sizes, boxes and coordinate sums along (slow, middle, fast)."""
        _, middle, fast = self.memory.lengths
        measured: tuple[Ints, Ints, Ints, Floats] = run_kernels.measure_runs(
            self.starts, self.stops, self.numbers, len(self), middle, fast
        )
        return measured

    def select(self, keep: NDArray[np.bool_] | Ints) -> "Components":
        """Some of the components, in their order; ids stay."""
        places = np.arange(len(self))[keep]
        runs = np.concatenate([np.arange(self.bounds[n], self.bounds[n + 1]) for n in places] or [places])
        bounds = np.concatenate([[0], np.cumsum(np.diff(self.bounds)[places])])
        return Components(self.memory, self.ids[places], self.keys[places], self.starts[runs], self.stops[runs], bounds)


@dataclass(frozen=True)
class Component:
    """One component: its voxels, its depth, its rim. What is asked for is computed once.

    Attributes:
        memory, id, key, starts, stops: As in `Components`.
        low, high: First and last voxel of its box along (slow, middle, fast).
        answers: What was asked of its voxels so far. The same voxels found again may take them over.
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
        """Places of the voxels in memory order, sorted by C order."""
        voxels = self.memory.coordinates(self.indices)
        _, J, K = self.memory.shape
        return np.argsort((voxels[:, 0] * J + voxels[:, 1]) * K + voxels[:, 2], kind="stable")

    def rim(self, *, closed: bool) -> Ints:
        """`(n, 3)` voxels with a 6-neighbour outside the component, in C order.

        They are the voxels of least depth in voxel units. Where the border of the volume does not count as
        outside and the component fills the volume, there is no rim; all voxels are equally deep then, and all
        of them are given.
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
        """The deepest voxel and its depth; of equally deep ones the first in C order of `(i, j, k)`."""

        def compute() -> tuple[tuple[int, int, int], float]:
            geometry = self._geometry(spacing)
            index, squared = depth_kernels.deepest_voxel(*geometry, closed, self.memory.ranks, EQUAL_DEPTH)
            i, j, k = self.memory.coordinates(np.array([index]))[0]
            return (int(i), int(j), int(k)), float(np.sqrt(squared))

        return self.once(("deepest", spacing, closed), compute)

    def deepest_but(
        self, used: Ints, spacing: Spacing | None, *, closed: bool
    ) -> tuple[tuple[int, int, int], float] | None:
        """The deepest voxel that is not used, as `deepest` says; None where all are.

        Args:
            used: `(n, 3)` voxels of the volume, also outside the component.
            spacing, closed: As in `deepest`.
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
        """The answer to a question about its voxels; computed when it is asked first, and not to be changed."""
        if question not in self.answers:
            self.answers[question] = compute()
        answer: Answer = self.answers[question]
        return answer

    def same_voxels(self, other: "Component") -> bool:
        """Whether two components of one memory layout have the same voxels, as one component of two scans may."""
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
        """What is left under its name without some voxels; None for nothing, itself where it has none of them.

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
        """Flat indices of those of some voxels that belong to it, each once, sorted."""
        indices = np.unique(self.memory.indices(np.asarray(voxels, dtype=np.int64).reshape(-1, 3)))
        run = np.searchsorted(self.starts, indices, side="right") - 1
        return indices[(run >= 0) & (indices < self.stops[run])]

    def _places(self, voxels: Ints) -> Ints:
        """Where those of some voxels that belong to it stand among its voxels in memory order."""
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
        """What the depth kernels take."""
        size = np.ones(3) if spacing is None else np.asarray(spacing, dtype=np.float64)
        weights = size[list(self.memory.axes)] ** 2
        return self.starts, self.stops, self.memory.lengths, self.low, self.high, weights


def find_lesions(
    mask: ArrayLike, *, instances: Instances = "auto", connectivity: int = 26, where: str = ""
) -> Components:
    """The lesions of a mask or of an instance map.

    Args:
        mask: `(I, J, K)`; 0 is background. Booleans, integers and whole-valued floats of any layout.
        instances: `components` splits the mask into connected components, whatever its values. `labels` takes
            each distinct value as one lesion with that id, even in several parts. `auto` is `labels` where
            there is more than one distinct non-zero value, else `components`. `touching` is the published
            rule: voxels are connected where their values are equal, so touching instances are separate and one
            value in two parts is two components.
        connectivity: 6, 18 or 26.
        where: A file or case to name in errors.

    Returns:
        Components in the order k, then j, then i of their first voxel; with `labels` in ascending order of id.
        None for an empty mask.

    Raises:
        ImageError: Values that are no labels.
        GeometryError: Not three axes.
    """
    if instances not in INSTANCE_RULES:
        raise unknown_name("rule for instances", str(instances), INSTANCE_RULES)
    if connectivity not in CONNECTIVITIES:
        raise GeometryError(f"connectivity must be 6, 18 or 26, got {connectivity}")
    array = np.asarray(mask)
    if array.ndim != 3:
        raise GeometryError(f"a mask has three axes, got shape {array.shape}{f' ({where})' if where else ''}")
    flat, memory = flat_view(as_labels(array, where=where))
    starts, stops, values = scan_labels(flat, memory)
    rule = instances
    if rule == "auto":
        rule = "labels" if len(np.unique(values)) > 1 else "components"
    if rule == "labels":
        return _group_by_value(memory, starts, stops, values)
    if rule == "components":
        values = np.ones_like(values)
        starts, stops = _close_gaps(starts, stops, int(memory.lengths[2]))
        values = values[: len(starts)]
    return connect(memory, starts, stops, values, connectivity)


def scan_labels(flat: NDArray[Any], memory: Memory) -> tuple[Ints, Ints, Ints]:
    """Runs of equal non-zero value: starts, stops, values. One pass over the labels."""
    per_word = 8 // flat.itemsize
    words = flat[: flat.size // per_word * per_word].view(np.uint64)
    found: tuple[Ints, Ints, Ints] = run_kernels.find_runs(flat, words, per_word, int(memory.lengths[2]))
    return found


def flat_in(array: NDArray[Any], memory: Memory) -> NDArray[Any]:
    """A label array as one line in the order of a given memory; a view where it lies so.

    Where it lies otherwise, only its non-zero voxels are moved: to re-order a whole volume costs some twenty times
    as much. An array that is not sparse is copied as a whole.

    Args:
        array: `(I, J, K)` of a dtype that `as_labels` gives.
        memory: Layout of the result.
    """
    flat, own = flat_view(array)
    if own == memory:
        return flat
    starts, stops, values = scan_labels(flat, own)
    if DENSE * (stops - starts).sum() > flat.size:
        return np.ascontiguousarray(array.transpose(memory.axes)).reshape(-1)
    out = np.zeros(flat.size, dtype=flat.dtype)
    voxels = own.coordinates(run_kernels.expand_runs(starts, stops))
    out[memory.indices(voxels)] = np.repeat(values, stops - starts)
    return out


def connect(
    memory: Memory, starts: Ints, stops: Ints, values: Ints, connectivity: int, *, order: Literal["F", "C"] = "F"
) -> Components:
    """Components of runs: equal values that touch.

    Args:
        memory: Layout that the runs refer to.
        starts, stops, values: Runs, sorted by start.
        connectivity: 6, 18 or 26; 8 within slices across the slow axis.
        order: Numbers follow the first voxel in the order k, j, i (`F`) or i, j, k (`C`).
    """
    lengths = memory.lengths
    roots = run_kernels.connect_runs(starts, stops, values, lengths[1], lengths[2], connectivity)
    firsts, places = np.unique(roots, return_inverse=True)
    # the first voxel of a component is the start of one of its runs, in either order
    i, j, k = memory.coordinates(starts).T
    I, J, K = memory.shape
    keys = np.full(len(firsts), np.iinfo(np.int64).max)
    np.minimum.at(keys, places, (k * J + j) * I + i if order == "F" else (i * J + j) * K + k)
    ranks = np.argsort(np.argsort(keys))
    return _gather(memory, starts, stops, ranks[places], np.arange(1, len(firsts) + 1), np.sort(keys))


def measure_lesions(
    lesions: Components, *, spacing: Sequence[float], uptake: ArrayLike | None = None, peak_ml: float = 1.0
) -> "pa.Table":
    """One row per lesion: size, box, centroid, deepest voxel, and its uptake where one is given.

    Args:
        lesions: From `find_lesions`.
        spacing: Voxel size along `(I, J, K)`, in mm.
        uptake: `(I, J, K)`, such as SUV; the three SUV columns are null without it.
        peak_ml: Volume of the sphere behind `suv_peak`.

    Returns:
        `lesion` (id), `voxels`, `volume_ml`, `box_first`, `box_last` (voxels, both inside), `centroid` (voxels),
        `deepest` (voxel), `depth_mm` (border of the volume counted as outside), `suv_max`, `suv_mean`,
        `suv_peak`: the highest mean over a sphere of `peak_ml` centred on a voxel of the lesion and cut by the
        border of the volume; no smaller than one voxel.

    Raises:
        GeometryError: The uptake is on another grid.
        ImageError: The uptake is not finite in or near a lesion, or not real.
    """
    import pyarrow as pa

    sizes_mm = check_spacing(spacing)
    grid = Grid.from_spacing(lesions.memory.shape, sizes_mm)
    low, high = lesions.boxes
    deepest = [lesion.deepest(sizes_mm, closed=True) for lesion in lesions]
    empty: list[float | None] = [None] * len(lesions)
    top, mean, peak = (
        (empty, empty, empty) if uptake is None else _measure_uptake(lesions, as_uptake(uptake), grid, peak_ml)
    )
    triple, floats = pa.list_(pa.int32(), 3), pa.list_(pa.float64(), 3)
    columns = {
        "lesion": pa.array(lesions.ids, pa.int32()),
        "voxels": pa.array(lesions.sizes, pa.int64()),
        "volume_ml": pa.array(lesions.sizes * grid.voxel_ml, pa.float64()),
        "box_first": pa.array(low.tolist(), triple),
        "box_last": pa.array(high.tolist(), triple),
        "centroid": pa.array(lesions.centroids.tolist(), floats),
        "deepest": pa.array([voxel for voxel, _ in deepest], triple),
        "depth_mm": pa.array([depth for _, depth in deepest], pa.float64()),
        "suv_max": pa.array(top, pa.float32()),
        "suv_mean": pa.array(mean, pa.float32()),
        "suv_peak": pa.array(peak, pa.float32()),
    }
    return pa.table(columns)


def _measure_uptake(
    lesions: Components, uptake: NDArray[Any], grid: Grid, peak_ml: float
) -> tuple[list[float], list[float], list[float]]:
    """Maximum, mean and peak of each lesion."""
    if uptake.shape != lesions.memory.shape:
        raise GeometryError(f"uptake and mask have different shapes: {uptake.shape} and {lesions.memory.shape}")
    sphere = _sphere(grid, peak_ml)
    top, mean, peak = [], [], []
    for lesion in lesions:
        values = uptake[tuple(lesion.voxels.T)].astype(np.float64)
        top.append(float(values.max()))
        mean.append(float(values.mean()))
        peak.append(float(table_kernels.highest_mean(uptake, lesion.voxels, sphere)))
        if not (np.all(np.isfinite(values)) and np.isfinite(peak[-1])):
            raise ImageError(f"uptake is not finite in or near lesion {lesion.id}; mend or mask it first")
    return top, mean, peak


def _sphere(grid: Grid, volume_ml: float) -> Ints:
    """`(n, 3)` voxel offsets whose centres lie within a sphere of a volume; at least the centre."""
    radius_mm = (3000.0 * volume_ml / (4.0 * np.pi)) ** (1 / 3)
    spacing = np.asarray(grid.spacing)
    reach = np.floor(radius_mm / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    return offsets[((offsets * spacing) ** 2).sum(1) <= radius_mm**2]


def _group_by_value(memory: Memory, starts: Ints, stops: Ints, values: Ints) -> Components:
    ids, places = np.unique(values, return_inverse=True)
    return _gather(memory, starts, stops, places, ids, ids)


def _gather(memory: Memory, starts: Ints, stops: Ints, places: Ints, ids: Ints, keys: Ints) -> Components:
    """Runs sorted by component, in memory order within each."""
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(len(ids) + 1))
    return Components(memory, ids.astype(np.int64), keys.astype(np.int64), starts[order], stops[order], bounds)


def _close_gaps(starts: Ints, stops: Ints, row: int) -> tuple[Ints, Ints]:
    """Join neighbouring runs of one row, which differ in value only."""
    if not len(starts):
        return starts, stops
    opens = np.concatenate([[True], (starts[1:] != stops[:-1]) | (starts[1:] % row == 0)])
    return starts[opens], stops[np.concatenate([opens[1:], [True]])]

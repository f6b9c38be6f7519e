"""The revised rule: distances in mm, keyed streams, no repeats, and background clicks away from lesions.

Each component in turn gives one click, the first by `strategy`, further ones by `fill`, until the budget is spent or no
component has a voxel left. Every draw comes from a stream keyed by seed, case, polarity, component and purpose, so one
component never changes the clicks of another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError, in_case, up_to_ten
from clicksim.geometry import Spacing
from clicksim.geometry.arrays import Memory, as_labels, as_uptake
from clicksim.geometry.reuse import reusable
from clicksim.lesions import Component, Components, Instances, find_lesions
from clicksim.lesions.hot import check_finite, hot_voxels, join_voxels, lesion_indices, without
from clicksim.prompts import Click
from clicksim.prompts.kinds import Voxel, as_voxel
from clicksim.protocols.strategy_registry import CLICK_STRATEGIES
from clicksim.simulate.clicks.click_strategies import ClickStrategy
from clicksim.simulate.surroundings import Surroundings
from clicksim.streams import stream

Ints = NDArray[np.int64]
Pool = tuple[int | None, Iterator[Voxel]]

NEED_UPTAKE = ("hot", "threshold", "body")  # backgrounds that come from the uptake
BODY_ATTEMPTS = 10_000  # draws for one click in the body; enough if the body is a thousandth of the volume


@dataclass(frozen=True)
class RevisedCase:
    """One case under one set of settings.

    Attributes:
        labels: `(I, J, K)`, 0 is background.
        uptake, organs: `(I, J, K)` or None.
        spacing: mm.
        settings: All settings of the protocol's `[clicks]`.
        instances: How labels become lesions.
        seed, case_id: Keys of all streams; errors name the case.
    """

    labels: NDArray[Any]
    uptake: NDArray[Any] | None
    organs: NDArray[Any] | None
    spacing: Spacing
    settings: Mapping[str, Any]
    instances: Instances
    seed: int
    case_id: str

    def clicks(self) -> tuple[list[Click], list[str]]:
        """Place foreground clicks, then background clicks; add notes about budgets that could not be spent."""
        lesions = find_lesions(self.labels, instances=self.instances, where=self.case_id)
        wanted, chosen = self._choose(lesions)
        foreground = deal((self._pool(lesion, "foreground") for lesion in chosen), wanted, foreground=True)
        notes = [] if not len(lesions) else _shortfall("foreground", len(foreground), wanted)
        background, why = self._background(lesions)
        return foreground + background, notes + why

    def _choose(self, lesions: Components) -> tuple[int, list[Component]]:
        """The budget, and the lesions in the order of clicking."""
        settings = self.settings
        voxel_ml = float(np.prod(self.spacing)) / 1000.0
        able = lesions.sizes * voxel_ml >= settings["min_lesion_ml"]
        if settings["target"]:
            if len(lesions) and settings["target"] not in lesions.ids:
                raise SettingError(
                    f"target {settings['target']} is not a lesion of this mask{in_case(self.case_id)}; lesions: "
                    f"{up_to_ten(lesions.ids)}"
                )
            able &= lesions.ids == settings["target"]
        able_lesions = lesions.select(able)
        count, budget = len(able_lesions), settings["n_foreground"]
        if settings["lesions"] == "all":
            return count, list(able_lesions)
        if settings["lesions"] == "uniform":
            order = self._stream("foreground", "choice").permutation(count)
        else:
            order = np.argsort(-self._importance(able_lesions), kind="stable")
        return budget, [able_lesions[n] for n in order[:budget]]

    def _importance(self, lesions: Components) -> NDArray[np.float64]:
        """Size or highest uptake of each lesion."""
        if self.settings["lesions"] == "volume":
            return lesions.sizes.astype(np.float64)
        if self.uptake is None:
            raise SettingError("lesions = uptake needs an uptake; give one, or choose uniform, volume or all")
        check_finite(self.uptake, where=self.case_id)
        return np.array([float(self.uptake[tuple(lesion.voxels.T)].max()) for lesion in lesions])

    def _background(self, lesions: Components) -> tuple[list[Click], list[str]]:
        budget, kind = self.settings["n_background"], self.settings["background"]
        if budget == 0:
            return [], []
        if kind not in NEED_UPTAKE:
            pools = self._pools_of_masks(kind, lesions)
        elif self.uptake is not None:
            pools = self._pools_of_uptake(kind, self.uptake, lesions)
        else:
            return [], [f"no uptake (PET) given: foreground clicks only (background = {kind} needs one)"]
        clicks = deal(pools, budget, foreground=False)
        return clicks, _shortfall("background", len(clicks), budget)

    def _pools_of_masks(self, kind: str, lesions: Components) -> Iterator[Pool]:
        if kind == "shell":
            return ((lesion.id, self._in_shell(lesion)) for lesion in self._shuffled(lesions))
        if kind == "organ":
            return self._pools_in(self._clear_of_lesions(*self._organ_voxels(lesions)))
        return self._pools_in(self._other_lesions(lesions))

    def _pools_of_uptake(self, kind: str, uptake: NDArray[Any], lesions: Components) -> Iterator[Pool]:
        if kind == "body":
            return iter([(None, self._in_body(uptake))])
        return self._pools_in(self._clear_of_lesions(*self._hot_voxels(kind, uptake, lesions)))

    def _pools_in(self, components: Components) -> Iterator[Pool]:
        return (self._pool(component, "background") for component in self._shuffled(components))

    def _shuffled(self, components: Components) -> Iterator[Component]:
        order = self._stream("background", "choice").permutation(len(components))
        return (components[n] for n in order)

    def _clear_of_lesions(self, memory: Memory, indices: Ints) -> Components:
        """Components of the voxels outside the margin of lesions."""
        return clear_components(self.labels, self.spacing, memory, indices, self.settings["margin_mm"])

    def _hot_voxels(self, kind: str, uptake: NDArray[Any], lesions: Components) -> tuple[Memory, Ints]:
        suv = self.settings["suv"]
        if kind == "threshold":
            if suv == 0:
                raise SettingError("background = threshold needs the threshold of the case: set suv")
            # `threshold` is at or above, `hot` is above; compared in the precision of the uptake
            suv = float(np.nextafter(float(as_uptake(uptake).dtype.type(suv)), -np.inf))
        return hot_voxels(uptake, lesions, percentile=self.settings["percentile"], suv=suv, where=self.case_id)

    def _organ_voxels(self, lesions: Components) -> tuple[Memory, Ints]:
        if self.organs is None:
            raise SettingError("background = organ needs an organ mask: give `organs` (or --organs FILE)")
        region = as_labels(self.organs, where=self.case_id)
        if self.settings["organ"]:
            region = np.isin(region, self.settings["organ"])
        organs = find_lesions(region, instances="components", where=self.case_id)
        indices = lesion_indices(organs, organs.memory)
        return organs.memory, without(indices, lesion_indices(lesions, organs.memory))

    def _other_lesions(self, lesions: Components) -> Components:
        if not self.settings["target"]:
            raise SettingError("background = others needs the lesion that is the foreground: set target to its id")
        return lesions.select(lesions.ids != self.settings["target"])

    def _in_body(self, uptake: NDArray[Any]) -> Iterator[Voxel]:
        """Draw voxels of the body outside lesions and margin, uniformly by rejection."""
        draws, shape = self._stream("background", "body"), self.labels.shape
        check_finite(uptake, where=self.case_id)
        given: set[Voxel] = set()
        misses = 0
        while misses < BODY_ATTEMPTS:
            voxel = as_voxel(draws.integers(0, shape))
            misses += 1
            if voxel in given or not uptake[voxel] > self.settings["body_suv"]:
                continue
            if not self._surroundings.near(np.array([voxel]), self.settings["margin_mm"])[0]:
                misses = 0
                given.add(voxel)
                yield voxel

    def _in_shell(self, lesion: Component) -> Iterator[Voxel]:
        """Voxels of the shell near one lesion, in random order."""
        nearest, farthest = self.settings["shell_mm"]
        voxels = self._surroundings.shell(lesion, max(nearest, self.settings["margin_mm"]), farthest)
        order = self._stream("background", lesion.key, "shell").permutation(len(voxels))
        return (as_voxel(voxels[n]) for n in order)

    def _pool(self, component: Component, polarity: str) -> Pool:
        """The clicks of a component: the first by `strategy`, then by `fill`."""
        prefix = "" if polarity == "foreground" else "background_"
        strategy, fill = self.settings[prefix + "strategy"], self.settings[prefix + "fill"]
        if polarity == "foreground" and self.settings["lesions"] == "all":
            fill = "none"

        def clicks() -> Iterator[Voxel]:
            first = self._ordered(component, strategy, self._stream(polarity, component.key, "first"))
            yield from islice(first, 1)
            if fill != "none":
                yield from self._ordered(component, fill, self._stream(polarity, component.key, "fill"))

        return component.id, self._jittered(component, clicks(), polarity)

    def _ordered(self, component: Component, strategy: str, draws: np.random.Generator) -> Iterator[Voxel]:
        """The voxels of a component in the order of a strategy."""
        place: ClickStrategy = CLICK_STRATEGIES.find(strategy)
        return place(component, self.spacing, draws)

    def _jittered(self, component: Component, clicks: Iterator[Voxel], polarity: str) -> Iterator[Voxel]:
        """Displace clicks within a ball, but only inside their component.

        If displaced clicks coincide and more clicks are needed, the original ones follow.
        """
        radius = self.settings["jitter_mm"]
        if radius == 0:
            yield from clicks
            return
        draws = self._stream(polarity, component.key, "jitter")
        seen = []
        for click in clicks:
            seen.append(click)
            for _ in range(self.settings["jitter_attempts"]):
                moved = as_voxel(np.rint(np.asarray(click) + _in_ball(draws, radius) / np.asarray(self.spacing)))
                if component.holds(moved):
                    yield moved
                    break
            else:
                yield click
        if len(seen) > 1:
            yield from seen

    @cached_property
    def _surroundings(self) -> Surroundings:
        return Surroundings(self.labels, self.spacing)

    def _stream(self, *purpose: int | str) -> np.random.Generator:
        return stream(self.seed, self.case_id, *purpose)


@reusable
def clear_components(
    labels: NDArray[Any], spacing: Spacing, memory: Memory, indices: Ints, margin_mm: float
) -> Components:
    """The components of some voxels, without voxels within a margin of a lesion."""
    near = Surroundings(labels, spacing).near(memory.coordinates(indices), margin_mm)
    return join_voxels(memory, indices[~near])


def deal(pools: Iterator[Pool], budget: int, *, foreground: bool) -> list[Click]:
    """Take one click from each pool in turn, until the budget is spent or all pools are empty; no voxel twice.

    Pools are opened only as needed.
    """
    clicks: list[Click] = []
    used: set[Voxel] = set()

    def take(pool: Pool) -> bool:
        name, voxels = pool
        for voxel in voxels:
            if voxel not in used:
                used.add(voxel)
                clicks.append(Click(voxel, foreground, name))
                return True
        return False

    open_pools: list[Pool] = []
    for pool in pools:
        if len(clicks) == budget:
            break
        if take(pool):
            open_pools.append(pool)
    while open_pools and len(clicks) < budget:
        open_pools = [pool for pool in open_pools if len(clicks) < budget and take(pool)]
    return clicks


def _shortfall(polarity: str, placed: int, wanted: int) -> list[str]:
    if placed >= wanted:
        return []
    return [f"{placed} of {wanted} {polarity} clicks: no voxel is left that the rule allows"]


def _in_ball(draws: np.random.Generator, radius: float) -> NDArray[np.float64]:
    """Draw a point uniformly from a ball."""
    direction = draws.standard_normal(3)
    return np.asarray(direction / np.linalg.norm(direction) * radius * draws.random() ** (1 / 3))

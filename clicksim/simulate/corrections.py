"""Corrections: prompts from a prediction's errors.

One pass over both masks, which skips equal words, finds the wrong voxels. All further work uses their runs. Finding
the changes since the last round would take the same pass, so each round finds the regions again. The expensive part is
the depth of a large region; it is kept as long as the region does not change (`KeptRegions`).
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clicksim.errors import GeometryError, SettingError, in_case
from clicksim.geometry import Grid, Spacing
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.prompts.kinds import Voxel
from clicksim.protocols import ProtocolName
from clicksim.simulate.arguments import open_rule, spacing_of
from clicksim.simulate.clicks.placing import CLASS_CHOICES, ClickPlacer, choose_class
from clicksim.simulate.error_regions import KeptRegions, Region, find_errors, find_regions
from clicksim.simulate.scribbles.published_scribbles import published_correction
from clicksim.simulate.scribbles.revised_strokes import draw_stroke
from clicksim.streams import stream

LABEL_SETTINGS = ("n_components", "background", "shell_mm")


def correct(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    uptake: ArrayLike | None = None,  # noqa: ARG001 - reserved for rules that use it
    spacing: Sequence[float] | None = None,
    protocol: ProtocolName = "autopet-v@2",
    seed: int = 42,
    case_id: str = "",
    round: int = 0,  # noqa: A002 - the usual term
    previous: Prompts | None = None,
    kept: KeptRegions | None = None,
    **settings: Any,
) -> Prompts:
    """Simulate the prompts that correct a prediction in one round.

    The revised rule corrects the largest error regions (26-connected components of the false positives or of the false
    negatives) with one prompt each, of the polarity that fixes them. It never uses a voxel of a previous prompt of the
    same polarity. A perfect prediction gives no prompt and a note. The published rule gives the one stroke of the
    published loop, or none if that loop fails.

    Args:
        prediction: `(I, J, K)`; non-zero is predicted lesion.
        truth: `(I, J, K)`; non-zero is lesion; the values of an instance map separate lesions.
        uptake: `(I, J, K)`; no rule uses it yet.
        spacing: Voxel size in mm; rules in mm need it.
        protocol: Name and version.
        seed, case_id, round: Keys of the random streams of revised rules.
        previous: Prompts of earlier rounds.
        kept: Measurements from earlier rounds of this case; this round reads and updates them. Without it, a large
            uncorrected error is measured again in each round.
        **settings: Settings of the protocol's table `[scribbles]`, such as `kind="click"`.

    Returns:
        Only the prompts of this round.

    Raises:
        SettingError: If the protocol or a setting is unknown.
        GeometryError: If shapes differ, including those of previous prompts, or the spacing is missing.
        ImageError: If a value is not a valid label.
    """
    seed, number = operator.index(seed), operator.index(round)
    rule, chosen = open_rule(protocol, "scribbles", settings, elsewhere=LABEL_SETTINGS, work="a correction")
    grid = Grid.from_spacing(np.asarray(truth).shape, spacing)
    if previous is not None and previous.grid.shape != grid.shape:
        raise GeometryError(
            f"previous prompts are on another grid: prompts {previous.grid.shape}, masks {grid.shape}"
            f"{in_case(case_id)}; crop them together with the masks"
        )
    items: list[Click] | list[Scribble] | list[Click | Scribble]
    if chosen["rule"] == "published":
        errors = find_errors(prediction, truth, where=case_id)
        items, notes = published_correction(errors, chosen, seed=seed, number=number)
    else:
        _check_clicks(rule.id, chosen)
        size = spacing_of(grid, rule.id)
        regions = find_regions(prediction, truth, errors=chosen["errors"], where=case_id)
        case = _Correction(size, chosen, seed, case_id, number, previous)
        if kept is not None:
            kept.meet(regions)
        items = list(case.prompts(regions))
        if kept is not None:
            kept.keep(regions)
        notes = [] if items else [_why_none(regions, chosen["errors"])]
    return Prompts(tuple(items), grid, case_id, rule.id, seed, chosen, tuple(notes))


@dataclass(frozen=True)
class _Correction:
    """One round of the revised rule."""

    spacing: Spacing
    settings: Mapping[str, Any]
    seed: int
    case_id: str
    round: int
    previous: Prompts | None

    def prompts(self, regions: list[Region]) -> Iterator[Click | Scribble]:
        """Yield prompts for the chosen regions until the budget of the round is spent."""
        used = self._used()
        if self.settings["choose"] in CLASS_CHOICES:
            yield from self._by_class(regions, used)
            return
        placed = 0
        for region in self._chosen(regions):
            if placed == self.settings["n_prompts"]:
                return
            prompt = self._prompt(region, used[region.foreground])
            if prompt is not None:
                used[region.foreground].update(prompt.voxels)
                placed += 1
                yield prompt

    def _by_class(self, regions: list[Region], used: dict[bool, set[Voxel]]) -> Iterator[Click]:
        """Yield clicks in all errors of a class together."""
        draws = {
            polarity: stream(self.seed, self.case_id, "correct", self.round, "class", name)
            for polarity, name in ((True, "foreground"), (False, "background"))
        }
        for _ in range(self.settings["n_prompts"]):
            for polarity, components, taken in choose_class(self.settings["choose"], regions, used, self._placer):
                spot = self._placer.spot(components, taken, draws[polarity])
                if spot is not None:
                    used[polarity].add(spot.voxel)
                    yield Click(spot.voxel, polarity, spot.region, self.round)

    @property
    def _placer(self) -> ClickPlacer:
        return ClickPlacer(self.settings, self.spacing)

    def _chosen(self, regions: list[Region]) -> list[Region]:
        """Regions in the order of correction."""
        sizes = np.array([region.size for region in regions], dtype=np.float64)
        if self.settings["choose"] == "depth":
            sizes = np.array([region.component.deepest(self.spacing, closed=True)[1] for region in regions])
        elif self.settings["choose"] == "random":
            draws = stream(self.seed, self.case_id, "correct", self.round, "choice")
            sizes = -draws.exponential(size=len(regions)) / np.maximum(sizes, 1)
        return [regions[n] for n in np.argsort(-sizes, kind="stable")]

    def _prompt(self, region: Region, used: set[Voxel]) -> Click | Scribble | None:
        """Make a prompt on unused voxels of a region; None if all are used."""
        polarity = "foreground" if region.foreground else "background"
        draws = stream(self.seed, self.case_id, "correct", self.round, polarity, region.component.key)
        if self.settings["kind"] == "click":
            spot = self._placer.spot([region.component], used, draws)
            return None if spot is None else Click(spot.voxel, region.foreground, spot.region, self.round)
        free = region.component.without(np.array(list(used)))
        if free is None:
            return None
        stroke = draw_stroke(free, self.spacing, self.settings, draws)
        return Scribble(stroke, region.foreground, region.component.id, self.round)

    def _used(self) -> dict[bool, set[Voxel]]:
        """Voxels of earlier prompts by polarity."""
        used: dict[bool, set[Voxel]] = {True: set(), False: set()}
        for prompt in self.previous or ():
            used[prompt.foreground].update(prompt.voxels)
        return used


def _why_none(regions: Sequence[Region], kinds: Sequence[str]) -> str:
    if regions:
        return "every error already has a prompt"
    return f"no error of kind {' or '.join(kinds)} left to correct" if kinds else "no error left to correct"


def _check_clicks(rule: str, settings: Mapping[str, Any]) -> None:
    """Reject settings that need clicks, and strokes of a rule that draws none."""
    if settings["kind"] == "click":
        return
    if "strategy" not in settings:
        raise SettingError(f"{rule} is a rule for clicks and draws no strokes; leave kind at click")
    if settings["choose"] in CLASS_CHOICES:
        raise SettingError(f"choose={settings['choose']} places clicks; also set kind=click")

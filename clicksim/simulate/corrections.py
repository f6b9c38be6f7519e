"""Corrections: prompts from a prediction's errors.

The wrong voxels are found in one pass over both masks that skips equal words, and everything after that works on
their runs. That pass costs less than to carry regions over from round to round and to prove that they still hold,
so nothing is kept between rounds but the prompts.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.geometry import Grid, Spacing
from clicksim.lesions import Component, find_lesions
from clicksim.lesions import connect as connect_runs
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.prompts.records import Voxel
from clicksim.protocols import effective_settings, load_protocol
from clicksim.simulate.errors import FALSE_NEGATIVE, find_errors
from clicksim.simulate.pen import draw_stroke
from clicksim.simulate.published_scribbles import published_correction
from clicksim.simulate.scribbles import spacing_of
from clicksim.streams import stream


@dataclass(frozen=True)
class Region:
    """One error region.

    Attributes:
        component: Its voxels; the id counts all regions in the order k, j, i of their first voxel.
        foreground: True where lesion was missed: the prompt that mends it is a foreground prompt.
        kind: `missed` (a lesion without any overlap), `under` (the missing part of a lesion that was found),
            `false` (a predicted component without any overlap), `over` (what a prediction adds to a lesion), or
            `merged` (the same, of a predicted component that joins several lesions).
    """

    component: Component
    foreground: bool
    kind: str


def correct(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    uptake: ArrayLike | None = None,  # noqa: ARG001 - part of the contract; no rule looks at it yet
    spacing: Sequence[float] | None = None,
    protocol: str = "autopet-v@2",
    seed: int = 42,
    case_id: str = "",
    round: int = 0,  # noqa: A002 - the field's word
    previous: Prompts | None = None,
    **settings: Any,
) -> Prompts:
    """The prompts with which a person would correct a prediction in one round.

    The mended rule corrects the largest error regions (26-connected components of the false positives or of the
    false negatives) with one prompt each, of the polarity that mends them, and never on a voxel that a previous
    prompt of the same polarity has. A perfect prediction gives none, with a note. The published rule gives the
    one stroke of the published loop, or none where that loop fails.

    Args:
        prediction: `(I, J, K)`; not 0 is predicted lesion.
        truth: `(I, J, K)`; not 0 is lesion; an instance map tells lesions apart.
        uptake: Reserved for rules that look at it.
        spacing: Voxel size in mm; rules in mm need it.
        protocol: Name and version.
        seed, case_id, round: Key the streams of mended rules.
        previous: Prompts of earlier rounds.
        **settings: Of the protocol's table `[scribbles]`, such as `kind="click"`.

    Returns:
        The prompts of this round alone.

    Raises:
        SettingError: An unknown protocol or setting.
        GeometryError: Shapes that differ; a missing spacing.
        ImageError: Values that are no labels.
    """
    rule = load_protocol(protocol)
    chosen, idle = effective_settings(rule, "scribbles", settings)
    for sentence in idle:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    grid = Grid.from_spacing(np.asarray(truth).shape, spacing)
    items: list[Click] | list[Scribble] | list[Click | Scribble]
    if chosen["rule"] == "published":
        errors = find_errors(prediction, truth, where=case_id)
        items, notes = published_correction(errors, chosen, seed=seed, number=round)
    else:
        size = spacing_of(grid, rule.id)
        regions = find_regions(prediction, truth, errors=chosen["errors"], where=case_id)
        case = _Correction(size, chosen, seed, case_id, round, previous)
        items = list(case.prompts(regions))
        notes = [] if items else ["no error left to correct" if not regions else "every error is prompted already"]
    return Prompts(tuple(items), grid, case_id, rule.id, seed, chosen, tuple(notes))


def find_regions(
    prediction: ArrayLike, truth: ArrayLike, *, errors: Sequence[str] = (), where: str = ""
) -> list[Region]:
    """The error regions of a prediction, each with its kind, in the order k, j, i of their first voxels.

    Args:
        prediction, truth: `(I, J, K)`.
        errors: Kinds to give; empty for all.
        where: A case to name in errors.
    """
    runs = find_errors(prediction, truth, where=where)
    components = connect_runs(runs.memory, runs.starts, runs.stops, runs.kinds, 26)
    first_kind = {int(start): int(kind) for start, kind in zip(runs.starts, runs.kinds, strict=True)}
    labels = _Labels(np.asarray(prediction), np.asarray(truth))
    regions = []
    for component in components:
        missed = first_kind[int(component.starts[0])] == FALSE_NEGATIVE
        kind = labels.kind_of(component, missed=missed) if errors else ""
        if not errors or kind in errors:
            regions.append(Region(component, missed, kind or labels.kind_of(component, missed=missed)))
    return regions


@dataclass
class _Labels:
    """Prediction and truth with their components, to tell kinds of error apart."""

    prediction: NDArray[Any]
    truth: NDArray[Any]
    _found: dict[str, list[tuple[Component, int]]] = field(default_factory=dict)

    def kind_of(self, region: Component, *, missed: bool) -> str:
        """The kind of an error region, by what its whole lesion or predicted component overlaps."""
        overlaps = self._overlaps("truth" if missed else "prediction", region.voxels[0])
        if missed:
            return "under" if overlaps else "missed"
        return ("false", "over", "merged")[min(overlaps, 2)]

    def _overlaps(self, side: str, voxel: NDArray[np.int64]) -> int:
        """How many components of the other mask the component at a voxel overlaps."""
        own, other = (self.truth, self.prediction) if side == "truth" else (self.prediction, self.truth)
        if side not in self._found:
            self._found[side] = [(component, -1) for component in find_lesions(own != 0, instances="components")]
        entries = self._found[side]
        for n, (component, count) in enumerate(entries):
            if component.holds(tuple(int(v) for v in voxel)):
                if count < 0:
                    count = self._count(component, other)
                    entries[n] = (component, count)
                return count
        return 0

    @staticmethod
    def _count(component: Component, other: NDArray[Any]) -> int:
        """Components of the other mask below one component; found in its box."""
        low, high = component.box
        box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
        inside = np.zeros(high - low + 1, dtype=bool)
        inside[tuple((component.voxels - low).T)] = True
        return len(find_lesions(np.where(inside, other[box], 0), instances="touching"))


@dataclass(frozen=True)
class _Correction:
    """One round under the mended rule."""

    spacing: Spacing
    settings: Mapping[str, Any]
    seed: int
    case_id: str
    round: int
    previous: Prompts | None

    def prompts(self, regions: list[Region]) -> Iterator[Click | Scribble]:
        """Prompts for the chosen regions, until the budget of the round is spent."""
        used = self._used()
        placed = 0
        for region in self._chosen(regions):
            if placed == self.settings["n_prompts"]:
                return
            prompt = self._prompt(region, used[region.foreground])
            if prompt is not None:
                used[region.foreground].update(prompt.voxels)
                placed += 1
                yield prompt

    def _chosen(self, regions: list[Region]) -> list[Region]:
        """Regions in the order in which they are corrected."""
        sizes = np.array([len(region.component.indices) for region in regions], dtype=np.float64)
        if self.settings["choose"] == "depth":
            sizes = np.array([region.component.deepest(self.spacing, closed=True)[1] for region in regions])
        elif self.settings["choose"] == "random":
            draws = stream(self.seed, self.case_id, "correct", self.round, "choice")
            sizes = -draws.exponential(size=len(regions)) / np.maximum(sizes, 1)
        return [regions[n] for n in np.argsort(-sizes, kind="stable")]

    def _prompt(self, region: Region, used: set[Voxel]) -> Click | Scribble | None:
        """A prompt in a region on voxels that have none; None where all are used."""
        polarity = "foreground" if region.foreground else "background"
        draws = stream(self.seed, self.case_id, "correct", self.round, polarity, region.component.id)
        if self.settings["kind"] == "click":
            voxel = self._click(region.component, used)
            return None if voxel is None else Click(voxel, region.foreground, region.component.id, self.round)
        stroke = draw_stroke(region.component, self.spacing, self.settings, draws)
        fresh = tuple(voxel for voxel in stroke if voxel not in used)
        return Scribble(fresh, region.foreground, region.component.id, self.round) if fresh else None

    def _click(self, component: Component, used: set[Voxel]) -> Voxel | None:
        """The deepest voxel without a prompt."""
        voxel, _ = component.deepest(self.spacing, closed=True)
        if voxel not in used:
            return voxel
        depths = component.depths(self.spacing, closed=True)
        for n in np.argsort(-depths, kind="stable"):
            i, j, k = (int(v) for v in component.voxels[n])
            if (i, j, k) not in used:
                return (i, j, k)
        return None

    def _used(self) -> dict[bool, set[Voxel]]:
        """Voxels of earlier prompts by polarity."""
        used: dict[bool, set[Voxel]] = {True: set(), False: set()}
        for prompt in self.previous or ():
            used[prompt.foreground].update(prompt.voxels)
        return used

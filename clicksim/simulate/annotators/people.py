"""Models of the person who prompts: displaced, missing, repeated and wrong clicks.

A rule places ideal prompts; an annotator changes them. Its parameters are those of a statistical model that can be
fitted to recorded prompts (`annotator_fit`), with a measure of the quality of the fit. The parameters of the presets
are assumed, and `source` says so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, SettingError, UptakeError, in_case, unknown_name
from clicksim.geometry import Grid, Spacing
from clicksim.lesions import Component, Components, Instances, find_lesions, radius_mm
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.prompts.kinds import Prompt, Voxel, as_voxel
from clicksim.simulate.arguments import spacing_of
from clicksim.streams import stream

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Annotator:
    """A model of a person who prompts.

    Attributes:
        name: Name in tables.
        offset_mm: Standard deviation, along each axis, of the displacement of a click in a point-like lesion, mm.
        offset_per_radius: Growth of that deviation per mm of the lesion's radius (of the sphere of equal volume).
        miss_intercept: Log-odds of missing a lesion of 1 ml with a contrast of 2.
        miss_per_volume: Change of the log-odds per e-fold of the volume; negative if large lesions are missed less.
        miss_per_contrast: The same for the contrast: highest uptake in the lesion over the mean around it.
        wrong_polarity: Probability that a prompt gets the opposite polarity.
        repeat: Probability that a prompt is followed by another one in the same region.
        tremor_mm: Standard deviation of each voxel of a stroke around its course, mm.
        seconds: Mean time for a prompt, s.
        source: The source of the parameters; `assumed` for presets.
    """

    name: str
    offset_mm: float = 0.0
    offset_per_radius: float = 0.0
    miss_intercept: float = -np.inf
    miss_per_volume: float = 0.0
    miss_per_contrast: float = 0.0
    wrong_polarity: float = 0.0
    repeat: float = 0.0
    tremor_mm: float = 0.0
    seconds: float = 0.0
    source: str = "assumed"

    def __post_init__(self) -> None:
        for name in ("offset_mm", "offset_per_radius", "tremor_mm", "seconds"):
            if not 0 <= getattr(self, name) < np.inf:
                raise SettingError(f"{name} of an annotator must be at least 0, got {getattr(self, name)}")
        for name in ("wrong_polarity", "repeat"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} of an annotator is a probability, got {getattr(self, name)}")
        for name in ("miss_per_volume", "miss_per_contrast"):
            if not math.isfinite(getattr(self, name)):
                raise SettingError(f"{name} of an annotator must be a finite number, got {getattr(self, name)}")
        if not self.miss_intercept < np.inf:
            raise SettingError(
                f"miss_intercept of an annotator must be a finite number, or -inf for never, got {self.miss_intercept}"
            )

    def spread(self, radius_mm: ArrayLike) -> Floats:
        """Standard deviation of the displacement along each axis, in mm."""
        return np.asarray(self.offset_mm + self.offset_per_radius * np.asarray(radius_mm, dtype=np.float64))

    def misses(self, volume_ml: ArrayLike, contrast: ArrayLike) -> Floats:
        """Probability that a lesion is missed."""
        if self.miss_intercept == -np.inf:
            return np.zeros(np.broadcast(volume_ml, contrast).shape)
        weights = [self.miss_per_volume, self.miss_per_contrast]
        odds = self.miss_intercept + miss_predictors(volume_ml, contrast) @ weights
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0))))


PRESETS = {
    "ideal": Annotator("ideal"),
    "careful": Annotator(
        "careful", offset_mm=1.0, offset_per_radius=0.1, miss_intercept=-4.0, miss_per_volume=-0.8,
        miss_per_contrast=-1.0, wrong_polarity=0.002, repeat=0.05, tremor_mm=0.5, seconds=4.0,
    ),
    "hurried": Annotator(
        "hurried", offset_mm=2.5, offset_per_radius=0.25, miss_intercept=-2.0, miss_per_volume=-0.8,
        miss_per_contrast=-1.0, wrong_polarity=0.02, repeat=0.15, tremor_mm=1.5, seconds=1.5,
    ),
}  # fmt: skip


def find_annotator(name: str) -> Annotator:
    """Get a preset by name.

    Raises:
        SettingError: If there is no such preset; the message suggests the nearest name.
    """
    if name not in PRESETS:
        raise unknown_name("annotator", name, PRESETS)
    return PRESETS[name]


def annotate(
    prompts: Prompts,
    mask: ArrayLike,
    annotator: Annotator | str,
    *,
    uptake: ArrayLike | None = None,
    instances: Instances = "auto",
    seed: int = 42,
) -> Prompts:
    """Change ideal prompts to the prompts of a person.

    A lesion that the person misses loses all its foreground prompts. Clicks are displaced by a Gaussian in mm; a
    click that would leave the volume is put on its border. The random draws depend only on the seed, the case, and
    the place of a prompt in its list.

    Args:
        prompts: Prompts of a rule; their grid must have a spacing.
        mask: `(I, J, K)`, the lesions for which the prompts were made.
        annotator: A model or the name of a preset.
        uptake: `(I, J, K)`; without it every lesion has a contrast of 2.
        instances: How values of the mask become lesions; the same as for the rule.
        seed: Seed of the person's draws.

    Returns:
        The changed prompts, with `annotator` and `effort_s` set for the person.

    Raises:
        SettingError: If the preset is unknown.
        GeometryError: If the mask or the uptake is on another grid than the prompts, or the grid has no spacing.
        UptakeError: If the uptake is not finite near a lesion.
    """
    person = Person.before(
        annotator, mask, prompts.grid, uptake=uptake, instances=instances, case_id=prompts.case_id, seed=seed
    )
    return replace(
        prompts,
        items=person.act(prompts.items),
        annotator=person.model.name,
        effort_s=person.model.seconds,
        notes=prompts.notes + person.notes,
    )


@dataclass(frozen=True, eq=False)
class Person:
    """An annotator with one case. The lesions that the person sees are the same in all rounds.

    Attributes:
        model: The annotator.
        lesions: The lesions of the case.
        hidden: Places of the missed lesions among them, ascending.
        grid, spacing: Grid of the case, and its spacing in mm.
        case_id, seed: Keys of the draws.
    """

    model: Annotator
    lesions: Components
    hidden: NDArray[np.int64]
    grid: Grid
    spacing: Spacing
    case_id: str
    seed: int

    @classmethod
    def before(
        cls,
        annotator: Annotator | str,
        mask: ArrayLike,
        grid: Grid,
        *,
        uptake: ArrayLike | None = None,
        instances: Instances = "auto",
        case_id: str = "",
        seed: int = 42,
    ) -> "Person":
        """Make the person for a case; see `annotate` for the arguments.

        Raises:
            SettingError, GeometryError, UptakeError: See `annotate`.
        """
        model = find_annotator(annotator) if isinstance(annotator, str) else annotator
        spacing = spacing_of(grid, "an annotator")
        image = None if uptake is None else np.asarray(uptake)
        lesions = lesions_on(grid, mask, image, instances, case_id)
        hidden = _hidden(model, lesions, spacing, image, case_id, seed)
        return cls(model, lesions, hidden, grid, spacing, case_id, seed)

    @property
    def notes(self) -> tuple[str, ...]:
        """A note about the lesions that the person misses."""
        if not len(self.hidden):
            return ()
        return (f"{self.model.name} misses {len(self.hidden)} of {len(self.lesions)} lesions",)

    def act(self, items: Sequence[Prompt]) -> tuple[Prompt, ...]:
        """Change prompts as the person would; strokes lose their voxels in missed lesions."""
        made: list[Prompt] = []
        for number, prompt in enumerate(items):
            places = self._lesions_under(prompt)
            seen = _without(prompt, np.isin(places, self.hidden))
            if seen is not None:
                draws = stream(self.seed, self.case_id, "annotator", self.model.name, prompt.round, number)
                met = places[places >= 0]
                volume_ml = float(self.lesions.sizes[met[0]]) * self.grid.voxel_ml if len(met) else 0.0
                made += _act(self.model, seen, volume_ml, self.grid, self.spacing, draws)
        return tuple(made)

    def seen_truth(self, truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[Any]:
        """The truth that the person sees: in a missed lesion, it equals the prediction."""
        if not len(self.hidden):
            return truth
        seen = truth.copy(order="K")
        for place in self.hidden:
            voxels = tuple(self.lesions[int(place)].voxels.T)
            seen[voxels] = np.where(prediction[voxels] != 0, truth[voxels], 0)
        return seen

    def _lesions_under(self, prompt: Prompt) -> NDArray[np.int64]:
        """The place of the lesion under each voxel of a foreground prompt, -1 for none.

        A click that the rule puts beside a lesion belongs to the lesion that the rule names.
        """
        voxels = np.asarray(prompt.voxels, dtype=np.int64)
        if not prompt.foreground or not len(self.lesions):
            return np.full(len(voxels), -1)
        places = place_of(self.lesions, voxels)
        named = np.flatnonzero(self.lesions.ids == prompt.lesion) if prompt.lesion is not None else places[:0]
        if np.all(places < 0) and len(named):
            places[:] = named[0]
        return places


def lesions_on(
    grid: Grid, mask: ArrayLike, uptake: NDArray[Any] | None, instances: Instances, case_id: str
) -> Components:
    """Check that mask and uptake have the shape of the prompts' grid, and find the lesions.

    Raises:
        GeometryError: If one of them has another shape.
    """
    labels = np.asarray(mask)
    for name, array in (("mask", labels), ("uptake", uptake)):
        if array is not None and array.shape != grid.shape:
            raise GeometryError(
                f"{name} and prompts are on different grids: {name} {array.shape}, prompts {grid.shape}"
                f"{in_case(case_id)}"
            )
    return find_lesions(labels, instances=instances, where=case_id)


def place_of(lesions: Components, voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(n,)` place of the lesion of each voxel inside the volume, -1 outside lesions."""
    if not len(lesions):
        return np.full(len(voxels), -1)
    starts, stops, numbers = lesions.runs_in_order
    indices = lesions.memory.indices(voxels)
    run = np.maximum(np.searchsorted(starts, indices, side="right") - 1, 0)
    inside = (starts[run] <= indices) & (indices < stops[run])
    return np.where(inside, numbers[run], -1)


def _without(prompt: Prompt, dropped: NDArray[np.bool_]) -> Prompt | None:
    """A prompt without some of its voxels; None if nothing is left."""
    if not dropped.any():
        return prompt
    if dropped.all() or not isinstance(prompt, Scribble):
        return None
    kept = tuple(voxel for voxel, drop in zip(prompt.voxels, dropped, strict=True) if not drop)
    return replace(prompt, voxels=kept)


def contrast_of(lesion: Component, uptake: NDArray[Any], spacing: Spacing, *, around_mm: float = 10.0) -> float:
    """Highest uptake in a lesion over the mean uptake around it, at least 1; 1 if there are no voxels around it.

    Raises:
        UptakeError: If the uptake is not finite in or near the lesion.
    """
    low, high = lesion.box
    reach = np.ceil(around_mm / np.asarray(spacing)).astype(int)
    first, last = np.maximum(low - reach, 0), np.minimum(high + reach + 1, uptake.shape)
    crop = uptake[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].astype(np.float64)
    if not np.isfinite(crop).all():
        raise UptakeError(f"uptake is not finite in or near lesion {lesion.id}; repair or mask it first")
    inside = np.zeros(crop.shape, dtype=bool)
    inside[tuple((lesion.voxels - first).T)] = True
    around = crop[~inside].mean() if not inside.all() else 0.0
    return max(1.0, float(crop[inside].max() / around)) if around > 0 else 1.0


def _hidden(
    model: Annotator,
    lesions: Components,
    spacing: Spacing,
    uptake: NDArray[Any] | None,
    case_id: str,
    seed: int,
) -> NDArray[np.int64]:
    """Draw the places of the lesions that the person does not see."""
    hidden = []
    volumes = lesions.sizes * (float(np.prod(spacing)) / 1000.0)
    for place, lesion in enumerate(lesions if model.miss_intercept > -np.inf else ()):
        contrast = 2.0 if uptake is None else contrast_of(lesion, uptake, spacing)
        chance = float(model.misses(volumes[place], contrast))
        if stream(seed, case_id, "annotator", model.name, "miss", lesion.id).random() < chance:
            hidden.append(place)
    return np.array(hidden, dtype=np.int64)


def _act(
    model: Annotator,
    prompt: Prompt,
    volume_ml: float,
    grid: Grid,
    spacing: Spacing,
    draws: np.random.Generator,
) -> Iterator[Prompt]:
    """Change one ideal prompt, in a lesion of given volume, as the person would; it may be repeated."""
    spread = float(model.spread(radius_mm(volume_ml)))
    while True:
        made = _displaced(prompt, spread, model.tremor_mm, grid, spacing, draws)
        flipped = draws.random() < model.wrong_polarity
        yield replace(made, foreground=made.foreground != flipped)
        if draws.random() >= model.repeat:
            return


def _displaced(
    prompt: Prompt, spread: float, tremor: float, grid: Grid, spacing: Spacing, draws: np.random.Generator
) -> Prompt:
    """Displace a click or a stroke as a whole, and each voxel of a stroke by the tremor."""
    shift = draws.standard_normal(3) * spread
    if spread == tremor == 0:
        return prompt
    if isinstance(prompt, Click):
        return replace(prompt, voxel=_place(prompt.voxel, shift, grid, spacing))
    if isinstance(prompt, Scribble):
        trembling = draws.standard_normal((len(prompt.voxels), 3)) * tremor + shift
        path = (_place(voxel, step, grid, spacing) for voxel, step in zip(prompt.voxels, trembling, strict=True))
        return replace(prompt, voxels=tuple(dict.fromkeys(path)))
    return prompt


def _place(voxel: Voxel, shift_mm: Floats, grid: Grid, spacing: Spacing) -> Voxel:
    moved = np.rint(np.asarray(voxel) + shift_mm / np.asarray(spacing)).astype(int)
    return as_voxel(np.clip(moved, 0, np.asarray(grid.shape) - 1))


def miss_predictors(volume_ml: ArrayLike, contrast: ArrayLike) -> Floats:
    """`(n, 2)` predictors of a miss, zero for 1 ml and a contrast of 2."""
    volume, ratio = np.broadcast_arrays(np.asarray(volume_ml, float), np.asarray(contrast, float))
    return np.stack([np.log(np.maximum(volume, 1e-6)), np.log(np.maximum(ratio, 1.0) / 2.0)], axis=-1)

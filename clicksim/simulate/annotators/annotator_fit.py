"""Fit an annotator to recorded prompts: the record of each lesion, the fit, and its quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import SettingError
from clicksim.lesions import Instances, radius_mm
from clicksim.prompts import Click, Prompts
from clicksim.simulate.annotators.people import (
    Annotator,
    Floats,
    contrast_of,
    lesions_on,
    miss_predictors,
    place_of,
)
from clicksim.simulate.arguments import spacing_of

REACH_MM = 20.0  # a foreground click farther than this from every lesion belongs to no lesion


@dataclass(frozen=True)
class CaseRecord:
    """The record of one case.

    Attributes:
        lesions: One entry per lesion.
        strays: Foreground clicks farther than `REACH_MM` from every lesion.
        strokes: Scribbles and boxes, which a fit of clicks does not use.
    """

    lesions: "list[Recorded]"
    strays: int
    strokes: int


def record_case(
    prompts: Prompts, mask: ArrayLike, *, uptake: ArrayLike | None = None, instances: Instances = "auto"
) -> CaseRecord:
    """Record what a person did with each lesion of one case.

    A foreground click belongs to the lesion that it hits, otherwise to the nearest one within `REACH_MM`. A
    background click that hits a lesion has the wrong polarity; all other background clicks are left out. The fit
    assumes that the person aims at the deepest voxel of a lesion. If the task is to click the middle of lesions, the
    offsets measure the displacement of the hand. In other tasks they also include the choice of the place.

    Args:
        prompts: Prompts of one person, on the grid of the mask, with a spacing.
        mask: `(I, J, K)`, the lesions that the person had to find.
        uptake: `(I, J, K)`; without it every lesion has a contrast of 2.
        instances: How values of the mask become lesions.

    Raises:
        GeometryError: If the mask or the uptake is on another grid than the prompts, or the grid has no spacing.
        UptakeError: If the uptake is not finite near a lesion.
    """
    spacing = spacing_of(prompts.grid, "a fit")
    image = None if uptake is None else np.asarray(uptake)
    lesions = lesions_on(prompts.grid, mask, image, instances, prompts.case_id)
    volumes = lesions.sizes * prompts.grid.voxel_ml
    clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
    voxels = np.array([click.voxel for click in clicks], dtype=np.int64).reshape(-1, 3)
    places = place_of(lesions, voxels)
    foreground = np.array([click.foreground for click in clicks], dtype=bool)
    beside = np.flatnonzero(foreground & (places < 0))
    places[beside] = _nearest(voxels[beside], [lesion.voxels for lesion in lesions], np.asarray(spacing))
    found = []
    for place, lesion in enumerate(lesions):
        own = places == place
        middle, _ = lesion.deepest(spacing, closed=True)
        found.append(
            Recorded(
                volume_ml=float(volumes[place]),
                contrast=2.0 if image is None else contrast_of(lesion, image, spacing),
                offsets_mm=(voxels[own] - np.array(middle)) * np.asarray(spacing),
                wrong=int(np.count_nonzero(own & ~foreground)),
                seconds=float(np.count_nonzero(own)) * (prompts.effort_s or 0.0),
            )
        )
    return CaseRecord(found, int(np.count_nonzero(foreground & (places < 0))), len(prompts) - len(clicks))


@dataclass(frozen=True)
class Fit:
    """An annotator fitted to recorded prompts.

    Attributes:
        annotator: The fitted model.
        intervals: 95 % bootstrap interval of each fitted parameter.
        offset_p: p-value of the displacements under the model (Kolmogorov-Smirnov); small means a bad fit.
        miss_error: Mean difference, over fifths of the predicted probability, between predicted and observed misses.
        lesions, clicks: Numbers used in the fit.
    """

    annotator: Annotator
    intervals: Mapping[str, tuple[float, float]]
    offset_p: float
    miss_error: float
    lesions: int
    clicks: int


@dataclass(frozen=True)
class Recorded:
    """The record of one lesion that a person was shown.

    Attributes:
        volume_ml, contrast: Volume and contrast of the lesion.
        offsets_mm: `(n, 3)` displacement of each click from the lesion's deepest voxel; empty if it was missed.
        wrong: Clicks of the wrong polarity among them.
        seconds: Time spent on it.
    """

    volume_ml: float
    contrast: float
    offsets_mm: NDArray[np.float64]
    wrong: int = 0
    seconds: float = 0.0


def fit_annotator(name: str, recorded: Sequence[Recorded], *, seed: int = 42, bootstrap: int = 200) -> Fit:
    """Fit an annotator to recorded prompts by maximum likelihood.

    Displacements are Gaussian with a deviation linear in the lesion's radius. Misses follow a logistic regression on
    the logarithms of volume and contrast. Polarity and repetition are shares. Intervals come from drawing lesions
    with replacement.

    Raises:
        SettingError: If there are fewer than ten lesions, no click, or no sample for the intervals.
    """
    if bootstrap < 1:
        raise SettingError(f"intervals need at least one bootstrap sample, got {bootstrap}")
    if len(recorded) < 10 or not any(len(entry.offsets_mm) for entry in recorded):
        clicks = sum(len(entry.offsets_mm) for entry in recorded)
        raise SettingError(
            f"a fit needs at least ten lesions and a click, got {len(recorded)} lesions and {clicks} clicks"
        )
    model = _fit(name, recorded)
    names = [field.name for field in fields(Annotator) if field.type is float]
    draws = np.random.Generator(np.random.Philox(seed))
    samples = []
    for _ in range(bootstrap):
        chosen = [recorded[n] for n in draws.integers(len(recorded), size=len(recorded))]
        if any(len(entry.offsets_mm) for entry in chosen):
            samples.append([getattr(_fit(name, chosen), key) for key in names])
    low, high = np.quantile(np.array(samples), [0.025, 0.975], axis=0, method="inverted_cdf")
    intervals = {key: (float(a), float(b)) for key, a, b in zip(names, low, high, strict=True)}
    clicks = sum(len(entry.offsets_mm) for entry in recorded)
    return Fit(model, intervals, _offset_p(model, recorded), _miss_error(model, recorded), len(recorded), clicks)


def _fit(name: str, recorded: Sequence[Recorded]) -> Annotator:
    seen = [entry for entry in recorded if len(entry.offsets_mm)]
    offset, growth = _fit_offsets(seen)
    intercept, per_volume, per_contrast = _fit_misses(recorded)
    clicks = sum(len(entry.offsets_mm) for entry in seen)
    return Annotator(
        name,
        offset_mm=offset,
        offset_per_radius=growth,
        miss_intercept=intercept,
        miss_per_volume=per_volume,
        miss_per_contrast=per_contrast,
        wrong_polarity=sum(entry.wrong for entry in seen) / clicks,
        repeat=1.0 - len(seen) / clicks,
        seconds=sum(entry.seconds for entry in seen) / clicks,
        source=f"fitted to {clicks} clicks on {len(recorded)} lesions",
    )


def _fit_offsets(seen: Sequence[Recorded]) -> tuple[float, float]:
    """Fit the deviation at radius 0 and its growth by maximum likelihood."""
    from scipy.optimize import minimize

    counts = [len(entry.offsets_mm) for entry in seen]
    radii = np.repeat(radius_mm([entry.volume_ml for entry in seen]), counts)
    squared = (np.concatenate([entry.offsets_mm for entry in seen]) ** 2).sum(axis=1)

    def cost(parameters: Floats) -> tuple[float, Floats]:
        spread = np.maximum(parameters[0] + parameters[1] * radii, 1e-6)
        slope = 3 / spread - squared / spread**3
        return float((3 * np.log(spread) + squared / (2 * spread**2)).sum()), np.array([slope.sum(), slope @ radii])

    start = np.array([np.sqrt(squared.mean() / 3) / 2 + 1e-3, 0.05])
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (0, None)])
    return float(found.x[0]), float(found.x[1])


def _fit_misses(recorded: Sequence[Recorded]) -> tuple[float, float, float]:
    """Fit a logistic regression with a weak ridge, which keeps it finite if all lesions were seen or missed."""
    from scipy.optimize import minimize
    from scipy.special import expit

    missed = np.array([not len(entry.offsets_mm) for entry in recorded], dtype=np.float64)
    if not missed.any():
        return (-np.inf, 0.0, 0.0)
    volumes, contrasts = (np.array([getattr(entry, key) for entry in recorded]) for key in ("volume_ml", "contrast"))
    design = np.column_stack([np.ones(len(recorded)), miss_predictors(volumes, contrasts)])

    ridge = 0.01 * np.array([0.0, 1.0, 1.0])

    def cost(weights: Floats) -> tuple[float, Floats]:
        odds = design @ weights
        value = (np.logaddexp(0, odds) - missed * odds).sum() + ridge @ weights**2
        return float(value), design.T @ (expit(odds) - missed) + 2 * ridge * weights

    found = minimize(cost, np.zeros(3), jac=True, method="L-BFGS-B")
    return (float(found.x[0]), float(found.x[1]), float(found.x[2]))


def _offset_p(model: Annotator, recorded: Sequence[Recorded]) -> float:
    """Kolmogorov-Smirnov test of the scaled displacements against the chi distribution of three axes."""
    from scipy.stats import chi, kstest

    scaled = [
        np.linalg.norm(entry.offsets_mm, axis=1) / np.maximum(model.spread(radius_mm(entry.volume_ml)), 1e-9)
        for entry in recorded
        if len(entry.offsets_mm)
    ]
    return float(kstest(np.concatenate(scaled), chi(3).cdf).pvalue)


def _miss_error(model: Annotator, recorded: Sequence[Recorded]) -> float:
    chance = np.array([float(model.misses(entry.volume_ml, entry.contrast)) for entry in recorded])
    missed = np.array([not len(entry.offsets_mm) for entry in recorded], dtype=np.float64)
    fifths = np.array_split(np.argsort(chance, kind="stable"), 5)
    return float(np.mean([abs(chance[part].mean() - missed[part].mean()) for part in fifths]))


def _nearest(voxels: NDArray[np.int64], lesions: Sequence[NDArray[Any]], spacing: Floats) -> NDArray[np.int64]:
    """Place of the nearest lesion (the first if equal) for each voxel, -1 if none is within `REACH_MM`."""
    if not len(voxels) or not lesions:
        return np.full(len(voxels), -1)
    from scipy.spatial import cKDTree

    owner = np.repeat(np.arange(len(lesions)), [len(part) for part in lesions])
    distance, near = cKDTree(np.concatenate(lesions) * spacing).query(voxels * spacing)
    return np.where(distance <= REACH_MM, owner[near], -1)

"""Prompts of a training sample: how many, of which kind, and where; simulated on patches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickseg.data.prompt_channels import FOREGROUND
from clickseg.training_settings import TrainSettings
from clicksim.errors import SettingError, unknown_name
from clicksim.geometry import Grid, Spacing
from clicksim.prompts import Prompts, Scribble
from clicksim.protocols import ProtocolName, effective_settings, load_protocol
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.scribbles.scribble_rules import simulate_scribbles

U_SHAPE = (0.10, 0.10, 0.10, 0.08, 0.04, 0.04, 0.04, 0.04, 0.08, 0.08, 0.30)  # odds of 0 to 10 prompts, as published


@dataclass(frozen=True)
class PromptPlan:
    """The prompts that one sample gets.

    Attributes:
        count: Prompts of each polarity before the first prediction.
        corrections: Rounds of correction after it.
        stroke: Strategy of scribbles; empty for clicks.
        seed: Seed of its prompts.
        name: Key of the simulator's random streams.
    """

    count: int
    corrections: int
    stroke: str
    seed: int
    name: str


def count_law(law: str, most: int) -> NDArray[np.float64]:
    """Return the odds of 0 to `most` prompts of each polarity.

    `uniform`: all equal. `log`: proportional to `ln(most + 2 - n)`, which is `ln(12 - n) / ln(12!)` for 10.
    `u-shape`: the published odds of 0 to 10, interpolated at the same fraction of `most` for other numbers.

    Raises:
        SettingError: The law is unknown.
    """
    n = np.arange(most + 1)
    if law == "uniform":
        odds = np.ones(most + 1)
    elif law == "log":
        odds = np.log(most + 2.0 - n)
    elif law == "u-shape":
        odds = np.interp(n / max(most, 1), np.linspace(0, 1, len(U_SHAPE)), U_SHAPE)
    else:
        raise unknown_name("law", law, ("uniform", "log", "u-shape"))
    return np.asarray(odds / odds.sum())


def corrections_at(step: int, settings: TrainSettings) -> int:
    """Return the largest number of correction rounds at a step: 0 at first, then one more at even intervals."""
    done = step / settings.steps
    if settings.corrections == 0 or done < settings.corrections_from:
        return 0
    span = settings.corrections_full - settings.corrections_from
    share = 1.0 if span <= 0 else min(1.0, (done - settings.corrections_from) / span)
    return min(settings.corrections, 1 + int(share * (settings.corrections - 1) + 1e-9))


def draw_plan(draws: np.random.Generator, step: int, name: str, settings: TrainSettings) -> PromptPlan:
    """Draw the prompts that a sample gets at a step.

    With probability `silent` a sample gets no prompt at all, regardless of law and curriculum, so that a model still
    learns to work without prompts.
    """
    silent = draws.random() < settings.silent
    count = int(draws.choice(settings.max_prompts + 1, p=count_law(settings.law, settings.max_prompts)))
    corrections = int(draws.integers(corrections_at(step, settings) + 1))
    stroke = settings.strokes[draws.integers(len(settings.strokes))] if draws.random() < settings.scribbles else ""
    seed = int(draws.integers(2**31))
    return PromptPlan(0 if silent else count, 0 if silent else corrections, stroke, seed, name)


def first_prompts(
    plan: PromptPlan,
    mask: NDArray[Any],
    pet: NDArray[np.float32] | None,
    spacing: Spacing,
    instances: Any,
    protocol: tuple[ProtocolName, ProtocolName],
) -> Prompts:
    """Draw the prompts of a patch before the first prediction.

    Clicks are placed in lesions and in hot uptake outside lesions; without a PET, in lesions and in a shell around
    them. Scribbles are placed in lesions and in a shell around them. A patch without a lesion gets background clicks
    only.

    Args:
        plan: The prompts that the sample gets.
        mask: `(I, J, K)`, 0 outside lesions.
        pet: SUV, or None.
        spacing: Voxel size in mm.
        instances: How values of the mask become lesions.
        protocol: Protocols of clicks and of scribbles.
    """
    if plan.count == 0:
        return Prompts((), Grid.from_spacing(mask.shape, spacing))
    if plan.stroke:
        return simulate_scribbles(
            mask, spacing=spacing, instances=instances, protocol=protocol[1], seed=plan.seed, case_id=plan.name,
            n_components=plan.count, strategy=plan.stroke,
        )  # fmt: skip
    return simulate_clicks(
        mask, uptake=pet, spacing=spacing, instances=instances, protocol=protocol[0], seed=plan.seed,
        case_id=plan.name, n_foreground=plan.count, n_background=plan.count,
        background="shell" if pet is None else "hot",
    )  # fmt: skip


def next_prompts(
    plan: PromptPlan,
    prediction: NDArray[Any],
    truth: NDArray[Any],
    spacing: Spacing,
    number: int,
    rows: NDArray[np.int64],
    protocol: ProtocolName,
) -> Prompts:
    """Correct a prediction: draw one prompt in its largest error.

    Args:
        plan: The prompts that the sample gets.
        prediction, truth: `(I, J, K)`.
        spacing: Voxel size in mm.
        number: Number of the round, from 1.
        rows: `(n, 5)` earlier prompts of this sample, as `clickseg.data.prompt_channels` takes them.
        protocol: Protocol of corrections.
    """
    how: dict[str, Any] = {"kind": "scribble", "strategy": plan.stroke} if plan.stroke else {"kind": "click"}
    return correct(
        prediction, truth, spacing=spacing, protocol=protocol, seed=plan.seed, case_id=plan.name, round=number,
        previous=_as_prompts(rows, Grid.from_spacing(truth.shape, spacing)), **how,
    )  # fmt: skip


def check_protocols(settings: TrainSettings) -> None:
    """Raise a `SettingError` unless both protocols have revised rules; published rules work only on whole cases."""
    for name, table in ((settings.click_protocol, "clicks"), (settings.correction_protocol, "scribbles")):
        rule = load_protocol(name)
        chosen, _ = effective_settings(rule, table, {})
        if chosen["rule"] != "revised":
            raise SettingError(
                f"{rule.id} is a published rule for whole cases; training simulates on patches and needs a revised "
                "one, such as autopet-iv@2 for clicks and autopet-v@2 for corrections"
            )


def _as_prompts(rows: NDArray[np.int64], grid: Grid) -> Prompts:
    """Convert earlier prompts for the simulator, which reads only voxels and polarity."""
    items = []
    for polarity in np.unique(rows[:, 1]):
        voxels = tuple((int(i), int(j), int(k)) for i, j, k in rows[rows[:, 1] == polarity, 2:])
        items.append(Scribble(voxels, bool(polarity == FOREGROUND)))
    return Prompts(tuple(items), grid)

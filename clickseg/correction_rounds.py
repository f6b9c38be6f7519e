"""Rounds of correction on patches: predict, prompt in the errors, predict again, with the current model.

The simulator needs masks (one byte per voxel) and the table of prompts on the host. They go through `to_host`, and only
in rounds that are played. Nothing else leaves the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clickseg.data.dataset import Batch
from clickseg.data.prompt_channels import channel_rows
from clickseg.data.training_prompts import next_prompts
from clickseg.model.losses import dice
from clickseg.model.network import Segmenter, finest
from clicksim.protocols import ProtocolName

THRESHOLD = 0.0  # a logit, for a probability of one half


@dataclass(frozen=True)
class Turn:
    """The input of a prediction.

    Attributes:
        points: `(n, 5)` all prompts so far.
        previous: `(B, 1, I, J, K)` float32 previous masks; 0 for samples without one.
    """

    points: Tensor
    previous: Tensor


def to_host(tensor: Tensor) -> NDArray[Any]:
    """Copy to the host. This is the only call in a training step that waits for the device."""
    return tensor.cpu().numpy()


def play_corrections(
    predict: Callable[[Tensor], Tensor],
    model: Segmenter,
    batch: Batch,
    protocol: ProtocolName,
    rounds: Sequence[int] | None = None,
) -> Turn:
    """Play the corrections of a batch; only samples with rounds left are predicted.

    Args:
        predict: Maps channels to logits; called without gradient.
        model: Draws guidance and channels.
        batch: A batch on the device.
        protocol: Protocol of the corrections.
        rounds: Number of rounds of each sample; by default that of its plan.

    Returns:
        The input of the last prediction of each sample.
    """
    left = [plan.corrections for plan in batch.plans] if rounds is None else list(rounds)
    points, previous = batch.points, torch.zeros_like(batch.label, dtype=torch.float32)
    if not any(left):
        return Turn(points, previous)
    truth, rows = to_host(batch.label)[:, 0], to_host(points)
    for number in range(1, max(left) + 1):
        active = [n for n, count in enumerate(left) if count >= number]
        asked = Turn(torch.from_numpy(_rows_for(rows, active)).to(points.device), previous[active])
        mask = ask_model(predict, model, select_samples(batch, active), asked)
        previous = previous.clone()
        previous[active] = mask.float()
        rows = prompt_errors(batch, active, to_host(mask.to(torch.uint8))[:, 0], truth, rows, number, protocol)
    return Turn(torch.from_numpy(rows).to(points.device, non_blocking=True), previous)


def score_rounds(
    predict: Callable[[Tensor], Tensor], model: Segmenter, batch: Batch, protocol: ProtocolName, rounds: int
) -> NDArray[np.float32]:
    """Return `(rounds + 1, B)` Dice of a batch after 0, 1, ... corrections."""
    truth, rows = to_host(batch.label)[:, 0], to_host(batch.points)
    turn = Turn(batch.points, torch.zeros_like(batch.label, dtype=torch.float32))
    everyone, scores = list(range(len(batch))), []
    for number in range(rounds + 1):
        mask = ask_model(predict, model, batch, turn)
        scores.append(to_host(dice(mask, batch.label)))
        if number < rounds:
            found = to_host(mask.to(torch.uint8))[:, 0]
            rows = prompt_errors(batch, everyone, found, truth, rows, number + 1, protocol)
            turn = Turn(torch.from_numpy(rows).to(batch.points.device), mask.float())
    return np.stack(scores).astype(np.float32)


def ask_model(predict: Callable[[Tensor], Tensor], model: Segmenter, batch: Batch, turn: Turn) -> Tensor:
    """Return the predicted mask, `(B, 1, I, J, K)` bool, without gradient."""
    with torch.no_grad():
        return finest(predict(channels_of(model, batch, turn))) > THRESHOLD


def prompt_errors(
    batch: Batch,
    samples: Sequence[int],
    masks: NDArray[np.generic],
    truth: NDArray[np.generic],
    rows: NDArray[np.int64],
    number: int,
    protocol: ProtocolName,
) -> NDArray[np.int64]:
    """Return the prompts with one more for each sample whose mask still has an error."""
    new = []
    for place, n in enumerate(samples):
        mine = rows[rows[:, 0] == n]
        made = next_prompts(batch.plans[n], masks[place], truth[n], batch.spacing[n], number, mine, protocol)
        new.append(channel_rows(made, sample=n))
    return np.concatenate([rows, *new])


def channels_of(model: Segmenter, batch: Batch, turn: Turn) -> Tensor:
    """Return the input channels of the network for one round."""
    shape = (int(batch.label.shape[2]), int(batch.label.shape[3]), int(batch.label.shape[4]))
    guidance = model.guidance(turn.points, len(batch), shape, batch.spacing, batch.images[:, 1:], batch.has_pet)
    return model.channels(
        batch.images[:, :1], batch.images[:, 1:], guidance, previous=turn.previous, has_pet=batch.has_pet
    )


def spoil(previous: Tensor, fates: Sequence[tuple[str, NDArray[np.int64]]]) -> Tensor:
    """Corrupt the previous mask of each sample as drawn; see `clickseg.data.dataset.FATES`."""
    out = previous.clone()
    for n, (fate, (low, high)) in enumerate(fates):
        box = (slice(n, n + 1), slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        if fate == "drop":
            out[n] = 0
        elif fate == "grow":
            out[n : n + 1] = functional.max_pool3d(out[n : n + 1], 3, stride=1, padding=1)
        elif fate == "shrink":
            out[n : n + 1] = -functional.max_pool3d(-out[n : n + 1], 3, stride=1, padding=1)
        elif fate in ("clear", "fill"):
            out[box] = float(fate == "fill")
    return out


def select_samples(batch: Batch, samples: Sequence[int]) -> Batch:
    """Return some samples of a batch, without the table of prompts, which the caller renumbers."""
    chosen = list(samples)
    return Batch(
        images=batch.images[chosen], has_pet=batch.has_pet[chosen], label=batch.label[chosen], points=batch.points[:0],
        matrices=None, plans=tuple(batch.plans[n] for n in chosen), spacing=tuple(batch.spacing[n] for n in chosen),
        fates=tuple(batch.fates[n] for n in chosen),
    )  # fmt: skip


def _rows_for(rows: NDArray[np.int64], samples: Sequence[int]) -> NDArray[np.int64]:
    """Return the prompts of some samples, with samples renumbered from 0 in the given order."""
    parts = []
    for place, n in enumerate(samples):
        part = rows[rows[:, 0] == n].copy()
        part[:, 0] = place
        parts.append(part)
    return np.concatenate(parts)

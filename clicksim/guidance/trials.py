"""Trials of a model: whether it uses its guidance, and whether its mask agrees with the clicks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError, ImageError
from clicksim.findings import Finding
from clicksim.geometry import check_spacing
from clicksim.prompts import Box, Prompts
from clicksim.prompts.records import check_inside
from clicksim.streams import stream

Predict = Callable[[NDArray[np.float32]], Any]
LOW_OBEDIENCE = 0.9


def lint_predictor(
    predict: Predict,
    guidance: NDArray[np.float32],
    prompts: Prompts,
    *,
    spacing: Sequence[float] | None = None,
    shift_mm: float = 20.0,
    threshold: float = 0.5,
    seed: int = 42,
) -> list[Finding]:
    """Run a model again with altered guidance, and compare the masks.

    Trials: the same guidance (`repeat`), all channels zero (`zero`), voxels in random order (`shuffle`), guidance moved
    by `shift_mm` along each axis (`shift`), polarities exchanged (`flip`), without background (`background`: background
    prompts must not add lesion) and without foreground (`foreground`: foreground prompts must not remove lesion).
    `obeys` is the share of the voxels of clicks and scribbles that is predicted as clicked. A change is 1 - Dice of
    the two masks; the change of `repeat` counts as noise.

    Args:
        predict: Takes guidance `(2, I, J, K)` and returns a mask or probabilities `(I, J, K)`; it has the images.
        guidance: Foreground and background as the model takes them, on the prompts' grid.
        prompts: The prompts that the guidance shows.
        spacing: Voxel size in mm, if the prompts' grid has none; if it is unknown, a voxel counts as 1 mm.
        shift_mm: How far guidance is moved, in mm; at least one voxel.
        threshold: Probabilities above it are lesion.
        seed: Seed of the shuffle.

    Returns:
        One finding per trial, for the channel `model`.

    Raises:
        GeometryError: The guidance or a prediction has another shape, or a prompt is outside its volume.
        ImageError: A prediction is not finite.
    """
    if guidance.ndim != 4 or guidance.shape != (2, *prompts.grid.shape):
        raise GeometryError(
            f"the trials need guidance of shape {(2, *prompts.grid.shape)}, the prompts' volume; got {guidance.shape}"
        )
    check_inside(prompts, where=f"case {prompts.case_id}" if prompts.case_id else "")
    size = prompts.grid.spacing if spacing is None else check_spacing(spacing)

    def ask(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
        return _as_mask(predict(channels.copy()), prompts.grid.shape, threshold)

    base = ask(guidance)
    noise = _change(base, ask(guidance))
    steps = [max(1, round(shift_mm / s)) for s in size or (1.0, 1.0, 1.0)]
    order = stream(seed, prompts.case_id, "lint", "shuffle").permutation(base.size)
    shuffled = guidance.reshape(2, -1)[:, order].reshape(guidance.shape)
    trials = {
        "zero": np.zeros_like(guidance),
        "shuffle": shuffled,
        "shift": np.roll(guidance, steps, axis=(1, 2, 3)),
        "flip": guidance[::-1],
    }
    findings = [_repeat(noise), _obeys(base, prompts)]
    if not len(prompts):
        return findings
    findings += [_trial(name, _change(base, ask(channels)), noise) for name, channels in trials.items()]
    for polarity, name in enumerate(("foreground", "background")):
        if len(getattr(prompts, name)):
            without = guidance.copy()
            without[polarity] = 0
            findings.append(_monotone(name, base, ask(without)))
    return findings


def _repeat(noise: float) -> Finding:
    if noise:
        return _of_model("note", "repeat", f"the same input changes {noise:.1%} of the mask", noise)
    return _of_model("good", "repeat", "the same input gives the same mask", 0.0)


def _obeys(base: NDArray[np.bool_], prompts: Prompts) -> Finding:
    """Check that each prompt's voxel is predicted as clicked; the corners of a box need not be."""
    right = [base[v] == prompt.foreground for prompt in prompts if not isinstance(prompt, Box) for v in prompt.voxels]
    if not right:
        return _of_model("note", "obeys", "no clicks or scribbles to obey")
    share = sum(right) / len(right)
    severity = "good" if share >= LOW_OBEDIENCE else "warning" if share >= 0.5 else "error"
    return _of_model(severity, "obeys", f"{sum(right)} of {len(right)} prompt voxels are predicted as clicked", share)


def _trial(name: str, change: float, noise: float) -> Finding:
    words = {
        "zero": "without guidance",
        "shuffle": "with shuffled guidance",
        "shift": "with shifted guidance",
        "flip": "with the polarities exchanged",
    }
    text = f"{words[name]} {change:.1%} of the mask changes"
    if change <= noise:
        return _of_model("error", name, f"{text}: the model does not use it", change)
    return _of_model("warning" if change < noise + 0.001 else "good", name, text, change)


def _monotone(name: str, base: NDArray[np.bool_], without: NDArray[np.bool_]) -> Finding:
    """Check that foreground prompts only add voxels and background prompts only remove them."""
    added, removed = int(np.count_nonzero(base & ~without)), int(np.count_nonzero(without & ~base))
    wrong, right = (removed, added) if name == "foreground" else (added, removed)
    text = f"the {name} prompts add {added} voxels and remove {removed}"
    if wrong > right:
        return _of_model("error", name, f"{text}: against their polarity", float(wrong))
    if wrong:
        return _of_model("note", name, text, float(wrong))
    return _of_model("good", name, text, 0.0)


def _of_model(severity: str, check: str, detail: str, value: float | None = None) -> Finding:
    return Finding(severity, check, (), detail, "model", value)


def _change(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """1 - Dice; 0 for two empty masks."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 - 2.0 * int(np.count_nonzero(first & second)) / total if total else 0.0


def _as_mask(answer: Any, shape: tuple[int, ...], threshold: float) -> NDArray[np.bool_]:
    array = np.asarray(answer)
    if array.shape != shape:
        raise GeometryError(f"the prediction has shape {array.shape}, the guidance {shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError("the prediction has NaN or infinite values")
        return array > threshold
    return array != 0

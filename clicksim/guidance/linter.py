"""The guidance linter: what a channel shows, and what is wrong with it.

A faulty channel raises no error: the network trains, but worse. Each check looks for one fault that has been published,
and gives a verdict with the number that it measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError, ImageError
from clicksim.findings import Finding, format_findings, worst_severity
from clicksim.geometry import Grid, Spacing, check_spacing
from clicksim.guidance.canvas import whole_origin
from clicksim.prompts import Prompts

LOW_PEAK, FAINT_PEAK = 0.1, 0.5
DELTA = 1e-3  # of the peak, one voxel away
SPIKE = 30.0  # standard deviations
FAR = 3  # largest shift, in voxels, that is recognised


def lint(
    guidance: ArrayLike,
    prompts: Prompts,
    *,
    spacing: Sequence[float] | None = None,
    origin: Sequence[int] | None = None,
) -> list[Finding]:
    """Compare guidance channels with the prompts that they should show.

    The checks of each polarity are `finite`, `storage`, `prompts` (lost or clipped), `peak`, `polarity` (inverted or
    exchanged), `place` (axes exchanged, mirrored or shifted), `support` in mm, `energy`, `balance` between the prompts
    of a round, and `z-score`. `overlap` checks both together.

    Args:
        guidance: `(2, I, J, K)`, foreground and background, or one signed channel, `(1, I, J, K)` or `(I, J, K)`.
        prompts: The prompts that were drawn.
        spacing: Voxel size in mm, if the prompts' grid has none.
        origin: The voxel of the prompts' grid at which the channels begin.

    Returns:
        One finding per check and channel; `format_lint` formats them.

    Raises:
        GeometryError: The channels are not on the prompts' grid.
        ImageError: The channels are not real numbers.
    """
    channels = _channels(guidance)
    start = np.zeros(3, dtype=np.int64) if origin is None else whole_origin(origin)
    if origin is None and channels.shape[1:] != prompts.grid.shape:
        if sorted(channels.shape[1:]) == sorted(prompts.grid.shape):
            hint = "the axes are exchanged, as between arrays in z, y, x and in x, y, z; transpose the channels"
        else:
            hint = "a patch needs origin="
        raise GeometryError(
            f"the channels have shape {channels.shape[1:]}, the prompts' volume {prompts.grid.shape}: {hint}"
        )
    size = prompts.grid.spacing if spacing is None else check_spacing(spacing)
    sides = [
        _Side(name, channel, _voxels(prompts, foreground, start), _voxels(prompts, not foreground, start),
              _rounds(prompts, foreground), size)
        for name, foreground, channel in zip(("foreground", "background"), (True, False), channels, strict=True)
    ]  # fmt: skip
    findings = [finding for side in sides for finding in _check_side(side)]
    return [*findings, _overlap(*sides)]


def format_lint(findings: Sequence[Finding]) -> str:
    """Format findings as text, one line each, with the worst severity and the number of faults at the end."""
    faults = sum(finding.severity in ("error", "warning") for finding in findings)
    end = f"{faults} of {len(findings)} checks found a fault" if faults else f"no fault in {len(findings)} checks"
    return f"{format_findings(findings)}\nverdict: {worst_severity(findings)}; {end}"


@dataclass(frozen=True, eq=False)
class _Side:
    """One channel with its own prompts and those of the other polarity."""

    name: str
    channel: NDArray[Any]
    voxels: NDArray[np.int64]
    others: NDArray[np.int64]
    rounds: NDArray[np.int64]
    spacing: Spacing | None

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which prompts are inside the channel."""
        return Grid(self.channel.shape).holds(self.voxels)

    @cached_property
    def peak(self) -> float:
        """The largest value."""
        return float(self.channel.max())

    @cached_property
    def at_prompts(self) -> NDArray[np.float64]:
        """The values under the prompts inside the channel."""
        return _values(self.channel, self.voxels[self.seen])

    @cached_property
    def strong(self) -> NDArray[np.bool_]:
        """Where the channel reaches half of its value at its prompts."""
        level = float(np.median(self.at_prompts)) if len(self.at_prompts) else 0.0
        # a channel without values at its prompts is judged by its peak
        level = level if level > 0 else self.peak
        return self.channel >= 0.5 * level if level > 0 else np.zeros(self.channel.shape, dtype=bool)

    def good(self, check: str, reason: str, value: float | None = None) -> Finding:
        return Finding("good", check, (), reason, self.name, value)

    def note(self, check: str, reason: str, value: float | None = None) -> Finding:
        return Finding("note", check, (), reason, self.name, value)

    def warning(self, check: str, reason: str, value: float | None = None) -> Finding:
        return Finding("warning", check, (), reason, self.name, value)

    def error(self, check: str, reason: str, value: float | None = None) -> Finding:
        return Finding("error", check, (), reason, self.name, value)


def _check_side(side: _Side) -> list[Finding]:
    if not np.isfinite(side.channel).all():
        count = int(np.count_nonzero(~np.isfinite(side.channel)))
        return [side.error("finite", f"{count} values are NaN or infinite; nothing else was checked", float(count))]
    if not len(side.voxels):
        return [_without_prompts(side)]
    if not side.seen.any():
        return [side.note("prompts", f"all {len(side.voxels)} prompt voxels lie outside the channels")]
    if side.peak <= 0 and side.channel.min() >= 0:
        return [side.error("peak", f"the channel is empty, though {len(side.voxels)} prompt voxels belong in it", 0.0)]
    return [check(side) for check in CHECKS]


def _without_prompts(side: _Side) -> Finding:
    span = float(np.abs(side.channel).max())
    if span == 0:
        return side.good("prompts", "no prompts, and the channel is zero")
    return side.error("prompts", f"no prompts, but values up to {span:.3g}: a ramp or leftover values", span)


def _prompts(side: _Side) -> Finding:
    """Find prompts outside the channel, without a value, or so close to a face that their support is clipped."""
    outside = len(side.voxels) - int(side.seen.sum())
    lost = int(np.count_nonzero(side.at_prompts <= 0))
    whole = len(side.voxels)
    if lost:
        return side.error("prompts", f"{lost} of {whole} prompt voxels have no value under them", float(lost))
    if outside:
        return side.note("prompts", f"{outside} of {whole} prompt voxels lie outside the channels", float(outside))
    faces = [s for axis in range(3) for s in (side.strong.take(0, axis), side.strong.take(-1, axis))]
    if any(face.any() for face in faces):
        return side.note("prompts", "the support of a prompt is clipped at a face of the volume")
    return side.good("prompts", f"all {whole} prompt voxels have a value")


def _storage(side: _Side) -> Finding:
    """Find values that were stored in 8 bits, with the header of a label and its slope of 1/255."""
    levels = np.unique(side.channel.reshape(-1)[:: max(1, side.channel.size // 2_000_000)])
    levels = np.unique(np.concatenate([levels, side.at_prompts]))
    steps = levels * 255
    whole = (np.abs(steps - np.round(steps)) < 1e-3) & ((levels == 0) | (np.round(steps) != 0))
    if 1 < side.peak < 1 + 1e-6:
        return side.error("storage", f"the peak is {side.peak:.10f}: stored in 8 bits with a slope of 1/255", side.peak)
    if 2 < len(levels) <= 256 and whole.all():
        return side.warning("storage", f"only {len(levels)} levels, all multiples of 1/255: stored in 8 bits")
    return side.good("storage", "no trace of 8-bit storage")


def _peak(side: _Side) -> Finding:
    peak = side.peak
    if peak < LOW_PEAK:
        return side.error(
            "peak", f"the peak is {peak:.2g}, not 1: normalised to a unit sum? It vanishes beside images of unit "
            "variance; divide by the peak", peak,
        )  # fmt: skip
    if peak < FAINT_PEAK or peak > 1.5:
        return side.warning("peak", f"the peak is {peak:.3g}; 1 is usual", peak)
    return side.good("peak", f"the peak is {peak:.3g}", peak)


def _polarity(side: _Side) -> Finding:
    """Find a channel that is low at its own prompts, or high at those of the other polarity."""
    own = float(np.median(side.at_prompts))
    around = float(side.channel.mean())
    if own < around and around > 0.25 * side.peak:
        return side.error(
            "polarity", f"inverted: {own:.3g} at the prompts and {around:.3g} on average; invert the distance", own
        )
    others = side.others[Grid(side.channel.shape).holds(side.others)]
    theirs = float(np.median(_values(side.channel, others))) if len(others) else 0.0
    if theirs > own:
        return side.error(
            "polarity", f"{theirs:.3g} at the other polarity's prompts and {own:.3g} at its own: exchanged?"
        )
    return side.good("polarity", f"{own:.3g} at the prompts, {around:.2g} on average", own)


def _place(side: _Side) -> Finding:
    """Check whether another order of axes, a mirror or a shift would fit the prompts clearly better."""
    voxels = side.voxels[side.seen]
    here = float(side.at_prompts.mean())
    if here < float(side.channel.mean()) and side.strong.mean() > 0.5:
        return side.note("place", "not judged: the channel is inverted")
    shape = np.array(side.channel.shape)
    best, reason = here, ""
    turned = [(np.array(axes), flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]
    for axes, flips in turned:
        moved = voxels[:, axes]
        moved = np.where(flips, shape - 1 - moved, moved)
        score = _score(side.channel, moved)
        if score > best and here < 0.5 * score:
            names = "".join("ijk"[a] for a in axes)
            mirrored = [name for name, flip in zip("ijk", flips, strict=True) if flip]
            parts = [f"in the order {', '.join(names)}"] if names != "ijk" else []
            parts += [f"mirrored along {', '.join(mirrored)}"] if mirrored else []
            best, reason = score, " and ".join(parts)
    for shift in product(range(-FAR, FAR + 1), repeat=3):
        score = _score(side.channel, voxels + shift)
        if score > 1.02 * best and score > 1.1 * here:
            best, reason = score, f"shifted by {shift} voxels"
    if not reason:
        return side.good("place", "no other order of axes, mirror or shift fits the prompts better", here)
    return side.error("place", f"the prompts fit better {reason}: {best:.3g} instead of {here:.3g}", here)


def _support(side: _Side) -> Finding:
    """Measure how far a prompt reaches: the radius of a ball with the volume at half height, per prompt."""
    voxels = np.unique(side.voxels[side.seen], axis=0)
    near = _neighbours(voxels, side.channel.shape)
    beside = float(np.abs(_values(side.channel, near)).max()) if len(near) else 0.0
    share = float(np.count_nonzero(side.channel)) / side.channel.size
    count = int(side.strong.sum())
    if beside <= DELTA * side.peak and len(near):
        if share > 0.5:
            return side.error(
                "support", f"a delta: {beside:.2g} one voxel from a prompt, though {share:.0%} of the voxels are not "
                "zero; it is called a distance but is not one", beside,
            )  # fmt: skip
        return side.warning("support", "single voxels: a resampling or a pooling layer may lose them", 0.0)
    size = side.spacing or (1.0, 1.0, 1.0)
    radius = float((0.75 / np.pi * count * np.prod(size) / len(voxels)) ** (1 / 3))
    unit = "mm" if side.spacing else "voxels"
    text = f"{radius:.3g} {unit} at half height, {share:.2g} of the voxels are not zero"
    if count > 0.5 * side.channel.size:
        return side.warning("support", f"half height nearly everywhere: {text}", radius)
    return side.good("support", text, radius)


def _energy(side: _Side) -> Finding:
    """Sum the values per prompt voxel."""
    energy = float(np.abs(side.channel).sum(dtype=np.float64)) / int(side.seen.sum())
    share = float(side.at_prompts.sum()) / max(float(side.channel.sum(dtype=np.float64)), 1e-300)
    text = f"{energy:.3g} per prompt voxel; {min(share, 1.0):.2g} of it under the prompts"
    return side.good("energy", text, energy)


def _balance(side: _Side) -> Finding:
    """Check whether some prompts of a round outweigh others."""
    rounds = side.rounds[side.seen]
    ratio = 1.0
    for number in np.unique(rounds):
        values = side.at_prompts[rounds == number]
        ratio = min(ratio, float(values.min()) / max(float(values.max()), 1e-300))
    text = f"the weakest prompt of a round has {ratio:.2g} of the strongest"
    if ratio < 0.2:
        return side.error("balance", f"{text}: some prompts are nearly invisible", ratio)
    return side.warning("balance", text, ratio) if ratio < 0.6 else side.good("balance", text, ratio)


def _z_score(side: _Side) -> Finding:
    """Predict what a pipeline that normalises every channel would do to this one."""
    spread = float(side.channel.std(dtype=np.float64))
    if spread == 0:
        return side.error("z-score", "the channel is constant", 0.0)
    spike = (side.peak - float(side.channel.mean(dtype=np.float64))) / spread
    text = f"z-scoring would make the peak {spike:.3g} standard deviations"
    if spike > SPIKE:
        return side.note("z-score", f"{text}: exempt the channel from normalisation", spike)
    return side.good("z-score", text, spike)


CHECKS: tuple[Callable[[_Side], Finding], ...] = (
    _prompts, _storage, _peak, _polarity, _place, _support, _energy, _balance, _z_score,
)  # fmt: skip


def _overlap(first: _Side, second: _Side) -> Finding:
    """Find voxels that both polarities claim."""
    both = {tuple(v) for v in first.voxels.tolist()} & {tuple(v) for v in second.voxels.tolist()}
    if both:
        names = ", ".join(map(str, sorted(both)[:10]))
        return _both("error", f"{len(both)} voxels have prompts of both polarities: {names}")
    if not (len(first.voxels) and len(second.voxels)):
        return _both("good", "only one polarity", 0.0)
    if not (np.isfinite(first.channel).all() and np.isfinite(second.channel).all()):
        return _both("error", "not checked: values are not finite")
    shared = int(np.count_nonzero(first.strong & second.strong))
    share = shared / max(1, min(int(first.strong.sum()), int(second.strong.sum())))
    text = f"{shared} voxels at half height in both polarities, {share:.0%} of the smaller"
    return _both("warning" if share > 0.1 else "good", text, share)


def _channels(guidance: ArrayLike) -> NDArray[Any]:
    """The channels as `(2, I, J, K)`; a signed channel is split."""
    array = np.asarray(guidance)
    if array.dtype.kind not in "buif":
        raise ImageError(f"guidance must be real numbers, got {array.dtype}")
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[0] not in (1, 2) or not array.size:
        raise GeometryError(f"guidance must have the shape (2, I, J, K), or (1, I, J, K) signed, got {array.shape}")
    array = array if array.dtype.kind == "f" else array.astype(np.float32)
    return np.concatenate([np.maximum(array, 0), np.maximum(-array, 0)]) if array.shape[0] == 1 else array


def _voxels(prompts: Prompts, foreground: bool, origin: NDArray[np.int64]) -> NDArray[np.int64]:
    found = prompts.foreground if foreground else prompts.background
    return found.astype(np.int64) - origin


def _rounds(prompts: Prompts, foreground: bool) -> NDArray[np.int64]:
    found = [prompt.round for prompt in prompts if prompt.foreground == foreground for _ in prompt.voxels]
    return np.array(found, dtype=np.int64)


def _values(channel: NDArray[Any], voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    return channel[tuple(voxels.T)].astype(np.float64)


def _score(channel: NDArray[Any], voxels: NDArray[np.int64]) -> float:
    """The mean value at some voxels; voxels outside count as 0."""
    inside = np.all((voxels >= 0) & (voxels < channel.shape), axis=1)
    return float(_values(channel, voxels[inside]).sum()) / len(voxels)


def _neighbours(voxels: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """The 6-neighbours inside the channel that are not prompts themselves."""
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    around = np.unique((voxels[:, None] + steps).reshape(-1, 3), axis=0)
    around = around[np.all((around >= 0) & (around < shape), axis=1)]
    own = {tuple(v) for v in voxels.tolist()}
    return around[[tuple(v) not in own for v in around.tolist()]].reshape(-1, 3)


def _both(severity: str, detail: str, value: float | None = None) -> Finding:
    return Finding(severity, "overlap", (), detail, "both", value)

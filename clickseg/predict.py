"""Prediction: a session over one case, prompt by prompt, with bounded memory and no work done twice.

    session = open_session("run/model.safetensors")
    session.set_case(grid, ct, pet)            # HU and SUV on one grid
    mask = session.prompt(none)                # without prompts
    mask = session.prompt(new)                 # with some; a turn sees the mask of the turn before
    mask = session.undo()                      # as if the last turn had not been
    session.reset()                            # the same case, from the start

What a turn computes. The network sees one window at a time, and what it says of a window depends on that window's six
channels alone: CT and PET are normalised voxel by voxel by fixed rules, and the norms inside the network look at
nothing beyond the window. CT and PET stay; guidance has a finite support, so a new prompt changes it within
`margin_vx` of its voxels only; the previous mask is compared with the one that each window last saw. So exactly the
windows with a changed channel are computed, the others are taken from the last time, and the result equals that of
computing all of them, to the last bit. Windows go through the network one by one, since a batch may choose another
order of sums.

Memory: on the device one window; on the host CT (int16) and PET (float32) on the model's grid, one float32 volume, and
with `keep_windows` two bytes for each voxel of each window (16 a voxel at an overlap of one half).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clickseg.checkpoint import load_model
from clickseg.encode import rows_of
from clickseg.frame import Frame
from clickseg.network import Segmenter, check_input, finest
from clickseg.settings import StoreRules
from clickseg.store import AIR_HU
from clickseg.windows import Blend, Slices, Windows, hull
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.geometry import Grid, Shape, Spacing
from clicksim.prompts import Box, Prompts
from clicksim.prompts.records import Prompt, check_inside

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Report = Callable[[int, int], None]
AXES = "RAS"
LARGEST_LOGIT = 6e4  # what a half-precision number holds


@dataclass(frozen=True)
class Options:
    """How a model is asked.

    Attributes:
        device: `auto` is a GPU where there is one; else as Torch names devices.
        overlap: Share of a window that the next one covers too.
        mirror: Of R, A, S the axes to mirror along; the mean over all combinations is taken, 2, 4 or 8 passes.
        keep_windows: Keep what the network said of each window, for the next turn.
    """

    device: str = "auto"
    overlap: float = 0.5
    mirror: str = ""
    keep_windows: bool = True

    def __post_init__(self) -> None:
        if any(axis not in AXES for axis in self.mirror) or len(set(self.mirror)) < len(self.mirror):
            raise SettingError(f"mirror names axes of {AXES}, each once, such as R or RAS; got {self.mirror!r}")

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """The combinations of axes, none first."""
        axes = [AXES.index(name) for name in sorted(self.mirror, key=AXES.index)]
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


@dataclass(frozen=True)
class _Packed:
    """A mask in one bit a voxel."""

    bits: NDArray[np.uint8]
    shape: Shape

    @classmethod
    def of(cls, mask: NDArray[Any]) -> "_Packed":
        return cls(np.packbits(mask != 0), (mask.shape[0], mask.shape[1], mask.shape[2]))

    def mask(self) -> Bools:
        flat = np.unpackbits(self.bits, count=int(np.prod(self.shape)))
        return flat.reshape(self.shape).astype(np.bool_)


@dataclass(frozen=True)
class _Turn:
    """One exchange: all prompts so far, and what came of them, on the model's grid and on the case's."""

    items: tuple[Prompt, ...]
    mask: _Packed
    answer: _Packed


@dataclass(frozen=True)
class _Case:
    """A case on the model's grid."""

    frame: Frame
    ct: NDArray[np.int16]
    pet: NDArray[np.float32] | None
    windows: Windows
    spacing: Spacing


@dataclass(frozen=True)
class Trial:
    """What the guidance linter tries a model with.

    Attributes:
        predict: Guidance `(2, I, J, K)` to probabilities `(I, J, K)`.
        guidance: As the model is shown the prompts.
        prompts: On the grid of the window.
    """

    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    guidance: NDArray[np.float32]
    prompts: Prompts


class Session:
    """A model at work on one case; see the module.

    Attributes:
        model: In evaluation mode.
        computed: Windows that the last turn gave to the network.
        progress: Told after each window: done, of all of this turn.
    """

    def __init__(self, model: Segmenter, rules: StoreRules, options: Options | None = None) -> None:
        """A session without a case.

        Args:
            model: Trained, in evaluation mode, on the device it is to work on.
            rules: How its training data were put on a grid.
            options: How it is asked.
        """
        self.model, self.rules, self.options = model, rules, options or Options()
        self.computed = 0
        self.progress: Report | None = None
        self._device = next(model.parameters()).device
        self._case: _Case | None = None
        self._turns: list[_Turn] = []
        self._forget()

    def set_case(self, grid: Grid, ct: NDArray[Any] | None, pet: NDArray[Any] | None = None) -> None:
        """Begin a case; nothing is predicted yet.

        Args:
            grid: With an affine.
            ct: `(I, J, K)` HU.
            pet: `(I, J, K)` SUV; None where there is none.

        Raises:
            GeometryError: A grid without an affine, or images of another shape.
            ImageError: No CT, or values that are not finite.
        """
        self.close()
        if ct is None:
            raise ImageError("a model needs a CT, and this case has none")
        frame = Frame.of(grid, self.rules.spacing_mm)
        density = np.clip(np.rint(_finite(frame.image(ct), "CT")), AIR_HU, np.iinfo(np.int16).max).astype(np.int16)
        uptake = None
        if pet is not None:
            uptake = _finite(frame.image(pet), "PET").astype(self.rules.pet_type).astype(np.float32)
        i, j, k = self.model.settings.patch
        check_input(self.model, (i, j, k))
        assert frame.target.spacing is not None
        windows = Windows(frame.target.shape, (i, j, k), self.options.overlap)
        self._case = _Case(frame, density, uptake, windows, frame.target.spacing)

    def prompt(self, new: Prompts, *, previous: Bools | None = None) -> Mask:
        """Add prompts, and predict. Without new ones the last answer stands, where there is one.

        Args:
            new: On the case's grid; those of earlier turns are known already.
            previous: A mask on the model's grid to correct in place of that of the turn before.

        Returns:
            `(I, J, K)` 0 and 1, on the case's grid.

        Raises:
            GeometryError: Prompts on another grid or outside the volume.
            SettingError: Boxes, or no case.
        """
        case, turns = self._here(), self._turns
        if turns and not len(new) and previous is None:
            return self._answer()
        case.frame.source.check_same(new.grid, ("case", "prompts"))
        check_inside(new)
        if any(isinstance(prompt, Box) for prompt in new):
            raise SettingError("this model takes clicks and scribbles, not boxes")
        items = (turns[-1].items if turns else ()) + new.items
        if previous is None:
            previous = turns[-1].mask.mask() if turns else np.zeros(case.windows.shape, np.bool_)
        elif previous.shape != case.windows.shape:
            raise GeometryError(f"a previous mask has the shape of the model's grid, {case.windows.shape}")
        probability = self._probability(rows_of(case.frame.prompts(Prompts(items, new.grid))), previous)
        answer = np.asarray(case.frame.back(probability)) > 0.5
        turns.append(_Turn(items, _Packed.of(probability > 0.5), _Packed.of(answer)))
        return answer.astype(np.uint8)

    def undo(self) -> Mask | None:
        """Take back the last turn; gives the answer before it, None where there was none.

        Raises:
            SettingError: There is no turn to take back.
        """
        if not self._turns:
            raise SettingError("there is no turn to take back")
        self._turns.pop()
        return self._answer() if self._turns else None

    def reset(self) -> None:
        """Take back all turns. What windows said stays known."""
        self._turns.clear()

    def close(self) -> None:
        """Forget the case."""
        self._case = None
        self._turns.clear()
        self._forget()

    @property
    def items(self) -> tuple[Prompt, ...]:
        """All prompts so far."""
        return self._turns[-1].items if self._turns else ()

    @property
    def shape(self) -> Shape:
        """Voxels of the case on the model's grid."""
        return self._here().windows.shape

    @property
    def mask(self) -> Bools | None:
        """The last mask on the model's grid; a later session may take it as `previous`."""
        return self._turns[-1].mask.mask() if self._turns else None

    def probability(self) -> NDArray[np.float32]:
        """Of a lesion, of the last windows computed, `(I, J, K)` on the case's grid."""
        case = self._here()
        if self._blend is None:
            raise SettingError("nothing was predicted yet")
        return np.asarray(case.frame.back(_sigmoid(self._blend.mean())))

    def trial(self, prompts: Prompts) -> "Trial":
        """One window around the first prompts of the case, for `clicksim.guidance.lint_predictor`.

        Args:
            prompts: On the case's grid; those within the window are shown.

        Raises:
            SettingError: No case, or no prompt.
        """
        case = self._here()
        moved = case.frame.prompts(prompts)
        if not len(moved):
            raise SettingError("a trial needs a prompt")
        size, shape = np.asarray(case.windows.size), np.asarray(case.windows.shape)
        voxel = np.asarray(moved.items[0].voxels[0])
        start = np.clip(voxel - size // 2, 0, np.maximum(shape - size, 0))
        i, j, k = (slice(int(a), int(min(a + n, end))) for a, n, end in zip(start, size, shape, strict=True))
        shown = moved.crop(start.tolist(), case.windows.size)
        rows = torch.from_numpy(rows_of(shown)).to(self._device)
        guidance = self.model.guidance(rows, 1, case.windows.size, case.spacing)[0].cpu().numpy()
        ct = self._window(case.ct, (i, j, k), AIR_HU)
        pet = None if case.pet is None else self._window(case.pet, (i, j, k), 0)

        def predict(channels: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode(), _precision(self._device):
                drawn = torch.from_numpy(channels)[None].to(self._device)
                x = self.model.channels(ct, pet, drawn)
                said = torch.sigmoid(finest(self.model(x)).float())
            return np.asarray(said[0, 0].cpu().numpy())

        return Trial(predict, guidance, shown)

    def _here(self) -> _Case:
        if self._case is None:
            raise SettingError("there is no case: call set_case first")
        return self._case

    def _answer(self) -> Mask:
        return self._turns[-1].answer.mask().astype(np.uint8)

    def _forget(self) -> None:
        """Nothing is known of any window."""
        self._kept: dict[int, NDArray[np.float16]] = {}
        self._blend: Blend | None = None
        self._seen: tuple[set[tuple[int, ...]], _Packed] | None = None

    def _probability(self, rows: NDArray[np.int64], previous: Bools) -> NDArray[np.float32]:
        """`(I, J, K)` on the model's grid; computes the windows that changed."""
        case = self._here()
        stale = self._stale(rows, previous)
        self._seen = None  # an interruption below leaves windows of two turns
        self._renew(stale, rows, previous)
        if self.options.keep_windows:
            self._seen = ({tuple(row) for row in rows.tolist()}, _Packed.of(previous))
        self.computed = len(stale)
        assert self._blend is not None
        assert case.windows is self._blend.windows
        return _sigmoid(self._blend.mean())

    def _stale(self, rows: NDArray[np.int64], previous: Bools) -> list[int]:
        """The windows whose channels are not those of the last time."""
        windows = self._here().windows
        if self._seen is None:
            return list(range(len(windows)))
        known, mask = self._seen
        margin = np.asarray(self.model.margin_vx(self._here().spacing))
        found: set[int] = set()
        for row in known ^ {tuple(row) for row in rows.tolist()}:
            voxel = np.asarray(row[2:])
            found |= windows.touching((voxel - margin).tolist(), (voxel + margin).tolist())
        changed = mask.mask() != previous
        if changed.any():
            found |= {n for n in range(len(windows)) if n not in found and changed[windows.inside(n)].any()}
        return sorted(found)

    def _renew(self, stale: Sequence[int], rows: NDArray[np.int64], previous: Bools) -> None:
        """Compute windows, and add them up where they lie; all others must be known."""
        windows, keep = self._here().windows, self.options.keep_windows
        if self._blend is None or not keep:
            self._blend = Blend(windows)
        fresh = len(stale) == len(windows)
        if fresh:
            self._blend.clear((slice(None), slice(None), slice(None)))
        for done, number in enumerate(stale, start=1):
            logits = self._ask(number, rows, previous)
            if fresh:
                self._blend.add(number, logits)
            if keep:
                self._kept[number] = logits
            if self.progress:
                self.progress(done, len(stale))
        if fresh or not stale:
            return
        box = hull(windows.inside(number) for number in stale)
        self._blend.clear(box)
        for number in range(len(windows)):
            self._blend.add(number, self._kept[number], box)

    def _ask(self, number: int, rows: NDArray[np.int64], previous: Bools) -> NDArray[np.float16]:
        """Logits of one window, `(I, J, K)` of its whole size."""
        case, device = self._here(), self._device
        start, shape = np.asarray(case.windows.starts[number]), case.windows.size
        margin = np.asarray(self.model.margin_vx(case.spacing))
        local = rows.copy()
        local[:, 2:] -= start
        reaching = np.all((local[:, 2:] >= -margin) & (local[:, 2:] < np.asarray(shape) + margin), axis=1)
        points = torch.from_numpy(local[reaching]).to(device)
        with torch.inference_mode(), _precision(device):
            guidance = self.model.guidance(points, 1, shape, case.spacing)
            inside = case.windows.inside(number)
            ct = self._window(case.ct, inside, AIR_HU)
            pet = None if case.pet is None else self._window(case.pet, inside, 0)
            x = self.model.channels(ct, pet, guidance, previous=self._window(previous, inside, False))
            total = torch.zeros((1, 1, *shape), device=device)
            for flip in self.options.flips:
                dims = [2 + axis for axis in flip]
                said = finest(self.model(torch.flip(x, dims) if dims else x)).float()
                total += torch.flip(said, dims) if dims else said
        mean = (total / len(self.options.flips)).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        return mean[0, 0].cpu().numpy().astype(np.float16)

    def _window(self, volume: NDArray[Any], inside: Slices, outside: Any) -> torch.Tensor:
        """A window of a volume on the device, `(1, 1, I, J, K)`; beyond its end it is air, no uptake, no lesion."""
        part = volume[inside]
        out = np.full(self._here().windows.size, outside, volume.dtype)
        out[: part.shape[0], : part.shape[1], : part.shape[2]] = part
        return torch.from_numpy(out)[None, None].to(self._device)


class RoundsPredictor:
    """A session as `clicksim.rounds` asks it: with a scan and all its prompts so far.

    A scan of another name or round 0 begins a case. Prompts that do not go on from those before are shown anew, with
    nothing to correct.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._case_id: str | None = None

    def __call__(self, case: Any, prompts: Prompts) -> Mask:
        """The mask, `(I, J, K)` on the scan's grid."""
        session = self.session
        if case.round == 0 or case.case_id != self._case_id:
            self._case_id = None
            session.set_case(case.grid, case.ct, case.pet)
            self._case_id = case.case_id
        known = session.items
        if prompts.items[: len(known)] != known:
            session.reset()
            known = ()
        return session.prompt(Prompts(prompts.items[len(known) :], prompts.grid, prompts.case_id))

    def finish(self) -> None:
        """Forget the case."""
        self._case_id = None
        self.session.close()


def open_session(path: str | Path, options: Options | None = None) -> tuple[Session, dict[str, Any]]:
    """A session with a trained model, and what its checkpoint says of itself.

    Raises:
        CheckpointError: No checkpoint, or one that does not fit.
        SettingError: An unknown device.
    """
    chosen = options or Options()
    model, about = load_model(path, choose_device(chosen.device))
    return Session(model, StoreRules.of(about["rules"]), chosen), about


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one.

    Raises:
        SettingError: A device that Torch does not know, or that is not there.
    """
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and not cuda:
        raise SettingError(f"device {name}: there is no GPU here that Torch can use; take cpu, or auto")
    return device


def _precision(device: torch.device) -> AbstractContextManager[Any]:
    """Half the bits where a GPU computes well with them; a CPU computes in float32."""
    if device.type != "cuda":
        return nullcontext()
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", kind)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def _finite(array: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    if not np.isfinite(array).all():
        raise ImageError(f"the {what} has values that are NaN or infinite")
    return array

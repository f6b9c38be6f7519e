"""What a network says of a case, window by window, computed only where something changed.

The network sees one window at a time, and what it says of a window depends on that window's six channels alone: CT and
PET are normalised voxel by voxel by fixed rules, and the norms inside the network look at nothing beyond the window. CT
and PET stay; guidance has a finite support, so a new prompt changes it within `margin_vx` of its voxels only; the
previous mask is compared with the one that each window last saw. So exactly the windows with a changed channel are
computed, the others are taken from the last time, and the result equals that of computing all of them, to the last bit.
Windows go through the network one by one, since a batch may choose another order of sums.

Memory: on the device one window; on the host CT (int16) and PET (float32) on the model's grid, one float32 volume, and
with `keep_windows` two bytes for each voxel of each window (16 a voxel at an overlap of one half).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clickseg.data.model_grid import GridTransform
from clickseg.data.patch_store import AIR_HU
from clickseg.model.network import Segmenter, finest
from clickseg.model.windows import Blend, Slices, Windows, hull
from clickseg.training_settings import StoreRules
from clicksim.errors import SettingError
from clicksim.geometry import Grid, Shape

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
class Packed:
    """A mask in one bit a voxel."""

    bits: NDArray[np.uint8]
    shape: Shape

    @classmethod
    def of(cls, mask: NDArray[Any]) -> "Packed":
        """A mask `(I, J, K)`, packed."""
        return cls(np.packbits(mask != 0), (mask.shape[0], mask.shape[1], mask.shape[2]))

    def mask(self) -> Bools:
        """It, unpacked."""
        flat = np.unpackbits(self.bits, count=int(np.prod(self.shape)))
        return flat.reshape(self.shape).astype(np.bool_)


class Inference:
    """A model over one case, on the model's grid; see the module.

    Attributes:
        model: In evaluation mode.
        options: How it is asked.
        frame: From the case's grid to the model's.
        ct: int16 HU.
        pet: float32 SUV; None where there is none.
        windows: Of the model's grid.
        spacing: Of the model's grid, mm.
        device: Where the model is.
        computed: Windows that the last answer gave to the network.
    """

    def __init__(
        self,
        model: Segmenter,
        rules: StoreRules,
        options: Options,
        grid: Grid,
        ct: NDArray[Any],
        pet: NDArray[Any] | None,
    ) -> None:
        """A case put on the model's grid; nothing is computed yet. Raises as `Session.set_case`."""
        self.model, self.options = model, options
        self.device = next(model.parameters()).device
        self.frame = GridTransform.of(grid, rules.spacing_mm)
        self.ct = self.frame.ct(ct)
        self.pet = None if pet is None else self.frame.pet(pet).astype(rules.pet_type).astype(np.float32)
        i, j, k = model.settings.patch
        self.windows = Windows(self.frame.target.shape, (i, j, k), options.overlap)
        self.spacing = self.frame.target.known_spacing
        self.computed = 0
        self._kept: dict[int, NDArray[np.float16]] = {}
        self._blend: Blend | None = None
        self._seen: tuple[set[tuple[int, ...]], Packed] | None = None

    def answer(self, rows: NDArray[np.int64], previous: Bools, progress: Report | None = None) -> NDArray[np.float32]:
        """The probability of a lesion, `(I, J, K)` on the model's grid; computes the windows that changed.

        Args:
            rows: `(n, 5)` all prompts, as `clickseg.data.prompt_channels` takes them.
            previous: The mask to correct, on the model's grid.
            progress: Told after each window: done, of all that are computed.
        """
        stale = self._stale(rows, previous)
        self._seen = None  # an interruption below leaves windows of two turns
        self._renew(stale, rows, previous, progress)
        if self.options.keep_windows:
            self._seen = ({tuple(row) for row in rows.tolist()}, Packed.of(previous))
        self.computed = len(stale)
        return self.probability()

    def logits(self) -> NDArray[np.float32]:
        """Of the last windows computed, `(I, J, K)` on the model's grid.

        Raises:
            SettingError: Nothing was computed yet.
        """
        if self._blend is None:
            raise SettingError("nothing was predicted yet")
        return self._blend.mean()

    def probability(self) -> NDArray[np.float32]:
        """The same as shares from 0 to 1."""
        return torch.sigmoid(torch.from_numpy(self.logits())).numpy()

    def images(self, inside: Slices) -> tuple[torch.Tensor, torch.Tensor | None]:
        """CT and PET of a window on the device, each `(1, 1, I, J, K)`; beyond the volume it is air without uptake."""
        return self._window(self.ct, inside, AIR_HU), None if self.pet is None else self._window(self.pet, inside, 0)

    def _stale(self, rows: NDArray[np.int64], previous: Bools) -> list[int]:
        """The windows whose channels are not those of the last time."""
        windows = self.windows
        if self._seen is None:
            return list(range(len(windows)))
        known, mask = self._seen
        margin = np.asarray(self.model.margin_vx(self.spacing))
        found: set[int] = set()
        for row in known ^ {tuple(row) for row in rows.tolist()}:
            voxel = np.asarray(row[2:])
            found |= windows.touching((voxel - margin).tolist(), (voxel + margin).tolist())
        changed = mask.mask() != previous
        if changed.any():
            found |= {n for n in range(len(windows)) if n not in found and changed[windows.inside(n)].any()}
        return sorted(found)

    def _renew(self, stale: Sequence[int], rows: NDArray[np.int64], previous: Bools, progress: Report | None) -> None:
        """Compute windows, and add them up where they lie; all others must be known."""
        windows, keep = self.windows, self.options.keep_windows
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
            if progress:
                progress(done, len(stale))
        if fresh or not stale:
            return
        box = hull(windows.inside(number) for number in stale)
        self._blend.clear(box)
        for number in range(len(windows)):
            self._blend.add(number, self._kept[number], box)

    def _ask(self, number: int, rows: NDArray[np.int64], previous: Bools) -> NDArray[np.float16]:
        """Logits of one window, `(I, J, K)` of its whole size."""
        start, shape = np.asarray(self.windows.starts[number]), self.windows.size
        margin = np.asarray(self.model.margin_vx(self.spacing))
        local = rows.copy()
        local[:, 2:] -= start
        reaching = np.all((local[:, 2:] >= -margin) & (local[:, 2:] < np.asarray(shape) + margin), axis=1)
        points = torch.from_numpy(local[reaching]).to(self.device)
        with torch.inference_mode(), precision(self.device):
            inside = self.windows.inside(number)
            ct, pet = self.images(inside)
            guidance = self.model.guidance(points, 1, shape, self.spacing, pet)
            x = self.model.channels(ct, pet, guidance, previous=self._window(previous, inside, False))
            total = torch.zeros((1, 1, *shape), device=self.device)
            for flip in self.options.flips:
                dims = [2 + axis for axis in flip]
                said = finest(self.model(torch.flip(x, dims) if dims else x)).float()
                total += torch.flip(said, dims) if dims else said
        mean = (total / len(self.options.flips)).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        return mean[0, 0].cpu().numpy().astype(np.float16)

    def _window(self, volume: NDArray[Any], inside: Slices, outside: Any) -> torch.Tensor:
        """A window of a volume on the device, `(1, 1, I, J, K)`; beyond its end it is air, no uptake, no lesion."""
        part = volume[inside]
        out = np.full(self.windows.size, outside, volume.dtype)
        out[: part.shape[0], : part.shape[1], : part.shape[2]] = part
        return torch.from_numpy(out)[None, None].to(self.device)


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


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Half the bits where a GPU computes well with them; a CPU computes in float32."""
    if device.type != "cuda":
        return nullcontext()
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", kind)

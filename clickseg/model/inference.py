"""Run a network on a case, window by window, and compute only the windows that changed.

The output for a window depends only on its six channels: CT and PET are normalised voxel by voxel with fixed rules, and
the norms inside the network use only the window. CT and PET do not change. Guidance has finite support, so a new prompt
changes it only within `margin_vx` of the prompt's voxels. The previous mask is compared with the one that each window
last saw. So exactly the windows with a changed channel are computed; the others are reused. The result is
bit-identical to computing all windows. Windows go through the network one by one, because a batch may sum in another
order.

Memory: one window on the device; on the host CT (int16) and PET (float32) on the model's grid, one float32 volume, and
with `keep_windows` two bytes per voxel of each window (16 bytes per voxel at an overlap of one half).
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
LARGEST_LOGIT = 6e4  # below the largest half-precision number


@dataclass(frozen=True)
class Options:
    """Options of the prediction.

    Attributes:
        device: `auto` takes a GPU if there is one; otherwise a device name of Torch.
        overlap: Fraction of a window that the next window also covers.
        mirror: Which of the axes R, A, S to mirror along; the mean over all combinations takes 2, 4 or 8 passes.
        keep_windows: Keep the output for each window, for the next turn.
    """

    device: str = "auto"
    overlap: float = 0.5
    mirror: str = ""
    keep_windows: bool = True

    def __post_init__(self) -> None:
        if any(axis not in AXES for axis in self.mirror) or len(set(self.mirror)) < len(self.mirror):
            raise SettingError(f"mirror must name axes of {AXES}, each once, such as R or RAS; got {self.mirror!r}")

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """Return all combinations of axes, starting with the empty one."""
        axes = [AXES.index(name) for name in sorted(self.mirror, key=AXES.index)]
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


@dataclass(frozen=True)
class Packed:
    """A mask with one bit per voxel."""

    bits: NDArray[np.uint8]
    shape: Shape

    @classmethod
    def of(cls, mask: NDArray[Any]) -> "Packed":
        """Pack a mask `(I, J, K)`."""
        return cls(np.packbits(mask != 0), (mask.shape[0], mask.shape[1], mask.shape[2]))

    def mask(self) -> Bools:
        """Return the unpacked mask."""
        flat = np.unpackbits(self.bits, count=int(np.prod(self.shape)))
        return flat.reshape(self.shape).astype(np.bool_)


class Inference:
    """A model applied to one case, on the model's grid; see the module.

    Attributes:
        model: A model in evaluation mode.
        options: Options of the prediction.
        frame: Mapping from the case's grid to the model's.
        ct: int16 HU.
        pet: float32 SUV, or None.
        windows: Windows of the model's grid.
        spacing: Voxel size of the model's grid, in mm.
        device: Device of the model.
        computed: Number of windows that the last answer computed.
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
        """Resample a case to the model's grid; nothing is computed yet. For errors see `Session.set_case`."""
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
        """Compute the windows that changed; return the probability of a lesion, `(I, J, K)` on the model's grid.

        Args:
            rows: `(n, 5)` all prompts, as `clickseg.data.prompt_channels` takes them.
            previous: The mask to correct, on the model's grid.
            progress: Called after each window with the windows done and their total.
        """
        stale = self._stale(rows, previous)
        self._seen = None  # an interruption below leaves windows of different turns
        self._renew(stale, rows, previous, progress)
        if self.options.keep_windows:
            self._seen = ({tuple(row) for row in rows.tolist()}, Packed.of(previous))
        self.computed = len(stale)
        return self.probability()

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the last answer, `(I, J, K)` on the model's grid.

        Raises:
            SettingError: Nothing was computed yet.
        """
        if self._blend is None:
            raise SettingError("nothing was predicted yet")
        return self._blend.mean()

    def probability(self) -> NDArray[np.float32]:
        """Return the same as probabilities from 0 to 1."""
        return torch.sigmoid(torch.from_numpy(self.logits())).numpy()

    def images(self, inside: Slices) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return CT and PET of a window on the device, `(1, 1, I, J, K)`; air without uptake outside the volume."""
        return self._window(self.ct, inside, AIR_HU), None if self.pet is None else self._window(self.pet, inside, 0)

    def _stale(self, rows: NDArray[np.int64], previous: Bools) -> list[int]:
        """Find the windows whose channels changed since the last time."""
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
        """Compute windows, and sum again the part of the volume that they cover; all other windows must be known."""
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
        """Return the logits of one window, `(I, J, K)` of its whole size."""
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
        """Return a window of a volume on the device, `(1, 1, I, J, K)`, filled with `outside` beyond the volume."""
        part = volume[inside]
        out = np.full(self.windows.size, outside, volume.dtype)
        out[: part.shape[0], : part.shape[1], : part.shape[2]] = part
        return torch.from_numpy(out)[None, None].to(self.device)


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is a GPU if there is one.

    Raises:
        SettingError: Torch does not know the device, or the machine does not have it.
    """
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and not cuda:
        raise SettingError(f"device {name}: there is no GPU here that Torch can use; use cpu or auto")
    return device


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Select half precision on a GPU that supports it well; a CPU computes in float32."""
    if device.type != "cuda":
        return nullcontext()
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", kind)

"""Samples: a patch, its prompts, and all random draws for it.

A sample depends only on the seed and on its number. It does not depend on the number of loader processes, on the order
in which they work, or on interruptions of a run.
"""

import multiprocessing.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clickseg.data.augment import change_ct, change_pet, draw_affine, flip
from clickseg.data.patch_store import StoreCase
from clickseg.data.prompt_channels import channel_rows
from clickseg.data.training_prompts import PromptPlan, draw_plan, first_prompts
from clickseg.training_settings import TrainSettings
from clicksim.geometry import Shape, Spacing
from clicksim.prompts import Prompts
from clicksim.streams import stream

FATES = ("keep", "drop", "grow", "shrink", "clear", "fill")
"""Changes of a previous mask before the model sees it: none, withheld, grown or shrunk by a voxel, a box cleared or
filled."""
JITTER = 0.25  # largest distance of the chosen place from the centre of the patch, as a fraction of the patch

SMALL_BYTES = 1 << 16


@dataclass(frozen=True)
class Sample:
    """One patch; arrays are `(I, J, K)`.

    Attributes:
        ct: float32 HU.
        pet: float32 SUV; zeros if there is none.
        has_pet: Whether the model sees a PET.
        label: uint8, 1 in lesions.
        points: `(n, 5)` prompts, as `clickseg.data.prompt_channels` takes them.
        plan: Which prompts the sample gets.
        spacing: mm.
        matrix: `(3, 3)` rotation and scaling, or None.
        fate: The change of a previous mask, one of `FATES`; and the box `(2, 3)` of `clear` and `fill`.
    """

    ct: NDArray[np.float32]
    pet: NDArray[np.float32]
    has_pet: bool
    label: NDArray[np.uint8]
    points: NDArray[np.int64]
    plan: PromptPlan
    spacing: Spacing
    matrix: NDArray[np.float32] | None
    fate: tuple[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Batch:
    """A batch of samples as tensors; parts that only the host needs are plain Python.

    Attributes:
        images: float32 `(B, 2, I, J, K)`: HU, SUV.
        has_pet: bool `(B,)`.
        label: uint8 `(B, 1, I, J, K)`.
        points: int64 `(n, 5)`.
        matrices: float32 `(B, 3, 3)`, or None if no sample is rotated or scaled.
        plans, spacing, fates: One for each sample.
    """

    images: Tensor
    has_pet: Tensor
    label: Tensor
    points: Tensor
    matrices: Tensor | None
    plans: tuple[PromptPlan, ...]
    spacing: tuple[Spacing, ...]
    fates: tuple[tuple[str, NDArray[np.int64]], ...]

    def __len__(self) -> int:
        return len(self.plans)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle small tensors by value, because each shared tensor costs a call back to the worker."""
        small = {n: t.numpy() for n, t in vars(self).items() if isinstance(t, Tensor) and t.nbytes < SMALL_BYTES}
        return {**vars(self), **small}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device, without waiting for it."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in TENSORS
            if getattr(self, name) is not None
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """Copy the batch to pinned memory, which a GPU reads directly."""
        return replace(
            self, **{name: getattr(self, name).pin_memory() for name in TENSORS if getattr(self, name) is not None}
        )


TENSORS = ("images", "has_pet", "label", "points", "matrices")


class PatchDataset(Dataset[Sample]):
    """An endless series of samples of some cases, by number."""

    def __init__(
        self,
        cases: Sequence[StoreCase],
        patch: Shape,
        settings: TrainSettings,
        *,
        per_step: int = 1,
        purpose: str = "train",
    ) -> None:
        """Prepare to make samples.

        Args:
            cases: Cases from which patches are taken.
            patch: Shape of a patch in voxels.
            settings: Odds and augmentation.
            per_step: Samples of one step over all devices; the curriculum counts steps.
            purpose: `train`; `validate` gives plain patches on lesions, without prompts.
        """
        self.cases, self.patch, self.settings = tuple(cases), patch, settings
        self.per_step, self.purpose = per_step, purpose

    def __getitem__(self, number: int) -> Sample:
        """Make the sample with a number."""
        settings, learning = self.settings, self.purpose == "train"
        draws = stream(settings.seed, "sample", self.purpose, number)
        case = self.cases[draws.integers(len(self.cases))]
        start = self._corner(case, draws)
        ct = case.patch("ct", start, self.patch).astype(np.float32)
        mask = case.patch("label", start, self.patch)
        pet = case.patch("pet", start, self.patch).astype(np.float32) if case.has_pet else np.zeros_like(ct)
        plan = draw_plan(draws, number // self.per_step, f"{case.case_id}#{number}", settings)
        if not learning:
            plan = replace(plan, count=0, corrections=0)
        prompts = self._prompts(plan, mask, pet if case.has_pet else None, case)
        arrays: list[Any] = [ct, pet, (mask != 0).view(np.uint8)]
        matrix, shown, fate = None, case.has_pet, ("keep", np.zeros((2, 3), dtype=np.int64))
        if learning:
            axes = np.flatnonzero(draws.random(3) < 0.5).tolist() if settings.flips else []
            arrays, prompts = flip(arrays, prompts, axes)
            arrays[0] = change_ct(arrays[0], draws) if draws.random() < settings.intensity else arrays[0]
            arrays[1] = change_pet(arrays[1], draws) if draws.random() < settings.intensity else arrays[1]
            matrix = draw_affine(draws, settings, case.spacing) if draws.random() < settings.affine else None
            shown = case.has_pet and draws.random() >= settings.drop_pet
            fate = self._fate(draws)
        return Sample(arrays[0], arrays[1], shown, arrays[2], channel_rows(prompts), plan, case.spacing, matrix, fate)

    def _corner(self, case: StoreCase, draws: np.random.Generator) -> list[int]:
        """Draw a place of the case by the odds, and return the first voxel of the patch around it.

        If the case has no place of the drawn kind, the next kind is taken. All lesions are equally likely, whatever
        their size.
        """
        places = case.places
        odds = np.asarray(self.settings.odds if self.purpose == "train" else (1.0, 0.0, 0.0))
        kinds = [places.lesion[:, 1:], places.hot, places.body]
        first = int(draws.choice(3, p=odds / odds.sum()))
        kind = next((k for k in (first, (first + 1) % 3, (first + 2) % 3) if len(kinds[k])), None)
        if kind is None:
            place = np.asarray(case.row["shape"]) // 2
        elif kind == 0:
            lesion = draws.choice(np.unique(places.lesion[:, 0]))
            rows = places.lesion[places.lesion[:, 0] == lesion, 1:]
            place = rows[draws.integers(len(rows))]
        else:
            place = kinds[kind][draws.integers(len(kinds[kind]))]
        off = draws.uniform(-JITTER, JITTER, size=3) * self.patch
        return [int(n) for n in np.rint(place - np.asarray(self.patch) / 2 + off)]

    def _prompts(
        self, plan: PromptPlan, mask: NDArray[Any], pet: NDArray[np.float32] | None, case: StoreCase
    ) -> Prompts:
        instances = "labels" if case.row["instances"] == "labels" else "components"
        protocols = (self.settings.click_protocol, self.settings.correction_protocol)
        return first_prompts(plan, mask, pet, case.spacing, instances, protocols)

    def _fate(self, draws: np.random.Generator) -> tuple[str, NDArray[np.int64]]:
        """Draw the change of a previous mask; a box covers up to a third of the patch along each axis."""
        size = np.array([draws.integers(1, max(2, n // 3 + 1)) for n in self.patch])
        start = np.array([draws.integers(0, n - s + 1) for n, s in zip(self.patch, size, strict=True)])
        spoiled = FATES[2 + draws.integers(4)]
        chance = draws.random()
        if chance < self.settings.drop_previous:
            fate = "drop"
        elif chance < self.settings.drop_previous + self.settings.spoil_previous:
            fate = spoiled
        else:
            fate = "keep"
        return fate, np.stack([start, start + size])


class Batches(Sampler[list[int]]):
    """The numbers of the samples of one device, batch by batch, starting at a step."""

    def __init__(self, first: int, last: int, batch: int, rank: int = 0, world: int = 1) -> None:
        """Select batches `first` to `last`; device `rank` of `world` takes its part of each."""
        self.first, self.last, self.batch, self.rank, self.world = first, last, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.first, self.last):
            start = (number * self.world + self.rank) * self.batch
            yield list(range(start, start + self.batch))

    def __len__(self) -> int:
        return self.last - self.first


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples into one batch. Each array is copied once; all prompts go into one table."""
    shape = samples[0].label.shape
    images = np.empty((len(samples), 2, *shape), np.float32)  # NumPy asks for large pages, Torch does not
    label = np.empty((len(samples), 1, *shape), np.uint8)
    for n, sample in enumerate(samples):
        images[n, 0], images[n, 1], label[n, 0] = sample.ct, sample.pet, sample.label
    points = [np.concatenate([np.full((len(s.points), 1), n), s.points[:, 1:]], axis=1) for n, s in enumerate(samples)]
    turned = any(sample.matrix is not None for sample in samples)
    eye = np.eye(3, dtype=np.float32)
    matrices = np.stack([eye if sample.matrix is None else sample.matrix for sample in samples])
    return Batch(
        images=torch.from_numpy(images),
        has_pet=torch.tensor([sample.has_pet for sample in samples]),
        label=torch.from_numpy(label),
        points=torch.from_numpy(np.concatenate(points).astype(np.int64)),
        matrices=torch.from_numpy(matrices) if turned else None,
        plans=tuple(sample.plan for sample in samples),
        spacing=tuple(sample.spacing for sample in samples),
        fates=tuple(sample.fate for sample in samples),
    )


def make_loader(dataset: PatchDataset, batches: Batches, *, workers: int, pin: bool) -> Iterator[Batch]:
    """Return batches in order, made in this process or in spawned ones (a fork would inherit locks).

    Args:
        dataset: The samples.
        batches: Numbers of the samples of each batch.
        workers: Number of loader processes; with 0 each batch is made in this process when it is needed.
        pin: Put batches into pinned memory, which a GPU reads directly.
    """
    if workers:
        make_room_for_sockets()
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers,
        multiprocessing_context="spawn" if workers else None, prefetch_factor=4 if workers else None,
        pin_memory=pin, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return fetch_ahead(loader) if workers and not pin else iter(loader)  # a thread does the pinning anyway


def make_room_for_sockets() -> None:
    """Put the sockets between processes below `/tmp` if the path of the temporary folder is too long for them.

    Workers pass batches through such sockets, whose paths must be shorter than 108 bytes on Linux and 104 on macOS.
    With a longer path, a worker cannot pass anything and training waits forever.
    """
    longest = 104 - len("/pymp-12345678/listener-12345678") - 1
    if os.name != "posix" or len(os.fsencode(tempfile.gettempdir())) <= longest:
        return
    usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # remembered by this process and by those that it starts
    finally:
        tempfile.tempdir = usual


def fetch_ahead(loader: "DataLoader[Any]") -> Iterator[Batch]:
    """Yield the batches of a loader; a thread fetches the next one while the consumer works.

    A worker can hand over a batch only while its Python is not busy with a sample. Without the thread, the consumer
    would sometimes wait for a batch that is already complete.
    """
    source = iter(loader)
    with ThreadPoolExecutor(1, "fetch") as thread:
        coming = thread.submit(next, source)
        for left in reversed(range(len(loader))):
            ready = [coming.result()]
            if left:
                coming = thread.submit(next, source)
            yield ready.pop()  # not kept here: freeing it takes milliseconds; the consumer does that during its step

"""Some steps of the real training loop, with timers on the loader, the simulator and the GPU."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import torch

from benchmarks.bench_passes import watched
from benchmarks.timing import wait_for_device
from clickseg.training_settings import ModelSettings, TrainSettings


@dataclass(frozen=True)
class Loop:
    """Measurements of some steps of the training loop; times are per step.

    Attributes:
        rate: Samples per second.
        step_ms: Wall time.
        wait_ms: Median wait for the loader.
        simulator_ms, host_ms: Time in the simulator of corrections, and in copies to the host, which wait for the
            device.
        use: Use of the GPU, as text.
        peak: Peak memory, as text.
    """

    rate: float
    step_ms: float
    wait_ms: float
    simulator_ms: float
    host_ms: float
    use: str
    peak: str

    def cells(self) -> list[str]:
        """The rows of the page."""
        return [f"{self.rate:.2f} ({self.step_ms:.0f} ms per step)", self.use, self.peak, f"{self.wait_ms:.1f} ms"]


def run_loop(store: Path, model: ModelSettings, device: Any, *, rounds: int, warm: int, timed: int) -> Loop:
    """Run some steps of the real loop with default settings, as at the end of a curriculum.

    Args:
        store: From `clickseg prepare`.
        model: The settings of the model.
        device: The device to train on.
        rounds: Largest number of correction rounds.
        warm, timed: Numbers of steps before and during the measurement.
    """
    from clickseg import correction_rounds as rounds_module
    from clickseg import train
    from clickseg.data.dataset import make_loader
    from clickseg.data.patch_store import open_store
    from clickseg.process_group import ProcessGroup

    many = 10**6  # the run is stopped long before its end
    settings = TrainSettings(
        steps=many, fold=-1, corrections=rounds, corrections_from=0.0, corrections_full=0.0, log_every=many,
        save_every=many, validate_every=0, workers=min(12, max(1, (os.cpu_count() or 1) - 1)),
    )  # fmt: skip
    run = train.TrainingRun(
        open_store(store), store.parent / "never", model, settings, ProcessGroup(0, 1, device), None
    )
    steps = [(rounds_module, "prompt_errors", "simulator"), (rounds_module, "to_host", "host")]
    waits: list[float] = []
    with mock.patch.object(train, "make_loader", lambda *a, **k: waited(make_loader(*a, **k), waits)):
        loop = run.steps(0)
        for _ in range(warm):
            next(loop)
        wait_for_device(device, forget_peak=True)
        waits.clear()
        with watched(steps) as watch, Utilisation(device) as used:
            start = time.perf_counter()
            for _ in range(timed):
                next(loop)
            wait_for_device(device)
            spent = (time.perf_counter() - start) * 1000 / timed
        del loop  # and the processes of its loader
    simulator, host = (watch.seconds.get(name, 0.0) * 1000 / timed for name in ("simulator", "host"))
    busy = 1 - (statistics.mean(waits) + simulator) / spent
    use = (
        f"{used.mean:.0f} %, by nvidia-smi"
        if used.mean is not None
        else f"at most {busy:.0%}: everything except waits and simulator"
    )
    return Loop(settings.batch * 1000 / spent, spent, statistics.median(waits), simulator, host, use, peak_of(device))


def waited(batches: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """Yield the batches of a loader, and record the wait for each, in ms."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        waits.append((time.perf_counter() - start) * 1000)
        yield batch


class Utilisation:
    """The share of time in which a GPU computes, sampled five times per second by `nvidia-smi` while the block runs.

    Attributes:
        mean: The mean in per cent; None if it is unknown.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the sampler of a device; nothing is started yet."""
        self.mean: float | None = None
        self._device = device
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Utilisation":
        program = shutil.which("nvidia-smi")
        if program and self._device.type == "cuda":
            number = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            command = [
                program,
                "-i",
                number,
                "--query-gpu=utilization.gpu",
                "--format=csv,noheader,nounits",
                "-lms",
                "200",
            ]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        told, _ = self._process.communicate()
        numbers = [int(line) for line in told.split() if line.isdigit()]
        self.mean = statistics.mean(numbers) if numbers else None


def peak_of(device: torch.device) -> str:
    """The peak memory of tensors on the device."""
    return (
        f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else "not known on a CPU"
    )

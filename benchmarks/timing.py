"""Time and memory. Rivals take turns in each round, so noise affects all of them in the same way."""

import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench_data import ROOT, BenchCase

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Time:
    """Seconds of one piece of work over several rounds."""

    best: float
    median: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Time":
        """Best and median of several rounds."""
        return cls(min(seconds), statistics.median(seconds), len(seconds))


def measure(
    works: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1, clock: Clock = time.perf_counter
) -> dict[str, Time]:
    """Time several works in turn with one clock; see `measure_clocks`."""
    return measure_clocks(works, rounds=rounds, warm_up=warm_up, clocks={"": clock})[""]


def measure_clocks(
    works: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int, clocks: Mapping[str, Clock]
) -> dict[str, dict[str, Time]]:
    """Time several works in turn, with several clocks at once.

    Args:
        works: What to call, by name.
        rounds: How many times each is timed.
        warm_up: How many times each is called before that, untimed.
        clocks: `time.perf_counter`, and `time.process_time` for CPU time, by name.

    Returns:
        By clock, then by work.
    """
    for work in works.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in works} for clock in clocks}
    gc.collect()
    for _ in range(rounds):
        for name, work in works.items():
            starts = {clock: now() for clock, now in clocks.items()}
            work()
            for clock, now in clocks.items():
                seconds[clock][name].append(now() - starts[clock])
    return {clock: {name: Time.of(v) for name, v in found.items()} for clock, found in seconds.items()}


def once(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of one call, for work that is too slow for rounds."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def time_process(command: list[str], *, rounds: int, env: dict[str, str] | None = None) -> Time:
    """Wall time of fresh processes, from start to exit.

    Raises:
        subprocess.CalledProcessError: One of them failed.
    """
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return Time.of(seconds)


def peak_above_inputs(case: BenchCase, who: str) -> int | None:
    """The peak memory of a fresh, warmed process in bytes above its inputs; None if the system does not report it.

    Args:
        case: Saved to a temporary folder and loaded by the process.
        who: A key of `benchmarks.probe.WHO`.
    """
    if not Path("/proc/self/status").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "labels.npy"), case.labels)
        np.save(Path(folder, "uptake.npy"), case.uptake)
        Path(folder, "spacing.json").write_text(json.dumps(case.spacing), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.probe", folder, who]
        done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout)


def read_status(field: str, process: str = "self") -> int:
    """A memory size of a process in bytes, as the kernel reports it; by default of this process."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def forget_peak() -> None:
    """Reset the peak to what is resident now; if the system refuses, the old peak stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def wait_for_device(device: "torch.device", *, forget_peak: bool = False) -> None:
    """Wait for the device, and optionally reset its memory peak."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        if forget_peak:
            torch.cuda.reset_peak_memory_stats(device)

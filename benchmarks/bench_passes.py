"""Where `autopet-iv@1` spends its time: each step of one case, compared with a plain streaming pass."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
from numba import njit

from benchmarks.bench_data import BenchCase, all_cases
from benchmarks.result_table import Section, show_time
from benchmarks.timing import Clock, measure
from clicksim import simulate_clicks
from clicksim.kernels import uptake as uptake_kernels
from clicksim.lesions import Component, hot
from clicksim.lesions import find as lesions_module
from clicksim.simulate.clicks import published

HEADER = ("step", "time", "share", "reads", "GB/s", "share of the floor's rate")
TEXT = """`autopet-iv@1` on case {case}: the steps of one call, each without the steps inside it, from the fastest of
{rounds} calls. The floors are the simplest loops over the same memory; no pass can be much faster. All steps together
take as long as {passes:.2f} passes of `uptake.max()`."""

# what is timed: the module or class, the attribute, its name in the table
Steps = Sequence[tuple[Any, str, str]]
STEPS: Steps = [
    (lesions_module, "scan_labels", "scan of the labels"),
    (lesions_module, "connect", "connecting lesions"),
    (hot, "_bracket", "bracket from a sample"),
    (uptake_kernels, "collect_above", "collecting pass"),
    (hot, "_collect", "values of the collected voxels"),
    (hot, "lesion_indices", "lesion voxels"),
    (hot, "without", "removing lesion voxels"),
    (hot, "_select", "partition"),
    (published, "hot_voxels", "voxels above the threshold"),
    (published, "join_voxels", "hot components"),
    (Component, "deepest", "depths"),
    (Component, "rim", "rims"),
    (published, "_place", "draws and boxes"),
]
FLOORS = {  # and what they read
    "`uptake.max()`": "uptake",
    "compiled sum of the uptake": "uptake",
    "compiled sum of the labels": "labels",
}
STREAMING = {"scan of the labels": "labels", "collecting pass": "uptake"}


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    cases, _ = all_cases(quick=quick)
    return [_profile(case, rounds=2 if quick else 20) for case in cases]


class Stopwatch:
    """Adds up the time of each step, without the time of the steps inside it."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._inner = [0.0]

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function with its time added to a step."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = self._clock() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        return timed


@contextlib.contextmanager
def watched(steps: Steps = STEPS, clock: Clock = time.perf_counter) -> Iterator[Stopwatch]:
    """Time all steps while the block runs."""
    watch = Stopwatch(clock)
    with contextlib.ExitStack() as stack:
        for place, attribute, name in steps:
            replaced = watch.wrap(getattr(place, attribute), name)

            stack.enter_context(mock.patch.object(place, attribute, replaced))
        yield watch


def _profile(case: BenchCase, *, rounds: int) -> Section:
    """The table of one case."""

    def clicks() -> None:
        simulate_clicks(case.labels, uptake=case.uptake, spacing=case.spacing, protocol="autopet-iv@1")

    volumes = {"labels": case.labels, "uptake": case.uptake}
    floors = measure(_floors(case), rounds=rounds)
    best, parts = _fastest_call(clicks, rounds)
    parts["everything else"] = best - sum(parts.values())
    rows = []
    quickest = dict.fromkeys(volumes, np.inf)
    for name, time_taken in floors.items():
        kind, seconds = FLOORS[name], time_taken.best
        quickest[kind] = min(quickest[kind], seconds)
        rate = f"{volumes[kind].nbytes / seconds / 1e9:.1f}"
        rows.append([f"floor: {name}", show_time(seconds), "", kind, rate, ""])
    for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        cells = [name, show_time(seconds), f"{seconds / best:.1%}"]
        if name in STREAMING:
            kind = STREAMING[name]
            rate = f"{volumes[kind].nbytes / seconds / 1e9:.1f}"
            cells += [kind, rate, f"{quickest[kind] / seconds:.0%}"]
        rows.append(cells + [""] * (len(HEADER) - len(cells)))
    rows.append(["one call", show_time(best), "100%", "", "", ""])
    passes = best / floors["`uptake.max()`"].best
    text = TEXT.format(case=case.name, rounds=rounds, passes=passes)
    return Section(f"Profile of case {case.name[0]}", text, HEADER, rows)


def _fastest_call(clicks: Callable[[], None], rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds of the fastest call, and of its steps."""
    clicks()
    calls = []
    for _ in range(rounds):
        with watched() as watch:
            start = time.perf_counter()
            clicks()
            calls.append((time.perf_counter() - start, watch.seconds))
    return min(calls, key=lambda call: call[0])


def _floors(case: BenchCase) -> dict[str, Callable[[], Any]]:
    """The simplest passes over labels and uptake, by the names in `FLOORS`."""
    uptake = case.uptake.ravel(order="K")
    labels = case.labels.ravel(order="K")
    words = labels[: labels.size // 8 * 8].view(np.uint64)
    return dict(zip(FLOORS, (case.uptake.max, lambda: _sum(uptake), lambda: _sum(words)), strict=True))


@njit(fastmath=True)
def _sum(values):  # type: ignore[no-untyped-def]
    """Sum in any order, so that the compiler can use vector instructions."""
    total = values[0] - values[0]
    for n in range(values.size):
        total += values[n]
    return total

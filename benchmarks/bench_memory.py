"""Peak memory of one case above its inputs, in a fresh process."""

from typing import Any

from benchmarks.bench_data import all_cases
from benchmarks.result_table import Section, absent, share
from benchmarks.timing import peak_above_inputs

TEXT = """The highest resident memory (`VmHWM`) of a fresh process while it simulates the clicks of one case, minus the
resident memory (`VmRSS`) before that, when the inputs are loaded and everything has been compiled and run on a tiny
case."""


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    cases, missing = all_cases(quick=quick)
    rows: list[Any] = []
    for case in cases:
        for who, bar, aim in (("autopet-iv@1", 0.5, 0.1), ("autopet-iv@2", 0.5, 0.1), ("plain assembly", None, None)):
            work = f"{who}, case {case.name}"
            peak = peak_above_inputs(case, who)
            if peak is None:
                rows.append(absent(work, "not run: this system does not report the memory of a process"))
                continue
            rows.append(share(work, peak, "bytes of the uptake", case.uptake.nbytes, bar=bar, aim=aim))
    if missing:
        rows.append(absent("autopet-iv@1, case B", missing))
    return [Section("Peak memory", TEXT, rows=rows)]

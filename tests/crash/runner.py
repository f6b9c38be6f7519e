"""`python -m tests.crash.runner`: one warm process that plays its part of the points; `tests.crash` starts several.

It writes one line of JSON for each job that it has done. Workers of the commands import this file as their main module,
so it imports next to nothing before it is called.
"""

import gc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> None:
    """Play the points of this part.

    Args:
        arguments: A folder of its own, and the order as JSON: `jobs`, `modes`, `part` and `parts` (every `parts`-th
            group of points from the `part`-th on), `share` (the same once more), `most` (so many groups of a job and
            mode, 0 for all), `sparse` (of writes in a row to one file the first alone), `by_job` (the parts are jobs).
    """
    home, order = Path(arguments[0]), json.loads(arguments[1])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = "1"
    from tests.crash.declared import JOBS
    from tests.crash.twins import TWINS

    jobs = [job for job in (*JOBS, *TWINS) if job.name in order["jobs"]]
    if order["by_job"]:
        jobs, order["part"], order["parts"] = jobs[order["part"] :: order["parts"]], 0, 1
    if find_spec("torch") is None:
        for job in [job for job in jobs if job.words.startswith("clickseg")]:
            say({"job": job.name, "skipped": "clickseg needs PyTorch, which is not installed"})
            jobs.remove(job)
    warm_up(any(job.words.startswith("clickseg") for job in jobs))
    from tests.crash.forked import Host
    from tests.crash.points import Unsound, trace_job

    host = Host(home)
    inputs, bases = prepare(host, jobs)
    gc.collect()
    gc.freeze()  # else each copy would touch all of it
    for job in jobs:
        started = time.monotonic()
        try:
            trace = trace_job(host, job, bases[job.base], inputs)
        except Unsound as error:
            say({"job": job.name, "unsound": str(error)})
            continue
        say({**play_job(host, trace, order), "seconds": round(time.monotonic() - started, 1)})


def warm_up(model: bool) -> None:
    """Import everything, and keep to one thread."""
    import pyarrow as pa
    import SimpleITK

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    if model:
        import torch

        torch.set_num_threads(1)


def prepare(host: Any, jobs: Sequence[Any]) -> tuple[Path, dict[str, Path]]:
    """The inputs and the trees that the jobs begin from; every command is called once, so that it is warm."""
    from tests.crash.declared import BASES, spell, write_inputs
    from tests.crash.forked import copy_tree, run_words

    inputs, bases = host.home / "inputs", {}
    write_inputs(inputs)
    here = Path.cwd()

    def make(name: str) -> Path:
        if name in bases:
            return bases[name]
        base, target = BASES[name], host.home / "bases" / name
        above = make(base.on) if base.on else None
        host.tree.mkdir(exist_ok=True)
        if above:
            host.fill(above)
        else:
            empty = host.home / "nothing"
            empty.mkdir(exist_ok=True)
            host.fill(empty)
        os.chdir(host.tree)
        for words in base.commands:
            within(lambda words=words: run_words(spell(words, inputs, host.tree)))
        os.chdir(here)
        if base.make:
            base.make(host.tree, inputs)
        copy_tree(host.tree, target)
        bases[name] = target
        return target

    for job in jobs:
        make(job.base)
    for job in jobs:
        host.fill(bases[job.base])
        if not job.workers:
            os.chdir(host.tree)
            within(lambda job=job: run_words(spell(job.words, inputs, host.tree)))
            os.chdir(here)
    return inputs, bases


def within(work: Any) -> None:
    """Call a command in this process; it must end well."""
    import contextlib
    import io

    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = work()
    if code:
        raise RuntimeError(f"a command of the set-up ended with {code}: {heard.getvalue()}")


def play_job(host: Any, trace: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Play the points of a job that are this part's."""
    from tests.crash.points import play_point
    from tests.crash.verdict import hidden

    modes: dict[str, Any] = {}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for mode in trace.modes():
        if mode not in order["modes"]:
            continue
        groups = choose(trace, mode, group_points(trace, mode), order)
        failed = covered = 0
        for numbers in groups:
            try:
                wrong = play_point(host, trace, mode, numbers[0])
            except Exception:  # a fault of the harness: said, and counted as a failure
                wrong = [broken(traceback.format_exc())]
            covered += len(numbers)
            failed += len(numbers) if wrong else 0
            for finding in wrong:
                what, where = describe(trace, mode, numbers[0])
                key = (mode, finding.step, finding.kind, what, where)
                row = found.setdefault(key, {"example": finding.detail, "points": []})
                row["points"] += numbers
        modes[mode] = {"points": trace.points(mode), "ran": covered, "trees": len(groups), "failures": failed}
    names = ("mode", "step", "kind", "operation", "file")
    rows = [dict(zip(names, key, strict=True)) | row for key, row in found.items()]
    for row in rows:
        row["count"], row["points"] = len(row["points"]), as_ranges(row["points"])
        row["example"] = row["example"].replace(f"{host.tree}/", "").replace(f"{host.box}/", "")[:400]
    left = hidden(trace.sound)
    return {
        "job": trace.job.name,
        "operations": len(trace.operations),
        "modes": modes,
        "findings": rows,
        "left_undisturbed": left,
    }


def broken(text: str) -> Any:
    """A fault of the harness, as a finding."""
    from tests.crash.verdict import CrashFinding

    return CrashFinding("harness", "harness", text[-400:])  # the end names the cause


def group_points(trace: Any, mode: str) -> list[list[int]]:
    """The points of a mode; those that leave the same tree together."""
    groups: dict[str, list[int]] = {}
    for at in range(1, trace.points(mode) + 1):
        groups.setdefault(trace.state(mode, at) or f"point {at}", []).append(at)
    return list(groups.values())


def choose(trace: Any, mode: str, groups: list[list[int]], order: dict[str, Any]) -> list[list[int]]:
    """The groups of this part.

    Of a share, and of a job with workers, only the first of the writes in a row to one file is taken.
    """
    from tests.crash.points import SIGNALS

    share, shares = order["share"]
    sparse = (trace.job.workers or order["sparse"]) and not mode.startswith("power")
    if mode not in SIGNALS and (sparse or order["most"]):
        ops, first = trace.operations, []
        for numbers in groups:
            at = numbers[0]
            here, before = ops[min(at, len(ops)) - 1], ops[max(at - 2, 0)]
            if at == 1 or at > len(ops) or (here.kind, here.path) != (before.kind, before.path):
                first.append(numbers)
        groups = first
    groups = groups[share::shares]
    if order["most"] and len(groups) > order["most"]:
        most = order["most"]
        offset = sum(map(ord, trace.job.name + mode)) % 97 / 97  # not the same places for every job
        groups = [groups[int((n + offset) * len(groups) / most)] for n in range(most)]
    return groups[order["part"] :: order["parts"]]


def describe(trace: Any, mode: str, at: int) -> tuple[str, str]:
    """The operation of a point and its file, without what is drawn anew each time."""
    from tests.crash.points import SIGNALS

    if mode in SIGNALS:
        return "instant", ""
    if at > len(trace.operations):
        return "end", ""
    op = trace.operations[at - 1]
    paths = [plain(path, trace.root) for path in (op.path, op.other) if path]
    return op.kind, " -> ".join(paths)


def plain(path: str, tree: Path) -> str:
    """A path from the tree on, without drawn names."""
    short = path.removeprefix(f"{tree}/").removeprefix(f"{tree.parent}/")
    return re.sub(r"[0-9a-f]{8,}|(?<=[a-z]-)[a-z0-9_]{8}(?=/|$)|(?<=tmp)[a-z0-9_]{8}", "*", short)


def as_ranges(numbers: Sequence[int]) -> str:
    """Numbers in short, such as `1-3, 7`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def say(row: dict[str, Any]) -> None:
    """One line of JSON for the process that started this one."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

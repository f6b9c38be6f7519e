"""Run targets under atheris, each in its own process, and collect the results.

`.cache/fuzz/<target>` has the corpus, from which later runs continue, the findings, and the output of libFuzzer
(`log.txt`).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz.contract import fault_of
from fuzz.targets import Target, find_target

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".cache" / "fuzz"
REGRESSIONS = ROOT / "tests" / "regressions"
LARGEST_INPUT = 1 << 14
TIMEOUT_S, RSS_MB = 10, 2048
"""What one input may take before it is a finding."""
MEMORY = Path("/dev/shm")
SHORTEST_RUN_S = 5
GRACE_S = 300
"""Beyond its time, for imports and the last input, before a process is taken for stuck."""

Result = dict[str, Any]


def run_targets(names: Sequence[str], seconds: int, jobs: int) -> list[Result]:
    """Fuzz each target for so many seconds, up to `jobs` at once; what they found is shrunk and printed."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda name: run_target(name, seconds), names))


def run_target(name: str, seconds: int) -> Result:
    """Fuzz one target; a run that a finding has ended is begun again for the rest of the time.

    Returns:
        `seconds` and `executions` of this run, `edges` of the code that its corpus reaches, and `findings`: the
        faults by their name, with the file of a small input.
    """
    home = HOME / name
    for old in home.glob("findings/*"):
        old.unlink()
    (home / "findings").mkdir(parents=True, exist_ok=True)
    began, executions, edges = time.monotonic(), 0, 0
    with (home / "log.txt").open("wb") as log:
        while (left := round(seconds - (time.monotonic() - began))) >= SHORTEST_RUN_S:
            start = log.tell()
            _drive(name, home, left, log)
            words = (home / "log.txt").read_bytes()[start:].decode("utf-8", "replace")
            done = re.findall(r"stat::number_of_executed_units: *(\d+)|^#(\d+)\s", words, re.MULTILINE)
            if not done:
                raise SystemExit(f"the target {name} did not start; see {home / 'log.txt'}")
            executions += max(int(a or b) for a, b in done)
            edges = max([edges, *(int(n) for n in re.findall(r" cov: (\d+) ", words))])
    result = {
        "target": name,
        "seconds": seconds,
        "executions": executions,
        "edges": edges,
        "findings": _faults(find_target(name), sorted(home.glob("findings/*"))),
    }
    _say(result)
    return result


def _drive(name: str, home: Path, seconds: int, log: Any) -> None:
    flags = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_MB}",
        f"-timeout={TIMEOUT_S}",
        f"-max_len={LARGEST_INPUT}",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "fuzz.drive", name, str(home), *flags]
    # files that live for one input belong into memory, where the system has such a folder
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        environment = os.environ | {"TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                process.wait(seconds + GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                (home / "findings" / "stuck").touch()
    log.seek(0, os.SEEK_END)


def _faults(target: Target, files: Iterable[Path]) -> dict[str, str]:
    """Faults by name, each input made small; what libFuzzer stopped at is kept as it is."""
    found: dict[str, str] = {}
    for file in files:
        if not file.name.startswith("fault-"):
            found[file.name] = str(file)
            continue
        fault = fault_of(target, file.read_bytes())
        if fault is None:  # it depends on what was read before
            fault = f"once only: {file.name}"
        elif fault not in found:
            file.write_bytes(shrink(target, file.read_bytes(), fault))
        found.setdefault(fault, str(file))
    return found


def shrink(target: Target, data: bytes, fault: str, most: int = 2000) -> bytes:
    """A smaller input with the same fault: pieces are cut out, from halves down to single bytes."""
    size, tries = len(data) // 2, 0
    while size and tries < most:
        start = 0
        while start < len(data) and tries < most:
            cut = data[:start] + data[start + size :]
            tries += 1
            if fault_of(target, cut) == fault:
                data = cut
            else:
                start += size
        size //= 2
    return data


def _say(result: Result) -> None:
    print(f"{result['target']}: {result['executions']} inputs, {result['edges']} edges", file=sys.stderr)
    for fault, file in result["findings"].items():
        print(f"  {fault}: {file}", file=sys.stderr)

"""`python -m tests.crash`: stop every job at each of its file operations, and see what comes of it."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.crash.declared import JOBS
from tests.crash.points import MODES
from tests.crash.preload import missing, preloaded
from tests.crash.twins import TWINS

ROOT = Path(__file__).resolve().parents[2]
RESULTS, BEFORE = (Path(__file__).with_name(name) for name in ("results.json", "before.json"))
"""The results of the last complete run, and those of the code before the job runner was rebuilt."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the points that were asked for; exit code 1 where one failed."""
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument(
        "--jobs",
        nargs="+",
        choices=[*names, *(twin.name for twin in TWINS)],
        default=names,
        metavar="JOB",
        help=", ".join(names),
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--share", default="0/1", metavar="K/N", help="every N-th point from the K-th on")
    parser.add_argument("--most", type=int, default=0, help="so many points of a job and mode; 0 for all")
    parser.add_argument("--sparse", action="store_true", help="of writes in a row to one file only the first")
    parser.add_argument("--by-job", action="store_true", help="each process plays jobs of its own, for small shares")
    cores = min(8, len(os.sched_getaffinity(0)))
    parser.add_argument("--processes", type=int, default=cores, help="by default the cores, at most 8")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--page", action="store_true", help="write the results, and the table of docs/failures.md")
    given = parser.parse_args(arguments)
    if reason := missing():
        print(f"nothing was run: {reason}", file=sys.stderr)
        return 1
    share = [int(word) for word in given.share.split("/")]
    order = {"jobs": given.jobs, "modes": list(given.modes), "share": share, "most": given.most}
    order |= {"sparse": given.sparse, "by_job": given.by_job}
    results = run_parts(order, given.processes)
    print(show(results))
    if given.page:
        write_results(results)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if any(job.get("unsound") or failures(job) for job in results["jobs"].values()) else 0


def write_results(results: dict[str, Any]) -> None:
    """Keep the results beside this file, and write the page."""
    from studies.faults import PAGE, crash_table, write_failures_page

    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_failures_page(PAGE, crash=crash_table(results, json.loads(BEFORE.read_text(encoding="utf-8"))))


def run_parts(order: dict[str, Any], processes: int) -> dict[str, Any]:
    """Play all parts, each in a process of its own, and put their results together."""
    started, rows = time.monotonic(), []
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="clicksim-crash-", dir=memory if os.access(memory, os.W_OK) else None))

    def listen(part: int) -> None:
        folder = home / str(part)
        folder.mkdir()
        text = json.dumps({**order, "part": part, "parts": processes})
        command = [sys.executable, "-m", "tests.crash.runner", str(folder), text]
        # not below the folder of this one: its temporary files are no part of a box
        with subprocess.Popen(
            command, cwd=ROOT, env=preloaded(folder / "control"), stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                row = json.loads(line)
                rows.append(row)
                took = row.get("seconds", 0.0)
                print(f"{time.monotonic() - started:7.0f} s  part {part}: {row['job']}, {took} s", file=sys.stderr)
        if process.returncode:
            rows.append({"job": f"part {part}", "unsound": f"the runner ended with {process.returncode}"})

    try:
        parts = [threading.Thread(target=listen, args=(part,)) for part in range(processes)]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"seconds": round(time.monotonic() - started), "jobs": join_parts(rows)}


def join_parts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results by job."""
    order = {job.name: n for n, job in enumerate(JOBS)}
    jobs: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: order.get(row["job"], -1)):
        if reason := {name: row[name] for name in ("unsound", "skipped") if name in row}:
            jobs[row["job"]] = reason
            continue
        whole = jobs.setdefault(row["job"], {"operations": row["operations"], "modes": {}, "findings": []})
        if "unsound" in whole:
            continue
        whole["left_undisturbed"] = row["left_undisturbed"]
        for mode, counts in row["modes"].items():
            known = whole["modes"].setdefault(mode, {"points": counts["points"], "ran": 0, "trees": 0, "failures": 0})
            for name in ("ran", "trees", "failures"):
                known[name] += counts[name]
        for finding in row["findings"]:
            same = ("mode", "step", "kind", "operation", "file")
            for other in whole["findings"]:
                if all(other[name] == finding[name] for name in same):
                    other["points"] = f"{other['points']}, {finding['points']}"
                    other["count"] += finding["count"]
                    break
            else:
                whole["findings"].append(finding)
    return jobs


def failures(job: dict[str, Any]) -> int:
    """Points of a job at which something was wrong."""
    return sum(counts["failures"] for counts in job.get("modes", {}).values())


def show(results: dict[str, Any]) -> str:
    """The results as text: a line for each job and mode, and how many points of how many."""
    lines, ran, points = [], 0, 0
    for name, job in results["jobs"].items():
        if reason := job.get("unsound") or job.get("skipped"):
            lines.append(f"{name:16} cannot be tested: {reason}")
            continue
        for mode, counts in job["modes"].items():
            of = f"{counts['ran']:5} of {counts['points']:5} points ({counts['trees']} trees)"
            lines.append(f"{name:16} {job['operations']:5} operations  {mode:12} {of}, {counts['failures']} failed")
            ran, points = ran + counts["ran"], points + counts["points"]
        kinds: dict[str, int] = {}
        for finding in job["findings"]:
            key = f"{finding['mode']}: {finding['step']} {finding['kind']}"
            kinds[key] = kinds.get(key, 0) + finding["count"]
        lines += [f"    {key}: {count}" for key, count in kinds.items()]
        if job["left_undisturbed"]:
            lines.append(f"    left without a fault: {', '.join(job['left_undisturbed'])}")
    lines.append(f"{ran} of {points} points in {results['seconds']} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

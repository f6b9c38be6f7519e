"""`python -m studies.faults`: the page docs/failures.md, from the tests of faults and from the crash tests.

It runs the tests of faults; `python -m tests.crash --page` writes the other part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "failures.md"
HEAD = """\
# When something goes wrong

Every file gets its final name when it is complete, so a reader sees either the old table or the new one. If the disk
fails or a permission is missing, the command stops with one line and exit code 1; no case is listed as rejected for it.
The finished patients of an interrupted run stay below `.work`. The same command with `--resume` continues from there
and gives the same bytes.

## Faults around a command

`make faults` writes this table from a run of `tests/test_faults.py`. Each fault is real, unless the table says
"simulated": then the test replaced an answer of the system. `files lost` counts files that were missing or different:
those that existed before the fault, and those that should exist after the command was resumed.

"""
CRASH_HEAD = """
## A crash at every file operation

`make crash` runs each job on a small tree and stops it at its first file operation, then at its second, and so on until
the job passes. Operations are counted at the C library, in all processes, so the writes of PyArrow, SimpleITK and the
workers are included. After each crash, the job runs again: once with `--resume` and, separately, as a new start. It
must end with the bytes of an undisturbed run, or refuse in one line that says what to do; doing this must work.
Directly after the crash, everything that was committed before must still exist. A reader must see either all tables
from before the job or all tables from after it.

- `kill`: SIGKILL to all processes, in the middle of the operation if it is a write. `kill-one`: only to the process
  that performs the operation.
- `power`: a power cut. What was not flushed is lost, names as well as contents. `power-names`: the same on a disk that
  stores names before contents.
- `error`: the operation fails once with ENOSPC, EIO or ESTALE.
- SIGINT, SIGTERM and SIGHUP at 20 instants each: exit code 130, 143 or 129; no process and no temporary file is left.

Each cell gives the number of failed points and of all points that were run{before}.

"""
TAIL = """
## One writer at a time

Every command that writes to a catalog (`convert`, `clicks`, `scribbles` and `rounds` with `--catalog`,
`import-prompts`, `folds`, `merge`, `relocate`, `push` and `pull`) holds a lock on the folder while it works. So does
`clickseg prepare` on its store. A second writer is refused at once. The message names the process that holds the lock,
its machine, its command and the time when it started. Readers are never refused; they see the last committed state.

The operating system ties the lock to an open file, `.lock`. The lock ends with its process, even after a crash or
`kill -9`, so there is nothing to clean up. The empty file stays; `.lock-holder.json` in the same folder says who is
writing. Neither file is part of the catalog.

Network file systems differ. Most hold the lock across machines; NFS mounted with `nolock` and Lustre mounted with
`localflock` hold it on one machine only. If a file system has no locks, a warning says so, and the file `.lock` itself
is the lock. After a crash, the next command on the same machine removes it; on another machine, delete it yourself.
Object storage has no lock: write locally, then push.

Several machines that work on one download need no lock, because each shard writes its own catalog: see
[SLURM](slurm.md).

## Space

`convert` (if it writes images), `clicks` and `scribbles` with `--out`, `manifest --copy`, `clickseg prepare` and
`clickseg train` check the free space first. A refusal says how much is needed, how much is free, and where. The need is
a lower bound that is computed from headers and tables, without reading voxels. Arrays count by shape and type,
compressed images as a tenth of that, and copies by the size of their files. A refusal is therefore always right, but a
job that starts may still need more.

## Memory

If the system kills the process of a patient twice, or the process gets no more memory, the patient is rejected as
`WorkerDied` and the others continue. Use fewer `--workers` or a machine with more memory, and run the command again.
Workers end when the process that started them ends.

## A damaged file

Each page of a table has a checksum, so a flipped bit is reported and never read as another value. The message names the
file. To restore it, repeat the command that made it. `clicksim catalog check CATALOG --read-data` opens every file.

## Clocks

Times are in `runs/` and in no table. A clock that is set back, or wrong by a century, affects neither a result nor
`--resume`.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the tests and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.faults", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "pytest", "tests/test_faults.py", "-m", "", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CLICKSIM_FAULTS": str(rows)}, check=False)
        if done.returncode:
            raise SystemExit("a test of faults failed; the page is not changed")
        found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    write_failures_page(given.out, faults=fault_table(found))
    print(f"written: {given.out}", file=sys.stderr)


def write_failures_page(out: Path, **parts: str) -> None:
    """Write the page; a part that is not given stays as the page has it.

    Args:
        out: The page.
        parts: `faults`, from `fault_table`, and `crash`, from `crash_table`.
    """
    before = out.read_text(encoding="utf-8") if out.exists() else ""
    whole = {name: parts.get(name) or _find_part(before, name) for name in ("faults", "crash")}
    text = HEAD + _mark_part("faults", whole["faults"]) + _mark_part("crash", whole["crash"]) + TAIL
    out.write_text(text, encoding="utf-8")


def _mark_part(name: str, text: str) -> str:
    return f"<!-- {name} -->\n{text}<!-- end of {name} -->\n"


def _find_part(page: str, name: str) -> str:
    """A part of a page that was written before; empty if it has none."""
    _, begins, rest = page.partition(f"<!-- {name} -->\n")
    part, ends, _ = rest.partition(f"<!-- end of {name} -->\n")
    return part if begins and ends else ""


def fault_table(found: list[dict[str, Any]]) -> str:
    """One row for each fault.

    Args:
        found: What the tests recorded: `fault`, `met`, `times`, `lost`, `says`.
    """
    faults: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        faults.setdefault(row["fault"], []).append(row)
    lines = [
        f"Run on {sys.platform}, Python {sys.version_info.major}.{sys.version_info.minor}.\n",
        "| fault | command | times | files lost | message, for example |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fault, rows in faults.items():
        met = ", ".join(dict.fromkeys(row["met"] for row in rows))
        times, counted = sum(row["times"] for row in rows), [row["lost"] for row in rows if row["lost"] is not None]
        lost = sum(counted) if counted else "none at stake"
        lines.append(f"| {fault} | {met} | {times} | {lost} | {rows[0]['says'].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def crash_table(results: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """One row for each job with its failed points by mode.

    Args:
        results: From `python -m tests.crash`.
        before: The same from an earlier state of the code, to compare with.
    """
    jobs = {name: job for name, job in results["jobs"].items() if "modes" in job}
    old = {} if before is None else before["jobs"]
    modes = list(dict.fromkeys(mode for job in jobs.values() for mode in job["modes"]))
    lines = [f"| job | operations | {' | '.join(modes)} |", f"| --- | --- |{' --- |' * len(modes)}"]
    for name, job in jobs.items():
        cells = [_crash_cell(job["modes"].get(mode), old.get(name, {}).get("modes", {}).get(mode)) for mode in modes]
        lines.append(f"| {name} | {job['operations']} | {' | '.join(cells)} |")
    counts = [mode for job in jobs.values() for mode in job["modes"].values()]
    ran, points, failed = (sum(mode[key] for mode in counts) for key in ("ran", "points", "failures"))
    lines.append(f"\n{ran:,} of {points:,} points were run; {failed:,} failed.")
    told = "" if before is None else "; in brackets, what failed before the job runner was rebuilt"
    return CRASH_HEAD.format(before=told) + "\n".join(lines) + "\n"


def _crash_cell(now: dict[str, int] | None, before: dict[str, int] | None) -> str:
    if now is None:
        return "-"
    was = "" if before is None else f" ({before['failures']} of {before['ran']})"
    return f"{now['failures']} of {now['ran']}{was}"


if __name__ == "__main__":
    main()

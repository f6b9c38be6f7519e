"""`python -m studies.faults`: run the tests that cause faults, and count lost files; writes docs/failures.md."""

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

`make faults` writes this table from a run of `tests/test_faults.py`: {system}. Each fault is real, unless it is marked
"simulated": a simulated fault replaces an answer of the operating system.

Files get their final name when they are complete, so a reader sees either the old table or the new one. A fault of the
disk or of permissions stops the command with one line and exit code 1. It is not recorded as a rejection of a case. The
finished patients of an interrupted run stay below `.work`; the same command with `--resume` continues from there and
gives the same bytes. `files lost` counts files that were missing or different: those that existed before the fault, and
those that should exist after the command was resumed.

| fault | commands | times | files lost | example of a message |
| --- | --- | --- | --- | --- |
"""
TAIL = """
## One writer at a time

A command that writes to a catalog (`convert`, `clicks`, `scribbles` and `rounds` with `--catalog`, `import-prompts`,
`folds`, `merge`, `relocate`, `push` and `pull`) holds a lock on the folder while it works, and so does `clickseg
prepare` on its store. A second writer is refused at once. The message says which process holds the lock, on which
machine, since when, and with which command. Readers are never refused; they see the last committed state.

The operating system holds the lock on an open file, `.lock`. The lock ends with its process, even after a crash or
`kill -9`, so there is nothing to clean up. The empty file stays; `.lock-holder.json` in the same folder says who is
writing. Neither file is part of the catalog.

Network file systems differ. Most hold the lock across machines. NFS mounted with `nolock` and Lustre mounted with
`localflock` hold it on one machine only. If a file system has no locks, a warning says so, and the file `.lock` itself
marks the writer. After a crash, the next command on the same machine removes it; on another machine, delete it
yourself. Object storage has no lock: write locally, then push.

Several machines that work on one download need no lock, because each shard writes a separate catalog: see
[SLURM](slurm.md).

## Space

`convert` (if it writes images), `clicks` and `scribbles` with `--out`, `manifest --copy`, `clickseg prepare` and
`clickseg train` first check the free space. If there is too little, they refuse to start and say how much they need,
how much is free, and where. The need is a lower bound from headers and tables; no voxels are read. Stored arrays count
by shape and type, compressed images as a tenth of that, and copies by the size of their files. A refusal is therefore
always right, but a job that starts may still need more.

## Memory

If the system kills the process of a patient twice, or the process gets no more memory, the patient is rejected as
`WorkerDied` and the others continue. Use fewer `--workers` or a machine with more memory, and run the command again.
Workers end when the process that started them ends.

## A damaged file

Each page of a table carries a checksum, so a flipped bit is reported and not read as another value. The message names
the file. To restore it, run the command that made it again. `clicksim catalog check CATALOG --read-data` opens every
file.

## Clocks

Times are stored in `runs/` and in no table. A clock that is set back, or that is wrong by a century, affects neither a
result nor `--resume`.
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
    given.out.write_text(page(found), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)


def page(found: list[dict[str, Any]]) -> str:
    """The page, with one row per fault.

    Args:
        found: Rows that the tests recorded: `fault`, `met`, `times`, `lost`, `says`.
    """
    faults: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        faults.setdefault(row["fault"], []).append(row)
    lines = []
    for fault, rows in faults.items():
        met = ", ".join(dict.fromkeys(row["met"] for row in rows))
        times, counted = sum(row["times"] for row in rows), [row["lost"] for row in rows if row["lost"] is not None]
        lost = sum(counted) if counted else "none at stake"
        lines.append(f"| {fault} | {met} | {times} | {lost} | {rows[0]['says'].replace('|', '/')} |")
    system = f"{sys.platform}, Python {sys.version_info.major}.{sys.version_info.minor}"
    return HEAD.format(system=system) + "\n".join(lines) + "\n" + TAIL


if __name__ == "__main__":
    main()

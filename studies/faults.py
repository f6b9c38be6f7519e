"""`python -m studies.faults`: the tests that make things go wrong, and what they lost; docs/failures.md."""

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

The table is written by `make faults`, from a run of `tests/test_faults.py`: {system}. Each fault was made for real,
unless it says "simulated": there the system's answer was put in its place, since none such could be had.

Files get their final name when they are complete, so a reader sees the old table or the new one. A fault of the disk or
of rights stops a command with one line and exit code 1, and no case is blamed for it: it never ends in the table of
rejections. The finished patients of an interrupted run stay below `.work`, and the same command with `--resume` goes on
from there to the same bytes. `files lost` counts the files that stood there before the fault, or should stand there
once the command has gone on, and were gone or different.

| fault | what met it | times | files lost | what it says, for example |
| --- | --- | --- | --- | --- |
"""
TAIL = """
## One writer at a time

What writes to a catalog (`convert`, `clicks`, `scribbles` and `rounds` with `--catalog`, `import-prompts`, `folds`,
`merge`, `relocate`, `push` and `pull`), and `clickseg prepare` in its store, holds a lock on the folder as long as it
works. A second writer is refused at once, and told which process holds the lock, on which machine, since when, with
which command. Readers are never refused, and see what was last committed.

The operating system holds the lock for an open file, `.lock`, so it ends with its process, also after a crash or
`kill -9`: there is nothing to clean up. The file stays and is empty; `.lock-holder.json` beside it says who writes.
They are no part of the catalog.

Network file systems differ. Most hold the lock across machines; NFS mounted with `nolock` and Lustre mounted with
`localflock` hold it on one machine only. Where a file system knows no locks at all, a warning says so, and the file
`.lock` is itself the sign: after a crash the next command on the same machine takes it away, while on another one you
delete it. Object storage has no lock: write locally and push.

Several machines that work on one download need no lock: each shard writes a catalog of its own, see [SLURM](slurm.md).

## Space

`convert` where it writes images, `clicks` and `scribbles` with `--out`, `manifest --copy`, `clickseg prepare` and
`clickseg train` ask first how much is free, and refuse with what they need, what is there, and where. The need is a
lower bound from headers and tables, without a voxel read: stored arrays by shape and type, packed images by a tenth of
that, copies by the size of their files. So a refusal is right, but more may be needed in the end.

## Memory

A patient whose process is killed by the system, twice, or that gets no more memory, ends in the table of rejections as
`WorkerDied`, and the others go on. Take fewer `--workers`, or a machine with more memory, and run the command again.
Workers end by themselves when the process that started them is gone.

## A damaged file

Each page of a table carries a checksum, so a flipped bit is refused and not read as another value. The line names the
file; running the command that made it makes it anew. `clicksim catalog check CATALOG --read-data` opens every file.

## Clocks

Times stand in `runs/` and in no table. A clock that is set back, or stands in another century, changes no result and no
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
            raise SystemExit("a test of faults failed: the page stays as it was")
        found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    given.out.write_text(page(found), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)


def page(found: list[dict[str, Any]]) -> str:
    """The page, with one row for each fault.

    Args:
        found: What the tests kept: `fault`, `met`, `times`, `lost`, `says`.
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

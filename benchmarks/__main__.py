"""`python -m benchmarks`: measure everything and write docs/benchmarks.md."""

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

GROUPS = (
    "clicks",
    "corrections",
    "passes",
    "memory",
    "files",
    "folder",
    "catalog",
    "guidance",
    "startup",
    "tcia",
    "report",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the groups and write the page; if only some groups run, print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="run the published approach to its end (many minutes)")
    parser.add_argument("--quick", action="store_true", help="tiny cases; the numbers mean nothing")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="GROUP", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--out", type=Path, help="file; docs/benchmarks.md by default, stdout with --only or --quick")
    given = parser.parse_args(arguments)

    from benchmarks.bench_data import ROOT
    from benchmarks.result_table import render, write_page

    sections = []
    for name in given.only or GROUPS:
        start = time.perf_counter()
        sections += import_module(f"benchmarks.bench_{name}").run(full=given.full, quick=given.quick)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    out = given.out or (None if given.only or given.quick else ROOT / "docs" / "benchmarks.md")
    if out is None:
        print(render(sections), end="")
        return
    write_page(sections, out)
    print(f"written: {out}", file=sys.stderr)


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # read when numpy is imported, in main
    main()

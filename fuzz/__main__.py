"""`python -m fuzz`: let atheris look for inputs that break a reader, and write docs/fuzzing.md."""

import argparse
import sys

from fuzz.campaign import run_targets
from fuzz.fuzz_page import write_fuzz_page
from fuzz.targets import NAMES


def main(arguments: list[str] | None = None) -> None:
    """Run the targets that were named, or all of them; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="targets that run at once")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.target if name not in NAMES]
    if unknown:
        parser.error(f"unknown target {', '.join(unknown)}; allowed: {', '.join(NAMES)}")
    results = run_targets(given.target or list(NAMES), given.seconds, given.jobs)
    write_fuzz_page(results)
    sys.exit(any(result["findings"] for result in results))


if __name__ == "__main__":
    main()

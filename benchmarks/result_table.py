"""The benchmark page: Markdown tables of measured values. Nobody types a number in it."""

import datetime
import os
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.timing import Time

PACKAGES = (  # as their distributions are called
    "clicksim",
    "numpy",
    "scipy",
    "numba",
    "nibabel",
    "SimpleITK",
    "edt",
    "isal",
    "pyarrow",
    "pydicom",
    "connected-components-3d",
)
HEADER = ("work", "clicksim", "rival", "rival's result", "ratio", "bar", "aim", "reached")

INTRO = """# Benchmarks

Written by `make bench`; `make bench-full` also runs the published approach to its end.

A time is the best of several rounds after a warm-up, with the median in brackets. Rivals take turns within a round.
A ratio compares the best times of one run. "reached" says whether the ratio meets the bar or the aim that the project
has set itself. Everything runs in one process with one thread.
"""


@dataclass
class Section:
    """A table with its heading and an explanation."""

    title: str
    text: str = ""
    header: Sequence[str] = HEADER
    rows: Sequence[Sequence[str]] = ()

    def markdown(self) -> str:
        """Heading, text and table."""
        lines = [
            f"## {self.title}",
            "",
            textwrap.fill(self.text, 120, break_long_words=False, break_on_hyphens=False),
            "",
        ]
        lines += [_line(self.header), _line(["---"] * len(self.header)), *(_line(row) for row in self.rows)]
        return "\n".join(lines) + "\n"


def faster(
    work: str, ours: Time, rival: str, theirs: Time | float, *, bar: float | None = None, aim: float | None = None
) -> list[str]:
    """A row whose ratio says how many times faster clicksim is; the bar is the smallest allowed ratio."""
    best = theirs.best if isinstance(theirs, Time) else theirs
    ratio = best / ours.best
    return [work, show_time(ours), rival, show_time(theirs), times(ratio), *_goals(ratio, bar, aim, more=True)]


def at_most(
    work: str, ours: Time, rival: str, theirs: Time, *, bar: float | None = None, aim: float | None = None
) -> list[str]:
    """A row whose ratio is the share of the rival's time that clicksim needs; the bar is the largest allowed ratio."""
    ratio = ours.best / theirs.best
    return [work, show_time(ours), rival, show_time(theirs), times(ratio), *_goals(ratio, bar, aim, more=False)]


def within(work: str, ours: Time, rival: str, theirs: Time, *, bar_s: float) -> list[str]:
    """A row whose bar is an absolute time; the ratio to a rival is shown too."""
    reached = "bar" if ours.best <= bar_s else "no"
    ratio = times(ours.best / theirs.best)
    return [work, show_time(ours), rival, show_time(theirs), ratio, f"{bar_s:g} s", "", reached]


def share(
    work: str, ours: float, rival: str, theirs: float, *, bar: float | None = None, aim: float | None = None
) -> list[str]:
    """A row of bytes, as a share of the rival's bytes; the bar is the largest allowed share."""
    ratio = ours / theirs
    goals = _goals(ratio, bar, aim, more=False)
    return [work, f"{ours / 1e6:.1f} MB", rival, f"{theirs / 1e6:.1f} MB", times(ratio), *goals]


def absent(work: str, reason: str) -> list[str]:
    """A row that could not be measured, with the reason."""
    return [work, reason, "", "", "", "", "", ""]


def show_time(value: Time | float) -> str:
    """Three figures with a unit; after several rounds, the median in brackets."""
    if isinstance(value, float):
        return _seconds(value)
    return _seconds(value.best) + (f" ({_seconds(value.median)})" if value.rounds > 1 else "")


def times(ratio: float) -> str:
    """A ratio in three figures."""
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.3g} x"


def write_page(sections: Sequence[Section], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(sections), encoding="utf-8")


def render(sections: Sequence[Section]) -> str:
    """The whole page."""
    return "\n".join([INTRO, machine(), *(section.markdown() for section in sections)])


def machine(names: Sequence[str] = PACKAGES) -> str:
    """The machine and the versions of some distributions."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    system = f"{platform.system()} {platform.machine()}, CPython {platform.python_version()}"
    return f"Measured on {day} on {_cpu()}, {os.cpu_count()} cores, {system}.\n\nWith {packages}.\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _goals(ratio: float, bar: float | None, aim: float | None, *, more: bool) -> list[str]:
    """The bar, the aim, and which of them is reached."""

    def met(goal: float | None) -> bool:
        return goal is not None and (ratio >= goal if more else ratio <= goal)

    reached = "" if bar is None and aim is None else "aim" if met(aim) else "bar" if met(bar) else "no"
    return ["" if goal is None else times(goal) for goal in (bar, aim)] + [reached]


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""Progress on stderr: a bar with rate and time left on a terminal, occasional lines in a log."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import click

Item = TypeVar("Item")

LOG_EVERY_S = 30.0


class Report(Protocol):
    """A callback for progress."""

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        """Report the number done, the total, and the number refused so far."""


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, with progress."""
    with progress(what) as report:
        for done, item in enumerate(items, start=1):
            yield item
            report(done, len(items))


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yield a callback for the progress of work whose length is not known in advance."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[refused]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(what, total=None, rate="", refused=""))


def in_units(seconds: float) -> str:
    """Format a time in its two largest units.

    >>> in_units(42), in_units(725), in_units(12_000), in_units(6_848_273)
    ('42 s', '12 min 5 s', '3 h 20 min', '79 d 6 h')
    """
    whole, parts = round(seconds), []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        parts.append((count, name))
    first = next((n for n, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2])


class _Bar:
    """A progress bar of rich."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task, self.clock = bar, task, _Clock()

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        rate, _ = self.clock.read(done, total)
        note = f"{refused} refused" if refused else ""
        self.bar.update(self.task, completed=done, total=total, rate=f"{rate:.2f}/s", refused=note)


class _Lines:
    """Plain lines at a limited rate, always including the last."""

    def __init__(self, what: str) -> None:
        self.what, self.clock, self.last = what, _Clock(), time.monotonic()

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        rate, left = self.clock.read(done, total)
        if time.monotonic() - self.last < LOG_EVERY_S and done < total:
            return
        self.last = time.monotonic()
        note = f", {refused} refused" if refused else ""
        click.echo(f"{self.what}: {done} of {total}, {rate:.2f}/s, {in_units(left)} left{note}", err=True)


class _Clock:
    """Rate and time left. Work done before a resume does not count, and the count may restart."""

    def __init__(self) -> None:
        self.start, self.first = time.monotonic(), -1
        self.last = self.start

    def read(self, done: int, total: int) -> tuple[float, float]:
        """Return the rate per second and the seconds left; call it at each report."""
        if self.first < 0 or done <= self.first:
            self.start, self.first = self.last, done - 1
        self.last = time.monotonic()
        rate = (done - self.first) / max(self.last - self.start, 1e-9)
        return rate, (total - done) / rate

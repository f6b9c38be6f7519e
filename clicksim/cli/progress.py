"""Progress on stderr: a bar with rate and time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

LOG_EVERY_S = 30.0


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with progress."""
    if sys.stderr.isatty():
        yield from _bar(items, what)
    else:
        yield from _lines(items, what)


def _bar(items: Sequence[Item], what: str) -> Iterator[Item]:
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
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=len(items), rate="")
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(task, advance=1, rate=f"{done / (time.monotonic() - start):.2f}/s")


def _lines(items: Sequence[Item], what: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_S or done == len(items):
            rate = done / max(now - start, 1e-9)
            left = (len(items) - done) / rate
            print(f"{what}: {done} of {len(items)}, {rate:.2f}/s, {left:.0f} s left", file=sys.stderr)
            last = now

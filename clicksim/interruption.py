"""End a process cleanly: when it is told to end, it first releases the files and processes that it holds."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Terminated(BaseException):
    """SIGTERM or SIGHUP told the process to end.

    Like `KeyboardInterrupt` it is not an `Exception`, so that code that continues after a bad case does not continue
    after this.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Terminated`, so that `finally` blocks release files and processes.

    Only the main thread of a process can do this; in other threads the block has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # an ignored signal stays ignored: `nohup` asks for that
    chosen = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in chosen:
        signal.signal(number, _raise_terminated)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def holding_signals() -> Iterator[None]:
    """Deliver SIGINT, SIGTERM and SIGHUP only after the block, so that what it starts can be stopped or deleted.

    The first signal that arrived is delivered when the block ends. Signals that are ignored, or that end the process at
    once, are left as they are. Only the main thread of a process receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    try:
        for number in map(int, (signal.SIGINT, *SIGNALS)):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda received, _frame: came.append(received))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _raise_terminated(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what a handler is called with
    for other in SIGNALS:  # a second signal does not interrupt the clean-up
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(number)

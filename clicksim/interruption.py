"""What happens when a process is told to end: whatever holds a file or a process lets go of it first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Terminated(BaseException):
    """The process was told to end by SIGTERM or SIGHUP.

    Like `KeyboardInterrupt` it is no `Exception`, so that nothing that goes on past a bad case goes on past it.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Terminated`, so that whatever holds a file or a process lets go of it.

    Only the main thread of a process can do this; in others the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # a signal that is ignored stays so: that is how `nohup` asks for it
    chosen = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in chosen:
        signal.signal(number, _raise_terminated)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, signal.SIG_DFL)


def _raise_terminated(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what a handler is called with
    for other in SIGNALS:  # a second one does not interrupt the tidying up
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(number)

"""Ask a predictor for a mask: enforce the time limit, check the answer, and name the reason if there is none."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, GeometryError, ImageError, StorageError
from clicksim.geometry.arrays import as_labels
from clicksim.predictors.interface import Predictor, RoundFailure, Scan
from clicksim.prompts import Prompts
from clicksim.volumes import Volume

LONGEST_DETAIL = 300


def ask_predictor(predictor: Predictor, scan: Scan, prompts: Prompts, time_limit_s: float) -> NDArray[np.uint8]:
    """Return the prediction as a mask of 0 and 1, in Fortran order.

    A callable that takes too long is interrupted if the platform allows it: in the main thread of a process on Unix,
    between two Python instructions. Elsewhere its answer arrives late and does not count.

    Raises:
        RoundFailure: There is no usable mask.
        StorageError: The disk on which the predictor exchanges files is full. This is not the predictor's fault.
    """
    own = getattr(predictor, "limits_itself", False)
    started = time.monotonic()
    try:
        with _time_limit(0 if own else time_limit_s):
            answer = predictor(scan, prompts)
        if not own and time.monotonic() - started > time_limit_s:
            raise _OutOfTimeError
        return _as_mask(answer, scan)
    except (RoundFailure, StorageError):
        raise
    except _OutOfTimeError as error:
        raise RoundFailure("TimeLimit", f"no answer within {time_limit_s:g} s") from error
    except GeometryError as error:
        raise RoundFailure("WrongGrid", shorten_error(str(error))) from error
    except ImageError as error:
        raise RoundFailure("BadLabel", shorten_error(str(error))) from error
    except (Exception, SystemExit) as error:
        raise RoundFailure("PredictorError", shorten_error(f"{type(error).__name__}: {error}")) from error


def let_finish(predictor: Predictor) -> tuple[str, ...]:
    """Let a predictor release what it holds for a case. Return a note if that fails: the rounds keep their scores.

    Raises:
        StorageError: The disk is full, as in `ask_predictor`.
    """
    try:
        getattr(predictor, "finish", tuple)()
    except StorageError:
        raise
    except (Exception, SystemExit) as error:
        told = shorten_error(f"{type(error).__name__}: {error}")
        return (f"the predictor failed to release the case: {told}",)
    return ()


def shorten_error(text: str) -> str:
    """Put a text on one line, and cut it to `LONGEST_DETAIL` characters."""
    return " ".join(text.split())[:LONGEST_DETAIL]


def _as_mask(answer: Any, scan: Scan) -> NDArray[np.uint8]:
    """Return the answer as a mask; every value except 0 is lesion."""
    if answer is None:
        raise RoundFailure("NoPrediction", "the predictor returned None")
    array = answer.array if isinstance(answer, Volume) else np.asarray(answer)
    if array.shape != scan.grid.shape:
        raise RoundFailure("WrongShape", f"the prediction has shape {array.shape}, the case {scan.grid.shape}")
    if isinstance(answer, Volume) and not answer.grid.same_as(scan.grid):
        raise RoundFailure("WrongGrid", f"the prediction is on {answer.grid}, the case on {scan.grid}")
    try:
        labels = as_labels(array)
    except ClicksimError as error:
        raise RoundFailure("BadLabel", shorten_error(str(error))) from error
    if labels.dtype != np.uint8 or (labels.size and labels.max() > 1):
        labels = (labels != 0).view(np.uint8)
    return np.array(labels, order="F")  # a copy: the predictor may still write to its own array


class _OutOfTimeError(BaseException):
    """Not an `Exception`, so that a predictor that catches those is stopped too."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after some seconds; 0 sets no limit. Without a timer, there is no limit."""
    if not seconds or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""Predictors by their SPEC, and the one call that asks them.

py:module:function            a Python callable, or a factory class without arguments; the folder in which the
                              command was started is searched too
cmd:<shell with {input} {output}>
                              a new process each round over a Grand Challenge folder
dir:PATH                      recorded predictions, <case>/iter_<k>.nii.gz or <case>_<k>.nii.gz
builtin:threshold             a simple threshold predictor

What a predictor is called with, and what it may give back, stands at `clicksim.predictors.interface.Predictor`.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, GeometryError, ImageError, SettingError, StorageError, unknown_name
from clicksim.geometry.arrays import as_labels
from clicksim.predictors.command import CommandPredictor
from clicksim.predictors.interface import Predictor, RoundFailure, Scan
from clicksim.predictors.threshold import ThresholdPredictor
from clicksim.prompts import Prompts
from clicksim.volumes import EXTENSIONS, Volume, read_image

KINDS = ("py", "cmd", "dir", "builtin")
BUILTINS = {"threshold": ThresholdPredictor}
LONGEST_DETAIL = 300


def open_predictor(spec: str, *, time_limit_s: float = 600.0) -> Predictor:
    """A predictor by its SPEC; see the module.

    Args:
        spec: `kind:rest`.
        time_limit_s: For one round of a command.

    Raises:
        SettingError: An unknown kind or name, a module that cannot be imported, a command without `{input}` and
            `{output}`, a folder that is not there.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in KINDS:
        raise unknown_name("kind of predictor", kind, KINDS)
    if kind == "cmd":
        return CommandPredictor(rest, time_limit_s)
    if kind == "dir":
        return RecordedPredictor(Path(rest))
    if kind == "builtin":
        if rest not in BUILTINS:
            raise unknown_name("built-in predictor", rest, BUILTINS)
        return BUILTINS[rest]()
    return _import(rest)


@dataclass(frozen=True)
class RecordedPredictor:
    """Predictions from a folder: `<case>/iter_<k>` or `<case>_<k>`, k the round, `.nii.gz`, `.nii` or `.mha`.

    A `/` in a case's name is a folder in the first form and `_` in the second.
    """

    folder: Path
    needs_images = False

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SettingError(f"dir:{self.folder} is no folder; name one with <case>/iter_<k>.nii.gz")

    def __call__(self, case: Scan, prompts: Prompts) -> Volume:  # noqa: ARG002 - what was recorded is fixed
        """The prediction of this round."""
        stems = (f"{check_name(case.case_id)}/iter_{case.round}", f"{case.case_id.replace('/', '_')}_{case.round}")
        for stem in stems:
            for ending in EXTENSIONS:
                file = self.folder / f"{stem}{ending}"
                if file.is_file():
                    return read_image(file)
        raise RoundFailure("NoPrediction", f"no {stems[0]}.nii.gz or {stems[1]}.nii.gz in {self.folder}")


def check_name(case_id: str) -> str:
    """The name of a case, or a `RoundFailure` where a file of that name would stand outside its folder."""
    if not case_id or ".." in Path(case_id).parts or Path(case_id).is_absolute():
        raise RoundFailure("NoPrediction", f"case {case_id!r} cannot be the name of a file")
    return case_id


def ask_predictor(predictor: Predictor, scan: Scan, prompts: Prompts, time_limit_s: float) -> NDArray[np.uint8]:
    """The prediction as a mask of 0 and 1, in Fortran order.

    A callable that takes too long is interrupted where the platform can (in the main thread of a process under
    Unix, and between two Python instructions); elsewhere its answer comes late and does not count.

    Raises:
        RoundFailure: Whatever kept the predictor from a usable mask.
        StorageError: The disk that it exchanges files on is full: that is no fault of the predictor.
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
        raise RoundFailure("WrongGrid", _line(str(error))) from error
    except ImageError as error:
        raise RoundFailure("BadLabel", _line(str(error))) from error
    except (Exception, SystemExit) as error:
        raise RoundFailure("PredictorError", _line(f"{type(error).__name__}: {error}")) from error


def let_finish(predictor: Predictor) -> tuple[str, ...]:
    """Let a predictor that wants it forget the case; where it fails, a sentence: the rounds keep their scores.

    Raises:
        StorageError: The disk is full, as in `ask_predictor`.
    """
    try:
        getattr(predictor, "finish", tuple)()
    except StorageError:
        raise
    except (Exception, SystemExit) as error:
        return (_line(f"the predictor failed when it was to forget the case: {type(error).__name__}: {error}"),)
    return ()


def _as_mask(answer: Any, scan: Scan) -> NDArray[np.uint8]:
    """An answer as a mask; any value but 0 is predicted lesion."""
    if answer is None:
        raise RoundFailure("NoPrediction", "the predictor gave None")
    array = answer.array if isinstance(answer, Volume) else np.asarray(answer)
    if array.shape != scan.grid.shape:
        raise RoundFailure("WrongShape", f"the prediction has shape {array.shape}, the case {scan.grid.shape}")
    if isinstance(answer, Volume) and not answer.grid.same_as(scan.grid):
        raise RoundFailure("WrongGrid", f"the prediction lies elsewhere: on {answer.grid}, the case on {scan.grid}")
    try:
        labels = as_labels(array)
    except ClicksimError as error:
        raise RoundFailure("BadLabel", _line(str(error))) from error
    if labels.dtype != np.uint8 or (labels.size and labels.max() > 1):
        labels = (labels != 0).view(np.uint8)
    # a copy: whoever made the array may go on to write in it
    return np.array(labels, order="F")


class _OutOfTimeError(BaseException):
    """Not an `Exception`: a predictor that catches those is to be stopped too."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what runs below after some seconds; 0 for no limit, as where no timer can be set."""
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


def _import(name: str) -> Predictor:
    """The callable behind `module:function`; a class is called once, without arguments."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise SettingError(f"py:{name} is not py:module:function, such as py:mymodel:predict")
    here = str(Path.cwd())
    if here not in sys.path and os.path.isdir(here):  # noqa: PTH112 - a path entry is a text
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found()
    except (ClicksimError, StorageError):
        raise
    except (Exception, SystemExit) as error:  # the user's code, which may do anything when it is imported
        told = _line(f"{type(error).__name__}: {error}")
        raise SettingError(f"predictor py:{name} cannot be imported or made: {told}") from error
    if not callable(found):
        raise SettingError(f"predictor py:{name} is {type(found).__name__} and cannot be called")
    return found


def _line(text: str) -> str:
    """A text on one line, not too long."""
    return " ".join(text.split())[:LONGEST_DETAIL]

"""What must hold of any input: a reader ends in a value or in a refusal of its own, whatever the bytes."""

import tempfile
import traceback
import warnings
from pathlib import Path

import clicksim
import converters
from clicksim.errors import ClicksimError
from fuzz.targets import Target

OURS = [Path(file).resolve().parent for file in (clicksim.__file__, converters.__file__, __file__)]
"""The folders of our code: compared as whole paths, since a checkout may itself be called `clicksim`."""

LONGEST_MESSAGE = 4000
"""Characters: a refusal that shows a file's own words cuts them."""


class BadRefusalError(AssertionError):
    """A refusal that cannot be shown to a person."""


def read_input(target: Target, data: bytes) -> ClicksimError | None:
    """Give one input to a reader; None for a value, else its refusal. Anything else that it raises passes through.

    A numerical warning counts as an error: NumPy gives one where nonsense was computed with instead of refused.

    Raises:
        BadRefusalError: A refusal without words, too long, or with characters that no file or terminal can hold.
    """
    with tempfile.TemporaryDirectory(prefix="clicksim-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            target.read(data, Path(folder))
        except ClicksimError as error:
            if problem := _find_problem(str(error).replace(folder, "")):
                raise BadRefusalError(problem) from error
            return error
    return None


def _find_problem(message: str) -> str:
    """What is wrong with a message, if anything."""
    if not message.strip():
        return "a refusal without words"
    if len(message) > LONGEST_MESSAGE:
        return f"a refusal of {len(message)} characters: {message[:200]}"
    try:
        message.encode()
    except UnicodeEncodeError:
        return f"a refusal that is no UTF-8: {message[:200]!r}"
    return ""


def fault_of(target: Target, data: bytes) -> str | None:
    """What an input breaks: the kind of the exception and the innermost place in this project; None for nothing."""
    try:
        read_input(target, data)
    except Exception as error:
        return name_fault(error)
    return None


def name_fault(error: BaseException) -> str:
    """The same fault has the same name, whatever else its input holds: `KeyError at converters/suv.py:120`."""
    origin = error.__cause__ if isinstance(error, BadRefusalError) and error.__cause__ else error
    frames = [f for f in traceback.extract_tb(origin.__traceback__) if _is_ours(Path(f.filename))]
    last = frames[-1] if frames else None
    place = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}" if last else "nowhere"
    return f"{type(error).__name__} at {place}"


def _is_ours(file: Path) -> bool:
    return any(file.resolve().is_relative_to(folder) for folder in OURS)

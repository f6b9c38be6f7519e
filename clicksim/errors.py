"""The exceptions of clicksim.

    ClicksimError(ValueError)         bad input; the command line prints the message as one line
    ├── GeometryError                 shapes, spacings, affines, grids that differ, points outside a volume
    ├── ImageError                    a file or an array that is not a usable image
    │   ├── TruncatedError            the file is shorter than its header says
    │   ├── LabelError                a label with invalid values
    │   └── UptakeError               not an uptake: not finite, a CT, a label
    ├── PromptFormatError             a prompt file that cannot be read or written
    ├── SettingError                  an unknown or impossible setting or protocol
    ├── EmptyMaskError                no lesion where one is needed
    ├── ReferenceAbortError           the published rule has no answer here: its own script stops
    └── CatalogError                  a catalog that cannot be opened, written or trusted
        └── LockedError               another process or thread writes to the folder
    StorageError(OSError)             the disk is full, read-only, forbidden or failing: the input is not at fault

A message says what is wrong, what was found, what is allowed or how to fix it, and where. A wrong type is a
`TypeError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ClicksimError(ValueError):
    """Bad input: the input, not the program, is at fault."""


class GeometryError(ClicksimError):
    """Shapes, spacings or affines that are impossible or do not fit together."""


class ImageError(ClicksimError):
    """A file or an array that is not a usable image."""


class TruncatedError(ImageError):
    """A file that is shorter than its header says."""


class LabelError(ImageError):
    """A label with values that cannot be labels."""


class UptakeError(ImageError):
    """An image that is not an uptake: NaN, infinite or not numbers; a CT or a label."""


class PromptFormatError(ClicksimError):
    """A prompt file that cannot be read or written."""


class SettingError(ClicksimError):
    """An unknown or impossible setting or protocol."""


class EmptyMaskError(ClicksimError):
    """No lesion where one is needed."""


class ReferenceAbortError(ClicksimError):
    """The published rule has no answer for this input: its own script stops here."""


class CatalogError(ClicksimError):
    """A catalog that cannot be opened, written or trusted."""


class LockedError(CatalogError):
    """A folder that another process or thread writes to."""


class StorageError(OSError):
    """A disk that is full, cannot be written or fails: the work stops, because the case is not at fault.

    It is not a `ClicksimError`, so that code that continues after a bad case does not continue after this.
    """


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> SettingError:
    """A `SettingError` for an unknown name; it suggests the nearest known one.

    >>> str(unknown_name("strategy", "deepst", ["deepest", "rim"]))
    "unknown strategy 'deepst'; did you mean 'deepest'? Allowed: deepest, rim"
    """
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return SettingError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(names)}")


def up_to_ten(names: Iterable[object]) -> str:
    """The first ten of some names, and how many more there are.

    >>> up_to_ten(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    found = [str(name) for name in names]
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return ", ".join(found[:10]) + more


def in_case(case_id: str) -> str:
    """The case for the end of a message; empty for a case without a name.

    >>> f"a mask has three axes, got shape (3, 3){in_case('psma_0017')}"
    'a mask has three axes, got shape (3, 3) (case psma_0017)'
    """
    return f" (case {case_id})" if case_id else ""


def counted(number: int, name: str) -> str:
    """A number of things, in words that fit a sentence.

    >>> counted(1, "case"), counted(0, "case")
    ('1 case', '0 cases')
    """
    return f"{number} {name}{'' if number == 1 else 's'}"

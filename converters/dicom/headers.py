"""Read DICOM headers; every kind of damage ends in the same kind of refusal.

DicomError      every refusal of DICOM input; its `code` names the rule
read_dataset    read a file: whole, without pixels, or only some elements; read_open does so from an open file
quietly         wraps every access to a data set
words, word, numbers, whole    an element as text or numbers; empty or None if absent
"""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clicksim.errors import ClicksimError

LONGEST = 2000
"""Longest message, in characters; a longer one loses its middle, because the end names the file."""
MOST_INFLATED = 1 << 30
"""Most bytes of an inflated data set; one slice or one SEG is far smaller."""
MOST_SLICE = 1 << 26
"""A slice of up to this many bytes is accepted without a check."""
_BLOCK = 1 << 20


class DicomError(ClicksimError):
    """DICOM input that cannot be used.

    Attributes:
        code: The name of the rule, such as `AmbiguousSeries`.
    """

    def __init__(self, code: str, message: str) -> None:
        # a damaged length can make one element of the rest of the file, and messages show elements
        cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__(code, cut)
        self.code = code

    def __str__(self) -> str:
        return f"{self.args[1]} [{self.code}]"


@contextmanager
def quietly(code: str, where: object) -> Iterator[None]:
    """Turn any error that damaged DICOM causes in pydicom into one refusal, and suppress its warnings.

    pydicom converts a value on first access, and damaged values raise almost any exception.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ClicksimError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DicomError(code, f"cannot read the DICOM file: {reason or type(error).__name__} ({where})") from error


def read_dataset(path: str | Path, *, pixels: bool = True, keywords: Sequence[str] | None = None) -> Any:
    """Read a DICOM file: a `pydicom.Dataset`, whole, without pixels, or only the named elements.

    Raises:
        DicomError: `UnreadableDicom`.
    """
    with quietly("UnreadableDicom", path), Path(path).open("rb") as raw:
        return read_open(raw, path, pixels=pixels, keywords=keywords)


def read_open(raw: BinaryIO, path: object, *, pixels: bool = True, keywords: Sequence[str] | None = None) -> Any:
    """As `read_dataset`, from the beginning of an open file; `path` names it in messages."""
    import pydicom

    with quietly("UnreadableDicom", path):
        raw.seek(0)
        _check_deflated(raw, path)
        raw.seek(0)
        tags: Any = None if keywords is None else list(keywords)
        dataset = pydicom.dcmread(raw, stop_before_pixels=not pixels, force=True, specific_tags=tags)
        if not len(dataset):
            raise DicomError("UnreadableDicom", f"the file holds no DICOM element ({path})")
        return dataset


def _check_deflated(raw: BinaryIO, path: object) -> None:
    """Refuse a deflated data set that inflates to too many bytes; pydicom inflates it whole before parsing it."""
    from pydicom.filereader import read_dataset as read_elements
    from pydicom.filereader import read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(raw, force=True)
    meta = read_elements(raw, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate, size, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, raw.read(_BLOCK)
    while packed:
        size += len(inflate.decompress(packed, _BLOCK))
        if size > MOST_INFLATED:
            raise DicomError("UnreadableDicom", f"the file inflates to more than {MOST_INFLATED} bytes ({path})")
        packed = inflate.unconsumed_tail or raw.read(_BLOCK)


def check_promise(promised: int, held: int, where: object) -> None:
    """Refuse compressed pixels that are too few for the size in the header, before memory is allocated.

    Empty slices compress to a thousandth. The size of a usual slice is accepted without a check.

    Args:
        promised: Bytes of the unpacked pixels, by the header.
        held: Bytes of the pixel data in the file.
        where: The file, for the message.

    Raises:
        DicomError: `TruncatedPixels`.
    """
    if promised > max(MOST_SLICE, 1000 * held):
        raise DicomError("TruncatedPixels", f"{held} compressed bytes cannot hold {promised} bytes of pixels ({where})")


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """A text element as a tuple, split at backslashes; empty if absent."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    if isinstance(value, bytes):  # damaged: the element does not have a text type
        value = value.decode("latin-1").strip("\0")
    parts = [value] if isinstance(value, str | int | float) else list(value)
    return tuple(str(p).strip() for p in parts)


def word(dataset: Any, keyword: str) -> str:
    """The first word of an element, or an empty string."""
    return next(iter(words(dataset, keyword)), "")


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """An element of `count` finite numbers; None if absent or of another length.

    Raises:
        ValueError: If a number is not finite.
    """
    parts = words(dataset, keyword)
    if len(parts) != count:
        return None
    values = tuple(float(p) for p in parts)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{keyword} must be finite, got {values}")
    return values


def whole(dataset: Any, keyword: str) -> int | None:
    """An element with one number, without its fraction, or None."""
    values = numbers(dataset, keyword, 1)
    return None if values is None else int(values[0])

"""Reading DICOM headers: files that are damaged in any way end in one kind of refusal.

DicomError      every refusal of DICOM input; its `code` names the rule
read_dataset    a file, whole, without pixels, or only some of its elements; read_open, one that is open
quietly         every access to a data set goes through it
words, word, numbers, whole    an element as text or numbers, absent ones as nothing
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
"""Characters of a refusal; what is longer loses its middle, as the end names the file."""
MOST_INFLATED = 1 << 30
"""Bytes of a deflated data set; one slice, or one SEG, has far less."""
MOST_SLICE = 1 << 26
"""Bytes of one slice that need no proof."""
_BLOCK = 1 << 20


class DicomError(ClicksimError):
    """DICOM input that cannot be used.

    Attributes:
        code: The name of the rule, such as `AmbiguousSeries`.
    """

    def __init__(self, code: str, message: str) -> None:
        # a damaged length makes one element of all that follows it, and messages show elements
        cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__(code, cut)
        self.code = code

    def __str__(self) -> str:
        return f"{self.args[1]} [{self.code}]"


@contextmanager
def quietly(code: str, where: object) -> Iterator[None]:
    """Turn whatever damaged DICOM sets off in pydicom into one refusal, and keep its warnings away.

    pydicom converts a value when it is first looked at, and damaged ones raise nearly every exception there is.
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
    """As `read_dataset`, from the beginning of an open file; `path` is its name in refusals."""
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
    """Refuse a deflated data set that grows beyond all measure: pydicom inflates it whole before it looks inside."""
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
    """Refuse compressed pixels that cannot be as many as the header says, before memory is asked for.

    Empty slices pack to a thousandth; what a scanner's slice can hold is allowed in any case.

    Args:
        promised: Bytes of the pixels, unpacked.
        held: Bytes of the file's pixel data.
        where: The file, for the message.

    Raises:
        DicomError: `TruncatedPixels`.
    """
    if promised > max(MOST_SLICE, 1000 * held):
        raise DicomError("TruncatedPixels", f"{held} compressed bytes cannot hold {promised} bytes of pixels ({where})")


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """An element of text as a tuple, empty where it is absent; backslashes have split it."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    if isinstance(value, bytes):  # damaged: an element whose type is no text
        value = value.decode("latin-1").strip("\0")
    parts = [value] if isinstance(value, str | int | float) else list(value)
    return tuple(str(p).strip() for p in parts)


def word(dataset: Any, keyword: str) -> str:
    """The first word of an element, or an empty string."""
    return next(iter(words(dataset, keyword)), "")


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """An element of `count` finite numbers; None where it is absent or of another length.

    Raises:
        ValueError: If one is no finite number.
    """
    parts = words(dataset, keyword)
    if len(parts) != count:
        return None
    values = tuple(float(p) for p in parts)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{keyword} must be finite, got {values}")
    return values


def whole(dataset: Any, keyword: str) -> int | None:
    """An element that is one number, without its fraction, or None."""
    values = numbers(dataset, keyword, 1)
    return None if values is None else int(values[0])

"""Read the images of the sources: labels with their flags, uptake, and facts from headers.

A problem with an image becomes a `Rejection` with its code.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, GeometryError, LabelError, TruncatedError
from clicksim.geometry import Grid
from clicksim.volumes import Volume, read_image, read_label
from clicksim.volumes.nifti import read_nifti
from converters.shared.tables import Rejection


@dataclass(frozen=True)
class HeaderFacts:
    """What a header says in addition to the grid.

    Attributes:
        grid: Shape, spacing, affine.
        axcodes: Directions of the stored axes, such as `LAS`.
        sform_code: 0 if the sform is not set; None for a file that is not NIfTI.
        qform_code: The same for the qform.
        is_float: Values are stored as floating point, or scaled to it; None for a file that is not NIfTI.
    """

    grid: Grid
    axcodes: str
    sform_code: int | None
    qform_code: int | None
    is_float: bool | None

    def flags(self, usual_axes: str | None = None) -> list[str]:
        """`QFORM_ONLY`, `AFFINE_GUESSED`, and `AXES_NOT_LAS` if the axes are not the usual ones."""
        found = []
        if self.sform_code == 0:
            found.append("QFORM_ONLY" if self.qform_code else "AFFINE_GUESSED")
        if usual_axes is not None and self.axcodes != usual_axes:
            found.append("AXES_NOT_LAS")
        return found


@dataclass(frozen=True, eq=False)
class Labels:
    """A label image as integers.

    Attributes:
        array: `(I, J, K)`, unsigned or signed integers from 0.
        facts: From the header.
        flags: `LABEL_FLOAT` and those of the header.
    """

    array: NDArray[Any]
    facts: HeaderFacts
    flags: list[str]

    @property
    def grid(self) -> Grid:
        """The grid of the image."""
        return self.facts.grid


@contextmanager
def rejecting(file: Path, root: Path, code: str = "UnreadableFile") -> Iterator[None]:
    """Turn a refusal of `file` into a `Rejection`: its type decides the code; the message omits the path of `root`.

    Args:
        file: The file being read; a file of 0 bytes is `TruncatedFile` whatever the reader reports.
        root: Paths in the message become relative to this folder, so that equal trees give equal rows.
        code: For an unreadable or unsuitable image; invalid label values are `BadLabel`.
    """
    try:
        yield
    except Rejection:
        raise
    except ClicksimError as error:
        message = str(error).replace(f"{root}/", "")
        if isinstance(error, TruncatedError) or _is_empty(file):
            code = "TruncatedFile"
        elif isinstance(error, LabelError):
            code = "BadLabel"
        path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        raise Rejection(code, message, path) from error


def _is_empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:
        return False


def header_facts(file: Path, grid: Grid) -> HeaderFacts:
    """The facts of an image whose grid is known; `file` was read before, so its header is valid."""
    axcodes = axis_codes(grid.known_affine)
    if file.name.endswith(".mha"):
        return HeaderFacts(grid, axcodes, None, None, None)
    header = read_nifti(file)
    slope, intercept = header.get_slope_inter()
    is_float = header.get_data_dtype().kind == "f" or (slope or 1.0, intercept or 0.0) != (1.0, 0.0)
    return HeaderFacts(grid, axcodes, int(header["sform_code"]), int(header["qform_code"]), is_float)


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Directions of the stored axes: three of `L R A P I S`, by the largest component of each axis.

    >>> axis_codes(np.diag([-2.0, 2.0, 3.0, 1.0]))
    'LAS'
    """
    from nibabel import orientations

    codes: Any = orientations
    return "".join(codes.aff2axcodes(affine))


def read_labels(file: Path, root: Path, *, highest: int | None = None, usual_axes: str | None = None) -> Labels:
    """Read a label image with its flags.

    Args:
        file: The image.
        root: Paths in messages are relative to this folder.
        highest: The largest allowed value, 1 for a mask; None allows any.
        usual_axes: As for `HeaderFacts.flags`.

    Raises:
        Rejection: `UnreadableFile`, `TruncatedFile`; `BadLabel` for values that are not labels.
    """
    with rejecting(file, root):
        volume = read_label(file)
        if highest is not None and (top := int(volume.array.max())) > highest:
            raise LabelError(f"labels go up to {top}, allowed: 0 to {highest} ({file}); is this another kind of label?")
    facts = header_facts(file, volume.grid)
    return Labels(volume.array, facts, (["LABEL_FLOAT"] if facts.is_float else []) + facts.flags(usual_axes))


def read_scan(file: Path, root: Path) -> Volume:
    """Read a PET or a CT; `converters.shared.case_measures.measure_case` checks the values of a PET.

    Raises:
        Rejection: `UnreadableFile`, `TruncatedFile`.
    """
    with rejecting(file, root):
        return read_image(file)


def check_grids(grid: Grid, other: Grid, names: tuple[str, str], *, remedy: str = "") -> None:
    """Refuse two images on different grids: no corner may differ by more than 0.01 mm.

    Args:
        grid: The grid of one image.
        other: The grid of the other.
        names: The names of the two in the message.
        remedy: The end of the message, such as the option that resamples.

    Raises:
        Rejection: `GridMismatch`.
    """
    try:
        grid.check_same(other, names)
    except GeometryError as error:
        raise Rejection("GridMismatch", f"{error}{remedy}") from error


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()

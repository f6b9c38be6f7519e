"""Shared code of the phantom source trees: the record of written files, odd headers, and ways to break files."""

import gzip
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid, Shape, Spacing
from clicksim.volumes import read_image, write_image

SMALL_SHAPE: Shape = (48, 40, 60)
SMALL_SPACING: Spacing = (9.0, 9.0, 10.0)
"""A small whole body that is painted and converted in a tenth of a second."""


@dataclass
class SourceTree:
    """A folder in a publisher's layout.

    Attributes:
        folder: The tree.
        cases: Ids of the cases that a converter accepts, in the order in which they were written.
        spoiled: Broken files, relative to the folder, each with the expected reason code.
    """

    folder: Path
    cases: list[str] = field(default_factory=list)
    spoiled: dict[str, str] = field(default_factory=dict)


def to_lps(array: NDArray[Any], grid: Grid) -> tuple[NDArray[Any], Grid]:
    """Reverse the second axis of a phantom, which is stored LAS."""
    return np.asfortranarray(array[:, ::-1]), grid.flip(1)


def write_odd_header(path: Path, array: NDArray[Any], grid: Grid, *, sform: int, qform: int) -> None:
    """Write NIfTI with form codes and types that `write_image` does not write; the same input gives the same bytes."""
    import nibabel

    images: Any = nibabel
    image = images.Nifti1Image(array, grid.affine)
    image.set_sform(grid.affine if sform else None, sform)
    image.set_qform(grid.affine if qform else None, qform)
    path.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


def write_table_csv(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str], *, bom: bool = False
) -> None:
    """Write a CSV table; `bom` adds the byte order mark that some spreadsheets write."""
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8-sig" if bom else "utf-8", newline="")


Spoiler = Callable[[Path], None]


def leave_out(path: Path) -> None:
    """Delete a file."""
    path.unlink()


def empty_file(path: Path) -> None:
    """Empty a file, like a download that never started."""
    path.write_bytes(b"")


def cut_file(path: Path) -> None:
    """Cut a file, like a download that was interrupted."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_prose(path: Path) -> None:
    """Replace a file by the web page that a portal serves to visitors who are not logged in."""
    path.write_bytes(b"<html>Please log in.</html>")


def move_grid(path: Path) -> None:
    """Move the grid, as for an image of another case with the same shape."""
    volume = read_image(path)
    write_image(path, volume.array, volume.grid.crop((3, 3, 3), volume.grid.shape))


def put_value(value: float) -> Spoiler:
    """Give one voxel an impossible value; an image of whole numbers is converted to fractions if necessary."""

    def spoil(path: Path) -> None:
        volume = read_image(path)
        array = volume.array if float(value).is_integer() else volume.array.astype(np.float32)
        array[tuple(n // 2 for n in array.shape)] = value
        write_image(path, array, volume.grid)

    return spoil

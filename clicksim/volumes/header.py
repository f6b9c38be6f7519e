"""Shared by the formats: the header of an image, and errors that name the file."""

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, GeometryError, ImageError, StorageError, TruncatedError
from clicksim.geometry import Grid

EXTENSIONS = (".nii.gz", ".nii", ".mha")

BLOCK = 1 << 20  # bytes to read and inflate at a time


@dataclass(frozen=True)
class ImageHeader:
    """Where the voxels are in a file, and how to read them; `packing` is `none`, `gzip` or `zlib`."""

    grid: Grid
    dtype: np.dtype[Any]
    offset: int
    packing: str
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def nbytes(self) -> int:
        """Number of uncompressed voxel bytes."""
        return self.grid.size * self.dtype.itemsize


def extension_of(file: Path) -> str:
    """The extension that names the format; if it is unknown, raise an `ImageError` that lists the known ones."""
    for extension in EXTENSIONS:
        if file.name.endswith(extension) and file.name != extension:
            return extension
    raise ImageError(f"{file.name!r} has no ending of a known image format; allowed: {', '.join(EXTENSIONS)} ({file})")


@contextmanager
def refusing(file: Path, verb: str) -> Iterator[None]:
    """Turn library errors about a bad file into an error that names the file.

    Raises:
        ImageError: If the file or the image is invalid.
        StorageError: If the disk is full or not writable.
    """
    from isal import isal_zlib

    damaged: Any = (zlib.error, isal_zlib.error)
    try:
        yield
    except ClicksimError as error:
        if str(file) in str(error):
            raise
        raise type(error)(f"{error} ({file})") from error
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"cannot {verb} the image: there is no such file ({file})") from error
    except EOFError as error:
        raise TruncatedError(f"the compressed data end too early: the file is cut off ({file})") from error
    except MemoryError as error:
        raise ImageError(f"cannot {verb} the image: it does not fit into memory ({file})") from error
    except damaged as error:
        raise ImageError(f"the compressed data are damaged: {error} ({file})") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"cannot {verb} the image: {reason or type(error).__name__} ({file})") from error


@contextmanager
def reading(file: Path) -> Iterator[BinaryIO]:
    """Open a regular file. Other files are rejected, because a pipe could block forever."""
    with refusing(file, "read"):
        extension_of(file)
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("a folder or a device, not a file")
        if status.st_size == 0:
            raise ImageError("the file is empty: 0 bytes")
        with file.open("rb") as raw:
            yield raw


def three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Drop axes of length 1 after the third; raise an `ImageError` unless three axes are left."""
    if any(n < 1 for n in shape):
        raise ImageError(f"impossible shape in the header: {shape}")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        remedy = "take one frame of it" if len(shape) > 3 else "stack its slices"
        raise ImageError(f"the image is {len(shape)}-D, of shape {shape}; allowed: three axes: {remedy}")
    return (shape[0], shape[1], shape[2])


def check_lengths(spacing: Any) -> None:
    """Reject invalid voxel sizes."""
    values = tuple(float(s) for s in spacing)
    if not all(np.isfinite(s) and s > 0 for s in values):
        raise GeometryError(
            f"spacing in the header must be three positive lengths in mm, got {values}: correct the header"
        )


def make_grid(shape: tuple[int, int, int], spacing: Any, affine: Any) -> Grid:
    """Make the grid from the header values."""
    x, y, z = (float(s) for s in spacing)
    with np.errstate(all="ignore"):  # a nonsensical header may overflow in the checks
        return Grid(shape, (x, y, z), np.array(affine, dtype=np.float64))


def memory_of(array: NDArray[Any]) -> memoryview:
    """The memory of a Fortran-ordered array."""
    flat: Any = array.reshape(-1, order="F").view(np.uint8)
    return memoryview(flat)

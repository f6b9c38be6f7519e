"""What the formats share: the header of an image, and refusals that name the file."""

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

BLOCK = 1 << 20  # bytes read and inflated at a time


@dataclass(frozen=True)
class ImageHeader:
    """Where the voxels of a file stand, and how to read them; `packing` is `none`, `gzip` or `zlib`."""

    grid: Grid
    dtype: np.dtype[Any]
    offset: int
    packing: str
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the voxels, uncompressed."""
        return self.grid.size * self.dtype.itemsize


def extension_of(file: Path) -> str:
    """The ending that names the format, or an `ImageError` that lists the known ones."""
    for extension in EXTENSIONS:
        if file.name.endswith(extension) and file.name != extension:
            return extension
    raise ImageError(f"{file.name!r} has no ending of a known image format; allowed: {', '.join(EXTENSIONS)} ({file})")


@contextmanager
def refusing(file: Path, verb: str) -> Iterator[None]:
    """Turn whatever a bad file sets off in the libraries below into a refusal that names the file.

    Raises:
        ImageError: The file, or the image, is at fault.
        StorageError: The disk is, not the image: it is full, or cannot be written.
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
    """The open file; only a regular one is opened, as a pipe would wait for ever."""
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
    """The shape without further axes of length 1; an `ImageError` where there are not three."""
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
    """The grid of a header."""
    x, y, z = (float(s) for s in spacing)
    with np.errstate(all="ignore"):  # a nonsensical header may overflow in the checks
        return Grid(shape, (x, y, z), np.array(affine, dtype=np.float64))


def memory_of(array: NDArray[Any]) -> memoryview:
    """The memory of a Fortran-ordered array."""
    flat: Any = array.reshape(-1, order="F").view(np.uint8)
    return memoryview(flat)

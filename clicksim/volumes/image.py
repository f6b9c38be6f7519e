"""Read and write images of all formats."""

import io
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clicksim.errors import GeometryError, ImageError, TruncatedError
from clicksim.files import replacing
from clicksim.geometry import Grid
from clicksim.volumes.header import BLOCK, ImageHeader, extension_of, memory_of, reading, refusing
from clicksim.volumes.labels import whole_labels
from clicksim.volumes.metaimage import Zlib, read_mha_header, write_mha
from clicksim.volumes.nifti import gunzip, nifti_header, read_nifti, read_nifti_header, write_nifti

MOST_DEFLATE = 1032  # maximum expansion factor of a deflate stream


@dataclass(frozen=True, eq=False)
class Volume:
    """An image array with its grid.

    Attributes:
        array: `(I, J, K)`, in the axes of the file.
        grid: Its lattice.
        path: The file that it was read from, if any.
    """

    array: NDArray[Any]
    grid: Grid
    path: str = ""


def case_id_of(path: str | Path) -> str:
    """The file name without `.nii.gz`, `.nii` or `.mha`, with spaces and dots unchanged.

    >>> case_id_of("labels/fdg_01  primaer.v2.nii.gz")
    'fdg_01  primaer.v2'

    Raises:
        ImageError: If the name has none of these extensions.
    """
    return Path(path).name.removesuffix(extension_of(Path(path)))


def read_image(path: str | Path) -> Volume:
    """Read a `.nii`, `.nii.gz` or `.mha` image.

    Voxels keep their stored type, in the byte order of the machine. If a NIfTI header scales them (a slope or
    intercept other than 1 and 0; a slope of 0 or NaN means no scaling), they are returned as float64, equal to the
    result of nibabel. Axes of length 1 after the third are dropped. There is no check for NaN.

    A file may have up to 1 MiB after its image; more is an error, and so is a wrong checksum.

    Args:
        path: The file.

    Returns:
        The array, `(I, J, K)` in Fortran order, and the grid. The spacing is the header's `pixdim`. The affine is
        the sform, otherwise the qform (NIfTI), or origin, spacing and direction converted to RAS+ (MetaImage).

    Raises:
        ImageError: If the file is missing, damaged, of another kind, not 3-D, or complex or colour.
        TruncatedError: If the file is shorter than its header says.
        GeometryError: If the spacing or the affine is invalid.
    """
    file = Path(path)
    with reading(file) as raw:
        header = _read_header(file, raw)
        array = _read_array(header, raw)
    return Volume(array, header.grid, str(path))


def read_grid(path: str | Path) -> Grid:
    """Read the grid of an image file from its header; invalid headers give the errors of `read_image`."""
    file = Path(path)
    with reading(file) as raw:
        return _read_header(file, raw).grid


def read_label(path: str | Path) -> Volume:
    """Read a label image: whole numbers from 0.

    Integer files keep their type; unsigned ones need no check. Floating-point labels are accepted if every value is
    within 0.001 of a whole number. They are returned as uint8, or as uint16 or int32 if a label needs it.

    Args:
        path: The file.

    Returns:
        See `read_image`; the array has an integer type.

    Raises:
        LabelError: If a value is negative, fractional, not finite, or above 2147483647 in a floating-point
            file; the message names up to ten of them.
        ImageError, GeometryError: See `read_image`.
    """
    volume = read_image(path)
    return Volume(whole_labels(volume.array, str(path)), volume.grid, volume.path)


def write_image(path: str | Path, array: NDArray[Any], grid: Grid, *, like: str | Path | None = None) -> None:
    """Write an image atomically: write a temporary file in the same folder, then rename it.

    The type of the array is kept (bool becomes uint8). Equal arrays on equal grids give equal bytes, for any
    memory layout and at any time. NIfTI: sform and qform store the grid's affine with code 1, scanner coordinates. The
    qform has code 0 if the affine is sheared, because a qform cannot describe shear. `pixdim` stores the grid's
    spacing; units are mm. The sform is float32. MetaImage: the spacing is that of the affine, because the format has
    no other. An existing file is replaced.

    Args:
        path: The file to write; its extension sets the format.
        array: `(I, J, K)`, integer, bool, float32 or float64.
        grid: Its lattice, with an affine.
        like: An image on the same grid. If it and `path` are both NIfTI, its header is copied except for type,
            scaling and extensions: the affine is then bit-identical, and the codes are kept.

    Raises:
        GeometryError: If the grid has no affine, its shape differs from the array's, or `like` has another grid.
        ImageError: If the type cannot be stored, or the file name is invalid.
        StorageError: If the disk is full or not writable.
    """
    file = Path(path)
    extension = extension_of(file)
    data = _storable(array, grid, str(path))
    template = None if like is None else _template(Path(like), grid)
    with refusing(file, "write"):
        _check_place(file)
        with replacing(file) as temporary:
            if extension == ".mha":
                write_mha(temporary, data, grid)
                return
            with temporary.open("xb") as raw, _packing(raw, extension) as stream:
                write_nifti(stream, nifti_header(data, grid, template), data)


def _read_header(file: Path, raw: BinaryIO) -> ImageHeader:
    size = os.fstat(raw.fileno()).st_size
    if extension_of(file) == ".mha":
        header = read_mha_header(file, raw, size)
    else:
        header = read_nifti_header(raw, packed=extension_of(file) == ".nii.gz")
    _check_size(header, size)
    return header


def _check_size(header: ImageHeader, size: int) -> None:
    """Raise an error if the size in the header does not fit the file, before memory is allocated."""
    promised = header.nbytes + (header.offset if header.packing != "zlib" else 0)
    held = size if header.packing == "none" else size * MOST_DEFLATE
    what = f"shape {header.grid.shape} of {header.dtype.name}"
    if held < promised:
        most = "" if header.packing == "none" else "at most "
        raise TruncatedError(
            f"the header promises {promised} bytes ({what}), the file holds {most}{held}: cut off or damaged"
        )
    if header.packing == "none" and held > promised + BLOCK:
        raise ImageError(f"the file goes on for {held - promised} bytes after the image in its header ({what})")


def _read_array(header: ImageHeader, raw: BinaryIO) -> NDArray[Any]:
    """Read the voxels, `(I, J, K)` in Fortran order."""
    with closing(_voxel_stream(header, raw)) as stream:
        array = np.empty(header.grid.shape, header.dtype, order="F")
        view = memory_of(array)
        filled = 0
        while filled < len(view):
            # block by block, because the gzip reader first fills a buffer of the same size
            count = stream.readinto(view[filled : filled + BLOCK])
            if not count:
                raise TruncatedError(f"the image ends after {filled} of {len(view)} bytes: the file is cut off")
            filled += count
        _finish(stream)
    if not header.dtype.isnative:
        array = array.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
    return _scaled(array, header.slope, header.intercept)


def _voxel_stream(header: ImageHeader, raw: BinaryIO) -> Any:
    """Open the uncompressed bytes of the file from its first voxel on."""
    raw.seek(header.offset if header.packing != "gzip" else 0)
    if header.packing == "none":
        return raw
    if header.packing == "zlib":
        return io.BufferedReader(Zlib(raw), BLOCK)
    stream = gunzip(raw)
    left = header.offset
    while left and (block := stream.read(min(left, BLOCK))):
        left -= len(block)
    return stream


def _finish(stream: Any) -> None:
    """Read to the end to verify the checksum, but with a limit, because a small file can have a huge tail."""
    left = BLOCK
    while left and (block := stream.read(left)):
        left -= len(block)
    if not left and stream.read(1):
        raise ImageError(f"the file goes on for more than {BLOCK} bytes after the image in its header")


def _scaled(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Apply slope and intercept to the stored values, with the same operations and order as nibabel."""
    if (slope, intercept) == (1.0, 0.0):
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        out: NDArray[np.float64] = np.multiply(array, slope, dtype=np.float64)
        if intercept != 0.0:
            np.add(out, intercept, out=out)
    return out


def _template(file: Path, grid: Grid) -> Any:
    """The NIfTI header of an image on the same grid, or None if the image has another format."""
    read_grid(file).check_same(grid, (str(file), "the array"))
    if extension_of(file) == ".mha":
        return None
    return read_nifti(file)


def _storable(array: NDArray[Any], grid: Grid, where: str) -> NDArray[Any]:
    """Convert the array to a storable little-endian array; raise a `GeometryError` if the grid does not fit."""
    if grid.affine is None:
        raise GeometryError(
            f"an image needs to say where its voxels lie; this grid has no affine: {grid}; "
            f"make one with Grid.from_spacing or take it from an image ({where})"
        )
    if array.shape != grid.shape:
        raise GeometryError(f"the array has shape {array.shape}, its grid {grid.shape} ({where})")
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise ImageError(
            f"an array of {array.dtype} cannot be stored; allowed: bool, integer, float32, float64 ({where})"
        )
    little: DTypeLike = array.dtype.newbyteorder("<")
    return array.astype(little, copy=False)


@contextmanager
def _packing(raw: BinaryIO, extension: str) -> Iterator[Any]:
    """Open the stream to write voxels to; it compresses if the extension says so."""
    if extension == ".nii":
        yield raw
        return
    from isal import igzip

    # an empty name and time 0, so that the bytes do not depend on the place and time of writing
    writer: Any = igzip.IGzipFile
    with writer(filename="", mode="wb", compresslevel=2, fileobj=raw, mtime=0) as packed:
        yield packed


def _check_place(file: Path) -> None:
    if not file.parent.is_dir():
        raise ImageError("cannot write the image: its folder does not exist")
    if file.is_dir():
        raise ImageError("cannot write the image: there is a folder of this name")

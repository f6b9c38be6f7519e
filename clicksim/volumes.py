"""Image files: the only reader and writer of image arrays.

    read_image, read_label     .nii, .nii.gz, .mha to a Volume: the array as stored, and its grid
    read_grid                  the grid alone, from the header
    write_image                a new file, complete or not there at all
    case_id_of                 the file name without its ending

Arrays come in the axes of the file, `i` fastest in memory (Fortran order), as nibabel gives them. Geometry is
parsed by nibabel and SimpleITK; the voxels are read here, since that is twice as fast, and since SimpleITK
takes a damaged compressed stream without a word. What a file promises is compared with its size before any
memory is asked for, and compressed streams are read to their end, so that their checksum is known to match.
"""

import io
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clicksim.errors import ClicksimError, GeometryError, ImageError, TruncatedError
from clicksim.geometry import Grid

EXTENSIONS = (".nii.gz", ".nii", ".mha")

WHOLE = 1e-3
"""A label counts as whole within this distance: masks stored with slope 1/255 read back as 1.0000000591."""

_BLOCK = 1 << 20
_MOST_DEFLATE = 1032
"""No deflate stream grows by more than this factor."""

_MET_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_USHORT": "u2",
    "MET_SHORT": "i2",
    "MET_UINT": "u4",
    "MET_INT": "i4",
    "MET_ULONG": "u4",
    "MET_LONG": "i4",
    "MET_ULONG_LONG": "u8",
    "MET_LONG_LONG": "i8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


@dataclass(frozen=True, eq=False)
class Volume:
    """An image array with its grid.

    Attributes:
        array: `(I, J, K)`, in the axes of the file.
        grid: Its lattice.
        path: The file it came from, where it came from one.
    """

    array: NDArray[Any]
    grid: Grid
    path: str = ""


def case_id_of(path: str | Path) -> str:
    """The file name without `.nii.gz`, `.nii` or `.mha`, byte for byte: spaces and dots inside it stay.

    >>> case_id_of("labels/fdg_01  primaer.v2.nii.gz")
    'fdg_01  primaer.v2'

    Raises:
        ImageError: If the name has none of these endings.
    """
    return Path(path).name.removesuffix(_extension(Path(path)))


def read_image(path: str | Path) -> Volume:
    """Read a `.nii`, `.nii.gz` or `.mha` image.

    Voxels keep their stored type, in the byte order of the machine. Where a NIfTI header scales them (a slope
    or intercept other than 1 and 0; a slope of 0 or NaN means no scaling) they come out as float64, equal to
    what nibabel computes. Axes of length 1 after the third are dropped. NaN is not looked for.

    A file may hold up to 1 MiB behind its image; more is refused, as is a checksum that does not match.

    Args:
        path: The file.

    Returns:
        The array, `(I, J, K)` in Fortran order, and the grid. Spacing is the header's `pixdim`; the affine is
        the sform, else the qform (NIfTI), or origin, spacing and direction turned to RAS+ (MetaImage).

    Raises:
        ImageError: If the file is missing, damaged, of another kind, not 3-D, or complex or colour.
        TruncatedError: If it ends before its header says, or can't hold what its header promises.
        GeometryError: If spacing or affine are impossible.
    """
    file = Path(path)
    with _reading(file) as raw:
        header = _read_header(file, raw)
        array = _read_array(header, raw)
    return Volume(array, header.grid, str(path))


def read_grid(path: str | Path) -> Grid:
    """The grid of an image file, from its header alone; impossible headers are refused as by `read_image`."""
    file = Path(path)
    with _reading(file) as raw:
        return _read_header(file, raw).grid


def read_label(path: str | Path) -> Volume:
    """Read a label image: whole numbers from 0.

    Integer files keep their type, and unsigned ones are not even looked at. Floating point labels are taken
    when every value is within 0.001 of a whole number, and come out as uint8, or as uint16 or int32 where a
    label needs it.

    Args:
        path: The file.

    Returns:
        As `read_image`, with an integer array.

    Raises:
        ImageError: If a value is negative, fractional, not finite or above 2147483647 in a floating point
            file; up to ten of them are named. Otherwise as `read_image`.
    """
    volume = read_image(path)
    return Volume(_whole(volume.array, str(path)), volume.grid, volume.path)


def write_image(path: str | Path, array: NDArray[Any], grid: Grid, *, like: str | Path | None = None) -> None:
    """Write an image, complete or not at all: a temporary file in the same folder takes the name at the end.

    The type of the array is kept (bool becomes uint8). Equal arrays on equal grids give equal bytes, whatever
    their memory layout and whenever they are written. NIfTI: sform and qform carry the grid's affine with
    code 1, scanner coordinates; the qform has code 0 where the affine is sheared, which it cannot say.
    `pixdim` carries the grid's spacing, units are mm. The sform is float32. An existing file is replaced.

    Args:
        path: The file to write; its ending decides the format.
        array: `(I, J, K)`, integer, bool, float32 or float64.
        grid: Its lattice, with an affine.
        like: An image on the same grid. Where it and `path` are both NIfTI, its header is taken over, but for
            type, scaling and extensions: the affine is then equal to the last bit, and the codes stay.

    Raises:
        GeometryError: If the grid has no affine or not the array's shape, or `like` has another grid.
        ImageError: If the type cannot be stored, or the file cannot be written.
    """
    file = Path(path)
    extension = _extension(file)
    data = _storable(array, grid, str(path))
    template = None if like is None else _template(Path(like), grid)
    with _refusing(file, "write"), _replacing(file, extension) as temporary:
        if extension == ".mha":
            _write_mha(temporary, data, grid)
            return
        header = _nifti_header(data, grid, template)
        with temporary.open("xb") as raw:
            if extension == ".nii":
                _write_nifti(raw, header, data)
                return
            from isal import igzip

            # an empty name and the time 0 keep the bytes independent of where and when they are written
            writer: Any = igzip.IGzipFile
            with writer(filename="", mode="wb", compresslevel=2, fileobj=raw, mtime=0) as packed:
                _write_nifti(packed, header, data)


@dataclass(frozen=True)
class _Header:
    """Where the voxels of a file stand, and how to read them; `packing` is `none`, `gzip` or `zlib`."""

    grid: Grid
    dtype: np.dtype[Any]
    offset: int
    packing: str
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def nbytes(self) -> int:
        return self.grid.size * self.dtype.itemsize


def _extension(file: Path) -> str:
    for extension in EXTENSIONS:
        if file.name.endswith(extension) and file.name != extension:
            return extension
    raise ImageError(f"{file.name!r} has no ending of a known image format; allowed: {', '.join(EXTENSIONS)} ({file})")


@contextmanager
def _refusing(file: Path, verb: str) -> Iterator[None]:
    """Turn whatever a bad file sets off in the libraries below into a refusal that names the file."""
    from isal import isal_zlib

    damaged: Any = (zlib.error, isal_zlib.error)
    try:
        yield
    except ClicksimError as error:
        if str(file) in str(error):
            raise
        raise type(error)(f"{error} ({file})") from error
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
def _reading(file: Path) -> Iterator[BinaryIO]:
    """The open file; only a regular one is opened, as a pipe would wait for ever."""
    with _refusing(file, "read"):
        _extension(file)
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("a folder or a device, not a file")
        if status.st_size == 0:
            raise ImageError("the file is empty: 0 bytes")
        with file.open("rb") as raw:
            yield raw


def _read_header(file: Path, raw: BinaryIO) -> _Header:
    size = os.fstat(raw.fileno()).st_size
    if _extension(file) == ".mha":
        header = _mha_header(file, raw, size)
    else:
        header = _read_nifti_header(raw, packed=_extension(file) == ".nii.gz")
    _check_size(header, size)
    return header


def _check_size(header: _Header, size: int) -> None:
    """Refuse what the file cannot hold, before any memory is asked for."""
    promised = header.nbytes + (header.offset if header.packing != "zlib" else 0)
    held = size if header.packing == "none" else size * _MOST_DEFLATE
    what = f"shape {header.grid.shape} of {header.dtype.name}"
    if held < promised:
        most = "" if header.packing == "none" else "at most "
        raise TruncatedError(
            f"the header promises {promised} bytes ({what}), the file holds {most}{held}: cut off or damaged"
        )
    if header.packing == "none" and held > promised + _BLOCK:
        raise ImageError(f"the file goes on for {held - promised} bytes behind the image of its header ({what})")


def _read_array(header: _Header, raw: BinaryIO) -> NDArray[Any]:
    """The voxels, `(I, J, K)` in Fortran order."""
    with closing(_voxel_stream(header, raw)) as stream:
        array = np.empty(header.grid.shape, header.dtype, order="F")
        view = _bytes(array)
        filled = 0
        while filled < len(view):
            # block by block, as the gzip reader fills a buffer of the same size first
            count = stream.readinto(view[filled : filled + _BLOCK])
            if not count:
                raise TruncatedError(f"the image ends after {filled} of {len(view)} bytes: the file is cut off")
            filled += count
        _finish(stream)
    if not header.dtype.isnative:
        array = array.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
    return _scaled(array, header.slope, header.intercept)


def _bytes(array: NDArray[Any]) -> memoryview:
    """The memory of a Fortran-ordered array."""
    flat: Any = array.reshape(-1, order="F").view(np.uint8)
    return memoryview(flat)


def _voxel_stream(header: _Header, raw: BinaryIO) -> Any:
    """The uncompressed bytes of the file from its first voxel on."""
    raw.seek(header.offset if header.packing != "gzip" else 0)
    if header.packing == "none":
        return raw
    if header.packing == "zlib":
        return io.BufferedReader(_Zlib(raw), _BLOCK)
    stream = _gunzip(raw)
    left = header.offset
    while left and (block := stream.read(min(left, _BLOCK))):
        left -= len(block)
    return stream


def _gunzip(raw: BinaryIO) -> Any:
    from isal import igzip

    reader: Any = igzip.IGzipFile
    return reader(fileobj=raw, mode="rb")


def _finish(stream: Any) -> None:
    """Read on to the end, where the checksum stands; not for ever, as a small file can hold a huge tail."""
    left = _BLOCK
    while left and (block := stream.read(left)):
        left -= len(block)
    if not left and stream.read(1):
        raise ImageError(f"the file goes on for more than {_BLOCK} bytes behind the image of its header")


def _scaled(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """The values that slope and intercept make of the stored ones, by nibabel's operations in its order."""
    if (slope, intercept) == (1.0, 0.0):
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        out: NDArray[np.float64] = np.multiply(array, slope, dtype=np.float64)
        if intercept != 0.0:
            np.add(out, intercept, out=out)
    return out


class _Zlib(io.RawIOBase):
    """The bytes of a zlib stream; unlike MetaIO it fails where the stream is cut off or damaged."""

    def __init__(self, raw: BinaryIO) -> None:
        from isal import isal_zlib

        self._raw, self._inflate, self._waiting = raw, isal_zlib.decompressobj(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        while not self._inflate.eof:
            packed = self._waiting or self._raw.read(_BLOCK)
            if not packed:
                raise EOFError("the zlib stream has no end")
            block = self._inflate.decompress(packed, min(len(target), 4 * _BLOCK))
            self._waiting = self._inflate.unconsumed_tail
            if block:
                target[: len(block)] = block
                return len(block)
        return 0


# NIfTI


def _read_nifti_header(raw: BinaryIO, *, packed: bool) -> _Header:
    is_gzip = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if is_gzip != packed:
        right = ".nii.gz" if is_gzip else ".nii"
        raise ImageError(f"the file is {'' if is_gzip else 'not '}gzip-compressed; if it is NIfTI, name it {right}")
    if not packed:
        return _parse_nifti(raw.read(540), "none")
    return _parse_nifti(_gunzip(raw).read(540), "gzip")


def _parse_nifti(block: bytes, packing: str) -> _Header:
    header = _checked_nifti(block)
    dtype = header.get_data_dtype()
    shape = _three_axes(_nifti_shape(header))
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise ImageError(
            f"voxels are of type {_type_name(dtype)}; allowed: integer, float32, float64: convert the image"
        )
    slope, intercept = header.get_slope_inter()
    with np.errstate(all="ignore"):
        affine = header.get_best_affine()
    grid = _grid(shape, header["pixdim"][1:4], affine)
    return _Header(grid, dtype, _vox_offset(header), packing, slope or 1.0, intercept or 0.0)


def _checked_nifti(block: bytes) -> Any:
    """The header by nibabel, with its own mending of codes and of `qfac`, but without its log lines."""
    import logging

    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    sizes: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
    for endian, order in (("<", "little"), (">", "big")):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size not in sizes:
            continue
        if len(block) < size:
            raise TruncatedError(f"the file ends inside its header: {len(block)} of {size} bytes")
        header = sizes[size](block[:size], endianness=endian, check=False)
        if header["magic"].item()[:3] in (b"ni1", b"ni2"):
            raise ImageError("half of a .hdr/.img pair; allowed: one file (.nii, .nii.gz): convert the pair")
        if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
            break
        _check_lengths(header["pixdim"][1:4])
        silent = logging.Logger("silent")
        silent.addHandler(logging.NullHandler())
        header.check_fix(logger=silent, error_level=40)
        return header
    raise ImageError(f"not a NIfTI file: it begins with {block[:8]!r}")


def _nifti_shape(header: Any) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise ImageError(f"impossible dimensions in the header: {dim}")
    return tuple(dim[1 : dim[0] + 1])


def _vox_offset(header: Any) -> int:
    least = int(header.single_vox_offset)
    offset = float(header["vox_offset"])
    if not (offset >= least and offset.is_integer()):
        raise ImageError(f"the header says that voxels begin at byte {offset:g}; allowed: a whole number from {least}")
    return int(offset)


def _type_name(dtype: np.dtype[Any]) -> str:
    kind = {"c": "complex", "V": "colour (RGB)"}.get(dtype.kind)
    return f"{kind}, {dtype}" if kind else str(dtype)


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if any(n < 1 for n in shape):
        raise ImageError(f"impossible shape in the header: {shape}")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        mend = "take one frame of it" if len(shape) > 3 else "stack its slices"
        raise ImageError(f"the image is {len(shape)}-D, of shape {shape}; allowed: three axes: {mend}")
    return (shape[0], shape[1], shape[2])


def _check_lengths(spacing: Any) -> None:
    values = tuple(float(s) for s in spacing)
    if not all(np.isfinite(s) and s > 0 for s in values):
        raise GeometryError(
            f"spacing in the header must be three positive lengths in mm, got {values}: mend the header"
        )


def _grid(shape: tuple[int, int, int], spacing: Any, affine: Any) -> Grid:
    x, y, z = (float(s) for s in spacing)
    with np.errstate(all="ignore"):  # a nonsensical header may overflow in the checks
        return Grid(shape, (x, y, z), np.array(affine, dtype=np.float64))


def _template(file: Path, grid: Grid) -> Any:
    """The NIfTI header of an image on the same grid, or None where the image is of another format."""
    read_grid(file).check_same(grid, (str(file), "the array"))
    if _extension(file) == ".mha":
        return None
    with _reading(file) as raw:
        return _checked_nifti((raw if _extension(file) == ".nii" else _gunzip(raw)).read(540))


def _nifti_header(data: NDArray[Any], grid: Grid, template: Any) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    large = max(grid.shape) >= 1 << 15 or isinstance(template, Nifti2Header)
    kind: Any = Nifti2Header if large else Nifti1Header
    header = kind() if template is None else kind.from_header(template, check=False)
    header = header.as_byteswapped("<")
    header.set_data_shape(grid.shape)
    header.set_data_dtype(data.dtype)
    header["magic"], header["vox_offset"] = kind.single_magic, kind.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["cal_min"] = header["cal_max"] = 0.0
    if template is None:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code=1)
        header.set_qform(grid.affine, code=1)
        header.set_zooms(grid.spacing)
        if not Grid(grid.shape, affine=header.get_qform()).same_as(grid):
            header["qform_code"] = 0
    return header


def _write_nifti(stream: Any, header: Any, data: NDArray[Any]) -> None:
    stream.write(header.binaryblock + b"\0\0\0\0")  # the four bytes say: no extensions follow
    # slice by slice: an array in another order than the file's is never copied as a whole
    for k in range(data.shape[2]):
        stream.write(_bytes(np.asfortranarray(data[:, :, k])))


# MetaImage


def _mha_header(file: Path, raw: BinaryIO, size: int) -> _Header:
    fields, offset = _mha_fields(raw)
    shape = _three_axes(tuple(int(n) for n in fields.get("DimSize", "").split()))
    name, channels = fields.get("ElementType", ""), fields.get("ElementNumberOfChannels", "1")
    if name not in _MET_TYPES or channels != "1":
        raise ImageError(f"voxels are {channels} x {name or 'of no type'}; allowed: 1 x one of {', '.join(_MET_TYPES)}")
    # SimpleITK would take a minus sign for a flipped axis
    _check_lengths(fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1")).split()[:3])
    packed = _is_true(fields, "CompressedData")
    stored = int(fields.get("CompressedDataSize", "0")) if packed else 0
    if offset + stored > size:
        raise TruncatedError(f"the header promises {stored} compressed bytes, the file holds {size - offset}")
    swapped = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    dtype = np.dtype(_MET_TYPES[name]).newbyteorder(">" if swapped else "<")
    return _Header(_mha_grid(file, shape), dtype, offset, "zlib" if packed else "none")


def _mha_fields(raw: BinaryIO) -> tuple[dict[str, str], int]:
    """The `key = value` lines at the top of the file, and where the voxels begin behind them."""
    fields: dict[str, str] = {}
    for _ in range(1000):
        line = raw.readline(4096).decode("latin-1")
        mark = re.search("[=:]", line)
        if mark is None:
            break
        key = line[: mark.start()].strip()
        fields[key] = line[mark.end() :].strip()
        if key == "ElementDataFile":
            _check_mha_fields(fields)
            return fields, raw.tell()
    raise ImageError("not a MetaImage file: no header of lines `key = value` that ends with ElementDataFile")


def _check_mha_fields(fields: dict[str, str]) -> None:
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise ImageError(f"the voxels stand in another file, {fields['ElementDataFile']!r}: write one .mha file")
    if not _is_true(fields, "BinaryData", default="True") or int(fields.get("HeaderSize", "0")) > 0:
        raise ImageError("voxels as text, or behind a foreign header, are not read: write a binary .mha")


def _is_true(fields: dict[str, str], key: str, *, default: str = "False") -> bool:
    return fields.get(key, default)[:1].upper() in ("T", "1")


def _mha_grid(file: Path, shape: tuple[int, int, int]) -> Grid:
    """The grid by SimpleITK, turned from LPS to RAS."""
    import SimpleITK

    sitk: Any = SimpleITK
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    axes = len(reader.GetSize())
    spacing = np.array(reader.GetSpacing()[:3])
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    return _grid(shape, spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _write_mha(temporary: Path, data: NDArray[Any], grid: Grid) -> None:
    import SimpleITK

    sitk: Any = SimpleITK
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(grid.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).ravel().tolist())
    sitk.WriteImage(image, str(temporary), useCompression=True, compressionLevel=2)


# What goes in and out


def _storable(array: NDArray[Any], grid: Grid, where: str) -> NDArray[Any]:
    """The array as it can be stored, little-endian; a `GeometryError` where the grid does not fit it."""
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
def _replacing(file: Path, extension: str) -> Iterator[Path]:
    """A new name in the folder of `file` that becomes `file` when all went well, and is gone when not."""
    temporary = file.with_name(f".writing-{secrets.token_hex(8)}{extension}")
    if not file.parent.is_dir():
        raise ImageError("cannot write the image: its folder does not exist")
    if file.is_dir():
        raise ImageError("cannot write the image: there is a folder of this name")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _whole(array: NDArray[Any], where: str) -> NDArray[Any]:
    """The same labels as integers, or an `ImageError` that names up to ten values that are none."""
    if array.dtype.kind == "u":
        return array
    if array.dtype.kind == "i":
        if array.min() < 0:
            _refuse_labels(np.unique(array[array < 0]), where)
        return array
    largest = 0.0
    offenders: NDArray[np.float64] = np.empty(0)
    slices = range(array.shape[2])
    with np.errstate(invalid="ignore"):
        for k in slices:
            values = array[:, :, k]
            nearest = np.rint(values)
            good = (np.abs(values - nearest) <= WHOLE) & (nearest >= 0) & (nearest < 2**31)
            if not good.all():
                offenders = np.unique(np.concatenate([offenders, values[~good]]))
            largest = max(largest, float(nearest.max()))
    if len(offenders):
        _refuse_labels(offenders, where)
    dtype = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32
    labels = np.empty(array.shape, dtype, order="F")
    for k in slices:
        labels[:, :, k] = np.rint(array[:, :, k])
    return labels


def _refuse_labels(values: NDArray[Any], where: str) -> None:
    names = ", ".join(f"{v:.9g}" for v in values[:10].tolist())
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    raise ImageError(f"labels must be whole numbers from 0, found {names}{more} ({where}); is this a label image?")

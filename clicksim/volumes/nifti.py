"""NIfTI: nibabel parses the headers; clicksim reads the voxels."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ImageError, TruncatedError
from clicksim.geometry import Grid
from clicksim.volumes.header import ImageHeader, check_lengths, make_grid, memory_of, three_axes


def read_nifti_header(raw: BinaryIO, *, packed: bool) -> ImageHeader:
    """Read the header of an open file from its first bytes."""
    is_gzip = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if is_gzip != packed:
        right = ".nii.gz" if is_gzip else ".nii"
        raise ImageError(f"the file is {'' if is_gzip else 'not '}gzip-compressed; if it is NIfTI, name it {right}")
    if not packed:
        return _parse_nifti(raw.read(540), "none")
    return _parse_nifti(gunzip(raw).read(540), "gzip")


def gunzip(raw: BinaryIO) -> Any:
    """Open the uncompressed bytes of a file."""
    from isal import igzip

    reader: Any = igzip.IGzipFile
    return reader(fileobj=raw, mode="rb")


def read_nifti(file: Path) -> Any:
    """Read the whole header of a valid file with nibabel."""
    with file.open("rb") as raw:
        return checked_nifti((gunzip(raw) if file.name.endswith(".gz") else raw).read(540))


def checked_nifti(block: bytes) -> Any:
    """Parse the header with nibabel, including its repairs of codes and `qfac`, but without its log lines."""
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
        check_lengths(header["pixdim"][1:4])
        silent = logging.Logger("silent")
        silent.addHandler(logging.NullHandler())
        header.check_fix(logger=silent, error_level=40)
        return header
    raise ImageError(f"not a NIfTI file: it begins with {block[:8]!r}")


def nifti_header(data: NDArray[Any], grid: Grid, template: Any) -> Any:
    """Make the header to write, from the grid or from a template on the same grid."""
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


def write_nifti(stream: Any, header: Any, data: NDArray[Any]) -> None:
    """Write header and voxels to a stream."""
    stream.write(header.binaryblock + b"\0\0\0\0")  # four bytes that mean: no extensions follow
    # slice by slice, so that an array in another order is never copied as a whole
    for k in range(data.shape[2]):
        stream.write(memory_of(np.asfortranarray(data[:, :, k])))


def _parse_nifti(block: bytes, packing: str) -> ImageHeader:
    header = checked_nifti(block)
    dtype = header.get_data_dtype()
    shape = three_axes(_nifti_shape(header))
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise ImageError(
            f"voxels are of type {_type_name(dtype)}; allowed: integer, float32, float64: convert the image"
        )
    slope, intercept = header.get_slope_inter()
    with np.errstate(all="ignore"):
        affine = header.get_best_affine()
    grid = make_grid(shape, header["pixdim"][1:4], affine)
    return ImageHeader(grid, dtype, _vox_offset(header), packing, slope or 1.0, intercept or 0.0)


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

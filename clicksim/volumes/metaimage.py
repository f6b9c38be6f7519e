"""MetaImage: SimpleITK parses the geometry and writes files; this module reads the voxels.

SimpleITK accepts a damaged or truncated compressed stream without an error, ignores its checksum, and turns a negative
spacing into a flipped axis.
"""

import errno
import io
import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ImageError, TruncatedError
from clicksim.geometry import Grid
from clicksim.volumes.header import BLOCK, ImageHeader, check_lengths, make_grid, three_axes

MET_TYPES = {
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


LONGEST_LINE = 4096
"""Bytes. This reader and SimpleITK both read the header and must interpret it in the same way."""


def read_mha_header(file: Path, raw: BinaryIO, size: int) -> ImageHeader:
    """Read the header of an open file of `size` bytes."""
    fields, offset = _mha_fields(raw)
    shape = three_axes(tuple(int(n) for n in fields.get("DimSize", "").split()))
    # SimpleITK would accept any number of axes
    if fields.get("NDims") != str(len(fields.get("DimSize", "").split())):
        raise ImageError(f"NDims is {fields.get('NDims', 'absent')[:20]!r}, DimSize {fields.get('DimSize', '')[:80]!r}")
    name, channels = fields.get("ElementType", ""), fields.get("ElementNumberOfChannels", "1")
    if name not in MET_TYPES or channels != "1":
        raise ImageError(f"voxels are {channels} x {name or 'of no type'}; allowed: 1 x one of {', '.join(MET_TYPES)}")
    # SimpleITK would read a minus sign as a flipped axis
    check_lengths(fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1")).split()[:3])
    packed = _is_true(fields, "CompressedData")
    stored = int(fields.get("CompressedDataSize", "0")) if packed else 0
    if offset + stored > size:
        raise TruncatedError(f"the header promises {stored} compressed bytes, the file holds {size - offset}")
    swapped = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    dtype = np.dtype(MET_TYPES[name]).newbyteorder(">" if swapped else "<")
    return ImageHeader(_mha_grid(file, shape), dtype, offset, "zlib" if packed else "none")


def write_mha(temporary: Path, data: NDArray[Any], grid: Grid) -> None:
    """Write a compressed image.

    Raises:
        OSError: The disk refuses it. SimpleITK does not say why: it is taken to be full if little space is free.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(grid.affine)
    lengths = np.linalg.norm(lps[:3, :3], axis=0)  # not the grid's spacing, which may differ in a NIfTI header
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / lengths).ravel().tolist())
    try:
        sitk.WriteImage(image, str(temporary), useCompression=True, compressionLevel=2)
    except RuntimeError as error:
        number = errno.ENOSPC if shutil.disk_usage(temporary.parent).free < data.nbytes else errno.EIO
        raise OSError(number, os.strerror(number), str(temporary)) from error


class Zlib(io.RawIOBase):
    """The bytes of a zlib stream; unlike MetaIO, it raises if the stream is truncated or damaged."""

    def __init__(self, raw: BinaryIO) -> None:
        from isal import isal_zlib

        self._raw, self._inflate, self._waiting = raw, isal_zlib.decompressobj(), b""

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with up to one block; return the number of bytes, 0 at the end."""
        target = memoryview(buffer).cast("B")
        while not self._inflate.eof:
            packed = self._waiting or self._raw.read(BLOCK)
            if not packed:
                raise EOFError("the zlib stream has no end")
            block = self._inflate.decompress(packed, min(len(target), 4 * BLOCK))
            self._waiting = self._inflate.unconsumed_tail
            if block:
                target[: len(block)] = block
                return len(block)
        return 0


def _mha_fields(raw: BinaryIO) -> tuple[dict[str, str], int]:
    """Read the `key = value` lines at the top of the file; also return the offset of the voxels after them."""
    fields: dict[str, str] = {}
    for _ in range(1000):
        line = raw.readline(LONGEST_LINE).decode("latin-1")
        mark = re.search("[=:]", line)
        if mark is None or len(line) == LONGEST_LINE:
            break
        key = line[: mark.start()].strip()
        if key in fields:
            raise ImageError(f"the header says {key[:40]!r} twice")
        fields[key] = line[mark.end() :].strip()
        if key == "ElementDataFile":
            _check_mha_fields(fields)
            return fields, raw.tell()
    raise ImageError("not a MetaImage file: no header of lines `key = value` that ends with ElementDataFile")


def _check_mha_fields(fields: dict[str, str]) -> None:
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise ImageError(f"the voxels are in another file, {fields['ElementDataFile']!r}: write one .mha file")
    if not _is_true(fields, "BinaryData", default="True") or int(fields.get("HeaderSize", "0")) > 0:
        raise ImageError("voxels as text, or after a foreign header, are not supported: write a binary .mha")


def _is_true(fields: dict[str, str], key: str, *, default: str = "False") -> bool:
    return fields.get(key, default)[:1].upper() in ("T", "1")


def _mha_grid(file: Path, shape: tuple[int, int, int]) -> Grid:
    """Read the grid with SimpleITK, and convert it from LPS to RAS."""
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
    return make_grid(shape, spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

"""The stored pixels of a DICOM SEG, frame by frame.

Compressed frames are decoded by highdicom, single bits in JPEG 2000 by Pillow. The bits of single-bit pixels run on
from frame to frame (DICOM PS3.5 8.1.1).
"""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.headers import DicomError, check_promise, quietly, word

JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


def read_frames(dataset: Any, count: int, where: str) -> Iterator[NDArray[Any]]:
    """The `(rows, columns)` stored values of each of `count` frames in turn.

    Raises:
        DicomError: `SegInconsistent`, `TruncatedPixels`, `UndecodablePixels`.
    """
    if "PixelData" not in dataset:
        raise DicomError("TruncatedPixels", f"the file holds no pixel data ({where})")
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    if bits not in (1, 8, 16) or rows < 1 or columns < 1 or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise DicomError(
            "SegInconsistent",
            f"{columns} x {rows} pixels of {bits} bits; pixels of one value of 1, 8 or 16 bits are read ({where})",
        )
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        yield from _compressed(dataset, syntax, count, where)
        return
    if syntax is not None and syntax.is_transfer_syntax and not syntax.is_little_endian:
        raise DicomError("UndecodablePixels", f"a SEG in {syntax.name}, which is retired ({where})")
    data = np.frombuffer(dataset.PixelData, np.uint8)
    size = rows * columns
    if data.size * 8 < count * size * bits:
        raise DicomError(
            "TruncatedPixels", f"the file ends early: {data.size} of {(count * size * bits + 7) // 8} bytes ({where})"
        )
    for n in range(count):
        yield _cut(data, n * size, size, bits).reshape(rows, columns)


def _cut(data: NDArray[np.uint8], start: int, size: int, bits: int) -> NDArray[Any]:
    """`size` values from value `start` on; the bits of one frame need not begin at a byte."""
    if bits == 1:
        first, last = start // 8, (start + size + 7) // 8
        return np.unpackbits(data[first:last], bitorder="little")[start % 8 : start % 8 + size]
    width = bits // 8
    return data[start * width : (start + size) * width].view(f"<u{width}")


def _compressed(dataset: Any, syntax: Any, count: int, where: str) -> Iterator[NDArray[Any]]:
    from highdicom.frame import decode_frame
    from pydicom.encaps import generate_frames

    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
    check_promise(bits // 8, len(dataset.PixelData), where)
    with quietly("UndecodablePixels", f"{syntax.name}, {where}"):
        for index, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=count)):
            if index >= count:
                return
            if int(dataset.BitsAllocated) == 1 and syntax in JPEG2000:
                yield _one_bit(frame)
                continue
            yield decode_frame(
                frame,
                transfer_syntax_uid=syntax,
                rows=int(dataset.Rows),
                columns=int(dataset.Columns),
                samples_per_pixel=1,
                bits_allocated=int(dataset.BitsAllocated),
                bits_stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
                photometric_interpretation=word(dataset, "PhotometricInterpretation"),
                pixel_representation=0,
                index=index,
            )


def _one_bit(frame: bytes) -> NDArray[Any]:
    """A frame of single bits in JPEG 2000, by Pillow: highdicom needs a further plug-in for these."""
    from PIL import Image

    return np.asarray(Image.open(BytesIO(frame))) > 0

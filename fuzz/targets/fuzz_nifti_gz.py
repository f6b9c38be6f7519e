"""Compressed NIfTI images, `.nii.gz`."""

import gzip
import zlib
from pathlib import Path

from fuzz.targets.small_images import image_seeds, read_as_everything


def seeds() -> list[bytes]:
    """Label, CT, uptake."""
    return image_seeds(".nii.gz")


def read(data: bytes, folder: Path) -> None:
    """Read it as image, label and header."""
    file = folder / "image.nii.gz"
    file.write_bytes(data)
    read_as_everything(file)


def unpack(data: bytes) -> bytes:
    """The first 64 KiB of the content, as far as it can be had."""
    try:
        return zlib.decompressobj(31).decompress(data, 1 << 16)
    except zlib.error:
        return b""


def pack(data: bytes) -> bytes:
    """A whole stream."""
    return gzip.compress(data, 1, mtime=0)

"""Channels as files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid
from clicksim.volumes import write_image


def write_channels(prefix: str | Path, channels: NDArray[Any], grid: Grid, *, first: int = 2) -> list[Path]:
    """Write channels as `<prefix>_0002.nii.gz`, `<prefix>_0003.nii.gz`, ...: nnU-Net's naming, after CT and PET.

    Files are float32 with their own header. With the header of a label they would be stored in 8 bits: 1 would be
    read back as 1.0000000591, and a soft channel would have 256 levels.

    Args:
        prefix: Path and name of the case.
        channels: `(C, I, J, K)`.
        grid: The grid of the channels, with an affine.
        first: Number of the first channel.

    Returns:
        The files.

    Raises:
        GeometryError: The grid has another shape or no affine.
        ImageError: A file cannot be written.
        SettingError: A number is not from 0 to 9999.
    """
    if channels.ndim != 4 or channels.shape[1:] != grid.shape:
        raise GeometryError(f"channels of shape {channels.shape} do not fit the grid {grid}; allowed: (C, I, J, K)")
    if not 0 <= first <= 10_000 - len(channels):
        raise SettingError(f"channels are numbered from 0 to 9999, got {first} for the first of {len(channels)}")
    files = [Path(f"{prefix}_{first + n:04d}.nii.gz") for n in range(len(channels))]
    for file, channel in zip(files, channels, strict=True):
        write_image(file, np.asarray(channel, dtype=np.float32), grid)
    return files

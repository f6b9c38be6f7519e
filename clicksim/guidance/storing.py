"""Channels as files, where a user wants files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid
from clicksim.volumes import write_image


def write_channels(prefix: str | Path, channels: NDArray[Any], grid: Grid, *, first: int = 2) -> list[Path]:
    """Write channels as `<prefix>_0002.nii.gz`, `<prefix>_0003.nii.gz`, ...: nnU-Net's naming, after CT and PET.

    Files are float32 with a header of their own. Taking over a label's header would store them in 8 bits: 1 reads
    back as 1.0000000591, and anything soft has 256 levels.

    Args:
        prefix: Path and name of the case.
        channels: `(C, I, J, K)`.
        grid: Their lattice, with an affine.
        first: Number of the first channel.

    Returns:
        The files.

    Raises:
        GeometryError: A grid of another shape or without an affine.
        ImageError: A file that cannot be written.
        SettingError: A number that is not from 0 to 9999.
    """
    if channels.ndim != 4 or channels.shape[1:] != grid.shape:
        raise GeometryError(f"channels of shape {channels.shape} do not fit the grid {grid}; allowed: (C, I, J, K)")
    if not 0 <= first <= 10_000 - len(channels):
        raise SettingError(f"channels are numbered from 0 to 9999, got {first} for the first of {len(channels)}")
    files = [Path(f"{prefix}_{first + n:04d}.nii.gz") for n in range(len(channels))]
    for file, channel in zip(files, channels, strict=True):
        write_image(file, np.asarray(channel, dtype=np.float32), grid)
    return files

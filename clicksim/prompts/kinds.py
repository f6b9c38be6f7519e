"""The kinds of prompts: clicks, scribbles and boxes, in voxels of the stored array."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxel = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Click:
    """One voxel that a person points at.

    Attributes:
        voxel: `(i, j, k)`.
        foreground: True for lesion, False for background.
        lesion: Number of the lesion or background component in which it was placed, if any.
        round: The exchange with the model in which it was made, from 0.
    """

    voxel: Voxel
    foreground: bool
    lesion: int | None = None
    round: int = 0

    @property
    def voxels(self) -> tuple[Voxel, ...]:
        """The voxel, as a path of length one."""
        return (self.voxel,)


@dataclass(frozen=True, slots=True)
class Scribble:
    """The voxels that one stroke covers, in drawing order if the rule has one.

    Attributes:
        voxels: Each `(i, j, k)`.
        foreground, lesion, round: See `Click`.
    """

    voxels: tuple[Voxel, ...]
    foreground: bool
    lesion: int | None = None
    round: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """Two opposite corners, both inside the box.

    Attributes:
        first, last: `(i, j, k)`, the lowest and the highest voxel.
        foreground, lesion, round: See `Click`.
    """

    first: Voxel
    last: Voxel
    foreground: bool = True
    lesion: int | None = None
    round: int = 0

    @property
    def voxels(self) -> tuple[Voxel, ...]:
        """The two corners."""
        return (self.first, self.last)


Prompt = Click | Scribble | Box


def as_voxel(row: Sequence[float] | NDArray[Any]) -> Voxel:
    """Convert three whole numbers of any type to a plain tuple."""
    i, j, k = row
    return (int(i), int(j), int(k))


def as_path(rows: NDArray[np.int64]) -> tuple[Voxel, ...]:
    """Convert `(n, 3)` voxels to plain tuples."""
    return tuple((i, j, k) for i, j, k in rows.tolist())


def kind_of(prompt: Prompt) -> str:
    """The kind in tables: `click`, `scribble` or `box`."""
    return type(prompt).__name__.lower()

"""Clicks, scribbles and boxes, and the set of them that belongs to one case.

Prompts carry their grid: cropped, flipped or permuted together with the image, they stay on the same tissue.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError
from clicksim.geometry import Grid

if TYPE_CHECKING:
    import pyarrow as pa

Voxel = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Click:
    """One voxel that a person points at.

    Attributes:
        voxel: `(i, j, k)`.
        foreground: True for lesion, False for background.
        lesion: Number of the lesion or of the background component it was placed in, where there is one.
        round: The exchange with the model in which it was made, from 0.
    """

    voxel: Voxel
    foreground: bool
    lesion: int | None = None
    round: int = 0

    @property
    def voxels(self) -> tuple[Voxel, ...]:
        """The one voxel, as a path."""
        return (self.voxel,)


@dataclass(frozen=True, slots=True)
class Scribble:
    """The voxels that one stroke covers, in drawing order where the rule has one."""

    voxels: tuple[Voxel, ...]
    foreground: bool
    lesion: int | None = None
    round: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """Two opposite corners, both inside the box."""

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


def kind_of(prompt: Prompt) -> str:
    """`click`, `scribble` or `box`: the name in tables."""
    return type(prompt).__name__.lower()


@dataclass(frozen=True)
class Prompts:
    """All prompts of one case, in the order in which they were made within each polarity.

    Attributes:
        items: Foreground and background prompts.
        grid: The lattice their voxels live on.
        case_id: The case they belong to.
        protocol: The rule that made them, such as `autopet-iv@2`; empty for prompts from a file.
        seed: The seed that made them, where one did.
        settings: The effective settings of the rule.
        notes: Sentences for the user: what could not be done, and why.
        annotator: Who made them; `simulated` for a rule.
    """

    items: tuple[Prompt, ...]
    grid: Grid
    case_id: str = ""
    protocol: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    annotator: str = "simulated"

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.items)

    @property
    def foreground(self) -> NDArray[np.int32]:
        """`(n, 3)` voxels of all foreground prompts, in order."""
        return self._voxels(foreground=True)

    @property
    def background(self) -> NDArray[np.int32]:
        """`(n, 3)` voxels of all background prompts, in order."""
        return self._voxels(foreground=False)

    def crop(self, start: Sequence[int], shape: Sequence[int]) -> Self:
        """The prompts of a cropped or padded image; what leaves the volume is gone, and noted."""
        grid = self.grid.crop(start, shape)
        origin = np.array([int(n) for n in start])
        moved = self._moved(lambda v: v - origin, grid)
        inside = [(prompt, _inside(prompt, grid)) for prompt in moved.items]
        kept = tuple(part for _, part in inside if part is not None)
        lost = len(inside) - len(kept)
        cut = sum(part is not None and part != prompt for prompt, part in inside)
        notes = [f"{lost} of {len(inside)} prompts lie outside the crop"] if lost else []
        notes += [f"{cut} of {len(inside)} prompts are cut by the crop"] if cut else []
        return replace(moved, items=kept, notes=(*self.notes, *notes))

    def flip(self, axis: int) -> Self:
        """The prompts of the image flipped along one axis."""
        grid = self.grid.flip(axis)
        step = np.ones(3, dtype=np.int64)
        step[axis] = -1
        origin = np.zeros(3, dtype=np.int64)
        origin[axis] = self.grid.shape[axis] - 1
        return self._moved(lambda v: origin + v * step, grid)

    def permute(self, axes: Sequence[int]) -> Self:
        """The prompts of the image with its axes permuted, as `numpy.transpose` does."""
        return self._moved(lambda v: v[:, list(axes)], self.grid.permute(axes))

    def to_table(self) -> "pa.Table":
        """One row per prompt voxel; see `clicksim.prompts.table`."""
        from clicksim.prompts.table import to_table

        return to_table(self)

    def to_json(self, format: str = "plain") -> str:  # noqa: A002 - the field calls it format
        """The prompts as one of the field's JSON files; see `clicksim.prompts.formats`."""
        from clicksim.prompts.formats import dump_prompts

        return dump_prompts(self, format)

    @classmethod
    def from_json(cls, text: str, grid: Grid, *, case_id: str = "", where: str = "") -> "Prompts":
        """The prompts of a plain or Grand Challenge JSON text; see `clicksim.prompts.formats`."""
        from clicksim.prompts.formats import load_prompts

        return load_prompts(text, grid, case_id=case_id, where=where)

    def _voxels(self, *, foreground: bool) -> NDArray[np.int32]:
        voxels = [v for prompt in self.items if prompt.foreground == foreground for v in prompt.voxels]
        return np.array(voxels, dtype=np.int32).reshape(-1, 3)

    def _moved(self, move: Callable[[NDArray[np.int64]], NDArray[np.int64]], grid: Grid) -> Self:
        return replace(self, items=tuple(_with_voxels(p, move(_array(p))) for p in self.items), grid=grid)


def check_inside(prompts: Prompts, *, where: str = "") -> None:
    """Raise a `GeometryError` that names up to ten voxels outside the volume of the prompts' grid."""
    voxels = np.concatenate([prompts.foreground, prompts.background])
    outside = voxels[~prompts.grid.holds(voxels)]
    if len(outside):
        names = ", ".join(str(tuple(v)) for v in outside[:10].tolist())
        place = f" ({where})" if where else ""
        raise GeometryError(
            f"{len(outside)} of {len(voxels)} prompt voxels lie outside the volume of shape {prompts.grid.shape}: "
            f"{names}{place}; are the axes in the order x, y, z of the stored array?"
        )


def _array(prompt: Prompt) -> NDArray[np.int64]:
    return np.array(prompt.voxels, dtype=np.int64).reshape(-1, 3)


def _with_voxels(prompt: Prompt, voxels: NDArray[np.int64]) -> Prompt:
    """The same prompt elsewhere; the corners of a box are put in order again."""
    path: tuple[Voxel, ...] = tuple((int(i), int(j), int(k)) for i, j, k in voxels)
    if isinstance(prompt, Click):
        return replace(prompt, voxel=path[0])
    if isinstance(prompt, Scribble):
        return replace(prompt, voxels=path)
    low, high = voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()
    return replace(prompt, first=tuple(low), last=tuple(high))


def _inside(prompt: Prompt, grid: Grid) -> Prompt | None:
    """The part of a prompt inside the volume, or None where nothing is left; a box is cut to the volume."""
    voxels = _array(prompt)
    limit = np.asarray(grid.shape) - 1
    if isinstance(prompt, Box):
        low, high = np.maximum(voxels[0], 0), np.minimum(voxels[1], limit)
        return _with_voxels(prompt, np.stack([low, high])) if np.all(low <= high) else None
    kept = voxels[grid.holds(voxels)]
    return _with_voxels(prompt, kept) if len(kept) else None

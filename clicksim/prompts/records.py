"""The set of prompts of one case.

Prompts have a grid. If they are cropped, flipped, permuted or resampled together with the image, they stay on the
same tissue.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import GeometryError
from clicksim.geometry import Grid
from clicksim.prompts.kinds import Box, Click, Prompt, Scribble, as_path, as_voxel

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Prompts:
    """All prompts of one case; within each polarity, in the order in which they were made.

    Attributes:
        items: Foreground and background prompts.
        grid: The lattice of their voxels.
        case_id: The case they belong to.
        protocol: The rule that made them, such as `autopet-iv@2`; empty for prompts from a file.
        seed: The seed that made them, if any.
        settings: The effective settings of the rule.
        notes: Messages for the user about what could not be done, and why.
        annotator: Who made them; `simulated` for a rule.
        effort_s: Seconds that a person, or a model of a person, spent on each; None if there was no person.
    """

    items: tuple[Prompt, ...]
    grid: Grid
    case_id: str = ""
    protocol: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    annotator: str = "simulated"
    effort_s: float | None = None

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
        """The prompts of a cropped or padded image; prompts outside the volume are dropped, with a note."""
        grid = self.grid.crop(start, shape)
        origin = np.array([int(n) for n in start])
        return self._moved(lambda v: v - origin, grid)._cut("the crop")

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

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Self:
        """The prompts of an image padded by some voxels before and after each axis, as `numpy.pad` does.

        Raises:
            GeometryError: If a number is below 0; use `crop` to remove voxels.
        """
        if len(before) != 3 or len(after) != 3 or min(*before, *after) < 0:
            raise GeometryError(f"padding takes two triples of numbers from 0, got {tuple(before)} and {tuple(after)}")
        shape = [n + a + b for n, a, b in zip(self.grid.shape, before, after, strict=True)]
        return self.crop([-n for n in before], shape)

    def resample(self, shape: Sequence[int]) -> Self:
        """The prompts of an image resampled to another shape over the same field of view.

        A voxel moves to the new voxel that contains its centre (halves round up). A box moves to the voxels whose
        centres it contains, at least one. Voxels of a scribble that coincide become one; a finer grid leaves gaps.
        Resampling clicks to a finer grid and back restores them.
        """
        grid = self.grid.resample(shape)
        factor = np.asarray(grid.shape) / np.asarray(self.grid.shape)
        return self._placed(lambda points: (points + 0.5) * factor - 0.5, grid)

    def to_grid(self, grid: Grid) -> Self:
        """Move the prompts to another grid by their position in mm; prompts outside are dropped, with a note.

        This works for any image with an updated affine: cropped, flipped, permuted, rotated or resampled. Rounding
        and boxes are as in `resample`; a rotated box becomes the smallest box around it.

        Raises:
            GeometryError: If one of the grids has no affine.
        """
        return self._placed(lambda points: grid.to_voxel(self.grid.to_mm(points)), grid)

    def affine(self, matrix: ArrayLike, grid: Grid | None = None) -> Self:
        """Move the prompts with an image whose content was moved in mm: `new = matrix @ old`, both RAS+.

        Args:
            matrix: `(4, 4)`, invertible; its last row is 0, 0, 0, 1.
            grid: The target grid; by default the grid of the prompts.

        Raises:
            GeometryError: If the matrix is invalid, or a grid has no affine.
        """
        move = Grid((1, 1, 1), None, np.asarray(matrix, dtype=np.float64))  # checks the matrix
        if not np.array_equal(np.asarray(matrix, dtype=np.float64)[3], [0.0, 0.0, 0.0, 1.0]):
            raise GeometryError("the last row of an affine matrix must be 0, 0, 0, 1")
        target = self.grid if grid is None else grid
        return self._placed(lambda points: target.to_voxel(move.to_mm(self.grid.to_mm(points))), target)

    def to_table(self) -> "pa.Table":
        """One row per prompt voxel; see `clicksim.prompts.table`."""
        from clicksim.prompts.table import to_table

        return to_table(self)

    def to_json(self, format: str = "plain") -> str:  # noqa: A002 - the field calls it format
        """Write the prompts as JSON; see `clicksim.prompts.formats`."""
        from clicksim.prompts.formats import dump_prompts

        return dump_prompts(self, format)

    @classmethod
    def from_json(cls, text: str, grid: Grid, *, case_id: str = "", where: str = "", strict: bool = True) -> "Prompts":
        """Read prompts from plain or Grand Challenge JSON, with the annotator `file`.

        Args:
            text: The JSON; see `clicksim.prompts.formats.parse_prompts`.
            grid: The lattice of the image that was clicked.
            case_id: The case, for the result.
            where: The file, for messages.
            strict: Reject names other than `tumor` and `background`. If False, such points are left out, with a note.

        Raises:
            PromptFormatError: If the text is not JSON, repeats a key, or has other content than such points.
            GeometryError: If a point is outside the volume.
        """
        from clicksim.prompts.formats import parse_prompts

        clicks, notes = parse_prompts(text, grid, where=where, strict=strict)
        prompts = cls(clicks, grid, case_id, notes=notes, annotator="file")
        check_inside(prompts, where=where)
        return prompts

    def _voxels(self, *, foreground: bool) -> NDArray[np.int32]:
        voxels = [v for prompt in self.items if prompt.foreground == foreground for v in prompt.voxels]
        return np.array(voxels, dtype=np.int32).reshape(-1, 3)

    def _cut(self, what: str) -> Self:
        """Drop the parts outside the grid, with a note."""
        inside = [(prompt, _inside(prompt, self.grid)) for prompt in self.items]
        kept = tuple(part for _, part in inside if part is not None)
        lost = len(inside) - len(kept)
        cut = sum(part is not None and part != prompt for prompt, part in inside)
        notes = [f"{lost} of {len(inside)} prompts lie outside {what}"] if lost else []
        notes += [f"{cut} of {len(inside)} prompts are cut by {what}"] if cut else []
        return replace(self, items=kept, notes=(*self.notes, *notes))

    def _placed(self, move: Callable[[NDArray[np.float64]], NDArray[np.float64]], grid: Grid) -> Self:
        """Move the prompts to another grid by a map of fractional voxel indices."""
        return replace(self, items=tuple(_place(p, move) for p in self.items), grid=grid)._cut("the grid")

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
    """The prompt with other voxels; the corners of a box are put in order."""
    path = as_path(voxels)
    if isinstance(prompt, Click):
        return replace(prompt, voxel=path[0])
    if isinstance(prompt, Scribble):
        return replace(prompt, voxels=path)
    return replace(prompt, first=as_voxel(voxels.min(axis=0)), last=as_voxel(voxels.max(axis=0)))


def _place(prompt: Prompt, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Prompt:
    """Move a prompt by a map of fractional indices; a box moves by its outer faces."""
    points = _array(prompt).astype(np.float64)
    if not isinstance(prompt, Box):
        voxels = _to_whole(move(points))
        if isinstance(prompt, Scribble):
            # keep the first of each run of equal voxels; a stroke may return to a voxel
            new = np.any(np.diff(voxels, axis=0, prepend=voxels[:1] - 1) != 0, axis=1)
            voxels = voxels[new]
        return _with_voxels(prompt, voxels)
    faces = np.stack([points[0] - 0.5, points[1] + 0.5])
    corners = move(np.array(np.meshgrid(*faces.T)).reshape(3, -1).T)
    low, high = corners.min(axis=0), corners.max(axis=0)
    first, last = _to_whole(low + 0.5), _to_whole(high + 0.5) - 1  # centres in low <= c < high
    middle = _to_whole((low + high) / 2)
    thin = last < first
    return _with_voxels(prompt, np.stack([np.where(thin, middle, first), np.where(thin, middle, last)]))


def _to_whole(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to the nearest voxel; halves round up, and rounding errors are ignored."""
    return np.floor(points + 0.5 + 1e-6).astype(np.int64)


def _inside(prompt: Prompt, grid: Grid) -> Prompt | None:
    """The part of a prompt inside the volume, or None if nothing is left; a box is cut to the volume."""
    voxels = _array(prompt)
    limit = np.asarray(grid.shape) - 1
    if isinstance(prompt, Box):
        low, high = np.maximum(voxels[0], 0), np.minimum(voxels[1], limit)
        return _with_voxels(prompt, np.stack([low, high])) if np.all(low <= high) else None
    kept = voxels[grid.holds(voxels)]
    return _with_voxels(prompt, kept) if len(kept) else None

"""The lesion table of a patient of the longitudinal CT data: one row per lesion, over both time points.

    lesion_id                          value of the lesion in the masks; one count over all body regions
    cog_bl, cog_fu                     centre of gravity, `x y z` in voxels plus 0.5 along each axis; empty if none
    cog_propagated                     cog_bl carried to the follow-up image by registration; may lie outside it
    cog_backpropagated                 cog_fu of a new lesion carried to the baseline image (v2, v3)
    img_id_bl, img_id_fu               number of the image of the time point; empty or NaN where there is none
    lesion_type                        site
    topology_class, merged_into        what became of the lesion (v2, v3)
    volume_bl, volume_fu               mm³ (v2, v3); every row of a merge repeats the volume of the merged lesion
    target_lesion, use_for_challenge   as published (v2, v3)
    linking_unclear                    as published (v2, v3); two patients have no such column

A value that cannot be read is None, and its column stands in `LesionRow.unreadable`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from converters.tables import ABSENT, flag_or_none, number_or_none, read_table, word_or_none

CLASSES = ("UNCHANGED", "DISAPPEARING", "NEWLYAPPEARING", "MERGING", "SPLITTING")
ALIASES = {"MERGED": "MERGING", "DISAPPEARED": "DISAPPEARING"}
LESION_TYPES = (
    "Adrenals", "CNS", "Heart", "Kidney", "Liver", "Lung", "Lymph node", "Others", "Skeleton",
    "Soft tissue / Skin", "Spleen", "unclear",
)  # fmt: skip
_TYPES = {name.lower(): name for name in LESION_TYPES}
_HIGHEST = 2**31 - 1
_WHOLE = re.compile(r"(\d{1,10})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Cog:
    """A centre of gravity of the table.

    Attributes:
        text: The cell as it is: lesions that merged are known by equal text.
        point: `(x, y, z)` as published, half a voxel more than the index along each axis; None without one.
        reason: Why there is no point; `empty` where none is meant to be.
    """

    text: str = ""
    point: Point | None = None
    reason: str = "empty"

    @property
    def is_unreadable(self) -> bool:
        """Whether something stands there that is no point."""
        return self.point is None and self.reason != "empty"

    @property
    def index(self) -> list[float] | None:
        """The fractional voxel index; a whole number is the centre of a voxel."""
        return None if self.point is None else [value - 0.5 for value in self.point]

    @property
    def voxel(self) -> tuple[int, int, int] | None:
        """The voxel that holds the point: the published number rounded down, never to the nearest."""
        if self.point is None:
            return None
        x, y, z = (math.floor(value) for value in self.point)
        return (x, y, z)


def parse_cog(cell: str | None) -> Cog:
    """Read a centre of gravity: three numbers, separated by blanks.

    Copies made by users write commas or semicolons between them, and brackets around them; both are taken. A
    decimal comma is not: it makes six numbers.

    >>> parse_cog("314.5 242.25 104.75").index, parse_cog("nan nan nan").reason, parse_cog("1 2").reason
    ([314.0, 241.75, 104.25], 'empty', '2 numbers instead of 3')
    """
    text = cell or ""
    inner = text.strip()
    if (inner[:1], inner[-1:]) in {("[", "]"), ("(", ")")}:
        inner = inner[1:-1].strip()
    words = re.split(r"\s*[,;]\s*|\s+", inner)
    if all(word.lower() in ABSENT for word in words):
        return Cog(text)
    odd = [word for word in words if not _NUMBER.fullmatch(word) or not math.isfinite(float(word))]
    if odd:
        return Cog(text, None, f"{odd[0][:20]!r} is no finite number")
    if len(words) != 3:
        return Cog(text, None, f"{len(words)} numbers instead of 3")
    x, y, z = (float(word) for word in words)
    return Cog(text, (x, y, z), "")


@dataclass(frozen=True)
class LesionRow:
    """One lesion of the table; see the module for the columns. None is what is empty, absent or unreadable."""

    lesion_id: int
    cog_bl: Cog = Cog()
    cog_fu: Cog = Cog()
    cog_propagated: Cog = Cog()
    cog_backpropagated: Cog = Cog()
    img_id_bl: int | None = None
    img_id_fu: int | None = None
    lesion_type: str | None = None
    topology_class: str | None = None
    merged_into: int | None = None
    split_from: int | None = None
    volume_bl: float | None = None
    volume_fu: float | None = None
    target_lesion: bool | None = None
    use_for_challenge: bool | None = None
    linking_unclear: bool | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class LesionTable:
    """A lesion table.

    Attributes:
        rows: In ascending order of id.
        refused: Rows that cannot be used: their id, as far as it has one, and why.
    """

    rows: tuple[LesionRow, ...] = ()
    refused: tuple[tuple[int | None, str], ...] = ()


def read_lesion_csv(path: Path) -> LesionTable:
    """Read the lesion table of a patient.

    A row without an id from 1 is refused. Of two rows with one id and different content both are: which of them
    is right cannot be known. Equal rows count once.

    Raises:
        Rejection: `BadTable`: the file cannot be read, or has no column `lesion_id`.
    """
    by_id: dict[int, list[dict[str, str]]] = defaultdict(list)
    refused: list[tuple[int | None, str]] = []
    for cells in read_table(path, ["lesion_id"]):
        number = whole_or_none(cells["lesion_id"])
        if number:
            by_id[number] += [] if cells in by_id[number] else [cells]
        else:
            refused.append((None, f"{path.name}: lesion_id {cells['lesion_id'][:40]!r} is no whole number from 1"))
    rows = []
    for number, copies in sorted(by_id.items()):
        if len(copies) == 1:
            rows.append(_parse_row(number, copies[0]))
        else:
            refused.append((number, f"{path.name}: {len(copies)} different rows have the lesion_id {number}"))
    return LesionTable(tuple(rows), tuple(refused))


def whole_or_none(cell: str | None) -> int | None:
    """A whole number from 0 to 2147483647, also as pandas writes it beside missing ones.

    >>> whole_or_none("3"), whole_or_none("3.0"), whole_or_none("3.5"), whole_or_none("-1"), whole_or_none("nan")
    (3, 3, None, None, None)
    """
    found = _WHOLE.fullmatch((cell or "").strip())
    return int(found[1]) if found and int(found[1]) <= _HIGHEST else None


def _parse_row(number: int, cells: Mapping[str, str]) -> LesionRow:
    unreadable: list[str] = []

    def read[T](column: str, parse: "Callable[[str], T | None]") -> T | None:
        cell = cells.get(column, "")
        value = parse(cell)
        if value is None and word_or_none(cell) is not None:
            unreadable.append(column)
        return value

    row = LesionRow(
        number,
        *(parse_cog(cells.get(c)) for c in ("cog_bl", "cog_fu", "cog_propagated", "cog_backpropagated")),
    )
    return row

"""Read the lesion table of a patient of the longitudinal CT data: one row per lesion, for both time points.

    lesion_id                          value of the lesion in the masks; one numbering for all body regions
    cog_bl, cog_fu                     centre of gravity, `x y z` in voxels plus 0.5 along each axis; empty if absent
    cog_propagated                     cog_bl mapped to the follow-up image by registration; may lie outside it
    cog_backpropagated                 cog_fu of a new lesion mapped to the baseline image (v2, v3)
    img_id_bl, img_id_fu               number of the image of the time point; empty or NaN if absent
    lesion_type                        site
    topology_class, merged_into        what became of the lesion (v2, v3)
    volume_bl, volume_fu               mm³ (v2, v3); every row of a merge repeats the volume of the merged lesion
    target_lesion, use_for_challenge   as published (v2, v3)
    linking_unclear                    as published (v2, v3); two patients have no such column

An unreadable value is None, and its column is listed in `LesionRow.unreadable`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clicksim.catalog.source import Row
from converters.shared.tables import ABSENT, flag_or_none, number_or_none, read_csv_table, word_or_none

CLASSES = ("UNCHANGED", "DISAPPEARING", "NEWLYAPPEARING", "MERGING", "SPLITTING")
ALIASES = {"MERGED": "MERGING", "DISAPPEARED": "DISAPPEARING"}
LESION_TYPES = (
    "Adrenals", "CNS", "Heart", "Kidney", "Liver", "Lung", "Lymph node", "Others", "Skeleton",
    "Soft tissue / Skin", "Spleen", "unclear",
)  # fmt: skip
RELATIONS = {
    "UNCHANGED": "same", "MERGING": "merged", "SPLITTING": "split", "DISAPPEARING": "disappeared",
    "NEWLYAPPEARING": "appeared",
}  # fmt: skip
_TYPES = {name.lower(): name for name in LESION_TYPES}
_HIGHEST = 2**31 - 1
_WHOLE = re.compile(r"(\d{1,10})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

Point = tuple[float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Cog:
    """A centre of gravity from the table.

    Attributes:
        text: The cell as written. Lesions that merged have equal text.
        point: `(x, y, z)` as published, half a voxel more than the index along each axis; None if missing.
        reason: Why there is no point; `empty` if the cell is meant to be empty.
    """

    text: str = ""
    point: Point | None = None
    reason: str = "empty"

    @property
    def is_unreadable(self) -> bool:
        """Whether the cell has a value that is not a valid point."""
        return self.point is None and self.reason != "empty"

    @property
    def index(self) -> list[float] | None:
        """The fractional voxel index; a whole number is the centre of a voxel."""
        return None if self.point is None else [value - 0.5 for value in self.point]

    @property
    def voxel(self) -> tuple[int, int, int] | None:
        """The voxel that contains the point: the published number rounded down, not to the nearest."""
        if self.point is None:
            return None
        x, y, z = (math.floor(value) for value in self.point)
        return (x, y, z)


def parse_cog(cell: str | None) -> Cog:
    """Read a centre of gravity: three numbers, separated by blanks.

    Copies edited by users may have commas or semicolons between the numbers, and brackets around them; both are
    accepted. A decimal comma is not, because it makes six numbers.

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
        return Cog(text, None, f"{odd[0][:20]!r} is not a finite number")
    if len(words) != 3:
        return Cog(text, None, f"{len(words)} numbers instead of 3")
    x, y, z = (float(word) for word in words)
    return Cog(text, (x, y, z), "")


@dataclass(frozen=True)
class LesionRow:
    """One lesion of the table; the module lists the columns. Empty, absent and unreadable values are None."""

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
        refused: Rows that cannot be used: their id, if it can be read, and the reason.
    """

    rows: tuple[LesionRow, ...] = ()
    refused: tuple[tuple[int | None, str], ...] = ()


def read_lesion_csv(path: Path) -> LesionTable:
    """Read the lesion table of a patient.

    A row is refused if its id is not a whole number from 1. If two rows have the same id and different content,
    both are refused, because nothing says which is right. Equal rows count once.

    Raises:
        Rejection: `BadTable`: the file cannot be read or has no column `lesion_id`.
    """
    by_id: dict[int, list[dict[str, str]]] = defaultdict(list)
    refused: list[tuple[int | None, str]] = []
    for cells in read_csv_table(path, ["lesion_id"]):
        number = whole_or_none(cells["lesion_id"])
        if number:
            by_id[number] += [] if cells in by_id[number] else [cells]
        else:
            wrong = f"{path.name}: lesion_id {cells['lesion_id'][:40]!r} is not a whole number from 1; row not used"
            refused.append((None, wrong))
    rows = []
    for number, copies in sorted(by_id.items()):
        if len(copies) == 1:
            rows.append(_parse_row(number, copies[0]))
        else:
            wrong = f"{path.name}: {len(copies)} different rows have the lesion_id {number}; none is used: keep one"
            refused.append((number, wrong))
    return LesionTable(tuple(rows), tuple(refused))


def whole_or_none(cell: str | None) -> int | None:
    """A whole number from 0 to 2147483647. Also reads `3.0`, which pandas writes if other values are missing.

    >>> whole_or_none("3"), whole_or_none("3.0"), whole_or_none("3.5"), whole_or_none("-1"), whole_or_none("nan")
    (3, 3, None, None, None)
    """
    found = _WHOLE.fullmatch((cell or "").strip())
    return int(found[1]) if found and int(found[1]) <= _HIGHEST else None


def _parse_row(number: int, cells: Mapping[str, str]) -> LesionRow:
    unreadable: list[str] = []

    def read(column: str, parse: Callable[[str], T | None]) -> T | None:
        cell = cells.get(column, "")
        value = parse(cell)
        if value is None and word_or_none(cell) is not None:
            unreadable.append(column)
        return value

    return LesionRow(
        lesion_id=number,
        cog_bl=parse_cog(cells.get("cog_bl")),
        cog_fu=parse_cog(cells.get("cog_fu")),
        cog_propagated=parse_cog(cells.get("cog_propagated")),
        cog_backpropagated=parse_cog(cells.get("cog_backpropagated")),
        img_id_bl=read("img_id_bl", whole_or_none),
        img_id_fu=read("img_id_fu", whole_or_none),
        lesion_type=read("lesion_type", lambda cell: _TYPES.get(cell.lower())),
        topology_class=read("topology_class", _class_or_none),
        merged_into=read("merged_into", _id_or_none),
        volume_bl=read("volume_bl", _volume_or_none),
        volume_fu=read("volume_fu", _volume_or_none),
        target_lesion=read("target_lesion", flag_or_none),
        use_for_challenge=read("use_for_challenge", flag_or_none),
        linking_unclear=read("linking_unclear", flag_or_none),
        unreadable=tuple(unreadable),
    )


def _id_or_none(cell: str) -> int | None:
    return whole_or_none(cell) or None


def _volume_or_none(cell: str) -> float | None:
    value = number_or_none(cell)
    return value if value is not None and value >= 0 else None


def _class_or_none(cell: str) -> str | None:
    name = ALIASES.get(cell.upper(), cell.upper())
    return name if name in CLASSES else None


@dataclass(frozen=True)
class Presence:
    """The lesions in the masks of a time point.

    Attributes:
        ids: Lesion ids of all body regions.
        complete: All masks of the time point could be read, so a lesion that was not found is really absent.
    """

    ids: frozenset[int]
    complete: bool


@dataclass(frozen=True)
class Topology:
    """What became of a lesion.

    Attributes:
        topology_class: One of `CLASSES`, or None if unknown.
        merged_into: For MERGING, the follow-up lesion that it became part of; the destination has its own id here.
        split_from: For SPLITTING, the baseline lesion that it was part of.
        is_derived: Derived from ids and centroids; otherwise as published.
        contradicts: The masks rule out the published class.
    """

    topology_class: str | None
    merged_into: int | None = None
    split_from: int | None = None
    is_derived: bool = True
    contradicts: bool = False


def find_topology(rows: Iterable[LesionRow], bl: Presence, fu: Presence) -> dict[int, Topology]:
    """Find what became of each lesion of the table and of the masks.

    A published class is kept. Otherwise the class is derived:

    - A lesion at both time points is UNCHANGED: the same identity, not the same size.
    - A lesion at baseline only is MERGING if another row has the same text in `cog_fu` and its id is in the masks of
      the follow-up, else DISAPPEARING. The lesion that others merged into is MERGING too, as in the published classes.
    - A lesion at follow-up only is SPLITTING if another row has the same text in `cog_bl` and its id is in the masks
      of the baseline, else NEWLYAPPEARING.

    A lesion counts as absent only if all masks of the time point could be read. The published script stops at a
    lesion that is gone but has its own `cog_fu`; here it is DISAPPEARING.
    """
    by_id = {row.lesion_id: row for row in rows}
    by_id |= {number: LesionRow(number) for number in (bl.ids | fu.ids) - by_id.keys()}
    at_fu = _ids_by_text((number, row.cog_fu) for number, row in by_id.items() if number in fu.ids)
    at_bl = _ids_by_text((number, row.cog_bl) for number, row in by_id.items() if number in bl.ids)
    found: dict[int, Topology] = {}
    for number, row in sorted(by_id.items()):
        merged = _other(at_fu, row.cog_fu, number) if number not in fu.ids else None
        parent = _other(at_bl, row.cog_bl, number) if number not in bl.ids else None
        if row.topology_class is None:
            found[number] = _derive(number, merged, parent, bl, fu)
        else:
            found[number] = _published(row, merged, parent, by_id, bl, fu)
    # the destination of a derived merge is part of the event
    for number in {t.merged_into for t in found.values() if t.is_derived and t.merged_into is not None}:
        if number in found and found[number].is_derived:
            found[number] = Topology("MERGING", merged_into=number)
    return found


def _ids_by_text(cogs: Iterable[tuple[int, Cog]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number, cog in cogs:
        if cog.reason != "empty":
            found[cog.text.strip()].append(number)
    return found


def _other(ids: Mapping[str, list[int]], cog: Cog, number: int) -> int | None:
    """The lowest id of another row with this text."""
    return min((other for other in ids.get(cog.text.strip(), []) if other != number), default=None)


def _derive(number: int, merged: int | None, parent: int | None, bl: Presence, fu: Presence) -> Topology:
    in_bl, in_fu = number in bl.ids, number in fu.ids
    if in_bl and in_fu:
        return Topology("UNCHANGED")
    if in_bl and merged is not None:
        return Topology("MERGING", merged_into=merged)
    if in_fu and parent is not None:
        return Topology("SPLITTING", split_from=parent)
    if in_bl and fu.complete:
        return Topology("DISAPPEARING")
    if in_fu and bl.complete:
        return Topology("NEWLYAPPEARING")
    return Topology(None)


def _published(
    row: LesionRow, merged: int | None, parent: int | None, by_id: Mapping[int, LesionRow], bl: Presence, fu: Presence
) -> Topology:
    own = row.topology_class
    # whether each class requires the lesion at baseline and at follow-up; None if it says nothing
    expects = {
        "UNCHANGED": (True, True), "DISAPPEARING": (True, False), "NEWLYAPPEARING": (False, True),
        "MERGING": (True, None), "SPLITTING": (None, True),
    }[own or ""]  # fmt: skip
    contradicts = any(
        expected is not None and (row.lesion_id in time.ids) != expected and (time.complete or not expected)
        for expected, time in zip(expects, (bl, fu), strict=True)
    )
    itself = row.lesion_id if row.lesion_id in (fu.ids if own == "MERGING" else bl.ids) else None
    into = _destination(row, by_id, fu) or merged or itself if own == "MERGING" else None
    origin = parent or itself if own == "SPLITTING" else None
    return Topology(own, into, origin, is_derived=False, contradicts=contradicts)


def _destination(row: LesionRow, by_id: Mapping[int, LesionRow], fu: Presence) -> int | None:
    """Follow `merged_into` to its end, through rows that were merged themselves; stop at a circle."""
    seen, target = {row.lesion_id}, row.merged_into
    while target is not None and target not in fu.ids and target not in seen and target in by_id:
        seen.add(target)
        further = by_id[target].merged_into
        if further is None:
            break
        target = further
    return target


def link_lesions(
    topology: Mapping[int, Topology], bl_cases: Mapping[int, str], fu_cases: Mapping[int, str]
) -> list[Row]:
    """Link the lesions of the two time points; the column `patient_key` is not set.

    One row per lesion: `same` and `merged` from the baseline lesion to the follow-up lesion (the destination of a
    merge has its own row), `split` from the parent, `disappeared` and `appeared` with one side null. A link is left
    out if its other side is in a rejected case; `topology_class` of the lesion still records the event.

    Args:
        topology: From `find_topology`.
        bl_cases: The case of each baseline lesion whose case was converted.
        fu_cases: The same for the follow-up.
    """
    links: list[Row] = []
    for number, fate in sorted(topology.items()):
        name = fate.topology_class
        before: int | None = number if name != "SPLITTING" else fate.split_from
        after: int | None = number if name != "MERGING" else fate.merged_into
        before = None if name == "NEWLYAPPEARING" else before
        after = None if name == "DISAPPEARING" else after
        relation = RELATIONS.get(name or "")
        is_known = (before is None or before in bl_cases) and (after is None or after in fu_cases)
        if relation is None or not is_known or (before is None and after is None):
            continue
        link = {
            "bl_case_id": None if before is None else bl_cases[before],
            "bl_lesion": before,
            "fu_case_id": None if after is None else fu_cases[after],
            "fu_lesion": after,
            "relation": relation,
            "link_source": "derived" if fate.is_derived else "csv_class",
        }
        links.append(link)
    return links

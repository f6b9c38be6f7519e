"""Read and write the common JSON files for prompts.

    plain             {"tumor": [[x, y, z], ...], "background": [...]}, on one line
    grand-challenge   {"version": ..., "type": "Multiple points", "points": [{"point": ..., "name": ...}]}
    lesion points     as grand-challenge, with one named point per lesion, in fractional voxels

`x, y, z` are voxel indices `i, j, k` of the stored array, never millimetres, although the format is a general one for
points. The files have no strokes or boxes, so reading gives only clicks.
"""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from clicksim.errors import GeometryError, PromptFormatError, StorageError, in_case, unknown_name, up_to_ten
from clicksim.files import make_folder, replacing
from clicksim.geometry import Grid
from clicksim.prompts.kinds import Box, Click, Voxel

if TYPE_CHECKING:
    from clicksim.prompts.records import Prompts

FOREGROUND, BACKGROUND = "tumor", "background"
_POLARITY = {FOREGROUND: True, BACKGROUND: False}
_VERSION = {"major": 1, "minor": 0}
_KIND = "Multiple points"


def dump_prompts(prompts: "Prompts", format: str = "plain", *, indent: int | None = None) -> str:  # noqa: A002
    """Write prompts as text in one of these formats, without a final newline.

    Foreground comes first, then background, each in its order. A scribble is written as its voxels.

    >>> from clicksim.prompts import Prompts
    >>> dump_prompts(Prompts((Click((1, 2, 3), True),), Grid((4, 4, 4))))
    '{"tumor": [[1, 2, 3]], "background": []}'

    Args:
        prompts: Clicks and scribbles.
        format: `plain` or `grand-challenge`.
        indent: Spaces per level; None writes one line, as in the published files.

    Raises:
        SettingError: If the format is unknown.
        PromptFormatError: If there are boxes, which these formats do not support.
    """
    if format not in _WRITERS:
        raise unknown_name("prompt format", format, _WRITERS)
    boxes = sum(isinstance(prompt, Box) for prompt in prompts)
    if boxes:
        raise PromptFormatError(
            f"{boxes} of {len(prompts)} prompts are boxes; {format} files hold clicks and scribbles"
            f"{in_case(prompts.case_id)}"
        )
    return json.dumps(_WRITERS[format](prompts), indent=indent)


def parse_prompts(
    text: str, grid: Grid, *, where: str = "", strict: bool = True
) -> tuple[tuple[Click, ...], tuple[str, ...]]:
    """Read clicks from plain or Grand Challenge text; the keys tell which format it is.

    A missing list counts as empty, and a Grand Challenge file needs no top-level `name`. Coordinates may be written
    as 3 or 3.0. The clicks are in the order of the file.

    Args:
        text: The JSON.
        grid: The lattice of the image that was clicked.
        where: The file, for messages.
        strict: Reject names other than `tumor` and `background`, including `Tumor`. If False, such points are left
            out, with a note.

    Returns:
        The clicks, including those outside the volume, and notes.

    Raises:
        PromptFormatError: If the text is not JSON, repeats a key, or has other content than such points.
    """
    root = _parse(text, where)
    points = _plain_points(root, where) if _is_plain(root, where) else _named_points(root, where)
    notes: tuple[str, ...] = ()
    foreign = [point.name for point in points if point.name not in _POLARITY]
    if foreign:
        names = up_to_ten(dict.fromkeys(map(_short, foreign)))
        if strict:
            _refuse(f"prompts named {names}; allowed: {FOREGROUND}, {BACKGROUND}, in lower case", where)
        notes = (f"{len(foreign)} prompts named {names} were left out",)
        points = [point for point in points if point.name in _POLARITY]
    voxels = _voxels(points, grid, where)
    return tuple(Click(voxel, _POLARITY[point.name]) for point, voxel in zip(points, voxels, strict=True)), notes


@contextmanager
def replacing_prompts(file: Path) -> Iterator[Path]:
    """Give a temporary path to write prompts to, which becomes `file` on success; create a missing folder.

    Raises:
        PromptFormatError: If the file cannot have that name.
        ClicksimError: If the folder cannot be created, for example below a file.
        StorageError: If the disk is full or not writable.
    """
    make_folder(file.parent)
    try:
        with replacing(file) as temporary:
            yield temporary
    except StorageError:
        raise
    except OSError as error:
        raise PromptFormatError(f"cannot write {file}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class LesionPoint:
    """The position of a lesion in the longitudinal CT data.

    Attributes:
        lesion_id: The number of the lesion, which is the value of its voxels in the mask.
        name: The name in the file, which ends with that number.
        point: `(x, y, z)` as published: the centre of gravity in voxels plus 0.5 along each axis.
    """

    lesion_id: int
    name: str
    point: tuple[float, float, float]

    @property
    def index(self) -> tuple[float, float, float]:
        """The centre of gravity as a fractional voxel index; a whole number is the centre of a voxel."""
        x, y, z = self.point
        return (x - 0.5, y - 0.5, z - 0.5)

    @property
    def voxel(self) -> Voxel:
        """The voxel that contains the point."""
        x, y, z = self.point
        return (math.floor(x), math.floor(y), math.floor(z))


def load_lesion_points(text: str, *, where: str = "") -> list[LesionPoint]:
    """Read the points of a per-lesion file of the longitudinal CT data.

    The number of a lesion is the last word of the point's name: 7 for `7` and for `Lesion 7`. An empty list
    of points is valid; an empty file is rejected.

    Args:
        text: The JSON.
        where: The file, for messages.

    Returns:
        The points in the order of the file.

    Raises:
        PromptFormatError: If the text is not such JSON, a name does not end with a number from 1, a point does
            not have three finite coordinates, or two points have the same number.
    """
    named = _named_points(_parse(text, where), where)
    _refuse_points(named, _is_number, "three finite numbers", where)
    points = []
    for _, name, (x, y, z) in named:
        points.append(LesionPoint(_lesion_id(name, where), name, (float(x), float(y), float(z))))
    counts = Counter(p.lesion_id for p in points)
    repeated = [str(lesion) for lesion, count in counts.items() if count > 1]
    if repeated:
        _refuse(f"lesions with more than one point: {up_to_ten(repeated)}", where)
    return points


def dump_lesion_points(points: Iterable[LesionPoint]) -> str:
    """Write lesion points in the published layout: sorted keys, 4 spaces, no final newline."""
    named = [{"name": p.name, "point": list(p.point)} for p in points]
    root = {"name": "Points of interest", "points": named, "type": _KIND, "version": _VERSION}
    return json.dumps(root, indent=4, sort_keys=True)


class _Point(NamedTuple):
    """A point in a file: its place, such as `points[3]`, its name, and its unchecked coordinates."""

    place: str
    name: str
    value: Any


def _plain(prompts: "Prompts") -> dict[str, Any]:
    return {FOREGROUND: prompts.foreground.tolist(), BACKGROUND: prompts.background.tolist()}


def _grand_challenge(prompts: "Prompts") -> dict[str, Any]:
    points = [{"point": point, "name": name} for name, rows in _plain(prompts).items() for point in rows]
    return {"version": _VERSION, "type": _KIND, "points": points}


_WRITERS: "dict[str, Callable[[Prompts], dict[str, Any]]]" = {
    "plain": _plain,
    "grand-challenge": _grand_challenge,
}


def _refuse(message: str, where: str) -> NoReturn:
    raise PromptFormatError(f"{message} ({where})" if where else message)


def _parse(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object; reject repeated keys, NaN and Infinity."""

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            _refuse(f"repeated keys: {up_to_ten(sorted(_short(key) for key, n in counts.items() if n > 1))}", where)
        return found

    def no_constant(name: str) -> NoReturn:
        _refuse(f"{name} is not a coordinate; allowed: finite numbers", where)

    if not text.strip():
        _refuse("the file is empty; a case without prompts has empty lists", where)
    try:
        root = json.loads(text, object_pairs_hook=unrepeated, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        _refuse(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}", where)
    except RecursionError:
        _refuse("not a prompt file: lists or objects are nested too deeply", where)
    except PromptFormatError:
        raise
    except ValueError as error:  # a number with thousands of digits
        _refuse(f"not a prompt file: {error}", where)
    if not isinstance(root, dict):
        _refuse(f"a prompt file is a JSON object, got a {type(root).__name__}", where)
    return root


def _is_plain(root: dict[str, Any], where: str) -> bool:
    plain = sorted(root.keys() & _POLARITY.keys())
    points = sorted(root.keys() & {"points", "type", "version"})
    if bool(plain) == bool(points):
        keys = up_to_ten(map(_short, root)) or "none"
        kind = "both" if plain else "neither"
        _refuse(
            f"the keys match {kind} of the formats, got {keys}; allowed: {FOREGROUND} and {BACKGROUND} "
            "(plain), or version, type and points (Grand Challenge)",
            where,
        )
    return bool(plain)


def _plain_points(root: dict[str, Any], where: str) -> list[_Point]:
    for name, points in root.items():
        if not isinstance(points, list):
            _refuse(f"{_short(name)} must be a list of points, got {_short(points)}", where)
    return [_Point(f"{name}[{n}]", name, point) for name, points in root.items() for n, point in enumerate(points)]


def _named_points(root: dict[str, Any], where: str) -> list[_Point]:
    """The points of a Grand Challenge object."""
    if root.get("type", _KIND) != _KIND:
        _refuse(f"type is {_short(root['type'])}; allowed: {_KIND!r}", where)
    version = root.get("version", _VERSION)
    if not isinstance(version, dict) or version.get("major") != 1:
        _refuse(f"version is {_short(version)}; known: major 1", where)
    points = root.get("points", [])
    if not isinstance(points, list):
        _refuse(f"'points' must be a list, got {_short(points)}", where)
    for number, item in enumerate(points):
        if not isinstance(item, dict) or "point" not in item or not isinstance(item.get("name"), str):
            _refuse(f"points[{number}] must be an object with point and name, got {_short(item)}", where)
    return [_Point(f"points[{number}]", item["name"], item["point"]) for number, item in enumerate(points)]


def _voxels(points: list[_Point], grid: Grid, where: str) -> list[Voxel]:
    _refuse_points(points, _is_whole, "three whole numbers", where)
    voxels = [(int(x), int(y), int(z)) for _, _, (x, y, z) in points]
    # too large for the integers of a table; check_inside checks the others
    huge = [str(v) for v in voxels if max(map(abs, v)) >= 2**31]
    if huge:
        place = f" ({where})" if where else ""
        raise GeometryError(f"points far outside the volume of shape {grid.shape}: {up_to_ten(huge)}{place}")
    return voxels


def _refuse_points(points: list[_Point], fits: Callable[[Any], bool], rule: str, where: str) -> None:
    """Reject points that are not three numbers of a kind, and name up to ten of them."""
    bad = [
        f"{place} = {_short(value)}"
        for place, _, value in points
        if not (isinstance(value, list) and len(value) == 3 and all(map(fits, value)))
    ]
    if bad:
        _refuse(f"a point is {rule} [x, y, z]; got {up_to_ten(bad)}, counted from 0", where)


def _is_number(value: Any) -> bool:
    # True is an int in Python, and 1e999 a float
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


def _lesion_id(name: str, where: str) -> int:
    words = name.split()
    if not words or not re.fullmatch(r"0{0,8}[1-9][0-9]{0,8}", words[-1]):
        _refuse(f"a lesion's name must end with its number, from 1; got {_short(name)}", where)
    return int(words[-1])


def _short(value: Any) -> str:
    """Shorten a value of any length or depth for a message."""
    return reprlib.repr(value)

"""One recorded point per lesion of the longitudinal CT data, with its origin.

    cog_bl, cog_fu       centre of gravity in the lesion table: computed from the truth of that time point
    cog_propagated       the baseline centre mapped to the follow-up by registration: a prior, without truth of the
                         follow-up
    cog_backpropagated   the centre of a new lesion mapped to the baseline: contains truth of the follow-up
    mask                 the deepest voxel of the lesion in the mask: truth

The published point files of the follow-up use `cog_propagated` if there is one, else `cog_fu`. They mix prior and
truth, so a model can learn to recognise new lesions by their exact centres. Here the points are split into prompt
runs that do not mix: `longitudinal-cog`, `longitudinal-propagated`, `longitudinal-mask`. The column `annotator` of
a prompt gives its origin.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clicksim.catalog.source import Row
from clicksim.errors import PromptFormatError
from clicksim.files import read_bounded
from clicksim.geometry import Grid
from clicksim.prompts.formats import load_lesion_points
from clicksim.prompts.kinds import Click
from clicksim.prompts.records import Prompts
from converters.longitudinal_ct.lesion_csv import Cog, LesionRow

if TYPE_CHECKING:
    import pyarrow as pa

RUNS = {
    "longitudinal-cog": ("cog_bl", "cog_fu"),
    "longitudinal-propagated": ("cog_propagated",),
    "longitudinal-mask": ("mask",),
}
ANNOTATOR = "longitudinal_ct:{origin}"
_EQUAL_VX = 1e-6


@dataclass(frozen=True)
class RecordedPoint:
    """A point from the publisher or from the mask.

    Attributes:
        case_id: The case whose grid it is on.
        lesion: Lesion id.
        origin: `cog_bl`, `cog_fu`, `cog_propagated`, `cog_backpropagated` or `mask`; `unknown` for a published point
            that is not in the lesion table.
        index: Fractional voxel index `(i, j, k)`; a whole number is the centre of a voxel.
        in_image: Whether its voxel lies inside the image.
        knows_truth: Whether it uses an annotation of the same or a later time point; None if unknown.
    """

    case_id: str
    lesion: int
    origin: str
    index: tuple[float, float, float]
    in_image: bool
    knows_truth: bool | None

    @property
    def voxel(self) -> tuple[int, int, int]:
        """The voxel that contains the point."""
        i, j, k = (floor(value + 0.5) for value in self.index)
        return (i, j, k)


def lesion_points(cases: Iterable[Row], lesions: Iterable[Row]) -> list[RecordedPoint]:
    """List all points of the catalog's lesions, by case and lesion.

    Args:
        cases: Rows of the table of cases; cases of other sources are skipped.
        lesions: Rows of the table of lesions, of any cases.

    Returns:
        Up to three points per row: from the lesion table, mapped from the other time point, and from the mask. Points
        outside the image are kept and marked.
    """
    by_id = {case["case_id"]: case for case in cases if case.get("timepoint") in ("BL", "FU")}
    points = []
    for lesion in lesions:
        case = by_id.get(lesion["case_id"])
        if case is None:
            continue
        own = "cog_bl" if case["timepoint"] == "BL" else "cog_fu"
        places = {
            own: lesion.get("cog_csv_ijk"),
            "cog_propagated": lesion.get("cog_propagated_ijk"),
            "cog_backpropagated": lesion.get("cog_backpropagated_ijk"),
            "mask": lesion.get("deepest_ijk"),
        }
        points += [_point(case, lesion["lesion_index"], o, place) for o, place in places.items() if place is not None]
    return sorted(points, key=lambda p: (p.case_id, p.lesion))


def _point(case: Row, lesion: int, origin: str, index: Sequence[float]) -> RecordedPoint:
    i, j, k = (float(value) for value in index)
    is_inside = all(0 <= floor(v + 0.5) < n for v, n in zip((i, j, k), case["shape_xyz"], strict=True))
    knows = {"cog_propagated": False, "unknown": None}.get(origin, True)
    return RecordedPoint(case["case_id"], lesion, origin, (i, j, k), is_inside, knows)


def point_tables(cases: Iterable[Row], lesions: Iterable[Row]) -> "dict[str, pa.Table]":
    """Convert the points to prompt runs, by run name: rows of `clicksim.prompts.table.prompt_schema`.

    Each point is a foreground click of round 0 on the voxel that contains it, in ascending order of lesion id; `x, y,
    z` is the centre of that voxel. `annotator` gives the origin, such as `longitudinal_ct:cog_fu`. In the metadata,
    `protocol` is the name of the run, and the settings say whether the run uses the truth. A point outside its image
    cannot be a click and is left out; it stays in the table of lesions.

    Args:
        cases: As for `lesion_points`.
        lesions: As for `lesion_points`.

    Returns:
        A table for each of `RUNS`, empty if there are no such points.
    """
    known = {case["case_id"]: case for case in cases}
    points = [point for point in lesion_points(known.values(), lesions) if point.in_image]
    return {run: _run_table(run, known, [p for p in points if p.origin in RUNS[run]]) for run in RUNS}


def _run_table(run: str, cases: Mapping[str, Row], points: Iterable[RecordedPoint]) -> "pa.Table":
    import pyarrow as pa

    by_case: dict[str, list[RecordedPoint]] = {}
    for point in points:
        by_case.setdefault(point.case_id, []).append(point)
    settings = {"origins": list(RUNS[run]), "knows_truth": run != "longitudinal-propagated"}
    nothing = Prompts((), Grid((1, 1, 1)), protocol=run, settings=settings).to_table()
    tables = [nothing]
    for case_id, own in sorted(by_case.items()):
        clicks = tuple(Click(point.voxel, True, point.lesion) for point in own)
        annotator = ANNOTATOR.format(origin=own[0].origin)  # a run has one origin per time point, so one per case
        prompts = Prompts(clicks, _grid(cases[case_id]), case_id, run, None, settings, annotator=annotator)
        tables.append(prompts.to_table())
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _grid(case: Row) -> Grid:
    shape, spacing = tuple(case["shape_xyz"]), tuple(case["spacing_xyz_mm"])
    return Grid(shape, spacing, np.array(case["affine_ras"], dtype=np.float64).reshape(4, 4))


def read_published_points(path: Path, case: Row, rows: Iterable[LesionRow]) -> list[RecordedPoint]:
    """Read a published point file and find the lesion table column that each point came from.

    The file does not name the column; equal numbers identify it. If `cog_propagated` and `cog_fu` are equal, the
    origin is `cog_propagated`, which the publisher's script prefers.

    Args:
        path: `<pid>_<BL|FU>_<NN>.json`.
        case: The row of its case: `case_id`, `timepoint`, `shape_xyz`.
        rows: The lesion table; without it every origin is `unknown`.

    Raises:
        PromptFormatError: The file is not a valid point file.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFormatError(f"cannot read the points: {error} ({path})") from error
    by_id = {row.lesion_id: row for row in rows}
    columns = ("cog_bl", "cog_backpropagated") if case["timepoint"] == "BL" else ("cog_propagated", "cog_fu")
    points = []
    for found in load_lesion_points(text, where=str(path)):
        row = by_id.get(found.lesion_id)
        equal = [column for column in columns if row is not None and _is_equal(getattr(row, column), found.point)]
        points.append(_point(case, found.lesion_id, equal[0] if equal else "unknown", found.index))
    return points


def _is_equal(cog: Cog, point: Sequence[float]) -> bool:
    return cog.point is not None and all(abs(a - b) <= _EQUAL_VX for a, b in zip(cog.point, point, strict=True))

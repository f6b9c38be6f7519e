"""Points of the longitudinal CT data, JSON."""

from pathlib import Path

from clicksim.prompts.formats import LesionPoint, dump_lesion_points
from converters.longitudinal_ct.lesion_csv import LesionRow, parse_cog
from converters.longitudinal_ct.lesion_points import read_published_points

CASE = {"case_id": "0a09c8844b_FU_00", "timepoint": "FU", "shape_xyz": [40, 30, 20]}
ROWS = [LesionRow(1, cog_fu=parse_cog("3.5 4.5 5.5")), LesionRow(2, cog_propagated=parse_cog("9.5 8.25 7"))]


def seeds() -> list[bytes]:
    """With points and without."""
    points = [LesionPoint(1, "1", (3.5, 4.5, 5.5)), LesionPoint(2, "Lesion 2", (9.5, 8.25, 7.0))]
    return [dump_lesion_points(own).encode() for own in (points, [])]


def read(data: bytes, folder: Path) -> None:
    """Read it beside a lesion table, and place each point in its voxel."""
    file = folder / "0a09c8844b_FU_00.json"
    file.write_bytes(data)
    for point in read_published_points(file, CASE, ROWS):
        assert point.voxel is not None

"""The converter of the longitudinal CT data: small trees in both forms of names, and facts of real patients."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.catalog.schema import FLAGS, REASONS
from clicksim.catalog.store import open_catalog
from clicksim.errors import CatalogError, PromptFormatError, SettingError
from clicksim.geometry import Grid
from clicksim.pipeline import Crew, convert
from clicksim.prompts.formats import LesionPoint, dump_lesion_points
from clicksim.prompts.table import prompt_schema
from clicksim.volumes import write_image
from converters.longitudinal_ct.lesion_csv import (
    Cog,
    LesionRow,
    Presence,
    find_topology,
    link_lesions,
    parse_cog,
    read_lesion_csv,
)
from converters.longitudinal_ct.lesion_points import lesion_points, point_tables, read_published_points
from converters.longitudinal_ct.longitudinal_source import SOURCE

PID, OTHER = "0123456789", "abcdef0123"
SHAPE = (24, 20, 30)
GRID = Grid(SHAPE, affine=np.array([[-0.8, 0, 0, 9], [0, -0.8, 0, 8], [0, 0, 3, -40], [0, 0, 0, 1.0]]))
VOXEL_MM3 = 0.8 * 0.8 * 3
FULL = (
    "lesion_id", "cog_bl", "cog_backpropagated", "img_id_bl", "cog_propagated", "cog_fu", "img_id_fu", "lesion_type",
    "topology_class", "merged_into", "volume_bl", "volume_fu", "target_lesion", "use_for_challenge", "linking_unclear",
)  # fmt: skip
V1 = ("lesion_id", "cog_bl", "img_id_bl", "cog_propagated", "cog_fu", "img_id_fu", "lesion_type")

# first voxel and size of the box of each lesion; 4 and 5 merge into 5, 6 splits into 6 and 7
BL = {1: ((2, 2, 2), 3), 2: ((8, 2, 2), 2), 4: ((2, 8, 10), 2), 5: ((6, 8, 10), 3), 6: ((12, 12, 20), 4)}
FU = {1: ((3, 2, 2), 4), 3: ((15, 3, 5), 2), 5: ((2, 8, 12), 5), 6: ((10, 12, 20), 2), 7: ((16, 12, 20), 2)}
CLASSES = {
    1: "UNCHANGED", 2: "DISAPPEARING", 3: "NEWLYAPPEARING", 4: "MERGING", 5: "MERGING", 6: "UNCHANGED", 7: "SPLITTING",
}  # fmt: skip

Boxes = dict[int, tuple[tuple[int, int, int], int]]
Cells = dict[int, dict[str, Any]]


def cog(box: tuple[tuple[int, int, int], int]) -> str:
    (i, j, k), size = box
    return " ".join(repr(v + size / 2) for v in (i, j, k))


def paint(boxes: Boxes, dtype: str = "uint8") -> np.ndarray:
    mask = np.zeros(SHAPE, dtype, order="F")
    for number, ((i, j, k), size) in boxes.items():
        mask[i : i + size, j : j + size, k : k + size] = number
    return mask


def events() -> Cells:
    """The lesion table of v2 for `BL` and `FU`."""
    cells: Cells = {}
    for number, name in CLASSES.items():
        before, after = BL.get(number), FU.get(5 if name == "MERGING" else number)
        before = BL[6] if number == 7 else before
        cells[number] = {
            "lesion_id": number, "lesion_type": "Lymph node", "topology_class": name, "linking_unclear": False,
            "target_lesion": "True", "use_for_challenge": "1",
            "cog_bl": cog(before) if before else "", "img_id_bl": 0 if before else "nan",
            "cog_propagated": cog(before) if before else "", "cog_backpropagated": "" if before else cog(FU[number]),
            "cog_fu": cog(after) if after else "", "img_id_fu": "0.0", "merged_into": 5 if name == "MERGING" else "",
            "volume_bl": repr(before[1] ** 3 * VOXEL_MM3) if number in BL else "",
            "volume_fu": repr(after[1] ** 3 * VOXEL_MM3) if after else "",
        }  # fmt: skip
    return cells


def write_csv(root: Path, cells: Cells, columns: Iterable[str] = FULL, *, pid: str = PID, bom: bool = False) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(cells.values())
    (root / "inputsTr").mkdir(parents=True, exist_ok=True)
    (root / f"inputsTr/{pid}.csv").write_text(out.getvalue(), encoding="utf-8-sig" if bom else "utf-8")


def names(timepoint: str, region: int = 0, *, long: bool = False, pid: str = PID) -> tuple[str, str]:
    """CT and mask."""
    middle = f"{timepoint}_img_" if long else ""
    folder = "inputsTr" if timepoint == "BL" else "targetsTr"
    image = f"inputsTr/{pid}_{timepoint}_img_{middle}{region:02d}.nii.gz"
    return image, f"{folder}/{pid}_{timepoint}_mask_{middle}{region:02d}.nii.gz"


def write_scan(
    root: Path, timepoint: str, boxes: Boxes, region: int = 0, *, long: bool = False, pid: str = PID
) -> None:
    for folder in ("inputsTr", "targetsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image, mask = names(timepoint, region, long=long, pid=pid)
    write_image(root / image, np.full(SHAPE, -1000, "int16"), GRID)
    write_image(root / mask, paint(boxes), GRID)


def write_tree(root: Path, *, release: str = "v2") -> Path:
    write_scan(root, "BL", BL, long=release == "v1")
    write_scan(root, "FU", FU, long=release == "v1")
    write_csv(root, events(), V1 if release == "v1" else FULL)
    return root


def converted(root: Path, **options: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of a tree, as rows."""
    target = root.with_name(f"{root.name}-catalog")
    convert(SOURCE, root, target, options=options)
    catalog = open_catalog(target)
    return {name: catalog.table(name).to_pylist() for name in ("cases", "lesions", "links", "rejected")}


def flags(tables: dict[str, list[dict[str, Any]]], timepoint: str) -> set[str]:
    return {flag for case in tables["cases"] if case["timepoint"] == timepoint for flag in case["quality_flags"]}


def lesion(tables: dict[str, list[dict[str, Any]]], case: str, number: int) -> dict[str, Any]:
    (row,) = [r for r in tables["lesions"] if (r["case_id"], r["lesion_index"]) == (f"{PID}_{case}", number)]
    return row


@pytest.mark.parametrize(("release", "source"), [("v1", "derived"), ("v2", "csv_class")])
def test_convert__links_every_event_in_both_forms(tmp_path: Path, release: str, source: str) -> None:
    tables = converted(write_tree(tmp_path / "tree", release=release))
    assert tables["rejected"] == []
    links = [(r["bl_lesion"], r["fu_lesion"], r["relation"], r["link_source"]) for r in tables["links"]]
    assert sorted(links, key=str) == sorted(
        [
            (1, 1, "same", source), (2, None, "disappeared", source), (None, 3, "appeared", source),
            (4, 5, "merged", source), (5, 5, "merged", source), (6, 6, "same", source), (6, 7, "split", source),
        ],
        key=str,
    )  # fmt: skip
    assert {(r["bl_case_id"], r["fu_case_id"]) for r in tables["links"]} == {
        (f"{PID}_BL_00", f"{PID}_FU_00"), (f"{PID}_BL_00", None), (None, f"{PID}_FU_00"),
    }  # fmt: skip
    assert {r["lesion_index"]: r["topology_class"] for r in tables["lesions"]} == CLASSES
    assert {r["merged_into"] for r in tables["lesions"] if r["topology_class"] == "MERGING"} == {5}
    assert not flags(tables, "BL") | flags(tables, "FU")


def test_convert__case_columns(tmp_path: Path) -> None:
    tables = converted(write_tree(tmp_path / "tree"))
    before, after = tables["cases"]
    assert [before["case_id"], after["case_id"]] == [f"{PID}_BL_00", f"{PID}_FU_00"]
    assert [before["paired_case_id"], after["paired_case_id"]] == [f"{PID}_FU_00", f"{PID}_BL_00"]
    assert before["ct_path"] == f"longitudinal_ct:inputsTr/{PID}_BL_img_00.nii.gz"
    assert after["label_path"] == f"longitudinal_ct:targetsTr/{PID}_FU_mask_00.nii.gz"
    expected = {
        "patient_key": f"longitudinal_ct:{PID}", "tracer_class": "none", "timepoint": "FU", "body_region_id": 0,
        "diagnosis": "MELANOMA", "axcodes_in": "LPS", "n_lesions": 5, "lesion_present": True, "pet_path": None,
        "licence": "CC-BY-NC-4.0", "instances": "labels", "official_split": None, "days_since_baseline": None,
    }  # fmt: skip
    assert {key: after[key] for key in expected} == expected
    assert before["days_since_baseline"] == 0
    assert after["affine_ras"] == pytest.approx(GRID.affine.ravel().tolist())


def test_convert__joins_table_and_mask(tmp_path: Path) -> None:
    tables = converted(write_tree(tmp_path / "tree"))
    both = lesion(tables, "FU_00", 1)
    assert both["voxels"] == 64
    assert both["csv_volume_mm3"] == pytest.approx(64 * VOXEL_MM3)
    assert both["cog_csv_ijk"] == both["centroid_ijk"] == [4.5, 3.5, 3.5]
    assert both["cog_propagated_ijk"] == [3.0, 3.0, 3.0]
    assert (both["lesion_type"], both["target_lesion"], both["linking_unclear"]) == ("Lymph node", True, False)
    assert both["id_is_native"] is both["propagated_in_fov"] is both["use_for_challenge"] is True
    gone = lesion(tables, "FU_00", 2)
    assert gone["voxels"] is gone["cog_csv_ijk"] is None
    assert gone["cog_propagated_ijk"] == [8.5, 2.5, 2.5]
    new = lesion(tables, "BL_00", 3)
    assert new["voxels"] is None
    assert new["cog_backpropagated_ijk"] == lesion(tables, "FU_00", 3)["centroid_ijk"]
    part = lesion(tables, "FU_00", 4)
    assert part["voxels"] is None
    assert part["csv_volume_mm3"] == lesion(tables, "FU_00", 5)["csv_volume_mm3"]


def test_convert__keeps_ids_of_touching_lesions(tmp_path: Path) -> None:
    write_scan(tmp_path / "tree", "BL", {9: ((2, 2, 2), 3), 200: ((5, 2, 2), 3)})
    tables = converted(tmp_path / "tree")
    assert [(r["lesion_index"], r["voxels"]) for r in tables["lesions"]] == [(9, 27), (200, 27)]
    assert flags(tables, "BL") == {"LESION_TABLE_MISSING"}
    assert tables["links"] == []  # without a follow-up nothing is known to be gone


def test_convert__empty_mask_is_a_complete_responder(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write_scan(root, "BL", {1: BL[1], 2: BL[2]})
    write_scan(root, "FU", {})
    write_csv(root, {n: {"lesion_id": n, "cog_bl": cog(BL[n]), "img_id_bl": 0} for n in (1, 2)}, V1)
    tables = converted(root)
    assert [(c["timepoint"], c["lesion_present"], c["n_lesions"]) for c in tables["cases"]] == [
        ("BL", True, 2), ("FU", False, 0),
    ]  # fmt: skip
    assert [(r["bl_lesion"], r["relation"], r["fu_case_id"]) for r in tables["links"]] == [
        (1, "disappeared", None), (2, "disappeared", None),
    ]  # fmt: skip
    assert {r["case_id"] for r in tables["lesions"]} == {f"{PID}_BL_00"}  # of the follow-up the table says nothing


def test_convert__several_images_of_a_time_point(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write_scan(root, "BL", {1: BL[1]}, 0)
    write_scan(root, "BL", {2: BL[2]}, 2)
    write_scan(root, "FU", {1: FU[1], 2: BL[2]}, 0)
    rows = {
        1: {"lesion_id": 1, "cog_bl": cog(BL[1]), "img_id_bl": 0, "cog_fu": cog(FU[1]), "img_id_fu": 0},
        2: {"lesion_id": 2, "cog_bl": cog(BL[2]), "img_id_bl": 2, "cog_fu": cog(BL[2]), "img_id_fu": ""},
    }
    rows[2]["cog_propagated"] = cog(FU[1])
    write_csv(root, rows, V1)
    tables = converted(root)
    assert {c["case_id"]: c["paired_case_id"] for c in tables["cases"]} == {
        f"{PID}_BL_00": f"{PID}_FU_00", f"{PID}_BL_02": None, f"{PID}_FU_00": f"{PID}_BL_00",
    }  # fmt: skip
    assert [(r["bl_case_id"], r["bl_lesion"], r["fu_case_id"]) for r in tables["links"]] == [
        (f"{PID}_BL_00", 1, f"{PID}_FU_00"), (f"{PID}_BL_02", 2, f"{PID}_FU_00"),
    ]  # fmt: skip
    assert [c["body_region_id"] for c in tables["cases"]] == [0, 2, 0]
    assert not flags(tables, "BL") | flags(tables, "FU")


def test_convert__a_lesion_of_two_masks_is_linked_where_the_table_places_it_else_in_the_first(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for region in (0, 2):
        write_scan(root, "BL", {1: BL[1]}, region)
    write_scan(root, "FU", {1: FU[1]})
    for cells, expected in ({}, "BL_00"), ({1: {"lesion_id": 1, "cog_bl": cog(BL[1]), "img_id_bl": 2}}, "BL_02"):
        if cells:
            write_csv(root, cells, V1)
        (link,) = converted(root)["links"]
        assert (link["bl_case_id"], link["relation"]) == (f"{PID}_{expected}", "same")


def change(number: int, **cells: Any) -> Callable[[Path], None]:
    """A tree whose lesion table has other cells."""

    def spoil(root: Path) -> None:
        table = events()
        table[number] |= cells
        write_csv(root, table)

    return spoil


def drop(*columns: str) -> Callable[[Path], None]:
    return lambda root: write_csv(root, events(), [c for c in FULL if c not in columns])


def without(number: int) -> Callable[[Path], None]:
    return lambda root: write_csv(root, {n: row for n, row in events().items() if n != number})


def float_mask(root: Path) -> None:
    write_image(root / names("FU")[1], paint(FU, "float64"), GRID)


def las(root: Path) -> None:
    grid = Grid(SHAPE, affine=np.diag([-0.8, 0.8, 3, 1]))
    image, mask = names("FU")
    write_image(root / image, np.zeros(SHAPE, "int16"), grid)
    write_image(root / mask, paint(FU), grid)


def points(*columns: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        table = events()
        cells = [table[n].get(c, "7.25 7.25 7.25") for n, c in zip((1, 3), columns, strict=True)]
        found = [LesionPoint(n, str(n), parse_cog(cell).point) for n, cell in zip((1, 3), cells, strict=True)]
        (root / f"inputsTr/{PID}_FU_00.json").write_text(dump_lesion_points(found))

    return spoil


FLAGGED: list[tuple[str, Callable[[Path], None], str, set[str]]] = [
    ("volume of one voxel more", change(1, volume_fu=65 * VOXEL_MM3), "FU", {"CSV_VOLUME_DIFFERS"}),
    ("volume of half a voxel less", change(1, volume_bl=26.6 * VOXEL_MM3), "BL", set()),
    ("half a voxel left out", change(1, cog_bl="3.0 3.0 3.0"), "BL", {"COG_DIFFERS"}),
    ("outside", change(2, cog_bl="8.5 2.5 30.0"), "BL", {"COG_OUTSIDE", "COG_DIFFERS"}),
    ("words", change(2, cog_propagated="left lung"), "FU", {"COG_UNREADABLE"}),
    ("nan", change(2, cog_propagated="nan nan nan"), "FU", set()),
    ("brackets", change(1, cog_fu="[5.0, 4.0, 4.0]"), "FU", set()),
    ("no propagated centroid", drop("cog_propagated"), "FU", {"PROPAGATED_MISSING"}),
    ("no linking_unclear", drop("linking_unclear"), "FU", set()),
    ("no row for a lesion", without(1), "FU", {"MASK_ID_NOT_IN_CSV"}),
    ("new lesion that is not there", change(3, img_id_fu=0, lesion_id=8), "FU",
     {"CSV_ID_NOT_IN_MASK", "MASK_ID_NOT_IN_CSV", "TOPOLOGY_CONTRADICTS"}),
    ("gone, but there", change(1, topology_class="DISAPPEARED"), "FU", {"TOPOLOGY_CONTRADICTS"}),
    ("unknown class", change(1, topology_class="GROWING"), "FU", {"LESION_VALUE_UNREADABLE"}),
    ("unknown site", change(1, lesion_type="Moon"), "BL", {"LESION_VALUE_UNREADABLE"}),
    ("whole numbers as float64", float_mask, "FU", {"LABEL_FLOAT"}),
    ("LAS", las, "FU", {"AXES_NOT_LAS"}),
    ("BOM", lambda root: write_csv(root, events(), bom=True), "BL", set()),
    ("points of two columns", points("cog_propagated", "cog_fu"), "FU", {"PUBLISHED_POINTS_MIXED"}),
    ("points of one column", points("cog_fu", "cog_fu"), "FU", set()),
    ("points of one column and of none", points("cog_propagated", "elsewhere"), "FU", set()),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "timepoint", "expected"), [f[1:] for f in FLAGGED], ids=[f[0] for f in FLAGGED])
def test_convert__flags(tmp_path: Path, spoil: Callable[[Path], None], timepoint: str, expected: set[str]) -> None:
    root = write_tree(tmp_path / "tree")
    spoil(root)
    tables = converted(root)
    assert flags(tables, timepoint) == expected
    assert expected <= FLAGS.keys()
    assert tables["rejected"] == []
    assert len(tables["cases"]) == 2


def cut(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-20])


def empty(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(b"")


def image(name: str, array: np.ndarray, grid: Grid = GRID) -> Callable[[Path], None]:
    return lambda root: write_image(root / name, array, grid)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content) and None


def twice(root: Path) -> None:
    (root / names("FU", long=True)[1]).write_bytes((root / names("FU")[1]).read_bytes())


def linked_out(root: Path) -> None:
    outside = root.with_name("outside.nii.gz")
    (root / names("FU")[1]).rename(outside)
    (root / names("FU")[1]).symlink_to(outside)


def linked_to_itself(root: Path) -> None:
    (root / names("FU")[1]).unlink()
    (root / names("FU")[1]).symlink_to(root / names("FU")[1])


def two_demographics(root: Path) -> None:
    for name in ("demographics.csv", "inputsTr/demographics_v3.csv"):
        (root / name).write_text(f"patient,sex\n{PID},F\n")


def two_rows(root: Path) -> None:
    write_csv(root, events() | {99: events()[1] | {"lesion_type": "Liver"}})


TABLE, POINTS = f"inputsTr/{PID}.csv", f"inputsTr/{PID}_FU_00.json"
MOVED = GRID.crop((1, 0, 0), SHAPE)
SPOILED: list[tuple[str, Callable[[Path], None], str, str, int]] = [
    ("mask cut off", cut(names("FU")[1]), "TruncatedFile", names("FU")[1], 1),
    ("mask of 0 bytes", empty(names("BL")[1]), "TruncatedFile", names("BL")[1], 1),
    ("CT cut off", cut(names("FU")[0]), "TruncatedFile", names("FU")[0], 1),
    ("no image at all", text(names("FU")[0], "<html>404</html>"), "UnreadableFile", names("FU")[0], 1),
    ("another shape", image(names("FU")[0], np.zeros((24, 20, 29), "int16"), Grid((24, 20, 29), affine=GRID.affine)),
     "GridMismatch", names("FU")[1], 1),
    ("another origin", image(names("FU")[0], np.zeros(SHAPE, "int16"), MOVED), "GridMismatch", names("FU")[1], 1),
    ("probabilities", image(names("FU")[1], paint(FU, "float32") / 2), "BadLabel", names("FU")[1], 1),
    ("negative ids", image(names("FU")[1], -paint(FU, "int16")), "BadLabel", names("FU")[1], 1),
    ("no CT", lambda root: (root / names("FU")[0]).unlink(), "MissingChannel", names("FU")[1], 1),
    ("no mask", lambda root: (root / names("FU")[1]).unlink(), "MissingChannel", names("FU")[0], 1),
    ("both forms of a name", twice, "DuplicateCase", names("FU")[1], 1),
    ("link out of the source", linked_out, "PathLeavesRoot", names("FU")[1], 1),
    ("link to itself", linked_to_itself, "UnreadableFile", names("FU")[1], 1),
    ("time points mixed up", text(f"inputsTr/{PID}_BL_mask_FU_img_00.nii.gz", "x"), "BadName",
     f"inputsTr/{PID}_BL_mask_FU_img_00.nii.gz", 2),
    ("pid in capitals", text("inputsTr/ABCDEF0123_BL_img_00.nii.gz", "x"), "BadName",
     "inputsTr/ABCDEF0123_BL_img_00.nii.gz", 2),
    ("pid like a path", text("inputsTr/x\\..\\..\\y.csv", "x"), "BadName", "inputsTr/x\\..\\..\\y.csv", 2),
    ("table of 0 bytes", empty(TABLE), "BadTable", TABLE, 2),
    ("table not UTF-8", text(TABLE, b"lesion_id\n\xff\n"), "BadTable", TABLE, 2),
    ("table without ids", text(TABLE, "cog_bl\n1 2 3\n"), "BadTable", TABLE, 2),
    ("row without an id", change(1, lesion_id="one"), "BadTable", TABLE, 2),
    ("two rows of one id", two_rows, "BadTable", TABLE, 2),
    ("image that is not there", change(1, img_id_fu=2), "MissingChannel", TABLE, 2),
    ("table without images", lambda root: write_csv(root, events(), pid=OTHER), "MissingChannel",
     f"inputsTr/{OTHER}.csv", 2),
    ("points that are none", text(POINTS, "[]"), "UnreadableFile", POINTS, 2),
    ("two demographics", two_demographics, "BadTable", "inputsTr/demographics_v3.csv", 2),
    ("demographics without patients", text("demographics.csv", "sex,age\nF,60\n"), "BadTable", "demographics.csv", 2),
    ("split that is none", text("data_split.json", '["train"]'), "BadTable", "data_split.json", 2),
    ("split with a path", text("data_split.json", '{"train": ["../../x"]}'), "BadName", "data_split.json", 2),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "code", "path", "cases"), [s[1:] for s in SPOILED], ids=[s[0] for s in SPOILED])
def test_convert__rejects_what_is_spoiled_and_keeps_the_rest(
    tmp_path: Path, spoil: Callable[[Path], None], code: str, path: str, cases: int
) -> None:
    root = write_tree(tmp_path / "tree")
    write_scan(root, "BL", {1: BL[1]}, pid="ffffffffff")
    spoil(root)
    tables = converted(root)
    assert {(r["code"], r["path"]) for r in tables["rejected"]} == {(code, path)}
    assert code in REASONS
    assert len(tables["cases"]) == cases + 1
    assert str(tmp_path) not in json.dumps(tables, default=str)
    taken = {case["case_id"] for case in tables["cases"]}
    assert {r[key] for r in tables["links"] for key in ("bl_case_id", "fu_case_id")} <= taken | {None}


def test_convert__a_rejected_follow_up_makes_no_lesion_disappear(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", release="v1")
    (root / names("FU", long=True)[1]).write_bytes(b"")
    tables = converted(root)
    assert tables["links"] == []
    assert {r["topology_class"] for r in tables["lesions"]} == {None}


def test_convert__refused_rows_are_not_said_to_be_missing(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    two_rows(root)
    tables = converted(root)
    assert flags(tables, "BL") == {"LESION_ROW_REFUSED"}
    assert lesion(tables, "BL_00", 1)["voxels"] == 27
    assert lesion(tables, "BL_00", 1)["cog_csv_ijk"] is None


@pytest.mark.parametrize(
    ("files", "release", "options", "expected"),
    [
        ({}, "v1", {}, "v1, "),
        ({}, "v2", {}, "v2, "),
        ({"data_split.json": "{}"}, "v1", {}, "v2, "),
        ({"Demographics.csv": f"pid\n{PID}\n"}, "v2", {}, "v3, "),
        ({}, "v2", {"release": "v3"}, "v3, "),
    ],
)
def test_plan__knows_the_release(
    tmp_path: Path, files: dict[str, str], release: str, options: dict[str, str], expected: str
) -> None:
    root = write_tree(tmp_path / "tree", release=release)
    for name, content in files.items():
        (root / name).write_text(content)
    tables = converted(root, **options)
    assert {case["source_release"][:4] for case in tables["cases"]} == {expected}


def test_plan__reads_split_and_demographics(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    (root / "data_split.json").write_text(json.dumps({"train": [OTHER], "val": [PID], "test": []}))
    (root / "demographics.csv").write_text(
        f"\ufeffpatient_id,Sex,age_BL,age_FU,interval_days\n{PID},female,64,65.5,112\n../x,M,1,1,1\n"
    )
    tables = converted(root)
    found = [[c[k] for k in ("official_split", "sex", "age_years", "days_since_baseline")] for c in tables["cases"]]
    assert found == [["val", "F", 64.0, 0], ["val", "F", 65.5, 112]]
    assert [(r["code"], r["path"]) for r in tables["rejected"]] == [("BadName", "demographics.csv")]


def test_plan__a_patient_of_two_splits_has_none(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    (root / "data_split.json").write_text(json.dumps({"train": [PID], "validation": [PID, OTHER]}))
    tables = converted(root)
    assert {case["official_split"] for case in tables["cases"]} == {None}
    assert [(r["code"], r["path"], r["patient_key"]) for r in tables["rejected"]] == [
        ("BadTable", "data_split.json", f"longitudinal_ct:{PID}")
    ]


def test_plan__refuses_another_folder_and_an_unknown_release(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="inputsTr"):
        converted(tmp_path / "empty")
    with pytest.raises(SettingError, match="v4"):
        converted(write_tree(tmp_path / "tree"), release="v4")


def test_convert__same_bytes_for_any_workers(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    write_scan(root, "BL", {1: BL[1]}, pid="ffffffffff")
    for workers in (0, 2):
        convert(SOURCE, root, tmp_path / str(workers), crew=Crew(workers))
    assert open_catalog(tmp_path / "0").digest() == open_catalog(tmp_path / "2").digest()


@given(st.lists(st.floats(0, 600), min_size=3, max_size=3))
def test_parse_cog__takes_half_a_voxel_off_and_rounds_down(values: list[float]) -> None:
    plain = parse_cog(" ".join(map(repr, values)))
    assert plain.point == parse_cog(f"[{', '.join(map(repr, values))}]").point == tuple(values)
    assert plain.index == [v - 0.5 for v in values]
    assert plain.voxel == tuple(math.floor(v) for v in values)


@given(st.text(max_size=30))
def test_parse_cog__never_raises(cell: str) -> None:
    found = parse_cog(cell)
    assert found.text == cell
    assert (found.point is None) == bool(found.reason)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "empty"), ("", "empty"), (" NaN ", "empty"), ("nan nan nan", "empty"), ("[nan, nan, nan]", "empty"),
        ("1 nan 3", "'nan' is not a finite number"), ("1e999 2 3", "'1e999' is not a finite number"),
        ("1,5 2,5 3,5", "6 numbers instead of 3"), ("1 2", "2 numbers instead of 3"),
        ("1_0 2 3", "'1_0' is not a finite number"),
    ],
)  # fmt: skip
def test_parse_cog__gives_a_reason(cell: str | None, reason: str) -> None:
    assert (parse_cog(cell).point, parse_cog(cell).reason) == (None, reason)


def at(text: str) -> Cog:
    return parse_cog(text)


def test_find_topology__a_gone_lesion_with_a_centroid_of_its_own_disappears() -> None:
    rows = [LesionRow(1, cog_fu=at("1.0 2.0 3.0")), LesionRow(2, cog_fu=at("1.00 2.0 3.0"))]
    found = find_topology(rows, Presence(frozenset({1, 2}), True), Presence(frozenset({2}), True))
    assert [found[n].topology_class for n in (1, 2)] == ["DISAPPEARING", "UNCHANGED"]  # texts are compared, not numbers


def test_find_topology__follows_merges_and_never_in_a_circle() -> None:
    rows = [
        LesionRow(n, topology_class="MERGING", merged_into=into)
        for n, into in ((1, 2), (2, 3), (3, None), (4, 5), (5, 4))
    ]
    bl, fu = Presence(frozenset(range(1, 6)), True), Presence(frozenset({3}), True)
    found = find_topology(rows, bl, fu)
    assert [found[n].merged_into for n in (1, 2, 3)] == [3, 3, 3]
    assert found[4].merged_into in (4, 5)


def test_link_lesions__aliases_of_classes_count(tmp_path: Path) -> None:
    cells = {
        1: {"lesion_id": 1, "topology_class": "MERGED", "merged_into": "2.0"},
        2: {"lesion_id": 2, "topology_class": "disappeared"},
    }
    write_csv(tmp_path, cells)
    table = read_lesion_csv(tmp_path / TABLE)
    topology = find_topology(table.rows, Presence(frozenset({1, 2}), True), Presence(frozenset({2}), True))
    links = link_lesions(topology, {1: "b", 2: "b"}, {2: "f"})
    assert [(r["bl_lesion"], r["fu_lesion"], r["relation"]) for r in links] == [
        (1, 2, "merged"),
        (2, None, "disappeared"),
    ]


def test_read_lesion_csv__equal_rows_count_once(tmp_path: Path) -> None:
    write_csv(tmp_path, {1: {"lesion_id": 1}, 2: {"lesion_id": 1}})
    assert read_lesion_csv(tmp_path / TABLE).refused == ()


def test_lesion_points__truth_never_stands_among_propagated_points(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    change(2, cog_propagated="8.5 2.5 30.0")(root)
    tables = converted(root)
    found = lesion_points(tables["cases"], tables["lesions"])
    assert {p.origin for p in found if p.knows_truth is False} == {"cog_propagated"}
    assert {p.case_id[-5:-3] for p in found if p.origin == "cog_propagated"} == {"FU"}
    assert [p.lesion for p in found if not p.in_image] == [2]
    runs = point_tables(tables["cases"], tables["lesions"])
    assert list(runs) == ["longitudinal-cog", "longitudinal-propagated", "longitudinal-mask"]
    prior = runs["longitudinal-propagated"]
    assert prior["lesion"].to_pylist() == [1, 4, 5, 6, 7]  # 2 lies outside, 3 is new
    assert set(prior["annotator"].to_pylist()) == {"longitudinal_ct:cog_propagated"}
    assert set(runs["longitudinal-cog"]["annotator"].to_pylist()) == {
        "longitudinal_ct:cog_bl",
        "longitudinal_ct:cog_fu",
    }
    for run, table in runs.items():
        assert table.schema.equals(prompt_schema())
        about = json.loads(table.schema.metadata[b"clicksim"])
        assert (about["protocol"], about["settings"]["knows_truth"]) == (run, run != "longitudinal-propagated")
        xyz = np.array([table[c].to_pylist() for c in "xyz"]).T
        assert np.allclose(xyz, GRID.to_mm(np.array([table[c].to_pylist() for c in "ijk"]).T), atol=1e-4)
    for row in runs["longitudinal-mask"].to_pylist():
        boxes = BL if "_BL_" in row["case"] else FU
        assert paint(boxes)[row["i"], row["j"], row["k"]] == row["lesion"]


def test_point_tables__no_lesions_no_rows() -> None:
    assert {name: len(table) for name, table in point_tables([], []).items()} == {
        "longitudinal-cog": 0, "longitudinal-propagated": 0, "longitudinal-mask": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def patients(realdata: Path) -> dict[str, Any]:
    facts = json.loads((realdata / "longitudinal_ct/real_geometry_and_centroids.json").read_text())
    return dict(facts["patients"])


REAL = {
    "0a09c8844b": {1: "MERGING", 2: "MERGING", 3: "UNCHANGED", 4: "MERGING"},
    "02522a2b27": dict.fromkeys((1, 2, 3, 4), "UNCHANGED") | dict.fromkeys((5, 6), "NEWLYAPPEARING"),
    "06eb133bbf": dict.fromkeys((1, 2), "DISAPPEARING"),
}


def fill(counts: dict[int, int], spacing: list[float]) -> tuple[np.ndarray, Grid]:
    """A mask with as many voxels of each lesion, on a small grid."""
    shape = (64, 64, 32)
    mask = np.zeros(shape, "uint8", order="F")
    flat, place = mask.reshape(-1, order="F"), 0
    for number, count in counts.items():
        flat[place : place + count] = number
        place += count
    return mask, Grid(shape, affine=np.diag([-spacing[0], -spacing[1], spacing[2], 1]))


@pytest.mark.real
@pytest.mark.parametrize("release", ["v1", "v3"])
def test_convert__events_and_volumes_of_real_patients(tmp_path: Path, patients: dict[str, Any], release: str) -> None:
    root = tmp_path / "tree"
    expected = {}
    for pid, facts in patients.items():
        labels = {
            t: {int(n): v for n, v in facts[t].get("labels", {}).items()} if t in facts else {} for t in ("BL", "FU")
        }
        if not labels["BL"]:  # the complete responder: two lesions whose sizes are not known
            labels["BL"] = {n: {"voxels": 10, "csv_mm3": 10 * math.prod(facts["BL"]["spacing"])} for n in (1, 2)}
        if pid == "02522a2b27":  # lesions 3 and 4 persist, but of the follow-up only four of the six were measured
            labels["FU"] |= {n: {"voxels": 10, "centroid_ijk": [n, n, n]} for n in (3, 4)}
        for folder in ("inputsTr", "targetsTr"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for t, own in labels.items():
            spacing = facts.get(t, facts["BL"])["spacing"]
            mask, grid = fill({n: v["voxels"] for n, v in own.items()}, spacing)
            ct, label = names(t, long=release == "v1", pid=pid)
            write_image(root / ct, np.zeros(mask.shape, "int16"), grid)
            write_image(root / label, mask, grid)
        cells: Cells = {}
        merged = sorted(set(labels["BL"]) - set(labels["FU"])) if "MERGING" in facts["events"] else []
        for n in sorted(labels["BL"].keys() | labels["FU"].keys()):
            cells[n] = {"lesion_id": n, "img_id_bl": 0, "img_id_fu": 0}
            after = labels["FU"].get(4 if n in merged else n, {})
            if after:
                cells[n] |= {"cog_fu": " ".join(repr(v + 0.5) for v in after["centroid_ijk"])}
            # v1 has no volumes; they are given here all the same, so that both forms are held against the masks
            cells[n] |= {"volume_bl": labels["BL"].get(n, {}).get("csv_mm3", ""), "volume_fu": after.get("csv_mm3", "")}
            cells[n] |= {"topology_class": REAL[pid][n], "merged_into": 4 if REAL[pid][n] == "MERGING" else ""}
        unpublished = ("topology_class", "merged_into") if release == "v1" else ()
        write_csv(root, cells, [c for c in FULL if c not in unpublished], pid=pid)
        expected[pid] = facts["events"]
    tables = converted(root)
    assert tables["rejected"] == []
    for pid, counts in expected.items():
        fates = {r["lesion_index"]: r["topology_class"] for r in tables["lesions"] if r["case_id"].startswith(pid)}
        assert Counter(fates.values()) == counts
    assert {r["link_source"] for r in tables["links"]} == {"derived" if release == "v1" else "csv_class"}
    differing = [c["case_id"] for c in tables["cases"] if "CSV_VOLUME_DIFFERS" in c["quality_flags"]]
    assert differing == ["0a09c8844b_BL_00"]  # one voxel in 8954; every other volume agrees
    merges = [r for r in tables["links"] if r["relation"] == "merged"]
    assert [(r["bl_lesion"], r["fu_lesion"]) for r in merges] == [(1, 4), (2, 4), (4, 4)]
    responder = [c for c in tables["cases"] if c["case_id"] == "06eb133bbf_FU_00"]
    assert [c["lesion_present"] for c in responder] == [False]


@pytest.mark.real
def test_parse_cog__real_centroids_come_back(patients: dict[str, Any]) -> None:
    count = 0
    for facts in patients.values():
        for t in ("BL", "FU"):
            for own in facts.get(t, {}).get("labels", {}).values():
                found = parse_cog(" ".join(repr(v + 0.5) for v in own["centroid_ijk"]))
                assert found.index == pytest.approx(own["centroid_ijk"], abs=1e-9)
                assert found.voxel == tuple(math.floor(v + 0.5) for v in own["centroid_ijk"])
                count += 1
    assert count == 14


@pytest.mark.real
@pytest.mark.parametrize(("name", "timepoint"), [("baseline", "BL"), ("followup", "FU")])
def test_read_published_points__real_files(realdata: Path, name: str, timepoint: str) -> None:
    file = realdata / f"longitudinal_ct/primary-{name}-lesion-clicks.json"
    raw = {int(p["name"]): p["point"] for p in json.loads(file.read_text())["points"]}
    case = {"case_id": "x", "timepoint": timepoint, "shape_xyz": [512, 512, 261]}
    assert {p.origin for p in read_published_points(file, case, [])} == {"unknown"}
    column = "cog_bl" if timepoint == "BL" else "cog_propagated"
    rows = [LesionRow(n, **{column: parse_cog(" ".join(map(repr, point)))}) for n, point in raw.items() if n != 3]
    found = read_published_points(file, case, rows)
    assert sorted(p.lesion for p in found) == list(range(1, 11))
    assert Counter(p.origin for p in found) == {column: 9, "unknown": 1}
    assert all(p.voxel == tuple(math.floor(v) for v in raw[p.lesion]) and p.in_image for p in found)


def test_read_published_points__missing_file(tmp_path: Path) -> None:
    case = {"case_id": "x", "timepoint": "FU", "shape_xyz": SHAPE}
    with pytest.raises(PromptFormatError, match=r"none\.json"):
        read_published_points(tmp_path / "none.json", case, [])

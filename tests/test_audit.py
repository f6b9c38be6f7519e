"""The audit: silent on clean phantoms, and each planted fault found under its own name."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from clicksim.audit import audit_catalog, checks_made, write_audit_page
from clicksim.audit.fingerprints import find_duplicates, take_fingerprint
from clicksim.catalog import Catalog, create_catalog, open_catalog
from clicksim.catalog.folds import make_folds, write_folds
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError
from clicksim.findings import Finding, findings_table
from clicksim.geometry import Grid
from clicksim.phantom import make_phantom
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_longitudinal_ct
from clicksim.pipeline import audit, check, convert
from clicksim.pipeline.workers import Crew
from clicksim.prompts import Click, Prompts
from clicksim.volumes import Volume, read_image, write_image
from converters.deep_psma.deep_psma_source import SOURCE as DEEP_PSMA
from converters.fdat.fdat_source import SOURCE as FDAT
from converters.longitudinal_ct.longitudinal_source import SOURCE as LONGITUDINAL_CT


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three sources of phantoms, converted, with a fold plan."""
    folder = tmp_path_factory.mktemp("clean")
    writers: tuple[tuple[Any, Any], ...] = (
        (write_fdat, FDAT),
        (write_deep_psma, DEEP_PSMA),
        (write_longitudinal_ct, LONGITUDINAL_CT),
    )
    for seed, (write, source) in enumerate(writers):  # one seed would give the sources the same patients
        tree = write(folder / source.name, seed=seed)
        convert(source, tree.folder, folder / "catalog")
    catalog = open_catalog(folder / "catalog")
    write_folds(catalog, "two", make_folds(catalog, n_folds=2, official="ignore"))
    return folder / "catalog"


@pytest.fixture
def catalog(clean: Path, tmp_path: Path) -> Catalog:
    """A copy that a test may spoil."""
    shutil.copytree(clean, tmp_path / "catalog", copy_function=os.link)  # files are replaced, never changed
    return open_catalog(tmp_path / "catalog")


def rows_of(catalog: Catalog, table: str = "cases", source: str = "fdat") -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "source"} for row in catalog.table(table, source).to_pylist()]


def put(catalog: Catalog, rows: list[dict[str, Any]], table: str = "cases", source: str = "fdat") -> None:
    catalog.write_part(table, source, rows_to_table(table, rows))


def found(catalog: Catalog, check: str, *, read_data: bool = False) -> list[Finding]:
    return [finding for finding in audit(catalog.path, read_data=read_data) if finding.check == check]


def change(catalog: Catalog, source: str = "fdat", n: int = 0, **columns: object) -> str:
    """Change a case with lesions; its id."""
    rows = rows_of(catalog, source=source)
    row = [row for row in rows if row["lesion_present"]][n]
    row.update(columns)
    put(catalog, rows, source=source)
    return str(row["case_id"])


def change_lesion(catalog: Catalog, source: str = "fdat", **columns: object) -> str:
    rows = rows_of(catalog, "lesions", source)
    rows[0].update(columns)
    put(catalog, rows, "lesions", source)
    return str(rows[0]["case_id"])


# --- clean -----------------------------------------------------------------------------------------------


def test_audit__a_clean_catalog_has_no_finding_and_each_image_is_read_once(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(path: Path) -> Volume:
        read.append(str(path))
        return read_image(path)

    monkeypatch.setattr("clicksim.volumes.read_image", reading)
    told: list[tuple[int, int]] = []
    crew = Crew(progress=lambda done, total, refused=0: told.append((done, total)))
    cases = open_catalog(clean).cases.to_pylist()
    assert audit(clean, read_data=True, crew=crew) == []
    count = len({(row["source"], row["patient_key"]) for row in cases})
    assert told == [(n, count) for n in range(1, count + 1)]
    images = [row[name] for row in cases for name in row if name.endswith("_path") and name != "label_path"]
    assert len(read) == len(set(read)) == len([image for image in images if image])


def test_audit__workers_and_an_interruption_give_the_same_findings(catalog: Catalog) -> None:
    case = change(catalog, suv_max=1.0)
    rows = rows_of(catalog)
    copy = {"case_id": "copy", "patient_key": "other", "study_key": "other", "sha256_in": "x"}
    put(catalog, [*rows, {**next(row for row in rows if row["case_id"] == case), **copy}])
    alone = audit(catalog.path, read_data=True)
    assert {"near-duplicate", "catalog"} <= {finding.check for finding in alone}
    assert audit(catalog.path, read_data=True, crew=Crew(workers=2)) == alone

    def stop(done: int, total: int, refused: int = 0) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(catalog.path, read_data=True, crew=Crew(progress=stop))
    with pytest.raises(CatalogError, match="continue with --resume"):
        audit(catalog.path, read_data=True)
    assert audit(catalog.path, read_data=True, resume=True) == alone
    assert not (catalog.path / ".work").exists()


@pytest.mark.parametrize("column", ["label_path", "pet_path", "ct_path"])
def test_check__opens_every_image(column: str, catalog: Catalog) -> None:
    row = rows_of(catalog)[0]
    whole = catalog.resolve(row[column]).read_bytes()
    (catalog.path / "images").mkdir(exist_ok=True)
    (catalog.path / "images/cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    put(catalog, [{**row, column: "catalog:images/cut.nii.gz"}, *rows_of(catalog)[1:]])
    assert check(catalog.path) == []
    (finding,) = check(catalog.path, read_data=True)
    assert (finding.severity, finding.check, finding.cases) == ("error", "data", (row["case_id"],))
    assert finding.detail.startswith(f"{column}: ")


def test_audit_catalog__an_uptake_that_cannot_be_read_is_one_finding_beside_that_of_the_label(
    catalog: Catalog,
) -> None:
    for name in ("label", "pet"):
        (catalog.path / "images").mkdir(exist_ok=True)
        (catalog.path / "images" / f"{name}.nii.gz").write_bytes(b"")
    case = change(catalog, label_path="catalog:images/label.nii.gz", pet_path="catalog:images/pet.nii.gz")
    details = [f.detail for f in audit(catalog.path, read_data=True) if case in f.cases and "data: " in f.detail]
    assert [re.findall("label|pet", detail)[0] for detail in details] == ["label", "pet"]


# --- leakage ---------------------------------------------------------------------------------------------


def test_check_patient_split__an_official_fold_that_tears_a_patient(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    pair = [row for row in rows if sum(r["patient_key"] == row["patient_key"] for r in rows) == 2]
    pair[0]["official_fold"], pair[1]["official_fold"] = 0, 1
    put(catalog, rows)
    (finding,) = found(catalog, "patient-split")
    assert finding.severity == "error"
    assert finding.cases == tuple(sorted(row["case_id"] for row in pair))


def test_check_patient_split__a_plan_made_before_two_names_became_one_patient(catalog: Catalog) -> None:
    plan = {row["case_id"]: row["fold"] for row in catalog.table("folds", "two").to_pylist()}
    rows = rows_of(catalog)
    first = next(row for row in rows if plan[row["case_id"]] == 0)
    second = next(row for row in rows if plan[row["case_id"]] == 1)
    second["patient_key"] = first["patient_key"]
    put(catalog, rows)
    findings = found(catalog, "patient-split")
    assert any(f.severity == "error" and "plan two" in f.detail for f in findings)
    assert {case for f in findings for case in f.cases} >= {first["case_id"], second["case_id"]}


def test_check_patient_split__a_plan_that_does_not_know_a_case(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    rows.append({**rows[-1], "case_id": "new", "patient_key": "new", "study_key": "new", "sha256_in": None})
    rows[-1] |= {"lesion_present": False, "n_lesions": 0, "lesion_volume_ml": 0.0, "diagnosis": None}
    put(catalog, rows)
    (finding,) = found(catalog, "patient-split")
    assert (finding.severity, finding.cases) == ("warning", ("new",))
    put(catalog, rows[:-1])
    put(catalog, [rows[-1]], source="tcia_fdg")  # a source that the plan was not drawn over
    assert found(catalog, "patient-split") == []


def test_check_study_twice__across_sources_it_warns_and_in_two_folds_it_is_an_error(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    case = next(row for row in rows if row["lesion_present"])
    put(catalog, [{**case, "case_id": "tcia-name"}], source="tcia_fdg")
    assert [f.severity for f in found(catalog, "study-twice")] == ["warning"]
    put(catalog, [{**case, "case_id": "tcia-name", "official_fold": 4}], source="tcia_fdg")
    case["official_fold"] = 0
    put(catalog, rows)
    (finding,) = found(catalog, "study-twice")
    assert finding.severity == "error"
    assert finding.cases == tuple(sorted([case["case_id"], "tcia-name"]))


def test_check_study_twice__in_one_source_it_is_an_error(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    case = next(row for row in rows if row["official_fold"] is not None)
    put(catalog, [*rows, {**case, "case_id": "again"}])
    (finding,) = found(catalog, "study-twice")
    assert (finding.severity, finding.cases) == ("error", tuple(sorted([case["case_id"], "again"])))


def test_check_same_label__one_file_for_two_patients(catalog: Catalog) -> None:
    rows = [row for row in rows_of(catalog) if row["lesion_present"]]
    first, second = rows[0], next(row for row in rows if row["patient_key"] != rows[0]["patient_key"])
    changed = rows_of(catalog)
    for row in changed:
        if row["case_id"] == second["case_id"]:
            row["sha256_in"] = first["sha256_in"]
    put(catalog, changed)
    (finding,) = found(catalog, "same-label")
    assert set(finding.cases) == {first["case_id"], second["case_id"]}


def test_check_same_lesions__a_mirrored_case_under_another_patient(catalog: Catalog) -> None:
    rows, lesions = rows_of(catalog), rows_of(catalog, "lesions")
    case = max(rows, key=lambda row: row["lesion_volume_ml"])
    put(catalog, [*rows, {**case, "case_id": "copy", "patient_key": "other", "study_key": "other", "sha256_in": "x"}])
    copied = [{**row, "case_id": "copy"} for row in lesions if row["case_id"] == case["case_id"]]
    put(catalog, [*lesions, *copied], "lesions")
    (finding,) = found(catalog, "same-lesions")
    assert set(finding.cases) == {case["case_id"], "copy"}


@pytest.mark.parametrize(("volumes", "same"), [((1.0, 9.0), True), ((4.0, 6.0), False)])
def test_check_same_lesions__equal_sums_are_not_enough(
    catalog: Catalog, volumes: tuple[float, float], same: bool
) -> None:
    case = rows_of(catalog)[0]
    put(catalog, [{**case, "case_id": name, "patient_key": name} for name in "ab"], source="tcia_fdg")
    drawn = {"a": (1.0, 9.0), "b": volumes}
    lesions = [
        {"case_id": name, "lesion_index": n, "voxels": 50, "volume_ml": volume, "suv_max": 5.0}
        for name, pair in drawn.items()
        for n, volume in enumerate(pair)
    ]
    put(catalog, lesions, "lesions", "tcia_fdg")
    assert [f.cases for f in found(catalog, "same-lesions")] == ([("a", "b")] if same else [])


def test_check_near_duplicates__a_mirrored_rescaled_copy_under_another_patient(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    case = next(row for row in rows if row["lesion_present"])
    image = read_image(catalog.resolve(case["pet_path"]))
    (catalog.path / "images" / "copy").mkdir(parents=True)
    mirrored = np.asfortranarray(image.array[::-1, :, ::-1] * 0.5)
    write_image(catalog.path / "images" / "copy" / "pet.nii.gz", mirrored, image.grid)
    copy = {"case_id": "copy", "patient_key": "other", "study_key": "other", "sha256_in": "x"}
    put(catalog, [*rows, {**case, **copy, "pet_path": "catalog:images/copy/pet.nii.gz"}])
    (finding,) = found(catalog, "near-duplicate", read_data=True)
    assert set(finding.cases) == {case["case_id"], "copy"}
    assert found(catalog, "near-duplicate") == []


# --- fingerprints ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uptakes() -> list[Any]:
    """Uptakes of six patients, at voxels of 6 mm."""
    return [
        make_phantom(seed, tracer=("fdg", "psma")[seed % 2], shape=None, spacing=(6.0, 6.0, 6.0), n_lesions=3).pet
        for seed in range(6)
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda volume: volume[::-1],
        lambda volume: np.transpose(volume, (2, 0, 1))[:, ::-1],
        lambda volume: volume * 4000,
        lambda volume: ndimage.zoom(volume, 0.8, order=1, grid_mode=True, mode="nearest"),
        lambda volume: ndimage.zoom(volume, 1.2, order=1, grid_mode=True, mode="nearest")[::-1, ::-1],
    ],
    ids=["mirrored", "turned", "another unit", "coarser", "finer and turned"],
)
def test_find_duplicates__a_copy_is_found_and_nobody_else(uptakes: list[Any], spoil: Any) -> None:
    prints = [take_fingerprint(volume) for volume in uptakes]
    pairs = find_duplicates([*prints, take_fingerprint(spoil(uptakes[2]))])
    assert [(first, second) for first, second, _ in pairs] == [(2, len(uptakes))]


def test_find_duplicates__flat_volumes_are_like_nothing() -> None:
    flat = take_fingerprint(np.zeros((5, 6, 7), np.float32))
    even = take_fingerprint(np.full((30, 6, 7), 3.0, np.float32))
    assert find_duplicates([flat, flat, even, even]) == []
    assert find_duplicates([]) == []


# --- outliers --------------------------------------------------------------------------------------------

TILTED = [3.0, 0, 0, 0, 0, 9.0, 0, 0, 0, 0, 10.0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("check", "severity", "columns", "words"),
    [
        ("geometry", "error", {"affine_ras": TILTED}, "the affine has voxels of 3 x 9 x 10 mm"),
        ("geometry", "error", {"spacing_xyz_mm": [0.1, 0.1, 3.0], "affine_ras": None}, "voxels of 0.1"),
        ("geometry", "error", {"shape_xyz": [48, 40, 900]}, "9000 mm"),
        ("geometry", "warning", {"spacing_xyz_mm": [9.0, 8.0, 10.0], "affine_ras": None}, "not square"),
        ("geometry", "warning", {"z_gap_min_mm": 3.0, "z_gap_max_mm": 6.0}, "3 to 6 mm apart"),
        ("geometry", "warning", {"ct_coverage_fraction": 0.2}, "covers 20 %"),
        ("uptake", "error", {"suv_max": 45000.0}, "Bq/ml"),
        ("uptake", "error", {"suv_max_in_lesion": 999.0}, "999 in a lesion"),
        ("uptake", "note", {"suv_warnings": ["REF_TIME_FROM_ACQUISITION"]}, "REF_TIME"),
        ("lesions", "error", {"lesion_volume_ml": 60000.0}, "inverted"),
        ("diagnosis", "warning", {"diagnosis": "NEGATIVE", "tracer_class": "FDG"}, "NEGATIVE"),
        ("diagnosis", "warning", {"diagnosis": "LYMPHOMA", "tracer_class": "FDG", "lesion_present": False}, "LYMPHOMA"),
        ("threshold", "error", {"ttb_below_threshold_voxels": 10**6, "suv_threshold": 3.0}, "below SUV 3"),
        ("threshold", "warning", {"ttb_below_threshold_voxels": 1, "lesion_volume_ml": 900.0}, "1 lesion voxels"),
        ("defaced", "warning", {"quality_flags": ["LESION_IN_DEFACED"]}, "exactly 0"),
        ("points", "warning", {"quality_flags": ["COG_OUTSIDE"]}, "centroid outside"),
        ("catalog", "error", {"pet_path": "fdat:imagesTr/gone.nii.gz"}, "does not exist"),
    ],
)
def test_audit_catalog__a_planted_fault_is_found(
    catalog: Catalog, check: str, severity: str, columns: dict[str, Any], words: str
) -> None:
    case = change(catalog, **columns)
    findings = [f for f in found(catalog, check) if words in f.detail]
    assert [(f.severity, f.cases) for f in findings] == [(severity, (case,))]


@pytest.mark.parametrize(
    ("check", "columns", "words"),
    [
        ("lesions", {"bbox_ijk": [0, 0, 0, 999, 1, 1]}, "outside"),
        ("lesions", {"suv_max": -0.5}, "-0.5"),
        ("defaced", {"suv_max": 0.0}, "no uptake at all"),
        ("points", {"cog_csv_ijk": [1.0, 2.0, 4000.0]}, "(1.0, 2.0, 4000.0)"),
        ("points", {"cog_propagated_ijk": [-3.0, 2.0, 4.0]}, "cog_propagated_ijk"),
    ],
)
def test_audit_catalog__a_planted_lesion_fault_is_found(
    catalog: Catalog, check: str, columns: dict[str, Any], words: str
) -> None:
    case = change_lesion(catalog, **columns)
    assert [f.cases for f in found(catalog, check) if words in f.detail] == [(case,)]


@pytest.mark.parametrize(
    ("check", "column", "value"),
    [
        ("uptake", "suv_max", 900.0),
        ("geometry", "spacing_xyz_mm", [9.0, 9.0, 19.0]),
        ("lesions", "lesion_volume_ml", 9000.0),
        ("lesions", "n_lesions", 4000),
    ],
)
def test_odd_ones__one_of_thirty(catalog: Catalog, check: str, column: str, value: object) -> None:
    usual = next(row for row in rows_of(catalog) if row["lesion_present"])
    usual |= {"suv_max": 20.0, "suv_max_in_lesion": 10.0, "affine_ras": None, "n_lesions": 3}
    rows = [{**usual, "case_id": f"c{n}", "suv_max": 15.0 + n / 3} for n in range(30)]
    put(catalog, rows, source="tcia_fdg")
    assert not [f for f in found(catalog, check) if "median" in f.detail]
    rows[7][column] = value
    put(catalog, rows, source="tcia_fdg")
    assert [f.cases for f in found(catalog, check) if "median" in f.detail] == [("c7",)]


def test_check_prompts__voxels_outside(catalog: Catalog) -> None:
    case = rows_of(catalog)[0]
    grid = Grid(tuple(case["shape_xyz"]), tuple(case["spacing_xyz_mm"]))
    inside, outside = Click((1, 2, 3), True), Click((1, 2, 999), True)
    table = Prompts((inside, outside), grid, case_id=case["case_id"]).to_table()
    catalog.write_part("prompts", "mine", table)
    (finding,) = found(catalog, "prompts")
    assert finding.cases == (case["case_id"],)
    assert "1 voxel outside" in finding.detail
    assert "(1, 2, 999)" in finding.detail


# --- table and page --------------------------------------------------------------------------------------


def test_findings_table__holds_every_finding_in_order() -> None:
    findings = [Finding("error", "uptake", ("a", "b"), "x"), Finding("note", "lesions", (), "y")]
    table = findings_table(findings)
    assert table["cases"].to_pylist() == [["a", "b"], []]
    assert table.column_names == ["severity", "check", "cases", "detail"]


def test_write_audit_page__names_the_cases_escapes_them_and_loads_nothing(tmp_path: Path) -> None:
    findings = [Finding("error", "uptake", ("<b>case & 1</b>",), "SUV < 3")]
    page = write_audit_page(tmp_path / "a" / "p.html", findings, checks=checks_made(read_data=True), title="T & U")
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;case &amp; 1&lt;/b&gt;" in text
    assert "<b>case" not in text
    assert "SUV &lt; 3" in text
    assert "near-duplicate" in text  # made, and without a finding
    assert not any(word in text for word in ("http://", "https://", "<script", "src=", "@import"))


def test_check_lesions__one_name_in_two_sources_is_two_cases(tmp_path: Path) -> None:
    from clicksim.audit.catalog_checks import check_lesions

    opened = create_catalog(tmp_path / "catalog")
    for source, count in (("fdat", 1), ("lab", 2)):
        case = {"case_id": "a", "n_lesions": count, "lesion_volume_ml": 2.0 * count}
        lesions = [{"case_id": "a", "lesion_index": n, "voxels": 8, "volume_ml": 2.0} for n in range(count)]
        opened.write_part("cases", source, rows_to_table("cases", [case]))
        opened.write_part("lesions", source, rows_to_table("lesions", lesions))
    assert list(check_lesions(opened)) == []
    opened.write_part("lesions", "lab", rows_to_table("lesions", lesions[:1]))
    assert [finding.detail for finding in check_lesions(opened)] == ["n_lesions is 2, its rows in lesions: 1"]


def test_audit_catalog__a_case_without_a_patient_is_named_and_the_others_are_checked(tmp_path: Path) -> None:
    opened = create_catalog(tmp_path / "catalog")
    shared = {"sha256_in": "x", "lesion_present": True, "n_lesions": 0}
    rows = [
        {**shared, "case_id": case, "patient_key": patient, "official_fold": fold}
        for case, patient, fold in (("a", None, 0), ("b", "p", 0), ("c", None, 1), ("d", "p", 1))
    ]
    opened.write_part("cases", "lab", rows_to_table("cases", rows))
    errors = [(f.check, f.cases) for f in audit_catalog(opened) if f.severity == "error"]
    nobody = [("catalog", ("a",)), ("catalog", ("c",))]
    assert errors == [*nobody, ("patient-split", ("b", "d")), ("same-label", ("a", "b", "c", "d"))]


def test_check_codes__names_a_failure_that_no_rule_knows(tmp_path: Path) -> None:
    from clicksim.audit.catalog_checks import check_codes

    opened = create_catalog(tmp_path / "catalog")
    failures = [{"case_id": "a", "round": n, "failure": code} for n, code in enumerate((None, "TimeLimit", "Nonsense"))]
    opened.write_part("rounds", "run", rows_to_table("rounds", failures))
    assert [finding.detail for finding in check_codes(opened)] == ["unknown failure Nonsense"]

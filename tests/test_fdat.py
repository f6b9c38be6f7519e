"""fdat: names, tables, folds, images and archives; every irregularity ends as a row, a flag or a reason."""

import csv
import gzip
import hashlib
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clicksim.catalog import open_catalog
from clicksim.errors import CatalogError, SettingError
from clicksim.files import unpack
from clicksim.geometry import Grid
from clicksim.lesions import find_lesions, measure_lesions
from clicksim.pipeline import Crew, convert
from clicksim.volumes import read_grid, read_image, write_image
from converters.fdat.fdat_source import SOURCE, parse_name
from converters.shared import trees
from converters.shared.clinical_tables import fits_print
from converters.shared.nifti_images import header_facts
from converters.shared.tables import Rejection, common_value, parse_table

FDG = "fdg_0011f3deaf_03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"
FDG_AGAIN = "fdg_0011f3deaf_04-01-2003-NA-PET-CT Ganzkoerper nativ u. mit KM-00001"
PSMA = "psma_0179419e313f7d8c_2019-06-10"
SHAPE = (14, 12, 10)
LAS = np.array([[-4.0, 0, 0, 90], [0, 4.0, 0, -80], [0, 0, 3.0, -700], [0, 0, 0, 1]])
GRID = Grid(SHAPE, affine=LAS)


def label_of(empty: bool = False) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    if not empty:
        label[2:5, 3:6, 4:6] = 1
        label[4, 5, 5] = 0
        label[9, 9, 8] = 1
    return label


def pet_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 9, SHAPE).astype(np.float32)


def add_case(root: Path, case: str, *, label=None, pet=None, grid=GRID, ending=".nii.gz") -> None:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    ct = np.random.default_rng(1).integers(-1024, 2000, SHAPE, dtype=np.int16)
    write_image(root / f"imagesTr/{case}_0000{ending}", ct, grid)
    write_image(root / f"imagesTr/{case}_0001{ending}", pet_of() if pet is None else pet, grid)
    write_image(root / f"labelsTr/{case}{ending}", label_of() if label is None else label, grid)


@pytest.fixture
def tree(tmp_path) -> Path:
    """Three studies of two patients, without tables."""
    root = tmp_path / "PSMA-FDG-PET-CT-Lesions_v2"
    for case in (FDG, FDG_AGAIN, PSMA):
        add_case(root, case)
    return root


def brought_in(source: Path, catalog: Path | None = None, **options):
    """Cases and rejections by case id, and the catalog."""
    where = catalog or source.parent / "catalog"
    shutil.rmtree(where, ignore_errors=True)
    convert(SOURCE, source, where, options=options)
    opened = open_catalog(where)
    cases = {row["case_id"]: row for row in opened.cases.to_pylist()}
    return cases, opened.rejected.to_pylist(), opened


def only_rejection(source: Path, **options) -> dict:
    """The one rejected row of a tree whose other cases convert."""
    cases, rejected, _ = brought_in(source, **options)
    assert len(rejected) == 1, rejected
    assert rejected[0]["case_id"] not in cases
    assert len(cases) == 2
    assert str(source) not in rejected[0]["message"]
    return rejected[0]


# names


def test_parse_name__keeps_two_spaces_and_dots():
    name = parse_name(FDG_AGAIN)
    assert (name.tracer, name.patient_key, name.day.isoformat()) == ("FDG", "PETCT_0011f3deaf", "2003-04-01")
    assert name.description == "PET-CT Ganzkoerper nativ u. mit KM"
    assert parse_name(FDG).description == "PET-CT Ganzkoerper  primaer mit KM"
    assert parse_name(PSMA).study_key == "PSMA_0179419e313f7d8c_2019-06-10"


@pytest.mark.parametrize(
    "name",
    ["", "fdg_1", FDG.upper(), PSMA + "_", "psma_0179419e313f7d8c_2019-02-30", "psma_0179419e313f7d8_2019-06-10",
     FDG[:-1], "psma_0179419e313f7d8c_2019-06-10\n"],
)  # fmt: skip
def test_parse_name__refuses_what_is_no_case(name):
    with pytest.raises(Rejection) as refused:
        parse_name(name)
    assert refused.value.code == "BadName"


# a healthy tree


def test_convert__takes_the_tree_in_place(tree):
    cases, rejected, catalog = brought_in(tree)
    assert rejected == []
    assert sorted(cases) == sorted([FDG, FDG_AGAIN, PSMA])
    row = cases[FDG]
    assert row["pet_path"] == f"fdat:imagesTr/{FDG}_0001.nii.gz"
    assert row["ct_path"] == f"fdat:imagesTr/{FDG}_0000.nii.gz"
    assert catalog.resolve(row["label_path"]) == (tree / f"labelsTr/{FDG}.nii.gz").resolve()
    assert row["patient_key"] == cases[FDG_AGAIN]["patient_key"] == "PETCT_0011f3deaf"
    assert (row["radionuclide"], row["half_life_s"], row["suv_factor"]) == ("F18", 6586.2, 1.0)
    assert (cases[PSMA]["sex"], cases[PSMA]["diagnosis"], cases[PSMA]["radionuclide"]) == ("M", "PROSTATE", None)
    assert row["sha256_in"] == hashlib.sha256((tree / f"labelsTr/{FDG}.nii.gz").read_bytes()).hexdigest()
    assert row["shape_xyz"] == list(SHAPE)
    assert row["affine_ras"] == LAS.ravel().tolist()
    assert (row["axcodes_in"], row["quality_flags"], row["official_fold"]) == ("LAS", [], None)
    assert row["source_release"] == "v2, rdkqd-wdh87"
    assert catalog.sources.to_pylist()[0]["licence"] == "CC-BY-NC-4.0"


def test_convert__measures_lesions_as_the_library_does(tree):
    cases, _, catalog = brought_in(tree)
    lesions = [row for row in catalog.lesions.to_pylist() if row["case_id"] == FDG]
    expected = measure_lesions(find_lesions(label_of()), spacing=(4, 4, 3), uptake=pet_of()).to_pylist()
    assert [row["voxels"] for row in lesions] == [17, 1] == [row["voxels"] for row in expected]
    assert [row["suv_peak"] for row in lesions] == [row["suv_peak"] for row in expected]
    assert cases[FDG]["n_lesions"] == 2
    assert cases[FDG]["suv_max"] == pet_of().max()
    assert cases[FDG]["suv_max_in_lesion"] == max(row["suv_max"] for row in expected)


def test_convert__gives_the_same_bytes_with_workers_and_from_another_place(tree, tmp_path):
    digest = brought_in(tree)[2].digest()
    moved = tmp_path / "elsewhere" / tree.name
    shutil.copytree(tree, moved)
    convert(SOURCE, moved, tmp_path / "second", crew=Crew(2))
    assert open_catalog(tmp_path / "second").digest() == digest


def test_convert__finds_the_tree_one_folder_down_and_refuses_two(tree, tmp_path):
    cases, _, catalog = brought_in(tree.parent, tmp_path.parent / f"{tmp_path.name}-catalog")
    assert catalog.resolve(cases[PSMA]["pet_path"]).is_file()
    assert cases[PSMA]["source_release"] == "v2, rdkqd-wdh87"
    _spoil_one_of_each(tree)
    _, rejected, _ = brought_in(tree.parent, tmp_path.parent / f"{tmp_path.name}-catalog")
    assert len(rejected) == 6
    assert all(row["path"].startswith(f"{tree.name}/") and (tree.parent / row["path"]).is_file() for row in rejected)
    shutil.copytree(tree, tree.parent / "copy")
    with pytest.raises(CatalogError, match="several trees: PSMA-FDG-PET-CT-Lesions_v2, copy"):
        brought_in(tree.parent, tmp_path.parent / f"{tmp_path.name}-catalog")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CatalogError, match="labelsTr or imagesTr"):
        brought_in(tmp_path / "nothing")


def _spoil_one_of_each(tree: Path) -> None:
    """A bad name, a second file, a missing channel, a cut label, and two bad tables."""
    (tree / "labelsTr/notes.txt").write_text("text")
    (tree / f"labelsTr/{FDG}.nii").write_bytes(b"")
    (tree / f"imagesTr/{FDG_AGAIN}_0001.nii.gz").unlink()
    (tree / f"labelsTr/{PSMA}.nii.gz").write_bytes(b"")
    (tree / "splits_final.json").write_text(json.dumps([{"train": [], "val": [FDG]}] * 2))
    (tree / "psma_metadata.csv").write_text("a,b\n")


@pytest.mark.parametrize("ending", [".nii", ".mha"])
def test_convert__reads_other_endings(tmp_path, ending):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT", "1": "CT"}, "file_ending": ending})
    )
    add_case(tmp_path / "t", FDG, ending=ending)
    cases, rejected, _ = brought_in(tmp_path / "t")
    assert not rejected
    assert cases[FDG]["pet_path"].endswith(f"_0001{ending}")
    assert cases[FDG]["axcodes_in"] == "LAS"
    assert cases[FDG]["quality_flags"] == []


# irregular but usable


def test_convert__flags_the_four_odd_files(tree):
    """LPS axes, float64 label, sform 0 and qform 1, as in four published cases."""
    import nibabel

    lps = np.diag([-4.0, -4.0, 3.0, 1.0])
    for name, data in ((f"imagesTr/{FDG}_0000", pet_of()), (f"imagesTr/{FDG}_0001", pet_of()),
                       (f"labelsTr/{FDG}", label_of().astype(np.float64))):  # fmt: skip
        image = nibabel.Nifti1Image(data, lps)
        image.set_sform(lps, code=0)
        image.set_qform(lps, code=1)
        nibabel.save(image, tree / f"{name}.nii.gz")
    cases, rejected, _ = brought_in(tree)
    assert not rejected
    assert cases[FDG]["quality_flags"] == ["AXES_NOT_LAS", "LABEL_FLOAT", "QFORM_ONLY"]
    assert cases[FDG]["axcodes_in"] == "LPS"
    assert cases[FDG]["n_lesions"] == 2
    label = tree / f"labelsTr/{FDG}.nii.gz"
    assert header_facts(label, read_grid(label)).qform_code == 1


def test_convert__rejects_a_case_whose_ct_is_cut_off(tree):
    ct = tree / f"imagesTr/{FDG}_0000.nii.gz"
    ct.write_bytes(ct.read_bytes()[:-9])
    row = only_rejection(tree)
    assert row["code"] in ("TruncatedFile", "UnreadableFile")
    assert row["path"].endswith(f"{FDG}_0000.nii.gz")


def test_header_facts__has_the_codes_that_the_reader_goes_by(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.set_sform(np.diag([-2.0, 2.0, 3.0, 1.0]), code=1)
    image.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[254:256] = (99).to_bytes(2, "little")  # an sform code that does not exist: the reader takes the qform
    (tmp_path / "a.nii").write_bytes(raw)
    facts = header_facts(tmp_path / "a.nii", read_grid(tmp_path / "a.nii"))
    assert (facts.axcodes, facts.sform_code, facts.flags()) == ("RAS", 0, ["QFORM_ONLY"])


def test_convert__flags_an_affine_that_no_form_gives(tree):
    import nibabel

    image = nibabel.Nifti1Image(label_of(), LAS)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.header.set_zooms((4, 4, 3))
    nibabel.save(image, tree / f"labelsTr/{FDG}.nii.gz")
    cases, _, _ = brought_in(tree, labels_only="true")
    assert cases[FDG]["quality_flags"] == ["AFFINE_GUESSED"]


def test_convert__takes_empty_labels(tree):
    add_case(tree, FDG, label=label_of(empty=True))
    add_case(tree, PSMA, label=label_of(empty=True))
    cases, rejected, catalog = brought_in(tree)
    assert not rejected
    row = cases[FDG]
    assert (row["lesion_present"], row["n_lesions"], row["lesion_volume_ml"]) == (False, 0, 0.0)
    assert row["suv_max_in_lesion"] is None
    assert cases[PSMA]["quality_flags"] == []  # all of PSMA is diagnosed, also where nothing was found
    assert FDG not in catalog.lesions["case_id"].to_pylist()


def test_convert__flags_negative_uptake_and_lesions_without_any(tree):
    pet = pet_of()
    pet[0, 0, 0] = -0.25
    pet[3, 4, 5] = 0.0
    add_case(tree, FDG, pet=pet)
    pet_beside = pet_of()
    pet_beside[4, 5, 5] = 0.0  # in the lesion's box, outside the lesion
    add_case(tree, PSMA, pet=pet_beside)
    cases, _, _ = brought_in(tree)
    assert cases[FDG]["quality_flags"] == ["LESION_IN_DEFACED", "NEGATIVE_UPTAKE"]
    assert cases[PSMA]["quality_flags"] == []


def test_convert__flags_a_ct_on_another_grid(tree):
    write_image(tree / f"imagesTr/{FDG}_0000.nii.gz", np.zeros((7, 6, 5), np.int16), GRID.resample((7, 6, 5)))
    cases, rejected, _ = brought_in(tree)
    assert not rejected
    assert cases[FDG]["quality_flags"] == ["CT_GRID_DIFFERS"]


def test_convert__takes_grids_that_differ_by_rounding(tree):
    near = LAS.copy()
    near[:3, 3] += 0.005
    write_image(tree / f"labelsTr/{FDG}.nii.gz", label_of(), Grid(SHAPE, affine=near))
    assert FDG in brought_in(tree)[0]


# tables


def write_tables(root: Path) -> None:
    head = "Subject ID,File Location,diagnosis,age,sex\n"
    place = "./FDG-PET-CT-Lesions/PETCT_0011f3deaf/"
    first = f"PETCT_0011f3deaf,{place}{FDG[15:]}/4.000000-CT,LYMPHOMA,060Y,F\n"
    again = f"PETCT_0011f3deaf,{place}{FDG_AGAIN[15:]}/4.000000-CT,NEGATIVE,061Y,F\n"
    (root / "home/rakuest1").mkdir(parents=True)
    (root / "home/rakuest1/fdg_metadata.csv").write_text(head + first * 3 + again * 3, encoding="utf-8-sig")
    (root / "psma_metadata.csv").write_text(
        "Subject ID,Study Date,age,manufacturer_model_name,pet_radionuclide,ct_contrast_agent\r\n"
        "PSMA_0179419e313f7d8c,2019-06-10,71,Discovery 690,68Ga,no\r\n",
        encoding="utf-8-sig",
    )


def test_convert__reads_both_metadata_tables(tree):
    write_tables(tree)
    add_case(tree, FDG, label=label_of(empty=True))
    cases, rejected, _ = brought_in(tree)
    assert not rejected
    wanted = ("age_years", "sex", "diagnosis", "quality_flags")
    assert [cases[FDG][c] for c in wanted] == [60.0, "F", "LYMPHOMA", ["EMPTY_BUT_DIAGNOSED"]]
    assert [cases[FDG_AGAIN][c] for c in wanted] == [61.0, "F", "NEGATIVE", ["LESION_BUT_NEGATIVE"]]
    columns = ("age_years", "model", "radionuclide", "contrast_ct", "half_life_s", "quality_flags")
    assert [cases[PSMA][c] for c in columns] == [71.0, "Discovery 690", "Ga68", False, 4062.6, []]


def test_convert__flags_metadata_that_is_missing_contradicts_or_cannot_be_read(tree):
    write_tables(tree)
    table = tree / "home/rakuest1/fdg_metadata.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    lines[2] = lines[2].replace("060Y", "059Y")
    (tree / "fdg_metadata.csv").write_text("\n".join(lines[:4]) + "\n")
    psma = tree / "psma_metadata.csv"
    psma.write_text(psma.read_text(encoding="utf-8-sig").replace("68Ga", "11C"))
    cases, rejected, _ = brought_in(tree)
    assert not rejected
    assert (cases[FDG]["age_years"], cases[FDG]["quality_flags"]) == (None, ["METADATA_CONTRADICTS"])
    assert cases[FDG]["diagnosis"] == "LYMPHOMA"
    assert (cases[FDG_AGAIN]["age_years"], cases[FDG_AGAIN]["quality_flags"]) == (None, ["METADATA_MISSING"])
    assert (cases[PSMA]["radionuclide"], cases[PSMA]["quality_flags"]) == (None, ["METADATA_UNREADABLE"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("psma_metadata.csv", b"Subject ID,Study Date\nPSMA_1,2019-06-10,surplus\n"),
        ("psma_metadata.csv", b"Subject ID,age\nPSMA_1,71\n"),
        ("psma_metadata.csv", b"\xff\xfe\x00"),
        ("fdg_metadata.csv", b""),
        ("splits_final.json", b"{"),
        ("splits_final.json", b'[{"train": [], "val": "all"}]'),
        ("dataset_fingerprint.json", b'{"spacings": [[3, 2, 2]]}'),
        ("dataset_fingerprint.json", b'{"spacings": [[3, 2, 2]], "shapes_after_crop": []}'),
        ("dataset_fingerprint.json", b'{"spacings": [[NaN, 2, 2]], "shapes_after_crop": [[1, 2, 3]]}'),
        ("dataset_fingerprint.json", b'{"spacings": [[3, 2, 2]], "shapes_after_crop": [[1e999, 2, 3]]}'),
        ("psma_metadata.csv", b"Subject ID,Study Date\nPSMA_0179419e313f7d8c,10.06.2019\n"),
        ("fdg_metadata.csv", b"Subject ID,age\nPETCT_0011f3deaf,060Y\n"),
        ("dataset.json", b"not json"),
    ],
)
def test_convert__records_a_bad_table_and_keeps_the_cases(tree, name, content):
    (tree / name).write_bytes(content)
    cases, rejected, _ = brought_in(tree)
    assert len(cases) == 3
    assert [(row["code"], row["path"]) for row in rejected] == [("BadTable", name)]


def test_convert__reads_the_official_folds(tree):
    splits = [{"train": [PSMA], "val": [FDG, FDG_AGAIN]}, {"train": [FDG], "val": [PSMA]}]
    (tree / "splits_final.json").write_text(json.dumps(splits))
    cases, rejected, _ = brought_in(tree)
    assert [cases[c]["official_fold"] for c in (FDG, FDG_AGAIN, PSMA)] == [0, 0, 1]
    assert not rejected
    splits[1]["val"].append(FDG)
    (tree / "splits_final.json").write_text(json.dumps(splits))
    cases, rejected, _ = brought_in(tree)
    assert [cases[c]["official_fold"] for c in (FDG, FDG_AGAIN, PSMA)] == [None, 0, 1]
    assert [(row["code"], row["case_id"]) for row in rejected] == [("BadTable", FDG)]


def write_fingerprint(root: Path, names: list[str], **shapes) -> None:
    known = {FDG: SHAPE, FDG_AGAIN: SHAPE, PSMA: SHAPE, **shapes}
    lists = {
        "shapes_after_crop": [list(known.get(name, (1, 1, 1)))[::-1] for name in names],
        "spacings": [[3.0, 4.0, 4.0] for _ in names],
    }
    (root / "dataset_fingerprint.json").write_text(json.dumps(lists))


def test_convert__checks_the_fingerprint_in_the_order_of_sorted_names(tree):
    names = sorted([FDG, FDG_AGAIN, PSMA])
    write_fingerprint(tree, names)
    assert all(row["quality_flags"] == [] for row in brought_in(tree)[0].values())
    write_fingerprint(tree, names, **{FDG: SHAPE[::-1]})
    cases, _, _ = brought_in(tree)
    assert {c: row["quality_flags"] for c, row in cases.items() if row["quality_flags"]} == {
        FDG: ["FINGERPRINT_DIFFERS"]
    }


def test_convert__checks_the_fingerprint_of_a_partial_download_by_the_names_of_the_splits(tree):
    absent = "fdg_000000000a_03-23-2003-NA-PET-CT Ganzkoerper nativ-10445"
    names = sorted([FDG, FDG_AGAIN, PSMA, absent])
    write_fingerprint(tree, names, **{PSMA: (1, 2, 3)})
    assert all(row["quality_flags"] == [] for row in brought_in(tree)[0].values())  # nothing says whose lists they are
    (tree / "splits_final.json").write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    cases, _, _ = brought_in(tree)
    assert [cases[c]["quality_flags"] for c in (FDG, FDG_AGAIN, PSMA)] == [[], [], ["FINGERPRINT_DIFFERS"]]


def test_fits_print__allows_rounding_only():
    assert fits_print((1, 2, 3), (2.0, 2.0, 3.27), ((1, 2, 3), (2.0, 2.0, 3.27002)))
    assert not fits_print((1, 2, 3), (2.0, 2.0, 3.27), ((1, 2, 3), (2.0, 2.0, 3.3)))
    assert not fits_print((1, 2, 3), (2.0, 2.0, 3.0), ((1, 2, 4), (2.0, 2.0, 3.0)))
    assert not fits_print((1, 2, 3), (2.0, 2.0, 3.0), ((1, 2, 3), (2.0, 2.0)))


def test_convert__takes_injection_times_of_the_user(tree, tmp_path):
    times = tmp_path / "times.json"
    times.write_text(json.dumps({PSMA: 3081.0}))
    cases, _, _ = brought_in(tree, injection_times=str(times))
    assert cases[PSMA]["uptake_time_s"] == 3081.0
    assert cases[FDG]["uptake_time_s"] is None
    for content in ("[1]", '{"a": "x"}', '{"a": -1}', "{"):
        times.write_text(content)
        with pytest.raises(SettingError, match="injection_times"):
            brought_in(tree, injection_times=str(times))
        shutil.rmtree(tree.parent / "catalog", ignore_errors=True)
    with pytest.raises(SettingError, match="no_such"):
        brought_in(tree, injection_times="no_such.json")


def test_convert__flags_a_case_without_injection_time_and_refuses_a_table_of_no_case(tree, tmp_path):
    other = "psma_0179419e313f7d8c_2020-01-01"
    add_case(tree, other)
    times = tmp_path / "times.json"
    times.write_text(json.dumps({PSMA: 3081.0, "psma_ffffffffffffffff_2019-06-10": 1.0}))
    cases, rejected, _ = brought_in(tree, injection_times=str(times))
    assert {name: row["quality_flags"] for name, row in cases.items() if row["quality_flags"]} == {
        other: ["INJECTION_TIME_NOT_GIVEN"]
    }
    assert rejected == []
    for content, words in (({PSMA.upper(): 1}, f"it names {PSMA.upper()}"), ({}, "it names nothing")):
        times.write_text(json.dumps(content))
        with pytest.raises(SettingError, match=f"names no case of the source: {words}"):
            brought_in(tree, injection_times=str(times))


def test_convert__refuses_options_that_are_none(tree):
    for options, words in (
        ({"label_only": "true"}, "did you mean 'labels_only'"),
        ({"labels_only": "maybe"}, "labels_only must be true or false"),
        ({"unpack": "true"}, "unpack has no effect"),
    ):
        with pytest.raises(SettingError, match=words):
            brought_in(tree, **options)


# spoiled


def test_convert__rejects_a_missing_channel(tree):
    (tree / f"imagesTr/{FDG}_0001.nii.gz").unlink()
    row = only_rejection(tree)
    assert (row["code"], row["case_id"], row["patient_key"]) == ("MissingChannel", FDG, "PETCT_0011f3deaf")
    assert "PET (_0001)" in row["message"]
    assert "labels_only" in row["message"]
    (tree / f"labelsTr/{FDG}.nii.gz").unlink()
    row = only_rejection(tree)
    assert "label in labelsTr and no PET" in row["message"]
    assert row["path"] == f"imagesTr/{FDG}_0000.nii.gz"


@pytest.mark.parametrize("kept", [0, 40, -50])
@pytest.mark.parametrize("name", [f"labelsTr/{FDG}", f"imagesTr/{FDG}_0001", f"imagesTr/{FDG}_0000"])
def test_convert__rejects_empty_and_truncated_files(tree, name, kept):
    file = tree / f"{name}.nii.gz"
    file.write_bytes(file.read_bytes()[:kept])
    row = only_rejection(tree)
    assert (row["code"], row["path"]) == ("TruncatedFile", f"{name}.nii.gz")


def test_convert__rejects_what_is_no_image(tree):
    (tree / f"labelsTr/{FDG}.nii.gz").write_bytes(gzip.compress(b"<html>not found</html>" * 40))
    row = only_rejection(tree)
    assert (row["code"], row["path"]) == ("UnreadableFile", f"labelsTr/{FDG}.nii.gz")


@pytest.mark.parametrize("value", [2, 0.5, -1.0, np.nan])
def test_convert__rejects_labels_that_are_none(tree, value):
    label = label_of().astype(np.uint8 if value == 2 else np.float32)
    label[0, 0, 0] = value
    write_image(tree / f"labelsTr/{FDG}.nii.gz", label, GRID)
    assert only_rejection(tree)["code"] == "BadLabel"


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 4, 5)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_convert__rejects_uptake_that_is_not_finite(tree, place, value):
    pet = pet_of()
    pet[place] = value
    add_case(tree, FDG, pet=pet)
    row = only_rejection(tree)
    assert (row["code"], row["path"]) == ("BadUptake", f"imagesTr/{FDG}_0001.nii.gz")


def test_convert__rejects_a_label_on_another_grid(tree):
    grid = GRID.crop((1, 0, 0), SHAPE)
    write_image(tree / f"labelsTr/{FDG}.nii.gz", label_of(), grid)
    row = only_rejection(tree)
    assert (row["code"], row["case_id"]) == ("GridMismatch", FDG)
    assert "label and PET are on different grids" in row["message"]
    assert row["message"].endswith("resample one of them first, or set resample_labels if the label is right")


def test_convert__resamples_a_label_on_another_grid_where_asked(tree):
    fine = GRID.resample((28, 24, 10))
    label = np.repeat(np.repeat(label_of(), 2, 0), 2, 1)
    write_image(tree / f"labelsTr/{FDG}.nii.gz", label, fine)
    cases, rejected, catalog = brought_in(tree, resample_labels="true")
    assert not rejected
    row = cases[FDG]
    assert row["quality_flags"] == ["LABEL_RESAMPLED"]
    assert row["shape_xyz"] == list(SHAPE)
    assert row["label_path"].startswith("catalog:images/fdat/")
    assert np.array_equal(read_image(catalog.resolve(row["label_path"])).array, label_of())
    assert cases[PSMA]["label_path"].startswith("fdat:")
    write_image(tree / f"labelsTr/{FDG}.nii.gz", label_of(), GRID.crop((100, 100, 100), SHAPE))
    assert only_rejection(tree, resample_labels="true")["code"] == "GridMismatch"


def test_convert__rejects_names_that_are_no_case(tree):
    shutil.copy(tree / f"labelsTr/{FDG}.nii.gz", tree / "labelsTr/patient 7.nii.gz")
    (tree / "labelsTr/half.nii.gz.part").write_bytes(b"x")
    shutil.copy(tree / f"labelsTr/{FDG}.nii.gz", tree / f"imagesTr/{FDG}.nii.gz")
    (tree / "labelsTr/._hidden.nii.gz").write_bytes(b"")
    shutil.copy(tree / f"imagesTr/{FDG}_0001.nii.gz", tree / f"imagesTr/{FDG}_0002.nii.gz")  # guidance of a baseline
    cases, rejected, _ = brought_in(tree)
    assert len(cases) == 3
    assert {row["path"]: row["code"] for row in rejected} == {
        "labelsTr/patient 7.nii.gz": "BadName",
        "labelsTr/half.nii.gz.part": "BadName",
        f"imagesTr/{FDG}.nii.gz": "BadName",
    }


def test_convert__records_a_second_file_of_a_case(tree):
    write_image(tree / f"labelsTr/{FDG}.nii", label_of(empty=True), GRID)
    cases, rejected, _ = brought_in(tree)
    assert cases[FDG]["n_lesions"] == 2
    assert [(row["code"], row["path"]) for row in rejected] == [("DuplicateCase", f"labelsTr/{FDG}.nii")]
    write_image(tree / f"labelsTr/{PSMA}.mha", label_of(), GRID)
    write_image(tree / f"labelsTr/{PSMA}.nii", label_of(), GRID)
    (tree / f"labelsTr/{PSMA}.nii.gz").unlink()
    (tree / f"labelsTr/{FDG}.nii").unlink()
    row = only_rejection(tree)
    assert (row["code"], row["case_id"]) == ("DuplicateCase", PSMA)


def test_convert__rejects_links_out_of_the_source(tree, tmp_path):
    file = tree / f"imagesTr/{FDG}_0001.nii.gz"
    file.rename(tmp_path / "outside.nii.gz")
    file.symlink_to(tmp_path / "outside.nii.gz")
    row = only_rejection(tree)
    assert (row["code"], row["path"]) == ("PathLeavesRoot", f"imagesTr/{FDG}_0001.nii.gz")
    for target in ("nowhere.nii.gz", file.name):
        file.unlink()
        file.symlink_to(tree / "imagesTr" / target)
        row = only_rejection(tree)
        assert (row["code"], row["path"]) == ("UnreadableFile", f"imagesTr/{FDG}_0001.nii.gz")


def test_convert__names_a_case_that_has_further_channels_alone(tree):
    (tree / f"imagesTr/{FDG}_0000.nii.gz").rename(tree / f"imagesTr/{FDG}_0002.nii.gz")
    (tree / f"imagesTr/{FDG}_0001.nii.gz").unlink()
    (tree / f"labelsTr/{FDG}.nii.gz").unlink()
    assert only_rejection(tree)["case_id"] == FDG


# labels alone


def test_convert__takes_labels_alone_where_asked(tree):
    shutil.rmtree(tree / "imagesTr")
    cases, rejected, _ = brought_in(tree)
    assert not cases
    assert [row["code"] for row in rejected] == ["MissingChannel"] * 3
    cases, rejected, _ = brought_in(tree, labels_only="true")
    assert not rejected
    assert (cases[FDG]["n_lesions"], cases[FDG]["suv_max"], cases[FDG]["pet_path"]) == (2, None, None)


def test_convert__opens_no_pet_with_labels_only(tree):
    (tree / f"imagesTr/{FDG}_0001.nii.gz").write_bytes(b"")
    cases, rejected, _ = brought_in(tree, labels_only=True)
    assert not rejected
    assert cases[FDG]["pet_path"] == f"fdat:imagesTr/{FDG}_0001.nii.gz"


# the published zip


@pytest.fixture
def archive(tree) -> Path:
    """The tree as the publisher packs it."""
    file = tree.parent / "psma-fdg-pet-ct-lesions_v2.zip"
    write_tables(tree)
    with zipfile.ZipFile(file, "w") as packed:
        for path in sorted(tree.rglob("*")):
            packed.write(path, path.relative_to(tree.parent))
    return file


@pytest.fixture(autouse=True)
def _close_archive():
    yield
    trees._open_archive.cache_clear()


def test_convert__reads_the_zip_as_the_folder(archive, tree):
    folder, _, _ = brought_in(tree, labels_only=True)
    packed, rejected, catalog = brought_in(archive)
    assert not rejected
    assert sorted(packed) == sorted(folder)
    places = {"label_path", "pet_path", "ct_path"}
    for case, row in packed.items():
        assert {k: v for k, v in row.items() if k not in places} == {
            k: v for k, v in folder[case].items() if k not in places
        }
        assert row["pet_path"] is row["ct_path"] is None
        unpacked = catalog.resolve(row["label_path"])
        assert unpacked.read_bytes() == (tree / f"labelsTr/{case}.nii.gz").read_bytes()
    assert len([path for path in (catalog.path / "images").rglob("*") if path.is_file()]) == 3


def test_convert__measures_and_unpacks_the_zip_where_asked(archive, tree):
    folder, _, _ = brought_in(tree)
    measured, _, catalog = brought_in(archive, labels_only="false")
    assert measured[FDG]["suv_max"] == folder[FDG]["suv_max"] is not None
    assert measured[FDG]["pet_path"] is None
    assert len(list((catalog.path / "images").rglob("*.gz"))) == 3
    unpacked, _, catalog = brought_in(archive, unpack="true")
    assert unpacked[FDG]["suv_max"] == folder[FDG]["suv_max"]
    for column, name in (("pet_path", f"imagesTr/{FDG}_0001.nii.gz"), ("ct_path", f"imagesTr/{FDG}_0000.nii.gz")):
        assert catalog.resolve(unpacked[FDG][column]).read_bytes() == (tree / name).read_bytes()
    with pytest.raises(SettingError, match="exclude"):
        brought_in(archive, unpack="true", labels_only="true")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unpack__whatever_the_method_damage_is_that_of_the_member(tmp_path, method):
    file, content = tmp_path / "a.zip", bytes(range(256)) * 64 + b"text " * 4000
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr("a.json", content)
    with zipfile.ZipFile(file) as packed:
        assert b"".join(unpack(packed, packed.infolist()[0])) == content
    damaged = bytearray(file.read_bytes())
    damaged[45:100] = bytes(255 - n for n in damaged[45:100])  # behind the local header
    file.write_bytes(damaged)
    with zipfile.ZipFile(file) as packed:
        with pytest.raises(zipfile.BadZipFile):
            b"".join(unpack(packed, packed.infolist()[0]))
        tree = trees.ArchiveTree(file, "", packed, {"a.json": packed.infolist()[0]})
        with pytest.raises(Rejection, match=r"a\.json cannot be unpacked"):
            tree.content("a.json")


def test_convert__rejects_one_damaged_member_of_a_zip(archive, tree):
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as packed:
        member = packed.getinfo(f"{tree.name}/labelsTr/{FDG}.nii.gz")
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0xFF
    archive.write_bytes(content)
    row = only_rejection(archive)
    assert (row["code"], row["path"]) == ("UnreadableFile", f"{tree.name}/labelsTr/{FDG}.nii.gz")
    assert "CRC" in row["message"]


@pytest.mark.parametrize("name", ["../evil.nii.gz", "/etc/evil.nii.gz", "a/../../evil", "C:\\evil.nii.gz", "a\\..\\b"])
def test_open_tree__refuses_a_hostile_zip(archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(CatalogError, match="lead out of it"):
        brought_in(archive)


def test_open_tree__refuses_a_zip_that_is_cut_off_or_repeats_a_name(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CatalogError, match="download cut off"):
        brought_in(archive)
    archive.write_bytes(whole)
    with zipfile.ZipFile(archive, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr(f"PSMA-FDG-PET-CT-Lesions_v2/labelsTr/{FDG}.nii.gz", b"x")
    with pytest.raises(CatalogError, match="same name twice"):
        brought_in(archive)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("readme.txt", b"x")
    with pytest.raises(CatalogError, match="no folder labelsTr or imagesTr"):
        brought_in(archive)


# tables.py


def test_parse_table__takes_marks_blank_lines_and_semicolons():
    rows = parse_table("\ufeffa;b\r\n 1 ;2\r\n\r\n3\r\n".encode(), "t.csv")
    assert rows == [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]
    assert parse_table(b'a,b\n"x, y",2\n', "t.csv") == [{"a": "x, y", "b": "2"}]
    for content, words in (
        (b"a,a\n", "more than one column named a"),
        (b'a\n"open\n', "not CSV"),
        (b"a\n1,2\n", "row 2 has 2 values"),
    ):
        with pytest.raises(Rejection, match=words):
            parse_table(content, "t.csv")


def test_common_value__sees_contradictions_and_blanks():
    rows = [{"x": "1", "y": "", "z": "a"}, {"x": "1", "y": "2", "z": "b"}]
    assert [common_value(rows, column) for column in "xyzw"] == [
        ("1", False),
        ("2", False),
        (None, True),
        (None, False),
    ]


# the real names


def real_cases(realdata: Path) -> list[dict[str, str]]:
    with (realdata / "autopet/cases_1611.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stratified(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """All odd axes, then the kinds of cases in turn: tracer, matrix, empty or not, description."""
    chosen = [row for row in rows if row["axcodes"] != "LAS"]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row not in chosen:
            groups.setdefault((row["tracer"], row["nx"], row["label_empty"], row["study_description"]), []).append(row)
    while len(chosen) < count:
        for group in groups.values():
            if group and len(chosen) < count:
                chosen.append(group.pop(len(group) // 2))
    return chosen


def write_stand_in(folder: Path, row: dict[str, str]) -> None:
    """A label with the header of the real one and one voxel set, or none; the rest of the file is a hole."""
    from nibabel.nifti1 import Nifti1Header

    shape, spacing = ([int(row[f"n{a}"]) for a in "xyz"], [float(row[f"d{a}"]) for a in "xyz"])
    signs = [{"L": -1, "A": 1, "P": -1, "S": 1}[code] for code in row["axcodes"]]
    affine = np.diag([*np.multiply(signs, spacing), 1.0])
    affine[:3, 3] = (400.0, -300.0, -800.0)
    odd = row["axcodes"] != "LAS"
    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float64 if odd else np.uint8)
    header.set_sform(affine, code=int(row["sform"]))
    header.set_qform(affine if int(row["qform"]) else None, code=int(row["qform"]))
    header.set_zooms(spacing)
    header["magic"], header["vox_offset"] = b"n+1", 352
    size = int(np.prod(shape)) * (8 if odd else 1)
    with (folder / f"{row['case_id']}.nii").open("wb") as file:
        file.write(header.binaryblock)
        file.truncate(352 + size)
        if row["label_empty"] == "0":
            file.seek(352 + (size // 16) * 8)
            file.write(np.float64(1).tobytes() if odd else b"\1")


def convert_stand_ins(realdata: Path, rows: list[dict[str, str]], folder: Path):
    """A tree of stand-ins with splits by patient and the real fingerprint."""
    every = real_cases(realdata)
    (folder / "labelsTr").mkdir(parents=True)
    for row in rows:
        write_stand_in(folder / "labelsTr", row)
    patients = sorted({row["patient"] for row in every})
    fold = {patient: n % 5 for n, patient in enumerate(patients)}
    splits: list[dict[str, list[str]]] = [{"train": [], "val": []} for _ in range(5)]
    for row in every:
        for n, split in enumerate(splits):
            split["val" if fold[row["patient"]] == n else "train"].append(row["case_id"])
    (folder / "splits_final.json").write_text(json.dumps(splits))
    shutil.copy(realdata / "autopet/dataset_fingerprint.json", folder / "dataset_fingerprint.json")
    (folder / "dataset_fingerprint.json").chmod(0o644)
    times = str(realdata / "autopet/pet_time_since_injection.json")
    cases, rejected, _ = brought_in(folder, labels_only=True, injection_times=times)
    assert rejected == []
    return cases, fold


def assert_equals_truth(case: dict, row: dict[str, str], fold: dict[str, int]) -> None:
    assert case["tracer_class"] == row["tracer"]
    assert case["patient_key"].partition("_")[2] == row["patient"]
    assert case["study_date"].isoformat() == row["date_iso"]
    assert (case["study_description"] or "") == row["study_description"]
    assert case["shape_xyz"] == [int(row[f"n{a}"]) for a in "xyz"]
    assert case["spacing_xyz_mm"] == pytest.approx([float(row[f"d{a}"]) for a in "xyz"], rel=1e-6)
    assert case["axcodes_in"] == row["axcodes"]
    assert case["lesion_present"] == (row["label_empty"] == "0")
    assert (case["uptake_time_s"] or 0) == float(row["lmu_time_since_injection_s"] or 0)
    assert case["official_fold"] == fold[row["patient"]]
    odd = ["AXES_NOT_LAS", "LABEL_FLOAT", "QFORM_ONLY"] if row["axcodes"] == "LPS" else []
    assert case["quality_flags"] == odd


@pytest.mark.real
def test_convert__equals_the_truth_table_on_60_real_names(realdata, tmp_path):
    rows = stratified(real_cases(realdata), 60)
    assert Counter(row["axcodes"] for row in rows)["LPS"] == 4
    assert {row["nx"] for row in rows} == {"168", "200", "256", "400"}
    cases, fold = convert_stand_ins(realdata, rows, tmp_path / "tree")
    assert len(cases) == len(rows) == 60
    for row in rows:
        assert_equals_truth(cases[row["case_id"]], row, fold)


@pytest.mark.real
@pytest.mark.slow
def test_convert__equals_the_truth_table_on_all_1611_names(realdata, tmp_path):
    rows = real_cases(realdata)
    cases, fold = convert_stand_ins(realdata, rows, tmp_path / "tree")
    assert len(cases) == 1611
    for row in rows:
        assert_equals_truth(cases[row["case_id"]], row, fold)
    patients = {case["patient_key"]: set() for case in cases.values()}
    for case in cases.values():
        patients[case["patient_key"]].add(case["official_fold"])
    assert Counter(key.partition("_")[0] for key in patients) == {"PETCT": 900, "PSMA": 378}
    assert all(len(folds) == 1 for folds in patients.values())
    assert len({case["study_key"] for case in cases.values()}) == 1611

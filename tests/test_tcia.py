"""TCIA's DICOM collections into the catalog: studies that the phantom wrote, layouts, spoiled files."""

import copy
import json
import random
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from clicksim.audit import check_catalog
from clicksim.audit.discrepancy import compare_masks, lay_over
from clicksim.catalog import Catalog, open_catalog
from clicksim.catalog.schema import FLAGS, REASONS, rows_to_table
from clicksim.catalog.source import Context
from clicksim.errors import CatalogError, SettingError
from clicksim.files import LEAST_PACKED
from clicksim.geometry import Grid
from clicksim.phantom import Phantom, make_phantom
from clicksim.phantom.dicom import SCANNERS, StudyFacts, WrittenStudy, write_study
from clicksim.phantom.layout_tcia import write_tcia
from clicksim.phantom.phantom_trees import to_lps
from clicksim.pipeline import Crew, check
from clicksim.pipeline import convert as convert_into
from clicksim.volumes import Volume, read_image
from converters.dicom.segmentation import read_seg
from converters.dicom.series import find_series
from converters.dicom.slices import slice_geometry
from converters.shared.registration import bring_onto
from converters.shared.resample import coverage_fraction, is_parallel, resample_planes
from converters.tcia.series_choice import choose_series
from converters.tcia.tcia_plan import files_of, plan
from converters.tcia.tcia_source import FDG, PSMA, clean_description, code_of, fdat_name, has_contrast, reconstruction
from tests.dicom_writer import rtstruct_dataset, save

PATIENT = "PETCT_0123456789"


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(3, shape=(32, 28, 40), spacing=(14.0, 14.0, 15.0), n_lesions=3)


def small_phantom(seed: int = 0) -> Phantom:
    """Eight slices of anything: what counts is the path through the converter."""
    rng = np.random.default_rng(seed)
    shape = (12, 10, 8)
    label = np.zeros(shape, np.uint8, order="F")
    label[3:6, 4:7, 2:4] = 1
    label[9, 2, 6] = 1
    affine = np.diag([-4.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = (22.0, -18.0, -7.5)
    return Phantom(
        "fdg_small",
        "fdg",
        Grid(shape, affine=affine),
        np.asfortranarray(rng.integers(-1000, 1500, shape).astype(np.int16)),
        np.asfortranarray(rng.random(shape, dtype=np.float32) * 9),
        label,
        label,
        2,
    )


def convert(source: Any, folder: Path, catalog: Path, **options: str) -> Catalog:
    convert_into(source, folder, catalog, options=options)
    return open_catalog(catalog)


def only(catalog: Catalog) -> dict[str, Any]:
    assert catalog.rejected.to_pylist() == []
    (row,) = catalog.cases.to_pylist()
    assert set(row["quality_flags"]) <= FLAGS.keys()
    return dict(row)


def images(catalog: Catalog, row: dict[str, Any]) -> dict[str, Volume]:
    return {name: read_image(catalog.resolve(row[f"{name}_path"])) for name in ("pet", "ct", "label")}


def refused(catalog: Catalog) -> list[str]:
    assert catalog.cases.num_rows == 0
    codes = [row["code"] for row in catalog.rejected.to_pylist()]
    assert set(codes) <= REASONS.keys()
    return codes


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


# ---------------------------------------------------------------- what the phantom writes


@pytest.mark.parametrize("vendor", SCANNERS)
@pytest.mark.parametrize("seg", ["sparse", "dcmqi"])
def test_convert__gives_back_the_phantoms_suv_hu_and_mask(
    tmp_path: Path, phantom: Phantom, vendor: str, seg: str
) -> None:
    written = write_study(tmp_path / "tree", phantom, StudyFacts(PATIENT, vendor=vendor, seg=seg))
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog")
    row = only(catalog)
    got = images(catalog, row)
    pet, grid = to_lps(phantom.pet, phantom.grid)
    assert all(volume.grid.same_as(grid) for volume in got.values())
    assert [got[name].array.dtype for name in got] == [np.float32, np.int16, np.uint8]
    # half a stored step, and the rounding of a factor of nine digits and of float32
    assert np.all(np.abs(got["pet"].array - pet) <= written.suv_steps / 2 + 1e-6 * np.abs(pet))
    np.testing.assert_array_equal(got["ct"].array, to_lps(phantom.ct, phantom.grid)[0])
    np.testing.assert_array_equal(got["label"].array, to_lps(phantom.label, phantom.grid)[0])
    assert row["quality_flags"] == []
    assert row["suv_warnings"] == []
    assert row["suv_factor"] == pytest.approx(written.suv_factor, rel=1e-8)
    assert row["n_lesions"] == phantom.n_lesions
    assert check(catalog.path, read_data=True) == []


@pytest.mark.parametrize("seg", ["sparse", "dcmqi"])
def test_write_study__is_read_the_same_by_simpleitk_and_highdicom(tmp_path: Path, phantom: Phantom, seg: str) -> None:
    import highdicom

    written = write_study(tmp_path, phantom, StudyFacts(PATIENT, seg=seg))
    reader = SimpleITK.ImageSeriesReader()
    for kind, truth, step in (("PT", phantom.pet, written.suv_steps), ("CT", phantom.ct, None)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(written.folders[kind])))
        array = SimpleITK.GetArrayFromImage(reader.Execute()).T
        expected, _ = to_lps(truth, phantom.grid)
        if step is None:
            np.testing.assert_array_equal(array[::2, ::2, 2:], expected)
        else:
            assert np.all(np.abs(array * written.suv_factor - expected) <= step / 2 + 1e-5 * expected)
    (path,) = written.folders["SEG"].iterdir()
    loaded: Any = highdicom.seg.segread(path)
    pet = [pydicom.dcmread(p, stop_before_pixels=True) for p in written.folders["PT"].iterdir()]
    pet.sort(key=lambda d: float(d.ImagePositionPatient[2]))
    planes = loaded.get_pixels_by_source_instance(
        [d.SOPInstanceUID for d in pet],
        ignore_spatial_locations=seg == "dcmqi",
        assert_missing_frames_are_empty=True,
    )
    mask, _ = to_lps(phantom.label, phantom.grid)
    np.testing.assert_array_equal(planes[..., 0].transpose(2, 1, 0), mask)
    frames = int(loaded.NumberOfFrames)
    assert frames == (phantom.grid.shape[2] if seg == "dcmqi" else np.count_nonzero(mask.any(axis=(0, 1))))


def test_write_study__of_no_lesion_has_all_frames_empty(tmp_path: Path) -> None:
    made = make_phantom(4, shape=(24, 20, 30), spacing=(18.0, 18.0, 20.0), n_lesions=0)
    written = write_study(tmp_path / "tree", made, StudyFacts("PSMA_0123456789abcdef"))
    (path,) = written.folders["SEG"].iterdir()
    assert "No tumor lesions" in path.parent.name
    assert int(pydicom.dcmread(path).NumberOfFrames) == 30
    row = only(convert(PSMA, tmp_path / "tree", tmp_path / "catalog"))
    assert (row["lesion_present"], row["n_lesions"], row["n_frames_seg"]) == (False, 0, 30)


def test_write_study__gives_the_same_bytes_again_and_refuses_unknown_words(tmp_path: Path) -> None:
    def digest(name: str) -> list[bytes]:
        write_study(tmp_path / name, small_phantom(), StudyFacts(PATIENT))
        return [p.read_bytes() for p in sorted((tmp_path / name).rglob("*.dcm"))]

    assert digest("a") == digest("b")
    with pytest.raises(SettingError, match="did you mean 'siemens'"):
        write_study(tmp_path, small_phantom(), StudyFacts(PATIENT, vendor="siemans"))
    with pytest.raises(SettingError, match="unknown layout"):
        write_study(tmp_path, small_phantom(), StudyFacts(PATIENT), layout="flat")


# ---------------------------------------------------------------- trees


@pytest.mark.parametrize(("collection", "source"), [("fdg", FDG), ("psma", PSMA)])
def test_convert__takes_every_study_and_names_what_is_broken(tmp_path: Path, collection: str, source: Any) -> None:
    tree = write_tcia(tmp_path / "tree", collection=collection, patients=3, spoil=True)
    catalog = convert(source, tmp_path / "tree", tmp_path / "catalog")
    assert sorted(catalog.cases["case_id"].to_pylist()) == sorted(tree.cases)
    assert {row["path"]: row["code"] for row in catalog.rejected.to_pylist()} == tree.spoiled
    assert not any(str(tmp_path) in row["message"] for row in catalog.rejected.to_pylist())
    assert not any(row["code"] in row["message"] for row in catalog.rejected.to_pylist()), "the code has its column"
    assert sorted(catalog.cases["lesion_present"].to_pylist()) == [False, True, True, True]
    assert check_catalog(catalog) == []


def test_convert__gives_equal_rows_for_every_layout_and_worker_count(tmp_path: Path) -> None:
    rows = []
    for layout, workers in (("descriptive", 0), ("classic", 2), ("uids", 0)):
        write_tcia(tmp_path / layout, collection="psma", patients=2, layout=layout, shape=(24, 20, 30),
                   spacing=(18.0, 18.0, 20.0))  # fmt: skip
        convert_into(PSMA, tmp_path / layout, tmp_path / f"{layout}.catalog", crew=Crew(workers))
        # which file comes first by name is the one thing that the layout decides
        cases = open_catalog(tmp_path / f"{layout}.catalog").cases.to_pylist()
        rows.append([{k: v for k, v in row.items() if k != "pet_first_file_s"} for row in cases])
    assert len(rows[0]) == 3
    assert rows[0] == rows[1] == rows[2]


def context(folder: Path, name: str = "tcia_fdg", **options: str) -> Context:
    return Context(folder.resolve(), folder / "catalog", name, options)


def test_plan__opens_no_file_where_a_folder_names_the_patient(tmp_path: Path) -> None:
    folder = tmp_path / "manifest-1" / "FDG-PET-CT-Lesions" / PATIENT / "03-23-2003-NA-x  y. z-12345" / "7.0-PET-1"
    folder.mkdir(parents=True)
    (folder / "1-001.dcm").write_bytes(b"nothing that could be read")
    (folder / ".DS_Store").write_bytes(b"")
    (tmp_path / "manifest-1" / "LICENSE").write_text("text")
    units, found = plan(context(tmp_path))
    assert [unit.key for unit in units] == [PATIENT]
    assert units[0].content.folders == (folder.relative_to(tmp_path).as_posix(),)
    assert [p.name for p in files_of(tmp_path, units[0].content)] == ["1-001.dcm"]
    assert found.rejected == []


def test_plan__reads_one_header_of_a_series_folder_and_every_one_elsewhere(tmp_path: Path) -> None:
    first = write_study(tmp_path / "uids", small_phantom(), StudyFacts(PATIENT), layout="uids")
    write_study(tmp_path / "uids", small_phantom(), StudyFacts("PETCT_fedcba9876"), layout="uids")
    flat = tmp_path / "flat" / "all"
    flat.mkdir(parents=True)
    for path in (tmp_path / "uids").rglob("*.dcm"):
        (flat / path.name).write_bytes(path.read_bytes())
    units, _ = plan(context(tmp_path / "uids"))
    assert [(u.key, len(u.content.folders), u.content.files) for u in units] == [
        (PATIENT, 3, ()),
        ("PETCT_fedcba9876", 3, ()),
    ]
    units, _ = plan(context(tmp_path / "flat"))
    assert [(u.key, u.content.folders, len(u.content.files)) for u in units] == [
        (PATIENT, (), 8 + 10 + 1),
        ("PETCT_fedcba9876", (), 8 + 10 + 1),
    ]
    catalog = convert(FDG, tmp_path / "flat", tmp_path / "catalog")
    assert catalog.cases.num_rows == 2
    assert first.study_uid in catalog.cases["case_id"][0].as_py()


def test_plan__names_each_file_that_it_leaves_out_once(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT), layout="uids")
    (written.folders["PT"] / "0.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)  # the first by name
    (tmp_path / "tree" / "loose.dcm").write_bytes(b"<html>Please log in.</html>")
    (tmp_path / "tree" / "away").symlink_to(tmp_path)
    (tmp_path / "tree" / "inside").symlink_to(written.folders["CT"])
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog")
    assert catalog.cases.num_rows == 1
    damaged = (written.folders["PT"] / "0.dcm").relative_to(tmp_path / "tree").as_posix()
    assert {(r["path"], r["code"], r["patient_key"]) for r in catalog.rejected.to_pylist()} == {
        (damaged, "UnreadableDicom", PATIENT),
        ("loose.dcm", "UnreadableDicom", None),
        ("away", "PathLeavesRoot", None),
    }
    assert catalog.rejected.num_rows == 3


def test_least_bytes__counts_the_slices_of_the_pet_alone(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    all_in_one = tmp_path / "flat" / PATIENT
    all_in_one.mkdir(parents=True)
    (all_in_one / ".DS_Store").write_bytes(b"")
    for modality, folder in written.folders.items():
        for path in folder.iterdir():
            (all_in_one / f"{'a' if modality == 'PT' else 'b'}-{modality}-{path.name}").write_bytes(path.read_bytes())
    for root in (tmp_path / "tree", tmp_path / "flat"):
        (unit,) = plan(context(root))[0]
        assert FDG.least_bytes is not None
        assert FDG.least_bytes(context(root), unit) == pytest.approx(12 * 10 * 8 * 6 * LEAST_PACKED)


def test_plan__refuses_an_empty_tree_a_file_and_odd_options(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="contains no DICOM file"):
        plan(context(tmp_path))
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(CatalogError, match="unpack"):
        plan(context(tmp_path / "x.zip"))
    for options in ({"gaps": "maybe"}, {"defaced": "2"}, {"then": "last"}, {"pet": "("}, {"clinic": "x"}):
        with pytest.raises(SettingError):
            plan(context(tmp_path, **options))
    write_study(tmp_path, small_phantom(), StudyFacts(PATIENT))
    with pytest.raises(SettingError, match=r"clinical cannot be read: No such file or directory \(.*none\.csv\)"):
        plan(context(tmp_path, clinical=str(tmp_path / "none.csv")))
    for row, words in (("", "no rows"), (f"{PATIENT},23.03.2003\n", "none of them with a Subject ID and a date")):
        (tmp_path / "c.csv").write_text(f"Subject ID,Study Date\n{row}")
        with pytest.raises(SettingError, match=words):
            plan(context(tmp_path, clinical=str(tmp_path / "c.csv")))


def test_plan__records_a_file_without_patient(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT), layout="uids")
    loose = tmp_path / "tree" / "loose"
    loose.mkdir()
    dataset = pydicom.dcmread(next(written.folders["PT"].iterdir()))
    dataset.PatientID = ""
    dataset.save_as(loose / "a.dcm")
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog")
    assert [(r["code"], r["path"]) for r in catalog.rejected.to_pylist()] == [("MissingPatientId", "loose/a.dcm")]
    assert catalog.cases.num_rows == 1


def test_convert__refuses_files_of_another_patient_and_the_other_collection(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    edit(written.folders["SEG"], lambda d: setattr(d, "PatientID", "PETCT_aaaaaaaaaa"))
    assert refused(convert(FDG, tmp_path / "tree", tmp_path / "a")) == ["PatientMismatch"]
    write_study(tmp_path / "psma", small_phantom(), StudyFacts("PSMA_0123456789abcdef"))
    assert refused(convert(FDG, tmp_path / "psma", tmp_path / "b")) == ["OtherCollection"]


# ---------------------------------------------------------------- rows


def test_convert__columns_of_an_fdg_study(tmp_path: Path) -> None:
    made = make_phantom(3, shape=(16, 14, 60), spacing=(28.0, 28.0, 15.0), n_lesions=1)
    write_study(tmp_path / "tree", made, StudyFacts(PATIENT, date(2003, 3, 23), seg="dcmqi"))
    row = only(convert(FDG, tmp_path / "tree", tmp_path / "catalog", defaced="true"))
    expected = {
        "patient_key": PATIENT, "study_key": f"{PATIENT}_2003-03-23", "tracer_class": "FDG", "radionuclide": "F18",
        "study_date_raw": "20030323", "study_date": date(2003, 3, 23), "date_shifted": True, "sex": "M",
        "study_description": "PET-CT (Ganzkoerper  primaer mit KM)", "age_years": 60.0, "contrast_ct": True,
        "manufacturer": "SIEMENS", "model": "Biograph128_mCT", "patient_weight_kg": 68.0, "half_life_s": 6586.2,
        "injected_dose_bq": 3.27e8, "uptake_time_s": 3623.0, "pet_units_in": "BQML", "decay_correction": "START",
        "suv_ref_time_rule": "SERIES", "suv_adm_time_rule": "DATETIME", "pet_bed_starts_s": [0.0, 120.0, 240.0],
        "pet_first_file_s": 240.0, "pet_reconstruction": "PSF+TOF 2i21s", "pet_iterations": 2, "pet_subsets": 21,
        "pet_filter_mm": 2.0, "pet_slice_thickness_mm": 15.0, "ct_kvp": 120.0, "ct_kernel": "I31f\\3",
        "ct_slice_thickness_mm": 15.0, "ct_contrast_agent": "APPLIED", "axcodes_in": "LPS", "defaced": True,
        "licence": "CC-BY-4.0", "n_frames_seg": 60, "n_segments": 1, "ct_fill_value_hu": -1024, "z_gap_min_mm": 15.0,
        "ct_coverage_fraction": 1.0, "instances": "components", "timepoint": "single", "diagnosis": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["ct_exposure_mas"] in range(80, 85)
    assert row["fdat_case_id"].startswith("fdg_0123456789_03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-")
    assert any(text.startswith("weight: KG, PatientWeight, 68") for text in row["suv_rules"])
    assert row["suv_factor"] == pytest.approx(3.0447709e-4, rel=1e-6)


def test_convert__psma_dates_injection_table_and_nnunet(tmp_path: Path) -> None:
    patient = "PSMA_0123456789abcdef"
    write_study(
        tmp_path / "tree",
        small_phantom(),
        StudyFacts(patient, date(1998, 11, 19), "PETCT whole-body PSMA", "ge", "Ga68"),
    )
    name = "psma_0123456789abcdef_2015-12-27"  # 6,247 days later
    (tmp_path / "times.json").write_text(json.dumps({name: 4000.5, "psma_ffffffffffffffff_2016-01-01": 9.0}))
    options = {"injection_times": str(tmp_path / "times.json"), "nnunet": str(tmp_path / "nnunet")}
    catalog = convert(PSMA, tmp_path / "tree", tmp_path / "catalog", **options)
    row = only(catalog)
    assert (row["study_key"], row["fdat_case_id"]) == (f"{patient}_2015-12-27", name)
    assert (row["suv_adm_time_rule"], row["uptake_time_s"], row["radionuclide"]) == ("TABLE", 4000.5, "Ga68")
    assert (row["defaced"], row["licence"], row["diagnosis"]) == (True, "CC-BY-4.0", "PROSTATE")
    for role, file in (("ct", "imagesTr/{}_0000"), ("pet", "imagesTr/{}_0001"), ("label", "labelsTr/{}")):
        made = tmp_path / "nnunet" / f"{file.format(name)}.nii.gz"
        assert made.samefile(catalog.resolve(row[f"{role}_path"]))


def test_convert__flags_a_study_that_the_injection_times_do_not_name(tmp_path: Path) -> None:
    write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    write_study(tmp_path / "tree", small_phantom(), StudyFacts("PETCT_fedcba9876"))
    times = tmp_path / "times.json"
    times.write_text(json.dumps({f"{PATIENT}_2003-03-23": 3600.0}))
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog", injection_times=str(times))
    flags = {row["patient_key"]: row["quality_flags"] for row in catalog.cases.to_pylist()}
    assert flags == {PATIENT: [], "PETCT_fedcba9876": ["INJECTION_TIME_NOT_GIVEN"]}
    times.write_text(json.dumps({"psma_ffffffffffffffff_2016-01-01": 9.0}))
    with pytest.raises(SettingError, match="names no case of the source: it names psma_ffffffffffffffff_2016-01-01"):
        convert(FDG, tmp_path / "tree", tmp_path / "catalog", injection_times=str(times))


def test_convert__takes_the_clinical_table_and_notices_contradictions(tmp_path: Path) -> None:
    write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    write_study(tmp_path / "tree", small_phantom(), StudyFacts("PETCT_fedcba9876"))
    place = f"./FDG-PET-CT-Lesions/{PATIENT}/03-23-2003-NA-x-12345/1.0-CT-1"
    lines = ["Subject ID,File Location,diagnosis,age,sex", *[f"{PATIENT},{place},NEGATIVE,061Y,F"] * 3]
    (tmp_path / "c.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog", clinical=str(tmp_path / "c.csv"))
    rows = {row["patient_key"]: row for row in catalog.cases.to_pylist()}
    assert [rows[PATIENT][c] for c in ("diagnosis", "age_years", "sex")] == ["NEGATIVE", 61.0, "F"]
    assert rows[PATIENT]["quality_flags"] == ["LESION_BUT_NEGATIVE"]
    assert rows["PETCT_fedcba9876"]["quality_flags"] == ["METADATA_MISSING"]


@pytest.mark.parametrize(
    ("method", "kernel", "found"),
    [
        ("PSF+TOF 2i21s", "XYZ Gauss2.00", (2, 21, 2.0)),
        ("OSEM3D 4i8s", "XYZGAUSSIAN5.00", (4, 8, 5.0)),
        ("VPFX", "", (None, None, None)),
        ("OSEM 999i8s", "Gauss.", (None, 8, None)),
    ],
)
def test_reconstruction__reads_what_scanners_write(method: str, kernel: str, found: Any) -> None:
    header = pydicom.Dataset()
    header.ReconstructionMethod, header.ConvolutionKernel = method, kernel
    assert reconstruction(header) == found


def test_names__of_folders_and_cases_follow_the_publishers() -> None:
    assert clean_description("PET-CT (Ganzkoerper  primaer mit KM)") == "PET-CT Ganzkoerper  primaer mit KM"
    assert clean_description("PET-CT Ganzkoerper nativ u. mit KM") == "PET-CT Ganzkoerper nativ u. mit KM"
    header = pydicom.Dataset()
    header.StudyDate, header.StudyDescription = "20030323", "PET-CT (Ganzkoerper  primaer mit KM)"
    assert fdat_name("PETCT_0011f3deaf", "1.2.310445", header, "FDG") == (
        "fdg_0011f3deaf_03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"
    )
    assert fdat_name("STS_001", "1.2.3", header, "FDG") is None
    header.StudyDate = "99991231"
    assert fdat_name("PSMA_0123456789abcdef", "1.2.3", header, "PSMA") is None
    assert [has_contrast(*words) for words in (("", "nativ"), ("", "nativ u. mit KM"), ("NONE", ""), ("", ""))] == [
        False, True, False, None,
    ]  # fmt: skip


def test_convert__reads_the_variant_off_the_site_and_doubts_the_times_of_psma(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    row = only(convert(FDG, tmp_path / "tree", tmp_path / "a"))
    assert (row["defaced"], row["licence"]) == (None, "controlled access (NIH)")

    def name_site(dataset: Any) -> None:
        dataset.private_block(0x0013, "CTP", create=True).add_new(0x12, "LO", "TUEBINGEN-Defaced")

    edit(written.folders["PT"], name_site)
    row = only(convert(FDG, tmp_path / "tree", tmp_path / "b"))
    assert (row["defaced"], row["licence"], row["quality_flags"]) == (True, "CC-BY-4.0", [])
    write_study(tmp_path / "psma", small_phantom(), StudyFacts("PSMA_0123456789abcdef", nuclide="Ga68"))
    row = only(convert(PSMA, tmp_path / "psma", tmp_path / "c"))
    assert row["quality_flags"] == ["INJECTION_TIME_UNSURE"]


# ---------------------------------------------------------------- choices and images


def test_convert__ct_shorter_than_the_pet_is_filled_and_flagged(tmp_path: Path) -> None:
    made = small_phantom()
    write_study(tmp_path / "tree", made, StudyFacts(PATIENT, ct_short=3))
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog")
    row = only(catalog)
    ct = images(catalog, row)["ct"].array
    assert row["ct_coverage_fraction"] == pytest.approx(5 / 8)
    assert row["quality_flags"] == ["CT_COVERAGE_LOW"]
    assert np.all(ct[..., 5:] == -1024)
    np.testing.assert_array_equal(ct[..., :5], to_lps(made.ct, made.grid)[0][..., :5])


def test_convert__several_reconstructions_follow_the_mask_and_tell_so(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    other = written.folders["PT"].with_name("8.000000-other")
    other.mkdir()
    for path in written.folders["PT"].iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = f"{dataset.SeriesInstanceUID[:-2]}.9"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:-2]}.9"
        dataset.SeriesDescription = "other"
        dataset.save_as(other / path.name)
    row = only(convert(FDG, tmp_path / "tree", tmp_path / "a"))
    assert row["pt_series_uid"] == written.series_uids["PT"]
    assert row["quality_flags"] == ["SERIES_CHOSEN"]
    assert any("the mask references it" in text for text in row["series_choice"])


def test_convert__zero_uptake_negative_uptake_and_padding_are_flagged(tmp_path: Path) -> None:
    made = small_phantom()
    made.pet[3:6, 4:7, 2:4] = 0
    made.pet[0, 0, 0] = -1
    written = write_study(tmp_path / "tree", made, StudyFacts(PATIENT, vendor="ge"))

    def pad(dataset: Any) -> None:
        stored = np.frombuffer(dataset.PixelData, "<u2").copy()
        stored[0] = 0
        dataset.RescaleIntercept = -2000
        dataset.PixelData = stored.tobytes()

    edit(written.folders["CT"], pad)
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog")
    row = only(catalog)
    assert row["quality_flags"] == ["CT_CLIPPED", "LESION_IN_DEFACED", "NEGATIVE_UPTAKE"]
    assert images(catalog, row)["ct"].array.min() == -1024


def add_segment(dataset: Any, *, label: str = "Tissue", is_used: bool = True) -> None:
    """A second segment, which takes the lesion of one voxel from the first."""
    second = copy.deepcopy(dataset.SegmentSequence[0])
    second.SegmentNumber, second.SegmentLabel = 2, label
    dataset.SegmentSequence.append(second)
    shared, frames = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence
    for frame in frames:
        frame.SegmentIdentificationSequence = copy.deepcopy(shared.SegmentIdentificationSequence)
    del shared.SegmentIdentificationSequence
    if is_used:  # the first frame is the highest slice
        frames[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


@pytest.mark.parametrize("is_used", [True, False])
def test_convert__segments_with_voxels_are_instances_and_an_empty_one_is_none(tmp_path: Path, is_used: bool) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    edit(written.folders["SEG"], partial(add_segment, is_used=is_used))
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "catalog", nnunet=str(tmp_path / "nnunet"))
    row = only(catalog)
    assert (row["n_segments"], row["n_lesions"]) == (2, 2)
    assert row["instances"] == ("labels" if is_used else "components")
    assert row["quality_flags"] == (["SEVERAL_SEGMENTS"] if is_used else [])
    label, (mask,) = images(catalog, row)["label"].array, (tmp_path / "nnunet/labelsTr").iterdir()
    assert np.unique(label).tolist() == ([0, 1, 2] if is_used else [0, 1])
    assert np.count_nonzero(label == 2) == is_used
    np.testing.assert_array_equal(read_image(mask).array, label > 0)


def with_structures(folder: Path) -> None:
    """A study whose mask is an RTSTRUCT: a lesion inside an organ of a lower number."""
    written = write_study(folder, small_phantom(), StudyFacts(PATIENT))
    (seg,) = written.folders["SEG"].iterdir()
    pet = pydicom.dcmread(next(written.folders["PT"].iterdir()))
    squares = [[(x * a, y * a, 7.5) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))] for a in (15.0, 7.0)]
    contours = rtstruct_dataset(list(zip((1, 2), np.array(squares), strict=True)), names=("Liver", "GTV 1"))
    for item in contours.StructureSetROISequence:
        item.ReferencedFrameOfReferenceUID = pet.FrameOfReferenceUID
    contours.StudyInstanceUID, contours.PatientID = pet.StudyInstanceUID, PATIENT
    seg.unlink()
    save(contours, seg)


def test_convert__the_option_structures_tells_lesions_from_organs(tmp_path: Path) -> None:
    with_structures(tmp_path / "tree")
    every = convert(FDG, tmp_path / "tree", tmp_path / "a")
    organ = images(every, only(every))["label"].array > 0
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "b", structures="^gtv")
    row = only(catalog)
    lesion = images(catalog, row)["label"].array > 0
    assert 0 < lesion.sum() < organ.sum()
    assert not np.any(lesion & ~organ)
    assert (row["n_segments"], row["n_lesions"], row["instances"]) == (1, 1, "components")
    assert "STRUCTURES_CHOSEN" in row["quality_flags"]
    assert row["series_choice"][-1] == "structures 'GTV 1' used, 'Liver' left out"
    assert refused(convert(FDG, tmp_path / "tree", tmp_path / "c", structures="lung")) == ["NoSuchStructure"]
    with pytest.raises(SettingError, match="structures is not a regular expression"):
        convert(FDG, tmp_path / "tree", tmp_path / "d", structures="(")


def test_convert__the_option_structures_takes_segments_by_their_labels(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))

    before = convert(FDG, tmp_path / "tree", tmp_path / "a")
    whole = images(before, only(before))["label"].array
    edit(written.folders["SEG"], partial(add_segment, label="Liver"))
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "b", structures="^(?!liver)")
    row = only(catalog)
    label = images(catalog, row)["label"].array
    assert (row["n_segments"], row["n_lesions"], row["quality_flags"]) == (1, 1, ["STRUCTURES_CHOSEN"])
    assert np.count_nonzero(whole) - np.count_nonzero(label) == 1
    assert not np.any(label[whole == 0])


def test_convert__flags_a_pattern_that_the_chosen_series_does_not_match(tmp_path: Path) -> None:
    write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    row = only(convert(FDG, tmp_path / "tree", tmp_path / "catalog", pet="no such words", ct="."))
    assert row["quality_flags"] == ["SERIES_RULE_UNMATCHED"]
    assert "the option pet, 'no such words', matches none of the descriptions left" in row["series_choice"]


def test_convert__a_description_that_contradicts_the_mask_is_flagged(tmp_path: Path) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    for words, flags in (("No tumor lesions", ["SEG_DESCRIPTION_CONTRADICTS"]), ("Tumor lesions", [])):
        description = f"Segmentation - {words} detected"
        edit(written.folders["SEG"], lambda d, text=description: setattr(d, "SeriesDescription", text))
        assert only(convert(FDG, tmp_path / "tree", tmp_path / words))["quality_flags"] == flags


@pytest.mark.parametrize(
    ("modality", "change", "code"),
    [
        ("PT", {"Units": "CPS"}, "UnitsNotConvertible"),
        ("PT", {"RadiopharmaceuticalInformationSequence": []}, "MissingRadiopharmaceutical"),
        ("PT", {"RescaleIntercept": 5}, "NonZeroIntercept"),
        ("PT", {"DecayCorrection": ""}, "DecayCorrectionMissing"),
        ("PT", {"SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 4}, "NoUsablePet"),
        ("PT", {"PixelSpacing": []}, "MissingGeometry"),
        ("CT", {"FrameOfReferenceUID": "1.2.3"}, "NoUsableCt"),
        ("CT", {"SamplesPerPixel": 3}, "TruncatedPixels"),
        ("SEG", {"SegmentationType": "OTHER"}, "SegInconsistent"),
        ("SEG", {"Modality": "OT"}, "NoUsableSeg"),
    ],
)
def test_convert__refuses_by_name(tmp_path: Path, modality: str, change: dict[str, Any], code: str) -> None:
    written = write_study(tmp_path / "tree", small_phantom(), StudyFacts(PATIENT))
    edit(written.folders[modality], lambda d: [setattr(d, k, v) for k, v in change.items()] and None)
    assert refused(convert(FDG, tmp_path / "tree", tmp_path / "catalog")) == [code]
    assert not list((tmp_path / "catalog").glob("images/*/*/*.nii.gz"))


def test_convert__interpolates_a_missing_slice_on_request(tmp_path: Path) -> None:
    made = small_phantom()
    written = write_study(tmp_path / "tree", made, StudyFacts(PATIENT))
    (path,) = (p for p in written.folders["PT"].iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 17.5)
    path.unlink()  # the sixth slice, which has no lesion
    assert refused(convert(FDG, tmp_path / "tree", tmp_path / "a")) == ["IncompleteSeries"]
    catalog = convert(FDG, tmp_path / "tree", tmp_path / "b", gaps="interpolate")
    row = only(catalog)
    got = images(catalog, row)
    pet, _ = to_lps(made.pet, made.grid)
    np.testing.assert_allclose(got["pet"].array[..., 5], (pet[..., 4] + pet[..., 6]) / 2, atol=2e-3)
    np.testing.assert_array_equal(got["label"].array[..., :5], to_lps(made.label, made.grid)[0][..., :5])
    assert row["quality_flags"] == ["FEWER_SLICES_THAN_PROMISED", "GAPS_INTERPOLATED"]


def test_resample_planes__equals_simpleitk_on_every_parallel_grid() -> None:
    rng = np.random.default_rng(5)
    for trial in range(20):
        shape, target = rng.integers(3, 12, (2, 3)).tolist()
        array = np.asfortranarray(rng.integers(-1024, 3000, shape).astype(np.int16))
        signs = rng.choice([-1.0, 1.0], (2, 3))
        grids = []
        for size, sign in zip((shape, target), signs, strict=True):
            affine = np.diag([*(rng.uniform(0.5, 3, 3) * sign), 1.0])
            affine[:3, 3] = -sign * rng.uniform(0, 4, 3)
            grids.append(Grid(tuple(size), affine=affine))
        assert is_parallel(*grids)
        got = resample_planes(lambda k, a=array: a[:, :, k].T, *grids, fill=-1024, limits=(-1024, 3071))
        moved = bring_onto(Volume(array, grids[0]), grids[1], fill=-1024)
        assert np.abs(got.array - moved).max() <= 0.5 + 1e-2, trial
        assert got.coverage == coverage_fraction(*grids)


def test_resample_planes__asks_for_each_plane_once_and_clips_before() -> None:
    asked: list[int] = []
    array = np.full((4, 4, 9), -3000, np.int16)
    array[1:3] = 40

    def plane(k: int) -> Any:
        asked.append(k)
        return array[:, :, k].T

    source, target = Grid((4, 4, 9), affine=np.eye(4)), Grid((8, 8, 12), affine=np.diag([0.5, 0.5, -0.7, 1.0]))
    shifted = Grid(target.shape, affine=target.affine + np.array([[0.0] * 4, [0.0] * 4, [0, 0, 0, 8.0], [0.0] * 4]))
    got = resample_planes(plane, source, shifted, fill=-1024, limits=(-1024, 3071))
    assert got.clipped
    assert sorted(set(asked)) == sorted(asked)
    assert got.array[1, 0, 0] == -492  # halfway from -1024, not from -3000


def test_is_parallel__says_no_to_an_oblique_grid() -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.9998, -0.02], [0.02, 0.9998]]
    assert not is_parallel(Grid((9, 9, 9), affine=np.eye(4)), Grid((9, 9, 9), affine=turned))


# ---------------------------------------------------------------- spoiled files


@pytest.fixture
def base(tmp_path: Path) -> tuple[Path, WrittenStudy]:
    folder = tmp_path / "tree"
    return folder, write_study(folder, small_phantom(), StudyFacts(PATIENT))


POOL = [b"\x00", b"\xff", b"9", b"-", b"\\", b"N", b".", b"e", b" ", b"\x7f\x80", b"nan", b"1e9", b"-0.0", b"'"]


def spoil(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file cut off, with other bytes in its header, or without one of its elements."""
    kind = rng.choice(["cut", "bytes", "bytes", "element"])
    if kind == "cut":
        return kind, content[: rng.choice([0, rng.randrange(200), rng.randrange(len(content))])]
    if kind == "bytes":
        made = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(128, max(len(content) - 300, 200))
            patch = rng.choice(POOL) * rng.randint(1, 4)
            made[place : place + len(patch)] = patch
        return kind, bytes(made)
    start = content.find(rng.choice([b"DS", b"IS", b"UI", b"SQ", b"CS", b"DA", b"TM", b"US"]), rng.randrange(132, 2000))
    if start < 4:
        return "bytes", content[:-1] + b"\0"
    length = int.from_bytes(content[start + 2 : start + 4], "little")
    return kind, content[: start - 4] + content[start + 4 + length :]


def fuzz(folder: Path, catalog: Path, count: int, seed: int) -> dict[str, int]:
    """Spoil one file at a time; each outcome is rows with images, or named refusals, and never a silent change."""
    catalog.mkdir()
    ctx = Context(folder.resolve(), catalog.resolve(), "tcia_fdg", {})
    files = sorted(folder.rglob("*.dcm"))
    units, _ = plan(ctx)
    untouched = FDG.convert(ctx, units[0]).cases[0]
    before = {
        n: catalog.joinpath(untouched[f"{n}_path"].partition(":")[2]).read_bytes() for n in ("pet", "ct", "label")
    }
    rng, tally = random.Random(seed), {"row": 0, "refused": 0}
    for _ in range(count):
        path = rng.choice(files)
        original = path.read_bytes()
        kind, content = spoil(original, rng)
        path.write_bytes(content)
        outcome = FDG.convert(ctx, units[0])
        path.write_bytes(original)
        for name, rows in outcome.tables().items():
            rows_to_table(name, rows)
        assert outcome.cases or outcome.rejected
        assert {row["code"] for row in outcome.rejected} <= REASONS.keys()
        for row in outcome.cases:
            assert set(row["quality_flags"]) <= FLAGS.keys()
            after = {n: catalog.joinpath(row[f"{n}_path"].partition(":")[2]) for n in before}
            assert np.all(np.isfinite(read_image(after["pet"]).array))
            assert len(row["shape_xyz"]) == 3
            if kind == "cut" and not outcome.rejected:
                assert {n: p.read_bytes() for n, p in after.items()} == before, path
        tally["row" if outcome.cases else "refused"] += 1
    return tally


def test_convert__survives_500_spoiled_files(base: Any, tmp_path: Path) -> None:
    tally = fuzz(base[0], tmp_path / "catalog", 500, 1)
    assert tally["row"] > 50
    assert tally["refused"] > 100


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_convert__survives_10000_spoiled_files(base: Any, tmp_path: Path, seed: int) -> None:
    assert sum(fuzz(base[0], tmp_path / "catalog", 1000, 100 + seed).values()) == 1000


def test_convert__names_an_outer_ct_slice_cut_inside_its_uid(base: Any, tmp_path: Path) -> None:
    path = base[1].folders["CT"] / "1-001.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(base[1].series_uids["CT"].encode()) + 20])
    catalog = convert(FDG, base[0], tmp_path / "catalog")
    assert [row["code"] for row in catalog.rejected.to_pylist()] == ["UnreadableDicom"]
    assert catalog.cases["ct_coverage_fraction"].to_pylist() == [7 / 8]


def test_code_of__knows_every_kind_of_refusal() -> None:
    from clicksim.errors import ClicksimError, GeometryError, ImageError
    from converters.dicom.headers import DicomError
    from converters.suv import SuvError
    from converters.suv.suv_headers import CODES

    assert set(CODES) <= REASONS.keys()
    errors = [DicomError("GantryTilt", "x"), SuvError("MissingDose", "x"), GeometryError("x"), ImageError("x")]
    assert [code_of(e) for e in [*errors, ClicksimError("x")]] == [
        "GantryTilt", "MissingDose", "GridMismatch", "BadUptake", "UnreadableFile",
    ]  # fmt: skip


@pytest.mark.real
def test_convert__brings_in_a_real_study_with_structures(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "tcia" / "pet" / "sts_cropped"
    assert refused(convert(FDG, folder, tmp_path / "a")) == ["AmbiguousSeries"]
    catalog = convert(FDG, folder, tmp_path / "b", seg="PET_mask")
    row = only(catalog)
    assert (row["pet_units_in"], row["suv_factor"], row["ct_coverage_fraction"] < 0.98) == ("GML", 1.0, True)
    (path,) = folder.rglob("PET/nifti/mask/*.nii*")
    given, label = read_image(path), images(catalog, row)["label"]
    turned, part = lay_over(label.grid, given.grid, given.array)
    assert part.equal
    assert turned is not None
    found = compare_masks(label.array, turned)
    print(f"Dice of the filled contours and the given mask: {found.figures['dice']:.4f}")
    assert found.figures["dice"] > 0.99


def test_read_seg__frames_of_the_phantom_meet_the_slices_of_its_pet(tmp_path: Path, phantom: Phantom) -> None:
    write_study(tmp_path, phantom, StudyFacts(PATIENT))
    choice = choose_series(find_series(tmp_path))
    assert choice.pet is not None
    assert choice.seg is not None
    seg = read_seg(choice.seg.paths[0], slice_geometry(choice.pet))
    assert seg.warnings == ()
    np.testing.assert_array_equal(seg.mask, to_lps(phantom.label > 0, phantom.grid)[0])

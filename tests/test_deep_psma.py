"""DEEP-PSMA: small trees with the irregularities of the real one, and one spoiled file for each way to spoil it."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from clicksim.catalog import open_catalog
from clicksim.catalog.schema import FLAGS, REASONS
from clicksim.errors import CatalogError
from clicksim.geometry import Grid
from clicksim.pipeline import Crew, convert
from clicksim.volumes import read_image, write_image
from converters.deep_psma import deep_psma_source
from converters.deep_psma.deep_psma_source import SOURCE, organ_names, read_threshold
from converters.shared.registration import bring_onto
from converters.shared.tables import Rejection

sitk: Any = SimpleITK

PET_GRIDS = {
    "FDG": Grid((20, 18, 24), affine=np.array([[-4.0, 0, 0, 38], [0, -4.0, 0, 34], [0, 0, 3.0, -40], [0, 0, 0, 1]])),
    "PSMA": Grid((24, 20, 30), affine=np.array([[-3.5, 0, 0, 40], [0, -3.5, 0, 33], [0, 0, 2.5, -39], [0, 0, 0, 1]])),
}
CT_GRID = Grid((44, 40, 26), affine=np.array([[-2.1, 0, 0, 45], [0, -2.1, 0, 41], [0, 0, 3.3, -43], [0, 0, 0, 1]]))
TRANSFORM = sitk.Euler3DTransform((10.0, -20.0, 300.0), 0.05, -0.03, 0.08, (3.0, -4.0, 5.0))
THRESHOLDS = {"FDG": 2.3, "PSMA": 3.0}  # the float32 next to 2.3 lies below it
USUAL = ["CT_CLIPPED", "CT_RESAMPLED"]


def make_pet(tracer: str) -> tuple[np.ndarray, np.ndarray]:
    """Uptake and TTB: two lesions and one hot organ above the threshold, all else below it."""
    shape, threshold = PET_GRIDS[tracer].shape, THRESHOLDS[tracer]
    pet = np.random.default_rng(len(tracer)).uniform(0, 0.8 * threshold, shape).astype(np.float32)
    pet[3:6, 4:7, 5:9] = 9.0
    pet[12:14, 10:12, 15:18] = np.float32(threshold)  # exactly at it: still a candidate
    pet[9:12, 2:5, 12:15] = 12.0
    ttb = np.zeros(shape, np.int8)
    ttb[3:6, 4:7, 5:9] = 1
    ttb[12:14, 10:12, 15:18] = 1
    return pet, ttb


def make_ct() -> np.ndarray:
    ct = np.random.default_rng(8).integers(-1000, 1500, CT_GRID.shape).astype(np.int16)
    ct[:6] = -2352
    return ct


def make_organs() -> np.ndarray:
    i, j, k = np.indices(CT_GRID.shape)
    return (i // 8 + 6 * (j // 8) + 30 * (k // 8)).clip(0, 117).astype(np.uint8)


def write_tracer(folder: Path, tracer: str) -> None:
    folder.mkdir(parents=True)
    pet, ttb = make_pet(tracer)
    write_image(folder / "PET.nii.gz", pet, PET_GRIDS[tracer])
    write_image(folder / "TTB.nii.gz", ttb, PET_GRIDS[tracer])
    write_image(folder / "CT.nii.gz", make_ct(), CT_GRID)
    write_image(folder / "totseg_24.nii.gz", make_organs(), CT_GRID)
    (folder / "threshold.json").write_text(json.dumps({"suv_threshold": THRESHOLDS[tracer]}))
    sitk.WriteTransform(TRANSFORM if tracer == "FDG" else TRANSFORM.GetInverse(), str(folder / "rigid.tfm"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of two patients without a fault."""
    root: Path = tmp_path_factory.mktemp("deep_psma")
    for patient in ("train_0001", "train_0002"):
        for tracer in PET_GRIDS:
            write_tracer(root / "CHALLENGE_DATA" / patient / tracer, tracer)
    return root


@pytest.fixture
def tree(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(sound, tmp_path / "source"))


@pytest.fixture(scope="module")
def converted(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(sound, tmp_path_factory.mktemp("catalog"))


def run(source: Path, catalog: Path, **settings: Any) -> Any:
    convert(SOURCE, source, catalog, **settings)
    return open_catalog(catalog)


def one(tree: Path, tracer: str = "PSMA") -> Path:
    return tree / "CHALLENGE_DATA" / "train_0001" / tracer


def rewrite(file: Path, change: Any) -> None:
    """Put `change(array)` in the place of an image's array."""
    volume = read_image(file)
    write_image(file, change(volume.array.copy()), volume.grid)


def put(array: np.ndarray, value: float, index: Any = (0, 0, 0)) -> np.ndarray:
    array[index] = value
    return array


# what a sound tree becomes


def test_convert__both_tracers_of_each_patient_are_cases_that_name_each_other(converted: Any) -> None:
    pairs = {row["case_id"]: row["paired_case_id"] for row in converted.cases.to_pylist()}
    assert pairs == {
        f"train_000{n}/{tracer}": f"train_000{n}/{other}"
        for n in (1, 2)
        for tracer, other in (("FDG", "PSMA"), ("PSMA", "FDG"))
    }
    assert len(converted.rejected) == 0


def test_convert__the_row_says_what_files_and_design_say(converted: Any) -> None:
    row = converted.case("train_0001/PSMA")
    expected = {
        "patient_key": "deep_psma:train_0001",
        "tracer_class": "PSMA",
        "diagnosis": "PROSTATE",
        "licence": "CC-BY-NC-4.0",
        "source_release": "Zenodo 15281784",
        "timepoint": "single",
        "radionuclide": None,
        "sex": None,
        "defaced": None,
        "pet_units_in": "SUV",
        "suv_factor": 1.0,
        "axcodes_in": "LPS",
        "ct_fill_value_hu": -1024,
        "shape_xyz": [24, 20, 30],
        "n_lesions": 2,
        "lesion_present": True,
        "suv_max": 12.0,
        "suv_max_in_lesion": 9.0,
        "suv_threshold": 3.0,
        "ttb_below_threshold_voxels": 0,
        "organs_map": "TotalSegmentator v2 total",
        "pet_path": "deep_psma:CHALLENGE_DATA/train_0001/PSMA/PET.nii.gz",
        "label_path": "deep_psma:CHALLENGE_DATA/train_0001/PSMA/TTB.nii.gz",
        "ct_path": "catalog:images/deep_psma/train_0001_PSMA/ct.nii.gz",
        "quality_flags": USUAL,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["spacing_xyz_mm"] == pytest.approx([3.5, 3.5, 2.5])
    assert row["ct_native_spacing_mm"] == pytest.approx([2.1, 2.1, 3.3])
    assert row["lesion_volume_ml"] == pytest.approx((36 + 12) * 3.5 * 3.5 * 2.5 / 1000)
    lesions = [row for row in converted.lesions.to_pylist() if row["case_id"] == "train_0001/PSMA"]
    assert [(row["lesion_index"], row["voxels"], row["suv_max"]) for row in lesions] == [(1, 36, 9.0), (2, 12, 3.0)]


def test_convert__every_named_file_is_there_on_the_grid_of_the_pet(converted: Any) -> None:
    for row in converted.cases.to_pylist():
        pet = read_image(converted.resolve(row["pet_path"]))
        for name in ("ct_path", "label_path", "organs_path", "normal_path"):
            image = read_image(converted.resolve(row[name]))
            assert image.grid.same_as(pet.grid, tolerance_mm=1e-9), name


def test_convert__the_ct_equals_simpleitk_and_scipy(sound: Path, converted: Any) -> None:
    for tracer in PET_GRIDS:
        row = converted.case(f"train_0001/{tracer}")
        ours = read_image(converted.resolve(row["ct_path"])).array
        fixed, moving = (sitk.ReadImage(str(one(sound, tracer) / name)) for name in ("PET.nii.gz", "CT.nii.gz"))
        kinds = (sitk.sitkLinear, -1024.0, sitk.sitkFloat32)
        # clipped first, so that padding does not bleed into tissue
        theirs = sitk.Resample(sitk.Clamp(moving, lowerBound=-1024, upperBound=3071), fixed, sitk.Transform(), *kinds)
        assert ours.dtype == np.int16
        np.testing.assert_allclose(ours, sitk.GetArrayFromImage(theirs).T, atol=0.51)
        place, inside = places(PET_GRIDS[tracer])
        values = ndimage.map_coordinates(make_ct().clip(-1024, 3071).astype(float), place, order=1, mode="nearest")
        np.testing.assert_allclose(ours, np.where(inside, values, -1024), atol=0.51)
        assert row["ct_coverage_fraction"] == pytest.approx(inside.mean(), abs=1e-7)


def places(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Where in the CT each voxel of a PET lies, and whether that is inside it; one voxel at a time, by its mm."""
    place = CT_GRID.to_voxel(grid.to_mm(np.indices(grid.shape).reshape(3, -1).T))
    return place.T.reshape(3, *grid.shape), CT_GRID.holds(place).reshape(grid.shape)


def test_convert__the_ct_is_air_where_it_does_not_reach_and_the_fraction_is_a_count(tree: Path, tmp_path: Path) -> None:
    odd_short_ct(tree)
    catalog = run(tree, tmp_path / "catalog")
    row = catalog.case("train_0001/PSMA")
    ours = read_image(catalog.resolve(row["ct_path"])).array
    place, inside = places(PET_GRIDS["PSMA"])
    inside &= place[2] < 19.5
    stored = make_ct()[:, :, :20].clip(-1024, 3071).astype(float)
    values = ndimage.map_coordinates(stored, place, order=1, mode="nearest")
    np.testing.assert_allclose(ours, np.where(inside, values, -1024), atol=0.51)
    assert row["ct_coverage_fraction"] == pytest.approx(np.count_nonzero(inside) / inside.size, abs=1e-7)
    assert 0.5 < inside.mean() < 0.9


def test_convert__the_organs_are_the_nearest_voxels_of_the_ct(converted: Any) -> None:
    for tracer in PET_GRIDS:
        organs = read_image(converted.resolve(converted.case(f"train_0001/{tracer}")["organs_path"])).array
        place, inside = places(PET_GRIDS[tracer])
        theirs = ndimage.map_coordinates(make_organs(), np.rint(place), order=0, mode="nearest") * inside
        assert organs.dtype == np.uint8
        assert np.mean(organs != theirs) < 1e-3  # a tie falls to one side or the other
        assert len(np.unique(organs)) > 20


def test_convert__normal_uptake_is_what_is_hot_and_no_lesion(converted: Any) -> None:
    for tracer in PET_GRIDS:
        normal = read_image(converted.resolve(converted.case(f"train_0001/{tracer}")["normal_path"])).array
        expected = np.zeros(PET_GRIDS[tracer].shape, bool)
        expected[9:12, 2:5, 12:15] = True
        assert normal.dtype == np.uint8
        np.testing.assert_array_equal(normal, expected)


def test_convert__a_voxel_exactly_at_the_threshold_is_a_candidate(tree: Path, tmp_path: Path) -> None:
    for tracer in PET_GRIDS:
        rewrite(one(tree, tracer) / "TTB.nii.gz", np.zeros_like)
    catalog = run(tree, tmp_path / "catalog")
    for tracer in PET_GRIDS:
        row = catalog.case(f"train_0001/{tracer}")
        assert read_image(catalog.resolve(row["normal_path"])).array[12:14, 10:12, 15:18].all()
        assert (row["lesion_present"], row["n_lesions"]) == (False, 0)
        assert "EMPTY_BUT_DIAGNOSED" in row["quality_flags"]


def test_convert__the_registration_leads_to_the_other_tracer(sound: Path, converted: Any) -> None:
    rows = {tracer: converted.case(f"train_0001/{tracer}") for tracer in PET_GRIDS}
    there, back = (np.reshape(rows[t]["rigid_to_other_ras"], (4, 4)) for t in ("FDG", "PSMA"))
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-9)
    psma = read_image(converted.resolve(rows["PSMA"]["pet_path"]))
    ours = bring_onto(psma, PET_GRIDS["FDG"], fill=0, fixed_to_moving_ras=there)
    fixed, moving = (sitk.ReadImage(str(one(sound, tracer) / "PET.nii.gz")) for tracer in ("FDG", "PSMA"))
    transform = sitk.ReadTransform(str(one(sound, "FDG") / "rigid.tfm"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)).T
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert theirs.max() > 5


def test_convert__a_second_run_and_other_workers_give_the_same_bytes(sound: Path, tmp_path: Path) -> None:
    digests = []
    for name, workers in (("a", 0), ("a", 0), ("b", 2)):
        catalog = run(sound, tmp_path / name, crew=Crew(workers))
        images = sorted((tmp_path / name / "images").rglob("*.nii.gz"))
        digests.append((catalog.digest(), [(f.name, f.read_bytes()) for f in images]))
        assert len(images) == 4 * 3
    assert digests[0] == digests[1] == digests[2]


def test_convert__takes_the_folder_of_the_patients_itself(sound: Path, tmp_path: Path) -> None:
    catalog = run(sound / "CHALLENGE_DATA", tmp_path / "catalog")
    assert catalog.case("train_0002/FDG")["pet_path"] == "deep_psma:train_0002/FDG/PET.nii.gz"


def test_convert__no_row_names_a_place_of_this_machine(tree: Path, tmp_path: Path) -> None:
    (one(tree) / "PET.nii.gz").write_bytes(b"no image")
    (one(tree, "FDG") / "threshold.json").write_text("0")
    catalog = run(tree, tmp_path / "catalog")
    text = str(catalog.cases.to_pylist()) + str(catalog.rejected.to_pylist())
    assert str(tmp_path) not in text
    assert len(catalog.rejected) == 2


# what is odd and taken


def odd_qform_only(tree: Path) -> None:
    file = one(tree) / "TTB.nii.gz"
    image: Any = nibabel.load(file)
    header = image.header.copy()
    header["sform_code"] = 0
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, header), file)


def odd_unusual_axes(tree: Path) -> None:
    for name in ("PET.nii.gz", "TTB.nii.gz"):
        volume = read_image(one(tree) / name)
        write_image(one(tree) / name, np.flip(volume.array, 1), volume.grid.flip(1))


def odd_instances(tree: Path) -> None:
    rewrite(one(tree) / "TTB.nii.gz", lambda ttb: put(ttb, 2, np.s_[12:14, 10:12, 15:18]))


def odd_header(tree: Path) -> None:
    volume = read_image(one(tree) / "TTB.nii.gz")
    affine = np.array(volume.grid.affine)
    affine[2, 2] *= 1.001
    write_image(one(tree) / "TTB.nii.gz", volume.array, Grid(volume.grid.shape, affine=affine))


def odd_few_below(tree: Path) -> None:
    # 200 lesion voxels, of which 2 lie below: exactly 1 %, and so no violation
    rewrite(one(tree) / "PET.nii.gz", lambda pet: put(put(pet, 5, np.s_[2:12, 2:7, 20:24]), 2.9, np.s_[2:4, 2, 20]))
    rewrite(one(tree) / "TTB.nii.gz", lambda ttb: put(ttb * 0, 1, np.s_[2:12, 2:7, 20:24]))


def odd_many_below(tree: Path) -> None:
    odd_few_below(tree)
    rewrite(one(tree) / "PET.nii.gz", lambda pet: put(pet, 2.9, np.s_[2:5, 2, 20]))


def odd_short_ct(tree: Path) -> None:
    write_image(one(tree) / "CT.nii.gz", make_ct()[:, :, :20], CT_GRID.crop((0, 0, 0), (44, 40, 20)))
    write_image(one(tree) / "totseg_24.nii.gz", make_organs()[:, :, :20], CT_GRID.crop((0, 0, 0), (44, 40, 20)))


def odd_link(name: str) -> Callable[[Path], None]:
    """A file of a scan that a link leads out of the source to."""

    def spoil(tree: Path) -> None:
        file = one(tree) / name
        outside = tree.with_name(f"outside-{name}")
        if file.exists():
            shutil.move(file, outside)
        file.symlink_to(outside)

    return spoil


def odd_organ_id(tree: Path) -> None:
    rewrite(one(tree) / "totseg_24.nii.gz", lambda organs: put(organs, 118, (20, 20, 10)))


def odd_organ_grid(tree: Path) -> None:
    write_image(one(tree) / "totseg_24.nii.gz", np.ones(PET_GRIDS["PSMA"].shape, np.uint8), PET_GRIDS["PSMA"])


ODD: dict[str, tuple[Any, list[str]]] = {
    "sform 0": (odd_qform_only, ["QFORM_ONLY"]),
    "other axes": (odd_unusual_axes, ["AXES_NOT_LAS"]),
    "values above 1": (odd_instances, ["LABEL_REWRITTEN"]),
    "header a little off": (odd_header, ["HEADERS_DIFFER", "LABEL_REWRITTEN"]),
    "label as float": (
        lambda t: rewrite(one(t) / "TTB.nii.gz", lambda ttb: ttb.astype(np.float32)),
        ["LABEL_FLOAT"],
    ),
    "few below": (odd_few_below, ["TTB_BELOW_THRESHOLD"]),
    "many below": (odd_many_below, ["THRESHOLD_VIOLATION"]),
    "negative uptake": (
        lambda t: rewrite(one(t) / "PET.nii.gz", lambda pet: put(pet, -0.5)),
        ["NEGATIVE_UPTAKE"],
    ),
    "unusual threshold": (
        lambda t: (one(t) / "threshold.json").write_text('{"suv_threshold": 1.4}'),
        ["THRESHOLD_UNUSUAL"],
    ),
    "short CT": (odd_short_ct, ["CT_COVERAGE_LOW"]),
    "no organs": (lambda t: (one(t) / "totseg_24.nii.gz").unlink(), ["ORGANS_MISSING"]),
    "organs that are none": (
        lambda t: (one(t) / "totseg_24.nii.gz").write_bytes(b""),
        ["ORGANS_UNREADABLE"],
    ),
    "organs behind a link": (odd_link("totseg_24.nii.gz"), ["ORGANS_UNREADABLE"]),
    "a registration behind a link": (odd_link("rigid.tfm"), ["REGISTRATION_INVERTED"]),
    "a link that is nobody's": (odd_link("notes.txt"), []),
    "organs without name": (odd_organ_id, ["ORGANS_UNKNOWN_ID"]),
    "organs on another grid": (odd_organ_grid, ["ORGANS_GRID_DIFFERS"]),
    "registration missing here": (lambda t: (one(t) / "rigid.tfm").unlink(), ["REGISTRATION_INVERTED"]),
    "registration unreadable": (
        lambda t: (one(t) / "rigid.tfm").write_text("Parameters: 1"),
        ["REGISTRATION_INVERTED"],
    ),
    "the other is not there": (lambda t: shutil.rmtree(one(t, "FDG")), ["TRACER_MISSING"]),
    "the other is rejected": (
        lambda t: (one(t, "FDG") / "PET.nii.gz").unlink(),
        ["TRACER_MISSING"],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_convert__what_is_odd_is_flagged_and_taken(tree: Path, tmp_path: Path, name: str) -> None:
    spoil, flags = ODD[name]
    spoil(tree)
    catalog = run(tree, tmp_path / "catalog")
    row = catalog.case("train_0001/PSMA")
    assert row["quality_flags"] == sorted(USUAL + flags)
    assert set(flags) <= set(FLAGS)
    assert catalog.case("train_0002/PSMA")["quality_flags"] == USUAL
    alone = "TRACER_MISSING" in flags
    assert row["paired_case_id"] == (None if alone else "train_0001/FDG")
    assert len(catalog.cases) == 4 - alone
    matrix = np.reshape(row["rigid_to_other_ras"], (4, 4))
    expected = catalog.case("train_0002/PSMA")["rigid_to_other_ras"]
    np.testing.assert_allclose(matrix.ravel(), expected, atol=1e-9)


def test_convert__counts_lesion_voxels_below_the_threshold(tree: Path, tmp_path: Path) -> None:
    odd_many_below(tree)
    rewrite(one(tree, "FDG") / "PET.nii.gz", lambda pet: put(pet, THRESHOLDS["FDG"] - 9e-4, np.s_[3:6, 4, 5]))
    catalog = run(tree, tmp_path / "catalog")
    assert catalog.case("train_0001/PSMA")["ttb_below_threshold_voxels"] == 3
    assert catalog.case("train_0001/FDG")["ttb_below_threshold_voxels"] == 0


def test_convert__a_rewritten_label_is_the_mask_on_the_grid_of_the_pet(tree: Path, tmp_path: Path) -> None:
    odd_instances(tree)
    catalog = run(tree, tmp_path / "catalog")
    row = catalog.case("train_0001/PSMA")
    label = read_image(catalog.resolve(row["label_path"]))
    assert row["label_path"] == "catalog:images/deep_psma/train_0001_PSMA/label.nii.gz"
    np.testing.assert_array_equal(label.array, make_pet("PSMA")[1])
    shutil.copy(one(tree).parents[1] / "train_0002" / "PSMA" / "TTB.nii.gz", one(tree) / "TTB.nii.gz")
    catalog = run(tree, tmp_path / "catalog")
    assert catalog.case("train_0001/PSMA")["label_path"].startswith("deep_psma:")
    assert not (tmp_path / "catalog/images/deep_psma/train_0001_PSMA/label.nii.gz").exists()


def test_convert__a_label_of_one_value_other_than_1_is_a_mask(tree: Path, tmp_path: Path) -> None:
    rewrite(one(tree) / "TTB.nii.gz", lambda ttb: ttb * 7)
    row = run(tree, tmp_path / "catalog").case("train_0001/PSMA")
    assert (row["n_lesions"], "LABEL_REWRITTEN" in row["quality_flags"]) == (2, True)


def test_convert__two_registrations_that_are_no_inverse_are_flagged_on_both(tree: Path, tmp_path: Path) -> None:
    shutil.copy(one(tree, "FDG") / "rigid.tfm", one(tree, "PSMA") / "rigid.tfm")  # the same direction twice
    catalog = run(tree, tmp_path / "catalog")
    for tracer in PET_GRIDS:
        assert "REGISTRATION_NOT_INVERSE" in catalog.case(f"train_0001/{tracer}")["quality_flags"]


@pytest.mark.parametrize(("shift", "flagged"), [(0.09, False), (0.11, True)])
def test_convert__an_inverse_is_one_within_a_tenth_of_a_millimetre(
    tree: Path, tmp_path: Path, shift: float, flagged: bool
) -> None:
    inverse = TRANSFORM.GetInverse()
    moved = sitk.Euler3DTransform(inverse)
    x, y, z = inverse.GetTranslation()
    moved.SetTranslation((x + shift, y, z))
    sitk.WriteTransform(moved, str(one(tree) / "rigid.tfm"))
    row = run(tree, tmp_path / "catalog").case("train_0001/PSMA")
    assert ("REGISTRATION_NOT_INVERSE" in row["quality_flags"]) == flagged


def test_convert__without_any_registration_the_cases_are_flagged(tree: Path, tmp_path: Path) -> None:
    for tracer in PET_GRIDS:
        (one(tree, tracer) / "rigid.tfm").unlink()
    catalog = run(tree, tmp_path / "catalog")
    for tracer in PET_GRIDS:
        row = catalog.case(f"train_0001/{tracer}")
        assert row["rigid_to_other_ras"] is None
        assert "REGISTRATION_MISSING" in row["quality_flags"]


def test_convert__a_ct_that_covers_nothing_is_air(tree: Path, tmp_path: Path) -> None:
    affine = np.array(CT_GRID.affine)
    affine[2, 3] += 5000
    write_image(one(tree) / "CT.nii.gz", make_ct(), Grid(CT_GRID.shape, affine=affine))
    catalog = run(tree, tmp_path / "catalog")
    row = catalog.case("train_0001/PSMA")
    assert row["ct_coverage_fraction"] == 0
    assert np.all(read_image(catalog.resolve(row["ct_path"])).array == -1024)
    assert "CT_CLIPPED" not in row["quality_flags"]


def test_convert__a_ct_already_on_the_grid_stays_as_it_is(tree: Path, tmp_path: Path) -> None:
    ct = np.random.default_rng(1).integers(-1024, 3072, PET_GRIDS["PSMA"].shape).astype(np.int16)
    write_image(one(tree) / "CT.nii.gz", ct, PET_GRIDS["PSMA"])
    catalog = run(tree, tmp_path / "catalog")
    row = catalog.case("train_0001/PSMA")
    np.testing.assert_array_equal(read_image(catalog.resolve(row["ct_path"])).array, ct)
    assert row["quality_flags"] == ["ORGANS_GRID_DIFFERS"]


# what is not taken


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def promise_more(file: Path) -> None:
    """A header of more slices than the file holds, in a stream that is whole."""
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[46:48] = (31).to_bytes(2, "little")
    file.write_bytes(gzip.compress(bytes(raw)))


def shift_grid(file: Path) -> None:
    volume = read_image(file)
    affine = np.array(volume.grid.affine)
    affine[0, 3] += 0.5
    write_image(file, volume.array, Grid(volume.grid.shape, affine=affine))


def drop_slice(file: Path) -> None:
    volume = read_image(file)
    write_image(file, volume.array[:, :, 1:], volume.grid.crop((0, 0, 1), (24, 20, 29)))


def link_out(file: Path) -> None:
    outside = file.parents[4] / "outside.nii.gz"
    shutil.move(file, outside)
    file.symlink_to(outside)


SPOILED: dict[str, tuple[str, Any, str]] = {
    "no PET": ("PET.nii.gz", Path.unlink, "MissingChannel"),
    "no TTB": ("TTB.nii.gz", Path.unlink, "MissingChannel"),
    "no CT": ("CT.nii.gz", Path.unlink, "MissingChannel"),
    "no threshold": ("threshold.json", Path.unlink, "BadThreshold"),
    "threshold that is no JSON": ("threshold.json", lambda f: f.write_text("3,0"), "BadThreshold"),
    "empty PET": ("PET.nii.gz", lambda f: f.write_bytes(b""), "TruncatedFile"),
    "cut PET": ("PET.nii.gz", cut, "TruncatedFile"),
    "cut TTB": ("TTB.nii.gz", cut, "TruncatedFile"),
    "cut CT": ("CT.nii.gz", cut, "TruncatedFile"),
    "a header that promises more": ("PET.nii.gz", promise_more, "TruncatedFile"),
    "a PET that is none": ("PET.nii.gz", lambda f: f.write_bytes(b"text"), "UnreadableFile"),
    "a CT that is none": ("CT.nii.gz", lambda f: f.write_bytes(b"text"), "UnreadableFile"),
    "TTB elsewhere": ("TTB.nii.gz", shift_grid, "GridMismatch"),
    "TTB with a slice less": ("TTB.nii.gz", drop_slice, "GridMismatch"),
    "negative label": ("TTB.nii.gz", lambda f: rewrite(f, lambda a: put(a, -1)), "BadLabel"),
    "label in halves": ("TTB.nii.gz", lambda f: rewrite(f, lambda a: a.astype(np.float32) / 2), "BadLabel"),
    "NaN in PET": ("PET.nii.gz", lambda f: rewrite(f, lambda a: put(a, np.nan)), "BadUptake"),
    "infinity in PET": ("PET.nii.gz", lambda f: rewrite(f, lambda a: put(a, np.inf)), "BadUptake"),
    "NaN in CT": ("CT.nii.gz", lambda f: rewrite(f, lambda a: put(a.astype(np.float32), np.nan)), "BadCt"),
    "a link that leaves the source": ("PET.nii.gz", link_out, "PathLeavesRoot"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_convert__what_is_spoiled_is_rejected_and_costs_no_other_case(tree: Path, tmp_path: Path, name: str) -> None:
    file, spoil, code = SPOILED[name]
    spoil(one(tree) / file)
    catalog = run(tree, tmp_path / "catalog")
    rejected = catalog.rejected.to_pylist()
    assert [(row["case_id"], row["code"]) for row in rejected] == [("train_0001/PSMA", code)]
    one_file = code not in ("MissingChannel", "GridMismatch")
    assert rejected[0]["path"] == "CHALLENGE_DATA/train_0001/PSMA" + f"/{file}" * one_file
    assert rejected[0]["patient_key"] == "deep_psma:train_0001"
    assert file in rejected[0]["message"] or code == "GridMismatch"
    assert code in REASONS
    assert catalog.cases["case_id"].to_pylist() == ["train_0001/FDG", "train_0002/FDG", "train_0002/PSMA"]
    assert not list((tmp_path / "catalog/images").glob("*/train_0001_PSMA/*"))


def test_convert__folders_that_are_no_patient_or_tracer_are_named(tree: Path, tmp_path: Path) -> None:
    top = tree / "CHALLENGE_DATA"
    for name in ("train_1", "notes", ".git", "train_0003", "train_0001/ct"):
        (top / name).mkdir()
    (top / "README.txt").write_text("no folder")
    rejected = run(tree, tmp_path / "catalog").rejected.to_pylist()
    assert [(row["path"], row["code"]) for row in rejected] == [
        ("CHALLENGE_DATA/notes", "BadName"),
        ("CHALLENGE_DATA/train_0001/ct", "BadName"),
        ("CHALLENGE_DATA/train_0003", "MissingChannel"),
        ("CHALLENGE_DATA/train_1", "BadName"),
    ]


def test_plan__refuses_a_folder_without_patients(tmp_path: Path) -> None:
    (tmp_path / "source" / "imagesTr").mkdir(parents=True)
    with pytest.raises(CatalogError, match="no folder train_NNNN"):
        run(tmp_path / "source", tmp_path / "catalog")


# the small rules


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"suv_threshold": 3.0}', 3.0),
        ('{"suv_threshold": 2.1165041586631523}', 2.1165041586631523),
        ("2.999862", 2.999862),
        ('\ufeff{"suv_threshold": 3}', 3.0),
        ("20", 20.0),
    ],
)
def test_read_threshold__takes_an_object_or_a_number(tmp_path: Path, text: str, value: float) -> None:
    (tmp_path / "threshold.json").write_text(text, encoding="utf-8")
    assert read_threshold(tmp_path / "threshold.json", tmp_path) == value


BAD_THRESHOLDS = (
    "",
    "{}",
    "[3.0]",
    '{"suv_threshold": "3.0"}',
    '{"suv_threshold": null}',
    "true",
    "NaN",
    "Infinity",
    "0",
    "-3",
    "20.001",
    "1" + "0" * 400,
    "[" * 100_000,
)


@pytest.mark.parametrize("text", BAD_THRESHOLDS, ids=lambda text: text[:12] or "empty")
def test_read_threshold__refuses_what_is_no_threshold(tmp_path: Path, text: str) -> None:
    file = tmp_path / "PSMA" / "threshold.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(Rejection, match=r"threshold\.json") as caught:
        read_threshold(file, tmp_path)
    assert (caught.value.code, caught.value.path) == ("BadThreshold", "PSMA/threshold.json")


def test_organ_names__are_117() -> None:
    names = organ_names()
    assert sorted(names) == list(range(1, 118))
    assert len(set(names.values())) == 117
    known = {1: "spleen", 5: "liver", 21: "urinary_bladder", 90: "brain", 117: "costal_cartilages"}
    assert {number: names[number] for number in known} == known


@pytest.mark.real
def test_organ_names__equal_the_published_list(realdata: Path) -> None:
    published = json.loads((realdata / "deep_psma" / "totalsegmentator_v2_total_labels.json").read_text())
    assert organ_names() == {int(number): name for number, name in published["labels"].items()}


@pytest.mark.real
def test_same_lattice__every_real_geometry_survives_rounding_and_no_neighbour_passes(realdata: Path) -> None:
    with (realdata / "deep_psma" / "cases_deep_psma_200.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 200
    for row in rows:
        shape = tuple(int(row[name]) for name in ("nx", "ny", "nz"))
        exact = np.diag([-1, -1, 1, 1]) @ np.diag([float(row[name]) for name in ("dx", "dy", "dz")] + [1.0])
        noisy = exact @ np.diag([1, 1, 1 + 1e-5, 1])  # as 3.27 against 3.27002, and less
        assert deep_psma_source._same_lattice(Grid(shape, affine=exact), Grid(shape, affine=exact))
        deep_psma_source._same_lattice(Grid(shape, affine=exact), Grid(shape, affine=noisy))
        moved = exact.copy()
        moved[2, 3] += 0.2 * float(row["dz"])
        with pytest.raises(Rejection, match="different grids"):
            deep_psma_source._same_lattice(Grid(shape, affine=exact), Grid(shape, affine=moved))


@pytest.mark.real
def test_convert__the_pairs_of_the_real_table_do_not_share_a_lattice_and_convert(
    realdata: Path, tree: Path, tmp_path: Path
) -> None:
    """The spacings and axes of the first real pair whose tracers differ, on cropped arrays."""
    with (realdata / "deep_psma" / "cases_deep_psma_200.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    fdg, psma = next((a, b) for a, b in pairs if a["dx"] != b["dx"] and a["dz"] != b["dz"])
    for row in (fdg, psma):
        spacing = [float(row[name]) for name in ("dx", "dy", "dz")]
        for name in ("PET.nii.gz", "TTB.nii.gz"):
            file = one(tree, row["tracer"]) / name
            volume = read_image(file)
            affine = np.array(volume.grid.affine)
            affine[:3, :3] = np.diag([-spacing[0], -spacing[1], spacing[2]])
            write_image(file, volume.array, Grid(volume.grid.shape, affine=affine))
    catalog = run(tree, tmp_path / "catalog")
    for row in (fdg, psma):
        case = catalog.case(f"train_0001/{row['tracer']}")
        assert case["axcodes_in"] == row["axcodes"] == "LPS"
        assert case["spacing_xyz_mm"] == pytest.approx([float(row[n]) for n in ("dx", "dy", "dz")], rel=1e-6)
        grids = [read_image(catalog.resolve(case[name])).grid for name in ("ct_path", "pet_path")]
        assert grids[0].same_as(grids[1])

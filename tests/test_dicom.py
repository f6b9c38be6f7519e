"""Finding series, choosing among them, and reading them to exact volumes."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from scipy.ndimage import affine_transform

from clicksim.errors import ClicksimError, SettingError
from clicksim.geometry import Grid
from clicksim.volumes import Volume
from converters.dicom.dicom_volume import read_volume
from converters.dicom.headers import DicomError
from converters.dicom.series import by_study, find_series, scan_folder
from converters.dicom.slices import GeometryRefusal, slice_geometry
from converters.shared.registration import bring_onto
from converters.shared.resample import coverage_fraction, resample_series
from converters.tcia.series_choice import SeriesRule, choose_series, sharpness
from tests.dicom_writer import AXIAL, header, rtstruct_dataset, save, set_pixels, uid, write_stack

sitk = SimpleITK


def one(folder):
    (series,) = find_series(folder)
    return series


def refused(folder, code, **settings):
    with pytest.raises(DicomError) as caught:
        read_volume(one(folder), **settings)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def sitk_series(folder):
    """A series by SimpleITK's own reader, as `(i, j, k)`."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


# ---------------------------------------------------------------- finding


def test_scan_folder__opens_each_file_once(tmp_path, monkeypatch):
    write_stack(tmp_path)
    opened = []

    def noting(path, *arguments, _open=open, **settings):
        opened.append(Path(path).name)
        return _open(path, *arguments, **settings)

    for door in ("io.open", "builtins.open"):  # pathlib's and everybody's
        monkeypatch.setattr(door, noting)
    (series,) = find_series(tmp_path)
    names = sorted(path.name for path in series.paths)
    assert len(names) == 4
    for work in (lambda: scan_folder(tmp_path), series.headers, lambda: read_volume(series)):
        opened.clear()
        work()
        assert sorted(opened) == names


def test_scan_folder__takes_any_name_and_skips_what_is_not_dicom(tmp_path):
    folder = tmp_path / "PETCT_0a" / "01-02-2003-NA-PET-CT Ganzkoerper  primaer (mit) KM v.3-12345" / "4.000000-GÄK"
    write_stack(folder)
    (folder / ".DS_Store").write_bytes(b"\0" * 10)
    (folder / ".hidden").mkdir()
    write_stack(folder / ".hidden", series="hidden")
    (folder / "LICENSE").write_text("text")
    (folder / "empty").write_bytes(b"")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    scan = scan_folder(tmp_path)
    assert [len(s.slices) for s in scan.series] == [4]
    assert [f.code for f in scan.findings] == ["UnreadableDicom"] or [f.code for f in scan.findings] == ["MissingUid"]
    assert "broken.dcm" in scan.findings[0].path


def test_scan_folder__reads_a_file_without_preamble(tmp_path):
    made = header("CT", "bare", 0, ImagePositionPatient=[0, 0, 0])
    set_pixels(made, np.zeros((3, 3), np.int16))
    made.save_as(tmp_path / "bare", implicit_vr=True, little_endian=True)
    write_stack(tmp_path, series="bare", places=[0, 5.0], edit=lambda d, n: None if n else setattr(d, "Rows", 5))
    assert len(find_series(tmp_path / "bare")) == 1


def test_find_series__does_not_depend_on_names_or_order(tmp_path):
    for path in write_stack(tmp_path, count=6):
        path.rename(tmp_path / f"{random.Random(path.name).random()}")
    assert [s.instance for s in one(tmp_path).slices] == [1, 2, 3, 4, 5, 6]
    assert len(one(tmp_path).headers()) == 6
    assert one(tmp_path).headers()[5].InstanceNumber == 6


def test_find_series__drops_copies_and_keeps_a_note(tmp_path):
    write_stack(tmp_path / "a")
    write_stack(tmp_path / "b")
    series = one(tmp_path)
    assert len(series.slices) == 4
    assert [f.code for f in series.findings] == ["DuplicateInstanceDropped"]
    assert read_volume(series).array.shape == (4, 5, 4)


def test_scan_folder__refuses_one_uid_for_two_slices(tmp_path):
    write_stack(tmp_path / "a")
    write_stack(tmp_path / "b", places=[1, 2, 3, 4.5])
    scan = scan_folder(tmp_path)
    assert not scan.series
    assert [f.code for f in scan.findings] == ["SeriesInconsistent"]


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("PatientID", "P2", "PatientMismatch"),
        ("Modality", "OT", "SeriesInconsistent"),
        ("FrameOfReferenceUID", "1.2.3", "SeriesInconsistent"),
    ],
)
def test_scan_folder__refuses_a_series_of_two_subjects(tmp_path, keyword, value, code):
    write_stack(tmp_path, edit=change(keyword, value))
    scan = scan_folder(tmp_path)
    assert not scan.series
    assert [f.code for f in scan.findings] == [code]
    assert f"2 values of {keyword}" in scan.findings[0].message


def test_scan_folder__a_series_of_registrations_may_have_several_frames(tmp_path):
    write_stack(tmp_path, modality="REG", edit=change("FrameOfReferenceUID", "1.2.3"))
    assert scan_folder(tmp_path).findings == ()


def test_scan_folder__names_links_and_folders_that_cannot_be_opened(tmp_path, monkeypatch):
    write_stack(tmp_path / "here")
    (tmp_path / "here" / "gone.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    look = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    scan = scan_folder(tmp_path)
    assert [len(s.slices) for s in scan.series] == [4]
    assert [Path(f.path).name for f in scan.findings] == ["gone.dcm", "closed"]
    assert {f.code for f in scan.findings} == {"UnreadableDicom"}


def test_scan_folder__drops_a_mask_twice_there_only_where_both_files_are_equal(tmp_path):
    for name in ("a", "b"):
        seg_header(tmp_path / name, "pet")
    (series,) = find_series(tmp_path)
    assert [f.code for f in series.findings] == ["DuplicateInstanceDropped"]
    path = tmp_path / "b" / "seg.dcm"
    made = pydicom.dcmread(path)
    made.ContentDescription = "corrected"
    made.save_as(path)
    scan = scan_folder(tmp_path)
    assert [f.code for f in scan.findings] == ["SeriesInconsistent"]
    assert not scan.series


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "TemporalPositionIdentifier"])
def test_find_series__splits_stacks_that_share_positions(tmp_path, keyword):
    write_stack(tmp_path, places=[0, 0, 5, 5, 10, 10], edit=lambda d, n: setattr(d, keyword, n % 2 + 1))
    parts = find_series(tmp_path)
    assert [len(p.slices) for p in parts] == [3, 3]
    assert all(p.part for p in parts)
    assert [s.instance for s in parts[0].slices] == [1, 3, 5]


def test_find_series__splits_by_temporal_position_and_acquisition_where_it_takes_both(tmp_path):
    def number(made, n):
        made.TemporalPositionIdentifier, made.AcquisitionNumber = n % 2, n // 2 % 2

    write_stack(tmp_path, places=[0, 0, 0, 0, 5, 5, 5, 5], edit=number)
    assert [len(part.slices) for part in find_series(tmp_path)] == [2, 2, 2, 2]


def test_find_series__does_not_split_into_single_slices(tmp_path):
    write_stack(tmp_path, places=[5, 5, 5], edit=lambda d, n: setattr(d, "AcquisitionNumber", n))
    refused(tmp_path, "DuplicateSlice")


def test_find_series__notes_a_pet_of_fewer_slices_than_its_header_promises(tmp_path):
    write_stack(tmp_path / "cut", "PT", NumberOfSlices=9)
    write_stack(tmp_path / "whole", "PT", NumberOfSlices=4)
    assert [f.code for f in one(tmp_path / "cut").findings] == ["FewerSlicesThanPromised"]
    assert not one(tmp_path / "whole").findings


def test_find_series__keeps_a_stack_of_several_acquisitions_whole(tmp_path):
    write_stack(tmp_path, edit=lambda d, n: setattr(d, "AcquisitionNumber", n))
    assert len(one(tmp_path).slices) == 4


def test_find_series__sets_a_localizer_of_the_same_uid_apart(tmp_path):
    write_stack(
        tmp_path, edit=lambda d, n: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]) if n == 3 else None
    )
    assert sorted(len(s.slices) for s in find_series(tmp_path)) == [1, 3]


def test_scan_folder__passes_over_a_directory_of_files(tmp_path):
    made = pydicom.Dataset()
    made.SOPClassUID, made.SOPInstanceUID = pydicom.uid.MediaStorageDirectoryStorage, "1.2.3"
    save(made, tmp_path / "DICOMDIR")
    save(made, tmp_path / "index.dcm")
    scan = scan_folder(tmp_path)
    assert (scan.series, scan.findings) == ((), ())


def test_scan_folder__finds_what_contours_reference(tmp_path):
    made = rtstruct_dataset([], names=())
    levels = ("RTReferencedSeriesSequence", "RTReferencedStudySequence", "ReferencedFrameOfReferenceSequence")
    item = pydicom.Dataset()
    item.SeriesInstanceUID = "1.2.3"
    for level in levels:
        outer = made if level == levels[-1] else pydicom.Dataset()
        setattr(outer, level, [item])
        item = outer
    save(made, tmp_path / "rt.dcm")
    assert one(tmp_path).references == {"1.2.3"}


def test_scan_folder__names_the_missing_folder(tmp_path):
    with pytest.raises(DicomError, match="no such file or folder"):
        scan_folder(tmp_path / "none")


def test_dicom_error__survives_pickling():
    back = pickle.loads(pickle.dumps(GeometryRefusal("GantryTilt", "leans")))
    assert (back.code, str(back)) == ("GantryTilt", "leans [GantryTilt]")


# ---------------------------------------------------------------- choosing


def seg_header(folder, target, name="seg"):
    made = header("SEG", name, 0, RescaleSlope=None, RescaleIntercept=None)
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    item = pydicom.Dataset()
    item.SeriesInstanceUID = uid(target)
    made.ReferencedSeriesSequence = [item]
    save(made, folder / f"{name}.dcm")


def choice_of(folder, **settings):
    """The choice among the series of a study, which gets a CT and a mask where the test wrote none."""
    kinds = {s.modality for s in find_series(folder)}
    if "CT" not in kinds:
        write_stack(folder / "ct", series="CT")
    if "SEG" not in kinds:
        seg_header(folder / "seg", "nothing")
    return choose_series(find_series(folder), **settings)


def test_choose_series__takes_the_corrected_pet(tmp_path):
    write_stack(tmp_path / "nac", "PT", series="NAC", CorrectedImage=["DECY"])
    write_stack(tmp_path / "ac", "PT", series="AC")
    write_stack(tmp_path / "ct")
    seg_header(tmp_path, "AC")
    choice = choice_of(tmp_path)
    assert (choice.pet.description, choice.ct.description, choice.seg.modality) == ("AC", "body", "SEG")
    assert [f.code for f in choice.left_out] == ["NotAttenuationCorrected"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ({"CorrectedImage": ["DECY", "NORM"]}, "NotAttenuationCorrected"),
        ({"CorrectedImage": None}, "NotAttenuationCorrected"),
        ({"SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 6}, "DynamicSeries"),
        ({"SeriesType": ["GATED", "IMAGE"]}, "DynamicSeries"),
        ({"SeriesType": ["WHOLE BODY", "REPROJECTION"]}, "ProjectionSeries"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MIP"]}, "ProjectionSeries"),
    ],
)
def test_choose_series__refuses_a_pet_that_cannot_be_used(tmp_path, spoil, code):
    write_stack(tmp_path / "spoiled", "PT", series="spoiled", **spoil)
    with pytest.raises(DicomError) as caught:
        choice_of(tmp_path)
    assert caught.value.code == "NoUsablePet"
    write_stack(tmp_path / "whole", "PT", series="whole")
    choice = choice_of(tmp_path)
    assert (choice.pet.description, [f.code for f in choice.left_out]) == ("whole", [code])


def test_choose_series__takes_a_gated_series_of_one_slot(tmp_path):
    write_stack(tmp_path, "PT", SeriesType=["GATED", "IMAGE"], NumberOfTimeSlots=1)
    assert choice_of(tmp_path).pet.time_points == 1


def test_choose_series__refuses_a_pet_of_several_stacks(tmp_path):
    write_stack(tmp_path, "PT", places=[0, 0, 5, 5], edit=lambda d, n: setattr(d, "AcquisitionNumber", n % 2))
    with pytest.raises(DicomError, match="one of several stacks"):
        choice_of(tmp_path)


def two_pets(folder):
    write_stack(folder / "z", "PT", series="PET TOF")
    write_stack(folder / "a", "PT", series="PET PSF", shape=(9, 9), count=6)
    return folder


def test_choose_series__refuses_two_reconstructions_that_nothing_tells_apart(tmp_path):
    two_pets(tmp_path)
    with pytest.raises(DicomError, match=r"PET PSF.*PET TOF|PET TOF.*PET PSF") as caught:
        choice_of(tmp_path)
    assert caught.value.code == "AmbiguousSeries"
    assert "choose by the option pet" in str(caught.value)


@pytest.mark.parametrize("target", ["PET TOF", "PET PSF"])
def test_choose_series__follows_the_reference_of_the_mask(tmp_path, target):
    two_pets(tmp_path)
    seg_header(tmp_path, target)
    choice = choice_of(tmp_path)
    assert choice.pet.description == target
    assert any("references" in reason for reason in choice.reasons)
    assert [f.code for f in choice.left_out] == ["NotChosen"]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        (SeriesRule(pet="tof$"), "PET TOF"),
        (SeriesRule(pet="PSF"), "PET PSF"),
        (SeriesRule(then="most-slices"), "PET PSF"),
        (SeriesRule(then="largest-fov"), "PET PSF"),
    ],
)
def test_choose_series__follows_the_rule_of_the_user_for_ties(tmp_path, rule, chosen):
    assert choice_of(two_pets(tmp_path), rule=rule).pet.description == chosen


def test_choose_series__refuses_a_tie_that_the_rule_of_the_user_does_not_decide(tmp_path):
    with pytest.raises(DicomError, match=r"2 series could be the PET.*'nothing like it', matches none"):
        choice_of(two_pets(tmp_path), rule=SeriesRule(pet="nothing like it"))


def test_choose_series__names_a_pattern_that_the_chosen_series_does_not_match(tmp_path):
    choice = choice_of(two_pets(tmp_path), rule=SeriesRule(pet="nothing like it", ct="", seg="x", then="most-slices"))
    assert (choice.pet.description, choice.unmatched) == ("PET PSF", ("pet", "seg"))
    assert "the option pet, 'nothing like it', matches none of the descriptions left" in choice.reasons
    assert choice_of(tmp_path, rule=SeriesRule(pet="TOF")).unmatched == ()


def test_choose_series__prefers_original_and_longer_stacks_only_as_a_rank(tmp_path):
    write_stack(tmp_path / "d", "PT", series="derived", ImageType=["DERIVED", "SECONDARY"])
    assert choice_of(tmp_path).pet.description == "derived"
    write_stack(tmp_path / "o", "PT", series="original")
    assert choice_of(tmp_path).pet.description == "original"
    write_stack(tmp_path / "l", "PT", series="long", count=20)
    assert choice_of(tmp_path).pet.description == "long"


def test_choose_series__chooses_the_ct_by_frame_coverage_kernel_and_step(tmp_path):
    write_stack(tmp_path / "p", "PT", series="pet", count=30)
    spots = [-30 + 3.0 * n for n in range(30)]
    write_stack(tmp_path / "other", series="other frame", places=spots, FrameOfReferenceUID="1.2.3")
    write_stack(tmp_path / "loc", series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_stack(tmp_path / "half", series="half", places=[-30 + n for n in range(40)], ConvolutionKernel="B30f")
    write_stack(tmp_path / "lung", series="lung", places=spots, ConvolutionKernel="B60f")
    write_stack(tmp_path / "thick", series="thick", places=[-30 + 4.0 * n for n in range(23)], ConvolutionKernel="B30f")
    write_stack(tmp_path / "soft", series="soft", places=spots, ConvolutionKernel="B30f")
    choice = choice_of(tmp_path)
    assert choice.ct.description == "soft"
    assert {f.code for f in choice.left_out} == {"OtherFrameOfReference", "Localizer", "NotChosen"}
    assert len(choice.left_out) == 5


def test_choose_series__refuses_a_study_without_ct_or_mask(tmp_path):
    write_stack(tmp_path / "p", "PT", series="pet")
    with pytest.raises(DicomError, match="no usable CT: the study has none") as caught:
        choose_series(find_series(tmp_path))
    assert caught.value.code == "NoUsableCt"
    write_stack(tmp_path / "c", series="ct")
    with pytest.raises(DicomError, match="no usable mask: the study has none") as caught:
        choose_series(find_series(tmp_path))
    assert caught.value.code == "NoUsableSeg"


def test_choose_series__takes_the_mask_of_the_pet_and_a_seg_before_contours(tmp_path):
    write_stack(tmp_path / "p", "PT", series="pet")
    save(rtstruct_dataset([], names=()), tmp_path / "rt.dcm")
    seg_header(tmp_path, "ct", name="other")
    choice = choice_of(tmp_path)
    assert (choice.seg.description, "no mask references" in choice.reasons[-3]) == ("other", True), choice.reasons
    seg_header(tmp_path, "pet", name="mine")
    assert choice_of(tmp_path).seg.description == "mine"


def test_choose_series__refuses_two_studies_and_unknown_settings(tmp_path):
    write_stack(tmp_path / "a", "PT", series="a")
    write_stack(tmp_path / "b", "PT", series="b", StudyInstanceUID="1.2.3")
    assert len(by_study(find_series(tmp_path))) == 2
    with pytest.raises(DicomError, match="2 studies"):
        choice_of(tmp_path)
    for settings in ({"pet": "("}, {"then": "last"}):
        with pytest.raises(SettingError, match=next(iter(settings))):
            SeriesRule(**settings)


@pytest.mark.parametrize(
    ("name", "rank"),
    [("STANDARD", 0), ("LUNG", 2), ("B30f", 0), ("B60f", 2), ("Br38", 0), ("FC08", 0), ("FC51", 2), ("C", 0), ("", 1)],
)
def test_sharpness__knows_the_vendors_names(tmp_path, name, rank):
    write_stack(tmp_path, ConvolutionKernel=name)
    assert sharpness(one(tmp_path)) == rank


# ---------------------------------------------------------------- geometry and values


def test_read_volume__applies_each_slices_slope(tmp_path):
    paths = write_stack(tmp_path, "PT")
    volume = read_volume(one(tmp_path))
    assert volume.array.dtype == np.float32
    assert volume.array.flags.f_contiguous
    for k, path in enumerate(paths):
        data = pydicom.dcmread(path)
        expected = (data.pixel_array * float(data.RescaleSlope)).astype(np.float32)
        assert np.array_equal(volume.array[:, :, k], expected.T)


def test_read_volume__gives_the_exact_affine(tmp_path):
    write_stack(tmp_path)
    grid = read_volume(one(tmp_path)).grid
    assert grid.shape == (4, 5, 4)
    # PixelSpacing is rows first: 2 mm down, 3 mm along; thickness 7 is no spacing
    assert np.array_equal(grid.affine, [[-3, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, (-1, 0, 0, 0, -1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, -1, 0), (0.8, 0.6, 0, -0.6, 0.8, -0.0)],
)
def test_read_volume__agrees_with_simpleitk_in_every_orientation(tmp_path, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    places = [tuple(np.array([5.0, -7.0, 11.0]) + 2.5 * n * normal) for n in (2, 0, 3, 1)]
    write_stack(tmp_path, places=places, ImageOrientationPatient=list(orientation))
    volume = read_volume(one(tmp_path))
    image = sitk_series(tmp_path)
    assert np.linalg.det(volume.grid.affine[:3, :3]) > 0
    for index in ((0, 0, 0), (3, 4, 3), (1, 2, 2)):
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        assert np.allclose(volume.grid.to_mm([index])[0], point, atol=1e-9)
        assert volume.array[index] == image[index]


def test_read_volume__keeps_ct_as_int16_where_exact(tmp_path):
    write_stack(tmp_path / "a")
    assert read_volume(one(tmp_path / "a")).array.dtype == np.int16
    write_stack(tmp_path / "b", edit=lambda d, n: setattr(d, "RescaleSlope", 1.001) if n == 2 else None)
    volume = read_volume(one(tmp_path / "b"))
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array[:, :, :2], read_volume(one(tmp_path / "a")).array[:, :, :2])
    assert read_volume(one(tmp_path / "a"), double=True).array.dtype == np.float64
    write_stack(tmp_path / "c", RescaleIntercept=32000)
    assert read_volume(one(tmp_path / "c")).array.max() > 32767
    with pytest.raises(SettingError, match="refuse or interpolate"):
        read_volume(one(tmp_path / "a"), gaps="fill")


def test_read_volume__averages_gaps_within_the_tolerance(tmp_path):
    places = [0, 3.27, 6.46, 9.75, 13.02]
    write_stack(tmp_path, places=places)
    geometry = slice_geometry(one(tmp_path))
    assert np.allclose(geometry.gaps, [3.27, 3.19, 3.29, 3.27])
    assert read_volume(one(tmp_path)).grid.spacing[2] == pytest.approx(13.02 / 4, abs=1e-12)


@pytest.mark.parametrize(
    ("places", "code"),
    [
        ([0, 3, 6, 12, 15], "IncompleteSeries"),
        ([0, 3, 9], "IncompleteSeries"),
        ([0], "IncompleteSeries"),
        ([0, 3, 6, 10.5, 13.5], "NonUniformSpacing"),
        ([0, 3, 3, 6], "DuplicateSlice"),
        ([0, 0, 0, 0], "DuplicateSlice"),
        ([(0, 0, 0), (0, 1, 3), (0, 2, 6), (0, 3, 9)], "GantryTilt"),
        # each gap within 0.1 mm of the median, yet even spacing would put slices on their neighbours' places
        ([0.5 * n - 0.09 * min(n, 12) for n in range(25)], "NonUniformSpacing"),
    ],
)
def test_read_volume__refuses_slices_that_make_no_volume(tmp_path, places, code):
    write_stack(tmp_path, places=places)
    assert isinstance(refused(tmp_path, code), GeometryRefusal)


@pytest.mark.parametrize(("aside", "refusal"), [(0.2, None), (0.3, "GantryTilt")])
def test_read_volume__takes_a_lean_of_a_thousandth_of_the_length(tmp_path, aside, refusal):
    write_stack(tmp_path, places=[(0.0, aside * n / 24, 10.0 * n) for n in range(25)])
    if refusal:
        refused(tmp_path, refusal)
    else:
        assert read_volume(one(tmp_path)).grid.spacing[2] == pytest.approx(10)


def change(keyword, value, index=2):
    return lambda made, n: setattr(made, keyword, value) if n == index else None


def remove(keyword, index=2):
    return lambda made, n: delattr(made, keyword) if n == index else None


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (change("PixelSpacing", [2.0, 3.1]), "SeriesInconsistent"),
        (lambda d, n: set_pixels(d, np.zeros((5, 6), np.int16)) if n == 1 else None, "SeriesInconsistent"),
        (change("ImageOrientationPatient", [1, 0, 0, 0, 0.99, 0.14]), "GantryTilt"),
        (lambda d, n: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "SeriesInconsistent"),
        (lambda d, n: setattr(d, "ImageOrientationPatient", [2, 0, 0, 0, 1, 0]), "SeriesInconsistent"),
        (remove("ImagePositionPatient"), "MissingGeometry"),
        (change("ImagePositionPatient", [0.0, 0.0, 2e6]), "MissingGeometry"),
        (remove("PixelSpacing", 0), "MissingGeometry"),
        (change("PixelSpacing", [0.0, 3.0], 0), "MissingGeometry"),
        (change("NumberOfFrames", 2), "MultiFrame"),
        (remove("PixelData"), "TruncatedPixels"),
        (change("PixelData", b"\0\0"), "TruncatedPixels"),
        (change("SamplesPerPixel", 3), "TruncatedPixels"),
    ],
)
def test_read_volume__refuses_a_spoiled_slice(tmp_path, edit, code):
    write_stack(tmp_path, edit=edit)
    refused(tmp_path, code)


def test_read_volume__refuses_a_lookup_table(tmp_path):
    write_stack(tmp_path, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=[pydicom.Dataset()])
    assert "lookup table" in str(refused(tmp_path, "UnsupportedPixels"))


def test_read_volume__refuses_a_pet_without_slope(tmp_path):
    write_stack(tmp_path, "PT", RescaleSlope=None)
    refused(tmp_path, "UnsupportedPixels")


def test_read_volume__interpolates_missing_slices_on_request(tmp_path):
    def ramp(made, n):
        set_pixels(made, np.full((5, 4), int(made.ImagePositionPatient[2]) * 10, np.int16))

    write_stack(tmp_path, places=[0, 3, 6, 12, 15], edit=ramp)
    volume = read_volume(one(tmp_path), gaps="interpolate")
    assert volume.grid.shape == (4, 5, 6)
    assert np.allclose(volume.array[0, 0], np.arange(6) * 30 - 1024)
    write_stack(tmp_path / "tilt", series="t", places=[(0, 0, 0), (0, 1, 3), (0, 2, 6), (0, 4, 12)])
    refused(tmp_path / "tilt", "IncompleteSeries", gaps="interpolate")
    write_stack(tmp_path / "far", series="f", places=[0, 1, 2, 500])
    assert "at most 20 times" in str(refused(tmp_path / "far", "IncompleteSeries", gaps="interpolate"))


@pytest.mark.parametrize("syntax", [f"1.2.840.10008.1.2.{n}" for n in ("5", "4.80", "4.90", "4.70")])
def test_read_volume__decodes_compressed_slices_to_the_same_values(tmp_path, syntax):
    paths = write_stack(tmp_path, "PT", shape=(40, 32))
    plain = read_volume(one(tmp_path)).array
    for path in paths:
        data = pydicom.dcmread(path)
        if syntax.endswith(("90", "70")):
            _by_simpleitk(path, "JPEG2000" if syntax.endswith("90") else "JPEG")
            continue
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read_volume(one(tmp_path)).array, plain)


def _by_simpleitk(path, compressor):
    """Compress in place; the stored values and the header stay."""
    data = pydicom.dcmread(path)
    image = sitk.GetImageFromArray(data.pixel_array)
    image.SetMetaData("0020|000d", data.StudyInstanceUID)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path) + ".tmp.dcm")
    writer.Execute(image)
    packed = Path(str(path) + ".tmp.dcm")
    made = pydicom.dcmread(packed)
    data.PixelData, data["PixelData"].VR = made.PixelData, "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = made.file_meta.TransferSyntaxUID
    data.save_as(path)
    packed.unlink()


def test_read_volume__names_the_transfer_syntax_it_cannot_decode(tmp_path):
    paths = write_stack(tmp_path)
    data = pydicom.dcmread(paths[0])
    data.PixelData = pydicom.encaps.encapsulate([b"not a picture at all"])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    data.save_as(paths[0])
    assert "JPEG Lossless" in str(refused(tmp_path, "UndecodablePixels"))


def test_slice_values__takes_an_intercept_of_any_size_as_it_is(tmp_path):
    write_stack(tmp_path, RescaleIntercept="1e20")
    assert read_volume(one(tmp_path)).array.min() == np.float32(1e20)
    write_stack(tmp_path / "far", "PT", series="far", RescaleSlope="1e38")
    assert "3.4e38" in str(refused(tmp_path / "far", "UnsupportedPixels"))


def test_read_volume__reads_big_endian_files_without_a_meta_header(tmp_path):
    write_stack(tmp_path / "little", count=2)
    expected = read_volume(one(tmp_path / "little")).array
    for path in (tmp_path / "little").iterdir():
        made = pydicom.Dataset()
        for element in pydicom.dcmread(path):
            made.add(element)
        made["PixelData"].VR = "OW"
        made.PixelData = np.frombuffer(made.PixelData, "<i2").astype(">i2").tobytes()
        (tmp_path / "big").mkdir(exist_ok=True)
        made.save_as(tmp_path / "big" / path.name, implicit_vr=False, little_endian=False)
    assert np.array_equal(read_volume(one(tmp_path / "big")).array, expected)


# ---------------------------------------------------------------- another grid


def phantom_volume(shape=(6, 7, 8), affine=None):
    rng = np.random.default_rng(3)
    if affine is None:
        affine = np.array([[-2.0, 0, 0, 5], [0, -3, 0, 9], [0, 0, 4, -20], [0, 0, 0, 1]])
    return Volume(np.asfortranarray(rng.normal(size=shape).astype(np.float32)), Grid(shape, None, affine))


def test_bring_onto__is_exact_on_a_linear_ramp_and_fills_outside():
    source = phantom_volume((10, 10, 10))
    points = source.grid.to_mm(np.argwhere(np.ones((10, 10, 10))))
    ramp = (points @ [0.5, -0.25, 2.0]).reshape(10, 10, 10)
    source = Volume(np.asfortranarray(ramp.astype(np.float32)), source.grid)
    affine = np.diag([1.7, -2.1, 3.3, 1.0])
    affine[:3, 3] = source.grid.to_mm([[7.5, 2.2, 3.1]])[0]
    target = Grid((5, 4, 12), None, affine)
    array, coverage = bring_onto(source, target, fill=-1024), coverage_fraction(source.grid, target)
    voxels = np.argwhere(np.ones(target.shape))
    place = source.grid.to_voxel(target.to_mm(voxels))
    inside = np.all((place >= -0.5) & (place <= 9.5), axis=1)
    deep = np.all((place >= 0) & (place <= 9), axis=1)
    values = array[tuple(voxels.T)]
    assert np.allclose(values[deep], (target.to_mm(voxels) @ [0.5, -0.25, 2.0])[deep], atol=1e-3)
    assert np.array_equal(values == -1024, ~inside)
    assert coverage == inside.mean()
    assert 0 < coverage < 1


def test_coverage_fraction__counts_voxels_of_an_oblique_grid():
    source = phantom_volume((12, 12, 12))
    turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    target = Grid((9, 8, 7), None, turn @ np.diag([3.0, 3, 3, 1]))
    place = source.grid.to_voxel(target.to_mm(np.argwhere(np.ones(target.shape))))
    inside = np.all((place >= -0.5) & (place <= 11.5), axis=1)
    assert 0 < inside.mean() < 1
    assert coverage_fraction(source.grid, target) == pytest.approx(inside.mean(), abs=1e-12)
    array = bring_onto(source, target, fill=-5)
    assert np.array_equal(array[tuple(np.argwhere(np.ones(target.shape)).T)] == -5, ~inside)


def test_bring_onto__follows_axes_that_are_not_at_right_angles():
    source = phantom_volume((12, 11, 10), np.array([[1.2, 0.4, 0, 0], [0, 1.1, 0.2, 0], [0.1, 0, 1, 0], [0, 0, 0, 1]]))
    target = Grid(
        (5, 5, 5), None, source.grid.affine @ np.array([[0.7, 0.2, 0, 2], [0, 0.9, 0, 2], [0, 0, 1, 2.5], [0, 0, 0, 1]])
    )
    array = bring_onto(source, target, fill=-5)
    change = np.linalg.inv(source.grid.affine) @ target.affine
    expected = affine_transform(source.array, change[:3, :3], change[:3, 3], output_shape=target.shape, order=1)
    assert np.allclose(array, expected, atol=1e-5)


def test_resample_series__brings_an_oblique_ct_onto_the_grid_within_its_limits(tmp_path):
    orientation = (0.8, 0.6, 0, -0.6, 0.8, 0)
    write_stack(tmp_path, places=[0, 3, 6, 9], shape=(12, 9), ImageOrientationPatient=list(orientation))
    series = one(tmp_path)
    target = Grid((6, 5, 3), None, np.array([[-3.0, 0, 0, 10], [0, -3, 0, 15], [0, 0, 3, 1.5], [0, 0, 0, 1]]))
    moved = resample_series(series, slice_geometry(series), target, fill=-1024, limits=(-500, 500))
    volume = read_volume(series)
    clipped = Volume(np.clip(volume.array, -500, 500), volume.grid)
    expected = np.rint(bring_onto(clipped, target, fill=-1024))
    assert np.array_equal(moved.array, expected)
    assert (moved.clipped, moved.array.dtype, moved.array.flags.f_contiguous) == (True, np.int16, True)
    assert moved.coverage == np.mean(expected != -1024)
    assert 0 < moved.coverage < 1


# ---------------------------------------------------------------- damage


def mutate(raw, rng):
    data = bytearray(raw)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.randrange(1, 12)):
        spot = rng.randrange(128, len(data))
        if kind == 1:
            data[spot] = rng.randrange(256)
        elif kind == 2:
            data[spot : spot + 4] = rng.randbytes(4)
        else:
            del data[spot : spot + rng.randrange(1, 9)]
    return bytes(data)


def read_all(folder):
    """Everything that a damaged study goes through; refusals have codes, anything else comes out."""
    scan = scan_folder(folder)
    assert all(f.code for f in scan.findings)
    outcomes = []
    for series in scan.series:
        try:
            volume = read_volume(series)
            assert np.all(np.isfinite(volume.array))
            outcomes.append("read")
        except DicomError as error:
            outcomes.append(error.code)
    try:
        choose_series(scan.series)
    except DicomError as error:
        outcomes.append(error.code)
    assert all(outcomes)
    return outcomes


def test_reading__survives_mutated_and_truncated_files(tmp_path):
    paths = write_stack(tmp_path, "PT", count=3)
    rng = random.Random(5)
    raw = paths[1].read_bytes()
    outcomes = set()
    for _ in range(200):
        paths[1].write_bytes(mutate(raw, rng))
        try:
            outcomes.update(read_all(tmp_path))
        except ClicksimError as error:
            pytest.fail(f"a refusal that was not caught where it belongs: {error}")
    assert "read" in outcomes
    assert len(outcomes) > 4, outcomes


# ---------------------------------------------------------------- real files


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("uneven", "IncompleteSeries"),
        ("irregular/sliceincrement/001", "IncompleteSeries"),
        ("irregular/sliceincrement/002", "IncompleteSeries"),
        ("irregular/gantrytilting/001", "GantryTilt"),
        ("irregular/notavolume/001", "DuplicateSlice"),
        ("eCT_Supplemental.dcm", "MultiFrame"),
    ],
)
def test_read_volume__refuses_real_ct_by_name(realdata, folder, code):
    error = refused(realdata / "tcia" / "ct" / folder, code)
    assert ("lean by" in str(error)) == ("gantry" in folder or folder.endswith("increment/002"))


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "shape", "step"),
    [("regular", (88, 128, 17), 2.0), ("irregular/slicecount/001", (256, 256, 2), 1.0)],
)
def test_read_volume__reads_regular_real_series_as_simpleitk_does(realdata, folder, shape, step):
    place = realdata / "tcia" / "ct" / folder
    volume, image = read_volume(one(place)), sitk_series(place)
    assert volume.grid.shape == shape
    assert volume.grid.spacing[2] == pytest.approx(step, abs=1e-6)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image).T)
    last = np.array(image.TransformIndexToPhysicalPoint([n - 1 for n in shape])) * (-1, -1, 1)
    assert np.allclose(volume.grid.to_mm([[n - 1 for n in shape]])[0], last, atol=1e-3)


@pytest.mark.real
def test_read_volume__applies_real_slopes_and_intercepts_slice_by_slice(realdata):
    base = realdata / "tcia" / "ct" / "per_slice_rescale"
    for folder, keyword in (("dicom_slope", "RescaleSlope"), ("dicom_intercept", "RescaleIntercept")):
        volume = read_volume(one(base / folder))
        values = []
        for k, name in enumerate(("1.dcm", "2.dcm")):
            data = pydicom.dcmread(base / folder / name)
            values.append(float(data[keyword].value))
            expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
            assert np.array_equal(volume.array[:, :, k], expected.astype(np.float32).T)
        assert values[0] != values[1]
        # 0.01 makes fractions; 1.001 times 0 does not
        assert (volume.array.dtype == np.int16) == bool(np.all(volume.array == np.rint(volume.array)))


@pytest.mark.real
def test_find_series__finds_the_19_series_of_one_real_folder(realdata):
    series = find_series(realdata / "tcia" / "ct" / "per_slice_rescale" / "dicom_4d")
    assert len(series) == 19
    assert all(read_volume(s).array.shape == (3, 2, 4) for s in series)


@pytest.mark.real
def test_read_volume__reads_the_real_pet_of_uneven_gaps_as_one_volume(realdata):
    place = realdata / "tcia" / "pet" / "sts_001_raw" / "PT"
    series = one(place)
    geometry = slice_geometry(series)
    assert sorted(set(np.round(geometry.gaps, 2))) == [3.19, 3.27, 3.29]
    volume = read_volume(series)
    assert volume.grid.shape == (128, 128, 267)
    assert volume.grid.spacing == pytest.approx((4.6875, 4.6875, (881.3 - 11.479994) / 266), abs=1e-9)
    slopes = {float(h.RescaleSlope) for h in series.headers()}
    assert len(slopes) > 200
    for k in (0, 133, 266):
        data = pydicom.dcmread(series.paths[k])
        expected = (data.pixel_array * float(data.RescaleSlope)).astype(np.float32)
        assert np.array_equal(volume.array[:, :, k], expected.T)
        assert volume.grid.to_mm([[0, 0, k]])[0, 2] == pytest.approx(float(data.ImagePositionPatient[2]), abs=0.15)


@pytest.mark.real
def test_bring_onto__brings_a_real_ct_onto_its_pet_as_simpleitk_does(realdata):
    base = realdata / "tcia" / "pet" / "sts_cropped" / "STS_001"
    pet, ct = (read_volume(one(base / name / "dicom" / "image")) for name in ("PET", "CT"))
    array, coverage = bring_onto(ct, pet.grid, fill=-1024), coverage_fraction(ct.grid, pet.grid)
    images = {name: sitk_series(base / name / "dicom" / "image") for name in ("CT", "PET")}
    expected = sitk.Resample(images["CT"], images["PET"], sitk.Transform(), sitk.sitkLinear, -1024.0, sitk.sitkFloat32)
    expected = sitk.GetArrayFromImage(expected).T
    assert array.shape == expected.shape == pet.array.shape
    # rounding of the headers' positions moves the slice planes by 1e-6 mm and, at the rim, a voxel in or out
    assert np.mean(np.abs(array - expected) > 0.01) < 1e-3
    voxels = np.argwhere(np.ones(pet.grid.shape))
    assert coverage == pytest.approx(ct.grid.holds(ct.grid.to_voxel(pet.grid.to_mm(voxels))).mean(), abs=2e-3)
    assert 0.9 < coverage <= 1


@pytest.mark.real
def test_choose_series__lists_real_masks_that_nothing_tells_apart(realdata):
    series = find_series(realdata / "tcia" / "pet" / "sts_cropped")
    with pytest.raises(DicomError, match="PET_mask") as caught:
        choose_series(series)
    assert caught.value.code == "AmbiguousSeries"
    assert choose_series(series, rule=SeriesRule(seg="PET_mask$")).seg.description == "IBSI_1_STS_001_PET_mask"

"""SEG and RTSTRUCT onto the grid of their images."""

import base64
import random
import warnings
from copy import deepcopy

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from clicksim.geometry import Grid
from converters.dicom.dicom_volume import read_volume
from converters.dicom.headers import DicomError
from converters.dicom.rtstruct import fill_polygons, read_rtstruct
from converters.dicom.segmentation import read_seg
from converters.dicom.series import find_series
from converters.dicom.slices import slice_geometry
from tests.dicom_writer import rtstruct_dataset, save, seg_dataset, uid, write_stack
from tests.test_dicom import mutate

sitk = SimpleITK

SHAPE = (4, 5, 6)
PLACES = [-30 + 3.0 * k for k in range(6)]


@pytest.fixture(scope="module")
def geometry(tmp_path_factory):
    """Slices of 4 x 5 pixels (columns x rows), 3 x 2 mm, at -30 to -15 mm."""
    folder = tmp_path_factory.mktemp("images")
    write_stack(folder, "PT", series="pet", places=PLACES)
    (series,) = find_series(folder)
    return slice_geometry(series)


def truth(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).random(shape) < 0.4


def frames_of(mask, ks, *, segment=1, reference=True):
    """Frames as a writer makes them that stores `(row, column)`."""
    return [(mask[:, :, k].T, (-10, -20, PLACES[k]), uid("pet", k) if reference else None, segment) for k in ks]


def refused(code, *args):
    with pytest.raises(DicomError) as caught:
        read_seg(*args)
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


def codes(result):
    return [code for code, _ in result.warnings]


def lowest(masks):
    """Labels of masks by number; where they overlap the lowest number."""
    out = np.zeros(next(iter(masks.values())).shape, np.uint16)
    for number in sorted(masks, reverse=True):
        out[masks[number]] = number
    return out


# ---------------------------------------------------------------- placing frames


def test_read_seg__puts_every_frame_on_its_slice(geometry, tmp_path):
    mask = truth()
    order = [3, 0, 5, 1, 4, 2]
    path = save(seg_dataset(frames_of(mask, order)), tmp_path / "seg.dcm")
    result = read_seg(path, geometry)
    assert np.array_equal(result.mask, mask)
    assert result.labels.flags.f_contiguous
    assert (result.labels.dtype, result.names, result.kind, result.frames) == (np.uint16, {1: "Tissue"}, "BINARY", 6)
    assert codes(result) == []


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
def test_read_seg__leaves_slices_without_a_frame_empty(geometry, seed, count):
    mask = truth(seed)
    kept = random.Random(seed).sample(range(6), count)
    result = read_seg(seg_dataset(frames_of(mask, kept)), geometry)
    mask[:, :, [k for k in range(6) if k not in kept]] = False
    assert np.array_equal(result.mask, mask)


def test_read_seg__reads_an_empty_segmentation(geometry):
    result = read_seg(seg_dataset(frames_of(np.zeros(SHAPE, bool), range(6))), geometry)
    assert not result.mask.any()
    assert result.names == {1: "Tissue"}


def test_read_seg__refuses_a_reference_to_a_slice_that_is_not_there(geometry):
    frames = frames_of(truth(), range(6))
    frames[4] = (*frames[4][:2], "1.2.3.4", 1)
    assert "1.2.3.4" in refused("SegReferencesMissingSlice", seg_dataset(frames), geometry)


def test_read_seg__goes_by_position_where_nothing_is_referenced(geometry):
    result = read_seg(seg_dataset(frames_of(truth(), range(6), reference=False)), geometry)
    assert np.array_equal(result.mask, truth())
    assert codes(result) == ["SegPlacedByPosition"]


@pytest.mark.parametrize(
    ("shift", "expected"), [(5e-4, []), (0.2, ["SegPositionDiffers"]), (-0.29, ["SegPositionDiffers"])]
)
def test_read_seg__tolerates_a_small_shift_along_the_normal(geometry, shift, expected):
    frames = [(a, (x, y, z + shift), u, n) for a, (x, y, z), u, n in frames_of(truth(), range(6))]
    result = read_seg(seg_dataset(frames), geometry)
    assert np.array_equal(result.mask, truth())
    assert codes(result) == expected


def test_read_seg__refuses_a_position_between_slices(geometry):
    frames = [(a, (x, y, z + 0.5), u, n) for a, (x, y, z), u, n in frames_of(truth(), range(6))]
    refused("SegPositionMismatch", seg_dataset(frames), geometry)


def test_read_seg__believes_the_position_when_the_reference_is_another_slice(geometry):
    frames = frames_of(truth(), range(6))
    frames = [(*f[:2], frames[(k + 1) % 6][2], 1) for k, f in enumerate(frames)]
    result = read_seg(seg_dataset(frames), geometry)
    assert np.array_equal(result.mask, truth())
    assert codes(result) == ["SegPositionDiffers"]


def test_read_seg__takes_the_nearest_of_several_slices_that_a_frame_references(geometry):
    made = seg_dataset(frames_of(truth(), range(6)))
    for k, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        sources = group.DerivationImageSequence[0].SourceImageSequence
        other = pydicom.Dataset()
        other.ReferencedSOPInstanceUID = uid("pet", (k + 1) % 6)
        sources.insert(0, other)
    result = read_seg(made, geometry)
    assert np.array_equal(result.mask, truth())
    assert codes(result) == []


def turned(mask, how):
    """Frames of the same mask stored with rows or columns the other way, or exchanged."""
    frames, (sx, sy) = [], (1, 1)
    for k in range(6):
        plane, x, y = mask[:, :, k].T, -10.0, -20.0
        if "c" in how:
            plane, x, sx = plane[:, ::-1], x + 3 * 3.0, -1
        if "r" in how:
            plane, y, sy = plane[::-1], y + 4 * 2.0, -1
        frames.append((plane.T if "t" in how else plane, (x, y, PLACES[k]), uid("pet", k), 1))
    first, second = (sx, 0.0, -0.0), (0.0, sy, -0.0)
    orientation = (*second, *first) if "t" in how else (*first, *second)
    return seg_dataset(frames, orientation=orientation, spacing=(3.0, 2.0) if "t" in how else (2.0, 3.0))


@pytest.mark.parametrize("how", ["", "c", "r", "cr", "t", "tc", "tr", "tcr"])
def test_read_seg__follows_rows_and_columns_that_run_the_other_way(geometry, how):
    result = read_seg(turned(truth(), how), geometry)
    assert np.array_equal(result.mask, truth())
    assert codes(result) == []


@pytest.mark.parametrize("orientation", [(0.8, 0.6, 0, -0.6, 0.8, 0), (1, 0, 0, 0, 0, -1), (1, 0, 0, 0, 0.999, 0.0447)])
def test_read_seg__refuses_an_oblique_segmentation(geometry, orientation):
    refused("SegOrientationMismatch", seg_dataset(frames_of(truth(), [0]), orientation=orientation), geometry)


def test_read_seg__puts_smaller_frames_where_they_lie(geometry):
    mask = truth()
    frames = [(mask[1:3, 2:5, k].T, (-7, -16, PLACES[k]), uid("pet", k), 1) for k in range(6)]
    result = read_seg(seg_dataset(frames), geometry)
    expected = np.zeros(SHAPE, bool)
    expected[1:3, 2:5] = mask[1:3, 2:5]
    assert np.array_equal(result.mask, expected)
    assert codes(result) == ["SegSmallerThanImages"]


@pytest.mark.parametrize(("x", "spacing"), [(-8.5, (2.0, 3.0)), (-13, (2.0, 3.0)), (-7, (2.0, 3.0)), (-10, (2.1, 3.0))])
def test_read_seg__refuses_frames_off_the_pixel_grid(geometry, x, spacing):
    frames = [(truth()[:, :, 0].T, (x, -20, PLACES[0]), uid("pet", 0), 1)]
    refused("SegGridMismatch", seg_dataset(frames, spacing=spacing), geometry)


def test_read_seg__places_frames_on_slices_with_uneven_gaps(tmp_path):
    places = [0.0, 200.0, 201.0, 203.5]
    write_stack(tmp_path, series="gaps", places=places)
    slices = slice_geometry(find_series(tmp_path)[0])
    mask = truth(shape=(4, 5, 4))
    frames = [(mask[:, :, k].T, (-10, -20, z), uid("gaps", k), 1) for k, z in enumerate(places)]
    assert np.array_equal(read_seg(seg_dataset(frames), slices).mask, mask)


def test_read_seg__tells_another_frame_of_reference(geometry):
    made = seg_dataset(frames_of(truth(), range(6)), FrameOfReferenceUID="1.2.3")
    assert codes(read_seg(made, geometry)) == ["SegFrameOfReference"]


# ---------------------------------------------------------------- kinds of segmentations


def test_read_seg__gives_a_voxel_of_several_segments_to_the_lowest_number(geometry):
    masks = {n: truth(n) for n in (1, 2, 3)}
    frames = [f for n in (2, 3, 1) for f in frames_of(masks[n], range(6), segment=n)]
    result = read_seg(seg_dataset(frames, names=("a", "b", "c")), geometry)
    assert np.array_equal(result.mask, masks[1] | masks[2] | masks[3])
    assert np.array_equal(result.labels, np.where(masks[1], 1, np.where(masks[2], 2, np.where(masks[3], 3, 0))))
    assert codes(result) == ["SegmentsOverlap"]


def test_read_seg__takes_half_of_the_maximum_as_inside(geometry):
    values = np.random.default_rng(0).integers(0, 101, SHAPE)
    values[0, 0, :4] = (49, 50, 51, 0)
    result = read_seg(seg_dataset(frames_of(values, range(6)), kind="FRACTIONAL"), geometry)
    assert np.array_equal(result.mask, values >= 50)
    assert codes(result) == ["SegFractional"]


@pytest.mark.parametrize("padding", [None, 3])
def test_read_seg__reads_the_stored_values_of_a_label_map(geometry, padding):
    values = np.random.default_rng(0).integers(0, 4, SHAPE)
    made = seg_dataset(frames_of(values, range(6)), kind="LABELMAP", names=("lesion", "Background", "node"))
    if padding:
        made.PixelPaddingValue = padding
    result = read_seg(made, geometry)
    inside = (values == 1) | ((values == 3) & (padding is None))
    assert np.array_equal(result.labels, np.where(inside, values, 0))
    assert result.names == {1: "lesion", 3: "node"}


def test_read_seg__refuses_what_contradicts_itself(geometry):
    base = frames_of(truth(), range(6))
    refused("SegInconsistent", seg_dataset(base, SegmentationType="OTHER"), geometry)
    refused("SegInconsistent", seg_dataset([(*f[:3], 9) for f in base]), geometry)
    refused("SegInconsistent", seg_dataset(base, NumberOfFrames=7), geometry)
    refused("SegInconsistent", seg_dataset(base, kind="FRACTIONAL", MaximumFractionalValue=0), geometry)
    refused("TruncatedPixels", seg_dataset(base, PixelData=b"\1\2"), geometry)
    refused("NotASegmentation", seg_dataset(base, Modality="PT"), geometry)
    refused("SegInconsistent", seg_dataset(frames_of(np.full(SHAPE, 9), [0]), kind="LABELMAP"), geometry)
    assert codes(read_seg(seg_dataset(base, NumberOfFrames=5), geometry)) == ["SegFewerFrames"]


# ---------------------------------------------------------------- highdicom as a second reader


def highdicom_seg(folder, array, kind, **settings):
    """A SEG written by highdicom over a stack that has what it asks for."""
    import highdicom as hd
    from pydicom.sr.codedict import codes as coded

    def complete(made, n):
        made.PatientName, made.PatientBirthDate, made.PatientSex = "P^1", "", "O"
        made.StudyID, made.StudyDate, made.StudyTime, made.AccessionNumber = "1", "20200101", "000000", ""
        made.SeriesNumber, made.Laterality, made.ReferringPhysicianName = 1, None, ""
        made.PositionReferenceIndicator = ""

    write_stack(folder, series="src", count=array.shape[0], shape=array.shape[1:3], edit=complete)
    (series,) = find_series(folder)
    described = [
        hd.seg.SegmentDescription(
            segment_number=n + 1,
            segment_label=f"s{n + 1}",
            segmented_property_category=coded.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=coded.SCT.Tumor,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n in range(settings.pop("segments", 1))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            source_images=[pydicom.dcmread(p) for p in series.paths],
            pixel_array=array,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=uid("hd"),
            series_number=300,
            sop_instance_uid=uid("hd", 1),
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
            omit_empty_frames=True,
            **settings,
        )
        made.save_as(folder.parent / "hd.dcm")
        read = hd.seg.segread(folder.parent / "hd.dcm")
        uids = [s.uid for s in series.slices]
        theirs = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    return folder.parent / "hd.dcm", slice_geometry(series), np.asarray(theirs)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", "1.2.840.10008.1.2.1"),
        ("LABELMAP", "1.2.840.10008.1.2.1"),
        ("LABELMAP", "1.2.840.10008.1.2.5"),
        ("LABELMAP", "1.2.840.10008.1.2.4.80"),
        ("FRACTIONAL", "1.2.840.10008.1.2.1"),
        ("FRACTIONAL", "1.2.840.10008.1.2.5"),
    ],
)
def test_read_seg__agrees_with_highdicom_on_what_it_writes(tmp_path, kind, syntax):
    rng = np.random.default_rng(4)
    array = np.zeros((6, 37, 35), np.uint8)
    array[1:3] = rng.integers(0, 2 if kind == "FRACTIONAL" else 3, (2, 37, 35))
    array[4, 5:9, 5:9] = 1
    stored = array.astype(np.float32) if kind == "FRACTIONAL" else array
    segments = 1 if kind == "FRACTIONAL" else 2
    path, geometry, theirs = highdicom_seg(
        tmp_path / "src", stored, kind, transfer_syntax_uid=syntax, segments=segments
    )
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    result = read_seg(path, geometry)
    assert np.array_equal(result.labels, array.transpose(2, 1, 0))
    for n in range(segments):
        assert np.array_equal(result.labels == n + 1, theirs[..., n].transpose(2, 1, 0) >= 0.5)


JPEG2000_BITS = (
    b"|4;u>04V?f0000X0000e00000000000000X0000e0000000000009620sm3}3;+NC0RROA1ONg5TmTb52oMk$5D*v;5Eu{;7!VK`|6~9q00BdC"
    b"Wnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+v$kN^q*00000JOBazlll+@+sJN(5P$&#e*?&X0l%a`7!}C?7J!Qs$z;(W9z25<?;zdxtCZgx"
    b"#btm0*#"
)
"""A frame of 40 rows of 33 single bits, written by OpenJPEG."""


def test_read_seg__decodes_single_bits_in_jpeg_2000(tmp_path):
    write_stack(tmp_path, series="big", places=[0.0, 3.0], shape=(40, 33))
    geometry = slice_geometry(find_series(tmp_path)[0])
    made = seg_dataset([(np.zeros((40, 33)), (-10, -20, 3.0), uid("big", 1), 1)])
    made.PixelData = pydicom.encaps.encapsulate([base64.b85decode(JPEG2000_BITS)])
    path = save(made, tmp_path / "packed.dcm", syntax="1.2.840.10008.1.2.4.90")
    frame = np.zeros((40, 33), bool)
    frame[3:17, 5:20] = frame[39, 32] = True
    frame[10, 10] = False
    result = read_seg(path, geometry)
    assert np.array_equal(result.mask[:, :, 1], frame.T)
    assert not result.mask[:, :, 0].any()


def test_read_seg__refuses_the_retired_big_endian_syntax(geometry):
    made = seg_dataset(frames_of(truth(), [0]))
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    assert "Big Endian" in refused("UndecodablePixels", made, geometry)


def test_read_seg__names_the_transfer_syntax_it_cannot_decode(geometry, tmp_path):
    made = seg_dataset(frames_of(truth(), [0]))
    made.PixelData = pydicom.encaps.encapsulate([b"no picture"])
    path = save(made, tmp_path / "packed.dcm", syntax="1.2.840.10008.1.2.4.90")
    assert "JPEG 2000" in refused("UndecodablePixels", path, geometry)


def test_read_seg__agrees_with_highdicom_on_overlapping_segments(tmp_path):
    array = np.random.default_rng(4).random((5, 20, 21, 3)) < 0.3
    array[2] = False
    path, geometry, theirs = highdicom_seg(tmp_path / "src", array.astype(np.uint8), "BINARY", segments=3)
    masks = {n + 1: theirs[..., n].transpose(2, 1, 0) > 0 for n in range(3)}
    assert np.array_equal(read_seg(path, geometry).labels, lowest(masks))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_read_seg__survives_mutated_and_truncated_files(geometry, tmp_path, kind):
    path = save(seg_dataset(frames_of(truth().astype(np.uint8), range(6)), kind=kind), tmp_path / "seg.dcm")
    raw, rng, outcomes = path.read_bytes(), random.Random(11), set()
    for _ in range(200):
        path.write_bytes(mutate(raw, rng))
        try:
            result = read_seg(path, geometry)
            assert result.labels.shape == SHAPE
            outcomes.add("read")
        except DicomError as error:
            outcomes.add(error.code)
    assert {"read", "SegInconsistent"} <= outcomes
    assert len(outcomes) > 3, outcomes


def test_read_rtstruct__survives_mutated_and_truncated_files(tmp_path):
    path = save(rtstruct_dataset([(1, square(2, 6, 0))]), tmp_path / "rt.dcm")
    raw, rng, outcomes = path.read_bytes(), random.Random(12), set()
    for _ in range(200):
        path.write_bytes(mutate(raw, rng))
        try:
            outcomes.add(read_rtstruct(path, RT_GRID).kind)
        except DicomError as error:
            outcomes.add(error.code)
    assert {"RTSTRUCT", "NotASegmentation"} <= outcomes, outcomes


# ---------------------------------------------------------------- contours

RT_GRID = Grid((12, 11, 4), None, np.diag([-1.0, -1.0, 3.0, 1.0]))
"""Voxel `(i, j, k)` lies at LPS `(i, j, 3 k)`."""


def square(low, high, k, shift=0.25):
    return np.array([[x + shift, y + shift, 3.0 * k] for x, y in ((low, low), (high, low), (high, high), (low, high))])


def test_read_rtstruct__fills_to_voxel_centres(tmp_path):
    path = save(rtstruct_dataset([(1, square(2, 6, 1))]), tmp_path / "rt.dcm")
    result = read_rtstruct(path, RT_GRID, frame_of_reference="1.2.826.0.1.3680043.8.498.2")
    expected = np.zeros(RT_GRID.shape, bool)
    expected[3:7, 3:7, 1] = True
    assert np.array_equal(result.mask, expected)
    assert (result.names, result.frames, result.warnings) == ({1: "GTV"}, 1, ())


def test_read_rtstruct__makes_holes_of_inner_contours_and_keyholes():
    ring = np.zeros(RT_GRID.shape, bool)
    ring[1:10, 1:10, 0] = True
    ring[4:7, 4:7, 0] = False
    inner = rtstruct_dataset([(1, square(0, 9, 0)), (1, square(3, 6, 0))])
    outer, hole = square(0, 9, 0), square(3, 6, 0)
    keyhole = rtstruct_dataset([(1, np.concatenate([outer, outer[:1], hole[::-1], hole[-1:]]))])
    assert np.array_equal(read_rtstruct(inner, RT_GRID).mask, ring)
    assert np.array_equal(read_rtstruct(keyhole, RT_GRID).mask, ring)


def test_read_rtstruct__keeps_structures_apart():
    made = rtstruct_dataset([(1, square(0, 6, 0)), (2, square(3, 9, 0))], names=("a", "b"))
    both = read_rtstruct(made, RT_GRID)
    alone = {
        n: read_rtstruct(rtstruct_dataset([(1, square(*at, 0))]), RT_GRID).mask for n, at in ((1, (0, 6)), (2, (3, 9)))
    }
    assert np.array_equal(both.labels, lowest(alone))
    assert (both.names, codes(both)) == ({1: "a", 2: "b"}, ["SegmentsOverlap"])


def test_read_rtstruct__joins_the_planes_of_an_object_drawn_on_thinner_slices():
    thin = [(1, square(2, 6, depth)) for depth in (0.6, 1.0, 1.4)] + [(1, square(3, 9, 1.4))]
    result = read_rtstruct(rtstruct_dataset(thin), RT_GRID)
    expected = np.zeros(RT_GRID.shape, bool)
    expected[3:7, 3:7, 1] = expected[4:10, 4:10, 1] = True
    assert np.array_equal(result.mask, expected)
    assert codes(result) == ["RtBetweenSlices"]


def test_read_rtstruct__a_hole_that_lies_a_little_askew_is_a_hole():
    ring = read_rtstruct(rtstruct_dataset([(1, square(2, 9, 1.0)), (1, square(4, 6, 1.04))]), RT_GRID)
    flat = read_rtstruct(rtstruct_dataset([(1, square(2, 9, 1.0)), (1, square(4, 6, 1.0))]), RT_GRID)
    assert np.array_equal(ring.mask, flat.mask)
    assert not ring.mask[5, 5, 1]


def test_read_rtstruct__tells_what_it_leaves_out():
    far = rtstruct_dataset([(1, square(2, 6, 0)), (1, square(2, 6, 3)), (1, square(2, 6, 9)), (1, square(8, 30, 3))])
    assert set(codes(read_rtstruct(far, RT_GRID))) == {"RtOutsideGrid", "RtSkipsSlices"}
    assert codes(read_rtstruct(rtstruct_dataset([(1, square(-5, 6, 0))]), RT_GRID)) == ["RtOutsideGrid"]
    assert codes(read_rtstruct(rtstruct_dataset([(1, square(2, 6, 0))], kind="POINT"), RT_GRID)) == ["RtNotClosed"]
    between = read_rtstruct(rtstruct_dataset([(1, square(2, 6, 0.3))]), RT_GRID)
    assert codes(between) == ["RtBetweenSlices"]
    assert between.mask[:, :, 0].any()


def test_read_rtstruct__refuses_what_it_cannot_fill():
    tilted = square(2, 6, 0)
    tilted[0, 2] = 2.0
    lone = rtstruct_dataset([(1, square(2, 6, 0)[:2])])
    for made, code in ((rtstruct_dataset([(1, tilted)]), "RtOblique"), (lone, "RtInconsistent")):
        with pytest.raises(DicomError) as caught:
            read_rtstruct(made, RT_GRID)
        assert caught.value.code == code
    stray = rtstruct_dataset([(1, square(2, 6, 0))])
    stray.ROIContourSequence[0].ReferencedROINumber = 7
    empty = deepcopy(stray)
    del empty.ROIContourSequence[0].ContourSequence
    assert not read_rtstruct(empty, RT_GRID).mask.any()
    twice = rtstruct_dataset([(1, square(2, 6, 0))], names=("a", "b"))
    twice.StructureSetROISequence[1].ROINumber = 1
    for made in (stray, twice):
        with pytest.raises(DicomError, match="RtInconsistent"):
            read_rtstruct(made, RT_GRID)
    with pytest.raises(DicomError, match="RtFrameOfReference"):
        read_rtstruct(rtstruct_dataset([(1, square(2, 6, 0))]), RT_GRID, frame_of_reference="9.9")


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=9), st.integers(0, 2**32 - 1))
def test_fill_polygons__agrees_with_counting_crossings_of_a_ray(points, seed):
    polygon = np.array(points) + np.random.default_rng(seed).uniform(0, 1e-3, (len(points), 2))
    filled = fill_polygons([polygon], (12, 11))
    for i in range(12):
        for j in range(11):
            crossings = 0
            for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                if (a[1] <= j) != (b[1] <= j):
                    x = a[0] + (j - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
                    if abs(x - i) < 1e-6:
                        break
                    crossings += x < i
            else:
                assert filled[i, j] == crossings % 2


# ---------------------------------------------------------------- real files


def image_geometry(folder):
    (series,) = [s for s in find_series(folder) if s.modality in ("CT", "PT")]
    return slice_geometry(series)


@pytest.mark.real
@pytest.mark.parametrize("name", ["24x38x3", "23x38x3"])
def test_read_seg__reads_bits_that_are_not_byte_aligned_as_the_given_truth(realdata, name):
    base = realdata / "tcia" / "seg" / "dcmqi" / name
    result = read_seg(base / "seg" / "label.seg", image_geometry(base / "image"))
    given_truth = sitk.GetArrayFromImage(sitk.ReadImage(str(base / "nrrd" / "label.nrrd"))).T
    assert np.array_equal(result.labels, given_truth)
    assert (result.names, result.warnings) == ({1: "Liver"}, ())


@pytest.mark.real
@pytest.mark.parametrize("name", ["sparse-labelmap-noppv", "sparse-labelmap-ppv5"])
def test_read_seg__reads_sparse_real_label_maps(realdata, name):
    base = realdata / "tcia" / "seg" / "dcmqi"
    result = read_seg(base / f"{name}.dcm", image_geometry(base / "24x38x3" / "image"))
    stored = pydicom.dcmread(base / f"{name}.dcm").pixel_array
    assert np.array_equal(result.labels[:, :, 0], (stored[0] == 1).T)
    assert np.array_equal(result.labels[:, :, 2], (stored[1] == 1).T)
    assert not result.labels[:, :, 1].any()
    assert result.labels.sum() == 630
    assert result.names == {1: "Liver"}


@pytest.mark.real
def test_read_seg__reads_real_segments_on_the_slices_that_they_reference(realdata):
    base = realdata / "tcia" / "seg"
    geometry = image_geometry(base / "dcmqi" / "ct-3slice")
    counts = {}
    for name in ("dcmqi/liver", "pydicom/liver", "pydicom/liver_1frame", "pydicom/liver_nonbyte_aligned"):
        made = pydicom.dcmread(base / f"{name}.dcm")
        result = read_seg(base / f"{name}.dcm", geometry)
        stored = made.pixel_array.reshape(-1, made.Rows, made.Columns)
        expected = np.zeros(geometry.shape, bool)
        for k, frame in enumerate(stored):
            # the frames run from -128.69 mm upwards, as the slices do
            expected[: made.Columns, : made.Rows, k] = frame.T
        assert np.array_equal(result.mask, expected)
        counts[name] = (int(result.mask.sum()), codes(result))
    assert counts["dcmqi/liver"] == counts["pydicom/liver"] == (107098, [])
    assert counts["pydicom/liver_1frame"] == (36233, ["SegFewerFrames"])
    assert counts["pydicom/liver_nonbyte_aligned"] == (107098, ["SegSmallerThanImages"])


@pytest.mark.real
def test_read_seg__reads_the_five_real_overlapping_segments(realdata):
    base = realdata / "tcia" / "seg" / "dcmqi"
    geometry = image_geometry(base / "ct-3slice")
    made = pydicom.dcmread(base / "partial_overlaps.dcm")
    result = read_seg(base / "partial_overlaps.dcm", geometry)
    expected = {n: np.zeros(geometry.shape, bool) for n in range(1, 6)}
    heights = {-128.690002: 0, -127.690002: 1, -126.690002: 2}
    for group, frame in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        k = heights[float(group.PlanePositionSequence[0].ImagePositionPatient[2])]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        expected[number][:, :, k] |= frame.T > 0
    assert np.array_equal(result.labels, lowest(expected))
    assert result.names == {1: "GREEN", 2: "ORANGE", 3: "PURPLE", 4: "LIGHT_BLUE", 5: "DARK_BLUE"}


@pytest.mark.real
@pytest.mark.parametrize("name", ["binary", "binary_overlap", "binary_fractional", "true_fractional", "single"])
def test_read_seg__reads_real_files_as_highdicom_does(realdata, name):
    import highdicom as hd

    base = realdata / "tcia"
    single = name == "single"
    path = base / "seg" / "highdicom" / f"seg_image_ct_{'binary_single_frame' if single else name}.dcm"
    source = base / "seg" / "highdicom" / "ct_image.dcm" if single else base / "ct" / "uneven"
    geometry = image_geometry(source)
    result = read_seg(path, geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = hd.seg.segread(path).get_pixels_by_source_instance(
            list(geometry.uids), assert_missing_frames_are_empty=True
        )
    masks = {n: np.asarray(theirs)[..., n - 1].transpose(2, 1, 0) >= 0.5 for n in result.names}
    assert np.array_equal(result.labels, lowest(masks))
    assert result.mask.any()


@pytest.mark.real
@pytest.mark.parametrize("name", ["PET", "CT"])
def test_read_rtstruct__equals_the_given_real_mask(realdata, name, capsys):
    base = realdata / "tcia" / "pet" / "sts_cropped" / "STS_001" / name
    (series,) = find_series(base / "dicom" / "image")
    result = read_rtstruct(base / "dicom" / "mask" / "RS.dcm", read_volume(series).grid)
    given_truth = sitk.GetArrayFromImage(sitk.ReadImage(str(base / "nifti" / "mask" / "mask.nii.gz"))).T > 0
    dice = 2 * np.sum(given_truth & result.mask) / (given_truth.sum() + result.mask.sum())
    with capsys.disabled():
        print(f"\nRTSTRUCT on {name}: Dice {dice:.6f} with the given mask of {given_truth.sum()} voxels")
    assert dice == 1.0


@pytest.mark.real
def test_read_rtstruct__puts_the_same_contours_on_the_whole_real_pet(realdata):
    base = realdata / "tcia" / "pet"
    (series,) = find_series(base / "sts_001_raw" / "PT")
    grid = read_volume(series).grid
    result = read_rtstruct(base / "sts_001_raw" / "RTSTRUCT" / "1-1.dcm", grid)
    assert result.names == {1: "GTV_Mass", 2: "GTV_Edema"}
    given_truth = base / "sts_cropped" / "STS_001" / "PET" / "nifti" / "mask" / "mask.nii.gz"
    assert np.count_nonzero(result.labels == 1) == sitk.GetArrayFromImage(sitk.ReadImage(str(given_truth))).sum()

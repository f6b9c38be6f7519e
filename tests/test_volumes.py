"""Image files: nibabel and SimpleITK as oracles, round trips, and one spoiled file per refusal."""

import contextlib
import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, GeometryError, ImageError, LabelError, StorageError, TruncatedError
from clicksim.geometry import Grid
from clicksim.volumes import case_id_of, digest_voxels, read_grid, read_image, read_label, write_image
from tests import strategies

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2.5, 0, -3], [0, 0, 3, 4], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)
GRID = Grid(SHAPE, (2.0, 2.5, 3.0), AFFINE)
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
ENDINGS = [".nii", ".nii.gz", ".mha"]
NIFTI = [".nii", ".nii.gz"]


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Numbers over a good part of the type's range."""
    rng = np.random.default_rng(5)
    if dtype[-2] == "f":
        return rng.normal(0, 1e3, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, np.dtype(dtype).newbyteorder("=")).astype(dtype)


def nifti_bytes(array: NDArray[Any], *, endian: str = "<", kind: Any = nib.Nifti1Header, **fields: Any) -> bytes:
    """A NIfTI file byte by byte, with any header fields."""
    header = kind(endianness=endian)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(AFFINE, code=2)
    header["pixdim"][1:4] = 2.0, 2.5, 3.0
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(endian)).tobytes("F")


def open_files() -> int:
    """How many there are, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def save(file: Path, raw: bytes) -> Path:
    file.write_bytes(gzip.compress(raw, 1) if file.name.endswith(".gz") else raw)
    return file


def mha_bytes(
    array: NDArray[Any] | None = None, *, packed: bool = False, data: bytes | None = None, **fields: Any
) -> bytes:
    stored = values("i2") if array is None else array
    block = stored.tobytes("F") if data is None else data
    block = zlib.compress(block) if packed else block
    if packed:
        fields = {"CompressedDataSize": len(block), **fields}
    lines = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "CompressedData": packed, "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "2 2.5 3", "DimSize": "7 6 5", "ElementType": "MET_SHORT", **fields,
        "ElementDataFile": fields.get("ElementDataFile", "LOCAL"),
    }  # fmt: skip
    order = [k for k in lines if k != "ElementDataFile"] + ["ElementDataFile"]
    return "".join(f"{k} = {lines[k]}\n" for k in order).encode() + block


# reading


@pytest.mark.parametrize("ending", NIFTI)
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scaling", [None, (1, 0), (0, 7), (np.nan, 7), (0.013, 2.5), (1, 3), (1 / 255, 0), (-2, 0)])
def test_read_image__agrees_with_nibabel(
    tmp_path: Path, ending: str, endian: str, dtype: str, scaling: tuple[float, float] | None
) -> None:
    fields = {} if scaling is None else {"scl_slope": scaling[0], "scl_inter": scaling[1]}
    file = save(tmp_path / f"a{ending}", nifti_bytes(values(dtype), endian=endian, **fields))
    volume = read_image(file)
    image: Any = nib.load(file)
    expected = np.asanyarray(image.dataobj)
    assert volume.array.dtype == expected.dtype.newbyteorder("=")
    assert volume.array.dtype.isnative
    assert np.array_equal(volume.array, expected)
    assert np.array_equal(volume.array.astype(np.float64), image.get_fdata())
    assert np.array_equal(volume.grid.affine, image.affine)
    assert volume.grid.spacing == (2.0, 2.5, 3.0)
    assert volume.array.flags.f_contiguous
    assert volume.array.flags.writeable
    assert volume.path == str(file)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_read_image__agrees_with_nibabel_on_nifti_2_and_a_late_first_voxel(tmp_path: Path, endian: str) -> None:
    raw = nifti_bytes(values("i2"), endian=endian, kind=nib.Nifti2Header, vox_offset=544 + 16)
    for ending in NIFTI:
        file = save(tmp_path / f"a{ending}", raw[:544] + bytes(16) + raw[544:])
        assert np.array_equal(read_image(file).array, np.asanyarray(nib.load(file).dataobj))
        assert np.array_equal(read_image(file).array, values("i2"))


@pytest.mark.parametrize(("sform", "qform"), [(2, 0), (0, 1), (1, 1), (0, 0)])
def test_read_grid__takes_the_sform_then_the_qform(tmp_path: Path, sform: int, qform: int) -> None:
    image = nib.Nifti1Image(values("f4"), None)
    image.set_sform(AFFINE + np.diag([0, 0, 0.5, 0]), code=sform)
    image.set_qform(AFFINE, code=qform)
    for ending in NIFTI:
        nib.save(image, tmp_path / f"a{ending}")
        grid = read_grid(tmp_path / f"a{ending}")
        assert np.array_equal(grid.affine, nib.load(tmp_path / f"a{ending}").affine)
        assert grid.spacing == (2.0, 2.5, 3.0)
        assert grid == read_image(tmp_path / f"a{ending}").grid


def test_read_image__mends_small_faults_of_a_header_as_nibabel_does_but_silently(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    faults = {"pixdim": [0, 2, 2.5, 3, 0, 0, 0, 0], "sform_code": 99, "qform_code": 1, "bitpix": 8}
    file = save(tmp_path / "a.nii", nifti_bytes(values("f4"), **faults))
    grid = read_image(file).grid
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])
    assert np.array_equal(grid.affine, nib.load(file).affine)


def test_read_grid__takes_huge_numbers_without_a_warning(tmp_path: Path) -> None:
    huge = {"srow_x": [1e200, 0, 0, 0], "srow_y": [0, 1e200, 0, 0], "srow_z": [0, 0, 1e200, 0]}
    raw = nifti_bytes(values("f4"), kind=nib.Nifti2Header, **huge)
    grid = read_grid(save(tmp_path / "a.nii", raw))
    assert grid.spacing == (2.0, 2.5, 3.0)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_read_image__agrees_with_simpleitk(tmp_path: Path, dtype: str, packed: bool) -> None:
    image = sitk.GetImageFromArray(values(dtype).T)
    image.SetSpacing((2.0, 2.5, 3.0))
    image.SetOrigin((1.0, -20.0, 300.0))
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    file = tmp_path / "a.mha"
    sitk.WriteImage(image, str(file), packed)
    volume = read_image(file)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, values(dtype))
    assert volume.array.flags.f_contiguous
    assert volume.grid.spacing == (2.0, 2.5, 3.0)
    for index in [(0, 0, 0), (6, 5, 4), (1, 2, 3)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(volume.grid.to_mm([index]), [(-x, -y, z)])
    assert read_grid(file) == volume.grid


def test_read_image__reads_big_endian_metaimages(tmp_path: Path) -> None:
    for packed in (True, False):
        raw = mha_bytes(values(">i2"), packed=packed, BinaryDataByteOrderMSB=True)
        file = save(tmp_path / "a.mha", raw)
        assert np.array_equal(read_image(file).array, sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T)
        assert np.array_equal(read_image(file).array, values("i2"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 1), (3, 4, 5, 1), (3, 4, 5, 1, 1)])
@pytest.mark.parametrize("ending", NIFTI)
def test_read_image__drops_trailing_axes_of_length_1(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    file = save(tmp_path / f"a{ending}", nifti_bytes(values("f4", shape)))
    assert np.array_equal(read_image(file).array, values("f4", shape).reshape(shape[:3]))
    assert read_grid(file).shape == shape[:3]


def test_read_image__takes_several_gzip_members(tmp_path: Path) -> None:
    raw = nifti_bytes(values("f4"))
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]))
    assert np.array_equal(read_image(file).array, values("f4"))


@pytest.mark.parametrize("ending", NIFTI)
def test_read_image__takes_a_short_tail_and_refuses_a_long_one(tmp_path: Path, ending: str) -> None:
    raw = nifti_bytes(values("f4"))
    assert np.array_equal(read_image(save(tmp_path / f"a{ending}", raw + bytes(1 << 20))).array, values("f4"))
    file = save(tmp_path / f"a{ending}", raw + bytes((1 << 20) + 1))
    with pytest.raises(ImageError, match="after the image"):
        read_image(file)
    if ending == ".nii":
        with pytest.raises(ImageError, match="after the image"):
            read_grid(file)


@pytest.mark.parametrize("ending", ENDINGS)
def test_read_image__leaves_no_file_open_and_prints_nothing(
    tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"a{ending}"
    write_image(file, values("f4"), GRID)
    before = open_files()
    for cut in range(0, file.stat().st_size, 37):
        (tmp_path / f"b{ending}").write_bytes(file.read_bytes()[:cut])
        with pytest.raises(ClicksimError, match=r"b\."):
            read_image(tmp_path / f"b{ending}")
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


# refusals

RAW = nifti_bytes(values("f4"))
BAD_NIFTI: dict[str, tuple[bytes, type[ClicksimError], str]] = {
    "0 bytes of content": (b"", ImageError, "empty|not a NIfTI"),
    "text": (b"hello world" * 100, ImageError, "not a NIfTI file"),
    "cut in the header": (RAW[:200], TruncatedError, "ends inside its header: 200 of 348"),
    "cut in the image": (RAW[:-1], TruncatedError, "cut off|cut"),
    "pair": (nifti_bytes(values("f4"), magic=b"ni1"), ImageError, "half of a .hdr/.img pair"),
    "analyze": (nifti_bytes(values("f4"), magic=b""), ImageError, "not a NIfTI file"),
    "2-D": (nifti_bytes(values("f4", (5, 6))), ImageError, r"2-D, of shape \(5, 6\)"),
    "4-D": (nifti_bytes(values("f4", (5, 6, 7, 2))), ImageError, r"4-D, of shape \(5, 6, 7, 2\).*one frame"),
    "complex": (nifti_bytes(np.zeros(SHAPE, "c8")), ImageError, "complex, complex64; allowed"),
    "colour": (
        nifti_bytes(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), ImageError, r"colour \(RGB\)"
    ),
    "unknown type": (nifti_bytes(values("f4"), datatype=77), ImageError, "data code 77"),
    "no dimensions": (nifti_bytes(values("f4"), dim=[0] * 8), ImageError, "impossible dimensions"),
    "negative dimension": (nifti_bytes(values("f4"), dim=[3, 7, -6, 5, 1, 1, 1, 1]), ImageError, "impossible shape"),
    "zero dimension": (nifti_bytes(values("f4"), dim=[3, 7, 0, 5, 1, 1, 1, 1]), ImageError, "impossible shape"),
    "terabytes": (
        nifti_bytes(values("f4"), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), TruncatedError, "promises 108000000000352"
    ),
    "more than it holds": (nifti_bytes(values("f4"), dim=[3, 7, 6, 6, 1, 1, 1, 1]), TruncatedError, "cut off"),
    "early first voxel": (nifti_bytes(values("f4"), vox_offset=4), ImageError, "offset 4|byte 4 "),
    "no first voxel": (nifti_bytes(values("f4"), vox_offset=0), ImageError, "begin at byte 0;"),
    "broken first voxel": (nifti_bytes(values("f4"), vox_offset=352.5), ImageError, "byte 352.5"),
    "NaN first voxel": (nifti_bytes(values("f4"), vox_offset=np.nan), ImageError, "byte nan"),
    "far first voxel": (nifti_bytes(values("f4"), vox_offset=1e30), TruncatedError, "promises"),
    "negative spacing": (nifti_bytes(values("f4"), pixdim=[1, 2, -2, 3, 0, 0, 0, 0]), GeometryError, r"2.0, -2.0, 3.0"),
    "zero spacing": (nifti_bytes(values("f4"), pixdim=[1, 0, 2, 3, 0, 0, 0, 0]), GeometryError, r"\(0.0, 2.0, 3.0\)"),
    "NaN spacing": (nifti_bytes(values("f4"), pixdim=[1, np.nan, 2, 3, 0, 0, 0, 0]), GeometryError, "nan"),
    "singular affine": (nifti_bytes(values("f4"), srow_x=[0, 0, 0, 0]), GeometryError, "affine is singular"),
    "infinite affine": (nifti_bytes(values("f4"), srow_x=[np.inf, 0, 0, 0]), GeometryError, "finite"),
    "infinite intercept": (nifti_bytes(values("f4"), scl_slope=2, scl_inter=np.inf), ImageError, "intercept"),
}  # fmt: skip


@pytest.mark.parametrize("ending", NIFTI)
@pytest.mark.parametrize("spoiled", BAD_NIFTI)
def test_read_image__refuses_nifti(
    tmp_path: Path, spoiled: str, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    raw, kind, reason = BAD_NIFTI[spoiled]
    file = save(tmp_path / f"a{ending}", raw)
    with pytest.raises(kind, match=reason) as caught:
        read_image(file)
    assert str(caught.value).endswith(f"({file})")
    assert capfd.readouterr() == ("", "")
    if not spoiled.startswith("cut in the image") and (spoiled, ending) != ("more than it holds", ".nii.gz"):
        with pytest.raises(kind, match=reason):
            read_grid(file)


BAD_MHA: dict[str, tuple[bytes, type[ClicksimError], str]] = {
    "text": (b"hello world\n" * 100, ImageError, "not a MetaImage file"),
    "noise": (bytes(range(256)) * 10, ImageError, "not a MetaImage file"),
    "blanks": (b" " * 100_000, ImageError, "not a MetaImage file"),
    "cut in the header": (mha_bytes()[:100], ImageError, "not a MetaImage file"),
    "cut in the image": (mha_bytes()[:-1], TruncatedError, "the file holds"),
    "cut in the stream": (mha_bytes(packed=True, CompressedDataSize=0)[:-20], TruncatedError, "cut off"),
    "cut in the checksum": (mha_bytes(packed=True, CompressedDataSize=0)[:-2], TruncatedError, "cut off"),
    "stream of too few bytes": (mha_bytes(packed=True, data=bytes(400)), TruncatedError, "after 400 of 420"),
    "stream of too many bytes": (mha_bytes(packed=True, data=bytes(2 << 20)), ImageError, "goes on"),
    "long tail": (mha_bytes() + bytes(2 << 20), ImageError, "goes on for"),
    "cut by its own word": (mha_bytes(packed=True, CompressedDataSize=9999), TruncatedError, "promises 9999"),
    "terabytes": (mha_bytes(DimSize="30000 30000 30000"), TruncatedError, "promises 54000000000"),
    "packed terabytes": (mha_bytes(packed=True, DimSize="30000 30000 30000"), TruncatedError, "holds at most"),
    "2-D": (mha_bytes(NDims=2, DimSize="7 30", ElementSpacing="1 1", Offset="0 0"), ImageError, "2-D"),
    "4-D": (mha_bytes(NDims=4, DimSize="7 6 1 5"), ImageError, r"4-D, of shape \(7, 6, 1, 5\)"),
    "lies about its axes": (mha_bytes(NDims=2), ImageError, "NDims is '2', DimSize '7 6 5'"),
    "negative dimension": (mha_bytes(DimSize="7 -6 5"), ImageError, "impossible shape"),
    "dimension in words": (mha_bytes(DimSize="7 six 5"), ImageError, "'six'"),
    "colour": (mha_bytes(ElementNumberOfChannels=3), ImageError, "3 x MET_SHORT; allowed"),
    "unknown type": (mha_bytes(ElementType="MET_STRING"), ImageError, "MET_STRING; allowed"),
    "other file": (mha_bytes(ElementDataFile="a.raw"), ImageError, "another file, 'a.raw'"),
    "voxels as text": (mha_bytes(BinaryData=False), ImageError, "voxels as text"),
    "negative spacing": (mha_bytes(ElementSpacing="2 -2.5 3"), GeometryError, "-2.5"),
    "zero spacing": (mha_bytes(ElementSpacing="2 0 3"), GeometryError, "0.0"),
    "NaN spacing": (mha_bytes(ElementSpacing="2 nan 3"), GeometryError, "nan"),
    "singular direction": (mha_bytes(TransformMatrix="1 0 0 1 0 0 0 0 1"), GeometryError, "affine is singular"),
}


@pytest.mark.parametrize("spoiled", BAD_MHA)
def test_read_image__refuses_metaimage(tmp_path: Path, spoiled: str, capfd: pytest.CaptureFixture[str]) -> None:
    raw, kind, reason = BAD_MHA[spoiled]
    file = save(tmp_path / "a.mha", raw)
    with pytest.raises(kind, match=reason) as caught:
        read_image(file)
    assert str(caught.value).endswith(f"({file})")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_read_image__notices_every_damaged_byte_of_a_compressed_stream(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    write_image(file, np.zeros(SHAPE, np.uint8), GRID)
    good = file.read_bytes()
    first = 10 if ending == ".nii.gz" else good.index(b"LOCAL\n") + 6
    accepted = 0
    for position in range(first, len(good)):
        file.write_bytes(good[:position] + bytes([good[position] ^ 16]) + good[position + 1 :])
        with contextlib.suppress(ClicksimError):
            volume = read_image(file)
            accepted += 1
            assert volume.grid == GRID
            assert not volume.array.any()
    # padding bits, and two bits of a zlib header, say nothing about the data
    assert accepted <= 2


@pytest.mark.parametrize("ending", ENDINGS)
def test_read_image__refuses_what_is_no_file(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    for read in (read_image, read_grid, read_label):
        with pytest.raises(ImageError, match="there is no such file"):
            read(file)
    file.touch()
    with pytest.raises(ImageError, match="empty: 0 bytes"):
        read_image(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(ImageError, match="a folder or a device"):
        read_image(file)
    file.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)
        with pytest.raises(ImageError, match="a folder or a device"):
            read_image(file)


def test_read_image__says_so_where_the_ending_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(RAW)
    (tmp_path / "a.nii").write_bytes(gzip.compress(RAW))
    with pytest.raises(ImageError, match=r"not gzip-compressed; if it is NIfTI, name it \.nii "):
        read_image(tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=r"is gzip-compressed; if it is NIfTI, name it \.nii\.gz "):
        read_image(tmp_path / "a.nii")


@given(st.sampled_from(ENDINGS), st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), min_size=1, max_size=4))
def test_read_image__reads_or_refuses_any_damaged_header(
    tmp_path_factory: pytest.TempPathFactory, ending: str, damage: list[tuple[int, int]]
) -> None:
    file = tmp_path_factory.getbasetemp() / f"damaged{ending}"
    raw = bytearray(mha_bytes() if ending == ".mha" else RAW)
    for position, byte in damage:
        raw[min(position, len(raw) - 1)] = byte
    save(file, bytes(raw))
    with contextlib.suppress(ClicksimError):
        read_image(file)


# labels


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8"])
def test_read_label__keeps_the_type_of_whole_numbers(tmp_path: Path, dtype: str) -> None:
    labels = (np.arange(210) % 100).reshape(SHAPE).astype(dtype)
    write_image(tmp_path / "a.nii.gz", labels, GRID)
    read = read_label(tmp_path / "a.nii.gz").array
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read, labels)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "i4"), (2**31 - 1, "i4")]
)
def test_read_label__makes_floats_the_smallest_type_that_fits(tmp_path: Path, largest: int, dtype: str) -> None:
    labels = np.zeros(SHAPE)
    labels[3, 2, 1] = largest
    labels[3, 2, 2] = -0.0
    labels[0, 0, 0] = 0.0009
    labels[0, 0, 1] = -0.0009
    labels[3, 2, 1] -= 0.0005 * (largest > 0)
    write_image(tmp_path / "a.nii.gz", labels, GRID)
    read = read_label(tmp_path / "a.nii.gz").array
    assert read.dtype == np.dtype(dtype)
    assert read.flags.f_contiguous
    assert read[3, 2, 1] == largest
    assert np.count_nonzero(read) == (largest > 0)


def test_read_label__mends_masks_stored_with_a_slope_of_1_over_255(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2, 3] = 255
    file = save(tmp_path / "a.nii.gz", nifti_bytes(mask, scl_slope=1 / 255, scl_inter=0))
    assert read_image(file).array.max() != 1.0
    read = read_label(file).array
    assert read.dtype == np.uint8
    assert np.array_equal(read, mask == 255)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([0.5], "found 0.5 "),
        ([0.002], "found 0.002 "),
        ([-1.0], "found -1 "),
        ([np.nan, np.nan], "found nan "),
        ([np.inf], "found inf "),
        ([2.0**31], "found 2.14748365e.09 "),
        ([1.5, -3.0, 1.5], "found -3, 1.5 "),
        (list(np.arange(30) + 0.25), r"0.25, (\d+.25, ){8}\d+.25 and more "),
    ],
)
def test_read_label__refuses_and_names(tmp_path: Path, wrong: list[float], reason: str) -> None:
    labels = np.ones(SHAPE)
    labels.reshape(-1)[: len(wrong)] = wrong
    write_image(tmp_path / "a.nii", labels, GRID)
    with pytest.raises(LabelError, match=f"{reason}.*a.nii.*label image"):
        read_label(tmp_path / "a.nii")


def test_read_label__refuses_negative_whole_numbers(tmp_path: Path) -> None:
    labels = np.ones(SHAPE, np.int16)
    labels[0, 0, :2] = -7, -2
    write_image(tmp_path / "a.mha", labels, GRID)
    with pytest.raises(LabelError, match="found -7, -2 "):
        read_label(tmp_path / "a.mha")


# writing


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", TYPES)
def test_write_image__is_read_back_here_and_elsewhere(tmp_path: Path, ending: str, dtype: str) -> None:
    file = tmp_path / f"a{ending}"
    write_image(file, values(dtype), GRID)
    volume = read_image(file)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, values(dtype))
    assert volume.grid == GRID
    image = sitk.ReadImage(str(file))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, values(dtype))
    x, y, z = image.TransformIndexToPhysicalPoint((1, 2, 3))
    assert np.allclose(GRID.to_mm([(1, 2, 3)]), [(-x, -y, z)])
    if ending != ".mha":
        other: Any = nib.load(file)
        assert np.array_equal(np.asanyarray(other.dataobj), values(dtype))
        assert np.array_equal(other.affine, AFFINE)
        assert np.allclose(other.get_qform(), AFFINE, atol=1e-5)
        assert (int(other.header["sform_code"]), int(other.header["qform_code"])) == (1, 1)
        assert other.header.get_xyzt_units()[0] == "mm"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("ending", ENDINGS)
def test_write_image__keeps_places_where_the_spacing_is_another_than_that_of_the_affine(
    tmp_path: Path, ending: str
) -> None:
    grid = Grid(SHAPE, (2.1, 2.1, 3.0), AFFINE)
    write_image(tmp_path / f"a{ending}", values("f4"), grid)
    back = read_image(tmp_path / f"a{ending}").grid
    assert back.same_as(grid)
    own = Grid(SHAPE, affine=AFFINE).spacing
    assert back.spacing == pytest.approx(own if ending == ".mha" else grid.spacing)


@given(
    arrays(np.float32, st.tuples(*[st.integers(1, 6)] * 3)),
    st.sampled_from(ENDINGS),
    st.tuples(*[st.floats(0.1, 10)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.booleans(),
)
def test_write_image__keeps_voxels_and_places(
    tmp_path_factory: pytest.TempPathFactory,
    array: NDArray[np.float32],
    ending: str,
    spacing: tuple[float, float, float],
    quaternion: tuple[float, float, float, float],
    origin: tuple[float, float, float],
    flipped: bool,
) -> None:
    turn = nib.quaternions.quat2mat(np.array(quaternion)) * ([1, 1, -1] if flipped else 1)
    affine = nib.affines.from_matvec(turn * spacing, origin)
    grid = Grid(array.shape, spacing, affine)
    file = tmp_path_factory.getbasetemp() / f"any{ending}"
    write_image(file, array, grid)
    volume = read_image(file)
    assert np.array_equal(volume.array, array, equal_nan=True)
    assert volume.grid.same_as(grid, tolerance_mm=1e-3)
    assert np.allclose(volume.grid.spacing or 0, spacing, rtol=1e-6)
    assert read_grid(file) == volume.grid


@pytest.mark.parametrize("ending", ENDINGS)
def test_write_image__gives_equal_bytes_for_equal_arrays(tmp_path: Path, ending: str) -> None:
    array = values("f4")
    strided = np.empty((14, 6, 5), np.float32)[::2]
    strided[:] = array
    files = []
    for number, same in enumerate([array, np.asfortranarray(array), strided, array.astype(">f4")]):
        write_image(tmp_path / f"{number}{ending}", same, GRID)
        files.append((tmp_path / f"{number}{ending}").read_bytes())
    assert len(set(files)) == 1
    if ending == ".nii.gz":
        assert files[0][3:8] == bytes(5)  # no name, no time
    write_image(tmp_path / f"other{ending}", array + 1, GRID)
    assert (tmp_path / f"other{ending}").read_bytes() != files[0]


@pytest.mark.parametrize("ending", ENDINGS)
def test_write_image__stores_a_mask_as_uint8(tmp_path: Path, ending: str) -> None:
    mask = values("f4") > 0
    write_image(tmp_path / f"a{ending}", mask, GRID)
    assert read_label(tmp_path / f"a{ending}").array.dtype == np.uint8
    assert np.array_equal(read_label(tmp_path / f"a{ending}").array, mask)


def test_write_image__has_no_qform_for_a_sheared_affine(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 1.0
    write_image(tmp_path / "a.nii", values("f4"), Grid(SHAPE, affine=affine))
    image: Any = nib.load(tmp_path / "a.nii")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    assert np.array_equal(image.affine, affine)


@pytest.mark.parametrize("ending", NIFTI)
def test_write_image__writes_nifti_2_where_an_axis_needs_it(tmp_path: Path, ending: str) -> None:
    long = values("u1", (40_000, 1, 2))
    write_image(tmp_path / f"a{ending}", long, Grid(long.shape, affine=AFFINE))
    assert np.array_equal(read_image(tmp_path / f"a{ending}").array, long)
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / f"a{ending}").dataobj), long)


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_write_image__takes_over_the_header_of_another_image(tmp_path: Path, kind: Any, endian: str) -> None:
    raw = nifti_bytes(
        values("i2"), kind=kind, endian=endian, scl_slope=3, descrip=b"scanner 7", srow_x=[-2.0000002, 0, 0, 10]
    )
    like = save(tmp_path / "like.nii.gz", raw)
    write_image(tmp_path / "a.nii.gz", values("f4"), read_grid(like), like=like)
    image: Any = nib.load(tmp_path / "a.nii.gz")
    assert image.header["descrip"].item() == b"scanner 7"
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (2, 0)
    assert np.array_equal(image.affine, nib.load(like).affine)
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array, values("f4"))
    write_image(tmp_path / "a.mha", values("f4"), GRID, like=like)
    write_image(tmp_path / "b.nii", values("f4"), GRID, like=tmp_path / "a.mha")
    with pytest.raises(GeometryError, match="different grids"):
        write_image(tmp_path / "c.nii", values("f4"), GRID.flip(0), like=like)
    assert not (tmp_path / "c.nii").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_write_image__refuses_what_it_cannot_store(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    with pytest.raises(GeometryError, match=r"this grid has no affine.*a\."):
        write_image(file, values("f4"), Grid(SHAPE, (2.0, 2.5, 3.0)))
    with pytest.raises(GeometryError, match=r"shape \(7, 6\), its grid \(7, 6, 5\)"):
        write_image(file, values("f4")[:, :, 0], GRID)
    for dtype in (np.complex64, np.float16, np.longdouble, "M8[s]"):
        with pytest.raises(ImageError, match=r"cannot be stored; allowed: .*a\."):
            write_image(file, np.zeros(SHAPE, dtype), GRID)
    with pytest.raises(ImageError, match="its folder does not exist"):
        write_image(tmp_path / "nowhere" / f"a{ending}", values("f4"), GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_write_image__leaves_the_old_file_when_it_fails(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"a{ending}"
    write_image(file, values("f4"), GRID)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*a\."):
            write_image(file, values("f8"), GRID)
    assert np.array_equal(read_image(file).array, values("f4"))
    assert list(tmp_path.iterdir()) == [file]
    write_image(file, values("f8"), GRID)
    assert read_image(file).array.dtype == np.float64


def test_write_image__refuses_the_name_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(ImageError, match="a folder of this name"):
        write_image(tmp_path / "a.nii", values("f4"), GRID)
    assert len(list(tmp_path.iterdir())) == 1


# names


@pytest.mark.parametrize(
    ("path", "case"),
    [
        ("labels/fdg_1-PET-CT Ganzkoerper  primaer mit KM.nii.gz", "fdg_1-PET-CT Ganzkoerper  primaer mit KM"),
        ("a.b.nii", "a.b"),
        ("a.nii.nii.gz", "a.nii"),
        ("/x/y.mha", "y"),
    ],
)  # fmt: skip
def test_case_id_of__is_the_name_byte_for_byte(path: str, case: str) -> None:
    assert case_id_of(path) == case
    assert case_id_of(Path(path)) == case


@pytest.mark.parametrize("name", ["a.nrrd", "a.gz", "a", "a.NII", "a.nii.bz2", ".nii", ".nii.gz"])
def test_case_id_of__refuses_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"no ending of a known image format; allowed: \.nii\.gz, \.nii, \.mha"):
        case_id_of(name)
    with pytest.raises(ImageError):
        read_image(tmp_path / name)


@pytest.mark.real
def test_read_label__agrees_with_nibabel_on_a_published_label(realdata: Path) -> None:
    files = sorted((realdata / "autopet").rglob("*.nii.gz"))
    if not files:
        pytest.skip("no image among the real data")
    for file in files:
        image: Any = nib.load(file)
        volume = read_image(file)
        assert np.array_equal(volume.array, np.asanyarray(image.dataobj))
        assert np.array_equal(volume.grid.affine, image.affine)


# content


@given(
    strategies.shapes(), strategies.layouts(), st.sampled_from(["u1", "i2", ">i2", "i4", "f4", ">f4", "f8"]), st.data()
)
def test_digest_voxels__is_that_of_the_values_in_any_type_and_memory_order(shape, layout, dtype, data):
    seed = data.draw(st.integers(0, 99))
    array = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)
    expected = hashlib.sha256(repr(tuple(shape)).encode() + array.astype("<f4").tobytes(order="F")).hexdigest()[:32]
    assert digest_voxels(layout(array).astype(dtype, order="K")) == expected
    place = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    array[place] += 1
    assert digest_voxels(array) != expected


def test_digest_voxels__goes_through_large_images_in_parts(monkeypatch):
    array = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    whole = digest_voxels(array)
    for block in (1, 31, 60):
        monkeypatch.setattr("clicksim.volumes.content.BLOCK", block)
        assert digest_voxels(array) == whole

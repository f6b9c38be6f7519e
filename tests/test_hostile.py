"""Files made to do harm: headers that promise terabytes, bombs, paths that lead elsewhere, markup in names."""

import errno
import gzip
import html
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clicksim.audit.page import write_audit_page
from clicksim.catalog import open_catalog
from clicksim.catalog.schema import TABLES
from clicksim.errors import CatalogError, ClicksimError
from clicksim.files import MOST_BOUNDED, read_bounded
from clicksim.findings import Finding
from clicksim.geometry import Grid
from clicksim.manifests.croissant import check_croissant
from clicksim.pipeline import report
from clicksim.prompts.prompt_files import read_prompts
from clicksim.simulate.annotators.annotator_files import load_annotator
from clicksim.volumes import read_image
from converters.deep_psma.deep_psma_source import read_threshold
from converters.dicom.dicom_volume import read_volume
from converters.dicom.headers import read_dataset
from converters.dicom.series import find_series
from converters.longitudinal_ct.lesion_csv import read_lesion_csv
from converters.longitudinal_ct.lesion_points import read_published_points
from converters.shared.clinical_tables import read_injection_times
from converters.shared.registration import read_challenge_affine, read_rigid
from fuzz.targets.fuzz_mha import PLAIN
from fuzz.targets.small_images import image_seeds
from tests.report_catalog import make_catalog

GRID = Grid((4, 4, 4), (1.0, 1.0, 1.0))
EVIL = "</script><img src=x onerror=alert(1)>"


def peak_of(read: Callable[[], object], match: str) -> int:
    """Bytes that were asked for, touched or not, until the refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(ClicksimError, match=match):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# headers and bombs


def header_of(shape: tuple[int, int, int]) -> bytes:
    """The header of a NIfTI label that promises so many voxels."""
    raw = bytearray(image_seeds(".nii")[0][:352])
    raw[40:48] = np.array([3, *shape], "<i2").tobytes()
    return bytes(raw)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
def test_read_image__a_promise_of_terabytes_takes_no_memory(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"image{ending}"
    raw = header_of((30000, 30000, 30000))
    if ending == ".mha":
        raw = PLAIN.format(msb="False", kind="MET_UCHAR").replace("6 5 4", "30000 30000 30000").encode()
    file.write_bytes(gzip.compress(raw) if ending == ".nii.gz" else raw)
    read_image(written(tmp_path, ending))  # what is imported does not count
    assert peak_of(lambda: read_image(file), "promises") < 8 << 20


def written(folder: Path, ending: str) -> Path:
    file = folder / f"sound{ending}"
    file.write_bytes(image_seeds(ending)[0])
    return file


def test_read_image__a_bomb_behind_a_small_image_is_not_unpacked(tmp_path: Path) -> None:
    bomb = header_of((6, 5, 4)) + bytes(200 << 20)
    file = tmp_path / "bomb.nii.gz"
    file.write_bytes(gzip.compress(bomb, 1))
    read_image(written(tmp_path, ".nii.gz"))
    assert peak_of(lambda: read_image(file), "after the image") < 16 << 20


def test_read_image__a_promise_just_below_what_gzip_can_hold_is_bounded_by_the_file(tmp_path: Path) -> None:
    file = tmp_path / "promise.nii.gz"
    packed = gzip.compress(header_of((300, 300, 1)), mtime=0)
    file.write_bytes(packed)
    assert peak_of(lambda: read_image(file), "cut off") < 1032 * len(packed) + (8 << 20)


def dicom_target(name: str) -> Any:
    pytest.importorskip("highdicom")
    from fuzz.targets import find_target

    return find_target(name)


@pytest.mark.parametrize("promise", [{"NumberOfFrames": 2**31 - 1}, {"Rows": 65535, "Columns": 65535}])
@pytest.mark.parametrize("seed", [0, 3])  # single bits as they are stored, and compressed bytes
def test_read_seg__a_promise_of_gigabytes_takes_no_memory(tmp_path: Path, promise: dict[str, int], seed: int) -> None:
    from fuzz.targets.small_studies import dataset_bytes, dataset_of

    target = dicom_target("dicom_seg")
    dataset = dataset_of(target.seeds()[seed])
    for keyword, value in promise.items():
        setattr(dataset, keyword, value)
    target.read(target.seeds()[seed], tmp_path)  # what is imported does not count
    assert (
        peak_of(lambda: target.read(dataset_bytes(dataset), tmp_path), "Frames|pixels|the file ends early") < 32 << 20
    )


def test_dicom__a_compressed_series_of_huge_slices_takes_no_memory(tmp_path: Path) -> None:
    from fuzz.targets.small_studies import dataset_bytes, dataset_of, study

    packed = dicom_target("dicom_image").seeds()[2]
    for number in range(3):
        dataset, own = dataset_of(packed), dataset_of(study()["PT"][number])
        dataset.SOPInstanceUID, dataset.ImagePositionPatient = own.SOPInstanceUID, own.ImagePositionPatient
        dataset.file_meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID
        dataset.Rows = dataset.Columns = 65535
        (tmp_path / f"{number}.dcm").write_bytes(dataset_bytes(dataset))
    (series,) = find_series(tmp_path)
    assert len(series.slices) == 3
    assert peak_of(lambda: read_volume(series), "cannot hold 8589672450 bytes") < 32 << 20


def test_read_dataset__a_deflated_bomb_is_not_inflated_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    from fuzz.targets.small_studies import dataset_bytes, dataset_of, study

    dataset = dataset_of(study()["PT"][0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = tmp_path / "slice.dcm"
    file.write_bytes(dataset_bytes(dataset))
    assert read_dataset(file).PatientID == "P1"
    dataset.PixelData = bytes(100 << 20)
    file.write_bytes(dataset_bytes(dataset))
    assert file.stat().st_size < 1 << 20
    monkeypatch.setattr("converters.dicom.headers.MOST_INFLATED", 64 << 20)
    assert peak_of(lambda: read_dataset(file), "inflates to more than") < 16 << 20


# tables and lists


READERS: dict[str, Callable[[Path], object]] = {
    "lesion table": read_lesion_csv,
    "lesion points": lambda file: read_published_points(file, {"timepoint": "FU"}, ()),
    "prompts": lambda file: read_prompts(file, GRID),
    "transform": read_rigid,
    "registration": read_challenge_affine,
    "threshold": lambda file: read_threshold(file, file.parent),
    "injection times": lambda file: read_injection_times(str(file)),
    "annotator": load_annotator,
}


@pytest.mark.parametrize("name", READERS)
def test_readers__refuse_a_table_of_a_terabyte_before_it_is_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / "table"
    with file.open("wb") as out:
        out.truncate(1 << 40 if os.name == "posix" else MOST_BOUNDED + 1)
    assert peak_of(lambda: READERS[name](file), "cannot be read|cannot read") < 4 << 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", READERS)
def test_readers__do_not_wait_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "table")
    with pytest.raises(ClicksimError, match="a folder or a device"):
        READERS[name](tmp_path / "table")


def test_read_bounded__reads_what_is_small_and_says_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "table"
    file.write_bytes(b"abc")
    assert read_bounded(file) == b"abc"
    with pytest.raises(OSError, match="a folder or a device") as caught:
        read_bounded(tmp_path)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none")


DEEP = b'{"a":' + b"[" * 100_000


@pytest.mark.parametrize(
    "content", [DEEP, b'{"a":1' + b"0" * 5000 + b"}", b"\xff\xfe", b'{"roots": 1, "format_version": 1}']
)
def test_open_catalog__refuses_a_head_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.json").write_bytes(content)
    with pytest.raises(CatalogError, match=re.escape(str(tmp_path))):
        open_catalog(tmp_path)


@pytest.mark.parametrize("name", [name for name in READERS if name != "lesion table"])
def test_readers__refuse_lists_without_end(tmp_path: Path, name: str) -> None:
    (tmp_path / "table").write_bytes(DEEP)
    with pytest.raises(ClicksimError):
        READERS[name](tmp_path / "table")


# paths


@pytest.mark.parametrize("path", ["../outside.parquet", "{folder}/outside.parquet", "link.parquet"])
def test_check_croissant__looks_at_no_file_outside(tmp_path: Path, path: str) -> None:
    out = tmp_path / "export"
    out.mkdir()
    (tmp_path / "outside.parquet").write_bytes(b"not a table")
    if path.startswith("link"):
        (out / path).symlink_to(tmp_path / "outside.parquet")
    entry = {"@id": "cases", "contentUrl": path.format(folder=tmp_path), "sha256": "0" * 64}
    (out / "croissant.json").write_text(json.dumps({"distribution": [entry]}), encoding="utf-8")
    faults = check_croissant(out)
    assert any("leaves its root" in fault for fault in faults)
    assert not any("SHA-256" in fault for fault in faults)


def test_fdat_name__is_no_path_whatever_the_study_uid_says() -> None:
    pydicom = pytest.importorskip("pydicom")
    from converters.tcia.tcia_source import fdat_name

    header = pydicom.Dataset()
    header.StudyDate, header.StudyDescription = "20030323", "PET/../../CT"
    sound = fdat_name("PETCT_0123456789", "1.2.3.45678", header, "FDG")
    assert sound is not None
    assert "/" not in sound
    assert fdat_name("PETCT_0123456789", "1.2.3/../x", header, "FDG") is None
    assert fdat_name("PETCT_0123456789", "1.2.3\\..\\x", header, "FDG") is None


# markup


@pytest.mark.parametrize("public", [False, True])
def test_report__markup_in_any_text_of_the_catalog_stays_text(tmp_path: Path, public: bool) -> None:
    words = {c.name: EVIL for c in TABLES["cases"] if c.kind in ("text", "word") and not c.name.endswith("_path")}
    catalog = make_catalog(tmp_path / "catalog", [words | {"case_id": f"{EVIL}{n}"} for n in range(2)])
    text = report(catalog.path, tmp_path / "page.html", public=public).read_text(encoding="utf-8")
    assert "<img" not in text
    # what the script and the figures are made of, escaped in the way of either
    assert public or ("\\u003cimg" in text and "&lt;img" in text)


def test_write_audit_page__markup_in_any_text_stays_text(tmp_path: Path) -> None:
    findings = [Finding("error", EVIL, (EVIL,), EVIL)]
    page = write_audit_page(tmp_path / "p.html", findings, checks={EVIL: EVIL, "b": EVIL}, title=EVIL, about=EVIL)
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert html.escape("<img") in text

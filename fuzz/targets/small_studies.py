"""What the DICOM targets share: a small study of the phantom writers."""

import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from clicksim.phantom.dicom import StudyFacts, write_study
from converters.dicom.series import scan_folder
from converters.dicom.slices import SliceGeometry, slice_geometry
from fuzz.targets.small_images import small_phantom


@cache
def study(vendor: str = "siemens", seg: str = "sparse") -> dict[str, list[bytes]]:
    """The files of a phantom study by modality, in ascending order of their position."""
    with tempfile.TemporaryDirectory() as folder:
        facts = StudyFacts("P1", vendor=vendor, seg=seg)
        written = write_study(Path(folder), small_phantom(), facts, layout="descriptive")
        # the first file is the last slice
        return {
            kind: [file.read_bytes() for file in sorted(place.iterdir(), reverse=True)]
            for kind, place in written.folders.items()
        }


@cache
def geometry() -> SliceGeometry:
    """The slices of the PET, on which SEG and RTSTRUCT lie."""
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(study()["PT"]):
            (Path(folder) / f"{number}.dcm").write_bytes(content)
        return slice_geometry(scan_folder(folder).series[0])


def dataset_of(content: bytes) -> Any:
    """A file as a data set that can be changed."""
    import pydicom

    return pydicom.dcmread(BytesIO(content))


def dataset_bytes(dataset: Any) -> bytes:
    """A data set as a file."""
    packed = BytesIO()
    dataset.save_as(packed, enforce_file_format=True)
    return packed.getvalue()

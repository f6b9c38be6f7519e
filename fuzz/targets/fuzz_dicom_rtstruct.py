"""DICOM structure sets (RTSTRUCT)."""

from pathlib import Path
from typing import Any

from converters.dicom.rtstruct import read_rtstruct
from fuzz.targets.small_studies import dataset_bytes, dataset_of, geometry, study


def seeds() -> list[bytes]:
    """Two structures, one with a hole, in the head of the PET's own header."""
    return [_structure_set(2), _structure_set(1)]


def read(data: bytes, folder: Path) -> None:
    """Fill its contours on the grid of the PET."""
    file = folder / "rtstruct.dcm"
    file.write_bytes(data)
    grid = geometry().grid()
    assert read_rtstruct(file, grid).labels.shape == grid.shape


def _structure_set(count: int) -> bytes:
    from pydicom.uid import RTStructureSetStorage

    pet = dataset_of(study()["PT"][0])
    made = _item(**{name: pet.get(name) for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID")})
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = RTStructureSetStorage, "1.2.3.4", "1.2.3"
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence = [
        _item(ROINumber=n + 1, ROIName=f"GTV{n}", ReferencedFrameOfReferenceUID=pet.FrameOfReferenceUID)
        for n in range(count)
    ]
    made.ROIContourSequence = [
        _item(
            ReferencedROINumber=n + 1,
            ContourSequence=[_square(k, half) for k in range(2 * n, 2 * n + 2) for half in (100, 50)[: n + 1]],
        )
        for n in range(count)
    ]
    made.file_meta = pet.file_meta
    made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    return dataset_bytes(made)


def _square(k: int, half: float) -> Any:
    """A square around the middle of slice `k`, `half` mm to each side."""
    place = geometry()
    middle = place.origins[k] + 200 * place.row + 160 * place.column
    corners = [middle + half * (a * place.row + b * place.column) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    numbers = [f"{value:.6g}" for corner in corners for value in corner]
    return _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=numbers)


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made

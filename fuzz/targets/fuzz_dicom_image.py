"""Slices of DICOM image series."""

from pathlib import Path

from converters.dicom.dicom_volume import read_volume
from converters.dicom.series import scan_folder
from converters.dicom.slices import GeometryRefusal
from fuzz.targets.small_studies import dataset_bytes, dataset_of, study


def seeds() -> list[bytes]:
    """The second slice of PET and CT, one of them compressed, and one without its meta header."""
    from pydicom.uid import RLELossless

    pet, ct = study()["PT"][1], study()["CT"][1]
    packed = dataset_of(pet)
    packed.compress(RLELossless)
    return [pet, ct, dataset_bytes(packed), pet[132:]]


def read(data: bytes, folder: Path) -> None:
    """Find the series that the slice makes with its neighbours, and read it; where its gaps are uneven, in two ways."""
    (folder / "1.dcm").write_bytes(data)
    kind = "CT" if b"1.2.840.10008.5.1.4.1.1.2\0" in data else "PT"
    for number in (0, 2):
        (folder / f"{number}.dcm").write_bytes(study()[kind][number])
    for series in scan_folder(folder).series:
        try:
            read_volume(series)
        except GeometryRefusal:
            read_volume(series, gaps="interpolate")

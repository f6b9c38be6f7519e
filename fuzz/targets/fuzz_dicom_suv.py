"""Headers of PET series, for SUV."""

from pathlib import Path

from converters.dicom.headers import read_dataset
from converters.suv import suv_factor
from fuzz.targets.small_studies import dataset_bytes, dataset_of, study


def seeds() -> list[bytes]:
    """Of three vendors, without pixels."""
    made = []
    for vendor in ("siemens", "ge", "philips"):
        header = dataset_of(study(vendor)["PT"][1])
        del header.PixelData
        made.append(dataset_bytes(header))
    return made


def read(data: bytes, folder: Path) -> None:
    """Find the factor of this header alone, and of the header with a given injection."""
    file = folder / "pet.dcm"
    file.write_bytes(data)
    header = read_dataset(file, pixels=False)
    found = suv_factor(header)
    assert found.factor > 0
    assert suv_factor(header, injection_seconds=3600.0).factor > 0

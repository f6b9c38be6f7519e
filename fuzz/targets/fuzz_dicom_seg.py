"""DICOM segmentations (SEG)."""

from pathlib import Path

import numpy as np

from converters.dicom.segmentation import read_seg
from fuzz.targets.small_studies import dataset_bytes, dataset_of, geometry, study


def seeds() -> list[bytes]:
    """As highdicom and dcmqi write them; fractions, a label map, compressed frames."""
    from pydicom.uid import RLELossless

    sparse, whole = study()["SEG"][0], study(seg="dcmqi")["SEG"][0]
    made = []
    for kind in ("FRACTIONAL", "LABELMAP"):
        dataset = dataset_of(sparse)
        size = int(dataset.NumberOfFrames) * dataset.Rows * dataset.Columns
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[:size]
        dataset.SegmentationType, dataset.MaximumFractionalValue = kind, 1
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = bits.tobytes() + b"\0" * (size % 2)
        made.append(dataset_bytes(dataset))
        dataset.compress(RLELossless)
        made.append(dataset_bytes(dataset))
    return [sparse, whole, *made]


def read(data: bytes, folder: Path) -> None:
    """Read it onto the slices of the PET."""
    file = folder / "seg.dcm"
    file.write_bytes(data)
    found = read_seg(file, geometry())
    assert found.labels.shape == geometry().shape
    assert set(np.unique(found.labels)) <= {0, *found.names}

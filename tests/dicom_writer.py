"""Small DICOM studies for tests, written with pydicom alone: every value can be spoiled."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

STUDY = "1.2.826.0.1.3680043.8.498.1"
FRAME = "1.2.826.0.1.3680043.8.498.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def uid(*words: object) -> str:
    """The same words give the same UID."""
    return str(generate_uid(entropy_srcs=[str(w) for w in words]))


def header(modality: str, series: str, index: int, **values: Any) -> Dataset:
    """One slice without pixels; a value of None takes the element out."""
    made = Dataset()
    made.SOPClassUID = PositronEmissionTomographyImageStorage if modality == "PT" else CTImageStorage
    made.SOPInstanceUID = uid(series, index)
    made.StudyInstanceUID, made.FrameOfReferenceUID = STUDY, FRAME
    made.SeriesInstanceUID = uid(series)
    made.PatientID, made.Modality, made.SeriesDescription = "P1", modality, series
    made.InstanceNumber = index + 1
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY"]
    made.ImageOrientationPatient = list(AXIAL)
    made.SliceThickness = 7.0
    made.RescaleSlope, made.RescaleIntercept = (0.5 + 0.25 * index, 0) if modality == "PT" else (1, -1024)
    if modality == "PT":
        made.CorrectedImage, made.SeriesType, made.Units = ["DECY", "ATTN"], ["WHOLE BODY", "IMAGE"], "BQML"
    for keyword, value in values.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def set_pixels(made: Dataset, stored: Any, spacing: tuple[float, float] = (2.0, 3.0)) -> None:
    """`(rows, columns)` of int16 or uint16."""
    made.Rows, made.Columns = stored.shape
    made.PixelSpacing = list(spacing)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    made.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def save(made: Dataset, path: Path, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set with its file meta header; encapsulated pixels need their own transfer syntax."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    if syntax != ExplicitVRLittleEndian:
        made["PixelData"].is_undefined_length = True
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_stack(
    folder: Path,
    modality: str = "CT",
    *,
    series: str = "body",
    places: Any = None,
    count: int = 4,
    shape: tuple[int, int] = (5, 4),
    edit: Any = None,
    **values: Any,
) -> list[Path]:
    """A stack along z; `places` are its z or whole positions, `edit(header, index)` spoils single slices."""
    rng = np.random.default_rng(7)
    spots = [(-10.0, -20.0, -30.0 + 3.0 * n) for n in range(count)] if places is None else places
    paths = []
    for n, place in enumerate(spots):
        made = header(modality, series, n, **values)
        made.ImagePositionPatient = list(place) if np.ndim(place) else [-10.0, -20.0, float(place)]
        set_pixels(made, rng.integers(0, 3000, shape).astype(np.int16))
        if edit is not None:
            edit(made, n)
        # the file name says nothing about the order
        paths.append(save(made, folder / f"{(n * 7919) % 1000:03d}-{n}.dcm"))
    return paths


def seg_dataset(
    frames: Any,
    *,
    kind: str = "BINARY",
    orientation: Any = AXIAL,
    spacing: tuple[float, float] = (2.0, 3.0),
    names: Any = ("Tissue",),
    **values: Any,
) -> Dataset:
    """A SEG of frames `(array (rows, columns), position, referenced UID or None, segment number)`."""
    made = Dataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7" if kind == "LABELMAP" else "1.2.840.10008.5.1.4.1.1.66.4"
    made.SOPInstanceUID, made.SeriesInstanceUID = uid("seg", 0), uid("seg")
    made.StudyInstanceUID, made.FrameOfReferenceUID, made.PatientID = STUDY, FRAME, "P1"
    made.Modality, made.SegmentationType, made.SeriesDescription = "SEG", kind, "Segmentation"
    made.SegmentSequence = [_item(SegmentNumber=n + 1, SegmentLabel=name) for n, name in enumerate(names)]
    arrays = [np.asarray(f[0]) for f in frames]
    made.Rows, made.Columns = arrays[0].shape
    made.NumberOfFrames, made.SamplesPerPixel = len(frames), 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 1 if kind == "BINARY" else 8
    made.HighBit = made.BitsAllocated - 1
    if kind == "FRACTIONAL":
        made.MaximumFractionalValue, made.SegmentationFractionalType = 100, "PROBABILITY"
    stream = np.concatenate([a.ravel() for a in arrays]).astype(np.uint8)
    packed = np.packbits(stream, bitorder="little") if kind == "BINARY" else stream
    made.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)
    made["PixelData"].VR = "OB"
    made.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=list(orientation))],
            PixelMeasuresSequence=[_item(PixelSpacing=list(spacing), SliceThickness=3.0)],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [_frame(*frame[1:], kind) for frame in frames]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _frame(position: Any, reference: str | None, segment: int, kind: str) -> Dataset:
    group = _item(PlanePositionSequence=[_item(ImagePositionPatient=[float(p) for p in position])])
    if kind != "LABELMAP":
        group.SegmentIdentificationSequence = [_item(ReferencedSegmentNumber=segment)]
    if reference is not None:
        group.DerivationImageSequence = [_item(SourceImageSequence=[_item(ReferencedSOPInstanceUID=reference)])]
    return group


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def rtstruct_dataset(contours: Any, *, names: Any = ("GTV",), kind: str = "CLOSED_PLANAR") -> Dataset:
    """An RTSTRUCT of contours `(structure number, (n, 3) points in LPS mm)`."""
    made = Dataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    made.SOPInstanceUID, made.SeriesInstanceUID = uid("rt", 0), uid("rt")
    made.StudyInstanceUID, made.PatientID, made.Modality = STUDY, "P1", "RTSTRUCT"
    made.StructureSetROISequence = [
        _item(ROINumber=n + 1, ROIName=name, ReferencedFrameOfReferenceUID=FRAME) for n, name in enumerate(names)
    ]
    made.ROIContourSequence = [
        _item(
            ReferencedROINumber=n + 1,
            ContourSequence=[
                _item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[float(f"{x:.6f}") for x in np.ravel(points)],
                )
                for number, points in contours
                if number == n + 1
            ],
        )
        for n in range(len(names))
    ]
    return made

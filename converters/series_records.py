"""What a scan of DICOM files gives: slices, the series that they make, and what was noticed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.headers import read_dataset

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """Something that was found and not taken, or taken with care: the rule's name, a sentence, the place."""

    code: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """What one file says of itself; lengths in mm, patient coordinates LPS+, None where the header is silent."""

    path: Path
    uid: str
    instance: int | None
    acquisition: str
    temporal: str
    position: Point | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    rows: int
    columns: int
    frames: int
    slope: float | None
    intercept: float | None


@dataclass(frozen=True, eq=False)
class Series:
    """One stack of slices, or one SEG or RTSTRUCT object.

    Attributes:
        part: Empty, or which of several stacks that share one series UID, as `acquisition 4`.
        slices: Along the normal of the slices, by position; by instance number where there is no position.
        references: UIDs of the series that a SEG or RTSTRUCT names as its source.
        promised_slices: How many slices the header says the series has, where it says so.
        time_points: Time slices of a dynamic or time slots of a gated PET, where the header says so.
        findings: What was noticed while grouping.
    """

    study_uid: str
    series_uid: str
    part: str
    modality: str
    description: str
    frame_of_reference: str
    patient_id: str
    sop_class: str
    image_type: tuple[str, ...]
    corrected_image: tuple[str, ...]
    series_type: tuple[str, ...]
    time_points: int | None
    promised_slices: int | None
    kernel: tuple[str, ...]
    references: frozenset[str]
    slices: tuple[Slice, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """The files, in slice order."""
        return [s.path for s in self.slices]

    def headers(self) -> list[Any]:
        """The whole header of each slice, in slice order: `pydicom.Dataset` without pixels, read anew.

        Raises:
            DicomError: `UnreadableDicom`, if a file has changed since the folder was scanned.
        """
        return [read_dataset(s.path, pixels=False) for s in self.slices]

    def __str__(self) -> str:
        name = f"{self.modality} {self.description!r} ({len(self.slices)} files, {self.series_uid}"
        return f"{name}, {self.part})" if self.part else f"{name})"


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        series: Sorted by patient, study, modality, series UID and part.
        findings: DICOM files that could not be used, each with the rule's name; files that are not DICOM and are
            not named so, and directories of DICOM files (DICOMDIR), are passed over.
    """

    series: tuple[Series, ...]
    findings: tuple[Finding, ...]

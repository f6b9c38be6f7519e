"""Find the DICOM series in a folder tree, with their slices and the problems that were found.

    scan_folder, find_series    every series under a folder, from headers alone, grouped by UID
    scan_files                  the same for a list of files
    by_study                    the series of each study
    normal_of, in_order         the order of slices

Names of folders and files are not used: publishers shorten, repeat and renumber them.
"""

import filecmp
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import up_to_ten
from converters.dicom.headers import DicomError, numbers, quietly, read_dataset, read_open, whole, word, words

Point = tuple[float, float, float]


@dataclass(frozen=True)
class SeriesFinding:
    """A problem with input that was left out or used with caution: the rule's name, a sentence, and the place."""

    code: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """The header of one file; lengths in mm, patient coordinates LPS+, None for absent values."""

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
        part: Empty, or which of several stacks with one series UID, such as `acquisition 4`.
        slices: Ordered by position along the normal of the slices, or by instance number if there is no position.
        references: UIDs of the series that a SEG or RTSTRUCT names as its source.
        promised_slices: The number of slices according to the header, if present.
        time_points: Time slices of a dynamic or time slots of a gated PET, if present.
        findings: Problems found while grouping.
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
    findings: tuple[SeriesFinding, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """The files, in slice order."""
        return [s.path for s in self.slices]

    def headers(self) -> list[Any]:
        """The complete header of each slice, in slice order: `pydicom.Dataset` without pixels, read again.

        Raises:
            DicomError: `UnreadableDicom`, if a file has changed since the folder was scanned.
        """
        return [read_dataset(s.path, pixels=False) for s in self.slices]

    def __str__(self) -> str:
        name = f"{self.modality} {self.description!r} ({len(self.slices)} files, {self.series_uid}"
        return f"{name}, {self.part})" if self.part else f"{name})"


@dataclass(frozen=True)
class ScannedFiles:
    """The series in a folder.

    Attributes:
        series: Sorted by patient, study, modality, series UID and part.
        findings: DICOM files that could not be used, each with the rule's name. Directories of DICOM files (DICOMDIR)
            and other files are skipped, unless the name of a file that is not DICOM says that it is.
    """

    series: tuple[Series, ...]
    findings: tuple[SeriesFinding, ...]


__all__ = [
    "SAME_PLACE_MM",
    "ScannedFiles",
    "Series",
    "SeriesFinding",
    "Slice",
    "by_study",
    "dicom_header",
    "find_series",
    "in_order",
    "normal_of",
    "scan_files",
    "scan_folder",
]

SAME_PLACE_MM = 1e-2
"""Two slices closer than this along the normal have the same position."""

_OBJECTS = {"SEG", "RTSTRUCT"}
"""Each instance is complete; instances of one series are not stacked."""

_DIRECTORY = "1.2.840.10008.1.3.10"

_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "Modality",
    "SeriesDescription",
    "ImageType",
    "CorrectedImage",
    "SeriesType",
    "NumberOfTimeSlices",
    "NumberOfTimeSlots",
    "ConvolutionKernel",
    "InstanceNumber",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "NumberOfSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
]


def find_series(root: str | Path) -> list[Series]:
    """Find every series under a folder; see `scan_folder`, which also reports what was left out."""
    return list(scan_folder(root).series)


def scan_folder(root: str | Path) -> ScannedFiles:
    """Find every DICOM series under a folder, from headers alone.

    Files and folders whose name begins with a dot are skipped, and links to folders are not followed. A file is DICOM
    if it has the preamble, or if its first element is a DICOM element and it names its series. Files are grouped by
    study and series UID. Localizers that share a UID with a stack are separated. If slices of a series share a
    position, the series is split by temporal position or acquisition number, provided that each stack then has at
    least two slices and no shared positions; else it stays one series, and reading it is refused. A copy of a slice
    (same UID, same place) is dropped. A series whose files have different patients, modalities or frames of reference
    is left out, with a finding; so are broken links and unreadable folders.

    Args:
        root: A folder, or one file.

    Raises:
        DicomError: `NoSuchFolder`.
    """
    folder = Path(root)
    if not folder.exists():
        raise DicomError("NoSuchFolder", f"there is no such file or folder ({folder})")
    return scan_files(_files(folder))


def scan_files(paths: Iterable[Path]) -> ScannedFiles:
    """Find every DICOM series among some files, as `scan_folder` does under a folder."""
    groups: defaultdict[tuple[str, str, bool], list[tuple[Slice, Any]]] = defaultdict(list)
    findings: list[SeriesFinding] = []
    for path in paths:
        try:
            header = dicom_header(path)
            if header is None:
                if path.suffix.lower() == ".dcm" and not is_dicomdir(path):
                    raise DicomError("UnreadableDicom", f"the name ends in .dcm, but the file is not DICOM ({path})")
                continue
            key, entry = _describe(path, header)
            groups[key].append(entry)
        except DicomError as refusal:
            findings.append(SeriesFinding(refusal.code, refusal.args[1], str(path)))
    series: list[Series] = []
    for key in sorted(groups):
        try:
            series.extend(_build(key[0], key[1], groups[key]))
        except DicomError as refusal:
            findings.append(SeriesFinding(refusal.code, refusal.args[1], str(groups[key][0][0].path)))
    series.sort(key=lambda s: (s.patient_id, s.study_uid, s.modality, s.series_uid))
    return ScannedFiles(tuple(series), tuple(findings))


def by_study(series: Iterable[Series]) -> dict[str, list[Series]]:
    """The series of each study, by study UID."""
    studies: defaultdict[str, list[Series]] = defaultdict(list)
    for one in series:
        studies[one.study_uid].append(one)
    return dict(studies)


def _files(folder: Path) -> Iterator[Path]:
    """Regular files, and entries that cannot be read, in an order that does not depend on the file system."""
    if folder.is_file():
        yield folder
        return
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError:  # a broken link: opening it reports the error
                regular = True
            if regular and not name.startswith("."):
                yield path
    yield from sorted(Path(error.filename) for error in closed)


def dicom_header(path: Path) -> Any:
    """The elements that grouping needs, or None if the file is not DICOM; the file is opened once."""
    try:
        with path.open("rb") as raw:
            start = raw.read(132)
            preamble = start[128:132] == b"DICM"
            # without a preamble, a data set begins with group 2 or 8 in either byte order
            if not preamble and start[:2] not in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
                return None
            header = read_open(raw, path, pixels=False, keywords=_KEYWORDS)
    except OSError as error:
        raise DicomError("UnreadableDicom", f"it cannot be opened: {error.strerror} ({path})") from error
    except DicomError:
        if preamble:
            raise
        return None
    with quietly("UnreadableDicom", path):
        if header.get("SOPClassUID") == _DIRECTORY or _is_directory(header):
            return None
        if not header.get("SeriesInstanceUID") and not preamble:
            return None
    return header


def is_dicomdir(path: Path) -> bool:
    """Whether a file that is not a slice begins like DICOM; then it is a directory of files."""
    try:
        with path.open("rb") as raw:
            return raw.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_directory(header: Any) -> bool:
    meta = getattr(header, "file_meta", None)
    return meta is not None and meta.get("MediaStorageSOPClassUID") == _DIRECTORY


def _describe(path: Path, header: Any) -> tuple[tuple[str, str, bool], tuple[Slice, Any]]:
    with quietly("UnreadableDicom", path):
        study, series, uid = (word(header, k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        if not (study and series and uid):
            raise DicomError("MissingUid", f"a DICOM file has no study, series or instance UID ({path})")
        entry = _slice_of(path, uid, header)
        if word(header, "Modality") in ("PT", "CT") and not (entry.rows and entry.columns):
            # if the file was cut inside its UID, it would become a series of one slice and leave a gap in its stack
            raise DicomError("UnreadableDicom", f"a slice has no Rows and Columns; was the file cut off? ({path})")
        localizer = "LOCALIZER" in words(header, "ImageType")
        return (study, series, localizer), (entry, header)


def _slice_of(path: Path, uid: str, header: Any) -> Slice:
    slope, intercept = numbers(header, "RescaleSlope", 1), numbers(header, "RescaleIntercept", 1)
    return Slice(
        path=path,
        uid=uid,
        instance=whole(header, "InstanceNumber"),
        acquisition=word(header, "AcquisitionNumber"),
        temporal=word(header, "TemporalPositionIdentifier") or word(header, "TemporalPositionIndex"),
        position=_three(numbers(header, "ImagePositionPatient", 3)),
        orientation=numbers(header, "ImageOrientationPatient", 6),
        pixel_spacing=_two(numbers(header, "PixelSpacing", 2)),
        rows=whole(header, "Rows") or 0,
        columns=whole(header, "Columns") or 0,
        frames=whole(header, "NumberOfFrames") or 1,
        slope=slope[0] if slope else None,
        intercept=intercept[0] if intercept else None,
    )


def _three(values: tuple[float, ...] | None) -> Point | None:
    return None if values is None else (values[0], values[1], values[2])


def _two(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _build(study: str, uid: str, entries: list[tuple[Slice, Any]]) -> list[Series]:
    """The stacks of one series UID."""
    header = min(entries, key=lambda e: _reading_order(e[0]))[1]
    with quietly("UnreadableDicom", entries[0][0].path):
        template = _template(study, uid, header)
        _check_same(entries, "PatientID", "PatientMismatch")
        _check_same(entries, "Modality", "SeriesInconsistent")
        if template.modality in ("PT", "CT"):
            _check_same(entries, "FrameOfReferenceUID", "SeriesInconsistent")
    slices, findings = _without_copies([entry for entry, _ in entries], whole_files=template.modality in _OBJECTS)
    if template.modality in _OBJECTS:
        headers = {entry.path: header for entry, header in entries}
        return [replace(_object(template, entry, headers[entry.path]), findings=findings) for entry in slices]
    ordered = in_order(slices)
    parts = _split(ordered)
    if parts is None:
        promised = template.promised_slices or 0
        if template.modality == "PT" and len(ordered) < promised:
            text = f"{len(ordered)} of {promised} slices were found; the download may be incomplete"
            findings = (*findings, SeriesFinding("FewerSlicesThanPromised", text))
        return [replace(template, slices=tuple(ordered), findings=findings)]
    return [replace(template, part=part, slices=tuple(in_order(own)), findings=findings) for part, own in parts]


def _check_same(entries: list[tuple[Slice, Any]], keyword: str, code: str) -> None:
    """Refuse a series whose files have different patients, modalities or frames of reference."""
    found = {word(header, keyword): entry.path for entry, header in reversed(entries)}
    if len(found) > 1:
        listed = up_to_ten(f"{value or 'none'} in {path}" for value, path in sorted(found.items()))
        raise DicomError(code, f"files of one series have {len(found)} values of {keyword}: {listed}")


def _template(study: str, uid: str, header: Any) -> Series:
    gated = "GATED" in words(header, "SeriesType")
    return Series(
        study_uid=study,
        series_uid=uid,
        part="",
        modality=word(header, "Modality"),
        description=word(header, "SeriesDescription"),
        frame_of_reference=word(header, "FrameOfReferenceUID"),
        patient_id=word(header, "PatientID"),
        sop_class=word(header, "SOPClassUID"),
        image_type=words(header, "ImageType"),
        corrected_image=words(header, "CorrectedImage"),
        series_type=words(header, "SeriesType"),
        time_points=whole(header, "NumberOfTimeSlots" if gated else "NumberOfTimeSlices"),
        promised_slices=whole(header, "NumberOfSlices"),
        kernel=words(header, "ConvolutionKernel"),
        references=frozenset(_references(header)),
        slices=(),
    )


def _object(template: Series, entry: Slice, header: Any) -> Series:
    with quietly("UnreadableDicom", entry.path):
        own = _template(template.study_uid, template.series_uid, header)
    return replace(own, part=f"instance {entry.uid}", slices=(entry,))


def _references(header: Any) -> Iterator[str]:
    """UIDs of the series that a SEG or an RTSTRUCT names as its source."""
    for item in header.get("ReferencedSeriesSequence") or ():
        yield word(item, "SeriesInstanceUID")
    for frame in header.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                yield word(item, "SeriesInstanceUID")


def _reading_order(entry: Slice) -> tuple[int, str, str]:
    return (entry.instance if entry.instance is not None else 1 << 31, entry.uid, str(entry.path))


def _without_copies(entries: list[Slice], *, whole_files: bool) -> tuple[list[Slice], tuple[SeriesFinding, ...]]:
    """Drop copies of slices: same UID, position and size, or with `whole_files` the same bytes."""
    kept: dict[str, Slice] = {}
    dropped = 0
    for entry in sorted(entries, key=_reading_order):
        first = kept.setdefault(entry.uid, entry)
        if first is entry:
            continue
        if replace(entry, path=first.path) != first or (
            whole_files and not filecmp.cmp(first.path, entry.path, shallow=False)
        ):
            raise DicomError(
                "SeriesInconsistent", f"two different files have the UID {entry.uid}: {first.path}, {entry.path}"
            )
        dropped += 1
    note = SeriesFinding("DuplicateInstanceDropped", f"{dropped} copies of files with the same UID were dropped")
    return list(kept.values()), (note,) if dropped else ()


def normal_of(orientation: Sequence[float]) -> NDArray[np.float64]:
    """`(3,)`, row direction x column direction, in LPS+."""
    return np.cross(orientation[:3], orientation[3:])


def in_order(entries: Iterable[Slice]) -> list[Slice]:
    """Slices by position along the normal of the first, or by instance number if one has no position."""
    ordered = sorted(entries, key=_reading_order)
    if not ordered or any(e.position is None for e in ordered) or ordered[0].orientation is None:
        return ordered
    normal = normal_of(ordered[0].orientation)
    return sorted(ordered, key=lambda e: float(np.dot(e.position or (), normal)))


def _split(ordered: list[Slice]) -> list[tuple[str, list[Slice]]] | None:
    """Several stacks of one series, if slices share positions and a key separates them; else None."""
    if not _share_places(ordered):
        return None
    keys: list[tuple[str, Callable[[Slice], str]]] = [
        ("temporal position", lambda e: e.temporal),
        ("acquisition", lambda e: e.acquisition),
        ("temporal position, acquisition", lambda e: f"{e.temporal}, {e.acquisition}"),
    ]
    for name, key in keys:
        parts: defaultdict[str, list[Slice]] = defaultdict(list)
        for entry in ordered:
            parts[key(entry)].append(entry)
        if all(len(own) > 1 and not _share_places(own) for own in parts.values()):
            return [(f"{name} {value}", own) for value, own in parts.items()]
    return None


def _share_places(ordered: list[Slice]) -> bool:
    if len(ordered) < 2 or any(e.position is None or e.orientation is None for e in ordered):
        return False
    normal = normal_of(ordered[0].orientation or ())
    offsets = np.sort(np.array([e.position for e in ordered]) @ normal)
    return bool(np.any(np.diff(offsets) < SAME_PLACE_MM))

"""Plan the conversion of a downloaded tree of DICOM files: one unit of work per patient.

A whole collection has about 700,000 files, so the plan opens as few as possible. If a folder above the files is named
after a patient, as in both layouts of NBIA and in that of IDC, no file is opened. In a folder named after a series
UID, as in a cloud bucket, one header is read. In any other folder, the PatientID of every file is read. Folder names
only group files. The headers decide who the patient is and what belongs together; a file of another patient is
recorded.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clicksim.catalog.source import Context, Outcome, Row, Unit
from clicksim.errors import CatalogError, ClicksimError, SettingError, unknown_name
from clicksim.files import LEAST_PACKED
from converters.dicom.headers import DicomError, word
from converters.dicom.series import dicom_header, is_dicomdir
from converters.shared.clinical_tables import (
    Clinical,
    check_times_used,
    parse_clinical,
    parse_option,
    read_injection_times,
)
from converters.shared.tables import Rejection, flag_or_none
from converters.shared.trees import inside_source
from converters.tcia.series_choice import SeriesRule, check_pattern

LAYOUT = """\
<folder>/[manifest-<number>/]<collection>/<PatientID>/<study>/<series>/*.dcm    NBIA, descriptive or classic
<folder>/<PatientID>/<StudyInstanceUID>/<series>/*.dcm                          IDC
<folder>/<series>/*.dcm                                                         or any other tree of DICOM files"""

OPTIONS = {
    "injection_times": "JSON file with seconds from injection to scan, by fdat case name, study key or "
    "StudyInstanceUID; replaces the times in the headers",
    "clinical": "CSV file of the publisher with diagnosis, age and sex (FDG) or nuclide and contrast (PSMA)",
    "nnunet": "folder for nnU-Net: imagesTr and labelsTr under the names of fdat, as links to the catalog's images",
    "pet": "regular expression on the description of the PET series, if several are left",
    "ct": "the same for the CT",
    "seg": "the same for the mask",
    "structures": "regular expression on the names of the mask's structures or segments that are lesions; without it "
    "all are",
    "then": "most-slices or largest-fov: decides if several are still left",
    "gaps": "interpolate: missing slices and uneven gaps are interpolated instead of refused",
    "defaced": "true or false, if the headers do not say which variant of FDG-PET-CT-Lesions it is",
}

TRACERS = {"tcia_fdg": "FDG", "tcia_psma": "PSMA"}
PATIENTS = {"tcia_fdg": re.compile(r"PETCT_[0-9a-f]{10}"), "tcia_psma": re.compile(r"PSMA_[0-9a-f]{16}")}
_SERIES_FOLDER = re.compile(r"(?:[A-Z]{2,8}_)?[0-9]+(?:\.[0-9]+){4,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class TciaSettings:
    """The options of the user."""

    rule: SeriesRule
    structures: str
    gaps: str
    defaced: bool | None
    nnunet: Path | None
    injection_times: str | None
    clinical: str | None

    @classmethod
    def of(cls, context: Context) -> "TciaSettings":
        """Read the options of a run.

        Raises:
            SettingError: An unknown option or an invalid value.
        """
        given = {name: str(value) for name, value in context.options.items()}
        for name in given:
            if name not in OPTIONS:
                raise unknown_name(f"option of {context.name}", name, OPTIONS)
        defaced = flag_or_none(given["defaced"]) if "defaced" in given else None
        if "defaced" in given and defaced is None:
            raise SettingError(f"defaced must be true or false, got {given['defaced']!r}")
        gaps = given.get("gaps", "refuse")
        if gaps not in ("refuse", "interpolate"):
            raise SettingError(f"gaps must be refuse or interpolate, got {gaps!r}")
        nnunet = Path(given["nnunet"]).resolve() if "nnunet" in given else None
        rule = SeriesRule(**{name: given[name] for name in ("pet", "ct", "seg", "then") if name in given})
        check_pattern("structures", structures := given.get("structures", ""))
        return cls(rule, structures, gaps, defaced, nnunet, given.get("injection_times"), given.get("clinical"))


@dataclass(frozen=True)
class TciaPatient:
    """What the plan knows about a patient; paths are relative to the source.

    Attributes:
        key: PatientID, from a folder name or a header.
        folders: Folders whose files all seem to belong to the patient.
        files: Single files from folders with several patients.
        clinical: Columns and flags by study key.
        has_table: Whether there is a clinical table.
        times: Seconds from injection to scan, by any name of a study.
    """

    key: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    clinical: Mapping[str, tuple[Row, list[str]]] = field(default_factory=dict)
    has_table: bool = False
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Found:
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """Plan one unit per patient.

    Raises:
        CatalogError: There is no DICOM file; the source is not a folder; or pydicom is missing.
        SettingError: An option is unknown or cannot be read.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise CatalogError("DICOM needs pydicom and highdicom: pip install 'clicksim[dicom]'") from error
    if not context.source.is_dir():
        raise CatalogError(f"{context.source} is not a folder; unpack the download first. Expected:\n{LAYOUT}")
    settings, outcome = TciaSettings.of(context), Outcome()
    patients: defaultdict[str, _Found] = defaultdict(_Found)
    for folder, names in _folders(context.source, outcome):
        _assign(context.source, folder, names, patients, outcome)
    if not patients and not outcome.rejected:
        raise CatalogError(f"{context.source} contains no DICOM file; expected:\n{LAYOUT}")
    clinical = _clinical(context, settings)
    times = read_injection_times(settings.injection_times)
    units = [
        Unit(key, _patient(key, found, clinical, times), _inputs(context, found))
        for key, found in sorted(patients.items())
    ]
    check_times_used(settings.injection_times, times, used=any(unit.content.times for unit in units))
    return units, outcome


def _inputs(context: Context, found: _Found) -> tuple[Path, ...]:
    """The folders and files of a patient. What the tables say is in the unit itself."""
    return tuple(context.source / path for path in (*found.folders, *found.files))


def _patient(key: str, found: _Found, clinical: Clinical, times: Mapping[str, float]) -> TciaPatient:
    """Collect what the tables say about one patient; a time may be keyed by any UID."""
    own = {study: row for study, row in clinical.items() if study.startswith(f"{key}_")}
    token = key.partition("_")[2] or key
    mine = {name: seconds for name, seconds in times.items() if token in name or re.fullmatch(r"[0-9.]+", name)}
    return TciaPatient(key, tuple(sorted(found.folders)), tuple(sorted(found.files)), own, bool(clinical), mine)


def _folders(root: Path, outcome: Outcome) -> Iterator[tuple[Path, list[str]]]:
    """Folders that contain files, with the file names; names that begin with a dot are skipped.

    Links to folders are not followed: what is inside the source is found in its own place. A link that leads out of
    the source is recorded, as is a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        path = Path(error.filename).relative_to(root).as_posix()
        outcome.reject("UnreadableDicom", f"the folder {path} cannot be read: {error.strerror}", path=path)

    for parent, folders, names in os.walk(root, onerror=unreadable):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            try:
                inside_source(root, (here / name).relative_to(root).as_posix())
            except Rejection as rejection:
                outcome.reject(rejection.code, str(rejection), path=rejection.path)
        if kept := sorted(name for name in names if not name.startswith(".")):
            yield here, kept


def _assign(root: Path, folder: Path, names: list[str], patients: defaultdict[str, _Found], outcome: Outcome) -> None:
    """Assign a folder, or each of its files, to a patient."""
    relative = folder.relative_to(root)
    for part in (root.name, *relative.parts):
        if any(pattern.fullmatch(part) for pattern in PATIENTS.values()):
            patients[part].folders.append(relative.as_posix())
            return
    is_series = bool(relative.parts) and _SERIES_FOLDER.fullmatch(relative.parts[-1]) is not None
    refused: list[tuple[str, DicomError]] = []
    for name in names:
        path = (relative / name).as_posix()
        try:
            key = _patient_of(folder / name)
        except DicomError as error:
            refused.append((path, error))
            continue
        if key is None:
            continue
        if is_series:
            patients[key].folders.append(relative.as_posix())
            return  # the conversion reads all files of the folder and reports the unreadable ones
        patients[key].files.append(path)
    for path, refusal in refused:
        outcome.reject(refusal.code, show_relative(root, refusal.args[1]), path=path)


def _patient_of(path: Path) -> str | None:
    """PatientID of a file; None if it is not DICOM and its name does not say that it is.

    Raises:
        DicomError: `UnreadableDicom`; `MissingPatientId`.
    """
    if not path.is_file():
        return None
    header = dicom_header(path)
    if header is None:
        if path.suffix.lower() == ".dcm" and not is_dicomdir(path):
            raise DicomError("UnreadableDicom", f"the name ends in .dcm, but the content is not a DICOM image ({path})")
        return None
    if not (key := word(header, "PatientID")):
        raise DicomError("MissingPatientId", f"a DICOM file has no PatientID ({path})")
    return key


def _clinical(context: Context, settings: TciaSettings) -> Clinical:
    """Read the publisher's table, if the user gave one.

    Raises:
        SettingError: The table cannot be read or has no study.
    """
    if settings.clinical is None:
        return {}
    clinical = parse_option("clinical", settings.clinical, partial(parse_clinical, tracer=TRACERS[context.name]))
    if not clinical:
        raise SettingError(f"clinical has only a header and no rows ({settings.clinical}); leave the option out")
    return clinical


def files_of(root: Path, patient: TciaPatient) -> Iterator[Path]:
    """The files of a patient, in an order that does not depend on the file system."""
    for folder in patient.folders:
        with os.scandir(root / folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())
        yield from (root / folder / name for name in names)
    yield from (path for name in patient.files if (path := root / name).is_file())


def least_bytes(context: Context, unit: Unit) -> float:
    """Estimate the size of CT and uptake on the grid of the largest PET series, packed; reads one header per folder.

    A folder may contain other series too: the number of slices is the one in the header, if there are enough files.
    """
    largest = 0
    for folder in unit.content.folders:
        with suppress(ClicksimError, ValueError, OSError):  # the conversion reports the problem
            files = list(files_of(context.source, TciaPatient(unit.key, (folder,))))
            header = dicom_header(files[0]) if files else None
            if header is not None and word(header, "Modality") == "PT":
                rows, columns, slices = (int(word(header, name) or 0) for name in ("Rows", "Columns", "NumberOfSlices"))
                largest = max(largest, rows * columns * min(slices, len(files)))
    return largest * (np.dtype(np.int16).itemsize + np.dtype(np.float32).itemsize) * LEAST_PACKED


def show_relative(root: Path, message: Any) -> str:
    """A message without the path of the source, so that equal trees give equal rows."""
    return str(message).replace(f"{root}/", "").replace(str(root), ".")

"""From a downloaded tree of DICOM files to one unit of work per patient.

A whole collection has some 700,000 files, so the plan opens as few as it can. Where a folder above the files is
named after a patient, as both of NBIA's layouts and IDC's have it, no file is opened at all. A folder that bears
the UID of a series, as in a cloud bucket, gives one header. In any other folder every file's PatientID is read.
Names of folders group files and nothing more: who the patient is, and what belongs together, the headers say, and a
file of another patient is recorded.
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
    "pet": "regular expression on the description of the PET series, where several are left",
    "ct": "the same for the CT",
    "seg": "the same for the mask",
    "structures": "regular expression on the names of the mask's structures or segments that are lesions; without it "
    "all are",
    "then": "most-slices or largest-fov: what decides after that",
    "gaps": "interpolate: missing slices and uneven gaps are interpolated instead of refused",
    "defaced": "true or false, where the headers do not say which variant of FDG-PET-CT-Lesions it is",
}

TRACERS = {"tcia_fdg": "FDG", "tcia_psma": "PSMA"}
PATIENTS = {"tcia_fdg": re.compile(r"PETCT_[0-9a-f]{10}"), "tcia_psma": re.compile(r"PSMA_[0-9a-f]{16}")}
_SERIES_FOLDER = re.compile(r"(?:[A-Z]{2,8}_)?[0-9]+(?:\.[0-9]+){4,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class TciaSettings:
    """The user's options."""

    rule: SeriesRule
    structures: str
    gaps: str
    defaced: bool | None
    nnunet: Path | None
    injection_times: str | None
    clinical: str | None

    @classmethod
    def of(cls, context: Context) -> "TciaSettings":
        """The options of a run.

        Raises:
            SettingError: An unknown option, or a value that it does not take.
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
    """What the plan knows of a patient; paths are relative to the source.

    Attributes:
        key: PatientID, from a folder's name or from a header.
        folders: All files in these belong to the patient, as far as the plan knows.
        files: Single files in folders that hold several patients.
        clinical: Columns and flags by study key.
        has_table: Whether there is a clinical table at all.
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
    """One unit per patient.

    Raises:
        CatalogError: No DICOM file anywhere; the source is no folder; pydicom is missing.
        SettingError: An option that is unknown or cannot be read.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise CatalogError("DICOM needs pydicom and highdicom: pip install 'clicksim[dicom]'") from error
    if not context.source.is_dir():
        raise CatalogError(f"{context.source} is no folder; unpack the download first. Expected is\n{LAYOUT}")
    settings, outcome = TciaSettings.of(context), Outcome()
    patients: defaultdict[str, _Found] = defaultdict(_Found)
    for folder, names in _folders(context.source, outcome):
        _assign(context.source, folder, names, patients, outcome)
    if not patients and not outcome.rejected:
        raise CatalogError(f"{context.source} holds no DICOM file; expected is\n{LAYOUT}")
    clinical = _clinical(context, settings)
    times = read_injection_times(settings.injection_times)
    units = [
        Unit(key, _patient(key, found, clinical, times), _inputs(context, found))
        for key, found in sorted(patients.items())
    ]
    check_times_used(settings.injection_times, times, used=any(unit.content.times for unit in units))
    return units, outcome


def _inputs(context: Context, found: _Found) -> tuple[Path, ...]:
    """The folders and files of a patient; what the tables say is in the patient."""
    return tuple(context.source / path for path in (*found.folders, *found.files))


def _patient(key: str, found: _Found, clinical: Clinical, times: Mapping[str, float]) -> TciaPatient:
    """What of the tables belongs to one patient; a time may be keyed by any UID."""
    own = {study: row for study, row in clinical.items() if study.startswith(f"{key}_")}
    token = key.partition("_")[2] or key
    mine = {name: seconds for name, seconds in times.items() if token in name or re.fullmatch(r"[0-9.]+", name)}
    return TciaPatient(key, tuple(sorted(found.folders)), tuple(sorted(found.files)), own, bool(clinical), mine)


def _folders(root: Path, outcome: Outcome) -> Iterator[tuple[Path, list[str]]]:
    """Folders that hold files, with the names of these; those that begin with a dot are passed over.

    Links to folders are not followed: what lies inside the source is found in its own place, and a link that leads
    out of it is recorded, as is a folder that cannot be read.
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
    """Give a folder, or each of its files, to a patient."""
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
            return  # the patient's conversion reads every file of the folder, and names those that were refused here
        patients[key].files.append(path)
    for path, refusal in refused:
        outcome.reject(refusal.code, show_relative(root, refusal.args[1]), path=path)


def _patient_of(path: Path) -> str | None:
    """PatientID of a file; None where it is not DICOM, and not named so.

    Raises:
        DicomError: `UnreadableDicom`; `MissingPatientId`.
    """
    if not path.is_file():
        return None
    header = dicom_header(path)
    if header is None:
        if path.suffix.lower() == ".dcm" and not is_dicomdir(path):
            raise DicomError("UnreadableDicom", f"the name ends in .dcm, the content is no DICOM image ({path})")
        return None
    if not (key := word(header, "PatientID")):
        raise DicomError("MissingPatientId", f"a DICOM file without PatientID ({path})")
    return key


def _clinical(context: Context, settings: TciaSettings) -> Clinical:
    """The publisher's table, where the user names it.

    Raises:
        SettingError: It cannot be read, or says nothing of any study.
    """
    if settings.clinical is None:
        return {}
    clinical = parse_option("clinical", settings.clinical, partial(parse_clinical, tracer=TRACERS[context.name]))
    if not clinical:
        raise SettingError(f"clinical has no rows, only its head ({settings.clinical}); leave the option out")
    return clinical


def files_of(root: Path, patient: TciaPatient) -> Iterator[Path]:
    """The patient's files, in an order that does not depend on the file system."""
    for folder in patient.folders:
        with os.scandir(root / folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())
        yield from (root / folder / name for name in names)
    yield from (path for name in patient.files if (path := root / name).is_file())


def least_bytes(context: Context, unit: Unit) -> float:
    """CT and uptake on the lattice of the largest PET series, packed: one header is read in each folder.

    A folder may hold other series beside the PET: its slices are as many as its header says, where that many files are.
    """
    largest = 0
    for folder in unit.content.folders:
        with suppress(ClicksimError, ValueError, OSError):  # its conversion will say what is wrong
            files = list(files_of(context.source, TciaPatient(unit.key, (folder,))))
            header = dicom_header(files[0]) if files else None
            if header is not None and word(header, "Modality") == "PT":
                rows, columns, slices = (int(word(header, name) or 0) for name in ("Rows", "Columns", "NumberOfSlices"))
                largest = max(largest, rows * columns * min(slices, len(files)))
    return largest * (np.dtype(np.int16).itemsize + np.dtype(np.float32).itemsize) * LEAST_PACKED


def show_relative(root: Path, message: Any) -> str:
    """A message without the path of the source, so that equal trees give equal rows."""
    return str(message).replace(f"{root}/", "").replace(str(root), ".")

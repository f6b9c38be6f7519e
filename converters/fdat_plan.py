"""From the names and small tables of the fdat release to units of work."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import date
from pathlib import PurePosixPath
from typing import Any

from clicksim.catalog.source import Context, Outcome, Row, Unit
from clicksim.errors import SettingError, unknown_name
from clicksim.volumes import EXTENSIONS, case_id_of
from converters.fdat_tables import (
    Clinical,
    Print,
    check_times_used,
    read_clinical,
    read_fingerprint,
    read_folds,
    read_injection_times,
    read_small,
)
from converters.suv_checks import HALF_LIVES
from converters.tables import Rejection, date_or_none, flag_or_none, parse_json
from converters.trees import Tree, open_tree

MARKS = ("labelsTr", "imagesTr")
CT, PET = "0000", "0001"

LAYOUT = """\
<folder or .zip>/
  imagesTr/<case>_0000.nii.gz   CT      imagesTr/<case>_0001.nii.gz   PET (SUV)
  labelsTr/<case>.nii.gz
  [dataset.json] [dataset_fingerprint.json] [splits_final.json] [psma_metadata.csv] [fdg_metadata.csv]"""

OPTIONS = {
    "labels_only": "true: no PET and no CT is opened, and none needs to be there; uptake columns stay null. "
    "The default for a zip, where false measures the uptake of a temporary copy; a folder needs both channels",
    "unpack": "true, zip only: PET and CT are unpacked into the catalog too, and the uptake is measured",
    "resample_labels": "true: a label on another grid than its PET is resampled (nearest neighbour) into the catalog",
    "injection_times": "JSON file with seconds from injection to scan by case, for PSMA",
}

_FDG = re.compile(r"fdg_(?P<patient>[0-9a-f]{10})_(?P<date>\d\d-\d\d-\d{4})-NA-(?P<description>.+)-\d{5}")
_PSMA = re.compile(r"psma_(?P<patient>[0-9a-f]{16})_(?P<date>\d{4}-\d\d-\d\d)")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class CaseName:
    """What the name of a case says.

    Attributes:
        case_id: The name, byte for byte.
        tracer: `FDG` or `PSMA`.
        patient_key: TCIA's PatientID.
        day: Date of the study, shifted.
        day_raw: As in the name.
        description: StudyDescription; None for PSMA.
    """

    case_id: str
    tracer: str
    patient_key: str
    day: date
    day_raw: str
    description: str | None

    @property
    def study_key(self) -> str:
        """Patient and date."""
        return f"{self.patient_key}_{self.day.isoformat()}"


def parse_name(case_id: str) -> CaseName:
    """Read the name of a case.

    >>> parse_name("psma_0179419e313f7d8c_2019-06-10").study_key
    'PSMA_0179419e313f7d8c_2019-06-10'

    Raises:
        Rejection: `BadName`.
    """
    for tracer, prefix, pattern in (("FDG", "PETCT", _FDG), ("PSMA", "PSMA", _PSMA)):
        found = pattern.fullmatch(case_id)
        day = date_or_none(found["date"]) if found else None
        if found and day:
            key = f"{prefix}_{found['patient']}"
            return CaseName(case_id, tracer, key, day, found["date"], found.groupdict().get("description"))
    raise Rejection(
        "BadName",
        f"{case_id!r} is no case; allowed: fdg_<10 hex>_<MM-DD-YYYY>-NA-<description>-<5 digits>, "
        "psma_<16 hex>_<YYYY-MM-DD>",
    )


@dataclass(frozen=True)
class Case:
    """All that the names and tables say about a case; paths are relative to the source, None where there is no file."""

    name: CaseName
    label: str | None
    ct: str | None
    pet: str | None
    _: KW_ONLY
    columns: Row = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    fingerprint: Print | None = None


@dataclass(frozen=True)
class Settings:
    """The user's options."""

    labels_only: bool
    unpack: bool
    resample: bool
    injection_times: str | None

    @classmethod
    def of(cls, context: Context, *, is_archive: bool) -> "Settings":
        """The options of a run.

        Raises:
            SettingError: An unknown option, or a value that it does not take.
        """
        given = context.options
        for name in given:
            if name not in OPTIONS:
                raise unknown_name("option of fdat", name, OPTIONS)
        unpack = _switch(given, "unpack", default=False)
        if unpack and not is_archive:
            raise SettingError("unpack has no effect on a folder: its images are used where they lie")
        times = given.get("injection_times")
        labels_only = _switch(given, "labels_only", default=is_archive and not unpack)
        if unpack and labels_only:
            raise SettingError("unpack and labels_only exclude each other; set one of them")
        resample = _switch(given, "resample_labels", default=False)
        return cls(labels_only, unpack, resample, None if times is None else str(times))


def _switch(options: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = flag_or_none(str(options.get(name, default)))
    if value is None:
        raise SettingError(f"{name} must be true or false, got {options[name]!r}")
    return value


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """One unit per patient, from the names of files and the small tables.

    Raises:
        CatalogError: The source has no such tree, or is a damaged or hostile archive.
        SettingError: An option that is unknown or cannot be read.
    """
    tree = open_tree(context.source, MARKS, LAYOUT)
    settings = Settings.of(context, is_archive=tree.is_archive)
    found = Outcome()
    files = _gather_files(tree, found)
    cases = list(_name_cases(files, _file_ending(tree, found), found))
    folds, in_splits = read_folds(tree, found)
    prints = read_fingerprint(tree, (sorted(files), in_splits), found)
    times = read_injection_times(settings.injection_times)
    check_times_used(settings.injection_times, times, used=any(name.case_id in times for name, _ in cases))
    clinical = read_clinical(tree, found)
    patients: defaultdict[str, list[Case]] = defaultdict(list)
    for name, paths in cases:
        columns, flags = _clinical_columns(name, clinical[name.tracer])
        if times and name.tracer == "PSMA" and name.case_id not in times:
            flags.append("INJECTION_TIME_NOT_GIVEN")
        columns |= {"official_fold": folds.get(name.case_id), "uptake_time_s": times.get(name.case_id)}
        case = Case(name, *paths, columns=columns, flags=tuple(flags), fingerprint=prints.get(name.case_id))
        patients[name.patient_key].append(case)
    return [Unit(key, tuple(patients[key])) for key in sorted(patients)], found


Files = dict[str, list[str]]  # by role: `label`, CT, PET


def _gather_files(tree: Tree, found: Outcome) -> dict[str, Files]:
    """The files of each case, whatever its name; further channels, such as a baseline's guidance, are passed over."""
    cases: defaultdict[str, Files] = defaultdict(lambda: defaultdict(list))
    for folder in MARKS:
        for path in tree.files(folder):
            file = PurePosixPath(path).name
            if not file.endswith(EXTENSIONS) or file in EXTENSIONS:
                found.reject("BadName", f"no image; allowed endings: {', '.join(EXTENSIONS)}", path=path)
                continue
            stem, role = case_id_of(file), "label"
            if folder == "imagesTr":
                channel = _CHANNEL.fullmatch(stem)
                if channel is None:
                    found.reject("BadName", "an image ends in its channel: _0000 (CT) or _0001 (PET)", path=path)
                    continue
                stem, role = channel[1], channel[2]
            files = cases[stem]  # a case that has further channels alone is a case, and is named
            if role in ("label", CT, PET):
                files[role].append(path)
    return cases


def _file_ending(tree: Tree, found: Outcome) -> str:
    """The ending that dataset.json names: it decides between two files; any known one is read."""
    dataset = read_small(tree, "dataset.json", parse_json, found)
    ending = dataset.get("file_ending") if isinstance(dataset, dict) else None
    return ending if ending in EXTENSIONS else EXTENSIONS[0]


def _name_cases(
    files: Mapping[str, Files], ending: str, found: Outcome
) -> Iterator[tuple[CaseName, tuple[str | None, str | None, str | None]]]:
    """Name and paths of label, CT and PET of each case whose name can be read."""
    for stem in sorted(files):
        roles = files[stem]
        try:
            name = parse_name(stem)
            label, ct, pet = (_only_file(roles.get(role, []), ending, found, name) for role in ("label", CT, PET))
            yield name, (label, ct, pet)
        except Rejection as rejection:
            label_or_image = max(path for paths in roles.values() for path in paths)
            found.reject(rejection.code, str(rejection), path=label_or_image, case_id=stem)


def _only_file(paths: list[str], ending: str, found: Outcome, name: CaseName) -> str | None:
    """The file of a role; of several the one with the dataset's ending, the others are recorded.

    Raises:
        Rejection: `DuplicateCase`: several, and none of them is that.
    """
    if len(paths) <= 1:
        return paths[0] if paths else None
    published = [path for path in paths if path.endswith(ending)]
    if len(published) != 1:
        raise Rejection("DuplicateCase", f"several files claim the same place: {', '.join(sorted(paths))}; keep one")
    for path in sorted(set(paths) - set(published)):
        found.reject(
            "DuplicateCase",
            f"{published[0]} is taken; remove the other",
            path=path,
            case_id=name.case_id,
            patient_key=name.patient_key,
        )
    return published[0]


def _clinical_columns(name: CaseName, table: Clinical) -> tuple[Row, list[str]]:
    """What the release and its tables say of a study."""
    fixed: Row = {"radionuclide": "F18"} if name.tracer == "FDG" else {"sex": "M", "diagnosis": "PROSTATE"}
    columns, flags = table.get(name.study_key, ({}, ["METADATA_MISSING"] if table else []))
    columns = {**columns, **fixed}
    columns["half_life_s"] = HALF_LIVES.get(str(columns.get("radionuclide")))
    return columns, list(flags)

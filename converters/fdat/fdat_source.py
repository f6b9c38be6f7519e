"""The whole-body FDG and PSMA PET/CT of autoPET III, IV and V, as NIfTI in nnU-Net's layout.

PSMA-FDG-PET-CT-Lesions: 1,014 FDG studies of 900 patients (University Hospital Tübingen) and 597 PSMA studies of
378 patients (LMU University Hospital Munich), from the research data repository of the University of Tübingen:
https://fdat.uni-tuebingen.de/records/6gjsg-zcg93 (v1), https://fdat.uni-tuebingen.de/records/rdkqd-wdh87 (v2).
CC BY-NC 4.0. The DICOM originals are TCIA's collections with the DOIs 10.7937/gkr0-xv29 and 10.7937/r7ep-3x37.

    imagesTr/<case>_0000.nii.gz     CT on the grid of the PET, HU
    imagesTr/<case>_0001.nii.gz     PET, SUV; channel 1 is the PET although dataset.json may call it CT
    labelsTr/<case>.nii.gz          0 and 1
    dataset.json  dataset_fingerprint.json  splits_final.json  psma_metadata.csv  fdg_metadata.csv

    <case> = fdg_<10 hex>_<MM-DD-YYYY>-NA-<StudyDescription>-<5 digits>     two spaces and dots occur
             psma_<16 hex>_<YYYY-MM-DD>

The images are used in place: the catalog names them `fdat:imagesTr/...`. The published zip can be used directly: its
labels (0.26 of 150 GB) are unpacked unchanged into the catalog's `images/fdat/`, where every program can read them;
PET and CT stay packed. `labels_only=false` measures each PET from a temporary copy, and `unpack` also unpacks PET and
CT into the catalog.

`patient_key` is TCIA's PatientID, `PETCT_<10 hex>` or `PSMA_<16 hex>`, so that a person has the same key in both
releases. `study_key` is the patient and the date of the case name, `PSMA_<16 hex>_2019-06-10`; TCIA's StudyDate is
the same for FDG, and 6,247 days earlier for PSMA.

The voxels of the CT are not read, only its header, so `ct_coverage_fraction` is null. In a folder, each PET is read
completely to measure its uptake. If two files of a case have different grids, the case is rejected as `GridMismatch`:
the publisher promises one grid, so one of the files was changed or belongs to another case, and it is unknown which.
If you know that the label is right, set `resample_labels`.

This module also plans the units of work, from the names and small tables of the fdat release.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import date
from pathlib import Path, PurePosixPath
from shutil import move
from typing import Any

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import SettingError, unknown_name
from clicksim.files import replacing, slug
from clicksim.geometry import Grid
from clicksim.volumes import EXTENSIONS, Volume, case_id_of, digest_voxels, write_image
from converters.shared.case_measures import measure_case, uptake_flags
from converters.shared.clinical_tables import (
    Clinical,
    Print,
    check_times_used,
    diagnosis_flags,
    fits_print,
    read_clinical,
    read_fdat_folds,
    read_fingerprint,
    read_injection_times,
    read_small,
)
from converters.shared.nifti_images import (
    Labels,
    axis_codes,
    check_grids,
    read_labels,
    read_scan,
    rejecting,
    sha256_of,
)
from converters.shared.registration import bring_onto
from converters.shared.tables import Rejection, date_or_none, flag_or_none, parse_json
from converters.shared.trees import ArchiveTree, Tree, open_tree
from converters.suv.suv_headers import HALF_LIVES

MARKS = ("labelsTr", "imagesTr")
CT, PET = "0000", "0001"

LAYOUT = """\
<folder or .zip>/
  imagesTr/<case>_0000.nii.gz   CT      imagesTr/<case>_0001.nii.gz   PET (SUV)
  labelsTr/<case>.nii.gz
  [dataset.json] [dataset_fingerprint.json] [splits_final.json] [psma_metadata.csv] [fdg_metadata.csv]"""

OPTIONS = {
    "labels_only": "true: PET and CT are not opened and may be missing; uptake columns stay null. "
    "The default for a zip; there, false measures the uptake of a temporary copy. Without it, a folder needs both",
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
        case_id: The name, unchanged.
        tracer: `FDG` or `PSMA`.
        patient_key: TCIA's PatientID.
        day: Study date, shifted.
        day_raw: The date as in the name.
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
        f"{case_id!r} is not the name of a case; allowed: fdg_<10 hex>_<MM-DD-YYYY>-NA-<description>-<5 digits>, "
        "psma_<16 hex>_<YYYY-MM-DD>",
    )


@dataclass(frozen=True)
class FdatCase:
    """What names and tables say about a case; paths are relative to the source, None if the file is missing."""

    name: CaseName
    label: str | None
    ct: str | None
    pet: str | None
    _: KW_ONLY
    columns: Row = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    fingerprint: Print | None = None


@dataclass(frozen=True)
class FdatSettings:
    """The options of the user."""

    labels_only: bool
    unpack: bool
    resample: bool
    injection_times: str | None

    @classmethod
    def of(cls, context: Context, *, is_archive: bool) -> "FdatSettings":
        """Read the options of a run.

        Raises:
            SettingError: An unknown option or an invalid value.
        """
        given = context.options
        for name in given:
            if name not in OPTIONS:
                raise unknown_name("option of fdat", name, OPTIONS)
        unpack = _switch(given, "unpack", default=False)
        if unpack and not is_archive:
            raise SettingError("unpack has no effect on a folder: its images are used in place")
        times = given.get("injection_times")
        labels_only = _switch(given, "labels_only", default=is_archive and not unpack)
        if unpack and labels_only:
            raise SettingError("unpack and labels_only exclude each other; set only one")
        resample = _switch(given, "resample_labels", default=False)
        return cls(labels_only, unpack, resample, None if times is None else str(times))


def _switch(options: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = flag_or_none(str(options.get(name, default)))
    if value is None:
        raise SettingError(f"{name} must be true or false, got {options[name]!r}")
    return value


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """Plan one unit per patient, from file names and the small tables.

    Raises:
        CatalogError: The source has no such tree, or is a damaged or hostile archive.
        SettingError: An option is unknown or cannot be read.
    """
    tree = open_tree(context.source, MARKS, LAYOUT)
    settings = FdatSettings.of(context, is_archive=tree.is_archive)
    found = Outcome()
    files = _gather_files(tree, found)
    cases = list(_name_cases(files, _file_ending(tree, found), found))
    folds, in_splits = read_fdat_folds(tree, found)
    prints = read_fingerprint(tree, (sorted(files), in_splits), found)
    times = read_injection_times(settings.injection_times)
    check_times_used(settings.injection_times, times, used=any(name.case_id in times for name, _ in cases))
    clinical = read_clinical(tree, found)
    patients: defaultdict[str, list[FdatCase]] = defaultdict(list)
    for name, paths in cases:
        columns, flags = _clinical_columns(name, clinical[name.tracer])
        if times and name.tracer == "PSMA" and name.case_id not in times:
            flags.append("INJECTION_TIME_NOT_GIVEN")
        columns |= {"official_fold": folds.get(name.case_id), "uptake_time_s": times.get(name.case_id)}
        case = FdatCase(name, *paths, columns=columns, flags=tuple(flags), fingerprint=prints.get(name.case_id))
        patients[name.patient_key].append(case)
    return [Unit(key, tuple(patients[key]), _inputs(tree, patients[key])) for key in sorted(patients)], found


def _inputs(tree: Tree, cases: Iterable[FdatCase]) -> tuple[Path, ...]:
    """The images of a patient, or the archive that contains them. What the tables say is in `cases`."""
    if tree.is_archive:
        return (tree.source,)
    return tuple(tree.source / path for case in cases for path in (case.label, case.ct, case.pet) if path is not None)


Files = dict[str, list[str]]  # by role: `label`, CT, PET


def _gather_files(tree: Tree, found: Outcome) -> dict[str, Files]:
    """The files of each case, whatever its name; other channels, such as a baseline's guidance, are skipped."""
    cases: defaultdict[str, Files] = defaultdict(lambda: defaultdict(list))
    for folder in MARKS:
        for path in tree.files(folder):
            file = PurePosixPath(path).name
            if not file.endswith(EXTENSIONS) or file in EXTENSIONS:
                found.reject("BadName", f"not an image; allowed endings: {', '.join(EXTENSIONS)}", path=path)
                continue
            stem, role = case_id_of(file), "label"
            if folder == "imagesTr":
                channel = _CHANNEL.fullmatch(stem)
                if channel is None:
                    found.reject("BadName", "the name must end in a channel: _0000 (CT) or _0001 (PET)", path=path)
                    continue
                stem, role = channel[1], channel[2]
            files = cases[stem]  # a case that has only other channels is still a case
            if role in ("label", CT, PET):
                files[role].append(path)
    return cases


def _file_ending(tree: Tree, found: Outcome) -> str:
    """The file ending in dataset.json. It decides between two files; all known endings are read."""
    dataset = read_small(tree, "dataset.json", parse_json, found)
    ending = dataset.get("file_ending") if isinstance(dataset, dict) else None
    return ending if ending in EXTENSIONS else EXTENSIONS[0]


def _name_cases(
    files: Mapping[str, Files], ending: str, found: Outcome
) -> Iterator[tuple[CaseName, tuple[str | None, str | None, str | None]]]:
    """Name and paths of label, CT and PET of each case with a valid name."""
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
    """The file of a role. If there are several, the one with the dataset's ending; the others are recorded.

    Raises:
        Rejection: `DuplicateCase`: there are several, and none has that ending.
    """
    if len(paths) <= 1:
        return paths[0] if paths else None
    published = [path for path in paths if path.endswith(ending)]
    if len(published) != 1:
        raise Rejection("DuplicateCase", f"several files claim the same place: {', '.join(sorted(paths))}; keep one")
    for path in sorted(set(paths) - set(published)):
        found.reject(
            "DuplicateCase",
            f"{published[0]} is used; remove the other",
            path=path,
            case_id=name.case_id,
            patient_key=name.patient_key,
        )
    return published[0]


def _clinical_columns(name: CaseName, table: Clinical) -> tuple[Row, list[str]]:
    """Columns of a study from the release and its tables."""
    fixed: Row = {"radionuclide": "F18"} if name.tracer == "FDG" else {"sex": "M", "diagnosis": "PROSTATE"}
    columns, flags = table.get(name.study_key, ({}, ["METADATA_MISSING"] if table else []))
    columns = {**columns, **fixed}
    columns["half_life_s"] = HALF_LIVES.get(str(columns.get("radionuclide")))
    return columns, list(flags)


NAME = "fdat"
LICENCE = "CC-BY-NC-4.0"
USUAL_AXES = "LAS"
CT_FILL_HU = -1024
RELEASES = {"psma-fdg-pet-ct-lesions": "v1, 6gjsg-zcg93", "psma-fdg-pet-ct-lesions_v2": "v2, rdkqd-wdh87"}

FACTS = {
    "title": "PSMA-FDG-PET-CT-Lesions",
    "release": "fdat 6gjsg-zcg93 (v1), rdkqd-wdh87 (v2)",
    "doi": "10.7937/gkr0-xv29, 10.7937/r7ep-3x37",
    "licence": LICENCE,
    "controlled_access": False,
    "citation": "PSMA-FDG-PET-CT-Lesions. Research data repository FDAT, University of Tübingen, record "
    "6gjsg-zcg93 (v1, 2024), rdkqd-wdh87 (v2). FDG-PET-CT-Lesions. The Cancer Imaging Archive, "
    "doi:10.7937/gkr0-xv29. PSMA-PET-CT-Lesions. The Cancer Imaging Archive, doi:10.7937/r7ep-3x37.",
    "bibtex": """\
@misc{psma_fdg_pet_ct_lesions,
  title = {{PSMA-FDG-PET-CT-Lesions}},
  publisher = {FDAT, University of T{\\"u}bingen},
  year = {2024},
  url = {https://fdat.uni-tuebingen.de/records/6gjsg-zcg93}
}
@misc{fdg_pet_ct_lesions,
  title = {{FDG-PET-CT-Lesions}},
  publisher = {The Cancer Imaging Archive},
  doi = {10.7937/gkr0-xv29}
}
@misc{psma_pet_ct_lesions,
  title = {{PSMA-PET-CT-Lesions}},
  publisher = {The Cancer Imaging Archive},
  doi = {10.7937/r7ep-3x37}
}""",
    "annotation": "manual annotation of tumour lesions, one mask per study; uint8, 0 and 1",
    "readers": None,
}


def convert(context: Context, unit: Unit) -> Outcome:
    """Convert a patient; each study ends in `cases` or in `rejected`."""
    tree = open_tree(context.source, MARKS, LAYOUT)
    settings = FdatSettings.of(context, is_archive=tree.is_archive)
    outcome = Outcome()
    for case in unit.content:
        try:
            row, lesions = _convert_case(context, settings, tree, case)
        except Rejection as rejection:
            path = rejection.path or case.label or case.pet or case.ct
            outcome.reject(
                rejection.code,
                str(rejection),
                path=path,
                case_id=case.name.case_id,
                patient_key=case.name.patient_key,
            )
            continue
        outcome.cases.append(row)
        outcome.lesions += [{"case_id": case.name.case_id, **lesion} for lesion in lesions]
    return outcome


Opened = dict[str, tuple[Path, Path]]  # by role: the file, and the folder that its path is relative to


def _convert_case(context: Context, settings: FdatSettings, tree: Tree, case: FdatCase) -> tuple[Row, list[Row]]:
    """The row of a case, and its lesions.

    Raises:
        Rejection: The case cannot be used.
    """
    with ExitStack() as stack:
        roles = _roles(case, tree, settings)
        files = {role: stack.enter_context(tree.local(path)) for role, path in roles.items()}
        labels = read_labels(*files["label"], highest=1, usual_axes=USUAL_AXES)
        digest = sha256_of(files["label"][0])
        flags = {*case.flags, *labels.flags}
        if settings.labels_only:
            measured, lesions = measure_case(labels.array, labels.grid, None, instances="components")
        else:
            labels, measured, lesions, more = _measure_uptake(labels, files["pet"], resample=settings.resample)
            ct = read_scan(*files["ct"])
            measured["ct_digest"] = digest_voxels(ct.array)
            flags |= {*more, *(set() if ct.grid.same_as(labels.grid) else {"CT_GRID_DIFFERS"})}
        flags |= _contradictions(case, measured)
        kept = files if settings.unpack or not tree.is_archive else {"label": files["label"]}
        paths = _place_files(context, tree, case, kept, labels if "LABEL_RESAMPLED" in flags else None)
    row = {
        **_named_columns(case.name, tree),
        **case.columns,
        **measured,
        **paths,
        "axcodes_in": labels.facts.axcodes,
        "ct_fill_value_hu": CT_FILL_HU,
        "pet_units_in": "SUV",
        "suv_factor": 1.0,
        "sha256_in": digest,
        "quality_flags": sorted(flags),
    }
    return row, lesions


def _roles(case: FdatCase, tree: Tree, settings: FdatSettings) -> dict[str, str]:
    """The files to open, by role; with `labels_only` on a folder, PET and CT are optional.

    Raises:
        Rejection: `MissingChannel`.
    """
    every = {"label": case.label, "ct": case.ct, "pet": case.pet}
    needed = ("label",) if settings.labels_only else ("label", "ct", "pet")
    missing = [_described(role) for role in needed if every[role] is None]
    if missing:
        hint = "" if "label" in missing[0] else ", or set labels_only"
        raise Rejection("MissingChannel", f"there is no {' and no '.join(missing)}; complete the download{hint}")
    wanted = needed if tree.is_archive else tuple(every)
    return {role: path for role in wanted if (path := every[role]) is not None}


def _described(role: str) -> str:
    return {"label": "label in labelsTr", "ct": f"CT (_{CT}) in imagesTr", "pet": f"PET (_{PET}) in imagesTr"}[role]


def _measure_uptake(
    labels: Labels, pet_file: tuple[Path, Path], *, resample: bool
) -> tuple[Labels, Row, list[Row], set[str]]:
    """Labels on the PET's grid, the results of `measure_case`, and flags; the PET is read once."""
    pet = read_scan(*pet_file)
    flags: set[str] = set()
    if resample and not labels.grid.same_as(pet.grid):
        labels, flags = _resampled(labels, pet.grid), {"LABEL_RESAMPLED"}
    check_grids(labels.grid, pet.grid, ("label", "PET"), remedy=", or set resample_labels if the label is right")
    with rejecting(*pet_file, "BadUptake"):
        measured, lesions = measure_case(labels.array, labels.grid, pet.array, instances="components")
    return labels, measured, lesions, flags | uptake_flags(pet.array, labels.array, lesions)


def _resampled(labels: Labels, target: Grid) -> Labels:
    array = bring_onto(Volume(labels.array, labels.grid), target, fill=0, labels=True)
    if labels.array.any() and not array.any():
        raise Rejection("GridMismatch", "no lesion is on the grid of the PET; does the label belong to another case?")
    return Labels(array, replace(labels.facts, grid=target, axcodes=axis_codes(target.known_affine)), labels.flags)


def _contradictions(case: FdatCase, measured: Row) -> set[str]:
    """Flags for contradictions between the images and the names and tables."""
    flags = diagnosis_flags(case.name.tracer, case.columns.get("diagnosis"), is_present=measured["lesion_present"])
    shape, spacing = tuple(measured["shape_xyz"]), tuple(measured["spacing_xyz_mm"])
    differs = case.fingerprint is not None and not fits_print(shape, spacing, case.fingerprint)
    return flags | ({"FINGERPRINT_DIFFERS"} if differs else set())


def _place_files(context: Context, tree: Tree, case: FdatCase, files: Opened, resampled: Labels | None) -> Row:
    """The path of each image for the catalog: in the source, or in the catalog after copying it there."""
    paths: Row = {}
    for role, (file, _) in files.items():
        if role == "label" and resampled is not None:
            target = context.images(slug(case.name.case_id)) / "label.nii.gz"
            write_image(target, resampled.array, resampled.grid)
        elif tree.is_archive:
            target = context.images(slug(case.name.case_id)) / f"{role}{file.name[len(case_id_of(file)) :]}"
            with replacing(target) as temporary:
                move(file, temporary)
        else:
            paths[f"{role}_path"] = context.in_place(file)
            continue
        paths[f"{role}_path"] = context.written(target)
    return paths


def _named_columns(name: CaseName, tree: Tree) -> Row:
    """Columns that follow from the names of the case and of the release."""
    return {
        "case_id": name.case_id,
        "source_release": _release(tree),
        "licence": LICENCE,
        "patient_key": name.patient_key,
        "study_key": name.study_key,
        "tracer_class": name.tracer,
        "study_date_raw": name.day_raw,
        "study_date": name.day,
        "date_shifted": True,
        "timepoint": "single",
        "study_description": name.description,
        "converter_version": __version__,
    }


def _release(tree: Tree) -> str | None:
    """The release, from the name of the tree or of its source; None if both were renamed."""
    names = (tree.top, tree.source.name.removesuffix(".zip"))
    return next((RELEASES[name.lower()] for name in names if name.lower() in RELEASES), None)


def least_bytes(context: Context, unit: Unit) -> int:
    """The size of what is unpacked into the catalog."""
    tree = open_tree(context.source, MARKS, LAYOUT)
    if not isinstance(tree, ArchiveTree):
        return 0
    unpack = FdatSettings.of(context, is_archive=True).unpack
    files = [file for case in unit.content for file in (case.label, *((case.ct, case.pet) if unpack else ()))]
    return sum(tree.size(file) for file in files if file is not None)


SOURCE = Source(
    name=NAME,
    title="autoPET III to V: FDG and PSMA whole-body PET/CT, NIfTI in nnU-Net's layout",
    layout=LAYOUT,
    plan=plan,
    convert=convert,
    facts=FACTS,
    options=OPTIONS,
    least_bytes=least_bytes,
)
"""The source behind the entry point `fdat` of the group `clicksim.sources`."""

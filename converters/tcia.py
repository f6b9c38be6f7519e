"""The DICOM originals of the FDG and PSMA whole-body PET/CT of autoPET, from The Cancer Imaging Archive.

FDG-PET-CT-Lesions: 1,014 studies of 900 patients, University Hospital Tübingen, https://doi.org/10.7937/gkr0-xv29.
The de-faced variant is CC BY 4.0; the originals are under controlled access. PSMA-PET-CT-Lesions: 597 studies of
378 patients, LMU University Hospital Munich, https://doi.org/10.7937/r7ep-3x37, de-faced, CC BY 4.0.

    FDG-PET-CT-Lesions/PETCT_<10 hex>/<MM-DD-YYYY>-NA-<StudyDescription>-<5 digits>/
        <number>.000000-<SeriesDescription>-<5 digits>/1-001.dcm ...        one series each of CT, PT and SEG
    PSMA-PET-CT-Lesions/PSMA_<16 hex>/<MM-DD-YYYY>-NA-PETCT whole-body PSMA-<5 digits>/...

Any other tree of the same files is read as well. Of each study the catalog gets, on the grid of the PET,

    pet.nii.gz      float32 SUV by body weight; neither clipped nor smoothed
    ct.nii.gz       int16 HU, linear, -1024 where the CT does not reach, clipped to -1024 ... 3071
    label.nii.gz    0 and 1; several segments keep their numbers

Axes are those of DICOM, L, P, S. A study of which any part breaks a rule is rejected with the name of the rule, and
the others go on. One study of the release is such: the SEG of PSMA_771c8dc6051db4d7 of 1998-11-19 references a PET
slice that does not exist (`SegReferencesMissingSlice`). The publisher advises to read no injection time from the
PSMA headers; the option `injection_times` takes the table that comes with its own converter.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import ClicksimError, GeometryError, ImageError
from clicksim.files import replacing, slug
from clicksim.geometry import Grid
from clicksim.volumes import write_image
from converters.dicom import by_study, choose_series, read_volume, scan_files, slice_geometry, slice_values
from converters.headers import DicomError, quietly
from converters.measure import measure_case
from converters.nifti import axis_codes, sha256_of
from converters.resample import resample_series
from converters.rtstruct import read_rtstruct
from converters.segmentation import Segmentation, read_seg
from converters.series import Series
from converters.slices import SliceGeometry
from converters.suv import Suv, SuvError, suv_factor
from converters.tables import Rejection
from converters.tcia_plan import LAYOUT, OPTIONS, PATIENTS, Patient, Settings, files_of, least_bytes, plan, shown
from converters.tcia_rows import (
    clinical_columns,
    flag_of,
    is_defaced,
    mask_flags,
    scan_columns,
    study_columns,
    suv_columns,
)

CT_FILL_HU = -1024
CT_RANGE_HU = (-1024, 3071)
LOW_COVERAGE = 0.98
HEADER_TIMES = ("DATETIME", "TIME", "TIME_PREV_DAY", "GE_PRIVATE")
TRACERS = {"tcia_fdg": "FDG", "tcia_psma": "PSMA"}
DOIS = {"tcia_fdg": "10.7937/gkr0-xv29", "tcia_psma": "10.7937/r7ep-3x37"}


def convert(context: Context, unit: Unit) -> Outcome:
    """The rows of a patient; each study and each file that was found ends in `cases` or in `rejected`."""
    patient: Patient = unit.content
    settings, outcome = Settings.of(context), Outcome()
    scan = scan_files(files_of(context.source, patient))
    for finding in scan.findings:
        path = _relative(context, Path(finding.path))
        outcome.reject(finding.code, shown(context.source, finding.message), path=path, patient_key=patient.key)
    for study_uid, series in by_study(scan.series).items():
        case_id = f"{patient.key}_{study_uid}"
        try:
            row, lesions = _convert_study(context, settings, patient, study_uid, series)
        except ClicksimError as error:
            outcome.reject(
                code_of(error),
                shown(context.source, error.args[1] if isinstance(error, DicomError) else error),
                path=_relative(context, Path(os.path.commonpath([s.paths[0].parent for s in series]))),
                case_id=case_id,
                patient_key=patient.key,
            )
            continue
        outcome.cases.append(row)
        outcome.lesions += [{"case_id": case_id, **lesion} for lesion in lesions]
    return outcome


def code_of(error: ClicksimError) -> str:
    """The reason that a refusal ends as."""
    if isinstance(error, DicomError | SuvError | Rejection):
        return error.code
    if isinstance(error, GeometryError):
        return "GridMismatch"
    return "BadUptake" if isinstance(error, ImageError) else "UnreadableFile"


def _relative(context: Context, path: Path) -> str:
    return path.relative_to(context.source).as_posix() if path.is_relative_to(context.source) else path.name


@dataclass(frozen=True, eq=False)
class _Study:
    """The parts of a study that go together, before any pixel of PET and CT is read."""

    pet: Series
    ct: Series
    mask: Series
    geometry: SliceGeometry
    grid: Grid
    headers: list[Any]
    suv: Suv


def _convert_study(
    context: Context, settings: Settings, patient: Patient, study_uid: str, series: list[Series]
) -> tuple[Row, list[Row]]:
    """Row and lesions of a study. What headers refuse is refused before pixels are read.

    Raises:
        ClicksimError: Whatever is wrong with it; `code_of` names the reason.
    """
    _check_patient(context, patient, series)
    tracer = TRACERS[context.name]
    choice = choose_series(series, rule=settings.rule)
    assert choice.pet is not None
    assert choice.ct is not None
    assert choice.seg is not None
    geometry, ct_geometry = slice_geometry(choice.pet), slice_geometry(choice.ct)
    grid = _grid_of(geometry, settings.gaps)
    headers = choice.pet.headers()
    with quietly("UnreadableDicom", choice.pet.paths[0]):
        columns = study_columns(patient.key, study_uid, headers[0], tracer)
        seconds = _seconds(patient, columns, study_uid)
        suv = suv_factor(headers, injection_seconds=seconds)
        columns |= suv_columns(suv, headers, choice.pet)
        columns |= scan_columns(headers[0], choice.ct, choice.seg, choice, geometry)
        columns |= _release_columns(context, settings, headers[0])
    study = _Study(choice.pet, choice.ct, choice.seg, geometry, grid, headers, suv)
    flags = _series_flags(choice.left_out, (study.pet, study.ct, study.mask))
    seg = _read_mask(study)
    flags |= mask_flags(seg, study.mask.description)
    labels, instances = _labels(seg, study, flags)
    uptake = read_uptake(study.pet, geometry, grid, suv, gaps=settings.gaps)
    measured, lesions = measure_case(labels, grid, uptake, instances=instances)
    ct = resample_series(study.ct, ct_geometry, grid, fill=CT_FILL_HU, limits=CT_RANGE_HU, gaps=settings.gaps)
    clinical, more = clinical_columns(columns["study_key"], patient.clinical, has_table=patient.has_table)
    flags |= {*more, *_image_flags(uptake, labels, lesions), *_ct_flags(ct.coverage, ct.clipped)}
    flags |= {"CT_GAPS_INTERPOLATED"} if ct_geometry.faults() else set()
    if tracer == "PSMA" and columns["suv_adm_time_rule"] in HEADER_TIMES:
        flags.add("INJECTION_TIME_UNSURE")
    assert grid.affine is not None
    row = {
        **columns,
        **measured,
        **clinical,
        "ct_native_spacing_mm": [*ct_geometry.pixel_mm, ct_geometry.typical_gap],
        "ct_coverage_fraction": ct.coverage,
        "ct_fill_value_hu": CT_FILL_HU,
        "axcodes_in": axis_codes(grid.affine),
        "n_frames_seg": seg.frames,
        "n_segments": len(seg.names),
        "sha256_in": sha256_of(study.mask.paths[0]),
        "converter_version": __version__,
    }
    flags |= _contradictions(row, tracer)
    row["quality_flags"] = sorted(flags)
    row |= _write(context, settings, row, {"pet": uptake, "ct": ct.array, "label": labels}, grid)
    return row, lesions


def _check_patient(context: Context, patient: Patient, series: list[Series]) -> None:
    found = sorted({s.patient_id for s in series})
    if found != [patient.key]:
        raise DicomError("PatientMismatch", f"files in the folders of {patient.key} name the patient {found}")
    other = next((n for n, p in PATIENTS.items() if n != context.name and p.fullmatch(patient.key)), None)
    if other:
        command = other.replace("_", "-")
        raise DicomError("OtherCollection", f"{patient.key} is of the other collection: clicksim convert {command}")


def _grid_of(geometry: SliceGeometry, gaps: str) -> Grid:
    """The grid of the PET; with `interpolate` that of evenly spaced slices."""
    if gaps == "refuse" or not geometry.faults():
        return geometry.grid()
    if not {code for code, _ in geometry.faults()} <= {"IncompleteSeries", "NonUniformSpacing"}:
        return geometry.grid()
    if geometry.shape[2] < 2:
        return geometry.grid()
    length = float(geometry.offsets[-1] - geometry.offsets[0])
    return geometry.regular_grid(max(round(length / geometry.typical_gap), 1) + 1)


def _seconds(patient: Patient, columns: Row, study_uid: str) -> float | None:
    """The user's seconds from injection to scan, under any name of the study."""
    names = (columns["fdat_case_id"], columns["study_key"], study_uid, columns["case_id"])
    return next((patient.times[name] for name in names if name in patient.times), None)


def _release_columns(context: Context, settings: Settings, header: Any) -> Row:
    is_psma = context.name == "tcia_psma"
    defaced = settings.defaced if settings.defaced is not None else True if is_psma else is_defaced(header)
    licence = "CC-BY-4.0" if is_psma or defaced else "controlled access (NIH)"
    return {"source_release": DOIS[context.name], "licence": licence, "defaced": defaced}


def _series_flags(left_out: Any, chosen: tuple[Series, ...]) -> set[str]:
    flags = {"SERIES_CHOSEN"} if any(finding.code == "NotChosen" for finding in left_out) else set()
    return flags | {flag_of(finding.code) for one in chosen for finding in one.findings}


def _read_mask(study: _Study) -> Segmentation:
    """The mask on the slices of the PET."""
    path = study.mask.paths[0]
    if study.mask.modality == "RTSTRUCT":
        return read_rtstruct(path, study.grid, frame_of_reference=study.geometry.frame_of_reference)
    return read_seg(path, study.geometry)


def _labels(seg: Segmentation, study: _Study, flags: set[str]) -> tuple[NDArray[Any], Any]:
    """A mask; or an instance map, where several segments have voxels. Labels of interpolated slices are the nearest."""
    present = [n for n in np.unique(seg.labels).tolist() if n]
    if len(present) > 1:
        flags.add("SEVERAL_SEGMENTS")
        labels = seg.labels.astype(np.uint8 if max(present) < 256 else np.uint16)
    else:
        labels = (seg.labels > 0).view(np.uint8)
    if study.geometry.faults():
        flags.add("GAPS_INTERPOLATED")
    if study.geometry.faults() and study.mask.modality == "SEG":
        offsets = study.geometry.offsets
        targets = np.linspace(offsets[0], offsets[-1], study.grid.shape[2])
        nearest = np.abs(offsets[None, :] - targets[:, None]).argmin(axis=1)
        labels = np.asfortranarray(labels[:, :, nearest])
    return labels, "labels" if len(present) > 1 else "components"


def read_uptake(
    series: Series, geometry: SliceGeometry, grid: Grid, suv: Suv, *, gaps: str = "refuse"
) -> NDArray[np.float32]:
    """`(I, J, K)` SUV in Fortran order: slope and factor in double precision, rounded once.

    Raises:
        SuvError: `CountsNotConvertible`, where factors differ by slice and slices would have to be interpolated.
        DicomError: As `converters.dicom.read_volume`.
    """
    factors = suv.per_slice or (suv.factor,) * len(series.slices)
    if gaps == "interpolate" and geometry.faults():
        if suv.per_slice is not None:
            raise SuvError("CountsNotConvertible", "slices with factors of their own cannot be interpolated")
        values: NDArray[np.float64] = read_volume(series, dtype="float64", gaps=gaps).array * suv.factor
        return values.astype(np.float32)
    place = {uid: k for k, uid in enumerate(geometry.uids)}
    try:
        out = np.empty(grid.shape, np.float32, order="F")
    except MemoryError as error:
        raise DicomError("UnsupportedPixels", f"a volume of {grid} does not fit into memory") from error
    with np.errstate(over="ignore"):
        for entry, factor in zip(series.slices, factors, strict=True):
            out[:, :, place[entry.uid]] = (slice_values(entry, series) * factor).T
    return out


def _image_flags(uptake: NDArray[np.float32], labels: NDArray[Any], lesions: list[Row]) -> set[str]:
    flags = {"NEGATIVE_UPTAKE"} if float(uptake.min()) < 0 else set()
    for lesion in lesions:
        box = lesion["bbox_ijk"]
        part = tuple(slice(first, last + 1) for first, last in zip(box[:3], box[3:], strict=True))
        if np.any((labels[part] > 0) & (uptake[part] == 0)):
            return flags | {"LESION_IN_DEFACED"}
    return flags


def _ct_flags(coverage: float, clipped: bool) -> set[str]:
    return ({"CT_COVERAGE_LOW"} if coverage < LOW_COVERAGE else set()) | ({"CT_CLIPPED"} if clipped else set())


def _contradictions(row: Row, tracer: str) -> set[str]:
    """Flags where table and mask contradict each other; all of PSMA has the diagnosis, with lesions or without."""
    if tracer != "FDG" or row.get("diagnosis") is None:
        return set()
    if row["diagnosis"] == "NEGATIVE":
        return {"LESION_BUT_NEGATIVE"} if row["lesion_present"] else set()
    return set() if row["lesion_present"] else {"EMPTY_BUT_DIAGNOSED"}


def _write(context: Context, settings: Settings, row: Row, images: dict[str, NDArray[Any]], grid: Grid) -> Row:
    """The images in the catalog, and links to them for nnU-Net; the columns that name them."""
    folder = context.images(slug(row["case_id"]))
    paths: Row = {}
    for role, array in images.items():
        write_image(folder / f"{role}.nii.gz", array, grid)
        paths[f"{role}_path"] = context.written(folder / f"{role}.nii.gz")
    if settings.nnunet is not None:
        name = row["fdat_case_id"] or slug(row["case_id"])
        link(folder / "ct.nii.gz", settings.nnunet / "imagesTr" / f"{name}_0000.nii.gz")
        link(folder / "pet.nii.gz", settings.nnunet / "imagesTr" / f"{name}_0001.nii.gz")
        target = settings.nnunet / "labelsTr" / f"{name}.nii.gz"
        if row["instances"] == "components":
            link(folder / "label.nii.gz", target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, (images["label"] > 0).view(np.uint8), grid)
    return paths


def link(file: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none; an older file of that name is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def _source(name: str, title: str, site: str, licence: str, annotation: str) -> Source:
    return Source(
        name=name,
        title=f"{title}, DICOM, from The Cancer Imaging Archive ({site})",
        layout=LAYOUT,
        plan=plan,
        convert=convert,
        facts={
            "title": title,
            "release": f"The Cancer Imaging Archive, {DOIS[name]}",
            "doi": DOIS[name],
            "licence": licence,
            "controlled_access": name == "tcia_fdg",
            "citation": f"{title}. The Cancer Imaging Archive, doi:{DOIS[name]}.",
            "bibtex": f"@misc{{{title.lower().replace('-', '_')},\n  title = {{{{{title}}}}},\n"
            f"  publisher = {{The Cancer Imaging Archive}},\n  doi = {{{DOIS[name]}}}\n}}",
            "annotation": annotation,
            "readers": None,
        },
        options=OPTIONS,
        least_bytes=least_bytes,
    )


FDG = _source(
    "tcia_fdg",
    "FDG-PET-CT-Lesions",
    "University Hospital Tübingen",
    "CC-BY-4.0 (de-faced); originals under NIH controlled access",
    "manual annotation of tumour lesions, one DICOM SEG per study",
)
"""What the entry point `tcia-fdg` of the group `clicksim.sources` names."""

PSMA = _source(
    "tcia_psma",
    "PSMA-PET-CT-Lesions",
    "LMU University Hospital Munich",
    "CC-BY-4.0",
    "manual annotation of tumour lesions, one DICOM SEG per study",
)
"""What the entry point `tcia-psma` of the group `clicksim.sources` names."""

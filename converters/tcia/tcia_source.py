"""The DICOM originals of the FDG and PSMA whole-body PET/CT of autoPET, from The Cancer Imaging Archive.

FDG-PET-CT-Lesions: 1,014 studies of 900 patients, University Hospital Tübingen, https://doi.org/10.7937/gkr0-xv29.
The de-faced variant is CC BY 4.0; the originals are under controlled access. PSMA-PET-CT-Lesions: 597 studies of
378 patients, LMU University Hospital Munich, https://doi.org/10.7937/r7ep-3x37, de-faced, CC BY 4.0.

    FDG-PET-CT-Lesions/PETCT_<10 hex>/<MM-DD-YYYY>-NA-<StudyDescription>-<5 digits>/
        <number>.000000-<SeriesDescription>-<5 digits>/1-001.dcm ...        one series each of CT, PT and SEG
    PSMA-PET-CT-Lesions/PSMA_<16 hex>/<MM-DD-YYYY>-NA-PETCT whole-body PSMA-<5 digits>/...

Any other tree of the same files can be read too. For each study, the catalog gets these images on the grid of the PET:

    pet.nii.gz      float32 SUV by body weight; not clipped or smoothed
    ct.nii.gz       int16 HU, linear, clipped to -1024 ... 3071; -1024 outside the CT
    label.nii.gz    0 and 1; several segments keep their numbers

Axes are those of DICOM: L, P, S. A study is rejected with the name of the rule if any part of it breaks one; the
others are converted. One study of the release is rejected: the SEG of PSMA_771c8dc6051db4d7 of 1998-11-19 references
a PET slice that does not exist (`SegReferencesMissingSlice`). The publisher advises against reading injection times
from the PSMA headers; the option `injection_times` takes the table that comes with the publisher's converter.

This module also turns the headers of a PET/CT study into columns of the catalog.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import ClicksimError, GeometryError, ImageError, up_to_ten
from clicksim.files import replacing, slug
from clicksim.geometry import Grid
from clicksim.lesions import Instances
from clicksim.volumes import digest_voxels, write_image
from converters.dicom.dicom_volume import read_volume, slice_values
from converters.dicom.headers import DicomError, quietly, read_dataset, word, words
from converters.dicom.rtstruct import read_rtstruct
from converters.dicom.segmentation import Segmentation, read_seg
from converters.dicom.series import Series, by_study, scan_files
from converters.dicom.slices import SliceGeometry, slice_geometry
from converters.shared.case_measures import measure_case, uptake_flags
from converters.shared.clinical_tables import diagnosis_flags
from converters.shared.nifti_images import axis_codes, sha256_of
from converters.shared.resample import resample_series
from converters.shared.tables import Rejection, age_years, date_or_none
from converters.suv.suv_headers import SuvHeader
from converters.suv.suv_rules import Suv, SuvError, suv_factor
from converters.suv.suv_times import acquisition
from converters.tcia.series_choice import Choice, choose_series
from converters.tcia.tcia_plan import (
    LAYOUT,
    OPTIONS,
    PATIENTS,
    TRACERS,
    TciaPatient,
    TciaSettings,
    files_of,
    least_bytes,
    plan,
    show_relative,
)

PSMA_SHIFT = timedelta(days=6247)
"""PSMA-PET-CT-Lesions has dates this much earlier than those of the same studies in fdat."""

_ITERATIONS = re.compile(r"(\d+)\s*i(?:ter)?[a-z]*\s*(\d+)\s*s", re.IGNORECASE)
_GAUSS = re.compile(r"gauss(?:ian)?\s*([\d.]+)", re.IGNORECASE)
_HEX = re.compile(r"(?:PETCT|PSMA)_([0-9a-f]{10}|[0-9a-f]{16})")


def clean_description(text: str) -> str:
    """Convert a description to the form that NBIA's retriever uses in folder names.

    >>> clean_description("PET-CT (Ganzkoerper  primaer mit KM)")
    'PET-CT Ganzkoerper  primaer mit KM'
    """
    return "".join(c for c in text if (c.isascii() and c.isalnum()) or c in " .-_")


def study_day(header: Any, tracer: str) -> tuple[str, date | None, date | None]:
    """StudyDate as stored and as parsed, and the date of the same study in fdat."""
    raw = word(header, "StudyDate")
    day = date_or_none(raw)
    try:
        return raw, day, day + PSMA_SHIFT if day and tracer == "PSMA" else day
    except OverflowError:
        return raw, day, None


def fdat_name(patient: str, study_uid: str, header: Any, tracer: str) -> str | None:
    """The name of the same study in fdat; None if the PatientID is not from this collection."""
    found = _HEX.fullmatch(patient)
    _, day, fdat_day = study_day(header, tracer)
    # a UID has only digits and dots; other text could become the path of another file
    if not found or day is None or fdat_day is None or not study_uid.replace(".", "").isdigit():
        return None
    if tracer == "PSMA":
        return f"psma_{found[1]}_{fdat_day.isoformat()}" if len(found[1]) == 16 else None
    description = clean_description(word(header, "StudyDescription"))
    return f"fdg_{found[1]}_{day:%m-%d-%Y}-NA-{description}-{study_uid[-5:]}" if len(found[1]) == 10 else None


def study_columns(patient: str, study_uid: str, header: Any, tracer: str) -> Row:
    """Columns for patient, study and dates."""
    raw, day, fdat_day = study_day(header, tracer)
    sex = word(header, "PatientSex").upper()
    return {
        "case_id": f"{patient}_{study_uid}",
        "patient_key": patient,
        "study_key": f"{patient}_{fdat_day.isoformat()}" if fdat_day else None,
        "fdat_case_id": fdat_name(patient, study_uid, header, tracer),
        "tracer_class": tracer,
        "study_date_raw": raw or None,
        "study_date": day,
        "date_shifted": True,
        "timepoint": "single",
        "study_description": word(header, "StudyDescription") or None,
        "sex": sex if sex in ("F", "M") else None,
        "age_years": age_years(word(header, "PatientAge")),
        "diagnosis": "PROSTATE" if tracer == "PSMA" else None,
        "manufacturer": word(header, "Manufacturer") or None,
        "model": word(header, "ManufacturerModelName") or None,
    }


def suv_columns(suv: Suv, headers: Sequence[Any], series: Series) -> Row:
    """Columns for the SUV factor, and the rule and tag behind each part of it."""
    rules = suv.rules
    return {
        "radionuclide": suv.radionuclide,
        "patient_weight_kg": suv.weight_kg,
        "injected_dose_bq": suv.dose_bq,
        "half_life_s": suv.half_life_s,
        "uptake_time_s": suv.uptake_time_s,
        "pet_units_in": suv.units,
        "decay_correction": suv.decay_correction,
        "suv_factor": None if np.isnan(suv.factor) else suv.factor,
        "suv_factors": None if suv.per_slice is None else list(suv.per_slice),
        "suv_ref_time_rule": rules["reference_time"].code,
        "suv_adm_time_rule": rules["injection_time"].code,
        "suv_warnings": list(suv.warning_codes),
        "suv_rules": [f"{name}: {rule.code}, {rule.source}, {rule.value}" for name, rule in rules.items()],
        **_bed_columns(suv, headers, series),
    }


def _bed_columns(suv: Suv, headers: Sequence[Any], series: Series) -> Row:
    """When each part of the scan began, counted from the decay reference."""
    origin = suv.reference_s
    if origin is None:
        return {}
    starts = [acquisition(SuvHeader(header)) for header in headers]
    known = sorted({round(start - origin, 3) for start in starts if start is not None})
    first = starts[min(range(len(starts)), key=lambda n: str(series.paths[n]))]
    return {
        "pet_bed_starts_s": known or None,
        "pet_first_file_s": None if first is None else round(first - origin, 3),
    }


def scan_columns(pet: Any, chosen: tuple[Series, Series, Series], geometry: SliceGeometry) -> Row:
    """Columns for how the images were made.

    Args:
        pet: The header of a PET slice.
        chosen: PET, CT and mask.
        geometry: The geometry of the PET.

    Raises:
        DicomError: `UnreadableDicom`, if the CT's middle slice has changed since the scan.
    """
    ct = chosen[1]
    middle = ct.slices[len(ct.slices) // 2].path
    with quietly("UnreadableDicom", middle):
        header = read_dataset(middle, pixels=False)
        agent = word(header, "ContrastBolusAgent")
        columns = {
            "ct_kvp": _positive(header, "KVP"),
            "ct_exposure_mas": _exposure(header),
            "ct_kernel": "\\".join(words(header, "ConvolutionKernel")) or None,
            "ct_slice_thickness_mm": _positive(header, "SliceThickness"),
            "ct_contrast_agent": agent or None,
            "contrast_ct": has_contrast(agent, word(pet, "StudyDescription")),
        }
    iterations, subsets, filter_mm = reconstruction(pet)
    uids = {f"{kind}_series_uid": one.series_uid for kind, one in zip(("pt", "ct", "seg"), chosen, strict=True)}
    gaps = geometry.gaps
    return {
        **columns,
        **uids,
        "pet_reconstruction": word(pet, "ReconstructionMethod") or None,
        "pet_iterations": iterations,
        "pet_subsets": subsets,
        "pet_filter_mm": filter_mm,
        "pet_slice_thickness_mm": _positive(pet, "SliceThickness"),
        "z_gap_min_mm": float(gaps.min()) if gaps.size else None,
        "z_gap_max_mm": float(gaps.max()) if gaps.size else None,
    }


def reconstruction(header: Any) -> tuple[int | None, int | None, float | None]:
    """Iterations, subsets and filter in mm: from their tags, else from the text that scanners write.

    `PSF+TOF 2i21s` means two iterations and 21 subsets; `XYZ Gauss2.00` means a 2 mm filter.
    """
    found = _ITERATIONS.search(word(header, "ReconstructionMethod"))
    named = (int(found[1]), int(found[2])) if found else (None, None)
    filtered = _GAUSS.search(" ".join(words(header, "ConvolutionKernel")))
    try:
        filter_mm = float(filtered[1]) if filtered else None
    except ValueError:
        filter_mm = None
    counted = [_count(header, keyword, text) for keyword, text in zip(_COUNTS, named, strict=True)]
    return counted[0], counted[1], filter_mm


_COUNTS = ("NumberOfIterations", "NumberOfSubsets")


def _count(header: Any, keyword: str, named: int | None) -> int | None:
    value = _positive(header, keyword)
    number = named if value is None else int(value)
    return number if number is not None and 0 < number < 128 else None


def has_contrast(agent: str, description: str) -> bool | None:
    """Whether the CT has contrast agent, by its tag, else by German words in the description; None if unknown."""
    if agent:
        return agent.upper() not in ("NO", "NONE", "N", "WITHOUT")
    text = description.upper()
    if "MIT KM" in text:
        return True
    return False if "NATIV" in text else None


def _exposure(header: Any) -> float | None:
    """mAs, from Exposure or from the tag in µAs."""
    value = _positive(header, "Exposure")
    micro = _positive(header, "ExposureInuAs")
    return value if value is not None else None if micro is None else micro / 1000


def _positive(header: Any, keyword: str) -> float | None:
    try:
        value = float(word(header, keyword))
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None


def is_defaced(header: Any) -> bool | None:
    """True if the NBIA site name, in the private group of its anonymiser, says defaced; else None."""
    for element in header.group_dataset(0x0013):
        if "deface" in str(element.value).lower():
            return True
    return None


def mask_flags(seg: Segmentation, description: str) -> set[str]:
    """Flags for the warnings that arose while reading the mask."""
    flags = {flag_of(code) for code, _ in seg.warnings}
    text, present = description.lower(), bool(seg.labels.any())
    says = False if "no tumor lesions" in text else True if "tumor lesions detected" in text else None
    if says is not None and says != present:
        flags.add("SEG_DESCRIPTION_CONTRADICTS")
    return flags


def flag_of(code: str) -> str:
    """Convert a code to the spelling of flags.

    >>> flag_of("SegPlacedByPosition")
    'SEG_PLACED_BY_POSITION'
    """
    return re.sub(r"(?<!^)([A-Z])", r"_\1", code).upper()


def clinical_columns(
    study_key: str | None, table: Mapping[str, tuple[Row, list[str]]], *, has_table: bool
) -> tuple[Row, list[str]]:
    """What the publisher's table says about a study; only known values replace those of the headers."""
    if study_key is None or study_key not in table:
        return {}, ["METADATA_MISSING"] if has_table else []
    columns, flags = table[study_key]
    return {name: value for name, value in columns.items() if value is not None}, list(flags)


CT_FILL_HU = -1024
CT_RANGE_HU = (-1024, 3071)
LOW_COVERAGE = 0.98
HEADER_TIMES = ("DATETIME", "TIME", "TIME_PREV_DAY", "GE_PRIVATE")
DOIS = {"tcia_fdg": "10.7937/gkr0-xv29", "tcia_psma": "10.7937/r7ep-3x37"}


def convert(context: Context, unit: Unit) -> Outcome:
    """Convert a patient; each study and each file ends in `cases` or in `rejected`."""
    patient: TciaPatient = unit.content
    settings, outcome = TciaSettings.of(context), Outcome()
    scan = scan_files(files_of(context.source, patient))
    for finding in scan.findings:
        path = _relative(context, Path(finding.path))
        outcome.reject(finding.code, show_relative(context.source, finding.message), path=path, patient_key=patient.key)
    for study_uid, series in by_study(scan.series).items():
        case_id = f"{patient.key}_{study_uid}"
        try:
            row, lesions = _convert_study(context, settings, patient, series)
        except ClicksimError as error:
            outcome.reject(
                code_of(error),
                show_relative(context.source, told(error)),
                path=_relative(context, Path(os.path.commonpath([s.paths[0].parent for s in series]))),
                case_id=case_id,
                patient_key=patient.key,
            )
            continue
        outcome.cases.append(row)
        outcome.lesions += [{"case_id": case_id, **lesion} for lesion in lesions]
    return outcome


def code_of(error: ClicksimError) -> str:
    """The reason code in `rejected` for a refusal."""
    if isinstance(error, DicomError | SuvError | Rejection):
        return error.code
    if isinstance(error, GeometryError):
        return "GridMismatch"
    return "BadUptake" if isinstance(error, ImageError) else "UnreadableFile"


def told(error: ClicksimError) -> str:
    """The message of a refusal without its code, which has its own column."""
    text: str = error.args[1] if isinstance(error, DicomError) else str(error)
    return text.removeprefix(f"{code_of(error)}: ")


def _relative(context: Context, path: Path) -> str:
    return path.relative_to(context.source).as_posix() if path.is_relative_to(context.source) else path.name


def _convert_study(
    context: Context, settings: TciaSettings, patient: TciaPatient, series: list[Series]
) -> tuple[Row, list[Row]]:
    """Convert one study to a case and its lesions. Headers are checked before pixels are read.

    Raises:
        ClicksimError: The study cannot be converted; `code_of` gives the reason.
    """
    _check_patient(context, patient, series)
    choice = choose_series(series, rule=settings.rule)
    pet, ct, mask = choice.pet, choice.ct, choice.seg
    geometry, ct_geometry = slice_geometry(pet), slice_geometry(ct)
    grid = geometry.grid(gaps=settings.gaps)
    columns, suv, unnamed = _read_headers(context, settings, patient, (pet, ct, mask), geometry, grid)
    seg = _read_mask(mask, geometry, grid, settings.structures)
    labels, instances = _labels(seg, geometry, grid)
    uptake = read_suv(pet, geometry, grid, suv, gaps=settings.gaps)
    measured, lesions = measure_case(labels, grid, uptake, instances=instances)
    moved = resample_series(ct, ct_geometry, grid, fill=CT_FILL_HU, limits=CT_RANGE_HU, gaps=settings.gaps)
    clinical, flags = clinical_columns(columns["study_key"], patient.clinical, has_table=patient.has_table)
    row = {
        **columns,
        **measured,
        **clinical,
        "series_choice": [*choice.reasons, *(text for code, text in seg.warnings if code == "StructuresChosen")],
        "ct_native_spacing_mm": [*ct_geometry.pixel_mm, ct_geometry.typical_gap],
        "ct_coverage_fraction": moved.coverage,
        "ct_fill_value_hu": CT_FILL_HU,
        "ct_digest": digest_voxels(moved.array),
        "axcodes_in": axis_codes(grid.known_affine),
        "n_frames_seg": seg.frames,
        "n_segments": len(seg.names),
        "sha256_in": sha256_of(mask.paths[0]),
        "converter_version": __version__,
    }
    found = {
        *flags,
        *unnamed,
        *_series_flags(choice),
        *mask_flags(seg, mask.description),
        *uptake_flags(uptake, labels, lesions),
        *diagnosis_flags(row["tracer_class"], row["diagnosis"], is_present=row["lesion_present"]),
        *_case_flags(row, geometry, ct_geometry, is_clipped=moved.clipped),
    }
    row["quality_flags"] = sorted(found)
    row |= _write(context, settings, row, {"pet": uptake, "ct": moved.array, "label": labels}, grid)
    return row, lesions


def _check_patient(context: Context, patient: TciaPatient, series: list[Series]) -> None:
    found = sorted({s.patient_id for s in series})
    if found != [patient.key]:
        named = up_to_ten(name or "(none)" for name in found)
        raise DicomError(
            "PatientMismatch",
            f"files in the folders of {patient.key} have the PatientID {named}; move them to a separate folder",
        )
    other = next((n for n, p in PATIENTS.items() if n != context.name and p.fullmatch(patient.key)), None)
    if other:
        command = other.replace("_", "-")
        raise DicomError(
            "OtherCollection", f"{patient.key} belongs to the other collection; use clicksim convert {command}"
        )


def _read_headers(
    context: Context,
    settings: TciaSettings,
    patient: TciaPatient,
    chosen: tuple[Series, Series, Series],
    geometry: SliceGeometry,
    grid: Grid,
) -> tuple[Row, Suv, set[str]]:
    """Columns from headers, the factor from stored values to SUV, and flags; `chosen` is PET, CT and mask."""
    pet = chosen[0]
    headers = pet.headers()
    with quietly("UnreadableDicom", pet.paths[0]):
        columns = study_columns(patient.key, pet.study_uid, headers[0], TRACERS[context.name])
        seconds = _seconds(patient, columns, pet.study_uid)
        suv = suv_factor(headers, injection_seconds=seconds, interpolated=max(grid.shape[2] - len(headers), 0))
        columns |= suv_columns(suv, headers, pet)
        columns |= scan_columns(headers[0], chosen, geometry)
        columns |= _release_columns(context, settings, headers[0])
    return columns, suv, {"INJECTION_TIME_NOT_GIVEN"} if settings.injection_times and seconds is None else set()


def _seconds(patient: TciaPatient, columns: Row, study_uid: str) -> float | None:
    """The user's seconds from injection to scan, under any name of the study."""
    names = (columns["fdat_case_id"], columns["study_key"], study_uid, columns["case_id"])
    return next((patient.times[name] for name in names if name in patient.times), None)


def _release_columns(context: Context, settings: TciaSettings, header: Any) -> Row:
    is_psma = context.name == "tcia_psma"
    defaced = settings.defaced if settings.defaced is not None else True if is_psma else is_defaced(header)
    licence = "CC-BY-4.0" if is_psma or defaced else "controlled access (NIH)"
    return {"source_release": DOIS[context.name], "licence": licence, "defaced": defaced}


def _series_flags(choice: Choice) -> set[str]:
    noticed = {
        "SERIES_CHOSEN": any(finding.code == "NotChosen" for finding in choice.left_out),
        "SERIES_RULE_UNMATCHED": bool(choice.unmatched),
    }
    flags = {flag for flag, holds in noticed.items() if holds}
    return flags | {flag_of(finding.code) for one in (choice.pet, choice.ct, choice.seg) for finding in one.findings}


def _read_mask(mask: Series, geometry: SliceGeometry, grid: Grid, structures: str) -> Segmentation:
    """Read the mask: a SEG on the slices of the PET, contours on its grid."""
    if mask.modality == "RTSTRUCT":
        return read_rtstruct(mask.paths[0], grid, frame_of_reference=geometry.frame_of_reference, structures=structures)
    return read_seg(mask.paths[0], geometry, structures=structures)


def _labels(seg: Segmentation, geometry: SliceGeometry, grid: Grid) -> tuple[NDArray[Any], Instances]:
    """A mask, or an instance map if several segments have voxels. Interpolated slices get the nearest labels."""
    present = [n for n in seg.names if (seg.labels == n).any()] if len(seg.names) > 1 else []
    if len(present) > 1:
        labels = seg.labels.astype(np.uint8 if max(present) < 256 else np.uint16)
    else:
        labels = seg.mask.view(np.uint8)
    if geometry.faults() and seg.kind != "RTSTRUCT":
        offsets = geometry.offsets
        targets = np.linspace(offsets[0], offsets[-1], grid.shape[2])
        nearest = np.abs(offsets[None, :] - targets[:, None]).argmin(axis=1)
        labels = np.asfortranarray(labels[:, :, nearest])
    return labels, "labels" if len(present) > 1 else "components"


def read_suv(
    series: Series, geometry: SliceGeometry, grid: Grid, suv: Suv, *, gaps: str = "refuse"
) -> NDArray[np.float32]:
    """`(I, J, K)` SUV in Fortran order: slope and factor in double precision, rounded once.

    Raises:
        SuvError: `CountsNotConvertible`, if factors differ by slice and slices would have to be interpolated.
        DicomError: As `converters.dicom.dicom_volume.read_volume`.
    """
    factors = suv.per_slice or (suv.factor,) * len(series.slices)
    if gaps == "interpolate" and geometry.faults():
        if suv.per_slice is not None:
            raise SuvError("CountsNotConvertible", "slices with different factors cannot be interpolated")
        values: NDArray[np.float64] = read_volume(series, double=True, gaps=gaps).array
        with np.errstate(over="ignore"):
            return (values * suv.factor).astype(np.float32)
    place = {uid: k for k, uid in enumerate(geometry.uids)}
    try:
        out = np.empty(grid.shape, np.float32, order="F")
    except MemoryError as error:
        raise DicomError("UnsupportedPixels", f"a volume of {grid} does not fit into memory") from error
    with np.errstate(over="ignore"):
        for entry, factor in zip(series.slices, factors, strict=True):
            out[:, :, place[entry.uid]] = (slice_values(entry, series) * factor).T
    return out


def _case_flags(row: Row, geometry: SliceGeometry, ct_geometry: SliceGeometry, *, is_clipped: bool) -> set[str]:
    """Flag what was changed in the images of a case or is uncertain about them."""
    flags = {
        "SEVERAL_SEGMENTS": row["instances"] == "labels",
        "GAPS_INTERPOLATED": bool(geometry.faults()),
        "CT_GAPS_INTERPOLATED": bool(ct_geometry.faults()),
        "CT_COVERAGE_LOW": row["ct_coverage_fraction"] < LOW_COVERAGE,
        "CT_CLIPPED": is_clipped,
        "INJECTION_TIME_UNSURE": row["tracer_class"] == "PSMA" and row["suv_adm_time_rule"] in HEADER_TIMES,
    }
    return {name for name, holds in flags.items() if holds}


def _write(context: Context, settings: TciaSettings, row: Row, images: dict[str, NDArray[Any]], grid: Grid) -> Row:
    """Write the images to the catalog, link them for nnU-Net, and return the columns that name them."""
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
    """Make a hard link, or a copy if the file system has no links; replaces an older file of that name."""
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
"""The source behind the entry point `tcia-fdg` of the group `clicksim.sources`."""

PSMA = _source(
    "tcia_psma",
    "PSMA-PET-CT-Lesions",
    "LMU University Hospital Munich",
    "CC-BY-4.0",
    "manual annotation of tumour lesions, one DICOM SEG per study",
)
"""The source behind the entry point `tcia-psma` of the group `clicksim.sources`."""

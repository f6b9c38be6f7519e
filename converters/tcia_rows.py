"""What the headers of a PET/CT study say of it, as columns of the catalog."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np

from clicksim.catalog.source import Row
from converters.headers import quietly, read_dataset, word, words
from converters.segmentation import Segmentation
from converters.series import Series
from converters.slices import SliceGeometry
from converters.suv import Suv
from converters.suv_headers import Header
from converters.suv_times import acquisition
from converters.tables import age_years, date_or_none

PSMA_SHIFT = timedelta(days=6247)
"""The dates of PSMA-PET-CT-Lesions lie so far before those of the same studies in fdat."""

_ITERATIONS = re.compile(r"(\d+)\s*i(?:ter)?[a-z]*\s*(\d+)\s*s", re.IGNORECASE)
_GAUSS = re.compile(r"gauss(?:ian)?\s*([\d.]+)", re.IGNORECASE)
_HEX = re.compile(r"(?:PETCT|PSMA)_([0-9a-f]{10}|[0-9a-f]{16})")


def clean_description(text: str) -> str:
    """A description as NBIA's retriever puts it into the name of a folder.

    >>> clean_description("PET-CT (Ganzkoerper  primaer mit KM)")
    'PET-CT Ganzkoerper  primaer mit KM'
    """
    return "".join(c for c in text if (c.isascii() and c.isalnum()) or c in " .-_")


def study_day(header: Any, tracer: str) -> tuple[str, date | None, date | None]:
    """StudyDate as found and parsed, and the date that fdat gives the same study."""
    raw = word(header, "StudyDate")
    day = date_or_none(raw)
    try:
        return raw, day, day + PSMA_SHIFT if day and tracer == "PSMA" else day
    except OverflowError:
        return raw, day, None


def fdat_name(patient: str, study_uid: str, header: Any, tracer: str) -> str | None:
    """The name of the same study in fdat; None where the PatientID is none of the collection's."""
    found = _HEX.fullmatch(patient)
    _, day, fdat_day = study_day(header, tracer)
    # a UID is digits and dots; the end of anything else could name another file
    if not found or day is None or fdat_day is None or not study_uid.replace(".", "").isdigit():
        return None
    if tracer == "PSMA":
        return f"psma_{found[1]}_{fdat_day.isoformat()}" if len(found[1]) == 16 else None
    description = clean_description(word(header, "StudyDescription"))
    return f"fdg_{found[1]}_{day:%m-%d-%Y}-NA-{description}-{study_uid[-5:]}" if len(found[1]) == 10 else None


def study_columns(patient: str, study_uid: str, header: Any, tracer: str) -> Row:
    """Who and when."""
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
    """The factor, and which rule and which tag gave it."""
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
    starts = [acquisition(Header(header)) for header in headers]
    known = sorted({round(start - origin, 3) for start in starts if start is not None})
    first = starts[min(range(len(starts)), key=lambda n: str(series.paths[n]))]
    return {
        "pet_bed_starts_s": known or None,
        "pet_first_file_s": None if first is None else round(first - origin, 3),
    }


def scan_columns(pet: Any, chosen: tuple[Series, Series, Series], geometry: SliceGeometry) -> Row:
    """How the images were made.

    Args:
        pet: The header of a slice of the PET.
        chosen: PET, CT and mask.
        geometry: Of the PET.

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
    """Iterations, subsets and the filter in mm: from their tags, else from the texts that scanners write.

    `PSF+TOF 2i21s` has two iterations of 21 subsets; `XYZ Gauss2.00` is a filter of 2 mm.
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
    """Whether the CT has contrast agent: by its tag, else by the German words of a description; None if neither."""
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
    """Whether the name of the NBIA site, in the private group that its anonymiser writes, says defaced; else None."""
    for element in header.group_dataset(0x0013):
        if "deface" in str(element.value).lower():
            return True
    return None


def mask_flags(seg: Segmentation, description: str) -> set[str]:
    """Flags of what was noticed while reading the mask."""
    flags = {flag_of(code) for code, _ in seg.warnings}
    text, present = description.lower(), bool(seg.labels.any())
    says = False if "no tumor lesions" in text else True if "tumor lesions detected" in text else None
    if says is not None and says != present:
        flags.add("SEG_DESCRIPTION_CONTRADICTS")
    return flags


def flag_of(code: str) -> str:
    """A code as flags are written.

    >>> flag_of("SegPlacedByPosition")
    'SEG_PLACED_BY_POSITION'
    """
    return re.sub(r"(?<!^)([A-Z])", r"_\1", code).upper()


def clinical_columns(
    study_key: str | None, table: Mapping[str, tuple[Row, list[str]]], *, has_table: bool
) -> tuple[Row, list[str]]:
    """What the publisher's table says of a study; only its known values replace those of the headers."""
    if study_key is None or study_key not in table:
        return {}, ["METADATA_MISSING"] if has_table else []
    columns, flags = table[study_key]
    return {name: value for name, value in columns.items() if value is not None}, list(flags)

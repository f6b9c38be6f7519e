"""What must hold of a PET series before its SUV is computed, and the patient's weight, dose and half-life."""

import math
from itertools import pairwise
from typing import Any

from clicksim.errors import up_to_ten
from converters.suv_headers import (
    GE_ADMIN,
    Header,
    Notes,
    Rule,
    SuvError,
    injected,
    injections,
    number,
    numbers,
    parts,
    shown,
    text,
)

HALF_LIVES = {"F18": 6586.2, "Ga68": 4062.6}  # s; files hold 6586.2 and 6588, and 4057 to 4080
NUCLIDE_CODES = {"C-111A1": "F18", "77004003": "F18", "C-131A3": "Ga68", "35337001": "Ga68"}
HALF_LIFE_TOLERANCE = 0.01
POSSIBLE_HALF_LIFE = (1.0, 1e9)  # s, for nuclides that are not in the table
GRAMS_ABOVE, POSSIBLE_WEIGHT, USUAL_WEIGHT = 1000.0, (2.0, 500.0), (20.0, 300.0)  # kg
MBQ_BELOW, POSSIBLE_DOSE = 1e5, (1e6, 1e11)  # Bq
SAME_POSITION = 1e-3  # mm
GEOMETRY_TOLERANCE = 1e-4

SAME_TEXT = (
    "SeriesInstanceUID", "FrameOfReferenceUID", "Units", "SUVType", "DecayCorrection", "SeriesDate", "SeriesTime",
)  # fmt: skip
SAME_NUMBERS = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "PatientWeight")
SAME_INJECTION = (
    "RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartDateTime",
)  # fmt: skip


def check_series(headers: list[Header]) -> None:
    """One PET series: a PT Modality, and tags that belong to the series are the same in every slice."""
    for header in headers:
        if text(header["Modality"]).upper() != "PT" and not (header.is_excerpt and header["Modality"] is None):
            raise SuvError("SeriesInconsistent", f"Modality is {shown(header['Modality'])}; PT is needed")
    for keyword in SAME_TEXT:
        same_in_all(keyword, [text(header[keyword]) for header in headers])
    for keyword in SAME_NUMBERS:
        same_in_all(keyword, [_comparable(header[keyword]) for header in headers])
    for keyword in SAME_INJECTION:
        same_in_all(keyword, [_comparable(injected(header, keyword)) for header in headers])
    same_in_all(f"{GE_ADMIN} of {GE_ADMIN.creator}", [text(header.private(GE_ADMIN)) for header in headers])


def _comparable(value: Any) -> Any:
    found = numbers(value)
    return text(value) if found is None else found


def same_in_all(name: str, values: list[Any]) -> None:
    """Refuse a tag that differs between slices; a list of numbers may differ by 1e-4 in each."""
    for index, value in enumerate(values):
        if not _equal(values[0], value):
            raise SuvError(
                "SeriesInconsistent",
                f"{name} must be the same in all slices; it is {_told(values[0])} in header 0 and {_told(value)} in "
                f"header {index}",
            )


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        value = ", ".join(f"{item:.10g}" for item in value)
    return "absent or empty" if value == "" else shown(value)


def _equal(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return False
    if len(one) == 1:  # a weight, a dose: the same number
        return bool(one[0] == other[0])
    return all(abs(a - b) <= GEOMETRY_TOLERANCE for a, b in zip(one, other, strict=True))


def check_slopes(headers: list[Header]) -> None:
    """Each slice has a Rescale Slope above 0."""
    for index, header in enumerate(headers):
        slope = header["RescaleSlope"]
        if header.is_excerpt and slope is None:
            continue
        if (number(slope) or 0.0) <= 0:
            raise SuvError("MissingSlope", f"RescaleSlope of header {index} is {shown(slope)}; a number > 0 is needed")


def check_intercepts(headers: list[Header]) -> None:
    """Each Rescale Intercept is 0, or absent."""
    for index, header in enumerate(headers):
        value = header["RescaleIntercept"]
        if text(value) and number(value) != 0:
            raise SuvError("NonZeroIntercept", f"RescaleIntercept of header {index} is {shown(value)}; 0 is needed")


def check_attenuation(headers: list[Header]) -> None:
    """Corrected Image names ATTN."""
    for header in headers:
        if "ATTN" not in parts(header["CorrectedImage"]):
            came = shown(header["CorrectedImage"])
            raise SuvError("NotAttenuationCorrected", f"CorrectedImage is {came}; it must contain ATTN")


def check_dynamic(headers: list[Header], notes: Notes) -> None:
    """The series is one volume: static or whole body, or one time slice of a dynamic or gated one."""
    for header in headers:
        series_type = header["SeriesType"]
        kind = parts(series_type)[0]
        if kind in ("STATIC", "WHOLE BODY"):
            continue
        if not kind:
            if header is headers[0] and not header.is_excerpt:
                notes.warn("SERIES_TYPE_MISSING", "SeriesType is absent; taken as one static volume")
            continue
        counts = {k: number(header[k]) for k in ("NumberOfTimeSlices", "NumberOfTimeSlots", "NumberOfFrames")}
        given = {keyword: count for keyword, count in counts.items() if count is not None}
        if kind not in ("DYNAMIC", "GATED") or set(given.values()) != {1.0}:
            told = ", ".join(f"{keyword} {count:g}" for keyword, count in given.items()) or "no number of time slices"
            raise SuvError(
                "DynamicSeries",
                f"SeriesType is {shown(series_type)} with {told}; STATIC, WHOLE BODY, or DYNAMIC or GATED with a "
                "single time slice is needed",
            )


def check_slices(headers: list[Header], interpolated: int) -> None:
    """No two slices at one position, and as many as Number of Slices says; one header alone says neither."""
    if len(headers) == 1:
        return
    positions = [_position(header) for header in headers]
    known = sorted(position for position in positions if position is not None)
    for below, above in pairwise(known):
        if above - below <= SAME_POSITION:
            raise SuvError("DuplicateSlice", f"two slices lie at {below:.3f} mm along the slice normal")
    counts = sorted({number(header["NumberOfSlices"]) or float(len(headers)) for header in headers})
    if counts[0] < len(headers) or counts[-1] > len(headers) + interpolated:
        said = up_to_ten(f"{count:g}" for count in counts)
        made = f" and {interpolated} slices interpolated" if interpolated else ""
        raise SuvError(
            "IncompleteSeries", f"NumberOfSlices is {said}, but {len(headers)} headers were given{made}; complete them"
        )


def _position(header: Header) -> float | None:
    position = numbers(header["ImagePositionPatient"])
    axes = numbers(header["ImageOrientationPatient"])
    if position is None or len(position) != 3:
        return None
    if axes is None or len(axes) != 6:
        return position[2]
    a, b, c, d, e, f = axes
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    along = sum(p * n for p, n in zip(position, normal, strict=True))
    return along if math.isfinite(along) else None


def check_injections(headers: list[Header], *, needed: bool) -> None:
    """One injection per series; none at all only where the values are SUV already."""
    count = max(len(injections(header)) for header in headers)
    if count > 1:
        raise SuvError("MultipleInjections", f"RadiopharmaceuticalInformationSequence has {count} items; 1 is allowed")
    if needed and count == 0:
        raise SuvError("MissingRadiopharmaceutical", "RadiopharmaceuticalInformationSequence is absent or empty")


def find_weight(header: Header, notes: Notes) -> float:
    """Patient Weight in kg; above 1000 it is in grams."""
    weight, source = number(header["PatientWeight"]) or 0.0, "PatientWeight"
    if weight == 0:
        raise SuvError(
            "MissingPatientWeight", f"PatientWeight is {shown(header['PatientWeight'])}; a weight in kg is needed"
        )
    if weight > GRAMS_ABOVE:
        notes.warn("WEIGHT_IN_GRAMS", f"PatientWeight {weight:g} taken as grams, {weight / 1000:g} kg")
        weight, source = weight / 1000, "PatientWeight / 1000"
    if not POSSIBLE_WEIGHT[0] <= weight <= POSSIBLE_WEIGHT[1]:
        raise SuvError(
            "ImplausibleWeight", f"PatientWeight is {shown(header['PatientWeight'])}; 2 to 500 kg are allowed"
        )
    if not USUAL_WEIGHT[0] <= weight <= USUAL_WEIGHT[1]:
        notes.warn("WEIGHT_UNUSUAL", f"PatientWeight is {weight:g} kg; usual are 20 to 300 kg")
    notes.rules["weight"] = Rule("GRAMS" if "/" in source else "KG", source, f"{weight:g} kg")
    return weight


def find_dose(header: Header, notes: Notes) -> float:
    """Radionuclide Total Dose in Bq; below 1e5 it is in MBq. Vendors give it decayed to the injection, net."""
    value = injected(header, "RadionuclideTotalDose")
    dose, code = number(value) or 0.0, "BQ"
    if dose == 0:
        raise SuvError("MissingDose", f"RadionuclideTotalDose is {shown(value)}; a dose in Bq is needed")
    if dose < MBQ_BELOW:
        notes.warn("DOSE_IN_MBQ", f"RadionuclideTotalDose {dose:g} taken as MBq")
        dose, code = dose * 1e6, "MBQ"
    if not POSSIBLE_DOSE[0] <= dose <= POSSIBLE_DOSE[1]:
        raise SuvError("ImplausibleDose", f"RadionuclideTotalDose is {shown(value)}; 1e6 to 1e11 Bq are allowed")
    notes.rules["dose"] = Rule(code, "RadionuclideTotalDose", f"{dose:.10g} Bq")
    return dose


def find_nuclide(header: Header) -> str | None:
    """The nuclide that the code of the injection names; only the code value counts, schemes vary."""
    for injection in injections(header)[:1]:
        for code in injection.items("RadionuclideCodeSequence"):
            if text(code["CodeValue"]).upper() in NUCLIDE_CODES:
                return NUCLIDE_CODES[text(code["CodeValue"]).upper()]
    return None


def nuclide_of(half_life: float) -> str | None:
    """The nuclide that has this half-life within 1 %; None if neither F-18 nor Ga-68."""
    near = (name for name, known in HALF_LIVES.items() if abs(half_life / known - 1) <= HALF_LIFE_TOLERANCE)
    return next(near, None)


def find_half_life(header: Header, nuclide: str | None, notes: Notes) -> float:
    """Radionuclide Half Life in s, which must be that of the nuclide; if missing, that of the nuclide's code."""
    value = injected(header, "RadionuclideHalfLife")
    half_life = number(value) or 0.0
    if half_life == 0:
        if nuclide is None:
            raise SuvError(
                "MissingHalfLife",
                f"RadionuclideHalfLife is {shown(value)}, and no code names F-18 or Ga-68; a half-life in s is needed",
            )
        half_life = HALF_LIVES[nuclide]
        notes.warn("HALF_LIFE_FROM_CODE", f"RadionuclideHalfLife is {shown(value)}; {half_life:g} s of {nuclide} used")
        notes.rules["half_life"] = Rule("CODE", "RadionuclideCodeSequence", f"{half_life:g} s")
        return half_life
    if nuclide is not None and abs(half_life / HALF_LIVES[nuclide] - 1) > HALF_LIFE_TOLERANCE:
        allowed = f"{HALF_LIVES[nuclide]:g} s within 1 % for {nuclide}"
    elif not POSSIBLE_HALF_LIFE[0] <= half_life <= POSSIBLE_HALF_LIFE[1]:
        allowed = "1 to 1e9 s for an unnamed nuclide"
    else:
        notes.rules["half_life"] = Rule("TAG", "RadionuclideHalfLife", f"{half_life:.10g} s")
        return half_life
    raise SuvError("HalfLifeMismatch", f"RadionuclideHalfLife is {shown(value)}; allowed: {allowed}")

"""Read the tags that the SUV rules need, and record refusals and the origin of each value.

A value may be text with trailing blanks, bytes, several values, a number written as text, or text where a number is
expected. Nothing here raises for such a value: it becomes None, and the rule that needs it refuses the series.

This module also checks the series before an SUV is computed, and finds weight, dose and half-life.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from clicksim.errors import ClicksimError, up_to_ten

CODES = (
    "SeriesInconsistent", "NonZeroIntercept", "MissingSlope", "NotAttenuationCorrected", "DecayFlagConflict",
    "DynamicSeries", "IncompleteSeries", "DuplicateSlice", "UnitsNotConvertible", "CountsNotConvertible",
    "MissingPatientSize", "MissingPatientSex", "DecayCorrectionMissing", "REF_TIME_CONFLICT", "MissingReferenceTime",
    "MissingInjectionTime", "NegativeUptakeTime", "ImplausibleUptakeTime", "MissingAcquisitionTime",
    "MissingFrameDuration", "ImplausibleWeight", "MissingPatientWeight", "ImplausibleDose", "MissingDose",
    "HalfLifeMismatch", "MissingHalfLife", "MultipleInjections", "MissingRadiopharmaceutical",
)  # fmt: skip

TAGS = {
    "SeriesDate": 0x00080021, "AcquisitionDate": 0x00080022, "StudyDate": 0x00080020,
    "AcquisitionDateTime": 0x0008002A, "SeriesTime": 0x00080031, "AcquisitionTime": 0x00080032,
    "Modality": 0x00080060, "Manufacturer": 0x00080070, "CodeValue": 0x00080100,
    "TimezoneOffsetFromUTC": 0x00080201, "PatientSex": 0x00100040, "PatientSize": 0x00101020,
    "PatientWeight": 0x00101030, "RadiopharmaceuticalStartTime": 0x00181072, "RadionuclideTotalDose": 0x00181074,
    "RadionuclideHalfLife": 0x00181075, "RadiopharmaceuticalStartDateTime": 0x00181078,
    "ActualFrameDuration": 0x00181242, "SeriesInstanceUID": 0x0020000E, "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037, "FrameOfReferenceUID": 0x00200052, "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010, "Columns": 0x00280011, "PixelSpacing": 0x00280030, "CorrectedImage": 0x00280051,
    "RescaleIntercept": 0x00281052, "RescaleSlope": 0x00281053, "RadiopharmaceuticalInformationSequence": 0x00540016,
    "RadionuclideCodeSequence": 0x00540300, "NumberOfTimeSlots": 0x00540071, "NumberOfSlices": 0x00540081,
    "NumberOfTimeSlices": 0x00540101, "SeriesType": 0x00541000, "Units": 0x00541001, "DecayCorrection": 0x00541102,
    "SUVType": 0x00541006, "FrameReferenceTime": 0x00541300, "DecayFactor": 0x00541321,
}  # fmt: skip

INJECTION = ("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime", "RadionuclideTotalDose",
             "RadionuclideHalfLife")  # fmt: skip


@dataclass(frozen=True)
class PrivateTag:
    """A vendor's private tag: group, block name, offset, and its names in a header keyed by keyword."""

    group: int
    creator: str
    offset: int
    keywords: tuple[str, str]
    fixed: bool = False  # also read from block 0x10 if no creator claims that block

    def __str__(self) -> str:
        return f"({self.group:04x},xx{self.offset:02X})"


GE_SCAN = PrivateTag(0x0009, "GEMS_PETD_01", 0x0D, ("GEPrivateGroup", "ScanDateTime"))
GE_ADMIN = PrivateTag(0x0009, "GEMS_PETD_01", 0x3B, ("GEPrivateGroup", "AdminDateTime"))
PHILIPS_SUV = PrivateTag(
    0x7053, "Philips PET Private Group", 0x00, ("PhilipsPETPrivateGroup", "SUVScaleFactor"), fixed=True
)
PHILIPS_ACTIVITY = PrivateTag(
    0x7053,
    "Philips PET Private Group",
    0x09,
    ("PhilipsPETPrivateGroup", "ActivityConcentrationScaleFactor"),
    fixed=True,
)


class SuvError(ClicksimError):
    """A series whose values cannot be converted to SUV.

    Attributes:
        code: Name of the broken rule, one of `CODES`.
        also: Codes of the other rules that the series breaks, of those that could be checked.
    """

    def __init__(self, code: str, problem: str, also: Sequence[str] = ()) -> None:
        self.code, self.problem, self.also = code, problem, tuple(also)
        super().__init__(f"{code}: {problem}" + (f" (also: {', '.join(also)})" if also else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return SuvError, (self.code, self.problem, self.also)


@dataclass(frozen=True)
class SuvRule:
    """The origin of one quantity: the code of the rule, the tag, and its value."""

    code: str
    source: str
    value: str


@dataclass
class Notes:
    """The record of a conversion: rules by subject, the instant of the rule `reference_time`, and warnings.

    Warnings are in the order in which they occurred.
    """

    rules: dict[str, SuvRule] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    reference_s: float | None = None

    def warn(self, code: str, text: str) -> None:
        """Add the warning `CODE: text`."""
        self.warnings.append(f"{code}: {text}")

    def add(self, other: "Notes") -> None:
        """Append the notes of another run of rules."""
        self.rules.update(other.rules)
        self.warnings.extend(other.warnings)
        if other.reference_s is not None:
            self.reference_s = other.reference_s


@dataclass(frozen=True)
class Amounts:
    """Injected amount and patient weight; None if absent and not needed."""

    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None


class SuvHeader:
    """The header of one slice: a pydicom `Dataset`, the DICOM JSON model, or a mapping of keywords.

    A mapping of keywords is an excerpt and may lack tags (see `is_excerpt`).
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.is_excerpt = isinstance(source, Mapping) and any(keyword in source for keyword in TAGS)

    def __getitem__(self, keyword: str) -> Any:
        """The stored value; None if the tag is absent."""
        if self.is_excerpt:
            return self.source.get(keyword)
        return _value_at(self.source, TAGS[keyword])

    def items(self, keyword: str) -> list["SuvHeader"]:
        """The items of a sequence; in an excerpt the tags of the injection are at the top level."""
        value = self[keyword]
        if value is None and self.is_excerpt and keyword == "RadiopharmaceuticalInformationSequence":
            return [self] if any(name in self.source for name in INJECTION) else []
        if value is None or isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return []
        return [SuvHeader(item) for item in value if isinstance(item, Mapping) or hasattr(item, "get_item")]

    def private(self, tag: PrivateTag) -> Any:
        """The value of a private tag: from the block of its creator, or from block 0x10 if `fixed` allows it."""
        if self.is_excerpt:
            group, name = tag.keywords
            block = self.source.get(group)
            return block.get(name) if isinstance(block, Mapping) else None
        claimed = {number & 0xFF: text(_value_at(self.source, number)) for number in _creators(self.source, tag.group)}
        blocks = [block for block, creator in claimed.items() if creator == tag.creator]
        if not blocks and tag.fixed and not claimed.get(0x10):
            blocks = [0x10]
        values = (_value_at(self.source, (tag.group << 16) | (block << 8) | tag.offset) for block in blocks)
        return next((value for value in values if value is not None), None)


def _creators(source: Any, group: int) -> list[int]:
    numbers = (int(key, 16) if isinstance(key, str) and _is_hex(key) else key for key in list(source.keys()))
    return sorted(int(n) for n in numbers if isinstance(n, int) and n >> 16 == group and 0x10 <= (n & 0xFFFF) <= 0xFF)


def _is_hex(key: str) -> bool:
    return len(key) == 8 and all(letter in "0123456789abcdefABCDEF" for letter in key)


def _value_at(source: Any, number: int) -> Any:
    if isinstance(source, Mapping):
        return _json_value(source.get(f"{number:08X}", source.get(f"{number:08x}")))
    if number not in source:
        return None
    try:
        return source[number].value
    except Exception:  # pydicom's converters raise many kinds of exceptions
        pass
    try:
        return getattr(source.get_item(number), "value", None)
    except Exception:  # this may call the same converter again
        return None


def _json_value(element: Any) -> Any:
    if not isinstance(element, Mapping):
        return None
    if isinstance(element.get("InlineBinary"), str):
        try:
            return base64.b64decode(element["InlineBinary"])
        except ValueError:
            return None
    value = element.get("Value")
    is_items = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    return value[0] if isinstance(value, list) and len(value) == 1 and not is_items else value


def text(value: Any) -> str:
    r"""Convert a value to text: decode bytes, drop blanks and NULs, join several values with a backslash.

    >>> text(b"0.5 "), text(["STATIC", "IMAGE"]), text(None)
    ('0.5', 'STATIC\\IMAGE', '')
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, Mapping) or hasattr(value, "get_item"):
        return "an item of a sequence"
    if not isinstance(value, str) and isinstance(value, Iterable):
        return "\\".join(text(item) for item in value)
    try:
        return str(value).strip(" \t\r\n\0")
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"


def parts(value: Any) -> list[str]:
    """The values of a multi-valued tag, in upper case, without blanks."""
    return [part.strip().upper() for part in text(value).split("\\")]


def number(value: Any) -> float | None:
    """The finite number that a value contains; None unless it is exactly one.

    >>> number("3.5 "), number(b"1e3"), number("nan"), number(["1", "2"]), number("1_0")
    (3.5, 1000.0, None, None, None)
    """
    if isinstance(value, bool):
        return None
    try:
        result = float(text(value).replace("_", "?"))
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def suv_numbers(value: Any) -> tuple[float, ...] | None:
    """All numbers of a multi-valued tag; None if the tag is absent or one of its values is not a number."""
    found = [number(part) for part in text(value).split("\\")]
    return None if any(item is None for item in found) else tuple(item for item in found if item is not None)


def show_value(value: Any) -> str:
    """Format a value for a message: quoted, cut to 60 characters, several joined by commas; `absent` if None."""
    if value is None:
        return "absent"
    words = repr(text(value).replace("\\", ", "))
    return words if len(words) <= 60 else words[:57] + "..."


def read_headers(headers: Any) -> list[SuvHeader]:
    """Wrap one or more headers.

    Raises:
        SuvError: `IncompleteSeries` if there is no header.
        TypeError: If an item is neither a pydicom `Dataset` nor a mapping.
    """
    if isinstance(headers, Mapping) or hasattr(headers, "get_item"):
        headers = [headers]
    found = list(headers)
    for header in found:
        if not (isinstance(header, Mapping) or hasattr(header, "get_item")):
            raise TypeError(f"headers must be pydicom Datasets or mappings; got {type(header).__name__}")
    if not found:
        raise SuvError("IncompleteSeries", "there is no header; give one per slice")
    return [SuvHeader(header) for header in found]


def injections(header: SuvHeader) -> list[SuvHeader]:
    """The items of the Radiopharmaceutical Information Sequence."""
    return header.items("RadiopharmaceuticalInformationSequence")


def injected(header: SuvHeader, keyword: str) -> Any:
    """A tag of the first injection; None if there is no injection."""
    items = injections(header)
    return items[0][keyword] if items else None


HALF_LIVES = {"F18": 6586.2, "Ga68": 4062.6}  # s; real files have 6586.2 and 6588, and 4057 to 4080
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


def check_series(headers: list[SuvHeader]) -> None:
    """Check that this is one PET series: Modality is PT, and the tags of the series are equal in all slices."""
    for header in headers:
        if text(header["Modality"]).upper() != "PT" and not (header.is_excerpt and header["Modality"] is None):
            raise SuvError("SeriesInconsistent", f"Modality is {show_value(header['Modality'])}; PT is needed")
    for keyword in SAME_TEXT:
        same_in_all(keyword, [text(header[keyword]) for header in headers])
    for keyword in SAME_NUMBERS:
        same_in_all(keyword, [_comparable(header[keyword]) for header in headers])
    for keyword in SAME_INJECTION:
        same_in_all(keyword, [_comparable(injected(header, keyword)) for header in headers])
    same_in_all(f"{GE_ADMIN} of {GE_ADMIN.creator}", [text(header.private(GE_ADMIN)) for header in headers])


def _comparable(value: Any) -> Any:
    found = suv_numbers(value)
    return text(value) if found is None else found


def same_in_all(name: str, values: list[Any]) -> None:
    """Refuse a tag that differs between slices; numbers may differ by 1e-4 each."""
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
    return "absent or empty" if value == "" else show_value(value)


def _equal(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return False
    if len(one) == 1:  # a single number, such as weight or dose, must be equal
        return bool(one[0] == other[0])
    return all(abs(a - b) <= GEOMETRY_TOLERANCE for a, b in zip(one, other, strict=True))


def check_slopes(headers: list[SuvHeader]) -> None:
    """Check that each slice has a Rescale Slope above 0."""
    for index, header in enumerate(headers):
        slope = header["RescaleSlope"]
        if header.is_excerpt and slope is None:
            continue
        if (number(slope) or 0.0) <= 0:
            raise SuvError(
                "MissingSlope", f"RescaleSlope of header {index} is {show_value(slope)}; a number > 0 is needed"
            )


def check_intercepts(headers: list[SuvHeader]) -> None:
    """Check that each Rescale Intercept is 0 or absent."""
    for index, header in enumerate(headers):
        value = header["RescaleIntercept"]
        if text(value) and number(value) != 0:
            raise SuvError(
                "NonZeroIntercept", f"RescaleIntercept of header {index} is {show_value(value)}; 0 is needed"
            )


def check_attenuation(headers: list[SuvHeader]) -> None:
    """Check that Corrected Image contains ATTN."""
    for header in headers:
        if "ATTN" not in parts(header["CorrectedImage"]):
            came = show_value(header["CorrectedImage"])
            raise SuvError("NotAttenuationCorrected", f"CorrectedImage is {came}; it must contain ATTN")


def check_dynamic(headers: list[SuvHeader], notes: Notes) -> None:
    """Check that the series is one volume: static, whole body, or a single time slice of a dynamic or gated series."""
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
                f"SeriesType is {show_value(series_type)} with {told}; STATIC, WHOLE BODY, or DYNAMIC or GATED with a "
                "single time slice is needed",
            )


def check_slices(headers: list[SuvHeader], interpolated: int) -> None:
    """Check that positions are unique and that Number of Slices is right; skipped for a single header."""
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


def _position(header: SuvHeader) -> float | None:
    position = suv_numbers(header["ImagePositionPatient"])
    axes = suv_numbers(header["ImageOrientationPatient"])
    if position is None or len(position) != 3:
        return None
    if axes is None or len(axes) != 6:
        return position[2]
    a, b, c, d, e, f = axes
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    along = sum(p * n for p, n in zip(position, normal, strict=True))
    return along if math.isfinite(along) else None


def check_injections(headers: list[SuvHeader], *, needed: bool) -> None:
    """Check that the series has one injection; it may have none if the values already are SUV."""
    count = max(len(injections(header)) for header in headers)
    if count > 1:
        raise SuvError("MultipleInjections", f"RadiopharmaceuticalInformationSequence has {count} items; 1 is allowed")
    if needed and count == 0:
        raise SuvError("MissingRadiopharmaceutical", "RadiopharmaceuticalInformationSequence is absent or empty")


def find_weight(header: SuvHeader, notes: Notes) -> float:
    """Patient Weight in kg; a value above 1000 is taken as grams."""
    weight, source = number(header["PatientWeight"]) or 0.0, "PatientWeight"
    if weight == 0:
        raise SuvError(
            "MissingPatientWeight",
            f"PatientWeight is {show_value(header['PatientWeight'])}; a weight in kg is needed",
        )
    if weight > GRAMS_ABOVE:
        notes.warn("WEIGHT_IN_GRAMS", f"PatientWeight {weight:g} taken as grams, {weight / 1000:g} kg")
        weight, source = weight / 1000, "PatientWeight / 1000"
    if not POSSIBLE_WEIGHT[0] <= weight <= POSSIBLE_WEIGHT[1]:
        raise SuvError(
            "ImplausibleWeight", f"PatientWeight is {show_value(header['PatientWeight'])}; 2 to 500 kg are allowed"
        )
    if not USUAL_WEIGHT[0] <= weight <= USUAL_WEIGHT[1]:
        notes.warn("WEIGHT_UNUSUAL", f"PatientWeight is {weight:g} kg; 20 to 300 kg is usual")
    notes.rules["weight"] = SuvRule("GRAMS" if "/" in source else "KG", source, f"{weight:g} kg")
    return weight


def find_dose(header: SuvHeader, notes: Notes) -> float:
    """Radionuclide Total Dose in Bq; below 1e5 it is taken as MBq. Vendors give the net dose at the injection."""
    value = injected(header, "RadionuclideTotalDose")
    dose, code = number(value) or 0.0, "BQ"
    if dose == 0:
        raise SuvError("MissingDose", f"RadionuclideTotalDose is {show_value(value)}; a dose in Bq is needed")
    if dose < MBQ_BELOW:
        notes.warn("DOSE_IN_MBQ", f"RadionuclideTotalDose {dose:g} taken as MBq")
        dose, code = dose * 1e6, "MBQ"
    if not POSSIBLE_DOSE[0] <= dose <= POSSIBLE_DOSE[1]:
        raise SuvError("ImplausibleDose", f"RadionuclideTotalDose is {show_value(value)}; 1e6 to 1e11 Bq are allowed")
    notes.rules["dose"] = SuvRule(code, "RadionuclideTotalDose", f"{dose:.10g} Bq")
    return dose


def find_nuclide(header: SuvHeader) -> str | None:
    """The nuclide that the code of the injection names. Only the code value counts, because coding schemes vary."""
    for injection in injections(header)[:1]:
        for code in injection.items("RadionuclideCodeSequence"):
            if text(code["CodeValue"]).upper() in NUCLIDE_CODES:
                return NUCLIDE_CODES[text(code["CodeValue"]).upper()]
    return None


def nuclide_of(half_life: float) -> str | None:
    """The nuclide whose half-life agrees within 1 %; None if neither F-18 nor Ga-68."""
    near = (name for name, known in HALF_LIVES.items() if abs(half_life / known - 1) <= HALF_LIFE_TOLERANCE)
    return next(near, None)


def find_half_life(header: SuvHeader, nuclide: str | None, notes: Notes) -> float:
    """Radionuclide Half Life in s, checked against the nuclide; if missing, the half-life of the coded nuclide."""
    value = injected(header, "RadionuclideHalfLife")
    half_life = number(value) or 0.0
    if half_life == 0:
        if nuclide is None:
            raise SuvError(
                "MissingHalfLife",
                f"RadionuclideHalfLife is {show_value(value)}, and no code names F-18 or Ga-68; "
                "a half-life in s is needed",
            )
        half_life = HALF_LIVES[nuclide]
        notes.warn(
            "HALF_LIFE_FROM_CODE", f"RadionuclideHalfLife is {show_value(value)}; {half_life:g} s of {nuclide} used"
        )
        notes.rules["half_life"] = SuvRule("CODE", "RadionuclideCodeSequence", f"{half_life:g} s")
        return half_life
    if nuclide is not None and abs(half_life / HALF_LIVES[nuclide] - 1) > HALF_LIFE_TOLERANCE:
        allowed = f"{HALF_LIVES[nuclide]:g} s within 1 % for {nuclide}"
    elif not POSSIBLE_HALF_LIFE[0] <= half_life <= POSSIBLE_HALF_LIFE[1]:
        allowed = "1 to 1e9 s for an unnamed nuclide"
    else:
        notes.rules["half_life"] = SuvRule("TAG", "RadionuclideHalfLife", f"{half_life:.10g} s")
        return half_life
    raise SuvError("HalfLifeMismatch", f"RadionuclideHalfLife is {show_value(value)}; allowed: {allowed}")

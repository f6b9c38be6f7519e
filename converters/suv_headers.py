"""What the SUV rules read: tags of a series' headers, and the refusal and provenance records they end in.

Values come as the file holds them: text with trailing blanks, bytes, several values, numbers written as text or
text where a number belongs. Nothing here raises for such a value; it is None, and the rule that needs it refuses.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clicksim.errors import ClicksimError

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
    """A vendor's tag: its group, block name and offset, and its names in a header written as keywords."""

    group: int
    creator: str
    offset: int
    keywords: tuple[str, str]
    fixed: bool = False  # also read from block 0x10 when nobody claims that block

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
        also: Codes of further rules that the same series breaks, as far as they could be tried.
    """

    def __init__(self, code: str, problem: str, also: Sequence[str] = ()) -> None:
        self.code, self.problem, self.also = code, problem, tuple(also)
        super().__init__(f"{code}: {problem}" + (f" (also: {', '.join(also)})" if also else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return SuvError, (self.code, self.problem, self.also)


@dataclass(frozen=True)
class Rule:
    """Where one quantity came from: the rule's short code, the tag, and the value that it gave."""

    code: str
    source: str
    value: str


@dataclass
class Notes:
    """What a conversion gathers on its way: rules by subject, the instant of the rule `reference_time`, and warnings.

    Warnings stand in the order in which they arose.
    """

    rules: dict[str, Rule] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    reference_s: float | None = None

    def warn(self, code: str, text: str) -> None:
        """Add the warning `CODE: text`."""
        self.warnings.append(f"{code}: {text}")

    def add(self, other: "Notes") -> None:
        """Append what another run of rules gathered."""
        self.rules.update(other.rules)
        self.warnings.extend(other.warnings)
        if other.reference_s is not None:
            self.reference_s = other.reference_s


@dataclass(frozen=True)
class Amounts:
    """What was injected, and into whom; None where not given and not needed."""

    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None


class Header:
    """One slice's header: a pydicom `Dataset`, the DICOM JSON model, or a plain mapping of keywords.

    A mapping of keywords is an excerpt: what it leaves out is not held against it (see `is_excerpt`).
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.is_excerpt = isinstance(source, Mapping) and any(keyword in source for keyword in TAGS)

    def __getitem__(self, keyword: str) -> Any:
        """The value as it is stored, None where the tag is absent."""
        if self.is_excerpt:
            return self.source.get(keyword)
        return _value_at(self.source, TAGS[keyword])

    def items(self, keyword: str) -> list["Header"]:
        """The items of a sequence; an excerpt holds the injection's tags beside the others."""
        value = self[keyword]
        if value is None and self.is_excerpt and keyword == "RadiopharmaceuticalInformationSequence":
            return [self] if any(name in self.source for name in INJECTION) else []
        if value is None or isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return []
        return [Header(item) for item in value if isinstance(item, Mapping) or hasattr(item, "get_item")]

    def private(self, tag: PrivateTag) -> Any:
        """A vendor's value: in the block that its creator claims, or in block 0x10 where `fixed` allows it."""
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
    except Exception:  # a value that pydicom cannot convert raises whatever its converter raises
        pass
    try:
        return getattr(source.get_item(number), "value", None)
    except Exception:  # without a value as it is stored, that asks the converter once more
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
    r"""A value as plain text: bytes decoded, blanks and NULs dropped, several values joined by a backslash.

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
    """The values of a multi-valued tag, in upper case and without blanks."""
    return [part.strip().upper() for part in text(value).split("\\")]


def number(value: Any) -> float | None:
    """The one finite number that a value holds; None for anything else.

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


def numbers(value: Any) -> tuple[float, ...] | None:
    """All numbers of a multi-valued tag; None if one of them is none, or none is there."""
    found = [number(part) for part in text(value).split("\\")]
    return None if any(item is None for item in found) else tuple(item for item in found if item is not None)


def shown(value: Any) -> str:
    """A value for a message: quoted, cut to 60 characters, `absent` where there is none; commas between several."""
    if value is None:
        return "absent"
    words = repr(text(value).replace("\\", ", "))
    return words if len(words) <= 60 else words[:57] + "..."


def read_headers(headers: Any) -> list[Header]:
    """Wrap one header or several.

    Raises:
        SuvError: `IncompleteSeries` if there is none.
        TypeError: If one is neither a pydicom `Dataset` nor a mapping.
    """
    if isinstance(headers, Mapping) or hasattr(headers, "get_item"):
        headers = [headers]
    found = list(headers)
    for header in found:
        if not (isinstance(header, Mapping) or hasattr(header, "get_item")):
            raise TypeError(f"headers must be pydicom Datasets or mappings; got {type(header).__name__}")
    if not found:
        raise SuvError("IncompleteSeries", "there is no header; give one per slice")
    return [Header(header) for header in found]


def injections(header: Header) -> list[Header]:
    """The items of the Radiopharmaceutical Information Sequence."""
    return header.items("RadiopharmaceuticalInformationSequence")


def injected(header: Header, keyword: str) -> Any:
    """A tag of the (first) injection; None where there is no injection."""
    items = injections(header)
    return items[0][keyword] if items else None

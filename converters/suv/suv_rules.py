"""Compute the factor that converts the rescaled values of a PET series to SUV by body weight.

`SUV = RescaleSlope * stored value * factor`. The entry point is `suv_factor`; each rule is one function. A series
that breaks a rule is refused with a `SuvError`; nothing is estimated. This module has the decay correction, the unit
of the values (from Units, SUV Type and the private factors of Philips) and the order of the rules. Tags, series
checks, weight, dose and half-life are in `suv_headers`, instants in `suv_times`.
"""

import math
import warnings as python_warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from converters.suv.suv_headers import (
    PHILIPS_ACTIVITY,
    PHILIPS_SUV,
    Amounts,
    Notes,
    SuvError,
    SuvHeader,
    SuvRule,
    check_attenuation,
    check_dynamic,
    check_injections,
    check_intercepts,
    check_series,
    check_slices,
    check_slopes,
    find_dose,
    find_half_life,
    find_nuclide,
    find_weight,
    nuclide_of,
    number,
    parts,
    read_headers,
    same_in_all,
    show_value,
    text,
)
from converters.suv.suv_times import (
    check_uptake_time,
    earliest_acquisition,
    frame_factors,
    injection_time,
    iso,
    reference_time,
)

POSSIBLE_HEIGHT, POSSIBLE_MASS = (0.3, 2.7), (0.1, 10.0)  # m; fraction of the weight
PHILIPS_AGREEMENT = 0.05
UNITS_ALLOWED = "BQML, CNTS of Philips, GML and CM2ML are convertible"

# kg that a value in g/ml is normalised to, from weight (kg) and height (cm); male, female
MASSES: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "LBM": (lambda w, h: 1.10 * w - 120 * (w / h) ** 2, lambda w, h: 1.07 * w - 148 * (w / h) ** 2),
    "LBMJAMES128": (lambda w, h: 1.10 * w - 128 * (w / h) ** 2, lambda w, h: 1.07 * w - 148 * (w / h) ** 2),
    "LBMJANMA": (
        lambda w, h: 9270 * w / (6680 + 216 * w / (h / 100) ** 2),
        lambda w, h: 9270 * w / (8780 + 244 * w / (h / 100) ** 2),
    ),
    "IBW": (lambda _, h: 48.0 + 1.06 * (h - 152), lambda _, h: 45.5 + 0.91 * (h - 152)),
}


@dataclass(frozen=True)
class Units:
    """The meaning of Units: `factor` gives Bq/ml, or SUV if `direct`; `kind` is the mass or area of the SUV."""

    name: str
    factor: float = 1.0
    direct: bool = False
    kind: str = ""

    def scale(self, header: SuvHeader, weight: float) -> float:
        """Factor from SUV by `kind` to SUV by body weight."""
        if not self.kind:
            return 1.0
        height = find_height(header)
        if self.kind == "BSA":  # Du Bois, m2
            return 1000 * weight / (0.007184 * weight**0.425 * height**0.725 * 1e4)
        mass = find_mass(self.kind, header, weight, height)
        if not POSSIBLE_MASS[0] <= mass / weight <= POSSIBLE_MASS[1]:
            raise SuvError(
                "ImplausibleWeight",
                f"{self.kind} is {mass:.3g} kg for a weight of {weight:g} kg and a height of {height:g} cm; a tenth to "
                "ten times the weight is allowed",
            )
        return weight / mass


def find_units(headers: list[SuvHeader], notes: Notes) -> Units:
    """Find the unit of the values from Units, SUV Type and the private factors of Philips."""
    header = headers[0]
    name = text(header["Units"]).upper()
    if name == "BQML":
        units, rule = Units(name), SuvRule("BQML", "Units", name)
    elif name == "CNTS":
        units, rule = _philips_counts(headers)
    elif name == "GML":
        kind = text(header["SUVType"]).upper()
        if kind not in ("", "BW", *MASSES):
            raise SuvError(
                "UnitsNotConvertible", f"Units is GML with SUVType {kind!r}; allowed: empty, BW, {', '.join(MASSES)}"
            )
        kind = "" if kind == "BW" else kind
        units, rule = Units(name, direct=True, kind=kind), SuvRule(f"GML_{kind or 'BW'}", "Units + SUVType", name)
    elif name == "CM2ML":
        units, rule = Units(name, direct=True, kind="BSA"), SuvRule("CM2ML", "Units", name)
    else:
        raise SuvError("UnitsNotConvertible", f"Units is {show_value(header['Units'])}; {UNITS_ALLOWED}")
    notes.rules["units"] = rule
    return units


def _philips_counts(headers: list[SuvHeader]) -> tuple[Units, SuvRule]:
    header = headers[0]
    raw = {tag: header.private(tag) for tag in (PHILIPS_SUV, PHILIPS_ACTIVITY)}
    maker = text(header["Manufacturer"])
    if "philips" not in maker.lower() and (maker or all(value is None for value in raw.values())):
        raise SuvError(
            "UnitsNotConvertible",
            f"Units is CNTS and Manufacturer {show_value(header['Manufacturer'])}; {UNITS_ALLOWED}",
        )
    for tag, code in ((PHILIPS_SUV, "PHILIPS_SUV"), (PHILIPS_ACTIVITY, "PHILIPS_ACTIVITY")):
        factors = [number(one.private(tag)) or 0.0 for one in headers]
        same_in_all(str(tag), factors)
        if factors[0] > 0:
            direct = tag is PHILIPS_SUV
            return Units("CNTS", factors[0], direct), SuvRule(code, str(tag), f"{factors[0]:g}")
    raise SuvError(
        "CountsNotConvertible",
        f"Units is CNTS, but SUV scale factor {PHILIPS_SUV} is {show_value(raw[PHILIPS_SUV])} and activity factor "
        f"{PHILIPS_ACTIVITY} is {show_value(raw[PHILIPS_ACTIVITY])}; one must be > 0 (anonymisation may have removed "
        "the private tags: export again with them)",
    )


def find_height(header: SuvHeader) -> float:
    """Patient Size in cm; the header has metres.

    Raises:
        SuvError: `MissingPatientSize` if absent or outside 0.3 to 2.7 m.
    """
    height = number(header["PatientSize"]) or 0.0
    if not POSSIBLE_HEIGHT[0] <= height <= POSSIBLE_HEIGHT[1]:
        raise SuvError(
            "MissingPatientSize", f"PatientSize is {show_value(header['PatientSize'])}; 0.3 to 2.7 m are allowed"
        )
    return height * 100


def find_mass(kind: str, header: SuvHeader, weight: float, height: float) -> float:
    """The lean or ideal mass in kg; for sex O the mean of both formulas."""
    sex = text(header["PatientSex"]).upper()
    if sex not in ("M", "F", "O"):
        raise SuvError("MissingPatientSex", f"PatientSex is {show_value(header['PatientSex'])}; {kind} needs M, F or O")
    male, female = (formula(weight, height) for formula in MASSES[kind])
    return {"M": male, "F": female, "O": (male + female) / 2}[sex]


def check_philips(
    header: SuvHeader, units: Units, amounts: Amounts, decay: str | None, uptake: float | None, notes: Notes
) -> None:
    """Warn if the two private factors of Philips give SUVs that differ by more than 5 %."""
    if units.name != "CNTS" or decay not in ("START", "ADMIN"):
        return
    weight, dose, half_life = amounts.weight_kg, amounts.dose_bq, amounts.half_life_s
    direct, activity = (number(header.private(tag)) or 0.0 for tag in (PHILIPS_SUV, PHILIPS_ACTIVITY))
    if direct <= 0 or activity <= 0 or weight is None or dose is None:
        return
    if decay == "START":
        if uptake is None or half_life is None:
            return
        dose *= 2 ** (-uptake / half_life)
    other = activity * 1000 * weight / dose
    if abs(other / direct - 1) > PHILIPS_AGREEMENT:
        notes.warn(
            "PHILIPS_FACTORS_DISAGREE",
            f"{PHILIPS_SUV} is {direct:g}, but {PHILIPS_ACTIVITY} with weight, dose and times gives {other:g}",
        )


__all__ = ["Suv", "SuvError", "SuvRule", "suv_factor"]

T = TypeVar("T")


@dataclass(frozen=True)
class Suv:
    """How to convert the values of one series to SUV by body weight.

    Attributes:
        factor: Multiplies the rescaled value; g/Bq for Bq/ml, 1 for g/ml. NaN if `per_slice` has different values,
            to prevent its use.
        per_slice: For DecayCorrection NONE, one factor per header, in the order of the headers; else None.
        rules: For each of `units`, `decay`, `reference_time`, `injection_time`, `weight`, `dose`, `half_life`: the
            rule, the tag and the value. The code is `NONE` if the quantity is absent and not needed.
        warnings: `CODE: text`, in the order in which the rules are tried.
        weight_kg, dose_bq, half_life_s, uptake_time_s: None if absent and not needed.
        radionuclide: `F18`, `Ga68`, or None for any other.
        decay_correction: `START`, `ADMIN`, `NONE`, or None if absent and not needed for these Units.
        units: As in the header: `BQML`, `CNTS`, `GML` or `CM2ML`.
        reference_s: The instant of the rule `reference_time`, in seconds since 1970 on the scanner's clock; None if
            unknown.
    """

    factor: float
    per_slice: tuple[float, ...] | None
    rules: Mapping[str, SuvRule]
    warnings: tuple[str, ...]
    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None
    uptake_time_s: float | None
    radionuclide: str | None
    decay_correction: str | None
    units: str
    reference_s: float | None

    @property
    def warning_codes(self) -> tuple[str, ...]:
        """The codes of the warnings, without their text."""
        return tuple(warning.partition(":")[0] for warning in self.warnings)


@dataclass
class _Refusals:
    """Tries every rule and raises the first refusal, so that it also names the other broken rules."""

    errors: list[SuvError] = field(default_factory=list)

    def attempt(self, rule: Callable[[], T]) -> T | None:
        try:
            return rule()
        except SuvError as error:
            self.errors.append(error)
            return None

    def finish(self) -> None:
        if self.errors:
            first, *rest = self.errors
            also = dict.fromkeys(error.code for error in rest if error.code != first.code)
            raise SuvError(first.code, first.problem, tuple(also))


def suv_factor(headers: Any, *, injection_seconds: float | None = None, interpolated: int = 0) -> Suv:
    """Find the factor from rescaled PET values to SUV by body weight.

    All rules are tried on all headers. Two rules need more than one header and are skipped for a single one: the
    number of slices, and slices at the same position. A mapping of keywords (`{"Units": "BQML", ...}`) is an excerpt
    of a header; it may lack Modality and RescaleSlope.

    Args:
        headers: One per slice, or a single one: pydicom Datasets, DICOM JSON, or mappings of keywords.
        injection_seconds: Seconds from injection to scan; replaces the injection times of the headers.
        interpolated: How many missing slices the caller interpolates. The number of slices in the headers may be
            larger by this many.

    Returns:
        The factor and the origin of each of its parts.

    Raises:
        SuvError: `code` is the broken rule; `also` lists other broken rules.
        TypeError: If an item is not a header, or `injection_seconds` is not a number.
    """
    if injection_seconds is not None and not hasattr(injection_seconds, "__float__"):
        raise TypeError(f"injection_seconds must be a number of seconds; got {injection_seconds!r}")
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # pydicom warns about values that the rules check anyway
        return _convert(read_headers(headers), injection_seconds, interpolated)


def _convert(headers: list[SuvHeader], injection_seconds: float | None, interpolated: int) -> Suv:
    notes, refusals, first = Notes(), _Refusals(), headers[0]
    units, decay = _check_headers(headers, interpolated, refusals, notes)
    needs = _needs(units, decay)
    weight = _quantity(lambda n: find_weight(first, n), "weight" in needs, refusals, notes)
    dose = _quantity(lambda n: find_dose(first, n), "dose" in needs, refusals, notes)
    nuclide = find_nuclide(first)
    half_life = _quantity(lambda n: find_half_life(first, nuclide, n), "half_life" in needs, refusals, notes)
    scale = (refusals.attempt(partial(units.scale, first, weight)) or 1.0) if weight else 1.0
    refusals.finish()
    if nuclide is None and half_life is not None:
        nuclide = nuclide_of(half_life)
        if nuclide is None:
            notes.warn("NUCLIDE_UNKNOWN", f"half-life {half_life:g} s is neither that of F-18 nor that of Ga-68")
    direct = units.direct
    amounts = Amounts(weight, dose, half_life)
    times = _find_times(headers, decay, half_life, injection_seconds, "half_life" in needs, notes)
    factors = _factors(headers, scale * units.factor, direct, decay, amounts, times)
    check_philips(first, units, amounts, decay, times.uptake, notes)
    for subject in ("units", "decay", "reference_time", "injection_time", "weight", "dose", "half_life"):
        notes.rules.setdefault(subject, SuvRule("NONE", "not needed", ""))
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise SuvError("CountsNotConvertible", f"the factor is {factors[0]:g}; a finite positive one is needed")
    return Suv(
        factor=factors[0] if len(set(factors)) == 1 else math.nan,
        per_slice=tuple(factors) if decay == "NONE" and not direct else None,
        rules=notes.rules,
        warnings=tuple(notes.warnings),
        weight_kg=weight,
        dose_bq=dose,
        half_life_s=half_life,
        uptake_time_s=times.uptake,
        radionuclide=nuclide,
        decay_correction=decay,
        units=units.name,
        reference_s=notes.reference_s,
    )


def _check_headers(
    headers: list[SuvHeader], interpolated: int, refusals: _Refusals, notes: Notes
) -> tuple[Units, str | None]:
    """Check the series before anything is computed; return units and decay correction, None for what is unknown."""
    refusals.attempt(lambda: check_series(headers))
    units = refusals.attempt(lambda: find_units(headers, notes)) or Units("")
    for check in (check_slopes, check_intercepts, check_attenuation):
        refusals.attempt(partial(check, headers))
    refusals.attempt(lambda: check_dynamic(headers, notes))
    refusals.attempt(lambda: check_slices(headers, interpolated))
    decay = refusals.attempt(lambda: find_decay(headers, units.direct, notes))
    refusals.attempt(lambda: check_injections(headers, needed=not units.direct))
    return units, decay


# --- decay -----------------------------------------------------------------------------------------------------


def find_decay(headers: list[SuvHeader], direct: bool, notes: Notes) -> str | None:
    """Decay Correction, which must agree with Corrected Image; it may be absent if the values already are SUV."""
    value = headers[0]["DecayCorrection"]
    decay = text(value).upper()
    if decay not in ("START", "ADMIN", "NONE"):
        if not direct:
            raise SuvError(
                "DecayCorrectionMissing", f"DecayCorrection is {show_value(value)}; START, ADMIN or NONE is needed"
            )
        return None
    for header in headers:
        corrected = {"DECY", "DECAY"} & set(parts(header["CorrectedImage"]))
        if bool(corrected) == (decay == "NONE"):
            came = show_value(header["CorrectedImage"])
            expected = "not name" if decay == "NONE" else "name"
            raise SuvError(
                "DecayFlagConflict", f"DecayCorrection is {decay}, so CorrectedImage must {expected} DECY; it is {came}"
            )
    notes.rules["decay"] = SuvRule(decay, "DecayCorrection", decay)
    return decay


def _needs(units: Units, decay: str | None) -> set[str]:
    if units.direct:
        return {"weight"} if units.kind else set()
    return {"weight", "dose"} if decay == "ADMIN" else {"weight", "dose", "half_life"}


@dataclass(frozen=True)
class _Times:
    """Seconds from injection to the reference, and the instant of injection (None if the user gave seconds)."""

    uptake: float | None = None
    injection: float | None = None


def _find_times(
    headers: list[SuvHeader],
    decay: str | None,
    half_life: float | None,
    injection_seconds: float | None,
    needed: bool,
    notes: Notes,
) -> _Times:
    """Find the uptake time. If the factor does not need it, unusable times only give a warning."""
    found = Notes()
    try:
        times = _try_times(headers, decay, half_life, injection_seconds, found)
    except SuvError as error:
        if needed:
            raise
        if not error.code.startswith("Missing"):
            notes.warn("TIMES_NOT_USED", str(error))
        return _Times()
    notes.add(found)
    return times


def _try_times(
    headers: list[SuvHeader], decay: str | None, half_life: float | None, injection_seconds: float | None, notes: Notes
) -> _Times:
    if injection_seconds is not None:
        return _times_by_table(headers, decay, half_life, float(injection_seconds), notes)
    if decay == "NONE":
        reference = earliest_acquisition(headers)
        if reference is None:
            raise SuvError("MissingAcquisitionTime", "DecayCorrection NONE needs the acquisition time of every slice")
    else:
        reference = reference_time(headers, half_life, notes, check=decay == "START")
    injection = injection_time(headers, reference, notes)
    check_uptake_time(reference - injection, half_life, notes)
    return _Times(reference - injection, injection)


def _times_by_table(
    headers: list[SuvHeader], decay: str | None, half_life: float | None, seconds: float, notes: Notes
) -> _Times:
    """Use the user's seconds as uptake time; only factors by slice also need the times of the header."""
    reference = None
    if decay == "NONE":
        reference = earliest_acquisition(headers)
    else:
        try:
            reference = reference_time(headers, half_life, notes, check=decay == "START")
        except SuvError as error:
            notes.warn("TIMES_NOT_USED", str(error))
    check_uptake_time(seconds, half_life, notes)
    injection = None if reference is None else reference - seconds
    value = f"{seconds:g} s before the scan" + ("" if injection is None else f", {iso(injection)}")
    notes.rules["injection_time"] = SuvRule("TABLE", "injection_seconds", value)
    return _Times(seconds, injection)


def _factors(
    headers: list[SuvHeader], scale: float, direct: bool, decay: str | None, amounts: Amounts, times: _Times
) -> list[float]:
    """The factor; for DecayCorrection NONE, one per slice."""
    weight, dose, half_life = amounts.weight_kg, amounts.dose_bq, amounts.half_life_s
    if direct or weight is None or dose is None:
        return [scale]
    at_injection = scale * 1000 * weight / dose
    if decay == "ADMIN" or half_life is None or times.uptake is None:
        return [at_injection]
    if decay == "START":
        return [at_injection / 2 ** (-times.uptake / half_life)]
    if times.injection is None:
        raise SuvError("MissingAcquisitionTime", "DecayCorrection NONE needs the acquisition time of every slice")
    return [at_injection * part for part in frame_factors(headers, times.injection, half_life)]


def _quantity(find: Callable[[Notes], float], needed: bool, refusals: _Refusals, notes: Notes) -> float | None:
    """Find a quantity. If the factor does not need it, an invalid value gives a warning and a missing one None."""
    found = Notes()
    try:
        value = find(found)
    except SuvError as error:
        if needed:
            refusals.errors.append(error)
        elif not error.code.startswith("Missing"):
            notes.warn("VALUE_NOT_USED", str(error))
        return None
    notes.add(found)
    return value

"""Find the instants of a PET series: acquisition, decay reference and injection, each by the first rule that applies.

An instant is a float: seconds since 1970-01-01 00:00 on the scanner's own clock. A time without a date gets the date
of a related instant.
"""

import math
import re
from datetime import date, datetime, timedelta
from statistics import median
from typing import Any

from converters.suv.suv_headers import (
    GE_ADMIN,
    GE_SCAN,
    Notes,
    SuvError,
    SuvHeader,
    SuvRule,
    injected,
    number,
    show_value,
    text,
)

DAY = 86400.0
SERIES_SLACK = 1.0  # s; SeriesTime may be this much later than the first acquisition
BACK_SPREAD = 5.0  # s; largest spread of the instants computed back from all slices
CONFLICT_WARNING, CONFLICT_ERROR = 30.0, 300.0  # s between the reference time and that of DecayFactor
INJECTION_DISAGREEMENT, TRUSTED_UPTAKE = 60.0, 6 * 3600.0
LONGEST_SCAN = 12 * 3600.0
LONGEST_UPTAKE, MOST_HALF_LIVES = 12 * 3600.0, 6
USUAL_UPTAKE = (1800.0, 10800.0)

GIVE_SECONDS = (
    "give the seconds from injection to scan: injection_seconds in Python, the option injection_times in conversions"
)

_DATE = re.compile(r"(\d{4})[.]?(\d\d)[.]?(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d\d):?(\d\d)(?::?(\d\d)(?:[.](\d+))?)?", re.ASCII)
_DATETIME = re.compile(r"(\d{8})(\d{4}(?:\d\d(?:[.]\d+)?)?) *([+-]\d{4})?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)", re.ASCII)


def parse_date(value: Any) -> float | None:
    """Midnight of a DICOM date (`YYYYMMDD`, also `YYYY.MM.DD`); None if it is not a date."""
    match = _DATE.fullmatch(text(value))
    try:
        return (date(*map(int, match.groups())).toordinal() - date(1970, 1, 1).toordinal()) * DAY if match else None
    except ValueError:
        return None


def parse_time(value: Any) -> float | None:
    """Seconds after midnight of a DICOM time with hours and minutes; None if it is not a time.

    >>> parse_time("083000.250 "), parse_time("0830"), parse_time("08"), parse_time("2400")
    (30600.25, 30600.0, None, None)
    """
    match = _TIME.fullmatch(text(value))
    if not match:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:  # 60 is a leap second
        return None
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{match.group(4) or 0}")


def parse_offset(value: Any) -> float | None:
    """Seconds east of UTC of a DICOM offset such as `+0100`; None if it is not an offset."""
    match = _OFFSET.fullmatch(text(value))
    if not match or int(match.group(2)) > 14 or int(match.group(3)) > 59:
        return None
    seconds = int(match.group(2)) * 3600 + int(match.group(3)) * 60
    return float(-seconds if match.group(1) == "-" else seconds)


def parse_datetime(value: Any, zone: float | None = None) -> float | None:
    """A DICOM date and time on the scanner's clock; None if date, hours or minutes are missing.

    A UTC offset is ignored, because it is nearly always that of the scanner's own zone. The instant is shifted only
    if the header has a Timezone Offset From UTC that differs from it.

    >>> parse_datetime("19700102000000.5+0100"), parse_datetime("197001020000+0100", zone=0.0)
    (86400.5, 82800.0)
    """
    match = _DATETIME.fullmatch(text(value))
    if not match:
        return None
    day, clock = parse_date(match.group(1)), parse_time(match.group(2))
    if day is None or clock is None:
        return None
    offset = parse_offset(match.group(3))
    return day + clock + (zone - offset if zone is not None and offset is not None else 0.0)


def iso(instant: float) -> str:
    """An instant as text, `2000-09-07T11:20:11`; the bare number if outside the calendar."""
    try:
        return (datetime(1970, 1, 1) + timedelta(seconds=instant)).isoformat()
    except (OverflowError, ValueError):
        return f"{instant:g} s"


def _zone(header: SuvHeader) -> float | None:
    return parse_offset(header["TimezoneOffsetFromUTC"])


def _pair(header: SuvHeader, dates: tuple[str, ...], time: str) -> float | None:
    clock = parse_time(header[time])
    day = next((d for d in (parse_date(header[name]) for name in dates) if d is not None), None)
    return None if clock is None or day is None else day + clock


def acquisition(header: SuvHeader) -> float | None:
    """Start of a slice's acquisition; a missing date is taken from the series or the study."""
    found = _pair(header, ("AcquisitionDate",), "AcquisitionTime")
    if found is None:
        found = parse_datetime(header["AcquisitionDateTime"], _zone(header))
    return _pair(header, ("SeriesDate", "StudyDate"), "AcquisitionTime") if found is None else found


def earliest_acquisition(headers: list[SuvHeader]) -> float | None:
    """The first acquisition start of the series; None if no slice has one.

    Raises:
        SuvError: `SeriesInconsistent` if the starts span more than 12 h. A scan over midnight may have the same date
            in all slices, and then the order is unknown.
    """
    starts = _starts(headers)
    return _first_of(starts) if starts else None


def _starts(headers: list[SuvHeader]) -> list[float]:
    return [found for found in map(acquisition, headers) if found is not None]


def _first_of(starts: list[float]) -> float:
    first, last = min(starts), max(starts)
    if last - first > LONGEST_SCAN:
        raise SuvError(
            "SeriesInconsistent",
            f"the slices were acquired from {iso(first)} to {iso(last)}, {(last - first) / 3600:.1f} h apart; at most "
            "12 h are allowed, and a scan over midnight needs the right AcquisitionDate in each slice",
        )
    return first


def frame_seconds(header: SuvHeader) -> float | None:
    """Actual Frame Duration in seconds; None unless above 0 and at most a day."""
    duration = number(header["ActualFrameDuration"])
    return duration / 1000 if duration is not None and 0 < duration <= DAY * 1000 else None


def average_time(frame: float, half_life: float) -> float:
    """Seconds from the start of the frame until the activity equals its mean over the frame.

    `ln(x / (1 - e^-x)) / lambda` with `x = lambda * frame`; just below half the frame.
    """
    rate = math.log(2) / half_life
    return math.log(rate * frame / -math.expm1(-rate * frame)) / rate


def reference_time(headers: list[SuvHeader], half_life: float | None, notes: Notes, *, check: bool = True) -> float:
    """The instant to which START corrects the decay, by the first of four rules that applies.

    1. GE: the scan's private date and time, if within a day of the first acquisition.
    2. Series date and time, unless later than the first acquisition (then it was rewritten).
    3. Computed back from Frame Reference Time, if all slices agree.
    4. The first acquisition, with a warning, because the series may be cropped.

    Args:
        headers: One per slice.
        half_life: Seconds; None skips rule 3 and the check.
        notes: Receives the rule and the warnings.
        check: Compare with the instant that Decay Factor implies.

    Raises:
        SuvError: `MissingReferenceTime` if there is no acquisition time; `SeriesInconsistent` as for
            `earliest_acquisition`, unless rule 1 applies; `REF_TIME_CONFLICT` if Decay Factor implies an instant
            more than 300 s away.
    """
    starts = _starts(headers)
    if not starts:
        times = ", ".join(
            f"{k} {show_value(headers[0][k])}" for k in ("AcquisitionDate", "AcquisitionTime", "SeriesDate")
        )
        raise SuvError(
            "MissingReferenceTime", f"no slice has a readable acquisition date and time: {times}; {GIVE_SECONDS}"
        )
    found = _ge_scan(headers, min(starts))
    if found is None:
        first = _first_of(starts)
        found = _series(headers, first) or _counted_back(headers, half_life) or _acquired(first, notes)
    instant, notes.rules["reference_time"] = found
    notes.reference_s = instant
    if check and half_life is not None:
        _check_decay_factor(headers, instant, half_life, notes)
    return instant


_Found = tuple[float, SuvRule] | None


def _ge_scan(headers: list[SuvHeader], first: float) -> _Found:
    instants = {parse_datetime(header.private(GE_SCAN), _zone(header)) for header in headers}
    instant = instants.pop()
    if instants or instant is None or abs(instant - first) > DAY:
        return None
    return instant, SuvRule("GE_PRIVATE", f"{GE_SCAN} of {GE_SCAN.creator}", iso(instant))


def _series(headers: list[SuvHeader], first: float) -> _Found:
    instant = _pair(headers[0], ("SeriesDate",), "SeriesTime")
    if instant is None or instant > first + SERIES_SLACK:
        return None
    return instant, SuvRule("SERIES", "SeriesDate + SeriesTime", iso(instant))


def _counted_back(headers: list[SuvHeader], half_life: float | None) -> _Found:
    if half_life is None:
        return None
    instants = []
    for header in headers:
        start, frame, offset = acquisition(header), frame_seconds(header), number(header["FrameReferenceTime"])
        if start is None or frame is None or offset is None or offset <= 0:
            return None
        instants.append(start + average_time(frame, half_life) - offset / 1000)
    if max(instants) - min(instants) > BACK_SPREAD:
        return None
    instant = median(instants)
    return instant, SuvRule("BACK", "AcquisitionTime - FrameReferenceTime + mean of the frame", iso(instant))


def _acquired(first: float, notes: Notes) -> tuple[float, SuvRule]:
    notes.warn(
        "REF_TIME_FROM_ACQUISITION",
        f"decay reference taken from the first acquisition, {iso(first)}; the series may be cropped",
    )
    return first, SuvRule("ACQ", "earliest AcquisitionDate + AcquisitionTime", iso(first))


def _check_decay_factor(headers: list[SuvHeader], instant: float, half_life: float, notes: Notes) -> None:
    factors = []
    for header in headers:
        factor, start, frame = number(header["DecayFactor"]), acquisition(header), frame_seconds(header)
        if factor is not None and factor > 0 and factor != 1 and start is not None and frame is not None:
            factors.append((factor, start + average_time(frame, half_life)))
    if not factors:  # 1 in all slices means that it was not filled in
        return
    factor, centre = min(factors)
    implied = centre - half_life * math.log2(factor)
    apart = abs(instant - implied)
    problem = (
        f"{notes.rules['reference_time'].source} gives {iso(instant)}, DecayFactor {factor:g} implies {iso(implied)}, "
        f"{apart:.1f} s apart"
    )
    if apart > CONFLICT_ERROR:
        raise SuvError("REF_TIME_CONFLICT", f"{problem}; at most {CONFLICT_ERROR:g} s is allowed")
    if apart > CONFLICT_WARNING:
        notes.warn("REF_TIME_DIFFERS", problem)


def injection_time(headers: list[SuvHeader], reference: float, notes: Notes) -> float:
    """The instant of injection: its date and time, its time alone, or GE's private tag, whichever can be used first.

    If the date is more than a day from the reference, date shifting probably missed it: only the time of day is used.
    A time without a date is on the day before if it would otherwise be later than the reference.

    Raises:
        SuvError: `MissingInjectionTime` if no source can be read.
    """
    header = headers[0]
    dated = _dated(
        injected(header, "RadiopharmaceuticalStartDateTime"), "RadiopharmaceuticalStartDateTime", header, reference
    )
    clock = parse_time(injected(header, "RadiopharmaceuticalStartTime"))
    timed = None if clock is None else _on_the_day(clock, reference)
    if dated is not None and _prefer_dated(dated[0], timed, reference, notes):
        return _take("DATETIME", dated, notes)
    if timed is not None:
        moved = timed < _midnight(reference)
        notes.rules["injection_time"] = SuvRule(
            "TIME_PREV_DAY" if moved else "TIME", "RadiopharmaceuticalStartTime", iso(timed)
        )
        return timed
    private = _dated(header.private(GE_ADMIN), f"{GE_ADMIN} of {GE_ADMIN.creator}", header, reference)
    if private is not None:
        return _take("GE_PRIVATE", private, notes)
    raise SuvError(
        "MissingInjectionTime",
        "neither RadiopharmaceuticalStartDateTime ("
        + show_value(injected(header, "RadiopharmaceuticalStartDateTime"))
        + ") nor RadiopharmaceuticalStartTime ("
        + show_value(injected(header, "RadiopharmaceuticalStartTime"))
        + f") can be read; {GIVE_SECONDS}",
    )


_Dated = tuple[float, str, str]  # instant, source, problem with its date


def _midnight(instant: float) -> float:
    return math.floor(instant / DAY) * DAY


def _on_the_day(clock: float, reference: float) -> float:
    same_day = _midnight(reference) + clock
    return same_day if same_day <= reference else same_day - DAY


def _dated(value: Any, source: str, header: SuvHeader, reference: float) -> _Dated | None:
    instant = parse_datetime(value, _zone(header))
    if instant is None:
        return None
    if abs(_midnight(instant) - _midnight(reference)) <= DAY:
        return instant, source, ""
    placed = _on_the_day(instant - _midnight(instant), reference)
    return placed, source, f"{source} {iso(instant)} is far from the scan at {iso(reference)}; only its time is used"


def _take(code: str, dated: _Dated, notes: Notes) -> float:
    instant, source, problem = dated
    if problem:
        notes.warn("INJECTION_DATE_IGNORED", problem)
    notes.rules["injection_time"] = SuvRule(code, source, iso(instant))
    return instant


def _prefer_dated(dated: float, timed: float | None, reference: float, notes: Notes) -> bool:
    if timed is None or abs(dated - timed) <= INJECTION_DISAGREEMENT:
        return True
    trusted = 0 <= reference - dated <= TRUSTED_UPTAKE
    notes.warn(
        "INJECTION_TIMES_DISAGREE",
        f"RadiopharmaceuticalStartDateTime gives {iso(dated)}, RadiopharmaceuticalStartTime {iso(timed)}; "
        f"the {'former' if trusted else 'latter'} is used",
    )
    return trusted


def check_uptake_time(uptake: float, half_life: float | None, notes: Notes) -> None:
    """Refuse an impossible uptake time, and warn about an unusual one.

    Raises:
        SuvError: `NegativeUptakeTime` below 0 s; `ImplausibleUptakeTime` above 12 h or 6 half-lives.
    """
    named = (("injection", "injection_time"), ("scan", "reference_time"))
    told = [
        f"{name} {notes.rules[rule].value} by {notes.rules[rule].source}" for name, rule in named if rule in notes.rules
    ]
    _refuse_uptake(uptake, half_life, f" ({', '.join(told)})" if told else "")
    if uptake < USUAL_UPTAKE[0]:
        notes.warn("UPTAKE_SHORT", f"{uptake:.1f} s from injection to scan; 1800 to 10800 s is usual")
    elif uptake > USUAL_UPTAKE[1]:
        notes.warn("UPTAKE_LONG", f"{uptake:.1f} s from injection to scan; 1800 to 10800 s is usual")


def _refuse_uptake(uptake: float, half_life: float | None, where: str) -> None:
    if uptake < 0:
        raise SuvError(
            "NegativeUptakeTime", f"the scan lies {-uptake:.1f} s before the injection{where}; it must not be earlier"
        )
    longest = LONGEST_UPTAKE if half_life is None else min(LONGEST_UPTAKE, MOST_HALF_LIVES * half_life)
    if not uptake <= longest:
        raise SuvError(
            "ImplausibleUptakeTime",
            f"{uptake:.1f} s from injection to scan{where}; at most 12 h and 6 half-lives are allowed, here "
            f"{longest:.0f} s",
        )


def frame_factors(headers: list[SuvHeader], injection: float, half_life: float) -> list[float]:
    """Factors for values without decay correction: activity at injection over the mean of the frame, by slice.

    `lambda T / (1 - e^(-lambda T)) * e^(lambda (t_acq - t_adm))`.

    Raises:
        SuvError: `MissingAcquisitionTime`, `MissingFrameDuration`, or an impossible uptake time of a slice.
    """
    rate, factors = math.log(2) / half_life, []
    for index, header in enumerate(headers):
        start, frame = acquisition(header), frame_seconds(header)
        if start is None:
            raise SuvError(
                "MissingAcquisitionTime",
                f"DecayCorrection NONE needs the acquisition time of every slice; header {index} has none that can be "
                f"read: AcquisitionTime is {show_value(header['AcquisitionTime'])}",
            )
        if frame is None:
            raise SuvError(
                "MissingFrameDuration",
                "DecayCorrection NONE needs the frame duration of every slice, above 0 and at most a day in ms; "
                f"ActualFrameDuration of header {index} is {show_value(header['ActualFrameDuration'])}",
            )
        _refuse_uptake(start - injection, half_life, f" in header {index}")
        factors.append(rate * frame / -math.expm1(-rate * frame) * math.exp(rate * (start - injection)))
    return factors

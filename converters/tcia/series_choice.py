"""Choose the PET, the CT and the mask of a study that belong together.

    choose_series    the choice, with the reason of each step, or a refusal that lists the candidates
    SeriesRule       what the user prefers if the headers do not decide

Folder names, series numbers and the order of files are not used. Candidates that cannot be distinguished are refused.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError, up_to_ten
from converters.dicom.headers import DicomError
from converters.dicom.series import Series, SeriesFinding, normal_of

Measure = Callable[[Series], float]
"""A criterion for ranking series; the lowest value is first."""

Fault = Callable[[Series], tuple[str, str] | None]
"""Code and sentence that say why a series cannot be used, or None."""

FEW_SLICES = 20
"""A stack with fewer slices ranks after longer ones."""

_ABSENT = {"pet": ("NoUsablePet", "PET"), "ct": ("NoUsableCt", "CT"), "seg": ("NoUsableSeg", "mask")}

_SOFT_UP_TO = 45
"""Siemens numbers kernels by sharpness: B30f, Br38 and I31f are soft, B60f and Bl57 are not."""


@dataclass(frozen=True)
class SeriesRule:
    """The user's preferences if several series are left.

    A pattern only breaks ties: if one series ranks first without it, that series is chosen, whether it matches or
    not, and `Choice.unmatched` lists the pattern.

    Attributes:
        pet: A regular expression, searched in the series description, ignoring case; empty for none.
        ct: The same for the CT.
        seg: The same for the mask.
        then: The next tie-breaker: empty for none, `most-slices`, or `largest-fov`, in mm^2.

    Raises:
        SettingError: An invalid regular expression, or an unknown `then`.
    """

    pet: str = ""
    ct: str = ""
    seg: str = ""
    then: str = ""

    def __post_init__(self) -> None:
        if self.then not in ("", "most-slices", "largest-fov"):
            raise SettingError(f"then must be most-slices or largest-fov, got {self.then!r}")
        for name in ("pet", "ct", "seg"):
            check_pattern(name, getattr(self, name))


def check_pattern(name: str, pattern: str) -> None:
    """Reject an option that is not a regular expression.

    Raises:
        SettingError: The pattern is invalid.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingError(f"{name} is not a regular expression: {error}, got {pattern!r}") from error


@dataclass(frozen=True)
class Choice:
    """The series of a study to use.

    Attributes:
        pet, ct, seg: The chosen series.
        reasons: What decided each step, in sentences.
        left_out: A finding for each series that was not chosen.
        unmatched: The patterns of the rule (`pet`, `ct`, `seg`) that the chosen series does not match.
    """

    pet: Series
    ct: Series
    seg: Series
    reasons: tuple[str, ...]
    left_out: tuple[SeriesFinding, ...]
    unmatched: tuple[str, ...]


def choose_series(series: Iterable[Series], *, rule: SeriesRule | None = None) -> Choice:
    """Choose the PET, the CT and the mask of one study.

    PET: attenuation-corrected, not gated or dynamic (unless it has one time point), not a projection, and not one of
    several stacks with one UID. Among those, the one that the mask references; else original before derived, and 20
    slices or more before fewer. CT: not a localizer, in the PET's frame of reference; then 20 slices or more, the
    largest coverage of the PET, a soft kernel, original before derived, the smallest slice distance. Mask: the one
    that references the chosen PET, then SEG before RTSTRUCT. If several are still left, `rule` decides, or the study
    is refused.

    Args:
        series: The series of one study.
        rule: The user's tie-breakers.

    Raises:
        DicomError: `NoUsablePet`, `NoUsableCt`, `NoUsableSeg` with a reason for each excluded series;
            `AmbiguousSeries` with the candidates; `SeveralStudies`.
    """
    own = list(series)
    if len({s.study_uid for s in own}) > 1:
        raise DicomError("SeveralStudies", f"the series belong to {len({s.study_uid for s in own})} studies, not one")
    chooser = _Chooser(rule or SeriesRule())
    masks = [s for s in own if s.modality in ("SEG", "RTSTRUCT")]
    pet = chooser.pet(own, masks)
    ct, mask = chooser.ct(own, pet), chooser.mask(masks, pet)
    return Choice(pet, ct, mask, tuple(chooser.reasons), tuple(chooser.left_out), tuple(chooser.unmatched))


class _Chooser:
    """Makes the three choices and collects reasons and findings."""

    def __init__(self, rule: SeriesRule) -> None:
        self.rule = rule
        self.reasons: list[str] = []
        self.left_out: list[SeriesFinding] = []
        self.unmatched: list[str] = []

    def pet(self, own: list[Series], masks: list[Series]) -> Series:
        usable = self._usable("pet", [s for s in own if s.modality == "PT"], _pet_fault)
        wanted = {uid for mask in masks for uid in mask.references}
        if referenced := [s for s in usable if s.series_uid in wanted]:
            usable = self._narrow(usable, referenced, "the mask references it")
        return self._best("pet", usable, [("original and primary", _derived), ("20 slices or more", _short)])

    def ct(self, own: list[Series], pet: Series) -> Series:
        usable = self._usable("ct", [s for s in own if s.modality == "CT"], partial(_ct_fault, pet=pet))
        order: list[tuple[str, Measure]] = [
            ("20 slices or more", _short),
            ("covers more of the PET", lambda s: -round(coverage_along_normal(s, pet), 2)),
            ("soft-tissue kernel", sharpness),
            ("original and primary", _derived),
            ("finest slices", _gap),
        ]
        return self._best("ct", usable, order)

    def mask(self, masks: list[Series], pet: Series) -> Series:
        usable = self._usable("seg", masks, lambda _: None)
        if not any(pet.series_uid in s.references for s in usable):
            self.reasons.append(f"no mask references the chosen {pet}")
        order: list[tuple[str, Measure]] = [
            ("references the chosen PET", lambda s: float(pet.series_uid not in s.references)),
            ("SEG before RTSTRUCT", lambda s: float(s.modality != "SEG")),
        ]
        return self._best("seg", usable, order)

    def _usable(self, kind: str, candidates: list[Series], fault: Fault) -> list[Series]:
        usable, faults = [], []
        for one in candidates:
            if wrong := fault(one):
                faults.append(SeriesFinding(wrong[0], f"{one}: {wrong[1]}", str(one.paths[0])))
            else:
                usable.append(one)
        self.left_out += faults
        if not usable:
            code, name = _ABSENT[kind]
            found = "; ".join(f.message for f in faults[:10]) or "the study has none"
            raise DicomError(code, f"no usable {name}: {found}")
        return usable

    def _best(self, kind: str, usable: list[Series], order: Sequence[tuple[str, Measure]]) -> Series:
        """Apply the criteria in turn; return the series that ranks first."""
        for name, measure in order:
            usable = self._least(usable, measure, name)
        pattern = getattr(self.rule, kind)
        matching = [s for s in usable if re.search(pattern, s.description, re.IGNORECASE)]
        unmatched = "" if matching else f"the option {kind}, {pattern!r}, matches none of the descriptions left"
        if unmatched:
            self.unmatched.append(kind)
            self.reasons.append(unmatched)
        usable = self._narrow(usable, matching or usable, f"the description matches {pattern!r}")
        if len(usable) > 1 and self.rule.then:
            usable = self._least(usable, _slices if self.rule.then == "most-slices" else _area, self.rule.then)
        if len(usable) > 1:
            listed = "; ".join([*map(str, usable[:10]), *filter(None, [unmatched])])
            raise DicomError(
                "AmbiguousSeries",
                f"{len(usable)} series could be the {_ABSENT[kind][1]}: {listed}; choose by the option {kind}, a "
                "regular expression on the description, or then",
            )
        self.reasons.append(f"{kind.upper()}: {usable[0]}")
        return usable[0]

    def _least(self, usable: list[Series], measure: Measure, reason: str) -> list[Series]:
        measured = [measure(one) for one in usable]
        return self._narrow(usable, [s for s, m in zip(usable, measured, strict=True) if m == min(measured)], reason)

    def _narrow(self, before: list[Series], after: list[Series], reason: str) -> list[Series]:
        if len(after) < len(before):
            self.reasons.append(f"{len(after)} of {len(before)} {before[0].modality} series left: {reason}")
            self.left_out += [
                SeriesFinding("NotChosen", f"{s}: not the first by: {reason}", str(s.paths[0]))
                for s in before
                if s not in after
            ]
        return after


def _listed(values: tuple[str, ...]) -> str:
    return up_to_ten(values) or "absent"


def _pet_fault(one: Series) -> tuple[str, str] | None:
    if "ATTN" not in one.corrected_image:
        return (
            "NotAttenuationCorrected",
            f"CorrectedImage is {_listed(one.corrected_image)}, without ATTN",
        )
    if one.series_type[:1] in (("DYNAMIC",), ("GATED",)) and one.time_points != 1:
        return "DynamicSeries", f"SeriesType is {one.series_type[0]} with {one.time_points or 'unnamed'} time points"
    if one.part:
        return "DynamicSeries", "one of several stacks under one series UID"
    if "REPROJECTION" in one.series_type or any("MIP" in t or "PROJECTION" in t for t in one.image_type):
        return (
            "ProjectionSeries",
            f"a projection: ImageType {_listed(one.image_type)}, SeriesType {_listed(one.series_type)}",
        )
    return None


def _ct_fault(one: Series, pet: Series) -> tuple[str, str] | None:
    if "LOCALIZER" in one.image_type:
        return "Localizer", f"a localizer: ImageType {_listed(one.image_type)}"
    if not one.frame_of_reference or one.frame_of_reference != pet.frame_of_reference:
        return (
            "OtherFrameOfReference",
            f"its frame of reference is {one.frame_of_reference or 'absent'}, the PET's "
            f"{pet.frame_of_reference or 'absent'}",
        )
    return None


def _derived(one: Series) -> float:
    return float(one.image_type[:2] != ("ORIGINAL", "PRIMARY"))


def _short(one: Series) -> float:
    return float(len(one.slices) < FEW_SLICES)


def _slices(one: Series) -> float:
    return -float(len(one.slices))


def _area(one: Series) -> float:
    """Minus the field of view in mm^2, so that the largest ranks first."""
    first = one.slices[0]
    spacing = first.pixel_spacing or (0.0, 0.0)
    return -first.rows * spacing[0] * first.columns * spacing[1]


def _gap(one: Series) -> float:
    """The median slice distance along the normal in mm, to 0.01 mm; infinite if unknown."""
    offsets = _offsets(one, one)
    return float("inf") if offsets is None or offsets.size < 2 else round(float(np.median(np.diff(offsets))), 2)


def coverage_along_normal(one: Series, other: Series) -> float:
    """Fraction of the extent of `other`, between its outer slice centres, that `one` covers: 0 to 1."""
    mine, theirs = _offsets(one, other), _offsets(other, other)
    if mine is None or theirs is None:
        return 0.0
    shared = min(mine[-1], theirs[-1]) - max(mine[0], theirs[0])
    length = theirs[-1] - theirs[0]
    return float(shared >= 0) if length <= 0 else float(max(shared, 0.0) / length)


def _offsets(one: Series, frame: Series) -> NDArray[np.float64] | None:
    """Sorted slice positions of `one` along the normal of `frame`, in mm."""
    orientation = frame.slices[0].orientation
    places = [s.position for s in one.slices if s.position is not None]
    if orientation is None or not places:
        return None
    return np.sort(np.asarray(places, dtype=np.float64) @ normal_of(orientation))


def sharpness(one: Series) -> float:
    """0 for a soft-tissue kernel, 1 for an unknown kernel, 2 for a sharp one (lung, bone, edge).

    Names: GE (STANDARD, SOFT, LUNG, BONE, EDGE, DETAIL), Siemens (B30f, Br38, I31f, Bl57), Philips (A, B, C soft;
    D, E, L, Y sharp), Canon (FC01 to FC19 soft; FC30 and above sharp).
    """
    name = " ".join(one.kernel).upper()
    if any(w in name for w in ("LUNG", "BONE", "EDGE", "SHARP", "DETAIL")):
        return 2.0
    if any(w in name for w in ("STANDARD", "SOFT", "STND")):
        return 0.0
    if canon := re.match(r"FC(\d\d)", name):
        return 0.0 if int(canon[1]) < 20 else 2.0
    if siemens := re.match(r"[A-Z]{1,2}(\d\d)", name):
        return 0.0 if int(siemens[1]) <= _SOFT_UP_TO else 2.0
    if name in ("A", "B", "C"):
        return 0.0
    return 2.0 if name in ("D", "E", "L", "YA", "YB", "YC", "YD") else 1.0

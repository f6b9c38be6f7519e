"""What the rescaled values of a PET series are, from Units, SUV Type and the private factors of Philips."""

from collections.abc import Callable
from dataclasses import dataclass

from converters.suv_checks import same_in_all
from converters.suv_headers import (
    PHILIPS_ACTIVITY,
    PHILIPS_SUV,
    Amounts,
    Header,
    Notes,
    Rule,
    SuvError,
    number,
    shown,
    text,
)

POSSIBLE_HEIGHT, POSSIBLE_MASS = (0.3, 2.7), (0.1, 10.0)  # m; part of the weight
PHILIPS_AGREEMENT = 0.05
UNITS_ALLOWED = "BQML, CNTS of Philips, GML and CM2ML are convertible"

# mass in kg that a value in g/ml is normalised to, from weight (kg) and height (cm); male, female
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
    """What Units asks for: `factor` to Bq/ml, or to SUV where `direct`; `kind` is the mass or area it is over."""

    name: str
    factor: float = 1.0
    direct: bool = False
    kind: str = ""

    def scale(self, header: Header, weight: float) -> float:
        """Factor from SUV over `kind` to SUV by body weight."""
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


def find_units(headers: list[Header], notes: Notes) -> Units:
    """What the values are, from Units, SUV Type and the private factors of Philips."""
    header = headers[0]
    name = text(header["Units"]).upper()
    if name == "BQML":
        units, rule = Units(name), Rule("BQML", "Units", name)
    elif name == "CNTS":
        units, rule = _philips_counts(headers)
    elif name == "GML":
        kind = text(header["SUVType"]).upper()
        if kind not in ("", "BW", *MASSES):
            raise SuvError(
                "UnitsNotConvertible", f"Units is GML with SUVType {kind!r}; allowed: empty, BW, {', '.join(MASSES)}"
            )
        kind = "" if kind == "BW" else kind
        units, rule = Units(name, direct=True, kind=kind), Rule(f"GML_{kind or 'BW'}", "Units + SUVType", name)
    elif name == "CM2ML":
        units, rule = Units(name, direct=True, kind="BSA"), Rule("CM2ML", "Units", name)
    else:
        raise SuvError("UnitsNotConvertible", f"Units is {shown(header['Units'])}; {UNITS_ALLOWED}")
    notes.rules["units"] = rule
    return units


def _philips_counts(headers: list[Header]) -> tuple[Units, Rule]:
    header = headers[0]
    raw = {tag: header.private(tag) for tag in (PHILIPS_SUV, PHILIPS_ACTIVITY)}
    maker = text(header["Manufacturer"])
    if "philips" not in maker.lower() and (maker or all(value is None for value in raw.values())):
        raise SuvError(
            "UnitsNotConvertible", f"Units is CNTS and Manufacturer {shown(header['Manufacturer'])}; {UNITS_ALLOWED}"
        )
    for tag, code in ((PHILIPS_SUV, "PHILIPS_SUV"), (PHILIPS_ACTIVITY, "PHILIPS_ACTIVITY")):
        factors = [number(one.private(tag)) or 0.0 for one in headers]
        same_in_all(str(tag), factors)
        if factors[0] > 0:
            direct = tag is PHILIPS_SUV
            return Units("CNTS", factors[0], direct), Rule(code, str(tag), f"{factors[0]:g}")
    raise SuvError(
        "CountsNotConvertible",
        f"Units is CNTS, but SUV scale factor {PHILIPS_SUV} is {shown(raw[PHILIPS_SUV])} and activity factor "
        f"{PHILIPS_ACTIVITY} is {shown(raw[PHILIPS_ACTIVITY])}; one must be > 0 (anonymisation may have removed "
        "the private tags: export again with them)",
    )


def find_height(header: Header) -> float:
    """Patient Size in cm; the header holds metres.

    Raises:
        SuvError: `MissingPatientSize` if absent or outside 0.3 to 2.7 m.
    """
    height = number(header["PatientSize"]) or 0.0
    if not POSSIBLE_HEIGHT[0] <= height <= POSSIBLE_HEIGHT[1]:
        raise SuvError("MissingPatientSize", f"PatientSize is {shown(header['PatientSize'])}; 0.3 to 2.7 m are allowed")
    return height * 100


def find_mass(kind: str, header: Header, weight: float, height: float) -> float:
    """The lean or ideal mass in kg; for sex O the mean of both formulas."""
    sex = text(header["PatientSex"]).upper()
    if sex not in ("M", "F", "O"):
        raise SuvError("MissingPatientSex", f"PatientSex is {shown(header['PatientSex'])}; {kind} needs M, F or O")
    male, female = (formula(weight, height) for formula in MASSES[kind])
    return {"M": male, "F": female, "O": (male + female) / 2}[sex]


def check_philips(
    header: Header, units: Units, amounts: Amounts, decay: str | None, uptake: float | None, notes: Notes
) -> None:
    """Warn where the two factors of Philips give SUVs more than 5 % apart."""
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

"""Decide what a report may show of a case: a list of columns, each with a rule for its values.

Pages are shared, so a value is shown only if a rule allows it. A text is shown if it is a known word or consists of
known words; free text, patient keys, UIDs and paths are not shown. Case names are shown, because users need them; a
public page has numbers instead.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clicksim.catalog.schema import CASES, FLAGS

if TYPE_CHECKING:
    from clicksim.catalog import Catalog

Row = dict[str, Any]
OLDEST_YEARS = 89
OTHER = "other"
HIDDEN = "[hidden]"
WORDS = {
    "tracer_class": ("FDG", "PSMA", "none"),
    "radionuclide": ("F18", "Ga68"),
    "timepoint": ("single", "BL", "FU"),
    "sex": ("F", "M"),
    "diagnosis": ("NEGATIVE", "MELANOMA", "LYMPHOMA", "LUNG_CANCER", "PROSTATE"),
    "official_split": ("train", "val", "test"),
}
UNITS = ("SUV", "BQML", "CNTS", "GML", "PROPCPS", "1CM")
SCANNER_WORDS = frozenset(
    [
        "advance", "allegro", "axial", "biograph", "cartesion", "celesteion", "cps", "cti", "definition", "discovery",
        "dste", "duo", "ecat", "edge", "elite", "exact", "flow", "ge", "gemini", "guardian", "healthcare", "hirez",
        "horizon", "hr", "ict", "imaging", "ingenuity", "iq", "ls", "lso", "lyso", "mct", "medical", "mi", "mmr",
        "mr", "omni", "pet", "pet/ct", "petct", "philips", "prime", "quadra", "rx", "se", "sensation", "siemens",
        "signa", "st", "ste", "systems", "tf", "tof", "toshiba", "trinion", "truepoint", "truev", "uct", "uex", "uih",
        "umi", "united", "vct", "vereos", "vg", "vision", "x", "xr"
    ]
)  # fmt: skip
MODEL_PART = re.compile(r"[a-z/]+|\d+|[^a-z\d\s_()/-]+")
SOURCE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
PROTOCOL_NAME = re.compile(r"[a-z0-9-]{1,40}@\d{1,3}")


@dataclass(frozen=True)
class Released:
    """The cases as a page may show them.

    Attributes:
        rows: One per case, by source and name; `key` has source and case id and must not be shown.
        places: By case id, the indices of its rows; two sources may use the same id.
        hidden: Texts of the catalog that must not be shown, each with its replacement.
    """

    rows: Sequence[Row]
    places: Mapping[str, Sequence[int]]
    hidden: Mapping[str, str]

    def scrub(self, text: str) -> str:
        """Replace hidden texts in a sentence, longer ones first.

        Each part of the sentence is looked up, so the cost does not grow with the catalog.
        """
        for length in self._lengths:
            for start in range(len(text) - length, -1, -1):
                instead = self.hidden.get(text[start : start + length])
                if instead is not None:
                    text = text[:start] + instead + text[start + length :]
        return text

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(value) for value in self.hidden}, reverse=True)

    def find(self, case_id: str, source: str | None = None) -> int | None:
        """The index of a case; if several have this id, that of the given source, else the first."""
        found = self.places.get(case_id, ())
        named = [place for place in found if source is None or self.rows[place]["key"][0] == source]
        return named[0] if named else None


def release_cases(catalog: "Catalog", *, public: bool) -> Released:
    """Convert the cases of a catalog with `show_case`.

    Args:
        catalog: An open catalog.
        public: Number cases and patients instead of naming them, drop dates, and show ages over 89 as 90. The
            numbers follow a hash of the names, so that their order reveals nothing.
    """
    table = catalog.cases.to_pylist()
    patients = _number((row["patient_key"] or "" for row in table), "patient")
    rows: list[Row] = []
    for source in dict.fromkeys(row["source"] for row in table):
        mine = [row for row in table if row["source"] == source]
        shown = (SOURCE_NAME.fullmatch(source) and source) or OTHER
        numbers = _number((row["case_id"] for row in mine), shown)
        for row in mine:
            name = numbers[row["case_id"]] if public else row["case_id"]
            other = row["paired_case_id"]
            pair = numbers.get(other) if public or other not in numbers else other
            identity = {"name": name, "source": shown, "pair": pair, "patient": patients[row["patient_key"] or ""]}
            rows.append({"key": (source, row["case_id"]), **identity, **show_case(row, public=public)})
    rows.sort(key=lambda row: (row["source"], row["name"]))
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row["key"][1], []).append(place)
    return Released(rows, places, _hidden_texts(catalog, table, patients))


def show_case(row: Mapping[str, Any], *, public: bool) -> Row:
    """The columns of a case that a page may show; all others are left out."""
    age = _number_or_none(row["age_years"])
    return {
        "tracer": known_word("tracer_class", row["tracer_class"]),
        "nuclide": known_word("radionuclide", row["radionuclide"]),
        "timepoint": known_word("timepoint", row["timepoint"]),
        "sex": known_word("sex", row["sex"]),
        "age": _binned(age) if public else age,
        "diagnosis": known_word("diagnosis", row["diagnosis"]),
        "scanner": show_scanner(row["model"]),
        "contrast": row["contrast_ct"],
        "shape": row["shape_xyz"],
        "spacing": _rounded(row["spacing_xyz_mm"]),
        "lesions": row["n_lesions"],
        "volume": _number_or_none(row["lesion_volume_ml"]),
        "suv": _number_or_none(row["suv_max_in_lesion"]),
        "fold": row["official_fold"],
        "split": known_word("official_split", row["official_split"]),
        "defaced": row["defaced"],
        "date": None if public or row["study_date"] is None else row["study_date"].isoformat(),
        "flags": [flag for flag in row["quality_flags"] or [] if flag in FLAGS],
    }


def known_word(column: str, value: str | None) -> str | None:
    """The value if it is in the vocabulary of the column, else `other`."""
    return value if value is None or value in WORDS[column] else OTHER


def show_scanner(model: str | None) -> str | None:
    """The scanner model if it consists of words and numbers that occur in scanner names, else `other`.

    >>> show_scanner("Biograph 64-4R TruePoint"), show_scanner("Biograph DOE^JOHN")
    ('Biograph 64-4R TruePoint', 'other')
    """
    if model is None or not model.strip():
        return None
    parts = MODEL_PART.findall(model.lower())
    known = all(
        part in SCANNER_WORDS or (part.isalnum() and len(part) == 1) or (part.isdigit() and len(part) <= 4)
        for part in parts
    )
    return " ".join(model.split()) if known and len(model) <= 40 else OTHER


def name_runs(names: Sequence[str], protocols: Sequence[str], *, public: bool) -> list[str]:
    """The names of runs on the page: their own, or number and protocol on a public page."""
    if not public:
        return [f"{name} ({protocol})" if protocol else name for name, protocol in zip(names, protocols, strict=True)]
    shown = [protocol if PROTOCOL_NAME.fullmatch(protocol) else "" for protocol in protocols]
    return [f"run {n}" + (f" ({protocol})" if protocol else "") for n, protocol in enumerate(shown, start=1)]


def _number(names: Iterable[str], prefix: str) -> dict[str, str]:
    """A numbered name for each name, in the order of a hash."""
    ordered = sorted(set(names), key=lambda name: hashlib.blake2b(name.encode()).digest())
    return {name: f"{prefix} {n:04d}" for n, name in enumerate(ordered, start=1)}


def _binned(age: float | None) -> float | None:
    """Age in whole years; all ages above 89 are 90."""
    return None if age is None else float(min(math.floor(age), OLDEST_YEARS + 1))


def _number_or_none(value: float | None) -> float | None:
    """The value with five significant digits; None if it is not finite."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _rounded(spacing: Sequence[float] | None) -> list[float] | None:
    return None if spacing is None else [round(s, 2) for s in spacing]


def _hidden_texts(catalog: "Catalog", table: Sequence[Row], patients: Mapping[str, str]) -> dict[str, str]:
    """All texts of columns that a page does not show; paths also without their root."""
    found = dict.fromkeys([*catalog.roots.values(), str(catalog.home.resolve())], HIDDEN)
    allowed = _allowed_texts()
    for column in CASES:
        if column.kind not in ("text", "texts", "word") or column.name not in allowed:
            continue
        allows = allowed[column.name]
        for row in table:
            cell = row[column.name]
            for value in cell if isinstance(cell, list) else [cell]:
                if value and not allows(value):
                    found |= {value: HIDDEN, value.partition(":")[2]: HIDDEN}
    found |= {key: patients[key] for key in patients}
    return {value: instead for value, instead in found.items() if len(value) > 2}


def _allowed_texts() -> dict[str, Callable[[str], bool]]:
    """For each text column, whether its value may appear in a sentence; columns of fixed codes are left out."""
    rules: dict[str, Callable[[str], bool]] = {
        column.name: lambda _: False for column in CASES if column.kind in ("text", "texts")
    }
    for name, words in WORDS.items():
        rules[name] = words.__contains__
    for name in ("case_id", "paired_case_id", "source_release", "licence", "converter_version"):
        del rules[name]
    rules["pet_units_in"] = UNITS.__contains__
    return rules | {"quality_flags": FLAGS.__contains__, "model": lambda value: show_scanner(value) == value}

"""Read small tables of the sources: CSV and JSON to plain values, one function per rule. Also defines `Rejection`.

A value that cannot be read is None; a file that cannot be read is a `Rejection`. Nothing is guessed.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from clicksim.errors import ClicksimError, up_to_ten
from clicksim.files import read_bounded

ABSENT = frozenset({"", "na", "n/a", "nan", "none", "null", "-"})
_DATES = (
    (re.compile(r"(\d{4})-(\d\d)-(\d\d)"), (1, 2, 3)),
    (re.compile(r"(\d{4})(\d\d)(\d\d)"), (1, 2, 3)),
    (re.compile(r"(\d\d)-(\d\d)-(\d{4})"), (3, 1, 2)),  # month first, as NBIA names its folders
)
_AGE = re.compile(r"(\d{1,3})([YMWD])", re.IGNORECASE)
_UNITS_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


class Rejection(ClicksimError):  # noqa: N818 - named after the table `rejected`
    """The reason why something that was found is not converted.

    Attributes:
        code: A key of `clicksim.catalog.schema.REASONS`.
        path: The file at fault, relative to the source; empty if it is not a single file.
    """

    def __init__(self, code: str, message: str, path: str = "") -> None:
        self.code, self.path = code, path
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self), self.path)


def read_csv_table(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file, as `parse_table`.

    Raises:
        Rejection: `BadTable`.
    """
    try:
        content = read_bounded(path)
    except OSError as error:
        raise Rejection("BadTable", f"{path.name} cannot be read: {error.strerror}") from error
    return parse_table(content, path.name, required)


def parse_table(content: bytes, name: str, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Parse a CSV file; all values are text, without blanks around them.

    A byte order mark is dropped. The separator is a semicolon or a tab if the header has these and no comma. A short
    row is filled with empty text, as spreadsheets write it; an empty line is skipped.

    Args:
        content: The bytes of the file.
        name: Name of the file in messages.
        required: Columns that must be present.

    Raises:
        Rejection: `BadTable`: not UTF-8, no header, a required column is missing, a column is named twice, or a row
            is too long.
    """
    try:
        lines = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejection("BadTable", f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        rows = list(csv.reader(io.StringIO(lines, newline=""), delimiter=_delimiter(lines), strict=True))
    except csv.Error as error:
        raise Rejection("BadTable", f"{name} is not CSV: {error}") from error
    head = [column.strip() for column in rows[0]] if rows else []
    missing = [column for column in required if column not in head]
    if missing:
        raise Rejection(
            "BadTable", f"{name} has no column {up_to_ten(missing)}; its columns are {up_to_ten(head) or 'none'}"
        )
    twice = sorted({column for column in head if column and head.count(column) > 1})
    if twice:
        raise Rejection("BadTable", f"{name} has more than one column named {up_to_ten(twice)}")
    return [_named(head, row, f"{name}, row {n}") for n, row in enumerate(rows[1:], 2) if any(v.strip() for v in row)]


def _delimiter(lines: str) -> str:
    head = lines.partition("\n")[0]
    return next((mark for mark in ",;\t" if mark in head), ",")


def _named(head: list[str], row: list[str], where: str) -> dict[str, str]:
    if any(value.strip() for value in row[len(head) :]):
        raise Rejection("BadTable", f"{where} has {len(row)} values for {len(head)} columns")
    values = [value.strip() for value in row[: len(head)]]
    return dict(zip(head, values + [""] * (len(head) - len(values)), strict=True))


def parse_json(content: bytes, name: str) -> Any:
    """Parse a JSON file; NaN and Infinity are refused.

    Raises:
        Rejection: `BadTable`.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Rejection("BadTable", f"{name} is not JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def word_or_none(value: str | None) -> str | None:
    """The text without blanks around it; None for words that tables use for missing values.

    >>> word_or_none(" F "), word_or_none("NaN"), word_or_none(None)
    ('F', None, None)
    """
    stripped = (value or "").strip()
    return None if stripped.lower() in ABSENT else stripped


def number_or_none(value: str | None) -> float | None:
    """A finite number with a decimal point; None for anything else.

    >>> number_or_none("3.5"), number_or_none("3,5"), number_or_none("inf"), number_or_none("1_0")
    (3.5, None, None, None)
    """
    stripped = (value or "").strip()
    try:
        number = float(stripped)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in stripped else None


def flag_or_none(value: str | None) -> bool | None:
    """`yes no true false 1 0 1.0 0.0 y n t f`, in any case; None for anything else."""
    stripped = (value or "").strip().lower()
    if stripped in {"yes", "true", "1", "1.0", "y", "t"}:
        return True
    return False if stripped in {"no", "false", "0", "0.0", "n", "f"} else None


def age_years(value: str | None) -> float | None:
    """An age as DICOM writes it (`060Y`, `006M`, `003W`, `010D`) or as a number of years, in years.

    >>> age_years("060Y"), age_years("006M"), age_years("71.5"), age_years("60 years"), age_years("-1")
    (60.0, 0.5, 71.5, None, None)
    """
    stripped = (value or "").strip()
    found = _AGE.fullmatch(stripped)
    if found:
        return int(found[1]) / _UNITS_PER_YEAR[found[2].upper()]
    years = number_or_none(stripped)
    return years if years is not None and 0 <= years < 150 else None


def date_or_none(value: str | None) -> date | None:
    """A date written `YYYY-MM-DD`, `YYYYMMDD` or `MM-DD-YYYY`; None if there is no such day.

    >>> date_or_none("03-23-2003"), date_or_none("2019-06-10"), date_or_none("02-30-2003")
    (datetime.date(2003, 3, 23), datetime.date(2019, 6, 10), None)
    """
    stripped = (value or "").strip()
    for pattern, (year, month, day) in _DATES:
        if found := pattern.fullmatch(stripped):
            try:
                return date(int(found[year]), int(found[month]), int(found[day]))
            except ValueError:
                return None
    return None


def common_value(rows: Iterable[dict[str, str]], column: str) -> tuple[str | None, bool]:
    """The value of a column in the rows of one study, and whether the rows contradict each other.

    Rows without a value do not count. If two values differ, the value is None.
    """
    values = {value for row in rows if (value := word_or_none(row.get(column))) is not None}
    return (values.pop(), False) if len(values) == 1 else (None, len(values) > 1)

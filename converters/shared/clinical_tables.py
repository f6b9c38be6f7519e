"""Read the tables beside the fdat images: clinical metadata, folds, the dataset's fingerprint, injection times.

If a table cannot be parsed, its columns are missing and one row of `rejected` says why; no case is lost.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from clicksim.catalog.source import Outcome, Row
from clicksim.errors import SettingError, up_to_ten
from clicksim.files import read_bounded
from converters.shared.tables import (
    Rejection,
    age_years,
    common_value,
    date_or_none,
    flag_or_none,
    parse_json,
    parse_table,
    word_or_none,
)
from converters.shared.trees import Tree

CLINICAL_TABLES = {
    "FDG": ("fdg_metadata.csv", "home/rakuest1/fdg_metadata.csv"),
    "PSMA": ("psma_metadata.csv",),
}
SPLITS = "splits_final.json"
CLINICAL_REQUIRED = {"FDG": ("Subject ID",), "PSMA": ("Subject ID", "Study Date")}
DIAGNOSES = ("NEGATIVE", "MELANOMA", "LYMPHOMA", "LUNG_CANCER")
NUCLIDES = {"18F": "F18", "F18": "F18", "68GA": "Ga68", "GA68": "Ga68"}
FINGERPRINT_TOLERANCE = 1e-3  # relative; headers of one study differ by less

Rows = list[dict[str, str]]
Clinical = dict[str, tuple[Row, list[str]]]
Print = tuple[tuple[int, ...], tuple[float, ...]]
T = TypeVar("T")


def read_small(tree: Tree, path: str, parse: Callable[[bytes, str], T], found: Outcome) -> T | None:
    """Read a table of the tree; None if it is absent or cannot be parsed, which is recorded."""
    file = (PurePosixPath(tree.top) / path).as_posix()
    if file not in tree.files(PurePosixPath(path).parent.as_posix()):
        return None
    try:
        return parse(tree.content(file), path)
    except Rejection as rejection:
        found.reject(rejection.code, str(rejection), path=file)
        return None


def read_clinical(tree: Tree, found: Outcome) -> dict[str, Clinical]:
    """Columns and flags by study key, for `FDG` and `PSMA`; empty if there is no table."""
    clinical: dict[str, Clinical] = {}
    for tracer, paths in CLINICAL_TABLES.items():
        tables = (read_small(tree, path, partial(parse_clinical, tracer=tracer), found) for path in paths)
        clinical[tracer] = next((table for table in tables if table is not None), {})
    return clinical


def parse_clinical(content: bytes, name: str, *, tracer: str) -> Clinical:
    """Columns and flags by study key, from a publisher's table for `FDG` or `PSMA`; empty if the table has no rows.

    Raises:
        Rejection: `BadTable`: as `parse_table`; or no row identifies a patient and a day.
    """
    rows = parse_table(content, name, CLINICAL_REQUIRED[tracer])
    dated, columns = (_fdg_date, FDG_COLUMNS) if tracer == "FDG" else (_psma_date, PSMA_COLUMNS)
    clinical = {key: _clinical(own, columns) for key, own in _by_study(rows, dated).items()}
    if rows and not clinical:
        where = "in File Location or Study Date" if tracer == "FDG" else "in Study Date"
        raise Rejection(
            "BadTable",
            f"{name} has {len(rows)} rows, none of them with a Subject ID and a date {where}; dates are written "
            "YYYY-MM-DD, YYYYMMDD or MM-DD-YYYY",
        )
    return clinical


def diagnosis_flags(tracer: str, diagnosis: str | None, *, is_present: bool) -> set[str]:
    """Flag contradictions between the diagnosis and the mask.

    There is no flag for PSMA: every patient has the diagnosis, whether a lesion was found or not.

    Args:
        tracer: `FDG` or `PSMA`.
        diagnosis: One of `DIAGNOSES`; None if unknown.
        is_present: Whether the mask has a lesion.
    """
    if tracer != "FDG" or diagnosis is None or is_present == (diagnosis != "NEGATIVE"):
        return set()
    return {"LESION_BUT_NEGATIVE"} if is_present else {"EMPTY_BUT_DIAGNOSED"}


def _by_study(rows: Rows, date_of: Callable[[dict[str, str]], date | None]) -> dict[str, Rows]:
    """Group rows by patient and date; the table has one row per series."""
    grouped: defaultdict[str, Rows] = defaultdict(list)
    for row in rows:
        day = date_of(row)
        if row["Subject ID"] and day is not None:
            grouped[f"{row['Subject ID']}_{day.isoformat()}"].append(row)
    return grouped


def _fdg_date(row: dict[str, str]) -> date | None:
    """The date at the start of the study's folder name, which follows that of the patient in the path of the series."""
    parts = PurePosixPath(row.get("File Location", "").replace("\\", "/")).parts
    for patient, study in pairwise(parts):
        if patient == row["Subject ID"] and (day := date_or_none(study[:10])):
            return day
    return date_or_none(row.get("Study Date"))


def _psma_date(row: dict[str, str]) -> date | None:
    return date_or_none(row["Study Date"])


def _sex(value: str) -> str | None:
    return value.upper() if value.upper() in ("F", "M") else None


def _diagnosis(value: str) -> str | None:
    word = "_".join(value.upper().replace("_", " ").split())
    return word if word in DIAGNOSES else None


def _nuclide(value: str) -> str | None:
    return NUCLIDES.get("".join(letter for letter in value.upper() if letter.isalnum()))


Columns = Mapping[str, tuple[str, Callable[[str], Any]]]
FDG_COLUMNS: Columns = {"age_years": ("age", age_years), "sex": ("sex", _sex), "diagnosis": ("diagnosis", _diagnosis)}
PSMA_COLUMNS: Columns = {
    "age_years": ("age", age_years),
    "model": ("manufacturer_model_name", word_or_none),
    "radionuclide": ("pet_radionuclide", _nuclide),
    "contrast_ct": ("ct_contrast_agent", flag_or_none),
}


def _clinical(rows: Rows, columns: Columns) -> tuple[Row, list[str]]:
    """Columns on which the rows of one study agree, and flags for values that differ or cannot be read."""
    values: Row = {}
    flags: set[str] = set()
    for name, (column, parse) in columns.items():
        value, contradicts = common_value(rows, column)
        values[name] = None if value is None else parse(value)
        if contradicts:
            flags.add("METADATA_CONTRADICTS")
        elif value is not None and values[name] is None:
            flags.add("METADATA_UNREADABLE")
    return values, sorted(flags)


def read_fdat_folds(tree: Tree, found: Outcome) -> tuple[dict[str, int], list[str]]:
    """The validation fold of each case, and all names in the splits, sorted; both empty without splits.

    A case that is in the validation set of two folds gets no fold, and is recorded.
    """
    splits = read_small(tree, SPLITS, _parse_splits, found) or []
    folds: dict[str, int] = {}
    twice: set[str] = set()
    for fold, split in enumerate(splits):
        for case_id in split["val"]:
            if folds.setdefault(case_id, fold) != fold:
                twice.add(case_id)
    for case_id in sorted(twice):
        path = (PurePosixPath(tree.top) / SPLITS).as_posix()
        found.reject("BadTable", "the case is in the validation set of two folds", path=path, case_id=case_id)
    known = {name for split in splits for names in split.values() for name in names}
    return {case_id: fold for case_id, fold in folds.items() if case_id not in twice}, sorted(known)


def _parse_splits(content: bytes, name: str) -> list[dict[str, list[str]]]:
    splits = parse_json(content, name)
    if not (isinstance(splits, list) and len(splits) <= 127 and all(map(_is_split, splits))):
        raise Rejection(
            "BadTable", f'{name} must be a list of at most 127 folds, each {{"train": [names], "val": [names]}}'
        )
    return [{part: split[part] for part in ("train", "val")} for split in splits]


def _is_split(split: Any) -> bool:
    return isinstance(split, dict) and all(
        isinstance(split.get(part), list) and all(isinstance(name, str) for name in split[part])
        for part in ("train", "val")
    )


def read_fingerprint(tree: Tree, cohorts: Iterable[list[str]], found: Outcome) -> dict[str, Print]:
    """Shape and spacing (i, j, k) by case, from nnU-Net's lists, which have no names.

    nnU-Net sorts the names, so the lists belong to the first of `cohorts` with the same length. In a partial
    download only the splits have all names. If no cohort has this length, the lists are not used.
    """
    lists = read_small(tree, "dataset_fingerprint.json", _parse_fingerprint, found)
    if lists is None:
        return {}
    names = next((names for names in cohorts if len(names) == len(lists)), [])
    return dict(zip(names, lists, strict=False))


def _parse_fingerprint(content: bytes, name: str) -> list[Print]:
    lists = parse_json(content, name)
    try:
        shapes, spacings = lists["shapes_after_crop"], lists["spacings"]
        return [
            (tuple(map(int, reversed(shape))), tuple(map(float, reversed(spacing))))
            for shape, spacing in zip(shapes, spacings, strict=True)
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Rejection(
            "BadTable",
            f"{name} is not a fingerprint of nnU-Net: it must have shapes_after_crop and spacings, two lists of "
            "the same length, with a list of numbers for each case",
        ) from error


def fits_print(shape: tuple[int, ...], spacing: tuple[float, ...], known: Print) -> bool:
    """Whether a header agrees with the fingerprint.

    The fingerprint has the shapes after cropping to voxels that are not 0. The CT is filled with -1024, so nothing
    is cropped: in all 1,611 published cases these are the shapes of the headers.
    """
    near = (math.isclose(a, b, rel_tol=FINGERPRINT_TOLERANCE) for a, b in zip(spacing, known[1], strict=False))
    return shape == known[0] and len(known[1]) == 3 and all(near)


def read_injection_times(path: str | None) -> dict[str, float]:
    """Seconds from injection to scan by case, from the user's JSON table.

    Raises:
        SettingError: The file cannot be read or has other content.
    """
    if path is None:
        return {}
    times = parse_option("injection_times", path, parse_json)
    if not isinstance(times, dict):
        raise SettingError(f'injection_times must be a JSON object {{"case": seconds}} ({path})')
    odd = [name for name, value in times.items() if not _is_seconds(value)]
    if odd:
        raise SettingError(
            f"injection_times must be seconds above 0 and below 1000000; they are not for {up_to_ten(odd)} ({path})"
        )
    return {name: float(value) for name, value in times.items()}


def check_times_used(path: str | None, names: Iterable[str], *, used: bool) -> None:
    """Refuse a table of injection times that matches no case, because it is for another source or has other names.

    Raises:
        SettingError: No case of the table is in the source.
    """
    if path is not None and not used:
        listed = up_to_ten(names) or "nothing"
        raise SettingError(f"injection_times names no case of the source: it names {listed} ({path}); leave it out")


def parse_option(option: str, path: str, parse: Callable[[bytes, str], T]) -> T:
    """Read and parse a file that the user gives as an option.

    Raises:
        SettingError: The file cannot be read, or `parse` refuses it.
    """
    try:
        return parse(read_bounded(Path(path)), path)
    except OSError as error:
        raise SettingError(f"{option} cannot be read: {error.strerror} ({path})") from error
    except Rejection as error:
        raise SettingError(f"{option} cannot be read: {error}") from error


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6

"""Plain CSV: one row per case with its files and fold, one row per prompt voxel."""

import csv
import io
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError, ClicksimError
from clicksim.files import write_text
from clicksim.manifests.folder import Written, finish, prepare_folder
from clicksim.manifests.selection import Export, key_of

CASES, PROMPTS = "cases.csv", "prompts.csv"
CASE_COLUMNS = (
    "source", "case_id", "name", "patient_key", "tracer_class", "fold", "n_lesions", "lesion_volume_ml", "licence",
    "ct", "pet", "label",
)  # fmt: skip
PROMPT_COLUMNS = ("case", "lesion", "round", "order", "polarity", "kind", "stroke", "i", "j", "k", "x", "y", "z")


def write_csv(export: Export, out: Path) -> Written:
    """Write `cases.csv`, and `prompts.csv` where a run is exported; paths are absolute.

    Raises:
        CatalogError: No case left.
    """
    prepare_folder(out)
    written, rows = Written(), []
    for row in export.cases:
        try:
            files = {name: _path(export, row, f"{name}_path") for name in ("ct", "pet", "label")}
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
            continue
        rows.append({**row, **files, "name": export.names[key_of(row)], "fold": export.fold(row)})
        written.files[key_of(row)] = {"table": CASES}
    write_text(out / CASES, _text(rows, CASE_COLUMNS))
    if export.run:
        taken = {row["case_id"] for row in rows}
        prompts = [prompt for case in sorted(taken) for prompt in export.prompts.get(case, [])]
        write_text(out / PROMPTS, _text(prompts, PROMPT_COLUMNS))
    return finish(out, "csv", export, written, {})


def check_csv(out: Path) -> list[str]:
    """What is wrong with the tables: columns, and files that are not there."""
    try:
        with (out / CASES).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        return [f"{CASES} cannot be read: {error.strerror}"]
    if not rows or tuple(rows[0]) != CASE_COLUMNS:
        return [f"{CASES} has columns {list(rows[0]) if rows else []}, not {list(CASE_COLUMNS)}"]
    files = [(row["case_id"], row[name]) for row in rows for name in ("ct", "pet", "label") if row[name]]
    return [f"{case}: {file} is not there" for case, file in files if not Path(file).is_file()]


def _path(export: Export, row: dict[str, Any], column: str) -> str | None:
    if row[column] is None and column == "label_path":
        raise CatalogError(f"case {row['case_id']} has no label")
    return None if row[column] is None else export.listed(row, column)


def _text(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

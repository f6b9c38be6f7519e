"""Plain CSV: one row per case with its files and fold, one row per prompt voxel."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clicksim.catalog.commit import Commit
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.images import label_file
from clicksim.manifests.selection import ExportCase, ExportSetup

CASES, PROMPTS = "cases.csv", "prompts.csv"
CASE_COLUMNS = (
    "source", "case_id", "name", "patient_key", "tracer_class", "fold", "n_lesions", "lesion_volume_ml", "licence",
    "ct", "pet", "label",
)  # fmt: skip
PROMPT_COLUMNS = ("case", "lesion", "round", "order", "polarity", "kind", "stroke", "i", "j", "k", "x", "y", "z")


def list_files(setup: ExportSetup, case: ExportCase, _folder: Path) -> CaseFiles:
    """The images of a case, as absolute paths."""
    label_file(setup, case)
    columns = {name: f"{name}_path" for name in ("ct", "pet", "label")}
    paths = {name: setup.listed(case, column) if case.row[column] else None for name, column in columns.items()}
    return CaseFiles({}, paths)


def finish_csv(done: ExportedCases, commit: Commit) -> list[str]:
    """Write `cases.csv`, and `prompts.csv` if a run is exported."""
    rows = [{**case.row, **done.item(case), "name": case.name, "fold": case.fold} for case in done.cases]
    commit.text(CASES, _text(rows, CASE_COLUMNS))
    if done.export.run:
        prompts = [prompt for case in sorted(done.cases, key=lambda case: case.case_id) for prompt in case.prompts]
        commit.text(PROMPTS, _text(prompts, PROMPT_COLUMNS))
    return []


def check_csv(out: Path) -> list[str]:
    """The faults of the tables: columns, and files that do not exist."""
    try:
        with (out / CASES).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        return [f"{CASES} cannot be read: {error.strerror}"]
    if not rows or tuple(rows[0]) != CASE_COLUMNS:
        return [f"{CASES} has columns {list(rows[0]) if rows else []}, not {list(CASE_COLUMNS)}"]
    files = [(row["case_id"], row[name]) for row in rows for name in ("ct", "pet", "label") if row[name]]
    return [f"{case}: {file} does not exist" for case, file in files if not Path(file).is_file()]


def _text(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMAT = ExportFormat(
    "csv", "Plain tables: cases.csv and prompts.csv.", write_case=list_files, finish=finish_csv, check=check_csv
)

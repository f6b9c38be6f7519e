"""The scores of predictions: of one case, or of a folder of them.

OUT/scores.csv         one row per case
    summary.json       means over the cases, and the cases that were refused
    runs/score.json    what made the result, and when
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Outcome, Unit
from clicksim.catalog.commit import Commit
from clicksim.catalog.schema import table_schema
from clicksim.errors import ClicksimError, ImageError
from clicksim.metrics import MaskComparison, Scores, compare, surface_dice
from clicksim.pipeline.cases import CaseEntry, folder_units, reason_of, refused_cases
from clicksim.pipeline.job import Job, result_folder, run_job, tables_of, write_record
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew
from clicksim.protocols import ProtocolName, effective_settings, freeze_protocol, load_protocol, protocol_facts
from clicksim.volumes.case import CaseImages

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
JOB = "score"
ROLES = ("label", "prediction")


@dataclass(frozen=True)
class ScoreRule:
    """How predictions are scored.

    Attributes:
        protocol: Name and version. The published rule is the default, since scores are compared with those of others.
        settings: Settings of the protocol's table `[score]`.
        surface_mm: The tolerance of the surface Dice; None leaves it out.
    """

    protocol: ProtocolName = "autopet-v@1"
    settings: Mapping[str, Any] = field(default_factory=dict)
    surface_mm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", freeze_protocol(self.protocol))

    def about(self) -> Row:
        """The rule as plain data.

        Raises:
            SettingError: The protocol or a setting is unknown.
        """
        settings, _ = effective_settings(load_protocol(self.protocol), "score", self.settings)
        return {**protocol_facts(self.protocol), "settings": settings, "surface_mm": self.surface_mm}

    @property
    def schema(self) -> "pa.Schema":
        """The columns of a table of scores."""
        import pyarrow as pa

        kinds = {float: pa.float64(), int: pa.int64(), str: pa.string()}
        columns = [(entry.name, kinds.get(entry.type, pa.string())) for entry in dataclasses.fields(Scores)]  # type: ignore[arg-type]
        surface = [] if self.surface_mm is None else [("surface_dice", pa.float64())]
        return pa.schema([("case_id", pa.string()), *columns, *surface])


@dataclass(frozen=True)
class FolderScores:
    """The scores of a folder of predictions.

    Attributes:
        rows: One per scored case, by case id: `case_id` and all scores; None is undefined.
        refused: The cases without scores: `case_id`, `code`, `message`.
        means: For each score its `mean` over the cases that define it, and their number `n`.
    """

    rows: Sequence[Row]
    refused: Sequence[Row]
    means: Mapping[str, Row]


def score_case(images: CaseImages, rule: ScoreRule) -> tuple[Row, MaskComparison]:
    """Score the prediction of one case.

    Args:
        images: The case with its label and prediction.
        rule: How to score it.

    Returns:
        `case_id` and all scores, None if undefined; and the comparison of the two masks.

    Raises:
        ClicksimError: An image cannot be read, the two are on different grids, or a value is not a label.
    """
    truth, mask = images.label, images.prediction
    if mask is None:
        raise ImageError(f"case {images.case_id} has no prediction")
    spacing, name = truth.grid.spacing, images.case_id
    compared = compare(
        mask.array, truth.array, spacing=spacing, protocol=rule.protocol, where=name, **dict(rule.settings)
    )
    row = {"case_id": name, **compared.scores.to_dict()}
    if rule.surface_mm is not None:
        row["surface_dice"] = surface_dice(mask.array, truth.array, spacing=spacing or (), tolerance_mm=rule.surface_mm)
    return row, compared


def score_folder(
    labels: Path,
    predictions: Path,
    rule: ScoreRule | None = None,
    *,
    out: Path | None = None,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> FolderScores:
    """Score a folder of predictions against a folder of labels.

    A label without a prediction is refused, not scored as 0.

    Args:
        labels: The folder of labels.
        predictions: The folder of predictions, named as their labels.
        rule: How to score them; by default the published rule of autoPET V.
        out: The folder for the result, or None.
        crew: Who does the work; by default this process.
        resume: Continue a run that was interrupted.
        overwrite: Replace a result that was made in another way.

    Raises:
        ImageError: As `folder_units`.
        SettingError: The protocol or a setting is unknown.
        CatalogError, StorageError: As `run_job`.
    """
    rule = rule or ScoreRule()
    units = folder_units(labels, {"prediction": predictions})
    with result_folder(out) as home:
        job = Job(
            name=JOB,
            home=home,
            identity={**rule.about(), "labels": str(labels.absolute()), "predictions": str(predictions.absolute())},
            units=units,
            work=partial(_score_unit, rule),
            finish=partial(_finish, units),
            tables={"scores": rule.schema.empty_table(), "rejected": table_schema("rejected").empty_table()},
        )
        return run_job(job, crew, resume=resume, overwrite=overwrite)


def write_scores(file: Path, rows: Sequence[Row]) -> None:
    """Write scores as CSV, with a header; an undefined score is empty."""
    import pyarrow as pa
    from pyarrow import csv

    csv.write_csv(pa.Table.from_pylist(list(rows)), file)


def _score_unit(rule: ScoreRule, unit: Unit, _folder: Path) -> Tables:
    import pyarrow as pa

    rows, outcome = [], Outcome()
    for entry in unit.content:
        try:
            rows.append(_score_entry(entry, rule))
        except ClicksimError as error:
            outcome.reject(reason_of(error), str(error), case_id=entry.case_id)
    return {"scores": pa.Table.from_pylist(rows, rule.schema), "rejected": tables_of(outcome)["rejected"]}


def _score_entry(entry: CaseEntry, rule: ScoreRule) -> Row:
    if not Path(entry.files["prediction"]).is_file():
        raise ImageError(f"there is no prediction {entry.files['prediction']}")
    return score_case(entry.open(None, ROLES), rule)[0]


def _finish(units: Sequence[Unit], tables: Tables, commit: Commit, facts: Mapping[str, Any]) -> FolderScores:
    scores = tables["scores"].sort_by("case_id")
    rows: list[Row] = scores.to_pylist()
    found = FolderScores(rows, refused_cases(units, tables["rejected"]), _means(rows))
    with commit.file("scores.csv") as temporary:
        write_scores(temporary, rows or [dict.fromkeys(scores.column_names)])
    summary = {"cases": len(rows), "means": found.means, "refused": found.refused}
    commit.text("summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_record(commit, JOB, {**facts, "cases": len(rows), "refused": len(found.refused)})
    return found


def _means(rows: Sequence[Row]) -> dict[str, Row]:
    """The mean of each score over the cases that define it."""
    means = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if row[name] is not None]
        if not any(isinstance(value, str) for value in values):
            means[name] = {"mean": sum(values) / len(values) if values else None, "n": len(values)}
    return means

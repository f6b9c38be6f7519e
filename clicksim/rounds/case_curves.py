"""From the rows of a run to one curve per case, and the numbers that a curve is summed up in."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clicksim.errors import SettingError
from clicksim.metrics import auc, rounds_to, score_at
from clicksim.rounds.round_records import Row

AREAS = ("dice", "dmm", "fpv_ml", "fnv_ml")
GOALS = (0.8, 0.9)
Number = float | None


@dataclass(frozen=True)
class Curve:
    """One case over its rounds, by one annotator.

    Attributes:
        rows: Rows of the table `rounds`, by round.
    """

    rows: Sequence[Row]

    @property
    def key(self) -> tuple[str, str]:
        """Case and annotator."""
        return self.rows[0]["case_id"], self.rows[0]["annotator"]

    @property
    def patient(self) -> str:
        """What cases of one patient share; the case itself where no patient is known."""
        row = self.rows[0]
        return f"{row.get('source') or ''}/{row.get('patient_key') or row['case_id']}"

    @property
    def centre(self) -> str:
        """The source; in fdat with the tracer, since its two parts come from two hospitals."""
        row = self.rows[0]
        source = row.get("source") or "unknown"
        return f"{source} {row.get('tracer_class') or 'of unknown tracer'}" if source == "fdat" else source

    @property
    def lesion_free(self) -> bool:
        """Whether the truth is known to be empty."""
        return self.rows[0]["truth_ml"] == 0

    def column(self, name: str) -> list[Number]:
        """One score over the rounds."""
        return [row[name] for row in self.rows]

    def at(self, name: str, number: int) -> Number:
        """A score after a round; the last one where the rounds ended earlier."""
        values = [float("nan") if value is None else float(value) for value in self.column(name)]
        found = score_at(values, number)
        return None if found != found else found

    def numbers(self) -> dict[str, Number]:
        """Area as published (trapezoids with unit steps) and divided by the steps; the last round; NoC.

        What is undefined is None: an area, where any round of it is. `noc_x` is the first round with a Dice of at
        least x, and the number of rounds where none has; `unreached_x` is 1 then.
        """
        found: dict[str, Number] = {}
        for name in AREAS:
            curve = self.column(name)
            known = [value for value in curve if value is not None]
            whole = len(known) == len(curve)
            found[f"auc_{name}"] = auc(known) if whole else None
            found[f"auc_{name}_normalised"] = auc(known, normalised=True) if whole and len(curve) > 1 else None
            found[f"final_{name}"] = curve[-1]
        dice = [-1.0 if value is None else value for value in self.column("dice")]
        for goal in GOALS:
            first = rounds_to(dice, goal)
            found[f"noc_{goal}"] = float(len(dice) if first is None else first)
            found[f"unreached_{goal}"] = float(first is None)
        return found


def curves_of(rows: Iterable[Row]) -> list[Curve]:
    """One curve per case and annotator, sorted.

    Raises:
        SettingError: Rounds of a case that do not run from 0 without a gap.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("source") or "", row["case_id"], row["annotator"]), []).append(row)
    curves = []
    for (_, case_id, annotator), found in sorted(groups.items()):
        ordered = sorted(found, key=lambda row: row["round"])
        if [row["round"] for row in ordered] != list(range(len(ordered))):
            raise SettingError(
                f"case {case_id}, annotator {annotator}, has rounds {_listed(row['round'] for row in ordered)}; they "
                "run from 0, each once"
            )
        curves.append(Curve(ordered))
    return curves


def _listed(numbers: Iterable[object]) -> str:
    """At most ten of some numbers."""
    texts = list(map(str, numbers))
    return ", ".join(texts[:10]) + (" ..." if len(texts) > 10 else "")


def metric_scores(curves: Sequence[Curve]) -> dict[str, Any]:
    """Scores of each case over its rounds, as the published loop writes them, with the areas and the failures.

    Each stands under the name of its case; that of its source goes before where two sources share it, that of the
    annotator after where it is a person.
    """
    places = {(curve.rows[0].get("source"), curve.key[0]) for curve in curves}
    names = Counter(case_id for _, case_id in places)
    return {_name(curve, shared=names[curve.key[0]] > 1): _one_case(curve) for curve in curves}


def _name(curve: Curve, *, shared: bool) -> str:
    case_id, annotator = curve.key
    name = f"{curve.rows[0].get('source')}/{case_id}" if shared else case_id
    return name if annotator == "simulated" else f"{name} ({annotator})"


def _one_case(curve: Curve) -> Mapping[str, Any]:
    scores: dict[str, Any] = {name: curve.column(name) for name in AREAS}
    failures = {str(row["round"]): row["failure"] for row in curve.rows if row["failure"]}
    return scores | curve.numbers() | {"failures": failures}

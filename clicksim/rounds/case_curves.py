"""One curve per case from the rows of a run, and the numbers that summarise a curve."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clicksim.errors import SettingError, up_to_ten
from clicksim.metrics import auc, rounds_to, score_at
from clicksim.rounds.round_records import Row

AREAS = ("dice", "dmm", "fpv_ml", "fnv_ml")
GOALS = (0.8, 0.9)
Number = float | None


@dataclass(frozen=True)
class Curve:
    """One case over its rounds, by one annotator.

    Attributes:
        rows: Rows of the table `rounds`, ordered by round.
    """

    rows: Sequence[Row]

    @property
    def key(self) -> tuple[str, str]:
        """Case and annotator."""
        return self.rows[0]["case_id"], self.rows[0]["annotator"]

    @property
    def patient(self) -> str:
        """A key that all cases of a patient share; the case itself if the patient is unknown."""
        row = self.rows[0]
        return f"{row.get('source') or ''}/{row.get('patient_key') or row['case_id']}"

    @property
    def centre(self) -> str:
        """The source. In fdat with the tracer: its two parts come from two hospitals."""
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
        """The score after a round; the last score if the rounds ended earlier."""
        values = [float("nan") if value is None else float(value) for value in self.column(name)]
        found = score_at(values, number)
        return None if found != found else found

    def numbers(self) -> dict[str, Number]:
        """The numbers of the curve: areas, last round, NoC.

        `auc_*` is the area as published (trapezoids with unit steps), `auc_*_normalised` that area divided by the
        number of steps. Both are None if any round is undefined, or if there is only one round. `noc_x` is the first
        round with a Dice of at least x. If there is none, it is the number of rounds, and `unreached_x` is 1.
        """
        found: dict[str, Number] = {}
        for name in AREAS:
            curve = self.column(name)
            known = [value for value in curve if value is not None]
            whole = len(known) == len(curve) > 1
            found[f"auc_{name}"] = auc(known) if whole else None
            found[f"auc_{name}_normalised"] = auc(known, normalised=True) if whole else None
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
        SettingError: The rounds of a case do not count from 0 without a gap.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("source") or "", row["case_id"], row["annotator"]), []).append(row)
    curves = []
    for (_, case_id, annotator), found in sorted(groups.items()):
        ordered = sorted(found, key=lambda row: row["round"])
        if [row["round"] for row in ordered] != list(range(len(ordered))):
            raise SettingError(
                f"case {case_id}, annotator {annotator}, has rounds {up_to_ten(row['round'] for row in ordered)}; "
                "rounds must count from 0, each once"
            )
        curves.append(Curve(ordered))
    return curves


def metric_scores(curves: Sequence[Curve]) -> dict[str, Any]:
    """The scores of each case over its rounds, as the published loop writes them, with areas and failures.

    The key is the name of the case. The source precedes it if two sources use the same name; the annotator follows it
    if it is a person.
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

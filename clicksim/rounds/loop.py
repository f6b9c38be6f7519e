"""The interactive loop: prompts and predictions in turns, and a score for each round.

    autopet-iv   11 rounds; round n sees the first n clicks of each polarity
    autopet-v    6 rounds; the first without prompts, each later one with a correction of the previous prediction

Source: `interactive/` of lab-midas/autoPETV, and the challenge pages. What happens in special cases:

    the predictor fails       Dice and DMM are 0; the next round corrects the last available prediction
    the mask is perfect       the rounds end and keep their score (revised rule)
    one kind of error left    Dice and DMM are 0 in this and all later rounds, without a prediction: the published loop
                              fails here (published rule)
    the case is refused       all rounds are 0 (published rule) or undefined (revised rule), with the reason
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError, in_case
from clicksim.geometry.arrays import as_labels
from clicksim.metrics import Scores, score
from clicksim.predictors.asking import ask_predictor, let_finish
from clicksim.predictors.interface import Predictor, RoundFailure
from clicksim.predictors.spec import TIME_LIMIT_S
from clicksim.prompts import Prompts
from clicksim.prompts.records import check_inside
from clicksim.protocols import ProtocolName
from clicksim.rounds.prompters import Finished, Prompter, Recording, Rules, make_prompter
from clicksim.rounds.round_records import PlayedCase, RoundsCase, Row
from clicksim.simulate.annotators.people import Annotator

Mask = NDArray[np.uint8]
Keep = Callable[[int, Mask], None]
SCORES = ("dice", "dmm", "tp", "fp", "fn", "fpv_ml", "fnv_ml", "predicted_ml")


def play(
    case: RoundsCase,
    predictor: Predictor,
    *,
    protocol: ProtocolName = "autopet-v@2",
    seed: int = 42,
    time_limit_s: float = TIME_LIMIT_S,
    recording: Recording | None = None,
    annotator: Annotator | None = None,
    keep: Keep | None = None,
    **settings: Any,
) -> PlayedCase:
    """Play the rounds of one case.

    Args:
        case: Images and truth.
        predictor: A callable; `open_predictor` returns one for a SPEC.
        protocol: Name and version. It says where prompts come from and how rounds are scored.
        seed: The seed of all draws.
        time_limit_s: Limit for one prediction.
        recording: Prompts to replay instead of those of the protocol. There are as many rounds as it has steps.
        annotator: A model of a person who changes the prompts of the protocol; it has no effect on a recording.
        keep: Called with the number of each round and its prediction.
        **settings: Settings of the protocol's `[rounds]`, and of `[clicks]` or `[scribbles]`, whichever makes its
            prompts.

    Returns:
        The rounds. A failure of the predictor is in the row of its round.

    Raises:
        SettingError: The protocol or a setting is unknown.
        ClicksimError: The truth is not a label or is on another grid, clicks cannot be simulated, or recorded prompts
            are outside the volume.

    Examples:
        >>> truth = np.zeros((9, 9, 9), np.uint8, order="F"); truth[3:6, 3:6, 3:6] = 1
        >>> from clicksim import Grid
        >>> from clicksim.predictors import Scan
        >>> case = RoundsCase(Scan("cube", Grid.from_spacing((9, 9, 9), (4, 4, 4))), truth)
        >>> played = play(case, lambda scan, prompts: truth * (len(prompts) > 0), n_rounds=3)
        >>> [row["dice"] for row in played.rows], [row["inferred"] for row in played.rows]
        ([0.0, 1.0, 1.0], [True, True, False])
    """
    rules = Rules.of(protocol, settings)
    for sentence in rules.notes:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    case = _prepared(case)
    if recording:
        check_recording(recording, case)
    prompter = recording or make_prompter(case, rules, seed, annotator)
    n_rounds = len(recording.steps) if recording else rules.rounds["n_rounds"]
    turns = _Turns(case, predictor, prompter, _Scorer(case, rules), time_limit_s, keep)
    try:
        for number in range(n_rounds):
            turns.play_round(number)
    finally:
        told = let_finish(predictor)
    return PlayedCase(turns.rows, turns.prompts, turns.seconds, (*prompter.notes, *told))


def failed_rows(
    case_id: str, facts: Any, failure: RoundFailure, *, value: float | None, annotator: str, n: int
) -> list[Row]:
    """The rows of a case that was not played.

    Args:
        case_id, facts: See `RoundsCase`.
        failure: The reason.
        value: Dice and DMM; None leaves them undefined.
        annotator: Who would have made the prompts.
        n: The number of rounds.
    """
    return [
        {
            "case_id": case_id,
            "annotator": annotator,
            "round": number,
            **dict.fromkeys(SCORES),
            "truth_ml": None,
            "dice": value,
            "dmm": value,
            "n_prompts": 0,
            "inferred": False,
            "failure": failure.code,
            "detail": str(failure),
            **facts,
        }
        for number in range(n)
    ]


class _Turns:
    """The rounds of a case while they are played."""

    def __init__(
        self,
        case: RoundsCase,
        predictor: Predictor,
        prompter: Prompter,
        scorer: "_Scorer",
        time_limit_s: float,
        keep: Keep | None,
    ) -> None:
        self.case, self.predictor, self.prompter, self.scorer = case, predictor, prompter, scorer
        self.time_limit_s, self.keep = time_limit_s, keep
        self.rows: list[Row] = []
        self.seconds: list[tuple[float, float]] = []
        self.prompts = Prompts(
            (),
            case.scan.grid,
            case.scan.case_id,
            prompter.protocol,
            prompter.seed,
            dict(prompter.settings),
            annotator=prompter.annotator,
            effort_s=prompter.seconds,
        )
        self.prediction: Mask | None = None
        self.scores: Row = scorer.failed()
        self.over: RoundFailure | Finished | None = None

    def play_round(self, number: int) -> None:
        """Play one round, and add its row."""
        started, asked = time.perf_counter(), 0.0
        failure = self._prompt(number)
        if self.over is None:
            failure, asked = self._predict(number)
        row = {
            "case_id": self.case.scan.case_id,
            "annotator": self.prompter.annotator,
            "round": number,
            **(self.scores if failure is None else self.scorer.failed()),
            "n_prompts": len(self.prompts),
            "inferred": self.over is None,
            "failure": None if failure is None else failure.code,
            "detail": None if failure is None else str(failure),
            **self.case.facts,
        }
        self.rows.append(row)
        self.seconds.append((asked, time.perf_counter() - started - asked))

    def _prompt(self, number: int) -> RoundFailure | None:
        """Add the prompts of this round. Return the reason if the rounds are over because of a failure."""
        if self.over is None:
            try:
                new = self.prompter.prompts(number, self.prediction, self.prompts)
                self.prompts = replace(self.prompts, items=self.prompts.items + new)
            except (Finished, RoundFailure) as end:
                self.over = end
        return self.over if isinstance(self.over, RoundFailure) else None

    def _predict(self, number: int) -> tuple[RoundFailure | None, float]:
        """Ask for a prediction and score it. Return the failure, if any, and the seconds of the predictor."""
        began = time.perf_counter()
        try:
            mask = ask_predictor(self.predictor, replace(self.case.scan, round=number), self.prompts, self.time_limit_s)
        except RoundFailure as failure:
            return failure, time.perf_counter() - began
        asked = time.perf_counter() - began
        self.prediction, self.scores = mask, self.scorer.score(mask)
        if self.keep:
            self.keep(number, mask)
        return None, asked


class _Scorer:
    """The scores of one case under the rule of a protocol."""

    def __init__(self, case: RoundsCase, rules: Rules) -> None:
        self.case, self.rules = case, rules
        spacing = case.scan.grid.spacing
        self.truth_voxels = int(np.count_nonzero(case.truth))
        self.truth_ml = None if spacing is None else self.truth_voxels * math.prod(spacing) / 1000.0

    def score(self, mask: Mask) -> Row:
        """The scores of a prediction; None if undefined."""
        scores = score(
            mask,
            self.case.truth,
            spacing=self.case.scan.grid.spacing,
            protocol=self.rules.protocol,
            where=self.case.scan.case_id,
        )
        values = scores.to_dict() | {"dice": self._dice(scores)}
        return {name: values[name] for name in SCORES} | {"truth_ml": self.truth_ml}

    def failed(self) -> Row:
        """The scores of a round without a prediction: 0, unless the rule leaves out cases without lesions."""
        undefined = self.truth_voxels == 0 and not self.rules.corrects and self.rules.published
        value = None if undefined else 0.0
        return dict.fromkeys(SCORES) | {"dice": value, "dmm": value, "truth_ml": self.truth_ml}

    def _dice(self, scores: Scores) -> float | None:
        """The Dice of the masks. The loop of autoPET V binarises both, and defines it without lesions too."""
        if not (self.rules.corrects and self.rules.published):
            return None if math.isnan(scores.dice) else scores.dice
        if scores.truth_voxels == 0:
            return 1.0 if scores.predicted_voxels == 0 else 0.0
        return 2 * scores.common_voxels / (scores.truth_voxels + scores.predicted_voxels)


def _prepared(case: RoundsCase) -> RoundsCase:
    """Return the case with a truth that no round has to copy, and images that a predictor cannot change."""
    scan = case.scan
    truth = np.asarray(case.truth)
    for name, array in (("truth", truth), ("CT", scan.ct), ("PET", scan.pet)):
        if array is not None and array.shape != scan.grid.shape:
            raise ClicksimError(f"{name} has shape {array.shape}, the case {scan.grid.shape}{in_case(scan.case_id)}")
    labels = np.asfortranarray(as_labels(truth, where=scan.case_id))
    return replace(case, scan=replace(scan, ct=_locked(scan.ct), pet=_locked(scan.pet)), truth=labels)


def _locked(array: NDArray[Any] | None) -> NDArray[Any] | None:
    if array is None:
        return None
    view = array.view()
    view.setflags(write=False)
    return view


def check_recording(recording: Recording, case: RoundsCase) -> None:
    """Reject recorded prompts outside the volume.

    Raises:
        GeometryError: A prompt is outside the volume.
    """
    items = tuple(prompt for step in recording.steps for prompt in step)
    check_inside(Prompts(items, case.scan.grid), where=f"case {case.scan.case_id}")

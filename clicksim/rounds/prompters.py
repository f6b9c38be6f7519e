"""The source of the prompts of a round: clicks revealed one by one, corrections of errors, or a recording."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clicksim.predictors.interface import RoundFailure
from clicksim.prompts import Prompts
from clicksim.prompts.kinds import Prompt
from clicksim.protocols import Protocol as Rule
from clicksim.protocols import ProtocolName, effective_settings, load_protocol
from clicksim.rounds.round_records import RoundsCase
from clicksim.simulate.annotators.people import Annotator, Person
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.error_regions import KeptRegions, find_errors
from clicksim.streams import stream

Mask = NDArray[np.uint8]
PROMPT_TABLES = {"clicks": "clicks", "corrections": "scribbles"}


class Finished(Exception):  # noqa: N818 - not an error: the prediction is perfect
    """There is no error left to correct."""


class Prompter(Protocol):
    """Makes the prompts, round after round."""

    @property
    def protocol(self) -> str:
        """Name and version; empty if unknown."""

    @property
    def seed(self) -> int | None:
        """The seed of the draws; None if there was none."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the rule."""

    @property
    def annotator(self) -> str:
        """Who makes the prompts."""

    @property
    def seconds(self) -> float | None:
        """The mean time in which a modelled person makes a prompt; None for a rule or a recording."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:
        """The new prompts of a round.

        Args:
            number: The round, from 0.
            prediction: The last available prediction, or None.
            so_far: The prompts of earlier rounds.

        Raises:
            Finished: The prediction is perfect; the rounds end with its score.
            RoundFailure: The rounds cannot continue.
        """


@dataclass(frozen=True)
class Rules:
    """The rules of a protocol for rounds, with the user's settings split by table.

    Attributes:
        protocol: The protocol.
        rounds: All settings of `[rounds]`.
        given: The settings of `[clicks]` or `[scribbles]` that the user gave.
        prompts: All settings of that table.
        notes: Sentences about settings without effect.
    """

    protocol: Rule
    rounds: Mapping[str, Any]
    given: Mapping[str, Any]
    prompts: Mapping[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, protocol: ProtocolName, settings: Mapping[str, Any]) -> "Rules":
        """The rules of a protocol.

        Raises:
            SettingError: The protocol or a setting is unknown, or the protocol has no rounds.
        """
        rule = load_protocol(protocol)
        defaults, _ = effective_settings(rule, "rounds", {})
        own = {name: value for name, value in settings.items() if name in defaults and name != "prompts"}
        rest = {name: value for name, value in settings.items() if name not in own}
        rounds, idle = effective_settings(rule, "rounds", own)
        prompts, more = effective_settings(rule, PROMPT_TABLES[rounds["prompts"]], rest)
        return cls(rule, rounds, rest, prompts, (*idle, *more))

    @property
    def published(self) -> bool:
        """Whether the published values are reproduced, faults included."""
        return bool(self.rounds["rule"] == "published")

    @property
    def corrects(self) -> bool:
        """Whether prompts correct the errors of the previous prediction."""
        return bool(self.rounds["prompts"] == "corrections")


def make_prompter(case: RoundsCase, rules: Rules, seed: int, annotator: Annotator | None = None) -> Prompter:
    """The prompter of a case under a protocol.

    Args:
        case: Images and truth.
        rules: The rules of the protocol.
        seed: The seed of all draws.
        annotator: A model of a person who changes the prompts of the rule, and corrects only the errors they see.

    Raises:
        ClicksimError: Clicks cannot be simulated for this case, or there is an annotator and no spacing.
    """
    person = None
    if annotator is not None:
        scan = case.scan
        person = Person.before(
            annotator,
            case.truth,
            scan.grid,
            uptake=scan.pet,
            instances="touching" if rules.published else "auto",
            case_id=scan.case_id,
            seed=seed,
        )
    kind = _Corrections if rules.corrects else _Revealed
    return kind.of(case, rules, seed, person)


@dataclass(frozen=True)
class _Revealed:
    """Clicks simulated before the first round; round n shows the first n of each polarity."""

    protocol: str
    seed: int
    settings: Mapping[str, Any]
    lists: tuple[tuple[Prompt, ...], tuple[Prompt, ...]]
    notes: tuple[str, ...]
    annotator: str = "simulated"
    seconds: float | None = None

    @classmethod
    def of(cls, case: RoundsCase, rules: Rules, seed: int, person: Person | None) -> "_Revealed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # `Rules.notes` has these already
            clicks = simulate_clicks(
                case.truth,
                uptake=case.scan.pet,
                spacing=case.scan.grid.spacing,
                protocol=rules.protocol,
                seed=seed,
                case_id=case.scan.case_id,
                **rules.given,
            )
        if person is not None:
            clicks = replace(clicks, items=person.act(clicks.items), notes=clicks.notes + person.notes)
        lists = [tuple(prompt for prompt in clicks if prompt.foreground == polarity) for polarity in (True, False)]
        made = cls(rules.protocol.id, seed, clicks.settings, (lists[0], lists[1]), clicks.notes)
        return made if person is None else replace(made, annotator=person.model.name, seconds=person.model.seconds)

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:  # noqa: ARG002
        """The next click of each polarity, if there is one."""
        if number == 0:
            return ()
        return tuple(replace(clicks[number - 1], round=number) for clicks in self.lists if number <= len(clicks))


@dataclass(frozen=True)
class _Corrections:
    """Prompts in the errors of the previous prediction. A case keeps its strategy over all rounds."""

    rule: Rule
    seed: int
    settings: Mapping[str, Any]
    given: Mapping[str, Any]
    case: RoundsCase
    published: bool
    person: Person | None = None
    kept: KeptRegions = field(default_factory=KeptRegions)

    @classmethod
    def of(cls, case: RoundsCase, rules: Rules, seed: int, person: Person | None) -> "_Corrections":
        given, settings = dict(rules.given), dict(rules.prompts)
        shared = rules.rounds.get("strategies")
        if shared:
            draw = stream(seed, case.scan.case_id, "rounds", "strategy").integers(len(shared))
            given["strategy"] = settings["strategy"] = shared[int(draw)]
        return cls(rules.protocol, seed, settings, given, case, rules.published, person)

    @property
    def protocol(self) -> str:
        """The id of the rule."""
        return self.rule.id

    @property
    def annotator(self) -> str:
        """Who makes the corrections."""
        return "simulated" if self.person is None else self.person.model.name

    @property
    def seconds(self) -> float | None:
        """The mean time of a modelled person for a prompt."""
        return None if self.person is None else self.person.model.seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person overlooks."""
        return () if self.person is None else self.person.notes

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:
        """The corrections of this round."""
        truth = self.case.truth
        if number == 0 or (self.published and not truth.any()):
            return ()  # the published loop adds no prompt to a case without lesions, and predicts again
        unpredicted = prediction is None
        if prediction is None:
            if self.published:
                raise RoundFailure("NoPrediction", "no earlier round has a prediction to correct")
            prediction = np.zeros(truth.shape, np.uint8, order="F")
        seen = truth
        if self.person is not None and not self.published:
            seen = self.person.seen_truth(truth, prediction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = correct(
                prediction,
                seen,
                spacing=self.case.scan.grid.spacing,
                protocol=self.rule,
                seed=self.seed,
                case_id=self.case.scan.case_id,
                round=number,
                previous=so_far,
                kept=self.kept,
                **self.given,
            )
        if not found.items and self.published:
            raise RoundFailure("OneKindOfError", found.notes[0])
        if not found.items and not unpredicted and not len(find_errors(prediction, truth).starts):
            raise Finished
        return found.items if self.person is None else self.person.act(found.items)


@dataclass(frozen=True)
class Recording:
    """Prompts that were made before, replayed unchanged.

    Attributes:
        steps: The prompts of each round; their number is the number of rounds.
        annotator: Who made them.
        effort_s: The seconds that this took, if recorded.
        protocol, seed, settings: Those of the run that made them, if known.
        seconds: Always None; the effort is in `effort_s`.
    """

    steps: tuple[tuple[Prompt, ...], ...]
    annotator: str = "simulated"
    effort_s: float | None = None
    protocol: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float | None = None

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:  # noqa: ARG002
        """The recorded prompts of this round."""
        return self.steps[number]

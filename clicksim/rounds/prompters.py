"""Where the prompts of a round come from: clicks revealed one by one, corrections of errors, or a recording."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clicksim.predictors.interface import RoundFailure
from clicksim.prompts import Prompts
from clicksim.prompts.kinds import Prompt
from clicksim.protocols import effective_settings, load_protocol
from clicksim.rounds.round_records import RoundsCase
from clicksim.simulate.annotators.people import Annotator, Person
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.error_regions import KeptRegions, find_errors
from clicksim.streams import stream

Mask = NDArray[np.uint8]
PROMPT_TABLES = {"clicks": "clicks", "corrections": "scribbles"}


class Finished(Exception):  # noqa: N818 - not an error: the prediction is perfect
    """Nothing is left to correct."""


class Prompter(Protocol):
    """Gives the prompts of one round after the other."""

    @property
    def protocol(self) -> str:
        """Name and version; empty where unknown."""

    @property
    def seed(self) -> int | None:
        """Of the draws, where there was one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the rule."""

    @property
    def annotator(self) -> str:
        """Who makes the prompts."""

    @property
    def seconds(self) -> float | None:
        """Mean time that a modelled person takes for a prompt; None for a rule or a recording."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:
        """The prompts that come new in a round.

        Args:
            number: The round, from 0.
            prediction: The last one that there is, or None.
            so_far: Prompts of earlier rounds.

        Raises:
            Finished: The prediction is perfect, and the rounds end with its score.
            RoundFailure: The rounds cannot go on.
        """


@dataclass(frozen=True)
class Rules:
    """A protocol's rules for rounds with the user's settings, told apart by table.

    Attributes:
        protocol: Name and version.
        rounds: All settings of `[rounds]`.
        given: The user's settings of the prompts, for `[clicks]` or `[scribbles]`.
        prompts: All of them.
        notes: Sentences about settings without effect.
    """

    protocol: str
    rounds: Mapping[str, Any]
    given: Mapping[str, Any]
    prompts: Mapping[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, protocol: str, settings: Mapping[str, Any]) -> "Rules":
        """The rules of a protocol.

        Raises:
            SettingError: An unknown protocol or setting, or a protocol without rounds.
        """
        rule = load_protocol(protocol)
        defaults, _ = effective_settings(rule, "rounds", {})
        own = {name: value for name, value in settings.items() if name in defaults and name != "prompts"}
        rest = {name: value for name, value in settings.items() if name not in own}
        rounds, idle = effective_settings(rule, "rounds", own)
        prompts, more = effective_settings(rule, PROMPT_TABLES[rounds["prompts"]], rest)
        return cls(protocol, rounds, rest, prompts, (*idle, *more))

    @property
    def published(self) -> bool:
        """Whether the published faults are kept."""
        return bool(self.rounds["rule"] == "published")

    @property
    def corrects(self) -> bool:
        """Whether prompts come from the errors of the previous prediction."""
        return bool(self.rounds["prompts"] == "corrections")


def make_prompter(case: RoundsCase, rules: Rules, seed: int, annotator: Annotator | None = None) -> Prompter:
    """The prompter of a case under a protocol.

    Args:
        case: Images and truth.
        rules: Of the protocol.
        seed: Of all draws.
        annotator: A person who changes the prompts of the rule, and corrects only what they see.

    Raises:
        ClicksimError: Clicks that cannot be simulated for this case; an annotator without a spacing.
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
    """Clicks simulated before the first round; round n sees the first n of each polarity."""

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
            warnings.simplefilter("ignore", UserWarning)  # the rules have named idle settings already
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
        made = cls(rules.protocol, seed, clicks.settings, (lists[0], lists[1]), clicks.notes)
        return made if person is None else replace(made, annotator=person.model.name, seconds=person.model.seconds)

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:  # noqa: ARG002
        """The next click of each polarity, as far as there is one."""
        if number == 0:
            return ()
        return tuple(replace(clicks[number - 1], round=number) for clicks in self.lists if number <= len(clicks))


@dataclass(frozen=True)
class _Corrections:
    """Prompts from the errors of the previous prediction; the strategy of a case never changes."""

    protocol: str
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
    def annotator(self) -> str:
        """Who corrects."""
        return "simulated" if self.person is None else self.person.model.name

    @property
    def seconds(self) -> float | None:
        """Of a modelled person."""
        return None if self.person is None else self.person.model.seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person misses."""
        return () if self.person is None else self.person.notes

    def prompts(self, number: int, prediction: Mask | None, so_far: Prompts) -> tuple[Prompt, ...]:
        """The corrections of this round."""
        truth = self.case.truth
        if number == 0 or (self.published and not truth.any()):
            return ()  # the published loop adds nothing to a case without lesions, and asks again
        standing_in = prediction is None
        if prediction is None:
            if self.published:
                raise RoundFailure("NoPrediction", "no prediction of an earlier round to correct")
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
                protocol=self.protocol,
                seed=self.seed,
                case_id=self.case.scan.case_id,
                round=number,
                previous=so_far,
                kept=self.kept,
                **self.given,
            )
        if not found.items and self.published:
            raise RoundFailure("OneKindOfError", found.notes[0])
        if not found.items and not standing_in and not len(find_errors(prediction, truth).starts):
            raise Finished
        return found.items if self.person is None else self.person.act(found.items)


@dataclass(frozen=True)
class Recording:
    """Prompts that were made before, played again as they stand.

    Attributes:
        steps: The prompts of each round; their number is the number of rounds.
        annotator: Who made them.
        effort_s: Seconds that it took, as far as recorded.
        protocol, seed, settings: Of the run that made them, as far as known.
        seconds: Always None: a recording has its own effort.
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

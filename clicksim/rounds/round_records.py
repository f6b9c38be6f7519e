"""What the rounds pass around: a case with its truth, and the game that was played."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from clicksim.predictors.interface import Scan
from clicksim.prompts import Prompts

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class RoundsCase:
    """A case with its truth.

    Attributes:
        scan: What a predictor sees.
        truth: `(I, J, K)`, a mask or an instance map.
        facts: `patient_key`, `source`, `tracer_class` and `model`, as far as known.
    """

    scan: Scan
    truth: NDArray[Any]
    facts: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Game:
    """One case, played to its end.

    Attributes:
        rows: One per round; columns as in the catalog's table `rounds`.
        prompts: All prompts, each with the round in which it was first seen.
        seconds: Per round, of the predictor and of all the rest; (0, 0) where nothing was done.
        notes: Sentences for the user.
    """

    rows: list[Row]
    prompts: Prompts
    seconds: list[tuple[float, float]]
    notes: tuple[str, ...] = ()

"""What the rounds pass around: a case, what a predictor may see of it, and the game that was played."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from clicksim.errors import ClicksimError
from clicksim.geometry import Grid
from clicksim.prompts import Prompts

Row = dict[str, Any]


class RoundFailure(ClicksimError):  # noqa: N818 - a round fails, and the run goes on
    """What costs a predictor its round.

    Attributes:
        code: A key of `clicksim.catalog.schema.FAILURES`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, eq=False)
class Scan:
    """What a predictor sees of a case; never the truth.

    Attributes:
        case_id: The case.
        grid: The lattice of the images and of the prediction that is wanted.
        ct: `(I, J, K)` Hounsfield units, or None where there is no CT. Read-only.
        pet: `(I, J, K)` uptake, or None where there is no PET. Read-only.
        round: The exchange, from 0.
    """

    case_id: str
    grid: Grid
    ct: NDArray[Any] | None = None
    pet: NDArray[Any] | None = None
    round: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """A case with its truth.

    Attributes:
        scan: What a predictor sees.
        truth: `(I, J, K)`, a mask or an instance map.
        facts: `patient_key`, `source`, `tracer_class` and `model`, as far as known.
    """

    scan: Scan
    truth: NDArray[Any]
    facts: Mapping[str, str | None] = field(default_factory=dict)


def placed(grid: Grid) -> Grid:
    """A grid that can be written: with 1 mm voxels, along the axes of the world, where these are not known."""
    return grid if grid.affine is not None else Grid.from_spacing(grid.shape, grid.spacing or (1.0, 1.0, 1.0))


class Predictor(Protocol):
    """Anything that is called with a scan and the prompts so far, and gives a mask.

    The mask is `(I, J, K)` on the scan's grid, as an array, or as a `clicksim.volumes.Volume` whose grid is checked.
    A `RoundFailure` names why there is none. Where it has a method `finish`, that is called after each case, and its
    failure is noted; where it has `limits_itself`, it keeps the time limit by its own means.
    """

    def __call__(self, case: Scan, prompts: Prompts) -> Any:
        """The prediction."""


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

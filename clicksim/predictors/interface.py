"""The interface of a predictor: what it is called with, what it returns, and how it reports that it cannot."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from clicksim.errors import ClicksimError
from clicksim.geometry import Grid
from clicksim.prompts import Prompts


class RoundFailure(ClicksimError):  # noqa: N818 - the round fails, and the run continues
    """A reason for which a predictor loses a round.

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
        grid: The grid of the images, and of the prediction.
        ct: `(I, J, K)` Hounsfield units, or None if there is no CT. Read-only.
        pet: `(I, J, K)` uptake, or None if there is no PET. Read-only.
        round: The number of the round, from 0.
    """

    case_id: str
    grid: Grid
    ct: NDArray[Any] | None = None
    pet: NDArray[Any] | None = None
    round: int = 0


def placed(grid: Grid) -> Grid:
    """Return a grid that can be written to a file: one without an affine gets one along the patient's axes."""
    return grid if grid.affine is not None else Grid.from_spacing(grid.shape, grid.spacing or (1.0, 1.0, 1.0))


class Predictor(Protocol):
    """An open predictor: any callable that takes a scan and all prompts so far, and returns a mask.

    The mask is `(I, J, K)` on the grid of the scan, as an array, or as a `clicksim.volumes.Volume` whose grid is
    checked. The rounds of a case come one after the other, from round 0. A predictor raises `RoundFailure` to name
    the reason for which there is no mask.

    These attributes are optional:

    - `finish()` is called after the last round of a case, also if the run is interrupted. It releases files, processes
      and memory. If it fails, the rounds keep their scores and the result has a note.
    - `limits_itself`: True for a predictor that enforces the time limit by its own means.
    - `needs_images`: False for a predictor that reads neither CT nor PET.
    - `has_case(case_id)`: whether there is any prediction for a case; without one the case is refused, not scored.
    """

    def __call__(self, case: Scan, prompts: Prompts) -> Any:
        """Predict."""

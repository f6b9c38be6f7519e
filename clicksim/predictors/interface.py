"""What a predictor is: what it is called with, what it gives back, and how it says that it cannot."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from clicksim.errors import ClicksimError
from clicksim.geometry import Grid
from clicksim.prompts import Prompts


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

"""The records of interactive evaluation: a case with its truth, and its rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from clicksim.predictors.interface import Scan
from clicksim.prompts import Prompts
from clicksim.volumes.case import CaseImages

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class RoundsCase:
    """A case with its truth.

    Attributes:
        scan: What a predictor sees.
        truth: `(I, J, K)`, a mask or an instance map.
        facts: `patient_key`, `source`, `tracer_class` and `model`, if known.
    """

    scan: Scan
    truth: NDArray[Any]
    facts: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, images: CaseImages, facts: Mapping[str, str | None] | None = None) -> "RoundsCase":
        """Read a case; `images.notes` then has the warnings about its images.

        Raises:
            GeometryError: An image is on another grid than the label.
            ImageError: An image cannot be read, or the PET is a CT or a label.
        """
        ct, pet = images.ct, images.pet
        grid = images.label.grid
        scan = Scan(images.case_id, grid, None if ct is None else ct.array, None if pet is None else pet.array)
        return cls(scan, images.label.array, facts or {})


@dataclass(frozen=True)
class PlayedCase:
    """The rounds of one case.

    Attributes:
        rows: One per round; the columns are those of the catalog's table `rounds`.
        prompts: All prompts, each with the round in which it first appeared.
        seconds: Per round, the seconds of the predictor and of everything else; (0, 0) if nothing was done.
        notes: Sentences for the user.
    """

    rows: list[Row]
    prompts: Prompts
    seconds: list[tuple[float, float]]
    notes: tuple[str, ...] = ()

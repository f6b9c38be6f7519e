"""Where a prediction is wrong: the runs of false positives and false negatives, in one pass over both masks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.kernels import runs as kernels
from clicksim.lesions import Memory, check_pair, fortran_view

Ints = NDArray[np.int64]

FALSE_POSITIVE, FALSE_NEGATIVE = 1, 2


@dataclass(frozen=True)
class ErrorRuns:
    """Runs of wrong voxels, sorted by start.

    Attributes:
        memory: Layout; always with k slow and i fast, so that a slice across the last axis is a block of rows.
        starts, stops: The runs.
        kinds: `FALSE_POSITIVE` or `FALSE_NEGATIVE` of each.
    """

    memory: Memory
    starts: Ints
    stops: Ints
    kinds: Ints

    def of(self, *, missed: bool) -> tuple[Memory, Ints, Ints]:
        """Layout and runs of the false negatives (missed) or of the false positives."""
        keep = self.kinds == (FALSE_NEGATIVE if missed else FALSE_POSITIVE)
        return self.memory, self.starts[keep], self.stops[keep]


def find_errors(prediction: ArrayLike, truth: ArrayLike, *, where: str = "") -> ErrorRuns:
    """The wrong voxels of a prediction.

    Args:
        prediction: `(I, J, K)`; not 0 is predicted lesion.
        truth: `(I, J, K)`; not 0 is lesion.
        where: A case to name in errors.

    Raises:
        GeometryError: Shapes that differ or have not three axes.
        ImageError: Values that are no labels.
    """
    (one, memory), (two, _) = (fortran_view(label) for label in check_pair(prediction, truth, where=where))
    per_word = 8 // one.itemsize
    whole = one.size // per_word * per_word
    words = [flat[:whole].view(np.uint64) for flat in (one, two)]
    starts, stops, kinds = kernels.find_errors(one, two, *words, per_word, memory.lengths[2])
    return ErrorRuns(memory, starts, stops, kinds)

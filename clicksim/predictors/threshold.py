"""`builtin:threshold`: a threshold of uptake that the prompts correct.

It makes no claim to quality. It shows that a loop works, without weights, and gives the same mask on any machine.

    start        uptake at or above a fixed value
    foreground   adds the connected voxels near the prompt at or above a share of the highest uptake under it
    background   removes its component of the mask; if the component has foreground prompts too, each voxel follows the
                 nearer prompt, in mm, and the foreground if both are equally near
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import unknown_name
from clicksim.geometry import Spacing
from clicksim.lesions import find_lesions
from clicksim.predictors.interface import RoundFailure, Scan
from clicksim.predictors.spec import PredictorKind, PredictorSpec
from clicksim.prompts import Prompts

Mask = NDArray[np.uint8]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ThresholdPredictor:
    """A threshold of uptake that prompts correct; see the module.

    Attributes:
        suv: The threshold before any prompt.
        share: The share of the highest uptake under a foreground prompt at which its neighbourhood is added.
        reach_mm: How far from the prompt the neighbourhood extends, along each axis.
    """

    suv: float = 5.0
    share: float = 0.41
    reach_mm: float = 30.0

    def __call__(self, case: Scan, prompts: Prompts) -> Mask:
        """Predict."""
        if case.pet is None:
            raise RoundFailure("PredictorError", "the threshold predictor needs a PET")
        # rounded, so that a header that was converted to another format gives the same mask
        spacing = _rounded(case.grid.spacing or (1.0, 1.0, 1.0))
        mask = np.asfortranarray((case.pet >= self.suv).view(np.uint8))
        for prompt in prompts:
            if prompt.foreground:
                self._grow(mask, case.pet, np.array(prompt.voxels, np.int64), spacing)
        ahead, behind = prompts.foreground.astype(np.int64), prompts.background.astype(np.int64)
        if len(behind):
            _cut(mask, ahead, behind, spacing)
        mask[tuple(behind.T)] = 0
        mask[tuple(ahead.T)] = 1
        return mask

    def _grow(self, mask: Mask, pet: NDArray[Any], voxels: Ints, spacing: Spacing) -> None:
        """Add the neighbourhood of a foreground prompt."""
        from scipy import ndimage

        reach = np.ceil(self.reach_mm / np.asarray(spacing)).astype(np.int64)
        low = np.maximum(voxels.min(axis=0) - reach, 0)
        high = np.minimum(voxels.max(axis=0) + reach + 1, pet.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        hot = pet[box] >= self.share * float(pet[tuple(voxels.T)].max())
        parts, _ = ndimage.label(hot, structure=np.ones((3, 3, 3)))
        own = np.unique(parts[tuple((voxels - low).T)])
        mask[box] |= np.isin(parts, own[own > 0]).view(np.uint8)


def _cut(mask: Mask, ahead: Ints, behind: Ints, spacing: Spacing) -> None:
    """Remove from the mask the components, or parts of them, that background prompts mark."""
    from scipy.spatial import cKDTree

    size = np.asarray(spacing)
    for component in find_lesions(mask, instances="components"):
        refused = _in(component.box, behind)
        if not len(refused) or not any(component.holds(voxel) for voxel in refused.tolist()):
            continue
        voxels = component.voxels
        held = [voxel for voxel in _in(component.box, ahead).tolist() if component.holds(voxel)]
        if held:
            away, _ = cKDTree(behind * size).query(voxels * size)
            near, _ = cKDTree(np.array(held) * size).query(voxels * size)
            voxels = voxels[away < near]
        mask[tuple(voxels.T)] = 0


def _in(box: tuple[Ints, Ints], voxels: Ints) -> Ints:
    """Return the voxels inside a box."""
    low, high = box
    return voxels[np.all((voxels >= low) & (voxels <= high), axis=1)]


def _rounded(spacing: Spacing) -> Spacing:
    i, j, k = (round(s, 4) for s in spacing)
    return (i, j, k)


BUILTINS = {"threshold": ThresholdPredictor}


def _open(spec: PredictorSpec, _time_limit_s: float) -> ThresholdPredictor:
    _check(spec)
    return BUILTINS[spec.argument](**dict(spec.options))


def _check(spec: PredictorSpec) -> None:
    if spec.argument not in BUILTINS:
        raise unknown_name("built-in predictor", spec.argument, BUILTINS)


KIND = PredictorKind(
    usage="builtin:threshold",
    summary="a threshold of uptake that the prompts correct; options suv, share and reach_mm",
    open=_open,
    options={"suv": float, "share": float, "reach_mm": float},
    title=lambda spec: spec.argument,
    check=_check,
)

"""Scores of a prediction and of a curve over rounds, with named rules for empty cases.

All overlap scores are computed from the runs of both masks: after one pass over each mask, the cost depends on the
lesions. Sources: the evaluation scripts of autoPET IV and V.

    dice      2 |P ∩ G| / (|P| + |G|)
    fpv, fnv  volume of predicted components without any lesion voxel, and of lesions without any predicted voxel
    dmm       lesion F1: a lesion is found if some predicted component has an IoU of at least 0.1 with it
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import ImageError, SettingError, in_case
from clicksim.geometry import Spacing, check_spacing
from clicksim.geometry.arrays import Memory, check_pair, flat_view
from clicksim.kernels.overlaps import overlap_runs
from clicksim.lesions import CONNECTIVITIES, connect, flat_in, scan_labels
from clicksim.protocols import ProtocolName, effective_settings, load_protocol

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_LESIONS = 10_000_000
FLOAT32 = 1e-6  # relative rounding error of float32 distances: a distance equal to the tolerance counts as within


@dataclass(frozen=True)
class Scores:
    """The scores of one prediction. A score that the rule leaves undefined is NaN.

    Attributes:
        dice: Overlap of the masks.
        dmm: Lesion F1 of this case.
        tp, fp, fn: Lesions found, predicted components that match no lesion, lesions not found.
        fpv_ml, fnv_ml: Volume of components and lesions without any overlap; NaN without a spacing.
        n_truth, n_predicted: Number of lesions and of predicted components.
        truth_voxels, predicted_voxels, common_voxels: Sizes of the masks and of their overlap.
        truth_ml, predicted_ml: The same in ml; NaN without a spacing.
        protocol: The rule, such as `autopet-v@1`.
    """

    dice: float
    dmm: float
    tp: int
    fp: int
    fn: int
    fpv_ml: float
    fnv_ml: float
    n_truth: int
    n_predicted: int
    truth_voxels: int
    predicted_voxels: int
    common_voxels: int
    truth_ml: float
    predicted_ml: float
    protocol: ProtocolName

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; undefined scores are None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(self).items()}


def score(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    protocol: ProtocolName = "autopet-v@1",
    where: str = "",
    **settings: Any,
) -> Scores:
    """Score a prediction.

    Under the published rules (`autopet-iv@1`, `autopet-v@1`) raw values enter the Dice as they are, so an instance
    map gives the published number and not the Dice of its mask; under `autopet-v@1` a truth with values above 1 is
    an instance map with as many lesions as its highest value. Revised rules take masks as masks, and every distinct
    value of an instance map as a lesion. A setting of the protocol defines the scores for an empty truth.

    Args:
        prediction: `(I, J, K)`; non-zero is predicted lesion.
        truth: `(I, J, K)`; a mask or an instance map.
        spacing: Voxel size of the truth in mm, for volumes.
        protocol: Name and version.
        where: A case to name in errors.
        **settings: Settings of the protocol's table `[score]`.

    Raises:
        GeometryError: If the shapes differ.
        ImageError: If a value is not a valid label.
        SettingError: If a protocol or setting is unknown.

    Examples:
        >>> truth = np.zeros((4, 4, 4)); truth[1:3, 1:3, 1] = 1
        >>> prediction = np.zeros((4, 4, 4)); prediction[1:3, 1, 1] = 1
        >>> scores = score(prediction, truth, spacing=(10, 10, 10))
        >>> round(scores.dice, 4), scores.dmm, scores.fpv_ml, scores.fnv_ml
        (0.6667, 1.0, 0.0, 0.0)
    """
    return compare(prediction, truth, spacing=spacing, protocol=protocol, where=where, **settings).scores


def compare(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    protocol: ProtocolName = "autopet-v@1",
    where: str = "",
    **settings: Any,
) -> "MaskComparison":
    """Compare a prediction with the truth: the scores of `score`, and which lesion overlaps which component."""
    rule = load_protocol(protocol)
    chosen, _ = effective_settings(rule, "score", settings)
    if chosen["connectivity"] not in CONNECTIVITIES:
        raise SettingError(f"connectivity must be 6, 18 or 26, got {chosen['connectivity']}")
    predicted, true = check_pair(prediction, truth, where=where)
    volume = None if spacing is None else check_spacing(spacing)
    flat, memory = flat_view(true)
    sides = [_Side.of(labels, memory, chosen["connectivity"]) for labels in (flat_in(predicted, memory), flat)]
    if chosen["rule"] == "revised":
        if sides[0].several:  # a prediction is a mask; its values do not matter
            mask = (flat_in(predicted, memory) != 0).view(np.uint8)
            sides[0] = _Side.of(mask, memory, chosen["connectivity"])
        if sides[1].several:
            sides[1] = sides[1].by_value(np.unique(sides[1].values))
    elif chosen["rule"] == "autopet-v" and sides[1].top > 1:
        if sides[1].top > MOST_LESIONS:
            raise ImageError(
                f"{rule.id} counts as many lesions as the highest value of an instance map, here {sides[1].top}"
                f"{in_case(where)}; number them from 1, or score under autopet-v@2"
            )
        sides[1] = sides[1].by_value(np.arange(1, sides[1].top + 1))  # including values that no voxel has, as published
    return MaskComparison(sides[0], sides[1], volume, chosen, rule.id)


@dataclass(frozen=True)
class _Side:
    """The components of one mask, as runs in memory order."""

    starts: Ints
    stops: Ints
    values: Ints
    places: Ints
    ids: Ints

    @classmethod
    def of(cls, flat: NDArray[Any], memory: Memory, connectivity: int) -> "_Side":
        starts, stops, values = scan_labels(flat, memory)
        components = connect(memory, starts, stops, values, connectivity)
        _, _, places = components.runs_in_order
        return cls(starts, stops, values, places, components.ids)

    def by_value(self, ids: Ints) -> "_Side":
        """Take each value as a lesion; the ids include all values that occur, in ascending order."""
        return _Side(self.starts, self.stops, self.values, np.searchsorted(ids, self.values), ids)

    @property
    def top(self) -> int:
        return int(self.values.max(initial=0))

    @property
    def several(self) -> bool:
        """Whether there is more than one distinct value."""
        return bool(np.any(self.values != self.values[:1]))

    @cached_property
    def sizes(self) -> Ints:
        sizes = np.zeros(len(self.ids), np.int64)
        np.add.at(sizes, self.places, self.stops - self.starts)
        return sizes

    @property
    def weight(self) -> int:
        """The sum of all values."""
        return int(((self.stops - self.starts) * self.values).sum())


@dataclass(frozen=True)
class MaskComparison:
    """A prediction compared with the truth.

    Attributes:
        predicted, true: The components of both.
        spacing: mm, or None.
        settings: Settings of the protocol's `[score]`.
        protocol: Name and version of the protocol.
    """

    predicted: _Side
    true: _Side
    spacing: Spacing | None
    settings: Mapping[str, Any]
    protocol: ProtocolName

    @cached_property
    def _shared_runs(self) -> Ints:
        """`(n, 3)`: a run of the truth, a predicted run that overlaps it, and the number of shared voxels."""
        return np.asarray(overlap_runs(self.true.starts, self.true.stops, self.predicted.starts, self.predicted.stops))

    @cached_property
    def pairs(self) -> Ints:
        """`(n, 3)`: place of a lesion, place of an overlapping predicted component, and the number of shared voxels."""
        found, width = self._shared_runs, len(self.predicted.ids)
        keys, which = np.unique(
            self.true.places[found[:, 0]] * width + self.predicted.places[found[:, 1]], return_inverse=True
        )
        common = np.zeros(len(keys), np.int64)
        np.add.at(common, which, found[:, 2])
        return np.column_stack([keys // width, keys % width, common])

    @cached_property
    def ious(self) -> Floats:
        """IoU of each pair."""
        common = self.pairs[:, 2]
        union = self.true.sizes[self.pairs[:, 0]] + self.predicted.sizes[self.pairs[:, 1]] - common
        return np.asarray(common / union)

    @cached_property
    def scores(self) -> Scores:
        """All scores under the rule."""
        met = self.pairs[self.ious >= self.settings["iou"]]
        found, matched = len(np.unique(met[:, 0])), len(np.unique(met[:, 1]))
        tp, fn, fp = found, len(self.true.ids) - found, len(self.predicted.ids) - matched
        voxel_ml = math.nan if self.spacing is None else math.prod(self.spacing) / 1000.0
        untouched = [
            int(np.delete(side.sizes, np.unique(self.pairs[:, column])).sum())
            for column, side in ((0, self.true), (1, self.predicted))
        ]
        sizes = [int(side.sizes.sum()) for side in (self.true, self.predicted)]
        return Scores(
            dice=self._dice(*sizes),
            dmm=self._dmm(tp, fp, fn),
            tp=tp,
            fp=fp,
            fn=fn,
            fpv_ml=untouched[1] * voxel_ml,
            fnv_ml=math.nan if self._undefined(sizes[0]) else untouched[0] * voxel_ml,
            n_truth=len(self.true.ids),
            n_predicted=len(self.predicted.ids),
            truth_voxels=sizes[0],
            predicted_voxels=sizes[1],
            common_voxels=int(self.pairs[:, 2].sum()),
            truth_ml=sizes[0] * voxel_ml,
            predicted_ml=sizes[1] * voxel_ml,
            protocol=self.protocol,
        )

    def to_table(self) -> "pa.Table":
        """One row per lesion: id, voxels, best IoU, the component with that IoU, and whether the lesion is found."""
        import pyarrow as pa

        best = np.zeros(len(self.true.ids))
        partner = np.full(len(self.true.ids), -1)
        for (lesion, component, _), iou in zip(self.pairs.tolist(), self.ious.tolist(), strict=True):
            if iou > best[lesion]:
                best[lesion], partner[lesion] = iou, self.predicted.ids[component]
        touched = np.isin(np.arange(len(best)), self.pairs[:, 0])
        return pa.table(
            {
                "lesion": pa.array(self.true.ids, pa.int32()),
                "voxels": pa.array(self.true.sizes, pa.int64()),
                "iou": pa.array(best, pa.float64()),
                "component": pa.array([None if p < 0 else int(p) for p in partner], pa.int32()),
                "touched": pa.array(touched, pa.bool_()),
                "found": pa.array(touched & (best >= self.settings["iou"]), pa.bool_()),
            }
        )

    def _undefined(self, truth_voxels: int) -> bool:
        return truth_voxels == 0 and self.settings["empty_truth"] == "undefined"

    def _dice(self, truth: int, predicted: int) -> float:
        if self._undefined(truth):
            return math.nan
        if truth == 0:
            return 1.0 if predicted == 0 else 0.0
        if self.settings["rule"] == "revised":
            return 2 * int(self.pairs[:, 2].sum()) / (truth + predicted)
        one, other, common = self._shared_runs.T
        # in float64: products of values up to 2**31 - 1 overflow 64 bits
        product = float((self.true.values[one] * common).astype(np.float64) @ self.predicted.values[other])
        return 2 * product / (self.true.weight + self.predicted.weight)

    def _dmm(self, tp: int, fp: int, fn: int) -> float:
        if tp + fn == 0:
            if self.settings["empty_truth"] == "undefined":
                return math.nan
            return 1.0 if fp == 0 else 0.0
        return 2 * tp / (2 * tp + fp + fn)


def surface_dice(
    prediction: ArrayLike, truth: ArrayLike, *, spacing: Sequence[float], tolerance_mm: float = 2.0
) -> float:
    """Share of both surfaces within a tolerance of the other surface (Nikolov et al., 2018, on voxel surfaces).

    A surface voxel is a mask voxel with a 6-neighbour outside the mask or beyond the border of the volume. Distances
    are between voxel centres, in mm. The result is 1 if both masks are empty and 0 if only one is.

    Raises:
        SettingError: If the tolerance is below 0.
        GeometryError: If the shapes differ or the spacing is invalid.
        ImageError: If a value is not a valid label.
    """
    import edt

    if not tolerance_mm >= 0:
        raise SettingError(f"tolerance_mm must be at least 0, got {tolerance_mm}")
    size = check_spacing(spacing)
    masks = check_pair(prediction, truth)
    if not (masks[0].any() or masks[1].any()):
        return 1.0
    if not (masks[0].any() and masks[1].any()):
        return 0.0
    low, high = _joint_box(masks)
    crops = [np.ascontiguousarray(mask[tuple(map(slice, low, high))] != 0) for mask in masks]
    surfaces = [_surface(crop) for crop in crops]
    near = 0
    for own, other in (surfaces, surfaces[::-1]):
        distance = edt.edt(~other, anisotropy=size, black_border=False, parallel=1)
        near += int(np.count_nonzero(distance[own] <= tolerance_mm * (1 + FLOAT32)))
    return near / sum(int(surface.sum()) for surface in surfaces)


def auc(curve: Sequence[float], *, normalised: bool = False) -> float:
    """Area under a score over rounds by the trapezoid rule with unit steps, as published.

    The published sum grows with the number of rounds (a perfect score over rounds 0 to 5 gives 5); normalised, it
    is divided by the number of steps. Any NaN gives NaN. One round has no area: NaN.
    """
    values = np.asarray(curve, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    area = float(((values[1:] + values[:-1]) / 2).sum())
    return area / (len(values) - 1) if normalised else area


def rounds_to(curve: Sequence[float], goal: float) -> int | None:
    """NoC@x: the first round whose score reaches the goal; None if no round does."""
    return next((n for n, value in enumerate(curve) if value >= goal), None)


def score_at(curve: Sequence[float], number: int) -> float:
    """DSC@k: the score after `number` prompts; the last score if the run ended earlier.

    Raises:
        SettingError: If the curve is empty or the number is negative.
    """
    if not len(curve) or number < 0:
        raise SettingError(f"a score at round {number} needs a curve that is not empty and a round from 0")
    return float(curve[min(number, len(curve) - 1)])


def _joint_box(masks: list[NDArray[Any]]) -> tuple[Ints, Ints]:
    boxes = []
    for mask in masks:
        flat, memory = flat_view(mask)
        found = connect(memory, *scan_labels(flat, memory), 26).boxes
        boxes.append((found[0].min(axis=0), found[1].max(axis=0)))
    low = np.minimum(boxes[0][0], boxes[1][0])
    return low, np.maximum(boxes[0][1], boxes[1][1]) + 1


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~inner

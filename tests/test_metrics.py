"""Scores against their slow transcription, to the last digit; and what the mended rule does otherwise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clicksim
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.metrics import auc, compare, rounds_to, score_at, surface_dice
from tests import reference_v, strategies

TWINS = {
    "autopet-iv@1": reference_v.scores_iv,
    "autopet-v@1": reference_v.scores_v,
    "autopet-v@2": reference_v.scores_mended,
}
SPACING = (2.04, 2.04, 3.0)
TWO_MASKS = strategies.shapes(6).flatmap(lambda shape: st.tuples(strategies.masks(shape), strategies.masks(shape)))


def check(prediction, truth, protocol, spacing=SPACING, twin_of=None):
    """Every score that the slow twin knows, bit for bit; NaN where it has NaN."""
    scores = clicksim.score(prediction, truth, spacing=spacing, protocol=protocol)
    expected = TWINS[protocol](*(twin_of or (prediction, truth)), spacing)
    got = {name: getattr(scores, name) for name in expected}
    for name, value in expected.items():
        assert got[name] == value or (math.isnan(got[name]) and math.isnan(value)), (name, got, expected)
    return scores


def pairs():
    """A truth (mask or instance map) and a prediction: unrelated, shifted, equal, or the truth with errors."""

    def beside(truth):
        shape = truth.shape
        noise = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(shape) < 0.2)
        return st.one_of(
            strategies.instances(shape),
            strategies.masks(shape),
            st.just(truth),
            st.integers(0, 2).map(lambda axis: np.roll(truth, 1, axis)),
            noise.map(lambda flips: np.where(flips, truth == 0, truth)),
            noise.map(lambda flips: np.where(flips, 0, truth)),
        ).map(lambda prediction: (prediction.astype(np.int32), truth))

    return strategies.instances().flatmap(beside)


@settings(max_examples=250)
@given(pairs(), strategies.layouts(), strategies.layouts(), strategies.spacings(), st.sampled_from(sorted(TWINS)))
def test_score__equals_the_slow_transcription(pair, layout, other_layout, spacing, protocol):
    prediction, truth = pair
    check(layout(prediction), other_layout(truth), protocol, spacing)


@given(pairs(), strategies.dtypes(), strategies.dtypes(), st.sampled_from(sorted(TWINS)))
def test_score__depends_on_values_and_not_on_dtypes(pair, dtype, other, protocol):
    prediction, truth = pair[0].astype(dtype), pair[1].astype(other)
    check(prediction, truth, protocol)


@pytest.mark.parametrize("protocol", TWINS)
@pytest.mark.parametrize("seed", range(8))
def test_score__equals_the_slow_transcription_on_sparse_volumes_of_other_orders(protocol, seed):
    # sparse enough that only the voxels are moved between memory orders
    draws = np.random.default_rng(seed)
    truth = np.zeros((30, 27, 25), np.uint8)
    for n in range(5):
        i, j, k = (int(draws.integers(0, side - 4)) for side in truth.shape)
        truth[i : i + 3, j : j + 4, k : k + 2] = 1 + n * (seed % 2)
    prediction = np.roll(truth, 1, seed % 3)
    wanted = check(prediction, truth, protocol)
    for layout in (strategies.as_c, strategies.as_f, strategies.as_middle, strategies.as_reversed):
        for other in (strategies.as_c, strategies.as_f, strategies.as_strided):
            got = clicksim.score(layout(prediction), other(truth), spacing=SPACING, protocol=protocol)
            np.testing.assert_equal(got.to_dict(), wanted.to_dict())


def box(*slices, shape=(12, 10, 8), value=1):
    volume = np.zeros(shape, np.uint8)
    volume[slices] = value
    return volume


EMPTY, FULL = box(slice(0)), box(slice(2, 5), slice(2, 5), slice(2, 4))


def test_score__empty_truth_under_the_published_rules():
    # 9.1, 9.2: undefined but for the false positive volume, also where nothing is predicted
    for protocol in ("autopet-iv@1", "autopet-v@1"):
        for prediction, volume in ((EMPTY, 0.0), (FULL, 18 * 0.012)):
            scores = check(prediction, EMPTY, protocol, (2.0, 2.0, 3.0))
            assert all(map(math.isnan, (scores.dice, scores.dmm, scores.fnv_ml)))
            assert scores.fpv_ml == pytest.approx(volume, rel=1e-12)
            assert scores.to_dict()["dice"] is None


def test_score__empty_truth_under_the_mended_rule_is_one_or_zero():
    perfect, wrong = (check(prediction, EMPTY, "autopet-v@2") for prediction in (EMPTY, FULL))
    assert (perfect.dice, perfect.dmm, perfect.fnv_ml) == (1, 1, 0)
    assert (wrong.dice, wrong.dmm, wrong.fp) == (0, 0, 1)
    assert math.isnan(clicksim.score(EMPTY, EMPTY, protocol="autopet-v@2", empty_truth="undefined").dice)


@pytest.mark.parametrize("protocol", TWINS)
def test_score__empty_prediction_and_identical_masks(protocol):
    nothing, same = check(EMPTY, FULL, protocol), check(FULL, FULL, protocol)
    assert (nothing.dice, nothing.dmm, nothing.fn, nothing.fpv_ml) == (0, 0, 1, 0)
    assert nothing.fnv_ml == same.truth_ml > 0
    assert (same.dice, same.dmm, same.tp, same.fp, same.fn, same.fpv_ml, same.fnv_ml) == (1, 1, 1, 0, 0, 0, 0)


def test_score__joins_edges_and_not_corners():
    truth = EMPTY.copy()
    truth[1, 1, 1] = truth[2, 2, 1] = truth[3, 3, 2] = 1  # an edge, then a corner
    assert clicksim.score(truth, truth).n_truth == 2
    assert clicksim.score(truth, truth, connectivity=26).n_truth == 1
    assert clicksim.score(truth, truth, connectivity=6).n_truth == 3


@pytest.mark.parametrize("connectivity", [7, 8, 25])
def test_score__refuses_a_connectivity_that_is_none(connectivity):
    with pytest.raises(SettingError, match="6, 18 or 26"):
        clicksim.score(FULL, FULL, connectivity=connectivity)


def test_score__an_iou_of_exactly_a_tenth_is_a_match():
    truth, prediction = box(slice(0, 10), 0, 0), box(0, 0, 0)
    assert clicksim.score(prediction, truth).tp == 1
    truth[10, 0, 0] = 1
    assert check(prediction, truth, "autopet-v@1").tp == 0


def test_score__splits_and_merges_are_not_punished():
    two = box(slice(0, 4), 0, 0) + box(slice(6, 10), 0, 0)
    one = box(slice(0, 10), 0, 0)
    assert (clicksim.score(one, two).tp, clicksim.score(one, two).fp, clicksim.score(one, two).fn) == (2, 0, 0)
    assert (clicksim.score(two, one).tp, clicksim.score(two, one).fp) == (1, 0)


def test_score__an_instance_map_enters_the_published_dice_raw_and_counts_to_its_highest_id():
    # Q35: @1 keeps both, @2 takes the mask and the ids that there are
    truth = box(slice(0, 3), 0, 0, value=2) + box(slice(3, 6), 0, 0, value=5)
    published, mended = check(truth > 0, truth, "autopet-v@1"), check(truth > 0, truth, "autopet-v@2")
    assert published.dice == 2 * 21 / (21 + 6)
    assert published.dice > 1
    assert (published.n_truth, published.fn, published.dmm) == (5, 3, 4 / 7)
    assert (mended.dice, mended.n_truth, mended.fn, mended.dmm) == (1.0, 2, 0, 1.0)


def test_score__a_mask_of_one_high_value_is_a_mask_where_mended():
    truth = box(slice(0, 3), 0, 0, value=255) + box(slice(6, 9), 0, 0, value=255)
    assert check(truth, truth, "autopet-v@2").n_truth == 2
    assert check(truth, truth, "autopet-v@1").n_truth == 255


def test_score__the_values_of_a_prediction_divide_nothing_where_mended():
    truth = box(slice(0, 6), 0, 0)
    prediction = box(slice(0, 3), 0, 0, value=1) + box(slice(3, 6), 0, 0, value=2)
    assert check(prediction, truth, "autopet-v@2").n_predicted == 1
    assert check(prediction, truth, "autopet-v@1").n_predicted == 2


def test_score__ids_beyond_eight_bits_stay_apart():
    truth = np.zeros((8, 4, 4), np.int32)
    truth[0:2, 0, 0], truth[2:4, 0, 0] = 300, 44  # 300 is 44 in eight bits
    check(truth, truth, "autopet-v@1")
    assert check(truth, truth, "autopet-v@2").n_truth == 2


def test_score__the_three_conventions_for_an_empty_truth_are_named():
    # Q36: what differs between the published scripts is a setting here
    named = {rule: clicksim.score(FULL, EMPTY, empty_truth=rule).dice for rule in ("undefined", "one-or-zero")}
    assert math.isnan(named["undefined"])
    assert named["one-or-zero"] == 0


def test_score__without_a_spacing_has_no_volumes():
    scores = clicksim.score(FULL, FULL)
    assert all(math.isnan(v) for v in (scores.fpv_ml, scores.fnv_ml, scores.truth_ml, scores.predicted_ml))


def test_score__refuses_what_is_no_pair_of_masks():
    with pytest.raises(GeometryError, match="same three axes"):
        clicksim.score(FULL, FULL[:-1])
    with pytest.raises(ImageError, match=r"\(case case_3\)"):
        clicksim.score(FULL, np.full(FULL.shape, np.nan), where="case_3")
    with pytest.raises(ImageError, match="whole numbers"):
        clicksim.score(FULL * 0.5, FULL)
    with pytest.raises(SettingError):
        clicksim.score(FULL, FULL, protocol="autopet-v")


def test_score__refuses_a_highest_value_that_it_cannot_count_to():
    truth = FULL.astype(np.int32) * 2_000_000_000
    with pytest.raises(ImageError, match="as many lesions as the highest value"):
        clicksim.score(FULL, truth)
    assert clicksim.score(FULL, truth, protocol="autopet-v@2").dice == 1


@given(pairs(), strategies.layouts())
def test_compare__table_has_each_lesion_with_its_best_partner(pair, layout):
    prediction, truth = pair
    comparison = compare(layout(prediction), truth, protocol="autopet-v@2")
    table = comparison.to_table().to_pylist()
    assert len(table) == comparison.scores.n_truth
    assert sum(row["found"] for row in table) == comparison.scores.tp
    assert sum(row["voxels"] for row in table) == comparison.scores.truth_voxels
    assert all((row["component"] is None) == (row["iou"] == 0) == (not row["touched"]) for row in table)


def test_compare__a_lesion_that_nothing_touches_is_not_found_at_an_iou_of_zero():
    comparison = compare(box(0, 0, 0), box(3, 3, 3), iou=0.0)
    assert comparison.scores.tp == 0
    assert comparison.to_table()["found"].to_pylist() == [False]


def test_score__published_dice_of_huge_values_does_not_overflow():
    largest = np.full((2, 2, 2), 2**31 - 1)
    assert clicksim.score(largest, largest, protocol="autopet-iv@1").dice == pytest.approx(2**31 - 1)


@given(TWO_MASKS, strategies.spacings())
def test_surface_dice__equals_all_pairs_of_surface_voxels(pair, spacing):
    def surface(mask):
        padded = np.pad(mask, 1)
        around = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
        return np.argwhere(mask & ~np.all(around, axis=0)) * np.asarray(spacing)

    a, b = surface(pair[0]), surface(pair[1])
    # half a thousandth beyond what voxel distances can be, so that rounding decides nothing
    tolerance = 2.0005
    if not len(a) or not len(b):
        expected = float(len(a) == len(b))
    else:
        far = np.linalg.norm(a[:, None] - b[None], axis=2)
        if np.any(np.abs(far - tolerance) < 1e-4):
            return
        near = (far.min(1) <= tolerance).sum() + (far.min(0) <= tolerance).sum()
        expected = near / (len(a) + len(b))
    assert surface_dice(*pair, spacing=spacing, tolerance_mm=tolerance) == pytest.approx(expected, abs=1e-12)


def test_surface_dice__the_tolerance_itself_is_near():
    one, other = box(slice(3, 4), 3, 3), box(slice(4, 5), 3, 3)
    assert surface_dice(one, other, spacing=SPACING, tolerance_mm=2.04) == 1
    assert surface_dice(one, other, spacing=SPACING, tolerance_mm=2.03) == 0


def test_surface_dice__refuses_a_tolerance_or_a_spacing_that_is_none():
    for tolerance in (-1.0, math.nan):
        with pytest.raises(SettingError, match="tolerance_mm must be at least 0"):
            surface_dice(FULL, FULL, spacing=SPACING, tolerance_mm=tolerance)
    with pytest.raises(GeometryError, match="spacing"):
        surface_dice(EMPTY, EMPTY, spacing=())


def test_surface_dice__the_tolerance_itself_is_near_on_a_diagonal():
    one, other = (np.zeros((5, 6, 9), np.uint8) for _ in range(2))
    one[1, 1, 1] = other[3, 4, 7] = 1  # 7 voxels apart
    assert surface_dice(one, other, spacing=(2.03642,) * 3, tolerance_mm=7 * 2.03642) == 1
    assert surface_dice(one, other, spacing=(2.03642,) * 3, tolerance_mm=14.25) == 0


def test_auc__raw_as_published_and_normalised():
    # Q12, Q19: the raw area grows with the number of rounds, the normalised one does not
    assert auc([1] * 6) == 5
    assert auc([1] * 5) == 4
    assert auc([1] * 6, normalised=True) == auc([1] * 5, normalised=True) == 1
    assert auc([0, 1, 0.5]) == 1.25
    assert math.isnan(auc([0, math.nan, 1]))
    assert math.isnan(auc([0.7]))
    assert math.isnan(auc([0.7], normalised=True))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_auc__equals_the_trapezoid_of_scipy(curve):
    from scipy.integrate import trapezoid

    assert auc(curve) == pytest.approx(trapezoid(curve), abs=1e-12)


def test_rounds_to__and_score_at():
    assert rounds_to([0.2, 0.8, 0.7], 0.8) == 1
    assert rounds_to([0.2, math.nan], 0.8) is None
    assert score_at([0.2, 0.8], 0) == 0.2
    assert score_at([0.2, 0.8], 9) == 0.8
    for curve, number in (([], 0), ([0.1], -1)):
        with pytest.raises(SettingError):
            score_at(curve, number)

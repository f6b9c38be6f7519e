"""The slow twins against each other, against scipy and cc3d, and against what the organisers published."""

import json
import random
from pathlib import Path

import cc3d
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests import reference, strategies

CONNECTIVITIES = st.sampled_from([6, 18, 26])


# components


@given(strategies.instances(), CONNECTIVITIES)
def test_components__equal_cc3d_on_an_f_ordered_array(labels, connectivity):
    numbers, count = reference.components(labels, connectivity)
    rival, n = cc3d.connected_components(np.asfortranarray(labels), connectivity=connectivity, return_N=True)
    assert count == n
    np.testing.assert_array_equal(numbers, rival)


@given(strategies.instances(), CONNECTIVITIES)
def test_components__equal_cc3d_on_a_c_ordered_array(labels, connectivity):
    numbers, _ = reference.components(labels, connectivity, order="C")
    rival = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=connectivity)
    np.testing.assert_array_equal(numbers, rival)


@given(strategies.masks(), CONNECTIVITIES)
def test_components__equal_scipy_on_the_transposed_mask(mask, connectivity):
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    numbers, count = reference.components(mask, connectivity)
    rival, n = ndimage.label(mask.T, structure)
    assert count == n
    np.testing.assert_array_equal(numbers, rival.T)


@given(strategies.instances(), strategies.layouts(), strategies.dtypes())
def test_components__do_not_depend_on_layout_or_dtype(labels, layout, dtype):
    plain = labels.astype(dtype)
    numbers, count = reference.components(plain)
    moved, n = reference.components(layout(plain))
    assert count == n
    np.testing.assert_array_equal(numbers, moved)


def test_components__order_decides_who_is_first():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 2] = mask[2, 0, 0] = True
    assert reference.components(mask, order="C")[0][0, 0, 2] == 1
    assert reference.components(mask, order="F")[0][2, 0, 0] == 1


def test_components__touching_values_and_parts_of_one_value_are_separate():
    labels = np.array([2, 1, 0, 2, 2]).reshape(5, 1, 1)
    numbers, count = reference.components(labels)
    assert numbers.ravel().tolist() == [1, 2, 0, 3, 3]
    assert count == 3


# depth


@given(strategies.shapes(6).flatmap(strategies.masks))
def test_squared_distance_inside__equals_scipy(mask):
    squared = reference.squared_distance_inside(mask)
    if mask.all():
        assert np.all(np.isinf(squared))
    else:
        np.testing.assert_array_equal(np.sqrt(squared), ndimage.distance_transform_edt(mask))


@given(strategies.shapes(6).flatmap(strategies.masks), strategies.spacings())
def test_squared_distance_inside__equals_scipy_in_mm_with_the_border_outside(mask, spacing):
    squared = reference.squared_distance_inside(mask, spacing, border_is_outside=True)
    rival = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(np.sqrt(squared), rival, rtol=1e-12)


def test_squared_distance_inside__border_counts_only_when_asked():
    mask = np.array([1, 1, 1, 0], dtype=bool).reshape(4, 1, 1)
    assert reference.squared_distance_inside(mask).ravel().tolist() == [9, 4, 1, 0]
    padded = reference.squared_distance_inside(mask, (2, 3, 3), border_is_outside=True)
    assert padded.ravel().tolist() == [4, 9, 4, 0]


@given(strategies.shapes(6).flatmap(strategies.masks), strategies.layouts())
def test_deepest_voxel__is_the_lowest_of_the_deepest_in_any_layout(mask, layout):
    if not mask.any():
        with pytest.raises(ValueError, match="empty mask"):
            reference.deepest_voxel(mask)
        return
    squared = reference.squared_distance_inside(mask)
    lowest = min(tuple(v) for v in np.argwhere(squared == squared.max()).tolist())
    assert reference.deepest_voxel(layout(mask)) == lowest


def test_deepest_voxel__of_a_full_volume_is_its_first_voxel_unless_the_border_is_outside():
    assert reference.deepest_voxel(np.ones((3, 3, 3))) == (0, 0, 0)
    assert reference.deepest_voxel(np.ones((3, 3, 3)), border_is_outside=True) == (1, 1, 1)


# percentile


@given(st.data(), strategies.shapes(6), st.sampled_from([0, 50, 99.75, 100]))
def test_percentile_outside__interpolates_between_sorted_neighbours(data, shape, q):
    uptake = data.draw(strategies.uptakes(shape))
    label = data.draw(strategies.masks(shape))
    got = reference.percentile_outside(uptake, label, q)
    values = np.sort(uptake[~label].astype(np.float64))
    if values.size == 0:
        assert np.isnan(got)
        return
    place = (values.size - 1) * q / 100
    low, high = values[int(np.floor(place))], values[int(np.ceil(place))]
    assert got == pytest.approx(low + (high - low) * (place - np.floor(place)), rel=1e-12)


# random streams: the facts that the rule of clicks rests on


def test_random_state__permutation_of_eight_under_seed_42():
    assert np.random.RandomState(42).permutation(8).tolist() == [1, 5, 0, 7, 2, 4, 3, 6]


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 99))
def test_random_state__choice_is_a_cut_permutation_and_one_randint(n, k, seed):
    ids, k = np.arange(1, n + 1), min(k, n)
    one, two = np.random.RandomState(seed), np.random.RandomState(seed)
    np.testing.assert_array_equal(one.choice(ids, size=k, replace=False), ids[two.permutation(n)[:k]])
    assert one.choice(n) == two.randint(0, n)
    assert one.randint(1 << 30) == two.randint(1 << 30)  # both streams stand at the same place


# clicks


@given(strategies.instances(), strategies.layouts(), st.integers(0, 99))
def test_autopet_iv_1__foreground_follows_the_rule_in_any_layout(labels, layout, seed):
    numbers, count = reference.components(labels)
    tumor = reference.autopet_iv_1(layout(labels), seed=seed)["tumor"]
    if count == 0 or (labels.min() > 0 and count == 1):
        assert tumor == []
        return
    order = np.random.RandomState(seed).permutation(count)[:10] + 1
    assert len(tumor) == 10
    for place, click in enumerate(tumor):
        component = numbers == order[place % len(order)]
        squared = reference.squared_distance_inside(component)
        assert component[tuple(click)]
        if place < len(order):
            assert tuple(click) == reference.deepest_voxel(component)
        else:
            assert squared[tuple(click)] == 1


def test_autopet_iv_1__draws_edges_by_hand_checked_randint():
    label = np.zeros((5, 5, 5), dtype=np.uint8)
    label[1:4, 1:4, 1:4] = 1
    stream = np.random.RandomState(42)
    stream.permutation(1)
    edge = [v for v in np.argwhere(label).tolist() if v != [2, 2, 2]]
    expected = [[2, 2, 2], *(edge[stream.randint(0, 26)] for _ in range(9))]
    assert reference.autopet_iv_1(label)["tumor"] == expected


def test_autopet_iv_1__one_voxel_gives_ten_equal_clicks():
    label = np.zeros((4, 4, 4), dtype=bool)
    label[1, 2, 3] = True
    assert reference.autopet_iv_1(label)["tumor"] == [[1, 2, 3]] * 10


@pytest.mark.parametrize("uptake", [None, np.ones((3, 4, 5))])
@pytest.mark.parametrize("value", [0, 1])
def test_autopet_iv_1__is_empty_where_nothing_qualifies(value, uptake):
    assert reference.autopet_iv_1(np.full((3, 4, 5), value), uptake) == {"tumor": [], "background": []}


def test_autopet_iv_1__more_lesions_than_clicks_gives_centres_only():
    label = np.zeros((23, 1, 1), dtype=bool)
    label[::2] = True
    order = np.random.RandomState(42).permutation(12)[:10]
    assert reference.autopet_iv_1(label)["tumor"] == [[2 * int(n), 0, 0] for n in order]


def test_autopet_iv_1__permutation_is_drawn_for_no_foreground_clicks_but_not_for_no_lesion():
    label = np.zeros((30, 30, 3), dtype=np.uint8)
    label[0, ::2, 0] = 1
    uptake = np.zeros(label.shape)
    uptake[10, :20:4, 1] = 5.0  # the threshold is 0, as 0.25 % of the volume is more than five voxels
    after = np.random.RandomState(42)
    after.permutation(15)
    fresh = np.random.RandomState(42)
    for lesions, stream in ((label, after), (label * 0, fresh)):
        order = stream.permutation(5)
        got = reference.autopet_iv_1(lesions, uptake, n_foreground=0, n_background=5)
        assert got["tumor"] == []
        assert got["background"] == [[10, 4 * int(n), 1] for n in order]


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking whole volumes takes minutes
@given(strategies.hot_cases(), strategies.layouts())
def test_autopet_iv_1__background_follows_the_published_fill_up(case, layout):
    label, uptake = case
    threshold = reference.percentile_outside(uptake, label, 99.75)
    numbers, count = reference.components((uptake > threshold) & (label == 0))
    try:
        got = reference.autopet_iv_1(layout(label), layout(uptake))
    except AssertionError:
        assert label.any()
        return
    if count == 0:
        assert got["background"] == []
        return
    assert len(got["background"]) == 10
    stream = np.random.RandomState(42)
    if label.any():
        stream.permutation(reference.components(label)[1])
        for _ in range(9):
            stream.randint(0, _edge_size(label))
    order = stream.permutation(count)[:10] + 1
    for place, click in enumerate(got["background"]):
        component = numbers == order[place % count]
        assert not label[tuple(click)]
        if place < count:
            assert tuple(click) == reference.deepest_voxel(component)
        else:
            thin = reference.squared_distance_inside(component).max() == 1
            assert component[tuple(click)] != thin
            place_of = np.argwhere(component != thin).tolist()
            assert click == place_of[stream.randint(0, len(place_of))]


def _edge_size(label):
    """Voxels of a single component that touch the outside by a face."""
    return int(np.sum(reference.squared_distance_inside(label) == 1)) if label.sum() < 100 else 15 * 15


def test_autopet_iv_1__aborts_where_the_fill_up_draws_a_lesion_voxel():
    label = np.ones((15, 15, 15), dtype=bool)
    label[:, :, 0] = False
    uptake = np.zeros(label.shape)
    uptake[3, 3, 0] = 1
    with pytest.raises(AssertionError, match="lies in a lesion"):
        reference.autopet_iv_1(label, uptake)


@given(strategies.instances(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
def test_autopet_iv_1__offsets_take_one_attempt_and_three_draws_per_click(labels, center, edge, seed):
    plain = reference.autopet_iv_1(labels, seed=seed)["tumor"]
    moved = reference.autopet_iv_1(labels, seed=seed, center_offset=center, edge_offset=edge)["tumor"]
    n_centres = min(10, reference.components(labels)[1])
    draws = random.Random(seed)
    assert len(moved) == len(plain)
    for place, (click, got) in enumerate(zip(plain, moved, strict=True)):
        offset = center if place < n_centres else edge
        candidate = [c + draws.randint(0, offset) for c in click]
        stays = any(c >= n for c, n in zip(candidate, labels.shape, strict=True)) or not labels[tuple(candidate)]
        assert got == (click if stays else candidate)


def test_longitudinal_ct_1__is_the_same_rule_with_two_clicks():
    label = np.zeros((9, 5, 5), dtype=np.uint8)
    label[1:4, 1:4, 1:4] = 1
    got = reference.longitudinal_ct_1(label)
    assert got["background"] == []
    assert got["tumor"] == reference.autopet_iv_1(label)["tumor"][:2]


@pytest.mark.slow
@pytest.mark.real
def test_autopet_iv_1__equals_the_published_clicks_of_an_fdg_case(realdata: Path):
    import nibabel

    folder = realdata / "autopet" / "fdg_0b57b247b6"
    found = sorted(folder.glob("*.nii.gz"))
    if not found:
        pytest.skip(f"no published FDG label at {folder}")
    published = json.loads(Path(str(found[0]).replace(".nii.gz", "_clicks.json")).read_text())
    label = np.asarray(nibabel.load(found[0]).dataobj)
    assert reference.autopet_iv_1(label)["tumor"] == published["tumor"]

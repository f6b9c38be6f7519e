"""Components and the lesion table against flood fill, cc3d and plain numpy, in every layout and dtype."""

import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.errors import GeometryError, LabelError, SettingError, UptakeError
from clicksim.geometry.arrays import flat_view
from clicksim.lesions import find_lesions, measure_lesions, radius_mm
from tests import reference, strategies

CONNECTIVITIES = st.sampled_from([6, 18, 26])
RULES = st.sampled_from(["auto", "labels", "components", "touching"])


def painted(lesions):
    """The place of each component from 1, painted into the volume; fails where two components overlap."""
    out = np.zeros(lesions.memory.shape, dtype=np.int32)
    for number, lesion in enumerate(lesions, start=1):
        assert not out[tuple(lesion.voxels.T)].any()
        out[tuple(lesion.voxels.T)] = number
    return out


def by_rule(labels, rule, connectivity=26):
    """What a rule makes of labels: the same paint, and the ids."""
    if rule == "auto":
        rule = "labels" if len(np.unique(labels[labels != 0])) > 1 else "components"
    if rule == "labels":
        ids, places = np.unique(labels, return_inverse=True)
        places = places.reshape(labels.shape)
        return (places, ids[1:]) if ids[0] == 0 else (places + 1, ids)
    numbers, count = reference.components(labels != 0 if rule == "components" else labels, connectivity)
    return numbers, np.arange(1, count + 1)


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, dtype=np.uint8)[1:].view(array.dtype)
    out = memory.reshape(array.shape, order="F")
    out[...] = array
    assert not out.flags.aligned
    return out


# find_lesions


@given(strategies.instances(), strategies.layouts(), strategies.dtypes(), RULES, CONNECTIVITIES)
def test_find_lesions__equals_flood_fill_in_any_layout_and_dtype(labels, layout, dtype, rule, connectivity):
    labels = labels.astype(dtype)
    lesions = find_lesions(layout(labels), instances=rule, connectivity=connectivity)
    numbers, ids = by_rule(labels, rule, connectivity)
    np.testing.assert_array_equal(painted(lesions), numbers)
    assert lesions.ids.tolist() == ids.tolist()


@given(strategies.instances(), strategies.layouts(), CONNECTIVITIES)
def test_find_lesions__numbers_as_cc3d_does_on_the_fortran_array(labels, layout, connectivity):
    lesions = find_lesions(layout(labels), instances="touching", connectivity=connectivity)
    rival = cc3d.connected_components(np.asfortranarray(labels), connectivity=connectivity)
    np.testing.assert_array_equal(painted(lesions), rival)


@given(strategies.instances(), strategies.layouts(), RULES)
def test_find_lesions__sizes_boxes_and_centroids_equal_numpy(labels, layout, rule):
    lesions = find_lesions(layout(labels), instances=rule)
    numbers, ids = by_rule(labels, rule)
    assert len(lesions) == len(list(lesions)) == len(ids)
    low, high = lesions.boxes
    for n, lesion in enumerate(lesions):
        voxels = np.argwhere(numbers == n + 1)
        assert lesions.sizes[n] == len(voxels)
        np.testing.assert_array_equal(low[n], voxels.min(0))
        np.testing.assert_array_equal(high[n], voxels.max(0))
        np.testing.assert_array_equal(lesion.box, (voxels.min(0), voxels.max(0)))
        np.testing.assert_allclose(lesions.centroids[n], voxels.mean(0), rtol=1e-12, atol=1e-12)


@given(strategies.instances(), strategies.layouts(), RULES, st.lists(st.booleans(), min_size=40, max_size=40))
def test_select__keeps_ids_voxels_and_order(labels, layout, rule, wanted):
    lesions = find_lesions(layout(labels), instances=rule)
    keep = np.resize(wanted, len(lesions)).astype(bool)
    for some in (lesions.select(keep), lesions.select(np.flatnonzero(keep))):
        assert some.ids.tolist() == lesions.ids[keep].tolist()
        assert some.sizes.tolist() == lesions.sizes[keep].tolist()
        for one, place in zip(some, np.flatnonzero(keep), strict=True):
            np.testing.assert_array_equal(one.voxels, lesions[place].voxels)


def test_select__takes_places_in_another_order():
    labels = np.array([1, 0, 2, 2, 0, 3]).reshape(6, 1, 1)
    lesions = find_lesions(labels).select(np.array([2, 1]))
    assert lesions.ids.tolist() == [3, 2]
    assert [lesion.voxels[:, 0].tolist() for lesion in lesions] == [[5], [2, 3]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1), (4, 1, 5), (1, 6, 7)])
@pytest.mark.parametrize("rule", ["auto", "labels", "components", "touching"])
def test_find_lesions__takes_axes_of_one_voxel(shape, rule):
    labels = np.arange(int(np.prod(shape))).reshape(shape) % 3
    for layout in (strategies.as_c, strategies.as_f, strategies.as_strided, strategies.as_reversed):
        numbers, ids = by_rule(labels, rule)
        lesions = find_lesions(layout(labels), instances=rule)
        np.testing.assert_array_equal(painted(lesions), numbers)
        assert lesions.ids.tolist() == ids.tolist()


@pytest.mark.parametrize("rule", ["auto", "labels", "components", "touching"])
def test_find_lesions__of_no_voxel_one_voxel_and_all_voxels(rule):
    empty = find_lesions(np.zeros((3, 4, 5), bool), instances=rule)
    assert (len(empty), list(empty), empty.sizes.tolist(), empty.centroids.shape) == (0, [], [], (0, 3))
    one = find_lesions(strategies.as_f(np.arange(60).reshape(3, 4, 5) == 33), instances=rule)
    assert [lesion.voxels.tolist() for lesion in one] == [[[1, 2, 3]]]
    full = find_lesions(np.ones((3, 4, 5), bool), instances=rule)
    assert full.sizes.tolist() == [60]
    np.testing.assert_array_equal(full[0].voxels, np.argwhere(np.ones((3, 4, 5))))


@given(strategies.instances())
def test_find_lesions__takes_read_only_unaligned_broadcast_and_foreign_byte_order(labels):
    numbers, _ = by_rule(labels, "touching")
    frozen = np.asfortranarray(labels)
    frozen.setflags(write=False)
    for array in (
        frozen,
        unaligned(labels),
        unaligned(labels.astype(np.float32)),
        labels.astype(">i4"),
        labels.tolist(),
    ):
        np.testing.assert_array_equal(painted(find_lesions(array, instances="touching")), numbers)
    wide = np.broadcast_to(labels[:, :, :1], labels.shape)
    np.testing.assert_array_equal(
        painted(find_lesions(wide, instances="touching")), by_rule(np.array(wide), "touching")[0]
    )


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", ">u2", ">f8"]
)
def test_find_lesions__takes_every_real_dtype(dtype):
    labels = np.zeros((4, 5, 6), dtype=dtype)
    labels[1:3, 2, 3] = labels[0, 4, 5] = 1
    assert find_lesions(labels).sizes.tolist() == [2, 1]


def test_find_lesions__the_rules_differ_on_touching_and_divided_instances():
    labels = np.array([2, 1, 0, 2, 2]).reshape(5, 1, 1)
    sizes = {rule: find_lesions(labels, instances=rule).sizes.tolist() for rule in ("auto", "components", "touching")}
    assert sizes == {"auto": [1, 3], "components": [2, 2], "touching": [1, 1, 2]}
    assert find_lesions(labels * 7, instances="labels").ids.tolist() == [7, 14]
    assert find_lesions((labels > 0) * 255).sizes.tolist() == [2, 2]  # one value is no instance map


def test_find_lesions__takes_floats_that_are_whole_to_one_part_in_a_thousand():
    labels = np.array([0, 0.9999, 1.0004, 2.0, 1e-5]).reshape(5, 1, 1)
    assert find_lesions(labels).sizes.tolist() == [2, 1]


def test_find_lesions__takes_the_largest_label():
    assert find_lesions(np.full((2, 2, 2), 2**31 - 1, np.int64), instances="labels").ids.tolist() == [2**31 - 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "positive for lesions, got -1 to 0"),
        (np.nan, "got nan to nan"),
        (np.inf, "to inf"),
        (0.5, "whole numbers, got 0.5 "),
        (2.0**31, "to 2147483648"),
        (2.0**31 - 0.0005, "positive for lesions"),
        (2.0**64, "positive for lesions"),
        (1j, "must be numbers, got complex128"),
        ("a", "must be numbers, got <U1"),
        (None, "must be numbers, got object"),
    ],
)
def test_find_lesions__refuses_values_that_are_no_labels(value, words):
    labels = np.zeros((2, 2, 2), dtype=np.asarray(value).dtype)
    labels[1, 1, 1] = value
    with pytest.raises(LabelError, match=words) as refused:
        find_lesions(labels, where="x")
    assert "(case x)" in str(refused.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_find_lesions__refuses_negative_integers_of_any_size(dtype):
    with pytest.raises(LabelError, match="got -1 to -1"):
        find_lesions(np.full((2, 2, 2), -1, dtype))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (2, 2, 2, 1), (0, 2, 2), (2, 0, 2)])
def test_find_lesions__refuses_what_is_no_volume(shape):
    with pytest.raises(GeometryError, match="three axes"):
        find_lesions(np.zeros(shape))


def test_find_lesions__refuses_unknown_rules_with_the_nearest_name():
    with pytest.raises(SettingError, match="did you mean 'components'"):
        find_lesions(np.zeros((2, 2, 2)), instances="component")
    with pytest.raises(GeometryError, match="6, 18 or 26, got 8"):
        find_lesions(np.zeros((2, 2, 2)), connectivity=8)


@given(strategies.instances(), strategies.layouts())
def test_flat_view__lists_every_voxel_and_copies_only_what_fills_no_block(labels, layout):
    array = layout(labels)
    flat, memory = flat_view(array)
    np.testing.assert_array_equal(flat, labels[tuple(memory.coordinates(np.arange(labels.size)).T)])
    if layout in (strategies.as_c, strategies.as_f, strategies.as_middle):
        assert np.shares_memory(flat, array)
    assert flat.flags.c_contiguous


# one component


@given(strategies.shapes(6).flatmap(strategies.instances), strategies.layouts(), RULES)
def test_component__voxels_stand_in_c_order_and_holds_knows_each(labels, layout, rule):
    numbers, _ = by_rule(labels, rule)
    for n, lesion in enumerate(find_lesions(layout(labels), instances=rule), start=1):
        np.testing.assert_array_equal(lesion.voxels, np.argwhere(numbers == n))
        held = [lesion.holds(voxel) for voxel in np.ndindex(labels.shape)]
        np.testing.assert_array_equal(np.reshape(held, labels.shape), numbers == n)


def test_component__holds_nothing_beyond_the_border():
    lesion = find_lesions(np.ones((2, 3, 4), bool))[0]
    assert lesion.holds((1, 2, 3))
    for voxel in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (2, 0, 0), (0, 3, 0), (0, 0, 4)):
        assert not lesion.holds(voxel)


@given(strategies.shapes(6).flatmap(strategies.instances), strategies.layouts(), strategies.spacings(), st.booleans())
def test_component__depths_rim_and_deepest_equal_the_slow_twins(labels, layout, spacing, closed):
    numbers, _ = by_rule(labels, "touching")
    for n, lesion in enumerate(find_lesions(layout(labels), instances="touching"), start=1):
        mask = numbers == n
        squared = reference.squared_distance_inside(mask, spacing, closed)
        np.testing.assert_allclose(lesion.depths(spacing, closed=closed), np.sqrt(squared[mask]), rtol=1e-12)
        voxel, depth = lesion.deepest(spacing, closed=closed)
        assert depth == pytest.approx(np.sqrt(squared.max()), rel=1e-12)
        assert list(voxel) == np.argwhere(mask & (squared >= squared.max() * (1 - 1e-9)))[0].tolist()
        plain = reference.squared_distance_inside(mask, (1, 1, 1), closed)
        rim = mask if np.all(np.isinf(plain[mask])) else plain == 1
        np.testing.assert_array_equal(lesion.rim(closed=closed), np.argwhere(rim))
        assert lesion.deepest(None, closed=closed)[0] == reference.deepest_voxel(mask, border_is_outside=closed)


@given(
    strategies.shapes(6).flatmap(strategies.instances),
    strategies.layouts(),
    strategies.spacings(),
    st.integers(0, 2**32 - 1),
)
def test_component__what_is_left_without_used_voxels_equals_the_slow_twin(labels, layout, spacing, seed):
    draws = np.random.default_rng(seed)
    taken = draws.random(labels.shape) < draws.choice([0.1, 0.6, 1])
    used = draws.permutation(np.argwhere(taken))
    for lesion in find_lesions(layout(labels), instances="touching"):
        mask = np.zeros(labels.shape, bool)
        mask[tuple(lesion.voxels.T)] = True
        left, rest = mask & ~taken, lesion.without(used)
        deepest = lesion.deepest_but(used, spacing, closed=True)
        if not left.any():
            assert rest is deepest is None
            continue
        np.testing.assert_array_equal(rest.voxels, np.argwhere(left))
        np.testing.assert_array_equal(np.array(rest.box), [np.argwhere(left).min(0), np.argwhere(left).max(0)])
        assert (rest.id, rest.key) == (lesion.id, lesion.key)
        squared = np.where(left, reference.squared_distance_inside(mask, spacing, True), -1)
        assert list(deepest[0]) == np.argwhere(squared >= squared.max() * (1 - 1e-9))[0].tolist()
        assert deepest[1] == pytest.approx(np.sqrt(squared.max()), rel=1e-12)


# measure_lesions


def slow_peak(mask, uptake, spacing, peak_ml):
    """The highest mean over a sphere around each voxel of a lesion, by the distance of all voxels from it."""
    radius = (3000 * peak_ml / (4 * np.pi)) ** (1 / 3)
    places = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), -1)
    best = -np.inf
    for voxel in np.argwhere(mask):
        squared = (((places - voxel) * spacing) ** 2).sum(-1)
        best = max(best, uptake[squared <= radius**2].astype(np.float64).mean())
    return best


@given(st.data(), strategies.shapes(6), strategies.layouts(), strategies.layouts(), strategies.spacings(), RULES)
def test_measure_lesions__equals_numpy(data, shape, layout, other_layout, spacing, rule):
    labels = data.draw(strategies.instances(shape))
    uptake = data.draw(strategies.uptakes(shape)) - np.float32(1)
    table = measure_lesions(
        find_lesions(layout(labels), instances=rule), spacing=spacing, uptake=other_layout(uptake), peak_ml=0.1
    )
    numbers, ids = by_rule(labels, rule)
    rows = table.to_pylist()
    assert [row["lesion"] for row in rows] == ids.tolist()
    for n, row in enumerate(rows, start=1):
        mask = numbers == n
        voxels, values = np.argwhere(mask), uptake[mask].astype(np.float64)
        assert row["voxels"] == len(voxels)
        assert row["volume_ml"] == pytest.approx(len(voxels) * np.prod(spacing) / 1000)
        assert row["box_first"] == voxels.min(0).tolist()
        assert row["box_last"] == voxels.max(0).tolist()
        assert row["centroid"] == pytest.approx(voxels.mean(0))
        squared = reference.squared_distance_inside(mask, spacing, border_is_outside=True)
        assert row["depth_mm"] == pytest.approx(np.sqrt(squared.max()))
        assert squared[tuple(row["deepest"])] == pytest.approx(squared.max())
        assert row["suv_max"] == values.max()
        assert row["suv_mean"] == pytest.approx(values.mean(), rel=1e-6, abs=1e-6)
        assert row["suv_peak"] == pytest.approx(slow_peak(mask, uptake, spacing, 0.1), rel=1e-6, abs=1e-6)


def test_measure_lesions__at_the_border_takes_it_for_outside():
    row = measure_lesions(find_lesions(np.ones((3, 3, 3))), spacing=(2, 3, 3)).to_pylist()[0]
    assert (row["deepest"], row["depth_mm"]) == ([1, 1, 1], 4.0)
    assert (row["suv_max"], row["suv_mean"], row["suv_peak"]) == (None, None, None)


def test_measure_lesions__peak_is_no_smaller_than_a_voxel_and_may_lie_beside_the_maximum():
    mask, uptake = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9))
    mask[2, 2, 2] = mask[6, 6, 6] = mask[6, 6, 7] = True
    uptake[2, 2, 2], uptake[6, 6, 6] = 9, 4
    small = measure_lesions(find_lesions(mask), spacing=(5, 5, 5), uptake=uptake, peak_ml=0.001)
    assert small["suv_peak"].to_pylist() == [9, 4]
    one_ml = measure_lesions(find_lesions(mask), spacing=(5, 5, 5), uptake=uptake)  # radius 6.2 mm: 7 voxels
    assert one_ml["suv_peak"].to_pylist() == pytest.approx([9 / 7, 4 / 7])


def test_radius_mm__of_a_ball():
    assert radius_mm(4 / 3 * np.pi) == pytest.approx(10.0)


def test_measure_lesions__of_no_lesion_is_an_empty_table():
    empty = find_lesions(np.zeros((3, 3, 3)))
    table = measure_lesions(empty, spacing=(1, 1, 1), uptake=np.ones((3, 3, 3)))
    assert table.num_rows == 0
    assert table.schema == measure_lesions(find_lesions(np.ones((3, 3, 3))), spacing=(1, 1, 1)).schema


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i8", "f2", "f4", ">f4", "f8", ">f8", "g"])
def test_measure_lesions__takes_every_real_dtype(dtype):
    uptake = np.arange(27).reshape(3, 3, 3).astype(dtype)
    row = measure_lesions(find_lesions(np.ones((3, 3, 3))), spacing=(4, 4, 4), uptake=uptake, peak_ml=0.3).to_pylist()[
        0
    ]
    assert (row["suv_max"], row["suv_mean"]) == (26, 13)
    assert row["suv_peak"] == pytest.approx(np.mean([26, 25, 23, 17]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(2, 2, 2), (2, 2, 3)])
def test_measure_lesions__refuses_uptake_that_is_not_finite_in_or_beside_a_lesion(bad, at):
    mask, uptake = np.zeros((5, 5, 5)), np.ones((5, 5, 5))
    mask[2, 2, 2] = 1
    uptake[at] = bad
    with pytest.raises(UptakeError, match="lesion 1"):
        measure_lesions(find_lesions(mask), spacing=(5, 5, 5), uptake=uptake)


def test_measure_lesions__refuses_another_grid_complex_numbers_and_impossible_spacing():
    lesions = find_lesions(np.ones((3, 3, 3)))
    with pytest.raises(GeometryError, match=r"\(3, 3, 4\) and \(3, 3, 3\)"):
        measure_lesions(lesions, spacing=(1, 1, 1), uptake=np.ones((3, 3, 4)))
    with pytest.raises(UptakeError, match="real numbers, got complex128"):
        measure_lesions(lesions, spacing=(1, 1, 1), uptake=np.ones((3, 3, 3)) * 1j)
    with pytest.raises(GeometryError, match="positive"):
        measure_lesions(lesions, spacing=(1, -1, 1))
    for peak_ml in (0, -1, np.nan, np.inf):
        with pytest.raises(SettingError, match="peak_ml is the volume"):
            measure_lesions(lesions, spacing=(1, 1, 1), uptake=np.ones((3, 3, 3)), peak_ml=peak_ml)

"""Every kernel against a slow twin, against scipy, cc3d and edt, and against its own properties.

Kernels trust their callers, so each test builds by hand what the docstring of a kernel asks for. The module runs
compiled, without the compiler and with bounds checks, on volumes of at most 24 voxels a side.
"""

import cc3d
import edt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clicksim.kernels import depth, margin, overlaps, uptake
from clicksim.kernels import lesion_means as tables
from clicksim.kernels import voxel_runs as runs
from tests import reference, strategies

pytestmark = pytest.mark.kernel

few = settings(max_examples=25)
CONNECTIVITIES = st.sampled_from([6, 18, 26])
SMALL = strategies.shapes(6)
BORDERS = st.booleans()


def runs_of(labels):
    """Runs of a C-ordered label array, found voxel by voxel."""
    flat, row = labels.reshape(-1), labels.shape[2]
    starts, stops, values = [], [], []
    for v in np.flatnonzero(flat):
        if starts and stops[-1] == v and v % row and values[-1] == flat[v]:
            stops[-1] = v + 1
        else:
            starts.append(v)
            stops.append(v + 1)
            values.append(flat[v])
    return tuple(np.array(found, dtype=np.int64) for found in (starts, stops, values))


def geometry_of(mask):
    """What the depth kernels take about one component: runs, shape and box."""
    starts, stops, _ = runs_of(mask.astype(np.uint8))
    voxels = np.argwhere(mask)
    return starts, stops, np.array(mask.shape), voxels.min(0), voxels.max(0)


def find(labels):
    flat = np.ascontiguousarray(labels).reshape(-1)
    per_word = 8 // flat.itemsize
    words = flat[: flat.size // per_word * per_word].view(np.uint64)
    return runs.find_runs(flat, words, per_word, labels.shape[2])


def filled(shape):
    return np.ones(shape, dtype=bool)


def one_voxel(shape, at):
    mask = np.zeros(shape, dtype=bool)
    mask[at] = True
    return mask


# runs


@few
@given(SMALL.flatmap(strategies.instances), st.sampled_from([np.uint8, np.int16, np.int32]))
def test_find_runs__equals_the_scan_voxel_by_voxel(labels, dtype):
    labels = labels.astype(dtype)
    for got, expected in zip(find(labels), runs_of(labels), strict=True):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 1, 8), (1, 1, 9), (3, 1, 17), (2, 2, 16), (8, 3, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_find_runs__meets_each_voxel_of_a_volume_that_does_not_fill_its_words(shape, dtype):
    for v in range(int(np.prod(shape))):
        labels = np.zeros(shape, dtype)
        labels.reshape(-1)[v] = 1
        starts, stops, values = find(labels)
        assert (starts.tolist(), stops.tolist(), values.tolist()) == ([v], [v + 1], [1])


def test_find_runs__ends_a_run_at_the_end_of_its_row_and_where_the_value_changes():
    labels = np.array([[[0, 2, 2], [2, 3, 3]]], dtype=np.uint8)
    starts, stops, values = find(labels)
    assert (starts.tolist(), stops.tolist(), values.tolist()) == ([1, 3, 4], [3, 4, 6], [2, 2, 3])


def test_find_runs__finds_more_runs_than_it_had_room_for():
    labels = np.indices((24, 8, 8)).sum(0).astype(np.uint8) % 2
    starts, stops, _ = find(labels)
    assert len(starts) == labels.sum() == 768
    np.testing.assert_array_equal(starts, np.flatnonzero(labels))
    np.testing.assert_array_equal(stops - starts, 1)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_find_runs__of_an_empty_and_of_a_full_volume(value):
    starts, stops, values = find(np.full((3, 4, 5), value, np.uint8))
    assert starts.tolist() == ([] if value == 0 else list(range(0, 60, 5)))
    assert np.all(stops - starts == 5)
    assert np.all(values == value)


@few
@given(SMALL.flatmap(strategies.masks))
def test_join_indices__gives_the_runs_of_the_mask(mask):
    starts, stops = runs.join_indices(np.flatnonzero(mask), mask.shape[2])
    expected = runs_of(mask.astype(np.uint8))
    np.testing.assert_array_equal(starts, expected[0])
    np.testing.assert_array_equal(stops, expected[1])


@few
@given(SMALL.flatmap(strategies.instances))
def test_expand_runs__gives_back_every_voxel_in_order(labels):
    starts, stops, _ = runs_of(labels)
    np.testing.assert_array_equal(runs.expand_runs(starts, stops), np.flatnonzero(labels))


def numbered(labels, connectivity):
    """Components from 1 in C order of their first voxels, painted back."""
    starts, stops, values = runs_of(labels)
    roots = runs.connect_runs(starts, stops, values, labels.shape[1], labels.shape[2], connectivity)
    assert np.all(roots <= np.arange(len(roots)))
    assert np.all(roots[roots] == roots)
    out = np.zeros(labels.size, dtype=np.int64)
    for start, stop, number in zip(starts, stops, np.unique(roots, return_inverse=True)[1], strict=True):
        out[start:stop] = number + 1
    return out.reshape(labels.shape)


@few
@given(SMALL.flatmap(strategies.instances), CONNECTIVITIES)
def test_connect_runs__equals_flood_fill_and_cc3d(labels, connectivity):
    got = numbered(labels, connectivity)
    np.testing.assert_array_equal(got, reference.components(labels, connectivity, order="C")[0])
    np.testing.assert_array_equal(got, cc3d.connected_components(labels, connectivity=connectivity))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_connect_runs__equals_scipy_on_a_tangle(connectivity, share):
    mask = np.random.default_rng(7).random((12, 11, 13)) < share
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    np.testing.assert_array_equal(numbered(mask.astype(np.uint8), connectivity), ndimage.label(mask, structure)[0])


def test_connect_runs__joins_arms_that_meet_only_at_the_end():
    comb = np.zeros((3, 9, 9), dtype=np.uint8)
    comb[1, :, ::2] = 1
    comb[1, -1] = 1
    assert numbered(comb, 6).max() == 1
    comb[1, -1] = 0
    assert numbered(comb, 26).max() == 5


@pytest.mark.parametrize("step", [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if i or j or k])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_connect_runs__joins_two_voxels_exactly_where_they_are_neighbours(step, connectivity):
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    labels[1, 1, 1] = labels[tuple(1 + s for s in step)] = 1
    neighbours = sum(map(abs, step)) <= {6: 1, 18: 2, 26: 3}[connectivity]
    assert numbered(labels, connectivity).max() == (1 if neighbours else 2)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_connect_runs__does_not_join_the_end_of_a_row_to_the_start_of_the_next(connectivity):
    labels = np.zeros((2, 3, 4), dtype=np.uint8)
    labels[0, 0, 3] = labels[0, 1, 0] = labels[0, 2, 3] = 1
    assert numbered(labels, connectivity).max() == 3


@few
@given(SMALL.flatmap(strategies.instances))
def test_measure_runs__equals_numpy_on_the_voxels(labels):
    starts, stops, values = runs_of(labels)
    ids, numbers = np.unique(values, return_inverse=True)
    sizes, low, high, sums = runs.measure_runs(starts, stops, numbers, len(ids), labels.shape[1], labels.shape[2])
    assert len(sizes) == len(ids)
    for n, value in enumerate(ids):
        voxels = np.argwhere(labels == value)
        assert sizes[n] == len(voxels)
        np.testing.assert_array_equal(low[n], voxels.min(0))
        np.testing.assert_array_equal(high[n], voxels.max(0))
        np.testing.assert_array_equal(sums[n], voxels.sum(0))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_connect_runs__with_connectivity_8_stays_in_its_slice(share):
    mask = np.random.default_rng(8).random((5, 12, 13)) < share
    structure = ndimage.generate_binary_structure(3, 2)
    structure[[0, 2]] = False
    structure[1] = True
    np.testing.assert_array_equal(numbered(mask.astype(np.uint8), 8), ndimage.label(mask, structure)[0])


@few
@given(st.data(), SMALL, st.sampled_from([np.uint8, np.int16, np.int32]))
def test_find_errors__are_the_runs_of_what_differs(data, shape, dtype):
    truth = data.draw(strategies.instances(shape)).astype(dtype)
    # a few errors, or another mask altogether, whose words are seldom equal
    flips = data.draw(strategies.masks(shape))
    prediction = np.where(flips, (truth == 0) * data.draw(st.integers(1, 3)), truth).astype(dtype)
    per_word = 8 // truth.itemsize
    flat = [volume.reshape(-1) for volume in (prediction, truth)]
    words = [line[: line.size // per_word * per_word].view(np.uint64) for line in flat]
    errors = np.where((prediction != 0) & (truth == 0), 1, np.where((prediction == 0) & (truth != 0), 2, 0))
    got = runs.find_error_runs(*flat, *words, per_word, shape[2])
    for found, expected in zip(got, runs_of(errors), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_find_errors__takes_all_values_but_0_for_foreground_and_finds_more_than_it_had_room_for():
    truth = np.full((6, 10, 20), 2, np.uint8)
    prediction = truth - 1
    prediction[:, :, ::2] = 0
    flat = [prediction.reshape(-1), truth.reshape(-1)]
    starts, stops, values = runs.find_error_runs(*flat, *(line.view(np.uint64) for line in flat), 8, 20)
    np.testing.assert_array_equal(starts, np.arange(0, 1200, 2))
    assert np.all(stops - starts == 1)
    assert np.all(values == 2)


# depth


@few
@given(SMALL.flatmap(strategies.masks), strategies.spacings(), BORDERS)
def test_squared_depths__equal_all_pairs_scipy_and_edt(mask, spacing, closed):
    if not mask.any():
        return
    got = depth.squared_depths(*geometry_of(mask), np.square(spacing), closed)
    np.testing.assert_allclose(got, reference.squared_distance_inside(mask, spacing, closed)[mask], rtol=1e-12)
    if not (mask.all() and not closed):
        padded = np.pad(mask, 1, constant_values=False) if closed else mask
        exact = ndimage.distance_transform_edt(padded, sampling=spacing)
        exact = exact[1:-1, 1:-1, 1:-1] if closed else exact
        np.testing.assert_allclose(np.sqrt(got), exact[mask], rtol=1e-12)
        rival = edt.edt(np.ascontiguousarray(mask), anisotropy=spacing, black_border=closed, parallel=1)
        np.testing.assert_allclose(np.sqrt(got), rival[mask], rtol=1e-5)


@few
@given(strategies.shapes(6).flatmap(strategies.instances), strategies.spacings(), BORDERS)
def test_squared_depths__take_a_neighbour_of_another_value_for_outside(labels, spacing, closed):
    mask = labels == 1
    if mask.any():
        got = depth.squared_depths(*geometry_of(mask), np.square(spacing), closed)
        np.testing.assert_allclose(got, reference.squared_distance_inside(mask, spacing, closed)[mask], rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (4, 4, 4)])
def test_squared_depths__of_a_full_volume_are_infinite_unless_the_border_is_outside(shape):
    geometry = geometry_of(filled(shape))
    assert np.all(np.isinf(depth.squared_depths(*geometry, np.ones(3), False)))
    assert np.all(np.isfinite(depth.squared_depths(*geometry, np.ones(3), True)))


def test_squared_depths__in_thick_slices_look_along_the_thin_axes_first():
    got = depth.squared_depths(*geometry_of(filled((9, 9, 9))), np.square([8.0, 1.0, 1.0]), True).reshape(9, 9, 9)
    assert got[4, 4, 4] == 25
    assert got[0, 4, 4] == 25  # the faces along the thick axis are 8 mm away
    got = depth.squared_depths(*geometry_of(filled((9, 9, 9))), np.square([1.0, 8.0, 8.0]), True).reshape(9, 9, 9)
    assert got[4, 4, 4] == 25
    assert got[0, 4, 4] == 1


@few
@given(SMALL.flatmap(strategies.masks), strategies.spacings(), BORDERS, st.permutations([0, 1, 2]))
def test_deepest_voxel__is_the_deepest_of_lowest_rank(mask, spacing, closed, axes):
    if not mask.any():
        return
    # the ranks of an array whose axes are permuted in memory
    ranks = np.empty(3, dtype=np.int64)
    ranks[list(axes)] = np.cumprod([1, *(mask.shape[a] for a in axes[:2])])
    index, squared = depth.deepest_voxel(*geometry_of(mask), np.square(spacing), closed, ranks, 1e-9)
    depths = reference.squared_distance_inside(mask, spacing, closed)
    assert squared == pytest.approx(depths.max(), rel=1e-12)
    deepest = np.argwhere(depths >= depths.max() * (1 - 1e-9))
    expected = deepest[np.argmin(deepest @ ranks)]
    assert np.unravel_index(index, mask.shape) == tuple(expected)


def test_deepest_voxel__ties_go_to_the_lowest_rank_whatever_the_order_of_runs():
    mask = np.zeros((3, 3, 9), dtype=bool)
    mask[1, 1, [1, 4, 7]] = mask[0, 2, 5] = mask[2, 0, 3] = True
    places = {(1, 1, 1): (0, 0, 1), (2, 0, 3): (-1, 0, 0), (0, 2, 5): (0, -1, 0), (1, 1, 7): (0, 0, -1)}
    for expected, ranks in places.items():
        index, squared = depth.deepest_voxel(*geometry_of(mask), np.ones(3), True, np.array(ranks), 1e-9)
        assert np.unravel_index(index, mask.shape) == expected
        assert squared == 1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_deepest_voxel__of_depths_equal_within_the_tolerance_the_lowest_rank_wins(mirrored, sign):
    mask = np.zeros((16, 7, 7), dtype=bool)
    mask[1:4, 1:6, 1:6] = True  # as deep as it is thin along the slow axis
    mask[8:13, 1:6, 2:5] = True  # as deep as it is thin along the fast axis
    mask = np.ascontiguousarray(mask[::-1]) if mirrored else mask
    deeper, earlier = not mirrored, sign > 0
    for tolerance, first_block in ((0.1, earlier), (1e-9, deeper)):
        index, squared = depth.deepest_voxel(
            *geometry_of(mask), np.array([1.0, 4.0, 0.95]), True, sign * np.array([49, 7, 1]), tolerance
        )
        assert (index < 8 * 49) == first_block
        assert squared == 4


@few
@given(SMALL.flatmap(strategies.masks), BORDERS)
def test_is_rim__is_where_the_depth_is_one_voxel(mask, closed):
    if not mask.any():
        return
    got = depth.is_rim(*geometry_of(mask), closed)
    np.testing.assert_array_equal(got, reference.squared_distance_inside(mask, (1, 1, 1), closed)[mask] == 1)


@few
@given(SMALL.flatmap(strategies.masks), BORDERS)
def test_is_rim__equals_scipys_erosion(mask, closed):
    if not mask.any():
        return
    eroded = ndimage.binary_erosion(mask, border_value=not closed)
    np.testing.assert_array_equal(depth.is_rim(*geometry_of(mask), closed), ~eroded[mask])


# uptake


def floats(dtype):
    """Values that a selection on bit patterns could order wrongly."""
    info = np.finfo(dtype)
    odd = [0.0, -0.0, info.smallest_subnormal, -info.smallest_subnormal, info.tiny, -info.tiny, info.max, info.min]
    odd += [1.0, -1.0, float(np.nextafter(dtype(1), dtype(2)))]
    usual = st.floats(allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize)
    return st.lists(st.sampled_from([float(v) for v in odd]) | usual, min_size=1, max_size=40)


@few
@given(st.data(), st.sampled_from([np.float32, np.float64]))
def test_order_statistic__equals_sorting(data, dtype):
    values = np.array(data.draw(floats(dtype)), dtype)
    excluded = data.draw(st.sets(st.integers(0, values.size - 1), max_size=values.size - 1))
    ordered = np.sort(np.delete(values, sorted(excluded)))
    rank = data.draw(st.integers(0, ordered.size - 1))
    assert selected(values, sorted(excluded), rank) == ordered[rank]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_statistic__finds_every_rank_among_signs_zeros_and_ties(dtype):
    values = np.array([3, -0.0, 0.0, -2, -2, 3, np.finfo(dtype).smallest_subnormal, -1e-30, 1e30, -1e30], dtype)
    excluded = [0, 7]
    ordered = np.sort(np.delete(values, excluded))
    assert [selected(values, excluded, rank) for rank in range(8)] == ordered.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_statistic__equals_partition_on_neighbouring_bit_patterns(dtype):
    kind = np.uint32 if dtype == np.float32 else np.uint64
    first = np.array([1.0], dtype).view(kind)[0]
    values = (first + np.array([5, 0, 3, 65536, 65537, 2, 131072], kind)).view(dtype)
    for rank in range(values.size):
        assert selected(values, [], rank) == np.partition(values, rank)[rank]


def selected(values, excluded, rank):
    kind = np.uint32 if values.itemsize == 4 else np.uint64
    sign, digits = np.uint64(1 << (8 * values.itemsize - 1)), values.itemsize // 2
    excluded = np.array(excluded, dtype=np.int64)
    pattern = uptake.order_statistic(values.view(kind), sign, digits, excluded, rank)
    return np.array([pattern], np.uint64).astype(kind).view(values.dtype)[0]


@few
@given(st.integers(0, 400), st.integers(0, 99), st.sampled_from([np.float32, np.float64]), st.integers(-4, 4))
def test_collect_above__equals_numpy(size, seed, dtype, floor):
    flat = np.random.default_rng(seed).integers(-3, 4, size).astype(dtype)
    got = uptake.collect_above(flat, dtype(floor), np.finfo(dtype).min)
    np.testing.assert_array_equal(got, np.flatnonzero(flat > floor))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("floor", [-np.inf, -1.0, 0.0, 5.0])
@pytest.mark.parametrize("at", [0, 127, 128, 255, 256, 299])
def test_collect_above__always_collects_what_is_not_finite(dtype, odd, floor, at):
    flat = np.zeros(300, dtype)
    flat[at] = odd
    expected = np.arange(300) if floor < 0 else [at]
    np.testing.assert_array_equal(uptake.collect_above(flat, dtype(floor), np.finfo(dtype).min), expected)


def test_collect_above__keeps_the_lowest_number_itself_out():
    flat = np.full(200, np.finfo(np.float32).min)
    assert len(uptake.collect_above(flat, np.float32(0), np.finfo(np.float32).min)) == 0


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1152, 2500])
def test_collect_above__collects_more_than_it_had_room_for(size):
    got = uptake.collect_above(np.ones(size, np.float32), np.float32(0), np.finfo(np.float32).min)
    np.testing.assert_array_equal(got, np.arange(size))


# margin and tables


def steps_within(reach, squared):
    axis = np.arange(-reach, reach + 1)
    steps = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return steps[(steps**2).sum(1) <= squared]


@few
@given(SMALL.flatmap(strategies.masks), st.integers(0, 2))
def test_is_near__equals_a_dilation_by_the_same_offsets(mask, reach):
    offsets = steps_within(reach, reach**2)
    voxels = np.argwhere(np.ones(mask.shape, dtype=bool))
    got = margin.is_near(mask.astype(np.uint8).reshape(-1), np.array(mask.shape), voxels, offsets)
    ball = np.zeros((2 * reach + 1,) * 3, dtype=bool)
    ball[tuple((offsets + reach).T)] = True
    np.testing.assert_array_equal(got.reshape(mask.shape), ndimage.binary_dilation(mask, ball))


def test_is_near__does_not_wrap_around_the_border():
    labels = one_voxel((3, 3, 3), (0, 0, 2)).astype(np.uint8).reshape(-1)
    offsets = steps_within(1, 1)
    voxels = np.array([[0, 1, 0], [0, 0, 0], [2, 2, 2], [0, 1, 2]])
    assert margin.is_near(labels, np.array([3, 3, 3]), voxels, offsets).tolist() == [False, False, False, True]


@few
@given(st.data(), SMALL, strategies.layouts(), st.sampled_from([np.float32, np.float64]))
def test_highest_mean__equals_means_by_hand_in_any_layout(data, shape, layout, dtype):
    values = data.draw(strategies.uptakes(shape)).astype(dtype) - dtype(1)
    mask = data.draw(strategies.masks(shape))
    if not mask.any():
        return
    offsets = steps_within(1, 2)
    means = []
    for voxel in np.argwhere(mask):
        around = voxel + offsets
        around = around[np.all((around >= 0) & (around < shape), axis=1)]
        means.append(values[tuple(around.T)].astype(np.float64).mean())
    got = tables.highest_mean(layout(values), np.argwhere(mask), offsets)
    assert got == pytest.approx(max(means), rel=1e-12, abs=1e-15)


def test_highest_mean__of_negative_values_is_negative():
    values = np.full((2, 2, 2), -3.0, np.float32)
    assert tables.highest_mean(values, np.array([[0, 0, 0]]), np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0]])) == -3


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_highest_mean__is_not_finite_where_a_neighbour_is_not(odd, at):
    values = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    values[at] = odd
    centres = np.array([[1, 0, 0], [2, 0, 0]])
    assert not np.isfinite(tables.highest_mean(values, centres, np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0]])))


@few
@given(st.data(), SMALL)
def test_overlap_runs__equals_comparing_all_pairs(data, shape):
    one, other = (runs_of(data.draw(strategies.instances(shape))) for _ in range(2))
    pairs = []
    for a in range(len(one[0])):
        for b in range(len(other[0])):
            common = min(one[1][a], other[1][b]) - max(one[0][a], other[0][b])
            pairs += [[a, b, common]] if common > 0 else []
    assert overlaps.overlap_runs(one[0], one[1], other[0], other[1]).tolist() == pairs

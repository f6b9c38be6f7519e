"""Hot voxels are those above numpy's percentile, exactly, however the threshold was found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.errors import GeometryError, ImageError
from clicksim.lesions import find_lesions, hot
from clicksim.lesions.hot import hot_voxels, join_voxels, lesion_indices, without
from clicksim.simulate.clicks.click_rules import simulate_clicks
from tests import reference, strategies

PERCENTILES = st.sampled_from([0.0, 50.0, 98.0, 99.75, 100.0]) | st.floats(0, 100)
UPTAKE_DTYPES = st.sampled_from(["f2", "f4", "f8", "g", ">f4", "u1", "i2", ">i2", "u2", "i4", "i8"])


def found(uptake, label, percentile, **kwargs):
    """The hot voxels as a mask."""
    lesions = find_lesions(label, instances="components")
    memory, indices = hot_voxels(uptake, lesions, percentile=percentile, **kwargs)
    assert np.all(np.diff(indices) > 0)
    out = np.zeros(np.shape(uptake), dtype=bool)
    out[tuple(memory.coordinates(indices).T)] = True
    return out


def expected(uptake, label, percentile):
    if np.all(label != 0):
        return np.zeros(np.shape(uptake), dtype=bool)
    threshold = reference.percentile_outside(uptake, label, percentile)
    return (uptake.astype(np.float64) > threshold) & (label == 0)


def spread(kind, seed, shape):
    """An uptake with many values, few values, or values of many orders of magnitude, and negative ones."""
    draws = np.random.default_rng(seed)
    if kind == "normal":
        return draws.normal(0, 3, shape)
    if kind == "tied":
        return draws.integers(-2, 3, shape).astype(float)
    if kind == "constant":
        return np.full(shape, float(draws.integers(-2, 3)))
    if kind == "wide":
        return np.exp(draws.normal(0, 4, shape)) * draws.choice([-1, 1], shape)
    return np.where(draws.random(shape) < 0.97, 0.0, draws.random(shape) * 50)  # "air"


KINDS = st.sampled_from(["normal", "tied", "constant", "wide", "air"])


@given(st.data(), strategies.shapes(), KINDS, st.integers(0, 999), PERCENTILES, UPTAKE_DTYPES)
def test_hot_voxels__are_those_above_numpys_percentile(data, shape, kind, seed, percentile, dtype):
    values = np.clip(spread(kind, seed, shape), -60000, 60000)
    uptake = (np.abs(values) % 200 if "u" in dtype else values).astype(dtype)
    label = data.draw(strategies.masks(shape))
    layout, other_layout = data.draw(strategies.layouts()), data.draw(strategies.layouts())
    np.testing.assert_array_equal(
        found(layout(uptake), other_layout(label), percentile), expected(uptake, label, percentile)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("percentile", [0, 50, 98, 99.75, 100])
@pytest.mark.parametrize("kind", ["normal", "tied", "constant", "wide", "air"])
def test_hot_voxels__equal_numpy_where_the_sample_is_a_part_of_the_volume(kind, percentile, dtype):
    uptake = spread(kind, 3, (53, 61, 67)).astype(dtype)
    label = np.zeros(uptake.shape, np.uint8)
    label[20:30, 10:40, 5:9] = 1
    np.testing.assert_array_equal(
        found(np.asfortranarray(uptake), label, percentile), expected(uptake, label, percentile)
    )


def refuse_bracket(monkeypatch):
    """Note each use of the radix selection, which takes over where the bracket fails."""
    used, select = [], hot._order_statistic
    monkeypatch.setattr(hot, "_order_statistic", lambda *args: used.append(1) or select(*args))
    return used


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hot_voxels__survive_ties_exactly_at_the_percentile(monkeypatch, dtype):
    used = refuse_bracket(monkeypatch)
    uptake = np.zeros((20, 20, 20), dtype)
    uptake[0, 0, :5] = 3
    assert found(uptake, np.zeros(uptake.shape), 99.75).sum() == 5
    assert used


def test_hot_voxels__survive_a_layout_that_hides_the_hot_part_from_the_sample(monkeypatch):
    used = refuse_bracket(monkeypatch)
    shape = (64, 64, 65)
    step = max(1, int(np.prod(shape)) // hot.SAMPLE) | 1
    flat = np.random.default_rng(0).random(int(np.prod(shape))).astype(np.float32)
    flat[1::step] += 10  # a third of the volume is hot, and no sampled voxel
    assert step == 5
    flat[::step] += 100  # the sampled ones are hotter still, so the bracket lies too high for a low percentile
    uptake, label = flat.reshape(shape), np.zeros(shape)
    for percentile in (30, 50, 70, 99.75):
        np.testing.assert_array_equal(found(uptake, label, percentile), expected(uptake, label, percentile))
    assert used
    flat[::step] -= 200  # the other way round: the sample sees nothing of the hot part
    for percentile in (50, 70, 99.75):
        np.testing.assert_array_equal(found(uptake, label, percentile), expected(uptake, label, percentile))


@given(strategies.shapes(), KINDS, st.integers(0, 99), PERCENTILES, st.sampled_from([np.float32, np.float64]))
def test_hot_voxels__equal_numpy_without_any_bracket(shape, kind, seed, percentile, dtype):
    uptake = spread(kind, seed, shape).astype(dtype)
    label = np.random.default_rng(seed).random(shape) < 0.3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot, "_bracket", lambda flat, tail: float(flat.max()))
        np.testing.assert_array_equal(found(uptake, label, percentile), expected(uptake, label, percentile))


def test_hot_voxels__interpolate_and_compare_in_double_precision():
    one = np.float32(1)
    uptake = np.array([1, 1, np.nextafter(one, np.float32(2)), 5], np.float32).reshape(4, 1, 1)
    assert found(uptake, np.zeros((4, 1, 1)), 50).ravel().tolist() == [False, False, True, True]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_interpolate__rounds_as_numpy_does(lower, step, fraction):
    ends = np.array([lower, lower + step])
    assert hot._interpolate(ends[0], ends[1], fraction) == np.quantile(ends, fraction)


def test_hot_voxels__of_tiny_and_of_full_volumes():
    one = np.ones((1, 1, 1), np.float32)
    assert found(one, np.zeros((1, 1, 1)), 99.75).sum() == 0
    assert found(one, np.ones((1, 1, 1)), 99.75).sum() == 0
    two = np.array([1, 2], np.float32).reshape(2, 1, 1)
    assert found(two, np.zeros((2, 1, 1)), 99.75).ravel().tolist() == [False, True]
    assert found(two, np.array([0, 1]).reshape(2, 1, 1), 0).sum() == 0


def test_hot_voxels__above_a_fixed_uptake_need_no_percentile():
    uptake = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    label = uptake == 26
    np.testing.assert_array_equal(found(uptake, label, 0, suv=20.0), (uptake > 20) & ~label)
    np.testing.assert_array_equal(found(uptake.astype(int), label, 0, suv=20.5), (uptake > 20) & ~label)
    assert found(uptake, label, 0, suv=1e39).sum() == 0  # above anything that float32 holds


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("suv", [0.0, 1.5])
@pytest.mark.parametrize("place", ["cold", "hot", "lesion"])
def test_hot_voxels__refuse_what_is_not_finite_wherever_it_lies(bad, dtype, suv, place):
    uptake = np.random.default_rng(0).random((9, 9, 9)).astype(dtype)
    uptake[3, 3, 3:6] = 9
    label = np.zeros(uptake.shape)
    label[6, 6, 6:8] = 1
    at = {"cold": (1, 2, 4), "hot": (3, 3, 4), "lesion": (6, 6, 7)}[place]
    uptake[at] = bad
    for layout in (strategies.as_c, strategies.as_f, strategies.as_reversed):
        with pytest.raises(
            ImageError, match=rf"1 voxels that are not finite, at \({at[0]}, {at[1]}, {at[2]}\) \(case x\)"
        ):
            found(layout(uptake), label, 99.75, suv=suv, where="x")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 50, 500, 7999, 8000])
@pytest.mark.parametrize("percentile", [0, 50, 99.75, 100])
def test_hot_voxels__refuse_any_number_of_values_that_are_not_finite(bad, count, percentile):
    uptake = np.random.default_rng(0).random(8000).astype(np.float32)
    uptake[:count] = bad
    with pytest.raises(ImageError, match=f"{count} voxels that are not finite, at \\(0, 0, 0\\)"):
        found(uptake.reshape(20, 20, 20), np.zeros((20, 20, 20)), percentile)


@pytest.mark.parametrize("dtype", [bool, complex, "U1", object])
def test_hot_voxels__refuse_uptake_that_is_no_number(dtype):
    with pytest.raises(ImageError, match="uptake must be real numbers"):
        found(np.zeros((2, 2, 2), dtype), np.zeros((2, 2, 2)), 50)


@pytest.mark.parametrize("protocol", ["autopet-iv@1", "autopet-iv@2"])
@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 3), (3, 3, 3, 1)])
def test_simulate_clicks__refuses_an_uptake_of_another_shape(protocol, shape):
    with pytest.raises(GeometryError, match="uptake and mask are on different grids") as refused:
        simulate_clicks(np.ones((3, 3, 3)), uptake=np.ones(shape), spacing=(1, 1, 1), protocol=protocol, case_id="x_1")
    assert "x_1" in str(refused.value)


@given(st.data(), strategies.shapes(6), strategies.layouts(), strategies.layouts())
def test_lesion_indices__name_the_same_voxels_in_another_layout(data, shape, layout, other_layout):
    mask = data.draw(strategies.masks(shape))
    lesions = find_lesions(layout(mask))
    memory, _ = hot_voxels(other_layout(np.zeros(shape, np.float32)), lesions, percentile=50)
    indices = lesion_indices(lesions, memory)
    assert np.all(np.diff(indices) > 0)
    seen = np.zeros(shape, dtype=bool)
    seen[tuple(memory.coordinates(indices).T)] = True
    np.testing.assert_array_equal(seen, mask)
    np.testing.assert_array_equal(memory.indices(memory.coordinates(indices)), indices)
    joined = join_voxels(memory, indices)
    numbers, count = reference.components(mask)
    assert len(joined) == count
    for number, component in enumerate(joined, start=1):
        np.testing.assert_array_equal(component.voxels, np.argwhere(numbers == number))


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 25)))
def test_without__is_the_difference_of_sorted_lists(indices, excluded):
    got = without(np.array(sorted(indices), dtype=np.int64), np.array(sorted(excluded), dtype=np.int64))
    assert got.tolist() == sorted(indices - excluded)

"""Scribbles from a label: the published rule against its slow twin and real files, the mended rule by properties."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clicksim
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.simulate.scribbles.published_strokes import fullest_slice
from tests import golden_scribbles, reference, reference_v, strategies

METHODS = ("centerline", "random", "boundary")
SPACING = (2.0, 2.0, 3.0)
NO_SHELL = {"background": "none"}


def published(label, **settings_):
    prompts = clicksim.simulate_scribbles(label, protocol="autopet-v@1", **settings_)
    return {"tumor": prompts.foreground.tolist(), "background": prompts.background.tolist()}


def mended(label, **settings_):
    return clicksim.simulate_scribbles(label, spacing=settings_.pop("spacing", SPACING), **settings_)


def voxels_of(prompts):
    return [prompt.voxels for prompt in prompts]


# --- the published rule


@settings(max_examples=150)
@given(strategies.instances(), strategies.layouts(), strategies.dtypes(), st.sampled_from(METHODS), st.integers(0, 99))
def test_simulate_scribbles__equals_the_slow_twin(labels, layout, dtype, strategy, seed):
    labels = labels.astype(dtype)
    twin = reference_v.scribbles_from_label(labels, strategy=strategy, seed=seed)
    assert published(layout(labels), strategy=strategy, seed=seed) == twin


@pytest.mark.parametrize("strategy", METHODS)
@pytest.mark.parametrize("seed", range(6))
def test_simulate_scribbles__equals_the_slow_twin_on_many_large_lesions(strategy, seed):
    draws = np.random.default_rng(seed)
    label = np.zeros((34, 30, 22), np.uint8)
    for value in range(1, 10):
        i, j, k = (int(draws.integers(0, side)) for side in label.shape)
        radii = draws.uniform(1, 6, 3)
        far = sum(((axis - at) / r) ** 2 for axis, at, r in zip(np.indices(label.shape), (i, j, k), radii, strict=True))
        label[far <= 1] = value if seed % 2 else 1
    for layout in (strategies.as_c, strategies.as_f, strategies.as_middle):
        got = published(layout(label), strategy=strategy, n_components=3)
        assert got == reference_v.scribbles_from_label(label, strategy=strategy, k=3)


def test_simulate_scribbles__casts_labels_to_eight_bits_as_published():
    label = np.zeros((9, 9, 3), np.int32)
    label[1:3, 1:7, 1], label[5:8, 1:7, 1] = 256, 257  # 0 and 1 in eight bits
    got = published(label)
    assert got == reference_v.scribbles_from_label(label)
    assert min(i for i, _, _ in got["tumor"]) >= 5
    assert min(i for i, _, _ in mended(label, **NO_SHELL).foreground) < 3


@pytest.mark.parametrize("protocol", ["autopet-v@1", "autopet-v@2"])
def test_simulate_scribbles__edges_of_the_volume(protocol):
    def run(label):
        return clicksim.simulate_scribbles(label, spacing=SPACING, protocol=protocol)

    assert len(run(np.zeros((5, 5, 5), np.uint8))) == 0
    full = run(np.ones((4, 5, 3), np.uint8))  # no room for a ring
    assert len(full.foreground) > 0
    assert len(full.background) == 0
    for shape in ((1, 1, 1), (1, 6, 1), (1, 1, 7), (6, 1, 1)):
        label = np.zeros(shape, np.uint8)
        label[0, 0, 0] = 1
        assert run(label).foreground.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.5, np.inf])
@pytest.mark.parametrize("protocol", ["autopet-v@1", "autopet-v@2"])
def test_simulate_scribbles__refuses_values_that_are_no_labels(protocol, value):
    with pytest.raises(ImageError, match="labels must be"):
        clicksim.simulate_scribbles(np.full((4, 4, 4), value), spacing=SPACING, protocol=protocol)


def test_simulate_scribbles__refuses_what_it_cannot_do():
    label = np.ones((4, 4, 4), np.uint8)
    with pytest.raises(SettingError, match="own rule for instances"):
        published(label, instances="labels")
    with pytest.raises(GeometryError, match="needs the voxel size"):
        clicksim.simulate_scribbles(label)
    with pytest.raises(GeometryError, match="three axes"):
        clicksim.simulate_scribbles(label[0], spacing=SPACING)
    with pytest.raises(SettingError, match="strategy"):
        mended(label, strategy="centreline")
    with pytest.raises(TypeError):
        mended(label, seed=1.5)


@pytest.mark.real
def test_simulate_scribbles__equals_the_published_file_of_an_fdg_case_point_by_point(realdata: Path):
    folder = realdata / "autopet" / "fdg_0b57b247b6"
    (image,), (file,) = folder.glob("*.nii.gz"), folder.glob("*_lesion-clicks.json")
    points = json.loads(file.read_text())["points"]
    wanted = {name: [p["point"] for p in points if p["name"] == name] for name in ("tumor", "background")}
    array = clicksim.read_image(image).array.astype(np.uint8)
    assert len(wanted["tumor"]) > 10
    assert published(array) == wanted
    assert published(np.ascontiguousarray(array)) == wanted


# --- faults: what @1 keeps, and what @2 mends


def block(shape=(20, 20, 9), *boxes):
    label = np.zeros(shape, np.uint8)
    for box in boxes:
        label[box] = 1
    return label


def disk(radius, at, k, shape=(30, 30, 9)):
    """A disk across the last axis; the skeleton of most is one pixel."""
    i, j, z = np.indices(shape)
    return (((i - at[0]) ** 2 + (j - at[1]) ** 2 <= radius**2) & (z == k)).astype(np.uint8)


def test_q14__published_fills_a_blob_without_a_line_and_mended_gives_one_pixel():
    blob = disk(5, (9, 12), 4)
    assert len(published(blob)["tumor"]) == blob.sum() == 81
    assert mended(blob, **NO_SHELL).foreground.tolist() == [[9, 12, 4]]


def test_q14__published_fills_all_parts_of_the_cross_section():
    # one component whose slice has two parts: neither has a line, both are filled
    label = disk(4.2, (9, 8), 3) | disk(5, (9, 21), 3) | block((30, 30, 9), np.s_[9, 8:22, 4])
    assert len(published(label)["tumor"]) == 57 + 81
    assert mended(label, **NO_SHELL).foreground.tolist() == [[9, 21, 3]]  # the larger part


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_q14__a_mended_centre_line_keeps_a_pixel_however_short_it_is(length):
    label = block((9, 9, 3), np.s_[2 : 2 + length, 4, 1])
    (stroke,) = mended(label, **NO_SHELL)
    assert len(stroke.voxels) >= 1
    (stroke,) = mended(label, trim=0.49, **NO_SHELL)
    assert len(stroke.voxels) >= 1


def test_q15__published_strokes_of_equal_shapes_are_equal_and_mended_ones_differ():
    label = block((40, 40, 9), np.s_[2:12, 2:12, 4], np.s_[22:32, 22:32, 4])
    strokes = published(label, strategy="random")["tumor"]
    half = len(strokes) // 2
    assert (np.array(strokes[half:]) - np.array(strokes[:half]) == (20, 20, 0)).all()
    one, two = (np.array(v) for v in voxels_of(mended(label, strategy="random", **NO_SHELL)))
    assert len(one) != len(two) or len(np.unique(np.abs(one - two), axis=0)) > 1


def test_q15__a_random_line_of_two_pixels_is_one_pixel_as_published_and_both_where_mended():
    label = block((9, 9, 3), np.s_[3:5, 4, 1])
    assert len(published(label, strategy="random")["tumor"]) == 1  # the two draws of seed 42 are 0 and 0
    assert len(mended(label, strategy="random", **NO_SHELL).foreground) == 2


def test_q17__slices_lie_across_the_last_axis_as_published_and_across_any_where_mended():
    label = block((15, 15, 15), np.s_[3:12, 4:11, 5:10])
    assert len({k for _, _, k in published(label)["tumor"]}) == 1
    for axis in range(3):
        foreground, background = mended(label, axis=axis)
        assert len({voxel[axis] for voxel in foreground.voxels}) == 1 < len(foreground.voxels)
        assert len({voxel[axis] for voxel in background.voxels}) == 1
    with pytest.raises(SettingError, match="axis"):
        published(label, axis=1)


def test_an_array_in_the_order_z_y_x_gets_sagittal_strokes_as_published_and_axial_ones_by_the_axis():
    label = block((15, 15, 15), np.s_[3:12, 4:11, 5:10])
    assert len({x for _, _, x in published(label.T)["tumor"]}) == 1
    assert len({z for z, _, _ in mended(label.T, axis=0, spacing=SPACING[::-1], **NO_SHELL).foreground.tolist()}) == 1


def test_q37__the_seed_reaches_the_choice_of_lesions_only_where_mended():
    label = block((40, 40, 5), *(np.s_[a : a + 2, b : b + 2, 2] for a in range(2, 40, 6) for b in range(2, 40, 6)))
    assert len({json.dumps(published(label, seed=seed)) for seed in range(6)}) == 1
    chosen = {tuple(s.lesion for s in mended(label, seed=seed) if s.foreground) for seed in range(6)}
    assert len(chosen) == 6


def test_published_merges_strokes_and_mended_keeps_them_apart():
    label = block((30, 30, 9), np.s_[2:12, 2:6, 4], np.s_[15:25, 15:19, 4])
    assert len(clicksim.simulate_scribbles(label, protocol="autopet-v@1")) == 2  # one of each polarity
    assert [s.lesion for s in mended(label, **NO_SHELL)] in ([1, 2], [2, 1])


# --- the mended rule


@settings(max_examples=100)
@given(
    strategies.instances(),
    strategies.layouts(),
    strategies.spacings(),
    st.sampled_from(METHODS),
    st.integers(0, 2),
    st.sampled_from([0.0, 3.0, 9.0]),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.integers(0, 99),
)
def test_simulate_scribbles__mended_strokes_stay_in_their_lesion_or_shell(
    labels, layout, spacing, strategy, axis, thickness, tremor, seed
):
    given_ = {"strategy": strategy, "axis": axis, "thickness_mm": thickness, "tremor_mm": tremor, "seed": seed}
    prompts = mended(layout(labels), spacing=spacing, **given_)
    assert voxels_of(prompts) == voxels_of(mended(labels, spacing=spacing, **given_))  # whatever the layout
    lesions = {lesion.id: lesion for lesion in clicksim.find_lesions(labels)}
    assert sum(s.foreground for s in prompts) == min(5, len(lesions))
    for stroke in prompts:
        assert 0 < len(stroke.voxels) == len(set(stroke.voxels))
        assert len({voxel[axis] for voxel in stroke.voxels}) == 1
        if stroke.foreground:
            assert all(lesions[stroke.lesion].holds(voxel) for voxel in stroke.voxels)
        else:
            mine = np.asarray(stroke.voxels) * spacing
            far = np.linalg.norm(mine[:, None] - (np.argwhere(labels) * spacing)[None], axis=2).min(1)
            assert np.all((far > 4 - 1e-4) & (far < 12 + 1e-4))


@given(strategies.masks(), strategies.layouts(), st.integers(0, 2))
def test_fullest_slice__is_the_first_with_most_voxels(mask, layout, axis):
    for component in clicksim.find_lesions(layout(mask)):
        place, pixels = fullest_slice(component, axis)
        voxels = component.voxels
        assert place == np.argmax(np.bincount(voxels[:, axis]))
        np.testing.assert_array_equal(pixels, np.delete(voxels[voxels[:, axis] == place], axis, axis=1))


@pytest.mark.parametrize("strategy", METHODS)
def test_simulate_scribbles__mended_strokes_without_tremor_hang_together(strategy):
    label = block((40, 40, 9), np.s_[3:30, 5:14, 2:7], np.s_[20:30, 5:35, 2:7])
    for seed in range(8):
        (stroke,) = mended(label, strategy=strategy, seed=seed, **NO_SHELL)
        assert all(max(abs(a - b) for a, b in zip(p, q, strict=True)) == 1 for p, q in pairwise(stroke.voxels))


def test_simulate_scribbles__thickness_and_tremor_are_lengths_in_mm():
    label = block((90, 60, 3), np.s_[2:88, 10:51, 1])
    (thin,), (wide,) = (mended(label, thickness_mm=t, spacing=(1, 1, 3), **NO_SHELL) for t in (0.0, 9.0))
    assert set(thin.voxels) < set(wide.voxels)
    line, broad = np.array(thin.voxels), np.array(wide.voxels)
    reach = np.linalg.norm(broad[:, None] - line[None], axis=2).min(1)
    assert 4 <= reach.max() <= 4.5
    for amplitude in (1.0, 4.0):
        off = []
        for seed in range(12):
            (shaken,) = mended(label, tremor_mm=amplitude, spacing=(1, 1, 3), seed=seed, **NO_SHELL)
            off.append(np.abs(np.array(shaken.voxels)[:, 1] - np.median(line[:, 1])).mean())
        # the mean of a normal deviate's size is 0.8 of its standard deviation
        assert 0.5 * amplitude < np.mean(off) < 1.1 * amplitude


def test_simulate_scribbles__thickness_reaches_pixels_at_exactly_half_of_it():
    label = block((60, 20, 3), np.s_[2:58, 2:18, 1])
    given_ = {"spacing": (0.1, 0.1, 1), **NO_SHELL}
    (thin,), (wide,) = (mended(label, thickness_mm=t, **given_) for t in (0.0, 0.6))  # 0.3 / 0.1 is below 3
    rows = [{j for _, j, _ in stroke.voxels} for stroke in (thin, wide)]
    assert (min(rows[0]) - min(rows[1]), max(rows[1]) - max(rows[0])) == (3, 3)


def test_simulate_scribbles__a_centre_line_is_the_longest_in_mm_and_not_in_voxels():
    label = block((5, 30, 15), np.s_[2, 2:23, 7], np.s_[2, 12, 2:13])  # 21 voxels of 1 mm, 11 of 8 mm
    (stroke,) = mended(label, axis=0, spacing=(1, 1, 8), **NO_SHELL)
    assert len({k for _, _, k in stroke.voxels}) > 5


def test_simulate_scribbles__other_cases_seeds_and_lesions_have_streams_of_their_own():
    label = block((40, 40, 5), np.s_[2:20, 2:20, 2])
    more = label.copy()
    more[30:38, 30:38, 2] = 1
    first = mended(label, strategy="random", **NO_SHELL)
    assert voxels_of(first)[0] in voxels_of(mended(more, strategy="random", **NO_SHELL))
    others = [mended(label, strategy="random", **NO_SHELL, **key) for key in ({"seed": 1}, {"case_id": "b"})]
    assert len({voxels_of(p)[0] for p in [first, *others]}) == 3


def test_simulate_scribbles__says_where_a_shell_has_no_room():
    prompts = mended(np.ones((6, 6, 6), np.uint8))
    assert len(prompts.background) == 0
    assert any("lesion 1" in note and "shell" in note for note in prompts.notes)


def test_simulate_scribbles__warns_of_settings_without_effect():
    label = block((20, 20, 9), np.s_[5:15, 5:15, 4])
    for idle in ({"kind": "click"}, {"n_prompts": 3}, {"walk": 0.5}, {"background": "none", "shell_mm": [1, 2]}):
        with pytest.warns(UserWarning, match="has no effect"):
            mended(label, **idle)


def test_slow_twin__tells_orders_apart():
    # the twin itself: F and C numbering give other components where more than five are there to draw from
    label = np.zeros((9, 9, 9), np.uint8)
    label[::4, ::4, ::4] = 1
    assert not np.array_equal(reference.components(label, 26, "F")[0], reference.components(label, 26, "C")[0])


@pytest.mark.parametrize("name", golden_scribbles.CASES)
def test_golden__scribbles_and_corrections_come_out_as_stored(name):
    stored = json.loads((golden_scribbles.FOLDER / f"{name}.json").read_text())
    assert golden_scribbles.vectors(name) == stored

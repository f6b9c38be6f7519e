"""Corrections: the published loop's stroke against its slow twin, its faults, and the mended rule by properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clicksim
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.kernels import depth
from clicksim.simulate.error_regions import KeptRegions, find_errors, find_regions
from tests import reference, reference_v, strategies

METHODS = ("centerline", "random", "boundary")
KINDS = ("missed", "under", "false", "over", "merged")
SPACING = (2.0, 2.0, 3.0)
V1 = {"protocol": "autopet-v@1"}


def published(prediction, truth, **settings_):
    """The published correction in the slow twin's form; None for none."""
    prompts = clicksim.correct(prediction, truth, **V1, **settings_)
    if not len(prompts):
        assert len(prompts.notes) == 1  # it says why
        return None
    (stroke,) = prompts
    return "tumor" if stroke.foreground else "background", [list(v) for v in stroke.voxels]


def mended(prediction, truth, **settings_):
    return clicksim.correct(prediction, truth, spacing=settings_.pop("spacing", SPACING), **settings_)


def block(*boxes, shape=(30, 30, 9)):
    volume = np.zeros(shape, np.uint8)
    for box in boxes:
        volume[box] = 1
    return volume


NOTHING = block()


def cases():
    """Prediction and truth: unrelated, shifted, the truth with errors, or equal."""

    def beside(drawn):
        truth, seed, kind = drawn
        draws = np.random.default_rng(seed)
        if kind == "shifted":
            return np.roll(truth, 1, int(draws.integers(3))), truth
        if kind == "other":
            return np.roll(truth[::-1], 2, 1), truth
        share = {"equal": 0, "few": 0.02, "many": 0.3}[kind]
        return np.where(draws.random(truth.shape) < share, truth == 0, truth), truth

    kinds = st.sampled_from(["equal", "few", "many", "shifted", "other"])
    return st.tuples(strategies.instances(), st.integers(0, 2**32 - 1), kinds).map(beside)


# --- the published rule


@settings(max_examples=200)
@given(cases(), strategies.layouts(), strategies.layouts(), strategies.dtypes(), st.sampled_from(METHODS))
def test_correct__published_stroke_equals_the_slow_twin(case, layout, other, dtype, strategy):
    prediction, truth = case
    got = published(layout(prediction.astype(dtype)), other(truth), strategy=strategy)
    assert got == reference_v.correction(prediction, truth, strategy=strategy)


@pytest.mark.parametrize("seed", range(12))
def test_correct__published_stroke_equals_the_slow_twin_on_larger_regions(seed):
    draws = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = block(shape=(26, 24, 11))
        for _ in range(4):
            i, j, k = (int(draws.integers(0, side - 1)) for side in mask.shape)
            mask[i : i + draws.integers(1, 12), j : j + draws.integers(1, 12), k : k + draws.integers(1, 4)] = 1
        masks.append(mask)
    for strategy in METHODS:
        wanted = reference_v.correction(*masks, strategy=strategy, seed=seed)
        for layout in (strategies.as_c, strategies.as_f, strategies.as_middle):
            assert published(layout(masks[0]), masks[1], strategy=strategy, seed=seed) == wanted


def test_correct__published_ties_take_the_first_slice_and_then_i_fastest():
    truth = block(np.s_[2, 9, 5], np.s_[9, 2, 5], np.s_[9, 9, 7], np.s_[20, 20, 3])
    prediction = block(np.s_[20, 20, 3], np.s_[25, 25, 1])
    assert published(prediction, truth) == ("tumor", [[9, 2, 5]])
    assert published(strategies.as_c(prediction), strategies.as_f(truth)) == ("tumor", [[9, 2, 5]])


# --- faults: what @1 keeps, and what @2 mends


def lopsided():
    """False positives: a block of 6,400 voxels with a stroke of a few. False negatives: a streak of 116 voxels."""
    false, streak = block(np.s_[8:28, 8:28, 5:21], shape=(70, 70, 30)), block(np.s_[50:52, 5:63, 8], shape=(70, 70, 30))
    return false, streak


def test_q10__published_corrects_the_longer_stroke_and_mended_the_larger_error():
    prediction, truth = lopsided()
    assert (prediction.sum(), truth.sum()) == (6400, 116)
    polarity, stroke = published(prediction, truth)
    assert polarity == "tumor"
    assert len(reference_v.scribble_from_mask(prediction)) < 5 < 40 < len(stroke)
    assert (polarity, stroke) == reference_v.correction(prediction, truth)
    (one,) = mended(prediction, truth)
    assert not one.foreground
    assert prediction[one.voxels[0]]


def test_q10__published_ties_of_strokes_go_to_the_lesion():
    prediction, truth = block(np.s_[2:7, 2, 4]), block(np.s_[12:17, 2, 4])
    assert published(prediction, truth)[0] == "tumor"
    truth[16, 2, 4] = 0
    assert published(prediction, truth)[0] == "background"


@pytest.mark.parametrize(
    ("prediction", "truth", "note"),
    [
        (block(np.s_[3:9, 3:9, 4]), block(np.s_[3:9, 3:9, 4]), "no false positives"),
        (NOTHING, block(np.s_[3:9, 3:9, 4]), "no false positives"),
        (block(np.s_[3:9, 3:9, 3:6]), block(np.s_[3:9, 3:9, 4]), "no false negatives"),
        (block(np.s_[3:9, 3:9, 4]), NOTHING, "no lesion"),
        (NOTHING, NOTHING, "no lesion"),
    ],
)
def test_q11__published_gives_nothing_where_a_side_is_empty_and_mended_corrects_what_is_left(prediction, truth, note):
    prompts = clicksim.correct(prediction, truth, **V1)
    assert len(prompts) == 0
    assert note in prompts.notes[0]
    better = mended(prediction, truth)
    if (prediction == truth).all():
        assert len(better) == 0
        assert better.notes == ("no error left to correct",)
    else:
        (one,) = better
        assert one.foreground == bool(truth.sum() > prediction.sum())


def test_q13__polarity_is_that_of_the_error():
    (added,) = mended(block(np.s_[3:9, 3:9, 4]), NOTHING)
    (lost,) = mended(NOTHING, block(np.s_[3:9, 3:9, 4]))
    assert (added.foreground, lost.foreground) == (False, True)


def test_q14__published_fills_a_blob_and_mended_gives_one_pixel():
    i, j, k = np.indices((30, 30, 9))
    disk = (((i - 9) ** 2 + (j - 9) ** 2 <= 25) & (k == 4)).astype(np.uint8)
    other = block(np.s_[20:29, 2:29, 4])
    assert len(published(other, disk)[1]) == 81
    (stroke,) = mended(NOTHING, disk)
    assert stroke.voxels == ((9, 9, 4),)


@pytest.mark.parametrize("strategy", ["random", "boundary"])
def test_q15__published_repeats_its_stroke_in_each_round_and_mended_does_not(strategy):
    prediction, truth = block(np.s_[2:5, 2:5, 4]), block(np.s_[8:28, 8:28, 3:6])
    assert len({str(published(prediction, truth, strategy=strategy, round=n)) for n in range(1, 6)}) == 1
    strokes = {mended(prediction, truth, strategy=strategy, round=n).items[0].voxels for n in range(1, 6)}
    assert len(strokes) == 5


def test_q16__odd_slices_with_errors_at_the_rim_have_no_phantom_parts():
    prediction, truth = block(shape=(7, 9, 5)), block(shape=(7, 9, 5))
    prediction[6, ::2, 2] = prediction[0, 0:2, 3] = 1
    truth[::2, 8, 1] = 1
    assert published(prediction, truth) == reference_v.correction(prediction, truth)


def test_q17__the_published_slice_is_that_of_the_largest_part_and_not_of_the_most_voxels():
    truth = block(np.s_[2:10, 2, 3], np.s_[2:10, 6, 3], np.s_[2:12, 20, 6])  # slice 3 has more, slice 6 the larger part
    prediction = block(np.s_[20, 20:23, 1])
    assert {k for _, _, k in published(prediction, truth)[1]} == {6}


def test_q18__values_other_than_one_count_as_lesion():
    truth, prediction = block(np.s_[2:12, 2:6, 4]), block(np.s_[2:12, 20:24, 4])
    assert published(3 * prediction, 7 * truth) == published(prediction, truth)
    assert mended(3 * prediction, 7 * truth).items == mended(prediction, truth).items
    assert published(prediction, truth, case_id="fdg_198") == published(prediction, truth)  # no name is passed over


# --- kinds of regions


def kinds_of(prediction, truth):
    return sorted(region.kind for region in find_regions(prediction, truth))


LEFT, RIGHT = np.s_[2:8, 2:8, 2:6], np.s_[16:22, 2:8, 2:6]


@pytest.mark.parametrize(
    ("prediction", "truth", "kinds"),
    [
        (NOTHING, block(LEFT), ["missed"]),
        (block(LEFT), block(LEFT, RIGHT), ["missed"]),
        (block(np.s_[2:5, 2:8, 2:6]), block(LEFT), ["under"]),
        (block(RIGHT), NOTHING, ["false"]),
        (block(LEFT, RIGHT), block(LEFT), ["false"]),
        (block(np.s_[2:11, 2:8, 2:6]), block(LEFT), ["over"]),
        (block(np.s_[2:22, 2:8, 2:6]), block(LEFT, RIGHT), ["merged"]),
        (block(np.s_[4:10, 2:8, 2:6]), block(LEFT), ["over", "under"]),
        (block(np.s_[1:23, 1:9, 2:6]), block(LEFT, RIGHT), ["merged"]),
        # one lesion in the shape of a U whose ends are predicted together with what lies between them
        (block(np.s_[2:12, 2, 4]), block(np.s_[2, 2:9, 4], np.s_[11, 2:9, 4], np.s_[2:12, 8, 4]), ["over", "under"]),
        (block(LEFT), block(LEFT), []),
    ],
)
@pytest.mark.parametrize("layout", [strategies.as_c, strategies.as_f, strategies.as_middle])
def test_find_regions__knows_every_kind(prediction, truth, kinds, layout):
    assert kinds_of(layout(prediction), truth) == kinds
    assert kinds_of(layout(prediction), layout(truth)) == kinds
    for kind in KINDS:
        assert len(find_regions(prediction, truth, errors=[kind])) == kinds.count(kind)
        for prompt in mended(prediction, truth, errors=[kind], n_prompts=9):
            assert prompt.foreground == (kind in ("missed", "under"))


def test_correct__says_which_kinds_of_error_are_not_there():
    prompts = mended(block(LEFT), NOTHING, errors=["missed", "under"])
    assert (len(prompts), prompts.notes) == (0, ("no error of kind missed or under left to correct",))


def test_find_regions__tells_touching_instances_apart():
    truth = block(np.s_[2:8, 2:8, 4]) + 2 * block(np.s_[8:14, 2:8, 4])
    prediction = block(np.s_[2:8, 2:8, 4])
    assert kinds_of(prediction, truth) == ["missed"]
    assert kinds_of(prediction, truth != 0) == ["under"]
    # one instance in two parts is one lesion
    split = 3 * block(np.s_[2:8, 2:8, 4]) + 3 * block(np.s_[20:26, 2:8, 4]) + block(np.s_[2, 20, 1])
    assert kinds_of(split == 1, split) == ["missed", "missed"]
    assert kinds_of(block(np.s_[2:8, 2:8, 4]), split) == ["missed", "under"]


def test_find_regions__values_of_a_prediction_divide_nothing():
    prediction = block(np.s_[2:8, 2:8, 4]) + 2 * block(np.s_[8:14, 2:8, 4])
    assert kinds_of(prediction, block(np.s_[2:6, 2:8, 4])) == ["over"]


@settings(max_examples=150)
@given(cases(), strategies.layouts(), strategies.layouts())
def test_find_regions__equal_the_components_of_the_errors(case, layout, other):
    prediction, truth = case
    p, g = prediction != 0, truth != 0
    regions = find_regions(layout(prediction), other(truth))
    numbers, count = reference.components(np.where(p & ~g, 1, 0) + np.where(g & ~p, 2, 0), 26, "F")
    assert [region.component.id for region in regions] == list(range(1, count + 1))
    many = len(np.unique(truth[truth != 0])) > 1
    lesions = truth if many else reference.components(g, 26)[0]
    found = reference.components(p, 26)[0]
    for region in regions:
        mask = numbers == region.component.id
        assert region.size == mask.sum()
        np.testing.assert_array_equal(region.component.voxels, np.argwhere(mask))
        if region.foreground:
            kind = "missed" if any(not p[lesions == lesion].any() for lesion in np.unique(lesions[mask])) else "under"
        else:
            (mine,) = np.unique(found[mask])
            under = np.unique(lesions[(found == mine) & g])
            kind = ("false", "over", "merged")[min(len(under), 2)]
        assert region.kind == kind


@given(cases(), strategies.layouts(), strategies.layouts())
def test_find_errors__slices_are_found_in_any_memory(case, layout, other):
    prediction, truth = case
    runs = find_errors(layout(prediction), other(truth))
    for missed, mask in ((True, (truth != 0) & (prediction == 0)), (False, (truth == 0) & (prediction != 0))):
        memory, starts, stops = runs.of(missed=missed)
        assert memory.axes == (2, 1, 0)
        indices = [v for a, b in zip(starts, stops, strict=True) for v in range(a, b)]
        assert indices == np.flatnonzero(mask.reshape(-1, order="F")).tolist()


# --- the mended rule


@settings(max_examples=120)
@given(
    cases(),
    strategies.layouts(),
    strategies.layouts(),
    st.fixed_dictionaries(
        {
            "strategy": st.sampled_from(METHODS),
            "axis": st.integers(0, 2),
            "thickness_mm": st.sampled_from([0.0, 5.0]),
            "tremor_mm": st.sampled_from([0.0, 2.0]),
            "choose": st.sampled_from(["size", "depth", "random"]),
            "n_prompts": st.sampled_from([1, 3, 50]),
            "seed": st.integers(0, 9),
        }
    ),
)
def test_correct__mended_strokes_lie_on_fresh_errors_of_their_polarity(case, layout, other, given_):
    prediction, truth = case
    first = mended(prediction, truth, **given_)
    again = mended(layout(prediction), other(truth), **given_)
    assert again.items == first.items  # whatever the layout
    regions = {region.component.id: region for region in find_regions(prediction, truth)}
    second = mended(prediction, truth, round=1, previous=first, **given_)
    assert len(first) == min(given_["n_prompts"], len(regions))
    for prompt in (*first, *second):
        assert 0 < len(set(prompt.voxels)) == len(prompt.voxels)
        assert all(regions[prompt.lesion].component.holds(voxel) for voxel in prompt.voxels)
        assert len({voxel[given_["axis"]] for voxel in prompt.voxels}) == 1
        for voxel in prompt.voxels:
            assert (truth[voxel] != 0, prediction[voxel] != 0) == (prompt.foreground, not prompt.foreground)
    voxels = [voxel for prompt in (*first, *second) for voxel in prompt.voxels]
    assert len(set(voxels)) == len(voxels)
    assert {prompt.round for prompt in first} <= {0}
    assert {prompt.round for prompt in second} <= {1}


@pytest.mark.parametrize("table", [{"kind": "click"}, *({"strategy": strategy} for strategy in METHODS)])
def test_correct__a_model_that_never_answers_is_prompted_until_no_voxel_is_left(table):
    prediction, truth = block(np.s_[20, 20:22, 4]), block(np.s_[3:6, 3:7, 3:5])
    wrong = int(prediction.sum() + truth.sum())
    so_far = None
    for number in range(wrong + 1):
        prompts = mended(prediction, truth, round=number, previous=so_far, **table)
        if not len(prompts):
            break
        items = (*(so_far or ()), *prompts)
        so_far = clicksim.Prompts(items, prompts.grid)
    assert prompts.notes == ("every error already has a prompt",)
    voxels = [voxel for prompt in so_far for voxel in prompt.voxels]
    assert len(voxels) == len(set(voxels)) == wrong


def test_correct__clicks_the_deepest_voxel_in_mm_of_the_largest_region():
    truth = block(np.s_[2:7, 2:7, 1:8], np.s_[20:23, 20:23, 4])
    prompts = mended(NOTHING, truth, kind="click", n_prompts=2)
    assert [p.voxel for p in prompts] == [(4, 4, 2), (21, 21, 4)]
    assert reference.deepest_voxel(truth[:10], SPACING, border_is_outside=True) == (4, 4, 2)


def test_correct__chooses_by_size_by_depth_or_by_chance():
    flat, ball = np.s_[2:28, 2:20, 0], np.s_[10:17, 22:29, 2:8]
    truth = block(flat, ball)
    assert mended(NOTHING, truth).foreground[0, 2] == 0
    assert mended(NOTHING, truth, choose="depth").foreground[0, 2] > 0
    uneven = block(flat, np.s_[10:13, 22:25, 2:5])  # 468 voxels and 27
    chance = [mended(NOTHING, uneven, choose="random", seed=n).items[0].lesion for n in range(200)]
    assert 0.88 < np.mean(np.array(chance) == 1) < 1


def test_correct__depth_counts_the_border_of_the_volume_as_outside():
    truth = block(np.s_[0:4, 2:28, 0:9], np.s_[20:25, 10:15, 2:7])  # 4 mm deep at the border, and 6 mm
    assert mended(NOTHING, truth, choose="depth").foreground[0, 0] >= 20


def test_correct__several_prompts_go_to_several_regions_the_largest_first():
    truth = block(np.s_[2:12, 2:12, 4], np.s_[15:20, 2:8, 4], np.s_[25:27, 2:4, 4])
    prompts = mended(block(np.s_[2:12, 20:29, 4]), truth, n_prompts=3)
    assert [p.foreground for p in prompts] == [True, False, True]
    assert [len(find_regions(block(np.s_[2:12, 20:29, 4]), truth)), len(prompts)] == [4, 3]


def test_correct__other_regions_change_no_stroke():
    truth, more = block(np.s_[2:20, 2:20, 4]), block(np.s_[2:20, 2:20, 4], np.s_[25:28, 25:28, 1])
    one, two = (mended(NOTHING, label, strategy="random", round=3).items[0].voxels for label in (truth, more))
    assert one == two


def test_correct__refuses_what_it_cannot_do():
    truth = block(LEFT)
    with pytest.raises(GeometryError, match="same three axes"):
        mended(truth, truth[1:])
    with pytest.raises(GeometryError, match="needs the voxel size"):
        clicksim.correct(NOTHING, truth)
    with pytest.raises(ImageError, match="case_9"):
        mended(np.full(truth.shape, np.nan), truth, case_id="case_9")
    with pytest.raises(SettingError, match="errors"):
        mended(NOTHING, truth, errors=["mised"])
    with pytest.raises(SettingError, match="kind"):
        clicksim.correct(NOTHING, truth, kind="click", **V1)
    with pytest.raises(GeometryError, match="previous prompts are on another grid"):
        mended(NOTHING, truth, previous=mended(NOTHING[:20], truth[:20]))
    with pytest.raises(TypeError):
        mended(NOTHING, truth, seed=0.5)


def test_correct__warns_of_settings_without_effect():
    for idle in ({"n_components": 2}, {"kind": "click", "strategy": "random"}, {"walk": 0.5}, {"shell_mm": [1, 2]}):
        with pytest.warns(UserWarning, match="has no effect"):
            mended(NOTHING, block(LEFT), **idle)
    with pytest.warns(UserWarning, match="n_components has no effect on a correction") as caught:
        clicksim.correct(block(RIGHT), block(LEFT), n_components=2, **V1)
    assert [warning.filename for warning in caught] == [__file__]


# --- what is kept from round to round

RULES = (
    {"kind": "click"},
    {"kind": "click", "choose": "depth", "n_prompts": 3},
    {"kind": "click", "choose": "larger-class", "place": "depth-weighted"},
    {"kind": "scribble", "choose": "depth"},
    {"protocol": "ritm"},
    {"protocol": "deepedit"},
    {"protocol": "sw-fastedit"},
)


@settings(max_examples=150)
@given(st.lists(cases(), min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.sampled_from(RULES))
def test_correct__what_is_kept_between_rounds_changes_no_answer(drawn, seed, how):
    truth, draws, kept, so_far = drawn[0][1], np.random.default_rng(seed), KeptRegions(), None
    for number in range(1, 6):
        prediction = drawn[int(draws.integers(len(drawn)))][0]
        if prediction.shape != truth.shape:
            prediction = drawn[0][0]
        prediction = np.where(draws.random(truth.shape) < draws.choice([0, 0, 0.01]), prediction == 0, prediction)
        arguments = {"spacing": SPACING, "seed": seed, "round": number, "previous": so_far, **how}
        anew = clicksim.correct(prediction, truth, **arguments)
        assert clicksim.correct(prediction, truth, kept=kept, **arguments) == anew
        so_far = anew if so_far is None else clicksim.Prompts(so_far.items + anew.items, anew.grid)


@pytest.fixture
def measured(monkeypatch):
    """How many voxels the kernels of depth were asked about, call by call."""
    sizes = []

    def counting(kernel):
        def call(starts, stops, *rest):
            sizes.append(int((stops - starts).sum()))
            return kernel(starts, stops, *rest)

        return call

    for name in ("deepest_voxel", "squared_depths"):
        monkeypatch.setattr(depth, name, counting(getattr(depth, name)))
    return sizes


def test_correct__only_regions_that_changed_are_measured_again(measured):
    large, small = np.s_[2:12, 2:12, 2:8], np.s_[20:24, 20:24, 2:6]
    truth, kept = block(large, small), KeptRegions()
    arguments = {"spacing": SPACING, "kind": "click", "choose": "depth", "n_prompts": 2, "kept": kept}
    clicksim.correct(NOTHING, truth, **arguments)
    assert sorted(measured) == [64, 600]
    clicksim.correct(NOTHING, truth, **arguments)
    assert len(measured) == 2
    clicksim.correct(block(np.s_[22:24, 20:24, 2:6]), truth, **arguments)  # half of the small one is mended
    assert measured[2:] == [32]
    clicksim.correct(truth, truth, **arguments)  # all gone: nothing stays known
    clicksim.correct(NOTHING, truth, **arguments)
    assert sorted(measured[3:]) == [64, 600]


def test_correct__a_region_that_differs_by_one_voxel_is_not_taken_for_the_old_one(measured):
    truth, kept = block(np.s_[2:12, 2:12, 2:8]), KeptRegions()
    for prediction in (NOTHING, block(np.s_[11, 11, 7]), block(np.s_[11, 11, 7])):
        clicksim.correct(prediction, truth, spacing=SPACING, kind="click", kept=kept)
    assert measured == [600, 599]


def test_kept_regions__hold_depths_and_no_lists_of_voxels():
    truth, kept = block(np.s_[2:12, 2:12, 2:8]), KeptRegions()
    first = clicksim.correct(NOTHING, truth, spacing=SPACING, kind="click", kept=kept)
    clicksim.correct(NOTHING, truth, spacing=SPACING, kind="click", kept=kept, previous=first)
    (component,) = kept._components
    assert set(vars(component)) == {"memory", "id", "key", "starts", "stops", "low", "high", "answers"}
    assert {question[0] for question in component.answers} == {"deepest", "depths"}
    assert component.starts.base is component.stops.base is None  # no view of the runs of all regions

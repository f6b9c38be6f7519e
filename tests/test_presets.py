"""The field's rules for corrective clicks: each against a slow twin, and what their presets say."""

import math
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import clicksim
from clicksim.cli import main
from clicksim.errors import SettingError
from clicksim.predictors import Scan
from clicksim.protocols import list_presets, list_protocols, load_protocol
from clicksim.rounds import RoundsCase, play
from clicksim.streams import stream
from tests import strategies

SPACING = (2.0, 2.0, 3.0)
NAMES = ("deepedit", "ritm", "sw-fastedit")
DEPTHS = ("mm", "voxels", "chessboard")
PLACES = ("deepest", "uniform", "depth-weighted", "depth-exponential")


def slow_depths(mask, depth_in):
    """Depth of each voxel of a whole error map, by scipy; the border counts as outside."""
    padded = np.pad(mask, 1)
    if depth_in == "chessboard":
        found = ndimage.distance_transform_cdt(padded, metric="chessboard").astype(float)
    else:
        found = ndimage.distance_transform_edt(padded, sampling=SPACING if depth_in == "mm" else None)
    return found[1:-1, 1:-1, 1:-1]


def slow_candidates(mask, used, place, depth_in):
    """Voxels and probabilities of a click in an error map."""
    depths = slow_depths(mask, depth_in)
    free = mask & ~used
    if not free.any():
        return {}
    if place == "deepest":
        deepest = depths[free].max()
        return {tuple(map(int, np.argwhere(free & (depths >= deepest * (1 - 1e-9)))[0])): 1.0}
    weights = {"uniform": lambda d: 1.0, "depth-weighted": float, "depth-exponential": lambda d: math.exp(d) - 1}[place]
    found = {tuple(map(int, v)): weights(depths[tuple(v)]) for v in np.argwhere(free)}
    return {voxel: weight / sum(found.values()) for voxel, weight in found.items()}


def slow_class(choose, missed, added, used):
    """Polarities that are corrected."""
    if choose == "each-class":
        return [p for p, mask in ((True, missed), (False, added)) if mask.any()]
    if choose == "larger-class":
        return [bool(missed.sum() >= added.sum())]
    both = used[True] | used[False]
    deepest = [np.max(slow_depths(mask, "voxels")[mask & ~both], initial=0.0) for mask in (missed, added)]
    return [bool(deepest[0] > deepest[1])]


def pairs():
    """A truth, and a prediction with errors in it."""

    def with_errors(drawn):
        truth, seed, share = drawn
        draws = np.random.default_rng(seed)
        return np.where(draws.random(truth.shape) < share, truth == 0, truth != 0), truth != 0

    return st.tuples(strategies.instances(), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.3, 0.6])).map(
        with_errors
    )


def masks_of(prompts, shape):
    used = {True: np.zeros(shape, bool), False: np.zeros(shape, bool)}
    for prompt in prompts:
        for voxel in prompt.voxels:
            used[prompt.foreground][voxel] = True
    return used


@settings(max_examples=60, deadline=None)
@given(pairs(), strategies.layouts(), st.sampled_from(NAMES), st.integers(0, 5))
def test_correct__each_preset_clicks_where_its_slow_twin_can(pair, layout, name, seed):
    prediction, truth = pair
    rule = load_protocol(name).tables["scribbles"]
    missed, added = truth & ~prediction, prediction & ~truth
    before = None
    for number in range(1, 4):
        found = clicksim.correct(
            layout(prediction.astype(np.uint8)), layout(truth.astype(np.uint8)), spacing=SPACING, protocol=name,
            seed=seed, round=number, previous=before,
        )  # fmt: skip
        used = masks_of(before or (), truth.shape)
        wanted = []
        for polarity in slow_class(rule["choose"], missed, added, used):
            taken = used[True] | used[False] if name == "ritm" else used[polarity]
            can = slow_candidates(missed if polarity else added, taken, rule["place"], rule["depth_in"])
            if can:
                wanted.append((polarity, can))
        assert [prompt.foreground for prompt in found] == [polarity for polarity, _ in wanted]
        for prompt, (polarity, can) in zip(found, wanted, strict=True):
            draw = stream(seed, "", "correct", number, "class", "foreground" if polarity else "background").random()
            below = np.cumsum(list(can.values())) <= draw * (1 - 1e-12)
            assert prompt.voxel == list(can)[np.count_nonzero(below)]  # voxels in the order i, j, k
        again = clicksim.correct(prediction, truth, spacing=SPACING, protocol=name, seed=seed, round=number,
                                 previous=before)  # fmt: skip
        assert again.items == found.items  # whatever the layout
        items = (*(before or ()), *found)
        before = clicksim.Prompts(tuple(items), found.grid)


def blob():
    """An error map of two regions, small enough to count draws in."""
    mask = np.zeros((12, 9, 5), np.uint8)
    mask[1:6, 1:6, 1:4] = 1
    mask[9, 7, 3] = mask[10, 7, 3] = 1
    return mask


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("depth_in", DEPTHS)
def test_correct__draws_as_often_as_the_slow_twin_says(place, depth_in):
    mask = blob()
    can = slow_candidates(mask > 0, np.zeros(mask.shape, bool), place, depth_in)
    count = 3000
    seen = Counter(
        clicksim.correct(np.zeros_like(mask), mask, spacing=SPACING, protocol="sw-fastedit", place=place,
                         depth_in=depth_in, round=n).items[0].voxel
        for n in range(count)
    )  # fmt: skip
    assert set(seen) <= set(can)
    from scipy.stats import chisquare

    expected = np.array([can[voxel] for voxel in can]) * count
    many = expected >= 5
    observed = np.array([seen[voxel] for voxel in can], float)
    observed, expected = (np.append(side[many], side[~many].sum() + 1e-9) for side in (observed, expected))
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("depth_in", DEPTHS)
def test_correct__the_deepest_voxel_is_that_of_the_slow_twin_until_all_are_used(depth_in):
    mask = blob()
    used, before = np.zeros(mask.shape, bool), clicksim.Prompts((), clicksim.Grid.from_spacing(mask.shape, SPACING))
    for number in range(1, int(mask.sum()) + 1):
        found = clicksim.correct(np.zeros_like(mask), mask, spacing=SPACING, protocol="sw-fastedit", place="deepest",
                                 depth_in=depth_in, round=number, previous=before)  # fmt: skip
        (click,) = found
        assert [click.voxel] == list(slow_candidates(mask > 0, used, "deepest", depth_in))
        used[click.voxel] = True
        before = clicksim.Prompts((*before, click), found.grid)
    assert not (mask.astype(bool) & ~used).any()
    assert not clicksim.correct(np.zeros_like(mask), mask, spacing=SPACING, protocol="sw-fastedit", place="deepest",
                                depth_in=depth_in, previous=before).items  # fmt: skip


def test_correct__draws_by_exp_do_not_overflow():
    mask = np.zeros((40, 3, 3), np.uint8)
    mask[2:38, 1, 1] = 1
    found = clicksim.correct(np.zeros_like(mask), mask, spacing=(900, 5000, 5000), protocol="deepedit", depth_in="mm")
    assert mask[found.items[0].voxel]


def test_correct__ritm_takes_the_deeper_class_and_deepedit_the_larger():
    truth, prediction = np.zeros((30, 30, 9), np.uint8), np.zeros((30, 30, 9), np.uint8)
    truth[2:7, 2:7, 2:7] = 1  # 125 voxels, 3 deep
    prediction[10:29, 10:28, 4] = 1  # 342 voxels, 1 deep
    (deep,) = clicksim.correct(prediction, truth, spacing=SPACING, protocol="ritm")
    (large,) = clicksim.correct(prediction, truth, spacing=SPACING, protocol="deepedit")
    both = clicksim.correct(prediction, truth, spacing=SPACING, protocol="sw-fastedit")
    assert (deep.voxel, deep.foreground) == ((4, 4, 4), True)
    assert not large.foreground
    assert [prompt.foreground for prompt in both] == [True, False]


def test_correct__ties_of_classes_go_as_the_sources_have_it():
    truth, prediction = np.zeros((20, 9, 9), np.uint8), np.zeros((20, 9, 9), np.uint8)
    truth[2:5, 2:5, 2:5] = prediction[12:15, 2:5, 2:5] = 1
    assert [p.foreground for p in clicksim.correct(prediction, truth, spacing=SPACING, protocol="ritm")] == [False]
    assert [p.foreground for p in clicksim.correct(prediction, truth, spacing=SPACING, protocol="deepedit")] == [True]


@pytest.mark.parametrize("name", NAMES)
def test_correct__a_perfect_prediction_gives_no_click(name):
    found = clicksim.correct(blob(), blob(), spacing=SPACING, protocol=name)
    assert (len(found), found.notes) == (0, ("no error left to correct",))


def test_correct__refuses_strokes_where_there_are_clicks_alone():
    empty = np.zeros_like(blob())
    with pytest.raises(SettingError, match="draws no strokes"):
        clicksim.correct(empty, blob(), spacing=SPACING, protocol="ritm", kind="scribble")
    with pytest.raises(SettingError, match="set kind=click"):
        clicksim.correct(empty, blob(), spacing=SPACING, choose="each-class")
    with pytest.raises(SettingError, match="no rule for scribbles from a label"):
        clicksim.simulate_scribbles(blob(), spacing=SPACING, protocol="ritm")
    with pytest.warns(UserWarning, match="place has no effect unless kind is click"):
        clicksim.correct(empty, blob(), spacing=SPACING, place="uniform")


@pytest.mark.parametrize("name", NAMES)
def test_play__a_preset_plays_its_rounds_and_stops_at_perfection(name):
    truth = np.asfortranarray(blob())
    scan = Scan("a", clicksim.Grid.from_spacing(truth.shape, SPACING))

    def follows(scan, prompts):
        """What was clicked, and all of it after three clicks."""
        mask = truth.copy(order="F") if len(prompts) >= 3 else np.zeros_like(truth)
        for prompt in prompts:
            mask[prompt.voxel] = 1
        return mask

    game = play(RoundsCase(scan, truth), follows, protocol=name)
    assert len(game.rows) == load_protocol(name).tables["rounds"]["n_rounds"]
    assert [row["n_prompts"] for row in game.rows[:5]] == [0, 1, 2, 3, 3]
    assert game.rows[-1]["dice"] == 1.0


def test_presets__stand_apart_from_the_protocols():
    assert tuple(preset.id for preset in list_presets()) == NAMES
    assert not {preset.id for preset in list_presets()} & {protocol.id for protocol in list_protocols()}
    assert all(len(preset.notes) >= 4 and preset.source for preset in list_presets())
    runner = CliRunner()
    text = runner.invoke(main, ["protocols"]).stdout
    assert text.index("autopet-v@2") < text.index("Presets:") < text.index("sw-fastedit")
    assert "chessboard" in runner.invoke(main, ["protocols", "deepedit"]).stdout
    with pytest.raises(SettingError, match="did you mean 'ritm'"):
        load_protocol("rittm")

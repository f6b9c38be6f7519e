"""The mended rule: each fault of the published one beside its mend, and what every setting promises."""

import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clicksim
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.protocols.strategy_registry import CLICK_STRATEGIES
from tests import reference, strategies

STRATEGIES = tuple(CLICK_STRATEGIES.names)  # those of installed packages too
SPACING = (2.0, 2.5, 3.0)


def simulate(mask, **kwargs):
    return clicksim.simulate_clicks(mask, **({"spacing": SPACING} | kwargs))


def published(mask, **kwargs):
    return clicksim.simulate_clicks(mask, protocol="autopet-iv@1", **kwargs)


def box(shape, *boxes):
    """A mask of boxes, each as first and last voxel."""
    mask = np.zeros(shape, dtype=np.uint8)
    for first, last in boxes:
        mask[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = 1
    return mask


def scene():
    """Four lesions, one of a voxel and one at the border; hot spots near and far from them; no ties in depth."""
    mask = box((28, 26, 24), ((2, 2, 2), (7, 6, 5)), ((14, 3, 8), (17, 8, 14)), ((20, 20, 20), (20, 20, 20)))
    mask[0:4, 18:22, 10:14] = 1
    uptake = np.random.default_rng(5).random(mask.shape).astype(np.float32)
    uptake[22:25, 10:13, 3:6] = 20
    uptake[9, 7:9, 3] = 15  # two voxels from the first lesion
    uptake[10, 20:23, 20:22] = 12
    return mask, uptake


def distances(voxels, mask, spacing):
    """From each voxel to the nearest lesion voxel, in mm, by all pairs."""
    lesion = np.argwhere(mask)
    return np.array([np.sqrt((((lesion - voxel) * spacing) ** 2).sum(1).min()) for voxel in voxels])


def by_component(prompts, *, foreground=True):
    """The clicks of each component, in order."""
    out = {}
    for click in prompts:
        if click.foreground == foreground:
            out.setdefault(click.lesion, []).append(click.voxel)
    return out


# the faults, one by one


def test_q1__both_number_in_the_order_k_j_i_whatever_the_layout():
    mask = box((9, 9, 9), ((1, 1, 6), (1, 1, 6)), ((6, 6, 1), (6, 6, 1)))
    assert reference.components(mask, order="C")[0][1, 1, 6] == 1
    for layout in (strategies.as_c, strategies.as_f, strategies.as_middle):
        for prompts in (simulate(layout(mask), lesions="all"), published(layout(mask))):
            assert dict.fromkeys(click.lesion for click in prompts).keys() == {1, 2}
            assert by_component(prompts)[1][0] == (6, 6, 1)


def test_q2__published_counts_voxels_and_mended_measures_mm():
    mask = box((40, 20, 12), ((2, 2, 2), (8, 8, 8)), ((8, 5, 5), (20, 5, 5)), ((20, 3, 4), (32, 15, 6)))
    assert published(mask, spacing=(1, 1, 8), n_foreground=1).foreground.tolist() == [[5, 5, 5]]
    assert simulate(mask, spacing=(1, 1, 8), n_foreground=1).foreground.tolist() == [[26, 9, 4]]
    assert simulate(mask, spacing=(1, 1, 1), n_foreground=1).foreground.tolist() == [[5, 5, 5]]


def test_q3__published_clicks_the_border_slice_and_mended_stays_inside():
    mask = box((20, 20, 20), ((5, 5, 0), (11, 11, 6)))
    assert published(mask, n_foreground=1).foreground.tolist() == [[8, 8, 0]]
    assert simulate(mask, n_foreground=1, spacing=(1, 1, 1)).foreground.tolist() == [[8, 8, 3]]


def test_q4__published_offsets_point_one_way_and_jump_and_mended_ones_stay_and_are_symmetric():
    mask = box((30, 9, 9), ((2, 2, 2), (6, 6, 6)), ((8, 2, 2), (12, 6, 6)))
    moved = [published(mask, center_offset=6, n_foreground=2, seed=seed) for seed in range(40)]
    assert all(np.all(prompts.foreground.min(0) >= (4, 4, 4)) for prompts in moved)
    left = [click for prompts in moved for click in prompts if (click.voxel[0] > 7) != (click.lesion == 2)]
    assert left  # the click of one lesion lies in the other
    mended = [simulate(mask, spacing=(1, 1, 1), jitter_mm=2, fill="none", seed=seed) for seed in range(400)]
    for click in (click for prompts in mended for click in prompts):
        assert (click.voxel[0] > 7) == (click.lesion == 2)
        assert mask[click.voxel]
    centre = np.array([prompts.foreground[prompts.foreground[:, 0] < 7][0] for prompts in mended]) - 4
    assert np.all(np.abs(centre.mean(0)) < 4 * centre.std(0) / np.sqrt(len(centre)))
    assert np.all(centre.std(0) > 0.5)
    assert np.all((centre**2).sum(1) <= (2 + np.sqrt(3) / 2) ** 2)


def test_q5__published_fill_up_strays_and_mended_stays_in_the_hot_component():
    mask, uptake = np.zeros((20, 20, 20)), np.zeros((20, 20, 20))
    uptake[4, 4, 4:7] = 9
    stray = published(mask, uptake=uptake).background
    assert np.sum(uptake[tuple(stray.T)] == 0) == 9
    mended = simulate(mask, uptake=uptake)
    assert sorted(mended.background.tolist()) == [[4, 4, 4], [4, 4, 5], [4, 4, 6]]
    assert mended.notes == ("3 of 10 background clicks: no voxel is left that the rule allows",)


def test_q6__published_cases_share_one_stream_and_mended_have_their_own():
    mask, uptake = scene()
    assert list(published(mask, uptake=uptake, case_id="a")) == list(published(mask, uptake=uptake, case_id="b"))
    draws = {str(simulate(mask, uptake=uptake, case_id=name).to_json()) for name in "abcdefgh"}
    assert len(draws) == 8
    assert len({str(simulate(mask, uptake=uptake, seed=seed).to_json()) for seed in range(8)}) == 8


def test_q7__a_box_gives_what_the_whole_volume_gives():
    mask, _ = scene()
    numbers, count = reference.components(mask)
    for number in range(1, count + 1):
        component = numbers == number
        alone = published(component, n_foreground=1).foreground.tolist()
        assert alone == [list(reference.deepest_voxel(component))]
        voxel = by_component(simulate(mask, lesions="all"))[number][0]
        assert voxel == reference.deepest_voxel(component, SPACING, border_is_outside=True)


def test_q8__published_repeats_clicks_and_mended_never_does():
    one = box((5, 5, 5), ((2, 2, 2), (2, 2, 2)))
    assert published(one).foreground.tolist() == [[2, 2, 2]] * 10
    assert simulate(one).foreground.tolist() == [[2, 2, 2]]
    assert simulate(one).notes[0] == "1 of 10 foreground clicks: no voxel is left that the rule allows"
    many = np.zeros((25, 3, 3))
    many[::2, 1, 1] = 1
    assert len(published(many)) == len(simulate(many)) == 10
    assert simulate(many, lesions="all").foreground.tolist() == np.argwhere(many).tolist()
    assert not any("foreground clicks: no voxel" in note for note in simulate(many, lesions="all").notes)


@pytest.mark.parametrize("value", [0, 1])
def test_q9__neither_loops_where_there_is_nothing_to_click(value):
    volume = np.full((4, 4, 4), value)
    assert len(published(volume, uptake=volume * 1.0)) == 0
    mended = simulate(volume, uptake=volume * 1.0)
    assert len(mended.background) == 0
    assert len(mended.foreground) == (10 if value else 0)
    assert mended.notes == ("0 of 10 background clicks: no voxel is left that the rule allows",)


def test_q9b__published_background_touches_lesions_and_mended_keeps_a_margin():
    mask, uptake = box((20, 20, 20), ((5, 5, 5), (8, 8, 8))), np.zeros((20, 20, 20))
    uptake[9, 5:9, 5:9] = uptake[15, 15, 15] = 7
    near = published(mask, uptake=uptake, n_background=2, n_foreground=0).background
    assert distances(near, mask, (1, 1, 1)).min() == 1
    mended = simulate(mask, uptake=uptake, spacing=(1, 1, 1)).background
    assert mended.tolist() == [[15, 15, 15]]
    assert len(simulate(mask, uptake=uptake, spacing=(1, 1, 1), margin_mm=0).background) == 10


# foreground


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fill", [*STRATEGIES, "none"])
def test_strategies__every_click_lies_in_its_lesion_and_the_first_obeys_the_strategy(strategy, fill):
    mask, _ = scene()
    numbers, count = reference.components(mask)
    prompts = simulate(mask, strategy=strategy, fill=fill, n_foreground=25)
    clicks = by_component(prompts)
    assert len(prompts.foreground) == len(set(map(tuple, prompts.foreground.tolist()))) == (4 if fill == "none" else 25)
    for number, voxels in clicks.items():
        component = numbers == number
        squared = reference.squared_distance_inside(component, SPACING, border_is_outside=True)
        rim = reference.squared_distance_inside(component, (1, 1, 1), border_is_outside=True) == 1
        assert all(component[voxel] for voxel in voxels)
        if strategy == "deepest":
            assert voxels[0] == reference.deepest_voxel(component, SPACING, border_is_outside=True)
        if strategy == "rim":
            assert rim[voxels[0]]
        if fill == "rim":
            assert all(rim[voxel] for voxel in voxels[1:])
        if fill == "deepest":
            depths = [squared[voxel] for voxel in voxels[1:]]
            assert depths == pytest.approx(sorted(depths, reverse=True))
    # dealt in turn: nobody has a second click before everybody has a first
    assert len({click.lesion for click in prompts.items[:count] if click.foreground}) == count


def test_strategies__depth_weighted_prefers_the_depth_and_uniform_does_not():
    mask = box((13, 13, 13), ((1, 1, 1), (11, 11, 11)))
    depth = np.sqrt(reference.squared_distance_inside(mask))
    means = {
        strategy: np.mean(
            [
                depth[tuple(simulate(mask, strategy=strategy, n_foreground=1, seed=s, spacing=(1, 1, 1)).foreground[0])]
                for s in range(300)
            ]
        )
        for strategy in ("uniform", "depth-weighted")
    }
    inside = depth[mask == 1]
    assert means["uniform"] == pytest.approx(inside.mean(), abs=0.25)
    assert means["depth-weighted"] == pytest.approx((inside**2).sum() / inside.sum(), abs=0.25)
    assert means["depth-weighted"] - means["uniform"] > 0.4


def test_lesions__are_chosen_by_draw_by_volume_by_uptake_or_all():
    mask, uptake = scene()
    sizes = clicksim.find_lesions(mask).sizes
    uptake = np.where(mask, 30 + np.indices(mask.shape)[0], uptake)  # the hottest lies furthest along i

    def first(**kwargs):
        return [click.lesion for click in simulate(mask, uptake=uptake, n_background=0, **kwargs)][:4]

    assert first(lesions="volume") == (np.argsort(-sizes, kind="stable") + 1).tolist()
    hottest = [uptake[tuple(lesion.voxels.T)].max() for lesion in clicksim.find_lesions(mask)]
    assert first(lesions="uptake") == (np.argsort(hottest)[::-1] + 1).tolist()
    assert first(lesions="all") == [1, 2, 3, 4]
    drawn = {tuple(first(lesions="uniform", seed=seed)) for seed in range(60)}
    assert {order[0] for order in drawn} == {1, 2, 3, 4}
    with pytest.raises(SettingError, match="lesions = uptake needs an uptake"):
        simulate(mask, lesions="uptake")


def test_min_lesion_ml_and_target__leave_the_others_out():
    mask, _ = scene()
    ml = clicksim.find_lesions(mask).sizes * np.prod(SPACING) / 1000
    prompts = simulate(mask, min_lesion_ml=float(np.sort(ml)[1]), n_foreground=50)
    assert {click.lesion for click in prompts} == set((np.flatnonzero(ml >= np.sort(ml)[1]) + 1).tolist())
    assert {click.lesion for click in simulate(mask, target=2)} == {2}
    with pytest.raises(SettingError, match="target 9 is not a lesion of this mask; lesions: 1, 2, 3, 4"):
        simulate(mask, target=9)
    assert len(simulate(mask * 0, target=9)) == 0


@given(strategies.instances(), strategies.spacings(), st.integers(0, 60), st.sampled_from(STRATEGIES), st.booleans())
def test_clicks__lie_in_lesions_without_repeats_and_spend_what_can_be_spent(labels, spacing, budget, fill, jitter):
    prompts = simulate(labels, spacing=spacing, n_foreground=budget, fill=fill, jitter_mm=3.0 if jitter else 0.0)
    voxels = [click.voxel for click in prompts if click.foreground]
    assert len(set(voxels)) == len(voxels)
    assert all(labels[voxel] for voxel in voxels)
    lesions = clicksim.find_lesions(labels)
    ids = dict(zip(lesions.ids.tolist(), lesions, strict=True))
    assert all(ids[click.lesion].holds(click.voxel) for click in prompts)
    assert len(voxels) <= budget
    if fill != "rim":
        assert len(voxels) == min(budget, np.count_nonzero(labels))
    notes = [note for note in prompts.notes if "foreground clicks: no voxel" in note]
    assert len(notes) == (len(voxels) < budget and bool(labels.any()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_jitter__displaces_within_the_component_and_no_farther(strategy):
    mask, uptake = scene()
    settings = {"strategy": strategy, "n_foreground": 4, "n_background": 2, "suv": 10}
    plain = simulate(mask, uptake=uptake, **settings)
    moved = simulate(mask, uptake=uptake, jitter_mm=6, **settings)
    numbers = reference.components(mask)[0]
    away = np.sqrt((((moved.foreground - plain.foreground) * SPACING) ** 2).sum(1))
    assert 0 < away.max() <= 6 + np.linalg.norm(SPACING) / 2
    for one, other in zip(plain, moved, strict=True):
        assert one.lesion == other.lesion
        assert numbers[one.voxel] == numbers[other.voxel]
        assert (uptake[other.voxel] > 10) or other.foreground


# background


@pytest.mark.parametrize("background", ["hot", "shell", "body", "organ"])
@pytest.mark.parametrize("margin", [0.0, 5.0, 6.1])
@pytest.mark.parametrize("spacing", [SPACING, (1.1, 3.3, 2.2)])
def test_background__keeps_the_margin_and_its_kind(background, margin, spacing):
    mask, uptake = scene()
    organs = np.zeros(mask.shape, np.int16)
    organs[:, 8:16], organs[:, 16:] = 3, 5
    more = {"organ": {"organs": organs, "organ": [3]}, "shell": {"shell_mm": [4, 11]}, "body": {"body_suv": 0.5}}
    prompts = simulate(
        mask, uptake=uptake, spacing=spacing, background=background, margin_mm=margin, **more.get(background, {})
    )
    voxels = [click.voxel for click in prompts if not click.foreground]
    assert len(set(voxels)) == len(voxels) == 10
    away = distances(voxels, mask, spacing)
    assert away.min() > 0
    assert away.min() >= margin * (1 - 1e-6)
    if background == "hot":
        threshold = reference.percentile_outside(uptake, mask, 99.75)
        assert all(uptake[voxel] > threshold for voxel in voxels)
    elif background == "shell":
        assert away.min() >= 4 * (1 - 1e-6)
        assert away.max() <= 11 * (1 + 1e-6)
    elif background == "body":
        assert all(uptake[voxel] > 0.5 for voxel in voxels)
    else:
        assert all(organs[voxel] == 3 for voxel in voxels)


def test_background__a_voxel_exactly_at_the_margin_is_too_near():
    mask, uptake = box((9, 1, 1), ((0, 0, 0), (0, 0, 0))), np.arange(9.0).reshape(9, 1, 1)
    for size, margin in ((1.1, 3.3), (0.1, 0.3), (5.0, 15.0)):  # 3.3 / 1.1 is a little less than 3 for a computer
        prompts = simulate(mask, uptake=uptake, spacing=(size, 1, 1), margin_mm=margin, percentile=0)
        assert sorted(prompts.background[:, 0].tolist()) == [4, 5, 6, 7, 8]


def test_background__body_finds_every_voxel_of_a_small_body_once_and_ends():
    mask, uptake = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    uptake[2:4, 3:6, 4] = 1
    prompts = simulate(mask, uptake=uptake, background="body", n_background=20)
    assert sorted(prompts.background.tolist()) == np.argwhere(uptake).tolist()
    assert prompts.notes == ("6 of 20 background clicks: no voxel is left that the rule allows",)


def test_background__fixed_uptake_replaces_the_percentile():
    mask, uptake = scene()
    prompts = simulate(mask, uptake=uptake, suv=14, n_background=60)
    assert {float(uptake[click.voxel]) for click in prompts if not click.foreground} <= {15.0, 20.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_background__threshold_takes_the_threshold_itself_and_hot_does_not(dtype):
    mask, uptake = scene()
    uptake = (uptake * 4 + 8 * (uptake > 10)).round().astype(dtype)
    for kind, above in (("threshold", uptake >= 4), ("hot", uptake > 4)):
        prompts = simulate(mask, uptake=uptake, background=kind, suv=4, margin_mm=0, n_background=3000)
        kept = reference.components(above & (mask == 0))[1]
        assert len({click.lesion for click in prompts if not click.foreground}) == kept
        assert {bool(above[click.voxel]) for click in prompts if not click.foreground} == {True}
        assert (4 in {int(uptake[click.voxel]) for click in prompts if not click.foreground}) == (kind == "threshold")
    with pytest.raises(SettingError, match="background = threshold needs the threshold of the case: set suv"):
        simulate(mask, uptake=uptake, background="threshold")


def test_background__of_the_others_clicks_the_other_lesions():
    labels = scene()[0].astype(np.int32)
    labels *= reference.components(labels)[0]
    prompts = simulate(labels, target=2, background="others", n_background=30)
    assert {click.lesion for click in prompts if click.foreground} == {2}
    assert {int(labels[click.voxel]) for click in prompts if not click.foreground} == {1, 3, 4}
    with pytest.raises(SettingError, match="background = others needs the lesion that is the foreground: set target"):
        simulate(labels, background="others")


def test_background__without_what_it_needs():
    mask, _ = scene()
    for kind in ("hot", "threshold", "body"):
        prompts = simulate(mask, background=kind)
        assert len(prompts.background) == 0
        assert prompts.notes == (f"no uptake (PET) given: foreground clicks only (background = {kind} needs one)",)
    with pytest.raises(SettingError, match="background = organ needs an organ mask"):
        simulate(mask, background="organ")
    assert simulate(mask * 0, background="shell").notes[0].startswith("0 of 10 background clicks")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("settings", [{}, {"suv": 3}, {"background": "body"}, {"lesions": "uptake", "n_background": 0}])
def test_uptake__that_is_not_finite_is_refused_with_its_place(bad, settings):
    mask, uptake = scene()
    uptake[3, 4, 5] = bad
    with pytest.raises(ImageError, match=r"1 voxels that are not finite, at \(3, 4, 5\) \(case case_x\)"):
        simulate(mask, uptake=uptake, case_id="case_x", **settings)


# what changes nothing


@given(
    st.data(), strategies.shapes(), strategies.layouts(), strategies.layouts(), strategies.dtypes(),
    st.sampled_from(STRATEGIES), st.sampled_from(["hot", "shell", "body"]),
)  # fmt: skip
def test_simulate_clicks__does_not_depend_on_layout_or_dtype(data, shape, layout, other, dtype, fill, background):
    labels = data.draw(strategies.instances(shape)).astype(dtype)
    uptake = data.draw(strategies.uptakes(shape))
    wide = data.draw(st.sampled_from([np.float32, np.float64]))
    settings = {"fill": fill, "background": background, "background_fill": fill, "margin_mm": 1.5, "shell_mm": [1, 9]}
    if background != "hot":
        del settings["background_fill"]
    if background != "shell":
        del settings["shell_mm"]
    plain = simulate(np.ascontiguousarray(labels).astype(np.int32), uptake=uptake, **settings)
    moved = simulate(layout(labels), uptake=other(uptake.astype(wide)), **settings)
    assert list(plain) == list(moved)
    assert plain.notes == moved.notes


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [0.7, 2.04, (1.1, 1.1, 3.3), (4.07, 4.07, 5.0)])
def test_simulate_clicks__depths_that_differ_by_rounding_give_the_same_clicks_in_any_layout(strategy, size):
    ball = ((np.indices((16, 16, 16)) - 7.5) ** 2).sum(0) < 42
    ball[5, 9, 8] = ball[10, 3, 7] = False
    spacing = (size,) * 3 if isinstance(size, float) else size
    clicks = [
        simulate(layout(ball), spacing=spacing, strategy=strategy, fill="deepest", n_foreground=250).foreground.tolist()
        for layout in (strategies.as_c, strategies.as_f, strategies.as_middle)
    ]
    assert clicks[0] == clicks[1] == clicks[2]


@given(
    strategies.instances(), strategies.spacings(), st.sampled_from([0.5, 2.0, 1.7, 10.0]), st.sampled_from(STRATEGIES)
)
def test_simulate_clicks__scaling_all_spacings_moves_no_click(labels, spacing, factor, fill):
    scaled = tuple(factor * s for s in spacing)
    plain = simulate(labels, spacing=spacing, fill=fill, jitter_mm=2.0)
    assert list(plain) == list(simulate(labels, spacing=scaled, fill=fill, jitter_mm=2.0 * factor))


@given(strategies.shapes(7).flatmap(strategies.instances), strategies.spacings(), st.permutations([0, 1, 2]), st.data())
def test_simulate_clicks__flips_and_permutations_keep_the_depths_of_centres(labels, spacing, axes, data):
    flips = [axis for axis in range(3) if data.draw(st.booleans())]
    turned = np.flip(labels, flips).transpose(axes)

    def depths(volume, sizes):
        prompts = simulate(volume, spacing=sizes, lesions="all", instances="labels")
        return {
            click.lesion: reference.squared_distance_inside(volume == click.lesion, sizes, True)[click.voxel]
            for click in prompts
        }

    assert depths(labels, spacing) == pytest.approx(depths(turned, tuple(spacing[a] for a in axes)), rel=1e-9)


@pytest.mark.parametrize("fill", STRATEGIES)
@pytest.mark.parametrize("jitter", [0.0, 4.0])
def test_simulate_clicks__one_more_lesion_changes_no_other_lesions_clicks(fill, jitter):
    labels = scene()[0].astype(np.int32)
    labels *= reference.components(labels)[0]
    more = labels.copy()
    more[24:27, 1:4, 1:4] = 9  # first in the order of components, and an id of its own
    settings = {"fill": fill, "strategy": "uniform", "jitter_mm": jitter, "n_foreground": 24}
    plain, other = (by_component(simulate(volume, **settings)) for volume in (labels, more))
    assert set(other) == {*plain, 9}
    for lesion, voxels in plain.items():
        common = min(len(voxels), len(other[lesion]))
        assert common >= 1
        assert voxels[:common] == other[lesion][:common]


def test_simulate_clicks__takes_python_lists():
    mask, uptake = scene()
    plain = simulate(mask, uptake=uptake.astype(float))
    lists = simulate(mask.tolist(), uptake=uptake.tolist(), spacing=list(SPACING))
    assert list(plain) == list(lists)
    organs = np.ones(mask.shape, np.uint8)
    listed = simulate(mask.tolist(), organs=organs.tolist(), background="organ")
    assert list(listed) == list(simulate(mask, organs=organs, background="organ"))


def test_simulate_clicks__does_not_change_its_inputs():
    mask, uptake = scene()
    for array in (mask, uptake):
        array.setflags(write=False)
    assert len(simulate(mask, uptake=uptake, jitter_mm=3.0)) == 20


def one_case(seed):
    mask, uptake = scene()
    return simulate(mask, uptake=uptake, seed=seed, jitter_mm=3.0, case_id=f"case_{seed}").to_json()


def test_simulate_clicks__two_threads_and_two_spawned_processes_give_the_same():
    here = [one_case(seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one_case, range(6))) == here
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(one_case, range(6))) == here


# refusals and warnings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "autopet-iv"}, "needs a version: autopet-iv@1 or autopet-iv@2"),
        ({"protocol": "longitudnal-ct@1"}, "unknown protocol 'longitudnal-ct@1'; did you mean 'longitudinal-ct@1'"),
        ({"n_forground": 3}, "unknown setting 'n_forground' of autopet-iv@2; did you mean 'n_foreground'"),
        ({"strategy": "deepst"}, "unknown strategy 'deepst'; did you mean 'deepest'"),
        ({"fill": "rimm"}, "did you mean 'rim'"),
        ({"background": "hott"}, "did you mean 'hot'"),
        ({"lesions": "volumes"}, "did you mean 'volume'"),
        ({"instances": "label"}, "did you mean 'labels'"),
        ({"n_foreground": -1}, "n_foreground must be at least 0"),
        ({"n_foreground": 2.5}, "whole number, got 2.5"),
        ({"n_foreground": True}, "whole number, got True"),
        ({"percentile": 101}, "at least 0 and at most 100, got 101"),
        ({"percentile": float("nan")}, "must be a number, got nan"),
        ({"jitter_mm": "far"}, "must be a number, got 'far'"),
        ({"margin_mm": -1}, "margin_mm must be at least 0"),
        ({"shell_mm": [5]}, "takes 2 numbers; got 1"),
        ({"background": "shell", "shell_mm": [20, 5]}, "shell_mm"),
        ({"target": -1}, "target must be at least 0"),
    ],
)
def test_simulate_clicks__refuses_unknown_and_impossible_settings(settings, words):
    with pytest.raises(SettingError, match=words.replace("[", r"\[")):
        simulate(np.ones((3, 3, 3)), **settings)


@pytest.mark.parametrize("spacing", [None, (1, 1), (1, 0, 1), (1, -1, 1), (1, float("nan"), 1), (1, float("inf"), 1)])
def test_simulate_clicks__refuses_a_missing_or_impossible_spacing(spacing):
    with pytest.raises(GeometryError, match="spacing"):
        simulate(np.ones((3, 3, 3)), spacing=spacing)


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3, 1), (0, 3, 3)])
def test_simulate_clicks__refuses_a_mask_that_is_no_volume(shape):
    with pytest.raises(GeometryError, match="three axes"):
        simulate(np.ones(shape))


def test_simulate_clicks__refuses_labels_and_organs_that_are_wrong():
    with pytest.raises(ImageError, match=r"got -1\.0 to 1\.0 \(case case_x\)"):
        simulate(np.linspace(-1, 1, 27).reshape(3, 3, 3), case_id="case_x")
    with pytest.raises(GeometryError, match="organ mask and mask are on different grids"):
        simulate(np.ones((3, 3, 3)), organs=np.ones((3, 3, 4)), background="organ")
    with pytest.raises(ImageError, match="whole numbers"):
        simulate(box((5, 5, 5), ((1, 1, 1), (3, 3, 3))), organs=np.full((5, 5, 5), 0.5), background="organ")


def test_simulate_clicks__names_ten_lesions_where_the_target_is_none():
    labels = np.zeros((3, 60, 3), np.uint8)
    labels[1, ::2, 1] = np.arange(1, 31)
    with pytest.raises(SettingError, match=r"target 77 .*\(case x\); lesions: 1, 2, .*, 10 and \d+ more$"):
        simulate(labels, target=77, case_id="x")


@pytest.mark.parametrize(
    "settings",
    [
        {"shell_mm": [1, 2]}, {"organ": [1]}, {"body_suv": 1}, {"background": "shell", "percentile": 99},
        {"background": "shell", "suv": 2}, {"background": "body", "background_fill": "rim"},
        {"background": "shell", "background_strategy": "rim"}, {"target": 1, "background": "others", "margin_mm": 1},
        {"organs": np.ones((5, 5, 5))},
    ],
)  # fmt: skip
def test_simulate_clicks__warns_of_a_setting_without_effect(settings):
    mask = box((5, 5, 5), ((1, 1, 1), (3, 3, 3)))
    with pytest.warns(UserWarning, match="has no effect unless background is"):
        simulate(mask, **settings)


def test_simulate_clicks__does_not_warn_of_a_setting_with_effect():
    mask = box((5, 5, 5), ((1, 1, 1), (3, 3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(mask, background="shell", shell_mm=[1, 2], margin_mm=1.0)
        simulate(mask, background="organ", organs=np.ones((5, 5, 5)), organ=[1], background_fill="rim")


def test_simulate_clicks__says_what_made_the_prompts():
    prompts = simulate(scene()[0], seed=np.int64(3), case_id="x", n_foreground=2)
    assert (prompts.protocol, prompts.seed, prompts.case_id) == ("autopet-iv@2", 3, "x")
    assert prompts.settings["n_foreground"] == 2
    assert prompts.settings["margin_mm"] == 5.0
    assert prompts.grid.spacing == SPACING
    assert len(prompts.foreground) == 2

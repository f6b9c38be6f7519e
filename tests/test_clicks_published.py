"""The published rule against its slow twin, click by click, and against what the organisers published."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import clicksim
from clicksim.errors import ClicksimError, ReferenceAbortError, SettingError
from tests import golden, reference, strategies

BUDGETS = st.sampled_from([0, 1, 3, 10])
OFFSETS = st.sampled_from([0, 0, 1, 2, 5])
SEEDS = st.sampled_from([42, 42, 0, 1, 2**32 - 1]) | st.integers(0, 2**32 - 1)
no_shrink = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking whole volumes takes minutes


def published(label, uptake=None, **kwargs):
    """What the library places, in the oracle's form; None where it stops as the published script does."""
    try:
        prompts = clicksim.simulate_clicks(label, uptake=uptake, protocol="autopet-iv@1", **kwargs)
    except ReferenceAbortError:
        return None
    return {"tumor": prompts.foreground.tolist(), "background": prompts.background.tolist()}


def oracle(label, uptake=None, center_offset=0, edge_offset=0, **kwargs):
    """The slow twin; an offset of 0 is none."""
    try:
        return reference.autopet_iv_1(
            label, uptake, center_offset=center_offset or None, edge_offset=edge_offset or None, **kwargs
        )
    except AssertionError:
        return None


@given(strategies.instances(), strategies.layouts(), strategies.dtypes(), BUDGETS, OFFSETS, OFFSETS, SEEDS)
def test_simulate_clicks__foreground_equals_the_slow_twin(labels, layout, dtype, budget, center, edge, seed):
    labels = labels.astype(dtype)
    settings = {"n_foreground": budget, "center_offset": center, "edge_offset": edge, "seed": seed}
    assert published(layout(labels), **settings) == oracle(labels, **settings)


@given(st.data(), strategies.shapes(), strategies.layouts(), strategies.layouts(), BUDGETS, BUDGETS, SEEDS)
def test_simulate_clicks__both_lists_equal_the_slow_twin(data, shape, layout, other_layout, n_fg, n_bg, seed):
    labels, uptake = data.draw(strategies.instances(shape)), data.draw(strategies.uptakes(shape))
    dtype = data.draw(st.sampled_from(["f2", "f4", "f8", "i2", "i8", "u1", ">f4"]))
    settings = {"n_foreground": n_fg, "n_background": n_bg, "seed": seed}
    got = published(layout(labels), other_layout(uptake.astype(dtype)), **settings)
    assert got == oracle(labels, uptake.astype(dtype), **settings)


@no_shrink
@given(strategies.hot_cases(), strategies.layouts(), strategies.layouts(), OFFSETS, OFFSETS, SEEDS)
def test_simulate_clicks__background_fill_up_and_its_abort_equal_the_slow_twin(
    case, layout, other_layout, center, edge, seed
):
    label, uptake = case
    settings = {"center_offset": center, "edge_offset": edge, "seed": seed}
    assert published(layout(label), other_layout(uptake), **settings) == oracle(label, uptake, **settings)


def test_simulate_clicks__stops_where_the_published_script_stops_and_says_so():
    label = np.ones((15, 15, 15), dtype=bool)
    label[:, :, 0] = False
    uptake = np.zeros(label.shape)
    uptake[3, 3, 0] = 1
    with pytest.raises(
        ReferenceAbortError, match=r"published script draws .* and stops \(case case_7\); use autopet-iv@2"
    ):
        clicksim.simulate_clicks(label, uptake=uptake, protocol="autopet-iv@1", case_id="case_7")
    assert oracle(label, uptake) is None
    # with no extra click to draw there is nothing to stop for
    assert published(label, uptake, n_background=1) == oracle(label, uptake, n_background=1) != None  # noqa: E711


@pytest.mark.parametrize("seed", range(12))
def test_simulate_clicks__equals_the_slow_twin_on_cases_of_many_hot_components(seed):
    draws = np.random.default_rng(seed)
    label = (draws.random((20, 18, 16)) < 0.01) * draws.integers(1, 4, (20, 18, 16))
    uptake = draws.gamma(0.3, 2, label.shape).astype(np.float32)
    # fewer hot components than clicks, about as many, and more
    for percentile_of_tied in (4, 9, 40):
        tied = np.where(uptake >= np.sort(uptake.ravel())[-percentile_of_tied], 5, uptake / 100).astype(np.float32)
        assert published(label, np.asfortranarray(tied)) == oracle(label, tied)


@pytest.mark.parametrize("seed", range(20))
def test_simulate_clicks__strays_over_a_tiny_volume_as_the_slow_twin_does(seed):
    uptake = np.random.default_rng(seed).random((3, 3, 2))  # 17 voxels around one hot voxel, nine draws
    assert published(uptake * 0, uptake, seed=seed) == oracle(uptake * 0, uptake, seed=seed)
    uptake[0, 0, 0] = uptake[0, 0, 1] = uptake[2, 2, 1] = 2
    label = uptake < 0.1
    assert published(label, np.asfortranarray(uptake), seed=seed) == oracle(label, uptake, seed=seed)


@pytest.mark.parametrize("with_uptake", [False, True])
@pytest.mark.parametrize("value", [0, 1])
def test_simulate_clicks__is_short_with_a_note_where_nothing_qualifies(value, with_uptake):
    label, uptake = np.full((3, 4, 5), value), np.ones((3, 4, 5)) if with_uptake else None
    prompts = clicksim.simulate_clicks(label, uptake=uptake, protocol="autopet-iv@1")
    assert len(prompts) == 0
    assert len(prompts.notes) == 1
    assert ("no uptake above the threshold" if with_uptake else "no uptake (PET) given") in prompts.notes[0]


def test_simulate_clicks__of_a_volume_filled_by_two_instances_is_an_ordinary_case():
    label = np.ones((4, 4, 4), np.uint8)
    label[2:] = 2
    assert len(published(label)["tumor"]) == 10
    assert published(label) == oracle(label)


def test_simulate_clicks__draws_the_permutation_of_lesions_even_for_no_foreground_clicks():
    label = np.zeros((30, 30, 3), dtype=np.uint8)
    label[0, ::2, 0] = 1
    uptake = np.zeros(label.shape)
    uptake[10, :20:4, 1] = 5.0
    for lesions in (label, label * 0):
        for n_foreground in (0, 1, 10):
            got = published(lesions, uptake, n_foreground=n_foreground, n_background=5)
            assert got == oracle(lesions, uptake, n_foreground=n_foreground, n_background=5)
            assert len(got["background"]) == 5


def test_simulate_clicks__moved_clicks_draw_three_numbers_each_in_their_order():
    label = np.ones((9, 9, 9), dtype=bool)
    label[0] = False
    got = published(label, center_offset=2, edge_offset=3, seed=5)["tumor"]
    plain, draws = published(label, seed=5)["tumor"], random.Random(5)
    for n, (click, moved) in enumerate(zip(plain, got, strict=True)):
        candidate = [c + draws.randint(0, 2 if n == 0 else 3) for c in click]
        assert moved == (candidate if max(candidate) < 9 else click)
    assert got != plain


def test_simulate_clicks__leaves_the_global_generators_alone():
    label = np.zeros((9, 9, 9), np.uint8)
    label[2:5, 2:6, 3:5] = label[7, 7, 7] = 1
    uptake = np.random.default_rng(1).random(label.shape)
    for protocol in ("autopet-iv@1", "autopet-iv@2"):
        before = np.random.get_state(), random.getstate()  # noqa: NPY002 - it is what must not move
        moves = {"center_offset": 1, "edge_offset": 1} if protocol.endswith("1") else {"jitter_mm": 3}
        clicksim.simulate_clicks(label, uptake=uptake, spacing=(1, 1, 1), protocol=protocol, **moves)
        after = np.random.get_state(), random.getstate()  # noqa: NPY002
        assert before[0][0] == after[0][0]
        np.testing.assert_array_equal(before[0][1], after[0][1])
        assert before[0][2:] == after[0][2:]
        assert before[1] == after[1]


def test_simulate_clicks__ignores_spacing_and_case():
    label = np.random.default_rng(3).random((9, 9, 9)) < 0.2
    plain = published(label)
    assert published(label, spacing=(1, 1, 8), case_id="other") == plain
    assert published(label, seed=43) != plain


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_simulate_clicks__refuses_a_seed_that_the_published_generator_cannot_take(seed):
    with pytest.raises(SettingError, match=f"seeds from 0 to 4294967295, got {seed}"):
        clicksim.simulate_clicks(np.ones((3, 3, 3)), protocol="autopet-iv@1", seed=seed)
    with pytest.raises(TypeError):
        clicksim.simulate_clicks(np.ones((3, 3, 3)), protocol="autopet-iv@1", seed=1.5)


def test_simulate_clicks__has_its_own_rule_for_instances_and_settings():
    with pytest.raises(SettingError, match="has its own rule for instances"):
        clicksim.simulate_clicks(np.ones((3, 3, 3)), protocol="autopet-iv@1", instances="labels")
    with pytest.raises(SettingError, match="unknown setting 'jitter_mm' of autopet-iv@1"):
        clicksim.simulate_clicks(np.ones((3, 3, 3)), protocol="autopet-iv@1", jitter_mm=1)
    with pytest.raises(SettingError, match="unknown setting 'rule' of autopet-iv@1"):
        clicksim.simulate_clicks(np.ones((3, 3, 3)), protocol="autopet-iv@1", rule="revised")


# longitudinal CT


@given(strategies.instances(), strategies.layouts(), SEEDS)
def test_longitudinal_ct__equals_the_slow_twin(labels, layout, seed):
    prompts = clicksim.simulate_clicks(layout(labels), protocol="longitudinal-ct@1", seed=seed)
    assert prompts.foreground.tolist() == reference.longitudinal_ct_1(labels, seed=seed)["tumor"]
    assert len(prompts.background) == 0
    assert not prompts.notes


@given(strategies.instances(), strategies.layouts())
def test_longitudinal_ct__per_lesion_clicks_the_centre_of_each_id(labels, layout):
    assume(labels.any())
    prompts = clicksim.simulate_clicks(layout(labels), protocol="longitudinal-ct@1", per_lesion=True)
    ids = [int(n) for n in np.unique(labels) if n]
    assert [click.lesion for click in prompts] == ids
    for click in prompts:
        mask = labels == click.lesion
        expected = (0, 0, 0) if mask.all() else reference.deepest_voxel(mask)
        assert click.voxel == expected


# what the organisers published


@pytest.mark.real
def test_simulate_clicks__equals_the_ten_published_clicks_of_an_fdg_case(realdata: Path):
    nibabel = pytest.importorskip("nibabel")
    folder = realdata / "autopet" / "fdg_0b57b247b6"
    found = sorted(folder.glob("*.nii.gz"))
    if not found:
        pytest.skip(f"no published FDG label at {folder}")
    expected = json.loads(Path(str(found[0]).replace(".nii.gz", "_clicks.json")).read_text())["tumor"]
    label = np.asarray(nibabel.load(found[0]).dataobj)
    assert len(expected) == 10
    assert published(label)["tumor"] == expected
    # C order, a wider dtype, and one uptake more change nothing
    assert published(np.ascontiguousarray(label).astype(np.int16))["tumor"] == expected


# golden vectors


@pytest.mark.parametrize("name", sorted(golden.CASES))
def test_simulate_clicks__equals_its_golden_vectors(name):
    stored = json.loads((golden.FOLDER / f"{name}.json").read_text())
    assert golden.vectors(name) == stored


def test_golden__every_protocol_with_a_rule_for_clicks_has_vectors():
    from clicksim.protocols import list_protocols

    stored = {run["protocol"] for name in golden.CASES for run in golden.vectors(name)}
    assert stored == {protocol.id for protocol in list_protocols() if "clicks" in protocol.tables}


@pytest.mark.parametrize("name", sorted(golden.CASES))
def test_golden__the_published_vectors_equal_the_slow_twin(name):
    label, uptake = golden.CASES[name]()
    for run in json.loads((golden.FOLDER / f"{name}.json").read_text()):
        if run["protocol"] == "autopet-iv@1":
            expected = oracle(label, uptake, seed=run["seed"], **run["settings"])
            assert {key: run.get(key) for key in ("tumor", "background")} == (
                expected or {"tumor": None, "background": None}
            )
            assert ("refused" in run) == (expected is None)


def test_errors__of_the_published_rule_are_all_refusals_of_input():
    assert issubclass(ReferenceAbortError, ClicksimError)

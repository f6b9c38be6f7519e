"""The person who prompts: known parameters come back from recorded prompts, and ideal ones change nothing."""

import numpy as np
import pytest

from clicksim import Click, Grid, Prompts, Scribble, simulate_clicks
from clicksim.errors import GeometryError, SettingError, UptakeError
from clicksim.simulate.annotators.annotator_fit import Recorded, fit_annotator
from clicksim.simulate.annotators.people import PRESETS, Annotator, annotate, contrast_of, find_annotator

TRUTH = Annotator(
    "known", offset_mm=1.5, offset_per_radius=0.3, miss_intercept=-1.0, miss_per_volume=-0.7, miss_per_contrast=-1.2,
    wrong_polarity=0.05, repeat=0.2, seconds=3.0, source="test",
)  # fmt: skip


def record(model: Annotator, count: int, seed: int) -> list[Recorded]:
    """Draws straight from the model as documented, by other code than the library's."""
    draws = np.random.default_rng(seed)
    entries = []
    for _ in range(count):
        volume, contrast = float(np.exp(draws.normal(0, 1.3))), float(1.5 + draws.exponential(3))
        odds = (
            model.miss_intercept
            + model.miss_per_volume * np.log(volume)
            + model.miss_per_contrast * np.log(contrast / 2)
        )
        clicks = 0
        if draws.random() >= 1 / (1 + np.exp(-odds)):
            clicks = 1
            while draws.random() < model.repeat:
                clicks += 1
        spread = model.offset_mm + model.offset_per_radius * (3000 * volume / (4 * np.pi)) ** (1 / 3)
        wrong = int((draws.random(clicks) < model.wrong_polarity).sum())
        entries.append(Recorded(volume, contrast, draws.normal(0, spread, (clicks, 3)), wrong, 3.0 * clicks))
    return entries


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, Prompts]:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[5:12, 5:12, 5:12] = 1
    mask[25:28, 25:28, 25:28] = 1
    return mask, simulate_clicks(mask, spacing=(2, 2, 3), case_id="case", n_foreground=6)


def test_fit_annotator__recovers_known_parameters() -> None:
    fit = fit_annotator("fitted", record(TRUTH, 1500, seed=1), bootstrap=30)
    for name, tolerance in (
        ("offset_mm", 0.35), ("offset_per_radius", 0.06), ("miss_intercept", 0.3), ("miss_per_volume", 0.2),
        ("miss_per_contrast", 0.5), ("wrong_polarity", 0.02), ("repeat", 0.04), ("seconds", 1e-9),
    ):  # fmt: skip
        assert abs(getattr(fit.annotator, name) - getattr(TRUTH, name)) < tolerance, name
        low, high = fit.intervals[name]
        assert low <= getattr(fit.annotator, name) <= high
    assert fit.offset_p > 0.01
    assert fit.miss_error < 0.05
    assert "fitted to" in fit.annotator.source


def test_fit_annotator__says_where_the_model_does_not_fit() -> None:
    odd = [
        Recorded(entry.volume_ml, entry.contrast, np.where(np.abs(entry.offsets_mm) > 0, 4.0, 0.0))
        for entry in record(TRUTH, 400, seed=2)
    ]
    assert fit_annotator("odd", odd, bootstrap=5).offset_p < 1e-6


def test_fit_annotator__takes_a_person_who_misses_nothing() -> None:
    fit = fit_annotator("all", record(PRESETS["ideal"], 30, seed=3), bootstrap=5)
    assert fit.annotator.miss_intercept == -np.inf
    assert fit.annotator.misses(0.01, 1.0) == 0


def test_fit_annotator__stays_finite_where_size_alone_decides_what_is_missed() -> None:
    seen, missed = np.ones((1, 3)), np.empty((0, 3))
    recorded = [Recorded(volume, 2.0, seen if volume > 1 else missed) for volume in (0.1, 0.3, 0.5, 2.0, 4.0, 8.0) * 4]
    fit = fit_annotator("sharp", recorded, bootstrap=5)
    assert -8 < fit.annotator.miss_per_volume < -2  # without a bound it would be as steep as the search goes
    assert fit.annotator.misses(0.5, 2.0) > 0.9
    assert fit.annotator.misses(2.0, 2.0) < 0.1


def test_fit_annotator__refuses_too_little() -> None:
    with pytest.raises(SettingError, match="at least ten lesions"):
        fit_annotator("few", record(TRUTH, 9, seed=1))
    with pytest.raises(SettingError, match="got 12 lesions and 0 clicks"):
        fit_annotator("none", [Recorded(1.0, 2.0, np.empty((0, 3)))] * 12)
    with pytest.raises(SettingError, match="at least one bootstrap sample"):
        fit_annotator("no intervals", record(TRUTH, 30, seed=1), bootstrap=0)


def test_annotate__ideal_changes_nothing(case: tuple[np.ndarray, Prompts]) -> None:
    mask, prompts = case
    assert annotate(prompts, mask, "ideal").items == prompts.items


def test_annotate__is_a_function_of_its_arguments(case: tuple[np.ndarray, Prompts]) -> None:
    mask, prompts = case
    one, two = (annotate(prompts, mask, "hurried", seed=5) for _ in range(2))
    assert one.items == two.items
    assert one.items != annotate(prompts, mask, "hurried", seed=6).items
    assert one.annotator == "hurried"


def test_annotate__displaces_without_a_side() -> None:
    grid = Grid.from_spacing((100, 100, 100), (1, 1, 1))
    prompts = Prompts(tuple(Click((50, 50, 50), False) for _ in range(4000)), grid, "case")
    moved = annotate(prompts, np.zeros(grid.shape, np.uint8), Annotator("shaky", offset_mm=4.0))
    steps = moved.background - 50
    assert np.all(np.abs(steps.mean(axis=0)) < 0.25)
    assert np.allclose(steps.std(axis=0), 4.0, rtol=0.06)


def test_annotate__misses_a_whole_lesion(case: tuple[np.ndarray, Prompts]) -> None:
    mask, prompts = case
    blind = annotate(prompts, mask, Annotator("blind", miss_intercept=50.0))
    assert len(blind.foreground) == 0
    assert "misses 2 of 2 lesions" in blind.notes[-1]


def test_annotate__flips_and_repeats_as_often_as_said() -> None:
    grid = Grid.from_spacing((9, 9, 9), (1, 1, 1))
    prompts = Prompts(tuple(Click((4, 4, 4), False) for _ in range(4000)), grid, "case")
    made = annotate(prompts, np.zeros(grid.shape, np.uint8), Annotator("odd", wrong_polarity=0.3, repeat=0.25))
    assert abs(len(made.foreground) / len(made) - 0.3) < 0.03
    assert abs(len(made) / 4000 - 1 / 0.75) < 0.05


def test_annotate__keeps_strokes_in_the_volume() -> None:
    grid = Grid.from_spacing((10, 10, 10), (1, 1, 1))
    stroke = Prompts((Scribble(((0, 0, 0), (9, 9, 9)), False),), grid, "case")
    made = annotate(stroke, np.zeros(grid.shape, np.uint8), Annotator("wild", offset_mm=30, tremor_mm=10))
    assert grid.holds(made.background).all()


def test_annotate__a_tremor_moves_each_voxel_by_as_much_as_said_and_covers_none_twice() -> None:
    grid = Grid.from_spacing((200, 60, 60), (1, 1, 1))
    straight = tuple((i, 30, 30) for i in range(20, 180))
    made = annotate(
        Prompts((Scribble(straight, False),) * 20, grid, "case"), np.zeros(grid.shape, np.uint8),
        Annotator("trembling", tremor_mm=3.0),
    )  # fmt: skip
    steps = np.concatenate([np.array(stroke.voxels)[:, 1:] - 30 for stroke in made])
    assert np.allclose(steps.std(axis=0), 3.0, rtol=0.06)
    shaken = annotate(
        Prompts((Scribble(straight, False),), grid), np.zeros(grid.shape, np.uint8), Annotator("x", tremor_mm=0.6)
    )
    (stroke,) = shaken
    assert len(set(stroke.voxels)) == len(stroke.voxels) < len(straight)


def test_annotate__a_steady_hand_leaves_a_stroke_that_comes_back_as_it_is() -> None:
    grid = Grid.from_spacing((9, 9, 9), (1, 1, 1))
    loop = Scribble(((1, 1, 1), (1, 2, 1), (1, 1, 1)), False)
    assert annotate(Prompts((loop,), grid), np.zeros(grid.shape, np.uint8), "ideal").items == (loop,)


def test_annotate__a_click_beside_its_lesion_goes_with_it() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    beside = Prompts(
        (Click((6, 6, 6), True, 1), Click((6, 6, 6), True, None)), Grid.from_spacing(mask.shape, (1, 1, 1))
    )
    made = annotate(beside, mask, Annotator("blind", miss_intercept=50.0))
    assert made.items == (Click((6, 6, 6), True, None),)  # of no lesion, so none hides it


def test_annotate__needs_a_spacing() -> None:
    with pytest.raises(GeometryError, match="an annotator measures in mm"):
        annotate(Prompts((), Grid((4, 4, 4))), np.zeros((4, 4, 4)), "ideal")


def test_annotate__refuses_other_shapes_and_an_uptake_that_is_not_finite(case: tuple[np.ndarray, Prompts]) -> None:
    mask, prompts = case
    with pytest.raises(GeometryError, match=r"mask and prompts are on different grids.*\(case case\)"):
        annotate(prompts, mask[1:], "hurried")
    with pytest.raises(GeometryError, match="uptake and prompts are on different grids"):
        annotate(prompts, mask, "hurried", uptake=np.ones((3, 3, 3)))
    with pytest.raises(UptakeError, match="not finite in or near lesion 1"):
        annotate(prompts, mask, "hurried", uptake=np.full(mask.shape, np.nan))


def test_find_annotator__names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'careful'"):
        find_annotator("carefull")


@pytest.mark.parametrize("wrong", [
    {"wrong_polarity": 1.1}, {"offset_mm": -1.0}, {"repeat": np.nan}, {"miss_intercept": np.nan},
    {"miss_intercept": np.inf}, {"miss_per_volume": np.inf}, {"miss_per_contrast": np.nan},
])  # fmt: skip
def test_annotator__refuses_impossible_parameters(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Annotator("no", **wrong)


def test_presets__say_that_they_are_assumed() -> None:
    assert {preset.source for preset in PRESETS.values()} == {"assumed"}


def test_contrast_of__compares_with_what_lies_around() -> None:
    from clicksim import find_lesions

    mask = np.zeros((20, 20, 20), np.uint8)
    mask[9:11, 9:11, 9:11] = 1
    uptake = np.where(mask, 6.0, 2.0)
    (lesion,) = find_lesions(mask)
    assert contrast_of(lesion, uptake, (2, 2, 2)) == pytest.approx(3.0)
    assert contrast_of(lesion, np.zeros_like(uptake), (2, 2, 2)) == 1.0

"""The interactive loop: who sees what in which round, what a failure costs, and the numbers that sum it up."""

import json
import math
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim import Click, Grid, Prompts, Scribble, correct, simulate_clicks, write_image
from clicksim.catalog import Unit
from clicksim.errors import CatalogError, ClicksimError, GeometryError, PromptFormatError, SettingError, StorageError
from clicksim.phantom import make_phantom
from clicksim.pipeline.cases import CaseEntry
from clicksim.pipeline.playing import with_recordings
from clicksim.predictors import (
    CommandPredictor,
    RoundFailure,
    Scan,
    ThresholdPredictor,
    open_predictor,
    parse_spec,
    predict_folder,
)
from clicksim.prompts.table import prompt_schema, to_table
from clicksim.rounds import RoundsCase, compare_runs, play, summarise
from clicksim.rounds.case_curves import Curve, curves_of, metric_scores
from clicksim.rounds.prompters import Recording
from clicksim.rounds.replay import make_recordings, measure_agreement, read_recordings
from clicksim.rounds.statistics import bootstrap_means, draw_clusters
from clicksim.rounds.texts import failure_lines
from clicksim.streams import stream
from clicksim.volumes import Volume, read_image

SHAPE = (20, 18, 16)
GRID = Grid(SHAPE, None, np.array([[-4.0, 0, 0, 40], [0, 4, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]]))
BOTH = ("autopet-v@1", "autopet-v@2")
ALL = (*BOTH, "autopet-iv@1", "autopet-iv@2")


def lesions():
    mask = np.zeros(SHAPE, np.uint8, order="F")
    mask[2:7, 3:8, 4:8] = 1
    mask[12:15, 10:14, 8:12] = 1
    return mask


def pet():
    uptake = np.asfortranarray(np.random.default_rng(0).random(SHAPE).astype(np.float32))
    uptake[lesions() > 0] += 5
    uptake[16:19, 2:5, 2:5] += 8
    return uptake


def case(truth=None, **facts):
    return RoundsCase(Scan("a", GRID, None, pet()), lesions() if truth is None else truth, facts)


def wrong():
    """A prediction with both kinds of error."""
    mask = lesions()
    mask[2:4] = 0
    mask[16:19, 2:5, 2:5] = 1
    return mask


def dices(game):
    return [row["dice"] for row in game.rows]


def failures(game):
    return [row["failure"] for row in game.rows]


# who sees what


@pytest.mark.parametrize("protocol", ["autopet-iv@1", "autopet-iv@2"])
def test_play__reveals_the_first_n_clicks_of_each_polarity_in_round_n(protocol):
    seen = []
    game = play(case(), lambda scan, prompts: seen.append(prompts) or wrong(), protocol=protocol)
    clicks = simulate_clicks(lesions(), uptake=pet(), spacing=GRID.spacing, protocol=protocol, seed=42, case_id="a")
    assert len(game.rows) == len(seen) == 11
    for number, prompts in enumerate(seen):
        assert prompts.foreground.tolist() == clicks.foreground[:number].tolist()
        assert prompts.background.tolist() == clicks.background[:number].tolist()
    assert {prompt.round for prompt in game.prompts} <= set(range(1, 11))


@pytest.mark.parametrize("protocol", BOTH)
def test_play__corrects_the_previous_prediction_and_keeps_all_prompts(protocol):
    seen = []
    game = play(case(), lambda scan, prompts: seen.append((scan.round, prompts)) or wrong(), protocol=protocol)
    assert [number for number, _ in seen] == list(range(6))
    assert len(seen[0][1]) == 0
    first = correct(wrong(), lesions(), spacing=GRID.spacing, protocol=protocol, case_id="a", round=1)
    assert seen[1][1].items == first.items
    for (_, earlier), (_, later) in pairwise(seen):
        assert later.items[: len(earlier)] == earlier.items
    assert [row["n_prompts"] for row in game.rows] == [0, 1, 2, 3, 4, 5]
    assert game.prompts.items == seen[-1][1].items


def test_play__takes_the_number_of_rounds_and_the_settings_of_the_prompts():
    game = play(case(), lambda *_: wrong(), protocol="autopet-v@1", n_rounds=5, strategy="boundary")
    assert len(game.rows) == 5
    assert game.prompts.settings["strategy"] == "boundary"
    with pytest.raises(SettingError, match="did you mean 'strategy'"):
        play(case(), lambda *_: wrong(), protocol="autopet-v@1", stratgy="boundary")
    with pytest.raises(SettingError, match="no rule for rounds"):
        play(case(), lambda *_: wrong(), protocol="deep-psma@1")


def test_play__fixes_the_strategy_of_a_case_and_shares_them_out():
    names = ("centerline", "random", "boundary")
    found = set()
    for number in range(12):
        played = RoundsCase(Scan(f"c{number}", GRID), lesions())
        games = [play(played, lambda *_: wrong(), strategies=names, n_rounds=2) for _ in range(2)]
        assert games[0].prompts == games[1].prompts
        found.add(games[0].prompts.settings["strategy"])
    assert found == set(names)


def test_play__shows_a_predictor_images_that_it_cannot_change_and_no_truth():
    def vandal(scan, prompts):
        assert not hasattr(scan, "truth")
        scan.pet[:] = 0

    game = play(case(), vandal, n_rounds=1)
    assert failures(game) == ["PredictorError"]
    assert "read-only" in game.rows[0]["detail"]


def test_play__is_not_fooled_by_a_mask_that_is_written_again():
    mask = wrong()

    def predictor(scan, prompts):
        if scan.round == 1:
            mask[:] = 0
            raise RuntimeError
        return mask

    game = play(case(), predictor, n_rounds=3)
    assert game.prompts.items[1].round == 2
    rest = correct(
        wrong(), lesions(), spacing=GRID.spacing, case_id="a", round=2, previous=Prompts(game.prompts.items[:1], GRID)
    )
    assert game.prompts.items[1:] == rest.items


# scores of rounds


def test_play__scores_the_published_loop_on_masks_and_without_lesions():
    """Reference: dice on binarised arrays, 1 both empty, 0 only the truth empty; DMM undefined without lesions."""
    empty = np.zeros(SHAPE, np.uint8, order="F")
    instances = lesions()
    instances[12:15] *= 7
    got = play(case(instances), lambda *_: wrong() * 3, protocol="autopet-v@1", n_rounds=1)
    truth, mask = lesions() > 0, wrong() > 0
    assert got.rows[0]["dice"] == 2 * (truth & mask).sum() / (truth.sum() + mask.sum())
    none = play(case(empty), lambda *_: empty, protocol="autopet-v@1")
    some = play(case(empty), lambda *_: wrong(), protocol="autopet-v@1")
    assert dices(none) == [1.0] * 6
    assert dices(some) == [0.0] * 6
    assert [row["dmm"] for row in none.rows + some.rows] == [None] * 12
    assert [row["inferred"] for row in some.rows] == [True] * 6  # asked again, without prompts
    assert len(some.prompts) == 0
    assert some.rows[0]["fpv_ml"] == wrong().sum() * 0.048


@pytest.mark.parametrize("left", ["false positives", "false negatives", "nothing"])
def test_play__scores_0_once_one_kind_of_error_is_left_as_published(left):
    """Q11: the loop fails where one side is empty, and its stale prediction repeats that."""
    mask = lesions()
    if left == "false positives":
        mask[16:19, 2:5, 2:5] = 1
    elif left == "false negatives":
        mask[2:4] = 0
    asked = []

    def predictor(scan, prompts):
        asked.append(scan.round)
        return wrong() if scan.round == 0 else mask

    game = play(case(), predictor, protocol="autopet-v@1")
    assert asked == [0, 1]
    assert dices(game)[2:] == [0.0] * 4
    assert [row["dmm"] for row in game.rows][2:] == [0.0] * 4
    assert failures(game) == [None, None] + ["OneKindOfError"] * 4
    assert dices(game)[1] > 0.5


def test_play__ends_with_the_perfect_score_under_the_revised_rule():
    game = play(case(), lambda scan, prompts: lesions() if scan.round else wrong())
    assert dices(game)[1:] == [1.0] * 5
    assert [row["inferred"] for row in game.rows] == [True, True, False, False, False, False]
    assert failures(game) == [None] * 6
    assert len(game.prompts) == 1


def test_play__corrects_the_one_kind_of_error_that_is_left_under_the_revised_rule():
    mask = lesions()
    mask[16:19, 2:5, 2:5] = 1
    game = play(case(), lambda *_: mask)
    assert [row["inferred"] for row in game.rows] == [True] * 6
    assert not game.prompts.items[0].foreground


def test_play__revised_rule_scores_a_case_without_lesions():
    empty = np.zeros(SHAPE, np.uint8, order="F")
    game = play(case(empty), lambda scan, prompts: wrong() * (scan.round < 2))
    assert dices(game) == [0, 0, 1, 1, 1, 1]
    assert [row["dmm"] for row in game.rows] == [0, 0, 1, 1, 1, 1]
    assert [row["fpv_ml"] > 0 for row in game.rows] == [True, True, False, False, False, False]
    assert not any(prompt.foreground for prompt in game.prompts)


def test_play__leaves_cases_without_lesions_undefined_in_autopet_iv_as_published():
    empty = np.zeros(SHAPE, np.uint8, order="F")
    game = play(case(empty), lambda *_: wrong(), protocol="autopet-iv@1", n_rounds=2)
    assert [(row["dice"], row["fnv_ml"]) for row in game.rows] == [(None, None)] * 2
    assert all(row["fpv_ml"] > 0 for row in game.rows)


# failures


def _raise(scan, prompts):
    raise KeyError("weights")


def _exit(scan, prompts):
    sys.exit(3)


def _shifted(scan, prompts):
    moved = scan.grid.affine.copy()
    moved[0, 3] += 4
    return Volume(wrong(), Grid(SHAPE, None, moved))


def _nan(scan, prompts):
    mask = wrong().astype(np.float32)
    mask[0, 0, 0] = np.nan
    return mask


def _busy(scan, prompts):
    stop = time.monotonic() + 20
    while time.monotonic() < stop:
        with suppress(Exception):  # as a predictor may well do
            time.sleep(0.001)
    return wrong()


BAD = {
    "raises": (_raise, "PredictorError", "KeyError: 'weights'"),
    "exits": (_exit, "PredictorError", "SystemExit: 3"),
    "none": (lambda *_: None, "NoPrediction", "None"),
    "text": (lambda *_: "mask", "WrongShape", "()"),
    "ragged": (lambda *_: [[1], [1, 2]], "PredictorError", "ValueError"),
    "shape": (lambda *_: wrong()[:-1], "WrongShape", "(19, 18, 16)"),
    "grid": (_shifted, "WrongGrid", "the prediction is on"),
    "nan": (_nan, "BadLabel", "nan"),
    "probability": (lambda *_: wrong() * 0.4, "BadLabel", "0.4"),
    "negative": (lambda *_: -wrong().astype(np.int16), "BadLabel", "-1"),
    "slow": (_busy, "TimeLimit", "0.2 s"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("protocol", BOTH)
def test_play__a_bad_answer_costs_its_round_and_the_row_has_the_reason(protocol, name):
    bad, code, words = BAD[name]
    game = play(
        case(),
        lambda scan, prompts: bad(scan, prompts) if scan.round == 1 else wrong(),
        protocol=protocol,
        time_limit_s=0.2 if name == "slow" else 600,
    )
    assert failures(game) == [None, code, None, None, None, None]
    assert words in game.rows[1]["detail"]
    assert (game.rows[1]["dice"], game.rows[1]["dmm"], game.rows[1]["fpv_ml"]) == (0.0, 0.0, None)
    assert game.rows[1]["truth_ml"] == game.rows[0]["truth_ml"] > 0
    assert min(dices(game)[2:]) > 0.4
    assert [row["n_prompts"] for row in game.rows] == [0, 1, 2, 3, 4, 5]  # the last good prediction is corrected


def test_play__a_late_answer_does_not_count_if_it_cannot_be_interrupted():
    def slow(scan, prompts):
        time.sleep(0.05)
        return wrong()

    with ThreadPoolExecutor(1) as thread:  # signals reach the main thread alone
        game = thread.submit(play, case(), slow, n_rounds=1, time_limit_s=0.01).result()
    assert failures(game) == ["TimeLimit"]


def test_play__a_failed_first_round_has_nothing_to_correct():
    def late(scan, prompts):
        if scan.round == 0:
            raise RuntimeError
        return wrong()

    published = play(case(), late, protocol="autopet-v@1")
    revised = play(case(), late)
    assert failures(published) == ["PredictorError"] + ["NoPrediction"] * 5
    assert failures(revised) == ["PredictorError"] + [None] * 5
    assert revised.prompts.items[0].foreground  # as after an empty prediction


def test_play__a_failed_round_of_autopet_iv_is_0_but_undefined_without_lesions_as_published():
    empty = np.zeros(SHAPE, np.uint8, order="F")
    for truth, protocol, want in (
        (lesions(), "autopet-iv@1", 0.0), (empty, "autopet-iv@1", None), (empty, "autopet-iv@2", 0.0)
    ):  # fmt: skip
        game = play(case(truth), _raise, protocol=protocol, n_rounds=2)
        assert [row["dice"] for row in game.rows] == [want] * 2


def test_play__no_prediction_is_not_a_perfect_one():
    empty = np.zeros(SHAPE, np.uint8, order="F")
    game = play(case(empty), _raise)
    assert failures(game) == ["PredictorError"] * 6
    assert dices(game) == [0.0] * 6


def test_play__refuses_a_truth_of_another_shape_and_prompts_outside():
    with pytest.raises(ClicksimError, match="truth has shape"):
        play(RoundsCase(Scan("a", GRID), lesions()[1:]), lambda *_: wrong())
    recording = Recording(((Click((30, 0, 0), True),),))
    with pytest.raises(GeometryError, match="outside the volume"):
        play(case(), lambda *_: wrong(), recording=recording)


def test_play__lets_the_predictor_finish_if_the_rounds_break_off():
    class Model:
        finished = 0

        def __call__(self, case, prompts):
            return wrong()

        def finish(self):
            self.finished += 1

    def keep(number, mask):
        raise StorageError(28, "No space left on device", "x")

    model = Model()
    with pytest.raises(StorageError):
        play(case(), model, keep=keep)
    assert model.finished == 1


def test_play__notes_a_predictor_that_cannot_release_the_case_and_keeps_its_rounds():
    class Model:
        def __call__(self, case, prompts):
            return lesions()

        def finish(self):
            raise self.error

    model = Model()
    for model.error in (RuntimeError("no such\ncase"), SystemExit(3)):
        game = play(case(), model, protocol="autopet-v@1")
        assert dices(game)[0] == 1.0
        line = f"{type(model.error).__name__}: {' '.join(str(model.error).split())}"
        assert game.notes[-1] == f"the predictor failed to release the case: {line}"
    model.error = StorageError(28, "No space left on device", "x")
    with pytest.raises(StorageError):
        play(case(), model)


@pytest.mark.parametrize("protocol", ALL)
def test_play__does_not_depend_on_memory_layout(protocol):
    there = play(case(), ThresholdPredictor(), protocol=protocol)
    flipped = RoundsCase(
        Scan("a", GRID, None, np.ascontiguousarray(pet())), np.ascontiguousarray(lesions()).astype(float)
    )
    here = play(flipped, lambda *args: np.ascontiguousarray(ThresholdPredictor()(*args)), protocol=protocol)
    assert here.rows == there.rows
    assert here.prompts.items == there.prompts.items


# predictors


@pytest.mark.parametrize("protocol", BOTH)
def test_threshold_predictor__improves_with_prompts_on_phantoms(protocol):
    gains = []
    for seed in range(3):
        phantom = make_phantom(seed, spacing=(8, 8, 8), n_lesions=5)
        played = RoundsCase(Scan(phantom.case_id, phantom.grid, phantom.ct, phantom.pet), phantom.label)
        curve = dices(play(played, ThresholdPredictor(), protocol=protocol))
        gains.append(curve[-1] - curve[0])
    assert np.mean(gains) > 0.2
    assert min(gains) > 0.02


def test_threshold_predictor__obeys_each_prompt():
    scan, mask = case().scan, lesions()
    hot = ThresholdPredictor()(scan, Prompts((), GRID))
    assert hot[17, 3, 3]
    refused = ThresholdPredictor()(scan, Prompts((Click((17, 3, 3), False),), GRID))
    assert not refused[16:19, 2:5, 2:5].any()
    assert refused[mask > 0].all()
    cold = ThresholdPredictor()(scan, Prompts((Click((0, 17, 0), True),), GRID))
    assert cold[0, 17, 0]
    both = (Click((2, 4, 5), True), Click((6, 4, 5), False))
    shared = ThresholdPredictor()(scan, Prompts(both, GRID))
    assert shared[3, 4, 5]
    assert not shared[5, 4, 5]
    assert shared[4, 4, 5]  # as near to both: foreground


def test_threshold_predictor__grows_around_a_prompt_to_its_share_of_uptake_within_its_reach():
    uptake = np.full((1, 1, 40), 4.11, np.float32)
    uptake[0, 0, 10] = 10
    scan = Scan("a", Grid.from_spacing(uptake.shape, (4, 4, 4)), None, uptake)
    click = Prompts((Click((0, 0, 10), True),), scan.grid)
    assert np.flatnonzero(ThresholdPredictor()(scan, click)).tolist() == list(range(2, 19))  # 8 voxels are 32 mm
    uptake[0, 0, 13] = 4.09  # below 41 % of 10
    assert np.flatnonzero(ThresholdPredictor()(scan, click)).tolist() == list(range(2, 13))


def test_open_predictor__says_why_it_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "NUMBER = 1\nclass Model:\n    def __call__(self, case, prompts): return None\n"
        "class Needy(Model):\n    def __init__(self, weights): pass\n"
    )
    (tmp_path / "broken.py").write_text("def predict(:\n")
    for spec, words in {
        "pyy:a:b": "did you mean 'py'",
        "threshold": "is not a predictor; write KIND:ARGUMENT",
        "builtin:treshold": "did you mean 'threshold'",
        "py:nosuchmodule_:f": "cannot be imported",
        "py:mine:nothing": "cannot be imported",
        "py:mine:NUMBER": "cannot be called",
        "py:mine:Needy": "missing 1 required positional argument: 'weights'",
        "py:broken:predict": "SyntaxError",
        "builtin:": "names no predictor; write builtin:threshold",
        "builtin:threshold?suv": "unknown built-in predictor",
        "builtin:threshold?suv=": "option suv of a predictor takes a number, got ''",
        "builtin:threshold?siv=3": "did you mean 'suv'",
        "builtin:threshold?suv=3&suv=4": "suv occurs twice",
        "py:mine": "py:module:function",
        "cmd:run.sh {input}": "{output}",
        "dir:nowhere": "is not a folder",
    }.items():
        with pytest.raises(SettingError, match=re.escape(words)):
            parse_spec(spec).check()
        with pytest.raises(SettingError, match=re.escape(words)):
            open_predictor(spec)
    assert callable(open_predictor("py:mine:Model"))


def test_recorded_predictor__finds_all_names_and_names_what_is_missing(tmp_path):
    write_image(tmp_path / "a_1.nii.gz", wrong(), GRID)
    (tmp_path / "a").mkdir()
    write_image(tmp_path / "a" / "iter_0.nii.gz", lesions(), GRID)
    write_image(tmp_path / "a" / "iter_2.nii.gz", wrong(), GRID.flip(0))
    (tmp_path / "a_0000").mkdir()
    write_image(tmp_path / "a_0000" / "iter_5.nii.gz", lesions(), GRID)
    (tmp_path / "a_3.nii.gz").write_bytes(b"no image")
    game = play(case(), open_predictor(f"dir:{tmp_path}"), protocol="autopet-iv@2", n_rounds=6)
    assert dices(game)[0] == dices(game)[5] == 1.0
    assert 0.4 < dices(game)[1] < 1
    assert failures(game) == [None, None, "WrongGrid", "BadLabel", "NoPrediction", None]
    assert "no a/iter_4.nii.gz or a_4.nii.gz in" in game.rows[4]["detail"]


PLAYER = """
import sys
from clicksim.predictors import ThresholdPredictor, predict_folder
print("process", file=open(sys.argv[3], "a"))
predict_folder(sys.argv[1], sys.argv[2], ThresholdPredictor())
"""


@pytest.mark.parametrize("protocol", BOTH)
def test_command_predictor__plays_six_fresh_processes_as_in_process(tmp_path, protocol):
    phantom = make_phantom(1, spacing=(10, 10, 10), n_lesions=4)
    played = RoundsCase(Scan("p", phantom.grid, phantom.ct, phantom.pet), phantom.label)
    script, log = tmp_path / "with space.py", tmp_path / "log"
    script.write_text(PLAYER)
    command = f"{sys.executable} '{script}' {{input}} {{output}} {log}"
    fresh = play(played, open_predictor(f"cmd:{command}"), protocol=protocol)
    here = play(played, ThresholdPredictor(), protocol=protocol)
    assert failures(fresh) == [None] * 6
    assert fresh.rows == here.rows
    assert fresh.prompts == here.prompts
    assert dices(here)[-1] > dices(here)[0]
    assert log.read_text().split() == ["process"] * 6


def test_command_predictor__shows_images_and_prompts_so_far_alone(tmp_path):
    command = (
        f"cd {{input}}; find . -type f | sort > {tmp_path}/seen; cp lesion-clicks.json {tmp_path}/clicks; : {{output}}"
    )
    scan = Scan("secret-name", GRID, np.zeros(SHAPE, np.int16), pet())
    items = (Scribble(((1, 2, 3), (1, 2, 4)), False), Click((5, 5, 5), True))
    predictor = CommandPredictor(command)
    with pytest.raises(RoundFailure, match="0 images"):
        predictor(scan, Prompts(items, GRID))
    home = predictor._images(scan)
    assert np.array_equal(read_image(next(home.glob("pet/*.mha"))).array, pet())
    predictor.finish()
    assert not home.exists()
    seen = (tmp_path / "seen").read_text().split()
    stems = {path.split("/")[-1] for path in seen if path.endswith(".mha")}
    assert [path.split("/")[1:-1] for path in seen] == [["images", "ct"], ["images", "pet"], []]
    assert len(stems) == 1
    assert "secret" not in str(seen)
    assert [(p["name"], p["point"]) for p in json.loads((tmp_path / "clicks").read_text())["points"]] == [
        ("tumor", [5, 5, 5]),
        ("background", [1, 2, 3]),
        ("background", [1, 2, 4]),
    ]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("echo out of memory >&2; exit 7 # {input} {output}", "PredictorError", "ended with 7: out of memory"),
        ("true {input} {output}", "NoPrediction", "0 images in {output}"),
        ("sleep 30 & sleep 30; : {input} {output}", "TimeLimit", "0.3 s"),
        (
            "F={output}/images/tumor-lesion-segmentation; mkdir -p $F; echo x > $F/a.mha; : {input}",
            "BadLabel",
            "({output}/images/tumor-lesion-segmentation/a.mha)",
        ),
    ],
)
def test_command_predictor__names_why_a_round_is_lost(command, code, words):
    game = play(case(), CommandPredictor(command, 0.3 if code == "TimeLimit" else 60), n_rounds=1)
    assert failures(game) == [code]
    assert words in game.rows[0]["detail"]
    assert "clicksim-round" not in game.rows[0]["detail"]  # a name drawn anew each time


def test_command_predictor__writes_the_images_of_another_case_anew():
    predictor = CommandPredictor("{input} {output}")
    for name, uptake in (("a", pet()), ("b", pet() + 1)):
        home = predictor._images(Scan(name, GRID, None, uptake))
        assert predictor._images(Scan(name, GRID, None, uptake)) == home
        (file,) = home.glob("*/*.mha")
        assert np.array_equal(read_image(file).array, uptake)
    predictor.finish()


def test_command_predictor__ends_all_that_a_slow_command_started(tmp_path):
    command = f"(sleep 5; touch {tmp_path}/ended) & echo $! > {tmp_path}/pid; wait; : {{input}} {{output}}"
    game = play(case(), CommandPredictor(command, 0.5), n_rounds=1)
    assert failures(game) == ["TimeLimit"]
    assert not (tmp_path / "ended").exists()
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")

    def runs():
        with suppress(OSError):
            return "zombie" not in status.read_text()
        return False

    stop = time.monotonic() + 10
    while runs() and time.monotonic() < stop:
        time.sleep(0.02)
    assert not runs()


def test_predict_folder__refuses_no_image_and_several(tmp_path):
    with pytest.raises(ClicksimError, match=r"no \.mha image"):
        predict_folder(tmp_path, tmp_path, ThresholdPredictor())
    (tmp_path / "images/pet").mkdir(parents=True)
    for name in "ab":
        write_image(tmp_path / f"images/pet/{name}.mha", pet(), GRID)
    with pytest.raises(ClicksimError, match=r"pet has 2 \.mha images; it must have exactly one"):
        predict_folder(tmp_path, tmp_path, ThresholdPredictor())


# numbers


def rows_of(scores, case_id="a", annotator="simulated", **more):
    base = {"fpv_ml": 0.0, "fnv_ml": 0.0, "truth_ml": 1.0, "tp": 1, "fp": 0, "fn": 0, "failure": None}
    return [
        {"case_id": case_id, "annotator": annotator, "round": n, "dice": v, "dmm": v, **base, **more}
        for n, v in enumerate(scores)
    ]


def test_curve__areas_are_the_published_sum_and_its_mean_and_undefined_for_one_round():
    numbers = Curve(rows_of([0.0, 0.5, 1.0, 1.0, 1.0, 1.0])).numbers()
    assert (numbers["auc_dice"], numbers["auc_dice_normalised"]) == (4.0, 0.8)
    assert (numbers["noc_0.8"], numbers["unreached_0.8"], numbers["final_dice"]) == (2.0, 0.0, 1.0)
    never = Curve(rows_of([0.1, 0.2])).numbers()
    assert (never["noc_0.9"], never["unreached_0.9"]) == (2.0, 1.0)
    undefined = Curve(rows_of([None, 0.5])).numbers()
    assert (undefined["auc_dice"], undefined["final_dice"]) == (None, 0.5)
    one = Curve(rows_of([0.5])).numbers()
    assert (one["auc_dice"], one["auc_dice_normalised"], one["final_dice"]) == (None, None, 0.5)
    json.dumps(metric_scores([Curve(rows_of([None, 0.5]))]), allow_nan=False)


def test_curves_of__refuses_gaps():
    with pytest.raises(SettingError, match="case a, annotator simulated, has rounds 1, 2; rounds must count from 0"):
        curves_of(rows_of([0.1, 0.2, 0.3])[1:])


def test_metric_scores__names_the_source_if_two_share_a_name():
    rows = [*rows_of([0.2], source="x"), *rows_of([0.3], source="y"), *rows_of([0.4], "b", source="y")]
    found = metric_scores(curves_of(rows))
    assert {name: scores["final_dice"] for name, scores in found.items()} == {"x/a": 0.2, "y/a": 0.3, "b": 0.4}
    people = metric_scores(curves_of([*rows_of([0.2], source="x"), *rows_of([0.3], annotator="ann", source="x")]))
    assert set(people) == {"a", "a (ann)"}


def test_failure_lines__name_the_ten_most_frequent_reasons():
    rows = [
        row for n in range(12) for row in rows_of([None] * (n + 1), f"c{n}", failure="BadLabel", detail=f"value {n}")
    ]
    lines = failure_lines([*rows_of([0.5]), *rows])
    assert lines[0] == "12 rounds failed, first case c11, round 0: BadLabel: value 11"
    assert (len(lines), lines[-1]) == (11, "rounds failed for 2 more reasons")
    assert failure_lines(rows_of([0.5])) == []


def slow_bootstrap(values, clusters, draws):
    names = sorted(set(clusters))
    answers = []
    for draw in [None, *draws]:
        chosen = names if draw is None else [names[n] for n in draw]
        means = []
        for column in values.T:
            found = [v for name in chosen for v, c in zip(column, clusters, strict=True) if c == name and v == v]
            means.append(sum(found) / len(found) if found else math.nan)
        answers.append(means)
    return np.array(answers[0]), np.array(answers[1:])


@given(st.integers(0, 10_000))
def test_bootstrap_means__equals_a_slow_twin(seed):
    rng = np.random.default_rng(seed)
    values = rng.random((int(rng.integers(1, 9)), 2))
    values[rng.random(values.shape) < 0.3] = np.nan
    clusters = [f"p{n}" for n in rng.integers(0, 4, len(values))]
    draws = draw_clusters(len(set(clusters)), 20, seed)
    for got, want in zip(
        bootstrap_means(values, clusters, draws), slow_bootstrap(values, clusters, draws), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_summarise__draws_patients_and_not_cases():
    """Ten copies of a case of one patient are no more evidence than one."""
    rng = np.random.default_rng(1)
    levels = rng.random(12)
    once = [r for n, v in enumerate(levels) for r in rows_of([v, v], f"c{n}", patient_key=f"p{n}")]
    tenfold = [
        r for n, v in enumerate(levels) for m in range(10) for r in rows_of([v, v], f"c{n}-{m}", patient_key=f"p{n}")
    ]
    narrow = [r for n, v in enumerate(levels) for m in range(10) for r in rows_of([v, v], f"c{n}-{m}")]
    one, ten, loose = (summarise(rows)["all"]["final_dice"] for rows in (once, tenfold, narrow))
    np.testing.assert_allclose([ten[k] for k in ("mean", "low", "high")], [one[k] for k in ("mean", "low", "high")])
    assert loose["high"] - loose["low"] < 0.6 * (one["high"] - one["low"])
    assert one["low"] < one["mean"] < one["high"]
    assert summarise(once) == summarise(once[::-1])
    assert summarise(once, seed=1)["all"]["final_dice"] != one


def test_summarise__intervals_span_the_middle_of_the_draws():
    levels = np.random.default_rng(3).random(8)
    rows = [row for n, level in enumerate(levels) for row in rows_of([level], f"c{n}")]
    _, draws = bootstrap_means(levels[:, None], [f"/c{n}" for n in range(8)], draw_clusters(8, 500, 42))
    found = summarise(rows, resamples=500)["all"]["final_dice"]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())


def test_summarise__groups_and_weighs_centres_equally():
    rows = [r for n in range(9) for r in rows_of([0.2], f"x{n}", source="tcia_fdg", tracer_class="FDG", model="A")]
    rows += rows_of([0.8], "y", source="tcia_psma", tracer_class="PSMA", model="B", truth_ml=9.0)
    rows += rows_of([0.5], "z", source="fdat", tracer_class="PSMA", truth_ml=0.0, dice=None, fpv_ml=3.0)
    found = summarise([row | ({"dice": None} if row["case_id"] == "z" else {}) for row in rows])
    assert found["macro"]["final_dice"]["mean"] == pytest.approx(0.5)
    assert found["macro"]["final_dice"]["n"] == 2
    assert set(found["centre"]) == {"tcia_fdg", "tcia_psma", "fdat PSMA"}
    assert set(found["scanner"]) == {"A", "B", "unknown"}
    assert {k: v["cases"] for k, v in found["burden"].items()} == {"none": 1, "low": 9, "high": 1}
    assert found["lesion_free"]["final_fpv_ml"]["mean"] == 3.0
    assert found["lesion_free"]["with_false_positives"] == 1
    assert found["burden"]["none"]["final_dice"] == {"mean": None, "low": None, "high": None, "n": 0}
    json.dumps(found, allow_nan=False)
    volumes = {"x": 1.0, "y": 5.0, "z": 9.0}
    named_alike = [row for source, ml in volumes.items() for row in rows_of([0.5], source=source, truth_ml=ml)]
    assert summarise(named_alike)["burden_split_ml"] == 5.0


def test_compare_runs__is_paired():
    rng = np.random.default_rng(2)
    levels = rng.random(30)
    first = [r for n, v in enumerate(levels) for r in rows_of([v, v], f"c{n}")]
    second = [r for n, v in enumerate(levels) for r in rows_of([v + 0.05 + 0.01 * (n % 2)] * 2, f"c{n}")]
    found = compare_runs(first, [*second, *rows_of([1.0], "other")])
    gain = found["all"]["difference"]["auc_dice"]
    assert 0.05 < gain["low"] < gain["mean"] < gain["high"] < 0.06
    assert gain["second"] - gain["first"] == pytest.approx(gain["mean"])
    assert found["only_in_second"] == ["other"]
    with pytest.raises(SettingError, match="no case in common"):
        compare_runs(first, rows_of([1.0], "other"))
    with pytest.raises(SettingError, match="1 case with different numbers of rounds in the two runs: c0"):
        compare_runs(first, rows_of([1.0], "c0"))
    gap = [*rows_of([0.1], "c0"), *rows_of([0.9], "c1")], [*rows_of([0.3], "c0"), *rows_of([None], "c1")]
    both = compare_runs(*gap)["all"]["difference"]["final_dice"]
    assert [both[name] for name in ("first", "second", "n")] == pytest.approx([0.1, 0.3, 1])
    two = [*rows_of([0.1], "c0", source="x"), *rows_of([0.9], "c0", source="y")]
    with pytest.raises(SettingError, match="1 name used by cases of several sources in one run: c0"):
        compare_runs(two, two)


# replay


def test_replay__of_a_game_against_the_same_predictor_is_the_game():
    game = play(case(), ThresholdPredictor())
    recordings = make_recordings(to_table(game.prompts), game.rows)
    again = play(case(), ThresholdPredictor(), recording=recordings["a"][0])
    assert [row | {"inferred": True} for row in game.rows] == again.rows  # a replay never ends early
    assert again.prompts.items == game.prompts.items


def test_replay__shows_another_model_the_recorded_prompts():
    game = play(case(), lambda *_: wrong())
    seen = []
    recording = make_recordings(to_table(game.prompts), game.rows)["a"][0]
    play(case(), lambda scan, prompts: seen.append(prompts.items) or lesions(), recording=recording)
    assert seen[-1] == game.prompts.items
    assert len(seen) == 6  # a perfect answer does not end a replay


def recorded(tmp_path, name, annotator, strokes, effort=None):
    """A Parquet file of (round, foreground, voxels)."""
    rows = [
        {"case": "a", "round": number, "order": order, "polarity": "foreground" if ahead else "background",
         "kind": "scribble", "stroke": stroke, "annotator": annotator, "i": i, "j": j, "k": k, "effort_s": effort}
        for stroke, (number, ahead, voxels) in enumerate(strokes)
        for order, (i, j, k) in enumerate(voxels)
    ]  # fmt: skip
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows, prompt_schema()), tmp_path / name)
    return tmp_path / name


def test_read_recordings__takes_ragged_steps_and_several_people(tmp_path):
    one = recorded(tmp_path, "1.parquet", "ann", [(1, True, [(3, 4, 5), (4, 4, 5)]), (3, False, [(17, 3, 3)])], 2.5)
    two = recorded(tmp_path, "2.parquet", "bob", [(1, True, [(13, 11, 9)])])
    ann, bob = read_recordings([one, two])["a"]
    assert ([len(step) for step in ann.steps], ann.effort_s) == ([0, 1, 0, 1], 5.0)
    assert ([len(step) for step in bob.steps], bob.effort_s) == ([0, 1], None)
    with pytest.raises(PromptFormatError, match="twice by ann"):
        read_recordings([one, one])
    with pytest.raises(PromptFormatError, match="cannot read"):
        read_recordings([tmp_path / "3.parquet"])


def test_make_recordings__refuses_an_invalid_row():
    row = {"case": "a", "round": 1, "polarity": "background", "kind": "click", "stroke": 0, "i": 1, "j": 2, "k": 3}
    (recording,) = make_recordings(pa.Table.from_pylist([row]))["a"]
    assert recording.steps == ((), (Click((1, 2, 3), False, None, 1),))
    with pytest.raises(PromptFormatError, match=r"foreground or background, got 'fg' in case a \(file\)"):
        make_recordings(pa.Table.from_pylist([row | {"polarity": "fg"}]), where="file")


def test_make_recordings__refuses_one_name_in_two_sources():
    row = {"case": "a", "round": 1, "polarity": "background", "kind": "click", "stroke": 0, "i": 1, "j": 2, "k": 3}
    table = pa.Table.from_pylist([row | {"source": source} for source in "xy"])
    assert list(make_recordings(table[:1])) == ["a"]
    with pytest.raises(PromptFormatError, match="cases of several sources are called a; replay one source at a time"):
        make_recordings(table)


def test_with_recordings__takes_what_was_recorded_and_names_the_rest():
    units = [Unit(f"{source}/p", (CaseEntry("a", {}),)) for source in "xy"]
    found, absent = with_recordings(units[:1], {"a": [Recording(())], "b": [Recording(())]})
    assert ([unit.key for unit in found], absent) == (["x/p"], ["b"])
    assert found[0].content[0].with_case == (Recording(()),)
    with pytest.raises(CatalogError, match="none of the 1 recorded case is among the cases: b"):
        with_recordings(units, {"b": [Recording(())]})


def test_measure_agreement__in_mm_polarity_and_lesions():
    first = Recording(((Click((3, 4, 5), True), Click((17, 3, 3), False)),), "ann")
    second = Recording(((Click((5, 4, 5), True), Click((13, 11, 9), True), Click((17, 3, 5), True)),), "bob")
    found = measure_agreement(case(), first, second)
    # 4 mm voxels across: 8 mm, and 3 mm slices: 6 mm; the click at (13, 11, 9) is nearest to (3, 4, 5) or (17, 3, 3)
    far = min(math.dist((13 * 4, 11 * 4, 9 * 3), (x * 4, y * 4, z * 3)) for x, y, z in ((3, 4, 5), (17, 3, 3)))
    assert found["distance_mm"] == pytest.approx((8 + 6 + 8 + far + 6) / 5)
    assert found["same_lesions"] == 0.5
    assert found["same_polarity"] == pytest.approx(2 / 5)
    assert measure_agreement(case(), first, Recording((), "bob"))["distance_mm"] is None


def test_draw_clusters__is_a_function_of_the_seed():
    assert np.array_equal(draw_clusters(5, 3, 7), draw_clusters(5, 3, 7))
    assert np.array_equal(draw_clusters(5, 3, 7), stream(7, "", "bootstrap").integers(5, size=(3, 5)))


# the picture


def entries(values, width=0.0):
    return [
        {"mean": v, "low": None if v is None or not width else v - width, "high": None if v is None else v + width}
        for v in values
    ]


def test_draw_curves__shows_means_bands_and_gaps(tmp_path):
    from clicksim.report.curves import COLOURS, draw_curves
    from clicksim.report.mip import save_picture

    plain = np.asarray(draw_curves({"x": entries([0.2, 0.5, 0.9])}))
    banded = np.asarray(draw_curves({"x": entries([0.2, 0.5, 0.9], 0.1)}))
    nothing = np.asarray(draw_curves({"x": entries([None, None, None])}))

    def drawn(picture):
        return np.all(np.abs(picture[:380].astype(int) - COLOURS[0]) < 60, axis=2)

    heights = [np.flatnonzero(drawn(plain)[:, x]).mean() for x in (70, 330, 590)]
    assert heights[0] > heights[1] > heights[2]
    assert (banded != plain).any(axis=2).sum() > 3000
    assert drawn(plain).sum() > 300
    assert not drawn(nothing).any()
    save_picture(draw_curves({"x": entries([0.5])}, title="a title " * 40), tmp_path / "c.png")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]

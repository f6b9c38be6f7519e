"""Rounds with a modelled person: rows and tables name the person, and the ideal person changes nothing."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from clicksim import write_image
from clicksim.cli import main
from clicksim.pipeline.cases import file_units
from clicksim.pipeline.playing import RoundsRun, needed_images, play_unit, rounds_run_id
from clicksim.predictors import open_predictor, parse_spec
from clicksim.rounds import play
from clicksim.simulate.annotators.people import PRESETS, Annotator
from tests.test_rounds import ALL, GRID, case, lesions, wrong

BLIND = Annotator("blind-to-small", miss_intercept=-400.0, miss_per_volume=-400.0)  # misses what is below 1/e ml


def two_sizes():
    """A lesion of one voxel, which is missed, and a large one."""
    mask = np.zeros(GRID.shape, np.uint8, order="F")
    mask[2, 2, 2] = 1
    mask[10:16, 9:15, 8:13] = 1
    return mask


def always(mask):
    return lambda scan, prompts: mask


@pytest.mark.parametrize("protocol", ALL)
def test_play__the_ideal_person_makes_the_prompts_of_the_rule(protocol):
    people = (None, PRESETS["ideal"])
    plain, ideal = (play(case(), always(wrong()), protocol=protocol, annotator=person) for person in people)
    assert ideal.prompts.items == plain.prompts.items
    assert {row["annotator"] for row in ideal.rows} == {"ideal"}
    without = [{key: value for key, value in row.items() if key != "annotator"} for row in ideal.rows]
    assert without == [{key: value for key, value in row.items() if key != "annotator"} for row in plain.rows]
    table = ideal.prompts.to_table().to_pylist()
    assert {(row["annotator"], row["effort_s"]) for row in table} <= {("ideal", 0.0)}
    assert {row["effort_s"] for row in plain.prompts.to_table().to_pylist()} <= {None}


@pytest.mark.parametrize("protocol", ALL)
def test_play__a_hurried_person_is_repeatable_and_not_the_rule(protocol):
    games = [play(case(), always(wrong()), protocol=protocol, annotator=PRESETS["hurried"]) for _ in range(2)]
    assert games[0].prompts == games[1].prompts
    assert games[0].prompts.items != play(case(), always(wrong()), protocol=protocol).prompts.items
    assert GRID.holds(np.concatenate([games[0].prompts.foreground, games[0].prompts.background])).all()


def test_play__a_missed_lesion_is_never_prompted_and_the_rest_is():
    truth = two_sizes()
    empty = always(np.zeros_like(truth))
    plain = play(case(truth), empty, kind="click", n_prompts=2)
    assert any(truth[tuple(v)] and v[0] == 2 for v in plain.prompts.foreground)
    game = play(case(truth), empty, kind="click", n_prompts=2, annotator=BLIND)
    assert len(game.prompts) >= 5
    assert all(truth[tuple(v)] and v[0] >= 10 for v in game.prompts.foreground)
    assert game.notes == ("blind-to-small misses 1 of 2 lesions",)


def test_play__a_person_who_misses_the_largest_error_corrects_the_next():
    truth = two_sizes()
    blind = Annotator("blind-to-large", miss_intercept=0.0, miss_per_volume=200.0)  # misses what is above 1 ml
    game = play(case(truth), always(np.zeros_like(truth)), annotator=blind)
    assert game.prompts.foreground.tolist() == [[2, 2, 2]]


def test_play__rounds_go_on_if_the_person_sees_no_error_but_there_is_one():
    truth = two_sizes()
    seen = truth.copy(order="F")
    seen[2, 2, 2] = 0
    game = play(case(truth), always(seen), annotator=BLIND)
    assert [row["n_prompts"] for row in game.rows] == [0] * 6
    assert all(row["inferred"] for row in game.rows)
    perfect = play(case(truth), always(truth), annotator=BLIND)
    assert [row["inferred"] for row in perfect.rows] == [True, *[False] * 5]


@pytest.mark.parametrize(
    ("protocol", "person", "needs"), [("autopet-v@2", False, ()), ("autopet-v@2", True, ("pet",)),
                                      ("autopet-iv@2", False, ("pet",))],
)  # fmt: skip
def test_needed_images__is_the_pet_if_clicks_or_a_person_need_it(tmp_path, protocol, person, needs):
    annotator = PRESETS["ideal"] if person else None
    run = RoundsRun(parse_spec("builtin:threshold"), protocol, annotator=annotator)
    assert needed_images(open_predictor(f"dir:{tmp_path}"), run) == needs
    assert needed_images(open_predictor("builtin:threshold"), run) == ("ct", "pet")


def test_rounds_run_id__depends_on_the_annotator(tmp_path):
    write_image(tmp_path / "a.nii.gz", lesions(), GRID)
    (unit,) = file_units([tmp_path / "a.nii.gz"], {})
    people = (None, *PRESETS.values())
    runs = [RoundsRun(parse_spec("builtin:threshold"), annotator=person) for person in people]
    assert len({rounds_run_id(run, [unit]) for run in runs}) == 4
    assert {row["annotator"] for row in play_unit(runs[3], None, unit, tmp_path)["rounds"].to_pylist()} == {"hurried"}
    (gone,) = file_units([tmp_path / "none.nii.gz"], {})
    rows = play_unit(runs[3], None, gone, tmp_path)["rounds"].to_pylist()
    assert {(row["annotator"], row["failure"]) for row in rows} == {("hurried", "CaseRefused")}


def test_rounds__annotator_on_the_command_line(tmp_path):
    arrays = {"label": lesions(), "pet": np.asarray(case().scan.pet), "ct": np.zeros(GRID.shape, np.int16)}
    for name, array in arrays.items():
        write_image(tmp_path / f"{name}.nii.gz", array, GRID)

    def run(*more):
        images = [f"--{name}={tmp_path / name}.nii.gz" for name in arrays]
        words = ["rounds", *images, "--predictor", "builtin:threshold", "--out", str(tmp_path / "out"), *map(str, more)]
        return CliRunner().invoke(main, words, catch_exceptions=False)

    done = run("--annotator", "careful", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["annotator_model"]["name"] == "careful"
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "out/prompts.parquet").to_pylist()
    assert {(row["annotator"], row["effort_s"]) for row in rows} == {("careful", 4.0)}
    again = run("--annotator", "careful", "--replay", tmp_path / "out")
    assert again.exit_code == 2
    assert "no effect on a replay" in again.stderr
    assert run("--annotator", "carefull").exit_code == 1

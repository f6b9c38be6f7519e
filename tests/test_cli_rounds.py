"""`clicksim rounds`, `score` and `scribbles` as a user calls them: complete files, the same for any workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clicksim import Grid, correct, open_catalog, score, simulate_scribbles, write_image
from clicksim.catalog import create_catalog
from clicksim.catalog.lock import LOCK
from clicksim.catalog.schema import rows_to_table
from clicksim.metrics import compare, surface_dice
from tests import commands
from tests.test_rounds import recorded

AFFINE = np.array([[-4.0, 0, 0, 40], [0, 4, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]])
GRID = Grid((20, 18, 16), None, AFFINE)
TABLES = ("rounds.parquet", "prompts.parquet", "metric_scores.json", "summary.json", "curve.png")


def lesions():
    mask = np.zeros(GRID.shape, np.uint8, order="F")
    mask[2:7, 3:8, 4:8] = 1
    mask[12:15, 10:14, 8:12] = 1
    return mask


def wrong():
    mask = lesions()
    mask[2:4] = 0
    mask[16:19, 2:5, 2:5] = 1
    return mask


def pet(seed=0):
    uptake = np.asfortranarray(np.random.default_rng(seed).random(GRID.shape).astype(np.float32))
    uptake[lesions() > 0] += 5
    uptake[16:19, 2:5, 2:5] += 8
    uptake[8:10, 8:10, 2:4] += 4.2
    return uptake


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with one case and a catalog of four patients, the last one without lesions."""
    for name, array in (("a", lesions()), ("p", wrong()), ("pet", pet()), ("ct", np.zeros(GRID.shape, np.int16))):
        write_image(tmp_path / f"{name}.nii.gz", array, GRID)
    monkeypatch.chdir(tmp_path)
    catalog = create_catalog(tmp_path / "cat")
    (tmp_path / "cat/images").mkdir()
    rows = []
    for n in range(4):
        for name, array in (("label", lesions() * (n < 3)), ("pet", pet(n)), ("ct", np.zeros(GRID.shape, np.int16))):
            write_image(tmp_path / f"cat/images/{n}_{name}.nii.gz", array, GRID)
        paths = {f"{name}_path": f"catalog:images/{n}_{name}.nii.gz" for name in ("label", "pet", "ct")}
        rows.append({"case_id": f"c{n}", "patient_key": f"p{n}", "tracer_class": "FDG", "model": "X", **paths})
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    return tmp_path


def run(*args, code=0):
    result = commands.run(*args)
    assert result.exit_code == code, result.output
    return result


def one(*args, **kwargs):
    files = ("--label", "a.nii.gz", "--pet", "pet.nii.gz", "--ct", "ct.nii.gz")
    return run("rounds", *files, "--predictor", "builtin:threshold", *args, **kwargs)


def catalog_run(*args, **kwargs):
    return run("rounds", "--catalog", "cat", "--predictor", "builtin:threshold", *args, **kwargs)


# rounds


def test_rounds__writes_rows_prompts_scores_and_a_curve(here):
    told = one("--protocol", "autopet-v@1", "--out", "game", "--keep-predictions")
    lines = told.stdout.splitlines()
    assert lines[0].endswith("1 case of 1 patient, autopet-v@1, threshold")
    assert [line.split()[0] for line in lines[2:8]] == list("012345")
    assert [len(line.split()) for line in lines[1:8]] == [10, *[4] * 6]
    rows = pq.read_table("game/rounds.parquet").to_pylist()
    assert [row["round"] for row in rows] == list(range(6))
    assert {path.name for path in Path("game").iterdir()} == {*TABLES, "runs", "predictions", LOCK}
    scores = json.loads(Path("game/metric_scores.json").read_text())["a"]
    assert scores["dice"] == [row["dice"] for row in rows]
    assert scores["auc_dice"] == pytest.approx(sum(scores["dice"]) - (scores["dice"][0] + scores["dice"][-1]) / 2)
    prompts = pq.read_table("game/prompts.parquet").to_pylist()
    assert {row["round"] for row in prompts} <= set(range(1, 6))
    kept = here / "game/predictions/a/iter_0.nii.gz"
    told = run("score", "--label", "a.nii.gz", "--prediction", kept, "--json")
    assert json.loads(told.stdout)["dice"] == rows[0]["dice"]
    seconds = json.loads(Path("game/runs/rounds.json").read_text())["rounds"]
    assert len(seconds) == 6
    assert "seconds" not in Path("game/summary.json").read_text()


@pytest.mark.parametrize("protocol", ["autopet-v@1", "autopet-v@2", "autopet-iv@1", "autopet-iv@2"])
def test_rounds__of_recorded_predictions_are_the_rounds_that_made_them(here, protocol):
    one("--protocol", protocol, "--out", "game", "--keep-predictions")
    run("rounds", "--label", "a.nii.gz", "--pet", "pet.nii.gz", "--predictor", "dir:game/predictions", "--protocol",
        protocol, "--out", "again")  # fmt: skip
    first, second = (pq.read_table(f"{name}/rounds.parquet") for name in ("game", "again"))
    assert first.equals(second)
    assert len(first) == (6 if "-v@" in protocol else 11)


def test_rounds__takes_the_number_of_rounds(here):
    one("--protocol", "autopet-v@1", "--set", "n_rounds=5", "--out", "game")
    assert len(pq.read_table("game/rounds.parquet")) == 5


def test_rounds__commits_to_a_catalog(here):
    told = catalog_run("--run", "mine", "--json")
    summary = json.loads(told.stdout)
    catalog = open_catalog("cat")
    rounds = catalog.table("rounds", "mine")
    assert rounds["case_id"].to_pylist() == sorted(f"c{n}" for n in range(4) for _ in range(6))
    assert set(catalog.table("prompts", "mine")["case"].to_pylist()) <= {f"c{n}" for n in range(4)}
    assert catalog.metadata("mine")["predictor"] == "builtin:threshold"
    assert summary["lesion_free"]["cases"] == 1
    assert summary["all"]["patients"] == 4
    assert (here / "cat/runs/mine.json").is_file()
    assert not (here / "cat/.work").exists()
    assert catalog.sql("select count(*) as n from rounds")["n"].to_pylist() == [24]


def test_rounds__are_the_same_for_one_and_four_workers(here):
    for workers in (0, 1, 4):
        catalog_run("--out", f"w{workers}", "--workers", workers)
    for name in TABLES:
        assert len({(here / f"w{workers}" / name).read_bytes() for workers in (0, 1, 4)}) == 1, name


SLOW = """
import os, time
from clicksim.predictors import ThresholdPredictor
def predict(case, prompts):
    with open("asked", "a") as log: log.write(f"{case.case_id} {case.round}\\n")
    if os.path.exists("slow") and case.case_id == "c2" and case.round == 1:
        open("reached", "w").close()
        time.sleep(60)
    return ThresholdPredictor()(case, prompts)
"""


def start(*args):
    """The command as a process of its own, and what it prints to stderr in a file."""
    with Path("stderr").open("wb") as heard:
        script = "import sys; from clicksim.cli import main; main()"
        words = [sys.executable, "-c", script, *map(str, args)]
        return subprocess.Popen(words, stdout=heard, stderr=heard, preexec_fn=commands.heed_signals)


def wait_for(holds, seconds=120):
    stop = time.monotonic() + seconds
    while not holds() and time.monotonic() < stop:
        time.sleep(0.02)
    assert holds()


def test_rounds__go_on_after_a_kill_with_the_same_result(here):
    (here / "slowly.py").write_text(SLOW)
    args = ("rounds", "--catalog", "cat", "--predictor", "py:slowly:predict", "--run", "mine", "--keep-predictions")
    (here / "slow").touch()
    process = start(*args, "--out", "killed")
    wait_for((here / "reached").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert open_catalog("cat").parts("rounds") == []
    (here / "slow").unlink()
    (here / "asked").unlink()
    refused = run(*args, "--out", "killed", code=1)
    assert "--resume" in refused.stderr
    run(*args, "--out", "killed", "--resume")
    assert {line.split()[0] for line in (here / "asked").read_text().splitlines()} == {"c2", "c3"}
    run(*args, "--out", "whole")
    names = {file.relative_to("whole") for file in Path("whole").rglob("*") if file.is_file()}
    assert len(names) > len(TABLES) + 12
    for name in names - {Path("runs/rounds.json"), Path(LOCK)}:
        assert (here / "killed" / name).read_bytes() == (here / "whole" / name).read_bytes(), name


def test_rounds__resume_takes_up_a_replay_with_the_own_rounds(here):
    (here / "counted.py").write_text(
        "from pathlib import Path\n"
        "from clicksim.predictors import ThresholdPredictor\n"
        "def predict(case, prompts):\n"
        "    asked = len(Path('asked').read_text())\n"
        "    Path('asked').write_text('.' * (asked + 1))\n"
        "    if asked == int(Path('last').read_text()): raise KeyboardInterrupt\n"
        "    return ThresholdPredictor()(case, prompts)\n"
    )

    def play(*more, last=-1, code=0):
        """How often the predictor is asked; it is interrupted after some."""
        Path("asked").write_text("")
        Path("last").write_text(str(last))
        run("rounds", "--catalog", "cat", "--replay", "first", "--predictor", "py:counted:predict", *more, code=code)
        return len(Path("asked").read_text())

    catalog_run("--run", "first")
    both = play("--run", "whole", "--gap", "--out", "whole")
    patient = len([row for row in open_catalog("cat").table("rounds", "first").to_pylist() if row["case_id"] == "c0"])
    assert both > 4 * patient
    asked = play("--run", "cut", "--gap", "--out", "cut", last=patient + 1, code=130)  # within the own rounds of c0
    assert asked == patient + 2
    assert open_catalog("cat").parts("rounds") == ["first", "whole"]
    assert play("--run", "cut", "--gap", "--out", "cut", "--resume") == both
    first, second = (open_catalog("cat").table("rounds", name).drop_columns(["run"]) for name in ("whole", "cut"))
    assert first.equals(second)
    gaps = [json.loads((here / name / "summary.json").read_text())["gap"] for name in ("whole", "cut")]
    assert gaps[0] == gaps[1]
    assert not (here / "cut/.work").exists()


COMMAND = "cmd:sh -c 'echo $$ > {here}/pid; ls {{input}} > {here}/reached; sleep 300 & wait' # {{output}}"


def images():
    """The temporary folders with images of patients."""
    return {folder for folder in Path(tempfile.gettempdir()).glob("clicksim-round*") if folder.is_dir()}


def ended(pid):
    """Whether a process is gone, or waits to be reaped by whoever adopted it."""
    try:
        return "zombie" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_rounds__a_signal_ends_the_command_and_deletes_its_images(here, monkeypatch, workers, number):
    monkeypatch.setenv("TMPDIR", str(here / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    (here / "tmp").mkdir()
    process = start("rounds", "--catalog", "cat", "--predictor", COMMAND.format(here=here), "--workers", workers,
                    "--out", "game")  # fmt: skip
    wait_for(lambda: (here / "reached").exists() and (here / "pid").read_text().strip())
    group = int((here / "pid").read_text())
    assert images()
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    told = (here / "stderr").read_text()
    assert f"clicksim: ended by {number.name}; finished work is kept; continue with --resume" in told
    assert "Traceback" not in told
    wait_for(lambda: ended(group), 10)
    wait_for(lambda: not images(), 10)


def test_rounds__workers_end_with_a_parent_that_is_killed(here, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(here / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    (here / "tmp").mkdir()
    process = start("rounds", "--catalog", "cat", "--predictor", COMMAND.format(here=here), "--workers", 1)
    wait_for(lambda: (here / "reached").exists() and (here / "pid").read_text().strip())
    process.kill()
    process.wait()
    wait_for(lambda: ended(int((here / "pid").read_text())), 20)
    wait_for(lambda: not images(), 20)


def test_rounds__a_worker_that_dies_costs_its_case(here):
    (here / "deadly.py").write_text(
        "import os\nfrom clicksim.predictors import ThresholdPredictor\n"
        "def predict(case, prompts):\n"
        "    if case.case_id == 'c1': os._exit(9)\n"
        "    return ThresholdPredictor()(case, prompts)\n"
    )
    deadly = ("--catalog", "cat", "--predictor", "py:deadly:predict")
    told = run("rounds", *deadly, "--workers", 2, "--out", "game", code=1)
    assert "clicksim: case c1 was refused: the process died twice" in told.stderr
    rows = pq.read_table("game/rounds.parquet").to_pylist()
    assert {row["case_id"] for row in rows if row["failure"] == "WorkerDied"} == {"c1"}
    assert len(rows) == 24
    scores = json.loads(Path("game/metric_scores.json").read_text())
    assert scores["c1"]["dice"] == [None] * 6


def test_rounds__if_all_fail_the_exit_code_is_1_and_the_counts_are_beside_the_means(here):
    args = ("rounds", "--catalog", "cat", "--predictor", "cmd:echo no weights; false {input} {output}")
    told = run(*args, "--json", code=1)
    summary = json.loads(told.stdout)
    assert summary["failures"] == {"PredictorError": 24}
    reason = "24 rounds failed, first case c0, round 0: PredictorError: the command ended with 1: no weights"
    assert reason in told.stderr.splitlines()
    assert summary["all"]["final_dice"]["mean"] == 0
    assert told.stderr.splitlines()[-1] == "clicksim: every round failed; the scores say nothing about the predictor"
    page = run(*args, "--run", "again", code=1).stdout.splitlines()
    assert page[-1] == "24 of 24 rounds failed"
    assert [line.split()[-1] for line in page[2:8]] == ["4"] * 6


def test_rounds__compares_two_runs(here):
    catalog_run("--run", "x", "--out", "x")
    catalog_run("--run", "y", "--out", "y", "--set", "n_prompts=3")
    by_folder = json.loads(run("rounds", "--compare", "x", "y", "--json").stdout)
    by_name = json.loads(run("rounds", "--catalog", "cat", "--compare", "x", "y", "--json").stdout)
    assert by_folder == by_name
    same = json.loads(run("rounds", "--compare", "x", "x", "--json").stdout)
    nothing = same["all"]["difference"]["auc_dice"]
    assert (nothing["mean"], nothing["low"], nothing["high"], nothing["n"]) == (0.0, 0.0, 0.0, 4)
    assert by_folder["all"]["difference"]["auc_dice"]["mean"] != 0
    assert "second minus first, 4 cases of 4 patients" in run("rounds", "--compare", "x", "y").stdout
    assert "z is not a folder with rounds.parquet" in run("rounds", "--compare", "x", "z", code=1).stderr
    (here / "z").mkdir()
    pq.write_table(pq.read_table("x/rounds.parquet").drop_columns(["dice"]), "z/rounds.parquet")
    assert "a table of rounds needs the columns dice (z" in run("rounds", "--compare", "x", "z", code=1).stderr
    (here / "z/rounds.parquet").write_bytes(b"no table")
    assert "cannot read recorded" in run("rounds", "--compare", "x", "z", code=1).stderr


def test_rounds__replays_a_run_against_another_model(here):
    (here / "other.py").write_text(
        "from clicksim.predictors import ThresholdPredictor\n"
        "def predict(case, prompts): return ThresholdPredictor(suv=7.0)(case, prompts)\n"
    )
    catalog_run("--run", "first")
    told = run("rounds", "--catalog", "cat", "--replay", "first", "--gap", "--predictor", "py:other:predict",
               "--run", "second", "--json")  # fmt: skip
    summary = json.loads(told.stdout)
    own = json.loads(run("rounds", "--catalog", "cat", "--predictor", "py:other:predict", "--json").stdout)
    gap, drop = summary["gap"]["all"]["difference"], summary["replay_minus_recorded"]["all"]["difference"]
    assert gap["auc_dice"]["second"] == pytest.approx(own["all"]["auc_dice"]["mean"])
    assert gap["auc_dice"]["first"] == pytest.approx(summary["all"]["auc_dice"]["mean"])
    assert drop["auc_dice"]["second"] == pytest.approx(summary["all"]["auc_dice"]["mean"])
    catalog = open_catalog("cat")
    first, second = (catalog.table("prompts", name).drop_columns(["run"]) for name in ("first", "second"))
    assert first.to_pylist() == second.to_pylist()


def test_rounds__refuses_two_recordings_of_a_case_by_one_annotator(here):
    for run_name in ("first", "second"):
        catalog_run("--run", run_name, "--source", "fdat")
    told = catalog_run("--replay", "first", "--replay", "second", code=1)
    assert "case c0 is recorded twice by simulated (second)" in told.stderr


def test_rounds__replays_people_and_measures_their_agreement(here):
    ann = recorded(here, "ann.parquet", "ann", [(1, True, [(3, 4, 5)]), (2, False, [(17, 3, 3)])], 2.0)
    bob = recorded(here, "bob.parquet", "bob", [(1, True, [(3, 4, 6)])], 3.0)
    summary = json.loads(one("--replay", ann, "--replay", bob, "--out", "game", "--json").stdout)
    assert {name: group["cases"] for name, group in summary["annotator"].items()} == {"ann": 1, "bob": 1}
    assert {row["annotator"]: (row["rounds"], row["effort_s"]) for row in summary["efforts"]} == {
        "ann": (3, 4.0),
        "bob": (2, 3.0),
    }
    pair = summary["agreement"][0]
    assert (pair["first"], pair["second"], pair["same_lesions"]) == ("ann", "bob", 1.0)
    rows = pq.read_table("game/rounds.parquet").to_pylist()
    assert [(row["annotator"], row["round"]) for row in rows] == [
        *(("ann", n) for n in range(3)),
        *(("bob", n) for n in range(2)),
    ]
    assert "nobody is neither a run of the catalog nor a file" in one("--replay", "nobody", code=1).stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--predictor", "builtin:threshold"), "--catalog, or --label"),
        (("--label", ".", "--case-id", "x", "--predictor", "builtin:threshold"), "--case-id is for one label"),
        (("--label", "a.nii.gz", "--predictor", "builtin:threshold", "--resume"), "need --out or --catalog"),
        (("--label", "a.nii.gz"), "--predictor is missing"),
        (("--catalog", "cat", "--ct", "ct.nii.gz", "--predictor", "builtin:threshold"), "need --label"),
        (("--label", "a.nii.gz", "--predictor", "builtin:threshold", "--keep-predictions"), "needs --out"),
        (("--label", "a.nii.gz", "--predictor", "builtin:threshold", "--gap"), "--gap needs --replay"),
        (("--label", "a.nii.gz", "--catalog", "cat", "--predictor", "builtin:threshold"), "--catalog, or --label"),
        (("--compare", "x", "y", "--out", "z", "--gap"), "without effect on --compare: --out, --gap"),
        (("--label", "a.nii.gz", "--predictor", "builtin:threshold", "--time-limit", "nan"), "not a finite number"),
    ],
)
def test_rounds__refuses_wrong_usage(here, args, words):
    assert words in run("rounds", *args, code=2).stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--predictor", "builtin:thresold"), "did you mean 'threshold'"),
        (("--protocol", "autopet-v"), "needs a version"),
        (("--protocol", "deep-psma@1"), "no rule for rounds"),
        (("--set", "n_round=3"), "unknown setting"),
        (("--out", "a.nii.gz/game"), "cannot make the folder a.nii.gz/game"),
        (("--run", "a/b"), "'a/b' cannot name a run"),
        (("--run", "latest"), "a run cannot be called latest"),
        (("--run", "x" * 300, "--out", "o" * 300), "File name too long"),
    ],
)
def test_rounds__refuses_in_one_line(here, args, words):
    told = one(*args, code=1)
    assert (told.stdout, len(told.stderr.splitlines())) == ("", 1)
    assert words in told.stderr


def test_rounds__refuses_to_replace_a_result_that_was_made_in_another_way(here):
    one("--out", "mine", "--keep-predictions", "--set", "n_rounds=3")
    before = (here / "mine/rounds.parquet").read_bytes()
    files = ("--label", "a.nii.gz", "--pet", "pet.nii.gz", "--set", "n_rounds=3")
    other = ("rounds", *files, "--predictor", "builtin:threshold?suv=7", "--out", "mine")
    told = run(*other, code=1)
    assert 'predictor is "builtin:threshold" there and "builtin:threshold?suv=7.0" here' in told.stderr
    assert "--overwrite" in told.stderr
    assert (here / "mine/rounds.parquet").read_bytes() == before
    assert "cases.digest" in one("--out", "mine", "--case-id", "b", "--set", "n_rounds=3", code=1).stderr
    run(*other, "--overwrite")
    assert (here / "mine/rounds.parquet").read_bytes() != before
    assert list((here / "mine").rglob("iter_*")) == []  # those of the replaced result
    one("--out", "new", "--set", "n_rounds=3")
    one("--out", "new", "--set", "n_rounds=3")  # made in the same way
    catalog_run("--run", "x")
    refused = catalog_run("--run", "x", "--set", "n_prompts=3", "--out", "elsewhere", code=1)
    assert "cat has a result called x that was made in another way: settings.n_prompts" in refused.stderr


def test_rounds__play_a_folder_of_cases_with_recorded_predictions_and_name_what_is_missing(here):
    for name in ("labels", "pets"):
        (here / name).mkdir()
    for case in "xyz":
        write_image(here / f"labels/{case}.nii.gz", lesions(), GRID)
        write_image(here / f"pets/{case}_0001.nii.gz", pet(), GRID)
    folder = ("--label", "labels", "--pet", "pets", "--set", "n_rounds=2", "--protocol", "autopet-v@1")
    run("rounds", *folder, "--predictor", "builtin:threshold", "--out", "all", "--keep-predictions")
    run("rounds", *folder, "--predictor", "dir:all/predictions", "--out", "same")
    first, second = (pq.read_table(f"{name}/rounds.parquet") for name in ("all", "same"))
    assert first.equals(second)
    shutil.rmtree("all/predictions/y")
    told = run("rounds", *folder, "--predictor", "dir:all/predictions", "--out", "part", code=1)
    assert "clicksim: case y was refused: there is no recorded prediction of case y" in told.stderr
    rows = pq.read_table("part/rounds.parquet").to_pylist()
    assert [(row["dice"], row["failure"]) for row in rows if row["case_id"] == "y"] == [(None, "NoPrediction")] * 2
    means = [json.loads(Path(f"{name}/summary.json").read_text())["all"]["final_dice"] for name in ("all", "part")]
    assert (means[0]["mean"], means[0]["n"], means[1]["n"]) == (means[1]["mean"], 3, 2)
    told = run("rounds", *folder, "--predictor", "dir:all/predictions", "--out", "all", code=1)
    assert "reads the folder in which all keeps its predictions" in told.stderr


def test_rounds__latest_is_the_run_that_ended_last(here):
    for name in ("zz", "first", "second"):
        catalog_run("--run", name, "--set", f"n_prompts={len(name)}")
    compared = json.loads(run("rounds", "--catalog", "cat", "--compare", "first", "latest", "--json").stdout)
    named = json.loads(run("rounds", "--catalog", "cat", "--compare", "first", "second", "--json").stdout)
    assert compared == named | {"second": "latest"}
    assert "latest needs --catalog" in run("rounds", "--compare", "latest", "first", code=1).stderr
    catalog_run("--replay", "latest", "--run", "again")
    runs = [open_catalog("cat").table("prompts", name).drop_columns(["run"]) for name in ("second", "again")]
    assert runs[0].to_pylist() == runs[1].to_pylist()


# score


def test_score__prints_one_object_with_null_for_an_undefined_score(here):
    found = json.loads(run("score", "--label", "a.nii.gz", "--prediction", "p.nii.gz", "--json").stdout)
    want = score(wrong(), lesions(), spacing=GRID.spacing).to_dict()
    assert found == {"case_id": "a", **want}
    write_image("none.nii.gz", lesions() * 0, GRID)
    told = run("score", "--label", "none.nii.gz", "--prediction", "p.nii.gz", "--json")
    assert "NaN" not in told.stdout
    found = json.loads(told.stdout)
    assert (found["dice"], found["dmm"], found["fnv_ml"]) == (None, None, None)
    assert found["fpv_ml"] == pytest.approx(wrong().sum() * 0.048)
    revised = run("score", "--label", "none.nii.gz", "--prediction", "p.nii.gz", "--protocol", "autopet-v@2", "--json")
    assert json.loads(revised.stdout)["dice"] == 0
    assert "undefined" in run("score", "--label", "none.nii.gz", "--prediction", "p.nii.gz").stdout


def test_score__gives_surface_dice_and_a_row_per_lesion_on_request(here):
    files = ("score", "--label", "a.nii.gz", "--prediction", "p.nii.gz", "--json")
    found = json.loads(run(*files, "--surface-mm", "3", "--lesions", "lesions.csv").stdout)
    assert found["surface_dice"] == surface_dice(wrong(), lesions(), spacing=GRID.spacing, tolerance_mm=3)
    assert found["surface_dice"] != surface_dice(wrong(), lesions(), spacing=GRID.spacing, tolerance_mm=1)
    run(*files, "--lesions", "lesions.parquet")
    want = compare(wrong(), lesions(), spacing=GRID.spacing).to_table()
    assert pq.read_table("lesions.parquet").equals(want)
    rows = Path("lesions.csv").read_text().splitlines()
    assert rows[0].replace('"', "").split(",") == want.column_names
    assert len(rows) == 1 + len(want) > 1
    told = run(*files, "--lesions", "lesions.txt", code=2)
    assert ".csv or .parquet" in told.stderr
    run(*files, "--lesions", "new/folder/lesions.csv")
    assert (here / "new/folder/lesions.csv").read_bytes() == (here / "lesions.csv").read_bytes()
    told = run(*files, "--lesions", "a.nii.gz/lesions.csv", code=1)
    assert told.stderr == "clicksim: cannot make the folder a.nii.gz: File exists\n"


def test_score__refuses_different_grids_and_takes_settings(here):
    write_image("moved.nii.gz", wrong(), GRID.flip(0))
    told = run("score", "--label", "a.nii.gz", "--prediction", "moved.nii.gz", code=1)
    assert "different grids" in told.stderr
    strict = run("score", "--label", "a.nii.gz", "--prediction", "p.nii.gz", "--set", "iou=0.99", "--json")
    assert json.loads(strict.stdout)["tp"] == 1


@pytest.fixture
def folders(here):
    """Three labels and two predictions."""
    for name in ("labels", "masks"):
        (here / name).mkdir()
    for case, mask in (("x", wrong()), ("y", lesions()), ("z", None)):
        write_image(here / f"labels/{case}.nii.gz", lesions(), GRID)
        if mask is not None:
            write_image(here / f"masks/{case}.nii.gz", mask, GRID)
    return here


def test_score__of_folders_is_one_row_per_case_and_names_what_is_missing(folders):
    both = ("score", "--label", "labels", "--prediction", "masks", "--surface-mm", 3)
    told = run(*both, "--json", "--csv", "new/scores.csv", code=1)
    found = json.loads(told.stdout)
    assert [row["case_id"] for row in found["cases"]] == ["x", "y"]
    single = run("score", "--label", "labels/x.nii.gz", "--prediction", "masks/x.nii.gz", "--surface-mm", 3, "--json")
    assert found["cases"][0] == json.loads(single.stdout)
    assert found["means"]["dice"] == {"mean": (found["cases"][0]["dice"] + 1) / 2, "n": 2}
    assert [row["case_id"] for row in found["refused"]] == ["z"]
    assert f"case z was refused: there is no prediction {folders}/masks/z.nii.gz" in told.stderr
    rows = (folders / "new/scores.csv").read_text().splitlines()
    assert len(rows) == 3
    assert rows[0].replace('"', "").split(",") == list(found["cases"][0])
    write_image("masks/z.nii.gz", lesions() * 0, GRID)
    page = run(*both, "--workers", 2).stdout.splitlines()
    assert page[0] == "3 cases scored, 0 refused; means over the cases"
    assert page[1].split() == ["dice", f"{(found['cases'][0]['dice'] + 1) / 3:.4f}", "3", "cases"]


def test_score__of_folders_resumes_and_refuses_to_replace(folders):
    args = ("score", "--label", "labels", "--prediction", "masks", "--out", "out")
    run(*args, code=1)
    write_image("masks/z.nii.gz", lesions(), GRID)
    run(*args)
    assert json.loads(Path("out/summary.json").read_text())["means"]["dice"]["n"] == 3
    told = run(*args, "--protocol", "autopet-v@2", code=1)
    assert "score that was made in another way: protocol is" in told.stderr
    run(*args, "--protocol", "autopet-v@2", "--overwrite")
    whole = Path("out/scores.csv").read_bytes()
    run(*args[:-1], "w2", "--protocol", "autopet-v@2", "--workers", 2)
    assert Path("w2/scores.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--prediction", "p.nii.gz"), "two files or two folders"),
        (("--prediction", "masks", "--lesions", "l.csv"), "without effect on folders: --lesions"),
        (("--prediction", "masks", "--case-id", "x"), "without effect on folders: --case-id"),
        (("--prediction", "masks", "--resume"), "need --out"),
    ],
)
def test_score__refuses_wrong_usage(folders, args, words):
    assert words in run("score", "--label", "labels", *args, code=2).stderr
    told = run("score", "--label", "a.nii.gz", "--prediction", "p.nii.gz", "--workers", 2, code=2)
    assert "without effect on one case: --workers" in told.stderr


# scribbles


@pytest.mark.parametrize("protocol", ["autopet-v@1", "autopet-v@2"])
@pytest.mark.parametrize("strategy", ["centerline", "random", "boundary"])
def test_scribbles__are_those_of_the_library(here, protocol, strategy):
    args = ("scribbles", "--label", "a.nii.gz", "--protocol", protocol, "--set", f"strategy={strategy}")
    shared = {"spacing": GRID.spacing, "protocol": protocol, "case_id": "a", "strategy": strategy}
    assert run(*args).stdout.strip() == simulate_scribbles(lesions(), **shared).to_json()
    errors = run(*args, "--prediction", "p.nii.gz", "--round", 2)
    assert errors.stdout.strip() == correct(wrong(), lesions(), round=2, **shared).to_json()


def test_scribbles__writes_files_previews_and_configs(here):
    run("scribbles", "--label", "a.nii.gz", "--out", "s.json", "--preview", "s.png", "--save-config", "s.toml")
    assert (here / "s.png").stat().st_size > 1000
    assert "[scribbles]" in (here / "s.toml").read_text()
    again = run("scribbles", "--label", "a.nii.gz", "--config", "s.toml", "--format", "grand-challenge")
    assert json.loads(again.stdout)["type"] == "Multiple points"
    (here / "labels").mkdir()
    write_image(here / "labels/x.nii.gz", lesions(), GRID)
    run("scribbles", "--label", "labels", "--out", "many")
    assert (here / "many/x_scribbles.json").is_file()


def test_scribbles__refuses_what_makes_no_sense(here):
    write_image("moved.nii.gz", wrong(), GRID.flip(0))
    told = run("scribbles", "--label", "a.nii.gz", "--prediction", "moved.nii.gz", code=1)
    assert "different grids" in told.stderr
    told = run("scribbles", "--label", "a.nii.gz", "--protocol", "autopet-iv@2", code=1)
    assert "no rule for scribbles" in told.stderr
    told = run("scribbles", "--label", "a.nii.gz", "--round", "2", code=2)
    assert "--round has no effect without --prediction" in told.stderr
    told = run("scribbles", "--label", "a.nii.gz", "--prediction", "p.nii.gz", "--instances", "labels", code=2)
    assert "no effect" in told.stderr

"""The command line as a stranger uses it: results on stdout, notes on stderr, exit codes, and files that are whole."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from clicksim import Grid, simulate_clicks, write_image
from clicksim.cli import COMMANDS
from clicksim.prompts.table import METADATA_KEY
from clicksim.protocols import list_presets, list_protocols
from tests.commands import run

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]])
GRID = Grid((20, 18, 16), None, AFFINE)
HEAVY = ("numpy", "numba", "scipy", "pyarrow", "nibabel", "SimpleITK", "edt", "rich", "PIL", "jinja2", "isal")


def lesions():
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:7, 3:8, 4:8] = 1
    mask[12:15, 10:14, 8:12] = 1
    return mask


def pet():
    uptake = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    uptake[lesions() > 0] += 5
    uptake[16:19, 2:5, 2:5] += 8
    return uptake


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with one case, `a`, and its PET."""
    write_image(tmp_path / "a.nii.gz", lesions(), GRID)
    write_image(tmp_path / "a_0001.nii.gz", pet(), GRID)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here):
    """Labels x, y and z; y has no PET."""
    (here / "labels").mkdir()
    for case in "xyz":
        write_image(here / f"labels/{case}.nii.gz", lesions(), GRID)
    (here / "images").mkdir()
    for case in "xz":
        write_image(here / f"images/{case}_0001.nii.gz", pet(), GRID)
    return here


def clicks(*args):
    return run("clicks", "--label", "a.nii.gz", *args)


def with_pet(*args):
    return clicks("--pet", "a_0001.nii.gz", *args)


def refused(result, *words):
    """Exit code 1, nothing on stdout, and one line that holds the words."""
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, len(lines)) == (1, "", 1), result.output
    assert lines[0].startswith("clicksim: ")
    assert [word for word in words if word not in lines[0]] == []


def misused(result, *words):
    """Exit code 2, nothing on stdout, and the words on stderr."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    text = " ".join(result.stderr.split())
    assert [word for word in words if word not in text] == []


def left(folder):
    """The files of a folder, with hidden ones, so that half-written ones are seen; without the lock and records."""
    names = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    return [name for name in names if name != ".lock" and not name.startswith("runs/")]


# one label


def test_clicks__writes_json_to_stdout_and_nothing_else(here):
    result = with_pet()
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    expected = simulate_clicks(lesions(), uptake=pet(), spacing=(2, 2, 3), case_id="a")
    assert found == {"tumor": expected.foreground.tolist(), "background": expected.background.tolist()}
    assert len(found["tumor"]) == len(found["background"]) == 10


def test_clicks__without_a_pet_says_so_in_one_line(here):
    result = clicks()
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert "no uptake" in result.stderr
    assert json.loads(result.stdout)["background"] == []
    assert len(json.loads(result.stdout)["tumor"]) == 10


@pytest.mark.parametrize("args", [("--protocol", "longitudinal-ct@1"), ("--set", "n_background=0")])
def test_clicks__that_need_no_pet_say_nothing(here, args):
    result = clicks(*args)
    assert (result.exit_code, result.stderr) == (0, "")


def test_clicks__background_by_a_shell_needs_no_pet(here):
    result = clicks("--set", "background=shell", "--set", "shell_mm=5,20")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)["background"]) == 10


def test_clicks__out_is_plain_json_on_one_line(here):
    result = with_pet("--out", "new/a.json")
    assert (result.exit_code, result.output) == (0, "")
    text = Path("new/a.json").read_text()
    assert "\n" not in text
    assert text == with_pet().stdout.rstrip("\n")
    assert all(type(n) is int for point in json.loads(text)["tumor"] for n in point)
    assert left("new") == ["a.json"]


def test_clicks__grand_challenge_names_each_point(here):
    root = json.loads(with_pet("--format", "grand-challenge").stdout)
    assert root["type"] == "Multiple points"
    plain = json.loads(with_pet().stdout)
    assert [p["point"] for p in root["points"] if p["name"] == "tumor"] == plain["tumor"]


def test_clicks__rows_are_parquet_with_millimetres_of_the_file(here):
    assert with_pet("--format", "rows", "--out", "a.parquet", "--seed", "7").exit_code == 0
    table = pq.read_table("a.parquet")
    index = np.stack([table.column(name).to_numpy() for name in "ijk"], axis=1)
    mm = np.stack([table.column(name).to_numpy() for name in "xyz"], axis=1)
    np.testing.assert_allclose(mm, nibabel.affines.apply_affine(AFFINE, index))
    about = json.loads(table.schema.metadata[METADATA_KEY])
    assert (about["protocol"], about["seed"], about["settings"]["n_foreground"]) == ("autopet-iv@2", 7, 10)
    assert set(table.column("case").to_pylist()) == {"a"}


def test_clicks__mha_and_nifti_of_one_grid_go_together(here):
    write_image("a.mha", lesions(), GRID)
    write_image("pet.mha", pet(), GRID)
    assert run("clicks", "--label", "a.mha", "--pet", "a_0001.nii.gz").stdout == with_pet().stdout
    assert clicks("--pet", "pet.mha").stdout == with_pet().stdout


def test_clicks__pet_may_be_the_folder_that_holds_it(here):
    assert clicks("--pet", ".").stdout == with_pet().stdout


def test_clicks__case_id_keys_the_streams(here):
    assert clicks("--case-id", "a").stdout == clicks().stdout
    assert clicks("--case-id", "b").stdout != clicks().stdout
    assert clicks("--seed", "43").stdout != clicks().stdout


def test_clicks__empty_mask_has_no_foreground(here):
    write_image("empty.nii.gz", np.zeros_like(lesions()), GRID)
    result = run("clicks", "--label", "empty.nii.gz", "--pet", "a_0001.nii.gz")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["tumor"] == []
    assert len(json.loads(result.stdout)["background"]) == 10


def test_clicks__organs_take_background_clicks(here):
    organs = np.zeros_like(lesions())
    organs[0, :, :] = 5
    organs[10:12, 0:4] = 6
    write_image("organs.nii.gz", organs, GRID)
    result = clicks("--organs", "organs.nii.gz", "--set", "background=organ", "--set", "organ=5,7")
    points = json.loads(result.stdout)["background"]
    assert result.exit_code == 0
    assert len(points) == 10
    assert {organs[tuple(p)] for p in points} == {5}


def test_clicks__preview_is_a_picture_beside_the_json(here):
    from PIL import Image

    result = with_pet("--preview", "pictures/a.png")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["tumor"]
    with Image.open("pictures/a.png") as picture:
        assert min(picture.size) > 100
    assert left("pictures") == ["a.png"]


def test_clicks__tells_of_a_setting_without_effect(here):
    result = with_pet("--set", "background=shell", "--set", "percentile=50")
    assert result.exit_code == 0
    assert "a: percentile has no effect unless background is hot" in result.stderr


# refusals


def test_clicks__refuses_a_pet_on_another_grid(here):
    write_image("short.nii.gz", pet()[:, :, :12], GRID.crop((0, 0, 0), (20, 18, 12)))
    refused(clicks("--pet", "short.nii.gz"), "label (20, 18, 16)", "PET (20, 18, 12)", "case a", "resample")
    write_image("moved.nii.gz", pet(), GRID.crop((1, 0, 0), GRID.shape))
    refused(clicks("--pet", "moved.nii.gz"), "different grids", "up to 2 mm apart")


def test_clicks__refuses_images_that_are_none(here):
    nibabel.save(nibabel.Nifti1Image(np.stack([pet(), pet()], -1), AFFINE), "four.nii.gz")
    refused(clicks("--pet", "four.nii.gz"), "4-D", "four.nii.gz")
    hole = pet()
    hole[1, 1, 1] = np.nan
    write_image("nan.nii.gz", hole, GRID)
    refused(clicks("--pet", "nan.nii.gz"), "not finite", "(1, 1, 1)")
    Path("cut.nii.gz").write_bytes(Path("a.nii.gz").read_bytes()[:100])
    refused(run("clicks", "--label", "cut.nii.gz"), "cut off", "cut.nii.gz")
    write_image("half.nii.gz", lesions() * np.float32(0.5), GRID)
    refused(run("clicks", "--label", "half.nii.gz"), "whole numbers", "half.nii.gz")


def test_clicks__refuses_a_ct_or_a_label_as_pet(here):
    ct = np.where(pet() > 0.5, 40, -1000).astype(np.int16)
    write_image("ct.nii.gz", ct, GRID)
    refused(clicks("--pet", "ct.nii.gz"), "ct.nii.gz has values down to -1000: is this a CT?")
    write_image("other.nii.gz", lesions()[::-1], GRID)
    refused(clicks("--pet", "other.nii.gz"), "other.nii.gz", "contains only 0 and 1: is this a label?")
    write_image("float.nii.gz", lesions()[::-1].astype(np.float64), GRID)
    refused(clicks("--pet", "float.nii.gz"), "float.nii.gz", "contains only 0 and 1: is this a label?")
    write_image("map.nii.gz", lesions() * np.uint8(3), GRID)
    refused(run("clicks", "--label", "map.nii.gz", "--pet", "./map.nii.gz"), "--pet is the same file as --label")
    args = ("--prediction", "a.nii.gz", "--threshold", "3", "--out", "r.nii.gz")
    refused(run("refine", *args, "--pet", "ct.nii.gz"), "is this a CT?")
    assert not Path("r.nii.gz").exists()
    args = ("scribbles", "--label", "a.nii.gz", "--preview", "s.png", "--out", "s.json")
    refused(run(*args, "--pet", "ct.nii.gz"), "is this a CT?")
    assert not {"s.png", "s.json"} & set(left(here))
    clicks("--format", "rows", "--out", "a.parquet")
    refused(run("annotators", "--fit", "a.parquet", "--label", "a.nii.gz", "--pet", "ct.nii.gz"), "is this a CT?")


def test_commands__write_over_nothing_that_they_read(here):
    args = ("refine", "--prediction", "a.nii.gz", "--pet", "a_0001.nii.gz", "--threshold", "3")
    misused(run(*args, "--out", "./a.nii.gz"), "--out would overwrite the file of --prediction")
    misused(run(*args, "--out", "r.nii.gz", "--keep", "liver"), "--keep has no effect without --organs")
    clicks("--format", "rows", "--out", "a.parquet")
    fit = run("annotators", "--fit", "a.parquet", "--label", "a.nii.gz", "--out", "a.parquet")
    misused(fit, "--out would overwrite the file of a.parquet")
    assert pq.read_table("a.parquet").num_rows


def test_clicks__names_a_doubtful_pet_and_takes_it(here):
    uptake = pet()
    write_image("noisy.nii.gz", uptake - np.float32(1), GRID)
    assert clicks("--pet", "noisy.nii.gz").stderr == ""
    uptake[:2, :2, 0] = -150
    write_image("ringing.nii.gz", uptake, GRID)
    result = clicks("--pet", "ringing.nii.gz")
    assert result.exit_code == 0
    assert (
        result.stderr
        == f"a: {Path('ringing.nii.gz').absolute()} has values down to -150: is this a CT? It was taken for a PET\n"
    )
    assert len(json.loads(result.stdout)["background"]) == 10
    write_image("whole.nii.gz", np.round(pet()).astype(np.int16), GRID)
    assert clicks("--pet", "whole.nii.gz").exit_code == 0


def test_score__surface_mm_is_a_length(here):
    args = ("score", "--label", "a.nii.gz", "--prediction", "a.nii.gz", "--surface-mm")
    for text, words in (
        ("abc", "not a valid float"),
        ("-1", "not in the range"),
        ("nan", "not a finite"),
        ("inf", "not a finite"),
    ):
        misused(run(*args, text), "--surface-mm", text, words)
    assert "surface_dice" in run(*args, "0").stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--protocol", "autopet-v@1"], ["no rule for clicks; these have: autopet-iv@1"]),
        (["--protocol", "autopet-iv"], ["needs a version", "autopet-iv@2"]),
        (["--protocol", "autopet-iiv@2"], ["did you mean 'autopet-iv@2'"]),
        (["--set", "n_forground=3"], ["did you mean 'n_foreground'"]),
        (["--set", "n_foreground=abc"], ["whole number", "'abc'"]),
        (["--set", "shell_mm=20,5"], ["must be in ascending order"]),
        (["--set", 'strategy="rim"\nseed=3'], ["unknown strategy"]),
        (["--set", "background=organ"], ["--organs"]),
        (["--set", "background=others"], ["set target"]),
        (["--set", "target=9"], ["target 9", "lesions: 1, 2"]),
        (["--instances", "value"], ["rule for instances", "Allowed: auto"]),
        (["--instances", "labels", "--protocol", "autopet-iv@1"], ["own rule for instances"]),
        (["--seed", "-1", "--protocol", "autopet-iv@1"], ["seed of autopet-iv@1", "2**32"]),
        (["--out", "."], ["is a folder", "a_clicks.json"]),
        (["--out", "new/"], ["is a folder", "new/a_clicks.json"]),
        (["--sweep", "seed=1,x", "--out", "o"], ["seed must be a whole number"]),
        (["--sweep", "n_foreground=1,x", "--out", "o"], ["whole number", "'x'"]),
        (["--sweep", "seed=1", "--out", "a.nii.gz"], ["is a file", "folder"]),
    ],
)
def test_clicks__refuses_in_one_line(here, args, words):
    refused(clicks(*args), *words)
    assert left(here) == ["a.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--pet", "none.nii.gz"], ["none.nii.gz", "does not exist"]),
        (["--config", "none.toml"], ["none.toml", "does not exist"]),
        (["--config", "."], ["is a directory"]),
        (["--save-config", "."], ["is a directory"]),
        (["--set", "n_foreground"], ["not NAME=VALUE"]),
        (["--set", "=3"], ["not NAME=VALUE"]),
        (["--set", "seed=3"], ["--seed 3"]),
        (["--set", "n_foreground=3", "--set", "n_foreground=4"], ["n_foreground is given twice, as 3 and as 4"]),
        (["--format", "rows"], ["needs --out"]),
        (["--format", "xml"], ["xml", "grand-challenge"]),
        (["--preview", "p.jpg"], [".png or .webp"]),
        (["--case-id", ""], ["--case-id"]),
        (["--case-id", "../b", "--sweep", "seed=1", "--out", "o"], ["name of a file"]),
        (["--sweep", "n_foreground=1,2"], ["needs --out DIR"]),
        (["--sweep", "n_foreground=1,1", "--out", "o"], ["a value twice"]),
        (["--sweep", "n_foreground=1,,2", "--out", "o"], ["empty value"]),
        (["--sweep", "n_foreground=1", "--sweep", "n_foreground=2", "--out", "o"], ["a second time"]),
        (["--sweep", "n_foreground=1", "--set", "n_foreground=2", "--out", "o"], ["a second time"]),
        (["--sweep", "seed=1,2", "--seed", "3", "--out", "o"], ["a second time"]),
        (["--sweep", "n_foreground=1", "--save-config", "c.toml", "--out", "o"], ["--save-config is for one run"]),
        (["--sweep", "n_foreground=1", "--preview", "p.png", "--out", "o"], ["--preview is for one label"]),
        (["--out", "a.nii.gz"], ["overwrite the file of --label"]),
        (["--out", "x", "--save-config", "./x"], ["overwrite"]),
    ],
)
def test_clicks__wrong_usage_exits_2(here, args, words):
    misused(clicks(*args), *words)
    assert left(here) == ["a.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize("option", ["--out", "--save-config", "--preview"])
def test_clicks__refuses_where_nothing_can_be_written(here, option):
    result = with_pet(option, "a.nii.gz/x.png")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["clicksim: cannot make the folder a.nii.gz: File exists"]
    assert left(here) == ["a.nii.gz", "a_0001.nii.gz"]


def test_clicks__refuses_rows_where_nothing_can_be_written(here):
    result = with_pet("--format", "rows", "--out", "a.nii.gz/x.parquet")
    refused(result, "cannot make the folder a.nii.gz: File exists")


# settings files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = = 7", ["c.toml is not TOML", "line 1"]),
        ("protcol = 'autopet-iv@2'", ["c.toml has unknown entries: protcol", "protocol, seed, instances"]),
        ("clicks = 3", ["table", "c.toml"]),
        ("seed = 'x'", ["seed must be a whole number"]),
        ("seed = true", ["seed must be a whole number"]),
        ("protocol = 3", ["protocol must be a name"]),
        ("instances = 3", ["rule for instances"]),
        ("[clicks]\nn_forground = 3", ["did you mean 'n_foreground'"]),
        (f"seed = {'9' * 5000}", ["not TOML"]),
    ],
)
def test_clicks__refuses_a_bad_settings_file(here, text, words):
    Path("c.toml").write_text(text)
    refused(clicks("--config", "c.toml"), *words)


def test_clicks__settings_file_gives_way_to_the_line(here):
    Path("c.toml").write_text("\ufeffseed = 7\n[clicks]\nn_foreground = 2\nfill = 'uniform'\n", encoding="utf-8")
    result = clicks("--config", "c.toml", "--set", "n_foreground=3", "--dry-run")
    root = tomllib.loads(result.stdout)
    assert (root["seed"], root["clicks"]["n_foreground"], root["clicks"]["fill"]) == (7, 3, "uniform")
    assert tomllib.loads(clicks("--config", "c.toml", "--seed", "1", "--dry-run").stdout)["seed"] == 1


@pytest.mark.parametrize("protocol", [protocol.id for protocol in list_protocols() if "clicks" in protocol.tables])
@pytest.mark.parametrize("layout", ["plain", "grand-challenge", "rows"])
def test_clicks__saved_settings_give_the_same_bytes_and_no_word(here, protocol, layout):
    threshold = ("--set", "suv=4") if protocol == "deep-psma@1" else ()
    common = ("--format", layout, "--set", "n_foreground=4", *threshold)
    first = with_pet(*common, "--protocol", protocol, "--seed", "5", "--save-config", "s.toml", "--out", "first")
    again = with_pet("--format", layout, "--config", "s.toml", "--save-config", "t.toml", "--out", "again")
    assert (first.exit_code, again.exit_code, first.output, again.output) == (0, 0, "", "")
    assert Path("first").read_bytes() == Path("again").read_bytes()
    assert Path("s.toml").read_bytes() == Path("t.toml").read_bytes()


def test_clicks__dry_run_prints_each_run_and_simulates_none(here):
    result = clicks("--sweep", "n_foreground=1,5", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.count("[clicks]") == 2
    assert "# n_foreground-1\n" in result.stdout
    assert left(here) == ["a.nii.gz", "a_0001.nii.gz"]


# folders and sweeps


def test_clicks__a_folder_goes_on_past_a_bad_case_and_exits_1(folder):
    result = run("clicks", "--label", "labels", "--pet", "images", "--out", "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "clicksim: y: cannot read the image: there is no such file" in result.stderr
    assert result.stderr.splitlines()[-1] == "clicksim: 1 of 3 cases refused, see above; the others are in out"
    assert left("out") == ["settings.toml", "x_clicks.json", "z_clicks.json"]
    alone = run("clicks", "--label", "labels/z.nii.gz", "--pet", "images", "--out", "z.json")
    assert alone.exit_code == 0
    assert Path("z.json").read_bytes() == Path("out/z_clicks.json").read_bytes()


@pytest.mark.parametrize(
    ("layout", "ending"), [("grand-challenge", "_lesion-clicks.json"), ("rows", "_clicks.parquet")]
)
def test_clicks__a_folder_names_files_by_their_format(folder, layout, ending):
    result = run("clicks", "--label", "labels", "--out", "out", "--format", layout)
    assert result.exit_code == 0
    assert left("out") == ["settings.toml", *(f"{case}{ending}" for case in "xyz")]
    assert sum("no uptake" in line for line in result.stderr.splitlines()) == 3


def test_clicks__a_folder_run_can_be_repeated_from_its_settings(folder):
    run("clicks", "--label", "labels", "--out", "one", "--seed", "9", "--set", "strategy=uniform")
    run("clicks", "--label", "labels", "--out", "two", "--config", "one/settings.toml")
    assert left("one") == left("two")
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in left("one"))


def test_clicks__a_folder_where_all_fail_says_so(folder):
    result = run("clicks", "--label", "labels", "--set", "target=9", "--out", "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "clicksim: 3 of 3 cases refused, see above"


def test_clicks__a_sweep_says_a_note_once(here):
    result = clicks("--sweep", "n_foreground=1,2,3", "--out", "out")
    notes = [line for line in result.stderr.splitlines() if line.startswith("a: ")]
    assert notes == ["a: no uptake (PET) given: foreground clicks only (background = hot needs one)"]


def test_clicks__refuses_folders_it_cannot_use(folder):
    Path("none").mkdir()
    many = ("clicks", "--label", "labels", "--out", "out")
    refused(run(*many, "--pet", "none"), "--pet: no image of case x in none, such as x_0001.nii.gz; none of the 3")
    refused(run(*many, "--pet", "labels"), "--pet is the same file as --label")
    refused(run("clicks", "--label", "none", "--out", "out"), "no label in none", ".nii.gz")
    refused(run("clicks", "--label", "labels", "--out", "a.nii.gz"), "a.nii.gz is a file")
    misused(run("clicks", "--label", "labels"), "needs --out DIR")
    misused(run("clicks", "--label", "labels", "--out", "out", "--case-id", "b"), "--case-id is for one label")
    misused(run("clicks", "--label", "labels", "--out", "out", "--preview", "p.png"), "--preview is for one label")
    write_image("labels/x.mha", lesions(), GRID)
    refused(run("clicks", "--label", "labels", "--out", "out"), "several labels of one case", "x.mha", "x.nii.gz")
    assert not Path("out").exists()


def test_clicks__a_folder_leaves_hidden_files_and_folders_alone(folder):
    Path("labels/._x.nii.gz").write_bytes(b"resource fork")
    Path("labels/old.nii.gz").mkdir()
    Path("labels/notes.txt").write_text("no label")
    assert run("clicks", "--label", "labels", "--out", "out").exit_code == 0
    assert left("out") == ["settings.toml", "x_clicks.json", "y_clicks.json", "z_clicks.json"]


def test_clicks__a_sweep_has_a_folder_for_each_combination(here):
    sweeps = ("--sweep", "n_foreground=1,2", "--sweep", "shell_mm=[5,20],[6, 9]", "--set", "background=shell")
    result = clicks(*sweeps, "--out", "out")
    assert result.exit_code == 0
    runs = [f"n_foreground-{n}_shell_mm-{s}" for n in (1, 2) for s in ("5-20", "6-9")]
    assert left("out") == [f"{name}/{file}" for name in runs for file in ("a_clicks.json", "settings.toml")]
    single = clicks("--set", "n_foreground=2", "--set", "shell_mm=6,9", "--set", "background=shell")
    assert Path("out", runs[3], "a_clicks.json").read_text() == single.stdout.strip()


def test_clicks__a_sweep_of_one_value_is_a_sweep(here):
    assert clicks("--sweep", "strategy=rim", "--out", "out").exit_code == 0
    assert left("out") == ["strategy-rim/a_clicks.json", "strategy-rim/settings.toml"]


def test_clicks__a_sweep_runs_over_seeds_and_protocols(here):
    result = with_pet("--sweep", "seed=1, 2", "--sweep", "protocol=autopet-iv@1,autopet-iv@2", "--out", "out")
    assert (result.exit_code, result.stdout) == (0, "")
    file = Path("out/seed-2_protocol-autopet-iv@1/a_clicks.json")
    assert file.read_text() == with_pet("--seed", "2", "--protocol", "autopet-iv@1").stdout.strip()


def test_clicks__a_sweep_goes_on_past_a_refused_run(here):
    result = with_pet("--sweep", "background=organ,hot", "--out", "out")
    assert result.exit_code == 1
    assert "background-organ a: background = organ needs an organ mask" in result.stderr
    assert Path("out/background-hot/a_clicks.json").exists()


# protocols


def test_protocols__lists_all(here):
    result = run("protocols")
    assert result.exit_code == 0
    rules, presets = result.stdout.split("\n\n")
    assert [line.split()[0] for line in rules.splitlines()] == [p.id for p in list_protocols()]
    assert [line.split()[0] for line in presets.splitlines()[1:]] == [p.id for p in list_presets()]
    ids = [p.id for p in (*list_protocols(), *list_presets())]
    assert [entry["id"] for entry in json.loads(run("protocols", "--json").stdout)] == ids


@pytest.mark.parametrize("protocol", [*list_protocols(), *list_presets()], ids=lambda p: p.id)
def test_protocols__shows_every_setting_with_its_value(protocol):
    text = run("protocols", protocol.id).stdout
    for table, settings in protocol.tables.items():
        assert f"[{table}]" in text
        for name, value in settings.items():
            assert (f"{name} = {json.dumps(value)}" in text) == (name != "rule")
    assert protocol.source in text
    assert json.loads(run("protocols", protocol.id, "--json").stdout) == {"id": protocol.id, **protocol.tables}


def test_protocols__refuses_what_there_is_not():
    refused(run("protocols", "autopet-iv"), "needs a version")
    refused(run("protocols", "autopet-iiv@1"), "unknown protocol", "did you mean")


# the process


def python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help__imports_nothing_heavy(args):
    code = (
        "import sys\nfrom clicksim.cli import main\n"
        f"try: main({args!r})\nexcept SystemExit as end: assert end.code in (0, None), end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = python(code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "[]"


def test_help__lists_all_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)
    assert all(run(name, "--help").exit_code == 0 for name in COMMANDS)
    misused(run("click"), "No such command 'click'")


@pytest.mark.parametrize("args", [[], *([name] for name in COMMANDS)])
def test_help__shows_examples_line_by_line(args):
    text = run(*args, "--help").stdout
    assert "\\b" not in text
    assert "\b" not in text
    assert not args or args == ["demo"] or f"\n    clicksim {args[0]}" in text


def test_import__costs_nothing():
    result = python(f"import sys, clicksim\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_clicksim__offers_each_public_name():
    import clicksim

    assert all(getattr(clicksim, name) is not None for name in clicksim.__all__)
    assert set(clicksim.__all__) <= set(dir(clicksim))
    with pytest.raises(AttributeError, match="no attribute 'simulate_click'"):
        _ = clicksim.simulate_click


def test_clicks__in_a_process_keep_stdout_for_the_result(here):
    command = [sys.executable, "-W", "error", "-c", "from clicksim.cli import main; main()", "clicks", "--label"]
    result = subprocess.run([*command, "a.nii.gz"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(clicks().stdout)
    bad = subprocess.run([*command, "a_0001.nii.gz"], capture_output=True, text=True, timeout=120)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Traceback" not in bad.stderr


# real data


@pytest.mark.real
def test_clicks__of_a_real_mask_are_the_published_ones(realdata, tmp_path):
    label = next(realdata.glob("autopet/fdg_*/*.nii.gz"))
    published = json.loads(next(label.parent.glob("*66_clicks.json")).read_text())
    result = run("clicks", "--label", label, "--protocol", "autopet-iv@1", "--out", tmp_path / "clicks.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads((tmp_path / "clicks.json").read_text()) == {"tumor": published["tumor"], "background": []}

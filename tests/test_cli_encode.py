"""`clicksim encode` as a stranger uses it."""

import json

import nibabel
import numpy as np
import pytest

from clicksim import Click, Grid, Prompts, encode, write_image
from clicksim.prompts.prompt_files import write_prompts
from tests import commands

GRID = Grid((20, 18, 16), None, np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]]))
PROMPTS = Prompts((Click((5, 9, 8), True), Click((14, 6, 7), False)), GRID)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a PET and its clicks."""
    uptake = np.random.default_rng(0).gamma(2, 2, GRID.shape).astype(np.float32)
    write_image(tmp_path / "a_0001.nii.gz", uptake, GRID)
    write_prompts(tmp_path / "a_clicks.json", PROMPTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return commands.run("encode", "--prompts", "a_clicks.json", "--like", "a_0001.nii.gz", *arguments)


def test_encode__writes_channels_in_nnunet_naming(here):
    result = run("--encoding", "edt-ball", "--set", "radius_vx=2", "--out", "imagesTr/a")
    assert (result.exit_code, result.stdout) == (0, "")
    expected = encode(PROMPTS, GRID.shape, encoding="edt-ball", radius_vx=2)
    for number, channel in zip((2, 3), expected, strict=True):
        stored = nibabel.load(here / f"imagesTr/a_000{number}.nii.gz")
        assert np.array_equal(stored.get_fdata(dtype=np.float32), channel)
        np.testing.assert_array_equal(stored.affine, GRID.affine)
    assert len(list((here / "imagesTr").iterdir())) == 2


def test_encode__a_signed_channel_is_one_file_and_reads_the_image(here):
    assert run("--encoding", "zhack", "--first", "5", "--out", "a").exit_code == 0
    uptake = np.asarray(nibabel.load(here / "a_0001.nii.gz").dataobj)
    expected = encode(PROMPTS, GRID.shape, encoding="zhack", image=uptake)
    assert np.array_equal(nibabel.load(here / "a_0005.nii.gz").get_fdata(dtype=np.float32), expected[0])
    assert not (here / "a_0006.nii.gz").exists()


def test_encode__lint_says_what_it_found_and_fails_on_a_bad_channel(here):
    good = run("--lint")
    assert good.exit_code == 0
    assert good.stdout.splitlines()[-1].startswith("verdict: good")
    bad = run("--lint", "--encoding", "autopet-iv")
    assert bad.exit_code == 1
    assert "normalised to a unit sum" in bad.stdout
    findings = json.loads(run("--lint", "--json", "--encoding", "autopet-iv").stdout)
    assert {f["check"] for f in findings if f["severity"] == "error"} == {"peak"}
    assert {p.name for p in here.iterdir()} == {"a_0001.nii.gz", "a_clicks.json"}  # nothing is stored unasked


def test_encode__check_reads_stored_channels(here):
    run("--out", "a")
    assert run("--lint", "--check", "a_0002.nii.gz", "--check", "a_0003.nii.gz").exit_code == 0
    exchanged = run("--lint", "--check", "a_0003.nii.gz", "--check", "a_0002.nii.gz")
    assert exchanged.exit_code == 1
    assert "exchanged" in exchanged.stdout


def test_encode__list_names_encodings_and_presets(here):
    result = commands.run("encode", "--list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "ball: radius_mm=5.0" in lines
    assert any(line.startswith("autopet-iv: gaussian sigma_vx=3.0 scale=sum") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give --out to write the channels, --lint"),
        (("--json", "--out", "a"), 2, "need --lint"),
        (("--lint", "--check", "a_0001.nii.gz", "--set", "sigma_mm=3"), 2, "--check reads stored channels"),
        (("--lint", "--check", "a_0001.nii.gz", "--encoding", "ball"), 2, "these options have no effect: --encoding"),
        (("--lint", "--set", "sigma_mm"), 2, "is not NAME=VALUE"),
        (("--lint", "--set", "sigma_mm=3", "--set", "sigma_mm=4"), 2, "given twice"),
        (("--lint", "--encoding", "gausian"), 1, "did you mean 'gaussian'"),
        (("--lint", "--set", "sigma_mm=wide"), 1, "sigma_mm must be a number, got 'wide'"),
        (("--lint", *["--check", "a_0001.nii.gz"] * 3), 1, "got 3 files"),
        (("--out", "a_clicks.json/x"), 1, "cannot make the folder"),
    ],
)
def test_encode__refuses_with_one_line(here, arguments, code, words):
    result = run(*arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1


def test_encode__says_what_has_no_effect(here):
    result = run("--lint", "--image", "a_0001.nii.gz", "--set", "decay_by=prompt")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "decay_by has no effect while decay is 1",
        "--image has no effect: the encoding gaussian reads no image",
    ]


def test_encode__refuses_an_image_on_another_grid(here):
    write_image(here / "b.nii.gz", np.ones((20, 18, 15), np.float32), Grid((20, 18, 15), None, GRID.affine))
    result = run("--lint", "--encoding", "masked", "--image", "b.nii.gz")
    assert result.exit_code == 1
    assert "different grids" in result.stderr

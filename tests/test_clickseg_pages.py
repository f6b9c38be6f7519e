"""The pages on training: their commands run from top to bottom, on few small patients and with few steps."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
pytest.importorskip("monai", reason="clickseg needs MONAI, which is not installed")

from click.testing import CliRunner  # noqa: E402

import clickseg.cli  # noqa: E402
import clicksim.cli  # noqa: E402
from clickseg.data.training_prompts import U_SHAPE, count_law  # noqa: E402
from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings  # noqa: E402
from clicksim.phantom.layouts import write_fdat, write_longitudinal_ct  # noqa: E402

pytestmark = pytest.mark.torch
DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TINY = ["size=tiny", "patch=16,16,16", "steps=2", "batch=1", "workers=0", "validate_every=0", "max_prompts=2"]
SMALLER = {"--workers 8": "--workers 0", "--nproc-per-node 4": "--nproc-per-node 2"}
ADDED = {
    "clickseg prepare": ["--set", "spacing_mm=9,9,10"],
    "clickseg train": [part for pair in TINY for part in ("--set", pair)],
    "clickseg evaluate": ["--set", "n_rounds=2", "--overlap", "0", "--lint", "0"],
}
PROGRAMS = {"clicksim": clicksim.cli.main, "clickseg": clickseg.cli.main}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Also in the processes that a page starts."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def play(text, *, replaced=()):
    """The fences of a page in order: files are written, lines of `sh` are run, with what makes them small."""
    ran = []
    for kind, title, body in FENCE.findall(text):
        if title:
            for old, new in replaced:
                body = body.replace(old, new)
            Path(title).write_text(body, encoding="utf-8")
        for line in body.replace("\\\n", " ").splitlines() if kind == "sh" else ():
            run(line)
            ran.append(line)
    return ran


def run(line):
    """One line; `--list` alone takes nothing beside it."""
    for large, small in SMALLER.items():
        line = line.replace(large, small)
    words = shlex.split(line)
    program = "clickseg" if "clickseg" in words else words[0]
    command = " ".join([program, *words[words.index(program) + 1 :][:1]])
    if "--list" not in words:
        words = replace_settings(words, ADDED.get(command, []))
    if words[0] in PROGRAMS:
        result = CliRunner().invoke(PROGRAMS[words[0]], words[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"PATH": path, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=os.environ | quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def replace_settings(words, added):
    """The words of a command with others at its end, whose settings stand for those of the same names."""
    names = {word.partition("=")[0] for word in added if "=" in word}
    idle = {n for n, word in enumerate(words) if word.partition("=")[0] in names and words[n - 1] == "--set"}
    return [word for n, word in enumerate(words) if not {n, n + 1} & idle] + added


@pytest.mark.parametrize("line", ["clickseg train store run --set stepz=2", "clickseg trian store run", "false"])
def test_play__notices_what_is_not_true(line):
    with pytest.raises(AssertionError):
        play(f"```sh\n{line}\n```\n")


def test_training_page__runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fdat("PSMA-FDG-PET-CT-Lesions_v2", patients=6, seed=1)
    write_longitudinal_ct("Longitudinal-CT", patients=5)
    ran = play(text_of("training.md"))
    assert [line.split()[:2] for line in ran].count(["clickseg", "train"]) == 5
    names = ["last.safetensors", "model.safetensors", "metrics.parquet", "curve.png", "run.json"]
    assert re.findall(r"^\| `(\w+\.\w+)` \|", text_of("training.md"), re.MULTILINE) == names
    for folder in ("first", "ct", "petct", "four"):
        assert {file.name for file in (tmp_path / "runs" / folder).iterdir()} == set(names)


def test_training_page__names_settings_and_laws_that_there_are():
    text, known = (
        text_of("training.md"),
        {f.name for g in (StoreRules, ModelSettings, TrainSettings) for f in fields(g)},
    )
    for name in ("spacing_mm", "fold", "odds", "scribbles", "max_prompts", "law", "silent", "drop_pet", "corrections"):
        assert f"`{name}`" in text
        assert name in known
    for name in ("corrections_from", "corrections_full", "drop_previous", "spoil_previous", "accumulate", "average"):
        assert f"`{name}`" in text
        assert name in known
    laws = re.findall(r"^\| `(uniform|log|u-shape)` \|", text, re.MULTILINE)
    assert laws == ["uniform", "log", "u-shape"]
    assert " ".join(f"{odds:.2f}"[1:] for odds in U_SHAPE) in text
    assert count_law("log", 10)[3] / count_law("log", 10)[7] == pytest.approx(2.1972246 / 1.6094379)  # ln 9, ln 5
    model, defaults = ModelSettings(), TrainSettings()
    low, high = model.ct_window
    assert f"to {low:.0f} to {high:.0f} HU and divided by {model.ct_scale:.0f}" in " ".join(text.split())
    assert f"cut at SUV {model.suv_limit:.0f}" in text
    assert f"`{defaults.click_protocol}`" in text
    assert f"`{defaults.correction_protocol}`" in text
    assert TrainSettings.declared()["silent"].low == 0.01


def test_tutorial_page__runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = text_of("training-tutorial.md")
    shown = re.search(r"labelsTr/(.+?)\.nii\.gz", text)[1]
    few = write_fdat(tmp_path / "names", patients=6, seed=1)
    there = next(case for case in few.cases if case.startswith("psma"))
    ran = play(text.replace(shown, there), replaced=[("patients=30", "patients=6")])
    assert {" ".join(line.split()[:2]) for line in ran} >= {
        "clicksim convert", "clickseg prepare", "clickseg train", "clickseg evaluate", "clickseg predict",
    }  # fmt: skip
    summary = json.loads((tmp_path / "results" / "autopet-v-2" / "summary.json").read_text())
    assert summary["all"]["failed_rounds"] == 0
    assert (tmp_path / "mask.nii.gz").is_file()


def test_tutorial_page__holds_the_files_and_pictures_of_its_script():
    text, script = text_of("training-tutorial.md"), runpy.run_path(str(DOCS / "generate_training.py"))
    files = {title: body for _, title, body in FENCE.findall(text) if title}
    assert files == {"phantoms.py": script["PHANTOMS"], "tiny.toml": script["SETTINGS"]}
    pictures = re.findall(r"\]\((pictures/[\w.-]+)\)", text)
    assert len(pictures) == 3
    assert all((DOCS / picture).is_file() for picture in pictures)


def test_shorten__marks_each_gap_once():
    shorten = runpy.run_path(str(DOCS / "generate_training.py"))["shorten"]
    assert shorten("a\nx\ny\nb\nz", "[ab]") == "a\n...\nb\n..."
    assert shorten("x\na", "[ab]") == "...\na"
    assert shorten("a\nb", ".") == "a\nb"

"""The entry point of the container: folders in, one mask out, its memory between rounds, and the build context."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from click.testing import CliRunner  # noqa: E402

from clickseg.cli import main  # noqa: E402
from clickseg.container.container_check import CheckReport, Played, _Timed, can_seal, check_container, find_engine  # noqa: E402
from clickseg.predict import Options, RoundsPredictor, open_session  # noqa: E402
from clicksim.errors import ClicksimError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.phantom import make_phantom  # noqa: E402
from clicksim.predictors import Scan  # noqa: E402
from clicksim.prompts import Click, Prompts  # noqa: E402
from clicksim.prompts.prompt_files import write_prompts  # noqa: E402
from clicksim.rounds import RoundsCase, play  # noqa: E402
from clicksim.volumes import read_image, write_image  # noqa: E402
from tests.clickseg_models import write_model  # noqa: E402
from tests.clickseg_phantoms import write_catalog  # noqa: E402

pytestmark = pytest.mark.torch
NAME = "7b3c1d9e-0000-4000-8000-000000000001"
RESULT = Path("images") / "tumor-lesion-segmentation" / f"{NAME}.mha"
DONE = Played(repeats=True)
CLICKS = [Click((5, 5, 5), True), Click((20, 16, 30), False), Click((12, 14, 30), True)]


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(1, shape=(24, 20, 36), spacing=(8.0, 8.0, 8.0), n_lesions=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def write_input(folder, phantom, clicks=()):
    """The input folder of a round."""
    for name in ("ct", "pet"):
        place = folder / "images" / name
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{NAME if name == 'ct' else 'another-name'}.mha"
        if not file.exists():
            write_image(file, getattr(phantom, name), phantom.grid)
    write_prompts(folder / "lesion-clicks.json", Prompts(tuple(clicks), phantom.grid), "grand-challenge")
    return folder


@pytest.fixture
def tree(tmp_path, phantom):
    write_input(tmp_path / "input", phantom, CLICKS[:1])
    (tmp_path / "output").mkdir()
    (tmp_path / "cache").mkdir()
    return tmp_path


def run(tree, model, *extra, cache="cache"):
    arguments = ["container", "run", "--input", tree / "input", "--output", tree / "output", "--model", model]
    arguments += ["--device", "cpu", *(["--cache", tree / cache] if cache else ["--no-cache"]), *extra]
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(tree, model, **how):
    """The bytes of the result of a round that must succeed, and what was said."""
    result = run(tree, model, **how)
    assert result.exit_code == 0, result.output
    return (tree / "output" / RESULT).read_bytes(), result.stderr


def session_masks(model, phantom, counts):
    """What a session in one process answers with so many clicks in turn."""
    predictor = RoundsPredictor(open_session(model, Options(device="cpu"))[0])
    found = []
    for number, count in enumerate(counts):
        scan = Scan("a", phantom.grid, phantom.ct, phantom.pet, round=number)
        found.append(predictor(scan, Prompts(tuple(CLICKS[:count]), phantom.grid)))
    return found


def test_container_run__writes_the_mask_on_the_grid_of_the_pet(tree, model, phantom):
    result = run(tree, model, "--facts", tree / "facts.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tree / "output" / RESULT)
    written = read_image(tree / "output" / RESULT)
    assert written.grid.same_as(phantom.grid)
    assert written.array.dtype == np.uint8
    assert set(np.unique(written.array)) == {0, 1}
    assert np.array_equal(written.array, session_masks(model, phantom, [1])[0])
    facts = json.loads((tree / "facts.json").read_text())
    assert facts["seconds"] > 0
    assert facts["peak_mib"] > 50


def test_container_run__rounds_over_the_cache_equal_one_session(tree, model, phantom):
    expected = session_masks(model, phantom, [0, 1, 2, 2, 3])
    for number, count in enumerate([0, 1, 2, 2, 3]):
        write_input(tree / "input", phantom, CLICKS[:count])
        first, _ = done(tree, model)
        again, _ = done(tree, model)
        assert first == again  # byte for byte
        assert np.array_equal(read_image(tree / "output" / RESULT).array, expected[number])
    without, said = done(tree, model, cache="")
    assert "no previous mask: no cache folder was given" in said
    assert without != first  # the mask of the round before was of use


def test_container_run__says_why_there_is_no_previous_mask(tree, model, phantom, tmp_path):
    plain, _ = done(tree, model, cache="")
    for cache, words in (("absent", "there is no folder"), ("cache", "has none with fewer prompts")):
        found, said = done(tree, model, cache=cache)
        assert found == plain
        assert words in said
    assert not (tree / "absent").exists()
    # another case in the same folder
    other = make_phantom(2, shape=(24, 20, 36), spacing=(8.0, 8.0, 8.0), n_lesions=3)
    (tmp_path / "elsewhere" / "output").mkdir(parents=True)
    write_input(tmp_path / "elsewhere" / "input", other, CLICKS[:2])
    alone, _ = done(tmp_path / "elsewhere", model, cache="")
    shared, said = done(tmp_path / "elsewhere", model, cache=tree / "cache")
    assert shared == alone
    assert "1 masks there belong to another case or model" in said
    # and with fewer or other prompts than before
    write_input(tree / "input", phantom, CLICKS[1:])
    _, said = done(tree, model)
    assert "has none with fewer prompts" in said


def test_container_run__takes_no_damaged_previous_mask(tree, model, phantom):
    done(tree, model)
    (file,) = (tree / "cache").iterdir()
    write_input(tree / "input", phantom, CLICKS)
    plain, _ = done(tree, model, cache="")
    whole = file.read_bytes()
    good, _ = done(tree, model)
    assert good != plain
    place = whole.index(b"bits.npy") + 60  # within what is compressed
    spoiled = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    for bytes_ in (whole[:200], b"", b"PK" + whole[2:100], b"\x93NUMPY", spoiled):
        for other in (tree / "cache").iterdir():
            other.unlink()
        file.write_bytes(bytes_)
        found, said = done(tree, model)
        assert found == plain
        assert "cannot be read and is not used" in said


def test_container_run__an_unwritable_cache_is_no_failure(tree, model, phantom):
    plain, _ = done(tree, model, cache="")
    (tree / "file").write_text("")
    found, said = done(tree, model, cache="file")
    assert found == plain
    assert "the mask is not kept for the next round" in said


@pytest.mark.parametrize("content", [None, "", " \n", "{}", '{"tumor": [], "background": []}'])
def test_container_run__no_or_empty_clicks_are_a_case_without(tree, model, phantom, content):
    write_input(tree / "input", phantom)
    plain, _ = done(tree, model, cache="")
    file = tree / "input" / "lesion-clicks.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    found, said = done(tree, model, cache="")
    assert found == plain
    assert ("no prompts" in said) == (content is None or "tumor" not in content)


def spoil_json(text):
    def spoil(tree, phantom):
        (tree / "input" / "lesion-clicks.json").write_text(text)

    return spoil


def no_pet(tree, phantom):
    next((tree / "input/images/pet").iterdir()).unlink()


def two_cts(tree, phantom):
    write_image(tree / "input/images/ct/b.mha", phantom.ct, phantom.grid)


def other_grid(tree, phantom):
    shifted = Grid(phantom.grid.shape, None, phantom.grid.affine + np.eye(4, k=3) * 5)
    write_image(tree / f"input/images/ct/{NAME}.mha", phantom.ct, shifted)


def cut_off(tree, phantom):
    file = tree / f"input/images/ct/{NAME}.mha"
    file.write_bytes(file.read_bytes()[:1000])


def not_finite(tree, phantom):
    pet = phantom.pet.copy()
    pet[0, 0, 0] = np.inf
    write_image(next((tree / "input/images/pet").iterdir()), pet, phantom.grid)


SPOILED = {
    "not JSON": (spoil_json("{"), "not JSON"),
    "another name": (spoil_json('{"points": [{"point": [1, 1, 1], "name": "Tumor"}]}'), "'Tumor'"),
    "outside": (spoil_json('{"tumor": [[99, 0, 0]], "background": []}'), "outside the volume"),
    "millimetres": (spoil_json('{"tumor": [[1.5, 0, 0]], "background": []}'), "whole numbers"),
    "no PET": (no_pet, "has 0 .mha images; it must have exactly one"),
    "two CTs": (two_cts, "has 2 .mha images"),
    "other grid": (other_grid, "different grids"),
    "cut off": (cut_off, "the file holds"),
    "not finite": (not_finite, "NaN or infinite"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_container_run__refuses_malformed_input(tree, model, phantom, name):
    spoil, words = SPOILED[name]
    spoil(tree, phantom)
    result = run(tree, model)
    assert result.exit_code == 1
    assert words in result.stderr.splitlines()[-1]
    assert not list((tree / "output").rglob("*.mha"))
    assert not list((tree / "cache").iterdir())


def test_container_run__refuses_a_model_that_is_none(tree, phantom):
    (tree / "bad.safetensors").write_bytes(b"nothing")
    for name, words in (("bad.safetensors", "not a safetensors file"), ("gone.safetensors", "no checkpoint")):
        result = run(tree, tree / name)
        assert result.exit_code == 1
        assert words in result.stderr


def test_container_check__plays_rounds_in_fresh_processes(model, phantom, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = RoundsCase(Scan("a", phantom.grid, phantom.ct, phantom.pet), phantom.label)
    report = check_container(model, case, rounds=2, arguments="--device cpu")
    assert report.faults == []
    assert [len(report.cached.rows), len(report.plain.rows)] == [2, 2]
    assert list(report.cached.seconds) == list(report.cached.peaks_mib) == [0, 1]
    assert min(report.cached.peaks_mib.values()) > 50
    assert report.cached.rows[0]["dice"] == report.plain.rows[0]["dice"]
    text = report.text()
    assert "no image was built" in text
    assert ("they had no network" in text) == can_seal()


def test_container_check__keeps_the_facts_of_a_round_beside_its_number(tmp_path, phantom):
    script = tmp_path / "model.py"
    script.write_text(
        "import json, sys, pathlib, shutil\n"
        "from clicksim.predictors import ThresholdPredictor, predict_folder\n"
        "count = pathlib.Path(sys.argv[3]); n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1))\n"
        "if n == 2: sys.exit('second round')\n"  # the first one is asked twice
        "predict_folder(sys.argv[1], sys.argv[2], ThresholdPredictor())\n"
        "pathlib.Path(sys.argv[2], 'facts.json').write_text(json.dumps({'peak_mib': n}))\n"
    )
    command = f"{sys.executable} {script} {{input}} {{output}} {tmp_path}/count"
    predictor = _Timed(command, tmp_path / "facts.json", twice=True)
    case = RoundsCase(Scan("a", phantom.grid, phantom.ct, phantom.pet), phantom.label)
    predictor.played.rows = play(case, predictor, protocol="autopet-iv@2", n_rounds=3).rows
    assert predictor.played.peaks_mib == {0: 0, 2: 3}
    assert list(predictor.played.seconds) == [0, 2]
    assert predictor.played.repeats
    lines = CheckReport((), predictor.played, predictor.played).text().splitlines()
    assert [line.split()[-3:] for line in lines[2:5]] == [["0.0", "/", "0.0"], ["-", "/", "-"], ["3.0", "/", "3.0"]]


def test_container_check__names_what_failed(tmp_path, phantom):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    case = RoundsCase(Scan("a", phantom.grid, phantom.ct, phantom.pet), phantom.label)
    report = check_container(tmp_path / "bad.safetensors", case, rounds=1)
    assert len(report.faults) == 3
    assert "not a safetensors file" in report.text()
    if find_engine() is None:
        with pytest.raises(ClicksimError, match="no container engine"):
            check_container(tmp_path / "bad.safetensors", case, image="x")
    assert CheckReport((), Played(), Played(repeats=True)).faults


def test_sealed_process__can_write_to_its_two_folders_only(tmp_path):
    if not can_seal():
        pytest.skip("this machine does not allow isolation (unshare -rnm)")
    from clickseg.container.container_check import SEALED

    (tmp_path / "inside").mkdir()
    code = (
        "import socket, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'inside', 'a').write_text('')\n"
        "for act in (lambda: pathlib.Path(sys.argv[1], 'b').write_text(''),\n"
        "            lambda: socket.create_connection(('127.0.0.1', 9), 1)):\n"
        "    try: act()\n"
        "    except OSError as error: print(error.errno)\n"
    )
    inside = str(tmp_path / "inside")
    command = ["unshare", "-rnm", "sh", "-c", SEALED, "sh", inside, inside, sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    import errno

    assert [int(line) for line in told.stdout.split()] == [errno.EROFS, errno.ENETUNREACH]


def test_container_build__the_context_runs_by_itself(tree, model, phantom, tmp_path):
    context = tmp_path / "context"
    result = CliRunner().invoke(main, ["container", "build", str(model), str(context)])
    assert result.exit_code == 0, result.output
    text = (context / "Dockerfile").read_text()
    for name in text.split():
        if name in ("licences", "clicksim", "clickseg", "model.safetensors", "requirements.txt"):
            assert (context / name).exists()
    lines = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert lines.index("USER") < lines.index("ENTRYPOINT")
    assert lines[lines.index("USER") :].count("RUN") == 0
    assert "NUMBA_CACHE_DIR=" in text
    assert "Nobody has built it yet" in text
    pins = dict(line.split("==") for line in (context / "requirements.txt").read_text().split())
    assert {"torch", "monai", "safetensors", "numpy", "simpleitk"} <= {name.lower() for name in pins}
    assert all("+" not in version for version in pins.values())
    licences = context / "licences"
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in (licences / "LGPL-3.0.txt").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in (licences / "GPL-3.0.txt").read_text()
    assert "| edt |" in (licences / "README.md").read_text()
    assert "CC BY 4.0" in (licences / "README.md").read_text()
    # the sources in it are enough, wherever they stand
    code = (
        "import runpy, sys, atexit\n"
        "atexit.register(lambda: print(sys.modules['clickseg'].__file__))\n"
        "sys.argv[0] = 'clickseg'\n"
        "runpy.run_module('clickseg', run_name='__main__', alter_sys=True)\n"
    )
    entry = ["container", "run", "--input", str(tree / "input"), "--output", str(tree / "output"), "--no-cache"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(context), "OMP_NUM_THREADS": "1"}
    environment["CLICKSEG_MODEL"] = str(context / "model.safetensors")
    environment["NUMBA_CACHE_DIR"] = str(
        context / "Dockerfile" / "numba"
    )  # as on a read-only root: no cache is written
    told = subprocess.run(
        [sys.executable, "-c", code, *entry, "--device", "cpu"], capture_output=True, text=True, timeout=300,
        env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == f"{context / 'clickseg' / '__init__.py'}"
    assert np.array_equal(read_image(tree / "output" / RESULT).array, session_masks(model, phantom, [1])[0])


def test_container_build__refuses_a_folder_with_something_in_it(model, tmp_path):
    (tmp_path / "mine").write_text("keep")
    result = CliRunner().invoke(main, ["container", "build", str(model), str(tmp_path)])
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert (tmp_path / "mine").read_text() == "keep"


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "container.md").read_text(encoding="utf-8")
DOCUMENTED = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory, phantom):
    """The files that the page speaks of."""
    folder = tmp_path_factory.mktemp("page")
    write_catalog(folder / "catalog", 2)
    write_model(folder / "model.safetensors")
    for name in ("ct", "pet", "label"):
        write_image(folder / f"{name}.nii.gz", getattr(phantom, name), phantom.grid)
    write_prompts(folder / "clicks.json", Prompts(tuple(CLICKS), phantom.grid))
    write_input(folder / "input", phantom, CLICKS)
    (folder / "cache").mkdir()
    return folder


@pytest.mark.parametrize("line", DOCUMENTED)
def test_page__command_runs_as_it_stands(line, user_folder, monkeypatch):
    monkeypatch.chdir(user_folder)
    program, *arguments = shlex.split(line)
    assert program == "clickseg"
    if "check" in arguments:  # two rounds of it are played above
        monkeypatch.setattr(
            "clickseg.container.container_check.check_container", lambda *a, **k: CheckReport((), *[DONE] * 2)
        )
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_page__has_every_command():
    assert {line.split()[1] for line in DOCUMENTED} == {"predict", "evaluate", "container"}
    assert {line.split()[2] for line in DOCUMENTED if "container" in line} == {"run", "check", "build"}


def test_gpu_page__says_not_run_without_a_gpu(tmp_path):
    from studies.gpu import ROWS
    from studies.gpu import main as write_page

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here; make gpu measures it")
    write_page(["--out", str(tmp_path / "gpu.md")])
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("| not run |") == sum(len(rows) for rows in ROWS.values())
    assert "no GPU that Torch can use" in text

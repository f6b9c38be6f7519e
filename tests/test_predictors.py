"""Predictors by their SPEC: kinds as entry points, options, titles; what travels to a worker."""

import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clicksim import Grid, Prompts, __version__, open_predictor
from clicksim.errors import ClicksimError, SettingError
from clicksim.interruption import Terminated, ending_in_order, holding_signals
from clicksim.predictors import PREDICTOR_KINDS, Scan, ThresholdPredictor, parse_spec
from tests.commands import done

GRID = Grid.from_spacing((4, 4, 4), (4, 4, 4))

OUTSIDE = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from clicksim.predictors import PredictorKind

@dataclass
class Everything:
    value: int
    def __call__(self, scan, prompts):
        return np.full(scan.grid.shape, self.value, np.uint8)

KIND = PredictorKind(
    usage="outside:NAME",
    summary="the same value everywhere",
    open=lambda spec, time_limit_s: Everything(**dict(spec.options)),
    options={"value": int},
    title=lambda spec: f"outside {spec.argument}",
)
WRONG = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that clicksim does not know, installed below a folder of the path."""
    (tmp_path / "outside_model.py").write_text(OUTSIDE)
    about = tmp_path / "outside_model-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-model\nVersion: 1.0\n")
    points = "outside = outside_model:KIND\nwrong = outside_model:WRONG\ngone = no_such_module_:KIND\n"
    (about / "entry_points.txt").write_text(f"[{PREDICTOR_KINDS.group}]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PREDICTOR_KINDS.names)
def test_predictor_kinds__are_loaded_and_say_how_they_are_written(name: str) -> None:
    kind = PREDICTOR_KINDS.find(name)
    assert kind.usage.startswith(f"{name}:")
    assert kind.summary


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("py:mymodel:predict", "mymodel"),
        ("py:package.mymodel:Model", "mymodel"),
        ("py:mymodel:fast_net", "fast_net"),
        ("py:mymodel:predict?weights=a%26b&sizes=[1, 2]&fast=true", "mymodel"),
        ("cmd:docker run -v {input}:/input?x=1 -v {output}:/output me", "command docker"),
        ("dir:folder/of masks", "predictions in of masks"),
        ("builtin:threshold?suv=3", "threshold"),
        ("clickseg:run/model.safetensors?device=cuda:1&overlap=0.25&mirror=RA&keep_windows=false", "model"),
    ],
)
def test_parse_spec__gives_plain_data_that_travels_and_is_written_as_it_is_read(text: str, title: str) -> None:
    spec = parse_spec(text)
    assert parse_spec(str(spec)) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(parse_spec(text))
    assert spec.title == title


def test_parse_spec__reads_options_by_their_type() -> None:
    assert open_predictor("builtin:threshold?suv=3&reach_mm=20.5") == ThresholdPredictor(suv=3.0, reach_mm=20.5)
    spec = parse_spec("py:mymodel:predict?weights=a%26b&sizes=[1, 2]&fast=true&depth=3")
    assert dict(spec.options) == {"weights": "a&b", "sizes": (1, 2), "fast": True, "depth": 3}
    with pytest.raises(SettingError, match="option overlap of a predictor takes a number, got 'much'"):
        parse_spec("clickseg:m?overlap=much")
    with pytest.raises(SettingError, match="option keep_windows of a predictor takes true or false, got '1'"):
        parse_spec("clickseg:m?keep_windows=1")


def test_open_predictor__gives_options_to_a_class_and_to_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_options.py").write_text(
        "class Model:\n    def __init__(self, value=1): self.value = value\n"
        "    def __call__(self, scan, prompts): return self.value\n"
        "def predict(scan, prompts, value=1): return value\n"
    )
    for name in ("Model", "predict"):
        assert open_predictor(f"py:with_options:{name}?value=7")(Scan("a", GRID), Prompts((), GRID)) == 7
        assert open_predictor(f"py:with_options:{name}")(Scan("a", GRID), Prompts((), GRID)) == 1
    with pytest.raises(SettingError, match="unexpected keyword argument 'values'"):
        open_predictor("py:with_options:Model?values=7")


def test_open_predictor__takes_a_kind_of_an_outside_package(outside: Path) -> None:
    spec = parse_spec("outside:net?value=1")
    assert spec.title == "outside net"
    mask = open_predictor(spec)(Scan("a", GRID), Prompts((), GRID))
    assert np.array_equal(mask, np.ones(GRID.shape))
    with pytest.raises(SettingError, match="unknown option of outside:NAME 'valu'; did you mean 'value'"):
        parse_spec("outside:net?valu=1")
    with pytest.raises(ClicksimError, match=r"kind of predictor 'wrong' .*: it is int, not a PredictorKind"):
        parse_spec("wrong:x")
    with pytest.raises(ClicksimError, match=r"kind of predictor 'gone' cannot be loaded from no_such_module_:KIND"):
        parse_spec("gone:x")
    with pytest.raises(SettingError, match="unknown kind of predictor 'outsid'; did you mean 'outside'"):
        parse_spec("outsid:x")


def test_rounds__play_with_a_kind_of_an_outside_package(outside: Path) -> None:
    """In processes of their own, as on any machine on which the package is installed."""
    script = """
import numpy as np
from pathlib import Path
from clicksim import Grid, write_image
from clicksim.pipeline import Crew, RoundsRun, play_rounds
from clicksim.pipeline.cases import file_units
from clicksim.predictors import parse_spec

if __name__ == "__main__":
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[2:4] = 1
    for name in ("a", "b"):
        write_image(f"{name}.nii.gz", mask, Grid.from_spacing(mask.shape, (4, 4, 4)))
    run = RoundsRun(parse_spec("outside:net?value=1"), settings={"n_rounds": 2})
    result = play_rounds(run, file_units([Path("a.nii.gz"), Path("b.nii.gz")], {}), crew=Crew(2))
    print(result.summary["title"], result.rounds["dice"].to_pylist())
"""
    (outside / "script.py").write_text(script)
    told = subprocess.run([sys.executable, "script.py"], cwd=outside, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout == "outside net [0.5, 0.5, 0.5, 0.5]\n"


def test_holding_signals__delivers_the_first_signal_after_the_block() -> None:
    seen = []

    def receive(*numbers: int) -> None:
        with holding_signals():
            for number in numbers:
                signal.raise_signal(number)
            seen.append("inside")
        seen.append("after")

    with pytest.raises(Terminated) as ended, ending_in_order():
        receive(signal.SIGTERM, signal.SIGHUP)
    assert (seen, ended.value.number) == (["inside"], signal.SIGTERM)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            receive(signal.SIGINT)
        assert seen == ["inside", "inside"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_predictors__lists_every_kind_with_its_options():
    rows = {row["kind"]: row for row in json.loads(done("predictors", "--json"))}
    assert set(rows) == set(PREDICTOR_KINDS.names)
    assert rows["builtin"]["options"] == {"suv": "float", "share": "float", "reach_mm": "float"}
    page = done("predictors")
    assert all(row["usage"] in page and row["summary"] in page for row in rows.values())


def test_clicksim__can_be_run_as_a_module():
    told = subprocess.run([sys.executable, "-m", "clicksim", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"clicksim, version {__version__}\n"

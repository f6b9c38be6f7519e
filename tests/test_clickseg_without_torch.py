"""What `clickseg` says where PyTorch is not installed."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from clickseg.cli import main
from clickseg.model_predictor import KIND
from clicksim.errors import ClicksimError
from clicksim.predictors.spec import PredictorSpec

LINE = "clickseg needs PyTorch: pip install 'clicksim[torch]'"


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("clickseg.") and name != "clickseg.cli"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--list"]])
def test_help__needs_no_torch(words: list[str]) -> None:
    assert CliRunner().invoke(main, words).exit_code == 0


@pytest.mark.usefixtures("no_torch")
def test_train__without_torch_is_refused_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["train", str(tmp_path), str(tmp_path / "run")])
    assert (done.exit_code, done.output) == (1, f"clickseg: {LINE}\n")


@pytest.mark.usefixtures("no_torch")
def test_predictor__without_torch_is_refused() -> None:
    with pytest.raises(ClicksimError, match="needs PyTorch"):
        KIND.check(PredictorSpec("clickseg", "model.safetensors", ()))

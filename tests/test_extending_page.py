"""The package of docs/extending.md: once installed, everything that it adds works and passes the test kit."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from clicksim import open_catalog
from clicksim.catalog import find_source
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import convert
from clicksim.testing import check_click_strategy, check_encoding, check_stroke_strategy
from tests.commands import done
from tests.outside import install

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def fences(head: str) -> list[str]:
    return re.findall(rf"^```{re.escape(head)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads(fences("toml")[0])["project"]
    install(tmp_path, monkeypatch, project["entry-points"], fences("python")[0], name="lab_extras")
    monkeypatch.delitem(sys.modules, "lab_extras", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lab_extras"))  # for the workers


@pytest.mark.usefixtures("package")
def test_package__of_the_page_passes_the_kit() -> None:
    check_click_strategy("lab-top")
    check_stroke_strategy("lab-column")
    check_encoding("lab-cube")


@pytest.mark.usefixtures("package")
def test_package__of_the_page_is_found_by_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = write_fdat("download", patients=2, seed=1)
    convert(find_source("fdat"), tree.folder, tmp_path / "catalog")
    case = next(row["case_id"] for row in open_catalog("catalog").cases.to_pylist() if row["n_lesions"])
    label, pet = f"download/labelsTr/{case}.nii.gz", f"download/imagesTr/{case}_0001.nii.gz"
    (tmp_path / "lab.toml").write_text(fences('toml title="lab.toml"')[0])
    by_protocol = done("clicks", "--label", label, "--protocol", "lab.toml")
    assert by_protocol == done("clicks", "--label", label, "--set", "strategy=lab-top", "--set", "n_foreground=5")
    assert done("scribbles", "--label", label, "--set", "strategy=lab-column")
    done("clicks", "--label", label, "--out", "clicks.json")
    encoding = ("--encoding", "lab-cube", "--set", "half_mm=4")
    done("encode", "--prompts", "clicks.json", "--like", pet, *encoding, "--out", "case")
    assert (tmp_path / "case_0002.nii.gz").is_file()
    for workers in (0, 2):
        done("manifest", "lab-lesions", "catalog", f"out{workers}", "--factor", 2, "--workers", workers)
        assert done("manifest", "check", f"out{workers}", "catalog") == "no findings\n"
    assert "lab-threshold" in done(
        "rounds", "--catalog", "catalog", "--predictor", "lab-threshold:4", "--out", "rounds"
    )

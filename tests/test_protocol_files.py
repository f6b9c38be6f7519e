"""A protocol from a TOML file: on the command line, in a catalog, in rounds and scores, and after the file is gone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clicksim.catalog import open_catalog
from clicksim.geometry import Grid
from clicksim.pipeline.scoring import ScoreRule
from clicksim.pipeline.simulation import PromptRun, simulate_catalog
from clicksim.pipeline.verification import verify_run
from clicksim.protocols import load_protocol
from clicksim.rounds.prompters import Rules
from clicksim.volumes import write_image
from tests.commands import done, run

TEXT = """
based_on = "{base}"

[{table}]
{settings}
"""


def write_protocol(folder: Path, name: str = "mine.toml", base: str = "autopet-iv@2", table: str = "clicks",
                   settings: str = 'n_foreground = 3\nstrategy = "rim"') -> Path:  # fmt: skip
    file = folder / name
    file.write_text(TEXT.format(base=base, table=table, settings=settings), encoding="utf-8")
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    label = np.zeros((12, 12, 12), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    write_image(tmp_path / "a_0001.nii.gz", label, Grid.from_spacing(label.shape, (2, 2, 2)))
    return tmp_path


def test_clicks__by_a_file_are_those_of_its_settings(here: Path) -> None:
    write_protocol(here)
    by_file = done("clicks", "--label", "a_0001.nii.gz", "--protocol", "mine.toml")
    by_settings = done("clicks", "--label", "a_0001.nii.gz", "--set", "n_foreground=3", "--set", "strategy=rim")
    assert by_file == by_settings
    assert "mine.toml" in done("protocols", "mine.toml").splitlines()[0]
    refused = run("clicks", "--label", "a_0001.nii.gz", "--protocol", "none.toml")
    assert refused.exit_code == 1
    assert "cannot read the protocol" in refused.stderr


def test_clicks__stored_settings_hold_the_whole_file(here: Path) -> None:
    file = write_protocol(here)
    first = done("clicks", "--label", "a_0001.nii.gz", "--protocol", "mine.toml", "--save-config", "run.toml")
    file.unlink()
    assert done("clicks", "--label", "a_0001.nii.gz", "--config", "run.toml") == first


def test_clicks__a_settings_file_names_a_protocol_beside_it(here: Path) -> None:
    (here / "sub").mkdir()
    write_protocol(here / "sub")
    (here / "sub" / "run.toml").write_text('protocol = "mine.toml"\n', encoding="utf-8")
    named = done("clicks", "--label", "a_0001.nii.gz", "--config", "sub/run.toml")
    assert named == done("clicks", "--label", "a_0001.nii.gz", "--protocol", "sub/mine.toml")


def test_clicks__sweep_over_files(here: Path) -> None:
    write_protocol(here, "one.toml")
    write_protocol(here, "two.toml", settings="n_foreground = 2")
    done("clicks", "--label", "a_0001.nii.gz", "--sweep", "protocol=one.toml,two.toml", "--out", "out")
    found = sorted(file.relative_to(here / "out").as_posix() for file in (here / "out").rglob("*_clicks.json"))
    assert [name.split("/")[0] for name in found] == ["protocol-one.toml", "protocol-two.toml"]
    assert [len(json.loads((here / "out" / name).read_text())["tumor"]) for name in found] == [3, 2]


def test_simulate_catalog__a_run_by_a_file_is_verified_after_the_file_is_gone(phantoms: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    shutil.copytree(phantoms / "catalog", catalog)
    file = write_protocol(tmp_path)
    rule = PromptRun(str(file))
    file.write_text("changed while the job is planned", encoding="utf-8")
    (name,) = simulate_catalog(catalog, [rule], source="fdat")
    file.unlink()
    about = open_catalog(catalog).metadata(name)
    assert about["protocol"].startswith("mine.toml#")
    assert about["protocol_content"]["clicks"]["n_foreground"] == 3
    verdicts = verify_run(catalog, name)
    assert verdicts
    assert {verdict.outcome for verdict in verdicts} == {"equal"}


def test_rules_and_scores__take_a_file(tmp_path: Path) -> None:
    file = write_protocol(tmp_path, base="autopet-v@2", table="rounds", settings="n_rounds = 3")
    rules = Rules.of(file, {})
    assert rules.rounds["n_rounds"] == 3
    score = ScoreRule(file)
    file.unlink()
    assert score.about()["protocol"] == rules.protocol.id
    assert load_protocol(score.about()["protocol_content"]) == rules.protocol

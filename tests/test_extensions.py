"""Encodings and strategies of other packages: found, drawn, linted, tested by the kit, refused if unsound."""

import sys
from pathlib import Path

import numpy as np
import pytest

import clicksim
from clicksim import Click, Grid, Prompts, encode, extensions
from clicksim.catalog import find_source, open_catalog
from clicksim.errors import CatalogError, ClicksimError, SettingError
from clicksim.guidance import ENCODINGS, lint
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import PromptRun, convert, simulate_catalog
from clicksim.protocols.strategy_registry import CLICK_STRATEGIES, STROKE_STRATEGIES
from clicksim.testing import check_click_strategy, check_encoding, check_stroke_strategy
from tests import commands
from tests.outside import SOURCE, install

GRID = Grid.from_spacing((20, 18, 9), (2, 2, 3))
PROMPTS = Prompts((Click((6, 6, 4), True), Click((14, 12, 4), False)), GRID)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "the_lab", raising=False)


@pytest.mark.parametrize("name", ENCODINGS.names)
def test_check_encoding__passes_every_registered_encoding(name: str) -> None:
    check_encoding(name)


@pytest.mark.parametrize("name", CLICK_STRATEGIES.names)
def test_check_click_strategy__passes_every_registered_strategy(name: str) -> None:
    check_click_strategy(name)


@pytest.mark.parametrize("name", STROKE_STRATEGIES.names)
def test_check_stroke_strategy__passes_every_registered_strategy(name: str) -> None:
    check_stroke_strategy(name)


@pytest.mark.usefixtures("lab")
def test_encodings__of_another_package_are_drawn_linted_and_listed() -> None:
    drawn = encode(PROMPTS, GRID.shape, encoding="lab-cube", half_mm=4)
    assert drawn[0].sum() == 5 * 5 * 3
    assert np.array_equal(drawn, encode(PROMPTS, GRID.shape, encoding="lab-cube", half_vx=(2, 2, 1)))
    assert not [finding for finding in lint(drawn, PROMPTS) if finding.severity == "error"]
    image = np.indices(GRID.shape)[0].astype(np.float32)
    assert np.array_equal(encode(PROMPTS, GRID.shape, encoding="lab-bright", image=image)[0], image >= 6)
    assert "lab-cube: half_mm=5.0" in commands.run("encode", "--list").stdout.splitlines()
    with pytest.raises(SettingError, match="did you mean 'lab-cube'"):
        encode(PROMPTS, GRID.shape, encoding="lab-cub")
    check_encoding("lab-cube")
    check_encoding("lab-bright")


@pytest.mark.usefixtures("lab")
def test_strategies__of_another_package_are_choices_of_a_released_protocol() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[3:9, 3:9, 1:7] = mask[12:15, 12:14, 2:5] = True
    prompts = clicksim.simulate_clicks(mask, spacing=GRID.spacing, strategy="lab-top", fill="lab-top", n_foreground=8)
    assert {click.voxel[2] for click in prompts if click.lesion == 1} == {6}
    stroke = clicksim.simulate_scribbles(mask, spacing=GRID.spacing, strategy="lab-column", background="none").items[0]
    assert len({voxel[1] for voxel in stroke.voxels}) == 1
    check_click_strategy("lab-top")
    check_stroke_strategy("lab-column")
    with pytest.raises(SettingError, match=r"unknown strategy of the published rule 'lab-column'"):
        clicksim.simulate_scribbles(mask, protocol="autopet-v@1", strategy="lab-column")
    assert "lab-top" in commands.run("protocols", "autopet-iv@2").stdout


@pytest.mark.usefixtures("lab")
def test_strategies__of_another_package_are_recorded_with_their_version(tmp_path: Path) -> None:
    write_fdat(tmp_path / "tree", patients=2, seed=1)
    convert(find_source("fdat"), tmp_path / "tree", tmp_path / "catalog")
    run = PromptRun("autopet-iv@2", settings={"strategy": "lab-top"})
    simulate_catalog(tmp_path / "catalog", [run, PromptRun("autopet-iv@2")])
    catalog = open_catalog(tmp_path / "catalog")
    found = {name: catalog.metadata(name) for name in catalog.runs}
    packages = {about["settings"]["strategy"]: about.get("packages") for about in found.values()}
    assert packages == {"lab-top": ["the-lab 1.2"], "deepest": None}
    simulate_catalog(tmp_path / "catalog", [run], name="mine")
    metadata = next(tmp_path.rglob("METADATA"))
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("1.2", "1.3"), encoding="utf-8")
    extensions._read_group.cache_clear()
    with pytest.raises(CatalogError, match=r'packages is \["the-lab 1.2"\] there and \["the-lab 1.3"\] here'):
        simulate_catalog(tmp_path / "catalog", [run], name="mine")


@pytest.mark.torch
@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("encoding", ["lab-cube", "lab-bright"])
def test_encodings__of_another_package_train(encoding: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")
    from clickseg.data.prepare import prepare_store
    from clickseg.model.checkpoint import load_model
    from clickseg.train import train_model
    from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings

    write_fdat(tmp_path / "tree", patients=2, seed=1)
    convert(find_source("fdat"), tmp_path / "tree", tmp_path / "catalog")
    prepare_store(tmp_path / "catalog", tmp_path / "store", StoreRules.of({"spacing_mm": [8, 8, 8]}))
    settings = TrainSettings(steps=3, batch=2, workers=0, fold=-1, silent=0.01, corrections_from=0.0, validate_every=0)
    model = ModelSettings.of({"size": "tiny", "patch": [16, 16, 16], "encoding": encoding})
    made = train_model(tmp_path / "store", tmp_path / "run", model, settings)
    assert load_model(made)[0].settings == model


def refused(tmp_path: Path, patch: pytest.MonkeyPatch, source: str, **entries: str) -> str:
    install(tmp_path, patch, {"clicksim.encodings": entries}, source, name="odd_lab")
    patch.delitem(sys.modules, "odd_lab", raising=False)
    with pytest.raises(ClicksimError) as caught:
        encode(PROMPTS, GRID.shape, encoding=next(iter(entries)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "value", "words"),
    [
        ("import nowhere_to_be_found", "odd_lab:CUBE", "cannot be loaded from odd_lab:CUBE (odd-lab 1.2)"),
        ("CUBE = 3", "odd_lab:CUBE", "an encoding is a clicksim.guidance.Encoding, got int"),
        (SOURCE, "odd_lab:CUBE", "its name is 'lab-cube'"),
        (SOURCE, "odd_lab:SPHERE", "cannot be loaded from odd_lab:SPHERE"),
    ],
)
def test_encodings__that_are_unsound_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str, words: str
) -> None:
    assert words in refused(tmp_path, monkeypatch, source, **{"odd": value})


FARSIGHTED = SOURCE.replace("inside = seeds.near(image.start, image.stop)", "inside = seeds")


def test_check_encoding__catches_one_that_reads_outside_a_patch_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"clicksim.encodings": {"farsighted": "far_lab:BRIGHT"}}
    source = FARSIGHTED.replace('"lab-bright"', '"farsighted"')
    install(tmp_path, monkeypatch, entries, source, name="far_lab")
    monkeypatch.delitem(sys.modules, "far_lab", raising=False)
    with pytest.raises(AssertionError, match=r"patch alone is not enough: voxel .* is outside the image"):
        check_encoding("farsighted")


@pytest.mark.parametrize(
    ("words", "kept"),
    [(("convert", "--list"), "deep-psma"), (("encode", "--list"), "ball: "), (("predictors",), "dir:PATH")],
)
def test_lists__show_what_can_be_used_beside_what_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], kept: str
) -> None:
    groups = ("clicksim.sources", "clicksim.encodings", "clicksim.predictors")
    install(tmp_path, monkeypatch, {group: {"absent": "no_such_module:X"} for group in groups}, "", name="broken_lab")
    told = commands.done(*words)
    assert "absent" in told
    assert "No module named 'no_such_module'" in told
    assert kept in told


def test_encodings__of_one_name_in_two_packages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is the name of two entries" in refused(tmp_path, monkeypatch, SOURCE, ball="odd_lab:CUBE")


SLOPPY = """
import numpy as np

def outside(component, spacing, draws):
    "A voxel that is not in the component."
    yield (-1, -1, -1)

def endless(component, spacing, draws):
    "The same voxel for ever."
    while True:
        yield tuple(component.voxels[0].tolist())

def restless(component, spacing, draws):
    "A voxel drawn from the global stream."
    yield tuple(component.voxels[np.random.randint(len(component.voxels))].tolist())

def empty(component, spacing, draws):
    "Nothing."
    return iter(())

def rows(component, spacing, draws):
    "Rows of an array in place of voxels."
    yield component.voxels[0]
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outside", "outside the component"),
        ("endless", "without an end"),
        ("restless", "other voxels"),
        ("empty", "no voxel"),
        ("rows", "yield tuples of three int"),
    ],
)
def test_check_click_strategy__catches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    entries = {"clicksim.strategies": {f"clicks.{name}": f"sloppy_lab:{name}"}}
    install(tmp_path, monkeypatch, entries, SLOPPY, name="sloppy_lab")
    monkeypatch.delitem(sys.modules, "sloppy_lab", raising=False)
    with pytest.raises(AssertionError, match=words):
        check_click_strategy(name)

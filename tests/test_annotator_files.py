"""Annotators from files and from recorded rows: what is written is read back, and known people are found again."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from clicksim import Click, Grid, Prompts, Scribble, simulate_clicks, write_image
from clicksim.cli import main
from clicksim.cli.annotators import _fit_page
from clicksim.errors import PromptFormatError, SettingError
from clicksim.lesions import find_lesions
from clicksim.prompts.table import to_table, write_prompt_table
from clicksim.simulate.annotators.annotator_files import (
    MEANINGS,
    annotator_facts,
    annotator_of,
    annotator_toml,
    cases_of_files,
    fit_rows,
    load_annotator,
    open_annotator,
)
from clicksim.simulate.annotators.annotator_fit import record_case
from clicksim.simulate.annotators.people import PRESETS, Annotator, Person, annotate, place_of
from clicksim.simulate.from_files import click_case
from clicksim.volumes.case import CaseImages

SPACING = (1.0, 1.0, 1.0)
GRID = Grid.from_spacing((72, 72, 72), SPACING)
KNOWN = Annotator(
    "known", offset_mm=1.0, offset_per_radius=0.2, miss_intercept=-1.5, miss_per_volume=-0.8, wrong_polarity=0.1,
    repeat=0.3, seconds=2.5, source="test",
)  # fmt: skip


def balls(seed: int) -> np.ndarray:
    """27 balls of one to seven voxels of radius, apart from each other."""
    draws = np.random.default_rng(seed)
    mask = np.zeros(GRID.shape, np.uint8)
    i, j, k = np.indices(GRID.shape)
    for a, b, c in np.ndindex(3, 3, 3):
        radius = draws.uniform(1, 7)
        mask[(i - 12 - 24 * a) ** 2 + (j - 12 - 24 * b) ** 2 + (k - 12 - 24 * c) ** 2 <= radius**2] = 1
    return mask


def run(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code in (1, 2), result.output
    return result.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of six cases, and the rows of a known person who clicked the middle of each lesion."""
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("recorded")
    (folder / "labels").mkdir()
    tables = []
    for n in range(6):
        mask = balls(n)
        write_image(folder / f"labels/c{n}.nii.gz", mask, GRID)
        ideal = simulate_clicks(mask, spacing=SPACING, case_id=f"c{n}", lesions="all", background="shell")
        ideal = Prompts(tuple(p for p in ideal if p.foreground), GRID, f"c{n}")
        tables.append(to_table(annotate(ideal, mask, KNOWN, seed=n)).replace_schema_metadata(None))
    write_prompt_table(
        folder / "rows.parquet", pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    )
    return folder


# files


ODD = Annotator('\U0001f600 \x7f"', offset_mm=1.0, miss_intercept=-2.0, source="-Infinity \u00fc")


@pytest.mark.parametrize("model", [*PRESETS.values(), KNOWN, ODD], ids=lambda model: model.name)
def test_annotator_toml__comes_back(model: Annotator, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(annotator_toml(model), encoding="utf-8")
    assert load_annotator(tmp_path / "x.toml") == model
    assert open_annotator(str(tmp_path / "x.toml")) == model
    assert annotator_of(json.loads(json.dumps(annotator_facts(model), allow_nan=False))) == model


def test_meanings__name_every_parameter() -> None:
    assert ["name", *MEANINGS] == list(asdict(KNOWN))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("offset = 1", "did you mean 'offset_mm'"),
        ("offset_mm = 'a'", "must be a number"),
        ("offset_mm = true", "must be a number"),
        ("source = 3", "must be a text"),
        ("repeat = 2", r"probability, got 2.0 \(.*x.toml\)"),
        ("offset_mm = 1" + "0" * 400, "must be a number"),
        ("miss_intercept = nan", "miss_intercept of an annotator must be a finite number"),
        ("repeat = ", "is not TOML"),
        ("name = 'hurried'", "is the name of a preset"),
    ],
)
def test_load_annotator__refuses_what_is_none(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(SettingError, match=words):
        load_annotator(tmp_path / "x.toml")


def test_open_annotator__names_the_missing() -> None:
    with pytest.raises(SettingError, match="cannot read the annotator"):
        open_annotator("nowhere.toml")
    with pytest.raises(SettingError, match="did you mean 'ideal'"):
        open_annotator("idea")


# what is recorded of a case


def test_place_of__equals_the_lesion_that_holds_the_voxel() -> None:
    mask = balls(3)[:40, :30]
    for layout in (np.ascontiguousarray, np.asfortranarray):
        lesions = find_lesions(layout(mask))
        voxels = np.random.default_rng(0).integers(0, mask.shape, (300, 3))
        wanted = [next((n for n, lesion in enumerate(lesions) if lesion.holds(v)), -1) for v in voxels]
        assert place_of(lesions, voxels).tolist() == wanted
        assert max(wanted) >= 0
    assert place_of(find_lesions(np.zeros((3, 3, 3))), voxels[:2]).tolist() == [-1, -1]


def test_record_case__sorts_clicks_by_lesion() -> None:
    mask = np.zeros((60, 20, 20), np.uint8)
    mask[4:9, 4:9, 4:9] = 1
    mask[50, 5, 5] = 1
    clicks = (
        Click((6, 6, 7), True), Click((10, 6, 6), True), Click((6, 6, 6), False), Click((15, 15, 15), False),
        Click((44, 6, 6), True), Scribble(((6, 6, 6),), True),
    )  # fmt: skip
    prompts = Prompts(clicks, Grid.from_spacing(mask.shape, (2, 2, 2)), "c", effort_s=2.0)
    found = record_case(prompts, mask)
    first, second = found.lesions
    assert first.offsets_mm.tolist() == [[0, 0, 2], [8, 0, 0], [0, 0, 0]]
    assert (first.wrong, first.seconds, first.contrast) == (1, 6.0, 2.0)
    assert first.volume_ml == pytest.approx(125 * 8 / 1000)
    assert second.offsets_mm.tolist() == [[-12, 2, 2]]
    assert (found.strays, found.strokes) == (0, 1)
    for i, clicks, strays in ((18, 1, 0), (19, 0, 1)):  # 20 mm from the first lesion, and 22
        near = record_case(Prompts((Click((i, 6, 6), True),), prompts.grid), mask)
        assert (near.strays, [len(entry.offsets_mm) for entry in near.lesions]) == (strays, [clicks, 0])


def test_fit_rows__finds_a_known_person_again(recorded: Path) -> None:
    table = pq.read_table(recorded / "rows.parquet")
    found = fit_rows([table], cases_of_files(recorded / "labels"), name="again", bootstrap=10)
    model = found.fit.annotator
    assert (found.games, found.fit.lesions) == (6, 162)
    for name, tolerance in (("offset_mm", 0.4), ("offset_per_radius", 0.12), ("miss_intercept", 0.7),
                            ("miss_per_volume", 0.4), ("wrong_polarity", 0.06), ("repeat", 0.1)):  # fmt: skip
        assert abs(getattr(model, name) - getattr(KNOWN, name)) < tolerance, (name, getattr(model, name))
    assert model.seconds == pytest.approx(2.5)
    with pytest.raises(PromptFormatError, match="no prompts of ann; there are those of: known"):
        fit_rows([table], cases_of_files(recorded / "labels"), name="x", annotator="ann")
    with pytest.raises(PromptFormatError, match="missing: stroke"):
        fit_rows([table.drop_columns(["stroke"])], cases_of_files(recorded / "labels"), name="x")
    with pytest.raises(PromptFormatError, match="no prompts of anybody; the tables are empty"):
        fit_rows([table[:0]], cases_of_files(recorded / "labels"), name="x")


# a person before a case


def test_person__strokes_lose_what_they_have_in_missed_lesions() -> None:
    mask = np.zeros((20, 8, 8), np.uint8)
    mask[2:4, 2:4, 2:4] = mask[12:18, 2:7, 2:7] = 1
    blind = Annotator("small-blind", miss_intercept=-40.0, miss_per_volume=-20.0)
    person = Person.before(blind, mask, Grid.from_spacing(mask.shape, (2, 2, 2)), case_id="c")
    assert person.hidden.tolist() == [0]
    both = Scribble(((2, 2, 2), (13, 3, 3), (3, 3, 3)), True)
    assert person.act([both, Scribble(((2, 2, 2),), True), Click((2, 2, 2), True)]) == (Scribble(((13, 3, 3),), True),)
    assert person.act([Scribble(((2, 2, 2),), False)]) == (Scribble(((2, 2, 2),), False),)
    prediction = np.zeros_like(mask)
    prediction[2, 2, 2] = 1
    seen = person.seen_truth(mask, prediction)
    assert np.argwhere(seen[:8]).tolist() == [[2, 2, 2]]
    assert (seen[8:] == mask[8:]).all()
    assert mask[:8].sum() == 8


def test_click_case__a_person_sees_the_lesions_that_the_rule_had(tmp_path: Path) -> None:
    mask = np.zeros((20, 8, 8), np.uint8)
    mask[2:4, 2:4, 2:4] = mask[12:18, 2:7, 2:7] = 5  # one instance in two parts
    write_image(tmp_path / "a.nii.gz", mask, Grid.from_spacing(mask.shape, (2, 2, 2)))
    blind = Annotator("blind", miss_intercept=50.0)
    for per_lesion, lesions in ((True, 1), (False, 2)):
        case = CaseImages({"label": tmp_path / "a.nii.gz"})
        prompts = click_case(case, protocol="longitudinal-ct@1", per_lesion=per_lesion, annotator=blind)
        assert prompts.notes[-1] == f"blind misses {lesions} of {lesions} lesions"


# commands


def test_annotators__are_shown_with_meaning_and_as_assumed(tmp_path: Path) -> None:
    text = run("annotators")
    assert all(meaning in text for meaning in MEANINGS.values())
    assert "assumptions" in text.splitlines()[-1]
    assert json.loads(run("annotators", "careful", "--json", "--out", tmp_path / "c.toml"))["offset_mm"] == 1.0
    assert load_annotator(tmp_path / "c.toml") == PRESETS["careful"]
    assert [model["name"] for model in json.loads(run("annotators", "--json"))] == list(PRESETS)
    assert "options that need --fit: --label" in refused("annotators", "--label", tmp_path)
    assert "one NAME" in refused("annotators", "ideal", "hurried")
    assert "needs PROMPTS" in refused("annotators", "--fit", "--label", tmp_path)
    assert "either --catalog or --label" in refused("annotators", "--fit", "x.parquet")


def test_annotators__a_fit_is_used_by_clicks_and_scribbles(recorded: Path, tmp_path: Path) -> None:
    label = recorded / "labels/c0.nii.gz"
    fit = ("annotators", "--fit", recorded / "rows.parquet", "--label", label.parent)
    facts = json.loads(run(*fit, "--out", tmp_path / "m.toml", "--json"))
    page = _fit_page(fit_rows([pq.read_table(fit[2])], cases_of_files(label.parent), name="fitted", bootstrap=5))
    assert "offset_p" in page
    assert "fitted to" in page
    assert facts["annotator"] == annotator_facts(load_annotator(tmp_path / "m.toml"))
    assert {"offset_p", "miss_error", "intervals", "lesions", "clicks"} <= set(facts)
    for command in ("clicks", "scribbles"):
        plain, same = (json.loads(run(command, "--label", label, *more)) for more in ((), ("--annotator", "ideal")))
        assert plain == same
        assert json.loads(run(command, "--label", label, "--annotator", tmp_path / "m.toml")) != plain
        file = tmp_path / f"{command}.parquet"
        run(command, "--label", label, "--annotator", "hurried", "--format", "rows", "--out", file)
        rows = pq.read_table(file).to_pylist()
        assert {(row["annotator"], row["effort_s"]) for row in rows} == {("hurried", 1.5)}
    assert "did you mean 'hurried'" in refused("clicks", "--label", label, "--annotator", "huried")


@pytest.mark.parametrize("command", ["clicks", "scribbles"])
def test_save_config__holds_the_annotator_which_config_reads_back(
    command: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (command, "--label", recorded / "labels/c0.nii.gz", "--format", "rows")
    mine = Annotator("mine", offset_mm=7.0, tremor_mm=4.0, repeat=0.3, source="a guess")
    Path("mine.toml").write_text(annotator_toml(mine))
    run(*words, "--out", "rule")
    over = [str(word) for word in (*words, "--annotator", "mine.toml", "--save-config", "./mine.toml", "--out", "x")]
    assert "overwrite the file of --annotator" in CliRunner().invoke(main, over).stderr
    for name in ("hurried", "mine.toml"):
        run(*words, "--annotator", name, "--save-config", "s.toml", "--out", "first")
        if name == "mine.toml":
            Path(name).unlink()  # the settings need no other file
        run(*words, "--config", "s.toml", "--save-config", "t.toml", "--out", "again")
        assert Path("s.toml").read_bytes() == Path("t.toml").read_bytes()
        assert Path("first").read_bytes() == Path("again").read_bytes() != Path("rule").read_bytes()
        assert tomllib.loads(run(*words, "--config", "s.toml", "--dry-run")) == tomllib.loads(
            Path("s.toml").read_text()
        )
    run(*words, "--config", "s.toml", "--annotator", "careful", "--save-config", "u.toml", "--out", "other")
    assert tomllib.loads(Path("u.toml").read_text())["annotator"] == asdict(PRESETS["careful"])


def test_sweep__holds_the_annotator_in_the_settings_of_each_run(recorded: Path, tmp_path: Path) -> None:
    words = ("clicks", "--label", recorded / "labels/c0.nii.gz", "--format", "rows")
    run(*words, "--annotator", "hurried", "--sweep", "seed=1,2", "--out", tmp_path / "sweep")
    for seed in (1, 2):
        folder = tmp_path / f"sweep/seed-{seed}"
        run(*words, "--config", folder / "settings.toml", "--out", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (folder / "c0_clicks.parquet").read_bytes()
        assert {row["annotator"] for row in pq.read_table(tmp_path / "again").to_pylist()} == {"hurried"}


def test_config__takes_an_annotator_by_name_or_from_a_file_beside_it(recorded: Path, tmp_path: Path) -> None:
    label, config = recorded / "labels/c0.nii.gz", tmp_path / "c.toml"
    (tmp_path / "mine.toml").write_text("offset_mm = 7.0")

    def shown(text: str) -> str:
        config.write_text(text)
        return str(tomllib.loads(run("clicks", "--label", label, "--config", config, "--dry-run"))["annotator"]["name"])

    def why(text: str) -> str:
        config.write_text(text)
        return refused("clicks", "--label", label, "--config", config)

    assert shown("annotator = 'careful'") == "careful"
    assert shown("annotator = 'mine.toml'") == "mine"
    assert shown("[annotator]\nname = 'x'\nmiss_intercept = -inf") == "x"
    assert "did you mean 'hurried'" in why("annotator = 'huried'")
    assert "cannot read the annotator" in why("annotator = 'none.toml'")
    assert "annotator must be a name" in why("annotator = 3")
    assert "did you mean 'offset_mm'" in why("[annotator]\noffsetmm = 3")


def test_scribbles__a_person_corrects_what_they_see(tmp_path: Path) -> None:
    mask = np.zeros((30, 30, 12), np.uint8)
    mask[3:5, 3:5, 3:5], mask[15:16, 15:16, 5] = 1, 1
    for name, array in (("label", mask), ("empty", np.zeros_like(mask))):
        write_image(tmp_path / f"{name}.nii.gz", array, Grid.from_spacing(mask.shape, (2, 2, 3)))
    blind = Annotator("blind-to-large", miss_intercept=160.0, miss_per_volume=40.0)  # the small one is seen
    (tmp_path / "blind.toml").write_text(annotator_toml(blind))
    words = ("scribbles", "--label", tmp_path / "label.nii.gz", "--prediction", tmp_path / "empty.nii.gz")
    assert mask[tuple(json.loads(run(*words))["tumor"][0])]
    assert json.loads(run(*words))["tumor"][0][0] < 10
    seen = json.loads(run(*words, "--annotator", tmp_path / "blind.toml", "--set", "kind=click"))
    assert seen == {"tumor": [[15, 15, 5]], "background": []}

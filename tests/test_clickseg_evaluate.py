"""`clickseg evaluate`: rounds over a catalog with a model, by fold and by lesion, and the linter at work on it."""

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from click.testing import CliRunner  # noqa: E402

from clickseg.cli import main  # noqa: E402
from clickseg.evaluate import choose_cohort, evaluate_model  # noqa: E402
from clickseg.lesion_scores import score_lesions, summarise_lesions  # noqa: E402
from clickseg.model_linting import lint_model  # noqa: E402
from clickseg.model_predictor import model_spec  # noqa: E402
from clickseg.predict import Options, RoundsPredictor, open_session  # noqa: E402
from clicksim.catalog import create_catalog, open_catalog  # noqa: E402
from clicksim.catalog.folds import choose_folds, make_folds, read_folds, write_folds  # noqa: E402
from clicksim.catalog.schema import rows_to_table  # noqa: E402
from clicksim.errors import ClicksimError, SettingError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.pipeline.cases import CaseEntry  # noqa: E402
from clicksim.pipeline.workers import Crew  # noqa: E402
from clicksim.predictors import Scan, open_predictor, parse_spec  # noqa: E402
from clicksim.prompts import Prompts  # noqa: E402
from clicksim.rounds import RoundsCase, play  # noqa: E402
from clicksim.volumes import read_image, read_label, write_image  # noqa: E402
from tests.clickseg_models import write_model  # noqa: E402
from tests.clickseg_phantoms import SPACING, make_toy, write_case, write_catalog  # noqa: E402

pytestmark = pytest.mark.torch
CPU = Options(device="cpu")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("evaluate") / "catalog", 3)


@pytest.fixture(scope="module")
def model(catalog):
    plan = choose_folds(catalog).about()
    return write_model(
        catalog.path.parent / "model.safetensors", digest=catalog.digest(), fold=1, bias=-0.5, folds=plan
    )


@pytest.fixture(scope="module")
def outcome(catalog, model):
    out = catalog.path.parent / "results"
    arguments = ["evaluate", model, catalog.path, out, "--fold", "all", "--set", "n_rounds=2", "--device", "cpu",
                 "--lint", "1"]  # fmt: skip
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out, result.stdout


def test_evaluate__writes_what_it_promises(outcome):
    out, page = outcome
    for protocol in ("autopet-iv-2", "autopet-v-2"):
        names = {"rounds.parquet", "prompts.parquet", "lesions.parquet", "metric_scores.json", "summary.json",
                 "curve.png", "runs", ".lock"}  # fmt: skip
        assert {file.name for file in (out / protocol).iterdir()} == names
        summary = json.loads((out / protocol / "summary.json").read_text())
        assert summary["all"]["cases"] == 3
        assert summary["all"]["failed_rounds"] == 0
        assert {"tracer", "centre", "burden", "fold", "lesion"} <= summary.keys()
        assert summary["all"]["auc_dice"]["low"] is not None
        assert "overlap=0.5" in summary["predictor"]
    assert "the model was trained on some of them" in page
    assert "verdict:" in (out / "lint.txt").read_text()
    assert "obeys" in page


def test_evaluate__rounds_are_those_of_the_model(outcome, catalog, model):
    out, _ = outcome
    rows = pq.read_table(out / "autopet-v-2" / "rounds.parquet").to_pylist()
    row = catalog.cases.to_pylist()[0]
    images = {name: read_image(catalog.resolve(row[f"{name}_path"])) for name in ("ct", "pet")}
    truth = read_label(catalog.resolve(row["label_path"]))
    scan = Scan(row["case_id"], truth.grid, images["ct"].array, images["pet"].array)
    predictor = RoundsPredictor(open_session(model, CPU)[0])
    game = play(RoundsCase(scan, truth.array), predictor, protocol="autopet-v@2", n_rounds=2)
    mine = [r["dice"] for r in rows if r["case_id"] == row["case_id"]]
    assert mine == [r["dice"] for r in game.rows]
    assert max(mine) > 0


def test_evaluate__folds_and_lesions_add_up(outcome, catalog):
    out, _ = outcome
    summary = json.loads((out / "autopet-v-2" / "summary.json").read_text())
    assert {fold: part["cases"] for fold, part in summary["fold"].items()} == {"0": 1, "1": 1, "2": 1}
    lesions = pq.read_table(out / "autopet-v-2" / "lesions.parquet").to_pylist()
    counts = sum(row["n_lesions"] for row in catalog.cases.to_pylist())
    assert summary["lesion"]["all"]["lesions"] == counts == sum(row["round"] == 0 for row in lesions)
    rounds = pq.read_table(out / "autopet-v-2" / "rounds.parquet").to_pylist()
    for row in (row for row in rounds if row["round"] == 0):
        own = [lesion for lesion in lesions if lesion["case_id"] == row["case_id"] and lesion["round"] == 0]
        assert np.isclose(sum(lesion["volume_ml"] for lesion in own), row["truth_ml"])
        hit = sum(lesion["volume_ml"] * lesion["found_share"] for lesion in own)
        assert np.isclose(hit, row["dice"] * (row["truth_ml"] + row["predicted_ml"]) / 2)


def test_summarise_lesions__splits_by_volume():
    rows = [
        {"source": "x", "case_id": "a", "round": r, "lesion": n, "volume_ml": volume, "found_share": share}
        for r, shares in enumerate([(0.0, 0.5, 1.0), (0.5, 0.5, 1.0)])
        for n, (volume, share) in enumerate(zip((0.5, 5.0, 50.0), shares, strict=True))
    ]
    found = summarise_lesions(rows)
    assert found["all"] == {"lesions": 3, "found": [2 / 3, 1.0], "found_share": [0.5, 2 / 3]}
    assert found["below 1 ml"]["found"] == [0.0, 1.0]
    assert found["above 10 ml"]["lesions"] == 1
    other = [row | {"source": "y"} for row in rows]
    assert summarise_lesions([*rows, *other])["all"]["lesions"] == 6
    assert summarise_lesions([]) == {}


def test_measure_lesions__names_lesions_as_the_catalog_does(tmp_path):
    grid = Grid.from_spacing((6, 5, 4), (10.0, 10.0, 10.0))
    label, mask = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    label[0:2, 0, 0], label[4:6, 4, 2:4] = 7, 3
    mask[1, 0, 0] = 1
    catalog = create_catalog(tmp_path / "catalog")
    write_image(catalog.path / "label.nii.gz", label, grid)
    entry = CaseEntry("a", {"label": "catalog:label.nii.gz"}, facts={"source": "mine"})
    assert score_lesions(catalog, entry, tmp_path) == []
    for number in (2, 10):
        write_image(tmp_path / f"iter_{number}.nii.gz", mask * (number == 10), grid)
    rows = score_lesions(catalog, entry, tmp_path)
    assert [(r["round"], r["lesion"], r["volume_ml"], r["found_share"]) for r in rows] == [
        (2, 3, 4.0, 0.0), (2, 7, 2.0, 0.0), (10, 3, 4.0, 0.0), (10, 7, 2.0, 0.5),
    ]  # fmt: skip
    assert {(row["source"], row["case_id"]) for row in rows} == {("mine", "a")}


def test_evaluate__keeps_predictions_of_one_name_apart_by_source_and_forgets_earlier_ones(tmp_path):
    catalog = create_catalog(tmp_path / "catalog")
    for n, source in enumerate(("fdat", "longitudinal_ct")):
        ct, pet, label = make_toy(n)
        images = {"ct": ct, "pet": pet, "label": label * (n + 1)}
        row = write_case(catalog, source, "fdg_same", images, Grid.from_spacing(ct.shape, SPACING), fold=0)
        catalog.write_part("cases", source, rows_to_table("cases", [row]))
    model = write_model(tmp_path / "model.safetensors", digest=catalog.digest(), bias=-0.5)
    for rounds, sources in ((3, ["fdat", "fdat"]), (2, [])):
        evaluate_model(
            model, catalog.path, tmp_path / "out", protocols=["autopet-v@2"], fold="all", sources=sources,
            settings={"n_rounds": rounds}, options=CPU, keep_predictions=True, lint=0, overwrite=True,
        )  # fmt: skip
    out = tmp_path / "out" / "autopet-v-2"
    kept = sorted(str(file.relative_to(out / "predictions")) for file in out.rglob("*.nii.gz"))
    assert kept == [f"{source}/fdg_same/iter_{n}.nii.gz" for source in ("fdat", "longitudinal_ct") for n in (0, 1)]
    lesions = pq.read_table(out / "lesions.parquet").to_pylist()
    assert {row["round"] for row in lesions} == {0, 1}
    counts = {row["source"]: row["n_lesions"] for row in catalog.cases.to_pylist()}
    assert {s: sum(row["source"] == s and not row["round"] for row in lesions) for s in counts} == counts
    assert set(pq.read_table(out / "prompts.parquet")["source"].to_pylist()) == set(counts)
    assert set(json.loads((out / "metric_scores.json").read_text())) == {"fdat/fdg_same", "longitudinal_ct/fdg_same"}


def test_choose_cohort__auto_takes_the_held_out_fold_of_its_own_catalog(catalog):
    def chosen(about, fold="auto"):
        cohort = choose_cohort(catalog, about, fold, ())
        return sorted(entry.case_id for unit in cohort.units for entry in unit.content), cohort.sentence

    plan = choose_folds(catalog).about()
    everyone = sorted(row["case_id"] for row in catalog.cases.to_pylist())
    own = {"catalog_digest": catalog.digest(), "train": {"fold": 1}, "folds": plan}
    held = [row["case_id"] for row in catalog.cases.to_pylist() if row["official_fold"] == 1]
    assert chosen(own) == (held, "1 case of fold 1; the model was trained on none of them")
    assert chosen(own, "0")[1].endswith("the model was trained on some of them")
    for other in ({"catalog_digest": "another"}, {"folds": plan | {"digest": "another"}}):
        assert chosen(own | other)[0] == everyone
        assert chosen(own | other)[1].endswith("is not known here")
    assert chosen({**own, "train": {"fold": -1}})[0] == everyone
    with pytest.raises(SettingError, match="fold must be all, auto or one of 0, 1, 2; got '4'"):
        chosen(own, "4")


@pytest.mark.parametrize("name", ["..", "../../a", "/a"])
def test_choose_cohort__refuses_a_case_whose_masks_would_be_elsewhere(tmp_path, name):
    catalog = create_catalog(tmp_path / "catalog")
    row = {"case_id": name, "patient_key": "p", "instances": "components", "official_fold": 0}
    catalog.write_part("cases", "fdat", rows_to_table("cases", [row]))
    about = {"catalog_digest": "", "train": {"fold": 0}, "folds": {"plan": "", "digest": ""}}
    with pytest.raises(ClicksimError, match="cannot be the name of a f"):
        choose_cohort(catalog, about, "all", ())


def test_choose_cohort__every_study_of_a_patient_has_one_fold(catalog, tmp_path):
    # one study with an official fold, one without: training holds out both, and so must evaluation
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.cases.to_pylist()]
    keys = (("one", 1), ("one", None), ("two", 0))
    rows = [{**row, "patient_key": key, "official_fold": fold} for row, (key, fold) in zip(rows, keys, strict=True)]
    other = create_catalog(tmp_path / "catalog")
    other.write_part("cases", "fdat", rows_to_table("cases", rows))
    about = {"catalog_digest": other.digest(), "train": {"fold": 1}, "folds": choose_folds(other).about()}
    cohort = choose_cohort(other, about, "auto", ())
    assert [entry.facts["patient_key"] for unit in cohort.units for entry in unit.content] == ["one", "one"]


def test_choose_cohort__takes_the_plan_of_the_store_or_the_one_that_is_named(tmp_path):
    catalog = write_catalog(tmp_path / "catalog", 4)
    for name, seed in (("mine", 1), ("other", 5)):
        write_folds(catalog, name, make_folds(catalog, n_folds=2, seed=seed, official="ignore"))
    about = {"catalog_digest": catalog.digest(), "train": {"fold": 1}}
    about["folds"] = choose_folds(catalog, "mine").about()
    assert choose_cohort(catalog, about, "auto", ()).folds == read_folds(catalog, "mine").fold_of
    assert choose_cohort(catalog, about, "1", (), "other").folds == read_folds(catalog, "other").fold_of


def test_evaluate__workers_play_the_model_that_is_named(catalog, model, outcome, tmp_path):
    # a worker's environment is that of the moment when the first of them began
    other = write_model(model.with_name("else.safetensors"), seed=9, digest=catalog.digest(), bias=-0.5)
    for path, same in ((other, False), (model, True)):
        out = tmp_path / path.stem
        evaluate_model(
            path, catalog.path, out, protocols=["autopet-v@2"], fold="all", settings={"n_rounds": 2}, options=CPU,
            crew=Crew(workers=1), lint=0,
        )  # fmt: skip
        tables = [pq.read_table(folder / "autopet-v-2" / "rounds.parquet") for folder in (outcome[0], out)]
        assert tables[0].equals(tables[1]) == same


def test_model_spec__opens_the_model_that_it_names(catalog, model):
    row = catalog.cases.to_pylist()[0]
    image = read_image(catalog.resolve(row["ct_path"]))
    scan = Scan("a", image.grid, image.array, None)
    other = write_model(model.with_name("other.safetensors"), seed=9)
    masks = []
    for path in (model, other, model):
        spec = model_spec(path, CPU)
        assert parse_spec(str(spec)) == spec
        predictor = open_predictor(pickle.loads(pickle.dumps(spec)))
        masks.append(predictor(scan, Prompts((), image.grid)))
        predictor.finish()
    assert np.array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], masks[1])


def test_lint_model__sees_a_model_that_ignores_its_guidance(catalog, model):
    session, _ = open_session(model, CPU)
    about = {"catalog_digest": "", "train": {"fold": 0}, "folds": {"plan": "", "digest": ""}}
    units = choose_cohort(catalog, about, "all", ()).units
    used = lint_model(session, catalog, units, 1, 42)
    with torch.no_grad():  # cut the two channels of guidance off
        for weight in (
            session.model.network.input_block.conv1.conv.weight,
            session.model.network.input_block.conv3.conv.weight,
        ):
            weight[:, 4:] = 0
    ignored = lint_model(session, catalog, units, 1, 42)
    assert "does not use it" not in used
    assert ignored.count("does not use it") == 4
    assert lint_model(session, catalog, [], 1, 42).startswith("no case has a lesion")


def test_evaluate__says_which_pet_it_doubts_and_lints_around_a_case_that_cannot_be_read(tmp_path):
    catalog = write_catalog(tmp_path / "catalog", 2, ct_only=1)
    first, second = catalog.cases.to_pylist()
    doubtful = next(row for row in (first, second) if row["pet_path"])
    lost = next(row for row in (first, second) if not row["pet_path"])
    pet = read_image(catalog.resolve(doubtful["pet_path"]))
    strange = pet.array.copy()
    strange[0, 0, 0] = -500
    write_image(catalog.resolve(doubtful["pet_path"]), strange, pet.grid)
    catalog.resolve(lost["ct_path"]).unlink()
    model = write_model(tmp_path / "model.safetensors", bias=-0.5)
    page = evaluate_model(
        model, catalog.path, tmp_path / "out", protocols=["autopet-v@2"], fold="all", settings={"n_rounds": 2},
        options=CPU, lint=2,
    )  # fmt: skip
    assert f"case {doubtful['case_id']}: {catalog.resolve(doubtful['pet_path'])} has values down to -500" in page
    summary = json.loads((tmp_path / "out" / "autopet-v-2" / "summary.json").read_text())
    assert [row["case_id"] for row in summary["notes"]] == [doubtful["case_id"]]
    findings = (tmp_path / "out" / "lint.txt").read_text()
    assert f"case {doubtful['case_id']}\n" in findings
    assert f"case {lost['case_id']} is left out: " in findings


def test_evaluate__refuses_before_it_writes(catalog, model, tmp_path):
    for extra, words in (
        (["--protocol", "autopet-v@2", "--protocol", "autopet-x@1"], "autopet-x@1"),
        (["--set", "n_round=3"], "n_round"),
    ):
        result = CliRunner().invoke(main, ["evaluate", str(model), str(catalog.path), str(tmp_path / "out"), *extra])
        assert result.exit_code == 1
        assert words in result.stderr
        assert not (tmp_path / "out").exists()
    assert open_catalog(catalog.path).parts("rounds") == []


def test_evaluate__goes_on_after_an_interruption(catalog, model, tmp_path, outcome):
    import clickseg.evaluate as module

    base = ["evaluate", model, catalog.path, tmp_path / "out", "--fold", "all", "--set", "n_rounds=2",
            "--device", "cpu", "--lint", "0", "--protocol", "autopet-v@2"]  # fmt: skip
    base = [str(a) for a in base]
    played = []
    real = module.play_patient

    def dies(run, catalog, keep, unit, folder):
        if len(played) == 1:
            raise KeyboardInterrupt
        played.append(unit.key)
        return real(run, catalog, keep, unit, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "play_patient", dies)
        CliRunner().invoke(main, base)
    assert len(played) == 1
    refused = CliRunner().invoke(main, base)
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    result = CliRunner().invoke(main, [*base, "--resume"])
    assert result.exit_code == 0, result.output
    for name in ("rounds", "lesions"):
        tables = [
            pq.read_table(folder / "autopet-v-2" / f"{name}.parquet") for folder in (outcome[0], tmp_path / "out")
        ]
        assert tables[0].equals(tables[1])

"""Scribble runs of a catalog: the same for any number of workers, verified, and held against the published files."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from clicksim.catalog import find_source, open_catalog
from clicksim.cli import main
from clicksim.errors import SettingError
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import Crew, PromptRun, convert
from clicksim.pipeline.cases import catalog_units
from clicksim.pipeline.prompt_import import import_prompts
from clicksim.pipeline.verification import verify_run
from clicksim.simulate.annotators.people import PRESETS
from tests.simulated import simulate_run

REAL = "fdg_0b57b247b6_05-02-2002-NA-PET-CT Ganzkoerper  primaer mit KM-42966"
SMALL = {"shape": (40, 36, 50), "spacing": (10, 10, 12)}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of three patients; not to be changed."""
    root = tmp_path_factory.mktemp("phantom")
    write_fdat(root / "fdat", patients=3, **SMALL)
    convert(find_source("fdat"), root / "fdat", root / "catalog")
    return root / "catalog"


@pytest.fixture
def catalog(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "catalog"))


def outcomes(verdicts):
    return Counter(verdict.outcome for verdict in verdicts)


@pytest.mark.parametrize("protocol", ["autopet-v@1", "autopet-v@2"])
def test_simulate_catalog__scribbles_verify_and_come_back_from_files(catalog, tmp_path, protocol):
    run, summary = simulate_run(catalog, protocol, out=tmp_path / "out", table="scribbles")
    opened = open_catalog(catalog)
    assert opened.metadata(run)["table"] == "scribbles"
    assert {row["kind"] for row in opened.table("prompts", run).to_pylist()} == {"scribble"}
    assert outcomes(verify_run(catalog, run)) == {"equal": summary.cases}
    assert len(list((tmp_path / "out").glob("*_scribbles.json"))) == summary.cases
    import_prompts(catalog, tmp_path / "out", run="back", kind="scribble", protocol=protocol)
    assert outcomes(verify_run(catalog, "back")) == {"equal": summary.cases}


def test_simulate_catalog__scribbles_are_the_same_for_any_number_of_workers(catalog, phantom, tmp_path):
    other = Path(shutil.copytree(phantom, tmp_path / "other"))
    wish = {"strategy": "random"}
    runs = [
        simulate_run(home, "autopet-v@2", 7, wish, table="scribbles", crew=Crew(n))[0]
        for home, n in ((catalog, 0), (other, 2))
    ]
    assert runs[0] == runs[1]
    files = [(home / f"prompts/run={runs[0]}/part-0.parquet").read_bytes() for home in (catalog, other)]
    assert files[0] == files[1]


def test_verify_run__sees_one_scribble_voxel(catalog, tmp_path):
    simulate_run(catalog, "autopet-v@1", out=tmp_path / "out", table="scribbles")
    file = next(f for f in sorted((tmp_path / "out").glob("*_scribbles.json")) if json.loads(f.read_text())["tumor"])
    strokes = json.loads(file.read_text())
    strokes["tumor"].reverse()  # files that were published hold no order
    file.write_text(json.dumps(strokes))
    import_prompts(catalog, tmp_path / "out", run="turned", kind="scribble", protocol="autopet-v@1")
    assert set(outcomes(verify_run(catalog, "turned"))) == {"equal"}
    strokes["tumor"][0][0] += 1
    file.write_text(json.dumps(strokes))
    import_prompts(catalog, tmp_path / "out", run="changed", kind="scribble", protocol="autopet-v@1")
    (bad,) = (verdict for verdict in verify_run(catalog, "changed") if verdict.outcome != "equal")
    assert bad.outcome == "unequal"
    assert "foreground voxel" in bad.detail
    with pytest.raises(SettingError, match="autopet-v@1 has no rule for clicks"):
        import_prompts(catalog, tmp_path / "out", run="x", protocol="autopet-v@1")


def test_simulate_catalog__names_a_run_of_clicks_as_it_always_did(catalog):
    units = catalog_units(open_catalog(catalog))
    about = {"protocol": "autopet-iv@1", "seed": 42, "settings": PromptRun("autopet-iv@1").about()["settings"]}
    cases = [[unit.key, [entry.case_id for entry in unit.content]] for unit in units]
    text = json.dumps([about, cases], sort_keys=True)
    assert simulate_run(catalog, "autopet-iv@1")[0] == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize(("table", "protocol"), [("clicks", "autopet-iv@2"), ("scribbles", "autopet-v@2")])
def test_simulate_catalog__an_annotator_stands_in_rows_and_metadata_and_verifies(catalog, table, protocol):
    plain, _ = simulate_run(catalog, protocol, table=table)
    run, summary = simulate_run(catalog, protocol, table=table, annotator=PRESETS["careful"])
    assert run != plain
    opened = open_catalog(catalog)
    assert opened.metadata(run)["annotator_model"]["name"] == "careful"
    assert {(r["annotator"], r["effort_s"]) for r in opened.table("prompts", run).to_pylist()} == {("careful", 4.0)}
    assert outcomes(verify_run(catalog, run)) == {"equal": summary.cases}


def test_scribbles__over_a_catalog_from_the_command_line(catalog, tmp_path):
    def run(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    done = run("scribbles", "--catalog", catalog, "--protocol", "autopet-v@1", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "notes on" not in done.stderr
    name = done.stdout.split()[1].rstrip(":")
    assert run("verify", catalog, "--against", name).exit_code == 0
    assert len(list((tmp_path / "out").glob("*_scribbles.json"))) == len(open_catalog(catalog).cases)
    wrong = run("scribbles", "--catalog", catalog, "--prediction", catalog)
    assert wrong.exit_code == 2
    assert "options that need --label" in wrong.stderr
    assert run("scribbles").exit_code == 2
    label = next(catalog.rglob("catalog.json"))
    assert "options that need --catalog, a folder of labels or a sweep: --resume" in run(
        "scribbles", "--label", label, "--resume"
    ).stderr.replace("\n", " ")


@pytest.mark.real
def test_verify_run__the_published_scribbles_of_the_real_mask_are_met(realdata, tmp_path):
    source = tmp_path / "source"
    write_fdat(source, patients=1, shape=(24, 20, 30), spacing=(18, 18, 20))
    shutil.copy(realdata / f"autopet/fdg_0b57b247b6/{REAL}.nii.gz", source / f"labelsTr/{REAL}.nii.gz")
    convert(find_source("fdat"), source, tmp_path / "catalog", options={"labels_only": "true"})
    archive = realdata / "autopet/lesion-scribbles.zip"
    brought = import_prompts(tmp_path / "catalog", archive, run="published", kind="scribble", protocol="autopet-v@1")
    assert brought.cases == 1
    (verdict,) = verify_run(tmp_path / "catalog", "published")
    assert (verdict.case_id, verdict.outcome, verdict.detail) == (REAL, "equal", "")

"""`clicksim manifest`, `clicksim catalog folds` and `clicksim catalog audit`, as they are typed."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clicksim.catalog import open_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.manifests import EXPORTS
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import convert
from converters.fdat.fdat_source import SOURCE as FDAT
from tests.commands import run
from tests.simulated import simulate_run


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    convert(FDAT, write_fdat(folder / "fdat").folder, folder / "catalog")
    simulate_run(folder / "catalog")
    return folder / "catalog"


@pytest.mark.parametrize("kind", EXPORTS.names)
def test_manifest__writes_and_checks(kind: str, catalog: Path, tmp_path: Path) -> None:
    name, cases = open_catalog(catalog).runs[0], open_catalog(catalog).cases.num_rows
    out = tmp_path / "Dataset007_Phantom"
    written = run("manifest", kind, catalog, out, "--run", name)
    assert written.exit_code == 0, written.stderr
    assert f"{cases} cases in" in written.stdout
    checked = run("manifest", "check", out, catalog)
    assert (checked.exit_code, checked.stdout) == (0, "no findings\n")
    (out / "LICENCES.md").unlink()
    sorted(path for path in out.rglob("*") if path.suffix in (".json", ".csv", ".parquet", ".gz"))[0].unlink()
    spoiled = run("manifest", "check", out, catalog)
    assert spoiled.exit_code == 1


def test_manifest__a_grand_challenge_item_goes_through_rounds(catalog: Path, tmp_path: Path) -> None:
    assert run("manifest", "grand-challenge", catalog, tmp_path / "items").exit_code == 0
    opened = open_catalog(catalog)
    case = next(row for row in opened.cases.to_pylist() if row["lesion_present"])
    images = tmp_path / "items" / case["case_id"] / "images"
    files = {kind: next((images / kind).glob("*.mha")) for kind in ("pet", "ct")}
    options = ["--label", opened.resolve(case["label_path"]), "--pet", files["pet"], "--ct", files["ct"]]
    played = run("rounds", *options, "--predictor", "builtin:threshold", "--out", tmp_path / "out")
    assert played.exit_code == 0, played.stderr
    rows = pq.read_table(tmp_path / "out" / "rounds.parquet").to_pylist()
    assert [row["round"] for row in rows] == list(range(6))
    assert not any(row["failure"] for row in rows)


def test_manifest__guidance_with_settings(catalog: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "Dataset008_Guided", open_catalog(catalog).runs[0]
    result = run("manifest", "nnunet", catalog, out, "--run", name, "--guidance", "gaussian", "--set", "sigma_mm=6")
    assert result.exit_code == 0, result.stderr
    record = json.loads((out / "clicksim-manifest.json").read_text())
    assert record["settings"] == {"copy": False, "guidance": "gaussian", "guidance_settings": {"sigma_mm": 6}}
    deep = run("manifest", "nnunet", catalog, out, "--run", name, "--guidance", "gaussian", "--set", f"x={'[' * 5000}")
    assert (deep.exit_code, deep.stderr.count("\n")) == (1, 1)
    idle = run("manifest", "nnunet", catalog, out, "--set", "sigma_mm=6")
    assert "has no effect without guidance" in idle.stderr
    refused = run("manifest", "nnunet", catalog, out, "--run", name, "--guidance", "gaussian", "--set", "sgma_mm=6")
    assert refused.exit_code == 1
    assert "sigma_mm" in refused.stderr


def test_manifest__goes_on_with_resume_and_replaces_with_overwrite(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset009_Again"
    assert run("manifest", "nnunet", catalog, out, "--workers", "2").exit_code == 0
    other = run("manifest", "nnunet", catalog, out, "--copy")
    assert other.exit_code == 1
    assert "settings.copy is false there and true here" in other.stderr
    assert run("manifest", "nnunet", catalog, out, "--copy", "--overwrite").exit_code == 0
    assert not any(path.is_symlink() for path in out.rglob("*"))
    found = json.loads(run("manifest", "check", out, catalog, "--json").stdout)
    assert found == []
    sorted(out.glob("labelsTr/*"))[0].unlink()
    found = json.loads(run("manifest", "check", out, catalog, "--json").stdout)
    assert (found[0]["severity"], found[0]["check"]) == ("error", "files")


def test_manifest__lists_every_format_with_its_settings() -> None:
    text = run("manifest", "--help").stdout
    assert all(name in text for name in (*EXPORTS.names, "check"))
    assert "--guidance" in run("manifest", "nnunet", "--help").stdout
    assert "--published" in run("manifest", "croissant", "--help").stdout
    assert run("manifest", "nnunit", "--help").exit_code == 2


OUTSIDE = """
from clicksim.errors import CatalogError
from clicksim.manifests import CaseFiles, ExportFormat
from clicksim.settings import Setting


def write(setup, case, folder):
    if case.row["tracer_class"] == setup.settings["without"]:
        (folder / f"{case.name}.half").write_text("half")
        raise CatalogError(f"case {case.case_id} is of a tracer that is left out")
    (folder / f"{case.name}.txt").write_text(str(case.row["n_lesions"] * setup.settings["factor"]))
    return CaseFiles({"text": f"{case.name}.txt"}, case.row["n_lesions"])


def finish(done, commit):
    commit.text("sum.txt", str(sum(done.item(case) for case in done.cases)))
    return ["a note"]


def check(folder):
    if not (folder / "sum.txt").read_text().isdigit():
        yield "sum.txt is not a number"


LESIONS = ExportFormat(
    "lesion-counts", "The number of lesions of each case.", write, finish, check,
    settings={"factor": Setting("int", "what counts are multiplied by", default=1),
              "without": Setting("str", "a tracer to leave out", ("", "FDG", "PSMA"), default="")},
)
"""


def test_manifest__of_another_package_is_found_by_its_entry_point(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "lab_exports-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site/lab_exports.py").write_text(OUTSIDE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-exports\nVersion: 1.0\n")
    entries = "lesion-counts = lab_exports:LESIONS\nbroken = lab_exports:nothing\n"
    (info / "entry_points.txt").write_text(f"[clicksim.exports]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))  # for the workers
    text = run("manifest", "--help").stdout
    assert "The number of lesions of each case." in text
    assert "'broken' cannot be loaded" in " ".join(text.split())
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        done = run("manifest", "lesion-counts", catalog, out, "--factor", 2, "--without", "PSMA", "--workers", workers)
        assert (done.exit_code, "a note" in done.stderr) == (1, True), done.output
        assert done.stderr.count("is of a tracer that is left out") == 3
        assert len(list(out.glob("*.txt"))) == 5
        assert not list(out.glob("*.half"))
        assert run("manifest", "check", out, catalog).stdout == "no findings\n"
        (out / "sum.txt").write_text("x")
        assert "sum.txt is not a number" in run("manifest", "check", out).stdout
    assert "allowed" in run("manifest", "lesion-counts", catalog, out, "--without", "PMSA").stderr.lower()


def test_manifest__refusals_are_one_line(catalog: Path, tmp_path: Path) -> None:
    for args in (["--source", "fdta"], ["--run", "nope"], ["--folds", "nope"]):
        result = run("manifest", "csv", catalog, tmp_path / "out", *args)
        assert result.exit_code == 1
        assert result.stderr.startswith("clicksim: unknown")
        assert result.stderr.count("\n") == 1


def test_folds__prints_the_balance_and_stores_the_plan(catalog: Path, tmp_path: Path) -> None:
    result = run("catalog", "folds", catalog, "--name", "two", "--folds", 2, "--official", "ignore")
    assert result.exit_code == 0, result.stderr
    assert "plan two: 7 cases, 0 held out" in result.stdout
    assert "tracer" in result.stdout
    assert open_catalog(catalog).parts("folds") == ["two"]
    content = json.loads(run("catalog", "folds", catalog, "--scheme", "leave-one-tracer-out", "--json").stdout)
    assert content["plan"] == "leave-one-tracer-out"
    assert [row["folds"] for row in content["balance"] if row["stratum"] == "tracer"] == [[4, 0], [0, 3]]
    assert run("manifest", "csv", catalog, tmp_path / "out", "--folds", "two").exit_code == 0
    assert run("catalog", "folds", catalog, "--folds", 99).exit_code == 1
    idle = run("catalog", "folds", catalog, "--scheme", "leave-one-tracer-out", "--folds", 3)
    assert (idle.exit_code, "options that need --scheme stratified: --folds" in idle.stderr) == (2, True)


def test_audit__text_page_rows_and_exit_code(catalog: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    clean = run("catalog", "audit", catalog, "--out", tmp_path / "page.html")
    assert (clean.exit_code, clean.stdout) == (0, "no findings\n")
    assert "need --read-data" in (tmp_path / "page.html").read_text()
    opened = open_catalog(catalog)
    rows = [{k: v for k, v in row.items() if k != "source"} for row in opened.table("cases", "fdat").to_pylist()]
    spoiled = [{**row, "suv_max": 45_000.0} if n == 0 else row for n, row in enumerate(rows)]
    opened.write_part("cases", "fdat", rows_to_table("cases", spoiled))
    try:
        found = run("catalog", "audit", catalog, "--out", tmp_path / "rows.parquet")
        assert found.exit_code == 1
        assert rows[0]["case_id"] in found.stdout
        assert pq.ParquetFile(tmp_path / "rows.parquet").read()["cases"].to_pylist() == [[rows[0]["case_id"]]]
        listed = json.loads(run("catalog", "audit", catalog, "--json").stdout)
        assert [(row["severity"], row["check"]) for row in listed] == [("error", "uptake")]
    finally:
        opened.write_part("cases", "fdat", rows_to_table("cases", rows))
    assert run("catalog", "audit", catalog, "--out", tmp_path / "x.pdf").exit_code == 1
    nowhere = run("catalog", "audit", catalog, "--out", tmp_path / "page.html" / "x.html")
    assert nowhere.stderr == f"clicksim: cannot make the folder {tmp_path / 'page.html'}: File exists\n"

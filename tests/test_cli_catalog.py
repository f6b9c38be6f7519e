"""The commands around the catalog, as a user types them: results on stdout, one line for a refusal, exit codes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from clicksim.catalog import list_sources, open_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.cli.demo import make_demo
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_longitudinal_ct
from clicksim.volumes import read_image, write_image
from converters.fdat import fdat_source
from tests.commands import done, run

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {"fdat": write_fdat, "deep-psma": write_deep_psma, "longitudinal-ct": write_longitudinal_ct}


def refused(*args):
    """The last line on stderr of a command that is refused."""
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1]


def misused(*args):
    result = run(*args)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Source trees and a catalog of them that was made by the command; not to be changed."""
    root = tmp_path_factory.mktemp("phantoms")
    for name, write in WRITERS.items():
        tree = write(root / name)
        assert done("convert", name, root / name, root / "catalog") == (
            f"{len(tree.cases)} cases in {root / 'catalog'}, 0 rejected\n"
        )
    return root


@pytest.fixture
def here(phantoms, tmp_path, monkeypatch):
    """A folder of one's own with a copy of the catalog, as the current one."""
    shutil.copytree(phantoms / "catalog", tmp_path / "catalog")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# convert


def test_convert__lists_the_sources_with_layout_and_options():
    text = done("convert", "--list")
    for name, source in list_sources().items():
        assert f"{name} " in text
        assert source.title in text
        assert all(f"--option {option}=" in text for option in source.options)


@pytest.mark.parametrize("name", WRITERS)
def test_convert__names_its_rejections_and_exits_1(name, here):
    tree = WRITERS[name](here / "source", spoil=True)
    result = run("convert", name, "source", "new", "--workers", "2")
    assert result.exit_code == 1
    assert result.stdout == f"{len(tree.cases)} cases in new, {len(tree.spoiled)} rejected\n"
    assert "clicksim: see the reasons with: clicksim catalog rejected new" in result.stderr
    rows = json.loads(done("catalog", "rejected", "new", "--json"))
    assert sorted(row["code"] for row in rows) == sorted(tree.spoiled.values())
    lines = done("catalog", "rejected", "new").splitlines()
    assert lines[0].split("\t") == ["source", "path", "case_id", "code", "message"]
    assert len(lines) == 1 + len(rows)
    assert all(len(line.split("\t")) == 5 for line in lines)
    assert done("catalog", "check", "new", "--read-data") == "no findings\n"


def test_convert__refuses_in_words(here, phantoms):
    assert "did you mean 'fdat'" in refused("convert", "fdatt", phantoms / "fdat", "new")
    gone = "clicksim: nowhere does not exist; clicksim convert --list shows what it should contain"
    assert refused("convert", "fdat", "nowhere", "new") == gone
    assert "such as tcp://host:8786" in refused("convert", "fdat", phantoms / "fdat", "new", "--scheduler", "nothing")
    assert not Path("new").exists()
    assert "is not a catalog" in refused("convert", "fdat", phantoms / "fdat", phantoms / "deep-psma")
    assert "did you mean 'labels_only'" in refused(
        "convert", "fdat", phantoms / "fdat", "new", "--option", "label_only=true"
    )
    assert "has no options" in refused("convert", "deep-psma", phantoms / "deep-psma", "new", "--option", "x=1")
    for shard in ("3/3", "a/2", "1", "-1/2", "²/3"):
        assert "--shard takes I/N" in misused("convert", "fdat", phantoms / "fdat", "new", "--shard", shard)
    assert "NAME=VALUE" in misused("convert", "fdat", phantoms / "fdat", "new", "--option", "labels_only")
    assert "give SOURCE FOLDER CATALOG" in misused("convert", "fdat")
    for source in WRITERS:
        (here / "empty").mkdir(exist_ok=True)
        assert run("convert", source, "empty", "new").exit_code == 1
    assert not (here / "new").exists()


def test_convert__shards_and_merge_make_the_whole(here, phantoms):
    for n in range(2):
        done("convert", "fdat", phantoms / "fdat", f"part{n}", "--shard", f"{n}/2")
    assert done("catalog", "merge", "merged", "part0", "part1") == "7 cases in merged\n"
    done("convert", "fdat", phantoms / "fdat", "whole", "--workers", "1")
    assert open_catalog("merged").digest() == open_catalog("whole").digest()
    assert "merged into itself" in refused("catalog", "merge", "merged", "merged")


def test_convert__takes_the_published_zip(here, phantoms):
    shutil.make_archive("PSMA-FDG-PET-CT-Lesions_v2", "zip", phantoms / "fdat")
    assert "7 cases" in done("convert", "fdat", "PSMA-FDG-PET-CT-Lesions_v2.zip", "zipped")
    whole, zipped = (open_catalog(path).table("cases", "fdat").to_pylist() for path in ("catalog", "zipped"))
    for one, other in zip(whole, zipped, strict=True):
        assert [one[key] for key in ("case_id", "n_lesions", "sha256_in", "official_fold")] == [
            other[key] for key in ("case_id", "n_lesions", "sha256_in", "official_fold")
        ]
        assert other["source_release"].startswith("v2")
    assert done("catalog", "check", "zipped", "--read-data") == "no findings\n"


def test_convert__that_was_interrupted_goes_on_with_resume_alone(here, phantoms, monkeypatch):
    done("convert", "fdat", phantoms / "fdat", "whole")
    started = []

    def stops(context, unit):
        started.append(unit.key)
        if len(started) == 3:
            raise KeyboardInterrupt
        return fdat_source.convert(context, unit)

    monkeypatch.setattr(fdat_source, "SOURCE", replace(fdat_source.SOURCE, convert=stops))
    result = run("convert", "fdat", phantoms / "fdat", "new")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert result.exit_code == 130
    assert "clicksim: ended by SIGINT; finished work is kept; continue with --resume" in result.stderr
    assert "--resume, or start again with --replace" in refused("convert", "fdat", phantoms / "fdat", "new")
    other = refused("convert", "fdat", phantoms / "fdat", "new", "--resume", "--option", "labels_only=true")
    assert 'made in another way: options.labels_only is absent there and "true" here; drop it with --replace' in other
    done("convert", "fdat", phantoms / "fdat", "new", "--resume")
    assert open_catalog("new").digest() == open_catalog("whole").digest()


def test_convert__of_another_folder_asks_whether_to_add_or_replace(here):
    names = {name: list(write_fdat(here / name, patients=1, seed=n).cases)
             for n, name in enumerate(("first", "second"))}  # fmt: skip
    done("convert", "fdat", "first", "new")
    line = refused("convert", "fdat", "second", "new")
    assert re.search(r'made in another way: source is "\S+first" there and "\S+second" here', line)
    assert "keep its cases with --add, or replace them with --replace" in line
    assert "choose one of the two" in refused("convert", "fdat", "second", "new", "--add", "--replace")
    both = len({*names["first"], *names["second"]})
    assert f"{both} cases in new" in done("convert", "fdat", "second", "new", "--add")
    assert f"{len(names['second'])} cases in new" in done("convert", "fdat", "second", "new", "--replace")


def test_convert__where_nothing_can_be_written_is_a_refusal(here, phantoms):
    (here / "file").write_text("")
    assert "no catalog can be made in file" in refused("convert", "fdat", phantoms / "fdat", "file/catalog")


# find


@pytest.mark.parametrize("source", ["fdat", "deep_psma", "longitudinal_ct"])
def test_find__knows_every_image_in_another_file_type_and_order(here, source):
    opened = open_catalog("catalog")
    row = next(row for row in opened.table("cases", source).to_pylist() if row["lesion_present"])
    roles = [role for role in ("label", "pet", "ct") if row[f"{role}_path"]]
    assert len(roles) >= 2
    for role in roles:
        volume = read_image(opened.resolve(row[f"{role}_path"]))
        write_image("same.mha", volume.array.astype(np.float32), volume.grid)
        nibabel.save(nibabel.Nifti1Image(np.asarray(volume.array, np.float64).T, np.eye(4)), "turned.nii")
        found = json.loads(done("catalog", "find", "catalog", "same.mha", "turned.nii", "--json"))
        mine = [one for one in found if (one["case_id"], one["role"]) == (row["case_id"], role)]
        assert [(one["image"], one["axes"]) for one in mine] == [("same.mha", "ijk"), ("turned.nii", "kji")]
    changed = volume.array.astype(np.float32)
    changed[0, 0, 0] += 1
    write_image("other.mha", changed, volume.grid)
    assert "no case of catalog has an image with the voxels of other.mha" in refused(
        "catalog", "find", "catalog", "other.mha"
    )


# clicks over a catalog


@pytest.mark.parametrize(
    ("source", "protocol", "cases"),
    [("fdat", "autopet-iv@2", 7), ("deep_psma", "deep-psma@1", 4), ("longitudinal_ct", "longitudinal-ct@1", 8)],
)
def test_clicks__over_a_catalog_commit_a_run_that_verifies(here, source, protocol, cases):
    result = run("clicks", "--catalog", "catalog", "--source", source, "--protocol", protocol, "--out", "out")
    assert result.exit_code == 0, result.output
    name = re.fullmatch(rf"run ([0-9a-f]{{16}}): {cases} cases, 0 refused\n", result.stdout)[1]
    assert len(list((here / "out").glob("*_clicks.json"))) == cases
    text = done("verify", "catalog", "--against", name)
    assert text.splitlines()[-1].startswith(f"{name}: ")
    assert "0 unequal, 0 not reproducible" in text
    answer = json.loads(
        done(
            "catalog",
            "query",
            "catalog",
            f"select count(distinct \"case\") n from prompts where run = '{name}'",
            "--json",
        )
    )
    assert cases - 2 <= answer[0]["n"] <= cases
    assert done("catalog", "check", "catalog") == "no findings\n"
    again = run("clicks", "--catalog", "catalog", "--source", source, "--protocol", protocol, "--workers", "2")
    assert again.stdout == result.stdout


def test_clicks__over_a_catalog_take_the_annotator_of_the_settings_and_count_notes(here):
    Path("c.toml").write_text("annotator = 'careful'")
    result = run("clicks", "--catalog", "catalog", "--source", "longitudinal_ct", "--config", "c.toml")
    name = result.stdout.split()[1].rstrip(":")
    opened = open_catalog("catalog")
    assert opened.metadata(name)["annotator_model"]["name"] == "careful"
    cases = opened.table("cases", "longitudinal_ct").num_rows  # none has a PET
    said = f"clicksim: notes on {cases} of {cases} cases are in catalog/runs/{name}.json"
    assert (result.exit_code, [said]) == (0, [line for line in result.stderr.splitlines() if "notes on" in line])


def test_clicks__over_a_catalog_sweep_and_write_every_format(here):
    result = run(
        "clicks", "--catalog", "catalog", "--source", "fdat", "--sweep", "n_foreground=1,3", "--out", "out",
        "--format", "rows",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2
    for slug in ("n_foreground-1", "n_foreground-3"):
        assert len(list((here / "out" / slug).glob("*_clicks.parquet"))) == 7


def test_clicks__over_a_catalog_refuse_cases_with_exit_code_1(here):
    result = run("clicks", "--catalog", "catalog", "--protocol", "deep-psma@1")
    assert result.exit_code == 1
    assert re.fullmatch(r"run \w+: 12 cases, 7 refused\n", result.stdout)
    assert "the reasons are in catalog/runs" in result.stderr
    assert "no cases of nothing" in refused("clicks", "--catalog", "catalog", "--source", "nothing")
    assert "no catalog in" in refused("clicks", "--catalog", ".")
    assert "unknown setting" in refused("clicks", "--catalog", "catalog", "--set", "n_foregroun=3")
    assert "leave --instances at auto" in refused("clicks", "--catalog", "catalog", "--instances", "labels")
    assert "--label or --catalog" in misused("clicks", "--catalog", "catalog", "--label", "catalog")
    assert "only --out DIR writes files" in misused("clicks", "--catalog", "catalog", "--format", "rows")


# verify and import-prompts


def test_import_and_verify__round_trip_and_one_changed_voxel(here):
    done("clicks", "--catalog", "catalog", "--source", "fdat", "--protocol", "autopet-iv@1", "--out", "out")
    imported = run("catalog", "import-prompts", "catalog", "out", "--run", "back", "--protocol", "autopet-iv@1")
    assert imported.exit_code == 0, "cases without a file are told and no failure"
    assert imported.stdout == "7 cases in run back\n"
    assert imported.stderr.count("no file: ") == 12
    text = done("verify", "catalog", "--against", "back")
    assert text.splitlines()[-1] == "back: 7 equal, 0 unequal, 0 not reproducible, of 7"
    file = next(f for f in sorted((here / "out").glob("*_clicks.json")) if json.loads(f.read_text())["tumor"])
    clicks = json.loads(file.read_text())
    clicks["tumor"][0][0] -= 1
    file.write_text(json.dumps(clicks))
    (here / "out/stranger_clicks.json").write_text("{}")
    result = run("catalog", "import-prompts", "catalog", "out", "--run", "changed", "--protocol", "autopet-iv@1")
    assert result.exit_code == 1
    assert "no such case: stranger_clicks.json" in result.stderr
    result = run("verify", "catalog", "--against", "changed", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["total"] == {"equal": 6, "unequal": 1}
    assert [c["case_id"] for c in answer["cases"] if c["outcome"] == "unequal"] == [file.name[: -len("_clicks.json")]]
    assert "no 'nothing' in table prompts" in refused("verify", "catalog", "--against", "nothing")
    assert "made in another way: protocol" in refused("catalog", "import-prompts", "catalog", "out", "--run", "back")


# looking at a catalog


def test_summary__counts_every_source(here):
    text = done("catalog", "summary", "catalog")
    assert re.search(r"^fdat\n  cases +7\n  patients +6\n  without lesion +2\n", text, re.MULTILINE)
    assert "PROPAGATED" not in text
    answer = json.loads(done("catalog", "summary", "catalog", "--json"))
    assert [row["source"] for row in answer["sources"]] == ["deep_psma", "fdat", "longitudinal_ct"]
    assert answer["runs"] == ["longitudinal-cog", "longitudinal-mask", "longitudinal-propagated"]


def test_check__finds_what_was_broken(here, phantoms):
    assert done("catalog", "check", "catalog", "--read-data") == "no findings\n"
    assert json.loads(done("catalog", "check", "catalog", "--json")) == {"findings": [], "figures": []}
    catalog = open_catalog("catalog")
    rows = catalog.table("cases", "fdat").drop_columns(["source"]).to_pylist()
    rows[0]["n_lesions"] = 99
    rows[1]["label_path"] = "fdat:labelsTr/gone.nii.gz"
    rows[2]["quality_flags"] = ["ODD"]
    rows[3]["pet_path"] = "fdat:../fdat/imagesTr/x.nii.gz"
    same = next(row for row in rows[4:] if row["official_fold"] is not None)
    rows.append(same | {"case_id": "twice", "official_fold": (same["official_fold"] + 1) % 5})
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    result = run("catalog", "check", "catalog", "--json")
    assert result.exit_code == 1
    found = {(finding["check"], " ".join(finding["cases"])) for finding in json.loads(result.stdout)["findings"]}
    assert {("lesions", rows[0]["case_id"]), ("files", rows[1]["case_id"]), ("codes", rows[2]["case_id"])} < found
    assert ("files", rows[3]["case_id"]) in found
    assert ("folds", "") in found
    assert re.search(r"clicksim: \d+ findings, 0 differing figures", result.stderr)


def test_check__read_data_measures_again(here):
    catalog = open_catalog("catalog")
    rows = catalog.table("cases", "deep_psma").drop_columns(["source"]).to_pylist()
    rows[0]["suv_max"] += 1
    rows[1]["shape_xyz"] = [1, 2, 3]
    catalog.write_part("cases", "deep_psma", rows_to_table("cases", rows))
    assert done("catalog", "check", "catalog") == "no findings\n"
    result = run("catalog", "check", "catalog", "--read-data")
    assert result.exit_code == 1
    assert re.search(r"^error +data +train_0001/FDG  highest uptake", result.stdout, re.MULTILINE)
    assert re.search(r"^error +data +train_0001/PSMA  label has shape", result.stdout, re.MULTILINE)


def test_check__sees_prompts_and_lesions_without_a_case(here):
    done("clicks", "--catalog", "catalog", "--source", "deep_psma", "--protocol", "deep-psma@1")
    catalog = open_catalog("catalog")
    rows = catalog.table("cases", "deep_psma").drop_columns(["source"]).to_pylist()[1:]
    rows[0]["shape_xyz"] = [2, 2, 2]
    catalog.write_part("cases", "deep_psma", rows_to_table("cases", rows))
    text = run("catalog", "check", "catalog").stdout
    assert "lesions.case_id names a case that is not in cases" in text
    assert "prompts.case names a case that is not in cases" in text
    assert "outside [2, 2, 2]" in text


def test_check__expect_says_what_a_download_lacks(here):
    result = run("catalog", "check", "catalog", "--expect", "autopet-v")
    assert result.exit_code == 1
    assert "differs   cases: 7, expected 1611" in result.stdout
    assert "ok        PSMA with 68Ga: 1, expected 228" not in result.stdout
    assert "is the download complete?" in result.stderr
    assert "did you mean 'autopet-v'" in refused("catalog", "check", "catalog", "--expect", "autopetv")


def test_check__expect_is_content_with_the_published_cohort(tmp_path):
    """A catalog made of the published figures themselves: every one of them is met, and a case less is seen."""
    from clicksim.catalog import create_catalog

    rows = []
    for n in range(1014):
        rows.append(
            {"case_id": f"f{n}", "patient_key": f"f{n % 900}", "tracer_class": "FDG", "radionuclide": "F18",
             "lesion_present": n >= 513, "shape_xyz": [400, 400, 300], "axcodes_in": "LPS" if n < 4 else "LAS"}
        )  # fmt: skip
    sizes = [200] * 251 + [256] * 230 + [168] * 116
    for n, size in enumerate(sizes):
        rows.append(
            {"case_id": f"p{n}", "patient_key": f"p{n % 378}", "tracer_class": "PSMA", "contrast_ct": n >= 26,
             "radionuclide": "F18" if n < 369 else "Ga68", "lesion_present": n >= 60, "shape_xyz": [size, size, 300],
             "axcodes_in": "LAS"}
        )  # fmt: skip
    rows = [row | {"n_lesions": 0} for row in rows]
    catalog = create_catalog(tmp_path / "catalog")
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    text = done("catalog", "check", tmp_path / "catalog", "--expect", "autopet-v")
    assert text.count("ok ") == 16
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows[:-1]))
    text = run("catalog", "check", tmp_path / "catalog", "--expect", "autopet-v").stdout
    assert "differs   PSMA studies: 596, expected 597" in text
    assert "ok        FDG patients: 900, expected 900" in text


def test_query__answers_as_lines_and_as_json(here):
    sql = "select source, count(*) n, null as nothing from cases group by source order by source"
    assert done("catalog", "query", "catalog", sql) == (
        "source\tn\tnothing\ndeep_psma\t4\t\nfdat\t7\t\nlongitudinal_ct\t8\t\n"
    )
    assert json.loads(done("catalog", "query", "catalog", sql, "--json"))[1] == {
        "source": "fdat", "n": 7, "nothing": None,
    }  # fmt: skip
    every = done("catalog", "query", "catalog", "select * from cases c join lesions l using (case_id)").splitlines()
    assert len({line.count("\t") for line in every}) == 1
    assert "the query was rejected" in refused("catalog", "query", "catalog", "select x from cases")
    assert "no answer" in refused("catalog", "query", "catalog", "")


def test_cite__names_licences_and_gives_bibtex(here):
    text = done("catalog", "cite", "catalog")
    assert text.count("Licence: CC-BY-NC-4.0") == 3
    assert done("catalog", "cite", "catalog", "--bibtex").count("@misc{") == 5


def test_relocate__moves_a_root_that_is_there(here, phantoms, monkeypatch):
    shutil.copytree(phantoms / "fdat", here / "moved")
    assert done("catalog", "relocate", "catalog", "fdat=moved") == f"fdat = {here / 'moved'}\n"
    assert open_catalog("catalog").resolve("fdat:labelsTr/x") == here / "moved/labelsTr/x"
    assert done("catalog", "check", "catalog", "--read-data") == "no findings\n"
    shutil.rmtree(here / "moved")
    assert "See clicksim catalog relocate" in run("catalog", "check", "catalog").stdout
    monkeypatch.setenv("CLICKSIM_ROOT_FDAT", str(phantoms / "fdat"))
    assert done("catalog", "check", "catalog") == "no findings\n"
    assert "did you mean 'fdat'" in refused("catalog", "relocate", "catalog", "fda=moved")
    assert "does not exist" in refused("catalog", "relocate", "catalog", "fdat=gone")
    assert "catalog's own folder" in refused("catalog", "relocate", "catalog", "catalog=.")
    assert "NAME=DIR" in misused("catalog", "relocate", "catalog", "fdat")
    (here / "other").mkdir()
    assert "does not exist" in refused("catalog", "relocate", "catalog", "deep_psma=other", "fdat=gone")
    assert open_catalog("catalog").roots["deep_psma"] != str(here / "other"), "none is moved where one is refused"


@pytest.mark.parametrize("command", ["summary", "check", "rejected", "cite"])
def test_catalog__commands_refuse_what_is_no_catalog(tmp_path, command):
    assert "no catalog in" in refused("catalog", command, tmp_path)
    assert "does not exist; create one with clicksim convert" in refused("catalog", command, tmp_path / "nowhere")
    assert "is a file" in misused("catalog", command, __file__)


def test_catalog__a_missing_catalog_is_one_line_wherever_it_is_an_option(tmp_path):
    result = run("clicks", "--catalog", tmp_path / "nowhere")
    assert result.stderr == (
        f"clicksim: no catalog in {tmp_path / 'nowhere'}: the folder does not exist; create one with clicksim convert\n"
    )


def test_merge__refuses_the_same_catalog_twice(here):
    line = refused("catalog", "merge", "out", "catalog", here / "catalog")
    assert f"given several times, as catalog, {here / 'catalog'}; name each once" in line
    assert not Path("out").exists()


def test_convert__refuses_a_wrong_folder_in_one_line(tmp_path):
    (tmp_path / "empty  folder").mkdir()
    result = run("convert", "fdat", tmp_path / "empty  folder", tmp_path / "catalog")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "empty  folder" in result.stderr


# demo


def test_demo__goes_from_sources_to_a_page(tmp_path):
    result = run("demo", "--out", tmp_path / "demo", "--patients", "1", "--seed", "5")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"open {tmp_path / 'demo' / 'index.html'} in a browser\n"
    out = tmp_path / "demo"
    assert sorted(file.name for file in out.iterdir()) == [
        ".clicksim-demo", "catalog", "clicks", "index.html", "pictures", "sources",
    ]  # fmt: skip
    catalog = open_catalog(out / "catalog")
    assert catalog.rejected.num_rows == 0
    assert done("catalog", "check", out / "catalog") == "no findings\n"
    names = {case.replace("/", "_") for case in catalog.cases["case_id"].to_pylist()}
    assert len(names) == 8
    assert {file.name.removesuffix("_clicks.json") for file in (out / "clicks").glob("*/*_clicks.json")} == names
    assert {file.stem for file in (out / "pictures").iterdir()} == names
    page = (out / "index.html").read_text()
    for told in ("clicksim demo", "autopet-iv@2", "deep-psma@1", "longitudinal-ct@1", "autopet-v@2"):
        assert told in page
    rounds = catalog.table("rounds")
    assert set(rounds["round"].to_pylist()) == set(range(6))
    assert set(rounds["case_id"].to_pylist()) == set(catalog.table("cases", "fdat")["case_id"].to_pylist())


def test_demo__replaces_its_own_and_nothing_else(tmp_path, monkeypatch):
    small = {"shape": (40, 34, 48), "spacing": (10.0, 10.0, 12.0)}
    from clicksim.phantom import layouts

    for name in ("write_fdat", "write_deep_psma", "write_longitudinal_ct"):
        real = getattr(layouts, name)
        monkeypatch.setattr(
            layouts,
            name,
            lambda folder, *, real=real, patients, seed, **_: real(folder, patients=patients, seed=seed, **small),
        )
    (tmp_path / "mine.txt").write_text("mine")
    make_demo(tmp_path, patients=1, seed=1)
    first = open_catalog(tmp_path / "catalog").digest()
    make_demo(tmp_path, patients=1, seed=2)
    assert open_catalog(tmp_path / "catalog").digest() != first
    make_demo(tmp_path, patients=1, seed=1)
    assert open_catalog(tmp_path / "catalog").digest() == first
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / ".clicksim-demo").unlink()
    assert "not made by a demo" in refused("demo", "--out", tmp_path)
    assert "cannot make the folder" in refused("demo", "--out", tmp_path / "mine.txt" / "demo")
    assert open_catalog(tmp_path / "catalog").digest() == first

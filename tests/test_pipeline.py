"""The pipeline over patients: the same bytes for any workers, after any kill; prompts, imports, verification."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clicksim.audit import audit_catalog
from clicksim.catalog import Context, Outcome, Source, Unit, create_catalog, find_source, open_catalog
from clicksim.catalog.commit import WORK
from clicksim.catalog.schema import TABLES, rows_to_table
from clicksim.errors import CatalogError, PromptFormatError, SettingError
from clicksim.geometry import Grid
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import Crew, PromptRun, convert, simulate_catalog
from clicksim.pipeline.cases import catalog_units
from clicksim.pipeline.merging import merge_catalogs
from clicksim.pipeline.prompt_import import import_prompts
from clicksim.pipeline.verification import verify_run
from clicksim.volumes import read_image, write_image
from tests.commands import done
from tests.conftest import WRITERS
from tests.simulated import simulate_run

NAMES = {"fdat": "fdat", "deep-psma": "deep_psma", "longitudinal-ct": "longitudinal_ct"}
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def catalog(phantoms, tmp_path):
    """A copy of the catalog, to write to."""
    return Path(shutil.copytree(phantoms / "catalog", tmp_path / "catalog"))


def content(catalog):
    """Names and bytes of all tables and images."""
    parts = ("images", "prompts", *TABLES)
    files = [file for part in parts for file in (catalog / part).rglob("*") if file.is_file()]
    files.append(catalog / "sources.parquet")
    return {file.relative_to(catalog).as_posix(): file.read_bytes() for file in files}


# conversion


@pytest.mark.parametrize("name", WRITERS)
def test_convert__gives_the_same_bytes_for_any_number_of_workers(name, phantoms, tmp_path):
    for workers in (1, 4):
        convert(find_source(name), phantoms / name, tmp_path / f"w{workers}", crew=Crew(workers))
    convert(find_source(name), phantoms / name, tmp_path / "here")
    expected = content(tmp_path / "here")
    assert len(expected) >= 5
    assert content(tmp_path / "w1") == content(tmp_path / "w4") == expected


def test_convert__replaces_its_rows_and_no_others(catalog, phantoms, tmp_path):
    before = content(catalog)
    smaller = write_fdat(tmp_path / "smaller", patients=1)
    convert(find_source("fdat"), smaller.folder, catalog, replace_rows=True)
    opened = open_catalog(catalog)
    assert opened.table("cases", "fdat")["case_id"].to_pylist() == sorted(smaller.cases)
    after = content(catalog)
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {f"{table}/source=fdat/part-0.parquet" for table in TABLES}
    convert(find_source("fdat"), phantoms / "fdat", catalog, replace_rows=True)
    assert content(catalog) == before
    convert(find_source("fdat"), phantoms / "fdat", catalog)
    assert content(catalog) == before, "the same folder again needs no option"


def test_convert__adds_patients_and_keeps_those_that_the_folder_has_not(catalog, tmp_path):
    before = open_catalog(catalog).table("cases", "fdat").to_pylist()
    other = write_fdat(tmp_path / "other", patients=2, seed=77)
    with pytest.raises(CatalogError, match=r"convert-fdat .* source is .*; keep its cases with --add, or replace them"):
        convert(find_source("fdat"), other.folder, catalog)
    convert(find_source("fdat"), other.folder, catalog, add=True)
    opened = open_catalog(catalog)
    names = opened.table("cases", "fdat")["case_id"].to_pylist()
    assert sorted(names) == sorted([*other.cases, *(row["case_id"] for row in before)])
    assert set(opened.table("lesions", "fdat")["case_id"].to_pylist()) <= set(names)


def test_convert__refuses_to_lose_cases_that_the_folder_no_longer_has(phantoms, tmp_path):
    source = Path(shutil.copytree(phantoms / "fdat", tmp_path / "source"))
    convert(find_source("fdat"), source, tmp_path / "c")
    before = content(tmp_path / "c")
    gone = sorted((source / "labelsTr").iterdir())[0].name.removesuffix(".nii.gz")
    for file in [*source.glob(f"labelsTr/{gone}*"), *source.glob(f"imagesTr/{gone}*")]:
        file.unlink()
    with pytest.raises(CatalogError, match=f"1 case of fdat in .* are not in .*{re.escape(gone)}; keep its cases"):
        convert(find_source("fdat"), source, tmp_path / "c")
    assert content(tmp_path / "c") == before
    convert(find_source("fdat"), source, tmp_path / "c", resume=True, replace_rows=True)
    assert gone not in open_catalog(tmp_path / "c").cases["case_id"].to_pylist()


@pytest.mark.parametrize("damaged", [False, True])
def test_convert__leaves_no_image_of_a_case_that_left_or_the_audit_names_it(tmp_path, damaged):
    for patients in (2, 1):
        write_fdat(tmp_path / f"{patients}/tree", patients=patients)
        shutil.make_archive(str(tmp_path / f"{patients}"), "zip", tmp_path / f"{patients}")
    convert(find_source("fdat"), tmp_path / "2.zip", tmp_path / "c")
    before = set((tmp_path / "c/images").rglob("*.nii.gz"))
    if damaged:
        (tmp_path / "c/cases/source=fdat/part-0.parquet").write_bytes(b"PAR1")
    convert(find_source("fdat"), tmp_path / "1.zip", tmp_path / "c", replace_rows=True)
    left = set((tmp_path / "c/images").rglob("*.nii.gz"))
    opened = open_catalog(tmp_path / "c")
    listed = {opened.resolve(row["label_path"]) for row in opened.cases.to_pylist()}
    assert listed < before
    found = [finding for finding in audit_catalog(opened) if finding.check == "unlisted"]
    if damaged:
        assert left == before
        assert [finding.severity for finding in found] == ["warning"]
        assert all(file.name in found[0].detail for file in before - listed)
    else:
        assert (left, found) == (listed, [])


def test_convert__reports_each_patient(phantoms, tmp_path):
    seen = []
    convert(
        find_source("fdat"),
        phantoms / "fdat",
        tmp_path / "c",
        crew=Crew(progress=lambda done, total, refused=0: seen.append((done, total))),
    )
    assert seen == [(n, 6) for n in range(1, 7)]
    run = json.loads((tmp_path / "c/runs/convert-fdat.json").read_text())
    assert (run["cases"], run["rejected"]) == (7, 0)
    assert not (tmp_path / "c" / WORK).exists()


def test_convert__of_a_wrong_folder_leaves_the_catalog_as_it_was(catalog, phantoms, tmp_path):
    before, head = content(catalog), (catalog / "catalog.json").read_bytes()
    (tmp_path / "wrong").mkdir()
    for folder in (tmp_path / "wrong", tmp_path / "nowhere"):
        for name in WRITERS:
            with pytest.raises(CatalogError):
                convert(find_source(name), folder, catalog)
    assert content(catalog) == before
    assert (catalog / "catalog.json").read_bytes() == head
    with pytest.raises(CatalogError):
        convert(find_source("fdat"), tmp_path / "wrong", tmp_path / "new")
    assert not (tmp_path / "new").exists()


# a source of the tests' own; its functions must be importable by worker processes


def plan_numbers(context):
    patients = [(f"p{n:02d}", n) for n in range(context.options.get("patients", 8))]
    return [Unit(name, n, (context.source / name,)) for name, n in patients], Outcome()


def convert_number(context, unit):
    flag = context.source / unit.key
    if flag.exists():
        action = flag.read_text()
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "once":
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "bug":
            raise ZeroDivisionError("a bug of the converter")
    outcome = Outcome()
    if unit.content == 3:
        outcome.reject("BadName", "three is none", path=unit.key)
    else:
        outcome.cases.append({"case_id": unit.key, "patient_key": unit.key, "n_lesions": unit.content})
    return outcome


NUMBERS = Source("numbers", "Numbers", "any folder", plan_numbers, convert_number, {"licence": "none"})


def plan_twice(context):
    return [Unit("p0", 0), Unit("p0", 1)], Outcome()


def convert_to_one_name(context, unit):
    return Outcome(cases=[{"case_id": "one", "patient_key": unit.key}])


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "numbers"
    made.mkdir()
    return made


@pytest.mark.parametrize("workers", [1, 3])
def test_convert__a_worker_that_dies_costs_its_patient_alone(folder, tmp_path, workers):
    convert(NUMBERS, folder, tmp_path / "sound")
    for patient in ("p01", "p06"):
        (folder / patient).write_text("die")
    summary = convert(NUMBERS, folder, tmp_path / "c", crew=Crew(workers))
    assert (summary.cases, summary.rejected) == (5, 3)
    opened, sound = open_catalog(tmp_path / "c"), open_catalog(tmp_path / "sound")
    dead = [row for row in opened.rejected.to_pylist() if row["code"] == "WorkerDied"]
    assert [row["path"] for row in dead] == ["p01", "p06"]
    assert "fewer workers" in dead[0]["message"]
    assert [row for row in sound.cases.to_pylist() if row["case_id"] not in ("p01", "p06")] == opened.cases.to_pylist()


def test_convert__a_worker_that_dies_once_costs_nothing(folder, tmp_path):
    convert(NUMBERS, folder, tmp_path / "sound")
    (folder / "p05").write_text("once")
    convert(NUMBERS, folder, tmp_path / "c", crew=Crew(2))
    assert content(tmp_path / "c") == content(tmp_path / "sound")


@pytest.mark.parametrize("workers", [0, 2])
def test_convert__a_bug_keeps_its_name_and_the_rest_resumes(folder, tmp_path, workers):
    convert(NUMBERS, folder, tmp_path / "sound")
    (folder / "p04").write_text("bug")
    with pytest.raises(ZeroDivisionError, match="a bug of the converter"):
        convert(NUMBERS, folder, tmp_path / "c", crew=Crew(workers))
    assert open_catalog(tmp_path / "c").cases.num_rows == 0
    (folder / "p04").unlink()
    with pytest.raises(CatalogError, match="continue with --resume"):
        convert(NUMBERS, folder, tmp_path / "c")
    convert(NUMBERS, folder, tmp_path / "c", resume=True)
    assert content(tmp_path / "c") == content(tmp_path / "sound")


def test_convert__refuses_units_and_cases_that_cannot_be_told_apart(folder, tmp_path):
    with pytest.raises(CatalogError, match="numbers plans several units with the key p0"):
        convert(replace(NUMBERS, plan=plan_twice), folder, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(CatalogError, match="cases of numbers has differing rows for one; convert them again"):
        convert(replace(NUMBERS, convert=convert_to_one_name), folder, tmp_path / "c")
    assert open_catalog(tmp_path / "c").cases.num_rows == 0


@pytest.mark.parametrize("name", ["catalog", "a:b", "a/b", ""])
def test_source__refuses_a_name_that_is_no_root(name):
    with pytest.raises(CatalogError, match=r"cannot (be called|name a source)"):
        replace(NUMBERS, name=name)


def test_simulate_catalog__refuses_to_replace_a_run_also_where_files_go_to_a_new_folder(catalog, tmp_path):
    simulate_catalog(catalog, [PromptRun("autopet-iv@2")], source="fdat", name="mine")
    other = [PromptRun("autopet-iv@2", seed=7)]
    for out in (None, tmp_path / "out"):
        with pytest.raises(CatalogError, match="called mine that was made in another way: seed is 42 there and 7 here"):
            simulate_catalog(catalog, other, source="fdat", name="mine", out=out)
    simulate_catalog(catalog, other, source="fdat", name="mine", out=tmp_path / "out", overwrite=True)
    assert open_catalog(catalog).metadata("mine")["seed"] == 7


def test_convert__resumes_the_same_job_only(folder, tmp_path):
    (folder / "p04").write_text("bug")
    with pytest.raises(ZeroDivisionError):
        convert(NUMBERS, folder, tmp_path / "c")
    (folder / "p04").unlink()
    (tmp_path / "other").mkdir()
    names = {"folder": "source is", "options": r"options\.patients is absent there", "shard": "shard is"}
    for other in ({"folder": tmp_path / "other"}, {"options": {"patients": 6}}, {"shard": (0, 2)}):
        arguments = {"folder": folder} | other
        (name,) = other
        with pytest.raises(CatalogError, match=f"made in another way: {names[name]}"):
            convert(NUMBERS, catalog_path=tmp_path / "c", resume=True, **arguments)
    told = []
    convert(
        NUMBERS,
        folder,
        tmp_path / "c",
        resume=True,
        crew=Crew(progress=lambda n, _, refused=0: told.append((n, refused))),
    )
    assert [n for n, _ in told] == [5, 6, 7, 8], "the finished ones are not done again"
    assert {refused for _, refused in told} == {1}, "what was refused before counts"


@pytest.mark.parametrize("name", WRITERS)
def test_convert__does_a_patient_again_whose_file_was_touched_and_no_other(name, phantoms, tmp_path):
    source, folder = find_source(name), shutil.copytree(phantoms / name, tmp_path / name)
    convert(source, folder, tmp_path / "whole")
    context = Context(folder, tmp_path / "c", source.name, {})
    units = {unit.key: unit for unit in source.plan(context)[0]}

    assert len(units) > 1

    def stop(done, total, refused=0):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, folder, tmp_path / "c", crew=Crew(progress=stop))
    touched = next(iter(units.values()))  # in one process the first is done first
    below = (path.rglob("*") if path.is_dir() else [path] for path in touched.inputs)
    for file in sorted(path for paths in below for path in paths if path.is_file()):
        os.utime(file, ns=(1, 1))
        said = []
        with pytest.raises(KeyboardInterrupt):
            convert(source, folder, tmp_path / "c", resume=True, crew=Crew(progress=stop, note=said.append))
        assert [line for line in said if line.startswith("done again") and line.endswith(f": {touched.key}")], file
    convert(source, folder, tmp_path / "c", resume=True)
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_convert__shards_hold_each_patient_once(folder, tmp_path):
    seen = []
    for n in range(3):
        convert(NUMBERS, folder, tmp_path / f"s{n}", shard=(n, 3))
        seen += open_catalog(tmp_path / f"s{n}").cases["case_id"].to_pylist()
    assert sorted(seen) == [f"p{n:02d}" for n in range(8) if n != 3]


# clicks on shards


def click_all(catalog, *, extra=True):
    """A run over all sources, and one over fdat alone with the same settings; their ids."""
    ids = [simulate_run(catalog)[0]]
    if extra:
        ids += [simulate_run(catalog, source="fdat")[0]]
        ids += [simulate_run(catalog, "autopet-v@2", table="scribbles", source="deep_psma")[0]]
    return ids


@pytest.fixture(scope="module")
def shards(phantoms, tmp_path_factory):
    """Two sources whole and in three shards, all with the same runs; not to be changed. The last has one source."""
    root = tmp_path_factory.mktemp("shards")
    for name in ("fdat", "deep-psma"):
        convert(find_source(name), phantoms / name, root / "whole")
        for n in range(3 if name == "fdat" else 2):
            convert(find_source(name), phantoms / name, root / str(n), shard=(n, 3 if name == "fdat" else 2))
    for catalog in (root / "whole", root / "0", root / "1"):
        click_all(catalog)
    click_all(root / "2", extra=False)
    return root


def test_merge_catalogs__of_clicked_shards_is_the_whole_that_was_clicked(shards, tmp_path):
    whole = open_catalog(shards / "whole")
    for order in ("012", "210"):
        merged = merge_catalogs(tmp_path / order, [shards / n for n in order])
        assert len(merged.runs) == 3
        assert content(merged.path) == content(whole.path)
        assert merged.digest() == whole.digest()
        assert merge_catalogs(tmp_path / order, [shards / n for n in order]).digest() == whole.digest()
    for run in merged.runs:
        facts = [json.loads(file.read_text()) for file in sorted((merged.path / "runs").glob(f"{run}*.json"))]
        assert sum(fact["cases"] for fact in facts) == len(merged.metadata(run)["cases"])


def test_merge_catalogs__brings_images_behind_links_that_stay_in_the_catalog(tmp_path):
    for name in ("one", "two"):
        create_catalog(tmp_path / name)
    images = tmp_path / "one" / "images"
    (images / "kept").mkdir(parents=True)
    (images / "kept" / "pet.nii.gz").write_bytes(b"pet")
    (images / "linked").symlink_to("kept", target_is_directory=True)
    merged = merge_catalogs(tmp_path / "all", [tmp_path / "one", tmp_path / "two"]).path
    assert (merged / "images" / "linked" / "pet.nii.gz").read_bytes() == b"pet"
    (images / "linked").unlink()
    (images / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(CatalogError, match="leaves its root"):
        merge_catalogs(tmp_path / "other", [tmp_path / "one", tmp_path / "two"])


def test_merge_catalogs__leaves_runs_alone_that_one_shard_lacks(shards, tmp_path):
    for n in "01":
        shutil.copytree(shards / n, tmp_path / n)
    lacking = open_catalog(shards / "0").runs
    (gone,) = (run for run in lacking if open_catalog(shards / "0").metadata(run).get("table") == "scribbles")
    shutil.rmtree(tmp_path / f"0/prompts/run={gone}")
    merged = merge_catalogs(tmp_path / "merged", [tmp_path / "0", tmp_path / "1"])
    (left,) = (run for run in merged.runs if merged.metadata(run).get("table") == "scribbles")
    assert left in open_catalog(tmp_path / "1").runs
    assert len(merged.runs) == 3


def test_merge_catalogs__leaves_imported_and_outgrown_runs_their_names(shards, phantoms, tmp_path):
    for n in "01":
        shutil.copytree(shards / n, tmp_path / n)
        run, _ = simulate_run(tmp_path / n, out=tmp_path / f"out{n}")
        import_prompts(tmp_path / n, tmp_path / f"out{n}", run="published", protocol="autopet-iv@2")
    convert(find_source("longitudinal-ct"), phantoms / "longitudinal-ct", tmp_path / "1")
    merged = merge_catalogs(tmp_path / "merged", [tmp_path / "0", tmp_path / "1"])
    assert {"published", run} <= set(merged.runs), "the second catalog has grown since its run"
    cases = merged.metadata("published")["cases"]
    assert cases == sorted(case for n in "01" for case in open_catalog(tmp_path / n).metadata("published")["cases"])


def test_merge_catalogs__refused_cases_of_a_shard_are_those_of_the_whole(phantoms, tmp_path):
    source = Path(shutil.copytree(phantoms / "fdat", tmp_path / "source"))
    catalogs = [tmp_path / name for name in ("whole", "0", "1")]
    for catalog, shard in zip(catalogs, ((0, 1), (0, 2), (1, 2)), strict=True):
        convert(find_source("fdat"), source, catalog, shard=shard)
    sorted((source / "labelsTr").iterdir())[2].write_bytes(b"")
    whole, *_ = [simulate_run(catalog)[1] for catalog in catalogs]
    assert (whole.cases, whole.rejected) == (6, 1)
    merged = merge_catalogs(tmp_path / "merged", catalogs[1:])
    assert content(merged.path) == content(tmp_path / "whole")


# kill -9


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two hundred small cases of fdat, and the catalog of an undisturbed run."""
    root = tmp_path_factory.mktemp("many")
    write_fdat(root / "source", patients=1, shape=(24, 20, 30), spacing=(18, 18, 20), lesions=(1, 1))
    first = sorted((root / "source/labelsTr").iterdir())[0].name.removesuffix(".nii.gz")
    for number in range(198):  # the phantom patient has two cases
        case = f"psma_{number:016x}_2017-05-04"
        copies = {f"labelsTr/{first}": f"labelsTr/{case}"}
        copies |= {f"imagesTr/{first}_{c}": f"imagesTr/{case}_{c}" for c in ("0000", "0001")}
        for file, copy in copies.items():
            shutil.copy(root / f"source/{file}.nii.gz", root / f"source/{copy}.nii.gz")
    started = time.monotonic()
    subprocess.run(convert_command(root / "source", root / "sound"), check=True, capture_output=True)
    return root, time.monotonic() - started


def convert_command(source, catalog, *more):
    code = "import sys; from clicksim.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", code, "convert", "fdat", str(source), str(catalog), "--workers", "2", *more]


def kill_and_resume(many, tmp_path, draw, attempts=1):
    """Kill runs at random instants, each resuming the one before, and let the last one end."""
    root, seconds = many
    catalog = tmp_path / "catalog"
    command = convert_command(root / "source", catalog)
    for attempt in range(attempts):
        process = subprocess.Popen(
            command + (["--resume"] if attempt else []),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.2, 1.0) * seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session of this process and its workers, and no other
        process.wait()
        if (catalog / "catalog.json").exists():
            opened = open_catalog(catalog)
            assert opened.cases.num_rows in (0, 200)
            assert opened.rejected.num_rows == 0
        if process.returncode == 0:
            break
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert content(catalog) == content(root / "sound")
    assert not list(catalog.rglob(".writing-*.parquet"))
    assert not (catalog / WORK).exists()


@pytest.mark.parametrize("seed", range(3))
def test_convert__killed_at_any_instant_resumes_to_the_same_bytes(many, tmp_path, seed):
    assert content(many[0] / "sound")
    kill_and_resume(many, tmp_path, random.Random(seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_convert__killed_at_twenty_instants_resumes_to_the_same_bytes(many, tmp_path, seed):
    kill_and_resume(many, tmp_path, random.Random(1000 + seed), attempts=3)


# prompts


def test_simulate_catalog__gives_the_same_run_for_any_number_of_workers(catalog, phantoms, tmp_path):
    run, summary = simulate_run(catalog, source="fdat")
    assert (summary.cases, summary.rejected) == (7, 0)
    first = (catalog / f"prompts/run={run}/part-0.parquet").read_bytes()
    other = Path(shutil.copytree(phantoms / "catalog", tmp_path / "other"))
    assert simulate_run(other, source="fdat", crew=Crew(3))[0] == run
    assert (other / f"prompts/run={run}/part-0.parquet").read_bytes() == first


def test_simulate_catalog__clicks_are_those_of_each_case_alone(catalog):
    from clicksim import simulate_clicks

    run, _ = simulate_run(catalog, settings={"n_foreground": 4}, source="fdat")
    opened = open_catalog(catalog)
    rows = opened.table("prompts", run).to_pylist()
    for case in opened.table("cases", "fdat").to_pylist():
        label, pet = (read_image(opened.resolve(case[f"{kind}_path"])) for kind in ("label", "pet"))
        alone = simulate_clicks(
            label.array, uptake=pet.array, spacing=label.grid.spacing, case_id=case["case_id"], n_foreground=4
        )
        for polarity, voxels in (("foreground", alone.foreground), ("background", alone.background)):
            mine = [row for row in rows if (row["case"], row["polarity"]) == (case["case_id"], polarity)]
            mine.sort(key=lambda row: row["order"])
            assert [[row[axis] for axis in "ijk"] for row in mine] == voxels.tolist()


def test_simulate_catalog__takes_the_threshold_of_each_case(catalog):
    run, summary = simulate_run(catalog, "deep-psma@1", source="deep_psma")
    assert (summary.cases, summary.rejected) == (4, 0)
    opened = open_catalog(catalog)
    rows = opened.table("prompts", run).to_pylist()
    for case in opened.table("cases", "deep_psma").to_pylist():
        pet, label, normal = (
            read_image(opened.resolve(case[f"{kind}_path"])).array for kind in ("pet", "label", "normal")
        )
        mine = [row for row in rows if row["case"] == case["case_id"]]
        assert {row["polarity"] for row in mine} == {"foreground", "background"}
        for row in mine:
            voxel = row["i"], row["j"], row["k"]
            assert pet[voxel] >= np.float32(case["suv_threshold"])
            assert (label if row["polarity"] == "foreground" else normal)[voxel] > 0


def test_simulate_catalog__of_instances_names_the_publishers_ids(catalog):
    run, summary = simulate_run(catalog, "longitudinal-ct@1", source="longitudinal_ct")
    assert (summary.cases, summary.rejected) == (8, 0)
    opened = open_catalog(catalog)
    assert {row["polarity"] for row in opened.table("prompts", run).to_pylist()} == {"foreground"}
    run, _ = simulate_run(catalog, settings={"n_background": 0}, source="longitudinal_ct")
    labels = {row["case_id"]: opened.resolve(row["label_path"]) for row in opened.cases.to_pylist()}
    rows = opened.table("prompts", run).to_pylist()
    assert rows
    for row in rows:
        assert read_image(labels[row["case"]]).array[row["i"], row["j"], row["k"]] == row["lesion"]


def test_simulate_catalog__reports_what_it_refuses_and_goes_on(catalog):
    run, summary = simulate_run(catalog, "deep-psma@1")
    refused = json.loads((catalog / f"runs/{run}.json").read_text())["refused"]
    assert (summary.cases, summary.rejected, len(refused)) == (12, 7, 7), "fdat has uptake and no threshold"
    assert {row["code"] for row in refused} == {"SettingRefused"}
    assert all("threshold" in row["message"] for row in refused)
    clicked = {row["case"] for row in open_catalog(catalog).table("prompts", run).to_pylist()}
    assert not any(case.startswith(("fdg_", "psma_")) for case in clicked)
    assert {"train_0001/FDG", "train_0002/PSMA"} < clicked


def test_simulate_catalog__keeps_the_notes_of_each_case(catalog, monkeypatch):
    run, summary = simulate_run(catalog, crew=Crew(2))
    facts = json.loads((catalog / f"runs/{run}.json").read_text())
    opened = open_catalog(catalog)
    entries = [entry for unit in catalog_units(opened) for entry in unit.content]
    expected = {entry.case_id: list(prompts_of(opened, entry).notes) for entry in entries}
    expected = {case: notes for case, notes in expected.items() if notes}
    assert facts["notes"] == expected
    assert summary.noted == facts["noted"] == len(expected)
    without_pet = {entry.case_id for entry in entries if "pet" not in entry.files}
    assert 0 < len(without_pet) < len(entries)
    assert without_pet <= {case for case, notes in expected.items() if any("no uptake" in note for note in notes)}
    monkeypatch.setattr("clicksim.pipeline.simulation.MOST_NOTES", 3)
    simulate_run(catalog)
    facts = json.loads((catalog / f"runs/{run}.json").read_text())
    assert facts["noted"] == len(expected)
    first = [(case, note) for case, notes in expected.items() for note in notes][:3]
    assert sorted((case, note) for case, notes in facts["notes"].items() for note in notes) == sorted(first)


def prompts_of(opened, entry, protocol="autopet-iv@2", **settings):
    return PromptRun(protocol, settings=settings).make(entry.open(opened, ("label", "pet", "organs")), entry)


def test_prompt_run__reads_the_pet_where_a_setting_asks_for_background(catalog):
    opened = open_catalog(catalog)
    entry = catalog_units(opened, "fdat")[0].content[0]
    asked = prompts_of(opened, entry, "longitudinal-ct@1", n_background=3)
    assert (len(asked.background), asked.notes) == (3, ())
    gone = replace(entry, files={**entry.files, "pet": "fdat:gone.nii.gz"})
    assert len(prompts_of(opened, gone, n_background=0).background) == 0


def test_simulate_catalog__names_the_reason_of_each_refusal(catalog):
    opened = open_catalog(catalog)
    rows = [{name: row[name] for name in row if name != "source"} for row in opened.table("cases", "fdat").to_pylist()]
    full = [row for row in rows if row["lesion_present"]]
    full[0]["pet_path"] = full[0]["ct_path"]
    full[1]["pet_path"] = full[1]["label_path"]
    full[2]["label_path"] = full[2]["ct_path"]
    full[3]["label_path"] = "fdat:gone.nii.gz"
    full[4]["label_path"] = "nowhere:gone.nii.gz"
    opened.write_part("cases", "fdat", rows_to_table("cases", rows))
    run, _ = simulate_run(catalog, source="fdat")
    refused = json.loads((catalog / f"runs/{run}.json").read_text())["refused"]
    codes = {row["case_id"]: row["code"] for row in refused}
    expected = ["BadUptake", "BadUptake", "BadLabel", "UnreadableFile", "UnreadableFile"]
    assert codes == {row["case_id"]: code for row, code in zip(full, expected, strict=True)}


def test_simulate_catalog__refuses_cases_that_it_could_not_tell_apart(catalog, tmp_path):
    opened = open_catalog(catalog)
    name = opened.table("cases", "fdat")["case_id"][0].as_py()
    twin = {"case_id": name, "patient_key": "p", "instances": "components"}
    opened.write_part("cases", "mine", rows_to_table("cases", [twin]))
    with pytest.raises(CatalogError, match=f"several cases are called {re.escape(name)}, .*--source"):
        simulate_run(catalog)
    run, summary = simulate_run(catalog, out=tmp_path / "out", source="fdat")
    assert summary.cases == 7
    details = {verdict.case_id: (verdict.outcome, verdict.detail) for verdict in verify_run(catalog, run)}
    assert details.pop(name) == ("not reproducible", "several sources of the catalog have such a case")
    assert {outcome for outcome, _ in details.values()} == {"equal"}
    brought = import_prompts(catalog, tmp_path / "out", run="back")
    assert (brought.cases, brought.refused) == (6, [f"{name}_clicks.json: several sources have a case {name}"])
    opened.write_part("cases", "mine", rows_to_table("cases", [twin | {"case_id": case} for case in ("a/b", "a_b")]))
    with pytest.raises(CatalogError, match="several cases are called a_b"):
        simulate_run(catalog, out=tmp_path / "out", source="mine")
    assert simulate_run(catalog, source="mine")[1].rejected == 2, "without files they differ"


def test_simulate_catalog__has_no_notes_where_there_are_none(catalog):
    run, summary = simulate_run(catalog, settings={"n_background": 0}, source="longitudinal_ct")
    facts = json.loads((catalog / f"runs/{run}.json").read_text())
    assert (summary.noted, facts["noted"], facts["notes"]) == (0, 0, {})


def test_simulate_catalog__names_a_run_by_what_was_asked(catalog):
    runs = [
        simulate_run(catalog, *asked, source=source)[0]
        for asked, source in (
            ((), "fdat"), ((), "deep_psma"), (("autopet-iv@2", 42, {"n_foreground": 3}), "fdat"),
            (("autopet-iv@2", 43), "fdat"), (("autopet-iv@1",), "fdat"),
        )
    ]  # fmt: skip
    assert len(set(runs)) == 5
    assert set(runs) <= set(open_catalog(catalog).runs)


def test_simulate_catalog__goes_on_with_resume_alone(catalog, monkeypatch):
    whole, _ = simulate_run(catalog, source="fdat")
    expected = (catalog / f"prompts/run={whole}/part-0.parquet").read_bytes()
    shutil.rmtree(catalog / "prompts")
    calls, real = [], PromptRun.make

    def stops(run, case, entry):
        calls.append(entry.case_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(run, case, entry)

    monkeypatch.setattr(PromptRun, "make", stops)
    with pytest.raises(KeyboardInterrupt):
        simulate_run(catalog, source="fdat")
    monkeypatch.undo()
    assert open_catalog(catalog).runs == []
    with pytest.raises(CatalogError, match="continue with --resume"):
        simulate_run(catalog, source="fdat")
    assert simulate_run(catalog, source="fdat", resume=True)[0] == whole
    assert (catalog / f"prompts/run={whole}/part-0.parquet").read_bytes() == expected


@pytest.mark.parametrize("over", ["catalog", "folder"])
def test_sweep__reads_each_image_once_for_all_runs(catalog, phantoms, tmp_path, monkeypatch, over):
    from clicksim.volumes import case

    read = []
    for name in ("read_label", "read_pet"):
        plain = getattr(case, name)
        monkeypatch.setattr(case, name, lambda file, plain=plain: read.append(file) or plain(file))
    runs = [PromptRun("autopet-iv@2", settings={"n_foreground": n}) for n in (1, 2, 3, 5, 8)]
    if over == "catalog":
        simulate_catalog(catalog, runs, source="fdat")
        cases = open_catalog(catalog).table("cases", "fdat").num_rows
    else:
        tree = phantoms / "fdat"
        words = ("--label", tree / "labelsTr", "--pet", tree / "imagesTr", "--out", tmp_path / "out")
        done("clicks", *words, "--protocol", "autopet-iv@2", "--sweep", "n_foreground=1,2,3,5,8")
        cases = len(list((tree / "labelsTr").glob("*.nii.gz")))
    assert len(read) == len(set(read)) == 2 * cases


def test_simulate_catalog__refuses_a_source_without_cases(catalog):
    with pytest.raises(CatalogError, match="no cases of tcia_fdg"):
        simulate_run(catalog, source="tcia_fdg")


# prompts of others, and what verification says of them


def outcomes(verdicts):
    return Counter(verdict.outcome for verdict in verdicts)


@pytest.mark.parametrize(
    ("source", "protocol"),
    [("fdat", "autopet-iv@1"), ("fdat", "autopet-iv@2"), ("deep_psma", "deep-psma@1"),
     ("longitudinal_ct", "longitudinal-ct@1")],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["plain", "grand-challenge"])
def test_verify_run__of_an_exported_and_imported_run_is_equal(catalog, tmp_path, source, protocol, layout):
    run, summary = simulate_run(catalog, protocol, out=tmp_path / "out", layout=layout, source=source)
    assert outcomes(verify_run(catalog, run)) == {"equal": summary.cases}
    brought = import_prompts(catalog, tmp_path / "out", run="back", protocol=protocol)
    assert (brought.cases, brought.unmatched, brought.refused) == (summary.cases, [], [])
    assert len(brought.missing) == 19 - summary.cases
    assert outcomes(verify_run(catalog, "back")) == {"equal": summary.cases}


def test_verify_run__sees_one_voxel(catalog, tmp_path):
    simulate_run(catalog, "autopet-iv@1", out=tmp_path / "out", source="fdat")
    file = sorted((tmp_path / "out").glob("*_clicks.json"))[1]
    clicks = json.loads(file.read_text())
    clicks["tumor"][1][2] += 1
    file.write_text(json.dumps(clicks))
    gone = sorted((tmp_path / "out").glob("*_clicks.json"))[2]
    gone.write_text(json.dumps(json.loads(gone.read_text()) | {"background": []}))
    import_prompts(catalog, tmp_path / "out", run="changed", protocol="autopet-iv@1")
    seen = []
    verdicts = verify_run(catalog, "changed", crew=Crew(progress=lambda done, total, refused=0: seen.append(refused)))
    assert outcomes(verdicts) == {"equal": 5, "unequal": 2}
    details = {verdict.case_id: verdict.detail for verdict in verdicts if verdict.outcome == "unequal"}
    assert re.match(
        r"foreground click 1: \[.*\] here, \[.*\] recorded", details[file.name.removesuffix("_clicks.json")]
    )
    assert details[gone.name.removesuffix("_clicks.json")] == "background: 10 clicks here, 0 recorded"
    assert seen[-1] == 2


def test_verify_run__says_what_cannot_be_reproduced(catalog, tmp_path, monkeypatch):
    simulate_run(catalog, out=tmp_path / "out", source="fdat")
    import_prompts(catalog, tmp_path / "out", run="back", protocol="autopet-iv@2")
    monkeypatch.setenv("CLICKSIM_ROOT_FDAT", str(tmp_path))
    verdicts = verify_run(catalog, "back")
    assert outcomes(verdicts) == {"not reproducible": 7}
    assert all(verdict.detail for verdict in verdicts)
    import_prompts(catalog, tmp_path / "out", run="nameless")
    with pytest.raises(CatalogError, match="names no protocol; import it again with --protocol"):
        verify_run(catalog, "nameless")
    with pytest.raises(CatalogError, match="no 'other' in table prompts"):
        verify_run(catalog, "other")
    opened = open_catalog(catalog)
    bare = opened.table("prompts", "back").drop_columns("run").replace_schema_metadata(None)
    opened.write_part("prompts", "bare", bare)
    with pytest.raises(CatalogError, match="does not say how it was made"):
        verify_run(catalog, "bare")


def test_import_prompts__reads_a_zip_and_lists_what_it_cannot_use(catalog, tmp_path):
    simulate_run(catalog, out=tmp_path / "out", source="fdat")
    files = sorted((tmp_path / "out").glob("*_clicks.json"))
    with zipfile.ZipFile(tmp_path / "clicks.zip", "w") as archive:
        for file in files[:3]:
            archive.write(file, f"clicks/{file.name}")
        archive.writestr(f"__MACOSX/._{files[0].name}", "\0")
        archive.writestr("clicks/stranger_clicks.json", "{}")
        archive.writestr(f"again/{files[0].name}", files[0].read_text())
        archive.writestr(f"clicks/{files[3].name}", "no JSON")
        archive.writestr(f"clicks/{files[4].name}", '{"tumor": [[9999, 0, 0]], "background": []}')
        archive.writestr("readme.txt", "")
    brought = import_prompts(catalog, tmp_path / "clicks.zip", run="zip")
    assert brought.cases == 3
    assert brought.unmatched == ["stranger_clicks.json"]
    assert len(brought.refused) == 3
    assert any("has a file already" in text for text in brought.refused)
    before = (catalog / "prompts/run=zip/part-0.parquet").read_bytes()
    assert import_prompts(catalog, tmp_path / "clicks.zip", run="zip") == brought, "the same again changes nothing"
    with pytest.raises(CatalogError, match=r'made in another way: kind is "click" there and "scribble" here.*; choose'):
        import_prompts(catalog, tmp_path / "clicks.zip", run="zip", kind="scribble")
    with pytest.raises(CatalogError, match="has a run 'longitudinal-cog' already"):
        import_prompts(catalog, tmp_path / "clicks.zip", run="longitudinal-cog")
    assert (catalog / "prompts/run=zip/part-0.parquet").read_bytes() == before
    import_prompts(catalog, tmp_path / "clicks.zip", run="zip", kind="scribble", overwrite=True)
    assert (catalog / "prompts/run=zip/part-0.parquet").read_bytes() != before


def test_import_prompts__a_damaged_member_costs_its_case_alone(catalog, tmp_path):
    simulate_run(catalog, out=tmp_path / "out", source="fdat")
    files = sorted((tmp_path / "out").glob("*_clicks.json"))
    with zipfile.ZipFile(tmp_path / "clicks.zip", "w") as archive:
        for file in files[:2]:
            archive.write(file, file.name)
    damaged = (tmp_path / "clicks.zip").read_bytes().replace(b'{"tumor"', b'{"tumoR"', 1)
    (tmp_path / "clicks.zip").write_bytes(damaged)
    brought = import_prompts(catalog, tmp_path / "clicks.zip", run="zip")
    assert brought.cases == 1
    assert "cannot be unpacked" in brought.refused[0]


@pytest.mark.parametrize("run", ["", "a/b", ".hidden", "a:b"])
def test_import_prompts__refuses_names_that_are_paths(catalog, tmp_path, run):
    with pytest.raises(CatalogError, match="cannot name a run"):
        import_prompts(catalog, tmp_path, run=run)


def test_import_prompts__refuses_what_is_no_set_of_prompts(catalog, tmp_path):
    (tmp_path / "file.txt").write_text("no zip")
    with pytest.raises(CatalogError, match="neither a folder nor a zip"):
        import_prompts(catalog, tmp_path / "file.txt", run="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=r"has the name of a case of .*; there is: no .json file"):
        import_prompts(catalog, tmp_path / "empty", run="x")
    name = open_catalog(catalog).cases["case_id"][0].as_py().replace("/", "_")
    (tmp_path / f"folders/{name}.json").mkdir(parents=True)
    with pytest.raises(CatalogError, match=f"could be imported: {name}.json: cannot be read: a folder or a device"):
        import_prompts(catalog, tmp_path / "folders", run="x")
    with pytest.raises(SettingError, match="unknown protocol"):
        import_prompts(catalog, tmp_path / "empty", run="x", protocol="autopet-vi@1")


def test_import_prompts__scribbles_are_one_stroke_a_polarity(catalog, tmp_path):
    name = open_catalog(catalog).table("cases", "fdat")["case_id"][0].as_py()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f"{name}_lesion-clicks.json").write_text(
        '{"tumor": [[1, 2, 3], [2, 2, 3]], "background": [[5, 5, 5]]}'
    )
    import_prompts(catalog, tmp_path / "s", run="strokes", kind="scribble")
    rows = open_catalog(catalog).table("prompts", "strokes").to_pylist()
    assert [(row["kind"], row["stroke"], row["annotator"]) for row in rows] == [
        ("scribble", 0, "published"), ("scribble", 0, "published"), ("scribble", 1, "published"),
    ]  # fmt: skip


def test_prompt_runs__of_a_source_stand_in_the_catalog(phantoms):
    opened = open_catalog(phantoms / "catalog")
    assert {"longitudinal-cog", "longitudinal-mask", "longitudinal-propagated"} == set(opened.runs)
    assert opened.metadata("longitudinal-propagated")["settings"]["knows_truth"] is False


REAL = "fdg_0b57b247b6_05-02-2002-NA-PET-CT Ganzkoerper  primaer mit KM-42966"


@pytest.mark.real
@pytest.mark.parametrize("archive", ["all_Autopet_III_clicks.zip", "all_Autopet_III_clicks_gc.zip"])
def test_verify_run__the_published_clicks_of_the_real_mask_are_met(realdata, tmp_path, archive):
    source = tmp_path / "source"
    write_fdat(source, patients=2, shape=(24, 20, 30), spacing=(18, 18, 20))
    shutil.copy(realdata / f"autopet/fdg_0b57b247b6/{REAL}.nii.gz", source / f"labelsTr/{REAL}.nii.gz")
    convert(find_source("fdat"), source, tmp_path / "catalog", options={"labels_only": "true"})
    brought = import_prompts(
        tmp_path / "catalog", realdata / "autopet" / archive, run="published", protocol="autopet-iv@1"
    )
    assert brought.cases == 1
    assert len(brought.unmatched) == 1610
    assert len(brought.missing) == 3
    verdict = verify_run(tmp_path / "catalog", "published")[0]
    assert (verdict.case_id, verdict.outcome) == (REAL, "not reproducible")
    assert verdict.detail == "no PET for the background; the foreground is equal"


@pytest.mark.real
def test_verify_run__one_published_voxel_changed_is_unequal(realdata, tmp_path):
    source = tmp_path / "source"
    write_fdat(source, patients=1, shape=(24, 20, 30), spacing=(18, 18, 20))
    shutil.copy(realdata / f"autopet/fdg_0b57b247b6/{REAL}.nii.gz", source / f"labelsTr/{REAL}.nii.gz")
    convert(find_source("fdat"), source, tmp_path / "catalog", options={"labels_only": "true"})
    clicks = json.loads((realdata / f"autopet/fdg_0b57b247b6/{REAL}_clicks.json").read_text())
    clicks["tumor"][-1][0] += 1
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"{REAL}_clicks.json").write_text(json.dumps(clicks))
    import_prompts(tmp_path / "catalog", tmp_path / "files", run="changed", protocol="autopet-iv@1")
    verdict = verify_run(tmp_path / "catalog", "changed")[0]
    assert (verdict.outcome, verdict.detail) == (
        "unequal", "no PET for the background; the foreground is unequal",
    )  # fmt: skip


@pytest.mark.real
def test_import_prompts__brings_all_published_scribbles_of_known_cases(realdata, tmp_path):
    import csv

    with (realdata / "autopet/cases_1611.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    from clicksim.catalog.schema import rows_to_table

    catalog = create_catalog(tmp_path / "catalog")
    assert len(rows) == 1611
    names = {key.lower(): key for key in rows[0]}
    key = names.get("case_id") or names["case"]
    case_rows = [
        {
            "case_id": row[key],
            "patient_key": row[key],
            "shape_xyz": [512, 512, 1300],
            "spacing_xyz_mm": [2.0, 2.0, 3.0],
            "affine_ras": np.diag([2.0, 2.0, 3.0, 1.0]).ravel().tolist(),
        }
        for row in rows
    ]
    catalog.write_part("cases", "fdat", rows_to_table("cases", case_rows))
    for archive, kind in (("lesion-scribbles.zip", "scribble"), ("all_Autopet_III_clicks.zip", "click")):
        brought = import_prompts(catalog.path, realdata / "autopet" / archive, run=kind, kind=kind)
        assert (brought.cases, brought.unmatched, brought.refused, brought.missing) == (1611, [], [], [])
    table = catalog.table("prompts", "click")
    clicked = {row["case"] for row in table.select(["case", "polarity"]).to_pylist() if row["polarity"] == "foreground"}
    assert 1611 - len(clicked) == 573


# the template of docs/sources.md

DOCUMENT = (ROOT / "docs/sources.md").read_text(encoding="utf-8")


def test_template__of_the_documents_converts_when_it_is_installed(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    entry = re.search(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert code
    assert entry
    site = tmp_path / "site"
    info = site / "lab_source-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lab_source.py").write_text(code[1])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-source\nVersion: 1.0\n")
    lines = entry[1].replace('[project.entry-points."clicksim.sources"]', "[clicksim.sources]").replace('"', "")
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))  # for the workers
    scans = tmp_path / "scans"
    scans.mkdir()
    rng, grid = np.random.default_rng(0), Grid.from_spacing((12, 10, 8), (2.0, 2.0, 3.0))
    for study in ("anna_1", "anna_2", "bert_1"):
        mask = np.zeros(grid.shape, np.uint8)
        mask[3:6, 3:6, 2:5] = 1
        write_image(scans / f"{study}_mask.nii.gz", mask, grid)
        write_image(scans / f"{study}_suv.nii.gz", rng.uniform(0, 9, grid.shape).astype(np.float32), grid)
    (scans / "bert_1_suv.nii.gz").unlink()
    write_image(scans / "carl_mask.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    write_image(scans / "carl_suv.nii.gz", np.zeros(grid.shape, np.float32), grid)
    (scans / "nobody_mask.nii.gz").write_bytes(b"")
    source = find_source("our-lab")
    digests = set()
    for workers in (0, 2):
        summary = convert(source, scans, tmp_path / f"c{workers}", crew=Crew(workers), options={"tracer": "PSMA"})
        assert (summary.cases, summary.rejected) == (2, 3)
        digests.add(open_catalog(tmp_path / f"c{workers}").digest())
    assert len(digests) == 1
    opened = open_catalog(tmp_path / "c0")
    assert {row["tracer_class"] for row in opened.cases.to_pylist()} == {"PSMA"}
    assert Counter(row["code"] for row in opened.rejected.to_pylist()) == {"MissingChannel": 1, "BadName": 2}
    from clicksim.pipeline import check

    assert check(tmp_path / "c0", read_data=True) == []
    assert simulate_run(tmp_path / "c0")[1].cases == 2


def test_prompt_format_error__is_a_refusal_like_all_others():
    assert issubclass(PromptFormatError, ValueError)

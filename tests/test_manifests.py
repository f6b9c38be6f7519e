"""Exports: what each format wants, licences that travel, and a check that sees what was spoiled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clicksim.catalog import Catalog, create_catalog, open_catalog
from clicksim.catalog.folds import make_folds, write_folds
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, SettingError
from clicksim.geometry import Grid
from clicksim.manifests import (
    EXPORTS,
    Written,
    check_manifest,
    read_manifest,
    select,
)
from clicksim.manifests.folder import licence_text
from clicksim.manifests.selection import file_names, prompts_of, strictest
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_longitudinal_ct
from clicksim.pipeline import convert, export
from clicksim.pipeline.workers import Crew, Progress
from clicksim.predictors.command import predict_folder
from clicksim.predictors.threshold import ThresholdPredictor
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.volumes import read_grid, read_image, read_label, write_image
from converters.deep_psma.deep_psma_source import SOURCE as DEEP_PSMA
from converters.fdat.fdat_source import SOURCE as FDAT
from converters.longitudinal_ct.longitudinal_source import SOURCE as LONGITUDINAL_CT
from tests.simulated import simulate_run

FORMATS = EXPORTS.names
NAME = "Dataset501_Phantom"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two PET/CT sources with a prompt run and a plan."""
    folder = tmp_path_factory.mktemp("built")
    for seed, (write, source) in enumerate(((write_fdat, FDAT), (write_deep_psma, DEEP_PSMA))):
        tree = write(folder / source.name, seed=seed)  # type: ignore[operator]
        convert(source, tree.folder, folder / "catalog")
    simulate_run(folder / "catalog")
    catalog = open_catalog(folder / "catalog")
    write_folds(catalog, "three", make_folds(catalog, n_folds=3, official="ignore"))
    return folder / "catalog"


@pytest.fixture
def catalog(built: Path, tmp_path: Path) -> Catalog:
    """A copy that a test may spoil."""
    shutil.copytree(built, tmp_path / "catalog", copy_function=os.link)  # files are replaced, never changed
    return open_catalog(tmp_path / "catalog")


@pytest.fixture(scope="module")
def exports(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, written once."""
    folder = tmp_path_factory.mktemp("exports")
    catalog = open_catalog(built)
    for kind in FORMATS:
        write(kind, catalog, folder / kind / NAME, run=catalog.runs[0], plan="three")
    return folder


@pytest.fixture
def spoiled(exports: Path, tmp_path: Path) -> Path:
    """A copy of all exports that a test may spoil."""
    shutil.copytree(exports, tmp_path / "exports", symlinks=True)
    return tmp_path / "exports"


def write(kind: str, catalog: Catalog, out: Path, **more: Any) -> Written:
    return export(str(catalog.home), out, kind, **more)


def faults_of(out: Path, catalog: Catalog | None = None) -> list[str]:
    """The findings as sentences, the case before the fault."""
    return [" ".join((*finding.cases, finding.detail)) for finding in check_manifest(out, catalog)]


def contents(folder: Path) -> dict[str, Any]:
    """The bytes of every file of an export, and where a link leads."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    return {
        str(name): path.readlink() if path.is_symlink() else path.read_bytes()
        for name, path in sorted(found.items())
        if name.parts[0][0] != "."
    }


def stop_after(units: int) -> Progress:
    """A progress that ends the job after some units, as Ctrl-C does."""

    def report(done: int, total: int, refused: int = 0) -> None:
        if done >= units:
            raise KeyboardInterrupt

    return report


def tiny(folder: Path, rows: list[dict[str, Any]], facts: list[dict[str, Any]]) -> Catalog:
    """A catalog of rows alone."""
    catalog = create_catalog(folder)
    base = {"shape_xyz": [4, 4, 4], "spacing_xyz_mm": [1.0, 1.0, 1.0], "lesion_present": False}
    for source in sorted({row["source"] for row in rows}):
        mine = [{**base, **{k: v for k, v in row.items() if k != "source"}} for row in rows if row["source"] == source]
        catalog.write_part("cases", source, rows_to_table("cases", mine))
    if facts:
        catalog.write_sources(rows_to_table("sources", facts))
    return catalog


# --- all formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_check_manifest__a_fresh_export_has_no_fault(kind: str, exports: Path, built: Path) -> None:
    assert faults_of(exports / kind / NAME, open_catalog(built)) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_read_record__says_what_the_export_was_made_from(kind: str, exports: Path, built: Path) -> None:
    record, catalog = read_manifest(exports / kind / NAME), open_catalog(built)
    assert record["format"] == kind
    assert record["catalog"]["digest"] == catalog.digest()
    assert record["prompts"]["run"] == catalog.runs[0]
    assert record["prompts"]["protocol"] == "autopet-iv@2"
    assert record["folds"]["plan"] == "three"
    assert len(record["cases"]) == catalog.cases.num_rows
    assert record["versions"]["clicksim"]
    assert str(built) not in json.dumps(record["catalog"])


@pytest.mark.parametrize("kind", FORMATS)
def test_write__the_same_catalog_gives_the_same_bytes(kind: str, exports: Path, built: Path, tmp_path: Path) -> None:
    catalog = open_catalog(built)
    write(kind, catalog, tmp_path / NAME, run=catalog.runs[0], plan="three")
    first, second = exports / kind / NAME, tmp_path / NAME
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize("kind", FORMATS)
def test_write__a_folder_with_other_things_is_refused(kind: str, built: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "mine.txt").write_text("x")
    with pytest.raises(CatalogError, match="is not an export of clicksim: it has mine"):
        write(kind, open_catalog(built), tmp_path / NAME)


@pytest.mark.parametrize(
    ("kind", "pattern", "words"),
    [
        ("nnunet", "imagesTr/*_0001.nii.gz", "is missing"),
        ("nnunet", "labelsTr/*.nii.gz", "belongs to no label"),
        ("nnunet", "splits_final.json", "splits_final.json is missing"),
        ("monai", "datalist.json", "datalist.json is missing"),
        ("grand-challenge", "*/lesion-clicks.json", "lesion-clicks.json"),
        ("grand-challenge", "*/images/pet/*.mha", "does not exist"),
        ("croissant", "lesions.parquet", "lesions.parquet does not exist"),
        ("huggingface", "train/pet/*.nii.gz", "does not exist"),
        ("huggingface", "train/metadata.parquet", "in neither"),
        ("csv", "cases.csv", "cannot be read"),
    ],
)
def test_check_manifest__a_lost_file_is_named(kind: str, pattern: str, words: str, spoiled: Path) -> None:
    sorted((spoiled / kind / NAME).glob(pattern))[0].unlink()
    assert any(words in fault for fault in faults_of(spoiled / kind / NAME))


@pytest.mark.parametrize(
    ("kind", "file", "old", "new", "words"),
    [
        ("nnunet", "dataset.json", '"numTraining": ', '"numTraining": 1', "numTraining"),
        ("nnunet", "dataset.json", '"tumor": 1', '"tumor": 2', "without a gap"),
        ("nnunet", "dataset.json", '"role": "image"', '"role": "prompt"', "call it noNorm"),
        ("nnunet", "splits_final.json", '"val": [', '"val": ["ghost", ', "names ghost"),
        ("monai", "datalist.json", '"numTraining": ', '"numTraining": 1', "numTraining"),
        ("monai", "datalist.json", "_0001.nii.gz", "_0009.nii.gz", "does not exist"),
        ("croissant", "croissant.json", '"column": "case_id"', '"column": "casus"', "column casus"),
        ("croissant", "croissant.json", '"license"', '"licence"', "no license"),
        ("croissant", "croissant.json", '"sha256": "', '"sha256": "0', "a different SHA-256"),
        ("csv", "cases.csv", "patient_key", "patient", "has columns"),
    ],
)
def test_check_manifest__a_changed_file_is_named(
    kind: str, file: str, old: str, new: str, words: str, spoiled: Path
) -> None:
    path = spoiled / kind / NAME / file
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert any(words in fault for fault in faults_of(spoiled / kind / NAME))


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "[3]", '{"labels": 3, "cases": 3}', "[" * 100_000, "\0,\0\n1,2"])
@pytest.mark.parametrize("kind", FORMATS)
def test_check_manifest__a_damaged_file_is_a_fault_or_a_refusal(
    kind: str, text: str, exports: Path, tmp_path: Path
) -> None:
    names = [path.name for path in (exports / kind / NAME).iterdir() if path.suffix in (".json", ".csv", ".parquet")]
    for name in names:
        shutil.copytree(exports / kind / NAME, tmp_path / name, symlinks=True)
        (tmp_path / name / name).write_text(text)
        if name == "clicksim-manifest.json":
            with pytest.raises(CatalogError, match=r"damaged|cannot be read"):
                faults_of(tmp_path / name)
        elif name != "prompts.csv":  # whose rows are not looked at
            assert faults_of(tmp_path / name)


def test_check_manifest__a_case_that_changed_in_the_catalog_is_named(exports: Path, catalog: Catalog) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    changed, lost = rows[0]["case_id"], rows.pop(1)["case_id"]
    rows[0]["suv_max"] = 1.0
    rows.append({**rows[1], "case_id": "new"})
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    faults = faults_of(exports / "csv" / NAME, catalog)
    assert sorted(faults) == sorted(
        [
            f"{changed} has changed in the catalog since the export",
            f"{lost} is no longer in the catalog",
            "new is in the catalog but not in the export",
        ]
    )


def test_check_manifest__another_plan_or_run_of_the_catalog_does_not_matter(exports: Path, catalog: Catalog) -> None:
    write_folds(catalog, "other", make_folds(catalog, n_folds=2, official="ignore"))
    assert faults_of(exports / "csv" / NAME, catalog) == []
    write_folds(catalog, "three", make_folds(catalog, n_folds=3, official="ignore", seed=1))
    assert faults_of(exports / "csv" / NAME, catalog) == ["folds of three have changed in the catalog since the export"]


def test_read_record__what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="is missing"):
        read_manifest(tmp_path)
    (tmp_path / "clicksim-manifest.json").write_text("[]")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "clicksim-manifest.json").write_text('{"record_version": 99, "format": "csv"}')
    with pytest.raises(CatalogError, match="newer clicksim"):
        read_manifest(tmp_path)


# --- one format each -------------------------------------------------------------------------------------


def test_write_nnunet__images_labels_and_splits_are_what_nnunet_reads(exports: Path, built: Path) -> None:
    folder, catalog = exports / "nnunet" / NAME, open_catalog(built)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT", "1": "PET"}
    assert content["licence"] == "CC-BY-NC-4.0"
    record = read_manifest(folder)
    rows = {row["case_id"]: row for row in catalog.cases.to_pylist()}
    for case in record["cases"]:
        grids = [read_grid(folder / file) for file in case["files"].values()]
        assert all(grid.shape == grids[0].shape for grid in grids)
        assert all(np.allclose(grid.spacing, grids[0].spacing, rtol=1e-6) for grid in grids)
        label = read_label(folder / case["files"]["label"]).array
        assert label.dtype == np.uint8 or label.dtype == np.int8
        assert set(np.unique(label)) <= {0, 1}
        true = read_label(catalog.resolve(rows[case["case_id"]]["label_path"])).array
        assert np.array_equal(label > 0, true > 0)
    splits = json.loads((folder / "splits_final.json").read_text())
    patients = {case["name"]: case["patient_key"] for case in record["cases"]}
    assert len(splits) == 3
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == sorted(patients)
        assert not {patients[n] for n in split["train"]} & {patients[n] for n in split["val"]}


def test_write_nnunet__links_by_default_and_copies_where_asked(exports: Path, built: Path, tmp_path: Path) -> None:
    linked = sorted((exports / "nnunet" / NAME / "imagesTr").glob("*_0001.nii.gz"))
    assert all(path.is_symlink() for path in linked)
    write("nnunet", open_catalog(built), tmp_path / NAME, settings={"copy": True})
    copied = sorted((tmp_path / NAME / "imagesTr").glob("*_0001.nii.gz"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert [path.read_bytes() for path in copied] == [path.read_bytes() for path in linked]


def test_write_nnunet__guidance_channels_hold_the_prompts_and_are_not_normalised(built: Path, tmp_path: Path) -> None:
    catalog = open_catalog(built)
    write("nnunet", catalog, tmp_path / NAME, settings={"guidance": "points"}, run=catalog.runs[0], plan="three")
    assert faults_of(tmp_path / NAME, catalog) == []
    content = json.loads((tmp_path / NAME / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT", "1": "PET", "2": "noNorm", "3": "noNorm"}
    roles = content["channel_roles"]
    assert [(roles[n]["role"], roles[n]["normalise"], roles[n]["augment_intensity"]) for n in "0123"] == [
        ("image", True, True), ("image", True, True), ("prompt", False, False), ("prompt", False, False),
    ]  # fmt: skip
    clicked = 0
    for case in read_manifest(tmp_path / NAME)["cases"]:
        for polarity in ("foreground", "background"):
            drawn = read_image(tmp_path / NAME / case["files"][polarity]).array
            voxels = {
                (row["i"], row["j"], row["k"])
                for row in catalog.prompts.to_pylist()
                if row["case"] == case["case_id"] and row["polarity"] == polarity
            }
            assert {tuple(v) for v in np.argwhere(drawn > 0).tolist()} == voxels
            clicked += len(voxels)
    assert clicked > 20


def test_write_nnunet__of_one_patient_has_no_folds_and_no_fault(catalog: Catalog, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows[:1]))
    write("nnunet", catalog, tmp_path / NAME, sources=["fdat"])
    assert not (tmp_path / NAME / "splits_final.json").exists()
    assert faults_of(tmp_path / NAME, catalog) == []


def test_write_nnunet__impossible_wishes_are_refused(built: Path, tmp_path: Path) -> None:
    catalog = open_catalog(built)
    with pytest.raises(SettingError, match="DatasetNNN_Name, got 'mine'"):
        write("nnunet", catalog, tmp_path / "mine")
    with pytest.raises(SettingError, match="--run"):
        write("nnunet", catalog, tmp_path / NAME, settings={"guidance": "gaussian"})
    with pytest.raises(SettingError, match="gaussain"):
        write("nnunet", catalog, tmp_path / NAME, settings={"guidance": "gaussain"}, run=catalog.runs[0])
    assert not (tmp_path / NAME).exists()


def test_write_nnunet__a_case_on_two_grids_is_left_out_with_its_reason(catalog: Catalog, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "deep_psma").to_pylist()]
    rows[0]["ct_path"] = next(row["ct_path"] for row in rows if row["shape_xyz"] != rows[0]["shape_xyz"])
    catalog.write_part("cases", "deep_psma", rows_to_table("cases", rows))
    written = write("nnunet", catalog, tmp_path / NAME)
    assert list(written.refused) == [rows[0]["case_id"]]
    assert "different grids" in written.refused[rows[0]["case_id"]]
    assert faults_of(tmp_path / NAME, catalog) == []


@pytest.mark.parametrize(("shift_mm", "taken"), [(0.0, True), (0.03, True), (25.0, False)])
def test_write_nnunet__headers_that_differ_by_rounding_become_one_grid(
    catalog: Catalog, tmp_path: Path, shift_mm: float, taken: bool
) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "deep_psma").to_pylist()]
    image = read_image(catalog.resolve(rows[0]["ct_path"]))
    assert image.grid.affine is not None
    affine = image.grid.affine.copy()
    affine[0, 3] += shift_mm
    write_image(catalog.path / "images" / "shifted.nii.gz", image.array, Grid(image.grid.shape, affine=affine))
    rows[0]["ct_path"] = "catalog:images/shifted.nii.gz"
    catalog.write_part("cases", "deep_psma", rows_to_table("cases", rows))
    written = write("nnunet", catalog, tmp_path / NAME)
    assert (rows[0]["case_id"] not in written.refused) == taken
    files = written.files.get(("deep_psma", rows[0]["case_id"]))
    if files is not None:
        grids = [read_grid(tmp_path / NAME / files[name]) for name in ("CT", "label")]
        assert grids[0].same_as(grids[1], tolerance_mm=1e-4)


@pytest.mark.parametrize("top", [1, 2, 255])
def test_write_nnunet__a_mask_of_other_values_is_written_anew_as_0_and_1(
    top: int, catalog: Catalog, tmp_path: Path
) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    row = next(row for row in rows if row["lesion_present"])
    held = read_label(catalog.resolve(row["label_path"]))
    mask = held.array > 0
    (catalog.path / "images").mkdir(exist_ok=True)
    write_image(catalog.path / "images" / "own.nii.gz", mask * np.uint8(top), held.grid)
    row |= {"label_path": "catalog:images/own.nii.gz", "quality_flags": []}
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    written = write("nnunet", catalog, tmp_path / NAME, sources=["fdat"])
    file = tmp_path / NAME / written.files["fdat", row["case_id"]]["label"]
    assert mask.any()
    assert np.array_equal(read_label(file).array, mask)
    assert file.is_symlink() == (top == 1)
    notes = write("monai", catalog, tmp_path / "monai", sources=["fdat"]).notes
    assert any(note.startswith("1 label with values above 1") for note in notes) == (top > 1)


def test_write_nnunet__instance_maps_become_masks(tmp_path: Path) -> None:
    tree = write_longitudinal_ct(tmp_path / "source")
    convert(LONGITUDINAL_CT, tree.folder, tmp_path / "catalog")
    catalog = open_catalog(tmp_path / "catalog")
    write("nnunet", catalog, tmp_path / NAME)
    content = json.loads((tmp_path / NAME / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    labels = [read_label(path).array for path in (tmp_path / NAME / "labelsTr").iterdir()]
    assert {int(label.max()) for label in labels} <= {0, 1}
    assert any(label.any() for label in labels)
    assert faults_of(tmp_path / NAME, catalog) == []


def test_write_monai__items_have_channels_folds_and_prompts(exports: Path, built: Path) -> None:
    content = json.loads((exports / "monai" / NAME / "datalist.json").read_text())
    assert content["modality"] == {"0": "CT", "1": "PET"}
    assert {item["fold"] for item in content["training"]} == {0, 1, 2}
    rows = open_catalog(built).prompts.to_pylist()
    for item in content["training"]:
        mine = [row for row in rows if row["case"] == item["case_id"]]
        assert len(item["prompts"]["foreground"]) == sum(row["polarity"] == "foreground" for row in mine)
        assert len(item["image"]) == 2


def test_write_monai__patients_on_both_sides_of_a_plan_are_trained_on_in_no_list(
    catalog: Catalog, tmp_path: Path
) -> None:
    write_folds(catalog, "tracers", make_folds(catalog, scheme="leave-one-tracer-out"))
    write("monai", catalog, tmp_path / "out", plan="tracers")
    assert faults_of(tmp_path / "out", catalog) == []
    assert not (tmp_path / "out" / "datalist.json").exists()
    for n in range(2):
        path = tmp_path / "out" / f"datalist_fold{n}.json"
        content = json.loads(path.read_text())
        judged = {item["patient_key"] for item in content["validation"]}
        assert judged & {"deep_psma:train_0001", "deep_psma:train_0002"}
        assert not judged & {item["patient_key"] for item in content["training"]}
        path.write_text(json.dumps({**content, "validation": [*content["validation"], content["training"][0]]}))
    assert sum("trains and validates on patient" in fault for fault in faults_of(tmp_path / "out")) == 2


def test_export__a_second_one_replaces_the_first_where_it_is_asked_to(built: Path, tmp_path: Path) -> None:
    catalog, out = open_catalog(built), tmp_path / NAME
    write("nnunet", catalog, out)
    assert len(list((out / "labelsTr").iterdir())) > 4
    first = contents(out)
    write("nnunet", catalog, out)
    assert contents(out) == first, "the same export again changes nothing"
    with pytest.raises(CatalogError, match=r"made in another way: .*sources.*replace it with --overwrite"):
        write("nnunet", catalog, out, sources=["deep_psma"])
    with pytest.raises(CatalogError, match=r"settings.copy is false there and true here"):
        write("nnunet", catalog, out, settings={"copy": True})
    with pytest.raises(CatalogError, match=r'format is "nnunet" there and "csv" here'):
        write("csv", catalog, out)
    assert contents(out) == first
    write("nnunet", catalog, out, sources=["deep_psma"], overwrite=True)
    assert faults_of(out, catalog) == []
    assert len(list((out / "labelsTr").iterdir())) == 4
    write("csv", catalog, out, overwrite=True)
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "cases.csv", "clicksim-manifest.json", "LICENCES.md", "CITATION.bib",
    }  # fmt: skip


def test_export__an_unrelated_change_of_the_catalog_is_not_another_way(catalog: Catalog, tmp_path: Path) -> None:
    write("csv", catalog, tmp_path / "out", plan="three")
    write_folds(catalog, "other", make_folds(catalog, n_folds=2, official="ignore"))
    write("csv", catalog, tmp_path / "out", plan="three")
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows[1:]))
    with pytest.raises(CatalogError, match="cases/fdat"):
        write("csv", catalog, tmp_path / "out", plan="three")


@pytest.mark.parametrize("kind", FORMATS)
def test_export__an_interrupted_one_goes_on_to_the_same_bytes(
    kind: str, exports: Path, built: Path, tmp_path: Path
) -> None:
    catalog, out = open_catalog(built), tmp_path / NAME
    how: dict[str, Any] = {"run": catalog.runs[0], "plan": "three"}
    for after in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            write(kind, catalog, out, **how, crew=Crew(progress=stop_after(after)), resume=after > 1)
    assert {path.name for path in out.iterdir()} == {".lock", ".work"}
    with pytest.raises(CatalogError, match="was interrupted; continue with --resume"):
        check_manifest(out)
    with pytest.raises(CatalogError, match="continue with --resume, or start again with --overwrite"):
        write(kind, catalog, out, **how)
    write(kind, catalog, out, **how, resume=True)
    assert contents(out) == contents(exports / kind / NAME)
    assert not (out / ".work").exists()


def test_export__one_that_ends_while_it_is_committed_is_completed_by_the_next(
    exports: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, out = open_catalog(built), tmp_path / NAME
    how: dict[str, Any] = {"run": catalog.runs[0], "plan": "three"}
    moved, replace = [], Path.replace

    def move(self: Path, target: Path) -> Path:
        if "imagesTr" in target.parts and ".work" not in target.parts:
            moved.append(target)
            if len(moved) == 5:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            write("nnunet", catalog, out, **how)
    assert (out / ".work/commit.json").is_file()
    assert not (out / "clicksim-manifest.json").exists()
    with pytest.raises(CatalogError, match="was interrupted"):
        check_manifest(out)
    write("nnunet", catalog, out, **how)
    assert contents(out) == contents(exports / "nnunet" / NAME)


def test_export__an_interrupted_one_leaves_the_earlier_one_as_it_was(built: Path, tmp_path: Path) -> None:
    catalog, out = open_catalog(built), tmp_path / NAME
    write("nnunet", catalog, out, sources=["deep_psma"])
    before = contents(out)
    with pytest.raises(KeyboardInterrupt):
        write("nnunet", catalog, out, overwrite=True, crew=Crew(progress=stop_after(2)))
    assert contents(out) == before
    assert faults_of(out, catalog) == []
    write("nnunet", catalog, out, overwrite=True, resume=True)
    assert faults_of(out, catalog) == []
    assert contents(out) != before


def test_export__workers_give_the_same_bytes(exports: Path, built: Path, tmp_path: Path) -> None:
    catalog = open_catalog(built)
    crew = Crew(workers=2)
    write("nnunet", catalog, tmp_path / NAME, run=catalog.runs[0], plan="three", crew=crew)
    assert contents(tmp_path / NAME) == contents(exports / "nnunet" / NAME)


def test_export__a_file_of_somebody_else_is_not_overwritten(built: Path, tmp_path: Path) -> None:
    catalog, out = open_catalog(built), tmp_path / "out"
    write("csv", catalog, out)
    (out / "README.md").write_text("mine")
    with pytest.raises(CatalogError, match=r"files that no export made.*README.md; move them away"):
        write("huggingface", catalog, out, overwrite=True)
    assert (out / "README.md").read_text() == "mine"
    (out / "README.md").unlink()
    write("huggingface", catalog, out, overwrite=True, resume=True)
    assert faults_of(out, catalog) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_export__a_name_that_no_file_can_have_costs_no_case(kind: str, catalog: Catalog, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    names = ["x" * 300, "CON", "nul.v2", "dot.", "\u00e4" * 100, ".hidden", "LICENCES.md"]
    for row, name in zip(rows, names, strict=False):
        row["case_id"] = name
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    catalog.write_part("lesions", "fdat", rows_to_table("lesions", []))
    write_folds(catalog, "three", make_folds(catalog, n_folds=3, official="ignore"))
    written = write(kind, catalog, tmp_path / NAME, sources=["fdat"])
    assert (len(written.files), written.refused) == (len(rows), {})
    assert faults_of(tmp_path / NAME, catalog) == []
    parts = {part for path in (tmp_path / NAME).rglob("*") for part in path.relative_to(tmp_path / NAME).parts}
    assert max(len(part.encode()) for part in parts) < 200
    assert not {part for part in parts if part.partition(".")[0].casefold() in ("con", "nul")}


def test_export__the_latest_run_is_named_in_the_record(catalog: Catalog, tmp_path: Path) -> None:
    write("csv", catalog, tmp_path / "out", run="latest")
    assert read_manifest(tmp_path / "out")["prompts"]["run"] == catalog.runs[0]


def test_export__a_record_cannot_delete_files_elsewhere(built: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    out = tmp_path / "out"
    write("csv", open_catalog(built), out)
    record = read_manifest(out)
    record["cases"][0]["files"] = {"a": "../mine.txt", "b": str(tmp_path / "mine.txt")}
    record["files"] += ["../mine.txt", ".", ""]
    (out / "clicksim-manifest.json").write_text(json.dumps(record))
    write("csv", open_catalog(built), out)
    assert (tmp_path / "mine.txt").exists()


def test_write_grand_challenge__an_item_is_the_input_folder_of_a_round(
    exports: Path, built: Path, tmp_path: Path
) -> None:
    folder, catalog = exports / "grand-challenge" / NAME, open_catalog(built)
    case = next(case for case in read_manifest(folder)["cases"] if catalog.case(case["case_id"])["lesion_present"])
    row = catalog.case(case["case_id"])
    pet = read_image(folder / case["files"]["PET"])
    assert np.array_equal(pet.array, read_image(catalog.resolve(row["pet_path"])).array)
    result = predict_folder((folder / case["files"]["clicks"]).parent, tmp_path, ThresholdPredictor())
    mask = read_label(result)
    mask.grid.check_same(pet.grid, ("result", "PET"))
    truth = read_label(catalog.resolve(row["label_path"])).array > 0
    assert (mask.array[truth] > 0).any()


def test_write_grand_challenge__a_refused_case_leaves_nothing(catalog: Catalog, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "deep_psma").to_pylist()]
    rows[0]["pet_path"] = next(row["pet_path"] for row in rows if row["shape_xyz"] != rows[0]["shape_xyz"])
    catalog.write_part("cases", "deep_psma", rows_to_table("cases", rows))
    written = write("grand-challenge", catalog, tmp_path / NAME, sources=["deep_psma"])
    assert list(written.refused) == [rows[0]["case_id"]]
    assert len([path for path in (tmp_path / NAME).iterdir() if path.is_dir()]) == len(rows) - 1
    assert faults_of(tmp_path / NAME) == []


def test_write__says_which_cases_have_no_prompt(catalog: Catalog, tmp_path: Path) -> None:
    rows = catalog.table("cases", "fdat").to_pylist()
    grid = Grid(tuple(rows[0]["shape_xyz"]), tuple(rows[0]["spacing_xyz_mm"]))
    catalog.write_part("prompts", "one", Prompts((Click((1, 2, 3), True),), grid, rows[0]["case_id"]).to_table())
    written = write("csv", catalog, tmp_path / "out", sources=["fdat"], run="one")
    others = ", ".join(sorted(row["case_id"] for row in rows[1:]))
    assert written.notes == [f"run one has no prompt in {len(rows) - 1} cases: {others}"]


def test_prompts_of__keeps_the_strokes_of_two_people_apart(catalog: Catalog) -> None:
    row = catalog.table("cases", "fdat").to_pylist()[0]
    grid = Grid(tuple(row["shape_xyz"]), tuple(row["spacing_xyz_mm"]))
    made = {
        person: Prompts(
            (Click((n, 2, 3), True), Scribble(((n, 5, 5), (n, 5, 6)), True)), grid, row["case_id"], annotator=person
        )
        for n, person in enumerate(("ann", "bob"))
    }
    catalog.write_part("prompts", "people", pa.concat_tables([prompts.to_table() for prompts in made.values()]))
    chosen = select(catalog, sources=["fdat"], run="people")
    found = prompts_of(chosen.cases[0], grid)
    assert sorted(map(repr, found)) == sorted(repr(prompt) for prompts in made.values() for prompt in prompts)


def test_write_monai__says_how_many_labels_are_not_0_and_1_alone(exports: Path, tmp_path: Path) -> None:
    tree = write_longitudinal_ct(tmp_path / "source")
    convert(LONGITUDINAL_CT, tree.folder, tmp_path / "catalog")
    written = write("monai", open_catalog(tmp_path / "catalog"), tmp_path / "out")
    assert [note.split(":")[0] for note in written.notes] == ["7 labels with values above 1"], "one holds 0 and 1 alone"
    content = json.loads((exports / "monai" / NAME / "datalist.json").read_text())
    assert {item["instances"] for item in content["training"]} == {"components"}


def test_write_croissant__the_day_of_publication_is_a_day(built: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="must be like 2026-12-01, got 'yesterday'"):
        write("croissant", open_catalog(built), tmp_path / NAME, settings={"published": "yesterday"})
    assert not (tmp_path / NAME).exists()


def test_write_croissant__fields_are_the_columns_and_the_tables_hold_no_run_facts(exports: Path, built: Path) -> None:
    folder, catalog = exports / "croissant" / NAME, open_catalog(built)
    content = json.loads((folder / "croissant.json").read_text())
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert content["license"] == "https://creativecommons.org/licenses/by-nc/4.0/"
    records = {record["name"]: record["field"] for record in content["recordSet"]}
    assert [field["name"] for field in records["cases"]] == catalog.cases.column_names
    kinds = {field["name"]: field["dataType"] for field in records["cases"]}
    expected = {"n_lesions": "sc:Integer", "suv_max": "sc:Float", "study_date": "sc:Date", "defaced": "sc:Boolean"}
    assert {name: kinds[name] for name in expected} == expected
    assert {path.name for path in folder.iterdir()} == {
        "cases.parquet", "lesions.parquet", "prompts.parquet", "croissant.json", ".lock", "clicksim-manifest.json",
        "LICENCES.md", "CITATION.bib",
    }  # fmt: skip


def test_write_huggingface__splits_are_folders_and_files_lie_beside_their_metadata(exports: Path, built: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(exports / "huggingface" / NAME / "train" / "metadata.parquet").read()
    assert {"ct_file_name", "pet_file_name", "label_file_name", "prompts", "fold"} <= set(table.column_names)
    assert table.num_rows == open_catalog(built).cases.num_rows
    assert sum(len(prompts) for prompts in table["prompts"].to_pylist()) == open_catalog(built).prompts.num_rows
    assert (exports / "huggingface" / NAME / "README.md").read_text().startswith("---\nlicense: cc-by-nc-4.0\n")


# --- choice and licences ---------------------------------------------------------------------------------


def test_select__only_the_licences_of_what_is_inside_travel(built: Path, tmp_path: Path) -> None:
    export = select(open_catalog(built), sources=["deep_psma"])
    text = licence_text(export)
    assert "10.5281/zenodo.15281784" in text
    assert "PSMA-FDG-PET-CT-Lesions" not in text
    write("csv", open_catalog(built), tmp_path / "csv", sources=["deep_psma"])
    assert "@misc{deep_psma" in (tmp_path / "csv" / "CITATION.bib").read_text()
    assert "psma_fdg_pet_ct_lesions" not in (tmp_path / "csv" / "CITATION.bib").read_text()


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["CC-BY-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0"], "CC-BY-NC-ND-4.0"),
        (["CC-BY-NC-4.0", "controlled access"], "controlled access"),
        (["CC0-1.0"], "CC0-1.0"),
    ],
)
def test_strictest__unknown_ones_are_stricter_than_all(licences: list[str], expected: str) -> None:
    assert strictest(licences) == strictest(licences[::-1]) == expected


def test_select__controlled_cases_need_a_word(tmp_path: Path) -> None:
    rows = [
        {"source": "tcia_fdg", "case_id": "open", "patient_key": "a", "licence": "CC-BY-4.0", "defaced": True},
        {"source": "tcia_fdg", "case_id": "closed", "patient_key": "b", "licence": None, "defaced": False},
        {"source": "tcia_fdg", "case_id": "said", "patient_key": "c", "licence": "NIH controlled", "defaced": True},
    ]
    facts = [{"source": "tcia_fdg", "title": "FDG", "licence": "CC-BY-4.0", "controlled_access": True}]
    catalog = tiny(tmp_path / "c", rows, facts)
    with pytest.raises(CatalogError, match=r"2 cases under controlled access.*closed, said.*--include-controlled"):
        select(catalog)
    export = select(catalog, include_controlled=True)
    assert export.about["licence"] == "NIH controlled"
    assert "Under controlled access" in licence_text(export)


def test_select__a_licence_that_nobody_gave_is_called_unknown(tmp_path: Path) -> None:
    catalog = tiny(tmp_path / "c", [{"source": "mine", "case_id": "a", "patient_key": "a"}], [])
    assert select(catalog).about["licence"].startswith("unknown")


def test_select__names_that_do_not_exist_are_refused(built: Path) -> None:
    catalog = open_catalog(built)
    for wrong in ({"sources": ["fdta"]}, {"run": "nope"}, {"plan": "tree"}):
        with pytest.raises(SettingError):
            select(catalog, **wrong)  # type: ignore[arg-type]


def test_select__a_plan_that_lacks_a_case_is_refused(catalog: Catalog) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.table("cases", "fdat").to_pylist()]
    catalog.write_part("cases", "fdat", rows_to_table("cases", [*rows, {**rows[0], "case_id": "new"}]))
    with pytest.raises(CatalogError, match="lacks 1 case: new"):
        select(catalog, plan="three")


def test_select__without_a_plan_folds_are_of_whole_patients(built: Path) -> None:
    chosen = select(open_catalog(built))
    assert chosen.about["folds"]["scheme"] == "stratified"
    patients = [{c.row["patient_key"] for c in chosen.cases if c.fold == f.fold} for f in chosen.splits()]
    assert len(set().union(*patients)) == sum(map(len, patients))


def test_file_names__are_safe_and_never_shared() -> None:
    rows = [
        {"source": "a", "case_id": "train_0001/PSMA"},
        {"source": "a", "case_id": "x"},
        {"source": "b", "case_id": "X"},
        {"source": "b", "case_id": 'what?"'},
        *({"source": "b", "case_id": name} for name in ("", ".", "..")),
        {"source": "b", "case_id": "fdg_01  two spaces. dots"},
    ]
    names = file_names(rows)
    assert names["a", "train_0001/PSMA"] == "train_0001_PSMA"
    assert names["b", "fdg_01  two spaces. dots"] == "fdg_01  two spaces. dots"
    assert len({name.casefold() for name in names.values()}) == len(rows)
    assert not set("".join(names.values())) & set('/\\:*?"<>|')
    assert all(name.strip(".") for name in names.values()), "a folder of its own, not the one that holds it"

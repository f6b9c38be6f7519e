"""The phantom source trees: each converts without a rejection, and what is spoiled gets the reason that was meant."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from clicksim.catalog import find_source, open_catalog
from clicksim.errors import SettingError
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_longitudinal_ct
from clicksim.pipeline import convert
from clicksim.volumes import read_image, read_label
from tests.conftest import WRITERS

EXPECTED_FLAGS = {
    "fdat": {"AXES_NOT_LAS": 1, "LABEL_FLOAT": 1, "QFORM_ONLY": 1},
    "deep-psma": {"CT_CLIPPED": 4, "CT_RESAMPLED": 4, "CT_COVERAGE_LOW": 2, "QFORM_ONLY": 1, "LABEL_REWRITTEN": 1},
    "longitudinal-ct": {"LESION_IMAGE_UNKNOWN": 2, "PUBLISHED_POINTS_MIXED": 3},
}


def converted(name, folder, catalog, **settings):
    tree = WRITERS[name](folder, **settings)
    convert(find_source(name), tree.folder, catalog)
    return tree, open_catalog(catalog)


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("seed", [0, 7, 8])
@pytest.mark.parametrize("name", WRITERS)
def test_layouts__convert_without_a_rejection(name, seed, tmp_path):
    tree, catalog = converted(name, tmp_path / "source", tmp_path / "catalog", seed=seed)
    assert catalog.rejected.to_pylist() == []
    assert sorted(tree.cases) == catalog.cases["case_id"].to_pylist()
    flags = Counter(flag for case in catalog.cases.to_pylist() for flag in case["quality_flags"])
    assert flags == EXPECTED_FLAGS[name]


@pytest.mark.parametrize("name", WRITERS)
def test_layouts__spoiled_files_get_the_reason_that_was_meant(name, tmp_path):
    tree, catalog = converted(name, tmp_path / "source", tmp_path / "catalog", spoil=True)
    rejected = catalog.rejected.to_pylist()
    assert len(tree.spoiled) >= 8
    assert Counter(row["code"] for row in rejected) == Counter(tree.spoiled.values())
    assert sorted(tree.cases) == catalog.cases["case_id"].to_pylist()
    assert not any(str(tmp_path) in row["message"] for row in rejected)


@pytest.mark.parametrize("name", WRITERS)
def test_layouts__give_the_same_bytes_again_and_others_for_another_seed(name, tmp_path):
    settings = {"patients": 1, "shape": (40, 34, 48)}
    first, again, other = (
        files_of(WRITERS[name](tmp_path / str(n), seed=seed, **settings).folder) for n, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other


def test_write_fdat__has_the_irregularities_of_the_release(tmp_path):
    tree = write_fdat(tmp_path)
    fdg = [case for case in tree.cases if case.startswith("fdg_")]
    assert any("  " in case for case in fdg)
    assert any("u. mit" in case for case in fdg)
    assert len({case[:14] for case in fdg}) < len(fdg), "a patient with two studies"
    for table in ("fdg_metadata.csv", "psma_metadata.csv"):
        assert (tmp_path / table).read_bytes().startswith(b"\xef\xbb\xbf")
    lines = (tmp_path / "fdg_metadata.csv").read_text("utf-8-sig").splitlines()
    assert len(lines) == 1 + 3 * len(fdg)
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(tree.cases)
    assert json.loads((tmp_path / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "CT"}


def test_write_deep_psma__lesions_lie_at_or_above_the_threshold(tmp_path):
    write_deep_psma(tmp_path, patients=2)
    shapes = {}
    for scan in sorted((tmp_path / "CHALLENGE_DATA").glob("train_*/*")):
        threshold = json.loads((scan / "threshold.json").read_text())["suv_threshold"]
        pet, burden = read_image(scan / "PET.nii.gz"), read_image(scan / "TTB.nii.gz")
        assert burden.array.dtype == np.int8
        assert burden.array.any()
        assert pet.array[burden.array > 0].min() >= np.float32(threshold)
        shapes[scan.name] = pet.array.shape
    assert shapes["FDG"] != shapes["PSMA"]


def test_write_deep_psma__more_lesions_than_int8_counts_stay_lesions(tmp_path):
    write_deep_psma(tmp_path, shape=(60, 50, 76), spacing=(7.0, 7.0, 8.0), lesions=(150, 150))
    for scan in sorted((tmp_path / "CHALLENGE_DATA").glob("train_*/PSMA")):
        burden = read_image(scan / "TTB.nii.gz").array
        assert burden.min() == 0
        assert burden.max() == (127 if scan.parent.name == "train_0002" else 1)
        assert ndimage.label(burden, np.ones((3, 3, 3)))[1] > 127


def test_write_longitudinal_ct__refuses_an_unknown_release(tmp_path):
    with pytest.raises(SettingError, match="unknown release 'v9'"):
        write_longitudinal_ct(tmp_path / "tree", release="v9")
    assert not (tmp_path / "tree").exists()


def test_write_longitudinal_ct__has_every_event(tmp_path):
    _, catalog = converted("longitudinal-ct", tmp_path / "source", tmp_path / "catalog")
    assert Counter(row["relation"] for row in catalog.links.to_pylist()) == {
        "same": 3, "merged": 4, "disappeared": 4, "appeared": 3,
    }  # fmt: skip
    cases = catalog.cases.to_pylist()
    assert {case["body_region_id"] for case in cases} == {0, 2}
    assert sum(not case["lesion_present"] for case in cases) == 1
    for lesion in catalog.lesions.to_pylist():
        if lesion["cog_csv_ijk"] and lesion["centroid_ijk"]:
            assert np.allclose(lesion["cog_csv_ijk"], lesion["centroid_ijk"], atol=6e-4)


@pytest.mark.parametrize(("release", "columns", "split"), [("v1", 7, False), ("v2", 15, True), ("v3", 15, True)])
def test_write_longitudinal_ct__follows_the_release(release, columns, split, tmp_path):
    tree, catalog = converted("longitudinal-ct", tmp_path / "s", tmp_path / "c", release=release, patients=1)
    assert (tmp_path / "s" / "data_split.json").exists() == split
    table = next((tmp_path / "s" / "inputsTr").glob("*.csv"))
    assert len(table.read_text("utf-8-sig").splitlines()[0].split(",")) == columns
    masks = [file.name for file in (tmp_path / "s").rglob("*_mask_*")]
    assert all(("_mask_BL_img_" in name or "_mask_FU_img_" in name) == (release == "v1") for name in masks)
    assert catalog.rejected.num_rows == 0
    relations = {row["relation"] for row in catalog.links.to_pylist()}
    assert relations == {"same", "merged", "disappeared", "appeared"}, "derived where the table does not say"
    assert all(row["source_release"].startswith(release) for row in catalog.cases.to_pylist())
    assert len(tree.cases) == catalog.cases.num_rows
    ids = np.unique(read_label(catalog.resolve(catalog.cases["label_path"][0].as_py())).array)
    assert ids.tolist() == [0, 1, 2, 3, 4]

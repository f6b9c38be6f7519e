"""The discrepancy report: a study converted from DICOM against NIfTI made of it by other rules."""

import json
from typing import Any

import numpy as np
import pytest

from clicksim.audit.discrepancy import (
    ComparedPart,
    compare_catalogs,
    compare_ct,
    compare_masks,
    compare_suv,
    explain_factor,
    lay_over,
)
from clicksim.catalog import Catalog, open_catalog
from clicksim.errors import CatalogError
from clicksim.geometry import Grid
from clicksim.phantom import make_phantom
from clicksim.phantom.dicom import StudyFacts, write_study
from clicksim.pipeline import convert
from clicksim.volumes import write_image
from converters.fdat.fdat_source import SOURCE as FDAT
from converters.tcia.tcia_source import FDG
from tests.commands import done

LIFE, UPTAKE = 6586.2, 3623.0
ROW: dict[str, Any] = {
    "half_life_s": LIFE,
    "uptake_time_s": UPTAKE,
    "suv_factor": 3.0447709e-4,
    "pet_bed_starts_s": [0.0, 120.0, 240.0],
    "pet_first_file_s": 240.0,
}
THEIRS: dict[str, Any] = {"uptake_time_s": None}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Catalog]:
    """One study as DICOM, and as NIfTI by a script that took the first file's AcquisitionTime, stored LAS."""
    root = tmp_path_factory.mktemp("both")
    made = make_phantom(3, shape=(32, 28, 60), spacing=(14.0, 14.0, 15.0), n_lesions=2)
    written = write_study(root / "dicom", made, StudyFacts("PETCT_0123456789"))
    name = f"fdg_0123456789_03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-{written.study_uid[-5:]}"
    for folder in ("imagesTr", "labelsTr"):
        (root / "fdat" / folder).mkdir(parents=True)
    factor = np.float32(2 ** (240 / LIFE))
    label = made.label.copy(order="F")
    label[tuple(np.argwhere(label)[0])] = 0
    write_image(root / "fdat" / "imagesTr" / f"{name}_0000.nii.gz", made.ct, made.grid)
    write_image(root / "fdat" / "imagesTr" / f"{name}_0001.nii.gz", made.pet * factor, made.grid)
    write_image(root / "fdat" / "labelsTr" / f"{name}.nii.gz", label, made.grid)
    convert(FDG, root / "dicom", root / "a")
    convert(FDAT, root / "fdat", root / "b")
    convert(FDG, root / "dicom", root / "one")
    convert(FDAT, root / "fdat", root / "one")
    return open_catalog(root / "a"), open_catalog(root / "b")


def test_compare_catalogs__names_the_rule_behind_the_factor(both: tuple[Catalog, Catalog]) -> None:
    (found,) = compare_catalogs(*both)
    parts = {part.name: part for part in found.parts}
    assert found.study_key == "PETCT_0123456789_2003-03-23"
    assert parts["grid"].equal
    assert "another order of the axes" in parts["grid"].rule
    assert parts["suv"].rule.startswith("decayed to the acquisition of bed 3 of 3, that of the first file by name")
    assert parts["suv"].figures["factor"] == pytest.approx(2 ** (240 / LIFE), rel=1e-4)
    assert parts["mask"].figures["only_ours"] == 1
    assert parts["mask"].rule == "one mask contains the other"
    assert parts["ct"].equal


def test_compare_catalogs__joins_two_sources_of_one_catalog(both: tuple[Catalog, Catalog]) -> None:
    one = open_catalog(both[0].path.parent / "one")
    (found,) = compare_catalogs(one)
    assert found.ours.startswith("PETCT_")
    assert found.theirs.startswith("fdg_")
    assert found.parts == next(compare_catalogs(*both)).parts
    with pytest.raises(CatalogError, match="exists twice"):
        next(compare_catalogs(both[0]))
    with pytest.raises(CatalogError, match="PETCT_x"):
        next(compare_catalogs(one, study="PETCT_x"))


def test_compare__command_prints_the_same(both: tuple[Catalog, Catalog]) -> None:
    paths = [str(catalog.path) for catalog in both]
    assert "decayed to the acquisition of bed 3 of 3" in done("catalog", "compare", *paths)
    lines = done("catalog", "compare", *paths, "--json").splitlines()
    assert [part["name"] for part in json.loads(lines[0])["parts"]] == ["grid", "suv", "mask", "ct"]


@pytest.mark.parametrize(
    ("factor", "rule"),
    [
        (2 ** (120 / LIFE), "decayed to the acquisition of bed 2 of 3 (120 s"),
        (2 ** (240 / LIFE), "that of the first file by name (240 s"),
        (2 ** (-UPTAKE / LIFE), "the dose was not decayed"),
        (1000.0, "weight in grams"),
        (1 / 3.0447709e-4, "stored values, not SUV"),
        (2 ** ((UPTAKE + 120) / 6588 - UPTAKE / LIFE), "bed 2 of 3"),
        (1.5, "unexplained factor 1.5; nearest is"),
        (0.0, "unexplained factor 0"),
    ],
)
def test_explain_factor__finds_each_rule_and_no_other(factor: float, rule: str) -> None:
    explained = explain_factor(factor, ROW, THEIRS)
    assert rule in explained
    assert explained.startswith("unexplained") == rule.startswith("unexplained")


def test_explain_factor__knows_half_life_and_their_injection_time() -> None:
    long = {**ROW, "uptake_time_s": 11000.0}
    assert explain_factor(2 ** (11000 / 6588 - 11000 / LIFE), long, THEIRS).startswith("half-life 6588 s for 6586.2")
    theirs = {"uptake_time_s": UPTAKE + 500}
    assert "their injection is 4123 s" in explain_factor(2 ** (500 / LIFE), ROW, theirs)


def test_compare_suv__tells_equal_factor_per_slice_and_noise_apart() -> None:
    rng = np.random.default_rng(0)
    ours = np.asfortranarray(rng.random((20, 20, 12), dtype=np.float32) * 5)
    assert compare_suv(ours, ours.copy(), ROW, THEIRS).equal
    assert not compare_suv(ours, ours * np.float32(1.001), ROW, THEIRS).equal
    for spoil in (0.0, 4.0):  # a face that was removed, a spot that was added: too few voxels to move the factor
        changed = np.round(ours / 0.001).astype(np.float32) * np.float32(0.001)
        changed[:2, :2, :2] = spoil
        part = compare_suv(ours, changed, ROW, THEIRS)
        assert (part.equal, part.rule.split(",")[0]) == (False, "equal except for 8 voxels")
    starts = np.repeat([0.0, 120.0, 240.0], 4)
    beds = (ours * 2 ** (starts / LIFE)).astype(np.float32)
    assert compare_suv(ours, beds, ROW, THEIRS).rule == "each slice was decayed to its own acquisition"
    slices = (ours * np.linspace(1, 1.3, 12)).astype(np.float32)
    assert compare_suv(ours, slices, ROW, THEIRS).rule.startswith("a factor per slice, 1 to 1.3")
    noisy = ours * (1 + rng.random(ours.shape, dtype=np.float32))
    assert "voxel to voxel" in compare_suv(ours, noisy, ROW, THEIRS).rule
    assert compare_suv(ours * 0, ours * 0, ROW, THEIRS).equal


def test_compare_masks__knows_mirrors_and_shifts() -> None:
    ours = np.zeros((9, 8, 7), np.uint8)
    ours[1:4, 2:6, 1] = ours[2, 2, 3] = 1
    other = ours.copy()
    other[8, 7, 6] = 1
    cases = {
        "equal": ours.astype(np.int16) * 3,
        "mirrored along j": np.flip(ours, 1),
        "shifted by one voxel along k": np.roll(ours, 1, axis=2),
        "one mask contains the other": other,
        "one mask is empty": ours * 0,
        "the masks differ": np.roll(other, 2, axis=0),
    }
    assert {rule: compare_masks(ours, theirs).rule for rule, theirs in cases.items()} == {r: r for r in cases}
    assert compare_masks(ours, ours).equal
    assert compare_masks(ours * 0, ours * 0) == ComparedPart(
        "mask", True, "equal", {"dice": 1.0, "only_ours": 0.0, "only_theirs": 0.0}
    )


def test_compare_ct__recognises_a_cubic_spline_a_fill_and_an_offset() -> None:
    from scipy.ndimage import zoom

    rng = np.random.default_rng(1)
    native = np.full((40, 40, 40), -1024.0)
    native[8:30, 8:30, 8:34] = 60 + rng.normal(0, 40, (22, 22, 26))
    native[12:16, 12:16, 10:30] = 1200
    ours = np.rint(zoom(native, 0.6, order=1)).astype(np.int16)
    cubic = zoom(native, 0.6, order=3).astype(np.float32)
    found = compare_ct(ours, cubic)
    assert "a sharper interpolation than linear, like a cubic spline, with" in found.rule
    assert found.figures["their_lowest_hu"] < -1025
    assert "smoother" in compare_ct(cubic, ours).rule
    assert compare_ct(ours, ours + 0.4).equal
    assert compare_ct(ours, ours + 1024).rule == "an offset of 1024 HU"
    filled = ours.copy()
    filled[..., -4:] = -1024
    assert compare_ct(filled, np.where(filled == -1024, 0, filled)).rule.startswith("where the CT does not reach, 0 HU")
    assert compare_ct(ours, rng.permutation(ours.ravel()).reshape(ours.shape)).rule == "unexplained"


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_lay_over__undoes_any_storage_order(axes: tuple[int, int, int]) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (5, -6, 7)
    grid = Grid(array.shape, affine=affine)
    other = grid.permute(axes).flip(1)
    turned, part = lay_over(grid, other, np.flip(array.transpose(axes), 1))
    np.testing.assert_array_equal(turned, array)
    assert part.equal


def test_lay_over__refuses_other_lattices() -> None:
    array, grid = np.zeros((4, 4, 4)), Grid((4, 4, 4), affine=np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.3
    assert lay_over(grid, Grid((4, 4, 4), affine=moved), array)[1] == ComparedPart(
        "grid", False, "one lattice, stored in the same order", {"apart_mm": 0.3}
    )
    moved[0, 3] = 2
    assert lay_over(grid, Grid((4, 4, 4), affine=moved), array)[0] is None
    assert lay_over(grid, Grid((4, 4, 4), affine=np.diag([1.1, 1, 1, 1])), array)[0] is None
    assert lay_over(grid, Grid((4, 4, 5), affine=np.eye(4)), np.zeros((4, 4, 5)))[0] is None
    assert lay_over(grid, Grid((4, 4, 4)), array)[0] is None

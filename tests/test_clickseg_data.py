"""From a catalog to batches: store, patches, augmentation, and the prompts of a sample."""

import weakref
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")

from clickseg.cli import main  # noqa: E402
from clickseg.data.augment import change_ct, change_pet, draw_affine, flip, warp  # noqa: E402
from clickseg.data.dataset import FATES, Batches, PatchDataset, collate, fetch_ahead  # noqa: E402
from clickseg.data.model_grid import GridTransform  # noqa: E402
from clickseg.data.patch_store import AIR_HU, Places, Store, StoreCase, open_store  # noqa: E402
from clickseg.data.prepare import find_places, prepare_store  # noqa: E402
from clickseg.data.prompt_channels import channel_rows  # noqa: E402
from clickseg.data.training_prompts import U_SHAPE, corrections_at, count_law, draw_plan, next_prompts  # noqa: E402
from clickseg.training_settings import STROKES, ModelSettings, StoreRules, TrainSettings, describe_groups  # noqa: E402
from clicksim.catalog.folds import make_folds, read_folds, write_folds  # noqa: E402
from clicksim.catalog.schema import rows_to_table  # noqa: E402
from clicksim.errors import CatalogError, ClicksimError, GeometryError, SettingError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.lesions import find_lesions  # noqa: E402
from clicksim.pipeline.workers import Crew  # noqa: E402
from clicksim.prompts import Click, Prompts, Scribble  # noqa: E402
from clicksim.streams import stream  # noqa: E402
from clicksim.volumes import write_image  # noqa: E402
from tests.clickseg_phantoms import SHAPE, SPACING, make_toy, write_case, write_catalog, write_toys  # noqa: E402

pytestmark = pytest.mark.torch
RULES = StoreRules(spacing_mm=SPACING)
PATCH = (20, 16, 24)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("clickseg") / "catalog", 3, ct_only=1)


@pytest.fixture(scope="module")
def store(catalog):
    prepare_store(catalog.path, catalog.path.parent / "store", RULES)
    return open_store(catalog.path.parent / "store")


# --- frame ---------------------------------------------------------------------------------------


def affine_of(axes, flips, spacing):
    """An affine whose stored axis n runs along world axis `axes[n]`, forward or back."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, world in enumerate(axes):
        affine[world, stored] = (-1 if flips[stored] else 1) * spacing[stored]
    return affine


@given(axes=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3), data=st.data())
def test_frame__turns_any_orientation_to_ras_and_back(axes, flips, data):
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    grid = Grid(shape, None, affine_of(axes, flips, (2.0, 2.5, 3.0)))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    frame = GridTransform.of(grid, ())
    assert np.all(np.diag(frame.target.affine[:3, :3]) > 0)
    assert np.count_nonzero(frame.target.affine[:3, :3]) == 3
    turned = frame.image(array)
    voxel = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    (moved,) = frame.prompts(Prompts((Click(voxel, True),), grid)).foreground.tolist()
    assert turned[tuple(moved)] == array[voxel]
    np.testing.assert_allclose(frame.target.to_mm([moved]), grid.to_mm([voxel]))
    np.testing.assert_array_equal(frame.back(turned), array)
    np.testing.assert_array_equal(frame.label(array.astype(np.uint8)), turned)


def test_frame__resamples_linearly_with_the_outer_faces_in_place():
    from scipy.ndimage import zoom

    grid = Grid.from_spacing((10, 8, 6), (2.0, 2.0, 3.0))
    array = np.random.default_rng(0).standard_normal((10, 8, 6)).astype(np.float32)
    frame = GridTransform.of(grid, (4.0, 1.0, 2.0))
    assert frame.target.shape == (5, 16, 9)
    expected = zoom(array, (0.5, 2, 1.5), order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(frame.image(array), expected, atol=1e-5)
    box = np.zeros((10, 8, 6), np.uint8)
    box[2:6, 2:6, 2:4] = 3
    assert set(np.unique(frame.label(box))) == {0, 3}
    assert frame.label(box).dtype == np.uint8


@given(voxel=st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 5)))
def test_frame__puts_a_prompt_into_the_voxel_that_holds_it(voxel):
    grid = Grid.from_spacing((10, 8, 6), (2.0, 2.0, 3.0))
    frame = GridTransform.of(grid, (4.0, 1.0, 2.0))
    moved = frame.prompts(Prompts((Click(voxel, True),), grid)).foreground[0]
    gap = np.abs(frame.target.to_mm([moved]) - grid.to_mm([voxel]))[0]
    assert np.all(gap <= np.array(frame.target.spacing) / 2 + 1e-9)


def test_frame__refuses_a_grid_without_affine():
    with pytest.raises(GeometryError, match="no affine"):
        GridTransform.of(Grid((3, 3, 3), (1, 1, 1)), ())


# --- store ---------------------------------------------------------------------------------------


def test_prepare_store__keeps_values_places_and_licences(catalog, store):
    assert len(store.cases) == 3
    assert store.catalog_digest == catalog.digest()
    assert {row["licence"] for row in store.licences(store.cases)} == {"CC BY 4.0", "CC BY-NC 4.0"}
    for case in store.cases:
        label, ct = case.array("label"), case.array("ct")
        assert label.shape == ct.shape == SHAPE
        assert ct.dtype == np.int16
        assert case.has_pet == (case.row["source"] == "fdat")
        places = case.places
        assert len(np.unique(places.lesion[:, 0])) == case.row["n_lesions"] > 0
        assert np.all(label[tuple(places.lesion[:, 1:].T)] > 0)
        share = RULES.spots // case.row["n_lesions"]
        for lesion in find_lesions(label):
            mine = places.lesion[places.lesion[:, 0] == lesion.id, 1:]
            assert len(mine) == 1 + min(share - 1, len(lesion.voxels))
            assert tuple(mine[0]) == lesion.deepest(SPACING, closed=True)[0]
        assert not np.any(label[tuple(places.body.T)])
        assert np.all(ct[tuple(places.body.T)] > RULES.body_hu)
        assert bool(len(places.hot)) == case.has_pet
        if case.has_pet:
            pet = case.array("pet")
            assert not np.any(label[tuple(places.hot.T)])
            assert pet[tuple(places.hot.T)].min() > np.percentile(pet[label == 0], RULES.hot_percentile)


def test_find_places__spreads_over_hot_components_the_largest_first():
    pet, ct = np.ones((20, 20, 20), np.float32), np.full((20, 20, 20), 40, np.int16)
    pet[2:4, 2:4, 2:4] = pet[10:15, 10:15, 10:15] = 9
    for spots, sides in ((1, [10]), (3, [10, 2, 10])):
        rules = RULES.but(spots=spots, hot_percentile=98.0)
        places, lesions = find_places(np.zeros(ct.shape, np.uint8), ct, pet, SPACING, rules, "a", None)
        assert [10 if voxel[0] >= 10 else 2 for voxel in places.hot] == sides
        assert (len(places.lesion), len(places.body), lesions) == (0, spots, 0)
        assert np.all(pet[tuple(places.hot.T)] == 9)


def test_prepare_store__finds_what_did_not_change(catalog, tmp_path):
    first = prepare_store(catalog.path, tmp_path / "store", RULES, sources=["fdat"])
    again = prepare_store(catalog.path, tmp_path / "store", RULES, sources=["fdat"])
    assert (first.made, again.made) == (2, 0)
    before = {path.name for path in (tmp_path / "store/arrays").iterdir()}
    with pytest.raises(CatalogError, match=r"prepare .*rules.pet_type is \"float32\" there and .*--overwrite"):
        prepare_store(catalog.path, tmp_path / "store", RULES.but(pet_type="float16"), sources=["fdat"])
    other = prepare_store(
        catalog.path, tmp_path / "store", RULES.but(pet_type="float16"), sources=["fdat"], overwrite=True
    )
    assert other.made == 2
    assert open_store(tmp_path / "store").cases[0].array("pet").dtype == np.float16
    after = {path.name for path in (tmp_path / "store/arrays").iterdir()}
    assert len(after) == 2, "arrays that no case has any more are gone"
    assert not before & after


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [(StoreRules, "spacing_mm", 4), (StoreRules, "spacing_mm", (4, 4)), (ModelSettings, "patch", 32),
     (ModelSettings, "ct_window", (1, 2, 3)), (TrainSettings, "odds", ())],
)  # fmt: skip
def test_settings__of_several_numbers_name_their_form(group, name, value):
    form = ",".join(f"{entry:g}" for entry in getattr(group(), name))
    with pytest.raises(SettingError, match=f"{name} takes {form.count(',') + 1} numbers, such as {name}={form}; got"):
        group.of({name: value})
    assert StoreRules(spacing_mm=()).spacing_mm == ()


def test_prepare__refuses_one_size_before_the_work_and_once(catalog, tmp_path):
    done = CliRunner().invoke(main, ["prepare", str(catalog.path), str(tmp_path / "store"), "--set", "spacing_mm=4"])
    assert done.exit_code == 1
    assert done.stderr == "clickseg: spacing_mm takes 3 numbers, such as spacing_mm=2,2,3; got 1: [4]\n"
    assert not (tmp_path / "store").exists()


def test_config__that_is_missing_is_said_in_one_line(tmp_path):
    done = CliRunner().invoke(main, ["train", "store", "run", "--config", str(tmp_path / "none.toml")])
    assert done.exit_code == 1
    expected = f"clickseg: cannot read the settings: No such file or directory ({tmp_path / 'none.toml'})\n"
    assert done.stderr == expected


def test_prepare_store__compressed_gives_the_same_patches(catalog, store, tmp_path):
    prepare_store(catalog.path, tmp_path / "store", RULES.but(compressed=True), sources=["fdat"])
    for name in ("ct", "pet", "label"):
        packed = open_store(tmp_path / "store").cases[0].patch(name, (3, 4, 5), PATCH)
        np.testing.assert_array_equal(packed, store.cases[0].patch(name, (3, 4, 5), PATCH))


def test_prepare_store__goes_on_after_an_interruption(catalog, tmp_path):
    def stop(done, total, refused=0):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_store(catalog.path, tmp_path / "store", RULES, crew=Crew(progress=stop))
    with pytest.raises(CatalogError, match="no patch store"):
        open_store(tmp_path / "store")
    with pytest.raises(CatalogError, match="--resume"):
        prepare_store(catalog.path, tmp_path / "store", RULES)
    assert prepare_store(catalog.path, tmp_path / "store", RULES, resume=True).cases == 3


def test_prepare_store__rejects_a_case_and_goes_on(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 3)
    file = catalog.path / "images" / "fdat" / "fdg_toy01" / "pet.nii.gz"
    write_image(file, np.zeros((4, 4, 4), np.float32), Grid.from_spacing((4, 4, 4), (1, 1, 1)))
    (catalog.path / "images" / "fdat" / "fdg_toy02" / "label.nii.gz").unlink()
    summary = prepare_store(catalog.path, tmp_path / "store", RULES)
    assert (summary.cases, summary.rejected) == (1, 2)
    rows = pq.read_table(tmp_path / "store" / "rejected.parquet").to_pylist()
    assert {row["case_id"]: row["code"] for row in rows} == {"fdg_toy01": "GridMismatch", "fdg_toy02": "UnreadableFile"}
    assert any("different grids" in row["message"] for row in rows)


def test_prepare_store__works_in_other_processes(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 2)
    prepare_store(catalog.path, tmp_path / "one", RULES, crew=Crew(workers=2))
    prepare_store(catalog.path, tmp_path / "two", RULES)
    for name in ("cases.parquet", "store.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_prepare_store__refuses_a_source_that_is_not_there_and_a_folder_that_cannot_be(catalog, tmp_path):
    with pytest.raises(CatalogError, match="has no case of fdta"):
        prepare_store(catalog.path, tmp_path / "store", RULES, sources=["fdat", "fdta"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ClicksimError, match=r"cannot make the folder .*file: File exists"):
        prepare_store(catalog.path, tmp_path / "file", RULES)


def test_prepare_store__rejects_images_that_are_not_finite_or_no_pet(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 4)
    ct, pet, _ = make_toy(0)
    hollow, glowing = ct.astype(np.float32), pet.copy()
    hollow[3, 3, 3], glowing[3, 3, 3] = np.nan, np.inf
    for number, name, array in ((0, "ct", hollow), (1, "pet", glowing), (2, "pet", ct - 900)):
        file = catalog.path / "images" / "fdat" / f"fdg_toy{number:02d}" / f"{name}.nii.gz"
        write_image(file, array, Grid.from_spacing(ct.shape, SPACING))
    assert prepare_store(catalog.path, tmp_path / "store", RULES).rejected == 3
    rows = pq.read_table(tmp_path / "store" / "rejected.parquet").to_pylist()
    found = {row["case_id"]: row["message"] for row in rows}
    assert found["fdg_toy00"] == "the CT has values that are NaN or infinite"
    assert found["fdg_toy01"] == "the PET has values that are NaN or infinite"
    assert "is this a CT?" in found["fdg_toy02"]


def test_prepare__says_each_time_and_keeps_in_the_store_that_a_pet_may_be_a_ct(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 12)
    for number in range(11):
        ct, pet, _ = make_toy(number)
        pet[0, 0, 0] = -500  # as resampling may leave it in a PET in Bq/ml
        file = catalog.path / "images" / "fdat" / f"fdg_toy{number:02d}" / "pet.nii.gz"
        write_image(file, pet, Grid.from_spacing(ct.shape, SPACING))
    for _ in range(2):  # made, then found again
        done = CliRunner().invoke(main, ["prepare", str(catalog.path), str(tmp_path / "store")])
        assert done.exit_code == 0, done.output
        said = [line for line in done.stderr.splitlines() if "column note" in line or "is this a CT?" in line]
        assert [line[:24] for line in said[:-1]] == [f"clickseg: case fdg_toy{n:02d}" for n in range(10)]
        assert said[-1].startswith("clickseg: and 1 more: see the column note of")
    rows = {case.case_id: case.row["note"] for case in open_store(tmp_path / "store").cases}
    assert rows.pop("fdg_toy11") is None
    assert all("has values down to -500: is this a CT? It was taken for a PET" in note for note in rows.values())


def test_prepare_store__takes_the_folds_of_a_plan_and_no_others(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 6)
    for name, seed in (("mine", 1), ("other", 2)):
        write_folds(catalog, name, make_folds(catalog, n_folds=3, seed=seed, official="ignore"))
    with pytest.raises(SettingError, match="several fold plans; name one of them: mine, other"):
        prepare_store(catalog.path, tmp_path / "store", RULES)
    found = {}
    for name in ("mine", "other"):
        prepare_store(catalog.path, tmp_path / name, RULES, folds=name)
        store = open_store(tmp_path / name)
        found[name] = {case.case_id: case.row["fold"] for case in store.cases}
        plan = read_folds(catalog, name)
        assert found[name] == {case_id: fold for (_, case_id), fold in plan.fold_of.items()}
        assert store.folds["plan"] == name
        for split in plan.splits():
            kept, held = store.split(split.fold)
            assert {case.case_id for case in kept} == {case_id for _, case_id in split.train}
            assert {case.case_id for case in held} == {case_id for _, case_id in split.validation}
    assert found["mine"] != found["other"]
    with pytest.raises(CatalogError, match=r"prepare .*folds.digest is"):
        prepare_store(catalog.path, tmp_path / "mine", RULES, folds="other")


def test_prepare_store__takes_the_folds_of_the_publisher_or_draws_the_default_plan(tmp_path):
    catalog = write_toys(tmp_path / "catalog", 3)
    prepare_store(catalog.path, tmp_path / "store", RULES)
    store = open_store(tmp_path / "store")
    assert [case.row["fold"] for case in store.cases] == [0, 1, 2], "the publisher's"
    assert store.folds["plan"] == ""
    rows = [
        {**row, "official_fold": None} for row in catalog.table("cases", "fdat").drop_columns(["source"]).to_pylist()
    ]
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    prepare_store(catalog.path, tmp_path / "drawn", RULES)
    drawn = make_folds(catalog, n_folds=3).fold_of
    found = {(case.row["source"], case.case_id): case.row["fold"] for case in open_store(tmp_path / "drawn").cases}
    assert found == drawn


def test_split__leaves_out_test_cases_and_the_other_studies_of_a_held_out_patient():
    rows = [
        {"case_id": name, "patient_key": patient, "fold": fold}
        for name, patient, fold in [("a1", "a", 0), ("a2", "a", 1), ("b", "b", 1), ("c", "c", None)]
    ]
    store = Store(Path("store"), {}, tuple(StoreCase(row, Path(row["case_id"])) for row in rows))
    kept, held = store.split(0)
    assert [case.case_id for case in held] == ["a1"]
    assert [case.case_id for case in kept] == ["b"]


def test_split__holds_out_a_fold_and_refuses_to_hold_out_all(store):
    kept, held = store.split(0)
    assert [case.row["fold"] for case in held] == [0]
    assert len(kept) + len(held) == len(store.cases)
    assert store.split(-1) == (store.cases, ())


def test_patch__outside_the_volume_is_air(store):
    case = store.cases[0]
    patch = case.patch("ct", (-2, 0, SHAPE[2] - 1), (4, 5, 3))
    assert np.all(patch[:2] == AIR_HU)
    assert np.all(patch[:, :, 1:] == AIR_HU)
    np.testing.assert_array_equal(patch[2:, :, 0], case.array("ct")[:2, :5, -1])
    assert not case.patch("label", (-50, 0, 0), (4, 4, 4)).any()


# --- prompts of a sample -------------------------------------------------------------------------


def test_count_law__has_the_published_odds():
    np.testing.assert_allclose(count_law("u-shape", 10), U_SHAPE)
    log = count_law("log", 10)
    np.testing.assert_allclose(log[[0, 10]], [0.1243, 0.0347], atol=1e-4)
    np.testing.assert_allclose(log @ np.arange(11), 4.08, atol=0.01)
    assert count_law("uniform", 0).tolist() == [1.0]
    with pytest.raises(SettingError, match="unknown law"):
        count_law("unifrom", 3)


@pytest.mark.parametrize("law", ["uniform", "log", "u-shape"])
def test_draw_plan__always_leaves_samples_without_prompts(law):
    settings = TrainSettings(law=law, silent=0.2, steps=10, corrections=4, corrections_from=0.0)
    plans = [draw_plan(stream(0, "plan", n), 9, "x", settings) for n in range(3000)]
    silent = np.mean([plan.count == 0 and plan.corrections == 0 for plan in plans])
    assert 0.17 < silent < 0.30
    strokes = [sum(plan.stroke == stroke for plan in plans) / 3000 for stroke in ("", *STROKES)]
    np.testing.assert_allclose(strokes, [0.5, *[1 / 6] * 3], atol=0.03)
    with pytest.raises(SettingError, match="silent"):
        TrainSettings(silent=0.0)


def test_corrections_at__climbs_from_none_to_all():
    settings = TrainSettings(steps=100, corrections=3, corrections_from=0.2, corrections_full=0.6)
    found = [corrections_at(step, settings) for step in (0, 19, 20, 39, 40, 59, 60, 99)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    assert corrections_at(99, settings.but(corrections=0)) == 0


@pytest.mark.parametrize("stroke", ["", "random"])
def test_next_prompts__mends_the_largest_error(stroke):
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    plan_ = draw_plan(stream(0, "x"), 0, "x", TrainSettings(steps=10))
    plan_ = type(plan_)(0, 1, stroke, plan_.seed, "x")
    none = np.zeros((0, 5), np.int64)
    first = next_prompts(plan_, truth * 0, truth, (2.0, 2.0, 2.0), 1, none, "autopet-v@2")
    assert len(first) == 1
    assert np.all(truth[tuple(first.foreground.T)])
    wrong = 1 - truth
    second = next_prompts(
        plan_, np.maximum(truth, wrong), truth, (2.0, 2.0, 2.0), 2, channel_rows(first), "autopet-v@2"
    )
    assert not truth[tuple(second.background.T)].any()
    assert len(second.foreground) == 0


# --- augmentation --------------------------------------------------------------------------------


@given(axes=st.sets(st.integers(0, 2)), seed=st.integers(0, 99))
def test_flip__keeps_prompts_on_their_voxels(axes, seed):
    draws = np.random.default_rng(seed)
    shape = tuple(draws.integers(1, 7, 3))
    array = np.arange(np.prod(shape)).reshape(shape)
    voxels = tuple(tuple(int(v) for v in draws.integers(0, shape)) for _ in range(3))
    prompts = Prompts((Scribble(voxels, True), Click(voxels[0], False)), Grid.from_spacing(shape, (1, 1, 1)))
    (turned,), moved = flip([array], prompts, sorted(axes))
    assert turned[tuple(moved.foreground.T)].tolist() == [array[v] for v in voxels]
    assert turned[tuple(moved.background[0])] == array[voxels[0]]


def test_change_pet__keeps_zero_and_the_order_of_voxels():
    pet = np.array([[[0.0, 0.5, 2.0, 9.0]]], np.float32)
    for seed in range(20):
        out = change_pet(pet, np.random.default_rng(seed))
        assert out[0, 0, 0] == 0
        assert np.all(np.diff(out[0, 0]) > 0)
        assert out.dtype == np.float32
    np.testing.assert_array_equal(change_pet(pet * 0, np.random.default_rng(0)), pet * 0)


def test_change_ct__keeps_air_the_darkest():
    ct = np.array([[[-1024.0, 0.0, 60.0]]], np.float32)
    assert all(change_ct(ct, np.random.default_rng(seed)).min() >= -1024 for seed in range(20))


def balls(shape=(24, 20, 16)):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return (np.linalg.norm(grid - np.array([12, 9, 7]), axis=-1) <= 4).astype(np.uint8)


def test_warp__without_a_turn_changes_nothing():
    label = balls()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, *label.shape)).astype(np.float32))
    points = torch.tensor([[0, 0, 12, 9, 7], [0, 1, 0, 0, 0], [-1, 0, 1, 1, 1]])
    moved, mask, rows = warp(images, torch.from_numpy(label)[None, None], points, torch.eye(3)[None])
    torch.testing.assert_close(moved, images, atol=1e-4, rtol=0)
    assert torch.equal(mask[0, 0], torch.from_numpy(label))
    assert torch.equal(rows[:2], points[:2])
    assert rows[2, 0] == -1


def test_warp__equals_scipy():
    from scipy.ndimage import affine_transform

    label = balls()
    image = np.random.default_rng(1).standard_normal(label.shape).astype(np.float32)
    matrix = draw_affine(np.random.default_rng(3), TrainSettings(rotation_deg=30.0), (2.0, 2.0, 3.0))
    moved, _, _ = warp(
        torch.from_numpy(image)[None, None], torch.from_numpy(label)[None, None], torch.zeros((0, 5), dtype=torch.long),
        torch.from_numpy(matrix)[None],
    )  # fmt: skip
    centre = (np.array(label.shape) - 1) / 2
    expected = affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="nearest")
    np.testing.assert_allclose(moved[0, 0].numpy(), expected, atol=1e-3)


def test_draw_affine__turns_and_scales_alike_along_all_axes_in_mm():
    size = np.array([2.0, 3.0, 5.0])
    matrix = draw_affine(np.random.default_rng(3), TrainSettings(rotation_deg=30.0, scaling=0.2), tuple(size))
    in_mm = np.diag(size) @ matrix @ np.diag(1 / size)
    scale = np.cbrt(np.linalg.det(in_mm))
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3) * scale**2, atol=1e-5)
    assert 1 / 1.2 - 1e-6 < scale < 1 / 0.8 + 1e-6
    assert not np.allclose(in_mm, np.eye(3) * scale, atol=0.01)


@given(seed=st.integers(0, 200))
def test_warp__keeps_prompts_on_their_own_side_of_the_label(seed):
    draws = np.random.default_rng(seed)
    label = balls()
    inside, outside = np.argwhere(label), np.argwhere(label == 0)
    voxels = np.concatenate(
        [inside[draws.integers(len(inside), size=6)], outside[draws.integers(len(outside), size=6)]]
    )
    rows = np.column_stack([np.zeros(12), np.repeat([0, 1], 6), voxels]).astype(np.int64)
    matrix = draw_affine(draws, TrainSettings(rotation_deg=25.0, scaling=0.3), (2.0, 2.0, 3.0))
    tensor = torch.from_numpy(label)[None, None]
    _, mask, moved = warp(tensor.float(), tensor, torch.from_numpy(rows), torch.from_numpy(matrix)[None])
    kept = moved[:, 0] == 0
    assert kept[:6].any()
    on = mask[0, 0][tuple(moved[kept][:, 2:].T)]
    assert torch.equal(on == 1, moved[kept][:, 1] == 0)
    centre = (np.array(label.shape) - 1) / 2
    ideal = (voxels - centre) @ np.linalg.inv(matrix).T + centre
    assert np.abs(moved[:, 2:].numpy() - ideal)[kept.numpy()].max() <= 1.5 + 1e-3


# --- samples -------------------------------------------------------------------------------------


def test_dataset__prompts_lie_where_they_should(store):
    data = PatchDataset(store.cases, PATCH, TrainSettings(steps=10, affine=0.0, silent=0.01))
    seen = set()
    for number in range(60):
        sample = data[number]
        assert sample.ct.shape == sample.pet.shape == sample.label.shape == PATCH
        on = sample.label[tuple(sample.points[:, 2:].T)]
        np.testing.assert_array_equal(on == 1, sample.points[:, 1] == 0)
        seen.add((bool(sample.plan.stroke), len(sample.points) > 0, sample.has_pet, bool(sample.label.any())))
    assert {key[0] for key in seen} == {key[1] for key in seen} == {key[2] for key in seen} == {True, False}
    assert {key[3] for key in seen} == {True, False}


def test_dataset__depends_on_seed_and_number_alone(store):
    settings = TrainSettings(steps=10)
    one, two = PatchDataset(store.cases, PATCH, settings), PatchDataset(store.cases, PATCH, settings)
    _ = [two[n] for n in (5, 1)]
    for name in ("ct", "pet", "label", "points"):
        np.testing.assert_array_equal(getattr(one[3], name), getattr(two[3], name))
    assert not np.array_equal(one[3].ct, PatchDataset(store.cases, PATCH, settings.but(seed=1))[3].ct)


def test_dataset__withholds_the_pet_by_its_odds(store):
    for odds in (0.0, 1.0):
        data = PatchDataset(store.cases, PATCH, TrainSettings(steps=10, drop_pet=odds))
        shown = {bool(data[number].has_pet) for number in range(12)}
        assert shown == ({False} if odds else {True, False})  # one case has none


def test_dataset__puts_patches_on_each_lesion_alike_whatever_its_size(store):
    rows = np.array([[1, 10, 10, 10]] * 50 + [[2, 30, 30, 30]], np.int32)
    case = SimpleNamespace(places=Places(rows, rows[:0, 1:], rows[:0, 1:]))
    data = PatchDataset(store.cases, (8, 8, 8), TrainSettings(steps=10))
    draws = stream(0, "corners")
    near = [data._corner(case, draws)[0] < 15 for _ in range(300)]
    assert 0.4 < np.mean(near) < 0.6


def test_dataset__spoils_previous_masks_by_the_odds(store):
    data = PatchDataset(store.cases, PATCH, TrainSettings(steps=10, drop_previous=0.4, spoil_previous=0.3))
    draws = stream(0, "fates")
    fates = [data._fate(draws) for _ in range(2000)]
    shares = {name: np.mean([fate == name for fate, _ in fates]) for name in FATES}
    assert shares == pytest.approx({"keep": 0.3, "drop": 0.4, **dict.fromkeys(FATES[2:], 0.075)}, abs=0.04)
    assert all(np.all((low >= 0) & (low < high) & (high <= PATCH)) for _, (low, high) in fates)


def test_dataset__for_validation_has_plain_patches_on_lesions(store):
    data = PatchDataset(store.cases, PATCH, TrainSettings(steps=10), purpose="validate")
    for number in range(8):
        sample = data[number]
        assert sample.label.any()
        assert len(sample.points) == 0
        assert sample.matrix is None
        assert sample.fate[0] == "keep"


def test_collate__numbers_the_prompts_by_sample(store):
    data = PatchDataset(store.cases, PATCH, TrainSettings(steps=10, affine=0.5))
    samples = [data[n] for n in range(6)]
    batch = collate(samples)
    assert batch.images.shape == (6, 2, *PATCH)
    for n, sample in enumerate(samples):
        mine = batch.points[batch.points[:, 0] == n].numpy()
        np.testing.assert_array_equal(mine[:, 1:], sample.points[:, 1:])
        matrix = np.eye(3) if sample.matrix is None else sample.matrix
        np.testing.assert_array_equal(batch.matrices[n].numpy(), matrix.astype(np.float32))


def test_batches__of_all_devices_are_those_of_one():
    one = [n for batch in Batches(2, 5, 4) for n in batch]
    two = [[n for batch in Batches(2, 5, 2, rank, 2) for n in batch] for rank in (0, 1)]
    assert sorted(two[0] + two[1]) == one == list(range(8, 20))


class Four:
    """A loader of four batches that notes what is asked of it, and fails at one of them if told so."""

    def __init__(self, spoiled=None):
        self.spoiled, self.asked, self.second = spoiled, [], Event()

    def __len__(self):
        return 4

    def __iter__(self):
        return map(self.make, range(4))  # which goes on after an error, as a loader does

    def make(self, number):
        self.asked.append(number)
        if number == self.spoiled:
            raise ValueError("spoiled")
        if number == 1:
            self.second.set()
        return number


def test_fetch_ahead__gives_each_batch_once_in_order():
    assert list(fetch_ahead(Four())) == [0, 1, 2, 3]


def test_fetch_ahead__fetches_while_the_consumer_works_and_no_more_than_one():
    loader = Four()
    coming = fetch_ahead(loader)
    assert next(coming) == 0
    assert loader.second.wait(10)
    coming.close()
    assert loader.asked == [0, 1]


def test_fetch_ahead__keeps_no_batch_that_the_consumer_let_go():
    class Pair(list):
        def __iter__(self):
            return iter({1.0} for _ in range(2))

    coming = fetch_ahead(Pair([1, 2]))
    batch = next(coming)
    forgotten = weakref.ref(batch)
    del batch
    assert forgotten() is None


def test_fetch_ahead__passes_an_error_on_in_its_place_and_asks_no_more():
    loader = Four(spoiled=1)
    coming = fetch_ahead(loader)
    assert next(coming) == 0
    with pytest.raises(ValueError, match="spoiled"):
        next(coming)
    assert loader.asked == [0, 1]  # a loader that lost one worker may wait for ever for another


def test_settings__refuse_what_cannot_be():
    for bad in ({"odds": (0, 0, 0)}, {"steps": 0}, {"rate": "fast"}, {"law": "lgo"}, {"flips": 1}, {"batch": 1.5}):
        with pytest.raises(SettingError):
            TrainSettings(**bad)
    with pytest.raises(SettingError, match="did you mean 'steps'"):
        TrainSettings.of({"stesp": 3})
    assert "silent = 0.15" in describe_groups(TrainSettings)
    assert StoreRules.of(RULES.plain()) == RULES


def test_prepare_case__of_an_empty_label_has_places_in_the_body(tmp_path):
    from clicksim.catalog import create_catalog
    from clicksim.catalog.schema import rows_to_table

    catalog = create_catalog(tmp_path / "catalog")
    arrays = {
        "ct": np.full((9, 9, 9), 40, np.int16),
        "label": np.zeros((9, 9, 9), np.uint8),
        "pet": np.ones((9, 9, 9), np.float32),
    }
    row = write_case(catalog, "fdat", "fdg_empty", arrays, Grid.from_spacing((9, 9, 9), SPACING), fold=0)
    catalog.write_part("cases", "fdat", rows_to_table("cases", [row]))
    prepare_store(catalog.path, tmp_path / "store", RULES)
    (case,) = open_store(tmp_path / "store").cases
    assert len(case.places.lesion) == len(case.places.hot) == 0
    sample = PatchDataset([case], (8, 8, 8), TrainSettings(steps=1))[0]
    assert not sample.label.any()

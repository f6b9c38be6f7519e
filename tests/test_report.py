from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid
from clicksim.prompts import Box, Click, Prompts, Scribble
from clicksim.report.mip import BACKGROUND, FOREGROUND, LESION, draw_preview, find_views, save_picture

ORIENTATIONS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def oriented_grid(axes: tuple[int, ...], signs: tuple[int, ...], shape: tuple[int, int, int]) -> Grid:
    """Stored axis n runs along world axis `axes[n]`, up or down."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, stored] = sign * (2.0, 3.0, 5.0)[stored]
    affine[:3, 3] = (-7, 11, 13)
    return Grid(shape, affine=affine)


def las(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (2.0, 2.0, 3.0)) -> Grid:
    return Grid(shape, affine=np.diag([-spacing[0], spacing[1], spacing[2], 1.0]))


def none_of(grid: Grid, **more: object) -> Prompts:
    return Prompts((), grid, **more)  # type: ignore[arg-type]


def places_of(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """`(n, 2)` column and row of the pixels of about one colour, above the legend."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    near = np.abs(pixels - colour).max(axis=2) < 30
    near[-56:] = False
    return np.argwhere(near)[:, ::-1]


# --- orientation -----------------------------------------------------------------------------------------


@given(st.sampled_from(ORIENTATIONS), st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)))
def test_find_views__a_voxel_is_marked_where_its_projection_is_drawn(
    orientation: tuple[tuple[int, ...], tuple[int, ...]], voxel: tuple[int, int, int]
) -> None:
    grid = oriented_grid(*orientation, (5, 6, 7))
    volume = np.zeros(grid.shape)
    volume[voxel] = 1
    for view in find_views(grid):
        picture = view.lay(volume.max(axis=view.project))
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        assert view.place([voxel], grid)[0].tolist() == [column + 0.5, row + 0.5]


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_find_views__the_patient_stands_upright_right_side_left_nose_left(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    grid = oriented_grid(axes, signs, (9, 9, 9))
    middle = grid.to_mm([(4, 4, 4)])[0]
    coronal, sagittal = find_views(grid)

    def moved(step: tuple[float, float, float]) -> np.ndarray:
        return grid.to_voxel([middle + step])

    for view in (coronal, sagittal):
        assert view.place(moved((0, 0, 9)), grid)[0, 1] < view.place([(4, 4, 4)], grid)[0, 1]
    assert coronal.place(moved((9, 0, 0)), grid)[0, 0] < coronal.place([(4, 4, 4)], grid)[0, 0]
    assert sagittal.place(moved((0, 9, 0)), grid)[0, 0] < sagittal.place([(4, 4, 4)], grid)[0, 0]
    assert coronal.sides == ("R", "L")
    assert sagittal.sides == ("A", "P")


def test_find_views__without_an_affine_k_is_up() -> None:
    grid = Grid((5, 6, 7))
    for view in find_views(grid):
        assert view.place([(0, 0, 6)], grid)[0, 1] < view.place([(0, 0, 0)], grid)[0, 1]
        assert view.sides == ("", "")


# --- pictures --------------------------------------------------------------------------------------------


def test_draw_preview__a_click_at_superior_right_is_green_at_the_top_left() -> None:
    grid = las((40, 40, 60))
    uptake = np.ones(grid.shape, np.float32)
    image = draw_preview(uptake, None, Prompts((Click((3, 20, 55), True),), grid), grid=grid)
    places = places_of(image, FOREGROUND)
    coronal = places[places[:, 0] < image.width / 2]
    assert len(coronal) > 20
    assert coronal[:, 0].max() < image.width * 0.25
    assert coronal[:, 1].max() < image.height * 0.25


def test_draw_preview__hot_is_black_and_cold_is_white() -> None:
    grid = las((40, 40, 60))
    uptake = np.full(grid.shape, 0.3, np.float32)
    uptake[10:20, 10:30, 5:15] = 12
    grey = np.asarray(draw_preview(uptake, None, none_of(grid), grid=grid).convert("L"))
    rows = np.flatnonzero((grey[60:-70] < 20).any(axis=1)) + 60
    assert rows.min() > grey.shape[0] / 2  # the hot block lies low in the patient
    assert np.median(grey) > 200


def test_draw_preview__lesions_are_outlined_and_kept_visible() -> None:
    grid = las((40, 40, 60))
    uptake = np.ones(grid.shape, np.float32)
    label = np.zeros(grid.shape, np.uint8)
    label[15:25, 15:25, 25:35] = 1
    uptake[label > 0] = 20
    image = draw_preview(uptake, label, none_of(grid), grid=grid)
    rim = places_of(image, LESION)
    assert len(rim) > 100
    left = rim[rim[:, 0] < image.width / 2]
    x, y = left.mean(axis=0).astype(int)
    assert image.getpixel((int(x), int(y))) == (0, 0, 0)


def test_draw_preview__a_lesion_of_one_voxel_beside_a_large_one_is_outlined() -> None:
    grid = las((400, 10, 326), (2.0, 2.0, 3.0))
    label = np.zeros(grid.shape, np.uint8)
    label[100:140, :, 50:90] = 1
    label[300, 5, 300] = 1
    places = places_of(draw_preview(None, label, none_of(grid), grid=grid), LESION)
    assert (places[:, 1] < 150).sum() >= 4


def test_draw_preview__millimetres_are_equally_long_both_ways() -> None:
    grid = las((40, 40, 40), (4.0, 4.0, 8.0))
    label = np.zeros(grid.shape, np.uint8)
    label[10:30, 18:22, 15:25] = 1  # 80 mm by 80 mm from the front
    image = draw_preview(None, label, none_of(grid), grid=grid)
    rim = places_of(image, LESION)
    left = rim[rim[:, 0] < image.width / 2]
    wide, high = np.ptp(left, axis=0)
    assert wide > 50
    assert abs(wide - high) <= 3


def test_draw_preview__works_without_uptake_labels_and_affine() -> None:
    grid = Grid((12, 10, 8))
    prompts = Prompts(
        (Click((1, 2, 3), False), Scribble(((4, 4, 4), (5, 4, 4)), True), Box((1, 1, 1), (6, 6, 6))), grid
    )
    image = draw_preview(None, None, prompts, grid=grid, title="no image")
    assert len(places_of(image, BACKGROUND)) > 20
    assert len(places_of(image, FOREGROUND)) > 20


def test_draw_preview__a_lesion_behind_a_voxel_that_is_no_number_is_drawn() -> None:
    grid = las((40, 40, 60))
    uptake = np.ones(grid.shape, np.float32)
    uptake[15:25, 15:25, 25:35] = 20
    whole = np.asarray(draw_preview(uptake, None, none_of(grid), grid=grid))
    uptake[:, 2] = np.nan
    uptake[2] = np.nan
    assert np.array_equal(np.asarray(draw_preview(uptake, None, none_of(grid), grid=grid)) < 30, whole < 30)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (300, 3, 2), (2, 3, 300)])
def test_draw_preview__extreme_shapes_are_drawn(shape: tuple[int, int, int]) -> None:
    grid = las(shape)
    image = draw_preview(
        np.ones(shape, np.float32), np.ones(shape, np.uint8), none_of(grid), grid=grid, title="x" * 500
    )
    assert 400 < image.width < 1400
    assert image.height < 900


def test_draw_preview__values_that_are_no_suv_get_their_own_window() -> None:
    grid = las((20, 20, 30))
    uptake = np.random.default_rng(0).uniform(0, 1, grid.shape).astype(np.float32)
    uptake[:10] *= 0.05
    for factor in (1e4, 1e-4):
        grey = np.asarray(draw_preview(uptake * np.float32(factor), None, none_of(grid), grid=grid).convert("L"))
        middle = grey[200:500]
        assert middle.min() < 60
        assert (middle > 150).any()


def test_draw_preview__refuses_arrays_of_another_shape() -> None:
    grid = las((4, 5, 6))
    with pytest.raises(GeometryError, match="uptake has shape"):
        draw_preview(np.ones((6, 5, 4)), None, none_of(grid), grid=grid)
    with pytest.raises(GeometryError, match="prompts have a grid"):
        draw_preview(None, None, none_of(las((6, 5, 4))), grid=grid)


@pytest.mark.parametrize("name", ["a.png", "b.webp"])
def test_save_picture__leaves_one_whole_file(tmp_path: Path, name: str) -> None:
    image = Image.new("RGB", (30, 20), (10, 200, 30))
    save_picture(image, tmp_path / name)
    with Image.open(tmp_path / name) as read:
        assert read.size == (30, 20)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_save_picture__refuses_other_endings(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"\.png or \.webp, got 'a.jpg'"):
        save_picture(Image.new("RGB", (3, 3)), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_save_picture__a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        save_picture(Image.new("RGB", (3, 3)), target)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_draw_preview__a_caption_takes_the_place_of_the_window() -> None:
    grid = las((20, 20, 20))
    uptake = np.ones(grid.shape, np.float32)
    plain, same, other = (
        np.asarray(draw_preview(uptake, None, none_of(grid), grid=grid, caption=text))
        for text in ("", "maximum projection, SUV 0 to 10", "maximum projection, CT")
    )
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, other)

"""Registrations: SimpleITK's own reading and resampling, and scipy's, are the oracles."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from clicksim.errors import GeometryError
from clicksim.geometry import Grid
from clicksim.volumes import Volume, read_image, write_image
from converters.shared.registration import bring_onto, read_challenge_affine, read_rigid, round_trip_mm

sitk: Any = SimpleITK
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

angles = st.floats(-0.6, 0.6)
lengths = st.floats(-400, 400)
eulers = st.builds(
    lambda a, t, c, zyx: make_euler(a, t, c, zyx=zyx),
    st.tuples(angles, angles, angles),
    st.tuples(lengths, lengths, lengths),
    st.tuples(lengths, lengths, lengths),
    st.booleans(),
)


def make_euler(angle: Any, shift: Any, centre: Any, *, zyx: bool = False) -> Any:
    transform = sitk.Euler3DTransform()
    transform.SetComputeZYX(zyx)
    transform.SetCenter(centre)
    transform.SetRotation(*angle)
    transform.SetTranslation(shift)
    return transform


def maps_like(matrix_ras: np.ndarray, transform: Any) -> bool:
    """Whether a RAS matrix sends points where the LPS transform sends them."""
    points = np.random.default_rng(5).uniform(-900, 900, (20, 3))
    ours = (LPS @ matrix_ras @ LPS @ np.hstack([points, np.ones((20, 1))]).T).T[:, :3]
    return bool(np.allclose(ours, [transform.TransformPoint(p) for p in points.tolist()], atol=1e-8))


def challenge_json(transform: Any) -> str:
    """The layout of the challenge: rotation, translation in the last column, centre in the bottom row."""
    rows = np.zeros((4, 4))
    rows[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    rows[:3, 3] = transform.GetTranslation()
    rows[3, :3] = transform.GetCenter()
    return json.dumps({"3d_affine_transform": rows.tolist()})


@given(transform=eulers)
def test_read_rigid__sends_points_where_simpleitk_does(tmp_path_factory: Any, transform: Any) -> None:
    file = tmp_path_factory.mktemp("tfm") / "rigid.tfm"
    sitk.WriteTransform(transform, str(file))
    assert maps_like(read_rigid(file), transform)


@given(transform=eulers)
def test_read_challenge_affine__equals_the_transform_file(tmp_path_factory: Any, transform: Any) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "registration.json").write_text(challenge_json(transform))
    sitk.WriteTransform(transform, str(folder / "rigid.tfm"))
    matrix = read_challenge_affine(folder / "registration.json")
    assert maps_like(matrix, transform)
    np.testing.assert_allclose(matrix, read_rigid(folder / "rigid.tfm"), atol=1e-8)


def test_read_rigid__the_centre_is_folded_in_and_ras_flips_two_axes(tmp_path: Path) -> None:
    # a half turn about the z axis through (10, 20, 30) LPS maps (10, 20, 0) to itself, and 0 to (20, 40, 0)
    sitk.WriteTransform(make_euler((0, 0, np.pi), (1, 2, 3), (10, 20, 30)), str(tmp_path / "rigid.tfm"))
    matrix = read_rigid(tmp_path / "rigid.tfm")
    np.testing.assert_allclose(matrix @ [-10, -20, 0, 1], [-11, -22, 3, 1], atol=1e-9)
    np.testing.assert_allclose(matrix @ [0, 0, 0, 1], [-21, -42, 3, 1], atol=1e-9)


def test_read_rigid__takes_a_composite_of_one_and_a_file_without_the_zyx_flag(tmp_path: Path) -> None:
    transform = make_euler((0.1, -0.2, 0.3), (4, 5, 6), (7, 8, 9))
    sitk.WriteTransform(sitk.CompositeTransform([transform]), str(tmp_path / "one.tfm"))
    sitk.WriteTransform(transform, str(tmp_path / "plain.tfm"))
    text = (tmp_path / "plain.tfm").read_text()
    (tmp_path / "old.tfm").write_text(text.replace("FixedParameters: 7 8 9 0", "FixedParameters: 7 8 9"))
    assert maps_like(read_rigid(tmp_path / "one.tfm"), transform)
    assert maps_like(read_rigid(tmp_path / "old.tfm"), transform)


def test_read_rigid__takes_a_versor(tmp_path: Path) -> None:
    transform = sitk.VersorRigid3DTransform((0.0, 0.6, 0.8), 0.3, (1, 2, 3), (40, -50, 600))
    sitk.WriteTransform(transform, str(tmp_path / "rigid.tfm"))
    assert maps_like(read_rigid(tmp_path / "rigid.tfm"), transform)


HEAD = "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "found none"),
        ("not a transform\n", "ITK's text format"),
        ("Parameters: 1 2 3 4 5 6\n", "ITK's text format"),
        (HEAD, "Parameters must be 6"),
        (HEAD + "Parameters: 1 2 3\nFixedParameters: 0 0 0 0\n", "Parameters must be 6"),
        (HEAD + "Parameters: 0 0 0 0 0 nan\nFixedParameters: 0 0 0 0\n", "finite"),
        (HEAD + "Parameters: 0 0 0 0 0 x\nFixedParameters: 0 0 0 0\n", "finite"),
        (HEAD + "Parameters: 0 0 0 0 0 0\nFixedParameters: 0 0\n", "FixedParameters must be 3 or 4"),
        (HEAD.replace("Euler3D", "BSpline"), "found BSplineTransform"),
        (2 * (HEAD + "Parameters: 0 0 0 0 0 0\nFixedParameters: 0 0 0 0\n"), "one rigid transform"),
    ],
)
def test_read_rigid__refuses_what_is_no_rigid_transform(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "rigid.tfm").write_text(text)
    with pytest.raises(GeometryError, match=says) as caught:
        read_rigid(tmp_path / "rigid.tfm")
    assert "rigid.tfm" in str(caught.value)


def test_read_rigid__refuses_a_missing_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="No such file"):
        read_rigid(tmp_path / "rigid.tfm")
    (tmp_path / "rigid.tfm").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(GeometryError, match="not text"):
        read_rigid(tmp_path / "rigid.tfm")


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        "{}",
        "nonsense",
        '{"3d_affine_transform": [[1, 0], [0, 1]]}',
        json.dumps({"3d_affine_transform": np.diag([2.0, 1, 1, 1]).tolist()}),
        json.dumps({"3d_affine_transform": np.diag([-1.0, 1, 1, 1]).tolist()}),
        '{"3d_affine_transform": [NaN, 0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1]}',
    ],
)
def test_read_challenge_affine__refuses_what_is_no_rotation(tmp_path: Path, content: str) -> None:
    (tmp_path / "registration.json").write_text(content)
    with pytest.raises(GeometryError, match="registration") as caught:
        read_challenge_affine(tmp_path / "registration.json")
    assert ("mirrors" in str(caught.value)) == ("-1.0" in content)


FIXED = Grid((18, 22, 15), affine=np.array([[-4.0, 0, 0, 30], [0, -4.0, 0, 44], [0, 0, 3.0, -20], [0, 0, 0, 1]]))
MOVING = Grid((24, 20, 17), affine=np.array([[-3.0, 0, 0, 40], [0, 3.5, 0, -30], [0, 0, 2.5, -25], [0, 0, 0, 1]]))


def thousandths(most: float) -> st.SearchStrategy[float]:
    """Numbers in steps of 0.001: where products of tiny ones underflow, ITK's own inverse is none."""
    return st.integers(round(-1000 * most), round(1000 * most)).map(lambda count: count / 1000)


@given(transform=st.builds(make_euler, *[st.tuples(*[thousandths(most)] * 3) for most in (0.4, 15.0, 60.0)]))
def test_round_trip_mm__is_nothing_for_an_inverse_and_something_for_the_same(
    tmp_path_factory: Any, transform: Any
) -> None:
    folder = tmp_path_factory.mktemp("both")
    sitk.WriteTransform(transform, str(folder / "there.tfm"))
    sitk.WriteTransform(transform.GetInverse(), str(folder / "back.tfm"))
    there, back = read_rigid(folder / "there.tfm"), read_rigid(folder / "back.tfm")
    assert round_trip_mm(there, back, FIXED) < 1e-9
    shifted = back.copy()
    shifted[:3, 3] += [0.0, 3.0, 4.0]
    assert round_trip_mm(there, shifted, FIXED) == pytest.approx(5.0)


def test_round_trip_mm__takes_the_farthest_corner() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]  # a quarter turn moves a point by sqrt(2) times its distance from the axis
    radius = max(np.hypot(x, y) for x in (30, 30 - 17 * 4) for y in (44, 44 - 21 * 4))
    assert round_trip_mm(turn, np.eye(4), FIXED) == pytest.approx(np.sqrt(2) * radius)


def scene(tmp_path: Path, transform: Any, array: np.ndarray) -> tuple[Volume, np.ndarray, Any, Any]:
    """The moving volume, the matrix from the file, and both images read by SimpleITK itself."""
    write_image(tmp_path / "moving.nii.gz", array, MOVING)
    write_image(tmp_path / "fixed.nii.gz", np.zeros(FIXED.shape, np.float32), FIXED)
    sitk.WriteTransform(transform, str(tmp_path / "rigid.tfm"))
    images = [sitk.ReadImage(str(tmp_path / name)) for name in ("fixed.nii.gz", "moving.nii.gz")]
    return read_image(tmp_path / "moving.nii.gz"), read_rigid(tmp_path / "rigid.tfm"), *images


@pytest.mark.parametrize("seed", range(6))
def test_bring_onto__equals_simpleitk_with_the_transform_itself(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    transform = make_euler(rng.uniform(-0.3, 0.3, 3), rng.uniform(-9, 9, 3).tolist(), rng.uniform(-50, 50, 3).tolist())
    values = rng.gamma(2, 2, MOVING.shape).astype(np.float32)
    volume, matrix, fixed, moving = scene(tmp_path, transform, values)
    ours = bring_onto(volume, FIXED, fill=-7.0, fixed_to_moving_ras=matrix)
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -7.0)).T
    assert ours.dtype == np.float32
    assert 0.05 < np.mean(ours == -7.0) < 0.95
    np.testing.assert_allclose(ours, theirs, atol=2e-4)  # the sforms of files are float32

    labels = rng.integers(0, 117, MOVING.shape).astype(np.uint8)
    volume, matrix, fixed, moving = scene(tmp_path, transform, labels)
    ours = bring_onto(volume, FIXED, fill=0, labels=True, fixed_to_moving_ras=matrix)
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor, 0)).T
    assert ours.dtype == np.uint8
    assert np.mean(ours != theirs) < 2e-3  # no more than a tie that float32 decides


SKEWED = Grid(MOVING.shape, affine=np.array([[-3.0, 0.9, 0, 40], [0, 3.5, 0.4, -30], [0, 0, 2.5, -25], [0, 0, 0, 1]]))


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("other", [MOVING, SKEWED], ids=["right angles", "skewed"])
def test_bring_onto__equals_scipy_in_both_directions(tmp_path: Path, other: Grid, backwards: bool, dtype: Any) -> None:
    transform = make_euler((0.15, -0.1, 0.2), (5, -6, 7), (10, -20, 30))
    fixed, moving = (other, FIXED) if backwards else (FIXED, other)
    sitk.WriteTransform(transform.GetInverse() if backwards else transform, str(tmp_path / "rigid.tfm"))
    matrix = read_rigid(tmp_path / "rigid.tfm")
    values = np.random.default_rng(3).normal(scale=9, size=moving.shape).astype(dtype)
    ours = bring_onto(Volume(values, moving), fixed, fill=99.0, fixed_to_moving_ras=matrix)
    values = values.astype(float)
    assert fixed.affine is not None
    assert moving.affine is not None
    step = np.linalg.inv(moving.affine) @ matrix @ fixed.affine
    place = np.einsum("ab,bijk->aijk", step[:3, :3], np.indices(fixed.shape)) + step[:3, 3, None, None, None]
    limits = np.array(moving.shape)[:, None, None, None] - 0.5
    inside = np.all((place > -0.5) & (place < limits), axis=0)
    theirs = np.where(inside, ndimage.map_coordinates(values, place, order=1, mode="nearest"), 99.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert inside.any()
    assert not inside.all()


def test_bring_onto__a_marker_lands_where_the_matrix_says() -> None:
    # fixed -> moving shifts by +6 mm in x (RAS): the moving marker at x = 6 shows at x = 0 of the fixed lattice
    grid = Grid((9, 5, 5), affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    marker = np.zeros(grid.shape, np.int8)
    marker[4, 2, 2] = 5
    matrix = np.eye(4)
    matrix[0, 3] = 6.0
    moved = bring_onto(Volume(marker, grid), grid, fill=0, labels=True, fixed_to_moving_ras=matrix)
    assert np.argwhere(moved == 5).tolist() == [[2, 2, 2]]
    assert moved.dtype == np.int8


def test_bring_onto__memory_layout_and_bool_change_nothing() -> None:
    mask = np.random.default_rng(2).random(MOVING.shape) > 0.5
    matrix = np.eye(4)
    first = bring_onto(Volume(mask, MOVING), FIXED, fill=0, labels=True, fixed_to_moving_ras=matrix)
    again = bring_onto(
        Volume(np.asfortranarray(mask.astype(np.uint8)), MOVING), FIXED, fill=0, labels=True, fixed_to_moving_ras=matrix
    )
    np.testing.assert_array_equal(first, again)
    assert first.any()


def test_bring_onto__threads_change_nothing() -> None:
    values = np.random.default_rng(2).normal(size=MOVING.shape).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, 3] = [1.234567, -2.345678, 3.456789]
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    answers = []
    try:
        for count in (1, 3, 7):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            answers.append(bring_onto(Volume(values, MOVING), FIXED, fill=0, fixed_to_moving_ras=matrix).tobytes())
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(set(answers)) == 1


def test_bring_onto__refuses_a_challenge_matrix_and_a_lattice_without_place() -> None:
    volume = Volume(np.zeros((3, 3, 3), np.uint8), Grid((3, 3, 3)))
    with pytest.raises(GeometryError, match="read_challenge_affine"):
        bring_onto(volume, FIXED, fill=0, fixed_to_moving_ras=np.arange(16.0).reshape(4, 4))
    with pytest.raises(GeometryError, match="needs an affine"):
        bring_onto(volume, FIXED, fill=0)

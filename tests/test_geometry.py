"""Grids: a point stays on its millimetre through every change, and grids that differ are told apart."""

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.errors import GeometryError
from clicksim.geometry import Grid, check_shape, check_spacing, steps_within
from tests import strategies

STARTS = st.tuples(*[st.integers(-4, 8)] * 3)
AXES = st.integers(0, 2)
ORDERS = st.permutations([0, 1, 2]).map(tuple)
LAS = np.diag([-2.0, 2.0, 3.0, 1.0])


@st.composite
def grids(draw):
    """A grid in any orientation: rotated, mirrored, with its origin anywhere."""
    spacing = draw(strategies.spacings())
    angles = draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = nibabel.eulerangles.euler2mat(*angles) @ np.diag(np.asarray(spacing) * signs)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return Grid(draw(strategies.shapes()), None, affine)


def corner_faces(grid):
    """The outermost corners of the field of view, in mm: half a voxel beyond the centres."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    return grid.to_mm([[i, j, k] for i in ends[0] for j in ends[1] for k in ends[2]])


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)


# voxels and millimetres


def test_to_mm__is_what_nibabel_says():
    affine = np.array([[0, -2.0, 0, 40], [1.5, 0, 0, -30], [0, 0, 3.0, -100], [0, 0, 0, 1]])
    voxels = [[0, 0, 0], [1, 2, 3], [4.5, -1, 0]]
    close(Grid((9, 9, 9), None, affine).to_mm(voxels), nibabel.affines.apply_affine(affine, voxels))


@given(grids(), st.lists(st.tuples(*[st.floats(-50, 50)] * 3), max_size=5))
def test_to_voxel__undoes_to_mm(grid, points):
    close(grid.to_voxel(grid.to_mm(points)), np.reshape(points, (-1, 3)))


def test_to_mm__refuses_a_grid_of_voxels_only():
    with pytest.raises(GeometryError, match="needs an affine"):
        Grid((3, 3, 3)).to_mm([[0, 0, 0]])
    with pytest.raises(GeometryError, match="needs a spacing"):
        _ = Grid((3, 3, 3)).voxel_ml


def test_from_spacing__puts_the_first_voxel_at_the_origin():
    grid = Grid.from_spacing((4, 5, 6), (2, 2, 3))
    assert grid.to_mm([[1, 1, 1]]).tolist() == [[2, 2, 3]]
    assert grid.voxel_ml == pytest.approx(0.012)
    assert grid.size == 120
    assert Grid.from_spacing((4, 5, 6), None).spacing is None


@pytest.mark.parametrize(
    ("voxel", "inside"),
    [((0, 0, 0), True), ((-0.5, 0, 0), True), ((-0.51, 0, 0), False), ((3.49, 0, 0), True), ((3.5, 0, 0), False),
     ((0, 5, 0), False), ((0, 0, -1), False)],
)  # fmt: skip
def test_holds__counts_the_volume_of_border_voxels(voxel, inside):
    assert Grid((4, 5, 6)).holds([voxel]).tolist() == [inside]


def test_holds__takes_no_points():
    assert Grid((4, 5, 6)).holds([]).shape == (0,)


# crop, flip, permute, resample


@given(grids(), STARTS, strategies.shapes(), st.tuples(*[st.integers(-5, 12)] * 3))
def test_crop__keeps_points_on_their_mm(grid, start, shape, voxel):
    cropped = grid.crop(start, shape)
    assert cropped.shape == shape
    close(cropped.to_mm([np.subtract(voxel, start)]), grid.to_mm([voxel]))


@given(grids(), STARTS)
def test_crop__is_undone_by_the_opposite_crop(grid, start):
    assert grid.crop(start, (2, 2, 2)).crop([-n for n in start], grid.shape) == grid


@given(grids(), AXES, st.tuples(*[st.integers(-5, 12)] * 3))
def test_flip__keeps_points_on_their_mm(grid, axis, voxel):
    mirrored = list(voxel)
    mirrored[axis] = grid.shape[axis] - 1 - voxel[axis]
    close(grid.flip(axis).to_mm([mirrored]), grid.to_mm([voxel]))


@given(grids(), AXES)
def test_flip__twice_is_nothing_and_once_is_something(grid, axis):
    assert grid.flip(axis).flip(axis) == grid
    assert grid.flip(axis) == grid.flip(axis - 3)
    assert (grid.flip(axis) == grid) == (grid.shape[axis] == 1)  # one voxel lies where it lay


@given(grids(), ORDERS, st.tuples(*[st.integers(-5, 12)] * 3))
def test_permute__keeps_points_on_their_mm(grid, axes, voxel):
    permuted = grid.permute(axes)
    assert permuted.shape == tuple(grid.shape[a] for a in axes)
    close(permuted.spacing, [grid.spacing[a] for a in axes])
    close(permuted.to_mm([[voxel[a] for a in axes]]), grid.to_mm([voxel]))


@given(grids(), ORDERS)
def test_permute__is_undone_by_the_inverse(grid, axes):
    assert grid.permute(axes).permute(np.argsort(axes)) == grid


@given(grids(), strategies.shapes())
def test_resample__keeps_the_outer_faces(grid, shape):
    resampled = grid.resample(shape)
    assert resampled.shape == shape
    close(corner_faces(resampled), corner_faces(grid))
    close(np.multiply(resampled.spacing, shape), np.multiply(grid.spacing, grid.shape))


@given(grids(), strategies.shapes())
def test_resample__is_undone_by_the_old_shape(grid, shape):
    assert grid.resample(shape).resample(grid.shape).same_as(grid, tolerance_mm=1e-6)


@given(strategies.shapes(), strategies.spacings(), AXES, ORDERS)
def test_changes__work_on_a_grid_with_a_spacing_alone(shape, spacing, axis, axes):
    grid = Grid(shape, spacing)
    for changed in (grid.crop((1, 1, 1), shape), grid.flip(axis)):
        close(changed.spacing, grid.spacing)
        assert changed.affine is None
    close(grid.permute(axes).spacing, [spacing[a] for a in axes])
    assert Grid(shape).flip(axis).spacing is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: g.flip(3), "axis must be"),
        (lambda g: g.permute((0, 0, 1)), "permutation"),
        (lambda g: g.crop((0.5, 0, 0), (1, 1, 1)), "whole voxel"),
        (lambda g: g.crop((0, 0), (1, 1, 1)), "whole voxel"),
        (lambda g: g.crop((0, 0, 0), (1, 0, 1)), "at least one voxel"),
        (lambda g: g.resample((2, 2)), "three axes"),
    ],
)
def test_changes__refuse_what_is_no_change(change, reason):
    with pytest.raises(GeometryError, match=reason):
        change(Grid.from_spacing((4, 5, 6), (1, 1, 1)))


# same or not


def shifted(grid, mm):
    affine = grid.affine.copy()
    affine[0, 3] += mm
    return Grid(grid.shape, None, affine)


def test_same_as__allows_a_hundredth_of_a_millimetre():
    grid = Grid((20, 20, 20), None, LAS)
    assert grid.same_as(shifted(grid, 0.009))
    assert not grid.same_as(shifted(grid, 0.011))
    assert grid.same_as(shifted(grid, 0.5), tolerance_mm=0.6)


def test_same_as__looks_at_the_farthest_corner():
    grid = Grid((400, 20, 20), None, LAS)
    wider = LAS.copy()
    wider[0, 0] *= 1 + 1e-4  # 0.0002 mm a voxel, 0.08 mm at the far end
    assert not grid.same_as(Grid((400, 20, 20), None, wider))
    assert Grid((20, 20, 20), None, LAS).same_as(Grid((20, 20, 20), None, wider))


@given(strategies.shapes(), strategies.spacings(), st.sampled_from([0.9985, 0.9991, 1.0009, 1.0015]), AXES)
def test_same_as__compares_spacings_to_one_part_in_a_thousand(shape, spacing, factor, axis):
    other = tuple(s * factor if n == axis else s for n, s in enumerate(spacing))
    expected = abs(factor - 1) < 1e-3
    assert Grid(shape, spacing).same_as(Grid(shape, other)) == expected
    assert Grid(shape, other).same_as(Grid(shape, spacing)) == expected


def test_same_as__lets_the_shape_decide_where_nothing_else_is_known():
    assert Grid((3, 4, 5)).same_as(Grid((3, 4, 5), None, LAS))
    assert not Grid((3, 4, 5)).same_as(Grid((3, 5, 4)))


@given(grids(), grids())
def test_same_as__is_symmetric_and_holds_for_itself(a, b):
    assert a.same_as(a)
    assert a.same_as(b) == b.same_as(a)


def test_check_same__names_both_grids_and_the_place():
    label, pet = Grid((4, 4, 4), None, LAS), Grid((5, 4, 4), None, LAS)
    label.check_same(Grid((4, 4, 4), None, LAS), ("label", "PET"))
    with pytest.raises(GeometryError) as caught:
        label.check_same(pet, ("label", "PET"), where="case x")
    text = str(caught.value)
    assert all(part in text for part in ["label (4, 4, 4) at 2 x 2 x 3 mm", "PET (5, 4, 4)", "case x", "resample"])


def test_check_same__says_how_far_apart_grids_lie_that_look_alike():
    grid = Grid((4, 4, 4), None, LAS)
    with pytest.raises(GeometryError, match="up to 5 mm apart"):
        grid.check_same(shifted(grid, 5), ("label", "PET"))


# what is no grid


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3, 3), (0, 3, 3), (3, -1, 3), (3, 2.5, 3)])
def test_check_shape__refuses(shape):
    with pytest.raises(GeometryError, match="three axes"):
        check_shape(shape)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -2), (1, 1, float("nan")), (1, float("inf"), 1)])
def test_check_spacing__refuses(spacing):
    with pytest.raises(GeometryError, match="positive lengths"):
        check_spacing(spacing)


@given(st.floats(0, 6), st.lists(st.floats(0.7, 3), min_size=2, max_size=3))
def test_steps_within__equals_a_look_at_every_step(distance, spacing):
    steps = np.argwhere(np.ones([19] * len(spacing))) - 9
    near = np.linalg.norm(steps * spacing, axis=1) <= distance * (1 + 1e-10)
    assert steps_within(distance, spacing).tolist() == steps[near].tolist()


def test_steps_within__a_step_of_exactly_the_distance_is_within_it_whatever_the_rounding():
    assert steps_within(0.3, (0.1, 9)).tolist() == [[n, 0] for n in range(-3, 4)]  # 0.3 / 0.1 is below 3
    assert len(steps_within(2.2, (1.1, 1.1, 1.1))) == 33


@pytest.mark.parametrize("affine", [np.eye(3), np.full((4, 4), np.nan), np.zeros((4, 4)), np.diag([1, 1, 0, 1])])
def test_grid__refuses_an_impossible_affine(affine):
    with pytest.raises(GeometryError, match="affine"):
        Grid((3, 3, 3), None, affine)


def test_grid__leaves_the_affine_of_its_caller_alone():
    affine = np.eye(4)
    grid = Grid((3, 3, 3), None, affine)
    affine[0, 3] = 7
    assert grid.to_mm([[0, 0, 0]]).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1


def test_grid__takes_the_spacing_from_the_affine():
    assert Grid((3, 3, 3), None, LAS).spacing == (2, 2, 3)
    assert str(Grid((3, 4, 5), None, LAS)) == "(3, 4, 5) at 2 x 2 x 3 mm"
    assert str(Grid((3, 4, 5))) == "(3, 4, 5) at unknown spacing"


@given(grids())
def test_grid__equals_no_other_kind(grid):
    assert grid != "grid"
    assert grid == Grid(grid.shape, None, grid.affine)

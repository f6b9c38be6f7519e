"""Prompts follow their image through padding, resampling and affines, and into MONAI and TorchIO."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim import Box, Click, Grid, Prompts, Scribble, encode
from clicksim.adapters.monai import EncodePromptsd
from clicksim.adapters.torchio import EncodePrompts
from clicksim.errors import GeometryError
from tests import strategies

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]])
GRID = Grid((10, 9, 8), None, AFFINE)
ITEMS = (
    Click((2, 3, 4), True, 1),
    Click((7, 1, 6), False, round=2),
    Scribble(((1, 1, 1), (2, 2, 1), (3, 3, 1)), True),
    Box((4, 5, 2), (6, 7, 3), False),
)
PROMPTS = Prompts(ITEMS, GRID, "case")


@st.composite
def clicks(draw):
    shape = draw(strategies.shapes())
    voxel = st.tuples(*[st.integers(0, n - 1) for n in shape])
    items = tuple(Click(v, True) for v in draw(st.lists(voxel, min_size=1, max_size=5)))
    return Prompts(items, Grid.from_spacing(shape, draw(strategies.spacings())))


# prompts follow their image


@given(clicks(), st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
def test_pad__is_undone_by_a_crop(prompts, before, after):
    padded = prompts.pad(before, after)
    assert padded.grid.shape == tuple(n + a + b for n, a, b in zip(prompts.grid.shape, before, after, strict=True))
    assert padded.crop(before, prompts.grid.shape) == prompts
    assert padded.foreground.tolist() == (prompts.foreground + before).tolist()


def test_pad__refuses_to_take_away():
    with pytest.raises(GeometryError, match="numbers from 0"):
        PROMPTS.pad((0, -1, 0), (0, 0, 0))


@given(clicks(), st.tuples(*[st.integers(0, 9)] * 3))
def test_resample__to_a_finer_grid_and_back_changes_nothing(prompts, more):
    finer = [n + m for n, m in zip(prompts.grid.shape, more, strict=True)]
    up = prompts.resample(finer)
    assert up.grid.shape == tuple(finer)
    assert up.resample(prompts.grid.shape) == prompts
    assert not up.notes


@given(clicks(), strategies.shapes())
def test_resample__stays_within_half_a_voxel(prompts, shape):
    moved = prompts.resample(shape)
    apart = np.abs(moved.grid.to_mm(moved.foreground) - prompts.grid.to_mm(prompts.foreground))
    assert np.all(apart <= np.array(moved.grid.spacing) / 2 + 1e-4)


@given(clicks(), strategies.shapes())
def test_resample__equals_the_way_through_mm(prompts, shape):
    assert prompts.resample(shape).items == prompts.to_grid(prompts.grid.resample(shape)).items


def test_resample__moves_an_array_that_is_repeated_or_thinned():
    array = np.zeros(GRID.shape, int)
    for number, voxel in enumerate(PROMPTS.foreground, start=1):
        array[tuple(voxel)] = number
    repeated = array.repeat(3, 0).repeat(2, 1)
    up = PROMPTS.resample(repeated.shape)
    assert repeated[tuple(up.foreground.T)].tolist() == array[tuple(PROMPTS.foreground.T)].tolist()
    down = PROMPTS.resample((5, 3, 4))
    assert down.items[0].voxel == (1, 1, 2)
    assert down.items[2].voxels == ((0, 0, 0), (1, 0, 0), (1, 1, 0))
    assert Prompts((Scribble(((0, 0, 0), (1, 0, 0)), True),), GRID).resample((5, 9, 8)).items[0].voxels == ((0, 0, 0),)


def test_resample__a_box_keeps_its_faces_and_never_vanishes():
    box = Prompts((Box((2, 2, 2), (3, 3, 3)),), Grid((8, 8, 8)))
    assert box.resample((16, 16, 16)).items == (Box((4, 4, 4), (7, 7, 7)),)
    assert box.resample((4, 4, 4)).items == (Box((1, 1, 1), (1, 1, 1)),)
    thin = Prompts((Box((3, 0, 0), (3, 7, 7)),), Grid((8, 8, 8)))
    assert thin.resample((2, 8, 8)).items == (Box((0, 0, 0), (0, 7, 7)),)


@given(clicks(), st.integers(-3, 2), st.permutations([0, 1, 2]), st.tuples(*[st.integers(-2, 2)] * 3))
def test_to_grid__follows_flips_permutations_and_crops(prompts, axis, axes, start):
    shape = [n + 4 for n in prompts.grid.shape]
    for moved in (prompts.flip(axis), prompts.permute(axes), prompts.crop(start, shape)):
        assert prompts.to_grid(moved.grid).items == moved.items


def test_to_grid__moves_boxes_and_notes_what_is_gone():
    for moved in (PROMPTS.flip(0), PROMPTS.permute((2, 0, 1)), PROMPTS.flip(1).crop((0, 0, 0), GRID.shape)):
        assert PROMPTS.to_grid(moved.grid) == moved
    small = PROMPTS.to_grid(GRID.crop((0, 0, 0), (3, 4, 5)))
    assert small.items == (ITEMS[0], Scribble(((1, 1, 1), (2, 2, 1)), True))
    assert small.notes == ("2 of 4 prompts lie outside the grid", "1 of 4 prompts are cut by the grid")
    with pytest.raises(GeometryError, match="needs an affine"):
        PROMPTS.to_grid(Grid(GRID.shape))


def test_affine__moves_in_mm_and_back():
    move = np.eye(4)
    move[:3, 3] = (4, -6, 3)  # -2, -3 and 1 voxels
    assert PROMPTS.affine(move).items[0].voxel == (0, 0, 5)
    turn = np.array([[0.0, -1, 0, 5], [1, 0, 0, 7], [0, 0, 1, -2], [0, 0, 0, 1]])
    target = Grid(GRID.shape, None, turn @ AFFINE)
    assert PROMPTS.affine(turn, target).items == ITEMS
    fine = Grid((60, 60, 60), None, np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -110], [0, 0, 0, 1]]))
    there = PROMPTS.affine(np.eye(4), fine)
    back = there.affine(np.eye(4), GRID)
    kept = [p for p in ITEMS if np.all(fine.holds(fine.to_voxel(GRID.to_mm(p.voxels))))]
    assert [p for p in back.items if isinstance(p, Click)] == [p for p in kept if isinstance(p, Click)]
    for bad in (np.zeros((4, 4)), np.eye(3), np.diag([1, 1, 1, 2.0])):
        with pytest.raises(GeometryError):
            PROMPTS.affine(bad)


# inside other libraries


def test_adapters__import_neither_torch_nor_what_they_serve():
    code = (
        "import sys, clicksim.adapters.monai, clicksim.adapters.torchio; "
        "print(sorted({'torch', 'monai', 'torchio'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def flipped():
    """The image as some transform left it: flipped, cropped, its affine up to date."""
    expected = PROMPTS.flip(0).crop((1, 0, 2), (8, 9, 6))
    return np.random.default_rng(0).random((1, 8, 9, 6)).astype(np.float32), expected


def test_encode_promptsd__follows_the_affine_of_a_plain_array():
    image, moved = flipped()
    transform = pickle.loads(pickle.dumps(EncodePromptsd(encoding="edt-ball", radius_vx=2)))
    data = {"image": image, "prompts": PROMPTS, "image_meta_dict": {"affine": moved.grid.affine}}
    result = transform(data)
    assert np.array_equal(result["guidance"], encode(moved, moved.grid.shape, encoding="edt-ball", radius_vx=2))
    assert result["image"] is image
    assert "guidance" not in data


def test_encode_promptsd__refuses_what_it_cannot_follow():
    image, _ = flipped()
    with pytest.raises(GeometryError, match="carries no affine"):
        EncodePromptsd()({"image": image, "prompts": PROMPTS})
    with pytest.raises(TypeError, match=r"clicksim\.Prompts"):
        EncodePromptsd()({"image": image, "prompts": [(1, 2, 3)]})
    with pytest.raises(GeometryError, match=r"\(C, I, J, K\)"):
        EncodePromptsd()({"image": image[0], "prompts": PROMPTS, "image_meta_dict": {"affine": AFFINE}})
    with pytest.raises(KeyError):
        EncodePromptsd(image="pet")({"image": image, "prompts": PROMPTS})


@pytest.mark.filterwarnings("ignore")  # of MONAI's own imports
def test_encode_promptsd__stays_on_the_tissue_behind_real_monai_transforms():
    torch = pytest.importorskip("torch", reason="Torch is not installed")
    pytest.importorskip("monai", reason="MONAI is not installed")
    from monai.data import MetaTensor
    from monai.transforms import Compose, Flipd, Orientationd, Rotate90d, SpatialCropd, SpatialPadd

    marks = np.zeros((1, *GRID.shape), np.float32)
    for voxel in PROMPTS.foreground:
        marks[(0, *voxel)] = 1
    chain = Compose(
        [
            Orientationd("image", axcodes="PLS", labels=None),
            Flipd("image", spatial_axis=1),
            Rotate90d("image", spatial_axes=(0, 2)),
            SpatialPadd("image", (14, 13, 12)),
            SpatialCropd("image", roi_start=(1, 0, 1), roi_end=(14, 13, 11)),
            EncodePromptsd("image", encoding="points"),
        ]
    )
    result = chain({"image": MetaTensor(torch.from_numpy(marks), affine=torch.from_numpy(AFFINE)), "prompts": PROMPTS})
    assert torch.is_tensor(result["guidance"])
    assert result["guidance"].shape == (2, *result["image"].shape[1:])
    np.testing.assert_array_equal(result["guidance"][0].numpy(), result["image"][0].numpy())
    assert result["image"].sum() == len(PROMPTS.foreground)


class ScalarImage:
    """What the adapter asks of an image of TorchIO: data, affine, and to be made of a tensor."""

    def __init__(self, tensor, affine):
        self.data, self.affine = tensor, affine


def test_encode_prompts__adds_an_image_of_the_same_class():
    image, moved = flipped()
    subject = {"pet": ScalarImage(image, moved.grid.affine), "prompts": PROMPTS}
    transform = EncodePrompts("pet", encoding="masked")
    added = transform(subject)["guidance"]
    assert isinstance(added, ScalarImage)
    np.testing.assert_array_equal(added.affine, moved.grid.affine)
    assert np.array_equal(added.data, encode(moved, moved.grid.shape, encoding="masked", image=image[0]))
    with pytest.raises(TypeError, match=r"clicksim\.Prompts"):
        transform({"pet": subject["pet"], "prompts": None})


def test_encode_promptsd__keeps_soft_values_beside_an_image_of_whole_numbers():
    torch = pytest.importorskip("torch", reason="Torch is not installed")
    drawn = encode(PROMPTS, GRID.shape)
    for dtype, wanted in ((torch.int16, torch.float32), (torch.uint8, torch.float32), (torch.float64, torch.float64)):
        image = torch.zeros((1, *GRID.shape), dtype=dtype)
        guidance = EncodePromptsd()({"image": image, "prompts": PROMPTS, "image_meta_dict": {"affine": AFFINE}})
        assert guidance["guidance"].dtype == wanted
        np.testing.assert_array_equal(guidance["guidance"].numpy(), drawn)


@pytest.mark.filterwarnings("ignore")  # of TorchIO's own imports
def test_encode_prompts__stays_on_the_tissue_behind_real_torchio_transforms():
    torch = pytest.importorskip("torch", reason="Torch is not installed")
    tio = pytest.importorskip("torchio", reason="TorchIO is not installed")
    marks = np.zeros((1, *GRID.shape), np.float32)
    for voxel in PROMPTS.foreground:
        marks[(0, *voxel)] = 1
    subject = tio.Subject(pet=tio.ScalarImage(tensor=torch.from_numpy(marks), affine=AFFINE), prompts=PROMPTS)
    chain = [
        tio.ToCanonical(),
        tio.Flip(axes=(1,)),
        tio.CropOrPad((12, 12, 12)),
        EncodePrompts("pet", encoding="points"),
    ]
    for transform in chain:
        subject = transform(subject)
    assert torch.equal(subject["guidance"].data[0], subject["pet"].data[0])

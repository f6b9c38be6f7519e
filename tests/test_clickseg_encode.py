"""Guidance on the device against plain NumPy, and against the library's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")

from clickseg.data.prompt_channels import channel_rows, draw_channels, stencil  # noqa: E402
from clickseg.training_settings import ENCODINGS  # noqa: E402
from clicksim.errors import SettingError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.guidance import encode as draw  # noqa: E402
from clicksim.prompts import Click, Prompts, Scribble  # noqa: E402

pytestmark = pytest.mark.torch

SPACINGS = st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.07283])] * 3)
SHAPES = st.tuples(*[st.integers(1, 14)] * 3)


@st.composite
def cases(draw):
    """A shape, a spacing, prompts as rows (two samples, some voxels outside, some twice) and a size."""
    shape = draw(SHAPES)
    voxel = st.tuples(*[st.integers(-3, n + 2) for n in shape])
    row = st.tuples(st.integers(0, 1), st.integers(0, 1), voxel)
    rows = [(sample, polarity, *v) for sample, polarity, v in draw(st.lists(row, max_size=8))]
    table = np.array(rows + rows[:1], dtype=np.int64).reshape(-1, 5)
    return shape, draw(SPACINGS), table, draw(st.floats(1.0, 6.0))


HOW = {"gaussian-sum": {"encoding": "gaussian", "scale": "sum", "merge": "add"}}
LENGTHS = {"ball": "radius_mm", "edt-ball": "radius_mm", "distance": "reach_mm"}


def library(rows, shape, encoding, size, spacing):
    """Each sample drawn by the library, on a patch of a volume that is three voxels larger on each side."""
    grid = Grid.from_spacing([n + 6 for n in shape], spacing)
    how = {**HOW.get(encoding, {"encoding": encoding}), LENGTHS.get(encoding, "sigma_mm"): size}
    out = []
    for sample in (0, 1):
        mine = rows[rows[:, 0] == sample]
        prompts = Prompts(tuple(Click(tuple(int(v) + 3 for v in row[2:]), bool(row[1] == 0)) for row in mine), grid)
        out.append(draw(prompts, shape, origin=(3, 3, 3), **how))
    return np.stack(out)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(case=cases())
def test_encode__equals_the_library(encoding, case):
    shape, spacing, rows, size = case
    drawn = draw_channels(torch.from_numpy(rows), 2, shape, encoding=encoding, size_mm=size, spacing=spacing).numpy()
    np.testing.assert_allclose(drawn, library(rows, shape, encoding, size, spacing), atol=1e-5, rtol=0)


def test_encode__is_the_same_in_pieces(monkeypatch):
    rows = torch.from_numpy(
        np.column_stack([np.zeros((40, 2)), np.random.default_rng(0).integers(0, 12, (40, 3))])
    ).long()
    for encoding in ENCODINGS:
        how = {"encoding": encoding, "size_mm": 3.0, "spacing": (2.0, 2.0, 3.0)}
        whole = draw_channels(rows, 1, (12, 12, 12), **how)
        with monkeypatch.context() as patch:
            patch.setattr("clickseg.data.prompt_channels.CHUNK", 1)
            torch.testing.assert_close(draw_channels(rows, 1, (12, 12, 12), **how), whole, atol=1e-6, rtol=0)


def test_encode__keeps_samples_with_their_own_spacing_apart():
    rows = torch.tensor([[0, 0, 5, 5, 5], [1, 0, 5, 5, 5]])
    two = [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)]
    both = draw_channels(rows, 2, (11, 11, 11), encoding="ball", size_mm=4.0, spacing=two)
    for n, spacing in enumerate(two):
        one = draw_channels(rows[:1], 1, (11, 11, 11), encoding="ball", size_mm=4.0, spacing=spacing)
        assert torch.equal(both[n], one[0])
    assert not torch.equal(both[0], both[1])


def test_encode__draws_nothing_for_rows_that_are_switched_off():
    rows = torch.tensor([[-1, 0, 2, 2, 2], [-1, 1, 0, 0, 0]])
    assert not draw_channels(rows, 1, (5, 5, 5), encoding="gaussian", size_mm=2.0, spacing=(1.0, 1.0, 1.0)).any()


def test_encode__of_a_scribble_is_the_highest_of_its_voxels():
    path = tuple((i, 4, 4) for i in range(2, 8))
    prompts = Prompts((Scribble(path, True), Click((1, 1, 1), False)), Grid.from_spacing((10, 9, 9), (2, 2, 3)))
    rows = torch.from_numpy(channel_rows(prompts))
    drawn = draw_channels(rows, 1, (10, 9, 9), encoding="gaussian", size_mm=3.0, spacing=(2.0, 2.0, 3.0))[0]
    assert all(drawn[0][voxel] == 1 for voxel in path)
    assert drawn[1, 1, 1, 1] == 1
    assert drawn[0].max() == 1


def test_stencil__has_the_values_of_an_edt_ball():
    offsets, values = stencil("edt-ball", 2.0, (1.0, 1.0, 1.0))
    found = {tuple(sorted(map(abs, o.tolist()))): float(v) for o, v in zip(offsets, values, strict=True)}
    published = {(0, 0, 0): 5, (0, 0, 1): 2, (0, 1, 1): 1, (1, 1, 1): 1, (0, 0, 2): 1}
    assert found == pytest.approx({key: (square / 5) ** 0.5 for key, square in published.items()})
    assert len(offsets) == 33


def test_stencil__refuses_an_unknown_encoding():
    with pytest.raises(SettingError, match="did you mean 'gaussian'"):
        stencil("gausian", 2.0, (1.0, 1.0, 1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encode__is_the_same_on_a_gpu(encoding):
    draws = np.random.default_rng(0)
    rows = torch.from_numpy(np.column_stack([draws.integers(0, 2, (200, 2)), draws.integers(-2, 34, (200, 3))]))
    how = {"encoding": encoding, "size_mm": 5.0, "spacing": (2.0, 2.0, 3.0)}
    here = draw_channels(rows, 2, (32, 32, 32), **how)
    there = draw_channels(rows.cuda(), 2, (32, 32, 32), **how).cpu()
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)

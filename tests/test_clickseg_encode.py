"""Guidance on the device against plain NumPy, and against the library's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")

from clickseg.data.prompt_channels import EVERYWHERE, channel_rows, draw_channels, reach_vx, stencil  # noqa: E402
from clickseg.training_settings import ModelSettings  # noqa: E402
from clicksim.errors import SettingError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.guidance import ENCODINGS, PRESETS, plan_encoding  # noqa: E402
from clicksim.guidance import encode as draw  # noqa: E402
from clicksim.guidance.encoding_settings import COMMON  # noqa: E402
from clicksim.prompts import Click, Prompts, Scribble  # noqa: E402

pytestmark = pytest.mark.torch

SPACINGS = st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.07283])] * 3)
SHAPES = st.tuples(*[st.integers(1, 14)] * 3)


@st.composite
def cases(draw):
    """A shape, a spacing, and prompts as rows: two samples, some voxels outside, some twice."""
    shape = draw(SHAPES)
    voxel = st.tuples(*[st.integers(-3, n + 2) for n in shape])
    row = st.tuples(st.integers(0, 1), st.integers(0, 1), voxel)
    rows = [(sample, polarity, *v) for sample, polarity, v in draw(st.lists(row, max_size=8))]
    table = np.array(rows + rows[:1], dtype=np.int64).reshape(-1, 5)
    return shape, draw(SPACINGS), table


def is_for_models(name):
    plan = plan_encoding(name, {})
    return all(plan[setting] == COMMON[setting].default for setting in ("channels", "decay"))


EVERY = [name for name in (*ENCODINGS.names, *PRESETS) if is_for_models(name)]
SMALL = {"exp-distance": {"fall_mm": 2.0}, "exp-geodesic": {"fall_mm": 2.0}, "distance": {"reach_mm": 9.0},
         "geodesic": {"reach_mm": 9.0}, "gaussian": {"sigma_mm": 2.5},
         "disk": {"radius_mm": 6.0, "merge": "add"}}  # fmt: skip
STENCILS = [name for name, encoding in ENCODINGS.load_all().items() if encoding.stencil]


def library(rows, shape, plan, spacing, image):
    """Each sample drawn by the library, on a patch of a volume so large that nothing is mirrored at its faces."""
    grid = Grid.from_spacing([n + 200 for n in shape], spacing)
    out = []
    for sample in (0, 1):
        mine = rows[rows[:, 0] == sample]
        prompts = Prompts(tuple(Click(tuple(int(v) + 100 for v in row[2:]), bool(row[1] == 0)) for row in mine), grid)
        out.append(
            draw(
                prompts, shape, origin=(100, 100, 100), encoding=plan.encoding.name, image=image[sample, 0],
                **{name: value for name, value in plan.settings.items() if name not in ("decay", "decay_by")},
            )
        )  # fmt: skip
    return np.stack(out)


@pytest.mark.parametrize("name", EVERY)
@given(case=cases(), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_draw_channels__equals_the_library(name, case, seed):
    shape, spacing, rows = case
    plan = plan_encoding(name, SMALL.get(name, {}))
    image = np.random.default_rng(seed).gamma(2, 2, (2, 1, *shape)).astype(np.float32)
    points = torch.from_numpy(rows)
    drawn = draw_channels(points, 2, shape, plan=plan, spacing=spacing, image=torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(drawn, library(rows, shape, plan, spacing, image), atol=1e-5, rtol=1e-5)


def test_draw_channels__reads_an_image_of_zeros_where_there_is_none():
    rows = torch.tensor([[0, 0, 5, 5, 5]])
    how = {"plan": plan_encoding("geodesic", {"reach_mm": 9.0}), "spacing": (2.0, 2.0, 2.0)}
    without = draw_channels(rows, 1, (11, 11, 11), **how)
    assert torch.equal(without, draw_channels(rows, 1, (11, 11, 11), image=torch.zeros(1, 1, 11, 11, 11), **how))
    assert without[0, 0, 5, 5, 5] == 1


def test_encode__is_the_same_in_pieces(monkeypatch):
    rows = torch.from_numpy(
        np.column_stack([np.zeros((40, 2)), np.random.default_rng(0).integers(0, 12, (40, 3))])
    ).long()
    for encoding in STENCILS:
        how = {"plan": plan_encoding(encoding, SMALL.get(encoding, {})), "spacing": (2.0, 2.0, 3.0)}
        whole = draw_channels(rows, 1, (12, 12, 12), **how)
        with monkeypatch.context() as patch:
            patch.setattr("clickseg.data.prompt_channels.CHUNK", 1)
            torch.testing.assert_close(draw_channels(rows, 1, (12, 12, 12), **how), whole, atol=1e-6, rtol=0)


def test_encode__keeps_samples_with_their_own_spacing_apart():
    rows = torch.tensor([[0, 0, 5, 5, 5], [1, 0, 5, 5, 5]])
    two = [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)]
    both = draw_channels(rows, 2, (11, 11, 11), plan=plan_encoding("ball", {"radius_mm": 4.0}), spacing=two)
    for n, spacing in enumerate(two):
        one = draw_channels(rows[:1], 1, (11, 11, 11), plan=plan_encoding("ball", {"radius_mm": 4.0}), spacing=spacing)
        assert torch.equal(both[n], one[0])
    assert not torch.equal(both[0], both[1])


def test_encode__draws_nothing_for_rows_that_are_switched_off():
    rows = torch.tensor([[-1, 0, 2, 2, 2], [-1, 1, 0, 0, 0]])
    assert not draw_channels(
        rows, 1, (5, 5, 5), plan=plan_encoding("gaussian", {"sigma_mm": 2.0}), spacing=(1.0, 1.0, 1.0)
    ).any()


def test_encode__of_a_scribble_is_the_highest_of_its_voxels():
    path = tuple((i, 4, 4) for i in range(2, 8))
    prompts = Prompts((Scribble(path, True), Click((1, 1, 1), False)), Grid.from_spacing((10, 9, 9), (2, 2, 3)))
    rows = torch.from_numpy(channel_rows(prompts))
    drawn = draw_channels(
        rows, 1, (10, 9, 9), plan=plan_encoding("gaussian", {"sigma_mm": 3.0}), spacing=(2.0, 2.0, 3.0)
    )[0]
    assert all(drawn[0][voxel] == 1 for voxel in path)
    assert drawn[1, 1, 1, 1] == 1
    assert drawn[0].max() == 1


def test_stencil__has_the_values_of_an_edt_ball():
    offsets, values = stencil(plan_encoding("edt-ball", {"radius_mm": 2.0}), (1.0, 1.0, 1.0))
    found = {tuple(sorted(map(abs, o.tolist()))): float(v) for o, v in zip(offsets, values, strict=True)}
    published = {(0, 0, 0): 5, (0, 0, 1): 2, (0, 1, 1): 1, (1, 1, 1): 1, (0, 0, 2): 1}
    assert found == pytest.approx({key: (square / 5) ** 0.5 for key, square in published.items()})
    assert len(offsets) == 33


def test_reach_vx__is_that_of_the_stencil_or_everything():
    assert reach_vx(plan_encoding("ball", {"radius_mm": 4.0}), (2.0, 2.0, 4.0)) == (2, 2, 1)
    assert reach_vx(plan_encoding("geodesic", {"reach_mm": 10.0, "mix": 0.5}), (2.0, 2.0, 4.0)) == (10, 10, 5)
    assert reach_vx(plan_encoding("inverse-distance", {}), (2.0, 2.0, 4.0)) == (EVERYWHERE,) * 3


def test_model_settings__take_any_encoding_with_its_settings():
    model = ModelSettings.of({"encoding": "geodesic", "encoding_reach_mm": 12, "encoding_threshold": 0.5})
    assert model.plan["reach_mm"] == 12.0
    assert ModelSettings.of(model.plain()) == model
    assert ModelSettings.of(model.inherit({"size": "tiny"})).plan["reach_mm"] == 12.0
    assert ModelSettings.of(model.inherit({"encoding": "ball"})).plan["radius_mm"] == 5.0
    assert ModelSettings(encoding="lesionlocator").plan["radius_vx"] == 2.0
    for values, message in (
        ({"encoding": "gausian"}, "did you mean 'gaussian'"),
        ({"encoding_sigma_mm": 3}, "unknown setting 'sigma_mm' of edt-ball"),
        ({"encoding_decay": 0.9}, "prompts of equal weight"),
        ({"encoding": "nninteractive"}, "give encoding=edt-ball encoding_radius_vx=4.0"),
        ({"encodin": "ball"}, "did you mean 'encoding'"),
    ):
        with pytest.raises(SettingError, match=message):
            ModelSettings.of(values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("encoding", EVERY)
def test_encode__is_the_same_on_a_gpu(encoding):
    draws = np.random.default_rng(0)
    rows = torch.from_numpy(np.column_stack([draws.integers(0, 2, (200, 2)), draws.integers(-2, 34, (200, 3))]))
    how = {"plan": plan_encoding(encoding, SMALL.get(encoding, {})), "spacing": (2.0, 2.0, 3.0)}
    here = draw_channels(rows, 2, (32, 32, 32), **how)
    there = draw_channels(rows.cuda(), 2, (32, 32, 32), **how).cpu()
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)

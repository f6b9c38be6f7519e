"""The network, its channels, its loss, and checkpoints."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")
pytest.importorskip("monai", reason="clickseg needs MONAI, which is not installed")

from clickseg.model.checkpoint import (  # noqa: E402
    CheckpointError,
    load_model,
    optimizer_tensors,
    put_optimizer,
    read_about,
    save_checkpoint,
)
from clickseg.model.losses import dice, make_loss  # noqa: E402
from clickseg.model.network import CHANNELS, FILTERS, finest, make_model, strides  # noqa: E402
from clickseg.training_metrics import Metrics  # noqa: E402
from clickseg.training_settings import SIZES, ModelSettings  # noqa: E402
from clicksim.errors import SettingError  # noqa: E402

pytestmark = pytest.mark.torch
TINY = ModelSettings(size="tiny", patch=(16, 16, 8))
SHAPE = (16, 16, 8)


def volume(value, batch=1):
    return torch.full((batch, 1, *SHAPE), float(value))


def test_channels__are_normalised_by_the_stated_rule():
    model = make_model(TINY, 0)
    guidance = torch.rand(2, 2, *SHAPE)
    x = model.channels(
        volume(-2000, 2), volume(150, 2), guidance, previous=volume(1, 2), has_pet=torch.tensor([True, False])
    )
    assert x.shape == (2, len(CHANNELS), *SHAPE)
    assert x[:, 0].unique().tolist() == pytest.approx([-1000 / 300])
    assert x[0, 1].unique().tolist() == pytest.approx([np.log(101)])
    assert not x[1, 1].any()
    assert x[:, 2].mean((1, 2, 3)).tolist() == [0, 1]
    assert x[:, 3].all()
    assert torch.equal(x[:, 4:], guidance)


def test_channels__without_pet_are_those_of_a_pet_withheld():
    model, guidance = make_model(TINY, 0), torch.zeros(1, 2, *SHAPE)
    without = model.channels(volume(40), None, guidance)
    withheld = model.channels(volume(40), volume(3), guidance, has_pet=torch.tensor([False]))
    assert torch.equal(without, withheld)


@pytest.mark.parametrize("size", SIZES)
def test_strides__keep_four_voxels_along_each_axis(size):
    for patch in ((16, 16, 8), (128, 128, 96), (192, 192, 192)):
        steps = strides(ModelSettings(size=size, patch=patch))
        assert len(steps) == len(FILTERS[size])
        assert np.all(np.array(patch) / np.prod(steps, axis=0) >= 4)


def test_make_model__depends_on_the_seed_alone_and_leaves_the_generator():
    before = torch.random.get_rng_state()
    one, two, three = (make_model(TINY, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(one.weights().values(), two.weights().values(), three.weights().values(), strict=True)
    same = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert all(a for a, _ in same)
    assert not all(b for _, b in same)


def test_make_model__expects_few_lesions_at_the_start():
    model = make_model(TINY.but(head_bias=-4.0), 0)
    with torch.no_grad():
        logits = model(torch.zeros(1, len(CHANNELS), *SHAPE))
    assert logits.shape == (1, 1, *SHAPE)
    assert logits.mean().item() == pytest.approx(-4, abs=1)


def test_make_model__with_deep_supervision_has_coarser_outputs_in_training_only():
    model = make_model(TINY.but(deep_supervision=2, size="small", patch=(32, 32, 32)), 0)
    x = torch.zeros(1, len(CHANNELS), 32, 32, 32)
    logits = model(x)
    assert logits.shape == (1, 3, 1, 32, 32, 32)
    assert finest(logits).shape == model.eval()(x).shape == (1, 1, 32, 32, 32)
    loss = make_loss()(logits, torch.zeros(1, 1, 32, 32, 32))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_make_model__refuses_more_coarser_outputs_than_the_network_has():
    for size, most in (("tiny", 1), ("small", 2)):
        with pytest.raises(SettingError, match=f"is {most + 1}, but a {size} network has at most {most} coarser"):
            make_model(TINY.but(deep_supervision=most + 1, size=size), 0)


def test_make_model__refuses_a_patch_that_it_cannot_halve():
    with pytest.raises(SettingError, match="multiple of that, such as 24"):
        make_model(TINY.but(patch=(22, 16, 16)), 0)


def test_model__says_how_far_a_prompt_reaches():
    model = make_model(TINY.but(encoding="ball", encoding_settings={"radius_mm": 6.0}), 0)
    assert model.margin_vx((2.0, 3.0, 4.0)) == (3, 2, 1)


# --- loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesion", [0, 5])
def test_make_loss__is_defined_with_and_without_a_lesion(lesion):
    label = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
    label[0, 0, :lesion, :2, :2] = 1
    good = torch.where(label == 1, 12.0, -12.0).float()
    values = []
    for logits in (good, torch.zeros_like(good), -good):
        logits.requires_grad_()
        value = make_loss()(logits, label)
        value.backward()
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().sum() > 0
        values.append(value.item())
    assert values[0] < 0.05 < values[1] < values[2]


def test_make_loss__counts_each_coarser_output_half_as_much():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 1, 8, 8, 8), generator=draws)
    label = (torch.rand((2, 1, 8, 8, 8), generator=draws) > 0.7).to(torch.uint8)
    fine, middle, coarse = (make_loss()(logits[:, n], label).item() for n in range(3))
    assert make_loss()(logits, label).item() == pytest.approx((4 * fine + 2 * middle + coarse) / 7, rel=1e-5)


def test_make_loss__of_a_batch_counts_false_positives_of_patches_without_lesion():
    label = torch.zeros(2, 1, 8, 8, 8)
    label[0, 0, :4, :4, :4] = 1
    clean = torch.where(label == 1, 9.0, -9.0)
    dirty = clean.clone()
    dirty[1, 0, :4, :4, :4] = 9.0
    assert make_loss()(dirty, label) > make_loss()(clean, label) + 0.3


def test_make_loss__takes_its_dice_over_the_batch_so_that_a_small_lesion_does_not_outweigh_a_large_one():
    label = torch.zeros(2, 1, 8, 8, 8)
    label[0, 0, :4, :4, :4] = 1
    label[1, 0, 0, 0, 0] = 1
    missed = torch.where(label == 1, 9.0, -9.0)
    missed[1] = -9.0
    assert make_loss()(missed, label) < 0.1


def test_dice__has_named_edges():
    none, some = torch.zeros(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)
    half = some.clone()
    half[..., :2] = 0
    found = [dice(a, b).item() for a, b in ((none, none), (some, none), (none, some), (some, some), (half, some))]
    assert found == pytest.approx([1, 0, 0, 1, 2 / 3])


# --- checkpoints ---------------------------------------------------------------------------------


def test_save_checkpoint__is_whole_or_not_there(tmp_path, monkeypatch):
    model, file = make_model(TINY, 0), tmp_path / "a.safetensors"
    about = {"model": TINY.plain(), "step": 3}
    save_checkpoint(file, {"network": model.weights()}, about)

    def half(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr("clickseg.model.checkpoint.save_file", half)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(file, {"network": model.weights()}, {**about, "step": 4})
    assert read_about(file)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_load_model__takes_the_running_mean_where_there_is_one(tmp_path):
    model, other, file = make_model(TINY, 0), make_model(TINY, 1), tmp_path / "a.safetensors"
    for groups, expected in (({"average": other.weights()}, other), ({}, model)):
        save_checkpoint(file, {"network": model.weights(), **groups}, {"model": TINY.plain()})
        loaded, _ = load_model(file)
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.weights().values(), expected.weights().values(), strict=True)
        )


def test_load_model__refuses_weights_of_another_network(tmp_path):
    file = tmp_path / "a.safetensors"
    save_checkpoint(file, {"network": make_model(TINY, 0).weights()}, {"model": {**TINY.plain(), "size": "small"}})
    with pytest.raises(CheckpointError, match="tensors differ"):
        load_model(file)


def test_save_checkpoint__leaves_metadata_that_is_read_without_torch(tmp_path):
    from safetensors import safe_open

    file = tmp_path / "a.safetensors"
    save_checkpoint(file, {"network": make_model(TINY, 0).weights()}, {"model": TINY.plain()})
    with safe_open(file, "numpy") as opened:
        assert '"size": "tiny"' in opened.metadata()["clickseg"]


def test_put_optimizer__goes_on_to_the_same_weights():
    models = [make_model(TINY, 0), make_model(TINY, 0)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in models]
    x = torch.rand(1, len(CHANNELS), *SHAPE)
    for step in range(4):
        if step == 2:  # the second one is put aside and taken up again
            state = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizers[1]).items()}
            optimizers[1] = torch.optim.AdamW(models[1].parameters(), lr=1e-2)
            put_optimizer(optimizers[1], state)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    pairs = zip(models[0].weights().values(), models[1].weights().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_metrics__forget_what_a_continuation_measures_again(tmp_path):
    metrics = Metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.add(step, "loss", step / 2)
        metrics.add(step, "dice", 0.5, 3)
    metrics.write()
    again = Metrics(tmp_path)
    again.read(2)
    assert [row["step"] for row in again.rows] == [1, 1, 2, 2]
    assert again.rows == metrics.rows[:4]


def test_metrics__draw_what_is_finite(tmp_path):
    metrics = Metrics(tmp_path)
    for step, value in enumerate((0.5, math.nan, math.inf, 0.2), start=1):
        metrics.add(step, "loss", value)
    metrics.write()
    assert (tmp_path / "curve.png").is_file()
    assert len(metrics.table()) == 4

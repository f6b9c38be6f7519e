"""Prediction: windows and their sum, sessions that compute only what changed, and the way back to the case's grid."""

import sys
import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from click.testing import CliRunner  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from clickseg.cli import main  # noqa: E402
from clickseg.data.prompt_channels import channel_rows  # noqa: E402
from clickseg.model.network import make_model  # noqa: E402
from clickseg.model.windows import Blend, Windows, hull  # noqa: E402
from clickseg.predict import Options, RoundsPredictor, Session, open_session  # noqa: E402
from clickseg.training_settings import ModelSettings, StoreRules  # noqa: E402
from clicksim.errors import ClicksimError, GeometryError, ImageError, SettingError  # noqa: E402
from clicksim.geometry import Grid  # noqa: E402
from clicksim.guidance import ENCODINGS  # noqa: E402
from clicksim.phantom import make_phantom  # noqa: E402
from clicksim.predictors import Scan  # noqa: E402
from clicksim.prompts import Box, Click, Prompts, Scribble  # noqa: E402
from clicksim.prompts.prompt_files import write_prompts  # noqa: E402
from clicksim.rounds import RoundsCase, play  # noqa: E402
from clicksim.volumes import read_image, write_image  # noqa: E402
from tests.clickseg_models import write_model  # noqa: E402

pytestmark = pytest.mark.torch
RULES = StoreRules(spacing_mm=(8.0, 8.0, 8.0))
SETTINGS = ModelSettings(size="tiny", patch=(16, 16, 16), head_bias=0.0, encoding_settings={"radius_mm": 9.0})


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(1, shape=(48, 40, 96), spacing=(4.0, 4.0, 4.0), n_lesions=4)


@pytest.fixture(scope="module")
def model():
    return make_model(SETTINGS, 3).eval()


def session_on(model, phantom, **options):
    session = Session(model, RULES, Options(**options))
    session.set_case(phantom.grid, phantom.ct, phantom.pet)
    return session


def prompts_on(phantom, *items):
    return Prompts(tuple(Click(voxel, foreground) for voxel, foreground in items), phantom.grid)


@pytest.fixture(scope="module")
def faint(phantom):
    """A model of small windows that takes a few voxels for lesion, so that most windows hold none."""
    found = make_model(SETTINGS.but(patch=(8, 8, 8)), 3).eval()
    session = session_on(found, phantom)
    session.prompt(prompts_on(phantom))
    logits = np.sort(session._case.logits().ravel())
    with torch.no_grad():
        found.network.output_block.conv.conv.bias -= float(logits[-4])
    return found


def far_from(mask, number):
    """A voxel of the case's grid, twice as fine, whose windows hold nothing of a mask of the model's grid."""
    quiet = [v for v in np.ndindex(*mask.shape) if not mask[tuple(slice(max(0, a - 10), a + 11) for a in v)].any()]
    return tuple(2 * a for a in quiet[number * (len(quiet) - 1) // 2])


def whole(model, phantom, items, previous):
    """The logits of a fresh session that computes every window."""
    fresh = session_on(model, phantom, keep_windows=False)
    rows = channel_rows(fresh._case.frame.prompts(Prompts(items, phantom.grid)))
    fresh._case.answer(rows, previous)
    assert fresh._case.computed == len(fresh._case.windows)
    return fresh._case.logits()


# windows

lengths = st.tuples(*[st.integers(1, 21)] * 3)
sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(lengths, sizes, st.sampled_from([0.0, 0.25, 0.5, 0.8]))
def test_windows__cover_every_voxel_and_stay_inside(shape, size, overlap):
    windows = Windows(shape, size, overlap)
    seen = np.zeros(shape, int)
    for number, start in enumerate(windows.starts):
        assert all(a >= 0 and (a + s <= n or a == 0) for a, s, n in zip(start, size, shape, strict=True))
        seen[windows.inside(number)] += 1
    assert seen.min() >= 1


@given(lengths, sizes, st.data())
def test_windows__touching_are_those_that_share_a_voxel(shape, size, data):
    windows = Windows(shape, size)
    low = [data.draw(st.integers(-4, n + 3)) for n in shape]
    high = [a + data.draw(st.integers(0, 5)) for a in low]
    marked = np.zeros([n + 40 for n in shape], bool)
    marked[tuple(slice(a + 10, b + 11) for a, b in zip(low, high, strict=True))] = True
    slow = {
        n
        for n, start in enumerate(windows.starts)
        if marked[tuple(slice(a + 10, a + 10 + s) for a, s in zip(start, size, strict=True))].any()
    }
    assert windows.touching(low, high) == slow


@given(lengths, sizes, st.integers(0, 99))
def test_blend__is_the_weighted_mean(shape, size, seed):
    windows, rng = Windows(shape, size), np.random.default_rng(seed)
    logits = [rng.normal(size=size).astype(np.float16) for _ in range(len(windows))]
    total, weight = np.zeros(shape), np.zeros(shape)
    grids = np.meshgrid(*[np.arange(s) - (s - 1) / 2 for s in size], indexing="ij")
    gauss = np.exp(-0.5 * sum((g / (s / 8)) ** 2 for g, s in zip(grids, size, strict=True)))
    blend = Blend(windows)
    for n in range(len(windows)):
        inside = windows.inside(n)
        own = tuple(slice(0, s.stop - s.start) for s in inside)
        total[inside] += gauss[own] * logits[n][own]
        weight[inside] += gauss[own]
        blend.add(n, logits[n])
    np.testing.assert_allclose(blend.mean(), total / weight, rtol=1e-3, atol=1e-4)


@given(lengths, sizes, st.integers(0, 99), st.data())
def test_blend__renewed_in_part_equals_made_at_once(shape, size, seed, data):
    windows, rng = Windows(shape, size), np.random.default_rng(seed)
    logits = [rng.normal(size=size).astype(np.float16) for _ in range(len(windows))]
    blend, fresh = Blend(windows), Blend(windows)
    for n in range(len(windows)):
        blend.add(n, logits[n])
    changed = data.draw(st.sets(st.integers(0, len(windows) - 1), min_size=1))
    for n in changed:
        logits[n] = rng.normal(size=size).astype(np.float16)
    box = hull(windows.inside(n) for n in changed)
    blend.clear(box)
    for n in range(len(windows)):
        blend.add(n, logits[n], box)
        fresh.add(n, logits[n])
    assert np.array_equal(blend.mean(), fresh.mean())


def test_windows__refuse_an_overlap_of_one():
    with pytest.raises(SettingError, match="from 0 to below 1"):
        Windows((4, 4, 4), (2, 2, 2), 1.0)


# sessions


def test_session__computes_only_what_changed_and_equals_the_whole(phantom, faint):
    model = faint
    session, shares = session_on(model, phantom), []
    session.prompt(prompts_on(phantom))
    for number, foreground in enumerate((True, False, True)):
        previous = session.mask
        session.prompt(prompts_on(phantom, (far_from(session.mask, number), foreground)))
        assert np.array_equal(session._case.logits(), whole(model, phantom, session.items, previous))
        shares.append(session.computed / len(session._case.windows))
    assert max(shares) < 0.5
    assert min(shares) > 0


def test_session__touched_windows_are_needed(phantom, faint, monkeypatch):
    # the equality above is no empty word: without the prompt's own windows it fails
    model = faint
    session = session_on(model, phantom)
    session.prompt(prompts_on(phantom))
    previous = session.mask
    monkeypatch.setattr(Windows, "touching", lambda self, low, high: set())
    session.prompt(prompts_on(phantom, (far_from(previous, 0), True)))
    monkeypatch.undo()
    assert not np.array_equal(session._case.logits(), whole(model, phantom, session.items, previous))


@pytest.mark.parametrize("encoding", [*ENCODINGS.names, "tutorial-gaussian@1"])
def test_session__is_exact_for_every_encoding(phantom, encoding):
    model = make_model(SETTINGS.but(encoding=encoding, encoding_settings={}), 3).eval()
    session = session_on(model, phantom)
    stroke = Scribble(tuple((20 + n, 20, 40) for n in range(6)), True)
    session.prompt(prompts_on(phantom))
    previous = session.mask
    session.prompt(Prompts((stroke, Click((20, 20, 40), True)), phantom.grid))
    assert np.array_equal(session._case.logits(), whole(model, phantom, session.items, previous))


def test_session__counts_the_windows_of_a_prompt(phantom, faint):
    # exactly those that its stencil reaches, and those in which the mask to correct has changed
    session = session_on(faint, phantom)
    session.prompt(prompts_on(phantom))
    windows, before, nothing = session._case.windows, np.zeros(session.shape, bool), np.zeros(session.shape, bool)
    for number, foreground in enumerate((True, False)):
        mask = session.mask
        voxel = far_from(mask, number)
        session.prompt(prompts_on(phantom, (voxel, foreground)))
        reached = nothing.copy()
        place, margin = np.asarray(voxel) // 2, faint.margin_vx((8.0, 8.0, 8.0))
        reached[tuple(slice(max(0, p - m), p + m + 1) for p, m in zip(place, margin, strict=True))] = True
        changed = reached | (mask != before)
        assert session.computed == sum(bool(changed[windows.inside(n)].any()) for n in range(len(windows)))
        before = mask
    assert session.computed < len(windows) / 2


def test_session__needs_the_memory_that_is_stated(model):
    # on the host, over CT and PET: one volume and a few of a moment, however many windows there are
    shape = (32, 48, 64)
    grid = Grid.from_spacing(shape, (8.0, 8.0, 8.0))
    ct, pet = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    voxels, peaks, held, kept = int(np.prod(shape)), [], [], []
    click = Prompts((Click((5, 5, 5), True),), grid)
    for overlap, keep in ((0.0, False), (0.5, False), (0.5, True)):
        session = Session(model, RULES, Options(overlap=overlap, keep_windows=keep))
        if not peaks:  # what is imported and compiled at first use is not meant
            session.set_case(grid, ct, pet)
            session.prompt(click)
        session.set_case(grid, ct, pet)
        tracemalloc.start()
        session.prompt(click)
        held_now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        peaks.append(peak / voxels)
        held.append(held_now / voxels)
        kept.append(2 * 16**3 * len(session._case.windows) / voxels)
    assert kept[1] > 4 * kept[0]
    assert abs(peaks[1] - peaks[0]) < 1  # bytes a voxel
    assert peaks[1] < 24
    assert held[1] < 5  # the float32 volume, and masks in bits
    assert abs(held[2] - held[1] - kept[2]) < 1
    assert peaks[2] < peaks[1] + kept[2] + 1


def test_session__undo_and_reset_leave_no_trace(phantom, model):
    session = session_on(model, phantom)
    clicks = [prompts_on(phantom), prompts_on(phantom, ((5, 5, 5), True)), prompts_on(phantom, ((40, 30, 90), False))]
    answers = [session.prompt(turn) for turn in clicks]
    assert np.array_equal(session.undo(), answers[1])
    assert np.array_equal(session.prompt(clicks[2]), answers[2])
    session.undo()
    assert np.array_equal(session.undo(), answers[0])
    assert session.undo() is None
    with pytest.raises(SettingError, match="no turn to take back"):
        session.undo()
    session.prompt(clicks[2])
    session.reset()
    assert all(np.array_equal(session.prompt(turn), answer) for turn, answer in zip(clicks, answers, strict=True))


def test_session__a_turn_without_new_prompts_repeats_the_answer(phantom, model):
    session = session_on(model, phantom)
    first = session.prompt(prompts_on(phantom))
    session.computed = -1
    assert np.array_equal(session.prompt(prompts_on(phantom)), first)
    assert session.computed == -1


def test_session__an_interrupted_turn_is_as_if_it_had_not_been(phantom, faint):
    model = faint
    session, other = session_on(model, phantom), session_on(model, phantom)
    for one in (session, other):
        one.prompt(prompts_on(phantom))
    click, later = (prompts_on(phantom, (far_from(session.mask, number), True)) for number in (0, 2))

    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    session.progress = stop
    with pytest.raises(KeyboardInterrupt):
        session.prompt(click)
    session.progress = None
    assert session.items == ()
    session.prompt(later)
    other.prompt(later)
    assert np.array_equal(session._case.logits(), other._case.logits())
    assert all(np.array_equal(session._case._kept[n], logits) for n, logits in other._case._kept.items())


def test_session__mirroring_makes_the_answer_mirror(phantom, model):
    # a mean over mirrored copies cannot tell left from right, where windows lie alike
    grid = Grid.from_spacing((16, 16, 16), (8.0, 8.0, 8.0))
    rng = np.random.default_rng(5)
    ct, pet = rng.normal(0, 200, (16, 16, 16)), rng.random((16, 16, 16)) * 5
    none = Prompts((), grid)
    for mirror, alike in (("R", True), ("", False)):
        session = Session(model, RULES, Options(mirror=mirror))
        session.set_case(grid, ct, pet)
        session.prompt(none)
        one = session.probability()
        session.set_case(grid, ct[::-1], pet[::-1])
        session.prompt(none)
        assert np.allclose(one, session.probability()[::-1], atol=1e-3) == alike
    assert len(Options(mirror="RAS").flips) == 8
    with pytest.raises(SettingError, match="mirror must name axes"):
        Options(mirror="RX")


def test_session__answers_on_the_grid_of_the_case(model):
    # the same tissue stored with other axes gives the same mask, stored so
    rng = np.random.default_rng(2)
    shape = (10, 12, 14)
    ct, pet = rng.normal(0, 200, shape).astype(np.float32), rng.random(shape).astype(np.float32) * 5
    grid = Grid.from_spacing(shape, (8.0, 8.0, 8.0))
    turned = grid.permute((2, 0, 1)).flip(0)
    other = [np.flip(np.transpose(array, (2, 0, 1)), 0) for array in (ct, pet)]
    session = Session(model, RULES)
    session.set_case(grid, ct, pet)
    first = session.prompt(Prompts((Click((1, 2, 3), True),), grid))
    session.set_case(turned, *other)
    second = session.prompt(Prompts((Click((14 - 1 - 3, 1, 2), True),), turned))
    assert 0 < first.sum() < first.size
    assert np.array_equal(np.flip(np.transpose(first, (2, 0, 1)), 0), second)


@pytest.mark.parametrize("has_pet", [True, False])
def test_session__one_window_is_the_network_on_its_channels(model, has_pet):
    # a case smaller than a window: air beyond its end, fixed normalisation, guidance, previous mask
    rng = np.random.default_rng(4)
    shape, whole_shape = (10, 12, 14), (16, 16, 16)
    ct, pet = np.rint(rng.normal(0, 400, shape)), rng.random(shape).astype(np.float32) * 5
    grid, previous = Grid.from_spacing(shape, (8.0, 8.0, 8.0)), rng.random(shape) > 0.8
    clicks = Prompts((Click((1, 2, 3), True), Click((9, 11, 13), False)), grid)
    session = Session(model, RULES)
    session.set_case(grid, ct, pet if has_pet else None)
    session.prompt(clicks, previous=previous)

    def padded(array, outside):
        out = np.full(whole_shape, outside, np.float32)
        out[:10, :12, :14] = array
        return torch.from_numpy(out)[None, None]

    channels = [padded(ct, -1024).clamp(-1000, 1000) / 300]
    channels += [padded(np.log1p(pet) if has_pet else 0, 0), torch.full((1, 1, *whole_shape), float(not has_pet))]
    distances = np.indices(whole_shape)
    for voxel in ((1, 2, 3), (9, 11, 13)):
        mm = 8 * np.sqrt(sum((d - v) ** 2 for d, v in zip(distances, voxel, strict=True)))
        channels.append(torch.from_numpy((mm <= 9).astype(np.float32))[None, None])
    x = torch.cat([*channels[:3], padded(previous, 0), *channels[3:]], dim=1)
    drawn = model.guidance(torch.from_numpy(channel_rows(clicks)), 1, whole_shape, (8.0, 8.0, 8.0))
    assert torch.equal(drawn > 0, x[:, 4:] > 0)
    x[:, 4:] = drawn
    with torch.no_grad():
        expected = torch.sigmoid(model(x))[0, 0, :10, :12, :14].numpy()
    np.testing.assert_allclose(session.probability(), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("voxel", "start"), [((0, 0, 0), (0, 0, 0)), ((10, 12, 6), (2, 4, 0)), ((19, 23, 11), (4, 8, 0))]
)
def test_trial__is_a_whole_window_that_stays_inside_the_volume(model, voxel, start):
    shape, size = (20, 24, 12), (16, 16, 16)  # the last axis is shorter than the window
    rng = np.random.default_rng(5)
    ct, pet = np.rint(rng.normal(0, 400, shape)), rng.random(shape).astype(np.float32) * 5
    grid = Grid.from_spacing(shape, (8.0, 8.0, 8.0))
    session = Session(model, RULES)
    session.set_case(grid, ct, pet)
    trial = session.trial(Prompts((Click(voxel, True),), grid))
    local = tuple(np.subtract(voxel, start).tolist())
    assert [item.voxels[0] for item in trial.prompts] == [local]
    assert trial.guidance[0][local] == trial.guidance.max() > 0
    part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    images = [np.full(size, outside, np.float32) for outside in (-1024, 0)]
    for image, volume in zip(images, (ct, pet), strict=True):
        image[:, :, :12] = volume[part]
    tensors = [torch.from_numpy(array)[None, None] for array in images]
    with torch.no_grad():
        x = model.channels(*tensors, torch.from_numpy(trial.guidance)[None])
        expected = torch.sigmoid(model(x))[0, 0].numpy()
    np.testing.assert_allclose(trial.predict(trial.guidance), expected, atol=1e-6)


def test_session__a_case_without_pet_is_told_apart_from_one_without_uptake(phantom, model):
    session = session_on(model, phantom)
    session.set_case(phantom.grid, phantom.ct, np.zeros_like(phantom.pet))
    session.prompt(prompts_on(phantom))
    silent = session.probability()
    session.set_case(phantom.grid, phantom.ct)
    session.prompt(prompts_on(phantom))
    assert not np.array_equal(silent, session.probability())


def test_session__refuses_what_it_cannot_use(phantom, model):
    session = Session(model, RULES)
    with pytest.raises(SettingError, match="call set_case first"):
        session.prompt(prompts_on(phantom))
    with pytest.raises(ImageError, match="needs a CT"):
        session.set_case(phantom.grid, None, phantom.pet)
    spoiled = phantom.pet.copy()
    spoiled[3, 3, 3] = np.nan
    with pytest.raises(ImageError, match="the PET has values that are NaN"):
        session.set_case(phantom.grid, phantom.ct, spoiled)
    with pytest.raises(GeometryError, match="no affine"):
        session.set_case(Grid(phantom.grid.shape), phantom.ct)
    session.set_case(phantom.grid, phantom.ct, phantom.pet)
    with pytest.raises(GeometryError, match="outside the volume"):
        session.prompt(prompts_on(phantom, ((48, 0, 0), True)))
    with pytest.raises(SettingError, match="not boxes"):
        session.prompt(Prompts((Box((0, 0, 0), (1, 1, 1)),), phantom.grid))
    with pytest.raises(GeometryError, match="different grids"):
        session.prompt(Prompts((), Grid.from_spacing((4, 4, 4), (1, 1, 1))))
    with pytest.raises(GeometryError, match="model's grid"):
        session.prompt(prompts_on(phantom), previous=np.zeros((2, 2, 2), bool))
    with pytest.raises(SettingError, match="unknown device"):
        open_session_on("warp")


def open_session_on(device):
    from clickseg.predict import choose_device

    return choose_device(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that Torch can use")
def test_session__on_a_gpu_says_what_it_says_on_the_cpu(phantom, model):
    session = session_on(model, phantom)
    session.prompt(prompts_on(phantom, ((5, 5, 5), True)))
    expected = session.probability()
    on_gpu = session_on(make_model(SETTINGS, 3, "cuda").eval(), phantom, device="cuda")
    on_gpu.prompt(prompts_on(phantom, ((5, 5, 5), True)))
    assert np.abs(on_gpu.probability() - expected).max() < 0.05  # half precision there


# rounds and the command line


def test_rounds_predictor__plays_a_game_and_shows_changed_prompts_anew(phantom, model):
    predictor = RoundsPredictor(Session(model, RULES))
    scan = Scan("a", phantom.grid, phantom.ct, phantom.pet)
    game = play(RoundsCase(scan, phantom.label), predictor, protocol="autopet-v@2", n_rounds=3)
    assert [row["failure"] for row in game.rows] == [None] * 3
    assert predictor.session._case is None
    one, two = prompts_on(phantom, ((5, 5, 5), True)), prompts_on(phantom, ((9, 9, 9), True))
    predictor(scan, one)
    changed = predictor(Scan("a", phantom.grid, phantom.ct, phantom.pet, round=1), two)
    fresh = session_on(model, phantom)
    assert np.array_equal(changed, fresh.prompt(two))


@pytest.fixture(scope="module")
def files(tmp_path_factory, phantom):
    folder = tmp_path_factory.mktemp("case")
    for name in ("ct", "pet"):
        write_image(folder / f"{name}.nii.gz", getattr(phantom, name), phantom.grid)
    write_prompts(folder / "clicks.json", prompts_on(phantom, ((5, 5, 5), True)), "plain")
    write_model(folder / "model.safetensors")
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_predict__command_equals_the_session(files, phantom, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # only the container needs it
    base = ["predict", files / "model.safetensors", "--ct", files / "ct.nii.gz", "--pet", files / "pet.nii.gz"]
    result = run(*base, "--prompts", files / "clicks.json", "--out", tmp_path / "m.nii.gz", "--device", "cpu",
                 "--probability", tmp_path / "p.nii.gz")  # fmt: skip
    assert result.exit_code == 0, result.output
    session, _ = open_session(files / "model.safetensors", Options(device="cpu"))
    session.set_case(phantom.grid, phantom.ct, phantom.pet)
    session.prompt(prompts_on(phantom))
    expected = session.prompt(prompts_on(phantom, ((5, 5, 5), True)))
    written = read_image(tmp_path / "m.nii.gz")
    assert np.array_equal(written.array, expected)
    assert written.grid.same_as(phantom.grid)
    assert np.array_equal(read_image(tmp_path / "p.nii.gz").array > 0.5, expected > 0)


def test_predict__command_refuses_in_one_line(files, phantom, tmp_path):
    (tmp_path / "bad.json").write_text("[1, 2]")
    base = ["predict", files / "model.safetensors", "--ct", files / "ct.nii.gz", "--out", tmp_path / "m.nii.gz"]
    for extra, words in (
        (["--prompts", tmp_path / "bad.json"], "JSON object"),
        (["--mirror", "X"], "mirror must name axes"),
        (["--device", "cpu; ls"], "unknown device"),
        (["--pet", files / "ct.nii.gz"], "is this a CT?"),
        (["--device", "cuda"], "no GPU") if not torch.cuda.is_available() else (["--device", "warp"], "unknown device"),
    ):
        result = run(*base, *extra)
        assert result.exit_code == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "m.nii.gz").exists()
    assert issubclass(SettingError, ClicksimError)

"""The training loop: the same numbers however it is run, and a model that listens to prompts."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")
pytest.importorskip("monai", reason="clickseg needs MONAI, which is not installed")

from click.testing import CliRunner  # noqa: E402

from clickseg import correction_rounds as rounds  # noqa: E402
from clickseg import train  # noqa: E402
from clickseg.cli import main  # noqa: E402
from clickseg.correction_rounds import play_corrections, spoil  # noqa: E402
from clickseg.data.dataset import PatchDataset, collate  # noqa: E402
from clickseg.data.patch_store import open_store  # noqa: E402
from clickseg.data.prepare import prepare_store  # noqa: E402
from clickseg.model.checkpoint import CheckpointError, load_model, read_about, read_tensors, save_checkpoint  # noqa: E402
from clickseg.model.network import make_model  # noqa: E402
from clickseg.process_group import join_process_group  # noqa: E402
from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings  # noqa: E402
from clicksim.catalog.folds import read_folds  # noqa: E402
from clicksim.errors import CatalogError, SettingError  # noqa: E402
from tests.clickseg_models import write_model  # noqa: E402
from tests.clickseg_phantoms import SPACING, write_toys  # noqa: E402
from tests.commands import done  # noqa: E402

pytestmark = pytest.mark.torch

MODEL = ModelSettings(size="tiny", patch=(16, 16, 16), encoding_settings={"radius_mm": 8.0})
QUICK = TrainSettings(
    steps=4, batch=2, workers=0, rate=3e-3, corrections=2, corrections_from=0.0, corrections_full=0.5, average=0.9,
    affine=0.5, silent=0.1, log_every=1, save_every=2, validate_every=2, validation_patches=3, validation_rounds=1,
    max_prompts=3,
)  # fmt: skip
LONGER = QUICK.but(steps=16, save_every=100, validate_every=8)


@pytest.fixture(scope="module", autouse=True)
def _one_cpu():
    """One thread, and no GPU where there is one: what is compared must be computed alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clickseg-train")
    write_toys(place / "catalog")
    prepare_store(place / "catalog", place / "store", StoreRules(spacing_mm=SPACING))
    return place


@pytest.fixture(scope="module")
def reference(folder):
    """A run that nothing disturbed."""
    train.train_model(folder / "store", folder / "reference", MODEL, QUICK)
    return folder / "reference"


def assert_same_run(one, two):
    for group in ("network", "average", "optimizer"):
        first, second = read_tensors(one / "last.safetensors", group), read_tensors(two / "last.safetensors", group)
        assert first.keys() == second.keys()
        assert first
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name
    assert (one / "metrics.parquet").read_bytes() == (two / "metrics.parquet").read_bytes()


def words(settings):
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return [part for name, text in texts.items() for part in ("--set", f"{name}={text}")]


def command(*calls, blocked):
    """Calls of `clickseg` in a process of its own, in which a module cannot be imported."""
    plain = [[str(part) for part in call] for call in calls]
    code = f"import sys; sys.modules[{blocked!r}] = None; from clickseg.cli import main; "
    return [sys.executable, "-c", code + f"[main(call, standalone_mode=False) for call in {plain!r}]"]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}


# --- the same numbers ----------------------------------------------------------------------------


def test_train__gives_the_same_curve_and_weights_for_two_loader_workers(folder, reference):
    train.train_model(folder / "store", folder / "workers", MODEL, QUICK.but(workers=2))
    assert_same_run(reference, folder / "workers")


def test_train__hands_batches_over_below_a_long_temporary_folder(folder, tmp_path):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    quick = QUICK.but(steps=2, batch=1, workers=1, validate_every=0)
    call = ["train", folder / "store", tmp_path / "run", *words({**MODEL.plain(), **quick.plain()})]
    environment = {**ENVIRONMENT, "TMPDIR": str(long)}
    subprocess.run(
        command(call, blocked="SimpleITK"), env=environment, stdout=subprocess.DEVNULL, check=True, timeout=120
    )
    assert (tmp_path / "run/model.safetensors").exists()


def test_train__holds_out_the_fold_that_catalog_folds_planned(tmp_path, monkeypatch):
    catalog = write_toys(tmp_path / "catalog", 6)
    done("catalog", "folds", catalog.path, "--name", "mine", "--folds", "3", "--seed", "5", "--official", "ignore")
    done("catalog", "folds", catalog.path, "--name", "other", "--folds", "3", "--seed", "6", "--official", "ignore")
    sampled = set()

    def watch(cases, *more, **named):
        sampled.update(case.case_id for case in cases)
        return PatchDataset(cases, *more, **named)

    monkeypatch.setattr(train, "PatchDataset", watch)
    spacing = words({"spacing_mm": SPACING})
    quick = QUICK.but(steps=1, fold=2, save_every=1, validate_every=0)
    for name in ("mine", "other"):
        sampled.clear()
        store, run = tmp_path / name, tmp_path / f"run-{name}"
        for call in (
            ["prepare", catalog.path, store, "--folds", name, *spacing],
            ["train", store, run, *words({**MODEL.plain(), **quick.plain()})],
        ):
            ended = CliRunner().invoke(main, [str(word) for word in call])
            assert ended.exit_code == 0, ended.output
        split = read_folds(catalog, name).splits()[2]
        assert sampled == {case_id for _, case_id in split.train}
        assert read_about(run / "model.safetensors")["folds"]["plan"] == name


def test_train__says_that_it_has_no_gpu_and_nothing_to_resume(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "count_cores", lambda: 1)  # more loaders than cores make Torch warn, and warnings fail
    said, quick = [], QUICK.but(steps=2, batch=1, workers=4, validate_every=0)
    train.train_model(folder / "store", tmp_path / "run", MODEL, quick, resume=True, say=said.append)
    cpu = "no GPU: the training runs on the CPU, 1 thread"
    assert said == [cpu, f"nothing to resume in {tmp_path / 'run'}: training starts from step 0"]


def test_train__that_is_finished_is_left_as_it_is(folder, tmp_path):
    said, run, quick = [], tmp_path / "run", QUICK.but(steps=2, batch=1, validate_every=0)
    made = train.train_model(folder / "store", run, MODEL, quick)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert train.train_model(folder / "store", run, MODEL, quick, resume=True, say=said.append) == made
    assert said == [f"the training in {run} is finished: nothing is left to do"]
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    made.unlink()  # as where it was killed before it had written the model
    train.train_model(folder / "store", run, MODEL, quick, resume=True)
    assert made.read_bytes() == before["model.safetensors"]


def test_train__takes_no_more_loaders_than_there_are_cores(folder, tmp_path, monkeypatch):
    asked, plain = [], train.make_loader
    monkeypatch.setattr(
        train, "make_loader", lambda *a, workers, **k: asked.append(workers) or plain(*a, workers=0, **k)
    )
    for cores in (1, 3, 8):
        monkeypatch.setattr(train, "count_cores", lambda cores=cores: cores)
        next(make_run(folder, tmp_path, workers=4, batch=1, save_every=4, validate_every=0).steps(0))
    assert asked == [1, 3, 4]


def test_train__with_another_seed_gives_another_curve(folder, reference):
    train.train_model(folder / "store", folder / "other", MODEL, QUICK.but(seed=7, validate_every=0))
    losses = [pq.read_table(run / "metrics.parquet").to_pylist()[0]["value"] for run in (reference, folder / "other")]
    assert losses[0] != losses[1]


@pytest.fixture(scope="module")
def killed(folder):
    """A store that was made, and a run that was killed, in a process that cannot import SimpleITK."""
    settings = LONGER.but(save_every=1)
    store, run = folder / "bare", folder / "killed"
    first = ["prepare", folder / "catalog", store, "--set", "spacing_mm=4,4,4"]
    then = ["train", store, run, *words({**MODEL.plain(), **settings.plain()})]
    process = subprocess.Popen(command(first, then, blocked="SimpleITK"), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    last, deadline = run / "last.safetensors", time.monotonic() + 200
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return run


def test_train__needs_no_simpleitk(killed):
    assert read_about(killed / "last.safetensors")["step"] > 0


def test_train__killed_and_resumed_gives_the_weights_of_an_undisturbed_run(folder, killed):
    assert 0 < read_about(killed / "last.safetensors")["step"] < LONGER.steps
    assert not (killed / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match="--resume"):
        train.train_model(folder / "store", killed, MODEL, LONGER)
    train.train_model(folder / "store", killed, MODEL, LONGER, resume=True)
    train.train_model(folder / "store", folder / "undisturbed", MODEL, LONGER)
    assert_same_run(killed, folder / "undisturbed")


def test_train__resumed_with_other_settings_is_refused(folder, reference):
    with pytest.raises(SettingError, match=r"rate was 0.003, is now 0.01"):
        train.train_model(folder / "store", reference, MODEL, QUICK.but(rate=0.01), resume=True)
    with pytest.raises(SettingError, match="encoding_radius_mm"):
        train.train_model(
            folder / "store", reference, MODEL.but(encoding_settings={"radius_mm": 4.0}), QUICK, resume=True
        )


def test_begin__keeps_the_sources_of_a_parent_that_is_not_named_again(folder, tmp_path):
    plain = read_about(write_model(tmp_path / "plain.safetensors", patch=MODEL.patch))
    parent = {**plain, "model": MODEL.plain(), "sources": [{"source": "elsewhere", "licence": "CC BY-NC 4.0"}]}
    weights = make_model(MODEL, 1).weights()
    save_checkpoint(tmp_path / "parent.safetensors", {"network": weights}, parent)
    settings = QUICK.but(average=0.0, batch=1, save_every=1, validate_every=0, corrections=0)
    with join_process_group() as world:
        how = (open_store(folder / "store"), tmp_path / "run", MODEL, settings, world)
        first = train.TrainingRun(*how, tmp_path / "parent.safetensors")
        assert first.begin(resume=False) == 0
        assert next(first.steps(0)) == 1
        again = train.TrainingRun(*how, None)
        assert again.begin(resume=True) == 1
    assert again.about["sources"] == first.about["sources"]
    assert [row["source"] for row in again.about["sources"]] == ["fdat", "elsewhere"]
    assert again.about["init"]["step"] == 0


def test_steps__clip_the_gradient_and_follow_with_the_mean(folder, tmp_path):
    plain = {"corrections": 0, "validate_every": 0, "save_every": 100, "decay": 0.0, "average": 0.75}
    for clip in (0.0, 12.0):
        run = make_run(folder, tmp_path / str(clip), clip=clip, **plain)
        before = {name: weight.clone() for name, weight in run.model.weights().items()}
        assert next(run.steps(0)) == 1
        moved = [name for name, weight in run.model.weights().items() if not torch.equal(weight, before[name])]
        assert bool(moved) == (clip > 0)  # a gradient of no length moves nothing
        for name, weight in run.model.weights().items():
            torch.testing.assert_close(run.average[name], 0.75 * before[name] + 0.25 * weight)


def test_record__stops_a_training_that_has_diverged(folder, tmp_path):
    run = make_run(folder, tmp_path / "run", corrections=0, validate_every=0)
    run.begin(resume=False)
    run.loss = lambda logits, label: logits.sum() * math.nan
    with pytest.raises(SettingError, match="the loss is nan at step 1: the training has diverged; start again"):
        next(run.steps(0))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_train__on_two_processes_averages_their_gradients(folder):
    settings = QUICK.but(steps=2, batch=1, average=0.0, validate_every=0, deterministic=True)
    given = {**MODEL.plain(), **settings.plain()}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    run += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "clickseg"]
    run += ["train", str(folder / "store"), str(folder / "two"), *words(given)]
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    train.train_model(folder / "store", folder / "added", MODEL, settings.but(accumulate=2))
    assert read_about(folder / "two" / "model.safetensors")["world"] == 2
    two, one = (read_tensors(folder / name / "model.safetensors", "network") for name in ("two", "added"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=1e-4)
    rows = [pq.read_table(folder / name / "metrics.parquet")["value"].to_pylist() for name in ("two", "added")]
    np.testing.assert_allclose(*rows, rtol=1e-4)


HAS_GPU = torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device here")
def test_train__on_a_gpu_is_the_same_twice_where_that_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = QUICK.but(deterministic=True, workers=2)
    for name in ("gpu-one", "gpu-two"):
        train.train_model(folder / "store", folder / name, MODEL, settings)
    assert_same_run(folder / "gpu-one", folder / "gpu-two")


# --- it learns -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(folder):
    """110 steps on bodies in which only prompts tell lesions from hot spots."""
    settings = TrainSettings(
        steps=110, batch=2, workers=0, rate=1e-2, max_prompts=6, affine=0.0, intensity=0.0, corrections=1,
        corrections_from=0.3, drop_pet=0.01, log_every=10, save_every=110, validate_every=110, validation_patches=12,
    )  # fmt: skip
    train.train_model(folder / "store", folder / "learnt", MODEL.but(patch=(24, 24, 24)), settings)
    return folder / "learnt"


def test_train__gives_a_model_that_three_prompts_help_and_that_works_without(learnt):
    rows = pq.read_table(learnt / "metrics.parquet").to_pylist()
    scores = {row["prompts"]: row["value"] for row in rows if row["name"] == "dice" and row["step"] == 110}
    assert set(scores) == {0, 1, 2, 3}
    assert scores[0] > 0.45
    assert scores[3] > scores[0] + 0.1
    losses = [row["value"] for row in rows if row["name"] == "loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_load_model__gives_the_trained_model_and_what_it_was_made_of(learnt):
    model, about = load_model(learnt / "model.safetensors")
    assert not model.training
    assert model.settings.patch == (24, 24, 24)
    assert about["rules"]["spacing_mm"] == list(SPACING)
    assert about["sources"][0]["licence"] == "CC BY 4.0"
    assert len(about["catalog_digest"]) == 64
    ct, pet = torch.zeros(1, 1, 24, 24, 24), torch.ones(1, 1, 24, 24, 24)
    pet[..., 8:13, 8:13, 8:13] = 6
    answers = []
    for polarity in (0, 1):
        guidance = model.guidance(torch.tensor([[0, polarity, 10, 10, 10]]), 1, (24, 24, 24), SPACING)
        with torch.no_grad():
            answers.append(torch.sigmoid(model(model.channels(ct, pet, guidance)))[0, 0, 10, 10, 10].item())
    assert answers[0] > 0.6 > 0.4 > answers[1]


def test_train__writes_a_curve_and_facts(reference):
    from PIL import Image

    with Image.open(reference / "curve.png") as picture:
        assert picture.size == (640, 600)
    facts = json.loads((reference / "run.json").read_text())
    assert facts["steps"] == 4
    assert facts["steps_a_second"] > 0
    rows = pq.read_table(reference / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows if row["name"] == "loss"] == [1, 2, 3, 4]


def test_train__starts_from_a_model_of_ct_alone_and_keeps_its_licence(folder, tmp_path):
    write_toys(tmp_path / "catalog", 4, ct_only=True)
    prepare_store(tmp_path / "catalog", tmp_path / "store", StoreRules(spacing_mm=SPACING))
    quick = QUICK.but(steps=2, average=0.0, validate_every=0)
    first = train.train_model(tmp_path / "store", tmp_path / "ct", MODEL, quick)
    done = CliRunner().invoke(
        main,
        [
            "train",
            str(folder / "store"),
            str(tmp_path / "pet"),
            "--init",
            str(first),
            *words({**quick.plain(), "rate": 1e-12}),
        ],
    )
    assert done.exit_code == 0, done.output
    about = read_about(tmp_path / "pet" / "model.safetensors")
    assert [row["licence"] for row in about["sources"]] == ["CC BY 4.0", "CC BY-NC 4.0"]
    assert about["model"] == MODEL.plain()
    one, two = (read_tensors(file, "network") for file in (first, tmp_path / "pet" / "model.safetensors"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="does not fit a small network"):
        train.train_model(folder / "store", tmp_path / "no", MODEL.but(size="small"), quick, init=first)


# --- what a step costs ---------------------------------------------------------------------------


def make_run(folder, tmp_path, **changes):
    with join_process_group() as world:
        return train.TrainingRun(open_store(folder / "store"), tmp_path, MODEL, QUICK.but(**changes), world, None)


def make_batch(run, numbers):
    data = PatchDataset(run.cases, MODEL.patch, run.settings)
    return collate([data[n] for n in numbers])


WAITS = (
    "_local_scalar_dense",
    "_linalg_check_errors",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
)
"""Operations for which a device must be waited for."""


def test_forward__copies_to_the_host_what_the_simulator_needs_and_nothing_else(folder, tmp_path, monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.__name__.split(".")[0]
            if name in WAITS:
                seen.append(name)
            return function(*args, **(kwargs or {}))

    copies, seen = [], []
    plain = rounds.to_host
    monkeypatch.setattr(rounds, "to_host", lambda tensor: copies.append(tuple(tensor.shape)) or plain(tensor))
    run = make_run(folder, tmp_path)
    batch = make_batch(run, range(100, 104))
    for wanted in ([0, 0, 0, 0], [2, 0, 1, 0]):
        copies.clear()
        plans = tuple(type(p)(p.count, n, p.stroke, p.seed, p.name) for p, n in zip(batch.plans, wanted, strict=True))
        with Waits():
            run.forward(type(batch)(**{**vars(batch), "plans": plans}))
        label, points = (4, 1, *MODEL.patch), (len(batch.points), 5)
        masks = [(2, 1, *MODEL.patch), (1, 1, *MODEL.patch)]
        assert copies == ([label, points, *masks] if any(wanted) else [])
    assert seen == []


@pytest.mark.parametrize("encoding", ["edt-ball", "tutorial-gaussian@1"])
def test_forward__without_corrections_runs_on_a_device_from_which_nothing_can_be_copied(folder, tmp_path, encoding):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Blocking(TorchDispatchMode):
        """Copies from the host for which the device is waited for, and what else waits."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name, kwargs = function.__name__.split(".")[0], kwargs or {}
            arrives = name == "_to_copy" and args[0].device != kwargs.get("device", args[0].device)
            if name in WAITS or (arrives and not kwargs.get("non_blocking")):
                seen.append(name)
            return function(*args, **kwargs)

    seen = []
    run = make_run(folder, tmp_path, affine=1.0)
    batch = make_batch(run, range(4))
    assert len(batch.points)
    nowhere = torch.device("meta")
    model = make_model(MODEL.but(encoding=encoding, encoding_settings={}), 1, nowhere)
    with Blocking():
        moved = train.augment(batch.to(nowhere))
        turn = play_corrections(model, model, moved, "autopet-v@2", [0] * 4)
        fates = [(fate, np.array([[0, 0, 0], [3, 7, 7]])) for fate in ("drop", "grow", "shrink", "clear")]
        turn = rounds.Turn(turn.points, spoil(turn.previous, fates))
        run.loss(model(rounds.channels_of(model, moved, turn)), moved.label).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device here")
def test_steps__on_a_gpu_never_wait_for_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run = make_run(folder, tmp_path, corrections=0, affine=1.0, steps=20, log_every=20, save_every=20, validate_every=0)
    steps = run.steps(0)
    assert [next(steps), next(steps)] == [1, 2]  # makes what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [next(steps), next(steps), next(steps)] == [3, 4, 5]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_play_corrections__prompts_errors_of_the_samples_that_have_rounds(folder, tmp_path):
    run = make_run(folder, tmp_path, affine=0.0)
    batch = make_batch(run, range(4))
    turn = play_corrections(run.model, run.model, batch, "autopet-v@2", [2, 0, 1, 0])
    added = [int((turn.points[:, 0] == n).sum() - (batch.points[:, 0] == n).sum()) for n in range(4)]
    assert added[1] == added[3] == 0
    assert added[0] > 0
    assert not turn.previous[[1, 3]].any()
    label = batch.label[turn.points[:, 0], 0, *turn.points[:, 2:].T]
    assert torch.equal(label == 1, turn.points[:, 1] == 0)


def test_spoil__does_to_each_sample_what_its_fate_says():
    mask = torch.zeros(6, 1, 7, 7, 7)
    mask[:, :, 2:5, 2:5, 2:5] = 1
    box = np.array([[0, 0, 0], [3, 7, 7]])
    fates = [(fate, box) for fate in ("keep", "drop", "grow", "shrink", "clear", "fill")]
    sums = spoil(mask, fates).sum((1, 2, 3, 4)).tolist()
    assert sums == [27, 0, 125, 1, 18, 3 * 49 + 18]
    assert mask.sum() == 6 * 27


def test_learning_rate__rises_then_falls_to_nothing():
    settings = TrainSettings(steps=100, warmup=0.1, rate=1.0)
    rates = [train.learning_rate(step, settings) for step in range(100)]
    assert rates[9] == 1.0
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert 0 < rates[-1] < 1e-3


# --- refusals ------------------------------------------------------------------------------------


def test_train__refuses_published_rules_and_missing_stores(folder, tmp_path):
    with pytest.raises(SettingError, match="published rule"):
        train.train_model(folder / "store", tmp_path, MODEL, QUICK.but(click_protocol="autopet-iv@1"))
    with pytest.raises(CatalogError, match="clickseg prepare"):
        train.train_model(tmp_path / "none", tmp_path, MODEL, QUICK)


def test_command__says_in_one_line_what_it_refuses(folder, tmp_path):
    done = CliRunner().invoke(main, ["train", str(folder / "store"), str(tmp_path / "x"), "--set", "stesp=3"])
    assert done.exit_code == 1
    assert "did you mean 'steps'" in done.output
    assert done.output.count("\n") == 1
    assert CliRunner().invoke(main, ["train"]).exit_code == 2
    assert "corrections" in CliRunner().invoke(main, ["train", "--list"]).output
    for name in ("prepare", "train"):
        assert "Examples:" in CliRunner().invoke(main, [name, "--help"]).output


def test_load_model__refuses_what_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "bad.safetensors")

"""Training: from a store to the folder of a run.

    RUN/
      last.safetensors     weights, optimiser and settings, to continue from
      model.safetensors    the finished model
      metrics.parquet      one row per number: step, name, prompts, value; no times
      curve.png            loss, and Dice on held-out patches by prompts
      run.json             when, where, how fast

Training uses one device by default, or several with `torchrun --nproc-per-node N -m clickseg train ...`. A sample
depends only on the seed and its number, the loader makes all draws, and no step uses Torch's generators. So a run that
was killed and resumed gives the same weights as one that was not; they are bit-identical if the device computes
deterministically (`deterministic = true`).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clickseg.correction_rounds import channels_of, play_corrections, score_rounds, spoil
from clickseg.data.augment import warp
from clickseg.data.dataset import Batch, Batches, PatchDataset, make_loader
from clickseg.data.patch_store import Store, StoreCase, open_store
from clickseg.data.training_prompts import check_protocols
from clickseg.model.checkpoint import (
    CheckpointError,
    checkpoint_bytes,
    optimizer_tensors,
    put_optimizer,
    put_weights,
    read_about,
    read_tensors,
    read_weights,
    save_checkpoint,
)
from clickseg.model.losses import make_loss
from clickseg.model.network import Segmenter, make_model
from clickseg.process_group import ProcessGroup, count_cores, join_process_group
from clickseg.training_metrics import Metrics
from clickseg.training_settings import FREE_TO_CHANGE, ModelSettings, TrainSettings, changes
from clicksim import __version__
from clicksim.errors import SettingError
from clicksim.files import check_space, make_folder, write_text
from clicksim.pipeline.job import run_facts

FINISHED = ("model.safetensors", "run.json")  # files of a finished run, in the order in which they are written
Report = Callable[[int, int], None]


def train_model(
    store_path: str | Path,
    out: str | Path,
    model_settings: ModelSettings | None = None,
    settings: TrainSettings | None = None,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    progress: Report | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train a model on a store.

    Args:
        store_path: A store from `clickseg prepare`.
        out: The folder of the run.
        model_settings, settings: Settings of the model and of the training.
        init: A checkpoint of the same network to start from, such as one trained on CT alone.
        resume: Continue from `last.safetensors` if it exists, with the same settings.
        progress: Called after each step with the steps done and their total.
        say: Called before the first step if there is no GPU, nothing to resume, or nothing left to do.

    Returns:
        The path of `model.safetensors`.

    Raises:
        SettingError: Settings are invalid, differ from those of the run to resume, or let the training diverge.
        CatalogError: There is no store.
        CheckpointError: The checkpoint does not fit, or `out` holds a run and `resume` is not set.
        StorageError: Too little space is free, at the start or later.
    """
    chosen, how, folder = model_settings or ModelSettings(), settings or TrainSettings(), Path(out)
    check_protocols(how)
    store = open_store(store_path)
    with join_process_group() as world, deterministic(how.deterministic):
        run = TrainingRun(store, folder, chosen, how, world, init)
        started, first = time.time(), run.begin(resume=resume)
        if first == how.steps and all((folder / name).exists() for name in FINISHED):
            if say and world.is_first:
                say(f"the training in {folder} is finished: nothing is left to do")
            return folder / FINISHED[0]
        if say and world.is_first:
            if world.device.type == "cpu":
                threads = torch.get_num_threads()
                say(f"no GPU: the training runs on the CPU, {threads} thread{'s' if threads > 1 else ''}")
            if resume and not first:
                say(f"nothing to resume in {folder}: training starts from step 0")
        for step in run.steps(first):
            if progress and world.is_first:
                progress(step, how.steps)
        return run.finish(started, how.steps - first)


class TrainingRun:
    """One training run on one device."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        chosen: ModelSettings,
        settings: TrainSettings,
        world: ProcessGroup,
        init: str | Path | None,
    ) -> None:
        """Prepare the loop; nothing is written yet."""
        self.store, self.folder, self.settings, self.world = store, folder, settings, world
        self.cases, self.held_out = store.split(settings.fold)
        self.model = make_model(chosen, settings.seed, world.device)
        self.about = describe_run(store, self.cases, chosen, settings, world, init)
        if init is not None:
            put_weights(self.model, read_weights(init), init)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        free = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": settings.decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, fused=world.device.type == "cuda")
        self.predict = torch.compile(self.model) if settings.compiled else self.model
        self.network = world.share(self.predict)
        self.precision = choose_precision(settings.precision, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.precision is torch.float16)
        self.average = (
            {name: weight.clone() for name, weight in self.model.weights().items()} if settings.average else {}
        )
        self.loss = make_loss()
        self.metrics = Metrics(folder)
        self.window = torch.zeros(2, device=world.device)  # sum and number of losses since the last row

    def begin(self, *, resume: bool) -> int:
        """Continue an earlier run, or refuse to overwrite it; return the first step."""
        last = self.folder / "last.safetensors"
        if self.world.is_first:
            self._check_space(resumed=last.exists())
        if not last.exists():
            make_folder(self.folder)
            return 0
        if not resume:
            raise CheckpointError(f"{self.folder} contains a run; continue with --resume, or name another folder")
        before = read_about(last)
        check_same_run(before, self.about, where=str(last))
        self.about |= {name: before[name] for name in ("init", "sources")}  # `init` is not given again on resume
        put_weights(self.model, read_tensors(last, "network"), last)
        put_optimizer(self.optimizer, read_tensors(last, "optimizer"))
        for name, value in read_tensors(last, "average").items():
            self.average[name].copy_(value)
        if before["scaler"]:
            self.scaler.load_state_dict(before["scaler"])
        self.window = torch.tensor(before["window"], device=self.world.device)
        self.metrics.read(before["step"])
        return int(before["step"])

    def _check_space(self, *, resumed: bool) -> None:
        """Check that the disk can hold the checkpoints (weights, their mean, two moments) and the model."""
        weights, mean = checkpoint_bytes(self.model.weights()), checkpoint_bytes(self.average)
        need = 3 * weights + mean + (0 if resumed else weights + mean)
        check_space(self.folder, need, "checkpoint and model")

    def steps(self, first: int) -> Iterator[int]:
        """Run the loop; yield the number of steps done after each step."""
        settings, world = self.settings, self.world
        per_step = settings.batch * settings.accumulate * world.size
        data = PatchDataset(self.cases, patch_of(self.model), settings, per_step=per_step)
        passes = settings.accumulate
        numbers = Batches(first * passes, settings.steps * passes, settings.batch, world.rank, world.size)
        workers = min(settings.workers, count_cores())
        loader = make_loader(data, numbers, workers=workers, pin=world.device.type == "cuda")
        self.model.train()
        for step in range(first, settings.steps):
            rate = learning_rate(step, settings)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            for number in range(passes):
                last = number == passes - 1
                with nullcontext() if last else world.unshared(self.network):
                    loss = self.forward(next(loader))
                    self.scaler.scale(loss / passes).backward()  # type: ignore[no-untyped-call]
                self.window += torch.stack([loss.detach(), torch.ones_like(loss)])
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.follow()
            self.record(step + 1, rate)
            yield step + 1

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch: augment on the device, play the corrections, predict once more with gradient."""
        batch = augment(batch.to(self.world.device))
        with torch.autocast(self.world.device.type, self.precision, enabled=self.precision is not torch.float32):
            turn = play_corrections(self.predict, self.model, batch, self.settings.correction_protocol)
            turn = replace(turn, previous=spoil(turn.previous, batch.fates))
            logits = self.network(channels_of(self.model, batch, turn))
        return self.loss(logits, batch.label)

    def follow(self) -> None:
        """Update the running mean of the weights."""
        if self.average:
            means, weights = list(self.average.values()), list(self.model.weights().values())
            torch._foreach_lerp_(means, weights, 1 - self.settings.average)

    def record(self, step: int, rate: float) -> None:
        """Record metrics, score held-out patches and save a checkpoint, each when it is due."""
        settings, final = self.settings, step == self.settings.steps
        if step % settings.log_every == 0 or final:
            total, count = self.world.sum(self.window).tolist()
            self._check_loss(step, total / count)
            self.metrics.add(step, "loss", total / count)
            self.metrics.add(step, "rate", rate)
            self.window.zero_()
        if settings.validate_every and (step % settings.validate_every == 0 or final) and self.world.is_first:
            for prompts, value in enumerate(self.validate()):
                self.metrics.add(step, "dice", value, prompts)
        if step % settings.save_every == 0 or final:
            self.save(step)

    def _check_loss(self, step: int, loss: float) -> None:
        """Stop if the training has diverged; with float16 the scaler skips single steps that overflow."""
        if not math.isfinite(loss) and not self.scaler.is_enabled():
            raise SettingError(
                f"the loss is {loss} at step {step}: the training has diverged; start again with a lower rate than "
                f"{self.settings.rate:g}, or more warmup ({self.folder})"
            )

    def validate(self) -> list[float]:
        """Return the mean Dice on held-out patches with 0, 1, ... prompts, with averaged weights if there are any."""
        settings = self.settings
        if not self.held_out:
            return []
        data = PatchDataset(self.held_out, patch_of(self.model), settings, purpose="validate")
        total = -(-settings.validation_patches // settings.batch)
        loader = make_loader(data, Batches(0, total, settings.batch), workers=0, pin=False)
        with (
            self.averaged(),
            torch.autocast(self.world.device.type, self.precision, enabled=self.precision is not torch.float32),
        ):
            protocol, rounds = settings.correction_protocol, settings.validation_rounds
            device = self.world.device
            scores = [score_rounds(self.predict, self.model, b.to(device), protocol, rounds) for b in loader]
        means: list[float] = np.concatenate(scores, axis=1)[:, : settings.validation_patches].mean(axis=1).tolist()
        return means

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the model in evaluation mode, with the running mean of its weights, and restore it at the end."""
        own = {name: weight.clone() for name, weight in self.model.weights().items()} if self.average else {}
        if own:
            put_weights(self.model, self.average, "the running mean")
        self.model.eval()
        try:
            yield
        finally:
            if own:
                put_weights(self.model, own, "the weights")
            self.model.train()

    def save(self, step: int) -> None:
        """Write metrics, curve and checkpoint; the checkpoint comes last, since it records the state of the others."""
        window = self.window.tolist()
        if not self.world.is_first:
            return
        self.metrics.write()
        tensors = {
            "network": self.model.weights(),
            "average": self.average,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        about = {**self.about, "step": step, "window": window, "scaler": self.scaler.state_dict()}
        save_checkpoint(self.folder / "last.safetensors", tensors, about)

    def finish(self, started: float, done: int) -> Path:
        """Write the finished model, without the state that only a resumed run needs."""
        target = self.folder / "model.safetensors"
        if self.world.is_first:
            tensors = {"network": self.model.weights(), "average": self.average}
            save_checkpoint(target, tensors, {**self.about, "step": self.settings.steps})
            seconds = max(time.time() - started, 1e-9)
            facts = {"steps": done, "steps_a_second": round(done / seconds, 3), **self.world.facts()}
            write_text(self.folder / "run.json", json.dumps({**run_facts(started), **facts}, indent=1) + "\n")
        self.world.wait()
        return target


def augment(batch: Batch) -> Batch:
    """Rotate and scale a batch on its device."""
    if batch.matrices is None:
        return batch
    images, label, points = warp(batch.images, batch.label, batch.points, batch.matrices)
    return replace(batch, images=images, label=label, points=points)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate: it rises linearly, then falls to 0 along half a cosine."""
    warm = settings.warmup * settings.steps
    if step < warm:
        return settings.rate * (step + 1) / warm if warm >= 1 else settings.rate
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(settings.steps - warm, 1)))


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type in which a device multiplies.

    Raises:
        SettingError: float16 is wanted on a CPU.
    """
    if name == "auto":
        good = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    if name == "float16" and device.type == "cpu":
        raise SettingError("float16 needs a GPU; on a CPU use float32 or bfloat16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def describe_run(
    store: Store,
    cases: tuple[StoreCase, ...],
    model: ModelSettings,
    settings: TrainSettings,
    world: ProcessGroup,
    init: str | Path | None,
) -> dict[str, Any]:
    """Describe a run for its checkpoint, as plain data; sources of the `init` checkpoint are included."""
    sources = store.licences(cases)
    parent = None
    if init is not None:
        before = read_about(init)
        known = [row["source"] for row in sources]
        sources = sources + [row for row in before["sources"] if row["source"] not in known]
        parent = {"catalog_digest": before["catalog_digest"], "step": before["step"], "model": before["model"]}
    return {
        "model": model.plain(), "train": settings.plain(), "rules": store.rules.plain(), "world": world.size,
        "catalog_digest": store.catalog_digest, "folds": dict(store.folds), "sources": sources, "init": parent,
        "versions": {"clickseg": __version__, "torch": torch.__version__},
    }  # fmt: skip


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], *, where: str) -> None:
    """Raise a `SettingError` that names what resuming would change."""
    changed = []
    for group in ("model", "train", "rules"):
        changed += changes(before[group], now[group], free=FREE_TO_CHANGE if group == "train" else ())
    for name, meaning in (("catalog_digest", "the catalog"), ("world", "the number of devices")):
        if before[name] != now[name]:
            changed.append(f"{meaning} was {before[name]!r}, is now {now[name]!r}")
    if before["folds"]["digest"] != now["folds"]["digest"]:
        changed.append(f"fold plan was {before['folds']['plan'] or 'drawn'}, is now {now['folds']['plan'] or 'drawn'}")
    if changed:
        raise SettingError(
            f"{where} was trained differently: {'; '.join(changed)}; use the same, or --init in a new folder"
        )


def patch_of(model: Segmenter) -> tuple[int, int, int]:
    """Return the patch shape that a model is trained on."""
    i, j, k = model.settings.patch
    return (i, j, k)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use deterministic algorithms within the block."""
    if not wanted:
        yield
        return
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads this at its first use
    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]

"""`python -m studies.gpu`: the tests that need a GPU, and training and prediction on it; writes docs/gpu.md.

Without a GPU nothing is measured, and the page says so. `--device cpu --small` tries the script itself: it runs every
part on a CPU at the smallest possible size. The results of a part stay in `--work`, so parts can run one by one.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import datapath
from benchmarks.bench_data import ROOT, show_shape
from benchmarks.timing import wait_for_device
from clickseg.training_settings import ModelSettings
from studies import learning
from studies.training_loop import peak_of, run_loop

PAGE = ROOT / "docs" / "gpu.md"
NOT_RUN = "not run: no GPU that Torch can use"
ROUNDS = 3  # of correction
LOOPS = ("training loop without corrections", f"training loop with up to {ROUNDS} rounds of correction")
OF_A_LOOP = ("samples per second", "use of the GPU", "peak memory", "wait for the loader, median")
ROWS: dict[str, tuple[str, ...]] = {
    "tests": ("tests marked `gpu`",),
    "network": (
        "one window, forward",
        "the same with eight mirrored copies",
        "a training step on two patches, forward and backward, inputs on the device",
    ),
    "training": (
        *(f"{loop}: {what}" for loop in LOOPS for what in OF_A_LOOP),
        "the correction rounds, per step",
        "of which in the simulator",
        "of which waiting for masks",
    ),
    "datapath": (
        "rotation and scaling of a batch of two patches",
        "guidance of a batch of two patches",
        f"wait for a batch if a step takes {datapath.STEP_MS:g} ms, 2 workers",
    ),
    "encodings": ("ablation of encodings",),
}


@dataclass(frozen=True)
class GpuSize:
    """The size of a run.

    Attributes:
        model: Network and patch.
        warm, timed: Numbers of steps before and during the measurement.
        data: Phantoms and batches of the data path.
        learning: Size of the ablation.
    """

    model: ModelSettings
    warm: int
    timed: int
    data: datapath.DatapathSize
    learning: learning.LearningSize


FULL = GpuSize(ModelSettings(), warm=10, timed=60, data=datapath.FULL, learning=learning.ON_GPU)
SMALL = GpuSize(
    ModelSettings(size="tiny", patch=(16, 16, 16)), warm=1, timed=2, data=datapath.SMOKE, learning=learning.SMOKE
)


@dataclass(frozen=True)
class Bench:
    """The device, the size and the folder of a run."""

    device: torch.device
    size: GpuSize
    work: Path


def main(arguments: list[str] | None = None) -> None:
    """Run the parts and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="PART", help=f"one of {', '.join(ROWS)}")
    parser.add_argument("--work", type=Path, help="folder for stores, runs and results; a temporary one by default")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu tries the script itself")
    parser.add_argument("--small", action="store_true", help="the smallest possible run; the numbers mean nothing")
    given = parser.parse_args(arguments)
    results: dict[str, Any] = {}
    if given.device == "cpu" or torch.cuda.is_available():
        device = torch.device(given.device, 0) if given.device == "cuda" else torch.device("cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)
        about = describe_device(device, small=given.small)
        with tempfile.TemporaryDirectory() as temporary:
            bench = Bench(device, SMALL if given.small else FULL, (given.work or Path(temporary)).resolve())
            bench.work.mkdir(parents=True, exist_ok=True)
            for part in given.only or ROWS:
                run_part(bench, part, about)
            results = read_parts(bench.work, about)
    else:
        about = f"{NOT_RUN} ({platform.machine()}, Torch {torch.__version__})"
    given.out.write_text(page(about, results, FULL if not given.small else SMALL), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)
    if any(result.startswith("failed") for part in results.values() for result in part["rows"]):
        raise SystemExit(1)


def describe_device(device: torch.device, *, small: bool) -> str:
    """The device in words."""
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, Torch {torch.__version__}, CUDA {torch.version.cuda}"
    else:
        name = f"a CPU ({platform.machine()}), Torch {torch.__version__}"
    return f"{name}, {os.cpu_count()} cores{'; the smallest possible run, its numbers mean nothing' if small else ''}"


# --- parts ---------------------------------------------------------------------------------------


def run_part(bench: Bench, part: str, about: str) -> None:
    """Run a part and store its results; if it fails, its rows say so and the other parts still run."""
    start = time.perf_counter()
    try:
        rows, text = PARTS[part](bench)
    except Exception as error:
        traceback.print_exc()
        rows, text = [f"failed: {type(error).__name__}: {error}".splitlines()[0]] * len(ROWS[part]), ""
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    found = {"about": about, "rows": rows, "text": text}
    (bench.work / f"{part}.json").write_text(json.dumps(found), encoding="utf-8")
    print(f"{part}: {time.perf_counter() - start:.0f} s, {rows}", file=sys.stderr)


def read_parts(work: Path, about: str) -> dict[str, Any]:
    """The results of all parts on this device, from this run or an earlier one."""
    found = {}
    for part in ROWS:
        file = work / f"{part}.json"
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["about"] == about:
                found[part] = content
    return found


def tests_part(bench: Bench) -> tuple[list[str], str]:
    """Run all tests marked `gpu`; the result is the summary of pytest."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    if bench.device.type == "cpu":
        command.append("--collect-only")
    told = subprocess.run([*command, "tests"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(told.stdout, file=sys.stderr)
    lines = [line for line in told.stdout.splitlines() if re.search(r"\d+ (passed|failed|skipped|deselected)", line)]
    lines += [line for line in told.stdout.splitlines() if re.search(r"\d+ tests collected", line)]
    summary = lines[-1].strip("= ") if lines else (told.stderr.strip().splitlines() or ["no output of pytest"])[-1]
    return [summary if told.returncode == 0 else f"failed: {summary}"], ""


def network_part(bench: Bench) -> tuple[list[str], str]:
    """Time the network alone, on random inputs."""
    from clickseg.model.losses import make_loss
    from clickseg.model.network import CHANNELS, make_model
    from clickseg.train import choose_precision

    device, settings = bench.device, bench.size.model
    model, loss, precision = make_model(settings, 1, device), make_loss(), choose_precision("auto", device)
    x = torch.rand((2, len(CHANNELS), *settings.patch), device=device)
    label = (torch.rand((2, 1, *settings.patch), device=device) > 0.99).to(torch.uint8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")

    def ask(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, precision, enabled=precision is not torch.float32):
            return model(batch)

    def forward(times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                ask(x[:1])

    def step() -> None:
        loss(ask(x), label).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return [timed(bench, work) for work in (lambda: forward(1), lambda: forward(8), step)], ""


def training_part(bench: Bench) -> tuple[list[str], str]:
    """Time the loop of `clickseg train` on a store of whole-body phantoms, without and with corrections."""
    store = bench.work / "store"
    datapath.make_store(store, bench.size.data)
    size = bench.size
    plain, corrected = (
        run_loop(store, size.model, bench.device, rounds=rounds, warm=size.warm, timed=size.timed)
        for rounds in (0, ROUNDS)
    )
    more = corrected.step_ms - plain.step_ms
    rows = [*plain.cells(), *corrected.cells(), f"{more:.1f} ms more than without"]
    return [*rows, f"{corrected.simulator_ms:.1f} ms", f"{corrected.host_ms:.1f} ms"], ""


def datapath_part(bench: Bench) -> tuple[list[str], str]:
    """Time the device's share of the data path, and check whether a loader keeps up."""
    size = bench.size.data
    cases = datapath.make_store(bench.work / "store", size)
    turned, drawn = datapath.time_device(cases, size, bench.device)
    wait = datapath.measure_wait(cases, size, 2, bench.device)
    rows = [f"median {statistics.median(values):.2f} ms" for values in (turned, drawn)]
    return [*rows, f"median {statistics.median(wait.each):.1f} ms, {wait.share:.0%} of the batches waited for"], ""


def encodings_part(bench: Bench) -> tuple[list[str], str]:
    """Run the ablation; it has its own table."""
    with mock.patch.object(torch.cuda, "is_available", return_value=bench.device.type == "cuda"):
        section = learning.ablation_section(bench.work / "learning", bench.size.learning, run=True)
    return ["see below"], section.markdown()


PARTS: dict[str, Callable[[Bench], tuple[list[str], str]]] = {
    "tests": tests_part, "network": network_part, "training": training_part, "datapath": datapath_part,
    "encodings": encodings_part,
}  # fmt: skip


# --- measuring ---------------------------------------------------------------------------------


def timed(bench: Bench, work: Callable[[], None]) -> str:
    """Milliseconds and peak memory of some work on the device, after a warm-up."""
    warm, times = (1, 2) if bench.size is SMALL else (3, 10)
    for _ in range(warm):
        work()
    wait_for_device(bench.device, forget_peak=True)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait_for_device(bench.device)
    return f"{(time.perf_counter() - start) / times * 1000:.1f} ms, peak {peak_of(bench.device)}"


# --- the page ------------------------------------------------------------------------------------


def page(about: str, results: dict[str, Any], size: GpuSize) -> str:
    """The page; it names parts without a result."""
    rows = [
        f"| {name} | {result} |"
        for part, names in ROWS.items()
        for name, result in zip(
            names, results[part]["rows"] if part in results else ["not run"] * len(names), strict=True
        )
    ]
    patch = show_shape(size.model.patch)
    data = show_shape(size.data.patch)
    text = TEXT.format(rounds=ROUNDS, network=size.model.size, patch=patch, data=data, timed=size.timed)
    sections = [results[part]["text"] for part in ROWS if part in results and results[part]["text"]]
    table = "\n".join(["| what | result |", "|---|---|", *rows])
    text = textwrap.fill(text, 120, break_on_hyphens=False)
    head = f"# On a GPU\n\nWritten by `make gpu`.\n\nDevice: {about}"
    return "\n\n".join([head, table, text, *sections]).strip() + "\n"


TEXT = """Windows and patches have {patch} voxels; those of the data path have {data}. The network is the {network} one,
untrained. The training loop is that of `clickseg train` with its defaults, over {timed} steps, on a store of whole-body
phantoms: read, augment, simulate prompts, predict, correct, learn. Corrections are those at the end of a curriculum:
each sample has 0 to {rounds} rounds. "of which waiting for masks" is the time that the host waits for the predictions
that it corrects. The use of the GPU, from nvidia-smi, is the share of time in which any kernel ran."""


if __name__ == "__main__":
    main()

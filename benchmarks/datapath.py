"""`python -m benchmarks.datapath`: how long training waits for data, and the cost of a sample; writes docs/datapath.md.

`clickseg prepare` processes whole-body phantoms on the grid of a real case. The loader of `clickseg train` then gives
batches of two patches of 128^3 voxels. A pause simulates the training step.
"""

import argparse
import os
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_data import ROOT, SHAPE_FULL, SHAPE_TINY, SPACING_FULL, SPACING_TINY, show_shape
from benchmarks.bench_passes import watched
from benchmarks.result_table import Section, machine
from benchmarks.timing import wait_for_device
from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings

PAGE = ROOT / "docs" / "datapath.md"
PACKAGES = ("clicksim", "torch", "numpy", "numba", "edt")
STEP_MS = 100.0
SHORT_MS = 5.0  # a batch that takes longer counts as waited for
WORKERS = (0, 1, 2)
HEADER = ("stage", "samples with it", "median", "90th percentile")


@dataclass(frozen=True)
class DatapathSize:
    """How large a run is.

    Attributes:
        cases, shape, spacing: Phantoms.
        patch: Voxels.
        warm, timed: Numbers of batches before and during the measurement.
        samples: Number of samples in the profile.
        step_ms: Duration of a step.
    """

    cases: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    warm: int
    timed: int
    samples: int
    step_ms: float


FULL = DatapathSize(3, SHAPE_FULL, SPACING_FULL, (128, 128, 128), warm=16, timed=100, samples=160, step_ms=STEP_MS)
SMOKE = DatapathSize(2, SHAPE_TINY, SPACING_TINY, (16, 16, 16), warm=1, timed=3, samples=12, step_ms=1.0)


@dataclass(frozen=True)
class Wait:
    """How long the consumer waited for each batch, in ms."""

    workers: int
    each: tuple[float, ...]

    @property
    def share(self) -> float:
        """The share of batches that the consumer waited for."""
        return float(np.mean(np.asarray(self.each) > SHORT_MS))


def main(arguments: list[str] | None = None) -> None:
    """Run it and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datapath", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the smallest possible run; the numbers mean nothing")
    parser.add_argument("--store", type=Path, help="a store to use or create; a temporary one by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(arguments)
    from clickseg.predict import choose_device

    device, size = choose_device(given.device), SMOKE if given.smoke else FULL
    with tempfile.TemporaryDirectory() as temporary:
        sections = run(given.store or Path(temporary) / "store", size, device)
    given.out.write_text(page(sections, size), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)


def run(store: Path, size: DatapathSize, device: Any) -> list[Section]:
    """All sections."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = make_store(store, size)
        waits = [measure_wait(cases, size, workers, device) for workers in WORKERS]
        return [wait_section(waits, size), profile_section(cases, size), device_section(cases, size, device)]
    finally:
        torch.set_num_threads(threads)


def make_store(path: Path, size: DatapathSize) -> tuple[Any, ...]:
    """The cases of the store, which is created if it does not exist."""
    from clickseg.data.patch_store import open_store
    from clickseg.data.prepare import prepare_store
    from tests.clickseg_phantoms import write_catalog

    if not (path / "store.json").exists():
        with tempfile.TemporaryDirectory() as temporary:
            catalog = Path(temporary) / "catalog"
            write_catalog(catalog, size.cases, lesions=12, shape=size.shape, spacing=size.spacing)
            rules = StoreRules() if size.shape == SHAPE_FULL else StoreRules(spacing_mm=size.spacing)
            prepare_store(catalog, path, rules)
    return open_store(path).cases


def dataset(cases: Sequence[Any], size: DatapathSize) -> Any:
    """Samples as at the end of a curriculum, with all defaults."""
    from clickseg.data.dataset import PatchDataset

    return PatchDataset(cases, size.patch, TrainSettings(steps=1))


def measure_wait(cases: Sequence[Any], size: DatapathSize, workers: int, device: Any) -> Wait:
    """Take batches like the training loop, with a pause in place of each step, and time how long each one takes."""
    from clickseg.data.dataset import Batches, make_loader

    numbers = Batches(0, size.warm + size.timed, 2)
    loader = make_loader(dataset(cases, size), numbers, workers=workers, pin=device.type == "cuda")
    each = []
    for _ in range(len(numbers)):
        start = time.perf_counter()
        batch = next(loader)
        came = time.perf_counter()
        each.append((came - start) * 1000)
        batch.to(device)
        del batch  # within the step, as in the training loop: the host frees a batch while the device works
        time.sleep(max(0.0, size.step_ms / 1000 - (time.perf_counter() - came)))
    print(f"{workers} workers: median wait {statistics.median(each[size.warm :]):.1f} ms", file=sys.stderr)
    return Wait(workers, tuple(each[size.warm :]))


def wait_section(waits: Sequence[Wait], size: DatapathSize) -> Section:
    """The waits by number of workers."""
    rows = []
    for wait in waits:
        cells = [f"{value:.1f} ms" for value in (statistics.median(wait.each), *_tail(wait.each))]
        rows.append([str(wait.workers), *cells, f"{wait.share:.0%}"])
    header = ("workers", "median wait", "90th percentile", "longest", "batches waited for")
    text = WAIT_TEXT.format(step=f"{size.step_ms:g}", timed=size.timed, warm=size.warm, short=f"{SHORT_MS:g}")
    return Section("Waiting for a batch", text, header, rows)


def profile_section(cases: Sequence[Any], size: DatapathSize) -> Section:
    """Milliseconds of each stage of a sample, in one process."""
    parts, whole = profile(cases, size)
    names = ["read and crop", "flip", "grey values of the CT", "grey values of the PET"]
    names += sorted(name for name in parts if name.startswith("prompts"))
    names += ["rest of a sample", "collate"]
    rows = [_row(name, parts[name]) for name in names if name in parts]
    return Section("Profile", PROFILE_TEXT, HEADER, [*rows, _row("a sample, collated", whole)])


def profile(cases: Sequence[Any], size: DatapathSize) -> tuple[dict[str, list[float]], list[float]]:
    """CPU milliseconds of each stage in the samples that have it, and of whole samples."""
    import clickseg.data.dataset as module
    from clickseg.data.patch_store import StoreCase

    steps = [
        (StoreCase, "patch", "read and crop"),
        (module, "flip", "flip"),
        (module, "change_ct", "grey values of the CT"),
        (module, "change_pet", "grey values of the PET"),
        (module, "first_prompts", "prompts"),
    ]
    data = dataset(cases, size)
    for number in range(size.samples // 4):
        data[number]
    parts: dict[str, list[float]] = {}
    whole = []
    for number in range(0, size.samples, 2):
        pair, spent = [], 0.0
        for n in (number, number + 1):
            with watched(steps, time.process_time) as watch:
                start = time.process_time()
                pair.append(data[n])
                elapsed = time.process_time() - start
            found = {**watch.seconds, "rest of a sample": elapsed - sum(watch.seconds.values())}
            found[_kind(pair[-1].plan)] = found.pop("prompts")
            for name, seconds in found.items():
                parts.setdefault(name, []).append(seconds * 1000)
            spent += elapsed
        start = time.process_time()
        module.collate(pair)
        collated = time.process_time() - start
        parts.setdefault("collate", []).append(collated / 2 * 1000)
        whole.append((spent + collated) / 2 * 1000)
    return parts, whole


def device_section(cases: Sequence[Any], size: DatapathSize, device: Any) -> Section:
    """The work of the device."""
    import torch

    turned, drawn = time_device(cases, size, device)
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU with one thread; no GPU was available"
    )
    rows = [_row("rotation and scaling of a batch", turned), _row("guidance of a batch", drawn)]
    return Section("On the device", DEVICE_TEXT.format(device=name), ("work", "batches", *HEADER[2:]), rows)


def time_device(cases: Sequence[Any], size: DatapathSize, device: Any) -> tuple[list[float], list[float]]:
    """Milliseconds of rotating a batch and of drawing its guidance, for batches that contain a rotated sample."""
    from clickseg.data.dataset import collate
    from clickseg.data.prompt_channels import draw_channels
    from clickseg.train import augment

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    model, data = ModelSettings(), dataset(cases, size)
    turned: list[float] = []
    drawn: list[float] = []
    number = 0
    while len(turned) <= size.samples // 8:  # the first is not counted
        batch = collate([data[number], data[number + 1]]).to(device)
        number += 2
        if batch.matrices is None or not len(batch.points):
            continue
        wait_for_device(device)
        start = clock()
        batch = augment(batch)
        wait_for_device(device)
        middle = clock()
        draw_channels(batch.points, 2, size.patch, plan=model.plan, spacing=batch.spacing)
        wait_for_device(device)
        turned.append((middle - start) * 1000)
        drawn.append((clock() - middle) * 1000)
    return turned[1:], drawn[1:]


def page(sections: Sequence[Section], size: DatapathSize) -> str:
    """The whole page."""
    facts = {"cases": size.cases, "shape": show_shape(size.shape), "patch": show_shape(size.patch)}
    intro = textwrap.fill(INTRO.format(**facts), 120, break_on_hyphens=False)
    parts = ["# The data path", intro, machine(PACKAGES), *_load(), *(section.markdown() for section in sections)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _load() -> list[str]:
    """How busy the machine was, if the system reports it."""
    if not hasattr(os, "getloadavg"):
        return []
    mean = os.getloadavg()[1]
    return [f"Mean number of processes that wanted a core in the last minutes: {mean:.1f}. This run needs two cores."]


def _kind(plan: Any) -> str:
    """The row of a sample's prompts."""
    return f"prompts: {plan.stroke or 'clicks'}" if plan.count else "prompts: none"


def _tail(values: Sequence[float]) -> tuple[float, float]:
    return float(np.quantile(values, 0.9)), max(values)


def _row(name: str, values: Sequence[float]) -> list[str]:
    return [name, str(len(values)), f"{statistics.median(values):.2f} ms", f"{_tail(values)[0]:.2f} ms"]


INTRO = """Written by `make datapath`. `clickseg prepare` makes the patch store from {cases} whole-body phantoms of
{shape} voxels. A batch has two patches of {patch} voxels. All settings are the defaults of `clickseg train`. The files
are in the page cache; a cold disk is not measured."""
WAIT_TEXT = """How long a consumer waits for a batch from the loader of `clickseg train` if each step takes {step} ms.
The step is a pause, because a GPU leaves the CPU free. {timed} batches are measured after {warm} others. With 0
workers, the batch is made while the consumer waits. With more workers, a thread of the consumer's process fetches the
next batch while the step runs. A batch that arrives within {short} ms counts as not waited for."""
PROFILE_TEXT = """CPU time of one sample, in one process with one thread, over the samples that have the stage. On a
busy machine, CPU time is more stable than the waits above. Two workers keep up with the steps as long as a sample takes
less time than a step. "read and crop" copies three parts of memory-mapped files. A flip only changes strides; its cost
appears when the arrays are copied into the batch (collate). Prompts are all first prompts of a sample, up to ten of
each polarity. The transfer from a worker to the consumer is not included."""
DEVICE_TEXT = """Rotation, scaling and guidance run on the device, outside the loader. Measured on {device}."""


if __name__ == "__main__":
    main()

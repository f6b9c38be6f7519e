"""The process whose memory is measured: `python -m benchmarks.probe FOLDER WHO` prints bytes above the inputs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals import plain_assembly
from benchmarks.timing import forget_peak, read_status


def _clicksim(protocol: str) -> Callable[..., Any]:
    from clicksim import simulate_clicks

    return lambda labels, uptake, spacing: simulate_clicks(labels, uptake=uptake, spacing=spacing, protocol=protocol)


WHO: dict[str, Callable[..., Any]] = {
    "autopet-iv@1": _clicksim("autopet-iv@1"),
    "autopet-iv@2": _clicksim("autopet-iv@2"),
    "plain assembly": lambda labels, uptake, spacing: plain_assembly(labels, uptake),  # noqa: ARG005
}


def _warm(work: Callable[..., Any]) -> None:
    """Load and compile everything on a tiny case with the dtypes and memory layout of the real one."""
    labels = np.zeros((24, 24, 24), np.uint8, order="F")
    labels[4:8, 4:7, 4:9] = labels[12:15, 12:15, 12:15] = 1
    uptake = np.asfortranarray(np.random.default_rng(0).random(labels.shape, dtype=np.float32))
    work(labels, uptake, (2.0, 2.0, 3.0))


def main(folder: Path, who: str) -> int:
    """The peak of one run in bytes, above what was resident when the inputs were loaded."""
    work = WHO[who]
    _warm(work)
    labels, uptake = np.load(folder / "labels.npy"), np.load(folder / "uptake.npy")
    spacing = json.loads((folder / "spacing.json").read_text(encoding="utf-8"))
    forget_peak()
    before = read_status("VmRSS")
    work(labels, uptake, spacing)
    return read_status("VmHWM") - before


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2]))

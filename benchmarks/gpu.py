"""`python -m benchmarks.gpu`: the tests that need a GPU, and what one does in training and prediction; docs/gpu.md.

Without a GPU nothing is measured, and the page says so.
"""

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
NOT_RUN = "not run: no GPU that Torch can use"
WARM, TIMED = 3, 10
ROWS = (
    "tests marked `gpu`",
    "one window of 128 x 128 x 96, medium network, forward",
    "the same with eight mirrored copies",
    "a training step on 2 patches of 128 x 128 x 96, medium network, without corrections",
    "the same with three rounds of correction (forward passes alone, without the simulator)",
)


def main(arguments: list[str] | None = None) -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(arguments)
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, Torch {torch.__version__}, CUDA {torch.version.cuda}"
        results = [run_tests(), *measure()]
    else:
        device, results = f"{NOT_RUN} ({platform.machine()}, Torch {torch.__version__})", ["not run"] * len(ROWS)
    given.out.write_text(page(device, results), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)
    if results[0].startswith("failed"):
        raise SystemExit(1)


def page(device: str, results: list[str]) -> str:
    """The page."""
    rows = "".join(f"| {name} | {result} |\n" for name, result in zip(ROWS, results, strict=True))
    return (
        "# On a GPU\n\nWritten by `make gpu`.\n\n"
        f"Device: {device}\n\n| what | result |\n|---|---|\n{rows}\n"
        "Networks are untrained and inputs random: the figures are those of the device alone. The ablation of "
        "encodings is not part of this run.\n"
    )


def run_tests() -> str:
    """All tests marked `gpu`, as pytest sums them up."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(told.stdout, file=sys.stderr)
    lines = [line for line in told.stdout.splitlines() if re.search(r"\d+ (passed|failed|skipped|deselected)", line)]
    summary = lines[-1].strip("= ") if lines else told.stderr.strip().splitlines()[-1]
    return summary if told.returncode == 0 else f"failed: {summary}"


def measure() -> list[str]:
    """The rows after the first."""
    from clickseg.network import make_model
    from clickseg.settings import ModelSettings

    settings = ModelSettings()
    model = make_model(settings, 1, "cuda")
    x = torch.rand((2, 6, *settings.patch), device="cuda")
    label = (torch.rand((2, 1, *settings.patch), device="cuda") > 0.99).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def forward(times: int, batch: Any) -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            for _ in range(times):
                model(batch)

    def step(rounds: int) -> None:
        forward(rounds, x)
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x).float(), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return [
        timed(lambda: forward(1, x[:1])),
        timed(lambda: forward(8, x[:1])),
        timed(lambda: step(0)),
        timed(lambda: step(3)),
    ]


def timed(work: Any) -> str:
    """Milliseconds and peak memory of some work on the device, warm."""
    for _ in range(WARM):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(TIMED):
        work()
    torch.cuda.synchronize()
    spent = (time.perf_counter() - started) / TIMED * 1000
    return f"{spent:.1f} ms, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()

"""`python -m studies.learning`: do models learn to follow prompts, over several seeds? Writes docs/learning.md.

The bodies contain lesions and hot spots that look alike, so a model without prompts can at best find all spots. Each
seed trains one model with prompts and one without, and both play clicksim's rounds on held-out bodies. `--ablation`
adds models with other encodings of the same prompts. Finished work stays in `--work` and is not repeated.
"""

import argparse
import json
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_data import ROOT, show_shape
from benchmarks.result_table import Section, machine
from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings

PAGE = ROOT / "docs" / "learning.md"
PROTOCOL = "autopet-v@2"
PROMPTS = 3
COUNTS = ("0 prompts", "1 prompt", "2 prompts", "3 prompts")
RESAMPLES = 4000
PACKAGES = ("clicksim", "torch", "monai", "numpy")
FIRST_HELD = 2000  # number of the first held-out body
PROMPTED, UNPROMPTED = "prompted", "unprompted"
ENCODINGS = {
    "peak-1 Gaussian, 4 mm": ("gaussian", {"sigma_mm": 4.0}),
    "sum-normalised Gaussian, 4 mm": ("gaussian", {"sigma_mm": 4.0, "scale": "sum", "merge": "add"}),
    "ball, 8 mm": ("ball", {"radius_mm": 8.0}),
}
USE = ("zero", "shuffle", "shift", "flip")  # the linter's trials that show whether a model uses its guidance
LEAST_GAIN, MOST_LOSS = 0.1, 0.1  # in Dice: the least gain of three prompts, and the largest loss without prompts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LearningSize:
    """The size of an experiment.

    Attributes:
        seeds: Number of models of each kind.
        kept, held: Numbers of bodies to train on, and of held-out ones.
        lint: Number of held-out bodies on which the linter tries each model.
        model, train: Settings; the seed of `train` is replaced.
    """

    seeds: int
    kept: int
    held: int
    lint: int
    model: ModelSettings
    train: TrainSettings


LEARN = TrainSettings(
    steps=250, batch=2, workers=0, rate=6e-3, fold=-1, max_prompts=3, silent=0.3, affine=0.0, intensity=0.0,
    corrections=3, corrections_from=0.2, corrections_full=0.5, drop_pet=0.01, log_every=10, save_every=10**6,
    validate_every=0,
)  # fmt: skip
TINY = ModelSettings(size="tiny", patch=(24, 24, 24), encoding_settings={"radius_mm": 8.0})
ON_CPU = LearningSize(seeds=5, kept=20, held=12, lint=3, model=TINY, train=LEARN)
ON_GPU = LearningSize(
    seeds=5, kept=80, held=30, lint=1, model=TINY.but(size="small", patch=(32, 32, 32)),
    train=LEARN.but(steps=600, batch=4, rate=3e-3, workers=4),
)  # fmt: skip
SMOKE = LearningSize(
    seeds=2, kept=2, held=2, lint=1, model=TINY.but(patch=(16, 16, 16)), train=LEARN.but(steps=2, corrections=1)
)


@dataclass(frozen=True)
class StudyOutcome:
    """One model on the held-out bodies.

    Attributes:
        dice: `(cases, prompts + 1)`.
        used: Whether the linter says, on every body, that the model uses its guidance.
        change: Mean percentage of the mask that changes without guidance.
        faults: The linter's other findings: the number of bodies by check and severity.
        seconds: Duration of the training.
    """

    dice: Floats
    used: bool
    change: float
    faults: dict[str, int]
    seconds: float


def main(arguments: list[str] | None = None) -> None:
    """Run the study and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.learning", description=__doc__)
    parser.add_argument("--ablation", action="store_true", help="compare encodings too")
    parser.add_argument("--smoke", action="store_true", help="the smallest possible run; the numbers mean nothing")
    parser.add_argument("--work", type=Path, help="folder for stores, runs and scores; a temporary one by default")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    size = SMOKE if given.smoke else ON_CPU
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        sections = [*seeds_section(work, size), ablation_section(work, size, run=given.ablation)]
    given.out.write_text(page(sections, size), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)


# --- models and their scores ---------------------------------------------------------------------


def variants(size: LearningSize, names: Sequence[str]) -> dict[str, tuple[ModelSettings, TrainSettings]]:
    """The settings of models by name: `prompted`, `unprompted` (no prompt in training), or an encoding."""
    found = {}
    for name in names:
        model, settings = size.model, size.train
        if name == UNPROMPTED:
            settings = settings.but(max_prompts=0, corrections=0)
        elif name != PROMPTED:
            encoding, given = ENCODINGS[name]
            model = model.but(encoding=encoding, encoding_settings=given)
        found[name] = (model, settings)
    return found


def run_all(work: Path, size: LearningSize, names: Sequence[str]) -> dict[str, list[StudyOutcome]]:
    """The outcomes of all seeds of some variants; finished work in the folder is not repeated."""
    make_data(work, size)
    outcomes: dict[str, list[StudyOutcome]] = {name: [] for name in names}
    for name, (model, settings) in variants(size, names).items():
        for seed in range(1, size.seeds + 1):
            folder = f"{name}-{seed}".replace(" ", "-")
            outcomes[name].append(run_one(work, folder, model, settings.but(seed=seed), size.lint))
            print(f"{name}, seed {seed}: Dice {outcomes[name][-1].dice.mean(axis=0).round(3)}", file=sys.stderr)
    return outcomes


def make_data(work: Path, size: LearningSize) -> None:
    """A store to train on, and a catalog of held-out bodies."""
    from clickseg.data.prepare import prepare_store
    from tests.clickseg_phantoms import SPACING, write_toys

    about = work / "size.json"
    sizes = {"kept": size.kept, "held": size.held, "lint": size.lint}
    said = json.dumps({**sizes, "model": size.model.plain(), "train": size.train.plain()}, indent=1)
    if about.exists() and about.read_text(encoding="utf-8") != said:
        raise SystemExit(f"{work} contains a run of another size or with other settings; use another folder")
    if (work / "held" / "catalog.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    about.write_text(said, encoding="utf-8")
    write_toys(work / "kept", size.kept)
    prepare_store(work / "kept", work / "store", StoreRules(spacing_mm=SPACING))
    write_toys(work / "held", size.held, first=FIRST_HELD)


def run_one(work: Path, name: str, model: ModelSettings, settings: TrainSettings, lint: int) -> StudyOutcome:
    """Train a model, play rounds with it, and store the outcome."""
    from clickseg.train import train_model

    kept = work / f"{name}.json"
    if not kept.exists():
        start = time.perf_counter()
        path = train_model(work / "store", work / "runs" / name, model, settings, resume=True)
        seconds = time.perf_counter() - start
        found = {"seconds": seconds, **play_model(path, work / "held", work / "played" / name, lint)}
        kept.write_text(json.dumps(found), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    return StudyOutcome(**{**found, "dice": np.array(found["dice"])})


def play_model(model: Path, catalog: Path, out: Path, lint: int) -> dict[str, Any]:
    """Play rounds of one prompt each on all cases of a catalog, and run the linter on some."""
    import pyarrow.parquet as pq

    from clickseg.evaluate import evaluate_model, slug_of

    evaluate_model(
        model,
        catalog,
        out,
        protocols=[PROTOCOL],
        fold="all",
        settings={"n_rounds": PROMPTS + 1},
        lint=lint,
        resume=True,
    )
    rows = pq.read_table(out / slug_of(PROTOCOL) / "rounds.parquet").to_pylist()
    scores = {(row["case_id"], row["round"]): row["dice"] for row in rows}
    cases = sorted({case for case, _ in scores})
    dice = [[scores[case, number] for number in range(PROMPTS + 1)] for case in cases]
    return {"dice": dice, **read_lint((out / "lint.txt").read_text(encoding="utf-8"))}


def read_lint(text: str) -> dict[str, Any]:
    """Read from the linter's page whether the model uses its guidance, how much that changes, and the faults."""
    lines = re.findall(r"^(good|note|warning|error) +(\S+) +(\S+) +(.*)$", text, flags=re.MULTILINE)
    trials = [severity for severity, check, channel, _ in lines if channel == "model" and check in USE]
    shares = [float(share) for share in re.findall(r"without guidance ([\d.]+)% of the mask changes", text)]
    faults: dict[str, int] = {}
    for severity, check, _, _ in lines:
        if severity in ("warning", "error") and check not in USE:
            faults[f"{check} {severity}"] = faults.get(f"{check} {severity}", 0) + 1
    return {"used": bool(trials) and set(trials) == {"good"}, "change": float(np.mean(shares)), "faults": faults}


# --- intervals -----------------------------------------------------------------------------------


def interval(values: Floats) -> tuple[float, float, float]:
    """The mean of `(seeds, cases)`, and the middle 95 % of the means of bootstrap samples.

    All seeds are scored on the same cases, so the two are crossed. Each sample draws seeds and cases, and takes the
    mean over all their pairs (the pigeonhole bootstrap). If there is only one seed or one case, it is not drawn.
    """
    from clicksim.rounds.statistics import draw_clusters

    seeds, cases = (draw_clusters(n, RESAMPLES, 42, axis) for n, axis in zip(values.shape, "sc", strict=True))
    means = values[seeds[:, :, None], cases[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def dice_of(outcomes: Sequence[StudyOutcome]) -> Floats:
    """`(seeds, cases, prompts + 1)`."""
    return np.stack([outcome.dice for outcome in outcomes])


def show(values: Floats, *, sign: str = "") -> str:
    """A mean with its interval."""
    mean, low, high = interval(values)
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


# --- the page ------------------------------------------------------------------------------------


def seeds_section(work: Path, size: LearningSize) -> list[Section]:
    """The results of each seed, and the claims over all seeds."""
    outcomes = run_all(work, size, [PROMPTED, UNPROMPTED])
    dice, plain = dice_of(outcomes[PROMPTED]), dice_of(outcomes[UNPROMPTED])
    gain, change = dice[..., -1] - dice[..., 0], dice[..., 0] - plain[..., 0]
    rows = []
    for n, outcome in enumerate(outcomes[PROMPTED]):
        cells = [f"{value:.3f}" for value in outcome.dice.mean(axis=0)]
        rows.append(
            [str(n + 1), *cells, show(gain[n : n + 1], sign="+"), f"{plain[n, :, 0].mean():.3f}", _verdict(outcome)]
        )
    means = [show(dice[..., number]) for number in range(PROMPTS + 1)]
    used, idle = (sum(outcome.used for outcome in outcomes[name]) for name in (PROMPTED, UNPROMPTED))
    rows.append(["all", *means, show(gain, sign="+"), show(plain[..., 0]), f"used by {used} of {size.seeds}"])
    header = ("seed", *COUNTS, "gain of three", "0 prompts, trained without", "linter")
    changes = [np.mean([outcome.change for outcome in outcomes[name]]) for name in (PROMPTED, UNPROMPTED)]
    linted = LINTED_TEXT.format(changes=changes, idle=idle, seeds=size.seeds)
    text = SEEDS_TEXT.format(**facts_of(size))
    return [Section("Seeds", text, header, rows), _claims(dice, gain, change, used, linted)]


def _claims(dice: Floats, gain: Floats, change: Floats, used: int, linted: str) -> Section:
    """The claims of the project, and whether this run supports them."""
    worst_gain, worst_zero = gain.mean(axis=1).min(), change.mean(axis=1).min()
    rows = [
        [f"three prompts add more than {LEAST_GAIN:g}", show(gain, sign="+"), _holds(interval(gain)[1] > LEAST_GAIN)],
        ["... with every seed", f"lowest {worst_gain:+.3f}", _holds(worst_gain > LEAST_GAIN)],
        [
            f"without prompts, at most {MOST_LOSS:g} less than a model that was trained without",
            show(change, sign="+"),
            _holds(interval(change)[1] > -MOST_LOSS),
        ],
        ["... with every seed", f"lowest {worst_zero:+.3f}", _holds(worst_zero > -MOST_LOSS)],
        ["the linter says that guidance is used", f"{used} of {len(dice)} seeds", _holds(used == len(dice))],
    ]
    return Section("Claims", f"{CLAIMS_TEXT} {linted}", ("claim", "measured", "holds"), rows)


def ablation_section(work: Path, size: LearningSize, *, run: bool) -> Section:
    """The encodings side by side."""
    text = ABLATION_TEXT.format(**facts_of(size))
    header = ("encoding", *COUNTS, "gain of three", "three prompts, compared with the first row", "linter")
    if not run:
        rows = [[name, "not run", *[""] * (len(header) - 2)] for name in ENCODINGS]
        return Section("Encodings", text, header, rows)
    outcomes = run_all(work, size, list(ENCODINGS))
    first = dice_of(next(iter(outcomes.values())))
    rows = []
    for name, found in outcomes.items():
        dice = dice_of(found)
        against = "" if dice is first or np.array_equal(dice, first) else show(dice[..., -1] - first[..., -1], sign="+")
        gain = show(dice[..., -1] - dice[..., 0], sign="+")
        scores = [show(dice[..., number]) for number in range(PROMPTS + 1)]
        rows.append([name, *scores, gain, against, _verdict_of_all(found)])
    return Section("Encodings", text, header, rows)


def facts_of(size: LearningSize) -> dict[str, Any]:
    """The facts of an experiment that the texts contain."""
    return {
        "seeds": size.seeds, "kept": size.kept, "held": size.held, "steps": size.train.steps,
        "batch": size.train.batch, "model": size.model.size, "patch": show_shape(size.model.patch),
        "encoding": f"{size.model.encoding} of {size.model.plan['radius_mm']:g} mm", "protocol": PROTOCOL,
        "rate": f"{size.train.rate:g}", "corrections": size.train.corrections, "lint": size.lint,
    }  # fmt: skip


def page(sections: Sequence[Section], size: LearningSize) -> str:
    """The whole page."""
    head = [textwrap.fill(part, 120, break_on_hyphens=False) for part in INTRO.format(**facts_of(size)).split("\n\n")]
    return "\n\n".join([*head, machine(PACKAGES).strip(), *(section.markdown().strip() for section in sections)]) + "\n"


def _verdict(outcome: StudyOutcome) -> str:
    """The linter's verdict on one model, as a cell."""
    faults = [f"{name} on {count}" for name, count in sorted(outcome.faults.items())]
    used = f"guidance is {'used' if outcome.used else 'not used everywhere'}: without it {outcome.change:.0f} % changes"
    return "; ".join([used, *faults])


def _verdict_of_all(outcomes: Sequence[StudyOutcome]) -> str:
    """The linter's verdict on all seeds, as a cell."""
    used = f"guidance is used with {sum(outcome.used for outcome in outcomes)} of {len(outcomes)} seeds"
    dim = sum(outcome.faults.get("peak error", 0) > 0 for outcome in outcomes)
    return f"{used}; the peak is an error with {dim}" if dim else used


def _holds(yes: Any) -> str:
    return "yes" if yes else "no"


INTRO = """# Learning

Written by `make learning`. Everything here is small and synthetic. It shows that the loop teaches a model to follow
prompts; it does not predict the Dice on patients.

The bodies contain three lesions and three hot spots that look alike, so only prompts show which is which. A model
without prompts can at best find all six, which gives a Dice near 0.67. There are {seeds} seeds. Each seed trains two
{model} networks with the loop of `clickseg train` ({steps} steps of {batch} patches of {patch} voxels, learning rate
{rate}, up to {corrections} rounds of correction, encoding {encoding}) on the same {kept} bodies, one with prompts and
one without. Both then play the rounds of `{protocol}` on the same {held} held-out bodies, with one prompt per round.
Everything runs on one thread of a CPU.
"""
SEEDS_TEXT = """Mean Dice after 0 to 3 prompts. The brackets contain the middle 95 % of a bootstrap: over cases in the
row of a seed, over seeds and cases, which are crossed, in the last row. The linter tries each model on {lint} held-out
bodies with guidance that is absent, shuffled, shifted or swapped, and says whether the model uses it. Its other
findings follow: `foreground` and `background` mean that prompts change the mask against their polarity. In these bodies
three of six spots are lesions. A spot that is known to be a lesion makes the others less likely to be one, and a model
may have learnt this."""
CLAIMS_TEXT = """A claim holds if it holds for the whole interval."""
LINTED_TEXT = """The linter's verdict is weak evidence: it says the same about {idle} of {seeds} models that never saw a
prompt in training. Without guidance, the mask of these models changes by {changes[1]:.1f} % on average; that of the
models with prompts changes by {changes[0]:.1f} %."""
ABLATION_TEXT = """Other encodings of the same prompts on the same bodies. Each of {seeds} seeds trains a {model}
network with each encoding ({steps} steps of {batch} patches of {patch} voxels, {kept} bodies); {held} bodies are held
out. The Gaussians have a sigma of 4 mm, which is one voxel; the radius of the ball is twice that. Differences are
paired by seed and case, and intervals are over seeds and cases. This is a toy problem: if the intervals do not separate
two encodings, the study does not rank them."""


if __name__ == "__main__":
    main()

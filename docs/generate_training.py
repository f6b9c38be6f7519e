"""Writes docs/training-tutorial.md and its pictures by running its commands (minutes): `make tutorial`.

Commands, files, output, numbers and pictures of the page come from one run in an empty folder. Nobody types them.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from clicksim import open_catalog
from clicksim.report.mip import View, find_views, find_window
from clicksim.volumes import read_image, read_label

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
PROTOCOL = "autopet-v@2"
GAIN = 0.1
"""The page is written only if prompts raise the mean Dice by at least this much."""
SCALE = 5
GAP, HEAD, FOOT = 14, 24, 30
TRUTH, FOUND, FOREGROUND, BACKGROUND = (30, 110, 235), (240, 150, 30), (0, 130, 60), (210, 30, 30)

PHANTOMS = """from clicksim.phantom.layouts import write_fdat

write_fdat("download", patients=30, seed=1, shape=(56, 48, 112), spacing=(4, 4, 4), lesions=(3, 6))
"""
SETTINGS = """# the model
size = "tiny"
patch = [24, 24, 24]
encoding_radius_mm = 8.0

# the training
steps = 800
batch = 3
rate = 0.01
average = 0.98
silent = 0.35
max_prompts = 3
corrections = 2
affine = 0.0
intensity = 0.0
workers = 0

# the record
validate_every = 200
validation_patches = 24
"""


class PageWriter:
    """The page so far, and the folder in which its commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts = folder, []

    def say(self, text: str) -> None:
        """Add paragraphs and headings."""
        for part in text.strip().split("\n\n"):
            self.parts.append(textwrap.fill(" ".join(part.split()), 120, break_on_hyphens=False) + "\n")

    def file(self, name: str, language: str, body: str) -> None:
        """Write a file, and show it to the reader."""
        (self.folder / name).write_text(body, encoding="utf-8")
        self.parts.append(f'```{language} title="{name}"\n{body}```\n')

    def run(self, command: str, *, show: str = "") -> str:
        """Run a command, show the lines of its output that match a pattern, and return its stdout."""
        started = time.monotonic()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        surroundings = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=surroundings, capture_output=True, text=True
        )
        print(f"{time.monotonic() - started:6.1f} s  {command}", file=sys.stderr)
        if done.returncode:
            raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        self.parts.append(f"```sh\n{command}\n```\n")
        if show:
            self.parts.append("```text\n" + shorten(done.stdout, show) + "\n```\n")
        return done.stdout

    @property
    def minutes(self) -> float:
        """Processor time of all commands."""
        import resource  # Windows does not have it, and the tests import this file there too

        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (usage.ru_utime + usage.ru_stime) / 60

    def picture(self, name: str, image: Image.Image, alt: str) -> None:
        """Save a picture and add it to the page."""
        image.save(PICTURES / name, optimize=True)
        self.parts.append(f"![{alt}](pictures/{name})\n")


def shorten(text: str, show: str) -> str:
    """The lines of a text that match a pattern, with `...` for the others."""
    lines = [line if re.search(show, line) else "..." for line in text.splitlines()]
    return "\n".join(line for n, line in enumerate(lines) if line != "..." or n == 0 or lines[n - 1] != "...")


def main() -> None:
    """Run the page from top to bottom, and write it if the model learnt enough."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="clickseg-tutorial-") as name:
        page = PageWriter(Path(name))
        _data(page)
        _training(page)
        _evaluation(page)
        _use(page)
    (DOCS / "training-tutorial.md").write_text("\n".join(page.parts), encoding="utf-8")


def _data(page: PageWriter) -> None:
    page.say("# Tutorial: train a model")
    page.say("""
This tutorial trains a model that follows prompts, and draws the curve that shows it. The patients are synthetic and
small, the network is tiny, and a laptop without a GPU is enough. The same commands train on real data. Everything on
this page, including numbers and pictures, comes from one run of `make tutorial`. In an output, `...` marks omitted
lines. [Training](training.md) explains the settings.
""")
    page.say("## Patients")
    page.say("Write synthetic PET/CT in the file layout of fdat, with voxels of 4 mm. Some patients have no lesion:")
    page.file("phantoms.py", "python", PHANTOMS)
    page.run("python phantoms.py")
    page.run("clicksim convert fdat download catalog", show=".")
    page.run(
        "clicksim catalog summary catalog", show=r"^fdat|cases|patients|without|lesions|median|tracers|folds|rejected"
    )
    page.say("""
The folds are those of the publisher. All studies of a patient are in one fold.

## A store

The files of the catalog are made for storage. Training reads patches from plain arrays:
""")
    page.run("clickseg prepare catalog store --set spacing_mm=4,4,4", show=".")


def _training(page: PageWriter) -> None:
    page.say("## Training")
    page.say(
        "The file contains the settings that differ from the defaults. `clickseg train --list` shows all settings."
    )
    page.file("tiny.toml", "toml", SETTINGS)
    page.run("clickseg train store run --config tiny.toml", show=".")
    facts = json.loads((page.folder / "run" / "run.json").read_text(encoding="utf-8"))
    rows = pq.read_table(page.folder / "run" / "metrics.parquet").to_pylist()
    scores = {(row["step"], row["prompts"]): row["value"] for row in rows if row["name"] == "dice"}
    last = max(step for step, _ in scores)
    most = max(prompts for _, prompts in scores)
    page.say(f"""
Fold 0 is held out. This run made {facts["steps"]} steps with Torch {facts["torch"].partition("+")[0]} on one CPU core;
training uses more cores or a GPU if they are available. `run` now contains the model, the state from which `--resume`
continues, and `metrics.parquet`. This picture shows the metrics:
""")
    with Image.open(page.folder / "run" / "curve.png") as image:
        page.picture("training-curve.png", image, "loss and Dice over the steps")
    page.say(f"""
The upper part is the loss. It does not fall smoothly, because the patches differ and corrections start during the run.
The lower part is the Dice on held-out patches with 0 to {most} prompts, each placed in the largest error of the model.
At the end it is {scores[last, 0]:.2f} without prompts and {scores[last, most]:.2f} with {most}. A patch without a
lesion counts as 1 if nothing is predicted, and as 0 otherwise.
""")


def _evaluation(page: PageWriter) -> None:
    page.say("""
## The interactive curve

Now evaluate whole patients instead of patches, with the rounds of autoPET V: a prediction without prompts, then
corrections, each a scribble in the largest error of the previous mask. `evaluate` selects the patients of the held-out
fold:
""")
    page.run(
        f"clickseg evaluate run/model.safetensors catalog results --protocol {PROTOCOL} --keep-predictions --lint 1",
        show=r"cases of fold|^autopet|^round|^ +\d|^auc_dice|^tracer|^burden|^lesions|  model  |^verdict",
    )
    folder = page.folder / "results" / PROTOCOL.replace("@", "-")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    dice = [entry["mean"] for entry in summary["all"]["rounds"]["dice"]]
    found = summary["lesion"]["all"]["found"]
    if dice[-1] < dice[0] + GAIN:
        raise SystemExit(f"the page is not written: Dice went from {dice[0]:.3f} to {dice[-1]:.3f}")
    page.say(f"""
The mean Dice rises from {dice[0]:.2f} without prompts to {dice[1]:.2f} after one prompt and {dice[-1]:.2f} after
{len(dice) - 1}. The share of lesions that are found rises from {found[0]:.2f} to {found[-1]:.2f}. The intervals are
wide, because there are only {summary["all"]["patients"]} patients. The lines with `model` come from the linter. It runs
the model again without guidance, and with guidance that is shifted, shuffled and swapped, and says whether the mask
follows.

`results/{folder.name}` contains one row per round and per lesion, all prompts, the summary, and the curve:
""")
    with Image.open(folder / "curve.png") as image:
        page.picture("training-rounds.png", image, "Dice and lesion F1 over the rounds, with intervals")
    case_id, rounds = _most_gained(folder)
    page.say(f"""
## One patient

`--keep-predictions` stores the masks. The picture shows the patient whose Dice rose most, from the front, in rounds
{", ".join(map(str, rounds[:-1]))} and {rounds[-1]}. Darker is hotter. Blue lines are the true lesions, and orange is
the prediction. Green dots are the foreground scribbles so far, and red dots the background scribbles:
""")
    image = draw_rounds(page.folder / "catalog", folder, case_id, rounds)
    page.picture("training-patient.png", image, "maximum projections of one patient over the rounds")


def _use(page: PageWriter) -> None:
    page.say("## Use the model")
    page.say("""
The model is one file. It predicts a case from image files, with or without prompts. In this example, the model has
never seen the patient, and there are three simulated clicks of each polarity:
""")
    cases = open_catalog(page.folder / "catalog").cases.to_pylist()
    case = next(r for r in cases if r["lesion_present"] and r["official_fold"] == 0 and r["tracer_class"] == "PSMA")
    images = f"download/imagesTr/{case['case_id']}"
    label = f"download/labelsTr/{case['case_id']}.nii.gz"
    page.run(
        f"clicksim clicks --label {label} --pet {images}_0001.nii.gz \\\n"
        "  --set n_foreground=3 --set n_background=3 --out clicks.json"
    )
    page.run(
        f"clickseg predict run/model.safetensors --ct {images}_0000.nii.gz --pet {images}_0001.nii.gz \\\n"
        "  --prompts clicks.json --out mask.nii.gz",
        show=".",
    )
    page.run(f"clicksim score --label {label} --prediction mask.nii.gz", show="^(dice|dmm|tp|fp|fn)")
    page.say(f"""
All commands of this page took {page.minutes:.1f} minutes of one core. [Prediction, evaluation and the
container](container.md) explains how to use the model in Python and how to turn it into an algorithm of Grand
Challenge. Real data need more of everything: omit `tiny.toml`, and see [Training](training.md).
""")


def _most_gained(folder: Path) -> tuple[str, list[int]]:
    """The case whose Dice rose most over the rounds, and the first, second and last round."""
    curves: dict[str, list[float]] = {}
    for row in pq.read_table(folder / "rounds.parquet").to_pylist():
        if row["truth_ml"]:
            curves.setdefault(row["case_id"], []).append(row["dice"])
    case_id = max(curves, key=lambda name: curves[name][-1] - curves[name][0])
    return case_id, [0, 1, len(curves[case_id]) - 1]


def draw_rounds(catalog_path: Path, folder: Path, case_id: str, rounds: list[int]) -> Image.Image:
    """Coronal projections of a case side by side: truth, prediction and the prompts so far."""
    catalog = open_catalog(catalog_path)
    row = catalog.case(case_id)
    pet, truth = read_image(catalog.resolve(row["pet_path"])), read_label(catalog.resolve(row["label_path"]))
    view = find_views(pet.grid)[0]
    shown = view.lay(pet.array.max(axis=view.project))
    share = np.clip(shown / find_window(shown), 0, 1) ** 0.8
    grey = _enlarged(np.uint8(255 - 255 * share), smooth=True).convert("RGB")
    prompts = [p for p in pq.read_table(folder / "prompts.parquet").to_pylist() if p["case"] == case_id]
    scores = {
        r["round"]: r["dice"] for r in pq.read_table(folder / "rounds.parquet").to_pylist() if r["case_id"] == case_id
    }
    width = len(rounds) * grey.width + (len(rounds) - 1) * GAP
    sheet = Image.new("RGB", (width, grey.height + HEAD + FOOT), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for n, number in enumerate(rounds):
        mask = read_label(folder / "predictions" / row["source"] / case_id / f"iter_{number}.nii.gz")
        panel = _panel(grey, view, truth.array, mask.array)
        so_far = [p for p in prompts if p["round"] <= number]
        _dots(ImageDraw.Draw(panel), view, pet.grid, so_far)
        x = n * (grey.width + GAP)
        sheet.paste(panel, (x, HEAD))
        pen.text((x, 2), f"round {number}, Dice {scores[number]:.2f}", fill="black", font=font)
    x, y = 0, grey.height + HEAD + 6
    legend = ((TRUTH, "true lesion"), (FOUND, "predicted"), (FOREGROUND, "foreground"), (BACKGROUND, "background"))
    for colour, name in legend:
        pen.rectangle((x, y + 3, x + 10, y + 13), fill=colour)
        pen.text((x + 15, y), name, fill="black", font=font)
        x += 15 + int(pen.textlength(name, font=font)) + 18
    return sheet


def _panel(grey: Image.Image, view: View, truth: NDArray[Any], mask: NDArray[Any]) -> Image.Image:
    """The uptake, with the prediction as an area and the truth as a line."""
    panel = grey.copy()
    found, real = (_enlarged(255 * np.uint8(view.lay((a != 0).max(axis=view.project)))) for a in (mask, truth))
    panel.paste(Image.new("RGB", grey.size, FOUND), mask=found.point(lambda value: value * 3 // 4))
    panel.paste(TRUTH, mask=ImageChops.subtract(real.filter(ImageFilter.MaxFilter(5)), real))
    return panel


def _dots(pen: ImageDraw.ImageDraw, view: View, grid: Any, prompts: list[dict[str, Any]]) -> None:
    for prompt in prompts:
        ((x, y),) = view.place([[prompt["i"], prompt["j"], prompt["k"]]], grid) * SCALE
        colour = FOREGROUND if prompt["polarity"] == "foreground" else BACKGROUND
        pen.ellipse((x - 3.5, y - 3.5, x + 3.5, y + 3.5), fill=colour, outline="white")


def _enlarged(array: NDArray[np.uint8], *, smooth: bool = False) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(array))
    size = (image.width * SCALE, image.height * SCALE)
    return image.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()

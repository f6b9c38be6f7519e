"""The jobs that are crash-tested, as data, and the trees that they begin from.

A new job is one entry in `JOBS`. In a command `{inputs}` is the folder of what the commands read
and never write, and `{tree}` the one in which they run; other paths are relative to that.
"""

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SHAPE, SPACING = (24, 20, 30), (18.0, 18.0, 20.0)
TINY = ("size=tiny", "patch=16,16,16")
FACTS = ("runs/", "run.json", ".lock", ".lock-holder.json")
"""Files with wall-clock facts, and the lock: their bytes are not compared, their names are, but for the lock's."""


@dataclass(frozen=True)
class CrashJob:
    """A command that is stopped at every file operation.

    Attributes:
        name: What the tables call it.
        words: The command, as typed.
        base: The tree in which it runs; see `BASES`.
        resume: Whether it has `--resume`.
        catalogs: The catalogs in the tree that a reader opens after a crash, with the one that the command makes.
        each: A commit for each run, as in a sweep; else all tables change together.
        seals: Files that say that the job is complete: where one is there after a crash, all else must be too.
        workers: Whether it starts processes: one of them alone is killed too, and of writes in a row the first alone
            is a point, since each costs seconds.
        signals: Whether signals are sent to it.
    """

    name: str
    words: str
    base: str
    resume: bool = False
    catalogs: tuple[str, ...] = ("catalog",)
    each: bool = False
    seals: tuple[str, ...] = ()
    workers: bool = False
    signals: bool = False


@dataclass(frozen=True)
class Base:
    """A tree from which jobs begin: the commands that make it, on top of another one."""

    commands: Sequence[str] = ()
    on: str = ""
    make: Callable[[Path, Path], object] | None = field(default=None)


def _write_model(tree: Path, inputs: Path) -> None:
    from tests.clickseg_models import write_model

    write_model(tree / "model.safetensors", spacing=(18.0, 18.0, 20.0))


def _one_mask(tree: Path, inputs: Path) -> None:
    """The answer of a command that predicts: the mask of the case, as it is asked for."""
    from clicksim.volumes import read_image, write_image

    case = sorted((inputs / "fdat/labelsTr").iterdir())[0]
    for name, folder, ending in (("label", "labelsTr", ""), ("ct", "imagesTr", "_0000"), ("pet", "imagesTr", "_0001")):
        stem = case.name.removesuffix(".nii.gz")
        shutil.copy2(inputs / "fdat" / folder / f"{stem}{ending}.nii.gz", tree / f"{name}.nii.gz")
    image = read_image(case)
    write_image(tree / "mask.mha", image.array, image.grid)


BASES = {
    "empty": Base(),
    "fdat": Base(
        ("clicksim convert fdat {inputs}/fdat catalog", "clicksim clicks --catalog catalog --seed 1 --out first")
    ),
    "both": Base(("clicksim convert deep-psma {inputs}/deep-psma catalog",), on="fdat"),
    "shards": Base(
        (
            "clicksim convert fdat {inputs}/fdat one --shard 0/2",
            "clicksim convert fdat {inputs}/fdat two --shard 1/2",
            "clicksim convert deep-psma {inputs}/deep-psma one",
            "clicksim clicks --catalog one --source fdat",
            "clicksim clicks --catalog two --source fdat",
        )
    ),
    "pushed": Base(("clicksim catalog push catalog file://{tree}/pushed",), on="both"),
    "model": Base(on="fdat", make=_write_model),
    "case": Base(make=_one_mask),
    "kept": Base(make=lambda tree, inputs: (tree / "kept").write_text("of before\n")),
}

ROUNDS = "clicksim rounds --catalog catalog --predictor builtin:threshold --set n_rounds=2 --out played"
ANSWER = "mkdir -p {output}/images/tumor-lesion-segmentation && cp mask.mha {output}/images/tumor-lesion-segmentation/"
COMMAND = (
    f"clicksim rounds --label label.nii.gz --ct ct.nii.gz --pet pet.nii.gz --predictor 'cmd:: {{input}}; {ANSWER}'"
    " --set n_rounds=2 --out played"
)
CONVERT = "clicksim convert deep-psma {inputs}/deep-psma catalog"
CLICKS = "clicksim clicks --catalog catalog --out clicks"
SLOW = COMMAND.replace("cmd:: ", "cmd:sleep 0.3; : ")
STORE = "clickseg prepare catalog store --set spacing_mm=18,18,20"
EVALUATE = (
    "clickseg evaluate model.safetensors catalog out --fold all --protocol autopet-v@2 --set n_rounds=1 --overlap 0"
    " --lint 0"
)
FOLDER = "clicksim clicks --label {inputs}/fdat/labelsTr --pet {inputs}/fdat/imagesTr --out clicks"

JOBS = (
    CrashJob("convert", CONVERT, "fdat", resume=True),
    CrashJob("convert-anew", "clicksim convert fdat {inputs}/fdat new", "empty", resume=True, catalogs=("new",)),
    CrashJob(
        "convert-zip",
        "clicksim convert fdat {inputs}/fdat.zip new --option unpack=true",
        "empty",
        resume=True,
        catalogs=("new",),
    ),
    CrashJob("clicks", CLICKS, "fdat", resume=True),
    CrashJob("scribbles", "clicksim scribbles --catalog catalog", "fdat", resume=True),
    CrashJob("sweep", "clicksim clicks --catalog catalog --sweep n_foreground=1,2", "fdat", resume=True, each=True),
    CrashJob("clicks-folder", FOLDER, "empty", resume=True, catalogs=()),
    CrashJob("rounds", f"{ROUNDS} --keep-predictions", "fdat", resume=True),
    CrashJob("rounds-command", COMMAND, "case", resume=True, catalogs=()),
    CrashJob("report", "clicksim report catalog page.html", "both", resume=True),
    CrashJob(
        "nnunet",
        "clicksim manifest nnunet catalog Dataset001_Crash --copy",
        "fdat",
        resume=True,
        seals=("Dataset001_Crash/clicksim-manifest.json",),
    ),
    CrashJob(
        "monai", "clicksim manifest monai catalog lists", "fdat", resume=True, seals=("lists/clicksim-manifest.json",)
    ),
    CrashJob(
        "csv", "clicksim manifest csv catalog tables", "fdat", resume=True, seals=("tables/clicksim-manifest.json",)
    ),
    CrashJob(
        "croissant",
        "clicksim manifest croissant catalog published",
        "fdat",
        resume=True,
        seals=("published/clicksim-manifest.json",),
    ),
    CrashJob(
        "grand-challenge",
        "clicksim manifest grand-challenge catalog archive",
        "fdat",
        resume=True,
        seals=("archive/clicksim-manifest.json",),
    ),
    CrashJob(
        "huggingface",
        "clicksim manifest huggingface catalog hub --copy",
        "fdat",
        resume=True,
        seals=("hub/clicksim-manifest.json",),
    ),
    CrashJob(
        "merge", "clicksim catalog merge merged one two", "shards", resume=True, catalogs=("one", "two", "merged")
    ),
    CrashJob("import-prompts", "clicksim catalog import-prompts catalog first --run mine", "fdat", resume=True),
    CrashJob("folds", "clicksim catalog folds catalog --folds 2", "fdat"),
    CrashJob("relocate", "clicksim catalog relocate catalog fdat={inputs}/moved", "fdat"),
    CrashJob("audit", "clicksim catalog audit catalog --read-data --out audit.html", "fdat", resume=True),
    CrashJob("push", "clicksim catalog push catalog file://{tree}/pushed", "both", catalogs=("catalog", "pushed")),
    CrashJob("pull", "clicksim catalog pull file://{tree}/pushed pulled", "pushed", catalogs=("pushed", "pulled")),
    CrashJob("prepare", STORE, "fdat", resume=True),
    CrashJob("evaluate", EVALUATE, "model", resume=True),
    CrashJob(
        "convert-workers",
        "clicksim convert fdat {inputs}/fdat new --workers 2",
        "empty",
        resume=True,
        catalogs=("new",),
        workers=True,
        signals=True,
    ),
    CrashJob("clicks-workers", f"{CLICKS} --workers 1", "fdat", resume=True, workers=True, signals=True),
    CrashJob("rounds-signals", SLOW, "case", resume=True, catalogs=(), signals=True),
)
"""Every job of the harness."""


def spell(words: str, inputs: Path, tree: Path) -> list[str]:
    """Program and arguments of a command."""
    return shlex.split(words.replace("{inputs}", str(inputs)).replace("{tree}", str(tree)))


def write_inputs(folder: Path) -> None:
    """What the commands read: phantoms of a few voxels in the layouts of publishers."""
    from clicksim.phantom.layouts import write_deep_psma, write_fdat

    write_fdat(folder / "fdat", patients=2, seed=3, shape=SHAPE, spacing=SPACING, lesions=(1, 2))
    shutil.make_archive(str(folder / "fdat"), "zip", folder, "fdat")
    shutil.copytree(folder / "fdat", folder / "moved")
    write_deep_psma(folder / "deep-psma", patients=1, seed=3, shape=SHAPE, spacing=SPACING, lesions=(1, 2))

"""`clickseg predict`, `evaluate` and `container`: commands that use a trained model."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.options import Number
from clicksim.cli.paths import CatalogPath
from clicksim.errors import ClicksimError

if TYPE_CHECKING:
    from clickseg.predict import Options

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MODEL_VARIABLE, CACHE_VARIABLE = "CLICKSEG_MODEL", "CLICKSEG_CACHE"
SOURCES = click.option("--source", "sources", multiple=True, help="Use only this source; repeatable.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
OVERLAP = click.option(
    "--overlap",
    type=Number(0, 0.9),
    default=0.5,
    show_default=True,
    help="Overlap of neighbouring windows, as a fraction.",
)
MIRROR = click.option(
    "--mirror", default="", metavar="RAS", help="Also predict mirrored along these axes, and take the mean."
)


@click.command()
@click.argument("model", type=FILE)
@click.option("--ct", type=FILE, required=True, help="Hounsfield units.")
@click.option("--pet", type=FILE, help="PET in SUV, on the CT's grid.")
@click.option("--prompts", type=FILE, help="Prompts as JSON, plain or Grand Challenge.  [default: no prompts]")
@click.option("--out", type=PATH, required=True, help="The mask to write, .nii.gz, .nii or .mha.")
@click.option("--probability", type=PATH, help="Also write the probability of a lesion to this file.")
@DEVICE
@OVERLAP
@MIRROR
def predict(
    model: Path,
    ct: Path,
    pet: Path | None,
    prompts: Path | None,
    out: Path,
    probability: Path | None,
    device: str,
    overlap: float,
    mirror: str,
) -> None:
    """Segment one case with a MODEL; the mask is on the grid of the case.

    The model first predicts without prompts; then it gets all prompts at once, to correct that mask.

    \b
    Examples:
      clickseg predict model.safetensors --ct ct.nii.gz --pet pet.nii.gz --out mask.nii.gz
      clickseg predict model.safetensors --ct ct.nii.gz --pet pet.nii.gz --prompts clicks.json --out mask.nii.gz
    """  # noqa: D301
    from clickseg.predict import open_session
    from clicksim.cli.progress import progress
    from clicksim.prompts import Prompts
    from clicksim.prompts.prompt_files import read_prompts
    from clicksim.volumes import read_image, write_image
    from clicksim.volumes.case import read_pet

    options = _options(device, overlap, mirror, keep=prompts is not None)
    density = read_image(ct)
    uptake, doubts = (None, ()) if pet is None else read_pet(pet)
    _say(doubts)
    grid = density.grid
    if uptake is not None:
        grid.check_same(uptake.grid, ("CT", "PET"))
    shown = Prompts((), grid) if prompts is None else read_prompts(prompts, grid)
    session, _ = open_session(model, options)
    session.set_case(grid, density.array, None if uptake is None else uptake.array)
    for turn in [Prompts((), grid), shown] if len(shown) else [shown]:
        with progress("windows") as session.progress:
            mask = session.prompt(turn)
    write_image(out, mask, grid, like=ct)
    if probability is not None:
        write_image(probability, session.probability(), grid)
    click.echo(str(out))


@click.command()
@click.argument("model", type=FILE)
@click.argument("catalog", type=CatalogPath())
@click.argument("out", type=PATH)
@click.option(
    "--protocol", "protocols", multiple=True, default=("autopet-iv@2", "autopet-v@2"), show_default=True,
    help="Rule of prompts and scores; repeatable.",
)  # fmt: skip
@click.option(
    "--fold", default="auto", show_default=True, help="A number, or all; auto takes the cases that the model never saw."
)
@click.option("--folds", metavar="NAME", help="A fold plan of the catalog.  [default: that of the model's store]")
@SOURCES
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the protocols' rounds; repeatable."
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of all draws and of the bootstrap.")
@batch_options(cluster=False)
@click.option("--keep-predictions", is_flag=True, help="Keep the masks of all rounds below OUT.")
@click.option(
    "--lint", type=click.IntRange(0), default=3, show_default=True, help="Cases on which the guidance linter runs."
)
@DEVICE
@OVERLAP
@MIRROR
def evaluate(
    model: Path,
    catalog: str | Path,
    out: Path,
    pairs: tuple[str, ...],
    device: str,
    overlap: float,
    mirror: str,
    workers: int | str,
    **how: Any,
) -> None:
    """Play interactive rounds with a MODEL over a CATALOG, and write tables, summary and curves to OUT.

    OUT/<protocol>/ has one row for each case and round, one for each lesion and round, means with intervals over all
    cases and by tracer, centre, burden and fold, and the curve; OUT/lint.txt says whether the model uses its guidance.

    \b
    Examples:
      clickseg evaluate model.safetensors catalog results
      clickseg evaluate model.safetensors catalog results --protocol autopet-v@1 --fold all --set n_rounds=6
    """  # noqa: D301
    from clickseg.evaluate import evaluate_model
    from clicksim.cli.pairs import read_settings

    settings = read_settings(pairs, ("protocol", "seed"))
    with open_crew("patients", workers) as crew:
        found = evaluate_model(
            model, catalog, out, options=_options(device, overlap, mirror), settings=settings, crew=crew, **how
        )
    click.echo(found)


@click.group()
def container() -> None:
    """Run, check and package a model as a Grand Challenge algorithm."""


@container.command("run")
@click.option("--input", "source", type=PATH, default=Path("/input"), show_default=True)
@click.option("--output", "target", type=PATH, default=Path("/output"), show_default=True)
@click.option(
    "--model", type=PATH, envvar=MODEL_VARIABLE, default=Path("/opt/algorithm/model.safetensors"), show_default=True
)
@click.option(
    "--cache", type=PATH, envvar=CACHE_VARIABLE, default=Path("/cache"), show_default=True,
    help="Folder that is kept between the rounds of a case.",
)  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Ignore the mask of the previous round.")
@click.option("--facts", type=PATH, help="Write time and peak memory of this process to this file, as JSON.")
@DEVICE
@OVERLAP
@MIRROR
def container_run(
    source: Path,
    target: Path,
    model: Path,
    cache: Path,
    no_cache: bool,
    facts: Path | None,
    device: str,
    overlap: float,
    mirror: str,
) -> None:
    """Run one round: read the input folder, write the mask to the output folder."""
    started = time.perf_counter()
    from clickseg.container.container_round import measure_process, run_round, write_facts

    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        click.echo(f"clickseg: {sentence}", err=True)

    options = _options(device, overlap, mirror, keep=False)
    file = run_round(source, target, model, cache=None if no_cache else cache, options=options, say=say)
    click.echo(str(file))
    if facts is not None:
        try:
            write_facts(facts, {"seconds": time.perf_counter() - started, **measure_process(), "said": said})
        except OSError as error:
            raise ClicksimError(f"cannot write {facts}: {error.strerror or error}") from error


@container.command("check")
@click.argument("model", type=FILE)
@click.option("--ct", type=FILE, help="CT of your own case.  [default: a phantom]")
@click.option("--pet", type=FILE)
@click.option("--label", type=FILE)
@click.option("--rounds", type=click.IntRange(1, 20), default=6, show_default=True)
@click.option("--image", default="", help="Run this container image.  [default: the entry point in this Python]")
@DEVICE
@OVERLAP
@MIRROR
def container_check(
    model: Path,
    ct: Path | None,
    pet: Path | None,
    label: Path | None,
    rounds: int,
    image: str,
    device: str,
    overlap: float,
    mirror: str,
) -> None:
    """Play six rounds as six fresh processes, with and without the cache; print time and memory.

    \b
    Examples:
      clickseg container check model.safetensors
      clickseg container check model.safetensors --ct ct.nii.gz --pet pet.nii.gz --label label.nii.gz
    """  # noqa: D301
    from clickseg.container.container_check import check_container, phantom_case
    from clicksim.rounds.round_records import RoundsCase
    from clicksim.volumes.case import CaseImages

    images = {"label": label, "ct": ct, "pet": pet}
    given = {name: file for name, file in images.items() if file is not None}
    if given and len(given) < len(images):
        raise click.UsageError("your own case needs --ct, --pet and --label")
    own = CaseImages(images) if given else None
    case = phantom_case() if own is None else RoundsCase.of(own)
    _say(() if own is None else own.notes)
    _options(device, overlap, mirror)
    arguments = shlex.join(["--device", device, "--overlap", str(overlap), "--mirror", mirror])
    found = check_container(model, case, rounds=rounds, image=image, arguments=arguments)
    click.echo(found.text())
    if found.faults:
        raise click.exceptions.Exit(1)


@container.command("build")
@click.argument("model", type=FILE)
@click.argument("out", type=PATH)
def container_build(model: Path, out: Path) -> None:
    """Write the build context of an image to the folder OUT. This does not build the image."""
    from clickseg.container.container_build import TAG, write_context

    write_context(model, out)
    click.echo(f"{out}: build it with docker build -t {TAG} {out}")


def _say(sentences: Sequence[str]) -> None:
    """Lines on stderr."""
    for sentence in sentences:
        click.echo(f"clickseg: {sentence}", err=True)


def _options(device: str, overlap: float, mirror: str, *, keep: bool = True) -> "Options":
    from clickseg.predict import Options, choose_device

    choose_device(device)
    return Options(device, overlap, mirror, keep)

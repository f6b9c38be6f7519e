"""`clickseg`: prepare a store, train a model. Results go to stdout, progress to stderr; errors exit with 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from clickseg import NO_TORCH
from clickseg import training_settings as groups
from clickseg.cli_model import PATH, SOURCES, container, evaluate, predict
from clicksim import __version__
from clicksim.cli import CONTEXT, Refusing
from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import CatalogPath
from clicksim.files import read_toml

SET = click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting; repeatable.")
CONFIG = click.option("--config", type=PATH, help="A TOML file of settings; --set goes before it.")
LIST = click.option("--list", "list_only", is_flag=True, help="Show all settings with their defaults, and stop.")


class TorchGroup(Refusing):
    """A group that reports missing PyTorch in one line, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            click.echo(f"clickseg: {NO_TORCH}", err=True)
            raise click.exceptions.Exit(1) from error


@click.group("clickseg", cls=TorchGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="clickseg")
def main() -> None:
    """Train promptable segmenters on simulated clicks and scribbles.

    \b
    clickseg prepare catalog store --workers 8        arrays for fast access
    clickseg train store runs/first                   a model, on a GPU if there is one
    clickseg train store runs/first --resume          continue after an interruption
    clickseg train --list                             all settings
    clickseg predict model.safetensors --ct ... --out mask.nii.gz
    clickseg evaluate model.safetensors catalog out   interactive rounds, with intervals and curves
    clickseg container check model.safetensors        the entry point of a challenge, round by round
    """  # noqa: D301 - click wants the character itself


@main.command()
@click.argument("catalog", type=CatalogPath(exists=False), required=False)
@click.argument("store", type=PATH, required=False)
@SOURCES
@click.option("--folds", metavar="NAME", help="A fold plan of the catalog.  [default: the only one, else one is drawn]")
@batch_options(cluster=False)
@SET
@CONFIG
@LIST
def prepare(
    catalog: str | Path | None,
    store: Path | None,
    sources: tuple[str, ...],
    folds: str | None,
    workers: int | str,
    resume: bool,
    overwrite: bool,
    pairs: tuple[str, ...],
    config: Path | None,
    list_only: bool,
) -> None:
    """Make a patch STORE of a CATALOG.

    Each case is reoriented to the axes R, A, S and resampled to one voxel size; values stay HU and SUV. Cases whose
    files and rules did not change are not prepared again. Training takes its folds from a plan of `clicksim catalog
    folds`. The exit code is 1 if a case was rejected; the reasons are in STORE/rejected.parquet.

    \b
    Examples:
      clickseg prepare catalog store --workers 8
      clickseg prepare catalog store --source fdat --set spacing_mm=4,4,4 --set pet_type=float16
    """  # noqa: D301
    if list_only:
        click.echo(groups.describe_groups(groups.StoreRules))
        return
    if catalog is None or store is None:
        raise click.UsageError("give CATALOG STORE, or --list")
    from clickseg.data.prepare import prepare_store
    from clicksim.rounds.texts import ten_lines

    rules = groups.StoreRules.of(gather_settings(pairs, config))
    with open_crew("patients", workers) as crew:
        summary = prepare_store(
            catalog, store, rules, sources=sources, folds=folds, crew=crew, resume=resume, overwrite=overwrite
        )
    for sentence in ten_lines(summary.notes, f": see the column note of {store}/cases.parquet"):
        say(sentence)
    click.echo(f"{summary.cases} cases in {store}, {summary.made} made now, {summary.rejected} rejected")
    if summary.rejected:
        say(f"the reasons are in {store}/rejected.parquet")
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("store", type=PATH, required=False)
@click.argument("run", type=PATH, required=False)
@click.option("--init", type=PATH, help="Start from the weights of this checkpoint, and from its model's settings.")
@click.option("--resume", is_flag=True, help="Continue from RUN/last.safetensors if it exists.")
@SET
@CONFIG
@LIST
def train(
    store: Path | None,
    run: Path | None,
    init: Path | None,
    resume: bool,
    pairs: tuple[str, ...],
    config: Path | None,
    list_only: bool,
) -> None:
    """Train a model on a STORE and write it, its metrics and its curve to the folder RUN.

    Training runs on one device, or on several with torchrun. --resume continues a killed run, to the same weights.

    \b
    Examples:
      clickseg train store runs/first
      clickseg train store runs/quick --set size=tiny --set patch=32,32,32 --set steps=300
      clickseg train store runs/petct --init runs/ct/model.safetensors --config petct.toml
      torchrun --nproc-per-node 4 -m clickseg train store runs/four
    """  # noqa: D301
    if list_only:
        click.echo(groups.describe_groups(groups.ModelSettings, groups.TrainSettings))
        return
    if store is None or run is None:
        raise click.UsageError("give STORE RUN, or --list")
    from clickseg.model.checkpoint import read_about
    from clickseg.train import train_model
    from clicksim.cli.progress import progress

    given = gather_settings(pairs, config)
    of_model, of_training = groups.split(given, groups.ModelSettings, groups.TrainSettings)
    if init is not None:
        of_model = groups.ModelSettings.of(read_about(init)["model"]).inherit(of_model)
    with progress("steps") as report:
        made = train_model(
            store,
            run,
            groups.ModelSettings.of(of_model),
            groups.TrainSettings.of(of_training),
            init=init,
            resume=resume,
            progress=report,
            say=say,
        )
    click.echo(str(made))


for other in (predict, evaluate, container):
    main.add_command(other)


def say(sentence: str) -> None:
    """Print a line to stderr."""
    click.echo(f"clickseg: {sentence}", err=True)


def gather_settings(pairs: tuple[str, ...], config: Path | None) -> Mapping[str, Any]:
    """Read settings from a TOML file, then from NAME=VALUE.

    Raises:
        SettingError: The file is not TOML.
        click.UsageError: A text is not NAME=VALUE, or a name is given twice.
    """
    return {**({} if config is None else read_toml(config)), **read_settings(pairs)}

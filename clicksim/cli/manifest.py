"""`clicksim manifest`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clicksim.cli import Listing
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import CatalogPath
from clicksim.errors import counted

if TYPE_CHECKING:
    from clicksim.manifests import Export, Written

Function = TypeVar("Function", bound=Callable[..., Any])
COPY = click.option("--copy", is_flag=True, help="Copy images instead of linking them.")


def _common(function: Function) -> Function:
    """What every format takes."""
    for option in reversed(
        (
            click.argument("catalog", type=CatalogPath()),
            click.argument("out", type=click.Path(path_type=Path)),
            click.option("--source", "sources", multiple=True, help="One source of the catalog; repeatable."),
            click.option("--run", help="The prompt run to export."),
            click.option("--folds", "plan", help="A fold plan of the catalog; else a stratified one is drawn."),
            click.option("--include-controlled", is_flag=True, help="Also cases under controlled access."),
        )
    ):
        function = option(function)
    return function


@click.group("manifest", cls=Listing)
def command() -> None:
    """Write a catalog in the form that a trainer, a challenge or an archive reads.

    Licences and citations of exactly the exported sources go along. Cases that cannot be exported are named, the
    others are written, and the exit code is 1.

    \b
    Examples:
      clicksim manifest nnunet CATALOG nnUNet_raw/Dataset501_PETCT --run RUN
      clicksim manifest monai CATALOG out --folds five --run RUN
      clicksim manifest check out CATALOG
    """  # noqa: D301 - click wants the character itself


@command.command()
@_common
@COPY
@click.option("--guidance", default="", metavar="ENCODING", help="Prompts of the run as two further channels.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the encoding; repeatable.")
def nnunet(out: Path, copy: bool, guidance: str, pairs: tuple[str, ...], **choice: Any) -> None:
    """nnU-Net v2: OUT is the dataset's folder, DatasetNNN_Name, in nnUNet_raw."""
    from clicksim.manifests import write_nnunet

    settings = read_settings(pairs)
    _say(write_nnunet(_select(**choice), out, copy=copy, guidance=guidance, settings=settings), out)


@command.command()
@_common
def monai(out: Path, **choice: Any) -> None:
    """MONAI: OUT/datalist.json with folds and prompts."""
    from clicksim.manifests import write_monai

    _say(write_monai(_select(**choice), out), out)


@command.command("grand-challenge")
@_common
def grand_challenge(out: Path, **choice: Any) -> None:
    """Grand Challenge: an archive item per case, .mha images with lesion-clicks.json."""
    from clicksim.manifests import write_grand_challenge

    _say(write_grand_challenge(_select(**choice), out), out)


@command.command()
@_common
@click.option("--name", default="clicksim-catalog", show_default=True, help="Of the dataset.")
@click.option("--url", default="", help="Where it will be published.")
@click.option("--published", default="", help="The day of publication, such as 2026-12-01.")
def croissant(out: Path, name: str, url: str, published: str, **choice: Any) -> None:
    """Croissant 1.0: JSON-LD with the tables beside it, ready to be published."""
    from clicksim.manifests import write_croissant

    _say(write_croissant(_select(**choice), out, name=name, url=url, published=published), out)


@command.command()
@_common
@COPY
def huggingface(out: Path, copy: bool, **choice: Any) -> None:
    """Hugging Face: a niftifolder for load_dataset."""
    from clicksim.manifests import write_huggingface

    _say(write_huggingface(_select(**choice), out, copy=copy), out)


@command.command()
@_common
def csv(out: Path, **choice: Any) -> None:
    """Plain tables: cases.csv and prompts.csv."""
    from clicksim.manifests import write_csv

    _say(write_csv(_select(**choice), out), out)


@command.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True))
@click.argument("catalog", type=CatalogPath(), required=False)
def check(out: Path, catalog: str | Path | None) -> None:
    """Whether the export OUT is whole, and still what the CATALOG says; exit code 1 where it is not."""
    from clicksim.catalog import open_catalog
    from clicksim.manifests import check_manifest

    faults = check_manifest(out, None if catalog is None else open_catalog(catalog))
    for fault in faults:
        click.echo(fault)
    if faults:
        click.echo(f"clicksim: {counted(len(faults), 'fault')} in {out}", err=True)
        raise click.exceptions.Exit(1)
    click.echo("no faults")


def _select(
    catalog: str | Path, sources: tuple[str, ...], run: str | None, plan: str | None, include_controlled: bool
) -> "Export":
    from clicksim.catalog import open_catalog
    from clicksim.manifests import select

    chosen = list(sources) or None
    return select(open_catalog(catalog), sources=chosen, run=run, plan=plan, include_controlled=include_controlled)


def _say(written: "Written", out: Path) -> None:
    """Say what was written and what was refused."""
    click.echo(f"{counted(len(written.files), 'case')} in {out}")
    for note in written.notes:
        click.echo(f"clicksim: {note}", err=True)
    for case, reason in sorted(written.refused.items()):
        click.echo(f"refused: {case}: {reason}", err=True)
    if written.refused:
        raise click.exceptions.Exit(1)

"""`clicksim convert`."""

from collections.abc import Mapping
from pathlib import Path

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.pairs import read_pairs
from clicksim.cli.paths import CatalogPath
from clicksim.errors import ClicksimError, SettingError, counted

PATH = click.Path(path_type=Path)


@click.command("convert")
@click.argument("source", required=False)
@click.argument("folder", type=PATH, required=False)
@click.argument("catalog", type=CatalogPath(writes=True, exists=False), required=False)
@click.option("--list", "list_only", is_flag=True, help="Show the sources with their layout and options, and stop.")
@batch_options(overwrite=False)
@click.option("--add", is_flag=True, help="Keep cases of this source that are in the catalog but not in FOLDER.")
@click.option("--replace", "replace_rows", is_flag=True, help="Replace all cases of this source in the catalog.")
@click.option(
    "--shard", metavar="I/N", help="Every N-th patient starting at the I-th (from 0); merge the catalogs later."
)
@click.option("--option", "pairs", multiple=True, metavar="NAME=VALUE", help="An option of the source; repeatable.")
def command(
    source: str | None,
    folder: Path | None,
    catalog: Path | None,
    list_only: bool,
    workers: int | str,
    scheduler: str | None,
    resume: bool,
    add: bool,
    replace_rows: bool,
    shard: str | None,
    pairs: tuple[str, ...],
) -> None:
    """Convert a publisher's FOLDER into a CATALOG.

    SOURCE is one of `clicksim convert --list`. Images that are already harmonised are used in place. Every study found
    becomes a row, or is listed in the table `rejected` with its reason; the exit code is 1 if something was rejected.
    Converting the same folder again updates its rows. Rows from another folder, and cases that the folder no longer
    has, are kept with --add and removed with --replace; without either option the conversion stops with an error.

    \b
    Examples:
      clicksim convert --list
      clicksim convert fdat PSMA-FDG-PET-CT-Lesions_v2 catalog --workers 8
      clicksim convert deep-psma CHALLENGE_DATA catalog --resume
      clicksim convert fdat PSMA-FDG-PET-CT-Lesions_v2 catalog --scheduler tcp://head:8786
    """  # noqa: D301 - click wants the character itself
    from clicksim.catalog.source import SOURCES, find_source

    if list_only:
        for name, known in SOURCES.each():
            if isinstance(known, ClicksimError):
                click.echo(f"{name:18}cannot be used: {known}\n")
                continue
            click.echo(f"{name:18}{known.title}\n")
            click.echo("\n".join(f"    {line}" for line in known.layout.strip("\n").splitlines()))
            for option, meaning in known.options.items():
                click.echo(f"    --option {option}=...  {meaning}")
            click.echo()
        return
    if source is None or folder is None or catalog is None:
        raise click.UsageError("give SOURCE FOLDER CATALOG, or --list")
    from clicksim.pipeline.conversion import convert

    known = find_source(source)
    with open_crew("patients", workers, scheduler) as crew:
        summary = convert(
            known,
            folder,
            catalog,
            crew=crew,
            resume=resume,
            shard=read_shard(shard),
            options=read_options(pairs, known.options),
            add=add,
            replace_rows=replace_rows,
        )
    click.echo(f"{counted(summary.cases, 'case')} in {catalog}, {summary.rejected} rejected")
    if summary.rejected:
        click.echo(f"clicksim: see the reasons with: clicksim catalog rejected {catalog}", err=True)
        raise click.exceptions.Exit(1)


def read_shard(text: str | None) -> tuple[int, int]:
    """Parse `I/N`; without a text, take everything."""
    if text is None:
        return (0, 1)
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise click.UsageError(f"--shard takes I/N with I from 0 to N-1, got {text!r}")
    return (int(first), int(count))


def read_options(pairs: tuple[str, ...], known: Mapping[str, str]) -> dict[str, str]:
    """Parse the options of a source; the error for an unknown option gives the nearest name."""
    from clicksim.errors import unknown_name

    options = read_pairs(pairs)
    for name in options:
        if name not in known:
            raise (
                unknown_name("option", name, known)
                if known
                else SettingError(f"unknown option {name!r}; this source has no options")
            )
    return options

"""`clicksim convert`."""

from collections.abc import Mapping
from pathlib import Path

import click

from clicksim.cli.options import where_to_run
from clicksim.cli.over_catalog import open_scheduler
from clicksim.cli.pairs import read_pairs
from clicksim.cli.paths import CatalogPath
from clicksim.errors import SettingError, counted

PATH = click.Path(path_type=Path)


@click.command("convert")
@click.argument("source", required=False)
@click.argument("folder", type=PATH, required=False)
@click.argument("catalog", type=CatalogPath(writes=True, exists=False), required=False)
@click.option("--list", "list_only", is_flag=True, help="Show the sources with their layout and options, and stop.")
@where_to_run()
@click.option("--shard", metavar="I/N", help="Every N-th patient from the I-th on (from 0); merge the catalogs after.")
@click.option("--option", "pairs", multiple=True, metavar="NAME=VALUE", help="An option of the source; repeatable.")
def command(
    source: str | None,
    folder: Path | None,
    catalog: Path | None,
    list_only: bool,
    workers: int,
    scheduler: str | None,
    resume: bool,
    shard: str | None,
    pairs: tuple[str, ...],
) -> None:
    """Bring a publisher's FOLDER into a CATALOG.

    SOURCE is one of `clicksim convert --list`. Images that are harmonised already are used in place. Whatever is
    found ends as a row, or in the table `rejected` with its reason; the exit code is 1 when something was
    rejected. Conversion of the same source replaces its rows.

    \b
    Examples:
      clicksim convert --list
      clicksim convert fdat PSMA-FDG-PET-CT-Lesions_v2 catalog --workers 8
      clicksim convert deep-psma CHALLENGE_DATA catalog --resume
      clicksim convert fdat PSMA-FDG-PET-CT-Lesions_v2 catalog --scheduler tcp://head:8786
    """  # noqa: D301 - click wants the character itself
    from clicksim.catalog import find_source, list_sources

    if list_only:
        for name, known in list_sources().items():
            click.echo(f"{name:18}{known.title}\n")
            click.echo("\n".join(f"    {line}" for line in known.layout.strip("\n").splitlines()))
            for option, meaning in known.options.items():
                click.echo(f"    --option {option}=...  {meaning}")
            click.echo()
        return
    if source is None or folder is None or catalog is None:
        raise click.UsageError("give SOURCE FOLDER CATALOG, or --list")
    from clicksim.cli.progress import progress
    from clicksim.pipeline import convert_source

    known = find_source(source)
    with open_scheduler(scheduler, workers) as executor, progress("patients") as report:
        summary = convert_source(
            known,
            folder,
            catalog,
            workers=workers,
            resume=resume,
            shard=read_shard(shard),
            options=read_options(pairs, known.options),
            progress=report,
            executor=executor,
        )
    click.echo(f"{counted(summary.cases, 'case')} in {catalog}, {summary.rejected} rejected")
    if summary.rejected:
        click.echo(f"clicksim: see the reasons with: clicksim catalog rejected {catalog}", err=True)
        raise click.exceptions.Exit(1)


def read_shard(text: str | None) -> tuple[int, int]:
    """`I/N` as numbers; all of it without one."""
    if text is None:
        return (0, 1)
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise click.UsageError(f"--shard takes I/N with I from 0 to N-1, got {text!r}")
    return (int(first), int(count))


def read_options(pairs: tuple[str, ...], known: Mapping[str, str]) -> dict[str, str]:
    """Options of a source; an unknown one is refused with the nearest name."""
    from clicksim.errors import unknown_name

    options = read_pairs(pairs)
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known) if known else SettingError(f"this source has no options: {name}")
    return options

"""`clicksim catalog push` and `clicksim catalog pull`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clicksim.cli.paths import CatalogPath
from clicksim.errors import counted

if TYPE_CHECKING:
    from clicksim.catalog.push import Moved


@click.command("push")
@click.argument("catalog", type=CatalogPath(writes=True))
@click.argument("url")
@click.option(
    "--images/--no-images", default=True, show_default=True, help="Include the images in the catalog's folder."
)
@click.option("--prune", is_flag=True, help="Then delete files of older states, even if somebody is reading them.")
@click.option("--verify", is_flag=True, help="Also read the stored files, and send damaged ones again.")
@click.option("--root", "moves", multiple=True, metavar="NAME=URL", help="Where readers find a root; repeatable.")
def push(catalog: Path, url: str, images: bool, prune: bool, verify: bool, moves: tuple[str, ...]) -> None:
    """Copy CATALOG to object storage at URL.

    Only missing files are sent. catalog.json is sent last; until then readers see the complete old state. To continue
    after an interruption, run the same command again. Credentials come from the environment.

    \b
    Examples:
      clicksim catalog push CATALOG s3://bucket/catalog
      clicksim catalog push CATALOG s3://bucket/catalog --root fdat=s3://bucket/PSMA-FDG-PET-CT-Lesions_v2
    """  # noqa: D301 - click wants the character itself
    from clicksim.catalog.push import push_catalog
    from clicksim.cli.progress import progress

    roots = {}
    for move in moves:
        name, equals, roots[name] = move.partition("=")
        if not equals or "/" in name:  # the text is not repeated: it may be an address with a secret
            raise click.UsageError("--root takes NAME=URL, such as fdat=s3://bucket/folder")
    with progress("files") as report:
        done = push_catalog(catalog, url, images=images, prune=prune, verify=verify, roots=roots, progress=report)
    click.echo(f"{_told(done, 'sent')}{f', {done.pruned} old ones deleted' if prune else ''}")


@click.command("pull")
@click.argument("url")
@click.argument("catalog", type=CatalogPath(writes=True, exists=False))
@click.option("--overwrite", is_flag=True, help="Replace files of CATALOG that differ.")
def pull(url: str, catalog: Path, overwrite: bool) -> None:
    """Copy the catalog that was pushed to URL to a folder.

    Only files that are missing in the folder CATALOG are fetched. To continue after an interruption, run the same
    command again.

    \b
    Example:
      clicksim catalog pull s3://bucket/catalog CATALOG
    """  # noqa: D301 - click wants the character itself
    from clicksim.catalog.push import pull_catalog
    from clicksim.cli.progress import progress

    with progress("files") as report:
        done = pull_catalog(url, catalog, overwrite=overwrite, progress=report)
    click.echo(_told(done, "fetched"))


def _told(done: "Moved", verb: str) -> str:
    return f"{counted(done.files, 'file')}, {done.moved} {verb} ({done.size / 1e6:.1f} MB)"

"""`clicksim catalog compare`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from clicksim.cli.paths import CatalogPath

PATH = CatalogPath()


@click.command("compare")
@click.argument("catalog", type=PATH)
@click.argument("other", type=PATH, required=False)
@click.option("--study", default="", metavar="KEY", help="One study, by its study_key.")
@click.option("--json", "as_json", is_flag=True, help="One object per line, for scripts.")
def command(catalog: str | Path, other: str | Path | None, study: str, as_json: bool) -> None:
    """Compare two versions of the same studies: SUV, mask and CT voxel by voxel.

    The CATALOG has the conversion from DICOM; the published NIfTI is in the same catalog or in OTHER. For each study
    the output names the rule that explains the difference: decay to another time, another half-life or another
    interpolation.

    \b
    Examples:
      clicksim catalog compare CATALOG
      clicksim catalog compare MINE FDAT --study PETCT_0011f3deaf_2003-03-23
    """  # noqa: D301 - click wants the character itself
    from clicksim.audit.discrepancy import compare_catalogs
    from clicksim.catalog import open_catalog

    for found in compare_catalogs(open_catalog(catalog), open_catalog(other) if other else None, study=study):
        if as_json:
            click.echo(json.dumps(asdict(found)))
            continue
        click.echo(f"{found.study_key}: {found.ours}, {found.theirs}")
        for part in found.parts:
            click.echo(f"  {part.name:6}{part.rule}")
            figures = ", ".join(f"{name} {value:.6g}" for name, value in part.figures.items())
            if figures:
                click.echo(f"        {figures}")

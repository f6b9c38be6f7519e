"""`clicksim clicks`."""

from pathlib import Path
from typing import Any

import click

from clicksim.cli.asked_runs import DEFAULTS
from clicksim.cli.crew import batch_options
from clicksim.cli.options import (
    CASE_ID,
    CONFIG,
    IMAGE,
    LABEL_OR_CATALOG,
    ONE_SOURCE,
    OUTPUT,
    RUN_AND_JSON,
    SETTINGS,
    WRITING,
    which_rule,
)
from clicksim.cli.prompting import Request


@click.command("clicks")
@LABEL_OR_CATALOG
@click.option(
    "--pet", type=IMAGE, help="Uptake on the label's grid; for a folder, the folder of <case>_0001 or <case>."
)
@click.option("--organs", type=IMAGE, help="Organ labels on the label's grid, or a folder of them.")
@CASE_ID
@which_rule(DEFAULTS)
@click.option(
    "--annotator",
    metavar="NAME|FILE.toml",
    help="A person who changes the clicks: ideal, careful, hurried, or a fitted one; see clicksim annotators.",
)
@SETTINGS
@CONFIG
@click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=A,B,...",
    help="One run per value or combination of settings, seed, protocol or instances; repeatable.",
)
@WRITING
@click.option("--preview", type=OUTPUT, help="Draw lesions and clicks on maximum projections, PNG or WebP.")
@ONE_SOURCE
@RUN_AND_JSON
@batch_options("With a catalog, a folder or a sweep: ")
def command(pet: Path | None, organs: Path | None, **given: Any) -> None:
    """Simulate foreground and background clicks.

    Without a PET there are no background clicks from uptake, and a line on stderr says so.

    \b
    Examples:
      clicksim clicks --label case.nii.gz --pet case_0001.nii.gz --out case_clicks.json --preview case.png
      clicksim clicks --label case.nii.gz --protocol autopet-iv@1
      clicksim clicks --label labelsTr --pet imagesTr --out clicks --format grand-challenge
      clicksim clicks --label case.nii.gz --set strategy=rim --set n_foreground=3 --save-config my.toml
      clicksim clicks --label case.nii.gz --sweep n_foreground=1,5,10 --sweep strategy=deepest,rim --out sweep
      clicksim clicks --catalog CATALOG --protocol autopet-iv@2 --workers 8
    """  # noqa: D301 - click wants the character itself
    Request(kind="clicks", companions={"pet": pet, "organs": organs}, **given).carry_out(DEFAULTS)

"""`clicksim scribbles`."""

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

STANDARD = DEFAULTS | {"protocol": "autopet-v@2"}


@click.command("scribbles")
@LABEL_OR_CATALOG
@click.option(
    "--prediction",
    type=IMAGE,
    help="On the label's grid: scribbles correct its errors. For a folder, the folder of <case>.",
)
@click.option("--pet", type=IMAGE, help="Uptake, for --preview and --annotator.")
@CASE_ID
@which_rule(STANDARD)
@click.option(
    "--round",
    "number",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --prediction: number of the round; part of the seed of revised rules.",
)
@click.option(
    "--annotator",
    metavar="NAME|FILE.toml",
    help="A person who changes the strokes: ideal, careful, hurried, or a fitted one; see clicksim annotators.",
)
@SETTINGS
@CONFIG
@click.option("--sweep", multiple=True, metavar="NAME=A,B,...", help="One run per value or combination; repeatable.")
@WRITING
@click.option("--preview", type=OUTPUT, help="Draw lesions and scribbles on maximum projections, PNG or WebP.")
@ONE_SOURCE
@RUN_AND_JSON
@batch_options("With a catalog, a folder or a sweep: ")
def command(prediction: Path | None, pet: Path | None, number: int, **given: Any) -> None:
    """Simulate scribbles in and around lesions, or in the errors of a prediction.

    \b
    Examples:
      clicksim scribbles --label case.nii.gz --set strategy=random
      clicksim scribbles --label case.nii.gz --protocol autopet-v@1 --format grand-challenge --out case.json
      clicksim scribbles --label case.nii.gz --prediction mine.nii.gz --preview case.png
      clicksim scribbles --catalog CATALOG --protocol autopet-v@1 --workers 8
    """  # noqa: D301 - click wants the character itself
    companions = {"prediction": prediction, "pet": pet}
    Request(kind="scribbles", companions=companions, drawn=("pet",), number=number, **given).carry_out(STANDARD)

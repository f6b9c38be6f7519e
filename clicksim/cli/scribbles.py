"""`clicksim scribbles`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.asked_runs import DEFAULTS, AskedRun
from clicksim.cli.options import (
    CASE_ID,
    CONFIG,
    IMAGE,
    LABEL_OR_CATALOG,
    ONE_SOURCE,
    OUTPUT,
    SETTINGS,
    WRITING,
    where_to_run,
    which_rule,
)
from clicksim.cli.prompting import Request, beside, simulate_runs

if TYPE_CHECKING:
    from clicksim.prompts import Prompts

STANDARD = DEFAULTS | {"protocol": "autopet-v@2"}


@click.command("scribbles")
@LABEL_OR_CATALOG
@click.option(
    "--prediction",
    type=IMAGE,
    help="On the label's grid: scribbles that correct its errors. For a folder, the folder of <case>.",
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
    help="With --prediction: the exchange; keys the draws of mended rules.",
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
@where_to_run("With --catalog: ")
def command(prediction: Path | None, pet: Path | None, number: int, **given: Any) -> None:
    """Simulated scribbles in and around lesions, or in the errors of a prediction.

    \b
    Examples:
      clicksim scribbles --label case.nii.gz --set strategy=random
      clicksim scribbles --label case.nii.gz --protocol autopet-v@1 --format grand-challenge --out case.json
      clicksim scribbles --label case.nii.gz --prediction mine.nii.gz --preview case.png
      clicksim scribbles --catalog CATALOG --protocol autopet-v@1 --workers 8
    """  # noqa: D301 - click wants the character itself
    alone = {"--prediction": prediction, "--pet": pet, "--case-id": given["case_id"], "--round": number}
    request = Request("scribbles", alone, **given)
    runs = request.prepare(STANDARD)
    if number and prediction is None:
        raise click.UsageError("--round has no effect without --prediction")
    if prediction is not None and any(run.keys["instances"] != "auto" for run in runs):
        raise click.UsageError("--instances has no effect with --prediction: errors are split into components")

    def simulate(run: AskedRun, file: Path) -> "Prompts":
        from clicksim.simulate.from_files import scribble_case

        return scribble_case(
            file,
            prediction=beside(file, prediction, channel=""),
            pet=beside(file, pet) if run.annotator else None,
            case_id=request.case_id,
            round=number,
            annotator=run.annotator,
            **run.keys,
            **run.given,
        )

    simulate_runs(runs, request, simulate)

"""`clicksim scribbles`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.clicks import FORMATS, IMAGE, INPUT, OUTPUT, Request, beside, simulate_runs, write_text
from clicksim.cli.runs import DEFAULTS, Run, plan_runs

if TYPE_CHECKING:
    from clicksim.prompts import Prompts

STANDARD = DEFAULTS | {"protocol": "autopet-v@2"}


@click.command("scribbles")
@click.option("--label", type=IMAGE, required=True, help="Lesion mask or instance map, or a folder of them.")
@click.option(
    "--prediction",
    type=IMAGE,
    help="On the label's grid: scribbles that correct its errors. For a folder, the folder of <case>.",
)
@click.option("--pet", type=IMAGE, help="Uptake, for --preview alone.")
@click.option("--case-id", help="What the case is called; by default the label's name without its ending.")
@click.option("--protocol", help=f"Name and version of the rule.  [default: {STANDARD['protocol']}]")
@click.option("--seed", type=int, help=f"Of all draws.  [default: {STANDARD['seed']}]")
@click.option("--instances", help="How values become lesions: auto, labels, components or touching.  [default: auto]")
@click.option(
    "--round",
    "number",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --prediction: the exchange; keys the draws of mended rules.",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the protocol; repeatable.")
@click.option("--config", type=INPUT, help="TOML with protocol, seed and settings; options on the line win.")
@click.option("--sweep", multiple=True, metavar="NAME=A,B,...", help="One run per value or combination; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the settings of each run as TOML and stop.")
@click.option("--save-config", type=OUTPUT, help="Write the effective settings as TOML, for --config.")
@click.option(
    "--out",
    type=click.Path(),
    help="File; for a folder of labels or a sweep, a folder. Without it JSON goes to stdout.",
)
@click.option("--format", "layout", type=click.Choice(list(FORMATS)), default="plain", show_default=True)
@click.option("--preview", type=OUTPUT, help="Draw lesions and scribbles on maximum projections, PNG or WebP.")
def command(
    label: Path,
    prediction: Path | None,
    pet: Path | None,
    case_id: str | None,
    number: int,
    pairs: tuple[str, ...],
    config: Path | None,
    sweep: tuple[str, ...],
    dry_run: bool,
    save_config: Path | None,
    out: str | None,
    layout: str,
    preview: Path | None,
    **given: Any,
) -> None:
    """Simulated scribbles in and around lesions, or in the errors of a prediction.

    \b
    Examples:
      clicksim scribbles --label case.nii.gz --set strategy=random
      clicksim scribbles --label case.nii.gz --protocol autopet-v@1 --format grand-challenge --out case.json
      clicksim scribbles --label case.nii.gz --prediction mine.nii.gz --preview case.png
    """  # noqa: D301 - click wants the character itself
    runs = plan_runs(config, given, pairs, sweep, table="scribbles", defaults=STANDARD)
    request = Request(label, pet, None, case_id, out, layout, preview, sweeps=bool(sweep), kind="scribbles")
    others = {"--prediction": prediction, "--config": config, "--save-config": save_config}
    request.check(needs_out=not dry_run, others=others)
    if sweep and save_config:
        raise click.UsageError("--save-config is for one run; each run of a sweep writes its settings.toml")
    if save_config:
        write_text(save_config, runs[0].toml())
    if dry_run:
        click.echo("\n".join((f"# {run.slug}\n" if run.slug else "") + run.toml() for run in runs), nl=False)
        return

    def simulate(run: Run, file: Path) -> "Prompts":
        return _draw_case(run, file, beside(file, prediction, channel=""), case_id, number)

    simulate_runs(runs, request, simulate)


def _draw_case(run: Run, label: Path, prediction: Path | None, case_id: str | None, number: int) -> "Prompts":
    """The scribbles of one case, from its label or from the errors of a prediction."""
    from clicksim.simulate.corrections import correct
    from clicksim.simulate.scribbles import simulate_scribbles
    from clicksim.volumes import case_id_of, read_label

    name = case_id_of(label) if case_id is None else case_id
    truth = read_label(label)
    shared = {
        "spacing": truth.grid.spacing,
        "protocol": run.keys["protocol"],
        "seed": run.keys["seed"],
        "case_id": name,
        **run.given,
    }
    if prediction is None:
        prompts = simulate_scribbles(truth.array, instances=run.keys["instances"], **shared)
    else:
        if run.keys["instances"] != "auto":
            raise click.UsageError("--instances has no effect with --prediction: errors are split into components")
        mask = read_label(prediction)
        truth.grid.check_same(mask.grid, ("label", "prediction"), where=f"case {name}")
        prompts = correct(mask.array, truth.array, round=number, **shared)
    return replace(prompts, grid=truth.grid)

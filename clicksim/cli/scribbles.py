"""`clicksim scribbles`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.clicks import (
    CATALOG,
    FORMATS,
    IMAGE,
    INPUT,
    OUTPUT,
    Request,
    beside,
    open_person,
    simulate_runs,
    write_text,
)
from clicksim.cli.over_catalog import simulate_in_catalog, where_to_run
from clicksim.cli.runs import DEFAULTS, Run, plan_runs

if TYPE_CHECKING:
    from clicksim.prompts import Prompts

STANDARD = DEFAULTS | {"protocol": "autopet-v@2"}


@click.command("scribbles")
@click.option("--label", type=IMAGE, help="Lesion mask or instance map, or a folder of them.")
@click.option("--catalog", type=CATALOG, help="All cases of a catalog; commits a prompt run, and with --out JSON too.")
@click.option(
    "--prediction",
    type=IMAGE,
    help="On the label's grid: scribbles that correct its errors. For a folder, the folder of <case>.",
)
@click.option("--pet", type=IMAGE, help="Uptake, for --preview and --annotator.")
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
@click.option(
    "--annotator",
    "person",
    metavar="NAME|FILE.toml",
    help="A person who changes the strokes: ideal, careful, hurried, or a fitted one; see clicksim annotators.",
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
@click.option("--source", help="With --catalog: one source, such as fdat.  [default: all]")
@where_to_run("With --catalog: ")
def command(
    label: Path | None,
    catalog: Path | None,
    prediction: Path | None,
    pet: Path | None,
    case_id: str | None,
    number: int,
    person: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    sweep: tuple[str, ...],
    dry_run: bool,
    save_config: Path | None,
    out: str | None,
    layout: str,
    preview: Path | None,
    source: str | None,
    workers: int,
    scheduler: str | None,
    resume: bool,
    **given: Any,
) -> None:
    """Simulated scribbles in and around lesions, or in the errors of a prediction.

    \b
    Examples:
      clicksim scribbles --label case.nii.gz --set strategy=random
      clicksim scribbles --label case.nii.gz --protocol autopet-v@1 --format grand-challenge --out case.json
      clicksim scribbles --label case.nii.gz --prediction mine.nii.gz --preview case.png
      clicksim scribbles --catalog CATALOG --protocol autopet-v@1 --workers 8
    """  # noqa: D301 - click wants the character itself
    runs = plan_runs(config, given, pairs, sweep, table="scribbles", defaults=STANDARD)
    if (label is None) == (catalog is None):
        raise click.UsageError("give --label or --catalog, one of them")
    if catalog is not None:
        if prediction or pet or case_id or number or preview or save_config or dry_run:
            raise click.UsageError(
                "--prediction, --pet, --case-id, --round, --preview, --save-config, --dry-run go with --label"
            )
        simulate_in_catalog(
            catalog,
            runs,
            source,
            out,
            layout,
            workers=workers,
            scheduler=scheduler,
            resume=resume,
            person=person,
            table="scribbles",
        )
        return
    if source or workers or scheduler or resume:
        raise click.UsageError("--source, --workers, --scheduler and --resume go with --catalog")
    assert label is not None
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

    if prediction is not None and any(run.keys["instances"] != "auto" for run in runs):
        raise click.UsageError("--instances has no effect with --prediction: errors are split into components")
    model = open_person(person)

    def simulate(run: Run, file: Path) -> "Prompts":
        from clicksim.simulate.case import scribble_case

        return scribble_case(
            file,
            prediction=beside(file, prediction, channel=""),
            pet=beside(file, pet) if model else None,
            case_id=case_id,
            round=number,
            annotator=model,
            **run.keys,
            **run.given,
        )

    simulate_runs(runs, request, simulate)

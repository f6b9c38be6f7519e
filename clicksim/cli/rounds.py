"""`clicksim rounds`."""

import json
from pathlib import Path
from typing import Any

import click

from clicksim.cli.options import CASE_ID, INPUT, SETTINGS, Number, given_options, where_to_run
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import CatalogPath
from clicksim.errors import counted


@click.command("rounds")
@click.option("--catalog", type=CatalogPath(), help="Play all cases of a catalog, and commit the run there.")
@click.option("--source", help="With --catalog: one source of it.")
@click.option("--label", type=INPUT, help="Play one case: its lesion mask or instance map.")
@click.option("--pet", type=INPUT, help="Uptake on the label's grid.")
@click.option("--ct", type=INPUT, help="CT on the label's grid.")
@CASE_ID
@click.option(
    "--predictor",
    metavar="SPEC",
    help="py:module:function, 'cmd:<shell with {input} {output}>', dir:PATH or builtin:threshold.",
)
@click.option("--protocol", default="autopet-v@2", show_default=True, help="Name and version of the rule.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of all draws, and of the bootstrap.")
@SETTINGS
@click.option(
    "--annotator",
    "person",
    metavar="NAME|FILE.toml",
    help="A person who changes the prompts of every round: ideal, careful, hurried, or a fitted one.",
)
@click.option(
    "--time-limit", type=Number(min=0.01), default=600.0, show_default=True, metavar="SECONDS", help="For a prediction."
)
@where_to_run()
@click.option("--run", "name", help="Name of the run; by default a hash of predictor, protocol, settings and cases.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for tables, summary and curve.")
@click.option("--keep-predictions", is_flag=True, help="Store them below --out, where dir: finds them again.")
@click.option(
    "--replay",
    multiple=True,
    metavar="RUN|FILE",
    help="Play recorded prompts: a run of the catalog, an --out folder or a Parquet file of prompts; repeatable.",
)
@click.option("--gap", is_flag=True, help="With --replay: play the predictor's own rounds too, and compare.")
@click.option("--compare", nargs=2, metavar="A B", help="Compare two runs: --out folders, or runs of --catalog.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole summary as JSON.")
def command(compare: tuple[str, str] | None, as_json: bool, **given: Any) -> None:
    """Play prompts and predictions in turns, and score every round.

    A predictor that fails, is too slow or answers on another grid loses the round, with a reason in the table, and
    the run goes on. dir:PATH reads <case>/iter_<k>.nii.gz or <case>_<k>.nii.gz.

    \b
    Examples:
      clicksim rounds --label a.nii.gz --pet a_pet.nii.gz --ct a_ct.nii.gz --predictor builtin:threshold --out game
      clicksim rounds --catalog CATALOG --predictor py:mymodel:predict --protocol autopet-v@1 --workers 4
      clicksim rounds --catalog CATALOG --predictor 'cmd:docker run --rm -v {input}:/input -v {output}:/output me'
      clicksim rounds --catalog CATALOG --replay RUN --gap --predictor py:other:predict --out replay
      clicksim rounds --catalog CATALOG --predictor py:mymodel:predict --annotator hurried --out hurried
      clicksim rounds --compare game replay
    """  # noqa: D301 - click wants the character itself
    if compare:
        from clicksim.cli.games import compare_folders

        idle = given_options(but=("compare", "catalog", "seed", "as_json"))
        if idle:
            raise click.UsageError(f"no effect with --compare: {', '.join(idle)}")
        found = compare_folders(given["catalog"], compare, given["seed"])
        click.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else _difference(found["all"]))
        return
    summary = _play(given)
    click.echo(json.dumps(summary, indent=1, allow_nan=False) if as_json else _page(summary))


def _play(given: dict[str, Any]) -> dict[str, Any]:
    from clicksim.cli.games import Games

    if given["predictor"] is None:
        raise click.UsageError("--predictor is missing: py:module:function, cmd:..., dir:PATH or builtin:threshold")
    if given["label"] is None and (given["pet"] or given["ct"] or given["case_id"]):
        raise click.UsageError("--pet, --ct and --case-id go with --label")
    if given["label"] is not None and (given["source"] or given["scheduler"]):
        raise click.UsageError("--source and --scheduler go with --catalog")
    if given["keep_predictions"] and given["out"] is None:
        raise click.UsageError("--keep-predictions needs --out")
    if given["person"] and given["replay"] and not given["gap"]:
        raise click.UsageError("--annotator has no effect on a replay, but on the own rounds of --gap")
    if given["gap"] and not given["replay"]:
        raise click.UsageError("--gap goes with --replay")
    settings = read_settings(given.pop("pairs"), ("protocol", "seed"))
    return Games(settings=settings, **given).play()


def _page(summary: dict[str, Any]) -> str:
    """The run in a few lines."""
    from clicksim.rounds.texts import mean_text, summary_lines

    whole = summary["all"]
    lines = [f"run {summary['run']}: {_people(whole)}, {summary['protocol']}"]
    lines += summary_lines(whole)
    if summary["lesion_free"]["cases"]:
        free, volume = summary["lesion_free"], mean_text(summary["lesion_free"]["final_fpv_ml"])
        lines.append(f"{counted(free['cases'], 'case')} without lesions: false-positive volume {volume} ml")
    if whole["failed_rounds"]:
        lines.append(f"{counted(whole['failed_rounds'], 'round')} failed")
    if "gap" in summary:
        lines += ["own rounds minus replay:", _difference(summary["gap"]["all"])]
    if "replay_minus_recorded" in summary:
        lines += ["replay minus the run that was recorded:", _difference(summary["replay_minus_recorded"]["all"])]
    for pair in summary.get("agreement", []):
        lines.append(
            f"{pair['case_id']}: {pair['first']} and {pair['second']} {_value(pair['distance_mm'])} mm apart, same "
            f"polarity {_value(pair['same_polarity'])}, same lesions {_value(pair['same_lesions'])}"
        )
    return "\n".join(lines)


def _difference(pairs: dict[str, Any]) -> str:
    """Mean differences of the main numbers."""
    from clicksim.rounds.texts import mean_text

    names = ("auc_dice", "auc_dmm", "final_dice", "final_dmm", "final_fpv_ml", "final_fnv_ml")
    head = f"second minus first, {_people(pairs)}"
    return "\n".join([head, *(f"{name:14} {mean_text(pairs['difference'][name])}" for name in names)])


def _people(counts: dict[str, Any]) -> str:
    return f"{counted(counts['cases'], 'case')} of {counted(counts['patients'], 'patient')}"


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"

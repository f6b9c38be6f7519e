"""`clicksim rounds`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.options import CASE_ID, IMAGE, ONE_SOURCE, SETTINGS, Number, given_options
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import CatalogPath
from clicksim.errors import counted

if TYPE_CHECKING:
    from clicksim.pipeline.playing import RoundsResult

KINDS = "py:module:function, 'cmd:<shell with {input} {output}>', dir:PATH, builtin:threshold or clickseg:MODEL"


@click.command("rounds")
@click.option("--catalog", type=CatalogPath(), help="Play all cases of a catalog, and commit the run to it.")
@ONE_SOURCE
@click.option("--label", type=IMAGE, help="Play one case: its lesion mask or instance map; or a folder of them.")
@click.option(
    "--pet", type=IMAGE, help="Uptake on the label's grid; for a folder, the folder of <case>_0001 or <case>."
)
@click.option("--ct", type=IMAGE, help="CT on the label's grid; for a folder, the folder of <case>_0000 or <case>.")
@CASE_ID
@click.option("--predictor", metavar="SPEC", help=f"{KINDS}; some take options, ?name=value&...")
@click.option(
    "--protocol", default="autopet-v@2", show_default=True, help="Name and version of the rule, or a TOML file."
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of all draws, and of the bootstrap.")
@SETTINGS
@click.option(
    "--annotator",
    "person",
    metavar="NAME|FILE.toml",
    help="A model of a person who changes the prompts of every round: ideal, careful, hurried, or a fitted one.",
)
@click.option(
    "--time-limit",
    type=Number(min=0.01),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Limit for one prediction.",
)
@click.option("--run", "name", metavar="NAME", help="Name of the run; by default a hash of its inputs.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for tables, summary and curve.")
@click.option("--keep-predictions", is_flag=True, help="Keep predictions in --out, where dir: finds them.")
@click.option(
    "--replay",
    multiple=True,
    metavar="RUN|FILE",
    help="Replay recorded prompts: a run of the catalog (latest is the last one), an --out folder, or a Parquet file "
    "of prompts; repeatable.",
)
@click.option("--gap", is_flag=True, help="With --replay: also play the predictor's own rounds, and compare.")
@click.option(
    "--compare", nargs=2, metavar="A B", help="Compare two runs: --out folders, or runs of --catalog, such as latest."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole summary as JSON.")
@batch_options()
def command(compare: tuple[str, str] | None, as_json: bool, **given: Any) -> None:
    """Alternate prompts and predictions, and score every round.

    A predictor that fails, is too slow or answers on another grid loses the round, with a reason in the table, and the
    run continues. Exit code 1 if a case was refused or every round failed.

    \b
    Examples:
      clicksim rounds --label a.nii.gz --pet a_pet.nii.gz --ct a_ct.nii.gz --predictor builtin:threshold --out game
      clicksim rounds --label labelsTr --pet imagesTr --ct imagesTr --predictor dir:predictions --out scores
      clicksim rounds --catalog CATALOG --predictor py:mymodel:predict --protocol autopet-v@1 --workers 4
      clicksim rounds --catalog CATALOG --predictor 'cmd:docker run --rm -v {input}:/input -v {output}:/output me'
      clicksim rounds --catalog CATALOG --replay latest --gap --predictor py:other:predict --out replay
      clicksim rounds --catalog CATALOG --predictor py:mymodel:predict --annotator hurried --out hurried
      clicksim rounds --compare game replay
    """  # noqa: D301 - click wants the character itself
    if compare:
        from clicksim.pipeline.playing import compare_rounds

        idle = given_options(but=("compare", "catalog", "seed", "as_json"))
        if idle:
            raise click.UsageError(f"options without effect on --compare: {', '.join(idle)}")
        found = compare_rounds(given["catalog"], *compare, seed=given["seed"])
        click.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else _difference(found["all"]))
        return
    result = _play(**given)
    click.echo(json.dumps(result.summary, indent=1, allow_nan=False) if as_json else _page(result.summary))
    _report(result)


def _play(
    *,
    predictor: str | None,
    catalog: str | Path | None,
    source: str | None,
    label: Path | None,
    pet: Path | None,
    ct: Path | None,
    case_id: str | None,
    protocol: str,
    seed: int,
    pairs: Sequence[str],
    person: str | None,
    time_limit: float,
    name: str | None,
    out: Path | None,
    keep_predictions: bool,
    replay: tuple[str, ...],
    gap: bool,
    workers: int | str,
    scheduler: str | None,
    resume: bool,
    overwrite: bool,
) -> "RoundsResult":
    if predictor is None:
        raise click.UsageError(f"--predictor is missing: {KINDS}")
    if (catalog is None) == (label is None):
        raise click.UsageError("give --catalog, or --label with --pet and --ct")
    if label is None and (pet or ct or case_id):
        raise click.UsageError("--pet, --ct and --case-id need --label")
    if catalog is None and (source or scheduler):
        raise click.UsageError("--source and --scheduler need --catalog")
    if keep_predictions and out is None:
        raise click.UsageError("--keep-predictions needs --out")
    if person and replay and not gap:
        raise click.UsageError(
            "--annotator has no effect on a replay; with --gap it changes the predictor's own rounds"
        )
    if gap and not replay:
        raise click.UsageError("--gap needs --replay")
    if out is None and catalog is None and (resume or overwrite):
        raise click.UsageError("--resume and --overwrite need --out or --catalog; otherwise nothing is written")
    settings = read_settings(pairs, ("protocol", "seed"))
    from clicksim.cli.asked_runs import open_person
    from clicksim.pipeline.playing import PREDICTIONS, RoundsRun, play_rounds
    from clicksim.predictors import parse_spec

    run = RoundsRun(
        parse_spec(predictor),
        protocol,
        seed,
        settings,
        time_limit,
        open_person(person),
        gap,
        PREDICTIONS if keep_predictions else "",
    )
    cases = catalog if catalog is not None else _file_cases(label, {"pet": pet, "ct": ct}, case_id)
    with open_crew("patients" if catalog is not None else "cases", workers, scheduler) as crew:
        return play_rounds(
            run, cases, source=source, out=out, name=name, replay=replay, crew=crew, resume=resume, overwrite=overwrite
        )


def _file_cases(label: Path | None, companions: dict[str, Path | None], case_id: str | None) -> Any:
    """Return the units of one label, or of a folder of labels."""
    from clicksim.pipeline.cases import file_units, folder_units

    assert label is not None
    if not label.is_dir():
        return file_units([label], companions, case_id=case_id)
    if case_id is not None:
        raise click.UsageError("--case-id is for one label; in a folder each case is named after its file")
    return folder_units(label, companions)


def _report(result: "RoundsResult") -> None:
    """Report failed rounds and refused cases; exit code 1 if a case was refused or every round failed."""
    from clicksim.rounds.texts import failure_lines, ten_lines

    for line in failure_lines(result.rounds.to_pylist()):
        click.echo(line, err=True)
    lines = [f"clicksim: case {row['case_id']} was refused: {row['message']}" for row in result.refused]
    for line in ten_lines(lines, " cases were refused"):
        click.echo(line, err=True)
    if result.failed:
        click.echo("clicksim: every round failed; the scores say nothing about the predictor", err=True)
    if result.failed or result.refused:
        raise click.exceptions.Exit(1)


def _page(summary: dict[str, Any]) -> str:
    """Summarise the run in a few lines."""
    from clicksim.rounds.texts import mean_text, summary_lines

    whole = summary["all"]
    lines = [f"run {summary['run']}: {_people(whole)}, {summary['protocol']}, {summary['title']}"]
    lines += summary_lines(whole)
    if summary["lesion_free"]["cases"]:
        free, volume = summary["lesion_free"], mean_text(summary["lesion_free"]["final_fpv_ml"])
        lines.append(f"{counted(free['cases'], 'case')} without lesions: false-positive volume {volume} ml")
    if whole["failed_rounds"]:
        lines.append(f"{whole['failed_rounds']} of {counted(whole['played_rounds'], 'round')} failed")
    if "gap" in summary:
        lines += ["own rounds minus replay:", _difference(summary["gap"]["all"])]
    if "replay_minus_recorded" in summary:
        lines += ["replay minus the recorded run:", _difference(summary["replay_minus_recorded"]["all"])]
    for pair in summary["agreement"]:
        lines.append(
            f"{pair['case_id']}: {pair['first']} and {pair['second']} {_value(pair['distance_mm'])} mm apart, same "
            f"polarity {_value(pair['same_polarity'])}, same lesions {_value(pair['same_lesions'])}"
        )
    return "\n".join(lines)


def _difference(pairs: dict[str, Any]) -> str:
    """Return the mean differences of the main scores."""
    from clicksim.rounds.texts import mean_text

    names = ("auc_dice", "auc_dmm", "final_dice", "final_dmm", "final_fpv_ml", "final_fnv_ml")
    head = f"second minus first, {_people(pairs)}"
    return "\n".join([head, *(f"{name:14} {mean_text(pairs['difference'][name])}" for name in names)])


def _people(counts: dict[str, Any]) -> str:
    return f"{counted(counts['cases'], 'case')} of {counted(counts['patients'], 'patient')}"


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"

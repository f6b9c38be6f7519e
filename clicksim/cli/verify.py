"""`clicksim verify`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.paths import CatalogPath

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("verify")
@click.argument("catalog", type=CatalogPath(), required=False)
@click.option("--label", type=FOLDER, help="Instead of a catalog, a folder of labels.")
@click.option("--pet", type=FOLDER, help="With --label: the folder of <case>_0001 or <case>.")
@click.option("--organs", type=FOLDER, help="With --label: the folder of organ labels.")
@click.option(
    "--against", "run", required=True, metavar="RUN|DIR", help="A prompt run of the catalog, or a folder of JSON files."
)
@click.option("--protocol", help="With --label: the rule; by default that of settings.toml in the folder.")
@click.option("--seed", type=int, help="With --label: the seed of the rule.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@batch_options(overwrite=False)
def command(catalog: str | Path | None, run: str, as_json: bool, **given: Any) -> None:
    """Simulate every case of a prompt run again, and compare voxel by voxel.

    It prints equal, unequal or not reproducible for each case and in total; the exit code is 1 unless all are equal.
    With imported published files, this proves that clicksim follows the published rule.

    \b
    Examples:
      clicksim catalog import-prompts CATALOG all_Autopet_III_clicks.zip --run published --protocol autopet-iv@1
      clicksim verify CATALOG --against published
      clicksim verify --label labelsTr --pet imagesTr --against clicks
    """  # noqa: D301 - click wants the character itself
    label: Path | None = given["label"]
    if (catalog is None) == (label is None):
        raise click.UsageError("give either CATALOG or --label")
    with open_crew("cases", given["workers"], given["scheduler"]) as crew:
        if catalog is not None:
            from clicksim.pipeline.verification import verify_run

            verdicts = verify_run(catalog, run, crew=crew, resume=given["resume"])
        elif label is not None:
            from clicksim.pipeline.verification import verify_folder

            companions = {"pet": given["pet"], "organs": given["organs"]}
            rule, layout = _rule_of(Path(run), given["protocol"], given["seed"])
            verdicts = verify_folder(label, Path(run), rule, companions=companions, layout=layout, crew=crew)
    counts = Counter(verdict.outcome for verdict in verdicts)
    if as_json:
        click.echo(json.dumps({"cases": [vars(verdict) for verdict in verdicts], "total": counts}))
    else:
        for verdict in verdicts:
            click.echo(f"{verdict.outcome:18}{verdict.case_id}{'  ' + verdict.detail if verdict.detail else ''}")
        parts = [f"{counts[name]} {name}" for name in ("equal", "unequal", "not reproducible")]
        click.echo(f"{run}: {', '.join(parts)}, of {len(verdicts)}")
    if counts["equal"] < len(verdicts):
        raise click.exceptions.Exit(1)


def _rule_of(folder: Path, protocol: str | None, seed: int | None) -> tuple[Any, str]:
    """Return the rule of a folder of prompt files, from its settings if there are any, and the layout of the files."""
    from clicksim.cli.asked_runs import plan_runs
    from clicksim.cli.prompting import as_prompt_run
    from clicksim.files import PROMPT_ENDINGS, read_toml

    if not folder.is_dir():
        raise click.UsageError(f"--against {folder} is not a folder of prompt files")
    settings = folder / "settings.toml"
    names = [file.name for file in folder.glob("*.json")]
    stored = read_toml(settings) if settings.is_file() else {}
    strokes = "scribbles" in stored or any(name.endswith("_scribbles.json") for name in names)
    table = "scribbles" if strokes else "clicks"
    options = {"protocol": protocol, "seed": seed}
    (run,) = plan_runs(settings if settings.is_file() else None, options, (), (), table=table)
    layout = "grand-challenge" if any(name.endswith(PROMPT_ENDINGS["grand-challenge"]) for name in names) else "plain"
    return as_prompt_run(run), layout

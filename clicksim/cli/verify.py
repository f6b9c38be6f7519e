"""`clicksim verify`."""

import json
from collections import Counter
from pathlib import Path

import click

from clicksim.cli.paths import CatalogPath


@click.command("verify")
@click.argument("catalog", type=CatalogPath())
@click.option("--against", "run", required=True, metavar="RUN", help="A prompt run of the catalog.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def command(catalog: str | Path, run: str, as_json: bool) -> None:
    """Simulate every case of a prompt run anew, and compare voxel by voxel.

    Prints equal, unequal or not reproducible for each case and in total; exit code 1 unless all are equal. With
    the published files imported, this is the proof that the published rule is met.

    \b
    Example:
      clicksim catalog import-prompts CATALOG all_Autopet_III_clicks.zip --run published --protocol autopet-iv@1
      clicksim verify CATALOG --against published
    """  # noqa: D301 - click wants the character itself
    from clicksim.cli.progress import progress
    from clicksim.pipeline.verify import verify_run

    with progress("cases") as report:
        verdicts = verify_run(catalog, run, progress=report)
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

"""`clicksim predictors`."""

import json
from typing import Any

import click

from clicksim.errors import ClicksimError
from clicksim.predictors.spec import PREDICTOR_KINDS, PredictorKind


@click.command("predictors")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def command(as_json: bool) -> None:
    """The kinds of predictors that `--predictor` takes, with their options; installed packages add kinds.

    \b
    Examples:
      clicksim predictors
      clicksim rounds --catalog CATALOG --predictor builtin:threshold?suv=4 --out DIR
    """  # noqa: D301 - click wants the character itself
    rows = [_facts(name, found) for name, found in PREDICTOR_KINDS.each()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['usage'] or row['kind']:32}  {row['summary'] or 'cannot be used: ' + row['error']}")
        if row["options"]:
            click.echo(f"{'':32}  options: {', '.join(f'{name} ({kind})' for name, kind in row['options'].items())}")


def _facts(name: str, kind: PredictorKind | ClicksimError) -> dict[str, Any]:
    """What is known of a kind; one that cannot be loaded says why."""
    if isinstance(kind, ClicksimError):
        return {"kind": name, "usage": None, "summary": None, "options": {}, "error": str(kind)}
    options = {option: of.__name__ for option, of in (kind.options or {}).items()}
    return {"kind": name, "usage": kind.usage, "summary": kind.summary, "options": options, "error": None}

"""Options that several commands share, in the order of their help."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from clicksim.cli.paths import CatalogPath
from clicksim.files import PROMPT_ENDINGS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

IMAGE = click.Path(path_type=Path, exists=True)
INPUT = click.Path(path_type=Path, exists=True, dir_okay=False)
OUTPUT = click.Path(path_type=Path, dir_okay=False)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert to a number; invalid, infinite or out-of-range values are wrong usage."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def together(*options: Decorator) -> Decorator:
    """Combine several options into one decorator."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


LABEL_OR_CATALOG = together(
    click.option("--label", type=IMAGE, help="Lesion mask or instance map, or a folder of them."),
    click.option(
        "--catalog",
        type=CatalogPath(writes=True),
        help="All cases of a catalog; commits a prompt run, and with --out also writes JSON.",
    ),
)
CASE_ID = click.option("--case-id", help="Name of the case; by default the label's name without its ending.")
SETTINGS = click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the protocol; repeatable."
)
CONFIG = click.option("--config", type=INPUT, help="TOML with protocol, seed and settings; options override it.")
WRITING = together(
    click.option("--dry-run", is_flag=True, help="Print the settings of each run as TOML and stop."),
    click.option("--save-config", type=OUTPUT, help="Write the effective settings as TOML, for --config."),
    click.option(
        "--out",
        type=click.Path(),
        help="File; for a folder of labels or a sweep, a folder.  [default: JSON to stdout]",
    ),
    click.option(
        "--format",
        "layout",
        type=click.Choice(list(PROMPT_ENDINGS)),
        default="plain",
        show_default=True,
        help="JSON of points by class, JSON of the challenge, or Parquet with one row per voxel.",
    ),
)
RUN_AND_JSON = together(
    click.option("--run", metavar="NAME", help="With --catalog: name of the run; by default a hash of its inputs."),
    click.option("--json", "as_json", is_flag=True, help="With a catalog, a folder or a sweep: a report for scripts."),
)
ONE_SOURCE = click.option("--source", help="With --catalog: one source, such as fdat.  [default: all]")


def given_options(*, but: Sequence[str] = ()) -> list[str]:
    """Return the given options, except some; for errors about options without effect.

    Args:
        but: Parameters of the running command to leave out, by their names in Python.
    """
    context = click.get_current_context()
    return [
        param.opts[0]
        for param in context.command.params
        if param.name not in but and context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    ]


def which_rule(defaults: Mapping[str, Any]) -> Decorator:
    """Add the options `--protocol`, `--seed` and `--instances`; they are None if not given."""
    return together(
        click.option(
            "--protocol", help=f"Name and version of the rule, or a TOML file.  [default: {defaults['protocol']}]"
        ),
        click.option("--seed", type=int, help=f"Seed of all draws.  [default: {defaults['seed']}]"),
        click.option(
            "--instances", help="How values become lesions: auto, labels, components or touching.  [default: auto]"
        ),
    )

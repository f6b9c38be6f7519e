"""`clicksim encode`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.options import INPUT, given_options
from clicksim.cli.pairs import read_settings
from clicksim.errors import ClicksimError
from clicksim.files import make_folder

if TYPE_CHECKING:
    from clicksim.prompts import Prompts


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from clicksim.guidance import ENCODINGS, PRESETS

    for name, found in ENCODINGS.each():
        shown = f"cannot be used: {found}" if isinstance(found, ClicksimError) else _pairs(found.defaults)
        click.echo(f"{name}: {shown}".rstrip(": "))
    for name, preset in PRESETS.items():
        click.echo(f"{name}: {preset.encoding} {_pairs(dict(preset.settings))}".rstrip() + f" ({preset.source})")
    context.exit()


LIST = click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List all encodings and presets."
)


@click.command("encode")
@click.option("--prompts", "file", type=INPUT, required=True, help="Prompts as JSON.")
@click.option("--like", type=INPUT, required=True, help="An image on the grid of the prompts.")
@click.option("--encoding", default="gaussian", show_default=True, help="Encoding or preset; --list names all.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the encoding; repeatable.")
@click.option("--image", type=INPUT, help="The uptake, for encodings that use it.  [default: the image of --like]")
@click.option("--out", "prefix", metavar="PREFIX", help="Write PREFIX_0002.nii.gz and PREFIX_0003.nii.gz, float32.")
@click.option(
    "--first", type=click.IntRange(0, 9998), default=2, show_default=True, help="Number of the first channel."
)
@click.option("--lint", "linted", is_flag=True, help="Check the channels; exit code 1 if a check finds an error.")
@click.option(
    "--check", "checked", type=INPUT, multiple=True, help="With --lint: stored channels, foreground then background."
)
@click.option("--json", "as_json", is_flag=True, help="With --lint: findings as JSON.")
@LIST
def command(
    file: Path,
    like: Path,
    encoding: str,
    pairs: tuple[str, ...],
    image: Path | None,
    prefix: str | None,
    first: int,
    linted: bool,
    checked: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Draw guidance channels from prompts, check them, and write them to files.

    \b
    Examples:
      clicksim encode --prompts case_clicks.json --like case_0001.nii.gz --encoding edt-ball --out imagesTr/case
      clicksim encode --prompts case_clicks.json --like case_0001.nii.gz --set sigma_mm=5 --lint
      clicksim encode --prompts c.json --like c_0001.nii.gz --lint --check c_0002.nii.gz --check c_0003.nii.gz
    """  # noqa: D301 - click wants the character itself
    if not (prefix or linted):
        raise click.UsageError("give --out to write the channels, --lint to check them, or both")
    if (checked or as_json) and not linted:
        raise click.UsageError("--check and --json need --lint")
    idle = given_options(but=("file", "like", "linted", "checked", "as_json"))
    if checked and idle:
        raise click.UsageError(f"--check reads stored channels, so these options have no effect: {', '.join(idle)}")

    from clicksim.prompts.prompt_files import read_prompts
    from clicksim.volumes import case_id_of, read_grid

    grid = read_grid(like)
    prompts = read_prompts(file, grid, case_id=case_id_of(like))
    channels = _read(checked, grid) if checked else _draw(prompts, like, image, encoding, read_settings(pairs))
    if prefix:
        _write(prefix, channels, grid, first)
    if linted:
        _report(channels, prompts, as_json=as_json)


def _draw(prompts: "Prompts", like: Path, image: Path | None, encoding: str, settings: dict[str, Any]) -> Any:
    import warnings

    from clicksim.guidance import encode, plan_encoding
    from clicksim.volumes import read_image

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        plan = plan_encoding(encoding, settings)
    for warning in caught:
        click.echo(str(warning.message), err=True)
    uptake = None
    if plan.needs_image:
        volume = read_image(image or like)
        prompts.grid.check_same(volume.grid, ("--like", "--image"))
        uptake = volume.array
    elif image:
        click.echo(f"--image has no effect: the encoding {plan.encoding.name} reads no image", err=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # already reported above
        return encode(prompts, prompts.grid.shape, encoding=encoding, image=uptake, **settings)


def _read(files: tuple[Path, ...], grid: Any) -> Any:
    """Read one signed channel, or foreground and background."""
    import numpy as np

    from clicksim.volumes import read_image

    if len(files) > 2:
        raise ClicksimError(f"--check takes one signed channel, or foreground and background; got {len(files)} files")
    volumes = [read_image(path) for path in files]
    for path, volume in zip(files, volumes, strict=True):
        grid.check_same(volume.grid, ("--like", str(path)))
    return np.stack([volume.array for volume in volumes])


def _write(prefix: str, channels: Any, grid: Any, first: int) -> None:
    from clicksim.guidance import write_channels

    make_folder(Path(prefix).parent)
    for path in write_channels(prefix, channels, grid, first=first):
        click.echo(f"written: {path}", err=True)


def _report(channels: Any, prompts: "Prompts", *, as_json: bool) -> None:
    from clicksim.findings import plain_findings, worst_severity
    from clicksim.guidance import format_lint, lint

    findings = lint(channels, prompts)
    if as_json:
        click.echo(json.dumps(plain_findings(findings)))
    else:
        click.echo(format_lint(findings))
    if worst_severity(findings) == "error":
        raise click.exceptions.Exit(1)


def _pairs(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}".replace('"', "") for key, value in settings.items())

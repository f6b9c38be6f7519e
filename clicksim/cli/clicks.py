"""`clicksim clicks`."""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.errors import ClicksimError, SettingError
from clicksim.protocols.settings import dump_table, parse_value

if TYPE_CHECKING:
    from clicksim.prompts import Prompts

FORMATS = {"plain": "_clicks.json", "grand-challenge": "_lesion-clicks.json", "rows": "_clicks.parquet"}
RUN_KEYS = ("protocol", "seed", "instances")
DEFAULTS: dict[str, Any] = {"protocol": "autopet-iv@2", "seed": 42, "instances": "auto"}
PATH = click.Path(path_type=Path)
IMAGE = click.Path(path_type=Path, exists=True)


@click.command("clicks")
@click.option("--label", type=IMAGE, required=True, help="Lesion mask or instance map, or a folder of them.")
@click.option(
    "--pet", type=IMAGE, help="Uptake on the label's grid; for a folder, the folder of <case>_0001 or <case>."
)
@click.option("--organs", type=IMAGE, help="Organ labels on the label's grid, or a folder of them.")
@click.option("--case-id", help="What the case is called; by default the label's name without its ending.")
@click.option("--protocol", help=f"Name and version of the rule.  [default: {DEFAULTS['protocol']}]")
@click.option("--seed", type=int, help=f"Of all draws.  [default: {DEFAULTS['seed']}]")
@click.option("--instances", help="How values become lesions: auto, labels or components.  [default: auto]")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the protocol; repeatable.")
@click.option("--config", type=IMAGE, help="TOML with protocol, seed and settings; options on the line win.")
@click.option("--sweep", multiple=True, metavar="NAME=A,B,...", help="One run per value or combination; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the settings of each run as TOML and stop.")
@click.option("--save-config", type=PATH, help="Write the effective settings as TOML, for --config.")
@click.option("--out", type=PATH, help="File, or folder for a folder of labels or a sweep; stdout without.")
@click.option("--format", "layout", type=click.Choice(list(FORMATS)), default="plain", show_default=True)
@click.option("--preview", type=PATH, help="Draw lesions and clicks on maximum projections, PNG or WebP.")
def command(
    label: Path,
    pet: Path | None,
    organs: Path | None,
    case_id: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    sweep: tuple[str, ...],
    dry_run: bool,
    save_config: Path | None,
    out: Path | None,
    layout: str,
    preview: Path | None,
    **given: Any,
) -> None:
    r"""Simulated foreground and background clicks.

    Without a PET there are no background clicks from uptake, and a line on stderr says so.

    \b
    Examples:
      clicksim clicks --label case.nii.gz --pet case_0001.nii.gz --out case_clicks.json --preview case.png
      clicksim clicks --label case.nii.gz --protocol autopet-iv@1
      clicksim clicks --label labelsTr --pet imagesTr --out clicks --format grand-challenge
      clicksim clicks --label case.nii.gz --set strategy=rim --set n_foreground=3 --save-config my.toml
      clicksim clicks --label case.nii.gz --sweep n_foreground=1,5,10 --sweep strategy=deepest,rim --out sweep
    """
    runs = [Run(config, given, pairs, combination) for combination in _combinations(sweep)]
    many = label.is_dir() or len(runs) > 1
    _check_usage(many, len(runs) > 1, label, out, layout, case_id, preview, save_config)
    if save_config:
        _write_text(save_config, runs[0].toml())
    if dry_run:
        click.echo("\n".join(run.toml() for run in runs), nl=False)
        return
    failed = 0
    for run in runs:
        target = out / run.slug if out and run.slug else out
        if target and many:
            target.mkdir(parents=True, exist_ok=True)
            _write_text(target / "settings.toml", run.toml())
        for image in _labels(label):
            try:
                prompts = _simulate(run, image, pet, organs, case_id)
                file = target / f"{prompts.case_id}{FORMATS[layout]}" if target and many else target
                _write(prompts, file, layout)
                if preview:
                    _draw(prompts, image, _beside(image, pet), preview)
            except ClicksimError as error:
                if not label.is_dir():
                    raise
                click.echo(f"clicksim: {error}", err=True)
                failed += 1
    if failed:
        click.echo(f"clicksim: {failed} cases were refused; the others are written", err=True)
        raise click.exceptions.Exit(1)


class Run:
    """One combination of protocol, seed, instances and settings; the command line wins over the file."""

    def __init__(
        self, config: Path | None, given: dict[str, Any], pairs: tuple[str, ...], combination: dict[str, Any]
    ) -> None:
        from clicksim.protocols import effective_settings, load_protocol

        values = _read_config(config) if config else {}
        keys = DEFAULTS | {key: values[key] for key in RUN_KEYS if key in values}
        self.keys = keys | {key: value for key, value in given.items() if value is not None}
        self.protocol = load_protocol(self.keys["protocol"])
        self.given = values.get("clicks", {}) | dict(_pair(pair) for pair in pairs) | combination
        self.settings, _ = effective_settings(self.protocol, "clicks", self.given)
        self.slug = "_".join(f"{name}-{value}" for name, value in combination.items())

    def toml(self) -> str:
        """The effective settings; run again with `--config`, they give the same bytes."""
        settings = {name: value for name, value in self.settings.items() if name != "rule"}
        return dump_table("", self.keys) + "\n" + dump_table("clicks", settings)


def _simulate(run: Run, label: Path, pet: Path | None, organs: Path | None, case_id: str | None) -> "Prompts":
    """One case, with warnings and notes as lines on stderr."""
    from clicksim.simulate.case import simulate_case

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        prompts = simulate_case(
            label,
            pet=_beside(label, pet),
            organs=_beside(label, organs, channel=""),
            case_id=case_id,
            **run.keys,
            **run.given,
        )
    for sentence in [*(str(warning.message) for warning in caught), *prompts.notes]:
        click.echo(f"{prompts.case_id}: {sentence}", err=True)
    return prompts


def _write(prompts: "Prompts", file: Path | None, layout: str) -> None:
    if file is None:
        click.echo(prompts.to_json(layout))
    elif layout == "rows":
        from clicksim.prompts.table import write_table

        write_table(file, prompts.to_table())
    else:
        from clicksim.prompts.formats import write_prompts

        write_prompts(file, prompts, layout)


def _draw(prompts: "Prompts", label: Path, pet: Path | None, preview: Path) -> None:
    from clicksim.report.mip import draw_preview, save_picture
    from clicksim.volumes import read_image, read_label

    uptake = None if pet is None else read_image(pet).array
    image = draw_preview(uptake, read_label(label).array, prompts, grid=prompts.grid, title=prompts.case_id)
    save_picture(image, preview)


def _labels(label: Path) -> Iterator[Path]:
    """The label, or the labels of a folder with a progress bar on stderr."""
    from clicksim.simulate.case import list_labels

    if not label.is_dir():
        yield label
        return
    from clicksim.cli.progress import track

    yield from track(list_labels(label), "cases")


def _beside(label: Path, path: Path | None, channel: str = "_0001") -> Path | None:
    """The image that belongs to a label: the path itself, or the case's file in that folder."""
    if path is None or not path.is_dir():
        return path
    from clicksim.simulate.case import find_companion

    return find_companion(label, path, channel)


def _combinations(sweep: tuple[str, ...]) -> list[dict[str, Any]]:
    """All combinations of the values of all sweeps; one empty combination without a sweep."""
    axes = []
    for text in sweep:
        name, values = _split(text)
        listed = parse_value(f"[{values}]")
        axes.append([(name, v) for v in (listed if isinstance(listed, list) else map(parse_value, values.split(",")))])
    return [dict(combination) for combination in itertools.product(*axes)]


def _pair(text: str) -> tuple[str, Any]:
    name, value = _split(text)
    return name, parse_value(value)


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _read_config(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from error
    unknown = sorted(set(values) - {*RUN_KEYS, "clicks"})
    if unknown:
        raise SettingError(f"{path} has {', '.join(unknown)}; allowed: {', '.join(RUN_KEYS)} and the table [clicks]")
    return values


def _check_usage(
    many: bool,
    sweep: bool,
    label: Path,
    out: Path | None,
    layout: str,
    case_id: str | None,
    preview: Path | None,
    save_config: Path | None,
) -> None:
    """Refuse combinations of options that mean nothing."""
    if many and out is None:
        raise click.UsageError("a folder of labels or a sweep needs --out DIR")
    if layout == "rows" and out is None:
        raise click.UsageError("--format rows is a Parquet file and needs --out")
    if label.is_dir() and case_id is not None:
        raise click.UsageError("--case-id is for one label; in a folder each case has its file's name")
    if many and preview:
        raise click.UsageError("--preview is for one label and one run")
    if sweep and save_config:
        raise click.UsageError("--save-config is for one run; each run of a sweep writes its settings.toml")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

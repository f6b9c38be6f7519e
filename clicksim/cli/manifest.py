"""`clicksim manifest`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli import Listing
from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import CatalogPath
from clicksim.errors import ClicksimError, counted

if TYPE_CHECKING:
    from clicksim.manifests import ExportFormat, Written
    from clicksim.settings import Setting


class ExportGroup(Listing):
    """A group with the command `check` and one command per format, loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        from clicksim.manifests.export_format import EXPORTS

        return sorted({*super().list_commands(ctx), *EXPORTS.names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a format, or `check`."""
        from clicksim.manifests.export_format import EXPORTS

        if cmd_name in self.commands or cmd_name not in EXPORTS:
            return super().get_command(ctx, cmd_name)
        return _export_command(EXPORTS.find(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for `--help`; a format that cannot be loaded is listed with the reason."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                found = self.get_command(ctx, name)
                rows.append((name, ((found and found.help) or "").split("\n\n")[0]))
            except ClicksimError as error:
                rows.append((name, str(error)))
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in rows])


@click.group("manifest", cls=ExportGroup)
def command() -> None:
    """Export a catalog for a trainer, a challenge or an archive.

    The export includes the licences and citations of its sources. Cases that cannot be exported are named, the others
    are written, and the exit code is 1.

    \b
    Examples:
      clicksim manifest nnunet CATALOG nnUNet_raw/Dataset501_PETCT --run latest
      clicksim manifest monai CATALOG out --folds five --run RUN
      clicksim manifest check out CATALOG
    """  # noqa: D301 - click wants the character itself


def _export_command(chosen: "ExportFormat") -> click.Command:
    """Make the command of a format; its settings are options."""

    @click.argument("catalog", type=CatalogPath())
    @click.argument("out", type=click.Path(path_type=Path))
    @click.option("--source", "sources", multiple=True, help="One source of the catalog; repeatable.")
    @click.option("--run", help="The prompt run to export; latest is the run that ended last.")
    @click.option("--folds", "plan", help="A fold plan of the catalog; by default the one that training uses.")
    @click.option("--include-controlled", is_flag=True, help="Include cases under controlled access.")
    @click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting; repeatable.")
    @batch_options()
    def write(
        catalog: str | Path,
        out: Path,
        sources: tuple[str, ...],
        run: str | None,
        plan: str | None,
        include_controlled: bool,
        pairs: tuple[str, ...],
        workers: int | str,
        scheduler: str | None,
        resume: bool,
        overwrite: bool,
        **options: Any,
    ) -> None:
        from clicksim.pipeline.exporting import export

        given = {name: value for name, value in options.items() if value is not None}
        settings = {**read_settings(pairs, list(given)), **given}
        with open_crew("patients exported", workers, scheduler) as crew:
            written = export(
                catalog,
                out,
                chosen,
                sources=list(sources) or None,
                run=run,
                plan=plan,
                include_controlled=include_controlled,
                settings=settings,
                crew=crew,
                resume=resume,
                overwrite=overwrite,
            )
        _say(written, out)

    for name, setting in reversed(list(chosen.settings.items())):
        write = _setting_option(name, setting)(write)
    return click.command(chosen.name, help=chosen.meaning)(write)


def _setting_option(name: str, setting: "Setting") -> Any:
    """Make the option of a setting; without it the setting has its default."""
    option, text = f"--{name.replace('_', '-')}", f"{setting.text[0].upper()}{setting.text[1:]}."
    if setting.kind == "bool":
        return click.option(option, name, is_flag=True, default=None, help=text)
    from clicksim.settings import parse_value

    default = f"  [default: {setting.default}]" if setting.default not in (None, "") else ""
    kind = str if setting.kind == "str" else parse_value
    return click.option(option, name, type=kind, metavar=setting.kind.upper(), help=text + default)


@command.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True))
@click.argument("catalog", type=CatalogPath(), required=False)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def check(out: Path, catalog: str | Path | None, as_json: bool) -> None:
    """Check that the export OUT is complete and agrees with the CATALOG; exit code 1 if not."""
    from clicksim.catalog import open_catalog
    from clicksim.findings import format_findings, plain_findings
    from clicksim.manifests import check_manifest

    faults = check_manifest(out, None if catalog is None else open_catalog(catalog))
    if as_json:
        click.echo(json.dumps(plain_findings(faults)))
    else:
        click.echo(format_findings(faults) or "no findings")
    if faults:
        click.echo(f"clicksim: {counted(len(faults), 'finding')} in {out}", err=True)
        raise click.exceptions.Exit(1)


def _say(written: "Written", out: Path) -> None:
    """Print what was written and what was refused."""
    click.echo(f"{counted(len(written.files), 'case')} in {out}")
    for note in written.notes:
        click.echo(f"clicksim: {note}", err=True)
    for case, reason in sorted(written.refused.items()):
        click.echo(f"refused: {case}: {reason}", err=True)
    if written.refused:
        raise click.exceptions.Exit(1)

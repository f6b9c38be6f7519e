"""`clicksim protocols`."""

import json

import click

from clicksim.protocols import Protocol, list_presets, list_protocols, load_protocol
from clicksim.protocols.protocol_settings import TABLES
from clicksim.settings import describe_settings


@click.command("protocols")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def command(name: str | None, as_json: bool) -> None:
    """List the protocols, or show one with all its settings.

    \b
    Examples:
      clicksim protocols
      clicksim protocols autopet-iv@2
      clicksim protocols ritm
    """  # noqa: D301 - click wants the character itself
    if name is None:
        protocols, presets = list_protocols(), list_presets()
        if as_json:
            click.echo(json.dumps([{"id": p.id, "title": p.title, "source": p.source} for p in protocols + presets]))
            return
        for protocol in protocols:
            click.echo(f"{protocol.id:20}  {protocol.title}")
        click.echo("\nPresets: rules of the field whose source leaves choices open; their notes say which.")
        for protocol in presets:
            click.echo(f"{protocol.id:20}  {protocol.title}")
        return
    protocol = load_protocol(name)
    click.echo(json.dumps({"id": protocol.id, **protocol.tables}) if as_json else describe_protocol(protocol))


def describe_protocol(protocol: Protocol) -> str:
    """Describe a protocol: its source, its notes, and each setting with meaning and range."""
    lines = [f"{protocol.id}: {protocol.title}", f"Source: {protocol.source}", ""]
    lines += [f"- {note}" for note in protocol.notes]
    for table, settings in protocol.tables.items():
        lines += ["", f"[{table}]"]
        lines += describe_settings(TABLES[table], {key: value for key, value in settings.items() if key != "rule"})
    return "\n".join(lines)

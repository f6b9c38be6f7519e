"""Settings of protocols and annotators, TOML."""

import warnings
from pathlib import Path

from clicksim.cli.asked_runs import read_config
from clicksim.errors import ClicksimError
from clicksim.protocols import effective_settings, list_presets, list_protocols
from clicksim.protocols.protocol_settings import TABLES
from clicksim.settings import dump_table, parse_value
from clicksim.simulate.annotators.annotator_files import annotator_toml, load_annotator
from clicksim.simulate.annotators.people import find_annotator

MARK = b"# annotator\n"


def seeds() -> list[bytes]:
    """The changeable settings of every protocol and preset, and an annotator."""
    made = []
    for protocol in [*list_protocols(), *list_presets()]:
        for table, values in protocol.tables.items():
            free = {name: value for name, value in values.items() if name != "rule"}
            made.append(f'protocol = "{protocol.id}"\nseed = 7\n{dump_table(table, free)}'.encode())
    return [*made, MARK + annotator_toml(find_annotator("hurried")).encode()]


def read(data: bytes, folder: Path) -> None:
    """Read it as a file of settings for each table, or as an annotator."""
    file = folder / "settings.toml"
    file.write_bytes(data)
    for line in data.decode("latin-1").splitlines()[:20]:
        parse_value(line.partition("=")[2])
    if data.startswith(MARK):
        load_annotator(file)
        return
    known = {protocol.id: protocol for protocol in [*list_protocols(), *list_presets()]}
    refusal: ClicksimError | None = None
    for table in TABLES:
        try:
            values = read_config(file, table)
        except ClicksimError as error:
            refusal = error  # the file of another table; if it is that of none, the last of these is raised
            continue
        name = values.get("protocol")
        protocol = known.get(name if isinstance(name, str) else "", known["autopet-iv@2"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            effective_settings(protocol, table, values.get(table, {}))
        return
    if refusal is not None:
        raise refusal

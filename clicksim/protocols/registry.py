"""Protocols: versioned rules, one TOML file each. Also presets, and protocols from the user's own files.

A preset is a published rule whose source leaves choices open. Its notes list these choices and the values used here.
A preset has no version. A user's file is named by its path, which ends in `.toml`:

    based_on = "autopet-iv@2"       # optional: gives the settings that this file leaves out

    [clicks]
    n_foreground = 5

It may also give `title`, `source` and `notes`. Without `based_on` each of its tables must be complete.
"""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from clicksim.errors import SettingError, unknown_name
from clicksim.files import read_toml
from clicksim.protocols.protocol_settings import TABLES
from clicksim.settings import check_value, idle_settings, unknown_setting

FACTS = ("file", "name", "version", "title", "source", "notes", "based_on")
"""Allowed entries of a file besides its tables."""
FILE_ENDING = ".toml"


@dataclass(frozen=True)
class Protocol:
    """A rule.

    Attributes:
        name: Such as `autopet-iv`.
        version: From 1; a released version never changes. 0 for presets and user files.
        title, source, notes: A short description, where the rule is published, and remarks for the user.
        tables: Settings by table: `clicks`, `scribbles`, `score`, `rounds`; only tables that it defines.
        file: The name of the user's file; empty for protocols and presets of clicksim.
    """

    name: str
    version: int
    title: str
    source: str
    notes: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
    file: str = ""

    @property
    def id(self) -> str:
        """The name in metadata: `autopet-iv@1`, `ritm`, or the name of a file and a hash of its settings."""
        if self.file:
            content = json.dumps(self.tables, sort_keys=True)
            return f"{self.file}#{hashlib.blake2b(content.encode(), digest_size=6).hexdigest()}"
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def content(self) -> dict[str, Any]:
        """A user file as complete plain data, so that a record keeps its content; otherwise empty.

        `load_protocol` accepts it.
        """
        if not self.file:
            return {}
        about = {"file": self.file, "title": self.title, "source": self.source, "notes": list(self.notes)}
        return about | {table: dict(settings) for table, settings in self.tables.items()}


ProtocolName = str | Path | Mapping[str, Any] | Protocol
"""A protocol: its name, the path of a TOML file, the `content` of one that was loaded, or the protocol itself."""


def list_protocols() -> list[Protocol]:
    """All protocols of clicksim, by name and version."""
    return sorted(_protocols().values(), key=lambda p: (p.name, p.version))


def list_presets() -> list[Protocol]:
    """All presets of clicksim, by name."""
    return sorted(_presets().values(), key=lambda p: p.name)


def load_protocol(name: ProtocolName) -> Protocol:
    """Load a protocol by its name with version, such as `autopet-iv@2`, a preset by its name, or a TOML file.

    A name without a version is rejected, because results must not depend on the release of clicksim.

    Args:
        name: See `ProtocolName`. A text that ends in `.toml` is a path.

    Raises:
        SettingError: If there is no such protocol or file, or the file is not a complete and valid protocol.
    """
    if isinstance(name, Protocol):
        return name
    if isinstance(name, Mapping):
        return _parse(name, str(name.get("file", "")), "the protocol in the settings")
    if isinstance(name, Path) or name.endswith(FILE_ENDING):
        return _parse(read_toml(Path(name), "protocol"), Path(name).name, str(name))
    known = _protocols() | _presets()
    if name in known:
        return known[name]
    versions = [p.id for p in list_protocols() if p.name == name]
    if versions:
        raise SettingError(f"protocol {name!r} needs a version: {' or '.join(versions)}")
    raise unknown_name("protocol", name, known)


def freeze_protocol(name: ProtocolName) -> str | Protocol:
    """Freeze a protocol for a long job: keep its name, or load a file now, because the file may change later.

    Raises:
        SettingError: See `load_protocol`; only for a file.
    """
    if isinstance(name, str) and not name.endswith(FILE_ENDING):
        return name
    protocol = load_protocol(name)
    return protocol if protocol.file else protocol.id


def protocol_facts(name: ProtocolName) -> dict[str, Any]:
    """The entries of a record for a protocol: its id as `protocol` and, for a file, `protocol_content`."""
    protocol = load_protocol(name)
    content = {"protocol_content": protocol.content} if protocol.file else {}
    return {"protocol": protocol.id, **content}


def protocol_of(record: Mapping[str, Any]) -> str | Protocol:
    """Get the protocol from a record made by `protocol_facts`.

    Raises:
        SettingError: If this version of clicksim does not have it.
    """
    return freeze_protocol(load_protocol(record.get("protocol_content") or record["protocol"]))


def effective_settings(protocol: Protocol, table: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Override one table of a protocol with the user's settings.

    Args:
        protocol: Gives the defaults; its `rule` cannot be changed.
        table: Such as `clicks`.
        given: The user's settings by name.

    Returns:
        All settings, and messages about given settings that have no effect.

    Raises:
        SettingError: If the protocol has no such table or setting, or the value is not allowed.
    """
    if table not in protocol.tables:
        able = [p.id for p in list_protocols() if table in p.tables]
        raise SettingError(f"protocol {protocol.id} has no rule for {table}; these have: {', '.join(able)}")
    defaults, declared = protocol.tables[table], TABLES[table]
    for name in given:
        if name == "rule" or name not in defaults:
            raise _unknown(protocol, table, name)
    checked = {name: check_value(name, declared[name], value) for name, value in given.items()}
    # a deep copy, so that changes to the result do not change the protocol
    settings = deepcopy(dict(defaults)) | checked
    return settings, idle_settings(declared, settings, given)


def _unknown(protocol: Protocol, table: str, name: str) -> SettingError:
    names = {one: [known for known in values if known != "rule"] for one, values in protocol.tables.items()}
    others = [one for one, known in names.items() if name in known]
    if others:
        return SettingError(
            f"{name} is a setting of [{others[0]}] of {protocol.id} and has no effect on {table}; settings of "
            f"[{table}]: {', '.join(names[table])}"
        )
    return unknown_setting(protocol.id, name, {table: names[table], **names})


@cache
def _protocols() -> dict[str, Protocol]:
    return _read_folder(files("clicksim.protocols"))


@cache
def _presets() -> dict[str, Protocol]:
    return _read_folder(files("clicksim.protocols").joinpath("presets"))


def _read_folder(folder: Any) -> dict[str, Protocol]:
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(FILE_ENDING)), key=lambda path: path.name)
    found = []
    for path in paths:
        with as_file(path) as file:
            found.append(_make(read_toml(file, "protocol"), ""))
    return {protocol.id: protocol for protocol in found}


def _make(content: Mapping[str, Any], file: str) -> Protocol:
    return Protocol(
        content["name"],
        content.get("version", 0),
        content["title"],
        content["source"],
        tuple(content["notes"]),
        {table: _check_table(table, content[table]) for table in TABLES if table in content},
        file,
    )


def _check_table(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if name not in TABLES[table]:
            raise unknown_setting("a protocol", name, {table: TABLES[table]})
    return {name: check_value(name, TABLES[table][name], value) for name, value in values.items()}


def _parse(content: Mapping[str, Any], file: str, where: str) -> Protocol:
    """Make a protocol from the content of a user's file."""
    try:
        _check_facts(content, file)
        made = {"title": f"rule of {file}", "source": f"the file {file}", "notes": [], **content}
        base = load_protocol(content["based_on"]).tables if "based_on" in content else {}
        for table, defaults in base.items():
            own = content.get(table, {})
            if own.get("rule", defaults["rule"]) != defaults["rule"]:
                raise SettingError(f"rule of [{table}] is that of {content['based_on']}; leave it out")
            made[table] = {**defaults, **own}
        protocol = _make({**made, "name": Path(file).stem, "version": 0}, file)
        for table, settings in protocol.tables.items():
            _check_complete(table, settings)
    except SettingError as error:
        raise SettingError(f"{error} ({where})") from error
    return protocol


def _check_facts(content: Mapping[str, Any], file: str) -> None:
    if not file:
        raise SettingError("a protocol given as a table needs file, the name of the file that it came from")
    for name, value in content.items():
        if name not in FACTS and name not in TABLES:
            raise unknown_name("entry of a protocol", name, (*FACTS, *TABLES))
        expected = "a table" if name in TABLES else "a list of texts" if name == "notes" else "a text"
        fits = {
            "a table": isinstance(value, Mapping),
            "a list of texts": isinstance(value, list) and all(isinstance(note, str) for note in value),
            "a text": isinstance(value, str) or name == "version",
        }
        if not fits[expected]:
            raise SettingError(f"{name} of a protocol must be {expected}, got {value!r}")
    if not any(table in content for table in TABLES) and "based_on" not in content:
        raise SettingError(f"a protocol needs a table of settings: {', '.join(f'[{table}]' for table in TABLES)}")
    if str(content.get("based_on", "")).endswith(FILE_ENDING):
        raise SettingError("based_on must name a protocol or preset of clicksim, not a file")


def _check_complete(table: str, settings: Mapping[str, Any]) -> None:
    """Reject a table that does not have exactly the settings that its rule reads.

    A rule may read different settings for different tasks (a protocol that only corrects has no settings for labels).
    So the table is compared with that of the most similar protocol with the same rule.
    """
    rule = settings.get("rule")
    if rule is None:
        choices = ", ".join(TABLES[table]["rule"].words)
        raise SettingError(f"[{table}] needs rule ({choices}), or the file needs based_on")
    known = (*list_protocols(), *list_presets())
    similar = [p for p in known if table in p.tables and p.tables[table]["rule"] == rule]
    model = min(similar, key=lambda p: len(set(p.tables[table]) ^ set(settings)))
    missing = [name for name in model.tables[table] if name not in settings]
    extra = [name for name in settings if name not in model.tables[table]]
    if missing:
        raise SettingError(
            f"[{table}] lacks {', '.join(missing)}; give them, or write based_on = {model.id!r} at the top of the file"
        )
    if extra:
        raise SettingError(
            f"[{table}] has {', '.join(extra)}, which the {rule} rule does not read; remove it, or choose another rule"
        )

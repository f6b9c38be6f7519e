"""Protocols: frozen, versioned rules, one TOML file each; and presets.

A preset is a rule of the field whose source leaves choices open. Its notes say which, and what was chosen; it has no
version.
"""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from clicksim.errors import SettingError, unknown_name
from clicksim.protocols.protocol_settings import TABLES, check_setting, idle_settings


@dataclass(frozen=True)
class Protocol:
    """One version of one rule.

    Attributes:
        name: Such as `autopet-iv`.
        version: From 1; a version never changes once released. 0 for a preset.
        title, source, notes: What it is, where its rule is published, what its user should know.
        tables: Settings by table: `clicks`, `scribbles`, `score`, `rounds`, as far as it defines them.
        text: The file itself.
    """

    name: str
    version: int
    title: str
    source: str
    notes: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
    text: str

    @property
    def id(self) -> str:
        """The name by which it is asked for, such as `autopet-iv@1`; a preset has its name alone."""
        return f"{self.name}@{self.version}" if self.version else self.name


def list_protocols() -> list[Protocol]:
    """All protocols, by name and version."""
    return sorted(_protocols().values(), key=lambda p: (p.name, p.version))


def list_presets() -> list[Protocol]:
    """All presets, by name."""
    return sorted(_presets().values(), key=lambda p: p.name)


def load_protocol(name: str) -> Protocol:
    """The protocol of a name with version, such as `autopet-iv@2`, or the preset of a name.

    Raises:
        SettingError: There is none; the nearest name is given. A name without a version is refused, because
            results must not change with the release.
    """
    known = _protocols() | _presets()
    if name in known:
        return known[name]
    versions = [p.id for p in list_protocols() if p.name == name]
    if versions:
        raise SettingError(f"protocol {name!r} needs a version: {' or '.join(versions)}")
    raise unknown_name("protocol", name, known)


def effective_settings(protocol: Protocol, table: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of one table of a protocol with the user's own on top.

    Args:
        protocol: Gives the defaults; its `rule` cannot be changed.
        table: Such as `clicks`.
        given: The user's settings by name.

    Returns:
        All settings, and sentences about those given that have no effect.

    Raises:
        SettingError: The protocol has no such table, no such setting, or the value is not allowed.
    """
    if table not in protocol.tables:
        able = [p.id for p in list_protocols() if table in p.tables]
        raise SettingError(f"protocol {protocol.id} has no rule for {table}; these have: {', '.join(able)}")
    defaults = protocol.tables[table]
    changeable = [name for name in defaults if name != "rule"]
    for name in given:
        if name not in changeable:
            raise unknown_name(f"setting of {protocol.id}", name, changeable)
    # copied, lists included: whoever changes what comes back does not change the protocol
    settings = deepcopy(dict(defaults)) | {name: check_setting(table, name, value) for name, value in given.items()}
    return settings, idle_settings(table, settings, given)


@cache
def _protocols() -> dict[str, Protocol]:
    return _read_folder(files("clicksim.protocols"))


@cache
def _presets() -> dict[str, Protocol]:
    return _read_folder(files("clicksim.protocols").joinpath("presets"))


def _read_folder(folder: Any) -> dict[str, Protocol]:
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    found = [_read(path.read_text(encoding="utf-8")) for path in paths]
    return {protocol.id: protocol for protocol in found}


def _read(text: str) -> Protocol:
    content = tomllib.loads(text)
    tables = {
        name: {key: check_setting(name, key, value) for key, value in content[name].items()}
        for name in TABLES
        if name in content
    }
    return Protocol(
        content["name"],
        content.get("version", 0),
        content["title"],
        content["source"],
        tuple(content["notes"]),
        tables,
        text,
    )

"""The requested runs: protocol, seed, annotator and settings, from file, options and sweeps."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.pairs import read_settings, split_pair
from clicksim.errors import SettingError, unknown_name
from clicksim.files import read_toml
from clicksim.protocols import effective_settings, load_protocol
from clicksim.protocols.registry import FILE_ENDING
from clicksim.settings import dump_table, parse_value

if TYPE_CHECKING:
    from clicksim.simulate.annotators.people import Annotator

RUN_KEYS = ("protocol", "seed", "instances")
ANNOTATOR = "annotator"
DEFAULTS: dict[str, Any] = {"protocol": "autopet-iv@2", "seed": 42, "instances": "auto"}
MOST_RUNS = 10_000


class AskedRun:
    """One combination of protocol, seed, instances and settings.

    A sweep overrides the command line, which overrides the file, which overrides the defaults of the protocol.

    Attributes:
        keys: Protocol, seed and instances.
        protocol: The protocol itself.
        settings: All settings of the protocol's table.
        given: Settings that are passed to the simulation.
        slug: The folder of this run in a sweep; empty without a sweep.
        table: The protocol's table, `clicks` or `scribbles`.
        annotator: The person who changes the prompts of the rule, or None.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        options: Mapping[str, Any],
        pairs: Mapping[str, Any],
        combination: Mapping[str, Any],
        table: str = "clicks",
        defaults: Mapping[str, Any] = DEFAULTS,
        annotator: "Annotator | None" = None,
    ) -> None:
        self.table = table
        self.annotator = annotator
        swept = {name: value for name, value in combination.items() if name not in RUN_KEYS}
        self.keys = dict(defaults) | {
            name: values[name] for values in (config, options, combination) for name in RUN_KEYS if name in values
        }
        _check_keys(self.keys)
        self.protocol = protocol = load_protocol(self.keys["protocol"])
        standard = protocol.tables.get(table, {})
        stored = config.get(table, {})
        self.settings, _ = effective_settings(protocol, table, {**stored, **pairs, **swept})
        # a default read from a file is not a request, so a file of all settings does not warn of those without effect
        wished = {name: value for name, value in stored.items() if self.settings[name] != standard[name]}
        self.given = {**wished, **pairs, **swept}
        self.slug = "_".join(f"{name}-{_word(value)}" for name, value in combination.items())
        if standard.get("rule") == "published" and not 0 <= self.keys["seed"] < 2**32:
            raise SettingError(f"seed of {protocol.id} must be at least 0 and below 2**32, got {self.keys['seed']}")

    def toml(self) -> str:
        """Return the effective settings as TOML; a run with them as `--config` gives the same bytes."""
        settings = {name: value for name, value in self.settings.items() if name != "rule"}
        keys = self.keys | {"protocol": self.protocol.content or self.protocol.id}
        # a protocol from a file is written in full, as a table: the file may change
        rule = {name: value for name, value in keys.items() if name == "protocol" and isinstance(value, dict)}
        plain = {name: value for name, value in keys.items() if name not in rule}
        tables = [dump_table("", plain), dump_table(self.table, settings), *([dump_table("", rule)] if rule else [])]
        if self.annotator is not None:
            from clicksim.simulate.annotators.annotator_files import annotator_toml

            # written in full, not by name: the file may change
            tables.append(annotator_toml(self.annotator, ANNOTATOR))
        return "\n".join(tables)


def plan_runs(
    config: Path | None,
    options: Mapping[str, Any],
    pairs: Sequence[str],
    sweeps: Sequence[str],
    *,
    table: str = "clicks",
    defaults: Mapping[str, Any] = DEFAULTS,
) -> list[AskedRun]:
    """Plan one run, or one per combination of the values of all sweeps; all are checked before the first starts.

    Args:
        config: A file of settings, or None.
        options: Protocol, seed, instances and annotator from the command line; None if not given.
        pairs, sweeps: Texts of the form NAME=VALUE and NAME=A,B.
        table: The protocol's table, `clicks` or `scribbles`.
        defaults: Defaults of protocol, seed and instances.

    Raises:
        SettingError: A protocol, setting or value is not allowed, or the file is not valid settings in TOML.
        click.UsageError: A text is not NAME=VALUE, or a name is given twice with different values.
    """
    stored = read_config(config, table) if config else {}
    if config and isinstance(stored.get("protocol"), str) and stored["protocol"].endswith(FILE_ENDING):
        stored["protocol"] = str(config.parent / stored["protocol"])
    given = {name: value for name, value in options.items() if value is not None}
    settings = read_settings(pairs, RUN_KEYS)
    axes = [_axis(text) for text in sweeps]
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1 or name in settings or name in given:
            raise click.UsageError(f"{name} is given in --sweep and a second time; give its values in one --sweep only")
    count = math.prod(len(values) for _, values in axes)
    if count > MOST_RUNS:
        raise click.UsageError(f"the sweeps make {count} runs; at most {MOST_RUNS} are allowed")
    combinations = itertools.product(*(values for _, values in axes))
    person = open_person(given.get(ANNOTATOR)) or _stored_person(stored.get(ANNOTATOR), config)
    return [
        AskedRun(stored, given, settings, dict(zip(names, values, strict=True)), table, defaults, person)
        for values in combinations
    ]


def open_person(text: str | None) -> "Annotator | None":
    """Open the annotator that `--annotator` names.

    Raises:
        SettingError: There is no annotator of that name, or the file contains something else.
    """
    if text is None:
        return None
    from clicksim.simulate.annotators.annotator_files import open_annotator

    return open_annotator(text)


def _stored_person(value: Any, config: Path | None) -> "Annotator | None":
    """Open the annotator of a settings file: a table, the name of a preset, or a file next to it."""
    if config is None or value is None:
        return None
    if isinstance(value, dict):
        from clicksim.simulate.annotators.annotator_files import check_annotator

        return check_annotator(value, config)
    if not isinstance(value, str):
        raise SettingError(f"annotator must be a name, a file or a table, [annotator], got {value!r} ({config})")
    return open_person(str(config.parent / value) if value.endswith(".toml") else value)


def read_config(path: Path, table: str = "clicks") -> dict[str, Any]:
    """Read a settings file: protocol, seed, instances, annotator and one table of settings, all optional.

    Raises:
        SettingError: The file cannot be read, is not TOML, or contains something else.
    """
    values = read_toml(path)
    allowed = (*RUN_KEYS, ANNOTATOR)
    unknown = sorted(set(values) - {*allowed, table})
    if unknown:
        raise SettingError(
            f"{path} has unknown entries: {', '.join(unknown[:10])}; allowed: {', '.join(allowed)} "
            f"and, for settings of the protocol, the table [{table}]"
        )
    if not isinstance(values.get(table, {}), dict):
        raise SettingError(f"{table} must be a table of settings, [{table}], got {values[table]!r} ({path})")
    return values


def _check_keys(keys: Mapping[str, Any]) -> None:
    """Reject values that only a file or a sweep can give: a seed that is not a number, a name that is not text."""
    seed, protocol, instances = keys["seed"], keys["protocol"], keys["instances"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SettingError(f"seed must be a whole number, got {seed!r}")
    if not isinstance(protocol, str | dict):
        raise SettingError(f"protocol must be a name with a version, a TOML file or a table, got {protocol!r}")
    if instances != "auto":
        from clicksim.lesions import INSTANCE_RULES

        if instances not in INSTANCE_RULES:
            raise unknown_name("rule for instances", str(instances), INSTANCE_RULES)


def _axis(text: str) -> tuple[str, list[Any]]:
    """Parse the name and the values of one sweep."""
    name, values = split_pair(text)
    listed = parse_value(f"[{values}]")
    found = listed if isinstance(listed, list) else [parse_value(value.strip()) for value in values.split(",")]
    words = [_word(value) for value in found]
    if not found or "" in words:
        raise click.UsageError(f"{text!r} has an empty value; a sweep is NAME=A,B,...")
    if len(set(words)) < len(words):
        raise click.UsageError(f"{text!r} contains a value twice")
    return name, found


def _word(value: Any) -> str:
    """Return a value as part of a folder's name."""
    if isinstance(value, list):
        return "-".join(_word(entry) for entry in value) or "none"
    return value.replace("/", "-") if isinstance(value, str) else json.dumps(value, default=str)

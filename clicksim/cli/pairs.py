"""Texts of the form NAME=VALUE, for repeatable options."""

from collections.abc import Sequence
from typing import Any

import click


def split_pair(text: str) -> tuple[str, str]:
    """Split a text into name and value, without surrounding blanks.

    Raises:
        click.UsageError: There is no `=`, or the name or the value is empty.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return the values by name.

    Raises:
        click.UsageError: A text is not NAME=VALUE, or a name is given twice.
    """
    found: dict[str, str] = {}
    for name, value in map(split_pair, texts):
        if name in found:
            raise click.UsageError(f"{name} is given twice, as {found[name]} and as {value}; give it once")
        found[name] = value
    return found


def read_settings(texts: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
    """Parse settings: values are TOML; a word without quotes is a string.

    Args:
        texts: Texts of `--set`.
        options: Names of the command's own options that look like settings.

    Raises:
        click.UsageError: See `read_pairs`; also if a name is that of an option.
    """
    from clicksim.settings import parse_value

    found = read_pairs(texts)
    for name in options:
        if name in found:
            raise click.UsageError(f"{name} is an option, not a setting of a protocol: use --{name} {found[name]}")
    return {name: parse_value(value) for name, value in found.items()}

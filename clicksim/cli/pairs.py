"""Texts of the form NAME=VALUE, as options that may be repeated take them."""

from collections.abc import Sequence
from typing import Any

import click


def split_pair(text: str) -> tuple[str, str]:
    """The name and the value, without blanks around them.

    Raises:
        click.UsageError: There is no sign between them, or one of them is empty.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """The values by name.

    Raises:
        click.UsageError: Another text; a name that is given twice.
    """
    found: dict[str, str] = {}
    for name, value in map(split_pair, texts):
        if name in found:
            raise click.UsageError(f"{name} is given twice, as {found[name]} and as {value}; give it once")
        found[name] = value
    return found


def read_settings(texts: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
    """The settings behind the texts: values as TOML has them; a word without quotes is a text.

    Args:
        texts: Of `--set`.
        options: Names of the command's own options that look like settings.

    Raises:
        click.UsageError: As `read_pairs`; the name of an option.
    """
    from clicksim.settings import parse_value

    found = read_pairs(texts)
    for name in options:
        if name in found:
            raise click.UsageError(f"{name} is no setting of a protocol but an option: --{name} {found[name]}")
    return {name: parse_value(value) for name, value in found.items()}

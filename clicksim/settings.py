"""Settings: how one is declared, checked and written. Protocols, encodings, exports and training all use this module.

A table of settings is a mapping from names to `Setting`:

    >>> table = {
    ...     "radius": Setting("float", "radius of the ball", default=5.0, low=0, high=1000, unit="mm"),
    ...     "shape": Setting("str", "what is drawn", ("ball", "cube"), default="ball"),
    ... }
    >>> check_settings(table, {"radius": 3}, "the example")
    {'radius': 3.0}
    >>> fill_settings(table, {"radius": 3}, "the example")
    {'radius': 3.0, 'shape': 'ball'}
"""

import json
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from clicksim.errors import SettingError, unknown_name

Value = Any  # bool, int, float, str or a list of these, as in TOML
SettingsTable = Mapping[str, "Setting"]
KINDS = ("int", "float", "length", "axes", "bool", "str", "ints", "floats", "words")


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        kind: `int`, `float`, `bool` or `str`; `ints`, `floats` or `words` for a list; `length` for a number of mm that
            may be given in voxels instead; `axes` for one number, or three along `i, j, k`.
        meaning: One line. `text` adds the unit.
        choices: The allowed words, or a function that returns them; empty allows any text.
        default: The value of a setting that is not given. None means that the table has no defaults of its own.
        low, high: The smallest and the largest number allowed.
        above: Whether the number must be greater than `low`.
        endless: Whether infinity is allowed.
        length: Number of entries of a list; None for any.
        may_be_empty: Whether a list of fixed length may be empty instead.
        ascending: Whether no entry of a list may be smaller than the one before it.
        unit: Such as `mm`.
        only_with: The setting has an effect only while these other settings have one of these values.
    """

    kind: str
    meaning: str
    choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    default: Value = None
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    endless: bool = False
    length: int | None = None
    may_be_empty: bool = False
    ascending: bool = False
    unit: str = ""
    only_with: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of setting", self.kind, KINDS)

    @property
    def words(self) -> tuple[str, ...]:
        """The allowed words."""
        return tuple(self.choices()) if callable(self.choices) else self.choices

    @property
    def text(self) -> str:
        """The meaning and the unit."""
        return f"{self.meaning}, {self.unit}" if self.unit else self.meaning


def check_value(name: str, setting: Setting, value: Value) -> Value:
    """Check a value and return it as the kind that the setting declares.

    NumPy values become plain Python values. A single value is accepted for a list.

    Raises:
        SettingError: The value is not allowed; the message lists what is allowed.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if setting.kind == "bool":
        if not isinstance(value, bool):
            raise SettingError(f"{name} must be true or false, got {reprlib.repr(value)}")
        return value
    if setting.kind == "str":
        return _check_word(name, setting, value)
    if setting.kind in ("int", "float", "length"):
        return _check_number(name, setting, "int" if setting.kind == "int" else "float", value)
    entries = list(value) if isinstance(value, list | tuple) else [value]
    if setting.kind == "words":
        return [_check_word(name, setting, entry) for entry in entries]
    if setting.kind == "axes":
        return _check_axes(name, setting, entries)
    return _check_list(name, setting, entries)


def check_settings(table: SettingsTable, given: Mapping[str, Value], owner: str) -> dict[str, Value]:
    """Check the given settings against a table.

    Args:
        table: The declarations.
        given: Values by name.
        owner: Whose settings these are, for messages, such as `the encoding ball`.

    Returns:
        The given settings, each as the kind that it declares.

    Raises:
        SettingError: A name that the table does not have, or a value that is not allowed.
    """
    checked = {}
    for name, value in given.items():
        if name not in table:
            raise unknown_setting(owner, name, {"": table})
        checked[name] = check_value(name, table[name], value)
    return checked


def fill_settings(table: SettingsTable, given: Mapping[str, Value], owner: str) -> dict[str, Value]:
    """All settings of a table: the given ones, checked, and the defaults of the others, in the table's order.

    Raises:
        SettingError: As `check_settings`.
    """
    checked = check_settings(table, given, owner)
    # defaults are copied, so that a caller who changes a list does not change the declaration
    return {name: checked[name] if name in checked else deepcopy(setting.default) for name, setting in table.items()}


def unknown_setting(owner: str, name: str, tables: Mapping[str, Iterable[str]]) -> SettingError:
    """A `SettingError` for an unknown name, with the nearest name and the settings of every table.

    Args:
        owner: Whose settings these are.
        name: The unknown name.
        tables: The names that exist, by table; if there is only one table, its name may be empty.

    >>> str(unknown_setting("my.toml", "n_round", {"scribbles": ["strategy"], "rounds": ["n_rounds"]}))
    "unknown setting 'n_round' of my.toml; did you mean 'n_rounds'? Allowed: [scribbles] strategy; [rounds] n_rounds"
    """
    near = get_close_matches(name, [known for names in tables.values() for known in names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = [f"[{table}] {', '.join(names)}" if table else ", ".join(names) for table, names in tables.items()]
    return SettingError(f"unknown setting {name!r} of {owner}{hint} Allowed: {'; '.join(listed) or 'none'}")


def conditions_of(table: SettingsTable, name: str, settings: Iterable[str]) -> dict[str, list[str]]:
    """The conditions under which a setting has an effect: other settings, each with its values in words.

    Args:
        table: The declarations.
        name: The setting.
        settings: The names of the settings that are in use; conditions on others do not count.
    """
    used = set(settings)
    return {other: list(map(_as_word, values)) for other, values in table[name].only_with.items() if other in used}


def idle_settings(table: SettingsTable, settings: Mapping[str, Value], given: Iterable[str]) -> list[str]:
    """Sentences about given settings that have no effect together with the others.

    Args:
        table: The declarations.
        settings: All settings in use.
        given: The names of those that the user gave.
    """
    idle = []
    for name in given:
        for other, words in _all_conditions(table, name, settings):
            found = _as_word(settings[other])
            if found not in words:
                idle.append(f"{name} has no effect unless {other} is {' or '.join(words)}; it is {found}")
                break
    return idle


def describe_settings(table: SettingsTable, values: Mapping[str, Value]) -> list[str]:
    """One line for each of some settings: name, value, meaning, choices, and when it has an effect."""
    lines = []
    for name, value in values.items():
        setting = table[name]
        choices = f" ({', '.join(setting.words)})" if setting.words else ""
        conditions = conditions_of(table, name, values).items()
        places = " and ".join(f"{other} is {' or '.join(words)}" for other, words in conditions)
        effect = f"; only where {places}" if places else ""
        lines.append(f"{f'{name} = {_as_toml(value)}':32}  {setting.text}{choices}{effect}")
    return lines


def parse_value(text: str) -> Value:
    """Read a value as written on a command line: a TOML value, several separated by commas, or a bare word.

    >>> parse_value("3"), parse_value("2.5"), parse_value("true"), parse_value("rim"), parse_value("[1, 2]")
    (3, 2.5, True, 'rim', [1, 2])
    >>> parse_value("5,20")
    [5, 20]
    """
    import tomllib

    for form in (text, f"[{text}]") if "," in text else (text,):
        try:
            found = tomllib.loads(f"value = {form}")
        except (ValueError, RecursionError):  # not TOML; a number of thousands of digits; brackets without end
            continue
        if len(found) == 1:  # a line break in the text could add more
            return found["value"]
    return text


def dump_table(name: str, values: Mapping[str, Value]) -> str:
    """Write a TOML table of plain values, lists and tables; an empty name gives no heading.

    >>> print(dump_table("a", {"b": 1, "c": {"d": [2.5, "x"]}}))
    [a]
    b = 1
    <BLANKLINE>
    [a.c]
    d = [2.5, "x"]
    <BLANKLINE>
    """
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    heading = [f"[{name}]"] if name else []
    text = "\n".join([*heading, *(f"{key} = {_as_toml(value)}" for key, value in plain.items()), ""])
    nested = [(key, value) for key, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([text, *(dump_table(f"{name}.{key}" if name else key, value) for key, value in nested)])


def _all_conditions(table: SettingsTable, name: str, settings: Mapping[str, Value]) -> Iterator[tuple[str, list[str]]]:
    """The conditions of a setting, then those of the settings in them, which must have an effect too."""
    conditions = conditions_of(table, name, settings)
    yield from conditions.items()
    for other in conditions:
        yield from _all_conditions(table, other, settings)


def _as_word(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else _as_toml(value)


def _as_toml(value: Value) -> str:
    """Write as JSON, which equals TOML except for numbers that are not finite and two kinds of character."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan
    # TOML has no surrogate pairs, and no bare delete
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_word(name: str, setting: Setting, value: Value) -> str:
    words = setting.words
    if not isinstance(value, str):
        allowed = f"one of {', '.join(words)}" if words else "a text"
        raise SettingError(f"{name} must be {allowed}, got {reprlib.repr(value)}")
    if words and value not in words:
        raise unknown_name(name, value, words)
    return value


def _check_axes(name: str, setting: Setting, entries: list[Value]) -> float | tuple[float, float, float]:
    if len(entries) == 1:
        return float(_check_number(name, setting, "float", entries[0]))
    if len(entries) != 3:
        raise SettingError(f"{name} takes one number or three along i, j, k, got {reprlib.repr(entries)}")
    a, b, c = (float(_check_number(name, setting, "float", entry)) for entry in entries)
    if min(a, b, c) <= 0:
        raise SettingError(f"the three numbers of {name} must be above 0, got {(a, b, c)}")
    return (a, b, c)


def _check_list(name: str, setting: Setting, entries: list[Value]) -> list[float | int]:
    if setting.length is not None and len(entries) != setting.length and (entries or not setting.may_be_empty):
        example = f", such as {name}={_example(setting.default)}" if setting.default else ""
        raise SettingError(
            f"{name} takes {setting.length} numbers{example}; got {len(entries)}: {reprlib.repr(entries)}"
        )
    numbers = [_check_number(name, setting, setting.kind[:-1], entry) for entry in entries]
    if setting.ascending and numbers != sorted(numbers):
        raise SettingError(f"{name} must be in ascending order, got {reprlib.repr(numbers)}")
    return numbers


def _check_number(name: str, setting: Setting, kind: str, value: Value) -> float | int:
    whole = kind == "int"
    good = isinstance(value, int | float) and not isinstance(value, bool)
    endless = good and setting.endless and value == math.inf
    if good and not endless and value in (math.inf, -math.inf):
        raise SettingError(f"{name} must be a finite number, got {value}")
    good = good and (endless or abs(value) <= sys.float_info.max)
    if not good or (whole and value != int(value)):
        raise SettingError(f"{name} must be a {'whole ' if whole else ''}number, got {reprlib.repr(value)}")
    low_enough = value > setting.low if setting.above else value >= setting.low
    if not endless and not (low_enough and value <= setting.high):
        raise SettingError(f"{name} must be {_span(setting)}, got {reprlib.repr(value)}")
    return int(value) if whole else float(value)


def _span(setting: Setting) -> str:
    parts = [] if setting.low == -math.inf else [f"{'above' if setting.above else 'at least'} {setting.low:g}"]
    parts += [] if setting.high == math.inf else [f"at most {setting.high:g}"]
    return " and ".join(parts)


def _example(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)

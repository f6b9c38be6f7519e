"""Every setting of every rule, declared once: kind, unit, range, meaning, and when it has an effect."""

import json
import math
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clicksim.errors import SettingError, unknown_name

Value = Any  # bool, int, float, str or a list of numbers, as in TOML


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        kind: `int`, `float`, `bool`, `str`, `ints`, `floats` or `words`.
        meaning: One line, with the unit.
        choices: Allowed words.
        low, high: Smallest and largest number allowed.
        length: Number of entries of a list; None for any.
        ascending: Whether no entry of a list may be smaller than the one before.
        only_with: Other settings, each with the values of it with which this one has an effect.
    """

    kind: str
    meaning: str
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    length: int | None = None
    ascending: bool = False
    only_with: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


STRATEGIES = ("deepest", "depth-weighted", "uniform", "rim")
BACKGROUNDS = ("hot", "threshold", "shell", "body", "organ", "others")
IN_COMPONENTS = ("hot", "threshold", "organ", "others")
BY_BUDGET = ("uniform", "volume", "uptake")  # choices of lesions that are not all of them, once each

CLICKS = {
    "rule": Setting("str", "the algorithm; part of the protocol", ("published", "revised")),
    "n_foreground": Setting(
        "int", "foreground clicks in one image", low=0, high=100_000,
        only_with={"lesions": BY_BUDGET, "per_lesion": (False,)},
    ),
    "n_background": Setting(
        "int", "background clicks in one image", low=0, high=100_000, only_with={"per_lesion": (False,)}
    ),
    "per_lesion": Setting("bool", "one centre click for each stored id, ascending, whatever the budget"),
    "lesions": Setting(
        "str",
        "which lesions are clicked: drawn uniformly, the largest (volume) or hottest (uptake) first, or all of "
        "them, once each, whatever the budget",
        ("uniform", "volume", "uptake", "all"),
    ),
    "min_lesion_ml": Setting("float", "smaller lesions are not clicked, ml", low=0),
    "target": Setting("int", "id of the one lesion to click; 0 for any", low=0),
    "strategy": Setting("str", "where the first click in a component falls", STRATEGIES),
    "fill": Setting(
        "str", "where further clicks in a component fall; none for no further", (*STRATEGIES, "none"),
        only_with={"lesions": BY_BUDGET},
    ),
    "jitter_mm": Setting("float", "radius of the ball in which a click is displaced, mm", low=0),
    "jitter_attempts": Setting("int", "draws before a click stays where it is", low=1, high=1000),
    "background": Setting(
        "str",
        "background clicks: components of hot uptake, of uptake at or above a threshold, a shell around lesions, "
        "anywhere in the body, an organ, or the lesions other than the target",
        BACKGROUNDS,
    ),
    "background_strategy": Setting(
        "str", "where the first background click in a component falls", STRATEGIES,
        only_with={"background": IN_COMPONENTS},
    ),
    "background_fill": Setting(
        "str", "where further background clicks in a component fall", (*STRATEGIES, "none"),
        only_with={"background": IN_COMPONENTS},
    ),
    "percentile": Setting(
        "float", "hot lies above this percentile of the uptake outside lesions", low=0, high=100,
        only_with={"background": ("hot",), "suv": (0,), "per_lesion": (False,)},
    ),
    "suv": Setting(
        "float", "hot lies above this uptake, threshold at or above it; 0 for the percentile, or for the threshold "
        "that the catalog knows of the case", low=0, only_with={"background": ("hot", "threshold")},
    ),
    "margin_mm": Setting(
        "float", "distance that background clicks keep to lesions, mm", low=0, high=1000,
        only_with={"background": ("hot", "threshold", "shell", "body", "organ")},
    ),
    "shell_mm": Setting(
        "floats", "nearest and farthest distance of the shell from the lesions, mm", low=0, high=1000, length=2,
        ascending=True, only_with={"background": ("shell",)},
    ),
    "organ": Setting(
        "ints", "labels of the organ mask to click in; empty for any", low=1, only_with={"background": ("organ",)}
    ),
    "body_suv": Setting("float", "the body lies above this uptake", only_with={"background": ("body",)}),
    "center_offset": Setting(
        "int", "largest displacement of centre clicks along each axis, voxels", low=0, high=1000,
        only_with={"per_lesion": (False,)},
    ),
    "edge_offset": Setting(
        "int", "largest displacement of edge clicks along each axis, voxels", low=0, high=1000,
        only_with={"per_lesion": (False,)},
    ),
}  # fmt: skip

SCRIBBLES = {
    "rule": Setting("str", "the algorithm; part of the protocol", ("published", "revised")),
    "strategy": Setting(
        "str", "how a stroke is drawn in a slice", ("centerline", "random", "boundary"),
        only_with={"kind": ("scribble",)},
    ),
    "n_components": Setting("int", "components of a label that are scribbled, of each polarity", low=0, high=100_000),
    "axis": Setting(
        "int", "stored axis across which slices lie, from 0", low=0, high=2, only_with={"kind": ("scribble",)}
    ),
    "background": Setting(
        "str", "background strokes from a label: in a shell around lesions, or none", ("shell", "none")
    ),
    "shell_mm": Setting(
        "floats", "nearest and farthest distance of the shell from the lesions, mm", low=0, high=1000, length=2,
        ascending=True, only_with={"background": ("shell",)},
    ),
    "trim": Setting(
        "float", "share of a centre line that is cut off at each end", low=0, high=0.49,
        only_with={"strategy": ("centerline",)},
    ),
    "walk": Setting(
        "float", "share of the rim that a boundary stroke follows", low=0.01, high=1,
        only_with={"strategy": ("boundary",)},
    ),
    "thickness_mm": Setting(
        "float", "width of a stroke, mm; 0 for one voxel", low=0, high=100, only_with={"kind": ("scribble",)}
    ),
    "tremor_mm": Setting(
        "float", "standard deviation of the sideways tremor, mm", low=0, high=100, only_with={"kind": ("scribble",)}
    ),
    "kind": Setting("str", "what a correction is made of", ("scribble", "click")),
    "n_prompts": Setting("int", "prompts in one round of corrections", low=1, high=1000),
    "choose": Setting(
        "str",
        "which errors are corrected: the largest region, the deepest, or one drawn by its size; or, for clicks, all "
        "errors of a class as a whole: of the class with more of them, of the one that is deeper, or of each",
        ("size", "depth", "random", "larger-class", "deeper-class", "each-class"),
    ),
    "place": Setting(
        "str",
        "where a click falls among the errors: on the deepest voxel, or drawn uniformly, by the depth d, or by "
        "exp(d) - 1",
        ("deepest", "uniform", "depth-weighted", "depth-exponential"), only_with={"kind": ("click",)},
    ),
    "depth_in": Setting(
        "str", "how the depth of a click is measured: in mm, in voxels, or in voxels as a chessboard counts them",
        ("mm", "voxels", "chessboard"), only_with={"kind": ("click",)},
    ),
    "errors": Setting(
        "words", "kinds of error that are corrected; empty for all", ("missed", "under", "false", "over", "merged")
    ),
}  # fmt: skip

SCORE = {
    "rule": Setting("str", "the algorithm; part of the protocol", ("autopet-iv", "autopet-v", "revised")),
    "connectivity": Setting("int", "of components: 6, 18 or 26", low=6, high=26),
    "iou": Setting("float", "IoU from which a lesion counts as found", low=0, high=1),
    "empty_truth": Setting(
        "str", "scores of a case without lesions: undefined, or 1 where nothing is predicted and else 0",
        ("undefined", "one-or-zero"),
    ),
}  # fmt: skip

ROUNDS = {
    "rule": Setting("str", "the algorithm; part of the protocol", ("published", "revised")),
    "prompts": Setting(
        "str",
        "where prompts come from: clicks simulated before the first round and shown one by one, or corrections of the "
        "previous prediction",
        ("clicks", "corrections"),
    ),
    "n_rounds": Setting("int", "predictions of a case; the first one is without prompts", low=1, high=1000),
    "strategies": Setting(
        "words", "strategies shared out over the cases by the seed, one for each; empty for the one of [scribbles]",
        ("centerline", "random", "boundary"), only_with={"prompts": ("corrections",)},
    ),
}  # fmt: skip

TABLES: dict[str, dict[str, Setting]] = {"clicks": CLICKS, "scribbles": SCRIBBLES, "score": SCORE, "rounds": ROUNDS}


def check_setting(table: str, name: str, value: Value) -> Value:
    """The value in its declared kind, or a `SettingError` that says what is allowed; NumPy values become plain."""
    setting = TABLES[table][name]
    value = value.tolist() if hasattr(value, "tolist") else value
    if setting.kind == "words":
        words = value if isinstance(value, list | tuple) else [value]
        for word in words:
            if word not in setting.choices:
                raise unknown_name(name, str(word), setting.choices)
        return list(words)
    if setting.kind in ("ints", "floats"):
        return _check_list(name, setting, list(value) if isinstance(value, list | tuple) else [value])
    if setting.kind in ("int", "float"):
        return _check_number(name, setting, setting.kind, value)
    if setting.kind == "bool":
        if not isinstance(value, bool):
            raise SettingError(f"{name} must be true or false, got {value!r}")
        return value
    if not isinstance(value, str):
        raise SettingError(f"{name} must be one of {', '.join(setting.choices)}, got {value!r}")
    if value not in setting.choices:
        raise unknown_name(name, value, setting.choices)
    return value


def conditions_of(table: str, name: str, settings: Mapping[str, Value]) -> dict[str, list[str]]:
    """The other settings of a rule, and the values of them in words, with which one of its settings has an effect."""
    conditions = TABLES[table][name].only_with
    return {other: list(map(_as_word, values)) for other, values in conditions.items() if other in settings}


def idle_settings(table: str, settings: Mapping[str, Value], given: Mapping[str, Value]) -> list[str]:
    """Sentences about settings that were given but have no effect beside the others."""
    idle = []
    for name in given:
        for other, words in _all_conditions(table, name, settings):
            found = _as_word(settings[other])
            if found not in words:
                idle.append(f"{name} has no effect unless {other} is {' or '.join(words)}; it is {found}")
                break
    return idle


def _all_conditions(table: str, name: str, settings: Mapping[str, Value]) -> Iterator[tuple[str, list[str]]]:
    """Those of a setting, then those of the settings in them: what has no effect itself gives none to others."""
    conditions = conditions_of(table, name, settings)
    yield from conditions.items()
    for other in conditions:
        yield from _all_conditions(table, other, settings)


def _as_word(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else _as_toml(value)


def parse_value(text: str) -> Value:
    """A value as written on a command line: a TOML value, several with commas between them, or a bare word.

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
        if len(found) == 1:  # a line break in the text could bring more
            return found["value"]
    return text


def dump_table(name: str, values: Mapping[str, Value]) -> str:
    """A TOML table, without a heading where the name is empty; plain values and lists of them."""
    heading = [f"[{name}]"] if name else []
    return "\n".join([*heading, *(f"{key} = {_as_toml(value)}" for key, value in values.items()), ""])


def _as_toml(value: Value) -> str:
    """JSON writes a value as TOML does, but for what is no finite number and for two kinds of character."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan
    # TOML has no halves of a character beyond 16 bits, and no bare delete
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_list(name: str, setting: Setting, entries: list[Value]) -> list[float | int]:
    if setting.length is not None and len(entries) != setting.length:
        raise SettingError(f"{name} takes {setting.length} numbers, got {len(entries)}: {reprlib.repr(entries)}")
    numbers = [_check_number(name, setting, setting.kind[:-1], entry) for entry in entries]
    if setting.ascending and numbers != sorted(numbers):
        raise SettingError(f"{name} must not descend, got {reprlib.repr(numbers)}")
    return numbers


def _check_number(name: str, setting: Setting, kind: str, value: Value) -> float | int:
    whole = kind == "int"
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not good or (whole and value != int(value)):
        raise SettingError(f"{name} must be a {'whole ' if whole else ''}number, got {reprlib.repr(value)}")
    if not setting.low <= value <= setting.high:
        span = f"at least {setting.low:g}" + (f" and at most {setting.high:g}" if setting.high < math.inf else "")
        raise SettingError(f"{name} must be {span}, got {value}")
    return int(value) if whole else float(value)

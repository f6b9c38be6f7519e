"""Predictors by name: `KIND:ARGUMENT`, with options as `?name=value&...` if the kind has any.

A kind is an entry point of the group `clicksim.predictors` that names a `PredictorKind`. clicksim has `py`, `cmd`,
`dir` and `builtin`; any installed package can add kinds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from clicksim.errors import SettingError, unknown_name
from clicksim.extensions import ExtensionRegistry
from clicksim.predictors.interface import Predictor

TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class PredictorSpec:
    """A predictor that is not open yet. It is plain data: a worker receives it and opens a session of its own.

    Attributes:
        kind: The name of its kind.
        argument: What the kind needs, such as a path.
        options: Names and values, sorted by name.
    """

    kind: str
    argument: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """The text that `parse_spec` reads."""
        listed = "&".join(f"{name}={quote(_option_text(value), safe='/:,')}" for name, value in self.options)
        return f"{self.kind}:{self.argument}{'?' if listed else ''}{listed}"

    @property
    def title(self) -> str:
        """What a person calls the predictor."""
        return PREDICTOR_KINDS.find(self.kind).title(self)

    def absolute(self) -> "PredictorSpec":
        """The same for a process that was started in another folder."""
        kind = PREDICTOR_KINDS.find(self.kind)
        return replace(self, argument=str(Path(self.argument).absolute())) if kind.is_path else self

    def check(self) -> None:
        """Reject a predictor that cannot be opened.

        Raises:
            ClicksimError: The reason.
        """
        PREDICTOR_KINDS.find(self.kind).check(self)

    def inputs(self, case_id: str, rounds: int) -> tuple[Path, ...]:
        """The files that the predictions of a case depend on; a changed one makes finished work invalid."""
        return PREDICTOR_KINDS.find(self.kind).inputs(self, case_id, rounds)


def _no_check(_spec: PredictorSpec) -> None:
    """Check nothing before the predictor is opened."""


def _no_inputs(_spec: PredictorSpec, _case_id: str, _rounds: int) -> tuple[Path, ...]:
    return ()


@dataclass(frozen=True)
class PredictorKind:
    """A kind of predictor.

    Attributes:
        usage: The SPEC, such as `dir:PATH`.
        summary: One line for help texts.
        open: Opens a session: takes the SPEC and the time limit for one round, in seconds.
        options: The type of each option (`str`, `bool`, `int` or `float`) by name; None accepts any name, and reads
            the value as TOML.
        title: What a person calls the predictor.
        check: Rejects a predictor that cannot be opened, before the work begins and without opening it.
        inputs: See `PredictorSpec.inputs`.
        is_path: Whether the argument is the path of a file or folder.
    """

    usage: str
    summary: str
    open: Callable[[PredictorSpec, float], Predictor]
    options: Mapping[str, type] | None = field(default_factory=dict)
    title: Callable[[PredictorSpec], str] = str
    check: Callable[[PredictorSpec], None] = _no_check
    inputs: Callable[[PredictorSpec, str, int], tuple[Path, ...]] = _no_inputs
    is_path: bool = False


def open_predictor(spec: str | PredictorSpec, *, time_limit_s: float = TIME_LIMIT_S) -> Predictor:
    """Open a predictor.

    Args:
        spec: The SPEC as text, such as `builtin:threshold?suv=4`, or parsed.
        time_limit_s: Limit for one round, for a predictor that enforces it by its own means.

    Raises:
        SettingError: The kind or an option is unknown, or the predictor cannot be opened.

    Examples:
        >>> open_predictor("builtin:threshold?suv=4")
        ThresholdPredictor(suv=4.0, share=0.41, reach_mm=30.0)
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    return PREDICTOR_KINDS.find(parsed.kind).open(parsed, time_limit_s)


def parse_spec(text: str) -> PredictorSpec:
    """Parse a SPEC. In the value of an option, `%26` is an ampersand, as in a URL.

    Raises:
        SettingError: The kind is unknown, the argument is empty, or an option is unknown, has no value, or has one of
            the wrong type.

    Examples:
        >>> parse_spec("builtin:threshold?suv=4&reach_mm=20")
        PredictorSpec(kind='builtin', argument='threshold', options=(('reach_mm', 20.0), ('suv', 4.0)))
    """
    name, colon, rest = text.partition(":")
    if not colon:
        raise SettingError(
            f"{text!r} is not a predictor; write KIND:ARGUMENT. Kinds: {', '.join(PREDICTOR_KINDS.names)}"
        )
    kind = PREDICTOR_KINDS.find(name)
    argument, listed = rest, ""
    if kind.options is None or kind.options:  # a shell command may have a question mark of its own
        before, mark, after = rest.rpartition("?")
        if mark and "=" in after:
            argument, listed = before, after
    if not argument:
        raise SettingError(f"{text!r} names no predictor; write {kind.usage}")
    return PredictorSpec(name, argument, tuple(sorted(_parse_options(kind, listed, text).items())))


def _check_kind(_name: str, found: Any) -> PredictorKind:
    if not isinstance(found, PredictorKind):
        raise TypeError(f"it is {type(found).__name__}, not a PredictorKind")
    return found


PREDICTOR_KINDS = ExtensionRegistry("clicksim.predictors", "kind of predictor", _check_kind)


def _parse_options(kind: PredictorKind, listed: str, text: str) -> dict[str, Any]:
    """Return the options of a SPEC, each with a value of its type."""
    found: dict[str, Any] = {}
    for pair in listed.split("&") if listed else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SettingError(f"{pair!r} in {text!r} is not name=value")
        if name in found:
            raise SettingError(f"option {name} occurs twice in {text!r}")
        if kind.options is not None and name not in kind.options:
            raise unknown_name(f"option of {kind.usage}", name, kind.options)
        found[name] = _parse_option(name, unquote(value), None if kind.options is None else kind.options[name])
    return found


def _parse_option(name: str, value: str, wanted: type | None) -> Any:
    from clicksim.settings import parse_value

    if wanted is str:
        return value
    found = parse_value(value)
    if wanted is float and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    if wanted is not None and type(found) is not wanted:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise SettingError(f"option {name} of a predictor takes {words[wanted]}, got {value!r}")
    return tuple(found) if isinstance(found, list) else found


def _option_text(value: Any) -> str:
    """Write the value of an option as `parse_spec` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_option_text(entry) for entry in value)}]"
    return str(value)

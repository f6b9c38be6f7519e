"""Argument checks of all public simulators: settings without effect, and inputs that a rule needs."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid, Spacing
from clicksim.protocols import Protocol, ProtocolName, effective_settings, load_protocol


def open_rule(
    protocol: ProtocolName, table: str, given: Mapping[str, Any], *, elsewhere: Sequence[str] = (), work: str = ""
) -> tuple[Protocol, dict[str, Any]]:
    """Load a protocol and override its settings; a setting without effect warns at the caller of the simulator.

    Args:
        protocol: Name and version.
        table: Such as `clicks`.
        given: The user's settings.
        elsewhere: Settings of the table that only apply to other tasks.
        work: This task, in words.

    Raises:
        SettingError: If the protocol or a setting is unknown, or a value is not allowed.
    """
    rule = load_protocol(protocol)
    settings, idle = effective_settings(rule, table, given)
    for sentence in [*idle, *(f"{name} has no effect on {work}" for name in given if name in elsewhere)]:
        warnings.warn(sentence, UserWarning, stacklevel=3)
    return rule, settings


def refuse_instances(rule: Protocol, instances: str) -> None:
    """Raise a `SettingError` if `instances` is set for a published rule, which has its own rule for them."""
    if instances != "auto":
        raise SettingError(f"{rule.id} has its own rule for instances; leave instances at auto, got {instances!r}")


def spacing_of(grid: Grid, who: str) -> Spacing:
    """The voxel size; if there is none, raise a `GeometryError` that says who needs it."""
    if grid.spacing is None:
        raise GeometryError(f"{who} measures in mm and needs the voxel size: give spacing=(i, j, k) in mm")
    return grid.spacing

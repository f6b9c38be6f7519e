"""What all public simulators do with their arguments first: settings that warn, and what a rule must be given."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid, Spacing
from clicksim.protocols import Protocol, ProtocolName, effective_settings, load_protocol


def open_rule(
    protocol: ProtocolName, table: str, given: Mapping[str, Any], *, elsewhere: Sequence[str] = (), work: str = ""
) -> tuple[Protocol, dict[str, Any]]:
    """A protocol, and its settings with the given ones on top; one without effect warns where the simulator was called.

    Args:
        protocol: Name and version.
        table: Such as `clicks`.
        given: The user's settings.
        elsewhere: Settings that the table has for other work alone.
        work: This work, in words.

    Raises:
        SettingError: An unknown protocol or setting, or a value that is not allowed.
    """
    rule = load_protocol(protocol)
    settings, idle = effective_settings(rule, table, given)
    for sentence in [*idle, *(f"{name} has no effect on {work}" for name in given if name in elsewhere)]:
        warnings.warn(sentence, UserWarning, stacklevel=3)
    return rule, settings


def refuse_instances(rule: Protocol, instances: str) -> None:
    """Raise a `SettingError` unless a published rule is left its own way from values to lesions."""
    if instances != "auto":
        raise SettingError(f"{rule.id} has its own rule for instances; leave instances at auto, got {instances!r}")


def spacing_of(grid: Grid, who: str) -> Spacing:
    """The voxel size, or a `GeometryError` that says who needs it."""
    if grid.spacing is None:
        raise GeometryError(f"{who} measures in mm and needs the voxel size: give spacing=(i, j, k) in mm")
    return grid.spacing

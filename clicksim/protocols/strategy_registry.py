"""The registered strategies for placing clicks and drawing strokes.

A strategy is a function, named in the entry-point group `clicksim.strategies` as `clicks.<name>` or
`scribbles.<name>`. The name becomes a choice for the settings of that table; the function is imported on use.
`clicksim.simulate.clicks.click_strategies` and `clicksim.simulate.scribbles.stroke_strategies` describe its arguments
and its result.
"""

from collections.abc import Callable
from typing import Any

from clicksim.extensions import ExtensionRegistry

GROUP = "clicksim.strategies"


def _check_function(name: str, found: Any) -> Callable[..., Any]:  # noqa: ARG001 - every registry passes the name
    if not callable(found):
        raise TypeError(f"a strategy is a function, got {type(found).__name__}")
    if not (getattr(found, "__doc__", "") or "").strip():
        raise TypeError("a strategy needs a docstring that says where its prompts fall")
    return found


CLICK_STRATEGIES = ExtensionRegistry(GROUP, "strategy", _check_function, "clicks")
STROKE_STRATEGIES = ExtensionRegistry(GROUP, "strategy", _check_function, "scribbles")

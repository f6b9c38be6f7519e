"""`py:module:function`: any Python callable, or a class that makes one.

The folder in which the command was started is searched too. Options become keyword arguments of the class or function.
"""

import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from clicksim.errors import ClicksimError, SettingError, StorageError
from clicksim.predictors.asking import shorten_error
from clicksim.predictors.interface import Predictor
from clicksim.predictors.spec import PredictorKind, PredictorSpec

PLAIN = ("predict", "predictor", "Predictor", "model", "Model", "main")
"""Names that say nothing about a predictor."""


def open_callable(spec: PredictorSpec, _time_limit_s: float) -> Predictor:
    """Import the callable that a SPEC names; call a class with the options.

    Raises:
        SettingError: The name has no module or no attribute, cannot be imported, or is not callable.
    """
    module, colon, attribute = spec.argument.partition(":")
    if not colon or not module or not attribute:
        raise SettingError(f"{spec} must be py:module:function, such as py:mymodel:predict")
    here = str(Path.cwd())
    if here not in sys.path and os.path.isdir(here):  # noqa: PTH112 - an entry of the path is text
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, type):
            found = found(**dict(spec.options))
        elif spec.options:
            found = partial(found, **dict(spec.options))
    except (ClicksimError, StorageError):
        raise
    except (Exception, SystemExit) as error:  # the user's code may do anything when it is imported
        told = shorten_error(f"{type(error).__name__}: {error}")
        raise SettingError(f"predictor {spec} cannot be imported or created: {told}") from error
    if not callable(found):
        raise SettingError(f"predictor {spec} is {type(found).__name__}, which cannot be called")
    return found


def _check(spec: PredictorSpec) -> None:
    open_callable(spec, 0)


def _title(spec: PredictorSpec) -> str:
    """Return the name of the function, or of its module if the function has a general name."""
    module, _, attribute = spec.argument.partition(":")
    last = attribute.rpartition(".")[2]
    return module.rpartition(".")[2] if last in PLAIN else last


KIND = PredictorKind(
    usage="py:module:function",
    summary="a Python callable, or a class that makes one; options are its keyword arguments",
    open=open_callable,
    options=None,
    title=_title,
    check=_check,
)

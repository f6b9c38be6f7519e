"""A model by its name, for `clicksim.rounds` in other processes.

A predictor reaches a worker as the name of a Python object, which can carry no arguments. So the model and how it is
asked stand in an environment variable, and `predict_named` opens what it finds there.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clickseg.predict import Options, RoundsPredictor, open_session
from clicksim.errors import SettingError
from clicksim.prompts import Prompts

VARIABLE = "CLICKSEG_PREDICTOR"
SPEC = "py:clickseg.named_model:predict_named"


def name_of(model: Path, options: Options) -> str:
    """A model and how it is asked, as `predict_named` takes it."""
    return json.dumps({"model": str(model.resolve()), **asdict(options)})


@contextmanager
def named_model(name: str) -> Iterator[None]:
    """Name a model to `predict_named` in this process, for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


class NamedPredictor:
    """The model that the environment names, opened when it is first asked, and again when another is named."""

    def __init__(self) -> None:
        self._text = ""
        self._inner: RoundsPredictor | None = None

    def __call__(self, case: Any, prompts: Prompts) -> Any:
        """The mask."""
        text = os.environ.get(VARIABLE, "")
        if not text:
            raise SettingError(f"no model is named: set {VARIABLE} to JSON with model, or run clickseg evaluate")
        if self._inner is None or text != self._text:
            named = json.loads(text)
            session, _ = open_session(named.pop("model"), Options(**named))
            self._text, self._inner = text, RoundsPredictor(session)
        return self._inner(case, prompts)

    def finish(self) -> None:
        """Forget the case."""
        if self._inner is not None:
            self._inner.finish()


predict_named = NamedPredictor()

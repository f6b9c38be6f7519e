"""Work on the images of one case that several runs share: done once, as long as a block lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_results: ContextVar[dict[Any, Any] | None] = ContextVar("results", default=None)


@contextmanager
def reusing_results() -> Iterator[None]:
    """Within this block, functions marked `reusable` return the same result for the same arguments.

    Meant for one case: all arguments and results are kept until the block ends. Nobody may change the arrays meanwhile.
    """
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def reusable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a function whose result depends on its arguments alone, and is not changed by its callers.

    Outside `reusing_results` the function is called as it is. Arrays are the same argument where they are the same
    memory; other objects that cannot be hashed where they are the same object.
    """

    @wraps(function)
    def calling(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        results = _results.get()
        if results is None:
            return function(*args, **kwargs)
        named = tuple((name, _key(value)) for name, value in sorted(kwargs.items()))
        key = (function, tuple(map(_key, args)), named)
        if key not in results:
            results[key] = (function(*args, **kwargs), args, kwargs)  # kept, so that no other object takes their place
        found: Result = results[key][0]
        return found

    return calling


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value.ctypes.data, value.shape, value.strides, value.dtype.str)
    try:
        hash(value)
    except TypeError:
        return ("object", id(value))
    return (type(value), value)

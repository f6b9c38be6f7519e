"""Reuse results on the images of one case across several runs, within a `with` block."""

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

    Use it for one case: all arguments and results are kept until the block ends. Do not change the arrays inside it.
    """
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def reusable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a function whose result depends only on its arguments, and whose callers do not change the result.

    Outside `reusing_results` the function is called as usual. Arrays are the same argument if they share the same
    memory. Other unhashable objects are the same argument if they are the same object.
    """

    @wraps(function)
    def calling(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        results = _results.get()
        if results is None:
            return function(*args, **kwargs)
        named = tuple((name, _key(value)) for name, value in sorted(kwargs.items()))
        key = (function, tuple(map(_key, args)), named)
        if key not in results:
            results[key] = (function(*args, **kwargs), args, kwargs)  # kept, so that their ids are not reused
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

"""The decorator of all kernels. Importing it compiles nothing, so it does not affect any cache."""

from collections.abc import Callable
from typing import Any

from numba import njit

Compiled = Callable[..., Any]


def kernel(function: Compiled) -> Compiled:
    """Compile on first use and cache on disk; do not cache if no folder is writable.

    Numba raises at import time if neither the package's folder nor the user's cache folder is writable, for example
    in a read-only container. Compiling again in each process is slower than a cache but better than a crash.
    """
    try:
        compiled: Compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:
        compiled = njit(nogil=True)(function)
    return compiled

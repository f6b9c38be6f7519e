"""The decorator of all kernels. It compiles nothing itself, so that its import does not spoil any cache."""

from collections.abc import Callable
from typing import Any

from numba import njit

Compiled = Callable[..., Any]


def kernel(function: Compiled) -> Compiled:
    """Compile on first use, cached on disk; without a cache where no folder can be written.

    Numba raises at import time when neither the package's folder nor the user's cache folder is writable, as
    in a read-only container; compiling again in each process is slower than a cache and better than a crash.
    """
    try:
        compiled: Compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:
        compiled = njit(nogil=True)(function)
    return compiled

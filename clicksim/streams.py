"""Random streams that depend only on seed, case and purpose.

Each draw comes from a counter-based generator (Philox 4x64, Salmon et al., SC 2011) whose key is a hash of
seed, case and purpose. There is no global state: workers, threads, order and other cases have no effect.
"""

import hashlib
import operator

import numpy as np


def stream(seed: int, case_id: str, *purpose: int | str) -> np.random.Generator:
    """Make a generator that depends only on the arguments.

    Args:
        seed: The user's seed; any integer.
        case_id: The case of the draws.
        purpose: The purpose of the draws, such as `("foreground", lesion, round)`. Numbers and strings differ: `1`
            and `"1"` give different streams.

    Raises:
        TypeError: If the seed or a part is not a whole number or a string; else 1.5 would give the stream of 1.

    Examples:
        >>> float(stream(42, "case", "lesion", 3).random()) == float(stream(42, "case", "lesion", 3).random())
        True
        >>> float(stream(42, "case", "lesion", 3).random()) == float(stream(42, "case", "lesion", "3").random())
        False
    """
    text = "\x1f".join([repr(operator.index(seed)), *(repr(_plain(part)) for part in (case_id, *purpose))])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))


def _plain(part: int | str) -> int | str:
    """Convert to plain Python, so that a NumPy integer or string gives the same stream as an int or a str."""
    return str(part) if isinstance(part, str) else operator.index(part)

"""Random streams that depend on what they are for, and on nothing else.

Each draw comes from a counter-based generator (Philox 4x64, Salmon et al., SC 2011) whose key is a hash of
seed, case and purpose. There is no global state: workers, threads, order and other cases change nothing.
"""

import hashlib
import operator

import numpy as np


def stream(seed: int, case_id: str, *purpose: int | str) -> np.random.Generator:
    """A generator that is a function of its arguments.

    Args:
        seed: The user's seed; any integer.
        case_id: What the draws belong to.
        purpose: What they are for, such as `("foreground", lesion, round)`. Numbers and texts are kept apart:
            `1` and `"1"` give different streams.

    Raises:
        TypeError: A seed or a part that is neither a whole number nor a text; 1.5 would else name the stream of 1.

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
    """The part as plain Python, so that a NumPy integer or text names the same stream as an int or a str."""
    return str(part) if isinstance(part, str) else operator.index(part)

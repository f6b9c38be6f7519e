"""Files that are complete or not there at all, and names for them."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name beside `file` to write to; it becomes `file` when all went well, and is gone when not.

    The new content is flushed to the disk before the rename, so that a crash leaves the old file or the new one.
    The temporary name keeps the ending, which some writers go by.

    Raises:
        OSError: The folder does not exist or cannot be written.
    """
    temporary = file.with_name(f".writing-{secrets.token_hex(6)}-{file.name}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        with suppress(OSError):  # the folder itself may be gone or be a file; the first error tells more
            temporary.unlink()


def slug(name: str) -> str:
    """A file name for any text: its plain characters, cut, and a hash of the whole.

    >>> slug("psma_01_2019-12-28")
    'psma-01-2019-12-28-419f031b'
    """
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60]
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"

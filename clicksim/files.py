"""Files that are complete or not there at all."""

import os
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

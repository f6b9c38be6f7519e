"""Images of a catalog on object storage, fetched once into a folder of this machine.

Files and not streams: every reader stays as it is (SimpleITK and links need a file), what the network delivers is
compared with its checksum before a reader sees it, and training, pictures and rounds read the same images again.

The folder is `$CLICKSIM_CACHE`, else `clicksim` in `$XDG_CACHE_HOME` or `~/.cache`; all processes of a user share it.
A file is named by its content where a pushed catalog says its checksum, so it is never out of date; else by its address
and what the storage says of its version, which on S3 is its size and the second of its writing. It is complete or not
there; two processes that want the same one at the same time both fetch it. Above `$CLICKSIM_CACHE_GIB` (50) the files
that were used longest ago go first, though none that was used within the last five minutes: it may have been handed out
and not been opened yet. The folder may be deleted when nobody reads.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from clicksim.catalog.places import HINT, Place, RemotePath, reaching
from clicksim.errors import CatalogError, SettingError
from clicksim.files import replacing

BLOCK = 1 << 22
GIB = 1 << 30
IN_USE_S = 300.0
ABANDONED_S = 86_400.0
DEFAULT_GIB = 50.0


def fetch(file: RemotePath, sha256: str = "") -> Path:
    """The local copy of a file, fetched if it is not there.

    Args:
        file: The remote file.
        sha256: Its checksum, where it is known.

    Raises:
        CatalogError: It is not there, cannot be reached, or has another checksum.
        StorageError: The disk is full or cannot be written.
    """
    try:
        key = sha256 or hashlib.sha256(f"{file}\0{file.version()}".encode()).hexdigest()
        held = cache_folder() / key[:2] / f"{key[2:32]}-{file.name}"
        with suppress(FileNotFoundError):
            os.utime(held)  # used now; a sign for the others that it must stay
            return held
        held.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(held) as temporary:
            download(file, temporary, sha256)
    except FileNotFoundError as error:
        raise CatalogError(f"there is no {file}; {HINT}") from error
    _trim(held.parent.parent)
    return held


def download(file: Place, target: Path, sha256: str = "") -> None:
    """Copy a remote file to a new local one, and compare its checksum where one is given.

    Raises:
        FileNotFoundError: There is no such file.
        CatalogError: It cannot be reached, or its checksum differs.
    """
    total = hashlib.sha256()
    with file.open("rb") as source, target.open("xb") as out:
        while True:
            with reaching(file):
                block = source.read(BLOCK)
            if not block:
                break
            total.update(block)
            out.write(block)
    if sha256 and total.hexdigest() != sha256:
        raise CatalogError(f"{file} is damaged: its checksum is not that of the file that was pushed; push it again")


def cache_folder() -> Path:
    """Where fetched images lie."""
    if own := os.environ.get("CLICKSIM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clicksim"


def blocks_of(file: Any) -> Iterator[bytes]:
    """The content of an open file, block by block."""
    while block := file.read(BLOCK):
        yield block


def _trim(folder: Path) -> None:
    """Delete what was used longest ago until the rest fits, and what killed processes left."""
    limit, now = _limit(), time.time()
    found = []
    for file in folder.glob("??/*"):
        with suppress(OSError):  # another process may delete as well
            status = file.stat()
            if not file.name.startswith(".writing-"):
                found.append((status.st_mtime, status.st_size, file))
            elif now - status.st_mtime > ABANDONED_S:
                file.unlink()
    total = sum(size for _, size, _ in found)
    for used, size, file in sorted(found):
        if total <= limit or now - used < IN_USE_S:
            return
        with suppress(OSError):
            file.unlink()
        total -= size


def _limit() -> float:
    text = os.environ.get("CLICKSIM_CACHE_GIB", str(DEFAULT_GIB))
    try:
        return float(text) * GIB
    except ValueError as error:
        raise SettingError(f"CLICKSIM_CACHE_GIB must be a number of GiB, got {text!r}") from error

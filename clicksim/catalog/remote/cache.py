"""Images of a catalog on object storage, fetched once into a folder of this machine.

Files and not streams: every reader stays as it is (SimpleITK and links need a file), what the network delivers is
compared with its checksum before a reader sees it, and training, pictures and rounds read the same images again.

The folder is `$CLICKSIM_CACHE`, else `clicksim` in `$XDG_CACHE_HOME` or `~/.cache`; all processes of a user share it.
A file is named by its content where a pushed catalog says its checksum, so it is never out of date; else by its
address, the server that the environment names, and what the storage says of its version, which on S3 is its size and
the second of its writing. Through a file system that the caller brought, such a file is kept for that one open catalog
alone. It is complete or not there; two processes that want the same one at the same time both fetch it.

Above `$CLICKSIM_CACHE_GIB` (50) the files that were used longest ago go first, though none that was used within the
last five minutes: it may have been handed out and not been opened yet. A process looks after the first file that it
fetches, and then after every hundredth of that size. The folder may be deleted when nobody reads.
"""

import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from clicksim.catalog.remote.places import HINT, Place, RemotePath, reaching
from clicksim.errors import CatalogError, SettingError
from clicksim.files import replacing, storing

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE")
"""What makes another server, and another file, of the same URL."""
BLOCK = 1 << 22
GIB = 1 << 30
IN_USE_S = 300.0
ABANDONED_S = 86_400.0
DEFAULT_GIB = 50.0
LOOK_SHARE = 0.01
_fetched: dict[Path, float] = {}
"""Bytes that this process has fetched into a folder since it last looked for what must go."""


def fetch(file: RemotePath, sha256: str = "") -> Path:
    """The local copy of a file, fetched if it is not there.

    Args:
        file: The remote file.
        sha256: Its checksum, where it is known.

    Raises:
        CatalogError: It is not there, cannot be reached, or has another checksum.
        StorageError: The disk is full or cannot be written.
        SettingError: `CLICKSIM_CACHE_GIB` is no size, or the folder is a file.
    """
    limit = _limit()
    try:
        key = sha256 or _address_key(file)
        held = cache_folder() / key[:2] / f"{key[2:32]}-{file.name}"
        with suppress(FileNotFoundError):
            os.utime(held)  # used now; a sign for the others that it must stay
            return held
        with storing(held):
            held.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(held) as temporary:
            download(file, temporary, sha256)
    except FileNotFoundError as error:
        raise CatalogError(f"there is no {file}; {HINT}") from error
    except NotADirectoryError as error:
        raise SettingError(
            f"fetched images cannot lie in {cache_folder()}, a file; name a folder with CLICKSIM_CACHE"
        ) from error
    _trim_now_and_then(cache_folder(), held.stat().st_size, limit)
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
        raise CatalogError(
            f"{file} is damaged: its checksum is not that of the file that was pushed; push it again with "
            "--verify, which reads what is there and replaces what is damaged"
        )


def cache_folder() -> Path:
    """Where fetched images lie."""
    if own := os.environ.get("CLICKSIM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clicksim"


def blocks_of(file: Any) -> Iterator[bytes]:
    """The content of an open file, block by block."""
    while block := file.read(BLOCK):
        yield block


def _address_key(file: RemotePath) -> str:
    """The name of a file whose content is unknown: where it lies, by which server, and what it says of its version."""
    where = [str(file), file.opened, *(os.environ.get(name, "") for name in ENDPOINTS), file.version()]
    return hashlib.sha256("\0".join(where).encode()).hexdigest()


def _trim_now_and_then(folder: Path, size: int, limit: float) -> None:
    """Trim at the first file that a process fetches, and whenever it has fetched a hundredth of the limit."""
    total = _fetched.get(folder, math.inf) + size
    _fetched[folder] = total
    if total > LOOK_SHARE * limit:
        _fetched[folder] = 0
        _trim(folder, limit)


def _trim(folder: Path, limit: float) -> None:
    """Delete what was used longest ago until the rest fits, and what killed processes left."""
    now = time.time()
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
        limit = float(text) * GIB
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise SettingError(f"CLICKSIM_CACHE_GIB must be a number of GiB, 0 or more, got {text!r}")
    return limit

"""A local cache for images of catalogs on object storage; each image is fetched once.

The cache holds files rather than streams for three reasons: SimpleITK and links need a file, a checksum is compared
before anyone reads the data, and training, pictures and rounds read the same images again.

The folder is `$CLICKSIM_CACHE`, else `clicksim` in `$XDG_CACHE_HOME` or `~/.cache`; all processes of a user share it.
If a pushed catalog gives the checksum of a file, the file is named by its content and is never out of date. Otherwise
it is named by its address, the server in the environment, and the version that the storage reports; on S3 that is its
size and the second of its writing. With a file system that the caller passes, such a file is kept only for that open
catalog. A file is complete or missing; two processes that need it at the same time both fetch it.

Above `$CLICKSIM_CACHE_GIB` (50) the least recently used files are deleted first, except those used within the last five
minutes, which a reader may be about to open. A process checks the size after the first file that it fetches, and then
after every hundredth of the limit. The folder may be deleted when no process is reading it.
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
"""Environment variables that make the same URL mean another server, and so another file."""
BLOCK = 1 << 22
GIB = 1 << 30
IN_USE_S = 300.0
ABANDONED_S = 86_400.0
DEFAULT_GIB = 50.0
LOOK_SHARE = 0.01
_fetched: dict[Path, float] = {}
"""Bytes that this process has fetched into each folder since its last check of the size."""


def fetch(file: RemotePath, sha256: str = "") -> Path:
    """Return the local copy of a file; fetch it if needed.

    Args:
        file: The remote file.
        sha256: Its checksum, if known.

    Raises:
        CatalogError: The file does not exist, cannot be reached, or has another checksum.
        StorageError: The disk is full or cannot be written.
        SettingError: `CLICKSIM_CACHE_GIB` is not a size, or the folder is a file.
    """
    limit = _limit()
    try:
        key = sha256 or _address_key(file)
        held = cache_folder() / key[:2] / f"{key[2:32]}-{file.name}"
        with suppress(FileNotFoundError):
            os.utime(held)  # marks the file as used, so that other processes keep it
            return held
        with storing(held):
            held.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(held) as temporary:
            download(file, temporary, sha256)
    except FileNotFoundError as error:
        raise CatalogError(f"there is no {file}; {HINT}") from error
    except NotADirectoryError as error:
        raise SettingError(
            f"{cache_folder()} is a file, not a folder for fetched images; name a folder with CLICKSIM_CACHE"
        ) from error
    _trim_now_and_then(cache_folder(), held.stat().st_size, limit)
    return held


def download(file: Place, target: Path, sha256: str = "") -> None:
    """Copy a remote file to a new local one, and compare its checksum if one is given.

    Raises:
        FileNotFoundError: There is no such file.
        CatalogError: The file cannot be reached, or its checksum differs.
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
            f"{file} is damaged: its checksum is not that of the pushed file; push again with --verify, "
            "which replaces damaged files"
        )


def cache_folder() -> Path:
    """Return the folder of fetched images."""
    if own := os.environ.get("CLICKSIM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clicksim"


def blocks_of(file: Any) -> Iterator[bytes]:
    """Yield the content of an open file, block by block."""
    while block := file.read(BLOCK):
        yield block


def _address_key(file: RemotePath) -> str:
    """Name a file whose checksum is unknown: a hash of its address, its server and its version."""
    where = [str(file), file.opened, *(os.environ.get(name, "") for name in ENDPOINTS), file.version()]
    return hashlib.sha256("\0".join(where).encode()).hexdigest()


def _trim_now_and_then(folder: Path, size: int, limit: float) -> None:
    """Trim after the first file that a process fetches, and after every hundredth of the limit."""
    total = _fetched.get(folder, math.inf) + size
    _fetched[folder] = total
    if total > LOOK_SHARE * limit:
        _fetched[folder] = 0
        _trim(folder, limit)


def _trim(folder: Path, limit: float) -> None:
    """Delete the least recently used files until the rest fits, and leftovers of killed processes."""
    now = time.time()
    found = []
    for file in folder.glob("??/*"):
        with suppress(OSError):  # another process may delete it too
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

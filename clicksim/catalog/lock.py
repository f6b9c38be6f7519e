"""One writer at a time: the lock that a process holds while it writes to a folder.

The operating system holds the lock for an open file (`flock`, on Windows `LockFileEx`). It ends with its process, so
nothing needs to be deleted after a crash or `kill -9`. The empty file `.lock` stays, because deleting it while another
process opens it would allow two writers. While the lock is held, `.lock-holder.json` next to it says who holds it.
Readers take no lock: files get their names when they are complete.

If a file system has no locks (some mounts of Lustre), the existence of the file is the lock, and a warning says so. On
the same machine the library `filelock` removes the file when its process is gone; otherwise the user must remove it.
"""

import json
import os
import platform
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from clicksim.errors import LockedError
from clicksim.files import storing

LOCK, HOLDER = ".lock", ".lock-holder.json"
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


class Folder(Protocol):
    """An object with a folder, such as a catalog."""

    @property
    def path(self) -> Path:
        """The folder."""


Owner = TypeVar("Owner", bound=Folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the write lock of an existing folder.

    A thread that holds the lock may take it again. Any user who may write to the folder may take it.

    Raises:
        LockedError: Another process or another thread holds the lock; the message says which.
        StorageError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    place = folder.resolve()
    with storing(folder):
        mode = stat.S_IMODE(place.stat().st_mode) & 0o666 | 0o600
        lock = FileLock(place / LOCK, timeout=0, mode=mode, is_singleton=True)
        again = lock.is_locked
        try:
            lock.acquire()
        except Timeout as error:
            raise LockedError(
                f"{folder} is being written by {_holder(place)}; wait until it ends, or stop it, and try again"
            ) from error
    try:
        if not again:
            _leave_word(place / HOLDER)
        yield
    finally:
        if not again:
            _take_back_word(place / HOLDER)
        lock.release()  # the lock file stays: deleting it while another process opens it would allow two writers


def locked(
    method: Callable[Concatenate[Owner, Rest], Result],
) -> Callable[Concatenate[Owner, Rest], Result]:
    """Decorate a method so that it holds the write lock of its object's folder."""

    @wraps(method)
    def holding(self: Owner, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with writing(self.path):
            return method(self, *args, **kwargs)

    return holding


def _leave_word(file: Path) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    about = {"process": os.getpid(), "machine": platform.node(), "since": since, "command": command}
    with suppress(OSError):  # the lock works without it, for example on a full disk
        # not written atomically as other files: a kill would leave a temporary file
        file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _take_back_word(file: Path) -> None:
    for _ in range(2):  # a file server may fail once, and a leftover note would name a process that has ended
        with suppress(OSError):
            file.unlink(missing_ok=True)
            return


def _holder(folder: Path) -> str:
    """Describe the holder of the lock, as far as known."""
    try:
        about: Any = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        who = f"process {about['process']} on {about['machine']} since {about['since']}: {about['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        return "another process"
    return " ".join(who.split())

"""One writer at a time: the lock that a process holds while it writes to a folder.

The operating system holds it for an open file (`flock`, on Windows `LockFileEx`), so it ends with its process,
however that ends: after a crash or `kill -9` nothing has to be deleted. The file `.lock` stays, empty, since to delete
it while another process opens it would let two in; `.lock-holder.json` stands beside it while the lock is held, for
people. Readers take no lock: files get their names when they are complete.

Where a file system has no locks (some mounts of Lustre), the file itself is the sign, with a warning: there the library
`filelock` takes it away once its process is gone from the same machine; on another machine that is left to the user.
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
    """Anything that stands in a folder, such as a catalog."""

    @property
    def path(self) -> Path:
        """The folder."""


Owner = TypeVar("Owner", bound=Folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the right to write to an existing folder.

    A thread that holds it may take it again; whoever may write to the folder may take it.

    Raises:
        LockedError: Another process, or another thread of this one, holds it; the message says which.
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
                f"{folder} is being written by {_holder(place)}; wait for its end, or stop it, and try again"
            ) from error
    try:
        if not again:
            _leave_word(place / HOLDER)
        yield
    finally:
        if not again:
            # the lock's own file stays: to unlink it while another process opens it would let two in
            with suppress(OSError):
                (place / HOLDER).unlink()
        lock.release()


def locked(
    method: Callable[Concatenate[Owner, Rest], Result],
) -> Callable[Concatenate[Owner, Rest], Result]:
    """A method that holds the right to write to the folder of its object."""

    @wraps(method)
    def holding(self: Owner, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with writing(self.path):
            return method(self, *args, **kwargs)

    return holding


def _leave_word(file: Path) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    about = {"process": os.getpid(), "machine": platform.node(), "since": since, "command": command}
    with suppress(OSError):  # the lock holds without it, also on a full disk
        # not complete or not at all, as other files: a kill would leave a second name behind
        file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as they have said."""
    try:
        about: Any = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        who = f"process {about['process']} on {about['machine']} since {about['since']}: {about['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        return "another process"
    return " ".join(who.split())

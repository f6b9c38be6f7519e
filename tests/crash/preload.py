"""The shim: built where a C compiler is there, and told through a file that all processes map what it shall do."""

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "CRASH_CONTROL"
COUNT, KILL_GROUP, KILL_ONE, FAIL, SIGNAL = range(5)
NO_HALF, TRACE = 1, 2


class Control(ctypes.Structure):
    """`struct control` of shim.c.

    Attributes:
        armed: Whether operations are counted.
        count: Operations so far.
        at: The operation at which something happens; 0 for none.
        mode: `COUNT`, `KILL_GROUP`, `KILL_ONE`, `FAIL` or `SIGNAL`.
        flags: `NO_HALF`: a write is killed before it, not in its middle; `TRACE`: keep a log and flushed contents.
        leader: The process group that is killed, or the process that gets the signal.
        number: Of the signal; of an error, which of the possible ones.
        signal_group: Whether the whole group gets the signal.
        acted, acted_pid, acted_error, acted_what: Whether it happened, in which process, with which error, to what.
        root: The folder that is watched.
        log: The file of the log.
        snaps: The folder of flushed contents.
    """

    _fields_ = (
        ("lock", ctypes.c_byte * 64),
        *((name, ctypes.c_uint64) for name in ("armed", "count", "at", "mode", "flags")),
        *((n, ctypes.c_int64) for n in ("leader", "number", "signal_group", "acted", "acted_pid", "acted_error")),
        *((name, ctypes.c_char * 1024) for name in ("root", "log", "snaps")),
        ("acted_what", ctypes.c_char * 2048),
    )


def missing() -> str:
    """Why no crash test can run here; empty where they can."""
    if sys.platform != "linux":
        return "the shim of the crash tests is for Linux"
    if compiler() is None:
        return "the crash tests need a C compiler (cc), which is not installed"
    return ""


def compiler() -> str | None:
    """The C compiler, if there is one."""
    own = (sysconfig.get_config_var("CC") or "").split()
    return next((path for name in ("cc", "gcc", "clang", *own[:1]) if (path := shutil.which(name))), None)


def build_shim() -> Path:
    """The shared object; built once for each state of its source, in the user's cache."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clicksim-crash"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.gettempdir())
    target = cache / f"shim-{digest}.so"
    if not target.exists():
        made = target.with_name(f"{target.name}.{os.getpid()}")
        how = ["-O2", "-w", "-shared", "-fPIC", "-ftls-model=initial-exec"]
        subprocess.run([compiler() or "cc", *how, "-o", made, SOURCE, "-ldl", "-lpthread"], check=True)
        made.replace(target)
    return target


def preloaded(control: Path) -> dict[str, str]:
    """The environment of a process that has the shim, with a fresh control file."""
    control.write_bytes(bytes(ctypes.sizeof(Control)))
    return {**os.environ, "LD_PRELOAD": str(build_shim()), VARIABLE: str(control)}


class Shim:
    """The shim of this process, which was started with it."""

    def __init__(self, side: Path) -> None:
        """Take hold of the control file.

        Args:
            side: A folder that is not watched, for the log and for flushed contents.
        """
        library = ctypes.CDLL(None)
        if library.crash_size() != ctypes.sizeof(Control):
            raise RuntimeError(f"shim.c has {library.crash_size()} bytes, preload.py {ctypes.sizeof(Control)}")
        with Path(os.environ[VARIABLE]).open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), ctypes.sizeof(Control))
        self.control = Control.from_buffer(self._page)
        self.side = side
        library.crash_initialise()

    def arm(self, root: Path, mode: int = COUNT, *, at: int = 0, flags: int = 0, number: int = 0, group: bool = False):
        """Count from here on, and act at operation `at`; the calling process leads the group that is killed."""
        library = ctypes.CDLL(None)
        control = self.control
        control.armed = 0
        library.crash_initialise()  # a killed process may have left the lock in any state
        control.count, control.at, control.mode, control.flags = 0, at, mode, flags
        control.leader, control.number, control.signal_group = os.getpid(), number, group
        control.acted = control.acted_pid = control.acted_error = 0
        control.acted_what = b""
        control.root, control.log = os.fsencode(root.resolve()), os.fsencode(self.log)
        control.snaps = os.fsencode(self.snaps)
        control.armed = 1

    def disarm(self) -> None:
        """Count no more."""
        self.control.armed = 0

    @property
    def log(self) -> Path:
        """The log of operations."""
        return self.side / "operations.log"

    @property
    def snaps(self) -> Path:
        """Flushed contents by the number of the operation."""
        return self.side / "flushed"

    def forget(self) -> None:
        """Delete the log and the flushed contents."""
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.snaps, ignore_errors=True)
        self.snaps.mkdir(parents=True)

"""One command in a forked copy of a warm process.

The process that imported everything forks for each command, so that a command costs what it does and not two seconds of
imports. Only the harness forks: the commands start their workers as they always do. The copy leads a process group of
its own, works in `box/tree`, keeps temporary files in `box/tmp`, and counts its file operations below `box`. Whatever
outlives it becomes a child of the harness (`PR_SET_CHILD_SUBREAPER`), is reported, and ended.
"""

import atexit
import ctypes
import multiprocessing.util
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.crash.preload import COUNT, Shim

SUBREAPER = 36
GRACE_S = 5.0
"""Workers may take so long to end after the process that started them."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They reach a copy from the first line of the command on."""
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit code; negative for a signal, None where it took too long and was killed.
        said, told: stderr and stdout.
        operations: File operations.
        acted, what, error: Whether the shim did something, to which operation (kind, path, other path), the errno.
        in_child: Whether that was in a process that the command had started.
        left: Commands of processes that outlived it by more than `GRACE_S`.
        seconds: How long it took.
    """

    code: int | None
    said: str
    told: str
    operations: int
    acted: bool
    what: tuple[str, ...]
    error: int
    in_child: bool
    left: tuple[str, ...]
    seconds: float


def copy_tree(source: Path, target: Path) -> None:
    """A copy with links, hard links and times; whatever is at the target goes."""
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", source, target], check=True)


class Host:
    """The warm process, with a box for one command at a time."""

    def __init__(self, home: Path) -> None:
        self.home, self.box, self.tree = home, home / "box", home / "box/tree"
        self.side = home / "side"
        for folder in (self.box, self.side):
            folder.mkdir(parents=True, exist_ok=True)
        self.shim = Shim(self.side)
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
        self.shim.forget()
        self.semaphores = f"clicksim-crash-{os.getpid()}"

    def fill(self, tree: Path) -> None:
        """Put a copy of a tree into the box, and nothing else."""
        copy_tree(tree, self.tree)
        self.clear_temporary()

    def clear_temporary(self) -> None:
        """Empty the folder of temporary files."""
        (self.box / "tmp").mkdir(exist_ok=True)
        for name in (self.box / "tmp").iterdir():
            shutil.rmtree(name) if name.is_dir() and not name.is_symlink() else name.unlink()

    def temporary(self) -> list[str]:
        """What is left among the temporary files."""
        return sorted(path.name for path in (self.box / "tmp").iterdir())

    def run(
        self,
        words: Sequence[str],
        *,
        mode: int = COUNT,
        at: int = 0,
        flags: int = 0,
        number: int = 0,
        group: bool = False,
        after_s: float | None = None,
        limit_s: float = 60.0,
    ) -> Ended:
        """Run a command in the box.

        Args:
            words: Program and arguments.
            mode, at, flags, number, group: What the shim does; see `preload.Shim.arm`.
            after_s: Send the signal `number` after that time, to the process or to its whole group.
            limit_s: Kill it after that time.
        """
        return self.call(
            lambda: run_words(words),
            mode=mode, at=at, flags=flags, number=number, group=group, after_s=after_s, limit_s=limit_s, words=words,
        )  # fmt: skip

    def call(
        self,
        work: Callable[[], int],
        *,
        words: Sequence[str] = ("work",),
        after_s: float | None = None,
        limit_s: float = 60.0,
        **how: Any,
    ) -> Ended:
        """Run a function in the box; what it returns is the exit code."""
        said, told = self.side / "stderr", self.side / "stdout"
        sys.stdout.flush()
        sys.stderr.flush()
        started = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = self._within(work, words, said, told, how)
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        status = _wait(pid, after_s, how.get("number", 0), how.get("group", False), limit_s)
        seconds = time.monotonic() - started
        self.shim.disarm()
        control = self.shim.control
        killed = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        left = end_orphans(0.0 if killed else GRACE_S)
        for semaphore in Path("/dev/shm").glob(f"sem.{self.semaphores}-*"):
            semaphore.unlink(missing_ok=True)
        what = tuple(control.acted_what.decode().split("\t")) if control.acted else ()
        return Ended(
            code=None if status is None else os.waitstatus_to_exitcode(status),
            said=said.read_text(errors="replace"),
            told=told.read_text(errors="replace"),
            operations=control.count,
            acted=bool(control.acted),
            what=what,
            error=control.acted_error,
            in_child=bool(control.acted) and control.acted_pid != pid,
            left=tuple(left),
            seconds=seconds,
        )

    def _within(
        self, work: Callable[[], int], words: Sequence[str], said: Path, told: Path, how: dict[str, Any]
    ) -> int:
        """The copy: its streams, its folder, its counter."""
        os.setsid()
        for number in STOPPING:  # a command that ran in the warm process may have set its own
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        atexit._clear()  # what the warm process would do at its end is none of the command's business
        weakref.finalize._registry.clear()
        atexit.register(weakref.finalize._exitfunc)
        atexit.register(multiprocessing.util._exit_function)
        for number, file in ((1, told), (2, said)):
            opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(self.tree)
        # semaphores that a kill leaves are found by this name
        multiprocessing.current_process()._config["semprefix"] = f"/{self.semaphores}"  # type: ignore[attr-defined]
        os.environ["TMPDIR"], tempfile.tempdir = str(self.box / "tmp"), None
        sys.argv = list(words)
        self.shim.arm(self.box, **how)
        code = 70
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            code = work()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the rest is not the command's
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        return code


def run_words(words: Sequence[str]) -> int:
    """Call a program as its console script does; returns the exit code."""
    try:
        if words[0] == "twin":
            from tests.crash.twins import call_twin

            return call_twin(words)
        import_module(f"{words[0]}.cli").main(list(words[1:]), prog_name=words[0])
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _wait(pid: int, after_s: float | None, number: int, group: bool, limit_s: float) -> int | None:
    """The status of a child; None where it had to be killed for its time."""
    watched = os.pidfd_open(pid)
    try:
        polling = select.poll()
        polling.register(watched, select.POLLIN)
        if after_s is not None and not polling.poll(1000 * after_s):
            with suppress(ProcessLookupError):
                os.killpg(pid, number) if group else os.kill(pid, number)
        if polling.poll(1000 * limit_s):
            return os.waitpid(pid, 0)[1]
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    finally:
        os.close(watched)


def end_orphans(grace_s: float) -> list[str]:
    """Wait for processes that outlived a command, then kill them; returns the commands of those that were killed."""
    deadline, killed = time.monotonic() + grace_s, []
    while children := _children():
        if time.monotonic() >= deadline:
            for pid in children:
                with suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command.strip():  # else it is dead and waits to be collected
                        killed.append(command.strip()[:200])
                    os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)
    return killed


def _children() -> list[int]:
    """Processes whose parent is this one."""
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if listed.exists():
        return [int(word) for word in listed.read_text().split()]
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):  # a kernel without that list
        with suppress(OSError):
            parent = status.read_text().rpartition(")")[2].split()[1]
            found += [int(status.parent.name)] if int(parent) == os.getpid() else []
    return found

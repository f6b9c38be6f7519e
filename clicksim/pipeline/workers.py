"""Where the units of a job are done: in this process, in processes of this machine, or on a cluster.

A unit whose process dies is started once more; if it dies again, the unit is given up and the others continue.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from clicksim.errors import SettingError
from clicksim.interruption import SIGNALS, Terminated, holding_signals

if TYPE_CHECKING:
    from clicksim.catalog import Unit

Work = Callable[["Unit"], None]
AHEAD = 4  # units in flight per worker: enough that none waits, few enough that results do not pile up
CLUSTER_AHEAD = 256  # units given to a cluster at a time, whatever its size
STARTS = 2  # of a unit whose process dies


class Progress(Protocol):
    """A function that a job calls after each unit."""

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        """Report the units done, their total, and the rows refused so far."""


@dataclass(frozen=True)
class Crew:
    """Who does the work. It is not part of a job's identity: no result depends on it.

    Attributes:
        workers: Processes of this machine; 0 works in this process, `auto` uses all cores that it may use.
        executor: Does the units instead, such as that of a Dask cluster; its workers must see the same files.
        progress: Called after each unit.
        note: Called with notes for the user; by default they become warnings.
    """

    workers: int | Literal["auto"] = 0
    executor: Executor | None = None
    progress: Progress | None = None
    note: Callable[[str], None] | None = None

    @property
    def processes(self) -> int:
        """The number of processes.

        Raises:
            SettingError: `workers` is neither `auto` nor a whole number of at least 0.
        """
        if self.workers == "auto":
            return available_cores()
        if not isinstance(self.workers, int) or self.workers < 0:
            raise SettingError(f"workers must be auto or a whole number of at least 0, got {self.workers!r}")
        return self.workers

    def say(self, sentence: str) -> None:
        """Pass on a note."""
        if self.note:
            self.note(sentence)
        else:
            warnings.warn(sentence, UserWarning, stacklevel=3)

    def do(self, work: Work, units: Sequence["Unit"], give_up: Work) -> Iterator["Unit"]:
        """Do units; yield each when it ends.

        Args:
            work: Can be sent to another process; its result is ignored.
            units: In the order in which they begin.
            give_up: Called in this process for a unit whose process died twice.
        """
        if self.executor is not None:
            return _do_on(self.executor, work, units, give_up)
        if self.processes == 0:
            return _do_here(work, units)
        return _do_in_processes(self.processes, work, units, give_up)


def available_cores() -> int:
    """Count the cores that this process may use: those of its affinity, and no more than its container allows.

    Source of the limit: `cpu.max` of cgroup version 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123 - no path of ours
            quota, period = file.read().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such limit
        return max(1, cores)


def _do_here(work: Work, units: Sequence["Unit"]) -> Iterator["Unit"]:
    for unit in units:
        work(unit)
        yield unit


def _do_in_processes(processes: int, work: Work, units: Sequence["Unit"], give_up: Work) -> Iterator["Unit"]:
    from pebble import ProcessExpired

    waiting = [(unit, 1) for unit in reversed(units)]
    running: dict[Future[None], tuple[Unit, int]] = {}
    with _pool(min(processes, max(1, len(units)))) as pool:
        while waiting or running:
            while waiting and len(running) < processes * AHEAD:
                unit, start = waiting.pop()
                running[pool.schedule(_finish_or_end, args=(work, unit))] = (unit, start)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                unit, start = running.pop(future)
                try:
                    future.result()
                except ProcessExpired:
                    if start < STARTS:
                        waiting.append((unit, start + 1))
                        continue
                    give_up(unit)
                yield unit


@contextmanager
def _pool(processes: int) -> Iterator[Any]:
    """Spawn processes: a fork would inherit the locks and threads of this one.

    No fork server is used, because its socket below `TMPDIR` cannot have a long path. A signal may go to the whole
    group. Workers start with SIGINT blocked, because a starting interpreter shows a traceback. The process in which
    Python deletes semaphores must end after all others; of these signals, SIGHUP is the only one that it does not
    ignore by itself.
    """
    import multiprocessing
    from multiprocessing import resource_tracker

    from pebble import ProcessPool

    with _blocking("SIGHUP"):
        resource_tracker.ensure_running()
    pool: Any = ProcessPool(processes, initializer=_begin_worker, context=multiprocessing.get_context("spawn"))
    try:
        with holding_signals(), _blocking("SIGINT"):
            pool.active  # noqa: B018 - asking for it starts the threads and processes, which inherit what is blocked
        yield pool
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


@contextmanager
def _blocking(name: str) -> Iterator[None]:
    """Block a signal in this thread, and in threads and processes that it starts; Windows blocks none."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name]])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Prepare a worker: it ends cleanly when it is told to, and with the process that started it."""
    import multiprocessing
    import threading

    for number in SIGNALS:
        signal.signal(number, _end_worker)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


_under_way: list["Unit"] = []
"""The unit that this worker is doing, if any."""


def _end_worker(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what a handler is called with
    """End an idle worker at once; a busy one first releases what it holds."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    if not _under_way:
        os._exit(128 + number)
    raise Terminated(number)


def _finish_or_end(work: Work, unit: "Unit") -> None:
    """Do a unit in a worker; a worker that is told to end takes no other unit."""
    _under_way.append(unit)
    try:
        work(unit)
    except Terminated as ended:
        os._exit(128 + ended.number)
    finally:
        _under_way.clear()


def _do_on(executor: Executor, work: Work, units: Sequence["Unit"], give_up: Work) -> Iterator["Unit"]:
    """Do units on a given executor, such as that of a Dask cluster.

    A unit that the cluster gives up (`KilledWorker`) may only have waited beside the one that killed the worker: it is
    submitted once more, then alone after all others, and is given up if that fails too.
    """
    running: dict[Future[None], tuple[Unit, int]] = {}
    waiting = [(unit, 0) for unit in reversed(units)]
    alone: list[tuple[Unit, int]] = []
    while waiting or running or alone:
        if not waiting and not running:
            waiting.append(alone.pop())
        while waiting and len(running) < CLUSTER_AHEAD:
            unit, failed = waiting.pop()
            running[executor.submit(work, unit)] = (unit, failed)
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            unit, failed = running.pop(future)
            error = future.exception()
            if error is None:
                yield unit
            elif type(error).__name__ != "KilledWorker":
                raise error
            elif failed == STARTS:
                give_up(unit)
                yield unit
            else:
                (waiting if failed + 1 < STARTS else alone).append((unit, failed + 1))

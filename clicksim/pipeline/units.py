"""Units of work in any number of processes, resumed after a kill.

Each unit (a patient) leaves a folder of Arrow files, which gets its final name only when it is complete. A run
that was killed leaves the finished parts; `resume` takes those up. The order in which units end changes nothing.
"""

import getpass
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clicksim import __version__
from clicksim.catalog import Outcome, Unit
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError
from clicksim.files import slug, storing, write_text

if TYPE_CHECKING:
    import pyarrow as pa

WORK = ".work"
CLUSTER_AHEAD = 256  # units given to a cluster at a time, whatever its size
AHEAD = 4  # units in flight per worker: enough that none waits, few enough that results do not pile up
STARTS = 2  # of a unit whose process dies: one retry
MARK = ".started-"
GATHERED = 64  # units whose pieces are read before they are joined
Tables = dict[str, "pa.Table"]
Work = Callable[[Unit], Tables]


class Progress(Protocol):
    """What a run reports to, after each unit."""

    def __call__(self, done: int, total: int, refused: int = 0) -> None:
        """Units done, of all; rows refused so far."""


class Parts:
    """The finished units of a run, one folder of Arrow files each."""

    def __init__(self, folder: Path, job: Mapping[str, Any], *, resume: bool) -> None:
        """Open the parts of a run.

        Args:
            folder: Where they stand.
            job: What the run does, as plain data; parts of another job are not taken up.
            resume: Whether to take up finished parts.

        Raises:
            CatalogError: There are parts of an interrupted run, and it is not to be resumed, or was another job.
        """
        head = folder / "job.json"
        text = json.dumps(job, sort_keys=True, indent=1)
        if head.exists() and not resume:
            raise CatalogError(
                f"an earlier run was interrupted: {folder} holds its finished cases; go on with --resume, "
                "or delete that folder to begin anew"
            )
        if head.exists() and head.read_text(encoding="utf-8") != text:
            raise CatalogError(
                f"{folder} holds the parts of a run with other inputs or settings; delete it to begin anew"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(head, text)
        self.folder = folder

    def run(
        self,
        units: Sequence[Unit],
        work: Work,
        *,
        workers: int,
        progress: Progress | None,
        executor: Executor | None = None,
    ) -> None:
        """Do the units that have no part yet, in processes of this machine or on a given executor."""
        left = self.left(units)
        keys = {unit.key for unit in left}
        done, rejected = len(units) - len(left), sum(self._rejected(unit) for unit in units if unit.key not in keys)
        folder, bury = self.folder.resolve(), partial(bury_unit, self.folder)
        if executor is None:
            counts = run_units(partial(do_unit, work, folder), left, workers, bury)
        else:
            for mark in folder.glob(f"{MARK}*"):  # of an interrupted run: its end was no unit's fault
                mark.unlink()
            ended = run_on(executor, partial(start_unit, work, folder), left, bury)
            counts = map(self._rejected, ended)
        for count in counts:
            done, rejected = done + 1, rejected + count
            if progress:
                progress(done, len(units), rejected)

    def left(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that have no part yet."""
        return [unit for unit in units if not part_path(self.folder, unit).is_dir()]

    def gather(self, units: Sequence[Unit], found: Tables) -> Tables:
        """The tables of all units, after those that were found before.

        Raises:
            CatalogError: A part is not to be seen, as may be for a while where another machine wrote it.
        """
        there = {entry.name for entry in self.folder.iterdir()}  # a listing asks a file server anew
        lost = [unit.key for unit in units if part_path(self.folder, unit).name not in there]
        if lost:
            raise CatalogError(
                f"{len(lost)} finished parts are not to be seen in {self.folder}, such as that of {lost[0]}; wait a "
                "minute until the file server shows them, and go on with --resume"
            )
        pieces = {name: [table] for name, table in found.items()}
        for start in range(0, len(units), GATHERED):
            for name, tables in self._read(units[start : start + GATHERED]).items():
                pieces.setdefault(name, []).append(_join(tables))
        return {name: _join(tables) for name, tables in pieces.items()}

    def _read(self, units: Sequence[Unit]) -> dict[str, list["pa.Table"]]:
        """The pieces of some units, by table."""
        from pyarrow import feather

        pieces: dict[str, list[pa.Table]] = {}
        for unit in units:
            for file in sorted(part_path(self.folder, unit).glob("*.arrow")):
                pieces.setdefault(file.stem, []).append(feather.read_table(file, memory_map=False))
        return pieces

    def _rejected(self, unit: Unit) -> int:
        """How many rows a finished unit rejected."""
        from pyarrow import feather

        file = part_path(self.folder, unit) / "rejected.arrow"
        return feather.read_table(file, columns=["code"], memory_map=False).num_rows if file.exists() else 0

    def remove(self) -> None:
        """Delete the parts: their content stands in the tables."""
        shutil.rmtree(self.folder)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def part_path(folder: Path, unit: Unit) -> Path:
    """Where a finished unit stands; any key gives a valid name, and no two keys the same."""
    return folder / slug(unit.key)


def do_unit(work: Work, folder: Path, unit: Unit) -> int:
    """Do a unit and leave its part; returns how many rows it rejected. Runs in any process.

    Raises:
        StorageError: The disk is full, or may not be written.
    """
    try:
        tables = work(unit)
    except MemoryError:
        return bury_unit(folder, unit, "memory ran out while the process worked on this")
    with storing(folder):
        return _leave_part(folder, unit, tables)


def start_unit(work: Work, folder: Path, unit: Unit) -> None:
    """Do a unit where nobody tells why a process died: each start leaves a mark, and none follows the second.

    A cluster starts a lost unit again by itself, as often as it is set to, also one that was done when its process
    died, and blames the units that waited there too. The marks blame those alone that had begun; what is done stays.
    """
    if part_path(folder, unit).is_dir():
        return
    for number in range(STARTS):
        mark = folder / f"{MARK}{number}-{slug(unit.key)}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            continue
        do_unit(work, folder, unit)
        return
    bury_unit(folder, unit)


def run_units(
    work: Callable[[Unit], int], units: Sequence[Unit], workers: int, bury: Callable[[Unit], int]
) -> Iterator[int]:
    """Run units in this process or in others; yields what each returned, as they end.

    A worker that dies takes its pool with it. The units that were under way are tried once more, each alone, so
    that the one that kills is found; that one is given to `bury`, and the others go on.
    """
    if workers == 0:
        yield from map(work, units)
        return
    waiting = list(reversed(units))
    while waiting:
        with process_pool(workers) as pool:
            lost = yield from _drain(pool, work, waiting, workers * AHEAD)
        for unit in lost:
            with process_pool(1) as pool:
                try:
                    yield pool.submit(work, unit).result()
                except BrokenProcessPool:
                    yield bury(unit)


def run_on(
    executor: Executor, work: Callable[[Unit], object], units: Sequence[Unit], bury: Callable[[Unit], object]
) -> Iterator[Unit]:
    """Run units on an executor that somebody else minds, such as that of a Dask cluster; yields them as they end.

    Its workers see the same files. `CLUSTER_AHEAD` units are in its hands at a time. One that the cluster gives up
    (`KilledWorker`) may only have waited beside the one that kills: it is handed in once more, then alone after all
    others, and goes to `bury` when that fails too.
    """
    running: dict[Future[object], Unit] = {}
    waiting, given_up = list(reversed(units)), Counter[str]()
    alone: list[Unit] = []
    while waiting or running or alone:
        if not waiting and not running:
            waiting.append(alone.pop())
        while waiting and len(running) < CLUSTER_AHEAD:
            unit = waiting.pop()
            running[executor.submit(work, unit)] = unit
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            unit = running.pop(future)
            error = future.exception()
            if error is None:
                yield unit
            elif type(error).__name__ != "KilledWorker":
                raise error
            elif given_up[unit.key] == STARTS:
                bury(unit)
                yield unit
            else:
                given_up[unit.key] += 1
                (waiting if given_up[unit.key] < STARTS else alone).append(unit)


def _drain(
    pool: Executor, work: Callable[[Unit], int], units: list[Unit], ahead: int
) -> Generator[int, None, list[Unit]]:
    """Take units from the end of the list until it is empty or the pool breaks; returns those under way then."""
    running: dict[Future[int], Unit] = {}
    while units or running:
        try:
            while units and len(running) < ahead:
                running[pool.submit(work, units[-1])] = units[-1]
                units.pop()
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                count = future.result()
                del running[future]
                yield count
        except BrokenProcessPool:
            return list(running.values())
    return []


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Processes that start afresh: a fork would inherit locks and threads of this one."""
    import multiprocessing

    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _end_with_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _end_with_parent() -> None:
    """End this worker once the process that started it is gone: left alone, it would wait for ever."""
    import multiprocessing
    import threading

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_facts(started: float, about: Mapping[str, Any]) -> dict[str, Any]:
    """Who ran what, when and where: what stands in `runs/` and in no table."""
    return {
        "started": _instant(started),
        "ended": _instant(time.time()),
        "seconds": round(max(0.0, time.time() - started), 3),  # a clock may be set back
        "user": _user(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "clicksim": __version__,
        "command": sys.argv,
        **about,
    }


def tables_of(outcome: Outcome) -> Tables:
    """The outcome as tables of the catalog's schema."""
    return {name: rows_to_table(name, rows) for name, rows in outcome.tables().items()}


def _join(tables: Sequence["pa.Table"]) -> "pa.Table":
    """One table without seams: a piece of a few rows takes many times the memory of its content."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _leave_part(folder: Path, unit: Unit, tables: Tables) -> int:
    """Write a unit's tables and give the folder its final name, in that order."""
    from pyarrow import feather

    target = part_path(folder, unit)
    temporary = target.with_name(f".writing-{secrets.token_hex(4)}-{target.name}")
    temporary.mkdir(parents=True)
    for name, table in tables.items():
        if len(table):
            feather.write_feather(table, str(temporary / f"{name}.arrow"), compression="uncompressed")
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():  # else another start left it, and died or was lost before it could say so
            raise
        shutil.rmtree(temporary)
    return len(tables["rejected"]) if "rejected" in tables else 0


def bury_unit(folder: Path, unit: Unit, what: str = "the process died twice while it worked on this") -> int:
    """The part of a unit whose process died twice: one rejection, whose path is the unit's key."""
    outcome = Outcome()
    outcome.reject("WorkerDied", f"{what}; is there enough memory? Try fewer workers", path=unit.key)
    return _leave_part(folder, unit, tables_of(outcome))


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

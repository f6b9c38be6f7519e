"""Units of work in any number of processes, resumed after a kill.

Each unit (a patient) leaves a folder of Arrow files, which gets its final name only when it is complete. A run
that was killed leaves the finished parts; `resume` takes those up. The order in which units end changes nothing.
"""

import getpass
import json
import platform
import shutil
import sys
import time
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
from clicksim.files import replacing, slug

if TYPE_CHECKING:
    import pyarrow as pa

WORK = ".work"
CLUSTER_AHEAD = 256  # units given to a cluster at a time, whatever its size
AHEAD = 4  # units in flight per worker: enough that none waits, few enough that results do not pile up
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
        with replacing(head) as temporary:
            temporary.write_text(text, encoding="utf-8")
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
        left = [unit for unit in units if not part_path(self.folder, unit).is_dir()]
        done, rejected = len(units) - len(left), 0
        unit_work, bury = partial(do_unit, work, self.folder.resolve()), partial(_bury, self.folder)
        counts = (
            run_units(unit_work, left, workers, bury) if executor is None else run_on(executor, unit_work, left, bury)
        )
        for count in counts:
            done, rejected = done + 1, rejected + count
            if progress:
                progress(done, len(units), rejected)

    def gather(self, units: Sequence[Unit], found: Tables) -> Tables:
        """The tables of all units, after those that were found before."""
        import pyarrow as pa
        from pyarrow import feather

        pieces = {name: [table] for name, table in found.items()}
        for unit in units:
            for file in sorted(part_path(self.folder, unit).glob("*.arrow")):
                pieces.setdefault(file.stem, []).append(feather.read_table(file, memory_map=False))
        return {name: pa.concat_tables(tables, promote_options="permissive") for name, tables in pieces.items()}

    def remove(self) -> None:
        """Delete the parts: their content stands in the tables."""
        shutil.rmtree(self.folder)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def part_path(folder: Path, unit: Unit) -> Path:
    """Where a finished unit stands; any key gives a valid name, and no two keys the same."""
    return folder / slug(unit.key)


def do_unit(work: Work, folder: Path, unit: Unit) -> int:
    """Do a unit and leave its part; returns how many rows it rejected. Runs in any process."""
    return _leave_part(folder, unit, work(unit))


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
    executor: Executor, work: Callable[[Unit], int], units: Sequence[Unit], bury: Callable[[Unit], int]
) -> Iterator[int]:
    """Run units on an executor that somebody else minds, such as that of a Dask cluster; as `run_units` otherwise.

    Its workers see the same files. A cluster tries a lost unit again by itself; one that it gives up (`KilledWorker`)
    is given to `bury`.
    """
    running: dict[Future[int], Unit] = {}
    waiting = list(reversed(units))
    while waiting or running:
        while waiting and len(running) < CLUSTER_AHEAD:
            unit = waiting.pop()
            running[executor.submit(work, unit)] = unit
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            unit = running.pop(future)
            error = future.exception()
            if error is not None and type(error).__name__ != "KilledWorker":
                raise error
            yield future.result() if error is None else bury(unit)


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The executor of a running Dask cluster.

    Raises:
        CatalogError: Dask is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise CatalogError("--scheduler needs Dask: pip install 'clicksim[cluster]'") from error
    connect: Any = Client
    try:
        client = connect(address, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise CatalogError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        yield client.get_executor()


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
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def run_facts(started: float, about: Mapping[str, Any]) -> dict[str, Any]:
    """Who ran what, when and where: what stands in `runs/` and in no table."""
    return {
        "started": _instant(started),
        "ended": _instant(time.time()),
        "seconds": round(time.time() - started, 3),
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


def _leave_part(folder: Path, unit: Unit, tables: Tables) -> int:
    """Write a unit's tables and give the folder its final name, in that order."""
    from pyarrow import feather

    target = part_path(folder, unit)
    temporary = target.with_name(f".writing-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, table in tables.items():
        if len(table):
            feather.write_feather(table, str(temporary / f"{name}.arrow"), compression="uncompressed")
    if target.is_dir():  # its worker left it, and died before it could say so
        shutil.rmtree(temporary)
    else:
        temporary.rename(target)
    return len(tables["rejected"]) if "rejected" in tables else 0


def _bury(folder: Path, unit: Unit) -> int:
    """The part of a unit whose process died twice: one rejection."""
    outcome = Outcome()
    message = "the process died twice while it worked on this; is there enough memory? Try fewer workers"
    outcome.reject("WorkerDied", message, path=unit.key)
    return _leave_part(folder, unit, tables_of(outcome))


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

"""The one way to run a batch job: plan units, do each in a worker, keep each result as a part, commit, clean up.

    .work/<job>/job.json      the identity of the job, for people and for messages
    .work/<job>/<unit>/       a part for each finished unit, see `clicksim.pipeline.parts`
    runs/<job>.json           what made the result, and when; written by the commit

A job can be killed at any moment. Finished work is kept, and `resume` continues from there. The identity is all that
changes the bytes of the result; where the result is shown and who does the work are not part of it.
"""

import getpass
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clicksim import __version__
from clicksim.catalog import Outcome, Unit
from clicksim.catalog.commit import WORK, Commit, check_work, drop, settle
from clicksim.catalog.lock import writing
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, up_to_ten
from clicksim.files import make_folder, read_bounded, slug, storing, write_text
from clicksim.pipeline.parts import (
    DIED,
    FILES,
    Part,
    PartWriter,
    Tables,
    digest_content,
    discard,
    fingerprint,
    part_folder,
    read_part,
)
from clicksim.pipeline.workers import STARTS, Crew

if TYPE_CHECKING:
    import pyarrow as pa

JOB = "job.json"
RUNS = "runs"
BEGUN = ".begun-"
GATHERED = 64  # units whose tables are read before they are joined
LONGEST_VALUE = 80
REMEDY = "name another folder, or replace it with --overwrite"
RENAME = "give the run another name, or replace it with --overwrite"
TRIES = 3  # how often parts that change while the job runs are done again
Result = TypeVar("Result")
Simple = Callable[[Unit, Path], Tables]
"""The work on a unit: returns its tables, and writes its files below the folder, under their final names."""


@dataclass(frozen=True)
class Job(Generic[Result]):
    """A batch job.

    Attributes:
        name: Name of the job and of its work folder; a valid folder name.
        home: The folder of the result: a catalog, or a folder of files.
        identity: All that changes the bytes of the result, as plain data; the version of clicksim is added.
        units: The pieces of work. Each names the files that it reads.
        work: Does a unit; can be sent to another process, and depends only on its arguments.
        finish: Called with the joined tables, the commit, and the facts for the records. Writes the result and the
            records into the commit, and returns the result of the job. The commit has the files of the parts already.
        tables: Empty tables to start from, so that `finish` finds each of them.
        commit: Opens the commit; by default one of plain files.
        records: The records that `finish` writes, by name, each with the identity of its result; by default one with
            the name and the identity of the job. Empty for a job that writes none.
        remedy: How to replace a result that was made in another way.
        anew: The option that drops the work of an interrupted run.
        begin: Called with the remaining units before the first of them is done; rejects a disk that is too small.
    """

    name: str
    home: Path
    identity: Mapping[str, Any]
    units: Sequence[Unit]
    work: Simple
    finish: Callable[[Tables, Any, dict[str, Any]], Result]
    tables: Tables = field(default_factory=dict)
    commit: Callable[[Path], Commit] = Commit
    records: Mapping[str, Mapping[str, Any]] | None = None
    remedy: str = REMEDY
    anew: str = "--overwrite"
    begin: Callable[[Sequence[Unit]], None] | None = None

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.home / WORK / slug(self.name)

    @property
    def expected_records(self) -> Mapping[str, Mapping[str, Any]]:
        """The identities that earlier records must have, by name."""
        return {self.name: self.identity} if self.records is None else self.records

    @property
    def about(self) -> dict[str, Any]:
        """The identity with the version, after a round trip through JSON."""
        return with_version(self.identity)


def run_job(job: Job[Result], crew: Crew | None = None, *, resume: bool = False, overwrite: bool = False) -> Result:
    """Run a job to its end.

    Args:
        job: The job.
        crew: Who does the work; by default this process.
        resume: Continue a run that was interrupted, and use its finished units.
        overwrite: Replace a result that was made in another way, and drop the work of an interrupted run.

    Returns:
        What `job.finish` returns.

    Raises:
        CatalogError: The result exists and was made in another way; there is an interrupted run, of another job or
            without `resume` or `overwrite`; two units share a key; another process writes to the folder.
        StorageError: The disk is full, cannot be written, or fails.
    """
    crew, started = crew or Crew(), time.time()
    crew.processes  # noqa: B018 - an invalid number is rejected before anything is written
    check_unit_keys(job.name, job.units)
    make_folder(job.home)
    check_work(job.home / WORK)
    with writing(job.home):
        settle(job.home)
        if not overwrite:
            for name, identity in job.expected_records.items():
                check_record(job.home, name, identity, job.remedy)
        _open_work(job, resume=resume, overwrite=overwrite)
        try:
            parts = _do_units(job, crew, _Origin(job))
        except BaseException:
            _leave_work(job)
            raise
        tables = _gather(job, parts)
        commit = job.commit(job.home)
        try:
            for part in parts:
                for name in part.files:
                    commit.move(part.folder / FILES / name, name)
            result = job.finish(tables, commit, {"job": job.about, **run_facts(started), "workers": crew.workers})
            commit.finish(done_with=job.folder.name)
        except BaseException:
            commit.abandon()
            raise
        return result


@contextmanager
def result_folder(out: Path | None) -> Iterator[Path]:
    """Yield the folder of a result, or a temporary one for a result that is only returned."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="clicksim-job-") as home:
        yield Path(home)


def with_version(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with the version of clicksim, after a round trip through JSON."""
    about: dict[str, Any] = json.loads(json.dumps({"clicksim": __version__, **identity}, sort_keys=True))
    return about


def record_name(name: str) -> str:
    """Return the name of a job's record, relative to the folder of its result."""
    return f"{RUNS}/{name}.json"


def read_record(home: Path, name: str) -> dict[str, Any] | None:
    """Read the record of a finished job; None if there is none.

    Raises:
        CatalogError: The record is damaged.
    """
    file = home / record_name(name)
    try:
        record = json.loads(read_bounded(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(f"{file} is not the record of a run: {error}; delete it, or use --overwrite") from error
    if not isinstance(record, dict):
        raise CatalogError(f"{file} is not the record of a run; delete it, or use --overwrite")
    return record


def write_record(commit: Commit, name: str, facts: Mapping[str, Any]) -> None:
    """Write the facts of a run that are in no table: what made it, who, when, on which machine, how it ended."""
    commit.text(record_name(name), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def check_record(home: Path, name: str, identity: Mapping[str, Any], remedy: str = REMEDY) -> None:
    """Refuse to replace a result that was made in another way.

    Raises:
        CatalogError: The result was made in another way; the message names the settings that differ.
    """
    record = read_record(home, name)
    if record is not None and "job" in record and (differing := differences(record["job"], with_version(identity))):
        raise CatalogError(
            f"{home} has a result called {name} that was made in another way: {up_to_ten(differing)}; {remedy}"
        )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """List the differences between two pieces of plain data, each as a phrase.

    >>> differences({"seed": 1, "settings": {"n": 3}}, {"seed": 2, "settings": {"n": 3}})
    ['seed is 1 there and 2 here']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            found += differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        return found
    if before == now:
        return []
    return [f"{name or 'it'} is {_short(before)} there and {_short(now)} here"]


def run_facts(started: float) -> dict[str, Any]:
    """Return who ran what, when and where, for the records in `runs/`."""
    return {
        "started": _instant(started),
        "ended": _instant(time.time()),
        "seconds": round(max(0.0, time.time() - started), 3),  # a clock may be set back
        "user": _user(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "clicksim": __version__,
        "command": sys.argv,
    }


def tables_of(outcome: Outcome) -> Tables:
    """Return the outcome as tables of the catalog's schema."""
    return {name: rows_to_table(name, rows) for name, rows in outcome.tables().items()}


class _Origin:
    """The origin of a part: the job, the content of its unit, and the files that the unit reads."""

    def __init__(self, job: Job[Any]) -> None:
        self.identity = json.dumps(job.about, sort_keys=True)

    def __call__(self, unit: Unit) -> dict[str, str]:
        content, inputs = digest_content(unit.content), fingerprint(unit.inputs)
        return {"job": self.identity, "unit": unit.key, "content": content, "inputs": inputs}


def check_unit_keys(name: str, units: Sequence[Unit]) -> None:
    """Reject units that share a key: one of two would be lost.

    Raises:
        CatalogError: Two units of the job or source called `name` share a key.
    """
    twice = [key for key, count in Counter(unit.key for unit in units).items() if count > 1]
    if twice:
        raise CatalogError(f"{name} plans several units with the key {up_to_ten(twice)}; plan one for each key")


def _open_work(job: Job[Any], *, resume: bool, overwrite: bool) -> None:
    """Make the work folder, or continue with that of an interrupted run."""
    head = job.folder / JOB
    if job.folder.exists() and overwrite and not resume:
        drop(job.folder)
    for old in job.folder.glob(".writing-*"):
        discard(old)
    for mark in job.folder.glob(f"{BEGUN}*"):  # of an interrupted run, which ended by no fault of a unit
        mark.unlink()
    if any(path.name != JOB for path in job.folder.glob("*")):
        there = f"an interrupted run of {job.name} left finished work in {job.folder}"
        before = _identity_of(head)
        if before is not None and (differing := differences(before, job.about)):
            raise CatalogError(f"{there}, made in another way: {up_to_ten(differing)}; drop it with {job.anew}")
        if not resume:
            raise CatalogError(f"{there}; continue with --resume, or start again with {job.anew}")
    make_folder(job.folder)
    write_text(head, json.dumps(job.about, indent=1, sort_keys=True))


def _leave_work(job: Job[Any]) -> None:
    """Delete the work folder if no unit was finished, so that nothing has to be resumed or dropped."""
    with suppress(OSError):
        if [path.name for path in job.folder.iterdir()] == [JOB]:
            (job.folder / JOB).unlink()
            job.folder.rmdir()
            job.folder.parent.rmdir()


def _identity_of(head: Path) -> Any:
    """Read the identity of an interrupted run; None if its file is missing or damaged, since each part has it too."""
    try:
        return json.loads(read_bounded(head))
    except (OSError, ValueError, RecursionError):
        return None


def _do_units(job: Job[Any], crew: Crew, origin: _Origin) -> list[Part]:
    """Return the parts of all units, in their order. An invalid part is made again, with a note."""
    parts: dict[str, Part] = {}
    left, stale = [], []
    for unit in job.units:
        is_there = part_folder(job.folder, unit).exists()
        part = read_part(job.folder, unit, origin(unit)) if is_there else None
        if part is not None and not part.died:  # there may be more memory now
            parts[unit.key] = part
            continue
        left.append(unit)
        if is_there and part is None:
            stale.append(unit.key)
    if stale:
        crew.say(f"done again, because the finished work or its inputs have changed: {up_to_ten(stale)}")
    if job.begin:
        job.begin(left)
    for _ in range(TRIES):
        rejected = sum(part.rejected for part in parts.values())
        for unit in crew.do(_work_of(job, crew, origin), left, partial(give_up, job.folder, origin)):
            part = read_part(job.folder, unit, origin(unit), contents=False)
            if part is not None:
                parts[unit.key] = part
                rejected += part.rejected
                if crew.progress:
                    crew.progress(len(parts), len(job.units), rejected)
        left = [unit for unit in left if unit.key not in parts]
        if not left:
            return [parts[unit.key] for unit in job.units]
    raise CatalogError(
        f"{len(left)} units have no valid part in {job.folder}, such as {left[0].key}: its inputs change while it "
        "runs, or the file server does not show it yet; wait until this ends, and continue with --resume"
    )


def _work_of(job: Job[Any], crew: Crew, origin: "_Origin") -> Callable[[Unit], None]:
    """Return what a worker does with a unit; paths are absolute, since it may run in another folder."""
    do = do_unit if crew.executor is None else start_unit
    return partial(do, job.work, job.folder.resolve(), origin)


def do_unit(work: Simple, folder: Path, origin: "_Origin", unit: Unit) -> None:
    """Do a unit and write its part; runs in any process.

    Raises:
        StorageError: The disk is full, cannot be written, or fails.
    """
    with storing(folder):
        writer = PartWriter(folder, unit, origin(unit))
        try:
            writer.finish(work(unit, writer.files))
        except MemoryError:
            writer.abandon()
            give_up(folder, origin, unit, "memory ran out while the process worked on this")
        except BaseException:
            writer.abandon()
            raise


def start_unit(work: Simple, folder: Path, origin: "_Origin", unit: Unit) -> None:
    """Do a unit on a cluster, which does not say why a process died: each start leaves a mark, and two are allowed.

    A cluster starts a lost unit again by itself, as often as it is configured to, even if the unit was done when its
    process died, and also blames units that only waited there. The marks blame only units that had begun; a finished
    unit is kept.
    """
    if read_part(folder, unit, origin(unit), contents=False):
        return
    for number in range(STARTS):
        mark = folder / f"{BEGUN}{number}-{slug(unit.key)}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            continue
        do_unit(work, folder, origin, unit)
        return
    give_up(folder, origin, unit)


def give_up(
    folder: Path, origin: "_Origin", unit: Unit, what: str = "the process died twice while it worked on this"
) -> None:
    """Write the part of a unit that cannot be done: one rejection, whose path is the unit's key."""
    outcome = Outcome()
    outcome.reject(DIED, f"{what}; is there enough memory? Try fewer workers", path=unit.key)
    PartWriter(folder, unit, origin(unit), died=True).finish(tables_of(outcome))


def _gather(job: Job[Any], parts: Sequence[Part]) -> Tables:
    """Join the tables of all parts, each to its empty table."""
    pieces = {name: [table] for name, table in job.tables.items()}
    for start in range(0, len(parts), GATHERED):
        found: dict[str, list[pa.Table]] = {}
        for part in parts[start : start + GATHERED]:
            for name, table in part.tables().items():
                found.setdefault(name, []).append(table)
        for name, tables in found.items():
            pieces.setdefault(name, []).append(_join(tables))
    return {name: _join(tables) for name, tables in pieces.items()}


def _join(tables: Sequence["pa.Table"]) -> "pa.Table":
    """Join tables into contiguous columns: a chunk of a few rows takes many times the memory of its content."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, default=str)
    if len(text) <= LONGEST_VALUE:
        return text
    half = LONGEST_VALUE // 2
    return f"{text[:half]}...{text[-half:]}"  # two paths often differ at their ends


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

"""The points of a job, and one point played to its end.

`kill`         SIGKILL for the whole process group at operation N; a write is done to its half
`kill-one`     SIGKILL for the one process that does operation N: for jobs with workers
`power`        a power cut before operation N: what was not flushed is gone, names and contents (`durable`: `strict`)
`power-names`  the same where names are on the disk before contents (`durable`: `names`)
`error`        operation N fails once with ENOSPC, EIO or ESTALE in turn, as far as such a call gives them

Where two points leave the same tree, it is recovered once and counts for both.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import durable, preload
from tests.crash.declared import CrashJob, spell
from tests.crash.forked import Host, copy_tree
from tests.crash.verdict import (
    CrashFinding,
    Sound,
    check_kept,
    check_manners,
    check_reader,
    check_result,
    list_tree,
    read_catalogs,
    recover,
)

MODES = ("kill", "kill-one", "power", "power-names", "error")


@dataclass
class Trace:
    """A job that ran undisturbed, written down.

    Attributes:
        job: The job.
        words: Its command.
        base: The tree that it began from.
        operations: All of its file operations.
        snaps: Flushed contents.
        sound: Trees and tables before and after.
        root: Where the tree was.
    """

    job: CrashJob
    words: list[str]
    base: Path
    operations: Sequence[durable.Operation]
    snaps: Path
    sound: Sound
    root: Path
    _states: dict[str, list[str]] = field(default_factory=dict)

    def modes(self) -> list[str]:
        """The modes that make sense for the job."""
        return [mode for mode in MODES if mode != "kill-one" or self.job.workers]

    def points(self, mode: str) -> int:
        """How many points there are."""
        return len(self.operations) + (mode.startswith("power"))  # the last cut is after the end

    def state(self, mode: str, at: int) -> str:
        """A name for the tree that a point leaves; equal names, equal trees. Empty where that is not known."""
        if mode.startswith("power"):
            model = "strict" if mode == "power" else "names"
            if model not in self._states:
                self._states[model] = durable.mark_states(self.root, self.base, self.snaps, self.operations, model)
            return self._states[model][at - 1]
        if mode == "kill" and not self.job.workers:
            # before an operation the tree is that after the one before it
            ops = self.operations
            while at > 1 and ops[at - 1].kind not in ("write", "copy") and not ops[at - 2].changes:
                at -= 1
            return str(at)
        return ""


class Unsound(Exception):  # noqa: N818 - what a job is, not what went wrong
    """A job that cannot be tested: it fails by itself, or ends differently each time."""


def trace_job(host: Host, job: CrashJob, base: Path, inputs: Path) -> Trace:
    """Run a job undisturbed, twice, and write it down.

    Raises:
        Unsound: It does not end well, or not with the same bytes.
    """
    words, ends = spell(job.words, inputs, host.tree), []
    for _ in range(2):
        host.fill(base)
        before, tables_before = list_tree(host.tree), read_catalogs(host, job)
        host.shim.forget()
        ended = host.run(words, flags=preload.TRACE)
        if ended.code != 0 or ended.left:
            raise Unsound(f"{job.name} ended with {ended.code}, left {ended.left}: {ended.told} {ended.said}")
        ends.append(list_tree(host.tree))
    if ends[0] != ends[1]:
        differing = [name for name in {**ends[0], **ends[1]} if ends[0].get(name) != ends[1].get(name)]
        raise Unsound(f"{job.name} ends differently each time: {differing}")
    operations = durable.read_log(host.shim.log)
    snaps = host.home / "traces" / job.name
    copy_tree(host.shim.snaps, snaps)
    tables_after = read_catalogs(host, job)
    sound = Sound(before, ends[0], tables_before, tables_after)
    return Trace(job, words, base, operations, snaps, sound, host.tree)


def play_point(host: Host, trace: Trace, mode: str, at: int) -> list[CrashFinding]:
    """Stop a job at one operation, and look at what comes of it."""
    job, sound = trace.job, trace.sound
    if mode.startswith("power"):
        host.fill(trace.base)
        model = "strict" if mode == "power" else "names"
        durable.write_state(host.tree, trace.base, trace.snaps, trace.operations[: at - 1], model, host.tree)
        return _after_crash(host, trace, at)
    host.fill(trace.base)
    shim = {
        "kill": preload.KILL_GROUP,
        "kill-one": preload.KILL_ONE,
        "error": preload.FAIL,
    }[mode]
    ended = host.run(trace.words, mode=shim, at=at, number=at)
    if not ended.acted and not job.workers:
        return [CrashFinding("itself", "code", f"the job had no operation {at} this time")]
    if mode == "kill" and ended.acted:
        return _after_crash(host, trace, at)
    killed = mode == "kill-one" and ended.code == -9
    if killed:
        return _after_crash(host, trace, at)
    found = check_manners("itself", ended)
    if ended.code == 0 and not found:
        return check_result("itself", sound, host)
    return [*found, *_after_crash(host, trace, at)]


def _after_crash(host: Host, trace: Trace, at: int) -> list[CrashFinding]:
    """What the reader sees, then `--resume`, then on a copy of the same tree the plain command."""
    job, sound, aside = trace.job, trace.sound, host.home / "aside"
    copy_tree(host.tree, aside)
    found = check_kept(sound, host.tree)
    found += check_reader(job, sound, read_catalogs(host, job))
    if job.resume:
        found += recover(host, job, sound, trace.words, "resume", at)
        host.fill(aside)
    found += recover(host, job, sound, trace.words, "plain", at)
    shutil.rmtree(aside)
    return found


def all_points(trace: Trace, modes: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Mode and number of every point of a job."""
    for mode in trace.modes():
        if mode in modes:
            yield from ((mode, at) for at in range(1, trace.points(mode) + 1))

"""The points of a job, and one point played to its end.

`kill`         SIGKILL for the whole process group at operation N; a write is done to its half
`kill-one`     SIGKILL for the one process that does operation N: for jobs with workers
`power`        a power cut before operation N: what was not flushed is gone, names and contents (`durable`: `strict`)
`power-names`  the same where names are on the disk before contents (`durable`: `names`)
`error`        operation N fails once with ENOSPC, EIO or ESTALE in turn, as far as such a call gives them
`SIGINT`, `SIGTERM`, `SIGHUP`
               the signal at one of 20 instants, of which every other one is an operation and the rest a time: for jobs
               with `signals`; Ctrl-C and the end of a terminal reach the whole group, SIGTERM the one process

Where two points leave the same tree, it is recovered once and counts for both.
"""

import hashlib
import json
import shutil
import signal
from collections.abc import Sequence
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
    check_seals,
    last_line,
    list_tree,
    read_catalogs,
    recover,
)

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
MODES = ("kill", "kill-one", "power", "power-names", "error", *SIGNALS)
INSTANTS = 20


@dataclass
class Trace:
    """A job that ran undisturbed, written down.

    Attributes:
        job: The job.
        words: Its command.
        seconds: How long it took.
        base: The tree that it began from.
        operations: All of its file operations.
        snaps: Flushed contents.
        sound: Trees and tables before and after.
        root: Where the tree was.
        recovered: What came of a tree after a crash, by its digest.
    """

    job: CrashJob
    words: list[str]
    seconds: float
    base: Path
    operations: Sequence[durable.Operation]
    snaps: Path
    sound: Sound
    root: Path
    _states: dict[str, list[str]] = field(default_factory=dict)
    recovered: dict[str, list[CrashFinding]] = field(default_factory=dict)

    @property
    def again(self) -> list[str]:
        """The command after a crash: by itself, as workers cost seconds and change nothing."""
        if "--workers" not in self.words:
            return self.words
        place = self.words.index("--workers")
        return self.words[:place] + self.words[place + 2 :]

    def modes(self) -> list[str]:
        """The modes that make sense for the job."""
        idle = {*(() if self.job.workers else ("kill-one",)), *(() if self.job.signals else SIGNALS)}
        return [mode for mode in MODES if mode not in idle]

    def points(self, mode: str) -> int:
        """How many points there are."""
        if mode in SIGNALS:
            return INSTANTS
        return len(self.operations) + (mode.startswith("power"))  # the last cut is after the end

    def state(self, mode: str, at: int) -> str:
        """A name for the tree that a point leaves; equal names, equal trees. Empty where that is not known."""
        if mode.startswith("power"):
            model = "strict" if mode == "power" else "names"
            if model not in self._states:
                self._states[model] = durable.mark_states(self.root, self.base, self.snaps, self.operations, model)
            return self._states[model][at - 1] + (" end" if at > len(self.operations) else "")
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
    return Trace(job, words, ended.seconds, base, operations, snaps, sound, host.tree)


def play_point(host: Host, trace: Trace, mode: str, at: int) -> list[CrashFinding]:
    """Stop a job at one operation, and look at what comes of it."""
    host.fill(trace.base)
    if mode.startswith("power"):
        return _cut_power(host, trace, "strict" if mode == "power" else "names", at)
    if mode in SIGNALS:
        return _send(host, trace, mode, at)
    shim = {"kill": preload.KILL_GROUP, "kill-one": preload.KILL_ONE, "error": preload.FAIL}[mode]
    ended = host.run(trace.words, mode=shim, at=at, number=at)
    if not ended.acted and not trace.job.workers:
        return [CrashFinding("itself", "harness", f"the job had no operation {at} this time")]
    if ended.acted and mode != "error" and ended.code == -signal.SIGKILL:
        return _after_crash(host, trace)
    found = check_manners("itself", ended)
    if mode == "error" and ended.in_child and not trace.job.workers and not found:
        return []  # it met a program of the user, such as a predictor, whose failure is a result
    if ended.code == 0 and not found:
        return check_result("itself", trace.sound, host)
    return [*found, *_after_crash(host, trace)]


def _cut_power(host: Host, trace: Trace, model: str, at: int) -> list[CrashFinding]:
    operations = trace.operations[: at - 1]
    durable.write_state(host.tree, trace.base, trace.snaps, operations, model, host.tree)
    found = []
    if at > len(trace.operations):  # it had said that it was done
        lacking = [wrong for wrong in check_result("end", trace.sound, host) if wrong.kind == "differs"]
        found = [CrashFinding("end", "volatile", wrong.detail) for wrong in lacking]
    return [*found, *_after_crash(host, trace)]


def _send(host: Host, trace: Trace, mode: str, at: int) -> list[CrashFinding]:
    """Send a signal; what the command leaves must be in order, and it must say how to go on."""
    number, whole = signal.Signals[mode], mode != "SIGTERM"
    if at % 2:
        operation = 1 + (at - 1) * len(trace.operations) // INSTANTS
        ended = host.run(trace.words, mode=preload.SIGNAL, at=operation, number=number, group=whole)
    else:
        ended = host.run(trace.words, after_s=trace.seconds * at / (INSTANTS + 1), number=number, group=whole)
    if ended.code == 0:  # it was over already, or as good as that
        return check_result("itself", trace.sound, host)
    found = check_manners("itself", ended, (128 + number, -number))
    told = [line for line in ended.said.splitlines() if "--resume" in line or "again" in line]
    if not told:
        found.append(CrashFinding("itself", "silent", f"it does not say how to go on: {last_line(ended.said)}"))
    if temporary := host.temporary():
        found.append(CrashFinding("itself", "temporary", ", ".join(temporary)))
    return [*found, *_after_crash(host, trace)]


def _after_crash(host: Host, trace: Trace) -> list[CrashFinding]:
    """What the reader sees, then `--resume`, then on a copy of the same tree the plain command."""
    job, sound, aside = trace.job, trace.sound, host.home / "aside"
    files = json.dumps(list_tree(host.tree))
    digest, turn = hashlib.sha256(files.encode()).hexdigest(), len(trace.recovered)
    if digest in trace.recovered:
        return trace.recovered[digest]
    copy_tree(host.tree, aside)
    found = [*check_kept(sound, host.tree), *check_seals(job, sound, host.tree)]
    found += check_reader(job, sound, read_catalogs(host, job))
    if job.resume:
        found += recover(host, job, sound, trace.again, "resume", turn)
        host.fill(aside)
    found += recover(host, job, sound, trace.again, "plain", turn)
    shutil.rmtree(aside)
    trace.recovered[digest] = found
    return found

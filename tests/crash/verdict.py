"""What must be true after a crash.

1. Directly after it, what was committed before is there, byte by byte, and a reader opens every catalog and sees the
   tables of before the job or those of after it, never some of each.
2. `--resume`, where the command has it, ends with the bytes of an undisturbed run; so does the plain command, on a copy
   of the same tree. Either may refuse with one line that says what to do, and doing it works.
3. Nothing of a run stays behind but the lock file. Exit codes are 0 (done) and 1 (refused), no traceback is shown, and
   no process outlives the command.

Compared are names and bytes of all files, without the bytes of wall-clock facts.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.declared import FACTS, CrashJob
from tests.crash.forked import TRACEBACK, Ended, Host

LOCKS = (".lock",)
STEPS = 4
"""A refusal may lead to another one so often."""


@dataclass(frozen=True)
class CrashFinding:
    """What was wrong after a crash.

    Attributes:
        step: `itself` for the command that met the fault, `reader`, `resume` or `plain`, `end` after a power
            cut right behind the end.
        kind: One word: `lost`, `mixture`, `unreadable`, `differs`, `leftover`, `traceback`, `silent`, `code`, `stuck`,
            `hang`, `processes`, `temporary`, `volatile` (it was said to be done, and is not on the disk).
        detail: What exactly.
    """

    step: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Sound:
    """A job that nothing disturbed.

    Attributes:
        before, after: Digests of files by name; an empty one for a folder.
        tables_before, tables_after: What a reader sees, by catalog.
    """

    before: dict[str, str]
    after: dict[str, str]
    tables_before: dict[str, Any]
    tables_after: dict[str, Any]

    @property
    def untouched(self) -> dict[str, str]:
        """What the job leaves as it is."""
        return {name: digest for name, digest in self.before.items() if self.after.get(name) == digest}


def list_tree(tree: Path) -> dict[str, str]:
    """Digests of files by name; that of a folder is empty, that of wall-clock facts says so."""
    found = {}
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = ""
        elif any(f"/{name}".endswith(f"/{fact}") or f"/{fact}" in f"/{name}" for fact in FACTS):
            found[name] = "facts"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: digest for name, digest in found.items() if name.rpartition("/")[2] not in LOCKS}


def read_catalogs(host: Host, job: CrashJob) -> dict[str, Any]:
    """What a reader sees in each catalog of the tree, in a process of its own."""
    out = host.side / "read.json"
    out.unlink(missing_ok=True)

    def look() -> int:
        out.write_text(json.dumps({name: read_tables(host.tree / name) for name in job.catalogs}))
        return 0

    ended = host.call(look)
    if ended.code != 0 or not out.exists():
        return {"error": f"the reader ended with {ended.code}: {last_line(ended.said)}"}
    return json.loads(out.read_text())


def read_tables(folder: Path) -> dict[str, str]:
    """A digest of each part of each table; an error by its message; nothing where there is no catalog."""
    from clicksim.catalog import open_catalog
    from clicksim.catalog.schema import TABLES

    if not (folder / "catalog.json").exists():
        return {}
    found = {}
    try:
        catalog = open_catalog(folder)
        for name in dict.fromkeys((*TABLES, "prompts")):
            if name == "sources":
                for row in catalog.sources.to_pylist():
                    found[f"sources/{row['source']}"] = _digest(row)
                continue
            for part in catalog.parts(name):
                found[f"{name}/{part}"] = _digest(catalog.table(name, part).to_pylist())
    except Exception as error:  # whatever a reader may meet is a finding
        return {"error": f"{type(error).__name__}: {error}"}
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()[:16]


def check_reader(job: CrashJob, sound: Sound, seen: dict[str, Any]) -> list[CrashFinding]:
    """Whether a reader sees the tables of before or of after."""
    if "error" in seen:
        return [CrashFinding("reader", "unreadable", seen["error"])]
    found = []
    for catalog, tables in seen.items():
        if "error" in tables:
            found.append(CrashFinding("reader", "unreadable", f"{catalog}: {tables['error']}"))
            continue
        old, new = sound.tables_before[catalog], sound.tables_after[catalog]
        names = sorted({*old, *new, *tables})
        of = {name: _which(tables.get(name), old.get(name), new.get(name)) for name in names}
        odd = [f"{name} ({which})" for name, which in of.items() if which in ("neither", "gone", "unknown")]
        if odd:
            found.append(CrashFinding("reader", "mixture", f"{catalog}: {', '.join(odd)}"))
        elif not job.each and {"old", "new"} <= set(of.values()):
            there = [name for name, which in of.items() if which == "new"]
            absent = [name for name, which in of.items() if which == "old"]
            detail = f"{catalog}: new {', '.join(there)}; still old {', '.join(absent)}"
            found.append(CrashFinding("reader", "mixture", detail))
    return found


def _which(seen: str | None, old: str | None, new: str | None) -> str:
    if seen == old == new:
        return "same"
    if seen == new:
        return "new"
    if seen == old:
        return "old"
    return "gone" if seen is None else "neither" if old or new else "unknown"


def check_kept(sound: Sound, tree: Path) -> list[CrashFinding]:
    """Whether all is there that the job should leave alone."""
    now = list_tree(tree)
    lost = [name for name, digest in sound.untouched.items() if now.get(name) != digest]
    return [CrashFinding("reader", "lost", _names(lost))] if lost else []


def check_seals(job: CrashJob, sound: Sound, tree: Path) -> list[CrashFinding]:
    """Whether all is there where a file says so."""
    now = list_tree(tree)
    found = []
    for seal in job.seals:
        if now.get(seal, "") != sound.after[seal]:
            continue
        lacking = [name for name, digest in sound.after.items() if now.get(name) != digest]
        if lacking:
            found.append(CrashFinding("reader", "mixture", f"{seal} is there, and not {_names(lacking)}"))
    return found


def check_manners(step: str, ended: Ended, codes: Sequence[int] = (0, 1)) -> list[CrashFinding]:
    """Whether a command ended as a command should."""
    if ended.code is None:
        return [CrashFinding(step, "hang", "it had not ended after a minute")]
    found = []
    if TRACEBACK in ended.said:
        found.append(CrashFinding(step, "traceback", last_line(ended.said)))
    if ended.code not in codes:
        found.append(CrashFinding(step, "code", f"exit code {ended.code}: {last_line(ended.said)}"))
    elif ended.code == 1 and TRACEBACK not in ended.said and not refusal(ended):
        found.append(CrashFinding(step, "silent", f"exit code 1: {last_line(ended.said)}"))
    if ended.left:
        found.append(CrashFinding(step, "processes", "; ".join(ended.left)))
    return found


def check_result(step: str, sound: Sound, host: Host) -> list[CrashFinding]:
    """Whether the tree is that of an undisturbed run, and nothing else is left."""
    now = list_tree(host.tree)
    found = []
    differing = [name for name, digest in sound.after.items() if now.get(name) != digest]
    if differing:
        about = [f"{name} ({'absent' if name not in now else 'other bytes'})" for name in differing]
        found.append(CrashFinding(step, "differs", _names(about)))
    extra = [name for name in now if name not in sound.after]
    if extra:
        found.append(CrashFinding(step, "leftover", _names(extra)))
    if temporary := host.temporary():
        found.append(CrashFinding(step, "temporary", _names(temporary)))
    return found


def hidden(sound: Sound) -> list[str]:
    """Hidden files that an undisturbed run leaves, but for the lock."""
    return [name for name in sound.after if name not in sound.before and "/." in f"/{name}"]


def recover(host: Host, job: CrashJob, sound: Sound, words: Sequence[str], step: str, turn: int) -> list[CrashFinding]:
    """Run the command again until it is done, doing what its refusals say.

    Args:
        host: With the tree after the crash in its box.
        job: The job.
        sound: How it ends undisturbed.
        words: The command.
        step: `resume` or `plain`.
        turn: Where a refusal names two ways, the even turns take the first and the odd ones the second.
    """
    host.clear_temporary()  # what a kill leaves there is nobody's fault
    line = [*words, "--resume"] if step == "resume" else list(words)
    said: list[str] = []
    for _ in range(STEPS):
        ended = host.run(line)
        if found := check_manners(step, ended):
            return found
        if ended.code == 0:
            return check_result(step, sound, host)
        told = refusal(ended)
        if told in said:
            return [CrashFinding(step, "stuck", f"doing what it says does not help: {told}")]
        said.append(told)
        following = follow(told, line, job, host.tree, turn)
        if following is None:
            return [CrashFinding(step, "stuck", f"it does not say what to do: {told}")]
        line = following
    return [CrashFinding(step, "stuck", f"refused {STEPS} times: {' / '.join(said)}")]


def follow(told: str, line: Sequence[str], job: CrashJob, tree: Path, turn: int) -> list[str] | None:
    """Do what a refusal says; returns the command to call then, None where it says nothing that can be done."""
    ways: list[list[str]] = []
    if "--resume" in told and job.resume and "--resume" not in line:
        ways.append([*line, "--resume"])
    for option in ("--overwrite", "--replace"):
        if option in told and option not in line:
            ways.append([*line, option])
    if "delete" in told and (named := _named(told, tree)):
        ways.append([f"delete {place}" for place in named])
    if not ways and "again" in told:
        return list(line)
    if not ways:
        return None
    way = ways[turn % len(ways)]
    if way[0].startswith("delete "):
        for text in way:
            place = Path(text.removeprefix("delete "))
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        return [word for word in line if word != "--resume"]
    return way


def _named(told: str, tree: Path) -> list[Path]:
    """Paths below the tree that a message names, of which the message says that they may go."""
    words = [word.strip("'\"`.,:;()") for word in told.split()]
    places = [tree / word for word in words if word and (tree / word).exists() and (tree / word) != tree]
    return [place for place in places if place.resolve().is_relative_to(tree.resolve()) and "." in place.name]


def refusal(ended: Ended) -> str:
    """The one line of a refusal; empty where there is none."""
    lines = [line for line in ended.said.splitlines() if re.match(r"(clicksim|clickseg): ", line)]
    return lines[-1] if lines else ""


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more

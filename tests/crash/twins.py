"""Small jobs that the harness is tried on: one that is safe at every operation, and twins that are spoiled in one way.

Each copies two lines into `out/result` by way of two parts, as the real jobs do. The harness must find nothing in
`safe`, and each spoiled one in the mode that is named in `SPOILED`.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.crash.declared import CrashJob

OUT, PARTS, OLD = Path("out"), Path("out/.parts"), Path("out/.old")
LINES = ("first\n", "second\n")


def write_flushed(file: Path, text: str) -> None:
    """Write a file under another name, flush it, give it its name, and flush the folder."""
    temporary = file.with_name(f".writing-{file.name}")
    with temporary.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    flush_folder(file.parent)


def flush_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def copy_lines(write: Callable[[Path, str], None] = write_flushed, *, aside: bool = True, flush: bool = True) -> None:
    """The job: parts, then the result from all parts that are there, then the parts go."""
    shutil.rmtree(OLD, ignore_errors=True)
    for file in OUT.glob("**/.writing-*"):
        file.unlink()
    PARTS.mkdir(parents=True, exist_ok=True)
    if flush:
        flush_folder(Path())
        flush_folder(OUT)
    for number, line in enumerate(LINES):
        file = PARTS / str(number)
        if not file.exists() and not (OUT / "result").exists():
            write(file, line)
    if not (OUT / "result").exists() or not aside:
        write(OUT / "result", "".join(file.read_text() for file in sorted(PARTS.glob("[0-9]"))))
    if aside:
        PARTS.rename(OLD)
        shutil.rmtree(OLD)
    else:
        shutil.rmtree(PARTS)


def safe() -> None:
    copy_lines()
    time.sleep(0.3)


def deletes_in_place() -> None:
    """The parts are deleted one by one under the name by which they are found again: of two the second is left."""
    if PARTS.exists() and (OUT / "result").exists() and any(PARTS.iterdir()):
        (OUT / "result").unlink()
        (OUT / "result").write_text("".join(file.read_text() for file in sorted(PARTS.glob("[0-9]"))))
        shutil.rmtree(PARTS)
        return
    copy_lines(aside=False)


def flushes_nothing() -> None:
    """The result is said to be there, and is not on the disk."""
    copy_lines(write_unflushed, flush=False)


def write_unflushed(file: Path, text: str) -> None:
    temporary = file.with_name(f".writing-{file.name}")
    temporary.write_text(text)
    temporary.replace(file)


def hides_errors() -> None:
    """What the disk refuses is taken for an empty part."""

    def write(file: Path, text: str) -> None:
        try:
            write_flushed(file, text)
        except OSError:
            file.touch()

    copy_lines(write)


def shows_traceback() -> None:
    """What the disk refuses ends in a traceback."""
    copy_lines()


def overwrites() -> None:
    """A file that was there before is written anew in place."""
    kept = Path("kept").read_text()
    Path("kept").write_text(kept)
    copy_lines()


def leaves_behind() -> None:
    """Signals end it, but neither its temporary folder nor the process that it started."""
    with tempfile.TemporaryDirectory():
        child = subprocess.Popen(["sleep", "30"], start_new_session=True)
        copy_lines()
        time.sleep(0.3)
        child.kill()
        child.wait()


def trusts_children() -> None:
    """The process that writes a part may die, and nobody asks."""
    PARTS.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(LINES):
        if not (PARTS / str(number)).exists():
            subprocess.run(["sh", "-c", f"echo {line.strip()} > {PARTS / str(number)}"], check=False)
    copy_lines()


def call_twin(words: Sequence[str]) -> int:
    """Run a twin as a program; what a disk refuses is one line, unless the twin is spoiled in that."""
    name = words[1]

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    try:
        if name != "leaves_behind":
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, end)
        globals()[name]()
    except SystemExit as error:
        print("clicksim: stopped; run the command again", file=sys.stderr)
        return int(str(error.code))
    except OSError as error:
        if name == "shows_traceback":
            raise
        print(f"clicksim: {error}; run the command again", file=sys.stderr)
        return 1
    return 0


def _twin(name: str, **how: Any) -> CrashJob:
    return CrashJob(name, f"twin {name}", "kept", catalogs=(), **how)


TWINS = (
    _twin("safe", signals=True),
    _twin("deletes_in_place"),
    _twin("flushes_nothing"),
    _twin("hides_errors"),
    _twin("shows_traceback"),
    _twin("overwrites"),
    _twin("leaves_behind", signals=True),
    _twin("trusts_children", workers=True),
)

SPOILED = (
    ("deletes_in_place", "kill", "differs"),
    ("flushes_nothing", "power", "volatile"),
    ("flushes_nothing", "power-names", "differs"),
    ("hides_errors", "error", "differs"),
    ("shows_traceback", "error", "traceback"),
    ("overwrites", "kill", "lost"),
    ("overwrites", "power-names", "lost"),
    ("leaves_behind", "SIGTERM", "processes"),
    ("leaves_behind", "SIGTERM", "temporary"),
    ("leaves_behind", "SIGHUP", "silent"),
    ("trusts_children", "kill-one", "differs"),
)
"""What the harness must find: in which twin, in which mode, of which kind."""

"""Change several files of a folder in one step.

New files are written and flushed below `.work/commit/`. Then one record, `.work/commit.json`, lists which files to move
and which to remove. From then on the commit is final: if it was interrupted, the next process that opens the folder
completes it. Without the record the staged files are deleted. So a kill or a power cut leaves the old files or the new
ones, never a mixture.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from clicksim.catalog.remote.places import inside
from clicksim.errors import CatalogError
from clicksim.files import flush_folder, flush_tree, make_folder, read_bounded, replacing, storing, write_text

WORK = ".work"
STAGE = "commit"
RECORD = "commit.json"
ASIDE = ".gone-"
PATIENCE_S = 30.0
"""How long a reader waits for the commit of another process, in seconds; such a commit only renames files."""


class Commit:
    """Files of one folder that appear together.

    A name is relative to the folder, with forward slashes. Nothing is visible before `finish`. Then files get their
    names in the order in which they were added, so add the file that marks the result as complete last.
    """

    def __init__(self, home: Path) -> None:
        """Begin a commit; the caller holds the write lock of `home`.

        Args:
            home: An existing folder.
        """
        settle(home)
        self.home = home
        self._stage = home / WORK / STAGE
        self._moves: dict[str, str] = {}
        self._removed: list[str] = []

    @property
    def names(self) -> list[str]:
        """The names that will be written."""
        return list(self._moves)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield the path to write the new content of `name` to; it is flushed when the block ends.

        Raises:
            StorageError: The disk is full, cannot be written, or fails.
            CatalogError: The name leads out of the folder.
        """
        _target(self.home, name)
        staged = self._stage / name
        make_folder(staged.parent)
        with replacing(staged) as temporary:
            yield temporary
        self._moves[name] = staged.relative_to(self.home).as_posix()

    def text(self, name: str, content: str) -> None:
        """Write `name` as UTF-8."""
        with self.file(name) as temporary:
            temporary.write_text(content, encoding="utf-8", newline="\n")

    def link(self, source: Path, name: str) -> None:
        """Give a file elsewhere on the same disk a second name; its content is not copied.

        Raises:
            StorageError: The disk is full, cannot be written, or fails.
            CatalogError: The name leaves the folder.
        """
        _target(self.home, name)
        staged = self._stage / name
        make_folder(staged.parent)
        with storing(staged):
            os.link(source, staged)
        self._moves[name] = staged.relative_to(self.home).as_posix()

    def move(self, source: Path, name: str) -> None:
        """Give a flushed file of the work folder its final name."""
        _target(self.home, name)
        self._moves[name] = source.relative_to(self.home).as_posix()

    def remove(self, name: str) -> None:
        """Remove a file, unless the commit also writes it."""
        _target(self.home, name)
        self._removed.append(name)

    def finish(self, done_with: str | None = None) -> None:
        """Make the commit final, and carry it out.

        Args:
            done_with: A folder of `.work` that is deleted as part of the commit.

        Raises:
            StorageError: The disk is full, cannot be written, or fails. Before the record is written nothing has
                changed; after it the next command completes the commit.
        """
        with storing(self.home):
            work = self.home / WORK
            make_folder(work)
            if self._stage.is_dir():
                flush_tree(self._stage)
            record = {
                "moves": [[source, name] for name, source in self._moves.items()],
                "removed": sorted(set(self._removed) - set(self._moves)),
                "done_with": done_with,
            }
            write_text(work / RECORD, json.dumps(record))
            _carry_out(self.home, record)

    def abandon(self) -> None:
        """Delete staged files, unless the commit is already final; errors of the disk are ignored."""
        if is_settled(self.home):
            with suppress(OSError):
                _clear(self.home / WORK)


def settle(home: Path) -> None:
    """Complete an interrupted commit, or drop one that was not final.

    The caller holds the write lock of `home`.

    Raises:
        CatalogError: The record of the commit is damaged.
        StorageError: The folder cannot be written.
    """
    work = home / WORK
    check_work(work)
    if not work.is_dir():
        return
    with storing(home):
        if (work / RECORD).exists():
            _carry_out(home, _read_record(work / RECORD))
        else:
            _clear(work)


def is_settled(home: Path) -> bool:
    """Check that no commit is in progress in a folder."""
    return not (home / WORK / RECORD).exists()


def wait_until_settled(home: Path) -> bool:
    """Wait for the commit of another process; return whether it ends within `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    while not is_settled(home):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def check_work(work: Path) -> None:
    """Reject a work folder that is a link: deleting in it would delete files elsewhere.

    Raises:
        CatalogError: It is a link.
    """
    if work.is_symlink():
        raise CatalogError(f"{work} is a link; a work folder must be a folder of its own: remove the link")


def drop(folder: Path) -> None:
    """Delete a folder of `.work`. It is renamed first, so that a half-deleted folder never looks complete."""
    if folder.exists():
        aside = folder.with_name(f"{ASIDE}{os.urandom(6).hex()}")
        folder.rename(aside)
        flush_folder(folder.parent)
        shutil.rmtree(aside)


def _carry_out(home: Path, record: dict[str, Any]) -> None:
    """Carry out a record, also after an interruption: each step can be repeated."""
    work = home / WORK
    moves = record["moves"]
    _move_all(home, moves[:-1], record["removed"])
    _move_all(home, moves[-1:], [])  # the file that marks the result as complete reaches the disk last
    if record["done_with"]:
        drop(work / record["done_with"])
    (work / RECORD).unlink()
    flush_folder(work)
    _clear(work)


def _move_all(home: Path, moves: Sequence[Sequence[str]], removed: Sequence[str]) -> None:
    """Rename and remove files, unless that is done already, and flush their folders."""
    folders = set()
    for source, name in moves:
        staged, target = home / source, _target(home, name)
        if os.path.lexists(staged):
            make_folder(target.parent)
            staged.replace(target)
        elif not os.path.lexists(target):
            raise CatalogError(
                f"{home} was being changed when its disk lost {source}; run the command again without --resume"
            )
        folders.add(target.parent)
    for name in removed:
        target = _target(home, name)
        target.unlink(missing_ok=True)
        folders.add(_without_empty_folders(target.parent, home))
    for folder in sorted(filter(Path.is_dir, folders)):
        flush_folder(folder)


def _without_empty_folders(folder: Path, home: Path) -> Path:
    """Remove a folder and its parents below `home` while they are empty; return the first that stays."""
    while folder.resolve() != home.resolve() and (not folder.is_dir() or not any(folder.iterdir())):
        if folder.is_dir():
            folder.rmdir()
        folder = folder.parent
    return folder


def _clear(work: Path) -> None:
    """Delete files that no commit and no job needs, and the work folder if it is then empty."""
    for path in work.glob(f"{ASIDE}*"):
        shutil.rmtree(path)
    for path in work.glob(".writing-*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    if (work / STAGE).is_dir():
        drop(work / STAGE)
    if not any(work.iterdir()):
        work.rmdir()
        flush_folder(work.parent)


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_bounded(file))
        moves = [[str(source), str(name)] for source, name in record["moves"]]
        removed, done_with = [str(name) for name in record["removed"]], record["done_with"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        told = f"{file}, the record of a commit, is damaged ({error!r})"
        raise CatalogError(f"{told}; delete it, and run the command again") from error
    for source, _ in moves:
        if not source.startswith(f"{WORK}/") or ".." in PurePosixPath(source).parts:
            raise CatalogError(f"{file} names {source!r}, which is not in {WORK}; delete it, and try again")
    if done_with is not None and (done_with in ("", ".", "..") or Path(str(done_with)).name != done_with):
        raise CatalogError(f"{file} names {done_with!r}, which is not a folder of {WORK}; delete it, and try again")
    return {"moves": moves, "removed": removed, "done_with": done_with}


def _target(home: Path, name: str) -> Path:
    """Return the file of a name; it may itself be a link, but no folder above it may lead out of `home`."""
    parent, _, last = name.rpartition("/")
    if last in ("", ".", "..") or name.startswith("/"):
        raise CatalogError(f"{name!r} does not name a file of {home}")
    return inside(home, parent or ".") / last

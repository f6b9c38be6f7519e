"""The part of a finished unit: its tables and files, flushed, with a record of what made them.

    .work/<job>/<unit>/tables.arrow     the tables, one Arrow stream after the other
    .work/<job>/<unit>/files/...        files, under the names that they get in the job's folder
    .work/<job>/<unit>/part.json        what made the part, and the length and checksum of each of its files

A part is written under a temporary name. It is valid only if everything in `part.json` is true, so a part that is
missing, short, altered, or made from other inputs is made again.
"""

import hashlib
import json
import os
import pickle
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from clicksim.files import FLUSHABLE, flush_file, flush_folder, flush_tree, read_bounded, slug

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.catalog import Unit

Tables = dict[str, "pa.Table"]
TABLES, FILES, HEAD = "tables.arrow", "files", "part.json"
DIED = "WorkerDied"


@dataclass(frozen=True)
class Part:
    """A part that was checked.

    Attributes:
        folder: Where it is.
        spans: Start and length of each table in its file.
        files: Names of its files, relative to the job's folder.
        rejected: Rows that the unit rejected.
        died: Whether the unit was given up because its process died.
    """

    folder: Path
    spans: Mapping[str, tuple[int, int]]
    files: tuple[str, ...]
    rejected: int
    died: bool

    def tables(self) -> Tables:
        """The tables, read into memory."""
        import pyarrow as pa

        content = (self.folder / TABLES).read_bytes() if self.spans else b""
        return {
            name: pa.ipc.open_stream(pa.BufferReader(content[start : start + length])).read_all()
            for name, (start, length) in self.spans.items()
        }


def part_folder(folder: Path, unit: "Unit") -> Path:
    """Return the folder of a unit's part; every key gives a valid name, and no two keys give the same name."""
    return folder / slug(unit.key)


def fingerprint(files: Iterable[Path]) -> str:
    """Hash the path, size and modification time of every input; a folder counts with all files below it."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(set(files)):
        for path in _files_at(str(file)):
            try:
                status = os.stat(path)  # noqa: PTH116 - as below
                about = [path, status.st_size, status.st_mtime_ns]
            except OSError as error:
                about = [path, error.errno]
            total.update(json.dumps(about).encode())
    return total.hexdigest()


def digest_content(content: Any) -> str:
    """Hash the content of a unit, such as rows of a table; the same in every process."""
    return _digest(json.dumps(_plain(content)).encode())


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; the order of sets and mappings does not count."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, [_plain(getattr(value, part.name)) for part in fields(value)]]
    if isinstance(value, Mapping):
        return ["mapping", sorted(([_plain(key), _plain(value[key])] for key in value), key=repr)]
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted((_plain(entry) for entry in value), key=repr)]
    if isinstance(value, (PurePath, date)):
        return str(value)
    return _digest(pickle.dumps(value, protocol=4))


class PartWriter:
    """A part that is being written: files go below `files`, and `finish` gives the part its name."""

    def __init__(self, folder: Path, unit: "Unit", made_from: Mapping[str, str], *, died: bool = False) -> None:
        """Begin a part.

        Args:
            folder: The job's work folder; it exists.
            unit: The unit of work.
            made_from: The identity of the job and the fingerprint of the unit's inputs.
            died: Whether the unit is given up.
        """
        self._target, self._made_from, self._died = part_folder(folder, unit), made_from, died
        self._temporary = self._target.with_name(f".writing-{secrets.token_hex(4)}-{self._target.name}")
        self.files = self._temporary / FILES
        self.files.mkdir(parents=True)

    def finish(self, tables: Tables) -> None:
        """Write the tables, flush everything, and put the part in place of an earlier one."""
        spans = _write_tables(self._temporary / TABLES, tables)
        about: dict[str, Any] = {
            **self._made_from,
            "died": self._died,
            "spans": spans,
            "rejected": len(tables["rejected"]) if "rejected" in tables else 0,
            "files": {name: _sum_of(self._temporary / name, flush=True) for name in _names_below(self._temporary)},
        }
        text = json.dumps(about, sort_keys=True)
        head = self._temporary / HEAD
        head.write_text(f"{_digest(text.encode())}\n{text}\n", encoding="utf-8")
        flush_file(head)
        flush_tree(self._temporary)
        discard(self._target)
        try:
            self._temporary.rename(self._target)
        except OSError:
            if not self._target.is_dir():  # else a lost copy of this unit on a cluster has written the same part
                raise
            self.abandon()
        flush_folder(self._target.parent)

    def abandon(self) -> None:
        """Delete what was written so far."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def read_part(folder: Path, unit: "Unit", made_from: Mapping[str, str], *, contents: bool = True) -> Part | None:
    """Read the part of a unit; None if there is no valid part.

    Args:
        folder: The job's work folder.
        unit: The unit of work.
        made_from: The identity of the job and the fingerprint of the unit's inputs as they are now.
        contents: Whether to compare the checksums of all files, or only their lengths, as for a part that this run has
            just made.
    """
    place = part_folder(folder, unit)
    try:
        digest, text = read_bounded(place / HEAD).decode().splitlines()
        about = json.loads(text)
        if digest != _digest(text.encode()) or {name: about[name] for name in made_from} != dict(made_from):
            return None
        if not _holds(place, about["files"], contents=contents):
            return None
        spans = {name: (int(start), int(length)) for name, (start, length) in about["spans"].items()}
        files = tuple(name.partition("/")[2] for name in about["files"] if name.startswith(f"{FILES}/"))
        return Part(place, spans, files, int(about["rejected"]), bool(about["died"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _holds(place: Path, listed: Mapping[str, Any], *, contents: bool) -> bool:
    """Check that a part has the files that its head lists, and no others."""
    found = {name: _sum_of(place / name) if contents else _length_of(place / name) for name in _names_below(place)}
    del found[HEAD]
    return found == (dict(listed) if contents else {name: sums[0] for name, sums in listed.items()})


def discard(place: Path) -> None:
    """Delete a part, complete or not; it is renamed first, so that a half-deleted part never looks complete."""
    if not os.path.lexists(place):
        return
    aside = place.with_name(f".writing-{secrets.token_hex(4)}-old")
    place.rename(aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _write_tables(file: Path, tables: Tables) -> dict[str, tuple[int, int]]:
    """Write the tables that have rows; return the start and length of each."""
    import pyarrow as pa

    spans: dict[str, tuple[int, int]] = {}
    kept = {name: table for name, table in tables.items() if len(table)}
    if not kept:
        return spans
    with file.open("wb") as out:
        for name, table in kept.items():
            start = out.tell()
            with pa.ipc.new_stream(out, table.schema) as writer:
                writer.write_table(table)
            spans[name] = (start, out.tell() - start)
    return spans


def _names_below(folder: Path) -> Iterator[str]:
    """Yield the files and links below a folder, relative to it, sorted; links are not followed."""
    for above, below, names in os.walk(folder):
        linked = [name for name in below if (Path(above) / name).is_symlink()]
        below.sort()
        for name in sorted([*names, *linked]):
            yield (Path(above) / name).relative_to(folder).as_posix()


def _sum_of(file: Path, *, flush: bool = False) -> list[Any]:
    """Return the length and checksum of a file; for a link, its target."""
    if file.is_symlink():
        return ["link", str(file.readlink())]
    with file.open(FLUSHABLE if flush else "rb") as opened:
        total = hashlib.blake2b(digest_size=16)
        while block := opened.read(1 << 20):
            total.update(block)
        if flush:
            os.fsync(opened.fileno())
        return [opened.tell(), total.hexdigest()]


def _length_of(file: Path) -> int | str:
    return "link" if file.is_symlink() else file.stat().st_size


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _files_at(path: str) -> Iterator[str]:
    """Yield a file, or the files below a folder, in order; also a path that is missing or cannot be listed."""
    try:
        with os.scandir(path) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield path
        return
    for name, is_folder in found:
        below = os.path.join(path, name)  # noqa: PTH118 - a tree of DICOM has hundreds of thousands of files
        if is_folder:
            yield from _files_at(below)
        else:
            yield below

"""Access a publisher's tree of files: a folder, or a zip archive that is read without unpacking it.

`open_tree` finds where the tree begins. Its methods list the files of a folder, relative to the source, read a small
file, and make any file available on this disk. `inside_source` gives access to the files of a folder and refuses
links that lead out of it.
"""

import os
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

from clicksim.errors import CatalogError, StorageError, up_to_ten
from clicksim.files import storing, unpack
from converters.shared.tables import Rejection

MOST_TABLE_BYTES = 1 << 28


class FolderTree:
    """A tree in a folder.

    Attributes:
        source: The path that the user gave.
        top: The folder in it where the tree begins; empty if that is `source` itself.
        is_archive: Whether files must be unpacked before another program can read them.
    """

    is_archive = False

    def __init__(self, source: Path, top: str) -> None:
        self.source, self.top = source, top

    def files(self, folder: str) -> list[str]:
        """The files in a folder of the tree, sorted, without those that begin with a dot; empty if it is absent.

        Returns:
            Paths relative to the source, for use in the other methods.
        """
        place = PurePosixPath(self.top) / folder
        try:
            with os.scandir(self.source / place) as entries:
                names = [e.name for e in entries if not e.name.startswith(".") and not _is_folder(e)]
            return sorted((place / name).as_posix() for name in names)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def content(self, path: str) -> bytes:
        """The bytes of a small file.

        Raises:
            Rejection: As `inside_source`; `BadTable` if it cannot be read.
        """
        with self.local(path) as (file, _):
            try:
                if file.stat().st_size > MOST_TABLE_BYTES:
                    raise Rejection("BadTable", f"{path} is too large for a table: {file.stat().st_size} bytes", path)
                return file.read_bytes()
            except OSError as error:
                raise Rejection("BadTable", f"{path} cannot be read: {error.strerror}", path) from error

    @contextmanager
    def local(self, path: str) -> Iterator[tuple[Path, Path]]:
        """Yield the file on this disk, and the folder that its path is relative to.

        Raises:
            Rejection: As `inside_source`.
        """
        yield inside_source(self.source, path), self.source


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder; a broken or circular link counts as a file, which then is unreadable."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


class ArchiveTree:
    """A tree in a zip archive; attributes and methods as for `FolderTree`."""

    is_archive = True

    def __init__(self, source: Path, top: str, archive: zipfile.ZipFile, files: dict[str, zipfile.ZipInfo]) -> None:
        self.source, self.top = source, top
        self._archive, self._files = archive, files
        self._folders: defaultdict[str, list[str]] = defaultdict(list)
        for path in files:
            pure = PurePosixPath(path)
            if not pure.name.startswith("."):
                self._folders[pure.parent.as_posix()].append(path)

    def files(self, folder: str) -> list[str]:
        """As `FolderTree.files`."""
        return sorted(self._folders.get((PurePosixPath(self.top) / folder).as_posix(), []))

    def size(self, path: str) -> int:
        """Size of a file in bytes, unpacked."""
        return self._files[path].file_size

    def content(self, path: str) -> bytes:
        """As `FolderTree.content`."""
        if self._files[path].file_size > MOST_TABLE_BYTES:
            raise Rejection("BadTable", f"{path} is too large for a table: {self._files[path].file_size} bytes", path)
        with self.local(path) as (file, _):
            return file.read_bytes()

    @contextmanager
    def local(self, path: str) -> Iterator[tuple[Path, Path]]:
        """Yield a copy of the file in a temporary folder, which is deleted when the context ends.

        Raises:
            Rejection: `UnreadableFile`: damaged, encrypted, or packed by an unknown method.
            StorageError: The disk of temporary files is full.
        """
        with tempfile.TemporaryDirectory(prefix="clicksim-") as folder:
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with storing(file), file.open("xb") as out:
                    out.writelines(unpack(self._archive, self._files[path]))
            except StorageError:
                raise
            except (zipfile.BadZipFile, OSError) as error:
                raise Rejection("UnreadableFile", f"{path} cannot be unpacked: {error}", path) from error
            yield file, Path(folder)


Tree = FolderTree | ArchiveTree


def inside_source(source: Path, path: str) -> Path:
    """Resolve a file of a folder; refuse it if a link leads out of the folder, which a catalog would not follow.

    Args:
        source: The folder, without links in its own path.
        path: Path of the file, relative to it.

    Raises:
        Rejection: `PathLeavesRoot`; `UnreadableFile` for circular links.
    """
    file = source / path
    try:
        is_inside = file.resolve().is_relative_to(source)
    except (OSError, RuntimeError) as error:
        raise Rejection("UnreadableFile", f"{path} is a link that leads to itself; put the file there", path) from error
    if not is_inside:
        raise Rejection(
            "PathLeavesRoot", f"{path} is a link that leads out of the source; put the file in its place", path
        )
    return file


def open_tree(source: Path, marks: Sequence[str], layout: str) -> Tree:
    """Open the tree of a source; an archive's directory is read once per process.

    Args:
        source: A folder or a `.zip` archive.
        marks: Folder names; the tree has at least one of them, in the source or in one folder of it.
        layout: The expected layout, for messages.

    Raises:
        CatalogError: There is no such tree, or there are several; the archive is cut off or names paths outside
            itself.
    """
    if source.is_dir():
        tops = ["", *sorted(e.name for e in source.iterdir() if e.is_dir() and not e.name.startswith("."))]
        found = [top for top in tops if any((source / top / mark).is_dir() for mark in marks)]
        return FolderTree(source, _only_top(found, source, marks, layout))
    status = source.stat()
    return _open_archive(source, tuple(marks), layout, status.st_size, status.st_mtime_ns)


def _only_top(found: list[str], source: Path, marks: Sequence[str], layout: str) -> str:
    if "" in found or len(found) == 1:
        return "" if "" in found else found[0]
    if found:
        raise CatalogError(f"{source} contains several trees: {up_to_ten(found)}; give the path of one")
    raise CatalogError(f"{source} has no folder {' or '.join(marks)}; expected:\n{layout}")


@lru_cache(maxsize=1)
def _open_archive(source: Path, marks: tuple[str, ...], layout: str, _size: int, _changed: int) -> ArchiveTree:
    try:
        archive = zipfile.ZipFile(source)  # stays open for the process: each patient reads from it
    except (zipfile.BadZipFile, OSError) as error:
        raise CatalogError(f"{source} is not a complete zip archive: {error}; was the download cut off?") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    try:
        _check_members(members, source)
        folders = {PurePosixPath(member.filename).parts[:-1] for member in members}
        inner = {"" if parts[0] in marks else parts[0] for parts in folders if set(parts[:2]) & set(marks)}
        top = _only_top(sorted(inner), source, marks, layout)
    except CatalogError:
        archive.close()
        raise
    return ArchiveTree(source, top, archive, {member.filename: member for member in members})


def _check_members(members: list[zipfile.ZipInfo], source: Path) -> None:
    """Refuse an archive with suspicious names, which suggest an attack."""
    names = [member.orig_filename.rstrip("\0") for member in members]
    leaving = [name for name in names if _leaves(name)]
    if leaving:
        raise CatalogError(
            f"{source} has names that lead out of it: {up_to_ten(map(repr, leaving))}; the archive is refused"
        )
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise CatalogError(f"{source} has the same name twice: {up_to_ten(map(repr, twice))}; the archive is refused")


def _leaves(name: str) -> bool:
    pure = PurePosixPath(name)
    return pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or ":" in name

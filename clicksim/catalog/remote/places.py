"""Places of catalogs and sources: local folders, and object storage that is read over the network.

A remote place is named by a URL, such as `s3://bucket/prefix`. PyArrow opens `s3://`, `gs://`, `abfs://` and `hdfs://`;
fsspec opens all others, with the packages that it needs. These libraries read credentials, endpoints and regions from
the environment. A URL that contains any of them is rejected, so that they do not get into catalogs or logs.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from clicksim.errors import CatalogError, ClicksimError, StorageError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
USER = re.compile(r"[\w.$-]+@[\w.-]+(:\d+)?(/.*)?", re.DOTALL)
USER_SCHEMES = frozenset({"abfs", "abfss", "hdfs"})
"""Schemes whose usual form is `container@account/path` or `user@host/path`, which is not a secret."""
HINT = "check the address, the network, and the credentials in the environment"


@dataclass(frozen=True)
class RemotePath:
    """A file or a folder on object storage, with the part of `pathlib` that a reader of catalogs needs.

    It opens its file system on first use, so a copy in another process opens its own.

    Attributes:
        root: The URL that the user gave, without a final slash.
        path: The path below it, with `/`; empty for the root itself.
        filesystem: A file system of PyArrow or fsspec that the caller passed; `root` is then a path in it.
        opened: A unique token for such a file system, which has no name and may have another file at the same path.
            Copies in other processes keep it.
    """

    root: str
    path: str = ""
    filesystem: Any = field(default=None, compare=False, repr=False)
    opened: str = field(default="", repr=False)

    def __truediv__(self, name: str) -> "RemotePath":
        return replace(self, path=f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return f"{self.root}/{self.path}" if self.path else self.root

    @property
    def top(self) -> "RemotePath":
        """The root of this path."""
        return replace(self, path="")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return str(self).rpartition("/")[2]

    def resolve(self) -> "RemotePath":
        """Return itself: the path is absolute."""
        return self

    def inside(self, relative: str) -> "RemotePath":
        """Return a path below this one.

        Raises:
            CatalogError: The path is absolute or contains `..`.
        """
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\\" in relative:
            raise CatalogError(f"path {relative!r} leaves its root {self}")
        return self / pure.as_posix()

    def is_file(self) -> bool:
        """Check whether there is a file of this name."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Check whether there are files below this name."""
        from pyarrow.fs import FileType

        return self._info().type == FileType.Directory

    def exists(self) -> bool:
        """Check whether there is a file of this name, or files below it."""
        return self.is_file() or self.is_dir()

    def version(self) -> str:
        """Return a text that changes with the file: its size, and the time or tag that the storage reports.

        Raises:
            FileNotFoundError: There is no such file.
        """
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        system, path = self._open()
        held = getattr(getattr(system, "handler", None), "fs", None)
        if held is None:
            return f"{info.size} {info.mtime_ns}"
        with reaching(self):  # PyArrow does not pass on the version that fsspec knows
            return f"{info.size} {held.ukey(path)}"

    def open(self, mode: str = "rb") -> Any:  # noqa: ARG002 - what `Path.open` needs
        """Open the file to read bytes in any order.

        Raises:
            FileNotFoundError: There is no such file.
        """
        system, path = self._open()
        with reaching(self):
            return system.open_input_file(path)

    def read_bytes(self) -> bytes:
        """Read the content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with reaching(self), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the content as text."""
        return self.read_bytes().decode(encoding)

    def files(self) -> dict[str, int]:
        """Return the sizes of all files below this path, by relative path; one request lists a thousand files.

        Raises:
            CatalogError: The storage cannot be reached, or it lists files of another folder.
        """
        from pyarrow.fs import FileSelector

        system, path = self._open()
        with reaching(self):
            found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        # some file systems answer with a slash at the start and some without
        start = f"{asked}/" if (asked := path.strip("/")) else ""
        names = {info.path.strip("/"): info.size for info in found if info.is_file}
        for name in names:
            if not name.startswith(start):
                raise CatalogError(f"{self} was listed, but its file system returns {name!r}, a file elsewhere")
        return {name[len(start) :]: size for name, size in names.items()}

    def write(self, blocks: Iterable[bytes]) -> None:
        """Write or replace the file. Object stores show it when it is complete; an interrupted file is deleted."""
        half = False
        try:
            with reaching(self), self._output() as file:
                half = True
                for block in blocks:
                    file.write(block)
                half = False
        finally:
            if half:  # a stream cannot be aborted: closing it publishes the part that was written
                with suppress(Exception):  # the first error says more
                    self.unlink()

    def unlink(self) -> None:
        """Delete the file."""
        system, path = self._open()
        with reaching(self):
            system.delete_file(path)

    def _open(self) -> tuple[Any, str]:
        """Return the file system, and the path in it."""
        if self.filesystem is None:
            system, base = _connect(self.root)
        else:
            system, base = _as_arrow(self.filesystem), self.root
        return system, f"{base.rstrip('/')}/{self.path}" if self.path else base

    def _output(self) -> Any:
        """Open the file for writing; create its folder if the storage has folders."""
        system, path = self._open()
        try:
            # no compression: PyArrow would compress a file named .gz a second time
            return system.open_output_stream(path, compression=None)
        except FileNotFoundError:
            system.create_dir(path.rpartition("/")[0], recursive=True)
            return system.open_output_stream(path, compression=None)

    def _info(self) -> Any:
        system, path = self._open()
        with reaching(self):
            return system.get_file_info(path)


Place = Path | RemotePath


def is_url(text: object) -> bool:
    """Check whether a text is a URL rather than a path.

    >>> is_url("s3://bucket/catalog"), is_url("data/catalog")
    (True, False)
    """
    return isinstance(text, str) and "://" in text


def as_place(where: "str | Path | RemotePath", filesystem: Any = None) -> Place:
    """Return a folder for a path or `file://`, else a place on object storage.

    Args:
        where: A path or a URL.
        filesystem: A file system of PyArrow or fsspec; `where` is then a path in it.

    Raises:
        CatalogError: The URL has become a path (`s3:/bucket`), contains credentials or settings, or is `file://`
            with two slashes and a name.
    """
    if isinstance(where, RemotePath):
        return where
    if filesystem is not None:
        return RemotePath(str(where).rstrip("/"), filesystem=filesystem, opened=secrets.token_hex(16))
    check_address(where)
    if not is_url(where):
        return Path(where)
    url = str(where)
    if url.startswith("file://"):
        if not url.startswith("file:///"):
            raise CatalogError(f"{url} is not a folder of this machine: a path begins with a slash, as in file:///data")
        return Path(_connect(url.rstrip("/") if url != "file:///" else url)[1])
    return RemotePath(url.rstrip("/"))


def check_address(where: str | Path) -> None:
    """Reject a URL that contains more than an address. The message repeats only the scheme.

    A secret may contain any character, even a slash, so everything between a colon and a later `@` counts as one.

    Raises:
        CatalogError: The URL contains credentials or settings, chains file systems with `::`, or has become a path
            (`s3:/bucket`).
    """
    text = str(where)
    if not is_url(where):
        if (found := SCHEME.match(text)) and not Path(where).exists():
            raise CatalogError(
                f"{found[1]}:/... looks like a URL that became a path; give it as text, with two slashes"
            )
        return
    scheme, _, rest = text.partition("://")
    shown = f"{scheme}://..." if SCHEME.fullmatch(f"{scheme}:/") else "the address"
    if "::" in text or shown == "the address":
        raise CatalogError(f"{shown} is not one plain address such as s3://bucket/catalog; leave out :: and the rest")
    if "?" in rest or "#" in rest or _has_user(scheme.lower(), unquote(rest)):
        raise CatalogError(
            f"{shown} holds credentials or settings, which would get into catalogs and logs; leave them out and set "
            "them in the environment, such as AWS_ACCESS_KEY_ID or AWS_ENDPOINT_URL (the characters ? and #, and : "
            "before @, count as such)"
        )


def _has_user(scheme: str, rest: str) -> bool:
    """Check whether the text after `://` contains a user, and perhaps a password."""
    if scheme in USER_SCHEMES and USER.fullmatch(rest):
        return False
    before, at, _ = rest.rpartition("@")
    return "@" in rest.partition("/")[0] or bool(at and ":" in before and scheme != "file")


def read_only(place: object) -> CatalogError:
    """Make the error for writing to a read-only catalog."""
    return CatalogError(
        f"{place} is read only: work on a local copy (clicksim catalog pull URL CATALOG), then clicksim catalog push "
        "CATALOG URL"
    )


def inside(root: Path, relative: str) -> Path:
    """Return a path below a root.

    Raises:
        CatalogError: The path is absolute, contains `..`, or leads outside through a link.
    """
    pure = PurePosixPath(relative)
    # unlike `Path.resolve` before Python 3.13 this leaves a circle of links as it is: a broken link
    target = Path(os.path.realpath(root / pure))
    if pure.is_absolute() or ".." in pure.parts or not target.is_relative_to(os.path.realpath(root)):
        raise CatalogError(f"path {relative!r} leaves its root {root}")
    return target


def files_below(folder: Path, name: str, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield the files below a folder of a catalog, including those behind links that stay in it, as for `resolve`.

    Args:
        folder: The catalog.
        name: Name of the folder in the catalog.
        above: The parent folders on the way here, with links resolved.

    Raises:
        CatalogError: A link leaves the catalog, is broken, or points to a folder that contains it.
    """
    here = inside(folder, name)
    if here in above:
        raise CatalogError(f"{folder / name} is a link to a folder that contains it; delete it, or put the files there")
    for entry in sorted((folder / name).iterdir()):
        below = f"{name}/{entry.name}"
        if entry.name.startswith(".") and not entry.is_dir():  # a file that is being written
            continue
        file = inside(folder, below)
        if file.is_dir():
            yield from files_below(folder, below, (*above, here))
        elif file.is_file():
            yield below
        elif entry.is_symlink():
            raise CatalogError(f"{entry} is a broken link; delete it, or put the file there")


@contextmanager
def reaching(place: object) -> Iterator[None]:
    """Turn errors of a storage into one sentence; a missing file stays a `FileNotFoundError`.

    Raises:
        CatalogError: The storage cannot be reached, or does not allow this.
    """
    try:
        yield
    except (ClicksimError, StorageError):
        raise
    except FileNotFoundError as error:  # some have no error number
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from error
    except Exception as error:
        told = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(str(error).split())) or type(error).__name__
        raise CatalogError(f"{place} cannot be reached: {told}; {HINT}") from error


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    return _connect_as(url, frozenset(os.environ.items()))


@lru_cache
def _connect_as(url: str, environment: frozenset[tuple[str, str]]) -> tuple[Any, str]:  # noqa: ARG001 - a key
    """Do the same, cached until the environment changes, since each new file system reads its credentials there."""
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    with reaching(url):
        try:
            found: tuple[Any, str] = FileSystem.from_uri(quote(url, safe="/:%+=,~()!*'&$;"))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            return _connect_fsspec(url, error)
    return found


def _connect_fsspec(url: str, refusal: Exception) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise CatalogError(f"{url}: {refusal}; other storages need fsspec: pip install 'clicksim[remote]'") from error
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise CatalogError(f"{url} cannot be opened: {error} (PyArrow: {refusal})") from error
    return _as_arrow(system), path


def _as_arrow(filesystem: Any) -> Any:
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    return filesystem if isinstance(filesystem, FileSystem) else PyFileSystem(FSSpecHandler(filesystem))

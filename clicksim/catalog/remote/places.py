"""Where catalogs and sources lie: folders, and places on object storage that are read over the network.

A place is named by a URL, such as `s3://bucket/prefix`. PyArrow opens `s3://`, `gs://`, `abfs://` and `hdfs://`;
anything else goes to fsspec, with whatever that needs for it. Credentials, endpoints and regions come from the
environment alone, as those libraries read it: a URL that holds any is refused, so that none gets into catalogs or logs.
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
"""Their usual form is `container@account/path` or `user@host/path`, which holds no secret."""
HINT = "check the address, the network, and the credentials in the environment"


@dataclass(frozen=True)
class RemotePath:
    """A file or a folder on object storage, with as much of `pathlib` as a reader of catalogs needs.

    It opens its file system when it is used, so that one that went to another process opens its own there.

    Attributes:
        root: The URL that the user gave, without a slash at its end.
        path: Below it, with `/`; empty for the root itself.
        filesystem: One that the caller brought, of PyArrow or fsspec; `root` is then a path in it.
        opened: Of such a file system, what tells it from any other: it has no name, and may hold another file at the
            same path. Copies in other processes keep it.
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
        """The root, which the path of the file starts from."""
        return replace(self, path="")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return str(self).rpartition("/")[2]

    def resolve(self) -> "RemotePath":
        """Itself: it is absolute."""
        return self

    def inside(self, relative: str) -> "RemotePath":
        """A path below this one.

        Raises:
            CatalogError: An absolute path, or one with `..`.
        """
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\\" in relative:
            raise CatalogError(f"path {relative!r} leaves its root {self}")
        return self / pure.as_posix()

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether there are files below this name."""
        from pyarrow.fs import FileType

        return self._info().type == FileType.Directory

    def exists(self) -> bool:
        """Whether there is a file of this name, or files below it."""
        return self.is_file() or self.is_dir()

    def version(self) -> str:
        """What changes when the file changes: its size, and what the storage says of its time or content.

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
        with reaching(self):  # PyArrow hands on none of what fsspec knows of the version
            return f"{info.size} {held.ukey(path)}"

    def open(self, mode: str = "rb") -> Any:  # noqa: ARG002 - what `Path.open` needs
        """The open file, to read bytes in any order.

        Raises:
            FileNotFoundError: There is no such file.
        """
        system, path = self._open()
        with reaching(self):
            return system.open_input_file(path)

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        with reaching(self), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def files(self) -> dict[str, int]:
        """The sizes of all files below this one, by their path from here; one request for a thousand of them.

        Raises:
            CatalogError: It cannot be reached, or the file system answers with files of another folder.
        """
        from pyarrow.fs import FileSelector

        system, path = self._open()
        with reaching(self):
            found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        # file systems answer with or without a slash at the start, however they were asked
        start = f"{asked}/" if (asked := path.strip("/")) else ""
        names = {info.path.strip("/"): info.size for info in found if info.is_file}
        for name in names:
            if not name.startswith(start):
                raise CatalogError(f"{self} was listed, and its file system answers with {name!r}, a file elsewhere")
        return {name[len(start) :]: size for name, size in names.items()}

    def write(self, blocks: Iterable[bytes]) -> None:
        """Write the file anew. Object stores show it once it is whole; one that was interrupted is deleted."""
        half = False
        try:
            with reaching(self), self._output() as file:
                half = True
                for block in blocks:
                    file.write(block)
                half = False
        finally:
            if half:  # no stream can be given up: closing it has published what it had
                with suppress(Exception):  # the first error tells more
                    self.unlink()

    def unlink(self) -> None:
        """Delete the file."""
        system, path = self._open()
        with reaching(self):
            system.delete_file(path)

    def _open(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        if self.filesystem is None:
            system, base = _connect(self.root)
        else:
            system, base = _as_arrow(self.filesystem), self.root
        return system, f"{base.rstrip('/')}/{self.path}" if self.path else base

    def _output(self) -> Any:
        """The file, open to be written; its folder is made where the storage has folders and lacks it."""
        system, path = self._open()
        try:
            # without compression: PyArrow would pack what is named .gz a second time
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
    """Whether a text is a URL and not a path.

    >>> is_url("s3://bucket/catalog"), is_url("data/catalog")
    (True, False)
    """
    return isinstance(text, str) and "://" in text


def as_place(where: "str | Path | RemotePath", filesystem: Any = None) -> Place:
    """A folder for a path or for `file://`, else a place on object storage.

    Args:
        where: A path or a URL.
        filesystem: A file system of PyArrow or fsspec; `where` is then a path in it.

    Raises:
        CatalogError: A URL that has become a path (`s3:/bucket`), one with credentials or settings in it, or `file://`
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
            raise CatalogError(f"{url} names no folder of this machine: a path begins with a slash, as in file:///data")
        return Path(_connect(url.rstrip("/") if url != "file:///" else url)[1])
    return RemotePath(url.rstrip("/"))


def check_address(where: str | Path) -> None:
    """Refuse a URL that carries more than an address. Of what is refused the scheme alone is repeated.

    Secrets may hold any sign, also the slash, so whatever stands between a colon and a later `@` counts as one.

    Raises:
        CatalogError: A URL with credentials or settings in it, one that chains file systems with `::`, or one that has
            become a path (`s3:/bucket`).
    """
    text = str(where)
    if not is_url(where):
        if (found := SCHEME.match(text)) and not Path(where).exists():
            raise CatalogError(
                f"{found[1]}:/... looks like a URL that was made a path; give it as text, with two slashes"
            )
        return
    scheme, _, rest = text.partition("://")
    shown = f"{scheme}://..." if SCHEME.fullmatch(f"{scheme}:/") else "the address"
    if "::" in text or shown == "the address":
        raise CatalogError(f"{shown} is not one plain address such as s3://bucket/catalog; give it without :: and more")
    if "?" in rest or "#" in rest or _has_user(scheme.lower(), unquote(rest)):
        raise CatalogError(
            f"{shown} holds credentials or settings, which would stand in catalogs and logs; leave them out and set "
            "them in the environment, such as AWS_ACCESS_KEY_ID or AWS_ENDPOINT_URL (signs ? # and : before @ are "
            "read as such)"
        )


def _has_user(scheme: str, rest: str) -> bool:
    """Whether a user, and perhaps a password, stands in what follows `://`."""
    if scheme in USER_SCHEMES and USER.fullmatch(rest):
        return False
    before, at, _ = rest.rpartition("@")
    return "@" in rest.partition("/")[0] or bool(at and ":" in before and scheme != "file")


def read_only(place: object) -> CatalogError:
    """The refusal to write to a catalog that is only read."""
    return CatalogError(
        f"{place} is read only: work on a local copy (clicksim catalog pull URL CATALOG), then clicksim catalog push "
        "CATALOG URL"
    )


def inside(root: Path, relative: str) -> Path:
    """A path below a root.

    Raises:
        CatalogError: An absolute path, one with `..`, or one that a link leads outside.
    """
    pure = PurePosixPath(relative)
    # unlike `Path.resolve` before Python 3.13 it leaves a circle of links as it is: a link to nothing
    target = Path(os.path.realpath(root / pure))
    if pure.is_absolute() or ".." in pure.parts or not target.is_relative_to(os.path.realpath(root)):
        raise CatalogError(f"path {relative!r} leaves its root {root}")
    return target


def files_below(folder: Path, name: str, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """The files below a folder of a catalog, also those behind links that stay in it, as `resolve` finds them.

    Args:
        folder: The catalog.
        name: Of the folder in it.
        above: The folders that led here, without links.

    Raises:
        CatalogError: A link that leaves the catalog, leads to nothing, or to a folder that it lies in.
    """
    here = inside(folder, name)
    if here in above:
        raise CatalogError(f"{folder / name} is a link to a folder that it lies in; delete it, or put the files there")
    for entry in sorted((folder / name).iterdir()):
        below = f"{name}/{entry.name}"
        if entry.name.startswith(".") and not entry.is_dir():  # what is being written
            continue
        file = inside(folder, below)
        if file.is_dir():
            yield from files_below(folder, below, (*above, here))
        elif file.is_file():
            yield below
        elif entry.is_symlink():
            raise CatalogError(f"{entry} is a link to nothing; delete it, or put the file there")


@contextmanager
def reaching(place: object) -> Iterator[None]:
    """Turn whatever a storage says into one sentence; a file that is not there stays a `FileNotFoundError`.

    Raises:
        CatalogError: It cannot be reached, or does not allow this.
    """
    try:
        yield
    except (ClicksimError, StorageError):
        raise
    except FileNotFoundError as error:  # some come without a number
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from error
    except Exception as error:
        told = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(str(error).split())) or type(error).__name__
        raise CatalogError(f"{place} cannot be reached: {told}; {HINT}") from error


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    return _connect_as(url, frozenset(os.environ.items()))


@lru_cache
def _connect_as(url: str, environment: frozenset[tuple[str, str]]) -> tuple[Any, str]:  # noqa: ARG001 - a key
    """The same, kept while the environment stays: each new one looks there for its credentials."""
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

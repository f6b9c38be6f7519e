"""Write files completely or not at all, name them, and say what to do when a disk refuses them."""

import errno
import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.errors import ClicksimError, SettingError, StorageError

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

    from jinja2 import Environment

RESUME = "finished work is kept, and commands with --resume continue from there"
SPACE = f"free some space there, or name a folder on another disk; {RESUME}"
OWNER = "ask its owner for permission, or name another folder"
REMEDIES = {
    errno.ENOSPC: SPACE,
    getattr(errno, "EDQUOT", errno.ENOSPC): SPACE,  # a quota; Windows has no such number
    errno.EFBIG: f"no file can be so large there: raise the limit (ulimit -f), or name another folder; {RESUME}",
    errno.EIO: f"the disk, or the network to it, is failing: ask the administrator; {RESUME}",
    errno.ENOLCK: "this file system has no locks: ask the administrator, or write to a local disk",
    errno.EROFS: "nothing can be written there: name another folder",
    getattr(errno, "ESTALE", errno.EIO): f"the file server has lost this file: wait until it is back; {RESUME}",
    errno.EACCES: OWNER,
    errno.EPERM: OWNER,
}
"""What to do, by error number; other numbers mean that a path is wrong, not the disk."""
WRONG_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Error numbers of an impossible path: not a bug, and only another path helps."""
LESION_CLICKS = "lesion-clicks.json"
"""The prompt file that Grand Challenge gives to an algorithm, beside the images."""
PROMPT_ENDINGS = {"plain": "_{}.json", "grand-challenge": f"_{LESION_CLICKS}", "rows": "_{}.parquet"}
"""Endings of the names of prompt files, by their layout; `{}` is `clicks` or `scribbles`."""
PICTURE_ENDINGS = (".png", ".webp")
"""Endings of the names of pictures."""
FLUSHABLE = "rb+" if os.name == "nt" else "rb"
"""How to open a file to flush it; only Windows needs one that is open for writing."""
MEMORY = f"use fewer --workers, or a machine with more memory; {RESUME}"
LEAST_PACKED = 0.1
"""A CT or an uptake never packs to less than this share of its bytes."""
MOST_BOUNDED = 1 << 26
"""Largest table or list that is read, in bytes; as Python objects it takes about thirty times as many."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a name beside `file` to write to; it is renamed to `file` on success and deleted on failure.

    The new content is flushed to the disk before the rename, and the folder after it: a crash leaves the old file
    or the new one, and after the block it is the new one.
    The temporary name keeps the ending, because some writers choose the format from it.

    Raises:
        StorageError: The disk is full, cannot be written, or fails.
        OSError: The folder does not exist.
    """
    temporary = temporary_name(file)
    try:
        with storing(file):
            yield temporary
            flush_file(temporary)
            temporary.replace(file)
            flush_folder(file.parent)
    finally:
        with suppress(OSError):  # the folder itself may be gone or be a file; the first error tells more
            temporary.unlink()


def temporary_name(file: Path) -> Path:
    """A name beside `file` that no other process uses, and that `clear_abandoned` finds once this one is gone."""
    return file.with_name(f".writing-{_machine()}{secrets.token_hex(6)}{os.getpid():x}-{file.name}")


def clear_abandoned(file: Path) -> None:
    """Delete the temporary files that killed processes of this machine left beside a file.

    Only for a file that a user names; those of a job are in its work folder, which is deleted with all its content.
    """
    if os.name == "nt":  # where asking whether a process is alive would end it
        return
    name = rf"\.writing-{_machine()}[0-9a-f]{{12}}([0-9a-f]{{1,7}})-{re.escape(file.name)}"
    for left in file.parent.glob(f".writing-*-{glob.escape(file.name)}"):
        found = re.fullmatch(name, left.name)
        if found and not _is_alive(int(found[1], 16)):
            with suppress(OSError):
                left.unlink()


def _machine() -> str:
    """Six hexadecimal digits of the name of this machine."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def write_text(file: Path, text: str) -> None:
    """Write text as UTF-8 to a folder that exists, complete or not at all; line ends stay as they are.

    Raises:
        StorageError, OSError: As `replacing`.
    """
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def storing(file: Path) -> Iterator[None]:
    """Name `file` in every error of the disk.

    Raises:
        StorageError: The disk is full, cannot be written, or fails.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        # NumPy and Pillow give no number when a disk takes fewer bytes than it is given
        number = errno.ENOSPC if error.errno is None else error.errno
        if number not in REMEDIES:
            raise
        told = os.strerror(number) if error.errno is not None else f"{os.strerror(number)} ({error})"
        raise StorageError(number, told, str(file)) from error


def flush_file(file: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with file.open(FLUSHABLE) as written:
        os.fsync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows needs no such call."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot flush folders
            raise
    finally:
        os.close(number)


def flush_tree(folder: Path) -> None:
    """Wait until all names in a folder and the folders below it are on the disk; their files were flushed before."""
    for above, _, _ in os.walk(folder):
        flush_folder(Path(above))


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents; a later crash does not lose them.

    Raises:
        StorageError: The disk is full, may not be written, or fails.
        ClicksimError: The folder cannot exist, such as below a file.
    """
    try:
        with storing(folder):
            missing = []
            above = folder
            while not above.is_dir():
                missing.append(above)
                above = above.parent
            for made in reversed(missing):
                made.mkdir(exist_ok=True)
                flush_folder(made.parent)
    except StorageError:
        raise
    except OSError as error:
        raise ClicksimError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def one_line(error: BaseException) -> str | None:
    """The message of an error that is not a bug, with what to do; None for a bug.

    >>> one_line(OSError(30, "Read-only file system", "out/a.json"))
    'out/a.json: Read-only file system; nothing can be written there: name another folder'
    """
    told, number = None, getattr(error, "errno", None)
    if isinstance(error, ClicksimError):
        told, number = str(error), getattr(error.__cause__, "errno", None)
    elif isinstance(error, MemoryError):
        told = f"out of memory{f' ({error})' if str(error) else ''}; {MEMORY}"
    elif isinstance(error, OSError) and (number in REMEDIES or number in WRONG_PATHS):
        where = error.filename2 or error.filename  # of a copy, the second is the one written
        told = f"{where}: {error.strerror}" if where else error.strerror
    if told is None:
        return None
    # one line, even if a message shows a folder's layout; blanks within a line belong to names
    line = " ".join(part.strip() for part in told.splitlines())
    return f"{line}; {REMEDIES[number]}" if number in REMEDIES else line


def check_space(folder: Path, need: float, what: str) -> None:
    """Before work begins, reject it if it cannot fit on the disk of a folder.

    Args:
        folder: Where the work is written; the folder or one above it must exist.
        need: Bytes that the work takes at least.
        what: The work, in words.

    Raises:
        StorageError: Less than that is free; the message says how much, and where.
    """
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        told = f"{what} will take at least {_in_units(need)}, {_in_units(free)} are free"
        raise StorageError(errno.ENOSPC, told, str(folder))


def read_bounded(file: Path) -> bytes:
    """Read a table, a list of prompts or settings from a regular file; a pipe could block for ever.

    Raises:
        OSError: There is no such file, it is a folder or a device, or it is larger than any such file can be.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a folder or a device, not a file", str(file))
    if status.st_size > MOST_BOUNDED:
        raise OSError(errno.EINVAL, f"{status.st_size} bytes; such a file has at most {MOST_BOUNDED}", str(file))
    return file.read_bytes()


def unpack(archive: "ZipFile", info: "ZipInfo") -> Iterator[bytes]:
    """Read a file of a zip archive, in blocks.

    Raises:
        zipfile.BadZipFile: It is damaged, encrypted, or packed by an unknown method. Each method has its own
            errors; that of bz2 looks like an error of the disk.
    """
    import lzma
    import zipfile
    import zlib

    try:
        with archive.open(info) as packed:
            while block := packed.read(1 << 20):
                yield block
    except (zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def read_toml(file: Path, what: str = "settings") -> dict[str, Any]:
    """Read a TOML file; it may begin with a byte order mark.

    Args:
        file: A regular file.
        what: The file, in words.

    Raises:
        SettingError: It cannot be read, or is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(read_bounded(file).decode("utf-8-sig"))
    except OSError as error:
        raise SettingError(f"cannot read the {what}: {error.strerror} ({file})") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{file} is not TOML: {error}") from error


def _in_units(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def slug(name: str) -> str:
    """A file name for any text: its plain characters, truncated, and a hash of the whole.

    >>> slug("psma_01_2019-12-28")
    'psma-01-2019-12-28-419f031b'
    """
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60]
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def open_templates(package: str) -> "Environment":
    """The templates beside the code of a package: all text is escaped, and a missing value is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )

"""Compare folders, and damage their files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

PASSING = (".lock", ".lock-holder.json")
"""Files that are not part of a result."""


def promise(holds: object, told: str) -> None:
    """Raise `AssertionError` with a sentence if something does not hold."""
    if not holds:
        raise AssertionError(told)


def contents(folder: Path, *, replaced: str = "") -> dict[str, str]:
    """Return the checksum of every file below a folder by its relative name, without records of runs and locks.

    Args:
        folder: The folder.
        replaced: A path that files may name, which differs between two folders that are otherwise equal.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.is_file() or name.startswith("runs/") or file.name in PASSING:
            continue
        content = file.read_bytes().replace(replaced.encode(), b".") if replaced else file.read_bytes()
        found[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return found


def assert_same(first: dict[str, str], second: dict[str, str], what: str) -> None:
    """Raise if two folders differ, with the names of differing files."""
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    promise(not names, f"{what}: {len(names)} files differ, such as {', '.join(names[:5])}")


def damages() -> dict[str, Callable[[Path], None]]:
    """Return ways to damage a file, by name."""

    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def empty(file: Path) -> None:
        file.write_bytes(b"")

    def noise(file: Path) -> None:
        file.write_bytes(bytes(range(256)) * 4)

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        if content:
            content[len(content) // 3] ^= 0x40
        file.write_bytes(bytes(content))

    return {"cut": cut, "emptied": empty, "overwritten": noise, "with a flipped bit": flip, "deleted": Path.unlink}


def tree_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted."""
    yield from sorted(file for file in folder.rglob("*") if file.is_file())

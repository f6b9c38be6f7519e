"""What a disk still holds after a power cut: a model that drops everything that was not flushed.

The shim writes down every operation in order, and keeps the content of a file whenever it is flushed. From that and the
tree that was there before, the tree after a power cut at any operation is put together. Two models, of which a file
system may follow either:

`strict`  A file holds what it held at its last fsync, or before the command. A name (made, renamed or deleted) is as it
          was when its folder was last flushed; a rename between two folders counts once either was. A folder that was
          never flushed is empty, and is gone where its name was not flushed in the folder above. This is what POSIX
          promises, no more.
`names`   Every name is on the disk, as journals write names first; a file that was not flushed is empty if it is new or
          was emptied by its opening, and else as before. A rename before the fsync of its file shows here.

Modes and times of files are not modelled; a flushed file has the times that it had at the flush.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODELS = ("strict", "names")


@dataclass(frozen=True)
class Operation:
    """One line of the log: number, process, kind, result, what else is known, and the paths."""

    number: int
    pid: int
    kind: str
    result: int
    extra: int
    path: str
    other: str

    @property
    def done(self) -> bool:
        """Whether it did something."""
        return self.result >= 0

    @property
    def changes(self) -> bool:
        """Whether names or contents are others than before."""
        if self.kind in ("create", "open"):
            return self.done and self.extra != 0
        return self.done and self.kind not in ("fsync", "chmod", "utime")


def read_log(file: Path) -> list[Operation]:
    """The operations of a log."""
    if not file.exists():
        return []
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    return [Operation(int(r[0]), int(r[1]), r[2], int(r[3]), int(r[4]), r[5], r[6]) for r in rows]


@dataclass(eq=False)
class DiskFile:
    """A file; `content` is the file that holds what was flushed, None for nothing.

    `cut` says that it was opened anew since, for what it holds to go.
    """

    content: Path | None = None
    cut: bool = False


@dataclass(eq=False)
class DiskLink:
    """A symbolic link."""

    target: str


@dataclass(eq=False)
class DiskFolder:
    """A folder: its names now, and those on the disk."""

    now: "dict[str, Node]" = field(default_factory=dict)
    kept: "dict[str, Node]" = field(default_factory=dict)


Node = DiskFile | DiskLink | DiskFolder


class Disk:
    """The tree below a folder, as it is and as the disk has it."""

    def __init__(self, root: Path, before: Path, snaps: Path) -> None:
        """Begin with a tree that is on the disk as a whole.

        Args:
            root: The path of the tree in the log.
            before: The tree as it was.
            snaps: Flushed contents by number.
        """
        self.root, self.snaps = root, snaps
        self.top = _read_folder(before)
        self._moved: list[tuple[DiskFolder, str, DiskFolder, str, Node]] = []

    def apply(self, op: Operation) -> None:
        """Follow one operation."""
        if not op.done:
            return
        if op.kind in ("create", "open") and op.extra == 1:
            self._set(op.path, DiskFile())
        elif op.kind in ("create", "open") and op.extra == 2:
            node = self._find(op.path)
            if isinstance(node, DiskFile):
                node.cut = True
        elif op.kind == "mkdir":
            self._set(op.path, DiskFolder())
        elif op.kind == "symlink":
            self._set(op.path, DiskLink(op.other))
        elif op.kind in ("unlink", "rmdir"):
            found = self._place(op.path)
            if found:
                found[0].now.pop(found[1], None)
        elif op.kind == "link":
            node = self._find(op.path)
            self._set(op.other, node if node is not None else DiskFile(Path(op.path)))
        elif op.kind == "rename":
            self._rename(op)
        elif op.kind == "fsync":
            self._flush(op)

    def write(self, target: Path, model: str) -> None:
        """Write what a power cut would leave now."""
        if target.exists():
            shutil.rmtree(target)
        _write_folder(self.top, target, model)

    def digest(self, model: str) -> str:
        """The same for the same tree."""
        total = hashlib.sha256()
        for line in _describe(self.top, "", model):
            total.update(line.encode() + b"\n")
        return total.hexdigest()

    def _flush(self, op: Operation) -> None:
        node = self._find(op.path)
        if isinstance(node, DiskFile):
            node.content, node.cut = self.snaps / str(op.number), False
        elif isinstance(node, DiskFolder):
            node.kept = dict(node.now)
            for old, old_name, new, new_name, moved in [m for m in self._moved if node in (m[0], m[2])]:
                if old.kept.get(old_name) is moved and old.now.get(old_name) is not moved:
                    del old.kept[old_name]
                if new.now.get(new_name) is moved:
                    new.kept[new_name] = moved
            self._moved = [m for m in self._moved if node not in (m[0], m[2])]

    def _rename(self, op: Operation) -> None:
        source, target = self._place(op.path), self._place(op.other)
        node = source[0].now.pop(source[1], None) if source else DiskFile()  # from outside: nothing of it was flushed
        if node is None or target is None:  # to or from outside: not followed further
            return
        target[0].now[target[1]] = node
        if source and source[0] is not target[0]:
            self._moved.append((*source, *target, node))

    def _place(self, path: str) -> tuple[DiskFolder, str] | None:
        """The folder of a path, and its name there."""
        file = Path(path)
        if not file.is_relative_to(self.root) or file == self.root:
            return None
        folder: Node | None = self.top
        *above, name = file.relative_to(self.root).parts
        for part in above:
            folder = folder.now.get(part) if isinstance(folder, DiskFolder) else None
        return (folder, name) if isinstance(folder, DiskFolder) else None

    def _find(self, path: str) -> Node | None:
        if Path(path) == self.root:
            return self.top
        found = self._place(path)
        return found[0].now.get(found[1]) if found else None

    def _set(self, path: str, node: Node) -> None:
        found = self._place(path)
        if found:
            found[0].now[found[1]] = node


def mark_states(root: Path, before: Path, snaps: Path, operations: Sequence[Operation], model: str) -> list[str]:
    """The digest of the tree after 0, 1, 2, ... operations."""
    disk = Disk(root, before, snaps)
    found = [disk.digest(model)]
    for op in operations:
        disk.apply(op)
        # only a flush changes what is on the strict disk
        found.append(found[-1] if model == "strict" and op.kind != "fsync" else disk.digest(model))
    return found


def write_state(
    root: Path, before: Path, snaps: Path, operations: Sequence[Operation], model: str, target: Path
) -> None:
    """Write the tree that a power cut leaves after these operations."""
    disk = Disk(root, before, snaps)
    for op in operations:
        disk.apply(op)
    disk.write(target, model)


def _read_folder(path: Path) -> DiskFolder:
    names: dict[str, Node] = {}
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            names[entry.name] = DiskLink(str(entry.readlink()))
        else:
            names[entry.name] = _read_folder(entry) if entry.is_dir() else DiskFile(entry)
    return DiskFolder(names, dict(names))


def _names(folder: DiskFolder, model: str) -> dict[str, Node]:
    return folder.kept if model == "strict" else folder.now


def _write_folder(folder: DiskFolder, target: Path, model: str) -> None:
    target.mkdir()
    for name, node in _names(folder, model).items():
        place = target / name
        if isinstance(node, DiskFolder):
            _write_folder(node, place, model)
        elif isinstance(node, DiskLink):
            place.symlink_to(node.target)
        elif node.content is None or (node.cut and model == "names"):
            place.touch()
        else:
            shutil.copy2(node.content, place)


def _describe(folder: DiskFolder, above: str, model: str) -> Iterator[str]:
    for name, node in sorted(_names(folder, model).items()):
        path = f"{above}/{name}"
        if isinstance(node, DiskFolder):
            yield f"folder {path}"
            yield from _describe(node, path, model)
        else:
            held = f"to {node.target}" if isinstance(node, DiskLink) else node.content
            yield f"file {path} {'empty' if isinstance(node, DiskFile) and node.cut and model == 'names' else held}"

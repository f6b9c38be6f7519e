"""A catalog onto object storage, or into a folder such as one of a file server, and back.

What a reader sees. Every file is stored under a name with its checksum in it, so a push adds files and overwrites none
but the last: `catalog.json`. Whoever opened the catalog before that goes on reading the old state, whole, tables and
images; whoever opens it after reads the new one. A push that is killed has changed nothing that anybody reads, and the
next one finds what is there already. Files of older states stay until a push prunes them; a reader that still has an
older state open is then told that a file is gone, and opens the catalog again.

Of two pushes at once the one that ends last is what is read, whole. Do not prune while another push runs. A folder has
a lock, and takes one push at a time.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clicksim.catalog.catalog_json import HEAD, head_bytes
from clicksim.catalog.commit import WORK, Commit
from clicksim.catalog.lock import HOLDER, LOCK, writing
from clicksim.catalog.remote.cache import blocks_of, download
from clicksim.catalog.remote.files_index import INDEX, STORED_NAME, Files, Stored, index_bytes, stored_name
from clicksim.catalog.remote.places import (
    Place,
    RemotePath,
    as_place,
    check_address,
    files_below,
    inside,
    is_url,
    reaching,
)
from clicksim.catalog.schema import TABLES
from clicksim.catalog.store import open_catalog
from clicksim.errors import CatalogError, ClicksimError, counted, unknown_name, up_to_ten
from clicksim.files import check_space, make_folder, replacing

PULL = "pull"
"""The folder of `.work` in which fetched files wait."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Moved:
    """What a push or pull did: files of the catalog, those that were sent or fetched and their bytes, those deleted."""

    files: int
    moved: int
    size: int
    pruned: int = 0


def push_catalog(
    path: str | Path,
    url: str,
    *,
    images: bool = True,
    prune: bool = False,
    verify: bool = False,
    roots: Mapping[str, str] | None = None,
    filesystem: Any = None,
    progress: Progress | None = None,
) -> Moved:
    """Bring a catalog to object storage: what is not there yet, and `catalog.json` last.

    Tables, the facts of runs, and the images that lie in the catalog's folder go along. Images of a source that is used
    in place stay where they are: name where they can be read from with `roots`.

    Args:
        path: The catalog, a folder; nobody can write to it meanwhile.
        url: Where to, such as `s3://bucket/catalog`; an empty place, or one that was pushed to.
        images: Also images. Without, those of the state that is there already stay in the new one.
        prune: Delete files of older states afterwards.
        verify: Read what is there already, and send again what is damaged; without, its size is compared alone.
        roots: Where roots lie for readers, folders or URLs by name; others keep the place that they have here.
        filesystem: A file system of PyArrow or fsspec; `url` is then a path in it.
        progress: Told after each file.

    Raises:
        LockedError: The catalog is being written, or another push to the same folder runs.
        CatalogError: No catalog, a place that is no URL, holds another kind of catalog or
            cannot be written, a link that leaves the folder or leads nowhere, or a file that changed on the way.
        SettingError: A root that the catalog does not have.
    """
    if filesystem is None and not is_url(url):
        check_address(url)
        raise CatalogError(f"{url} is no URL, such as s3://bucket/catalog; a folder is named by file:// and its path")
    catalog, target = open_catalog(path), as_place(url, filesystem)
    for name, where in (roots or {}).items():
        if name not in catalog.roots or name == "catalog":
            raise unknown_name("root", name, set(catalog.roots) - {"catalog"})
        as_place(where)  # a URL with credentials is refused before it is written
    folder = catalog.path
    with writing(folder), _alone(target):
        held, kept = _sizes(target), _kept(target, images=images)
        names = list(_names(folder, images=images))
        files, moved, size = dict(kept), 0, 0
        for done, name in enumerate(names, start=1):
            files[name] = file = _stored(folder, name)
            if held.get(file.at) != file.size or (verify and not _is_whole(target / file.at, file)):
                _send(inside(folder, name), target, file)
                moved, size = moved + 1, size + file.size
            if progress:
                progress(done, len(names))
        content = index_bytes(files)
        index = stored_name(INDEX, hashlib.sha256(content).hexdigest())
        _write(target, index, [content])
        _write(target, HEAD, [head_bytes({**catalog.roots, **(roots or {})}, index)])
        current = {index, *(file.at for file in files.values())}
        return Moved(len(files), moved, size, _prune(target, current) if prune else 0)


def pull_catalog(
    url: str,
    path: str | Path,
    *,
    overwrite: bool = False,
    filesystem: Any = None,
    progress: Progress | None = None,
) -> Moved:
    """Bring a pushed catalog into a folder: what is not there yet, and `catalog.json` last.

    Each file is compared with its checksum, and waits in `.work` until all are there; then they get their names in one
    step. Files of the folder that the pushed state does not have stay; roots that the folder's catalog has keep their
    place.

    Args:
        url: Where from.
        path: A new folder, a catalog, or what an interrupted pull left.
        overwrite: Replace files that differ; else they are refused, and nothing is fetched.
        filesystem: A file system of PyArrow or fsspec; `url` is then a path in it.
        progress: Told after each file.

    Raises:
        CatalogError: No pushed catalog there, a file that cannot be fetched or is damaged, a folder that holds other
            things, or files that differ.
        StorageError: Too little space is free, from the beginning or later.
    """
    catalog, folder = open_catalog(url, filesystem=filesystem), Path(path)
    files = catalog.files
    if files is None:
        raise CatalogError(f"{url} was not pushed by clicksim: copy it with a tool of that storage")
    missing = _to_fetch(files, folder, overwrite=overwrite)
    check_space(folder, sum(file.size for file in missing if not _is_here(folder, file)), f"what is in {url}")
    make_folder(folder)
    with writing(folder):
        commit = Commit(folder)
        moved = [file for file in missing if not _fetched(folder, file).is_file()]
        for done, file in enumerate(missing, start=1):
            fetched = _fetched(folder, file)
            if not fetched.is_file():
                make_folder(fetched.parent)
                with replacing(fetched) as temporary:
                    _fetch(catalog.home / file.at, temporary, file)
            commit.move(fetched, file.name)
            if progress:
                progress(done, len(missing))
        own = open_catalog(folder).roots if (folder / HEAD).exists() else {}
        commit.text(HEAD, head_bytes({**catalog.roots, **own}).decode())
        commit.finish(done_with=PULL)
    return Moved(len(files), len(moved), sum(file.size for file in moved))


def _fetched(folder: Path, file: Stored) -> Path:
    """Where a fetched file waits until all are there; its name has its checksum, so it is never another content."""
    return folder / WORK / PULL / file.at


def _is_here(folder: Path, file: Stored) -> bool:
    """Whether its space is taken already: it was fetched, or it replaces another."""
    return (folder / file.name).exists() or _fetched(folder, file).is_file()


@contextmanager
def _alone(target: Place) -> Iterator[None]:
    """Hold the lock of a place that is a folder, and delete what a killed push was writing there.

    Object storage has no locks, and shows no file before it is whole.
    """
    if isinstance(target, RemotePath):
        yield
        return
    try:
        make_folder(target)
    except ClicksimError as error:
        raise CatalogError(str(error)) from error
    with writing(target):
        for left in target.rglob(".writing-*"):
            left.unlink()
        yield


def _names(folder: Path, *, images: bool) -> Iterator[str]:
    """The files of a catalog that are pushed: tables, facts of runs, images; nothing that is being written."""
    patterns = [f"{name}/*/part-0.parquet" for name in (*TABLES, "prompts")]
    patterns += ["sources.parquet", "runs/*.json"]
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and not file.name.startswith("."):
                yield file.relative_to(folder).as_posix()
    if images and os.path.lexists(folder / "images"):
        yield from files_below(folder, "images")


def _stored(folder: Path, name: str) -> Stored:
    """A file of the catalog, with its checksum.

    Raises:
        CatalogError: It is a link that leaves the folder.
    """
    file = inside(folder, name)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Stored(name, file.stat().st_size, digest)


def _is_whole(place: Place, file: Stored) -> bool:
    """Whether what is stored has the content that its name says."""
    total = hashlib.sha256()
    with reaching(place), place.open("rb") as opened:
        for block in blocks_of(opened):
            total.update(block)
    return total.hexdigest() == file.sha256


def _send(source: Path, target: Place, file: Stored) -> None:
    """Write a file to the storage; what changed on the way is refused, and never named by a `catalog.json`."""
    total = hashlib.sha256()

    def hashed(blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            total.update(block)
            yield block

    with source.open("rb") as opened:
        _write(target, file.at, hashed(blocks_of(opened)))
    if total.hexdigest() != file.sha256:
        (target / file.at).unlink()
        raise CatalogError(f"{source} changed while it was pushed; push again when nothing writes to it")


def _write(target: Place, name: str, blocks: Iterable[bytes]) -> None:
    """Write a file below a place; in a folder it gets its name once it is whole, as on an object store."""
    place = target / name
    if isinstance(place, RemotePath):
        place.write(blocks)
        return
    try:
        make_folder(place.parent)
        with replacing(place) as temporary, temporary.open("xb") as out:
            out.writelines(blocks)
    except OSError as error:
        raise CatalogError(f"{place} cannot be written: {error.strerror or error}") from error


def _fetch(source: Place, target: Path, file: Stored) -> None:
    try:
        download(source, target, file.sha256)
    except FileNotFoundError as error:
        raise CatalogError(f"there is no {source}: a newer state was pushed, this one pruned; pull again") from error


def _sizes(target: Place) -> dict[str, int]:
    """The files below a place, with their sizes."""
    if isinstance(target, RemotePath):
        return target.files()
    found = target.rglob("*") if target.is_dir() else ()
    return {file.relative_to(target).as_posix(): file.stat().st_size for file in found if file.is_file()}


def _kept(target: Place, *, images: bool) -> Files:
    """The images of the state that lies there, where none are pushed.

    Raises:
        CatalogError: A catalog that was not pushed: its head is not to be replaced by a push.
    """
    if not (target / HEAD).is_file():
        return {}
    catalog = open_catalog(target)
    if not catalog.index:
        raise CatalogError(f"{target} holds a catalog that was not pushed there; push to an empty place")
    if images:  # the index is not read: a push mends one that is damaged
        return {}
    return {name: file for name, file in (catalog.files or {}).items() if name.startswith("images/")}


def _prune(target: Place, current: set[str]) -> int:
    """Delete files of older states: those with a checksum in their name that `catalog.json` no longer leads to."""
    tops = {*TABLES, "prompts", "runs", "images"}
    old = [
        name
        for name in _sizes(target)
        if name not in current
        and STORED_NAME.fullmatch(name)
        and (name.partition("/")[0] in tops or name.startswith(("files-", "sources-")))
    ]
    for name in old:
        (target / name).unlink()
    return len(old)


def _to_fetch(files: Files, folder: Path, *, overwrite: bool) -> list[Stored]:
    """What a folder does not have yet.

    Raises:
        CatalogError: It holds other things, or files that differ and are not to be replaced.
    """
    here = {name for name in _sizes(folder) if not name.startswith((".writing-", LOCK, HOLDER, f"{WORK}/"))}
    here |= {name for name in files if (folder / name).is_file()}  # behind a linked folder as well
    if not (folder / HEAD).is_file() and (others := sorted(here - set(files))):
        raise CatalogError(f"{folder} holds other things, such as {others[0]}; name an empty or a new folder")
    known = [file for name, file in files.items() if name in here]
    differing = {file.name for file in known if _stored(folder, file.name) != file}
    if differing and not overwrite:
        raise CatalogError(
            f"{folder} has {counted(len(differing), 'file')} unlike what was pushed: {up_to_ten(sorted(differing))}; "
            "take a new folder, or --overwrite what differs"
        )
    return [file for name, file in files.items() if name not in here or name in differing]

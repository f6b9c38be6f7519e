"""Copy a catalog to object storage, or to a folder such as one of a file server, and back.

Every file is stored under a name with its checksum in it, so a push adds files and overwrites only the last one:
`catalog.json`. A reader that opened the catalog before continues to read the complete old state, tables and images; a
reader that opens it afterwards reads the new one. A push that is killed has changed nothing that a reader sees, and the
next push finds the files that are there already. Files of older states stay until a push prunes them; a reader that
still has an older state open then gets an error for a missing file, and must open the catalog again.

Of two pushes at the same time, readers see the complete state of the one that ends last. Do not prune while another
push runs. A folder has a lock, and accepts one push at a time.
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
"""The folder of `.work` for fetched files until all are complete."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Moved:
    """The result of a push or pull: files of the catalog, files sent or fetched, their bytes, and files deleted."""

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
    """Copy a catalog to object storage: the files that are not there yet, and `catalog.json` last.

    It copies tables, the facts of runs, and the images in the catalog's folder. Images of a source that is used in
    place stay where they are: say with `roots` where readers find them.

    Args:
        path: The folder of the catalog; it is locked meanwhile.
        url: The target, such as `s3://bucket/catalog`: an empty place, or one that was pushed to before.
        images: Also copy images. If not, the new state keeps the images of the state that is there.
        prune: Delete files of older states afterwards.
        verify: Read the files that are there, and send damaged ones again; by default only sizes are compared.
        roots: Folders or URLs of roots for readers, by name; other roots keep the place that they have here.
        filesystem: A file system of PyArrow or fsspec; `url` is then a path in it.
        progress: Called after each file.

    Raises:
        LockedError: The catalog is being written, or another push to the same folder runs.
        CatalogError: There is no catalog; the target is not a URL, has another kind of catalog or cannot be written; a
            link leaves the folder or is broken; or a file changed while it was sent.
        SettingError: The catalog does not have such a root.
    """
    if filesystem is None and not is_url(url):
        check_address(url)
        raise CatalogError(f"{url} is not a URL such as s3://bucket/catalog; for a folder write file:// and its path")
    catalog, target = open_catalog(path), as_place(url, filesystem)
    for name, where in (roots or {}).items():
        if name not in catalog.roots or name == "catalog":
            raise unknown_name("root", name, set(catalog.roots) - {"catalog"})
        as_place(where)  # a URL with credentials is rejected before it is written
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
    """Copy a pushed catalog to a folder: the files that are not there yet, and `catalog.json` last.

    Each file is compared with its checksum and stays in `.work` until all are there; then all get their names in one
    step. Other files of the folder stay; roots of the folder's catalog keep their place.

    Args:
        url: The pushed catalog.
        path: A new folder, a catalog, or the folder of an interrupted pull.
        overwrite: Replace files that differ; by default they are an error, and nothing is fetched.
        filesystem: A file system of PyArrow or fsspec; `url` is then a path in it.
        progress: Called after each file.

    Raises:
        CatalogError: There is no pushed catalog, a file cannot be fetched or is damaged, the folder has other files, or
            files differ.
        StorageError: Too little space is free, at the beginning or later.
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
        moved = []
        for done, file in enumerate(missing, start=1):
            fetched = _fetched(folder, file)
            if not (fetched.is_file() and _is_whole(fetched, file)):
                moved.append(file)
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
    """Return the place of a fetched file until all are there; its name has its checksum, so it fixes the content."""
    return folder / WORK / PULL / file.at


def _is_here(folder: Path, file: Stored) -> bool:
    """Check whether a file's space is taken already: it was fetched, or it replaces another."""
    return (folder / file.name).exists() or _fetched(folder, file).is_file()


@contextmanager
def _alone(target: Place) -> Iterator[None]:
    """Hold the lock of a place that is a folder, and delete partial files of a killed push.

    Object storage has no locks, and shows a file only when it is complete.
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
    """Yield the files of a catalog to push: tables, facts of runs, images; no file that is being written."""
    patterns = [f"{name}/*/part-0.parquet" for name in (*TABLES, "prompts")]
    patterns += ["sources.parquet", "runs/*.json"]
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and not file.name.startswith("."):
                yield file.relative_to(folder).as_posix()
    if images and os.path.lexists(folder / "images"):
        yield from files_below(folder, "images")


def _stored(folder: Path, name: str) -> Stored:
    """Return a file of the catalog, with its checksum.

    Raises:
        CatalogError: The file is a link that leaves the folder.
    """
    file = inside(folder, name)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Stored(name, file.stat().st_size, digest)


def _is_whole(place: Place, file: Stored) -> bool:
    """Check whether a stored file has the checksum in its name."""
    total = hashlib.sha256()
    with reaching(place), place.open("rb") as opened:
        for block in blocks_of(opened):
            total.update(block)
    return total.hexdigest() == file.sha256


def _send(source: Path, target: Place, file: Stored) -> None:
    """Write a file to the storage; a file that changed meanwhile is an error, and no `catalog.json` names it."""
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
    """Write a file below a place; in a folder it gets its name when it is complete, as on an object store."""
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
    """Return the files below a place, with their sizes."""
    if isinstance(target, RemotePath):
        return target.files()
    found = target.rglob("*") if target.is_dir() else ()
    return {file.relative_to(target).as_posix(): file.stat().st_size for file in found if file.is_file()}


def _kept(target: Place, *, images: bool) -> Files:
    """Return the images of the state at the target, if no images are pushed.

    Raises:
        CatalogError: The catalog there was not pushed: a push must not replace its head.
    """
    if not (target / HEAD).is_file():
        return {}
    catalog = open_catalog(target)
    if not catalog.index:
        raise CatalogError(f"{target} holds a catalog that was not pushed there; push to an empty place")
    if images:  # the index is not read: a push replaces a damaged one
        return {}
    return {name: file for name, file in (catalog.files or {}).items() if name.startswith("images/")}


def _prune(target: Place, current: set[str]) -> int:
    """Delete files of older states: files with a checksum in their name that the current state does not have."""
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
    """Return the files that a folder does not have yet.

    Raises:
        CatalogError: The folder has other files, or files that differ and `overwrite` is not set.
    """
    here = {name for name in _sizes(folder) if not name.startswith((".writing-", LOCK, HOLDER, f"{WORK}/"))}
    here |= {name for name in files if (folder / name).is_file()}  # behind a linked folder as well
    if not (folder / HEAD).is_file() and (others := sorted(here - set(files))):
        raise CatalogError(f"{folder} has other files, such as {others[0]}; name an empty or a new folder")
    known = [file for name, file in files.items() if name in here]
    differing = {file.name for file in known if _stored(folder, file.name) != file}
    if differing and not overwrite:
        raise CatalogError(
            f"{folder} has {counted(len(differing), 'file')} unlike the pushed ones: {up_to_ten(sorted(differing))}; "
            "name a new folder, or replace them with --overwrite"
        )
    return [file for name, file in files.items() if name not in here or name in differing]

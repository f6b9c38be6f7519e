"""The catalog: plain Parquet tables in a folder or on object storage, and the code that writes them.

A file is flushed to the disk and then renamed to its final name, so a reader sees the old table or the new one, never a
part of one. Rows are sorted, so two runs over the same data give the same bytes; times are in `runs/`, not in tables.

A catalog that is named by a URL, or that was pushed, is read only: see `clicksim.catalog.push`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.catalog_json import HEAD, head_bytes, read_head, write_head
from clicksim.catalog.commit import Commit, is_settled, settle, wait_until_settled
from clicksim.catalog.lock import LOCK, writing
from clicksim.catalog.parquet import cast_table, read_metadata, read_table, rows_of, write_table
from clicksim.catalog.remote.cache import fetch
from clicksim.catalog.remote.files_index import Files, Stored, read_index
from clicksim.catalog.remote.places import Place, RemotePath, as_place, inside, is_url, read_only
from clicksim.catalog.schema import TABLES, UNIQUE, table_schema
from clicksim.errors import CatalogError, ClicksimError, LockedError, StorageError
from clicksim.files import make_folder

if TYPE_CHECKING:
    import pyarrow as pa

ROOT_VARIABLE = "CLICKSIM_ROOT_"
UNSAFE = frozenset('/\\=:*?"<>|')  # characters not allowed in the name of a source or run, since it is a folder name


@dataclass(frozen=True)
class Catalog:
    """An open catalog: its tables, and the files that they point to.

    Attributes:
        home: Its folder or place.
        roots: Folders or URLs by name: the `catalog` itself, and each source that is used in place.
        index: For a pushed catalog, the name of the list of its files; else empty.
        read_only: Whether it was named by a URL, or was pushed.
    """

    home: Place
    roots: Mapping[str, str]
    index: str = ""
    read_only: bool = False
    _listings: dict[RemotePath, Mapping[str, int]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The folder to write to.

        Raises:
            CatalogError: The catalog is read only.
        """
        if self.read_only or isinstance(self.home, RemotePath):
            raise read_only(self.home)
        return self.home

    @property
    def files(self) -> Files | None:
        """The files of a pushed catalog by name; None for any other."""
        return read_index(self.home, self.index) if self.index else None

    @property
    def cases(self) -> "pa.Table":
        """One row per case, by source and case id."""
        return self.table("cases")

    @property
    def lesions(self) -> "pa.Table":
        """One row per lesion."""
        return self.table("lesions")

    @property
    def links(self) -> "pa.Table":
        """One row per lesion identity across time points."""
        return self.table("links")

    @property
    def rejected(self) -> "pa.Table":
        """One row per study or file that was found but not used, with the reason."""
        return self.table("rejected")

    @property
    def sources(self) -> "pa.Table":
        """One row per source: DOI, release, licence, citation."""
        file = self._file("sources.parquet")
        return table_schema("sources").empty_table() if file is None else read_table(file)

    @property
    def prompts(self) -> "pa.Table":
        """One row per prompt voxel of all runs, with the run's id as column `run`."""
        return self.table("prompts")

    @property
    def runs(self) -> list[str]:
        """Ids of the prompt runs."""
        return self.parts("prompts")

    def table(self, name: str, part: str | None = None) -> "pa.Table":
        """Read a table of all parts, or of one source, run or plan; the name of the part is the last column.

        Raises:
            CatalogError: There is no such table or part, or a file of it cannot be read.
        """
        import pyarrow as pa

        schema = table_schema(name)
        key = _partition_key(name)
        pieces = []
        for value, file in self._parts(name) if part is None else [(part, self._part(name, part))]:
            piece = cast_table(read_table(file), schema, file)
            column = pa.array([value] * len(piece), pa.string()).dictionary_encode()
            pieces.append(piece.replace_schema_metadata(None).append_column(key, column))
        if not pieces:
            return schema.append(pa.field(key, pa.dictionary(pa.int32(), pa.string()))).empty_table()
        return pa.concat_tables(pieces).unify_dictionaries()

    def case(self, case_id: str, source: str | None = None) -> dict[str, Any]:
        """Read the row of one case. Only the row group that can contain it is read, so the cost does not grow.

        Raises:
            CatalogError: There is no such case, or several sources have it and none is named.
        """
        found = []
        for value, file in self._parts("cases"):
            if source in (None, value):
                found += [row | {"source": value} for row in rows_of(file, case_id)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(row["source"] for row in found)
            raise CatalogError(f"case {case_id!r} is in several sources: {names}; name one")
        raise CatalogError(f"no case {case_id!r} in {self.home}")

    def metadata(self, run: str) -> dict[str, Any]:
        """Read protocol, settings, seed and versions of a prompt run.

        Raises:
            CatalogError: There is no such run, or its file has no such metadata.
        """
        from clicksim.prompts.table import METADATA_KEY

        text = self.part_metadata("prompts", run).get(METADATA_KEY)
        if text is None:
            raise CatalogError(
                f"run {run} of {self.home} was not written by clicksim: its file does not say how it was made; delete "
                "that folder, and bring its prompts in with clicksim catalog import-prompts"
            )
        about: dict[str, Any] = json.loads(text)
        return about

    def part_metadata(self, name: str, part: str) -> dict[bytes, bytes]:
        """Read the metadata of one file of a table.

        Raises:
            CatalogError: There is no such source, run or plan.
        """
        return read_metadata(self._part(name, part))

    def run_record(self, run: str) -> dict[str, Any]:
        """Read the facts of a run that are in no table; empty if there is no such record.

        `modified` is the time at which it was written, in nanoseconds, if the catalog is a local folder.
        """
        file = self._file(f"runs/{run}.json")
        if file is None:
            return {}
        try:
            record = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(record, dict):
            return {}
        return record | ({"modified": file.stat().st_mtime_ns} if isinstance(file, Path) else {})

    def parts(self, name: str) -> list[str]:
        """Return the sources or runs of a table."""
        return [value for value, _ in self._parts(name)]

    def sql(self, query: str) -> "pa.Table":
        """Query the tables with DuckDB.

        The tables are `cases lesions links rejected sources folds rounds prompts`.

        Raises:
            CatalogError: DuckDB is not installed, or rejects the query.
        """
        from clicksim.catalog.query import run_query

        names = (*TABLES, "prompts")
        return run_query({name: self.sources if name == "sources" else self.table(name) for name in names}, query)

    def resolve(self, location: str) -> Path:
        """Return the file at `<root>:<relative path>`; a file on object storage is fetched first.

        The variable `CLICKSIM_ROOT_<NAME>` moves a root for one process.

        Raises:
            CatalogError: The root is unknown, the path leaves it (also through a link), or the file cannot be fetched.
        """
        file, pushed = self._locate(location)
        return file if isinstance(file, Path) else fetch(file, pushed.sha256 if pushed else "")

    def size_of(self, location: str) -> int | None:
        """Return the size of the file at `<root>:<relative path>`, or None if it is missing; nothing is fetched.

        On object storage the files of a root are listed once. A pushed file whose size has changed counts as missing.

        Raises:
            CatalogError: As `resolve`.
        """
        file, pushed = self._locate(location)
        if isinstance(file, Path):
            size = file.stat().st_size if file.is_file() else None
        else:
            if file.top not in self._listings:
                self._listings[file.top] = file.top.files()
            size = self._listings[file.top].get(file.path)
        return size if pushed is None or size == pushed.size else None

    def is_remote(self, location: str) -> bool:
        """Check whether `resolve` fetches the file at `<root>:<relative path>` to a temporary place.

        Raises:
            CatalogError: As `resolve`.
        """
        return isinstance(self._locate(location)[0], RemotePath)

    def digest(self) -> str:
        """Return the SHA-256 over all tables; the same content gives the same digest, in any place."""
        names = [(f"{name}/{value}", file) for name in (*TABLES, "prompts") for value, file in self._named_parts(name)]
        names += [("sources", "sources.parquet")] if self._file("sources.parquet") else []
        total = hashlib.sha256()
        for key, name in names:
            total.update(f"{key}\0{self._hash(name)}\n".encode())
        return total.hexdigest()

    def part_digest(self, name: str, part: str) -> str:
        """Return the SHA-256 of one source, run or plan of a table.

        Raises:
            CatalogError: There is no such part.
        """
        return self._hash(self._named_part(name, part))

    @contextmanager
    def commit(self) -> Iterator["CatalogCommit"]:
        """Change tables and files in one step when the block ends, and not at all if it raises.

        Raises:
            CatalogError: Another process writes to the catalog.
            StorageError: The disk is full, cannot be written, or fails.
        """
        with writing(self.path):
            commit = CatalogCommit(self.path)
            try:
                yield commit
                commit.finish()
            except BaseException:
                commit.abandon()
                raise

    def write_part(self, name: str, part: str, table: "pa.Table") -> Path:
        """Replace one source, run or plan of a table, in a separate commit; return its file.

        Raises:
            CatalogError: As `CatalogCommit.write_part`, or as `commit`.
        """
        with self.commit() as commit:
            commit.write_part(name, part, table)
        return self.path / name / f"{_partition_key(name)}={part}" / "part-0.parquet"

    def write_sources(self, rows: "pa.Table") -> None:
        """Add or replace rows of the table of sources, in a separate commit."""
        with self.commit() as commit:
            commit.write_sources(rows)

    def write_run(self, run: str, about: Mapping[str, Any]) -> None:
        """Write the facts of a run that are in no table, in a separate commit."""
        with self.commit() as commit:
            commit.write_run(run, about)

    def with_root(self, name: str, folder: str | Path) -> "Catalog":
        """Add or move a root (a folder or a URL), also on disk; return the changed catalog."""
        with self.commit() as commit:
            commit.set_root(name, folder)
        return open_catalog(self.path)

    def _parts(self, name: str) -> list[tuple[str, Place]]:
        """Return partition values and files of a table, sorted."""
        return [(value, self.home / self._stored(file)) for value, file in self._named_parts(name)]

    def _part(self, name: str, part: str) -> Place:
        """Return the file of one part."""
        return self.home / self._stored(self._named_part(name, part))

    def _named_part(self, name: str, part: str) -> str:
        """Return the name of the file of one part; if it is unknown, raise a `CatalogError` that lists the parts."""
        files = dict(self._named_parts(name))
        if part not in files:
            there = f"{', '.join(list(files)[:10])}{', ...' if len(files) > 10 else ''}" or "nothing"
            raise CatalogError(f"no {part!r} in table {name} of {self.home}; there is: {there}")
        return files[part]

    def _named_parts(self, name: str) -> list[tuple[str, str]]:
        """Return partition values of a table and the names of their files in the catalog, sorted."""
        start, end = f"{name}/{_partition_key(name)}=", "/part-0.parquet"
        if self.files is not None:
            names = [file for file in self.files if file.startswith(start) and file.endswith(end)]
        elif isinstance(self.home, RemotePath):
            found = [f"{name}/{file}" for file in (self.home / name).files()]
            names = [file for file in found if file.startswith(start) and file.endswith(end)]
        else:
            found_here = [file for file in self.home.glob(f"{start}*{end}") if file.is_file()]
            names = [file.relative_to(self.home).as_posix() for file in found_here]
            for file in names:
                inside(self.home, file)  # a link must not bring in tables of another folder
        values = [file[len(start) : -len(end)] for file in names]
        return sorted((value, file) for value, file in zip(values, names, strict=True) if "/" not in value)

    def _stored(self, name: str) -> str:
        """Return the stored name of a file of the catalog."""
        return name if self.files is None else self.files[name].at

    def _file(self, name: str) -> Place | None:
        """Return a file of the catalog if it exists."""
        if self.files is not None:
            return self.home / self.files[name].at if name in self.files else None
        return self.home / name if (self.home / name).is_file() else None

    def _hash(self, name: str) -> str:
        """Return the SHA-256 of an existing file; a pushed catalog knows it."""
        if self.files is not None:
            return self.files[name].sha256
        return hashlib.sha256((self.home / name).read_bytes()).hexdigest()

    def _root(self, name: str) -> Place:
        """Return the place of a root."""
        named = os.environ.get(ROOT_VARIABLE + name.upper(), self.roots[name])
        if is_url(named):
            return as_place(named)
        if isinstance(self.home, RemotePath) and not Path(named).is_absolute():
            return self.home if named == "." else self.home.inside(named)
        return (self.home / named if isinstance(self.home, Path) else Path(named)).resolve()

    def _locate(self, location: str) -> tuple[Place, Stored | None]:
        """Return the place of a `<root>:<relative path>`, and its entry in the index; None if it was not pushed."""
        name, colon, relative = location.partition(":")
        if not colon or name not in self.roots:
            raise CatalogError(f"{location!r} has no known root; roots: {', '.join(sorted(self.roots))}")
        root = self._root(name)
        file = inside(root, relative) if isinstance(root, Path) else root.inside(relative)
        if self.files is None or root != self.home.resolve():
            return file, None
        if relative not in self.files:
            raise CatalogError(f"{location!r} was not pushed to {self.home}; push the catalog with its images")
        pushed = self.files[relative]
        return root / pushed.at, pushed


class CatalogCommit(Commit):
    """Tables and files of a catalog that change in one step."""

    def write_part(self, name: str, part: str, table: "pa.Table") -> None:
        """Replace one source, run or plan of a table; its rows are sorted.

        Raises:
            CatalogError: The columns differ from the schema, a case or lesion has two rows, or the name cannot be a
                folder's name.
        """
        schema = table_schema(name)
        check_part(name, part)
        if table.schema.names != schema.names:
            raise CatalogError(f"table {name} has columns {schema.names}, got {table.schema.names}")
        _check_unique(name, part, table)
        metadata = table.schema.metadata
        with self.file(f"{name}/{_partition_key(name)}={part}/part-0.parquet") as temporary:
            write_table(temporary, table.cast(schema).replace_schema_metadata(metadata), name)

    def write_sources(self, rows: "pa.Table") -> None:
        """Add or replace rows of the table of sources."""
        if not len(rows):
            return
        import pyarrow as pa
        import pyarrow.compute as pc

        kept = open_catalog(self.home).sources.filter(pc.invert(pc.field("source").isin(rows["source"])))
        with self.file("sources.parquet") as temporary:
            write_table(temporary, pa.concat_tables([kept, rows.cast(kept.schema)]), "sources")

    def write_run(self, run: str, about: Mapping[str, Any]) -> None:
        """Write the facts of a run that are in no table: who ran it, when, on which machine, how it ended."""
        self.text(f"runs/{run}.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")

    def set_root(self, name: str, folder: str | Path) -> None:
        """Add or move a root: a folder or a URL."""
        as_place(folder)  # rejects a URL with credentials before it is written
        named = str(folder if is_url(folder) else Path(folder).resolve())
        self._roots = {**(self._roots or open_catalog(self.home).roots), name: named}
        with self.file(HEAD) as temporary:
            temporary.write_bytes(head_bytes(self._roots))

    _roots: Mapping[str, str] | None = None


def open_catalog(path: str | Path | RemotePath, *, filesystem: Any = None) -> Catalog:
    """Open an existing catalog.

    Args:
        path: Its folder, or a URL such as `s3://bucket/catalog`, which makes it read only.
        filesystem: A file system of PyArrow or fsspec that contains it; `path` is then a path in it. Work in other
            processes needs a file system that can be pickled.

    Raises:
        CatalogError: There is no catalog, it has a newer format, or the storage cannot be reached.
    """
    home = as_place(path, filesystem)
    if isinstance(home, Path):
        _settle(home)
    roots, index = read_head(home)
    return Catalog(home, roots, index, is_url(path) or isinstance(home, RemotePath) or bool(index))


def _settle(home: Path) -> None:
    """Complete an interrupted commit, so that all tables are of one state.

    Raises:
        CatalogError: The commit cannot be completed: another process holds the write lock and does not finish, this
            process may not write, or the record is damaged.
    """
    if is_settled(home):
        return
    try:
        with writing(home):
            settle(home)
    except StorageError as error:
        raise CatalogError(
            f"{home} has an interrupted commit that cannot be completed: {error.strerror}; open the catalog "
            "once as a user who may write to it"
        ) from error
    except LockedError:
        if not wait_until_settled(home):
            raise


def create_catalog(path: str | Path) -> Catalog:
    """Open a catalog, or make an empty one.

    Raises:
        CatalogError: The folder has other files and no catalog, or cannot be written; or `path` is a URL.
    """
    folder = as_place(path)
    if is_url(path) or isinstance(folder, RemotePath):
        raise read_only(path)
    if (folder / HEAD).exists():
        return open_catalog(folder)
    try:
        # a run that was killed at the start leaves a partial head and its lock
        if folder.exists() and any(not file.name.startswith((".writing-", LOCK)) for file in folder.iterdir()):
            raise CatalogError(f"{folder} exists and is not a catalog; name an empty or a new folder")
        try:
            make_folder(folder)
        except ClicksimError as error:
            raise CatalogError(f"no catalog can be made in {folder}: {error}") from error
        with writing(folder):
            if not (folder / HEAD).exists():  # another process may have made it meanwhile
                write_head(folder, {"catalog": "."})
    except OSError as error:
        raise CatalogError(f"no catalog can be made in {folder}: {error.strerror or error}") from error
    return open_catalog(folder)


def check_part(name: str, part: str) -> None:
    """Reject an invalid name of a source, run or plan.

    Raises:
        CatalogError: The name is empty, begins with a dot, or has a character that a folder name cannot have.
    """
    if set(part) & UNSAFE or part.startswith(".") or not part:
        kind = _partition_key(name)
        raise CatalogError(f"{part!r} cannot name a {kind}: it names a folder; use letters, digits, '-', '_' and '@'")


def _check_unique(name: str, part: str, table: "pa.Table") -> None:
    """Reject two rows of one case or lesion."""
    import pyarrow.compute as pc

    keys = UNIQUE.get(name)
    if keys is None:
        return
    twice = table.group_by(keys).aggregate([([], "count_all")]).filter(pc.field("count_all") > 1).select(keys)
    if len(twice):
        shown = ", ".join(" ".join(map(str, row.values())) for row in twice.slice(0, 10).to_pylist())
        raise CatalogError(
            f"{name} of {part} has differing rows for {shown}; convert them again, each under its own id"
        )


def _partition_key(name: str) -> str:
    return {"prompts": "run", "rounds": "run", "folds": "plan"}.get(name, "source")

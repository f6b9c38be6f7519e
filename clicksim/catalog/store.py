"""The catalog on disk: Parquet tables that any reader opens, and the only code that writes them.

A file gets its final name by rename, after it was flushed to the disk: a reader sees the old table or the new
one, never half of one. Rows are sorted, so two runs over the same data give the same bytes; wall-clock facts
stand in `runs/` and in no table.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog.schema import FORMAT_VERSION, SORT_KEYS, TABLES, table_schema
from clicksim.errors import CatalogError
from clicksim.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUPS = {"cases": 1_000, "lesions": 20_000, "prompts": 50_000}  # small enough that a lookup reads little
ROOT_VARIABLE = "CLICKSIM_ROOT_"
UNSAFE = frozenset('/\\=:*?"<>|')  # in the name of a source or run, which names a folder


@dataclass(frozen=True)
class Catalog:
    """An open catalog: its tables, and the files that they point to.

    Attributes:
        path: The folder.
        roots: Folders by name; the `catalog` itself, and each source that is used in place.
    """

    path: Path
    roots: Mapping[str, str]

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
        """One row per study or file that was found and not taken, with the reason."""
        return self.table("rejected")

    @property
    def sources(self) -> "pa.Table":
        """One row per source: DOI, release, licence, citation."""
        import pyarrow.parquet as pq

        file = self.path / "sources.parquet"
        return pq.read_table(file) if file.is_file() else table_schema("sources").empty_table()

    @property
    def prompts(self) -> "pa.Table":
        """One row per prompt voxel of all runs, with the run's id as column `run`."""
        return self.table("prompts")

    @property
    def runs(self) -> list[str]:
        """Ids of the prompt runs."""
        return self.parts("prompts")

    def table(self, name: str, part: str | None = None) -> "pa.Table":
        """A table of all parts, or of one source or run; the part's name becomes the last column.

        Raises:
            CatalogError: No such table, or a file of it that cannot be read.
        """
        import pyarrow as pa

        schema = table_schema(name)
        key = _partition_key(name)
        pieces = []
        for value, file in self._parts(name):
            if part is None or part == value:
                piece = _cast(_read_parquet(file), schema, file)
                column = pa.array([value] * len(piece), pa.string()).dictionary_encode()
                pieces.append(piece.replace_schema_metadata(None).append_column(key, column))
        if not pieces:
            return schema.append(pa.field(key, pa.dictionary(pa.int32(), pa.string()))).empty_table()
        return pa.concat_tables(pieces).unify_dictionaries()

    def case(self, case_id: str, source: str | None = None) -> dict[str, Any]:
        """The row of one case. Only the row group that can hold it is read, so its cost does not grow.

        Raises:
            CatalogError: No such case, or one in several sources and none named.
        """
        found = []
        for value, file in self._parts("cases"):
            if source in (None, value):
                found += [row | {"source": value} for row in _rows_of(file, case_id)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(row["source"] for row in found)
            raise CatalogError(f"case {case_id!r} is in several sources: {names}; name one")
        raise CatalogError(f"no case {case_id!r} in {self.path}")

    def metadata(self, run: str) -> dict[str, Any]:
        """Protocol, settings, seed and versions of a prompt run."""
        from clicksim.prompts.table import METADATA_KEY

        about: dict[str, Any] = json.loads(self.part_metadata("prompts", run)[METADATA_KEY])
        return about

    def part_metadata(self, name: str, part: str) -> dict[bytes, bytes]:
        """The metadata of one file of a table.

        Raises:
            CatalogError: No such source or run.
        """
        import pyarrow.parquet as pq

        for value, file in self._parts(name):
            if value == part:
                held = pq.read_schema(file).metadata or {}
                return {key: text for key, text in held.items() if key != b"ARROW:schema"}
        raise CatalogError(
            f"no {part!r} in table {name} of {self.path}; there is: {', '.join(self.parts(name)) or '-'}"
        )

    def parts(self, name: str) -> list[str]:
        """The sources or runs that a table has."""
        return [value for value, _ in self._parts(name)]

    def sql(self, query: str) -> "pa.Table":
        """The answer of DuckDB to a query over the tables `cases lesions links rejected sources prompts`.

        Raises:
            CatalogError: DuckDB is not installed, or refuses the query.
        """
        try:
            import duckdb
        except ImportError as error:
            raise CatalogError("queries need DuckDB: pip install 'clicksim[sql]'") from error
        with duckdb.connect() as connection:
            for name in (*TABLES, "prompts"):
                connection.register(name, self.sources if name == "sources" else self.table(name))
            try:
                answer = connection.sql(query)
            except duckdb.Error as error:
                raise CatalogError(f"the query was refused: {' '.join(str(error).split())}") from error
            if answer is None:
                raise CatalogError("the query has no answer: ask with SELECT; the tables cannot be changed by SQL")
            try:
                return answer.to_arrow_table()
            except duckdb.Error as error:  # some mistakes show only once it runs
                raise CatalogError(f"the query was refused: {' '.join(str(error).split())}") from error

    def resolve(self, location: str) -> Path:
        """The file behind a `<root>:<relative path>`.

        The variable `CLICKSIM_ROOT_<NAME>` moves a root for one process.

        Raises:
            CatalogError: An unknown root, or a path that leaves it, also through a link.
        """
        name, colon, relative = location.partition(":")
        if not colon or name not in self.roots:
            raise CatalogError(f"{location!r} has no known root; roots: {', '.join(sorted(self.roots))}")
        root = (self.path / os.environ.get(ROOT_VARIABLE + name.upper(), self.roots[name])).resolve()
        return inside(root, relative)

    def digest(self) -> str:
        """SHA-256 over all tables: the same content, the same digest, wherever the catalog lies."""
        files = [(f"{name}/{value}", file) for name in (*TABLES, "prompts") for value, file in self._parts(name)]
        files += [("sources", file) for file in [self.path / "sources.parquet"] if file.is_file()]
        total = hashlib.sha256()
        for key, file in files:
            total.update(f"{key}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    def part_digest(self, name: str, part: str) -> str:
        """SHA-256 of one source, run or plan of a table.

        Raises:
            CatalogError: There is none.
        """
        for value, file in self._parts(name):
            if value == part:
                return hashlib.sha256(file.read_bytes()).hexdigest()
        raise CatalogError(f"no {part!r} in table {name} of {self.path}")

    def write_part(self, name: str, part: str, table: "pa.Table") -> Path:
        """Replace one source or run of a table; sorted, complete or not there at all.

        Raises:
            CatalogError: Columns that differ from the schema.
        """
        schema = table_schema(name)
        if set(part) & UNSAFE or part.startswith(".") or not part:
            raise CatalogError(f"{part!r} names a folder of table {name}; use letters, digits, '-', '_' and '@'")
        if table.schema.names != schema.names:
            raise CatalogError(f"table {name} has columns {schema.names}, got {table.schema.names}")
        file = self.path / name / f"{_partition_key(name)}={part}" / "part-0.parquet"
        metadata = table.schema.metadata
        _write_parquet(file, table.cast(schema).replace_schema_metadata(metadata), name)
        return file

    def write_sources(self, rows: "pa.Table") -> None:
        """Add or replace rows of the table of sources."""
        if not len(rows):
            return
        import pyarrow as pa
        import pyarrow.compute as pc

        kept = self.sources.filter(pc.invert(pc.field("source").isin(rows["source"])))
        _write_parquet(self.path / "sources.parquet", pa.concat_tables([kept, rows.cast(kept.schema)]), "sources")

    def write_run(self, run: str, about: Mapping[str, Any]) -> None:
        """The wall-clock facts of a run: who, when, on what machine, how it ended."""
        _write_json(self.path / "runs" / f"{run}.json", about)

    def with_root(self, name: str, folder: Path) -> "Catalog":
        """The catalog with a root added or moved, on disk as well."""
        roots = {**self.roots, name: str(Path(folder).resolve())}
        _write_head(self.path, roots)
        return Catalog(self.path, roots)

    def _parts(self, name: str) -> list[tuple[str, Path]]:
        """Partition values and files of a table, sorted."""
        prefix = f"{_partition_key(name)}="
        folders = sorted((self.path / name).glob(f"{prefix}*"))
        files = [(folder.name[len(prefix) :], folder / "part-0.parquet") for folder in folders]
        return [(value, file) for value, file in files if file.is_file()]


def open_catalog(path: str | Path) -> Catalog:
    """Open an existing catalog.

    Raises:
        CatalogError: No catalog there, or one of a newer format.
    """
    head = Path(path) / "catalog.json"
    try:
        content = json.loads(head.read_text(encoding="utf-8"))
        version, roots = content["format_version"], dict(content["roots"])
    except FileNotFoundError as error:
        raise CatalogError(f"no catalog in {path}: catalog.json is missing; clicksim convert makes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{head} is not a catalog's head: {error!r}") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CatalogError(
            f"{path} has catalog format {version}, this clicksim {__version__} knows {FORMAT_VERSION}: "
            "pip install --upgrade clicksim"
        )
    return Catalog(Path(path), {str(name): str(folder) for name, folder in roots.items()})


def create_catalog(path: str | Path) -> Catalog:
    """Open a catalog, or make an empty one.

    Raises:
        CatalogError: The folder holds other things and no catalog, or cannot be written.
    """
    folder = Path(path)
    if (folder / "catalog.json").exists():
        return open_catalog(folder)
    try:
        # a run that was killed at once leaves a half-written head
        if folder.exists() and any(not file.name.startswith(".writing-") for file in folder.iterdir()):
            raise CatalogError(f"{folder} exists and is no catalog; name an empty or a new folder")
        _write_head(folder, {"catalog": "."})
    except OSError as error:
        raise CatalogError(f"no catalog can be made in {folder}: {error.strerror or error}") from error
    return open_catalog(folder)


def inside(root: Path, relative: str) -> Path:
    """A path below a root.

    Raises:
        CatalogError: An absolute path, one with `..`, or one that a link leads outside.
    """
    pure = PurePosixPath(relative)
    target = (root / pure).resolve()
    if pure.is_absolute() or ".." in pure.parts or not target.is_relative_to(root.resolve()):
        raise CatalogError(f"path {relative!r} leaves its root {root}")
    return target


def _partition_key(name: str) -> str:
    return {"prompts": "run", "rounds": "run", "folds": "plan"}.get(name, "source")


def _rows_of(file: Path, case_id: str) -> list[dict[str, Any]]:
    """The rows of a case in a file sorted by `case_id`, from the row groups whose range holds it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with _reading(file), pq.ParquetFile(file) as parquet:
        groups = [
            n
            for n in range(parquet.num_row_groups)
            if _may_hold(parquet.metadata.row_group(n).column(0).statistics, case_id)  # case_id is the first column
        ]
        rows = parquet.read_row_groups(groups).filter(pc.field("case_id") == case_id) if groups else None
        return [] if rows is None else rows.to_pylist()


def _may_hold(statistics: Any, value: str) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What the reader of Parquet refuses becomes a sentence that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{file} cannot be read: {error}; convert or simulate that part again") from error


def _read_parquet(file: Path) -> "pa.Table":
    import pyarrow.parquet as pq

    with _reading(file):
        return pq.read_table(file, partitioning=None)


def _cast(table: "pa.Table", schema: "pa.Schema", file: Path) -> "pa.Table":
    """The table with the types of the schema.

    Raises:
        CatalogError: Its columns are others, as those of another version of clicksim may be.
    """
    import pyarrow as pa

    try:
        return table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        differing = sorted(set(table.column_names) ^ set(schema.names))
        raise CatalogError(
            f"{file} has other columns than clicksim {__version__} ({', '.join(differing) or error}); "
            "convert or simulate that part again"
        ) from error


def _canonical(table: "pa.Table") -> "pa.Table":
    """The same rows with dictionaries in order of appearance: how a table was put together leaves no trace."""
    import pyarrow as pa

    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            plain = column.cast(field.type.value_type).combine_chunks()
            columns.append(plain.dictionary_encode().cast(field.type))
        else:
            columns.append(column)
    return pa.table(columns, schema=table.schema)


def _write_parquet(file: Path, table: "pa.Table", name: str) -> None:
    import pyarrow.parquet as pq

    keys: Sequence[tuple[str, str]] = [(key, "ascending") for key in SORT_KEYS[name]]
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        pq.write_table(
            _canonical(table.sort_by(list(keys))).combine_chunks(),
            temporary,
            compression="zstd",
            row_group_size=ROW_GROUPS.get(name, 50_000),
        )


def _write_head(folder: Path, roots: Mapping[str, str]) -> None:
    _write_json(
        folder / "catalog.json",
        {"format_version": FORMAT_VERSION, "made_by": f"clicksim {__version__}", "roots": dict(sorted(roots.items()))},
    )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

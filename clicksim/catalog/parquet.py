"""Parquet files of a catalog, in a folder or on object storage; equal rows are written as equal bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog.remote.places import HINT, Place
from clicksim.catalog.schema import SORT_KEYS
from clicksim.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUPS = {"cases": 1_000, "lesions": 20_000, "prompts": 50_000}  # small enough that a lookup reads little


def read_table(file: Place) -> "pa.Table":
    """Read all rows of a file.

    Raises:
        CatalogError: The file cannot be read.
    """
    with _reading(file) as parquet:
        return parquet.read()


def read_metadata(file: Place) -> dict[bytes, bytes]:
    """Read the metadata of a file; only its end is read.

    Raises:
        CatalogError: The file cannot be read.
    """
    with _reading(file) as parquet:
        held = parquet.schema_arrow.metadata or {}
    return {key: text for key, text in held.items() if key != b"ARROW:schema"}


def rows_of(file: Place, case_id: str) -> list[dict[str, Any]]:
    """Read the rows of a case from a file sorted by `case_id`; only row groups that may contain it are read.

    Raises:
        CatalogError: The file cannot be read.
    """
    import pyarrow.compute as pc

    with _reading(file) as parquet:
        groups = [
            n
            for n in range(parquet.num_row_groups)
            if _may_hold(parquet.metadata.row_group(n).column(0).statistics, case_id)  # case_id is the first column
        ]
        rows = parquet.read_row_groups(groups).filter(pc.field("case_id") == case_id) if groups else None
        return [] if rows is None else rows.to_pylist()


def cast_table(table: "pa.Table", schema: "pa.Schema", file: Place) -> "pa.Table":
    """Cast a table to the types of the schema.

    Raises:
        CatalogError: The columns differ; another version of clicksim may have written them.
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


def write_table(file: Path, table: "pa.Table", name: str) -> None:
    """Write the rows of the table `name`, sorted by its keys."""
    import pyarrow.parquet as pq

    keys: Sequence[tuple[str, str]] = [(key, "ascending") for key in SORT_KEYS[name]]
    pq.write_table(
        _canonical(table.sort_by(list(keys))).combine_chunks(),
        file,
        compression="zstd",
        row_group_size=ROW_GROUPS.get(name, 50_000),
        write_page_checksum=True,  # without it a damaged page gives wrong values
    )


def _may_hold(statistics: Any, value: str) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


def _canonical(table: "pa.Table") -> "pa.Table":
    """Normalise rows for storage: dictionaries in order of appearance, lists without a fixed size.

    So the bytes do not depend on how the table was built. PyArrow before 26 cannot open a file with a null among lists
    of fixed size; reading the table restores the fixed sizes.
    """
    import pyarrow as pa

    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        stored = column
        if pa.types.is_dictionary(field.type):
            plain = column.cast(field.type.value_type).combine_chunks()
            stored = plain.dictionary_encode().cast(field.type)
        elif pa.types.is_fixed_size_list(field.type):
            stored = pa.array(
                column.to_pylist(), pa.list_(field.type.value_type)
            )  # a cast would keep values under nulls
        fields.append(field.with_type(stored.type))
        columns.append(stored)
    return pa.table(columns, schema=pa.schema(fields, table.schema.metadata))


@contextmanager
def _reading(file: Place) -> Iterator[Any]:
    """Open a Parquet file; errors of PyArrow become messages that name the file.

    Each page has a checksum but the end of the file does not; it contains the number of rows twice, which is compared.

    Raises:
        CatalogError: The file cannot be read, or contradicts itself.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opening = nullcontext(file) if isinstance(file, Path) else file.open()
        with opening as opened, pq.ParquetFile(opened, page_checksum_verification=True) as parquet:
            about = parquet.metadata
            rows = sum(about.row_group(n).num_rows for n in range(about.num_row_groups))
            if rows != about.num_rows:
                raise OSError(f"it is damaged: it says that it has {about.num_rows} rows, and lists {rows}")
            yield parquet
    except (pa.ArrowException, OSError) as error:
        remedy = "convert or simulate that part again" if isinstance(file, Path) else f"{HINT}, or push it again"
        raise CatalogError(f"{file} cannot be read: {error}; {remedy}") from error

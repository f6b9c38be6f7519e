"""SQL over the tables of a catalog, answered by DuckDB."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clicksim.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa


def run_query(tables: "Mapping[str, pa.Table]", query: str) -> "pa.Table":
    """Answer a query over tables by name.

    Raises:
        CatalogError: DuckDB is not installed, or rejects the query.
    """
    try:
        import duckdb
    except ImportError as error:
        raise CatalogError("queries need DuckDB: pip install 'clicksim[sql]'") from error
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        try:
            answer = connection.sql(query)
            if answer is not None:
                return answer.to_arrow_table()  # some errors appear only here
        except duckdb.Error as error:
            raise CatalogError(f"the query was rejected: {' '.join(str(error).split())}") from error
    raise CatalogError("the query has no answer: use SELECT; SQL cannot change the tables")

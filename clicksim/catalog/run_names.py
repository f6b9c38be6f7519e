"""The names of runs: `latest` means the run that ended last."""

from typing import Any

from clicksim.catalog.store import Catalog, check_part
from clicksim.errors import CatalogError

LATEST = "latest"


def find_run(catalog: Catalog, table: str, name: str) -> str:
    """The run of a table that a name means.

    Args:
        catalog: The catalog.
        table: `prompts` or `rounds`.
        name: A run, which need not exist, or `latest`.

    Raises:
        CatalogError: The latest run is asked for, and the table has none.
    """
    if name != LATEST:
        return name
    runs = catalog.parts(table)
    if not runs:
        raise CatalogError(f"{catalog.home} has no run in its table {table}, and so no latest one")
    return max(runs, key=lambda run: (*_ended(catalog, run), run))


def check_run_name(table: str, name: str) -> None:
    """Refuse what cannot be the name of a run.

    Raises:
        CatalogError: It is `latest`, or as `check_part`.
    """
    check_part(table, name)
    if name == LATEST:
        raise CatalogError(f"a run cannot be called {LATEST}: that means the run that ended last; name it otherwise")


def _ended(catalog: Catalog, run: str) -> tuple[str, Any]:
    """When a run ended, as sorted text; runs that ended in the same second are ordered by the time of their record."""
    record = catalog.run_record(run)
    return (str(record.get("ended", "")), record.get("modified", 0))

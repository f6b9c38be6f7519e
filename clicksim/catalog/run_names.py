"""The runs of a catalog and their names; `latest` means the run that ended last."""

from typing import Any

from clicksim.catalog.commit import WORK
from clicksim.catalog.remote.places import RemotePath
from clicksim.catalog.store import Catalog, check_part
from clicksim.errors import CatalogError

LATEST = "latest"
RUN_COLUMNS = ("run", "kind", "protocol", "predictor", "seed", "settings", "cases", "refused", "ended")


def find_run(catalog: Catalog, table: str, name: str) -> str:
    """Find the run of a table by its name.

    Args:
        catalog: The catalog.
        table: `prompts` or `rounds`.
        name: A run, which need not exist, or `latest`.

    Raises:
        CatalogError: The name is `latest`, and the table has no run.
    """
    if name != LATEST:
        return name
    runs = catalog.parts(table)
    if not runs:
        raise CatalogError(f"table {table} of {catalog.home} has no run, so there is no latest one")
    return max(runs, key=lambda run: (*_ended(catalog, run), run))


def check_run_name(table: str, name: str) -> None:
    """Reject an invalid name of a run.

    Raises:
        CatalogError: The name is `latest`, or as `check_part`.
    """
    check_part(table, name)
    if name == LATEST:
        raise CatalogError(f"a run cannot be called {LATEST}: that means the run that ended last; use another name")


def list_runs(catalog: Catalog) -> list[dict[str, Any]]:
    """List the runs of a catalog in the order in which they ended, then the interrupted ones.

    Returns:
        Rows with `run`, `kind` (`clicks`, `scribbles`, `rounds` or `interrupted`), `protocol`, `settings` (as
        text), `cases`, `refused` and `ended`; unknown values are None.
    """
    rows = []
    for run in sorted({*catalog.parts("prompts"), *catalog.parts("rounds")}):
        about = catalog.metadata(run) if run in catalog.parts("prompts") else {}
        record = catalog.run_record(run)
        refused = record.get("refused")
        rows.append(
            {
                "run": run,
                "kind": about.get("made_by") or about.get("table") or "clicks",
                "protocol": about.get("protocol") or None,
                "predictor": about.get("title"),
                "seed": about.get("seed"),
                "settings": " ".join(f"{key}={value}" for key, value in (about.get("settings") or {}).items()),
                "cases": record.get("cases"),
                "refused": len(refused) if isinstance(refused, list) else refused,
                "ended": record.get("ended"),
            }
        )
    rows.sort(key=lambda row: (row["ended"] or "", row["run"]))
    return rows + [dict.fromkeys(rows[0] if rows else RUN_COLUMNS) | row for row in _interrupted(catalog)]


def _interrupted(catalog: Catalog) -> list[dict[str, Any]]:
    """The jobs that were interrupted and have finished work."""
    if catalog.read_only or isinstance(catalog.home, RemotePath):
        return []
    heads = sorted((catalog.home / WORK).glob("*/job.json"))
    return [{"run": head.parent.name.rpartition("-")[0], "kind": "interrupted"} for head in heads]


def _ended(catalog: Catalog, run: str) -> tuple[str, Any]:
    """When a run ended, as sorted text; runs that ended in the same second are ordered by the time of their record."""
    record = catalog.run_record(run)
    return (str(record.get("ended", "")), record.get("modified", 0))

"""The catalog: Parquet tables of cases, lesions, links and prompts from all sources."""

from clicksim.catalog.source import Context, Outcome, Source, Unit, find_source, list_sources
from clicksim.catalog.store import Catalog, create_catalog, open_catalog

__all__ = [
    "Catalog",
    "Context",
    "Outcome",
    "Source",
    "Unit",
    "create_catalog",
    "find_source",
    "list_sources",
    "open_catalog",
]

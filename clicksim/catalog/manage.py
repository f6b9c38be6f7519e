"""Summarise a catalog, and cite its sources."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from clicksim.catalog.store import Catalog

if TYPE_CHECKING:
    pass


def summarise_catalog(catalog: Catalog) -> list[dict[str, Any]]:
    """Summarise each source: cases, patients, lesions, volumes, tracers, folds, flags, rejections.

    Null values are not counted: a case with neither mask nor volume does not count as one without lesions.
    """
    rows = []
    for source in catalog.parts("cases"):
        cases = catalog.table("cases", source).to_pylist()
        volumes = [case["lesion_volume_ml"] for case in cases if case["lesion_volume_ml"] is not None]
        rejected = catalog.table("rejected", source).num_rows if source in catalog.parts("rejected") else 0
        rows.append(
            {
                "source": source,
                "cases": len(cases),
                "patients": len({case["patient_key"] for case in cases}),
                "without_lesion": sum(case["lesion_present"] is False for case in cases),
                "lesions": sum(case["n_lesions"] or 0 for case in cases),
                "volume_ml": round(sum(volumes), 3),
                "median_volume_ml": round(median(volumes), 3) if volumes else None,
                "tracers": _count(cases, "tracer_class"),
                "folds": _count(cases, "official_fold"),
                "splits": _count(cases, "official_split"),
                "flags": _count([{"flag": f} for case in cases for f in case["quality_flags"] or []], "flag"),
                "rejected": rejected,
            }
        )
    return rows


def cite_sources(catalog: Catalog, *, bibtex: bool = False) -> str:
    """Return what a paper that uses the catalog's cases must cite, each source with its licence."""
    used = set(catalog.parts("cases"))
    rows = [row for row in catalog.sources.to_pylist() if row["source"] in used]
    if bibtex:
        return "\n\n".join(row["bibtex"] for row in rows if row["bibtex"])
    return "\n\n".join(_cite_source(row) for row in rows)


def _cite_source(row: dict[str, Any]) -> str:
    """Return title, release, licence, citation and DOI; what a source does not state is left out."""
    release = f" ({row['release']})" if row["release"] else ""
    lines = (f"{row['title']}{release}. Licence: {row['licence']}.", row["citation"], row["doi"])
    return "\n".join(line for line in lines if line)


def _count(rows: Sequence[dict[str, Any]], column: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row[column] is not None:
            counts[str(row[column])] = counts.get(str(row[column]), 0) + 1
    return dict(sorted(counts.items()))

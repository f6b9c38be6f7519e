"""Prompt runs: their cases and names, what the id of a run is a hash of, and how the runs of shards become one."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, up_to_ten

Patients = dict[str, list[dict[str, Any]]]
Member = tuple[int, str]  # a catalog by its place, and a run of it


def read_patients(catalog: Catalog, columns: Sequence[str] = (), source: str | None = None) -> Patients:
    """The cases of each patient, by `<source>/<patient_key>`; both sorted.

    Args:
        catalog: Where they stand.
        columns: Of the table of cases, besides `case_id`, `patient_key` and `source`.
        source: One source, or all; without cases where the catalog has no such source.
    """
    if source is not None and source not in catalog.parts("cases"):
        return {}
    names = dict.fromkeys(["case_id", "patient_key", *columns, "source"])
    patients: Patients = {}
    for row in catalog.table("cases", source).select(list(names)).to_pylist():
        patients.setdefault(f"{row['source']}/{row['patient_key']}", []).append(row)
    return dict(sorted(patients.items()))


def check_names(names: Iterable[str]) -> None:
    """Refuse cases that prompts cannot tell apart: a row of prompts knows a case by its id alone.

    Args:
        names: What each case is called: its id, or for files the name of its file.

    Raises:
        CatalogError: Two cases are called the same.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise CatalogError(
            f"several cases are called {up_to_ten(twice)}, and prompts name a case by nothing else; take one "
            "source at a time (--source), or convert one under other names"
        )


def hash_run(about: Mapping[str, Any], cases: Mapping[str, Sequence[str]]) -> str:
    """The id of a run: a hash of protocol, settings, seed and cases.

    Args:
        about: The run's metadata; its `version` and `cases` do not count.
        cases: The case ids of each patient, refused ones too.
    """
    kept = {name: value for name, value in about.items() if name not in ("version", "cases")}
    listed = [[patient, list(ids)] for patient, ids in cases.items()]
    return hashlib.blake2b(json.dumps([kept, listed], sort_keys=True).encode(), digest_size=8).hexdigest()


def join_runs(catalogs: Sequence[Catalog]) -> dict[str, list[Member]]:
    """Which runs of several catalogs become one when these are merged.

    A run whose id is the hash of all cases of its catalog, or of all of one source, is the run over those cases. Where
    every catalog with such cases has such a run with the same settings, they are joined, and the id of the joined run
    is the hash of the cases of all: what one run over the merged catalog would be called. Other runs, such as
    imported ones, those of rounds, and those of a catalog that has grown since, keep their names.

    Returns:
        By id or name in the merged catalog, the runs that make it up.
    """
    held = [{run: catalog.metadata(run) for run in catalog.runs} for catalog in catalogs]
    sources = sorted({source for catalog in catalogs for source in catalog.parts("cases")})
    settings = {_settings(about): about for runs in held for about in runs.values()}
    plan: dict[str, list[Member]] = {}
    joined: set[Member] = set()
    for scope in (None, *sources):
        cases = [_case_ids(catalog, scope) for catalog in catalogs]
        for text, about in sorted(settings.items()):
            members = [(n, hash_run(about, found)) for n, found in enumerate(cases) if found]
            complete = all(run in held[n] and _settings(held[n][run]) == text for n, run in members)
            if complete and not joined.issuperset(members):
                plan[hash_run(about, _put_together(cases))] = members
                joined.update(members)
    for n, runs in enumerate(held):
        for run in runs:
            if (n, run) not in joined:
                plan.setdefault(run, []).append((n, run))
    return plan


def _settings(about: Mapping[str, Any]) -> str:
    """What the runs of shards have in common."""
    return json.dumps({name: value for name, value in about.items() if name != "cases"}, sort_keys=True)


def _case_ids(catalog: Catalog, source: str | None) -> dict[str, list[str]]:
    return {key: [row["case_id"] for row in rows] for key, rows in read_patients(catalog, source=source).items()}


def _put_together(shards: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for shard in shards:
        for key, ids in shard.items():
            found.setdefault(key, set()).update(ids)
    return {key: sorted(found[key]) for key in sorted(found)}

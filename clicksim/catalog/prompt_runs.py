"""Prompt runs: their cases and names, the hash that is the id of a run, and how to join the runs of shards."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, up_to_ten

Patients = dict[str, list[dict[str, Any]]]
Member = tuple[int, str]  # index of a catalog, and one of its runs


def read_patients(catalog: Catalog, columns: Sequence[str] = (), source: str | None = None) -> Patients:
    """Read the cases of each patient, by `<source>/<patient_key>`; both are sorted.

    Args:
        catalog: The catalog.
        columns: Columns of the table of cases, besides `case_id`, `patient_key` and `source`.
        source: One source, or None for all; an unknown source gives no cases.
    """
    if source is not None and source not in catalog.parts("cases"):
        return {}
    names = dict.fromkeys(["case_id", "patient_key", *columns, "source"])
    patients: Patients = {}
    for row in catalog.table("cases", source).select(list(names)).to_pylist():
        patients.setdefault(f"{row['source']}/{row['patient_key']}", []).append(row)
    return dict(sorted(patients.items()))


def check_names(names: Iterable[str]) -> None:
    """Reject cases with equal names: rows of prompts identify a case only by its id.

    Args:
        names: The name of each case: its id, or for files the name of its file.

    Raises:
        CatalogError: Two cases have the same name.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise CatalogError(
            f"several cases are called {up_to_ten(twice)}, and prompts identify a case only by its name; use one "
            "source at a time (--source), or convert one under other names"
        )


def hash_run(about: Mapping[str, Any], cases: Mapping[str, Sequence[str]]) -> str:
    """Return the id of a run: a hash of protocol, settings, seed and cases.

    Args:
        about: The run's metadata; its `version` and `cases` are ignored.
        cases: The case ids of each patient, including refused cases.
    """
    kept = {name: value for name, value in about.items() if name not in ("version", "cases")}
    listed = [[patient, list(ids)] for patient, ids in cases.items()]
    return hashlib.blake2b(json.dumps([kept, listed], sort_keys=True).encode(), digest_size=8).hexdigest()


def join_runs(catalogs: Sequence[Catalog]) -> dict[str, list[Member]]:
    """Find the runs of several catalogs that become one run when the catalogs are merged.

    A run covers its catalog, or one source, if its id is the hash of all cases there. If every catalog with such cases
    has such a run with the same settings, these runs are joined. The id of the joined run is the hash of all cases: the
    same id that one run over the merged catalog would get. Other runs keep their names: imported runs, runs of rounds,
    and runs of a catalog that has grown since.

    Returns:
        By id or name in the merged catalog, the runs that it is made of.
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
    """Return the settings that the runs of all shards share."""
    return json.dumps({name: value for name, value in about.items() if name != "cases"}, sort_keys=True)


def _case_ids(catalog: Catalog, source: str | None) -> dict[str, list[str]]:
    return {key: [row["case_id"] for row in rows] for key, rows in read_patients(catalog, source=source).items()}


def _put_together(shards: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for shard in shards:
        for key, ids in shard.items():
            found.setdefault(key, set()).update(ids)
    return {key: sorted(found[key]) for key in sorted(found)}

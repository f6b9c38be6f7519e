"""Check that an export is complete and still agrees with the catalog."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clicksim.catalog.commit import WORK, is_settled
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError
from clicksim.findings import Finding
from clicksim.manifests.export_format import EXPORTS
from clicksim.manifests.folder import RECORD, RECORD_VERSION, load_record, row_hash
from clicksim.manifests.selection import key_of

DAMAGE = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, csv.Error)
"""The errors that occur if a file does not have the form that the export gave it."""


def read_manifest(out: str | Path) -> dict[str, Any]:
    """The record of an export.

    Raises:
        CatalogError: The record is missing, damaged or from a newer clicksim, or the export was interrupted.
    """
    folder = Path(out)
    record = load_record(folder) if is_settled(folder) else None
    if record is None and (folder / WORK).is_dir():
        raise CatalogError(f"the export in {out} was interrupted; continue with --resume")
    if record is None:
        raise CatalogError(f"{out} is not an export of clicksim: {RECORD} is missing")
    try:
        kind, version = str(record["format"]), int(record["record_version"])
    except DAMAGE as error:
        raise CatalogError(f"{folder / RECORD} cannot be read: {error!r}; write the export again") from error
    if version > RECORD_VERSION:
        raise CatalogError(f"{folder / RECORD} was written by a newer clicksim (version {version})")
    if kind not in EXPORTS:
        raise CatalogError(
            f"{folder / RECORD} has the format {kind}, which is not installed; installed: {', '.join(EXPORTS.names)}"
        )
    return record


def check_manifest(out: str | Path, catalog: Catalog | None = None) -> list[Finding]:
    """List the faults of an export; the list is empty if it is complete and agrees with the catalog.

    A new source or run in the catalog is not a fault. A changed case, run or plan of the export is one.


    Args:
        out: The folder of the export.
        catalog: The catalog to compare it with; None checks only the export.

    Raises:
        CatalogError: See `read_manifest`.
    """
    folder, record = Path(out), read_manifest(out)
    try:
        faults = _compare_record(record, folder, catalog)
    except DAMAGE as error:
        raise CatalogError(f"{folder / RECORD} is damaged: {error!r}; write the export again") from error
    kind = record["format"]
    try:
        return faults + [Finding("error", kind, (), fault) for fault in EXPORTS.find(kind).check(folder)]
    except DAMAGE as error:
        return [*faults, Finding("error", kind, (), f"a file of the export is damaged: {error!r}; write it again")]


def _compare_record(record: Mapping[str, Any], folder: Path, catalog: Catalog | None) -> list[Finding]:
    """How the record differs from the files, from itself and from the catalog."""
    faults = [
        _fault("files", case["case_id"], f"{name} does not exist: {file}")
        for case in record["cases"]
        for name, file in case["files"].items()
        if not (folder / file).is_file()
    ]
    faults += [_fault("files", "", f"{name} is missing") for name in record["files"] if not (folder / name).is_file()]
    patients: dict[str, set[Any]] = {}
    stratified = (record["folds"] or {}).get("scheme") == "stratified"
    for case in record["cases"] if stratified else []:
        patients.setdefault(case["patient_key"], set()).add(case["fold"])
    torn = sorted(name for name, folds in patients.items() if len(folds) > 1)
    faults += [_fault("folds", "", f"patient {name} is in several folds") for name in torn]
    if catalog is not None and catalog.digest() != record["catalog"]["digest"]:
        faults += _compare_catalog(record, catalog)
    return faults


def _compare_catalog(record: Mapping[str, Any], catalog: Catalog) -> list[Finding]:
    """How the catalog differs from the exported one, in the parts that were used."""
    faults = []
    for part, digest in record["catalog"]["parts"].items():
        table, _, name = part.partition("/")
        if name not in catalog.parts(table):
            faults.append(_fault("catalog", "", f"the catalog no longer has {table} of {name}"))
        elif catalog.part_digest(table, name) != digest and table != "cases":
            faults.append(_fault("catalog", "", f"{table} of {name} have changed in the catalog since the export"))
    rows = {key_of(row): row for row in catalog.cases.to_pylist()}
    exported = {(case["source"], case["case_id"]): case for case in record["cases"]}
    sources = {source["source"] for source in record["sources"]}
    for key, case in exported.items():
        if key not in rows:
            faults.append(_fault("catalog", key[1], "is no longer in the catalog"))
        elif row_hash(rows[key]) != case["row"]:
            faults.append(_fault("catalog", key[1], "has changed in the catalog since the export"))
    known = {*exported, *((source, name) for source in sources for name in record["refused"])}
    new = sorted(name for source, name in rows.keys() - known if source in sources)
    return faults + [_fault("catalog", name, "is in the catalog but not in the export") for name in new]


def _fault(check: str, case_id: str, detail: str) -> Finding:
    return Finding("error", check, (case_id,) if case_id else (), detail)

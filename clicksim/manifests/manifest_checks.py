"""Whether an export is whole, and still what the catalog says."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError
from clicksim.manifests.croissant import check_croissant
from clicksim.manifests.csv_export import check_csv
from clicksim.manifests.folder import RECORD, RECORD_VERSION, UNFINISHED, row_hash
from clicksim.manifests.grand_challenge import check_grand_challenge
from clicksim.manifests.huggingface import check_huggingface
from clicksim.manifests.monai_datalist import check_monai
from clicksim.manifests.nnunet import check_nnunet
from clicksim.manifests.selection import key_of

DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, csv.Error)
"""What reading a file of another form than the export's own ends in."""
FORMATS: dict[str, Callable[[Path], list[str]]] = {
    "nnunet": check_nnunet,
    "monai": check_monai,
    "grand-challenge": check_grand_challenge,
    "croissant": check_croissant,
    "huggingface": check_huggingface,
    "csv": check_csv,
}


def read_record(out: str | Path) -> dict[str, Any]:
    """The record of an export.

    Raises:
        CatalogError: There is none, or one of a newer clicksim.
    """
    file = Path(out) / RECORD
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind, version = str(record["format"]), int(record["record_version"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CatalogError(f"{out} is no export of clicksim: {RECORD} is missing") from error
    except (OSError, *DAMAGE) as error:
        raise CatalogError(f"{file} cannot be read: {error!r}") from error
    if kind == UNFINISHED:
        raise CatalogError(f"the export in {out} was interrupted; write it again")
    if version > RECORD_VERSION or kind not in FORMATS:
        raise CatalogError(f"{file} is of a newer clicksim (format {kind}, version {version})")
    return record


def check_manifest(out: str | Path, catalog: Catalog | None = None) -> list[str]:
    """What is wrong with an export; nothing where it is whole and agrees with the catalog.

    A catalog that has grown (another source, another run) does not matter; a case, run or plan that the export was
    made from and that changed since does.

    Args:
        out: The folder of the export.
        catalog: The catalog to hold it against, or None to look at the export alone.

    Raises:
        CatalogError: The folder is no export, or its record is damaged.
    """
    folder, record = Path(out), read_record(out)
    try:
        faults = _compare_record(record, folder, catalog)
    except DAMAGE as error:
        raise CatalogError(f"{folder / RECORD} is damaged: {error!r}; write the export again") from error
    try:
        return faults + FORMATS[record["format"]](folder)
    except DAMAGE as error:
        return [*faults, f"a file of the export is damaged: {error!r}; write it again"]


def _compare_record(record: dict[str, Any], folder: Path, catalog: Catalog | None) -> list[str]:
    """What the record says, held against the files, against itself and against the catalog."""
    faults = [
        f"{case['case_id']}: {name} is not there: {file}"
        for case in record["cases"]
        for name, file in case["files"].items()
        if not (folder / file).is_file()
    ]
    patients: dict[str, set[Any]] = {}
    stratified = (record["folds"] or {}).get("scheme") == "stratified"
    for case in record["cases"] if stratified else []:
        patients.setdefault(case["patient_key"], set()).add(case["fold"])
    faults += [f"patient {name} is in several folds" for name, folds in sorted(patients.items()) if len(folds) > 1]
    if catalog is not None and catalog.digest() != record["catalog"]["digest"]:
        faults += _differences(record, catalog)
    return faults


def _differences(record: dict[str, Any], catalog: Catalog) -> list[str]:
    """How the catalog differs from the one that was exported, in the parts that were used."""
    faults = []
    for part, digest in record["catalog"]["parts"].items():
        table, _, name = part.partition("/")
        if name not in catalog.parts(table):
            faults.append(f"the catalog has no {table} of {name} any more")
        elif catalog.part_digest(table, name) != digest and table != "cases":
            faults.append(f"{table} of {name} have changed in the catalog since")
    rows = {key_of(row): row for row in catalog.cases.to_pylist()}
    exported = {(case["source"], case["case_id"]): case for case in record["cases"]}
    sources = {source["source"] for source in record["sources"]}
    for key, case in exported.items():
        if key not in rows:
            faults.append(f"{key[1]} is not in the catalog any more")
        elif row_hash(rows[key]) != case["row"]:
            faults.append(f"{key[1]} has changed in the catalog since")
    new = sorted(key[1] for key in rows if key[0] in sources and key not in exported)
    return faults + [f"{name} is in the catalog and not in the export" for name in new if name not in record["refused"]]

"""Checks of a catalog; those that read every image run as a job over its patients."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clicksim.audit import audit_catalog, check_catalog
from clicksim.audit.catalog_checks import READ, check_case_files, path_columns
from clicksim.audit.fingerprints import CELLS, fingerprint_of_cells
from clicksim.audit.leakage import check_near_duplicates
from clicksim.audit.run import as_audit_finding
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.prompt_runs import read_patients
from clicksim.findings import Finding, sort_findings
from clicksim.pipeline.cases import local_files, work_home
from clicksim.pipeline.job import Job, run_job
from clicksim.pipeline.parts import DIED, Tables
from clicksim.pipeline.workers import Crew

DATA = "data"
"""The name of the check that opens every image."""


def check(
    catalog: str | Path,
    *,
    read_data: bool = False,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[Finding]:
    """Check that a catalog holds what it says.

    Args:
        catalog: Its folder or URL.
        read_data: Also open every image, and measure the lesions again.
        crew: Who reads; by default this process.
        resume: Continue an interrupted check.
        overwrite: Drop the finished work of an interrupted check.

    Returns:
        The findings; each is an error.

    Raises:
        CatalogError: There is no catalog, or as `run_job`.
    """
    opened = open_catalog(catalog)
    found = check_catalog(opened)
    if read_data:
        faults, _ = _read_images(opened, crew, fingerprints=False, resume=resume, overwrite=overwrite)
        found += faults
    return sort_findings(found)


def audit(
    catalog: str | Path,
    *,
    read_data: bool = False,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[Finding]:
    """Look for everything in a catalog that could spoil a result.

    Args:
        catalog: Its folder or URL.
        read_data: Also open every image, to find near-duplicates, and labels and PETs that differ from their row.
        crew: Who reads; by default this process.
        resume: Continue an interrupted audit.
        overwrite: Drop the finished work of an interrupted audit.

    Returns:
        The findings, worst first.

    Raises:
        CatalogError: There is no catalog, or as `run_job`.
    """
    opened = open_catalog(catalog)
    found = audit_catalog(opened)
    if read_data:
        faults, prints = _read_images(opened, crew, fingerprints=True, resume=resume, overwrite=overwrite)
        found += [as_audit_finding(fault) for fault in faults]
        found += check_near_duplicates(opened, prints)
    return sort_findings(found)


def _read_images(
    catalog: Catalog, crew: Crew | None, *, fingerprints: bool, resume: bool, overwrite: bool
) -> tuple[list[Finding], list[Any]]:
    """Return the faults of all images, and rows of cases with their fingerprints."""
    columns = path_columns()
    units = [
        Unit(key, rows, local_files(catalog, [row[name] for row in rows for name in columns if row[name]]))
        for key, rows in read_patients(catalog, (*READ, *columns)).items()
    ]
    if not units:
        return [], []
    with work_home(catalog) as home:
        job = Job(
            name="audit" if fingerprints else "check",
            home=home,
            identity={"catalog": catalog.digest()},
            units=units,
            work=partial(_read_patient, catalog, fingerprints),
            finish=partial(_collect, units),
            records={},
        )
        return run_job(job, crew, resume=resume, overwrite=overwrite)


def _read_patient(catalog: Catalog, fingerprints: bool, unit: Unit, _folder: Path) -> Tables:
    """Return a table of the faults of a patient's images, and one of their fingerprints."""
    import pyarrow as pa

    faults: list[dict[str, Any]] = []
    prints: list[dict[str, Any]] = []
    for row in unit.content:
        key = {"source": row["source"], "case_id": row["case_id"]}
        found, taken = check_case_files(catalog, row, fingerprint=fingerprints)
        faults += [{**key, "detail": detail} for detail in found]
        if taken is not None:
            prints.append({**key, "cells": taken.cells.ravel()})
    text = [pa.field("source", pa.string()), pa.field("case_id", pa.string())]
    cells = pa.list_(pa.float32(), CELLS**3)
    return {
        "faults": pa.Table.from_pylist(faults, pa.schema([*text, pa.field("detail", pa.string())])),
        "prints": pa.Table.from_pylist(prints, pa.schema([*text, pa.field("cells", cells)])),
    }


def _collect(
    units: Sequence[Unit], tables: Tables, _commit: Commit, _facts: Mapping[str, Any]
) -> tuple[list[Finding], list[Any]]:
    """Return the faults as findings, and rows of cases with their fingerprints."""
    rows = {(row["source"], row["case_id"]): row for unit in units for row in unit.content}
    faults = tables["faults"].to_pylist() if "faults" in tables else []
    findings = [Finding("error", DATA, (fault["case_id"],), fault["detail"]) for fault in faults]
    cases = {unit.key: tuple(row["case_id"] for row in unit.content) for unit in units}
    for row in tables["rejected"].to_pylist() if "rejected" in tables else []:
        if row["code"] == DIED:
            findings.append(Finding("error", DATA, cases[row["path"]], row["message"]))
    prints = []
    if "prints" in tables:
        table = tables["prints"]
        keys = zip(table["source"].to_pylist(), table["case_id"].to_pylist(), strict=True)
        values = table["cells"].combine_chunks().flatten().to_numpy().reshape(-1, CELLS, CELLS, CELLS)
        prints = [(rows[key], fingerprint_of_cells(cells)) for key, cells in zip(keys, values, strict=True)]
    return findings, prints

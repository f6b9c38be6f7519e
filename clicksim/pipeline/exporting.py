"""Exports: a catalog in the format of another tool, made by patient and committed in one step."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clicksim.catalog import Outcome, Unit, open_catalog
from clicksim.catalog.commit import Commit, settle
from clicksim.catalog.folds import Key
from clicksim.catalog.lock import writing
from clicksim.errors import CatalogError, ClicksimError, up_to_ten
from clicksim.files import make_folder
from clicksim.manifests.export_format import EXPORTS, CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import (
    Written,
    bare_cases,
    check_copies,
    check_folder,
    load_record,
    record_identity,
    write_manifest,
)
from clicksim.manifests.selection import Export, ExportCase, ExportSetup, select
from clicksim.pipeline.cases import local_files, reason_of, refused_cases
from clicksim.pipeline.job import REMEDY, Job, differences, run_job, tables_of, with_version
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew

IMAGES = ("label_path", "ct_path", "pet_path")
WriteCase = Callable[[ExportSetup, ExportCase, Path], CaseFiles]


def export(
    catalog: str | Path,
    out: Path,
    kind: str | ExportFormat,
    *,
    sources: Sequence[str] | None = None,
    run: str | None = None,
    plan: str | None = None,
    include_controlled: bool = False,
    settings: Mapping[str, Any] | None = None,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Written:
    """Write a catalog in the format of another tool.

    A case that cannot be exported is refused, and the others are written. An earlier export in the folder stays as it
    is until all is written; then it is replaced in one step.

    Args:
        catalog: Its folder or URL.
        out: A new or empty folder, or one with an earlier export.
        kind: The name of a format, see `clicksim.manifests.EXPORTS`, or the format itself.
        sources, run, plan, include_controlled: As `clicksim.manifests.select` takes them.
        settings: Settings of the format.
        crew: Who does the work; by default this process.
        resume: Continue an export that was interrupted.
        overwrite: Replace an export that was made in another way, and drop the work of an interrupted one.

    Returns:
        The files of each case, the refused cases, and notes.

    Raises:
        SettingError: The format or a setting is unknown; or as `select`.
        CatalogError: The folder has other files, or an export that was made in another way; no case can be
            exported; or as `select` and `run_job`.
    """
    chosen = EXPORTS.find(kind) if isinstance(kind, str) else kind
    opened, filled = open_catalog(catalog), chosen.fill(settings or {})
    exported = select(opened, sources=sources, run=run, plan=plan, include_controlled=include_controlled)
    chosen.prepare(exported, out, filled)
    identity = record_identity(
        {**exported.about, "format": chosen.name, "settings": filled, **EXPORTS.made_by_others(chosen.name)}
    )
    setup = ExportSetup(opened, exported.channels, exported.run, filled)
    units = _plan_units(setup, exported)
    check_folder(out)
    if filled.get("copy") and not resume:
        check_copies(exported, out)
    make_folder(out)
    with writing(out):
        settle(out)
        check_folder(out)
        earlier = load_record(out)
        if earlier is not None and not overwrite:
            _check_earlier(out, earlier, identity)
        job = Job(
            name="export",
            home=out,
            identity=identity,
            units=units,
            work=partial(_write_patient, chosen.write_case, setup),
            finish=partial(_finish_export, chosen, exported, filled, units, earlier),
            records={},
        )
        return run_job(job, crew, resume=resume, overwrite=overwrite)


def _check_earlier(out: Path, earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to replace an export that was made in another way.

    Raises:
        CatalogError: The earlier export was made in another way; the message names what differs.
    """
    versions = earlier.get("versions")
    before = {
        **record_identity(earlier),
        "clicksim": versions.get("clicksim") if isinstance(versions, Mapping) else None,
    }
    if differing := differences(before, with_version(identity)):
        raise CatalogError(f"{out} has an export that was made in another way: {up_to_ten(differing)}; {REMEDY}")


def _plan_units(setup: ExportSetup, exported: Export) -> list[Unit]:
    """Make a unit for each patient."""
    patients: dict[str, list[ExportCase]] = {}
    for case in exported.cases:
        patients.setdefault(f"{case.row['source']}/{case.row['patient_key']}", []).append(case)
    return [
        Unit(
            key,
            tuple(cases),
            local_files(setup.catalog, [case.row[name] for case in cases for name in IMAGES if case.row[name]]),
        )
        for key, cases in sorted(patients.items())
    ]


def _write_patient(write_case: WriteCase, setup: ExportSetup, unit: Unit, folder: Path) -> Tables:
    """Write the cases of a patient; files of a refused case are deleted."""
    import pyarrow as pa

    outcome, written = Outcome(), []
    for case in unit.content:
        before = _files_below(folder)
        try:
            done = write_case(setup, case, folder)
        except ClicksimError as error:
            outcome.reject(reason_of(error), str(error), path=unit.key, case_id=case.case_id)
            for file in _files_below(folder) - before:
                file.unlink()
            continue
        written.append(
            {
                "source": case.row["source"],
                "case_id": case.case_id,
                "files": json.dumps(dict(done.files)),
                "item": json.dumps(done.item),
            }
        )
    names = ("source", "case_id", "files", "item")
    schema = pa.schema([(name, pa.string()) for name in names])
    return {"written": pa.Table.from_pylist(written, schema), "rejected": tables_of(outcome)["rejected"]}


def _files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _finish_export(
    chosen: ExportFormat,
    exported: Export,
    settings: Mapping[str, Any],
    units: Sequence[Unit],
    earlier: Mapping[str, Any] | None,
    tables: Tables,
    commit: Commit,
    _facts: Mapping[str, Any],
) -> Written:
    """Write the files of the whole folder and the record."""
    rows = tables["written"].to_pylist() if "written" in tables else []
    found: dict[Key, CaseFiles] = {
        (row["source"], row["case_id"]): CaseFiles(json.loads(row["files"]), json.loads(row["item"])) for row in rows
    }
    rejected = refused_cases(units, tables["rejected"]) if "rejected" in tables else []
    refused = {row["case_id"]: row["message"] for row in rejected}
    if not found:
        first = next(iter(refused.items()), ("-", "-"))
        raise CatalogError(f"no case could be exported; the first: {first[0]}: {first[1]}")
    done = ExportedCases(exported, settings, dict(sorted(found.items())))
    notes = [*chosen.finish(done, commit), *bare_cases(done)]
    write_manifest(commit, chosen.name, done, refused, earlier)
    return Written({key: dict(case.files) for key, case in done.written.items()}, refused, notes)

"""The folder of an export: its allowed content, licences and citations, and the record.

Every export leaves `clicksim-manifest.json`: the digest of the catalog, the prompt run, the fold plan, settings and
versions, the sources with licence and citation, and for each case a hash of its row. With it an export can be compared
with a catalog later. Nothing in it depends on the time or on the machine.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clicksim import __version__
from clicksim.catalog.commit import WORK, Commit, is_settled
from clicksim.catalog.folds import Key
from clicksim.catalog.lock import HOLDER, LOCK
from clicksim.errors import CatalogError, counted, up_to_ten
from clicksim.files import check_space, read_bounded
from clicksim.manifests.export_format import EXPORTS, ExportedCases
from clicksim.manifests.selection import Export

RECORD = "clicksim-manifest.json"
LICENCES = "LICENCES.md"
BIBLIOGRAPHY = "CITATION.bib"
RECORD_VERSION = 1


@dataclass
class Written:
    """What an export wrote.

    Attributes:
        files: By case, its files, relative to the folder.
        refused: By case id, why a case was left out.
        notes: Sentences for the user.
    """

    files: dict[Key, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_folder(out: Path) -> None:
    """Reject a folder that contains anything but an export, complete or interrupted.

    Raises:
        CatalogError: The folder contains something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise CatalogError(f"{out} is a file; name a new folder")
    others = sorted(path.name for path in out.iterdir() if path.name not in (LOCK, HOLDER, WORK))
    if others and not (out / RECORD).is_file() and is_settled(out):
        raise CatalogError(f"{out} is not an export of clicksim: it has {up_to_ten(others)}; name a new folder")


def load_record(out: Path) -> dict[str, Any] | None:
    """The record of an export; None if there is none.

    Raises:
        CatalogError: The record is damaged.
    """
    file = out / RECORD
    try:
        record = json.loads(read_bounded(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(f"{file} cannot be read: {error!r}; delete the export and write it again") from error
    if not isinstance(record, dict):
        raise CatalogError(f"{file} cannot be read: it is not a record; delete the export and write it again")
    return record


def recorded_files(record: Mapping[str, Any]) -> set[str]:
    """All files that a record names and that are below its folder."""
    names: list[str] = [RECORD, LICENCES, BIBLIOGRAPHY]
    with suppress(KeyError, TypeError, AttributeError):  # a record that somebody edited
        names += [str(file) for case in record["cases"] for file in case["files"].values()]
        names += [str(file) for file in record["files"]]
    paths = {name: PurePosixPath(name) for name in names}
    return {name for name, path in paths.items() if not path.is_absolute() and ".." not in path.parts and path.parts}


def record_identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a record that determine the bytes of the export.

    Each part of the catalog has its own hash, so that another source or run of the catalog changes nothing.
    """
    names = ("format", "packages", "settings", "sources", "controlled_access", "prompts", "folds")
    catalog = record.get("catalog")
    return {
        **{name: record.get(name) for name in names},
        "catalog": catalog.get("parts") if isinstance(catalog, Mapping) else None,
    }


def check_copies(export: Export, out: Path) -> None:
    """Check that the disk has space for copies of the images.

    Raises:
        StorageError: Too little space is free.
    """
    need = 0
    for case in export.cases:
        for channel in export.channels:
            location = case.row[channel.column]
            with suppress(CatalogError, OSError):  # the case itself will be refused
                size = export.catalog.size_of(location) or 0
                need += size if location.endswith(".gz") else 0  # others are compressed
    check_space(out, need, "copies of the images")


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Link or copy a file to an unused name.

    Raises:
        CatalogError: The file system has no links.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
        return
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise CatalogError(f"cannot make a link in {target.parent}: {error.strerror or error}; use --copy") from error


def write_json(commit: Commit, name: str, content: Any) -> None:
    """Write JSON; the same content gives the same bytes."""
    commit.text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_manifest(
    commit: Commit, kind: str, done: ExportedCases, refused: Mapping[str, str], earlier: Mapping[str, Any] | None
) -> None:
    """Write licences, citations and, last, the record; remove files of an earlier export that this one lacks.

    Raises:
        CatalogError: A file that no export made has a name that this export needs.
    """
    about = done.export.about
    commit.text(LICENCES, licence_text(done.export))
    commit.text(BIBLIOGRAPHY, "\n\n".join(s["bibtex"] for s in about["sources"] if s["bibtex"]) + "\n")
    cases = [
        {
            "source": case.row["source"],
            "case_id": case.case_id,
            "name": case.name,
            "patient_key": case.row["patient_key"],
            "fold": case.fold,
            "licence": case.row["licence"],
            "row": row_hash(case.row),
            "files": dict(done.written[case.key].files),
        }
        for case in done.cases
    ]
    own = {file for case in done.written.values() for file in case.files.values()}
    record = {
        "record_version": RECORD_VERSION,
        "format": kind,
        "versions": _versions(),
        **EXPORTS.made_by_others(kind),
        **about,
        "settings": dict(done.settings),
        "cases": cases,
        "files": sorted({*commit.names} - own),
        "refused": dict(sorted(refused.items())),
    }
    write_json(commit, RECORD, record)
    before = recorded_files(earlier) if earlier else set()
    foreign = [name for name in commit.names if name not in before and os.path.lexists(commit.home / name)]
    if foreign:
        raise CatalogError(
            f"{commit.home} has files that no export made, with names that this export needs: {up_to_ten(foreign)}; "
            "move them away and continue with --resume"
        )
    for name in sorted(before):
        commit.remove(name)


def bare_cases(done: ExportedCases) -> list[str]:
    """A note about the cases without a prompt, if a run is exported."""
    bare = [case.case_id for case in done.cases if done.export.run and not case.prompts]
    return [f"run {done.export.run} has no prompt in {counted(len(bare), 'case')}: {up_to_ten(bare)}"] if bare else []


def licence_text(export: Export) -> str:
    """The licences and citations of exactly the sources in the export."""
    lines = ["# Licences", "", f"Strictest: **{export.about['licence']}**. It applies to anything made from all cases."]
    for source in export.about["sources"]:
        lines += [
            "",
            f"## {source['title'] or source['source']}",
            "",
            f"{counted(source['cases'], 'case')}, source `{source['source']}`, "
            f"release {source['release'] or 'unknown'}.",
            f"Licence: {', '.join(source['licences'])}.",
        ]
        lines += ["Under controlled access: the publisher's terms apply."] if source["controlled_access"] else []
        lines += ["", f"Cite: {source['citation'] or 'unknown; ask the publisher'}"]
        lines += [f"DOI: {source['doi']}"] if source["doi"] else []
    return "\n".join(lines) + "\n"


def row_hash(row: Mapping[str, Any]) -> str:
    """A hash of everything that the catalog says about a case."""
    return hashlib.blake2b(json.dumps(row, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"clicksim": __version__, **{name: version(name) for name in ("numpy", "pyarrow", "nibabel", "SimpleITK")}}

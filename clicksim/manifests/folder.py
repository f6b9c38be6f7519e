"""The folder of an export: links and copies, licences and citations, and the record.

Every export leaves `clicksim-manifest.json` beside its own files: the catalog's digest, the prompt run, the fold
plan, settings and versions, the sources with licence and citation, and for each case a hash of its row. With it an
export can be held against a catalog later. Nothing in it depends on the hour or on the machine.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clicksim import __version__
from clicksim.catalog.folds import Key
from clicksim.errors import CatalogError, counted, up_to_ten
from clicksim.files import check_space, write_text
from clicksim.manifests.selection import Export, key_of

RECORD = "clicksim-manifest.json"
LICENCES = "LICENCES.md"
BIBLIOGRAPHY = "CITATION.bib"
RECORD_VERSION = 1
UNFINISHED = "unfinished"


@dataclass
class Written:
    """What an export wrote.

    Attributes:
        files: By case, the files that belong to it, relative to the folder.
        refused: By case id, why it was left out.
        notes: Sentences for the user.
    """

    files: dict[Key, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare_folder(out: Path) -> Path:
    """A folder to write to: new, empty, or one that an earlier export left, whose files of cases are deleted.

    A record that says `unfinished` stands there until the export ends.

    Raises:
        CatalogError: It holds other things.
    """
    record = out / RECORD
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not record.is_file())):
        raise CatalogError(f"{out} exists and is no export of clicksim; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for file in _files_of(record):
        (out / file).unlink(missing_ok=True)
    write_json(record, {"record_version": RECORD_VERSION, "format": UNFINISHED})
    return out


def check_copies(export: Export, out: Path) -> None:
    """Refuse a disk that cannot hold copies of the images; those of an earlier export in the folder make way.

    Raises:
        StorageError: Too little space is free.
    """
    need = 0
    for row in export.cases:
        for channel in export.channels:
            with suppress(CatalogError, OSError):  # the case itself will be refused
                size = export.catalog.size_of(row[channel.column]) or 0
                need += size if row[channel.column].endswith(".gz") else 0  # others are packed anew
    for file in _files_of(out / RECORD):
        with suppress(OSError):
            need -= (out / file).lstat().st_size
    check_space(out, need, "copies of the images")


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Link a file, or copy it; an existing target is replaced.

    Raises:
        CatalogError: The system has no links here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with_name = target.with_name(f".writing-{target.name}")
    with_name.unlink(missing_ok=True)
    if copy:
        shutil.copyfile(source, with_name)
    else:
        try:
            with_name.symlink_to(source.resolve())
        except OSError as error:
            raise CatalogError(f"cannot link {target}: {error.strerror or error}; use --copy") from error
    with_name.replace(target)


def write_json(file: Path, content: Any) -> None:
    """Write JSON, complete or not at all; the same content gives the same bytes."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def finish(out: Path, kind: str, export: Export, written: Written, settings: Mapping[str, Any]) -> Written:
    """Write the licences and, last, the record.

    Raises:
        CatalogError: Every case was refused.
    """
    if not written.files:
        first = next(iter(written.refused.items()), ("-", "-"))
        raise CatalogError(f"no case could be exported; the first: {first[0]}: {first[1]}")
    bare = [key[1] for key in sorted(written.files) if export.run and key[1] not in export.prompts]
    if bare:
        written.notes.append(f"run {export.run} has no prompt in {counted(len(bare), 'case')}: {up_to_ten(bare)}")
    rows = {key_of(row): row for row in export.cases}
    cases = [
        {
            "source": key[0],
            "case_id": key[1],
            "name": export.names[key],
            "patient_key": rows[key]["patient_key"],
            "fold": export.fold(rows[key]),
            "licence": rows[key]["licence"],
            "row": row_hash(rows[key]),
            "files": files,
        }
        for key, files in sorted(written.files.items())
    ]
    write_text(out / LICENCES, licence_text(export))
    write_text(out / BIBLIOGRAPHY, "\n\n".join(s["bibtex"] for s in export.about["sources"] if s["bibtex"]) + "\n")
    record = {
        "record_version": RECORD_VERSION,
        "format": kind,
        "versions": _versions(),
        **export.about,
        "settings": dict(settings),
        "cases": cases,
        "refused": dict(sorted(written.refused.items())),
    }
    write_json(out / RECORD, record)
    return written


def licence_text(export: Export) -> str:
    """The licences and citations of exactly the sources in the export."""
    lines = ["# Licences", "", f"Strictest: **{export.about['licence']}**. It binds whatever is made of all cases."]
    for source in export.about["sources"]:
        lines += [
            "",
            f"## {source['title'] or source['source']}",
            "",
            f"{counted(source['cases'], 'case')}, source `{source['source']}`, "
            f"release {source['release'] or 'unknown'}.",
            f"Licence: {', '.join(source['licences'])}.",
        ]
        lines += (
            ["Under controlled access: the terms of the publisher bind you."] if source["controlled_access"] else []
        )
        lines += ["", f"Cite: {source['citation'] or 'unknown; ask the publisher'}"]
        lines += [f"DOI: {source['doi']}"] if source["doi"] else []
    return "\n".join(lines) + "\n"


def row_hash(row: Mapping[str, Any]) -> str:
    """A hash of everything that the catalog says of a case."""
    return hashlib.blake2b(json.dumps(row, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _files_of(record: Path) -> list[PurePosixPath]:
    """The files of cases in a record, as far as they are below its folder."""
    try:
        cases = json.loads(record.read_text(encoding="utf-8")).get("cases", [])
        files = [PurePosixPath(file) for case in cases for file in case["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [file for file in files if not file.is_absolute() and ".." not in file.parts]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"clicksim": __version__, **{name: version(name) for name in ("numpy", "pyarrow", "nibabel", "SimpleITK")}}

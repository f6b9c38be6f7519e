"""What all manifests share: which cases, under which names and licences, with which prompts and folds; and the record.

Every export leaves `clicksim-manifest.json` beside its own files: the catalog's digest, the prompt run, the fold
plan, settings and versions, the sources with licence and citation, and for each case a hash of its row. With it an
export can be held against a catalog later. Nothing in it depends on the hour or on the machine.
"""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clicksim import __version__
from clicksim.catalog.folds import Folds, Key, Split, make_folds, read_folds
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, unknown_name
from clicksim.files import check_space, replacing, slug
from clicksim.geometry import Grid
from clicksim.prompts import Box, Click, Prompts, Scribble

RECORD = "clicksim-manifest.json"
LICENCES = "LICENCES.md"
BIBLIOGRAPHY = "CITATION.bib"
RECORD_VERSION = 1
UNFINISHED = "unfinished"
STRICTNESS = (
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0",
    "CC-BY-NC-ND-4.0",
)  # fmt: skip
"""Licences from the least to the most strict; one that is not among them counts as stricter than all."""
UNSAFE = frozenset('/\\:*?"<>|') | {chr(n) for n in range(32)}


@dataclass(frozen=True)
class Channel:
    """One channel of an image as a trainer sees it.

    Attributes:
        name: Such as `CT`.
        role: `image` or `prompt`.
        column: The catalog's column with its path; empty for what is drawn.
        normalise: Its intensities may be normalised. Not those of prompts: a map of a few bright voxels has a
            standard deviation near 0.
        augment_intensity: Noise, brightness and the like may be put on it. Not on prompts. Whatever moves voxels
            (flips, turns, crops, scaling) must move all channels alike.
    """

    name: str
    role: str
    column: str
    normalise: bool
    augment_intensity: bool


CHANNELS = {
    "ct": Channel("CT", "image", "ct_path", normalise=True, augment_intensity=True),
    "pet": Channel("PET", "image", "pet_path", normalise=True, augment_intensity=True),
}
PROMPT_CHANNELS = (
    Channel("foreground", "prompt", "", normalise=False, augment_intensity=False),
    Channel("background", "prompt", "", normalise=False, augment_intensity=False),
)


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        catalog: The catalog.
        cases: Rows of `cases`, by source and case id.
        names: A file name for each case, without an ending.
        channels: The images that every case has.
        folds: The plan, or None where too few patients are there for one.
        plan: The name of the plan in the catalog; empty where it was drawn for this export.
        run: The prompt run; empty without one.
        prompts: By case id, rows of the prompts.
        about: What the record says, without the files.
    """

    catalog: Catalog
    cases: tuple[dict[str, Any], ...]
    names: Mapping[Key, str]
    channels: tuple[Channel, ...]
    folds: Folds | None
    plan: str
    run: str
    prompts: Mapping[str, list[dict[str, Any]]]
    about: Mapping[str, Any]

    def file(self, row: Mapping[str, Any], column: str) -> Path:
        """The file behind a path of a case.

        Raises:
            CatalogError: It is not there.
        """
        path = self.catalog.resolve(row[column])
        if not path.is_file():
            raise CatalogError(f"{column} of {row['case_id']} is not there: {row[column]}; clicksim catalog relocate?")
        return path

    def listed(self, row: Mapping[str, Any], column: str) -> str:
        """The file behind a path of a case, for a list that will be read later.

        Raises:
            CatalogError: It is not there, or lies on object storage, from where it is fetched for a while only.
        """
        if self.catalog.is_remote(row[column]):
            raise CatalogError(
                f"{column} of {row['case_id']} lies on object storage, and a list of files needs them to stay: "
                "clicksim catalog pull first, or take an export that copies"
            )
        return self.file(row, column).as_posix()

    def fold(self, row: Mapping[str, Any]) -> int | None:
        """The validation fold of a case; None where it belongs to none."""
        return None if self.folds is None else self.folds.fold_of[key_of(row)]

    def splits(self) -> list[Split]:
        """All folds."""
        return [] if self.folds is None else self.folds.splits()


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


def select(
    catalog: Catalog,
    *,
    sources: Sequence[str] | None = None,
    run: str | None = None,
    plan: str | None = None,
    include_controlled: bool = False,
) -> Export:
    """Choose what to export.

    Args:
        catalog: An open catalog.
        sources: Names in the tables, or all.
        run: A prompt run, or none.
        plan: A fold plan of the catalog. Without one a stratified plan is drawn: official folds stay, five folds,
            seed 42, fewer where there are fewer patients.
        include_controlled: Take cases whose publisher wants an agreement.

    Raises:
        SettingError: An unknown source, run or plan.
        CatalogError: No cases; cases under controlled access that were not asked for; a plan that does not know
            them all.
    """
    known = catalog.parts("cases")
    for source in sources or ():
        if source not in known:
            raise unknown_name("source", source, known)
    rows = [row for row in catalog.cases.to_pylist() if row["source"] in (sources or known)]
    cases = sorted(rows, key=key_of)
    if not cases:
        raise CatalogError(f"no cases in {catalog.home}")
    facts = {row["source"]: row for row in catalog.sources.to_pylist()}
    controlled = [row["case_id"] for row in cases if is_controlled(row, facts.get(row["source"], {}))]
    if controlled and not include_controlled:
        raise CatalogError(
            f"{len(controlled)} cases are under controlled access, whose terms bind whoever gets them: "
            f"{', '.join(controlled[:10])}; name other sources with --source, or give --include-controlled"
        )
    if run and run not in catalog.runs:
        raise unknown_name("prompt run", run, catalog.runs)
    folds = _folds(catalog, cases, plan, sources)
    about = {
        "catalog": {"digest": catalog.digest(), "parts": _part_digests(catalog, cases, run, plan)},
        "licence": strictest([_licence(row, facts) for row in cases]),
        "sources": [_source_facts(name, cases, facts) for name in sorted({row["source"] for row in cases})],
        "controlled_access": bool(controlled),
        "prompts": {"run": run, **catalog.metadata(run)} if run else None,
        "folds": {"plan": plan or None, **folds.about} if folds else None,
    }
    channels = tuple(c for c in CHANNELS.values() if all(row[c.column] for row in cases))
    prompts = _prompts(catalog, run) if run else {}
    return Export(catalog, tuple(cases), file_names(cases), channels, folds, plan or "", run or "", prompts, about)


def is_controlled(case: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a case is under controlled access: its licence says so, or its source does and it was not defaced."""
    if "controlled" in (case["licence"] or "").lower():
        return True
    return bool(facts.get("controlled_access")) and case["defaced"] is not True


def strictest(licences: Sequence[str]) -> str:
    """The strictest of some licences; an unknown one, such as controlled access, counts as stricter than all known.

    >>> strictest(["CC-BY-4.0", "CC-BY-NC-4.0", "CC0-1.0"])
    'CC-BY-NC-4.0'
    """
    return max(licences, key=lambda name: (STRICTNESS.index(name) if name in STRICTNESS else len(STRICTNESS), name))


def file_names(cases: Sequence[Mapping[str, Any]]) -> dict[Key, str]:
    """A file name for each case: its id where any system takes it and no other case has it, else a slug with a hash.

    A slash, as in `train_0001/PSMA`, becomes an underscore.
    """
    plain = {key_of(row): row["case_id"].replace("/", "_") for row in cases}
    count = Counter(name.casefold() for name in plain.values())
    return {
        key: name if not set(name) & UNSAFE and count[name.casefold()] == 1 else slug("/".join(key))
        for key, name in plain.items()
    }


def key_of(row: Mapping[str, Any]) -> Key:
    """Source and case id."""
    return (row["source"], row["case_id"])


def row_hash(row: Mapping[str, Any]) -> str:
    """A hash of everything that the catalog says of a case."""
    return hashlib.blake2b(json.dumps(row, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


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


def _files_of(record: Path) -> list[PurePosixPath]:
    """The files of cases in a record, as far as they are below its folder."""
    try:
        cases = json.loads(record.read_text(encoding="utf-8")).get("cases", [])
        files = [PurePosixPath(file) for case in cases for file in case["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [file for file in files if not file.is_absolute() and ".." not in file.parts]


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


def write_json(file: Path, content: Any) -> None:
    """Write JSON, complete or not at all; the same content gives the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(file: Path, text: str) -> None:
    """Write text, complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def finish(out: Path, kind: str, export: Export, written: Written, settings: Mapping[str, Any]) -> Written:
    """Write the licences and, last, the record.

    Raises:
        CatalogError: Every case was refused.
    """
    if not written.files:
        first = next(iter(written.refused.items()), ("-", "-"))
        raise CatalogError(f"no case could be exported; the first: {first[0]}: {first[1]}")
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
            f"{source['cases']} cases, source `{source['source']}`, release {source['release'] or 'unknown'}.",
            f"Licence: {', '.join(source['licences'])}.",
        ]
        lines += (
            ["Under controlled access: the terms of the publisher bind you."] if source["controlled_access"] else []
        )
        lines += ["", f"Cite: {source['citation'] or 'unknown; ask the publisher'}"]
        lines += [f"DOI: {source['doi']}"] if source["doi"] else []
    return "\n".join(lines) + "\n"


def _licence(row: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> str:
    return row["licence"] or facts.get(row["source"], {}).get("licence") or "unknown: ask the publisher"


def _source_facts(
    name: str, cases: Sequence[Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    mine = [row for row in cases if row["source"] == name]
    known = facts.get(name, {})
    return {
        "source": name,
        "cases": len(mine),
        "licences": sorted({_licence(row, facts) for row in mine}),
        "controlled_access": any(is_controlled(row, known) for row in mine),
        **{column: known.get(column) for column in ("title", "release", "doi", "citation", "bibtex")},
    }


def _folds(
    catalog: Catalog, cases: Sequence[Mapping[str, Any]], plan: str | None, sources: Sequence[str] | None
) -> Folds | None:
    """The plan that was named, cut to the cases; or one drawn now."""
    if not plan:
        drawable = {row["patient_key"] for row in cases if row["official_split"] != "test"}
        official = [row["official_fold"] for row in cases if row["official_fold"] is not None]
        n_folds = max([min(5, len(drawable)), *(fold + 1 for fold in official)])
        return make_folds(catalog, n_folds=n_folds, sources=sources) if len(drawable) > 1 else None
    folds = read_folds(catalog, plan)
    missing = [row["case_id"] for row in cases if key_of(row) not in folds.fold_of]
    if missing:
        raise CatalogError(
            f"fold plan {plan} does not know {len(missing)} cases: {', '.join(missing[:10])}; draw it again"
        )
    wanted = {key_of(row) for row in cases}
    return Folds(tuple(row for row in folds.rows if key_of(row) in wanted), folds.about)


def _part_digests(
    catalog: Catalog, cases: Sequence[Mapping[str, Any]], run: str | None, plan: str | None
) -> dict[str, str]:
    """The hashes of the parts of the catalog that the export was made from."""
    used = [(table, source) for source in sorted({row["source"] for row in cases}) for table in ("cases", "lesions")]
    used += [("prompts", run)] if run else []
    used += [("folds", plan)] if plan else []
    return {f"{t}/{part}": catalog.part_digest(t, part) for t, part in used if part in catalog.parts(t)}


def _prompts(catalog: Catalog, run: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of a run by case, in the order in which they were made."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    order = [(name, "ascending") for name in ("case", "round", "stroke", "order")]
    for row in catalog.table("prompts", run).sort_by(order).to_pylist():
        found[row["case"]].append(row)
    return dict(found)


def prompts_of(export: Export, row: Mapping[str, Any], grid: Grid) -> Prompts:
    """The prompts of a case as records: a stroke for each number of a stroke, clicks and boxes as they were made."""
    strokes: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for prompt in export.prompts.get(row["case_id"], []):
        strokes[prompt["polarity"], prompt["stroke"]].append(prompt)
    return Prompts(tuple(_record(rows) for rows in strokes.values()), grid, row["case_id"])


def _record(rows: Sequence[Mapping[str, Any]]) -> Click | Scribble | Box:
    """The rows of one stroke."""
    voxels = tuple((row["i"], row["j"], row["k"]) for row in rows)
    first = rows[0]
    about = {"foreground": first["polarity"] == "foreground", "lesion": first["lesion"], "round": first["round"]}
    if first["kind"] == "box":
        return Box(voxels[0], voxels[-1], **about)
    return Click(voxels[0], **about) if len(voxels) == 1 and first["kind"] == "click" else Scribble(voxels, **about)


def voxels_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """The voxels of a case's prompts by polarity, as `[i, j, k]`, in order."""
    found: dict[str, list[list[int]]] = {"foreground": [], "background": []}
    for row in rows:
        found[row["polarity"]].append([row["i"], row["j"], row["k"]])
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"clicksim": __version__, **{name: version(name) for name in ("numpy", "pyarrow", "nibabel", "SimpleITK")}}

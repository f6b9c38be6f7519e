"""Choose what to export: cases, their names and licences, prompts and folds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clicksim.catalog.folds import ChosenFolds, Folds, Key, Split, choose_folds
from clicksim.catalog.run_names import find_run
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, counted, unknown_name, up_to_ten
from clicksim.files import slug
from clicksim.geometry import Grid
from clicksim.prompts import Prompts
from clicksim.prompts.table import prompt_of

STRICTNESS = (
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0",
    "CC-BY-NC-ND-4.0",
)  # fmt: skip
"""Licences from the least to the most strict; any other licence counts as stricter than all of them."""
STROKE = ("annotator", "round", "stroke", "polarity")
"""The columns that the voxels of one stroke share; the strokes of each person are counted from 0."""
UNSAFE = frozenset('/\\:*?"<>|') | {chr(n) for n in range(32)}
LONGEST = 150
"""Bytes of a file name before its endings; a name may have 255 with them and a temporary prefix."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)),
            "clicksim-manifest", "licences", "citation", "readme"}  # fmt: skip
"""Names that Windows reserves for devices, whatever their ending, and names of the export's own files."""


@dataclass(frozen=True)
class Channel:
    """One channel of an image as a trainer sees it.

    Attributes:
        name: Such as `CT`.
        role: `image` or `prompt`.
        column: The column of the catalog that has its path; empty for a channel that is drawn.
        normalise: Whether its intensities may be normalised. Those of prompts may not: a map of a few bright voxels
            has a standard deviation near 0.
        augment_intensity: Whether noise, brightness and the like may be changed. Those of prompts may not. Flips,
            rotations, crops and scaling must be the same for all channels.
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
class ExportCase:
    """A case to export, as plain data: it travels to another process.

    Attributes:
        row: Its row in the table of cases.
        name: Its file name, without an ending.
        fold: Its validation fold; None if it belongs to none.
        prompts: Rows of its prompts, in the order in which they were made.
    """

    row: Mapping[str, Any]
    name: str
    fold: int | None
    prompts: Sequence[Mapping[str, Any]]

    @property
    def case_id(self) -> str:
        """Its id."""
        return str(self.row["case_id"])

    @property
    def key(self) -> Key:
        """Source and case id."""
        return key_of(self.row)

    @property
    def held_out(self) -> bool:
        """Whether the publisher holds it out, and it belongs to no fold."""
        return self.fold is None and self.row["official_split"] == "test"


@dataclass(frozen=True)
class ExportSetup:
    """What all cases of an export have in common; it travels to other processes.

    Attributes:
        catalog: The catalog.
        channels: The images that every case has.
        run: The prompt run; empty without one.
        settings: All settings of the format.
    """

    catalog: Catalog
    channels: tuple[Channel, ...]
    run: str
    settings: Mapping[str, Any]

    def file(self, case: ExportCase, column: str) -> Path:
        """The file behind a path of a case.

        Raises:
            CatalogError: It does not exist.
        """
        location = case.row[column]
        path = self.catalog.resolve(location)
        if not path.is_file():
            raise CatalogError(
                f"{column} of case {case.case_id} does not exist: {location}; has it moved? See clicksim "
                "catalog relocate"
            )
        return path

    def listed(self, case: ExportCase, column: str) -> str:
        """The file behind a path of a case, for a list that is read later.

        Raises:
            CatalogError: It does not exist, or is on object storage, from which files are fetched temporarily.
        """
        if self.catalog.is_remote(case.row[column]):
            raise CatalogError(
                f"{column} of case {case.case_id} is on object storage, but a list needs permanent files: run clicksim "
                "catalog pull first, or choose a format that copies images"
            )
        return self.file(case, column).as_posix()


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        catalog: The catalog.
        cases: The cases, by source and case id.
        channels: The images that every case has.
        folds: The plan; None if there are too few patients for one.
        run: The prompt run; empty without one.
        about: What the record of the export says about the catalog, licences, prompts and folds.
    """

    catalog: Catalog
    cases: tuple[ExportCase, ...]
    channels: tuple[Channel, ...]
    folds: Folds | None
    run: str
    about: Mapping[str, Any]

    def splits(self) -> list[Split]:
        """All folds."""
        return [] if self.folds is None else self.folds.splits()


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
        sources: Names in the tables; by default all.
        run: A prompt run, if any; `latest` is the one that ended last.
        plan: A fold plan of the catalog; by default the choice of `clicksim.catalog.folds.choose_folds`.
        include_controlled: Include cases for which the publisher demands an agreement.

    Raises:
        SettingError: An unknown source, run or plan.
        CatalogError: No cases; cases under controlled access without `include_controlled`; a plan that lacks a case.
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
            f"{counted(len(controlled), 'case')} under controlled access, whose terms bind everyone who receives them: "
            f"{up_to_ten(controlled)}; choose other sources with --source, or add --include-controlled"
        )
    run = find_run(catalog, "prompts", run) if run else None
    if run and run not in catalog.runs:
        raise unknown_name("prompt run", run, catalog.runs)
    chosen = _choose_plan(catalog, cases, plan, sources)
    folds, plan = (chosen.folds, chosen.name) if chosen else (None, "")
    fold_of = folds.fold_of if folds else {}
    about = {
        "catalog": {"digest": catalog.digest(), "parts": _part_digests(catalog, cases, run, plan)},
        "licence": strictest([_licence(row, facts) for row in cases]),
        "sources": [_source_facts(name, cases, facts) for name in sorted({row["source"] for row in cases})],
        "controlled_access": bool(controlled),
        "prompts": {"run": run, **catalog.metadata(run)} if run else None,
        "folds": {"plan": plan or None, **folds.about} if folds else None,
    }
    channels = tuple(c for c in CHANNELS.values() if all(row[c.column] for row in cases))
    prompts, names = _prompts(catalog, run) if run else {}, file_names(cases)
    entries = [
        ExportCase(
            row,
            names[key_of(row)],
            fold_of.get(key_of(row)),
            prompts.get(row["case_id"], ()),
        )
        for row in cases
    ]
    return Export(catalog, tuple(entries), channels, folds, run or "", about)


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
    """A file name for each case: its id if every system accepts it and no other case has it, else a slug with a hash.

    A slash, as in `train_0001/PSMA`, becomes an underscore. Names that differ only in upper and lower case count as
    the same.
    """
    plain = {key_of(row): row["case_id"].replace("/", "_") for row in cases}
    count = Counter(name.casefold() for name in plain.values())
    return {
        key: name if _is_portable(name) and count[name.casefold()] == 1 else slug("/".join(key))
        for key, name in plain.items()
    }


def _is_portable(name: str) -> bool:
    """Whether a name, with or without an ending, is valid for a file or folder on any system."""
    return (
        bool(name)
        and len(name.encode()) <= LONGEST
        and not name.startswith(".")
        and not name.endswith((".", " "))
        and not set(name) & UNSAFE
        and name.partition(".")[0].rstrip().casefold() not in RESERVED
    )


def key_of(row: Mapping[str, Any]) -> Key:
    """Source and case id."""
    return (row["source"], row["case_id"])


def prompts_of(case: ExportCase, grid: Grid) -> Prompts:
    """The prompts of a case as records: one for each stroke of each person, clicks and boxes as they were made."""
    strokes: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for prompt in case.prompts:
        strokes[tuple(prompt[name] for name in STROKE)].append(prompt)
    return Prompts(tuple(prompt_of(rows) for rows in strokes.values()), grid, case.case_id)


def voxels_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """The voxels of a case's prompts by polarity, as `[i, j, k]`, in order."""
    found: dict[str, list[list[int]]] = {"foreground": [], "background": []}
    for row in rows:
        found[row["polarity"]].append([row["i"], row["j"], row["k"]])
    return found


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


def _choose_plan(
    catalog: Catalog, cases: Sequence[Mapping[str, Any]], plan: str | None, sources: Sequence[str] | None
) -> ChosenFolds | None:
    """The plan of the export, limited to its cases; None if there are too few patients for one."""
    if plan is None and len({row["patient_key"] for row in cases if row["official_split"] != "test"}) < 2:
        return None
    chosen = choose_folds(catalog, plan, sources=sources)
    fold_of = chosen.folds.fold_of
    missing = [row["case_id"] for row in cases if key_of(row) not in fold_of]
    if missing:
        raise CatalogError(
            f"fold plan {chosen.name} lacks {counted(len(missing), 'case')}: {up_to_ten(missing)}; draw it again with "
            "clicksim catalog folds"
        )
    wanted = {key_of(row) for row in cases}
    rows = tuple(row for row in chosen.folds.rows if key_of(row) in wanted)
    return replace(chosen, folds=replace(chosen.folds, rows=rows))


def _part_digests(
    catalog: Catalog, cases: Sequence[Mapping[str, Any]], run: str | None, plan: str | None
) -> dict[str, str]:
    """The hashes of the parts of the catalog from which the export is made."""
    sources = sorted({row["source"] for row in cases})
    used = [(table, source) for source in sources for table in ("cases", "lesions", "links")]
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

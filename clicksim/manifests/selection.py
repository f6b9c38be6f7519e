"""What is exported: which cases, under which names and licences, with which prompts and folds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clicksim.catalog.folds import Folds, Key, Split, make_folds, read_folds
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
"""Licences from the least to the most strict; one that is not among them counts as stricter than all."""
STROKE = ("annotator", "round", "stroke", "polarity")
"""The columns whose values the voxels of one stroke share; each person's strokes are counted from 0."""
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
            f"{counted(len(controlled), 'case')} under controlled access, whose terms bind whoever gets such data: "
            f"{up_to_ten(controlled)}; name other sources with --source, or give --include-controlled"
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

    A slash, as in `train_0001/PSMA`, becomes an underscore. A name that is empty or of dots alone is no file's.
    """
    plain = {key_of(row): row["case_id"].replace("/", "_") for row in cases}
    count = Counter(name.casefold() for name in plain.values())
    return {
        key: name if name.strip(".") and not set(name) & UNSAFE and count[name.casefold()] == 1 else slug("/".join(key))
        for key, name in plain.items()
    }


def key_of(row: Mapping[str, Any]) -> Key:
    """Source and case id."""
    return (row["source"], row["case_id"])


def prompts_of(export: Export, row: Mapping[str, Any], grid: Grid) -> Prompts:
    """The prompts of a case as records: one for each stroke of each person, clicks and boxes as they were made."""
    strokes: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for prompt in export.prompts.get(row["case_id"], []):
        strokes[tuple(prompt[name] for name in STROKE)].append(prompt)
    return Prompts(tuple(prompt_of(rows) for rows in strokes.values()), grid, row["case_id"])


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
            f"fold plan {plan} does not know {counted(len(missing), 'case')}: {up_to_ten(missing)}; draw it again"
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

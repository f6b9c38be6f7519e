"""Folds: which cases a model trains on and which it validates on, always by whole patients.

A plan is in the catalog's table `folds/plan=<name>`, one row per case; the metadata of the file says how it was made.
One rule turns a plan into splits, for every scheme:

    fold f validates on the cases whose `fold` is f, and trains on every other case whose patient has no case in f;
    a case whose `fold` is null is in neither set.

In a stratified plan a patient has one fold, so this is the usual cross-validation. In a plan that leaves out a scanner
or a tracer, a patient with studies on both sides is used for validation only.
"""

import hashlib
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim import __version__
from clicksim.catalog.schema import rows_to_table
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, SettingError, counted, unknown_name, up_to_ten
from clicksim.prompts.table import METADATA_KEY
from clicksim.streams import stream

SCHEMES = ("stratified", "leave-one-centre-out", "leave-one-tracer-out")
OFFICIAL = ("keep", "ignore")
N_FOLDS, SEED = 5, 42
LARGEST_FOLDS = 1000
PASSES = 4  # passes over all patients, to find exchanges
COLUMNS = (
    "source", "case_id", "patient_key", "tracer_class", "manufacturer", "model", "shape_xyz", "spacing_xyz_mm",
    "lesion_present", "lesion_volume_ml", "official_fold", "official_split",
)  # fmt: skip
Row = dict[str, Any]
Key = tuple[str, str]
"""Source and case id; a case id is unique only within its source."""


@dataclass(frozen=True)
class Split:
    """One fold: the cases to train and to validate on.

    Attributes:
        fold: Number of the fold.
        left_out: The tracer or scanner to validate on; empty in a stratified plan.
        train, validation: Cases by source and id, sorted; no patient is in both.
    """

    fold: int
    left_out: str
    train: tuple[Key, ...]
    validation: tuple[Key, ...]


@dataclass(frozen=True)
class Folds:
    """A fold plan.

    Attributes:
        rows: Rows of the table `folds`, by source and case id.
        about: Scheme, seed, number of folds, balanced quantities, version.
    """

    rows: tuple[Row, ...]
    about: Mapping[str, Any]

    @property
    def fold_of(self) -> dict[Key, int | None]:
        """The validation fold of each case."""
        return {_key(row): row["fold"] for row in self.rows}

    def splits(self) -> list[Split]:
        """Return all folds; see the rule at the top of this file."""
        patients: dict[int, set[str]] = defaultdict(set)
        names: dict[int, str] = {}
        for row in self.rows:
            if row["fold"] is not None:
                patients[row["fold"]].add(row["patient_key"])
                names[row["fold"]] = row["left_out"] or ""
        return [
            Split(
                fold,
                names[fold],
                tuple(
                    _key(row)
                    for row in self.rows
                    if row["fold"] not in (None, fold) and row["patient_key"] not in patients[fold]
                ),
                tuple(_key(row) for row in self.rows if row["fold"] == fold),
            )
            for fold in sorted(patients)
        ]


@dataclass(frozen=True)
class ChosenFolds:
    """A chosen plan.

    Attributes:
        name: Name in the catalog; empty for a newly drawn plan.
        folds: The plan.
    """

    name: str
    folds: Folds

    def about(self) -> dict[str, Any]:
        """Return name, rule and digest of the plan, which stores and models record."""
        rows = [[row["source"], row["case_id"], row["fold"]] for row in self.folds.rows]
        digest = hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
        return {"plan": self.name, "digest": digest, **self.folds.about}


def make_folds(
    catalog: Catalog,
    *,
    scheme: str = "stratified",
    n_folds: int = N_FOLDS,
    seed: int = SEED,
    sources: Sequence[str] | None = None,
    official: str = "keep",
) -> Folds:
    """Draw a plan over all cases of a catalog, or of some of its sources.

    A patient is one `patient_key`, even if several sources share it. Cases that the publisher holds out
    (`official_split` is `test`) belong to no fold; `train` and `val` cases are drawn again.

    Args:
        catalog: An open catalog.
        scheme: `stratified` balances tracer, scanner, lesion burden and empty cases over the folds;
            `leave-one-centre-out` and `leave-one-tracer-out` make a fold of each scanner or tracer.
        n_folds: Number of folds of a stratified plan, at most the number of patients. In other plans it has no effect,
            and a value other than the default gives a warning.
        seed: Breaks ties between similar patients in a stratified plan; in other plans as `n_folds`.
        sources: Names in the tables; None for all.
        official: `keep` leaves cases in the fold of their publisher, and other cases of these patients follow them;
            `ignore` draws all cases, including test cases.

    Raises:
        SettingError: The scheme is unknown, there are fewer than two folds or more folds than patients, or the
            official folds do not fit `n_folds`.
        CatalogError: There are no cases, official folds split a patient, a fold has nothing to train on, or there is
            only one group.
    """
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)
    if official not in OFFICIAL:
        raise unknown_name("handling of official folds", official, OFFICIAL)
    if scheme != "stratified" and (n_folds, seed) != (N_FOLDS, SEED):
        warnings.warn(f"n_folds and seed have no effect in a plan {scheme}", UserWarning, stacklevel=2)
    cases = fold_cases(catalog, sources)
    held_out = {c["patient_key"] for c in cases if official == "keep" and c["official_split"] == "test"}
    drawn = [case for case in cases if case["patient_key"] not in held_out]
    if not drawn:
        raise CatalogError("the publisher holds all of these cases out; draw them with official='ignore'")
    if scheme == "stratified":
        kept = _official_folds(drawn, n_folds) if official == "keep" else {}
        fold_of = _stratify(drawn, n_folds, seed, kept)
        groups: dict[Key, str | None] = {}
        numbers = {_key(case): fold_of[case["patient_key"]] for case in drawn}
    else:
        of = centre_of if scheme == "leave-one-centre-out" else tracer_of
        kept, groups = {}, {_key(case): of(case) for case in drawn}
        names = sorted({str(name) for name in groups.values()})
        numbers = {key: names.index(str(name)) for key, name in groups.items()}
    rows = [
        {
            "source": case["source"],
            "case_id": case["case_id"],
            "patient_key": case["patient_key"],
            "fold": numbers.get(_key(case)),
            "left_out": groups.get(_key(case)),
            "official": case["patient_key"] in kept or case["patient_key"] in held_out,
        }
        for case in cases
    ]
    about = {"scheme": scheme, "seed": seed, "official": official, "version": __version__}
    about |= {"folds": len(set(numbers.values())), "sources": sorted({case["source"] for case in cases})}
    folds = Folds(tuple(sorted(rows, key=_key)), about)
    _check_splits(folds)
    return folds


def write_folds(catalog: Catalog, name: str, folds: Folds) -> None:
    """Store a plan under a name; an earlier plan of that name is replaced."""
    metadata = {METADATA_KEY: json.dumps(dict(folds.about), sort_keys=True).encode()}
    catalog.write_part("folds", name, rows_to_table("folds", folds.rows).replace_schema_metadata(metadata))


def read_folds(catalog: Catalog, name: str) -> Folds:
    """Read a plan of the catalog.

    Raises:
        SettingError: There is no such plan; the message gives the nearest name.
    """
    if name not in catalog.parts("folds"):
        raise unknown_name("fold plan", name, catalog.parts("folds"))
    rows = [{k: v for k, v in row.items() if k != "plan"} for row in catalog.table("folds", name).to_pylist()]
    about = json.loads(catalog.part_metadata("folds", name).get(METADATA_KEY, b"{}"))
    return Folds(tuple(sorted(rows, key=_key)), about)


def choose_folds(catalog: Catalog, name: str | None = None, *, sources: Sequence[str] | None = None) -> ChosenFolds:
    """Choose the plan that training and evaluation use.

    Args:
        catalog: An open catalog.
        name: Name of a plan; by default the only plan of the catalog. If the catalog has no plan, the publisher's
            folds are used. If they do not cover every patient, a plan is drawn with the defaults of `clicksim catalog
            folds`, with at most one fold per patient.
        sources: Names in the tables, for a plan that is drawn.

    Raises:
        SettingError: There is no such plan, or there are several and none is named.
        CatalogError: There are no cases, or as `make_folds`.
    """
    plans = catalog.parts("folds")
    if name is None and len(plans) > 1:
        raise SettingError(f"{catalog.home} has several fold plans; name one of them: {', '.join(plans)}")
    if name is not None or plans:
        chosen = name or plans[0]
        return ChosenFolds(chosen, read_folds(catalog, chosen))
    cases = fold_cases(catalog, sources)
    drawn = [case for case in cases if case["official_split"] != "test"]
    patients = len({case["patient_key"] for case in drawn})
    if patients > 1 and any(case["official_fold"] is None for case in drawn):
        highest = max((case["official_fold"] for case in drawn if case["official_fold"] is not None), default=0)
        fitting = max(min(N_FOLDS, patients), highest + 1)
        return ChosenFolds("", make_folds(catalog, n_folds=fitting, sources=sources))
    if drawn:
        _official_folds(drawn, LARGEST_FOLDS)  # rejects folds that split a patient
    rows = [
        {
            **{column: case[column] for column in ("source", "case_id", "patient_key")},
            "fold": None if case["official_split"] == "test" else case["official_fold"] or 0,
            "left_out": None,
            "official": case["official_fold"] is not None,
        }
        for case in cases
    ]
    about = {"scheme": "stratified", "seed": SEED, "official": "keep", "version": __version__}
    about |= {"folds": len({row["fold"] for row in rows} - {None}), "sources": sorted({row["source"] for row in cases})}
    return ChosenFolds("", Folds(tuple(sorted(rows, key=_key)), about))


def fold_cases(catalog: Catalog, sources: Sequence[str] | None = None) -> list[Row]:
    """Read the columns that folds need, of all cases or of some sources.

    Raises:
        SettingError: A source is unknown.
        CatalogError: There are no cases.
    """
    known = catalog.parts("cases")
    for source in sources or ():
        if source not in known:
            raise unknown_name("source", source, known)
    cases = [row for row in catalog.cases.select(list(COLUMNS)).to_pylist() if row["source"] in (sources or known)]
    if not cases:
        raise CatalogError(f"no cases in {catalog.home}")
    return sorted(cases, key=_key)


def tracer_of(case: Mapping[str, Any]) -> str:
    """Return the tracer of a case; `none` if it has none."""
    return case["tracer_class"] or "none"


def centre_of(case: Mapping[str, Any]) -> str:
    """Return a proxy for the centre: the scanner's model, else matrix and voxel size within the slice.

    If the publisher does not name the scanner, the grid still identifies it, since each scanner reconstructs on its own
    grid. The field of view of a CT varies on one scanner, so without a tracer the proxy is the source.

    >>> centre_of({"model": None, "tracer_class": "PSMA", "source": "fdat", "shape_xyz": [200, 200, 326],
    ...            "spacing_xyz_mm": [4.07283, 4.07283, 2.0]})
    'fdat 200 x 200 at 4.07 mm'
    """
    if case.get("model"):
        return " ".join(part for part in (case.get("manufacturer"), case["model"]) if part)
    if tracer_of(case) == "none" or not case["shape_xyz"] or not case["spacing_xyz_mm"]:
        return str(case["source"])
    (nx, ny, _), spacing = case["shape_xyz"], case["spacing_xyz_mm"]
    return f"{case['source']} {nx} x {ny} at {spacing[0]:.2f} mm"


def burden_of(case: Mapping[str, Any]) -> str:
    """Return the class of lesion volume, in powers of ten; `empty` without a lesion, `unknown` without a volume."""
    if case["lesion_present"] is False:
        return "empty"
    volume = case["lesion_volume_ml"]
    if volume is None:
        return "unknown"
    return next((f"below {limit} ml" for limit in (1, 10, 100, 1000) if volume < limit), "1000 ml and more")


STRATA = {"tracer": tracer_of, "centre": centre_of, "burden": burden_of}


def balance(catalog: Catalog, folds: Folds) -> list[Row]:
    """Count the studies of each stratum in each fold, for printing.

    Returns:
        Rows with `stratum`, `value`, `folds` (a list of counts, by fold), `spread` (largest minus smallest) and
        `largest_patient` (most studies of one patient in that stratum). The first rows count all cases and patients.
    """
    cases = {_key(case): case for case in fold_cases(catalog)}
    used = [row for row in folds.rows if row["fold"] is not None and _key(row) in cases]
    n_folds = 1 + max((row["fold"] for row in used), default=-1)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * n_folds)
    patients: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in used:
        for stratum in (("all", "studies"), *_strata(cases[_key(row)])):
            counts[stratum][row["fold"]] += 1
            patients[stratum][row["patient_key"]] += 1
    for fold in range(n_folds):
        people = {row["patient_key"] for row in used if row["fold"] == fold}
        counts["all", "patients"][fold] = len(people)
        patients["all", "patients"].update(people)
    order = ["all", *STRATA]
    return [
        {
            "stratum": stratum,
            "value": value,
            "folds": found,
            "spread": max(found) - min(found),
            "largest_patient": max(patients[stratum, value].values()),
        }
        for (stratum, value), found in sorted(counts.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    ]


def _strata(case: Row) -> list[tuple[str, str]]:
    """Return the strata of a case; an empty case is a class of burden."""
    return [(name, of(case)) for name, of in STRATA.items()]


def _key(row: Mapping[str, Any]) -> Key:
    return (row["source"], row["case_id"])


def _official_folds(cases: Sequence[Row], n_folds: int) -> dict[str, int]:
    """Return the publisher's fold of each patient that has one."""
    found: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        if case["official_fold"] is not None:
            found[case["patient_key"]].add(case["official_fold"])
    split = sorted(patient for patient, folds in found.items() if len(folds) > 1)
    if split:
        raise CatalogError(
            f"the official folds split {counted(len(split), 'patient')}: {up_to_ten(split)}; draw others with "
            "official='ignore' (--official ignore)"
        )
    kept = {patient: folds.pop() for patient, folds in found.items()}
    if kept and max(kept.values()) >= n_folds:
        raise SettingError(
            f"the official folds go up to {max(kept.values())}, beyond {counted(n_folds, 'fold')} from 0; draw "
            f"{max(kept.values()) + 1}, or set official='ignore' (--official ignore)"
        )
    return kept


def _stratify(cases: Sequence[Row], n_folds: int, seed: int, kept: Mapping[str, int]) -> dict[str, int]:
    """Assign each patient a fold, so that every stratum is spread evenly.

    Patients with many studies are placed first, each where the sum of squares of all counts grows least. Then patients
    are moved and exchanged as long as that makes the sum smaller. The random stream breaks ties.
    """
    patients = sorted({case["patient_key"] for case in cases})
    most = min(len(patients), LARGEST_FOLDS)
    if not 2 <= n_folds <= most:
        allowed = f"allowed: 2 to {most}" if most > 1 else "at least two patients are needed"
        raise SettingError(
            f"{counted(n_folds, 'fold')} of {counted(len(patients), 'patient')} cannot be made; {allowed}"
        )
    counts = _count_strata(cases, patients)
    rng = stream(seed, "", "folds", n_folds)
    order = rng.permutation(len(patients))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    names = rng.permutation(n_folds)  # so that ties do not always favour the first fold
    fold_of = np.full(len(patients), -1)
    for n, patient in enumerate(patients):
        fold_of[n] = kept.get(patient, -1)
    totals = np.zeros((n_folds, counts.shape[1]))
    np.add.at(totals, fold_of[fold_of >= 0], counts[fold_of >= 0])
    weights = 1.0 / np.maximum(counts.sum(axis=0), 1.0)  # rare and common strata weigh the same
    free = [int(n) for n in order if fold_of[n] < 0]
    for n in free:
        growth = (2 * totals[names] * counts[n] * weights).sum(axis=1)
        fold_of[n] = names[int(np.argmin(growth))]
        totals[fold_of[n]] += counts[n]
    bare = sorted(set(range(n_folds)).difference(fold_of.tolist()))
    if bare:
        raise SettingError(
            f"the official folds leave no patient for fold {', '.join(map(str, bare[:10]))} of {n_folds}; ask for "
            "fewer, or set official='ignore' (--official ignore)"
        )
    _exchange(fold_of, totals, counts, weights, free)
    return dict(zip(patients, fold_of.tolist(), strict=True))


def _count_strata(cases: Sequence[Row], patients: Sequence[str]) -> NDArray[np.float64]:
    """Return `(patients, strata)` counts of studies; the first column counts all studies, the second is 1."""
    place = {patient: n for n, patient in enumerate(patients)}
    strata = sorted({stratum for case in cases for stratum in _strata(case)})
    column = {stratum: n for n, stratum in enumerate(strata, start=2)}
    counts = np.zeros((len(patients), 2 + len(strata)))
    counts[:, 1] = 1
    for case in cases:
        n = place[case["patient_key"]]
        counts[n, 0] += 1
        for stratum in _strata(case):
            counts[n, column[stratum]] += 1
    return counts


def _exchange(
    fold_of: NDArray[Any],
    totals: NDArray[np.float64],
    counts: NDArray[np.float64],
    weights: NDArray[np.float64],
    free: Sequence[int],
) -> None:
    """Move a patient, or exchange two, if that makes the weighted sum of squares smaller; in place."""
    people = np.array(free, dtype=int)
    for _ in range(PASSES):
        changed = False
        for n in people:
            here = fold_of[n]
            # change from moving n to fold g and m back: (t_h - d)^2 + (t_g + d)^2 minus before, d = c_n - c_m
            others = people[fold_of[people] != here]
            away = np.delete(np.arange(len(totals)), here)
            back = np.concatenate([counts[others], np.zeros((len(away), counts.shape[1]))])
            there = np.concatenate([fold_of[others], away])
            step = counts[n] - back
            gain = ((2 * step * (totals[there] - totals[here]) + 2 * step**2) * weights).sum(axis=1)
            best = int(np.argmin(gain))
            if gain[best] < -1e-9:
                target = int(there[best])
                totals[here] -= step[best]
                totals[target] += step[best]
                fold_of[n] = target
                if best < len(others):
                    fold_of[others[best]] = here
                changed = True
        if not changed:
            return


def _check_splits(folds: Folds) -> None:
    """Reject a plan with a fold that has nothing to train on."""
    splits = folds.splits()
    if len(splits) < 2:
        raise CatalogError(f"{folds.about['scheme']} needs at least two groups; these cases have only {_names(splits)}")
    bare = [split for split in splits if not split.train]
    if bare:
        raise CatalogError(
            f"nothing is left to train on when {_names(bare)} is left out: all other cases are of the same patients"
        )


def _names(splits: Iterable[Split]) -> str:
    return ", ".join(split.left_out or str(split.fold) for split in splits)

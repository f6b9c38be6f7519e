"""Leakage: one patient, or one image, on both sides of a split, under whatever name.

    patient-split       a patient in two folds or two splits, of a plan or of the publisher
    study-twice         one study under two names, in one source or in two
    same-lesions        two patients whose lesions have the same volumes and uptakes
    same-label          two patients whose label files are equal byte by byte
    near-duplicate      two patients whose images show the same body (reads every image)

A pair is an error if a plan has it in different folds, and a warning otherwise. A plan that clicksim stored cannot
split a patient; a plan that was edited, or drawn before a conversion changed the patient keys, can.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from clicksim.audit.fingerprints import Fingerprint, find_duplicates
from clicksim.catalog.folds import Key, read_folds
from clicksim.catalog.store import Catalog
from clicksim.errors import counted
from clicksim.findings import Finding

RELATIVE = 5e-3
"""Largest relative difference of lesion volumes and uptakes of one image under two names."""
FEWEST_VOXELS = 10
"""In all lesions of a case together; two tiny lesions can agree by chance."""
MOST_NAMES = 10
Fold = dict[Key, Any]
Print = tuple[dict[str, Any], Fingerprint]


def check_patient_split(catalog: Catalog) -> Iterator[Finding]:
    """No patient in two official folds or splits, and none on both sides of a plan."""
    yield from check_official_folds(catalog)
    rows = catalog.cases.select(["case_id", "source", "patient_key"]).to_pylist()
    today = {_key(row): row["patient_key"] for row in rows}
    for plan in catalog.parts("folds"):
        folds = read_folds(catalog, plan)
        for split in folds.splits():
            train, validation = (
                {today[key]: key[1] for key in keys if today.get(key)} for keys in (split.train, split.validation)
            )
            for patient in sorted(train.keys() & validation.keys()):
                yield Finding(
                    "error",
                    "patient-split",
                    (train[patient], validation[patient]),
                    f"plan {plan}, fold {split.fold}: patient {patient} is in training and in validation",
                )
        lost = [key[1] for key in folds.fold_of if key not in today]
        covered = set(folds.about.get("sources", catalog.parts("cases")))
        new = [name for source, name in sorted(today.keys() - folds.fold_of.keys()) if source in covered]
        for names, what in ((lost, "has cases that are not in the catalog"), (new, "lacks cases of the catalog")):
            if names:
                detail = f"plan {plan} {what}: {len(names)}; draw it again"
                yield Finding("warning", "patient-split", tuple(sorted(names)[:MOST_NAMES]), detail)


def check_official_folds(catalog: Catalog) -> Iterator[Finding]:
    """No patient in two official folds or splits."""
    rows = catalog.cases.select(["case_id", "patient_key", "official_fold", "official_split"]).to_pylist()
    for column in ("official_fold", "official_split"):
        held: dict[str, dict[Any, str]] = defaultdict(dict)
        for row in rows:
            if row[column] is not None and row["patient_key"] is not None:
                held[row["patient_key"]].setdefault(row[column], row["case_id"])
        for patient, values in sorted(held.items()):
            if len(values) > 1:
                names = ", ".join(str(value) for value in sorted(values))
                detail = f"patient {patient} is in {column.replace('_', ' ')} {names}"
                yield Finding("error", "patient-split", tuple(sorted(values.values())), detail)


def check_study_twice(catalog: Catalog) -> Iterator[Finding]:
    """No study under two names: an error in one source or in two folds, a warning across sources."""
    held: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in catalog.cases.select(["case_id", "source", "patient_key", "study_key"]).to_pylist():
        if row["study_key"] is not None:
            held[row["study_key"]].append(row)
    folds = plan_folds(catalog)
    for study, rows in sorted(held.items()):
        if len(rows) < 2:
            continue
        twice = len({row["source"] for row in rows}) < len(rows)
        torn = _torn_plans([_key(row) for row in rows], folds)
        if twice or torn:
            place = f", in different folds of {', '.join(torn)}" if torn else ""
            detail = f"study {study} has {len(rows)} cases ({_sources(rows)}){place}"
            yield Finding("error", "study-twice", _cases(rows), detail)
        else:
            detail = f"study {study} is in {_sources(rows)}: it counts twice; leave one source out of training"
            yield Finding("warning", "study-twice", _cases(rows), detail)


def check_same_label(catalog: Catalog) -> Iterator[Finding]:
    """No two patients with the same label file, except empty ones."""
    columns = ["case_id", "source", "patient_key", "study_key", "sha256_in", "lesion_present"]
    held: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in catalog.cases.select(columns).to_pylist():
        if row["lesion_present"] and row["sha256_in"]:
            held[row["sha256_in"]].append(row)
    folds = plan_folds(catalog)
    for digest, rows in sorted(held.items()):
        if len({row["patient_key"] for row in rows}) > 1:
            yield _pair_finding("same-label", rows, f"label files are equal (SHA-256 {digest[:12]})", folds)


def check_same_lesions(catalog: Catalog) -> Iterator[Finding]:
    """No two patients with the same lesion volumes, and uptakes if there are any, to half a percent.

    These do not change when a volume is mirrored or turned. This check reads no image.
    """
    columns = ["case_id", "source", "patient_key", "study_key"]
    cases = {_key(row): row for row in catalog.cases.select(columns).to_pylist()}
    held: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    voxels: dict[Key, int] = defaultdict(int)
    for row in catalog.lesions.select(["source", "case_id", "voxels", "volume_ml", "suv_max"]).to_pylist():
        if row["voxels"]:
            held[_key(row)].append((row["volume_ml"], row["suv_max"] or 0.0))
            voxels[_key(row)] += row["voxels"]
    by_count: dict[int, list[tuple[float, Key]]] = defaultdict(list)
    for key, lesions in held.items():
        if key in cases and voxels[key] >= FEWEST_VOXELS:
            by_count[len(lesions)].append((sum(volume for volume, _ in lesions), key))
    folds = plan_folds(catalog)
    for group in by_count.values():
        for first, second in _neighbours(sorted(group)):
            rows = [cases[first], cases[second]]
            if rows[0]["patient_key"] != rows[1]["patient_key"] and _same(held[first], held[second]):
                detail = f"{counted(len(held[first]), 'lesion')} with the same volumes and uptakes"
                yield _pair_finding("same-lesions", rows, detail, folds)


def check_near_duplicates(catalog: Catalog, prints: Sequence[Print]) -> Iterator[Finding]:
    """No two patients with the same image; reads the PET of every case, or the CT if there is no PET.

    Args:
        catalog: An open catalog.
        prints: Rows of its cases, each with the fingerprint of that image.
    """
    folds = plan_folds(catalog)
    for has_pet in (True, False):
        taken = [(row, fingerprint) for row, fingerprint in prints if bool(row["pet_path"]) == has_pet]
        for first, second, alike in find_duplicates([fingerprint for _, fingerprint in taken]):
            pair = [taken[first][0], taken[second][0]]
            if pair[0]["patient_key"] != pair[1]["patient_key"]:
                yield _pair_finding("near-duplicate", pair, f"images have a likeness of {alike:.3f}", folds)


def plan_folds(catalog: Catalog) -> dict[str, Fold]:
    """The fold of each case, by plan; the publisher's folds, if any, count as a plan."""
    plans: dict[str, Fold] = {name: dict(read_folds(catalog, name).fold_of) for name in catalog.parts("folds")}
    rows = catalog.cases.select(["source", "case_id", "official_fold", "official_split"]).to_pylist()
    for column in ("official_fold", "official_split"):
        known = {_key(row): row[column] for row in rows if row[column] is not None}
        if known:
            plans[column] = known
    return plans


def _pair_finding(check: str, rows: list[dict[str, Any]], detail: str, folds: dict[str, Fold]) -> Finding:
    """An error if a plan has the cases in different folds, else a warning."""
    torn = _torn_plans([_key(row) for row in rows], folds)
    patients = " and ".join(sorted({row["patient_key"] or "unknown" for row in rows}))
    text = f"{detail}, but the patients are {patients}"
    if torn:
        return Finding("error", check, _cases(rows), f"{text}, in different folds of {', '.join(torn)}")
    return Finding("warning", check, _cases(rows), text)


def _torn_plans(keys: list[Key], folds: dict[str, Fold]) -> list[str]:
    """The plans that have these cases in more than one fold."""
    return [name for name, of in folds.items() if len({of[key] for key in keys if of.get(key) is not None}) > 1]


def _neighbours(group: list[tuple[float, Key]]) -> Iterator[tuple[Key, Key]]:
    """Pairs of a sorted list whose totals differ by little."""
    for n, (total, key) in enumerate(group):
        for other, second in group[n + 1 :]:
            if other - total > RELATIVE * other:
                break
            yield key, second


def _same(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> bool:
    return bool(np.allclose(sorted(first), sorted(second), rtol=RELATIVE, atol=0))


def _key(row: dict[str, Any]) -> Key:
    return (row["source"], row["case_id"])


def _cases(rows: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted(row["case_id"] for row in rows))


def _sources(rows: Iterable[dict[str, Any]]) -> str:
    return " and ".join(sorted({row["source"] for row in rows}))

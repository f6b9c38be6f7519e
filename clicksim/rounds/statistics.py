"""Means with intervals over a run, and the paired difference of two runs.

The cases of one patient are not independent, so the bootstrap draws whole patients: as many as there are, with
replacement. The interval spans the middle 95 % of the means of many such draws.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError, counted, up_to_ten
from clicksim.rounds.case_curves import AREAS, Curve, curves_of
from clicksim.rounds.round_records import Row
from clicksim.streams import stream

Floats = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95


def summarise(rows: Iterable[Row], *, seed: int = 42, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Summarise a run: over all cases, and by centre, tracer, scanner, burden and annotator.

    Args:
        rows: Rows of the table `rounds`.
        seed: The seed of the bootstrap.
        resamples: How often patients are drawn.

    Returns:
        `all` and one entry for each group have the counts of cases, patients, rounds and failed rounds, and means with
        intervals of the areas, of the last round, of NoC, and of each score over the rounds. `macro` is the mean of
        the means of the centres. `lesion_free` has the false-positive volume of the cases without lesions. Each mean
        has `n`, the number of cases in which it is defined. The mean is None if `n` is 0; the interval is None if
        there is only one patient. Burden is `none`, `low` (at most `burden_split_ml`, the median volume of the cases
        with lesions) or `high`.
    """
    curves = curves_of(rows)
    split = _burden_split(curves)
    groups = {name: _grouped(curves, name, split) for name in ("centre", "tracer", "scanner", "burden", "annotator")}
    free = [curve for curve in curves if curve.lesion_free]
    return {
        "all": _describe(curves, seed, resamples),
        "macro": _macro(groups["centre"], seed, resamples),
        "lesion_free": {
            "cases": len(free),
            "with_false_positives": sum((curve.rows[-1]["fpv_ml"] or 0) > 0 for curve in free),
            "final_fpv_ml": _means(free, ["final_fpv_ml"], seed, resamples)["final_fpv_ml"],
        },
        "burden_split_ml": split,
        **{
            name: {key: _describe(members, seed, resamples) for key, members in sorted(parts.items())}
            for name, parts in groups.items()
        },
    }


def compare_runs(
    first: Iterable[Row], second: Iterable[Row], *, seed: int = 42, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Compare two runs over the cases that both have: the paired difference, second minus first.

    Returns:
        For all cases, by tracer and by burden: the numbers of cases and patients, and for each number the mean
        difference with its interval, and the means of both runs over the same cases. A case counts if both runs define
        the number; `n` is the number of such cases.

    Raises:
        SettingError: The runs have no case in common; a case has different numbers of rounds, so that areas cannot be
            compared; cases of two sources have the same name.
    """
    runs = [_by_key(curves_of(rows)) for rows in (first, second)]
    common = sorted(runs[0].keys() & runs[1].keys())
    if not common:
        raise SettingError("the two runs have no case in common (case and annotator are compared)")
    pairs = [(runs[0][key], runs[1][key]) for key in common]
    uneven = [f"{a.key[0]} ({len(a.rows)} and {len(b.rows)})" for a, b in pairs if len(a.rows) != len(b.rows)]
    if uneven:
        raise SettingError(
            f"{counted(len(uneven), 'case')} with different numbers of rounds in the two runs: {up_to_ten(uneven)}; "
            "play both runs with the same n_rounds"
        )
    split = _burden_split([a for a, _ in pairs])
    answer: dict[str, Any] = {
        "all": _describe_pairs(pairs, seed, resamples),
        "burden_split_ml": split,
        "only_in_first": [key[0] for key in sorted(runs[0].keys() - runs[1].keys())],
        "only_in_second": [key[0] for key in sorted(runs[1].keys() - runs[0].keys())],
    }
    for name in ("tracer", "burden"):
        parts: dict[str, list[tuple[Curve, Curve]]] = {}
        for pair in pairs:
            parts.setdefault(_group_of(pair[0], name, split), []).append(pair)
        answer[name] = {key: _describe_pairs(members, seed, resamples) for key, members in sorted(parts.items())}
    return answer


def compare_common(
    first: Iterable[Row], second: Iterable[Row], *, seed: int = 42, any_annotator: bool = False
) -> dict[str, Any]:
    """Compare two runs as `compare_runs` does, each case over the rounds that both runs have.

    Args:
        first, second: Rows of the table `rounds`.
        seed: The seed of the bootstrap.
        any_annotator: Compare every annotator of the first run with the one annotator of the second.

    Raises:
        SettingError: As `compare_runs`.
    """
    one, two = list(first), list(second)
    if any_annotator:
        by_case: dict[str, list[Row]] = {}
        for row in two:
            by_case.setdefault(row["case_id"], []).append(row)
        keys = dict.fromkeys(map(_row_key, one))
        two = [row | {"annotator": person} for case_id, person in keys for row in by_case.get(case_id, [])]
    lengths = [Counter(map(_row_key, rows)) for rows in (one, two)]
    cut = [[row for row in rows if row["round"] < min(n[_row_key(row)] for n in lengths)] for rows in (one, two)]
    return compare_runs(cut[0], cut[1], seed=seed)


def _row_key(row: Row) -> tuple[str, str]:
    return row["case_id"], row["annotator"]


def bootstrap_means(values: Floats, clusters: Sequence[str], draws: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The means of columns, and the same for draws of clusters.

    Args:
        values: `(n, m)`; NaN is left out.
        clusters: `(n,)` the cluster of each row.
        draws: `(b, c)` indices of clusters in sorted order.

    Returns:
        `(m,)` means and `(b, m)` means of the draws; NaN if a column has no value.
    """
    names, places = np.unique(np.asarray(clusters), return_inverse=True)
    known = ~np.isnan(values)
    sums = np.zeros((len(names), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, places, np.where(known, values, 0.0))
    np.add.at(counts, places, known)
    flat = draws + np.arange(len(draws))[:, None] * len(names)
    weights = np.bincount(flat.ravel(), minlength=len(draws) * len(names)).reshape(len(draws), len(names))
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(axis=0) / counts.sum(axis=0), (weights @ sums) / (weights @ counts)


def draw_clusters(count: int, resamples: int, seed: int, *purpose: str) -> NDArray[np.int64]:
    """Draw clusters with replacement: `(resamples, count)` indices."""
    return stream(seed, "", "bootstrap", *purpose).integers(count, size=(resamples, count))


def _describe(curves: Sequence[Curve], seed: int, resamples: int) -> dict[str, Any]:
    """Counts, means and curves of a group."""
    last = [curve.rows[-1] for curve in curves]
    hits = {name: sum(row[name] or 0 for row in last) for name in ("tp", "fp", "fn")}
    total = 2 * hits["tp"] + hits["fp"] + hits["fn"]
    longest = max((len(curve.rows) for curve in curves), default=0)
    names = list(curves[0].numbers()) if curves else []
    over = [f"{name} {number}" for name in AREAS for number in range(longest)]
    means = _means(curves, names + over, seed, resamples)
    return {
        "cases": len(curves),
        "patients": len({curve.patient for curve in curves}),
        "lesion_free": sum(curve.lesion_free for curve in curves),
        "played_rounds": sum(len(curve.rows) for curve in curves),
        "failed_rounds": sum(row["failure"] is not None for curve in curves for row in curve.rows),
        "failed_by_round": [
            sum(curve.rows[number]["failure"] is not None for curve in curves if number < len(curve.rows))
            for number in range(longest)
        ],
        "final_pooled_f1": 2 * hits["tp"] / total if total else None,
        **{name: means[name] for name in names},
        "rounds": {name: [means[f"{name} {number}"] for number in range(longest)] for name in AREAS if longest},
    }


def _describe_pairs(pairs: Sequence[tuple[Curve, Curve]], seed: int, resamples: int) -> dict[str, Any]:
    """Mean differences of a group of pairs."""
    names = list(pairs[0][0].numbers())
    first, second = (_table([pair[side] for pair in pairs], names) for side in (0, 1))
    both = np.where(np.isnan(first) | np.isnan(second), np.nan, 0.0)
    patients = [a.patient for a, _ in pairs]
    found = _with_intervals(second - first, patients, names, seed, resamples)
    sides = [_with_intervals(side + both, patients, names, seed, resamples) for side in (first, second)]
    for name in names:
        found[name] |= {"first": sides[0][name]["mean"], "second": sides[1][name]["mean"]}
    return {"cases": len(pairs), "patients": len(set(patients)), "difference": found}


def _macro(centres: Mapping[str, Sequence[Curve]], seed: int, resamples: int) -> dict[str, Any]:
    """The mean of the means of the centres; patients are drawn within each centre."""
    points, samples, names = [], [], []
    for key, curves in sorted(centres.items()):
        names = list(curves[0].numbers())
        patients = [curve.patient for curve in curves]
        draws = draw_clusters(len(set(patients)), resamples, seed, "macro", key)
        point, sample = bootstrap_means(_table(curves, names), patients, draws)
        points.append(point)
        samples.append(sample)
    if not points:
        return {}
    point, sample = _nanmean(np.array(points)), _nanmean(np.array(samples))
    defined = (~np.isnan(np.array(points))).sum(axis=0)
    single = all(len({curve.patient for curve in curves}) < 2 for curves in centres.values())
    return {name: _entry(point[m], None if single else sample[:, m], int(defined[m])) for m, name in enumerate(names)}


def _means(curves: Sequence[Curve], names: Sequence[str], seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    patients = [curve.patient for curve in curves]
    return _with_intervals(_table(curves, names), patients, names, seed, resamples)


def _with_intervals(
    values: Floats, patients: Sequence[str], names: Sequence[str], seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    """The mean, interval and count of each column."""
    if not len(values):
        return {name: {"mean": None, "low": None, "high": None, "n": 0} for name in names}
    count = len(set(patients))
    point, sample = bootstrap_means(values, patients, draw_clusters(count, resamples, seed))
    n = (~np.isnan(values)).sum(axis=0)
    return {name: _entry(point[m], sample[:, m] if count > 1 else None, int(n[m])) for m, name in enumerate(names)}


def _entry(point: float, sample: Floats | None, n: int) -> dict[str, Any]:
    low = high = None
    if sample is not None and not np.isnan(sample).all():
        tail = (1 - LEVEL) / 2
        low, high = (float(edge) for edge in np.nanquantile(sample, [tail, 1 - tail]))
    return {"mean": None if math.isnan(point) else float(point), "low": low, "high": high, "n": n}


def _table(curves: Sequence[Curve], names: Sequence[str]) -> Floats:
    """`(curves, names)`: a name is a number of a curve, or a score and a round; None becomes NaN."""
    values = np.full((len(curves), len(names)), np.nan)
    for n, curve in enumerate(curves):
        numbers = curve.numbers()
        for m, name in enumerate(names):
            score, space, number = name.partition(" ")
            found = curve.at(score, int(number)) if space else numbers[name]
            values[n, m] = math.nan if found is None else found
    return values


def _nanmean(values: Floats) -> Floats:
    """The mean of the defined values along the first axis; NaN without a warning if there are none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0))


def _by_key(curves: Sequence[Curve]) -> dict[tuple[str, str], Curve]:
    """The curves of a run by case and annotator."""
    counts = Counter(curve.key for curve in curves)
    twice = sorted({case_id for (case_id, _), count in counts.items() if count > 1})
    if twice:
        raise SettingError(
            f"{counted(len(twice), 'name')} used by cases of several sources in one run: {up_to_ten(twice)}; compare "
            "one source at a time"
        )
    return {curve.key: curve for curve in curves}


def _burden_split(curves: Sequence[Curve]) -> float | None:
    """The median volume of the cases with lesions; a case that several people prompted counts once."""
    rows = [curve.rows[0] for curve in curves if curve.rows[0]["truth_ml"]]
    volumes = {(row.get("source"), row["case_id"]): row["truth_ml"] for row in rows}
    return float(median(volumes.values())) if volumes else None


def _grouped(curves: Sequence[Curve], name: str, split: float | None) -> dict[str, list[Curve]]:
    parts: dict[str, list[Curve]] = {}
    for curve in curves:
        parts.setdefault(_group_of(curve, name, split), []).append(curve)
    return parts


def _group_of(curve: Curve, name: str, split: float | None) -> str:
    row = curve.rows[0]
    if name == "centre":
        return curve.centre
    if name == "burden":
        volume = row["truth_ml"]
        if volume is None:
            return "unknown"
        return "none" if volume == 0 else "low" if split is None or volume <= split else "high"
    column = {"tracer": "tracer_class", "scanner": "model", "annotator": "annotator"}[name]
    return row.get(column) or "unknown"

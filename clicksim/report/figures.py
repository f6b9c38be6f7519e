"""Figures of a cohort: SVG bar charts of counts, split by tracer, each with its numbers as a table."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

Row = Mapping[str, Any]
SERIES = ("FDG", "PSMA", "none", "other")
UNKNOWN = "unknown"
MOST_BARS = 9
LABEL_W, BAR_W, COUNT_W, STEP, THICK = 152, 170, 42, 22, 14
Scale = Sequence[tuple[str, float]]


def make_scale(*edges: float, zero: bool = False, whole: bool = False) -> Scale:
    """Make ranges, each with a label and its lowest value; a range ends before the next edge, and the last is open.

    Args:
        edges: In ascending order; the first range also includes lower values.
        zero: Whether 0 has its own range, before the first.
        whole: Whether values are whole numbers, so that a range ends one below the next edge.

    >>> [label for label, _ in make_scale(1, 2, 5, zero=True, whole=True)]
    ['0', '1', '2-4', '5+']
    """
    found: list[tuple[str, float]] = [("0", 0.0)] if zero else []
    for n, (low, high) in enumerate(itertools.pairwise(edges)):
        last = high - 1 if whole else high
        label = f"{low:g}" if whole and last == low else f"{low:g}-{last:g}"
        if n == 0 and not whole:
            label = f"under {high:g}"
        found.append((label, math.ulp(0.0) if zero and n == 0 else low))
    return [*found, (f"{edges[-1]:g}+", edges[-1])]


AGES = make_scale(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, whole=True)
LESIONS = make_scale(1, 2, 4, 8, 16, 32, 64, 128, zero=True, whole=True)
VOLUMES_ML = make_scale(0, 1, 3, 10, 30, 100, 300, 1000, zero=True)
SIZES_ML = make_scale(0, 0.1, 0.3, 1, 3, 10, 30, 100)
UPTAKES = make_scale(0, 2.5, 5, 10, 15, 20, 30, 50)


@dataclass(frozen=True)
class CohortFigure:
    """One bar chart with its numbers.

    Attributes:
        title: What is counted.
        bars: Label and count by series, top to bottom.
        unit: The unit of the counts.
    """

    title: str
    bars: Sequence[tuple[str, Mapping[str, int]]]
    unit: str = "cases"

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return sum(sum(counts.values()) for _, counts in self.bars)

    @property
    def series(self) -> list[str]:
        """The series that occur, in display order."""
        return [name for name in SERIES if any(counts.get(name) for _, counts in self.bars)]

    @property
    def svg(self) -> "Markup":
        """The figure as inline SVG; colours come from CSS classes of the page."""
        return draw_bars(self)


def cohort_figures(
    cases: Sequence[Row], lesions: Sequence[tuple[str, float | None, float | None]]
) -> list[CohortFigure]:
    """Make the figures of a cohort.

    Args:
        cases: Rows of `clicksim.report.privacy.release_cases`.
        lesions: Tracer, volume in ml and highest SUV of each lesion.
    """
    figures = [
        by_word("Cases by source", cases, "source"),
        _by("Diagnosis", cases, lambda row: row["diagnosis"] and row["diagnosis"].lower()),
        by_word("Sex", cases, "sex"),
        by_range("Age, years", [(row["tracer"], row["age"]) for row in cases], AGES),
        by_word("Scanner", cases, "scanner"),
        _by("Voxel size, mm", cases, lambda row: _show_spacing(row["spacing"])),
        by_range("Lesions per case", [(row["tracer"], row["lesions"]) for row in cases], LESIONS),
        by_range("Lesion volume per case, ml", [(row["tracer"], row["volume"]) for row in cases], VOLUMES_ML),
        by_range("Volume per lesion, ml", [(tracer, ml) for tracer, ml, _ in lesions], SIZES_ML, "lesions"),
        by_range("Highest SUV per lesion", [(tracer, suv) for tracer, _, suv in lesions], UPTAKES, "lesions"),
        by_word("Fold of the publisher", cases, "fold"),
        by_word("Split of the publisher", cases, "split"),
    ]
    return [figure for figure in figures if any(label != UNKNOWN for label, _ in figure.bars)]


def by_word(title: str, rows: Sequence[Row], column: str) -> CohortFigure:
    """Count the values of a column: the nine most frequent, and the rest together."""
    return _by(title, rows, lambda row: row[column])


def by_range(
    title: str, found: Sequence[tuple[str | None, float | None]], scale: Scale, unit: str = "cases"
) -> CohortFigure:
    """Count values by range, from the first to the last non-empty range, including empty ranges in between.

    Args:
        title: Title of the figure.
        found: Tracer and value; None if the value is unknown.
        scale: From `make_scale`.
        unit: The unit of the counts.
    """
    counts = [Counter[str]() for _ in scale]
    unknown: Counter[str] = Counter()
    for tracer, value in found:
        if value is None:
            unknown[_series(tracer)] += 1
        else:
            counts[max((n for n, (_, low) in enumerate(scale) if value >= low), default=0)][_series(tracer)] += 1
    used = [n for n, count in enumerate(counts) if count]
    bars: list[tuple[str, Mapping[str, int]]] = (
        [(scale[n][0], counts[n]) for n in range(used[0], used[-1] + 1)] if used else []
    )
    return CohortFigure(title, [*bars, *([(UNKNOWN, unknown)] if unknown else [])], unit)


def fold_balance(
    cases: Sequence[Row], plans: Mapping[str, Mapping[tuple[str, str], int | None]]
) -> list[dict[str, Any]]:
    """One row per fold or split: cases, patients, share without lesions, tracers, median volume of the others.

    Args:
        cases: Rows of `clicksim.report.privacy.release_cases`.
        plans: By plan name, the fold of each case by source and id.
    """
    groups: dict[str, list[Row]] = {}
    for row in cases:
        for column in ("fold", "split"):
            if row[column] is not None:
                groups.setdefault(f"publisher, {column} {row[column]}", []).append(row)
        for plan, folds in plans.items():
            if folds.get(row["key"]) is not None:
                groups.setdefault(f"{plan}, fold {folds[row['key']]}", []).append(row)
    return [_describe(name, members) for name, members in sorted(groups.items())]


def draw_bars(figure: CohortFigure) -> "Markup":
    """Draw horizontal bars with label and count; a label that is too long is shortened with dots."""
    from markupsafe import Markup

    most = max((sum(counts.values()) for _, counts in figure.bars), default=0) or 1
    height = STEP * len(figure.bars) + 4
    summary = ", ".join(f"{label}: {sum(counts.values())}" for label, counts in figure.bars)
    parts = []
    for n, (label, counts) in enumerate(figure.bars):
        y, x = n * STEP + 4, float(LABEL_W)
        cut = label if len(label) <= 20 else label[:19] + "…"
        parts.append(Markup('<text class="label" x="{}" y="{}">{}</text>').format(LABEL_W - 8, y + 11, cut))
        for name in SERIES:
            width = round(BAR_W * counts.get(name, 0) / most, 2)
            if width:
                bar = '<rect class="s-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                tip = f"{label}, {show_tracer(name)}: {counts[name]}"
                parts.append(Markup(bar).format(name, round(x, 2), y, width, THICK, tip))
                x += width
        total = f"{sum(counts.values()):,}"
        parts.append(Markup('<text class="count" x="{}" y="{}">{}</text>').format(round(x + 5, 2), y + 11, total))
    frame = '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    about = f"{figure.title}: {summary}"
    return Markup(frame).format(LABEL_W + BAR_W + COUNT_W, height, about, Markup("").join(parts))


def show_tracer(name: str) -> str:
    """The display name of a tracer."""
    return {"none": "no tracer", "other": "other tracer"}.get(name, name)


def _by(title: str, rows: Sequence[Row], value: Callable[[Row], Any]) -> CohortFigure:
    groups: dict[str, Counter[str]] = {}
    for row in rows:
        found = value(row)
        label = UNKNOWN if found is None else str(found).replace("_", " ")
        groups.setdefault(label, Counter())[_series(row["tracer"])] += 1
    words = sorted((label for label in groups if label != UNKNOWN), key=lambda label: (-groups[label].total(), label))
    shown, rest = words[:MOST_BARS], words[MOST_BARS:]
    if all(label.isdigit() for label in shown):
        shown.sort(key=int)
    bars: list[tuple[str, Mapping[str, int]]] = [(label, groups[label]) for label in shown]
    if rest:
        bars.append((f"{len(rest)} others", sum((groups[label] for label in rest), Counter[str]())))
    if UNKNOWN in groups:
        bars.append((UNKNOWN, groups[UNKNOWN]))
    return CohortFigure(title, bars)


def _describe(name: str, members: Sequence[Row]) -> dict[str, Any]:
    burdens = [row["volume"] for row in members if row["lesions"] and row["volume"] is not None]
    tracers = Counter(row["tracer"] or UNKNOWN for row in members)
    return {
        "name": name,
        "cases": len(members),
        "patients": len({row["patient"] for row in members}),
        "empty": f"{100 * sum(not row['lesions'] for row in members) / len(members):.1f} %",
        "tracers": ", ".join(f"{show_tracer(tracer)} {count}" for tracer, count in sorted(tracers.items())),
        "volume": f"{median(burdens):.4g}" if burdens else "-",
    }


def _series(tracer: str | None) -> str:
    return tracer if tracer in SERIES else "other"


def _show_spacing(spacing: Sequence[float] | None) -> str | None:
    return None if spacing is None else " x ".join(f"{s:.3g}" for s in spacing)

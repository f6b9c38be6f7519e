"""Foreground and background clicks on arrays in memory, compared with the published approach and a plain assembly."""

from typing import Any

import numpy as np

from benchmarks import rivals
from benchmarks.bench_data import BenchCase, all_cases
from benchmarks.result_table import Section, absent, at_most, faster, show_time
from benchmarks.timing import Time, measure, once
from clicksim import simulate_clicks
from clicksim.lesions import find_lesions
from clicksim.prompts import Prompts

TEXT = """Ten foreground and ten background clicks of one case, from arrays in memory. "published approach" computes a
distance transform of the whole volume for each click. {how} "plain assembly" uses cc3d for components, scipy for their
boxes, `edt` or scipy (the faster of the two) for distances in the box plus one voxel, and a partition for the
percentile. {equal}"""
ESTIMATE = (
    "This run executed its labelling, its percentile and one distance transform; the row multiplies the time of the "
    "transform by the number of clicks."
)
FULL = "This run executed it once to its end."


def run(*, full: bool, quick: bool) -> list[Section]:
    cases, missing = all_cases(quick=quick)
    rows: list[Any] = []
    facts: list[str] = []
    for case in cases:
        found, fact = _rows(case, full=full or quick, rounds=3 if quick else 40)
        rows += found
        facts.append(fact)
    if missing:
        rows.append(absent("autopet-iv@1, case B", missing))
    how = FULL if full or quick else ESTIMATE
    text = TEXT.format(how=how, equal=" ".join(facts))
    return [Section("Clicks", text, rows=rows)]


def as_plain(prompts: Prompts) -> rivals.Clicks:
    return {"tumor": prompts.foreground.tolist(), "background": prompts.background.tolist()}


def _rows(case: BenchCase, *, full: bool, rounds: int) -> tuple[list[list[str]], str]:
    """The rows of one case, and a sentence about what was equal."""

    def clicksim(protocol: str) -> Prompts:
        return simulate_clicks(case.labels, uptake=case.uptake, spacing=case.spacing, protocol=protocol)

    ours = as_plain(clicksim("autopet-iv@1"))
    for distance in (rivals.by_edt, rivals.by_scipy):
        rivals.check_equal(ours, rivals.plain_assembly(case.labels, case.uptake, distance=distance), case.name)
    quick = measure(
        {
            "autopet-iv@1": lambda: clicksim("autopet-iv@1"),
            "autopet-iv@2": lambda: clicksim("autopet-iv@2"),
            "max": case.uptake.max,
        },
        rounds=rounds,
        warm_up=2,
    )
    slow = measure(
        {
            "edt": lambda: rivals.plain_assembly(case.labels, case.uptake, distance=rivals.by_edt),
            "scipy": lambda: rivals.plain_assembly(case.labels, case.uptake, distance=rivals.by_scipy),
        },
        rounds=5,
        warm_up=0,  # both ran above
    )
    assembly = "edt" if slow["edt"].best <= slow["scipy"].best else "scipy"
    published, name = (_run_published if full else _estimate_published)(case, ours)
    first, second, max_pass = quick["autopet-iv@1"], quick["autopet-iv@2"], quick["max"]
    work = f"autopet-iv@1, case {case.name}"
    rows = [
        faster(work, first, name, published, bar=400, aim=1000),
        faster(work, first, f"plain assembly, {assembly}", slow[assembly], bar=3),
        at_most(f"{work}, in passes", first, "`uptake.max()`", max_pass, aim=8),
        faster(f"autopet-iv@2, case {case.name}", second, f"plain assembly of @1, {assembly}", slow[assembly]),
        at_most(f"autopet-iv@2, case {case.name}, in passes", second, "`uptake.max()`", max_pass),
    ]
    return rows, _facts(case, ours, first, full=full)


def _facts(case: BenchCase, ours: rivals.Clicks, time: Time, *, full: bool) -> str:
    """A sentence: the numbers of components, what was equal, and the rate."""
    lesions = len(find_lesions(case.labels, instances="touching"))
    hot = int(rivals.label(rivals.hot_by_partition(case.labels, case.uptake)).max())
    clicks = sum(len(places) for places in ours.values())
    which = "of all three" if full else "of clicksim and the assembly and the first click of the published approach"
    rate = case.voxels / time.best / 1e6
    return (
        f"Case {case.name}: {lesions} lesions, {hot} hot components, {rate:,.0f} million voxels per second. "
        f"The {clicks} clicks {which} were equal in this run."
    )


def _run_published(case: BenchCase, ours: rivals.Clicks) -> tuple[float, str]:
    seconds, answer = once(lambda: rivals.whole_volume(case.labels, case.uptake))
    rivals.check_equal(ours, answer, case.name)
    return seconds, "published approach"


def _estimate_published(case: BenchCase, ours: rivals.Clicks) -> tuple[float, str]:
    """Labelling and percentile as they are, plus one whole-volume distance transform per click."""
    labelling, numbers = once(lambda: rivals.label(case.labels))
    hot_seconds, _ = once(lambda: rivals.label(rivals.hot_by_percentile(case.labels, case.uptake)))
    first = int(np.random.RandomState(42).permutation(int(numbers.max()))[0]) + 1
    component = numbers == first
    seconds, depth = once(lambda: rivals.whole_depth(component))
    centre = [int(v) for v in np.unravel_index(int(np.argmax(depth)), depth.shape)]
    rivals.check_equal({"tumor": ours["tumor"][:1]}, {"tumor": [centre]}, case.name)
    clicks = sum(len(places) for places in ours.values())
    name = f"published approach, estimate: {clicks} distance transforms of {show_time(seconds)}"
    return labelling + hot_seconds + clicks * seconds, name

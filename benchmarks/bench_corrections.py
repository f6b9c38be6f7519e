"""Corrections, scribbles, metrics and the own cost of a round, compared with plain assemblies of scipy and cc3d."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench_data import BenchCase, all_cases, case_a, case_spacing, phantom, show_shape
from benchmarks.correction_rivals import Mask, plain_click, plain_iv, plain_scores, plain_scribbles, plain_stroke
from benchmarks.result_table import HEADER, Section, faster, within
from benchmarks.rivals import check_equal
from benchmarks.timing import Time, measure
from clicksim import Grid, KeptRegions, correct, score, simulate_scribbles
from clicksim.predictors import Scan
from clicksim.prompts import Prompts
from clicksim.rounds import RoundsCase as Played
from clicksim.rounds import play

TEXT = """One prompt from the errors of a prediction. The prediction is the truth moved by one voxel, with a lesion
removed and a block added. "plain click" is `scipy.ndimage.label` of both error maps, a distance transform of the
largest part over the whole patch, and its maximum. "plain stroke" uses scipy to search both error maps slice by slice
for the largest 8-connected part, as the published loop does. Both sides draw the stroke in that slice with the same
code, so the row compares only the search. The rivals gave the same voxels in this run. The last row requests a click in
one solid region of {voxels} wrong voxels. Earlier rounds have clicked its deepest voxels, but the prediction has not
changed there. The row compares keeping the earlier measurements with measuring again."""
SCRIBBLES = """Strokes in and around the lesions of a label. "plain assembly" uses cc3d for the components, two steps of
scipy's dilation of the whole volume for the shell, and a sum per slice to find the slice with most voxels. Both sides
draw the strokes in the slices with the same code. The voxels were equal in this run."""
METRICS = """Dice, false-positive and false-negative volume, and lesion F1 of a prediction on the grid of case A, from
masks in memory. "IV with cc3d" computes Dice and both volumes. "V with cc3d" also computes lesion F1, by a table of
overlaps, in the joint box of both masks. All numbers were equal in this run."""
ROUND = """The cost of a round without the predictor: the prompts from the errors of the last prediction, the score of
the new one, and the row. Arrays are in memory, with {shape} voxels. The rival is the plain stroke followed by "V with
cc3d". The bar is an absolute time."""


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    rounds = 2 if quick else 10
    case = case_a(quick=quick)
    return [
        _corrections(case, quick=quick, rounds=rounds),
        Section("Scribbles", SCRIBBLES, HEADER, _scribbles(quick=quick, rounds=rounds)),
        Section("Metrics", METRICS, HEADER, _metrics(case, rounds=rounds)),
        _round(quick=quick, rounds=rounds),
    ]


def wrong(labels: Mask) -> Mask:
    """A prediction with all kinds of error: it is moved by one voxel, its first lesion is removed, a block is added."""
    moved = np.asfortranarray(np.roll(labels != 0, 1, axis=0).astype(np.uint8))
    where = np.argwhere(labels)
    if len(where):
        first = where[np.lexsort(where.T)[0]]
        moved[tuple(slice(max(v - 6, 0), v + 7) for v in first)] = 0
    side = [max(n // 16, 3) for n in labels.shape]
    moved[tuple(slice(3, 3 + n) for n in side)] = 1
    return moved


# corrections


def _corrections(case: BenchCase, *, quick: bool, rounds: int) -> Section:
    row, voxels = _kept(case, rounds=rounds)
    rows = [*_click(quick=quick, rounds=rounds), _stroke(case, rounds=rounds), row]
    return Section("Corrections", TEXT.format(voxels=f"{voxels:,}"), HEADER, rows)


def _click(*, quick: bool, rounds: int) -> list[list[str]]:
    side = 24 if quick else 192
    truth = _balls(side)
    prediction = wrong(truth)
    spacing = (2.0, 2.0, 3.0)

    def clicksim() -> Any:
        return correct(prediction, truth, spacing=spacing, kind="click")

    (ours,) = clicksim()
    theirs = plain_click(prediction, truth, spacing)
    check_equal((ours.voxel, ours.foreground), theirs, "click")
    quickest = measure({"click": clicksim}, rounds=4 * rounds, warm_up=2)["click"]
    slow = measure({"plain": lambda: plain_click(prediction, truth, spacing)}, rounds=2, warm_up=0)["plain"]
    work = f"one corrective click, {side}^3"
    return [within(work, quickest, "plain click", slow, bar_s=0.01), faster(work, quickest, "plain click", slow)]


def _balls(side: int) -> Mask:
    """A patch with twelve balls, or with three if it is small."""
    draws = np.random.default_rng(3)
    grid = np.ogrid[tuple(slice(0, side) for _ in range(3))]
    truth = np.zeros((side,) * 3, np.uint8, order="F")
    for _ in range(3 if side < 100 else 12):
        centre, radius = draws.uniform(0.1 * side, 0.9 * side, 3), draws.uniform(0.02, 0.06) * side + 1
        truth[sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2] = 1
    return truth


def _stroke(case: BenchCase, *, rounds: int) -> list[str]:
    truth = (case.labels != 0).astype(np.uint8, order="K")
    prediction = wrong(truth)
    (ours,) = correct(prediction, truth, protocol="autopet-v@1")
    check_equal((ours.foreground, [list(v) for v in ours.voxels]), plain_stroke(prediction, truth), "stroke")
    quickest = measure({"stroke": lambda: correct(prediction, truth, protocol="autopet-v@1")}, rounds=2 * rounds)
    slow = measure({"plain": lambda: plain_stroke(prediction, truth)}, rounds=3, warm_up=0)["plain"]
    work = f"one corrective scribble, case {case.name[0]}'s grid"
    return faster(work, quickest["stroke"], "plain stroke", slow, bar=5)


def _kept(case: BenchCase, *, rounds: int) -> tuple[list[str], int]:
    """A later click in an error that does not change, and the number of voxels of the error."""
    truth: Mask = np.zeros(case.labels.shape, np.uint8, order="F")
    truth[tuple(slice(n // 4, n // 4 + int(0.46 * n)) for n in truth.shape)] = 1
    prediction = np.zeros_like(truth)
    kept, so_far = KeptRegions(), Prompts((), Grid(truth.shape, case.spacing))
    for number in (1, 2):
        found = correct(prediction, truth, spacing=case.spacing, kind="click", round=number, previous=so_far, kept=kept)
        so_far = replace(so_far, items=so_far.items + found.items)
    ask = partial(correct, prediction, truth, spacing=case.spacing, kind="click", round=3, previous=so_far)
    if ask(kept=kept) != ask():
        raise RuntimeError("the kept measurements changed a click")
    found_times = measure({"kept": partial(ask, kept=kept), "again": ask}, rounds=max(rounds // 3, 2))
    work = "a later click in a large unchanged error"
    return faster(work, found_times["kept"], "measured again", found_times["again"]), int(truth.sum())


# scribbles from a label


def _scribbles(*, quick: bool, rounds: int) -> list[list[str]]:
    rows = []
    for case in all_cases(quick=quick)[0]:
        truth = np.asfortranarray((case.labels != 0).astype(np.uint8))
        ours = simulate_scribbles(truth, protocol="autopet-v@1")
        theirs = plain_scribbles(truth)
        check_equal((ours.foreground.tolist(), ours.background.tolist()), theirs, f"scribbles, {case.name}")
        works = {
            "@1": partial(simulate_scribbles, truth, protocol="autopet-v@1"),
            "@2": partial(simulate_scribbles, truth, spacing=case.spacing, case_id="a"),
        }
        quickest = measure(works, rounds=2 * rounds)
        slow = measure({"plain": partial(plain_scribbles, truth)}, rounds=2, warm_up=0)["plain"]
        rows.append(faster(f"autopet-v@1, case {case.name}", quickest["@1"], "plain assembly", slow, bar=5))
        rows.append(faster(f"autopet-v@2, case {case.name}", quickest["@2"], "plain assembly of @1", slow))
    return rows


# metrics


def _metrics(case: BenchCase, *, rounds: int) -> list[list[str]]:
    truth = np.asfortranarray((case.labels != 0).astype(np.uint8))
    prediction = wrong(truth)
    ours = score(prediction, truth, spacing=case.spacing)
    theirs = plain_scores(prediction, truth, case.spacing)
    for name, value in theirs.items():
        if not math.isclose(getattr(ours, name), value, rel_tol=1e-12):
            raise RuntimeError(f"clicksim and its rival differ in {name}: {getattr(ours, name)} and {value}")
    works = {
        "ours": lambda: score(prediction, truth, spacing=case.spacing),
        "IV with cc3d": lambda: plain_iv(prediction, truth, case.spacing),
        "V with cc3d": lambda: plain_scores(prediction, truth, case.spacing),
    }
    found = measure(works, rounds=rounds)
    work = f"Dice, FPV, FNV, DMM, case {case.name[0]}'s grid"
    quicker, other = sorted(("IV with cc3d", "V with cc3d"), key=lambda name: found[name].best)
    return [
        faster(work, found["ours"], quicker, found[quicker], bar=5),
        faster(work, found["ours"], other, found[other]),
    ]


# a round


def _round(*, quick: bool, rounds: int) -> Section:
    made = phantom(11, quick=quick)
    truth = np.asfortranarray((made.label != 0).astype(np.uint8))
    prediction = wrong(truth)
    spacing = case_spacing(made.grid)
    case = Played(Scan("a", Grid(truth.shape, spacing, made.grid.affine)), truth)
    rows = []
    slow = measure(
        {"plain": lambda: (plain_stroke(prediction, truth), plain_scores(prediction, truth, spacing))}, rounds=2
    )["plain"]
    for protocol in ("autopet-v@1", "autopet-v@2"):
        ours = _own_cost(case, prediction, protocol, rounds)
        rows.append(within(f"own cost of a round, {protocol}", ours, "plain stroke and scores", slow, bar_s=0.15))
    return Section("A round's own cost", ROUND.format(shape=show_shape(truth.shape)), HEADER, rows)


def _own_cost(case: Played, prediction: Mask, protocol: str, rounds: int) -> Time:
    """The time that the loop reports for everything but the predictor, over the rounds with prompts."""

    def predict(case: Scan, prompts: Prompts) -> Mask:  # noqa: ARG001 - the same wrong answer in every round
        return prediction

    seconds: list[float] = []
    play(case, predict, protocol=protocol)
    for _ in range(max(rounds // 3, 1)):
        game = play(case, predict, protocol=protocol)
        if not all(row["inferred"] for row in game.rows):
            raise RuntimeError("the rounds ended too early")
        seconds += [own for _, own in game.seconds[1:]]
    return Time.of(seconds)

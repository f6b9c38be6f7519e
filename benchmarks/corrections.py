"""Corrections, scribbles, metrics and a round's own cost, against plain assemblies of scipy and cc3d."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, all_cases, case_a, phantom
from benchmarks.measure import Time, measure
from benchmarks.table import HEADER, Section, faster, within
from clicksim import Grid, KeptRegions, correct, score, simulate_scribbles
from clicksim.geometry import Spacing
from clicksim.prompts import Prompts
from clicksim.rounds import Case as Played
from clicksim.rounds import Scan, play
from clicksim.simulate.strokes import STROKES

Mask = NDArray[np.uint8]
Scores = Mapping[str, float]

TEXT = """One prompt from the errors of a prediction: the truth moved by one voxel, with a lesion left out and a block
added. "plain click" is `scipy.ndimage.label` of both error maps, a distance transform of the largest part over the
whole patch, and its maximum. "plain stroke" looks for the largest 8-connected part of both error maps slice by slice
with scipy, as the published loop does; the stroke in that slice is drawn by the same code on both sides, so that the
row compares the way to it. The rivals gave the same voxels in this run. The last row asks for a click in one solid
region of {voxels} wrong voxels whose deepest ones were clicked before and which nobody mended, with what earlier rounds
measured of it kept, and without."""
SCRIBBLES = """Strokes in and around the lesions of a label. "plain assembly" is cc3d for the components, two steps of
scipy's dilation of the whole volume for the shell, and a sum over slices for the fullest one; the strokes in the slices
are drawn by the same code on both sides. The voxels were equal in this run."""
METRICS = """Dice, false-positive and false-negative volume, and lesion F1 of a prediction on the grid of case A, from
masks in memory. "IV with cc3d" makes Dice and both volumes, "V with cc3d" lesion F1 by a table of overlaps as well, in
the joint box of both masks; all numbers were equal in this run."""
ROUND = """All that a round costs beside the predictor: the prompts from the errors of the last prediction, the score of
the new one, and the row, with arrays in memory, on {shape} voxels. The rival is the plain stroke and "V with cc3d" one
after the other. The bar is an absolute time."""


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
    """A prediction with all kinds of error: moved by one voxel, its first lesion gone, a block too much."""
    moved = np.asfortranarray(np.roll(labels != 0, 1, axis=0).astype(np.uint8))
    where = np.argwhere(labels)
    if len(where):
        first = where[np.lexsort(where.T)[0]]
        moved[tuple(slice(max(v - 6, 0), v + 7) for v in first)] = 0
    side = [max(n // 16, 3) for n in labels.shape]
    moved[tuple(slice(3, 3 + n) for n in side)] = 1
    return moved


# corrections


def _corrections(case: Case, *, quick: bool, rounds: int) -> Section:
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
    theirs = _plain_click(prediction, truth, spacing)
    _check_equal((ours.voxel, ours.foreground), theirs, "click")
    quickest = measure({"click": clicksim}, rounds=4 * rounds, warm_up=2)["click"]
    slow = measure({"plain": lambda: _plain_click(prediction, truth, spacing)}, rounds=2, warm_up=0)["plain"]
    work = f"one corrective click, {side}^3"
    return [within(work, quickest, "plain click", slow, bar_s=0.01), faster(work, quickest, "plain click", slow)]


def _balls(side: int) -> Mask:
    """A patch with twelve balls; three in a small one."""
    draws = np.random.default_rng(3)
    grid = np.ogrid[tuple(slice(0, side) for _ in range(3))]
    truth = np.zeros((side,) * 3, np.uint8, order="F")
    for _ in range(3 if side < 100 else 12):
        centre, radius = draws.uniform(0.1 * side, 0.9 * side, 3), draws.uniform(0.02, 0.06) * side + 1
        truth[sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2] = 1
    return truth


def _plain_click(prediction: Mask, truth: Mask, spacing: Spacing) -> tuple[tuple[int, ...], bool]:
    from scipy import ndimage

    best: tuple[int, NDArray[Any], bool] | None = None
    for foreground, errors in ((True, (truth != 0) & (prediction == 0)), (False, (prediction != 0) & (truth == 0))):
        parts, count = ndimage.label(errors, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(order="K"), minlength=count + 1)[1:]
        if count and (best is None or sizes.max() > best[0]):
            best = (int(sizes.max()), parts == 1 + int(np.argmax(sizes)), foreground)
    assert best is not None
    depth = ndimage.distance_transform_edt(np.pad(best[1], 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    return tuple(int(v) for v in np.unravel_index(int(np.argmax(depth)), depth.shape)), best[2]


def _stroke(case: Case, *, rounds: int) -> list[str]:
    truth = (case.labels != 0).astype(np.uint8, order="K")
    prediction = wrong(truth)
    (ours,) = correct(prediction, truth, protocol="autopet-v@1")
    _check_equal((ours.foreground, [list(v) for v in ours.voxels]), _plain_stroke(prediction, truth), "stroke")
    quickest = measure({"stroke": lambda: correct(prediction, truth, protocol="autopet-v@1")}, rounds=2 * rounds)
    slow = measure({"plain": lambda: _plain_stroke(prediction, truth)}, rounds=3, warm_up=0)["plain"]
    work = f"one corrective scribble, case {case.name[0]}'s grid"
    return faster(work, quickest["stroke"], "plain stroke", slow, bar=5)


def _kept(case: Case, *, rounds: int) -> tuple[list[str], int]:
    """A later click in an error that stays as it is, and the voxels of the error."""
    truth = np.zeros(case.labels.shape, np.uint8, order="F")
    truth[tuple(slice(n // 4, n // 4 + int(0.46 * n)) for n in truth.shape)] = 1
    prediction = np.zeros_like(truth)
    kept, so_far = KeptRegions(), Prompts((), Grid(truth.shape, case.spacing))
    for number in (1, 2):
        found = correct(prediction, truth, spacing=case.spacing, kind="click", round=number, previous=so_far, kept=kept)
        so_far = replace(so_far, items=so_far.items + found.items)
    ask = partial(correct, prediction, truth, spacing=case.spacing, kind="click", round=3, previous=so_far)
    if ask(kept=kept) != ask():
        raise AssertionError("what is kept changed a click")
    found_times = measure({"kept": partial(ask, kept=kept), "anew": ask}, rounds=max(rounds // 3, 2))
    work = "a later click in a large error that stays"
    return faster(work, found_times["kept"], "measured anew", found_times["anew"]), int(truth.sum())


def _plain_stroke(prediction: Mask, truth: Mask) -> tuple[bool, list[list[int]]]:
    strokes = {}
    for foreground, errors in ((True, (truth != 0) & (prediction == 0)), (False, (prediction != 0) & (truth == 0))):
        strokes[foreground] = _stroke_in(_largest_slice(errors))
    foreground = len(strokes[False]) <= len(strokes[True])
    return foreground, strokes[foreground]


def _largest_slice(errors: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The slice with the largest 8-connected part of any slice, and that part."""
    from scipy import ndimage

    best = (0, 0, np.zeros(errors.shape[:2], dtype=bool))
    for k in range(errors.shape[2]):
        if not errors[:, :, k].any():
            continue
        parts, _ = ndimage.label(errors[:, :, k].T, np.ones((3, 3)))  # the first pixel with i fastest comes first
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > best[0]:
            best = (int(sizes.max()), k, (parts == 1 + int(np.argmax(sizes))).T)
    return best[1], best[2]


def _stroke_in(place: tuple[int, NDArray[np.bool_]]) -> list[list[int]]:
    k, mask = place
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    corner = np.maximum([rows[0] - 1, columns[0] - 1], 0)
    crop = mask[corner[0] : rows[-1] + 2, corner[1] : columns[-1] + 2]
    pixels = STROKES["centerline"](np.ascontiguousarray(crop, dtype=np.uint8), 42)
    return sorted([int(i), int(j), k] for i, j in pixels + corner)


# scribbles from a label


def _scribbles(*, quick: bool, rounds: int) -> list[list[str]]:
    rows = []
    for case in all_cases(quick=quick)[0]:
        truth = np.asfortranarray((case.labels != 0).astype(np.uint8))
        ours = simulate_scribbles(truth, protocol="autopet-v@1")
        theirs = _plain_scribbles(truth)
        _check_equal((ours.foreground.tolist(), ours.background.tolist()), theirs, f"scribbles, {case.name}")
        works = {
            "@1": partial(simulate_scribbles, truth, protocol="autopet-v@1"),
            "@2": partial(simulate_scribbles, truth, spacing=case.spacing, case_id="a"),
        }
        quickest = measure(works, rounds=2 * rounds)
        slow = measure({"plain": partial(_plain_scribbles, truth)}, rounds=2, warm_up=0)["plain"]
        rows.append(faster(f"autopet-v@1, case {case.name}", quickest["@1"], "plain assembly", slow, bar=5))
        rows.append(faster(f"autopet-v@2, case {case.name}", quickest["@2"], "plain assembly of @1", slow))
    return rows


def _plain_scribbles(truth: Mask) -> tuple[list[list[int]], list[list[int]]]:
    import random

    import cc3d
    from scipy import ndimage

    lesions = cc3d.connected_components(truth, connectivity=26)
    shell = ndimage.binary_dilation(truth, iterations=2) & (truth == 0)
    around = cc3d.connected_components(np.ascontiguousarray(shell), connectivity=26)
    strokes = []
    for parts in (lesions, around):
        numbers = _by_first_voxel(parts, order="F" if parts is lesions else "C")
        chosen = random.Random(42).sample(range(len(numbers)), min(5, len(numbers)))
        boxes = ndimage.find_objects(parts)
        voxels: set[tuple[int, int, int]] = set()
        for n in chosen:
            voxels |= _fullest_stroke(parts, int(numbers[n]), boxes[int(numbers[n]) - 1])
        strokes.append([list(voxel) for voxel in sorted(voxels)])
    return strokes[0], strokes[1]


def _by_first_voxel(parts: NDArray[Any], order: Any) -> NDArray[np.int64]:
    """The numbers of the components in the order of their first voxels."""
    places = np.flatnonzero(parts.ravel(order=order))
    numbers, first = np.unique(parts.ravel(order=order)[places], return_index=True)
    return np.asarray(numbers[np.argsort(first)])


def _fullest_stroke(parts: NDArray[Any], number: int, box: tuple[slice, ...]) -> set[tuple[int, int, int]]:
    """The stroke in the slice that holds most of a component."""
    crop = parts[box] == number
    k = int(np.argmax(crop.sum(axis=(0, 1))))
    flat = np.zeros(parts.shape[:2], dtype=bool)
    flat[box[0], box[1]] = crop[:, :, k]
    return {(v[0], v[1], v[2]) for v in _stroke_in((box[2].start + k, flat))}


# metrics


def _metrics(case: Case, *, rounds: int) -> list[list[str]]:
    truth = np.asfortranarray((case.labels != 0).astype(np.uint8))
    prediction = wrong(truth)
    ours = score(prediction, truth, spacing=case.spacing)
    theirs = _plain_scores(prediction, truth, case.spacing)
    for name, value in theirs.items():
        if not math.isclose(getattr(ours, name), value, rel_tol=1e-12):
            raise AssertionError(f"clicksim and its rival differ in {name}: {getattr(ours, name)} and {value}")
    works = {
        "ours": lambda: score(prediction, truth, spacing=case.spacing),
        "IV with cc3d": lambda: _plain_iv(prediction, truth, case.spacing),
        "V with cc3d": lambda: _plain_scores(prediction, truth, case.spacing),
    }
    found = measure(works, rounds=rounds)
    work = f"Dice, FPV, FNV, DMM, case {case.name[0]}'s grid"
    quicker = min(("IV with cc3d", "V with cc3d"), key=lambda name: found[name].best)
    other = "V with cc3d" if quicker == "IV with cc3d" else "IV with cc3d"
    return [
        faster(work, found["ours"], quicker, found[quicker], bar=5),
        faster(work, found["ours"], other, found[other]),
    ]


def _plain_iv(prediction: Mask, truth: Mask, spacing: Spacing) -> Scores:
    """Dice and both volumes over the whole volume."""
    import cc3d

    voxel_ml = math.prod(spacing) / 1000
    common = int(np.count_nonzero(prediction & truth))
    dice = 2 * common / (int(prediction.sum()) + int(truth.sum()))
    volumes = []
    for one, other in ((prediction, truth), (truth, prediction)):
        parts = cc3d.connected_components(one, connectivity=18)
        sizes = np.bincount(parts.ravel(order="K"))
        met = np.bincount(parts[other != 0], minlength=len(sizes)) > 0
        volumes.append(float(sizes[1:][~met[1:]].sum()) * voxel_ml)
    return {"dice": dice, "fpv_ml": volumes[0], "fnv_ml": volumes[1]}


def _plain_scores(prediction: Mask, truth: Mask, spacing: Spacing) -> Scores:
    """The same in the joint box, and lesion F1 at an IoU of 0.1."""
    import cc3d

    box = _joint_box(prediction, truth)
    predicted, true = (np.asfortranarray(mask[box]) for mask in (prediction, truth))
    parts = [cc3d.connected_components(mask, connectivity=18) for mask in (true, predicted)]
    sizes = [np.bincount(part.ravel(order="K")) for part in parts]
    both = (true != 0) & (predicted != 0)
    pairs, common = np.unique(np.stack([part[both] for part in parts]), axis=1, return_counts=True)
    union = sizes[0][pairs[0]] + sizes[1][pairs[1]] - common
    match = common / union >= 0.1
    tp = len(np.unique(pairs[0][match]))
    fn, fp = len(sizes[0]) - 1 - tp, len(sizes[1]) - 1 - len(np.unique(pairs[1][match]))
    voxel_ml = math.prod(spacing) / 1000
    alone = [
        float(size[1:].sum() - size[np.unique(pair)].sum()) * voxel_ml for size, pair in zip(sizes, pairs, strict=True)
    ]
    return {
        "dice": 2 * int(common.sum()) / int(sizes[0][1:].sum() + sizes[1][1:].sum()),
        "dmm": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "fpv_ml": alone[1],
        "fnv_ml": alone[0],
    }


def _joint_box(prediction: Mask, truth: Mask) -> tuple[slice, ...]:
    either = (prediction | truth) != 0
    box = []
    for axis in range(3):
        places = np.flatnonzero(either.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(places[0]) - 2, 0), int(places[-1]) + 3))
    return tuple(box)


# a round


def _round(*, quick: bool, rounds: int) -> Section:
    made = phantom(11, quick=quick)
    truth = np.asfortranarray((made.label != 0).astype(np.uint8))
    prediction = wrong(truth)
    spacing = made.grid.spacing or (2.0, 2.0, 3.0)
    case = Played(Scan("a", Grid(truth.shape, spacing, made.grid.affine)), truth)
    rows = []
    slow = measure(
        {"plain": lambda: (_plain_stroke(prediction, truth), _plain_scores(prediction, truth, spacing))}, rounds=2
    )["plain"]
    for protocol in ("autopet-v@1", "autopet-v@2"):
        ours = _own_cost(case, prediction, protocol, rounds)
        rows.append(within(f"own cost of a round, {protocol}", ours, "plain stroke and scores", slow, bar_s=0.15))
    return Section("A round's own cost", ROUND.format(shape=" x ".join(map(str, truth.shape))), HEADER, rows)


def _own_cost(case: Played, prediction: Mask, protocol: str, rounds: int) -> Time:
    """What the loop says of all but the predictor, over the rounds with prompts."""

    def predict(case: Scan, prompts: Prompts) -> Mask:  # noqa: ARG001 - the same wrong answer in every round
        return prediction

    seconds: list[float] = []
    play(case, predict, protocol=protocol)
    for _ in range(max(rounds // 3, 1)):
        game = play(case, predict, protocol=protocol)
        assert all(row["inferred"] for row in game.rows)
        seconds += [own for _, own in game.seconds[1:]]
    return Time.of(seconds)


def _check_equal(ours: Any, theirs: Any, what: str) -> None:
    """Rivals that give other prompts are no rivals."""
    if ours != theirs:
        raise AssertionError(f"clicksim and its rival differ ({what}): {ours} and {theirs}")

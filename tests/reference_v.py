"""Slow twins of the published scribbles, corrections and scores (autoPET V), and of the scores of autoPET IV.

Written from the text of the rules: whole volumes, lists of pixels, loops over pairs, no compiled code. The layout of
an array never changes an answer.
"""

import math
import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tests.reference import components

Pixel = tuple[int, int]
RING = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]  # NW N NE E SE S SW W: weights 1 to 128
AROUND = [step for step in product((-1, 0, 1), (-1, 0, 1)) if step != (0, 0)]  # row by row
KEEP = {48, 129}
FIRST_ONLY = {3, 6, 11, 12, 14, 131, 134, 161, 194, 198}
SECOND_ONLY = {24, 26, 56, 96, 104, 108, 176, 192, 224}
BOTH = {10, 40, 130, 160}


def pixels_of(mask: ArrayLike) -> list[Pixel]:
    """The pixels of a mask, row by row."""
    return [(int(r), int(c)) for r, c in np.argwhere(np.asarray(mask) != 0)]


def thin(mask: ArrayLike) -> set[Pixel]:
    """The skeleton: two subiterations, each on a frozen image, until a double pass deletes nothing."""
    left = set(pixels_of(mask))
    while True:
        before = set(left)
        for subiteration in (1, 2):
            frozen = set(left)
            left = {pixel for pixel in frozen if not _goes(pixel, frozen, subiteration)}
        if left == before:
            return left


def _goes(pixel: Pixel, image: set[Pixel], subiteration: int) -> bool:
    on = [(pixel[0] + dr, pixel[1] + dc) in image for dr, dc in RING]
    code = sum(1 << bit for bit in range(8) if on[bit])
    if code in KEEP:
        return False
    if code in FIRST_ONLY | SECOND_ONLY | BOTH:
        return code in BOTH or (code in FIRST_ONLY) == (subiteration == 1)
    _, n, _, e, _, s, _, w = on
    rises = sum(not on[bit] and on[(bit + 1) % 8] for bit in range(8))
    if not (2 <= sum(on) <= 6 and rises == 1):
        return False
    if subiteration == 1:
        return not (n and e and s) and not (e and s and w)
    return not (n and e and w) and not (n and s and w)


def parts(pixels: set[Pixel]) -> list[list[Pixel]]:
    """8-connected parts by their first pixel row by row; pixels of each row by row."""
    left, out = set(pixels), []
    for seed in sorted(pixels):
        if seed not in left:
            continue
        left.remove(seed)
        part, waiting = [seed], [seed]
        while waiting:
            r, c = waiting.pop()
            for dr, dc in AROUND:
                if (r + dr, c + dc) in left:
                    left.remove((r + dr, c + dc))
                    part.append((r + dr, c + dc))
                    waiting.append((r + dr, c + dc))
        out.append(sorted(part))
    return out


def shortest_path(pixels: set[Pixel], first: Pixel, last: Pixel) -> list[Pixel] | None:
    """Search from both ends; the side of the first expands while its frontier is not the larger one."""
    came: list[dict[Pixel, Pixel | None]] = [{first: None}, {last: None}]
    fronts = [[first], [last]]
    while fronts[0] and fronts[1]:
        side = 0 if len(fronts[0]) <= len(fronts[1]) else 1
        level, fronts[side] = fronts[side], []
        for r, c in level:
            for dr, dc in AROUND:
                other = (r + dr, c + dc)
                if other not in pixels:
                    continue
                if other not in came[side]:
                    came[side][other] = (r, c)
                    fronts[side].append(other)
                if other in came[1 - side]:
                    return _chain(came[0], other)[::-1] + _chain(came[1], other)[1:]
    return None


def _chain(came: dict[Pixel, Pixel | None], pixel: Pixel | None) -> list[Pixel]:
    out = []
    while pixel is not None:
        out.append(pixel)
        pixel = came[pixel]
    return out


def line(r: int, c: int, r1: int, c1: int) -> list[Pixel]:
    """The digital line with an integer error term; steps of minus one where the difference is not positive."""
    dr, dc = abs(r1 - r), abs(c1 - c)
    sr, sc = (1 if r1 > r else -1), (1 if c1 > c else -1)
    out = []
    if dr > dc:
        d = 2 * dc - dr
        for _ in range(dr):
            out.append((r, c))
            while d >= 0:
                c, d = c + sc, d - 2 * dr
            r, d = r + sr, d + 2 * dc
    else:
        d = 2 * dr - dc
        for _ in range(dc):
            out.append((r, c))
            while d >= 0:
                r, d = r + sr, d - 2 * dc
            c, d = c + sc, d + 2 * dr
    return [*out, (r1, c1)]


def rim(mask: ArrayLike) -> list[Pixel]:
    """Pixels with a 4-neighbour in the image that is outside the mask."""
    array = np.asarray(mask) != 0
    inside = set(pixels_of(array))

    def open_to(r: int, c: int) -> bool:
        return 0 <= r < array.shape[0] and 0 <= c < array.shape[1] and (r, c) not in inside

    crosses = {(r, c): [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)] for r, c in pixels_of(array)}
    return [pixel for pixel, cross in crosses.items() if any(open_to(*other) for other in cross)]


def walk(pixels: list[Pixel], start: Pixel, steps: int) -> list[Pixel]:
    """To the first neighbour not visited, row by row, at most so many steps."""
    out = [start]
    for _ in range(steps):
        r, c = out[-1]
        ahead = [(r + dr, c + dc) for dr, dc in AROUND if (r + dr, c + dc) in pixels and (r + dr, c + dc) not in out]
        if not ahead:
            break
        out.append(ahead[0])
    return out


def centerline(mask: ArrayLike, seed: int = 42) -> list[Pixel]:
    everything = pixels_of(mask)
    skeleton = parts(thin(mask))
    if not skeleton:
        return everything
    best = max(skeleton, key=len)  # the first of the longest
    if len(best) < 2:
        return everything
    pairs = [(a, b) for a in best for b in best]
    first, last = max(pairs, key=lambda pair: (pair[0][0] - pair[1][0]) ** 2 + (pair[0][1] - pair[1][1]) ** 2)
    path = shortest_path(set(best), first, last)
    if path is None:
        return everything
    if len(path) > 10:
        path = path[int(0.1 * len(path)) : int((1 - 0.1) * len(path))]
    return [pixel for pixel in path if pixel in everything]


def random_line(mask: ArrayLike, seed: int = 42) -> list[Pixel]:
    everything = pixels_of(mask)
    if len(everything) < 2:
        return everything
    draws = random.Random(seed)
    p, q = draws.randint(0, len(everything) - 1), draws.randint(0, len(everything) - 1)
    return [pixel for pixel in line(*everything[p], *everything[q]) if pixel in everything]


def boundary(mask: ArrayLike, seed: int = 42) -> list[Pixel]:
    edge = rim(mask)
    if len(edge) < 2:
        return pixels_of(mask)
    start = edge[random.Random(seed).randint(0, len(edge) - 1)]
    return walk(edge, start, max(2, int(0.2 * len(edge))))


STRATEGIES: dict[str, Callable[..., list[Pixel]]] = {
    "centerline": centerline,
    "random": random_line,
    "boundary": boundary,
}


def scribbles_from_label(
    label: ArrayLike, *, strategy: str = "centerline", seed: int = 42, k: int = 5
) -> dict[str, list[list[int]]]:
    """autopet-v@1 from a label: components drawn with the fixed seed 42, one stroke in each one's fullest slice."""
    label = np.asarray(label).astype(np.uint8)
    ring = (ndimage.binary_dilation(label != 0, iterations=2) & (label == 0)) if label.any() else np.zeros(label.shape)
    out = {}
    for name, mask, order in (("tumor", label, "F"), ("background", ring, "C")):
        numbers, count = components(mask, 26, order)
        voxels = set()
        for number in random.Random(42).sample(range(1, count + 1), min(k, count)):
            component = numbers == number
            z = int(np.argmax(component.sum(axis=(0, 1))))
            voxels |= {(r, c, z) for r, c in STRATEGIES[strategy](component[:, :, z], seed)}
        out[name] = [list(voxel) for voxel in sorted(voxels)]
    return out


def scribble_from_mask(mask: ArrayLike, *, strategy: str = "centerline", seed: int = 42) -> list[tuple[int, int, int]]:
    """The stroke in the largest in-slice part: the first slice, then the part met first with the row fastest."""
    mask = np.asarray(mask) != 0
    best, best_size, best_z = None, 0, 0
    for z in range(mask.shape[2]):
        numbers, count = components(mask[:, :, z : z + 1], 26, "F")
        for number in range(1, count + 1):
            part = numbers[:, :, 0] == number
            if part.sum() > best_size:
                best, best_size, best_z = part, part.sum(), z
    return [] if best is None else sorted((r, c, best_z) for r, c in STRATEGIES[strategy](best, seed))


def correction(
    prediction: ArrayLike, truth: ArrayLike, *, strategy: str = "centerline", seed: int = 42
) -> tuple[str, list[list[int]]] | None:
    """The stroke that the loop keeps, and its class; None where it adds none (an empty side, or an empty truth)."""
    p, g = np.asarray(prediction) != 0, np.asarray(truth) != 0
    false, missed = (scribble_from_mask(m, strategy=strategy, seed=seed) for m in (p & ~g, g & ~p))
    if not g.any() or not false or not missed:
        return None
    if len(false) <= len(missed):
        return "tumor", [list(voxel) for voxel in missed]
    return "background", [list(voxel) for voxel in false]


def scores_iv(prediction: ArrayLike, truth: ArrayLike, spacing: tuple[float, float, float]) -> dict[str, float]:
    """9.1: raw values in the products; components of 18-connectivity, of equal value, without any overlap."""
    p, g = np.asarray(prediction).astype(np.float64), np.asarray(truth).astype(np.float64)
    ml = spacing[0] * spacing[1] * spacing[2] / 1000.0
    return {
        "dice": 2.0 * (g * p).sum() / (g.sum() + p.sum()) if g.any() else math.nan,
        "fpv_ml": sum(int(part.sum()) for part in _parts_18(p) if not (part & (g != 0)).any()) * ml,
        "fnv_ml": sum(int(part.sum()) for part in _parts_18(g) if not (part & (p != 0)).any()) * ml
        if g.any()
        else math.nan,
    }


def scores_v(prediction: ArrayLike, truth: ArrayLike, spacing: tuple[float, float, float]) -> dict[str, float]:
    """9.2: a truth with values above one is an instance map of as many lesions as its highest value."""
    p, g = np.asarray(prediction).astype(np.float64), np.asarray(truth).astype(np.float64)
    lesions = [g == n for n in range(1, int(g.max()) + 1)] if g.max() > 1 else _parts_18(g)
    predicted = _parts_18(p)
    ml = spacing[0] * spacing[1] * spacing[2] / 1000.0
    found, matched, met_lesions, met_predicted = set(), set(), set(), set()
    for a, lesion in enumerate(lesions):
        for b, part in enumerate(predicted):
            common = int((lesion & part).sum())
            if common == 0:
                continue
            met_lesions.add(a)
            met_predicted.add(b)
            if common / int((lesion | part).sum()) >= 0.1:
                found.add(a)
                matched.add(b)
    tp, fn, fp = len(found), len(lesions) - len(found), len(predicted) - len(matched)
    return scores_iv(p, g, spacing) | {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "dmm": 2 * tp / (2 * tp + fp + fn) if lesions else math.nan,
        "fpv_ml": sum(int(part.sum()) for b, part in enumerate(predicted) if b not in met_predicted) * ml,
        "fnv_ml": sum(int(part.sum()) for a, part in enumerate(lesions) if a not in met_lesions) * ml
        if lesions
        else math.nan,
    }


def scores_mended(prediction: ArrayLike, truth: ArrayLike, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Masks as masks, every distinct value of an instance map one lesion; 1 or 0 for a truth without lesions."""
    p, g = (np.asarray(prediction) != 0).astype(np.uint8), np.asarray(truth)
    values = [value for value in np.unique(g) if value != 0]
    # renumbered without gaps, so that the published count is the count of values; a single value is a mask
    g = sum(((g == value) * n for n, value in enumerate(values, start=1)), np.zeros(g.shape, int))
    out = scores_v(p, g, spacing) | {"dice": scores_iv(p, g != 0, spacing)["dice"]}
    if not g.any():
        perfect = 0.0 if p.any() else 1.0
        out |= {"dice": perfect, "dmm": perfect, "fnv_ml": 0.0}
    return out


def _parts_18(labels: NDArray[Any]) -> list[NDArray[np.bool_]]:
    """Components of 18-connectivity; touching voxels of unequal value are apart."""
    structure = ndimage.generate_binary_structure(3, 2)
    out = []
    for value in np.unique(labels):
        if value != 0:
            numbers, count = ndimage.label(labels == value, structure)
            out += [numbers == number for number in range(1, count + 1)]
    return out

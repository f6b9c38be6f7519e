"""Guidance channels on a training patch: two channels from 20 prompts, and the geodesic one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_table import HEADER, Section, at_most, faster
from benchmarks.timing import measure, once
from clicksim import Click, Grid, Prompts, encode
from clicksim.guidance.geodesic_maps import geodesic_distance

Floats = NDArray[np.float64]

TEXT = """Two channels of 20 prompts, ten of each polarity, drawn into an existing float32 buffer of {shape} voxels.
"two Gaussian filters" applies those of `scipy.ndimage` to the points, with a sigma of 3 voxels, as the autoPET IV
baseline does; `autopet-iv` equals them to {gap:.1g} of their peak in this run. "the memory write" sets the buffer to
zero and does nothing else."""
GEODESIC = """The geodesic distance to ten prompts on a patch of {shape} voxels of smoothed noise, everywhere or up to
30 mm. Half of the cost of a step comes from the image. "raster scan in NumPy" is the simple method: it sweeps planes
along each axis in both directions, one plane at a time with vector operations, until nothing changes. In this run both
give the same distances to {gap:.1g} mm, and clicksim processes {rate} million voxels per second everywhere."""
SPACING = (2.0, 2.0, 3.0)


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    side = 24 if quick else 192
    return [_channels(side, rounds=2 if quick else 20), _geodesic(side, quick=quick)]


def _channels(side: int, *, rounds: int) -> Section:
    from scipy.ndimage import gaussian_filter

    prompts = _prompts(side)
    out = np.zeros((2, side, side, side), dtype=np.float32)
    points = encode(prompts, out.shape[1:], encoding="points")

    def drawn(encoding: str, **settings: Any) -> Callable[[], Any]:
        return lambda: encode(prompts, out.shape[1:], encoding=encoding, out=out, **settings)

    def filters() -> NDArray[np.float32]:
        return np.stack([gaussian_filter(channel, 3.0) for channel in points])

    theirs = filters()
    gap = float(np.abs(drawn("autopet-iv")() - theirs).max() / theirs.max())
    if gap > 1e-5:
        raise RuntimeError(f"clicksim and scipy differ by {gap} of the peak")
    works = {
        "`gaussian`, sigma 3 voxels, peak 1": drawn("gaussian", sigma_vx=3),
        "`autopet-iv`": drawn("autopet-iv"),
        "`edt-ball`, radius 2 voxels": drawn("lesionlocator"),
        "`distance`, 30 mm": drawn("distance"),
    }
    quickest = measure({**works, "write": lambda: out.fill(0)}, rounds=rounds)
    slow = measure({"filters": filters}, rounds=3, warm_up=0)["filters"]
    rows = [faster(name, quickest[name], "two Gaussian filters", slow, bar=20) for name in works]
    first = next(iter(works))
    rows += [at_most(first, quickest[first], "the memory write", quickest["write"], aim=1.5)]
    text = TEXT.format(shape=f"2 x {side} x {side} x {side}", gap=max(gap, 1e-9))
    return Section("Guidance channels", text, HEADER, rows)


def _geodesic(side: int, *, quick: bool) -> Section:
    from scipy.ndimage import gaussian_filter

    image = gaussian_filter(np.random.default_rng(3).random((side, side, side)), 2.0) * 50.0
    seeds = _prompts(side).foreground.astype(np.int64)

    def ours(reach: float) -> Floats:
        return geodesic_distance(image, seeds, SPACING, mix=0.5, contrast=5.0, reach=reach)

    times = measure({"everywhere": lambda: ours(np.inf), "30 mm": lambda: ours(30.0)}, rounds=2 if quick else 3)
    rows = []
    gaps = []
    for name, reach in (("everywhere", np.inf), ("30 mm", 30.0)):
        seconds, plain = once(partial(scan_planes, image, seeds, SPACING, 0.5, 5.0, reach))
        found = ours(reach)
        reached = np.isfinite(plain)
        if not np.array_equal(np.isfinite(found), reached):
            raise RuntimeError("clicksim and the raster scan in NumPy reach different voxels")
        gaps.append(float(np.abs(found[reached] - plain[reached]).max()))
        rows.append(faster(f"geodesic distance, {name}", times[name], "raster scan in NumPy", seconds))
    if max(gaps) > 1e-9:
        raise RuntimeError(f"clicksim and the raster scan in NumPy differ by {max(gaps)} mm")
    rate = f"{image.size / times['everywhere'].best / 1e6:.1f}"
    text = GEODESIC.format(shape=f"{side} x {side} x {side}", gap=max(*gaps, 1e-12), rate=rate)
    return Section("Geodesic distance", text, HEADER, rows)


def scan_planes(
    image: Floats, seeds: NDArray[np.int64], spacing: Sequence[float], mix: float, contrast: float, reach: float
) -> Floats:
    """The simple raster scan: compute each plane from the one before with nine shifts, until nothing changes."""
    distance = np.full(image.shape, np.inf)
    distance[tuple(seeds.T)] = 0.0
    changed = True
    while changed:
        before = distance.copy()
        for axis in range(3):
            order = [axis, *(a for a in range(3) if a != axis)]
            lengths = [spacing[a] for a in order]
            for step in (1, -1):
                view = (slice(None, None, step),)
                _sweep(distance.transpose(order)[view], image.transpose(order)[view], lengths, mix, contrast, reach)
        changed = not np.array_equal(before, distance)
    return distance


def _sweep(
    distance: Floats, image: Floats, spacing: Sequence[float], mix: float, contrast: float, reach: float
) -> None:
    rows, columns = distance.shape[1:]
    for a in range(1, distance.shape[0]):
        if not np.isfinite(distance[a - 1]).any():
            continue
        for r in (-1, 0, 1):
            for c in (-1, 0, 1):
                here = (slice(max(0, -r), rows - max(0, r)), slice(max(0, -c), columns - max(0, c)))
                there = (slice(max(0, r), rows - max(0, -r)), slice(max(0, c), columns - max(0, -c)))
                length = (1.0 - mix) * float(np.linalg.norm(np.multiply((1, r, c), spacing)))
                cost = distance[a - 1][there] + (length + mix * contrast * np.abs(image[a][here] - image[a - 1][there]))
                cost[cost > reach] = np.inf
                np.minimum(distance[a][here], cost, out=distance[a][here])


def _prompts(side: int) -> Prompts:
    """Twenty clicks with alternating polarities."""
    voxels = np.random.default_rng(1).integers(0, side, (20, 3)).tolist()
    clicks = tuple(Click((i, j, k), n % 2 == 0) for n, (i, j, k) in enumerate(voxels))
    return Prompts(clicks, Grid.from_spacing((side, side, side), SPACING))

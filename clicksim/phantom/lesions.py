"""Lesions of the phantom: number, size, place, shape and uptake.

Counts and volumes follow the published statistics of autoPET: 27,542 components in 1,611 cases; 513 of 1,014 FDG and
60 of 597 PSMA cases without lesions; a median volume near 1 ml.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import EmptyMaskError
from clicksim.phantom.shapes import PhantomCanvas, waves

EMPTY_SHARE = {"fdg": 513 / 1014, "psma": 60 / 597}
MEDIAN_COUNT, COUNT_SIGMA, LARGEST_COUNT = 6.0, 1.72, 400
MEDIAN_ML, ML_SIGMA, LARGEST_ML = 1.0, 1.3, 250.0
TRIES = 24
TRACHEA = 16

# sites of lesions: organ numbers, share of the lesions per tracer
SITES: dict[str, tuple[tuple[int, ...], dict[str, float]]] = {
    "bone": ((*range(25, 51), *range(71, 79), *range(92, 117)), {"fdg": 0.22, "psma": 0.5}),
    "liver": ((5,), {"fdg": 0.12, "psma": 0.03}),
    "lung": ((10, 11, 12, 13, 14), {"fdg": 0.2, "psma": 0.05}),
    "prostate": ((22,), {"fdg": 0.0, "psma": 0.08}),
    "node": ((), {"fdg": 0.46, "psma": 0.34}),
}
# lymph node stations (|u|, v, w) and weights per tracer
STATIONS = np.array(
    [
        (48, -2, -236), (52, -8, -216), (62, 2, -284), (128, 0, -380), (14, 10, -398), (4, 12, -432),
        (38, -4, -440), (20, -22, -660), (20, -24, -716), (36, 34, -702), (52, -2, -806), (66, 20, -844),
        (70, 66, -884),
    ],
    dtype=np.float64,
)  # fmt: skip
STATION_WEIGHTS = {
    "fdg": (2, 2, 2, 2, 3, 3, 3, 2, 2, 2, 1.5, 1.5, 1.5),
    "psma": (0.3, 0.2, 1, 0.3, 0.7, 0.7, 0.4, 3, 3, 0.5, 4, 4, 1),
}


@dataclass
class LesionPlacer:
    """Grows lesions on a canvas; they do not touch each other.

    Attributes:
        canvas: The canvas to paint on; its activity is overwritten.
        tracer: `fdg` or `psma`.
        voxel_ml: Volume of a voxel.
        step: Voxel size along `(w, v, u)` in body mm.
        scale: Real mm per body mm.
        draw: Gives a random stream for a purpose.
        labels: `(K, J, I)` number of the lesion, 0 outside.
    """

    canvas: PhantomCanvas
    tracer: str
    voxel_ml: float
    step: tuple[float, float, float]
    scale: float
    draw: Callable[..., np.random.Generator]
    labels: NDArray[np.int32] = field(init=False)
    _voxels: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.canvas.body.shape, np.int32)
        self._tissue = self.canvas.body & (self.canvas.organs != TRACHEA)
        self._body_voxels = int(np.count_nonzero(self._tissue))

    def draw_count(self) -> int:
        """Draw the number of lesions of a patient with this tracer, limited to what a small body can contain."""
        rng = self.draw("lesions")
        if rng.random() < EMPTY_SHARE[self.tracer]:
            return 0
        count = int(np.ceil(np.exp(rng.normal(np.log(MEDIAN_COUNT), COUNT_SIGMA)) - 0.5))
        return int(np.clip(count, 1, min(LARGEST_COUNT, max(1, self._body_voxels // 150))))

    def grow(self, number: int) -> None:
        """Grow one more lesion.

        Raises:
            EmptyMaskError: If every voxel of the body that is left touches a lesion.
        """
        rng = self.draw("lesion", number)
        volume = float(np.exp(rng.normal(np.log(MEDIAN_ML), ML_SIGMA)))
        volume = min(volume, LARGEST_ML, 0.004 * self._body_voxels * self.voxel_ml)
        for _ in range(TRIES):
            seed = self._seed(rng)
            if seed is None:
                continue
            if self._grow_at(seed, volume, number, rng):
                return
            volume *= 0.85
        free = self._free_voxels()
        if not len(free):
            raise EmptyMaskError(
                f"there is no room for lesion {number}: every voxel of the body lies in or beside one of the "
                f"{number - 1} before it; ask for fewer lesions or a finer grid"
            )
        seed = self._unravel(int(free[rng.integers(len(free))]))
        self._grow_at(seed, self.voxel_ml, number, rng)

    def _seed(self, rng: np.random.Generator) -> tuple[int, int, int] | None:
        """A voxel in a plausible tissue, or None if the random voxel is outside the body."""
        shares = np.array([share[self.tracer] for _, share in SITES.values()])
        site = list(SITES)[int(rng.choice(len(SITES), p=shares / shares.sum()))]
        if site != "node":
            voxels = self._of_site(site)
            return self._unravel(int(voxels[rng.integers(len(voxels))])) if len(voxels) else None
        weights = np.array(STATION_WEIGHTS[self.tracer])
        station = STATIONS[int(rng.choice(len(STATIONS), p=weights / weights.sum()))].copy()
        station[0] *= 1 if rng.random() < 0.5 else -1
        point = station + rng.normal(0, 9, 3)
        index = []
        for axis, value in zip(self.canvas.axes, point[::-1], strict=True):
            index.append(int(np.clip(np.searchsorted(axis, value), 0, len(axis) - 1)))
        seed = (index[0], index[1], index[2])
        soft = self.canvas.body[seed] and -200 < self.canvas.hu[seed] < 150 and self.canvas.organs[seed] in (0, 57, 58)
        return seed if soft else None

    def _of_site(self, site: str) -> NDArray[np.int64]:
        if site not in self._voxels:
            wanted = np.zeros(256, np.bool_)
            wanted[list(SITES[site][0])] = True
            self._voxels[site] = np.flatnonzero(wanted[self.canvas.organs])
        return self._voxels[site]

    def _grow_at(self, seed: tuple[int, int, int], volume_ml: float, number: int, rng: np.random.Generator) -> bool:
        """Grow a lesion at a voxel; return False if it would touch another lesion or leave the body."""
        wanted = max(1, round(volume_ml / self.voxel_ml))
        radius = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3) / self.scale
        reach = [int(np.ceil(2.1 * radius / s)) + 1 for s in self.step]
        low = [max(0, c - r) for c, r in zip(seed, reach, strict=True)]
        high = [min(n, c + r + 1) for c, r, n in zip(seed, reach, self.labels.shape, strict=True)]
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        inner = (seed[0] - low[0], seed[1] - low[1], seed[2] - low[2])
        shape = self._shape(box, seed, radius, wanted, rng)
        shape &= self._tissue[box]
        mask = _piece(shape, inner)
        if mask is None or np.count_nonzero(mask) < 0.6 * wanted or self._touches(box, mask):
            return False
        self.labels[box][mask] = number
        self._heat(box, mask, rng)
        return True

    def _shape(
        self,
        box: tuple[slice, slice, slice],
        seed: tuple[int, int, int],
        radius: float,
        wanted: int,
        rng: np.random.Generator,
    ) -> NDArray[np.bool_]:
        """The `wanted` voxels nearest to a few irregular ellipsoids of different size around the seed."""
        w, v, u = (axis[cut] for axis, cut in zip(self.canvas.axes, box, strict=True))
        w, v, u = w[:, None, None], v[None, :, None], u[None, None, :]
        centre = np.array([self.canvas.axes[a][seed[a]] for a in (2, 1, 0)], np.float64)
        nearest = np.full((w.size, v.size, u.size), np.inf, np.float32)
        for part in range(1 + int(rng.integers(0, 3))):
            middle = centre + (rng.normal(0, 0.45 * radius, 3) if part else 0)
            semi = radius * np.exp(rng.normal(0, 0.22, 3))
            a, b, c = (
                ((x - np.float32(m)) / np.float32(s)) ** 2 for x, m, s in zip((u, v, w), middle, semi, strict=True)
            )
            np.minimum(nearest, a + (b + c), out=nearest)
        nearest *= 1 + np.float32(0.16) * waves(rng, u, v, w, length_mm=max(1.3 * radius, 4.0), count=5)
        nearest[seed[0] - box[0].start, seed[1] - box[1].start, seed[2] - box[2].start] = -1
        if wanted >= nearest.size:
            return np.ones(nearest.shape, np.bool_)
        level = np.partition(nearest, wanted - 1, axis=None)[wanted - 1]
        return np.asarray(nearest <= level)

    def _touches(self, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]) -> bool:
        """Whether another lesion is among the 26 neighbours of the mask."""
        from scipy.ndimage import binary_dilation

        wide = tuple(slice(max(0, c.start - 1), c.stop + 1) for c in box)
        other = self.labels[wide] > 0
        if not other.any():
            return False
        pad = [(c.start - o.start, o.stop - c.stop) for c, o in zip(box, wide, strict=True)]
        grown = np.pad(mask, pad)[tuple(slice(0, n) for n in other.shape)]
        return bool(np.any(other & binary_dilation(grown, np.ones((3, 3, 3), np.bool_))))

    def _heat(self, box: tuple[slice, slice, slice], mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """Give a lesion its uptake: most are hot, some faint; large ones may have a colder core."""
        from scipy.ndimage import distance_transform_edt

        median, spread, hottest = (6.5, 0.5, 22.0) if self.tracer == "fdg" else (9.0, 0.65, 40.0)
        floor = 1.35 * float(np.median(self.canvas.activity[box][mask])) + 0.8
        suv = float(np.clip(np.exp(rng.normal(np.log(median), spread)), min(floor, 12.0), hottest))
        heat = np.full(mask.shape, suv, np.float32)
        if np.count_nonzero(mask) * self.voxel_ml > 12 and rng.random() < 0.4:
            depth = distance_transform_edt(mask)
            heat *= 1 - 0.65 * (depth > 0.6 * depth.max())
        self.canvas.activity[box][mask] = heat[mask]
        hu = self.canvas.hu[box]
        hu[mask & (hu < 0)] = 35

    def _free_voxels(self) -> NDArray[np.int64]:
        from scipy.ndimage import maximum_filter

        return np.flatnonzero((maximum_filter(self.labels, 3) == 0) & self._tissue)

    def _unravel(self, index: int) -> tuple[int, int, int]:
        k, j, i = np.unravel_index(index, self.labels.shape)
        return int(k), int(j), int(i)


def _piece(shape: NDArray[np.bool_], seed: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """The 26-connected part that contains the seed; None if the seed is not in the shape."""
    from scipy.ndimage import label

    if not shape[seed]:
        return None
    parts, _ = label(shape, np.ones((3, 3, 3)))
    return np.asarray(parts == parts[seed])

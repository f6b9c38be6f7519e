"""Place a corrective click: on the deepest wrong voxel, or drawn by depth, in one region or in a whole class.

Depth is the distance to the nearest voxel that is not wrong, or to the border of the volume. Two regions of one class
never touch, so the depth in a region equals the depth in the whole class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Spacing
from clicksim.lesions import Component
from clicksim.prompts.kinds import Voxel, as_voxel
from clicksim.simulate.error_regions import Region

Floats = NDArray[np.float64]
CLASS_CHOICES = ("larger-class", "deeper-class", "each-class")
EQUAL = 1e-9  # relative; depths that differ by less are ties


@dataclass(frozen=True)
class Spot:
    """A voxel for a click.

    Attributes:
        voxel: The voxel.
        depth: Its depth, measured as `depth_in` says.
        region: Id of the region that contains it.
    """

    voxel: Voxel
    depth: float
    region: int


@dataclass(frozen=True)
class ClickPlacer:
    """Finds spots for clicks; see the settings `place` and `depth_in`."""

    settings: Mapping[str, Any]
    spacing: Spacing

    def spot(self, components: Sequence[Component], used: set[Voxel], draws: np.random.Generator) -> Spot | None:
        """Choose an unused voxel of the components; None if all are used.

        Args:
            components: Components of one class of errors.
            used: Voxels that cannot be clicked again.
            draws: One number is drawn, except for `deepest`.
        """
        if self.settings["place"] == "deepest":
            return self.deepest(components, used)
        return self._drawn(components, used, draws)

    def deepest(self, components: Sequence[Component], used: set[Voxel]) -> Spot | None:
        """The deepest unused voxel; among equally deep ones, the first in the order i, j, k."""
        best: Spot | None = None
        for component in components:
            found = self._deepest_of(component, used)
            if found is None:
                continue
            tie = best is not None and abs(found.depth - best.depth) <= EQUAL * best.depth
            if best is None or (found.voxel < best.voxel if tie else found.depth > best.depth):
                best = found
        return best

    def depths(self, component: Component) -> Floats:
        """`(n,)` depth of each voxel of a component, in the order of its voxels."""
        if self.settings["depth_in"] == "chessboard":
            return component.once("chessboard depths", lambda: _chessboard(component))
        return component.depths(self._size, closed=True)

    @property
    def _size(self) -> Spacing | None:
        return self.spacing if self.settings["depth_in"] == "mm" else None

    def _deepest_of(self, component: Component, used: set[Voxel]) -> Spot | None:
        if self.settings["depth_in"] != "chessboard":
            found = component.deepest(self._size, closed=True)
            if found[0] in used:
                rest = component.deepest_but(np.array(list(used)), self._size, closed=True)
                if rest is None:
                    return None
                found = rest
            return Spot(*found, component.id)
        depths = self.depths(component)
        for n in np.argsort(-depths, kind="stable"):
            voxel = as_voxel(component.voxels[n])
            if voxel not in used:
                return Spot(voxel, float(depths[n]), component.id)
        return None

    def _drawn(self, components: Sequence[Component], used: set[Voxel], draws: np.random.Generator) -> Spot | None:
        """Draw a voxel by its weight, from the voxels in the order i, j, k."""
        voxels = np.concatenate([component.voxels for component in components])
        owner = np.repeat([component.id for component in components], [len(c.voxels) for c in components])
        depths = np.ones(len(voxels))
        if self.settings["place"] != "uniform":
            depths = np.concatenate([self.depths(component) for component in components])
        order = np.lexsort(voxels.T[::-1])
        voxels, owner, depths = voxels[order], owner[order], depths[order]
        weights = np.where(_among(voxels, used), 0.0, self._weights(depths))
        total = np.cumsum(weights)
        if not len(total) or total[-1] <= 0:
            return None
        n = int(np.searchsorted(total, draws.random() * total[-1], side="right"))
        n = min(n, int(np.flatnonzero(weights)[-1]))  # rounding can give an index past the end
        return Spot(as_voxel(voxels[n]), float(depths[n]), int(owner[n]))

    def _weights(self, depths: Floats) -> Floats:
        if self.settings["place"] == "depth-exponential":
            deepest = depths.max(initial=0.0)
            return np.asarray(np.exp(depths - deepest) - np.exp(-deepest))  # exp(d) - 1, scaled to avoid overflow
        return depths


def choose_class(
    choice: str, regions: Sequence[Region], used: Mapping[bool, set[Voxel]], placer: ClickPlacer
) -> list[tuple[bool, list[Component], set[Voxel]]]:
    """Choose the classes to correct under `larger-class`, `deeper-class` or `each-class`.

    Returns:
        Polarity of the prompt, components of the class, and the voxels that cannot be clicked again; foreground
        first.
    """
    sides = {
        polarity: [region.component for region in regions if region.foreground == polarity]
        for polarity in (True, False)
    }
    if choice == "each-class":
        return [(polarity, parts, used[polarity]) for polarity, parts in sides.items() if parts]
    if choice == "larger-class":
        sizes = {key: sum(region.size for region in regions if region.foreground == key) for key in sides}
        polarity = sizes[True] >= sizes[False]
        return [(polarity, sides[polarity], used[polarity])] if sides[polarity] else []
    taken = used[True] | used[False]
    depths = {}
    for polarity, parts in sides.items():
        spot = placer.deepest(parts, taken)
        depths[polarity] = 0.0 if spot is None else spot.depth
    polarity = depths[True] > depths[False] * (1 + EQUAL)
    return [(polarity, sides[polarity], taken)] if sides[polarity] else []


def _among(voxels: NDArray[np.int64], used: set[Voxel]) -> NDArray[np.bool_]:
    """`(n,)` whether each voxel is used."""
    if not used:
        return np.zeros(len(voxels), dtype=bool)
    taken = np.array(list(used), dtype=np.int64)
    span = np.maximum(voxels.max(axis=0), taken.max(axis=0)) + 1
    places = [np.ravel_multi_index(tuple(side.T), tuple(span)) for side in (voxels, taken)]
    return np.asarray(np.isin(places[0], places[1]))


def _chessboard(component: Component) -> Floats:
    """Steps to the nearest voxel outside, diagonal ones included."""
    from scipy.ndimage import distance_transform_cdt

    low, high = component.box
    mask = np.zeros(high - low + 3, dtype=bool)
    inside = tuple((component.voxels - low + 1).T)
    mask[inside] = True
    return np.asarray(distance_transform_cdt(mask, metric="chessboard")[inside], dtype=np.float64)

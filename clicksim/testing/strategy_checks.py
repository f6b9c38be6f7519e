"""Check what a strategy promises, on random regions."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from clicksim.geometry import Spacing
from clicksim.lesions import Component, find_lesions
from clicksim.protocols import load_protocol
from clicksim.protocols.strategy_registry import CLICK_STRATEGIES, STROKE_STRATEGIES
from clicksim.simulate.scribbles.revised_strokes import cut_section
from clicksim.testing.damaged_trees import promise

SPACINGS = ((2.0, 2.0, 3.0), (1.0, 1.0, 1.0), (1.3, 0.7, 4.0))


def check_click_strategy(name: str, *, seeds: int = 8) -> None:
    """Try everything that a strategy for clicks promises.

    - It yields voxels of the component, at least one, and ends.
    - The same component and the same stream give the same voxels.
    - It draws from the given stream only.

    Args:
        name: Its name, without `clicks.`.
        seeds: How many random masks are tried; each has components of one voxel and of many.

    Raises:
        AssertionError: A promise is broken.
    """
    place = CLICK_STRATEGIES.find(name)
    for component, spacing, seed in _regions(seeds):
        most = 20 * len(component.voxels) + 100
        first = list(islice(place(component, spacing, np.random.default_rng(seed)), most))
        promise(first, "no voxel for a component")
        plain = all(isinstance(voxel, tuple) and [type(n) for n in voxel] == [int] * 3 for voxel in first)
        promise(plain, f"yield tuples of three int, such as `as_voxel` gives, got {first[0]!r}")
        promise(len(first) < most, f"{most} voxels without an end for a component of {len(component.voxels)}")
        promise(all(component.holds(voxel) for voxel in first), "a voxel is outside the component")
        np.random.seed(seed)  # noqa: NPY002 - the global stream must have no effect
        again = list(place(component, spacing, np.random.default_rng(seed)))
        promise(again == first, "the same arguments give other voxels")


def check_stroke_strategy(name: str, *, seeds: int = 8) -> None:
    """Try everything that a strategy for scribbles promises.

    - It returns pixels of the section, at least one, as whole numbers of shape `(n, 2)`.
    - The same section and the same stream give the same pixels.
    - It draws from the given stream only.

    Args:
        name: Its name, without `scribbles.`.
        seeds: How many random masks are tried; each has regions of one voxel and of many.

    Raises:
        AssertionError: A promise is broken.
    """
    draw = STROKE_STRATEGIES.find(name)
    settings = load_protocol("autopet-v@2").tables["scribbles"]
    for component, spacing, seed in _regions(seeds):
        for axis in range(3):
            section = cut_section(component, spacing, axis)
            path = np.asarray(draw(section, settings, np.random.default_rng(seed)))
            promise(path.ndim == 2 and path.shape[1] == 2 and len(path), f"not pixels of shape (n, 2): {path.shape}")
            promise(path.dtype.kind == "i", f"pixels are whole numbers, got {path.dtype}")
            inside = (path >= 0).all() and (path < section.mask.shape).all() and section.mask[tuple(path.T)].all()
            promise(inside, "a pixel is outside the section")
            np.random.seed(seed)  # noqa: NPY002 - the global stream must have no effect
            again = draw(section, settings, np.random.default_rng(seed))
            promise(np.array_equal(path, again), "the same arguments give other pixels")


def _regions(seeds: int) -> Iterator[tuple[Component, Spacing, int]]:
    for seed in range(seeds):
        draws = np.random.default_rng(seed)
        mask = draws.random((9, 8, 7)) < draws.choice([0.05, 0.2, 0.5])
        mask[1:6, 2:7, 1:4] |= seed % 2 == 0
        mask[8, 7, 6] = True
        for component in find_lesions(mask, instances="components"):
            yield component, SPACINGS[seed % len(SPACINGS)], seed

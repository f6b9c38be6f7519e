"""Strategies for clicks: the order in which the voxels of a component are clicked.

A strategy is a function that takes a component, the voxel size and a random stream, and yields voxels of the
component, the best first. The rule takes as many as its budget allows: the first one for `strategy`, the following
ones for `fill`. A strategy

- yields only voxels of the component, at least one, and depends only on its arguments;
- draws only from the given stream, which belongs to this component and purpose;
- may repeat a voxel (the rule skips it) and may leave voxels out, as `rim` does.

A package adds one by naming it in its `pyproject.toml`; the settings `strategy`, `fill`, `background_strategy` and
`background_fill` then accept its name:

    [project.entry-points."clicksim.strategies"]
    "clicks.top" = "my_package:top_slice"

    def top_slice(component, spacing, draws):
        "Voxels from the last slice to the first, in random order within a slice."
        voxels = draws.permutation(component.voxels)
        for n in np.argsort(-voxels[:, 2], kind="stable"):
            yield as_voxel(voxels[n])

`clicksim.testing.check_click_strategy` tests it.
"""

from collections.abc import Callable, Iterator

import numpy as np

from clicksim.geometry import Spacing
from clicksim.lesions import Component
from clicksim.prompts.kinds import Voxel, as_voxel

ClickStrategy = Callable[[Component, Spacing, np.random.Generator], Iterator[Voxel]]


def deepest(component: Component, spacing: Spacing, draws: np.random.Generator) -> Iterator[Voxel]:  # noqa: ARG001
    """Voxels from the deepest to the shallowest; depth is the distance in mm to the nearest voxel outside."""
    yield component.deepest(spacing, closed=True)[0]
    # float32 makes depths equal that differ only by the order of a sum
    order = np.argsort(-component.depths(spacing, closed=True).astype(np.float32), kind="stable")
    for n in order:
        yield as_voxel(component.voxels[n])


def depth_weighted(component: Component, spacing: Spacing, draws: np.random.Generator) -> Iterator[Voxel]:
    """Voxels drawn without replacement, with their depth in mm as weight."""
    # exponential times with the depth as rate (Efraimidis and Spirakis)
    times = draws.exponential(size=len(component.voxels)) / component.depths(spacing, closed=True)
    for n in np.argsort(times, kind="stable"):
        yield as_voxel(component.voxels[n])


def uniform(component: Component, spacing: Spacing, draws: np.random.Generator) -> Iterator[Voxel]:  # noqa: ARG001
    """All voxels in random order."""
    for n in draws.permutation(len(component.voxels)):
        yield as_voxel(component.voxels[n])


def rim(component: Component, spacing: Spacing, draws: np.random.Generator) -> Iterator[Voxel]:  # noqa: ARG001
    """The voxels that touch the outside, in random order."""
    voxels = component.rim(closed=True)
    for n in draws.permutation(len(voxels)):
        yield as_voxel(voxels[n])

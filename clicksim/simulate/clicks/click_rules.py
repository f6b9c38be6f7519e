"""Clicks from a mask: one function for the published rules and the revised rule."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clicksim.errors import GeometryError, SettingError, in_case
from clicksim.geometry import Grid
from clicksim.geometry.arrays import as_mask
from clicksim.lesions import Instances
from clicksim.prompts import Prompts
from clicksim.protocols import ProtocolName
from clicksim.simulate.arguments import open_rule, refuse_instances, spacing_of
from clicksim.simulate.clicks.published import published_clicks
from clicksim.simulate.clicks.revised import RevisedCase


def simulate_clicks(
    mask: ArrayLike,
    *,
    uptake: ArrayLike | None = None,
    spacing: Sequence[float] | None = None,
    instances: Instances = "auto",
    protocol: ProtocolName = "autopet-iv@2",
    seed: int = 42,
    case_id: str = "",
    organs: ArrayLike | None = None,
    **settings: Any,
) -> Prompts:
    """Simulate foreground and background clicks for one case.

    The protocol defines where clicks are placed; `clicksim protocols NAME` prints it with all its settings. An empty
    mask gives no foreground clicks. Without an uptake there are no background clicks from uptake, and a note says so.
    The result depends only on the arguments, not on the memory layout of the arrays, threads, workers or other cases.

    Args:
        mask: `(I, J, K)`, 0 outside lesions. A mask or an instance map, of any layout and real dtype.
        uptake: `(I, J, K)`, such as SUV; finite.
        spacing: Voxel size along `(I, J, K)` in mm. Rules in mm need it.
        instances: How values become lesions; see `clicksim.find_lesions`. A published rule has its own.
        protocol: Name and version.
        seed: Seed of all draws; 42 in the published files.
        case_id: Key of the random streams of revised rules; use the usual name of the case.
        organs: `(I, J, K)` organ labels, for `background="organ"`.
        **settings: Any setting of the protocol, such as `n_foreground=5`.

    Returns:
        Foreground clicks, then background clicks, each in order. `lesion` is the number of the component (in the
        order k, j, i of first voxels) or the id of the instance; for background, the number of its component.

    Raises:
        SettingError: If the protocol or a setting is unknown, or a value is not allowed.
        GeometryError: If the shapes differ, or the spacing is missing.
        ImageError: If the mask is not a label array, or the uptake has NaN or infinite values.
        ReferenceAbortError: If the published script aborts on this input.

    Examples:
        >>> import numpy as np
        >>> mask = np.zeros((9, 9, 9), dtype=np.uint8)
        >>> mask[2:7, 3:6, 4] = 1
        >>> simulate_clicks(mask, spacing=(2, 2, 3), n_foreground=1).foreground.tolist()
        [[3, 4, 4]]
    """
    seed = operator.index(seed)
    rule, chosen = open_rule(protocol, "clicks", settings)
    labels = as_mask(mask, where=case_id)
    if organs is not None and chosen.get("background") != "organ":
        warnings.warn("organs has no effect unless background is organ", UserWarning, stacklevel=2)
    grid = Grid.from_spacing(labels.shape, spacing)
    hot, regions = (None if volume is None else np.asarray(volume) for volume in (uptake, organs))
    for name, volume in (("uptake", hot), ("organ mask", regions)):
        if volume is not None and volume.shape != grid.shape:
            raise GeometryError(
                f"{name} and mask are on different grids: {name} {volume.shape}, mask {grid.shape}{in_case(case_id)}; "
                "resample one of them first"
            )
    if chosen["rule"] == "published":
        refuse_instances(rule, instances)
        if not 0 <= seed < 2**32:
            raise SettingError(f"{rule.id} takes seeds from 0 to {2**32 - 1}, got {seed}")
        clicks, notes = published_clicks(labels, hot, chosen, seed=seed, where=case_id)
    else:
        case = RevisedCase(labels, hot, regions, spacing_of(grid, rule.id), chosen, instances, seed, case_id)
        clicks, notes = case.clicks()
    return Prompts(tuple(clicks), grid, case_id, rule.id, seed, chosen, tuple(notes))

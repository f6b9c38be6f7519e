"""Scribbles from a label: one function for the published rules and the revised rule."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.errors import SettingError
from clicksim.geometry import Grid, Spacing
from clicksim.geometry.arrays import Memory, as_labels, as_mask
from clicksim.lesions import Component, Instances, find_lesions
from clicksim.lesions.hot import join_voxels
from clicksim.prompts import Prompts, Scribble
from clicksim.protocols import ProtocolName
from clicksim.simulate.arguments import open_rule, refuse_instances, spacing_of
from clicksim.simulate.scribbles.published_scribbles import published_scribbles
from clicksim.simulate.scribbles.revised_strokes import draw_stroke
from clicksim.simulate.surroundings import Surroundings
from clicksim.streams import stream

CORRECTION_SETTINGS = ("kind", "n_prompts", "choose", "place", "depth_in", "errors")


def simulate_scribbles(
    mask: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    instances: Instances = "auto",
    protocol: ProtocolName = "autopet-v@2",
    seed: int = 42,
    case_id: str = "",
    **settings: Any,
) -> Prompts:
    """Simulate scribbles in and around the lesions of one case, for use before a first prediction.

    An empty mask gives no scribbles. The result depends only on the arguments.

    Args:
        mask: `(I, J, K)`, 0 outside lesions.
        spacing: Voxel size in mm; rules in mm need it.
        instances: How values become lesions; a published rule has its own.
        protocol: Name and version.
        seed: Seed of the draws; 42 in the published files.
        case_id: Key of the random streams of revised rules.
        **settings: Settings of the protocol's table `[scribbles]`, such as `strategy="random"`.

    Returns:
        Foreground strokes, then background strokes.

    Raises:
        SettingError: If the protocol or a setting is unknown, or a value is not allowed.
        GeometryError: If there are not three axes, or the spacing is missing.
        ImageError: If the mask is not a label array.
    """
    seed = operator.index(seed)
    rule, chosen = open_rule(
        protocol, "scribbles", settings, elsewhere=CORRECTION_SETTINGS, work="scribbles from a label"
    )
    labels = as_labels(as_mask(mask, where=case_id), where=case_id)
    grid = Grid.from_spacing(labels.shape, spacing)
    notes: list[str] = []
    if chosen["rule"] == "published":
        refuse_instances(rule, instances)
        scribbles = published_scribbles(labels, chosen, seed=seed, where=case_id)
    elif "n_components" not in chosen:
        raise SettingError(f"{rule.id} corrects predictions and has no rule for scribbles from a label")
    else:
        size = spacing_of(grid, rule.id)
        scribbles = list(_mended(labels, size, chosen, instances, seed, case_id, notes))
    return Prompts(tuple(scribbles), grid, case_id, rule.id, seed, chosen, tuple(notes))


def _mended(
    labels: NDArray[Any],
    spacing: Spacing,
    settings: Mapping[str, Any],
    instances: Instances,
    seed: int,
    case_id: str,
    notes: list[str],
) -> Iterator[Scribble]:
    """Draw a stroke in each chosen lesion, then one in the shell around each; a note names lesions without room."""
    lesions = find_lesions(labels, instances=instances, where=case_id)
    order = stream(seed, case_id, "scribble", "choice").permutation(len(lesions))
    chosen = [lesions[n] for n in order[: settings["n_components"]]]
    for lesion in chosen:
        draws = stream(seed, case_id, "scribble", "foreground", lesion.key)
        yield Scribble(draw_stroke(lesion, spacing, settings, draws), True, lesion.id)
    if settings["background"] == "none":
        return
    around = Surroundings(labels, spacing)
    for lesion in chosen:
        region = _shell(around, lesion, settings["shell_mm"])
        if region is None:
            notes.append(f"no background stroke for lesion {lesion.id}: the shell around it holds no voxel")
        else:
            draws = stream(seed, case_id, "scribble", "background", lesion.key)
            yield Scribble(draw_stroke(region, spacing, settings, draws), False, lesion.id)


def _shell(around: Surroundings, lesion: Component, shell_mm: Sequence[float]) -> Component | None:
    """The largest component of the shell around a lesion; None if other lesions leave no room."""
    voxels = around.shell(lesion, *shell_mm)
    if not len(voxels):
        return None
    memory = Memory(lesion.memory.shape, (2, 1, 0))
    parts = join_voxels(memory, np.sort(memory.indices(voxels)))
    return parts[int(np.argmax(parts.sizes))]

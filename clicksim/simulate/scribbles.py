"""Scribbles from a label: the door to both rules."""

import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clicksim.arrays import Memory, as_labels
from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid, Spacing
from clicksim.lesions import Component, Instances, find_lesions
from clicksim.prompts import Prompts, Scribble
from clicksim.protocols import effective_settings, load_protocol
from clicksim.simulate.hot import join_voxels
from clicksim.simulate.pen import draw_stroke
from clicksim.simulate.published_scribbles import published_scribbles
from clicksim.simulate.regions import Surroundings
from clicksim.streams import stream

LABEL_SETTINGS = ("n_components", "background", "shell_mm")
CORRECTION_SETTINGS = ("kind", "n_prompts", "choose", "place", "depth_in", "errors")


def simulate_scribbles(
    mask: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    instances: Instances = "auto",
    protocol: str = "autopet-v@2",
    seed: int = 42,
    case_id: str = "",
    **settings: Any,
) -> Prompts:
    """Simulated scribbles in and around the lesions of one case, as before a first prediction.

    An empty mask gives none. The answer depends on the arguments alone.

    Args:
        mask: `(I, J, K)`, 0 outside lesions.
        spacing: Voxel size in mm; rules in mm need it.
        instances: How values become lesions; a published rule has its own.
        protocol: Name and version.
        seed: Of the draws; 42 in the published files.
        case_id: Keys the streams of mended rules.
        **settings: Of the protocol's table `[scribbles]`, such as `strategy="random"`.

    Returns:
        Foreground strokes, then background strokes.

    Raises:
        SettingError: An unknown protocol or setting, or a value that is not allowed.
        GeometryError: Not three axes; a missing spacing.
        ImageError: A mask that is no label array.
    """
    seed = operator.index(seed)
    rule = load_protocol(protocol)
    chosen, idle = effective_settings(rule, "scribbles", settings)
    for sentence in [*idle, *idle_at_door(settings, CORRECTION_SETTINGS, "scribbles from a label")]:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    labels = np.asarray(mask)
    if labels.ndim != 3:
        raise GeometryError(f"a mask has three axes, got shape {labels.shape}{f' (case {case_id})' if case_id else ''}")
    labels = as_labels(labels, where=case_id)
    grid = Grid.from_spacing(labels.shape, spacing)
    notes: list[str] = []
    if chosen["rule"] == "published":
        if instances != "auto":
            raise SettingError(f"{rule.id} has its own rule for instances; leave instances at auto, got {instances!r}")
        scribbles, notes = published_scribbles(labels, chosen, seed=seed, where=case_id)
    elif "n_components" not in chosen:
        raise SettingError(f"{rule.id} corrects predictions and has no rule for scribbles from a label")
    else:
        size = spacing_of(grid, rule.id)
        scribbles = list(_mended(labels, size, chosen, instances, seed, case_id, notes))
    return Prompts(tuple(scribbles), grid, case_id, rule.id, seed, chosen, tuple(notes))


def idle_at_door(given: Iterable[str], idle: Sequence[str], work: str) -> list[str]:
    """Sentences about given settings that the table has for other work."""
    return [f"{name} has no effect on {work}" for name in given if name in idle]


def spacing_of(grid: Grid, protocol: str) -> Spacing:
    """The voxel size, which a rule in mm needs."""
    if grid.spacing is None:
        raise GeometryError(f"{protocol} measures in mm and needs the voxel size: give spacing=(i, j, k) in mm")
    return grid.spacing


def _mended(
    labels: NDArray[Any],
    spacing: Spacing,
    settings: Mapping[str, Any],
    instances: Instances,
    seed: int,
    case_id: str,
    notes: list[str],
) -> Iterator[Scribble]:
    """A stroke in each chosen lesion, then one in the shell around each; notes say where there is no room for one."""
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
        region = _shell(around, lesion, settings["shell_mm"], labels.shape)
        if region is None:
            notes.append(f"no background stroke for lesion {lesion.id}: the shell around it holds no voxel")
        else:
            draws = stream(seed, case_id, "scribble", "background", lesion.key)
            yield Scribble(draw_stroke(region, spacing, settings, draws), False, lesion.id)


def _shell(around: Surroundings, lesion: Component, shell_mm: Sequence[float], shape: Any) -> Component | None:
    """The largest component of the shell around a lesion; None where other lesions leave no room."""
    voxels = around.shell(lesion, *shell_mm)
    if not len(voxels):
        return None
    memory = Memory((shape[0], shape[1], shape[2]), (2, 1, 0))
    indices = np.sort(memory.indices(voxels))
    parts = join_voxels(memory, indices)
    return parts[int(np.argmax(parts.sizes))]

"""The encodings of clicksim: the formula, source and support of each.

Below, `d` is the distance from a voxel to the nearest prompt voxel of the polarity (0 inside a box), in mm, or in
voxels if the length is given as `_vx`; `w` is the weight of a prompt, 1 without decay. Where prompts meet, the largest
`w * value` is kept unless `merge` is `add`. The cost of an encoding with a finite support depends on the prompts, not
on the volume.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError
from clicksim.geometry import Spacing
from clicksim.guidance.canvas import ChannelCanvas, Floats, Image, Ints, Seeds
from clicksim.guidance.encoding_settings import DrawingPlan, Encoding
from clicksim.guidance.geodesic_maps import draw_exp_geodesic, draw_geodesic
from clicksim.guidance.templates import distance_template, edt_ball_template, resized_ball
from clicksim.settings import Setting

MOST_STAMPED = 8.0
"""Values to stamp per voxel of the patch, above which one distance transform is cheaper."""


def draw_points(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:  # noqa: ARG001
    """1 at the voxels of prompts, 0 elsewhere. Source: autoPET V baseline (with its sigma of 0)."""
    canvas.stamp(np.ones((1, 1, 1)), (0, 0, 0), seeds)


def draw_gaussian(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """`exp(-d^2 / 2 sigma^2)`, 1 at the prompt, and 0 beyond `truncate` sigma along each axis (rounded to voxels).

    With `scale="sum"` the values of one prompt sum to 1, as `scipy.ndimage.gaussian_filter` of a single 1 gives them.
    With `border="reflect"` values outside the volume are mirrored into it, as in the filter's default mode. With
    `merge="add"` the values of prompts that meet add up; prompts on the same voxel count once. `profile="integrated"`
    takes the integral of the Gaussian over each voxel,
    `(erf((x + 1/2) / sqrt(2) sigma) - erf((x - 1/2) / sqrt(2) sigma)) / 2`.
    Sources: autoPET IV baseline (sum, reflect, add); MONAI `GaussianFilter` (integrated), as used by SW-FastEdit.
    """
    sigma = np.broadcast_to(plan.voxels("sigma", seeds.spacing), (len(seeds.voxels), 3))
    _paint_gaussians(canvas, seeds, sigma, plan)


def draw_ball(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """1 where `d <= radius`, else 0. Source: the disks of RITM and SimpleClick, in three dimensions."""
    radius, spacing = plan.length("radius", seeds.spacing)
    template = distance_template(radius, spacing, lambda d: d <= radius)
    canvas.stamp(template, _middle(template), seeds)


def draw_disk(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """1 where `d <= radius` within the slice of the prompt, perpendicular to the stored axis `axis`.

    With `scale="sum"` a disk is divided by its number of voxels; with `merge="add"` disks add up.
    Source: autoPET V guidance tutorial, where overlapping disks therefore dim all others after the min-max.
    """
    radius, spacing = plan.length("radius", seeds.spacing)
    template = distance_template(radius, spacing, lambda d: d <= radius, flat=plan["axis"])
    if plan["scale"] == "sum":
        template = template / template.sum()
    canvas.stamp(template, _middle(template), seeds, add=plan.adds)


def draw_edt_ball(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """Depth inside a ball, divided by the largest depth: 1 at the prompt, about 1/(r+1) at the rim.

    With `radius_mm` the ball is `d <= radius_mm` and depth is in mm. With `radius_vx` it is the published ball, whose
    depth is the distance to the nearest cell outside the ball within the ball's own box. For unequal or fractional
    radii the ball of the largest radius is resized (trilinear) to `round(2 r + 1)` cells and thresholded at 0.5.
    Source: nnInteractive, points; autoPET-interactive with radius 2.
    """
    if "radius_vx" in plan.settings:
        ball = resized_ball(plan.voxels("radius", None))
        template = edt_ball_template(ball, (1.0, 1.0, 1.0))
        canvas.stamp(template, [n // 2 for n in template.shape], seeds)
        return
    radius, spacing = plan.length("radius", seeds.spacing)
    ball = distance_template(radius, spacing, lambda d: d <= radius) > 0
    # a margin of one cell, so that a ball that fills its box has an outside
    template = edt_ball_template(np.pad(ball, 1), spacing)
    canvas.stamp(template, _middle(template), seeds)


def draw_distance(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """`max(0, 1 - d / reach)`: the truncated Euclidean distance, inverted so that the prompt is 1.

    Source: truncated distance maps of Xu et al., Deep Interactive Object Selection, CVPR 2016.
    """
    reach, spacing = plan.length("reach", seeds.spacing)
    _draw_fall(canvas, seeds, reach, spacing, lambda d: np.maximum(0.0, 1.0 - d / reach))


def draw_exp_distance(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """`exp(-d / fall)`, and 0 beyond `truncate * fall`; an infinite `truncate` sets no end.

    Source: the exponentiated distance maps compared in Guiding the Guidance (2023).
    """
    fall, spacing = plan.length("fall", seeds.spacing)
    end = fall * plan["truncate"]
    _draw_fall(canvas, seeds, end, spacing, lambda d: np.where(d <= end, np.exp(-d / fall), 0.0))


def draw_inverse_distance(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan) -> None:
    """`1 / (d + offset)` in voxels, as published; with min-max and an offset of 1e-6 it is in effect binary.

    With `inverted` the distance is that of a prompt voxel to the nearest voxel without a prompt, and 0 elsewhere.
    Source: autoPET V guidance tutorial, on CPU and on GPU. Kept so that it can be recognised; use `distance` or
    `exp-distance` instead.
    """
    offset = plan["offset_vx"]
    if plan["inverted"]:
        _raise(canvas, 1.0 / (_distance_inside(canvas, seeds) + offset))
        return
    _raise(canvas, 1.0 / (_distance_to(canvas, seeds.voxels, (1.0, 1.0, 1.0)) + offset))


def draw_adaptive(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan, image: Image) -> None:
    """A Gaussian of peak 1 for each prompt, narrow where the image around it varies.

    `sigma = sigma_max - (sigma_max - sigma_min) * min(1, s / contrast)`, where `s` is the standard deviation of the
    image in the box that extends `window` from the prompt along each axis, clipped to the image.
    Source of the idea: adaptive heat maps of Guiding the Guidance (2023). The tutorial of autoPET V applies it in
    opposite senses to disks and to Gaussians, and its narrowest prompts outweigh all others; here every peak is 1.
    """
    inside = seeds.near(image.start, image.stop)
    half = np.floor(np.add(plan.voxels("window", seeds.spacing), 1e-9)).astype(np.int64)
    spread = np.array([image.box(voxel - half, voxel + half + 1)[0].std() for voxel in inside.voxels])
    share = np.minimum(1.0, spread / plan["contrast"])[:, None]
    wide = np.array(plan.voxels("sigma_max", seeds.spacing))
    narrow = np.array(plan.voxels("sigma_min", seeds.spacing))
    if np.any(narrow > wide):
        raise SettingError(f"the smallest sigma is above the largest: {narrow} and {wide} voxels")
    _paint_gaussians(canvas, inside, wide - (wide - narrow) * share, plan)


def draw_masked(canvas: ChannelCanvas, seeds: Seeds, plan: DrawingPlan, image: Image) -> None:
    """A Gaussian of peak 1; foreground is 0 where the uptake is below `min(suv, uptake at the prompt)`.

    Background is not masked. Source: the third entry of autoPET IV, which uses one signed channel.
    """
    sigma = np.broadcast_to(plan.voxels("sigma", seeds.spacing), (len(seeds.voxels), 3))
    if not seeds.foreground:
        _paint_gaussians(canvas, seeds, sigma, plan)
        return
    inside = seeds.near(image.start, image.stop)
    floors = np.minimum(plan["suv"], image.at(inside.voxels))
    starts, counts, profiles = _profiles(inside, sigma[: len(inside.voxels)], plan)
    for voxel in range(len(inside.voxels)):
        a, b, c = (profiles[voxel, axis, : counts[voxel, axis]] for axis in range(3))
        values = inside.weights[voxel] * a[:, None, None] * b[:, None] * c
        uptake, first = image.box(starts[voxel], starts[voxel] + counts[voxel])
        seen = tuple(slice(s, s + n) for s, n in zip((first - starts[voxel]).tolist(), uptake.shape, strict=True))
        canvas.raise_to(np.where(uptake >= floors[voxel], values[seen], 0.0), first)


def _middle(template: NDArray[np.float64]) -> list[int]:
    return [n // 2 for n in template.shape]


def _paint_gaussians(canvas: ChannelCanvas, seeds: Seeds, sigma: Floats, plan: DrawingPlan) -> None:
    """Paint Gaussians with `(n, 3)` sigmas in voxels."""
    starts, counts, profiles = _profiles(seeds, sigma, plan)
    canvas.paint(starts, counts, profiles, seeds.weights, add=plan.adds)


def _profiles(seeds: Seeds, sigma: Floats, plan: DrawingPlan) -> tuple[Ints, Ints, Floats]:
    """The first voxel, the number of values, and the values of each prompt's Gaussian, along each axis."""
    radius = (plan["truncate"] * sigma + 0.5).astype(np.int64)
    starts, counts = seeds.voxels - radius, 2 * radius + 1
    longest = int(counts.max(initial=1))
    steps = np.arange(longest) - radius[..., None]
    inside = steps <= radius[..., None]
    weights = np.where(inside, _bell(steps, sigma[..., None], plan.settings.get("profile", "sampled")), 0.0)
    if plan.settings.get("scale", "peak") == "sum":
        if plan.settings["profile"] == "sampled":
            weights /= weights.sum(axis=2, keepdims=True)
    else:
        weights /= weights.max(axis=2, keepdims=True)
    if plan.settings.get("border") == "reflect":
        return _reflected(starts, weights, seeds.volume)
    return starts, counts, weights


def _bell(steps: Ints, sigma: Floats, profile: str) -> Floats:
    if profile == "sampled":
        return np.exp(-0.5 * (steps / sigma) ** 2)
    from scipy.special import erf

    scale = 1.0 / (np.sqrt(2.0) * sigma)
    return 0.5 * (erf((steps + 0.5) * scale) - erf((steps - 0.5) * scale))


def _reflected(starts: Ints, weights: Floats, volume: tuple[int, ...]) -> tuple[Ints, Ints, Floats]:
    """Profiles over the whole axis; values outside the volume are mirrored at the outer face of the last voxel."""
    folded = np.zeros((len(starts), 3, max(volume)))
    for axis, n in enumerate(volume):
        place = (starts[:, axis, None] + np.arange(weights.shape[2])) % (2 * n)
        place = np.where(place < n, place, 2 * n - 1 - place)
        rows = np.broadcast_to(np.arange(len(starts))[:, None], place.shape)
        np.add.at(folded[:, axis], (rows, place), weights[:, axis])
    used = folded > 0
    first = used.argmax(axis=2)
    last = folded.shape[2] - used[..., ::-1].argmax(axis=2)
    span = last - first
    longest = int(span.max(initial=1))
    at = np.minimum(first[..., None] + np.arange(longest), folded.shape[2] - 1)
    return first, span, np.take_along_axis(folded, at, axis=2)


def _draw_fall(
    canvas: ChannelCanvas,
    seeds: Seeds,
    end: float,
    spacing: tuple[float, float, float],
    value: Callable[[Floats], Floats],
) -> None:
    """Draw a value that falls with the distance and ends at `end`, by stamps or by one distance transform."""
    cells = np.prod(2.0 * (end / np.array(spacing)) + 1.0) if np.isfinite(end) else np.inf
    if cells * len(seeds.voxels) <= MOST_STAMPED * canvas.view.size:
        template = distance_template(end, spacing, value)
        canvas.stamp(template, _middle(template), seeds)
        return
    for weight, voxels in seeds.by_weight():
        _raise(canvas, weight * value(_distance_to(canvas, voxels, spacing)))


def _distance_to(canvas: ChannelCanvas, voxels: Ints, spacing: tuple[float, float, float]) -> Floats:
    """The distance to the nearest of some voxels, from one distance transform of the box that holds all of them."""
    import edt

    low = np.minimum(canvas.origin, voxels.min(axis=0))
    high = np.maximum(canvas.origin + canvas.shape, voxels.max(axis=0) + 1)
    free = np.ones(high - low, dtype=bool, order="F")
    free[tuple((voxels - low).T)] = False
    found = edt.edt(free, anisotropy=spacing, black_border=False, parallel=1)
    first = canvas.origin - low
    return found[tuple(slice(a, a + n) for a, n in zip(first.tolist(), canvas.shape, strict=True))].astype(np.float64)


def _distance_inside(canvas: ChannelCanvas, seeds: Seeds) -> Floats:
    """The distance of prompt voxels to the nearest voxel without a prompt, in voxels; 0 elsewhere."""
    from scipy.ndimage import distance_transform_edt

    mask = np.zeros(canvas.shape, dtype=bool)
    inside = seeds.near(canvas.origin, canvas.origin + canvas.shape)
    mask[tuple((inside.voxels - canvas.origin).T)] = True
    return np.asarray(distance_transform_edt(mask), dtype=np.float64)


def _raise(canvas: ChannelCanvas, values: Floats) -> None:
    canvas.raise_to(values.astype(np.float32), canvas.origin)


def _length(meaning: str, default: float, *, above: bool = True) -> Setting:
    return Setting("length", meaning, default=default, low=0, high=1e9, above=above, unit="mm")


def _share(meaning: str, default: float, *, endless: bool = False) -> Setting:
    return Setting("float", meaning, default=default, low=0, high=1e9, above=True, endless=endless)


_SUPPORT = "where the support ends, in standard deviations"
_SCALE = Setting(
    "str", "peak: 1 at the prompt; sum: the voxels of one prompt sum to 1", ("peak", "sum"), default="peak"
)
_MERGE = Setting("str", "where prompts meet: the largest value, or the sum", ("max", "add"), default="max")
_COST: dict[str, Setting] = {
    "mix": Setting(
        "float", "share of the image in the cost of a step; the rest is its length", default=0.5, low=0, high=0.999
    ),
    "contrast_mm": Setting(
        "float", "the length that a difference of 1 in the image counts as", default=5.0, low=0, high=1e9, unit="mm"
    ),
}


def _no_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:  # noqa: ARG001
    return [0.0, 0.0, 0.0]


def _gaussian_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    return [plan["truncate"] * sigma + 0.5 for sigma in plan.voxels("sigma", spacing)]


def _radius_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    return [radius + 0.5 for radius in plan.voxels("radius", spacing)]


def _distance_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    return list(plan.voxels("reach", spacing))


def _fall_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    return [plan["truncate"] * fall for fall in plan.voxels("fall", spacing)]


def _path_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    """A path that costs `reach` is at most `reach / (1 - mix)` long."""
    ends = _fall_reach(plan, spacing) if "truncate" in plan.settings else _distance_reach(plan, spacing)
    return [end / (1.0 - plan["mix"]) for end in ends]


def _adaptive_reach(plan: DrawingPlan, spacing: Spacing | None) -> list[float]:
    return [plan["truncate"] * sigma + 0.5 for sigma in plan.voxels("sigma_max", spacing)]


def _check_sigmas(settings: Mapping[str, Any]) -> None:
    for unit in ("_mm", "_vx"):
        low, high = settings.get(f"sigma_min{unit}"), settings.get(f"sigma_max{unit}")
        if low is not None and high is not None and np.any(np.greater(low, high)):
            raise SettingError(f"sigma_min{unit} must not be above sigma_max{unit}, got {low} and {high}")


POINTS = Encoding("points", draw_points, {}, stencil=True, reach=_no_reach)
GAUSSIAN = Encoding(
    "gaussian",
    draw_gaussian,
    {
        "sigma_mm": _length("standard deviation of the Gaussian", 3.0),
        "truncate": _share(_SUPPORT, 4.0),
        "profile": Setting(
            "str", "the Gaussian at voxel centres (sampled), or its integral over each voxel (integrated)",
            ("sampled", "integrated"), default="sampled",
        ),
        "scale": _SCALE,
        "border": Setting(
            "str", "zero: what leaves the volume is lost; reflect: it is mirrored at the outer face",
            ("zero", "reflect"), default="zero",
        ),
        "merge": _MERGE,
    },
    stencil=True,
    reach=_gaussian_reach,
)  # fmt: skip
BALL = Encoding(
    "ball", draw_ball, {"radius_mm": _length("radius of the ball", 5.0, above=False)}, stencil=True,
    reach=_radius_reach,
)  # fmt: skip
DISK = Encoding(
    "disk",
    draw_disk,
    {
        "radius_mm": _length("radius of the disk", 5.0, above=False),
        "axis": Setting("int", "stored axis perpendicular to the disk, from 0", default=2, low=0, high=2),
        "scale": _SCALE,
        "merge": _MERGE,
    },
    stencil=True,
    reach=_radius_reach,
)
EDT_BALL = Encoding(
    "edt-ball", draw_edt_ball, {"radius_mm": _length("radius of the ball", 5.0, above=False)}, stencil=True,
    reach=_radius_reach,
)  # fmt: skip
DISTANCE = Encoding(
    "distance", draw_distance, {"reach_mm": _length("distance at which the value is 0", 30.0)}, stencil=True,
    reach=_distance_reach,
)  # fmt: skip
EXP_DISTANCE = Encoding(
    "exp-distance",
    draw_exp_distance,
    {
        "fall_mm": _length("distance over which the value falls by the factor e", 10.0),
        "truncate": _share("where the support ends, in lengths of `fall`; infinite for no end", 6.0, endless=True),
    },
    stencil=True,
    reach=_fall_reach,
)
INVERSE_DISTANCE = Encoding(
    "inverse-distance",
    draw_inverse_distance,
    {
        "offset_vx": Setting(
            "float", "what is added to the distance before its inverse is taken", default=1e-6, low=0, high=1e9,
            above=True, unit="voxels",
        ),
        "inverted": Setting("bool", "whether the distance is measured inside the prompts", default=False),
    },
    solid=True,
)  # fmt: skip
GEODESIC = Encoding(
    "geodesic", draw_geodesic, {"reach_mm": _length("distance at which the value is 0", 30.0), **_COST},
    needs_image=True, reach=_path_reach,
)  # fmt: skip
EXP_GEODESIC = Encoding(
    "exp-geodesic",
    draw_exp_geodesic,
    {
        "fall_mm": _length("distance over which the value falls by the factor e", 10.0),
        "truncate": _share("where the support ends, in lengths of `fall`; infinite for no end", 3.0, endless=True),
        **_COST,
    },
    needs_image=True,
    reach=_path_reach,
)
ADAPTIVE = Encoding(
    "adaptive",
    draw_adaptive,
    {
        "sigma_min_mm": _length("smallest standard deviation", 2.0),
        "sigma_max_mm": _length("largest standard deviation", 6.0),
        "window_mm": _length("half the side of the box around a prompt in which the image is read", 8.0, above=False),
        "contrast": _share("standard deviation of the image around a prompt at which sigma is smallest", 2.0),
        "truncate": _share(_SUPPORT, 4.0),
    },
    needs_image=True,
    reach=_adaptive_reach,
    check=_check_sigmas,
)
MASKED = Encoding(
    "masked",
    draw_masked,
    {
        "sigma_mm": _length("standard deviation of the Gaussian", 3.0),
        "truncate": _share(_SUPPORT, 4.0),
        "suv": Setting(
            "float", "voxels are zero below this uptake, or below that of the prompt if it is lower", default=3.0,
            low=0, high=1e9,
        ),
    },
    needs_image=True,
    solid=True,
    reach=_gaussian_reach,
)  # fmt: skip

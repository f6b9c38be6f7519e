"""Every encoding with its settings, and the presets for what published entries used.

A length is given in mm or, by name, in voxels: `radius_mm=5` or `radius_vx=2`; in voxels also as three numbers along
`i, j, k`. Giving one of the two puts the other one's default aside.
"""

import math
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clicksim.errors import GeometryError, SettingError, unknown_name
from clicksim.geometry import Spacing

ALL = {"channels": "two", "decay": 1.0, "decay_by": "round", "background": True, "normalise": "none", "threshold": -1.0}
GAUSSIAN = {
    "sigma_mm": 3.0, "truncate": 4.0, "profile": "sampled", "scale": "peak", "border": "zero", "merge": "max",
}  # fmt: skip
COST = {"mix": 0.5, "contrast_mm": 5.0}

DEFAULTS: dict[str, dict[str, Any]] = {
    "points": {},
    "gaussian": GAUSSIAN,
    "ball": {"radius_mm": 5.0},
    "disk": {"radius_mm": 5.0, "axis": 2, "scale": "peak", "merge": "max"},
    "edt-ball": {"radius_mm": 5.0},
    "distance": {"reach_mm": 30.0},
    "exp-distance": {"fall_mm": 10.0, "truncate": 6.0},
    "inverse-distance": {"offset_vx": 1e-6, "inverted": False},
    "geodesic": {"reach_mm": 30.0, **COST},
    "exp-geodesic": {"fall_mm": 10.0, "truncate": 3.0, **COST},
    "adaptive": {"sigma_min_mm": 2.0, "sigma_max_mm": 6.0, "window_mm": 8.0, "contrast": 2.0, "truncate": 4.0},
    "masked": {"sigma_mm": 3.0, "truncate": 4.0, "suv": 3.0},
}
NEEDS_IMAGE = ("geodesic", "exp-geodesic", "adaptive", "masked")
CHOICES: dict[str, tuple[str, ...]] = {
    "channels": ("two", "signed", "foreground-first"),
    "decay_by": ("round", "prompt"),
    "normalise": ("none", "minmax"),
    "profile": ("sampled", "integrated"),
    "scale": ("peak", "sum"),
    "border": ("zero", "reflect"),
    "merge": ("max", "add"),
}
MEANING = {
    "channels": "two of them, or one: foreground less background (signed), or background only where no foreground is "
    "(foreground-first)",
    "decay": "what a prompt keeps of its weight with each later round",
    "decay_by": "what a step of the decay is: a round, or a prompt in the order of the rounds",
    "background": "whether background prompts are drawn",
    "normalise": "none, or minmax: each channel to 0 to 1 over the buffer",
    "threshold": "above it 1, else 0, after all else; -1 for none",
    "sigma": "standard deviation of the Gaussian",
    "truncate": "where the support ends, in standard deviations, or in lengths of the fall",
    "profile": "the Gaussian at voxel centres (sampled), or its integral over each voxel (integrated)",
    "scale": "peak: 1 at the prompt; sum: the voxels of one prompt sum to 1",
    "border": "zero: what leaves the volume is lost; reflect: it is mirrored at the outer face",
    "merge": "where prompts meet: the largest value, or the sum",
    "radius": "of the ball or disk",
    "axis": "stored axis across which disks lie",
    "reach": "distance at which the value is 0",
    "fall": "distance over which the value falls by the factor e",
    "offset": "what is added to the distance before its inverse is taken",
    "inverted": "the distance inside the prompts in place of that to them",
    "mix": "share of the image in a step's cost, 0 to below 1; the rest is its length",
    "contrast": "geodesic: the mm that a difference of 1 in the image counts as; adaptive: the standard deviation of "
    "the image around a prompt at which sigma is smallest",
    "sigma_min": "smallest standard deviation",
    "sigma_max": "largest standard deviation",
    "window": "half the side of the box around a prompt in which the image is looked at",
    "suv": "voxels are zeroed below this uptake, or below that of the prompt where it is lower",
}


@dataclass(frozen=True)
class Preset:
    """An encoding with the settings that somebody published.

    Attributes:
        encoding: The name of the encoding.
        settings: What differs from its defaults.
        source: Who used it, and what is wrong with it where something is.
    """

    encoding: str
    settings: Mapping[str, Any]
    source: str


_SUM = {"scale": "sum", "border": "reflect", "merge": "add"}
_TUTORIAL = {"background": False, "normalise": "minmax"}
_MONAI = {"profile": "integrated", "scale": "sum", "merge": "add", "normalise": "minmax"}

PRESETS: dict[str, Preset] = {
    "autopet-iv": Preset("gaussian", {"sigma_vx": 3.0, **_SUM}, "autoPET IV baseline; its peak is 0.0024"),
    "iv-z": Preset("gaussian", {"sigma_vx": 1.0, **_SUM}, "Zrrr1997/AutoPET_IV_Interactive; its peak is 0.063"),
    "autopet-v": Preset("points", {}, "autoPET V baseline: the voxels themselves"),
    "lesionlocator": Preset("edt-ball", {"radius_vx": 2.0}, "MIC-DKFZ/autoPET-interactive, second of autoPET IV"),
    "nninteractive": Preset(
        "edt-ball", {"radius_vx": 4.0, "decay": 0.98, "decay_by": "prompt"}, "MIC-DKFZ/nnInteractive, points"
    ),
    "sw-fastedit": Preset(
        "gaussian", {"sigma_vx": 1.0, **_MONAI, "threshold": 0.1},
        "Zrrr1997/SW-FastEdit, disks; close prompts change each other's shape",
    ),
    "sw-fastedit-soft": Preset("gaussian", {"sigma_vx": 1.0, **_MONAI}, "Zrrr1997/SW-FastEdit with --no_disks"),
    "deepgrow": Preset("gaussian", {"sigma_vx": 2.0, **_MONAI}, "MONAI Deepgrow and DeepEdit"),
    "zhack": Preset(
        "masked", {"sigma_vx": 3.0, "suv": 3.0, "channels": "foreground-first"},
        "third of autoPET IV: one signed channel, foreground masked by uptake; the shape of the blob is not published",
    ),
    "autopet__": Preset(
        "gaussian", {"sigma_vx": 4.0, "channels": "signed"}, "fourth of autoPET IV: peaks 1 and -1, sigma 3 to 5"
    ),
    "tutorial-gaussian@1": Preset("gaussian", {"sigma_vx": 2.0, "scale": "sum", "merge": "add", **_TUTORIAL},
                                  "autoPET V guidance tutorial; foreground alone"),
    "tutorial-disk@1": Preset(
        "disk", {"radius_vx": 3.0, "scale": "sum", "merge": "add", **_TUTORIAL},
        "autoPET V guidance tutorial; disks that meet dim those that stand alone",
    ),
    "tutorial-euclidean@1": Preset(
        "inverse-distance", {**_TUTORIAL}, "autoPET V guidance tutorial; one millionth one voxel away: in effect binary"
    ),
    "tutorial-euclidean-gpu@1": Preset(
        "inverse-distance", {"inverted": True, **_TUTORIAL},
        "autoPET V guidance tutorial on a GPU; inverted: 0 at the prompt and 1 everywhere else",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DrawingPlan:
    """An encoding with all its settings, checked.

    Attributes:
        encoding: Its name.
        settings: Every setting, defaults included; of each length one of `_mm` and `_vx`.
    """

    encoding: str
    settings: Mapping[str, Any]

    @property
    def needs_image(self) -> bool:
        """Whether it reads the image."""
        return self.encoding in NEEDS_IMAGE

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def voxels(self, name: str, spacing: Spacing | None) -> tuple[float, float, float]:
        """A length along `i, j, k` in voxels.

        Raises:
            GeometryError: A length in mm on a grid without a spacing.
        """
        if f"{name}_vx" in self.settings:
            a, b, c = np.broadcast_to(self.settings[f"{name}_vx"], 3).tolist()
            return (a, b, c)
        length = self.settings[f"{name}_mm"]
        s = _known(spacing, name, self.encoding)
        return (length / s[0], length / s[1], length / s[2])

    def length(self, name: str, spacing: Spacing | None) -> tuple[float, Spacing]:
        """A length for distances, with the voxel size in the same unit: mm, or voxels that count as cubes of 1.

        Raises:
            GeometryError: A length in mm on a grid without a spacing.
        """
        if f"{name}_vx" in self.settings:
            value = self.settings[f"{name}_vx"]
            if not isinstance(value, float):
                # an ellipsoid: the unit is its half-axis
                return 1.0, (1 / value[0], 1 / value[1], 1 / value[2])
            return value, (1.0, 1.0, 1.0)
        return self.settings[f"{name}_mm"], _known(spacing, name, self.encoding)


def plan_encoding(name: str, given: Mapping[str, Any]) -> DrawingPlan:
    """An encoding or preset by its name, with settings of one's own.

    >>> plan_encoding("ball", {"radius_vx": 2}).settings["radius_vx"]
    2.0

    Warns:
        UserWarning: A setting without effect.

    Raises:
        SettingError: An unknown name or an impossible value; a length in mm and in voxels at once.
    """
    preset = PRESETS.get(name)
    kind = preset.encoding if preset else name
    if kind not in DEFAULTS:
        raise unknown_name("encoding", name, [*DEFAULTS, *PRESETS])
    settings = {**ALL, **DEFAULTS[kind]}
    allowed = {both for one in settings for both in (one, _other(one)) if both}
    for changes in (dict(preset.settings) if preset else {}, dict(given)):
        for key, value in changes.items():
            if key not in allowed:
                raise unknown_name(f"setting of {name}", key, allowed)
            twin = _other(key)
            if twin and twin in changes:
                raise SettingError(f"{key} and {twin} are one length in two units; give one of them (encoding {name})")
            settings.pop(twin, None)
            settings[key] = _checked(key, value)
    _check_together(settings, given)
    return DrawingPlan(kind, settings)


def _other(key: str) -> str:
    """The same length in the other unit; empty for what is no length. `contrast_mm` is no length in space."""
    if key == "contrast_mm":
        return ""
    for mine, twin in (("_mm", "_vx"), ("_vx", "_mm")):
        if key.endswith(mine):
            return key.removesuffix(mine) + twin
    return ""


def _checked(key: str, value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise unknown_name(key, str(value), CHOICES[key])
        return value
    if key in ("background", "inverted"):
        if not isinstance(value, bool):
            raise SettingError(f"{key} must be true or false, got {value!r}")
        return value
    if key == "axis":
        if isinstance(value, bool) or value not in (0, 1, 2):
            raise SettingError(f"axis must be 0, 1 or 2, got {value!r}")
        return int(value)
    if key.endswith("_vx") and isinstance(value, list | tuple):
        if len(value) != 3:
            raise SettingError(f"{key} is one number or three along i, j, k, got {value!r}")
        numbers = tuple(_number(key, one) for one in value)
        if min(numbers) == 0:
            raise SettingError(f"the three numbers of {key} must be above 0, got {numbers}")
        return numbers
    return _number(key, value)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise SettingError(f"{key} must be a number, got {value!r}")
    low, high = {"decay": (0.0, 1.0), "mix": (0.0, 0.999), "threshold": (-1.0, 1e9)}.get(key, (0.0, 1e9))
    endless = key == "truncate" and value == math.inf
    positive = key.split("_")[0] in ("sigma", "reach", "fall", "truncate", "offset", "contrast")
    if not (endless or low <= value <= high) or (positive and value == 0 and key != "contrast_mm"):
        above = "above 0" if positive else f"at least {low:g}"
        raise SettingError(f"{key} must be {above} and at most {high:g}, got {reprlib.repr(value)}")
    return float(value)


def _check_together(settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """What single values cannot show."""
    if "decay_by" in given and settings["decay"] == 1.0:
        warnings.warn("decay_by has no effect while decay is 1", UserWarning, stacklevel=4)
    if settings.get("truncate") == math.inf and "fall_mm" not in settings and "fall_vx" not in settings:
        raise SettingError("truncate must be finite for a Gaussian")
    for unit in ("_mm", "_vx"):
        low, high = settings.get(f"sigma_min{unit}"), settings.get(f"sigma_max{unit}")
        if low is not None and high is not None and np.any(np.greater(low, high)):
            raise SettingError(f"sigma_min{unit} must not be above sigma_max{unit}, got {low} and {high}")


def _known(spacing: Spacing | None, name: str, encoding: str) -> Spacing:
    if spacing is None:
        raise GeometryError(
            f"{name}_mm needs a spacing and the prompts' grid has none; give spacing=, or {name}_vx for voxels "
            f"(encoding {encoding})"
        )
    return spacing

"""Encodings: their declaration, their settings, and presets of published entries.

An encoding is an `Encoding`, named in the entry-point group `clicksim.encodings`. Everything that draws guidance finds
it there: `clicksim.encode`, the command line, the linter, the adapters and training. A package adds one in its
`pyproject.toml`, without changing clicksim:

    [project.entry-points."clicksim.encodings"]
    cube = "my_package:CUBE"

    def draw_cube(canvas, seeds, plan):
        "1 within `half` of a prompt along every axis, else 0."
        half = [int(n + 1e-9) for n in plan.voxels("half", seeds.spacing)]
        canvas.stamp(np.ones([2 * n + 1 for n in half]), half, seeds)

    def reach_cube(plan, spacing):
        return plan.voxels("half", spacing)

    HALF = Setting("length", "half of an edge", default=5.0, low=0, high=1000, unit="mm")
    CUBE = Encoding("cube", draw_cube, {"half_mm": HALF}, stencil=True, reach=reach_cube)

`clicksim.testing.check_encoding` tests it. `clicksim.guidance.canvas` describes the arguments of a drawing function.

A length is given in mm or in voxels, by its name: `half_mm=5` or `half_vx=2`. A length in voxels may also be three
numbers along `i, j, k`. A given length replaces the default in the other unit.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clicksim.errors import GeometryError, SettingError, unknown_name
from clicksim.extensions import ExtensionRegistry
from clicksim.geometry import Spacing
from clicksim.settings import Setting, SettingsTable, check_value, unknown_setting

COMMON: SettingsTable = {
    "channels": Setting(
        "str",
        "two channels, or one: foreground minus background (signed), or background only where there is no foreground "
        "(foreground-first)",
        ("two", "signed", "foreground-first"),
        default="two",
    ),
    "decay": Setting("float", "factor of a prompt's weight for each later round", default=1.0, low=0, high=1),
    "decay_by": Setting(
        "str", "one step of the decay: a round, or a prompt in the order of the rounds", ("round", "prompt"),
        default="round",
    ),
    "background": Setting("bool", "whether background prompts are drawn", default=True),
    "normalise": Setting(
        "str", "none, or minmax: scale each channel to 0 to 1 over the buffer", ("none", "minmax"), default="none"
    ),
    "threshold": Setting(
        "float", "1 where the finished channel is above this value, else 0; -1 for no threshold", default=-1.0, low=-1,
        high=1e9,
    ),
}  # fmt: skip
"""The settings that every encoding has."""


@dataclass(frozen=True)
class Encoding:
    """An encoding of prompts.

    Attributes:
        name: The name of its entry point.
        draw: Draws the prompts of one polarity into one channel: `draw(canvas, seeds, plan)`, or
            `draw(canvas, seeds, plan, image)` if it reads the image. Its docstring gives the formula.
        settings: Its own settings with their defaults, without `COMMON`. The name of a `length` ends in `_mm`.
        needs_image: Whether it also reads the image.
        solid: Whether a box is drawn from all of its voxels. Otherwise `draw` gets its surface, and the inside is
            filled with 1.
        stencil: Whether the values around a prompt depend only on the offset from it, and the largest value is kept
            where prompts meet, or their sum if the setting `merge` is `add`. Training draws stencils on the GPU;
            other encodings are drawn on the CPU.
        reach: `reach(plan, spacing)` gives the distance along `i, j, k`, in voxels, beyond which a prompt changes
            nothing; infinite, or no function, if there is no such distance. A stencil needs a finite one.
        check: Raises a `SettingError` for settings that do not fit together.
    """

    name: str
    draw: Callable[..., None]
    settings: SettingsTable
    needs_image: bool = False
    solid: bool = False
    stencil: bool = False
    reach: "Callable[[DrawingPlan, Spacing | None], Sequence[float]] | None" = None
    check: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """Its own settings with their default values."""
        return {name: setting.default for name, setting in self.settings.items()}

    @property
    def allowed(self) -> dict[str, Setting]:
        """All settings that can be given: `COMMON`, its own, and each length in voxels too."""
        lengths = {
            in_voxels(name): replace(setting, kind="axes", unit="voxels", default=None)
            for name, setting in self.settings.items()
            if setting.kind == "length"
        }
        return {**COMMON, **self.settings, **lengths}


def in_voxels(name: str) -> str:
    """The name of a length in voxels."""
    return f"{name.removesuffix('_mm')}_vx"


@dataclass(frozen=True)
class Preset:
    """An encoding with settings that somebody published.

    Attributes:
        encoding: The name of the encoding.
        settings: The settings that differ from its defaults.
        source: Who used it, and what is wrong with it, if anything.
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
                                  "autoPET V guidance tutorial; foreground only"),
    "tutorial-disk@1": Preset(
        "disk", {"radius_vx": 3.0, "scale": "sum", "merge": "add", **_TUTORIAL},
        "autoPET V guidance tutorial; overlapping disks dim all other disks",
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
        encoding: The encoding.
        settings: Every setting, defaults included; each length in one unit, `_mm` or `_vx`.
    """

    encoding: Encoding
    settings: Mapping[str, Any]

    @property
    def needs_image(self) -> bool:
        """Whether the encoding reads the image."""
        return self.encoding.needs_image

    @property
    def adds(self) -> bool:
        """Whether values add up where prompts meet."""
        return bool(self.settings.get("merge") == "add")

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def voxels(self, name: str, spacing: Spacing | None) -> tuple[float, float, float]:
        """A length along `i, j, k` in voxels.

        Raises:
            GeometryError: The length is in mm, and the grid has no spacing.
        """
        if f"{name}_vx" in self.settings:
            a, b, c = np.broadcast_to(self.settings[f"{name}_vx"], 3).tolist()
            return (a, b, c)
        length = self.settings[f"{name}_mm"]
        s = self._known(spacing, name)
        return (length / s[0], length / s[1], length / s[2])

    def length(self, name: str, spacing: Spacing | None) -> tuple[float, Spacing]:
        """A length, and the voxel size in the same unit: mm, or voxels, which then count as cubes of 1.

        Raises:
            GeometryError: The length is in mm, and the grid has no spacing.
        """
        if f"{name}_vx" in self.settings:
            value = self.settings[f"{name}_vx"]
            if not isinstance(value, float):
                # an ellipsoid: the unit is its half-axis
                return 1.0, (1 / value[0], 1 / value[1], 1 / value[2])
            return value, (1.0, 1.0, 1.0)
        return self.settings[f"{name}_mm"], self._known(spacing, name)

    def reach(self, spacing: Spacing | None) -> tuple[float, float, float]:
        """The distance along `i, j, k`, in voxels, beyond which a prompt changes nothing; infinite for none."""
        if self.encoding.reach is None:
            return (np.inf, np.inf, np.inf)
        a, b, c = self.encoding.reach(self, spacing)
        return (float(a), float(b), float(c))

    def _known(self, spacing: Spacing | None, name: str) -> Spacing:
        if spacing is None:
            raise GeometryError(
                f"{name}_mm needs a spacing and the prompts' grid has none; give spacing=, or {name}_vx for voxels "
                f"(encoding {self.encoding.name})"
            )
        return spacing


def _check_encoding(name: str, found: Any) -> Encoding:
    if not isinstance(found, Encoding):
        raise TypeError(f"an encoding is a clicksim.guidance.Encoding, got {type(found).__name__}")
    if found.name != name:
        raise TypeError(f"its name is {found.name!r}; give its entry point the same name")
    if name in PRESETS:
        raise TypeError("a preset of clicksim has the same name; choose another")
    if found.stencil and found.reach is None:
        raise TypeError("a stencil needs reach")
    return found


ENCODINGS = ExtensionRegistry("clicksim.encodings", "encoding", _check_encoding)
"""Every encoding that is installed."""


def plan_encoding(name: str, given: Mapping[str, Any]) -> DrawingPlan:
    """Find an encoding or preset by its name and check settings for it.

    >>> plan_encoding("ball", {"radius_vx": 2}).settings["radius_vx"]
    2.0

    Warns:
        UserWarning: A setting has no effect.

    Raises:
        SettingError: The name is unknown, a value is not allowed, or a length is given in mm and in voxels at once.
    """
    preset = PRESETS.get(name)
    kind = preset.encoding if preset else name
    if kind not in ENCODINGS:
        raise unknown_name("encoding", name, [*ENCODINGS.names, *PRESETS])
    encoding = ENCODINGS.find(kind)
    allowed = encoding.allowed
    settings = {key: setting.default for key, setting in {**COMMON, **encoding.settings}.items()}
    for changes in (dict(preset.settings) if preset else {}, dict(given)):
        for key, value in changes.items():
            if key not in allowed:
                raise unknown_setting(name, key, {"": allowed})
            twin = _twin(key, allowed)
            if twin in changes:
                raise SettingError(f"{key} and {twin} are one length in two units; give only one (encoding {name})")
            settings.pop(twin, None)
            settings[key] = check_value(key, allowed[key], value)
    if "decay_by" in given and settings["decay"] == 1.0:
        warnings.warn("decay_by has no effect while decay is 1", UserWarning, stacklevel=3)
    if encoding.check is not None:
        encoding.check(settings)
    return DrawingPlan(encoding, settings)


def _twin(key: str, allowed: SettingsTable) -> str:
    """The name of the same length in the other unit; empty for a setting that is not a length."""
    if allowed[key].kind == "length":
        return in_voxels(key)
    return f"{key.removesuffix('_vx')}_mm" if allowed[key].kind == "axes" else ""

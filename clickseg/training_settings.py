"""Every setting of the store, the model and the training, declared once: value, range, meaning.

Three frozen groups. They are written into the store and into each checkpoint, so that a model always knows how its
data were made. On the command line a setting is `--set name=value` or a line of a TOML file.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from clicksim.errors import SettingError, unknown_name

SIZES = ("tiny", "small", "medium", "large")
ENCODINGS = ("gaussian", "gaussian-sum", "ball", "edt-ball", "distance")
LAWS = ("uniform", "log", "u-shape")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def _setting(
    default: Any,
    meaning: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Any = (),
    optional: bool = False,
) -> Any:
    """A field with its meaning and what it may be; a tuple has the default's length, its entries lie in the range."""
    about = {"meaning": meaning, "low": low, "high": high, "choices": tuple(choices), "optional": optional}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class _Group:
    """Settings that belong together; checked when made."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _checked(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)

    @classmethod
    def names(cls) -> list[str]:
        """The names of the settings."""
        return [item.name for item in fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The group with these values and else the defaults.

        Raises:
            SettingError: An unknown name, or a value that is not allowed.
        """
        for name in values:
            if name not in cls.names():
                raise unknown_name("setting", name, cls.names())
        return cls(**values)

    def but(self, **values: Any) -> Self:
        """The same with other values."""
        return replace(self, **values)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class StoreRules(_Group):
    """How cases become arrays of the patch store. A change of any of them makes all arrays anew."""

    spacing_mm: tuple[float, ...] = _setting(
        (2.0, 2.0, 3.0),
        "voxel size along R, A, S in mm; empty keeps that of each case",
        low=0.1,
        high=100,
        optional=True,
    )
    pet_type: str = _setting("float32", "type of stored uptake", choices=("float32", "float16"))
    compressed: bool = _setting(False, "zip the arrays: smaller, but a case is read whole for each patch")
    spots: int = _setting(
        256, "places kept for sampling, of each lesion, of hot uptake and of the body", low=1, high=100_000
    )
    hot_percentile: float = _setting(
        99.75, "hot lies above this percentile of the uptake outside lesions", low=0, high=100
    )
    body_hu: float = _setting(-500.0, "the body lies above this CT value")
    seed: int = _setting(42, "of the places kept for sampling")


@dataclass(frozen=True)
class ModelSettings(_Group):
    """What a network is and what it expects; stands in every checkpoint."""

    size: str = _setting("medium", "of the network", choices=SIZES)
    patch: tuple[int, ...] = _setting((128, 128, 96), "voxels of a patch along R, A, S", low=8, high=512)
    deep_supervision: int = _setting(
        0, "coarser outputs that also bear a loss; a tiny network has 1, each larger size one more", low=0, high=4
    )
    encoding: str = _setting("edt-ball", "of prompts; see clickseg.data.prompt_channels", choices=ENCODINGS)
    encoding_mm: float = _setting(
        5.0, "radius of a ball, sigma of a Gaussian, reach of a distance, mm", low=0.1, high=100
    )
    ct_window: tuple[float, ...] = _setting((-1000.0, 1000.0), "CT is cut to this range of HU ...")
    ct_scale: float = _setting(300.0, "... and divided by this", low=1)
    suv_limit: float = _setting(100.0, "uptake is cut to 0 and this, then log(1 + SUV) is taken", low=1)
    head_bias: float = _setting(-2.0, "of the last layer at the start: lesions are rare")


@dataclass(frozen=True)
class TrainSettings(_Group):
    """How a model is trained."""

    # data
    fold: int = _setting(0, "cases of this fold are held out; -1 trains on all", low=-1, high=4)
    odds: tuple[float, ...] = _setting(
        (0.5, 0.25, 0.25), "of a patch on a lesion, on hot uptake, in the body", low=0, high=1
    )
    workers: int = _setting(
        4,
        "loader processes, no more than there are cores; 0 loads in this one; the result is the same",
        low=0,
        high=256,
    )
    # augmentation
    flips: bool = _setting(True, "mirror along each axis at even odds")
    affine: float = _setting(0.3, "odds of a rotation and scaling, on the device", low=0, high=1)
    rotation_deg: float = _setting(15.0, "largest rotation about each axis", low=0, high=180)
    scaling: float = _setting(0.2, "largest change of size, as a share", low=0, high=0.9)
    intensity: float = _setting(0.5, "odds of a change of the grey values, of CT and PET each", low=0, high=1)
    # prompts
    scribbles: float = _setting(0.5, "share of samples with scribbles; the others have clicks", low=0, high=1)
    law: str = _setting(
        "uniform", "of the number of prompts of each polarity before the first prediction", choices=LAWS
    )
    max_prompts: int = _setting(10, "largest number of them", low=0, high=100)
    silent: float = _setting(
        0.15, "share of samples that never get a prompt; a model must work without", low=0.01, high=1
    )
    corrections: int = _setting(3, "rounds of correction at the end of the curriculum", low=0, high=20)
    corrections_from: float = _setting(0.2, "share of the steps before the first correction", low=0, high=1)
    corrections_full: float = _setting(0.6, "share of the steps after which all rounds are played", low=0, high=1)
    click_protocol: str = _setting("autopet-iv@2", "rule of clicks")
    correction_protocol: str = _setting("autopet-v@2", "rule of scribbles and corrections")
    # channels that may be missing
    drop_previous: float = _setting(0.3, "odds that the previous mask is withheld", low=0, high=1)
    spoil_previous: float = _setting(0.2, "odds that it is grown, shrunk or has a box cut out or filled", low=0, high=1)
    drop_pet: float = _setting(0.05, "odds that a PET is withheld, as if the case had only a CT", low=0, high=1)
    # optimisation
    steps: int = _setting(100_000, "of the optimiser", low=1)
    batch: int = _setting(2, "patches in one pass, on each device", low=1, high=1024)
    accumulate: int = _setting(1, "passes in one step", low=1, high=1024)
    rate: float = _setting(3e-4, "highest learning rate (AdamW)", low=0)
    warmup: float = _setting(
        0.01, "share of the steps in which the rate rises; it falls with a cosine after", low=0, high=1
    )
    decay: float = _setting(0.01, "weight decay", low=0)
    clip: float = _setting(12.0, "largest norm of the gradient", low=0)
    average: float = _setting(
        0.0, "decay of a running mean of the weights (EMA), such as 0.999; 0 for none", low=0, high=0.99999
    )
    precision: str = _setting("auto", "auto is bfloat16 where a GPU has it, else float32", choices=PRECISIONS)
    compiled: bool = _setting(False, "torch.compile the network")
    deterministic: bool = _setting(
        False,
        "the same weights to the last bit in every run on one machine; on a GPU slower, and not with deep_supervision",
    )
    seed: int = _setting(42, "of everything")
    # record
    log_every: int = _setting(20, "steps between rows of loss, for each of which the device is waited for", low=1)
    save_every: int = _setting(500, "steps between checkpoints", low=1)
    validate_every: int = _setting(2000, "steps between scores on held-out patches; 0 for never", low=0)
    validation_patches: int = _setting(32, "held-out patches that are scored", low=1)
    validation_rounds: int = _setting(3, "prompts that each of them gets, one at a time", low=0, high=20)

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.odds) <= 0:
            raise SettingError(f"odds are those of lesion, hot uptake and body, not all 0; got {self.odds}")
        if self.corrections_full < self.corrections_from:
            raise SettingError("corrections_full must not lie before corrections_from")


FREE_TO_CHANGE = ("workers", "save_every", "compiled")
"""Settings that may differ between a run and its continuation: they change its speed, and at most the last bits."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = ()) -> list[str]:
    """What differs between the values of two groups, a phrase for each setting that is not free to change."""
    return [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if before.get(name) != value and name not in free
    ]


def split(values: Mapping[str, Any], *groups: type[_Group]) -> list[dict[str, Any]]:
    """Values by the group that knows them.

    Raises:
        SettingError: A name that no group knows.
    """
    known = [name for group in groups for name in group.names()]
    for name in values:
        if name not in known:
            raise unknown_name("setting", name, known)
    return [{name: value for name, value in values.items() if name in group.names()} for group in groups]


def describe_settings(*groups: type[_Group]) -> str:
    """All settings of some groups with default and meaning, one to a line."""
    lines = []
    for group in groups:
        lines.append(f"{group.__name__}: {(group.__doc__ or '').strip()}")
        for item in fields(group):
            choices = item.metadata["choices"]
            allowed = f" ({', '.join(choices)})" if choices else ""
            lines.append(f"  {item.name} = {item.default!r}: {item.metadata['meaning']}{allowed}")
    return "\n".join(lines)


def _checked(item: Any, value: Any) -> Any:
    about, kind = item.metadata, type(item.default)
    if kind is tuple:
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if len(entries) != len(item.default) and (len(entries) or not about["optional"]):
            form = ",".join(f"{entry:g}" for entry in item.default)
            raise SettingError(f"{item.name} takes {len(item.default)} numbers, as {item.name}={form}, got {value!r}")
        like = type(item.default[0])
        return tuple(_number(item.name, entry, like, about) for entry in entries)
    if kind is bool:
        if not isinstance(value, bool):
            raise SettingError(f"{item.name} must be true or false, got {value!r}")
        return value
    if kind is str:
        if about["choices"] and value not in about["choices"]:
            raise unknown_name(item.name, str(value), about["choices"])
        return str(value)
    return _number(item.name, value, kind, about)


def _number(name: str, value: Any, kind: type, about: Mapping[str, Any]) -> float | int:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (kind is int and value != int(value)):
        raise SettingError(f"{name} must be a {'whole ' if kind is int else ''}number, got {value!r}")
    if not about["low"] <= value <= about["high"]:
        raise SettingError(f"{name} must lie between {about['low']:g} and {about['high']:g}, got {value}")
    return kind(value)

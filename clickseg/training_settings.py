"""All settings of the store, the model and the training: default, range, meaning.

There are three frozen groups. They are written to the store and to each checkpoint, so that a model records how its
data were made. On the command line a setting is `--set name=value` or a line of a TOML file.

The settings of the encoding follow its name: `encoding = "ball"` with `encoding_radius_mm = 4`. Any encoding that is
installed can be used; `clicksim encode --list` shows all of them.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from clicksim.errors import SettingError
from clicksim.guidance import ENCODINGS, PRESETS, plan_encoding
from clicksim.guidance.encoding_settings import COMMON, DrawingPlan
from clicksim.protocols import ProtocolName, load_protocol
from clicksim.protocols.registry import FILE_ENDING
from clicksim.protocols.strategy_registry import STROKE_STRATEGIES
from clicksim.settings import Setting, check_value, unknown_setting

SIZES = ("tiny", "small", "medium", "large")
LAWS = ("uniform", "log", "u-shape")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
STROKES = ("centerline", "random", "boundary")
PREFIX = "encoding_"
"""Prefix of the names of the encoding's own settings."""
FIXED = ("channels", "decay", "decay_by")
"""Encoding settings that a model does not support: it takes two channels and does not know the age of a prompt."""
KINDS = {bool: "bool", int: "int", float: "float", str: "str"}


def _setting(default: Any, meaning: str, **limits: Any) -> Any:
    """Declare a field as a `Setting`; the default of a list sets its length, unless it is a list of words."""
    if isinstance(default, tuple):
        kind = "words" if isinstance(default[0], str) else "ints" if isinstance(default[0], int) else "floats"
        length = None if kind == "words" else len(default)
        declared = Setting(kind, meaning, default=list(default), length=length, **limits)
    else:
        declared = Setting(KINDS[type(default)], meaning, default=default, **limits)
    return field(default=default, metadata={"setting": declared})


@dataclass(frozen=True)
class _Group:
    """A group of settings, checked when it is made."""

    def __post_init__(self) -> None:
        for name, setting in self.declared().items():
            value = check_value(name, setting, getattr(self, name))
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Return the declarations by name."""
        return {item.name: item.metadata["setting"] for item in fields(cls) if "setting" in item.metadata}

    @classmethod
    def listed(cls) -> dict[str, Setting]:
        """Return the settings to show to a user."""
        return cls.declared()

    @classmethod
    def takes(cls, name: str) -> bool:
        """Check whether the group has a setting of this name."""
        return name in cls.declared()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make the group with these values, and defaults for the others.

        Raises:
            SettingError: A name is unknown, or a value is not allowed.
        """
        _refuse_unknown(values, cls)
        return cls(**values)

    def but(self, **values: Any) -> Self:
        """Return a copy with other values."""
        return replace(self, **values)

    def plain(self) -> dict[str, Any]:
        """Return the values as plain data for JSON."""
        values = {name: getattr(self, name) for name in self.declared()}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True)
class StoreRules(_Group):
    """How cases become arrays of the patch store. If any of them changes, all arrays are made again."""

    spacing_mm: tuple[float, ...] = _setting(
        (2.0, 2.0, 3.0), "voxel size along R, A, S; empty keeps that of each case", low=0.1, high=100,
        may_be_empty=True, unit="mm",
    )  # fmt: skip
    pet_type: str = _setting("float32", "type of the stored uptake", choices=("float32", "float16"))
    compressed: bool = _setting(False, "compress the arrays: they are smaller, but each patch reads the whole case")
    spots: int = _setting(
        256, "places kept for sampling in each lesion, in hot uptake and in the body", low=1, high=100_000
    )
    hot_percentile: float = _setting(
        99.75, "hot uptake is above this percentile of the uptake outside lesions", low=0, high=100
    )
    body_hu: float = _setting(-500.0, "the body is where the CT is above this value, HU")
    seed: int = _setting(42, "seed of the places kept for sampling")


def _encoding_names() -> list[str]:
    return [*ENCODINGS.names, *PRESETS]


def _plan_for_model(name: str, given: Mapping[str, Any]) -> DrawingPlan:
    """Check an encoding and its settings for a model.

    Raises:
        SettingError: The encoding or a setting is unknown, a value is not allowed, or a model cannot use it.
    """
    for setting in FIXED:
        if setting in given:
            raise SettingError(
                f"{PREFIX}{setting} cannot be set: a model takes two channels and prompts of equal weight"
            )
    plan = plan_encoding(name, given)
    for setting in FIXED[:2]:
        if plan[setting] != COMMON[setting].default:
            own = {key: value for key, value in PRESETS[name].settings.items() if key not in FIXED}
            instead = " ".join(f"{PREFIX}{key}={value}" for key, value in own.items())
            raise SettingError(
                f"the preset {name} has {setting}={plan[setting]}, but a model takes two channels and prompts of equal "
                f"weight; give encoding={plan.encoding.name} {instead}"
            )
    return plan


@dataclass(frozen=True)
class ModelSettings(_Group):
    """Structure and inputs of a network; part of every checkpoint.

    Attributes:
        encoding_settings: The settings of the encoding, by their names without the prefix.
    """

    size: str = _setting("medium", "size of the network", choices=SIZES)
    patch: tuple[int, ...] = _setting((128, 128, 96), "voxels of a patch along R, A, S", low=8, high=512)
    deep_supervision: int = _setting(
        0, "coarser outputs with their own loss; a tiny network has 1, each larger size one more", low=0, high=4
    )
    encoding: str = _setting(
        "edt-ball",
        "encoding or preset of the prompts; its own settings are encoding_<name>, see clicksim encode --list",
        choices=_encoding_names,
    )
    ct_window: tuple[float, ...] = _setting((-1000.0, 1000.0), "CT is clipped to this range of HU")
    ct_scale: float = _setting(300.0, "the clipped CT is divided by this", low=1)
    suv_limit: float = _setting(100.0, "SUV is clipped to 0 and this, then log(1 + SUV) is taken", low=1)
    head_bias: float = _setting(-2.0, "bias of the last layer at the start: lesions are rare")
    encoding_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        plan = _plan_for_model(self.encoding, self.encoding_settings)
        kept = {name: value for name, value in plan.settings.items() if name not in FIXED}
        object.__setattr__(self, "encoding", plan.encoding.name)
        object.__setattr__(self, "encoding_settings", kept)

    @classmethod
    def listed(cls) -> dict[str, Setting]:
        """Return the settings to show to a user, with those of the default encoding."""
        declared = cls.declared()
        drawn = ENCODINGS.find(declared["encoding"].default).settings
        return declared | {f"{PREFIX}{name}": setting for name, setting in drawn.items()}

    @classmethod
    def takes(cls, name: str) -> bool:
        """Check whether a name is a setting of the model, or may be one of its encoding."""
        return super().takes(name) or name.startswith(PREFIX)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make the settings with these values, those of the encoding as `encoding_<setting>`; see `_Group.of`."""
        _refuse_unknown(values, cls)
        own = {name: value for name, value in values.items() if name in cls.declared()}
        drawn = {name.removeprefix(PREFIX): value for name, value in values.items() if name not in own}
        return cls(**own, encoding_settings=drawn)

    def plain(self) -> dict[str, Any]:
        """Return the values as plain data for JSON; those of the encoding as `encoding_<setting>`."""
        drawn = {name: list(v) if isinstance(v, tuple) else v for name, v in self.encoding_settings.items()}
        return super().plain() | {f"{PREFIX}{name}": value for name, value in drawn.items()}

    def inherit(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return these settings as plain data, with other values on top; a new encoding starts with its defaults."""
        kept = self.plain()
        if values.get("encoding", self.encoding) != self.encoding:
            kept = {name: value for name, value in kept.items() if not name.startswith(PREFIX)}
        return {**kept, **values}

    @property
    def plan(self) -> DrawingPlan:
        """The encoding of prompts, with its settings."""
        return plan_encoding(self.encoding, self.encoding_settings)


@dataclass(frozen=True)
class TrainSettings(_Group):
    """How a model is trained."""

    # data
    fold: int = _setting(0, "cases of this fold are held out; -1 trains on all", low=-1, high=4)
    odds: tuple[float, ...] = _setting(
        (0.5, 0.25, 0.25), "odds of a patch on a lesion, on hot uptake, in the body", low=0, high=1
    )
    workers: int = _setting(
        4,
        "loader processes, at most one for each core; 0 loads in the main process; the result is the same",
        low=0,
        high=256,
    )
    # augmentation
    flips: bool = _setting(True, "mirror along each axis with probability 1/2")
    affine: float = _setting(0.3, "probability of a rotation and scaling, on the device", low=0, high=1)
    rotation_deg: float = _setting(15.0, "largest rotation about each axis", low=0, high=180)
    scaling: float = _setting(0.2, "largest relative change of size", low=0, high=0.9)
    intensity: float = _setting(0.5, "probability of a change of the grey values, for CT and PET each", low=0, high=1)
    # prompts
    scribbles: float = _setting(0.5, "share of samples with scribbles; the others have clicks", low=0, high=1)
    law: str = _setting(
        "uniform", "distribution of the number of prompts of each polarity before the first prediction", choices=LAWS
    )
    max_prompts: int = _setting(10, "largest number of prompts of each polarity", low=0, high=100)
    silent: float = _setting(
        0.15, "share of samples without any prompt; a model must work without prompts", low=0.01, high=1
    )
    corrections: int = _setting(3, "rounds of correction at the end of the curriculum", low=0, high=20)
    corrections_from: float = _setting(0.2, "share of the steps before the first correction", low=0, high=1)
    corrections_full: float = _setting(0.6, "share of the steps after which all rounds are played", low=0, high=1)
    strokes: tuple[str, ...] = _setting(
        STROKES, "strategies of scribbles, in equal parts", choices=lambda: STROKE_STRATEGIES.names
    )
    click_protocol: ProtocolName = _setting("autopet-iv@2", "rule of clicks: a protocol, or a TOML file")  # noqa: RUF009
    correction_protocol: ProtocolName = _setting("autopet-v@2", "rule of scribbles and corrections")  # noqa: RUF009
    # channels that may be missing
    drop_previous: float = _setting(0.3, "probability that the previous mask is withheld", low=0, high=1)
    spoil_previous: float = _setting(
        0.2, "probability that the previous mask is grown or shrunk, or has a box erased or filled", low=0, high=1
    )
    drop_pet: float = _setting(
        0.05, "probability that the PET is withheld, as if the case had only a CT", low=0, high=1
    )
    # optimisation
    steps: int = _setting(100_000, "steps of the optimiser", low=1)
    batch: int = _setting(2, "patches in one pass, on each device", low=1, high=1024)
    accumulate: int = _setting(1, "passes in one step", low=1, high=1024)
    rate: float = _setting(3e-4, "highest learning rate (AdamW)", low=0)
    warmup: float = _setting(
        0.01, "share of the steps in which the rate rises; then it falls with a cosine", low=0, high=1
    )
    decay: float = _setting(0.01, "weight decay", low=0)
    clip: float = _setting(12.0, "largest norm of the gradient", low=0)
    average: float = _setting(
        0.0, "decay of a running mean of the weights (EMA), such as 0.999; 0 for none", low=0, high=0.99999
    )
    precision: str = _setting("auto", "auto takes bfloat16 if the GPU supports it, else float32", choices=PRECISIONS)
    compiled: bool = _setting(False, "compile the network with torch.compile")
    deterministic: bool = _setting(
        False,
        "the same weights, bit for bit, in every run on one machine; slower on a GPU, and not with deep_supervision",
    )
    seed: int = _setting(42, "seed of all draws")
    # record
    log_every: int = _setting(20, "steps between rows of the loss; each row waits for the device", low=1)
    save_every: int = _setting(500, "steps between checkpoints", low=1)
    validate_every: int = _setting(2000, "steps between scores on held-out patches; 0 for never", low=0)
    validation_patches: int = _setting(32, "held-out patches that are scored", low=1)
    validation_rounds: int = _setting(3, "prompts of each of these patches, one at a time", low=0, high=20)

    def __post_init__(self) -> None:
        protocols = {name: getattr(self, name) for name in ("click_protocol", "correction_protocol")}
        for name, value in protocols.items():
            # keep the content of a file, since the file may change during training
            if isinstance(value, Mapping) or str(value).endswith(FILE_ENDING):
                protocols[name] = load_protocol(value).content
                object.__setattr__(self, name, TrainSettings.declared()[name].default)
        super().__post_init__()
        for name, value in protocols.items():
            object.__setattr__(self, name, value)
        if not self.strokes:
            raise SettingError("strokes needs at least one strategy")
        if sum(self.odds) <= 0:
            raise SettingError(f"the odds of lesion, hot uptake and body must not all be 0; got {self.odds}")
        if self.corrections_full < self.corrections_from:
            raise SettingError("corrections_full must not be below corrections_from")


FREE_TO_CHANGE = ("workers", "save_every", "compiled")
"""Settings that may change when a run is resumed: they affect its speed, and at most the last bits."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = ()) -> list[str]:
    """Describe the differences between two groups, one phrase for each setting that must not change."""
    return [
        f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in {**now, **before}
        if before.get(name) != now.get(name) and name not in free
    ]


def split(values: Mapping[str, Any], *groups: type[_Group]) -> list[dict[str, Any]]:
    """Split values by the group that takes them.

    Raises:
        SettingError: No group takes a name.
    """
    _refuse_unknown(values, *groups)
    return [{name: value for name, value in values.items() if group.takes(name)} for group in groups]


def describe_groups(*groups: type[_Group]) -> str:
    """List all settings of some groups with default and meaning, one per line."""
    return "\n".join(line for group in groups for line in _describe_group(group))


def _describe_group(group: type[_Group]) -> Iterator[str]:
    yield f"{group.__name__}: {(group.__doc__ or '').strip().splitlines()[0]}"
    for name, setting in group.listed().items():
        allowed = f" ({', '.join(setting.words)})" if setting.words else ""
        default = tuple(setting.default) if isinstance(setting.default, list) else setting.default
        yield f"  {name} = {default!r}: {setting.text}{allowed}"


def _refuse_unknown(values: Mapping[str, Any], *groups: type[_Group]) -> None:
    for name in values:
        if not any(group.takes(name) for group in groups):
            raise unknown_setting("clickseg", name, {group.__name__: list(group.listed()) for group in groups})

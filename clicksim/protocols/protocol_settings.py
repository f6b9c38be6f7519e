"""Every setting of every rule, declared once."""

from clicksim.protocols.strategy_registry import CLICK_STRATEGIES, STROKE_STRATEGIES
from clicksim.settings import Setting, SettingsTable


def _click_choices() -> list[str]:
    return CLICK_STRATEGIES.names


def _fill_choices() -> list[str]:
    return [*CLICK_STRATEGIES.names, "none"]


def _stroke_choices() -> list[str]:
    return STROKE_STRATEGIES.names


BACKGROUNDS = ("hot", "threshold", "shell", "body", "organ", "others")
IN_COMPONENTS = ("hot", "threshold", "organ", "others")
BY_BUDGET = ("uniform", "volume", "uptake")
"""The choices of `lesions` that use the budget; `all` clicks each lesion once, for any budget."""

CLICKS = {
    "rule": Setting("str", "the algorithm; fixed by the protocol", ("published", "revised")),
    "n_foreground": Setting(
        "int", "foreground clicks in one image", low=0, high=100_000,
        only_with={"lesions": BY_BUDGET, "per_lesion": (False,)},
    ),
    "n_background": Setting(
        "int", "background clicks in one image", low=0, high=100_000, only_with={"per_lesion": (False,)}
    ),
    "per_lesion": Setting(
        "bool", "whether every stored id gets one centre click, in ascending order, whatever the budget"
    ),
    "lesions": Setting(
        "str",
        "which lesions are clicked: drawn uniformly, the largest first (volume), the hottest first (uptake), or each "
        "of them once, whatever the budget (all)",
        ("uniform", "volume", "uptake", "all"),
    ),
    "min_lesion_ml": Setting("float", "smallest lesion that is clicked", low=0, unit="ml"),
    "target": Setting("int", "id of the only lesion to click; 0 for any", low=0),
    "strategy": Setting("str", "where the first click in a component falls", _click_choices),
    "fill": Setting(
        "str", "where further clicks in a component fall; none allows one click per component", _fill_choices,
        only_with={"lesions": BY_BUDGET},
    ),
    "jitter_mm": Setting("float", "radius of the ball within which a click is displaced", low=0, unit="mm"),
    "jitter_attempts": Setting("int", "draws before a click keeps its place", low=1, high=1000),
    "background": Setting(
        "str",
        "where background clicks fall: in components of hot uptake (hot), in components of uptake at or above a "
        "threshold (threshold), in a shell around lesions (shell), anywhere in the body (body), in an organ (organ), "
        "or in the lesions other than the target (others)",
        BACKGROUNDS,
    ),
    "background_strategy": Setting(
        "str", "where the first background click in a component falls", _click_choices,
        only_with={"background": IN_COMPONENTS},
    ),
    "background_fill": Setting(
        "str", "where further background clicks in a component fall; none allows one click per component",
        _fill_choices, only_with={"background": IN_COMPONENTS},
    ),
    "percentile": Setting(
        "float", "hot uptake is above this percentile of the uptake outside lesions", low=0, high=100,
        only_with={"background": ("hot",), "suv": (0,), "per_lesion": (False,)},
    ),
    "suv": Setting(
        "float", "hot uptake is above this value, threshold uptake at or above it; 0 takes the percentile, or the "
        "threshold of the case in the catalog", low=0, only_with={"background": ("hot", "threshold")},
    ),
    "margin_mm": Setting(
        "float", "smallest distance between a background click and a lesion", low=0, high=1000, unit="mm",
        only_with={"background": ("hot", "threshold", "shell", "body", "organ")},
    ),
    "shell_mm": Setting(
        "floats", "smallest and largest distance of the shell from the lesions", low=0, high=1000, length=2,
        ascending=True, unit="mm", only_with={"background": ("shell",)},
    ),
    "organ": Setting(
        "ints", "labels of the organs in which clicks fall; empty for any", low=1, only_with={"background": ("organ",)}
    ),
    "body_suv": Setting(
        "float", "the body is where the uptake is above this value", only_with={"background": ("body",)}
    ),
    "center_offset": Setting(
        "int", "largest displacement of a centre click along each axis", low=0, high=1000, unit="voxels",
        only_with={"per_lesion": (False,)},
    ),
    "edge_offset": Setting(
        "int", "largest displacement of an edge click along each axis", low=0, high=1000, unit="voxels",
        only_with={"per_lesion": (False,)},
    ),
}  # fmt: skip

SCRIBBLES = {
    "rule": Setting("str", "the algorithm; fixed by the protocol", ("published", "revised")),
    "strategy": Setting(
        "str", "how a stroke is drawn in a slice", _stroke_choices, only_with={"kind": ("scribble",)}
    ),
    "n_components": Setting(
        "int", "scribbles from a label: number of components of each polarity", low=0, high=100_000
    ),
    "axis": Setting(
        "int", "stored axis perpendicular to the slices, from 0", low=0, high=2, only_with={"kind": ("scribble",)}
    ),
    "background": Setting(
        "str", "scribbles from a label: background strokes in a shell around lesions, or none", ("shell", "none")
    ),
    "shell_mm": Setting(
        "floats", "smallest and largest distance of the shell from the lesions", low=0, high=1000, length=2,
        ascending=True, unit="mm", only_with={"background": ("shell",)},
    ),
    "trim": Setting(
        "float", "share of a centre line that is cut off at each end", low=0, high=0.49,
        only_with={"strategy": ("centerline",)},
    ),
    "walk": Setting(
        "float", "share of the rim that a boundary stroke follows", low=0.01, high=1,
        only_with={"strategy": ("boundary",)},
    ),
    "thickness_mm": Setting(
        "float", "width of a stroke; 0 for one voxel", low=0, high=100, unit="mm", only_with={"kind": ("scribble",)}
    ),
    "tremor_mm": Setting(
        "float", "standard deviation of the sideways tremor of a stroke", low=0, high=100, unit="mm",
        only_with={"kind": ("scribble",)},
    ),
    "kind": Setting("str", "what a correction consists of", ("scribble", "click")),
    "n_prompts": Setting("int", "prompts in one round of corrections", low=1, high=1000),
    "choose": Setting(
        "str",
        "which errors are corrected: the largest region (size), the deepest (depth), or one drawn by its size "
        "(random); or, for clicks, all errors of a class together: of the class with more of them (larger-class), of "
        "the one that is deeper (deeper-class), or of each (each-class)",
        ("size", "depth", "random", "larger-class", "deeper-class", "each-class"),
    ),
    "place": Setting(
        "str",
        "where a click falls among the errors: on the deepest voxel, or drawn uniformly, by the depth d, or by "
        "exp(d) - 1",
        ("deepest", "uniform", "depth-weighted", "depth-exponential"), only_with={"kind": ("click",)},
    ),
    "depth_in": Setting(
        "str", "how the depth of a click is measured: in mm, in voxels, or in voxels by chessboard distance",
        ("mm", "voxels", "chessboard"), only_with={"kind": ("click",)},
    ),
    "errors": Setting(
        "words", "kinds of error that are corrected; empty for all", ("missed", "under", "false", "over", "merged")
    ),
}  # fmt: skip

SCORE = {
    "rule": Setting("str", "the algorithm; fixed by the protocol", ("autopet-iv", "autopet-v", "revised")),
    "connectivity": Setting("int", "connectivity of components: 6, 18 or 26", low=6, high=26),
    "iou": Setting("float", "IoU at or above which a lesion counts as found", low=0, high=1),
    "empty_truth": Setting(
        "str", "scores of a case without lesions: undefined, or 1 if nothing is predicted and 0 otherwise",
        ("undefined", "one-or-zero"),
    ),
}  # fmt: skip

ROUNDS = {
    "rule": Setting("str", "the algorithm; fixed by the protocol", ("published", "revised")),
    "prompts": Setting(
        "str",
        "where prompts come from: clicks simulated before the first round and shown one by one, or corrections of the "
        "previous prediction",
        ("clicks", "corrections"),
    ),
    "n_rounds": Setting("int", "predictions of a case; the first one is without prompts", low=1, high=1000),
    "strategies": Setting(
        "words",
        "strategies that the seed distributes over the cases, one for each case; empty takes that of [scribbles]",
        _stroke_choices, only_with={"prompts": ("corrections",)},
    ),
}  # fmt: skip

TABLES: dict[str, SettingsTable] = {"clicks": CLICKS, "scribbles": SCRIBBLES, "score": SCORE, "rounds": ROUNDS}

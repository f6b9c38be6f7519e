"""Simulated prompts for interactive lesion segmentation of PET/CT.

The names below are loaded when they are first used, so that `import clicksim` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Box": "clicksim.prompts",
    "Click": "clicksim.prompts",
    "ClicksimError": "clicksim.errors",
    "Grid": "clicksim.geometry",
    "KeptRegions": "clicksim.simulate.error_regions",
    "Prompts": "clicksim.prompts",
    "Scribble": "clicksim.prompts",
    "correct": "clicksim.simulate.corrections",
    "encode": "clicksim.guidance",
    "find_lesions": "clicksim.lesions",
    "measure_lesions": "clicksim.lesions",
    "open_catalog": "clicksim.catalog",
    "open_predictor": "clicksim.predictors",
    "read_image": "clicksim.volumes",
    "score": "clicksim.metrics",
    "simulate_clicks": "clicksim.simulate.clicks.click_rules",
    "simulate_scribbles": "clicksim.simulate.scribbles.scribble_rules",
    "write_image": "clicksim.volumes",
}

if TYPE_CHECKING:
    from clicksim.catalog import open_catalog as open_catalog
    from clicksim.errors import ClicksimError as ClicksimError
    from clicksim.geometry import Grid as Grid
    from clicksim.guidance import encode as encode
    from clicksim.lesions import find_lesions as find_lesions
    from clicksim.lesions import measure_lesions as measure_lesions
    from clicksim.metrics import score as score
    from clicksim.predictors import open_predictor as open_predictor
    from clicksim.prompts import Box as Box
    from clicksim.prompts import Click as Click
    from clicksim.prompts import Prompts as Prompts
    from clicksim.prompts import Scribble as Scribble
    from clicksim.simulate.clicks.click_rules import simulate_clicks as simulate_clicks
    from clicksim.simulate.corrections import correct as correct
    from clicksim.simulate.error_regions import KeptRegions as KeptRegions
    from clicksim.simulate.scribbles.scribble_rules import simulate_scribbles as simulate_scribbles
    from clicksim.volumes import read_image as read_image
    from clicksim.volumes import write_image as write_image

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clicksim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Batch jobs over many cases, as the command line runs them: each is a function here.

The names below are imported on first use, because each needs other parts of the library.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Crew": "workers",
    "Job": "job",
    "PromptRun": "simulation",
    "RoundsResult": "playing",
    "RoundsRun": "playing",
    "Summary": "conversion",
    "audit": "auditing",
    "check": "auditing",
    "compare_rounds": "playing",
    "convert": "conversion",
    "export": "exporting",
    "import_prompts": "prompt_import",
    "merge_catalogs": "merging",
    "play_rounds": "playing",
    "report": "reporting",
    "run_job": "job",
    "score_folder": "scoring",
    "simulate_catalog": "simulation",
    "simulate_cases": "simulation",
    "simulate_folder": "simulation",
    "verify_folder": "verification",
    "verify_run": "verification",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

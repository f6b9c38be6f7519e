"""Guidance: dense maps drawn from prompts when they are needed, and a linter for maps that lie.

encode              prompts to channels, on any patch, in any encoding, into the caller's buffer
write_channels      channels as NIfTI files in nnU-Net's naming, where a user wants files
lint                what a channel shows and hides, as findings
lint_predictor      what a model makes of its guidance
DEFAULTS, PRESETS   every encoding with its settings, and what published entries used
"""

from clicksim.guidance.drawing import encode
from clicksim.guidance.encoding_settings import DEFAULTS, MEANING, PRESETS, Preset
from clicksim.guidance.linter import format_lint, lint
from clicksim.guidance.storing import write_channels
from clicksim.guidance.trials import lint_predictor

__all__ = [
    "DEFAULTS",
    "MEANING",
    "PRESETS",
    "Preset",
    "encode",
    "format_lint",
    "lint",
    "lint_predictor",
    "write_channels",
]

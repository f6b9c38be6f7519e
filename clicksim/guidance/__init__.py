"""Guidance: dense maps drawn from prompts when they are needed, and a linter that finds faulty maps.

encode              prompts to channels, on any patch, in any encoding, into the caller's buffer
write_channels      channels as NIfTI files in nnU-Net's naming
lint                findings about what a channel shows
lint_predictor      how a model reacts to its guidance
ENCODINGS, PRESETS  the installed encodings, and the settings of published entries
"""

from clicksim.guidance.drawing import encode
from clicksim.guidance.encoding_settings import ENCODINGS, PRESETS, Encoding, Preset, plan_encoding
from clicksim.guidance.linter import format_lint, lint
from clicksim.guidance.storing import write_channels
from clicksim.guidance.trials import lint_predictor

__all__ = [
    "ENCODINGS",
    "PRESETS",
    "Encoding",
    "Preset",
    "encode",
    "format_lint",
    "lint",
    "lint_predictor",
    "plan_encoding",
    "write_channels",
]

"""Prompts as records, and the JSON files of the field."""

from clicksim.prompts.kinds import Box, Click, Scribble
from clicksim.prompts.records import Prompts

__all__ = ["Box", "Click", "Prompts", "Scribble"]

"""Prompts as records, and the common JSON files for prompts."""

from clicksim.prompts.kinds import Box, Click, Scribble
from clicksim.prompts.records import Prompts

__all__ = ["Box", "Click", "Prompts", "Scribble"]

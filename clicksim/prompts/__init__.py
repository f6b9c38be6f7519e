"""Prompts as records, and the JSON files of the field."""

from clicksim.prompts.records import Box, Click, Prompts, Scribble

__all__ = ["Box", "Click", "Prompts", "Scribble"]

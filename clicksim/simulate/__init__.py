"""Simulation: masks in, prompts out."""

from clicksim.simulate.clicks import simulate_clicks

__all__ = ["simulate_clicks"]

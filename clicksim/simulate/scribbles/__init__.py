"""Simulated scribbles of each protocol."""

from clicksim.simulate.scribbles.scribble_rules import simulate_scribbles

__all__ = ["simulate_scribbles"]

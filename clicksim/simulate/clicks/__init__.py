"""Simulated clicks, as each protocol places them."""

from clicksim.simulate.clicks.click_rules import simulate_clicks

__all__ = ["simulate_clicks"]

"""Simulate prompts from masks."""

from clicksim.simulate.clicks.click_rules import simulate_clicks

__all__ = ["simulate_clicks"]

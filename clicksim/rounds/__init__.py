"""Interactive evaluation: prompts and predictions in turns, with a score for each round.

play(case, predictor, protocol="autopet-v@2")     one case, round by round
summarise(rows), compare_runs(a, b)               means with intervals, paired differences

`clicksim.pipeline.play_rounds` and `clicksim rounds` do this for many cases.
"""

from clicksim.rounds.loop import play
from clicksim.rounds.round_records import PlayedCase, RoundsCase
from clicksim.rounds.statistics import compare_runs, summarise

__all__ = [
    "PlayedCase",
    "RoundsCase",
    "compare_runs",
    "play",
    "summarise",
]

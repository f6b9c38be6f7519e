"""Interactive evaluation: prompts and predictions in turns, over any predictor, and what became of them.

play(case, predictor, protocol="autopet-v@2")     one case, round by round
summarise(rows), compare_runs(a, b)               means with intervals, paired differences

`clicksim rounds` on the command line does all of it over a catalog.
"""

from clicksim.rounds.loop import play
from clicksim.rounds.round_records import Game, RoundsCase
from clicksim.rounds.statistics import compare_runs, summarise

__all__ = [
    "Game",
    "RoundsCase",
    "compare_runs",
    "play",
    "summarise",
]

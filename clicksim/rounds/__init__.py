"""Interactive evaluation: prompts and predictions in turns, over any predictor, and what became of them.

play(case, predictor, protocol="autopet-v@2")     one case, round by round
open_predictor("cmd:run.sh {input} {output}")     a predictor by its SPEC
summarise(rows), compare_runs(a, b)               means with intervals, paired differences

`clicksim rounds` on the command line does all of it over a catalog.
"""

from clicksim.rounds.containers import CommandPredictor, predict_folder
from clicksim.rounds.loop import play
from clicksim.rounds.predictors import open_predictor
from clicksim.rounds.records import Case, Game, RoundFailure, Scan
from clicksim.rounds.statistics import compare_runs, summarise
from clicksim.rounds.threshold import ThresholdPredictor

__all__ = [
    "Case",
    "CommandPredictor",
    "Game",
    "RoundFailure",
    "Scan",
    "ThresholdPredictor",
    "compare_runs",
    "open_predictor",
    "play",
    "predict_folder",
    "summarise",
]

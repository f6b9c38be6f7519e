"""One way to ask any model: a predictor is opened by its SPEC, and called with a scan and the prompts so far.

open_predictor("builtin:threshold")        a session; see `Predictor`
parse_spec("dir:predictions?...")          the same as plain data, which workers receive
predict_folder(source, target, predictor)  answer one round of a Grand Challenge algorithm
"""

from clicksim.predictors.command import CommandPredictor, predict_folder
from clicksim.predictors.interface import Predictor, RoundFailure, Scan
from clicksim.predictors.recorded import RecordedPredictor
from clicksim.predictors.spec import PREDICTOR_KINDS, PredictorKind, PredictorSpec, open_predictor, parse_spec
from clicksim.predictors.threshold import ThresholdPredictor

__all__ = [
    "PREDICTOR_KINDS",
    "CommandPredictor",
    "Predictor",
    "PredictorKind",
    "PredictorSpec",
    "RecordedPredictor",
    "RoundFailure",
    "Scan",
    "ThresholdPredictor",
    "open_predictor",
    "parse_spec",
    "predict_folder",
]

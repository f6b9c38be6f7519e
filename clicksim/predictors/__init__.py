"""One way to ask any model: a predictor is opened by its SPEC and called with a scan and the prompts so far."""

from clicksim.predictors.command import CommandPredictor, predict_folder
from clicksim.predictors.interface import Predictor, RoundFailure, Scan
from clicksim.predictors.spec import open_predictor
from clicksim.predictors.threshold import ThresholdPredictor

__all__ = [
    "CommandPredictor",
    "Predictor",
    "RoundFailure",
    "Scan",
    "ThresholdPredictor",
    "open_predictor",
    "predict_folder",
]

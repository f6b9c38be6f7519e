"""`clickseg:MODEL`: a trained model as a predictor of `clicksim.rounds`.

    clickseg:run/model.safetensors?device=cuda:1&overlap=0.5&mirror=RA

The options are those of `clickseg.predict.Options`.
"""

from pathlib import Path

from clickseg import require_torch
from clicksim.predictors.interface import Predictor
from clicksim.predictors.spec import PredictorKind, PredictorSpec


def model_spec(model: Path, options: object) -> PredictorSpec:
    """Return the SPEC of a model with some `clickseg.predict.Options`."""
    return PredictorSpec("clickseg", str(model), tuple(sorted(vars(options).items())))


def _open(spec: PredictorSpec, _time_limit_s: float) -> Predictor:
    require_torch()
    from clickseg.predict import Options, RoundsPredictor, open_session

    session, _ = open_session(spec.argument, Options(**dict(spec.options)))
    return RoundsPredictor(session)


def _check(spec: PredictorSpec) -> None:
    require_torch()
    from clickseg.model.checkpoint import read_about
    from clickseg.predict import Options, choose_device

    read_about(Path(spec.argument))
    choose_device(Options(**dict(spec.options)).device)


def _inputs(spec: PredictorSpec, _case_id: str, _rounds: int) -> tuple[Path, ...]:
    return (Path(spec.argument).absolute(),)


KIND = PredictorKind(
    usage="clickseg:MODEL",
    summary="a model that clickseg trained; options device, overlap, mirror and keep_windows",
    open=_open,
    options={"device": str, "overlap": float, "mirror": str, "keep_windows": bool},
    title=lambda spec: Path(spec.argument).stem,
    check=_check,
    inputs=_inputs,
    is_path=True,
)

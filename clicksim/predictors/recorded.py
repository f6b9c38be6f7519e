"""`dir:PATH`: predictions that were made elsewhere, one file for each case and round."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clicksim.errors import SettingError
from clicksim.predictors.interface import RoundFailure, Scan
from clicksim.predictors.spec import PredictorKind, PredictorSpec
from clicksim.prompts import Prompts
from clicksim.volumes import EXTENSIONS, Volume, read_image

CHANNEL = "_0000"
"""The suffix that nnU-Net adds to the name of a case, and some tools keep."""


@dataclass(frozen=True)
class RecordedPredictor:
    """Predictions from a folder: `<case>/iter_<k>`, `<case>_0000/iter_<k>` or `<case>_<k>`, where k is the round.

    Files end in `.nii.gz`, `.nii` or `.mha`. A `/` in the name of a case is a folder, and in the last form `_`.
    """

    folder: Path
    needs_images = False

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SettingError(f"dir:{self.folder} is not a folder; name one that has <case>/iter_<k>.nii.gz")

    def __call__(self, case: Scan, prompts: Prompts) -> Volume:  # noqa: ARG002 - a recorded prediction is fixed
        """Read the prediction of this round."""
        for file in self.files(case.case_id, case.round):
            if file.is_file():
                return read_image(file)
        first = f"{case.case_id}/iter_{case.round}.nii.gz"
        other = f"{_flat(case.case_id, case.round)}.nii.gz"
        raise RoundFailure("NoPrediction", f"no {first} or {other} in the folder {self.folder.name}")

    def files(self, case_id: str, number: int) -> Iterator[Path]:
        """Yield the files in which the prediction of a round may be."""
        name = check_case_folder(case_id)
        for stem in (f"{name}/iter_{number}", f"{name}{CHANNEL}/iter_{number}", _flat(name, number)):
            for ending in EXTENSIONS:
                yield self.folder / f"{stem}{ending}"

    def has_case(self, case_id: str) -> bool:
        """Check whether there is a prediction for any round of a case."""
        name = check_case_folder(case_id)
        folders = [self.folder / name, self.folder / f"{name}{CHANNEL}"]
        if any(file.name.endswith(EXTENSIONS) for folder in folders for file in folder.glob("iter_*")):
            return True
        return any(file.is_file() for number in range(MOST_ROUNDS) for file in self.files(case_id, number))


MOST_ROUNDS = 100
"""Rounds for which `<case>_<k>` is looked for; a folder of thousands of files is not listed for each case."""


def prediction_file(case_id: str, number: int) -> str:
    """Return the name of the file for the prediction of a round, where `dir:` finds it."""
    return f"{check_case_folder(case_id)}/iter_{number}.nii.gz"


def check_case_folder(case_id: str) -> str:
    """Check the name of a case, which becomes the name of a folder.

    Raises:
        RoundFailure: A folder of that name would be outside the folder in which it belongs.
    """
    if not case_id or ".." in Path(case_id).parts or Path(case_id).is_absolute():
        raise RoundFailure("NoPrediction", f"case {case_id!r} cannot be the name of a folder")
    return case_id


def _flat(case_id: str, number: int) -> str:
    return f"{case_id.replace('/', '_')}_{number}"


def _open(spec: PredictorSpec, _time_limit_s: float) -> RecordedPredictor:
    return RecordedPredictor(Path(spec.argument))


def _check(spec: PredictorSpec) -> None:
    RecordedPredictor(Path(spec.argument))


def _inputs(spec: PredictorSpec, case_id: str, rounds: int) -> tuple[Path, ...]:
    """Return all files that may hold a prediction of the case: one that appears or disappears counts too."""
    predictor = RecordedPredictor(Path(spec.argument).absolute())
    try:
        return tuple(file for number in range(rounds) for file in predictor.files(case_id, number))
    except RoundFailure:  # the case is refused when it is played
        return ()


KIND = PredictorKind(
    usage="dir:PATH",
    summary="recorded predictions, <case>/iter_<k>.nii.gz or <case>_<k>.nii.gz",
    open=_open,
    title=lambda spec: f"predictions in {Path(spec.argument).name or spec.argument}",
    check=_check,
    inputs=_inputs,
    is_path=True,
)

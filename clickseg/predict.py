"""Prediction: a session over one case, prompt by prompt, in bounded memory, without repeated work.

    session = open_session("run/model.safetensors")
    session.set_case(grid, ct, pet)            # HU and SUV on one grid
    mask = session.prompt(none)                # without prompts
    mask = session.prompt(new)                 # with prompts; each turn sees the mask of the turn before
    mask = session.undo()                      # take back the last turn
    session.reset()                            # the same case, from the start

`clickseg.model.inference` describes what a turn computes and what is kept in memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickseg.data.prompt_channels import channel_rows
from clickseg.model.checkpoint import load_model
from clickseg.model.inference import Bools, Inference, Options, Packed, Report, choose_device
from clickseg.model.network import Segmenter
from clickseg.model.window_trial import Trial, make_trial
from clickseg.training_settings import StoreRules
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.geometry import Grid, Shape
from clicksim.prompts import Box, Prompts
from clicksim.prompts.kinds import Prompt
from clicksim.prompts.records import check_inside

__all__ = ["Options", "RoundsPredictor", "Session", "Trial", "choose_device", "open_session"]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class _Turn:
    """One turn: all prompts so far, and the resulting masks on the model's grid and on the case's."""

    items: tuple[Prompt, ...]
    mask: Packed
    answer: Packed


class Session:
    """A model applied to one case; see the module.

    Attributes:
        model: A model in evaluation mode.
        computed: Number of windows that the last turn computed.
        progress: Called after each window with the windows done and the total of this turn.
    """

    def __init__(self, model: Segmenter, rules: StoreRules, options: Options | None = None) -> None:
        """Open a session without a case.

        Args:
            model: A trained model in evaluation mode, on its device.
            rules: How its training data were resampled.
            options: Options of the prediction.
        """
        self.model, self.rules, self.options = model, rules, options or Options()
        self.computed = 0
        self.progress: Report | None = None
        self._case: Inference | None = None
        self._turns: list[_Turn] = []

    def set_case(self, grid: Grid, ct: NDArray[Any] | None, pet: NDArray[Any] | None = None) -> None:
        """Start a case; nothing is predicted yet.

        Args:
            grid: The grid of the case, with an affine.
            ct: `(I, J, K)` HU.
            pet: `(I, J, K)` SUV, or None.

        Raises:
            GeometryError: The grid has no affine, or an image has another shape.
            ImageError: There is no CT, or values are not finite.
        """
        self.close()
        if ct is None:
            raise ImageError("a model needs a CT, and this case has none")
        self._case = Inference(self.model, self.rules, self.options, grid, ct, pet)

    def prompt(self, new: Prompts, *, previous: Bools | None = None) -> Mask:
        """Add prompts and predict. Without new prompts the last answer is returned if there is one.

        Args:
            new: New prompts on the case's grid; those of earlier turns are kept.
            previous: A mask on the model's grid to correct instead of the mask of the turn before.

        Returns:
            `(I, J, K)` 0 and 1, on the case's grid.

        Raises:
            GeometryError: Prompts are on another grid or outside the volume.
            SettingError: A prompt is a box, or there is no case.
        """
        case, turns = self._here(), self._turns
        if turns and not len(new) and previous is None:
            return self._answer()
        case.frame.source.check_same(new.grid, ("case", "prompts"))
        check_inside(new)
        if any(isinstance(prompt, Box) for prompt in new):
            raise SettingError("this model takes clicks and scribbles, not boxes")
        items = (turns[-1].items if turns else ()) + new.items
        if previous is None:
            previous = turns[-1].mask.mask() if turns else np.zeros(case.windows.shape, np.bool_)
        elif previous.shape != case.windows.shape:
            raise GeometryError(f"a previous mask must have the shape of the model's grid, {case.windows.shape}")
        rows = channel_rows(case.frame.prompts(Prompts(items, new.grid)))
        probability = case.answer(rows, previous, self.progress)
        self.computed = case.computed
        answer = np.asarray(case.frame.back(probability)) > 0.5
        turns.append(_Turn(items, Packed.of(probability > 0.5), Packed.of(answer)))
        return answer.astype(np.uint8)

    def undo(self) -> Mask | None:
        """Take back the last turn; return the answer before it, or None.

        Raises:
            SettingError: There is no turn to take back.
        """
        if not self._turns:
            raise SettingError("there is no turn to take back")
        self._turns.pop()
        return self._answer() if self._turns else None

    def reset(self) -> None:
        """Take back all turns; the outputs of windows are kept."""
        self._turns.clear()

    def close(self) -> None:
        """Drop the case."""
        self._case = None
        self._turns.clear()

    @property
    def items(self) -> tuple[Prompt, ...]:
        """All prompts so far."""
        return self._turns[-1].items if self._turns else ()

    @property
    def shape(self) -> Shape:
        """Shape of the case on the model's grid, in voxels."""
        return self._here().windows.shape

    @property
    def mask(self) -> Bools | None:
        """The last mask on the model's grid; a later session can take it as `previous`."""
        return self._turns[-1].mask.mask() if self._turns else None

    def probability(self) -> NDArray[np.float32]:
        """Return the probability of a lesion in the last answer, `(I, J, K)` on the case's grid."""
        case = self._here()
        return np.asarray(case.frame.back(case.probability()))

    def trial(self, prompts: Prompts) -> Trial:
        """Take one window around the first prompt of the case, for `clicksim.guidance.lint_predictor`.

        Args:
            prompts: Prompts on the case's grid; those within the window are used.

        Raises:
            SettingError: There is no case or no prompt.
        """
        return make_trial(self._here(), prompts)

    def _here(self) -> Inference:
        if self._case is None:
            raise SettingError("there is no case: call set_case first")
        return self._case

    def _answer(self) -> Mask:
        return self._turns[-1].answer.mask().astype(np.uint8)


class RoundsPredictor:
    """A session as a predictor of `clicksim.rounds`, called with a scan and all its prompts so far.

    A scan with another name, or round 0, starts a case. Prompts that do not continue the earlier ones restart the case,
    with no mask to correct.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._case_id: str | None = None

    def __call__(self, case: Any, prompts: Prompts) -> Mask:
        """Return the mask, `(I, J, K)` on the scan's grid."""
        session = self.session
        if case.round == 0 or case.case_id != self._case_id:
            self._case_id = None
            session.set_case(case.grid, case.ct, case.pet)
            self._case_id = case.case_id
        known = session.items
        if prompts.items[: len(known)] != known:
            session.reset()
            known = ()
        return session.prompt(Prompts(prompts.items[len(known) :], prompts.grid, prompts.case_id))

    def finish(self) -> None:
        """Drop the case."""
        self._case_id = None
        self.session.close()


def open_session(path: str | Path, options: Options | None = None) -> tuple[Session, dict[str, Any]]:
    """Open a session with a trained model; also return the metadata of its checkpoint.

    Raises:
        CheckpointError: There is no checkpoint, or it does not fit.
        SettingError: The device is unknown.
    """
    chosen = options or Options()
    model, about = load_model(path, choose_device(chosen.device))
    return Session(model, StoreRules.of(about["rules"]), chosen), about

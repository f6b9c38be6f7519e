"""One window of a case with its guidance, to test a model on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clickseg.data.prompt_channels import channel_rows
from clickseg.model.inference import Inference, precision
from clickseg.model.network import finest
from clicksim.errors import SettingError
from clicksim.prompts import Prompts


@dataclass(frozen=True)
class Trial:
    """The input with which the guidance linter tests a model.

    Attributes:
        predict: Maps guidance `(2, I, J, K)` to probabilities `(I, J, K)`.
        guidance: The prompts as the model sees them.
        prompts: The prompts on the grid of the window.
    """

    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    guidance: NDArray[np.float32]
    prompts: Prompts


def make_trial(case: Inference, prompts: Prompts) -> Trial:
    """Take one window around the first prompt of a case; see `Session.trial`."""
    moved = case.frame.prompts(prompts)
    if not len(moved):
        raise SettingError("a trial needs a prompt")
    size, shape = np.asarray(case.windows.size), np.asarray(case.windows.shape)
    voxel = np.asarray(moved.items[0].voxels[0])
    start = np.clip(voxel - size // 2, 0, np.maximum(shape - size, 0))
    i, j, k = (slice(int(a), int(min(a + n, end))) for a, n, end in zip(start, size, shape, strict=True))
    shown = moved.crop(start.tolist(), case.windows.size)
    rows = torch.from_numpy(channel_rows(shown)).to(case.device)
    ct, pet = case.images((i, j, k))
    guidance = case.model.guidance(rows, 1, case.windows.size, case.spacing, pet)[0].cpu().numpy()

    def predict(channels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), precision(case.device):
            drawn = torch.from_numpy(channels)[None].to(case.device)
            x = case.model.channels(ct, pet, drawn)
            said = torch.sigmoid(finest(case.model(x)).float())
        return np.asarray(said[0, 0].cpu().numpy())

    return Trial(predict, guidance, shown)

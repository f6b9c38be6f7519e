"""Whether a model uses its guidance: the linter of `clicksim.guidance` on a window around a lesion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clickseg.encode import rows_of
from clickseg.inference import Inference, precision
from clickseg.network import finest
from clicksim.catalog import Catalog, Unit
from clicksim.errors import SettingError
from clicksim.guidance import Finding, format_findings, lint, lint_predictor
from clicksim.prompts import Prompts
from clicksim.simulate.clicks import simulate_clicks
from clicksim.volumes import read_image, read_label

if TYPE_CHECKING:
    from clickseg.predict import Session


@dataclass(frozen=True)
class Trial:
    """What the guidance linter tries a model with.

    Attributes:
        predict: Guidance `(2, I, J, K)` to probabilities `(I, J, K)`.
        guidance: As the model is shown the prompts.
        prompts: On the grid of the window.
    """

    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    guidance: NDArray[np.float32]
    prompts: Prompts


def make_trial(case: Inference, prompts: Prompts) -> Trial:
    """One window around the first prompt of a case; see `Session.trial`."""
    moved = case.frame.prompts(prompts)
    if not len(moved):
        raise SettingError("a trial needs a prompt")
    size, shape = np.asarray(case.windows.size), np.asarray(case.windows.shape)
    voxel = np.asarray(moved.items[0].voxels[0])
    start = np.clip(voxel - size // 2, 0, np.maximum(shape - size, 0))
    i, j, k = (slice(int(a), int(min(a + n, end))) for a, n, end in zip(start, size, shape, strict=True))
    shown = moved.crop(start.tolist(), case.windows.size)
    rows = torch.from_numpy(rows_of(shown)).to(case.device)
    guidance = case.model.guidance(rows, 1, case.windows.size, case.spacing)[0].cpu().numpy()
    ct, pet = case.images((i, j, k))

    def predict(channels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), precision(case.device):
            drawn = torch.from_numpy(channels)[None].to(case.device)
            x = case.model.channels(ct, pet, drawn)
            said = torch.sigmoid(finest(case.model(x)).float())
        return np.asarray(said[0, 0].cpu().numpy())

    return Trial(predict, guidance, shown)


def lint_model(session: "Session", catalog: Catalog, units: Sequence[Unit], cases: int, seed: int) -> str:
    """Whether the model uses its guidance, tried on a window around a lesion of each of some cases."""
    texts: list[str] = []
    for entry in (entry for unit in units for entry in unit.content):
        if len(texts) == cases:
            break
        findings = _lint_case(session, catalog, entry, seed)
        if findings:
            texts.append(f"case {entry['case_id']}\n{format_findings(findings)}")
    return "\n\n".join(texts) or "no case with a lesion to try it on"


def _lint_case(session: "Session", catalog: Catalog, entry: Mapping[str, Any], seed: int) -> list[Finding]:
    """The findings on one case; none where it has no lesion."""
    truth = read_label(catalog.resolve(entry["label"]))
    if not truth.array.any() or entry["ct"] is None:
        return []
    images = [None if entry[n] is None else read_image(catalog.resolve(entry[n])).array for n in ("ct", "pet")]
    prompts = simulate_clicks(
        truth.array, uptake=images[1], spacing=truth.grid.spacing, seed=seed, case_id=entry["case_id"],
        n_foreground=3, n_background=3, background="shell",
    )  # fmt: skip
    prompts = replace(prompts, grid=truth.grid)
    session.set_case(truth.grid, *images)
    trial = session.trial(prompts)
    return [*lint(trial.guidance, trial.prompts), *lint_predictor(trial.predict, trial.guidance, trial.prompts)]

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
from clicksim.errors import ClicksimError, SettingError
from clicksim.guidance import Finding, format_findings, lint, lint_predictor
from clicksim.prompts import Prompts
from clicksim.rounds.jobs import FILES, read_case
from clicksim.rounds.texts import ten_lines
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.volumes import read_label

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
    refused: list[str] = []
    for entry in (entry for unit in units for entry in unit.content):
        if len(texts) == cases:
            break
        try:
            findings = _lint_case(session, catalog, entry, seed)
        except ClicksimError as error:
            refused.append(f"case {entry['case_id']} is left out: {error}")
            continue
        if findings:
            texts.append(f"case {entry['case_id']}\n{format_findings(findings)}")
    return "\n\n".join([*(texts or ["no case with a lesion to try it on"]), *ten_lines(refused, " that are left out")])


def _lint_case(session: "Session", catalog: Catalog, entry: Mapping[str, Any], seed: int) -> list[Finding]:
    """The findings on one case; none where it has no lesion."""
    files = {name: catalog.resolve(entry[name]) for name in FILES if entry[name] is not None}
    if not files.keys() >= {"label", "ct"} or not read_label(files["label"]).array.any():
        return []
    case, _ = read_case(files, entry["case_id"])
    scan = case.scan
    prompts = simulate_clicks(
        case.truth, uptake=scan.pet, spacing=scan.grid.spacing, seed=seed, case_id=scan.case_id,
        n_foreground=3, n_background=3, background="shell",
    )  # fmt: skip
    prompts = replace(prompts, grid=scan.grid)
    session.set_case(scan.grid, scan.ct, scan.pet)
    trial = session.trial(prompts)
    return [*lint(trial.guidance, trial.prompts), *lint_predictor(trial.predict, trial.guidance, trial.prompts)]

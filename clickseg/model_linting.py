"""Check that a model uses its guidance: run the linter of `clicksim.guidance` on a window around a lesion."""

from collections.abc import Sequence
from dataclasses import replace

from clickseg.predict import Session
from clicksim.catalog import Catalog, Unit
from clicksim.errors import ClicksimError
from clicksim.findings import Finding
from clicksim.guidance import format_lint, lint, lint_predictor
from clicksim.pipeline.cases import CaseEntry
from clicksim.pipeline.playing import ROLES
from clicksim.rounds.round_records import RoundsCase
from clicksim.rounds.texts import ten_lines
from clicksim.simulate.clicks.click_rules import simulate_clicks


def lint_model(session: Session, catalog: Catalog, units: Sequence[Unit], cases: int, seed: int) -> str:
    """Check that the model uses its guidance, on a window around a lesion of each of some cases."""
    texts: list[str] = []
    refused: list[str] = []
    for entry in (entry for unit in units for entry in unit.content):
        if len(texts) == cases:
            break
        try:
            findings = _lint_case(session, catalog, entry, seed)
        except ClicksimError as error:
            refused.append(f"case {entry.case_id} is left out: {error}")
            continue
        if findings:
            texts.append(f"case {entry.case_id}\n{format_lint(findings)}")
    return "\n\n".join([*(texts or ["no case has a lesion for the test"]), *ten_lines(refused, " that are left out")])


def _lint_case(session: Session, catalog: Catalog, entry: CaseEntry, seed: int) -> list[Finding]:
    """Return the findings on one case; none if it has no lesion."""
    images = entry.open(catalog, ROLES)
    if "ct" not in images.files or not images.label.array.any():
        return []
    case = RoundsCase.of(images)
    scan = case.scan
    prompts = simulate_clicks(
        case.truth, uptake=scan.pet, spacing=scan.grid.spacing, seed=seed, case_id=scan.case_id,
        n_foreground=3, n_background=3, background="shell",
    )  # fmt: skip
    prompts = replace(prompts, grid=scan.grid)
    session.set_case(scan.grid, scan.ct, scan.pet)
    trial = session.trial(prompts)
    return [*lint(trial.guidance, trial.prompts), *lint_predictor(trial.predict, trial.guidance, trial.prompts)]

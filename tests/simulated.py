"""One prompt run of a catalog in one call, for tests that need one."""

from pathlib import Path
from typing import Any

from clicksim.pipeline import PromptRun, Summary, simulate_catalog


def simulate_run(
    catalog: Path | str,
    protocol: str = "autopet-iv@2",
    seed: int = 42,
    settings: dict[str, Any] | None = None,
    *,
    table: str = "clicks",
    annotator: Any = None,
    **options: Any,
) -> tuple[str, Summary]:
    """The id of the run and how it ended; `options` are those of `simulate_catalog`."""
    run = PromptRun(protocol, seed, settings or {}, table=table, annotator=annotator)
    ((run_id, summary),) = simulate_catalog(catalog, [run], **options).items()
    return run_id, summary

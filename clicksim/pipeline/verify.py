"""A prompt run held against its rule: every case simulated anew and compared voxel by voxel."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, open_catalog
from clicksim.errors import CatalogError, ClicksimError
from clicksim.pipeline.prompts import PromptJob, patient_units, simulate_row
from clicksim.pipeline.units import Progress

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Verdict:
    """How one case of a published run compares with the rule.

    Attributes:
        case_id: The case.
        outcome: `equal`, `unequal` or `not reproducible`.
        detail: What differs, or why it could not be compared.
    """

    case_id: str
    outcome: str
    detail: str = ""


def verify_run(catalog_path: str | Path, run: str, *, progress: Progress | None = None) -> list[Verdict]:
    """Simulate every case of a prompt run anew, and compare voxel by voxel, in order.

    Imported scribbles are compared as one sorted list per polarity, which is all that published files hold.

    The rule is the run's own protocol, settings and seed; for imported files, those named at import.

    Returns:
        One verdict per case of the run, by case id. A case is not reproducible where its images are missing, the rule
        refuses them, or several sources have a case of this id.

    Raises:
        CatalogError: No such run, or one without a protocol.
    """
    catalog = open_catalog(catalog_path)
    about = catalog.metadata(run)
    if not about.get("protocol"):
        raise CatalogError(f"run {run} names no protocol; import it again with --protocol")
    if about.get("made_by") == "rounds":
        raise CatalogError(f"run {run} was played in rounds against a predictor; play it again to compare")
    job = PromptJob.of_run(str(catalog_path), about)
    recorded = _recorded(catalog.table("prompts", run))
    listed = job.table == "scribbles" and about.get("version") == "published"
    covered = about.get("cases") or sorted(recorded)
    rows = defaultdict(list)
    for unit in patient_units(catalog):
        for row in unit.content:
            rows[row["case_id"]].append(row)
    verdicts = []
    for done, case in enumerate(covered, start=1):
        verdicts.append(_compare(catalog, rows[case], case, recorded.get(case, {}), job, listed=listed))
        if progress:
            progress(done, len(covered), sum(verdict.outcome != "equal" for verdict in verdicts))
    return verdicts


def _recorded(table: "pa.Table") -> dict[str, dict[str, list[list[int]]]]:
    """The voxels of each case by polarity, in order."""
    found: dict[str, dict[str, list[list[int]]]] = {}
    columns = ["case", "polarity", "order", "i", "j", "k"]
    for row in table.select(columns).sort_by([("case", "ascending"), ("order", "ascending")]).to_pylist():
        found.setdefault(row["case"], {}).setdefault(row["polarity"], []).append([row["i"], row["j"], row["k"]])
    return found


def _compare(
    catalog: Catalog,
    rows: Sequence[Mapping[str, Any]],
    case: str,
    recorded: Mapping[str, list[list[int]]],
    job: PromptJob,
    *,
    listed: bool,
) -> Verdict:
    if len(rows) != 1:
        told = "several sources of the catalog have such a case" if rows else "the catalog has no such case"
        return Verdict(case, "not reproducible", told)
    (row,) = rows
    try:
        prompts = simulate_row(catalog, row, job)
    except ClicksimError as error:
        return Verdict(case, "not reproducible", str(error))
    new = {"foreground": prompts.foreground.tolist(), "background": prompts.background.tolist()}
    if listed:
        new, recorded = ({key: sorted(found) for key, found in side.items()} for side in (new, recorded))
    if job.table == "clicks" and row["pet_path"] is None and recorded.get("background") and not new["background"]:
        same = new["foreground"] == recorded.get("foreground", [])
        detail = f"no PET for the background; the foreground is {'equal' if same else 'unequal'}"
        return Verdict(case, "not reproducible" if same else "unequal", detail)
    differing = [polarity for polarity, voxels in new.items() if voxels != recorded.get(polarity, [])]
    if not differing:
        return Verdict(case, "equal")
    return Verdict(
        case, "unequal", "; ".join(_first_difference(p, new[p], recorded.get(p, []), job.table) for p in differing)
    )


def _first_difference(polarity: str, new: list[list[int]], old: list[list[int]], table: str) -> str:
    what = table[:-1] if table == "clicks" else "voxel"
    for n, (ours, theirs) in enumerate(zip(new, old, strict=False)):
        if ours != theirs:
            return f"{polarity} {what} {n}: {ours} here, {theirs} recorded"
    return f"{polarity}: {len(new)} {what}s here, {len(old)} recorded"

"""Compare recorded prompts with their rule: simulate every case again, and compare voxel by voxel."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, Outcome, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, ClicksimError
from clicksim.files import PROMPT_ENDINGS
from clicksim.pipeline.cases import CaseEntry, catalog_units, folder_units, with_entries, work_home
from clicksim.pipeline.job import Job, run_job
from clicksim.pipeline.parts import DIED, Tables
from clicksim.pipeline.simulation import PromptRun
from clicksim.pipeline.workers import Crew

if TYPE_CHECKING:
    import pyarrow as pa

Recorded = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Verdict:
    """How one case of a run compares with the rule.

    Attributes:
        case_id: The case.
        outcome: `equal`, `unequal` or `not reproducible`.
        detail: What differs, or why it could not be compared.
    """

    case_id: str
    outcome: str
    detail: str = ""


def verify_run(catalog_path: str | Path, run: str, *, crew: Crew | None = None, resume: bool = False) -> list[Verdict]:
    """Simulate every case of a prompt run again, and compare voxel by voxel, in order.

    The rule is the run's own protocol, settings and seed; for imported files, those named at import. Imported
    scribbles are compared as one sorted list per polarity, which is all that published files hold.

    Args:
        catalog_path: A catalog; with a read-only one, an interrupted verification cannot be resumed.
        run: A prompt run of it.
        crew: Who does the work; by default this process.
        resume: Continue a verification that was interrupted.

    Returns:
        One verdict per case of the run, by case id. A case is not reproducible if its images are missing, the rule
        refuses them, or several sources have a case of this id.

    Raises:
        CatalogError: There is no such run, or it has no protocol; or as `run_job`.
    """
    catalog = open_catalog(catalog_path)
    about = catalog.metadata(run)
    if not about.get("protocol"):
        raise CatalogError(f"run {run} names no protocol; import it again with --protocol")
    if about.get("made_by") == "rounds":
        raise CatalogError(f"run {run} was played in rounds against a predictor; play it again to compare")
    rule = PromptRun.of_metadata(about)
    recorded = _recorded_voxels(catalog.table("prompts", run))
    covered = about.get("cases") or sorted(recorded)
    units = catalog_units(catalog, roles=("label", "pet", "organs"))
    counts = Counter(entry.case_id for unit in units for entry in unit.content)
    wanted = {case for case in covered if counts[case] == 1}
    units = with_entries(
        units,
        lambda entry: replace(entry, with_case=recorded.get(entry.case_id, {})) if entry.case_id in wanted else None,
    )
    told = {case: "several sources of the catalog have such a case" for case in covered if counts[case] > 1}
    told |= {case: "the catalog has no such case" for case in covered if not counts[case]}
    listed = rule.table == "scribbles" and about.get("version") == "published"
    with work_home(catalog) as home:
        job = Job(
            name=f"verify-{run}",
            home=home,
            identity={"run": about, "digest": catalog.part_digest("prompts", run)},
            units=units,
            work=partial(_verify_unit, catalog, rule, listed),
            finish=partial(_verdicts, units),
        )
        found = run_job(job, crew, resume=resume)
    found |= {case: Verdict(case, "not reproducible", detail) for case, detail in told.items()}
    return [found[case] for case in covered]


def verify_folder(
    labels: Path,
    prompts: Path,
    rule: PromptRun,
    *,
    companions: Mapping[str, Path | None] | None = None,
    layout: str = "plain",
    crew: Crew | None = None,
) -> list[Verdict]:
    """Simulate the prompts of every label of a folder again, and compare them with prompt files.

    Args:
        labels: The folder of labels.
        prompts: The folder of prompt files, as `clicksim clicks --label FOLDER --out` writes it.
        rule: What to simulate.
        companions: The folders of PETs and of organ labels, by role.
        layout: The layout of the prompt files: `plain` or `grand-challenge`.
        crew: Who does the work; by default this process.

    Returns:
        One verdict per label, by case id; a case without a file is not reproducible.

    Raises:
        ImageError: As `folder_units`.
    """
    ending = PROMPT_ENDINGS[layout].format(rule.table)
    units = with_entries(
        folder_units(labels, companions or {}),
        lambda entry: replace(entry, with_case=str(prompts / f"{entry.case_id}{ending}")),
    )
    with tempfile.TemporaryDirectory(prefix="clicksim-verify-") as home:
        job = Job(
            name="verify",
            home=Path(home),
            identity={},
            units=units,
            work=partial(_verify_unit, None, rule, False),
            finish=partial(_verdicts, units),
        )
        found = run_job(job, crew)
    return [found[case] for case in sorted(found)]


def _recorded_voxels(table: "pa.Table") -> dict[str, dict[str, list[list[int]]]]:
    """Return the voxels of each case by polarity, in order."""
    found: dict[str, dict[str, list[list[int]]]] = {}
    columns = ["case", "polarity", "order", "i", "j", "k"]
    for row in table.select(columns).sort_by([("case", "ascending"), ("order", "ascending")]).to_pylist():
        found.setdefault(row["case"], {}).setdefault(row["polarity"], []).append([row["i"], row["j"], row["k"]])
    return found


def _verify_unit(catalog: Catalog | None, rule: PromptRun, listed: bool, unit: Unit, _folder: Path) -> Tables:
    """The verdicts on the cases of one unit."""
    import pyarrow as pa

    rows = [vars(_compare(catalog, entry, rule, listed=listed)) for entry in unit.content]
    differing = Outcome()  # what progress counts
    for row in rows:
        if row["outcome"] != "equal":
            differing.reject("Differs", row["detail"], case_id=row["case_id"])
    return {"verdicts": pa.Table.from_pylist(rows), "rejected": rows_to_table("rejected", differing.rejected)}


def _verdicts(units: Sequence[Unit], tables: Tables, _commit: Commit, _facts: Mapping[str, Any]) -> dict[str, Verdict]:
    """The verdicts by case; a case whose process died is not reproducible here."""
    rows = tables["verdicts"].to_pylist() if "verdicts" in tables else []
    found = {row["case_id"]: Verdict(**row) for row in rows}
    contents = {unit.key: unit.content for unit in units}
    for row in tables["rejected"].to_pylist() if "rejected" in tables else ():
        if row["code"] == DIED:
            for entry in contents[row["path"]]:
                found[entry.case_id] = Verdict(entry.case_id, "not reproducible", row["message"])
    return found


def _compare(catalog: Catalog | None, entry: CaseEntry, rule: PromptRun, *, listed: bool) -> Verdict:
    case_id = entry.case_id
    try:
        case = entry.open(catalog, ("label", "pet", "organs"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # settings of a whole run, of which some have no effect
            prompts = rule.make(case, entry)
        recorded = _recorded_of(entry, prompts)
    except ClicksimError as error:
        return Verdict(case_id, "not reproducible", str(error))
    new = {"foreground": prompts.foreground.tolist(), "background": prompts.background.tolist()}
    if listed:
        new, recorded = ({key: sorted(found) for key, found in side.items()} for side in (new, recorded))
    if rule.table == "clicks" and "pet" not in entry.files and recorded.get("background") and not new["background"]:
        same = new["foreground"] == recorded.get("foreground", [])
        detail = f"no PET for the background; the foreground is {'equal' if same else 'unequal'}"
        return Verdict(case_id, "not reproducible" if same else "unequal", detail)
    differing = [polarity for polarity, voxels in new.items() if voxels != list(recorded.get(polarity, []))]
    if not differing:
        return Verdict(case_id, "equal")
    details = (
        _first_difference(polarity, new[polarity], recorded.get(polarity, []), rule.table) for polarity in differing
    )
    return Verdict(case_id, "unequal", "; ".join(details))


def _recorded_of(entry: CaseEntry, prompts: Any) -> dict[str, Any]:
    """The recorded voxels by polarity, from a catalog or from a prompt file."""
    if not isinstance(entry.with_case, str):
        return dict(entry.with_case)
    from clicksim.prompts.prompt_files import read_prompts

    read = read_prompts(Path(entry.with_case), prompts.grid, case_id=entry.case_id)
    return {"foreground": read.foreground.tolist(), "background": read.background.tolist()}


def _first_difference(polarity: str, new: Sequence[Sequence[int]], old: Sequence[Sequence[int]], table: str) -> str:
    what = table[:-1] if table == "clicks" else "voxel"
    for n, (ours, theirs) in enumerate(zip(new, old, strict=False)):
        if ours != theirs:
            return f"{polarity} {what} {n}: {ours} here, {theirs} recorded"
    return f"{polarity}: {len(new)} {what}s here, {len(old)} recorded"

"""Interactive evaluation of a model: the rounds of `clicksim.rounds` with it, and what they come to.

    OUT/<protocol>/rounds.parquet      one row per case and round: scores, sizes, failures
                   prompts.parquet     all prompts
                   lesions.parquet     one row per case, round and lesion: its volume, and how much of it was found
                   metric_scores.json  curves and areas of each case, as the published loop writes them
                   summary.json        means with intervals: all cases, by centre, tracer, scanner, burden, fold, lesion
                   curve.png
                   run.json            when, where, how long
                   predictions/        <source>/<case>/iter_<round>.nii.gz, where they are to be kept
    OUT/lint.txt                       what the guidance linter says of the model

A model is scored on patients that it never saw: where the catalog is the one that its store was made from, on the fold
that its training held out, unless another is named.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.pipeline.units import Parts, Progress, run_facts

from clickseg.data.prepare import FOLDS, plan_store
from clickseg.lesion_scores import lesion_schema, score_lesions, summarise_lesions, write_lesions
from clickseg.model.checkpoint import read_about
from clickseg.model_linting import lint_model
from clickseg.named_model import SPEC, name_of, named_model
from clickseg.predict import Options, open_session
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.schema import table_schema
from clicksim.errors import CatalogError, SettingError, counted
from clicksim.files import make_folder, write_text
from clicksim.predictors.spec import check_name
from clicksim.rounds.jobs import RoundsJob, catalog_units, finish_tables, play_unit, rounds_run_id
from clicksim.rounds.statistics import summarise
from clicksim.rounds.texts import failure_lines, mean_text, summary_lines, ten_lines

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]


@dataclass(frozen=True)
class ModelJob(RoundsJob):
    """Rounds with a model.

    Attributes:
        model: What the checkpoint says of itself, for the run's metadata.
        options: How it is asked.
        keep_predictions: Whether the masks of all rounds stay; else they go when lesions are measured.
        name: The model for `predict_named`; it travels with the job, since a worker's environment is older than it.
    """

    model: tuple[tuple[str, Any], ...] = ()
    options: Options = field(default_factory=Options)
    keep_predictions: bool = False
    name: str = ""

    def about(self) -> Row:
        """What the run's metadata say."""
        return {**super().about(), "model": dict(self.model), "options": asdict(self.options)}


def evaluate_model(
    model: Path,
    catalog_path: str | Path,
    out: Path,
    *,
    protocols: Sequence[str] = ("autopet-iv@2", "autopet-v@2"),
    fold: str = "auto",
    sources: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    options: Options | None = None,
    seed: int = 42,
    workers: int = 0,
    resume: bool = False,
    keep_predictions: bool = False,
    lint: int = 3,
    progress: Progress | None = None,
) -> str:
    """Play, score, and write it all; see the module.

    Args:
        model: A checkpoint.
        catalog_path: The cases.
        out: Where results go.
        protocols: Rules of prompts and scores, one run each.
        fold: 0 to 4, `all`, or `auto`.
        sources: Names of the sources to take; empty for all.
        settings: Of the protocols' rounds and prompts.
        options: How the model is asked.
        seed: Of all draws.
        workers: Processes; 0 works in this one.
        resume: Take up an interrupted run.
        keep_predictions: Store the masks of all rounds.
        lint: Cases on which the use of guidance is tried.
        progress: Told after each patient.

    Returns:
        The results on a page.

    Raises:
        CheckpointError: No checkpoint.
        CatalogError: No case to play.
        SettingError: An unknown protocol, setting, or fold.
    """
    about = read_about(model)
    catalog, chosen = open_catalog(catalog_path), options or Options()
    units, sentence = choose_units(catalog, about, fold, sources)
    folds = folds_of(catalog)
    known = tuple((name, about[name]) for name in ("step", "catalog_digest", "model"))
    jobs = [
        ModelJob(
            SPEC,
            protocol,
            seed,
            dict(settings or {}),
            model=known,
            options=chosen,
            keep_predictions=keep_predictions,
            name=name_of(model, chosen),
        )
        for protocol in protocols
    ]
    # an unknown protocol or setting is refused here, before anything is written
    pages = [sentence, *dict.fromkeys(note for job in jobs for note in job.rules.notes)]
    for job in jobs:
        folder = out / slug_of(job.protocol)
        pages.append(_run(job, catalog, units, folds, folder, model, workers, resume=resume, progress=progress))
    if lint:
        findings = lint_model(open_session(model, chosen)[0], catalog, units, lint, seed)
        write_text(out / "lint.txt", findings + "\n")
        pages.append(f"guidance linter:\n{findings}")
    return "\n\n".join(pages)


def choose_units(
    catalog: Catalog, about: Mapping[str, Any], fold: str, sources: Sequence[str]
) -> tuple[list[Unit], str]:
    """The patients to play, and a sentence that says which they are.

    Raises:
        CatalogError: There are none.
        RoundFailure: A source or a case whose name leads out of a folder.
        SettingError: No fold.
    """
    if fold not in ("auto", "all", *map(str, range(FOLDS))):
        raise SettingError(f"fold is 0 to 4, all or auto; got {fold!r}")
    units = [unit for name in dict.fromkeys(sources) or (None,) for unit in catalog_units(catalog, name)]
    same = about.get("catalog_digest") == catalog.digest()
    held = int(about["train"]["fold"])
    unseen = held if same and held >= 0 else None
    wanted = unseen if fold == "auto" else None if fold == "all" else int(fold)
    if wanted is not None:
        folds = folds_of(catalog)
        units = [
            Unit(unit.key, kept)
            for unit in units
            if (kept := [entry for entry in unit.content if folds[entry["facts"]["patient_key"]] == wanted])
        ]
    for entry in (entry for unit in units for entry in unit.content):
        check_name(entry["facts"]["source"])  # masks stand in folders of these names, and are deleted there
        check_name(entry["case_id"])
    if not units:
        raise CatalogError(f"no case of {catalog.home} is in fold {wanted}; --fold all takes every case")
    count = sum(len(unit.content) for unit in units)
    which = "of all folds" if wanted is None else f"of fold {wanted}"
    seen = "the model was trained on none of them" if wanted == held and same else (
        "the model was trained on some of them" if same else "whether the model was trained on them is not known here"
    )  # fmt: skip
    return units, f"{counted(count, 'case')} {which}; {seen}"


def folds_of(catalog: Catalog) -> dict[str, int]:
    """The fold of each patient by name, as `clickseg prepare` gives it."""
    return {unit.key: int(unit.content[0]["fold"]) for unit in plan_store(catalog.cases.to_pylist())}


def slug_of(protocol: str) -> str:
    """The folder of a protocol: `autopet-v@2` gives `autopet-v-2`."""
    return protocol.replace("@", "-")


def play_patient(job: ModelJob, catalog: Catalog, predictions: Path, unit: Unit) -> dict[str, "pa.Table"]:
    """Play the cases of a patient, and measure what became of each lesion. Runs in any process.

    Args:
        job: What is played.
        catalog: Where the cases are.
        predictions: The folder for masks; those of each source stand apart, since two may use the same name.
        unit: The patient.
    """
    import pyarrow as pa

    source = str(unit.content[0]["facts"]["source"])
    folder = predictions / source
    with named_model(job.name):
        tables = play_unit(replace(job, keep=str(folder)), catalog, unit)
    prompts = tables["prompts"].append_column("source", pa.array([source] * len(tables["prompts"]), pa.string()))
    lesions = [row for entry in unit.content for row in score_lesions(catalog, entry, folder / entry["case_id"])]
    if not job.keep_predictions:
        for entry in unit.content:
            shutil.rmtree(folder / entry["case_id"], ignore_errors=True)
    return {**tables, "prompts": prompts, "lesions": pa.Table.from_pylist(lesions, lesion_schema())}


def _run(
    job: ModelJob,
    catalog: Catalog,
    units: Sequence[Unit],
    folds: Mapping[str, int],
    folder: Path,
    model: Path,
    workers: int,
    *,
    resume: bool,
    progress: Progress | None,
) -> str:
    """One protocol: play in parts that survive a kill, gather, sum up, write; gives the page."""
    import pyarrow as pa

    from clicksim.cli.games import write_outcome

    started, predictions = time.time(), folder / "predictions"
    make_folder(folder)
    about = {
        "id": rounds_run_id(job, units),
        "model": [str(model.resolve()), model.stat().st_size, model.stat().st_mtime_ns],
    }
    parts = Parts(folder / ".work", about, resume=resume)
    parts.run(units, partial(play_patient, job, catalog, predictions), workers=workers, progress=progress)
    schemas = {
        "rounds": table_schema("rounds"),
        "prompts": table_schema("prompts").append(pa.field("source", pa.string())),
        "lesions": lesion_schema(),
    }
    empty = {name: schema.empty_table() for name, schema in schemas.items()}
    tables = finish_tables(job, units, parts.gather(units, empty))
    rows = tables["rounds"].to_pylist()
    lesions = tables["lesions"].to_pylist()
    summary = {"run": about["id"], **job.about(), **summarise(rows, seed=job.seed)}
    summary["fold"] = {
        str(fold): summarise(members, seed=job.seed)["all"]
        for fold in range(FOLDS)
        if (members := [row for row in rows if folds[row["patient_key"]] == fold])
    }
    summary["lesion"] = summarise_lesions(lesions)
    summary["notes"] = notes = tables["notes"].to_pylist() if "notes" in tables else []
    timings = tables["timings"].to_pylist() if "timings" in tables else []
    write_outcome(folder, tables, summary, run_facts(started, {"workers": workers, "rounds": timings}))
    write_lesions(folder, tables["lesions"])
    parts.remove()
    if not job.keep_predictions:
        shutil.rmtree(predictions, ignore_errors=True)
    told = ten_lines([f"case {row['case_id']}: {row['note']}" for row in notes], ": see summary.json")
    return "\n".join([_page(summary), *failure_lines(rows), *told])


def _page(summary: Mapping[str, Any]) -> str:
    """A run in a few lines."""
    whole = summary["all"]
    lines = [f"{summary['protocol']}: {whole['cases']} cases of {whole['patients']} patients", *summary_lines(whole)]
    for group in ("tracer", "centre", "burden", "fold"):
        for name, part in summary[group].items():
            lines.append(f"{group} {name}: {part['cases']} cases, auc_dice {mean_text(part['auc_dice'])}")
    for name, part in summary["lesion"].items():
        found = ", ".join(f"{share:.2f}" for share in part["found"])
        lines.append(f"lesions {name}: {part['lesions']}, found in each round {found}")
    return "\n".join(lines)

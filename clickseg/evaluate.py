"""Interactive evaluation of a model: play the rounds of `clicksim.rounds` with it, and summarise the results.

    OUT/<protocol>/rounds.parquet      one row per case and round: scores, sizes, failures
                   prompts.parquet     all prompts
                   lesions.parquet     one row per case, round and lesion: its volume, and how much of it was found
                   metric_scores.json  curves and areas of each case, as the published loop writes them
                   summary.json        means with intervals: all cases, by centre, tracer, scanner, burden, fold, lesion
                   curve.png
                   predictions/        <source>/<case>/iter_<round>.nii.gz, if they are kept
                   runs/evaluate.json  how and when the result was made
    OUT/lint.txt                       what the guidance linter reports about the model

A model is scored on patients that it never saw. If its store was made from this catalog, that is the fold that its
training held out, unless another fold is given. The folds are those of the plan of the store.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from clickseg.lesion_scores import lesion_schema, score_lesions, summarise_lesions, write_lesions
from clickseg.model.checkpoint import read_about
from clickseg.model_linting import lint_model
from clickseg.model_predictor import model_spec
from clickseg.predict import Options, open_session
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.folds import ChosenFolds, choose_folds
from clicksim.errors import CatalogError, SettingError, counted
from clicksim.files import make_folder, write_text
from clicksim.pipeline.cases import CaseEntry, catalog_units, with_entries
from clicksim.pipeline.job import Job, run_job, write_record
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.playing import (
    PREDICTIONS,
    ROLES,
    RoundsRun,
    empty_tables,
    finish_round_tables,
    play_unit,
    rounds_identity,
    rounds_run_id,
    rounds_summary,
    with_predictions,
    write_outcome,
)
from clicksim.pipeline.workers import Crew
from clicksim.predictors.recorded import check_case_folder
from clicksim.protocols import load_protocol
from clicksim.rounds.statistics import summarise
from clicksim.rounds.texts import failure_lines, mean_text, summary_lines, ten_lines

JOB = "evaluate"
Key = tuple[str, str]


@dataclass(frozen=True)
class Cohort:
    """The patients to evaluate a model on.

    Attributes:
        units: The patients.
        folds: The fold of each case by source and id.
        sentence: Which patients they are, and whether the model has seen them.
    """

    units: list[Unit]
    folds: Mapping[Key, int | None]
    sentence: str


def evaluate_model(
    model: Path,
    catalog_path: str | Path,
    out: Path,
    *,
    protocols: Sequence[str] = ("autopet-iv@2", "autopet-v@2"),
    fold: str = "auto",
    folds: str | None = None,
    sources: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    options: Options | None = None,
    seed: int = 42,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_predictions: bool = False,
    lint: int = 3,
) -> str:
    """Play rounds with a model, score them, and write everything to a folder; see the module.

    Args:
        model: A checkpoint.
        catalog_path: The cases.
        out: The folder of the result.
        protocols: Rules of prompts and scores, one run each.
        fold: A number, `all` or `auto`.
        folds: Name of a fold plan of the catalog; by default that of the model's store.
        sources: Names of the sources to take; empty for all.
        settings: Settings of the protocols' rounds and prompts.
        options: Options of the prediction.
        seed: Seed of all draws.
        crew: Workers; by default this process.
        resume: Continue an interrupted run.
        overwrite: Replace results that were made with other settings.
        keep_predictions: Keep the masks of all rounds.
        lint: Number of cases on which the guidance linter runs.

    Returns:
        The results as text.

    Raises:
        CheckpointError: `model` is not a checkpoint.
        CatalogError: There is no case to play; see also `run_job`.
        SettingError: A protocol, setting, fold or fold plan is unknown.
    """
    about = read_about(model)
    catalog, chosen = open_catalog(catalog_path), options or Options()
    cohort = choose_cohort(catalog, about, fold, sources, folds)
    spec = model_spec(model, chosen)
    runs = [RoundsRun(spec, protocol, seed, dict(settings or {})) for protocol in protocols]
    # an unknown protocol or setting is rejected here, before anything is written
    pages = [cohort.sentence, *dict.fromkeys(note for run in runs for note in run.rules.notes)]
    for run in runs:
        evaluation = _Evaluation(run, catalog, cohort, about, keep_predictions)
        folder = out / slug_of(load_protocol(run.protocol).id)
        pages.append(evaluation.play(folder, crew, resume=resume, overwrite=overwrite))
    if lint:
        findings = lint_model(open_session(model, chosen)[0], catalog, cohort.units, lint, seed)
        write_text(out / "lint.txt", findings + "\n")
        pages.append(f"guidance linter:\n{findings}")
    return "\n\n".join(pages)


def choose_cohort(
    catalog: Catalog, about: Mapping[str, Any], fold: str, sources: Sequence[str], folds: str | None = None
) -> Cohort:
    """Choose the patients to play.

    Args:
        catalog: The catalog.
        about: Metadata of the checkpoint.
        fold: A number, `all` or `auto`. `auto` is the fold that the training held out if the model was trained on
            this catalog, else all.
        sources: Names of the sources to take; empty for all.
        folds: Name of a fold plan of the catalog; by default that of the model's store.

    Raises:
        CatalogError: There are no such patients.
        RoundFailure: The name of a source or a case leads out of its folder.
        SettingError: The fold or plan does not exist.
    """
    plan = _plan_of(catalog, about, folds)
    fold_of = plan.folds.fold_of
    numbers = sorted({number for number in fold_of.values() if number is not None})
    if fold not in ("auto", "all", *map(str, numbers)):
        raise SettingError(f"fold must be all, auto or one of {', '.join(map(str, numbers))}; got {fold!r}")
    same = about.get("catalog_digest") == catalog.digest() and about["folds"]["digest"] == plan.about()["digest"]
    held = int(about["train"]["fold"])
    unseen = held if same and held >= 0 else None
    wanted = unseen if fold == "auto" else None if fold == "all" else int(fold)
    units = [unit for name in dict.fromkeys(sources) or (None,) for unit in catalog_units(catalog, name, roles=ROLES)]
    if wanted is not None:
        units = with_entries(units, lambda entry: entry if fold_of.get(_key(entry)) == wanted else None)
    for entry in (entry for unit in units for entry in unit.content):
        check_case_folder(str(entry.facts["source"]))  # masks are written to, and deleted from, folders of these names
        check_case_folder(entry.case_id)
    if not units:
        raise CatalogError(f"no case of {catalog.home} is in fold {wanted}; --fold all takes every case")
    count = sum(len(unit.content) for unit in units)
    which = "of all folds" if wanted is None else f"of fold {wanted}"
    seen = "the model was trained on none of them" if wanted == held and same else (
        "the model was trained on some of them" if same else "whether the model was trained on them is not known here"
    )  # fmt: skip
    return Cohort(units, fold_of, f"{counted(count, 'case')} {which}; {seen}")


def slug_of(protocol: str) -> str:
    """Return the folder name of a protocol: `autopet-v@2` gives `autopet-v-2`."""
    return protocol.replace("@", "-").replace("#", "-")


def play_patient(run: RoundsRun, catalog: Catalog, keep: bool, unit: Unit, folder: Path) -> Tables:
    """Play the cases of a patient, and measure how much of each lesion was found. Runs in any process.

    Args:
        run: The rounds to play.
        catalog: The catalog of the cases.
        keep: Whether to keep the masks of all rounds; otherwise they are deleted after lesions are measured.
        unit: The patient.
        folder: The folder of the part. Each source has its own folder of masks, since case names may repeat.
    """
    import pyarrow as pa

    source = str(unit.content[0].facts["source"])
    masks = folder / PREDICTIONS / source
    tables = play_unit(replace(run, keep=f"{PREDICTIONS}/{source}"), catalog, unit, folder)
    prompts = tables["prompts"].append_column("source", pa.array([source] * len(tables["prompts"]), pa.string()))
    lesions = [row for entry in unit.content for row in score_lesions(catalog, entry, masks / entry.case_id)]
    if not keep:
        shutil.rmtree(folder / PREDICTIONS, ignore_errors=True)
    return {**tables, "prompts": prompts, "lesions": pa.Table.from_pylist(lesions, lesion_schema())}


class _Evaluation:
    """The rounds of one protocol."""

    def __init__(self, run: RoundsRun, catalog: Catalog, cohort: Cohort, about: Mapping[str, Any], keep: bool) -> None:
        self.run, self.catalog, self.keep, self.folds = run, catalog, keep, cohort.folds
        self.units = with_predictions(run, cohort.units)
        self.model = {name: about[name] for name in ("step", "catalog_digest", "model")}

    def play(self, folder: Path, crew: Crew | None, *, resume: bool, overwrite: bool) -> str:
        """Play all patients, write the result, and return it as text."""
        make_folder(folder)
        files = replace(self.catalog, home=self.catalog.path.resolve()) if not self.catalog.read_only else self.catalog
        job = Job(
            name=JOB,
            home=folder,
            identity={**rounds_identity(self.run, self.units), "trained": self.model, "keep": self.keep},
            units=self.units,
            work=partial(play_patient, self.run.elsewhere(), files, self.keep),
            finish=self.finish,
            tables=_empty_tables(),
        )
        return run_job(job, crew, resume=resume, overwrite=overwrite)

    def finish(self, tables: Tables, commit: Commit, facts: Mapping[str, Any]) -> str:
        """Summarise, write the folder, and return the result as text."""
        found = finish_round_tables(self.run, self.units, tables)
        rows, lesions = found["rounds"].to_pylist(), found["lesions"].to_pylist()
        run_id = rounds_run_id(self.run, self.units)
        summary = {**rounds_summary(self.run, run_id, self.units, found), "trained": self.model}
        summary["fold"] = {
            str(fold): summarise(members, seed=self.run.seed)["all"]
            for fold in sorted({fold for fold in self.folds.values() if fold is not None})
            if (members := [row for row in rows if self.folds.get((row["source"], row["case_id"])) == fold])
        }
        summary["lesion"] = summarise_lesions(lesions)
        write_outcome(commit, found, summary)
        write_lesions(commit, found["lesions"])
        write_record(commit, JOB, {**facts, "rounds": found["timings"].to_pylist()})
        told = ten_lines([f"case {row['case_id']}: {row['note']}" for row in summary["notes"]], ": see summary.json")
        return "\n".join([_page(summary), *failure_lines(rows), *told])


def _empty_tables() -> Tables:
    import pyarrow as pa

    found = {**empty_tables(), "lesions": lesion_schema().empty_table()}
    found["prompts"] = found["prompts"].append_column("source", pa.array([], pa.string()))
    return found


def _plan_of(catalog: Catalog, about: Mapping[str, Any], name: str | None) -> ChosenFolds:
    """Return the named fold plan, else that of the model's store, else the default plan of the catalog."""
    known = str(about["folds"]["plan"])
    if name is None and known in catalog.parts("folds"):
        name = known
    return choose_folds(catalog, name)


def _key(entry: CaseEntry) -> Key:
    return str(entry.facts["source"]), entry.case_id


def _page(summary: Mapping[str, Any]) -> str:
    """Summarise a run in a few lines."""
    whole = summary["all"]
    lines = [f"{summary['protocol']}: {whole['cases']} cases of {whole['patients']} patients", *summary_lines(whole)]
    for group in ("tracer", "centre", "burden", "fold"):
        for name, part in summary[group].items():
            lines.append(f"{group} {name}: {part['cases']} cases, auc_dice {mean_text(part['auc_dice'])}")
    for name, part in summary["lesion"].items():
        found = ", ".join(f"{share:.2f}" for share in part["found"])
        lines.append(f"lesions {name}: {part['lesions']}, found in each round {found}")
    return "\n".join(lines)

"""Interactive evaluation of a model: the rounds of `clicksim.rounds` with it, and what they come to.

    OUT/<protocol>/rounds.parquet      one row per case and round: scores, sizes, failures
                   prompts.parquet     all prompts
                   lesions.parquet     one row per case, round and lesion: its volume, and how much of it was found
                   metric_scores.json  curves and areas of each case, as the published loop writes them
                   summary.json        means with intervals: all cases, by centre, tracer, scanner, burden, fold, lesion
                   curve.png
                   run.json            when, where, how long
    OUT/lint.txt                       what the guidance linter says of the model

A model is scored on patients that it never saw: where the catalog is the one that its store was made from, on the fold
that its training held out, unless another is named.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clickseg.checkpoint import read_about
from clickseg.predict import Options, RoundsPredictor, Session, open_session
from clickseg.prepare import draw_fold
from clicksim.build.units import Parts, Progress, run_facts
from clicksim.catalog import Catalog, Unit, open_catalog
from clicksim.catalog.schema import table_schema
from clicksim.errors import CatalogError, ClicksimError, SettingError
from clicksim.files import replacing
from clicksim.guidance import Finding, format_findings, lint, lint_predictor
from clicksim.lesions import find_lesions
from clicksim.prompts import Prompts
from clicksim.rounds.jobs import RoundsJob, catalog_units, finish_tables, play_unit, run_id
from clicksim.rounds.statistics import summarise
from clicksim.simulate.clicks import simulate_clicks
from clicksim.volumes import read_image, read_label

if TYPE_CHECKING:
    import pyarrow as pa

SPEC = "py:clickseg.evaluate:predict_named"
VARIABLE = "CLICKSEG_PREDICTOR"
FOLDS = range(5)
SIZES_ML = (1.0, 10.0)  # lesions are small, medium or large below, between and above
FOUND = 0.5  # share of a lesion's voxels from which it counts as found
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
    catalog_path: Path,
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
    folds = {row["case_id"]: fold_of(row) for row in catalog.cases.to_pylist()}
    known = tuple((name, about[name]) for name in ("step", "catalog_digest", "model"))
    pages = [sentence]
    jobs = [
        ModelJob(
            SPEC,
            protocol,
            seed,
            dict(settings or {}),
            keep=str(out / slug_of(protocol) / "predictions"),
            model=known,
            options=chosen,
            keep_predictions=keep_predictions,
            name=name_of(model, chosen),
        )
        for protocol in protocols
    ]
    for job in jobs:
        job.rules  # noqa: B018 - an unknown protocol or setting is refused before anything is written
    for job in jobs:
        folder = out / slug_of(job.protocol)
        pages.append(_run(job, catalog, units, folds, folder, model, workers, resume=resume, progress=progress))
    if lint:
        findings = lint_model(open_session(model, chosen)[0], catalog, units, lint, seed)
        (out / "lint.txt").write_text(findings + "\n", encoding="utf-8")
        pages.append(f"guidance linter:\n{findings}")
    return "\n\n".join(pages)


def choose_units(
    catalog: Catalog, about: Mapping[str, Any], fold: str, sources: Sequence[str]
) -> tuple[list[Unit], str]:
    """The patients to play, and a sentence that says which they are.

    Raises:
        CatalogError: There are none.
        SettingError: No fold.
    """
    if fold not in ("auto", "all", *map(str, FOLDS)):
        raise SettingError(f"fold is 0 to 4, all or auto; got {fold!r}")
    units = [unit for name in sources or (None,) for unit in catalog_units(catalog, name)]
    same = about.get("catalog_digest") == catalog.digest()
    held = int(about["train"]["fold"])
    wanted = None if fold == "all" else held if fold == "auto" and same and held >= 0 else None
    wanted = int(fold) if fold not in ("auto", "all") else wanted
    rows = {row["case_id"]: row for row in catalog.cases.to_pylist()}
    if wanted is not None:
        units = [
            Unit(unit.key, kept)
            for unit in units
            if (kept := [entry for entry in unit.content if fold_of(rows[entry["case_id"]]) == wanted])
        ]
    if not units:
        raise CatalogError(f"no case of {catalog.path} is in fold {wanted}; --fold all takes every case")
    count = sum(len(unit.content) for unit in units)
    which = "of all folds" if wanted is None else f"of fold {wanted}"
    seen = "the model was trained on none of them" if wanted == held and same else (
        "the model was trained on some of them" if same else "whether the model was trained on them is not known here"
    )  # fmt: skip
    return units, f"{count} cases {which}; {seen}"


def fold_of(row: Mapping[str, Any]) -> int:
    """The fold of a case, as `clickseg prepare` gives it."""
    official = row["official_fold"]
    return draw_fold(str(row["patient_key"])) if official is None else int(official)


def slug_of(protocol: str) -> str:
    """The folder of a protocol: `autopet-v@2` gives `autopet-v-2`."""
    return protocol.replace("@", "-")


def name_of(model: Path, options: Options) -> str:
    """A model and how it is asked, as `predict_named` takes it."""
    return json.dumps({"model": str(model.resolve()), **asdict(options)})


@contextmanager
def named_model(name: str) -> Iterator[None]:
    """Name a model to `predict_named` in this process, for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


class NamedPredictor:
    """The model that the environment names, opened when it is first asked, and again when another is named."""

    def __init__(self) -> None:
        self._text = ""
        self._inner: RoundsPredictor | None = None

    def __call__(self, case: Any, prompts: Prompts) -> Any:
        """The mask."""
        text = os.environ.get(VARIABLE, "")
        if not text:
            raise SettingError(f"no model is named: set {VARIABLE} to JSON with model, or run clickseg evaluate")
        if self._inner is None or text != self._text:
            named = json.loads(text)
            session, _ = open_session(named.pop("model"), Options(**named))
            self._text, self._inner = text, RoundsPredictor(session)
        return self._inner(case, prompts)

    def finish(self) -> None:
        """Forget the case."""
        if self._inner is not None:
            self._inner.finish()


predict_named = NamedPredictor()


def play_patient(job: ModelJob, catalog: Catalog, unit: Unit) -> dict[str, "pa.Table"]:
    """Play the cases of a patient, and measure what became of each lesion. Runs in any process."""
    import pyarrow as pa

    with named_model(job.name):
        tables = play_unit(job, catalog, unit)
    assert job.keep is not None
    lesions = [row for entry in unit.content for row in _lesions_of(job, catalog, entry)]
    if not job.keep_predictions:
        for entry in unit.content:
            shutil.rmtree(Path(job.keep) / entry["case_id"], ignore_errors=True)
    return {**tables, "lesions": pa.Table.from_pylist(lesions, lesion_schema())}


def lesion_schema() -> "pa.Schema":
    """The table of lesions."""
    import pyarrow as pa

    columns = [("case_id", pa.string()), ("round", pa.int32()), ("lesion", pa.int32())]
    columns += [("volume_ml", pa.float64()), ("found_share", pa.float64())]
    return pa.schema(columns)


def _lesions_of(job: ModelJob, catalog: Catalog, entry: Mapping[str, Any]) -> list[Row]:
    """How much of each lesion each round found."""
    folder = Path(str(job.keep)) / entry["case_id"]
    files = sorted(folder.glob("iter_*.nii.gz"), key=lambda file: int(file.name[5:].split(".")[0]))
    if not files:
        return []
    truth = read_label(catalog.resolve(entry["label"]))
    lesions = list(find_lesions(truth.array))
    rows = []
    for file in files:
        mask, number = read_label(file).array != 0, int(file.name[5:].split(".")[0])
        for n, lesion in enumerate(lesions, start=1):
            voxels = lesion.voxels
            share = float(np.mean(mask[tuple(voxels.T)]))
            volume = len(voxels) * truth.grid.voxel_ml
            rows.append(
                {"case_id": entry["case_id"], "round": number, "lesion": n, "volume_ml": volume, "found_share": share}
            )
    return rows


def summarise_lesions(rows: Sequence[Row]) -> Row:
    """Lesions and the share found, over the rounds, for small, medium and large ones and for all."""
    names = (f"below {SIZES_ML[0]:g} ml", f"{SIZES_ML[0]:g} to {SIZES_ML[1]:g} ml", f"above {SIZES_ML[1]:g} ml")
    summary = {}
    for name in ("all", *names):
        members = [r for r in rows if name == "all" or names[int(np.searchsorted(SIZES_ML, r["volume_ml"]))] == name]
        if not members:
            continue
        numbers = sorted({row["round"] for row in members})
        by_round = [[row["found_share"] for row in members if row["round"] == number] for number in numbers]
        summary[name] = {
            "lesions": len({(row["case_id"], row["lesion"]) for row in members}),
            "found": [float(np.mean(np.asarray(shares) >= FOUND)) for shares in by_round],
            "found_share": [float(np.mean(shares)) for shares in by_round],
        }
    return summary


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
    from clicksim.cli.games import write_outcome

    started = time.time()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClicksimError(f"cannot write to {folder}: {error.strerror or error}") from error
    about = {"id": run_id(job, units), "model": [str(model.resolve()), model.stat().st_size, model.stat().st_mtime_ns]}
    parts = Parts(folder / ".work", about, resume=resume)
    parts.run(units, partial(play_patient, job, catalog), workers=workers, progress=progress)
    empty = {name: table_schema(name).empty_table() for name in ("rounds", "prompts")}
    tables = finish_tables(job, units, parts.gather(units, {**empty, "lesions": lesion_schema().empty_table()}))
    rows = tables["rounds"].to_pylist()
    lesions = tables["lesions"].to_pylist()
    summary = {"run": about["id"], **job.about(), **summarise(rows, seed=job.seed)}
    summary["fold"] = {
        str(fold): summarise(members, seed=job.seed)["all"]
        for fold in FOLDS
        if (members := [row for row in rows if folds[row["case_id"]] == fold])
    }
    summary["lesion"] = summarise_lesions(lesions)
    timings = tables["timings"].to_pylist() if "timings" in tables else []
    write_outcome(folder, tables, summary, run_facts(started, {"workers": workers, "rounds": timings}))
    _write_lesions(folder, tables["lesions"])
    parts.remove()
    if not job.keep_predictions:
        shutil.rmtree(folder / "predictions", ignore_errors=True)
    return _page(summary)


def _write_lesions(folder: Path, table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    with replacing(folder / "lesions.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def lint_model(session: Session, catalog: Catalog, units: Sequence[Unit], cases: int, seed: int) -> str:
    """Whether the model uses its guidance, tried on a window around a lesion of each of some cases."""
    texts: list[str] = []
    for entry in (entry for unit in units for entry in unit.content):
        if len(texts) == cases:
            break
        findings = _lint_case(session, catalog, entry, seed)
        if findings:
            texts.append(f"case {entry['case_id']}\n{format_findings(findings)}")
    return "\n\n".join(texts) or "no case with a lesion to try it on"


def _lint_case(session: Session, catalog: Catalog, entry: Mapping[str, Any], seed: int) -> list[Finding]:
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


def _page(summary: Mapping[str, Any]) -> str:
    """A run in a few lines."""
    whole = summary["all"]
    scores = whole["rounds"]
    lines = [f"{summary['protocol']}: {whole['cases']} cases of {whole['patients']} patients"]
    lines += ["round  dice (95 % interval)     dmm (95 % interval)"]
    for number, (dice, dmm) in enumerate(zip(scores["dice"], scores["dmm"], strict=True)):
        lines.append(f"{number:5}  {_mean(dice):24}  {_mean(dmm)}")
    lines += [f"{key:14} {_mean(whole[key])}" for key in ("auc_dice", "auc_dmm", "final_fpv_ml", "final_fnv_ml")]
    for group in ("tracer", "centre", "burden", "fold"):
        for name, part in summary[group].items():
            lines.append(f"{group} {name}: {part['cases']} cases, auc_dice {_mean(part['auc_dice'])}")
    for name, part in summary["lesion"].items():
        found = ", ".join(f"{share:.2f}" for share in part["found"])
        lines.append(f"lesions {name}: {part['lesions']}, found in each round {found}")
    if whole["failed_rounds"]:
        lines.append(f"{whole['failed_rounds']} rounds failed; the reasons stand in rounds.parquet")
    return "\n".join(lines)


def _mean(entry: Mapping[str, Any]) -> str:
    if entry["mean"] is None:
        return "undefined"
    interval = "" if entry["low"] is None else f" ({entry['low']:.3f} to {entry['high']:.3f})"
    return f"{entry['mean']:.3f}{interval}"

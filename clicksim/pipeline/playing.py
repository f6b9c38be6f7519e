"""Interactive rounds over many cases: of a catalog, or of files.

    OUT/rounds.parquet       one row per case and round
        prompts.parquet      all prompts
        metric_scores.json   curves and areas of each case, as the published loop writes them
        summary.json         means with intervals
        curve.png
        predictions/         <case>/iter_<round>.nii.gz, if they are kept
        runs/rounds.json     what made the result, and when

A case is played from its first round to its last in one process. The number of processes does not change the result.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog import Catalog, Outcome, Unit, open_catalog
from clicksim.catalog.commit import Commit
from clicksim.catalog.lock import writing
from clicksim.catalog.prompt_runs import check_names, hash_run
from clicksim.catalog.run_names import LATEST, check_run_name, find_run
from clicksim.catalog.schema import SORT_KEYS, rows_to_table, table_schema
from clicksim.catalog.store import CatalogCommit
from clicksim.errors import CatalogError, ClicksimError, SettingError, counted, up_to_ten
from clicksim.pipeline.cases import CaseEntry, catalog_units, reason_of, refused_cases, with_entries
from clicksim.pipeline.job import (
    REMEDY,
    RENAME,
    Job,
    check_record,
    result_folder,
    run_job,
    tables_of,
    with_version,
    write_record,
)
from clicksim.pipeline.parts import DIED, Tables
from clicksim.pipeline.workers import Crew
from clicksim.predictors.interface import Predictor, RoundFailure, placed
from clicksim.predictors.recorded import check_case_folder, prediction_file
from clicksim.predictors.spec import PREDICTOR_KINDS, TIME_LIMIT_S, PredictorSpec, open_predictor
from clicksim.prompts.table import METADATA_KEY
from clicksim.protocols import ProtocolName, freeze_protocol, protocol_facts
from clicksim.rounds.case_curves import curves_of, metric_scores
from clicksim.rounds.loop import Keep, Mask, failed_rows, play
from clicksim.rounds.prompters import Recording, Rules
from clicksim.rounds.replay import (
    Recordings,
    add_recordings,
    agreements,
    effort_row,
    make_recordings,
    read_recordings,
    read_rounds,
)
from clicksim.rounds.round_records import PlayedCase, RoundsCase, Row
from clicksim.rounds.statistics import compare_common, compare_runs, summarise
from clicksim.simulate.annotators.annotator_files import annotator_facts
from clicksim.simulate.annotators.people import Annotator
from clicksim.volumes import write_image

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = ("label", "pet", "ct")
JOB = "rounds"
PREDICTIONS = "predictions"
OWN = "own_rounds"
"""The table of the rounds that a predictor plays beside a replay; it is compared, not kept."""


@dataclass(frozen=True)
class RoundsRun:
    """What is played in every case.

    Attributes:
        predictor: From `clicksim.predictors.parse_spec`.
        protocol, seed, settings: As `clicksim.rounds.play` takes them.
        time_limit_s: For one prediction.
        annotator: A model of a person who changes the prompts of the protocol, or None.
        gap: With recorded prompts: also play the predictor's own rounds, and compare.
        keep: The folder for predictions, relative to that of the result; empty keeps none.
    """

    predictor: PredictorSpec
    protocol: ProtocolName = "autopet-v@2"
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    time_limit_s: float = TIME_LIMIT_S
    annotator: Annotator | None = None
    gap: bool = False
    keep: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", freeze_protocol(self.protocol))

    @property
    def rules(self) -> Rules:
        """The rules of the protocol with the user's settings.

        Raises:
            SettingError: The protocol or a setting is unknown.
        """
        return Rules.of(self.protocol, self.settings)

    def elsewhere(self) -> "RoundsRun":
        """The same for a worker that was started in another folder."""
        return replace(self, predictor=self.predictor.absolute())

    def about(self) -> dict[str, Any]:
        """The metadata of the run."""
        rules = self.rules
        person = {} if self.annotator is None else {"annotator_model": annotator_facts(self.annotator)}
        return {
            "version": __version__,
            "made_by": JOB,
            **protocol_facts(self.protocol),
            "seed": self.seed,
            "settings": dict(rules.prompts),
            "rounds": dict(rules.rounds),
            "predictor": str(self.predictor),
            "title": self.predictor.title,
            "time_limit_s": self.time_limit_s,
            **PREDICTOR_KINDS.made_by_others(self.predictor.kind),
            **person,
        }


@dataclass(frozen=True)
class RoundsResult:
    """The result of a run.

    Attributes:
        run: Its id.
        summary: The content of `summary.json`.
        rounds, prompts: Its tables.
        refused: The cases that were not played: `case_id`, `code`, `message`.
    """

    run: str
    summary: dict[str, Any]
    rounds: "pa.Table"
    prompts: "pa.Table"
    refused: Sequence[Row]

    @property
    def failed(self) -> bool:
        """Whether every round failed."""
        whole = self.summary["all"]
        return bool(whole["failed_rounds"] == whole["played_rounds"])


def play_rounds(
    run: RoundsRun,
    cases: str | Path | Sequence[Unit],
    *,
    source: str | None = None,
    out: Path | None = None,
    name: str | None = None,
    replay: Sequence[str | Path] = (),
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> RoundsResult:
    """Play interactive rounds in many cases.

    The unit of work is a patient. A predictor that fails loses the round, a case that cannot be read or that has no
    recorded prediction is refused, and the others continue.

    Args:
        run: What to play.
        cases: A catalog, to which the run is committed; or units of files, see `clicksim.pipeline.cases`.
        source: One source of the catalog, or all.
        out: The folder for tables, summary, curve and kept predictions, or None.
        name: The name of the run; by default a hash of predictor, protocol, settings, seed, cases and recorded prompts.
        replay: Recorded prompts to play instead of those of the protocol: runs of the catalog (`latest` is the one that
            ended last), result folders, or Parquet files of prompts.
        crew: Who does the work; by default this process.
        resume: Continue a run that was interrupted.
        overwrite: Replace a result that was made in another way.

    Raises:
        CatalogError: There are no cases, several cases have one id, a run or file to replay does not exist, or as
            `run_job`.
        SettingError: A protocol, a setting or the predictor is unknown, or the predictor reads the folder that is
            written.
        StorageError: The disk is full or cannot be written.

    Examples:
        >>> from clicksim.pipeline.cases import folder_units
        >>> from clicksim.predictors import parse_spec
        >>> run = RoundsRun(parse_spec("builtin:threshold"))
        >>> result = play_rounds(run, folder_units(labels, {"pet": images}))  # doctest: +SKIP
    """
    crew = crew or Crew()
    if isinstance(cases, str | Path):
        catalog = open_catalog(cases)
        units = catalog_units(catalog, source, roles=ROLES)
    else:
        catalog, units = None, list(cases)
    check_names(entry.case_id for unit in units for entry in unit.content)
    run.predictor.check()
    if out is not None:
        _check_predictor_folder(run.predictor, out)
    for sentence in run.rules.notes:
        crew.say(sentence)
    recordings, recorded = _read_replay(catalog, replay)
    if replay:
        units, absent = with_recordings(units, recordings)
        if absent:
            crew.say(f"not among the cases: {counted(len(absent), 'recorded case')}, {up_to_ten(absent)}")
    units = with_predictions(run, units)
    run_id = name if name is not None else rounds_run_id(run, units)
    check_run_name("rounds", run_id)
    identity = rounds_identity(run, units)
    if catalog is not None and out is not None and not overwrite:  # `run_job` checks the folder alone
        check_record(catalog.path, run_id, identity, RENAME)
    files = None if catalog is None else replace(catalog, home=catalog.path.resolve())
    with (
        nullcontext() if catalog is None else writing(catalog.path),
        result_folder(out or (None if catalog is None else catalog.path)) as home,
    ):
        job = Job(
            name=JOB if out is not None else f"{JOB}-{run_id}",
            home=home,
            identity={**identity, "run": name, "gap": run.gap, "keep": run.keep},
            units=units,
            work=partial(play_unit, run.elsewhere(), files),
            finish=partial(_finish, run, run_id, identity, units, catalog, recorded),
            tables=empty_tables(),
            commit=Commit if out is not None or catalog is None else CatalogCommit,
            records=None if out is not None else {run_id: identity},
            remedy=REMEDY if out is not None else RENAME,
        )
        try:
            return run_job(job, crew, resume=resume, overwrite=overwrite)
        finally:
            _session.cache_clear()


def compare_rounds(catalog: str | Path | None, first: str, second: str, *, seed: int = 42) -> dict[str, Any]:
    """Compare two runs of rounds, as `clicksim.rounds.compare_runs` does.

    Args:
        catalog: A catalog in which runs are looked up, or None.
        first, second: Runs of the catalog, of which `latest` is the one that ended last, or result folders.
        seed: The seed of the bootstrap.

    Raises:
        CatalogError: A name is neither a run nor a folder with `rounds.parquet`.
        SettingError: As `compare_runs`.
    """
    opened = None if catalog is None else open_catalog(catalog)
    rows = [_rounds_named(opened, name).to_pylist() for name in (first, second)]
    return {"first": first, "second": second, **compare_runs(*rows, seed=seed)}


def with_recordings(units: Sequence[Unit], recordings: Recordings) -> tuple[list[Unit], list[str]]:
    """Return the units with the recordings of their cases, and the recorded cases that are in no unit.

    Raises:
        CatalogError: No recorded case is in a unit.
    """
    found = with_entries(
        units,
        lambda entry: (
            replace(entry, with_case=tuple(recordings[entry.case_id])) if entry.case_id in recordings else None
        ),
    )
    left = sorted(set(recordings) - {entry.case_id for unit in found for entry in unit.content})
    if not found:
        raise CatalogError(f"none of the {counted(len(left), 'recorded case')} is among the cases: {up_to_ten(left)}")
    return found, left


def with_predictions(run: RoundsRun, units: Sequence[Unit]) -> list[Unit]:
    """The units with the files that the predictor reads for their cases: if one changes, the unit is done again."""
    found = []
    for unit in units:
        lengths = {entry.case_id: max(map(_n_rounds(run), _recordings_of(entry))) for entry in unit.content}
        files = [file for case_id, n in lengths.items() for file in run.predictor.inputs(case_id, n)]
        found.append(replace(unit, inputs=(*unit.inputs, *files)))
    return found


def rounds_run_id(run: RoundsRun, units: Sequence[Unit]) -> str:
    """The id of a run: a hash of predictor, protocol, settings, seed, cases and recorded prompts."""
    cases = {unit.key: [entry.case_id for entry in unit.content] for unit in units}
    return hash_run({**run.about(), "recordings": _recordings_digest(units)}, cases)


def rounds_identity(run: RoundsRun, units: Sequence[Unit]) -> dict[str, Any]:
    """All that changes the rows of a run: its metadata, the cases with their files, and the recorded prompts."""
    cases = [(unit.key, entry.case_id, sorted(entry.files.items())) for unit in units for entry in unit.content]
    return {
        **{name: value for name, value in run.about().items() if name != "version"},
        "recordings": _recordings_digest(units),
        "cases": {"count": len(cases), "digest": _digest(cases)},
    }


def empty_tables() -> Tables:
    """The tables of a job of rounds, without rows."""
    import pyarrow as pa

    number, real, text = pa.int32(), pa.float64(), pa.string()
    columns: dict[str, list[tuple[str, pa.DataType]]] = {
        "timings": [
            ("case_id", text), ("annotator", text), ("round", number), ("predictor_s", real), ("own_s", real)
        ],
        "efforts": [
            ("case_id", text), ("annotator", text), ("rounds", number), ("prompts", number), ("effort_s", real)
        ],
        "agreement": [
            ("case_id", text), ("first", text), ("second", text), ("distance_mm", real), ("same_polarity", real),
            ("same_lesions", real), ("first_lesions", number), ("second_lesions", number),
        ],
        "notes": [("case_id", text), ("note", text)],
    }  # fmt: skip
    schemas = {name: table_schema(name) for name in ("rounds", "prompts", "rejected")}
    schemas |= {OWN: schemas["rounds"], **{name: pa.schema(fields) for name, fields in columns.items()}}
    return {name: schema.empty_table() for name, schema in schemas.items()}


def play_unit(run: RoundsRun, catalog: Catalog | None, unit: Unit, folder: Path) -> Tables:
    """Play the cases of a patient, by every annotator who recorded prompts. Runs in any process.

    Args:
        run: What to play.
        catalog: The catalog of the cases; None for files.
        unit: The patient.
        folder: The folder of the part; kept predictions are written below it.
    """
    predictor = _session(run.predictor, run.time_limit_s)
    player = _Player(run, predictor, folder)
    for entry in unit.content:
        player.play_entry(entry, catalog)
    return player.tables()


class _Player:
    """The cases of a unit while they are played."""

    def __init__(self, run: RoundsRun, predictor: Predictor, folder: Path) -> None:
        self.run, self.predictor, self.folder = run, predictor, folder
        self.rows: dict[str, list[Row]] = {name: [] for name in empty_tables() if name not in ("prompts", "rejected")}
        self.prompts: list[pa.Table] = []
        self.outcome = Outcome()

    def play_entry(self, entry: CaseEntry, catalog: Catalog | None) -> None:
        """Play one case; a case that cannot be read or has no prediction is refused."""
        recordings = _recordings_of(entry)
        try:
            self._check_predictions(entry, recordings)
            images = entry.open(catalog, ("label", *needed_images(self.predictor, self.run)))
            case = RoundsCase.of(images, entry.facts)
            self.rows["agreement"] += agreements(case, entry.with_case or ())
        except ClicksimError as error:
            for recording in recordings:
                self._refuse(JOB, entry, recording, error)
            return
        self._note(entry.case_id, images.notes)
        for recording in recordings:
            played = self._play(JOB, entry, case, recording)
            if played is not None:
                self.prompts.append(played.prompts.to_table().replace_schema_metadata(None))
                self.rows["timings"] += _timings(played)
                self.rows["efforts"] += [effort_row(entry.case_id, recording)] if recording else []
        if self.run.gap:
            self._play(OWN, entry, case, None)

    def tables(self) -> Tables:
        """The tables of the unit."""
        import pyarrow as pa

        found = empty_tables()
        for name, rows in self.rows.items():
            table = (
                rows_to_table("rounds", rows) if name in (JOB, OWN) else pa.Table.from_pylist(rows, found[name].schema)
            )
            found[name] = table
        schema = found["prompts"].schema
        found["prompts"] = pa.concat_tables([found["prompts"], *(table.cast(schema) for table in self.prompts)])
        found["rejected"] = tables_of(self.outcome)["rejected"]
        return found

    def _check_predictions(self, entry: CaseEntry, recordings: Sequence[Recording | None]) -> None:
        """Refuse a case without any recorded prediction, or whose name cannot be that of a folder.

        Raises:
            RoundFailure: The case is refused.
        """
        has_case = getattr(self.predictor, "has_case", None)
        if has_case is not None and not has_case(entry.case_id):
            raise RoundFailure("NoPrediction", f"there is no recorded prediction of case {entry.case_id}")
        if self.run.keep:
            for recording in recordings:
                self._kept_file(entry.case_id, recording, 0)

    def _play(self, table: str, entry: CaseEntry, case: RoundsCase, recording: Recording | None) -> PlayedCase | None:
        try:
            played = play(
                case,
                self.predictor,
                protocol=self.run.protocol,
                seed=self.run.seed,
                time_limit_s=self.run.time_limit_s,
                recording=recording,
                annotator=self.run.annotator,
                keep=self._keeper(case, recording) if self.run.keep and table == JOB else None,
                **self.run.settings,
            )
        except ClicksimError as error:
            self._refuse(table, entry, recording, error)
            return None
        self.rows[table] += played.rows
        self._note(entry.case_id, played.notes)
        return played

    def _refuse(self, table: str, entry: CaseEntry, recording: Recording | None, error: ClicksimError) -> None:
        code = error.code if isinstance(error, RoundFailure) else "CaseRefused"
        self.rows[table] += refused_rows(self.run, entry, recording, RoundFailure(code, str(error)))
        if table == JOB:
            code = code if isinstance(error, RoundFailure) else reason_of(error)
            self.outcome.reject(code, str(error), case_id=entry.case_id)

    def _note(self, case_id: str, notes: Sequence[str]) -> None:
        self.rows["notes"] += [{"case_id": case_id, "note": note} for note in notes]

    def _keeper(self, case: RoundsCase, recording: Recording | None) -> Keep:
        def keep(number: int, mask: Mask) -> None:
            file = self._kept_file(case.scan.case_id, recording, number)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(file, mask, placed(case.scan.grid))

        return keep

    def _kept_file(self, case_id: str, recording: Recording | None, number: int) -> Path:
        """Return the file for the prediction of a round; for a person's prompts it is below the person's name."""
        person = "" if recording is None or recording.annotator == "simulated" else recording.annotator
        below = person and check_case_folder(person.replace("/", "_"))
        return self.folder / self.run.keep / below / prediction_file(case_id, number)


def needed_images(predictor: Predictor, run: RoundsRun) -> tuple[str, ...]:
    """The roles of the images that must be read, besides the label."""
    if getattr(predictor, "needs_images", True):
        return ("ct", "pet")
    # a person sees the contrast of lesions
    return () if run.rules.corrects and run.annotator is None else ("pet",)


def refused_rows(run: RoundsRun, entry: CaseEntry, recording: Recording | None, failure: RoundFailure) -> list[Row]:
    """The rows of a case that was not played: 0 if the published rule says so, else undefined.

    A case without a recorded prediction is never scored: nothing was predicted.
    """
    scored = run.rules.published and failure.code != "NoPrediction"
    annotator = recording.annotator if recording else run.annotator.name if run.annotator else "simulated"
    return failed_rows(
        entry.case_id, entry.facts, failure, value=0.0 if scored else None, annotator=annotator,
        n=_n_rounds(run)(recording),
    )  # fmt: skip


def finish_round_tables(run: RoundsRun, units: Sequence[Unit], tables: Tables) -> Tables:
    """The tables of a run: sorted, with rows for the cases whose process died, and with the metadata of the run."""
    import pyarrow as pa

    entries = {unit.key: unit.content for unit in units}
    dead = [row for row in tables["rejected"].to_pylist() if row["code"] == DIED]
    rows = [
        row
        for died in dead
        for entry in entries[died["path"]]
        for recording in _recordings_of(entry)
        for row in refused_rows(run, entry, recording, RoundFailure(DIED, died["message"]))
    ]
    found = {**tables, JOB: pa.concat_tables([tables[JOB], rows_to_table(JOB, rows)])}
    metadata = {METADATA_KEY: json.dumps(run.about(), sort_keys=True).encode()}
    for name in (JOB, "prompts"):
        # the sort is stable: cases of one name in two sources stay in the order of their units
        ordered = found[name].unify_dictionaries().sort_by([(key, "ascending") for key in SORT_KEYS[name]])
        found[name] = ordered.replace_schema_metadata(metadata)
    return found


def rounds_summary(run: RoundsRun, run_id: str, units: Sequence[Unit], tables: Tables) -> dict[str, Any]:
    """The numbers of a run, from its finished tables."""
    rows = tables[JOB].to_pylist()
    summary = {"run": run_id, **run.about(), **summarise(rows, seed=run.seed)}
    summary["failures"] = dict(Counter(row["failure"] for row in rows if row["failure"]))
    summary["refused"] = refused_cases(units, tables["rejected"])
    for name in ("agreement", "efforts", "notes"):
        summary[name] = tables[name].to_pylist()
    return summary


def write_outcome(commit: Commit, tables: Tables, summary: Mapping[str, Any]) -> None:
    """Write the tables of a run, the scores of each case, the curve and the summary to a folder.

    Predictions that an earlier run kept there, and this one did not make, are removed.
    """
    import pyarrow.parquet as pq

    from clicksim.report.curves import draw_curves
    from clicksim.report.mip import save_picture

    for file in sorted((commit.home / PREDICTIONS).rglob("iter_*.nii.gz")):
        commit.remove(file.relative_to(commit.home).as_posix())
    for name in (JOB, "prompts"):
        with commit.file(f"{name}.parquet") as temporary:
            pq.write_table(tables[name], temporary, compression="zstd")
    scores = metric_scores(curves_of(tables[JOB].to_pylist()))
    commit.text("metric_scores.json", _as_json(scores))
    shown = {name: summary["all"]["rounds"][key] for name, key in (("Dice", "dice"), ("lesion F1", "dmm"))}
    title = f"{summary['protocol']}, {summary['title']}, {counted(summary['all']['cases'], 'case')}"
    with commit.file("curve.png") as temporary:
        save_picture(draw_curves(shown, title=title, what="score"), temporary)
    commit.text("summary.json", _as_json(summary))


def _finish(
    run: RoundsRun,
    run_id: str,
    identity: Mapping[str, Any],
    units: Sequence[Unit],
    catalog: Catalog | None,
    recorded: "pa.Table | None",
    tables: Tables,
    commit: Commit,
    facts: Mapping[str, Any],
) -> RoundsResult:
    """Summarise the run, and write it into the catalog, into the folder, or both."""
    found = finish_round_tables(run, units, tables)
    summary = rounds_summary(run, run_id, units, found)
    rows = found[JOB].to_pylist()
    if recorded is not None:
        summary["replay_minus_recorded"] = compare_common(recorded.to_pylist(), rows, seed=run.seed)
    if run.gap:
        summary["gap"] = compare_common(rows, found[OWN].to_pylist(), seed=run.seed, any_annotator=True)
    facts = {
        **facts,
        "cases": sum(len(unit.content) for unit in units),
        "refused": summary["refused"],
        "rounds": found["timings"].to_pylist(),
    }
    if catalog is not None:
        about = {**facts, "job": with_version(identity)}
        if isinstance(commit, CatalogCommit):
            _write_run(commit, run_id, found, about)
        else:
            with catalog.commit() as own:
                _write_run(own, run_id, found, about)
    if not isinstance(commit, CatalogCommit):
        write_outcome(commit, found, summary)
        write_record(commit, JOB, facts)
    return RoundsResult(run_id, summary, found[JOB], found["prompts"], summary["refused"])


def _write_run(commit: CatalogCommit, run_id: str, tables: Tables, about: Mapping[str, Any]) -> None:
    for name in ("prompts", JOB):
        commit.write_part(name, run_id, tables[name])
    write_record(commit, run_id, about)


@lru_cache(maxsize=1)
def _session(spec: PredictorSpec, time_limit_s: float) -> Predictor:
    """The open predictor of this process: a model is loaded once, not once for each patient."""
    return open_predictor(spec, time_limit_s=time_limit_s)


def _check_predictor_folder(spec: PredictorSpec, out: Path) -> None:
    """Reject a predictor that reads the folder in which the run keeps its predictions.

    Raises:
        SettingError: It reads that folder.
    """
    if spec.kind == "dir" and Path(spec.argument).resolve().is_relative_to((out / PREDICTIONS).resolve()):
        raise SettingError(
            f"{spec} reads the folder in which {out} keeps its predictions, which would overwrite what it reads; name "
            "another --out"
        )


def _read_replay(catalog: Catalog | None, names: Sequence[str | Path]) -> tuple[Recordings, "pa.Table | None"]:
    """Recorded prompts by case, and the rounds of the one run that made them, if there is one.

    Raises:
        CatalogError: A name is neither a run nor a file, or there is no recorded case.
    """
    found: Recordings = {}
    rounds: list[pa.Table] = []
    for name in map(str, names):
        run = find_run(catalog, "prompts", name) if catalog is not None else name
        if catalog is not None and run in catalog.parts("prompts"):
            known = catalog.table("rounds", run) if run in catalog.parts("rounds") else None
            rounds += [] if known is None else [known.drop_columns(["run"])]
            prompts = catalog.table("prompts", run).replace_schema_metadata(catalog.part_metadata("prompts", run))
            made = make_recordings(prompts, [] if known is None else known.to_pylist(), where=run)
        elif Path(name).exists():
            made = read_recordings([name])
            beside = read_rounds(Path(name))
            rounds += [] if beside is None else [beside]
        else:
            raise CatalogError(f"{name} is neither a run of the catalog nor a file with recorded prompts")
        add_recordings(found, made, where=run)
    if names and not found:
        raise CatalogError(f"there is no recorded case in {', '.join(map(str, names))}")
    return found, rounds[0] if len(rounds) == 1 and len(names) == 1 else None


def _rounds_named(catalog: Catalog | None, name: str) -> "pa.Table":
    """The rounds of a run of the catalog, or of a result folder."""
    if catalog is not None:
        run = find_run(catalog, "rounds", name)
        if run in catalog.parts("rounds"):
            return catalog.table("rounds", run)
    found = read_rounds(Path(name))
    if found is None:
        runs = "" if catalog is None else f", nor a run of {catalog.home}"
        hint = f"; {LATEST} needs --catalog" if name == LATEST and catalog is None else ""
        raise CatalogError(f"{name} is not a folder with rounds.parquet{runs}{hint}")
    return found


def _recordings_of(entry: CaseEntry) -> Sequence[Recording | None]:
    """What is played in a case: its recordings, or None for the rule's own prompts."""
    return entry.with_case or (None,)


def _n_rounds(run: RoundsRun) -> Callable[[Recording | None], int]:
    """How many rounds a recording has, or the rule."""
    own = int(run.rules.rounds["n_rounds"])
    return lambda recording: len(recording.steps) if recording else own


def _recordings_digest(units: Sequence[Unit]) -> str | None:
    """A hash of all recorded prompts; None without any."""
    found = [(entry.case_id, repr(entry.with_case)) for unit in units for entry in unit.content if entry.with_case]
    return _digest(found) if found else None


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def _timings(played: PlayedCase) -> list[Row]:
    names = ("case_id", "annotator", "round")
    return [
        {**{name: row[name] for name in names}, "predictor_s": asked, "own_s": own}
        for row, (asked, own) in zip(played.rows, played.seconds, strict=True)
    ]


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"

"""Rounds over many cases: what is played, the patients to play, and the tables that each leaves.

A patient is played from its first round to its last in one process, so that a run that was killed takes up whole
patients, and the number of processes changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim import __version__
from clicksim.catalog import Catalog, Unit
from clicksim.catalog.prompt_runs import hash_run, read_patients
from clicksim.catalog.schema import SORT_KEYS, rows_to_table, table_schema
from clicksim.errors import CatalogError, ClicksimError, ImageError, SettingError
from clicksim.predictors.interface import Predictor, RoundFailure, Scan, placed
from clicksim.predictors.spec import check_name, open_predictor
from clicksim.prompts.table import METADATA_KEY
from clicksim.rounds.loop import Keep, Mask, failed_rows, play
from clicksim.rounds.prompters import Recording, Rules
from clicksim.rounds.replay import Recordings, agreements, effort_row
from clicksim.rounds.round_records import RoundsCase, Row
from clicksim.simulate.annotators.annotator_files import annotator_facts
from clicksim.simulate.annotators.people import Annotator
from clicksim.volumes import read_image, read_label, write_image
from clicksim.volumes.case import read_pet

if TYPE_CHECKING:
    import pyarrow as pa

Tables = dict[str, "pa.Table"]
FACTS = ("patient_key", "source", "tracer_class", "model")
FILES = ("label", "pet", "ct")


@dataclass(frozen=True)
class RoundsJob:
    """What is played in every case.

    Attributes:
        predictor: Its SPEC.
        protocol, seed, settings: As `clicksim.rounds.play` takes them.
        time_limit_s: For one prediction.
        keep: Folder for predictions, `<case>/iter_<k>.nii.gz`, or None.
        annotator: A person who changes the protocol's prompts, or None.

    Raises:
        SettingError: The predictor reads from the folder that is written.
    """

    predictor: str
    protocol: str
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    time_limit_s: float = 600.0
    keep: str | None = None
    annotator: Annotator | None = None

    def __post_init__(self) -> None:
        kind, _, folder = self.predictor.partition(":")
        if kind == "dir" and self.keep is not None and Path(folder).resolve().is_relative_to(Path(self.keep).resolve()):
            raise SettingError(
                f"{self.predictor} is where the predictions are to be kept, and they would replace what is read; name "
                "another --out, or keep none"
            )

    @property
    def rules(self) -> Rules:
        """The protocol's rules with the user's settings."""
        return Rules.of(self.protocol, self.settings)

    def about(self) -> dict[str, Any]:
        """What the run's metadata say."""
        person = {} if self.annotator is None else {"annotator_model": annotator_facts(self.annotator)}
        return {
            "version": __version__,
            "made_by": "rounds",
            "protocol": self.protocol,
            "seed": self.seed,
            "settings": dict(self.rules.prompts),
            "rounds": dict(self.rules.rounds),
            "predictor": self.predictor,
            "time_limit_s": self.time_limit_s,
            **person,
        }


def file_unit(label: Path, *, pet: Path | None, ct: Path | None, case_id: str) -> Unit:
    """The unit of one case from its files."""
    paths = {"label": label, "pet": pet, "ct": ct}
    files = {name: None if path is None else str(path) for name, path in paths.items()}
    return Unit(case_id, [{"case_id": case_id, **files, "facts": dict.fromkeys(FACTS), "recordings": None}])


def catalog_units(catalog: Catalog, source: str | None = None) -> list[Unit]:
    """The patients of a catalog, each with its cases.

    Raises:
        CatalogError: There are none.
    """
    patients = read_patients(catalog, [*(f"{name}_path" for name in FILES), *FACTS], source)
    if not patients:
        raise CatalogError(f"no cases{f' of {source}' if source else ''} in {catalog.home}")
    return [Unit(key, [_entry(row) for row in rows]) for key, rows in patients.items()]


def _entry(row: Row) -> Row:
    """A case of a catalog as it is played; its paths are resolved then, so that a wrong one costs one case."""
    files = {name: row[f"{name}_path"] for name in FILES}
    return {"case_id": row["case_id"], **files, "facts": {name: row[name] for name in FACTS}, "recordings": None}


def with_recordings(units: Sequence[Unit], recordings: Recordings) -> tuple[list[Unit], list[str]]:
    """The units of the cases that were recorded, and the recorded cases that are not among them.

    Raises:
        CatalogError: None of them is.
    """
    found, left = [], set(recordings)
    for unit in units:
        entries = [
            entry | {"recordings": recordings[entry["case_id"]]}
            for entry in unit.content
            if entry["case_id"] in recordings
        ]
        left -= {entry["case_id"] for entry in entries}
        if entries:
            found.append(Unit(unit.key, entries))
    if not found:
        raise CatalogError(f"none of the {len(recordings)} recorded cases is here: {', '.join(sorted(left)[:10])}")
    return found, sorted(left)


def rounds_run_id(job: RoundsJob, units: Sequence[Unit]) -> str:
    """Hash of the predictor's SPEC, protocol, settings, seed, cases and recorded prompts."""
    recordings = [repr(entry["recordings"]) for unit in units for entry in unit.content]
    cases = {unit.key: [entry["case_id"] for entry in unit.content] for unit in units}
    return hash_run({**job.about(), "recordings": recordings}, cases)


def play_unit(job: RoundsJob, catalog: Catalog | None, unit: Unit) -> Tables:
    """Play the cases of one patient, by every annotator where prompts were recorded. Runs in any process."""
    import pyarrow as pa

    predictor, rules = _open(job.predictor, job.time_limit_s), job.rules
    needs = _needed(predictor, rules, person=job.annotator is not None)
    rows: list[Row] = []
    prompts = [table_schema("prompts").empty_table()]
    extra: dict[str, list[Row]] = {"timings": [], "efforts": [], "agreement": [], "notes": []}
    for entry in unit.content:
        recordings = entry["recordings"] or [None]
        try:
            _forget_predictions(job, entry["case_id"], recordings)
            case, doubts = _load(entry, catalog, needs)
            extra["agreement"] += agreements(case, entry["recordings"] or ())
        except ClicksimError as error:
            rows += [row for recording in recordings for row in _refused(entry, job, recording, error)]
            continue
        extra["notes"] += [{"case_id": entry["case_id"], "note": note} for note in doubts]
        for recording in recordings:
            try:
                game = play(
                    case,
                    predictor,
                    protocol=job.protocol,
                    seed=job.seed,
                    time_limit_s=job.time_limit_s,
                    recording=recording,
                    annotator=job.annotator,
                    keep=_keeper(job, case, recording),
                    **job.settings,
                )
            except ClicksimError as error:
                rows += _refused(entry, job, recording, error)
                continue
            rows += game.rows
            prompts.append(game.prompts.to_table().replace_schema_metadata(None))
            extra["timings"] += _timings(game.rows, game.seconds)
            extra["notes"] += [{"case_id": entry["case_id"], "note": note} for note in game.notes]
            extra["efforts"] += [effort_row(entry["case_id"], recording)] if recording else []
    tables = {name: pa.Table.from_pylist(found) for name, found in extra.items() if found}
    joined = pa.concat_tables([table.cast(table_schema("prompts")) for table in prompts])
    return {"rounds": rows_to_table("rounds", rows), "prompts": joined, **tables}


def finish_tables(job: RoundsJob, units: Sequence[Unit], tables: Tables) -> Tables:
    """The tables of a run, sorted, with rows for cases whose process died, and with the run's metadata."""
    import pyarrow as pa

    dead = {row["path"] for row in tables["rejected"].to_pylist()} if "rejected" in tables else set()
    failure = RoundFailure("WorkerDied", "the process that played the case died twice")
    rows = [
        row
        for unit in units
        if unit.key in dead
        for entry in unit.content
        for recording in entry["recordings"] or [None]
        for row in _refused(entry, job, recording, failure)
    ]
    found = {**tables, "rounds": pa.concat_tables([tables["rounds"], rows_to_table("rounds", rows)])}
    metadata = {METADATA_KEY: json.dumps(job.about(), sort_keys=True).encode()}
    for name in ("rounds", "prompts"):
        keys = [(key, "ascending") for key in SORT_KEYS[name]]
        found[name] = found[name].unify_dictionaries().sort_by(keys).replace_schema_metadata(metadata)
    return found


@cache
def _open(spec: str, time_limit_s: float) -> Predictor:
    """The predictor, made once in each process: a model is loaded once."""
    return open_predictor(spec, time_limit_s=time_limit_s)


def _needed(predictor: Predictor, rules: Rules, *, person: bool) -> tuple[str, ...]:
    """The images that have to be read."""
    if getattr(predictor, "needs_images", True):
        return ("ct", "pet")
    return () if rules.corrects and not person else ("pet",)  # a person sees the contrast of lesions


def _load(
    entry: Mapping[str, Any], catalog: Catalog | None, needs: Sequence[str]
) -> tuple[RoundsCase, tuple[str, ...]]:
    """A case with the images that are needed; see `read_case`."""
    paths = {name: entry[name] for name in ("label", *needs) if entry[name] is not None}
    files = {name: Path(path) if catalog is None else catalog.resolve(path) for name, path in paths.items()}
    return read_case(files, entry["case_id"], entry["facts"])


def read_case(
    files: Mapping[str, Path], case_id: str, facts: Mapping[str, str | None] | None = None
) -> tuple[RoundsCase, tuple[str, ...]]:
    """A case from its files, and a sentence where its PET may be none.

    Args:
        files: `label`; `ct` and `pet` where they are wanted.
        case_id: Its name.
        facts: See `RoundsCase`.

    Raises:
        GeometryError: An image on another grid than the label.
        ImageError: No label; a file that cannot be read; a PET that is a CT or a label.
    """
    where = f"case {case_id}"
    if "label" not in files:
        raise ImageError(f"{where} has no label")
    truth = read_label(files["label"])
    ct = read_image(files["ct"]) if "ct" in files else None
    pet, doubts = read_pet(files["pet"]) if "pet" in files else (None, ())
    for name, image in (("CT", ct), ("PET", pet)):
        if image is not None:
            truth.grid.check_same(image.grid, ("label", name), where=where)
    scan = Scan(case_id, truth.grid, None if ct is None else ct.array, None if pet is None else pet.array)
    return RoundsCase(scan, truth.array, facts or {}), doubts


def _refused(entry: Mapping[str, Any], job: RoundsJob, recording: Recording | None, error: ClicksimError) -> list[Row]:
    rules = job.rules
    failure = error if isinstance(error, RoundFailure) else RoundFailure("CaseRefused", str(error))
    n = len(recording.steps) if recording else rules.rounds["n_rounds"]
    annotator = recording.annotator if recording else job.annotator.name if job.annotator else "simulated"
    return failed_rows(entry["case_id"], entry["facts"], rules, failure, annotator=annotator, n=n)


def _keeper(job: RoundsJob, case: RoundsCase, recording: Recording | None) -> Keep | None:
    """What stores predictions, for `dir:` to find them again."""
    folder = _prediction_folder(job, case.scan.case_id, recording)
    if folder is None:
        return None

    def keep(number: int, mask: Mask) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"iter_{number}.nii.gz", mask, placed(case.scan.grid))

    return keep


def _prediction_folder(job: RoundsJob, case_id: str, recording: Recording | None) -> Path | None:
    """Where the predictions of a case are kept; those for a person's prompts below the person's name."""
    if job.keep is None:
        return None
    person = "" if recording is None or recording.annotator == "simulated" else recording.annotator
    return Path(job.keep) / (person and check_name(person.replace("/", "_"))) / check_name(case_id)


def _forget_predictions(job: RoundsJob, case_id: str, recordings: Sequence[Recording | None]) -> None:
    """Delete what an earlier run kept of a case: it may have had more rounds."""
    for recording in recordings:
        folder = _prediction_folder(job, case_id, recording)
        for file in folder.glob("iter_*.nii.gz") if folder else ():
            file.unlink()


def _timings(rows: Sequence[Row], seconds: Sequence[tuple[float, float]]) -> list[Row]:
    return [
        {
            "case_id": row["case_id"],
            "annotator": row["annotator"],
            "round": row["round"],
            "predictor_s": asked,
            "own_s": own,
        }
        for row, (asked, own) in zip(rows, seconds, strict=True)
    ]

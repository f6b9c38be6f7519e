"""The files of the longitudinal CT data: names, `data_split.json` and demographics, grouped by patient.

Both forms of names are read together, in either folder. A file is rejected if its name has neither form, or if it is
a link to a place outside the source folder.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clicksim.catalog.source import Context, Outcome, Row, Unit
from clicksim.errors import CatalogError, unknown_name, up_to_ten
from clicksim.files import read_bounded
from converters.shared.tables import Rejection, age_years, number_or_none, parse_json, read_csv_table, word_or_none
from converters.shared.trees import inside_source

RELEASES = {
    "v1": "v1, 10.57754/FDAT.qwsry-7t837",
    "v2": "v2, 10.57754/FDAT.75kj1-64747",
    "v3": "v3, 10.57754/FDAT.qe950-g4h94",
}
FOLDERS = ("inputsTr", "targetsTr")
TIMEPOINTS = ("BL", "FU")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}
LAYOUT = """SOURCE/
  data_split.json, *demographics*.csv      if the release has them
  inputsTr/<pid>.csv
  inputsTr/<pid>_<BL|FU>_img_<NN>.nii.gz   v1: <pid>_BL_img_BL_img_<NN>.nii.gz
  inputsTr/<pid>_BL_mask_<NN>.nii.gz       v1: <pid>_BL_mask_BL_img_<NN>.nii.gz
  inputsTr/<pid>_<BL|FU>_<NN>.json
  targetsTr/<pid>_FU_mask_<NN>.nii.gz      v1: <pid>_FU_mask_FU_img_<NN>.nii.gz"""

_PID = re.compile(r"[0-9a-f]{10}")
_IMAGE = re.compile(
    r"(?P<pid>[0-9a-f]{10})_(?P<tp>BL|FU)_(?P<kind>img|mask)_(?P<long>(?P=tp)_img_)?(?P<nn>[0-9]{2})\.nii(?:\.gz)?"
)
_POINTS = re.compile(r"(?P<pid>[0-9a-f]{10})_(?P<tp>BL|FU)_(?P<nn>[0-9]{2})\.json")
_TABLE = re.compile(r"(?P<pid>[0-9a-f]{10})\.csv")
_OURS = (".nii", ".nii.gz", ".csv", ".json")


@dataclass
class LongitudinalScan:
    """The files of one image of a time point, relative to the source; duplicates are refused later."""

    img: list[str] = field(default_factory=list)
    mask: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)


@dataclass
class LongitudinalPatient:
    """What file names and small tables say about a patient.

    Attributes:
        pid: Ten hexadecimal digits.
        scans: By time point and region.
        tables: Lesion tables; normally one.
        release: A key of `RELEASES`.
        official_split: `train`, `val` or `test`.
        demographics: Columns of the case, by time point.
    """

    pid: str
    scans: dict[tuple[str, int], LongitudinalScan] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    release: str = "v1"
    official_split: str | None = None
    demographics: dict[str, Row] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The pseudonym, prefixed with the source."""
        return f"longitudinal_ct:{self.pid}"

    def case_id(self, timepoint: str, region: int) -> str:
        """The case id, such as `0a09c8844b_BL_00`."""
        return f"{self.pid}_{timepoint}_{region:02d}"


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """Group files into patients by name.

    The option `release` decides the release. Without it, a source with demographics is v3, one with `data_split.json`
    or a short name is v2, and any other is v1.

    Raises:
        CatalogError: The folder is not this source.
        SettingError: The release is unknown.
    """
    if not (context.source / "inputsTr").is_dir():
        raise CatalogError(f"{context.source} has no folder inputsTr; longitudinal CT is expected as\n{LAYOUT}")
    found = Outcome()
    patients, is_short = _find_files(context, found)
    splits = _read_split(context, found)
    demographics = _read_demographics(context, found)
    release = context.options.get("release") or (
        "v3" if demographics is not None else "v2" if splits is not None or is_short else "v1"
    )
    if release not in RELEASES:
        raise unknown_name("release", str(release), RELEASES)
    for pid, patient in patients.items():
        patient.release = release
        patient.official_split = (splits or {}).get(pid)
        patient.demographics = (demographics or {}).get(pid, {})
    return [Unit(pid, patient, _inputs(context, patient)) for pid, patient in sorted(patients.items())], found


def _inputs(context: Context, patient: LongitudinalPatient) -> tuple[Path, ...]:
    """The files of a patient. What the shared tables say is in `patient`."""
    scans = [path for scan in patient.scans.values() for path in (*scan.img, *scan.mask, *scan.points)]
    return tuple(context.source / path for path in (*patient.tables, *scans))


def _find_files(context: Context, found: Outcome) -> tuple[dict[str, LongitudinalPatient], bool]:
    """Patients, and whether any name has the short form of v2 and v3."""
    patients: dict[str, LongitudinalPatient] = {}
    is_short = False
    for folder in FOLDERS:
        for file in sorted((context.source / folder).glob("*")):
            name = file.name
            if name.startswith(".") or not name.lower().endswith(_OURS) or _is_demographics(file):
                continue
            relative = f"{folder}/{name}"
            match = _IMAGE.fullmatch(name) or _POINTS.fullmatch(name) or _TABLE.fullmatch(name)
            if match is None:
                expected = "<pid>_<BL|FU>_<img|mask>_<NN>.nii.gz, <pid>_<BL|FU>_<NN>.json or <pid>.csv"
                found.reject("BadName", f"{name} is not {expected}; a pid has 10 digits of 0-9a-f", path=relative)
                continue
            parts = match.groupdict()
            patient = patients.setdefault(parts["pid"], LongitudinalPatient(parts["pid"]))
            if "tp" not in parts:
                patient.tables.append(relative)
                continue
            scan = patient.scans.setdefault((parts["tp"], int(parts["nn"])), LongitudinalScan())
            getattr(scan, parts.get("kind", "points")).append(relative)
            is_short |= "kind" in parts and parts["long"] is None
    return patients, is_short


def _is_demographics(file: Path) -> bool:
    return "demographic" in file.name.lower() and file.suffix.lower() == ".csv"


def _read_split(context: Context, found: Outcome) -> dict[str, str] | None:
    """The split of each patient; None without the file."""
    name = "data_split.json"
    if not (context.source / name).is_file():
        return None
    splits: dict[str, set[str]] = defaultdict(set)
    try:
        content = parse_json(read_bounded(inside_source(context.source, name)), name)
        is_split = isinstance(content, dict) and all(isinstance(pids, list) for pids in content.values())
        unknown = sorted(set(content) - SPLITS.keys()) if is_split else []
        if not is_split or unknown:
            raise Rejection(
                "BadTable", f"{name} must map {', '.join(SPLITS)} to lists of patients; got {content!r:.80}"
            )
    except (Rejection, OSError) as error:
        message = f"{name} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        found.reject(getattr(error, "code", "BadTable"), message, path=name)
        return {}
    for key, pids in content.items():
        for pid in pids:
            if isinstance(pid, str) and _PID.fullmatch(pid):
                splits[pid].add(SPLITS[key])
            else:
                found.reject("BadName", f"{name} lists {pid!r:.80} under {key}, which is not a patient", path=name)
    for pid, names in sorted(splits.items()):
        if len(names) > 1:
            message = f"{name} lists patient {pid} under {' and '.join(sorted(names))}; the patient gets no split"
            found.reject("BadTable", message, path=name, patient_key=LongitudinalPatient(pid).key)
    return {pid: min(names) for pid, names in splits.items() if len(names) == 1}


def _read_demographics(context: Context, found: Outcome) -> dict[str, dict[str, Row]] | None:
    """Columns of the case by patient and time point; None without the file."""
    files = sorted(f for f in [*context.source.glob("*"), *context.source.glob("inputsTr/*")] if _is_demographics(f))
    if not files:
        return None
    by_pid: dict[str, dict[str, Row]] = {}
    name, *further = (file.relative_to(context.source).as_posix() for file in files)
    for other in further:
        found.reject("BadTable", f"{name} is used; a second table of demographics is not read: remove one", path=other)
    try:
        rows = read_csv_table(inside_source(context.source, name))
        columns = list(rows[0]) if rows else []
        keys = [column for column in columns if any(_PID.fullmatch(row[column]) for row in rows)]
        if len(keys) != 1:
            raise Rejection(
                "BadTable",
                f"{name} must have one column of patients, which have 10 digits of 0-9a-f; it has {len(keys)}, among "
                f"the columns {up_to_ten(column[:40] for column in columns) or '(none with a row below)'}",
            )
    except Rejection as error:
        found.reject(error.code, str(error), path=name)
        return {}
    for row in rows:
        pid = row[keys[0]]
        if not _PID.fullmatch(pid) or pid in by_pid:
            problem = "a second time" if pid in by_pid else "which is not a patient"
            found.reject("BadName", f"{name} lists {pid[:80]!r}, {problem}", path=name)
            continue
        by_pid[pid] = {timepoint: _demographics(row, timepoint) for timepoint in TIMEPOINTS}
    return by_pid


def _demographics(row: Mapping[str, str], timepoint: str) -> Row:
    """Age, sex and interval of a row; a value is used only if exactly one column can hold it."""

    def value(*names: str) -> str | None:
        other = {"BL": {"fu", "followup"}, "FU": {"bl", "baseline"}}[timepoint]
        words = {column: set(re.split(r"[^a-z]+", column.lower().replace("follow-up", "followup"))) for column in row}
        fitting = [column for column, own in words.items() if own & set(names) and not own & other]
        return word_or_none(row[fitting[0]]) if len(fitting) == 1 else None

    sex, days = value("sex", "gender"), number_or_none(value("interval", "days"))
    return {
        "sex": SEXES.get((sex or "").lower()),
        "age_years": age_years(value("age")),
        "days_since_baseline": int(days) if timepoint == "FU" and days is not None and abs(days) < 1e5 else None,
    }


def only_file(context: Context, files: list[str], what: str) -> Path:
    """Return the only file of a kind.

    Raises:
        Rejection: `MissingChannel`, `DuplicateCase`; also as `inside_source`.
    """
    if not files:
        raise Rejection("MissingChannel", f"there is no {what}; complete the download")
    if len(files) > 1:
        raise Rejection("DuplicateCase", f"there are {len(files)} files for one {what}: {', '.join(files)}; keep one")
    return inside_source(context.source, files[0])

"""Read and write annotators as TOML files, and fit them to recorded prompt rows and labels."""

import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog
from clicksim.errors import ImageError, PromptFormatError, SettingError, unknown_name, up_to_ten
from clicksim.files import read_toml
from clicksim.prompts import Prompts
from clicksim.prompts.records import check_inside
from clicksim.prompts.table import Row, prompt_of, prompt_rows
from clicksim.settings import dump_table
from clicksim.simulate.annotators.annotator_fit import Fit, Recorded, fit_annotator, record_case
from clicksim.simulate.annotators.people import PRESETS, Annotator, find_annotator
from clicksim.volumes import Volume, case_id_of, read_image, read_label
from clicksim.volumes.case import find_companion, list_labels, read_pet

if TYPE_CHECKING:
    import pyarrow as pa

MEANINGS = {
    "offset_mm": "standard deviation, along each axis, of the displacement of a click in a point-like lesion, mm",
    "offset_per_radius": "growth of that deviation per mm of the lesion's radius",
    "miss_intercept": "log-odds of missing a lesion of 1 ml with a contrast of 2; -inf for never",
    "miss_per_volume": "change of the log-odds per e-fold of the volume",
    "miss_per_contrast": "the same for the contrast: highest uptake in the lesion over the mean around it",
    "wrong_polarity": "probability that a prompt gets the opposite polarity",
    "repeat": "probability that a prompt is followed by another one in the same region",
    "tremor_mm": "standard deviation of each voxel of a stroke around its course, mm",
    "seconds": "mean time for a prompt, s",
    "source": "source of the parameters; assumed: not based on recorded persons",
}


@dataclass(frozen=True, eq=False)
class Shown:
    """A case that a person was shown.

    Attributes:
        label: Its lesions.
        uptake: `(I, J, K)`, or None.
        instances: How values of the label become lesions.
    """

    label: Volume
    uptake: Any = None
    instances: Any = "auto"


OpenCase = Callable[[str], Shown]


@dataclass(frozen=True)
class RecordedFit:
    """A fit and the data behind it.

    Attributes:
        fit: The annotator with its goodness of fit.
        games: Number of games; in a game, one person prompts one case.
        strays: Foreground clicks far from every lesion, left out.
        strokes: Scribbles and boxes, left out.
    """

    fit: Fit
    games: int
    strays: int
    strokes: int


def open_annotator(text: str) -> Annotator:
    """Get a preset by name, or load an annotator from a TOML file if the name ends in `.toml`.

    Raises:
        SettingError: If there is no such preset or file, the file has other content, or a parameter is not allowed.
    """
    return load_annotator(Path(text)) if text.endswith(".toml") else find_annotator(text)


def load_annotator(path: Path) -> Annotator:
    """Load an annotator from a TOML file of its attributes; missing ones are as in `ideal`.

    Raises:
        SettingError: See `open_annotator`.
    """
    return check_annotator(read_toml(path, "annotator"), path)


def check_annotator(values: Mapping[str, Any], path: Path) -> Annotator:
    """Make an annotator from attributes read from a TOML file, either a whole file or a table.

    Args:
        values: Some attributes; the others are as in `ideal`.
        path: The file, for messages, and for a missing name or source.

    Raises:
        SettingError: If a parameter is unknown, or a value is not allowed.
    """
    for name, value in values.items():
        if name not in ("name", *MEANINGS):
            raise unknown_name(f"parameter of the annotator in {path}", name, ("name", *MEANINGS))
        text = name in ("name", "source")
        number = not isinstance(value, bool) and (isinstance(value, float) or _is_whole(value))
        if not (isinstance(value, str) if text else number):
            raise SettingError(f"{name} must be a {'text' if text else 'number'}, got {reprlib.repr(value)} ({path})")
    values = {"name": path.stem, "source": f"file {path.name}", **values}
    if values["name"] in PRESETS and values != asdict(PRESETS[values["name"]]):
        raise SettingError(f"{values['name']} is the name of a preset; give the annotator in {path} another name")
    given: dict[str, Any] = {k: value if isinstance(value, str) else float(value) for k, value in values.items()}
    try:
        return Annotator(**given)
    except SettingError as error:
        raise SettingError(f"{error} ({path})") from error


def _is_whole(value: Any) -> bool:
    """Whether a value is an integer that fits a float; TOML integers can have any length."""
    return isinstance(value, int) and abs(value) <= sys.float_info.max


def annotator_toml(annotator: Annotator, table: str = "") -> str:
    """Write an annotator as TOML for `load_annotator`; with a table name, as a table of a larger file."""
    return dump_table(table, asdict(annotator))


def annotator_facts(annotator: Annotator) -> dict[str, Any]:
    """Return the parameters for JSON; `miss_intercept` is null if the person never misses a lesion."""
    return {key: None if value == -math.inf else value for key, value in asdict(annotator).items()}


def annotator_of(facts: Mapping[str, Any]) -> Annotator:
    """Make the annotator from the result of `annotator_facts`."""
    given: dict[str, Any] = {key: -math.inf if value is None else value for key, value in facts.items()}
    return Annotator(**given)


def fit_rows(
    tables: Iterable["pa.Table"],
    open_case: OpenCase,
    *,
    name: str,
    annotator: str | None = None,
    seed: int = 42,
    bootstrap: int = 200,
) -> RecordedFit:
    """Fit an annotator to recorded prompt rows by maximum likelihood.

    Args:
        tables: Columns as in `clicksim.prompts.table`; `annotator`, `lesion` and `effort_s` may be missing.
        open_case: Returns the label, and the uptake if there is one, of a case by its id.
        name: Name of the fitted annotator.
        annotator: The person whose rows are used; None for all rows.
        seed, bootstrap: Seed and number of samples for the intervals.

    Raises:
        PromptFormatError: If a column is missing, a row is not a valid prompt, or there are no rows of that person.
        SettingError: If there are too few lesions or no click.
        GeometryError: If prompts are outside their case.
    """
    people: dict[tuple[str, str], list[Row]] = {}
    for table in tables:
        for row in prompt_rows(table):
            people.setdefault((row["case"], row.get("annotator") or "file"), []).append(row)
    known = sorted({person for _, person in people})
    chosen = {key: rows for key, rows in sorted(people.items()) if annotator in (None, key[1])}
    if not chosen:
        there = f"there are those of: {up_to_ten(known)}" if known else "the tables are empty"
        raise PromptFormatError(f"no prompts of {annotator or 'anybody'}; {there}")
    entries: list[Recorded] = []
    strays = strokes = 0
    for (case_id, _), rows in chosen.items():
        shown = open_case(case_id)
        prompts = _prompts(rows, shown, case_id)
        found = record_case(prompts, shown.label.array, uptake=shown.uptake, instances=shown.instances)
        entries += found.lesions
        strays, strokes = strays + found.strays, strokes + found.strokes
    return RecordedFit(fit_annotator(name, entries, seed=seed, bootstrap=bootstrap), len(chosen), strays, strokes)


def cases_of_files(label: Path, pet: Path | None = None) -> OpenCase:
    """Return a function that opens cases from a label or a folder of labels, and their PETs."""
    files = {case_id_of(file): file for file in (list_labels(label) if label.is_dir() else [label])}

    def open_case(case_id: str) -> Shown:
        # file names have an underscore in place of a slash in a case id
        file = files.get(case_id) or files.get(case_id.replace("/", "_"))
        if file is None:
            raise ImageError(f"no label of case {case_id} in {label}; there are: {up_to_ten(sorted(files))}")
        mask = read_label(file)
        if pet is None:
            return Shown(mask)
        image, _ = read_pet(find_companion(file, pet) if pet.is_dir() else pet)
        mask.grid.check_same(image.grid, ("label", "PET"), where=f"case {case_id}")
        return Shown(mask, image.array)

    return open_case


def cases_of_catalog(catalog: Catalog) -> OpenCase:
    """Return a function that opens the cases of a catalog."""
    columns = ["case_id", "label_path", "pet_path", "instances"]
    rows = {row["case_id"]: row for row in catalog.cases.select(columns).to_pylist()}

    def open_case(case_id: str) -> Shown:
        row = rows.get(case_id)
        if row is None or row["label_path"] is None:
            raise ImageError(f"{catalog.home} has no {'label of' if row else 'case'} {case_id}")
        label = read_label(catalog.resolve(row["label_path"]))
        uptake = None if row["pet_path"] is None else read_image(catalog.resolve(row["pet_path"])).array
        return Shown(label, uptake, row["instances"])

    return open_case


def read_rows(path: Path) -> "pa.Table":
    """Read prompt rows from a Parquet file, or from `prompts.parquet` in a folder.

    Raises:
        PromptFormatError: If the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "prompts.parquet" if path.is_dir() else path
    try:
        return pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise PromptFormatError(f"cannot read recorded prompts: {error} ({file})") from error


def _prompts(rows: Sequence[Row], shown: Shown, case_id: str) -> Prompts:
    """Make the prompts of one person on one case, with their mean seconds."""
    strokes: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        strokes.setdefault((row["round"], row["stroke"]), []).append(row)
    items = [prompt_of(sorted(part, key=lambda row: row.get("order") or 0)) for _, part in sorted(strokes.items())]
    told = [[row["effort_s"] for row in part if row.get("effort_s") is not None] for part in strokes.values()]
    seconds = [max(part) for part in told if part]
    effort = float(sum(seconds)) / len(strokes) if seconds else None
    prompts = Prompts(tuple(items), shown.label.grid, case_id, effort_s=effort)
    check_inside(prompts, where=f"case {case_id}")
    return prompts

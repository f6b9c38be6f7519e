"""The interface of a source: a plan of patients, and a function that converts one of them.

A converter is one file that defines a `Source`. It is found by its entry point in the group `clicksim.sources`, so that
a laboratory can add its own converter without changing clicksim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.store import check_part
from clicksim.errors import CatalogError, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa

ENTRY_POINTS = "clicksim.sources"
Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """The work that one process does at a time: a patient.

    Attributes:
        key: Name of the unit in progress and in its part files, unique within the source.
        content: The data that the converter needs, as plain data, since it is sent to another process.
        inputs: Absolute paths of the files and folders that the converter reads for it. If one of them or `content`
            changes, a resumed run does the unit again. If empty, all files of the source count.
    """

    key: str
    content: Any
    inputs: tuple[Path, ...] = ()


@dataclass
class Outcome:
    """The result of a unit: rows for the tables. Every study found is in `cases` or in `rejected`."""

    cases: list[Row] = field(default_factory=list)
    lesions: list[Row] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)

    def reject(
        self, code: str, message: str, *, path: str = "", case_id: str | None = None, patient_key: str | None = None
    ) -> None:
        """Record why a study or file is not used; `code` is a key of `schema.REASONS`."""
        self.rejected.append(
            {"case_id": case_id, "patient_key": patient_key, "path": path, "code": code, "message": message}
        )

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows by table."""
        return {"cases": self.cases, "lesions": self.lesions, "links": self.links, "rejected": self.rejected}


@dataclass(frozen=True)
class Context:
    """The folders and options of a converter.

    Attributes:
        source: The folder (or archive) of the publisher.
        catalog: The catalog's folder; images go below `images/<name>/`.
        name: The source's name in the tables.
        options: The user's options of this source.
    """

    source: Path
    catalog: Path
    name: str
    options: Mapping[str, Any]

    def in_place(self, file: Path) -> str:
        """Return the location of a file of the publisher."""
        return f"{self.name}:{file.relative_to(self.source).as_posix()}"

    def written(self, file: Path) -> str:
        """Return the location of a file that the converter wrote."""
        return f"catalog:{file.relative_to(self.catalog).as_posix()}"

    def images(self, slug: str) -> Path:
        """Create the folder for the images of a case."""
        folder = self.catalog / "images" / self.name / slug
        folder.mkdir(parents=True, exist_ok=True)
        return folder


Plan = Callable[[Context], tuple[list[Unit], Outcome]]
Convert = Callable[[Context, Unit], Outcome]
PromptRuns = Callable[[list[Row], list[Row]], Mapping[str, "pa.Table"]]
LeastBytes = Callable[[Context, Unit], float]


@dataclass(frozen=True)
class Source:
    """A publisher's collection and its converter.

    Attributes:
        name: Name in tables and folders, such as `fdat`; a valid folder name other than `catalog`.
        title: One line for `clicksim convert --list`.
        layout: The expected folder tree, for `--help` and errors.
        plan: Turns the folder into units, and lists what it rejects. It reads only names and small tables.
        convert: Converts one unit to rows, in any process and any order; it depends only on its arguments. Bad data
            raise no error; they are listed in `Outcome.rejected`.
        facts: A row of the table of sources: DOI, release, licence, citation, annotation protocol.
        options: Options of this source by name, with their meaning.
        prompt_runs: Turns the rows of all cases and lesions into prompt tables by run, if the publisher provides
            points; they are committed with the conversion.
        least_bytes: The smallest size of a unit in the catalog, estimated from headers alone, so that a disk that is
            too small is found before the work begins. Like `convert`, it accepts any file and raises no error.
    """

    name: str
    title: str
    layout: str
    plan: Plan
    convert: Convert
    facts: Mapping[str, Any]
    options: Mapping[str, str] = field(default_factory=dict)
    prompt_runs: PromptRuns | None = None
    least_bytes: LeastBytes | None = None

    def __post_init__(self) -> None:
        check_part("cases", self.name)
        if self.name == "catalog":
            raise CatalogError("a source cannot be called `catalog`: that is the name of the catalog's own root")


def list_sources() -> dict[str, Source]:
    """Return all installed sources by the name of their command, such as `deep-psma`.

    Raises:
        CatalogError: An entry point does not load, or is not a `Source`.
    """
    return {entry.name: _load(entry) for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name)}


def find_source(name: str) -> Source:
    """Return one source by the name of its command.

    Raises:
        SettingError: There is no such source; the message gives the nearest name.
        CatalogError: The source does not load.
    """
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in entries:
        raise unknown_name("source", name, entries)
    return _load(entries[name])


def _load(entry: Any) -> Source:
    try:
        source = entry.load()
    except Exception as error:
        hint = ""
        if entry.value.startswith("converters.") and str(getattr(error, "name", "")).startswith("converters"):
            hint = "; another distribution has replaced the package `converters`: reinstall clicksim after it"
        raise CatalogError(f"source {entry.name!r} cannot be loaded from {entry.value}: {error}{hint}") from error
    if not isinstance(source, Source):
        raise CatalogError(f"entry point {entry.name!r} is {type(source).__name__}, not a clicksim Source")
    return source

"""The interface of a source: a plan of patients, and a function that converts one of them.

A converter is one file that defines a `Source`. It is found by its entry point in the group `clicksim.sources`, so that
a laboratory can add its own converter without changing clicksim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.store import check_part
from clicksim.errors import CatalogError
from clicksim.extensions import ExtensionRegistry

if TYPE_CHECKING:
    import pyarrow as pa

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


def _check_source(_name: str, thing: Any) -> Source:
    if not isinstance(thing, Source):
        raise TypeError(f"is {type(thing).__name__}, not a clicksim Source")
    return thing


SOURCES = ExtensionRegistry("clicksim.sources", "source", _check_source)


def list_sources() -> dict[str, Source]:
    """Return all installed sources by the name of their command, such as `deep-psma`.

    Raises:
        ClicksimError: An entry point does not load, or is not a `Source`.
    """
    return SOURCES.load_all()


def find_source(name: str) -> Source:
    """Return one source by the name of its command.

    Raises:
        SettingError: There is no such source; the message gives the nearest name.
        ClicksimError: The source does not load, or is not a `Source`.
    """
    return SOURCES.find(name)


def made_by_others(source: Source) -> dict[str, list[str]]:
    """The origin of a source that is not clicksim's own; see `ExtensionRegistry.made_by_others`."""
    package = source.convert.__module__.partition(".")[0]
    return SOURCES.made_by_others(*(name for name in SOURCES.names if SOURCES.package(name) == package))

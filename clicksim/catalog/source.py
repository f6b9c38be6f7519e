"""What a source is to the catalog: a plan of patients, and a function that converts one of them.

A converter is one file that ends in a `Source`. It is found by its entry point in the group `clicksim.sources`,
so that a laboratory can add its own without changing anything here.
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
    """The piece of work that one process does at a time: a patient.

    Attributes:
        key: Unique within the source; names the unit in progress and in its part files.
        content: What the converter needs, as plain data: it travels to another process.
        inputs: Absolute paths of the files and folders that the converter reads for it. Where one of them or `content`
            changes, an interrupted run does it again. Without any, all files of the source count.
    """

    key: str
    content: Any
    inputs: tuple[Path, ...] = ()


@dataclass
class Outcome:
    """What became of a unit: rows for the tables. Every study found ends here, in `cases` or in `rejected`."""

    cases: list[Row] = field(default_factory=list)
    lesions: list[Row] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)

    def reject(
        self, code: str, message: str, *, path: str = "", case_id: str | None = None, patient_key: str | None = None
    ) -> None:
        """Record why something that was found is not taken; `code` is a key of `schema.REASONS`."""
        self.rejected.append(
            {"case_id": case_id, "patient_key": patient_key, "path": path, "code": code, "message": message}
        )

    def tables(self) -> dict[str, list[Row]]:
        """The rows by table."""
        return {"cases": self.cases, "lesions": self.lesions, "links": self.links, "rejected": self.rejected}


@dataclass(frozen=True)
class Context:
    """Where a converter works.

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
        """The catalog's name for a file of the publisher's."""
        return f"{self.name}:{file.relative_to(self.source).as_posix()}"

    def written(self, file: Path) -> str:
        """The catalog's name for a file that the converter wrote."""
        return f"catalog:{file.relative_to(self.catalog).as_posix()}"

    def images(self, slug: str) -> Path:
        """The folder for a case's images, made now."""
        folder = self.catalog / "images" / self.name / slug
        folder.mkdir(parents=True, exist_ok=True)
        return folder


Plan = Callable[[Context], tuple[list[Unit], Outcome]]
Convert = Callable[[Context, Unit], Outcome]
PromptRuns = Callable[[list[Row], list[Row]], Mapping[str, "pa.Table"]]
LeastBytes = Callable[[Context, Unit], float]


@dataclass(frozen=True)
class Source:
    """A publisher's collection and how it is brought in.

    Attributes:
        name: In tables and folders, such as `fdat`; it names a folder, and is not `catalog`.
        title: One line for `clicksim convert --list`.
        layout: The folder tree that is expected, for `--help` and errors.
        plan: From the folder to units, and what was rejected while looking. Reads names and small tables only.
        convert: One unit to rows; runs in any process, in any order, and depends on its arguments alone. It
            raises nothing for bad data: that ends in `Outcome.rejected`.
        facts: A row of the table of sources: DOI, release, licence, citation, annotation protocol.
        options: Options of this source by name, with their meaning.
        prompt_runs: From the rows of all cases and lesions to prompt tables by run, for a source whose publisher
            gives points of its own; they are committed with the conversion.
        least_bytes: What a unit will take in the catalog at the very least, from headers alone, so that a disk that
            is too small is found before the work begins. It takes any file, as `convert` does, and raises nothing.
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
            raise CatalogError("a source cannot be called `catalog`: that is the root of what the catalog itself holds")


def list_sources() -> dict[str, Source]:
    """All installed sources by the name of their command, such as `deep-psma`.

    Raises:
        CatalogError: An entry point that does not load, or is no `Source`.
    """
    return {entry.name: _load(entry) for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name)}


def find_source(name: str) -> Source:
    """One source by the name of its command.

    Raises:
        SettingError: There is none; the nearest name is given.
        CatalogError: It does not load.
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

"""The cases of a job: those of a catalog by patient, or files."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog import Catalog, Unit
from clicksim.catalog.prompt_runs import read_patients
from clicksim.errors import (
    CatalogError,
    ClicksimError,
    GeometryError,
    ImageError,
    LabelError,
    ReferenceAbortError,
    TruncatedError,
    UptakeError,
)
from clicksim.pipeline.parts import DIED
from clicksim.volumes import case_id_of
from clicksim.volumes.case import NAMES, CaseImages, find_companion, list_labels

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = ("patient_key", "source", "tracer_class", "model")


@dataclass(frozen=True)
class CaseEntry:
    """A case of a job, as plain data: it is sent to another process.

    Attributes:
        case_id: Its name.
        files: The paths of its images by role; in a catalog, locations `<root>:<relative path>`. They are resolved when
            the case is read, so that a wrong one affects only this case.
        instances: How the values of its label become lesions.
        suv_threshold: The threshold that the publisher gives for the case.
        facts: The facts that rows of results repeat; see `FACTS`.
        with_case: Data that a job adds, such as recorded prompts.
    """

    case_id: str
    files: Mapping[str, str]
    instances: str = "auto"
    suv_threshold: float | None = None
    facts: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(FACTS))
    with_case: Any = None

    def open(self, catalog: Catalog | None, roles: Sequence[str]) -> CaseImages:
        """Return the images of the case in some roles; each is read on first use.

        Raises:
            CatalogError: A location cannot be resolved.
            ImageError: The case has no label.
        """
        named = {role: file for role, file in self.files.items() if role in roles}
        found = {role: Path(file) if catalog is None else catalog.resolve(file) for role, file in named.items()}
        return CaseImages(found, self.case_id)


def catalog_units(
    catalog: Catalog,
    source: str | None = None,
    *,
    roles: Sequence[str] = ("label", "pet", "ct", "organs"),
    add: Callable[[CaseEntry], CaseEntry] | None = None,
) -> list[Unit]:
    """Make a unit of each patient of a catalog; its content is a tuple of cases.

    Args:
        catalog: The catalog.
        source: One source of it, or all.
        roles: The images that the job may read.
        add: Adds to each case what the job needs.

    Raises:
        CatalogError: There are no cases.
    """
    columns = [*(f"{role}_path" for role in roles), "suv_threshold", "instances", *FACTS]
    patients = read_patients(catalog, columns, source)
    if not patients:
        raise CatalogError(f"no cases{f' of {source}' if source else ''} in {catalog.home}")
    units = []
    for key, rows in patients.items():
        entries = [_entry_of(row, roles) for row in rows]
        entries = [add(entry) for entry in entries] if add else entries
        units.append(
            Unit(
                key, tuple(entries), local_files(catalog, [file for entry in entries for file in entry.files.values()])
            )
        )
    return units


def file_units(
    labels: Iterable[Path], companions: Mapping[str, Path | None], *, case_id: str | None = None
) -> list[Unit]:
    """Make units of one case each, from label files.

    Args:
        labels: The labels.
        companions: By role, a file, or a folder that has one for each case; see `find_companion`.
        case_id: The name of the one case; by default the name of its label without the ending.
    """
    units = []
    for label in labels:
        files = {"label": str(label.absolute())}  # a worker may have been started in another folder
        for role, path in companions.items():
            if path is not None:
                files[role] = str(_companion(label, path, role).absolute())
        name = case_id_of(label) if case_id is None else case_id
        units.append(Unit(name, (CaseEntry(name, files),), tuple(Path(file) for file in files.values())))
    return units


def folder_units(folder: Path, companions: Mapping[str, Path | None]) -> list[Unit]:
    """Make the units of a folder of labels.

    Raises:
        ImageError: The folder cannot be read, has no label, or has two of one case; a companion is one file for
            several cases, or a folder without an image for any of them.
    """
    labels = list_labels(folder)
    for role, path in companions.items():
        if path is None or len(labels) == 1:
            continue
        if not path.is_dir():
            raise ImageError(
                f"{path} is one {NAMES[role]} for the {len(labels)} labels of {folder}; name the folder that has one "
                "for each case"
            )
        if not any(_companion(label, path, role).is_file() for label in labels):
            try:
                find_companion(labels[0], path, CHANNELS.get(role, ""))
            except ImageError as error:
                raise ImageError(f"--{role}: {error}; none of the {len(labels)} cases has one there") from error
    return file_units(labels, companions)


CHANNELS = {"pet": "_0001", "ct": "_0000"}
"""The suffix that nnU-Net adds to the name of a case for its images."""


def with_entries(units: Sequence[Unit], change: Callable[[CaseEntry], CaseEntry | None]) -> list[Unit]:
    """Change the cases of units; a case that becomes None is left out."""
    changed = [replace(unit, content=tuple(filter(None, map(change, unit.content)))) for unit in units]
    return [unit for unit in changed if unit.content]


def refused_cases(units: Sequence[Unit], rejected: "pa.Table") -> list[dict[str, Any]]:
    """Return the cases that a job refused: `case_id`, `code` and `message`, sorted, each once.

    They include the cases of a unit whose process died.
    """
    contents = {unit.key: unit.content for unit in units}
    found: dict[str, dict[str, Any]] = {}
    for row in rejected.to_pylist():
        names = [entry.case_id for entry in contents[row["path"]]] if row["code"] == DIED else [row["case_id"]]
        found |= {name: {"case_id": name, "code": row["code"], "message": row["message"]} for name in names}
    return [found[name] for name in sorted(found)]


def reason_of(error: ClicksimError) -> str:
    """The reason code of a refusal."""
    kinds: tuple[tuple[type[ClicksimError], str], ...] = (
        (TruncatedError, "TruncatedFile"),
        (LabelError, "BadLabel"),
        (UptakeError, "BadUptake"),
        (GeometryError, "GridMismatch"),
        (ReferenceAbortError, "ReferenceAborts"),
        (ImageError, "UnreadableFile"),
        (CatalogError, "UnreadableFile"),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), "SettingRefused")


@contextmanager
def work_home(catalog: Catalog) -> Iterator[Path]:
    """Yield the folder for the finished work of a job that only reads a catalog: the catalog, to allow a resume.

    If the catalog cannot be written, it is a temporary folder, and an interrupted job must start again.
    """
    if catalog.read_only or not os.access(catalog.path, os.W_OK):
        with tempfile.TemporaryDirectory(prefix="clicksim-job-") as home:
            yield Path(home)
    else:
        yield catalog.path


def _entry_of(row: Mapping[str, Any], roles: Sequence[str]) -> CaseEntry:
    files = {role: row[f"{role}_path"] for role in roles if row[f"{role}_path"] is not None}
    facts = {name: row[name] for name in FACTS}
    return CaseEntry(row["case_id"], files, row["instances"] or "auto", row["suv_threshold"], facts)


def local_files(catalog: Catalog, locations: Iterable[str]) -> tuple[Path, ...]:
    """Return the local files at locations; files on object storage are identified by the catalog's digest."""
    found = []
    for location in locations:
        with suppress(CatalogError):  # the case itself will be refused
            if not catalog.is_remote(location):
                found.append(catalog.resolve(location))
    return tuple(found)


def _companion(label: Path, path: Path, role: str) -> Path:
    """Return the image of a label: the path itself, or the case's file in that folder, even if it is missing."""
    if not path.is_dir():
        return path
    try:
        return find_companion(label, path, CHANNELS.get(role, ""))
    except ImageError:
        return path / f"{case_id_of(label)}{CHANNELS.get(role, '')}.nii.gz"

"""A format in which catalogs are exported: one record, found by its entry point in the group `clicksim.exports`.

A format writes the files of one case at a time, possibly in several processes, and afterwards the files of the whole
folder. clicksim does the rest: it chooses the cases, names their files, resumes, replaces an earlier export in one
step, and writes licences, citations and the record.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clicksim.catalog.commit import Commit
from clicksim.catalog.folds import Key
from clicksim.extensions import ExtensionRegistry
from clicksim.manifests.selection import Export, ExportCase, ExportSetup
from clicksim.settings import SettingsTable, Value, fill_settings


@dataclass(frozen=True)
class CaseFiles:
    """What was written for one case.

    Attributes:
        files: Its files by name, relative to the folder of the export, with forward slashes.
        item: What `finish` needs to know about the case, as JSON data.
    """

    files: Mapping[str, str]
    item: Any = None


@dataclass(frozen=True)
class ExportedCases:
    """The input of `finish` of a format: the cases that were written.

    Attributes:
        export: The requested export, including refused cases.
        settings: All settings of the format.
        written: By source and case id, sorted.
    """

    export: Export
    settings: Mapping[str, Any]
    written: Mapping[Key, CaseFiles]

    @property
    def cases(self) -> list[ExportCase]:
        """The cases that were written."""
        return [case for case in self.export.cases if case.key in self.written]

    def item(self, case: ExportCase) -> Any:
        """The item of a case."""
        return self.written[case.key].item


def accept(export: Export, out: Path, settings: Mapping[str, Any]) -> None:
    """Accept any export."""


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        name: The name of its entry point.
        meaning: One line.
        settings: Its settings, which become options of `clicksim manifest NAME`.
        write_case: Writes the files of a case below the given folder, under the names that they get in the export. It
            is sent to worker processes, so it must be at the top level of a module. A `ClicksimError` refuses only
            this case.
        finish: Writes the files of the whole folder into the commit, and returns notes for the user.
        check: Returns the faults of an export, one sentence each. It may raise any error of reading damaged files.
        prepare: Raises a `ClicksimError`, before anything is written, if something cannot be exported.
        complete: Checks the given settings and returns all of them; by default as declared in `settings`.
    """

    name: str
    meaning: str
    write_case: Callable[[ExportSetup, ExportCase, Path], CaseFiles]
    finish: Callable[[ExportedCases, Commit], list[str]]
    check: Callable[[Path], Iterable[str]]
    settings: SettingsTable = field(default_factory=dict)
    prepare: Callable[[Export, Path, Mapping[str, Any]], None] = accept
    complete: Callable[[Mapping[str, Value]], dict[str, Value]] | None = None

    def fill(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """All settings: the given ones, checked, and the defaults of the others.

        Raises:
            SettingError: An unknown setting, or a value that is not allowed.
        """
        if self.complete is not None:
            return self.complete(given)
        return fill_settings(self.settings, given, f"the export {self.name}")


def _check_format(name: str, found: Any) -> ExportFormat:
    if not isinstance(found, ExportFormat):
        raise TypeError(f"an entry point must name an ExportFormat, got {type(found).__name__}")
    if found.name != name:
        raise TypeError(f"its entry point is named {name!r}, but the format {found.name!r}; use one name")
    return found


EXPORTS = ExtensionRegistry("clicksim.exports", "export format", _check_format)
"""All formats, including those of other packages."""

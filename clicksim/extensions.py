"""What other packages add to clicksim: one registry for each group of entry points.

A package names what it adds in its `pyproject.toml`, and clicksim finds it once the package is installed; clicksim's
own strategies, encodings and so on are found in the same way.

    [project.entry-points."clicksim.encodings"]
    cube = "my_package.encodings:CUBE"
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from clicksim.errors import ClicksimError, SettingError, unknown_name

T = TypeVar("T")
OWN = "clicksim"


@dataclass(frozen=True)
class ExtensionRegistry(Generic[T]):
    """The registry of one group of entry points.

    Nothing is imported before it is asked for by name.

    Attributes:
        group: Such as `clicksim.encodings`.
        noun: What an entry is called in messages, such as `encoding`.
        check: Returns a loaded object if it can be used under its name, else raises `TypeError` with a sentence.
        section: The part of the group that is meant: entries named `<section>.<name>`; empty for the whole group.
    """

    group: str
    noun: str
    check: Callable[[str, Any], T]
    section: str = ""

    @property
    def names(self) -> list[str]:
        """The names of all entries, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def find(self, name: str) -> T:
        """Load one entry.

        Raises:
            SettingError: There is no such entry; the message gives the nearest name.
            ClicksimError: The entry cannot be loaded, or is not of the right kind.
        """
        entries = self._entries
        if name not in entries:
            raise unknown_name(self.noun, name, entries)
        return self._load(name, entries[name])

    def load_all(self) -> dict[str, T]:
        """Load all entries, by name.

        Raises:
            ClicksimError: As `find`.
        """
        return {name: self._load(name, entry) for name, entry in sorted(self._entries.items())}

    def each(self) -> Iterator[tuple[str, T | ClicksimError]]:
        """Yield all entries by name; for one that cannot be loaded, the error, for lists that people read."""
        for name in self.names:
            try:
                yield name, self.find(name)
            except ClicksimError as error:
                yield name, error

    def origin(self, name: str) -> str:
        """The distribution and version that an entry comes from, such as `my-package 1.2`."""
        found = self._entries[name].dist
        return f"{found.name} {found.version}" if found else ""

    def package(self, name: str) -> str:
        """The import package that an entry comes from, such as `my_package`."""
        return self._entries[name].value.partition(":")[0].partition(".")[0]

    def made_by_others(self, *names: object) -> dict[str, list[str]]:
        """The origins of entries that are not clicksim's own, for the record of what used them.

        Args:
            names: Names, or other values of settings, which are skipped.

        Returns:
            `packages` with the origins, sorted; nothing at all where all are clicksim's own.
        """
        entries = self._entries
        origins = {self.origin(name) for name in names if isinstance(name, str) and name in entries}
        others = sorted(origin for origin in origins if origin.partition(" ")[0] != OWN)
        return {"packages": others} if others else {}

    @property
    def _entries(self) -> Mapping[str, EntryPoint]:
        prefix = f"{self.section}." if self.section else ""
        entries = _read_group(self.group, tuple(sys.path))
        return {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}

    def _load(self, name: str, entry: EntryPoint) -> T:
        try:
            return self.check(name, entry.load())
        except TypeError as error:
            raise ClicksimError(f"{self.noun} {name!r} ({entry.value}, {self.origin(name)}): {error}") from error
        except Exception as error:  # the import runs foreign code
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if self.package(name) == "converters" and str(getattr(error, "name", "")).startswith("converters"):
                told += "; another distribution has replaced the package `converters`: reinstall clicksim after it"
            raise ClicksimError(
                f"{self.noun} {name!r} cannot be loaded from {entry.value} ({self.origin(name)}): {told}"
            ) from error


@lru_cache(maxsize=16)
def _read_group(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:  # noqa: ARG001 - the path is a key
    """The entry points of a group by name.

    Raises:
        SettingError: Two packages use the same name, so that a setting would not say which one is meant.
        ClicksimError: None of them is clicksim's own.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            owners = sorted(f"{one.dist.name if one.dist else 'a package'} ({one.value})" for one in (other, entry))
            raise SettingError(
                f"{entry.name!r} is the name of two entries of {group}, in {' and in '.join(owners)}; uninstall one"
            )
    if not any(entry.dist is not None and entry.dist.name == OWN for entry in found.values()):
        raise ClicksimError(
            f"clicksim is not installed, or its installation is older than its source: it has no entry of {group}; "
            "run `make install`, or `pip install -e .`"
        )
    return found

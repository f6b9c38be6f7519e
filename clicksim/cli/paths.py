"""Paths on the command line: catalogs, which are folders, or URLs where a command only reads; folders to write to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from clicksim import files
from clicksim.errors import ClicksimError, StorageError


@contextmanager
def making_folder(file: Path) -> Iterator[None]:
    """Make the folder of a file that is written within; what the system refuses becomes one sentence that names it.

    Raises:
        StorageError: The disk is full, or may not be written.
        ClicksimError: Any other refusal, as where a folder of that name is a file.
    """
    files.make_folder(file.parent)
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise ClicksimError(f"cannot write {file}: {error.strerror or error}") from error


def write_result(file: Path, text: str) -> None:
    """Write text, complete or not at all, with the folder that it is to stand in.

    Raises:
        StorageError, ClicksimError: As `making_folder`.
    """
    with making_folder(file):
        files.write_text(file, text)


def check_distinct(read: Mapping[str, Any], written: Mapping[str, Path | None]) -> None:
    """Refuse to write over a file that the same command reads or writes.

    Args:
        read, written: By option; what is no path is passed over.

    Raises:
        click.UsageError: The options that name one file.
    """
    seen: dict[Path, str] = {}
    for option, path in [*read.items(), *written.items()]:
        if not isinstance(path, Path):
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option and option in written:
            raise click.UsageError(f"{option} would write over the file of {other}: {path}")


class CatalogPath(click.Path):
    """The folder of a catalog as a `Path`, or its URL as text: as a path it would lose one of its slashes.

    Args:
        writes: Whether the command writes to the catalog, so that a URL is refused.
        exists: Whether the folder must be there.
    """

    def __init__(self, *, writes: bool = False, exists: bool = True) -> None:
        super().__init__(path_type=Path, exists=exists, file_okay=False)
        self.writes = writes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or the URL.

        Raises:
            CatalogError: A URL for a command that writes, or one that `check_address` refuses; a folder that is not
                there and must be.
        """
        from clicksim.catalog.remote.places import check_address, is_url, read_only
        from clicksim.errors import CatalogError

        check_address(value)  # first, as every other refusal repeats the value
        if not is_url(value):
            if self.exists and not Path(value).exists():
                raise CatalogError(f"no catalog in {value}: the folder does not exist; clicksim convert makes one")
            return super().convert(value, param, ctx)
        if self.writes:
            raise read_only(value)
        return value

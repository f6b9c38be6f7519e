"""Paths on the command line: catalogs (folders, or URLs for commands that only read), and output folders."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from clicksim import files
from clicksim.errors import ClicksimError, StorageError


@contextmanager
def making_folder(file: Path) -> Iterator[None]:
    """Create the folder of a file that the block writes; system errors become a sentence that names the file.

    Raises:
        StorageError: The disk is full or cannot be written.
        ClicksimError: Any other system error, such as a file with the name of the folder.
    """
    files.make_folder(file.parent)
    files.clear_abandoned(file)
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise ClicksimError(f"cannot write {file}: {error.strerror or error}") from error


def write_result(file: Path, text: str) -> None:
    """Write text to a file that is complete or missing; create its folder.

    Raises:
        StorageError, ClicksimError: See `making_folder`.
    """
    with making_folder(file):
        files.write_text(file, text)


def check_distinct(read: Mapping[str, Any], written: Mapping[str, Path | None]) -> None:
    """Reject an output that would overwrite a file that the same command reads or writes.

    Args:
        read, written: Values by option; values that are not paths are skipped.

    Raises:
        click.UsageError: Two options name one file.
    """
    seen: dict[Path, str] = {}
    for option, path in [*read.items(), *written.items()]:
        if not isinstance(path, Path):
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option and option in written:
            raise click.UsageError(f"{option} would overwrite the file of {other}: {path}")


class CatalogPath(click.Path):
    """The folder of a catalog as a `Path`, or its URL as text, since a path would lose one of its slashes.

    Args:
        writes: Whether the command writes to the catalog, so that a URL is an error.
        exists: Whether the folder must exist.
    """

    def __init__(self, *, writes: bool = False, exists: bool = True) -> None:
        super().__init__(path_type=Path, exists=exists, file_okay=False)
        self.writes = writes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a path or a URL.

        Raises:
            CatalogError: A command that writes gets a URL, `check_address` rejects the URL, or a folder that must
                exist is missing.
        """
        from clicksim.catalog.remote.places import check_address, is_url, read_only
        from clicksim.errors import CatalogError

        check_address(value)  # first, since every other error repeats the value
        if not is_url(value):
            if self.exists and not Path(value).exists():
                raise CatalogError(
                    f"no catalog in {value}: the folder does not exist; create one with clicksim convert"
                )
            return super().convert(value, param, ctx)
        if self.writes:
            raise read_only(value)
        return value

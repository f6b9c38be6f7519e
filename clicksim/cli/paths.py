"""Catalogs on the command line: a folder, or a URL where a command only reads."""

from pathlib import Path
from typing import Any

import click


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
        from clicksim.catalog.places import check_address, is_url, read_only
        from clicksim.errors import CatalogError

        check_address(value)  # first, as every other refusal repeats the value
        if not is_url(value):
            if self.exists and not Path(value).exists():
                raise CatalogError(f"no catalog in {value}: the folder does not exist; clicksim convert makes one")
            return super().convert(value, param, ctx)
        if self.writes:
            raise read_only(value)
        return value

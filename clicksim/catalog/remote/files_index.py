"""The files of a pushed catalog: their stored names and their content.

On object storage each file has its checksum in its name, so no file is overwritten while someone reads it. The index, a
table of all files, also has its checksum in its name, and `catalog.json` names the index. So a reader of `catalog.json`
sees one complete state of the catalog, even during a push.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from clicksim.catalog.remote.places import Place
from clicksim.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "files.parquet"
INDEX_NAME = re.compile(r"files-[0-9a-f]{16}\.parquet")
STORED_NAME = re.compile(r"(?:[^/]+/)*[^/.]*-[0-9a-f]{16}(?:\.[^/]*)?")


@dataclass(frozen=True)
class Stored:
    """A file of a pushed catalog.

    Attributes:
        name: Its path in the catalog.
        size: In bytes.
        sha256: Checksum of its content, in hexadecimal digits.
    """

    name: str
    size: int
    sha256: str

    @property
    def at(self) -> str:
        """Its path on the storage."""
        return stored_name(self.name, self.sha256)


Files = Mapping[str, Stored]


def stored_name(name: str, sha256: str) -> str:
    """Insert the checksum of a file before the first dot of its name.

    >>> stored_name("images/fdat/one/pet.nii.gz", "0123456789abcdef" * 4)
    'images/fdat/one/pet-0123456789abcdef.nii.gz'
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, rest = file.partition(".")
    return f"{folder}{slash}{stem}-{sha256[:16]}{dot}{rest}"


def index_bytes(files: Files) -> bytes:
    """Return the index as a Parquet file, sorted by name; the same files give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [vars(files[name]) for name in sorted(files)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _schema()), buffer, compression="zstd")
    return buffer.getvalue()


@lru_cache(maxsize=8)
def read_index(folder: Place, name: str) -> Files:
    """Read the files of a pushed catalog, by their path in it. The index never changes, so it is read once.

    Args:
        folder: The place of the catalog.
        name: Name of the index, from `catalog.json`.

    Raises:
        CatalogError: The index is missing, damaged or invalid.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = folder / name
    if not INDEX_NAME.fullmatch(name):
        raise CatalogError(f"catalog.json of {folder} names {name!r} as its index, which is not the name of one")
    try:
        content = where.read_bytes()
    except FileNotFoundError as error:
        raise CatalogError(f"there is no {where}: a newer state has been pushed, and this one pruned") from error
    if stored_name(INDEX, hashlib.sha256(content).hexdigest()) != name:
        raise CatalogError(
            f"{where} is damaged: its checksum is not the one in its name; push the catalog again, with its images"
        )
    try:
        rows = pq.read_table(io.BytesIO(content)).cast(_schema()).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise CatalogError(f"{where} is not an index of a catalog: {error}") from error
    files = {row["name"]: Stored(**row) for row in rows}
    for file in files.values():
        pure = PurePosixPath(file.name)
        if pure.is_absolute() or ".." in pure.parts or not re.fullmatch("[0-9a-f]{64}", file.sha256):
            raise CatalogError(f"{where} names {file.name!r} with checksum {file.sha256!r}: not a file of a catalog")
    return files


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("name", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])

"""`catalog.json`, the head of a catalog: its format, its roots and, if it was pushed, the list of its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clicksim import __version__
from clicksim.catalog.remote.places import HINT, Place
from clicksim.catalog.schema import FORMAT_VERSION
from clicksim.errors import CatalogError
from clicksim.files import clear_abandoned, make_folder, replacing

HEAD = "catalog.json"


def read_head(home: Place) -> tuple[dict[str, str], str]:
    """Read the roots of a catalog by name, and the name of its list of files (empty unless it was pushed).

    Raises:
        CatalogError: There is no catalog, it has a newer format, or the storage cannot be reached.
    """
    head = home / HEAD
    try:
        content = json.loads(head.read_text(encoding="utf-8"))
        version, roots, index = content["format_version"], dict(content["roots"]), str(content.get("files", ""))
    except FileNotFoundError as error:
        remedy = "name the folder of a catalog, or create one with clicksim convert" if isinstance(home, Path) else HINT
        raise CatalogError(f"no catalog in {home}: {HEAD} is missing; {remedy}") from error
    except CatalogError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CatalogError(f"{head} is not a catalog's head: {error!r}") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CatalogError(
            f"{home} has catalog format {version}, this clicksim {__version__} knows {FORMAT_VERSION}: "
            "pip install --upgrade clicksim"
        )
    return {str(name): str(folder) for name, folder in roots.items()}, index


def head_bytes(roots: Mapping[str, str], index: str = "") -> bytes:
    """Return the content of a head; equal arguments give equal bytes."""
    about = {"format_version": FORMAT_VERSION, "made_by": f"clicksim {__version__}"}
    return _json_bytes({**about, "roots": dict(sorted(roots.items())), **({"files": index} if index else {})})


def write_head(folder: Path, roots: Mapping[str, str]) -> None:
    """Write the head of a catalog with these roots."""
    _write_bytes(folder / HEAD, head_bytes(roots))


def write_catalog_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to a file that is complete or missing; its folder is created if needed."""
    _write_bytes(file, _json_bytes(content))


def _write_bytes(file: Path, content: bytes) -> None:
    make_folder(file.parent)
    clear_abandoned(file)
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

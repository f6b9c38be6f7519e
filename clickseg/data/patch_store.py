"""The patch store: cases as plain memory-mapped arrays, so that reading a patch reads only its own voxels.

    STORE/
      store.json                 rules, the catalog's digest, sources with their licences
      cases.parquet              one row per case: names, fold, grid, folder of its arrays
      rejected.parquet           cases that could not be prepared, with the reason
      arrays/<case>-<hash>/      ct.npy int16 HU, pet.npy SUV, label.npy, places.npz
                                 (ct.npz ... if the store is compressed)

The hash covers the rules and the bytes of the case's files, so arrays that were already prepared are reused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clickseg.training_settings import StoreRules
from clicksim.errors import CatalogError
from clicksim.geometry import Grid, Shape, Spacing

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2
AIR_HU = -1024
OPEN_CASES = 8  # whole cases that a compressed store keeps in memory, in each process


@dataclass(frozen=True)
class Places:
    """Voxels of a case around which patches are taken.

    Attributes:
        lesion: `(n, 4)` lesion number, `i, j, k`; the deepest voxel of each lesion and others drawn at random.
        hot: `(n, 3)` voxels of physiological uptake, spread over its components.
        body: `(n, 3)` voxels of the body outside lesions.
    """

    lesion: NDArray[np.int32]
    hot: NDArray[np.int32]
    body: NDArray[np.int32]


@dataclass(frozen=True)
class StoreCase:
    """One case of a store; arrays are `(I, J, K)` along R, A, S.

    Attributes:
        row: Its row in `cases.parquet`.
        folder: The folder of its arrays.
    """

    row: Mapping[str, Any]
    folder: Path

    @property
    def case_id(self) -> str:
        """Name of the case, unique within its source."""
        return str(self.row["case_id"])

    @property
    def has_pet(self) -> bool:
        """Whether the case has an uptake."""
        return bool(self.row["has_pet"])

    @property
    def spacing(self) -> Spacing:
        """Voxel size along R, A, S in mm."""
        x, y, z = self.row["spacing_mm"]
        return (x, y, z)

    @cached_property
    def grid(self) -> Grid:
        """The grid of its arrays."""
        return Grid(tuple(self.row["shape"]), self.spacing, np.reshape(self.row["affine_ras"], (4, 4)))

    def array(self, name: str) -> NDArray[Any]:
        """`ct`, `pet` or `label`, mapped into memory."""
        return _open(str(self.folder), name)

    @property
    def places(self) -> Places:
        """The voxels around which patches are taken."""
        return _places(str(self.folder))

    def patch(self, name: str, start: Sequence[int], shape: Shape) -> NDArray[Any]:
        """Copy a part; outside the volume there is air, no uptake and no lesion."""
        array = self.array(name)
        out = np.full(shape, AIR_HU if name == "ct" else 0, dtype=array.dtype)
        low = [max(0, s) for s in start]
        high = [min(n, s + length) for n, s, length in zip(array.shape, start, shape, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            out[target] = array[source]
        return out


@dataclass(frozen=True)
class Store:
    """An open store; it is pickled as its path.

    Attributes:
        path: The folder.
        about: The content of `store.json`.
        cases: All cases, by source and name.
    """

    path: Path
    about: Mapping[str, Any]
    cases: tuple[StoreCase, ...]

    @property
    def rules(self) -> StoreRules:
        """The rules by which the arrays were made."""
        return StoreRules.of(self.about["rules"])

    @property
    def catalog_digest(self) -> str:
        """The digest of the catalog that the store was made from."""
        return str(self.about["catalog_digest"])

    @property
    def folds(self) -> Mapping[str, Any]:
        """The fold plan: its name in the catalog (empty if it was drawn), digest and rule."""
        return self.about["folds"]

    def licences(self, cases: Sequence[StoreCase]) -> list[dict[str, Any]]:
        """Source, release, licence, DOI and citation of the sources of some cases."""
        used = {case.row["source"] for case in cases}
        return [dict(row) for row in self.about["sources"] if row["source"] in used]

    def split(self, fold: int) -> tuple[tuple[StoreCase, ...], tuple[StoreCase, ...]]:
        """Return the cases to train on and the cases held out; see `clicksim.catalog.folds` for the rule.

        No patient is in both. A case that the plan leaves out is in neither.

        Raises:
            CatalogError: No case is left to train on.
        """
        held = tuple(case for case in self.cases if case.row["fold"] == fold)
        patients = {case.row["patient_key"] for case in held}
        kept = tuple(
            case
            for case in self.cases
            if case.row["fold"] not in (None, fold) and case.row["patient_key"] not in patients
        )
        if not kept:
            raise CatalogError(
                f"all {len(held)} cases of {self.path} are in fold {fold}; choose another, or -1 for none"
            )
        return kept, held


def open_store(path: str | Path) -> Store:
    """Open a store.

    Raises:
        CatalogError: There is no store, or it has a newer format.
    """
    import pyarrow.parquet as pq

    folder = Path(path)
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        rows = pq.read_table(folder / "cases.parquet").to_pylist()
    except FileNotFoundError as error:
        raise CatalogError(
            f"no patch store in {path}: {error.filename} is missing; create one with clickseg prepare"
        ) from error
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} is not a patch store: {error}") from error
    if about.get("format") != FORMAT:
        raise CatalogError(
            f"{path} has store format {about.get('format')}, but this clickseg reads {FORMAT}; prepare it again"
        )
    return Store(folder, about, tuple(StoreCase(row, folder / "arrays" / row["folder"]) for row in rows))


def case_schema() -> "pa.Schema":
    """Return the columns of `cases.parquet`."""
    import pyarrow as pa

    number, text = pa.int32(), pa.string()
    columns = [
        ("source", text, "name of the source"),
        ("case_id", text, "name of the case, unique within the source"),
        ("patient_key", text, "pseudonym of the patient"),
        ("tracer_class", text, "FDG, PSMA or none"),
        ("fold", number, "the fold of the plan that validates on the case; null if the plan leaves the case out"),
        ("instances", text, "components, or labels if its values are the lesions' ids"),
        ("has_pet", pa.bool_(), "the case has an uptake"),
        ("n_lesions", number, "lesions on the grid of the store"),
        ("shape", pa.list_(number, 3), "voxels along R, A, S"),
        ("spacing_mm", pa.list_(pa.float64(), 3), "mm along R, A, S"),
        ("affine_ras", pa.list_(pa.float64(), 16), "voxel to RAS+ mm, row by row"),
        ("note", text, "a possible problem of its files, such as a PET that may be a CT; else null"),
        ("folder", text, "folder of its arrays, below arrays/"),
    ]
    return pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in columns])


@lru_cache(maxsize=4096)
def _open_mapped(file: str) -> NDArray[Any]:
    return np.load(file, mmap_mode="r")


@lru_cache(maxsize=3 * OPEN_CASES)
def _open_whole(file: str) -> NDArray[Any]:
    with np.load(file) as archive:
        return np.asarray(archive["array"])


def _open(folder: str, name: str) -> NDArray[Any]:
    file = Path(folder) / f"{name}.npy"
    return _open_mapped(str(file)) if file.exists() else _open_whole(str(file.with_suffix(".npz")))


@lru_cache(maxsize=65536)
def _places(folder: str) -> Places:
    with np.load(Path(folder) / "places.npz") as archive:
        return Places(archive["lesion"], archive["hot"], archive["body"])

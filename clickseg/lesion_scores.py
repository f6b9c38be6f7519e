"""Scores of each lesion: its volume, and the fraction of it that each round found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clicksim.catalog import Catalog
from clicksim.catalog.commit import Commit
from clicksim.lesions import find_lesions
from clicksim.pipeline.cases import CaseEntry
from clicksim.volumes import read_label

if TYPE_CHECKING:
    import pyarrow as pa

SIZES_ML = (1.0, 10.0)  # limits between small, medium and large lesions
FOUND = 0.5  # a lesion counts as found from this fraction of its voxels
Row = dict[str, Any]


def lesion_schema() -> "pa.Schema":
    """Return the schema of the table of lesions."""
    import pyarrow as pa

    number, text = pa.int32(), pa.string()
    columns = [("source", text), ("case_id", text), ("round", number), ("lesion", number)]
    return pa.schema([*columns, ("volume_ml", pa.float64()), ("found_share", pa.float64())])


def score_lesions(catalog: Catalog, entry: CaseEntry, folder: Path) -> list[Row]:
    """Measure how much of each lesion of a case each round found.

    Args:
        catalog: The catalog of the case.
        entry: The case.
        folder: Folder of its masks, `iter_<round>.nii.gz`; without masks there are no rows.

    Returns:
        One row per round and lesion; `lesion` is the catalog's `lesion_index`.
    """
    files = {int(file.name.removeprefix("iter_").partition(".")[0]): file for file in folder.glob("iter_*.nii.gz")}
    if not files:
        return []
    truth = entry.open(catalog, ("label",)).label
    lesions = [(lesion.id, lesion.voxels) for lesion in find_lesions(truth.array)]
    rows = []
    for number, file in sorted(files.items()):
        mask = read_label(file).array != 0
        rows += [
            {
                "source": entry.facts["source"],
                "case_id": entry.case_id,
                "round": number,
                "lesion": name,
                "volume_ml": len(voxels) * truth.grid.voxel_ml,
                "found_share": float(np.mean(mask[tuple(voxels.T)])),
            }
            for name, voxels in lesions
        ]
    return rows


def summarise_lesions(rows: Sequence[Row]) -> Row:
    """Count lesions and the fraction found in each round, for small, medium, large and all lesions."""
    names = (f"below {SIZES_ML[0]:g} ml", f"{SIZES_ML[0]:g} to {SIZES_ML[1]:g} ml", f"above {SIZES_ML[1]:g} ml")
    summary = {}
    for name in ("all", *names):
        members = [r for r in rows if name == "all" or names[int(np.searchsorted(SIZES_ML, r["volume_ml"]))] == name]
        if not members:
            continue
        numbers = sorted({row["round"] for row in members})
        by_round = [[row["found_share"] for row in members if row["round"] == number] for number in numbers]
        summary[name] = {
            "lesions": len({(row["source"], row["case_id"], row["lesion"]) for row in members}),
            "found": [float(np.mean(np.asarray(shares) >= FOUND)) for shares in by_round],
            "found_share": [float(np.mean(shares)) for shares in by_round],
        }
    return summary


def write_lesions(commit: Commit, table: "pa.Table") -> None:
    """Write `lesions.parquet`."""
    import pyarrow.parquet as pq

    with commit.file("lesions.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")

"""A catalog made by hand for the tests of the report: any row, tiny images."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from clicksim.catalog import Catalog, create_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.geometry import Grid
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.prompts.table import to_table
from clicksim.volumes import write_image

SPACING = (30.0, 30.0, 40.0)
GRID = Grid((12, 12, 24), affine=np.diag([-30.0, 30.0, 40.0, 1.0]))
"""960 mm high: the six upper slices lie within the top 250 mm, as does a part of the seventh."""


def make_catalog(folder: Path, rows: Sequence[Mapping[str, Any]], *, grid: Grid = GRID, runs: int = 1) -> Catalog:
    """A catalog of source `fdat` with a row for each of `rows`, which are laid over plain ones."""
    catalog = create_catalog(folder)
    pet = np.full(grid.shape, 0.5, np.float32)
    pet[2:-2, 2:-2, :-1] = 3.0
    label = np.zeros(grid.shape, np.uint8)
    label[5:7, 5:7, 4:6] = 1
    (folder / "images").mkdir()
    write_image(folder / "images/pet.nii.gz", pet, grid)
    write_image(folder / "images/label.nii.gz", label, grid)
    cases = [{**plain_case(n, grid), **row} for n, row in enumerate(rows)]
    lesions = [
        {"case_id": case["case_id"], "lesion_index": 1, "voxels": 8, "volume_ml": 288.0, "suv_max": 3.0}
        for case in cases
        if case["n_lesions"]
    ]
    catalog.write_part("cases", "fdat", rows_to_table("cases", cases))
    catalog.write_part("lesions", "fdat", rows_to_table("lesions", lesions))
    for run in range(runs):
        catalog.write_part("prompts", f"run{run}", _prompt_table([case["case_id"] for case in cases], grid, run))
    return catalog


def plain_case(n: int, grid: Grid = GRID) -> dict[str, Any]:
    """A row that the checks have nothing to say about."""
    assert grid.affine is not None
    assert grid.spacing is not None
    return {
        "case_id": f"case{n:03d}",
        "patient_key": f"fdat/patient{n:03d}",
        "tracer_class": ("FDG", "PSMA")[n % 2],
        "study_date": date(2017, 3, 10),
        "timepoint": "single",
        "sex": "FM"[n % 2],
        "age_years": 30.0 + n % 60,
        "diagnosis": ("LYMPHOMA", "PROSTATE")[n % 2],
        "model": "Biograph mCT Flow 20",
        "pet_path": "catalog:images/pet.nii.gz",
        "label_path": "catalog:images/label.nii.gz",
        "shape_xyz": list(grid.shape),
        "spacing_xyz_mm": list(grid.spacing),
        "affine_ras": grid.affine.ravel().tolist(),
        "instances": "components",
        "lesion_present": True,
        "n_lesions": 1,
        "lesion_volume_ml": 288.0,
        "suv_max": 3.0,
        "suv_max_in_lesion": 3.0,
        "official_fold": n % 5,
    }


def write_rounds(catalog: Catalog, run: str, cases: Sequence[str], **more: Any) -> None:
    """Three rounds of each case, rising."""
    rows = [
        {
            "case_id": case,
            "annotator": "simulated",
            "round": n,
            "dice": 0.5 + 0.1 * n,
            "dmm": 0.4,
            "source": "fdat",
            **more,
        }
        for case in cases
        for n in range(3)
    ]
    catalog.write_part("rounds", run, rows_to_table("rounds", rows))


def _prompt_table(cases: Sequence[str], grid: Grid, run: int) -> Any:
    """A foreground click in the lesion, a scribble below it, and a background click in the head."""
    import pyarrow as pa

    marks = (
        Click((5, 5, 4), True, 1),
        Scribble(((5, 5, 2), (6, 5, 2), (7, 5, 2)), False),
        Click((6, 6, grid.shape[2] - 1), False),
    )
    tables = [to_table(Prompts(marks, grid, case, "autopet-iv@2", 42 + run)) for case in cases]
    return pa.concat_tables(tables)

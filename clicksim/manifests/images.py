"""Images of a case in an export: linked if they can be used unchanged, otherwise written again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clicksim.errors import CatalogError, GeometryError
from clicksim.geometry import Grid
from clicksim.manifests.folder import place
from clicksim.manifests.selection import Export, ExportCase, ExportSetup

TIGHT_MM, LOOSE_MM = 1e-4, 0.1
"""Readers compare grids with a tolerance. Within the first, an image is linked; beyond the second, it is refused.
In between, as when headers of one study differ by rounding, it is written with the header of the label."""
SUFFIX = ".nii.gz"


def need_channels(export: Export, out: Path, settings: Mapping[str, Any]) -> None:  # noqa: ARG001 - of any format
    """Refuse cases that have no image in common; this is `prepare` of formats that have images.

    Raises:
        CatalogError: The cases have no image in common.
    """
    if not export.channels:
        raise CatalogError("the cases have no image in common; choose sources with --source")


def place_export_image(setup: ExportSetup, case: ExportCase, column: str, target: Path, *, copy: bool) -> None:
    """Put an image at `target`, on the grid of the case's label.

    Raises:
        GeometryError: It is on another grid.
        ImageError: It cannot be read.
        CatalogError: It does not exist.
    """
    from clicksim.volumes import read_grid, read_image, write_image

    source, grid = setup.file(case, column), label_grid(setup, case)
    own = read_grid(source)
    if source.name.endswith(SUFFIX) and target.name.endswith(SUFFIX) and _fits(own, grid, TIGHT_MM):
        place(source, target, copy=copy or setup.catalog.is_remote(case.row[column]))
        return
    if not _fits(own, grid, LOOSE_MM):
        own.check_same(grid, (column.removesuffix("_path"), "label"), where=f"case {case.case_id}")
        raise GeometryError(f"{column} and label of case {case.case_id} are on different grids; convert it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, read_image(source).array, grid)


def place_label(setup: ExportSetup, case: ExportCase, target: Path, *, copy: bool) -> None:
    """Put the label at `target` as 0 and 1, stored as whole numbers; a label in this form is linked.

    A catalog does not record the values in a file, and a mask may be 0 and 255, so each label is read once.

    Raises:
        ImageError, CatalogError: See `place_export_image`.
    """
    from clicksim.volumes import read_label, write_image

    source = label_file(setup, case)
    label = read_label(source)
    odd = {"LABEL_FLOAT", "QFORM_ONLY", "AFFINE_GUESSED"}.intersection(case.row["quality_flags"] or ())
    if source.name.endswith(SUFFIX) and target.name.endswith(SUFFIX) and not odd and label.array.max() <= 1:
        place(source, target, copy=copy or setup.catalog.is_remote(case.row["label_path"]))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, (label.array > 0).astype(np.uint8), label.grid)


def label_file(setup: ExportSetup, case: ExportCase) -> Path:
    """The file of the label.

    Raises:
        CatalogError: The case has no label, or its file does not exist.
    """
    if case.row["label_path"] is None:
        raise CatalogError(f"case {case.case_id} has no label")
    return setup.file(case, "label_path")


def label_grid(setup: ExportSetup, case: ExportCase) -> Grid:
    """The grid of a case, from the header of its label.

    Raises:
        CatalogError: See `label_file`.
    """
    from clicksim.volumes import read_grid

    return read_grid(label_file(setup, case))


def _fits(one: Grid, other: Grid, tolerance_mm: float) -> bool:
    """Whether two grids are the same, in their spacing too: some readers compare it to one part in 100,000."""
    if one.spacing is None or other.spacing is None or not one.same_as(other, tolerance_mm=tolerance_mm):
        return False
    return tolerance_mm > TIGHT_MM or np.allclose(one.spacing, other.spacing, rtol=1e-6, atol=0)

"""Images of a case as an export wants them: linked where they are right as they are, else written anew."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clicksim.errors import CatalogError, GeometryError
from clicksim.geometry import Grid
from clicksim.manifests.folder import place
from clicksim.manifests.selection import Export

TIGHT_MM, LOOSE_MM = 1e-4, 0.1
"""Readers compare lattices with a tolerance of their own; within the first an image is linked, within the second
(headers of one study disagree by rounding) it is written with the header of the label, beyond it is refused."""
SUFFIX = ".nii.gz"


def place_export_image(export: Export, row: Mapping[str, Any], column: str, target: Path, *, copy: bool) -> None:
    """Put an image at `target`, on the lattice of the case's label.

    Raises:
        GeometryError: It lies on another lattice.
        ImageError: It cannot be read.
        CatalogError: It is not there.
    """
    from clicksim.volumes import read_grid, read_image, write_image

    source, grid = export.file(row, column), label_grid(export, row)
    own = read_grid(source)
    if source.name.endswith(SUFFIX) and target.name.endswith(SUFFIX) and _fits(own, grid, TIGHT_MM):
        place(source, target, copy=copy or export.catalog.is_remote(row[column]))
        return
    if not _fits(own, grid, LOOSE_MM):
        own.check_same(grid, (column.removesuffix("_path"), "label"), where=f"case {row['case_id']}")
        raise GeometryError(f"{column} of {row['case_id']} lies on another grid than the label; convert it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link of an earlier export must not be written through
    write_image(target, read_image(source).array, grid)


def place_label(export: Export, row: Mapping[str, Any], target: Path, *, copy: bool) -> None:
    """Put the label at `target` as 0 and 1, stored as whole numbers: linked where it is so already.

    No catalog says which values a file holds, and a mask may be 0 and 255: each label is read, once.

    Raises:
        ImageError, CatalogError: As `place_export_image`.
    """
    from clicksim.volumes import read_label, write_image

    source = export.file(row, "label_path")
    label = read_label(source)
    odd = {"LABEL_FLOAT", "QFORM_ONLY", "AFFINE_GUESSED"}.intersection(row["quality_flags"] or ())
    if source.name.endswith(SUFFIX) and target.name.endswith(SUFFIX) and not odd and label.array.max() <= 1:
        place(source, target, copy=copy or export.catalog.is_remote(row["label_path"]))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    write_image(target, (label.array > 0).astype(np.uint8), label.grid)


def label_grid(export: Export, row: Mapping[str, Any]) -> Grid:
    """The lattice of a case, from the header of its label.

    Raises:
        CatalogError: The case has no label.
    """
    from clicksim.volumes import read_grid

    if row["label_path"] is None:
        raise CatalogError(f"case {row['case_id']} has no label")
    return read_grid(export.file(row, "label_path"))


def _fits(one: Grid, other: Grid, tolerance_mm: float) -> bool:
    """The same lattice, in its spacing too: some readers compare that to one part in 100,000."""
    if one.spacing is None or other.spacing is None or not one.same_as(other, tolerance_mm=tolerance_mm):
        return False
    return tolerance_mm > TIGHT_MM or np.allclose(one.spacing, other.spacing, rtol=1e-6, atol=0)

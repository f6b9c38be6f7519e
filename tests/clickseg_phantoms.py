"""A small catalog of phantoms for the tests of clickseg, made without a converter."""

from pathlib import Path
from typing import Any

import numpy as np

from clicksim.catalog import Catalog, create_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.geometry import Grid
from clicksim.lesions import find_lesions
from clicksim.phantom import make_phantom
from clicksim.volumes import write_image

SHAPE, SPACING = (40, 32, 72), (4.0, 4.0, 4.0)


def write_catalog(folder: Path, cases: int = 4, *, ct_only: int = 0, lesions: int = 4) -> Catalog:
    """Whole-body phantoms of a few lesions each; patient n is in fold n % 5, the last `ct_only` have no PET."""
    catalog = create_catalog(folder)
    rows: dict[str, list[dict[str, Any]]] = {}
    for n in range(cases):
        made = make_phantom(n, tracer=("fdg", "psma")[n % 2], shape=SHAPE, spacing=SPACING, n_lesions=lesions)
        source = "longitudinal_ct" if n >= cases - ct_only else "fdat"
        images = {"ct": made.ct, "label": made.label, "pet": made.pet}
        if source == "longitudinal_ct":
            del images["pet"]
        rows.setdefault(source, []).append(write_case(catalog, source, made.case_id, images, made.grid, fold=n % 5))
    for source, content in rows.items():
        catalog.write_part("cases", source, rows_to_table("cases", content))
        licence = {"fdat": "CC BY 4.0", "longitudinal_ct": "CC BY-NC 4.0"}[source]
        facts = {"source": source, "title": source, "release": "phantoms", "licence": licence, "doi": "none", "citation": "none"}
        catalog.write_sources(rows_to_table("sources", [facts]))
    return catalog


def write_case(catalog: Catalog, source: str, case_id: str, images: dict[str, Any], grid: Grid, *, fold: int) -> dict[str, Any]:
    """The images of one case below the catalog, and its row."""
    place = catalog.path / "images" / source / case_id
    place.mkdir(parents=True)
    row: dict[str, Any] = {
        "case_id": case_id, "patient_key": f"{source}/{case_id}", "tracer_class": case_id[:4].strip("_").upper(),
        "shape_xyz": list(grid.shape), "spacing_xyz_mm": list(grid.spacing or ()), "instances": "components",
        "n_lesions": len(find_lesions(images["label"])), "lesion_present": bool(np.any(images["label"])),
        "official_fold": fold, "licence": "phantom",
    }  # fmt: skip
    for name, array in images.items():
        write_image(place / f"{name}.nii.gz", array, grid)
        row[f"{name}_path"] = f"catalog:images/{source}/{case_id}/{name}.nii.gz"
    return row

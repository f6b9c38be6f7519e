"""A small catalog of phantoms for the tests of clickseg, made without a converter."""

from pathlib import Path
from typing import Any

import numpy as np

from clicksim.catalog import Catalog, create_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.geometry import Grid
from clicksim.lesions import find_lesions
from clicksim.phantom import make_phantom
from clicksim.streams import stream
from clicksim.volumes import write_image

SHAPE, SPACING = (40, 32, 72), (4.0, 4.0, 4.0)


def write_catalog(
    folder: Path,
    cases: int = 4,
    *,
    ct_only: int = 0,
    lesions: int = 4,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
) -> Catalog:
    """Whole-body phantoms of a few lesions each; patient n is in fold n % 5, the last `ct_only` have no PET."""
    catalog = create_catalog(folder)
    rows: dict[str, list[dict[str, Any]]] = {}
    for n in range(cases):
        made = make_phantom(n, tracer=("fdg", "psma")[n % 2], shape=shape, spacing=spacing, n_lesions=lesions)
        source = "longitudinal_ct" if n >= cases - ct_only else "fdat"
        images = {"ct": made.ct, "label": made.label, "pet": made.pet}
        if source == "longitudinal_ct":
            del images["pet"]
        rows.setdefault(source, []).append(write_case(catalog, source, made.case_id, images, made.grid, fold=n % 5))
    for source, content in rows.items():
        catalog.write_part("cases", source, rows_to_table("cases", content))
        catalog.write_sources(rows_to_table("sources", [facts_of(source)]))
    return catalog


def write_toys(folder: Path, cases: int = 10, *, ct_only: bool = False, first: int = 0) -> Catalog:
    """Bodies of three lesions and three hot spots that look alike: only a prompt tells them apart.

    Toys `first`, `first` + 1, ...; toy n is in fold n % 5.
    """
    catalog = create_catalog(folder)
    source, rows = "longitudinal_ct" if ct_only else "fdat", []
    for n in range(first, first + cases):
        ct, pet, label = make_toy(n)
        images = {"ct": ct + (200 * (pet > 2.5)).astype(np.int16) if ct_only else ct, "label": label, "pet": pet}
        if ct_only:
            del images["pet"]
        rows.append(
            write_case(catalog, source, f"fdg_toy{n:02d}", images, Grid.from_spacing(ct.shape, SPACING), fold=n % 5)
        )
    catalog.write_part("cases", source, rows_to_table("cases", rows))
    catalog.write_sources(rows_to_table("sources", [facts_of(source)]))
    return catalog


def make_toy(number: int, size: int = 32) -> tuple[Any, Any, Any]:
    """CT, PET and label of one toy."""
    draws = stream(number, "toy")
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    pet = 1 + 0.2 * draws.standard_normal((size,) * 3)
    label = np.zeros((size,) * 3, np.uint8)
    centres: list[Any] = []
    while len(centres) < 6:
        centre = draws.integers(5, size - 5, 3)
        if all(np.linalg.norm(centre - other) > 9 for other in centres):
            centres.append(centre)
    for n, centre in enumerate(centres):
        inside = (((grid - centre) / draws.uniform(2.2, 4, 3)) ** 2).sum(axis=-1) <= 1
        pet[inside] += draws.uniform(3, 6)
        label[inside] = n % 2 == 0
    return np.full((size,) * 3, 40, np.int16), np.maximum(pet, 0).astype(np.float32), label


def facts_of(source: str) -> dict[str, str]:
    """The row of a source."""
    licence = {"fdat": "CC BY 4.0", "longitudinal_ct": "CC BY-NC 4.0"}[source]
    return {
        "source": source,
        "title": source,
        "release": "phantoms",
        "licence": licence,
        "doi": "none",
        "citation": "none",
    }


def write_case(
    catalog: Catalog, source: str, case_id: str, images: dict[str, Any], grid: Grid, *, fold: int
) -> dict[str, Any]:
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

"""The two cases that all benchmarks use, and small ones for the smoke test."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clicksim.geometry import Grid, Spacing
from clicksim.phantom import Phantom, make_phantom
from clicksim.volumes import read_label

ROOT = Path(__file__).resolve().parents[1]
REALDATA = Path(os.environ.get("CLICKSIM_REALDATA", ROOT.parent / "shared" / "realdata"))
REAL_CASE = "autopet/fdg_0b57b247b6"

SHAPE_A, SPACING_A = (256, 256, 371), (2.73438, 2.73438, 3.0)
SHAPE_FULL, SPACING_FULL = (400, 400, 326), (2.03642, 2.03642, 3.0)
SHAPE_TINY, SPACING_TINY = (56, 56, 80), (10.0, 10.0, 12.0)


@dataclass(frozen=True, eq=False)
class BenchCase:
    """One case in memory: uint8 labels and float32 uptake, both in Fortran order."""

    name: str
    labels: NDArray[Any]
    uptake: NDArray[Any]
    spacing: Spacing

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return int(self.uptake.size)


def show_shape(shape: Sequence[int]) -> str:
    """The lengths along the axes, such as `4 x 5 x 6`."""
    return " x ".join(map(str, shape))


def case_spacing(grid: Grid) -> Spacing:
    """The voxel size; every phantom and every real image here has one.

    Raises:
        ValueError: The grid has no voxel size.
    """
    if grid.spacing is None:
        raise ValueError(f"this benchmark needs a voxel size in mm: {grid}")
    return grid.spacing


@cache
def phantom(seed: int, *, quick: bool, n_lesions: int | None = None) -> Phantom:
    """A phantom on the grid of the real case, or a tiny one."""
    shape, spacing = (SHAPE_TINY, SPACING_TINY) if quick else (SHAPE_FULL, SPACING_FULL)
    return make_phantom(seed, shape=shape, spacing=spacing, n_lesions=n_lesions)


@cache
def case_a(*, quick: bool) -> BenchCase:
    """A phantom with twelve lesions; for the smoke test, a tiny one with three."""
    shape, spacing = (SHAPE_TINY, SPACING_TINY) if quick else (SHAPE_A, SPACING_A)
    made = make_phantom(7, shape=shape, spacing=spacing, n_lesions=3 if quick else 12)
    return BenchCase(f"A, phantom {show_shape(shape)}", made.label, made.pet, case_spacing(made.grid))


@cache
def case_b() -> BenchCase | None:
    """A real FDG mask with the PET of a phantom on the same grid; None without real data."""
    files = sorted((REALDATA / REAL_CASE).glob("*.nii.gz"))
    if not files:
        return None
    label = read_label(files[0])
    spacing = case_spacing(label.grid)
    made = make_phantom(8, shape=label.grid.shape, spacing=spacing)
    return BenchCase(f"B, real FDG mask {show_shape(label.grid.shape)}", label.array, made.pet, spacing)


def all_cases(*, quick: bool) -> tuple[list[BenchCase], str]:
    """The available cases, and a sentence about the missing one."""
    if quick:
        return [case_a(quick=True)], ""
    found = [case for case in (case_a(quick=False), case_b()) if case is not None]
    missing = f"not run: there is no {REAL_CASE}/*.nii.gz in the folder that CLICKSIM_REALDATA names"
    return found, missing if len(found) < 2 else ""

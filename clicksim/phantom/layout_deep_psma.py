"""Write phantoms in the layout of DEEP-PSMA: a PSMA and an FDG PET/CT per patient, with the CT on its own grid."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid
from clicksim.phantom import Phantom, make_phantom
from clicksim.phantom.phantom_trees import (
    SMALL_SHAPE,
    SMALL_SPACING,
    SourceTree,
    Spoiler,
    cut_file,
    empty_file,
    leave_out,
    move_grid,
    put_value,
    to_lps,
    write_odd_header,
    write_prose,
)
from clicksim.streams import stream
from clicksim.volumes import write_image

TOP = "CHALLENGE_DATA"
TRACERS = ("FDG", "PSMA")
LIVER = 5
PSMA_THRESHOLD = 3.0
CT_FINER = 0.75
"""In-plane voxel size of the native CT, as a fraction of the PET's."""
PADDING_HU = -2352
"""The value that a scanner writes outside its round field of view."""

SPOILERS: tuple[tuple[str, str, Spoiler], ...] = (
    ("CT.nii.gz", "MissingChannel", leave_out),
    ("PET.nii.gz", "TruncatedFile", cut_file),
    ("TTB.nii.gz", "TruncatedFile", empty_file),
    ("TTB.nii.gz", "UnreadableFile", write_prose),
    ("TTB.nii.gz", "GridMismatch", move_grid),
    ("TTB.nii.gz", "BadLabel", put_value(-1)),
    ("PET.nii.gz", "BadUptake", put_value(float("nan"))),
    ("CT.nii.gz", "BadCt", put_value(float("inf"))),
)


def write_deep_psma(
    folder: str | Path,
    *,
    patients: int = 2,
    seed: int = 0,
    shape: Sequence[int] | None = SMALL_SHAPE,
    spacing: Sequence[float] = SMALL_SPACING,
    lesions: tuple[int, int] = (2, 5),
    spoil: bool = False,
) -> SourceTree:
    """Write phantoms in the layout of DEEP-PSMA: six files for each tracer of each patient.

    The irregularities of the data are included: LPS, tracers on different grids, TTB as int8 and in one case with
    several values, a header without sform, and a CT that covers less than the PET and has padding below -1024 HU. The
    two scans of a patient are different bodies: only the registration files are realistic, inverse to each other.

    Args:
        folder: Where to write; created if it does not exist.
        patients: How many, from `train_0001` on.
        seed: Seed of the phantoms.
        shape: Voxels of the FDG; None uses what the body needs at this spacing.
        spacing: Voxel size of the FDG in mm; that of the PSMA is slightly smaller along the body.
        lesions: Smallest and largest number of lesions of a scan.
        spoil: Add one broken scan of each kind; the other tracer of those patients is valid.
    """
    tree = SourceTree(Path(folder))
    for number in range(1, patients + 1):
        patient = tree.folder / TOP / f"train_{number:04d}"
        _write_registrations(patient, stream(seed, patient.name, "registration"))
        for tracer in TRACERS:
            _write_scan(patient / tracer, number, tracer, seed, (shape, spacing), lesions)
            tree.cases.append(f"{patient.name}/{tracer}")
    if spoil:
        _write_spoiled(tree, seed)
    return tree


def _write_scan(
    folder: Path,
    number: int,
    tracer: str,
    seed: int,
    lattice: tuple[Sequence[int] | None, Sequence[float]],
    lesions: tuple[int, int],
) -> None:
    """Write the files of one tracer, except the registration."""
    folder.mkdir(parents=True, exist_ok=True)
    count = int(stream(seed, f"train_{number:04d}", tracer).integers(lesions[0], lesions[1] + 1))
    shape, spacing = lattice
    if tracer == "PSMA":
        spacing = (spacing[0], spacing[1], 0.9 * spacing[2])
        shape = None if shape is None else (shape[0] + 4, shape[1] + 2, shape[2] + 6)
    phantom = make_phantom(
        1000 * seed + number, tracer=tracer.lower(), shape=shape, spacing=spacing, n_lesions=count, instances=True
    )
    threshold = _threshold(phantom)
    pet, grid = to_lps(phantom.pet, phantom.grid)
    most = np.iinfo(np.int8).max if (number, tracer) == (2, "PSMA") else 1
    burden = np.where(phantom.pet >= np.float32(threshold), np.minimum(phantom.label, most), 0).astype(np.int8)
    (folder / "threshold.json").write_text(json.dumps({"suv_threshold": threshold}), encoding="utf-8")
    write_image(folder / "PET.nii.gz", pet, grid)
    if (number, tracer) == (1, "FDG"):
        write_odd_header(folder / "TTB.nii.gz", to_lps(burden, phantom.grid)[0], grid, sform=0, qform=1)
    else:
        write_image(folder / "TTB.nii.gz", to_lps(burden, phantom.grid)[0], grid)
    _write_native(folder, phantom, is_short=number == 1)


def _threshold(phantom: Phantom) -> float:
    """3 for PSMA; for FDG the mean plus two standard deviations of the liver, as the readers used."""
    if phantom.tracer == "psma":
        return PSMA_THRESHOLD
    liver = phantom.pet[phantom.organs == LIVER].astype(np.float64)
    return float(np.clip(liver.mean() + 2 * liver.std(), 2.0, 5.0)) if len(liver) else 2.5


def _write_native(folder: Path, phantom: Phantom, *, is_short: bool) -> None:
    """Write CT and organs, with smaller pixels than the PET; a short CT ends below the vertex."""
    scale = np.array([CT_FINER, CT_FINER, 1.0])
    reach = np.array([1.0, 1.0, 0.9 if is_short else 1.0])
    shape = np.floor(np.array(phantom.grid.shape) / scale * reach).astype(int)
    affine = phantom.grid.known_affine @ np.diag([*scale, 1.0])
    grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine=affine)
    ct = _stretch(phantom.ct, scale, grid.shape, order=1, outside=-1024)
    ct[: ct.shape[0] // 20] = PADDING_HU
    for name, array in (("CT", ct), ("totseg_24", _stretch(phantom.organs, scale, grid.shape, order=0, outside=0))):
        stored, lattice = to_lps(array, grid)
        write_image(folder / f"{name}.nii.gz", stored, lattice)


def _stretch(
    array: NDArray[Any], scale: NDArray[Any], shape: tuple[int, int, int], *, order: int, outside: int
) -> NDArray[Any]:
    from scipy.ndimage import affine_transform

    out = np.empty(shape, array.dtype, order="F")
    affine_transform(array, scale, output_shape=shape, output=out, order=order, cval=outside, prefilter=False)
    return out


def _write_registrations(patient: Path, rng: np.random.Generator) -> None:
    """Write `rigid.tfm` of both tracers, in LPS mm, each fixed to moving."""
    import SimpleITK

    sitk: Any = SimpleITK
    angles, shift, centre = rng.uniform(-0.05, 0.05, 3), rng.uniform(-8, 8, 3), rng.uniform(-20, 20, 3)
    transform = sitk.Euler3DTransform(centre.tolist(), *angles.tolist(), shift.tolist())
    for tracer, own in zip(TRACERS, (transform, transform.GetInverse()), strict=True):
        (patient / tracer).mkdir(parents=True, exist_ok=True)
        sitk.WriteTransform(own, str(patient / tracer / "rigid.tfm"))


def _write_spoiled(tree: SourceTree, seed: int) -> None:
    """Write small patients from `train_0091` on, each with one broken PSMA file, and a folder that is not a patient."""
    sound = tree.folder / TOP / "train_0091"
    _write_registrations(sound, stream(seed, "spoiled"))
    for tracer in TRACERS:
        _write_scan(sound / tracer, 91, tracer, seed, (SMALL_SHAPE, SMALL_SPACING), (2, 2))
    numbers = range(92, 92 + len(SPOILERS) + 1)
    for number in numbers:
        shutil.copytree(sound, sound.with_name(f"train_{number:04d}"), dirs_exist_ok=True)
    tree.cases += ["train_0091/FDG", "train_0091/PSMA"]
    for number, (name, code, spoil) in zip(numbers, SPOILERS, strict=False):
        file = sound.with_name(f"train_{number:04d}") / "PSMA" / name
        spoil(file)
        tree.cases.append(f"train_{number:04d}/FDG")
        tree.spoiled[file.relative_to(tree.folder).as_posix()] = code
    last = sound.with_name(f"train_{numbers[-1]:04d}") / "PSMA" / "threshold.json"
    last.write_text('{"suv_threshold": -1}', encoding="utf-8")
    tree.cases.append(f"train_{numbers[-1]:04d}/FDG")
    tree.spoiled[last.relative_to(tree.folder).as_posix()] = "BadThreshold"
    (sound.parent / "train_12").mkdir(exist_ok=True)
    tree.spoiled[f"{TOP}/train_12"] = "BadName"

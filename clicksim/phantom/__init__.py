"""A seeded synthetic whole-body PET/CT with lesions, for tests, demos and benchmarks.

It looks like a patient from thigh to vertex, and matches public data in size, intensities and lesion statistics.
There is no simulation of physics: tissue is painted, blurred with the resolution of a scanner and given correlated
noise that grows with uptake.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import EmptyMaskError, SettingError, unknown_name
from clicksim.geometry import Grid, Shape, Spacing, check_shape, check_spacing
from clicksim.phantom.anatomy import paint_patient
from clicksim.phantom.lesions import LesionPlacer
from clicksim.phantom.patient import draw_patient
from clicksim.phantom.shapes import AIR_HU, Floats, PhantomCanvas
from clicksim.streams import stream

__all__ = ["TRACERS", "Phantom", "make_phantom"]

TRACERS = ("fdg", "psma")
REFERENCE_HEIGHT_MM = 1720.0
LENGTH_MM, WIDTH_MM, DEPTH_MM = 960.0, 440.0, 300.0
"""The part of the reference patient that must be in the field of view; a smaller one gets a smaller patient."""
ABOVE_VERTEX_MM = 14.0
PSF_FWHM_MM = 5.5
NOISE = 0.15
"""Standard deviation of the noise at an uptake of 1 SUV, after blurring."""
STEPS_PER_SUV = 1024
"""Scanners store whole numbers and a slope. With such steps values repeat and files compress as for real patients."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic case; arrays are `(I, J, K)` in Fortran order, as nibabel loads them.

    Attributes:
        case_id: Such as `fdg_phantom0007`.
        tracer: `fdg` or `psma`.
        grid: Orientation LAS, as in the public NIfTI data: `i` runs to the patient's left, `j` to anterior,
            `k` from the thighs to the head.
        ct: int16 Hounsfield units.
        pet: float32 SUV, in steps of 1/1024 as if stored as whole numbers; never negative.
        label: uint8 mask of the lesions; with `instances`, their numbers as uint8 or uint16.
        organs: uint8 organ numbers of TotalSegmentator v2; 0 where there is none.
        n_lesions: Number of lesions in the label.
    """

    case_id: str
    tracer: str
    grid: Grid
    ct: NDArray[np.int16]
    pet: NDArray[np.float32]
    label: NDArray[np.uint8] | NDArray[np.uint16]
    organs: NDArray[np.uint8]
    n_lesions: int


def make_phantom(
    seed: int = 0,
    *,
    tracer: str = "fdg",
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] = (4.07283, 4.07283, 3.0),
    n_lesions: int | None = None,
    instances: bool = False,
    height_mm: float | None = None,
) -> Phantom:
    """Make one synthetic PET/CT.

    The same arguments give the same bytes; other seeds give other patients. If the field of view is too small for the
    patient, the patient is made smaller, so that any grid contains a whole body. Lesion volumes are kept if there is
    room in the body. The label is the ideal shape of each lesion; the PET is blurred.

    Args:
        seed: Selects the patient.
        tracer: `fdg` or `psma`.
        shape: Voxels along `(I, J, K)`; None uses what the body needs at this spacing.
        spacing: Voxel size along `(I, J, K)`, in mm.
        n_lesions: Exact number of lesions (26-connected, not touching each other); None draws it from the published
            statistics, in which half of the FDG cases have no lesion.
        instances: Number the lesions in the label instead of marking them with 1.
        height_mm: Body height; None draws one between 1,500 and 1,950.

    Raises:
        SettingError: If the tracer is unknown, or the number of lesions or the height is impossible.
        GeometryError: If shape or spacing is impossible.
        EmptyMaskError: If the volume has no room for this many lesions.
    """
    if tracer not in TRACERS:
        raise unknown_name("tracer", tracer, TRACERS)
    if n_lesions is not None and not 0 <= n_lesions < 2**16:
        raise SettingError(f"n_lesions must lie between 0 and 65535, got {n_lesions}")
    if height_mm is not None and not 300 <= height_mm <= 3000:
        raise SettingError(f"height_mm must lie between 300 and 3000, got {height_mm}")
    step = check_spacing(spacing)
    case_id = f"{tracer}_phantom{seed:04d}"

    def draw(*purpose: int | str) -> np.random.Generator:
        return stream(seed, case_id, *purpose)

    height = float(np.clip(draw("height").normal(1715, 85), 1500, 1950)) if height_mm is None else height_mm
    stature = height / REFERENCE_HEIGHT_MM
    size = _needed_shape(stature, step) if shape is None else check_shape(shape)
    shrink = min(
        1.0,
        *(n * s / (need * stature) for n, s, need in zip(size, step, (WIDTH_MM, DEPTH_MM, LENGTH_MM), strict=True)),
    )
    scale = stature * shrink

    window, axes = _body_box(size, step, scale)
    canvas = PhantomCanvas.empty(axes)
    patient = draw_patient(tracer, draw("patient"))
    paint_patient(canvas, patient)
    placer = LesionPlacer(
        canvas,
        tracer,
        float(np.prod(step)) / 1000,
        (step[2] / scale, step[1] / scale, step[0] / scale),
        scale,
        draw,
    )
    placed = _place(placer, n_lesions, case_id)
    _scan(canvas, step, shrink, draw("noise"))

    pet = _air(size, draw("air"))
    ct = np.full(size, AIR_HU, np.int16, order="F")
    organs = np.zeros(size, np.uint8, order="F")
    label = np.zeros(size, np.uint16 if instances and placed > 255 else np.uint8, order="F")
    pet.T[window] = canvas.activity
    ct.T[window] = canvas.hu
    organs.T[window] = canvas.organs
    label.T[window] = placer.labels if instances else placer.labels > 0
    return Phantom(case_id, tracer, _grid(size, step), ct, pet, label, organs, placed)


def _place(placer: LesionPlacer, wanted: int | None, case_id: str) -> int:
    """Grow the lesions. If the body is full, stop at a drawn number, but raise for a requested one."""
    count = placer.draw_count() if wanted is None else wanted
    for number in range(1, count + 1):
        try:
            placer.grow(number)
        except EmptyMaskError as error:
            if wanted is None:
                return number - 1
            raise EmptyMaskError(f"{count} lesions do not fit into {case_id}: {error}") from None
    return count


def _needed_shape(stature: float, spacing: Spacing) -> Shape:
    """The shape of a square field of view around the body, from the vertex to mid-thigh."""
    wide = int(np.ceil(620 * stature / spacing[0]))
    deep = int(np.ceil(620 * stature / spacing[1]))
    return wide, deep, int(np.ceil(1010 * stature / spacing[2]))


def _grid(shape: Shape, spacing: Spacing) -> Grid:
    """A LAS grid with the world origin in the middle of the lowest slice."""
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[0, 3] = (shape[0] - 1) / 2 * spacing[0]
    affine[1, 3] = -(shape[1] - 1) / 2 * spacing[1]
    return Grid(shape, spacing, affine)


def _body_box(
    shape: Shape, spacing: Spacing, scale: float
) -> tuple[tuple[slice, slice, slice], tuple[Floats, Floats, Floats]]:
    """The part of the volume that can contain the body, and the body coordinates of its voxels, slices first."""
    u, v, w = (np.arange(n, dtype=np.float64) * (s / scale) for n, s in zip(shape, spacing, strict=True))
    u -= u[-1] / 2
    v -= v[-1] / 2
    w += ABOVE_VERTEX_MM - w[-1]
    cuts, axes = [], []
    for axis, limit in ((w, np.inf), (v, 175.0), (u, 330.0)):
        kept = np.flatnonzero(np.abs(axis) <= limit)
        first, last = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, len(axis))
        cuts.append(slice(first, last))
        axes.append(axis[first:last].astype(np.float32))
    return (cuts[0], cuts[1], cuts[2]), (axes[0], axes[1], axes[2])


def _scan(canvas: PhantomCanvas, spacing: Spacing, shrink: float, rng: np.random.Generator) -> None:
    """Convert activity to a PET image, in place: add noise, then blur, which correlates the noise.

    White noise is scaled so that its standard deviation after the blur is `NOISE` times the root of the uptake, for
    any voxel size. Negative values become zero, because reconstructed images are non-negative.
    """
    from scipy.ndimage import gaussian_filter

    sigma_mm = PSF_FWHM_MM * shrink / 2.3548
    sigma = [sigma_mm / s for s in spacing[::-1]]
    spread = float(np.prod([max(1.0, 2 * np.sqrt(np.pi) * s) for s in sigma]))
    for k in range(len(canvas.activity)):
        layer = canvas.activity[k]
        grain = rng.standard_normal(layer.shape, dtype=np.float32)
        layer += grain * np.sqrt(layer) * np.float32(NOISE * np.sqrt(spread))
        layer += np.float32(0.02) * rng.random(layer.shape, dtype=np.float32)
        body = canvas.body[k]
        canvas.hu[k] += (grain * np.float32(9) * body).astype(np.int16)
    gaussian_filter(canvas.activity, sigma, output=canvas.activity, mode="nearest", truncate=3.0)
    np.maximum(canvas.activity, 0, out=canvas.activity)
    canvas.activity *= np.float32(STEPS_PER_SUV)
    np.rint(canvas.activity, out=canvas.activity)
    canvas.activity /= np.float32(STEPS_PER_SUV)


def _air(shape: Shape, rng: np.random.Generator) -> NDArray[np.float32]:
    """Values of a reconstruction in air: zero in half of the voxels, small values in the others."""
    levels = np.rint(20 * (np.maximum(np.arange(256) - 127, 0) / 128) ** 2) / STEPS_PER_SUV
    volume = np.empty(shape[::-1], np.float32)
    for layer in volume:
        layer[:] = levels.astype(np.float32)[np.frombuffer(rng.bytes(layer.size), np.uint8)].reshape(layer.shape)
    return volume.T

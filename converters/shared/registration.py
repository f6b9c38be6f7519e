"""Rigid registrations between two scans of a patient, and one scan brought onto the lattice of the other.

    read_rigid               a SimpleITK transform file (`rigid.tfm`) to a 4 x 4 matrix
    read_challenge_affine    the JSON of the Grand Challenge platform to the same
    round_trip_mm            how far two registrations are from being each other's inverse
    bring_onto               an image on another lattice, through a registration

A matrix maps points of the **fixed** scan to points of the **moving** one, in RAS+ mm: `moving = M @ fixed`. The
centre of rotation is folded into the translation. This is the direction in which SimpleITK resamples: for each
voxel of the fixed lattice it asks where in the moving image to look. So the matrix of `FDG/rigid.tfm`, fixed FDG
and moving PSMA, takes a place in the FDG scan to the same place in the PSMA scan, and brings the PSMA image onto
the FDG lattice.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import GeometryError
from clicksim.files import read_bounded
from clicksim.geometry import Grid
from clicksim.volumes import Volume

Matrix = NDArray[np.float64]

CHALLENGE_KEY = "3d_affine_transform"

RIGID_WITHIN = 1e-4
"""A matrix is a rotation when its product with its transpose is the identity within this: 0.1 mm over a metre."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SILENT = np.errstate(all="ignore")
"""Numbers beyond all measure overflow on their way to the check that refuses them."""

_RIGID_KINDS = {"Euler3DTransform": (6, (3, 4)), "VersorRigid3DTransform": (6, (3,))}
"""Transforms that are read, with the numbers of their parameters and of their fixed parameters."""


@_SILENT
def read_rigid(path: str | Path) -> Matrix:
    """Read a rigid transform in ITK's text format (`.tfm`), as SimpleITK writes it.

    The text is checked before SimpleITK sees a number of it: given fewer parameters than a transform has, its own
    reader continues with whatever is in memory, or crashes the process.

    Args:
        path: A file with one Euler3DTransform or VersorRigid3DTransform, alone or inside a CompositeTransform.

    Returns:
        `(4, 4)`, fixed to moving, RAS+ mm, the centre folded in.

    Raises:
        GeometryError: The file is missing, is no such text, holds another transform or several, or its numbers are
            too few, too many or not finite.
    """
    import SimpleITK

    kind, parameters, fixed = _parse_transform(_read_text(path), str(path))
    transform: Any = getattr(SimpleITK, kind)()
    transform.SetFixedParameters(fixed + [0.0] * (len(transform.GetFixedParameters()) - len(fixed)))
    transform.SetParameters(parameters)
    columns = [transform.TransformPoint(point) for point in np.vstack([np.eye(3), np.zeros(3)]).tolist()]
    matrix = np.eye(4)
    matrix[:3] = np.array(columns).T
    matrix[:3, :3] -= matrix[:3, 3:]  # images of the unit vectors, less the image of the origin
    return _checked_rigid(matrix, str(path))


@_SILENT
def read_challenge_affine(path: str | Path) -> Matrix:
    """Read a registration in the JSON of the Grand Challenge platform.

    `{"3d_affine_transform": 4 x 4}` is not a homogeneous matrix: the rotation R is in the upper 3 x 3 block, the
    translation t in the last column and the centre c in the bottom row, all in LPS+ mm, and a point x of the fixed
    scan maps to R (x - c) + c + t. The file `psma-to-fdg-registration.json` has FDG fixed and PSMA moving.

    Args:
        path: The file.

    Returns:
        `(4, 4)`, fixed to moving, RAS+ mm, the centre folded in.

    Raises:
        GeometryError: The file is missing, is no such JSON, or its block is no rotation.
    """
    text = _read_text(path)
    try:
        content = json.loads(text)
        stored = np.array(content[CHALLENGE_KEY], dtype=np.float64).reshape(4, 4)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GeometryError(f'a registration is {{"{CHALLENGE_KEY}": 16 numbers}}; this is not: {path}') from error
    rotation, shift, centre = stored[:3, :3], stored[:3, 3], stored[3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = shift + centre - rotation @ centre
    return _checked_rigid(matrix, str(path))


def round_trip_mm(there: Matrix, back: Matrix, grid: Grid) -> float:
    """How far the farthest corner of a lattice ends from where it began, there and back, in mm.

    For two linear maps no point inside the lattice ends farther away than its farthest corner.

    Args:
        there: `(4, 4)`, from the scan of the lattice to the other.
        back: `(4, 4)`, from the other scan to this one.
        grid: The lattice, with an affine.
    """
    corners = np.array(np.meshgrid(*([0, n - 1] for n in grid.shape))).reshape(3, -1).T
    points = np.hstack([grid.to_mm(corners), np.ones((8, 1))])
    return float(np.linalg.norm((points @ (back @ there).T - points)[:, :3], axis=1).max())


def bring_onto(
    volume: Volume, grid: Grid, *, fill: float, labels: bool = False, fixed_to_moving_ras: Matrix | None = None
) -> NDArray[Any]:
    """An image on another lattice, by SimpleITK.

    A place belongs to the moving image up to half a voxel beyond the centres of its outermost voxels, and has the
    value of the border there; farther out it gets `fill`. Nothing is clipped or rounded. The answer does not depend
    on the number of threads.

    Args:
        volume: The moving image, with an affine.
        grid: The fixed lattice, with an affine.
        fill: Value outside the moving image.
        labels: The nearest voxel's value in the type of the image, instead of linear interpolation to float32.
        fixed_to_moving_ras: `(4, 4)`, RAS+ mm of `grid` to RAS+ mm of `volume`; None if both are in one space, as
            CT and PET of one study do.

    Returns:
        `(I, J, K)` of `grid`, in Fortran order.

    Raises:
        GeometryError: An image or lattice without an affine, or a matrix that is not finite, 4 x 4 and homogeneous.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    given = np.eye(4) if fixed_to_moving_ras is None else np.asarray(fixed_to_moving_ras, dtype=np.float64)
    matrix = _lps(_checked_affine(given))
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    array = volume.array.view(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    if not labels and array.dtype == np.float64:
        array = array.astype(np.float32)  # the answer is float32; twice the memory would not make it better
    moving = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    origin, spacing, direction = _itk_geometry(volume.grid)
    moving.SetOrigin(origin)
    moving.SetSpacing(spacing)
    moving.SetDirection(direction)
    origin, spacing, direction = _itk_geometry(grid)
    method = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    kind = moving.GetPixelID() if labels else sitk.sitkFloat32
    moved = sitk.Resample(moving, grid.shape, transform, method, origin, spacing, direction, fill, kind)
    return sitk.GetArrayFromImage(moved).T


def _read_text(path: str | Path) -> str:
    try:
        return read_bounded(Path(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise GeometryError(f"cannot read the registration: {reason} ({path})") from error


def _parse_transform(text: str, where: str) -> tuple[str, list[float], list[float]]:
    """Kind, parameters and fixed parameters of the one transform in a text of `key: value` lines."""
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if key.strip() == "Transform":
            found.append({})
        if not colon or not found:
            raise GeometryError(f"not a transform in ITK's text format: line {line[:60]!r} ({where})")
        found[-1][key.strip()] = value.strip()
    kinds = [one["Transform"].partition("_")[0] for one in found]
    if kinds[:1] == ["CompositeTransform"]:
        found, kinds = found[1:], kinds[1:]
    if len(kinds) != 1 or kinds[0] not in _RIGID_KINDS:
        raise GeometryError(
            f"one rigid transform is expected, found {', '.join(kinds) or 'none'}; allowed: "
            f"{', '.join(_RIGID_KINDS)} ({where})"
        )
    count, fixed_counts = _RIGID_KINDS[kinds[0]]
    parameters = _numbers(found[0], "Parameters", (count,), where)
    return kinds[0], parameters, _numbers(found[0], "FixedParameters", fixed_counts, where)


def _numbers(entry: dict[str, str], key: str, counts: tuple[int, ...], where: str) -> list[float]:
    words = entry.get(key, "").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) not in counts or not np.all(np.isfinite(values)):
        expected = " or ".join(str(n) for n in counts)
        raise GeometryError(f"{key} must be {expected} finite numbers, got {entry.get(key, '')[:80]!r} ({where})")
    return values


def _checked_rigid(matrix_lps: Matrix, where: str) -> Matrix:
    """The matrix in RAS, if it is a rotation and a shift."""
    rotation = matrix_lps[:3, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max()) if np.all(np.isfinite(matrix_lps)) else np.inf
    if not off <= RIGID_WITHIN:
        raise GeometryError(f"a registration is a rotation and a shift; this matrix is not, by {off:.3g} ({where})")
    if np.linalg.det(rotation) < 0:
        raise GeometryError(f"a registration is a rotation and a shift; this matrix mirrors the image ({where})")
    return _lps(matrix_lps)


def _checked_affine(matrix: Matrix) -> Matrix:
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise GeometryError(
            f"a registration is a finite 4 x 4 matrix with the bottom row 0 0 0 1, got {matrix.tolist()}; the matrix "
            "of a challenge file has the centre of rotation there: read it with read_challenge_affine"
        )
    return matrix


def _lps(matrix: Matrix) -> Matrix:
    """A map of points in RAS as a map of points in LPS, or the other way round: the two signs flip."""
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def _itk_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction in LPS, as ITK wants them."""
    affine = LPS_TO_RAS @ grid.known_affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, 3].tolist(), spacing.tolist(), (affine[:3, :3] / spacing).ravel().tolist()

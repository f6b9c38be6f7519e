"""Rigid registrations between two scans of a patient, and resampling of one scan onto the grid of the other.

    read_rigid               a SimpleITK transform file (`rigid.tfm`) to a 4 x 4 matrix
    read_challenge_affine    the JSON of the Grand Challenge platform to the same
    round_trip_mm            how far two registrations are from being each other's inverse
    bring_onto               an image on another grid, through a registration

A matrix maps points of the **fixed** scan to points of the **moving** one, in RAS+ mm: `moving = M @ fixed`. The
centre of rotation is folded into the translation. SimpleITK resamples in this direction: for each voxel of the fixed
grid it looks up a place in the moving image. So the matrix of `FDG/rigid.tfm` (fixed FDG, moving PSMA) maps a place
in the FDG scan to the same place in the PSMA scan, and resamples the PSMA image onto the FDG grid.
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
"""A matrix is a rotation if its product with its transpose is the identity within this: 0.1 mm over a metre."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SILENT = np.errstate(all="ignore")
"""Ignores overflow: huge numbers may overflow before a check refuses them."""

_RIGID_KINDS = {"Euler3DTransform": (6, (3, 4)), "VersorRigid3DTransform": (6, (3,))}
"""Allowed transforms, with the numbers of their parameters and of their fixed parameters."""


@_SILENT
def read_rigid(path: str | Path) -> Matrix:
    """Read a rigid transform in ITK's text format (`.tfm`), as SimpleITK writes it.

    The text is checked before SimpleITK reads it: with fewer parameters than the transform needs, SimpleITK reads
    uninitialised memory or crashes the process.

    Args:
        path: A file with one Euler3DTransform or VersorRigid3DTransform, alone or inside a CompositeTransform.

    Returns:
        `(4, 4)`, fixed to moving, RAS+ mm, the centre folded in.

    Raises:
        GeometryError: The file is missing, is not such a text, has another transform or several, or its numbers are
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
    matrix[:3, :3] -= matrix[:3, 3:]  # images of the unit vectors minus the image of the origin
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
        GeometryError: The file is missing, is not such a JSON file, or its block is not a rotation.
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
    """How far the farthest corner of a grid moves there and back, in mm.

    Both maps are linear, so no point inside the grid moves farther than its farthest corner.

    Args:
        there: `(4, 4)`, from the scan of the grid to the other scan.
        back: `(4, 4)`, from the other scan to this one.
        grid: The grid, with an affine.
    """
    corners = np.array(np.meshgrid(*([0, n - 1] for n in grid.shape))).reshape(3, -1).T
    points = np.hstack([grid.to_mm(corners), np.ones((8, 1))])
    return float(np.linalg.norm((points @ (back @ there).T - points)[:, :3], axis=1).max())


def bring_onto(
    volume: Volume, grid: Grid, *, fill: float, labels: bool = False, fixed_to_moving_ras: Matrix | None = None
) -> NDArray[Any]:
    """Resample an image onto another grid, with SimpleITK.

    Up to half a voxel beyond the centres of the outermost voxels of the moving image, the border value is used;
    beyond that, `fill`. Nothing is clipped or rounded. The result does not depend on the number of threads.

    Args:
        volume: The moving image, with an affine.
        grid: The fixed grid, with an affine.
        fill: Value outside the moving image.
        labels: Use the nearest voxel, in the type of the image, instead of linear interpolation to float32.
        fixed_to_moving_ras: `(4, 4)`, RAS+ mm of `grid` to RAS+ mm of `volume`; None if both are in one space, such
            as CT and PET of one study.

    Returns:
        `(I, J, K)` of `grid`, in Fortran order.

    Raises:
        GeometryError: An image or grid has no affine, or the matrix is not finite, 4 x 4 and homogeneous.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    given = np.eye(4) if fixed_to_moving_ras is None else np.asarray(fixed_to_moving_ras, dtype=np.float64)
    matrix = _lps(_checked_affine(given))
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    array = volume.array.view(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    if not labels and array.dtype == np.float64:
        array = array.astype(np.float32)  # the result is float32, so float64 would only cost memory
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
    """Kind, parameters and fixed parameters of the only transform in a text of `key: value` lines."""
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
    """Convert a matrix to RAS, if it is a rotation and a translation."""
    rotation = matrix_lps[:3, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max()) if np.all(np.isfinite(matrix_lps)) else np.inf
    if not off <= RIGID_WITHIN:
        raise GeometryError(f"the matrix is not a rotation and a shift: it differs by {off:.3g} ({where})")
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
    """Convert a map of points from RAS to LPS or back, by flipping two signs."""
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def _itk_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction in LPS, for ITK."""
    affine = LPS_TO_RAS @ grid.known_affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, 3].tolist(), spacing.tolist(), (affine[:3, :3] / spacing).ravel().tolist()

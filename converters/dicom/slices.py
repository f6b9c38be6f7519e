"""Find the positions of the slices of a series, and whether they form a regular volume.

    slice_geometry    the exact positions of a series, before any averaging
    SliceGeometry     the faults, and the grid if there are none

Positions are along the normal row x column, from ImagePositionPatient and ImageOrientationPatient alone.
SliceThickness and SpacingBetweenSlices are not used: they give the thickness or the planned spacing. Source: DICOM
PS3.3 C.7.6.2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError, up_to_ten
from clicksim.geometry import Grid
from converters.dicom.headers import DicomError
from converters.dicom.series import SAME_PLACE_MM, Series, Slice

GAP_RELATIVE = 0.01
GAP_MM = 0.1
"""Gaps count as even if they differ from the median gap by at most one of these; the spacing is their average."""

TILT_MM = 0.1
TILT_RELATIVE = 1e-3
"""A stack may lean by up to 0.1 mm or a thousandth of its length, whichever is larger."""

DIRECTION = 1e-4
"""Tolerance for equal direction cosines and for right angles."""

FARTHEST_MM = 1e6

MOST_FILLED = 20
"""Interpolation makes at most this many slices per stored slice."""

TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""DICOM's patient coordinates are LPS+."""


class GeometryRefusal(DicomError):  # noqa: N818 - GeometryError is the name of the error for grids
    """Slices that do not form a volume: `IncompleteSeries`, `DuplicateSlice`, `NonUniformSpacing`, `GantryTilt`, ..."""


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Positions of the slices of a series, in LPS+ mm.

    Attributes:
        shape: Voxels along `i, j, k`.
        uids: SOPInstanceUID of each slice, by ascending `k`.
        row: `(3,)` unit vector of increasing `i`.
        column: `(3,)` unit vector of increasing `j`.
        origins: `(K, 3)`, centre of the first pixel of each slice.
        pixel_mm: Pixel size along `i` and `j`.
        frame_of_reference: Its UID, or an empty string.
        series: A description of the series, for messages.
    """

    shape: tuple[int, int, int]
    uids: tuple[str, ...]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    origins: NDArray[np.float64]
    pixel_mm: tuple[float, float]
    frame_of_reference: str
    series: str

    @property
    def normal(self) -> NDArray[np.float64]:
        """`(3,)` unit vector of increasing `k`."""
        return np.cross(self.row, self.column)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """`(K,)`, position of each slice along the normal in mm."""
        return self.origins @ self.normal

    @property
    def gaps(self) -> NDArray[np.float64]:
        """`(K - 1,)`, distances between neighbouring slices in mm."""
        return np.diff(self.offsets)

    @property
    def typical_gap(self) -> float:
        """The median gap in mm; the smaller of two middle gaps, because a missing slice makes a gap larger."""
        gaps = np.sort(self.gaps)
        return float(gaps[(gaps.size - 1) // 2]) if gaps.size else float("nan")

    def faults(self) -> list[tuple[str, str]]:
        """Reasons why the slices are not a regular volume, as pairs of code and sentence; empty if there are none."""
        if self.shape[2] < 2:
            return [("IncompleteSeries", "a single slice: the spacing between slices is unknown")]
        return [f for f in (self._duplicate(), self._unevenness(), self._tilt()) if f is not None]

    def grid(self, *, gaps: str = "refuse") -> Grid:
        """The regular grid of the slices; the spacing along `k` is the average gap, never SliceThickness.

        Args:
            gaps: `refuse` uneven gaps and missing slices, or `interpolate` them: evenly spaced slices from the first
                to the last, as many as bring the spacing closest to the typical gap. Shared positions and a lean are
                always refused.

        Raises:
            GeometryRefusal: With the code of the first fault in `faults` and the sentences of all.
            SettingError: If `gaps` is unknown.
        """
        if gaps not in ("refuse", "interpolate"):
            raise SettingError(f"gaps must be refuse or interpolate, got {gaps!r}")
        faults, count = self.faults(), self.shape[2]
        fillable = count > 1 and {code for code, _ in faults} <= {"IncompleteSeries", "NonUniformSpacing"}
        if faults and (gaps == "refuse" or not fillable):
            raise GeometryRefusal(faults[0][0], "; ".join(text for _, text in faults) + f" ({self.series})")
        if faults:
            count = max(round(float(self.offsets[-1] - self.offsets[0]) / self.typical_gap), 1) + 1
            if count > MOST_FILLED * self.shape[2]:
                raise GeometryRefusal(
                    "IncompleteSeries",
                    f"{count} slices cannot be made of {self.shape[2]}; at most {MOST_FILLED} times as many are "
                    f"interpolated ({self.series})",
                )
        step = (self.origins[-1] - self.origins[0]) / (count - 1)
        # along the normal: the remaining tilt is below the tolerance, and a grid must not be sheared
        step = self.normal * float(step @ self.normal)
        axes = np.column_stack([self.row * self.pixel_mm[0], self.column * self.pixel_mm[1], step])
        affine = np.eye(4)
        affine[:3, :3] = TO_RAS @ axes
        affine[:3, 3] = TO_RAS @ self.origins[0]
        return Grid((self.shape[0], self.shape[1], count), None, affine)

    def _duplicate(self) -> tuple[str, str] | None:
        close = np.flatnonzero(self.gaps < SAME_PLACE_MM)
        if not close.size:
            return None
        places = up_to_ten(f"{self.offsets[k]:.2f} mm" for k in close)
        return "DuplicateSlice", f"two slices lie at one position along the normal: at {places}"

    def _unevenness(self) -> tuple[str, str] | None:
        gaps, typical = self.gaps, self.typical_gap
        if typical < SAME_PLACE_MM:
            return None
        tolerance = max(GAP_RELATIVE * typical, GAP_MM)
        odd = gaps[np.abs(gaps - typical) > tolerance]
        listed = up_to_ten(f"{gap:.4g}" for gap in np.unique(odd.round(4)))
        if not odd.size:
            drift = np.abs(self.offsets - np.linspace(self.offsets[0], self.offsets[-1], self.offsets.size)).max()
            if drift <= typical / 2:
                return None
            return "NonUniformSpacing", f"even spacing would move a slice by {drift:.3g} mm, more than half a gap"
        times = np.round(odd / typical)
        if np.all((times >= 2) & (np.abs(odd - times * typical) <= tolerance)):
            missing = int(np.sum(times - 1))
            many = f"{missing} slices are" if missing > 1 else "a slice is"
            return "IncompleteSeries", f"{many} missing: gaps of {listed} mm where {typical:.4g} is usual"
        return "NonUniformSpacing", f"gaps of {listed} mm where {typical:.4g} is usual"

    def _tilt(self) -> tuple[str, str] | None:
        moved = self.origins - self.origins[0]
        along = moved @ self.normal
        aside = np.linalg.norm(moved - np.outer(along, self.normal), axis=1)
        if aside.max() <= max(TILT_MM, TILT_RELATIVE * along[-1]):
            return None
        angle = np.degrees(np.arctan2(aside.max(), abs(along[int(aside.argmax())])))
        return "GantryTilt", f"the slices lean by {angle:.2f} degrees against their normal"


def slice_geometry(series: Series) -> SliceGeometry:
    """Find the positions of the slices of a series; uneven gaps and missing slices are kept as they are.

    Args:
        series: A stack of single-frame slices.

    Raises:
        GeometryRefusal: `MultiFrame`, `MissingGeometry`, `SeriesInconsistent` (slices of different size or pixel
            spacing), or `GantryTilt` if the orientation changes from slice to slice.
    """
    first = series.slices[0]
    for entry in series.slices:
        _check_slice(entry)
        if (entry.rows, entry.columns) != (first.rows, first.columns):
            sizes = f"{first.columns} x {first.rows} and {entry.columns} x {entry.rows}"
            raise GeometryRefusal("SeriesInconsistent", f"slices of {sizes} pixels in one series ({entry.path})")
        if not np.allclose(entry.pixel_spacing or (), first.pixel_spacing or (), rtol=1e-4, atol=0):
            sizes = f"{first.pixel_spacing} and {entry.pixel_spacing}"
            raise GeometryRefusal("SeriesInconsistent", f"pixel spacings {sizes} mm in one series ({entry.path})")
        if not np.allclose(entry.orientation or (), first.orientation or (), rtol=0, atol=DIRECTION):
            raise GeometryRefusal("GantryTilt", f"the orientation changes within the series ({entry.path})")
    row, column = _axes(first)
    spacing = first.pixel_spacing or (0.0, 0.0)
    origins = np.array([s.position for s in series.slices], dtype=np.float64)
    # by the axes of the later grid; the sort is stable, so slices at one place keep their order
    order = np.argsort(origins @ np.cross(row, column), kind="stable")
    return SliceGeometry(
        shape=(first.columns, first.rows, len(series.slices)),
        uids=tuple(series.slices[k].uid for k in order),
        row=row,
        column=column,
        origins=origins[order],
        pixel_mm=(spacing[1], spacing[0]),
        frame_of_reference=series.frame_of_reference,
        series=str(series),
    )


def _check_slice(entry: Slice) -> None:
    if entry.frames > 1:
        raise GeometryRefusal(
            "MultiFrame",
            f"{entry.frames} frames in one file; convert the series to files of one slice each ({entry.path})",
        )
    needed = {
        "ImagePositionPatient": entry.position,
        "ImageOrientationPatient": entry.orientation,
        "PixelSpacing": entry.pixel_spacing,
        "Rows": entry.rows,
        "Columns": entry.columns,
    }
    if missing := [keyword for keyword, value in needed.items() if not value]:
        raise GeometryRefusal("MissingGeometry", f"the header lacks {', '.join(missing)} ({entry.path})")
    if min(entry.rows, entry.columns, *(entry.pixel_spacing or ())) <= 0:
        raise GeometryRefusal(
            "MissingGeometry",
            f"Rows {entry.rows}, Columns {entry.columns} and PixelSpacing {entry.pixel_spacing} must be above 0 "
            f"({entry.path})",
        )
    if max(abs(x) for x in (*(entry.position or ()), *(entry.pixel_spacing or ()))) > FARTHEST_MM:
        raise GeometryRefusal(
            "MissingGeometry", f"ImagePositionPatient or PixelSpacing is beyond a kilometre ({entry.path})"
        )


def _axes(entry: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column direction, made exactly orthonormal; `-0.0` becomes 0."""
    return orthonormal(entry.orientation or (), entry.path)


def orthonormal(orientation: Any, where: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column direction of six direction cosines, made exactly orthonormal.

    Raises:
        GeometryRefusal: `SeriesInconsistent`, if the directions are not orthogonal unit vectors within 1e-3.
    """
    row, column = np.asarray(orientation[:3], dtype=np.float64), np.asarray(orientation[3:], dtype=np.float64)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, rtol=0, atol=1e-3) or abs(float(row @ column)) > 1e-3:
        raise GeometryRefusal(
            "SeriesInconsistent", f"row and column directions are not at right angles: {tuple(orientation)} ({where})"
        )
    row = row / lengths[0]
    column = column - row * float(row @ column)
    return row + 0.0, column / np.linalg.norm(column) + 0.0

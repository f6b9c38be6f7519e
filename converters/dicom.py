"""DICOM image series to exact volumes, and volumes onto another grid.

    slice_geometry    where the slices of a series lie: the exact positions, before any averaging
    read_volume       a series as one array with its grid, or a refusal that names the rule
    resample_to       a volume on another grid, linear or nearest, and how much of it was covered

Arrays are `(i, j, k)`: `i` runs along an image row (the column index), `j` down the columns, `k` along the normal
row x column, ascending. That is DICOM's own order, so no voxel is flipped, and with the usual axial orientation
`k` runs to the head and the axes are L, P, S. It is right-handed, and it is the order of SimpleITK's series reader.

Pixels: stored values come from pydicom where they are not compressed, and from SimpleITK where they are, as it
decodes every transfer syntax without plug-ins. Slope and intercept are applied here in either case, slice by
slice, in double precision: SimpleITK's own scaling changes its type from file to file and leaves some modalities
out.

Sources of the rules: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.8.9 (PET).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid
from clicksim.volumes import Volume
from converters.choice import Choice, Rule, choose_series
from converters.series import (
    SAME_PLACE_MM,
    DicomRefusal,
    Finding,
    Scan,
    Series,
    Slice,
    by_study,
    find_series,
    normal_of,
    quietly,
    read_dataset,
    scan_folder,
)

__all__ = [
    "Choice",
    "DicomRefusal",
    "Finding",
    "GeometryRefusal",
    "Rule",
    "Scan",
    "Series",
    "Slice",
    "SliceGeometry",
    "by_study",
    "choose_series",
    "find_series",
    "read_volume",
    "resample_to",
    "scan_folder",
    "slice_geometry",
]

GAP_RELATIVE = 0.01
GAP_MM = 0.1
"""Gaps within one of these of the median gap count as even, and their average is the spacing."""

TILT_MM = 0.1
TILT_RELATIVE = 1e-3
"""A stack may lean by the larger of 0.1 mm and a thousandth of its length."""

DIRECTION = 1e-4
"""Direction cosines are equal, and axes at right angles, within this."""

_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class GeometryRefusal(DicomRefusal):
    """Slices that make no volume: `IncompleteSeries`, `DuplicateSlice`, `NonUniformSpacing`, `GantryTilt`, ..."""


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Where the slices of a series lie, in LPS+ mm.

    Attributes:
        shape: Voxels along `i, j, k`.
        uids: SOPInstanceUID of each slice, by ascending `k`.
        row: `(3,)` unit vector of increasing `i`.
        column: `(3,)` unit vector of increasing `j`.
        origins: `(K, 3)`, centre of the first pixel of each slice.
        pixel_mm: Pixel size along `i` and `j`.
        frame_of_reference: Its UID, or an empty string.
        series: The series, in words, for messages.
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
        """The median gap in mm; of two in the middle the smaller, as a missing slice makes a gap larger."""
        gaps = np.sort(self.gaps)
        return float(gaps[(gaps.size - 1) // 2]) if gaps.size else float("nan")

    def faults(self) -> list[tuple[str, str]]:
        """What keeps the slices from being a regular volume, as pairs of code and sentence; empty if nothing does."""
        if self.shape[2] < 2:
            return [("IncompleteSeries", "one slice alone: the spacing between slices is unknown")]
        return [f for f in (self._duplicate(), self._unevenness(), self._tilt()) if f is not None]

    def grid(self) -> Grid:
        """The regular grid of the slices; the spacing along `k` is the average gap, never SliceThickness.

        Raises:
            GeometryRefusal: With the code of the first of `faults` and all codes.
        """
        if faults := self.faults():
            refusal = GeometryRefusal(faults[0][0], "; ".join(text for _, text in faults) + f" ({self.series})")
            refusal.codes = tuple(code for code, _ in faults)
            raise refusal
        return self.regular_grid(self.shape[2])

    def regular_grid(self, count: int) -> Grid:
        """`count` slices at even distances from the first slice to the last, without a check."""
        step = (self.origins[-1] - self.origins[0]) / (count - 1)
        # along the normal, as what is left of a lean is below the tolerance and a sheared grid is none
        step = self.normal * float(step @ self.normal)
        axes = np.column_stack([self.row * self.pixel_mm[0], self.column * self.pixel_mm[1], step])
        affine = np.eye(4)
        affine[:3, :3] = _TO_RAS @ axes
        affine[:3, 3] = _TO_RAS @ self.origins[0]
        return Grid((self.shape[0], self.shape[1], count), None, affine)

    def _duplicate(self) -> tuple[str, str] | None:
        close = np.flatnonzero(self.gaps < SAME_PLACE_MM)
        if not close.size:
            return None
        places = ", ".join(f"{self.offsets[k]:.2f}" for k in close[:10])
        return "DuplicateSlice", f"{close.size} pairs of slices share a position along the normal, at {places} mm"

    def _unevenness(self) -> tuple[str, str] | None:
        gaps, typical = self.gaps, self.typical_gap
        if typical < SAME_PLACE_MM:
            return None
        tolerance = max(GAP_RELATIVE * typical, GAP_MM)
        odd = gaps[np.abs(gaps - typical) > tolerance]
        listed = ", ".join(f"{g:.4g}" for g in np.unique(odd.round(4))[:10])
        if not odd.size:
            drift = np.abs(self.offsets - np.linspace(self.offsets[0], self.offsets[-1], self.offsets.size)).max()
            if drift <= typical / 2:
                return None
            return "NonUniformSpacing", f"even spacing would move a slice by {drift:.3g} mm, more than half a gap"
        times = np.round(odd / typical)
        if np.all((times >= 2) & (np.abs(odd - times * typical) <= tolerance)):
            missing = int(np.sum(times - 1))
            return "IncompleteSeries", f"{missing} slices are missing: gaps of {listed} mm where {typical:.4g} is usual"
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
    """Where the slices of a series lie; uneven gaps and missing slices are kept as they are.

    Args:
        series: A stack of single-frame slices.

    Raises:
        GeometryRefusal: `MultiFrame`, `MissingGeometry`, `SeriesInconsistent` (slices of different size or pixel
            spacing), or `GantryTilt` where the orientation changes from slice to slice.
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
    # by the axes that the grid will have; a stable sort keeps slices at one place in the order they came
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
            "MultiFrame", f"{entry.frames} frames in one file; only single-frame slices are read ({entry.path})"
        )
    missing = [n for n in ("position", "orientation", "pixel_spacing", "rows", "columns") if not getattr(entry, n)]
    if missing:
        raise GeometryRefusal("MissingGeometry", f"the header lacks {', '.join(missing)} ({entry.path})")
    if min(entry.rows, entry.columns, *(entry.pixel_spacing or ())) <= 0:
        raise GeometryRefusal("MissingGeometry", f"size or pixel spacing are not positive ({entry.path})")
    if max(abs(x) for x in (*(entry.position or ()), *(entry.pixel_spacing or ()))) > 1e6:
        raise GeometryRefusal("MissingGeometry", f"position or pixel spacing exceed a kilometre ({entry.path})")


def _axes(entry: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column direction, made exactly orthonormal; `-0.0` becomes 0."""
    return orthonormal(entry.orientation or (), entry.path)


def orthonormal(orientation: Any, where: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column direction of six direction cosines, made exactly orthonormal.

    Raises:
        GeometryRefusal: `SeriesInconsistent`, if they are no unit vectors at right angles within 1e-3.
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


def read_volume(series: Series, *, dtype: DTypeLike | None = None, gaps: str = "refuse") -> Volume:
    """Read a series as one volume; slope and intercept of each slice are applied before stacking.

    Slices go one by one into one array, so that nothing of its size is held beside it. Without `dtype` a CT comes
    as int16 where every value is one exactly, else as float32, as all other modalities do. Whatever the type, a
    value is computed in double precision and rounded once.

    Args:
        series: A stack of single-frame slices.
        dtype: float32, float64 or int16; int16 is refused where it cannot hold every value exactly.
        gaps: `refuse` uneven gaps and missing slices, or `interpolate` linearly between the slices onto even
            distances, the usual gap apart; shared positions and a tilt are refused in either case.

    Returns:
        The array, `(I, J, K)` in Fortran order, and its grid with the affine to RAS+. `path` is the folder.

    Raises:
        GeometryRefusal: As `slice_geometry` and `SliceGeometry.grid`.
        DicomRefusal: `UnreadableDicom`, `UndecodablePixels`, `TruncatedPixels`, `UnsupportedPixels`.
        SettingError: On an unknown `gaps` or `dtype`.
    """
    wanted = None if dtype is None else np.dtype(dtype)
    if gaps not in ("refuse", "interpolate") or (wanted is not None and wanted.name not in _DTYPES):
        raise SettingError(f"gaps is {gaps!r} (refuse, interpolate), dtype {dtype!r} ({', '.join(_DTYPES)})")
    geometry = slice_geometry(series)
    by_uid = {s.uid: s for s in series.slices}
    ordered = [by_uid[uid] for uid in geometry.uids]
    grid, weights = _layout(geometry, gaps)
    exact = wanted is None and series.modality == "CT" and all(w == 0 for _, w in weights)
    stack = _Stack(grid, wanted or np.dtype(np.int16 if exact else np.float32), ordered[0], may_widen=wanted is None)
    known: dict[int, NDArray[np.float64]] = {}
    for k, (below, weight) in enumerate(weights):
        known = {n: known[n] if n in known else _values(ordered[n], series) for n in {below, below + (weight > 0)}}
        values = known[below] if weight == 0 else (1 - weight) * known[below] + weight * known[below + 1]
        stack.put(k, values)
    return Volume(stack.array, grid, str(ordered[0].path.parent))


_DTYPES = ("int16", "float32", "float64")


def _layout(geometry: SliceGeometry, gaps: str) -> tuple[Grid, list[tuple[int, float]]]:
    """The grid, and for each of its slices the stored slice below and the weight of the next one."""
    count = geometry.shape[2]
    if gaps == "refuse" or not geometry.faults():
        return geometry.grid(), [(k, 0.0) for k in range(count)]
    if not {code for code, _ in geometry.faults()} <= {"IncompleteSeries", "NonUniformSpacing"} or count < 2:
        return geometry.grid(), []
    offsets = geometry.offsets
    steps = max(round(float(offsets[-1] - offsets[0]) / geometry.typical_gap), 1)
    if steps > 20 * count:
        raise GeometryRefusal("IncompleteSeries", f"{steps + 1} slices cannot be made of {count} ({geometry.series})")
    targets = np.linspace(offsets[0], offsets[-1], steps + 1)
    below = np.clip(np.searchsorted(offsets, targets, side="right") - 1, 0, count - 2)
    weight = (targets - offsets[below]) / (offsets[below + 1] - offsets[below])
    weight[weight < 1e-6] = 0.0
    last = weight > 1 - 1e-6
    below[last], weight[last] = below[last] + 1, 0.0
    return geometry.regular_grid(steps + 1), list(zip(below.tolist(), weight.tolist(), strict=True))


class _Stack:
    """The array under construction; it widens from int16 to float32 when a slice asks for it."""

    def __init__(self, grid: Grid, dtype: "np.dtype[Any]", first: Slice, *, may_widen: bool) -> None:
        self.may_widen = may_widen
        self.first = first
        try:
            self.array: NDArray[Any] = np.empty(grid.shape, dtype, order="F")
        except MemoryError as error:
            raise DicomRefusal("UnsupportedPixels", f"a volume of {grid} does not fit into memory") from error

    def put(self, k: int, values: NDArray[np.float64]) -> None:
        """Store `(J, I)` values as slice `k`."""
        if self.array.dtype == np.int16 and not _fits_int16(values):
            if not self.may_widen:
                raise DicomRefusal(
                    "UnsupportedPixels", f"slice {k} holds values that are no int16; ask for float32 ({self.first.path})"
                )
            self.array = self.array.astype(np.float32, order="F")
        self.array[:, :, k] = values.T


def _fits_int16(values: NDArray[np.float64]) -> bool:
    info = np.iinfo(np.int16)
    return bool(values.min() >= info.min and values.max() <= info.max and np.all(values == np.rint(values)))


def _values(entry: Slice, series: Series) -> NDArray[np.float64]:
    """`(J, I)`, the values of one slice: stored value x slope + intercept."""
    dataset = read_dataset(entry.path)
    with quietly("UnsupportedPixels", entry.path):
        if entry.slope is None and series.modality == "PT":
            raise DicomRefusal("UnsupportedPixels", f"a PET slice without RescaleSlope has no unit ({entry.path})")
        if entry.slope is None and dataset.get("ModalityLUTSequence"):
            raise DicomRefusal("UnsupportedPixels", f"values are given by a lookup table ({entry.path})")
    stored = stored_values(dataset, entry.path)
    if stored.shape != (entry.rows, entry.columns):
        raise DicomRefusal(
            "UnsupportedPixels", f"pixels of shape {stored.shape}, not {(entry.rows, entry.columns)} ({entry.path})"
        )
    slope = 1.0 if entry.slope is None else entry.slope
    values = stored.astype(np.float64) * slope + (entry.intercept or 0.0)
    if not np.all(np.isfinite(values)):
        raise DicomRefusal("UnsupportedPixels", f"values that are not finite ({entry.path})")
    return values


def stored_values(dataset: Any, where: Path) -> NDArray[Any]:
    """The stored pixel values of a data set, before slope and intercept; `(J, I)`, or `(F, J, I)` for frames."""
    with quietly("UndecodablePixels", where):
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise DicomRefusal("TruncatedPixels", f"the file holds no pixel data ({where})")
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        if syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed:
            return _decoded(dataset, where)
        return _native(dataset, syntax, where)


def _native(dataset: Any, syntax: Any, where: Path) -> NDArray[Any]:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if syntax is None:
        # a file without its meta header: pydicom has found the encoding out, and pixels ask for its name
        dataset.ensure_file_meta()
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if "PixelData" in dataset:
        bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("NumberOfFrames") or 1)
        promised = (int(dataset.Rows) * int(dataset.Columns) * bits + 7) // 8
        if len(dataset.PixelData) < promised:
            raise DicomRefusal(
                "TruncatedPixels", f"the file ends early: {len(dataset.PixelData)} of {promised} bytes of pixels ({where})"
            )
    return np.asarray(dataset.pixel_array)


def _decoded(dataset: Any, where: Path) -> NDArray[Any]:
    """Compressed pixels by SimpleITK, from a copy whose slope is 1: what comes back are the stored values."""
    import SimpleITK

    sitk: Any = SimpleITK
    name = str(dataset.file_meta.TransferSyntaxUID.name)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    with tempfile.TemporaryDirectory() as folder, _itk_quiet(sitk):
        copy = Path(folder) / "slice.dcm"
        dataset.save_as(copy, enforce_file_format=True)
        try:
            image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise DicomRefusal("UndecodablePixels", f"SimpleITK cannot decode {name} ({where})") from error
    stored = np.asarray(sitk.GetArrayFromImage(image))
    frames = int(dataset.get("NumberOfFrames") or 1)
    return stored[0] if frames == 1 and stored.ndim == 3 and stored.shape[0] == 1 else stored


@contextmanager
def _itk_quiet(sitk: Any) -> Iterator[None]:
    """ITK writes its warnings to stderr unless told otherwise; the old setting comes back."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def resample_to(
    volume: Volume, grid: Grid, *, fill: float = -1024.0, labels: bool = False
) -> tuple[NDArray[Any], float]:
    """Resample a volume onto another grid by SimpleITK.

    A voxel of the target whose centre lies outside the source gets `fill`. The source reaches to the outer faces
    of its voxels; within the outer half voxel the border value holds.

    Args:
        volume: The source, with an affine.
        grid: The target, with an affine.
        fill: The value outside the source; for CT -1024 HU, air.
        labels: Nearest neighbour and the source's integer type, instead of linear and float32.

    Returns:
        The array, of the target's shape, in Fortran order, and which part of the target's voxels has its centre
        inside the source: 0 to 1.

    Raises:
        GeometryError: If a grid has no affine or sheared axes.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    source = np.asarray(volume.array)
    if source.dtype == bool:
        source = source.view(np.uint8)
    image = sitk.GetImageFromArray(source.T)
    directions, spacing, origin = _itk_frame(volume.grid)
    image.SetDirection(directions.ravel().tolist())
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    directions, spacing, origin = _itk_frame(grid)
    resample = sitk.ResampleImageFilter()
    resample.SetSize(list(grid.shape))
    resample.SetOutputDirection(directions.ravel().tolist())
    resample.SetOutputSpacing(spacing.tolist())
    resample.SetOutputOrigin(origin.tolist())
    resample.SetInterpolator(sitk.sitkNearestNeighbor if labels else sitk.sitkLinear)
    resample.SetOutputPixelType(image.GetPixelID() if labels else sitk.sitkFloat32)
    resample.SetDefaultPixelValue(float(fill))
    out = sitk.GetArrayFromImage(resample.Execute(image)).T
    return out, coverage_fraction(volume.grid, grid)


def _itk_frame(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Direction matrix, spacing and origin of a grid in LPS+."""
    if grid.affine is None:
        raise GeometryError(f"resampling needs an affine; this grid has only a shape, {grid.shape}")
    axes = _TO_RAS @ grid.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    directions = axes / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=DIRECTION):
        raise GeometryError(f"the axes of {grid} are not at right angles; SimpleITK cannot say such a grid")
    return directions, spacing, _TO_RAS @ grid.affine[:3, 3]


def coverage_fraction(source: Grid, target: Grid) -> float:
    """Which part of the target's voxels has its centre inside the source, up to its outer faces."""
    if source.affine is None or target.affine is None:
        raise GeometryError("the coverage of a grid by another needs the affines of both")
    change = np.linalg.inv(source.affine) @ target.affine
    matrix, shift = change[:3, :3], change[:3, 3]
    size = np.asarray(source.shape)
    slack = 1e-6
    lines = [np.arange(n) for n in target.shape]
    if np.all(np.abs(matrix - np.diag(np.diag(matrix))) * np.asarray(target.shape) < 1e-3):
        inside = [
            np.count_nonzero((x >= -0.5 - slack) & (x <= size[a] - 0.5 + slack))
            for a in range(3)
            if (x := matrix[a, a] * lines[a] + shift[a]) is not None
        ]
        return float(np.prod(inside, dtype=np.float64)) / target.size
    plane = matrix[:, 0, None, None] * lines[0][:, None] + matrix[:, 1, None, None] * lines[1]
    count = 0
    for k in lines[2]:
        place = plane + (matrix[:, 2] * k + shift)[:, None, None]
        bounds = size[:, None, None] - 0.5 + slack
        count += int(np.count_nonzero(np.all((place >= -0.5 - slack) & (place <= bounds), axis=0)))
    return count / target.size

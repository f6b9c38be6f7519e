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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clicksim.errors import GeometryError, SettingError
from clicksim.geometry import Grid
from clicksim.volumes import Volume
from converters.choice import Choice, Rule, choose_series
from converters.headers import DicomError, check_promise, quietly, read_dataset
from converters.series import Finding, Scan, Series, Slice, by_study, find_series, scan_files, scan_folder
from converters.slices import DIRECTION, TO_RAS, GeometryRefusal, SliceGeometry, slice_geometry

__all__ = [
    "Choice",
    "DicomError",
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
    "scan_files",
    "scan_folder",
    "slice_geometry",
    "slice_values",
]


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
        DicomError: `UnreadableDicom`, `UndecodablePixels`, `TruncatedPixels`, `UnsupportedPixels`.
        SettingError: On an unknown `gaps` or `dtype`.
    """
    wanted = None if dtype is None else np.dtype(dtype)
    if gaps not in ("refuse", "interpolate") or (wanted is not None and wanted.name not in _DTYPES):
        raise SettingError(f"gaps is {gaps!r} (refuse, interpolate), dtype {dtype!r} ({', '.join(_DTYPES)})")
    geometry = slice_geometry(series)
    by_uid = {s.uid: s for s in series.slices}
    ordered = [by_uid[uid] for uid in geometry.uids]
    grid, weights = _layout(geometry, gaps)
    # a header that promises more than its file holds is refused before the volume takes memory
    known = {0: slice_values(ordered[0], series)}
    exact = wanted is None and series.modality == "CT" and all(w == 0 for _, w in weights)
    stack = _Stack(grid, wanted or np.dtype(np.int16 if exact else np.float32), ordered[0], may_widen=wanted is None)
    for k, (below, weight) in enumerate(weights):
        known = {n: known[n] if n in known else slice_values(ordered[n], series) for n in {below, below + (weight > 0)}}
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
            raise DicomError("UnsupportedPixels", f"a volume of {grid} does not fit into memory") from error

    def put(self, k: int, values: NDArray[Any]) -> None:
        """Store `(J, I)` values as slice `k`."""
        if self.array.dtype == np.int16 and not _fits_int16(values):
            if not self.may_widen:
                raise DicomError(
                    "UnsupportedPixels",
                    f"slice {k} holds values that are no int16; ask for float32 ({self.first.path})",
                )
            self.array = self.array.astype(np.float32, order="F")
        self.array[:, :, k] = values.T


def _fits_int16(values: NDArray[Any]) -> bool:
    info = np.iinfo(np.int16)
    if values.min() < info.min or values.max() > info.max:
        return False
    return values.dtype.kind == "i" or bool(np.all(values == np.rint(values)))


def slice_values(entry: Slice, series: Series) -> NDArray[Any]:
    """`(J, I)`, the values of one slice, stored value x slope + intercept: int64 where exact, else float64."""
    dataset = read_dataset(entry.path)
    with quietly("UnsupportedPixels", entry.path):
        if entry.slope is None and series.modality == "PT":
            raise DicomError("UnsupportedPixels", f"a PET slice without RescaleSlope has no unit ({entry.path})")
        if entry.slope is None and dataset.get("ModalityLUTSequence"):
            raise DicomError("UnsupportedPixels", f"values are given by a lookup table ({entry.path})")
    stored = _stored_values(dataset, entry.path)
    if stored.shape != (entry.rows, entry.columns):
        raise DicomError(
            "UnsupportedPixels", f"pixels of shape {stored.shape}, not {(entry.rows, entry.columns)} ({entry.path})"
        )
    slope = 1.0 if entry.slope is None else entry.slope
    intercept = entry.intercept or 0.0
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 4 and slope == 1 and intercept == int(intercept):
        return stored.astype(np.int64) + int(np.clip(intercept, -(2**40), 2**40))
    values = stored.astype(np.float64) * slope + intercept
    if not np.all(np.isfinite(values)):
        raise DicomError("UnsupportedPixels", f"values that are not finite ({entry.path})")
    return values


def _stored_values(dataset: Any, where: Path) -> NDArray[Any]:
    """The stored pixel values of a data set, before slope and intercept; `(J, I)`, or `(F, J, I)` for frames."""
    with quietly("UndecodablePixels", where):
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise DicomError("TruncatedPixels", f"the file holds no pixel data ({where})")
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        if syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed:
            check_promise(_promised_bytes(dataset), len(dataset.PixelData), where)
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
        promised, held = _promised_bytes(dataset), len(dataset.PixelData)
        if held < promised:
            raise DicomError("TruncatedPixels", f"the file ends early: {held} of {promised} bytes of pixels ({where})")
    return np.asarray(dataset.pixel_array)


def _promised_bytes(dataset: Any) -> int:
    samples = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("NumberOfFrames") or 1)
    return (int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) + 7) // 8


def _decoded(dataset: Any, where: Path) -> NDArray[Any]:
    """Compressed pixels by SimpleITK, from a copy whose slope is 1: what comes back are the stored values.

    Their items are packed anew: where one is torn, SimpleITK asks for all the memory there is.
    """
    import SimpleITK
    from pydicom.encaps import encapsulate, generate_frames

    sitk: Any = SimpleITK
    count = int(dataset.get("NumberOfFrames") or 1)
    dataset.PixelData = encapsulate(list(generate_frames(dataset.PixelData, number_of_frames=count)), has_bot=False)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    name = str(dataset.file_meta.TransferSyntaxUID.name)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    with tempfile.TemporaryDirectory() as folder, _itk_quiet(sitk):
        copy = Path(folder) / "slice.dcm"
        dataset.save_as(copy, enforce_file_format=True)
        try:
            image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise DicomError("UndecodablePixels", f"SimpleITK cannot decode {name} ({where})") from error
    stored = np.asarray(sitk.GetArrayFromImage(image))
    return stored[0] if count == 1 and stored.ndim == 3 and stored.shape[0] == 1 else stored


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
    axes = TO_RAS @ grid.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    directions = axes / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=DIRECTION):
        raise GeometryError(f"the axes of {grid} are not at right angles; SimpleITK cannot say such a grid")
    return directions, spacing, TO_RAS @ grid.affine[:3, 3]


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

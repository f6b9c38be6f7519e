"""Read DICOM image series as exact volumes.

    read_volume     a series as one array with its grid, or a refusal that names the rule
    slice_values    the values of one slice

Arrays are `(i, j, k)`: `i` runs along an image row (the column index), `j` down the columns, `k` along the normal
row x column, ascending. This is DICOM's own order, so no voxel is flipped. With the usual axial orientation, `k` runs
to the head and the axes are L, P, S. The order is right-handed, and the same as in SimpleITK's series reader.

pydicom reads uncompressed pixels. SimpleITK reads compressed ones, because it decodes every transfer syntax without
plug-ins. In both cases slope and intercept are applied here, slice by slice, in double precision: SimpleITK's own
scaling gives different types for different files and skips some modalities.

Sources of the rules: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.8.9 (PET).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid
from clicksim.volumes import Volume
from converters.dicom.headers import DicomError, check_promise, quietly, read_dataset
from converters.dicom.series import Series, Slice
from converters.dicom.slices import SliceGeometry, slice_geometry


def read_volume(series: Series, *, double: bool = False, gaps: str = "refuse") -> Volume:
    """Read a series as one volume; slope and intercept of each slice are applied before stacking.

    Slices are read one by one into one array, so no second array of that size is needed. A CT is int16 if every value
    is an exact int16, else float32; all other modalities are float32. Values are computed in double precision and
    rounded once.

    Args:
        series: A stack of single-frame slices.
        double: Return float64 instead.
        gaps: As for `SliceGeometry.grid`; `interpolate` is linear between the slices.

    Returns:
        The array, `(I, J, K)` in Fortran order, and its grid with the affine to RAS+. `path` is the folder.

    Raises:
        GeometryRefusal: As `slice_geometry` and `SliceGeometry.grid`.
        DicomError: `UnreadableDicom`, `UndecodablePixels`, `TruncatedPixels`, `UnsupportedPixels`.
        SettingError: If `gaps` is unknown.
    """
    geometry = slice_geometry(series)
    by_uid = {s.uid: s for s in series.slices}
    ordered = [by_uid[uid] for uid in geometry.uids]
    grid = geometry.grid(gaps=gaps)
    weights = _weights(geometry, grid.shape[2])
    # compare the header with the size of its file before memory is allocated
    known = {0: slice_values(ordered[0], series)}
    whole = series.modality == "CT" and not double and all(weight == 0 for _, weight in weights)
    kind = np.float64 if double else np.int16 if whole else np.float32
    stack = _Stack(grid, np.dtype(kind), ordered[0].path)
    for k, (below, weight) in enumerate(weights):
        known = {n: known[n] if n in known else slice_values(ordered[n], series) for n in {below, below + (weight > 0)}}
        values = known[below] if weight == 0 else (1 - weight) * known[below] + weight * known[below + 1]
        stack.put(k, values)
    return Volume(stack.array, grid, str(ordered[0].path.parent))


def _weights(geometry: SliceGeometry, count: int) -> list[tuple[int, float]]:
    """For each of `count` slices of the grid, the stored slice below it and the weight of the next one."""
    if not geometry.faults():
        return [(k, 0.0) for k in range(count)]
    offsets = geometry.offsets
    targets = np.linspace(offsets[0], offsets[-1], count)
    below = np.clip(np.searchsorted(offsets, targets, side="right") - 1, 0, offsets.size - 2)
    # rounded, so that an existing slice keeps its exact values
    weight = np.round((targets - offsets[below]) / (offsets[below + 1] - offsets[below]), 6)
    return list(zip(below.tolist(), weight.tolist(), strict=True))


class _Stack:
    """The array being filled; it is converted from int16 to float32 when a slice needs it."""

    def __init__(self, grid: Grid, dtype: "np.dtype[Any]", first: Path) -> None:
        self.first = first
        try:
            self.array: NDArray[Any] = np.empty(grid.shape, dtype, order="F")
        except MemoryError as error:
            raise DicomError("UnsupportedPixels", f"a volume of {grid} does not fit into memory ({first})") from error

    def put(self, k: int, values: NDArray[Any]) -> None:
        """Store `(J, I)` values as slice `k`."""
        if self.array.dtype == np.int16 and not _fits_int16(values):
            self.array = self.array.astype(np.float32, order="F")
        if self.array.dtype == np.float32 and np.abs(values).max() > np.finfo(np.float32).max:
            raise DicomError("UnsupportedPixels", f"slice {k} holds values beyond 3.4e38 ({self.first})")
        self.array[:, :, k] = values.T


def _fits_int16(values: NDArray[Any]) -> bool:
    info = np.iinfo(np.int16)
    if values.min() < info.min or values.max() > info.max:
        return False
    return values.dtype.kind == "i" or bool(np.all(values == np.rint(values)))


def slice_values(entry: Slice, series: Series) -> NDArray[Any]:
    """`(J, I)`, the values of one slice, stored value x slope + intercept: int64 if exact, else float64."""
    dataset = read_dataset(entry.path)
    with quietly("UnsupportedPixels", entry.path):
        if entry.slope is None and series.modality == "PT":
            raise DicomError("UnsupportedPixels", f"a PET slice without RescaleSlope has no unit ({entry.path})")
        if entry.slope is None and dataset.get("ModalityLUTSequence"):
            raise DicomError("UnsupportedPixels", f"values in a lookup table are not supported ({entry.path})")
    stored = _stored_values(dataset, entry.path)
    if stored.shape != (entry.rows, entry.columns):
        raise DicomError(
            "UnsupportedPixels",
            f"pixels of shape {stored.shape}, but Rows and Columns are {(entry.rows, entry.columns)} ({entry.path})",
        )
    slope = 1.0 if entry.slope is None else entry.slope
    intercept = entry.intercept or 0.0
    exact = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 4 and slope == 1
    if exact and abs(intercept) < 2**40 and intercept == int(intercept):
        return stored.astype(np.int64) + int(intercept)
    values = stored.astype(np.float64) * slope + intercept
    if not np.all(np.isfinite(values)):
        raise DicomError("UnsupportedPixels", f"the slice has values that are not finite ({entry.path})")
    return values


def _stored_values(dataset: Any, where: Path) -> NDArray[Any]:
    """The stored pixel values, before slope and intercept; `(J, I)`, or `(F, J, I)` for frames."""
    with quietly("UndecodablePixels", where):
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise DicomError("TruncatedPixels", f"the file holds no pixel data ({where})")
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        if syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed:
            check_promise(_promised_bytes(dataset), len(dataset.PixelData), where)
            return _decoded(dataset, where)
        return _native(dataset, syntax, where)


def _native(dataset: Any, syntax: Any, where: Path) -> NDArray[Any]:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if syntax is None:
        # the file has no meta header: pydicom guessed the encoding, but its pixel code needs the name
        dataset.ensure_file_meta()
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if "PixelData" in dataset:
        promised, held = _promised_bytes(dataset), len(dataset.PixelData)
        if held < promised:
            raise DicomError("TruncatedPixels", f"the file ends early: {held} of {promised} bytes of pixels ({where})")
    return np.asarray(dataset.pixel_array)


def _promised_bytes(dataset: Any) -> int:
    samples = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("NumberOfFrames") or 1)
    return (int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) + 7) // 8


def _decoded(dataset: Any, where: Path) -> NDArray[Any]:
    """Decode compressed pixels with SimpleITK, from a copy with slope 1, so that the result is the stored values.

    The fragments are repacked: SimpleITK tries to allocate all memory if one of them is damaged.
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
    """Suppress ITK's warnings on stderr; restore the old setting at the end."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)

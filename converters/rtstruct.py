"""DICOM RTSTRUCT to labels on a grid.

    read_rtstruct    the closed planar contours of each structure, filled slice by slice

A voxel is inside when its centre is. Contours of one structure in one slice are combined by exclusive or, so that
an inner contour is a hole, and so is what a keyhole goes around. The fill counts the edges that cross each column
of voxels; Pillow and others fill to the outer pixels of a polygon, which is half a voxel too much on every side.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid
from converters.headers import quietly, read_dataset, word, words
from converters.segmentation import Canvas, Segmentation, SegmentationError

OFF_PLANE = 0.1
"""Of the slice spacing: how far a point of a contour may lie from the contour's plane."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def read_rtstruct(
    source: Any, grid: Grid, *, names: Sequence[str] | None = None, frame_of_reference: str = ""
) -> Segmentation:
    """Fill the contours of an RTSTRUCT on a grid.

    A contour belongs to the slice nearest to it, within half the spacing; the parts of contours outside the grid
    are cut off, with a warning. Nothing is filled in between contours: slices without one stay empty. Points and
    open contours are left out, with a warning. Of overlapping structures the lowest number stands in `labels`, and
    `Segmentation.segment` gives each whole. A centre on an edge belongs to the side of lower `i` and `j`.

    Args:
        source: A path, or a `pydicom.Dataset`.
        grid: The grid, with an affine; `k` is the axis across the contours.
        names: The structures to read, by their exact name; all by default.
        frame_of_reference: Where given, contours of another frame of reference are refused.

    Raises:
        SegmentationError: `NotASegmentation`; `RtNoSuchStructure`; `RtFrameOfReference`; `RtOblique`, contours
            that are not parallel to the slices; `RtInconsistent`.
        DicomError: `UnreadableDicom`.
    """
    dataset = read_dataset(source) if isinstance(source, str | Path) else source
    where = str(source) if isinstance(source, str | Path) else "RTSTRUCT"
    with quietly("RtInconsistent", where):
        structures = _structures(dataset, names, frame_of_reference, where)
        canvas = Canvas(np.zeros(grid.shape, np.uint16, order="F"))
        count = 0
        for item in dataset.get("ROIContourSequence") or ():
            number = int(item.ReferencedROINumber)
            if number in structures:
                count += _draw(item, number, grid, canvas, where)
        return canvas.finish(structures, "RTSTRUCT", count)


def _structures(dataset: Any, names: Sequence[str] | None, frame: str, where: str) -> dict[int, str]:
    """Number and name of the structures that are wanted."""
    if word(dataset, "Modality") != "RTSTRUCT" or "StructureSetROISequence" not in dataset:
        raise SegmentationError("NotASegmentation", f"modality {word(dataset, 'Modality')!r}, no structures ({where})")
    found = {}
    for item in dataset.StructureSetROISequence:
        number, name = int(item.ROINumber), word(item, "ROIName")
        if names is not None and name not in names:
            continue
        if not 0 < number < 1 << 16:
            raise SegmentationError("RtInconsistent", f"structure {name!r} has the number {number} ({where})")
        own = word(item, "ReferencedFrameOfReferenceUID")
        if frame and own and own != frame:
            raise SegmentationError("RtFrameOfReference", f"structure {name!r} lies in {own}, not {frame} ({where})")
        found[number] = name
    if names is not None and (missing := set(names) - set(found.values())):
        raise SegmentationError("RtNoSuchStructure", f"no structure is named {sorted(missing)} ({where})")
    return found


def _draw(item: Any, number: int, grid: Grid, canvas: Canvas, where: str) -> int:
    """Fill the contours of one structure; how many there were."""
    slices: defaultdict[int, list[NDArray[np.float64]]] = defaultdict(list)
    count = 0
    for contour in item.get("ContourSequence") or ():
        kind = word(contour, "ContourGeometricType")
        if kind not in _CLOSED:
            canvas.warn("RtNotClosed", f"contours of type {kind!r} enclose nothing and were left out")
            continue
        points = grid.to_voxel(_points(contour, where) * (-1, -1, 1))
        if np.ptp(points[:, 2]) > 2 * OFF_PLANE:
            raise SegmentationError("RtOblique", f"a contour is not parallel to the slices ({where})")
        depth = float(points[:, 2].mean())
        k = round(depth)
        if not 0 <= k < grid.shape[2]:
            canvas.warn("RtOutsideGrid", f"a contour lies {depth:.2f} slices along the grid, outside of it")
            continue
        if abs(depth - k) > OFF_PLANE:
            canvas.warn("RtBetweenSlices", f"a contour lies {abs(depth - k):.2f} slices from the nearest slice")
        slices[k].append(points[:, :2])
        count += 1
    for k, polygons in slices.items():
        canvas.draw(k, number, fill_polygons(polygons, grid.shape[:2]))
        outer = np.concatenate(polygons)
        if outer.min() < -0.5 or np.any(outer.max(axis=0) > np.array(grid.shape[:2]) - 0.5):
            canvas.warn("RtOutsideGrid", "contours reach out of the grid and were cut off")
    if slices and len(slices) < max(slices) - min(slices) + 1:
        canvas.warn("RtSkipsSlices", f"structure {number} has slices without a contour between its first and last")
    return count


def _points(contour: Any, where: str) -> NDArray[np.float64]:
    """`(n, 3)`, the points of a contour in LPS+ mm."""
    values = np.array([float(v) for v in words(contour, "ContourData")])
    if values.size < 9 or values.size % 3 or not np.all(np.isfinite(values)) or np.abs(values).max() > 1e6:
        raise SegmentationError("RtInconsistent", f"a closed contour of {values.size} coordinates ({where})")
    return values.reshape(-1, 3)


def fill_polygons(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """`(I, J)`, which voxel centres lie inside an odd number of closed polygons of `(n, 2)` voxel coordinates.

    An edge toggles, in each row `j` that it crosses, every voxel from its crossing on; edges are half open in `j`,
    so that a corner counts once, and horizontal edges count nothing.
    """
    toggles = np.zeros((shape[0] + 1, shape[1]), np.bool_)
    for polygon in polygons:
        for (i0, j0), (i1, j1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if j0 > j1:
                i0, j0, i1, j1 = i1, j1, i0, j0
            rows = np.arange(max(int(np.ceil(min(j0, shape[1]))), 0), min(int(np.ceil(max(j1, 0))), shape[1]))
            if rows.size:
                crossing = i0 + (rows - j0) * ((i1 - i0) / (j1 - j0))
                first = np.clip(np.ceil(crossing), 0, shape[0]).astype(np.int64)
                toggles[first, rows] ^= True
    return np.logical_xor.accumulate(toggles, axis=0)[: shape[0]]

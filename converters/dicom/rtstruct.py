"""Convert DICOM RTSTRUCT to labels on a grid.

    read_rtstruct    the closed planar contours of each structure, filled slice by slice

A voxel is inside if its centre is. Contours of one structure in one plane are combined by exclusive or, so an inner
contour is a hole, and so is the area that a keyhole contour encloses. The fill counts the edges that cross each
column of voxels. Pillow and others fill to the outer pixels of a polygon: half a voxel too much on every side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid
from converters.dicom.headers import quietly, read_dataset, word, words
from converters.dicom.segmentation import LabelCanvas, Segmentation, SegmentationError

OFF_PLANE = 0.1
"""Fraction of the slice spacing: how far a point of a contour may be from the plane of the contour."""

SAME_PLANE = 0.05
"""Fraction of the slice spacing: contours closer than this are in one plane, so that a tilted hole stays a hole."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def read_rtstruct(source: Any, grid: Grid, *, frame_of_reference: str = "", structures: str = "") -> Segmentation:
    """Fill the contours of an RTSTRUCT on a grid.

    A contour belongs to the nearest slice, within half the spacing. If several planes of contours are nearest to one
    slice, as in an RTSTRUCT drawn on thinner slices, the slice gets their union. Parts of contours outside the grid
    are cut off, with a warning. Nothing is interpolated between contours: slices without a contour stay empty. Points
    and open contours are left out, with a warning. Where structures overlap, the lowest number wins. A voxel centre
    on an edge belongs to the side of lower `i` and `j`.

    Args:
        source: A path, or a `pydicom.Dataset`.
        grid: The grid, with an affine; `k` is the axis across the contours.
        frame_of_reference: If given, contours in another frame of reference are refused.
        structures: A regular expression; structures whose names do not match are left out, with a warning.

    Raises:
        SegmentationError: `NotASegmentation`; `RtFrameOfReference`; `RtOblique` if contours are not parallel to the
            slices; `RtInconsistent`; `NoSuchStructure`.
        DicomError: `UnreadableDicom`.
    """
    dataset = read_dataset(source) if isinstance(source, str | Path) else source
    where = str(source) if isinstance(source, str | Path) else "RTSTRUCT"
    with quietly("RtInconsistent", where):
        known = _structures(dataset, frame_of_reference, where)
        canvas = LabelCanvas(np.zeros(grid.shape, np.uint16, order="F"))
        chosen = canvas.choose(known, structures, where)
        count = 0
        for item in dataset.get("ROIContourSequence") or ():
            number = int(item.ReferencedROINumber)
            if number not in known and item.get("ContourSequence"):
                raise SegmentationError(
                    "RtInconsistent",
                    f"there are contours of structure {number}, which is not in the list of structures ({where})",
                )
            if number in chosen:
                count += _draw(item, number, grid, canvas, where)
        return canvas.finish(chosen, "RTSTRUCT", count)


def _structures(dataset: Any, frame: str, where: str) -> dict[int, str]:
    """Names of the structures, by number."""
    if word(dataset, "Modality") != "RTSTRUCT" or "StructureSetROISequence" not in dataset:
        raise SegmentationError(
            "NotASegmentation",
            "an RTSTRUCT with a StructureSetROISequence is needed; "
            f"Modality is {word(dataset, 'Modality')!r} ({where})",
        )
    found: dict[int, str] = {}
    for item in dataset.StructureSetROISequence:
        number, name = int(item.ROINumber), word(item, "ROIName")
        if not 0 < number < 1 << 16 or number in found:
            raise SegmentationError(
                "RtInconsistent",
                f"structure {name!r} has the number {number}; each needs its own number, 1 to 65535 ({where})",
            )
        own = word(item, "ReferencedFrameOfReferenceUID")
        if frame and own and own != frame:
            raise SegmentationError(
                "RtFrameOfReference",
                f"structure {name!r} lies in the frame of reference {own}, the images in {frame} ({where})",
            )
        found[number] = name
    return found


def _draw(item: Any, number: int, grid: Grid, canvas: LabelCanvas, where: str) -> int:
    """Fill the contours of one structure; return how many were filled."""
    contours: list[tuple[float, NDArray[np.float64]]] = []
    for contour in item.get("ContourSequence") or ():
        kind = word(contour, "ContourGeometricType")
        if kind not in _CLOSED:
            canvas.warn("RtNotClosed", f"contours of type {kind!r} enclose nothing and were left out")
            continue
        points = grid.to_voxel(_points(contour, where) * (-1, -1, 1))
        if np.ptp(points[:, 2]) > 2 * OFF_PLANE:
            raise SegmentationError(
                "RtOblique",
                f"a contour is not parallel to the slices: its points lie {np.ptp(points[:, 2]):.2f} slices apart, at "
                f"most {2 * OFF_PLANE:g} are allowed ({where})",
            )
        depth = float(points[:, 2].mean())
        k = round(depth)
        if not 0 <= k < grid.shape[2]:
            canvas.warn("RtOutsideGrid", f"a contour lies at slice {depth:.2f}, the grid has 0 to {grid.shape[2] - 1}")
            continue
        if abs(depth - k) > OFF_PLANE:
            canvas.warn("RtBetweenSlices", f"a contour lies {abs(depth - k):.2f} slices from the nearest slice")
        contours.append((depth, points[:, :2]))
    slices = set()
    for depth, polygons in _planes(contours):
        slices.add(round(depth))
        canvas.draw(round(depth), number, fill_polygons(polygons, grid.shape[:2]))
        outer = np.concatenate(polygons)
        if outer.min() < -0.5 or np.any(outer.max(axis=0) > np.array(grid.shape[:2]) - 0.5):
            canvas.warn("RtOutsideGrid", "contours reach out of the grid and were cut off")
    if slices and len(slices) < max(slices) - min(slices) + 1:
        canvas.warn("RtSkipsSlices", f"structure {number} has slices without a contour between its first and last")
    return len(contours)


def _planes(
    contours: list[tuple[float, NDArray[np.float64]]],
) -> list[tuple[float, list[NDArray[np.float64]]]]:
    """The contours of each plane, by the depth of its first contour."""
    planes: list[tuple[float, list[NDArray[np.float64]]]] = []
    last = -np.inf
    for depth, polygon in sorted(contours, key=lambda contour: contour[0]):
        if depth - last > SAME_PLANE:
            planes.append((depth, []))
        planes[-1][1].append(polygon)
        last = depth
    return planes


def _points(contour: Any, where: str) -> NDArray[np.float64]:
    """`(n, 3)`, the points of a contour in LPS+ mm."""
    values = np.array([float(v) for v in words(contour, "ContourData")])
    if values.size < 9 or values.size % 3 or not np.all(np.isfinite(values)) or np.abs(values).max() > 1e6:
        raise SegmentationError(
            "RtInconsistent",
            f"ContourData has {values.size} values; a closed contour needs three or more points of three finite "
            f"coordinates within a kilometre ({where})",
        )
    return values.reshape(-1, 3)


def fill_polygons(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """`(I, J)`, True where a voxel centre is inside an odd number of closed polygons of `(n, 2)` voxel coordinates.

    In each row `j` that an edge crosses, it toggles every voxel from the crossing on. Edges are half open in `j`, so
    that a corner counts once; horizontal edges do not count.
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

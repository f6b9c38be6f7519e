"""Convert DICOM SEG to labels on the grid of its source images.

    read_seg        BINARY, FRACTIONAL and LABELMAP objects, on the slices of a series
    Segmentation    labels, names, warnings

Frames are placed here rather than by highdicom, for three reasons. highdicom refuses objects that do not say whether
spatial locations are preserved; dcmqi writes such objects, and they make up the largest collection. It does not
compare the position of a frame with that of the slice that it references. It cannot place frames on slices with
uneven gaps. Tests compare the two for every object that highdicom reads. SimpleITK stacks the frames of a SEG
regardless of their positions, so it cannot be used.

Source of the rules: DICOM PS3.3 C.8.20 (segmentation).

Stored pixels are read frame by frame. highdicom decodes compressed frames, Pillow single bits in JPEG 2000. The bits
of single-bit pixels run on from frame to frame (DICOM PS3.5 8.1.1).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import up_to_ten
from converters.dicom.headers import DicomError, check_promise, numbers, quietly, read_dataset, word
from converters.dicom.series import normal_of
from converters.dicom.slices import DIRECTION, GeometryRefusal, SliceGeometry, orthonormal

JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


def read_frames(dataset: Any, count: int, where: str) -> Iterator[NDArray[Any]]:
    """Yield the `(rows, columns)` stored values of each of `count` frames.

    Raises:
        DicomError: `SegInconsistent`, `TruncatedPixels`, `UndecodablePixels`.
    """
    if "PixelData" not in dataset:
        raise DicomError("TruncatedPixels", f"the file holds no pixel data ({where})")
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    if bits not in (1, 8, 16) or rows < 1 or columns < 1 or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise DicomError(
            "SegInconsistent",
            f"{columns} x {rows} pixels of {bits} bits; allowed: pixels of one value of 1, 8 or 16 bits ({where})",
        )
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        yield from _compressed(dataset, syntax, count, where)
        return
    if syntax is not None and syntax.is_transfer_syntax and not syntax.is_little_endian:
        raise DicomError("UndecodablePixels", f"a SEG in {syntax.name}, which is retired ({where})")
    data = np.frombuffer(dataset.PixelData, np.uint8)
    size = rows * columns
    if data.size * 8 < count * size * bits:
        raise DicomError(
            "TruncatedPixels", f"the file ends early: {data.size} of {(count * size * bits + 7) // 8} bytes ({where})"
        )
    for n in range(count):
        yield _cut(data, n * size, size, bits).reshape(rows, columns)


def _cut(data: NDArray[np.uint8], start: int, size: int, bits: int) -> NDArray[Any]:
    """`size` values from value `start` on; a frame of bits need not begin at a byte."""
    if bits == 1:
        first, last = start // 8, (start + size + 7) // 8
        return np.unpackbits(data[first:last], bitorder="little")[start % 8 : start % 8 + size]
    width = bits // 8
    return data[start * width : (start + size) * width].view(f"<u{width}")


def _compressed(dataset: Any, syntax: Any, count: int, where: str) -> Iterator[NDArray[Any]]:
    from highdicom.frame import decode_frame
    from pydicom.encaps import generate_frames

    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
    check_promise(bits // 8, len(dataset.PixelData), where)
    with quietly("UndecodablePixels", f"{syntax.name}, {where}"):
        for index, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=count)):
            if index >= count:
                return
            if int(dataset.BitsAllocated) == 1 and syntax in JPEG2000:
                yield _one_bit(frame)
                continue
            yield decode_frame(
                frame,
                transfer_syntax_uid=syntax,
                rows=int(dataset.Rows),
                columns=int(dataset.Columns),
                samples_per_pixel=1,
                bits_allocated=int(dataset.BitsAllocated),
                bits_stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
                photometric_interpretation=word(dataset, "PhotometricInterpretation"),
                pixel_representation=0,
                index=index,
            )


def _one_bit(frame: bytes) -> NDArray[Any]:
    """Decode a frame of single bits in JPEG 2000 with Pillow; highdicom needs another plug-in for these."""
    from PIL import Image

    return np.asarray(Image.open(BytesIO(frame))) > 0


POSITION_MM = 1e-3
"""mm; a frame is on the slice that it references if their positions along the normal differ by no more than this."""

NEAR = 0.1
"""Fraction of the slice spacing (or pixel size): largest offset of a frame that is placed by position alone."""


class SegmentationError(DicomError):
    """A SEG or RTSTRUCT that cannot be placed or read; `code` names the rule."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments on a grid.

    Attributes:
        labels: `(I, J, K)` uint16 in Fortran order: 0, or the number of the segment. Where segments overlap, the
            lowest number wins.
        names: Label of each segment by number, including empty segments.
        kind: `BINARY`, `FRACTIONAL`, `LABELMAP` or `RTSTRUCT`.
        frames: How many frames (or contours) were placed.
        warnings: Pairs of a code and a sentence.
    """

    labels: NDArray[np.uint16]
    names: dict[int, str]
    kind: str
    frames: int
    warnings: tuple[tuple[str, str], ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """`(I, J, K)`, the union of all segments."""
        return self.labels > 0


@dataclass
class LabelCanvas:
    """Labels being filled; segments may come in any order."""

    labels: NDArray[np.uint16]
    warnings: dict[str, str] = field(default_factory=dict)

    def draw(self, k: int, number: int, mask: NDArray[np.bool_]) -> None:
        """Add `(I, J)` voxels of a segment to slice `k`; where two segments overlap, the lower number wins."""
        plane = self.labels[:, :, k]
        if np.any(mask & (plane > 0) & (plane != number)):
            self.warn("SegmentsOverlap", "voxels belong to several segments; the lowest number is used")
        plane[mask & ((plane == 0) | (plane > number))] = number

    def warn(self, code: str, text: str) -> None:
        """Record a warning; only the first sentence of each code is kept."""
        self.warnings.setdefault(code, text)

    def choose(self, names: dict[int, str], pattern: str, where: str) -> dict[int, str]:
        """The structures whose names match a regular expression, ignoring case; all if the pattern is empty.

        Raises:
            SegmentationError: `NoSuchStructure`.
        """
        chosen = {n: name for n, name in names.items() if re.search(pattern, name, re.IGNORECASE)}
        if names and not chosen:
            found = up_to_ten(map(repr, names.values()))
            raise SegmentationError("NoSuchStructure", f"no structure matches {pattern!r}; there are {found} ({where})")
        if left_out := [name for n, name in names.items() if n not in chosen]:
            taken = up_to_ten(map(repr, chosen.values()))
            self.warn("StructuresChosen", f"structures {taken} used, {up_to_ten(map(repr, left_out))} left out")
        return chosen

    def finish(self, names: dict[int, str], kind: str, frames: int) -> Segmentation:
        """Return the finished segmentation."""
        return Segmentation(self.labels, names, kind, frames, tuple(self.warnings.items()))


def read_seg(source: Any, geometry: SliceGeometry, *, structures: str = "") -> Segmentation:
    """Read a DICOM SEG onto the slices of the series that it was drawn on.

    The result has the shape of the series and is zero where the SEG has no frame. A frame belongs to the slice whose
    SOPInstanceUID it references, if the positions along the normal agree within 0.001 mm. If they do not agree, or
    the frame references nothing, it goes to the nearest slice within a tenth of the spacing, with a warning. A
    reference to a slice that the series lacks is refused. Rows and columns may be reversed or swapped; a SEG at
    another angle is refused. Smaller frames are placed by their position.

    BINARY: 1 is inside. FRACTIONAL: half of MaximumFractionalValue or more is inside, with a warning. LABELMAP:
    the stored value is the segment; 0, PixelPaddingValue and segments named background are outside.

    Args:
        source: A path, or a `pydicom.Dataset`.
        geometry: The slices, from `converters.dicom.slices.slice_geometry(series)`; gaps may be uneven.
        structures: A regular expression; segments whose labels do not match are left out, with a warning.

    Raises:
        SegmentationError: `NotASegmentation`, `SegReferencesMissingSlice`, `SegPositionMismatch`,
            `SegOrientationMismatch`, `SegGridMismatch`, `SegInconsistent`, `NoSuchStructure`.
        DicomError: `UnreadableDicom`, `TruncatedPixels`, `UndecodablePixels`.
    """
    dataset = read_dataset(source) if isinstance(source, str | Path) else source
    where = str(source) if isinstance(source, str | Path) else "SEG"
    with quietly("SegInconsistent", where):
        return _Reader(dataset, geometry, where, structures).read()


class _Reader:
    """Reads one SEG object onto one stack of slices."""

    def __init__(self, dataset: Any, geometry: SliceGeometry, where: str, structures: str) -> None:
        self.dataset = dataset
        self.geometry = geometry
        self.where = where
        self.slice_of = {uid: k for k, uid in enumerate(geometry.uids)}
        self.canvas = LabelCanvas(np.zeros(geometry.shape, np.uint16, order="F"))
        if word(dataset, "Modality") != "SEG" or "SegmentSequence" not in dataset:
            raise self.refusal(
                "NotASegmentation", f"a SEG with a SegmentSequence is needed; Modality is {word(dataset, 'Modality')!r}"
            )
        self.kind = word(dataset, "SegmentationType") or "BINARY"
        if self.kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
            raise self.refusal(
                "SegInconsistent", f"SegmentationType is {self.kind!r}; BINARY, FRACTIONAL and LABELMAP are read"
            )
        self.names = {int(s.SegmentNumber): word(s, "SegmentLabel") for s in dataset.SegmentSequence}
        numbered = {n: name for n, name in self.names.items() if n > 0 and not self.is_background(n)}
        self.chosen = self.canvas.choose(numbered, structures, where)
        self.shared: Any = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), {})
        mine, theirs = word(dataset, "FrameOfReferenceUID"), geometry.frame_of_reference
        if mine and theirs and mine != theirs:
            self.canvas.warn("SegFrameOfReference", "the SEG has another frame of reference than the images")

    def refusal(self, code: str, text: str) -> SegmentationError:
        """A refusal that names the file."""
        return SegmentationError(code, f"{text} ({self.where})")

    def read(self) -> Segmentation:
        groups = list(self.dataset.get("PerFrameFunctionalGroupsSequence") or ())
        frames = int(self.dataset.get("NumberOfFrames") or 1)
        if len(groups) < frames:
            raise self.refusal(
                "SegInconsistent",
                f"NumberOfFrames is {frames}, but PerFrameFunctionalGroupsSequence describes only {len(groups)}",
            )
        if len(groups) > frames:
            self.canvas.warn("SegFewerFrames", f"{len(groups)} frames are described, but there are {frames}")
        placed = 0
        for group, stored in zip(groups, read_frames(self.dataset, frames, self.where), strict=False):
            self.place(group, stored)
            placed += 1
        if placed < frames:
            raise DicomError("TruncatedPixels", f"{placed} of {frames} frames have pixels ({self.where})")
        return self.canvas.finish(self.chosen, self.kind, frames)

    def place(self, group: Any, stored: NDArray[Any]) -> None:
        position = numbers(self.item(group, "PlanePositionSequence"), "ImagePositionPatient", 3)
        if position is None:
            raise self.refusal("SegInconsistent", "a frame has no ImagePositionPatient")
        layout = self.layout(group, np.asarray(position), stored.shape)
        k = self.slice_index(group, np.asarray(position))
        oriented = layout.turn(stored)
        window = (slice(layout.i, layout.i + oriented.shape[0]), slice(layout.j, layout.j + oriented.shape[1]))
        for number, mask in self.segments(group, oriented):
            if number not in self.chosen:
                continue
            whole = mask
            if mask.shape != self.geometry.shape[:2]:
                whole = np.zeros(self.geometry.shape[:2], np.bool_)
                whole[window] = mask
            self.canvas.draw(k, number, whole)

    def item(self, group: Any, keyword: str) -> Any:
        """The first item of a functional group of the frame, else of the shared group."""
        return next(iter(group.get(keyword) or self.shared.get(keyword) or ()), {})

    def segments(self, group: Any, values: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The segments of a frame with their masks."""
        if self.kind == "LABELMAP":
            padding = self.dataset.get("PixelPaddingValue")
            for value in np.unique(values).tolist():
                if value == 0 or (padding is not None and value == int(padding)) or self.is_background(value):
                    continue
                yield self.known(value), values == value
            return
        number = self.item(group, "SegmentIdentificationSequence").get("ReferencedSegmentNumber")
        number = self.known(0 if number is None else int(number))
        if self.kind == "BINARY":
            yield number, values != 0
            return
        most = int(self.dataset.get("MaximumFractionalValue") or 0)
        if most <= 0:
            raise self.refusal("SegInconsistent", f"MaximumFractionalValue is {most}; it must be above 0")
        self.canvas.warn("SegFractional", f"a fraction of one half ({most / 2:g} of {most}) and more counts as inside")
        yield number, values.astype(np.float64) * 2 >= most

    def known(self, number: int) -> int:
        if number not in self.names or not 0 < number < 1 << 16:
            known = up_to_ten(sorted(self.names))
            raise self.refusal("SegInconsistent", f"segment {number} is not among the segments {known}")
        return number

    def is_background(self, number: int) -> bool:
        return self.kind == "LABELMAP" and self.names.get(number, "").strip().lower() == "background"

    def slice_index(self, group: Any, position: NDArray[np.float64]) -> int:
        """The slice that a frame belongs to: by reference, checked by position; else by position."""
        offset = float(position @ self.geometry.normal)
        away = np.abs(self.geometry.offsets - offset)
        if uids := self.referenced(group):
            known = [self.slice_of[uid] for uid in uids if uid in self.slice_of]
            if not known:
                raise self.refusal(
                    "SegReferencesMissingSlice",
                    f"a frame at {offset:.3f} mm references {uids[0]}, which is not in {self.geometry.series}",
                )
            k = min(known, key=lambda n: away[n])
            if away[k] <= POSITION_MM:
                return k
            self.canvas.warn(
                "SegPositionDiffers",
                f"a frame lies {away[k]:.4f} mm from the slice that it references; its position decides",
            )
        else:
            self.canvas.warn("SegPlacedByPosition", "frames do not reference a slice; their position decides")
        return self.nearest(away, offset)

    def nearest(self, away: NDArray[np.float64], offset: float) -> int:
        k = int(away.argmin())
        gaps = self.geometry.gaps
        room = NEAR * float(gaps[gaps > 0].min()) if np.any(gaps > 0) else POSITION_MM
        if away[k] > max(room, POSITION_MM):
            raise self.refusal(
                "SegPositionMismatch", f"a frame at {offset:.3f} mm lies {away[k]:.3f} mm from the nearest slice"
            )
        return k

    def referenced(self, group: Any) -> list[str]:
        derivations = group.get("DerivationImageSequence") or self.shared.get("DerivationImageSequence") or ()
        images = [image for item in derivations for image in item.get("SourceImageSequence") or ()]
        return [uid for image in images if (uid := word(image, "ReferencedSOPInstanceUID"))]

    def layout(self, group: Any, position: NDArray[np.float64], shape: tuple[int, ...]) -> "_Layout":
        """How to place the pixels of a frame in the plane of the slices."""
        spacing = numbers(self.item(group, "PixelMeasuresSequence"), "PixelSpacing", 2)
        orientation = numbers(self.item(group, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        if orientation is None or spacing is None or len(shape) != 2:
            raise self.refusal(
                "SegInconsistent",
                "a frame has no ImageOrientationPatient or PixelSpacing, or has several values for each pixel",
            )
        transposed, turns = self.turns(orientation)
        expected = self.geometry.pixel_mm if not transposed else self.geometry.pixel_mm[::-1]
        if not np.allclose((spacing[1], spacing[0]), expected, rtol=1e-3, atol=0):
            raise self.refusal(
                "SegGridMismatch",
                f"pixels of {spacing[1]:g} x {spacing[0]:g} mm, but those of the images are {expected[0]:g} x "
                f"{expected[1]:g} mm",
            )
        # the turned frame begins at its corner with the lowest i and j
        size = (shape[1], shape[0]) if not transposed else (shape[0], shape[1])
        k = int(np.abs(self.geometry.offsets - position @ self.geometry.normal).argmin())
        away = position - self.geometry.origins[k]
        start = np.array([away @ self.geometry.row, away @ self.geometry.column]) / self.geometry.pixel_mm
        start -= [(n - 1) * (turn < 0) for n, turn in zip(size, turns, strict=True)]
        corner = np.rint(start).astype(int)
        if np.abs(start - corner).max() > NEAR or corner.min() < 0 or np.any(corner + size > self.geometry.shape[:2]):
            raise self.refusal(
                "SegGridMismatch",
                f"a frame of {size} pixels begins at pixel ({start[0]:.3f}, {start[1]:.3f}) of images of "
                f"{self.geometry.shape[:2]}",
            )
        if size != self.geometry.shape[:2]:
            self.canvas.warn("SegSmallerThanImages", f"frames of {size} pixels on images of {self.geometry.shape[:2]}")
        return _Layout(transposed, turns, int(corner[0]), int(corner[1]))

    def turns(self, orientation: tuple[float, ...]) -> tuple[bool, tuple[int, int]]:
        """Whether to swap rows and columns, and the signs along `i` and `j`."""
        try:
            row, column = orthonormal(orientation, self.where)
        except GeometryRefusal as error:
            raise self.refusal(
                "SegOrientationMismatch", f"row and column directions are not at right angles: {orientation}"
            ) from error
        cosines = np.array([[d @ row, d @ column] for d in (self.geometry.row, self.geometry.column)])
        signs = np.rint(cosines)
        if np.abs(cosines - signs).max() > DIRECTION or abs(np.linalg.det(signs)) != 1:
            normal = normal_of(orientation) @ self.geometry.normal
            raise self.refusal(
                "SegOrientationMismatch",
                f"frames are oblique to the images: directions {orientation}, cosine of the normals {normal:.4f}",
            )
        transposed = signs[0, 0] == 0
        return bool(transposed), (int(signs[0].sum()), int(signs[1].sum()))


@dataclass(frozen=True)
class _Layout:
    """How to turn the pixels of a frame to `(i, j)`, and where its first pixel goes."""

    transposed: bool
    signs: tuple[int, int]
    i: int
    j: int

    def turn(self, stored: NDArray[Any]) -> NDArray[Any]:
        """`(rows, columns)` of a frame to `(i, j)` of the images."""
        out = stored if self.transposed else stored.T
        return out[:: self.signs[0], :: self.signs[1]]

"""DEEP-PSMA: 100 men with prostate cancer, each with a PSMA and an FDG PET/CT, with native CT and a threshold.

The training data of the Grand Challenge "Deep-learning Evaluation for Enhanced Prognostics - PSMA PET", by the
Peter MacCallum Cancer Centre. Licence CC BY-NC 4.0. Download and citation: https://doi.org/10.5281/zenodo.15281784.
The tree, with or without the top folder:

    CHALLENGE_DATA/train_0001/PSMA/CT.nii.gz          HU, on its own grid
                                   PET.nii.gz         SUV
                                   TTB.nii.gz         total tumour burden, on the PET's grid; above 0 is lesion
                                   threshold.json     {"suv_threshold": 3.0}
                                   totseg_24.nii.gz   TotalSegmentator v2, task "total", on the CT's grid
                                   rigid.tfm          PSMA fixed, FDG moving
                              FDG/                    the same six; in rigid.tfm FDG is fixed

Each tracer becomes a case, such as `train_0001/PSMA`, that names the other as its pair. The arrays of the two are not
aligned: matrices, spacings and extents differ, and `rigid_to_other_ras` maps one to the other
(`converters.shared.registration.bring_onto`).

PET and TTB are used in place. These are written to the catalog, on the PET's grid and with its header:

    ct.nii.gz       int16 HU, clipped to -1024 ... 3071, then linear; -1024 outside the CT
    organs.nii.gz   the ids of `converters.deep_psma.deep_psma_source.organ_names`, nearest neighbour
    normal.nii.gz   physiological uptake: at or above the threshold, outside lesions
    label.nii.gz    only if the TTB has values other than 0 and 1, or a slightly different header

Readers drew lesions among voxels at or above the threshold, so no lesion voxel should be below it. This is checked on
the native grid, where it can hold exactly. The tolerance is 0.001, because some published thresholds are rounded.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import CatalogError, ClicksimError, GeometryError, ImageError
from clicksim.files import LEAST_PACKED, read_bounded
from clicksim.geometry import Grid
from clicksim.geometry.arrays import as_uptake
from clicksim.volumes import Volume, digest_voxels, read_grid, write_image
from converters.shared.case_measures import measure_case
from converters.shared.nifti_images import check_grids, header_facts, read_labels, read_scan, sha256_of
from converters.shared.registration import Matrix, bring_onto, read_rigid, round_trip_mm
from converters.shared.resample import resample_volume
from converters.shared.tables import Rejection
from converters.shared.trees import inside_source

RELEASE = "Zenodo 15281784"
LICENCE = "CC-BY-NC-4.0"
ORGANS_MAP = "TotalSegmentator v2 total"
USUAL_AXES = "LPS"
NEEDED = ("CT.nii.gz", "PET.nii.gz", "TTB.nii.gz")

CT_RANGE_HU = (-1024, 3071)
COVERED_ENOUGH = 0.98
BELOW = 1e-3
"""g/ml; a lesion voxel counts as below the threshold if it is lower by more than this."""

MANY_BELOW = 0.01
USUAL_THRESHOLDS = (1.5, 8.0)
HIGHEST_THRESHOLD = 20.0


def convert_scan(context: Context, folder: Path, case_id: str) -> tuple[Row, list[Row]]:
    """The row of a case, without its names and its pair, and its lesions; all checks come before the first write.

    Raises:
        Rejection: The case cannot be used.
    """
    root = context.source
    _check_files(root, folder)
    threshold = read_threshold(folder / "threshold.json", root)
    labels = read_labels(folder / "TTB.nii.gz", root, usual_axes=USUAL_AXES)
    pet = read_scan(folder / "PET.nii.gz", root)
    facts = header_facts(folder / "PET.nii.gz", pet.grid)
    is_same = _same_lattice(pet.grid, labels.grid)
    uptake, mask = as_uptake(pet.array), labels.array > 0
    try:
        measured, lesions = measure_case(mask, pet.grid, uptake, instances="components")
    except ImageError as error:
        file = (folder / "PET.nii.gz").relative_to(root).as_posix()
        raise Rejection("BadUptake", f"{file}: {error}", file) from error
    ct, ct_row, ct_flags = _resample_ct(folder / "CT.nii.gz", root, pet.grid)
    organs, organ_flags = _resample_organs(folder, root, pet.grid)
    below, lesion = int(np.count_nonzero(uptake[mask] < threshold - BELOW)), int(np.count_nonzero(mask))
    writer = _Writer(context, case_id, pet.grid, folder / "PET.nii.gz")
    row = measured | ct_row | _constants() | {
        "axcodes_in": facts.axcodes,
        "suv_threshold": threshold,
        "ttb_below_threshold_voxels": below,
        "pet_path": context.in_place(folder / "PET.nii.gz"),
        "ct_path": writer.write("ct", ct),
        "normal_path": writer.write("normal", (uptake >= uptake.dtype.type(threshold)) & ~mask),
        "label_path": context.in_place(folder / "TTB.nii.gz"),
        "sha256_in": sha256_of(folder / "TTB.nii.gz"),
    }  # fmt: skip
    is_rewritten = not is_same or int(labels.array.max()) > 1
    if is_rewritten:
        row["label_path"] = writer.write("label", mask)
    if organs is not None:
        row |= {"organs_path": writer.write("organs", organs), "organs_map": ORGANS_MAP}
    writer.sweep()
    low, high = USUAL_THRESHOLDS
    noticed = {
        "HEADERS_DIFFER": not is_same,
        "LABEL_REWRITTEN": is_rewritten,
        "THRESHOLD_UNUSUAL": not low <= threshold <= high,
        "TTB_BELOW_THRESHOLD": 0 < below <= MANY_BELOW * lesion,
        "THRESHOLD_VIOLATION": below > MANY_BELOW * lesion,
        "NEGATIVE_UPTAKE": float(uptake.min()) < 0,
        "EMPTY_BUT_DIAGNOSED": not measured["lesion_present"],
    }
    flags = [*labels.flags, *facts.flags(USUAL_AXES), *ct_flags, *organ_flags, *_holding(noticed)]
    return row | {"quality_flags": sorted(set(flags))}, lesions


def read_threshold(file: Path, root: Path) -> float:
    """Read the SUV threshold of a scan; lesions were drawn at or above it.

    Args:
        file: `{"suv_threshold": number}` as in the training data, or the bare number as at test time.
        root: The folder that the path in the rejection is relative to.

    Raises:
        Rejection: `BadThreshold`: the file or number is missing, not finite, not positive, or above 20.
    """
    path = file.relative_to(root).as_posix()
    try:
        content = json.loads(read_bounded(file).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise Rejection("BadThreshold", f"{file.name} cannot be read: {reason}", path) from error
    value: Any = content.get("suv_threshold") if isinstance(content, dict) else content
    if type(value) not in (int, float) or not 0 < value <= HIGHEST_THRESHOLD:  # a NaN is not above 0
        raise Rejection(
            "BadThreshold",
            f'the threshold must be an SUV above 0 and up to {HIGHEST_THRESHOLD:g}, as {{"suv_threshold": 3.0}} or '
            f"a number alone; {file.name} has {json.dumps(content)[:80]}",
            path,
        )
    return float(value)


@cache
def organ_names() -> dict[int, str]:
    """The meaning of the ids in `organs_path`: TotalSegmentator v2, task "total", 1 to 117."""
    content = json.loads(files("converters.deep_psma").joinpath("totalsegmentator_v2.json").read_text(encoding="utf-8"))
    return {int(number): name for number, name in content["labels"].items()}


def _constants() -> Row:
    """Columns that are the same for every case of the collection."""
    return {
        "source_release": RELEASE,
        "licence": LICENCE,
        "timepoint": "single",
        "diagnosis": "PROSTATE",
        "pet_units_in": "SUV",
        "suv_factor": 1.0,
        "ct_fill_value_hu": CT_RANGE_HU[0],
        "converter_version": __version__,
    }


class _Writer:
    """Writes the images of a case, on the grid of its PET and with its header."""

    def __init__(self, context: Context, case_id: str, grid: Grid, pet: Path) -> None:
        self.context, self.grid, self.pet = context, grid, pet
        self.folder = context.images(case_id.replace("/", "_"))
        self.written: set[Path] = set()

    def write(self, name: str, array: NDArray[Any]) -> str:
        """Write an image and return its name in the catalog."""
        file = self.folder / f"{name}.nii.gz"
        write_image(file, array, self.grid, like=self.pet)
        self.written.add(file)
        return self.context.written(file)

    def sweep(self) -> None:
        """Delete files of an earlier conversion that this one did not write."""
        for file in set(self.folder.glob("*.nii.gz")) - self.written:
            file.unlink()


def _check_files(root: Path, folder: Path) -> None:
    """Refuse a case that lacks a file, or has a link that leads out of the source.

    Raises:
        Rejection: `MissingChannel`; also as `inside_source`.
    """
    place = folder.relative_to(root).as_posix()
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise Rejection("MissingChannel", f"{', '.join(missing)} not found in {place}; complete the download")
    for name in (*NEEDED, "threshold.json"):
        inside_source(root, f"{place}/{name}")


def _same_lattice(pet: Grid, ttb: Grid) -> bool:
    """True if the headers agree, False if they differ by less than a tenth of a voxel, as after rounding.

    Raises:
        Rejection: `GridMismatch`.
    """
    if pet.same_as(ttb):
        return True
    if not pet.same_as(ttb, tolerance_mm=0.1 * min(pet.known_spacing)):
        check_grids(pet, ttb, ("PET", "TTB"))
    return False


def _resample_ct(file: Path, root: Path, grid: Grid) -> tuple[NDArray[np.int16], Row, list[str]]:
    """The CT on the PET's grid, in whole HU, with columns and flags.

    Raises:
        Rejection: `UnreadableFile`, `TruncatedFile`, `BadCt`.
    """
    ct = read_scan(file, root)
    if ct.array.dtype.kind == "f" and not np.all(np.isfinite(ct.array)):
        name = file.relative_to(root).as_posix()
        raise Rejection("BadCt", f"{name} has values that are not finite", name)
    moved = resample_volume(ct, grid, fill=CT_RANGE_HU[0], limits=CT_RANGE_HU)
    noticed = {
        "CT_RESAMPLED": not ct.grid.same_as(grid),
        "CT_COVERAGE_LOW": moved.coverage < COVERED_ENOUGH,
        "CT_CLIPPED": moved.clipped,
    }
    row = {
        "ct_native_spacing_mm": list(ct.grid.known_spacing),
        "ct_coverage_fraction": moved.coverage,
        "ct_digest": digest_voxels(moved.array),
    }
    return moved.array, row, _holding(noticed)


def _resample_organs(folder: Path, root: Path, grid: Grid) -> tuple[NDArray[Any] | None, list[str]]:
    """The organ labels on the PET's grid, or None with the flag that gives the reason."""
    file = folder / "totseg_24.nii.gz"
    if not file.is_file():
        return None, ["ORGANS_MISSING"]
    try:
        organs = read_labels(inside_source(root, file.relative_to(root).as_posix()), root)
    except Rejection:
        return None, ["ORGANS_UNREADABLE"]
    highest = int(organs.array.max())
    array = organs.array.astype(np.uint8) if highest < 256 else organs.array
    noticed = {
        "ORGANS_GRID_DIFFERS": not organs.grid.same_as(read_grid(folder / "CT.nii.gz")),
        "ORGANS_UNKNOWN_ID": highest > max(organ_names()),
    }
    return bring_onto(Volume(array, organs.grid), grid, fill=0, labels=True), _holding(noticed)


def _holding(noticed: Mapping[str, bool]) -> list[str]:
    """The flags that are True."""
    return [flag for flag, holds in noticed.items() if holds]


NAME = "deep_psma"
TOP = "CHALLENGE_DATA"
TRACERS = ("FDG", "PSMA")
PATIENT = re.compile(r"train_\d{4}")
HIDDEN = (".", "__MACOSX")

INVERSE_WITHIN_MM = 0.1
"""Two registrations are inverse if, there and back, no corner of the PET moves farther than this."""


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """Plan one unit per patient, from folder names alone.

    Raises:
        CatalogError: There is no folder `train_NNNN`.
    """
    top = context.source / TOP if (context.source / TOP).is_dir() else context.source
    units, found = [], Outcome()
    for folder in _folders(top):
        if PATIENT.fullmatch(folder.name):
            units.append(Unit(folder.name, {"folder": folder.relative_to(context.source).as_posix()}, (folder,)))
        else:
            found.reject("BadName", f"{folder.name!r} is not a patient (train_NNNN)", path=_path(context, folder))
    if not units:
        raise CatalogError(f"{context.source} has no folder train_NNNN; expected:\n{SOURCE.layout}")
    return units, found


def convert(context: Context, unit: Unit) -> Outcome:
    """Convert both tracers of a patient; if one is rejected, the other is still converted."""
    outcome, patient = Outcome(), unit.key
    folder = context.source / unit.content["folder"]
    about = {"patient_key": f"{NAME}:{patient}"}
    names = [child.name for child in _folders(folder)]
    for name in sorted(set(names) - set(TRACERS)):
        message = f"{name!r} is not a tracer; allowed: {' and '.join(TRACERS)}"
        outcome.reject("BadName", message, path=_path(context, folder / name), **about)
    tracers = [name for name in names if name in TRACERS]
    if not tracers:
        message = f"{patient} has neither a folder FDG nor a folder PSMA; complete the download"
        outcome.reject("MissingChannel", message, path=_path(context, folder), **about)
    rigids = {tracer: _read_registration(context, folder / tracer / "rigid.tfm") for tracer in tracers}
    for tracer in tracers:
        case_id = f"{patient}/{tracer}"
        try:
            case, lesions = convert_scan(context, folder / tracer, case_id)
        except Rejection as refusal:
            path = refusal.path or _path(context, folder / tracer)
            outcome.reject(refusal.code, str(refusal), path=path, case_id=case_id, **about)
            continue
        case |= {"case_id": case_id, "tracer_class": tracer, **about}
        _register(case, rigids.get(tracer), rigids.get(_other(tracer)))
        outcome.cases.append(case)
        outcome.lesions += [{"case_id": case_id, **lesion} for lesion in lesions]
    _pair(outcome.cases, patient)
    return outcome


def _read_registration(context: Context, file: Path) -> Matrix | None:
    """The registration of a scan; None if it cannot be used."""
    try:
        return read_rigid(inside_source(context.source, _path(context, file)))
    except (GeometryError, Rejection):
        return None


def _register(case: Row, own: Matrix | None, other: Matrix | None) -> None:
    """Store the registration to the other tracer in a case: its own, else the inverse of the other's."""
    flags = []
    grid = Grid(tuple(case["shape_xyz"]), affine=np.reshape(case["affine_ras"], (4, 4)))
    if own is None and other is None:
        flags.append("REGISTRATION_MISSING")
    elif own is None:
        flags.append("REGISTRATION_INVERTED")
    elif other is not None and round_trip_mm(own, other, grid) > INVERSE_WITHIN_MM:
        flags.append("REGISTRATION_NOT_INVERSE")
    matrix = own if own is not None or other is None else np.linalg.inv(other)
    case["rigid_to_other_ras"] = None if matrix is None else matrix.ravel().tolist()
    case["quality_flags"] = sorted({*case["quality_flags"], *flags})


def _pair(cases: list[Row], patient: str) -> None:
    """Store the pair of each case; flag a case without one."""
    taken = {case["tracer_class"] for case in cases}
    for case in cases:
        other = _other(case["tracer_class"])
        if other in taken:
            case["paired_case_id"] = f"{patient}/{other}"
        else:
            case["quality_flags"] = sorted({*case["quality_flags"], "TRACER_MISSING"})


def _other(tracer: str) -> str:
    return TRACERS[1 - TRACERS.index(tracer)]


def _folders(parent: Path) -> list[Path]:
    """The visible folders in `parent`, by name; empty if it is not a folder."""
    if not parent.is_dir():
        return []
    return sorted(child for child in parent.iterdir() if child.is_dir() and not child.name.startswith(HIDDEN))


def _path(context: Context, file: Path) -> str:
    return file.relative_to(context.source).as_posix()


def least_bytes(context: Context, unit: Unit) -> float:
    """Estimate the packed size of the CT on the grid of each PET."""
    folders = [context.source / unit.content["folder"] / tracer for tracer in TRACERS]
    total = 0.0
    for file in (folder / "PET.nii.gz" for folder in folders):
        with suppress(ClicksimError):  # the conversion reports the problem
            total += read_grid(file).size * np.dtype(np.int16).itemsize * LEAST_PACKED
    return total


SOURCE = Source(
    name=NAME,
    title="DEEP-PSMA: paired PSMA and FDG PET/CT of 100 men, native CT",
    layout=f"{TOP}/train_NNNN/{{PSMA,FDG}}/{{CT,PET,TTB,totseg_24}}.nii.gz, threshold.json, rigid.tfm",
    plan=plan,
    convert=convert,
    facts={
        "title": "DEEP-PSMA: Deep-learning Evaluation for Enhanced Prognostics - PSMA PET, training data",
        "release": RELEASE,
        "doi": "10.5281/zenodo.15281784",
        "licence": LICENCE,
        "controlled_access": False,
        "citation": (
            "DEEP-PSMA: Deep-learning Evaluation for Enhanced Prognostics - PSMA PET, training data of the Grand "
            "Challenge. Zenodo, record 15281784. https://doi.org/10.5281/zenodo.15281784"
        ),
        "bibtex": (
            "@misc{deep_psma,\n  title = {{DEEP-PSMA}: Deep-learning Evaluation for Enhanced Prognostics - {PSMA PET}, "
            "training data},\n  publisher = {Zenodo},\n  doi = {10.5281/zenodo.15281784}\n}"
        ),
        "annotation": (
            "Total tumour burden, drawn for each tracer among the voxels at or above a threshold: SUV 3 for PSMA, for "
            "FDG a value from the liver (mean + 2 standard deviations)."
        ),
        "readers": None,
    },
    least_bytes=least_bytes,
)

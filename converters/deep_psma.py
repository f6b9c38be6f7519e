"""DEEP-PSMA: 100 men with prostate cancer, each with a PSMA and an FDG PET/CT, with native CT and a threshold.

The training data of the Grand Challenge "Deep-learning Evaluation for Enhanced Prognostics - PSMA PET", by the
Peter MacCallum Cancer Centre. Licence CC BY-NC 4.0; cite the record, https://doi.org/10.5281/zenodo.15281784,
where it is also to be had. Its tree, with the top folder or without it:

    CHALLENGE_DATA/train_0001/PSMA/CT.nii.gz          HU, on a grid of its own
                                   PET.nii.gz         SUV
                                   TTB.nii.gz         total tumour burden, on the PET's grid; above 0 is lesion
                                   threshold.json     {"suv_threshold": 3.0}
                                   totseg_24.nii.gz   TotalSegmentator v2, task "total", on the CT's grid
                                   rigid.tfm          PSMA fixed, FDG moving
                              FDG/                    the same six; in rigid.tfm FDG is fixed

Each tracer becomes a case, `train_0001/PSMA`, that names the other as its pair. The arrays of the two never lie on
each other: matrices, spacings and extents differ, and `rigid_to_other_ras` leads from one to the other
(`converters.registration.bring_onto`).

PET and TTB are used in place. Written below the catalog, on the PET's grid and with its header:

    ct.nii.gz       int16 HU, clipped to -1024 ... 3071, then linear; -1024 where the CT does not reach
    organs.nii.gz   the ids of `converters.deep_psma_scan.organ_names`, nearest neighbour
    normal.nii.gz   physiological uptake: at or above the threshold, and no lesion
    label.nii.gz    only where the TTB has other values than 0 and 1, or a header a little off
"""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import CatalogError, ClicksimError, GeometryError
from clicksim.files import LEAST_PACKED
from clicksim.geometry import Grid
from clicksim.volumes import read_grid
from converters.deep_psma_scan import LICENCE, RELEASE, convert_scan
from converters.registration import Matrix, read_rigid, round_trip_mm
from converters.tables import Rejection
from converters.trees import inside_source

NAME = "deep_psma"
TOP = "CHALLENGE_DATA"
TRACERS = ("FDG", "PSMA")
PATIENT = re.compile(r"train_\d{4}")
HIDDEN = (".", "__MACOSX")

INVERSE_WITHIN_MM = 0.1
"""Two registrations are each other's inverse when there and back no corner of the PET moves farther than this."""


def plan(context: Context) -> tuple[list[Unit], Outcome]:
    """One unit per patient, from the names of the folders alone.

    Raises:
        CatalogError: No folder `train_NNNN` is there.
    """
    top = context.source / TOP if (context.source / TOP).is_dir() else context.source
    units, found = [], Outcome()
    for folder in _folders(top):
        if PATIENT.fullmatch(folder.name):
            units.append(Unit(folder.name, {"folder": folder.relative_to(context.source).as_posix()}))
        else:
            found.reject("BadName", f"{folder.name!r} is no patient; they are train_NNNN", path=_path(context, folder))
    if not units:
        raise CatalogError(f"{context.source} has no folder train_NNNN; expected is\n{SOURCE.layout}")
    return units, found


def convert(context: Context, unit: Unit) -> Outcome:
    """Both tracers of a patient; a bad one does not cost the other."""
    outcome, patient = Outcome(), unit.key
    folder = context.source / unit.content["folder"]
    about = {"patient_key": f"{NAME}:{patient}"}
    names = [child.name for child in _folders(folder)]
    for name in sorted(set(names) - set(TRACERS)):
        message = f"{name!r} is no tracer; they are {' and '.join(TRACERS)}"
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
    """The registration of a scan; None where it cannot be used."""
    try:
        return read_rigid(inside_source(context.source, _path(context, file)))
    except (GeometryError, Rejection):
        return None


def _register(case: Row, own: Matrix | None, other: Matrix | None) -> None:
    """Put the registration to the other tracer into a case: its own, else the inverse of the other's."""
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
    """Name each case's pair; a case that stands alone is flagged."""
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
    """The folders in one, by name, without hidden ones; none where it is no folder."""
    if not parent.is_dir():
        return []
    return sorted(child for child in parent.iterdir() if child.is_dir() and not child.name.startswith(HIDDEN))


def _path(context: Context, file: Path) -> str:
    return file.relative_to(context.source).as_posix()


def least_bytes(context: Context, unit: Unit) -> float:
    """The CT on the lattice of each PET, packed."""
    folders = [context.source / unit.content["folder"] / tracer for tracer in TRACERS]
    total = 0.0
    for file in (folder / "PET.nii.gz" for folder in folders):
        with suppress(ClicksimError):  # its conversion will say what is wrong
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

"""Write phantoms in the layout of the fdat release: whole-body FDG and PSMA PET/CT in nnU-Net's layout."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.geometry import Grid
from clicksim.phantom import make_phantom
from clicksim.phantom.phantom_trees import (
    SMALL_SHAPE,
    SMALL_SPACING,
    SourceTree,
    Spoiler,
    cut_file,
    empty_file,
    leave_out,
    move_grid,
    put_value,
    to_lps,
    write_odd_header,
    write_prose,
    write_table_csv,
)
from clicksim.streams import stream
from clicksim.volumes import write_image

DESCRIPTIONS = ("PET-CT Ganzkoerper  primaer mit KM", "PET-CT Ganzkoerper nativ u. mit KM", "PET-CT Teilkoerper nativ")
DIAGNOSES = ("MELANOMA", "LYMPHOMA", "LUNG_CANCER")
MODELS = ("Biograph mCT Flow 20", "Discovery 690", "Biograph 64-4R TruePoint")
FDG_COLUMNS = ("Subject ID", "Study Date", "Modality", "File Location", "diagnosis", "age", "sex")
PSMA_COLUMNS = (
    "Subject ID", "Study Date", "age", "manufacturer_model_name", "pet_radionuclide", "ct_contrast_agent",
)  # fmt: skip
KINDS = 6
"""Patients go through these in turn: FDG with two studies, PSMA, FDG without lesion, PSMA without lesion, FDG stored
LPS as float64 with only a qform, PSMA."""

SPOILERS: tuple[tuple[str, str, Spoiler], ...] = (
    ("imagesTr/{}_0001.nii.gz", "MissingChannel", leave_out),
    ("labelsTr/{}.nii.gz", "TruncatedFile", empty_file),
    ("imagesTr/{}_0001.nii.gz", "TruncatedFile", cut_file),
    ("labelsTr/{}.nii.gz", "UnreadableFile", write_prose),
    ("labelsTr/{}.nii.gz", "GridMismatch", move_grid),
    ("labelsTr/{}.nii.gz", "BadLabel", put_value(7)),
    ("imagesTr/{}_0001.nii.gz", "BadUptake", put_value(float("nan"))),
)


@dataclass(frozen=True)
class Study:
    """One study, with what its name and the tables say about it."""

    patient: str
    day: date
    tracer: str
    folder: str
    seed: int
    is_empty: bool
    is_odd: bool
    number: int

    @property
    def case_id(self) -> str:
        """The name of its files."""
        if self.tracer == "psma":
            return f"psma_{self.patient}_{self.day.isoformat()}"
        return f"fdg_{self.patient}_{self.folder}"


def write_fdat(
    folder: str | Path,
    *,
    patients: int = 6,
    seed: int = 0,
    shape: Sequence[int] | None = SMALL_SHAPE,
    spacing: Sequence[float] = SMALL_SPACING,
    lesions: tuple[int, int] = (2, 5),
    spoil: bool = False,
) -> SourceTree:
    """Write phantoms in the layout of the fdat release: `imagesTr`, `labelsTr`, tables, folds, fingerprint.

    The irregularities of the release are included: names with two spaces and dots, a patient with two studies, empty
    labels, a case stored LPS as float64 with only a qform, both channels named CT, tables with a byte order mark and
    one row per series. The same arguments give the same bytes.

    Args:
        folder: Where to write; created if it does not exist.
        patients: How many.
        seed: Seed of names and phantoms.
        shape: Voxels; None uses what the body needs at this spacing.
        spacing: Voxel size in mm.
        lesions: Smallest and largest number of lesions of a case that is not empty.
        spoil: Add one broken case of each kind.
    """
    root = Path(folder)
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True, exist_ok=True)
    tree = SourceTree(root)
    studies = [study for number in range(patients) for study in _draw_studies(number, seed)]
    prints: dict[str, Any] = {}
    for study in studies:
        count = int(stream(seed, study.case_id, "lesions").integers(lesions[0], lesions[1] + 1))
        prints[study.case_id] = _write_study(root, study, 0 if study.is_empty else count, shape, spacing)
        tree.cases.append(study.case_id)
    _write_tables(root, studies, prints)
    if spoil:
        _write_spoiled(tree, seed)
    return tree


def _draw_studies(number: int, seed: int) -> list[Study]:
    """The studies of a patient; the first of each `KINDS` has two."""
    rng, kind = stream(seed, "fdat", number), number % KINDS
    tracer = ("fdg", "psma")[kind % 2]
    patient = rng.bytes(5 if tracer == "fdg" else 8).hex()
    first = date(2002 if tracer == "fdg" else 2016, 1, 1) + timedelta(days=int(rng.integers(0, 1000)))
    studies = []
    for n in range(2 if kind == 0 else 1):
        day = first + timedelta(days=90 * n)
        description = DESCRIPTIONS[(kind // 2 + n) % len(DESCRIPTIONS)]
        folder = f"{day:%m-%d-%Y}-NA-{description}-{int(rng.integers(0, 100_000)):05d}"
        phantom = seed * 1000 + 2 * number + n
        studies.append(Study(patient, day, tracer, folder, phantom, kind in (2, 3), kind == 4, number))
    return studies


def _write_study(
    root: Path, study: Study, n_lesions: int, shape: Sequence[int] | None, spacing: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Write CT, PET and label; return the fingerprint of the case."""
    phantom = make_phantom(study.seed, tracer=study.tracer, shape=shape, spacing=spacing, n_lesions=n_lesions)
    images: dict[str, NDArray[Any]] = {"0000": phantom.ct, "0001": phantom.pet}
    grid = phantom.grid
    label: NDArray[Any] = phantom.label
    if study.is_odd:
        images = {channel: to_lps(array, phantom.grid)[0] for channel, array in images.items()}
        label, grid = to_lps(label, phantom.grid)
    for channel, array in images.items():
        # headers of one PSMA study differ by rounding, such as 3.27 and 3.27002
        noisy = study.tracer == "psma" and channel == "0000"
        write_image(root / f"imagesTr/{study.case_id}_{channel}.nii.gz", array, _rounded(grid) if noisy else grid)
    file = root / f"labelsTr/{study.case_id}.nii.gz"
    if study.is_odd:
        write_odd_header(file, label.astype(np.float64), grid, sform=0, qform=1)
    else:
        write_image(file, label, grid)
    return list(grid.shape[::-1]), list(grid.known_spacing[::-1])


def _rounded(grid: Grid) -> Grid:
    affine = grid.known_affine.copy()
    affine[2, 2] += 2e-5
    return Grid(grid.shape, affine=affine)


def _write_tables(root: Path, studies: Sequence[Study], prints: dict[str, Any]) -> None:
    """Write dataset.json, fingerprint, folds and the two clinical tables."""
    names = sorted(prints)
    dataset = {
        "channel_names": {"0": "CT", "1": "CT"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    _write_json(root / "dataset.json", dataset)
    fingerprint = {
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [prints[name][0] for name in names],
        "spacings": [prints[name][1] for name in names],
    }
    _write_json(root / "dataset_fingerprint.json", fingerprint)
    fold_of = {study.case_id: study.number % 5 for study in studies}
    folds = range(min(5, len({study.number for study in studies})))
    splits = [
        {"train": [n for n in names if fold_of[n] != fold], "val": [n for n in names if fold_of[n] == fold]}
        for fold in folds
    ]
    _write_json(root / "splits_final.json", splits)
    fdg = [row for study in studies if study.tracer == "fdg" for row in _fdg_rows(study)]
    psma = [_psma_row(study) for study in studies if study.tracer == "psma"]
    write_table_csv(root / "fdg_metadata.csv", fdg, FDG_COLUMNS, bom=True)
    write_table_csv(root / "psma_metadata.csv", psma, PSMA_COLUMNS, bom=True)


def _fdg_rows(study: Study) -> list[dict[str, str]]:
    """One row per series."""
    rng, patient = stream(0, study.patient), f"PETCT_{study.patient}"
    diagnosis = "NEGATIVE" if study.is_empty else DIAGNOSES[study.number % len(DIAGNOSES)]
    age, sex = f"{int(rng.integers(20, 90)):03d}Y", "FM"[int(rng.integers(2))]
    return [
        {
            "Subject ID": patient,
            "Study Date": f"{study.day:%m-%d-%Y}",
            "Modality": modality,
            "File Location": f"./FDG-PET-CT-Lesions/{patient}/{study.folder}/{n}.000000-{modality}-{n:05d}",
            "diagnosis": diagnosis,
            "age": age,
            "sex": sex,
        }
        for n, modality in enumerate(("CT", "PT", "SEG"), start=4)
    ]


def _psma_row(study: Study) -> dict[str, str]:
    return {
        "Subject ID": f"PSMA_{study.patient}",
        "Study Date": study.day.isoformat(),
        "age": str(int(stream(0, study.patient).integers(50, 90))),
        "manufacturer_model_name": MODELS[study.number % len(MODELS)],
        "pet_radionuclide": "68Ga" if study.is_empty else "18F",
        "ct_contrast_agent": "no" if study.number % KINDS == KINDS - 1 else "yes",
    }


def _write_spoiled(tree: SourceTree, seed: int) -> None:
    """Write one broken case of each kind, and one invalid name."""
    phantom = make_phantom(seed, shape=SMALL_SHAPE, spacing=SMALL_SPACING, n_lesions=2)
    images: dict[str, NDArray[Any]] = {
        "imagesTr/{}_0000.nii.gz": phantom.ct,
        "imagesTr/{}_0001.nii.gz": phantom.pet,
        "labelsTr/{}.nii.gz": phantom.label,
    }
    for number, (name, code, spoil) in enumerate(SPOILERS):
        case = f"psma_{stream(seed, 'spoiled', number).bytes(8).hex()}_2017-05-04"
        for file, array in images.items():
            write_image(tree.folder / file.format(case), array, phantom.grid)
        spoil(tree.folder / name.format(case))
        tree.spoiled[name.format(case)] = code
    file = "labelsTr/psma_my own case.nii.gz"
    write_image(tree.folder / file, phantom.label, phantom.grid)
    tree.spoiled[file] = "BadName"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

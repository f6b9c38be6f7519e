"""Write phantoms in the layout of TCIA's DICOM collections, as from NBIA's retriever or a cloud bucket."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from clicksim.errors import unknown_name
from clicksim.phantom import make_phantom
from clicksim.phantom.dicom import StudyFacts, WrittenStudy, write_study
from clicksim.phantom.phantom_trees import SMALL_SHAPE, SMALL_SPACING, SourceTree
from clicksim.streams import stream

COLLECTIONS = {"fdg": "FDG-PET-CT-Lesions", "psma": "PSMA-PET-CT-Lesions"}
VENDORS = {"fdg": ("siemens",), "psma": ("siemens", "ge")}
DESCRIPTIONS = (
    "PET-CT (Ganzkoerper  primaer mit KM)",
    "PET-CT Ganzkoerper nativ u. mit KM",
    "PET-CT Teilkoerper nativ",
)
BROKEN_PSMA = "PSMA_771c8dc6051db4d7"
"""The patient of the release whose SEG references a PET slice that does not exist."""


def write_tcia(
    folder: str | Path,
    *,
    collection: str = "fdg",
    patients: int = 3,
    seed: int = 0,
    shape: Sequence[int] | None = SMALL_SHAPE,
    spacing: Sequence[float] = SMALL_SPACING,
    lesions: tuple[int, int] = (2, 5),
    layout: str = "descriptive",
    spoil: bool = False,
) -> SourceTree:
    """Write phantoms as DICOM studies of a collection: PET, CT and SEG, one file per slice.

    The first patient has two studies, the third has no lesion. FDG is written like Siemens and dcmqi output; PSMA has
    two vendors, both nuclides and a SEG without its empty frames. The same arguments give the same bytes.

    Args:
        folder: Where to write; created if it does not exist.
        collection: `fdg` or `psma`.
        patients: How many.
        seed: Seed of names and phantoms.
        shape: Voxels of the PET; None uses what the body needs at this spacing.
        spacing: Voxel size of the PET in mm.
        lesions: Smallest and largest number of lesions of a study that is not empty.
        layout: `descriptive`, `classic` or `uids`, as for `write_study`.
        spoil: Add one broken study of each kind.

    Raises:
        SettingError: If the collection or layout is unknown, or pydicom or highdicom is missing.
    """
    if collection not in COLLECTIONS:
        raise unknown_name("collection", collection, COLLECTIONS)
    root = Path(folder)
    tree = SourceTree(root)
    for number in range(patients):
        rng = stream(seed, "tcia", collection, number)
        patient = _patient(collection, rng.bytes(8).hex())
        for n in range(2 if number == 0 else 1):
            count = 0 if number % 4 == 2 else int(rng.integers(lesions[0], lesions[1] + 1))
            facts = _facts(collection, patient, number + n, rng)
            phantom = make_phantom(
                seed * 1000 + 2 * number + n, tracer=collection, shape=shape, spacing=spacing, n_lesions=count
            )
            written = write_study(root / COLLECTIONS[collection], phantom, facts, layout=layout)
            tree.cases.append(f"{patient}_{written.study_uid}")
    if spoil:
        phantom = make_phantom(seed, tracer=collection, shape=SMALL_SHAPE, spacing=SMALL_SPACING, n_lesions=2)
        for number, (code, break_study) in enumerate(SPOILERS):
            rng = stream(seed, "tcia", collection, "spoiled", number)
            known = BROKEN_PSMA if collection == "psma" and code == "SegReferencesMissingSlice" else None
            facts = _facts(collection, known or _patient(collection, rng.bytes(8).hex()), number, rng)
            written = write_study(root / COLLECTIONS[collection], phantom, facts, layout="descriptive")
            place = written.folders["PT"].parent.relative_to(root).as_posix()
            break_study(written)
            tree.spoiled[place] = code
    return tree


def _patient(collection: str, token: str) -> str:
    return f"PETCT_{token[:10]}" if collection == "fdg" else f"PSMA_{token}"


def _facts(collection: str, patient: str, number: int, rng: Any) -> StudyFacts:
    day = date(1999, 1, 1) + timedelta(days=int(rng.integers(0, 2000)) + 90 * number)
    vendor = VENDORS[collection][number % len(VENDORS[collection])]
    return StudyFacts(
        patient,
        day,
        DESCRIPTIONS[number % len(DESCRIPTIONS)] if collection == "fdg" else "PETCT whole-body PSMA",
        vendor,
        "F18" if collection == "fdg" or number % 2 == 0 else "Ga68",
        "dcmqi" if collection == "fdg" else "sparse",
        weight_kg=float(rng.integers(50, 110)),
        dose_bq=float(rng.integers(100, 400)) * 1e6,
        uptake_s=float(rng.integers(3000, 6000)),
    )


def _edit(modality: str, change: Callable[[Any], None]) -> Callable[[WrittenStudy], None]:
    """Change every file of a modality."""

    def spoil(written: WrittenStudy) -> None:
        import pydicom

        for path in written.folders[modality].iterdir():
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)

    return spoil


def _cut_slice(written: WrittenStudy) -> None:
    path = sorted(written.folders["PT"].iterdir())[3]
    path.write_bytes(path.read_bytes()[:-500])


def _drop_slice(written: WrittenStudy) -> None:
    sorted(written.folders["PT"].iterdir())[3].unlink()


def _drop_seg(written: WrittenStudy) -> None:
    next(written.folders["SEG"].iterdir()).unlink()


def _no_weight(dataset: Any) -> None:
    del dataset.PatientWeight


def _not_corrected(dataset: Any) -> None:
    dataset.CorrectedImage = ["NORM", "DTIM", "DECY"]


def _reference_nothing(dataset: Any) -> None:
    frame = dataset.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"


def _tilt(dataset: Any) -> None:
    x, y, z = (float(v) for v in dataset.ImagePositionPatient)
    dataset.ImagePositionPatient = [x, y + 0.2 * z, z]


SPOILERS: tuple[tuple[str, Callable[[WrittenStudy], None]], ...] = (
    ("TruncatedPixels", _cut_slice),
    ("IncompleteSeries", _drop_slice),
    ("NoUsableSeg", _drop_seg),
    ("MissingPatientWeight", _edit("PT", _no_weight)),
    ("NoUsablePet", _edit("PT", _not_corrected)),
    ("SegReferencesMissingSlice", _edit("SEG", _reference_nothing)),
    ("GantryTilt", _edit("CT", _tilt)),
)

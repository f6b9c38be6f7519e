"""The whole-body FDG and PSMA PET/CT of autoPET III, IV and V, as NIfTI in nnU-Net's layout.

PSMA-FDG-PET-CT-Lesions: 1,014 FDG studies of 900 patients (University Hospital Tübingen) and 597 PSMA studies of
378 patients (LMU University Hospital Munich), from the research data repository of the University of Tübingen:
https://fdat.uni-tuebingen.de/records/6gjsg-zcg93 (v1), https://fdat.uni-tuebingen.de/records/rdkqd-wdh87 (v2).
CC BY-NC 4.0. The DICOM originals are TCIA's collections with the DOIs 10.7937/gkr0-xv29 and 10.7937/r7ep-3x37.

    imagesTr/<case>_0000.nii.gz     CT on the grid of the PET, HU
    imagesTr/<case>_0001.nii.gz     PET, SUV; channel 1 is the PET although dataset.json may call it CT
    labelsTr/<case>.nii.gz          0 and 1
    dataset.json  dataset_fingerprint.json  splits_final.json  psma_metadata.csv  fdg_metadata.csv

    <case> = fdg_<10 hex>_<MM-DD-YYYY>-NA-<StudyDescription>-<5 digits>     two spaces and dots occur
             psma_<16 hex>_<YYYY-MM-DD>

The images are used where they lie: the catalog names them `fdat:imagesTr/...`. The published zip is taken as it
is: its labels (0.26 of 150 GB) are unpacked, byte for byte, below the catalog's `images/fdat/`, where every
program can read them; PET and CT stay packed. `labels_only=false` measures each PET from a temporary copy, and
`unpack` leaves PET and CT in the catalog as well.

`patient_key` is TCIA's PatientID, `PETCT_<10 hex>` or `PSMA_<16 hex>`, so that one person has one key in both
publishers' releases. `study_key` is that and the date of the case name, `PSMA_<16 hex>_2019-06-10`; TCIA's
StudyDate is the same for FDG, and 6,247 days earlier for PSMA.

What would need a pass over the CT is left out: `ct_coverage_fraction` is null, and of the CT only the header is
read. A PET of a folder is read as a whole, as its uptake is measured. Two files of a case on different grids are
a `GridMismatch`: the publisher promises one grid, so one of them belongs to another case or was changed, and
nobody can tell which. Whoever knows that the label is right sets `resample_labels`.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shutil import move

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.files import replacing, slug
from clicksim.geometry import Grid
from clicksim.volumes import Volume, case_id_of, write_image
from converters.fdat_plan import CT, LAYOUT, MARKS, OPTIONS, PET, Case, CaseName, Settings, plan
from converters.fdat_tables import diagnosis_flags, fits_print
from converters.measure import measure_case, uptake_flags
from converters.nifti import (
    Labels,
    axis_codes,
    check_grids,
    read_facts,
    read_labels,
    read_uptake,
    rejecting,
    sha256_of,
)
from converters.registration import bring_onto
from converters.tables import Rejection
from converters.trees import ArchiveTree, Tree, open_tree

NAME = "fdat"
LICENCE = "CC-BY-NC-4.0"
USUAL_AXES = "LAS"
CT_FILL_HU = -1024
RELEASES = {"psma-fdg-pet-ct-lesions": "v1, 6gjsg-zcg93", "psma-fdg-pet-ct-lesions_v2": "v2, rdkqd-wdh87"}

FACTS = {
    "title": "PSMA-FDG-PET-CT-Lesions",
    "release": "fdat 6gjsg-zcg93 (v1), rdkqd-wdh87 (v2)",
    "doi": "10.7937/gkr0-xv29, 10.7937/r7ep-3x37",
    "licence": LICENCE,
    "controlled_access": False,
    "citation": "PSMA-FDG-PET-CT-Lesions. Research data repository FDAT, University of Tübingen, record "
    "6gjsg-zcg93 (v1, 2024), rdkqd-wdh87 (v2). FDG-PET-CT-Lesions. The Cancer Imaging Archive, "
    "doi:10.7937/gkr0-xv29. PSMA-PET-CT-Lesions. The Cancer Imaging Archive, doi:10.7937/r7ep-3x37.",
    "bibtex": """\
@misc{psma_fdg_pet_ct_lesions,
  title = {{PSMA-FDG-PET-CT-Lesions}},
  publisher = {FDAT, University of T{\\"u}bingen},
  year = {2024},
  url = {https://fdat.uni-tuebingen.de/records/6gjsg-zcg93}
}
@misc{fdg_pet_ct_lesions,
  title = {{FDG-PET-CT-Lesions}},
  publisher = {The Cancer Imaging Archive},
  doi = {10.7937/gkr0-xv29}
}
@misc{psma_pet_ct_lesions,
  title = {{PSMA-PET-CT-Lesions}},
  publisher = {The Cancer Imaging Archive},
  doi = {10.7937/r7ep-3x37}
}""",
    "annotation": "manual annotation of tumour lesions, one mask per study; uint8, 0 and 1",
    "readers": None,
}


def convert(context: Context, unit: Unit) -> Outcome:
    """The rows of a patient; each study ends in `cases` or in `rejected`."""
    tree = open_tree(context.source, MARKS, LAYOUT)
    settings = Settings.of(context, is_archive=tree.is_archive)
    outcome = Outcome()
    for case in unit.content:
        try:
            row, lesions = _convert_case(context, settings, tree, case)
        except Rejection as rejection:
            path = rejection.path or case.label or case.pet or case.ct
            outcome.reject(
                rejection.code,
                str(rejection),
                path=path,
                case_id=case.name.case_id,
                patient_key=case.name.patient_key,
            )
            continue
        outcome.cases.append(row)
        outcome.lesions += [{"case_id": case.name.case_id, **lesion} for lesion in lesions]
    return outcome


Opened = dict[str, tuple[Path, Path]]  # by role: the file, and the folder that its path is relative to


def _convert_case(context: Context, settings: Settings, tree: Tree, case: Case) -> tuple[Row, list[Row]]:
    """Row and lesions of a case.

    Raises:
        Rejection: Whatever is wrong with it.
    """
    with ExitStack() as stack:
        roles = _roles(case, tree, settings)
        files = {role: stack.enter_context(tree.local(path)) for role, path in roles.items()}
        labels = read_labels(*files["label"], highest=1, usual_axes=USUAL_AXES)
        digest = sha256_of(files["label"][0])
        flags = {*case.flags, *labels.flags}
        if settings.labels_only:
            measured, lesions = measure_case(labels.array, labels.grid, None, instances="components")
        else:
            labels, measured, lesions, more = _measure_uptake(labels, files["pet"], resample=settings.resample)
            flags |= {*more, *_ct_flags(labels, files["ct"])}
        flags |= _contradictions(case, measured)
        kept = files if settings.unpack or not tree.is_archive else {"label": files["label"]}
        paths = _place_files(context, tree, case, kept, labels if "LABEL_RESAMPLED" in flags else None)
    row = {
        **_named_columns(case.name, tree),
        **case.columns,
        **measured,
        **paths,
        "axcodes_in": labels.facts.axcodes,
        "ct_fill_value_hu": CT_FILL_HU,
        "pet_units_in": "SUV",
        "suv_factor": 1.0,
        "sha256_in": digest,
        "quality_flags": sorted(flags),
    }
    return row, lesions


def _roles(case: Case, tree: Tree, settings: Settings) -> dict[str, str]:
    """The files to open, by role; with `labels_only` those of a folder are named as far as they are there.

    Raises:
        Rejection: `MissingChannel`.
    """
    every = {"label": case.label, "ct": case.ct, "pet": case.pet}
    needed = ("label",) if settings.labels_only else ("label", "ct", "pet")
    missing = [_described(role) for role in needed if every[role] is None]
    if missing:
        hint = "" if "label" in missing[0] else ", or set labels_only"
        raise Rejection("MissingChannel", f"there is no {' and no '.join(missing)}; complete the download{hint}")
    wanted = needed if tree.is_archive else tuple(every)
    return {role: path for role in wanted if (path := every[role]) is not None}


def _described(role: str) -> str:
    return {"label": "label in labelsTr", "ct": f"CT (_{CT}) in imagesTr", "pet": f"PET (_{PET}) in imagesTr"}[role]


def _measure_uptake(
    labels: Labels, pet_file: tuple[Path, Path], *, resample: bool
) -> tuple[Labels, Row, list[Row], set[str]]:
    """Labels on the PET's grid, and what `measure_case` finds, with flags: one read of the PET."""
    pet = read_uptake(*pet_file)
    flags: set[str] = set()
    if resample and not labels.grid.same_as(pet.grid):
        labels, flags = _resampled(labels, pet.grid), {"LABEL_RESAMPLED"}
    check_grids(labels.grid, pet.grid, ("label", "PET"), mend=", or set resample_labels where the label is right")
    with rejecting(*pet_file, "BadUptake"):
        measured, lesions = measure_case(labels.array, labels.grid, pet.array, instances="components")
    return labels, measured, lesions, flags | uptake_flags(pet.array, labels.array, lesions)


def _resampled(labels: Labels, target: Grid) -> Labels:
    array = bring_onto(Volume(labels.array, labels.grid), target, fill=0, labels=True)
    if labels.array.any() and not array.any():
        raise Rejection("GridMismatch", "no lesion of the label lies on the grid of the PET; is it of another case?")
    return Labels(array, replace(labels.facts, grid=target, axcodes=axis_codes(target.known_affine)), labels.flags)


def _ct_flags(labels: Labels, ct_file: tuple[Path, Path]) -> set[str]:
    """`CT_GRID_DIFFERS`; the voxels of the CT are not read."""
    return set() if read_facts(*ct_file).grid.same_as(labels.grid) else {"CT_GRID_DIFFERS"}


def _contradictions(case: Case, measured: Row) -> set[str]:
    """Flags for what names and tables say and the images do not."""
    flags = diagnosis_flags(case.name.tracer, case.columns.get("diagnosis"), is_present=measured["lesion_present"])
    shape, spacing = tuple(measured["shape_xyz"]), tuple(measured["spacing_xyz_mm"])
    differs = case.fingerprint is not None and not fits_print(shape, spacing, case.fingerprint)
    return flags | ({"FINGERPRINT_DIFFERS"} if differs else set())


def _place_files(context: Context, tree: Tree, case: Case, files: Opened, resampled: Labels | None) -> Row:
    """Where the catalog finds each image: in the source, or in the catalog once it is put there."""
    paths: Row = {}
    for role, (file, _) in files.items():
        if role == "label" and resampled is not None:
            target = context.images(slug(case.name.case_id)) / "label.nii.gz"
            write_image(target, resampled.array, resampled.grid)
        elif tree.is_archive:
            target = context.images(slug(case.name.case_id)) / f"{role}{file.name[len(case_id_of(file)) :]}"
            with replacing(target) as temporary:
                move(file, temporary)
        else:
            paths[f"{role}_path"] = context.in_place(file)
            continue
        paths[f"{role}_path"] = context.written(target)
    return paths


def _named_columns(name: CaseName, tree: Tree) -> Row:
    """Columns that follow from the name of the case and of the release."""
    return {
        "case_id": name.case_id,
        "source_release": _release(tree),
        "licence": LICENCE,
        "patient_key": name.patient_key,
        "study_key": name.study_key,
        "tracer_class": name.tracer,
        "study_date_raw": name.day_raw,
        "study_date": name.day,
        "date_shifted": True,
        "timepoint": "single",
        "study_description": name.description,
        "converter_version": __version__,
    }


def _release(tree: Tree) -> str | None:
    """The release whose published name the tree still bears, or what holds it; None where both were renamed."""
    names = (tree.top, tree.source.name.removesuffix(".zip"))
    return next((RELEASES[name.lower()] for name in names if name.lower() in RELEASES), None)


def least_bytes(context: Context, unit: Unit) -> int:
    """What is unpacked into the catalog."""
    tree = open_tree(context.source, MARKS, LAYOUT)
    if not isinstance(tree, ArchiveTree):
        return 0
    unpack = Settings.of(context, is_archive=True).unpack
    files = [file for case in unit.content for file in (case.label, *((case.ct, case.pet) if unpack else ()))]
    return sum(tree.size(file) for file in files if file is not None)


SOURCE = Source(
    name=NAME,
    title="autoPET III to V: FDG and PSMA whole-body PET/CT, NIfTI in nnU-Net's layout",
    layout=LAYOUT,
    plan=plan,
    convert=convert,
    facts=FACTS,
    options=OPTIONS,
    least_bytes=least_bytes,
)
"""What the entry point `fdat` of the group `clicksim.sources` names."""

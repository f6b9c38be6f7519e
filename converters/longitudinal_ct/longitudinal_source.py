"""Longitudinal CT of melanoma: 300 patients, baseline and follow-up, every lesion with its identity.

From the University Hospital Tübingen, published on FDAT: v1 10.57754/FDAT.qwsry-7t837 (autoPET IV), v2
10.57754/FDAT.75kj1-64747 (adds topology and `data_split.json`), v3 10.57754/FDAT.qe950-g4h94 (adds demographics).
Paper: 10.1038/s41597-026-07466-y. Licence: CC BY-NC 4.0. The paper names CC BY; the stricter licence applies.

    SOURCE/
      data_split.json                                      train, val, test (v2, v3)
      *demographics*.csv                                   v3
      inputsTr/<pid>.csv                                   lesion table, see `converters.longitudinal_ct.lesion_csv`
      inputsTr/<pid>_<BL|FU>_img_<NN>.nii.gz               CT; in v1 <pid>_<BL|FU>_img_<BL|FU>_img_<NN>.nii.gz
      inputsTr/<pid>_BL_mask_<NN>.nii.gz                   lesion ids; in v1 <pid>_BL_mask_BL_img_<NN>.nii.gz
      inputsTr/<pid>_<BL|FU>_<NN>.json                     points, see `converters.longitudinal_ct.lesion_points`
      targetsTr/<pid>_FU_mask_<NN>.nii.gz                  lesion ids; in v1 <pid>_FU_mask_FU_img_<NN>.nii.gz

`NN` numbers the images (body regions) of a time point; it is not the time point. Images are used in place and read
completely, so a converted case has a complete CT and a complete mask. Stored ids are kept. An empty mask is a valid
case: a complete responder. The demographics of v3 and real masks were not available when this was written.
Demographic columns are recognised by their names; missing ones are not filled in.

A lesion has a row at each time point at which the masks or the table mention it. If the mask does not contain the
lesion, its voxel columns are null: lesions that are gone or merged at follow-up, which keep `cog_propagated_ijk`,
and new lesions at baseline. Every row of a merge repeats the volume of the merged lesion in `csv_volume_mm3`: sum
`volume_ml` instead.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from clicksim import __version__
from clicksim.catalog.source import Context, Outcome, Row, Source, Unit
from clicksim.errors import PromptFormatError, up_to_ten
from clicksim.geometry import Grid
from clicksim.volumes import digest_voxels
from converters.longitudinal_ct.lesion_csv import (
    Cog,
    LesionRow,
    LesionTable,
    Presence,
    Topology,
    find_topology,
    link_lesions,
    read_lesion_csv,
)
from converters.longitudinal_ct.lesion_points import point_tables, read_published_points
from converters.longitudinal_ct.longitudinal_files import (
    LAYOUT,
    RELEASES,
    TIMEPOINTS,
    LongitudinalPatient,
    LongitudinalScan,
    only_file,
    plan,
)
from converters.shared.case_measures import measure_case
from converters.shared.nifti_images import check_grids, read_labels, read_scan, rejecting, sha256_of
from converters.shared.tables import Rejection
from converters.shared.trees import inside_source

LICENCE = "CC-BY-NC-4.0"
USUAL_AXES = "LPS"
APART_VX = 0.25  # rounding moves a point by less than this, a missing half voxel by more

Placed = list[tuple[LesionRow, int | None]]


@dataclass
class Measured:
    """A converted scan: its row, its lesions by id, its grid."""

    case: Row
    lesions: dict[int, Row]
    grid: Grid
    flags: set[str]


def convert(context: Context, unit: Unit) -> Outcome:
    """Convert the cases, lesions and links of one patient."""
    patient: LongitudinalPatient = unit.content
    outcome = Outcome()
    table = _read_table(context, patient, outcome)
    taken: dict[tuple[str, int], Measured] = {}
    for key, scan in sorted(patient.scans.items()):
        measured = _take_scan(context, patient, key, scan, outcome)
        if measured is not None:
            taken[key] = measured
    bl, fu = (_presence(patient, taken, timepoint) for timepoint in TIMEPOINTS)
    topology = find_topology(table.rows if table else (), bl, fu)
    placed = {timepoint: _place_rows(patient, table, taken, timepoint, outcome) for timepoint in TIMEPOINTS}
    for (timepoint, region), measured in taken.items():
        rows = {row.lesion_id: row for row, at in placed[timepoint] if at == region}
        outcome.lesions += _join_lesions(measured, rows, topology, timepoint)
        _flag_table(measured, table, rows)
        if any(at is None for _, at in placed[timepoint]):
            measured.flags.add("LESION_IMAGE_UNKNOWN")
        _flag_points(context, patient, (timepoint, region), measured, rows, outcome)
        other = ("FU" if timepoint == "BL" else "BL", region)
        measured.case["paired_case_id"] = taken[other].case["case_id"] if other in taken else None
        outcome.cases.append(measured.case | {"quality_flags": sorted(measured.flags)})
    cases = {timepoint: _cases_of_lesions(placed, taken, timepoint) for timepoint in TIMEPOINTS}
    links = link_lesions(topology, cases["BL"], cases["FU"])
    outcome.links += [link | {"patient_key": patient.key} for link in links]
    return outcome


def _read_table(context: Context, patient: LongitudinalPatient, outcome: Outcome) -> LesionTable | None:
    """Read the lesion table; None if it is missing. Unusable rows are rejected one by one."""
    path = patient.tables[0] if patient.tables else f"inputsTr/{patient.pid}.csv"
    try:
        table = read_lesion_csv(only_file(context, patient.tables, "lesion table"))
    except Rejection as error:
        if patient.tables:
            outcome.reject(error.code, str(error), path=path, patient_key=patient.key)
        return None
    for _, message in table.refused:
        outcome.reject("BadTable", message, path=path, patient_key=patient.key)
    if not patient.scans:
        message = f"{path} has {len(table.rows)} lesions, but the patient has no image; complete the download"
        outcome.reject("MissingChannel", message, path=path, patient_key=patient.key)
    return table


def _take_scan(
    context: Context, patient: LongitudinalPatient, key: tuple[str, int], scan: LongitudinalScan, outcome: Outcome
) -> Measured | None:
    """Read and measure one image and its mask, or reject it."""
    case_id, source = patient.case_id(*key), context.source
    try:
        image, mask = only_file(context, scan.img, "CT"), only_file(context, scan.mask, "mask")
        labels = read_labels(mask, source, usual_axes=USUAL_AXES)
        ct = read_scan(image, source)
        check_grids(ct.grid, labels.grid, ("CT", "mask"))
        with rejecting(mask, source, "BadLabel"):
            measures, lesions = measure_case(labels.array, labels.grid, None, instances="labels")
    except Rejection as error:
        path = error.path or next(iter(scan.mask + scan.img + scan.points))
        outcome.reject(error.code, str(error), path=path, case_id=case_id, patient_key=patient.key)
        return None
    case = measures | patient.demographics.get(key[0], {}) | {
        "case_id": case_id,
        "source_release": RELEASES[patient.release],
        "licence": LICENCE,
        "patient_key": patient.key,
        "tracer_class": "none",
        "timepoint": key[0],
        "body_region_id": key[1],
        "diagnosis": "MELANOMA",
        "contrast_ct": True,
        "defaced": True,
        "ct_path": context.in_place(image),
        "ct_digest": digest_voxels(ct.array),
        "label_path": context.in_place(mask),
        "axcodes_in": labels.facts.axcodes,
        "ct_native_spacing_mm": measures["spacing_xyz_mm"],
        "official_split": patient.official_split,
        "sha256_in": sha256_of(mask),
        "converter_version": __version__,
    }  # fmt: skip
    if key[0] == "BL":
        case["days_since_baseline"] = 0
    return Measured(case, {row["lesion_index"]: row for row in lesions}, labels.grid, set(labels.flags))


def _presence(patient: LongitudinalPatient, taken: Mapping[tuple[str, int], Measured], timepoint: str) -> Presence:
    found = [key for key in patient.scans if key[0] == timepoint]
    ids = {number for key in found if key in taken for number in taken[key].lesions}
    return Presence(frozenset(ids), bool(found) and all(key in taken for key in found))


def _at(row: LesionRow, timepoint: str) -> tuple[Cog, Cog, float | None, int | None]:
    """What the table says about a time point: its centroid, the centroid mapped there, the volume, the image."""
    if timepoint == "BL":
        return row.cog_bl, row.cog_backpropagated, row.volume_bl, row.img_id_bl
    return row.cog_fu, row.cog_propagated, row.volume_fu, row.img_id_fu


def _place_rows(
    patient: LongitudinalPatient,
    table: LesionTable | None,
    taken: Mapping[tuple[str, int], Measured],
    timepoint: str,
    outcome: Outcome,
) -> Placed:
    """The rows that mention a time point, each with its image.

    If the table names no image, use the image whose mask contains the lesion, else the only image, else None. Images
    that the table names but that are missing are rejected as cases.
    """
    regions = sorted(region for time, region in patient.scans if time == timepoint)
    placed: Placed = []
    missing: dict[int, list[int]] = defaultdict(list)
    for row in table.rows if table and patient.scans else ():
        own, carried, volume, image = _at(row, timepoint)
        holding = [r for r in regions if (timepoint, r) in taken and row.lesion_id in taken[timepoint, r].lesions]
        is_silent = own.reason == carried.reason == "empty" and volume is None and image is None
        if image is None:
            image = holding[0] if holding else regions[0] if len(regions) == 1 else None
        if image is not None and image not in regions:
            missing[image].append(row.lesion_id)
        elif holding or not is_silent:
            placed.append((row, image))
    for image, ids in sorted(missing.items()):
        outcome.reject(
            "MissingChannel",
            f"the lesion table places lesions {up_to_ten(ids)} in image {image:02d} of {timepoint}, which is missing; "
            "complete the download",
            path=patient.tables[0],
            case_id=patient.case_id(timepoint, image),
            patient_key=patient.key,
        )
    return placed


def _cases_of_lesions(
    placed: Mapping[str, Placed],
    taken: Mapping[tuple[str, int], Measured],
    timepoint: str,
) -> dict[int, str]:
    """The case of each lesion at a time point: the case whose mask contains it, else the one that the table names.

    If several masks contain the lesion, use the one that the table names.
    """
    cases: dict[int, str] = {}
    for (time, _), measured in sorted(taken.items(), reverse=True):
        if time == timepoint:
            cases |= dict.fromkeys(measured.lesions, str(measured.case["case_id"]))
    for row, region in placed[timepoint]:
        named = None if region is None else taken.get((timepoint, region))
        if named is not None and (row.lesion_id in named.lesions or row.lesion_id not in cases):
            cases[row.lesion_id] = str(named.case["case_id"])
    return cases


def _join_lesions(
    measured: Measured, rows: Mapping[int, LesionRow], topology: Mapping[int, Topology], timepoint: str
) -> list[Row]:
    """Rows of the table of lesions: mask and lesion table, joined by id; rows of one side alone are kept."""
    joined = []
    for number in sorted(measured.lesions.keys() | rows.keys()):
        fate = topology[number]
        lesion: Row = {"lesion_index": number, "id_is_native": True} | measured.lesions.get(number, {})
        lesion |= {"case_id": measured.case["case_id"], "topology_class": fate.topology_class}
        lesion["merged_into"] = fate.merged_into
        if fate.contradicts:
            measured.flags.add("TOPOLOGY_CONTRADICTS")
        if number in rows:
            row = rows[number]
            lesion |= _table_columns(row, measured.grid, timepoint)
            measured.flags |= _flags_of_row(row, lesion, fate, measured.grid, timepoint)
        joined.append(lesion)
    return joined


def _table_columns(row: LesionRow, grid: Grid, timepoint: str) -> Row:
    own, carried, volume, _ = _at(row, timepoint)
    return {
        "csv_volume_mm3": volume,
        "cog_csv_ijk": own.index,
        "cog_propagated_ijk": carried.index if timepoint == "FU" else None,
        "cog_backpropagated_ijk": carried.index if timepoint == "BL" else None,
        "propagated_in_fov": _is_inside(carried, grid) if timepoint == "FU" else None,
        "lesion_type": row.lesion_type,
        "linking_unclear": row.linking_unclear,
        "target_lesion": row.target_lesion,
        "use_for_challenge": row.use_for_challenge,
    }


def _is_inside(cog: Cog, grid: Grid) -> bool | None:
    voxel = cog.voxel
    return None if voxel is None else all(0 <= v < n for v, n in zip(voxel, grid.shape, strict=True))


def _flags_of_row(row: LesionRow, lesion: Row, fate: Topology, grid: Grid, timepoint: str) -> set[str]:
    """Flag differences between a row of the lesion table and its mask."""
    own, carried, volume, _ = _at(row, timepoint)
    voxels = lesion.get("voxels")
    flags = set()
    if own.is_unreadable or carried.is_unreadable:
        flags.add("COG_UNREADABLE")
    if _is_inside(own, grid) is False:
        flags.add("COG_OUTSIDE")
    if row.unreadable:
        flags.add("LESION_VALUE_UNREADABLE")
    if voxels is None and _is_expected(own, fate, row.lesion_id, timepoint):
        flags.add("CSV_ID_NOT_IN_MASK")
    voxel_mm3 = grid.voxel_ml * 1000
    if voxels is not None and volume is not None and abs(volume - voxels * voxel_mm3) > voxel_mm3 / 2:
        flags.add("CSV_VOLUME_DIFFERS")
    if voxels is not None and own.index is not None:
        apart = max(abs(a - b) for a, b in zip(own.index, lesion["centroid_ijk"], strict=True))
        flags |= {"COG_DIFFERS"} if apart > APART_VX else set()
    return flags


def _is_expected(own: Cog, fate: Topology, number: int, timepoint: str) -> bool:
    """Whether the table expects the lesion in the mask of a time point.

    A derived class follows the masks, so the centroid decides; rows of a merge or split share a centroid.
    """
    name = fate.topology_class
    if timepoint == "FU" and name == "MERGING":
        return fate.merged_into == number
    if timepoint == "BL" and name == "SPLITTING":
        return fate.split_from == number
    if fate.is_derived:
        return own.reason != "empty"
    return name != ("NEWLYAPPEARING" if timepoint == "BL" else "DISAPPEARING")


def _flag_table(measured: Measured, table: LesionTable | None, rows: Mapping[int, LesionRow]) -> None:
    """Flag a case for problems of the lesion table as a whole."""
    if table is None:
        measured.flags.add("LESION_TABLE_MISSING")
        return
    refused = {number for number, _ in table.refused}
    if refused:
        measured.flags.add("LESION_ROW_REFUSED")
    if measured.lesions.keys() - rows.keys() - refused:
        measured.flags.add("MASK_ID_NOT_IN_CSV")
    carried = [row.cog_propagated for row in table.rows if row.cog_bl.point is not None]
    if measured.case["timepoint"] == "FU" and carried and all(cog.point is None for cog in carried):
        measured.flags.add("PROPAGATED_MISSING")


def _flag_points(
    context: Context,
    patient: LongitudinalPatient,
    key: tuple[str, int],
    measured: Measured,
    rows: Mapping[int, LesionRow],
    outcome: Outcome,
) -> None:
    """Flag published points that mix prior knowledge with truth."""
    for path in patient.scans[key].points:
        try:
            points = read_published_points(inside_source(context.source, path), measured.case, rows.values())
        except (Rejection, PromptFormatError) as error:
            code, message = getattr(error, "code", "UnreadableFile"), str(error).replace(f"{context.source}/", "")
            outcome.reject(code, message, path=path, case_id=patient.case_id(*key), patient_key=patient.key)
            continue
        if {"cog_propagated", "cog_fu"} <= {point.origin for point in points}:
            measured.flags.add("PUBLISHED_POINTS_MIXED")


SOURCE = Source(
    name="longitudinal_ct",
    title="Longitudinal CT of melanoma: 300 patients, baseline and follow-up (autoPET IV)",
    layout=LAYOUT,
    plan=plan,
    convert=convert,
    facts={
        "title": "Longitudinal-CT",
        "release": "; ".join(RELEASES.values()),
        "doi": "10.57754/FDAT.qe950-g4h94",
        "licence": LICENCE,
        "controlled_access": False,
        "citation": (
            "Longitudinal-CT. University Hospital Tübingen, FDAT (the DOI of the release: "
            "10.57754/FDAT.qwsry-7t837, 10.57754/FDAT.75kj1-64747 or 10.57754/FDAT.qe950-g4h94). "
            "Data descriptor: Scientific Data 2026, 10.1038/s41597-026-07466-y."
        ),
        "bibtex": (
            '@misc{longitudinal_ct, title = {Longitudinal-CT}, publisher = {FDAT, University of T{\\"u}bingen}, '
            "doi = {10.57754/FDAT.qe950-g4h94}, note = {data descriptor: 10.1038/s41597-026-07466-y}}"
        ),
        "annotation": (
            "each lesion drawn on the CT with an id that it keeps from baseline to follow-up; topology as published "
            "from v2 on, derived by ids and centroids for v1"
        ),
        "readers": None,
    },
    options={"release": "v1, v2 or v3, if the folder does not show it"},
    prompt_runs=point_tables,
)

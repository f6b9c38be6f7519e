"""The catalog's columns, declared once: name, type, unit, meaning, and where each source takes it from.

The reference page in the documentation is generated from this file. `case_id` is unique within a source and
`source` is in the folder name, as in any hive-partitioned table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from clicksim.catalog.dicom_codes import DICOM_FLAGS, DICOM_REASONS
from clicksim.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
SOURCES = ("tcia_fdg", "tcia_psma", "fdat", "deep_psma", "longitudinal_ct")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: As in the files.
        kind: A key of `KINDS`.
        meaning: One line, with the unit and the allowed words.
        taken_from: By source, where the value comes from; a source that is not named leaves it null.
    """

    name: str
    kind: str
    meaning: str
    taken_from: Mapping[str, str] = field(default_factory=dict)


def _from(tcia: str = "", fdat: str = "", psma: str = "", longi: str = "") -> dict[str, str]:
    """Origins by source; both TCIA collections share one."""
    named = {"tcia_fdg": tcia, "tcia_psma": tcia, "fdat": fdat, "deep_psma": psma, "longitudinal_ct": longi}
    return {source: origin for source, origin in named.items() if origin}


CASES = (
    Column("case_id", "text", "unique name within the source",
           _from("PatientID and StudyInstanceUID", "file name", "train_NNNN/TRACER", "pid_TP_NN")),
    Column("source_release", "text", "DOI, record or version of the release", _from(*["release"] * 4)),
    Column("licence", "text", "licence of the release; the strictest where two are named", _from(*["release"] * 4)),
    Column("patient_key", "text", "pseudonym; one patient never has two, and no two sources share one by chance",
           _from("PatientID", "second token of the name", "folder", "pid")),
    Column("study_key", "text", "joins the same study across fdat and TCIA: patient and date",
           _from("patient and StudyDate (+6247 days for PSMA)", "patient and date")),
    Column("fdat_case_id", "text", "the name of the same study in fdat", _from("computed")),
    Column("tracer_class", "word", "FDG, PSMA or none",
           _from("collection", "first token of the name", "folder", "none")),
    Column("radionuclide", "word", "F18 or Ga68", _from("code, half-life", "psma_metadata.csv; F18 for FDG")),
    Column("study_date_raw", "text", "as found", _from("StudyDate", "name")),
    Column("study_date", "date", "parsed; shifted where date_shifted says so", _from("StudyDate", "name")),
    Column("date_shifted", "flag", "dates are comparable within a patient only", _from("true", "true")),
    Column("days_since_baseline", "int", "days", _from(longi="demographics (v3)")),
    Column("timepoint", "word", "single, BL or FU", _from("single", "single", "single", "file name")),
    Column("body_region_id", "small", "0, 1 or 2: the image of a time point", _from(longi="file name")),
    Column("study_description", "text", "as found", _from("StudyDescription", "name (FDG)")),
    Column("sex", "word", "F or M", _from("PatientSex", "fdg_metadata.csv; M for PSMA", "", "demographics (v3)")),
    Column("age_years", "single", "years", _from("PatientAge", "metadata", "", "demographics (v3)")),
    Column("diagnosis", "word", "NEGATIVE, MELANOMA, LYMPHOMA, LUNG_CANCER or PROSTATE",
           _from("clinical table", "fdg_metadata.csv; PROSTATE for PSMA", "PROSTATE", "MELANOMA")),
    Column("contrast_ct", "flag", "CT with contrast agent", _from("tags", "psma_metadata.csv", "", "true by protocol")),
    Column("manufacturer", "text", "of the PET scanner", _from("Manufacturer")),
    Column("model", "text", "of the PET scanner", _from("ManufacturerModelName", "psma_metadata.csv")),
    Column("patient_weight_kg", "single", "kg", _from("PatientWeight")),
    Column("injected_dose_bq", "double", "Bq", _from("RadionuclideTotalDose")),
    Column("half_life_s", "double", "s", _from("RadionuclideHalfLife", "nuclide")),
    Column("uptake_time_s", "double", "s from injection to the reference time",
           _from("times", "injection table (PSMA)")),
    Column("pet_units_in", "text", "unit of the stored PET", _from("Units", "SUV", "SUV")),
    Column("decay_correction", "word", "START, ADMIN or NONE", _from("DecayCorrection")),
    Column("suv_factor", "double", "SUV per stored unit; null where it differs by slice", _from("rule", "1", "1")),
    Column("suv_factors", "doubles", "one factor per slice, where it differs", _from("rule")),
    Column("suv_ref_time_rule", "word", "GE_PRIVATE, SERIES, BACK, ACQ or NONE", _from("rule")),
    Column("suv_adm_time_rule", "word", "TABLE, DATETIME, TIME, TIME_PREV_DAY or GE_PRIVATE", _from("rule")),
    Column("suv_warnings", "texts", "codes of the SUV rules", _from("rule")),
    Column("suv_rules", "texts", "the rule and tag of each value: subject, rule, tag, value", _from("rule")),
    Column("pet_bed_starts_s", "doubles", "s from the decay reference to each acquisition", _from("AcquisitionTime")),
    Column("pet_first_file_s", "double", "the same for the first file by name", _from("AcquisitionTime")),
    Column("pet_reconstruction", "text", "as found", _from("ReconstructionMethod")),
    Column("pet_iterations", "small", "of the reconstruction", _from("NumberOfIterations, or the method's name")),
    Column("pet_subsets", "small", "of the reconstruction", _from("NumberOfSubsets, or the method's name")),
    Column("pet_filter_mm", "single", "FWHM of the Gaussian filter, mm", _from("ConvolutionKernel")),
    Column("pet_slice_thickness_mm", "single", "mm, not the distance of slices", _from("SliceThickness")),
    Column("ct_kvp", "single", "tube voltage, kV", _from("KVP")),
    Column("ct_exposure_mas", "single", "mAs, of the middle slice", _from("Exposure")),
    Column("ct_kernel", "text", "reconstruction kernel", _from("ConvolutionKernel")),
    Column("ct_slice_thickness_mm", "single", "mm, not the distance of slices", _from("SliceThickness")),
    Column("ct_contrast_agent", "text", "as found", _from("ContrastBolusAgent")),
    Column("series_choice", "texts", "what decided between the series of the study", _from("rule")),
    Column("pet_path", "text", "root:relative path of the uptake", _from("written", "imagesTr", "source")),
    Column("ct_path", "text", "root:relative path of the CT on the grid of the case",
           _from("written", "imagesTr", "written", "inputsTr")),
    Column("label_path", "text", "root:relative path of the mask or instance map",
           _from("written", "labelsTr", "source", "inputsTr or targetsTr")),
    Column("organs_path", "text", "root:relative path of organ labels", _from(psma="written")),
    Column("organs_map", "text", "label map of organs_path: software, version and task",
           _from(psma="TotalSegmentator v2 total")),
    Column("normal_path", "text", "root:relative path of the mask of physiological uptake", _from(psma="written")),
    Column("ct_series_uid", "text", "SeriesInstanceUID", _from("tag")),
    Column("pt_series_uid", "text", "SeriesInstanceUID", _from("tag")),
    Column("seg_series_uid", "text", "SeriesInstanceUID", _from("tag")),
    Column("shape_xyz", "int3", "voxels along the stored axes i, j, k", _from("PET", "label", "PET", "mask")),
    Column("spacing_xyz_mm", "double3", "mm along the stored axes i, j, k", _from("PET", "label", "PET", "mask")),
    Column("affine_ras", "double16", "voxel to RAS+ mm, row by row", _from("computed", "label", "PET", "mask")),
    Column("axcodes_in", "word", "orientation of the stored axes, such as LAS", _from(*["header"] * 4)),
    Column("ct_native_spacing_mm", "double3", "before resampling", _from("tags", "", "header", "header")),
    Column("ct_coverage_fraction", "single", "PET voxels that the CT covers, 0 to 1",
           _from("computed", "", "computed")),
    Column("ct_fill_value_hu", "short", "HU where the CT does not reach", _from("-1024", "-1024", "-1024")),
    Column("z_gap_min_mm", "single", "smallest distance of two PET slices", _from("slice positions")),
    Column("z_gap_max_mm", "single", "largest distance of two PET slices", _from("slice positions")),
    Column("defaced", "flag", "the face was removed; null where unknown", _from("release", "", "", "true")),
    Column("instances", "word", "components where the label is a mask, labels where its values are the lesions' ids",
           _from(*["converter"] * 4)),
    Column("lesion_present", "flag", "the mask is not empty", _from(*["mask"] * 4)),
    Column("n_lesions", "int", "components of 26-connectivity, or stored ids", _from(*["mask"] * 4)),
    Column("lesion_volume_ml", "double", "ml", _from(*["mask"] * 4)),
    Column("suv_max", "single", "g/ml, of the whole volume", _from("PET", "PET", "PET")),
    Column("suv_max_in_lesion", "single", "g/ml", _from("PET", "PET", "PET")),
    Column("suv_threshold", "single", "g/ml; lesions and physiological uptake are at or above it",
           _from(psma="threshold.json")),
    Column("ttb_below_threshold_voxels", "int", "lesion voxels below the threshold, on the native grid",
           _from(psma="computed")),
    Column("rigid_to_other_ras", "double16",
           "RAS+ mm of this case to RAS+ mm of the other tracer's, row by row; the centre is included",
           _from(psma="rigid.tfm")),
    Column("paired_case_id", "text", "the other tracer, or the same region at the other time point",
           _from(psma="folder", longi="file name")),
    Column("official_fold", "small", "validation fold of the publisher, 0 to 4", _from("", "splits_final.json")),
    Column("official_split", "word", "train, val or test", _from(longi="data_split.json (v2, v3)")),
    Column("n_frames_seg", "int", "frames of the SEG", _from("SEG")),
    Column("n_segments", "int", "segments of the SEG", _from("SEG")),
    Column("sha256_in", "text", "SHA-256 of the label file as published", _from("SEG", "file", "file", "file")),
    Column("label_digest", "text", "of the label's voxels, by which it can be found again", _from(*["computed"] * 4)),
    Column("pet_digest", "text", "of the PET's voxels", _from(*["computed"] * 3)),
    Column("ct_digest", "text", "of the CT's voxels", _from(*["computed"] * 4)),
    Column("converter_version", "text", "clicksim version", _from(*["converter"] * 4)),
    Column("quality_flags", "texts", "codes of FLAGS", _from(*["converter"] * 4)),
)  # fmt: skip

LESIONS = (
    Column("case_id", "text", "the case"),
    Column("lesion_index", "int", "number of the component, or the stored id"),
    Column("id_is_native", "flag", "the number is the publisher's"),
    Column("voxels", "int", "voxels; null where the mask has no such id"),
    Column("volume_ml", "double", "ml"),
    Column("csv_volume_mm3", "double", "the publisher's volume, mm³", _from(longi="volume_bl, volume_fu")),
    Column("centroid_ijk", "double3", "mean voxel; a whole number is the centre of a voxel"),
    Column("centroid_ras_mm", "double3", "RAS+ mm"),
    Column("deepest_ijk", "int3", "the voxel farthest from the outside, in mm"),
    Column("depth_mm", "single", "its distance to the nearest voxel outside, mm"),
    Column("cog_csv_ijk", "double3", "the publisher's centroid, half a voxel already subtracted",
           _from(longi="cog_bl or cog_fu")),
    Column("cog_propagated_ijk", "double3", "baseline centroid carried to the follow-up by registration",
           _from(longi="cog_propagated")),
    Column("cog_backpropagated_ijk", "double3", "follow-up centroid carried to the baseline",
           _from(longi="cog_backpropagated")),
    Column("propagated_in_fov", "flag", "the propagated centroid is inside the image", _from(longi="computed")),
    Column("bbox_ijk", "int6", "first and last voxel of the box, both inside"),
    Column("suv_max", "single", "g/ml"),
    Column("suv_mean", "single", "g/ml"),
    Column("suv_peak", "single", "g/ml: highest mean over a sphere of 1 ml centred on a lesion voxel"),
    Column("lesion_type", "word", "site", _from(longi="lesion_type")),
    Column("topology_class", "word", "UNCHANGED, DISAPPEARING, NEWLYAPPEARING, MERGING or SPLITTING",
           _from(longi="column, or derived")),
    Column("merged_into", "int", "the lesion that this one is part of at follow-up", _from(longi="merged_into")),
    Column("linking_unclear", "flag", "as published; null where the table has no such column", _from(longi="column")),
    Column("target_lesion", "flag", "as published", _from(longi="column")),
    Column("use_for_challenge", "flag", "as published", _from(longi="column")),
)  # fmt: skip

LINKS = (
    Column("patient_key", "text", "the patient"),
    Column("bl_case_id", "text", "case at baseline; null for a new lesion"),
    Column("bl_lesion", "int", "lesion_index there"),
    Column("fu_case_id", "text", "case at follow-up; null for a lesion that disappeared"),
    Column("fu_lesion", "int", "lesion_index there"),
    Column("relation", "word", "same, merged, appeared, disappeared or split"),
    Column("link_source", "word", "csv_class if the publisher gives the link, derived if ids and centroids give it"),
)

REJECTED = (
    Column("case_id", "text", "the case, as far as it has a name"),
    Column("patient_key", "text", "the patient, where known"),
    Column("path", "text", "what was found, relative to the source folder"),
    Column("code", "text", "reason; a key of REASONS"),
    Column("message", "text", "what is wrong, what was found, how to fix it"),
)

ORIGINS = (
    Column("source", "text", "name in the tables"),
    Column("title", "text", "name of the collection"),
    Column("release", "text", "release or version that the catalog was made from"),
    Column("doi", "text", "DOI or record"),
    Column("licence", "text", "licence; the strictest where the publisher names two"),
    Column("controlled_access", "flag", "needs an agreement with the publisher"),
    Column("citation", "text", "what a paper that uses the cases must cite"),
    Column("bibtex", "text", "the same for a bibliography"),
    Column("annotation", "text", "how lesions were drawn"),
    Column("readers", "text", "who drew and checked them"),
)

ROUNDS = (
    Column("case_id", "text", "the case"),
    Column("annotator", "text", "who made the prompts; simulated for a rule"),
    Column("round", "int", "exchange with the model, from 0"),
    Column("dice", "double", "overlap of the masks; null where the rule leaves it undefined"),
    Column("dmm", "double", "lesion F1 of this case; null where undefined"),
    Column("tp", "int", "lesions found; null, like all scores below, if there is no prediction"),
    Column("fp", "int", "predicted components that match no lesion"),
    Column("fn", "int", "lesions not found"),
    Column("fpv_ml", "double", "volume of predicted components that touch no lesion, ml"),
    Column("fnv_ml", "double", "volume of lesions that no prediction touches, ml; null where undefined"),
    Column("truth_ml", "double", "volume of the truth, ml"),
    Column("predicted_ml", "double", "volume of the prediction, ml"),
    Column("n_prompts", "int", "prompts seen so far: clicks, or strokes"),
    Column("inferred", "flag", "the predictor was called; false if the rounds had ended before"),
    Column("failure", "word", "a key of FAILURES; null if nothing failed"),
    Column("detail", "text", "what failed, in words"),
    Column("patient_key", "text", "the patient"),
    Column("source", "word", "name of the source; null outside a catalog"),
    Column("tracer_class", "word", "FDG, PSMA or none; null where unknown"),
    Column("model", "text", "PET scanner; null where unknown"),
)

FOLDS = (
    Column("source", "text", "source of the case"),
    Column("case_id", "text", "the case"),
    Column("patient_key", "text", "the patient; a fold never trains on a patient that it validates on"),
    Column("fold", "short", "the fold that validates on the case; null if all folds leave it out, such as a test case"),
    Column("left_out", "text", "the tracer or scanner that the fold validates on; null in a stratified plan"),
    Column("official", "flag", "the fold is the publisher's"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "cases": CASES,
    "folds": FOLDS,
    "lesions": LESIONS,
    "links": LINKS,
    "rejected": REJECTED,
    "rounds": ROUNDS,
    "sources": ORIGINS,
}

SORT_KEYS: dict[str, tuple[str, ...]] = {
    "cases": ("case_id",),
    "lesions": ("case_id", "lesion_index"),
    "links": ("patient_key", "bl_case_id", "bl_lesion", "fu_case_id", "fu_lesion"),
    "rejected": ("path", "case_id", "code", "message"),
    "folds": ("source", "case_id"),
    "prompts": ("case", "round", "stroke", "order"),
    "rounds": ("case_id", "annotator", "round"),
    "sources": ("source",),
}

UNIQUE = {"cases": ["case_id"], "lesions": ["case_id", "lesion_index"]}
"""Columns that identify a row of one source."""

FLAGS = {
    "LABEL_FLOAT": "the label is stored as floating point",
    "LABEL_RESAMPLED": "the label was on another grid and was resampled, nearest neighbour",
    "LABEL_REWRITTEN": "rewritten as 0 and 1 with the header of the PET; the published label differs in one of these",
    "HEADERS_DIFFER": "headers of one lattice are more than 0.01 mm apart at a corner, less than a tenth of a voxel",
    "CT_RESAMPLED": "the CT was on another grid and was resampled",
    "CT_COVERAGE_LOW": "the CT covers less than 98 % of the PET",
    "CT_CLIPPED": "CT values below -1024 or above 3071 HU were set to these limits",
    "CT_GRID_DIFFERS": "the CT is on another grid than the label; it is left as it is",
    "AXES_NOT_LAS": "the stored axes differ from those of most cases of the source",
    "QFORM_ONLY": "the affine comes from the qform alone",
    "AFFINE_GUESSED": "the header has neither sform nor qform; the affine is made from the spacing alone",
    "EMPTY_BUT_DIAGNOSED": "no lesion in the mask, but the diagnosis is not NEGATIVE",
    "LESION_BUT_NEGATIVE": "lesions in the mask, but the diagnosis is NEGATIVE",
    "LESION_IN_DEFACED": "lesion voxels with an uptake of exactly 0, as de-facing leaves them",
    "NEGATIVE_UPTAKE": "the uptake has negative values",
    "FINGERPRINT_DIFFERS": "shape or spacing differ from the dataset's fingerprint",
    "METADATA_MISSING": "the metadata table has no row for this case",
    "METADATA_CONTRADICTS": "the metadata table has rows that contradict each other",
    "INJECTION_TIME_NOT_GIVEN": "the table of the option injection_times has no time for this case",
    "METADATA_UNREADABLE": "the metadata table has a value that its column does not allow",
    "THRESHOLD_UNUSUAL": "the threshold is outside 1.5 to 8",
    "TTB_BELOW_THRESHOLD": "lesion voxels below the threshold, at most 1 % of them",
    "THRESHOLD_VIOLATION": "more than 1 % of the lesion voxels are below the threshold",
    "REGISTRATION_NOT_INVERSE": "the two registrations of a patient are not each other's inverse",
    "REGISTRATION_MISSING": "no usable registration between the tracers",
    "REGISTRATION_INVERTED": "the registration is the inverse of the other tracer's, as its own cannot be used",
    "TRACER_MISSING": "the patient's other tracer is not there, or was rejected",
    "ORGANS_MISSING": "no organ labels",
    "ORGANS_UNREADABLE": "the organ labels cannot be read; they are left out",
    "ORGANS_GRID_DIFFERS": "the organ labels are on another grid than the CT; they were resampled from their own",
    "ORGANS_UNKNOWN_ID": "the organ labels have ids that their label map does not name",
    "CSV_VOLUME_DIFFERS": "a volume in the table differs from the mask",
    "CSV_ID_NOT_IN_MASK": "the table names a lesion that the mask does not hold",
    "MASK_ID_NOT_IN_CSV": "the mask holds a lesion that the table does not name",
    "COG_UNREADABLE": "a centroid in the table cannot be read",
    "COG_OUTSIDE": "a centroid is outside the image",
    "PROPAGATED_MISSING": "no propagated centroid in any row",
    "COG_DIFFERS": "a centroid in the table is more than a quarter of a voxel from that of the mask",
    "LESION_TABLE_MISSING": "the patient has no lesion table, or it cannot be read",
    "LESION_ROW_REFUSED": "the patient's lesion table has rows that cannot be used",
    "LESION_VALUE_UNREADABLE": "the lesion table has a value that its column does not allow; it is left out",
    "LESION_IMAGE_UNKNOWN": "the lesion table places a lesion at this time point but in no image",
    "TOPOLOGY_CONTRADICTS": "a published topology class is one that the masks cannot have",
    "PUBLISHED_POINTS_MIXED": "the published points of the case mix propagated centroids with true ones",
    **DICOM_FLAGS,
}

FAILURES = {
    "PredictorError": "the predictor raised, or its command ended with an error",
    "TimeLimit": "no answer within the time limit",
    "NoPrediction": "the predictor ended without a prediction, or there is no recorded one",
    "WrongShape": "the prediction has another shape than the case",
    "WrongGrid": "the prediction is on another grid than the case",
    "BadLabel": "the prediction has values that are not labels, or its file cannot be read",
    "OneKindOfError": "published rule: without false positives or without false negatives its loop fails",
    "CaseRefused": "the case cannot be read, or its prompts cannot be simulated",
    "WorkerDied": "the process that played the case died twice, or ran out of memory",
}

REASONS = {
    "BadName": "the file name does not follow the source's grammar",
    "MissingChannel": "a file that the case needs is not there",
    "UnreadableFile": "a file cannot be read, or does not have the expected format",
    "TruncatedFile": "a file is shorter than its header says, or is empty",
    "GridMismatch": "two images of the case are on different grids",
    "BadLabel": "the label has values that are not lesion labels",
    "BadUptake": "the uptake has values that are not finite, has no unit of SUV, or is a CT or a label",
    "BadCt": "the CT has values that are not finite",
    "BadThreshold": "the threshold is missing, not finite, not positive or above 20",
    "BadTable": "a table of the source cannot be parsed",
    "DuplicateCase": "two files claim the same case",
    "PathLeavesRoot": "a path points outside the source folder",
    "ReferenceAborts": "the published script stops at this case",
    "SettingRefused": "the case does not allow the settings",
    "WorkerDied": "the process that converted the case died twice, or ran out of memory",
    **DICOM_REASONS,
}

KINDS = (
    "text", "word", "texts", "flag", "small", "short", "int", "single", "double", "doubles", "int3", "int6",
    "double3", "double16", "date",
)  # fmt: skip


@cache
def table_schema(name: str) -> "pa.Schema":
    """Return the Arrow schema of a table; each field has its meaning as metadata.

    Raises:
        CatalogError: There is no such table.
    """
    import pyarrow as pa

    if name == "prompts":
        from clicksim.prompts.table import prompt_schema

        return prompt_schema()
    if name not in TABLES:
        raise CatalogError(f"no table {name!r} in a catalog; tables: {', '.join([*TABLES, 'prompts'])}")
    kinds = _arrow_kinds()
    return pa.schema([pa.field(c.name, kinds[c.kind], metadata={"meaning": c.meaning}) for c in TABLES[name]])


def rows_to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> "pa.Table":
    """Make a table from rows; missing columns are null.

    Raises:
        CatalogError: The schema does not have a column, or a value does not fit it.
    """
    import pyarrow as pa

    schema, listed = table_schema(name), list(rows)
    unknown = sorted({key for row in listed for key in row} - set(schema.names))
    if unknown:
        raise CatalogError(f"table {name} has no column {', '.join(unknown)}; columns: {', '.join(schema.names)}")
    try:
        columns = [pa.array([row.get(column.name) for row in listed], column.type) for column in schema]
        return pa.table(columns, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise CatalogError(f"a row does not fit table {name}: {error}") from error


def _arrow_kinds() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "text": pa.string(), "word": pa.dictionary(pa.int8(), pa.string()), "texts": pa.list_(pa.string()),
        "flag": pa.bool_(), "small": pa.int8(), "short": pa.int16(), "int": pa.int32(), "single": pa.float32(),
        "double": pa.float64(), "doubles": pa.list_(pa.float64()), "date": pa.date32(),
        "int3": pa.list_(pa.int32(), 3), "int6": pa.list_(pa.int32(), 6),
        "double3": pa.list_(pa.float64(), 3), "double16": pa.list_(pa.float64(), 16),
    }  # fmt: skip

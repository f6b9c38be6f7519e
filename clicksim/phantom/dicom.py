"""Write a phantom as a DICOM study: PET with a slope per slice, CT on its own grid and extent, and a SEG.

The tags that matter for SUV are written as three vendors write them: Siemens (Bq/ml, START, several bed positions),
GE (the same with its private times) and Philips (counts with its private factors). highdicom writes the SEG: either
without empty frames, as in PSMA-PET-CT-Lesions, or with all frames and without the tag on spatial locations, as dcmqi
wrote it for FDG-PET-CT-Lesions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import SettingError, unknown_name
from clicksim.geometry import Grid
from clicksim.phantom import Phantom
from clicksim.phantom.phantom_trees import to_lps

BED_SLICES, BED_SECONDS = 24, 120.0
"""Length of a bed position and its scan time; the scan goes from the thighs to the head."""
CT_BELOW = 2
"""Number of CT slices below the PET."""

COUNTS_TO_SUV = 1e-4
LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Scanner:
    """The header values of a vendor."""

    manufacturer: str
    model: str
    units: str
    half_lives: dict[str, float]
    reconstruction: str
    kernel: str
    ct_kernel: tuple[str, ...]
    signed: bool


SCANNERS = {
    "siemens": Scanner("SIEMENS", "Biograph128_mCT", "BQML", {"F18": 6586.2, "Ga68": 4057.74}, "PSF+TOF 2i21s",
                       "XYZ Gauss2.00", ("I31f", "3"), False),
    "ge": Scanner("GE MEDICAL SYSTEMS", "Discovery 690", "BQML", {"F18": 6588.0, "Ga68": 4080.0}, "VPFX", "",
                  ("STANDARD",), True),
    "philips": Scanner("Philips Medical Systems", "GEMINI TF TOF 64", "CNTS", {"F18": 6586.2, "Ga68": 4062.6},
                       "BLOB-OS-TF", "", ("B",), True),
}  # fmt: skip

NUCLIDES = {"F18": ("C-111A1", "^18^Fluorine"), "Ga68": ("C-131A3", "^68^Gallium")}


@dataclass(frozen=True)
class StudyFacts:
    """Facts for the headers of a study.

    Attributes:
        patient_id: Such as `PETCT_0123456789`.
        day: StudyDate.
        description: StudyDescription.
        vendor: A key of `SCANNERS`.
        nuclide: `F18` or `Ga68`.
        seg: `sparse` as highdicom writes it, or `dcmqi`.
        weight_kg, dose_bq, uptake_s: Values for the SUV; the uptake time is from injection to SeriesTime.
        ct_short: Number of slices at the head that the CT lacks.
        ct_grid: The grid of the CT; None makes one with half the pixel size, aligned with the PET's pixels.
    """

    patient_id: str
    day: date = date(2003, 3, 23)
    description: str = "PET-CT (Ganzkoerper  primaer mit KM)"
    vendor: str = "siemens"
    nuclide: str = "F18"
    seg: str = "sparse"
    weight_kg: float = 68.0
    dose_bq: float = 3.27e8
    uptake_s: float = 3623.0
    ct_short: int = 0
    ct_grid: Grid | None = None


@dataclass(frozen=True)
class WrittenStudy:
    """A study on disk: `folders` by modality, and `suv_steps`, the SUV of one stored unit in each slice."""

    study_uid: str
    series_uids: dict[str, str]
    folders: dict[str, Path]
    suv_factor: float
    suv_steps: NDArray[np.float64] = field(repr=False)


def write_study(folder: Path, phantom: Phantom, facts: StudyFacts, *, layout: str = "descriptive") -> WrittenStudy:
    """Write a phantom as a DICOM study: one file per slice of PET and CT, one for the SEG.

    Args:
        folder: Folder of the collection; the folders of patient, study and series are created in it.
        phantom: The images.
        facts: Values for the headers.
        layout: `descriptive` and `classic` as made by NBIA's retriever, or `uids`: one folder per series, named by
            its UID only, as in cloud buckets.

    Raises:
        SettingError: If vendor, nuclide, layout or kind of SEG is unknown, or pydicom or highdicom is missing.
    """
    for name, value, allowed in (
        ("vendor", facts.vendor, tuple(SCANNERS)),
        ("nuclide", facts.nuclide, tuple(NUCLIDES)),
        ("seg", facts.seg, ("sparse", "dcmqi")),
        ("layout", layout, ("descriptive", "classic", "uids")),
    ):
        if value not in allowed:
            raise unknown_name(name, value, allowed)
    writer = _Writer(folder, phantom, facts, layout)
    pet = list(writer.pet())
    for made in (*pet, writer.seg(pet)):
        writer.save(made)
    for made in writer.ct():
        writer.save(made)
    return WrittenStudy(writer.study_uid, writer.series, writer.folders, writer.factor, writer.steps)


def folder_description(text: str) -> str:
    """Convert a description to a folder name like NBIA's retriever: keep letters, digits, blanks, dots and dashes."""
    return "".join(c for c in text if (c.isascii() and c.isalnum()) or c in " .-_")


class _Writer:
    """Writes one study."""

    def __init__(self, folder: Path, phantom: Phantom, facts: StudyFacts, layout: str) -> None:
        try:
            import highdicom  # noqa: F401
            import pydicom  # noqa: F401
        except ImportError as error:
            raise SettingError("writing DICOM needs pydicom and highdicom: pip install 'clicksim[dicom]'") from error
        self.root, self.facts, self.layout = folder, facts, layout
        self.scanner = SCANNERS[facts.vendor]
        self.half_life = self.scanner.half_lives[facts.nuclide]
        self.pet_suv, self.grid = to_lps(phantom.pet, phantom.grid)
        self.hu, _ = to_lps(phantom.ct, phantom.grid)
        self.mask, _ = to_lps(phantom.label > 0, phantom.grid)
        self.study_uid = self.uid("study")
        self.series = {name: self.uid(name) for name in ("PT", "CT", "SEG")}
        self.folders: dict[str, Path] = {}
        self.injected = datetime(facts.day.year, facts.day.month, facts.day.day, 9, 5)
        self.reference = self.injected + timedelta(seconds=facts.uptake_s)
        decayed = facts.dose_bq * 2 ** (-facts.uptake_s / self.half_life)
        self.factor = 1000 * facts.weight_kg / decayed
        if self.scanner.units == "CNTS":
            self.factor = COUNTS_TO_SUV
        self.steps = np.zeros(self.grid.shape[2])

    def uid(self, *words: object) -> str:
        """A UID that is the same for the same study."""
        from pydicom.uid import generate_uid

        named = (self.facts.patient_id, self.facts.day, self.facts.description, *words)
        return str(generate_uid(entropy_srcs=[str(w) for w in named]))

    def pet(self) -> Iterator[Any]:
        """The slices of the PET, from the thighs to the head; the last has instance number 1."""
        count = self.grid.shape[2]
        for k in range(count):
            made = self.slice("PT", self.grid, k, number=count - k)
            values = self.pet_suv[:, :, k].T.astype(np.float64) / self.factor
            slope = float(f"{max(values.max(), 1e-3) / 32767:.9g}")
            self.steps[k] = slope * self.factor
            made.RescaleSlope, made.RescaleIntercept, made.Units = f"{slope:.9g}", 0, self.scanner.units
            made.RescaleType = self.scanner.units
            made.ImageIndex = count - k
            self._pet_series(made, count)
            self._pet_times(made, k)
            _put_pixels(made, np.rint(values / slope), signed=self.scanner.signed)
            yield made

    def _pet_series(self, made: Any, count: int) -> None:
        made.ImageType = ["ORIGINAL", "PRIMARY"]
        made.SeriesType, made.CountsSource = ["WHOLE BODY", "IMAGE"], "EMISSION"
        made.NumberOfSlices = count
        made.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
        made.DecayCorrection, made.CollimatorType = "START", "NONE"
        made.RandomsCorrectionMethod, made.AttenuationCorrectionMethod = "DLYD", "measured,AC CT"
        made.ReconstructionMethod = self.scanner.reconstruction
        made.ConvolutionKernel = self.scanner.kernel
        made.PatientWeight, made.PatientSize = self.facts.weight_kg, 1.72
        code, meaning = NUCLIDES[self.facts.nuclide]
        injection = _item(
            Radiopharmaceutical="Fluorodeoxyglucose" if self.facts.nuclide == "F18" else "PSMA",
            RadiopharmaceuticalStartTime=_clock(self.injected),
            RadiopharmaceuticalStartDateTime=f"{self.injected:%Y%m%d}{_clock(self.injected)}",
            RadionuclideTotalDose=self.facts.dose_bq,
            RadionuclideHalfLife=self.half_life,
            RadionuclideCodeSequence=[_item(CodeValue=code, CodingSchemeDesignator="SRT", CodeMeaning=meaning)],
        )
        made.RadiopharmaceuticalInformationSequence = [injection]

    def _pet_times(self, made: Any, k: int) -> None:
        """Set the acquisition time of the bed position, and the decay values that follow from it."""
        start = (k // BED_SLICES) * BED_SECONDS
        rate = math.log(2) / self.half_life
        middle = start + math.log(rate * BED_SECONDS / -math.expm1(-rate * BED_SECONDS)) / rate
        acquired = self.reference + timedelta(seconds=start)
        made.AcquisitionDate, made.AcquisitionTime = f"{acquired:%Y%m%d}", _clock(acquired)
        made.ActualFrameDuration = round(BED_SECONDS * 1000)
        made.FrameReferenceTime = f"{middle * 1000:.6f}"[:16]
        made.DecayFactor = f"{2 ** (middle / self.half_life):.9g}"
        if self.facts.vendor == "ge":
            block = made.private_block(0x0009, "GEMS_PETD_01", create=True)
            block.add_new(0x0D, "DT", f"{self.reference:%Y%m%d}{_clock(self.reference)}")
            block.add_new(0x3B, "DT", f"{self.injected:%Y%m%d}{_clock(self.injected)}")
        if self.facts.vendor == "philips":
            decayed = self.facts.dose_bq * 2 ** (-self.facts.uptake_s / self.half_life)
            activity = COUNTS_TO_SUV * decayed / (1000 * self.facts.weight_kg)
            block = made.private_block(0x7053, "Philips PET Private Group", create=True)
            block.add_new(0x00, "DS", f"{COUNTS_TO_SUV:.9g}")
            block.add_new(0x09, "DS", f"{activity:.9g}")

    def ct(self) -> Iterator[Any]:
        """The slices of the CT."""
        grid = self._ct_grid()
        values = _on_grid(self.hu, self.grid, grid)
        for k in range(grid.shape[2]):
            made = self.slice("CT", grid, k, number=grid.shape[2] - k)
            made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            made.KVP, made.Exposure = 120, 80 + k % 5
            made.ConvolutionKernel = list(self.scanner.ct_kernel)
            made.AcquisitionDate, made.AcquisitionTime = f"{self.facts.day:%Y%m%d}", "100000"
            if "nativ" not in self.facts.description or "KM" in self.facts.description:
                made.ContrastBolusAgent = "APPLIED"
            made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
            _put_pixels(made, np.clip(values[:, :, k].T.astype(np.int32) + 1024, 0, 4095), signed=False, bits=12)
            yield made

    def _ct_grid(self) -> Grid:
        """Half the pixel size, with pixel centres on those of the PET; slices on the PET's and beyond."""
        if self.facts.ct_grid is not None:
            return self.facts.ct_grid
        count = self.grid.shape[2] + CT_BELOW - self.facts.ct_short
        affine = self.grid.known_affine @ np.diag([0.5, 0.5, 1.0, 1.0])
        affine[:3, 3] = self.grid.to_mm([0, 0, -CT_BELOW])[0]
        return Grid((2 * self.grid.shape[0] - 1, 2 * self.grid.shape[1] - 1, count), affine=affine)

    def seg(self, pet: list[Any]) -> Any:
        """The mask as a SEG on the slices of the PET."""
        import highdicom
        from pydicom.sr.codedict import codes

        algorithm: Any = highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        found = "Tumor lesions detected" if self.mask.any() else "No tumor lesions detected"
        is_dcmqi = self.facts.seg == "dcmqi"
        described: Any = highdicom.seg.SegmentDescription(
            segment_number=1,
            segment_label="Tissue" if is_dcmqi else "Lesion",
            segmented_property_category=codes.SCT.Tissue if is_dcmqi else codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Tissue if is_dcmqi else codes.SCT.Lesion,
            algorithm_type=algorithm,
        )
        sparse = not is_dcmqi and bool(self.mask.any())
        made: Any = highdicom.seg.Segmentation(
            source_images=pet,
            pixel_array=np.ascontiguousarray(self.mask.T).astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[described],
            series_instance_uid=self.series["SEG"],
            series_number=300,
            sop_instance_uid=self.uid("SEG", 0),
            instance_number=1,
            manufacturer="QIICR" if is_dcmqi else "clicksim",
            manufacturer_model_name="https://github.com/QIICR/dcmqi.git" if is_dcmqi else "clicksim",
            software_versions="1",
            device_serial_number="1",
            omit_empty_frames=sparse,
        )
        made.SeriesDescription = "Segmentation" if is_dcmqi else f"Segmentation - {found}"
        self._settle(made)
        if is_dcmqi:
            for frame in made.PerFrameFunctionalGroupsSequence:
                for source in frame.DerivationImageSequence[0].SourceImageSequence:
                    del source.SpatialLocationsPreserved
        return made

    def _settle(self, made: Any) -> None:
        """Replace the values that highdicom takes from the clock or chooses at random."""
        for keyword in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
            if keyword in made:
                setattr(made, keyword, f"{self.facts.day:%Y%m%d}")
        for keyword in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
            if keyword in made:
                setattr(made, keyword, "120000")
        for item in made.get("ContributingEquipmentSequence") or ():
            item.ContributionDateTime = f"{self.facts.day:%Y%m%d}120000"
        uid = self.uid("dimensions")
        for item in made.DimensionOrganizationSequence:
            item.DimensionOrganizationUID = uid
        for item in made.DimensionIndexSequence:
            item.DimensionOrganizationUID = uid

    def slice(self, modality: str, grid: Grid, k: int, *, number: int) -> Any:
        """The part of the header that PET and CT share."""
        from pydicom.dataset import Dataset
        from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

        i_mm, j_mm, k_mm = grid.known_spacing
        made: Any = Dataset()
        made.SOPClassUID = PositronEmissionTomographyImageStorage if modality == "PT" else CTImageStorage
        made.SOPInstanceUID = self.uid(modality, k)
        made.StudyInstanceUID, made.SeriesInstanceUID = self.study_uid, self.series[modality]
        made.FrameOfReferenceUID = self.uid("frame")
        made.PatientID, made.PatientName = self.facts.patient_id, f"{self.facts.patient_id}^"
        made.PatientBirthDate, made.PatientSex, made.PatientAge = "", "M", "060Y"
        made.StudyDate = made.SeriesDate = made.ContentDate = f"{self.facts.day:%Y%m%d}"
        made.StudyTime, made.SeriesTime = "080000", _clock(self.reference) if modality == "PT" else "100000"
        made.ContentTime = made.SeriesTime
        made.AccessionNumber = made.StudyID = made.ReferringPhysicianName = made.PositionReferenceIndicator = ""
        made.StudyDescription = self.facts.description
        made.Modality, made.PatientPosition = modality, "HFS"
        made.SeriesDescription = "PET corr." if modality == "PT" else "GK p.v.3"
        made.Manufacturer, made.ManufacturerModelName = self.scanner.manufacturer, self.scanner.model
        made.SeriesNumber, made.InstanceNumber, made.AcquisitionNumber = 7 if modality == "PT" else 4, number, 1
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [_number(x) for x in grid.to_mm([0, 0, k])[0] * LPS]
        made.PixelSpacing, made.SliceThickness = [_number(j_mm), _number(i_mm)], _number(k_mm)
        made.Rows, made.Columns = grid.shape[1], grid.shape[0]
        return made

    def save(self, made: Any) -> None:
        """Write a data set to its place in the layout."""
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        kind = str(made.Modality)
        if kind not in self.folders:
            self.folders[kind] = self.root.joinpath(*self._parts(made))
            self.folders[kind].mkdir(parents=True, exist_ok=True)
        name = f"1-{int(made.InstanceNumber):03d}.dcm" if self.layout == "descriptive" else f"{made.SOPInstanceUID}.dcm"
        if kind == "SEG" and self.layout == "descriptive":
            name = "1-1.dcm"
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        made.save_as(self.folders[kind] / name, enforce_file_format=True)

    def _parts(self, made: Any) -> list[str]:
        if self.layout == "uids":
            return [str(made.SeriesInstanceUID)]
        if self.layout == "classic":
            return [self.facts.patient_id, self.study_uid, str(made.SeriesInstanceUID)]
        study = f"{self.facts.day:%m-%d-%Y}-NA-{folder_description(self.facts.description)}-{self.study_uid[-5:]}"
        series = folder_description(str(made.SeriesDescription))
        uid = str(made.SeriesInstanceUID)
        return [self.facts.patient_id, study, f"{int(made.SeriesNumber)}.000000-{series}-{uid[-5:]}"]


def _on_grid(values: NDArray[Any], grid: Grid, target: Grid) -> NDArray[np.int16]:
    """Interpolate `(I, J, K)` values linearly on another grid and round them; outside, the border value is used."""
    from scipy.ndimage import affine_transform

    step = np.linalg.inv(grid.known_affine) @ target.known_affine
    out = np.empty(target.shape, np.float32, order="F")
    affine_transform(values.astype(np.float32), np.diag(step[:3, :3]), step[:3, 3], output=out, order=1, mode="nearest")
    return np.rint(out).astype(np.int16)


def _put_pixels(made: Any, values: NDArray[Any], *, signed: bool, bits: int = 16) -> None:
    """Store `(rows, columns)` whole numbers as 16-bit pixels."""
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, bits, bits - 1
    made.PixelRepresentation = int(signed)
    made.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    made["PixelData"].VR = "OW"


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _clock(instant: datetime) -> str:
    return f"{instant:%H%M%S.%f}"


def _number(value: float) -> str:
    return f"{value + 0.0:.10g}"[:16]  # DS allows 16 characters

"""SUV factors: hand-computed numbers for every rule, the published objects and headers, and spoiled headers."""

import copy
import json
import math
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pydicom = pytest.importorskip("pydicom")
from pydicom.dataelem import RawDataElement  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.tag import Tag  # noqa: E402

from clicksim.errors import ClicksimError  # noqa: E402
from converters.suv import Suv, SuvError, suv_factor  # noqa: E402
from converters.suv.suv_headers import CODES, TAGS, number  # noqa: E402
from converters.suv.suv_times import parse_date, parse_datetime, parse_offset, parse_time  # noqa: E402

F18, GA68 = 6586.2, 4062.6
WEIGHT, DOSE = 70.0, 350e6
INJECTION = {
    "RadiopharmaceuticalStartTime": "100000.00",
    "RadiopharmaceuticalStartDateTime": "20200506100000.00",
    "RadionuclideTotalDose": DOSE,
    "RadionuclideHalfLife": F18,
}
SLICE = {
    "Modality": "PT", "Manufacturer": "SIEMENS", "SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4",
    "Rows": 128, "Columns": 128, "PixelSpacing": [4.0, 4.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["NORM", "ATTN", "DECY"],
    "SeriesType": ["WHOLE BODY", "IMAGE"], "NumberOfSlices": 3, "RescaleIntercept": 0, "PatientWeight": WEIGHT,
    "SeriesDate": "20200506", "SeriesTime": "110000", "AcquisitionDate": "20200506", "ActualFrameDuration": 120000,
    "FrameReferenceTime": 0, "DecayFactor": 1,
}  # fmt: skip
ACQUIRED = ("110000.0", "110200.0", "110400.0")


def set_tags(target: Dataset, tags: dict[str, Any]) -> None:
    for keyword, value in tags.items():
        if value is None:
            if keyword in target:
                delattr(target, keyword)
        else:
            setattr(target, keyword, value)


def nuclide(code: str) -> Dataset:
    item = Dataset()
    item.CodeValue = code
    return item


def series(*, code: str | None = "C-111A1", injection: dict[str, Any] | None = None, **tags: Any) -> list[Dataset]:
    """Three slices of one F-18 study on a Siemens: injection 10:00, series 11:00, beds of two minutes."""
    made = []
    for index, time in enumerate(ACQUIRED):
        header, item = Dataset(), Dataset()
        set_tags(header, SLICE)
        header.ImagePositionPatient = [0.0, 0.0, 3.0 * index]
        header.RescaleSlope = 1.5 + index
        header.AcquisitionTime = time
        set_tags(item, {**INJECTION, **(injection or {})})
        if code is not None:
            item.RadionuclideCodeSequence = [nuclide(code)]
        header.RadiopharmaceuticalInformationSequence = [item]
        set_tags(header, tags)
        made.append(header)
    return made


def add_private(headers: list[Dataset], group: int, creator: str | None, **values: tuple[str, Any]) -> list[Dataset]:
    """Vendor's tags in block 0x10, as `x0D=("DT", "...")`; without a creator nobody claims the block."""
    for header in headers:
        if creator is not None:
            header.add_new((group << 16) | 0x10, "LO", creator)
        for name, (vr, value) in values.items():
            header.add_new((group << 16) | 0x1000 | int(name[1:], 16), vr, value)
    return headers


def ge(headers: list[Dataset], **values: str) -> list[Dataset]:
    set_tags(headers[0], {})
    return add_private(headers, 0x0009, "GEMS_PETD_01", **{name: ("DT", value) for name, value in values.items()})


def philips(creator: str | None = "Philips PET Private Group", vr: str = "DS", **values: Any) -> list[Dataset]:
    made = series(Units="CNTS", Manufacturer="Philips Medical Systems")
    return add_private(made, 0x7053, creator, **{name: (vr, value) for name, value in values.items()})


def start_factor(uptake: float, weight: float = WEIGHT, dose: float = DOSE, half_life: float = F18) -> float:
    return 1000 * weight / (dose * math.exp(-uptake * math.log(2) / half_life))


def refused(headers: Any, code: str, **settings: Any) -> SuvError:
    with pytest.raises(SuvError) as caught:
        suv_factor(headers, **settings)
    assert caught.value.code == code, str(caught.value)
    assert str(caught.value).startswith(f"{code}: ")
    assert code in CODES
    return caught.value


# --- the plain case and the door -------------------------------------------------------------------------------


def test_suv_factor__start_by_hand() -> None:
    suv = suv_factor(series())
    # 1 h of F-18: 2^(3600 / 6586.2) = 1.460637; 70 000 g / 350 MBq = 2e-4
    assert suv.factor == pytest.approx(2e-4 * 1.460637, rel=1e-6)
    assert suv.factor == pytest.approx(start_factor(3600), rel=1e-12)
    assert (suv.per_slice, suv.warnings, suv.units, suv.decay_correction) == (None, (), "BQML", "START")
    assert (suv.weight_kg, suv.dose_bq, suv.half_life_s, suv.uptake_time_s) == (70, 350e6, 6586.2, 3600)
    assert suv.radionuclide == "F18"
    assert {subject: rule.code for subject, rule in suv.rules.items()} == {
        "units": "BQML", "decay": "START", "reference_time": "SERIES", "injection_time": "DATETIME", "weight": "KG",
        "dose": "BQ", "half_life": "TAG",
    }  # fmt: skip
    assert suv.rules["injection_time"].value == "2020-05-06T10:00:00"


def test_suv_factor__one_header_is_enough() -> None:
    assert suv_factor(series()[1]).factor == pytest.approx(start_factor(3600))
    assert suv_factor(series()[1:2]) == suv_factor(series()[1])


def test_suv_factor__order_of_headers_is_free() -> None:
    made = series(SeriesTime="113000")  # rewritten, so that the first acquisition counts
    assert suv_factor(made[::-1]) == suv_factor(made)


def test_suv_factor__leaves_headers_alone() -> None:
    made = series()
    before = copy.deepcopy(made)
    suv_factor(made)
    assert made == before


def test_suv_factor__dicom_json_and_keywords_equal_datasets() -> None:
    made = philips(x09="0.5")
    model = [header.to_json_dict() for header in made]
    assert suv_factor(model) == suv_factor(made)
    flat = {key: value for key, value in (SLICE | INJECTION).items() if key not in ("Modality", "NumberOfSlices")}
    flat |= {"AcquisitionTime": "110000"}
    assert suv_factor([flat]).factor == pytest.approx(start_factor(3600))
    assert suv_factor(flat).factor == pytest.approx(start_factor(3600))


def test_suv_factor__dicom_json_inline_binary() -> None:
    made = philips(vr="UN", x00=b"0.00055 ")
    assert suv_factor([header.to_json_dict() for header in made]).factor == 0.00055


def test_suv_factor__refuses_what_is_no_header() -> None:
    refused([], "IncompleteSeries")
    with pytest.raises(TypeError, match="Datasets or mappings"):
        suv_factor(["a"])
    with pytest.raises(TypeError, match="injection_seconds"):
        suv_factor(series(), injection_seconds="3600")  # type: ignore[arg-type]
    assert suv_factor(series(), injection_seconds=np.float32(3600)).factor == suv_factor(series()).factor


def test_suv_error__is_a_refusal_and_survives_a_process() -> None:
    error = refused(series(Units="PROPCPS", PatientWeight=None), "UnitsNotConvertible")
    assert isinstance(error, ClicksimError)
    assert error.also == ("MissingPatientWeight",)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.also) == (str(error), error.code, error.also)
    suv = suv_factor(series())
    assert pickle.loads(pickle.dumps(suv)) == suv


# --- the series (one header spoiled per refusal) -----------------------------------------------------------------

DIFFERING = {
    "Modality": "CT", "SeriesInstanceUID": "1.2.9", "FrameOfReferenceUID": "1.2.9", "Rows": 64, "Columns": 64,
    "PixelSpacing": [4.0, 4.1], "ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0.43589], "Units": "CNTS",
    "DecayCorrection": "ADMIN", "PatientWeight": 71, "SeriesDate": "20200507", "SeriesTime": "110001",
    "SUVType": "BW",
}  # fmt: skip


@pytest.mark.parametrize("keyword", DIFFERING)
def test_check_series__refuses_a_tag_that_differs(keyword: str) -> None:
    made = series()
    set_tags(made[2], {keyword: DIFFERING[keyword]})
    assert keyword in str(refused(made, "SeriesInconsistent"))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("RadionuclideTotalDose", 360e6),
        ("RadionuclideTotalDose", 350e6 + 1),
        ("RadionuclideHalfLife", 6588),
        ("RadiopharmaceuticalStartTime", "100100"),
        ("RadiopharmaceuticalStartDateTime", "20200506100100"),
        ("RadionuclideTotalDose", None),
    ],
)
def test_check_series__refuses_an_injection_that_differs(keyword: str, value: Any) -> None:
    made = series()
    set_tags(made[1].RadiopharmaceuticalInformationSequence[0], {keyword: value})
    assert keyword in str(refused(made, "SeriesInconsistent"))


def test_check_series__forgives_spelling_and_signed_zero() -> None:
    made = series()
    set_tags(made[1], {"PatientWeight": "70.00", "ImageOrientationPatient": ["1", "-0.0", "0", "0", "1.00001", "-0"]})
    assert suv_factor(made).factor == pytest.approx(start_factor(3600))


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"Modality": "CT"}, "SeriesInconsistent"),
        ({"Modality": None}, "SeriesInconsistent"),
        ({"RescaleSlope": None}, "MissingSlope"),
        ({"RescaleSlope": 0}, "MissingSlope"),
        ({"RescaleSlope": -1}, "MissingSlope"),
        ({"RescaleIntercept": 1}, "NonZeroIntercept"),
        ({"CorrectedImage": ["DECY", "NORM"]}, "NotAttenuationCorrected"),
        ({"CorrectedImage": None}, "NotAttenuationCorrected"),
        ({"CorrectedImage": ["ATTN"]}, "DecayFlagConflict"),
        ({"CorrectedImage": ["ATTN"], "DecayCorrection": "ADMIN"}, "DecayFlagConflict"),
        ({"DecayCorrection": "NONE"}, "DecayFlagConflict"),
        ({"DecayCorrection": None}, "DecayCorrectionMissing"),
        ({"DecayCorrection": "LATER"}, "DecayCorrectionMissing"),
        ({"SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 40}, "DynamicSeries"),
        ({"SeriesType": ["DYNAMIC", "IMAGE"], "NumberOfTimeSlices": 40, "NumberOfFrames": 1}, "DynamicSeries"),
        ({"SeriesType": ["DYNAMIC", "IMAGE"]}, "DynamicSeries"),
        ({"SeriesType": ["GATED", "IMAGE"], "NumberOfTimeSlots": 8}, "DynamicSeries"),
        ({"SeriesType": ["MOVING", "IMAGE"], "NumberOfTimeSlices": 1}, "DynamicSeries"),
        ({"NumberOfSlices": 4}, "IncompleteSeries"),
        ({"NumberOfSlices": 2}, "IncompleteSeries"),
        ({"ImagePositionPatient": [0, 0, 7]}, "DuplicateSlice"),
        ({"Units": "CPS"}, "UnitsNotConvertible"),
        ({"Units": "PROPCPS"}, "UnitsNotConvertible"),
        ({"Units": "PROPCNTS"}, "UnitsNotConvertible"),
        ({"Units": "1CM"}, "UnitsNotConvertible"),
        ({"Units": "FURLONG"}, "UnitsNotConvertible"),
        ({"Units": None}, "UnitsNotConvertible"),
        ({"Units": "CNTS"}, "UnitsNotConvertible"),
        ({"Units": "CNTS", "Manufacturer": None}, "UnitsNotConvertible"),
        ({"Units": "CNTS", "Manufacturer": "Philips"}, "CountsNotConvertible"),
        ({"Units": "GML", "SUVType": "BSA"}, "UnitsNotConvertible"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSex": "M"}, "MissingPatientSize"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSex": "M", "PatientSize": 175}, "MissingPatientSize"),
        ({"Units": "GML", "SUVType": "IBW", "PatientSize": 1.7}, "MissingPatientSex"),
        ({"Units": "GML", "SUVType": "IBW", "PatientSize": 0.5, "PatientSex": "M"}, "ImplausibleWeight"),
        ({"Units": "GML", "SUVType": "IBW", "PatientSize": 1.07, "PatientSex": "M"}, "ImplausibleWeight"),
        ({"DecayCorrection": "NONE", "CorrectedImage": ["ATTN"], "ActualFrameDuration": 9e7}, "MissingFrameDuration"),
        ({"Units": "GML", "SUVType": "LBM", "PatientSize": 1.7, "PatientWeight": None}, "MissingPatientWeight"),
        ({"Units": "CM2ML"}, "MissingPatientSize"),
        ({"Units": "CM2ML", "PatientSize": 1.7, "PatientWeight": None}, "MissingPatientWeight"),
        ({"PatientWeight": None}, "MissingPatientWeight"),
        ({"PatientWeight": 0}, "MissingPatientWeight"),
        ({"PatientWeight": 1.9}, "ImplausibleWeight"),
        ({"PatientWeight": -70}, "ImplausibleWeight"),
        ({"PatientWeight": 501}, "ImplausibleWeight"),
        ({"PatientWeight": 1500}, "ImplausibleWeight"),
        ({"RadiopharmaceuticalInformationSequence": None}, "MissingRadiopharmaceutical"),
        ({"RadiopharmaceuticalInformationSequence": []}, "MissingRadiopharmaceutical"),
        ({"RadiopharmaceuticalInformationSequence": [Dataset(), Dataset()]}, "MultipleInjections"),
        ({"AcquisitionTime": None}, "MissingReferenceTime"),
    ],
)
def test_suv_factor__refuses(tags: dict[str, Any], code: str) -> None:
    refused(series(**tags), code)


def test_suv_factor__names_dynamic_series_of_one_volume() -> None:
    for tags in ({"NumberOfTimeSlices": 1}, {"NumberOfFrames": "1"}):
        assert suv_factor(series(SeriesType=["DYNAMIC", "IMAGE"], **tags)).warnings == ()
    assert suv_factor(series(SeriesType=["GATED", "IMAGE"], NumberOfTimeSlots=1, NumberOfTimeSlices=1)).warnings == ()
    assert suv_factor(series(SeriesType=["STATIC", "IMAGE"])).warnings == ()
    assert suv_factor(series(SeriesType=None)).warning_codes == ("SERIES_TYPE_MISSING",)


def test_suv_factor__accepts_decay_for_decy() -> None:
    assert suv_factor(series(CorrectedImage=["ATTN", "DECAY"])).factor == pytest.approx(start_factor(3600))


def test_check_slices__needs_more_than_one_header() -> None:
    assert suv_factor(series(NumberOfSlices=300)[0]).factor == pytest.approx(start_factor(3600))
    made = series(NumberOfSlices=None)
    made[1].ImagePositionPatient = [5.0, 5.0, 0.0005]  # in-plane shift, same place along the normal
    refused(made, "DuplicateSlice")


def test_check_slices__goes_along_the_normal_of_the_slices() -> None:
    made = series(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for index, header in enumerate(made):
        header.ImagePositionPatient = [0.0, 3.0 * index, 0.0]
    assert suv_factor(made).factor == pytest.approx(start_factor(3600))


def test_check_slices__counts_the_slices_that_the_caller_interpolates() -> None:
    made = series(NumberOfSlices=4)
    refused(made, "IncompleteSeries")
    assert suv_factor(made, interpolated=1).factor == suv_factor(series()).factor
    assert suv_factor(series(), interpolated=5).factor == suv_factor(series()).factor
    assert "and 1 slices interpolated" in str(refused(series(NumberOfSlices=5), "IncompleteSeries", interpolated=1))


def test_same_in_all__says_which_slice_differs_and_how() -> None:
    made = series()
    set_tags(made[2], {"PatientWeight": 71})
    told = "PatientWeight must be the same in all slices; it is '70' in header 0 and '71' in header 2"
    assert told in str(refused(made, "SeriesInconsistent"))


# --- units -------------------------------------------------------------------------------------------------------


def test_find_units__bqml_ignores_factors_of_philips() -> None:
    made = philips(x00="0.003", x09="4.7")
    for header in made:
        header.Units = "BQML"
    assert suv_factor(made).factor == pytest.approx(start_factor(3600))


@pytest.mark.parametrize("creator", ["Philips PET Private Group", "Philips PET Private Group ", None])
@pytest.mark.parametrize(("vr", "value"), [("DS", "0.000551"), ("LO", "0.000551  "), ("UN", b"0.000551\x00")])
def test_find_units__philips_suv_factor(creator: str | None, vr: str, value: Any) -> None:
    suv = suv_factor(philips(creator, vr, x00=value))
    assert suv.factor == 0.000551
    assert suv.rules["units"].code == "PHILIPS_SUV"


def test_find_units__philips_suv_factor_needs_nothing_else() -> None:
    made = philips(x00="0.000551")
    for header in made:
        set_tags(header, dict.fromkeys(["PatientWeight", "RadiopharmaceuticalInformationSequence", "AcquisitionTime"]))
        set_tags(header, dict.fromkeys(["DecayCorrection", "SeriesTime"]))
    suv = suv_factor(made)
    assert suv.factor == 0.000551
    assert (suv.weight_kg, suv.dose_bq, suv.half_life_s, suv.uptake_time_s, suv.decay_correction) == (None,) * 5


def test_find_units__philips_activity_factor() -> None:
    for made in (philips(x09="1.6"), philips(x00="0", x09="1.6"), philips(None, x09="1.6")):
        suv = suv_factor(made)
        assert suv.factor == pytest.approx(1.6 * start_factor(3600))
        assert suv.rules["units"].code == "PHILIPS_ACTIVITY"


def test_find_units__philips_block_elsewhere() -> None:
    made = series(Units="CNTS", Manufacturer="PHILIPS")
    for header in made:
        header.add_new(0x70530010, "LO", "Someone else")
        header.add_new(0x70531000, "DS", "99")
        header.add_new(0x70530011, "LO", "Philips PET Private Group")
        header.add_new(0x70531100, "DS", "0.0005")
    assert suv_factor(made).factor == 0.0005


def test_find_units__philips_block_of_someone_else_is_not_read() -> None:
    refused(philips("Someone else", x00="0.5"), "CountsNotConvertible")


@pytest.mark.parametrize("values", [{"x00": "0", "x09": "0"}, {"x00": "-1"}, {}])
def test_find_units__philips_without_factors(values: dict[str, str]) -> None:
    assert "anonymisation" in str(refused(philips(**values), "CountsNotConvertible"))


def test_find_units__philips_factor_that_differs() -> None:
    made = philips(x00="0.0005")
    made[1][0x70531000].value = "0.0006"
    refused(made, "SeriesInconsistent")


def test_find_units__philips_without_manufacturer_but_with_factor() -> None:
    made = philips(x00="0.0005")
    for header in made:
        header.Manufacturer = ""
    assert suv_factor(made).factor == 0.0005
    for header in made:
        header.Manufacturer = "GE MEDICAL SYSTEMS"
    refused(made, "UnitsNotConvertible")


def test_check_philips__warns_above_five_percent() -> None:
    other = start_factor(3600)
    assert suv_factor(philips(x00=f"{other * 1.04:.8f}", x09="1")).warnings == ()
    assert suv_factor(philips(x00=f"{other * 1.06:.8f}", x09="1")).warning_codes == ("PHILIPS_FACTORS_DISAGREE",)
    for factor, codes in ((2e-4, ()), (2.2e-4, ("PHILIPS_FACTORS_DISAGREE",))):
        made = philips(x00=f"{factor:.8f}", x09="1")
        for header in made:
            header.DecayCorrection = "ADMIN"
        assert suv_factor(made).warning_codes == codes
    made = philips(x00="9", x09="1")
    for header in made:
        set_tags(header, {"AcquisitionTime": None})  # without an uptake time there is nothing to compare
    assert suv_factor(made).warnings == ()


@pytest.mark.parametrize("kind", ["", "BW", None])
def test_find_units__gml_body_weight(kind: str | None) -> None:
    tags = dict.fromkeys(["PatientWeight", "RadiopharmaceuticalInformationSequence", "DecayCorrection", "SeriesTime"])
    assert suv_factor(series(Units="GML", SUVType=kind)).factor == 1.0
    assert suv_factor(series(Units="GML", SUVType=kind, **tags)).factor == 1.0
    uncorrected = suv_factor(series(Units="GML", SUVType=kind, DecayCorrection="NONE", CorrectedImage=["ATTN"]))
    assert (uncorrected.factor, uncorrected.per_slice) == (1.0, None)


@pytest.mark.parametrize(
    ("kind", "sex", "mass"),  # by hand for 70 kg and 175 cm: (70 / 175)^2 = 0.16, BMI = 22.857143
    [
        ("LBM", "M", 77 - 120 * 0.16),
        ("LBM", "F", 74.9 - 148 * 0.16),
        ("LBMJAMES128", "M", 77 - 128 * 0.16),
        ("LBMJAMES128", "F", 51.22),
        ("LBMJANMA", "M", 648900 / (6680 + 216 * 22.857143)),
        ("LBMJANMA", "F", 648900 / (8780 + 244 * 22.857143)),
        ("IBW", "M", 48 + 1.06 * 23),
        ("IBW", "F", 45.5 + 0.91 * 23),
        ("IBW", "O", (72.38 + 66.43) / 2),
        ("LBMJAMES128", "O", (56.52 + 51.22) / 2),
    ],
)
def test_find_units__gml_over_other_masses(kind: str, sex: str, mass: float) -> None:
    suv = suv_factor(series(Units="GML", SUVType=kind, PatientSex=sex, PatientSize=1.75))
    assert suv.factor == pytest.approx(70 / mass, rel=1e-7)
    assert suv.rules["units"].code == f"GML_{kind}"


def test_find_units__cm2ml() -> None:
    suv = suv_factor(series(Units="CM2ML", SUVType="BSA", PatientSize=1.75))
    # Du Bois: 0.007184 * 70^0.425 * 175^0.725 = 1.848142 m2
    assert suv.factor == pytest.approx(70_000 / 18481.42, rel=1e-6)


# --- decay correction --------------------------------------------------------------------------------------------


def test_find_decay__admin_needs_weight_and_dose_only() -> None:
    plain = suv_factor(series(DecayCorrection="ADMIN"))
    assert plain.factor == 2e-4
    assert plain.uptake_time_s == 3600
    absent = dict.fromkeys(["RadionuclideHalfLife", "RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartDateTime"])
    bare = suv_factor(series(DecayCorrection="ADMIN", AcquisitionTime=None, code=None, injection=absent))
    assert bare.factor == 2e-4
    assert (bare.uptake_time_s, bare.half_life_s, bare.warnings) == (None, None, ())
    assert bare.rules["reference_time"].code == bare.rules["injection_time"].code == "NONE"
    refused(series(DecayCorrection="ADMIN", PatientWeight=None), "MissingPatientWeight")
    refused(series(DecayCorrection="ADMIN", injection={"RadionuclideTotalDose": None}), "MissingDose")


def test_find_decay__admin_does_not_look_at_decay_factors() -> None:
    for seconds in (None, 3600):
        suv = suv_factor(with_decay_factors(900, DecayCorrection="ADMIN"), injection_seconds=seconds)
        assert (suv.factor, suv.warnings) == (2e-4, ())


def test_find_decay__admin_warns_of_values_that_it_does_not_use() -> None:
    late = {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20200506120000"}
    assert suv_factor(series(DecayCorrection="ADMIN", injection=late)).warning_codes == ("TIMES_NOT_USED",)
    odd = {"RadionuclideHalfLife": 4000}
    assert suv_factor(series(DecayCorrection="ADMIN", injection=odd)).warning_codes == ("VALUE_NOT_USED",)


def test_frame_factors__none_is_per_slice() -> None:
    suv = suv_factor(series(DecayCorrection="NONE", CorrectedImage=["ATTN"]))
    rate = math.log(2) / F18
    for index, factor in enumerate(suv.per_slice or ()):
        # the mean of e^(-rate t) over the frame, by a sum, is what the detector saw of the activity at injection
        begin = 3600 + 120 * index
        times = begin + (np.arange(20000) + 0.5) * 120 / 20000
        assert factor == pytest.approx(2e-4 / np.exp(-rate * times).mean(), rel=1e-9)
    assert suv.per_slice is not None
    assert len(suv.per_slice) == 3
    assert math.isnan(suv.factor)
    assert suv.uptake_time_s == 3600
    assert suv.rules["reference_time"].code == "NONE"
    one = suv_factor(series(DecayCorrection="NONE", CorrectedImage=["ATTN"])[2])
    assert one.factor == suv.per_slice[2]
    assert one.per_slice == (one.factor,)


@pytest.mark.parametrize(
    ("keyword", "code"),
    [("AcquisitionTime", "MissingAcquisitionTime"), ("ActualFrameDuration", "MissingFrameDuration")],
)
def test_frame_factors__refuses_a_slice_without(keyword: str, code: str) -> None:
    made = series(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    set_tags(made[2], {keyword: None})
    refused(made, code)


def test_frame_factors__table_counts_from_the_first_slice() -> None:
    made = series(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    assert suv_factor(made, injection_seconds=3600).per_slice == suv_factor(made).per_slice


# --- reference time ----------------------------------------------------------------------------------------------


def test_reference_time__ge_scan_comes_first() -> None:
    suv = suv_factor(ge(series(SeriesTime="105000"), x0D="20200506105900.00"))
    assert suv.uptake_time_s == 3540
    assert suv.rules["reference_time"].code == "GE_PRIVATE"


@pytest.mark.parametrize("scan", ["20200504105900.00", "garbage", "20200506"])
def test_reference_time__ge_scan_too_far_or_unreadable(scan: str) -> None:
    assert (
        suv_factor(add_private(series(), 9, "GEMS_PETD_01", x0D=("LO", scan))).rules["reference_time"].code == "SERIES"
    )


def test_reference_time__ge_scan_only_in_its_own_block() -> None:
    made = add_private(series(), 0x0009, "GEMS_IDEN_01", x0D=("DT", "20200506105900.00"))
    assert suv_factor(made).rules["reference_time"].code == "SERIES"


@pytest.mark.parametrize(("time", "code"), [("110001.0", "SERIES"), ("110001.1", "ACQ"), ("105000", "SERIES")])
def test_reference_time__series_unless_rewritten(time: str, code: str) -> None:
    suv = suv_factor(series(SeriesTime=time))
    assert suv.rules["reference_time"].code == code
    assert suv.warning_codes == (("REF_TIME_FROM_ACQUISITION",) if code == "ACQ" else ())


def siemens_beds(**tags: Any) -> list[Dataset]:
    """Series time rewritten at reconstruction; Frame Reference Time counts from 10:58 to the mean of each frame."""
    made = series(SeriesTime="123000", **tags)
    rate = math.log(2) / F18
    mean = math.log(rate * 120 / (1 - math.exp(-rate * 120))) / rate
    for index, header in enumerate(made):
        header.FrameReferenceTime = 1000 * (120 + 120 * index + mean)
    return made


def test_reference_time__counted_back() -> None:
    suv = suv_factor(siemens_beds())
    assert suv.uptake_time_s == pytest.approx(3480, abs=1e-5)
    assert suv.rules["reference_time"].code == "BACK"
    assert suv.warnings == ()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("FrameReferenceTime", 0), ("FrameReferenceTime", None), ("ActualFrameDuration", None), ("FrameReferenceTime", 1)],
)
def test_reference_time__counts_back_only_where_all_slices_agree(keyword: str, value: Any) -> None:
    made = siemens_beds()
    set_tags(made[1], {keyword: value})
    suv = suv_factor(made)
    assert suv.uptake_time_s == 3600
    assert suv.rules["reference_time"].code == "ACQ"


def test_reference_time__five_seconds_are_agreement() -> None:
    made = siemens_beds()
    made[1].FrameReferenceTime = float(made[1].FrameReferenceTime) + 4900
    suv = suv_factor(made)
    assert suv.rules["reference_time"].code == "BACK"
    assert suv.uptake_time_s == pytest.approx(3480, abs=1e-5)  # the median of the three
    made[1].FrameReferenceTime = float(made[1].FrameReferenceTime) + 200
    assert suv_factor(made).rules["reference_time"].code == "ACQ"


def test_reference_time__frame_reference_time_is_never_first() -> None:
    made = series()  # as GE writes it: the start of each frame, not its mean
    for index, header in enumerate(made):
        header.FrameReferenceTime = 1000 * (1 + 120 * index)
    assert suv_factor(made).rules["reference_time"].code == "SERIES"


@pytest.mark.parametrize("offset", [0, -1000])
def test_reference_time__one_slice_does_not_make_zero_a_time(offset: float) -> None:
    header = series(SeriesTime="134918", FrameReferenceTime=offset)[0]
    assert suv_factor(header).rules["reference_time"].code == "ACQ"


def with_decay_factors(implied_minus_series: float, **tags: Any) -> list[Dataset]:
    made = series(**tags)
    for index, header in enumerate(made):
        seconds = 120 * index + 60 - implied_minus_series  # the mean of a two-minute frame is at 59.87 s
        header.DecayFactor = f"{2 ** (seconds / F18):.12f}"
    return made


@pytest.mark.parametrize(("apart", "warned"), [(0, False), (29, False), (-29, False), (31, True), (-299, True)])
def test_reference_time__decay_factor_warns(apart: float, warned: bool) -> None:
    suv = suv_factor(with_decay_factors(apart))
    assert suv.factor == pytest.approx(start_factor(3600))
    assert suv.warning_codes == (("REF_TIME_DIFFERS",) if warned else ())


def test_reference_time__smallest_decay_factor_counts() -> None:
    made = with_decay_factors(0)
    made[1].DecayFactor = "2.5"
    assert suv_factor(made).warnings == ()
    made[2].DecayFactor = "1"  # not populated in this slice
    assert suv_factor(made).warnings == ()
    made[0].DecayFactor = "-3"
    refused(made, "REF_TIME_CONFLICT")


@pytest.mark.parametrize("apart", [301, -301, 3600])
def test_reference_time__decay_factor_refuses(apart: float) -> None:
    refused(with_decay_factors(apart), "REF_TIME_CONFLICT")


def test_reference_time__decay_factor_finds_a_cropped_series() -> None:
    refused(with_decay_factors(-600, SeriesTime="123000"), "REF_TIME_CONFLICT")


def test_reference_time__decay_factor_one_is_not_populated() -> None:
    assert suv_factor(series(SeriesTime="105000")).warnings == ()  # 1 would imply 11:01


def test_acquisition__other_tags() -> None:
    plain = suv_factor(series(SeriesTime="113000"))
    other = series(SeriesTime="113000", AcquisitionDate=None, AcquisitionTime=None)
    for header, time in zip(other, ACQUIRED, strict=True):
        header.AcquisitionDateTime = f"20200506{time}"
    assert suv_factor(other).factor == plain.factor
    assert suv_factor(series(SeriesTime="113000", AcquisitionDate=None)).factor == plain.factor
    without = series(AcquisitionDate=None, SeriesDate=None, StudyDate="20200506")
    assert suv_factor(without).rules["reference_time"].code == "ACQ"


@pytest.mark.parametrize("dates", [{}, {"AcquisitionDate": None}])
def test_earliest_acquisition__refuses_a_scan_over_midnight_with_one_date(dates: dict[str, Any]) -> None:
    def over_midnight(*days: str, **tags: Any) -> list[Dataset]:
        made = series(SeriesTime="235900", **tags)
        for header, day, time in zip(made, days, ("235900", "000100", "000300"), strict=True):
            header.AcquisitionTime = time
            if day:
                header.AcquisitionDate = day
            item = header.RadiopharmaceuticalInformationSequence[0]
            set_tags(item, {"RadiopharmaceuticalStartTime": "225900", "RadiopharmaceuticalStartDateTime": None})
        return made

    assert suv_factor(over_midnight("20200506", "20200507", "20200507")).factor == pytest.approx(start_factor(3600))
    wrong = over_midnight("", "", "", **dates)
    assert "AcquisitionDate" in str(refused(wrong, "SeriesInconsistent"))
    suv = suv_factor(wrong, injection_seconds=3600)
    assert (suv.factor, suv.warning_codes) == (pytest.approx(start_factor(3600)), ("TIMES_NOT_USED",))
    told = ge(wrong, x0D="20200506235900.00")
    assert suv_factor(told).factor == pytest.approx(start_factor(3600)), "GE's scan date needs no acquisition"


# --- injection time ----------------------------------------------------------------------------------------------

ONLY_TIME = {"RadiopharmaceuticalStartDateTime": None}
ONLY_DATETIME = {"RadiopharmaceuticalStartTime": None}


def injected_at(value: str, **tags: Any) -> Suv:
    return suv_factor(series(injection=ONLY_DATETIME | {"RadiopharmaceuticalStartDateTime": value}, **tags))


@pytest.mark.parametrize(
    "value",
    ["20200506100000", "20200506100000.00", "20200506100000.000000 ", "20200506100000+0200", "20200506100000.0-0500",
     "202005061000", "20200506095960"],
)  # fmt: skip
def test_injection_time__datetime_spellings(value: str) -> None:
    suv = injected_at(value)
    assert (suv.uptake_time_s, suv.rules["injection_time"].code, suv.warnings) == (3600, "DATETIME", ())


def test_injection_time__fraction_counts() -> None:
    assert injected_at("20200506100000.250").uptake_time_s == pytest.approx(3599.75)


def test_injection_time__offset_that_differs_from_the_stated_zone() -> None:
    assert injected_at("20200506080000+0000", TimezoneOffsetFromUTC="+0200").uptake_time_s == 3600
    assert injected_at("20200506100000+0200", TimezoneOffsetFromUTC="+0200").uptake_time_s == 3600
    assert injected_at("20200506100000", TimezoneOffsetFromUTC="+0200").uptake_time_s == 3600


@pytest.mark.parametrize("date", ["20161129", "20200508", "20200504"])
def test_injection_time__date_that_was_not_shifted(date: str) -> None:
    suv = injected_at(f"{date}100000")
    assert (suv.uptake_time_s, suv.rules["injection_time"].code) == (3600, "DATETIME")
    assert suv.warning_codes == ("INJECTION_DATE_IGNORED",)


def test_injection_time__unshifted_date_over_midnight() -> None:
    made = series(
        injection=ONLY_DATETIME | {"RadiopharmaceuticalStartDateTime": "20161129233000"},
        SeriesTime="003000",
        AcquisitionTime="003000",
    )
    assert suv_factor(made).uptake_time_s == 3600


def test_injection_time__datetime_over_midnight() -> None:
    assert injected_at("20200505233000", SeriesTime="003000", AcquisitionTime="003000").uptake_time_s == 3600


def test_injection_time__time_alone() -> None:
    suv = suv_factor(series(injection=ONLY_TIME))
    assert (suv.uptake_time_s, suv.rules["injection_time"].code, suv.warnings) == (3600, "TIME", ())
    at_once = suv_factor(series(injection=ONLY_TIME | {"RadiopharmaceuticalStartTime": "110000"}))
    assert (at_once.uptake_time_s, at_once.warning_codes) == (0, ("UPTAKE_SHORT",))


def test_injection_time__time_alone_over_midnight() -> None:
    injection = ONLY_TIME | {"RadiopharmaceuticalStartTime": "233000"}
    suv = suv_factor(series(injection=injection, SeriesTime="003000", AcquisitionTime="003000"))
    assert (suv.uptake_time_s, suv.rules["injection_time"].code) == (3600, "TIME_PREV_DAY")
    assert suv.rules["injection_time"].value == "2020-05-05T23:30:00"
    midnight = ONLY_TIME | {"RadiopharmaceuticalStartTime": "000000"}
    suv = suv_factor(series(injection=midnight, SeriesTime="003000", AcquisitionTime="003000"))
    assert (suv.uptake_time_s, suv.rules["injection_time"].code) == (1800, "TIME")


@pytest.mark.parametrize("value", ["20200506", "2020050610", "garbage", "20201332100000", "20200506250000", ""])
def test_injection_time__unreadable_datetime_falls_to_time(value: str) -> None:
    made = series()
    for header in made:
        spoil(header.RadiopharmaceuticalInformationSequence[0], "RadiopharmaceuticalStartDateTime", value.encode())
    assert suv_factor(made).rules["injection_time"].code == "TIME"


@pytest.mark.parametrize(
    ("dated", "uptake", "code", "warned"),
    [
        ("20200506100100", 3540, "DATETIME", False),
        ("20200506100101", 3539, "DATETIME", True),
        ("20200506050000", 6 * 3600, "DATETIME", True),
        ("20200506045959", 3600, "TIME", True),
        ("20200506120000", 3600, "TIME", True),
        ("20200505100000", 3600, "TIME", True),
    ],
)
def test_injection_time__two_times_that_disagree(dated: str, uptake: float, code: str, warned: bool) -> None:
    suv = suv_factor(series(injection={"RadiopharmaceuticalStartDateTime": dated}))
    assert (suv.uptake_time_s, suv.rules["injection_time"].code) == (uptake, code)
    assert ("INJECTION_TIMES_DISAGREE" in suv.warning_codes) == warned


def test_injection_time__ge_admin_comes_last() -> None:
    made = ge(series(injection=ONLY_TIME | ONLY_DATETIME, Manufacturer="GE MEDICAL SYSTEMS"), x3B="20200506100000.00")
    assert suv_factor(made).rules["injection_time"].code == "GE_PRIVATE"
    assert suv_factor(made).uptake_time_s == 3600
    assert suv_factor(ge(series(), x3B="20200506093000.00")).uptake_time_s == 3600
    far = ge(series(injection=ONLY_TIME | ONLY_DATETIME), x3B="20160101100000.00")
    assert suv_factor(far).warning_codes == ("INJECTION_DATE_IGNORED",)
    late = ge(series(injection=ONLY_TIME | ONLY_DATETIME), x3B="20200506110100.00")
    refused(late, "NegativeUptakeTime")
    made[1][0x0009103B].value = "20200506100100.00"
    refused(made, "SeriesInconsistent")


def test_injection_time__none_at_all() -> None:
    assert "injection_seconds" in str(refused(series(injection=ONLY_TIME | ONLY_DATETIME), "MissingInjectionTime"))


def test_injection_time__table_comes_first() -> None:
    suv = suv_factor(series(), injection_seconds=4208.5)
    assert suv.factor == pytest.approx(start_factor(4208.5))
    assert (suv.uptake_time_s, suv.rules["injection_time"].code) == (4208.5, "TABLE")
    assert suv_factor(series(injection=ONLY_TIME | ONLY_DATETIME), injection_seconds=4208.5).factor == suv.factor


def test_injection_time__table_does_without_the_times_of_the_header() -> None:
    for made in (with_decay_factors(900), series(AcquisitionTime=None)):
        suv = suv_factor(made, injection_seconds=4208.5)
        assert suv.factor == pytest.approx(start_factor(4208.5))
        assert suv.warning_codes == ("TIMES_NOT_USED",)


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(-1, "NegativeUptakeTime"), (43201, "ImplausibleUptakeTime"), (math.nan, "ImplausibleUptakeTime"),
     (math.inf, "ImplausibleUptakeTime"), (6 * F18 + 1, "ImplausibleUptakeTime")],
)  # fmt: skip
def test_injection_time__table_is_checked(seconds: float, code: str) -> None:
    refused(series(), code, injection_seconds=seconds)


def test_check_uptake__refuses() -> None:
    refused(
        series(injection=ONLY_DATETIME | {"RadiopharmaceuticalStartDateTime": "20200506110001"}), "NegativeUptakeTime"
    )
    refused(series(injection=ONLY_TIME | {"RadiopharmaceuticalStartTime": "110001"}), "ImplausibleUptakeTime")
    refused(series(code="77004003"), "ImplausibleUptakeTime", injection_seconds=6 * F18 + 1)
    slow = {"RadionuclideHalfLife": 282_000}  # Zr-89: twelve hours bind, not six half-lives
    assert suv_factor(series(code=None, injection=slow), injection_seconds=43200).uptake_time_s == 43200
    refused(series(code=None, injection=slow), "ImplausibleUptakeTime", injection_seconds=43201)


@pytest.mark.parametrize(
    ("seconds", "codes"),
    [(0, ("UPTAKE_SHORT",)), (1799, ("UPTAKE_SHORT",)), (1800, ()), (10800, ()), (10801, ("UPTAKE_LONG",))],
)
def test_check_uptake__warns(seconds: float, codes: tuple[str, ...]) -> None:
    assert suv_factor(series(), injection_seconds=seconds).warning_codes == codes


# --- weight, dose, half-life -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "weight", "codes"),
    [
        (70000, 70, ("WEIGHT_IN_GRAMS",)),
        (1001, None, ()),
        (10, 10, ("WEIGHT_UNUSUAL",)),
        (301, 301, ("WEIGHT_UNUSUAL",)),
        (20, 20, ()),
        (300, 300, ()),
        (2, 2, ("WEIGHT_UNUSUAL",)),
        (500, 500, ("WEIGHT_UNUSUAL",)),
        (10000, 10, ("WEIGHT_IN_GRAMS", "WEIGHT_UNUSUAL")),
    ],
)
def test_find_weight__odd_values(given: float, weight: float | None, codes: tuple[str, ...]) -> None:
    if weight is None:
        refused(series(PatientWeight=given), "ImplausibleWeight")
        return
    suv = suv_factor(series(PatientWeight=given))
    assert (suv.weight_kg, suv.warning_codes) == (weight, codes)
    assert suv.factor == pytest.approx(start_factor(3600, weight=weight))


def test_find_dose__megabecquerel() -> None:
    suv = suv_factor(series(injection={"RadionuclideTotalDose": 350}))
    assert suv.factor == pytest.approx(start_factor(3600))
    assert suv.warning_codes == ("DOSE_IN_MBQ",)
    assert suv.rules["dose"].code == "MBQ"


@pytest.mark.parametrize(
    ("dose", "code"),
    [(None, "MissingDose"), (0, "MissingDose"), (-350e6, "ImplausibleDose"), (1e5, "ImplausibleDose"),
     (0.9, "ImplausibleDose"), (1.1e11, "ImplausibleDose"), (99_999_9, "ImplausibleDose")],
)  # fmt: skip
def test_find_dose__refuses(dose: float | None, code: str) -> None:
    refused(series(injection={"RadionuclideTotalDose": dose}), code)


@pytest.mark.parametrize(
    ("code", "half_life", "name"),
    [("C-111A1", 6586.2, "F18"), ("C-111A1", 6588, "F18"), ("77004003", 6586.2, "F18"), ("C-131A3", 4057, "Ga68"),
     ("35337001", 4080, "Ga68"), (None, 6588, "F18"), (None, 4057.7, "Ga68"), ("C-131A1", 4057.7, "Ga68")],
)  # fmt: skip
def test_find_half_life__of_the_nuclide(code: str | None, half_life: float, name: str) -> None:
    suv = suv_factor(series(code=code, injection={"RadionuclideHalfLife": half_life}))
    assert (suv.radionuclide, suv.half_life_s, suv.warnings) == (name, half_life, ())
    assert suv.factor == pytest.approx(start_factor(3600, half_life=half_life))


@pytest.mark.parametrize(
    ("code", "half_life"), [("C-111A1", F18), ("77004003", F18), ("C-131A3", GA68), ("35337001", GA68)]
)
def test_find_half_life__from_the_code(code: str, half_life: float) -> None:
    for given_value in (None, 0):
        suv = suv_factor(series(code=code, injection={"RadionuclideHalfLife": given_value}))
        assert suv.factor == pytest.approx(start_factor(3600, half_life=half_life))
        assert suv.warning_codes == ("HALF_LIFE_FROM_CODE",)
        assert suv.rules["half_life"].code == "CODE"


@pytest.mark.parametrize(
    ("code", "half_life", "error"),
    [
        ("C-111A1", 4062, "HalfLifeMismatch"),
        ("C-131A3", 6586, "HalfLifeMismatch"),
        ("C-111A1", 109.8, "HalfLifeMismatch"),
        ("C-111A1", -6586.2, "HalfLifeMismatch"),
        ("C-111A1", 6586.2 * 1.011, "HalfLifeMismatch"),
        (None, None, "MissingHalfLife"),
        ("X-1", None, "MissingHalfLife"),
        ("X-1", 0, "MissingHalfLife"),
        (None, 1e-9, "HalfLifeMismatch"),
        (None, -5, "HalfLifeMismatch"),
    ],
)
def test_find_half_life__refuses(code: str | None, half_life: float | None, error: str) -> None:
    value = None if half_life is None else f"{half_life:.10g}"
    refused(series(code=code, injection={"RadionuclideHalfLife": value}), error)


def test_find_half_life__warns_of_another_nuclide() -> None:
    suv = suv_factor(series(code="C-127A2", injection={"RadionuclideHalfLife": 45721}))
    assert (suv.radionuclide, suv.warning_codes) == (None, ("NUCLIDE_UNKNOWN",))
    assert suv.factor == pytest.approx(start_factor(3600, half_life=45721))


def test_check_injections__none_where_units_are_suv() -> None:
    absent = {"RadiopharmaceuticalInformationSequence": None}
    assert suv_factor(series(Units="GML", **absent)).factor == 1
    assert suv_factor(series(Units="CM2ML", PatientSize=1.75, **absent)).factor > 1
    for units in ("GML", "CM2ML"):
        two = {"RadiopharmaceuticalInformationSequence": [Dataset(), Dataset()]}
        refused(series(Units=units, PatientSize=1.75, **two), "MultipleInjections")


def test_warnings__stable_order() -> None:
    made = series(PatientWeight=70000, SeriesType=None, SeriesTime="113000", injection={"RadionuclideTotalDose": 350})
    codes = ("SERIES_TYPE_MISSING", "WEIGHT_IN_GRAMS", "DOSE_IN_MBQ", "REF_TIME_FROM_ACQUISITION", "UPTAKE_LONG")
    for header in made:
        item = header.RadiopharmaceuticalInformationSequence[0]
        item.RadiopharmaceuticalStartTime, item.RadiopharmaceuticalStartDateTime = "070000", "20200506070000"
    assert suv_factor(made).warning_codes == codes


# --- times as text -----------------------------------------------------------------------------------------------


def test_parse_time__reads_dicom_and_nothing_else() -> None:
    assert parse_time("235960") == 86400
    assert parse_time("10:00:00") == 36000
    for bad in (
        "",
        None,
        "1",
        "10",
        "240000",
        "106000",
        "100061",
        "-10000",
        "10 00",
        "1000.5",
        b"\xff",
        ["1000", "1001"],
    ):
        assert parse_time(bad) is None


def test_parse_date__reads_dicom_and_nothing_else() -> None:
    assert parse_date("19700102") == parse_date("1970.01.02") == 86400
    assert parse_date("20000229") is not None
    for bad in ("", None, "20010229", "00000101", "99991301", "2001-02-03", "200102"):
        assert parse_date(bad) is None


def test_parse_offset__reads_dicom_and_nothing_else() -> None:
    assert (parse_offset("+0530"), parse_offset("-0100")) == (19800, -3600)
    for bad in ("", None, "0100", "+1", "+1500", "+0060"):
        assert parse_offset(bad) is None
    assert parse_datetime("19700101000000+0100", zone=None) == 0


@given(st.integers(0, 86399), st.integers(0, 999999))
def test_parse_time__round_trip(seconds: int, micros: int) -> None:
    clock = f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}.{micros:06}"
    assert parse_time(clock) == pytest.approx(seconds + micros / 1e6, abs=1e-9)


# --- any header at all -------------------------------------------------------------------------------------------


def spoil(target: Dataset, keyword: str, value: bytes) -> None:
    """Put bytes into a tag as a file would, past every check of pydicom's."""
    tag = Tag(TAGS[keyword])
    vr = pydicom.datadict.dictionary_VR(tag)
    target[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


JUNK = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"",
            b" ",
            b"abc",
            b"0",
            b"-1",
            b"NaN",
            b"inf",
            b"-inf",
            b"1e400",
            b"1e308",
            b"-1e308",
            b"5e-324",
            b"1\\2",
            b"1_0",
            b"1" * 400,
            b"99991231",
            b"00010101",
            b"99991231235959.999999+1400",
            b"20200506100000",
            b"START",
            b"NONE",
            b"ADMIN",
            b"GML",
            b"CM2ML",
            b"CNTS",
            b"BQML",
            b"ATTN",
            b"235960",
            b"\x00\x00",
            b"\xff\xfe",
            b"LBM",
            b"O",
            b"STATIC",
            b"DYNAMIC",
            b"C-131A3",
            b"\\" * 8,
            b"0.001",
            b"1e-6",
            b"86400000",
        ]
    ),
    st.floats().map(lambda value: repr(value).encode()),
    st.integers().map(lambda value: str(value).encode()),
)
TOP = sorted(
    set(TAGS) - {"CodeValue", "RadiopharmaceuticalInformationSequence", "RadionuclideCodeSequence", *INJECTION}
)


@st.composite
def spoiled(draw: st.DrawFn) -> list[Dataset]:
    made = series(
        PatientSize=1.7, PatientSex="M", Units=draw(st.sampled_from(["BQML", "CNTS", "GML", "CM2ML"])),
        Manufacturer="Philips", SUVType=draw(st.sampled_from(["BW", "LBM", "IBW"])),
    )  # fmt: skip
    if draw(st.booleans()):
        for header in made:
            header.DecayCorrection, header.CorrectedImage = "NONE", ["ATTN"]
    private = {9: ("GEMS_PETD_01", [0x0D, 0x3B]), 0x7053: ("Philips PET Private Group", [0x00, 0x09])}
    targets = made if draw(st.booleans()) else made[: draw(st.integers(1, 3))]
    edits = draw(
        st.lists(st.tuples(st.sampled_from([*TOP, *INJECTION, "CodeValue", "private", "delete"]), JUNK), max_size=4)
    )
    group = draw(st.sampled_from(sorted(private)))
    offset = draw(st.sampled_from(private[group][1]))
    for keyword, value in edits:
        for header in targets:
            item = header.RadiopharmaceuticalInformationSequence[0]
            if keyword == "private":
                header.add_new((group << 16) | 0x10, "LO", private[group][0])
                header.add_new((group << 16) | 0x1000 | offset, "UN", value)
            elif keyword == "delete":
                set_tags(header, {TOP[len(value) % len(TOP)]: None})
            elif keyword == "CodeValue":
                spoil(item.RadionuclideCodeSequence[0], keyword, value)
            else:
                spoil(item if keyword in INJECTION else header, keyword, value)
    return made


def settle(headers: Any, seconds: float | None = None) -> None:
    """A factor or a named refusal; anything else fails the test that calls."""
    try:
        suv = suv_factor(headers, injection_seconds=seconds)
    except SuvError as error:
        if error.code not in CODES:
            raise
        return
    for factor in suv.per_slice or (suv.factor,):
        assert math.isfinite(factor)
        assert factor > 0


@given(spoiled(), st.one_of(st.none(), st.floats()))
def test_suv_factor__spoiled_headers_end_in_a_factor_or_a_refusal(made: list[Dataset], seconds: float | None) -> None:
    settle(made, seconds)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*TAGS, "PhilipsPETPrivateGroup"]), ANYTHING, max_size=5))
def test_suv_factor__spoiled_excerpts_end_in_a_factor_or_a_refusal(edits: dict[str, Any]) -> None:
    settle(SLICE | INJECTION | {"AcquisitionTime": "110000", "RescaleSlope": 1} | edits)


@given(st.dictionaries(st.sampled_from(sorted(TAGS)), ANYTHING, min_size=1, max_size=4), st.booleans())
def test_suv_factor__spoiled_dicom_json_ends_in_a_factor_or_a_refusal(edits: dict[str, Any], whole: bool) -> None:
    model = series()[0].to_json_dict()
    for keyword, value in edits.items():
        model[f"{TAGS[keyword]:08X}"] = value if whole else {"vr": "UN", "Value": value, "InlineBinary": value}
    settle(model)


@pytest.mark.parametrize("keyword", TOP)
@pytest.mark.parametrize("value", [b"", b"abc", b"nan", b"1\\2\\3", b"-1e308", b"\xff\xfe\x00"])
def test_suv_factor__each_tag_spoiled_alone(keyword: str, value: bytes) -> None:
    made = series()
    for header in made:
        spoil(header, keyword, value)
    settle(made)


def test_number__huge_integers() -> None:
    assert number(10**5000) is None
    settle(SLICE | INJECTION | {"AcquisitionTime": "110000", "PatientWeight": 10**5000})


# --- real headers, slices and the digital reference objects ------------------------------------------------------


@pytest.fixture(scope="module")
def expected(realdata: Path) -> dict[str, Any]:
    return json.loads((realdata / "tcia" / "suv_expected.json").read_text())


def pet_headers(path: Path) -> list[Dataset]:
    files = sorted(path.rglob("*.dcm")) if path.is_dir() else [path]
    read = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    return [header for header in read if header.Modality == "PT"]


@pytest.mark.real
def test_suv_factor__published_headers(realdata: Path, expected: dict[str, Any]) -> None:
    assert len(expected["headers"]) == 5
    for name, factor in expected["headers"].items():
        headers = json.loads((realdata / "tcia" / name).read_text())
        assert suv_factor(headers).factor == pytest.approx(factor, rel=expected["rel_tol"]), name


@pytest.mark.real
def test_suv_factor__real_series(realdata: Path, expected: dict[str, Any]) -> None:
    for name, factor in expected["series"].items():
        suv = suv_factor(pet_headers(realdata / "tcia" / name))
        assert suv.factor == pytest.approx(factor, rel=expected["rel_tol"]), name
        assert suv.warnings == ()
        assert suv.radionuclide == "F18"


@pytest.mark.real
def test_suv_factor__real_refusals(realdata: Path, expected: dict[str, Any]) -> None:
    reasons = {
        "pet/ge_propcps/GH610.dcm": {"NotAttenuationCorrected", "MissingPatientWeight"},
        "pet/no_units/pet_recon_1": {"MissingPatientWeight", "MissingRadiopharmaceutical"},
    }
    assert set(reasons) == set(expected["refused"])
    for name, also in reasons.items():
        headers = pet_headers(realdata / "tcia" / name)
        for given_headers in (headers, headers[:1]):
            error = refused(given_headers, "UnitsNotConvertible")
            assert also <= set(error.also), name


@pytest.mark.real
def test_suv_factor__digital_reference_objects(realdata: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    with tarfile.open(realdata / "tcia" / expected["dro"]["archive"]) as archive:
        # the first releases of Python 3.11 have no filter
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    objects = sorted((tmp_path / "dro").glob("DRO_*"))
    assert len(objects) == 11
    for folder in objects:
        slices = [pydicom.dcmread(file) for file in sorted((folder / "PT").glob("*.dcm"))]
        suv = suv_factor(slices)
        values = np.stack([header.pixel_array * float(header.RescaleSlope) for header in slices]) * suv.factor
        inside = values[values > 0]  # exactly the voxels of the object's own mask
        got = {"min": inside.min(), "median": np.median(inside), "max": inside.max()}
        listed = expected["dro"]["tolerance"].get(folder.name)
        tolerance = 0.001 if listed else expected["dro"]["tolerance"]["default"]
        assert got == pytest.approx(listed or expected["dro"]["target_suv"], abs=tolerance), folder.name

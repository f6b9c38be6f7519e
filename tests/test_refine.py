"""DEEP-PSMA's rule for predictions against a plain transcription on the whole volume, and by hand."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clicksim import Grid, read_image, write_image
from clicksim.cli import main
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.refine import ORGANS, as_organs, refine_prediction
from tests import strategies

SPACINGS = st.sampled_from([(2.0, 2.0, 3.0), (1.0, 1.0, 8.0), (2.5, 2.5, 2.5), (4.07, 4.07, 5.0), (7.0, 0.7, 1.0)])


def plain(prediction, uptake, threshold, spacing, dilation, organs, keep, normal):
    """The published steps, each over the whole volume."""
    mask = prediction != 0
    wide = mask
    if mask.any():
        wide = ndimage.distance_transform_edt(~mask, sampling=spacing) <= dilation + 1e-9
    refined = wide & (uptake >= threshold)
    if organs is not None:
        alone = np.isin(organs, keep)
        refined = np.where(alone, mask, refined)
    if normal is not None:
        refined = refined & (normal == 0)
    return refined


@settings(max_examples=150, deadline=None)
@given(
    strategies.instances(), st.integers(0, 2**32 - 1), SPACINGS, st.sampled_from([0.0, 2.5, 5.0, 7.0, 14.0]),
    strategies.layouts(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_refine_prediction__equals_the_plain_steps(prediction, seed, spacing, dilation, layout, has_organs, has_normal):
    draws = np.random.default_rng(seed)
    uptake = draws.integers(0, 7, prediction.shape).astype(np.float32)
    organs = draws.integers(0, 7, prediction.shape) if has_organs else None
    normal = (draws.random(prediction.shape) < 0.1).astype(np.uint8) if has_normal else None
    got = refine_prediction(
        layout(prediction), uptake, threshold=3.0, spacing=spacing, dilation_mm=dilation, organs=organs,
        keep=["liver", 2], normal=normal,
    )  # fmt: skip
    wanted = plain(prediction, uptake, 3.0, spacing, dilation, organs, [5, 2], normal)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == np.uint8


def row(*values):
    """A volume with one row of voxels along i."""
    return np.array(values, dtype=float).reshape(-1, 1, 1)


def refined(prediction, uptake, **more):
    more = {"threshold": 3.0, "spacing": (2.5, 2.5, 2.5)} | more
    return refine_prediction(row(*prediction), row(*uptake), **more).ravel().tolist()


def test_refine_prediction__takes_the_threshold_itself_and_the_distance_itself():
    assert refined([0, 0, 0, 1, 0, 0, 0], [9, 9, 9, 9, 3, 9, 9]) == [0, 1, 1, 1, 1, 1, 0]
    assert refined([0, 0, 0, 1, 0, 0, 0], [9, 9, 9, 2.99, 2.99, 9, 9]) == [0, 1, 1, 0, 0, 1, 0]
    assert refined([0, 1, 0], [9, 9, 9], dilation_mm=0) == [0, 1, 0]
    assert refined([0, 0, 0, 1, 0, 0, 0], [9] * 7, dilation_mm=7.0) == [0, 1, 1, 1, 1, 1, 0]
    assert refined([0, 0, 0, 1, 0, 0, 0], [9] * 7, dilation_mm=7.5) == [1] * 7
    # 3.3 / 1.1 is a little less than 3 for a computer
    assert refined([0, 0, 0, 1, 0, 0, 0], [9] * 7, dilation_mm=3.3, spacing=(1.1, 1.1, 1.1)) == [1] * 7


def test_refine_prediction__distance_is_true_to_the_spacing():
    prediction = np.zeros((9, 9, 9), np.uint8)
    prediction[4, 4, 4] = 1
    got = refine_prediction(prediction, np.full((9, 9, 9), 5.0), threshold=3, spacing=(1, 2, 8))
    assert np.argwhere(got).min(axis=0).tolist() == [0, 2, 4]  # the volume ends before 5 mm along i
    assert got[0, 4, 4] == 1
    assert got[1, 2, 4] == got[7, 6, 4] == 1  # 3 and 4 mm away along i and j: 5 mm
    assert got[0, 2, 4] == 0


def test_refine_prediction__leaves_organs_alone_by_name_and_takes_normal_uptake_out_last():
    prediction, uptake = [0, 1, 1, 0, 0, 1, 0], [9, 9, 1, 9, 9, 1, 9]
    organs = row(0, 0, 5, 5, 5, 2, 2)
    assert refined(prediction, uptake, dilation_mm=2.5, organs=organs) == [1, 1, 1, 0, 0, 0, 1]
    assert refined(prediction, uptake, dilation_mm=2.5, organs=organs, keep=["liver", "kidney_right"]) == [
        1, 1, 1, 0, 0, 1, 0,
    ]  # fmt: skip
    assert refined(prediction, uptake, dilation_mm=2.5, organs=organs, keep=[]) == [1, 1, 0, 1, 1, 0, 1]
    normal = row(1, 0, 1, 0, 0, 0, 0)
    assert refined(prediction, uptake, dilation_mm=2.5, organs=organs, normal=normal) == [0, 1, 0, 0, 0, 0, 1]


def test_as_organs__knows_names_and_labels():
    assert as_organs(["liver", 2, "3", "urinary_bladder"]) == [5, 2, 3, 21]
    with pytest.raises(SettingError, match="did you mean 'liver'"):
        as_organs(["livre"])
    with pytest.raises(SettingError, match="at least 1"):
        as_organs([0])
    with pytest.raises(TypeError):
        as_organs([5.7])


@pytest.mark.real
def test_organs__are_those_of_the_published_list(realdata):
    import json

    text = (realdata / "deep_psma/totalsegmentator_v2_total_labels.json").read_text()
    found = json.loads(text)
    pairs = found.get("labels", found)
    by_name = {name: int(number) for number, name in pairs.items()} if "5" in pairs else pairs
    assert {name: by_name[name] for name in ORGANS} == ORGANS


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": 0.0}, SettingError, "above 0"),
        ({"threshold": float("nan")}, SettingError, "above 0"),
        ({"dilation_mm": -1.0}, SettingError, "at least 0"),
        ({"organs": np.zeros((2, 1, 1))}, GeometryError, "organ mask and prediction are on different grids"),
        ({"normal": np.zeros((3, 1, 2))}, GeometryError, "normal uptake"),
        ({"spacing": (0, 1, 1)}, GeometryError, "spacing"),
        ({"threshold": 1e9, "organs": row(0, 0.5, 0)}, ImageError, "whole numbers"),
    ],
)
def test_refine_prediction__refuses_in_words(change, error, words):
    with pytest.raises(error, match=words):
        refined([0, 1, 0], [1, 2, 3], **change)


def test_refine_prediction__compares_in_the_precision_of_the_uptake():
    prediction, uptake = np.ones((1, 1, 1), np.uint8), np.full((1, 1, 1), 2.6, np.float32)
    for threshold in (2.6, np.float64(2.6)):
        assert refine_prediction(prediction, uptake, threshold=threshold, spacing=(1, 1, 1)).all()
    with pytest.raises(ImageError, match="real numbers"):
        refine_prediction(prediction, uptake.astype(complex), threshold=2.6, spacing=(1, 1, 1))


def test_refine_prediction__refuses_nan_where_it_counts():
    assert refined([0, 1, 0, 0, 0], [5, 5, 5, 5, np.nan]) == [1, 1, 1, 1, 0]
    with pytest.raises(ImageError, match="NaN"):
        refined([0, 1, 0, 0, 0], [5, 5, np.nan, 5, 5])


def test_refine__from_the_command_line(tmp_path):
    grid = Grid.from_spacing((20, 18, 12), (2, 2, 3))
    draws = np.random.default_rng(1)
    prediction = np.zeros(grid.shape, np.uint8)
    prediction[5:9, 5:9, 4:7], prediction[12:15, 9:12, 5:8] = 1, 2
    uptake = draws.random(grid.shape).astype(np.float32) * 6
    organs = np.zeros(grid.shape, np.uint8)
    organs[:7] = 5
    for name, array in (("p", prediction), ("pet", uptake), ("organs", organs)):
        write_image(tmp_path / f"{name}.nii.gz", array, grid)

    def run(*args):
        files = ("--prediction", tmp_path / "p.nii.gz", "--pet", tmp_path / "pet.nii.gz")
        words = ["refine", *files, "--threshold", "3", "--out", tmp_path / "out.nii.gz", *args]
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)

    done = run("--organs", tmp_path / "organs.nii.gz", "--keep", "liver,21", "--normal-value", "2", "--dilation", "7")
    assert done.exit_code == 0, done.output
    assert (done.stdout, "ml after" in done.stderr) == ("", True)
    wanted = plain(prediction == 1, uptake, 3.0, (2, 2, 3), 7.0, organs, [5, 21], prediction == 2)
    np.testing.assert_array_equal(read_image(tmp_path / "out.nii.gz").array, wanted)
    assert run("--organs", tmp_path / "organs.nii.gz", "--keep", "livre").exit_code == 1
    assert run("--keep", "liver").exit_code == 2
    assert run("--normal", tmp_path / "p.nii.gz", "--normal-value", "2").exit_code == 2

"""The linter names every fault that somebody has published, and finds none where there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicksim import Box, Click, Grid, Prompts, encode
from clicksim.errors import GeometryError, ImageError
from clicksim.findings import Finding, worst_severity
from clicksim.guidance import ENCODINGS, format_lint, lint, lint_predictor

GRID = Grid.from_spacing((30, 26, 22), (2, 2, 3))
PROMPTS = Prompts(
    (Click((8, 20, 6), True), Click((21, 7, 9), True), Click((15, 13, 16), False), Click((25, 19, 5), False)), GRID, "c"
)


def drawn(encoding, prompts=PROMPTS, **given):
    return encode(prompts, prompts.grid.shape, encoding=encoding, **given)


def verdicts(findings, *, least="warning"):
    """The checks with at least this severity, by channel."""
    order = ("good", "note", "warning", "error")
    return {(f.channel, f.check): f for f in findings if order.index(f.severity) >= order.index(least)}


FAULTY = ("points", "inverse-distance")
SOUND = [n for n, e in ENCODINGS.load_all().items() if not e.needs_image and n not in FAULTY]


@pytest.mark.parametrize("encoding", SOUND)
def test_lint__finds_no_fault_in_a_sound_encoding(encoding):
    findings = lint(drawn(encoding), PROMPTS)
    assert not verdicts(findings), format_lint(findings)
    assert {f.check for f in findings} == {
        "prompts", "storage", "peak", "polarity", "place", "support", "energy", "balance", "z-score", "overlap",
    }  # fmt: skip
    assert format_lint(findings).endswith("no fault in 19 checks")


@given(
    st.lists(st.tuples(*[st.integers(3, n - 4) for n in GRID.shape]), min_size=1, max_size=6, unique=True),
    st.sampled_from(["gaussian", "edt-ball", "ball", "distance"]),
)
@settings(max_examples=30)
def test_lint__finds_no_fault_wherever_foreground_clicks_lie(voxels, encoding):
    prompts = Prompts(tuple(Click(v, True) for v in voxels), GRID)
    findings = lint(drawn(encoding, prompts), prompts)
    # where few clicks mirror each other, or blobs fill half of the volume, another place fits as well but no better
    assert not verdicts(findings), format_lint(findings)


# published faults


def test_lint__names_the_gaussian_whose_peak_is_0_0024():
    found = verdicts(lint(drawn("autopet-iv"), PROMPTS))
    assert {check for _, check in found} == {"peak"}
    assert found["foreground", "peak"].severity == "error"
    assert "unit sum" in found["foreground", "peak"].detail
    assert found["foreground", "peak"].value == pytest.approx(0.0024, rel=0.1)
    assert verdicts(lint(drawn("iv-z"), PROMPTS))["background", "peak"].value == pytest.approx(0.0635, rel=0.01)


def test_lint__names_the_distance_that_is_a_delta():
    prompts = Prompts(PROMPTS.items[:2], GRID)
    found = verdicts(lint(drawn("tutorial-euclidean@1", prompts), prompts))
    assert list(found) == [("foreground", "support")]
    assert "a delta" in found["foreground", "support"].detail


def test_lint__names_the_inverted_branch():
    prompts = Prompts(PROMPTS.items[:2], GRID)
    found = verdicts(lint(drawn("tutorial-euclidean-gpu@1", prompts), prompts))
    assert "inverted" in found["foreground", "polarity"].detail
    assert ("foreground", "place") not in found
    turned = 1 - drawn("distance")
    assert "inverted" in verdicts(lint(turned, PROMPTS))["background", "polarity"].detail


def test_lint__names_8_bit_storage_and_its_slope():
    scale = np.float32(1.0000000591)
    slope = np.float64(0.003921569) * 255  # the published read-back: 1.0000000591 and 256 levels
    stored = np.round(drawn("gaussian") * 255) / 255
    assert "multiples of 1/255" in verdicts(lint(stored, PROMPTS))["foreground", "storage"].detail
    found = verdicts(lint(drawn("points").astype(np.float64) * 1.0000000591, PROMPTS))
    assert found["foreground", "storage"].severity == "error"
    assert "1.0000000591" in found["foreground", "storage"].detail
    assert scale == 1
    assert slope == pytest.approx(1, abs=1e-6)


def test_lint__names_a_ramp_without_prompts():
    ramp = np.zeros((2, *GRID.shape), np.float32)
    ramp[0] = np.linspace(0, 1, 30)[:, None, None]
    found = verdicts(lint(ramp, Prompts((), GRID)))
    assert found["foreground", "prompts"].severity == "error"
    assert not verdicts(lint(np.zeros_like(ramp), Prompts((), GRID)))


def test_lint__names_seeds_that_outweigh_all_others():
    channels = drawn("gaussian")
    channels[0][:15] *= 0.03
    found = verdicts(lint(channels, PROMPTS))
    assert found["foreground", "balance"].value == pytest.approx(0.03)
    rounds = Prompts((Click((8, 20, 6), True), Click((21, 7, 9), True, round=5)), GRID)
    assert not verdicts(lint(drawn("gaussian", rounds, decay=0.5), rounds))  # a decay over rounds is meant


def test_lint__names_points_of_one_voxel_and_values_beyond_8_bits():
    found = verdicts(lint(drawn("autopet-v"), PROMPTS))
    assert {check for _, check in found} == {"support"}
    assert "single voxels" in found["foreground", "support"].detail


# axes, places, polarities


def test_lint__names_exchanged_axes_mirrors_and_shifts():
    cube = Grid.from_spacing((24, 24, 24), (2, 2, 2))
    prompts = Prompts((Click((4, 12, 19), True), Click((9, 3, 15), True), Click((20, 9, 5), False)), cube)
    channels = drawn("edt-ball", prompts)
    for changed, words in (
        (channels.transpose(0, 3, 2, 1), "in the order k, j, i"),
        (channels.transpose(0, 2, 1, 3), "in the order j, i, k"),
        (channels[:, ::-1, ::-1], "mirrored along i, j"),
        (np.roll(channels, (1, 0, 2), (1, 2, 3)), r"shifted by (1, 0, 2)"),
    ):
        found = verdicts(lint(changed, prompts))
        assert words in found["foreground", "place"].detail
        assert words in found["background", "place"].detail
    assert not verdicts(lint(channels, prompts))


def test_lint__refuses_channels_of_another_shape_with_a_hint():
    with pytest.raises(GeometryError, match="the axes are exchanged"):
        lint(drawn("gaussian").transpose(0, 3, 2, 1), PROMPTS)
    with pytest.raises(GeometryError, match="needs origin="):
        lint(drawn("gaussian")[:, 1:], PROMPTS)
    with pytest.raises(GeometryError, match="signed"):
        lint(np.zeros((3, *GRID.shape)), PROMPTS)
    with pytest.raises(ImageError, match="real numbers"):
        lint(np.zeros((2, *GRID.shape), complex), PROMPTS)


def test_lint__names_exchanged_polarities_and_their_overlap():
    found = verdicts(lint(drawn("gaussian")[::-1], PROMPTS))
    assert "exchanged" in found["foreground", "polarity"].detail
    near = Prompts((Click((8, 8, 8), True), Click((9, 8, 8), False)), GRID)
    assert found["foreground", "prompts"].severity == "error"
    assert verdicts(lint(drawn("ball", near), near))["both", "overlap"].severity == "warning"
    same = Prompts((Click((8, 8, 8), True), Click((8, 8, 8), False)), GRID)
    assert "(8, 8, 8)" in verdicts(lint(drawn("ball", same), same))["both", "overlap"].detail


@pytest.mark.parametrize(("scale", "verdict"), [(0.05, "error"), (0.3, "warning"), (1.4, "good"), (1.6, "warning")])
def test_lint__judges_the_peak(scale, verdict):
    assert {f.check: f.severity for f in lint(scale * drawn("ball"), PROMPTS)}["peak"] == verdict


@pytest.mark.parametrize(("weakest", "verdict"), [(0.15, "error"), (0.5, "warning"), (0.7, "good")])
def test_lint__judges_the_balance_of_a_round(weakest, verdict):
    guidance = drawn("points")
    guidance[0, 21, 7, 9] = weakest
    findings = {(f.channel, f.check): f for f in lint(guidance, PROMPTS)}
    assert findings["foreground", "balance"].severity == verdict
    assert findings["foreground", "balance"].value == pytest.approx(weakest)


def test_lint__a_shift_that_fits_hardly_better_is_none():
    beside = Prompts(tuple(Click((p.voxel[0] + 1, *p.voxel[1:]), p.foreground) for p in PROMPTS), GRID)
    for sigma, verdict in ((8.0, "good"), (3.0, "error")):  # 3 % and 25 % better one voxel aside
        found = {f.check: f for f in lint(drawn("gaussian", sigma_mm=sigma), beside) if f.channel == "foreground"}
        assert found["place"].severity == verdict


def test_lint__names_lost_clipped_and_outside_prompts():
    lost = drawn("edt-ball")
    lost[0, :15] = 0
    assert "1 of 2" in verdicts(lint(lost, PROMPTS))["foreground", "prompts"].detail
    edge = Prompts((Click((0, 8, 8), True),), GRID)
    assert "clipped" in verdicts(lint(drawn("ball", edge), edge), least="note")["foreground", "prompts"].detail
    patch = encode(PROMPTS, (14, 12, 11), origin=(14, 2, 3), encoding="edt-ball")
    findings = lint(patch, PROMPTS, origin=(14, 2, 3))
    assert "1 of 2 prompt voxels lie outside" in verdicts(findings, least="note")["foreground", "prompts"].detail
    assert not verdicts(findings)
    empty = verdicts(lint(np.zeros((2, *GRID.shape)), PROMPTS))
    assert "empty" in empty["background", "peak"].detail


def test_lint__gives_the_support_in_mm_and_the_spike_after_z_scoring():
    findings = {f.check: f for f in lint(drawn("ball", radius_mm=7), PROMPTS)}
    assert findings["support"].value == pytest.approx(7, rel=0.1)
    channel = drawn("ball", radius_mm=2)[0]
    prompts = Prompts(PROMPTS.items[:2], GRID)
    spike = verdicts(lint(drawn("ball", prompts, radius_mm=2), prompts), least="note")["foreground", "z-score"]
    assert spike.value == pytest.approx((1 - channel.mean()) / channel.std(), rel=1e-4)
    assert spike.severity == "note"


def test_lint__takes_a_signed_channel_and_names_nan():
    assert not verdicts(lint(drawn("gaussian", channels="signed"), PROMPTS))
    spoiled = drawn("gaussian")
    spoiled[0, 3, 3, 3] = np.nan
    assert verdicts(lint(spoiled, PROMPTS))["foreground", "finite"].severity == "error"
    assert verdicts(lint(-drawn("gaussian", channels="signed")[0], PROMPTS))
    with pytest.raises(GeometryError, match="three whole voxel indices"):
        lint(spoiled, PROMPTS, origin=(0, 0.5, 0))
    whole = np.round(drawn("gaussian", channels="signed") * 128).clip(-128, 127).astype(np.int8)  # -128 has no opposite
    assert verdicts(lint(whole, PROMPTS)).keys() == verdicts(lint(whole.astype(np.float32), PROMPTS)).keys()


def test_format_lint__ends_with_the_worst_severity():
    findings = [Finding("note", "a", (), "x", "both"), Finding("warning", "b", (), "y", "both")]
    assert worst_severity(findings) == "warning"
    assert worst_severity([]) == "good"
    assert format_lint(findings).splitlines()[-1] == "verdict: warning; 1 of 2 checks found a fault"


# a model


def obedient(channels):
    """Lesion where the foreground outweighs the background."""
    return channels[0] > np.maximum(channels[1], 0.2)


def trial(predict, prompts=PROMPTS, **given):
    guidance = drawn("distance", prompts, reach_mm=9)
    return {f.check: f for f in lint_predictor(predict, guidance, prompts, **given)}


def test_lint_predictor__passes_a_model_that_obeys():
    findings = trial(obedient)
    assert {name: f.severity for name, f in findings.items()} == dict.fromkeys(
        ("repeat", "obeys", "zero", "shuffle", "shift", "flip", "foreground", "background"), "good"
    )
    assert findings["zero"].value == 1.0
    probabilities = trial(lambda channels: 0.9 * obedient(channels))
    assert probabilities["obeys"].value == 1.0


def test_lint_predictor__names_a_model_that_does_not_look():
    fixed = drawn("ball")[0] > 0
    found = trial(lambda channels: fixed)
    for name in ("zero", "shuffle", "shift", "flip"):
        assert found[name].severity == "error"
        assert "does not use" in found[name].detail
    assert found["obeys"].severity == "good"  # by luck, which is why there are trials


def test_lint_predictor__names_disobedience_and_the_wrong_polarity():
    backwards = trial(lambda channels: channels.max(axis=0) > 0.2)
    assert backwards["obeys"].value == 0.5
    assert backwards["background"].severity == "error"
    assert "against their polarity" in backwards["background"].detail
    removing = trial(lambda channels: (channels[0] < 0.2) & (channels[1] < 0.2))
    assert removing["foreground"].severity == "error"
    assert removing["obeys"].value == 0.5


def test_lint_predictor__tells_a_small_effect_and_a_small_fault():
    fixed = np.zeros(GRID.shape, bool)
    fixed[:25] = True

    def hardly(channels):
        """A large mask of which the guidance moves four voxels, one of them against its polarity."""
        mask = fixed.copy()
        mask[26, 0, 0] = mask[26, 0, 2] = mask[26, 0, 4] = channels[0].max() > 0
        mask[0, 0, 0] = channels[0].max() == 0
        return mask

    found = trial(hardly)
    assert found["zero"].severity == "warning"
    assert found["foreground"].severity == "note"
    assert found["foreground"].detail == "the foreground prompts add 3 voxels and remove 1"


def test_lint_predictor__knows_noise_from_an_effect():
    rng = np.random.default_rng(0)
    found = trial(lambda channels: rng.random(GRID.shape) > 0.5)
    assert found["repeat"].severity == "note"
    assert found["repeat"].value > 0.4


def test_lint_predictor__shifts_in_mm_and_keeps_the_guidance():
    seen = []
    guidance = drawn("points")

    def spoiling(channels):
        seen.append(channels.copy())
        channels[:] = 5
        return np.zeros(GRID.shape, bool)

    lint_predictor(spoiling, guidance, PROMPTS, shift_mm=6)
    assert any(np.array_equal(one, np.roll(guidance, (3, 3, 2), (1, 2, 3))) for one in seen)
    assert any(np.array_equal(one, guidance[::-1]) for one in seen)
    assert np.array_equal(guidance, drawn("points"))


def test_lint_predictor__refuses_what_does_not_fit():
    guidance = drawn("points")
    with pytest.raises(GeometryError, match="the prediction has shape"):
        lint_predictor(lambda channels: channels, guidance, PROMPTS)
    with pytest.raises(GeometryError, match="the trials need guidance"):
        lint_predictor(obedient, guidance[:1], PROMPTS)
    with pytest.raises(ImageError, match="NaN"):
        lint_predictor(lambda channels: channels[0] * np.nan, guidance, PROMPTS)
    none = Prompts((), GRID)
    assert {f.check for f in lint_predictor(obedient, guidance, none)} == {"repeat", "obeys"}
    with pytest.raises(GeometryError, match=r"outside the volume .*\(99, 0, 0\) \(case x\)"):
        lint_predictor(obedient, guidance, Prompts((Click((99, 0, 0), True),), GRID, "x"))


def test_lint_predictor__does_not_ask_for_lesion_in_the_corners_of_a_box():
    box = Prompts((Box((3, 3, 3), (9, 9, 9)),), GRID)
    assert trial(obedient, box)["obeys"].detail == "no clicks or scribbles to obey"
    both = Prompts((*box.items, Click((6, 6, 6), True)), GRID)
    inside = np.zeros(GRID.shape, bool)
    inside[5:8, 5:8, 5:8] = True  # a lesion that does not reach the corners
    assert trial(lambda channels: inside & obedient(channels), both)["obeys"].value == 1.0

"""Guidance against plain whole-volume computations: scipy's filters, brute-force distances, Dijkstra's algorithm.

Values are compared to 1e-6 of the peak: channels are float32. The module runs compiled, without the compiler and with
bounds checks, on small grids.
"""

import importlib.util
import inspect
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage, sparse
from scipy.sparse import csgraph

import clicksim
from clicksim import Box, Click, Grid, Prompts, Scribble, encode
from clicksim.errors import GeometryError, ImageError, SettingError
from clicksim.guidance import ENCODINGS, PRESETS, plan_encoding, write_channels
from clicksim.guidance.encoding_settings import COMMON
from clicksim.guidance.geodesic_maps import geodesic_distance
from clicksim.guidance.templates import edt_ball_template, resized_ball
from clicksim.settings import check_value
from tests import strategies

pytestmark = pytest.mark.kernel

few = settings(max_examples=25)
READING = [name for name, encoding in ENCODINGS.load_all().items() if encoding.needs_image]
LOCAL = [name for name in (*ENCODINGS.names, *PRESETS) if plan_encoding(name, {})["normalise"] == "none"]

UNBOUNDED = [n for n in LOCAL if not plan_encoding(n, {}).needs_image and n not in ("autopet-iv", "iv-z")]


def prompts_in(shape, spacing=None, *, kinds=("click", "scribble", "box")):
    """Up to five prompts of both polarities and some rounds in a volume; they may coincide and lie at its faces."""
    voxel = st.tuples(*[st.integers(0, n - 1) for n in shape])

    def make(kind, voxels, foreground, number):
        if kind == "click":
            return Click(voxels[0], foreground, round=number)
        if kind == "scribble":
            return Scribble(tuple(voxels), foreground, round=number)
        low, high = np.min(voxels, axis=0).tolist(), np.max(voxels, axis=0).tolist()
        return Box(tuple(low), tuple(high), foreground, round=number)

    one = st.builds(
        make, st.sampled_from(kinds), st.lists(voxel, min_size=1, max_size=3), st.booleans(), st.integers(0, 2)
    )
    return st.lists(one, max_size=5).map(lambda items: Prompts(tuple(items), Grid.from_spacing(shape, spacing), "case"))


@st.composite
def cases(draw, max_side=9, **kinds):
    """Prompts on an anisotropic grid, and an image."""
    shape, spacing = draw(strategies.shapes(max_side)), draw(strategies.spacings())
    image = np.random.default_rng(draw(st.integers(0, 99))).gamma(2.0, 1.5, shape)
    return draw(prompts_in(shape, spacing, **kinds)), image


def solid_voxels(prompt):
    if isinstance(prompt, Box):
        return list(product(*(range(a, b + 1) for a, b in zip(prompt.first, prompt.last, strict=True))))
    return list(prompt.voxels)


def voxels_of(prompts, *, foreground):
    return [v for prompt in prompts if prompt.foreground == foreground for v in solid_voxels(prompt)]


def mask_of(prompts, *, foreground):
    mask = np.zeros(prompts.grid.shape)
    for voxel in voxels_of(prompts, foreground=foreground):
        mask[voxel] = 1
    return mask


def distances(prompts, spacing=None, *, foreground=True):
    """The distance of every voxel to the nearest prompt voxel, one voxel after another."""
    places = np.argwhere(np.ones(prompts.grid.shape)) * np.array(spacing or prompts.grid.spacing)
    nearest = np.full(len(places), np.inf)
    for voxel in voxels_of(prompts, foreground=foreground):
        step = places - np.array(voxel) * np.array(spacing or prompts.grid.spacing)
        nearest = np.minimum(nearest, np.sqrt((step**2).sum(axis=1)))
    return nearest.reshape(prompts.grid.shape)


def on_edge(distance, end):
    """Whether a voxel lies so near the end of a support that rounding decides."""
    return bool(np.any(np.isfinite(distance) & np.isclose(distance, end, rtol=1e-9)))


def click(voxel, shape, spacing=(1, 1, 1), **more):
    return Prompts((Click(voxel, True, **more),), Grid.from_spacing(shape, spacing))


def drawn(prompts, encoding, **given):
    return encode(prompts, prompts.grid.shape, encoding=encoding, **given)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * max(1e-3, float(np.max(np.abs(theirs), initial=0))))


# equal to plain computations on the whole volume


@given(cases(), st.sampled_from([1.0, 3.0, 7.5]))
def test_gaussian__is_the_largest_of_all_brute_force_blobs(case, sigma):
    prompts, _ = case
    spacing = np.array(prompts.grid.spacing)
    reach = np.floor(4 * sigma / spacing + 0.5)
    index = np.argwhere(np.ones(prompts.grid.shape))
    for channel, foreground in zip(drawn(prompts, "gaussian", sigma_mm=sigma), (True, False), strict=True):
        best = np.zeros(len(index))
        for voxel in voxels_of(prompts, foreground=foreground):
            steps = index - voxel
            value = np.exp(-0.5 * ((steps * spacing) ** 2).sum(axis=1) / sigma**2)
            best = np.maximum(best, np.where(np.all(np.abs(steps) <= reach, axis=1), value, 0))
        close(channel, best.reshape(prompts.grid.shape))


@given(cases(), st.sampled_from([0.6, 1.4, 3.0]), st.sampled_from([("reflect", "reflect"), ("zero", "constant")]))
def test_gaussian__summed_equals_scipy_at_both_borders(case, sigma, borders):
    prompts, _ = case
    ours = drawn(prompts, "gaussian", sigma_vx=sigma, scale="sum", merge="add", border=borders[0])
    for channel, foreground in zip(ours, (True, False), strict=True):
        close(channel, ndimage.gaussian_filter(mask_of(prompts, foreground=foreground), sigma, mode=borders[1]))


@given(cases(7), st.sampled_from([1.0, 2.0]))
@few
def test_gaussian__integrated_equals_monai(case, sigma):
    torch = pytest.importorskip("torch", reason="MONAI and Torch are the rival here")
    filters = pytest.importorskip("monai.networks.layers", reason="MONAI is the rival here")
    prompts, _ = case
    points = torch.from_numpy(mask_of(prompts, foreground=True).astype(np.float32))[None, None]
    theirs = filters.GaussianFilter(3, sigma, approx="erf")(points)[0, 0].numpy()
    ours = drawn(prompts, "gaussian", sigma_vx=sigma, profile="integrated", scale="sum", merge="add")[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@given(cases(), st.sampled_from([0.0, 1.0, 4.07, 12.0]))
def test_ball__holds_what_lies_within_its_radius(case, radius):
    prompts, _ = case
    for channel, foreground in zip(drawn(prompts, "ball", radius_mm=radius), (True, False), strict=True):
        d = distances(prompts, foreground=foreground)
        assume(radius == 0 or not on_edge(d, radius))
        assert np.array_equal(channel, d <= radius)


@given(cases(), st.sampled_from([0.5, 5.0, 40.0]))
def test_distance__is_truncated_and_turned(case, reach):
    prompts, _ = case
    for channel, foreground in zip(drawn(prompts, "distance", reach_mm=reach), (True, False), strict=True):
        close(channel, np.maximum(0, 1 - distances(prompts, foreground=foreground) / reach))


@pytest.mark.parametrize("truncate", [1.5, 6.0, np.inf])
@given(case=cases())
@few
def test_exp_distance__equals_brute_force(truncate, case):
    prompts, _ = case
    for channel, foreground in zip(drawn(prompts, "exp-distance", fall_mm=4, truncate=truncate), (1, 0), strict=True):
        d = distances(prompts, foreground=bool(foreground))
        assume(not on_edge(d, 4 * truncate))
        close(channel, np.where(d <= 4 * truncate, np.exp(-d / 4), 0))


@given(cases(7))
@few
def test_distance__by_stamps_and_by_one_transform_agree(case):
    prompts, _ = case
    expected = np.maximum(0, 1 - distances(prompts) / 9)
    for much in (0.0, np.inf):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clicksim.guidance.encodings.MOST_STAMPED", much)
            np.testing.assert_allclose(drawn(prompts, "distance", reach_mm=9)[0], expected, atol=2e-6)


def dijkstra(image, seeds, spacing, mix, contrast):
    """The same distance by scipy, on the graph of 26 neighbours."""
    index = np.arange(image.size).reshape(image.shape)
    rows, columns, costs = [], [], []
    for step in product((-1, 0, 1), repeat=3):
        if step <= (0, 0, 0):
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, image.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, image.shape, strict=True))
        length = np.linalg.norm(np.multiply(step, spacing))
        rows.append(index[here].ravel())
        columns.append(index[there].ravel())
        costs.append(((1 - mix) * length + mix * contrast * np.abs(image[here] - image[there])).ravel())
    size = (image.size, image.size)
    graph = sparse.coo_matrix((np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), size)
    starts = [index[tuple(seed)] for seed in seeds]
    return csgraph.dijkstra(graph.tocsr(), directed=False, indices=starts).min(axis=0).reshape(image.shape)


@given(cases(8, kinds=("click",)), st.sampled_from([0.0, 0.5, 0.95]), st.sampled_from([3.0, 25.0, np.inf]))
def test_geodesic_distance__equals_dijkstra(case, mix, reach):
    prompts, image = case
    assume(len(prompts))
    seeds = np.concatenate([prompts.foreground, prompts.background])
    image[::2] *= 6  # detours
    theirs = dijkstra(image, seeds, prompts.grid.spacing, mix, 5.0)
    assume(not on_edge(theirs, reach))
    theirs[theirs > reach] = np.inf
    ours = geodesic_distance(image, seeds, prompts.grid.spacing, mix=mix, contrast=5.0, reach=reach)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-9)


def test_geodesic_distance__goes_through_a_labyrinth_that_no_two_sweeps_solve():
    image = np.zeros((1, 21, 21))
    for wall in range(1, 21, 2):
        image[0, wall] = 100
        image[0, wall, 0 if wall % 4 == 1 else -1] = 0
    seeds = np.array([[0, 0, 10]])
    theirs = dijkstra(image, seeds, (1, 1, 1), 0.5, 1.0)
    np.testing.assert_allclose(
        geodesic_distance(image, seeds, (1, 1, 1), mix=0.5, contrast=1.0, reach=np.inf), theirs, rtol=1e-12
    )
    assert theirs[0, 20, 10] > 100  # it goes round, not through


@given(cases(7))
@few
def test_geodesic__is_one_less_the_distance_and_does_not_cross_edges(case):
    prompts, image = case
    channel = drawn(prompts, "geodesic", image=image, reach_mm=20, mix=0.5, contrast_mm=2)[0]
    voxels = voxels_of(prompts, foreground=True)
    expected = np.zeros(prompts.grid.shape)
    if voxels:
        g = dijkstra(image, voxels, prompts.grid.spacing, 0.5, 2.0)
        inside = mask_of(prompts, foreground=True) > 0
        expected = np.where(inside, 1, np.maximum(0, 1 - g / 20))
    close(channel, expected)


def test_geodesic__stays_in_the_lesion_where_the_distance_does_not():
    image = np.zeros((15, 15, 1))
    image[:7] = 10
    prompts = click((3, 7, 0), image.shape)
    channel = drawn(prompts, "geodesic", image=image, reach_mm=10)[0]
    assert channel[6, 7, 0] > 0.8
    assert not channel[7:].any()
    assert drawn(prompts, "distance", reach_mm=10)[0, 7, 7, 0] > 0.5
    near = drawn(prompts, "exp-geodesic", image=image, fall_mm=4)[0]
    np.testing.assert_allclose(near[4, 7, 0], np.exp(-0.5 / 4), rtol=1e-6)


# encodings that look at the image


@given(cases(8, kinds=("click",)))
@few
def test_adaptive__takes_sigma_from_the_spread_around_each_click(case):
    prompts, image = case
    given_mm = {"sigma_min_mm": 1.0, "sigma_max_mm": 5.0, "window_mm": 3.0, "contrast": 3.0}
    spacing = np.array(prompts.grid.spacing)
    best = np.zeros(image.shape)
    for voxel in prompts.foreground:
        half = np.floor(3.0 / spacing + 1e-9).astype(int)
        box = tuple(slice(max(0, v - h), v + h + 1) for v, h in zip(voxel, half, strict=True))
        sigma = 5.0 - 4.0 * min(1.0, image[box].std() / 3.0)
        one = Prompts((Click(tuple(voxel.tolist()), True),), prompts.grid)
        best = np.maximum(best, drawn(one, "gaussian", sigma_mm=sigma)[0])
    close(drawn(prompts, "adaptive", image=image, **given_mm)[0], best)


@given(cases(8, kinds=("click",)))
@few
def test_masked__zeroes_what_lies_below_the_click_and_3(case):
    prompts, image = case
    best = np.zeros(image.shape)
    for voxel in prompts.foreground:
        one = Prompts((Click(tuple(voxel.tolist()), True),), prompts.grid)
        best = np.maximum(best, drawn(one, "gaussian")[0] * (image >= min(3.0, image[tuple(voxel)])))
    ours = drawn(prompts, "masked", image=image)
    close(ours[0], best)
    close(ours[1], drawn(prompts, "gaussian")[1])


def test_zhack__is_one_channel_with_background_only_where_no_foreground_is():
    image = np.full((9, 9, 9), 5.0)
    image[5:] = 1.0
    prompts = Prompts((Click((4, 4, 4), True), Click((6, 4, 4), False)), Grid.from_spacing((9, 9, 9), (1, 1, 1)))
    (signed,) = drawn(prompts, "zhack", image=image)
    assert signed[4, 4, 4] == 1
    assert signed[3, 4, 4] > 0
    assert signed[6, 4, 4] == -1  # masked out of the foreground, since the uptake is low
    plain = drawn(prompts, "gaussian", sigma_vx=3, channels="signed")[0]
    assert plain[5, 4, 4] == 0


# patches and buffers


@pytest.mark.parametrize("encoding", LOCAL)
@given(case=cases(7), data=st.data())
@few
def test_encode__a_patch_is_a_part_of_the_whole(encoding, case, data):
    prompts, image = case
    whole = drawn(prompts, encoding, image=image)
    start = [data.draw(st.integers(0, n - 1)) for n in whole.shape[1:]]
    shape = [data.draw(st.integers(1, n - a)) for a, n in zip(start, whole.shape[1:], strict=True)]
    part = encode(prompts, shape, origin=start, encoding=encoding, image=image)
    cut = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
    np.testing.assert_allclose(part, whole[cut], atol=1e-6)


@pytest.mark.parametrize("encoding", UNBOUNDED)
@given(case=cases(6))
@few
def test_encode__a_patch_beyond_the_volume_is_that_of_the_padded_image(encoding, case):
    prompts, _ = case
    shape = [n + 3 for n in prompts.grid.shape]
    patch = encode(prompts, shape, origin=(-1, -2, 0), encoding=encoding)
    padded = prompts.pad((1, 2, 0), (2, 1, 3))
    np.testing.assert_allclose(patch, drawn(padded, encoding), rtol=1e-5, atol=1e-6)


BUFFERS = {
    "C": lambda shape: np.full(shape, 7, np.float32),
    "F": lambda shape: np.full(shape, 7, np.float32, order="F"),
    "channels last": lambda shape: np.full((*shape[1:], shape[0]), 7, np.float32).transpose(3, 0, 1, 2),
    "k slowest": lambda shape: np.full((shape[0], *shape[:0:-1]), 7, np.float32).transpose(0, 3, 2, 1),
    "part of a batch": lambda shape: np.full((3, 4, *shape[1:]), 7, np.float32)[1, 1 : 1 + shape[0]],
}


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("encoding", ["gaussian", "edt-ball", "autopet-iv", "exp-distance", "geodesic", "masked"])
@given(case=cases(6))
@settings(max_examples=8)
def test_encode__fills_any_dense_buffer_alike(kind, encoding, case):
    prompts, image = case
    expected = drawn(prompts, encoding, image=image)
    out = BUFFERS[kind](expected.shape)
    assert drawn(prompts, encoding, image=image, out=out) is out
    assert np.array_equal(out, expected)


def test_encode__leaves_the_memory_around_its_buffer():
    batch = np.full((3, 4, 5, 5, 5), 7, np.float32)
    drawn(click((0, 4, 2), (5, 5, 5)), "ball", radius_mm=9, out=batch[1, 1:3])
    batch[1, 1:3] = 7
    assert np.all(batch == 7)


@given(cases(7), st.randoms(use_true_random=False))
@few
def test_encode__neither_order_nor_repetition_matters(case, random):
    prompts, image = case
    items = [*prompts.items, *prompts.items[:2]]
    random.shuffle(items)
    again = Prompts(tuple(items), prompts.grid)
    for encoding in LOCAL:
        if encoding != "nninteractive":  # its weights follow the order
            np.testing.assert_allclose(
                drawn(again, encoding, image=image), drawn(prompts, encoding, image=image), atol=1e-6
            )


@pytest.mark.parametrize("encoding", [*ENCODINGS.names, *PRESETS])
def test_encode__no_prompts_give_zero_and_full_volumes_are_finite(encoding):
    grid = Grid.from_spacing((4, 3, 5), (1, 2, 8))
    image = np.ones(grid.shape)
    assert not drawn(Prompts((), grid), encoding, image=image).any()
    full = Prompts((Box((0, 0, 0), (3, 2, 4), True), Box((0, 0, 0), (3, 2, 4), False)), grid)
    assert np.isfinite(drawn(full, encoding, image=image)).all()
    lone = Prompts((Click((0, 0, 0), True),), Grid.from_spacing((1, 1, 1), (1, 1, 8)))
    assert np.isfinite(drawn(lone, encoding, image=np.ones((1, 1, 1)))).all()


# published values


@pytest.mark.parametrize(("sigma", "peak"), [(1, 0.0634942), (1.5, 0.0188135), (2, 0.0079371), (3, 0.0023518)])
def test_autopet_iv__peaks_are_the_published_ones(sigma, peak):
    channel = drawn(click((12, 12, 12), (25, 25, 25)), "autopet-iv", sigma_vx=sigma)[0]
    np.testing.assert_allclose(channel.max(), peak, rtol=1e-4)


def test_iv_z__reflects_at_a_corner():
    np.testing.assert_allclose(drawn(click((0, 0, 0), (9, 9, 9)), "iv-z")[0, 0, 0, 0], 0.26327, rtol=1e-4)


@pytest.mark.parametrize(
    ("radius", "cells", "squares"),
    [
        (1, 7, {(0, 0, 0): 2, (1, 0, 0): 1}),
        (2, 33, {(0, 0, 0): 5, (1, 0, 0): 2, (1, 1, 0): 1, (1, 1, 1): 1, (2, 0, 0): 1}),
        (3, 123, {(0, 0, 0): 10, (1, 0, 0): 5, (1, 1, 0): 4, (1, 1, 1): 3, (2, 0, 0): 2, (2, 1, 0): 1}),
        (4, 257, {(0, 0, 0): 17, (1, 0, 0): 10, (1, 1, 0): 8, (1, 1, 1): 6, (2, 0, 0): 5, (2, 1, 0): 4,
                  (2, 1, 1): 3, (2, 2, 0): 2, (3, 0, 0): 2, (2, 2, 1): 2, (4, 0, 0): 1}),
    ],
)  # fmt: skip
def test_edt_ball__has_the_published_values(radius, cells, squares):
    channel = drawn(click((5, 5, 5), (11, 11, 11)), "edt-ball", radius_vx=radius)[0]
    assert np.count_nonzero(channel) == cells
    for (a, b, c), square in squares.items():
        np.testing.assert_allclose(channel[5 + a, 5 - b, 5 + c], np.sqrt(square / squares[0, 0, 0]), rtol=1e-6)


@pytest.mark.parametrize("radii", [(2.0, 2.0, 1.0), (3.0, 1.0, 2.0), (2.0, 1.5, 2.5), (4.0, 4.0, 1.0)])
def test_edt_ball__unequal_radii_are_resized_as_torch_does(radii):
    torch = pytest.importorskip("torch", reason="Torch is the rival here")
    steps = np.arange(-max(radii), max(radii) + 1)
    ball = (steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= max(radii) ** 2).astype(np.float32)
    size = [round(2 * r + 1) for r in radii]
    theirs = torch.nn.functional.interpolate(torch.from_numpy(ball)[None, None], size=size, mode="trilinear")[0, 0]
    ours = resized_ball(radii)
    unsure = np.abs(theirs.numpy() - 0.5) < 1e-6
    assert np.array_equal(ours[~unsure], (theirs.numpy() >= 0.5)[~unsure])
    assert edt_ball_template(ours, (1, 1, 1)).max() == 1
    assert drawn(click((6, 6, 6), (13, 13, 13)), "edt-ball", radius_vx=radii)[0].max() == 1


def test_edt_ball__in_mm_is_round_in_mm():
    channel = drawn(click((8, 8, 4), (17, 17, 9), (1, 1, 2)), "edt-ball", radius_mm=6)[0]
    assert channel[8, 8, 4] == 1
    assert np.array_equal(channel > 0, drawn(click((8, 8, 4), (17, 17, 9), (1, 1, 2)), "ball", radius_mm=6)[0] > 0)
    np.testing.assert_allclose(channel[10, 8, 4], channel[8, 8, 5])


@pytest.mark.parametrize(("sigma", "cells"), [(1, 33), (2, 341), (3, 1141)])
def test_sw_fastedit__disks_have_the_published_size(sigma, cells):
    channel = drawn(click((12, 12, 12), (25, 25, 25)), "sw-fastedit", sigma_vx=sigma)[0]
    assert np.count_nonzero(channel) == cells
    assert set(np.unique(channel)) == {0, 1}


@pytest.mark.parametrize(("radius", "pixels"), [(2, 13), (3, 29), (4, 49)])
def test_tutorial_disk__has_the_published_pixels_and_dims_isolated_disks(radius, pixels):
    alone = drawn(click((6, 6, 2), (13, 13, 5)), "tutorial-disk@1", radius_vx=radius)[0]
    assert np.count_nonzero(alone) == pixels == np.count_nonzero(alone[:, :, 2])
    grid = Grid.from_spacing((24, 9, 1), (1, 1, 1))
    three = Prompts((Click((4, 4, 0), True), Click((5, 4, 0), True), Click((18, 4, 0), True)), grid)
    np.testing.assert_allclose(np.unique(drawn(three, "tutorial-disk@1")[0]), [0, 0.5, 1])


def test_tutorial_euclidean__is_a_delta_and_its_gpu_branch_is_inverted():
    prompts = click((4, 4, 4), (9, 9, 9))
    cpu, gpu = drawn(prompts, "tutorial-euclidean@1")[0], drawn(prompts, "tutorial-euclidean-gpu@1")[0]
    assert cpu[4, 4, 4] == 1
    assert 0 < cpu[4, 4, 5] < 1e-6
    assert gpu[4, 4, 4] == 0
    assert gpu[4, 4, 5] == gpu[0, 0, 0] == 1


# rounds, channels, boxes


def test_decay__by_round_and_by_prompt():
    grid = Grid.from_spacing((9, 1, 1), (1, 1, 1))
    items = (Click((0, 0, 0), True), Click((8, 0, 0), True, round=2), Click((4, 0, 0), False, round=1))
    prompts = Prompts(items, grid)
    by_round = drawn(prompts, "points", decay=0.5)
    assert by_round[:, [0, 4, 8], 0, 0].tolist() == [[0.25, 0, 1], [0, 0.5, 0]]
    by_prompt = drawn(Prompts(items[::-1], grid), "points", decay=0.5, decay_by="prompt")
    assert by_prompt[:, [0, 4, 8], 0, 0].tolist() == [[0.25, 0, 1], [0, 0.5, 0]]
    assert drawn(prompts, "exp-distance", truncate=np.inf, decay=0.5)[0, 0, 0, 0] == np.float32(max(0.25, np.exp(-0.8)))
    again = Prompts((*items, Click((8, 0, 0), True, round=0)), grid)  # the later one counts
    assert np.array_equal(drawn(again, "points", decay=0.5), by_round)
    with pytest.warns(UserWarning, match="decay_by has no effect"):
        drawn(prompts, "points", decay_by="prompt")


@given(cases(8, kinds=("box",)))
@few
def test_box__is_solid_and_equals_the_scribble_of_its_voxels(case):
    prompts, image = case
    strokes = tuple(Scribble(tuple(solid_voxels(box)), box.foreground, round=box.round) for box in prompts)
    for encoding in LOCAL:
        expected = drawn(Prompts(strokes, prompts.grid), encoding, image=image)
        np.testing.assert_allclose(drawn(prompts, encoding, image=image), expected, atol=1e-6)


def test_signed__is_foreground_less_background():
    prompts = Prompts((Click((2, 2, 2), True), Click((3, 2, 2), False)), Grid.from_spacing((6, 5, 5), (1, 1, 1)))
    two, signed = drawn(prompts, "gaussian"), drawn(prompts, "gaussian", channels="signed")
    assert signed.shape == (1, 6, 5, 5)
    np.testing.assert_allclose(signed[0], two[0] - two[1], atol=1e-7)
    alone = drawn(prompts, "gaussian", background=False)
    assert not alone[1].any()
    assert np.array_equal(alone[0], two[0])


# what is refused


PROMPTS = click((1, 1, 1), (4, 4, 4), (2, 2, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoding": "gausian"}, "did you mean 'gaussian'"),
        ({"radius_mm": 3}, "unknown setting 'radius_mm' of gaussian"),
        ({"sigma_mm": 3, "sigma_vx": 3}, "one length in two units"),
        ({"sigma_mm": 0}, "above 0"),
        ({"sigma_mm": float("nan")}, "must be a number"),
        ({"sigma_mm": True}, "must be a number"),
        ({"sigma_mm": 10**400}, "must be a number, got 1000"),
        ({"sigma_mm": 1e10}, "at most 1e.09, got 10000000000.0"),
        ({"encoding": "disk", "axis": True}, "whole number, got True"),
        ({"sigma_vx": (1, 2)}, "one number or three"),
        ({"sigma_vx": (1, 2, 0)}, "above 0"),
        ({"truncate": np.inf}, "finite"),
        ({"scale": "unit"}, "Allowed: peak, sum"),
        ({"decay": 1.1}, "at most 1"),
        ({"background": "no"}, "true or false"),
        ({"encoding": "disk", "axis": 3}, "at least 0 and at most 2, got 3"),
        ({"encoding": "geodesic"}, "give image="),
        ({"encoding": "geodesic", "mix": 1}, "at most 0.999"),
        ({"encoding": "adaptive", "sigma_min_mm": 9, "image": np.ones((4, 4, 4))}, "must not be above"),
    ],
)
def test_encode__refuses_settings(given, message):
    with pytest.raises(SettingError, match=message):
        encode(PROMPTS, (4, 4, 4), **given)


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((4, 4, 5), {}, "a patch needs origin="),
        ((4, 4), {}, "three axes"),
        ((4, 4, 4), {"origin": (0, 0.5, 0)}, "three whole voxel indices"),
        ((4, 4, 4), {"spacing": (2, 2, 2)}, "different grids"),
        ((4, 4, 4), {"out": np.zeros((2, 4, 4, 5), np.float32)}, "must have the shape"),
        ((4, 4, 4), {"out": np.zeros((2, 4, 4, 8), np.float32)[..., ::2]}, "dense memory"),
        ((4, 4, 4), {"out": np.zeros((2, 4, 4, 4), np.float32)[:, ::-1]}, "dense memory"),
        ((4, 4, 4), {"out": np.frombuffer(bytes(512), np.float32).reshape(2, 4, 4, 4)}, "read-only"),
        ((4, 4, 4), {"encoding": "masked", "image": np.ones((4, 4, 5))}, "the image has shape"),
        (
            (4, 4, 4),
            {"encoding": "masked", "image": np.ones((4, 4, 4)), "origin": (1, 0, 0)},
            "could be the prompts' volume",
        ),
    ],
)
def test_encode__refuses_what_does_not_fit(shape, given, message):
    with pytest.raises(GeometryError, match=message):
        encode(PROMPTS, shape, **given)


def test_plan_encoding__a_length_in_one_unit_puts_that_in_the_other_aside():
    assert "sigma_mm" not in plan_encoding("gaussian", {"sigma_vx": 2}).settings
    plan = plan_encoding("autopet-iv", {"sigma_mm": 4.0})
    assert "sigma_vx" not in plan.settings
    assert plan.voxels("sigma", (2.0, 2.0, 4.0)) == (2.0, 2.0, 1.0)


def test_ball__holds_the_voxels_exactly_at_its_radius():
    prompts = Prompts((Click((4, 4, 4), True),), Grid.from_spacing((9, 9, 9), (1.1, 1.1, 1.1)))
    for encoding in ("ball", "disk"):
        drawn_ = encode(prompts, (9, 9, 9), encoding=encoding, radius_mm=3.3)[0]  # 3 * 1.1 is a little more than 3.3
        assert drawn_[:, 4, 4].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]


def test_disk__sums_to_one_where_asked():
    drawn_ = encode(click((4, 4, 4), (9, 9, 9)), (9, 9, 9), encoding="disk", radius_vx=2, scale="sum")[0]
    assert drawn_.sum() == pytest.approx(1)
    assert np.count_nonzero(drawn_) == 13


def test_geodesic__a_patch_knows_of_a_click_as_far_as_a_cheap_path_reaches():
    prompts = Prompts((Click((0, 0, 0), True),), Grid.from_spacing((60, 1, 1), (1, 1, 1)))
    image = np.ones((60, 1, 1))
    settings_ = {"encoding": "geodesic", "image": image, "reach_mm": 10, "mix": 0.5}
    patch = encode(prompts, (5, 1, 1), origin=(15, 0, 0), **settings_)
    assert patch[0, 0, 0, 0] == 0.25  # 15 mm at half the cost
    np.testing.assert_array_equal(patch, encode(prompts, (60, 1, 1), **settings_)[:, 15:20])


def test_encode__refuses_mm_without_a_spacing_and_takes_one():
    bare = Prompts(PROMPTS.items, Grid((4, 4, 4)))
    with pytest.raises(GeometryError, match="sigma_vx for voxels"):
        encode(bare, (4, 4, 4))
    assert np.array_equal(encode(bare, (4, 4, 4), spacing=(2, 2, 3)), encode(PROMPTS, (4, 4, 4), spacing=(2, 2, 3)))
    assert encode(bare, (4, 4, 4), sigma_vx=1).max() == 1


def test_encode__refuses_images_without_meaning_and_prompts_outside():
    for image in (np.full((4, 4, 4), np.nan), np.ones((4, 4)), np.ones((4, 4, 4), complex)):
        with pytest.raises(ImageError, match="the image"):
            encode(PROMPTS, (4, 4, 4), encoding="masked", image=image)
    for encoding in READING:
        with pytest.raises(ImageError, match="NaN or infinite values"):
            encode(PROMPTS, (4, 4, 4), encoding=encoding, image=np.full((4, 4, 4), np.inf))
    with pytest.raises(GeometryError, match=r"outside the volume .*\(4, 0, 0\)"):
        encode(click((4, 0, 0), (4, 4, 4)), (4, 4, 4))
    with pytest.raises(TypeError, match="float32"):
        encode(PROMPTS, (4, 4, 4), out=np.zeros((2, 4, 4, 4)))


@pytest.mark.parametrize("encoding", READING)
def test_encode__looks_at_an_image_only_where_it_reads_it(encoding):
    length = {"geodesic": {"reach_mm": 3}, "exp-geodesic": {"fall_mm": 1, "truncate": 3}}.get(encoding, {})
    prompts = click((2, 2, 2), (40, 5, 5))
    image = np.ones((40, 5, 5))
    sound = encode(prompts, (5, 5, 5), encoding=encoding, origin=(0, 0, 0), image=image, **length)
    image[39, 2, 2] = np.nan
    spoiled = encode(prompts, (5, 5, 5), encoding=encoding, origin=(0, 0, 0), image=image, **length)
    assert np.array_equal(spoiled, sound)


# declared once, stored rightly


def test_settings__each_has_a_meaning_and_each_encoding_a_formula():
    for encoding in ENCODINGS.load_all().values():
        assert "Source" in inspect.getdoc(encoding.draw)
        for name, setting in (*COMMON.items(), *encoding.settings.items()):
            assert setting.meaning
            assert check_value(name, setting, setting.default) == setting.default
    assert clicksim.encode is encode


def test_write_channels__are_float32_whatever_the_label_was(tmp_path):
    grid = Grid((5, 4, 3), None, np.diag([-2.0, 2, 3, 1]))
    prompts = Prompts((Click((2, 2, 1), True), Click((0, 0, 0), False)), grid)
    channels = drawn(prompts, "gaussian")
    files = write_channels(tmp_path / "case", channels, grid)
    assert [file.name for file in files] == ["case_0002.nii.gz", "case_0003.nii.gz"]
    for file, channel in zip(files, channels, strict=True):
        stored = nibabel.load(file)
        assert stored.get_data_dtype() == np.float32
        assert np.array_equal(stored.get_fdata(), channel)
        assert stored.get_fdata().max() == 1.0
        np.testing.assert_allclose(stored.affine, grid.affine)
    with pytest.raises(SettingError, match="0 to 9999"):
        write_channels(tmp_path / "case", channels, grid, first=9999)
    with pytest.raises(GeometryError, match="do not fit"):
        write_channels(tmp_path / "case", channels[:, 1:], grid)


def test_docs__the_page_is_what_the_generator_writes():
    docs = Path(__file__).resolve().parents[1] / "docs"
    spec = importlib.util.spec_from_file_location("generate_guidance", docs / "generate_guidance.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = (docs / "guidance.md").read_text(encoding="utf-8")
    assert written == generator.page(), "run python docs/generate_guidance.py"
    for name in (*ENCODINGS.names, *PRESETS):
        assert f"pictures/{generator.file_of(name)}" in written
        assert (docs / "pictures" / generator.file_of(name)).is_file()

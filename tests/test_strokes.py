"""Strokes in a slice against their slow twins, and against scikit-image and networkx."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import line as skimage_line
from skimage.morphology import skeletonize

from clicksim.kernels import strokes as kernels
from clicksim.simulate.scribbles.published_strokes import STROKES, THINNING
from tests import reference_v

pytestmark = pytest.mark.kernel


def slices(max_side=14):
    """Blobs, scattered pixels, bars, rings and single pixels; rims of the image and sides of one pixel included."""
    return st.tuples(st.integers(0, 2**32 - 1), st.integers(1, max_side), st.integers(1, max_side)).map(_drawn)


def _drawn(given_):
    seed, rows, columns = given_
    draws = np.random.default_rng(seed)
    kind = draws.integers(4)
    if kind == 0:
        return (draws.random((rows, columns)) < draws.choice([0.1, 0.4, 0.6, 0.85, 1])).astype(np.uint8)
    mask = np.zeros((rows, columns), np.uint8)
    r, c = np.indices(mask.shape)
    for _ in range(draws.integers(1, 4)):
        a, b = draws.integers(rows), draws.integers(columns)
        if kind == 1:
            mask[a : a + draws.integers(1, 7), b : b + draws.integers(1, 9)] = 1
        else:
            far = ((r - a) / draws.uniform(0.7, 6)) ** 2 + ((c - b) / draws.uniform(0.7, 6)) ** 2
            mask[(far <= 1) & ((kind == 2) | (far > 0.25))] = 1
    return mask


@given(slices())
def test_thin__equals_the_slow_twin_and_scikit_image(mask):
    skeleton = kernels.thin(mask, THINNING)
    assert set(reference_v.pixels_of(skeleton)) == reference_v.thin(mask)
    np.testing.assert_array_equal(skeleton, skeletonize(mask != 0))


def test_thin__equals_scikit_image_for_every_neighbourhood():
    # each code of eight neighbours around a centre, side by side with room between
    sheet = np.zeros((16 * 5, 16 * 5), np.uint8)
    for code in range(256):
        r, c = 5 * (code // 16) + 2, 5 * (code % 16) + 2
        sheet[r, c] = 1
        for bit, (dr, dc) in enumerate(reference_v.RING):
            sheet[r + dr, c + dc] = code >> bit & 1
    np.testing.assert_array_equal(kernels.thin(sheet, THINNING), skeletonize(sheet != 0))


@pytest.mark.parametrize("seed", range(20))
def test_thin__equals_scikit_image_on_larger_masks(seed):
    draws = np.random.default_rng(seed)
    mask = np.zeros((60, 70), np.uint8)
    for _ in range(6):
        a, b = draws.integers(50), draws.integers(60)
        mask[a : a + draws.integers(1, 25), b : b + draws.integers(1, 25)] ^= 1
    np.testing.assert_array_equal(kernels.thin(mask, THINNING), skeletonize(mask != 0))


def test_thin__leaves_something_of_a_square_of_two_pixels():
    square = np.ones((2, 2), np.uint8)
    assert kernels.thin(square, THINNING).sum() == skeletonize(square != 0).sum() > 0


@given(slices())
def test_largest_part__is_the_first_of_the_largest(mask):
    found = reference_v.parts(set(reference_v.pixels_of(mask)))
    largest = max(found, key=len) if found else []
    assert reference_v.pixels_of(kernels.largest_part(mask)) == largest


def test_largest_part__takes_the_first_row_by_row_of_two_equal_ones():
    mask = np.zeros((3, 6), np.uint8)
    mask[0, 4:6] = mask[1:3, 0] = 1  # column by column the other one would come first
    assert reference_v.pixels_of(kernels.largest_part(mask)) == [(0, 4), (0, 5)]


def test_farthest_pair__weighs_the_axes_and_breaks_ties_by_the_first():
    pixels = np.array([[0, 0], [0, 3], [3, 0], [3, 3]])
    assert kernels.farthest_pair(pixels, np.array([1.0, 1.0])) == (0, 3)
    assert kernels.farthest_pair(pixels[:3], np.array([1.0, 4.0])) == (1, 2)
    square = np.array([[0, 1], [1, 0], [1, 2], [2, 1]])
    assert kernels.farthest_pair(square, np.ones(2)) == (0, 3)


@given(slices(), st.randoms(use_true_random=False))
def test_shortest_path__equals_the_slow_twin_and_networkx(mask, draws):
    pixels = reference_v.pixels_of(mask)
    if len(pixels) < 2:
        return
    start, stop = draws.sample(pixels, 2)
    found = [tuple(p) for p in kernels.shortest_path(mask, np.array(start), np.array(stop)).tolist()]
    assert found == (reference_v.shortest_path(set(pixels), start, stop) or [])
    graph = nx.Graph()
    graph.add_nodes_from(pixels)
    for r, c in pixels:
        graph.add_edges_from(((r, c), (r + dr, c + dc)) for dr, dc in reference_v.AROUND if (r + dr, c + dc) in graph)
    for node in graph:  # an edge enters the lists of both its ends; the rule wants each list row by row
        graph._adj[node] = dict(sorted(graph._adj[node].items()))
    rival = nx.shortest_path(graph, start, stop) if nx.has_path(graph, start, stop) else []
    assert found == rival


@pytest.mark.parametrize("seed", range(40))
def test_shortest_path__equals_the_slow_twin_where_many_ways_are_equally_short(seed):
    draws = np.random.default_rng(seed)
    mask = (draws.random((16, 16)) < 0.75).astype(np.uint8)
    pixels = reference_v.pixels_of(mask)
    for _ in range(5):
        start, stop = (pixels[n] for n in draws.choice(len(pixels), 2, replace=False))
        found = [tuple(p) for p in kernels.shortest_path(mask, np.array(start), np.array(stop)).tolist()]
        assert found == (reference_v.shortest_path(set(pixels), start, stop) or [])


def test_shortest_path__expands_the_first_side_where_both_frontiers_are_equal():
    # the other order of the two searches would go round the hole on the other side
    rows = ["#.#.##", "####.#", "##..##", "#....#", "###.##", ".###..", ".#..#.", "....#.", "####.#"]
    mask = np.array([[character == "#" for character in row] for row in rows], np.uint8)
    path = kernels.shortest_path(mask, np.array([5, 3]), np.array([1, 2]))
    assert path.tolist() == [[5, 3], [4, 2], [4, 1], [3, 0], [2, 1], [1, 2]]


@given(st.tuples(*[st.integers(-30, 30)] * 4))
def test_straight_line__equals_the_slow_twin_and_scikit_image(ends):
    found = [tuple(p) for p in kernels.straight_line(*ends).tolist()]
    assert found == reference_v.line(*ends)
    assert found == list(zip(*(a.tolist() for a in skimage_line(*ends)), strict=True))


@given(slices())
def test_inner_rim__equals_the_slow_twin(mask):
    assert reference_v.pixels_of(kernels.inner_rim(mask)) == reference_v.rim(mask)


def test_inner_rim__is_empty_where_the_mask_fills_the_image():
    assert not kernels.inner_rim(np.ones((5, 4), np.uint8)).any()


@given(slices(), st.integers(0, 30), st.randoms(use_true_random=False))
def test_walk__equals_the_slow_twin(mask, steps, draws):
    pixels = reference_v.pixels_of(mask)
    if pixels:
        start = draws.choice(pixels)
        found = [tuple(p) for p in kernels.walk(mask, np.array(start), steps).tolist()]
        assert found == reference_v.walk(pixels, start, steps)


@pytest.mark.parametrize("strategy", STROKES)
@given(mask=slices(22), seed=st.sampled_from([42, 0, 7]))
def test_strokes__equal_the_slow_twin(strategy, mask, seed):
    found = [tuple(p) for p in STROKES[strategy](mask, seed).tolist()]
    assert found == reference_v.STRATEGIES[strategy](mask, seed)


def test_centerline__is_trimmed_from_eleven_nodes_on():
    def bar(n):
        return STROKES["centerline"](np.ones((1, n), np.uint8), 42)

    assert len(bar(10)) == 10
    assert bar(11).tolist() == [[0, c] for c in range(1, 9)]  # nodes int(1.1) to int(9.9)

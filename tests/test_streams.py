"""Random streams: a function of their arguments, and of nothing else, for ever."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.streams import stream

PARTS = st.integers(-(2**70), 2**70) | st.text(max_size=8)
ARGUMENTS = st.tuples(st.integers(-(2**70), 2**70), st.text(max_size=8), st.lists(PARTS, max_size=4))


def draw(seed, case_id, purpose):
    return stream(seed, case_id, *purpose).integers(0, 2**63, 4).tolist()


@given(ARGUMENTS)
def test_stream__same_arguments_same_draws(arguments):
    assert draw(*arguments) == draw(*arguments)


@given(ARGUMENTS, ARGUMENTS)
def test_stream__other_arguments_other_draws(first, second):
    assert (draw(*first) == draw(*second)) == (first == second)


def test_stream__tells_numbers_from_texts_and_one_text_from_two():
    texts = ["a", "b"]
    variants = [("1",), (1,), (*texts,), ("ab",), ("a\x1fb",), ("a', 'b",), ("a'\x1f'b",), (), ("",), ("", "")]
    assert len({tuple(draw(42, "case", variant)) for variant in variants}) == len(variants)


def test_stream__moves_nothing_from_case_id_to_purpose():
    assert draw(42, "case\x1f'lesion'", []) != draw(42, "case", ["lesion"])


def test_stream__takes_numpy_integers_and_texts_as_plain_ones():
    assert draw(np.int64(42), "case", [np.uint8(3)]) == draw(42, "case", [3])
    assert draw(42, np.str_("case"), [np.str_("lesion")]) == draw(42, "case", ["lesion"])


@pytest.mark.parametrize(("seed", "part"), [(1.5, 0), ("42", 0), (42, 1.5), (42, None)])
def test_stream__refuses_what_names_no_stream(seed, part):
    with pytest.raises(TypeError):
        stream(seed, "case", part)


@given(st.permutations(range(6)), st.integers(0, 2**32 - 1))
def test_stream__does_not_depend_on_the_order_of_calls(order, seed):
    alone = {lesion: draw(seed, "case", ["foreground", lesion]) for lesion in range(6)}
    together = {}
    for lesion in order:
        np.random.random()  # noqa: NPY002 - global generators are what it must not depend on
        random.random()
        together[lesion] = draw(seed, "case", ["foreground", lesion])
    assert together == alone


def test_stream__interleaved_draws_do_not_meet():
    first, second = stream(42, "case", 1), stream(42, "case", 2)
    mixed = [(first.integers(0, 2**63), second.integers(0, 2**63)) for _ in range(4)]
    assert [a for a, _ in mixed] == draw(42, "case", [1])
    assert [b for _, b in mixed] == draw(42, "case", [2])


def test_stream__gives_the_golden_draws():
    """Simulated clicks of every release rest on these numbers: a change here is a new protocol version."""
    generator = stream(42, "case", "foreground", 3, 0)
    assert generator.integers(0, 2**32, 4).tolist() == [3176048019, 3790943957, 535735022, 3928815194]
    assert generator.random() == 0.23651056636646461
    assert stream(42, "fdg_01", "background", "choice").permutation(8).tolist() == [4, 1, 2, 5, 6, 7, 0, 3]
    assert stream(-1, "").integers(0, 1000, 5).tolist() == [353, 28, 550, 532, 75]

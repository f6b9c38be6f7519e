"""The benchmarks still run: each once, on a tiny case. No test asserts a time."""

import importlib

import numpy as np
import pytest

from benchmarks import passes, rivals
from benchmarks.__main__ import GROUPS, main
from benchmarks.cases import case_a
from benchmarks.clicks import as_plain
from benchmarks.measure import Time
from benchmarks.table import HEADER, at_most, faster
from clicksim import simulate_clicks
from tests import reference


@pytest.mark.parametrize("group", GROUPS)
def test_run__each_group_fills_its_table(group: str) -> None:
    for section in importlib.import_module(f"benchmarks.{group}").run(full=False, quick=True):
        assert section.rows
        assert all(len(row) == len(section.header) for row in section.rows)
        assert all(row[0] and row[1] for row in section.rows)


def test_main__one_group_is_printed_with_the_machine_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--only", "clicks"])
    page = capsys.readouterr().out
    assert page.startswith("# Benchmarks")
    assert f"numpy {np.__version__}" in page
    assert "| autopet-iv@1" in page


@pytest.mark.parametrize("n_boxes", [0, 1, 3])
def test_rivals__equal_the_slow_twin_and_clicksim(n_boxes: int) -> None:
    rng = np.random.default_rng(n_boxes)
    labels = np.zeros((17, 15, 19), np.uint8, order="F")
    for corner in ((0, 0, 0), (4, 9, 10), (10, 2, 3))[:n_boxes]:
        labels[tuple(slice(c, c + 2) for c in corner)] = 1
    uptake = np.asfortranarray(rng.random(labels.shape, dtype=np.float32))
    uptake[6:9, 6:9, 6:9] += 2  # few hot components, so that extra background clicks are drawn
    expected = reference.autopet_iv_1(labels, uptake)
    assert as_plain(simulate_clicks(labels, uptake=uptake, protocol="autopet-iv@1")) == expected
    assert rivals.whole_volume(labels, uptake) == expected
    for distance in (rivals.by_edt, rivals.by_scipy):
        assert rivals.plain_assembly(labels, uptake, distance=distance) == expected


def test_watched__steps_add_up_to_less_than_the_call_and_are_put_back() -> None:
    case = case_a(quick=True)
    before = passes.hot.without
    total, parts = passes._fastest_call(
        lambda: simulate_clicks(case.labels, uptake=case.uptake, protocol="autopet-iv@1"), rounds=1
    )
    assert {name for _, _, name in passes.STEPS} - {"rims"} <= set(parts)
    assert 0 < sum(parts.values()) <= total
    assert passes.hot.without is before


def test_goals__more_is_met_from_above_and_less_from_below() -> None:
    reached = HEADER.index("reached")
    one, two = Time(1.0, 1.0, 1), Time(2.0, 2.0, 1)
    assert faster("w", one, "r", two, bar=2, aim=3)[reached] == "bar"
    assert faster("w", one, "r", two, bar=2.1)[reached] == "no"
    assert at_most("w", one, "r", two, bar=0.6, aim=0.5)[reached] == "aim"
    assert at_most("w", two, "r", one, bar=1.5, aim=1.2)[reached] == "no"

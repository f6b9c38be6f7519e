"""Results that several runs on one case share are made once, and are those of each call alone."""

import numpy as np
import pytest

from clicksim import simulate_clicks
from clicksim.geometry.reuse import reusable, reusing_results
from clicksim.phantom import make_phantom


def test_reusable__is_called_once_for_the_same_arrays_and_values() -> None:
    calls = []

    @reusable
    def total(array: np.ndarray, *, times: float = 1) -> float:
        calls.append(times)
        return float(array.sum() * times)

    one, equal = np.ones((2, 3)), np.ones((2, 3))
    for _ in range(2):
        assert total(one) == 6
    assert len(calls) == 2, "outside a block each call counts"
    with reusing_results():
        for _ in range(3):
            assert [total(one), total(one[:]), total(one, times=2), total(equal), total(one.T)] == [6, 6, 12, 6, 6]
            assert total(one[:1]) == 3
        assert len(calls) == 2 + 5
        for n in range(50):  # temporary arrays do not take the place of one another
            assert total(np.full(4, n)) == 4 * n
    calls.clear()
    with reusing_results():
        total(one)
    assert calls == [1], "another block begins anew"


def test_reusable__keeps_no_refusal() -> None:
    answers = iter([ValueError, None])

    @reusable
    def refuses(_name: str) -> str:
        if error := next(answers):
            raise error
        return "done"

    with reusing_results():
        with pytest.raises(ValueError):  # noqa: PT011
            refuses("a")
        assert refuses("a") == "done"


def test_simulate_clicks__gives_the_same_clicks_where_results_are_shared() -> None:
    made = make_phantom(1, shape=(40, 40, 50), spacing=(10.0, 10.0, 12.0))
    cases = [
        {"protocol": protocol, "seed": seed, "percentile": percentile}
        for protocol in ("autopet-iv@1", "autopet-iv@2")
        for seed in (1, 2)
        for percentile in (99.0, 99.75)
    ] + [{"protocol": "autopet-iv@2", "margin_mm": 30.0}, {"protocol": "autopet-iv@2", "instances": "labels"}]

    def click(settings: dict) -> str:
        spacing = None if settings["protocol"].endswith("@1") else made.grid.spacing
        return simulate_clicks(made.label, uptake=made.pet, spacing=spacing, case_id="a", **settings).to_json()

    alone = [click(settings) for settings in cases]
    with reusing_results():
        assert [click(settings) for settings in cases] == alone
    assert len(set(alone)) > 5

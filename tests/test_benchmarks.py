"""The benchmarks still run: each once, on a tiny case. No test asserts a time."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_passes as passes
from benchmarks import rivals
from benchmarks.__main__ import GROUPS, main
from benchmarks.bench_clicks import as_plain
from benchmarks.bench_data import ROOT, case_a
from benchmarks.result_table import HEADER, at_most, faster, share, show_time, within
from benchmarks.timing import Time, measure
from clicksim import simulate_clicks
from studies import faults
from tests import reference

PROSE = {
    "benchmarks": ("benchmarks.result_table", *(f"benchmarks.bench_{group}" for group in GROUPS)),
    "datapath": ("benchmarks.datapath",),
    "failures": ("studies.faults",),
    "gpu": ("studies.gpu",),
    "learning": ("studies.learning",),
    "planning": ("studies.planning",),
    "scale": ("studies.scale",),
}
"""Pages, and the modules whose sentences stand on them."""


@pytest.mark.parametrize("group", GROUPS)
def test_run__each_group_fills_its_table(group: str) -> None:
    for section in importlib.import_module(f"benchmarks.bench_{group}").run(full=False, quick=True):
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


def test_within_and_share__are_held_against_a_time_and_a_size() -> None:
    reached, ratio = HEADER.index("reached"), HEADER.index("ratio")
    one, two = Time(1.0, 1.0, 1), Time(2.0, 2.0, 1)
    assert [within("w", two, "r", one, bar_s=bar)[reached] for bar in (2.0, 1.9)] == ["bar", "no"]
    assert within("w", two, "r", one, bar_s=2.0)[ratio] == "2 x"
    assert [share("w", 1e6, "r", 2e6, bar=bar)[reached] for bar in (0.5, 0.4)] == ["bar", "no"]
    assert share("w", 1e6, "r", 2e6)[ratio] == "0.5 x"


def test_show_time__takes_the_unit_that_fits() -> None:
    assert [show_time(value) for value in (123.4, 1.234, 0.01234, 5e-5)] == ["123 s", "1.23 s", "12.3 ms", "50 µs"]
    assert show_time(Time(1.0, 2.0, 3)) == "1 s (2 s)"


def test_measure__times_each_work_in_every_round_after_its_warm_up() -> None:
    clock, calls = iter(range(100)), []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = measure(works, rounds=2, warm_up=1, clock=lambda: float(next(clock)))
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": Time(1.0, 1.0, 2), "b": Time(1.0, 1.0, 2)}


def test_check_equal__refuses_a_rival_that_differs() -> None:
    rivals.check_equal([1], [1], "case A")
    with pytest.raises(RuntimeError, match=r"differ \(case A\): \[1\] and \[2\]"):
        rivals.check_equal([1], [2], "case A")


def test_faults_page__has_a_row_for_each_fault() -> None:
    rows = [
        {"fault": "disk full", "met": "convert", "times": 1, "lost": 0, "says": "no | space"},
        {"fault": "disk full", "met": "clicks", "times": 2, "lost": 1, "says": "other"},
        {"fault": "disk full", "met": "clicks", "times": 1, "lost": None, "says": "other"},
        {"fault": "clock", "met": "convert", "times": 3, "lost": None, "says": "nothing"},
    ]
    page = faults.fault_table(rows)
    assert "| disk full | convert, clicks | 4 | 1 | no / space |\n" in page
    assert "| clock | convert | 3 | none at stake | nothing |\n" in page


@pytest.mark.parametrize("page", PROSE)
def test_pages__hold_the_prose_of_their_scripts(page: str) -> None:
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split())
    prose = [part for name in PROSE[page] for part in prose_of(name)]
    assert prose
    assert [part for part in prose if not re.search(part, text)] == [], "edit the script, and run it"


def prose_of(module: str) -> list[str]:
    """The constants of a module that are whole sentences, as patterns that take any number where one is filled in."""
    try:
        named = vars(importlib.import_module(module)).items()
    except ModuleNotFoundError as error:
        pytest.skip(f"{module} needs {error.name}, an extra that is not installed")
    words = [" ".join(v.split()) for name, v in named if name.isupper() and isinstance(v, str)]
    return [re.sub(r"\\{.*?\\}", ".*?", re.escape(text)) for text in words if len(text) > 60 and text.endswith(".")]


@pytest.mark.torch
def test_planning__goes_through_every_source_on_tiny_phantoms(tmp_path: Path) -> None:
    from studies import planning

    planning.main(["--quick", "--out", str(tmp_path / "planning.md")])
    page = (tmp_path / "planning.md").read_text(encoding="utf-8")
    assert [plan.title for plan in planning.PLANS if page.count(f"| {plan.title} |") != 3] == []


# --- training ------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize(
    "parts", [("network", "training", "datapath"), pytest.param(("tests", "encodings"), marks=pytest.mark.slow)]
)
def test_gpu__its_parts_run_on_a_cpu_and_fill_their_rows(parts: tuple[str, ...], tmp_path: Path) -> None:
    from studies import gpu

    command = ["--device", "cpu", "--small", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "gpu.md")]
    gpu.main([*command, *(word for part in parts for word in ("--only", part))])
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for part, rows in gpu.ROWS.items():
        for row in rows:
            (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} |"))
            assert line.endswith("| not run |") == (part not in parts)
            assert "failed" not in line
    assert ("## Encodings" in page) == ("encodings" in parts)


@pytest.mark.torch
def test_gpu__a_part_that_fails_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from studies import gpu

    def breaks(_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu.PARTS, "training", breaks)
    command = ["--device", "cpu", "--small", "--work", str(tmp_path), "--out", str(tmp_path / "gpu.md")]
    with pytest.raises(SystemExit, match="1"):
        gpu.main([*command, "--only", "training", "--only", "network"])
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.count("failed: RuntimeError: out of memory") == len(gpu.ROWS["training"])
    assert "| one window, forward | not run |" not in page
    old = json.loads((tmp_path / "network.json").read_text()) | {"about": "another device"}
    (tmp_path / "network.json").write_text(json.dumps(old))
    assert set(gpu.read_parts(tmp_path, gpu.describe_device(torch.device("cpu"), small=True))) == {"training"}


@pytest.mark.torch
def test_datapath__measures_waits_stages_and_the_device(tmp_path: Path) -> None:
    from benchmarks import datapath

    datapath.main(
        ["--smoke", "--device", "cpu", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "page.md")]
    )
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    for row in ("| 0 |", "| 1 |", "| 2 |", "| read and crop |", "| prompts: clicks |", "| collate |", "| guidance of"):
        assert row in page


@pytest.mark.torch
@pytest.mark.slow
def test_learning__writes_its_page_and_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies import learning

    command = ["--smoke", "--work", str(tmp_path / "work"), "--out"]
    learning.main([*command, str(tmp_path / "one.md")])
    monkeypatch.setattr("clickseg.train.train_model", lambda *_, **__: pytest.fail("trained again"))
    learning.main([*command, str(tmp_path / "two.md")])
    page = (tmp_path / "one.md").read_text(encoding="utf-8")
    assert page == (tmp_path / "two.md").read_text(encoding="utf-8")
    assert page.count("| not run |") == len(learning.ENCODINGS)
    assert "| all |" in page


@pytest.mark.torch
def test_make_data__refuses_a_folder_that_was_made_for_another_model(tmp_path: Path) -> None:
    from studies import learning

    learning.make_data(tmp_path, learning.SMOKE)
    learning.make_data(tmp_path, learning.SMOKE)
    other = replace(learning.SMOKE, model=learning.SMOKE.model.but(size="small"))
    with pytest.raises(SystemExit, match="other settings; use another folder"):
        learning.make_data(tmp_path, other)


@pytest.mark.torch
def test_interval__counts_seeds_and_cases() -> None:
    from studies.learning import interval

    draws = np.random.default_rng(1)
    by_seed, by_case = draws.normal(0, 3, (8, 1)), draws.normal(0, 1, (1, 40))
    for values in (by_seed + np.zeros((1, 40)), by_case + np.zeros((8, 1)), by_seed + by_case):
        mean, low, high = interval(values)
        assert mean == pytest.approx(values.mean())
        spread = np.sqrt(values.mean(axis=1).var() / 8 + values.mean(axis=0).var() / 40)
        assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.12)
    assert interval(np.full((3, 4), 0.5)) == (0.5, 0.5, 0.5)


@pytest.mark.torch
def test_read_lint__tells_use_from_other_faults() -> None:
    from studies.learning import read_lint

    lines = ["good     zero         model       without guidance 20.0% of the mask changes"]
    lines += [f"good     {check:12} model       words" for check in ("shuffle", "shift", "flip")]
    lines += [
        "error    foreground   model       the foreground prompts add 1 voxels and remove 2",
        "verdict: error; 1 of 5",
    ]
    text = "\n".join(["case a", *lines, "", "case b", *lines])
    assert read_lint(text) == {"used": True, "change": 20.0, "faults": {"foreground error": 2}}
    assert not read_lint(text.replace("good     shift ", "error    shift "))["used"]
    assert not read_lint(text.replace("good     zero ", "warning  zero "))["used"]

"""What fuzzing found stays mended: every input in `regressions/<target>/` is read under the contract of `fuzz`.

Atheris is not needed here. A watchdog ends the process where a reader hangs in compiled code.
"""

import faulthandler
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from clicksim.errors import ClicksimError
from fuzz import campaign
from fuzz import fuzz_page as page
from fuzz.campaign import REGRESSIONS, shrink
from fuzz.contract import LONGEST_MESSAGE, BadRefusalError, fault_of, read_input
from fuzz.targets import NAMES, Target, find_target

MOST_BYTES = 256 << 20
WATCHDOG_S = 120
INPUTS = sorted(file for file in REGRESSIONS.glob("*/*") if file.is_file())


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("file", INPUTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_read__holds_the_contract_for_what_was_found(file: Path) -> None:
    target, data = find_target(file.parent.name), file.read_bytes()
    read_input(target, target.seeds()[0])  # what is imported and cached does not count
    before = largest_ever()
    tracemalloc.start()
    try:
        read_input(target, data)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert largest_ever() - before < MOST_BYTES  # compiled libraries are seen here alone


def largest_ever() -> int:
    """The most memory that this process has held so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", NAMES)
def test_read__takes_every_seed(name: str) -> None:
    target = find_target(name)
    seeds = target.seeds()
    assert seeds
    assert [read_input(target, seed) for seed in seeds] == [None] * len(seeds)
    assert len(target.title.split()) > 1


@pytest.mark.parametrize("name", NAMES)
def test_read__holds_the_contract_for_cut_and_torn_seeds(name: str) -> None:
    target = find_target(name)
    seed = min(target.seeds(), key=len)
    torn = [seed[: len(seed) * n // 5] for n in range(5)] + [seed[::-1], seed * 2, b"\xff" * 600, b"\0" * 600]
    assert [fault_of(target, data) for data in torn] == [None] * len(torn)


def test_regressions__stand_in_folders_of_targets() -> None:
    assert {file.parent.name for file in INPUTS} <= set(NAMES)
    assert sum(page.count_regressions(name) for name in NAMES) == len(INPUTS) > 0


def test_write_page__keeps_the_counts_of_what_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.read_counts()
    assert set(before) == set(NAMES)
    assert all(int(cells[1].replace(",", "")) > 0 for cells in before.values())
    monkeypatch.setattr(page, "PAGE", tmp_path / "fuzzing.md")
    page.write_fuzz_page([])
    assert page.read_counts() == {name: ["not run", "", "", ""] for name in NAMES}
    page.write_fuzz_page([{"target": "mha", "seconds": 9, "executions": 1234, "edges": 56, "findings": {"a": "b"}}])
    page.write_fuzz_page([])
    assert page.read_counts()["mha"] == ["9", "1,234", "56", "1"]
    assert page.read_counts()["nifti"][0] == "not run"
    rows = {row.split("`")[1]: row for row in page.PAGE.read_text(encoding="utf-8").splitlines() if row[:3] == "| `"}
    assert rows["mha"].endswith(f"| {page.count_regressions('mha')} |")


def test_pack__gives_back_what_was_unpacked() -> None:
    target = find_target("nifti_gz")
    assert target.pack is not None
    assert target.unpack is not None
    seed = target.seeds()[0]
    assert read_input(target, target.pack(target.unpack(seed))) is None
    assert target.unpack(b"no gzip") == b""


# a reader that breaks is noticed


def broken(data: bytes, folder: Path) -> None:
    (folder / "input").write_bytes(data)
    if b"long" in data:
        raise ClicksimError("x" * (LONGEST_MESSAGE + 1))
    if b"silent" in data:
        raise ClicksimError(" ")
    if b"surrogate" in data:
        raise ClicksimError("\ud800")
    if b"refused" in data:
        raise ClicksimError(f"refused ({folder})")
    if b"warn" in data:
        import numpy as np

        np.float32(1e38) * np.float32(1e38)
    if b"bug" in data:
        raise KeyError("bug")


BROKEN = Target("broken", "a reader that breaks", lambda: [b"sound"], broken)


def test_read__tells_values_and_refusals() -> None:
    assert read_input(BROKEN, b"sound") is None
    assert isinstance(read_input(BROKEN, b"refused"), ClicksimError)


@pytest.mark.parametrize("word", [b"long", b"silent", b"surrogate"])
def test_read__wants_refusals_that_can_be_shown(word: bytes) -> None:
    with pytest.raises(BadRefusalError):
        read_input(BROKEN, word)


def test_fault_of__names_what_broke_and_where() -> None:
    assert fault_of(BROKEN, b"sound") is None
    assert fault_of(BROKEN, b"refused") is None
    bug, warn, long = (fault_of(BROKEN, word) or "" for word in (b"bug", b"warn", b"long"))
    assert bug.startswith("KeyError at fuzz/contract.py")  # the innermost place outside the tests
    assert warn.startswith("RuntimeWarning at")
    assert long.startswith("BadRefusalError at")


def test_shrink__keeps_the_fault_and_little_else() -> None:
    fault = fault_of(BROKEN, b"a bug in the middle of much else" * 4)
    assert fault is not None
    assert shrink(BROKEN, b"nothing and a bug and nothing" * 9, fault) == b"bug"


@pytest.mark.skipif(sys.platform == "win32", reason="the process that is stuck is a script of the shell")
def test_run_target__a_process_that_never_begins_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "python"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(campaign, "HOME", tmp_path)
    monkeypatch.setattr(campaign, "GRACE_S", 0.3 - campaign.SHORTEST_RUN_S)
    monkeypatch.setattr(sys, "executable", str(stuck))
    with pytest.raises(SystemExit, match=r"mha did not start; see .*log\.txt"):
        campaign.run_target("mha", campaign.SHORTEST_RUN_S)

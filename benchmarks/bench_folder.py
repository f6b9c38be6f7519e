"""`clicksim clicks` over a folder, compared with only reading the same files with the same reader."""

import contextlib
import io
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.cases import phantom
from benchmarks.result_table import Section, at_most
from benchmarks.timing import Time, measure_clocks
from clicksim.cli import main
from clicksim.volumes import read_image, read_label, write_image
from clicksim.volumes.case import find_companion

TEXT = """`clicksim clicks --label DIR --pet DIR --out DIR` over {count} cases of {voxels:.1f} million voxels (four
phantoms under {count} names), in one process, warm, files in the page cache. "reading only" reads the same labels and
PETs with clicksim's own reader and does nothing else. The table shows CPU time as well as wall time, because other
processes disturb wall time more."""


PROTOCOLS = ("autopet-iv@2", "autopet-iv@1")
DISTINCT = 4


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    count = 3 if quick else 20
    with tempfile.TemporaryDirectory() as name:
        cases, one = Path(name, "cases"), Path(name, "one")
        _write_cases(cases, count, quick=quick)
        _link_cases(cases, one, 1)
        works = {"reading only": lambda: _read_all(cases)}
        for protocol in PROTOCOLS:
            _click_all(one, protocol)  # loads and compiles
            works[protocol] = partial(_click_all, cases, protocol)
        clocks = {"wall": time.perf_counter, "CPU": time.process_time}
        found = measure_clocks(works, rounds=1 if quick else 2, warm_up=0, clocks=clocks)
    voxels = phantom(1, quick=quick).pet.size / 1e6
    rows = [_row(found[clock], protocol, clock) for protocol in PROTOCOLS for clock in clocks]
    return [Section("A folder of cases", TEXT.format(count=count, voxels=voxels), rows=rows)]


def _row(times: dict[str, Time], protocol: str, clock: str) -> list[str]:
    work = f"`clicksim clicks`, {protocol}, {clock} time"
    return at_most(work, times[protocol], "reading only", times["reading only"], bar=1.5, aim=1.2)


def _write_cases(folder: Path, count: int, *, quick: bool) -> None:
    """Write a few phantoms under many names: hard links cost neither time nor disk."""
    source = folder.with_name("phantoms")
    for kind in ("labels", "images"):
        (source / kind).mkdir(parents=True)
    for n in range(min(DISTINCT, count)):
        made = phantom(n + 1, quick=quick)
        write_image(source / "labels" / f"case{n:02d}.nii.gz", made.label, made.grid)
        write_image(source / "images" / f"case{n:02d}_0001.nii.gz", made.pet, made.grid)
    _link_cases(source, folder, count)


def _link_cases(source: Path, folder: Path, count: int) -> None:
    for kind, ending in (("labels", ".nii.gz"), ("images", "_0001.nii.gz")):
        (folder / kind).mkdir(parents=True)
        originals = sorted((source / kind).iterdir())
        for n in range(count):
            (folder / kind / f"case{n:02d}{ending}").hardlink_to(originals[n % len(originals)])


def _read_all(folder: Path) -> None:
    for label in sorted((folder / "labels").iterdir()):
        read_label(label)
        read_image(find_companion(label, folder / "images"))


def _click_all(folder: Path, protocol: str) -> None:
    """Run the command as a user does, and discard its progress.

    Raises:
        RuntimeError: The command refused a case or did not write all files.
    """
    out = folder / "out" / protocol
    arguments = ["--label", str(folder / "labels"), "--pet", str(folder / "images"), "--out", str(out)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["clicks", *arguments, "--protocol", protocol], standalone_mode=False)
    written, wanted = len(list(out.glob("*_clicks.json"))), len(list((folder / "labels").iterdir()))
    if code or written != wanted:
        raise RuntimeError(f"exit code {code}, {written} of {wanted} files: {said.getvalue()}")

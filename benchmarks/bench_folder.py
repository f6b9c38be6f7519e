"""`clicksim clicks` over a folder, compared with only reading the same files; a sweep, compared with one run."""

import contextlib
import io
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.bench_data import phantom
from benchmarks.result_table import Section, at_most
from benchmarks.timing import Time, measure_clocks
from clicksim.cli import main
from clicksim.volumes import read_image, read_label, write_image
from clicksim.volumes.case import find_companion

TEXT = """`clicksim clicks --label DIR --pet DIR --out DIR` over {count} cases of {voxels:.1f} million voxels (four
phantoms under {count} names), in one process, warm, files in the page cache. "reading only" reads the same labels and
PETs with clicksim's own reader and does nothing else. The sweep is `--sweep` with {swept}: each image is read once for
all {runs} runs, and the run that it shares with the command above writes the same bytes. The table shows CPU time as
well as wall time, because other processes disturb wall time more."""


PROTOCOLS = ("autopet-iv@2", "autopet-iv@1")
SWEPT = "n_foreground"
VALUES = tuple(range(1, 11))  # the last is the rule's own
DISTINCT = 4


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    count = 3 if quick else 20
    swept = PROTOCOLS[0]
    with tempfile.TemporaryDirectory() as name:
        cases, one = Path(name, "cases"), Path(name, "one")
        _write_cases(cases, count, quick=quick)
        _link_cases(cases, one, 1)
        works = {"reading only": lambda: _read_all(cases)}
        for protocol in PROTOCOLS:
            _click_all(one, protocol)  # loads and compiles
            works[protocol] = partial(_click_all, cases, protocol)
        works["sweep"] = partial(_click_all, cases, swept, "--sweep", f"{SWEPT}={','.join(map(str, VALUES))}")
        clocks = {"wall": time.perf_counter, "CPU": time.process_time}
        found = measure_clocks(works, rounds=1 if quick else 2, warm_up=0, clocks=clocks)
        _check_sweep(cases, swept)
    voxels = phantom(1, quick=quick).pet.size / 1e6
    rows = [_row(found[clock], protocol, clock) for protocol in PROTOCOLS for clock in clocks]
    rows += [_sweep_row(found[clock], swept, clock) for clock in clocks]
    text = TEXT.format(count=count, voxels=voxels, swept=f"`{SWEPT}` from 1 to 10", runs=len(VALUES))
    return [Section("A folder of cases", text, rows=rows)]


def _row(times: dict[str, Time], protocol: str, clock: str) -> list[str]:
    work = f"`clicksim clicks`, {protocol}, {clock} time"
    return at_most(work, times[protocol], "reading only", times["reading only"], bar=1.5, aim=1.2)


def _sweep_row(times: dict[str, Time], protocol: str, clock: str) -> list[str]:
    work = f"a sweep of {len(VALUES)} settings, {protocol}, {clock} time"
    return at_most(work, times["sweep"], "one run", times[protocol], bar=1.5)


def _check_sweep(folder: Path, protocol: str) -> None:
    """Compare the run of the sweep that has the rule's own settings with that of the single command.

    Raises:
        RuntimeError: Their files differ.
    """
    one, last = folder / "out" / protocol, folder / "out" / f"{protocol}-sweep" / f"{SWEPT}-{VALUES[-1]}"
    files = [{file.name: file.read_bytes() for file in run.glob("*_clicks.json")} for run in (one, last)]
    if files[0] != files[1]:
        raise RuntimeError(f"{last} and {one} have different clicks")


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


def _click_all(folder: Path, protocol: str, *sweep: str) -> None:
    """Run the command as a user does, and discard its progress.

    Raises:
        RuntimeError: The command refused a case or did not write all files.
    """
    out = folder / "out" / (f"{protocol}-sweep" if sweep else protocol)
    arguments = ["--label", str(folder / "labels"), "--pet", str(folder / "images"), "--out", str(out), *sweep]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["clicks", *arguments, "--protocol", protocol], standalone_mode=False)
    written = len(list(out.glob("*/*_clicks.json" if sweep else "*_clicks.json")))
    wanted = len(list((folder / "labels").iterdir())) * (len(VALUES) if sweep else 1)
    if code or written != wanted:
        raise RuntimeError(f"exit code {code}, {written} of {wanted} files: {said.getvalue()}")

"""Crash tests: a share of the points of every job and mode, and the harness itself.

`make crash` plays all points.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from studies.faults import crash_table, fault_table, write_failures_page
from tests.crash.declared import JOBS
from tests.crash.durable import MODELS, Disk, Operation, mark_states
from tests.crash.preload import missing, preloaded
from tests.crash.twins import SPOILED

ROOT = Path(__file__).resolve().parents[1]
needs_shim = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a shim")


def run_crash(*arguments, out):
    """`python -m tests.crash`, and its results."""
    command = [sys.executable, "-m", "tests.crash", *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="session")
def share(tmp_path_factory):
    """The results of a share of all points, played once however many processes run the suite."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(base / "crash.lock"):
        out = base / "crash.json"
        return json.loads(out.read_text()) if out.exists() else run_crash("--most", "1", "--by-job", out=out)


@needs_shim
@pytest.mark.parametrize("name", [job.name for job in JOBS])
def test_crash__of_each_job_loses_nothing(name, share):
    job = share["jobs"][name]
    if "skipped" in job:
        pytest.skip(job["skipped"])
    if "unsound" in job:
        pytest.fail(job["unsound"])
    assert not job["findings"], json.dumps(job["findings"][:3], indent=1)


@needs_shim
def test_crash__share_covers_every_job_and_mode(share, capfd):
    counts = [mode for job in share["jobs"].values() for mode in job.get("modes", {}).values()]
    assert set(share["jobs"]) == {job.name for job in JOBS}
    assert all(mode["ran"] > 0 for mode in counts)
    with capfd.disabled():
        ran, points = (sum(mode[name] for mode in counts) for name in ("ran", "points"))
        print(f"\ncrash tests: {ran} of {points} points", file=sys.stderr)


# --- the harness finds what is unsafe, and nothing else -------------------------------------------------------------


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """The results of the twins: those of signals apart, as each takes seconds."""
    folder = tmp_path_factory.mktemp("twins")
    names, modes = {name for name, _, _ in SPOILED}, {mode for _, mode, _ in SPOILED}
    quiet = sorted(mode for mode in modes if not mode.startswith("SIG"))
    first = run_crash("--jobs", "safe", *sorted(names), "--modes", *quiet, out=folder / "a.json")
    signals = sorted(modes - set(quiet))
    second = run_crash("--jobs", "safe", "leaves_behind", "--modes", *signals, "--most", "2", out=folder / "b.json")
    return [first["jobs"], second["jobs"]]


@needs_shim
def test_harness__finds_nothing_in_a_safe_job(twins):
    for jobs in twins:
        assert not jobs["safe"].get("unsound")
        assert not jobs["safe"]["findings"]
        assert all(mode["ran"] for mode in jobs["safe"]["modes"].values())


@needs_shim
@pytest.mark.parametrize(("name", "mode", "kind"), SPOILED)
def test_harness__finds_a_spoiled_job(name, mode, kind, twins):
    found = [finding for jobs in twins if name in jobs for finding in jobs[name]["findings"]]
    assert (mode, kind) in {(finding["mode"], finding["kind"]) for finding in found}


# --- what the shim counts -------------------------------------------------------------------------------------------

COUNTED = """
import sys
from pathlib import Path
from tests.crash.preload import Shim, TRACE, FAIL
root, side = Path(sys.argv[1]), Path(sys.argv[2])
WRITERS = {}

def writer(function):
    WRITERS[function.__name__] = function

@writer
def parquet(file):
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.table({"a": list(range(1000))}), file)

@writer
def feather(file):
    import pyarrow as pa
    from pyarrow import feather
    feather.write_feather(pa.table({"a": list(range(1000))}), file)

@writer
def mha(file):
    import numpy as np, SimpleITK
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(4000).reshape(10, 20, 20)), str(file))

@writer
def numpy(file):
    import numpy as np
    np.save(file, np.arange(5000))

@writer
def nifti(file):
    import nibabel, numpy as np
    nibabel.save(nibabel.Nifti1Image(np.arange(4000, dtype=np.int16).reshape(10, 20, 20), np.eye(4)), file)

@writer
def webp(file):
    from PIL import Image
    Image.effect_noise((90, 90), 30).convert("RGB").save(file, "webp")

@writer
def copied(file):
    import shutil
    shutil.copyfile(__import__("numpy").__file__, file)

@writer
def worker(file):
    import multiprocessing
    from pathlib import Path
    process = multiprocessing.get_context("spawn").Process(target=Path.write_text, args=(Path(file), "x" * 99))
    process.start()
    process.join()

@writer
def shell(file):
    import subprocess
    subprocess.run(["sh", "-c", f"echo from a shell > '{file}'"], check=True)

if __name__ == "__main__":
    shim = Shim(side)
    names = {"mha": "a.mha", "nifti": "a.nii.gz", "numpy": "a.npy"}
    shim.forget()
    shim.arm(root, flags=TRACE)
    WRITERS[sys.argv[3]](root / names.get(sys.argv[3], sys.argv[3]))
    shim.disarm()
    print(shim.control.count)
"""


def run_writer(tmp_path, name):
    root, side = tmp_path / "root", tmp_path / "side"
    root.mkdir()
    side.mkdir()
    script = tmp_path / "counted.py"
    script.write_text(COUNTED)
    environment = {**preloaded(tmp_path / "control"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(root), str(side), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in (side / "operations.log").read_text().splitlines()]
    return next(root.iterdir()), rows, int(done.stdout)


@needs_shim
@pytest.mark.parametrize("name", ["parquet", "feather", "mha", "numpy", "nifti", "webp", "copied", "worker", "shell"])
def test_shim__sees_every_byte(name, tmp_path):
    file, rows, count = run_writer(tmp_path, name)
    written = sum(int(row[3]) for row in rows if row[2] in ("write", "copy") and row[5].endswith(file.name))
    assert count == len(rows)
    if name != "mha":  # its header is written twice
        assert written == file.stat().st_size
    else:
        assert written >= file.stat().st_size
    assert {row[2] for row in rows} >= {"create"}
    own = {row[1] for row in rows}
    assert len(own) == 1, "all by one process"


# --- what a power cut leaves -----------------------------------------------------------------------------------------


def cut(tmp_path, before, steps):
    """The files that a power cut leaves in both models after some operations on a tree."""
    root, snaps = Path("/watched"), tmp_path / "snaps"
    snaps.mkdir()
    (tmp_path / "before").mkdir()
    for name, text in before.items():
        (tmp_path / "before" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "before" / name).write_text(text)
    disk, found = Disk(root, tmp_path / "before", snaps), []
    for number, (kind, path, *rest) in enumerate(steps, start=1):
        extra, other = (rest[0], "") if rest and isinstance(rest[0], int) else (0, rest[0] if rest else "")
        if kind == "fsync" and len(rest) == 1:  # of a file, with what it holds
            (snaps / str(number)).write_text(other)
            extra, other = 1, ""
        disk.apply(Operation(number, 1, kind, 0, extra, str(root / path), str(root / other) if other else ""))
    for model in MODELS:
        disk.write(tmp_path / model, model)
        files = sorted(file for file in (tmp_path / model).rglob("*") if file.is_file())
        found.append({file.relative_to(tmp_path / model).as_posix(): file.read_text() for file in files})
    return found


NEW = 1
CUTS = {
    "nothing flushed": ({}, [("create", "a", NEW), ("write", "a")], {}, {"a": ""}),
    "file flushed, folder not": ({}, [("create", "a", NEW), ("fsync", "a", "text")], {}, {"a": "text"}),
    "file and folder flushed": (
        {}, [("create", "a", NEW), ("fsync", "a", "text"), ("fsync", "")], {"a": "text"}, {"a": "text"},
    ),
    "renamed, folder not flushed": (
        {"b": "old"}, [("create", "a", NEW), ("fsync", "a", "new"), ("rename", "a", "b")], {"b": "old"}, {"b": "new"},
    ),
    "renamed without fsync": (
        {"b": "old"}, [("create", "a", NEW), ("rename", "a", "b"), ("fsync", "")], {"b": ""}, {"b": ""},
    ),
    "deleted, folder not flushed": ({"b": "old"}, [("unlink", "b")], {"b": "old"}, {}),
    "folder never flushed": (
        {}, [("mkdir", "d"), ("create", "d/a", NEW), ("fsync", "d/a", "text"), ("fsync", "")], {}, {"d/a": "text"},
    ),
    "folder flushed, the one above not": (
        {}, [("mkdir", "d"), ("create", "d/a", NEW), ("fsync", "d/a", "text"), ("fsync", "d")], {}, {"d/a": "text"},
    ),
    "moved to another folder, one of them flushed": (
        {"d/a": "text", "e/b": ""}, [("rename", "d/a", "e/a"), ("fsync", "e")],
        {"e/a": "text", "e/b": ""}, {"e/a": "text", "e/b": ""},
    ),
    "folder renamed aside": (
        {"d/a": "text"}, [("rename", "d", "old"), ("fsync", ""), ("unlink", "old/a")], {"old/a": "text"}, {},
    ),
    "opened anew": ({"b": "old"}, [("create", "b", 2), ("write", "b")], {"b": "old"}, {"b": ""}),
    "linked": ({"b": "old"}, [("link", "b", "c"), ("fsync", "")], {"b": "old", "c": "old"}, {"b": "old", "c": "old"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_disk__keeps_what_was_flushed(name, tmp_path):
    before, steps, strict, names = CUTS[name]
    assert cut(tmp_path, before, steps) == [strict, names]


def test_mark_states__names_equal_trees_alike(tmp_path):
    (tmp_path / "before").mkdir()
    kinds = (("create", 1, "a"), ("write", 0, "a"), ("fsync", 1, "a"), ("fsync", 0, ""))
    rows = [(kind, extra, f"/w/{path}".rstrip("/")) for kind, extra, path in kinds]
    operations = [Operation(n, 1, kind, 0, extra, path, "") for n, (kind, extra, path) in enumerate(rows, 1)]
    marks = {m: mark_states(Path("/w"), tmp_path / "before", tmp_path, operations, m) for m in MODELS}
    assert [len(set(marks["strict"][: n + 1])) for n in range(5)] == [1, 1, 1, 1, 2]
    assert [len(set(marks["names"][: n + 1])) for n in range(5)] == [1, 2, 2, 3, 3]


# --- the page --------------------------------------------------------------------------------------------------------


def test_write_page__keeps_the_other_part(tmp_path):
    counts = {"points": 9, "ran": 7, "trees": 3, "failures": 2}
    results = {"jobs": {"convert": {"operations": 5, "modes": {"kill": counts}}, "odd": {"unsound": "it fails"}}}
    fault = {"fault": "disk full", "met": "convert", "times": 1, "lost": 0, "says": "a|b"}
    write_failures_page(tmp_path / "page.md", faults=fault_table([fault]))
    write_failures_page(tmp_path / "page.md", crash=crash_table(results, results))
    write_failures_page(tmp_path / "page.md", faults=fault_table([fault | {"fault": "no rights"}]))
    text = (tmp_path / "page.md").read_text()
    assert "| convert | 5 | 2 of 7 (2 of 7) |" in text
    assert "7 of 9 points" in text
    assert "| no rights | convert | 1 | 0 | a/b |" in text
    assert "disk full" not in text

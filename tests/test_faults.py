"""What goes wrong around a command: disks, rights, memory, clocks, kills, damage, a second writer.

Every fault is the real one where the machine lets it be made: a disk of a few MB that is full or mounted read-only
(root alone may mount one), a limit on the size of files, a process without rights, signals, limits of memory. Each
test shows that what was committed is still there, byte by byte, and what the one line on stderr says. `make faults`
runs this file and writes docs/failures.md from what the tests record.
"""

import ctypes
import errno
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import clickseg.cli
import clicksim.cli
from clicksim.catalog import Context, create_catalog, find_source, open_catalog
from clicksim.catalog.lock import HOLDER, LOCK, writing
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, StorageError
from clicksim.files import check_space, one_line, storing
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_tcia
from clicksim.pipeline import Crew, convert
from tests.faulty_source import PATIENTS
from tests.simulated import simulate_run

CAP_DAC_OVERRIDE = 1
CASES = {"fdat": 3, "deep_psma": 2}
ROOT = os.geteuid() == 0
DISK_BYTES = 24 << 20
FACTS = ("runs", "run.json", LOCK, HOLDER)
"""What holds wall-clock facts or the lock: the only files that may differ between two runs."""
SMALL = ("size=tiny", "patch=16,16,16", "encoding_radius_mm=8", "steps=2", "batch=1", "workers=0", "validate_every=0")
WRITERS = {
    "convert": ("convert", "deep-psma", "{source}/deep-psma", "catalog"),
    "clicks": ("clicks", "--catalog", "catalog", "--source", "fdat", "--out", "clicks"),
    "scribbles": ("scribbles", "--catalog", "catalog", "--source", "fdat"),
    "rounds": ("rounds", "--catalog", "catalog", "--source", "fdat", "--predictor", "builtin:threshold", "--out", "r",
               "--set", "n_rounds=2"),
    "import-prompts": ("catalog", "import-prompts", "catalog", "{source}/clicks", "--run", "mine"),
    "folds": ("catalog", "folds", "catalog", "--folds", "2"),
    "relocate": ("catalog", "relocate", "catalog", "fdat={source}"),
    "merge": ("catalog", "merge", "merged", "catalog"),
}  # fmt: skip
"""The commands that write to a catalog."""
OTHERS = {
    "clicks --label": ("clicks", "--label", "{label}", "--out", "case.json"),
    "clicks --format rows": ("clicks", "--label", "{label}", "--format", "rows", "--out", "case.parquet"),
    "encode": ("encode", "--prompts", "{prompts}", "--like", "{label}", "--encoding", "gaussian", "--out", "maps"),
    "report": ("report", "catalog", "page.html"),
    "manifest nnunet": ("manifest", "nnunet", "catalog", "Dataset001_Faults", "--copy"),
    "manifest monai": ("manifest", "monai", "catalog", "lists"),
    "manifest csv": ("manifest", "csv", "catalog", "tables"),
    "prepare": ("clickseg", "prepare", "catalog", "store", "--set", "spacing_mm=9,9,10"),
    "train": ("clickseg", "train", "ready", "run", *(word for pair in SMALL for word in ("--set", pair))),
}
RESUMED = ("convert", "clicks", "scribbles", "rounds", "report", "prepare")


def command(name, source, *more):
    """The program and the arguments of a command in the folder that is at work."""
    label = sorted((source / "fdat/labelsTr").iterdir())[0]
    prompts = min(file for file in (source / "clicks").iterdir() if not file.name.startswith("."))
    words = [w.format(source=source, label=label, prompts=prompts) for w in (WRITERS | OTHERS)[name]]
    if words[0] == "clickseg":
        return clickseg.cli.main, [*words[1:], *more]
    return clicksim.cli.main, [*words, *more]


def run(name, source, *more):
    program, arguments = command(name, source, *more)
    return CliRunner().invoke(program, arguments)


def refusal(result):
    """The one line of a command that was refused."""
    assert result.exit_code == 1, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    said = [line for line in result.stderr.splitlines() if line.startswith(("clicksim:", "clickseg:"))]
    lines = [line for line in said if "no GPU: the training runs on the CPU" not in line]  # a note before the work
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def kept(folder):
    """Names and bytes of what stands in a folder, without wall-clock facts, locks, unfinished work and its own name."""
    found = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.is_file() and not hidden and not set(parts) & set(FACTS):
            found["/".join(parts)] = file.read_bytes().replace(str(folder).encode(), b".")
    return found


def lost(before, folder):
    """Files that were there before and are not there any more, or hold something else."""
    after = kept(folder)
    return [name for name, content in before.items() if after.get(name) != content]


@pytest.fixture
def record():
    """Keep a row for docs/failures.md: the fault, what met it, how often, how many files were lost, what was said.

    Without a number of files none was at stake.
    """

    def row(fault, met, *, times=1, lost=None, says=""):
        if "CLICKSIM_FAULTS" in os.environ:
            with Path(os.environ["CLICKSIM_FAULTS"]).open("a", encoding="utf-8") as out:
                out.write(json.dumps({"fault": fault, "met": met, "times": times, "lost": lost, "says": says}) + "\n")

    return row


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Source trees, prompt files, a catalog, and a patch store made from it; not to be changed."""
    pytest.importorskip("torch", reason="clickseg needs PyTorch, which is not installed")
    made = Path(tempfile.mkdtemp(prefix="clicksim-faults-"))
    write_fdat(made / "fdat", patients=2, seed=3)
    write_deep_psma(made / "deep-psma", patients=1)
    for name in ("fdat", "deep-psma"):
        convert(find_source(name), made / name, made / "base/catalog")
    simulate_run(made / "base/catalog", seed=1, source="fdat", out=made / "clicks")
    from clickseg.data.prepare import prepare_store
    from clickseg.training_settings import StoreRules

    prepare_store(made / "base/catalog", made / "base/ready", StoreRules(spacing_mm=(9.0, 9.0, 10.0)))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def sound(source):
    """What each command leaves where nothing disturbs it."""
    known = {}

    def of(name):
        if name not in known:
            folder = source / "sound" / name.replace(" ", "-")
            shutil.copytree(source / "base", folder)
            before = Path.cwd()
            os.chdir(folder)
            try:
                result = run(name, source)
                assert result.exit_code == 0, (result.output, result.exception)
            finally:
                os.chdir(before)
            known[name] = kept(folder)
        return known[name]

    return of


# --- disks that refuse -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mounted():
    """A disk of a few MB."""
    place = Path(tempfile.mkdtemp(prefix="clicksim-disk-"))
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place], capture_output=True, check=False
    )
    if not made or made.returncode:
        place.rmdir()
        pytest.skip("a disk that is full or read-only can be made by root alone, where mount is allowed")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


@pytest.fixture
def disk(mounted, source, monkeypatch):
    """The small disk with a catalog and a store, as the folder at work."""
    for file in mounted.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    shutil.copytree(source / "base", mounted, dirs_exist_ok=True)
    monkeypatch.chdir(mounted)
    return mounted


@contextmanager
def full(disk, free=0):
    """No byte is free, or so many."""
    ballast = disk / ".ballast"
    with ballast.open("wb", buffering=0) as out, suppress(OSError):
        while out.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - free)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(disk):
    """Nothing can be written."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@contextmanager
def short_files(_disk):
    """No file can grow beyond a few bytes: what a full disk is like, for a user who cannot make one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_rights(disk):
    """A process that may read everything and write nothing."""
    folders = [disk, *(path for path in disk.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with bound_by_modes() if ROOT else nullcontext():
            yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


@contextmanager
def bound_by_modes():
    """Root without the capability to write where the mode of a folder forbids it.

    To become another user would not do: the checkout and its environment may lie below a folder that only root
    may enter, and Python still has to import from them.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux lets root give up its right to write anywhere")
    libc = ctypes.CDLL(None, use_errno=True)
    head, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this thread

    def call(function):
        if function(head, held):
            raise OSError(ctypes.get_errno(), "the capabilities of this process cannot be changed")

    call(libc.capget)
    before = held[0]
    held[0] &= ~(1 << CAP_DAC_OVERRIDE)
    call(libc.capset)
    try:
        yield
    finally:
        held[0] = before
        call(libc.capset)


def meet(fault, disk, name, source, sound, words):
    """Run a command into a fault, and again without it; returns what was lost and what was said."""
    expected, before = sound(name), kept(disk)
    with fault(disk):
        result = run(name, source)
    says = refusal(result)
    assert any(word in says for word in words), says
    assert "; " in says, "what to do is missing"
    gone = lost(before, disk)
    assert not gone
    again = run(name, source, *(["--resume"] if name in RESUMED else []))
    assert again.exit_code == 0, (again.output, again.exception)
    assert kept(disk) == expected
    return len(gone), says


@pytest.mark.parametrize("name", [*WRITERS, *OTHERS])
def test_full_disk__costs_nothing_and_the_command_goes_on_when_there_is_space(name, disk, source, sound, record):
    gone, says = meet(full, disk, name, source, sound, ("No space left on device", "are free"))
    record("disk full", name, lost=gone, says=says)


@pytest.mark.parametrize("name", [*WRITERS, *OTHERS])
def test_read_only_disk__is_named(name, disk, source, sound, record):
    gone, says = meet(read_only, disk, name, source, sound, ("Read-only file system",))
    record("folder mounted read-only", name, lost=gone, says=says)


@pytest.fixture
def folder(source, monkeypatch):
    """A folder of its own with a catalog and a store, as the folder at work."""
    with tempfile.TemporaryDirectory(prefix="clicksim-faults-") as made:
        shutil.copytree(source / "base", made, dirs_exist_ok=True)
        monkeypatch.chdir(made)
        yield Path(made)
        monkeypatch.undo()


@pytest.mark.parametrize("name", [*WRITERS, *OTHERS])
def test_limit_on_files__is_named_like_a_full_disk(name, folder, source, sound, record):
    gone, says = meet(short_files, folder, name, source, sound, ("File too large",))
    record("limit on the size of files (`ulimit -f`)", name, lost=gone, says=says)


@pytest.mark.parametrize("name", [*WRITERS, *OTHERS])
def test_folder_of_another_user__is_named(name, folder, source, sound, record):
    gone, says = meet(without_rights, folder, name, source, sound, ("Permission denied",))
    record("no right to write", name, lost=gone, says=says)


@pytest.mark.parametrize("free_kib", [0, 8, 32, 64, 96, 160])
def test_full_disk__met_at_any_point_of_a_conversion_rejects_no_case(free_kib, disk, source, sound, record):
    # what a disk refuses is no fault of a case: it must not end in the table of rejections
    shutil.rmtree(disk / "catalog")
    with full(disk, free_kib << 10):
        says = refusal(run("convert", source))
    if (disk / "catalog/catalog.json").exists():
        opened = open_catalog(disk / "catalog")
        assert opened.cases.num_rows == opened.rejected.num_rows == 0
    result = run("convert", source, "--resume")
    assert result.exit_code == 0, result.output
    expected = {name: text for name, text in sound("convert").items() if "deep_psma" in name}
    assert not lost(expected, disk)
    record("disk full after some KiB", "convert", lost=len(lost(expected, disk)), says=says)


def test_full_disk__met_in_a_worker_is_one_line_too(disk, source, record):
    shutil.rmtree(disk / "catalog")
    with full(disk, 96 << 10):
        says = refusal(run("convert", source, "--workers", "1"))
    assert "No space left on device" in says
    assert not list(disk.rglob("part-0.parquet"))
    record("disk full, met by a worker process", "convert --workers", says=says.replace(f"{disk}/", ""))


def test_full_device__stands_in_for_stdout(source, record):
    label = sorted((source / "fdat/labelsTr").iterdir())[0]
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = "import sys; from clicksim.cli import main; main(sys.argv[1:])"
    with Path("/dev/full").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code, "clicks", "--label", label], stdout=out, stderr=subprocess.PIPE, check=False
        )
    says = done.stderr.decode()
    assert done.returncode == 1, says
    assert "Traceback" not in says
    assert "clicksim: No space left on device; free some space" in says
    record("stdout full (`/dev/full`)", "clicks --label", says=says.splitlines()[-1])


def test_storing__gives_a_number_to_what_has_none_and_leaves_wrong_paths_alone(tmp_path):
    with (
        pytest.raises(StorageError, match=r"No space left on device \(5 requested and 3 written\).*a\.npy"),
        storing(tmp_path / "a.npy"),
    ):
        raise OSError("5 requested and 3 written")  # as NumPy says it
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), storing(tmp_path):
        (tmp_path / "file/a").touch()
    assert (one_line(NotADirectoryError(20, "Not a directory", "file/a")) or "").startswith("file/a: Not a directory")
    assert one_line(FileNotFoundError(2, "No such file or directory", "a")) is None
    assert one_line(ZeroDivisionError("a bug")) is None


# --- space, before the work begins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convert", "clicks", "manifest nnunet", "prepare", "train"])
def test_space__is_asked_for_before_the_work(name, disk, source, record):
    if name == "convert":
        shutil.rmtree(disk / "catalog/images")
    before = kept(disk)
    with full(disk, 12 << 10):
        says = refusal(run(name, source))
    if "will take at least" not in says:
        assert "No space left" in says  # so little is needed that it was tried
    else:
        assert not list(disk.rglob(".writing-*")), "nothing was begun"
        record("too little space, seen before the work", name, lost=len(lost(before, disk)), says=says)


@pytest.mark.parametrize("name", ["deep-psma", "fdat", pytest.param("tcia-fdg", marks=pytest.mark.slow)])
def test_least_bytes__is_never_more_than_what_is_written(name, source, tmp_path):
    if name == "tcia-fdg":
        write_tcia(tmp_path / name, patients=1)
    elif name == "fdat":  # unpacked into the catalog from a zip alone
        shutil.make_archive(str(tmp_path / name), "zip", source, name)
    found, options = find_source(name), {"unpack": "true"} if name == "fdat" else {}
    places = (tmp_path / name, tmp_path / f"{name}.zip", source / name)
    place = next(place for place in places if place.exists())
    context = Context(place, tmp_path / "catalog", found.name, options)
    need = sum(found.least_bytes(context, unit) for unit in found.plan(context)[0])
    convert(found, place, context.catalog, options=options)
    written = sum(file.stat().st_size for file in (context.catalog / "images").rglob("*.nii.gz"))
    assert 0 < need <= written


def test_check_space__names_need_rest_and_place(tmp_path):
    check_space(tmp_path / "not/yet/there", 0, "nothing")
    with pytest.raises(StorageError, match=r"the store will take at least 1,000,000,000\.00 GB, .* are free"):
        check_space(tmp_path / "not/yet/there", 1e18, "the store")


# --- a second writer -------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from clicksim.catalog.lock import writing
folder = Path(sys.argv[1])
sys.argv = ["clicksim", "convert", "fdat", "download", "catalog"]
with writing(folder):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(folder):
    """Another process holds the right to write; it is killed at the end, as by a crash."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_second_writer__is_refused_at_once_by_every_command_and_goes_on_after_a_crash(folder, source, sound, record):
    before = kept(folder)
    (folder / "merged").mkdir()
    create_catalog(folder / "merged")
    with held(folder / "catalog") as pid, held(folder / "merged"):
        for name in WRITERS:
            says = refusal(run(name, source))
            assert "is being written by process" in says
            if name != "merge":
                assert f"process {pid} on {platform.node()} since 2" in says
            assert "wait until it ends, or stop it" in says
            says = says.replace(str(pid), "4711").replace(platform.node(), "node7")
            record("a second writer", name, lost=len(lost(before, folder)), says=says)
        assert open_catalog(folder / "catalog").cases.num_rows == sum(CASES.values())
        assert clicksim.cli.main(["catalog", "summary", "catalog"], standalone_mode=False) is None
        assert not lost(before, folder)
    # both were killed: nothing has to be cleaned
    shutil.rmtree(folder / "merged")
    result = run("clicks", source)
    assert result.exit_code == 0, result.output
    assert kept(folder) == sound("clicks")
    record(
        "the lock of a process that was killed", "clicks", lost=len(lost(before, folder)), says="nothing: it is free"
    )


def test_writing__is_for_one_thread_again_and_again(tmp_path):
    with writing(tmp_path), writing(tmp_path / "."):
        assert {file.name for file in tmp_path.iterdir()} == {LOCK, HOLDER}
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    assert {file.name for file in tmp_path.iterdir()} == {LOCK}
    for name in (LOCK, HOLDER, ".writing-1-catalog.json"):
        (tmp_path / name).touch()
    assert create_catalog(tmp_path).cases.num_rows == 0, "a folder with what a crash leaves is an empty one"


def test_writing__lets_a_failure_through_and_is_free_after_it(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError
    with writing(tmp_path):
        pass


def test_writing__refuses_without_word_of_the_holder(tmp_path):
    with held(tmp_path):
        (tmp_path / HOLDER).write_text('{"process": ')
        with pytest.raises(CatalogError, match="is being written by another process; wait"), writing(tmp_path):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="flock is that of Unix")
def test_writing__where_a_file_system_has_no_locks(tmp_path, monkeypatch, record):
    # none can be mounted here, so the system's call gives the numbers that such a one gives
    import fcntl

    def answer(number):
        def flock(descriptor, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    answer(errno.ENOLCK)
    with pytest.raises(StorageError) as caught, writing(tmp_path):
        pass
    assert "this file system has no locks" in one_line(caught.value)
    record(
        "a file system whose locks do not work (simulated)",
        "any writer",
        says=one_line(caught.value).replace(str(tmp_path), "C"),
    )
    answer(errno.ENOSYS)
    (tmp_path / LOCK).unlink()
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        writing(tmp_path),
        ThreadPoolExecutor(1) as other,
        pytest.raises(CatalogError, match="is being written by process"),
    ):
        other.submit(take, tmp_path).result()
    assert not list(tmp_path.iterdir())
    take(tmp_path)


def take(folder):
    with writing(folder):
        pass


def test_with_root__keeps_what_another_writer_has_added(tmp_path):
    mine = create_catalog(tmp_path / "c")
    open_catalog(tmp_path / "c").with_root("other", tmp_path)
    assert set(mine.with_root("mine", tmp_path).roots) == {"catalog", "other", "mine"}


# --- processes that end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "fault", "reason"),
    [
        ("killed", "a worker killed by the system, as where memory is short", "the process died twice"),
        ("memory", "a worker that gets no more memory (`ulimit -v`)", "memory ran out"),
    ],
)
def test_worker__that_dies_costs_its_patient_alone(action, fault, reason, tmp_path, record):
    if action == "memory" and not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell how much address space is in use")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/p02").write_text(action)
    summary = convert(PATIENTS, tmp_path / "source", tmp_path / "c", crew=Crew(1))
    assert (summary.cases, summary.rejected) == (5, 1)
    row = open_catalog(tmp_path / "c").rejected.to_pylist()[0]
    assert (row["code"], row["path"]) == ("WorkerDied", "p02")
    assert reason in row["message"]
    assert "Try fewer workers" in row["message"]
    record(fault, "convert --workers", says=f"rejected, WorkerDied: {row['message']}")


def test_memory__that_ends_in_the_command_itself_is_one_line(source, monkeypatch, record):
    import clicksim.simulate.from_files

    def needs_too_much(*args, **kwargs):
        return np.empty(1 << 60, np.uint8)  # what no machine has

    monkeypatch.setattr(clicksim.simulate.from_files, "click_case", needs_too_much)
    says = refusal(run("clicks --label", source))
    assert says.startswith("clicksim: out of memory (Unable to allocate 1.00 EiB")
    assert "fewer --workers" in says
    record("memory ends in the command's own process (simulated)", "clicks --label", says=says)


def test_workers__end_with_the_process_that_started_them(tmp_path, record):
    # a pool's workers would wait for ever for the next patient of a parent that was killed
    (tmp_path / "source").mkdir()
    for n in range(6):
        (tmp_path / f"source/p{n:02d}").write_text("slow")
    code = (
        "import sys; from pathlib import Path; from clicksim.pipeline import Crew, convert; "
        "from tests.faulty_source import PATIENTS; "
        "convert(PATIENTS, Path(sys.argv[1]), Path(sys.argv[2]), crew=Crew(2))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "source", tmp_path / "c"],
        cwd=Path(__file__).resolve().parents[1],
        stderr=subprocess.DEVNULL,
    )
    workers = wait_for(
        lambda: [int(f.name[4:]) for f in (tmp_path / "source").glob("pid-*")], lambda pids: len(pids) == 2
    )
    parent.kill()
    parent.wait()
    wait_for(lambda: [pid for pid in workers if Path(f"/proc/{pid}").exists()], lambda alive: not alive)
    with writing(tmp_path / "c"):
        record("the main process killed, its workers left alone", "convert --workers", says="nothing: they end with it")


def wait_for(look, enough):
    """What is seen once it is enough; a minute is given."""
    deadline = time.monotonic() + 60
    while not enough(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


WRITE = """
import sys
from pathlib import Path
from clicksim.catalog import open_catalog
from clicksim.catalog.schema import rows_to_table
catalog = open_catalog(sys.argv[1])
for turn in range(100000):
    rows = [{"case_id": f"{turn}-{n}", "patient_key": "p"} for n in range(200)]
    catalog.write_part("cases", "mine", rows_to_table("cases", rows))
    catalog.write_sources(rows_to_table("sources", [{"source": "mine", "title": str(turn)}]))
    catalog.write_run("mine", {"turn": turn})
    catalog.with_root(f"r{turn % 3}", Path("/") / str(turn))
    print("again", flush=True)
"""


def kill_writer(folder, draw):
    """Kill a process that only writes, at some instant; returns the rows of its table."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, folder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"again\n"
    time.sleep(draw.uniform(0, 0.3))
    process.kill()
    process.wait()
    process.stdout.close()
    opened = open_catalog(folder)
    rows = opened.cases.to_pylist()
    assert len({row["case_id"].partition("-")[0] for row in rows}) <= 1, "rows of one turn"
    assert len(rows) == 200
    assert all(row["source"] in ("mine", "kept") for row in opened.sources.to_pylist())
    assert "kept" in opened.sources["source"].to_pylist()
    assert "kept" in opened.roots
    for file in (folder / "runs").glob("[!.]*.json"):
        json.loads(file.read_text())
    with writing(folder):  # at once: the lock went with the process
        return len(rows)


def kill_writers(folder, times):
    catalog = create_catalog(folder).with_root("kept", folder)
    catalog.write_sources(rows_to_table("sources", [{"source": "kept"}]))
    draw = random.Random(times)
    return [kill_writer(folder, draw) for _ in range(times)]


def test_killed_writer__leaves_the_old_tables_or_the_new_ones(tmp_path, record):
    assert kill_writers(tmp_path / "c", 4) == [200] * 4
    record("kill -9 at random instants of writing", "tables, sources, roots, runs", times=4, lost=0, says="nothing")


@pytest.mark.soak
def test_killed_writer__leaves_the_old_tables_or_the_new_ones_sixty_times(tmp_path, record):
    assert kill_writers(tmp_path / "c", 60) == [200] * 60
    record("kill -9 at random instants of writing", "tables, sources, roots, runs", times=60, lost=0, says="nothing")


def test_killed_command__resumes_to_the_same_bytes(folder, source, sound, record):
    draw, code = random.Random(5), "import sys; from clicksim.cli import main; main(sys.argv[1:])"
    before = len(open_catalog(folder / "catalog").runs)
    _, arguments = command("clicks", source)
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, *(["--resume"] if attempt else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.5, 4))
        process.kill()
        process.wait()
        opened = open_catalog(folder / "catalog")
        assert opened.cases.num_rows == sum(CASES.values())
        assert len(opened.runs) - before in (0, 1)
    assert run("clicks", source, "--resume").exit_code == 0
    assert kept(folder) == sound("clicks")
    record("kill -9 at random instants", "clicks", times=3, lost=0, says="nothing; `--resume` goes on")


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGE = {
    "cut off": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "of another kind": lambda raw: b"case_id,source\n1,2\n",
    "with other columns": lambda raw: other_columns(),
}


def other_columns():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"case_id": ["a"], "odd": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_part__is_named_and_made_again(damage, folder, source, sound, record):
    part = folder / "catalog/cases/source=deep_psma/part-0.parquet"
    part.write_bytes(DAMAGE[damage](part.read_bytes()))
    before = {name: text for name, text in kept(folder).items() if "cases/source=deep_psma" not in name}
    result = CliRunner().invoke(clicksim.cli.main, ["catalog", "summary", "catalog"])
    says = refusal(result)
    assert "cases/source=deep_psma/part-0.parquet" in says
    assert "convert or simulate that part again" in says
    assert len(open_catalog(folder / "catalog").table("cases", "fdat")) == CASES["fdat"], "other parts can be read"
    assert run("convert", source).exit_code == 0
    assert not lost(before, folder)
    assert kept(folder) == sound("convert")
    record("a table's file damaged", damage, lost=len(lost(before, folder)), says=says)


def test_flipped_bits__never_give_other_values(tmp_path, record):
    rows = [{"case_id": f"c{n:02d}", "patient_key": f"p{n}", "n_lesions": n} for n in range(40)]
    catalog = create_catalog(tmp_path / "c")
    file = catalog.write_part("cases", "mine", rows_to_table("cases", rows))
    raw, draw = file.read_bytes(), random.Random(0)
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    named, says = 0, ""
    for _ in range(150):
        place = draw.randrange(4, footer)  # the pages: each has a checksum
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << draw.randrange(8)]) + raw[place + 1 :])
        try:
            found = catalog.cases.to_pylist()
        except CatalogError as error:
            named, says = named + (str(file) in str(error)), str(error).replace(f"{tmp_path}/", "")
        else:
            assert found == [row | {"source": "mine"} for row in full_rows(rows)], place
    assert named > 100
    file.write_bytes(raw)
    assert len(catalog.cases) == len(rows)
    record("a bit of a table's pages flipped", "reading", times=150, says=says)


def test_flipped_bits__never_change_the_number_of_rows(tmp_path):
    catalog = create_catalog(tmp_path / "c")
    file = catalog.write_part("cases", "mine", rows_to_table("cases", [{"case_id": f"c{n:02d}"} for n in range(40)]))
    raw, said = file.read_bytes(), []
    end = raw.index(b"ARROW:schema")  # the counts of rows stand before it, and have no checksum
    for place in range(8 * (end - 40), 8 * end):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        for read in (lambda: len(catalog.cases), lambda: 39 + bool(catalog.case("c39"))):
            try:
                assert read() == 40, place
            except CatalogError as error:
                said.append(str(error))
    assert any("it is damaged: it says that it has 40 rows, and lists" in text for text in said)


def full_rows(rows):
    return rows_to_table("cases", rows).to_pylist()


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["1970", "2100", "backwards"])
def test_clock__changes_nothing_but_the_facts_of_a_run(clock, folder, source, sound, monkeypatch, record):
    # the machine's own clock cannot be set by a test; files in the future are real
    ticks = iter(range(10**6, 0, -1))
    now = {"1970": lambda: 60.0, "2100": lambda: 4.1e9, "backwards": lambda: 1.7e9 + 1000.0 * next(ticks)}[clock]
    for file in (*folder.rglob("*"), *(source / "deep-psma").rglob("*")):
        os.utime(file, (now(), now()))
    monkeypatch.setattr(time, "time", now)
    for name in ("convert", "clicks", "rounds"):
        shutil.rmtree(folder / "catalog")
        shutil.copytree(source / "base/catalog", folder / "catalog")
        result = run(name, source)
        assert result.exit_code == 0, (result.output, result.exception)
        assert not lost(sound(name), folder), name
        about = [json.loads(file.read_text()) for file in (folder / "catalog/runs").glob("*.json")]
        assert all(fact["seconds"] >= 0 for fact in about)
        record(f"clock: {clock} (simulated)", name, lost=len(lost(sound(name), folder)), says="nothing")

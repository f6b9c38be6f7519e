"""The job runner: parts that cannot be believed are made again, other results are refused, signals end it in order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clicksim.catalog import Unit, open_catalog
from clicksim.catalog.commit import WORK
from clicksim.errors import CatalogError, SettingError, StorageError
from clicksim.pipeline import Crew, Job, run_job
from clicksim.pipeline.job import differences, read_record, write_record
from clicksim.pipeline.parts import HEAD, TABLES, digest_content, fingerprint, part_folder
from clicksim.pipeline.workers import available_cores
from tests.commands import heed_signals

ROOT = Path(__file__).resolve().parents[1]
RUN = [sys.executable, "-c", "import sys; from clicksim.cli import main; main(sys.argv[1:])"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Six inputs, `in/u0.txt` and so on."""
    (tmp_path / "in").mkdir()
    for n in range(6):
        (tmp_path / f"in/u{n}.txt").write_text(f"text {n}")
    return tmp_path


def copy_text(place: Path, unit: Unit, folder: Path) -> dict[str, pa.Table]:
    """Copy the input of a unit; a file `flag-<unit>` says what becomes of the process. Each start is noted."""
    with (place / "started").open("a") as file:
        file.write(f"{unit.key}\n")
    flag = place / f"flag-{unit.key}"
    action = flag.read_text() if flag.exists() else ""
    if action == "stop":
        raise KeyboardInterrupt
    if action == "bug":
        raise ZeroDivisionError("a bug")
    if action == "once":
        flag.unlink()
    if action in ("die", "once"):
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "change":
        unit.inputs[0].write_text(f"{time.monotonic_ns()}")
    text = unit.inputs[0].read_text()
    copy = folder / f"copies/{unit.key}.txt"
    copy.parent.mkdir(parents=True)
    copy.write_text(text)
    return {"rows": pa.table({"key": [unit.key], "content": [str(unit.content)], "text": [text]})}


def write_all(name: str, tables: dict[str, pa.Table], commit: Any, facts: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables["rows"].to_pylist()
    if "rejected" in tables:
        rows += [{"died": row["path"]} for row in tables["rejected"].to_pylist()]
    commit.text("all.json", json.dumps(rows))
    write_record(commit, name, facts)
    return rows


def copying(place: Path, *, name: str = "copying", units: int = 6, **identity: Any) -> Job[list[dict[str, Any]]]:
    """A job that copies the inputs and lists them in one file."""
    planned = [Unit(f"u{n}", n, (place / f"in/u{n}.txt",)) for n in range(units)]
    finish = partial(write_all, name)
    return Job(name, place / "home", {"seed": 1, **identity}, planned, partial(copy_text, place), finish)


def result(place: Path) -> dict[str, bytes]:
    """Names and bytes of the result, without the records of runs, whose times differ."""
    home = place / "home"
    files = [file for file in home.rglob("*") if file.is_file() and not file.name.startswith(".")]
    assert not (home / WORK).exists(), "nothing is left of the work"
    return {f.relative_to(home).as_posix(): f.read_bytes() for f in files if f.parent.name != "runs"}


def started(place: Path) -> list[str]:
    """The units that began since the last call."""
    found = (place / "started").read_text().split() if (place / "started").exists() else []
    (place / "started").unlink(missing_ok=True)
    return found


@pytest.fixture
def sound(place: Path) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    run_job(copying(place))
    found = result(place)
    assert len(found) == 7
    shutil.rmtree(place / "home")
    started(place)
    return found


@pytest.fixture
def halved(place: Path, sound: dict[str, bytes]) -> Path:
    """A run that was interrupted at its fifth unit."""
    interrupt(place)
    assert started(place) == ["u0", "u1", "u2", "u3", "u4"]
    return place


def interrupt(place: Path) -> None:
    (place / "flag-u4").write_text("stop")
    with pytest.raises(KeyboardInterrupt):
        run_job(copying(place))
    (place / "flag-u4").unlink()


def work_of(place: Path) -> Path:
    return copying(place).folder


def part_of(place: Path, key: str) -> Path:
    return part_folder(work_of(place), Unit(key, None))


def resume(place: Path, job: Job[Any] | None = None) -> tuple[list[str], list[str]]:
    """Resume; returns the units that were done again, and the notes."""
    notes: list[str] = []
    run_job(job or copying(place), Crew(note=notes.append), resume=True)
    return started(place), notes


# parts that cannot be believed


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [cut, empty, flip, link, Path.unlink])
@pytest.mark.parametrize("name", [TABLES, HEAD, "files/copies/u2.txt"])
def test_run_job__makes_a_damaged_part_again(halved: Path, sound: dict[str, bytes], name: str, damage: Any) -> None:
    part = part_of(halved, "u2")
    assert part.is_dir()
    damage(part / name)
    done, notes = resume(halved)
    assert done == ["u2", "u4", "u5"]
    assert notes == ["done again, because the finished work or its inputs have changed: u2"]
    assert result(halved) == sound


def test_run_job__makes_a_part_with_a_file_too_many_again(halved: Path, sound: dict[str, bytes]) -> None:
    (part_of(halved, "u1") / "files/more.txt").write_text("of somebody else")
    assert resume(halved)[0] == ["u1", "u4", "u5"]
    assert result(halved) == sound


@pytest.mark.parametrize("as_file", [False, True])
def test_run_job__makes_a_part_that_is_gone_again(halved: Path, sound: dict[str, bytes], as_file: bool) -> None:
    shutil.rmtree(part_of(halved, "u0"))
    if as_file:
        part_of(halved, "u0").write_text("")
    assert resume(halved)[0] == ["u0", "u4", "u5"]
    assert result(halved) == sound


def test_run_job__takes_no_part_of_another_unit_for_its_own(halved: Path, sound: dict[str, bytes]) -> None:
    shutil.rmtree(part_of(halved, "u0"))
    shutil.copytree(part_of(halved, "u1"), part_of(halved, "u0"))
    assert resume(halved)[0] == ["u0", "u4", "u5"]
    assert result(halved) == sound


@pytest.mark.parametrize("damage", [Path.unlink, empty, cut])
def test_run_job__needs_no_job_json_to_go_on(halved: Path, sound: dict[str, bytes], damage: Any) -> None:
    damage(work_of(halved) / "job.json")
    assert resume(halved)[0] == ["u4", "u5"]
    assert result(halved) == sound


def test_run_job__without_job_json_believes_no_part_that_was_made_in_another_way(halved: Path) -> None:
    (work_of(halved) / "job.json").unlink()
    assert resume(halved, copying(halved, seed=2))[0] == [f"u{n}" for n in range(6)]


# inputs that change


def rewrite(file: Path) -> None:
    file.write_text("TEXT 1")  # of the same size


def touch(file: Path) -> None:
    os.utime(file, (1, 1))


@pytest.mark.parametrize("change", [rewrite, touch])
def test_run_job__does_a_unit_again_whose_input_has_changed(halved: Path, sound: dict[str, bytes], change: Any) -> None:
    change(halved / "in/u1.txt")
    done, notes = resume(halved)
    assert (done, len(notes)) == (["u1", "u4", "u5"], 1)
    assert result(halved)["copies/u1.txt"] == (halved / "in/u1.txt").read_bytes()
    assert (result(halved) == sound) == (change is touch)


def test_run_job__does_a_unit_again_that_carries_something_else(halved: Path) -> None:
    job = copying(halved)
    units = [replace(unit, content="other") if unit.key == "u3" else unit for unit in job.units]
    assert resume(halved, replace(job, units=units))[0] == ["u3", "u4", "u5"]
    assert json.loads(result(halved)["all.json"])[3]["content"] == "other"


def test_run_job__leaves_out_what_is_planned_no_more(halved: Path, sound: dict[str, bytes]) -> None:
    assert resume(halved, copying(halved, units=3))[0] == []
    assert sorted(result(halved)) == ["all.json", *(f"copies/u{n}.txt" for n in range(3))]


def test_run_job__gives_up_where_an_input_changes_all_the_time(place: Path) -> None:
    (place / "flag-u2").write_text("change")
    with pytest.raises(CatalogError, match=r"1 units have no valid part .*, such as u2: its inputs change while"):
        run_job(copying(place))
    (place / "flag-u2").unlink()
    assert set(started(place)) == {f"u{n}" for n in range(6)}
    assert resume(place)[0] == ["u2"]


def test_fingerprint__sees_every_file_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "series/deep").mkdir(parents=True)
    file = tmp_path / "series/deep/1.dcm"
    seen = {fingerprint([tmp_path / "series"]), fingerprint([tmp_path / "nothing"])}
    for change in (lambda: file.write_text("a"), lambda: file.write_text("ab"), lambda: os.utime(file, (5, 5))):
        change()
        found = fingerprint([tmp_path / "series"])
        assert found not in seen
        seen.add(found)
    (tmp_path / "series/2.dcm").symlink_to("gone")
    assert fingerprint([tmp_path / "series"]) not in seen
    assert fingerprint([file, file]) == fingerprint([file])


def test_digest_content__is_the_same_for_equal_content_alone() -> None:
    content = {"b": frozenset({"x", "y"}), "a": (1, 2.5, None), ("t", 1): Unit("u", Path("x"))}
    assert digest_content(content) == digest_content(dict(reversed(content.items())))
    others = [{**content, "a": (1, 2.5, 0)}, {**content, ("t", 1): Unit("u", Path("y"))}, {**content, "b": frozenset()}]
    assert len({digest_content(other) for other in [content, *others]}) == 4


# results that were made in another way


def test_run_job__resumes_the_same_job_only_and_names_what_differs(halved: Path) -> None:
    with pytest.raises(CatalogError, match="continue with --resume, or start again with --overwrite"):
        run_job(copying(halved))
    other = copying(halved, seed=2, settings={"n": 3})
    expected = r"made in another way: seed is 1 there and 2 here, settings is absent there and {.n.: 3} here; drop it"
    for options in ({}, {"resume": True}):
        with pytest.raises(CatalogError, match=expected):
            run_job(other, **options)
    assert started(halved) == []
    run_job(other, overwrite=True)
    assert started(halved) == [f"u{n}" for n in range(6)]


def test_run_job__refuses_a_result_that_was_made_in_another_way(place: Path, sound: dict[str, bytes]) -> None:
    run_job(copying(place))
    run_job(copying(place))  # the same again is allowed
    with pytest.raises(CatalogError, match=r"has a result called copying .*seed is 1 there and 2 here; name another"):
        run_job(copying(place, seed=2))
    assert result(place) == sound
    run_job(copying(place, seed=2), overwrite=True)
    assert read_record(place / "home", "copying")["job"]["seed"] == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_run_job__refuses_a_damaged_record(place: Path, content: str) -> None:
    (place / "home/runs").mkdir(parents=True)
    (place / "home/runs/copying.json").write_text(content, encoding="latin-1")
    with pytest.raises(CatalogError, match="is not the record of a run"):
        run_job(copying(place))
    run_job(copying(place), overwrite=True)
    assert read_record(place / "home", "copying")["job"]["seed"] == 1


def test_run_job__keeps_jobs_of_one_folder_apart(place: Path) -> None:
    interrupt(place)
    run_job(copying(place, name="second", seed=7))
    assert work_of(place).is_dir()
    assert resume(place)[0][-2:] == ["u4", "u5"]
    assert not (place / "home" / WORK).exists()


def test_run_job__refuses_units_of_one_key(place: Path) -> None:
    job = copying(place)
    with pytest.raises(CatalogError, match="copying plans several units with the key u0; plan one for each key"):
        run_job(replace(job, units=[*job.units, job.units[0]]))
    assert not (place / "home").exists()


def test_run_job__refuses_a_work_folder_that_is_a_link(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/precious").write_text("")
    (place / "home").mkdir()
    (place / "home" / WORK).symlink_to(place / "mine")
    with pytest.raises(CatalogError, match=r"\.work is a link"):
        run_job(copying(place), overwrite=True)
    assert (place / "mine/precious").exists()


def test_run_job__asks_for_the_units_that_are_left_before_it_begins(halved: Path) -> None:
    asked = []

    def begin(units: Any) -> None:
        asked.append([unit.key for unit in units])
        raise StorageError(28, "too small")

    for n in range(2):
        with pytest.raises(StorageError):
            run_job(replace(copying(halved), begin=begin), resume=True)
        assert asked[n] == ["u4", "u5"]
    assert started(halved) == []


def test_differences__names_each_setting_with_its_place() -> None:
    before, now = {"a": {"b": [1], "c": 1}, "d": "x" * 100}, {"a": {"b": [2], "c": 1}, "e": None}
    assert differences(before, now) == [
        "a.b is [1] there and [2] here",
        f'd is "{"x" * 39}...{"x" * 39}" there and absent here',
    ]
    assert differences(now, now) == []


def test_run_job__leaves_no_seams_between_tables(place: Path) -> None:
    # 2,000 pieces of a row each took ten times the memory of the table
    chunks = []

    def finish(tables: Any, _commit: Any, _facts: Any) -> None:
        assert tables["rows"]["n"].to_pylist() == list(range(150))
        chunks.append(tables["rows"]["n"].num_chunks)

    def work(unit: Unit, _folder: Path) -> dict[str, pa.Table]:
        return {"rows": pa.table({"n": [unit.content]})}

    run_job(Job("many", place / "home", {}, [Unit(f"u{n}", n) for n in range(150)], work, finish))
    assert chunks == [1]


# workers


@pytest.mark.parametrize("workers", [1, "auto"])
def test_run_job__gives_the_same_bytes_in_other_processes(place: Path, sound: dict[str, bytes], workers: Any) -> None:
    run_job(copying(place), Crew(workers))
    assert result(place) == sound
    assert read_record(place / "home", "copying")["workers"] == workers
    assert sorted(started(place)) == [f"u{n}" for n in range(6)]


@pytest.mark.parametrize("workers", [-1, 1.5, "many", None])
def test_run_job__refuses_a_number_of_workers_before_anything_is_written(place: Path, workers: Any) -> None:
    with pytest.raises(SettingError, match="workers must be auto or a whole number of at least 0"):
        run_job(copying(place), Crew(workers))
    assert not (place / "home").exists()


def test_available_cores__is_a_number_that_this_process_may_use() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert Crew("auto").processes == available_cores()


def test_run_job__a_worker_that_dies_twice_costs_its_unit_until_it_is_resumed(
    place: Path, sound: dict[str, bytes]
) -> None:
    (place / "flag-u0").write_text("die")
    (place / "flag-u1").write_text("once")
    rows = run_job(copying(place), Crew(1))
    assert [row.get("key") for row in rows] == [*(f"u{n}" for n in range(1, 6)), None]
    assert rows[-1] == {"died": "u0"}
    times = started(place)
    assert {key: times.count(key) for key in set(times)} == {
        "u0": 2, "u1": 2, "u2": 1, "u3": 1, "u4": 1, "u5": 1,
    }  # fmt: skip
    shutil.rmtree(place / "home")
    (place / "flag-u5").write_text("bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_job(copying(place), Crew(1))
    for name in ("flag-u0", "flag-u5"):
        (place / name).unlink()
    started(place)
    assert "u0" in resume(place)[0]
    assert result(place) == sound


# signals


SOURCE = "slow = tests.faulty_source:PATIENTS\n"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which `slow` is a source."""
    info = tmp_path / "site/slow_source-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[clicksim.sources]\n{SOURCE}")
    (tmp_path / "source").mkdir()
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}


def start(place: Path, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    words = [*RUN, "convert", "slow", str(place / "source"), str(place / "catalog"), *more]
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_signals
    )


def wait_for(look: Any, enough: Any) -> Any:
    """What is seen once it is enough; a minute is given."""
    deadline = time.monotonic() + 60
    while not enough(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def pids(place: Path, kind: str) -> list[int]:
    return [int(file.name.removeprefix(f"{kind}-")) for file in (place / "source").glob(f"{kind}-*")]


def alive(numbers: list[int]) -> list[int]:
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system does not list its processes")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGINT of a terminal"])
def test_signal__ends_processes_and_temporary_files_and_says_how_to_go_on(
    tmp_path: Path, installed: dict[str, str], name: str, workers: int
) -> None:
    number, whole_group = signal.Signals[name.split()[0]], "terminal" in name
    held = ("p02", "p03")[: max(1, workers)]
    for patient in held:
        (tmp_path / "source" / patient).write_text("holds")
    process = start(tmp_path, installed, "--workers", str(workers))
    children = wait_for(lambda: pids(tmp_path, "child"), lambda found: len(found) == len(held))
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    lines = [line for line in said.splitlines() if line.startswith("clicksim:")]
    assert lines == [f"clicksim: ended by {number.name}; finished work is kept; continue with --resume"], said
    assert "Traceback" not in said
    wait_for(lambda: alive([*children, *pids(tmp_path, "pid")]), lambda left: not left)
    assert not [file for file in (tmp_path / "tmp").rglob("*") if file.is_file()]
    assert open_catalog(tmp_path / "catalog").cases.num_rows == 0
    for patient in held:
        (tmp_path / "source" / patient).unlink()
    ended = start(tmp_path, installed, "--resume")
    assert "Traceback" not in ended.communicate(timeout=60)[1]
    assert ended.returncode == 0
    assert open_catalog(tmp_path / "catalog").cases.num_rows == 6


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system does not list its processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal__to_a_worker_ends_that_worker_alone(
    tmp_path: Path, installed: dict[str, str], number: signal.Signals
) -> None:
    (tmp_path / "source/p01").write_text("holds")
    process = start(tmp_path, installed, "--workers", "1")
    (child,) = wait_for(lambda: pids(tmp_path, "child"), len)
    (worker,) = pids(tmp_path, "pid")
    (tmp_path / "source/p01").unlink()
    os.kill(worker, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert alive([child, worker]) == []
    assert not [file for file in (tmp_path / "tmp").rglob("*") if file.is_file()]
    assert open_catalog(tmp_path / "catalog").cases.num_rows == 6


def test_workers__do_their_work_below_a_long_temporary_folder(tmp_path: Path, installed: dict[str, str]) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    process = start(tmp_path, {**installed, "TMPDIR": str(long)}, "--workers", "2")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert open_catalog(tmp_path / "catalog").cases.num_rows == 6

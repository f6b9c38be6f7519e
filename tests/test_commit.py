"""Commits of several files: readers see all of one or nothing, whatever interrupts it, and no link leads outside."""

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clicksim.catalog import commit as commit_module
from clicksim.catalog import create_catalog, open_catalog
from clicksim.catalog.commit import ASIDE, RECORD, STAGE, WORK, Commit, drop, is_settled, settle
from clicksim.catalog.lock import writing
from clicksim.catalog.schema import rows_to_table
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, StorageError


def case_rows(*names: str, lesions: int = 1) -> pa.Table:
    return rows_to_table("cases", [{"case_id": name, "patient_key": "p", "n_lesions": lesions} for name in names])


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog with two cases, and a source and a run of the same state, 1."""
    made = create_catalog(tmp_path / "catalog")
    write_state(made, 1)
    return open_catalog(made.path)


def write_state(catalog: Catalog, state: int) -> None:
    """One commit of several tables, all of one state."""
    with catalog.commit() as commit:
        commit.write_part("cases", "mine", case_rows("a", "b", lesions=state))
        commit.write_part("lesions", "mine", rows_to_table("lesions", [{"case_id": "a", "lesion_index": state}]))
        commit.write_sources(rows_to_table("sources", [{"source": "mine", "title": str(state)}]))
        commit.write_run("mine", {"state": state})
        commit.set_root("mine", catalog.path / str(state))
        commit.text(f"images/{state}.txt", "image")
        for other in {1, 2, 3} - {state}:
            commit.remove(f"images/{other}.txt")


def states_of(home: Path) -> set[Any]:
    """The states that a reader sees; one, if it sees all of a commit or nothing."""
    seen = open_catalog(home)
    images = [file.stem for file in (home / "images").iterdir()]
    return {
        *seen.cases["n_lesions"].to_pylist(),
        *seen.lesions["lesion_index"].to_pylist(),
        *map(int, seen.sources["title"].to_pylist()),
        json.loads((home / "runs/mine.json").read_text())["state"],
        int(Path(seen.roots["mine"]).name),
        *map(int, images),
    }


@contextmanager
def failing(owner: Any, name: str, at: int) -> Iterator[list[int]]:
    """Let the n-th call of a method raise, as a kill would end it; the list has the number of calls."""
    real, calls = getattr(owner, name), [0]

    def stops(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stops)
        yield calls


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Path, "replace"), (Path, "unlink"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commit__interrupted_at_any_operation_is_seen_as_a_whole_or_not_at_all(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, killed: bool
) -> None:
    if killed:  # nothing is tidied up then
        monkeypatch.setattr(Commit, "abandon", lambda commit: None)
    # the same at the level of system calls is in `tests/crash`
    seen: list[Any] = []
    for at in range(1, 100):
        home = Path(shutil.copytree(catalog.path, tmp_path / str(at)))
        copy = open_catalog(home)
        with failing(owner, name, at) as calls, suppress(KeyboardInterrupt):
            write_state(copy, 2)
        state = states_of(home)
        assert state in ({1}, {2})
        seen.append(state)
        write_state(copy, 3)
        assert states_of(home) == {3}
        assert not (home / WORK).exists(), "nothing is left of either commit"
        if calls[0] < at:
            break
    assert seen[-1] == {2}
    assert seen == sorted(seen, key=str), "after the record the commit stands"


def test_commit__is_dropped_where_its_block_raises(catalog: Catalog) -> None:
    def raises() -> None:
        with catalog.commit() as commit:
            commit.write_part("cases", "mine", case_rows("c"))
            commit.remove("runs/mine.json")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raises()
    assert states_of(catalog.path) == {1}
    write_state(catalog, 2)
    assert not (catalog.path / WORK).exists()


def test_commit__staged_files_without_a_record_are_dropped(catalog: Catalog) -> None:
    with writing(catalog.path):
        commit = Commit(catalog.path)
        commit.text("runs/mine.json", '{"state": 9}')
        assert (catalog.path / WORK / STAGE / "runs/mine.json").exists()
    assert states_of(catalog.path) == {1}
    with writing(catalog.path):
        settle(catalog.path)
    assert not (catalog.path / WORK).exists()


def test_commit__gives_names_in_the_order_in_which_files_came(tmp_path: Path) -> None:
    names = ["z.txt", "deep/a.txt", "m.txt"]
    for number in range(3):
        home = tmp_path / str(number)
        home.mkdir()
        commit = Commit(home)
        for name in names:
            commit.text(name, name)
        with failing(Path, "replace", 2 + number), pytest.raises(KeyboardInterrupt):  # the first one is the record's
            commit.finish()
        assert [name for name in names if (home / name).exists()] == names[:number]


def test_commit__removes_files_and_folders_that_are_empty_then(tmp_path: Path) -> None:
    for name in ("a/b/c.txt", "a/d.txt", "keep/e.txt", "keep/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    commit = Commit(tmp_path)
    commit.text("a/d.txt", "new")
    for name in ("a/b/c.txt", "a/d.txt", "keep/e.txt", "never/was.txt"):
        commit.remove(name)
    commit.finish()
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["a", "a/d.txt", "keep", "keep/f.txt"]
    assert (tmp_path / "a/d.txt").read_text() == "new", "a file that is written as well stays"
    commit = Commit(tmp_path)
    commit.remove("a/d.txt")
    commit.remove("keep/f.txt")
    commit.finish()
    assert list(tmp_path.iterdir()) == [], "the folder itself stays"


def test_commit__deletes_the_folder_of_the_work_that_is_done(tmp_path: Path) -> None:
    for name in ("job", "other"):
        (tmp_path / WORK / name).mkdir(parents=True)
        (tmp_path / WORK / name / "part").write_text("")
    commit = Commit(tmp_path)
    commit.move(tmp_path / WORK / "job/part", "part")
    commit.finish(done_with="job")
    assert (tmp_path / "part").exists()
    assert [path.name for path in (tmp_path / WORK).iterdir()] == ["other"]


def test_drop__leaves_no_folder_that_could_be_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/part").write_text("")
    with failing(shutil, "rmtree", 1), pytest.raises(KeyboardInterrupt):
        drop(tmp_path / "work")
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith(ASIDE)


# records that cannot be believed


RECORDS = {
    "empty": "",
    "no JSON": "{",
    "null": "null",
    "a list": "[]",
    "nested": "[" * 5000,
    "not UTF-8": "\xff",
    "of other keys": "{}",
    "moves that are none": json.dumps({"moves": [["a"]], "removed": [], "done_with": None}),
    "a source outside": json.dumps({"moves": [["runs/mine.json", "x"]], "removed": [], "done_with": None}),
    "work outside": json.dumps({"moves": [], "removed": [], "done_with": ".."}),
    "work below": json.dumps({"moves": [], "removed": [], "done_with": "a/b"}),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_settle__refuses_a_damaged_record(catalog: Catalog, kind: str) -> None:
    (catalog.path / WORK).mkdir()
    record = catalog.path / WORK / RECORD
    record.write_text(RECORDS[kind], encoding="latin-1")
    before = (catalog.path / "runs/mine.json").read_bytes()
    for call in (lambda: open_catalog(catalog.path), lambda: write_state(catalog, 2)):
        with pytest.raises(CatalogError, match=r"commit\.json.*; delete it, and .* again"):
            call()
    assert (catalog.path / "runs/mine.json").read_bytes() == before
    record.unlink()
    write_state(catalog, 2)
    assert states_of(catalog.path) == {2}


@pytest.mark.parametrize(
    "name", ["../outside.txt", "a/../../outside.txt", "/outside.txt", "link/outside.txt", "", ".."]
)
def test_settle__changes_nothing_outside(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / WORK / STAGE).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (home / "link").symlink_to(tmp_path / "elsewhere")
    for file in (tmp_path / "outside.txt", tmp_path / "elsewhere/outside.txt"):
        file.write_text("precious")
    (home / WORK / STAGE / "new").write_text("new")
    for record in (
        {"moves": [[f"{WORK}/{STAGE}/new", name]], "removed": [], "done_with": None},
        {"moves": [], "removed": [name], "done_with": None},
    ):
        (home / WORK / RECORD).write_text(json.dumps(record))
        with pytest.raises(CatalogError, match=r"leaves its root|does not name a file"):
            settle(home)
    assert (tmp_path / "outside.txt").read_text() == (tmp_path / "elsewhere/outside.txt").read_text() == "precious"


def test_settle__moves_nothing_in_from_outside(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / WORK).mkdir(parents=True)
    (tmp_path / "precious.txt").write_text("precious")
    record = {"moves": [[f"{WORK}/../../precious.txt", "a.txt"]], "removed": [], "done_with": None}
    (home / WORK / RECORD).write_text(json.dumps(record))
    with pytest.raises(CatalogError):
        settle(home)
    assert (tmp_path / "precious.txt").exists()


def test_settle__says_that_a_staged_file_is_lost(tmp_path: Path) -> None:
    (tmp_path / WORK).mkdir()
    record = {"moves": [[f"{WORK}/{STAGE}/a", "a"]], "removed": [], "done_with": None}
    (tmp_path / WORK / RECORD).write_text(json.dumps(record))
    with pytest.raises(CatalogError, match=r"its disk lost \.work/commit/a; run the command again"):
        settle(tmp_path)


# links


def test_settle__refuses_a_work_folder_that_is_a_link(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / f"mine/{ASIDE}1").mkdir()
    record = {"moves": [], "removed": ["runs/mine.json"], "done_with": None}
    (tmp_path / f"mine/{RECORD}").write_text(json.dumps(record))
    (catalog.path / WORK).symlink_to(tmp_path / "mine")
    for call in (lambda: open_catalog(catalog.path), lambda: write_state(catalog, 2)):
        with pytest.raises(CatalogError, match=r"\.work is a link; a work folder must be a folder of its own"):
            call()
    assert len(list((tmp_path / "mine").iterdir())) == 2
    assert (catalog.path / "runs/mine.json").exists()


@pytest.mark.parametrize("name", ["cases", "cases/source=mine", "runs", "images"])
def test_commit__writes_and_removes_nothing_behind_a_link(catalog: Catalog, tmp_path: Path, name: str) -> None:
    moved = (catalog.path / name).rename(tmp_path / "moved")
    (catalog.path / name).symlink_to(moved)
    before = {file: file.read_bytes() for file in moved.rglob("*") if file.is_file()}
    assert before
    with pytest.raises(CatalogError, match="leaves its root"):
        write_state(catalog, 2)
    assert {file: file.read_bytes() for file in moved.rglob("*") if file.is_file()} == before
    if name.startswith("cases"):
        with pytest.raises(CatalogError, match="leaves its root"):
            open_catalog(catalog.path).cases  # noqa: B018


def test_commit__takes_links_that_stay_in_the_folder(catalog: Catalog) -> None:
    (catalog.path / "cases").rename(catalog.path / "tables")
    (catalog.path / "cases").symlink_to("tables")
    write_state(catalog, 2)
    assert states_of(catalog.path) == {2}


@pytest.mark.parametrize("name", ["../a", "/a", "", "a/..", "a/.", "link/a"])
@pytest.mark.parametrize("call", [lambda commit, name: commit.text(name, ""), Commit.remove])
def test_commit__refuses_names_that_leave_the_folder(tmp_path: Path, name: str, call: Callable[..., None]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/link").symlink_to(tmp_path)
    with pytest.raises(CatalogError, match=r"leaves its root|does not name a file"):
        call(Commit(tmp_path / "home"), name)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# readers


def test_open_catalog__waits_for_a_commit_that_another_process_carries_out(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands, go_on = threading.Event(), threading.Event()
    real = commit_module._carry_out

    def waits(home: Path, record: dict[str, Any]) -> None:
        stands.set()
        assert go_on.wait(60)
        real(home, record)

    monkeypatch.setattr(commit_module, "_carry_out", waits)
    with ThreadPoolExecutor(3) as pool:
        writer = pool.submit(write_state, catalog, 2)
        assert stands.wait(60)
        assert not is_settled(catalog.path)
        readers = [pool.submit(states_of, catalog.path) for _ in range(2)]
        with pytest.raises(TimeoutError):
            readers[0].result(timeout=0.3)
        go_on.set()
        writer.result()
        assert [reader.result() for reader in readers] == [{2}, {2}]


def test_open_catalog__does_not_wait_for_ever(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "PATIENCE_S", 0.1)
    interrupt(catalog)
    with (
        writing(catalog.path),
        ThreadPoolExecutor(1) as other,
        pytest.raises(CatalogError, match="is being written by process"),
    ):
        other.submit(open_catalog, catalog.path).result()
    assert states_of(catalog.path) == {2}


def interrupt(catalog: Catalog) -> None:
    """A commit of state 2 that stands, and of which nothing was carried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_module, "_carry_out", lambda home, record: None)
        write_state(catalog, 2)
    assert not is_settled(catalog.path)
    assert json.loads((catalog.path / "runs/mine.json").read_text())["state"] == 1


def test_open_catalog__completes_an_interrupted_commit_once_for_many_readers(catalog: Catalog) -> None:
    interrupt(catalog)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(states_of, [catalog.path] * 8)) == [{2}] * 8
    assert not (catalog.path / WORK).exists()


def test_open_catalog__says_that_it_may_not_complete_a_commit(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(catalog)

    def refuses(folder: Path) -> Any:
        raise StorageError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr("clicksim.catalog.store.writing", refuses)
    with pytest.raises(
        CatalogError, match=r"has an interrupted commit that cannot be completed: Read-only file system; open the cat"
    ):
        open_catalog(catalog.path)


def test_catalog__completes_a_commit_before_it_writes(catalog: Catalog) -> None:
    interrupt(catalog)
    catalog.write_run("other", {})
    assert states_of(catalog.path) == {2}
    assert (catalog.path / "runs/other.json").exists()

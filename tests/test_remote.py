"""Catalogs on object storage: a real server of the S3 protocol on this machine, `file://` and `memory://`."""

import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem as SharedMemory
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from clicksim.audit import check_catalog
from clicksim.catalog import create_catalog, open_catalog
from clicksim.catalog.lock import writing
from clicksim.catalog.push import pull_catalog, push_catalog
from clicksim.catalog.remote.cache import cache_folder, fetch
from clicksim.catalog.remote.files_index import index_bytes, read_index, stored_name
from clicksim.catalog.remote.places import as_place
from clicksim.catalog.schema import TABLES, rows_to_table
from clicksim.errors import CatalogError, LockedError, SettingError, StorageError
from clicksim.pipeline import PromptRun
from clicksim.pipeline.cases import catalog_units
from clicksim.pipeline.merging import merge_catalogs
from clicksim.volumes import read_image
from tests.commands import done, run
from tests.report_catalog import make_catalog, plain_case
from tests.simulated import simulate_run

BUCKET, SECRET = "clicksim-tests", "s3cret-of-the-tests"
PET = "catalog:images/pet.nii.gz"


class MemoryFileSystem(SharedMemory):
    """Memory of its own, apart from that of `memory://`."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]


@pytest.fixture(scope="module")
def server():
    """An S3 server on a free port, and an environment that leads to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        ask(f"http://{host}:{port}/{BUCKET}", "PUT")
        yield f"http://{host}:{port}"
    running.stop()


def ask(url, method, data=b""):
    with urlopen(Request(url, data=data, method=method, headers={"Content-Type": "text/plain"})) as answer:
        return answer.read()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLICKSIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A catalog of six cases with images, two prompt runs, rejections and a source; not to be changed."""
    catalog = make_catalog(tmp_path_factory.mktemp("original") / "catalog", [{} for _ in range(6)], runs=1)
    facts = {name: f"the {name}" for name in ("title", "release", "licence", "citation", "doi")}
    catalog.write_sources(rows_to_table("sources", [facts | {"source": "fdat"}]))
    simulate_run(catalog.path)
    return catalog


@pytest.fixture
def local(original, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(original.path, tmp_path / "local")
    return open_catalog(tmp_path / "local")


@pytest.fixture
def memory():
    """An empty place in memory."""
    return f"memory://{uuid.uuid4().hex}/catalog"


@pytest.fixture(params=["s3", "file", "memory"])
def url(request, tmp_path, memory):
    if request.param == "s3":
        request.getfixturevalue("server")
        return f"s3://{BUCKET}/{uuid.uuid4().hex}/a catalog"
    return f"file://{tmp_path}/stored" if request.param == "file" else memory


@pytest.fixture
def s3(server):
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def same(one, other):
    """Two catalogs with the same rows in all tables, the same metadata and the same digest."""
    for name in (*TABLES, "prompts"):
        tables = [c.sources if name == "sources" else c.table(name) for c in (one, other)]
        assert tables[0].equals(tables[1]), name
    assert [one.metadata(run) for run in one.runs if "run0" not in run] == [
        other.metadata(run) for run in other.runs if "run0" not in run
    ]
    return one.digest() == other.digest()


def refused(*args):
    """The one line of a refusal."""
    result = run(*args)
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def spoil(url, name, content=b"other"):
    """Overwrite a file in memory."""
    with fsspec.open(f"{url}/{name}", "wb") as file:
        file.write(content)


# push, open, pull


def test_push_catalog__can_be_read_as_the_folder_was(original, url):
    moved = push_catalog(original.path, url)
    remote = open_catalog(url)
    assert same(original, remote)
    assert moved.files == moved.moved == len(remote.files)
    assert remote.parts("prompts") == original.parts("prompts")
    assert remote.part_digest("cases", "fdat") == original.part_digest("cases", "fdat")
    assert remote.case("case003") == original.case("case003")
    first, second = read_image(original.resolve(PET)), read_image(remote.resolve(PET))
    assert (first.array == second.array).all()
    assert first.grid.same_as(second.grid)
    assert check_catalog(remote) == check_catalog(original)


def test_push_catalog__sends_what_is_not_there_yet_alone(local, url):
    push_catalog(local.path, url)
    assert push_catalog(local.path, url).moved == 0
    local.write_run("more", {"note": "new"})
    assert (push_catalog(local.path, url).moved, open_catalog(url).digest()) == (1, local.digest())


def test_open_catalog__reads_one_row_group_for_one_case(tmp_path, memory):
    catalog = create_catalog(tmp_path / "many")
    rows = [{**plain_case(0), "case_id": f"case{n:04d}"} for n in range(2100)]
    file = catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    push_catalog(catalog.path, memory)
    remote = open_catalog(memory)
    start = min(
        column.dictionary_page_offset or column.data_page_offset
        for column in (pq.read_metadata(file).row_group(1).column(n) for n in range(20))
    )
    spoilt = bytearray(file.read_bytes())
    spoilt[start : start + 2000] = bytes(2000)
    assert pq.read_metadata(file).num_row_groups == 3
    spoil(
        memory,
        remote.files["cases/source=fdat/part-0.parquet"].at,
        bytes(spoilt),
    )
    assert remote.case("case0001")["case_id"] == "case0001"
    assert remote.case("case2099")["case_id"] == "case2099"
    with pytest.raises(CatalogError, match="cannot be read"):
        remote.case("case1500")


def test_open_catalog__takes_a_catalog_that_was_copied_by_other_means(original, memory):
    system, path = fsspec.core.url_to_fs(memory)
    system.put(f"{original.path}/", path, recursive=True)
    remote = open_catalog(memory)
    assert remote.files is None
    assert same(original, remote)
    assert (read_image(remote.resolve(PET)).array == read_image(original.resolve(PET)).array).all()
    assert check_catalog(remote) == check_catalog(original)
    with pytest.raises(CatalogError, match="not pushed there"):
        push_catalog(original.path, memory)
    with pytest.raises(CatalogError, match="a tool of that storage"):
        pull_catalog(memory, "anywhere")


@pytest.mark.parametrize("kind", ["fsspec", "pyarrow"])
def test_open_catalog__takes_a_file_system_of_fsspec_and_pyarrow(kind, original, tmp_path):
    (tmp_path / "disk").mkdir()
    if kind == "fsspec":
        system = fsspec.filesystem("dir", path=str(tmp_path / "disk"), fs=fsspec.filesystem("file"))
    else:
        system = SubTreeFileSystem(str(tmp_path / "disk"), LocalFileSystem())
    push_catalog(original.path, "some/place", filesystem=system)
    assert (tmp_path / "disk/some/place/catalog.json").is_file()
    remote = open_catalog("some/place", filesystem=system)
    assert same(original, remote)
    assert (read_image(remote.resolve(PET)).array == read_image(original.resolve(PET)).array).all()
    assert pull_catalog("some/place", tmp_path / "back", filesystem=system).moved == len(remote.files)


def test_prompt_run__on_object_storage_gives_the_same_prompts(original, s3):
    push_catalog(original.path, s3)
    run, found = PromptRun("autopet-iv@2", 7), []
    for catalog in (original, open_catalog(s3)):
        entries = [entry for unit in catalog_units(catalog) for entry in unit.content]
        found.append([run.make(entry.open(catalog, ("label", "pet")), entry).to_table() for entry in entries])
    assert len(found[0]) == len(original.cases)
    for ours, theirs in zip(*found, strict=True):
        assert len(ours)
        assert ours.equals(theirs, check_metadata=True)


KILLED = """
import os, signal, sys
from clicksim.catalog.push import push_catalog

def kill(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

push_catalog(sys.argv[1], sys.argv[2], progress=kill)
"""


def test_push_catalog__that_is_killed_leaves_the_old_state_and_is_taken_up(local, s3):
    push_catalog(local.path, s3)
    before, old = local.digest(), open_catalog(s3)
    rows = [{**row, "age_years": 1.0} for row in local.cases.drop_columns("source").to_pylist()]
    local.write_part("cases", "fdat", rows_to_table("cases", rows))
    shutil.copy(local.path / "images/label.nii.gz", local.path / "images/pet.nii.gz")
    total = len(old.files)
    dead = subprocess.run([sys.executable, "-c", KILLED, str(local.path), s3, str(total)], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert open_catalog(s3).digest() == before  # all files are there, the head is not
    assert push_catalog(local.path, s3).moved == 0
    new = open_catalog(s3)
    assert same(local, new)
    assert new.digest() != before
    # who had it open goes on with the old state: tables and images
    assert set(old.cases["age_years"].to_pylist()) != {1.0}
    assert old.digest() == before
    assert read_image(old.resolve(PET)).array.max() == 3
    assert read_image(new.resolve(PET)).array.max() == 1


def test_push_catalog__prunes_old_states_and_nothing_else(local, memory):
    push_catalog(local.path, memory)
    old = open_catalog(memory)
    assert old.parts("cases") == ["fdat"]
    others = {"notes.txt", "images/notes-of-mine.txt", "other/files-0123456789abcdef.parquet"}
    for name in others:
        spoil(memory, name)
    rows = [{**row, "age_years": 1.0} for row in local.cases.drop_columns("source").to_pylist()]
    local.write_part("cases", "fdat", rows_to_table("cases", rows))
    assert push_catalog(local.path, memory, prune=True).pruned == 2  # the old table, and the old list of files
    assert same(local, open_catalog(memory))
    held = as_place(memory).files()
    assert others < set(held)
    assert len(held) == len(open_catalog(memory).files) + len(others) + 2  # the list and catalog.json
    with pytest.raises(CatalogError, match="cannot be read"):
        old.table("cases")


def test_push_catalog__without_images_keeps_those_that_are_there(local, memory, tmp_path):
    push_catalog(local.path, memory, images=False)
    with pytest.raises(CatalogError, match="was not pushed"):
        open_catalog(memory).resolve(PET)
    assert [finding.check for finding in check_catalog(open_catalog(memory))][:1] == ["files"]
    push_catalog(local.path, memory)
    shutil.rmtree(local.path / "images")
    push_catalog(local.path, memory, images=False)
    assert read_image(open_catalog(memory).resolve(PET)).array.shape == (12, 12, 24)


def test_push_catalog__writes_no_credentials(original, s3):
    push_catalog(original.path, s3)
    place = as_place(s3)
    contents = [(place / name).read_bytes() for name in place.files()]
    assert len(contents) > 5
    assert not any(SECRET.encode() in content for content in contents)


def test_pull_catalog__gives_the_folder_back(original, url, tmp_path):
    push_catalog(original.path, url)
    moved = pull_catalog(url, tmp_path / "back")
    assert moved.moved == len(open_catalog(url).files)
    back = open_catalog(tmp_path / "back")
    assert back.files is None
    assert same(original, back)
    back.write_run("own", {})  # it can be written
    for file in original.path.rglob("*.nii.gz"):
        assert (back.path / file.relative_to(original.path)).read_bytes() == file.read_bytes()
    assert pull_catalog(url, tmp_path / "back").moved == 0


def test_pull_catalog__leaves_roots_where_they_are_here(local, memory, tmp_path):
    local.with_root("fdat", tmp_path / "there")
    push_catalog(local.path, memory)
    pull_catalog(memory, tmp_path / "back")
    open_catalog(tmp_path / "back").with_root("fdat", tmp_path / "here")
    pull_catalog(memory, tmp_path / "back")
    assert open_catalog(tmp_path / "back").roots["fdat"] == str(tmp_path / "here")


def test_pull_catalog__takes_up_what_was_interrupted(original, memory, tmp_path):
    push_catalog(original.path, memory)

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_catalog(memory, tmp_path / "back", progress=stop)
    with pytest.raises(CatalogError, match="is missing"):
        open_catalog(tmp_path / "back")
    waiting = sorted(file for file in (tmp_path / "back/.work/pull").rglob("*") if file.is_file())
    assert len(waiting) == 3
    waiting[0].write_bytes(bytes(waiting[0].stat().st_size))  # altered since: it is fetched again
    assert pull_catalog(memory, tmp_path / "back").moved == len(open_catalog(memory).files) - 2
    assert same(original, open_catalog(tmp_path / "back"))


def test_pull_catalog__replaces_nothing_unasked(local, memory, tmp_path):
    push_catalog(local.path, memory)
    local.write_part("lesions", "fdat", local.lesions.drop_columns("source").slice(0, 1))
    mine = local.digest()
    with pytest.raises(CatalogError, match=r"1 file unlike the pushed ones: lesions/source=fdat"):
        pull_catalog(memory, local.path)
    assert local.digest() == mine
    local.write_run("own", {"mine": True})
    assert pull_catalog(memory, local.path, overwrite=True).moved == 1
    assert local.digest() == open_catalog(memory).digest() != mine
    assert (local.path / "runs/own.json").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(CatalogError, match=r"has other files, such as thesis\.txt"):
        pull_catalog(memory, tmp_path / "full")


def test_pull_catalog__that_is_interrupted_leaves_the_old_state_whole(local, memory):
    push_catalog(local.path, memory)
    before = local.digest()
    for table, column in {"lesions": "volume_ml", "cases": "age_years"}.items():
        rows = getattr(local, table).drop_columns("source").to_pylist()
        local.write_part(table, "fdat", rows_to_table(table, [{**rows[0], column: 1.0}, *rows[1:]]))
    mine = local.digest()
    assert mine != before

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_catalog(memory, local.path, overwrite=True, progress=stop)
    assert local.digest() == mine
    pull_catalog(memory, local.path, overwrite=True)
    assert local.digest() == before
    assert not (local.path / ".work").exists()


def test_push_catalog__to_a_folder_waits_for_no_other_push_and_clears_what_was_killed(local, tmp_path):
    place = tmp_path / "stored"
    push_catalog(local.path, f"file://{place}")
    (place / "images/.writing-0123-pet.nii.gz").write_bytes(b"half")
    with writing(place), pytest.raises(LockedError, match="stored is being written by"):
        in_a_thread(lambda: push_catalog(local.path, f"file://{place}"))
    push_catalog(local.path, f"file://{place}")
    assert not list(place.rglob(".writing-*"))


def in_a_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_pull_catalog__asks_for_space_before_it_begins(original, memory, tmp_path, monkeypatch):
    push_catalog(original.path, memory)
    monkeypatch.setattr("clicksim.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(StorageError, match=r"what is in memory://.* will take at least"):
        pull_catalog(memory, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_pull_catalog__refuses_a_damaged_file(original, memory, tmp_path):
    push_catalog(original.path, memory)
    file = open_catalog(memory).files["images/pet.nii.gz"]
    spoil(memory, file.at, bytes(file.size))
    with pytest.raises(CatalogError, match="is damaged"):
        pull_catalog(memory, tmp_path / "back")
    assert not (tmp_path / "back/images/pet.nii.gz").exists()
    assert not (tmp_path / "back/catalog.json").exists()
    assert push_catalog(original.path, memory).moved == 0  # of the right size: a push does not read it


@pytest.mark.parametrize("url", ["file", "memory"], indirect=True)
def test_push_catalog__mends_what_is_damaged_when_it_is_asked_to_verify(original, url, tmp_path):
    push_catalog(original.path, url)
    catalog = open_catalog(url)
    file = catalog.files["images/pet.nii.gz"]
    spoil(url, file.at, bytes(file.size))
    with pytest.raises(CatalogError, match="push again with --verify"):
        pull_catalog(url, tmp_path / "back")
    told = done("catalog", "push", original.path, url, "--verify")
    assert f"{len(catalog.files)} files, 1 sent" in told
    pull_catalog(url, tmp_path / "back")
    assert (tmp_path / "back/images/pet.nii.gz").read_bytes() == (original.path / "images/pet.nii.gz").read_bytes()
    assert push_catalog(original.path, url, verify=True).moved == 0


def test_push_catalog__mends_a_damaged_index(original, memory):
    push_catalog(original.path, memory)
    spoil(memory, open_catalog(memory).index)
    read_index.cache_clear()
    with pytest.raises(CatalogError, match="push the catalog again, with its images"):
        open_catalog(memory).parts("cases")
    push_catalog(original.path, memory)
    assert same(original, open_catalog(memory))


def test_push_catalog__refuses_a_file_that_changes_on_the_way(original, memory, monkeypatch):
    monkeypatch.setattr("clicksim.catalog.push.blocks_of", lambda opened: [opened.read(), b"more"])
    with pytest.raises(CatalogError, match="changed while it was pushed; push again"):
        push_catalog(original.path, memory)
    assert as_place(memory).files() == {}


def test_push_catalog__takes_along_what_lies_behind_links_in_the_catalog(local, memory):
    (local.path / "more/deep").mkdir(parents=True)
    shutil.copy(local.path / "images/pet.nii.gz", local.path / "more/deep/one.nii.gz")
    (local.path / "images/linked").symlink_to("../more", target_is_directory=True)
    (local.path / "images/file.nii.gz").symlink_to("pet.nii.gz")
    push_catalog(local.path, memory)
    remote = open_catalog(memory)
    for name in ("images/linked/deep/one.nii.gz", "images/file.nii.gz"):
        assert remote.resolve(f"catalog:{name}").read_bytes() == (local.path / "images/pet.nii.gz").read_bytes()
    assert pull_catalog(memory, local.path).moved == 0  # they are there


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("..", "link to a folder that contains it"),
        ("../..", "leaves its root"),
        ("nothing", "is a broken link"),
        ("a/linked", "is a broken link"),
    ],
)
def test_push_catalog__refuses_links_that_it_cannot_follow(to, told, local, memory):
    (local.path / "images/a").mkdir()
    (local.path / "images/a/linked").symlink_to(local.path / "images" / to if to != ".." else "..")
    with pytest.raises(CatalogError, match=f"images/a/linked.*{told}"):
        push_catalog(local.path, memory)
    assert as_place(memory).files() == {}


def test_write__leaves_no_half_file_when_it_is_interrupted(memory):
    def blocks():
        yield b"first"
        raise KeyboardInterrupt

    place = as_place(memory)
    with pytest.raises(KeyboardInterrupt):
        (place / "a").write(blocks())
    assert place.files() == {}


@pytest.mark.parametrize("folder", ["", "cat", "/cat", "cat/"])
@pytest.mark.parametrize("kind", ["fsspec", "pyarrow"])
def test_files__are_named_alike_with_and_without_slashes(kind, folder, original, tmp_path):
    if kind == "pyarrow":
        (tmp_path / "disk").mkdir()
        system = SubTreeFileSystem(str(tmp_path / "disk"), LocalFileSystem())
        shutil.copytree(original.path, tmp_path / "disk" / folder.strip("/"), dirs_exist_ok=True)
    else:
        system = MemoryFileSystem()
        for file in (file for file in original.path.rglob("*") if file.is_file()):
            system.pipe(f"/{folder.strip('/')}/{file.relative_to(original.path)}", file.read_bytes())
    remote = open_catalog(folder, filesystem=system)
    assert remote.cases.equals(original.cases)
    assert remote.size_of(PET) == (original.path / "images/pet.nii.gz").stat().st_size


def test_size_of__a_pushed_file_that_was_cut_off_is_none(original, url):
    push_catalog(original.path, url)
    remote = open_catalog(url)
    assert remote.size_of(PET) == original.size_of(PET)
    cut = as_place(url) / remote.files[PET.removeprefix("catalog:")].at
    cut.write_bytes(b"cut") if isinstance(cut, Path) else cut.write([b"cut"])
    assert open_catalog(url).size_of(PET) is None


def test_files__refuses_an_answer_about_another_folder(memory):
    class Elsewhere(MemoryFileSystem):
        def find(self, path, **options):
            return {name.replace("/cat/", "/dog/"): info for name, info in super().find(path, **options).items()}

    system = Elsewhere()
    system.pipe("/cat/a", b"a")
    with pytest.raises(CatalogError, match="returns 'dog/a', a file elsewhere"):
        as_place("cat", system).files()


def test_merge_catalogs__keeps_a_root_that_is_a_url(local, memory, tmp_path):
    spoil(memory, "pet.nii.gz", b"pet")
    local.with_root("fdat", memory)
    merged = merge_catalogs(tmp_path / "merged", [local.path])
    assert merged.roots["fdat"] == memory
    assert merged.resolve("fdat:pet.nii.gz").read_bytes() == b"pet"


# what is refused


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("s3://key:secret@bucket/x", "holds credentials"),
        ("s3://bucket/x?access_key=secret", "holds credentials"),
        ("nosuch://bucket/x", "cannot be opened: Protocol not known"),
        (Path("s3://bucket/x"), "two slashes"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:/key:secret@bucket", "two slashes"),
        ("s3://key:sec/secret@bucket", "holds credentials"),
        ("s3://key:a?secret@bucket", "holds credentials"),
        ("s3://key:secret#b@bucket", "holds credentials"),
        ("s3://secret@bucket/x", "holds credentials"),
        ("s3://key%3Asecret%40bucket/x", "holds credentials"),
        ("abfs://container:secret@account.dfs.core.windows.net/x", "holds credentials"),
        ("hdfs://user:secret@host/x", "holds credentials"),
        ("sftp://user:1/secret@host", "holds credentials"),
        ("simplecache::s3://key:secret@bucket", "leave out ::"),
        ("zip://x.zip::s3://key:secret@bucket", "leave out ::"),
        ("key:secret@s3://bucket", "plain address"),
        ("nosuch://[bad", "cannot be opened"),
        ("memory://nothing/here", "catalog.json is missing"),
        ("file:///nothing/here", "catalog.json is missing; name the folder of a catalog"),
        ("file://nothing/here", "begins with a slash"),
    ],
    ids=str,
)
def test_open_catalog__refuses_addresses_that_are_none(named, told):
    with pytest.raises(CatalogError, match=told) as caught:
        open_catalog(named)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://WHO:HUSH/HIDE@b", "s3:/WHO:HUSH@b", "dir::s3://WHO:HUSH@b"])
@pytest.mark.parametrize(
    "command",
    [
        ["clicks", "--catalog", "URL"],
        ["catalog", "summary", "URL"],
        ["catalog", "relocate", "HERE", "catalogue=URL"],
        ["catalog", "push", "HERE", "URL"],
        ["catalog", "push", "URL", "memory://x"],
        ["catalog", "push", "HERE", "memory://x", "--root", "fdat=URL"],
        ["catalog", "pull", "URL", "new"],
        ["catalog", "pull", "memory://x", "URL"],
    ],
    ids=lambda command: "-".join(command),
)
def test_commands__repeat_no_secret_of_an_address(command, address, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    local.with_root("fdat", tmp_path / "raw").with_root("catalogue", tmp_path / "raw")
    before = (local.path / "catalog.json").read_bytes()
    told = refused(*[{"HERE": local.path}.get(word, word.replace("URL", address)) for word in command])
    assert not {word for word in ("WHO", "HUSH", "HIDE") if word in told}
    assert (local.path / "catalog.json").read_bytes() == before
    assert not (tmp_path / "s3:").exists()


@pytest.mark.parametrize("word", ["s3://KEY:SECRET@b", "s3://KEY:SECRET=@b"])
def test_commands__repeat_no_secret_of_a_root_without_a_name(word, original):
    for command in (["push", original.path, "memory://x", "--root", word], ["relocate", original.path, word]):
        result = run("catalog", *command)
        assert result.exit_code == 2
        assert "NAME=" in result.stderr
        assert "SECRET" not in result.output


@pytest.mark.parametrize(
    "address",
    [
        "abfs://container@account.dfs.core.windows.net/a/b@2",
        "abfss://container@account.dfs.core.windows.net",
        "hdfs://user@host:8020/data",
        "s3://bucket/autopet-iv@2/x",
        "s3://bucket/run=a:b",
        "s3://bucket/100%23",
        "gs://bucket/a b",
    ],
)
def test_as_place__takes_what_holds_no_secret(address):
    assert str(as_place(address)) == address


def test_open_catalog__says_in_one_line_that_a_bucket_is_missing(server, original):
    assert "no catalog in s3://no-such-bucket/x" in refused("catalog", "summary", "s3://no-such-bucket/x")
    assert "bucket does not exist" in refused("catalog", "push", original.path, "s3://no-such-bucket/x")


def test_open_catalog__says_in_one_line_that_it_is_not_allowed(server, original, s3):
    push_catalog(original.path, s3)
    try:
        ask(f"{server}/moto-api/reset-auth", "POST", b"0")
        for command in (["summary", s3], ["push", original.path, s3]):
            told = refused("catalog", *command)
            assert "cannot be reached" in told
            assert "credentials in the environment" in told
            assert SECRET not in told
    finally:
        ask(f"{server}/moto-api/reset-auth", "POST", b"inf")


def test_open_catalog__says_in_one_line_that_there_is_no_network(original, s3, monkeypatch):
    push_catalog(original.path, s3)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        told = refused("catalog", "summary", s3)
    assert "cannot be reached" in told
    assert "connect to server" in told
    assert open_catalog(s3).digest() == original.digest(), "it goes where the environment says now"


@pytest.mark.parametrize("target", ["stored", "file:stored", "file://tmp/stored"])
def test_push_catalog__refuses_a_target_that_is_no_address(target, original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused("catalog", "push", original.path, target)
    assert f"{target} is not a URL" in told or "file:///data" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("relative", ["../outside.nii.gz", "images/../../x.nii.gz", "/etc/passwd", "a\\..\\b"])
def test_resolve__refuses_what_leaves_a_remote_root(relative, original, memory):
    push_catalog(original.path, memory, roots={})
    with pytest.raises(CatalogError, match="leaves its root"):
        open_catalog(memory).resolve(f"catalog:{relative}")


@pytest.mark.parametrize("spoilt", [{"name": "../x"}, {"name": "/x"}, {"sha256": "../" * 20}], ids=str)
def test_open_catalog__refuses_an_index_that_leads_outside(spoilt, original, memory):
    push_catalog(original.path, memory)
    head = json.loads((as_place(memory) / "catalog.json").read_text())
    file = next(iter(open_catalog(memory).files.values()))
    content = index_bytes({"x": replace(file, **spoilt)})
    head["files"] = stored_name("files.parquet", hashlib.sha256(content).hexdigest())
    spoil(memory, head["files"], content)
    spoil(memory, "catalog.json", json.dumps(head).encode())
    with pytest.raises(CatalogError, match="not a file of a catalog"):
        open_catalog(memory).parts("cases")


@pytest.mark.parametrize(
    ("files", "told"),
    [("../files.parquet", "not the name of one"), ("files-0123456789abcdef.parquet", "newer state"), ("", "")],
    ids=["outside", "gone", "none"],
)
def test_open_catalog__refuses_a_head_without_its_index(files, told, original, memory):
    push_catalog(original.path, memory)
    head = json.loads((as_place(memory) / "catalog.json").read_text())
    spoil(memory, "catalog.json", json.dumps(head | {"files": files}).encode())
    if not files:
        assert open_catalog(memory).parts("cases") == []  # the files of a pushed catalog have other names
        return
    with pytest.raises(CatalogError, match=told):
        open_catalog(memory).parts("cases")


def test_open_catalog__refuses_a_damaged_index(original, memory):
    push_catalog(original.path, memory)
    spoil(memory, open_catalog(memory).index)
    with pytest.raises(CatalogError, match="checksum is not the one in its name"):
        open_catalog(memory).parts("cases")


WRITERS = [
    ["clicks", "--catalog", "URL"],
    ["scribbles", "--catalog", "URL"],
    ["rounds", "--catalog", "URL", "--predictor", "builtin:threshold"],
    ["convert", "fdat", ".", "URL"],
    ["catalog", "folds", "URL"],
    ["catalog", "relocate", "URL", "fdat=."],
    ["catalog", "import-prompts", "URL", ".", "--run", "x"],
    ["catalog", "merge", "out", "URL"],
]


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: "-".join(command[:2]))
def test_commands__that_write_refuse_a_url_in_one_line(command, original, memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    push_catalog(original.path, memory)
    told = refused(*[memory if word == "URL" else word for word in command])
    assert f"{memory} is read only" in told
    assert "clicksim catalog push" in told


def test_catalog__on_object_storage_is_not_written(original, url):
    push_catalog(original.path, url)
    remote = open_catalog(url)
    for write in (
        lambda: remote.write_run("x", {}),
        lambda: remote.with_root("fdat", "."),
        lambda: remote.write_part("lesions", "fdat", original.lesions.drop_columns("source")),
        lambda: create_catalog(url),
        lambda: remote.path,
    ):
        with pytest.raises(CatalogError, match="read only"):
            write()


def test_catalog__that_was_pushed_to_a_folder_is_not_written_there(original, tmp_path):
    push_catalog(original.path, f"file://{tmp_path}/stored")
    with pytest.raises(CatalogError, match="read only"):
        open_catalog(tmp_path / "stored").write_run("x", {})


# commands that read


def test_commands__that_read_take_a_url(original, s3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = done("catalog", "push", original.path, s3)
    assert told.endswith("MB)\n")
    here = original.path
    assert done("catalog", "summary", s3) == done("catalog", "summary", here)
    assert done("catalog", "check", s3) == "no findings\n"
    assert not (tmp_path / "cache").exists()  # names and sizes are enough for that
    assert done("catalog", "check", s3, "--read-data") == "no findings\n"
    assert done("catalog", "query", s3, "select count(*) from cases") == "count_star()\n6\n"
    assert done("catalog", "rejected", s3) == done("catalog", "rejected", here)
    assert done("catalog", "cite", s3) == done("catalog", "cite", here)
    assert run("catalog", "audit", s3, "--out", "audit.html").stdout == run("catalog", "audit", here).stdout
    assert f"Audit of {s3.rpartition('/')[2]}" in Path("audit.html").read_text()
    name = next(name for name in original.runs if name != "run0")
    assert "6 equal" in done("verify", s3, "--against", name)
    done("report", s3, "report.html")
    assert Path("report.html").stat().st_size > 10_000
    done("catalog", "pull", s3, "back")
    assert open_catalog("back").digest() == original.digest()


def test_manifest__copies_what_was_fetched_and_lists_only_what_stays(original, memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    push_catalog(original.path, memory)
    done("manifest", "huggingface", memory, "hf")
    images = list(Path("hf").rglob("*.nii.gz"))
    assert len(images) == 12
    assert not any(file.is_symlink() for file in images)
    result = run("manifest", "monai", memory, "monai")
    assert result.exit_code == 1
    assert "on object storage" in result.stderr


def test_prepare__takes_a_url(local, memory, tmp_path):
    prepare = pytest.importorskip("clickseg.data.prepare", exc_type=ImportError)
    rows = [{**row, "ct_path": row["pet_path"]} for row in local.cases.drop_columns("source").to_pylist()]
    local.write_part("cases", "fdat", rows_to_table("cases", rows))
    push_catalog(local.path, memory)
    rules = prepare.StoreRules.of({"spacing_mm": [30, 30, 40]})
    assert prepare.prepare_store(memory, tmp_path / "store", rules).cases == 6


# roots elsewhere


def test_resolve__reads_a_root_that_is_a_url(local, memory, tmp_path, monkeypatch):
    spoil(memory, "sub/pet.nii.gz", (local.path / "images/pet.nii.gz").read_bytes())
    (tmp_path / "raw").mkdir()
    catalog = local.with_root("fdat", tmp_path / "raw")
    assert catalog.size_of("fdat:sub/pet.nii.gz") is None
    done("catalog", "relocate", local.path, f"fdat={memory}")
    catalog = open_catalog(local.path)
    assert catalog.roots["fdat"] == memory
    assert read_image(catalog.resolve("fdat:sub/pet.nii.gz")).array.shape == (12, 12, 24)
    assert catalog.size_of("fdat:sub/pet.nii.gz") == (local.path / "images/pet.nii.gz").stat().st_size
    assert catalog.size_of("fdat:sub/ct.nii.gz") is None
    with pytest.raises(CatalogError, match="there is no memory://"):
        catalog.resolve("fdat:sub/ct.nii.gz")
    with pytest.raises(CatalogError, match="leaves its root"):
        catalog.resolve("fdat:../other")
    monkeypatch.setenv("CLICKSIM_ROOT_FDAT", f"{memory}/sub")
    assert read_image(catalog.resolve("fdat:pet.nii.gz")).array.shape == (12, 12, 24)
    assert "does not exist" in refused("catalog", "relocate", local.path, "fdat=memory://nothing")
    assert "holds credentials" in refused("catalog", "relocate", local.path, "fdat=s3://key:secret@bucket")


def test_push_catalog__says_where_readers_find_a_root(local, memory, tmp_path):
    (tmp_path / "raw").mkdir()
    shutil.copy(local.path / "images/pet.nii.gz", tmp_path / "raw")
    spoil(memory, "raw/pet.nii.gz", (local.path / "images/pet.nii.gz").read_bytes())
    local.with_root("fdat", tmp_path / "raw")
    stored = f"{memory}/pushed"
    done("catalog", "push", local.path, stored)
    assert open_catalog(stored).resolve("fdat:pet.nii.gz") == tmp_path / "raw/pet.nii.gz"
    done("catalog", "push", local.path, stored, "--root", f"fdat={memory}/raw")
    assert open_catalog(stored).resolve("fdat:pet.nii.gz").is_relative_to(cache_folder())
    assert open_catalog(local.path).roots["fdat"] == str(tmp_path / "raw")
    with pytest.raises(SettingError, match="unknown root 'fdt'; did you mean 'fdat'"):
        push_catalog(local.path, stored, roots={"fdt": memory})


# the local copies


@pytest.mark.parametrize("url", ["s3", "memory"], indirect=True)
def test_fetch__fetches_once_and_again_when_the_file_has_changed(url):
    place = as_place(url)
    (place / "a.nii.gz").write([b"first"])
    held = fetch(place / "a.nii.gz")
    written = held.stat().st_ino
    assert (held.read_bytes(), fetch(place / "a.nii.gz").stat().st_ino) == (b"first", written)
    (place / "a.nii.gz").write([b"second"])
    assert fetch(place / "a.nii.gz").read_bytes() == b"second"
    assert held.read_bytes() == b"first"


def test_fetch__marks_what_is_used_again(memory):
    spoil(memory, "a")
    held = fetch(as_place(memory) / "a")
    os.utime(held, (0, 0))
    assert fetch(as_place(memory) / "a") == held
    assert held.stat().st_mtime > 0, "it is no longer the one that was used longest ago"


def test_fetch__needs_no_storage_for_what_it_knows_by_content(original, memory):
    push_catalog(original.path, memory)
    remote = open_catalog(memory)
    held = remote.resolve(PET)
    (as_place(memory) / remote.files["images/pet.nii.gz"].at).unlink()
    assert remote.resolve(PET) == held
    held.unlink()
    with pytest.raises(CatalogError, match="there is no memory://"):
        remote.resolve(PET)


def test_fetch__refuses_what_arrives_damaged(original, memory):
    push_catalog(original.path, memory)
    file = open_catalog(memory).files["images/pet.nii.gz"]
    spoil(memory, file.at, bytes(file.size))
    with pytest.raises(CatalogError, match="is damaged"):
        open_catalog(memory).resolve(PET)
    assert [file for file in cache_folder().rglob("*") if file.is_file()] == []


def test_fetch__keeps_the_folder_within_its_bound(memory, monkeypatch):
    place = as_place(memory)
    for name in "abcd":
        (place / name).write([name.encode() * 1000])
    monkeypatch.setenv("CLICKSIM_CACHE_GIB", str(2500 / (1 << 30)))
    held = [fetch(place / name) for name in "abc"]
    assert all(file.exists() for file in held)  # just used: none may go
    for age, file in zip((900, 1000, 800), held, strict=True):
        os.utime(file, (time.time() - age,) * 2)
    left = held[0].with_name(".writing-0123-x")
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 100_000,) * 2)
    fetch(place / "c")
    fetch(place / "d")
    assert [file.exists() for file in held] == [False, False, True]
    assert not left.exists()


def test_fetch__refuses_a_folder_that_is_a_file(memory, monkeypatch, tmp_path):
    spoil(memory, "a")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLICKSIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(SettingError, match="name a folder with CLICKSIM_CACHE"):
        fetch(as_place(memory) / "a")


@pytest.mark.parametrize("text", ["much", "nan", "-1", ""])
def test_fetch__refuses_a_bound_that_is_no_size(text, memory, monkeypatch):
    place = as_place(memory)
    for name in "ab":
        (place / name).write([name.encode()])
    held = fetch(place / "a")
    os.utime(held, (time.time() - 1000,) * 2)
    monkeypatch.setenv("CLICKSIM_CACHE_GIB", text)
    with pytest.raises(SettingError, match=f"CLICKSIM_CACHE_GIB must be a number of GiB, 0 or more, got '{text}'"):
        fetch(place / "b")
    assert held.exists()


def test_fetch__looks_for_what_must_go_now_and_then_alone(memory, monkeypatch):
    place = as_place(memory)
    for name in "abc":
        (place / name).write([name.encode() * 1000])
    left = fetch(place / "a").with_name(".writing-0123-x")
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 100_000,) * 2)
    fetch(place / "b")
    assert left.exists()  # 1000 bytes are little of 50 GiB
    monkeypatch.setenv("CLICKSIM_CACHE_GIB", str(150_000 / (1 << 30)))
    fetch(place / "c")  # with b more than a hundredth
    assert not left.exists()


@pytest.mark.parametrize("kind", ["fsspec", "pyarrow"])
def test_fetch__shares_nothing_between_file_systems(kind, tmp_path):
    held = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "pet.nii.gz"
        file.write_text(name)
        os.utime(file, (1_000_000_000,) * 2)
        if kind == "fsspec":
            system = fsspec.filesystem("dir", path=str(tmp_path / name), fs=fsspec.filesystem("file"))
        else:
            system = SubTreeFileSystem(str(tmp_path / name), LocalFileSystem())
        place = as_place("", system) / "pet.nii.gz"
        held.append(fetch(place))
        assert fetch(pickle.loads(pickle.dumps(place))) == held[-1]  # another process
    assert [file.read_text() for file in held] == ["one", "two"]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"])
def test_fetch__shares_nothing_between_servers(name, memory, monkeypatch):
    file = as_place(memory) / "a"
    file.write([b"first"])
    held = fetch(file)
    monkeypatch.setenv(name, "another")
    assert fetch(file) != held

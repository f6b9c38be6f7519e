"""The same work on a Dask cluster: real ones, of processes on this machine."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from clicksim.catalog import Outcome, Source, Unit, find_source, open_catalog
from clicksim.cli import main
from clicksim.errors import CatalogError
from clicksim.lesions import find_lesions
from clicksim.phantom.layouts import write_fdat
from clicksim.pipeline import Crew, convert
from clicksim.pipeline.cluster import dask_executor
from clicksim.simulate.annotators.people import PRESETS, Annotator, contrast_of
from clicksim.volumes import read_image
from tests.simulated import simulate_run

distributed = pytest.importorskip("distributed", reason="needs clicksim[cluster]")
dask = pytest.importorskip("dask")

pytestmark = pytest.mark.filterwarnings("ignore")  # what a cluster warns of while it closes is not ours


def start_cluster(**more):
    return distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, **more)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The file of a scheduler with two workers, whose folder is not that of any test."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    with start_cluster(scheduler_kwargs={"scheduler_file": str(file)}):
        yield str(file)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A source of four patients, and its catalog; not to be changed."""
    root = tmp_path_factory.mktemp("phantoms")
    tree = write_fdat(root / "source", patients=4, shape=(24, 20, 30), spacing=(18, 18, 20), lesions=(1, 6)).folder
    convert(find_source("fdat"), tree, root / "catalog")
    return root


@pytest.fixture
def here(phantoms, tmp_path, monkeypatch):
    """A folder with two catalogs of the phantoms, `here` and `there`."""
    monkeypatch.chdir(tmp_path)
    for name in ("here", "there"):
        convert(find_source("fdat"), phantoms / "source", tmp_path / name)
    return tmp_path


def content(catalog):
    return {file.relative_to(catalog): file.read_bytes() for file in sorted(catalog.rglob("*.parquet"))}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_convert__gives_the_same_bytes_on_a_cluster(cluster, phantoms, tmp_path):
    with dask_executor(cluster) as executor:
        summary = convert(find_source("fdat"), phantoms / "source", tmp_path / "there", crew=Crew(executor=executor))
    assert (summary.cases, summary.rejected) == (5, 0)
    assert content(phantoms / "catalog") == content(tmp_path / "there")


@pytest.mark.parametrize(
    "command",
    [
        ("clicks", "--set", "n_foreground=3"),
        ("clicks", "--sweep", "seed=1,2", "--out", "out"),
        ("scribbles", "--protocol", "autopet-v@2"),
        ("rounds", "--predictor", "builtin:threshold", "--set", "n_rounds=2"),
    ],
    ids=" ".join,
)
def test_cli__gives_the_same_bytes_on_a_cluster(cluster, here, phantoms, command):
    for catalog, more in (("here", ()), ("there", ("--scheduler", cluster))):
        told = run(*command, "--catalog", catalog, *more)
        assert told.exit_code == 0, told.output
    assert len(content(here / "here")) > len(content(phantoms / "catalog"))
    assert content(here / "here") == content(here / "there")


def test_cli__takes_the_address_too(cluster, here, phantoms):
    address = json.loads(Path(cluster).read_text())["address"]
    told = run("convert", "fdat", phantoms / "source", "other", "--scheduler", address)
    assert told.exit_code == 0, told.output
    assert content(here / "other") == content(phantoms / "catalog")


def test_cli__refuses_a_scheduler_with_workers_or_without_a_catalog(cluster, here):
    told = run("clicks", "--catalog", "here", "--workers", 2, "--scheduler", cluster)
    assert (told.exit_code, "--workers starts processes here" in told.output) == (2, True)
    for command in ("clicks", "scribbles", "rounds"):
        more = ("--predictor", "builtin:threshold") if command == "rounds" else ()
        label = next((here / "here").rglob("catalog.json"))
        told = run(command, "--label", label, "--scheduler", cluster, *more)
        assert (told.exit_code, "--catalog" in told.output) == (2, True), told.output


def test_dask_executor__refuses_workers_of_several_threads():
    with (
        distributed.LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=None) as threaded,
        pytest.raises(CatalogError, match=r"has 2 threads.*--nthreads 1"),
        dask_executor(threaded.scheduler_address),
    ):
        pass


def test_dask_executor__says_that_no_worker_has_joined(monkeypatch):
    monkeypatch.setattr("clicksim.pipeline.cluster.WORKERS_S", 0.2)
    with (
        distributed.SpecCluster(
            scheduler={"cls": distributed.Scheduler, "options": {"dashboard": False, "port": 0}}
        ) as idle,
        pytest.raises(CatalogError, match=r"no worker has joined .*: start some with dask worker tcp://"),
        dask_executor(idle.scheduler_address),
    ):
        pass


# workers that die; the functions must be importable by them


def plan_letters(context):
    return [Unit(letter, None) for letter in "abcdefgh"], Outcome()


def convert_letter(context, unit):
    """Die where a file says so: `once`, or at each start. Each start is noted."""
    with (context.source / f"{unit.key}.starts").open("a") as file:
        file.write("x")
    flag = context.source / unit.key
    if flag.exists():
        if flag.read_text() == "once":
            flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    outcome = Outcome()
    outcome.cases.append({"case_id": unit.key, "patient_key": unit.key})
    return outcome


LETTERS = Source("letters", "Letters", "any folder", plan_letters, convert_letter, {"licence": "none"})


@pytest.mark.parametrize("patience", [0, 3], ids="allowed-failures={}".format)
@pytest.mark.slow  # each worker that died starts Python anew
def test_convert__a_worker_that_dies_on_a_cluster_costs_one_retry_and_its_patient_alone(tmp_path, patience):
    folder = tmp_path / "letters"
    folder.mkdir()
    convert(LETTERS, folder, tmp_path / "sound")
    for file in folder.iterdir():
        file.unlink()
    (folder / "b").write_text("always")
    (folder / "e").write_text("once")
    (folder / "g").write_text("always")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": patience}),
        start_cluster() as cluster,
        dask_executor(cluster.scheduler_address) as executor,
    ):
        summary = convert(LETTERS, folder, tmp_path / "c", crew=Crew(executor=executor))
    assert (summary.cases, summary.rejected) == (6, 2)
    opened, sound = open_catalog(tmp_path / "c"), open_catalog(tmp_path / "sound")
    assert [(row["code"], row["path"]) for row in opened.rejected.to_pylist()] == [
        ("WorkerDied", "b"), ("WorkerDied", "g"),
    ]  # fmt: skip
    assert opened.cases.to_pylist() == [row for row in sound.cases.to_pylist() if row["case_id"] not in "bg"]
    starts = {letter: len((folder / f"{letter}.starts").read_text()) for letter in "abcdefgh"}
    assert starts == dict.fromkeys("acdfh", 1) | dict.fromkeys("beg", 2)


@dataclasses.dataclass(frozen=True)
class Deadly(Annotator):
    """One who kills the process that looks at a lesion of a certain contrast."""

    contrast: float = 0.0

    def misses(self, volume_ml, contrast):
        if contrast == self.contrast:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().misses(volume_ml, contrast)


@pytest.mark.parametrize("where", ["cluster", "processes"])
def test_simulate_catalog__a_worker_that_dies_refuses_the_cases_of_its_patient(here, where):
    rows = open_catalog(here / "here").cases.to_pylist()
    patients = {row["case_id"]: row["patient_key"] for row in rows}
    fatal = next(row for row in rows if row["n_lesions"])
    dead = {case for case, patient in patients.items() if patient == fatal["patient_key"]}
    assert len(dead) == 2, "the patient with two studies"
    opened = open_catalog(here / "here")
    label, pet = (read_image(opened.resolve(fatal[f"{kind}_path"])) for kind in ("label", "pet"))
    lesion = find_lesions(label.array)[0]
    contrast = contrast_of(lesion, pet.array, label.grid.spacing)
    values = dataclasses.asdict(PRESETS["careful"]) | {"name": "careful"}
    person = Deadly(**values, contrast=contrast)
    if where == "cluster":
        with start_cluster() as cluster, dask_executor(cluster.scheduler_address) as executor:
            name, summary = simulate_run(here / "here", annotator=person, crew=Crew(executor=executor))
    else:
        name, summary = simulate_run(here / "here", annotator=person, crew=Crew(2))
    assert (summary.cases, summary.rejected) == (5 - len(dead), len(dead))
    assert opened.metadata(name)["cases"] == sorted(set(patients) - dead)
    assert not dead & set(opened.table("prompts", name)["case"].to_pylist())
    refused = json.loads((here / f"here/runs/{name}.json").read_text())["refused"]
    assert [(row["code"], row["case_id"]) for row in refused] == [("WorkerDied", case) for case in sorted(dead)]


def test_dask_executor__says_where_nobody_answers(tmp_path):
    with pytest.raises(CatalogError, match="no Dask scheduler answers"), dask_executor("nonsense://x"):
        pass
    gone = dask_executor(str(tmp_path / "gone.json"))
    with pytest.raises(CatalogError, match=r"no scheduler file .*start dask scheduler"), gone:
        pass

"""The same work on a Dask cluster: a real one, of two processes on this machine."""

import pytest

from clicksim.build import convert_source
from clicksim.build.units import dask_executor
from clicksim.catalog import find_source
from clicksim.errors import CatalogError
from clicksim.phantom.layouts import write_fdat

distributed = pytest.importorskip("distributed", reason="needs clicksim[cluster]")

pytestmark = pytest.mark.filterwarnings("ignore")  # what a cluster warns of while it closes is not ours


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as running:
        yield running.scheduler_address


def content(catalog):
    return {file.relative_to(catalog): file.read_bytes() for file in sorted(catalog.rglob("*.parquet"))}


def test_convert_source__gives_the_same_bytes_on_a_cluster(cluster, tmp_path):
    tree = write_fdat(tmp_path / "source", patients=4, shape=(24, 20, 30), spacing=(18, 18, 20), lesions=(1, 2)).folder
    here = convert_source(find_source("fdat"), tree, tmp_path / "here")
    with dask_executor(cluster) as executor:
        there = convert_source(find_source("fdat"), tree, tmp_path / "there", executor=executor)
    assert here == there
    assert content(tmp_path / "here") == content(tmp_path / "there")


def test_dask_executor__says_where_nobody_answers():
    with pytest.raises(CatalogError, match="no Dask scheduler answers"), dask_executor("nonsense://x"):
        pass

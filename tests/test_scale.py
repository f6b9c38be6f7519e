"""The comparison of the ways from many cases to one catalog, and all four ways over a few of them."""

import shutil

import pytest

from clicksim.catalog import find_source
from clicksim.pipeline import convert
from studies import scale

pytest.importorskip("distributed", reason="needs clicksim[cluster]")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return scale.write_cases(tmp_path_factory.mktemp("scale") / "source", 7)


@pytest.mark.parametrize("cases", [1, 8, 15])
def test_write_cases__refuses_a_number_that_no_patients_have(tmp_path, cases):
    with pytest.raises(ValueError, match=f"not {cases}; use one more case"):
        scale.write_cases(tmp_path, cases)


def test_run_step__notes_time_and_memory(source, tmp_path):
    step = scale.run_step("convert", source, tmp_path / "catalog", workers=1)
    assert step.seconds > 0
    if step.own:  # where the system says
        assert step.own == sorted(step.own)
        assert len(step.own) == 3
        assert len(step.workers) == 2


def test_compare_catalogs__sees_one_byte_and_a_file_too_many(source, tmp_path):
    convert(find_source("fdat"), source, tmp_path / "one")
    catalogs = {name: tmp_path / name for name in ("one", "other")}
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert scale.find_differences(catalogs) == []
    file = tmp_path / "other/lesions/source=fdat/part-0.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (tmp_path / "other/more.parquet").write_bytes(b"")
    assert scale.find_differences(catalogs) == [
        "other: digest", "other: lesions/source=fdat/part-0.parquet", "other: more.parquet",
    ]  # fmt: skip


def test_growth__is_of_every_process():
    way = scale.Way(None, {"convert": scale.Step(1.0, [100, 104, 300], [50, 60]), "clicks": scale.Step()})
    assert scale.growth({"here": way}) == [1.04, 1.2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a cluster warns of while it closes is not ours
def test_main__finds_the_same_bytes_in_all_ways(tmp_path):
    scale.main(["--cases", "40", "--out", str(tmp_path / "scale.md"), "--work", str(tmp_path / "work")])
    page = (tmp_path / "scale.md").read_text()
    assert "there is no difference." in page
    assert all(f"| {way} |" in page for way in scale.WAYS.values())

"""`play_rounds` in Python: cases that are refused, kept predictions, what a part depends on."""

from pathlib import Path

import numpy as np
import pytest

from clicksim import write_image
from clicksim.catalog import Unit
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, SettingError
from clicksim.pipeline import Crew, RoundsRun, play_rounds
from clicksim.pipeline.cases import file_units
from clicksim.pipeline.playing import finish_round_tables, play_unit, rounds_identity
from clicksim.predictors import parse_spec
from tests.test_rounds import BOTH, GRID, lesions, pet

THRESHOLD = parse_spec("builtin:threshold")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    images = {"label": lesions(), "pet": pet(), "ct": pet() - 1000}
    for name, array in images.items():
        write_image(tmp_path / f"{name}.nii.gz", array, GRID)
    write_image(tmp_path / "shifted.nii.gz", pet(), GRID.flip(0))
    return {name: tmp_path / f"{name}.nii.gz" for name in (*images, "shifted")}


def unit(files: dict[str, Path], case_id: str, pet: str = "pet") -> Unit:
    (found,) = file_units([files["label"]], {"pet": files[pet]}, case_id=case_id)
    return found


@pytest.mark.parametrize("protocol", BOTH)
def test_play_unit__refuses_a_case_that_cannot_be_read_and_plays_the_others(files, tmp_path, protocol) -> None:
    cases = [unit(files, "bad", "shifted"), unit(files, "good")]
    units = [Unit("patient", tuple(entry for case in cases for entry in case.content))]
    run = RoundsRun(THRESHOLD, protocol)
    tables = play_unit(run, None, units[0], tmp_path)
    rows = finish_round_tables(run, units, tables)["rounds"].to_pylist()
    lost = [row for row in rows if row["case_id"] == "bad"]
    assert [row["failure"] for row in lost] == ["CaseRefused"] * 6
    assert {row["dice"] for row in lost} == ({0.0} if protocol == "autopet-v@1" else {None})
    assert "different grids" in lost[0]["detail"]
    assert next(row["failure"] for row in rows if row["case_id"] == "good") is None
    dead = rows_to_table("rejected", [{"path": "patient", "code": "WorkerDied", "message": "the process died"}])
    found = finish_round_tables(run, units, tables | {"rejected": dead})["rounds"].to_pylist()
    assert sum(row["failure"] == "WorkerDied" for row in found) == 12


def test_play_rounds__refuses_a_ct_in_the_place_of_the_pet(files) -> None:
    found = play_rounds(RoundsRun(THRESHOLD), [unit(files, "a", "ct")])
    assert [(row["case_id"], row["code"]) for row in found.refused] == [("a", "BadUptake")]
    assert "is this a CT? A PET holds SUV" in found.refused[0]["message"]
    assert found.failed


def test_play_rounds__keeps_the_predictions_of_this_run_alone_and_within_its_folder(files, tmp_path) -> None:
    out = tmp_path / "out"
    for rounds, name, there in ((4, "deep/a", 4), (2, "deep/a", 2), (2, "../a", 0), (2, "/a", 0)):
        run = RoundsRun(THRESHOLD, "autopet-iv@2", settings={"n_rounds": rounds}, keep="predictions")
        found = play_rounds(run, [unit(files, name)], out=out, overwrite=True)
        kept = {str(file.relative_to(out)) for file in tmp_path.rglob("iter_*")}
        assert kept == {f"predictions/deep/a/iter_{n}.nii.gz" for n in range(there)}
        details = {row["detail"] for row in found.rounds.to_pylist()}
        assert details == ({None} if there else {f"case {name!r} cannot be the name of a folder"})
        assert bool(found.refused) == (not there)


def test_play_rounds__refuses_to_read_predictions_where_it_keeps_them(files, tmp_path) -> None:
    (tmp_path / "out/predictions/person").mkdir(parents=True)
    for folder in ("out/predictions", "out/predictions/../predictions/person"):
        with pytest.raises(SettingError, match=r"reads the folder in which .* keeps its predictions"):
            play_rounds(RoundsRun(parse_spec(f"dir:{tmp_path / folder}")), [unit(files, "a")], out=tmp_path / "out")


def test_play_rounds__refuses_several_cases_of_one_name_and_no_case(files, tmp_path) -> None:
    units = [Unit(key, unit(files, "a").content) for key in "xy"]
    with pytest.raises(CatalogError, match=r"several cases are called a, .*use one source at a time"):
        play_rounds(RoundsRun(THRESHOLD), units)


def test_play_rounds__is_bound_to_the_predictions_that_it_reads(files, tmp_path, monkeypatch) -> None:
    """A prediction that changes between a kill and a resume is read again."""
    folder = tmp_path / "masks"
    for name in "ab":
        (folder / name).mkdir(parents=True)
        write_image(folder / name / "iter_0.nii.gz", lesions(), GRID)
    run = RoundsRun(parse_spec(f"dir:{folder}"), settings={"n_rounds": 1})
    units = [unit(files, name) for name in "ab"]
    said: list[str] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clicksim.pipeline.playing.finish_round_tables", interrupt)
        with pytest.raises(KeyboardInterrupt):
            play_rounds(run, units, out=tmp_path / "out")
    write_image(folder / "b" / "iter_0.nii.gz", np.zeros_like(lesions()), GRID)
    found = play_rounds(run, units, out=tmp_path / "out", resume=True, crew=Crew(note=said.append))
    assert [row["dice"] for row in found.rounds.to_pylist()] == [1.0, 0.0]
    assert said == ["done again, because the finished work or its inputs have changed: b"]


def test_rounds_identity__names_what_changes_the_rows_and_nothing_else(files) -> None:
    one = rounds_identity(RoundsRun(THRESHOLD), [unit(files, "a")])
    assert one == rounds_identity(RoundsRun(THRESHOLD, gap=True, keep="predictions"), [unit(files, "a")])
    others = [
        rounds_identity(RoundsRun(THRESHOLD), [unit(files, "b")]),
        rounds_identity(RoundsRun(THRESHOLD), [unit(files, "a", "ct")]),
        rounds_identity(RoundsRun(THRESHOLD, seed=1), [unit(files, "a")]),
        rounds_identity(RoundsRun(parse_spec("builtin:threshold?suv=4")), [unit(files, "a")]),
    ]
    assert one not in others
    assert len({str(other) for other in others}) == 4

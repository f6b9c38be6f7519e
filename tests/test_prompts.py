"""Prompts as records, which follow their image, and as rows."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clicksim
from clicksim.errors import ClicksimError, GeometryError, PromptFormatError, StorageError
from clicksim.geometry import Grid
from clicksim.prompts import Box, Click, Prompts, Scribble
from clicksim.prompts.kinds import kind_of
from clicksim.prompts.records import check_inside
from clicksim.prompts.table import METADATA_KEY, prompt_of, prompt_rows, prompt_schema, to_table, write_prompt_table
from tests import strategies

SHAPE = (6, 7, 8)
GRID = Grid((6, 7, 8), None, np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, -100], [0, 0, 0, 1]]))


def voxels(shape):
    return st.tuples(*[st.integers(0, n - 1) for n in shape])


@st.composite
def marked(draw):
    """Prompts at distinct voxels, and an array in which the nth voxel of them holds n."""
    shape = draw(strategies.shapes())
    places = draw(st.lists(voxels(shape), min_size=1, max_size=6, unique=True))
    array = np.zeros(shape, dtype=np.int64)
    for number, place in enumerate(places, start=1):
        array[place] = number
    items = (Scribble(tuple(places[:2]), True, 1), *(Click(place, False, n) for n, place in enumerate(places[2:])))
    return Prompts(items, Grid.from_spacing(shape, draw(strategies.spacings())), "case"), array


def marks(prompts, array):
    """The marks under all prompt voxels, in order; every voxel must lie inside."""
    check_inside(prompts)
    assert prompts.grid.shape == array.shape
    return [int(array[voxel]) for prompt in prompts for voxel in prompt.voxels]


# prompts follow the image


@given(marked(), st.integers(-3, 2))
def test_flip__moves_prompts_with_the_array(case, axis):
    prompts, array = case
    assert marks(prompts.flip(axis), np.flip(array, axis)) == marks(prompts, array)
    assert prompts.flip(axis).flip(axis) == prompts


@given(marked(), st.permutations([0, 1, 2]))
def test_permute__moves_prompts_with_the_array(case, axes):
    prompts, array = case
    assert marks(prompts.permute(axes), np.transpose(array, axes)) == marks(prompts, array)
    assert prompts.permute(axes).permute(np.argsort(axes)) == prompts


@given(marked(), st.data())
def test_crop__moves_prompts_with_the_array(case, data):
    prompts, array = case
    start = data.draw(voxels(array.shape))
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, array.shape, strict=True)]
    cropped = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    moved = prompts.crop(start, np.subtract(stop, start))
    kept = [mark for mark in marks(prompts, array) if mark in cropped]
    assert marks(moved, cropped) == kept
    assert bool(moved.notes) == (len(kept) < len(marks(prompts, array)))


@given(marked(), st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
def test_crop__with_a_negative_start_pads(case, before, after):
    prompts, array = case
    padded = np.pad(array, list(zip(before, after, strict=True)))
    moved = prompts.crop([-n for n in before], padded.shape)
    assert marks(moved, padded) == marks(prompts, array)
    assert moved.notes == ()


@given(marked(), st.integers(0, 2), st.permutations([0, 1, 2]))
def test_changes__keep_prompts_on_their_mm(case, axis, axes):
    prompts, _ = case
    before = prompts.grid.to_mm(prompts.background)
    for moved in (
        prompts.flip(axis),
        prompts.permute(axes),
        prompts.crop((-2, -2, -2), [n + 4 for n in prompts.grid.shape]),
    ):
        np.testing.assert_allclose(moved.grid.to_mm(moved.background), before, atol=1e-9)


def test_crop__cuts_scribbles_and_boxes_and_says_what_is_gone():
    items = (Scribble(((0, 0, 0), (3, 3, 3)), True), Box((0, 0, 0), (4, 4, 4)), Click((0, 0, 0), False))
    cropped = Prompts(items, GRID, notes=("earlier",)).crop((2, 2, 2), (3, 3, 3))
    assert cropped.items == (Scribble(((1, 1, 1),), True), Box((0, 0, 0), (2, 2, 2)))
    assert cropped.notes == (
        "earlier", "1 of 3 prompts lie outside the crop", "2 of 3 prompts are cut by the crop",
    )  # fmt: skip


def test_flip__keeps_the_corners_of_a_box_in_order():
    box = Prompts((Box((0, 1, 2), (3, 4, 5)),), GRID).flip(0).items[0]
    assert box == Box((2, 1, 2), (5, 4, 5))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.flip(3),
        lambda p: p.permute((0, 1)),
        lambda p: p.crop((0.5, 0, 0), SHAPE),
        lambda p: p.crop((0, 0), SHAPE),
    ],
)
def test_changes__refuse_what_the_grid_refuses(change):
    with pytest.raises(GeometryError):
        change(Prompts((Click((0, 0, 0), True),), GRID))


def test_prompts__give_voxels_by_polarity_in_order():
    prompts = Prompts((Click((1, 2, 3), True), Click((0, 0, 1), False), Scribble(((4, 4, 4), (5, 5, 5)), True)), GRID)
    assert prompts.foreground.tolist() == [[1, 2, 3], [4, 4, 4], [5, 5, 5]]
    assert prompts.background.tolist() == [[0, 0, 1]]
    assert prompts.foreground.dtype == np.int32
    assert Prompts((), GRID).foreground.shape == (0, 3)
    assert [kind_of(prompt) for prompt in prompts] == ["click", "click", "scribble"]
    assert len(prompts) == 3


def test_check_inside__names_what_is_outside():
    check_inside(Prompts((Click((5, 6, 7), True),), GRID))
    with pytest.raises(GeometryError, match=r"1 of 2 prompt voxels .*\(6, 0, 0\).*case x"):
        check_inside(Prompts((Click((6, 0, 0), True), Click((0, 0, 0), False)), GRID), where="case x")


# rows


def example():
    items = (
        Click((1, 2, 3), True, 4),
        Click((2, 2, 3), True, 4, round=1),
        Click((0, 0, 0), False, None, round=1),
        Scribble(((3, 3, 3), (3, 3, 4)), True, 2, round=1),
    )
    return Prompts(items, GRID, "case", "autopet-iv@2", 7, {"fill": "rim", "shell_mm": [5.0, 20.0]})


def test_to_table__has_one_row_per_voxel():
    columns = to_table(example()).to_pydict()
    assert columns["case"] == ["case"] * 5
    assert columns["lesion"] == [4, 4, None, 2, 2]
    assert columns["round"] == [0, 1, 1, 1, 1]
    assert columns["polarity"] == ["foreground", "foreground", "background", "foreground", "foreground"]
    assert columns["kind"] == ["click", "click", "click", "scribble", "scribble"]
    assert columns["stroke"] == [0, 1, 2, 3, 3]
    assert [columns["i"], columns["j"], columns["k"]] == [[1, 2, 0, 3, 3], [2, 2, 0, 3, 3], [3, 3, 0, 3, 4]]
    assert columns["effort_s"] == [None] * 5
    assert set(columns["annotator"]) == {"simulated"}


def test_prompt_of__brings_back_what_to_table_wrote():
    prompts = Prompts((*example().items, Box((0, 1, 2), (3, 4, 5), False, 7, 2), Scribble(((1, 1, 1),), True)), GRID)
    strokes = {}
    for row in prompt_rows(to_table(prompts)):
        strokes.setdefault(row["stroke"], []).append(row)
    assert tuple(map(prompt_of, strokes.values())) == prompts.items


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("polarity", "Foreground", "the polarity of a prompt is foreground or background, got 'Foreground' in case c"),
        ("kind", "tap", "the kind of a prompt is click or scribble or box, got 'tap'"),
        ("i", None, "are whole numbers, got i None"),
        ("k", 1.5, "are whole numbers, got k 1.5"),
        ("round", -1, "rounds count from 0, got -1"),
        ("j", ..., "missing: j"),
    ],
)
def test_prompt_rows__refuses_what_is_no_prompt(column, value, words):
    row = {"case": "c", "round": 0, "polarity": "foreground", "kind": "click", "stroke": 0, "i": 1, "j": 2, "k": 3}
    assert prompt_rows(pa.Table.from_pylist([row])) == [row]
    spoiled = {k: v for k, v in (row | {column: value}).items() if v is not ...}
    with pytest.raises(PromptFormatError, match=f"{words}.*here"):
        prompt_rows(pa.Table.from_pylist([spoiled]), where="here")


def test_to_table__counts_the_order_within_polarity_and_round():
    assert to_table(example()).column("order").to_pylist() == [0, 0, 0, 1, 2]


def test_to_table__gives_the_millimetres_of_the_grid():
    table = to_table(example())
    mm = np.stack([table.column(name).to_numpy() for name in "xyz"], axis=1)
    index = np.stack([table.column(name).to_numpy() for name in "ijk"], axis=1)
    np.testing.assert_array_equal(mm, GRID.to_mm(index))
    assert mm[0].tolist() == [38, -26, -91]


def test_to_table__leaves_millimetres_empty_where_only_voxels_are_known():
    table = to_table(Prompts((Click((1, 2, 3), True),), Grid(SHAPE)))
    assert [table.column(name).to_pylist() for name in "xyz"] == [[None]] * 3
    assert table.column("k").to_pylist() == [3]


def test_to_table__of_no_prompts_has_the_same_columns():
    empty, full = to_table(Prompts((), GRID)), to_table(example())
    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema)


def test_to_table__keeps_what_the_set_shares_in_the_metadata():
    about = json.loads(to_table(example()).schema.metadata[METADATA_KEY])
    assert about == {
        "version": clicksim.__version__,
        "protocol": "autopet-iv@2",
        "seed": 7,
        "settings": {"fill": "rim", "shell_mm": [5.0, 20.0]},
    }


def test_prompt_schema__says_what_each_column_means():
    schema = prompt_schema()
    prompt = ["case", "lesion", "round", "order", "polarity", "kind", "stroke", "annotator"]
    assert schema.names == [*prompt, "i", "j", "k", "x", "y", "z", "effort_s"]
    assert all(field.metadata[b"meaning"] for field in schema)
    assert {schema.field(name).type for name in "ijk"} == {pa.int32()}
    assert {schema.field(name).type for name in "xyz"} == {pa.float64()}


def test_write_table__comes_back_equal_with_its_metadata(tmp_path):
    target = tmp_path / "new" / "clicks.parquet"
    write_prompt_table(target, to_table(example()))
    back = pq.read_table(target)
    assert back.equals(to_table(example()))
    assert back.schema.metadata[METADATA_KEY] == to_table(example()).schema.metadata[METADATA_KEY]
    assert [path.name for path in target.parent.iterdir()] == ["clicks.parquet"]


def test_write_table__gives_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        write_prompt_table(tmp_path / name, to_table(example()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_table__refuses_in_one_sentence_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(PromptFormatError, match=r"cannot write .*folder: "):
        write_prompt_table(tmp_path / "folder", to_table(example()))
    with pytest.raises(ClicksimError, match=r"cannot make the folder .*file: "):
        write_prompt_table(tmp_path / "file" / "x.parquet", to_table(example()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_write_table__leaves_the_old_file_where_the_new_one_fails(tmp_path, monkeypatch):
    target = tmp_path / "clicks.parquet"
    write_prompt_table(target, to_table(example()))
    old = target.read_bytes()

    def full(table, where, **_):
        Path(where).write_bytes(b"half a table")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        write_prompt_table(target, to_table(Prompts((), GRID)))
    assert target.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1

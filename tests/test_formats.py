"""The JSON files of the field: the published ones byte for byte, round trips, and one spoiled text per refusal."""

import contextlib
import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim.errors import ClicksimError, GeometryError, PromptFormatError, SettingError
from clicksim.files import PROMPT_ENDINGS
from clicksim.geometry import Grid
from clicksim.prompts.formats import LesionPoint, dump_lesion_points, dump_prompts, load_lesion_points
from clicksim.prompts.kinds import Box, Click, Scribble
from clicksim.prompts.prompt_files import read_prompts, write_prompts
from clicksim.prompts.records import Prompts

GRID = Grid((10, 20, 30))
PLAIN = '{"tumor": [[1, 2, 3], [4, 5, 6]], "background": [[9, 19, 29]]}'
CHALLENGE = (
    '{"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": ['
    '{"point": [1, 2, 3], "name": "tumor"}, {"point": [4, 5, 6], "name": "tumor"}, '
    '{"point": [9, 19, 29], "name": "background"}]}'
)
CLICKS = (Click((1, 2, 3), True), Click((4, 5, 6), True), Click((9, 19, 29), False))

voxels = st.tuples(st.integers(0, 9), st.integers(0, 19), st.integers(0, 29))
clicks = st.builds(Click, voxels, st.booleans())


def challenge(*points: str, head: str = '"type": "Multiple points"') -> str:
    return f'{{{head}, "points": [{", ".join(points)}]}}'


# writing and reading


@pytest.mark.parametrize(("format", "text"), [("plain", PLAIN), ("grand-challenge", CHALLENGE)])
def test_dump_prompts__writes_the_published_layout(format: str, text: str) -> None:
    assert dump_prompts(Prompts(CLICKS, GRID), format) == text


@pytest.mark.parametrize("text", [PLAIN, CHALLENGE])
def test_from_json__knows_both_formats(text: str) -> None:
    prompts = Prompts.from_json(text, GRID, case_id="case_1")
    assert prompts.items == CLICKS
    assert (prompts.case_id, prompts.annotator, prompts.notes) == ("case_1", "file", ())
    assert prompts.grid is GRID


@given(st.lists(clicks, max_size=20), st.sampled_from(["plain", "grand-challenge"]), st.sampled_from([None, 4]))
def test_from_json__undoes_dump_prompts(items: list[Click], format: str, indent: int | None) -> None:
    prompts = Prompts(tuple(items), GRID)
    back = Prompts.from_json(dump_prompts(prompts, format, indent=indent), GRID)
    assert np.array_equal(back.foreground, prompts.foreground)
    assert np.array_equal(back.background, prompts.background)
    assert sorted(map(str, back.items)) == sorted(map(str, items))


def test_dump_prompts__puts_foreground_first_and_a_stroke_as_its_voxels() -> None:
    items = (Click((0, 0, 0), False), Scribble(((2, 0, 0), (1, 0, 0)), True), Click((3, 0, 0), True))
    text = dump_prompts(Prompts(items, GRID))
    assert text == '{"tumor": [[2, 0, 0], [1, 0, 0], [3, 0, 0]], "background": [[0, 0, 0]]}'


def test_dump_prompts__writes_empty_lists_for_no_prompts() -> None:
    nothing = Prompts((), GRID)
    assert dump_prompts(nothing) == '{"tumor": [], "background": []}'
    assert json.loads(dump_prompts(nothing, "grand-challenge"))["points"] == []


def test_dump_prompts__indents_as_the_files_of_each_round_do() -> None:
    text = dump_prompts(Prompts(CLICKS[:1], GRID), indent=4)
    assert text.startswith('{\n    "tumor": [\n        [\n            1,\n')
    assert Prompts.from_json(text, GRID).items == CLICKS[:1]


def test_dump_prompts__refuses_an_unknown_format_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'plain'"):
        dump_prompts(Prompts((), GRID), "plane")


def test_dump_prompts__refuses_boxes() -> None:
    with pytest.raises(PromptFormatError, match=r"1 of 2 prompts are boxes.*\(case a\)"):
        dump_prompts(Prompts((CLICKS[0], Box((0, 0, 0), (1, 1, 1))), GRID, case_id="a"))


def test_prompts_json__goes_through_here() -> None:
    prompts = Prompts(CLICKS, GRID)
    assert prompts.to_json() == PLAIN
    assert prompts.to_json("grand-challenge") == CHALLENGE
    assert Prompts.from_json(CHALLENGE, GRID, case_id="a").items == CLICKS
    with pytest.raises(PromptFormatError, match=r"\(here\)"):
        Prompts.from_json("[", GRID, where="here")


@pytest.mark.parametrize(
    "text",
    [
        '{"tumor": []}',
        '{"background": []}',
        '{"type": "Multiple points"}',
        '{"version": {"major": 1, "minor": 0}, "points": []}',
        '{"name": "Points of interest", "type": "Multiple points", "points": []}',
    ],
)
def test_from_json__takes_a_missing_list_for_an_empty_one(text: str) -> None:
    assert len(Prompts.from_json(text, GRID)) == 0


def test_from_json__takes_whole_numbers_written_as_floats() -> None:
    prompts = Prompts.from_json('{"tumor": [[1.0, 2, 3e0]], "background": []}', GRID)
    assert prompts.items == CLICKS[:1]
    assert all(type(v) is int for v in prompts.items[0].voxels[0])


def test_from_json__keeps_the_order_of_a_challenge_file() -> None:
    text = challenge('{"point": [1, 1, 1], "name": "background"}', '{"point": [2, 2, 2], "name": "tumor"}')
    assert [c.foreground for c in Prompts.from_json(text, GRID)] == [False, True]


@pytest.mark.parametrize("name", ["Tumor", "lesion", "tumor ", ""])
def test_from_json__refuses_other_names_or_notes_them(name: str) -> None:
    text = challenge('{"point": [1, 2, 3], "name": "tumor"}', json.dumps({"point": [0, 0, 0], "name": name}))
    with pytest.raises(PromptFormatError, match="allowed: tumor, background"):
        Prompts.from_json(text, GRID)
    lax = Prompts.from_json(text, GRID, strict=False)
    assert lax.items == CLICKS[:1]
    assert lax.notes == (f"1 prompts named {name!r} were left out",)


def test_from_json__refuses_foreign_keys_of_a_plain_file_or_notes_them() -> None:
    text = '{"tumor": [[1, 2, 3]], "lesion": [[0, 0, 0]]}'
    with pytest.raises(PromptFormatError, match="'lesion'"):
        Prompts.from_json(text, GRID)
    assert Prompts.from_json(text, GRID, strict=False).items == CLICKS[:1]


def test_from_json__says_where_in_the_file_a_bad_point_stands() -> None:
    with pytest.raises(PromptFormatError, match=r"background\[1\] = \[1, 2\], counted from 0"):
        Prompts.from_json('{"tumor": [[1, 2, 3]], "background": [[1, 2, 3], [1, 2]]}', GRID)
    text = challenge('{"point": [1, 2, 3], "name": "other"}', '{"point": [1, 2], "name": "tumor"}')
    with pytest.raises(PromptFormatError, match=r"points\[1\] = \[1, 2\]"):  # the one left out counts
        Prompts.from_json(text, GRID, strict=False)


SPOILED = {
    "empty": ("", "the file is empty"),
    "blank": (" \n", "the file is empty"),
    "bad JSON": ('{"tumor": [],\n "background" []}', "not JSON.* line 2, column 15"),
    "no object": ("[[1, 2, 3]]", "got a list"),
    "no known key": ('{"clicks": []}', "match neither of the formats, got 'clicks'"),
    "no key": ("{}", "got none; allowed: tumor and background"),
    "both formats": ('{"tumor": [], "points": []}', "match both of the formats, got 'tumor', 'points'"),
    "repeated key": ('{"tumor": [[1, 2, 3]], "tumor": []}', "repeated keys: 'tumor'"),
    "repeated inner key": (
        challenge('{"point": [1, 2, 3], "name": "tumor", "name": "background"}'),
        "repeated",
    ),
    "no list": ('{"tumor": {"0": [1, 2, 3]}}', "'tumor' must be a list"),
    "points no list": ('{"type": "Multiple points", "points": 3}', "'points' must be a list"),
    "point no object": (challenge("[1, 2, 3]"), r"points\[0\] must be an object"),
    "point without name": (challenge('{"point": [1, 2, 3]}'), r"points\[0\] must be an object"),
    "point without place": (challenge('{"name": "tumor"}'), r"points\[0\] must be an object"),
    "name no text": (challenge('{"point": [1, 2, 3], "name": null}'), r"points\[0\]"),
    "other type": ('{"type": "Multiple lines", "points": []}', "type is 'Multiple lines'"),
    "other version": (challenge(head='"version": {"major": 2}'), "known: major 1"),
    "two coordinates": ('{"tumor": [[1, 2, 3], [1, 2]]}', r"tumor\[1\] = \[1, 2\]"),
    "four coordinates": ('{"tumor": [[1, 2, 3, 4]]}', "three whole numbers"),
    "many coordinates": (json.dumps({"tumor": [[1] * 5000]}), "three whole numbers"),
    "no coordinates": ('{"tumor": [1, 2, 3]}', r"tumor\[0\] = 1, tumor\[1\] = 2"),
    "fraction": ('{"tumor": [[1.5, 2, 3]]}', r"\[1.5, 2, 3\]"),
    "text": ('{"tumor": [["1", 2, 3]]}', "three whole numbers"),
    "truth value": ('{"tumor": [[true, 2, 3]]}', "True"),
    "null": ('{"tumor": [[null, 2, 3]]}', "None"),
    "NaN": ('{"tumor": [[NaN, 2, 3]]}', "NaN is not a coordinate"),
    "Infinity": ('{"tumor": [[-Infinity, 2, 3]]}', "-Infinity is not a coordinate"),
    "overflow": ('{"tumor": [[1e999, 2, 3]]}', "inf"),
    "long number": ('{"tumor": [[1' + "0" * 400 + ", 2, 3]]}", "three whole numbers"),
    "very long number": ('{"tumor": [[1' + "0" * 5000 + ", 2, 3]]}", "not a prompt file"),
    "deep nesting": ('{"tumor": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "some nesting": ('{"tumor": ' + "[" * 300 + "]" * 300 + "}", "three whole numbers"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_from_json__refuses(spoiled: str) -> None:
    text, reason = SPOILED[spoiled]
    with pytest.raises(PromptFormatError, match=reason) as caught:
        Prompts.from_json(text, GRID, where="some/file.json")
    assert str(caught.value).endswith("(some/file.json)")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("point", [[10, 0, 0], [0, -1, 0], [0, 0, 30], [0, 0, 2**31], [-(10**20), 0, 0]])
def test_from_json__refuses_points_outside_the_volume(point: list[int]) -> None:
    with pytest.raises(GeometryError, match=r"outside the volume.*\(f.json\)"):
        Prompts.from_json(json.dumps({"tumor": [[1, 2, 3], point]}), GRID, where="f.json")


keys = st.sampled_from(["tumor", "background", "points", "point", "name", "type"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(keys, t, max_size=3))


@given(trees)
def test_from_json__reads_or_refuses_any_json(tree: object) -> None:
    with contextlib.suppress(ClicksimError):
        Prompts.from_json(json.dumps(tree), GRID)
    with contextlib.suppress(ClicksimError):
        load_lesion_points(json.dumps(tree))


# files


@pytest.mark.parametrize("format", ["plain", "grand-challenge"])
def test_write_prompts__is_read_back(tmp_path: Path, format: str) -> None:
    file = tmp_path / "fdg_1  a.b_clicks.json"
    write_prompts(file, Prompts((), GRID), format)
    write_prompts(file, Prompts(CLICKS, GRID), format)
    assert file.read_text() == dump_prompts(Prompts(CLICKS, GRID), format)
    assert read_prompts(file, GRID, case_id="a").items == CLICKS
    assert list(tmp_path.iterdir()) == [file]


def test_write_prompts__leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(PromptFormatError, match=r"cannot write .*a\.json: "):
        write_prompts(tmp_path / "a.json", Prompts(CLICKS, GRID))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_write_prompts__makes_the_folder_and_refuses_one_below_a_file(tmp_path: Path) -> None:
    write_prompts(tmp_path / "new" / "er" / "b.json", Prompts(CLICKS, GRID))
    assert [p.name for p in (tmp_path / "new" / "er").iterdir()] == ["b.json"]
    with pytest.raises(ClicksimError, match=r"cannot make the folder .*b\.json: "):
        write_prompts(tmp_path / "new" / "er" / "b.json" / "c.json", Prompts(CLICKS, GRID))


def test_dump_prompts__knows_the_layouts_that_the_commands_offer() -> None:
    for layout in PROMPT_ENDINGS.keys() - {"rows"}:
        assert json.loads(dump_prompts(Prompts(CLICKS, GRID), layout))
    with pytest.raises(SettingError, match=f"Allowed: {', '.join(sorted(PROMPT_ENDINGS.keys() - {'rows'}))}$"):
        dump_prompts(Prompts(CLICKS, GRID), "rows")


def test_read_prompts__skips_a_byte_order_mark_and_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert read_prompts(file, GRID).items == CLICKS
    file.write_bytes(b'{"tumor": "\xff"}')
    with pytest.raises(PromptFormatError, match=r"not UTF-8 \(.*a\.json\)"):
        read_prompts(file, GRID)
    with pytest.raises(PromptFormatError, match=r"No such file.*b\.json"):
        read_prompts(tmp_path / "b.json", GRID)


# lesion points


def lesions(*names: str, point: object = (1.5, 2.5, 3.5)) -> str:
    return challenge(*(json.dumps({"name": name, "point": point}) for name in names))


def test_lesion_point__takes_off_the_half_voxel() -> None:
    lesion = LesionPoint(7, "Lesion 7", (1.5, 2.75, 0.0))
    assert lesion.index == (1.0, 2.25, -0.5)
    assert lesion.voxel == (1, 2, 0)
    assert LesionPoint(7, "7", (2.75, 1.5, 3.75)).voxel == (2, 1, 3)


def test_load_lesion_points__takes_the_last_word_of_the_name() -> None:
    points = load_lesion_points(lesions("7", "Lesion 12", "a b  003"))
    assert [p.lesion_id for p in points] == [7, 12, 3]
    assert points[0].point == (1.5, 2.5, 3.5)


def test_load_lesion_points__tells_an_empty_list_from_an_empty_file() -> None:
    assert load_lesion_points(lesions()) == []
    with pytest.raises(PromptFormatError, match=r"the file is empty.*\(f\)"):
        load_lesion_points("", where="f")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lesions("Lesion"), "must end with its number"),
        (lesions(""), "must end with its number"),
        (lesions("0"), "from 1"),
        (lesions("-3"), "from 1"),
        (lesions("1_0"), "from 1"),
        (lesions("0" * 5000 + "1"), "from 1"),
        (lesions("1", "Lesion 1", "2"), "more than one point: 1 "),
        (lesions("1", point=[1.0, 2.0]), r"points\[0\] = \[1.0, 2.0\]"),
        (lesions("1", point=[1.0, 2.0, True]), "three finite numbers"),
        (lesions("1", point=[1.0, 2.0, "3"]), "three finite numbers"),
        (lesions("1", point=[1.0, 2.0, float("nan")]), "NaN is not a coordinate"),
        ('{"points": [{"name": "1", "point": [1e999, 0, 0]}]}', "three finite numbers"),
    ],
)
def test_load_lesion_points__refuses(text: str, reason: str) -> None:
    with pytest.raises(PromptFormatError, match=reason) as caught:
        load_lesion_points(text, where="some/file.json")
    assert str(caught.value).endswith("(some/file.json)")


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.integers(1, 999_999_999), st.tuples(finite, finite, finite), max_size=8))
def test_dump_lesion_points__is_read_back(points: dict[int, tuple[float, float, float]]) -> None:
    lesion_points = [LesionPoint(number, f"Lesion {number}", point) for number, point in points.items()]
    assert load_lesion_points(dump_lesion_points(lesion_points)) == lesion_points


# the published files


@pytest.fixture(scope="module")
def shapes(realdata: Path) -> dict[str, tuple[int, int, int]]:
    with (realdata / "autopet" / "cases_1611.csv").open(newline="") as table:
        return {r["case_id"]: (int(r["nx"]), int(r["ny"]), int(r["nz"])) for r in csv.DictReader(table)}


def published(realdata: Path, archive: str, ending: str) -> dict[str, str]:
    with zipfile.ZipFile(realdata / "autopet" / archive) as files:
        return {n.removesuffix(ending): files.read(n).decode() for n in files.namelist() if n.endswith(ending)}


@pytest.mark.real
@pytest.mark.parametrize(
    ("archive", "ending", "format"),
    [
        ("all_Autopet_III_clicks.zip", "_clicks.json", "plain"),
        ("all_Autopet_III_clicks_gc.zip", "_clicks.json", "grand-challenge"),
        ("lesion-scribbles.zip", "_lesion-clicks.json", "grand-challenge"),
    ],
)
def test_from_json__gives_back_all_published_files_byte_for_byte(
    realdata: Path, shapes: dict[str, tuple[int, int, int]], archive: str, ending: str, format: str
) -> None:
    texts = published(realdata, archive, ending)
    assert texts.keys() == shapes.keys()
    assert len(texts) == 1611
    without_foreground = 0
    for case, text in texts.items():
        prompts = Prompts.from_json(text, Grid(shapes[case]), case_id=case, where=case)
        assert dump_prompts(prompts, format) == text
        without_foreground += len(prompts.foreground) == 0
    assert without_foreground == 573


@pytest.mark.real
def test_from_json__reads_the_same_clicks_from_both_published_forms(
    realdata: Path, shapes: dict[str, tuple[int, int, int]]
) -> None:
    plain = published(realdata, "all_Autopet_III_clicks.zip", "_clicks.json")
    both = published(realdata, "all_Autopet_III_clicks_gc.zip", "_clicks.json")
    for case, shape in shapes.items():
        prompts = Prompts.from_json(plain[case], Grid(shape))
        assert prompts.items == Prompts.from_json(both[case], Grid(shape)).items
        assert dump_prompts(prompts, "grand-challenge") == both[case]


@pytest.mark.real
@pytest.mark.parametrize("time_point", ["baseline", "followup"])
def test_load_lesion_points__gives_back_the_published_files_byte_for_byte(realdata: Path, time_point: str) -> None:
    text = (realdata / "longitudinal_ct" / f"primary-{time_point}-lesion-clicks.json").read_bytes().decode()
    points = load_lesion_points(text)
    assert [p.lesion_id for p in points] == list(range(1, 11))
    assert dump_lesion_points(points) == text

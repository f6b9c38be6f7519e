import base64
import hashlib
import html
import io
import json
import re
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clicksim.catalog import Catalog, open_catalog
from clicksim.catalog.schema import TABLES, rows_to_table
from clicksim.errors import CatalogError, GeometryError
from clicksim.findings import Finding
from clicksim.geometry import Grid
from clicksim.pipeline import Crew, report
from clicksim.prompts.table import METADATA_KEY
from clicksim.report.catalog import as_json, select_cases, write_report
from clicksim.report.figures import AGES, LESIONS, VOLUMES_ML, by_range, by_word, fold_balance, make_scale
from clicksim.report.privacy import release_cases, show_scanner
from clicksim.report.thumbnails import HIDDEN_GREY, _trace, cut_head, draw_case, draw_thumbnail
from tests import commands
from tests.report_catalog import GRID, make_catalog, plain_case, write_rounds

PATIENT = "DOE^JOHN"
EVIL = "</script><img src=x onerror=\"document.title='gone'\">"
TURNS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def page_data(page: Path) -> dict[str, Any]:
    """The data that the page carries for its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def page_pictures(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    return [json.loads(t) for t in re.findall(r'<script type="application/json" id="picture-\d+">(.*?)</script>', text)]


def column(data: dict[str, Any], name: str) -> list[Any]:
    return [row[data["columns"].index(name)] for row in data["cases"]]


def turned_grid(axes: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> Grid:
    """Stored axis n runs along world axis `axes[n]`, up or down; 30 voxels of 20 mm along the body."""
    shape, affine = [0, 0, 0], np.eye(4)
    affine[:3, :3] = 0
    for stored, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, stored] = sign * (25.0, 25.0, 20.0)[world]
        shape[stored] = (10, 11, 30)[world]
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine = turn @ affine
    affine[:3, 3] = (-70, 110, 35)
    return Grid((shape[0], shape[1], shape[2]), affine=affine)


# --- the head ----------------------------------------------------------------------------------------------


@given(st.sampled_from(TURNS), st.sampled_from([0.0, 0.3, -0.2]))
def test_cut_head__cuts_what_reaches_into_the_top_250_mm_and_nothing_else(turn: Any, tilt: float) -> None:
    grid = turned_grid(*turn, tilt)
    kept = cut_head(np.ones(grid.shape, np.float32), grid)
    assert grid.affine is not None
    corners = np.array(list(product((-0.5, 0.5), repeat=3)))
    voxels = np.argwhere(np.ones(grid.shape))
    upper = np.array([grid.to_mm(voxel + corners)[:, 2].max() for voxel in voxels])
    below = upper <= upper.max() - 250 + 1e-6
    assert 0 < below.sum() < below.size
    assert np.array_equal(kept[tuple(voxels.T)] > 0, below)


def test_cut_head__without_a_direction_is_refused() -> None:
    with pytest.raises(GeometryError, match="which way is up is unknown"):
        cut_head(np.ones((9, 9, 90)), Grid((9, 9, 90), (4, 4, 4)))


def test_cut_head__leaves_its_input_alone() -> None:
    volume = np.ones(GRID.shape, np.uint8)
    cut_head(volume, GRID)
    assert volume.all()


@pytest.mark.parametrize("turn", TURNS)
def test_draw_thumbnail__a_hidden_head_is_in_no_picture_outline_or_prompt(turn: Any) -> None:
    grid = turned_grid(*turn)
    uptake, label = np.full(grid.shape, 1.1, np.float32), np.zeros(grid.shape, np.uint8)
    heights = np.array([grid.to_mm([voxel])[0, 2] for voxel in np.ndindex(grid.shape)]).reshape(grid.shape)
    head = heights > heights.max() - 200
    uptake[head], label[head] = 30, 1
    top, low = (tuple(np.argwhere(heights == edge)[0].tolist()) for edge in (heights.max(), heights.min()))
    strokes = {0: [{"foreground": True, "kind": "click", "voxels": [voxel]} for voxel in (top, low)]}
    hidden = draw_thumbnail(uptake, label, strokes, grid=grid, hide_head=True)
    shown = draw_thumbnail(uptake, label, strokes, grid=grid, hide_head=False)
    darkest = [np.asarray(Image.open(io.BytesIO(drawn.webp)).convert("L")).min() for drawn in (hidden, shown)]
    assert darkest[0] > HIDDEN_GREY - 12
    assert darkest[1] < 40
    assert [panel["outline"] for panel in hidden.overlay["panels"]] == ["", ""]
    assert all(panel["outline"] for panel in shown.overlay["panels"])
    assert [stroke[2] for stroke in hidden.overlay["runs"][0]] == [2]
    assert hidden.overlay["left"] == {0: 1}
    assert [stroke[2] for stroke in shown.overlay["runs"][0]] == [1, 2]


def test_draw_thumbnail__without_a_direction_or_below_250_mm_there_is_no_picture() -> None:
    for grid in (Grid((9, 9, 90), (4, 4, 4)), Grid((9, 9, 9), affine=np.diag([4.0, 4, 20, 1]))):
        drawn = draw_thumbnail(np.ones(grid.shape), None, {}, grid=grid, hide_head=True)
        assert drawn.webp == b""
        assert "250 mm" in drawn.overlay["note"]
        assert draw_thumbnail(np.ones(grid.shape), None, {}, grid=grid, hide_head=False).webp


@pytest.mark.parametrize(
    ("defaced", "show_head", "hidden"),
    [(None, False, True), (False, False, True), (True, False, False), (None, True, False)],
)
def test_draw_case__only_a_defaced_head_is_shown_unasked(
    tmp_path: Path, defaced: bool | None, show_head: bool, hidden: bool
) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{"defaced": defaced}])
    row = {**catalog.cases.to_pylist()[0], "strokes": {}, "more_runs": 0}
    assert draw_case(catalog, row, show_head=show_head).overlay["hidden"] is hidden


# --- pictures ----------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_trace__has_every_edge_between_inside_and_outside_once(rows: int, columns: int, random: Any) -> None:
    mask = np.array([[random.random() < 0.5 for _ in range(columns)] for _ in range(rows)])
    path, step = _trace(mask)
    edges = []
    for x, y, way, count in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path):
        for n in range(int(count)):
            edges.append((int(x) + n * (way == "h"), int(y) + n * (way == "v"), way))
    padded = np.pad(mask, 1)
    expected = [
        (x, y, "h") for y in range(rows + 1) for x in range(columns) if padded[y + 1, x + 1] != padded[y, x + 1]
    ]
    expected += [
        (x, y, "v") for y in range(rows) for x in range(columns + 1) if padded[y + 1, x + 1] != padded[y + 1, x]
    ]
    assert sorted(edges) == sorted(expected)
    assert step == 1


def test_trace__of_a_mask_with_very_many_edges_is_coarser_and_short() -> None:
    board = np.random.default_rng(0).random((300, 301)) < 0.5
    path, step = _trace(board)
    assert step > 1
    assert 0 < len(path) <= 12_000


def test_draw_thumbnail__a_click_lies_on_the_lesion_that_it_is_in() -> None:
    grid = Grid((60, 50, 24), affine=np.diag([-10.0, 10.0, 40.0, 1.0]))
    uptake, label = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    uptake[20:30, 25:33] = 1  # a narrow body: the air beside it is not drawn
    label[23, 28, 5] = 1
    strokes = {0: [{"foreground": True, "kind": "click", "voxels": [(23, 28, 5)]}]}
    overlay = draw_thumbnail(uptake, label, strokes, grid=grid, hide_head=False).overlay
    for panel, (x, y) in zip(overlay["panels"], overlay["runs"][0][0][3:], strict=True):
        left, upper = (int(n) for n in re.findall(r"M(\d+) (\d+)h1", panel["outline"])[0])
        ux, uy = panel["unit"]
        assert x == pytest.approx(panel["x"] + (left + 0.5) * ux, abs=0.2)
        assert y == pytest.approx((upper + 0.5) * uy, abs=0.2)


# --- privacy -----------------------------------------------------------------------------------------------


def planted_rows(name: str, *, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """A name in every text column of a case, alone and within other words."""
    row: dict[str, Any] = {}
    for entry in TABLES["cases"]:
        if entry.name not in keep and entry.kind in ("text", "word"):
            row[entry.name] = name
        elif entry.kind == "texts":
            row[entry.name] = [name]
    return row


def plant(folder: Path, *, keep: tuple[str, ...]) -> Catalog:
    """A catalog with a patient's name wherever a table takes text, and in the names of its files."""
    catalog = make_catalog(folder, [{}, {}, {}])
    for kind in ("pet", "label"):
        (folder / f"images/{kind}.nii.gz").rename(folder / f"images/{PATIENT}_{kind}.nii.gz")
    files = {f"{kind}_path": f"catalog:images/{PATIENT}_{kind}.nii.gz" for kind in ("pet", "label")}
    planted = planted_rows(PATIENT, keep=(*keep, "pet_path", "label_path", "instances"))
    rows = [
        {**plain_case(0), **planted, **files},
        {**plain_case(1), **planted_rows(f"Biograph 64 {PATIENT}", keep=(*keep, "instances"))},
        {**plain_case(2), **planted_rows(f"catalog:images/{PATIENT}", keep=(*keep, "instances")), "official_fold": 1},
    ]
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    for table in ("lesions", "links", "rejected", "rounds"):
        row = {entry.name: PATIENT for entry in TABLES[table] if entry.kind in ("text", "word")}
        row |= {"case_id": rows[0]["case_id"], "lesion_index": 1, "round": 0} if table in ("lesions", "rounds") else {}
        row = {key: value for key, value in row.items() if key in {entry.name for entry in TABLES[table]}}
        catalog.write_part(table, "fdat", rows_to_table(table, [row]))
    return catalog


@pytest.mark.parametrize("public", [True, False])
def test_report__a_planted_patient_name_reaches_no_output(tmp_path: Path, public: bool) -> None:
    keep = () if public else ("case_id", "paired_case_id")  # names of cases are what a page of one's own is for
    plant(tmp_path / "catalog", keep=keep)
    page = report(tmp_path / "catalog", tmp_path / "page.html", public=public, show_head=True)
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "DOE" not in text
    assert "JOHN" not in text
    assert len(page_data(page)["cases"]) == 3


def test_report__a_public_page_has_no_uid_date_path_or_name(tmp_path: Path) -> None:
    uid, day = "1.3.6.1.4.1.14519.5.2.1.4219.6651", "2017-03-10"
    rows = [
        {
            "case_id": f"psma_abcdef_{day}",
            "pt_series_uid": uid,
            "study_key": f"abcdef {day}",
            "paired_case_id": "case001",
        },
        {"case_id": f"fdg_{uid}", "patient_key": "fdat/abcdef", "study_date_raw": day},
    ]
    catalog = make_catalog(tmp_path / "catalog", rows)
    write_rounds(catalog, f"network-{day}", [f"fdg_{uid}"], annotator="Jane Roe")
    for public in (True, False):
        page = report(catalog.path, tmp_path / f"{public}.html", public=public)
        text = page.read_text(encoding="utf-8")
        secrets = [uid, day, str(tmp_path), "images/pet", "abcdef", f"network-{day}"]
        assert [secret in text for secret in secrets] == (
            [False] * 6 if public else [True, True, False, False, True, True]
        )
        assert "Roe" not in text
        data = page_data(page)
        assert column(data, "date") == ([None, None] if public else [day, day])
        assert data["rounds"][0]["name"] == ("run 1" if public else f"network-{day}") + ", annotator 1"
    assert re.fullmatch(r"fdat \d{4}", column(page_data(tmp_path / "True.html"), "name")[0])


def test_release_cases__ages_over_89_are_binned_in_public_only(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{"age_years": age} for age in (89.9, 90.0, 101.5, None)])
    ages = {public: sorted(str(row["age"]) for row in release_cases(catalog, public=public).rows) for public in (1, 0)}
    assert ages == {1: ["89.0", "90.0", "90.0", "None"], 0: ["101.5", "89.9", "90.0", "None"]}


def test_release_cases__numbers_tell_nothing_of_the_order_and_pairs_stay_together(tmp_path: Path) -> None:
    rows = [
        {"case_id": f"a{n:02d}", "paired_case_id": f"a{n ^ 1:02d}", "patient_key": f"fdat/{n // 2}"} for n in range(20)
    ]
    found = release_cases(make_catalog(tmp_path / "catalog", rows), public=True).rows
    by_id = {row["key"][1]: row for row in found}
    names = [by_id[f"a{n:02d}"]["name"] for n in range(20)]
    assert sorted(names) == [f"fdat {n:04d}" for n in range(1, 21)]
    assert names != sorted(names)
    for n in range(20):
        assert by_id[f"a{n:02d}"]["pair"] == names[n ^ 1]
        assert by_id[f"a{n:02d}"]["patient"] == by_id[f"a{n ^ 1:02d}"]["patient"]


@pytest.mark.parametrize(
    "model", ["Biograph 64-4R TruePoint", "Discovery 690", "Biograph128_mCT", "GEMINI TF", "uMI 780"]
)
def test_show_scanner__models_are_shown_and_names_are_not(model: str) -> None:
    assert show_scanner(model) == model
    assert show_scanner(f"{model} Doe") == "other"
    assert show_scanner(" ") is None


def test_write_report__findings_lose_their_details_in_public_and_hidden_texts_always(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{"patient_key": "fdat/secret"}, {}])
    findings = [
        Finding("error", "split", ("case000", "case001"), "patient fdat/secret is in folds 0 and 1"),
        Finding("x", "y", ("nowhere",), ""),
    ]
    for public in (False, True):
        page = write_report(tmp_path / "page.html", select_cases(catalog, public=public), {}, findings)
        text = page.read_text(encoding="utf-8")
        assert "secret" not in text
        assert ("is in folds 0 and 1" in text) is not public
        assert "nowhere" not in text
        assert len(page_data(page)["findings"]) == 2


# --- the page ----------------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_as_json__gives_back_what_went_in_and_cannot_end_a_script(content: Any) -> None:
    text = as_json({"a": content, "b": EVIL, "c": "<!--\u2028"})
    assert json.loads(text) == {"a": content, "b": EVIL, "c": "<!--\u2028"}
    assert not set(text) & set("<>&\u2028\u2029")


def test_as_json__refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json([float("nan")])


def test_write_report__a_name_is_text_and_never_markup(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{"case_id": EVIL}])
    findings = [Finding("error", EVIL, (EVIL,), EVIL)]
    page = write_report(tmp_path / "page.html", select_cases(catalog), {}, findings, title=EVIL)
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == 3  # data, one picture, the script
    assert column(page_data(page), "name") == [EVIL]


def test_write_report__loads_nothing_and_lets_only_its_own_script_run(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}])
    page = report(catalog.path, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", text)
    assert "url(" not in text
    assert "@import" not in text
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', text)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inside
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_write_report__lists_as_many_cases_as_asked_and_counts_all(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}] * 10)
    write_rounds(catalog, "threshold", [f"case{n:03d}" for n in range(10)])
    page = report(catalog.path, tmp_path / "page.html", cases=3)
    data = page_data(page)
    assert column(data, "name") == ["case000", "case003", "case006"]
    assert data["rounds"][0]["cases"] == [0, 1, 2]
    assert data["rounds"][0]["scores"]["dice"] == [[0.5, 0.6, 0.7]] * 3
    assert len(page_pictures(page)) == 3
    assert "3 of 10 cases are listed" in page.read_text(encoding="utf-8")


def test_write_report__a_run_of_rounds_is_named_with_its_protocol(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}])
    write_rounds(catalog, "mine", ["case000"])
    table = catalog.table("rounds", "mine").drop_columns(["run"])
    catalog.write_part("rounds", "mine", table.replace_schema_metadata({METADATA_KEY: '{"protocol": "autopet-v@1"}'}))
    for public, name in ((False, "mine (autopet-v@1)"), (True, "run 1 (autopet-v@1)")):
        page = report(catalog.path, tmp_path / "page.html", public=public)
        assert page_data(page)["rounds"][0]["name"] == name


def test_write_report__lesions_that_no_mask_holds_are_in_no_figure(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}, {}])
    rows = [{k: v for k, v in row.items() if k != "source"} for row in catalog.lesions.to_pylist()]
    named = {"case_id": "case000", "lesion_index": 7, "voxels": None, "csv_volume_mm3": 12.0}
    catalog.write_part("lesions", "fdat", rows_to_table("lesions", [*rows, named]))
    page = write_report(tmp_path / "page.html", select_cases(catalog), {})
    assert page.read_text(encoding="utf-8").count("(2 lesions)") == 2


def test_write_report__a_catalog_without_rounds_has_no_curves(tmp_path: Path) -> None:
    page = report(make_catalog(tmp_path / "catalog", [{}]).path, tmp_path / "page.html")
    assert page_data(page)["rounds"] == []
    assert 'id="curves"' not in page.read_text(encoding="utf-8")


def test_select_cases__refuses_an_empty_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no cases to report on"):
        select_cases(make_catalog(tmp_path / "catalog", [], runs=0))


def test_report__numbers_that_are_not_finite_are_unknown(tmp_path: Path) -> None:
    nothing = {"suv_max_in_lesion": float("nan"), "lesion_volume_ml": float("inf"), "age_years": float("nan")}
    page = report(make_catalog(tmp_path / "catalog", [nothing]).path, tmp_path / "page.html")
    assert [column(page_data(page), name) for name in ("suv", "volume", "age")] == [[None]] * 3


def test_report__the_same_bytes_twice_and_in_processes(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}] * 3)
    pages = [report(catalog.path, tmp_path / f"{n}.html", crew=Crew(workers)) for n, workers in enumerate((0, 0, 2))]
    assert len({page.read_bytes() for page in pages}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.html", "1.html", "2.html", "catalog"]


def test_report__a_case_that_cannot_be_read_is_listed_without_a_picture(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}, {"pet_path": "catalog:images/none.nii.gz"}, {"label_path": None}])
    pictures = page_pictures(report(catalog.path, tmp_path / "page.html"))
    assert ["src" in picture for picture in pictures] == [True, False, True]
    assert pictures[1]["note"] == "its images cannot be read"


def test_report__prompts_of_each_run_are_drawn_and_those_in_the_head_counted(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}], runs=6)
    page = report(catalog.path, tmp_path / "page.html")
    picture = page_pictures(page)[0]
    assert list(picture["runs"]) == ["0", "1", "2", "3"]
    assert picture["more_runs"] == 2
    assert [stroke[:3] for stroke in picture["runs"]["0"]] == [[1, "click", 1], [0, "scribble", 1]]
    assert picture["left"]["0"] == 1
    assert page_data(page)["runs"][0] == "run0 (autopet-iv@2)"


def test_report__goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = make_catalog(tmp_path / "catalog", [{}] * 4)
    seen: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("clicksim.report.thumbnails.draw_case", _stop_after(2, seen))
        with pytest.raises(KeyboardInterrupt):
            report(catalog.path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(CatalogError, match="--resume"):
        report(catalog.path, tmp_path / "page.html")
    with monkeypatch.context() as patched:
        patched.setattr("clicksim.report.thumbnails.draw_case", _stop_after(9, seen))
        report(catalog.path, tmp_path / "page.html", resume=True)
    assert seen == ["case000", "case001", "case002", "case003"]
    assert all("src" in picture for picture in page_pictures(tmp_path / "page.html"))


def _stop_after(count: int, seen: list[str]) -> Any:
    """`draw_case` that is interrupted after some cases."""
    done = 0

    def draw(catalog: Catalog, row: dict[str, Any], *, show_head: bool) -> Any:
        nonlocal done
        if done == count:
            raise KeyboardInterrupt
        done += 1
        seen.append(row["case_id"])
        return draw_case(catalog, row, show_head=show_head)

    return draw


# --- figures -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.none() | st.floats(0, 5000, allow_nan=False) | st.sampled_from([0.0, 1.0, 10.0, 90.0, 1000.0])),
    st.sampled_from([AGES, LESIONS, VOLUMES_ML]),
)
def test_by_range__every_value_is_counted_once_in_its_range(values: list[float | None], scale: Any) -> None:
    figure = by_range("t", [("FDG", value) for value in values], scale)
    assert figure.total == len(values)
    lows = dict(scale)
    for label, counts in figure.bars:
        if label == "unknown":
            assert counts["FDG"] == values.count(None)
            continue
        above = [low for low in lows.values() if low > lows[label]]
        high = min(above, default=float("inf"))
        assert counts.get("FDG", 0) == sum(v is not None and lows[label] <= v < high for v in values)


def test_make_scale__labels_say_what_is_in_them() -> None:
    assert [label for label, _ in AGES][-1] == "90+"
    assert [label for label, _ in LESIONS][:4] == ["0", "1", "2-3", "4-7"]
    assert [label for label, _ in VOLUMES_ML][:3] == ["0", "under 1", "1-3"]
    assert [label for label, _ in make_scale(0, 0.1, 0.3)] == ["under 0.1", "0.1-0.3", "0.3+"]


def test_by_word__the_rarest_are_put_together_and_nothing_is_lost() -> None:
    rows = [{"tracer": "FDG", "model": f"m{n}"} for n in range(30) for _ in range(30 - n)]
    figure = by_word("t", [*rows, {"tracer": None, "model": None}], "model")
    assert figure.total == len(rows) + 1
    assert [label for label, _ in figure.bars][-2:] == ["21 others", "unknown"]
    assert figure.bars[0] == ("m0", {"FDG": 30})


def test_draw_bars__escapes_labels_and_bars_add_up() -> None:
    figure = by_word(EVIL, [{"tracer": t, "model": EVIL} for t in ("FDG", "FDG", "PSMA", "none")], "model")
    assert "<img" not in figure.svg
    widths = [float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', figure.svg)]
    assert widths == pytest.approx([85, 42.5, 42.5])


def test_fold_balance__counts_cases_and_patients_of_folds_and_plans() -> None:
    rows = [
        {
            "key": ("fdat", str(n)),
            "fold": n % 2,
            "split": None,
            "patient": f"p{n // 2}",
            "tracer": "FDG",
            "lesions": n,
            "volume": float(n),
        }
        for n in range(4)
    ]
    found = fold_balance(rows, {"five": {("fdat", "0"): 3, ("fdat", "1"): None, ("fdat", "2"): 3}})
    assert [(row["name"], row["cases"], row["patients"]) for row in found] == [
        ("five, fold 3", 2, 2), ("publisher, fold 0", 2, 2), ("publisher, fold 1", 2, 2),
    ]  # fmt: skip
    assert found[1]["empty"] == "50.0 %"
    assert found[1]["volume"] == "2"


# --- the command -------------------------------------------------------------------------------------------


def test_report__of_a_phantom_source_from_the_command_line(tmp_path: Path) -> None:
    from clicksim.catalog import find_source
    from clicksim.phantom.layouts import write_fdat
    from clicksim.pipeline import convert

    tree = write_fdat(tmp_path / "fdat", patients=3)
    convert(find_source("fdat"), tree.folder, tmp_path / "catalog")
    commands.done("report", tmp_path / "catalog", tmp_path / "page.html")
    assert sorted(column(page_data(tmp_path / "page.html"), "name")) == sorted(tree.cases)
    assert all("src" in picture and picture["hidden"] for picture in page_pictures(tmp_path / "page.html"))
    assert open_catalog(tmp_path / "catalog").cases.num_rows == len(tree.cases)


def test_report__a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    make_catalog(tmp_path / "catalog", [{}])
    nowhere = tmp_path / "catalog" / "catalog.json" / "page.html"
    refused = commands.run("report", tmp_path / "catalog", nowhere)
    assert refused.exit_code == 1
    assert "cannot make the folder" in refused.stderr
    assert refused.stderr.count("\n") == 1

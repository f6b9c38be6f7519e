"""The catalog on disk: schema, atomic writes, the same bytes for the same content, paths that stay inside."""

import json
import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicksim import __version__
from clicksim.catalog import create_catalog, find_source, list_sources, open_catalog
from clicksim.catalog.manage import cite_sources, summarise_catalog
from clicksim.catalog.prompt_runs import hash_run, join_runs
from clicksim.catalog.push import push_catalog
from clicksim.catalog.remote.places import inside
from clicksim.catalog.schema import (
    FLAGS,
    KINDS,
    REASONS,
    SORT_KEYS,
    SOURCES,
    TABLES,
    rows_to_table,
    table_schema,
)
from clicksim.errors import CatalogError, ClicksimError, SettingError
from clicksim.pipeline import convert
from clicksim.pipeline.merging import merge_catalogs
from clicksim.pipeline.simulation import commit_prompts
from tests.conftest import WRITERS


def case(name, patient="p1", **columns):
    row = {
        "case_id": name, "patient_key": patient, "tracer_class": "FDG", "shape_xyz": [4, 5, 6],
        "spacing_xyz_mm": [2.0, 2.0, 3.0], "n_lesions": 1, "lesion_volume_ml": 1.5, "lesion_present": True,
        "study_date": date(2003, 4, 5), "quality_flags": ["LABEL_FLOAT"], "label_path": "mine:labels/a.nii.gz",
    }  # fmt: skip
    return row | columns


def lesion(name, number, **columns):
    return {"case_id": name, "lesion_index": number, "voxels": 10, "volume_ml": 1.5, "lesion_type": "Lung"} | columns


@pytest.fixture
def catalog(tmp_path):
    """Three cases of one source, their lesions."""
    made = create_catalog(tmp_path / "catalog")
    made.write_part("cases", "mine", rows_to_table("cases", [case("c"), case("a", "p2"), case("b")]))
    made.write_part("lesions", "mine", rows_to_table("lesions", [lesion("c", 1), lesion("a", 2), lesion("a", 1)]))
    return made


# schema


@pytest.mark.parametrize("name", TABLES)
def test_schema__declares_each_column_once_with_a_meaning(name):
    columns = TABLES[name]
    assert len({column.name for column in columns}) == len(columns)
    assert all(column.meaning and column.kind in KINDS for column in columns)
    assert all(set(column.taken_from) <= set(SOURCES) for column in columns)
    schema = table_schema(name)
    assert schema.names == [column.name for column in columns]
    assert schema.field(0).metadata == {b"meaning": columns[0].meaning.encode()}
    assert set(SORT_KEYS[name]) <= set(schema.names)


def test_schema__refuses_a_table_that_is_none():
    with pytest.raises(CatalogError, match=r"no table 'patients'.*cases"):
        table_schema("patients")


def test_schema__codes_are_explained():
    assert all(meaning for meaning in (FLAGS | REASONS).values())
    assert all(name == name.upper() for name in FLAGS)


def test_rows_to_table__keeps_values_and_leaves_the_rest_null():
    row = rows_to_table("cases", [case("a")]).to_pylist()[0]
    assert (row["case_id"], row["study_date"], row["shape_xyz"]) == ("a", date(2003, 4, 5), [4, 5, 6])
    assert row["quality_flags"] == ["LABEL_FLOAT"]
    assert row["suv_max"] is None


@pytest.mark.parametrize(
    ("column", "value"),
    [("shape_xyz", [1, 2]), ("n_lesions", "many"), ("n_lesions", 2**40), ("study_date", "yesterday"),
     ("official_fold", 400), ("affine_ras", [1.0])],
)  # fmt: skip
def test_rows_to_table__refuses_what_does_not_fit(column, value):
    with pytest.raises(CatalogError, match="does not fit table cases"):
        rows_to_table("cases", [case("a", **{column: value})])


def test_rows_to_table__refuses_an_unknown_column():
    with pytest.raises(CatalogError, match=r"no column suv_maximum; columns: case_id"):
        rows_to_table("cases", [case("a", suv_maximum=3.0)])


# writing and reading


def test_write_part__sorts_and_gives_the_same_bytes_for_any_order(catalog, tmp_path):
    assert catalog.cases["case_id"].to_pylist() == ["a", "b", "c"]
    assert catalog.lesions.select(["case_id", "lesion_index"]).to_pylist()[:2] == [
        {"case_id": "a", "lesion_index": 1}, {"case_id": "a", "lesion_index": 2},
    ]  # fmt: skip
    other = create_catalog(tmp_path / "other")
    rows = [case("a", "p2"), case("b"), case("c")]
    pieces = [rows_to_table("cases", [row]) for row in rows]
    other.write_part("cases", "mine", pa.concat_tables(pieces))
    other.write_part("lesions", "mine", rows_to_table("lesions", [lesion("a", 1), lesion("a", 2), lesion("c", 1)]))
    assert other.digest() == catalog.digest()


@given(st.permutations(["FDG", "PSMA", "none", None]), st.integers(0, 4))
def test_write_part__leaves_no_trace_of_how_a_table_was_put_together(tmp_path_factory, tracers, cut):
    rows = sorted((case(str(tracer), tracer_class=tracer) for tracer in tracers), key=lambda row: row["case_id"])
    shuffled = sorted(rows, key=lambda row: tracers.index(row["tracer_class"]))
    pieces = [rows_to_table("cases", part) for part in (shuffled[:cut], shuffled[cut:])]
    digests = []
    for table in (rows_to_table("cases", rows), pa.concat_tables(pieces)):
        made = create_catalog(tmp_path_factory.mktemp("c") / "catalog")
        made.write_part("cases", "mine", table)
        digests.append(made.digest())
    assert digests[0] == digests[1]


def test_digest__changes_with_one_value_and_not_with_the_place(catalog, tmp_path):
    moved = Path(shutil.copytree(catalog.path, tmp_path / "elsewhere"))
    assert open_catalog(moved).digest() == catalog.digest()
    rows = [case("c"), case("a", "p2"), case("b", n_lesions=2)]
    open_catalog(moved).write_part("cases", "mine", rows_to_table("cases", rows))
    assert open_catalog(moved).digest() != catalog.digest()


def test_write_part__a_failure_leaves_the_old_table_and_nothing_else(catalog, monkeypatch):
    before = sorted(catalog.path.rglob("*"))

    def broken(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        catalog.write_part("cases", "mine", rows_to_table("cases", [case("new")]))
    monkeypatch.undo()
    assert sorted(catalog.path.rglob("*")) == before
    assert catalog.cases["case_id"].to_pylist() == ["a", "b", "c"]


def test_write_part__refuses_other_columns_and_names_that_are_paths(catalog):
    with pytest.raises(CatalogError, match="table cases has columns"):
        catalog.write_part("cases", "mine", pa.table({"case_id": ["a"]}))
    for name in ("../mine", "a/b", ".hidden", ""):
        with pytest.raises(CatalogError, match="names a folder"):
            catalog.write_part("cases", name, rows_to_table("cases", []))


def test_tables__can_be_read_by_any_reader(catalog):
    import pyarrow.dataset

    folder = catalog.path / "cases"
    (folder / "source=mine" / ".writing-123-part-0.parquet").write_bytes(b"half")
    table = pyarrow.dataset.dataset(folder, partitioning="hive").to_table()
    assert table.num_rows == 3
    assert table["source"].to_pylist() == ["mine"] * 3


def test_table__of_an_empty_catalog_has_its_columns(tmp_path):
    empty = create_catalog(tmp_path / "new")
    for name in (*TABLES, "prompts"):
        table = empty.sources if name == "sources" else empty.table(name)
        assert table.num_rows == 0
        assert set(table_schema(name).names) <= set(table.column_names)
    assert empty.runs == []


def test_table__puts_full_and_empty_parts_together(catalog):
    link = {"patient_key": "p", "bl_case_id": "a", "bl_lesion": 1, "relation": "disappeared"}
    catalog.write_part("links", "mine", rows_to_table("links", []))
    assert catalog.links.num_rows == 0
    catalog.write_part("links", "other", rows_to_table("links", [link]))
    assert catalog.links.select(["source", "relation"]).to_pylist() == [{"source": "other", "relation": "disappeared"}]


def test_table__names_a_file_that_is_broken(catalog):
    file = catalog.path / "cases/source=mine/part-0.parquet"
    file.write_bytes(file.read_bytes()[:100])
    for read in (lambda: catalog.cases, lambda: catalog.case("a")):
        with pytest.raises(CatalogError, match=r"part-0\.parquet cannot be read.*again"):
            read()


def test_table__names_columns_of_another_version(catalog):
    file = catalog.path / "cases/source=mine/part-0.parquet"
    table = pq.read_table(file, partitioning=None).drop_columns(["suv_max"])
    pq.write_table(table, file)
    with pytest.raises(CatalogError, match=r"other columns than clicksim .*suv_max.*again"):
        _ = catalog.cases


def test_table__refuses_a_part_that_is_none(catalog):
    for read in (catalog.table, catalog.part_metadata, catalog.part_digest):
        with pytest.raises(CatalogError, match=r"no 'nobody' in table cases of .*; there is: mine"):
            read("cases", "nobody")


def test_case__finds_one_row(catalog):
    assert catalog.case("b")["patient_key"] == "p1"
    assert catalog.case("a")["source"] == "mine"
    with pytest.raises(CatalogError, match="no case 'd'"):
        catalog.case("d")
    catalog.write_part("cases", "other", rows_to_table("cases", [case("a")]))
    with pytest.raises(CatalogError, match="several sources: mine, other"):
        catalog.case("a")
    assert catalog.case("a", "other")["source"] == "other"


def test_case__is_found_in_any_row_group(tmp_path):
    made = create_catalog(tmp_path / "large")
    made.write_part("cases", "mine", rows_to_table("cases", [case(f"c{n:05d}") for n in range(2500)]))
    assert pq.ParquetFile(made.path / "cases/source=mine/part-0.parquet").num_row_groups == 3
    for name in ("c00000", "c00999", "c01000", "c02499"):
        assert made.case(name)["case_id"] == name


def test_part_metadata__is_empty_for_a_plain_table_and_refused_for_none(catalog):
    assert catalog.part_metadata("cases", "mine") == {}
    with pytest.raises(CatalogError, match=r"no 'x' in table prompts.*there is: nothing"):
        catalog.metadata("x")


# opening


def test_open_catalog__refuses_a_newer_format_with_the_command_to_run(catalog):
    head = catalog.path / "catalog.json"
    content = json.loads(head.read_text())
    head.write_text(json.dumps(content | {"format_version": content["format_version"] + 1}))
    with pytest.raises(CatalogError, match=rf"format 2, this clicksim {__version__} knows 1: pip install --upgrade"):
        open_catalog(catalog.path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "roots": [1]}'])
def test_open_catalog__refuses_a_head_that_is_none(catalog, text):
    (catalog.path / "catalog.json").write_text(text)
    with pytest.raises(CatalogError, match=r"catalog\.json is not a catalog's head"):
        open_catalog(catalog.path)


def test_open_catalog__says_how_to_make_one(tmp_path):
    with pytest.raises(CatalogError, match="create one with clicksim convert"):
        open_catalog(tmp_path)


def test_create_catalog__refuses_a_folder_with_other_things(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(CatalogError, match="is not a catalog"):
        create_catalog(tmp_path)
    with pytest.raises(CatalogError, match="no catalog can be made"):
        create_catalog(tmp_path / "mine.txt")
    with pytest.raises(CatalogError, match="no catalog can be made"):
        create_catalog(tmp_path / "mine.txt" / "catalog")


def test_create_catalog__goes_on_after_a_kill_between_folder_and_head(tmp_path):
    (tmp_path / ".writing-0123-catalog.json").write_text("{")
    assert create_catalog(tmp_path).cases.num_rows == 0


# paths


def test_resolve__follows_roots_and_the_variable(catalog, tmp_path, monkeypatch):
    mine = catalog.with_root("mine", tmp_path / "data")
    assert mine.resolve("mine:labels/a.nii.gz") == tmp_path / "data/labels/a.nii.gz"
    assert open_catalog(mine.path).roots["mine"] == str(tmp_path / "data")
    assert mine.resolve("catalog:images/x.nii.gz") == mine.path / "images/x.nii.gz"
    monkeypatch.setenv("CLICKSIM_ROOT_MINE", str(tmp_path / "moved"))
    assert mine.resolve("mine:labels/a.nii.gz") == tmp_path / "moved/labels/a.nii.gz"


def test_resolve__moves_with_the_catalog(catalog, tmp_path):
    moved = shutil.move(catalog.path, tmp_path / "moved")
    assert open_catalog(moved).resolve("catalog:a") == tmp_path / "moved/a"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "link/secret"])
def test_resolve__refuses_a_path_that_leaves_its_root(catalog, tmp_path, path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "out").mkdir()
    (root / "link").symlink_to(tmp_path / "out")
    with pytest.raises(CatalogError, match="leaves its root"):
        catalog.with_root("mine", root).resolve(f"mine:{path}")


@pytest.mark.parametrize("location", ["a.nii.gz", "other:a.nii.gz", "", ":a"])
def test_resolve__refuses_an_unknown_root(catalog, location):
    with pytest.raises(CatalogError, match="no known root; roots: catalog"):
        catalog.resolve(location)


def test_inside__takes_links_that_stay(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert inside(tmp_path, "a/c") == tmp_path / "b/c"


def test_inside__a_circle_of_links_is_a_link_to_nothing(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not inside(tmp_path, "a/c").exists()
    assert not inside(tmp_path / "a", "c").exists(), "also where the root is one"


# SQL


def test_sql__joins_tables(catalog):
    answer = catalog.sql("select c.patient_key, count(*) n from lesions l join cases c using (case_id) group by all")
    assert sorted(answer.to_pylist(), key=lambda row: row["patient_key"]) == [
        {"patient_key": "p1", "n": 1}, {"patient_key": "p2", "n": 2},
    ]  # fmt: skip
    assert catalog.sql("select tracer_class, quality_flags[1] f, shape_xyz[1] i from cases limit 1").to_pylist() == [
        {"tracer_class": "FDG", "f": "LABEL_FLOAT", "i": 4}
    ]
    assert catalog.sql("select * from prompts").num_rows == 0


@pytest.mark.parametrize("query", ["select nothing from cases", "selec", "", "select cast(case_id as int) from cases"])
def test_sql__refuses_in_our_words(catalog, query):
    with pytest.raises(CatalogError, match="query") as error:
        catalog.sql(query)
    assert "\n" not in str(error.value)


# merging


def shards(phantoms, tmp_path, name, count):
    for n in range(count):
        convert(find_source(name), phantoms / name, tmp_path / f"shard{n}", shard=(n, count))
    return [tmp_path / f"shard{n}" for n in range(count)]


def same_files(one, other):
    """Names and bytes of what lies below `images` and of all tables."""

    def files(root):
        found = [f for part in ("images", *TABLES, "prompts") for f in (root / part).rglob("*") if f.is_file()]
        return {file.relative_to(root): file.read_bytes() for file in found}

    return files(one) == files(other)


@pytest.mark.parametrize("name", WRITERS)
def test_merge_catalogs__of_shards_is_the_whole(phantoms, tmp_path, name):
    convert(find_source(name), phantoms / name, tmp_path / "whole")
    parts = shards(phantoms, tmp_path, name, 3)
    merged = merge_catalogs(tmp_path / "merged", list(reversed(parts)))
    assert merged.cases.num_rows > 3
    assert merged.digest() == open_catalog(tmp_path / "whole").digest()
    assert same_files(merged.path, tmp_path / "whole")
    assert merge_catalogs(tmp_path / "merged", parts).digest() == merged.digest(), "once more changes nothing"


def test_merge_catalogs__of_sources_is_the_catalog_of_all(phantoms, tmp_path):
    parts = []
    for name in WRITERS:
        convert(find_source(name), phantoms / name, tmp_path / name)
        parts.append(tmp_path / name)
    merged = merge_catalogs(tmp_path / "merged", parts)
    assert merged.digest() == open_catalog(phantoms / "catalog").digest()
    assert sorted(merged.roots) == ["catalog", "deep_psma", "fdat", "longitudinal_ct"]
    for row in merged.cases.to_pylist():
        assert merged.resolve(row["label_path"]).is_file()


def test_join_runs__over_catalogs_of_different_sources_is_one_run(tmp_path):
    about, opened = {"version": "1", "protocol": "autopet-iv@2", "seed": 1, "settings": {}}, []
    for source in ("fdat", "mine"):
        catalog = create_catalog(tmp_path / source)
        catalog.write_part("cases", source, rows_to_table("cases", [case(f"{source}_a")]))
        run = hash_run(about, {f"{source}/p1": [f"{source}_a"]})
        with catalog.commit() as commit:
            commit_prompts(commit, run, table_schema("prompts").empty_table(), about | {"cases": [f"{source}_a"]})
        opened.append(catalog)
    whole = hash_run(about, {"fdat/p1": ["fdat_a"], "mine/p1": ["mine_a"]})
    assert join_runs(opened) == {whole: [(0, opened[0].runs[0]), (1, opened[1].runs[0])]}


def test_merge_catalogs__refuses_rows_that_differ(catalog, tmp_path):
    other = create_catalog(tmp_path / "other")
    other.write_part("cases", "mine", rows_to_table("cases", [case("b", n_lesions=9)]))
    with pytest.raises(CatalogError, match="cases of mine has differing rows for b;"):
        merge_catalogs(tmp_path / "merged", [catalog.path, other.path])


def test_merge_catalogs__refuses_two_places_of_one_root(catalog, tmp_path):
    catalog.with_root("mine", tmp_path / "x")
    create_catalog(tmp_path / "other").with_root("mine", tmp_path / "y")
    with pytest.raises(CatalogError, match=r"root mine is .*relocate"):
        merge_catalogs(tmp_path / "merged", [catalog.path, tmp_path / "other"])


def test_merge_catalogs__refuses_itself_and_what_is_none(catalog, tmp_path):
    with pytest.raises(CatalogError, match="into itself"):
        merge_catalogs(catalog.path, [catalog.path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="no catalog in"):
        merge_catalogs(tmp_path / "merged", [catalog.path, tmp_path / "empty"])
    push_catalog(catalog.path, f"file://{tmp_path}/pushed")
    with pytest.raises(CatalogError, match="pushed is read only"):
        merge_catalogs(tmp_path / "merged", [catalog.path, tmp_path / "pushed"])
    assert not (tmp_path / "merged").exists()


def test_merge_catalogs__links_images_and_leaves_half_files_out(phantoms, tmp_path):
    convert(find_source("deep-psma"), phantoms / "deep-psma", tmp_path / "one")
    image = next((tmp_path / "one/images").rglob("*.nii.gz"))
    image.with_name(".writing-77-ct.nii.gz").write_bytes(b"half")
    merged = merge_catalogs(tmp_path / "merged", [tmp_path / "one"])
    copy = merged.path / image.relative_to(tmp_path / "one")
    assert copy.stat().st_ino == image.stat().st_ino
    assert not list(merged.path.rglob(".writing-*"))


# summary and citations


def test_summarise__counts_what_the_tables_hold(phantoms):
    catalog = open_catalog(phantoms / "catalog")
    rows = {row["source"]: row for row in summarise_catalog(catalog)}
    assert (rows["fdat"]["cases"], rows["fdat"]["patients"], rows["fdat"]["without_lesion"]) == (7, 6, 2)
    assert rows["fdat"]["tracers"] == {"FDG": 4, "PSMA": 3}
    assert sum(rows["fdat"]["folds"].values()) == 7
    assert rows["deep_psma"]["lesions"] == catalog.table("lesions", "deep_psma").num_rows
    assert rows["longitudinal_ct"]["splits"] == {"test": 2, "train": 2, "val": 4}
    assert all(row["rejected"] == 0 for row in rows.values())


def test_summarise__leaves_out_what_is_not_known(tmp_path):
    volumes = [None, 1.0, 2.0, 4.0, 0.0]
    cases = [case(f"c{n}", lesion_volume_ml=v, lesion_present=v and v > 0) for n, v in enumerate(volumes)]
    cases[4]["lesion_present"] = False
    create_catalog(tmp_path / "c").write_part("cases", "mine", rows_to_table("cases", cases))
    (row,) = summarise_catalog(open_catalog(tmp_path / "c"))
    assert (row["cases"], row["without_lesion"], row["volume_ml"], row["median_volume_ml"]) == (5, 1, 7.0, 1.5)


def test_cite__names_what_is_used_and_nothing_else(phantoms, tmp_path):
    text = cite_sources(open_catalog(phantoms / "catalog"))
    for doi in ("10.7937/gkr0-xv29", "10.5281/zenodo.15281784", "10.57754/FDAT.qe950-g4h94"):
        assert doi in text
    assert text.count("CC-BY-NC-4.0") == 3
    convert(find_source("deep-psma"), phantoms / "deep-psma", tmp_path / "one")
    assert "longitudinal" not in cite_sources(open_catalog(tmp_path / "one"), bibtex=True)
    bibtex = cite_sources(open_catalog(phantoms / "catalog"), bibtex=True)
    assert bibtex.count("{") == bibtex.count("}")
    assert bibtex.count("@misc{") == 5


# sources


def test_find_source__knows_the_three_and_the_nearest_name():
    assert {"deep-psma", "fdat", "longitudinal-ct"} <= set(list_sources())
    assert find_source("fdat").name == "fdat"
    with pytest.raises(SettingError, match="did you mean 'deep-psma'"):
        find_source("deep_psma")


def test_find_source__says_why_one_does_not_load(plugins):
    plugins("broken = nowhere_at_all:SOURCE\nwrong = json:dumps\ngone = json:SOURCE\n")
    with pytest.raises(ClicksimError, match=r"source 'broken' cannot be loaded from nowhere_at_all:SOURCE"):
        find_source("broken")
    with pytest.raises(ClicksimError, match=r"source 'wrong' .*: is function, not a clicksim Source"):
        find_source("wrong")
    with pytest.raises(ClicksimError, match=r"'gone' cannot be loaded"):
        find_source("gone")


def test_find_source__says_what_a_source_raised(plugins, tmp_path):
    plugins("raises = raising_lab:SOURCE\n")
    (tmp_path / "site/raising_lab.py").write_text("raise RuntimeError('no licence file')")
    with pytest.raises(ClicksimError, match=r"from raising_lab:SOURCE .*: RuntimeError: no licence file"):
        find_source("raises")


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A function that installs entry points of a distribution for one test."""

    def install(lines):
        info = tmp_path / "site" / "lab_sources-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-sources\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[clicksim.sources]\n{lines}")
        monkeypatch.syspath_prepend(str(info.parent))

    return install


def test_canonical__stores_lists_that_pyarrow_before_26_opens():
    from clicksim.catalog.parquet import _canonical
    from clicksim.catalog.schema import rows_to_table

    table = rows_to_table("cases", [{"case_id": "a"}, {"case_id": "b", "shape_xyz": [1, 2, 3]}])
    stored = _canonical(table)
    assert pa.types.is_fixed_size_list(table.schema.field("shape_xyz").type)
    assert [field.name for field in stored.schema if pa.types.is_fixed_size_list(field.type)] == []
    assert stored.cast(table.schema).equals(table)

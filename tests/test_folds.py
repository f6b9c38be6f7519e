"""Folds: whole patients, evenly spread, the same for any order; and the rule that leaves one group out."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicksim.catalog import Catalog, create_catalog
from clicksim.catalog.folds import (
    Folds,
    balance,
    burden_of,
    centre_of,
    fold_cases,
    make_folds,
    read_folds,
    write_folds,
)
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, SettingError
from clicksim.pipeline.merging import merge_catalogs


def case(name: str, patient: str, **more: object) -> dict[str, object]:
    return {
        "case_id": name,
        "patient_key": patient,
        "tracer_class": "FDG",
        "shape_xyz": [400, 400, 326],
        "spacing_xyz_mm": [2.04, 2.04, 3.0],
        "lesion_present": True,
        "lesion_volume_ml": 5.0,
        **more,
    }


def catalog_of(folder: Path, **sources: list[dict[str, object]]) -> Catalog:
    catalog = create_catalog(folder)
    for source, rows in sources.items():
        catalog.write_part("cases", source, rows_to_table("cases", rows))
    return catalog


def patients_of(folds: Folds, keys: tuple[tuple[str, str], ...]) -> set[str]:
    of = {(row["source"], row["case_id"]): row["patient_key"] for row in folds.rows}
    return {of[key] for key in keys}


def many(count: int, **more: object) -> list[dict[str, object]]:
    return [case(f"c{n:03d}", f"p{n:03d}", **more) for n in range(count)]


# --- whole patients --------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), min_size=12, max_size=50), st.integers())
def test_make_folds__no_patient_is_split_and_each_case_validates_once(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, bool, bool]], seed: int
) -> None:
    rows = [
        case(f"c{n}", f"p{patient}", tracer_class=("FDG", "PSMA")[psma], lesion_present=lesion)
        for n, (patient, psma, lesion) in enumerate([*drawn, (13, True, True), (14, True, False)])
    ]
    catalog = catalog_of(tmp_path_factory.mktemp("catalog"), fdat=rows)
    folds = make_folds(catalog, n_folds=2, seed=seed)
    splits = folds.splits()
    for split in splits:
        assert not patients_of(folds, split.train) & patients_of(folds, split.validation)
        assert len(split.train) + len(split.validation) == len(rows)
    assert Counter(key for split in splits for key in split.validation) == Counter(("fdat", r["case_id"]) for r in rows)


def test_make_folds__a_patient_of_two_sources_has_one_fold(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "c", fdat=many(20), tcia_fdg=many(20))
    fold_of = make_folds(catalog).fold_of
    assert all(fold_of["fdat", f"c{n:03d}"] == fold_of["tcia_fdg", f"c{n:03d}"] for n in range(20))


def test_make_folds__depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    one = catalog_of(tmp_path / "one", fdat=many(60))
    two = catalog_of(tmp_path / "two", fdat=many(60)[::-1])
    assert make_folds(one).rows == make_folds(two).rows
    assert make_folds(one).rows != make_folds(one, seed=43).rows


def test_make_folds__spreads_tracer_scanner_burden_and_empty_cases(tmp_path: Path) -> None:
    rows = [
        case(
            f"c{n}",
            f"p{n // 2 if n < 40 else n}",
            tracer_class=("FDG", "PSMA")[n % 3 == 0],
            model=("mCT", "D690", "B64")[n % 7 % 3],
            lesion_present=n % 5 > 0,
            lesion_volume_ml=10.0 ** (n % 4),
        )
        for n in range(200)
    ]
    catalog = catalog_of(tmp_path / "c", fdat=rows)
    for row in balance(catalog, make_folds(catalog)):
        assert row["spread"] <= 2, row


@pytest.mark.real
def test_make_folds__real_names_are_spread_within_the_largest_patient(tmp_path: Path, realdata: Path) -> None:
    with (realdata / "autopet" / "cases_1611.csv").open(encoding="utf-8") as file:
        rows = [
            case(
                row["case_id"],
                f"{row['tracer']}_{row['patient']}",
                tracer_class=row["tracer"],
                shape_xyz=[int(row[n]) for n in ("nx", "ny", "nz")],
                spacing_xyz_mm=[float(row[n]) for n in ("dx", "dy", "dz")],
                lesion_present=row["label_empty"] == "0",
            )
            for row in csv.DictReader(file)
        ]
    assert len(rows) == 1611
    catalog = catalog_of(tmp_path / "c", fdat=rows)
    folds = make_folds(catalog)
    held: dict[str, set[int | None]] = defaultdict(set)
    for row in folds.rows:
        held[row["patient_key"]].add(row["fold"])
    assert len(held) == 1278
    assert all(len(values) == 1 for values in held.values())
    table = balance(catalog, folds)
    assert {row["value"] for row in table} >= {"FDG", "PSMA", "empty", "fdat 168 x 168 at 4.07 mm"}
    for row in table:
        assert row["spread"] <= row["largest_patient"], row


# --- what the publisher gave -----------------------------------------------------------------------------


def test_make_folds__official_folds_stay_and_the_patients_other_cases_follow(tmp_path: Path) -> None:
    given_rows = [case(f"c{n}", f"p{n}", official_fold=n % 5) for n in range(20)]
    catalog = catalog_of(tmp_path / "c", fdat=given_rows, tcia_fdg=[case("again", "p7"), case("new", "q")])
    folds = make_folds(catalog)
    assert [folds.fold_of["fdat", f"c{n}"] for n in range(20)] == [n % 5 for n in range(20)]
    assert folds.fold_of["tcia_fdg", "again"] == 2
    assert {row["case_id"] for row in folds.rows if not row["official"]} == {"new"}
    drawn = make_folds(catalog, official="ignore")
    assert not any(row["official"] for row in drawn.rows)


def test_make_folds__an_official_fold_that_splits_a_patient_is_refused(tmp_path: Path) -> None:
    rows = [*many(6), case("a", "shared", official_fold=0), case("b", "shared", official_fold=1)]
    catalog = catalog_of(tmp_path / "c", fdat=rows)
    with pytest.raises(CatalogError, match=r"official folds split 1 patient: shared.*official='ignore'"):
        make_folds(catalog)
    assert len({make_folds(catalog, official="ignore").fold_of["fdat", name] for name in "ab"}) == 1


def test_make_folds__official_test_patients_are_in_no_fold(tmp_path: Path) -> None:
    rows = [*many(10), case("t", "tester", official_split="test"), case("u", "tester")]
    catalog = catalog_of(tmp_path / "c", longitudinal_ct=rows)
    folds = make_folds(catalog)
    assert folds.fold_of["longitudinal_ct", "t"] is None
    assert folds.fold_of["longitudinal_ct", "u"] is None
    for split in folds.splits():
        assert "tester" not in patients_of(folds, split.train + split.validation)


# --- one group left out ----------------------------------------------------------------------------------


def test_make_folds__a_left_out_tracer_takes_its_patients_out_of_training(tmp_path: Path) -> None:
    rows = [
        *[case(f"f{n}", f"p{n}") for n in range(4)],
        *[case(f"s{n}", f"p{n + 3}", tracer_class="PSMA") for n in range(4)],
    ]
    folds = make_folds(catalog_of(tmp_path / "c", fdat=rows), scheme="leave-one-tracer-out")
    fdg, psma = folds.splits()
    assert (fdg.left_out, psma.left_out) == ("FDG", "PSMA")
    assert [name for _, name in fdg.validation] == ["f0", "f1", "f2", "f3"]
    assert [name for _, name in fdg.train] == ["s1", "s2", "s3"]  # s0 is of p3, who has an FDG study
    assert [name for _, name in psma.train] == ["f0", "f1", "f2"]


def test_make_folds__a_scheme_without_anything_to_train_on_is_refused(tmp_path: Path) -> None:
    pairs = [case(f"{t}{n}", f"p{n}", tracer_class=t) for n in range(3) for t in ("FDG", "PSMA")]
    with pytest.raises(CatalogError, match="nothing is left to train on when FDG, PSMA"):
        make_folds(catalog_of(tmp_path / "pairs", deep_psma=pairs), scheme="leave-one-tracer-out")
    with pytest.raises(CatalogError, match="two groups"):
        make_folds(catalog_of(tmp_path / "one", fdat=many(4)), scheme="leave-one-centre-out")


def test_make_folds__each_scanner_is_a_fold(tmp_path: Path) -> None:
    rows = [case(f"c{n}", f"p{n}", model=("mCT", "D690", "B64")[n % 3]) for n in range(9)]
    catalog = catalog_of(tmp_path / "c", fdat=rows)
    splits = make_folds(catalog, scheme="leave-one-centre-out").splits()
    for idle in ({"n_folds": 3}, {"seed": 1}):
        with pytest.warns(UserWarning, match="n_folds and seed have no effect in a plan leave-one-centre-out"):
            assert make_folds(catalog, scheme="leave-one-centre-out", **idle).splits() == splits
    assert [(split.left_out, len(split.train), len(split.validation)) for split in splits] == [
        ("B64", 6, 3), ("D690", 6, 3), ("mCT", 6, 3),
    ]  # fmt: skip


def test_centre_of__a_named_scanner_wins_and_ct_has_its_source() -> None:
    assert centre_of({**case("a", "p", model="mCT", manufacturer="SIEMENS"), "source": "fdat"}) == "SIEMENS mCT"
    ct = {**case("a", "p", tracer_class="none", spacing_xyz_mm=[0.713, 0.713, 3.0]), "source": "longitudinal_ct"}
    assert centre_of({**ct, "model": None}) == "longitudinal_ct"


@pytest.mark.parametrize(
    ("volume", "name"), [(0.5, "below 1 ml"), (1.0, "below 10 ml"), (5000.0, "1000 ml and more"), (None, "unknown")]
)
def test_burden_of__is_a_power_of_ten(volume: float | None, name: str) -> None:
    assert burden_of({"lesion_present": True, "lesion_volume_ml": volume}) == name
    assert burden_of({"lesion_present": False, "lesion_volume_ml": volume}) == "empty"


# --- storage and refusals --------------------------------------------------------------------------------


def test_write_folds__comes_back_equal_with_what_made_it(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "c", fdat=many(10))
    folds, before = make_folds(catalog, seed=3), catalog.digest()
    write_folds(catalog, "five", folds)
    again = read_folds(catalog, "five")
    assert again == folds
    assert again.about["seed"] == 3
    assert catalog.digest() != before
    with pytest.raises(SettingError, match="did you mean 'five'"):
        read_folds(catalog, "fiev")


@pytest.mark.parametrize("n_folds", [0, 1, 11])
def test_make_folds__impossible_numbers_are_refused(tmp_path: Path, n_folds: int) -> None:
    with pytest.raises(SettingError, match=f"{n_folds} folds? of 10 patients cannot be made; allowed: 2 to 10"):
        make_folds(catalog_of(tmp_path / "c", fdat=many(10)), n_folds=n_folds)


def test_make_folds__wrong_words_are_refused(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "c", fdat=many(10))
    for wrong in ({"scheme": "random"}, {"official": "maybe"}, {"sources": ["fdta"]}):
        with pytest.raises(SettingError):
            make_folds(catalog, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="no cases"):
        fold_cases(create_catalog(tmp_path / "empty"))
    official = catalog_of(tmp_path / "d", fdat=[case(f"c{n}", f"p{n}", official_fold=n % 5) for n in range(10)])
    with pytest.raises(SettingError, match="go up to 4, beyond 3 folds from 0; draw 5"):
        make_folds(official, n_folds=3)
    with pytest.raises(SettingError, match="leave no patient for fold 5, 6 of 7; ask for fewer"):
        make_folds(official, n_folds=7)


def test_merge_catalogs__leaves_the_plans_of_its_parts_behind(tmp_path: Path) -> None:
    one, two = catalog_of(tmp_path / "one", fdat=many(10)), catalog_of(tmp_path / "two", tcia_fdg=many(10))
    for catalog, source in ((one, "fdat"), (two, "tcia_fdg")):
        catalog.write_sources(rows_to_table("sources", [{"source": source, "title": source}]))
    write_folds(one, "five", make_folds(one))
    assert merge_catalogs(tmp_path / "both", [one.path, two.path]).parts("folds") == []

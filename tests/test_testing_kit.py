"""The kit for outside packages passes what is sound, and catches what breaks a promise."""

from dataclasses import replace
from pathlib import Path

import pytest

from clicksim.catalog import Context, Outcome, Unit, find_source
from clicksim.phantom.layouts import write_deep_psma
from clicksim.testing import check_source


def write_tree(folder: Path) -> None:
    write_deep_psma(folder, patients=2)


def test_check_source__passes_one_of_ours(tmp_path: Path) -> None:
    check_source("deep-psma", write_tree, tmp_path, most_damages=12)


def test_check_source__catches_a_plan_that_takes_any_folder(tmp_path: Path) -> None:
    def plan(_: Context) -> tuple[list[Unit], Outcome]:
        return [], Outcome()

    with pytest.raises(AssertionError, match="is not refused"):
        check_source(replace(find_source("deep-psma"), plan=plan), write_tree, tmp_path)


def convert_some(context: Context, unit: Unit) -> Outcome:
    return Outcome() if unit.key.endswith("2") else find_source("deep-psma").convert(context, unit)


def test_check_source__catches_a_unit_without_any_row(tmp_path: Path) -> None:
    faulty = replace(find_source("deep-psma"), convert=convert_some)
    with pytest.raises(AssertionError, match="gives neither a case nor a rejection for"):
        check_source(faulty, write_tree, tmp_path)


def convert_or_raise(context: Context, unit: Unit) -> Outcome:
    for file in context.source.rglob("*.nii.gz"):
        if file.stat().st_size == 0:
            raise KeyError("nothing in it")
    return find_source("deep-psma").convert(context, unit)


def test_check_source__catches_what_raises_for_a_damaged_file(tmp_path: Path) -> None:
    faulty = replace(find_source("deep-psma"), convert=convert_or_raise)
    with pytest.raises(AssertionError, match=r"KeyError: .*reject the case instead"):
        check_source(faulty, write_tree, tmp_path, most_damages=40)


def test_check_source__catches_a_function_that_no_worker_can_be_given(tmp_path: Path) -> None:
    faulty = replace(find_source("deep-psma"), convert=lambda context, unit: convert_or_raise(context, unit))
    with pytest.raises(AssertionError, match="top level of a module"):
        check_source(faulty, write_tree, tmp_path)

"""The catalog against a dict: whatever is written, merged, drawn, refused or left half done, in any order."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clicksim.catalog import create_catalog, open_catalog
from clicksim.catalog.folds import make_folds, read_folds, write_folds
from clicksim.catalog.lock import HOLDER, LOCK, writing
from clicksim.catalog.schema import rows_to_table
from clicksim.errors import CatalogError, SettingError
from clicksim.pipeline.merging import merge_catalogs
from clicksim.pipeline.simulation import commit_prompts

MEMORY = Path("/dev/shm")  # a folder that waits for no disk, where there is one
NAMES = st.sampled_from(["fdat", "deep_psma", "mine"])
CASES = st.dictionaries(st.sampled_from(["a", "b", "c", "d/PSMA"]), st.integers(0, 3), max_size=4)
"""Case ids with a number of lesions."""
VOXELS = st.lists(st.integers(0, 5), max_size=3)


def case_table(cases):
    rows = [{"case_id": case, "patient_key": f"p-{case}", "n_lesions": n} for case, n in cases.items()]
    return rows_to_table("cases", rows[::-1])


def prompt_table(voxels):
    row = {"case": "a", "lesion": 1, "round": 0, "polarity": "foreground", "kind": "click", "annotator": "x"}
    rows = [row | {"order": n, "stroke": n, "i": i, "j": 0, "k": 0} for n, i in enumerate(voxels)]
    return rows_to_table("prompts", rows)


def about_run(voxels):
    return {"version": "published", "protocol": "", "seed": 1, "settings": {}, "cases": ["a"] if voxels else []}


class CatalogMachine(RuleBasedStateMachine):
    """Two open catalogs of one folder, of which the second was opened early, and the dicts that say what is in it."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="clicksim-state-", dir=MEMORY if MEMORY.is_dir() else None))
        self.catalog = self.early = create_catalog(self.folder / "catalog")
        self.cases, self.prompts, self.sources, self.runs, self.plans = {}, {}, {}, {}, {}
        self.roots = {"catalog": "."}

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(source=NAMES, cases=CASES, early=st.booleans())
    def write_cases(self, source, cases, early):
        (self.early if early else self.catalog).write_part("cases", source, case_table(cases))
        self.cases[source] = cases

    @rule(run=st.sampled_from(["r1", "r2"]), voxels=VOXELS)
    def write_prompts(self, run, voxels):
        with self.catalog.commit() as commit:
            commit_prompts(commit, run, prompt_table(voxels), about_run(voxels))
        self.prompts[run] = voxels

    @rule(names=st.lists(NAMES, unique=True), title=st.text(max_size=3), early=st.booleans())
    def write_sources(self, names, title, early):
        rows = [{"source": name, "title": title} for name in names]
        (self.early if early else self.catalog).write_sources(rows_to_table("sources", rows))
        self.sources |= dict.fromkeys(names, title)

    @rule(run=st.sampled_from(["r1", "convert-mine"]), turn=st.integers())
    def write_run(self, run, turn):
        self.catalog.write_run(run, {"turn": turn})
        self.runs[run] = turn

    @rule(name=NAMES, folder=st.sampled_from(["x", "y"]), early=st.booleans())
    def add_root(self, name, folder, early):
        self.catalog = (self.early if early else self.catalog).with_root(name, self.folder / folder)
        self.roots[name] = str((self.folder / folder).resolve())

    @rule()
    def reopen(self):
        self.catalog = create_catalog(self.folder / "catalog")

    @rule(source=NAMES)
    def refuse_other_columns(self, source):
        with pytest.raises(CatalogError, match="has columns"):
            self.catalog.write_part("cases", source, prompt_table([1]))

    @rule(source=NAMES, early=st.booleans())
    def interrupt(self, source, early):
        """What killed writers leave: half a file beside the tables, a lock with a word of who held it."""
        place = self.folder / "catalog"
        for name in ("cases/source=" + source, "runs", "."):
            (place / name).mkdir(parents=True, exist_ok=True)
            (place / name / f".writing-{early}-part-0.parquet").write_bytes(b"half")
        (place / HOLDER).write_text('{"process": 1')
        (place / LOCK).touch()

    @rule()
    def hold_the_lock(self):
        with writing(self.folder / "catalog"):
            self.catalog.write_run("held", {"turn": 0})
        self.runs["held"] = 0

    @precondition(lambda self: sum(len(cases) > 0 for cases in self.cases.values()))
    @rule(n_folds=st.integers(2, 3), seed=st.integers(0, 3))
    def draw_folds(self, n_folds, seed):
        patients = {f"p-{case}" for cases in self.cases.values() for case in cases}
        if n_folds > len(patients):
            with pytest.raises(SettingError, match=f"{n_folds} folds of {len(patients)} patients"):
                make_folds(self.catalog, n_folds=n_folds, seed=seed)
            return
        plan = make_folds(self.catalog, n_folds=n_folds, seed=seed)
        assert {row["patient_key"] for row in plan.rows} == patients
        write_folds(self.catalog, "plan", plan)
        self.plans["plan"] = plan

    @rule(source=NAMES, cases=CASES)
    def merge(self, source, cases):
        """With another catalog: rows of both, equal ones once, differing ones refused; neither part changes."""
        other = create_catalog(self.folder / "other")
        other.write_part("cases", source, case_table(cases))
        mine = self.cases.get(source, {})
        parts = [self.folder / "catalog", other.path]
        if any(mine[case] != n for case, n in cases.items() if case in mine):
            with pytest.raises(CatalogError, match="has differing rows"):
                merge_catalogs(self.folder / "merged", parts)
        else:
            merged = merge_catalogs(self.folder / "merged", parts)
            assert tables_of(merged) == self.cases | {source: mine | cases}
            assert runs_of(merged) == self.prompts
            assert dict(merged.roots) == self.roots
            assert merge_catalogs(self.folder / "merged", parts[::-1]).digest() == merged.digest()
        for name in ("other", "merged"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @invariant()
    def holds_what_the_dicts_say(self):
        if not hasattr(self, "folder"):
            return
        opened = open_catalog(self.folder / "catalog")
        assert tables_of(opened) == self.cases
        assert runs_of(opened) == self.prompts
        assert {row["source"]: row["title"] for row in opened.sources.to_pylist()} == self.sources
        assert dict(opened.roots) == self.roots
        for run, turn in self.runs.items():
            assert f'"turn": {turn}' in (opened.path / f"runs/{run}.json").read_text()
        for name, plan in self.plans.items():
            assert read_folds(opened, name) == plan
        for source, cases in self.cases.items():
            for case, n in cases.items():
                assert opened.case(case, source)["n_lesions"] == n

    @rule()
    def write_anew_in_another_order(self):
        """The same content gives the same bytes, however it came about."""
        anew = create_catalog(self.folder / "anew")
        for run in sorted(self.prompts, reverse=True):
            with anew.commit() as commit:
                commit_prompts(commit, run, prompt_table(self.prompts[run]), about_run(self.prompts[run]))
        for name in sorted(self.sources, reverse=True):
            anew.write_sources(rows_to_table("sources", [{"source": name, "title": self.sources[name]}]))
        for source in sorted(self.cases, reverse=True):
            anew.write_part("cases", source, case_table(self.cases[source]))
        for name, plan in self.plans.items():
            write_folds(anew, name, plan)
        assert anew.digest() == self.catalog.digest()
        shutil.rmtree(anew.path)


def tables_of(catalog):
    """The number of lesions by source and case."""
    found = {source: {} for source in catalog.parts("cases")}
    for row in catalog.cases.to_pylist():
        assert row["case_id"] not in found[row["source"]]
        found[row["source"]][row["case_id"]] = row["n_lesions"]
    return found


def runs_of(catalog):
    """The voxels by run."""
    found = {run: [] for run in catalog.runs}
    for row in catalog.prompts.to_pylist():
        found[row["run"]].append(row["i"])
    return found


def test_catalog__is_what_was_written_in_any_order():
    run_state_machine_as_test(CatalogMachine, settings=settings(max_examples=10, stateful_step_count=14))


@pytest.mark.soak
def test_catalog__is_what_was_written_in_any_order_for_long():
    run_state_machine_as_test(CatalogMachine, settings=settings(max_examples=300, stateful_step_count=50))

"""What a release promises: one version everywhere, every data file in the wheel, workflows that call make alone.

That a wheel works away from the checkout, on the oldest and newest dependencies, is shown by `make wheel`.
"""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clicksim
from studies import planning
from tests import wheel
from tests.commands import parse

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("clicksim", "converters", "clickseg")
OURS = (*PACKAGES, "tests", "benchmarks", "studies", "fuzz")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


# metadata


def test_metadata__of_citation_and_codemeta_is_that_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    authors = [author["name"] for author in PROJECT["authors"]]
    assert PROJECT["version"] == clicksim.__version__ == citation["version"] == codemeta["version"]
    assert PROJECT["license"] == citation["license"] == codemeta["license"].rpartition("/")[2]
    assert authors == [a["name"] for a in citation["authors"]] == [a["name"] for a in codemeta["author"]]
    assert PROJECT["description"] == codemeta["description"]
    assert PROJECT["keywords"] == codemeta["keywords"]
    assert {"PET/CT", "interactive segmentation", "autoPET"} <= set(citation["keywords"])


def test_changelog__keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert releases
    assert [r for r in releases if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d\d-\d\d)", r)] == []
    kinds = set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_classifiers__begin_with_the_lowest_python():
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert PROJECT["requires-python"] == f">={versions[0]}"


def imported_by(folder):
    """The packages that the files of a folder import, as their distributions are called; ours are left out."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    known = packages_distributions()
    return {canonicalize_name(dist) for top in tops for dist in known.get(top, ()) if top not in OURS}


@pytest.mark.parametrize("folder", OURS)
def test_dependencies__name_all_that_is_imported(folder):
    texts = [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    assert imported_by(folder) - declared == set()


def test_constraints__lie_within_what_the_project_allows():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    texts = [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]
    wanted = [Requirement(text) for text in texts if not text.startswith("clicksim")]
    assert [r.name for r in wanted if canonicalize_name(r.name) not in pins] == []
    assert [str(r) for r in wanted if pins[canonicalize_name(r.name)] not in r.specifier] == []


# paper


def test_paper__cites_what_its_bibliography_holds_and_nothing_else():
    text = (ROOT / "paper.md").read_text(encoding="utf-8")
    cited = set(re.findall(r"@([a-z]+[a-z0-9]*)", text))
    entries = re.findall(r"^@\w+\{(\w+),(.*?)^\}", (ROOT / "paper.bib").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert cited == {key for key, _ in entries}
    assert [key for key, body in entries if "title = {" not in body or "doi = {10." not in body] == []


def test_paper__has_the_sections_and_the_length_of_its_journal():
    _, head, body = (ROOT / "paper.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["authors"][0]["name"] == PROJECT["authors"][0]["name"]
    sections = re.findall(r"^# (.+)$", body, flags=re.MULTILINE)
    assert sections[:6] == [
        "Summary", "Statement of need", "State of the field", "Software design", "Research impact statement",
        "AI usage disclosure",
    ]  # fmt: skip
    assert 750 <= len(body.split()) <= 1750


# distributions


def data_files():
    """Everything in the packages that is no code and no cache, as a wheel names it."""
    found = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
    kept = [file for file in found if "__pycache__" not in file.parts and file.suffix != ".pyc"]
    return {file.relative_to(ROOT).as_posix() for file in kept}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with a wheel and an sdist of this tree."""
    pytest.importorskip("hatchling", reason="the backend is not installed; make wheel builds in isolation")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_wheel__holds_every_file_of_the_packages(dist):
    (file,) = dist.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
    assert data_files() - names == set()
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, f"clicksim-{clicksim.__version__}.dist-info"}
    assert {name.rpartition("/")[2] for name in names} >= {"LICENSE", "NOTICE", "py.typed"}


def test_sdist__holds_what_the_makefile_and_the_tests_need(dist):
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert data_files() - names == set()
    assert {f.name for f in ROOT.glob("*.*") if f.suffix in (".md", ".toml", ".txt", ".json", ".bib", ".cff")} <= names
    assert {f"tests/{f.name}" for f in (ROOT / "tests").glob("*.py")} <= names
    assert {"Makefile", "LICENSE", "NOTICE", "docs/generate.py", "benchmarks/__main__.py"} <= names
    assert {".ci/run", ".github/workflows/ci.yml", "fuzz/__main__.py", "rivals/check_manifests.py"} <= names


@pytest.mark.slow
def test_smoke__passes_with_the_installed_distribution(tmp_path):
    """The script of `make wheel`, run in this environment; what it says of the place of the package is left out."""
    for name in ("__init__.py", "golden", "golden_scribbles"):
        source, target = ROOT / "tests" / name, tmp_path / "tests" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    text = (ROOT / "tests" / "smoke.py").read_text(encoding="utf-8").replace("    check_files()\n", "", 1)
    (tmp_path / "smoke.py").write_text(text, encoding="utf-8")
    told = subprocess.run([sys.executable, "smoke.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.stdout.endswith("everything works\n"), told.stdout + told.stderr


def test_checks__take_every_extra_for_users_but_torch():
    users = set(PROJECT["optional-dependencies"]) - {"dev", "docs", "fuzz", "release"}
    assert set(wheel.EXTRAS) == users - {"torch"}


# workflows


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows__call_targets_of_the_makefile_alone(file):
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    found = [re.fullmatch(r"make ([a-z-]+) PYTHON=python", line) for line in lines]
    assert found
    assert [line for line, match in zip(lines, found, strict=True) if not match or match[1] not in targets] == []


def test_workflows__run_on_three_systems_with_the_oldest_and_the_newest_python():
    (file,) = WORKFLOWS
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    for name in ("test", "wheel"):
        matrix = jobs[name]["strategy"]["matrix"]
        assert [system.partition("-")[0] for system in matrix["system"]] == ["ubuntu", "macos", "windows"]
        assert matrix["python"] == [versions[0], versions[-1]]


def test_workflows__pin_actions_to_a_commit_with_its_version():
    uses = [line.split("uses:")[1].strip() for f in WORKFLOWS for line in f.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use)] == []


def test_makefile__finds_programs_on_windows_too():
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    for system, python in (("Windows_NT", ".venv/Scripts/python -m pytest"), ("", ".venv/bin/python -m pytest")):
        told = subprocess.run(
            ["make", "-n", "test", f"OS={system}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert python in told.stdout


# not verified


def rows_of_unverified():
    """What is not verified, with the commands that verify it."""
    text = (ROOT / "docs" / "unverified.md").read_text(encoding="utf-8").partition("## Not verified")[2]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    return [(row[0], re.findall(r"`([^`]+)`", row[2])) for row in cells]


@pytest.mark.parametrize(("what", "commands"), rows_of_unverified())
def test_unverified__names_commands_that_parse(what, commands):
    assert commands, f"no command verifies {what}"
    for line in commands:
        words = shlex.split(line.removeprefix("time "))
        if words[0] in ("clicksim", "clickseg"):
            parse(words)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, flags=re.MULTILINE), line
        else:
            assert words[0] in ("pip", "python", "du"), line


def test_unverified__takes_the_oldest_versions_that_the_extra_allows():
    allowed = map(Requirement, PROJECT["optional-dependencies"]["torch"])
    oldest = {r.name: Version(s.version) for r in allowed for s in r.specifier if s.operator == ">="}
    (line,) = (line for _, commands in rows_of_unverified() for line in commands if line.startswith("pip install"))
    assert {name: Version(version) for name, _, version in (pin.partition("==") for pin in line.split()[2:])} == oldest


# planning


def test_planning__sums_are_those_of_the_published_cohorts():
    assert sum(g.cases for g in (planning.FDG, *planning.PSMA)) == 1611
    rates = planning.Rates(2, 10.0, 20.0, {"convert": 1.0, "clicks": 2.0, "prepare": 4.0}, 100, 2_000_000, 0, 40)
    plan = planning.PLANS[0]
    cases, voxels, stored = planning.totals(plan)
    download, catalog, store = planning.sizes(plan, rates)
    assert download == pytest.approx(planning.PER_VOXEL * voxels * 1e6)
    assert catalog == 1_000_000 * cases
    assert store == pytest.approx(2 * stored)
    hours = [float(cell) for cell in planning.hours(plan, rates)[1:4]]
    expected = [voxels / 10 / 8 / 3600, voxels / 5 / 8 / 3600, stored / 5 / 8 / 3600]
    assert hours == pytest.approx(expected, rel=0.05)


def test_planning__page_has_a_row_for_each_source_in_each_table():
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    assert [plan.title for plan in planning.PLANS if page.count(f"| {plan.title} |") != 3] == []

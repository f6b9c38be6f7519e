"""What the documents promise: commands and snippets run, links lead somewhere, examples in docstrings are true."""

import doctest
import importlib
import json
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import clicksim
from clicksim.cli import COMMANDS, main
from clicksim.cli.demo import make_demo
from clicksim.protocols import list_protocols

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = {"pydicom", "highdicom", "duckdb", "dask", "distributed", "torch", "monai", "safetensors"}


def blocks(language):
    """The fenced blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


COMMAND_LINES = [line for block in blocks("sh") for line in block.splitlines() if line]
SNIPPETS = blocks("pycon")
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(ROOT / "clicksim")], "clicksim.")
    if "__main__" not in module.name
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which `make demo` has made its first patients."""
    folder = tmp_path_factory.mktemp("readme")
    make_demo(folder / "demo", patients=2)
    return folder


# README


def test_readme__has_commands_and_snippets():
    assert len(COMMAND_LINES) >= 4
    assert sum("clicksim clicks" in line for line in COMMAND_LINES) >= 3
    assert SNIPPETS


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_readme__command_runs_as_it_stands(line, demo, monkeypatch):
    monkeypatch.chdir(demo)
    program, *args = shlex.split(line)
    assert program == "clicksim"
    result = CliRunner().invoke(main, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if "--out" in args:
        assert Path(args[args.index("--out") + 1]).exists()
        assert result.stdout == ""
    elif args[0] == "clicks":
        assert json.loads(result.stdout)["tumor"]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme__snippet_is_true(number, demo, monkeypatch):
    monkeypatch.chdir(demo)
    test = doctest.DocTestParser().get_doctest(SNIPPETS[number], {}, f"README {number}", "README.md", 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_readme__names_every_protocol_and_command():
    rows = re.findall(r"^\| `([a-z-]+@\d+)` \|", README, flags=re.MULTILINE)
    assert rows == [protocol.id for protocol in list_protocols()]
    assert set(re.findall(r"^\| `clicksim ([a-z-]+)` \|", README, flags=re.MULTILINE)) == set(COMMANDS)


def test_readme__keeps_numbers_of_speed_out():
    assert not re.search(r"\d\s*(?:ms|µs|MVx|x faster|times faster|volumes? (?:a|per) second)\b", README)
    assert "docs/benchmarks.md" in README


# all documents


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents__link_only_to_what_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents__name_only_targets_that_make_knows(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z-]+)", text, flags=re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents__name_only_files_that_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    files = re.findall(r"`((?:clicksim|tests|docs|converters|clickseg|benchmarks|\.ci)/[\w./-]*)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents__have_lines_that_fit_a_diff(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    long = [line for line in lines if len(line) > 140 and not line.startswith(("|", "clicksim "))]
    assert long == []


def test_changelog__begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version == clicksim.__version__
    assert re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)[0] == version
    assert all(protocol.id in text for protocol in list_protocols())


# docstrings


@pytest.mark.parametrize("name", MODULES)
def test_docstrings__examples_are_true(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"{name} needs {error.name}, an extra that is not installed")
    results = doctest.testmod(module)
    assert results.failed == 0


def test_docstrings__hold_examples_at_all():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test.name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert "clicksim.simulate.clicks.simulate_clicks" in examples
    assert "clicksim.streams.stream" in examples

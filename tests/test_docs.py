"""What the documents promise: commands and snippets run, links lead somewhere, examples in docstrings are true.

Each page of `docs` is played from top to bottom in a folder of its own: a fence `sh` line by line, a fence `pycon` as
a doctest that shares its names with those above it, and a fence with `title="NAME"` is written to the file NAME.
A line that ends in `# exit code 1` must do so; any other must end well.
"""

import doctest
import importlib
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import clicksim
from clicksim.cli import COMMANDS, main
from clicksim.cli.demo import make_demo
from clicksim.protocols import list_protocols
from clicksim.simulate.annotators.annotator_files import fit_rows
from tests.commands import parse

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = tuple(sorted(file.name for file in ROOT.glob("*.md") if file.name != "paper.md"))
PAGES = sorted(DOCS.glob("*.md"))
EVERYTHING = [*(ROOT / name for name in DOCUMENTS), *PAGES]
FENCE = re.compile(r"^```(?P<head>[^\n]*)\n(?P<body>.*?)^```$", flags=re.MULTILINE | re.DOTALL)
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


# pages of docs


@dataclass
class Block:
    """What stands in one fence, and where."""

    kind: str
    body: str
    title: str = ""
    line: int = 0


def page_blocks(text):
    """The fences of a page, in order."""
    blocks = []
    for found in FENCE.finditer(text):
        kind, _, rest = found["head"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        blocks.append(Block(kind, found["body"], title[1] if title else "", text.count("\n", 0, found.start()) + 1))
    return blocks


def is_played(block):
    return block.kind in ("sh", "pycon") or block.title != ""


ELSEWHERE = {  # their commands need a trained model, or settings that make training short
    "container": "test_clickseg_container.py",
    "training": "test_clickseg_pages.py",
    "training-tutorial": "test_clickseg_pages.py",
}
PLAYED = [
    page
    for page in PAGES
    if page.stem not in ELSEWHERE and any(is_played(block) for block in page_blocks(page.read_text(encoding="utf-8")))
]


def play_page(page, folder):
    """Run a page from top to bottom; the first thing that is not true stops it."""
    names = {}
    for block in page_blocks(page.read_text(encoding="utf-8")):
        if block.title:
            (folder / block.title).write_text(block.body, encoding="utf-8")
        elif block.kind == "sh":
            for command in block.body.replace("\\\n", " ").splitlines():
                run_line(command, f"{page.name}:{block.line}")
        elif block.kind == "pycon":
            test = doctest.DocTestParser().get_doctest(block.body, names, page.name, page.name, block.line)
            assert test.examples, f"{page.name}:{block.line} shows no prompt"
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert runner.run(test, clear_globs=False).failed == 0, f"{page.name}:{block.line}"
            names.update(test.globs)


def run_line(command, where):
    """One line of a shell: in this process where it is a plain call of clicksim, else by bash."""
    wanted = int(found[1]) if (found := re.search(r"# exit code (\d)", command)) else 0
    words = shlex.split(command, comments=True)
    if not words:
        return
    if words[0] == "clicksim" and not re.search(r"[|<>;&*`]", command):
        if "$(" in command:
            words = shell(f"printf '%s\\0' {command}").stdout.split("\0")[:-1]
        result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
        code, output = result.exit_code, result.output
    else:
        done = shell(command)
        code, output = done.returncode, done.stdout + done.stderr
    assert code == wanted, f"{where}: {command}\n{output}"


def unplayed_commands():
    """Pages and commands that need a download or another program: their fences have no language."""
    found = []
    for page in PAGES:
        bodies = [block.body for block in page_blocks(page.read_text(encoding="utf-8")) if not block.kind]
        lines = [line for body in bodies for line in body.replace("\\\n", " ").splitlines()]
        found += [(page.stem, line) for line in lines if re.match("clicksim |clickseg ", line)]
    return found


@pytest.mark.parametrize(("page", "line"), unplayed_commands())
def test_pages__commands_that_are_not_played_can_be_read(page, line):
    parse(shlex.split(line))


@pytest.mark.parametrize("line", ["clicksim clicks --labels a", "clicksim catalog push one", "clicksim query catalog"])
def test_parse__notices_what_no_command_takes(line):
    with pytest.raises((AssertionError, click.UsageError)):
        parse(shlex.split(line))


@pytest.mark.parametrize(("stem", "file"), ELSEWHERE.items())
def test_pages__that_are_played_elsewhere_are(stem, file):
    assert f'"{stem}.md"' in (ROOT / "tests" / file).read_text(encoding="utf-8")


def shell(command):
    """By bash, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )


@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.stem)
def test_pages__run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fit_rows.__kwdefaults__, "bootstrap", 4)  # all samples would take most of a minute
    play_page(page, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nclicksim protocols no-such@1\n```",
        "```sh\nclicksim protocols  # exit code 1\n```",
        "```sh\nfalse | true\n```",
        "```pycon\n>>> 1 + 1\n3\n\n```",
        "```pycon\nno prompt\n```",
    ],
    ids=["refused", "not-refused", "pipe", "untrue", "no-prompt"],
)
def test_play_page__notices_what_is_not_true(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(text + "\n")
    with pytest.raises(AssertionError):
        play_page(tmp_path / "page.md", tmp_path)


def test_play_page__shares_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '```text title="a b.txt"\nhello\n```\n\n```pycon\n>>> x = 1\n\n```\n\n```pycon\n>>> x + 1\n2\n\n```\n'
    (tmp_path / "page.md").write_text(text + "\n```sh\ngrep -q hello \\\n  'a b.txt'\n```\n")
    play_page(tmp_path / "page.md", tmp_path)


def test_site__builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    if not find_spec("zensical"):
        pytest.skip("the site needs the extra docs: pip install 'clicksim[docs]'")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)  # of a link the target's folder would be built
    for name in ("clicksim", "converters", "clickseg"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    page = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    assert "simulate_clicks" in page
    asked = re.findall(r'<(?:link|script)[^>]+(?:googleapis|gstatic|src="http)[^>]*>', page)
    assert asked == []  # a reader's browser loads nothing from elsewhere


def test_pages__are_all_in_the_navigation():
    listed = re.findall(r'"([\w.-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(page.name for page in PAGES)


def test_pages__that_scripts_write_are_what_the_scripts_write():
    for name, describe in runpy.run_path(str(DOCS / "generate.py"))["PAGES"].items():
        assert (DOCS / name).read_text(encoding="utf-8") == describe(), f"{name} is old: make docs"


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_documents__import_only_public_names(file):
    imports = re.findall(r"from ((?:clicksim|converters|clickseg)[\w.]*) import ([\w, ]+)", file.read_text("utf-8"))
    named = {name.strip() for _, names in imports for name in names.split(",")} - {"__version__"}
    public = set(re.findall(r"^::: [\w.]+\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named - public == set()


def test_commands_page__names_every_command():
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### clicksim ([a-z-]+)$", text, flags=re.MULTILINE)) == set(COMMANDS)


def test_faults_page__names_every_protocol():
    text = (DOCS / "faults.md").read_text(encoding="utf-8")
    assert [protocol.id for protocol in list_protocols() if f"`{protocol.id}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages__link_only_to_what_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


# all documents


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents__link_only_to_what_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link).exists()] == []


def targets_of_make():
    """The targets that a user calls: those with a word on what they do."""
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def targets_in(text):
    """The targets that a text names."""
    return set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z-]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_documents__name_only_targets_that_make_knows(file):
    assert targets_in(file.read_text(encoding="utf-8")) <= targets_of_make()


def test_contributing__names_every_target():
    assert targets_in((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")) == targets_of_make() - {"help"}


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_documents__name_only_files_that_are_there(file):
    folders = r"clicksim|tests|docs|converters|clickseg|benchmarks|studies|fuzz|rivals|\.ci|\.github"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", file.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_documents__leave_numbers_of_speed_to_scripts(file):
    text = file.read_text(encoding="utf-8")
    if not re.search(r"^(?:Written|Generated) by|one run of `make", text, flags=re.MULTILINE):
        assert not re.search(r"\d\s*(?:ms|µs|MVx|x faster|times faster|volumes? (?:a|per) second)\b", text)


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
    assert "clicksim.simulate.clicks.click_rules.simulate_clicks" in examples
    assert "clicksim.streams.stream" in examples

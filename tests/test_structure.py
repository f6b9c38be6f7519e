"""The structure of the source: no import circle, no public name or file name twice."""

import ast

from studies import structure

SOURCES = structure.read_sources()
EDGES = {file.module: structure.imports_of(file, [other.module for other in SOURCES]) for file in SOURCES}


def source(path: str, text: str) -> structure.SourceFile:
    return structure.SourceFile(path, len(text.splitlines()), ast.parse(text))


def test_imports__make_no_circle() -> None:
    assert structure.find_circles(EDGES) == []
    circles = {level: structure.find_circles(found) for level, found in structure.package_edges(EDGES).items()}
    assert {level: found for level, found in circles.items() if found} == {}


def test_names__are_unique() -> None:
    assert structure.repeated_names(SOURCES, ast.ClassDef) == {}
    assert structure.repeated_names(SOURCES, ast.FunctionDef) == {}
    assert structure.repeated_files(SOURCES) == {}


def test_find_circles__finds_them_between_modules_and_between_packages() -> None:
    texts = {"a/x.py": "from b import y", "b/y.py": "def f():\n    import c.z", "c/z.py": "import a.x", "a/w.py": ""}
    files = [source(path, text) for path, text in texts.items()]
    edges = {file.module: structure.imports_of(file, [other.module for other in files]) for file in files}
    assert structure.find_circles(edges) == [["a.x", "b.y", "c.z"]]
    assert structure.find_circles(structure.package_edges(edges)[""]) == [["a", "b", "c"]]
    edges["c.z"] = {"a.w"}
    assert structure.find_circles(edges) == []
    assert structure.find_circles(structure.package_edges(edges)[""]) == [["a", "b", "c"]]


def test_imports_of__leaves_out_what_only_type_checkers_read() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.x\n"
    assert structure.imports_of(source("b/y.py", text), ["a.x"]) == set()


def test_repeated_names__knows_private_names_and_protocols() -> None:
    files = [
        source("converters/a/one.py", "def plan(): ...\ndef _f(): ...\ndef f(): ...\nclass A: ..."),
        source("converters/b/two.py", "def plan(): ...\ndef _f(): ...\ndef f(): ...\nclass B: ..."),
        source("clicksim/cli/three.py", "@group.command()\ndef f(): ..."),
    ]
    both = ["converters/a/one.py", "converters/b/two.py"]
    assert structure.repeated_names(files, ast.FunctionDef) == {"f": both}
    assert structure.repeated_names(files, ast.ClassDef) == {}
    assert structure.repeated_files([*files, source("clickseg/two.py", "")]) == {
        "two.py": ["converters/b/two.py", "clickseg/two.py"]
    }

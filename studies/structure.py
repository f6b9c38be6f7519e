"""The structure of the source: sizes, import circles, and names that are not unique. Writes docs/structure.md.

Every fact comes from the syntax trees; nothing is imported. Tests are not counted.

The study looks for import circles among the modules, and among the members of each package, where a subpackage counts
as one member. An import inside a function counts; an import for type checkers only does not.

A public name is a class or function at the top of a module without a leading underscore. Other code finds some names by
a protocol; these may occur once in each place:

- commands: functions that click registers, and the files of `clicksim/cli/`, which are named after their command;
- `plan`, `convert` and `least_bytes` of a source in `converters/`;
- `seeds`, `read`, `unpack` and `pack` of a target in `fuzz/targets/`;
- `run` of a group of benchmarks, and `main` and `page` of a script.
"""

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("clicksim", "converters", "clickseg", "benchmarks", "studies", "fuzz", "rivals", "docs")
LONG = 450
NAMELESS = ("__init__.py", "__main__.py")
PROTOCOLS = {
    "converters/": {"plan", "convert", "least_bytes"},
    "fuzz/targets/": {"seeds", "read", "unpack", "pack"},
    "benchmarks/": {"run", "main", "page"},
    "studies/": {"main", "page"},
    "docs/": {"main", "page"},
    "fuzz/": {"main"},
    "rivals/": {"main"},
    "clicksim/": {"main"},
    "clickseg/": {"main"},
}
"""Names that a protocol requires, by the folder in which it applies."""
COMMANDS = "clicksim/cli/"


@dataclass(frozen=True)
class SourceFile:
    """One file of Python.

    Attributes:
        path: Path relative to the root, with slashes.
        lines: Number of lines.
        tree: Syntax tree.
    """

    path: str
    lines: int
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read_sources(root: Path = ROOT) -> list[SourceFile]:
    """All Python files of the packages, by path."""
    paths = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    texts = {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in paths}
    return [SourceFile(path, len(text.splitlines()), ast.parse(text)) for path, text in texts.items()]


def imports_of(file: SourceFile, modules: Iterable[str]) -> set[str]:
    """The modules of this project that a file imports, at any depth, except for type checkers only."""
    known = set(modules)
    found: set[str] = set()
    for node in _nodes(file.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(parts & known or {node.module})
    return (found & known) - {file.module}


def find_circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected parts of a graph that have more than one member, each sorted."""
    reach = {start: _reachable(start, edges) for start in edges}
    circles = {frozenset({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in edges}
    return sorted(sorted(circle) for circle in circles if len(circle) > 1)


def package_edges(edges: Mapping[str, set[str]]) -> dict[str, dict[str, set[str]]]:
    """For each package, the imports between its members."""
    levels: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, found in edges.items():
        for other in found:
            ours, theirs = module.split("."), other.split(".")
            depth = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if depth is not None:
                levels[".".join(ours[:depth])][ours[depth]].add(theirs[depth])
    return levels


def repeated_names(
    files: Iterable[SourceFile], kind: type[ast.ClassDef] | type[ast.FunctionDef]
) -> dict[str, list[str]]:
    """Public names of one kind that several modules define, with the paths."""
    places = defaultdict(list)
    for file in files:
        for node in file.tree.body:
            if isinstance(node, kind) and not _is_exempt(file, node):
                places[node.name].append(file.path)
    return {name: paths for name, paths in sorted(places.items()) if len(paths) > 1}


def repeated_files(files: Iterable[SourceFile]) -> dict[str, list[str]]:
    """Names that several files have, with the paths."""
    places = defaultdict(list)
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if name not in NAMELESS and f"{folder}/" != COMMANDS:
            places[name].append(file.path)
    return {name: paths for name, paths in sorted(places.items()) if len(paths) > 1}


def describe_structure(files: list[SourceFile]) -> str:
    """The page."""
    edges = {file.module: imports_of(file, [other.module for other in files]) for file in files}
    levels = package_edges(edges)
    sizes = [[file for file in files if file.path.startswith(f"{package}/")] for package in PACKAGES]
    rows = [
        f"| `{package}` | {len(part)} | {sum(file.lines for file in part):,} |"
        for package, part in zip(PACKAGES, sizes, strict=True)
    ]
    members = [
        f"`{level or '.'}`: {', '.join(c)}" for level, found in sorted(levels.items()) for c in find_circles(found)
    ]
    long = sorted((file for file in files if file.lines > LONG), key=lambda file: -file.lines)
    return "\n".join(
        [
            "# Structure",
            "",
            "Written by `make structure` from the source without the tests. `studies/structure.py` explains what is",
            "counted and which names may repeat.",
            "",
            "| package | files | lines |",
            "| --- | ---: | ---: |",
            *rows,
            f"| all | {len(files)} | {sum(file.lines for file in files):,} |",
            "",
            *_listed("Import circles among modules", [", ".join(c) for c in find_circles(edges)]),
            *_listed("Import circles among the members of a package", members),
            *_listed("Public classes that several modules define", _shown(repeated_names(files, ast.ClassDef))),
            *_listed("Public functions that several modules define", _shown(repeated_names(files, ast.FunctionDef))),
            *_listed("File names that several files have", _shown(repeated_files(files))),
            *_listed(f"Files of more than {LONG} lines", [f"`{file.path}`: {file.lines}" for file in long]),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.structure", description="Write docs/structure.md.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "structure.md")
    given = parser.parse_args(arguments)
    given.out.write_text(describe_structure(read_sources()), encoding="utf-8")


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node, except what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def _is_exempt(file: SourceFile, node: ast.stmt) -> bool:
    """Whether a definition is private, a command, or required by a protocol."""
    name = str(getattr(node, "name", ""))
    if name.startswith("_"):
        return True
    calls = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
    if any(call.partition("(")[0].endswith((".command", ".group")) for call in calls):
        return True
    return any(file.path.startswith(folder) and name in names for folder, names in PROTOCOLS.items())


def _shown(places: Mapping[str, list[str]]) -> list[str]:
    return [f"`{name}`: {', '.join(f'`{path}`' for path in paths)}" for name, paths in places.items()]


def _listed(title: str, items: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items or ["none"]), ""]


if __name__ == "__main__":
    main()

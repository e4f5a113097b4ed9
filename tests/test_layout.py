"""The layout of the packages: no module imports another one in a circle."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"alphanet_zoo": ROOT / "alphanet_zoo", "alphanet_export": ROOT / "export" / "alphanet_export"}
Graph = dict[str, set[str]]

FILE_USERS = {"alphanet_zoo.predict.classifier", "alphanet_zoo.slim.switchable", "alphanet_zoo.train.teacher"}
"""`Classifier.load`, `Switchable.export` and a teacher that is a file import `alphanet_export` when called."""

HUB_MIXIN = "alphanet_zoo.zoo.hub_mixin"
"""The one module that may close a circle: its methods load `zoo.hub` and `alphanet_export` when they are called."""


def source_files() -> dict[str, Path]:
    """All modules by dotted name; a package stands for its ``__init__.py``."""
    files = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            files[".".join((package, *parts)).removesuffix(".__init__")] = path
    return files


def imported_names(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Every import of a module, also within functions and ``if TYPE_CHECKING``: candidates, the most specific first."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import"
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def imported_at_once(path: Path) -> list[str]:
    """The modules that a file imports when it is imported itself."""
    top = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [candidates[-1] for node in top for candidates in imported_names(node)]


def import_graph(files: dict[str, Path]) -> Graph:
    """The modules that each module imports. ``alphanet_zoo`` itself, which only lists lazy public names, has none."""
    graph: Graph = {}
    for name, path in files.items():
        candidates = [] if name == "alphanet_zoo" else imported_names(ast.parse(path.read_text("utf-8")))
        found = (next((entry for entry in names if entry in files), None) for names in candidates)
        graph[name] = {entry for entry in found if entry is not None}
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    """The modules that ``start`` imports, directly or through others."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that import one another."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph}
    return sorted(list(group) for group in groups if group)


def area(module: str) -> str:
    """The package and sub-package of a module, such as ``alphanet_zoo.space``."""
    return ".".join(module.split(".")[:2])


FILES = source_files()
GRAPH = import_graph(FILES)
assert GRAPH[HUB_MIXIN] == {
    "alphanet_zoo.errors", "alphanet_zoo.nn.family", "alphanet_zoo.zoo.hub", "alphanet_export.export",
}  # fmt: skip
GRAPH[HUB_MIXIN] = set()
AREAS = sorted({area(name) for name in FILES if name not in PACKAGES})


def test_the_graph_sees_lazy_and_typing_imports(tmp_path: Path) -> None:
    sources = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\n",
        "b": "def f():\n    from c import name\n",
        "c": "import a, os\n",
        "d": "from a import name\nimport e.f\n",
    }
    files = {name: tmp_path / f"{name}.py" for name in sources}
    for name, path in files.items():
        path.write_text(sources[name])
    assert import_graph(files) == {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(import_graph(files)) == [["a", "b", "c"]]
    assert "alphanet_zoo.space.choices" in GRAPH["alphanet_zoo.space.space"]


def test_only_commands_and_the_mixin_import_the_export_package() -> None:
    importing = {name for name, found in GRAPH.items() if any(each.startswith("alphanet_export") for each in found)}
    assert {name for name in importing if not name.startswith(("alphanet_zoo.cli.", "alphanet_export"))} == FILE_USERS
    tree = ast.parse(FILES[HUB_MIXIN].read_text("utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [name for node in at_import for names in imported_names(node) for name in names]
    assert modules and not any(name.startswith("alphanet") for name in modules)


@pytest.mark.parametrize("name", AREAS)
def test_no_modules_import_one_another(name: str) -> None:
    assert [group for group in circles(GRAPH) if name in map(area, group)] == []


def test_only_commands_import_the_export_package_when_they_are_imported() -> None:
    for name, path in FILES.items():
        if not name.startswith("alphanet_zoo.") or area(name) == "alphanet_zoo.cli":
            continue
        assert not [each for each in imported_at_once(path) if each.startswith("alphanet_export")], name


def test_the_export_package_does_not_import_the_trainer_when_it_is_imported() -> None:
    for name, path in FILES.items():
        if name.startswith("alphanet_export"):
            assert not [each for each in imported_at_once(path) if each.startswith("alphanet_zoo.train")], name


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_import_what_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module

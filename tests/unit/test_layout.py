"""The house rules of the tree: imports point down only, and every package is listed for the wheel."""

import ast
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("samplers", "pipeline", "features", "search", "tools")  # each may import itself and what stands before it
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
MAPPED = {name: folder for name, folder in SETUP["package-dir"].items() if folder != "."}  # folders deep inside
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported_layers(path: Path) -> set[str]:
    """Top-level folders of drawstream that a module imports anywhere, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts = {name.split(".")[1] for name in names if name.startswith("drawstream.")}
        found |= {Path(MAPPED.get(f"drawstream.{part}", part)).parts[0] for part in parts}
    return found & set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    assert not imported_layers(path) & set(above), f"{layer} must not import {above}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_relative_imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level], "import by full name"


def test_layer_test_sees_a_violation(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from drawstream.tools import cli\n    import drawstream.search.swift.space\n")
    assert imported_layers(bad) == {"tools", "search"}
    bad.write_text("from drawstream.testing import check_stream\n")
    assert imported_layers(bad) == {"tools"}


def imports_of(path: Path, names: Mapping[str, Path]) -> set[Path]:
    """Files of the tree that a file imports when it runs, function bodies included; not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    checked = [block for block in blocks if "TYPE_CHECKING" in ast.unparse(block.test)]
    unseen = {id(each) for block in checked for node in block.body for each in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in unseen:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in names else node.module for each in whole}
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            found |= {alias.name for alias in node.names}
    return {names[each] for each in found & names.keys()}


def circle(arrows: Mapping[Path, set[Path]]) -> list[Path]:
    """Files that import each other in a circle: the first one found, or nothing."""
    done: set[Path] = set()

    def walk(at: Path, way: list[Path]) -> list[Path]:
        if at in way:
            return way[way.index(at) :]
        if at not in done:
            for to in arrows[at]:
                if found := walk(to, [*way, at]):
                    return found
            done.add(at)
        return []

    return next((found for start in arrows if (found := walk(start, []))), [])


def test_no_files_import_each_other_in_a_circle():
    dotted = {path: ".".join(("drawstream", *path.relative_to(ROOT).with_suffix("").parts)) for path in MODULES}
    names = {name.removesuffix(".__init__"): path for path, name in dotted.items()}
    names |= {name.replace("drawstream.tools.testing", "drawstream.testing"): path for name, path in names.items()}
    found = circle({path: imports_of(path, names) for path in MODULES})
    assert not [str(path.relative_to(ROOT)) for path in found]


def test_the_test_of_circles_sees_one(tmp_path):
    one, two, three = (tmp_path / f"{name}.py" for name in ("one", "two", "three"))
    one.write_text("from m import two\n")
    two.write_text("def f():\n    from m.three import name\n")
    three.write_text("import m.one\n")
    names = {"m.one": one, "m.two": two, "m.three": three}
    assert circle({path: imports_of(path, names) for path in names.values()}) == [one, two, three]
    three.write_text("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import m.one\n")
    assert circle({path: imports_of(path, names) for path in names.values()}) == []


def test_rooms_stay_small():
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in MODULES)
    assert not {room: count for room, count in counts.items() if count > 16}


def test_package_list_is_the_tree():
    names = {folder: name for name, folder in MAPPED.items()}
    inside = {path.parent.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py")}
    packages = {names.get(str(folder), ".".join(("drawstream", *folder.parts))) for folder in inside}
    assert set(SETUP["packages"]) == {"drawstream", *packages}
    folders = {path.parent for path in MODULES}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
    assert {folder for folder in folders if not (folder / "py.typed").exists()} == set()
    assert (ROOT / "__init__.py").exists()
    assert (ROOT / "py.typed").exists()


def test_files_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 500}
    assert not long

"""The house rules of the tree: imports point down only, and every package is listed for the wheel."""

import ast
import tomllib
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

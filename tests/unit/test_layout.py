"""The rules of the tree: imports point down only, every package is listed, CONTRIBUTING.md names what is there."""

import ast
import re
import subprocess
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


def dotted(path: Path) -> str:
    """Import name of a file of the tree, or of a package for its `__init__.py`."""
    name = ".".join(("drawstream", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    return name.replace("drawstream.tools.testing", "drawstream.testing")


def exported(path: Path) -> dict[str, str]:
    """Names that the `__init__.py` of a room gives to others, each with the module that defines it."""
    blocks = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    lines = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in lines for alias in node.names}


EXPORTS = {dotted(path): exported(path) for path in MODULES if path.name == "__init__.py"}
FILES = {dotted(path): path for path in MODULES}


def hidden_names(path: Path, room: str, exports: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Imports of a file that are neither of its own room nor named by the `__init__.py` of another one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("drawstream."):
            continue
        module = str(node.module)
        if module != room and module.rpartition(".")[0] != room:
            found += [f"{module}.{each.name}" for each in node.names if each.name not in exports.get(module, {})]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_use_only_what_other_rooms_export(path):
    if path.name != "__init__.py":
        hidden = hidden_names(path, dotted(path.parent / "__init__.py"), EXPORTS)
        assert not hidden, "import it from the room, `from drawstream.room import name`, and name it in its __init__.py"


def test_the_test_of_exports_sees_a_hidden_name(tmp_path):
    path = tmp_path / "file.py"
    path.write_text("from drawstream.a import x, y\nfrom drawstream.a.file import x\nfrom drawstream.b.file import z\n")
    assert hidden_names(path, "drawstream.b", {"drawstream.a": {"x": "drawstream.a.file"}}) == [
        "drawstream.a.y",
        "drawstream.a.file.x",
    ]


def imports_of(path: Path, names: Mapping[str, Path], exports: Mapping[str, Mapping[str, str]]) -> set[Path]:
    """Files of the tree that a file imports when it runs, function bodies included; not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    checked = [block for block in blocks if "TYPE_CHECKING" in ast.unparse(block.test)]
    unseen = {id(each) for block in checked for node in block.body for each in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in unseen:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in names else exports.get(node.module, {}).get(alias.name, node.module))
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
    everything = {**EXPORTS, "drawstream": exported(ROOT / "__init__.py")}
    found = circle({path: imports_of(path, FILES, everything) for path in MODULES})
    assert not [str(path.relative_to(ROOT)) for path in found]


def test_the_test_of_circles_sees_one(tmp_path):
    one, two, three = (tmp_path / f"{name}.py" for name in ("one", "two", "three"))
    one.write_text("from m import two\n")
    two.write_text("def f():\n    from m.three import name\n")
    three.write_text("import m.one\n")
    names = {"m.one": one, "m.two": two, "m.three": three}
    assert circle({path: imports_of(path, names, {}) for path in names.values()}) == [one, two, three]
    three.write_text("from m import name\n")
    exports = {"m": {"name": "m.one"}}
    assert circle({path: imports_of(path, names, exports) for path in names.values()}) == [one, two, three]
    three.write_text("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import m.one\n")
    assert circle({path: imports_of(path, names, {}) for path in names.values()}) == []


def test_rooms_stay_small():
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in MODULES)
    assert not {room: count for room, count in counts.items() if count > 16}


def test_package_list_is_the_tree():
    names = {folder: name for name, folder in MAPPED.items()}
    inside = {path.parent.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py")}
    inside = {folder for folder in inside if not str(folder).startswith(("tools/bench", "tools/examples"))}  # no wheel
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


GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLACE = re.compile(r"`((?:\.?[\w-]+/)+[\w.-]*|\w+\.(?:py|md|toml|txt))(?:: ([\w.]+(?:, [\w.]+)*))?`")


def defined_in(path: Path) -> set[str]:
    """Names that a file defines at its top level, and `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = {f"{node.name}.{each.name}" for each in inner if isinstance(each, ast.FunctionDef)}
            found |= {node.name} | methods
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(each) for each in targets}
    return found


def wrong_places(text: str) -> list[str]:
    """Places of a text that are not there: a path, or `path: name`."""
    places = [(path, names.split(", ") if names else []) for path, names in PLACE.findall(text)]
    missing = [path for path, _ in places if not (ROOT / path).exists()]
    known = [(path, name) for path, names in places if path not in missing for name in names]
    return missing + [f"{path}: {name}" for path, name in known if name not in defined_in(ROOT / path)]


def test_what_contributing_names_is_there():
    assert not wrong_places(GUIDE), "CONTRIBUTING.md"
    answers = GUIDE.partition("## Where is …?")[2].partition("## ")[0].splitlines()[4:]
    assert len([line for line in answers if PLACE.search(line)]) >= 24
    assert len(GUIDE.splitlines()) <= 120


def test_contributing_names_every_room():
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in MODULES}
    assert not rooms - {path for path, _ in PLACE.findall(GUIDE)}, "name them in CONTRIBUTING.md"


def test_a_wrong_place_would_be_found():
    order = "samplers/orders/order.py"
    text = f"`samplers/none.py`, `samplers/errors.py: Nothing`, `{order}: Order.weights, Order.none`, `x.md`, `docs/`"
    wrong = ["samplers/none.py", "x.md", "samplers/errors.py: Nothing", f"{order}: Order.none"]
    assert wrong_places(text) == wrong


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    told = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert phony is not None
    assert sorted(re.findall(r"^make (\S+) +\S", told, re.MULTILINE)) == sorted(phony[1].split())

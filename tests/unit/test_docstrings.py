"""Docstrings: everything public has one, and what users import names every argument, shape and error.

Read from the sources, nothing is imported.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("samplers", "pipeline", "features", "search")
ARRAYS = re.compile(r"\b(NDArray|Tensor|ArrayLike|Array)\b")
SHAPE = re.compile(r"\([^()]*[\w…*]+(, ?[\w…]*)*\)|\bscalar\b|\bshape\b|as [`(]|like [`(]", re.IGNORECASE)
DTYPE = re.compile(r"\b(u?int\d*|float\d*|bool|boolean|integers?|numbers|numeric)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Public(NamedTuple):
    """A public function, class or method with the class it is in."""

    path: Path
    name: str
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public(path: Path) -> Iterator[Public]:
    """All public names of a file."""
    for node in parsed(path).body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield Public(path, node.name, node, None)
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, Function) and (not each.name.startswith("_") or each.name == "__init__"):
                        yield Public(path, f"{node.name}.{each.name}", each, node)


def exported(folder: str) -> Iterator[Public]:
    """What the folder's `__init__` exports, with the public methods of classes."""
    for block in parsed(ROOT / folder / "__init__.py").body:
        for node in block.body if isinstance(block, ast.If) else ():
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.name for alias in node.names}
                for each in public(ROOT.joinpath(*node.module.split(".")[1:]).with_suffix(".py")):
                    if each.name.partition(".")[0] in names:
                        yield each


def decorators(node: Function | ast.ClassDef) -> set[str]:
    return {ast.unparse(each).partition("(")[0].split(".")[-1] for each in node.decorator_list}


def arguments(node: Function) -> dict[str, str]:
    """Annotations by argument, without `self`."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {
        a.arg: ast.unparse(a.annotation) if a.annotation else ""
        for a in given
        if a.arg not in ("self", "cls") and a.arg[0] != "_"
    }


def fields(node: ast.ClassDef) -> dict[str, str]:
    """Annotations by public field of a dataclass or named tuple."""
    return {
        each.target.id: ast.unparse(each.annotation)
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and not each.target.id.startswith("_")
        if not ast.unparse(each.annotation).startswith(("ClassVar", "InitVar"))
    }


def entries(text: str) -> dict[str, str]:
    """What the sections Args and Attributes say, by name; `a, b: …` is an entry of both."""
    found: dict[str, str] = {}
    for section in re.split(r"\n\s*\n", text):
        head, _, body = section.strip().partition("\n")
        if head.strip() not in ("Args:", "Attributes:"):
            continue
        for entry in re.split(r"\n(?=\s{0,4}(?:\S))", "\n" + re.sub(r"(?m)^    ", "", body)):
            names, colon, said = entry.strip().partition(":")
            if colon:
                for name in re.split(r",\s*|\s+and\s+", names):
                    found[name.strip("`* ")] = said.strip()
    return found


def commented(node: ast.ClassDef, lines: list[str]) -> set[str]:
    """Fields with a comment in their own lines or in the line above."""
    found = set()
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            own = lines[max(0, each.lineno - 2) : each.end_lineno]
            if any("#" in line for line in own):
                found.add(each.target.id)
    return found


def raises_value_error(node: ast.AST) -> bool:
    """Whether the body itself raises ValueError; nested functions do not count."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(each, ast.Raise) and each.exc is not None and ast.unparse(each.exc).startswith("ValueError("):
            return True
        if raises_value_error(each):
            return True
    return False


INSIDE = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FILES = sorted(path for room in (*ROOMS, "tools") for path in (ROOT / room).rglob("*.py"))
SURFACE = list({(each.path, each.name): each for each in exported(".")}.values())


def faults_of_names(each: Public) -> list[str]:
    """What an exported function or class does not say about its arguments."""
    if isinstance(each.node, ast.ClassDef):
        if not decorators(each.node) & {"dataclass"}:
            return []
        wanted, said = fields(each.node), entries(each.text)
        known = said.keys() | commented(each.node, each.path.read_text(encoding="utf-8").splitlines())
        known |= {name for name in wanted if re.search(rf"\b{name}\b", each.text)}
    else:
        if decorators(each.node) & {"property", "setter", "overload"}:
            return []
        wanted = arguments(each.node)
        said = entries(each.text)
        if each.node.name == "__init__" and each.owner is not None:
            said |= entries(ast.get_docstring(each.owner) or "")
            known = said.keys()
        elif each.owner is None:
            known = said.keys()
        else:  # a method may name its arguments in a sentence
            told = each.text.replace(
                "`state_dict`", "`state_dict`, its state"
            )  # "where `state_dict` was called" is enough
            known = {name for name in wanted if name in said or re.search(rf"\b{name}\b", told)}
    found = [f"{name}: not described" for name in wanted if name not in known]
    for name, kind in wanted.items():
        if name in said and ARRAYS.search(kind) and "Callable" not in kind:
            if not SHAPE.search(said[name]):
                found.append(f"{name}: {kind} without its shape")
            if not DTYPE.search(said[name]):
                found.append(f"{name}: {kind} without its type of numbers")
    return found


def faults_of_errors(each: Public) -> list[str]:
    """Whether ValueError is raised and not said."""
    if isinstance(each.node, ast.ClassDef) or not raises_value_error(each.node):
        return []
    text = each.text
    if each.node.name in ("__init__", "__post_init__") and each.owner is not None:
        text += ast.get_docstring(each.owner) or ""
    return [] if re.search(r"Raises:|[Ee]rrors as ", text) else ["raises ValueError and does not say when"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(path):
    silent = [each.name for each in public(path) if not each.text and not each.name.endswith(".__init__")]
    if ast.get_docstring(parsed(path)) is None and parsed(path).body:
        silent.append("the module")
    assert not silent


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_the_things_noun(path):
    documented = (ast.Module, ast.ClassDef, *Function.__args__)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(parsed(path)) if isinstance(node, documented)]
    assert not [text.splitlines()[0] for text in texts if re.match(r"(What|That which|Of an?|Of the) ", text)]


@pytest.mark.parametrize("each", SURFACE, ids=lambda each: f"{each.path.parent.name}.{each.name}")
def test_what_is_exported_says_every_argument_shape_and_error(each):
    assert not [*faults_of_names(each), *faults_of_errors(each)]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_inside_the_rooms_fields_and_errors_are_described(path):
    found = {
        each.name: [*(faults_of_names(each) if isinstance(each.node, ast.ClassDef) else []), *faults_of_errors(each)]
        for each in public(path)
    }
    assert not {name: faults for name, faults in found.items() if faults}


WELL = """
def f(x: ArrayLike, y: int) -> None:
    \"\"\"One line.

    Args:
        x: float (n,), scores.
        y: a number.

    Raises:
        ValueError: no.
    \"\"\"
    raise ValueError("no")
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("y: a number", "z: a number"), "y: not described"),
        (("float (n,)", "(n,)"), "x: ArrayLike without its type of numbers"),
        (("float (n,)", "float"), "x: ArrayLike without its shape"),
        (("Raises:", "Notes:"), "raises ValueError and does not say when"),
        (("", ""), None),
    ],
)
def test_faults_are_found(change, fault, tmp_path):
    path = tmp_path / "m.py"
    path.write_text(WELL.replace(*change), encoding="utf-8")
    (each,) = public(path)
    assert [*faults_of_names(each), *faults_of_errors(each)] == ([] if fault is None else [fault])

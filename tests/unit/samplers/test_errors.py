"""Errors with names of their own: one base, the kinds they were before, and both sides of a process border."""

import ast
import builtins
import pickle
from pathlib import Path

import pytest

import drawstream
from drawstream import DrawstreamError

ROOT = Path(__file__).resolve().parents[3]
OF_INPUT = ("AlteredCatalogError", "DamagedTarError", "DegenerateSampler", "StudyMismatch")
OF_RUNS = ("BadSampleError", "ObjectiveError", "RemoteError", "StorageError", "WorkerError")
OTHERS = {"DrawstreamError", "SystemFault", "ProbeDone", "Stopped"}  # the base, the system's, one nobody sees, an exit


def bases(node):
    return {ast.unparse(base) for base in node.bases}


def test_every_error_with_a_name_has_the_base():
    classes = [
        node
        for room in ("samplers", "pipeline", "features", "search", "tools")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    kinds = {
        name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    named = [each for each in classes if not each.name.startswith("_")]
    assert {each.name for each in named if bases(each) & kinds and "DrawstreamError" not in bases(each)} == OTHERS
    assert {*OF_INPUT, *OF_RUNS} <= {each.name for each in classes if "DrawstreamError" in bases(each)}


@pytest.mark.parametrize("name", [*OF_INPUT, *OF_RUNS])
def test_an_error_stays_what_it_was_and_crosses_processes(name):
    kind = getattr(drawstream, name)
    assert issubclass(kind, DrawstreamError)
    assert issubclass(kind, RuntimeError) == (name in OF_RUNS)
    error = kind("what, where", 7) if name in ("BadSampleError", "DamagedTarError") else kind("what, where")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "what, where"
    assert vars(copy) == vars(error)


def test_the_base_is_a_value_error():
    assert issubclass(DrawstreamError, ValueError)
    assert not issubclass(DrawstreamError, RuntimeError)

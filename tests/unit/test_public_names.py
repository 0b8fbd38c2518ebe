"""`import drawstream`: its public names, what importing it loads, and the function behind both."""

import builtins
import importlib
import pickle
import sys
from pathlib import Path

import pytest

import drawstream
from drawstream.samplers.exports import lazy_exports, public_names
from shared.processes import run
from shared.refusals import refused

HEAVY = ("numpy", "numba", "torch", "nvidia", "pyarrow", "scipy", "optuna", "sklearn", "fsspec", "importlib.metadata")
ROOT = Path(drawstream.__file__).parent
LAYERS = ("samplers", "pipeline", "features", "search", "tools")
FOLDERS = sorted(path.parent.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py"))
ROOMS = [".".join(("drawstream", *folder.parts)) for folder in FOLDERS if "examples" not in folder.parts]
PACKAGES = ("drawstream", *(room.replace("tools.testing", "testing") for room in ROOMS))


def python(code):
    return run("-W", "error", "-c", code)[0].split()


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package):
    loaded = python(f"import sys, {package}; print(*sys.modules)")
    assert not set(HEAVY) & set(loaded)


def test_a_name_loads_what_it_needs_and_no_more():
    assert not {"torch", "nvidia", "pyarrow"} & set(
        python("import sys; from drawstream import IndexStream; print(*sys.modules)")
    )
    assert not {"torch", "nvidia"} & set(
        python("import sys; from drawstream import Catalog, FeatureTable, pack; print(*sys.modules)")
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves_and_is_the_one_of_its_file(package):
    module = importlib.import_module(package)
    homes = public_names(package)
    if homes:
        assert module.__all__ == sorted(homes) == sorted(dir(module))
    for name, home in homes.items():
        found = getattr(module, name)
        assert found is (
            importlib.import_module(f"{home}.{name}")
            if home == package
            else getattr(importlib.import_module(home), name)
        )
        assert package != "drawstream" or name == "Objective" or found.__name__ == name  # that one is a type alias


def test_the_version_is_that_of_the_distribution():
    assert drawstream.__version__ == importlib.import_module("importlib.metadata").version("drawstream")


def test_names_promised_by_the_guides_are_there():
    promised = """Catalog Loader Batch Transform Remote CropFilter Mixup RICAP BadSampleError ArraySource pack
        open_source index verify IndexStream MixedStream Sequential Schedule SwiftSampler SwiftFit SwiftParams refit
        effective_sample_size normalize_weights clip_weights InfoBatch SelectiveBackprop OrderedSGD DLIS RHOLoss
        random_coreset forgetting_coreset highest_coreset SoftCap k_center FeatureTable Tracker Scoring Crops
        CropScorer ShardScorer
        DegenerateSampler PSGD CSGD extract_features search_swift search_auto Trial load_objective find_suspects"""
    assert set(promised.split()) <= set(drawstream.__all__)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Catalgo", "; did you mean 'Catalog'?"),
        ("indexstream", "; did you mean 'IndexStream'?"),
        ("extract_feature", "; did you mean 'extract_features'?"),
        ("zzz", ""),
        ("__wrapped__", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, end):
    with pytest.raises(AttributeError) as raised:
        getattr(drawstream, name)
    assert str(raised.value) == f"module 'drawstream' has no attribute {name!r}{end}"
    refused(name, exec, f"from drawstream import {name}", error=ImportError)


def test_a_traceback_suggests_once():
    code = "import drawstream\ndrawstream.Catalgo"
    assert run("-c", code, status=1)[1].lower().count("did you mean") == 1


def test_a_star_import_hides_no_builtin():
    assert not set(vars(builtins)) & set(drawstream.__all__)
    namespace = {}
    exec("from drawstream import *", namespace)
    assert set(drawstream.__all__) <= set(namespace)


def test_classes_and_functions_can_be_pickled(tmp_path):
    found = {name: getattr(drawstream, name) for name in drawstream.__all__ if name != "Objective"}  # a type alias
    assert pickle.loads(pickle.dumps(found)) == found
    path = tmp_path / "params.pickle"
    path.write_bytes(pickle.dumps(drawstream.SwiftParams.uniform()))
    code = f"import pickle; print(type(pickle.loads(open({str(path)!r}, 'rb').read())).__module__)"
    assert python(code) == ["drawstream.samplers.swift.sampler"]  # in a process that has imported nothing


def test_only_imports_of_the_block_for_type_checkers_are_public(tmp_path, monkeypatch):
    (tmp_path / "small.py").write_text(
        "import json\nfrom typing import TYPE_CHECKING\nfrom textwrap import dedent\n"
        "if TYPE_CHECKING:\n    from math import pi as pi, tau as tau\nif json:\n    from math import sin\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    small = importlib.import_module("small")
    try:
        get, listed, names = lazy_exports("small")
        assert names == listed() == ["pi", "tau"]
        assert get("tau") == 2 * get("pi")
        monkeypatch.setattr(small.__spec__.loader, "get_source", lambda name: None)
        refused("source of small is missing", lazy_exports, "small", error=ImportError)
    finally:
        del sys.modules["small"]

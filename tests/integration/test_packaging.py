"""What is shipped: a wheel with every package, and `samplers` on numpy and numba alone."""

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a build leaves files beside the sources: build a copy
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return next(out.glob("drawstream-*.whl"))


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    layers = ("samplers", "pipeline", "features", "search", "tools")
    expected = {
        f"drawstream/{name}"
        for name in tracked.splitlines()
        if name.startswith(tuple(f"{layer}/" for layer in layers)) and name.endswith((".py", "py.typed", ".html"))
        if (ROOT / name).is_file()
    }
    assert names == expected


def test_samplers_import_with_numpy_and_numba_alone(wheel, tmp_path):
    """A bare virtual environment gets links to three packages and the wheel's files, nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    site = next((tmp_path / "bare").glob("lib/python*/site-packages"))
    for name in ("numpy", "numba", "llvmlite"):
        folder = Path(distribution(name).locate_file(name))
        (site / name).symlink_to(folder)
        libraries = folder.parent / f"{name}.libs"
        if libraries.exists():
            (site / libraries.name).symlink_to(libraries)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = """
import importlib.util
for name in ("torch", "pyarrow", "nvidia", "optuna", "scipy"):
    assert importlib.util.find_spec(name) is None, name
import numpy as np
from drawstream.samplers import PSGD, IndexStream, SelectiveBackprop, SwiftFit, SwiftParams
rows = IndexStream(np.array([0.0, 1.0, 3.0]), seed=0, draws=4).epoch(0)[0:4]
assert sorted(rows.tolist()) == [1, 2, 2, 2], rows
columns = {"loss": np.arange(5.0), "entropy": np.ones(5), "grad_norm": np.ones(5)}
assert abs(SwiftFit(columns).probabilities(SwiftParams.uniform()).sum() - 1) < 1e-12
sampler = PSGD(3)
sampler.observe([0, 1], [[2.0, 0.0], [0.0, 2.0]], [0, 0])
sampler.reduce()
assert sampler.probabilities(1).argmax() == 1
assert SelectiveBackprop(budget=1.0).select([1.0, 2.0], epoch=1, step=0).indices.tolist() == [0, 1]
"""
    done = subprocess.run([tmp_path / "bare/bin/python", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

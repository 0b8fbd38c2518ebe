"""What is shipped: a wheel with every package, `samplers` on numpy and numba alone, and what works without DALI."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from shared.programs import cli
from shared.samples import LABELS, PIXELS

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 200_000  # bytes of a file in the wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is tracked: a build leaves files beside the sources."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build(source, "--wheel", out)
    return next(out.glob("drawstream-*.whl"))


def build(source, kind, out):
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", out, source]
    subprocess.run(command, check=True, capture_output=True)


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_module_but_benchmarks_and_examples(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    shipped = ("__init__.py", "py.typed", "samplers/", "pipeline/", "features/", "search/", "tools/")
    left = ("tools/bench/", "tools/examples/")  # they stay in the tree
    expected = {
        f"drawstream/{name.replace('tools/testing/', 'testing/')}"
        for name in tracked.splitlines()
        if name.startswith(shipped) and not name.startswith(left)
        if name.endswith((".py", "py.typed", ".html", ".css", ".js"))
        if (ROOT / name).is_file()
    }
    assert names == expected


def test_a_wheel_says_how_to_get_the_benchmarks(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in getattr(each, "__module__", "")]
from drawstream.tools.cli.app import main
sys.exit(main(["bench", "stream"]))
"""
    command, there = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=there)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "source tree" in done.stderr and "pip install -e '.[bench]'" in done.stderr


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
from drawstream import PSGD, IndexStream, SelectiveBackprop, SwiftFit, SwiftParams
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


def test_the_wheel_is_small_and_says_what_it_is(wheel):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert wheel.name == f"drawstream-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        large = {each.filename: each.file_size for each in archive.infolist() if each.file_size > LARGEST}
        notes = {name.split("/", 1)[1] for name in archive.namelist() if ".dist-info/" in name}
        head = archive.read(f"drawstream-{version}.dist-info/METADATA").decode().partition("\n\n")[0]
    assert not large
    assert notes == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert f"Version: {version}\n" in head
    assert "License-Expression: Apache-2.0" in head
    assert "Requires-Python: >=3.11" in head


def test_without_dali_everything_works_by_pillow(tmp_path):
    """Whatever import of DALI is asked for, there is none: as after an installation without its extra."""
    code = """
import importlib.abc, shutil, sys
from pathlib import Path
class NoDali(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "nvidia":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoDali())
import drawstream.tools.report.build
from drawstream import DLIS, FeatureTable, Schedule, Sequential, Tracker, pack, search_swift
from drawstream import ArraySource, Catalog, Mixup, Transform, open_source
from drawstream.pipeline.torch_sampler import StreamSampler
from drawstream.tools.cli.app import main
assert main(["stream", "show", "--rows", "10"]) == 0
for folder in ("a", "b"):
    Path("photos", folder).mkdir(parents=True)
    shutil.copy(CASES / "plain.jpg", Path("photos", folder))
    shutil.copy(CASES / "jpeg_two_6.jpg", Path("photos", folder))
assert main(["pack", "photos", "data"]) == 0
assert main(["index", "data", "--label", "cls", "--overwrite", "--workers", "1"]) == 0
assert main(["verify", "data", "--workers", "1"]) == 0
assert sorted(Catalog.open("data").height.tolist()) == [48, 48, 96, 96]
assert main(["train", "data", "-o", "run", "--epochs", "1", "--model", "mlp", "--size", "32"]) == 0
assert main(["train", "data", "-o", "other", "--epochs", "1", "--model", "mlp", "--backend", "dali"]) == 2
weights = ["--model", "mlp", "--size", "32", "--weights", "run/last.safetensors", "--measures", "loss"]
assert main(["features", "data", "-o", "features", *weights]) == 0
assert "nvidia.dali" not in sys.modules
"""
    cases = ROOT / "tests" / "cases" / "images"
    code = f"from pathlib import Path\nCASES = Path({str(cases)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("DALI is not installed, so images are decoded by Pillow") == 1
    assert done.stderr.count("decoding by DALI needs it") == 1
    assert sum("drawstream:" in line for line in done.stderr.splitlines()) == 1
    assert done.stdout.count("DALI is not installed: Pillow alone judged the images") == 2


def test_the_version_is_the_installed_one():
    assert cli("--version") == f"drawstream {distribution('drawstream').version}\n"


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_public_names(wheel, tmp_path):
    """Strict, as a user may run it: an export that is not explicit, or a name that is not there, is an error."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "user.py").write_text(
        "import drawstream\n"
        "from drawstream import Catalog, IndexStream, extract_features\n"
        "from drawstream import PSGD\n"
        "reveal_type(Catalog.open('data'))\n"
        "reveal_type(IndexStream(3, seed=0).epoch(0)[0:2])\n"
        "reveal_type(drawstream.__version__)\n"
        "reveal_type(extract_features)\n"
        "reveal_type(PSGD(3))\n"
        "drawstream.Catalgo\n",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--ignore-missing-imports",
        "user.py",
    ]
    environment = {**os.environ, "MYPYPATH": str(tmp_path / "site")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    *told, last = done.stdout.splitlines()
    revealed = [line.split('"')[1] for line in told if "Revealed type" in line]
    types = ["shards.catalog.Catalog", "numpy.ndarray[", "str", "-> drawstream.features.table", "psgd.PSGD"]
    assert len(revealed) == len(types)
    assert all(part in found for found, part in zip(revealed, types, strict=True)), revealed
    assert [line for line in told if ": error: " in line] == [
        'user.py:9: error: Module has no attribute "Catalgo"; maybe "Catalog"?  [attr-defined]'
    ], told
    assert last.startswith("Found 1 error")


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(wheel, source, tmp_path):
    build(source, "--sdist", tmp_path)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    build(tmp_path / archive.name.removesuffix(".tar.gz"), "--wheel", tmp_path)
    assert contents(tmp_path / wheel.name) == contents(wheel)


@pytest.mark.slow
def test_an_empty_environment_runs_the_main_job(wheel, tmp_path):
    """Installs everything anew, gigabytes of it: first without DALI, then with it; nothing of the tree is near."""
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    probe = subprocess.run([*pip, "--dry-run", "--no-deps", "torch", "numpy"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no package index can be reached: {probe.stderr.strip().splitlines()[-1]}")

    def drawstream(*words, status=0):
        command = [python, "-I", "-m", "drawstream.tools.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    subprocess.run([*pip, wheel], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    told = subprocess.run([python.with_name("drawstream"), "--version"], check=True, capture_output=True, text=True)
    assert told.stdout == f"drawstream {wheel.name.split('-')[1]}\n"
    assert "pip install 'drawstream[cuda13]'" in drawstream("doctor")  # a note: Pillow decodes
    assert "1797" in drawstream("stream", "show", "--rows", "1797")
    np.savez(tmp_path / "digits.npz", images=PIXELS, labels=LABELS)
    drawstream("pack", "digits.npz", "data", "--limit", "300", "--holdout", "60")
    training = ("train", "data/train", "--model", "mlp", "--epochs", "1", "--held-out", "data/holdout")
    assert "DALI is not installed, so images are decoded by Pillow" in drawstream(*training, "-o", "runs/pillow")

    subprocess.run([*pip, f"{wheel}[cuda13]"], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    drawstream("doctor", "data/train")
    drawstream(*training, "-o", "runs/uniform")
    drawstream(
        "features", "data/train", "-o", "features", "--model", "mlp", "--weights", "runs/uniform/best.safetensors"
    )
    drawstream("fit", "features", "-o", "drop.json", "--transform", "cdf")
    drawstream(*training, "-o", "runs/drop", "--sampler", "drop.json", "--table", "features")
    drawstream("stream", "count", "drop.json", "--table", "features")
    drawstream("report", "runs")
    assert "</html>" in (tmp_path / "runs/report.html").read_text(encoding="utf-8")

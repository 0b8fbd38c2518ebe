"""Too little room, and places that may not be written or read: one line that names them, nothing half-written.

The small disk is a tmpfs where this process may mount one; else a bound on the size of each file stands for it.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = os.geteuid() == 0
SIZES = (4, 24, 64, 160)  # KiB; what is too much for a command is its right result
NAMES = (
    "pack", "index", "features", "train", "train, tracked", "fit", "search swift", "search auto", "report",
    "stream export", "json",
)  # fmt: skip
UNDER_WAY = ("checkpoint.pt", "progress.json", "schedule.rows", "study.db", "study.db-journal")
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
BARE = """
import ctypes  # root without its capabilities: permissions bind it as anybody else
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
"""


@contextlib.contextmanager
def small_disk(folder, size):
    """A tmpfs of so many KiB, and the code that a command begins with where there is none."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k,mode=0777", "tmpfs", str(folder)]
    mounted = ROOT and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield "" if mounted else LIMIT.format(size << 10)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, size):
    """Room comes."""
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=False, capture_output=True)


@pytest.mark.parametrize("name", NAMES)
def test_too_little_room(soak, undisturbed, tmp_path, name):
    expected, _ = undisturbed(name)
    ended = []
    for size in SIZES:
        disk = tmp_path  # as deep as the undisturbed run's: records hold relative paths
        with small_disk(disk, size) as before:
            out = disk / "out"
            command = soak.commands(out)[name]
            done = soak.run(command, before=before)
            ended.append(done.status)
            if done.status == 0:
                assert soak.result_of(out) == expected
                continue
            said = done.told(disk)
            assert "no space left" in said.lower() or (before and "too large" in said.lower()), said
            there = soak.result_of(out) if out.is_dir() else {}
            for file, content in there.items():
                if Path(file).name not in UNDER_WAY:
                    assert file in expected and (file.endswith(".json") or content == expected[file]), file
            left = [each for each in soak.leftovers(out) if not each.endswith("study.db-journal")]
            assert left == []
            remount(disk, 64 << 10)
            soak.run(command).fine()
            assert soak.result_of(out) == expected
            assert soak.leftovers(out) == []
        shutil.rmtree(disk / "out", ignore_errors=True)
    print(f"{name}: {dict(zip(SIZES, ended, strict=True))}")


@pytest.fixture(scope="module")
def own(soak, tmp_path_factory):
    """The inputs, to be closed."""
    folder = tmp_path_factory.mktemp("closed") / "inputs"
    shutil.copytree(soak.root, folder)
    return type(soak)(folder, tmp_path_factory.mktemp("said"))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_may_not_be_written(own, tmp_path, name):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for out in (closed, closed / "deep/out")[name == "pack" :]:  # pack replaces an empty folder
        done = own.run(own.commands(out)[name], before=BARE)
        done.told("permission denied", closed)
        assert list(closed.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pack", "pixels.npz"),
        ("index", "images/shard-000000.tar"),
        ("index", "images"),
        ("features", "run/last.safetensors"),
        ("features", "data/train/catalog.parquet"),
        ("train", "data/train/shard-000000.tar"),
        ("train", "data/holdout"),
        ("fit", "features/part-00000.parquet"),
        ("fit", "features"),
        ("search swift", "run/last.safetensors"),
        ("search auto", "data/holdout/catalog.parquet"),
        ("report", "run/run.json"),
        ("report", "run"),
        ("stream export", "auto/distribution.parquet"),
        ("json", "features/part-00000.parquet"),
    ],
)
def test_an_input_that_may_not_be_read(own, tmp_path, name, path):
    closed, out = own.root / path, tmp_path / "out"
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        done = own.run(own.commands(out)[name], before=BARE)
        done.told(Path(path).name)
        assert not out.exists() or not own.result_of(out)
    finally:
        closed.chmod(mode)


@pytest.mark.skipif(not ROOT, reason="only root can mount")
@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_disk(soak, tmp_path, name):
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 16) as before:
        if before:
            pytest.skip("no tmpfs can be mounted here")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        soak.run(soak.commands(disk / "out")[name]).told("read-only file system", disk)

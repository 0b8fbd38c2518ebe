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
USER = "import os; os.setgid(65534); os.setuid(65534)"


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
def readable(soak, tmp_path_factory):
    """The inputs where another user can read them."""
    folder = Path("/tmp") / f"drawstream-soak-{os.getpid()}"
    shutil.copytree(soak.root, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    soak_there = type(soak)(folder, folder)
    folder.chmod(0o777)
    yield soak_there
    shutil.rmtree(folder)


def as_user(readable):
    """How a command becomes another user's: homes and caches of its own."""
    home = readable.root / "home"
    if not home.exists():
        home.mkdir()
        home.chmod(0o777)
    return {"before": USER, "env": {"HOME": str(home), "NUMBA_CACHE_DIR": str(home / "numba")}}


@pytest.mark.skipif(not ROOT, reason="another user can be tried only by root")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_may_not_be_written(readable, tmp_path_factory, name):
    closed = readable.root / f"closed-{name}"
    closed.mkdir(mode=0o755)
    for out in (closed, closed / "deep/out"):
        done = readable.run(readable.commands(out)[name], **as_user(readable))
        done.told("permission denied", closed)
        assert list(closed.iterdir()) == []


@pytest.mark.skipif(not ROOT, reason="another user can be tried only by root")
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
def test_an_input_that_may_not_be_read(readable, name, path):
    closed, out = readable.root / path, readable.root / f"open-{name}-{path.replace('/', '-')}"
    out.mkdir()
    out.chmod(0o777)
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        done = readable.run(readable.commands(out / "out")[name], **as_user(readable))
        done.told(Path(path).name if closed.is_file() else path)
        assert not readable.result_of(out / "out") if (out / "out").exists() else True
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

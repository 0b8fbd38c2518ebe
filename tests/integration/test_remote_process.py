"""Remote catalogs and processes: shared, killed and resumed downloads, full disks, forks, the command line."""

import json
import os
import re
import resource
import subprocess
import time
from collections import Counter

import numpy as np
import pytest

from drawstream import Catalog, Loader, Reading, Remote, RemoteError, Sequential
from drawstream.pipeline.reading import CachedShards, ShardFiles, cache
from drawstream.tools.cli.app import main
from shared.processes import finish, kill, start, wait_until
from shared.programs import cli
from shared.samples import PIXELS

CHUNK = 1 << 14
pytestmark = pytest.mark.usefixtures("quick")


READ = """
import hashlib, json, os, sys
import numpy as np
from drawstream import Catalog, Loader, Reading, Remote
from drawstream.pipeline.reading import cache
from drawstream.pipeline.shards import remote
from drawstream import IndexStream
if __name__ == "__main__":
    cache.CHUNK = 1 << 14
    catalog = Catalog.open(sys.argv[1])
    print("ready", flush=True)
    reading = Reading(remote=Remote(**json.loads(sys.argv[2])))
    loader = Loader(catalog, IndexStream(300, seed=1), batch_size=16, reading=reading)
    total = hashlib.sha256()
    for batch in loader:
        total.update(batch.images.numpy().tobytes())
    print(json.dumps([total.hexdigest(), loader.metrics]))
"""


def python(code, *arguments):
    return start("-W", "error", "-c", code, *arguments)


def finished(process):
    out, err = finish(process)
    assert err == ""
    return out.splitlines()[-1]


@pytest.mark.parametrize("processes", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_share_one_download(server, packed, processes):
    server.pace = 0.0005
    running = [python(READ, server.url, "{}") for _ in range(processes)]
    results = [json.loads(finished(process)) for process in running]
    assert len({digest for digest, _ in results}) == 1
    assert sum(metrics["misses"] for _, metrics in results) == 6
    assert Counter(server.seen).most_common(1)[0][1] == 1 and len(server.downloads()) == 6


def test_a_killed_download_is_gone_on_with(server, folder, batches, names, whole_names):
    server.pace = 0.001
    process = python(READ, server.url, "{}")
    wait_until(lambda: len(server.seen) >= 3)
    kill(process)
    (partial,) = folder.glob("*.partial")
    have = partial.stat().st_size
    assert have > 0 and have % CHUNK == 0
    server.pace = None
    server.seen.clear()
    catalog = Catalog.open(server.url)
    found, _ = batches(catalog)
    expected, _ = batches(Catalog.open(server.folder))
    assert found == expected and names(folder) == whole_names(catalog)
    begun = [start for name, start in server.seen if name == "shard-000000.tar"]
    assert min(begun) == have  # the first shard went on where it had stopped


def test_a_resumed_download_of_wrong_bytes_starts_over(server, folder, names):
    catalog = Catalog.open(server.url)
    shard = catalog.shards[0]
    folder.mkdir(parents=True)
    (folder / f"{shard.hash}-{shard.size}.partial").write_bytes(b"x" * 3 * CHUNK)
    os.close(CachedShards(catalog, Remote()).open(0))
    starts = [start for _, start in server.seen]
    assert starts[0] == 3 * CHUNK and starts.count(0) == 1
    assert names(folder) == [f"{shard.hash}-{shard.size}.tar"]


@pytest.mark.slow
def test_killed_again_and_again(server, folder, batches, names):
    """Several processes in one folder with room for half, killed at any moment: what is named whole is whole."""
    chance = np.random.default_rng(0)
    server.pace = 0.0002
    catalog = Catalog.open(server.url)
    options = json.dumps({"limit": 3 * catalog.shards[0].size})
    for _ in range(6):
        running = [python(READ, server.url, options) for _ in range(2)]
        for process in running:
            process.stdout.readline()
        time.sleep(chance.uniform(0, 1.5))
        for process in running:
            kill(process)
        for path in folder.glob("*.tar"):
            assert cache.hash_file(path) == path.name[:32]
        assert sum(int(re.split("[-.]", name)[1]) for name in names(folder)) <= 3 * catalog.shards[0].size
    server.pace = None
    found, _ = batches(catalog, reading=Reading(remote=Remote(limit=3 * catalog.shards[0].size)))
    assert found == batches(Catalog.open(server.folder))[0]


@pytest.mark.parametrize("how", ["rlimit", "tmpfs"])
def test_a_full_disk(server, tmp_path, how, names):
    place = tmp_path / "place"
    place.mkdir()
    catalog = Catalog.open(server.url)
    files = ShardFiles(catalog, remote=Remote(folder=place, limit=10**9))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)]
    if how == "tmpfs" and subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        files.read(np.array([0]))
        if how == "rlimit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(RemoteError) as caught:
            files.read(np.array([60, 120]))
        assert names(place) == [f"{catalog.shards[0].hash}-112640.tar"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if how == "tmpfs":
            subprocess.run(["umount", str(place)], check=True)
    assert re.fullmatch(
        rf"{place}: cannot keep {server.url}/shard-000001.tar of 112640 bytes \((File too large|No space .*)\): "
        r"free some space, lower `limit` \(1000000000\), or choose another `folder`",
        str(caught.value),
    )


FORKED = """
import multiprocessing, os, sys
import numpy as np
from drawstream import Catalog, Remote
from drawstream.pipeline.reading.read import ShardFiles
def total(files, queue):
    queue.put(int(files.read(np.arange(300))[0].astype(int).sum()))
if __name__ == "__main__":
    files = ShardFiles(Catalog.open(sys.argv[1]), remote=Remote("ranges"))
    sums = [int(files.read(np.arange(300))[0].astype(int).sum())]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=total, args=(files, queue))
    child.start()
    sums.append(queue.get(timeout=60))
    child.join()
    print(sums)
"""


@pytest.mark.slow
def test_a_forked_process_reads_too(server):
    total = int(PIXELS[:300].astype(int).sum())
    assert finished(python(FORKED, server.url)) == f"[{total}, {total}]"


def test_commands_take_urls(server, tmp_path, capsys):
    run = tmp_path / "run"
    train = ["train", server.url, "-o", str(run), "--model", "mlp", "--epochs", "1"]
    assert "is the training set itself" in cli(*train, "--test", server.url + "/", status=2)
    assert main(train) == 0
    assert main(["verify", server.url]) == 0
    assert json.loads((run / "run.json").read_text())["catalog"] == server.url
    weights = ["--weights", str(run / "last.safetensors")]
    assert main(["features", server.url, "-o", str(tmp_path / "f"), "--model", "mlp", *weights]) == 0
    server.always = 404
    assert main(["features", server.url.replace("train", "nothing"), *weights, "-o", str(tmp_path / "g")]) == 2
    assert re.search(r"http://\S+/nothing/catalog.parquet: there is no such file", capsys.readouterr().err)


def test_evaluation_order_from_a_tight_cache(server, packed):
    expected = [batch.images.numpy().tobytes() for batch in Loader(Catalog.open(packed), Sequential(0, 300))]
    catalog = Catalog.open(server.url)
    reading = Reading(remote=Remote(limit=catalog.shards[0].size), read_threads=2)
    loader = Loader(catalog, Sequential(0, 300), reading=reading)
    assert [batch.images.numpy().tobytes() for batch in loader] == expected

"""Remote catalogs over a real HTTP server that can be told to fail, and with processes that are killed."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image

from drawstream.pipeline import (
    ArraySource,
    BadSampleError,
    Catalog,
    Loader,
    Remote,
    RemoteError,
    cache,
    open_source,
    ranges,
    remote,
)
from drawstream.pipeline.cache import CachedShards
from drawstream.pipeline.image import encode
from drawstream.pipeline.pack import pack
from drawstream.pipeline.read import ShardFiles
from drawstream.pipeline.verify import verify
from drawstream.samplers import IndexStream, Sequential
from drawstream.tools.cli import main
from drawstream.tools.runs import write_record

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
CHUNK = 1 << 14
HOW = {"cache": Remote(), "tight": Remote(limit=2 * 112_640 + 5), "ranges": Remote("ranges")}


class Server(ThreadingHTTPServer):
    """Serves a folder with byte ranges; `faults` holds what happens to the next requests for shards."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults = deque()
        self.always = None  # a fault for every request for a shard
        self.ranges = True
        self.pace = None  # seconds per KiB
        self.seen = []  # (name, first byte) of requests for shards
        self.headers = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/train"

    def downloads(self):
        return Counter(name for name, start in self.seen if start == 0)

    def handle_error(self, request, client_address):
        pass  # clients that go away are part of these tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.headers.append(dict(self.headers))
        path = server.folder / self.path.partition("?")[0].removeprefix("/train/")
        if not path.is_file():
            return self.answer(404)
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), int(asked[2]) + 1) if asked and server.ranges else (0, len(data))
        fault = None
        if path.suffix == ".tar":
            server.seen.append((path.name, start))
            fault = server.always or (server.faults.popleft() if server.faults else None)
        if isinstance(fault, int):
            return self.answer(fault)
        if start >= len(data):
            return self.answer(416)
        body = bytearray(data[start:stop])
        if fault == "flip":
            body[len(body) // 2] ^= 0x10
        if fault == "hang":
            time.sleep(1)
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        if server.pace is None:
            self.wfile.write(body)
        else:
            for at in range(0, len(body), 1024):
                self.wfile.write(body[at : at + 1024])
                time.sleep(server.pace)
        return None

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Small chunks, short pauses, and a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "CHUNK", CHUNK)
    monkeypatch.setattr(remote, "PAUSE", 0.01)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    source = ArraySource(PIXELS[:300], DIGITS.target[:300])
    return pack(source, tmp_path_factory.mktemp("remote") / "digits", shard_rows=50).train


@pytest.fixture
def server(packed):
    with Server(packed) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache/drawstream/shards"


def batches(catalog, epochs=1, **options):
    loader = Loader(catalog, IndexStream(300, seed=1), batch_size=16, **options)
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found += [(batch.ids.tolist(), batch.labels.tolist(), batch.images.numpy().tobytes()) for batch in loader]
    loader.close()
    return found, loader.metrics


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def whole_names(catalog):
    return sorted(f"{shard.hash}-{shard.size}.tar" for shard in catalog.shards)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_same_batches_as_from_disk(server, packed, folder, how, threads):
    expected, _ = batches(Catalog.open(packed), epochs=2)
    catalog = Catalog.open(server.url)
    assert catalog.remote == server.url and len(catalog) == 300 and not server.seen
    found, metrics = batches(catalog, epochs=2, remote=how, read_threads=threads)
    assert found == expected
    assert metrics["retries"] == 0 and metrics["bytes_downloaded"] > 0
    if how == Remote():
        assert names(folder) == whole_names(catalog) and metrics["misses"] == 6
        assert metrics["bytes_downloaded"] == sum(shard.size for shard in catalog.shards)
        assert set(server.downloads().values()) == {1}
    elif how.limit:
        assert metrics["misses"] > 6 and sum(path.stat().st_size for path in folder.iterdir()) <= how.limit
    else:
        assert not folder.exists()


def test_the_catalog_is_fetched_anew_each_time(server, packed, tmp_path):
    first = Catalog.open(f"{server.url}/catalog.parquet")
    assert first.path.is_file() and first.path.read_bytes() == (packed / "catalog.parquet").read_bytes()
    assert repr(first).startswith(f"Catalog('{server.url}': 300 rows")
    other = pack(ArraySource(PIXELS[:20], DIGITS.target[:20]), tmp_path / "other").train
    server.folder = other
    assert len(Catalog.open(server.url)) == 20
    with pytest.raises(ValueError, match=r"http://.*/train/shard-000001.tar: this needs local shards"):
        first.shard_path(1)


def test_ranges_fetch_what_is_asked_for(server, monkeypatch):
    monkeypatch.setattr(ranges, "GAP", 0)
    catalog = Catalog.open(server.url)
    files = ShardFiles(catalog, remote=Remote("ranges"))
    samples = np.array([120, 7, 120, 299, 7])
    data, bounds = files.read(samples)
    for i, sample in enumerate(samples.tolist()):
        assert data[bounds[i] : bounds[i + 1]].tobytes() == PIXELS[int(catalog.key(sample))].tobytes()
    assert files.counts["bytes_downloaded"] == 3 * 64 and len(server.seen) == 3


@pytest.mark.parametrize("mode", ["cache", "ranges"])
@pytest.mark.parametrize("faults", [[503, 500, 429], ["cut", "cut"], ["hang"], [408, "cut", "hang", 502]], ids=str)
def test_passing_failures_are_borne(server, packed, mode, faults):
    expected, _ = batches(Catalog.open(packed))
    server.faults.extend(faults)
    found, metrics = batches(Catalog.open(server.url), remote=Remote(mode, timeout=0.4))
    assert found == expected and metrics["retries"] == len(faults)


@pytest.mark.parametrize("mode", ["cache", "ranges"])
@pytest.mark.parametrize(
    ("status", "text"), [(404, "there is no such file"), (403, "access is denied"), (410, "there is no such")]
)
def test_lasting_failures_are_told_at_once(server, mode, status, text):
    server.always = status
    catalog = Catalog.open(server.url)
    with pytest.raises(RemoteError, match=rf"^http://127[^ ]*/train/shard-000002.tar: {text}"):
        ShardFiles(catalog, remote=Remote(mode)).read(np.array([100]))
    assert len(server.seen) == 1


@pytest.mark.parametrize("mode", ["cache", "ranges"])
def test_retries_are_bounded(server, mode):
    server.always = 503
    catalog = Catalog.open(server.url)
    text = r"shard-00000\d.tar: could not be read in 4 attempts \(503 Service Unavailable\): check the connection"
    with pytest.raises(RemoteError, match=text):
        batches(catalog, remote=Remote(mode, retries=3), read_threads=1)
    assert max(Counter(server.seen).values()) == 4


def test_no_server(server):
    url = "http://127.0.0.1:9/train"
    with pytest.raises(
        RemoteError, match=r"^http://127.0.0.1:9/train/catalog.parquet: could not be read in 7 attempts"
    ):
        Catalog.open(url)
    with pytest.raises(RemoteError, match=r"train/nothing/catalog.parquet: there is no such file"):
        Catalog.open(f"{server.url}/nothing")


def test_credentials_stay_out_of_messages(server, tmp_path, capsys, monkeypatch):
    url = server.url.replace("http://", "http://me:secret@") + "?token=hidden"
    catalog = Catalog.open(url)
    assert server.headers[-1]["Authorization"].startswith("Basic ")
    texts = [repr(catalog)]
    for server.always in (403, 503, 416, "flip", "cut"):
        how = Remote("ranges" if server.always == 416 else "cache", retries=1)
        with pytest.raises(RemoteError) as caught:
            ShardFiles(catalog, remote=how).read(np.array([0]))
        texts += [str(caught.value), "".join(traceback.format_exception(caught.value))]
    server.always = None
    monkeypatch.setattr(sys, "argv", ["drawstream", "train", url])
    write_record(tmp_path / "run.json", "train", {"catalog": url, "evaluation": {"test": url}})
    server.folder = tmp_path
    with pytest.raises(RemoteError) as caught:
        Catalog.open(url)
    texts += [str(caught.value), *capsys.readouterr(), (tmp_path / "run.json").read_text()]
    assert all("127.0.0.1" in text for text in texts[:12])
    assert not [text for text in texts if re.search("me:|secret|token|hidden", text)]


def test_wrong_bytes_never_become_a_shard(server, folder):
    server.always = "flip"
    catalog = Catalog.open(server.url)
    with pytest.raises(RemoteError, match=rf"^{server.url}/shard-000002.tar: hash must be .*also when loaded anew"):
        ShardFiles(catalog).read(np.array([100]))
    assert server.downloads() == {"shard-000002.tar": 2} and names(folder) == []
    server.always = None
    server.faults.append("flip")  # once: the second download is right
    assert len(ShardFiles(catalog).read(np.array([100]))[0]) == 64


def test_wrong_bytes_in_a_range_are_found(server, packed):
    catalog = Catalog.open(server.url)
    files = ShardFiles(catalog, remote=Remote("ranges"))
    server.faults.append("flip")
    assert files.read(np.array([120]))[0].tobytes() == PIXELS[int(catalog.key(120))].tobytes()
    server.always = "flip"
    text = rf"sample '{catalog.key(120)}' \(row 120\) of {server.url}/shard-000002.tar: its 64 bytes do not match"
    with pytest.raises(BadSampleError, match=text):
        files.read(np.array([120]))


def test_a_copy_that_went_bad_is_replaced(server, folder):
    catalog = Catalog.open(server.url)
    files = ShardFiles(catalog)
    whole, _ = files.read(np.arange(300))
    shard = catalog.shards[2]
    path = folder / f"{shard.hash}-{shard.size}.tar"
    good = path.read_bytes()
    at = int(catalog.offset[120]) + 3
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    again, _ = files.read(np.arange(300))
    assert (whole == again).all() and path.read_bytes() == good
    path.write_bytes(good[:at])
    assert (files.read(np.arange(300))[0] == whole).all() and path.read_bytes() == good


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_verify_looks_at_remote_shards(server, folder, tmp_path, workers):
    server.folder = shutil.copytree(server.folder, tmp_path / "served")
    catalog = Catalog.open(server.url)
    assert verify(catalog, workers=workers) == [] and names(folder) == whole_names(catalog)
    shard = catalog.shards[2]
    path = folder / f"{shard.hash}-{shard.size}.tar"
    good = path.read_bytes()
    path.write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
    assert verify(catalog, workers=workers) == [] and path.read_bytes() == good  # the copy was bad, not the shard
    for copy in folder.glob("*.tar"):
        copy.unlink()
    (server.folder / "shard-000002.tar").write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
    (server.folder / "shard-000004.tar").unlink()
    (damaged, missing) = verify(catalog, workers=workers)
    assert (damaged.kind, damaged.shard, missing.kind, missing.shard) == ("unreadable", 2, "unreadable", 4)
    assert damaged.message.startswith(f"{server.url}/shard-000002.tar: hash must be ")
    assert missing.message.startswith(f"{server.url}/shard-000004.tar: there is no such file")


def test_verify_names_remote_samples(server, tmp_path):
    """Damage from before the packing: the shard is as its catalog says, but an image does not decode."""
    flower = load_sample_image("flower.jpg")[:256, :256]
    good, _ = encode(flower, "jpeg", quality=90)
    (tmp_path / "src/flower").mkdir(parents=True)
    for name, data in {"a": good, "cut": good[: len(good) // 2], "z": good}.items():
        (tmp_path / "src/flower" / f"{name}.jpg").write_bytes(data)
    server.folder = pack(open_source(tmp_path / "src"), tmp_path / "out").train
    (finding,) = verify(Catalog.open(server.url))
    assert finding.kind == "decode" and finding.key == "flower/cut"
    assert finding.message.startswith(f"{server.url}/shard-000000.tar: sample 'flower/cut' (row ")
    assert server.downloads() == {"shard-000000.tar": 1}


def test_a_shard_of_another_length(server, packed, tmp_path):
    catalog = Catalog.open(server.url)
    server.folder = tmp_path
    data = (packed / "shard-000000.tar").read_bytes()
    (tmp_path / "shard-000000.tar").write_bytes(data[:-CHUNK])
    with pytest.raises(
        RemoteError, match=r"shard-000000.tar: (could not be read in 2 attempts|the request is refused)"
    ):
        ShardFiles(catalog, remote=Remote(retries=1)).read(np.array([0]))
    (tmp_path / "shard-000000.tar").write_bytes(data + bytes(CHUNK))
    server.ranges = False
    with pytest.raises(RemoteError, match=f"has {len(data) + CHUNK} bytes, its catalog says {len(data)}"):
        ShardFiles(catalog, remote=Remote(folder=tmp_path / "new")).read(np.array([0]))


def test_a_server_without_ranges(server, packed):
    expected, _ = batches(Catalog.open(packed))
    server.ranges = False
    catalog = Catalog.open(server.url)
    found, metrics = batches(catalog)
    assert found == expected and metrics["bytes_downloaded"] == sum(shard.size for shard in catalog.shards)
    with pytest.raises(RemoteError, match="the server serves no ranges; read with mode 'cache'"):
        ShardFiles(catalog, remote=Remote("ranges")).read(np.array([0]))


def test_the_oldest_go_first(server, folder):
    catalog = Catalog.open(server.url)
    size = catalog.shards[0].size
    shards = CachedShards(catalog, Remote(limit=3 * size + 7))
    kept = []
    for shard in (0, 2, 4, 0, 3):
        kept.append(shards.open(shard))
        time.sleep(0.02)  # the clock of file times has steps
    held = {shard for shard in range(6) if (folder / f"{catalog.shards[shard].hash}-{size}.tar").exists()}
    assert held == {0, 3, 4} and shards.counts["misses"] == 4
    assert os.pread(kept[1], size, 0) == (server.folder / "shard-000002.tar").read_bytes()  # removed, but open
    for descriptor in kept:
        os.close(descriptor)


def test_a_partial_file_nobody_works_on_makes_room(server, folder):
    catalog = Catalog.open(server.url)
    size = catalog.shards[0].size
    folder.mkdir(parents=True)
    stale = folder / f"{'0' * 32}-{2 * size}.partial"
    stale.write_bytes(b"left behind")
    os.close(CachedShards(catalog, Remote(limit=2 * size)).open(0))
    assert not stale.exists() and len(names(folder)) == 1


def test_a_shard_larger_than_the_bound(server):
    catalog = Catalog.open(server.url)
    with pytest.raises(RemoteError, match=r"shard-000000.tar: has 112640 bytes, more than the 1000 that the cache"):
        CachedShards(catalog, Remote(limit=1000)).open(0)
    assert not server.seen


def test_in_order_the_next_shard_comes_ahead(server, packed):
    catalog = Catalog.open(server.url)
    shards = CachedShards(catalog, Remote())
    os.close(shards.open(0))
    os.close(shards.open(1))
    deadline = time.monotonic() + 10
    while "shard-000002.tar" not in server.downloads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "shard-000002.tar" in server.downloads() and "shard-000005.tar" not in server.downloads()
    os.close(shards.open(2))
    assert set(server.downloads().values()) == {1}


def test_threads_share_one_download(server):
    server.pace = 0.0002
    catalog = Catalog.open(server.url)
    shards = CachedShards(catalog, Remote())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: shards.open(3 * (i % 2)), range(16)))
    expected = [(server.folder / f"shard-00000{shard}.tar").read_bytes() for shard in (0, 3)]
    for i, descriptor in enumerate(found):
        assert os.pread(descriptor, 1 << 20, 0) == expected[i % 2]
        os.close(descriptor)
    assert all(server.downloads()[f"shard-00000{shard}.tar"] == 1 for shard in (0, 3))


def test_waiting_for_room_that_others_hold(server):
    """Two shards, room for one: each is had in turn, none is damaged."""
    server.pace = 0.0002
    catalog = Catalog.open(server.url)
    shards = CachedShards(catalog, Remote(limit=catalog.shards[0].size))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shards.open, [0, 3, 5, 0]))
    for shard, descriptor in zip([0, 3, 5, 0], found, strict=True):
        assert os.pread(descriptor, 1 << 20, 0) == (server.folder / f"shard-00000{shard}.tar").read_bytes()
        os.close(descriptor)


READ = """
import hashlib, json, os, sys
import numpy as np
from drawstream.pipeline import Catalog, Loader, Remote, cache, remote
from drawstream.samplers import IndexStream
if __name__ == "__main__":
    cache.CHUNK = 1 << 14
    catalog = Catalog.open(sys.argv[1])
    print("ready", flush=True)
    loader = Loader(catalog, IndexStream(300, seed=1), batch_size=16, remote=Remote(**json.loads(sys.argv[2])))
    total = hashlib.sha256()
    for batch in loader:
        total.update(batch.images.numpy().tobytes())
    print(json.dumps([total.hexdigest(), loader.metrics]))
"""


def python(code, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(process):
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
    return out.splitlines()[-1]


@pytest.mark.parametrize("processes", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_share_one_download(server, packed, processes):
    server.pace = 0.0005
    running = [python(READ, server.url, "{}") for _ in range(processes)]
    results = [json.loads(finished(process)) for process in running]
    assert len({digest for digest, _ in results}) == 1
    assert sum(metrics["misses"] for _, metrics in results) == 6
    assert Counter(server.seen).most_common(1)[0][1] == 1 and len(server.downloads()) == 6


def test_a_killed_download_is_gone_on_with(server, folder):
    server.pace = 0.001
    process = python(READ, server.url, "{}")
    deadline = time.monotonic() + 60
    while len(server.seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
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


def test_a_resumed_download_of_wrong_bytes_starts_over(server, folder):
    catalog = Catalog.open(server.url)
    shard = catalog.shards[0]
    folder.mkdir(parents=True)
    (folder / f"{shard.hash}-{shard.size}.partial").write_bytes(b"x" * 3 * CHUNK)
    os.close(CachedShards(catalog, Remote()).open(0))
    starts = [start for _, start in server.seen]
    assert starts[0] == 3 * CHUNK and starts.count(0) == 1
    assert names(folder) == [f"{shard.hash}-{shard.size}.tar"]


@pytest.mark.slow
def test_killed_again_and_again(server, folder):
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
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for path in folder.glob("*.tar"):
            assert cache.hash_file(path) == path.name[:32]
        assert sum(int(re.split("[-.]", name)[1]) for name in names(folder)) <= 3 * catalog.shards[0].size
    server.pace = None
    found, _ = batches(catalog, remote=Remote(limit=3 * catalog.shards[0].size))
    assert found == batches(Catalog.open(server.folder))[0]


@pytest.mark.parametrize("how", ["rlimit", "tmpfs"])
def test_a_full_disk(server, tmp_path, how):
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
from drawstream.pipeline import Catalog, Remote
from drawstream.pipeline.read import ShardFiles
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
    assert main([*train, "--test", server.url + "/"]) == 2
    assert "is the training set itself" in capsys.readouterr().err
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
    loader = Loader(catalog, Sequential(0, 300), remote=Remote(limit=catalog.shards[0].size), read_threads=2)
    assert [batch.images.numpy().tobytes() for batch in loader] == expected

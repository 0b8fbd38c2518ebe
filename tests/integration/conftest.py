"""A real HTTP server with ranges that can be told to fail, for the tests of remote catalogs."""

import re
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from drawstream import IndexStream, Loader
from drawstream.pipeline.reading import cache
from drawstream.pipeline.shards import remote
from shared.samples import pack_digits

CHUNK = 1 << 14


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
            time.sleep(3)
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


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Small chunks, short pauses, and a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "CHUNK", CHUNK)
    monkeypatch.setattr(remote, "PAUSE", 0.01)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("remote") / "digits", shard_rows=50).train


@pytest.fixture
def server(packed):
    with Server(packed) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache/drawstream/shards"


@pytest.fixture(scope="session")
def batches():
    """Load a catalog of 300 rows; gives ids, labels and pixels of every batch, and the loader's metrics."""

    def load(catalog, epochs=1, **options):
        loader = Loader(catalog, IndexStream(300, seed=1), batch_size=16, **options)
        found = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            found += [(batch.ids.tolist(), batch.labels.tolist(), batch.images.numpy().tobytes()) for batch in loader]
        loader.close()
        return found, loader.metrics

    return load


@pytest.fixture(scope="session")
def names():
    """Names in a cache folder, without its lock."""
    return lambda folder: sorted(path.name for path in folder.iterdir() if path.name != "lock")


@pytest.fixture(scope="session")
def whole_names():
    """Names of a catalog's shards in the cache."""
    return lambda catalog: sorted(f"{shard.hash}-{shard.size}.tar" for shard in catalog.shards)

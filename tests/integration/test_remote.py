"""Remote catalogs over a real HTTP server that can be told to fail."""

import dataclasses
import gzip
import os
import re
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from drawstream import BadSampleError, Catalog, IndexStream, Loader, Reading, Remote, RemoteError, index, verify
from drawstream.pipeline.decoding import encode
from drawstream.pipeline.reading import CachedShards, ShardFiles, ranges
from drawstream.pipeline.shards import Transfer
from drawstream.tools.runs import write_record
from shared.processes import wait_until
from shared.refusals import refused
from shared.samples import PIXELS, pack_digits, write_tar

CHUNK = 1 << 14
HOW = {"cache": Remote(), "tight": Remote(limit=2 * 112_640 + 5), "ranges": Remote("ranges")}
pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_same_batches_as_from_disk(server, packed, folder, how, threads, batches, names, whole_names):
    expected, _ = batches(Catalog.open(packed), epochs=2)
    catalog = Catalog.open(server.url)
    assert catalog.remote == server.url and len(catalog) == 300 and not server.seen
    found, metrics = batches(catalog, epochs=2, reading=Reading(remote=how, read_threads=threads))
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


@pytest.mark.parametrize("how", [Remote(), Remote("ranges")], ids=["cache", "ranges"])
def test_catalogs_on_a_server_and_on_disk_are_one(server, packed, tmp_path, how):
    local = pack_digits(tmp_path / "local", 120, shard_rows=50).train
    whole, disk = Catalog.open(local, server.url), Catalog.open(local, packed)
    assert whole.fingerprint == disk.fingerprint and whole.members[1].remote == server.url
    assert whole.places[1] == server.url and whole.shard_name(len(whole.shards) - 1).startswith(server.url)
    stream = IndexStream(420, seed=2)
    for one, other in zip(Loader(whole, stream, reading=Reading(remote=how)), Loader(disk, stream), strict=True):
        assert one.ids.tolist() == other.ids.tolist() and (one.images == other.images).all()
    if how == Remote():
        assert verify(whole) == []


def test_the_catalog_is_fetched_anew_each_time(server, packed, tmp_path):
    first = Catalog.open(f"{server.url}/catalog.parquet")
    assert first.path.is_file() and first.path.read_bytes() == (packed / "catalog.parquet").read_bytes()
    assert repr(first).startswith(f"Catalog('{server.url}': 300 rows")
    other = pack_digits(tmp_path / "other", 20).train
    server.folder = other
    assert len(Catalog.open(server.url)) == 20
    refused(r"http://.*/train/shard-000001.tar: this needs local shards", first.shard_path, 1)


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
def test_passing_failures_are_borne(server, packed, mode, faults, batches):
    expected, _ = batches(Catalog.open(packed))
    server.faults.extend(faults)
    patience = 1.5 if "hang" in faults else 30  # on a busy machine an honest answer may take a while
    found, metrics = batches(Catalog.open(server.url), reading=Reading(remote=Remote(mode, timeout=patience)))
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
def test_retries_are_bounded(server, mode, batches):
    server.always = 503
    catalog = Catalog.open(server.url)
    text = r"shard-00000\d.tar: could not be read in 4 attempts \(503 Service Unavailable\): check the connection"
    refused(text, batches, catalog, error=RemoteError, reading=Reading(remote=Remote(mode, retries=3)))
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


def test_wrong_bytes_never_become_a_shard(server, folder, names):
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
    refused(text, files.read, np.array([120]), error=BadSampleError)


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
def test_verify_looks_at_remote_shards(server, folder, tmp_path, workers, names, whole_names):
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
    """Damage from before the indexing: the shard is as its catalog says, but an image does not decode."""
    flower = load_sample_image("flower.jpg")[:256, :256]
    good, _ = encode(flower, "jpeg", quality=90)
    images = {"a": good, "cut": good[: len(good) // 2], "z": good}
    members = [
        (f"flower/{key}.{end}", data) for key, jpg in images.items() for end, data in (("cls", "0"), ("jpg", jpg))
    ]
    server.folder = index(write_tar(tmp_path / "shard-000000.tar", *members)).parent
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
    with pytest.raises(RemoteError, match=f"has more bytes, its catalog says {len(data)}"):
        ShardFiles(catalog, remote=Remote(folder=tmp_path / "new")).read(np.array([0]))


def test_a_server_without_ranges(server, packed, batches):
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


def test_a_partial_file_nobody_works_on_makes_room(server, folder, names):
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
    wait_until(lambda: "shard-000002.tar" in server.downloads())
    assert "shard-000005.tar" not in server.downloads()
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


class Endless(BaseHTTPRequestHandler):
    """Sends for ever whatever is asked for, or megabytes of nothing in a little gzip."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        if self.server.packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with suppress(OSError):
            if self.server.packed:
                self.wfile.write(gzip.compress(bytes(1 << 25), 1))
            while not self.server.packed:
                self.server.sent += self.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("packed_body", [False, True], ids=["endless", "gzip"])
def test_replies_without_end_are_cut_off(packed_body, packed):
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as endless:
        endless.packed, endless.sent, endless.daemon_threads = packed_body, 0, True
        threading.Thread(target=endless.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{endless.server_address[1]}/train"
        transfer = Transfer(url, Remote(retries=0))
        for most in (10, 1 << 20):
            (data,) = transfer.get([(f"{url}/a", None, None)], most=most)
            assert len(data) == most + 1 and not any(data)
        with pytest.raises(RemoteError, match=r"other bytes came instead of the .* asked for"):
            there = dataclasses.replace(Catalog.open(packed), remote=url)
            ShardFiles(there, remote=Remote("ranges", retries=0)).read(np.arange(5))
        endless.shutdown()
        assert endless.sent < 1 << 28

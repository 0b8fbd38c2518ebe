"""Reading members: right bytes in any order, damage named, conditions of the machine never taken for it."""

import errno
import gc
import os
import resource
import threading
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import xxhash

from drawstream import Catalog, IndexStream, Loader, Reading, Schedule, index, map_weights, verify, write_schedule
from drawstream.features.table.part import open_part
from drawstream.pipeline.reading import BadSampleError, ShardFiles
from drawstream.pipeline.reading import read as reading
from drawstream.pipeline.reading.open_files import SHARED, OpenFiles
from drawstream.pipeline.reading.read import DAMAGED, OK, SHORT, UNREADABLE, read_members
from drawstream.pipeline.shards import catalog_file
from drawstream.samplers.files.system import SystemFault
from drawstream.search import load_tensors
from drawstream.tools.training import load_weights
from shared.refusals import refused
from shared.samples import array_catalog, digits_catalog, overwrite

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 4, 4), np.uint8)
LABELS = np.arange(300) % 10


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """300 shards of one image."""
    return array_catalog(tmp_path_factory.mktemp("many") / "d", PIXELS, LABELS, shard_rows=1)


def descriptors():
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


@contextmanager
def at_most(more):
    """Let this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1 + more, hard))
    fill = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(taken) + 1 - len(taken) + 1)]  # the gaps
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in fill:
            os.close(descriptor)


def loaders(catalog, count, read_threads=1):
    reading = Reading(on_bad="substitute", read_threads=read_threads)
    return [Loader(catalog, IndexStream(300, seed=i), batch_size=50, reading=reading) for i in range(count)]


def ids_of(loader):
    """Rows of another epoch at each call."""
    loader.set_epoch(loader.epoch + 1)
    return np.concatenate([batch.ids.numpy() for batch in loader])


def test_two_loaders_with_few_descriptors_lose_no_row(catalog):
    first, second = loaders(catalog, 2, read_threads=2)
    for loader in (first, second):  # DALI opens files of its own when it begins
        next(iter(loader))
    SHARED.close_all()
    with at_most(24):
        for epoch in (1, 2):
            for loader in (first, second):
                loader.set_epoch(epoch)
            for one, other in zip(first, second, strict=True):
                for batch in (one, other):
                    assert batch.labels.tolist() == catalog.label[batch.ids].tolist()
        assert sorted(ids_of(first)) == list(range(300))
    assert first.metrics["substituted"] == second.metrics["substituted"] == 0
    assert first.bad_samples == second.bad_samples == ()


def test_no_descriptor_at_all_is_one_clear_error(catalog, monkeypatch):
    monkeypatch.setattr("drawstream.pipeline.reading.open_files.PAUSES", (0.0,))
    (loader,) = loaders(catalog, 1)
    assert len(ids_of(loader)) == 300
    SHARED.close_all()
    with at_most(0), pytest.raises(SystemFault, match=r"Too many open files: this process may open \d+: .*ulimit -n"):
        ids_of(loader)
    assert loader.bad_samples == ()
    assert sorted(ids_of(loader)) == list(range(300))


def test_the_limit_is_a_quarter_of_the_process_s():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        assert OpenFiles().limit == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_loaders_share_the_limit_and_a_lost_one_gives_its_files_back(catalog):
    SHARED.close_all()
    pool = OpenFiles(40)
    before = len(descriptors())
    one, other = ShardFiles(catalog, pool=pool), ShardFiles(catalog, pool=pool)
    for samples in np.array_split(np.arange(300), 20):
        one.read(samples)
        other.read(samples)
        assert len(descriptors()) - before <= 40
    one.read(np.arange(30))
    del one, other
    assert len(descriptors()) == before


def test_a_file_is_not_closed_while_it_is_read(catalog):
    pool = OpenFiles(1)
    file = pool.open(0, 0, catalog.shard_path(0))
    pool.open(0, 1, catalog.shard_path(1))
    pool.close_all()
    assert len(os.pread(file.fd, 10, 0)) == 10


def test_a_forked_process_does_not_wait_for_the_lock_of_another_s_thread(catalog):
    held, done = threading.Event(), threading.Event()

    def hold():
        with SHARED._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:
        try:
            SHARED.open(0, 0, catalog.shard_path(0))
            os._exit(0)
        finally:
            os._exit(1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def small(tmp_path):
    return array_catalog(tmp_path / "d", PIXELS, LABELS, shard_rows=100)


def fail_to_read(path):
    """Let reads of a file end with EIO: this process' memory has no page at such an address."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def test_a_failing_disk_stops_the_loader(small):
    fail_to_read(small.shard_path(1))
    (loader,) = loaders(small, 1)
    with pytest.raises(SystemFault, match=r"Input/output error at byte \d+, also when read again: .*shard-000001.tar"):
        ids_of(loader)
    assert loader.bad_samples == ()


def test_a_read_that_fails_once_is_repeated(small, monkeypatch):
    def fail(*arguments):
        arguments[6][:] = 0
        arguments[7][:] = UNREADABLE

    monkeypatch.setattr(reading, "read_members", fail)
    samples = np.array([5, 150, 299, 5])
    data, _ = ShardFiles(small).read(samples)
    assert data.reshape(4, 4, 4).tolist() == PIXELS[[small_row(small, row) for row in samples]].tolist()


def small_row(catalog, row):
    """Number of the image behind a row: its key holds it."""
    return int("".join(filter(str.isdigit, catalog.key(row))))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOMEM, errno.EIO])
def test_networks_memory_and_disks_are_no_damage(small, monkeypatch, number):
    usual = os.open

    def refuse(path, *options, **named):
        if str(path).endswith("shard-000002.tar"):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *options, **named)

    monkeypatch.setattr(os, "open", refuse)
    (loader,) = loaders(small, 1)
    refused(r"shard-000002\.tar", ids_of, loader, error=SystemFault)
    assert loader.bad_samples == ()


def test_a_missing_shard_is_the_file_s_fault(small):
    small.shard_path(1).unlink()
    (loader,) = loaders(small, 1)
    ids = ids_of(loader)
    assert not ((ids >= 100) & (ids < 200)).any()
    assert len(loader.bad_samples) == 100 and "cannot be opened (No such file" in loader.bad_samples[0].reason


@pytest.fixture
def files(tmp_path, small):
    """Each a file, and what reads it."""
    weights = np.linspace(1, 2, 300)
    np.save(tmp_path / "w.npy", weights)
    pq.write_table(pq.read_table(small.path).select(["key"]).append_column("w", [weights]), tmp_path / "w.parquet")
    write_schedule(tmp_path / "s.arrow", [np.arange(300)], rows=300)
    torch.save({"a": torch.zeros(3)}, tmp_path / "c.pt")
    return {
        "catalog": lambda: Catalog.open(small.root),
        "verify": lambda: verify(small),
        "npy": lambda: map_weights(tmp_path / "w.npy"),
        "parquet": lambda: map_weights(tmp_path / "w.parquet", column="w"),
        "schedule": lambda: Schedule.open(tmp_path / "s.arrow"),
        "part": lambda: open_part(tmp_path / "w.parquet"),
        "checkpoint": lambda: load_tensors(tmp_path / "c.pt"),
        "weights": lambda: load_weights(torch.nn.Linear(1, 1), tmp_path / "c.pt"),
    }


KINDS = ("catalog", "verify", "npy", "parquet", "schedule", "part", "checkpoint", "weights")


@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_calls_a_file_damaged_when_the_process_has_no_descriptor(files, kind):
    with at_most(0), pytest.raises(OSError, match="Too many open files") as caught:
        files[kind]()
    assert caught.value.errno == errno.EMFILE


def test_a_failing_disk_stops_index_and_verify(small, tmp_path, monkeypatch):
    fails = small.shard_path(1)
    usual = FileIO.readinto

    class Failing(FileIO):
        def readinto(self, buffer):
            if self.name == fails and self.tell() >= 1 << 10:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return usual(self, memoryview(buffer)[: 1 << 10])

    def open_failing(path, *_, **named):
        return Failing(path, closefd=named["closefd"])

    monkeypatch.setattr(catalog_file, "open", open_failing, raising=False)
    text = r"Input/output error at byte 1024, also when read again: .*shard-000001\.tar"
    refused(text, verify, small, error=SystemFault)
    refused(text, index, small.root, error=SystemFault, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.fixture
def six(tmp_path):
    return digits_catalog(tmp_path / "d", shard_rows=50)


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_bytes_in_any_order_with_repeats(six):
    samples = np.random.default_rng(0).integers(0, 300, 1000)
    data, bounds = ShardFiles(six).read(samples)
    assert bounds[0] == 0 and bounds[-1] == len(data)
    for i, sample in enumerate(samples.tolist()):
        path = six.shard_path(six.shard[sample])
        begin = six.offset[sample]
        assert data[bounds[i] : bounds[i + 1]].tobytes() == path.read_bytes()[begin : begin + six.size[sample]]


def test_nothing_to_read(six):
    data, bounds = ShardFiles(six).read(np.empty(0, np.int64))
    assert len(data) == 0 and bounds.tolist() == [0]


def test_status_of_each_member(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    file = os.open(path, os.O_RDONLY)
    closed = os.dup(file)
    os.close(closed)
    right = xxhash.xxh32_intdigest(bytes(range(10, 20)))
    out, status = np.zeros(50, np.uint8), np.full(5, -1)
    read_members(
        np.array([file, file, file, closed, file], np.int32),
        np.array([10, 10, 95, 10, 10]),
        np.array([10] * 5),
        np.array([right, right + 1, right, right, right + 1], np.uint32),
        np.array([True, True, True, True, False]),
        np.array([0, 10, 20, 30, 40]),
        out,
        status,
    )
    os.close(file)
    assert status.tolist() == [OK, DAMAGED, SHORT, UNREADABLE, OK]
    assert out[:10].tolist() == list(range(10, 20)) and out[20:25].tolist() == list(range(95, 100))


@pytest.mark.parametrize("when", ["before the file is opened", "after"])
def test_flipped_byte_is_named(six, when):
    files = ShardFiles(six)
    if when == "after":
        files.read(np.array([120]))
    overwrite(six, 120)
    files.read(np.array([100, 119, 121]))  # the neighbours are sound
    text = rf"sample '{six.key(120)}' \(row 120\) of {six.shard_path(2)}: its 64 bytes do not match"
    with pytest.raises(BadSampleError, match=text) as caught:
        files.read(np.array([7, 120, 3]))
    assert caught.value.sample_id == 120


def test_truncated_shard_is_named(six):
    files = ShardFiles(six)
    files.read(np.arange(300))
    os.truncate(six.shard_path(1), int(six.offset[80]) + 30)
    files.read(np.arange(80))
    with pytest.raises(BadSampleError, match=r"\(row 80\) of .*shard-000001.tar: the shard ends before byte"):
        files.read(np.arange(300))


def test_vanished_shard_is_named(six):
    six.shard_path(4).unlink()
    with pytest.raises(BadSampleError, match=r"\(row 233\) of .*shard-000004.tar: it cannot be opened \(No such file"):
        ShardFiles(six).read(np.array([1, 233, 222]))


def test_descriptors_stay_bounded(tmp_path):
    six = digits_catalog(tmp_path / "d", shard_rows=1)
    files = ShardFiles(six, pool=OpenFiles(20))
    gc.collect()  # what earlier tests left open must not be closed in between
    before = open_descriptors()
    order = np.random.default_rng(0).permutation(300)
    data, bounds = files.read(order)
    assert open_descriptors() - before == 20
    whole, starts = ShardFiles(six).read(np.arange(300))
    for i, sample in enumerate(order.tolist()):
        assert (data[bounds[i] : bounds[i + 1]] == whole[starts[sample] : starts[sample + 1]]).all()
    for part in np.split(order, 30):
        files.read(part)
        assert open_descriptors() - before <= 20 + 1  # and the one that lists them
    files.close()
    assert open_descriptors() - before <= 1


def test_a_file_that_is_read_stays_open(six):
    files = ShardFiles(six, pool=OpenFiles(1))
    order = np.random.default_rng(1).permutation(300)
    data, _ = files.read(order)
    expected = [Path(six.shard_path(six.shard[s])).read_bytes()[six.offset[s] :][:64] for s in order]
    assert data.tobytes() == b"".join(expected)

"""Remote catalogs on S3, spoken by moto's server."""

import threading

import numpy as np
import pytest

from drawstream import Catalog, IndexStream, Loader, Reading, Remote, RemoteError
from drawstream.pipeline.reading import ShardFiles
from drawstream.pipeline.shards import remote
from shared.samples import pack_digits


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("s3") / "digits", 200, shard_rows=50).train


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, packed, tmp_path, monkeypatch):
    import fsspec

    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "word"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # other tests had another endpoint
    system = fsspec.filesystem("s3")
    if not system.exists("pictures"):
        system.mkdir("pictures")
        system.put(f"{packed}/", "pictures/some folder/train/", recursive=True)
    return "s3://pictures/some folder/train"


def batches(catalog, **options):
    loader = Loader(catalog, IndexStream(200, seed=1), batch_size=16, **options)
    found = [(batch.ids.tolist(), batch.images.numpy().tobytes()) for batch in loader]
    loader.close()
    return found


@pytest.mark.parametrize("mode", ["cache", "ranges"])
def test_same_batches_as_from_disk(bucket, packed, mode):
    catalog = Catalog.open(bucket)
    assert catalog.remote == bucket and catalog.shard_name(1) == f"{bucket}/shard-000001.tar"
    assert batches(catalog, reading=Reading(remote=Remote(mode), read_threads=2)) == batches(Catalog.open(packed))


def test_what_is_not_there(bucket):
    with pytest.raises(RemoteError, match=r"^s3://pictures/other/catalog.parquet: there is no such file"):
        Catalog.open("s3://pictures/other")
    with pytest.raises(RemoteError, match=r"^s3://no-such-bucket/train/catalog.parquet: there is no such file"):
        Catalog.open("s3://no-such-bucket/train")


@pytest.mark.parametrize("mode", ["cache", "ranges"])
def test_a_shard_that_was_cut_short(bucket, packed, mode):
    import fsspec

    catalog = Catalog.open(bucket)
    system, name = fsspec.filesystem("s3"), "pictures/some folder/train/shard-000003.tar"
    whole = (packed / "shard-000003.tar").read_bytes()
    system.pipe(name, whole[: int(catalog.offset[199]) + 8])
    try:
        with pytest.raises(RemoteError, match=r"train/shard-000003.tar: "):
            ShardFiles(catalog, remote=Remote(mode, retries=1)).read(np.array([199]))
    finally:
        system.pipe(name, whole)


def test_threads_without_an_instance_of_their_own(bucket, packed):
    """The connection is made by one thread and used by others at once."""
    files = ShardFiles(Catalog.open(bucket), remote=Remote("ranges"))
    expected = ShardFiles(Catalog.open(packed)).read(np.arange(200))[0]
    found, threads = [], []
    for part in np.split(np.arange(200), 4):
        threads.append(threading.Thread(target=lambda part=part: found.append((part[0], files.read(part)[0]))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    parts = [data for _, data in sorted(found, key=lambda pair: pair[0])]
    assert np.concatenate(parts).tobytes() == expected.tobytes()

"""Remote files: URLs without their secrets, what is asked for at once, the borders of the cache."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import sys
import time

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.pipeline.labels.parse import as_label
from drawstream.pipeline.reading.cache import LARGEST, CachedShards, default_limit
from drawstream.pipeline.reading.ranges import GAP, LONGEST, coalesce
from drawstream.pipeline.reading.read import ShardFiles
from drawstream.pipeline.secrets import shown, without_secrets
from drawstream.pipeline.shards import Catalog, Remote, RemoteError
from drawstream.pipeline.shards.remote import Transfer, is_url, join, parent
from drawstream.pipeline.shards.tar import split_name
from shared.refusals import refused
from shared.samples import pack_digits


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A catalog of 60 digits in fsspec's memory, and the folder that it came from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local = pack_digits(tmp_path / "d", 60, shard_rows=20).train
    memory = fsspec.filesystem("memory")
    memory.put(f"{local}/", "/digits/train/", recursive=True)
    yield "memory://digits/train", local
    memory.rm("/digits", recursive=True)


@pytest.mark.parametrize(
    ("root", "name", "expected"),
    [
        ("s3://bucket/train", "shard-0.tar", "s3://bucket/train/shard-0.tar"),
        ("s3://bucket/train/", "a b.tar", "s3://bucket/train/a b.tar"),
        ("s3://bucket/train", "../shards/0.tar", "s3://bucket/shards/0.tar"),
        ("https://host/train?sig=a%2Fb", "0.tar", "https://host/train/0.tar?sig=a%2Fb"),
        ("https://me:word@host:81/train", "a b#1?.tar", "https://me:word@host:81/train/a%20b%231%3F.tar"),
        ("file:///data/train", "0.tar", "file:///data/train/0.tar"),
        ("memory://", "0.tar", "memory:///0.tar"),
    ],
)
def test_urls_of_shards(root, name, expected):
    assert join(root, name) == expected


def test_urls():
    assert parent("https://host/a/catalog.parquet?sig=1") == "https://host/a?sig=1"
    assert is_url("s3://b") and is_url("simplecache::s3://b/c") and not is_url("data/train") and not is_url("C:/a")
    text = "403, url='https://me:pass@host/a?X-Sig=abc&b=1' and s3://key:pass@bucket/c"
    assert shown(text) == "403, url='https://host/a?…' and s3://bucket/c"
    assert shown("https://me:p@ss@host/a") == "https://host/a"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "both"}, "`mode` must be cache or ranges, but got 'both'"),
        ({"limit": 0}, "`limit >= 1` must hold, but got 0"),
        ({"connections": 0}, "`connections >= 1` must hold"),
        ({"retries": -1}, "`retries >= 0` and `timeout > 0` must hold, but got -1"),
        ({"timeout": float("nan")}, "`timeout > 0` must hold, but got 6 and nan"),
    ],
)
def test_options_are_checked(options, text):
    refused(re.escape(text), Remote, **options)


members = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4 * LONGEST), st.integers(1, 2 * GAP)), min_size=1, max_size=40
)


@given(members)
def test_every_member_lies_in_one_span(drawn):
    shards, offsets, sizes = (np.array(column) for column in zip(*drawn, strict=True))
    spans = coalesce(shards.astype(np.int32), offsets, sizes)
    assert sorted(i for span in spans for i in span.members) == list(range(len(drawn)))
    for span in spans:
        assert span.start == min(drawn[i][1] for i in span.members)
        assert span.stop == max(drawn[i][1] + drawn[i][2] for i in span.members)
        assert {drawn[i][0] for i in span.members} == {span.shard}
        assert span.stop - span.start <= LONGEST
        ends = span.start
        for i in sorted(span.members, key=lambda i: drawn[i][1]):  # no gap that would better be left out
            assert drawn[i][1] <= ends + GAP
            ends = max(ends, drawn[i][1] + drawn[i][2])


def test_neighbours_come_with_one_request():
    at = np.array([900, 0, 500, 500 + 100 + GAP + 400])
    spans = coalesce(np.zeros(4, np.int32), at, np.full(4, 100))
    assert [(span.start, span.stop, span.members) for span in spans] == [(0, 1000 + GAP + 100, [1, 2, 0, 3])]
    spans = coalesce(np.zeros(2, np.int32), np.array([0, 101 + GAP]), np.full(2, 100))
    assert [span.members for span in spans] == [[0], [1]]


@pytest.mark.parametrize("scheme", ["memory", "file"])
@pytest.mark.parametrize("mode", ["cache", "ranges"])
def test_any_file_system(stored, scheme, mode):
    url, local = stored
    catalog = Catalog.open(url if scheme == "memory" else f"file://{local}")
    samples = np.random.default_rng(0).integers(0, 60, 200)
    data, bounds = ShardFiles(catalog, remote=Remote(mode)).read(samples)
    expected, _ = ShardFiles(Catalog.open(local)).read(samples)
    assert (data == expected).all() and len(bounds) == 201


def test_local_catalogs_ignore_it(stored):
    catalog = Catalog.open(stored[1])
    files = ShardFiles(catalog, remote=Remote("ranges"))
    assert catalog.remote is None and files.counts == {} and len(files.read(np.array([3]))[0]) == 64


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_package_is_told():
    text = r"^gs://bucket: a package for such URLs is missing \(Please install gcsfs.*\): `pip install 'drawstream\[rem"
    refused(text, Catalog.open, "gs://bucket", error=RemoteError)


def test_an_unknown_scheme_is_told():
    with pytest.raises(RemoteError, match=r"^foo://a: Protocol not known: foo: use a URL that fsspec knows"):
        Catalog.open("foo://me:word@a")


def test_a_damaged_catalog_is_told(stored):
    fsspec.filesystem("memory").pipe("/digits/train/catalog.parquet", b"PAR1 and so on")
    refused(r"not a catalog", Catalog.open, stored[0])


def test_the_catalog_needs_a_place(stored, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        RemoteError, match=r"the copy of memory://digits/train/catalog.parquet cannot be written \(Not a"
    ):
        Catalog.open(stored[0])


def test_the_cache_needs_a_place(stored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match=rf"^{tmp_path}/file/x: cannot be made \(Not a directory\): choose another"):
        CachedShards(Catalog.open(stored[0]), Remote(folder=tmp_path / "file/x"))


def test_a_cache_that_is_cleared_fills_again(stored, tmp_path):
    catalog = Catalog.open(stored[0])
    shards = CachedShards(catalog, Remote(folder=tmp_path / "shards"))
    os.close(shards.open(0))
    shutil.rmtree(tmp_path / "shards")
    descriptor = shards.open(0)
    assert os.pread(descriptor, 1 << 20, 0) == (stored[1] / "shard-000000.tar").read_bytes()
    os.close(descriptor)


def test_hashes_are_not_paths(stored, tmp_path):
    """A catalog from elsewhere must not choose where files are written."""
    catalog = Catalog.open(stored[0])
    evil = dataclasses.replace(catalog.shards[0], hash="../../../evil")
    catalog = dataclasses.replace(catalog, shards=(evil, *catalog.shards[1:]))
    with pytest.raises(RemoteError, match=r"gives '../../../evil' as hash, which must be 32 hex digits"):
        CachedShards(catalog, Remote(folder=tmp_path / "shards")).open(0)


def test_the_default_bound_leaves_room(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    held = tmp_path / f"{'a' * 32}-1000000.tar"
    held.write_bytes(bytes(1_000_000))
    (tmp_path / "other").write_bytes(bytes(1000))
    limit = default_limit(tmp_path)
    assert limit <= LARGEST and (limit == LARGEST or abs(limit - free * 4 // 5) < 1 << 30)


def test_bytes_are_counted(stored):
    transfer = Transfer(stored[0], Remote())
    url = join(stored[0], "shard-000000.tar")
    whole = (stored[1] / "shard-000000.tar").read_bytes()
    assert transfer.get([(url, 5, 10), (url, None, None), (url, 0, 1)]) == [whole[5:10], whole, whole[:1]]
    assert transfer.counts == {"bytes_downloaded": 6 + len(whole), "retries": 0}
    with pytest.raises(RemoteError, match=r"^memory://digits/train/none.tar: there is no such file"):
        transfer.get([(url, 5, 10), (join(stored[0], "none.tar"), 0, 1)])


S = "hUnTer2"
URLS = [
    (f"postgresql://user:{S}@db.example/studies", "postgresql://db.example/studies"),
    (f"postgresql+psycopg2://user:{S}@[::1]:5432/studies", "postgresql+psycopg2://[::1]:5432/studies"),
    (f"mysql+pymysql://user:a'{S}@db/studies", "mysql+pymysql://db/studies"),
    (f'mysql+pymysql://user:a"{S}@db/studies', "mysql+pymysql://db/studies"),
    (f"postgresql://user:a@{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a:{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a/{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a?{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a#{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a%{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:1/{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://db/studies?user=u&password={S}", "postgresql://db/studies?…"),
    (f"redis://:{S}@cache:6379/0", "redis://cache:6379/0"),
    (f"https://{S}@host/train", "https://host/train"),
    (f"https://user:{S}@host:8443/train", "https://host:8443/train"),
    (f"https://user:a/{S}@host/train", "https://host/train"),
    (f"https://host/train?X-Amz-Signature={S}&X-Amz-Date=1", "https://host/train?…"),
    (f"https://host/train?sig={S}", "https://host/train?…"),
    (f"https://host/train#access_token={S}", "https://host/train#…"),
    (f"s3://key:{S}@bucket/train", "s3://bucket/train"),
    (f"simplecache::s3://key:{S}@bucket/train", "simplecache::s3://bucket/train"),
    (f"sqlite:///file:studies?mode=ro&key={S}", "sqlite:///file:studies?…"),
    (f"file:///data/train?token={S}", "file:///data/train?…"),
]
PLAIN = [
    "s3://bucket/a@2x/train", "https://host:8000/a@b/train", "sqlite:////home/a@b/study.db", "file:///data/a@b",
    "postgresql://db/studies", "https://[::1]:8080/train", "drawstream train data -o runs/a --lr 0.1", "a@b.org",
    "--features loss,entropy", "http://127.0.0.1:8000/ shows runs; Ctrl-C ends it", "memory://data/train",
]  # fmt: skip


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_what_is_shown_of_a_url(url, expected):
    assert shown(url) == expected
    assert shown(shown(url)) == expected


@pytest.mark.parametrize("url", [url for url, _ in URLS])
@pytest.mark.parametrize("text", ["{}", "cannot open {}: no", "cannot open '{}': no", "(URL({!r}),)", "--storage={}"])
def test_no_text_holds_a_secret(url, text):
    assert S not in shown(text.format(url))


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_none_is_left_alone(text):
    assert shown(text) == text


@pytest.mark.parametrize("url", [url for url, _ in URLS])
def test_a_secret_alone_in_the_text_of_another_package(url, monkeypatch):
    text = f"Port could not be cast to integer value as '{S}'; password={S}"
    assert S not in shown(text, url)
    monkeypatch.setattr(sys, "argv", ["drawstream", "search", "swift", f"--storage={url}"])
    assert S not in shown(text)


def test_a_password_with_a_space_that_the_command_line_gave(monkeypatch):
    url = f"postgresql://user:my {S}@db/studies"
    monkeypatch.setattr(sys, "argv", ["drawstream", "--storage", url])
    assert S not in shown(f"cannot open {url}")


def test_pairs_outside_of_urls():
    assert shown(f"failed: host=db password={S} dbname=x") == "failed: host=db password=… dbname=x"


def test_values_at_any_depth():
    value = {"a": [1, None, f"x://u:{S}@h/b"], "b": {"c": (f"https://h/?sig={S}", 2.5)}, "plain": "s3://b/c"}
    found = without_secrets(value)
    assert S not in json.dumps(found)
    assert found["plain"] == "s3://b/c" and found["a"][:2] == [1, None] and found["b"]["c"][1] == 2.5


@given(st.text(st.characters(blacklist_categories=("Cs", "Z", "C")), max_size=12), st.text(max_size=3))
def test_any_password_without_space_is_hidden(more, tail):
    secret = f"{more}{S}{tail.strip()}".replace("://", "")
    secret = "".join(c for c in secret if c.isprintable() and not c.isspace())
    for scheme in ("postgresql", "mysql+pymysql", "redis"):
        assert S not in shown(f"cannot open {scheme}://user:{secret}@host/name: it is down")


def _label(text):
    refused("4096 bytes", lambda: as_label(text, ".cls", text.encode()))


PIECES = ["token-", "a", "a=", "token=a ", "a-token_", "http", "http://", "//", "…", "'s3://a@", "(x://?", "k-="]


@pytest.mark.parametrize(
    ("read", "piece"), [*((shown, piece) for piece in PIECES), (split_name, "a/"), (split_name, "_"), (_label, "1")]
)
def test_time_grows_with_the_length_of_a_text_alone(read, piece):
    def seconds(size):
        text, times = piece * (size // len(piece)) + "x", []
        for _ in range(5):
            begin = time.thread_time()
            read(text)
            times.append(time.thread_time() - begin)
        return min(times)

    assert seconds(200_000) < 10 * max(seconds(50_000), 0.005)  # 16 times and more where it grew with the square

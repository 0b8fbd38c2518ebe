"""Bad samples: replaced by the same other draw whatever the ranks and buffers, listed, and bounded."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from drawstream import BadSampleError, Catalog, IndexStream, Loader, Reading, Sequential, Transform, index
from drawstream.pipeline.reading import ENDING, BadSamples, Finding, write_quarantine
from shared.processes import run
from shared.refusals import refused
from shared.samples import FLOWER, digits_catalog, overwrite, write_tar

N = 300
FLIPPED, CUT = (11, 12, 157), range(290, 300)  # rows with a flipped byte; rows behind the end of a truncated shard
WEIGHTS = 1.0 + np.random.default_rng(0).random(N)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "d"
    catalog = digits_catalog(folder, N, shard_rows=100)
    for row in FLIPPED:
        overwrite(catalog, row)
    os.truncate(catalog.shard_path(2), int(catalog.offset[CUT[0]]))
    return catalog


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 JPEGs of a tar made elsewhere, of which 3 are cut: only the decoder can tell."""
    folder, cut = tmp_path_factory.mktemp("bad"), FLOWER[: len(FLOWER) * 2 // 3]
    images = [(f"{i:02d}", cut if i in (3, 13, 14) else FLOWER) for i in np.random.default_rng(0).permutation(24)]
    members = [(f"a/{i}.{end}", data) for i, image in images for end, data in (("cls", "0"), ("jpg", image))]
    return Catalog.open(index(write_tar(folder / "a.tar", *members)).parent)


SUBSTITUTE = Reading(on_bad="substitute")


def loader_of(catalog, stream=None, **options):
    stream = stream or IndexStream(WEIGHTS, seed=3)
    options = {"transform": Transform.small((8, 8), 1, augment=True), "reading": SUBSTITUTE, **options}
    return Loader(catalog, stream, **options)


def columns(batches):
    parts = [(b.images.numpy(), b.labels.numpy(), b.ids.numpy(), b.weights.numpy()) for b in batches]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_other_draws_take_the_places_of_bad_ones(damaged):
    loader = loader_of(damaged, batch_size=16)
    loader.set_epoch(2)
    _, labels, ids, weights = columns(loader)
    order = loader.stream.epoch(2)
    expected = order[0:N]
    bad = np.isin(expected, [*FLIPPED, *CUT])
    assert bad.any() and (ids[~bad] == expected[~bad]).all()
    assert not np.isin(ids, [*FLIPPED, *CUT]).any()
    assert (labels == damaged.label[ids]).all()
    of_row = dict(zip(expected.tolist(), order.weights(0, N).tolist(), strict=True))
    assert weights.tolist() == [of_row[row] for row in ids.tolist()]
    assert len(set(ids[bad].tolist())) > bad.sum() // 2  # not one stand-in for all
    assert loader.metrics["substituted"] == bad.sum()
    assert [b.sample_id for b in loader.bad_samples] == sorted(set(expected[bad].tolist()))
    assert loader.metrics["bad_samples"] == len(loader.bad_samples)
    first = loader.bad_samples[0]
    assert (first.key, first.shard) == (damaged.key(first.sample_id), "shard-000000.tar")
    assert "do not match the checksum" in first.reason


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 7, "reading": replace(SUBSTITUTE, prefetch=1, ahead=0)},
        {"batch_size": 32, "reading": replace(SUBSTITUTE, read_threads=3, ahead=9)},
        {"batch_size": 300, "reading": replace(SUBSTITUTE, threads=1)},
    ],
)
def test_the_replacement_does_not_depend_on_how_it_is_read(damaged, options):
    expected = columns(loader_of(damaged, batch_size=16))
    for a, b in zip(columns(loader_of(damaged, **options)), expected, strict=True):
        assert (a == b).all()


def test_nor_on_the_ranks_or_on_a_resume(damaged):
    expected = columns(loader_of(damaged, batch_size=16))
    ranks = [list(loader_of(damaged, batch_size=5, rank=r, world_size=3)) for r in range(3)]
    together = columns(batch for step in zip(*ranks, strict=True) for batch in step)
    first = loader_of(damaged, batch_size=16)
    batches = iter(first)
    begun = [next(batches) for _ in range(9)]
    resumed = loader_of(damaged, batch_size=4, rank=0, world_size=1)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for a, b, c in zip(together, columns([*begun, *resumed]), expected, strict=True):
        assert (a == c).all() and (b == c).all()


@pytest.mark.filterwarnings("ignore:this is a second pass")
@pytest.mark.parametrize("crop", ["none", "random"])
def test_images_that_do_not_decode_are_replaced(photos, crop, capfd):
    transform = Transform((32, 32), (0.0,) * 3, (1.0,) * 3, crop=crop)
    bad = {i for i, key in enumerate(photos.keys) if key in ("a/03", "a/13", "a/14")}
    runs = []
    for batch_size in (5, 8):
        loader = loader_of(photos, IndexStream(24, seed=1), transform=transform, batch_size=batch_size)
        for _ in range(2):  # once they are met, they are not even tried
            runs.append(columns(loader))
        assert {b.sample_id for b in loader.bad_samples} == bad
        assert all("cannot be decoded" in b.reason for b in loader.bad_samples)
        assert loader.metrics["substituted"] == 6 and loader.metrics["batches"] == 2 * -(-24 // batch_size)
    for each in runs:
        assert all((a == b).all() for a, b in zip(each, runs[0], strict=True))
    assert not bad & set(runs[0][2].tolist())
    assert capfd.readouterr().err == ""  # of the decoder


def test_more_bad_samples_than_allowed(damaged):
    loader = loader_of(damaged, Sequential(0, N), reading=replace(SUBSTITUTE, max_bad=2), batch_size=10)
    seen = []
    with pytest.raises(BadSampleError, match=r"\(row 157\) of .* 2 other bad samples were replaced already"):
        for batch in loader:
            seen += batch.ids.tolist()
    assert len(seen) == 0 or not set(seen) & {11, 12, 157}
    assert [b.sample_id for b in loader.bad_samples] == [11, 12]
    assert sum(len(b.ids) for b in loader_of(damaged, Sequential(0, N), reading=replace(SUBSTITUTE, max_bad=13))) == N


def test_an_epoch_of_bad_samples_ends_with_an_error(damaged):
    loader = loader_of(damaged, Sequential(290, N), batch_size=4)
    refused("is bad, as were 1000 other draws of its epoch: restore the data", list, loader, error=BadSampleError)


def test_raise_is_the_default(damaged):
    loader = Loader(damaged, Sequential(0, N), transform=Transform.small((8, 8), 1))
    refused(r"\(row 11\)", list, loader, error=BadSampleError)
    assert loader.bad_samples == ()


def test_quarantined_samples_are_never_read(tmp_path):
    catalog = digits_catalog(tmp_path / "d", N)
    expected = columns(loader_of(catalog, batch_size=16))
    findings = [Finding("checksum", 0, row, catalog.key(row), "its bytes differ") for row in (5, 3)]
    write_quarantine(tmp_path / "q.json", catalog, findings)
    overwrite(catalog, 3)
    loader = loader_of(catalog, batch_size=16, reading=Reading(quarantine=tmp_path / "q.json"))
    bad = BadSamples(catalog, Reading(quarantine=tmp_path / "q.json"))
    assert bad.known(np.array([1, 5, 2, 3])).tolist() == [1, 3] and bad.met == ()
    ids = columns(loader)[2]
    was = np.isin(expected[2], [3, 5])
    assert was.any() and (ids[~was] == expected[2][~was]).all() and not np.isin(ids, [3, 5]).any()
    assert loader.bad_samples == () and loader.metrics["substituted"] == was.sum()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_bad": "skip"}, "`on_bad` must be one of raise, substitute, but got 'skip'"),
        ({"max_bad": -1}, "`max_bad >= 0` must hold, but got -1"),
        ({"checksum": "sometimes"}, "`checksum` must be one of always, first, never, but got 'sometimes'"),
        ({"read_threads": 0}, "`read_threads >= 1` must hold, but got 0"),
        ({"prefetch": 0}, "`prefetch >= 1` must hold"),
        ({"ahead": -1}, "`ahead >= 0` must hold"),
        ({"threads": 1 << 24}, "`threads < 16777216` must hold"),
    ],
)
def test_bad_options_are_refused(options, text):
    refused(text, Reading, **options)


def test_a_list_of_all_samples_is_refused(damaged, tmp_path):
    findings = [Finding("checksum", 0, row, damaged.key(row), "its bytes differ") for row in range(N)]
    write_quarantine(tmp_path / "q.json", damaged, findings)
    refused("the quarantine list holds all 300 samples", BadSamples, damaged, Reading(quarantine=tmp_path / "q.json"))


def test_headers_are_looked_at_even_without_checksums(tmp_path):
    catalog = digits_catalog(tmp_path / "d", 50, encoding="png")
    overwrite(catalog, 9, bytes(8), at=0)
    loader = loader_of(catalog, IndexStream(50), reading=replace(SUBSTITUTE, checksum="never"))
    assert 9 not in columns(loader)[2]
    assert "its header cannot be parsed as png" in loader.bad_samples[0].reason


@pytest.mark.filterwarnings("ignore:this is a second pass")
@pytest.mark.parametrize(("policy", "found"), [("always", True), ("first", False), ("never", False)])
def test_what_is_held_against_the_checksum(tmp_path, policy, found):
    catalog = digits_catalog(tmp_path / "d", N)
    loader = loader_of(catalog, reading=replace(SUBSTITUTE, checksum=policy))
    list(loader)
    overwrite(catalog, 7)  # after the first epoch
    list(loader)
    assert bool(loader.bad_samples) == found
    fresh = loader_of(catalog, reading=replace(SUBSTITUTE, checksum=policy))
    list(fresh)
    assert bool(fresh.bad_samples) == (policy != "never")


AT_EXIT = """
import atexit, sys, threading, time
from drawstream import Catalog, IndexStream, Loader, Reading
catalog = Catalog.open(sys.argv[1])
loader = Loader(catalog, IndexStream(len(catalog)), batch_size=2, reading=Reading(on_bad="substitute", threads=1))
begun = threading.Event()
def work():
    try:
        for epoch in range(1 << 30):
            loader.set_epoch(epoch)
            for batch in loader:
                begun.set()
    finally:
        print(type(sys.exception()).__name__, sys.exception(), len(loader.bad_samples), flush=True)
        atexit_may_go.set()
atexit_may_go = threading.Event()
atexit.register(atexit_may_go.wait, 20)
threading.Thread(target=work, daemon=True).start()
begun.wait(60)
"""


@pytest.mark.slow
def test_a_daemon_thread_at_exit_calls_nothing_damaged(tmp_path):
    catalog = digits_catalog(tmp_path / "d", 40, encoding="png")
    assert run("-c", AT_EXIT, catalog.root)[0] == f"RuntimeError {ENDING} 0\n"

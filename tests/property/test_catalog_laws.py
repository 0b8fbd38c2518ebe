"""Laws of packing that hold for any images, labels and options."""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drawstream import ArraySource, Catalog, IndexStream, Loader, Reading, Transform, index, pack, verify
from drawstream.pipeline.decoding import ImageInfo, decode, encode, probe
from drawstream.pipeline.shards import stratified_order
from drawstream.pipeline.shards.catalog import FILE, Shard
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.label_noise import relabel
from shared.samples import digits_catalog, member

labels = hnp.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 7))
seeds = st.integers(0, 2**64)
sizes = st.integers(1, 9)


@given(labels, seeds)
@settings(deadline=None)
def test_order_is_a_permutation_with_balanced_prefixes(labels, seed):
    order = stratified_order(labels, seed=seed)
    assert (np.sort(order) == np.arange(len(labels))).all()
    totals = np.bincount(labels, minlength=8)
    counts = np.cumsum(labels[order][:, None] == np.arange(8), axis=0)
    due = np.arange(1, len(labels) + 1)[:, None] * totals / len(labels)
    assert np.abs(counts - due).max() < 8  # each class is off by less than one draw per class


@given(labels, st.floats(0, 1, exclude_max=True), seeds)
@settings(deadline=None)
def test_noise_is_exact_in_every_class(labels, rate, seed):
    noisy = relabel(labels, rate=rate, classes=8, seed=seed)
    assert noisy.min() >= 0 and noisy.max() < 8
    for c in range(8):
        assert (noisy != labels)[labels == c].sum() == round(rate * (labels == c).sum())


@given(
    st.data(),
    st.tuples(st.integers(2, 25), sizes, sizes, st.sampled_from([1, 3])),
    st.sampled_from(["keep", "raw", "png"]),
    seeds,
)
@settings(deadline=None, max_examples=25)
def test_every_row_goes_out_as_it_came_in(data, shape, encoding, seed):
    images = data.draw(hnp.arrays(np.uint8, shape))
    labels = data.draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, 4)))
    holdout = data.draw(st.integers(0, shape[0] - 1))
    source = ArraySource(images, labels, tuple("abcde"))
    with tempfile.TemporaryDirectory() as folder:
        options = {"holdout": holdout, "label_noise": 0.4, "shard_rows": 7, "seed": seed, "encoding": encoding}
        result = pack(source, Path(folder) / "out", **options)
        rows = []
        for part in filter(None, (result.train, result.holdout)):
            catalog = Catalog.open(part)
            assert verify(catalog) == [] and catalog.channels == shape[3]
            assert Catalog.open(index(part, out=Path(folder) / f"index-{part.name}")).fingerprint == catalog.fingerprint
            for row in range(len(catalog)):
                number = int(catalog.key(row))
                stored = member(catalog, row)
                if catalog.encodings[row] == "raw":
                    assert stored == images[number].tobytes()
                else:
                    assert (decode(stored).reshape(shape[1:]) == images[number]).all()
                truth = catalog.label if catalog.clean_label is None else catalog.clean_label
                assert truth[row] == labels[number]
                rows.append(number)
        assert sorted(rows) == list(range(shape[0]))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"P5\n", b"RIFF"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_an_image_or_refused_in_one_line(data, head):
    for act in (probe, decode):
        try:
            act(head + data)
        except ValueError as error:
            assert "\n" not in str(error)


@given(hnp.arrays(np.uint8, st.tuples(sizes, sizes)), st.integers(0, 10_000), st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_a_damaged_png_never_escapes_as_another_error(image, at, mask):
    data = bytearray(encode(image, "png", quality=95)[0])
    data[at % len(data)] ^= mask
    try:
        assert decode(bytes(data)).dtype == np.uint8
    except ValueError as error:
        assert str(error)


keys_of_a_shard = st.lists(st.text("ab/0ü. -", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@given(st.lists(keys_of_a_shard, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_keys_lead_to_their_rows_with_and_without_the_stem(shards):
    draft, found = CatalogWriter(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, keys in enumerate(shards):
            part = CatalogWriter()
            for i, key in enumerate(keys):
                part.add(key, 0, 16 * i, b"x" * 16, ImageInfo("png", 2, 2, 1))
            draft.append(part, number)
            found.append(Shard(f"{'abcd'[number]}.tar", 512, 32 * "0"))
            (Path(folder) / found[-1].path).write_bytes(bytes(512))
        draft.save(Path(folder) / FILE, None, None, shards=found, classes=(), provenance={})
        catalog = Catalog.open(folder)
    rows = np.arange(len(catalog))
    short = [key for keys in shards for key in keys]
    repeated = len(set(short)) < len(short)
    assert (catalog.key_form == "stem/key") == repeated
    assert [catalog.member_key(row) for row in rows] == short
    assert catalog.rows_of(catalog.keys).tolist() == rows.tolist()
    whole = [f"{'abcd'[shard]}/{key}" for shard, key in zip(catalog.shard, short, strict=True)]
    assert repeated == (catalog.keys == whole) or whole == short
    for row, key in enumerate(short):
        meant = [at for at, other in enumerate(short) if other == key]
        if key in catalog.keys:
            assert catalog.rows_of([key]).tolist() == [catalog.keys.index(key)]
        elif len(meant) == 1:
            assert catalog.rows_of([key, "no such key"]).tolist() == [row, -1]
        else:
            with pytest.raises(
                ValueError, match=rf"key '{re.escape(key)}' is in \d+ shards: write which one is meant, as '\w/"
            ):
                catalog.rows_of([key])


# Laws of the loader: the ids are the stream, whatever the batches, ranks and buffers; a state resumes exactly


ROWS = 90
AUGMENTED = {
    "raw": Transform.small((8, 8), 1, augment=True),
    "png": Transform((8, 8), (127.5,), (127.5,), crop="random", flip=True),
}
WEIGHTS = np.random.default_rng(0).random(ROWS) + 0.01
BUFFERS = {"prefetch": st.integers(1, 3), "ahead": st.integers(0, 5), "threads": st.integers(1, 3)}


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")
    return {kind: digits_catalog(folder / kind, ROWS, encoding=kind, shard_rows=40) for kind in AUGMENTED}


def make(catalog, stream, world_size=1, **options):
    transform = AUGMENTED[catalog.encodings[0]]
    return [
        Loader(catalog, stream, transform=transform, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


def run(loaders, steps=None):
    """Batches of all ranks step by step, ranks concatenated: (ids, images, weights, labels) per global batch."""
    loops = [iter(loader) for loader in loaders]
    taken = []
    while steps is None or len(taken) < steps:
        batches = [next(loop, None) for loop in loops]
        if batches[0] is None:
            assert batches == [None] * len(loops)  # all ranks end together
            break
        assert len({len(batch.ids) for batch in batches}) == 1  # and have equally many images
        taken.append(
            [torch.cat([getattr(b, name) for b in batches]) for name in ("ids", "images", "weights", "labels")]
        )
    return taken


def joined(taken):
    """Ids, images, weights of the positions, without what only fills up the last batch."""
    ids, images, weights, _ = (torch.cat(parts) for parts in zip(*taken, strict=True))
    real = weights > 0
    assert real[: int(real.sum())].all()  # fill comes last
    return ids[real], images[real], weights[real]


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["raw", "png"]),
    st.integers(1, 50),
    st.integers(1, 4),
    st.integers(1, 150),
    st.integers(0, 3),
    st.fixed_dictionaries(BUFFERS),
)
def test_ids_are_the_stream(catalogs, kind, batch_size, world_size, draws, epoch, buffers):
    catalog = catalogs[kind]
    stream = IndexStream(WEIGHTS, seed=3, draws=draws)
    loaders = make(catalog, stream, world_size, batch_size=batch_size, reading=Reading(**buffers))
    for loader in loaders:
        loader.set_epoch(epoch)
    taken = run(loaders)
    assert len(taken) == len(loaders[0]) == -(-draws // (batch_size * world_size))
    order = stream.epoch(epoch)
    ids, images, weights = joined(taken)
    assert ids.tolist() == order[:].tolist()
    assert weights.tolist() == order.weights(0, draws).tolist()
    every = torch.cat([each[0] for each in taken])
    assert every.tolist() == order[:].tolist() + [order[p % draws] for p in range(draws, len(every))]  # wraps around
    assert (torch.cat([each[3] for each in taken]).numpy() == catalog.label[every]).all()
    (plain,) = make(catalog, stream, batch_size=draws)
    plain.set_epoch(epoch)
    assert torch.equal(images, joined(run([plain]))[1])  # augmentation too does not depend on batches and ranks
    for loader in (*loaders, plain):
        loader.close()


@pytest.mark.filterwarnings("ignore:drop_last leaves nothing")
@settings(deadline=None, max_examples=10)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 150))
def test_drop_last_leaves_full_batches_alone(catalogs, batch_size, world_size, draws):
    stream = IndexStream(WEIGHTS, seed=3, draws=draws)
    loaders = make(catalogs["raw"], stream, world_size, batch_size=batch_size, drop_last=True)
    full = draws // (batch_size * world_size)
    taken = run(loaders)
    assert len(taken) == len(loaders[0]) == full
    if full:
        ids, _, _ = joined(taken)
        assert ids.tolist() == stream.epoch(0)[: full * batch_size * world_size].tolist()
    for loader in loaders:
        loader.close()


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 3), st.fixed_dictionaries(BUFFERS))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["raw", "png"]), SHAPES, SHAPES, st.integers(0, 2), st.data())
def test_a_state_resumes_bit_for_bit(catalogs, kind, before, after, epoch, data):
    """Stop after any batch; a new loader with other batches, ranks and buffers goes on with the same images."""
    catalog, stream = catalogs[kind], IndexStream(WEIGHTS, seed=9)
    batch_size, world_size, buffers = before
    loaders = make(catalog, stream, world_size, batch_size=batch_size, reading=Reading(**buffers))
    for loader in loaders:
        loader.set_epoch(epoch)
    steps = data.draw(st.integers(0, len(loaders[0])))
    head = run(loaders, steps)
    states = [json.loads(json.dumps(loader.state_dict())) for loader in loaders]
    if steps:
        assert all(state == states[0] for state in states)  # one state for all ranks
    other_batch, other_world, other_buffers = after
    others = make(catalog, stream, other_world, batch_size=other_batch, reading=Reading(**other_buffers))
    for other in others:
        other.load_state_dict(states[0])
        assert other.state_dict() == states[0]
        other.set_epoch(epoch)
    taken = [part for part in (head, run(others)) if part]
    parts = [joined(part) for part in taken]
    (plain,) = make(catalog, stream, batch_size=ROWS)
    plain.set_epoch(epoch)
    for mine, whole in zip(zip(*parts, strict=True), joined(run([plain])), strict=True):
        assert torch.equal(torch.cat(mine), whole)
    for loader in (*loaders, *others, plain):
        loader.close()

"""Laws of the loader: the ids are the stream, whatever the batches, ranks and buffers; a state resumes exactly."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from drawstream.pipeline import Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
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
    source = ArraySource(PIXELS[:ROWS], DIGITS.target[:ROWS])
    return {kind: Catalog.open(pack(source, folder / kind, encoding=kind, shard_rows=40).train) for kind in AUGMENTED}


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

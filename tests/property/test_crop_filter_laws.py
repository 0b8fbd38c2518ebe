"""Laws of the crop filter: what is kept, whatever τ, noise, batches, ranks and resumes."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_digits

from drawstream.pipeline import CropFilter, Loader
from drawstream.pipeline.crop_filter import choose, gumbel, kept_of
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import SwiftFit, SwiftParams

DIGITS = load_digits()
ROWS = 90


@st.composite
def choices(draw):
    """τ with zeros and ties, fillers, noise, and how many to keep."""
    n = draw(st.integers(1, 60))
    tau = draw(arrays.arrays(np.float64, n, elements=st.sampled_from([0.0, 1e-300, 1e-3, 0.5, 1.0])))
    real = draw(arrays.arrays(np.bool_, n))
    return (
        tau,
        real,
        gumbel(draw(st.integers(0, 2**64 - 1)), 0, draw(st.integers(0, 2**40)), n),
        draw(st.integers(0, n)),
    )


def kept(tau, real, noise, count):
    mask = np.zeros(len(tau), bool)
    mask[choose(tau, real, noise, count)[0]] = True
    return mask


@given(choices())
def test_exactly_so_many_distinct_rows_in_order_and_the_wanted_ones_first(drawn):
    tau, real, _, count = drawn
    rows, filled = choose(*drawn)
    assert len(rows) == count and (np.diff(rows) > 0).all()
    mask = kept(*drawn)
    wanted, zero = real & (tau > 0), real & (tau == 0)
    assert mask[wanted].sum() == min(count, wanted.sum())
    assert mask[zero].sum() == filled == np.clip(count - wanted.sum(), 0, zero.sum())
    assert mask[~real].sum() == max(0, count - real.sum())


@given(choices(), st.randoms(use_true_random=False))
def test_the_scale_of_tau_and_the_order_of_the_rows_do_not_matter(drawn, random):
    tau, real, noise, count = drawn
    mask = kept(*drawn)
    assert (kept(tau * 2.0**-20, real, noise, count) == mask).all()
    order = np.array(random.sample(range(len(tau)), len(tau)), int)
    assert (kept(tau[order], real[order], noise[order], count) == mask[order]).all()


@given(choices(), st.data())
def test_a_crop_that_is_kept_stays_when_more_are_kept_or_its_tau_grows(drawn, data):
    tau, real, noise, count = drawn
    mask = kept(*drawn)
    if count < len(tau):
        assert not (mask & ~kept(tau, real, noise, count + 1)).any()
    if mask.any():
        row = data.draw(st.sampled_from(np.flatnonzero(mask).tolist()))
        assert kept(np.where(np.arange(len(tau)) == row, 1.0, tau), real, noise, count)[row]


class MeanPixel:
    fingerprint = "mean pixel"

    def __call__(self, images, labels):
        return {"mean": images.mean((1, 2, 3))}


def sampler():
    rng = np.random.default_rng(0)
    params = SwiftParams((1.0,), (0.3, 0.6), (0.0, 1.0, 0.02, 0.7))
    fit = SwiftFit({"mean": rng.uniform(-0.6, 0, 500)}, features=("mean",), mass=None, transform="cdf")
    return fit.sampler(params)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource((DIGITS.images[:ROWS] * 15.9375).astype(np.uint8), DIGITS.target[:ROWS])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("laws") / "d", shard_rows=40).train)


def make(catalog, rank=0, world_size=1, draws=ROWS, keep=0.5, **options):
    stream = IndexStream(ROWS, seed=9, draws=draws)
    transform = Transform.small((8, 8), 1, augment=True)
    loader = Loader(catalog, stream, transform=transform, rank=rank, world_size=world_size, **options)
    return CropFilter(loader, sampler(), MeanPixel(), keep=keep)


@pytest.mark.filterwarnings("ignore:epoch .* crops have tau > 0:UserWarning")
@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 150),
    st.sampled_from([1.0, 0.5, 1 / 3, 0.7]),
    st.integers(0, 3),
    st.data(),
)
def test_ranks_keep_parts_of_equal_size_and_resume_exactly(catalog, batch_size, world_size, draws, keep, epoch, data):
    options = {"world_size": world_size, "batch_size": batch_size, "draws": draws, "keep": keep}
    whole = []
    for rank in range(world_size):
        crops = make(catalog, rank, **options)
        crops.set_epoch(epoch)
        whole.append(list(crops))
        assert len(whole[-1]) == len(crops)
        crops.loader.close()
    sizes = [[len(batch.ids) for batch in batches] for batches in whole]
    assert all(each == sizes[0] for each in sizes)
    for step, size in enumerate(sizes[0]):
        left = draws - step * batch_size * world_size
        assert size == kept_of(min(batch_size, -(-left // world_size)), crops._share)
    rank, stop = data.draw(st.integers(0, world_size - 1)), data.draw(st.integers(0, len(sizes[0])))
    first = make(catalog, rank, **options)
    first.set_epoch(epoch)
    taken = [batch for _, batch in zip(range(stop), first, strict=False)]
    state = json.loads(json.dumps(first.state_dict()))
    assert state["position"] == min(stop * batch_size * world_size, draws)
    other = make(catalog, rank, reading=Reading(prefetch=1, ahead=0), **options)
    other.load_state_dict(state)
    taken += list(other)
    assert len(taken) == len(whole[rank])
    for a, b in zip(taken, whole[rank], strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.ids, b.ids) and torch.equal(a.weights, b.weights)
    first.loader.close()
    other.loader.close()

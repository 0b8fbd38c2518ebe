"""Laws of the tracker: the state is a function of the visits, whatever the batches, ranks and restarts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load, save

from drawstream import CropFilter, IndexStream, Loader, Reading, SwiftFit, SwiftParams, Transform
from drawstream.features import Tracker
from drawstream.features.visits import CORRECT, LEARNED, add_last, fold
from drawstream.pipeline.crop_filter import choose, gumbel, kept_of
from drawstream.samplers.methods.visits import IGNORED, UNIT, add_visits, measure
from shared.samples import digits_catalog

ROWS, CLASSES = 7, 3


@st.composite
def epochs(draw):
    """Two or three epochs of visits: ids, logits and labels each, some ignored."""
    lengths = draw(st.lists(st.integers(0, 24), min_size=2, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for n in lengths:
        ids = np.where(rng.random(n) < 0.1, IGNORED, rng.integers(0, ROWS, n))
        z = (10.0 ** rng.integers(-3, 4, (n, 1)) * rng.standard_normal((n, CLASSES))).astype(np.float32)
        found.append((ids, z, rng.integers(0, CLASSES, n)))
    return found


def state(tracker):
    return [tensor.tolist() for tensor in tracker.state_dict()["tensors"].values()]


def track(visits, cuts, restarts=(), decay=0.5):
    """Observe each epoch in batches that end at the cuts; go through a file's bytes before the restarts."""
    tracker = Tracker(ROWS, decay=decay)
    seen = 0
    for epoch, columns in enumerate(visits):
        tracker.set_epoch(epoch)
        ends = sorted({min(cut, len(columns[0])) for cut in cuts} | {len(columns[0])})
        for a, b in zip([0, *ends], ends, strict=False):
            if seen in restarts:
                saved, tracker = tracker.state_dict(), Tracker(ROWS, decay=decay)
                tracker.load_state_dict({**saved, "tensors": load(save(saved["tensors"]))})
                tracker.set_epoch(epoch)
            ids, z, y = (torch.from_numpy(column[a:b].copy()) for column in columns)
            tracker.observe(torch.where(ids < 0, 0, ids), z, y, (ids >= 0).float())
            seen += 1
        tracker.reduce()
    return tracker


@settings(max_examples=60, deadline=None)
@given(epochs(), st.lists(st.integers(0, 24)), st.sets(st.integers(0, 12)), st.sampled_from([None, 0.5]))
def test_batches_and_restarts_change_no_bit(visits, cuts, restarts, decay):
    assert state(track(visits, cuts, restarts, decay)) == state(track(visits, [], decay=decay))


@settings(max_examples=60, deadline=None)
@given(epochs())
def test_the_state_is_what_the_definition_says(visits):
    tensors = track(visits, []).state_dict()["tensors"]
    for row in range(ROWS):
        total, seen, flips, learned, before, last = [0] * 4, 0, 0, False, False, -1
        for epoch, (ids, z, y) in enumerate(visits):
            values = np.empty((5, len(ids)))
            assert measure(ids, z, y, ROWS, False, values) == -1
            mine = np.flatnonzero(ids == row)
            if not mine.size:
                continue
            total = [t + sum(int(v / UNIT + 0.5) for v in values[k, mine]) for k, t in enumerate(total)]
            seen, last = seen + mine.size, epoch
            now = bool(values[4, mine[-1]])
            flips, learned, before = flips + (before and not now), learned or now, now
        assert tensors["totals"][row].tolist() == [*total, seen]
        assert tensors["forgotten"][row] == flips and tensors["last_epoch"][row] == last
        assert tensors["flags"][row] == LEARNED * learned + CORRECT * before


@settings(max_examples=60, deadline=None)
@given(epochs(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_visits_of_ranks_add_up_in_any_order(visits, ranks, random):
    """Kernels: each visit goes to some rank, in any order, and carries its position; sums and maxima merge them."""

    def run(parts):
        arrays = [np.zeros((ROWS, 5), np.int64), np.zeros(ROWS, np.int32), np.full(ROWS, -1, np.int32)]
        arrays += [np.zeros(ROWS, np.uint8), np.full(ROWS, -1, np.int16), np.zeros((ROWS, 4))]
        for epoch, columns in enumerate(visits):
            sums, last = np.zeros((parts, ROWS, 5), np.int64), np.zeros((parts, ROWS), np.int64)
            order = list(range(len(columns[0])))
            random.shuffle(order)
            for i in order if parts > 1 else sorted(order):
                ids, z, y = (column[i : i + 1] for column in columns)
                values, rank = np.empty((5, 1)), random.randrange(parts)
                assert measure(ids, z, y, ROWS, False, values) == -1
                add_visits(ids, values, sums[rank])
                add_last(ids, values[-1], i, last[rank])
            fold(epoch, sums.sum(0), last.max(0), *arrays, 0.5)
        return [array.tolist() for array in arrays]

    assert run(ranks) == run(1)


# Laws of the crop filter: what is kept, whatever τ, noise, batches, ranks and resumes


IMAGES = 90


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
    return digits_catalog(tmp_path_factory.mktemp("laws") / "d", IMAGES, shard_rows=40)


def make(catalog, rank=0, world_size=1, draws=IMAGES, keep=0.5, **options):
    stream = IndexStream(IMAGES, seed=9, draws=draws)
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

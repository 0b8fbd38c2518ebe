"""Laws of the tracker: the state is a function of the visits, whatever the batches, ranks and restarts."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.features import Tracker
from drawstream.features.visits import CORRECT, LEARNED, add_last, fold
from drawstream.samplers.methods.visits import IGNORED, UNIT, add_visits, measure

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


def track(visits, cuts, restarts=()):
    """Observe each epoch in batches that end at the cuts; go through `state_dict` before the restarts."""
    tracker = Tracker(ROWS, decay=0.5)
    seen = 0
    for epoch, columns in enumerate(visits):
        tracker.set_epoch(epoch)
        ends = sorted({min(cut, len(columns[0])) for cut in cuts} | {len(columns[0])})
        for a, b in zip([0, *ends], ends, strict=False):
            if seen in restarts:
                restored = Tracker(ROWS, decay=0.5)
                restored.load_state_dict(tracker.state_dict())
                tracker = restored
                tracker.set_epoch(epoch)
            ids, z, y = (torch.from_numpy(column[a:b].copy()) for column in columns)
            tracker.observe(torch.where(ids < 0, 0, ids), z, y, (ids >= 0).float())
            seen += 1
        tracker.reduce()
    return tracker


@settings(max_examples=60, deadline=None)
@given(epochs(), st.lists(st.integers(0, 24)), st.sets(st.integers(0, 12)))
def test_batches_and_restarts_change_no_bit(visits, cuts, restarts):
    assert state(track(visits, cuts, restarts)) == state(track(visits, []))


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
        arrays += [np.zeros(ROWS, np.uint8), np.zeros((ROWS, 4))]
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

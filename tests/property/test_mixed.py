"""Mixtures: shares hold in every block, each source's draws are its own stream's, any slice is a slice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream import IndexStream, MixedStream
from drawstream.samplers.orders.shares import BLOCK, Shares
from drawstream.testing import check_stream
from shared.refusals import refused

share = st.floats(0, 1) | st.integers(0, 10).map(float)


def tables(sources, steps):
    table = st.lists(st.lists(share, min_size=sources, max_size=sources), min_size=steps, max_size=steps)
    return table.map(lambda rows: np.array(rows, dtype=np.float64) + np.eye(1, sources) * 1e-3)


def lags(shares, blocks):
    """The integral of the shares less the units given, in each block, float64 (blocks, G)."""
    units = blocks * shares.block
    sources, numbers = np.empty(units, np.int32), np.empty(units, np.int64)
    shares.fill(np.array([1, 2], np.uint64), 0, sources, numbers)
    given = sources[:, None] == np.arange(shares.shares.shape[1])
    assert (shares.at(np.arange(units))[given] > 0).all()
    for g in range(given.shape[1]):
        np.testing.assert_array_equal(numbers[sources == g], np.arange((sources == g).sum()))
    owed = shares.at(np.arange(units)) - given
    return owed.reshape(blocks, shares.block, -1).sum(1)


def check_law(shares, blocks=40):
    owed = lags(shares, blocks)
    assert shares.sound
    assert np.abs(owed).max() < 1 + 1e-6 and np.abs(owed.cumsum(0)).max() < 1 + 1e-6


@given(st.integers(2, 9).flatmap(lambda sources: tables(sources, 1)))
def test_fixed_shares_hold_to_within_one_draw_in_and_up_to_every_block(table):
    check_law(Shares(table))


@given(st.integers(2, 16).flatmap(lambda sources: tables(sources, 3)), st.integers(1, 20000), st.integers(1, 20000))
def test_shares_in_steps_hold_to_within_one_draw_in_and_up_to_every_block(table, first, second):
    check_law(Shares(table, [first, first + second]))


@pytest.mark.parametrize("zeros", [0, 0.3, 0.6])
@pytest.mark.parametrize("block", [BLOCK, 16])
@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_shares_of_many_sources_that_jump_hold_and_none_is_drawn_without_a_share(zeros, block, times):
    rng = np.random.default_rng(times)
    for _ in range(times):
        sources, steps, span = rng.integers(1, 17), rng.integers(1, 7), int(rng.choice([7, 15, 30]))
        table = rng.integers(1, rng.choice([2, 3, 10, 10**6]), (steps, sources), endpoint=True).astype(float)
        table *= rng.random(table.shape) >= zeros
        table[table.sum(1) == 0, 0] = 1
        unit = block if rng.random() < 0.4 else 1  # at the end of a block, or within
        ends = np.sort(rng.choice(span * block // unit, steps, replace=False))[1:] * unit
        check_law(Shares(table, ends.tolist(), block), span + 10)


def test_a_change_of_all_sources_within_a_block_and_a_pause_of_two_hold():
    """Two sources of four have to be in before the pause, one of each kind: comparing in pairs takes two of a kind."""
    table = np.array(
        [[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 1], [1, 1, 0, 1, 1, 0]], float
    )
    check_law(Shares(table, [6 * BLOCK + 166, 15 * BLOCK + 808, 23 * BLOCK + 665, 28 * BLOCK + 141]))


@given(st.integers(2, 5).flatmap(lambda sources: tables(sources, 2)), st.integers(1, 10**6), st.integers(0, 2**40))
def test_counts_of_a_far_block_are_those_that_counting_on_gives(table, end, block):
    for shares in (Shares(table, [end]), Shares(table[:1])):
        at = block if max(shares._periods) <= 1 << 16 else block % 3000
        (counts, lag), (after, later) = shares.counts(at), shares.counts(at + 1)
        assert counts.sum() == at * BLOCK and (after >= counts).all() and after.sum() == counts.sum() + BLOCK
        assert lag.sum() == later.sum() == 0


@pytest.mark.parametrize("table", [[0.3141592653589793, 1.0], [1 / 3, 1 / 7, 0.5]])
def test_a_far_count_is_the_share_itself_not_a_fraction_near_it(table):
    share = np.array([table]) / np.sum(table)
    counts, _ = Shares(np.array([table])).counts(10**6)
    assert np.abs(counts - share[0] * 10**6 * BLOCK).max() < 1.01


@given(st.integers(1, 3000), st.integers(0, 5000), st.integers(0, 3000), st.sampled_from([1, 7, 64]))
def test_any_slice_is_that_of_the_whole_and_each_source_follows_its_own_stream(draws, start, size, unit):
    weights = np.arange(1.0, 301)
    sources = [IndexStream(500, seed=1), IndexStream(weights, seed=2), IndexStream(50, mode="multinomial", draws=9)]
    kind = {"batches": "single", "global_batch": unit} if unit > 1 else {}
    stream = MixedStream(sources, [0.5, [[0, 0.3], [0.5, 0.1]], 0.2], seed=3, draws=draws * unit, epochs=4, **kind)
    whole = [stream.epoch(epoch)[:] for epoch in range(3)]
    start = min(start, stream.draws)
    np.testing.assert_array_equal(stream.epoch(1)[start : start + size], whole[1][start : start + size])
    rows = np.concatenate(whole)
    source = np.searchsorted(stream.offsets, rows, side="right") - 1
    for g, own in enumerate(sources):
        mine = rows[source == g] - stream.offsets[g]
        epochs = [own.epoch(epoch)[:] for epoch in range(len(mine) // own.draws + 1)]
        np.testing.assert_array_equal(mine, np.concatenate(epochs)[: len(mine)])
    assert unit == 1 or (source.reshape(-1, unit) == source.reshape(-1, unit)[:, :1]).all()


def test_the_contract_of_a_stream_holds_with_the_weights_of_a_mixture():
    weights = np.random.default_rng(0).random(300)
    sources = [IndexStream(500), IndexStream(weights), IndexStream(77, seed=3)]
    mixture = np.concatenate([np.full(500, 0.5 / 500), 0.3 * weights / weights.sum(), np.full(77, 0.2 / 77)])
    others = [
        MixedStream(sources, [5, 3, 2], seed=5),
        MixedStream(sources, [5, 3, 3], seed=4),
        MixedStream(sources, [5, 3, 2], seed=4, draws=900),
        MixedStream(sources[:2], [5, 3], seed=4),
        MixedStream(sources, [5, 3, 2], seed=4, batches="single", global_batch=877),
        MixedStream(sources, [5, 3, [[0, 2], [0.5, 1]]], seed=4, epochs=3),
    ]
    check_stream(MixedStream(sources, [5, 3, 2], seed=4), weights=mixture, others=others)


@pytest.mark.parametrize("options", [{}, {"batches": "single", "global_batch": 50}])
def test_a_step_holds_from_its_very_position_on(options):
    stream = MixedStream(
        [IndexStream(700), IndexStream(300)], [[(0, 1), (0.5, 0)], [(0, 0), (0.5, 1)]], epochs=5, seed=1, **options
    )
    source = np.concatenate([stream.epoch(epoch)[:] for epoch in range(5)]) >= 700
    assert not source[:2500].any() and source[2500:].all()
    assert all(np.isfinite(stream.epoch(epoch).weights(0, 1000)).all() for epoch in range(5))


def test_weights_that_change_are_part_of_the_state():
    def mixture():
        return MixedStream([IndexStream(np.ones(40), seed=1), IndexStream(60)], [1, 1], seed=2)

    stream, again = mixture(), mixture()
    assert stream.state_dict() == {}
    stream.streams[0].update(np.arange(40.0))
    again.load_state_dict(stream.state_dict())
    np.testing.assert_array_equal(again.epoch(3)[:], stream.epoch(3)[:])
    assert not np.array_equal(mixture().epoch(3)[:], stream.epoch(3)[:])


@pytest.mark.parametrize(
    ("shares", "options", "named"),
    [
        ([1], {}, "2 and 1"),
        ([1, -1], {}, "-1"),
        ([0, 0], {}, "0.0"),
        ([1, float("nan")], {}, "nan"),
        ([1, [[0.5, 1]]], {"epochs": 2}, "source 1"),
        ([1, [[0, 1], [0.5, 0]]], {}, "epochs"),
        ([1, 1], {"batches": "single"}, "global_batch=None"),
        ([1, 1], {"global_batch": 4}, "global_batch=4"),
        ([1, 1], {"batches": "single", "global_batch": 4, "draws": 6}, "6 and 4"),
        ([1, 1], {"seed": -1}, "-1"),
        ([1, [[0, 1], [0.5, 0]]], {"epochs": 0}, "epochs=0"),
        ([1, 1], {"batches": "single", "global_batch": 0}, "0"),
        ([1e308, 1e308], {}, "308"),
        ([1, 1], {"draws": 1 << 61}, "draws"),
    ],
)
def test_what_does_not_fit_is_refused(shares, options, named):
    refused(named, lambda: MixedStream([IndexStream(5), IndexStream(6)], shares, **options))


@pytest.mark.parametrize(
    "shares", [[None, 1], 0.5, None, ["0.5", 1], [True, 1], [[1], 1], [[[0, 1, 2]], 1], [[[0, "x"]], 1]]
)
def test_shares_that_are_no_numbers_are_refused(shares):
    refused("shares? ", lambda: MixedStream([IndexStream(5), IndexStream(6)], shares), error=TypeError)


def test_any_epoch_of_a_training_in_steps_is_near():
    stream = MixedStream(
        [IndexStream(10**9), IndexStream(10**9, seed=1)], [[(0, 0.3), (0.5, 0.25)], 0.7], seed=1, epochs=100
    )
    for epoch in (0, 49, 50, 99, 10**6, (1 << 61) // stream.draws - 1):
        rows = stream.epoch(epoch)[stream.draws - 4096 :]
        share = 0.3 if epoch < 50 else 0.25 / 0.95
        assert abs((rows < 10**9).sum() - share * 4096) < 5
    refused("2\\*\\*61", stream.epoch, 1 << 60)
    far = MixedStream([IndexStream(10**9), IndexStream(10**9)], [np.pi, 1])
    refused("round the shares", lambda: far.epoch(10**6)[:1])


def test_shares_in_many_steps_are_counted_as_by_one_pass_over_all_blocks():
    rng = np.random.default_rng(5)
    table = np.vstack([rng.integers(0, 11, (4, 3)) + np.eye(1, 3), rng.random((1, 3))])
    shares = Shares(table, [3000, 3010, 500_000, 2_000_000])
    sources, numbers = np.empty(2500 * BLOCK, np.int32), np.empty(2500 * BLOCK, np.int64)
    shares.fill(np.array([1, 2], np.uint64), 0, sources, numbers)
    for block in (1, 2, 3, 4, 480, 500, 1900, 1960, 2400):
        np.testing.assert_array_equal(
            Shares(table, [3000, 3010, 500_000, 2_000_000]).counts(block)[0],
            np.bincount(sources[: block * BLOCK], minlength=3),
        )


class Learning:
    """Weights that grow by what was learnt, as a learner that all ranks brought to the same state."""

    def __init__(self, rows):
        self.rows, self.known = rows, 0

    def probabilities(self, epoch):
        return np.arange(1.0, self.rows + 1) ** min(self.known, 3)

    def state_dict(self):
        return {"known": self.known}

    def load_state_dict(self, state):
        self.known = int(state["known"])


def learning(seed=0):
    sampler = Learning(50)
    sources = [IndexStream(sampler, mode="multinomial", draws=30, seed=1), IndexStream(70, seed=2)]
    return sampler, MixedStream(sources, [0.4, 0.6], seed=seed)


def test_ranks_that_look_at_other_parts_of_an_epoch_draw_a_learning_source_alike():
    ranks = [learning() for _ in range(2)]
    whole = []
    for epoch in range(5):
        orders = [stream.epoch(epoch) for _, stream in ranks]
        parts = [
            [order[start + 10 * r : start + 10 * (r + 1)] for start in range(0, 120, 20)]
            for r, order in enumerate(orders)
        ]
        whole.append(np.stack(parts, 1).reshape(-1))
        for sampler, _ in ranks:
            sampler.known += 1
    assert any(not np.array_equal(whole[0] < 50, each < 50) for each in whole)
    sampler, stream = learning()
    for epoch in range(5):
        np.testing.assert_array_equal(stream.epoch(epoch)[:], whole[epoch])
        sampler.known += 1
    drawn = np.concatenate(whole)
    own = np.split(drawn[drawn < 50], range(30, (drawn < 50).sum(), 30))
    assert len(own) >= 7 and own[0].mean() < 29 < own[-2].mean()  # weights grow


def test_a_state_between_epochs_holds_the_weights_of_a_source_epoch_under_way():
    sampler, stream = learning()
    for epoch in range(3):
        order = stream.epoch(epoch)
        order[:]
        sampler.known += 1
    expected = stream.state_dict(3)
    rest = stream.epoch(3)[:]
    _, again = learning()
    again.load_state_dict(expected)
    np.testing.assert_array_equal(again.epoch(3)[:], rest)
    other_sampler, other = learning()
    other_sampler.known = 3
    assert not np.array_equal(other.epoch(3)[:], rest)

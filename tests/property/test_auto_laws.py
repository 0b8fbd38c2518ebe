"""Laws of the population search: the orders of cycles, what smoothing keeps, what a recorder survives, STATIC draws."""

import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drawstream import IndexStream, map_weights
from drawstream.search.auto.explore import child_seed, smooth, sub_schedule
from drawstream.search.auto.plan import PopulationPlan, Smoothing
from drawstream.search.auto.record import Recorder, write_distribution
from shared.refusals import refused

COUNTS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 50)).filter(lambda counts: counts.sum() > 0)
SMOOTHINGS = st.sampled_from(Smoothing.__args__)
BETAS = st.floats(1.0, 50.0)


@st.composite
def plans(draw, **fixed):
    rows = draw(st.integers(1, 60))
    options = {
        "batch_size": draw(st.integers(1, rows)),
        "epochs": draw(st.integers(1, 25)),
        "interval": draw(st.integers(1, 30)),
        "first": draw(st.integers(1, 8)),
        "permutations": draw(st.integers(0, 4)),
        "seed": draw(st.integers(0, 2**64 - 1)),
    }
    return PopulationPlan(rows, 2, **{**options, **fixed})


@settings(deadline=None)
@given(plans())
def test_intervals_cover_an_epoch_and_end_with_it(plan):
    spans = list(plan.spans())
    assert len(spans) == plan.intervals
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])] and spans[-1][1] == plan.draws
    sizes = {stop - start for start, stop in spans[:-1]}
    assert sizes <= {plan.interval * plan.batch_size} and plan.draws % plan.batch_size == 0
    assert plan.rows - plan.batch_size < plan.draws <= plan.rows


@settings(deadline=None)
@given(plans())
def test_cycles_cover_all_epochs(plan):
    cycles = [plan.cycle(epoch) for epoch in range(plan.epochs)]
    for epoch, cycle in enumerate(cycles):
        assert cycle.begin <= epoch < cycle.end <= plan.epochs
        assert cycle.begin == 0 if cycle.number == 0 else plan.cycle(cycle.begin - 1).number == cycle.number - 1
        full = plan.first if cycle.number == 0 else plan.permutations + 1
        assert cycle.end == min(cycle.begin + full, plan.epochs)


@settings(deadline=None)
@given(COUNTS, BETAS, SMOOTHINGS)
def test_smoothing_keeps_the_order_and_never_sharpens(counts, beta, smoothing):
    p = smooth(counts, beta=beta, smoothing=smoothing)
    assert p.dtype == np.float64 and (p >= 0).all() and p.sum() == pytest.approx(1)
    by_count = p[np.argsort(counts, kind="stable")]
    assert (np.diff(by_count) >= -1e-15).all()
    share = counts / counts.sum()
    assert p.max() <= share.max() * (1 + 1e-12)  # log(1 + x) is concave and 0 at 0


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 50), BETAS, SMOOTHINGS)
def test_equal_counts_give_the_uniform_distribution(rows, count, beta, smoothing):
    np.testing.assert_allclose(smooth(np.full(rows, count), beta=beta, smoothing=smoothing), 1 / rows)


def test_the_literal_formula_does_what_it_does():
    counts = np.r_[np.zeros(500), np.ones(300), np.full(200, 7)].astype(np.int64)
    share = counts / counts.sum()
    np.testing.assert_allclose(smooth(counts, beta=1, smoothing="literal"), share, rtol=0.003)  # nothing
    np.testing.assert_allclose(smooth(counts, beta=2, smoothing="literal"), 1 / 1000, rtol=0.01)  # nearly uniform
    soft = smooth(counts, beta=1, smoothing="log_count")
    assert soft[999] / soft[500] == pytest.approx(3)  # log 8 / log 2 instead of 7
    relative = smooth(counts, beta=1, smoothing="log_relative")
    assert relative[999] / relative[500] == pytest.approx(np.log1p(7 / 1.7) / np.log1p(1 / 1.7))


@settings(deadline=None, max_examples=50)
@given(plans(batch_size=1, exploration="mixture", mode="stratified"), st.data())
def test_a_stratified_cycle_has_the_least_variance(plan, data):
    """With batches of one row nothing is left out: each row comes N_u + floor or ceil of N P times."""
    counts = data.draw(hnp.arrays(np.int64, plan.rows, elements=st.integers(0, 9)).filter(lambda c: c.sum() > 0))
    cycle = plan.cycle(plan.epochs - 1)
    length = cycle.end - cycle.begin
    if cycle.number == 0:
        share, expected = None, np.full(plan.rows, length, dtype=np.float64)
    else:
        share = smooth(counts, beta=plan.beta, smoothing=plan.count_smoothing)
        expected = length / (plan.permutations + 1) * (plan.permutations + plan.rows * share)
    order = sub_schedule(plan, cycle, 1, share)
    seen = np.bincount(np.concatenate([order(e, 0, plan.draws) for e in range(cycle.begin, cycle.end)]))
    seen = np.r_[seen, np.zeros(plan.rows - seen.size, dtype=np.int64)]
    assert (seen >= np.floor(expected - 1e-9)).all() and (seen <= np.ceil(expected + 1e-9)).all()
    assert seen.sum() == length * plan.rows


@settings(deadline=None, max_examples=50)
@given(plans(batch_size=1, exploration="mixture", first=1, epochs=25), st.integers(0, 10))
def test_a_multinomial_cycle_holds_its_permutations(plan, child):
    """Each row comes at least N_u times in a whole cycle; rows that P leaves out come no more often."""
    share = smooth(np.arange(plan.rows) % 3 + (plan.rows == 1), beta=1, smoothing="log_count")
    cycle = plan.cycle(1)
    order = sub_schedule(plan, cycle, child, share)
    seen = np.bincount(np.concatenate([order(e, 0, plan.draws) for e in range(cycle.begin, cycle.end)]))
    assert seen.size == plan.rows and (seen >= plan.permutations).all()
    assert (seen[share == 0] == plan.permutations).all() and seen.sum() == plan.rows * (plan.permutations + 1)


def test_children_draw_independently_from_p():
    """Counts of a row over many children: mean N_u + N P, variance N P (1 - P); stratified ones hardly vary."""
    plan = PopulationPlan(200, 2, 1, 9, first=1, permutations=2, seed=3)
    share = smooth(1 + np.random.default_rng(0).poisson(4, 200), beta=1, smoothing="log_count")
    children = 2000

    def counts(mode):
        orders = (sub_schedule(replace(plan, mode=mode), plan.cycle(1), child, share) for child in range(children))
        return np.stack([np.bincount(np.concatenate([order(e, 0, 200) for e in (1, 2, 3)])) for order in orders])

    seen, least = counts("multinomial"), counts("stratified")
    variance = 200 * share * (1 - share)
    deviations = (seen.mean(0) - 2 - 200 * share) / np.sqrt(variance / children)
    assert np.abs(deviations).max() < 5
    assert seen.var(0).mean() == pytest.approx(variance.mean(), rel=0.05)
    assert least.var(0).mean() < 0.25


@settings(deadline=None)
@given(plans(mode="multinomial") | plans(mode="stratified"), st.integers(0, 10))
def test_intervals_are_parts_of_one_order(plan, child):
    cycle = plan.cycle(plan.epochs - 1)
    share = None if cycle.number == 0 else smooth(np.arange(1, plan.rows + 1), beta=1, smoothing="log_count")
    order = sub_schedule(plan, cycle, child, share)
    epoch = plan.epochs - 1
    parts = [order(epoch, start, stop) for start, stop in plan.spans()]
    np.testing.assert_array_equal(np.concatenate(parts), order(epoch, 0, plan.draws))
    again = sub_schedule(plan, cycle, child, share)
    np.testing.assert_array_equal(again(epoch, 0, plan.draws), order(epoch, 0, plan.draws))


def test_children_and_seeds_have_nothing_in_common():
    seeds = {child_seed(seed, child) for seed in range(30) for child in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2**64 for seed in seeds)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 2**40)), min_size=1, max_size=8),
    st.data(),
)
def test_a_recorder_torn_at_any_byte_goes_on_or_is_refused(parts, data):
    kept = data.draw(st.integers(0, len(parts)))  # the checkpoint vouches for so many
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schedule.rows"
        with Recorder(path) as recorder:
            for part in parts[:kept]:
                recorder.append(part)
            length, checksum = recorder.length, recorder.checksum
            for part in parts[kept:]:
                recorder.append(part)
        whole = path.read_bytes()
        everything = np.concatenate(parts)
        assert whole == everything.tobytes() and checksum == zlib.crc32(everything[:length].tobytes())
        torn = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:torn])
        if torn < 8 * length:
            refused("it was cut short", Recorder, path, length=length, checksum=checksum)
            assert path.read_bytes() == whole[:torn]  # left as it was found
            return
        with Recorder(path, length=length, checksum=checksum) as recorder:
            for part in parts[kept:]:
                recorder.append(part)
            np.testing.assert_array_equal(recorder.rows(), everything)
            start = data.draw(st.integers(0, everything.size))
            stop = data.draw(st.integers(start, everything.size))
            small = everything[start:stop] % 50
            np.testing.assert_array_equal(np.bincount(recorder.rows(start, stop) % 50), np.bincount(small))


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 9)), st.data())
def test_counts_are_those_of_a_part(rows, data):
    start = data.draw(st.integers(0, rows.size))
    stop = data.draw(st.integers(start, rows.size))
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder) / "schedule.rows") as recorder:
        recorder.append(rows)
        expected = np.bincount(rows[start:stop], minlength=10)
        np.testing.assert_array_equal(recorder.counts(start, stop, 10), expected)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int64, st.integers(1, 30)), st.integers(0, 30 * 64))
def test_a_turned_bit_is_noticed(rows, bit):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schedule.rows"
        with Recorder(path) as recorder:
            recorder.append(rows)
            length, checksum = recorder.length, recorder.checksum
        content = bytearray(path.read_bytes())
        place = bit % (64 * rows.size)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        refused("it is damaged", Recorder, path, length=length, checksum=checksum)


WON = st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(any)


def recorded(folder, counts):
    path = Path(folder) / "distribution.parquet"
    write_distribution(path, np.array(counts), catalog="", provenance={})
    return map_weights(path, column="weight")


@given(WON, st.integers(0, 2**32), st.integers(1, 4))
def test_stratified_draws_repeat_the_recorded_counts(tmp_path_factory, counts, seed, times):
    weights = recorded(tmp_path_factory.mktemp("static"), counts)
    order = IndexStream(weights, seed=seed, draws=times * sum(counts)).epoch(0)
    drawn = np.bincount(order[:], minlength=len(counts))
    assert np.abs(drawn - times * np.array(counts)).max() <= 1  # M P is whole but for rounding
    assert set(np.flatnonzero(drawn)) == set(np.flatnonzero(counts))


@given(WON, st.integers(0, 2**32))
def test_what_never_won_is_never_drawn(tmp_path_factory, counts, seed):
    weights = recorded(tmp_path_factory.mktemp("static"), counts)
    won = np.flatnonzero(counts)
    multinomial = IndexStream(weights, mode="multinomial", seed=seed, draws=200).epoch(3)
    assert set(multinomial[:]) <= set(won)
    subset = IndexStream(weights, mode="subset", seed=seed, draws=won.size).epoch(1)
    assert sorted(subset[:]) == won.tolist()

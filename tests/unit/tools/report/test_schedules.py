"""What is said about a schedule: stages, segments, entropy, and the spread between children against its noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.samplers.orders.schedule import Schedule, write_schedule
from drawstream.search.auto.plan import stage_epochs
from drawstream.tools.report.schedules import (
    children_spread,
    correlation,
    count_stages,
    dispersion,
    effective_rows,
    segment_counts,
)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 8))
def test_stages_share_out_all_epochs_and_end_where_cycles_do(epochs, first, cycle):
    stages = stage_epochs(epochs, first=first, cycle=cycle)
    assert [epoch for stage in stages for epoch in stage] == list(range(epochs))
    assert all(stage for stage in stages) and len(stages) <= 3
    assert all((stage.stop - first) % cycle == 0 and stage.stop >= first for stage in stages[:-1])


def test_stages_are_thirds_as_far_as_cycles_allow():
    assert stage_epochs(240, first=20, cycle=4) == [range(80), range(80, 160), range(160, 240)]  # as in the paper
    assert stage_epochs(10, first=2, cycle=4) == [range(2), range(2, 6), range(6, 10)]
    assert stage_epochs(6) == [range(2), range(2, 4), range(4, 6)]
    assert stage_epochs(3, first=5, cycle=4) == [range(3)]


def test_counts_of_the_stages_are_those_of_the_schedule(tmp_path):
    orders = [np.array(order) for order in ([0, 0, 1], [2, 2, 2], [0, 1, 2], [3, 3, 3])]
    write_schedule(tmp_path / "s.arrow", orders, rows=5)
    schedule = Schedule.open(tmp_path / "s.arrow")
    counts = count_stages(schedule, [range(1), range(1, 3), range(3, 4)])
    assert counts.tolist() == [[2, 1, 0, 0, 0], [1, 1, 4, 0, 0], [0, 0, 0, 3, 0]]
    assert counts.sum(0).tolist() == schedule.counts().tolist()


def test_segments_follow_the_last_stage_and_their_mean_is_1():
    rng = np.random.default_rng(3)
    counts = rng.poisson(2.0, (3, 1000))
    parts = segment_counts(counts, segments=20)
    assert parts.shape == (3, 20)
    assert (np.diff(parts[-1]) >= 0).all()
    assert parts.mean(1) == pytest.approx([1, 1, 1])  # 20 equal segments
    same = segment_counts(np.stack([counts[0], counts[0]]), segments=20)
    assert same[0].tolist() == same[1].tolist()
    assert segment_counts(counts[:, :7], segments=20).shape == (3, 7)
    blocks = np.ones((2, 1000), np.int64)
    blocks[0] = np.repeat([0, 2], 500)  # all tie in the last stage: a segment is no block of neighbours
    assert segment_counts(blocks, segments=10)[0].min() > 0.5


def test_entropy_and_dispersion_know_permutations_and_independent_draws():
    rng = np.random.default_rng(0)
    rows = 20_000
    even = np.full(rows, 3)
    assert effective_rows(even) == pytest.approx(1)
    assert dispersion(even) == 0
    independent = np.bincount(rng.integers(0, rows, 3 * rows), minlength=rows)
    assert dispersion(independent) == pytest.approx(1, abs=0.05)
    preferred = np.bincount(rng.choice(rows, 3 * rows, p=np.arange(rows) / np.arange(rows).sum()), minlength=rows)
    assert dispersion(preferred) > 1.5
    assert effective_rows(preferred) < effective_rows(independent) < 1
    half = np.repeat([0, 4], rows // 2)
    assert effective_rows(half) == pytest.approx(0.5)


def test_correlation_is_none_where_one_side_is_constant():
    assert correlation(np.array([1, 1, 1]), np.array([1.0, 2.0, 3.0])) is None
    assert correlation(np.array([1, 2, 3]), np.array([1.0, 8.0, 27.0])) == pytest.approx((26 / 724**0.5, 1.0))


def rewards_of(real, rows, *, again=False):
    """Accuracies of 4 children over 400 intervals: true ones that differ by `real` per cent, counted on `rows` rows."""
    rng = np.random.default_rng(5)
    truth = 0.8 + real / 100 * rng.standard_normal((400, 4))
    first, second = (100 * rng.binomial(rows, truth) / rows for _ in range(2))
    return children_spread(first, rows, again=second if again else None)


def test_equal_children_are_spread_by_binomial_noise_alone():
    noise = rewards_of(0, 500, again=True)
    assert noise.binomial == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 500), rel=1e-2)
    assert noise.between == pytest.approx(noise.binomial, rel=0.05)
    assert noise.gain == pytest.approx(1.03 * noise.between, rel=0.1)  # as the highest of 4 normal numbers
    assert abs(noise.repeated) < 0.25
    assert abs(noise.agreement) < 0.1


def test_children_that_differ_are_seen_on_the_other_rows_too():
    real = rewards_of(3, 5000, again=True)
    assert real.between > 4 * real.binomial
    assert real.repeated == pytest.approx(real.gain, rel=0.1)
    assert real.agreement > 0.9
    assert rewards_of(3, 5000).repeated is None


def test_rewards_must_be_accuracies_of_several_children():
    with pytest.raises(ValueError, match="at least 2 children"):
        children_spread(np.zeros((5, 1)), 100)
    with pytest.raises(ValueError, match=r"\[0, 100\] %, but got -1\.5"):
        children_spread(np.full((5, 2), -1.5), 100)

"""Laws of the STATIC distribution: what a search recorded is what every mode of a stream draws from."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.orders import IndexStream
from drawstream.search.auto.record import write_distribution

COUNTS = st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(any)


def recorded(folder, counts):
    path = Path(folder) / "distribution.parquet"
    write_distribution(path, np.array(counts), catalog="", provenance={})
    return map_weights(path, column="weight")


@given(COUNTS, st.integers(0, 2**32), st.integers(1, 4))
def test_stratified_draws_repeat_the_recorded_counts(tmp_path_factory, counts, seed, times):
    weights = recorded(tmp_path_factory.mktemp("static"), counts)
    order = IndexStream(weights, seed=seed, draws=times * sum(counts)).epoch(0)
    drawn = np.bincount(order[:], minlength=len(counts))
    assert np.abs(drawn - times * np.array(counts)).max() <= 1  # M P is whole but for rounding
    assert set(np.flatnonzero(drawn)) == set(np.flatnonzero(counts))


@given(COUNTS, st.integers(0, 2**32))
def test_what_never_won_is_never_drawn(tmp_path_factory, counts, seed):
    weights = recorded(tmp_path_factory.mktemp("static"), counts)
    won = np.flatnonzero(counts)
    multinomial = IndexStream(weights, mode="multinomial", seed=seed, draws=200).epoch(3)
    assert set(multinomial[:]) <= set(won)
    subset = IndexStream(weights, mode="subset", seed=seed, draws=won.size).epoch(1)
    assert sorted(subset[:]) == won.tolist()

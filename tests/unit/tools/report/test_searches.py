"""Searches side by side: best so far, and the mean of step functions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.tools.report.records import SearchRecord, TrialPoint
from drawstream.tools.report.searches import Curve, by_candidates, by_seconds, mean_steps, uniform_score

floats = st.floats(-100, 100)


def record(trials):
    points = [TrialPoint(i, value, state, ess, seconds) for i, (value, state, ess, seconds) in enumerate(trials)]
    where = Path("x/search.json")
    return SearchRecord(where, {}, 3, where, where, (), where, "swift", "", tuple(points), ())


SEARCH = record(
    [
        (5.0, "complete", 1.0, 1.0),
        (None, "pruned", None, 0.25),
        (4.0, "complete", 0.5, 2.0),
        (None, "failed", 0.5, 3.0),
        (7.0, "complete", 0.4, 1.0),
    ]
)


def test_candidates_without_a_score_count_for_time_alone():
    assert by_candidates(SEARCH).x.tolist() == [1, 2, 3]
    assert by_candidates(SEARCH).y.tolist() == by_seconds(SEARCH).y.tolist() == [5, 5, 7]
    assert by_seconds(SEARCH).x.tolist() == [1, 3.25, 7.25]
    assert uniform_score(SEARCH.trials) == 5
    assert uniform_score(SEARCH.trials[1:]) is None
    empty = record([(None, "failed", 0.5, 1.0)])
    assert by_candidates(empty).x.size == by_seconds(empty).y.size == 0


def steps(curve, x):
    """The level at x by its definition: that of the last step at or before x."""
    return [float(curve.y[np.flatnonzero(curve.x <= each)[-1]]) for each in x]


@given(st.lists(st.lists(st.tuples(st.floats(0.01, 10), floats), min_size=1, max_size=8), min_size=1, max_size=5))
def test_the_mean_of_steps_is_the_mean_wherever_all_are_known(curves):
    made = [Curve("", np.cumsum([gap for gap, _ in each]), np.array([y for _, y in each])) for each in curves]
    mean = mean_steps(made)
    inside = [x for each in made for x in each.x if all(other.x[0] <= x <= other.x[-1] for other in made)]
    assert mean.x.tolist() == sorted(set(inside))
    assert mean.y.tolist() == pytest.approx(np.mean([steps(each, mean.x) for each in made], axis=0).tolist())

"""The comparison rule and the table printer of experiments."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from drawstream.tools.experiments.compare import Difference, Spread, by_seed, difference, relations, signed
from drawstream.tools.experiments.table import Table, number, table_of


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(89, 0.3, 5), rng.normal(88.6, 0.3, 5)
    found = difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found.interval == pytest.approx(tuple(ttest_rel(ours, theirs).confidence_interval(0.95)))
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert (found.seeds, found.higher) == (5, (ours > theirs).sum())


@pytest.mark.parametrize(
    ("gaps", "relation"),
    [
        ((1.0, 1.1, 0.9), "better"),
        ((-1.0, -1.1, -0.9), "worse"),
        ((1.0, -1.1, 0.9), "not shown to differ"),
        ((0.0, 0.0), "not shown to differ"),
        ((99.0,), "one seed"),
    ],
)
def test_a_relation_claims_what_the_interval_shows(gaps, relation):
    assert Difference(gaps).relation == relation
    assert Difference(gaps).as_dict()["relation"] == relation


def test_equal_methods_are_called_better_once_in_forty():
    rng = np.random.default_rng(5)
    passed = [Difference(tuple(gaps)).relation == "better" for gaps in rng.normal(0, 0.3, (2000, 3))]
    assert np.mean(passed) == pytest.approx(0.025, abs=0.01)


def test_only_common_seeds_are_compared():
    assert difference({0: 90.0, 1: 91.0}, {1: 90.0, 2: 60.0}) == Difference((1.0,))
    assert difference({0: 90.0, 1: 91.0}, {0: 90.0, 1: 90.0}, leave=[0]) == Difference((1.0,))
    assert difference({0: 90.0}, {1: 90.0}) is None
    assert by_seed([(1, 3.0), (0, 2.0), (1, 5.0)]) == {0: 2.0, 1: 4.0}


def test_texts():
    assert Difference((1.0,)).text(1) == "+1.0 (one seed)"
    assert Difference((-1.0, -1.0)).text() == "−1.00 (−1.00 to −1.00)"
    assert relations({"a": Difference((1.0, 1.0)), "b": Difference((0.5,))}) == (
        "better: a +1.00 (+1.00 to +1.00); one seed: b +0.50"
    )
    assert str(Spread.of([70.0, 72.0])) == "71.00 ± 1.41"
    assert str(Spread.of([70.0])) == "70.00"
    assert (signed(-0.25), signed(None)) == ("−0.25", "")
    assert (number(None), number(0.5, ".0%"), number(-0.5)) == ("–", "50%", "−0.50")


def test_table():
    table = table_of([("swift", 1.5), ("p", 10.25)], {"method": lambda r: r[0], "%": lambda r: number(r[1])}, "Title")
    assert table == Table(("method", "%"), (("swift", "1.50"), ("p", "10.25")), "Title")
    assert table.text() == "Title\nmethod      %\nswift    1.50\np       10.25"

"""The last guard: the exact sign test on images that two models judge differently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from drawstream.search import paired_test


def pair(gained, lost, both=30, neither=7):
    control = np.repeat([False, True, True, False], [gained, lost, both, neither])
    candidate = np.repeat([True, False, True, False], [gained, lost, both, neither])
    return control, candidate


@given(st.integers(0, 60), st.integers(0, 60))
def test_p_is_that_of_the_sign_test_and_images_judged_alike_say_nothing(gained, lost):
    found = paired_test(*pair(gained, lost))
    assert (found.gained, found.lost) == (gained, lost)
    known = binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue if gained + lost else 1.0
    assert found.p == pytest.approx(known)
    assert paired_test(*pair(gained, lost, both=0, neither=900)) == found


@given(st.integers(0, 80), st.integers(0, 80))
def test_two_models_are_never_both_better(gained, lost):
    control, candidate = pair(gained, lost)
    assert not (paired_test(control, candidate).better and paired_test(candidate, control).better)


def test_equal_models_are_taken_at_most_once_in_twenty():
    draws = np.random.default_rng(0)
    wrong = draws.random((2, 2000, 400)) < 0.1
    taken = sum(paired_test(~a, ~b).better for a, b in zip(*wrong, strict=True))
    assert 0.02 < taken / 2000 <= 0.05


def test_the_sentence_says_who_is_kept():
    assert paired_test(*pair(40, 10)).message.startswith("the sampler's model is better: of the held-out images 40 are")
    assert paired_test(*pair(12, 10)).message.startswith("the uniform model is kept: of the held-out images 12 are")


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"the same images, but got shapes \(3,\) and \(4,\)"):
        paired_test(np.ones(3, bool), np.ones(4, bool))

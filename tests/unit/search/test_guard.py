"""The guard's rule on numbers, and the exact sign test of two models."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from drawstream.search import paired_test
from drawstream.search.swift.guard import UNIFORM, ConfirmationRecord, decide
from shared.refusals import refused


def records(table):
    return [ConfirmationRecord(c, seed, v) for c, values in table.items() for seed, v in enumerate(values)]


def test_a_clear_gain_wins_and_one_within_noise_does_not():
    verdict = decide(records({UNIFORM: [0.70, 0.72, 0.71], 5: [0.80, 0.83, 0.81], 9: [0.74, 0.75, 0.73]}))
    assert verdict.winner == 5
    assert verdict.message.startswith("sampler accepted: trial 5 scores 0.813333 against 0.71 for")
    verdict = decide(records({UNIFORM: [0.70, 0.75, 0.71], 5: [0.74, 0.71, 0.78]}))
    assert verdict.winner is None
    assert verdict.message.startswith("kept uniform: the best candidate, trial 5, scores 0.743333")


def test_the_effect_of_the_seed_is_no_noise():
    seeds = np.array([0.0, 5.0, -3.0])  # far larger than the gain, but the same for both
    noise = np.array([0.01, -0.01, 0.0])
    assert decide(records({UNIFORM: list(seeds + noise), 1: list(seeds + 0.2)})).winner == 1


@pytest.mark.parametrize(("gain", "winner"), [(0.0, None), (-0.1, None), (1e-9, None), (1e-3, 3)])
def test_scores_without_noise_need_a_visible_gain(gain, winner):
    assert decide(records({UNIFORM: [0.5, 0.5], 3: [0.5 + gain] * 2})).winner == winner


def test_candidates_without_finite_scores_are_out():
    table = {UNIFORM: [0.1, 0.1], 3: [0.9, None], 4: [0.5, 0.5]}
    assert decide(records(table)).winner == 4
    del table[4]
    assert decide(records(table)).message == "kept uniform: no candidate gave finite scores when confirmed"


def test_noise_alone_wins_at_most_once_in_twenty():
    rng = np.random.default_rng(0)
    wins = sum(
        decide(records({c: rng.standard_normal(3).tolist() for c in (UNIFORM, 1, 2, 3)})).winner is not None
        for _ in range(1000)
    )
    assert 5 < wins < 65  # expected: at most 50, standard deviation 7


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
    refused(r"the same images, but got shapes \(3,\) and \(4,\)", paired_test, np.ones(3, bool), np.ones(4, bool))

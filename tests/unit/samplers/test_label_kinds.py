"""Samplers that learn, on rows with several classes or with values: the measures are those of the features."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drawstream import CSGD, PSGD, RAIS, InfoBatch
from drawstream.features import measure
from drawstream.samplers.methods import MEASURES, UNIT
from drawstream.samplers.methods.visits import Visits, measure_several, measure_values
from shared.refusals import refused

LOGITS = st.floats(-90, 90, width=32)


def batches(labels):
    """Ids, outputs and labels of a few rows with 1 … 5 classes or values."""
    return st.integers(1, 5).flatmap(
        lambda c: st.lists(st.tuples(*[st.tuples(LOGITS, labels)] * c), min_size=1, max_size=6)
    )


def arrays(rows, kind):
    pairs = np.array(rows, np.float32)
    return np.arange(len(rows)), pairs[..., 0].copy(), pairs[..., 1].astype(kind)


@given(batches(st.integers(0, 1)))
def test_several_classes_have_the_measures_of_features(rows):
    ids, z, y = arrays(rows, np.uint8)
    found = np.empty((5, len(ids)))
    assert measure_several(ids, z, y, len(ids), found) == -1
    names = ("loss", "entropy", "grad_norm", "correct")
    expected = measure(torch.from_numpy(z).double(), torch.from_numpy(y), None, names)
    for name, values in zip((*MEASURES[:3], "correct"), (*found[:3], found[4]), strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    wrong = torch.where(torch.from_numpy(y) > 0, -torch.from_numpy(z).double(), torch.from_numpy(z).double()).sigmoid()
    np.testing.assert_allclose(found[3], wrong.mean(1), rtol=1e-9)


@given(batches(st.floats(-90, 90, width=32)))
def test_values_have_the_measures_of_features(rows):
    ids, z, y = arrays(rows, np.float32)
    found = np.empty((5, len(ids)))
    assert measure_values(ids, z, y, len(ids), found) == -1
    expected = measure(torch.from_numpy(z), torch.from_numpy(y), None, ("loss", "grad_norm"))
    np.testing.assert_allclose(found[0], expected["loss"], rtol=1e-4)
    np.testing.assert_allclose(found[2], expected["grad_norm"], rtol=1e-4)


def test_p_and_c_draw_by_the_mean_probability_of_the_wrong_sides():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, (40, 3)).astype(np.uint8)
    wrong = np.where(y > 0, 1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))).mean(1)
    for kind, importance in ((PSGD, wrong), (CSGD, wrong * (1 - wrong))):
        sampler = kind(40, uniform_epochs=0)
        sampler.observe(np.arange(25), z[:25], y[:25])
        sampler.observe(torch.arange(25, 41) % 40, torch.from_numpy(z[25:].repeat(2, 0)[:16]), y[25:].repeat(2, 0)[:16],
                        [1.0, 0.0] * 7 + [1.0, 0.0])  # fmt: skip
        sampler.reduce()
        seen = [*range(25), *range(25, 41, 2)]
        rows = [*range(25), *(25 + np.arange(0, 16, 2) // 2)]
        np.testing.assert_allclose(sampler.importance()[seen[:25]], importance[:25], atol=1e-6)
        np.testing.assert_allclose(sampler.importance()[np.array(seen[25:]) % 40], importance[rows[25:]], atol=1e-6)
        assert sampler.probabilities(1).sum() == pytest.approx(1)


def test_samplers_by_loss_and_gradient_take_values_and_p_does_not():
    z, y = np.array([[1.0, 2], [0, 0]], np.float32), np.array([[0.5, 1.5], [3, 4]], np.float32)
    for kind, expected in (("loss", [0.25, 12.5]), ("grad_norm", [np.sqrt(0.5), 5.0])):
        visits = Visits(2, measure=kind)
        visits.observe([0, 1], z, torch.from_numpy(y))
        np.testing.assert_allclose(visits.take()[:, 0] * UNIT, expected, rtol=1e-6)
    RAIS(2).observe([0, 1], z, y)
    InfoBatch(2, epochs=4).observe([0, 1], z, y)
    for kind in (PSGD, CSGD):
        refused("by the probability of the right class, but labels are values", kind(2).observe, [0, 1], z, y)


def test_rows_that_do_not_fit_are_refused_and_none_is_counted():
    z, y = np.zeros((2, 3), np.float32), np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
    sampler = PSGD(2)
    refused("must be 0 or 1, but got 2", sampler.observe, [0, 1], z, y)
    refused(r"ids must be in \[0, 2\), but got 7", sampler.observe, [0, 7], z, y * 0)
    refused("logits of row 1|those of row 1 are not", sampler.observe, [0, 1], z * [[1], [np.nan]], y * 0)
    refused("must fit", sampler.observe, [0, 1], z, y[:, :2])
    assert not sampler.sums.any()

"""Clipped and self-normalised importance weights."""

import math

import numpy as np
import pytest

from drawstream.samplers.methods import clip_weights, normalize_weights
from drawstream.samplers.orders import IndexStream


def test_clip():
    clipped = clip_weights([0.5, 2.0, 30.0], ceiling=3)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped, [0.5, 2.0, 3.0])
    for ceiling in (0, -1, math.nan):
        with pytest.raises(ValueError, match="ceiling > 0 must hold, but got"):
            clip_weights([1.0], ceiling=ceiling)


def test_normalize():
    weights = normalize_weights([1.0, 3.0, 8.0])
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [0.25, 0.75, 2.0])
    for bad in ([], [0.0, 0.0], [1.0, math.inf], [math.nan]):
        with pytest.raises(ValueError, match="must be finite and > 0, but got"):
            normalize_weights(bad)


def test_bias_and_variance_are_what_the_docstring_says():
    random = np.random.default_rng(0)
    p, values = random.random(400) ** 2 + 1e-3, random.normal(size=400) + 2
    stream = IndexStream(p, mode="multinomial", draws=300, seed=1)
    plain, clipped, normalised = [], [], []
    for epoch in range(1500):
        order = stream.epoch(epoch)
        weights, drawn = order.weights(0, 300), values[order[:]]
        plain.append((weights * drawn).mean())
        clipped.append((clip_weights(weights, ceiling=3) * drawn).mean())
        normalised.append((normalize_weights(weights) * drawn).mean())
    truth = values.mean()
    assert abs(np.mean(plain) - truth) < 4 * np.std(plain) / math.sqrt(1500)
    assert np.std(clipped) < 0.3 * np.std(plain)
    assert np.mean(clipped) < truth - 0.05  # positive values, so clipping loses mass
    assert abs(np.mean(normalised) - truth) < 0.1
    assert np.std(normalised) < np.std(plain)

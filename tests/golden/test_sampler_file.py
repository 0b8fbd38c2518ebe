"""The bytes of sampler.json.

WARNING: users keep these files. If this test fails, the format changed: raise VERSION in
samplers/swift/sampler.py and keep reading the old version, before touching the text below.
"""

import numpy as np

from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler

GOLDEN = """{
  "format": "drawstream-sampler",
  "version": 1,
  "features": ["loss", "entropy"],
  "transform": "cgf",
  "coefficients": [1.0, -0.5],
  "ends": [0.25, 0.5, 0.75],
  "values": [1.0, 0.75, 0.5, 0.25, 0.0],
  "provenance": {"catalog": "c0ffee"},
  "tables": [{"dtype": "float32", "knots": [0.1, 0.2, 1.5], "counts": [1, 3, 4]}, \
{"dtype": "float64", "knots": [0.1, 0.3, 0.7], "counts": [1, 3, 4]}],
  "balance": {"dtype": "float32", "knots": [-0.125, 0.375, 0.5, 0.625], "levels": [0.1, 0.3, 0.7, 1.0]}
}
"""


def columns():
    return {
        "loss": np.array([0.1, 0.2, 0.2, 1.5], np.float32),
        "entropy": np.array([0.3, 0.3, 0.1, 0.7]),
        "grad_norm": np.array([1.0, 2.0, 3.0, 4.0]),
    }


def test_written_bytes(tmp_path):
    fit = SwiftFit(columns())
    params = SwiftParams((1.0, -0.5), (0.25, 0.5, 0.75), (1.0, 0.75, 0.5, 0.25, 0.0))
    fit.sampler(params, provenance={"catalog": "c0ffee"}).save(tmp_path / "sampler.json")
    assert (tmp_path / "sampler.json").read_text() == GOLDEN


def test_read_back(tmp_path):
    (tmp_path / "sampler.json").write_text(GOLDEN)
    tau = SwiftSampler.load(tmp_path / "sampler.json").score(columns())
    # ranks (.25, .75, .75, 1) and (.75, .75, .25, 1): u = (-.125, .375, .625, .5), T = (.1, .3, 1, .7)
    np.testing.assert_allclose(tau, [0.9, 0.7, 0.0, 0.3], atol=1e-7)

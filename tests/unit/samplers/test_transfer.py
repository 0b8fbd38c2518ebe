"""A sampler carried to other features: refitted or frozen, what it notes, what it refuses."""

import json

import numpy as np
import pytest

from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler, refit
from drawstream.samplers.swift.fit_blocks import fit_blocks, score_blocks

PARAMS = SwiftParams((1.0, -0.4), (0.2, 0.5, 0.8), (1.0, 0.7, 0.9, 0.2, 0.0))


def features(seed, rows=1000):
    rng = np.random.default_rng(seed)
    drawn = rng.gamma(0.5, size=(3, rows)).astype(np.float32)
    return dict(zip(("loss", "entropy", "grad_norm"), drawn, strict=True))


def blocks_of(columns, size=300):
    def blocks(*names):
        rows = len(columns[names[0]])
        return ({name: columns[name][at : at + size] for name in names} for at in range(0, rows, size))

    return blocks


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
@pytest.mark.parametrize("rows", [1000, 200_000])
def test_on_its_own_rows_a_refit_is_the_sampler(transform, rows):
    columns = features(0, rows)
    sampler = SwiftFit(columns, transform=transform).sampler(PARAMS)
    again = refit(sampler, columns)
    assert np.abs(again.score(columns) - sampler.score(columns)).max() <= 1 / 65_536
    np.testing.assert_allclose(again.probabilities(columns), sampler.probabilities(columns), rtol=0, atol=1e-9)


def test_a_refit_follows_the_ranks_of_the_new_rows_and_frozen_their_values():
    """Features of another model, ten times as large in the same order: refitted nothing changes, frozen all is high."""
    columns = features(1)
    larger = {name: 10 * values for name, values in columns.items()}
    sampler = SwiftFit(columns).sampler(PARAMS)
    own = sampler.probabilities(columns)
    np.testing.assert_allclose(refit(sampler, larger).probabilities(larger), own, rtol=0, atol=1e-8)
    assert np.abs(sampler.score(larger) - sampler.score(columns)).max() > 0.3


def test_what_is_kept_and_what_is_rebuilt():
    sampler = SwiftFit(features(0)).sampler(PARAMS)
    other = features(2)
    carried = refit(sampler, other)
    assert (carried.params, carried.features, carried.transform) == (PARAMS, ("loss", "entropy"), "cgf")
    np.testing.assert_array_equal(carried.score(other), SwiftFit(other).sampler(PARAMS).score(other))


def test_the_chain_of_provenance_survives_the_file(tmp_path):
    sampler = SwiftFit(features(0)).sampler(PARAMS, provenance={"features": "a"})
    second = refit(sampler, features(1), provenance={"features": "b"})
    second.save(tmp_path / "b.json")
    third = refit(SwiftSampler.load(tmp_path / "b.json"), features(2), provenance={"features": "c"})
    third.save(tmp_path / "c.json")
    chain = json.loads((tmp_path / "c.json").read_text())["provenance"]
    assert chain == {
        "features": "c",
        "refitted_from": {"features": "b", "refitted_from": {"features": "a"}},
    }
    assert sampler.provenance == {"features": "a"}


def test_a_refit_names_all_that_is_missing():
    sampler = SwiftFit(features(0)).sampler(PARAMS)
    with pytest.raises(ValueError, match=r"this cgf sampler reads loss, entropy, grad_norm, .* no entropy, no grad_n"):
        refit(sampler, {"loss": np.ones(3)})
    ranked = SwiftFit(features(0), transform="cdf").sampler(PARAMS)
    without = {name: values for name, values in features(1).items() if name != "grad_norm"}
    assert refit(ranked, without).transform == "cdf"
    with pytest.raises(ValueError, match="the table has no grad_norm: compute"):
        refit(sampler, without)
    renamed = without | {"norm": features(1)["grad_norm"]}
    np.testing.assert_array_equal(
        refit(sampler, renamed, mass="norm").score(renamed), refit(sampler, features(1)).score(features(1))
    )


def test_blocks_give_the_same_weights(tmp_path):
    sampler, other = SwiftFit(features(0)).sampler(PARAMS), features(1)
    score_blocks(blocks_of(other), tmp_path / "frozen.npy", sampler, rows=1000)
    np.testing.assert_array_equal(map_weights(tmp_path / "frozen.npy"), sampler.probabilities(other))
    fit_blocks(blocks_of(other), tmp_path / "refit.npy", sampler.params)
    np.testing.assert_array_equal(map_weights(tmp_path / "refit.npy"), refit(sampler, other).probabilities(other))


@pytest.mark.parametrize(("rows", "text"), [(999, "there are more"), (1001, "there are 1000")])
def test_weights_of_another_number_of_rows_are_not_written(tmp_path, rows, text):
    with pytest.raises(ValueError, match=text):
        score_blocks(blocks_of(features(1)), tmp_path / "w.npy", SwiftFit(features(0)).sampler(PARAMS), rows=rows)
    assert list(tmp_path.iterdir()) == []

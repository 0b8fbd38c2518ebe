"""A fit over blocks gives the bits of the fit in memory; a sampler is carried to other features."""

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from drawstream import (
    DegenerateSampler,
    IndexStream,
    SwiftFit,
    SwiftParams,
    SwiftSampler,
    fit_blocks,
    map_weights,
    refit,
)
from drawstream.samplers.swift import fit_blocks as module
from drawstream.samplers.swift import score_blocks
from shared.refusals import refused

PARAMS = SwiftParams((1.0, -0.4), (0.3, 0.5, 0.9), (1.0, 0.5, 0.75, 0.25, 0.0))
NAMES = ("loss", "entropy", "grad_norm")


def columns(rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.gamma(0.5, size=(3, rows)).astype(np.float32)
    drawn[1][rng.random(rows) < 0.2] = 0.25
    return dict(zip(NAMES, drawn, strict=True))


def blocks(table, *cuts):
    edges = [0, *cuts, len(table["loss"])]
    return lambda *names: ({name: table[name][a:b] for name in names} for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize("rows", [1, 1000, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_blocks_give_the_bits_of_memory(tmp_path, rows, transform):
    table = columns(rows)
    fit = SwiftFit(table, transform=transform)
    params = PARAMS if rows > 1 else SwiftParams.uniform()
    cuts = sorted({rows // 3, rows // 2, rows // 2 + 1, rows - 1})
    sampler = fit_blocks(blocks(table, *cuts), tmp_path / "w.npy", params, transform=transform, provenance={"a": 1})
    expected = fit.sampler(params, provenance={"a": 1})
    sampler.save(tmp_path / "blocks.json")
    expected.save(tmp_path / "memory.json")
    assert (tmp_path / "blocks.json").read_text() == (tmp_path / "memory.json").read_text()
    weights = map_weights(tmp_path / "w.npy")
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, fit.probabilities(params))
    mine, theirs = IndexStream(weights, seed=3), IndexStream(fit.probabilities(params), seed=3)
    np.testing.assert_array_equal(mine.epoch(1)[:], theirs.epoch(1)[:])
    assert mine.fingerprint == theirs.fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {"w.npy", "blocks.json", "memory.json"}


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_one_value_in_all_rows(tmp_path, transform):
    table = {name: np.ones(70_000, np.float32) for name in NAMES}
    sampler = fit_blocks(blocks(table, 5), tmp_path / "w.npy", SwiftParams.uniform(), transform=transform)
    expected = SwiftFit(table, transform=transform).sampler(SwiftParams.uniform())
    np.testing.assert_array_equal(sampler.balance.x, expected.balance.x)
    np.testing.assert_array_equal(sampler.balance.y, expected.balance.y)
    np.testing.assert_array_equal(map_weights(tmp_path / "w.npy"), np.full(70_000, 1 / 70_000))


@pytest.mark.parametrize("rows", [10, 70_000])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", np.nan, "column 'loss' must be finite, but row 7 is nan"),
        ("grad_norm", -1.0, r"column 'grad_norm' must hold (finite )?gradient norms >= 0.*row 7"),
        ("grad_norm", np.inf, r"column 'grad_norm' must (be|hold) finite.*row 7"),
    ],
)
def test_bad_values_are_refused_and_leave_nothing(tmp_path, rows, name, value, text):
    table = columns(rows)
    table[name][7] = value
    refused(text, lambda: fit_blocks(blocks(table, 5), tmp_path / "w.npy", PARAMS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [10, 70_000])
def test_no_mass_and_no_weight(tmp_path, rows):
    table = columns(rows)
    with pytest.raises(DegenerateSampler, match=f"none of the {rows} rows has positive weight"):
        nowhere = SwiftParams((1.0, 0.0), (1e-8, 1 - 1e-8), (1.0, 0.0, 0.0, 0.0))
        fit_blocks(blocks(table), tmp_path / "w.npy", nowhere, transform="cdf")
    table["grad_norm"][:] = 0
    refused(f"'grad_norm' is zero in all {rows} rows", lambda: fit_blocks(blocks(table), tmp_path / "w.npy", PARAMS))
    with pytest.raises(ValueError, match="one coefficient per feature"):
        fit_blocks(blocks(table), tmp_path / "w.npy", SwiftParams.uniform(3))
    assert list(tmp_path.iterdir()) == []


def test_gradient_norms_of_other_rows_are_refused(tmp_path):
    table = columns(70_000)

    def uneven(*names):
        rows = 69_999 if "grad_norm" in names else 70_000
        return iter([{name: table[name][:rows] for name in names}])

    with pytest.raises(ValueError, match="every reading must give the same rows, but 'grad_norm' has other"):
        fit_blocks(uneven, tmp_path / "w.npy", PARAMS)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Weights that cannot be written: the error is the system's, and neither a file nor half of one stays."""
    written = []

    def full(target, rows, pieces):
        def some():
            yield next(pieces)
            written.append([path.name for path in tmp_path.iterdir()])
            raise OSError(errno.ENOSPC, "No space left on device")

        real(target, rows, some())

    real = module._write_weights
    monkeypatch.setattr(module, "_write_weights", full)
    refused("No space left", lambda: fit_blocks(blocks(columns(70_000)), tmp_path / "w.npy", PARAMS), error=OSError)
    assert len(written) == 1 and written[0][0].startswith(".w.npy.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Memory of the process without mapped files, looked at with every block: 20 million rows."""
    count, rows = 40, 500_000
    seen = []

    def anonymous():
        text = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(text.split()[1]) * 1024

    def drawn(*names):
        for i in range(count):
            table = columns(rows, seed=i)
            seen.append(anonymous())
            yield {name: table[name] for name in names}

    fit_blocks(blocks(columns(70_000)), tmp_path / "warm.npy", PARAMS)  # compiled before
    before = anonymous()
    fit_blocks(drawn, tmp_path / "w.npy", PARAMS)
    assert map_weights(tmp_path / "w.npy").size == count * rows
    assert len(seen) >= 6 * count
    assert max(seen) - before < 120e6  # of 240 MB of columns; blocks in work and tables take more than the counters


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
@pytest.mark.parametrize("rows", [1000, 200_000])
def test_on_its_own_rows_a_refit_is_the_sampler(transform, rows):
    table = columns(rows)
    sampler = SwiftFit(table, transform=transform).sampler(PARAMS)
    again = refit(sampler, table)
    assert np.abs(again.score(table) - sampler.score(table)).max() <= 1 / 65_536
    np.testing.assert_allclose(again.probabilities(table), sampler.probabilities(table), rtol=0, atol=1e-9)


def test_a_refit_follows_the_ranks_of_the_new_rows_and_frozen_their_values():
    """Features of another model, ten times as large in the same order: refitted nothing changes, frozen all is high."""
    table = columns(seed=1)
    larger = {name: 10 * values for name, values in table.items()}
    sampler = SwiftFit(table).sampler(PARAMS)
    own = sampler.probabilities(table)
    np.testing.assert_allclose(refit(sampler, larger).probabilities(larger), own, rtol=0, atol=1e-8)
    assert np.abs(sampler.score(larger) - sampler.score(table)).max() > 0.3


def test_what_is_kept_and_what_is_rebuilt():
    sampler = SwiftFit(columns()).sampler(PARAMS)
    other = columns(seed=2)
    carried = refit(sampler, other)
    assert (carried.params, carried.features, carried.transform) == (PARAMS, ("loss", "entropy"), "cgf")
    np.testing.assert_array_equal(carried.score(other), SwiftFit(other).sampler(PARAMS).score(other))


def test_the_chain_of_provenance_survives_the_file(tmp_path):
    sampler = SwiftFit(columns()).sampler(PARAMS, provenance={"features": "a"})
    second = refit(sampler, columns(seed=1), provenance={"features": "b"})
    second.save(tmp_path / "b.json")
    third = refit(SwiftSampler.load(tmp_path / "b.json"), columns(seed=2), provenance={"features": "c"})
    third.save(tmp_path / "c.json")
    chain = json.loads((tmp_path / "c.json").read_text())["provenance"]
    assert chain == {"features": "c", "refitted_from": {"features": "b", "refitted_from": {"features": "a"}}}
    assert sampler.provenance == {"features": "a"}


def test_a_refit_names_all_that_is_missing():
    sampler = SwiftFit(columns()).sampler(PARAMS)
    with pytest.raises(ValueError, match=r"this cgf sampler reads loss, entropy, grad_norm, .* no entropy, no grad_n"):
        refit(sampler, {"loss": np.ones(3)})
    ranked = SwiftFit(columns(), transform="cdf").sampler(PARAMS)
    without = {name: values for name, values in columns(seed=1).items() if name != "grad_norm"}
    assert refit(ranked, without).transform == "cdf"
    refused("the table has no grad_norm: compute", refit, sampler, without)
    renamed = without | {"norm": columns(seed=1)["grad_norm"]}
    np.testing.assert_array_equal(
        refit(sampler, renamed, mass="norm").score(renamed), refit(sampler, columns(seed=1)).score(columns(seed=1))
    )


def test_blocks_give_the_same_weights(tmp_path):
    sampler, other = SwiftFit(columns()).sampler(PARAMS), columns(seed=1)
    score_blocks(blocks(other, 300, 600, 900), tmp_path / "frozen.npy", sampler, rows=1000)
    np.testing.assert_array_equal(map_weights(tmp_path / "frozen.npy"), sampler.probabilities(other))
    fit_blocks(blocks(other, 300, 600, 900), tmp_path / "refit.npy", sampler.params)
    np.testing.assert_array_equal(map_weights(tmp_path / "refit.npy"), refit(sampler, other).probabilities(other))


@pytest.mark.parametrize(("rows", "text"), [(999, "there are more"), (1001, "there are 1000")])
def test_weights_of_another_number_of_rows_are_not_written(tmp_path, rows, text):
    sampler, other = SwiftFit(columns()).sampler(PARAMS), blocks(columns(seed=1), 300, 600, 900)
    refused(text, score_blocks, other, tmp_path / "w.npy", sampler, rows=rows)
    assert list(tmp_path.iterdir()) == []

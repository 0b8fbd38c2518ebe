"""A fit over blocks gives the bits of the fit in memory: tables, sampler and the weights on disk."""

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest

from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import DegenerateSampler, SwiftFit, SwiftParams
from drawstream.samplers.swift import fit_blocks as module
from drawstream.samplers.swift.fit_blocks import fit_blocks

PARAMS = SwiftParams((1.0, -0.4), (0.3, 0.5, 0.9), (1.0, 0.5, 0.75, 0.25, 0.0))
NAMES = ("loss", "entropy", "grad_norm")


def columns(rows, seed=0):
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
    with pytest.raises(ValueError, match=text):
        fit_blocks(blocks(table, 5), tmp_path / "w.npy", PARAMS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [10, 70_000])
def test_no_mass_and_no_weight(tmp_path, rows):
    table = columns(rows)
    with pytest.raises(DegenerateSampler, match=f"none of the {rows} rows has positive weight"):
        nowhere = SwiftParams((1.0, 0.0), (1e-8, 1 - 1e-8), (1.0, 0.0, 0.0, 0.0))
        fit_blocks(blocks(table), tmp_path / "w.npy", nowhere, transform="cdf")
    table["grad_norm"][:] = 0
    with pytest.raises(ValueError, match=f"'grad_norm' is zero in all {rows} rows"):
        fit_blocks(blocks(table), tmp_path / "w.npy", PARAMS)
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
    with pytest.raises(OSError, match="No space left"):
        fit_blocks(blocks(columns(70_000)), tmp_path / "w.npy", PARAMS)
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

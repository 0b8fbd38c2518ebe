"""`drawstream train --crop-filter`: trained on crops that a sampler chose, as many steps as without."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.tools.cli.app import app


def run(*command):
    result = CliRunner().invoke(app, [str(part) for part in ("train", *command)])
    return result.exit_code, result.output, result.exception


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """A run, and a sampler that wants low losses."""
    out = tmp_path_factory.mktemp("filtering")
    common = (digits.train, "--model", "mlp", "--global-batch", 64, "--augment", "standard")
    assert run(*common, "-o", out / "plain", "--epochs", 2)[0] == 0
    fit = SwiftFit({"loss": np.linspace(1.2, 2.8, 999)}, features=("loss",), mass=None, transform="cdf")
    fit.sampler(SwiftParams((1.0,), (0.5,), (1.0, 0.5, 0.01))).save(out / "sampler.json")
    weights = ("--crop-filter", out / "sampler.json", "--score-weights", out / "plain/last.safetensors")
    return common, weights, out


def test_a_run_on_chosen_crops(plain, digits, tmp_path):
    common, weights, _ = plain
    command = (*common, *weights, "-o", tmp_path / "run", "--epochs", 2, "--crop-factor", 3)
    assert run(*command)[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    filtered = record["filtered"]
    assert filtered["rows_scored"] == 2 * 3 * 500 and filtered["rows_kept"] == 2 * 500 and filtered["batches"] == 2 * 8
    assert filtered["tau_kept"] > filtered["tau_dropped"] and filtered["realised_ratio"] > 1.2
    assert record["crop_filter"]["factor"] == 3 and record["loader"]["images"] == 3000
    assert len(record["history"]) == 2
    before = (tmp_path / "run/run.json").read_bytes()
    assert run(*command)[0] == 0 and (tmp_path / "run/run.json").read_bytes() == before
    code, _, error = run(*common, "-o", tmp_path / "run", "--epochs", 2)
    assert code and "started with global_batch 192, not 64; stream" in str(error)


def test_a_filter_is_known_by_its_contents(plain, tmp_path):
    common, weights, out = plain
    assert run(*common, *weights, "-o", tmp_path / "run", "--epochs", 1)[0] == 0
    other = ("--crop-filter", weights[1], "--score-weights", out / "plain" / "other.safetensors")
    (out / "plain" / "other.safetensors").write_bytes((out / "plain/last.safetensors").read_bytes())
    assert run(*common, *other, "-o", tmp_path / "run", "--epochs", 1)[0] == 0
    state = load_file(out / "plain/last.safetensors")
    save_file({name: value * 2 for name, value in state.items()}, other[3])
    code, _, error = run(*common, *other, "-o", tmp_path / "run", "--epochs", 1)
    assert code and "started with crop_filter.scorer" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop-filter", "s.json"), "give both --crop-filter and --score-weights"),
        (("--score-weights", "w"), "give both"),
        (("--crop-filter", "s.json", "--score-weights", "w", "--crop-factor", 1), "`crop-factor >= 2` must hold"),
    ],
)
def test_options_that_do_not_fit(plain, tmp_path, options, message):
    code, _, error = run(*plain[0], "-o", tmp_path / "run", *options)
    assert code and message in str(error)

"""`drawstream features`: what its options reach, and one line where they are wrong."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli.app import main
from drawstream.tools.training.models import build_model

MEASURES = """
def peak(logits, targets, activations):
    return {"peak": logits.amax(1), "size": activations.norm(dim=1)}

def wide(logits, targets, activations):
    return {"wide": logits}
"""


@pytest.fixture
def extract(digits, tmp_path, capsys, monkeypatch):
    """Run the command on the digits; gives status, the JSON result or None, and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_cli_measures.py").write_text(MEASURES)
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / "w.safetensors")

    def run(out, *options):
        arguments = ["features", digits.train, "-o", out, "--model", "mlp", "--weights", "w.safetensors", *options]
        status = main([str(a) for a in [*arguments, "--json", "r.json"]])
        result = json.loads((tmp_path / "r.json").read_text()) if status == 0 else None
        return status, result, capsys.readouterr().err

    return run


def test_crops(extract, digits):
    options = ("--crops", 3, "--crop-seed", 5, "--crop-scale", "0.3,0.6", "--crop-ratio", "1,1", "--no-crop-flip")
    status, result, _ = extract("f", *options)
    assert status == 0 and result["rows"] == 3 * len(Catalog.open(digits.train))
    provenance = result["provenance"]
    assert provenance["crops"] == {"count": 3, "seed": 5, "flip": False}
    assert provenance["transform"]["scale"] == [0.3, 0.6] and provenance["transform"]["ratio"] == [1, 1]
    table = FeatureTable.open("f")
    y0, x0, y1, x1 = table.windows.astype(np.float64).T
    area = (y1 - y0) * (x1 - x0)
    assert area.min() >= 0.3 - 1e-6 and area.max() <= 0.6 + 1e-6 and not table.flip.any()
    np.testing.assert_allclose(y1 - y0, x1 - x0, atol=1e-6)
    status, _, err = extract("f", "--crops", 2, *options[2:])
    assert status == 2 and "made with crops.count 3, not 2: " in err
    assert err.count("\n") == 1


def test_modes_measures_and_memory_format(extract):
    options = ("--measure", "my_cli_measures:peak", "--measures", "loss,grad_norm", "--grad-norm", "full")
    status, result, _ = extract("full", *options, "--grad-memory", 1, "--batch-size", 100)
    assert status == 0 and result["columns"] == ["loss", "grad_norm", "peak", "size"]
    assert result["provenance"]["grad_memory"] == 1 << 20 and result["provenance"]["batch_size"] == 100
    assert list(result["provenance"]["functions"]) == ["my_cli_measures:peak"]
    status, result, _ = extract("half", "--amp", "bf16", "--channels-last", "--head", "5")
    assert status == 0
    assert [result["provenance"][key] for key in ("amp", "channels_last", "head")] == ["bf16", True, "5"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--crops", -1), "--crops must be in [0, 10000], but got -1"),
        (("--crops", 2, "--crop-scale", "0.5"), "--crop-scale must be 2 numbers, from and to, but got '0.5'"),
        (("--crops", 2, "--crop-scale", "0.5,2"), "`scale` must be a range within"),
        (("--crops", 2, "--crop-seed", -3), "--crop-seed must be in [0, 18446744073709551615], but got -3"),
        (("--amp", "fp8"), "'--amp': 'fp8' is not one of 'off', 'bf16', 'fp16'"),
        (("--amp", "bf16", "--grad-norm", "full"), "`full` gradient norms need float32 throughout"),
        (("--grad-memory", 0), "`grad_memory >= 1` must hold, but got 0"),
        (("--batch-size", 0), "`batch_size >= 1` must hold, but got 0"),
        (("--head", "fc"), "no linear layer 'fc': give one of '1', '3', '5'"),
        (("--head", "3"), "the logits are not the output of linear layer '3'"),
        (("--measure", "peak"), "measure must be module:factory, but got 'peak'"),
        (("--measure", "my_cli_measures:none"), "cannot be imported: AttributeError"),
        (("--measure", "my_cli_measures:wide"), "'wide' is torch.float32 (100, 10)"),
    ],
)
def test_wrong_options_end_with_one_line(extract, options, text):
    status, _, err = extract("f", *options)
    assert status == 2 and text in err
    assert err.startswith("drawstream: ") and err.count("\n") == 1

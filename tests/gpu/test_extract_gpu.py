"""Extraction on a GPU: the CPU's values within rounding, in every mode; a killed one goes on with the same bytes."""

import numpy as np
import pytest
import torch

from drawstream.features import extract_features as extract
from drawstream.features.table.part import part_path
from drawstream.tools.training.models import build_model
from shared.samples import digits_catalog

ROWS = 200


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("gpu") / "d", ROWS, shard_rows=80)


def scored(catalog, out, device, **options):
    model = build_model("resnet8", num_classes=10, channels=1, size=(8, 8), seed=0)
    return extract(catalog, model, out, model_name="resnet8", batch_size=64, device=device, **options)


@pytest.fixture(autouse=True)
def full_precision():
    """No TF32: the CPU has none."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("options", [{}, {"grad_norm": "full"}, {"crops": 2}, {"channels_last": True}], ids=str)
def test_equals_the_cpu_within_rounding(catalog, tmp_path, options):
    there, here = (scored(catalog, tmp_path / device, device, **options) for device in ("gpu", "cpu"))
    assert there.provenance["device"] == "gpu" and there.names == here.names
    np.testing.assert_array_equal(there.sample_id, here.sample_id)
    tolerance = 0.05 if "crops" in options else 1e-3  # resizing differs by a level here and there
    for name in ("loss", "entropy", "grad_norm", "target_prob"):
        found, expected = there.columns(name)[name], here.columns(name)[name]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_is_near_full_precision(catalog, tmp_path, amp):
    half, plain = scored(catalog, tmp_path / amp, "gpu", amp=amp), scored(catalog, tmp_path / "off", "gpu")
    for name in ("loss", "grad_norm"):
        found, expected = half.columns(name)[name], plain.columns(name)[name]
        assert (found != expected).any()
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05, err_msg=name)


def test_missing_parts_are_made_with_the_same_bytes(catalog, tmp_path):
    scored(catalog, tmp_path, "gpu", crops=2)
    part = part_path(tmp_path, 1)
    whole = part.read_bytes()
    part.unlink()
    scored(catalog, tmp_path, "gpu", crops=2)
    assert part.read_bytes() == whole

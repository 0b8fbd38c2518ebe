"""Measures of rows with several classes or values, against float64 and autograd; what a kind cannot have is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drawstream import ArraySource, Catalog, FeatureTable, Scoring, extract_features, pack
from drawstream.features import label_losses, measure
from drawstream.features.grad_norm import full_grad_norms
from drawstream.features.label_measures import KIND_MEASURES
from drawstream.features.measures import chosen_measures
from drawstream.features.table import check_table
from drawstream.features.tracker import Tracker
from shared.refusals import refused
from shared.samples import LABELS, PIXELS

N = 80
MARKS = (np.random.default_rng(0).random((N, 3)) < 0.4).astype(np.uint8)
VALUES = np.random.default_rng(1).normal(size=(N, 2)).astype(np.float32)


def draw(seed, scale, count):
    generator = np.random.default_rng(seed)
    z = torch.from_numpy(generator.normal(size=(50, count)) * scale)
    return (
        z,
        torch.from_numpy((generator.random((50, count)) < 0.5).astype(np.uint8)),
        torch.from_numpy(generator.normal(size=(50, count)).astype(np.float32)),
    )


@given(st.integers(0, 2**31), st.sampled_from([0.1, 1, 10, 60]), st.integers(1, 6))
def test_losses_entropies_and_gradients_equal_float64(seed, scale, count):
    z, marks, values = draw(seed, scale, count)
    for y, loss in (
        (marks, lambda z: F.binary_cross_entropy_with_logits(z, marks.double(), reduction="none").mean(1)),
        (values, lambda z: F.mse_loss(z, values.double(), reduction="none").mean(1)),
    ):
        leaf = z.clone().requires_grad_(True)
        exact = loss(leaf)
        (gradient,) = torch.autograd.grad(exact.sum(), leaf)
        found = measure(z, y, None, ("loss", "grad_norm"))
        assert found["loss"].dtype == torch.float32 and list(found) == ["loss", "grad_norm"]
        torch.testing.assert_close(found["loss"].double(), exact.detach(), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(found["grad_norm"].double(), gradient.norm(dim=1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(label_losses(z.float(), y), exact.detach().float(), rtol=1e-5, atol=2e-6)
    p = z.sigmoid().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = -np.nan_to_num(p * np.log(p)) - np.nan_to_num((1 - p) * np.log1p(-p))
    found = measure(z, marks, None, ("entropy", "correct"))
    np.testing.assert_allclose(found["entropy"], terms.sum(1), rtol=1e-4, atol=1e-12)
    assert found["correct"].tolist() == ((p > 0.5) == (marks.numpy() > 0)).all(1).astype(float).tolist()


def test_gradients_over_the_last_layer_and_all_weights():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).eval()
    images = torch.randn(20, 5)
    marks, values = torch.from_numpy(MARKS[:20]), torch.randn(20, 3)
    for y in (marks, values):
        z = model(images).detach()
        last = measure(z, y, images, ("grad_norm",))["grad_norm"]
        torch.testing.assert_close(full_grad_norms(model, images, y, memory=1 << 20), last, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("names", "kind", "text"),
    [
        (["target_prob"], "multi", "have no measure 'target_prob', for a row has several labels, not one: take loss"),
        (["loss", "entropy"], "value", "have no measure 'entropy', for a model of values gives no probabilities: take"),
        (["correct"], "value", "labels of kind value have no measure 'correct'"),
        (["loss"], "none", "for it compares with a label: take your own, --measure module:function"),
    ],
)
def test_what_a_kind_cannot_have_is_refused(names, kind, text):
    refused(text, chosen_measures, names, 3, kind)
    assert chosen_measures(None, 1, kind) == KIND_MEASURES[kind]


def size(logits, targets, activations):
    return {"size": logits.norm(dim=1), "columns": torch.full((len(targets),), float(targets.shape[1]))}


@pytest.mark.parametrize(("labels", "outputs"), [(MARKS, 3), (VALUES, 2), (None, 4)])
def test_tables_of_each_kind(tmp_path, labels, outputs):
    """A table of each kind holds its measures and no column of labels; own measures work without labels too."""
    kind = "none" if labels is None else None
    source = ArraySource(PIXELS[:N], LABELS[:N] if labels is None else labels, label_kind=kind)
    catalog = Catalog.open(pack(source, tmp_path / "data", shard_rows=50).train)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
    if labels is None:
        refused("has no labels, but scoring without measures of your own needs classes", Scoring().on, catalog)
    measures = [size] if labels is None else None
    table = extract_features(catalog, model, tmp_path / "features", model_name="linear", measures=measures)
    assert isinstance(table, FeatureTable)
    expected = ("size", "columns") if labels is None else KIND_MEASURES[catalog.label_kind]
    assert table.names == expected and table.provenance["label_kind"] == catalog.label_kind
    assert check_table(tmp_path / "features", catalog) == []
    refused("its parts lack the column 'label'", lambda: table.label)
    if labels is not None:
        assert len(np.unique(table.columns("loss")["loss"])) == N
    tracker = Tracker(N)
    tracker.set_epoch(0)
    tracker.observe(torch.arange(N), torch.randn(N, 3), torch.zeros(N, dtype=torch.int64))
    tracker.reduce()
    refused("but a tracker of kind class needs class", tracker.export, tmp_path / "tracked", catalog)

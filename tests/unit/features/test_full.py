"""Gradient norms over all parameters against autograd, one row after the other."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drawstream.features.grad_norm import full_grad_norms
from drawstream.features.measures import measure
from drawstream.tools.training.models import build_model

MEMORY = 1 << 24


def by_autograd(model, images, labels):
    norms = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    return torch.tensor(norms)


def batch(n, classes, channels=1, size=8):
    torch.manual_seed(1)
    return torch.randn(n, channels, size, size), torch.randint(classes, (n,))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_equals_autograd_row_by_row(name):
    model = build_model(name, num_classes=7, channels=1, size=(8, 8), seed=0)
    images, labels = batch(12, 7)
    model.train()(images)  # running statistics of norm layers that are not those of the batch
    model.eval()
    found = full_grad_norms(model, images, labels, memory=MEMORY)
    assert found.dtype == torch.float32 and found.shape == (12,)
    torch.testing.assert_close(found, by_autograd(model, images, labels), rtol=2e-5, atol=0)


def test_equals_autograd_in_float64():
    model = build_model("resnet8", num_classes=5, channels=1, size=(8, 8), seed=0).double().eval()
    images, labels = batch(5, 5)
    found = full_grad_norms(model, images.double(), labels, memory=MEMORY)
    torch.testing.assert_close(found, by_autograd(model, images.double(), labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1, 60])
def test_a_linear_model_has_only_its_last_layer(bias, scale):
    """Also where p_y is so near 1 that float32 cross-entropy has no gradient left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7, bias=bias)).eval()
    model[1].weight.data *= scale
    images, _ = batch(40, 7)
    z = model(images).detach()
    y = z.argmax(1)
    last = measure(z, y, images.flatten(1), ("grad_norm",), bias=bias)["grad_norm"]
    found = full_grad_norms(model, images, y, memory=MEMORY)
    torch.testing.assert_close(found, last, rtol=1e-4, atol=0)
    assert scale == 1 or (last < 1e-12).any()


def test_memory_bounds_the_rows_at_once_and_not_the_values():
    model = build_model("cnn", num_classes=7, channels=1, size=(8, 8), seed=0).eval()
    images, labels = batch(10, 7)
    row = 4 * sum(p.numel() for p in model.parameters())
    rows = []
    model[0].register_forward_pre_hook(lambda *_: rows.append(1))
    whole = full_grad_norms(model, images, labels, memory=MEMORY)
    once = len(rows)
    chunked = full_grad_norms(model, images, labels, memory=4 * row)
    assert len(rows) - once == 3  # 4 + 4 + 2
    one = full_grad_norms(model, images, labels, memory=1)
    assert len(rows) - once - 3 == 10
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=0)
    torch.testing.assert_close(one, whole, rtol=1e-5, atol=0)


def test_frozen_and_shared_parameters_count():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            return self.head(self.b(self.a(x.flatten(1)).tanh()).tanh())

    torch.manual_seed(0)
    model = Tied().eval()
    images, labels = batch(6, 3)
    expected = by_autograd(model, images, labels)
    model.a.requires_grad_(requires_grad=False)
    torch.testing.assert_close(full_grad_norms(model, images, labels, memory=MEMORY), expected, rtol=1e-5, atol=0)


def test_a_model_that_branches_on_values_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            z = self.head(x.flatten(1))
            return z if z.sum() > 0 else -z

    images, labels = batch(6, 3)
    text = r"`full` gradient norms need a model that torch.func runs row by row, but it says: .+; choose the norm"
    with pytest.raises(ValueError, match=text):
        full_grad_norms(Branching().eval(), images, labels, memory=MEMORY)

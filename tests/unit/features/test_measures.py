"""Measures against float64 formulas and autograd, where they are easy and where float32 is hard."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drawstream.features.grad_norm import HeadInput
from drawstream.features.measures import MEASURES, chosen_measures, measure

NAMES = MEASURES
GENERATOR = torch.Generator().manual_seed(0)


def logits(n, classes, scale):
    return torch.randn(n, classes, generator=GENERATOR) * scale, torch.randint(classes, (n,), generator=GENERATOR)


def reference(z, y):
    """Everything from its textbook form, in float64 with 1 − p_y as a sum over the others."""
    z, rows = z.double().numpy(), np.arange(len(y))
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    others = p.copy()
    others[rows, y] = 0
    rest = others.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = others / rest[:, None]
        entropy = -np.where(q > 0, q * np.log(q), 0).sum(1)
        loss = np.where(rest < 0.5, -np.log1p(-rest), -np.log(p[rows, y]))
    gradient = others
    gradient[rows, y] = -rest
    return {
        "loss": loss,
        "entropy": entropy,
        "grad_norm": np.sqrt((gradient**2).sum(1)),
        "target_prob": p[rows, y],
        "correct": (z.argmax(1) == y.numpy()).astype(float),
    }


@pytest.mark.parametrize("classes", [3, 10, 1000])
@pytest.mark.parametrize("scale", [0.01, 1, 10, 25])
def test_equals_float64(classes, scale):
    z, y = logits(200, classes, scale)
    found, expected = measure(z, y, None, NAMES), reference(z, y)
    for name in NAMES:
        assert found[name].dtype == torch.float32 and found[name].shape == (200,)
        exact = 1e-14 if name == "entropy" else 1e-30  # float64 itself loses an entropy near 0, in log q of q near 1
        np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=3e-5, atol=exact, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_logit_types_give_float32(dtype):
    z, y = logits(50, 5, 2)
    z = z.to(dtype)
    found, expected = measure(z, y, None, NAMES), reference(z, y)
    for name in NAMES:
        np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=1e-5, err_msg=name)


def test_certain_rows_keep_their_digits_and_their_order():
    """Where float32 softmax gives p_y = 1 and loss 0 for all, the losses still are e^-gap times the others."""
    gaps = torch.arange(10.0, 80.0, 0.5)
    z = torch.stack([gaps, torch.zeros(len(gaps)), torch.full((len(gaps),), -1.0)], 1)
    found = measure(z, torch.zeros(len(gaps), dtype=torch.long), None, NAMES)
    rest = np.exp(-gaps.double().numpy()) * (1 + math.exp(-1))
    np.testing.assert_allclose(found["loss"].numpy(), np.log1p(rest), rtol=2e-5)
    assert (found["loss"].diff() < 0).all() and (found["grad_norm"].diff() < 0).all()
    assert (F.cross_entropy(z, torch.zeros(len(gaps), dtype=torch.long), reduction="none") == 0).sum() > 50
    q = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(
        found["grad_norm"].numpy(), rest / (1 + rest) * math.sqrt(1 + q * q + (1 - q) ** 2), rtol=2e-5
    )
    np.testing.assert_allclose(found["entropy"].numpy(), -q * math.log(q) - (1 - q) * math.log(1 - q), rtol=1e-5)


def test_huge_logits():
    z = torch.tensor([[1e4, 0, -1e4], [0, 1e4, 1e4], [-1e4, 1e4, 1e4 - 1], [1e4, 1e4 + 1, 1e4 - 1]])
    y = torch.tensor([0, 1, 0, 1])
    found, expected = measure(z, y, None, NAMES), reference(z, y)
    expected["loss"][2] = 2e4 + math.log1p(math.exp(-1))  # float64 itself has lost p_y
    expected["grad_norm"][2] = math.sqrt(1 + (1 + math.exp(-2)) / (1 + math.exp(-1)) ** 2)
    for name in NAMES:
        assert torch.isfinite(found[name]).all()
        np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=1e-6, atol=1e-30, err_msg=name)


@given(
    z=st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=6),
    near=st.booleans(),
    target=st.integers(0, 2),
)
def test_equals_high_precision_up_to_logits_of_ten_thousand(z, near, target):
    """Against 60 digits times the range of the exponents; `near` moves all logits close to one another."""
    z = torch.tensor([z])
    z = z / 1e3 + 9e3 if near else z
    found = measure(z, torch.tensor([target]), None, NAMES)
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(v)) for v in z[0].tolist()]
        rest = sum(v for j, v in enumerate(e) if j != target)
        total = rest + e[target]
        q = [v / rest for j, v in enumerate(e) if j != target]
        expected = {
            "loss": mpmath.log1p(rest / e[target]) if rest < e[target] else mpmath.log(total / e[target]),
            "entropy": -sum(v * mpmath.log(v) for v in q),
            "grad_norm": rest / total * mpmath.sqrt(1 + sum(v * v for v in q)),
            "target_prob": e[target] / total,
        }
        for name, value in expected.items():
            scale = max(abs(float(value)), 1e-36)  # smaller float32 have fewer digits
            assert abs(float(found[name][0]) - float(value)) <= 1e-4 * scale, (name, float(value), found[name])


def test_entropy_near_zero_keeps_its_digits():
    gaps = torch.arange(5.0, 80.0, 5.0)
    z = torch.stack([torch.zeros(len(gaps)), gaps, torch.zeros(len(gaps))], 1)
    found = measure(z, torch.zeros(len(gaps), dtype=torch.long), None, ("entropy",))["entropy"]
    s, g = np.exp(-gaps.double().numpy()), gaps.double().numpy()
    np.testing.assert_allclose(found, np.log1p(s) + s * g / (1 + s), rtol=2e-5)


def per_row_gradients(model, images, labels, parameters):
    """Norm of the gradient of each row's loss by autograd, one row after the other."""
    norms = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    return norms


@pytest.mark.parametrize("bias", [True, False])
def test_last_layer_gradient_is_autograds(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 7, bias=bias)).double().eval()
    images, labels = torch.randn(30, 1, 8, 8).double(), torch.randint(7, (30,))
    with torch.inference_mode(), HeadInput(model) as head:
        z = model(images)
        h, has_bias = head.of(z)
    assert has_bias == bias and h.shape == (30, 20)
    found = measure(z, labels, h, ("grad_norm",), bias=has_bias)["grad_norm"]
    np.testing.assert_allclose(found, per_row_gradients(model, images, labels, list(model[3].parameters())), rtol=1e-5)


def test_logit_gradient_is_autograds():
    z, y = logits(30, 7, 3)
    z = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)
    found = measure(z.detach(), y, None, ("grad_norm",))["grad_norm"]
    np.testing.assert_allclose(found, gradient.norm(dim=1), rtol=1e-5)


def test_only_what_is_named():
    z, y = logits(10, 4, 1)
    assert list(measure(z, y, None, ("loss", "correct"))) == ["loss", "correct"]


def test_choice_of_measures():
    assert chosen_measures(None, 10) == MEASURES
    assert chosen_measures(None, 2) == ("loss", "grad_norm", "target_prob", "correct")
    assert chosen_measures(["correct", "loss"], 2) == ("loss", "correct")
    for classes in (1, 2):
        with pytest.raises(
            ValueError, match=f"at least 3 classes, but there are {classes}: it would be 0 for every row"
        ):
            chosen_measures(["entropy"], classes)
    with pytest.raises(ValueError, match="unknown measure 'margin': give some of loss, entropy, grad_norm"):
        chosen_measures(["loss", "margin"], 10)

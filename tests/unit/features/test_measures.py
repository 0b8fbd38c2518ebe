"""Measures and gradient norms against float64 formulas and autograd; the last linear layer is found or refused."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drawstream.features import HeadInput, measure
from drawstream.features.grad_norm import full_grad_norms
from drawstream.features.measures import MEASURES, chosen_measures
from drawstream.tools.training.models import build_model
from shared.refusals import refused

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


@given(z=st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=6), near=st.booleans(), target=st.integers(0, 2))
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


def by_autograd(model, images, labels, of=None):
    """Norm of the gradient of each row's loss in the parameters of the model, or a part, one row after the other."""
    norms = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list((of or model).parameters()))
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    return torch.tensor(norms)


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
    np.testing.assert_allclose(found, by_autograd(model, images, labels, model[3]), rtol=1e-5)


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
    refused("unknown measure 'margin': give some of loss, entropy, grad_norm", chosen_measures, ["loss", "margin"], 10)


class Scaled(nn.Module):
    """Ends in a linear layer whose output is changed in place."""

    def __init__(self, change):
        super().__init__()
        self.linear, self.change = nn.Linear(6, 4), change

    def forward(self, x):
        return self.change(self.linear(x))


class Convolution(nn.Module):
    """A 1×1 convolution as its head: logits from a view."""

    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(6, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.linear(x)[:, :, None, None]).flatten(1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 4), nn.Softplus()),
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
        Scaled(lambda z: z.mul_(2)),
        Scaled(lambda z: z.view(-1, 2)),
        Scaled(lambda z: z[:, :3]),
        Convolution(),
        nn.Sequential(nn.Conv1d(6, 4, 1), nn.Flatten()),
    ],
    ids=["activation", "norm", "in place", "reshaped", "sliced", "1x1 convolution", "no linear layer"],
)
def test_models_that_do_not_end_in_a_linear_layer_are_refused(model):
    x = (
        torch.randn(8, 6, 1)
        if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv1d)
        else torch.randn(8, 6)
    )
    model.train()  # so that a norm layer is no identity
    with torch.no_grad(), HeadInput(model) as head:
        z = model(x)
        refused(r"does not end in a linear layer: choose the gradient norm of the logits", head.of, z)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)),
        nn.Sequential(nn.Linear(6, 4), nn.Identity()),
        nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).eval(),
        Scaled(lambda z: z.view(-1, 4)),
        Scaled(lambda z: z.reshape(2, -1, 4).flatten(0, 1)),
    ],
    ids=["plain", "identity", "dropout", "same view", "there and back"],
)
def test_the_head_is_found_by_its_output(model):
    with torch.no_grad(), HeadInput(model) as head:
        x = torch.randn(8, 6)
        z = model(x)
        h, bias = head.of(z)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    assert bias and torch.equal(last(h), z.detach())
    assert not last._forward_hooks  # removed at the end


def test_not_a_number_reaches_the_features():
    """A broken model is reported as such, by its values, not as one without a linear layer."""
    model = nn.Linear(6, 4)
    model.weight.data.fill_(torch.nan)
    with torch.no_grad(), HeadInput(model) as head:
        z = model(torch.randn(8, 6))
        assert head.of(z)[0].shape == (8, 6)
    assert measure(z, torch.zeros(8, dtype=torch.long), None, ("loss",))["loss"].isnan().all()


def test_a_named_head_is_taken_and_a_wrong_name_lists_the_layers():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    x = torch.randn(8, 6)
    with torch.no_grad(), HeadInput(model, "2") as head:
        h, bias = head.of(model(x))
        assert bias and torch.equal(h, model[1](model[0](x)))
    with torch.no_grad(), HeadInput(model, "0") as head:
        z = model(x)
        refused("not the output of linear layer '0': name another, or choose the grad", head.of, z)
    refused(r"no linear layer 'fc': give one of '0', '2'$", HeadInput, model, "fc")
    with pytest.raises(ValueError, match="no linear layer '1'"):  # there is such a module, but it is no linear layer
        HeadInput(model, "1")
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    refused(r"give one of '3', .*'10' and 3 before them", HeadInput, deep, "head")
    refused("no linear layer 'fc': it has none at all", lambda: HeadInput(nn.Conv2d(1, 1, 1), "fc"))


def test_after_the_first_batch_only_the_head_is_watched():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad(), HeadInput(model) as head:
        for n in (8, 3):  # the last batch is smaller
            x = torch.randn(n, 6)
            assert torch.equal(head.of(model(x))[0], model[1](model[0](x)))
            assert not model[0]._forward_hooks and len(model[2]._forward_hooks) == 1
    assert not model[2]._forward_hooks
    with torch.no_grad(), head:  # and it can be used again
        assert head.of(model(torch.randn(2, 6)))[0].shape == (2, 5)


MEMORY = 1 << 24


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
    refused(text, lambda: full_grad_norms(Branching().eval(), images, labels, memory=MEMORY))

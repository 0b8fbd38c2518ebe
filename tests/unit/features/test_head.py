"""The last linear layer: found by its output or by its name, and refused where the logits are not its output."""

import pytest
import torch
from torch import nn

from drawstream.features.grad_norm import HeadInput
from drawstream.features.measures import measure


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
        with pytest.raises(ValueError, match=r"does not end in a linear layer: choose the gradient norm of the logits"):
            head.of(z)


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
        with pytest.raises(ValueError, match="not the output of linear layer '0': name another, or choose the grad"):
            head.of(z)
    with pytest.raises(ValueError, match=r"no linear layer 'fc': give one of '0', '2'$"):
        HeadInput(model, "fc")
    with pytest.raises(ValueError, match="no linear layer '1'"):  # there is such a module, but it is no linear layer
        HeadInput(model, "1")
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    with pytest.raises(ValueError, match=r"give one of '3', .*'10' and 3 before them"):
        HeadInput(deep, "head")
    with pytest.raises(ValueError, match="no linear layer 'fc': it has none at all"):
        HeadInput(nn.Conv2d(1, 1, 1), "fc")


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

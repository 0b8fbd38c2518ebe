"""Losses against wrong labels: values against NumPy, weights against finite differences, state across restarts."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from drawstream.pipeline import Batch
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import LoopParts
from drawstream.tools.training.methods.robust import LearnedWeights, Reed, SelfPaced, learned_weights
from drawstream.tools.training.setup import Setup

Z = np.random.default_rng(5).normal(0, 2, (4, 9, 6)).astype(np.float32)  # recorded logits: 4 steps of 9 rows, 6 classes
Y = np.random.default_rng(6).integers(0, 6, (4, 9))


def batch_of(labels):
    y = torch.as_tensor(labels)
    return Batch(torch.zeros(len(y), 1, 1, 1), y, torch.arange(len(y)), torch.ones(len(y)))


@pytest.mark.parametrize(("kind", "beta"), [("soft", 0.95), ("hard", 0.8), ("soft", 0.3)])
def test_reed_against_numpy(kind, beta):
    log_p = log_softmax(Z[0].astype(np.float64), axis=1)
    guess = np.exp(log_p) if kind == "soft" else np.eye(6)[Z[0].argmax(1)]
    target = beta * np.eye(6)[Y[0]] + (1 - beta) * guess
    expected = -(target * log_p).sum(1)
    losses = Reed(kind, beta)(torch.from_numpy(Z[0]), batch_of(Y[0]), 0)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    if beta != 0.3:
        torch.testing.assert_close(Reed(kind)(torch.from_numpy(Z[0]), batch_of(Y[0]), 0), losses)


def test_reed_with_beta_1_is_cross_entropy_and_soft_sends_gradient_through_its_guess():
    z = torch.from_numpy(Z[1]).requires_grad_()
    for kind in ("soft", "hard"):
        torch.testing.assert_close(
            Reed(kind, 1.0)(z, batch_of(Y[1]), 0), F.cross_entropy(z, torch.as_tensor(Y[1]), reduction="none")
        )
    (gradient,) = torch.autograd.grad(Reed("soft", 0.0)(z, batch_of(Y[1]), 0).sum(), z)
    p = torch.softmax(z.detach(), 1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    torch.testing.assert_close(gradient, -p * (p.log() + entropy))  # of the entropy; without the guess's part it is 0


def test_self_paced_against_numpy():
    criterion, average = SelfPaced(percentile=0.7, decay=0.5, burn_in=2), 0.0
    for step, epoch in enumerate((0, 1, 2, 3)):
        losses = -log_softmax(Z[step].astype(np.float64), axis=1)[np.arange(9), Y[step]]
        average = 0.5 * average + 0.5 * np.quantile(losses, 0.7)
        weights = np.ones(9) if epoch < 2 else losses < average
        got = criterion(torch.from_numpy(Z[step]), batch_of(Y[step]), epoch)
        np.testing.assert_allclose(got, weights * losses, rtol=1e-5)
        assert float(criterion.average) == pytest.approx(average)
    assert 0 < weights.sum() < 9


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Reed("medium"), "must be soft or hard, but got 'medium'"),
        (lambda: Reed("soft", 1.5), "0 <= beta <= 1"),
        (lambda: SelfPaced(percentile=2), "0 <= percentile <= 1"),
        (lambda: SelfPaced(decay=1.0), "decay < 1"),
    ],
)
def test_bad_arguments_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_learned_weights_are_the_derivative_of_a_virtual_step():
    """Against central differences of the trusted loss after a real step with weights ε, on a linear model."""
    generator = torch.Generator().manual_seed(1)
    x, cx = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (7, 11))
    y, cy = (torch.randint(3, (n,), generator=generator) for n in (7, 11))
    theta = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()

    def trusted_loss_after(epsilon, rate=0.1):
        loss = (epsilon * F.cross_entropy(x @ theta.T, y, reduction="none")).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        return float(F.cross_entropy(cx @ (theta.detach() - rate * gradient).T, cy))

    h = 1e-5
    slope = np.array(
        [(trusted_loss_after(h * e) - trusted_loss_after(-h * e)) / (2 * h) for e in torch.eye(7).double()]
    )
    expected = np.maximum(-slope, 0)
    assert 0 < (expected > 0).sum() < 7
    losses = F.cross_entropy(x @ theta.T, y, reduction="none")
    weights = learned_weights(losses, F.cross_entropy(cx @ theta.T, cy), [theta])
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-8)
    assert not weights.requires_grad
    losses.sum().backward()  # the graph is still there for the training step


def test_no_row_that_helps_gives_no_step():
    theta = torch.zeros(2, 2, requires_grad=True)
    x = torch.tensor([[1.0, 0.0]])
    losses = F.cross_entropy(x @ theta, torch.tensor([0]), reduction="none")
    against = F.cross_entropy(x @ theta, torch.tensor([1]))
    assert learned_weights(losses, against, [theta]).tolist() == [0.0]


def test_l2rw_gives_wrong_labels_less_weight_counts_its_work_and_keeps_out_of_the_state():
    generator = torch.Generator().manual_seed(3)
    centres = 3 * torch.eye(4)
    truth, clean = torch.randint(4, (200,), generator=generator), torch.randint(4, (40,), generator=generator)
    images, trusted = (centres[y] + torch.randn(len(y), 4, generator=generator) for y in (truth, clean))
    wrong = torch.arange(200) < 80
    labels = torch.where(wrong, (truth + 1) % 4, truth)
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    criterion = LearnedWeights(model, trusted, clean, batch_size=30, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        logits = model(images)
        weighted = criterion(logits, batch_of(labels), 0)
        weights = (weighted / F.cross_entropy(logits, labels, reduction="none") / 200).detach()
        assert float(weights.sum()) == pytest.approx(1)
        optimizer.zero_grad()
        weighted.mean().backward()
        optimizer.step()
    assert float(weights[wrong].sum()) < 0.1
    assert criterion.work.tolist() == [5 * 30, 5 * (30 + 2 * 200)]
    assert list(criterion.state_dict()) == ["work"]
    assert list(criterion.parameters()) == []


def go(digits, criterion, epochs=1, **options):
    setup = Setup(digits.train, "mlp", global_batch=64)
    parts = LoopParts(criterion=criterion)
    return train(setup.build(0), setup.training_loader(), Recipe(epochs), parts=parts, **options)


def test_a_checkpoint_of_another_loss_is_refused(digits, tmp_path):
    go(digits, Reed("soft"), checkpoint=tmp_path / "checkpoint.pt")
    for other in (None, Reed("hard")):
        with pytest.raises(ValueError, match=r"started with loss 'Reed\(soft, beta=0.95\)', not .*another output"):
            go(digits, other, checkpoint=tmp_path / "checkpoint.pt")


def test_cross_entropy_as_a_criterion_is_the_default(digits):
    losses = [[epoch.loss for epoch in go(digits, each, 2).history] for each in (None, Reed("soft", 1.0))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

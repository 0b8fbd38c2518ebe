"""Stacked children do what children in turn do."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drawstream.tools.training.loop import Recipe, descend, make_optimizer
from drawstream.tools.training.models import build_model
from drawstream.tools.training.stacked import Stacked

CHILDREN, BATCH, STEPS = 3, 8, 12


@pytest.fixture
def data():
    """40 random images with labels, and 50 held-out ones."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(90, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (90,), generator=generator)
    return images[:40], labels[:40], images[40:], labels[40:]


def build(name, seed=0):
    return build_model(name, num_classes=4, channels=1, size=(8, 8), seed=seed)


def stack(model, data, recipe, **options):
    images, labels, *held_out = data
    return Stacked(
        model,
        CHILDREN,
        lambda rows: (images[rows], labels[rows]),
        tuple(held_out),
        recipe,
        batch_size=BATCH,
        steps=STEPS,
        **options,
    )


def orders(seed=0):
    return np.random.default_rng(seed).integers(0, 40, (CHILDREN, BATCH * STEPS // 2))


def train_in_turn(models, optimizers, data, recipe, rows, start):
    for model, optimizer, own in zip(models, optimizers, rows, strict=True):
        for step, batch in enumerate(own.reshape(-1, BATCH), start):
            loss = F.cross_entropy(model(data[0][batch]), data[1][batch])
            descend(optimizer, loss, recipe.lr_at(step / STEPS))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_stacked_equals_in_turn_with_a_clone_between(data, name, momentum):
    recipe = Recipe(1, 0.1, momentum=momentum, weight_decay=0.01)
    group = stack(build(name), data, recipe)
    models = [build(name) for _ in range(CHILDREN)]
    optimizers = [make_optimizer(model, recipe) for model in models]
    rows = orders()
    group.train(rows)
    train_in_turn(models, optimizers, data, recipe, rows, 0)
    state = copy.deepcopy(group.state_dict(1))
    group.load_state_dict(state)  # the second child's weights and momentum go to all
    for i in (0, 2):
        models[i].load_state_dict(models[1].state_dict())
        optimizers[i].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    assert [group.state_dict(i)["step"] for i in range(CHILDREN)] == [6] * CHILDREN
    for i in range(CHILDREN):
        for key, value in state["model"].items():
            assert torch.equal(group.state_dict(i)["model"][key], value)
    rows = orders(1)
    group.train(rows)
    train_in_turn(models, optimizers, data, recipe, rows, STEPS // 2)
    moved = 0.0
    for i, model in enumerate(models):
        for key, value in model.named_parameters():
            mine = group.state_dict(i)["model"][key]
            torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5)
            moved = max(moved, float((mine - state["model"][key]).abs().max()))
    assert moved > 0.01  # far above the tolerance: the second half did train, and each child on its own rows
    accuracy = [100 * float((model(data[2]).argmax(1) == data[3]).double().mean()) for model in models]
    assert group.evaluate().tolist() == pytest.approx(accuracy)
    assert group.state_dict(0)["model"].keys() == dict(models[0].named_parameters()).keys()


def test_the_reward_may_be_the_negative_loss(data):
    recipe = Recipe(1, 0.1)
    model = build("mlp")
    rewards = stack(model, data, recipe, reward="loss").evaluate()
    loss = F.cross_entropy(model(data[2]), data[3]).item()
    assert rewards.tolist() == pytest.approx([-loss] * CHILDREN, rel=1e-5)


def test_a_state_is_a_copy(data):
    group = stack(build("mlp"), data, Recipe(1, 0.1))
    state = group.state_dict(0)
    before = state["model"]["1.weight"].clone()
    group.train(orders())
    assert torch.equal(state["model"]["1.weight"], before)
    assert not torch.equal(group.state_dict(0)["model"]["1.weight"], before)


def test_what_cannot_be_stacked_is_refused(data):
    with pytest.raises(ValueError, match=r"stem\.1 \(BatchNorm2d\) keeps running statistics: train the children in tu"):
        stack(build("resnet8"), data, Recipe())
    with pytest.raises(ValueError, match=r"0 \(Dropout\) draws random numbers"):
        stack(nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(64, 4)), data, Recipe())
    images, labels, *held_out = data
    with pytest.raises(ValueError, match="children >= 1"):
        Stacked(build("mlp"), 0, lambda _: (images, labels), tuple(held_out), Recipe(), batch_size=8, steps=1)

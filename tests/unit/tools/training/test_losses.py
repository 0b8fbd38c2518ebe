"""Losses by name in `train`, and MentorNet DD against NumPy."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from torch import nn
from torch.nn import functional as F

from drawstream.pipeline import Batch
from drawstream.search import Trial
from drawstream.tools.cli.app import main
from drawstream.tools.cli.options import LossOptions
from drawstream.tools.report.groups import control_of, groups_of
from drawstream.tools.report.records import read_records
from drawstream.tools.training.evaluation import top1
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.loop import train
from drawstream.tools.training.methods import METHODS
from drawstream.tools.training.methods.losses import make_loss
from drawstream.tools.training.methods.mentornet import MentorNet
from drawstream.tools.training.methods.plan import LoopParts
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.recipe import LOSSES, Recipe
from drawstream.tools.training.setup import Setup
from shared.refusals import refused

NAMES = LOSSES


def test_the_command_line_knows_the_losses_of_the_table():
    (loss,) = (each for each in fields(LossOptions) if each.name == "loss")
    assert loss.metadata["option"].known == NAMES
    assert set(NAMES) == {"ce", *(name for name, method in METHODS.items() if method.loss)}


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_by_name_is_trained_recorded_and_compared_with_cross_entropy(digits, tmp_path, name):
    command = ["train", digits.train, "--model", "mlp", "--epochs", 3, "--held-out", digits.held_out, "--lr", 0.02]
    for folder, loss in (("control", "ce"), ("run", name)):
        assert main([str(each) for each in [*command, "--loss", loss, "-o", tmp_path / folder]]) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["recipe"]["loss"] == name and record["method"] == ("uniform" if name == "ce" else name)
    assert (record["forward"] > 1500) == (name in ("l2rw", "mentornet-dd"))
    runs, _ = read_records(tmp_path)
    groups = groups_of(runs)
    assert all(control_of(group, groups).method == "uniform" for group in groups)


def test_losses_that_need_trusted_rows_or_one_rank_say_so(digits):
    for name in ("l2rw", "mentornet-dd"):
        setup = Setup(digits.train, "mlp")
        with pytest.raises(ValueError, match=f"--loss {name} trusts the labels of held-out rows: give --held-out"):
            make_loss(name, setup.build(0), setup, Recipe())
    two = Setup(digits.train, "mlp", digits.held_out, ranks=Ranks(0, 2))
    refused("leave out torchrun", lambda: make_loss("mentornet-dd", nn.Linear(2, 2), two, Recipe()))
    refused("`loss` must be one of ce, reed-soft", Recipe, loss="mse")


def test_fine_tuning_has_the_loss_of_the_training(digits, tmp_path):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=64)
    torch.save(setup.build(0).state_dict(), tmp_path / "w.pt")
    recipe = Recipe(1, 0.05, loss="reed-hard")
    objective = FineTune(setup, tmp_path / "w.pt", recipe, recipe)
    score, model = objective(np.full(500, 1 / 500), Trial(0, 0, "search")), setup.build(0)
    loader = setup.training_loader()
    loader.replace_stream(objective.loader.stream)
    loss = make_loss("reed-hard", model, setup, recipe)
    train(model, loader, replace(recipe, loss="ce"), parts=LoopParts(criterion=loss))
    assert top1(model, objective.held_out) == score
    assert objective.identity["fine_tune"]["loss"] == "reed-hard"


C, N, M = 4, 30, 6


def mentor(seed=0, epochs=10):
    torch.manual_seed(1)
    model = nn.Linear(C, C)
    images, labels = torch.randn(M, C), torch.arange(M) % C
    return model, MentorNet(model, images, labels, rows=N, classes=C, epochs=epochs, seed=seed)


def batch_of(ids, labels):
    return Batch(torch.zeros(len(ids), C), torch.as_tensor(labels), torch.as_tensor(ids), torch.ones(len(ids)))


def test_mentornet_against_numpy():
    """Weights by hand from two visits of each row and the mentor's own parameters."""
    model, loss = mentor()
    generator, average = np.random.default_rng(0), 0.0
    ids, labels = np.array([3, 7, 20]), np.array([0, 1, 3])
    visits = np.full((3, 2, 2), np.nan)
    for epoch in (0, 1, 2):
        z = generator.normal(0, 2, (3, C)).astype(np.float32)
        found = loss(torch.from_numpy(z), batch_of(ids, labels), epoch).detach().numpy()
        losses = -log_softmax(z.astype(np.float64), axis=1)[np.arange(3), labels]
        average = 0.5 * average + 0.5 * np.quantile(losses, 0.7)
        newest = np.stack([losses, losses - average], 1) / np.log(C)
        visits = np.stack([newest, newest if epoch == 0 else visits[:, 0]], 1)
        state = {name: value.numpy() for name, value in loss.mentor.state_dict().items()}
        known = np.concatenate([visits.reshape(3, 4), state["label.weight"][labels], np.full((3, 1), epoch / 10)], 1)
        hidden = np.tanh(known @ state["hidden.weight"].T + state["hidden.bias"])
        weights = np.ones(3) if epoch < 2 else expit(hidden @ state["out.weight"][0] + state["out.bias"])
        np.testing.assert_allclose(found, weights * losses, rtol=1e-4)
    assert loss.work.tolist() == [3 * M, 0]
    assert not [name for name in loss.state_dict() if name.startswith("_model")]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mentornet_teaches_each_trusted_row_with_its_right_and_a_wrong_label():
    model, loss = mentor()
    loss(torch.zeros(2, C), batch_of([0, 1], [0, 1]), 0)
    with torch.no_grad():
        z = model(loss._images)
    right, wrong = loss._labels.view(2, M)
    assert torch.equal(right, torch.arange(M) % C) and not (right == wrong).any()
    expected = torch.cat([F.cross_entropy(z, labels, reduction="none") for labels in (right, wrong)])
    torch.testing.assert_close(loss.lessons[:, 0, 0], expected / np.log(C))
    assert not torch.equal(mentor(seed=1)[1]._labels, loss._labels)


def test_mentornet_gives_wrong_labels_less_weight():
    generator = torch.Generator().manual_seed(3)
    centres = 3 * torch.eye(C)
    truth, clean = torch.randint(C, (200,), generator=generator), torch.randint(C, (40,), generator=generator)
    images, trusted = (centres[y] + torch.randn(len(y), C, generator=generator) for y in (truth, clean))
    wrong = torch.arange(200) < 80
    labels = torch.where(wrong, (truth + 1) % C, truth)
    torch.manual_seed(0)
    model = nn.Linear(C, C)
    loss = MentorNet(model, trusted, clean, rows=200, classes=C, epochs=10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(10):
        optimizer.zero_grad()
        loss(model(images), batch_of(torch.arange(200), labels), epoch).mean().backward()
        optimizer.step()
    weights = loss.weights(torch.arange(200), labels, 9)
    assert float(weights[wrong].mean()) < 0.3 and float(weights[~wrong].mean()) > 0.7


def test_a_killed_training_with_a_mentor_ends_like_an_undisturbed_one(digits, tmp_path):
    setup, recipe = Setup(digits.train, "mlp", digits.held_out, global_batch=128), Recipe(4, 0.05)

    def go(path, on_epoch=None):
        model = setup.build(0)
        parts = LoopParts(criterion=make_loss("mentornet-dd", model, setup, recipe))
        run = train(model, setup.training_loader(), recipe, parts=parts, checkpoint=path, on_epoch=on_epoch)
        return [(e.loss, e.forward) for e in run.history], model.state_dict()

    def stop(epoch):
        raise KeyboardInterrupt

    expected = go(tmp_path / "whole.pt")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "part.pt", stop)
    found = go(tmp_path / "part.pt")
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())

"""Recipes: learning rates and steps against torch's own, kills that change nothing, and the papers' recipes by name."""

import json
import math
import shutil
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from drawstream.samplers.orders import IndexStream
from drawstream.tools.cli.app import main
from drawstream.tools.cli.options import DescentOptions, RecipeOptions
from drawstream.tools.training.descent import Descent, make_optimizer
from drawstream.tools.training.evaluation import Evaluation, top1
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import LoopParts
from drawstream.tools.training.methods.robust import LearnedWeights, Reed
from drawstream.tools.training.recipe import RECIPES, guide_table, named_recipe
from drawstream.tools.training.setup import Setup
from shared.refusals import refused


def rates(epochs, length, **options):
    recipe = Recipe(epochs, **options)
    return [recipe.lr_at(step, epochs * length) for step in range(epochs * length)]


def by_torch(make, steps, every=1):
    """Learning rates of one of torch's schedulers, which steps after each of `every` training steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, found = make(optimizer), []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return found


schedulers = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("options", "make", "every"),
    [
        ({"schedule": "constant"}, lambda o: schedulers.ConstantLR(o, 1.0), 1),
        ({"schedule": "cosine"}, lambda o: schedulers.CosineAnnealingLR(o, 42), 1),
        ({"schedule": "linear"}, lambda o: schedulers.LinearLR(o, 1.0, 1e-5, 41), 1),
        ({"schedule": "step"}, lambda o: schedulers.MultiStepLR(o, [2, 4]), 7),
        ({"schedule": "step", "milestones": (1, 5), "gamma": 0.2}, lambda o: schedulers.MultiStepLR(o, [1, 5], 0.2), 7),
    ],
)
def test_learning_rates_are_those_of_torch(options, make, every):
    assert rates(6, 7, lr=0.1, **options) == pytest.approx(by_torch(make, 42, every))


def test_linear_ends_at_1e_6_in_the_last_step_of_a_training(digits):
    setup, epochs = Setup(digits.train, "mlp", global_batch=64), 3
    run = train(setup.build(0), setup.training_loader(), Recipe(epochs, 0.1, "linear"))
    steps = epochs * math.ceil(500 / 64)
    assert [epoch.lr for epoch in run.history] == pytest.approx(np.linspace(0.1, 1e-6, steps)[7::8])
    assert run.history[-1].lr == pytest.approx(1e-6)


def test_warm_up_grows_to_the_schedule_and_shortening_keeps_its_share():
    warm = rates(4, 10, lr=0.4, schedule="constant", warmup_epochs=1)
    assert warm == pytest.approx([*np.arange(1, 11) * 0.04, *[0.4] * 30])
    long = Recipe(20, 0.1, "step", milestones=(8, 16), warmup_epochs=2)
    short = long.shortened(10)
    assert (short.milestones, short.warmup_epochs) == ((4, 8), 1)
    assert [short.lr_at(s, 100) for s in range(100)] == [long.lr_at(s, 100) for s in range(100)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"accumulate": 0}, "accumulate >= 1"),
        ({"lr": math.nan}, "lr > 0"),
        ({"weight_decay": math.nan}, "weight_decay >= 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"clip_grad": math.inf}, "clip_grad >= 0"),
        ({"momentum": 1.0}, "momentum < 1"),
        ({"ema": 1.0}, "ema < 1"),
        ({"label_smoothing": -0.1}, "label_smoothing < 1"),
        ({"gamma": 0.0}, "gamma <= 1"),
        ({"schedule": "exp"}, "`schedule` must be one of cosine"),
        ({"amp": True}, "`amp` must be one of off"),
        ({"optimizer": "lars"}, "`optimizer` must be one of sgd"),
        ({"schedule": "step", "milestones": (3, 2)}, r"must grow .* got \[3, 2\]"),
        ({"schedule": "step", "milestones": (30,), "epochs": 20}, r"must lie in the 20 epochs, but got \[30\]"),
        ({"warmup_epochs": 21}, "warmup_epochs <= 20 epochs"),
        ({"milestones": (3,)}, "go with the schedule step, but it is cosine"),
    ],
)
def test_bad_recipes_are_refused(change, text):
    refused(text, Recipe, **change)


RECIPE_OF_ALL = {"schedule": "step", "milestones": (1, 2), "gamma": 0.5, "warmup_epochs": 0.5, "label_smoothing": 0.1}
RECIPE_OF_ALL |= {"no_decay_norm": True, "clip_grad": 0.7, "weight_decay": 0.02}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_is_that_of_a_plain_loop_over_torch(digits, optimizer):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=64)
    lr = {"sgd": 0.1, "adamw": 1e-3}[optimizer]
    recipe, ema = Recipe(3, lr, optimizer=optimizer, momentum=0.8, nesterov=False, ema=0.9, **RECIPE_OF_ALL), 0.9
    model, sets = setup.build(0), setup.evaluation_loaders()
    run = train(model, setup.training_loader(), recipe, evaluation=Evaluation(sets))
    plain, loader = setup.build(0), setup.training_loader()
    groups = [
        {"params": [p for name, p in plain.named_parameters() if name.endswith("weight")]},
        {"params": [p for name, p in plain.named_parameters() if name.endswith("bias")], "weight_decay": 0},
    ]
    if optimizer == "sgd":
        reference = torch.optim.SGD(groups, lr=lr, momentum=0.8, weight_decay=0.02)
    else:
        reference = torch.optim.AdamW(groups, lr=lr, betas=(0.8, 0.999), weight_decay=0.02)
    average, step = [p.detach().clone() for p in plain.parameters()], 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            for group in reference.param_groups:
                group["lr"] = lr * min(1, (step + 1) / 4) * 0.5**epoch
            reference.zero_grad()
            F.cross_entropy(plain(batch.images), batch.labels, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
            reference.step()
            decay = min(ema, (1 + step) / (10 + step))
            average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, plain.parameters(), strict=True)]
            step += 1
    for found, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(found, expected)
    assert top1(model, sets["held_out"]) == run.last("held_out")  # what is left in the model is what was evaluated


def test_weight_decay_spares_biases_and_norms(digits):
    model = Setup(digits.train, "resnet8").build(0)
    kept, free = make_optimizer(model, Recipe(no_decay_norm=True, weight_decay=0.1)).param_groups
    assert (kept["weight_decay"], free["weight_decay"]) == (0.1, 0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] or p.ndim == 1 for p in free["params"])
    assert all(p.ndim > 1 for p in kept["params"]) and len(kept["params"]) + len(free["params"]) == len(names)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(digits, weighted):
    weights = np.random.default_rng(0).random(500) + 0.1
    models, losses = [], []
    for accumulate in (1, 3):
        setup = Setup(digits.train, "mlp", global_batch=70)
        loader, model = setup.training_loader(), setup.build(0)
        loader.replace_stream(IndexStream(weights / weights.sum(), mode="multinomial", seed=2))
        recipe = Recipe(2, 0.1, accumulate=accumulate, label_smoothing=0.0 if weighted else 0.1)
        losses.append([e.loss for e in train(model, loader, recipe, parts=LoopParts(weighted=weighted)).history])
        models.append(model)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for found, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "parts", "text"),
    [
        (Recipe(accumulate=2), {"criterion": Reed("soft")}, r"accumulate .* Reed\(soft"),
        (Recipe(label_smoothing=0.1, loss="reed-soft"), {"criterion": Reed("soft")}, "label smoothing .* reed-soft:"),
        (Recipe(accumulate=129), {}, "accumulate <= 128 images of a rank's batch"),
        (Recipe(amp="fp16"), {"criterion": "l2rw"}, "LearnedWeights.* give bf16"),
    ],
)
def test_what_does_not_go_together_is_refused(digits, recipe, parts, text):
    setup = Setup(digits.train, "mlp")
    model = setup.build(0)
    if parts.get("criterion") == "l2rw":
        trusted = torch.zeros(4, 1, 8, 8), torch.arange(4)
        parts = {"criterion": LearnedWeights(model, *trusted, batch_size=2, seed=0)}
    refused(text, lambda: train(model, setup.training_loader(), recipe, parts=LoopParts(**parts)))


EVERYTHING = {
    "bf16": Recipe(3, 0.01, amp="bf16", channels_last=True, optimizer="adamw", ema=0.99, **RECIPE_OF_ALL),
    "fp16": Recipe(3, 0.05, amp="fp16", channels_last=True, accumulate=2, ema=0.99, clip_grad=1.0),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_killed_training_ends_like_an_undisturbed_one(digits, tmp_path, name):
    """Bit for bit: momenta, loss scale, average and all."""
    ends = []
    for killed in (False, True):
        setup, path = Setup(digits.train, "resnet8", digits.held_out, global_batch=128), tmp_path / f"{killed}.pt"

        def go(setup=setup, path=path, on_epoch=None):
            model, sets = setup.build(0), setup.evaluation_loaders()
            options = {"evaluation": Evaluation(sets), "checkpoint": path, "on_epoch": on_epoch}
            run = train(model, setup.training_loader(), EVERYTHING[name], **options)
            return run, model.state_dict()

        def stop(epoch):
            raise KeyboardInterrupt

        for _ in range(2 if killed else 0):
            with pytest.raises(KeyboardInterrupt):
                go(on_epoch=stop)
        ends.append(go())
    (whole, expected), (resumed, found) = ends
    assert [(e.loss, e.lr, e.accuracy) for e in whole.history] == [(e.loss, e.lr, e.accuracy) for e in resumed.history]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(torch.equal(resumed.best_state[key], whole.best_state[key]) for key in expected)


def test_fp16_scales_the_loss_and_unscales_the_gradient():
    descents = []
    for amp in ("off", "fp16"):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        descent = Descent(model, Recipe(amp=amp, clip_grad=0.1))
        for step in range(4):
            descent.descend(model(torch.ones(5, 3)).square().mean(), 0.1 / (step + 1))
        descents.append((descent, model))
    torch.testing.assert_close(descents[0][1].weight, descents[1][1].weight)
    assert descents[1][0].state_dict()["scaler"]["scale"] > 1 and not descents[0][0].state_dict()["scaler"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_is_the_same_up_to_rounding(digits):
    ends = []
    for compiled in (False, True):
        setup = Setup(digits.train, "mlp", global_batch=250)
        model = setup.build(0)
        ends.append((train(model, setup.training_loader(), Recipe(2, 0.05, compile=compiled)), model))
    assert ends[0][0].history[-1].loss == pytest.approx(ends[1][0].history[-1].loss, rel=1e-3)
    assert list(ends[1][1].state_dict()) == list(ends[0][1].state_dict())


def test_the_command_line_knows_the_recipes_of_the_table():
    hint = get_type_hints(DescentOptions)["named"]
    assert {word for part in get_args(hint) for word in get_args(part)} == set(RECIPES)
    for name, values in RECIPES.items():
        made = named_recipe(name)
        assert all(getattr(made, key) == value for key, value in values.items() if hasattr(made, key))
    refused("no recipe 'ss': give one of ss-cifar, ", named_recipe, "ss")


def test_the_guide_has_the_table_of_the_recipes(request):
    guide = (request.config.rootpath / "docs/cli.md").read_text()
    assert guide_table() in guide


def test_a_named_recipe_gives_all_that_is_not_given_and_its_overrides_are_recorded(digits, tmp_path):
    (tmp_path / "job.toml").write_text("[train]\nmomentum = 0.8\n")
    command = ["--config", tmp_path / "job.toml", "train", digits.train, "-o", tmp_path / "run", "--model", "mlp"]
    assert main([str(each) for each in [*command, "--recipe", "ss-cifar", "--epochs", 1, "--global-batch", 250]]) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    changed = {"epochs": 1, "momentum": 0.8, "global_batch": 250, "milestones": [0.5, 1.0]}  # the same parts of it
    assert record["named_recipe"] == {"name": "ss-cifar", "overrides": changed}
    found = {**record["recipe"], "global_batch": record["global_batch"], "augment": record["augment"]}
    expected = RECIPES["ss-cifar"] | changed
    assert {key: found[key] for key in expected} == expected
    assert "name" not in record["recipe"]


def test_adamw_begins_at_its_own_learning_rate():
    assert RecipeOptions(optimizer="adamw").lr == 0.001
    assert RecipeOptions(optimizer="adamw", named="bt").lr == 0.001
    assert RecipeOptions(optimizer="adamw", lr=0.01).lr == 0.01
    assert RecipeOptions().lr == 0.05


def test_another_schedule_leaves_out_the_milestones_of_a_named_recipe(digits, tmp_path):
    command = ["train", digits.train, "-o", tmp_path / "run", "--model", "mlp", "--recipe", "as-cifar", "--epochs", 1]
    assert main([str(each) for each in [*command, "--schedule", "linear"]]) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["named_recipe"]["overrides"] == {"epochs": 1, "schedule": "linear", "milestones": []}

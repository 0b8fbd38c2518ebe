"""The reference loop: schedules, what it reports, and that a killed run ends like an undisturbed one."""

from dataclasses import replace

import pytest
import torch

from drawstream.samplers.orders import IndexStream
from drawstream.tools.training.evaluation import Evaluation, top1
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.setup import Setup


@pytest.fixture
def setup(digits):
    return Setup(digits.train, "mlp", digits.held_out, digits.test, global_batch=64)


def test_training_learns_and_reports_last_and_best(setup):
    sets = setup.evaluation_loaders()
    model = setup.build(0)
    run = train(model, setup.training_loader(), Recipe(epochs=12, lr=0.1), evaluation=Evaluation(sets))
    held_out = [epoch.accuracy["held_out"] for epoch in run.history]
    assert len(run.history) == 12
    assert run.best_epoch == max(range(12), key=lambda e: (held_out[e], -e))
    assert run.best("test") == run.history[run.best_epoch].accuracy["test"]
    assert run.last("test") == run.history[-1].accuracy["test"] == top1(model, sets["test"])
    assert run.best("held_out") > 70
    assert run.history[-1].loss < run.history[0].loss
    assert 0 < run.wait_share < 1
    model.load_state_dict(run.best_state)
    assert top1(model, sets["held_out"]) == run.best("held_out")


def test_every_step_says_how_far_the_training_is(setup):
    told = []
    train(setup.build(0), setup.training_loader(), Recipe(epochs=2, lr=0.1), on_step=told.append)
    steps = -(-len(setup.data) // 64)
    assert told == pytest.approx([(step + 1) / steps for step in range(2 * steps)])


def test_accuracy_equals_a_plain_count(setup):
    model, (loader,) = setup.build(3), setup.evaluation_loaders("test").values()
    model.eval()
    right = sum(int((model(batch.images).argmax(1) == batch.labels).sum()) for batch in loader)
    assert top1(model, loader) == pytest.approx(100 * right / len(loader.catalog))


def test_a_diverging_run_says_so(setup):
    with pytest.raises(ValueError, match=r"training loss is nan in epoch .*lower the learning rate"):
        train(setup.build(0), setup.training_loader(), Recipe(epochs=5, lr=1e6, schedule="constant"))


def test_a_model_of_another_class_count_is_refused(setup, digits):
    with pytest.raises(ValueError, match=r"logits of shape \(2, 11\), but the data have 10 classes"):
        Setup(digits.train, f"{__name__}:eleven_classes").build(0)
    with pytest.raises(ValueError, match=r"logits of shape \(64, 11\).* has 10 classes"):
        train(eleven_classes(), setup.training_loader(), Recipe(epochs=1))


def eleven_classes():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 11))


def test_a_killed_run_goes_on_with_its_own_data_alone(digits, tmp_path):
    """Another augmentation, recipe or seed of the stream in the same folder is refused, with both sides."""
    setup, recipe = Setup(digits.train, "mlp", global_batch=50), Recipe(2, 0.05)

    def go(setup=setup, recipe=recipe, seed=0, **options):
        loader = setup.training_loader()
        loader.replace_stream(IndexStream(500, seed=seed))
        return train(setup.build(0), loader, recipe, checkpoint=tmp_path / "checkpoint.pt", **options)

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(on_epoch=stop)
    for change, told in (
        ({"seed": 1}, r"started with stream '?[0-9a-f]{12}'?, not '?[0-9a-f]{12}'?: give another"),
        ({"recipe": Recipe(3, 0.05)}, r"was started with recipe.epochs 2, not 3: give another"),
        ({"setup": replace(setup, augment="standard")}, r"transform.crop 'none', not 'pad'; transform.flip False"),
    ):
        with pytest.raises(ValueError, match=told):
            go(**change)
    assert len(go().history) == 2

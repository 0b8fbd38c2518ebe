"""Models and images that do not fit each other: one line before anything is trained, and nothing is changed."""

import re

import pytest
import torch
from torch import nn

from drawstream.tools.training.check_model import check_built, slow_on, takes_gray
from drawstream.tools.training.models import BUILT_IN, build_model

FACTORIES = """
import torch
from torch import nn

class Given(nn.Module):
    def __init__(self, channels=1, classes=10, give="logits", train_only=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)
        self.head, self.give, self.train_only = nn.Linear(4, classes), give, train_only

    def forward(self, x):
        logits = self.head(self.norm(self.conv(x)).mean((2, 3)))
        if self.train_only and not self.training:
            return logits
        return {"logits": logits, "tuple": (logits, logits), "dict": {"logits": logits}, "list": [logits],
                "map": logits[:, :, None, None], "none": None, "flat": logits.flatten()}[self.give]

def fits(channels): return Given(channels)
def colour(): return Given(3)
def wide(): return Given(1, 1000)
def pair(): return Given(give="tuple")
def named(): return Given(give="dict")
def listed(): return Given(give="list")
def mapped(): return Given(give="map")
def nothing(): return Given(give="none")
def flat(): return Given(give="flat")
def auxiliary(): return Given(give="tuple", train_only=True)
def empty(): return nn.Flatten()
def needs(width): return Given()
def raises(): raise KeyError("no width")
def four(): return Given(4)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "strange_models.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


WRONG = [
    ("colour", "does not take images of 1 channel and 8 × 8 pixels (RuntimeError: Given groups=1"),
    ("wide", "gives logits of shape (2, 1000), but the data have 10 classes: build the model for 10 classes"),
    ("pair", "gives a tuple, but must give one tensor of logits (images, classes)"),
    ("named", "gives a dict, but must give one tensor"),
    ("listed", "gives a list, but must give one tensor"),
    ("mapped", "gives logits of shape (2, 10, 1, 1), but the data have 10 classes"),
    ("nothing", "gives a NoneType, but must give one tensor"),
    ("flat", "gives logits of shape (20,), but the data have 10 classes"),
    ("auxiliary", "in training mode gives a tuple"),
    ("empty", "has no parameters"),
    ("needs", "cannot be made with nothing: TypeError: needs() missing 1 required positional argument: 'width'"),
    ("raises", "cannot be made with nothing: KeyError: 'no width'"),
]


@pytest.mark.parametrize(("name", "told"), WRONG)
def test_a_model_that_does_not_fit_is_one_line(factories, name, told):
    spec, shape = f"strange_models:{name}", {"num_classes": 10, "channels": 1, "size": (8, 8)}
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        check_built(build_model(spec, **shape, seed=0), spec, **shape)
    assert str(caught.value).startswith(f"model {spec!r}") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_auxiliary_outputs_of_training_do_not_matter_where_nothing_is_trained(factories):
    spec, shape = "strange_models:auxiliary", {"num_classes": 10, "channels": 1, "size": (8, 8)}
    check_built(build_model(spec, **shape, seed=0), spec, **shape, trained=False)


@pytest.mark.parametrize("training", [True, False])
def test_trying_changes_neither_model_nor_random_state(factories, training):
    shape = {"num_classes": 10, "channels": 3, "size": (8, 8)}
    model = nn.Sequential(nn.Dropout(), build_model("strange_models:fits", **shape, seed=0)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_built(model, "x", **shape)
    assert torch.equal(torch.get_rng_state(), state) and model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_factories_of_colour_models_do_not_take_gray(factories):
    shape = {"num_classes": 10, "size": (8, 8)}
    assert not takes_gray("strange_models:colour", **shape)
    assert all(takes_gray(f"strange_models:{name}", **shape) for name in ("fits", "pair", "four"))  # four takes none
    assert all(takes_gray(name, **shape) for name in BUILT_IN)


def test_built_in_models_on_large_images_are_said_to_be_slow():
    assert slow_on("cnn", (64, 64)) is None and slow_on("timm:resnet18", (224, 224)) is None
    for name in BUILT_IN:
        note = slow_on(name, (224, 160))
        assert f"--model {name} is made for images of up to 64 pixels, and these are 224 × 160" in note
        assert "timm:resnet18" in note

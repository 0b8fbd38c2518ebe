"""Models by name, and weights from files that may be anything."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drawstream.tools.training.models import BUILT_IN, build_model, load_weights

SHAPE = {"num_classes": 7, "channels": 1, "size": (28, 28)}


def linear_factory(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def not_a_model(num_classes: int) -> int:
    return num_classes


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (1, (8, 8))])
def test_built_in_models_give_one_logit_per_class(name, channels, size):
    model = build_model(name, num_classes=7, channels=channels, size=size, seed=0).eval()
    assert model(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (build_model("mlp", seed=seed, **SHAPE).state_dict()["1.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.rand(3), expected)


def test_a_factory_gets_the_keywords_it_accepts():
    model = build_model(f"{__name__}:linear_factory", seed=0, **SHAPE)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("resnet9", "unknown model 'resnet9': give one of mlp, cnn"),
        ("no.such.module:factory", "cannot be imported: ModuleNotFoundError: No module named"),
        (f"{__name__}:nothing", "cannot be imported: .*nothing"),
        (f"{__name__}:SHAPE", "must name a factory, but SHAPE is dict"),
        (f"{__name__}:not_a_model", "returned int, not a torch.nn.Module"),
        ("timm:no_such_model", "timm"),
    ],
)
def test_bad_names_are_refused(spec, text):
    with pytest.raises(ValueError, match=text):
        build_model(spec, seed=0, **SHAPE)


@pytest.fixture
def model():
    return build_model("mlp", seed=0, **SHAPE)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model.safetensors", save_file),
        ("model.pt", torch.save),
        ("model.pt", lambda state, path: torch.save({"model": state}, path)),
        ("model.pt", lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path)),
    ],
)
def test_weights_and_plain_checkpoints_load(model, name, save, tmp_path):
    state = {f"module.{key}": value + 1 for key, value in model.state_dict().items()}  # as DDP names them
    save(state, tmp_path / name)
    load_weights(model, tmp_path / name)
    assert all(torch.equal(value, state[f"module.{key}"]) for key, value in model.state_dict().items())


class Hostile:
    def __reduce__(self):
        return (open, ("hacked", "w"))


@pytest.mark.parametrize(
    ("content", "name", "text"),
    [
        (b"no tensors", "model.safetensors", "cannot be read as tensors"),
        (b"no tensors", "model.pt", "model.pt: "),
        (pickle.dumps({"model": Hostile()}), "model.pt", "not a plain checkpoint"),
    ],
)
def test_damaged_or_hostile_weights_are_refused(model, content, name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        load_weights(model, tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_weights_of_another_shape_and_missing_files_are_refused(model, tmp_path):
    other = build_model("mlp", num_classes=3, channels=1, size=(28, 28), seed=0)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="do not fit the model: size mismatch"):
        load_weights(model, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        load_weights(model, tmp_path / "missing.safetensors")
    torch.save({"model": "text"}, tmp_path / "text.pt")
    with pytest.raises(ValueError, match="no state dict"):
        load_weights(model, tmp_path / "text.pt")

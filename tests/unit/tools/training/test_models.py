"""Models by name, and weights from files that may be anything."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drawstream.tools.training.models import BUILT_IN, build_model, load_weights, small_stem

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


def test_the_wide_network_has_its_papers_size():
    """WRN-28-2 of 10 classes: 1.47 million parameters, 25 convolutions of 3×3 in 12 blocks and the stem."""
    model = build_model("wrn-28-2", num_classes=10, channels=3, size=(32, 32), seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_467_610
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kernels.count((3, 3)) == 25 and kernels.count((1, 1)) == 3


TIMM = ("resnet50", "densenet121", "mobilenetv2_100", "seresnext50_32x4d", "efficientnet_b0")
NEEDS = "needs timm and the torchvision that belongs to torch"


def timm_or_skip():
    pytest.importorskip("timm", reason=NEEDS, exc_type=Exception)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_timm_model_with_a_small_stem_keeps_the_side(name, channels):
    timm_or_skip()
    spec = small_stem(f"timm:{name}")
    model = build_model(spec, num_classes=7, channels=channels, size=(32, 32), seed=0).eval()
    sides = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _, __, out: sides.append(out.shape[2:]))
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)
    assert sides == [(32, 32)] and first.kernel_size == (3, 3)
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    again, other = (build_model(spec, num_classes=7, channels=channels, size=(32, 32), seed=seed) for seed in (0, 1))
    weights = [next(each.parameters()) for each in (model, again, other)]
    assert torch.equal(*weights[:2]) and not torch.equal(*weights[1:])
    assert 0.5 < float((first.weight.detach() ** 2).mean() * first.out_channels * 9 / 2) < 2  # of He et al., fan out


def test_swin_takes_small_images_in_small_patches():
    timm_or_skip()
    spec = "timm:swin_tiny_patch4_window7_224+small-stem"
    model = build_model(spec, num_classes=7, channels=3, size=(32, 32), seed=0).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert model.patch_embed.num_patches == 256


def test_models_without_a_stem_to_make_small_are_refused():
    timm_or_skip()
    with pytest.raises(ValueError, match=r"timm:vgg11 has no stem of one convolution with a stride: leave out --small"):
        build_model("timm:vgg11+small-stem", num_classes=7, channels=3, size=(32, 32), seed=0)


def test_only_models_of_timm_have_a_variant():
    assert small_stem("timm:a+small-stem") == small_stem("timm:a") == "timm:a+small-stem"
    with pytest.raises(ValueError, match="--small-stem goes with --model timm:NAME, but got 'resnet18': leave it out"):
        small_stem("resnet18")


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

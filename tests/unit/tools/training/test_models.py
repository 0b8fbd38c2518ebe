"""Models by name, and weights from files that may be anything."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drawstream.samplers.orders import IndexStream
from drawstream.tools.training.check_model import check_built, slow_on, takes_gray
from drawstream.tools.training.evaluation import Evaluation, top1
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.models import BUILT_IN, build_model, load_weights, small_stem
from drawstream.tools.training.setup import Setup
from shared.refusals import refused

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
    refused(text, build_model, spec, seed=0, **SHAPE)


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
    refused("--small-stem goes with --model timm:NAME, but got 'resnet18': leave it out", small_stem, "resnet18")


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
    refused(text, load_weights, model, tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_weights_of_another_shape_and_missing_files_are_refused(model, tmp_path):
    other = build_model("mlp", num_classes=3, channels=1, size=(28, 28), seed=0)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    refused("do not fit the model: size mismatch", load_weights, model, tmp_path / "other.safetensors")
    refused("no such file", load_weights, model, tmp_path / "missing.safetensors")
    torch.save({"model": "text"}, tmp_path / "text.pt")
    refused("no state dict", load_weights, model, tmp_path / "text.pt")


# Models and images that do not fit each other: one line before anything is trained, and nothing is changed


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
    message = refused(re.escape(told), lambda: check_built(build_model(spec, **shape, seed=0), spec, **shape))
    assert message.startswith(f"model {spec!r}") and len(message) < 500


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


# The reference loop: schedules, what it reports, and that a killed run ends like an undisturbed one


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
        refused(told, go, **change)
    assert len(go().history) == 2

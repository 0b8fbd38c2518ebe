"""Gray and colour together: gray images become RGB where another set, the model or the user wants it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from drawstream import ArraySource, Catalog, FeatureTable, Loader, Sequential, Transform, pack
from drawstream.pipeline import Batch
from drawstream.tools.training import Setup
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import LoopParts
from drawstream.tools.training.methods.robust import LearnedWeights, Reed, SelfPaced, learned_weights
from shared.programs import cli
from shared.refusals import refused
from shared.samples import write_table

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (60, 10, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 10, 8, 3), np.uint8)
MODELS = """
from torch import nn

def colour(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Catalogs gray, colour, and large (gray, 80 × 72), each raw and png where it says so."""
    root = tmp_path_factory.mktemp("channels")
    for encoding in ("raw", "png", "jpeg"):
        for name, images in (("gray", GRAY), ("colour", COLOUR)):
            pack(ArraySource(images, np.arange(len(images)) % 4), root / f"{name}-{encoding}", encoding=encoding)
    large = RNG.integers(0, 256, (8, 80, 72), np.uint8)
    pack(ArraySource(large, np.arange(8) % 4), root / "large", encoding="png")
    (root / "channel_models.py").write_text(MODELS)
    return root


def images_of(catalog: Catalog, transform: Transform) -> np.ndarray:
    loader = Loader(catalog, Sequential(0, len(catalog)), transform=transform, batch_size=16)
    found = np.concatenate([batch.images.numpy()[batch.weights.numpy() > 0] for batch in loader])
    loader.close()
    return found


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
@pytest.mark.parametrize("options", [{}, {"crop": "pad", "flip": True}, {"crop": "random"}, {"randaugment": (2, 4)}])
def test_gray_images_become_three_equal_channels(data, encoding, options):
    catalog = Catalog.open(data / f"gray-{encoding}")
    one, three = (Transform((10, 8), (0.0,) * c, (1.0,) * c, **options) for c in (1, 3))
    if "randaugment" in options:  # colour has operations that gray has not, so other ones are drawn
        assert images_of(catalog, three).shape == (60, 3, 10, 8)
        return
    gray, rgb = images_of(catalog, one), images_of(catalog, three)
    np.testing.assert_array_equal(rgb, gray.repeat(3, axis=1))
    if not options and encoding != "jpeg":
        stored = {image.tobytes() for image in GRAY}  # packed in another order
        assert {image.astype(np.uint8).tobytes() for image in gray} == stored


def test_the_pixels_of_a_gray_jpeg_are_those_of_pillow(data):
    catalog = Catalog.open(data / "gray-jpeg")
    rgb = images_of(catalog, Transform((10, 8), (0.0,) * 3, (1.0,) * 3))
    with (catalog.root / catalog.shards[0].path).open("rb") as shard:
        for row in range(5):
            shard.seek(int(catalog.offset[row]))
            name = data / "one.jpg"
            name.write_bytes(shard.read(int(catalog.size[row])))
            expected = np.asarray(Image.open(name).convert("RGB"), np.float32).transpose(2, 0, 1)
            assert np.abs(rgb[row] - expected).max() <= 1  # another inverse cosine transform


def test_colour_does_not_become_gray(data):
    with pytest.raises(ValueError, match=r"the transform normalises 1 channels, but the images of .* have 3"):
        images_of(Catalog.open(data / "colour-raw"), Transform((10, 8), (0.0,), (1.0,)))


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_sets_that_differ_are_all_loaded_as_colour(data, capsys, encoding):
    gray, colour = data / f"gray-{encoding}", data / f"colour-{encoding}"
    setup = Setup(gray, "mlp", held_out=colour)
    mean, std = setup.transforms[0].mean, setup.transforms[0].std
    assert len(mean) == 3 and len(set(mean)) == len(set(std)) == 1 and mean[0] == pytest.approx(GRAY.mean(), abs=0.01)
    assert setup.input_channels == 3 and setup.build(0)[1].in_features == 3 * 80
    places = gray / "catalog.parquet", colour / "catalog.parquet"
    told = "note: gray images are loaded as RGB ({}), as {} has colour\n".format(*places)
    assert capsys.readouterr().err == told
    assert Setup(colour, "mlp", test=gray).input_channels == 3
    assert Setup(gray, "mlp").input_channels == 1 and Setup(gray, "mlp", channels=3).input_channels == 3
    with pytest.raises(ValueError, match="has colour images, which are not made gray: --channels 3"):
        _ = Setup(colour, "mlp", channels=1).input_channels
    refused("`channels` must be 1 or 3, but got 2", Setup, gray, "mlp", channels=2)


@pytest.mark.parametrize(("first", "second"), [("gray", "colour"), ("colour", "gray")])
def test_training_on_one_and_judging_on_the_other_works(data, tmp_path, first, second):
    train = ("train", data / f"{first}-raw", "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1)
    err = cli(*train, "--held-out", data / f"{second}-png", notes=True)
    assert err.count("note: gray images are loaded as RGB") == 1
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert len(record["transform"]["mean"]) == 3 and "held_out" in record["history"][0]["accuracy"]
    weights = tmp_path / "run/last.safetensors"
    score = ("features", data / "gray-raw", "-o", tmp_path / "f", "--model", "mlp", "--weights", weights)
    err = cli(*score, status=2)  # the model has three channels, these images one
    assert err.count("\n") == 1 and "--channels 3 loads gray images as RGB" in err
    cli(*score, "--channels", 3)
    assert len(FeatureTable.open(tmp_path / "f").provenance["transform"]["mean"]) == 3


def test_a_model_that_takes_colour_only_gets_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    monkeypatch.syspath_prepend(str(data))
    monkeypatch.delitem(sys.modules, "channel_models", raising=False)
    train = ("train", data / "gray-png", "--model", "channel_models:colour", "--epochs", 1)
    told = "note: gray images are loaded as RGB, as model 'channel_models:colour' takes 3 channels\n"
    assert cli(*train, "-o", tmp_path / "a", notes=True).count(told) == 1
    err = cli(*train, "-o", tmp_path / "b", "--channels", 1, status=2)
    assert err.count("\n") == 1 and "does not take images of 1 channel" in err and "--channels 3" in err


@pytest.mark.parametrize("command", ["train", "auto"])
def test_large_gray_images_are_trained_on_and_a_small_model_is_said_to_be_slow(data, tmp_path, command):
    given = (data / "large", "-o", tmp_path / "run", "--model", "cnn", "--epochs", 1, "--global-batch", 8)
    auto = ("--held-out", data / "gray-png", "--exploration", "uniform", "--reward-rows", 8)
    err = cli(*(("train", *given) if command == "train" else ("search", "auto", *given, *auto)), notes=True)
    note = "note: --model cnn is made for images of up to 64 pixels, and these are 224 × 224: it will be slow and weak"
    assert err.count("note: ") == 1 and err.startswith(note)


@pytest.mark.parametrize("command", ["train", "features", "swift", "auto", "bench"])
def test_a_model_that_does_not_fit_is_one_line_in_every_command(data, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "other_models.py").write_text(
        "from torch import nn\n"
        "def two(channels): return nn.Sequential(nn.Flatten(), nn.Linear(channels * 80, 2))\n"
        "def five(): return nn.Sequential(nn.Conv2d(5, 8, 3), nn.Flatten(), nn.Linear(8, 4))\n"
        "def pair(channels): return Pair(channels)\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self, c):\n"
        "        super().__init__(); self.l = nn.Linear(c * 80, 4)\n"
        "    def forward(self, x): return self.l(x.flatten(1)), x\n"
    )
    gray, colour = data / "gray-png", data / "colour-png"
    (tmp_path / "w").write_bytes(b"")
    words = {
        "train": ("train", gray, "-o", "run"),
        "features": ("features", gray, "-o", "f", "--weights", "w"),
        "swift": ("search", "swift", "f", "-o", "s", "--catalog", gray, "--held-out", colour, "--start", "w"),
        "auto": ("search", "auto", gray, "-o", "auto", "--held-out", colour, "--global-batch", "16"),
        "bench": ("bench", "features", "--data", gray),
    }[command]
    if command == "swift":
        scores = {name: RNG.random(60).astype(np.float32) for name in ("loss", "entropy", "grad_norm")}
        write_table(tmp_path / "f", Catalog.open(gray), scores)
    for model, told in (
        ("two", "gives logits of shape (2, 2), but the data have 4 classes: build the model for 4 classes"),
        ("five", "does not take images of"),
        ("pair", "gives a tuple, but must give one tensor of logits"),
    ):
        err = cli(*words, "--model", f"other_models:{model}", status=2).splitlines()
        assert told in err[-1] and sum(not line.startswith("note: ") for line in err) == 1, err


# Losses against wrong labels: values against NumPy, weights against finite differences, state across restarts


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
    refused(text, make)


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
    assert list(criterion.state_dict()) == ["work", "_extra_state"]
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

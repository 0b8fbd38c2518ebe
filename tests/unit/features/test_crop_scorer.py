"""The scorer of crops: the extraction's values for the same pixels, from a frozen copy."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from drawstream.features import Crops, CropScorer
from drawstream.features import extract_features as extract
from drawstream.features.table import FeatureTable
from drawstream.pipeline import CropFilter, Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream, Sequential
from drawstream.samplers.swift import SwiftFit, SwiftParams

DIGITS = load_digits()
ROWS = 60


class Small(nn.Module):
    """With what training changes besides weights, and what only training does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.drop, self.head = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(49, 10)

    def forward(self, x):
        return self.head(self.drop(F.adaptive_avg_pool2d(self.norm(x), 7).flatten(1)))


def squared(logits, targets, activations):
    return {"squared": logits.square().sum(1), "length": activations.norm(dim=1)}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = (np.kron(DIGITS.images[:ROWS], np.ones((1, 4, 4))) * 15.9).astype(np.uint8)
    folder = tmp_path_factory.mktemp("scorer") / "d"
    return Catalog.open(pack(ArraySource(images, DIGITS.target[:ROWS]), folder).train)


def pixels(n=20, side=32):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, side, side, generator=draw), torch.randint(0, 10, (n,), generator=draw)


NAMES = ("loss", "entropy", "grad_norm", "target_prob", squared)


def test_values_are_those_of_the_extraction(catalog, tmp_path):
    transform = Transform((20, 20), (127.5,), (127.5,))
    model = Small().eval()
    extract(catalog, model, tmp_path / "f", measures=NAMES, crops=Crops(2), transform=transform, model_name="s")
    table = FeatureTable.open(tmp_path / "f")
    scorer = CropScorer(model, measures=NAMES)
    loader = Loader(catalog, Sequential(0, 2 * ROWS), rows=table, transform=transform, batch_size=50)
    scored = [scorer(batch.images, batch.labels) for batch in loader]
    for name, values in table.columns(*table.names).items():
        mine = torch.cat([each[name] for each in scored]).numpy()
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, values, rtol=1e-4, atol=1e-6)
    assert set(scored[0]) == set(table.names)


def test_the_copy_is_frozen(catalog):
    images, labels = pixels()
    model = Small().train()
    scorer = CropScorer(model)
    before, name = scorer(images, labels), scorer.fingerprint
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert model.training
    after = scorer(images, labels)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert name == CropScorer(Small()).fingerprint != CropScorer(model).fingerprint
    assert not any(value.requires_grad for value in after.values())


def test_options_are_part_of_the_fingerprint():
    made = [
        CropScorer(Small(), **options).fingerprint
        for options in (
            {},
            {"size": (16, 16)},
            {"amp": "bf16"},
            {"measures": ("loss",)},
            {"measures": ("loss", squared)},
        )
    ]
    assert len(set(made)) == len(made)


def test_crops_are_scored_at_another_size():
    images, labels = pixels()
    seen = []
    model = Small()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))  # hooks are copied with the model
    small = CropScorer(model, size=(16, 12))(images, labels)
    assert seen == [(20, 1, 16, 12)] and images.shape == (20, 1, 32, 32)
    expected = CropScorer(Small())(
        F.interpolate(images, (16, 12), mode="bilinear", antialias=True, align_corners=False), labels
    )
    assert torch.equal(small["loss"], expected["loss"])


def test_half_precision_is_near():
    images, labels = pixels()
    full, half = (CropScorer(Small(), measures=NAMES[:3], amp=amp)(images, labels) for amp in ("off", "bf16"))
    for name, values in full.items():
        assert half[name].dtype == torch.float32 and not torch.equal(half[name], values)
        torch.testing.assert_close(half[name], values, rtol=0.05, atol=0.05)


def test_it_chooses_crops_from_a_real_sampler(catalog):
    """Low losses are wanted, and low losses are what is trained on."""
    rng = np.random.default_rng(0)
    params = SwiftParams((1.0,), (0.4, 0.6), (1.0, 1.0, 0.0, 0.0))
    model, transform = Small().eval(), Transform((20, 20), (127.5,), (127.5,), crop="random")
    stream = IndexStream(ROWS, draws=10 * ROWS)

    def loader():
        return Loader(catalog, stream, transform=transform, batch_size=100)

    scorer = CropScorer(model, measures=("loss",))
    drawn = torch.cat([scorer(batch.images, batch.labels)["loss"] for batch in loader()]).numpy()
    fit = SwiftFit({"loss": rng.permutation(drawn)}, features=("loss",), mass=None, transform="cdf")
    crops = CropFilter(loader(), fit.sampler(params), scorer, keep=0.3)
    kept = torch.cat([scorer(batch.images, batch.labels)["loss"] for batch in crops]).numpy()
    assert len(kept) == 3 * ROWS and kept.max() < np.quantile(drawn, 0.6) + 1e-6
    assert kept.mean() < drawn.mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_norm": "full"}, "`grad_norm` must be last or logit"),
        ({"amp": "int8"}, "`amp` must be off, bf16 or fp16"),
        ({"size": (0, 3)}, "`size` must be two positive"),
        ({"measures": ("lost",)}, "unknown measure 'lost'"),
        ({"head": "tail"}, "no linear layer 'tail'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        CropScorer(Small(), **options)


def test_models_that_do_not_fit():
    images, labels = pixels()
    with pytest.raises(ValueError, match=r"must give logits \(n, classes\), but gives \(20, 1, 32, 32\)"):
        CropScorer(nn.Identity())(images, labels)
    two = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    with pytest.raises(ValueError, match="renormed entropy needs at least 3 classes"):
        CropScorer(two)(images, labels % 2)

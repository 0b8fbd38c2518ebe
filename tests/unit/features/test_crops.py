"""Crops are pure functions of seed, sample and number; stored windows give the pixels that were scored; the scorer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from drawstream import CropFilter, FeatureTable, IndexStream, Loader, Sequential, SwiftFit, SwiftParams, Transform
from drawstream.features import Crops, CropScorer, measure
from drawstream.features import extract_features as extract
from drawstream.features.crops import CropRows
from drawstream.pipeline.images import draw_windows
from shared.refusals import refused
from shared.samples import DIGITS, LABELS, array_catalog

ROWS = 60


def photos(rows):
    """Pictures of two sizes with something to see everywhere."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (rows, 12, 16, 3), np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def catalog(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops") / "d"
    labels = LABELS[:ROWS]
    if request.param == "raw":
        images = np.kron(DIGITS.images[:ROWS], np.ones((1, 4, 4)))[:, 2:-2, 2:-2] * 15.9
        return array_catalog(folder, images.astype(np.uint8), labels, shard_rows=25)
    return array_catalog(folder, photos(ROWS), labels, shard_rows=25, encoding="jpeg")


class Spy(nn.Module):
    """A model that keeps the images it was shown."""

    def __init__(self, channels, size):
        super().__init__()
        torch.manual_seed(0)
        self.pool, self.head = nn.AdaptiveAvgPool2d(7), nn.Linear(49 * channels, 10)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return self.head(self.pool(x).flatten(1))


def rows_of(catalog, crops, transform=None):
    transform = transform or Transform((20, 20), (0.0,) * catalog.channels, (1.0,) * catalog.channels)
    return CropRows(catalog, transform, crops)


@settings(deadline=None, max_examples=30)
@given(a=st.integers(0, ROWS - 1), n=st.integers(1, 20), k=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_a_crop_depends_on_seed_sample_and_number_alone(catalog, a, n, k, seed):
    whole = rows_of(catalog, Crops(6, seed)).columns(0, 6 * ROWS)
    stop = min(a + n, ROWS)
    part = rows_of(catalog, Crops(k, seed)).columns(a * k, stop * k)
    same = (whole["sample_id"] >= a) & (whole["sample_id"] < stop) & (whole["crop"] < k)
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][same], err_msg=name)
    assert part["sample_id"].tolist() == np.repeat(np.arange(a, stop), k).tolist()  # by sample, then by crop
    assert part["crop"].tolist() == list(range(k)) * (stop - a)


def test_blocks_of_samples_leave_no_seam(catalog, monkeypatch):
    whole = rows_of(catalog, Crops(2)).windows
    monkeypatch.setattr("drawstream.features.crops._BLOCK", 7)
    np.testing.assert_array_equal(rows_of(catalog, Crops(2)).windows, whole)


def test_crops_seeds_and_training_streams_draw_differently(catalog):
    first, second = rows_of(catalog, Crops(2, 0)), rows_of(catalog, Crops(2, 1))
    windows = first.windows.reshape(ROWS, 2, 4)
    assert (windows[:, 0] != windows[:, 1]).any(1).all() and (first.windows != second.windows).any(1).all()
    law = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    for epoch in (0, 1):
        drawn = draw_windows(0, epoch, 0, catalog.height, catalog.width, **law)
        assert (drawn != windows[:, epoch]).any(1).all()
    assert 0.3 < first.flip.mean() < 0.7
    rows = rows_of(catalog, Crops(2, 0, flip=False))
    assert not rows.flip.any()


def test_the_law_is_that_of_the_transform(catalog):
    """Areas uniform in `scale`; no window leaves the image."""
    transform = Transform(
        (20, 20), (0.0,) * catalog.channels, (1.0,) * catalog.channels, scale=(0.2, 0.5), ratio=(0.9, 1.1)
    )
    rows = rows_of(catalog, Crops(100), transform)
    y0, x0, y1, x1 = rows.windows.T.astype(np.float64)
    area = (y1 - y0) * (x1 - x0)
    assert rows.windows.dtype == np.float32 and rows.windows.min() >= 0 and rows.windows.max() <= 1
    assert area.min() >= 0.2 - 1e-6 and area.max() <= 0.5 + 1e-6
    counts = np.histogram(area, 10, (0.2, 0.5))[0]
    assert abs(counts - 600).max() < 6 * np.sqrt(600)


def scored(catalog, out, **options):
    size = (28, 28) if catalog.channels == 1 else (40, 40)
    transform = Transform(size, (127.5,) * catalog.channels, (60.0,) * catalog.channels)
    spy = Spy(catalog.channels, size)
    table = extract(catalog, spy, out, model_name="spy", transform=transform, batch_size=32, **options)
    return table, spy, transform


def test_the_table_holds_windows_and_rows_by_sample_and_crop(catalog, tmp_path):
    seen = []
    table, _, _ = scored(catalog, tmp_path, crops=Crops(3, 5), progress=seen.append)
    expected = rows_of(catalog, Crops(3, 5))
    assert len(table) == 3 * ROWS == seen[-1].done == seen[-1].rows
    assert table.sample_id.tolist() == np.repeat(np.arange(ROWS), 3).tolist()
    np.testing.assert_array_equal(table.windows, expected.windows)
    np.testing.assert_array_equal(table.flip, expected.flip)
    np.testing.assert_array_equal(table.label, np.repeat(catalog.label, 3))
    assert table.provenance["crops"] == {"count": 3, "seed": 5, "flip": True}
    assert scored(catalog, tmp_path / "whole")[0].windows is None


def test_a_stored_crop_decodes_to_the_pixels_that_were_scored(catalog, tmp_path):
    """Through a shuffled training loader with other batches, bit for bit; and to the same features."""
    _, spy, transform = scored(catalog, tmp_path, crops=4)
    table = FeatureTable.open(tmp_path)
    pixels = torch.cat(spy.seen)
    assert len(pixels) == 4 * ROWS
    training = Transform(transform.size, transform.mean, transform.std, crop="random", flip=True)
    loader = Loader(catalog, IndexStream(len(table), seed=3), rows=table, transform=training, batch_size=50)
    found = 0
    for batch in loader:
        assert torch.equal(batch.images, pixels[batch.ids])
        found += len(batch.ids)
    assert found == 4 * ROWS
    with torch.inference_mode():
        for shard in range(len(catalog.shards)):
            start, stop = (4 * row for row in catalog.shard_rows(shard))
            again = Loader(catalog, Sequential(start, stop), rows=table, transform=training, batch_size=32)
            for batch in again:
                z = spy(batch.images)
                h = spy.pool(batch.images).flatten(1)
                for name, values in measure(z, batch.labels, h, table.names).items():
                    assert np.array_equal(values.numpy(), table.columns(name)[name][batch.ids.numpy()]), name
            again.close()
    loader.close()


@pytest.mark.parametrize(
    ("other", "shown"), [(4, "count 3, not 4"), (Crops(3, 1), "crops.seed 0, not 1"), (None, "count 3, not none")]
)
def test_other_crops_are_refused(catalog, tmp_path, other, shown):
    scored(catalog, tmp_path, crops=3)
    refused(f"made with .*{shown}.*: give another output folder", scored, catalog, tmp_path, crops=other)


def test_counts_and_seeds_are_checked():
    refused("`crops >= 1` must hold, but got 0", Crops, 0)
    refused("`seed >= 0` must hold for crops, but got -1", Crops, 1, -1)


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
def sixty(tmp_path_factory):
    images = (np.kron(DIGITS.images[:ROWS], np.ones((1, 4, 4))) * 15.9).astype(np.uint8)
    folder = tmp_path_factory.mktemp("scorer") / "d"
    return array_catalog(folder, images, LABELS[:ROWS])


def pixels(n=20, side=32):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, side, side, generator=draw), torch.randint(0, 10, (n,), generator=draw)


NAMES = ("loss", "entropy", "grad_norm", "target_prob", squared)


def test_values_are_those_of_the_extraction(sixty, tmp_path):
    transform = Transform((20, 20), (127.5,), (127.5,))
    model = Small().eval()
    extract(sixty, model, tmp_path / "f", measures=NAMES, crops=Crops(2), transform=transform, model_name="s")
    table = FeatureTable.open(tmp_path / "f")
    scorer = CropScorer(model, measures=NAMES)
    loader = Loader(sixty, Sequential(0, 2 * ROWS), rows=table, transform=transform, batch_size=50)
    scored = [scorer(batch.images, batch.labels) for batch in loader]
    for name, values in table.columns(*table.names).items():
        mine = torch.cat([each[name] for each in scored]).numpy()
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, values, rtol=1e-4, atol=1e-6)
    assert set(scored[0]) == set(table.names)


def test_the_copy_is_frozen(sixty):
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


def test_it_chooses_crops_from_a_real_sampler(sixty):
    """Low losses are wanted, and low losses are what is trained on."""
    rng = np.random.default_rng(0)
    params = SwiftParams((1.0,), (0.4, 0.6), (1.0, 1.0, 0.0, 0.0))
    model, transform = Small().eval(), Transform((20, 20), (127.5,), (127.5,), crop="random")
    stream = IndexStream(ROWS, draws=10 * ROWS)

    def loader():
        return Loader(sixty, stream, transform=transform, batch_size=100)

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
    refused(message, lambda: CropScorer(Small(), **options))


def test_models_that_do_not_fit():
    images, labels = pixels()
    with pytest.raises(ValueError, match=r"must give logits \(n, classes\), but gives \(20, 1, 32, 32\)"):
        CropScorer(nn.Identity())(images, labels)
    two = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    refused("renormed entropy needs at least 3 classes", lambda: CropScorer(two)(images, labels % 2))

"""The same graphs on a GPU: equal to the CPU's within rounding, in the same order, resumable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from sklearn.datasets import load_digits

from drawstream.pipeline import Loader
from drawstream.pipeline.images import RICAP, Mixup, Transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream

PHOTO = np.asarray(Image.open(Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"))
DIGITS = load_digits()
N = 48


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    rng = np.random.default_rng(0)
    at = rng.integers(0, [PHOTO.shape[0] - 96, PHOTO.shape[1] - 128], (N, 2))
    photos = np.stack([PHOTO[y : y + 96, x : x + 128] for y, x in at])
    sources = {
        "raw": ((DIGITS.images[:N] * 15.9375).astype(np.uint8), "raw"),
        "png": (photos, "png"),
        "jpeg": (photos, "jpeg"),
        "colour": (photos, "raw"),
    }
    return {
        name: Catalog.open(pack(ArraySource(images, np.arange(N) % 3), folder / name, encoding=kind).train)
        for name, (images, kind) in sources.items()
    }


def transforms(name):
    if name == "raw":
        return [Transform.small((8, 8), 1), Transform.small((8, 8), 1, augment=True)]
    return [Transform.large(train=True, size=64), Transform.large(train=False, size=64)]


@pytest.mark.parametrize("name", ["raw", "png", "jpeg"])
@pytest.mark.parametrize("which", [0, 1])
def test_equals_the_cpu_within_rounding(catalogs, name, which):
    transform = transforms(name)[which]
    stream = IndexStream(N, seed=1)
    cpu, gpu = (
        list(Loader(catalogs[name], stream, transform=transform, batch_size=10, device=device))
        for device in ("cpu", "gpu")
    )
    for a, b in zip(cpu, gpu, strict=True):
        assert b.images.is_cuda and b.labels.is_cuda and b.ids.is_cuda and b.weights.is_cuda
        assert torch.equal(a.ids, b.ids.cpu()) and torch.equal(a.labels, b.labels.cpu())
        levels = (a.images - b.images.cpu()).abs() * torch.tensor(transform.std)[:, None, None]  # of 255
        # raw and png differ by rounding alone; JPEG decoders differ in the inverse transform and chroma upsampling
        assert float(levels.mean()) < (1.5 if name == "jpeg" else 0.6)
        if name != "jpeg":
            assert float(levels.max()) < 1.01


def in_levels(catalog, transform):
    """Images of an epoch on the CPU and on the GPU, in levels of 0..255."""
    loaders = [
        Loader(catalog, IndexStream(N, seed=1), transform=transform, batch_size=10, device=device)
        for device in ("cpu", "gpu")
    ]
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    cpu, gpu = (torch.cat([batch.images.cpu() for batch in loader]) * std + mean for loader in loaders)
    assert cpu.shape == gpu.shape == (N, len(transform.mean), *transform.size)
    return cpu, gpu


@pytest.mark.parametrize("name", ["raw", "colour"])
@pytest.mark.parametrize("magnitude", [4, 9, 30])
def test_randaugment_equals_the_cpu_within_rounding(catalogs, name, magnitude):
    """Stored pixels are the same on both; one operation rounds once, a second may enlarge what is left."""
    size, channels = ((8, 8), 1) if name == "raw" else ((96, 128), 3)
    transform = replace(Transform.small(size, channels, augment=True), randaugment=(1, magnitude))
    cpu, gpu = in_levels(catalogs[name], transform)
    assert float((cpu - gpu).abs().max()) < 1.01
    cpu, gpu = in_levels(catalogs[name], replace(transform, randaugment=(2, magnitude)))
    assert float((cpu - gpu).abs().mean()) < 0.6
    plain, _ = in_levels(catalogs[name], replace(transform, randaugment=None))
    assert float((cpu - plain).abs().mean()) > 5


@pytest.mark.parametrize("name", ["raw", "colour"])
def test_jitter_and_pad_crop_equal_the_cpu_within_rounding(catalogs, name):
    size, channels, ranges = ((8, 8), 1, (0.4, 0.4, 0, 0)) if name == "raw" else ((96, 128), 3, (0.4, 0.4, 0.4, 0.1))
    transform = Transform.small(size, channels, augment=True)
    cpu, gpu = in_levels(catalogs[name], transform)
    assert float((cpu - gpu).abs().max()) < 1e-3  # the reader moves these pixels, on the CPU for both
    cpu, gpu = in_levels(catalogs[name], replace(transform, jitter=ranges))
    assert float((cpu - gpu).abs().max()) < 1.01


def test_encoded_pad_crops_equal_the_cpu(catalogs):
    transform = Transform((96, 128), (0.0,) * 3, (1.0,) * 3, crop="pad", pad=9, flip=True)
    cpu, gpu = in_levels(catalogs["png"], transform)
    assert float((cpu - gpu).abs().max()) < 1.01 and bool((gpu[:, :, 0] == 0).all(1).any())


@pytest.mark.parametrize("mixer", [Mixup(seed=4), RICAP(seed=4)], ids=lambda m: type(m).__name__)
def test_batches_are_mixed_as_on_the_cpu(mixer):
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 5
    cpu = mixer(images, labels, epoch=1, step=2)
    gpu = mixer(images.cuda(), labels.cuda(), epoch=1, step=2)
    assert gpu.images.is_cuda and gpu.labels.is_cuda and gpu.shares.is_cuda
    assert torch.equal(cpu.labels, gpu.labels.cpu()) and torch.equal(cpu.shares, gpu.shares.cpu())
    assert torch.allclose(cpu.images, gpu.images.cpu(), atol=1e-6)
    logits = torch.randn(16, 5)
    assert torch.allclose(cpu.loss(logits), gpu.loss(logits.cuda()).cpu(), atol=1e-5)


@pytest.mark.parametrize("name", ["raw", "jpeg"])
def test_a_state_moves_between_devices(catalogs, name):
    transform = transforms(name)[0]
    stream = IndexStream(N, seed=1)
    loader = Loader(catalogs[name], stream, transform=transform, batch_size=10, device="gpu")
    whole = list(loader)
    for i, batch in enumerate(loader):
        assert torch.equal(batch.images, whole[i].images)
        if i == 1:
            break
    other = Loader(catalogs[name], stream, transform=transform, batch_size=10, device="cpu")
    other.load_state_dict(loader.state_dict())
    assert torch.cat([b.ids for b in other]).tolist() == torch.cat([b.ids for b in whole[2:]]).tolist()


def test_batches_stay_as_they_are(catalogs):
    """DALI's memory goes back to DALI while work on torch's stream is still running."""
    loader = Loader(
        catalogs["jpeg"], IndexStream(N), transform=Transform.large(train=True, size=64), batch_size=4, device="gpu"
    )
    kept = list(loader)
    sums = [batch.images.sum().item() for batch in kept]
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        list(loader)
    assert [batch.images.sum().item() for batch in kept] == sums

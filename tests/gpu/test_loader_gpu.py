"""The same graphs on a GPU: equal to the CPU's within rounding, in the same order, resumable."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from sklearn.datasets import load_digits

from drawstream.pipeline import ArraySource, Catalog, Loader, Transform
from drawstream.pipeline.pack import pack
from drawstream.samplers import IndexStream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
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

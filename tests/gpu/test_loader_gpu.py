"""The same graphs on a GPU: equal to the CPU's within rounding, in the same order, resumable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from drawstream import (
    RICAP,
    ArraySource,
    Catalog,
    CropFilter,
    CropScorer,
    IndexStream,
    Loader,
    Mixup,
    SwiftFit,
    SwiftParams,
    Transform,
    pack,
)  # fmt: skip
from shared.samples import PHOTOS, PIXELS, array_catalog, digits_catalog

PHOTO = np.asarray(Image.open(PHOTOS / "flower.jpg"))
N = 48


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    rng = np.random.default_rng(0)
    at = rng.integers(0, [PHOTO.shape[0] - 96, PHOTO.shape[1] - 128], (N, 2))
    photos = np.stack([PHOTO[y : y + 96, x : x + 128] for y, x in at])
    sources = {"raw": (PIXELS[:N], "raw"), "png": (photos, "png"), "jpeg": (photos, "jpeg"), "colour": (photos, "raw")}
    return {
        name: array_catalog(folder / name, images, np.arange(N) % 3, encoding=kind)
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


@pytest.mark.parametrize("which", [0, 1])
def test_masks_and_boxes_are_those_of_the_cpu(tmp_path, which):
    photos, mask = np.stack([PHOTO[:96, :128]] * N), (PHOTO[:96, :128, 0] > 60).astype(np.uint8)
    fields = {"seg.png": [mask] * (N - 1) + [None], "boxes.npy": [[[3, 4, 90, 70]]] * N}
    source = ArraySource(photos, np.zeros(N, np.int64), fields=fields)
    catalog = Catalog.open(pack(source, tmp_path / "out", encoding="png").train)
    asked = {"transform": transforms("png")[which], "batch_size": 10, "mask": "seg.png", "boxes": "boxes.npy"}
    cpu, gpu = (list(Loader(catalog, IndexStream(N, seed=1), device=device, **asked)) for device in ("cpu", "gpu"))
    for a, b in zip(cpu, gpu, strict=True):
        assert b.fields["seg.png"].is_cuda and torch.equal(a.fields["seg.png"], b.fields["seg.png"].cpu())
        for one, other in zip(a.fields["boxes.npy"], b.fields["boxes.npy"], strict=True):
            assert torch.equal(one.xyxy, other.xyxy) and torch.equal(one.kept, other.kept)
        some = torch.tensor([2, 0], device="cuda")
        assert torch.equal(b.rows(some).fields["seg.png"], b.fields["seg.png"][some])


def test_pillow_decodes_for_a_gpu(catalogs):
    stream = IndexStream(N, seed=1)
    how = {"transform": transforms("png")[0], "batch_size": 10, "backend": "pillow"}
    cpu, gpu = (list(Loader(catalogs["png"], stream, device=device, **how)) for device in ("cpu", "gpu"))
    for a, b in zip(cpu, gpu, strict=True):
        assert b.images.is_cuda and b.labels.is_cuda and torch.equal(a.images, b.images.cpu())


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


# The crop filter on a GPU: the crops of the CPU, scored on a stream of their own while training uses the last ones


IMAGES = 640


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("filter") / "d", IMAGES)


class ByLabel:
    """τ follows the labels, so that rounding on the two devices cannot change a choice."""

    fingerprint = "labels"

    def __call__(self, images, labels):
        return {"value": labels / 10 + 0 * images.sum((1, 2, 3))}


def filter_of(catalog, device, scorer=None, features=("value",), **options):
    params = SwiftParams((1.0,) * len(features), (0.3, 0.6), (0.1, 1.0, 0.1, 1.0))
    ranks = {name: np.linspace(0, 3, 1001) for name in features}
    sampler = SwiftFit(ranks, features=features, mass=None, transform="cdf").sampler(params)
    transform = Transform.small((8, 8), 1, augment=True)
    loader = Loader(catalog, IndexStream(IMAGES, seed=3), transform=transform, batch_size=64, device=device)
    return CropFilter(loader, sampler, scorer or ByLabel(), **options)


def test_the_crops_are_those_of_the_cpu(catalog):
    cpu, gpu = filter_of(catalog, "cpu"), filter_of(catalog, "gpu")
    for epoch in (0, 1):
        cpu.set_epoch(epoch)
        gpu.set_epoch(epoch)
        for step, (a, b) in enumerate(zip(cpu, gpu, strict=True)):
            assert b.images.is_cuda and b.ids.is_cuda and b.labels.is_cuda and b.weights.is_cuda
            assert torch.equal(a.ids, b.ids.cpu()) and torch.equal(a.labels, b.labels.cpu())
            assert torch.allclose(a.images, b.images.cpu(), atol=1e-5)
            assert gpu.state_dict()["position"] == cpu.state_dict()["position"] == 64 * (step + 1)
    assert gpu.metrics["realised_ratio"] == cpu.metrics["realised_ratio"]
    assert gpu.metrics["score_seconds"] > 0


def test_a_state_resumes_though_the_loader_is_ahead(catalog):
    crops = filter_of(catalog, "gpu")
    whole = [batch.ids for batch in crops]
    crops.set_epoch(0)
    taken = [batch.ids for _, batch in zip(range(4), crops, strict=False)]
    other = filter_of(catalog, "gpu")
    other.load_state_dict(crops.state_dict())
    assert torch.equal(torch.cat([*taken, *(batch.ids for batch in other)]), torch.cat(whole))


def test_batches_stay_as_they_are_while_later_ones_are_made(catalog):
    """The allocator must not give a crop's memory to the side stream while training reads it."""
    cpu = [batch.images for batch in filter_of(catalog, "cpu")]
    crops = filter_of(catalog, "gpu")
    busy = torch.randn(2048, 2048, device="cuda")
    for _ in range(3):
        crops.set_epoch(0)
        sums = []
        for batch in crops:
            for _ in range(20):  # the training stream lags behind
                busy = (busy @ busy).clamp(-1, 1)
            sums.append(batch.images.clone())
        for a, b in zip(sums, cpu, strict=True):
            assert torch.allclose(a.cpu(), b, atol=1e-5)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_model_scores_beside_the_training(catalog, amp):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).cuda()
    scorer = CropScorer(model, measures=("loss", "grad_norm"), amp=amp)
    crops = filter_of(catalog, "gpu", scorer, ("loss", "grad_norm"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        crops.set_epoch(epoch)
        for batch in crops:
            assert len(batch.ids) == 32
            loss = F.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert bool(torch.isfinite(loss)) and crops.metrics["rows_scored"] == 3 * IMAGES


def test_waiting_for_the_scores_leaves_training_unwaited(catalog):
    """When a batch is given, work that training has queued before may still be under way."""
    crops = filter_of(catalog, "gpu")
    list(crops)  # memory and kernels are there from here on
    batches = iter(crops)
    next(batches)
    busy = torch.randn(8192, 8192, device="cuda")
    (busy @ busy).clamp(-1, 1)
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    for _ in range(100):  # a second or more
        busy = (busy @ busy).clamp(-1, 1)
    done.record()
    next(batches)
    assert not done.query()

"""The crop filter on a GPU: the crops of the CPU, scored on a stream of their own while training uses the last ones."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from drawstream.features import CropScorer
from drawstream.pipeline import CropFilter, Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import SwiftFit, SwiftParams

DIGITS = load_digits()
N = 640


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource((DIGITS.images[:N] * 15.9375).astype(np.uint8), DIGITS.target[:N])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("filter") / "d").train)


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
    loader = Loader(catalog, IndexStream(N, seed=3), transform=transform, batch_size=64, device=device)
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
    assert bool(torch.isfinite(loss)) and crops.metrics["rows_scored"] == 3 * N


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

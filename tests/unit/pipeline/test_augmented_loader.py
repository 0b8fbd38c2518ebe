"""Augmented batches depend on (seed, epoch, position) alone, and states say how they were augmented."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from drawstream.pipeline import Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream

DIGITS = load_digits()
GRAY = (DIGITS.images * 15.9375).astype(np.uint8)
ROWS = 60
PIXELS = {1: GRAY[:ROWS], 3: np.stack([GRAY[:ROWS], GRAY[ROWS : 2 * ROWS], GRAY[2 * ROWS : 3 * ROWS]], 3)}
JITTER = {1: (0.4, 0.4, 0.0, 0.0), 3: (0.4, 0.4, 0.4, 0.1)}
STREAM = IndexStream(ROWS, seed=11)


def packed(folder, kind, channels):
    return Catalog.open(pack(ArraySource(PIXELS[channels], DIGITS.target[:ROWS]), folder, encoding=kind).train)


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("augmented") / "gray", "raw", 1)


def make(catalog, **options):
    transform = replace(
        Transform.small((8, 8), catalog.channels, augment=True), randaugment=(2, 9), jitter=JITTER[catalog.channels]
    )
    return Loader(catalog, STREAM, **{"transform": transform, "batch_size": 13, **options})


def images(loaders, epoch=1):
    """Images of an epoch without fill: steps one after the other, in each the ranks'."""
    for loader in loaders:
        loader.set_epoch(epoch)
    steps = [torch.cat([b.images[b.weights > 0] for b in step]) for step in zip(*loaders, strict=True)]
    return torch.cat(steps)


@pytest.mark.parametrize(("kind", "channels"), [("raw", 3), ("png", 1)])
def test_images_do_not_depend_on_batches_ranks_buffers_and_resumes(tmp_path, kind, channels):
    catalog = packed(tmp_path / "images", kind, channels)
    loader = make(catalog)
    whole = images([loader])
    assert not torch.equal(whole, images([loader], epoch=2))
    loader.set_epoch(1)
    batches = iter(loader)
    head = [next(batches).images for _ in range(2)]
    other = make(catalog, batch_size=9, reading=Reading(prefetch=3, ahead=0, threads=1))
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert torch.equal(whole, torch.cat([*head, *(batch.images for batch in other)]))
    two = Reading(read_threads=2)
    assert torch.equal(whole, images([make(catalog, rank=r, world_size=2, reading=two) for r in range(2)]))
    loader.replace_stream(IndexStream(ROWS, seed=12))
    assert not torch.equal(whole, images([loader]))


def test_states_of_another_augmentation_are_refused(gray):
    augmented, plain = make(gray), make(gray, transform=Transform.small((8, 8), 1, augment=True))
    for loader, other in ((augmented, plain), (plain, augmented)):
        with pytest.raises(ValueError, match=r"this state is of another transform: saved .*'randaugment': "):
            loader.load_state_dict(other.state_dict())


def test_states_from_before_there_was_an_augmentation_are_taken(gray):
    """The transform as a state of 0.1.0 has it, word for word."""
    loader = make(gray, transform=Transform.small((8, 8), 1, augment=True))
    saved = loader.state_dict() | {
        "position": 13,
        "transform": {
            "size": [8, 8],
            "mean": [127.5],
            "std": [127.5],
            "crop": "pad",
            "pad": 4,
            "flip": True,
            "scale": [0.08, 1.0],
            "ratio": [0.75, 4 / 3],
            "resize": 256,
        },
    }
    loader.load_state_dict(json.loads(json.dumps(saved)))
    assert sum(len(batch.ids) for batch in loader) == ROWS - 13

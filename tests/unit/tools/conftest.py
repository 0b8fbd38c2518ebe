"""Digits with label noise, packed once for the tests of the tools."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream import ArraySource, pack


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Folders: train (500 rows in 5 shards, 40 % noise), held_out (100 rows), test (200 rows)."""
    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    root = tmp_path_factory.mktemp("digits")
    packed = pack(ArraySource(images[:600], labels[:600]), root / "data", holdout=100, label_noise=0.4, shard_rows=100)
    test = pack(ArraySource(images[600:800], labels[600:800]), root / "test")
    return SimpleNamespace(train=packed.train, held_out=packed.holdout, test=test.train)

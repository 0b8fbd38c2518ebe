"""Shared helpers of the pipeline tests: tars of given members, small catalogs."""

import io
import tarfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource


@pytest.fixture(scope="session")
def shard():
    """Write a tar of (name, bytes or text) members; gives its path."""

    def write(path, *files, form=tarfile.PAX_FORMAT):
        with tarfile.open(path, "w", format=form) as tar:
            for name, data in files:
                data = data.encode() if isinstance(data, str) else data
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope="session")
def digits_source():
    """300 raw images of 8 × 8 pixels."""
    digits = load_digits()
    return ArraySource((digits.images[:300] * 15.9375).astype(np.uint8), digits.target[:300])


@pytest.fixture(scope="session")
def digits(digits_source, tmp_path_factory):
    """These images in three shards; not to be changed."""
    return Catalog.open(pack(digits_source, tmp_path_factory.mktemp("digits") / "raw", shard_rows=100).train)


@pytest.fixture(scope="session")
def pngs(digits_source, tmp_path_factory):
    """The same as PNG; not to be changed."""
    folder = tmp_path_factory.mktemp("digits") / "png"
    return Catalog.open(pack(digits_source, folder, shard_rows=100, encoding="png").train)

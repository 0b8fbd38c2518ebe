"""Small catalogs of the pipeline tests; not to be changed."""

import pytest

from shared.samples import digits_catalog


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """300 raw images of 8 × 8 pixels in three shards."""
    return digits_catalog(tmp_path_factory.mktemp("digits") / "raw", shard_rows=100)


@pytest.fixture(scope="session")
def pngs(tmp_path_factory):
    """The same as PNG."""
    return digits_catalog(tmp_path_factory.mktemp("digits") / "png", shard_rows=100, encoding="png")

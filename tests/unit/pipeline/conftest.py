"""What the tests of shards have in common: tars of given members."""

import io
import tarfile

import pytest


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

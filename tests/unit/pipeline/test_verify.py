"""Verification finds every byte that is not as it was packed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.pack import pack
from drawstream.pipeline.sources import ArraySource, open_source
from drawstream.pipeline.verify import verify

PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


@pytest.fixture
def catalog(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    return Catalog.open(pack(ArraySource(images, np.arange(60) % 3), tmp_path / "out", shard_rows=20).train)


def flip(catalog, shard, at):
    path = catalog.shard_path(shard)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_catalog_has_no_findings(catalog):
    seen = []
    assert verify(catalog, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_flipped_bit_of_an_image_is_found(catalog):
    flip(catalog, 1, int(catalog.offset[33]) + 50)
    whole, image = verify(catalog)
    assert (whole.kind, whole.shard, whole.row) == ("shard", 1, None)
    assert (image.kind, image.shard, image.row) == ("checksum", 1, 33)
    assert f"sample 33 ({catalog.key(33)!r}): checksum must be {catalog.checksum[33]:08x}, but got" in image.message


def test_a_flipped_bit_of_a_header_is_found(catalog):
    flip(catalog, 2, 3)
    assert [(finding.kind, finding.shard, finding.row) for finding in verify(catalog)] == [("shard", 2, None)]


def test_a_shard_cut_or_lost_after_opening_is_found(catalog):
    data = catalog.shard_path(0).read_bytes()
    catalog.shard_path(0).write_bytes(data[: int(catalog.offset[15])])
    catalog.shard_path(2).unlink()
    findings = verify(catalog)
    assert [(finding.kind, finding.row) for finding in findings if finding.shard == 0] == [
        ("shard", None),
        *[("checksum", row) for row in range(15, 20)],
    ]
    (lost,) = [finding for finding in findings if finding.shard == 2]
    assert lost.kind == "shard" and "not readable (No such file" in lost.message


def test_images_that_were_damaged_before_packing_are_found(tmp_path):
    (tmp_path / "photos" / "flower").mkdir(parents=True)
    shutil.copy(PHOTO, tmp_path / "photos" / "flower" / "whole.jpg")
    data = PHOTO.read_bytes()
    (tmp_path / "photos" / "flower" / "cut.jpg").write_bytes(data[: len(data) // 2])
    catalog = Catalog.open(pack(open_source(tmp_path / "photos"), tmp_path / "out").train)
    (finding,) = verify(catalog)
    assert finding.kind == "decode" and finding.row == catalog.keys.index("flower/cut")
    assert "image does not decode" in finding.message and "replace the image and pack anew" in finding.message
    assert verify(catalog, pixels=False) == []

"""Images are held against DALI's own parser before they go into a batch, where they could end the process."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drawstream.pipeline import Loader
from drawstream.pipeline.decoding.image import ImageInfo
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.reading import read_ahead as feed
from drawstream.pipeline.reading.refused import Headers
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.catalog import FILE, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.samplers.orders import Sequential

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def stored(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(value, order="<"):
    """An EXIF block with this orientation."""
    start = b"Exif\0\0" + (b"II" if order == "<" else b"MM")
    return start + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


def of_size(jpeg, height, width):
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def catalog_of(folder, images, kind="jpeg", size=(40, 60)):
    """A sealed catalog that says of every image what is true of a few."""
    shard, draft, at = folder / "a.tar", CatalogWriter(), 0
    for i, image in enumerate(images):
        draft.add(str(i), 0, at, image, ImageInfo(kind, *size, 3))
        at += len(image)
    shard.write_bytes(b"".join(images))
    entry = Shard("a.tar", at, hash_file(shard))
    draft.save(folder / FILE, np.zeros(len(images), np.int64), None, shards=[entry], classes=["0"], provenance={})
    return Catalog.open(folder)


JPEG, PNG, WEBP = (stored(kind) for kind in ("jpeg", "png", "webp"))
TURNED = stored("jpeg", exif=exif(6))


@pytest.mark.parametrize("checksum", ["always", "never"])
@pytest.mark.parametrize("crop", ["none", "random"])
def test_one_unreadable_header_does_not_end_the_process(tmp_path, crop, checksum, capfd):
    """DALI 2.4 ends with a segmentation fault on each of these, in batches of 32 and more."""
    lies = [JPEG[:40], bytes(100), of_size(JPEG, 65500, 65500), PNG, of_size(JPEG, 0, 0), of_size(JPEG, 60, 40)]
    catalog = catalog_of(tmp_path, [*lies, *[JPEG] * 58])
    transform = Transform((32, 32), (0.0,) * 3, (1.0,) * 3, crop=crop)
    options = {"reading": Reading(on_bad="substitute", checksum=checksum), "batch_size": 64}
    loader = Loader(catalog, Sequential(0, 64), transform=transform, **options)
    for _ in range(2):
        assert [len(batch.ids) for batch in loader] == [64]
    assert [bad.sample_id for bad in loader.bad_samples] == list(range(len(lies)))
    reasons = [bad.reason for bad in loader.bad_samples]
    assert all("its header cannot be parsed as jpeg" in reason for reason in reasons[:2])
    assert "its header says 65500 × 65500 pixels, its catalog 40 × 60" in reasons[2]
    assert "it is a png image, its catalog says jpeg" in reasons[3]
    assert capfd.readouterr().err == ""  # of DALI
    loader.close()


def test_images_turned_on_their_side_have_the_size_that_is_decoded(tmp_path):
    images = [TURNED, JPEG, stored("webp", exif=exif(6)), stored("png", exif=exif(5))]
    catalog = replace(catalog_of(tmp_path, images, size=(60, 40)), turn=np.array([6, 1, 6, 5], np.int8))
    headers = Headers(catalog, once=True)
    every = np.arange(4)
    data = np.fromfile(tmp_path / "a.tar", np.uint8)
    bounds = np.append(catalog.offset, len(data))
    assert set(headers.refused(every, bounds, data)) == {1, 2, 3}  # the last two are no jpegs
    assert headers.refused(every[:1], bounds[:2], np.zeros_like(data)) == {}  # its checksum says that it is the same


def test_a_batch_that_cannot_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "MEMORY", 40 * 60 * 3 * 10)
    catalog = catalog_of(tmp_path, [JPEG] * 12)
    assert len(list(Loader(catalog, Sequential(0, 12), batch_size=10))) == 2
    with pytest.raises(ValueError, match=r"11 images of a batch have 0 GiB of pixels.*lower the batch size"):
        list(Loader(catalog, Sequential(0, 12), batch_size=11))

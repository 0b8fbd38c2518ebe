"""Single images: headers, conversions, DALI's own parser, and libraries that print nothing."""

import ctypes
import io
import struct
import threading
import warnings
import zlib
from dataclasses import replace

import numpy as np
import nvidia.dali as dali
import pytest
from PIL import Image, ImageOps

from drawstream import Catalog, Loader, Reading, Sequential, Transform, pack
from drawstream.pipeline.decoding import ImageInfo, dali_image, decode, encode, no_warnings, probe
from drawstream.pipeline.reading import Headers
from drawstream.pipeline.reading import read_ahead as feed
from drawstream.pipeline.shards.catalog import FILE, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from shared.refusals import refused
from shared.samples import CASES, FLOWER, encoded, turned_exif

COLOUR = np.asarray(Image.open(io.BytesIO(FLOWER)))[:40, :60].copy()
GRAY = COLOUR[..., 1].copy()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "ppm"])
def test_probe_reads_size_and_depth(kind):
    encoding, start = ("raw", 13) if kind == "ppm" else (kind, 0)
    assert probe(encoded(COLOUR, kind)) == ImageInfo(encoding, 40, 60, 3, start)
    if kind != "webp":  # WebP knows no grayscale
        assert probe(encoded(GRAY, kind)) == ImageInfo(encoding, 40, 60, 1, start)


def test_damaged_exif_leaves_the_image_upright():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
            assert probe(encoded(COLOUR, "jpeg", exif=exif)) == ImageInfo("jpeg", 40, 60, 3)


def test_netpbm_header_with_comments():
    data = b"P5 # gray\n# made by hand\n60\t40\n255\n" + GRAY.tobytes()
    assert (decode(data) == GRAY).all()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a readable JPEG, PNG, WebP or Netpbm image"),
        (b"plain text, no image", "not a readable JPEG"),
        (FLOWER[:3], "not a readable JPEG"),
        (encoded(GRAY, "bmp"), "not a readable JPEG"),
        (encoded(GRAY, "png")[:20], "not a readable JPEG"),
        (b"P5\n60 40\n255\n" + GRAY.tobytes()[:-1], "40 × 60 × 1 bytes after its header, but got 2399"),
        (b"P5\n60 40\n65535\n" + GRAY.tobytes(), "but got maximum 65535"),
        (b"P6\nsixty 40\n255\n", "damaged Netpbm header"),
    ],
    ids=["empty", "text", "cut jpeg", "bmp", "cut png", "short raw", "16 bits", "raw header"],
)
def test_unreadable(data, text):
    with pytest.raises(ValueError, match=text) as caught:
        probe(data)
    assert "\n" not in str(caught.value)


def png(width, height, depth, kind, rows, *chunks):
    """A PNG made by hand: Pillow writes no such ones."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_16_bit_gray_is_refused():
    """Pillow clips it to 255 where DALI divides by 257."""
    deep = encoded(GRAY.astype(np.uint16) * 257, "png")
    for act in (probe, decode):
        refused(r"gray with 16 bits \(mode I;16\): .*: store it with 8 bits", act, deep)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_decompression_bombs_are_refused_by_their_headers(kind):
    if kind == "png":
        data = png(40_000, 25_000, 8, 2, [])
    elif kind == "jpeg":
        data = bytearray(encoded(COLOUR, "jpeg"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 40_000, 25_000)
    else:  # VP8X: canvas of 16 384 × 16 384, three bytes each, less one
        chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
        data = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    for act in (probe, decode):
        with pytest.raises(
            ValueError, match=r"Image size \(\d{9,10} pixels\) exceeds limit.*: store it smaller"
        ) as caught:
            act(bytes(data))
        assert "\n" not in str(caught.value)


def dali_decode(data, kind):
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    array = np.frombuffer(data, np.uint8)
    with pipeline:
        source = dali.fn.external_source(source=lambda: [array], dtype=dali.types.UINT8, ndim=1)
        pipeline.set_outputs(dali.fn.decoders.image(source, device="cpu", output_type=kind))
    pipeline.build()
    return np.asarray(pipeline.run()[0].as_array()[0])


def test_webp_with_exif_behind_an_odd_chunk():
    """DALI's parser loses its way there, where a flag makes it look for EXIF."""
    refused = 0
    for rows in range(1, 17):
        data = encoded(COLOUR[:rows], "webp", exif=turned_exif(6), lossless=True, icc_profile=b"x" * (200 + rows % 3))
        assert (decode(data) == np.rot90(COLOUR[:rows], -1)).all()
        try:
            dali_decode(data, dali.types.RGB)
        except RuntimeError:
            refused += 1
    assert refused


@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(value):
    data = encoded(COLOUR, "png", exif=turned_exif(value))
    assert (decode(data) == np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))).all()
    assert (decode(data, rule="stored") == COLOUR).all() and probe(data, rule="stored").orientation == 1
    refused("orientation must be exif or stored, but got 'xmp'", probe, data, rule="xmp")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is an HTML page"),
        (b"\xef\xbb\xbf\n<html><body>404", "it is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "it is an SVG drawing"),
        (encoded(GRAY, "gif"), "it is a GIF image"),
        (encoded(GRAY, "tiff"), "it is a TIFF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it is an AVIF image"),
        (b"%PDF-1.7", "it is a PDF document"),
        (b"PK\3\4" + bytes(30), "it is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
        (bytes(600), "it is filled with zeros"),
        ("größe\n".encode(), "it is a text file"),
        (b"\x01\x02\x03", "it is of no kind that is known here"),
        (FLOWER[:3], "it is a JPEG with a damaged header"),
    ],
)
def test_what_is_no_image_is_named(data, text):
    with pytest.raises(ValueError, match=rf"^not a readable JPEG, PNG, WebP or Netpbm image \({text}") as caught:
        probe(data)
    assert "0x" not in str(caught.value)


def test_truncated_scan_does_not_decode():
    assert probe(FLOWER[: len(FLOWER) // 2]).width == 640  # the header is whole
    refused("image does not decode", decode, FLOWER[: len(FLOWER) // 2])


@pytest.mark.parametrize("image", [COLOUR, GRAY], ids=["colour", "gray"])
@pytest.mark.parametrize("encoding", ["raw", "png", "keep"])
def test_lossless_encodings_give_the_pixels_back(image, encoding):
    data, info = encode(image, encoding, quality=90)
    assert (decode(data) == image).all()
    assert info.encoding == ("raw" if encoding == "keep" else encoding)
    assert info.channels == (3 if image.ndim == 3 else 1)


def test_jpeg_is_close_and_smaller_with_less_quality():
    sizes = []
    for quality in (95, 50):
        data, _ = encode(COLOUR, "jpeg", quality=quality)
        assert np.abs(decode(data).astype(int) - COLOUR).mean() < 6  # of 255
        sizes.append(len(data))
    assert sizes[1] < sizes[0]


def test_files_keep_their_bytes_unless_the_encoding_changes():
    for encoding in ("keep", "jpeg"):
        assert encode(FLOWER, encoding, quality=10)[0] is FLOWER
    data, info = encode(FLOWER, "png", quality=10)
    assert info == ImageInfo("png", 427, 640, 3) and (decode(data) == decode(FLOWER)).all()


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


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


JPEG, PNG, WEBP = (encoded(PIXELS, kind) for kind in ("jpeg", "png", "webp"))
TURNED = encoded(PIXELS, "jpeg", exif=turned_exif(6))


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
    images = [TURNED, JPEG, encoded(PIXELS, "webp", exif=turned_exif(6)), encoded(PIXELS, "png", exif=turned_exif(5))]
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


def test_only_the_decoders_are_silent(capfd):
    plain = (CASES / "images/plain.jpg").read_bytes()
    for data in (
        plain[:-20],
        (CASES / "images/no_iend.png").read_bytes(),
        (CASES / "images/plain.png").read_bytes()[:-4],
    ):
        refused("DALI cannot decode it", dali_image.pixels, data, 3)
    warned = plain[:-60] + b"\xff\xe0" + plain[-58:]  # libjpeg has a word to say of it
    dali_image.pixels(warned, 3)
    thread = threading.Thread(target=dali_image.pixels, args=(warned, 3))
    thread.start()
    thread.join()
    ctypes.CDLL(None).perror(b"C's own line")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("C's own line")


def test_warnings_are_as_before_once_all_have_left():
    before = list(warnings.filters)
    first, second = threading.Event(), threading.Event()

    def inside():
        with no_warnings():
            first.set()
            second.wait(10)
            warnings.warn("nobody hears this", stacklevel=1)

    thread = threading.Thread(target=inside)
    with no_warnings():
        thread.start()
        assert first.wait(10)
    warnings.warn("nor this: one is inside still", stacklevel=1)
    second.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


class Reused:
    """A source of pixels and files that gives its one buffer again and again."""

    name, classes, labels = "reused", ("0",), np.zeros(40, np.int64)

    def __init__(self):
        self.buffer = np.zeros((4, 4), np.uint8)

    def __len__(self):
        return 40

    def key(self, row):
        return str(row)

    def read(self, row):
        self.buffer[:] = row
        return self.buffer


@pytest.mark.parametrize("encoding", ["keep", "png"])
def test_pack_reads_ahead_of_no_buffer(tmp_path, encoding):
    from drawstream.pipeline.decoding.image import decode
    from drawstream.pipeline.shards import Catalog

    catalog = Catalog.open(pack(Reused(), tmp_path / "out", encoding=encoding).train)
    shard = catalog.shard_path(0).read_bytes()
    for row, (key, at, size) in enumerate(zip(catalog.keys, catalog.offset, catalog.size, strict=True)):
        member = shard[at : at + size]
        pixels = decode(member) if encoding == "png" else np.frombuffer(member, np.uint8)
        assert (pixels == int(key)).all(), row


def test_orientation_is_checked_first(tmp_path):
    from drawstream.pipeline.shards.index import index

    with pytest.raises(ValueError, match=r"^orientation must be exif or stored, but got 'xmp'$"):
        pack(Reused(), tmp_path / "out", orientation="xmp")
    refused(r"^orientation must be exif or stored, but got 'xmp'$", index, tmp_path, orientation="xmp")

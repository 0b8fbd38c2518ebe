"""Headers and conversions of single images."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import nvidia.dali as dali
import pytest
import sklearn.datasets
from PIL import Image, ImageOps

from drawstream.pipeline.decoding.image import ImageInfo, decode, encode, probe

PHOTO = (Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg").read_bytes()
COLOUR = np.asarray(Image.open(io.BytesIO(PHOTO)))[:40, :60].copy()
GRAY = COLOUR[..., 1].copy()


def stored(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "ppm"])
def test_probe_reads_size_and_depth(kind):
    encoding, start = ("raw", 13) if kind == "ppm" else (kind, 0)
    assert probe(stored(COLOUR, kind)) == ImageInfo(encoding, 40, 60, 3, start)
    if kind != "webp":  # WebP knows no grayscale
        assert probe(stored(GRAY, kind)) == ImageInfo(encoding, 40, 60, 1, start)


def test_damaged_exif_leaves_the_image_upright():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
            assert probe(stored(COLOUR, "jpeg", exif=exif)) == ImageInfo("jpeg", 40, 60, 3)


def test_netpbm_header_with_comments():
    data = b"P5 # gray\n# made by hand\n60\t40\n255\n" + GRAY.tobytes()
    assert (decode(data) == GRAY).all()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a readable JPEG, PNG, WebP or Netpbm image"),
        (b"plain text, no image", "not a readable JPEG"),
        (PHOTO[:3], "not a readable JPEG"),
        (stored(GRAY, "bmp"), "not a readable JPEG"),
        (stored(GRAY, "png")[:20], "not a readable JPEG"),
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
    deep = stored(GRAY.astype(np.uint16) * 257, "png")
    for act in (probe, decode):
        with pytest.raises(ValueError, match=r"gray with 16 bits \(mode I;16\): .*: store it with 8 bits"):
            act(deep)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_decompression_bombs_are_refused_by_their_headers(kind):
    if kind == "png":
        data = png(40_000, 25_000, 8, 2, [])
    elif kind == "jpeg":
        data = bytearray(stored(COLOUR, "jpeg"))
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
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for rows in range(1, 17):
        data = stored(COLOUR[:rows], "webp", exif=exif, lossless=True, icc_profile=b"x" * (200 + rows % 3))
        assert (decode(data) == np.rot90(COLOUR[:rows], -1)).all()
        try:
            dali_decode(data, dali.types.RGB)
        except RuntimeError:
            refused += 1
    assert refused


@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = stored(COLOUR, "png", exif=exif)
    assert (decode(data) == np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))).all()
    assert (decode(data, rule="stored") == COLOUR).all() and probe(data, rule="stored").orientation == 1
    with pytest.raises(ValueError, match="orientation must be exif or stored, but got 'xmp'"):
        probe(data, rule="xmp")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is an HTML page"),
        (b"\xef\xbb\xbf\n<html><body>404", "it is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "it is an SVG drawing"),
        (stored(GRAY, "gif"), "it is a GIF image"),
        (stored(GRAY, "tiff"), "it is a TIFF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it is an AVIF image"),
        (b"%PDF-1.7", "it is a PDF document"),
        (b"PK\3\4" + bytes(30), "it is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
        (bytes(600), "it is filled with zeros"),
        ("größe\n".encode(), "it is a text file"),
        (b"\x01\x02\x03", "it is of no kind that is known here"),
        (PHOTO[:3], "it is a JPEG with a damaged header"),
    ],
)
def test_what_is_no_image_is_named(data, text):
    with pytest.raises(ValueError, match=rf"^not a readable JPEG, PNG, WebP or Netpbm image \({text}") as caught:
        probe(data)
    assert "0x" not in str(caught.value)


def test_truncated_scan_does_not_decode():
    assert probe(PHOTO[: len(PHOTO) // 2]).width == 640  # the header is whole
    with pytest.raises(ValueError, match="image does not decode"):
        decode(PHOTO[: len(PHOTO) // 2])


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
        assert encode(PHOTO, encoding, quality=10)[0] is PHOTO
    data, info = encode(PHOTO, "png", quality=10)
    assert info == ImageInfo("png", 427, 640, 3) and (decode(data) == decode(PHOTO)).all()

"""Headers and conversions of single images."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from drawstream.pipeline.image import ImageInfo, decode, encode, probe

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


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(COLOUR, kind, exif=exif)
    info = probe(data)
    assert (info.height, info.width) == ((60, 40) if orientation > 4 else (40, 60))
    assert decode(data).shape == (info.height, info.width, 3)


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
        (b"P5\n60 40\n255\n" + GRAY.tobytes()[:-1], "40 × 60 × 1 pixels after its header, but got .* 2399 bytes"),
        (b"P5\n60 40\n65535\n" + GRAY.tobytes(), "but got maximum 65535"),
        (b"P6\nsixty 40\n255\n", "damaged Netpbm header"),
    ],
    ids=["empty", "text", "cut jpeg", "bmp", "cut png", "short raw", "16 bits", "raw header"],
)
def test_unreadable(data, text):
    with pytest.raises(ValueError, match=text) as caught:
        probe(data)
    assert "\n" not in str(caught.value)


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

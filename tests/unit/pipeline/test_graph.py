"""The DALI graph on real images against plain NumPy and Pillow: every geometry, raw and encoded, gray and RGB."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from drawstream import Catalog, IndexStream, Loader, Transform, open_source, pack
from drawstream.pipeline.decoding import decode
from drawstream.pipeline.images import draw_flips, draw_windows, pixel_windows
from drawstream.pipeline.images.draws import draw_jitter, draw_operations, draw_pad_offsets
from drawstream.pipeline.images.operations import operations
from shared.samples import PIXELS, array_catalog, member

PHOTOS = load_sample_images().images
SEED, EPOCH, N = 5, 2, 24
ROUNDING = 0.501  # of 255: resized images are rounded to whole levels
KINDS = [("raw", 1), ("raw", 3), ("png", 1), ("png", 3), ("jpeg", 1), ("jpeg", 3)]


def patches(channels, height=60, width=80):
    """Patches of two photographs; gray ones are their green channel."""
    rng = np.random.default_rng(channels)
    images = []
    for i in range(N):
        photo = PHOTOS[i % 2]
        y, x = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
        patch = photo[y : y + height, x : x + width]
        images.append(patch[..., 1] if channels == 1 else patch)
    return np.stack(images)


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """Catalogs of the same patches, by encoding and channels."""
    folder = tmp_path_factory.mktemp("graph")
    return {
        (kind, c): array_catalog(folder / f"{kind}{c}", patches(c), np.arange(N) % 3, encoding=kind, shard_rows=10)
        for kind, c in KINDS
    }


def stored(catalog):
    """All images of a catalog as stored, decoded by Pillow: list of uint8 (height, width, channels)."""
    images = []
    for row in range(len(catalog)):
        data = member(catalog, row)
        image = np.frombuffer(data, np.uint8) if catalog.encodings[row] == "raw" else decode(data)
        image = image.reshape(catalog.height[row], catalog.width[row], -1)
        images.append(np.broadcast_to(image, (*image.shape[:2], catalog.channels)))
    return images


def loaded(catalog, transform, rows=None):
    """Ids and images of an epoch, as float32 (n, H, W, C) in 0..255."""
    n = len(catalog) if rows is None else len(rows.sample_id)
    loader = Loader(catalog, IndexStream(n, seed=SEED), transform=transform, rows=rows, batch_size=7)
    loader.set_epoch(EPOCH)
    batches = list(loader)
    loader.close()
    images = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
    assert images.dtype == np.float32 and images.shape[1:3] == tuple(transform.size)
    return torch.cat([batch.ids for batch in batches]).numpy(), images * transform.std + transform.mean


def filter_matrix(n_in, n_out):
    """Linear interpolation, widened by the scale when shrinking (antialiasing); pixels beyond the border repeat it."""
    step = n_in / n_out
    radius = max(1.0, step)
    weights = np.zeros((n_out, n_in))
    for out in range(n_out):
        centre = (out + 0.5) * step
        for at in range(int(np.floor(centre - radius)) - 1, int(np.ceil(centre + radius)) + 1):
            weights[out, min(max(at, 0), n_in - 1)] += max(0.0, 1 - abs(at + 0.5 - centre) / radius)
    return weights / weights.sum(1, keepdims=True)


def resized(image, size):
    """To (height, width) in float64, not rounded."""
    rows, columns = filter_matrix(image.shape[0], size[0]), filter_matrix(image.shape[1], size[1])
    return np.einsum("yi,ijc,xj->yxc", rows, image.astype(float), columns, optimize=True)


def plain(catalog, **options):
    channels = catalog.channels
    return Transform(mean=(10.0, 20.0, 30.0)[:channels], std=(50.0, 60.0, 70.0)[:channels], **options)


def padded(image, i):
    y, x = draw_pad_offsets(SEED, EPOCH, 0, N, 6)[i] + 6
    return np.pad(image, ((6, 6), (6, 6), (0, 0)))[y : y + 60, x : x + 80]


def windowed(image, i, size=(24, 24)):
    sides = [np.full(1, side, np.int32) for side in image.shape[:2]]
    law = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    y, x, h, w = pixel_windows(draw_windows(SEED, EPOCH, i, *sides, **law), *sides)[0]
    return resized(image[y : y + h, x : x + w], size)


GEOMETRIES = {  # options, the image at position i, tolerance
    "whole": ({"size": (60, 80)}, lambda image, i: image, 1e-3),
    "resized": ({"size": (32, 40)}, lambda image, i: resized(image, (32, 40)), ROUNDING),
    "pad": ({"size": (60, 80), "crop": "pad", "pad": 6, "flip": True}, padded, 1e-3),
    "random": ({"size": (24, 24), "crop": "random", "flip": True}, windowed, ROUNDING),
    "center": (  # the shorter side to 30, then the middle
        {"size": (24, 24), "crop": "center", "resize": 30},
        lambda image, i: resized(image, (30, 40))[3:27, 8:32],
        ROUNDING,
    ),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries_and_flips(catalogs, kind, geometry):
    options, at, tolerance = GEOMETRIES[geometry]
    catalog = catalogs[kind]
    images = stored(catalog)
    ids, found = loaded(catalog, plain(catalog, **options))
    flips = draw_flips(SEED, EPOCH, 0, N)
    assert 0 < flips.sum() < N and (np.abs(draw_pad_offsets(SEED, EPOCH, 0, N, 6)) > 4).any()
    for i, row in enumerate(ids):
        expected = at(images[row], i)
        expected = expected[:, ::-1] if options.get("flip") and flips[i] else expected
        assert np.abs(found[i] - expected).max() < tolerance


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(60, 80), (24, 24)], ids=str)
@pytest.mark.parametrize("crop", ["none", "pad", "random"])
def test_raw_and_encoded_images_go_through_the_same(catalogs, channels, size, crop):
    """Raw images that keep their size are cropped and mirrored by the reader, all others by DALI: equal pixels."""
    jitter = (0.4, 0.4, 0.4, 0.1) if channels == 3 else (0.4, 0.4, 0.0, 0.0)
    strong = {"jitter": jitter, "randaugment": (2, 9)}
    changes = [{}, {"jitter": jitter}, strong, strong | {"suite": "bt"}]
    for change in changes if (crop, size) == ("pad", (60, 80)) else changes[:1]:
        raw, png = (
            loaded(catalogs[kind, channels], plain(catalogs[kind, channels], size=size, crop=crop, flip=True, **change))
            for kind in ("raw", "png")
        )
        assert (raw[0] == png[0]).all() and (raw[1] == png[1]).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("ranges", [(0.4, 0.3, 0.5, 0.2), (0.0, 0.9, 0.0, 0.0), (1.5, 0.0, 0.0, 0.0)], ids=str)
def test_jitter(catalogs, kind, ranges):
    catalog = catalogs[kind]
    if catalog.channels == 1:
        ranges = (*ranges[:2], 0.0, 0.0)
    images = stored(catalog)
    ids, found = loaded(catalog, plain(catalog, size=(60, 80), jitter=ranges))
    factors = draw_jitter(SEED, EPOCH, 0, N, ranges).astype(float)
    assert ((factors != (1, 1, 1, 0)).any(0) == (np.array(ranges) > 0)).all()
    for i, row in enumerate(ids):
        assert np.abs(found[i] - jittered(images[row].astype(float), *factors[i])).max() < ROUNDING


TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])  # NTSC


def jittered(image, brightness, contrast, saturation, hue):
    """Colours turned and stretched in the plane of I and Q, then contrast around 128, then brightness."""
    if image.shape[2] == 3:
        turn = np.deg2rad(hue)
        turned = np.array([[1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]])
        image = image @ (np.linalg.inv(TO_YIQ) @ turned @ np.diag([1, saturation, saturation]) @ TO_YIQ).T
    return np.clip(brightness * (128 + contrast * (image - 128)), 0, 255)


@pytest.mark.parametrize("kind", [("raw", 1), ("png", 3), ("jpeg", 3)], ids=str)
def test_randaugment_takes_the_operations_of_the_position(catalogs, kind):
    """What the operations do is tested by themselves; here, which image gets which, after its crop and flip."""
    catalog = catalogs[kind]
    names = operations(catalog.channels)
    options = {"size": (24, 24), "crop": "random", "flip": True}
    ids, before = loaded(catalog, plain(catalog, **options))
    again, found = loaded(catalog, plain(catalog, randaugment=(1, 30), **options))
    assert (ids == again).all()
    drawn = draw_operations(SEED, EPOCH, 0, N, 1, len(names))[:, :, 0]
    assert len(np.unique(drawn[:, 0])) > 8
    for i, (number, negative) in enumerate(drawn):
        image, change = np.rint(before[i]), np.rint(found[i])
        match names[number]:
            case "identity":
                assert (change == image).all()
            case "solarize":
                assert (change == 255 - image).all()
            case "posterize":
                assert (change == image.astype(int) // 16 * 16).all()
            case "brightness":
                assert np.abs(change - np.clip(image * (0.1 if negative else 1.9), 0, 255)).max() < ROUNDING
            case "translate_x":  # by 24 · 100/224 = 10.7 pixels
                left, right = (change[:, :10] == 128).all(), (change[:, -10:] == 128).all()
                assert (left, right) == (not negative, bool(negative))
            case _:
                assert (change != image).any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_operations_of_budgeted_training_come_before_crop_and_flip(catalogs, kind):
    """Images of which every level is inverted: the border that the crop brings in stays 0."""
    catalog = catalogs[kind]
    names, images = operations(catalog.channels, "bt"), stored(catalog)
    options = {"size": (60, 80), "crop": "pad", "pad": 6, "flip": True}
    ids, found = loaded(catalog, plain(catalog, randaugment=(1, 4), suite="bt", **options))
    flips, drawn = draw_flips(SEED, EPOCH, 0, N), draw_operations(SEED, EPOCH, 0, N, 1, len(names))[:, 0, 0]
    inverted = [i for i, number in enumerate(drawn) if names[number] in ("invert", "posterize")]
    assert inverted
    for i in inverted:
        image = images[ids[i]].astype(int)
        expected = padded(255 - image if names[drawn[i]] == "invert" else image // 128 * 128, i)
        assert np.abs(found[i] - (expected[:, ::-1] if flips[i] else expected)).max() < 1e-3


class Crops:
    """A row table: each sample at three windows, the second one mirrored."""

    fingerprint = "crops"

    def __init__(self, catalog, windows, flip):
        self.catalog, self.windows, self.flip = catalog, windows, flip
        self.sample_id = np.repeat(np.arange(len(catalog)), len(windows) // len(catalog))

    def check(self, fingerprint, where):
        assert fingerprint == self.catalog.fingerprint and where == str(self.catalog.path)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_stored_windows_are_decode_then_slice(catalogs, kind):
    """Windows of the output's own size need no resizing: the pixels are exactly those of the stored image."""
    catalog = catalogs[kind]
    images = stored(catalog)
    rng = np.random.default_rng(1)
    top, left = rng.integers(0, 60 - 24, 3 * N), rng.integers(0, 80 - 32, 3 * N)
    windows = np.stack([top / 60, left / 80, (top + 24) / 60, (left + 32) / 80], 1).astype(np.float32)
    flip = np.arange(3 * N) % 3 == 1
    ids, found = loaded(catalog, plain(catalog, size=(24, 32), crop="random", flip=True), Crops(catalog, windows, flip))
    assert sorted(ids) == list(range(3 * N))
    for i, row in enumerate(ids):
        expected = images[row // 3][top[row] : top[row] + 24, left[row] : left[row] + 32]
        assert np.abs(found[i] - (expected[:, ::-1] if flip[row] else expected)).max() < 1e-3


def test_images_of_many_sizes_and_depths(tmp_path):
    """Cameras' orientation tags, gray among colour: what DALI decodes is what Pillow shows upright."""
    folder = tmp_path / "photos" / "all"
    folder.mkdir(parents=True)
    for i in range(16):
        patch = Image.fromarray(PHOTOS[i % 2][: 50 + 7 * i, : 90 + i])
        exif = Image.Exif()
        exif[0x0112] = i % 8 + 1
        if i % 5 == 0:
            patch = patch.convert("L")
        patch.save(folder / f"{i:02d}.{'png' if i % 3 == 0 else 'jpg'}", exif=exif)
    catalog = Catalog.open(pack(open_source(tmp_path / "photos"), tmp_path / "out").train)
    images = stored(catalog)
    ids, found = loaded(catalog, plain(catalog, size=(40, 40), crop="random"))
    for i, row in enumerate(ids):
        assert np.abs(found[i] - windowed(images[row], i, (40, 40))).max() < ROUNDING


def test_digits_with_the_default_transform(tmp_path):
    catalog = array_catalog(tmp_path / "digits", PIXELS[:100], np.arange(100) % 10)
    images = np.stack(stored(catalog))
    loader = Loader(catalog, IndexStream(100))
    batch = next(iter(loader))
    expected = (images[batch.ids].astype(np.float32) - 127.5) / 127.5
    assert np.abs(batch.images.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-6
    assert loader.transform == Transform.small((8, 8), 1)

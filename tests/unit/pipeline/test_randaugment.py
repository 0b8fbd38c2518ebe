"""Each operation of RandAugment in the DALI graph against Pillow and NumPy, on patches of photographs."""

from functools import lru_cache

import numpy as np
import nvidia.dali as dali
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from drawstream.pipeline.images.randaugment import OPERATIONS, apply_operations, operations

H, W, N = 36, 48, 12
PHOTOS = load_sample_images().images
SHIFTS = np.stack([PHOTOS[i % 2][20 * i : 20 * i + H, 31 * i : 31 * i + W] for i in range(N)])
PATCHES = {3: SHIFTS, 1: np.ascontiguousarray(SHIFTS[..., 1:2])}
NEGATIVE = (np.arange(N) % 2).astype(np.int32)


@lru_cache
def pipeline(channels, layers, magnitude):
    """A graph, and the list from which it takes its inputs: to build one takes a third of a second."""
    inputs = []

    def graph():
        kinds = [dali.types.UINT8, dali.types.INT32, dali.types.INT32]
        data, number, sign = dali.fn.external_source(
            source=lambda: inputs, num_outputs=3, dtype=kinds, ndim=[3, 1, 1], layout=["HWC", "", ""]
        )
        options = {"layers": layers, "magnitude": magnitude, "channels": channels}
        return apply_operations(data, number, sign, size=(H, W), **options)

    built = dali.pipeline_def(graph, enable_conditionals=True)(
        batch_size=N, num_threads=1, device_id=None, prefetch_queue_depth=1
    )
    built.build()
    return built, inputs


def run(images, numbers, negative, magnitude):
    """Images after the operations of each; `numbers` and `negative` are (n, layers)."""

    built, inputs = pipeline(images.shape[3], numbers.shape[1], magnitude)
    inputs[:] = images, numbers.astype(np.int32), negative.astype(np.int32)
    return built.run()[0].as_array()


def found(name, channels, magnitude, negative=NEGATIVE):
    number = np.full((N, 1), OPERATIONS.index(name))
    return run(PATCHES[channels], number, negative[:, None], magnitude)


def warped(image, matrix):
    """The image moved by the matrix (2, 3) of output to input pixel centres; linear between pixels, 128 outside."""
    y, x = np.mgrid[:H, :W] + 0.5
    u, v = (matrix @ np.stack([x.ravel(), y.ravel(), np.ones(H * W)]) - 0.5).reshape(2, H, W)
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), constant_values=128)
    padded = np.pad(padded, ((80, 80), (80, 80), (0, 0)), constant_values=128)
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    b, a = (v - i)[..., None], (u - j)[..., None]
    at = lambda di, dj: padded[i + 81 + di, j + 81 + dj]  # noqa: E731
    return (at(0, 0) * (1 - a) + at(0, 1) * a) * (1 - b) + (at(1, 0) * (1 - a) + at(1, 1) * a) * b


def matrix(name, amount):
    """Output to input: rotation by degrees, shear, translation as a part of the side."""
    if name == "rotate":
        turn = np.deg2rad(amount)
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        centre = np.array([W / 2, H / 2])
        return np.column_stack([linear, centre - linear @ centre])
    forward = np.eye(3)
    where = {"shear_x": (0, 1), "shear_y": (1, 0), "translate_x": (0, 2), "translate_y": (1, 2)}[name]
    forward[where] = amount * {"translate_x": W, "translate_y": H}.get(name, 1)
    return np.linalg.inv(forward)[:2]


RANGES = {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 100 / 224, "translate_y": 100 / 224}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [9, 30])
def test_moved_images(name, channels, magnitude):
    """Linear interpolation: within the rounding of a level, and of the coordinates."""
    sign = 1 - 2 * NEGATIVE
    images = found(name, channels, magnitude)
    for i in range(N):
        expected = warped(PATCHES[channels][i], matrix(name, sign[i] * RANGES[name] * magnitude / 30))
        assert np.abs(images[i] - expected).max() < 1.01


def pillow(image, change):
    out = np.asarray(change(Image.fromarray(image if image.shape[2] == 3 else image[..., 0])), float)
    return out.reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_enhanced_images(name, channels, magnitude):
    """Pillow rounds its degenerate image to whole levels before it mixes (up to 1.9 times half a level)."""
    if name not in operations(channels):
        pytest.skip("gray images have no colour")
    images = found(name, channels, magnitude).astype(float)
    assert (magnitude == 0) == (images == PATCHES[channels]).all()
    kind = {"color": "Color"}.get(name, name.capitalize())
    for i in range(N):
        factor = 1 + (1 - 2 * NEGATIVE[i]) * 0.9 * magnitude / 30
        expected = pillow(PATCHES[channels][i], lambda image: getattr(ImageEnhance, kind)(image).enhance(factor))  # noqa: B023
        inside = (slice(1, -1), slice(1, -1)) if name == "sharpness" else ()
        assert np.abs(images[i][inside] - expected[inside]).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_images_in_fewer_levels(channels, magnitude):
    bits = int(np.round(8 - 4 * np.float32(magnitude) / 30))
    images = found("posterize", channels, magnitude)
    for i in range(N):
        assert (images[i] == pillow(PATCHES[channels][i], lambda image: ImageOps.posterize(image, bits))).all()
    threshold = 256 * (1 - magnitude / 30)
    images = found("solarize", channels, magnitude)
    for i in range(N):
        assert (images[i] == pillow(PATCHES[channels][i], lambda image: ImageOps.solarize(image, threshold))).all()


def equalized(image):
    """OpenCV's law: levels to (cumulative count - count of the lowest) · 255 / (pixels - count of the lowest)."""
    out = np.empty_like(image)
    for c in range(image.shape[2]):
        counts = np.bincount(image[..., c].ravel(), minlength=256)
        lowest = counts[counts > 0][0]
        table = np.clip((np.cumsum(counts) - lowest) * 255 / (counts.sum() - lowest), 0, 255)
        out[..., c] = np.rint(table)[image[..., c]]
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_stretched_images(channels):
    images = found("auto_contrast", channels, 9).astype(float)
    for i in range(N):
        assert np.abs(images[i] - pillow(PATCHES[channels][i], ImageOps.autocontrast)).max() <= 1
    images = found("equalize", channels, 9).astype(float)
    for i in range(N):
        assert np.abs(images[i] - equalized(PATCHES[channels][i])).max() <= 1
    assert (found("identity", channels, 30) == PATCHES[channels]).all()


def test_flat_images_stay_finite():
    flat = np.full((N, H, W, 3), 77, np.uint8)
    for name in ("auto_contrast", "equalize", "contrast"):
        number = np.full((N, 1), OPERATIONS.index(name))
        assert (run(flat, number, NEGATIVE[:, None], 9) == 77).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_goes_through_its_own_operations(channels):
    """All pairs of layers: two operations at once are one after the other, each with its own sign."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, len(operations(channels)), (N, 2))
    negative = rng.integers(0, 2, (N, 2))
    both = run(PATCHES[channels], numbers, negative, 9)
    first = run(PATCHES[channels], numbers[:, :1], negative[:, :1], 9)
    assert (both == run(first, numbers[:, 1:], negative[:, 1:], 9)).all()
    alone = [run(PATCHES[channels][i : i + 1], numbers[i : i + 1], negative[i : i + 1], 9)[0] for i in range(0, N, 5)]
    assert (both[::5] == np.stack(alone)).all()

"""Each operation of RandAugment in the DALI graph against Pillow and NumPy, on patches of photographs."""

from functools import lru_cache

import numpy as np
import nvidia.dali as dali
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from drawstream.pipeline.images import Transform
from drawstream.pipeline.images.draws import draw_holes, draw_operations
from drawstream.pipeline.images.operations import BT_OPERATIONS, OPERATIONS, operations
from drawstream.pipeline.images.randaugment import apply_operations

H, W, N = 36, 48, 12
PHOTOS = load_sample_images().images
SHIFTS = np.stack([PHOTOS[i % 2][20 * i : 20 * i + H, 31 * i : 31 * i + W] for i in range(N)])
PATCHES = {3: SHIFTS, 1: np.ascontiguousarray(SHIFTS[..., 1:2])}
NEGATIVE = (np.arange(N) % 2).astype(np.int32)


@lru_cache
def pipeline(channels, layers, magnitude, suite):
    """A graph, and the list from which it takes its inputs: to build one takes a third of a second."""
    inputs = []
    kinds = [(dali.types.UINT8, 3, "HWC"), (dali.types.INT32, 1, ""), (dali.types.INT32, 1, "")]
    names = ["operations", "negative"]
    if suite is not None:
        kinds, names = [*kinds, (dali.types.FLOAT, 2, "")], [*names, "holes"]
    dtype, ndim, layout = (list(each) for each in zip(*kinds, strict=True))
    given = {"num_outputs": len(kinds), "dtype": dtype, "ndim": ndim, "layout": layout}

    def graph():
        data, *drawn = dali.fn.external_source(source=lambda: inputs, **given)
        half = (127.5,) * channels
        transform = Transform((H, W), half, half, randaugment=(layers, magnitude), suite=suite)
        return apply_operations(data, {names[i]: drawn[i] for i in range(len(names))}, transform, channels=channels)

    built = dali.pipeline_def(graph, enable_conditionals=True)(
        batch_size=N, num_threads=1, device_id=None, prefetch_queue_depth=1
    )
    built.build()
    return built, inputs


def run(images, numbers, negative, magnitude, suite=None, holes=None):
    """Images after the operations of each; `numbers` and `negative` are (n, layers), `holes` (n, layers, 2)."""

    built, inputs = pipeline(images.shape[3], numbers.shape[1], magnitude, suite)
    inputs[:] = images, numbers.astype(np.int32), negative.astype(np.int32), *([] if suite is None else [holes])
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


HOLES = np.random.default_rng(3).random((N, 1, 2), dtype=np.float32)


def found_bt(name, channels, magnitude):
    number = np.full((N, 1), BT_OPERATIONS.index(name))
    return run(PATCHES[channels], number, NEGATIVE[:, None], magnitude, "bt", HOLES).astype(float)


def scaled(magnitude, low, high):
    return low + (high - low) * magnitude / 30


def brightened(image, magnitude):
    brighter = np.minimum(image.astype(int) + int(scaled(magnitude, 0, 110)), 255).astype(np.uint8)
    return pillow(brighter, lambda each: ImageOps.solarize(each, 128))


def holed(image, magnitude, hole):
    """A square of side v, drawn with both its ends, cut off at the border."""
    image, v = image.copy(), scaled(magnitude, 0, 40)
    y, x = (int(max(0, part * side - v / 2)) for part, side in zip(hole, (H, W), strict=True))
    image[y : int(y + v) + 1, x : int(x + v) + 1] = (125, 123, 114) if image.shape[2] == 3 else 123
    return image


BT_CHANGES = {  # tolerance in levels, and the image after the operation
    "invert": (0, lambda image, m: 255 - image.astype(float)),
    "posterize": (0, lambda image, m: pillow(image, lambda i: ImageOps.posterize(i, max(1, int(scaled(m, 0, 4)))))),
    "solarize": (0, lambda image, m: pillow(image, lambda i: ImageOps.solarize(i, scaled(m, 0, 256)))),
    "solarize_add": (0, brightened),
    "brightness": (
        2,
        lambda image, m: pillow(image, lambda i: ImageEnhance.Brightness(i).enhance(scaled(m, 0.1, 1.9))),
    ),
    "contrast": (2, lambda image, m: pillow(image, lambda i: ImageEnhance.Contrast(i).enhance(scaled(m, 0.1, 1.9)))),
    "color": (2, lambda image, m: pillow(image, lambda i: ImageEnhance.Color(i).enhance(scaled(m, 0.1, 1.9)))),
    "sharpness": (2, lambda image, m: pillow(image, lambda i: ImageEnhance.Sharpness(i).enhance(scaled(m, 0.1, 1.9)))),
    "auto_contrast": (1, lambda image, m: pillow(image, ImageOps.autocontrast)),
    "equalize": (1, lambda image, m: equalized(image)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 4, 14, 30])
@pytest.mark.parametrize("name", BT_CHANGES)
def test_levels_under_the_operations_of_budgeted_training(name, channels, magnitude):
    if name not in operations(channels, "bt"):
        pytest.skip("gray images have no colour")
    tolerance, change = BT_CHANGES[name]
    inside = (slice(1, -1), slice(1, -1)) if name == "sharpness" else ()
    for image, after in zip(PATCHES[channels], found_bt(name, channels, magnitude), strict=True):
        assert np.abs(after[inside] - change(image, magnitude)[inside]).max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 4, 30])
def test_holes_are_where_they_are_drawn(channels, magnitude):
    images = found_bt("cutout", channels, magnitude)
    for i, after in enumerate(images):
        assert (after == holed(PATCHES[channels][i], magnitude, HOLES[i, 0])).all()


@pytest.mark.parametrize("magnitude", [4, 9])
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_translations_are_in_pixels_whatever_the_size(name, magnitude):
    """13 of 36 or 48 pixels at M = 4; black comes in from outside."""
    axis, moved = 2 if name == "translate_x" else 1, round(scaled(magnitude, 0, 100))
    expected = np.zeros_like(SHIFTS)
    for i, image in enumerate(SHIFTS):
        shift = -moved if NEGATIVE[i] else moved
        expected[i] = np.roll(image, shift, axis - 1)
        edge = slice(0, shift) if shift > 0 else slice(shift, None)
        expected[i][(slice(None),) * (axis - 1) + (edge,)] = 0
    assert (found_bt(name, 3, magnitude) == expected).all()


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_turned_images_of_budgeted_training(name):
    """Nearest pixels of the image, black outside: nearly all as in the reference, whose halves may round elsewhere."""
    images, y, x = found_bt(name, 3, 4), *np.mgrid[:H, :W] + 0.5
    for i, after in enumerate(images):
        amount = (1 - 2 * NEGATIVE[i]) * RANGES[name] * 4 / 30
        u, v = matrix(name, amount) @ np.stack([x.ravel(), y.ravel(), np.ones(H * W)])
        j, k = np.floor(v).astype(int).reshape(H, W), np.floor(u).astype(int).reshape(H, W)
        inside = (j >= 0) & (j < H) & (k >= 0) & (k < W)
        expected = np.where(inside[..., None], SHIFTS[i][j.clip(0, H - 1), k.clip(0, W - 1)], 0)
        assert (after == expected).all(2).mean() > 0.96


def test_the_operations_of_budgeted_training_are_about_three_times_as_strong():
    """At N = 2, M = 4, the published setting: mean change of a level, over the same photographs."""
    changes = []
    for suite in (None, "bt"):
        strength = []
        for epoch in range(25):
            drawn = draw_operations(5, epoch, 0, N, 2, len(operations(3, suite)))
            after = run(SHIFTS, drawn[:, 0], drawn[:, 1], 4, suite, draw_holes(5, epoch, 0, N, 2))
            strength.append(np.abs(after.astype(float) - SHIFTS).mean())
        changes.append(np.mean(strength))
    assert 2 < changes[1] / changes[0] < 4.5

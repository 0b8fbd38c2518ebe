"""Masks and boxes follow their images: window, turn, size, padding and flip are those of the images, by Pillow."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from drawstream import Catalog, IndexStream, Loader, Transform, index
from drawstream.pipeline.fields import NO_MASK, encode_value
from drawstream.pipeline.images import draw_flips, draw_windows, pixel_windows
from drawstream.pipeline.images.draws import draw_pad_offsets
from drawstream.pipeline.shards import Selection
from shared.samples import encoded, turned_exif, write_tar

N, SEED, PAD = 12, 3, 5
EDGE = 1e-3  # of a pixel: nearer to an edge either pixel is the nearest one
GEOMETRIES = ("none", "pad", "random", "center")
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation → Pillow's transposition


def upright(array, orientation):
    image = Image.fromarray(array.astype(np.int32))
    return image if orientation == 1 else image.transpose(Image.Transpose(TURNS[orientation]))


def mask_file(mask, kind, rng):
    """A mask as PNG: gray of 8 or 16 bits, a palette of 8 or 4 bits, or one bit."""
    if kind == "one":
        return encoded(mask > 0, "PNG")
    if kind.startswith("palette"):
        image = Image.fromarray(mask.astype(np.uint8))
        palette = Image.frombytes("P", image.size, image.tobytes())
        palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        with tempfile.TemporaryFile() as file:
            palette.save(file, "PNG", bits=4 if kind == "palette4" else 8)
            file.seek(0)
            return file.read()
    return encoded(mask.astype(np.uint16 if kind == "gray16" else np.uint8), "PNG")


MOST = {"one": 2, "palette4": 16, "palette": 256, "gray": 256, "gray16": 65536}


def samples(rng, same):
    """Images of random sizes and turns; a mask, and two boxes of whole pixels which may have no area."""
    for i in range(N):
        height, width = (40, 56) if same else rng.integers(20, 120, 2)
        kind = rng.choice(list(MOST))
        mask = rng.integers(0, MOST[kind], (height, width))
        corners = np.sort(rng.integers(0, (width + 1, height + 1), (2, 2, 2)), axis=1)
        orientation = int(rng.integers(1, 9)) if not same else 1
        image = np.minimum(mask, 255).astype(np.uint8)
        painted = np.zeros((height, width), np.uint8)
        (x0, y0), (x1, y1) = corners[0]
        painted[y0:y1, x0:x1] = 1
        exif = {"exif": turned_exif(orientation)} if orientation > 1 else {}
        yield {
            "key": f"{i:03d}", "image": encoded(image, "PNG", **exif), "mask": mask, "turn": orientation, "kind": kind,
            "boxes": corners.reshape(2, 4), "painted": painted,
        }  # fmt: skip


def catalog_of(folder, made, rng):
    files = []
    for each in made:
        members = {
            "png": each["image"],
            "seg.png": mask_file(each["mask"], each["kind"], rng),
            "paint.png": encode_value("paint.png", each["painted"]),
            "json": encode_value("json", {"objects": {"boxes": each["boxes"].tolist()}}),
        }
        files += [(f"{each['key']}.{name}", data) for name, data in members.items()]
    write_tar(folder / "a.tar", *files)
    return Catalog.open(index(folder, selection=Selection(label="none", fields=("seg.png", "paint.png", "json"))))


def loaded(catalog, crop, size, backend, mask):
    transform = Transform(size, (0.0,), (1.0,), crop=crop, pad=PAD, flip=True, resize=max(size) + 7)
    stream = IndexStream(len(catalog), seed=SEED)
    loader = Loader(
        catalog, stream, transform=transform, batch_size=5, backend=backend, mask=mask, boxes="json:objects.boxes"
    )
    batches = list(loader)
    loader.close()
    ids = torch.cat([batch.ids for batch in batches]).tolist()
    masks = torch.cat([batch.fields[mask] for batch in batches])
    assert masks.dtype == torch.int64 and masks.shape == (len(catalog), *size)
    boxes = [each for batch in batches for each in batch.fields["json:objects.boxes"]]
    images = torch.cat([batch.images for batch in batches])[:, 0]
    return ids, images.numpy(), masks.numpy(), boxes


def windows_of(position, image, crop, size):
    """Region of the upright image (left, top, right, bottom) that becomes so many pixels (height, width)."""
    height, width = image.height, image.width
    sides = [np.full(1, side, np.int32) for side in (height, width)]
    if crop == "random":
        law = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
        y, x, h, w = pixel_windows(draw_windows(SEED, 0, position, *sides, **law), *sides)[0].tolist()
        return (x, y, x + w, y + h), size
    if crop == "center":
        scale = (max(size) + 7) / min(height, width)
        to = tuple(int(np.floor(side * scale + 0.5)) for side in (height, width))
        h, w = (side / scale for side in to)
        return ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2), to
    return (0, 0, width, height), size


def candidates(image, region, to):
    """The nearest pixels to each pixel of the output: (4, height, width), of which most are the same."""
    left, top, right, bottom = region
    places = []
    for begin, end, count, length in ((top, bottom, to[0], image.height), (left, right, to[1], image.width)):
        at = begin + (np.arange(count) + 0.5) * (end - begin) / count
        places.append([np.floor(at + shift).astype(int).clip(0, length - 1) for shift in (-EDGE, EDGE)])
    pixels = np.asarray(image)
    return np.stack([pixels[rows[:, None], columns] for rows in places[0] for columns in places[1]])


def expected(position, mask, orientation, crop, size):
    """The mask at a position by Pillow, and what else may be there where two pixels are as near."""
    image = upright(mask, orientation)
    region, to = windows_of(position, image, crop, size)
    edged = Image.fromarray(np.pad(np.asarray(image), 1, "edge"))  # Pillow takes no region from beyond the border
    found = np.asarray(edged.resize(to[::-1], Image.Resampling.NEAREST, box=[side + 1 for side in region]))
    others = candidates(image, region, to)
    if crop == "pad":
        y, x = draw_pad_offsets(SEED, 0, position, 1, PAD)[0] + PAD
        cut = (slice(y, y + size[0]), slice(x, x + size[1]))
        found = np.pad(found, PAD, constant_values=NO_MASK)[cut]
        others = np.pad(others, ((0, 0), (PAD, PAD), (PAD, PAD)), constant_values=NO_MASK)[:, *cut]
    elif crop == "center":
        y, x = ((of - side + 1) // 2 for of, side in zip(to, size, strict=True))
        found, others = found[y : y + size[0], x : x + size[1]], others[:, y : y + size[0], x : x + size[1]]
    step = -1 if draw_flips(SEED, 0, position, 1)[0] else 1
    return found[:, ::step], others[:, :, ::step]


@pytest.mark.parametrize("backend", ["dali", "pillow"])
@pytest.mark.parametrize("crop", GEOMETRIES)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([(24, 24), (33, 20), (40, 56)]))
@settings(deadline=None, max_examples=3)
def test_masks_follow_their_images(backend, crop, number, same, size):
    rng = np.random.default_rng(number)
    with tempfile.TemporaryDirectory() as folder:
        made = list(samples(rng, same))
        catalog = catalog_of(Path(folder), made, rng)
        ids, images, masks, _ = loaded(catalog, crop, size, backend, "seg.png")
    for position, row in enumerate(ids):
        mask, most = made[row]["mask"], MOST[made[row]["kind"]]
        found, others = expected(position, mask, made[row]["turn"], crop, size)
        clear = (others == others[0]).all(0)
        assert (masks[position] == found)[clear].all(), (crop, made[row]["kind"], made[row]["turn"])
        assert (masks[position] == others).any(0).all()
        if same and size == (40, 56) and crop in ("none", "pad"):  # the image is the mask, and nothing was resized
            inside = np.minimum(masks[position], 255)
            assert (images[position] == np.where(inside == NO_MASK, 0, inside)).all() and most


@pytest.mark.parametrize("backend", ["dali", "pillow"])
@pytest.mark.parametrize("crop", GEOMETRIES)
@given(st.integers(0, 2**32), st.sampled_from([(24, 24), (33, 20)]))
@settings(deadline=None, max_examples=2)
def test_boxes_are_where_their_pixels_are(backend, crop, number, size):
    """A pixel has the colour of a painted box just where its centre lies in the box."""
    rng = np.random.default_rng(number)
    with tempfile.TemporaryDirectory() as folder:
        made = list(samples(rng, same=False))
        catalog = catalog_of(Path(folder), made, rng)
        ids, _, masks, boxes = loaded(catalog, crop, size, backend, "paint.png")
    y, x = (np.arange(side) + 0.5 for side in size)
    for position, row in enumerate(ids):
        xyxy, kept = (each.numpy() for each in boxes[position])
        stored = made[row]["boxes"]
        assert xyxy.dtype == np.float32 and kept.dtype == np.int64 and len(xyxy) == len(kept)
        assert (xyxy[:, 2:] > xyxy[:, :2]).all() and (xyxy >= 0).all() and (xyxy <= size[::-1] * 2).all()
        assert not ((stored[kept, 2:] - stored[kept, :2]) <= 0).any() and set(kept.tolist()) <= {0, 1}
        x0, y0, x1, y1 = xyxy[0] if 0 in kept else np.zeros(4)
        within = ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1))
        near = (np.abs(y[:, None] - (y0, y1)).min(1) < EDGE)[:, None] | (np.abs(x[:, None] - (x0, x1)).min(1) < EDGE)
        image = masks[position] != NO_MASK
        assert ((masks[position] == 1) == within)[image & ~near].all(), (crop, made[row]["turn"])
